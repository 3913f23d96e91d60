//! What a viewer says of what came: by transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01) where it gives that, else by its
//! receiver reports (RFC 3550 6.4.1).

use std::collections::VecDeque;
use std::time::Duration;

use culvert_formats::rtp::rtcp::Ntp;
use str0m::rtp::rtcp::{ReceptionReport, Twcc};
use tokio::time::Instant;

use crate::budget::Report;

/// Reports of ours that an answer may be about.
const REPORTS: usize = 8;
/// The number of a session's first packet: one that was told of wrongly is not before the first of all numbers.
pub(crate) const FIRST: u64 = 1 << 16;

/// Packets that feedback was about.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    packets: u64,
    /// How many of them came.
    came: u64,
}

/// What was heard.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// The number behind the highest that was told of.
    highest: u64,
    /// Since the last look, and between that and the one before.
    wide: [Told; 2],
    /// The part of the pictures that was lost, by the newest report.
    lost: Option<f32>,
    rtt: Option<Duration>,
    /// When which report went out: the middle of its time's 64 bits, and the moment.
    told: VecDeque<(u32, Instant)>,
}

impl Default for Arrived {
    fn default() -> Arrived {
        Arrived { highest: FIRST, wide: [Told::default(); 2], lost: None, rtt: None, told: VecDeque::new() }
    }
}

impl Arrived {
    /// Feedback on packets, of which the next that goes has the number `next`.
    pub(crate) fn hear_wide(&mut self, now: Instant, feedback: Twcc, next: u64) {
        for (number, _, at) in feedback.into_iter(now.into_std(), self.highest.into()) {
            // What has not gone has not come.
            if !(FIRST..next).contains(&*number) {
                return;
            }
            let [told, _] = &mut self.wide;
            told.packets += 1;
            told.came += u64::from(at.is_some());
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
    pub(crate) fn tell(&mut self, now: Instant, ntp: Ntp) {
        if self.told.len() >= REPORTS {
            self.told.pop_front();
        }
        self.told.push_back((ntp.middle(), now));
    }

    /// Looks at what was heard: the loss is that of the time since the last look but one, or since the last report. What feedback did not speak of
    /// was not lost: the feedback was.
    pub(crate) fn look(&mut self) -> Report {
        let [since, before] = self.wide;
        self.wide = [Told::default(), since];
        let (packets, came) = (since.packets + before.packets, since.came + before.came);
        let wide = (packets > 0).then(|| 1.0 - came as f32 / packets as f32);
        let lost = self.lost.take();
        Report { loss: wide.or(lost), rtt: self.rtt }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feedback on up to 14 packets from this one on, of which the marked ones came, each 250 us after the one before (3.1 there).
    fn feedback(first: u16, came: &[bool]) -> Twcc {
        let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 7];
        bytes.extend(first.to_be_bytes());
        bytes.extend((came.len() as u16).to_be_bytes());
        bytes.extend([0, 0, 9, 1]);
        let marks = (0u16..).zip(came).fold(0, |marks, (at, came)| marks | u16::from(*came) << (13 - at));
        bytes.extend((0x8000 | marks).to_be_bytes());
        bytes.extend(came.iter().filter(|came| **came).map(|_| 1));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Twcc::try_from(&bytes[..]).unwrap()
    }

    fn report(last_sr_time: u32, last_sr_delay: u32, fraction_lost: u8) -> ReceptionReport {
        ReceptionReport {
            ssrc: 7.into(),
            fraction_lost,
            packets_lost: 0,
            max_seq: 0,
            jitter: 0,
            last_sr_time,
            last_sr_delay,
        }
    }

    #[test]
    fn loss_is_of_what_was_spoken_of_and_of_the_last_two_looks() {
        let (mut arrived, now) = (Arrived::default(), Instant::now());
        arrived.hear_wide(now, feedback(0, &[true, false, true, true]), FIRST + 100);
        // Four packets in between were in feedback that was lost.
        arrived.hear_wide(now, feedback(8, &[true; 4]), FIRST + 100);
        assert_eq!(arrived.look().loss, Some(0.125));
        arrived.hear_wide(now, feedback(12, &[false; 8]), FIRST + 100);
        assert_eq!(arrived.look().loss, Some(9.0 / 16.0));
        assert_eq!((arrived.look().loss, arrived.look().loss), (Some(1.0), None));
        // Of what was never sent nothing is learnt.
        arrived.hear_wide(now, feedback(99, &[true, false, false]), FIRST + 100);
        assert_eq!(arrived.look().loss, Some(0.0));
    }

    #[test]
    fn where_there_is_no_feedback_reports_say_it() {
        let (mut arrived, now) = (Arrived::default(), Instant::now());
        arrived.tell(now, Ntp(0x1_0002_0000));
        arrived.hear_report(now + Duration::from_millis(300), &report(0x1_0002, 65_536 / 4, 64), true);
        let seen = arrived.look();
        assert_eq!((seen.loss, seen.rtt), (Some(0.25), Some(Duration::from_millis(50))));
        arrived.hear_report(now, &report(0x1_0002, u32::MAX, 255), false);
        arrived.hear_report(now, &report(77, 0, 0), false);
        let seen = arrived.look();
        assert_eq!((seen.loss, seen.rtt), (None, Some(Duration::ZERO)), "sound says nothing of pictures");
    }

    proptest! {
        #[test]
        fn nothing_panics(first: u16, came in prop::collection::vec(any::<bool>(), 0..14), next in FIRST..FIRST << 3) {
            let mut arrived = Arrived::default();
            for first in [first, first.wrapping_add(40_000), 65_530] {
                arrived.hear_wide(Instant::now(), feedback(first, &came), next);
                prop_assert!(arrived.look().loss.is_none_or(|loss| (0.0..=1.0).contains(&loss)));
            }
        }
    }
}
