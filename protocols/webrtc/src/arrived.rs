//! What a viewer says of what came: by transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01) where it gives that, else by its
//! receiver reports (RFC 3550 6.4.1).

use std::collections::VecDeque;
use std::time::Duration;

use culvert_formats::rtp::feedback::Wide;
use culvert_formats::rtp::rtcp::{Block, Ntp};
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
    /// Feedback on packets, of which the next that goes has the number `next`. Of each packet the first word counts.
    pub(crate) fn hear_wide(&mut self, feedback: &Wide, next: u64) {
        // The newest of this number.
        let mut at = next.saturating_sub(u64::from((next as u16).wrapping_sub(feedback.first)));
        for (length, came) in &feedback.runs {
            // What has not gone has not come.
            let end = (at + u64::from(*length)).min(next);
            let new = end.saturating_sub(at.max(self.highest));
            let [told, _] = &mut self.wide;
            told.packets += new;
            told.came += if *came { new } else { 0 };
            self.highest = self.highest.max(end);
            at = end;
        }
    }

    /// A report on one of our tracks.
    pub(crate) fn hear_report(&mut self, now: Instant, report: &Block, of_pictures: bool) {
        if of_pictures {
            self.lost = Some(f32::from(report.fraction_lost) / 256.0);
        }
        let Some((_, at)) = self.told.iter().find(|(middle, _)| *middle == report.last_report) else { return };
        let held = Duration::from_micros(u64::from(report.since_last) * 1_000_000 / 65_536);
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
        Report { loss: wide.or(lost), rtt: self.rtt.take() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feedback(first: u16, came: &[bool]) -> Wide {
        Wide { first, runs: came.iter().map(|came| (1, *came)).collect() }
    }

    #[test]
    fn loss_is_of_what_was_spoken_of_and_of_the_last_two_looks() {
        let (mut arrived, next) = (Arrived::default(), FIRST + 100);
        arrived.hear_wide(&feedback(0, &[true, false, true, true]), next);
        // Four packets in between were in feedback that was lost.
        arrived.hear_wide(&feedback(8, &[true; 4]), next);
        assert_eq!(arrived.look().loss, Some(0.125));
        arrived.hear_wide(&feedback(10, &[false; 10]), next);
        assert_eq!(arrived.look().loss, Some(9.0 / 16.0), "each counts once");
        assert_eq!((arrived.look().loss, arrived.look().loss), (Some(1.0), None));
        // Of what was never sent nothing is learnt.
        arrived.hear_wide(&feedback(99, &[true, false, false]), next);
        assert_eq!((arrived.highest, arrived.look().loss), (next, Some(0.0)));
        // Numbers go on where 16 bits end.
        let mut arrived = Arrived { highest: FIRST - 3, ..Arrived::default() };
        arrived.hear_wide(&feedback(0xfffd, &[true; 6]), next);
        assert_eq!(arrived.highest, FIRST + 3);
    }

    #[test]
    fn where_there_is_no_feedback_reports_say_it() {
        let (mut arrived, now) = (Arrived::default(), Instant::now());
        let report = |last_report, since_last, fraction_lost| Block {
            ssrc: 7,
            fraction_lost,
            last_report,
            since_last,
            ..Block::default()
        };
        arrived.tell(now, Ntp(0x1_0002_0000));
        arrived.hear_report(now + Duration::from_millis(300), &report(0x1_0002, 65_536 / 4, 64), true);
        let seen = arrived.look();
        assert_eq!((seen.loss, seen.rtt), (Some(0.25), Some(Duration::from_millis(50))));
        assert_eq!(arrived.look().rtt, None, "it was measured once");
        arrived.hear_report(now, &report(0x1_0002, u32::MAX, 255), false);
        arrived.hear_report(now, &report(77, 0, 0), false);
        let seen = arrived.look();
        assert_eq!((seen.loss, seen.rtt), (None, Some(Duration::ZERO)), "sound says nothing of pictures");
    }

    proptest! {
        #[test]
        fn nothing_panics(
            feedback in prop::collection::vec((any::<u16>(), prop::collection::vec((any::<u16>(), any::<bool>()), 0..9)), 0..9),
            next in FIRST..FIRST << 3,
        ) {
            let mut arrived = Arrived::default();
            for (first, runs) in feedback {
                arrived.hear_wide(&Wide { first, runs }, next);
                prop_assert!(arrived.highest <= next);
                prop_assert!(arrived.look().loss.is_none_or(|loss| (0.0..=1.0).contains(&loss)));
            }
        }
    }
}
