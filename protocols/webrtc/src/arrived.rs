//! What a viewer says of what came: by transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01) where it gives that, else by its
//! receiver reports (RFC 3550 6.4.1).

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use str0m::rtp::rtcp::{ReceptionReport, Twcc};
use tokio::time::Instant;

use crate::budget::Report;

/// Reports of ours that an answer may be about.
const REPORTS: usize = 8;
/// The number of a session's first packet: one that was told of wrongly is not before the first of all numbers.
pub(crate) const FIRST: u64 = 1 << 16;
/// Seconds from the beginning of NTP's time to that of the system's (RFC 5905 6).
const NTP_UNIX: u64 = 2_208_988_800;

/// What was heard.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// The number behind the highest that was told of, and as it was two looks and one look ago.
    highest: u64,
    before: [u64; 2],
    /// How many came since the last look, and between that and the one before.
    came: u64,
    came_before: u64,
    /// The part of the pictures that was lost, by the newest report.
    lost: Option<f32>,
    rtt: Option<Duration>,
    /// When which report went out: the middle of its time's 64 bits, and the moment.
    told: VecDeque<(u32, Instant)>,
}

impl Default for Arrived {
    fn default() -> Arrived {
        Arrived {
            highest: FIRST,
            before: [FIRST; 2],
            came: 0,
            came_before: 0,
            lost: None,
            rtt: None,
            told: VecDeque::new(),
        }
    }
}

impl Arrived {
    /// Feedback on packets, of which the next that goes has the number `next`.
    pub(crate) fn hear_wide(&mut self, now: Instant, feedback: Twcc, next: u64) {
        for (number, _, at) in feedback.into_iter(now.into_std(), self.highest.into()) {
            // What has not gone has not come.
            if *number >= next {
                return;
            }
            self.came += u64::from(at.is_some());
            self.highest = self.highest.max(*number + 1);
        }
    }

    /// A report on one of our tracks.
    pub(crate) fn hear_report(&mut self, now: Instant, report: &ReceptionReport, of_pictures: bool) {
        if of_pictures {
            self.lost = Some(f32::from(report.fraction_lost) / 256.0);
        }
        let Some((_, at)) = self.told.iter().find(|(middle, _)| *middle == report.last_sr_time) else { return };
        let held = Duration::from_micros(u64::from(report.last_sr_delay) * 1_000_000 / 65_536);
        self.rtt = Some(now.saturating_duration_since(*at).saturating_sub(held));
    }

    /// A report of this time went out.
    pub(crate) fn tell(&mut self, now: Instant, ntp: u64) {
        if self.told.len() >= REPORTS {
            self.told.pop_front();
        }
        self.told.push_back(((ntp >> 16) as u32, now));
    }

    /// Looks at what was heard: the loss is that of the time since the last look but one, or since the last report.
    pub(crate) fn look(&mut self) -> Report {
        let [before, _] = self.before;
        let (expected, came) = (self.highest - before, self.came + self.came_before);
        self.before = [self.before[1], self.highest];
        self.came_before = std::mem::take(&mut self.came);
        let lost = self.lost.take();
        let wide = (expected > 0).then(|| 1.0 - came.min(expected) as f32 / expected as f32);
        Report { loss: wide.or(lost), rtt: self.rtt }
    }
}

/// A moment as NTP has it: seconds, and parts of one in the low half.
pub(crate) fn ntp(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let part = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    (since.as_secs() + NTP_UNIX) << 32 | part
}
