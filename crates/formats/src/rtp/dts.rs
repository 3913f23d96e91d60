//! Decoding times, which RTP does not carry: packets come in decoding order, and say when a picture is shown.

use culvert_media::Time;

/// Deepest reordering (ITU-T H.264 A.3.1: max_dec_frame_buffering).
const MOST: usize = 16;
/// A step of presentation times beyond this is no reordering.
const JUMP: Time = Time::from_millis(3000);

/// Makes decoding times for the pictures of a track.
///
/// In decoding order, the n-th decoding time is the n-th smallest presentation time, so much earlier that no picture is shown before it
/// is decoded: as many pictures as the coding reorders.
#[derive(Clone, Debug)]
pub(super) struct Dts {
    /// How many pictures may be shown before one that was decoded earlier.
    depth: usize,
    /// The length of a picture, to begin with.
    step: Time,
    /// Presentation times that are not yet decoding times, in order.
    pending: Vec<Time>,
    last: Option<Time>,
    newest: Option<Time>,
}

impl Dts {
    /// `depth`: of the parameter sets, where they say so.
    pub(super) fn new(depth: Option<usize>, fps: Option<f64>) -> Dts {
        let step = fps.filter(|fps| *fps >= 1.0).map_or(40_000.0, |fps| 1_000_000.0 / fps);
        Dts {
            depth: depth.unwrap_or(0).min(MOST),
            step: Time::from_micros(step as i64),
            pending: Vec::new(),
            last: None,
            newest: None,
        }
    }

    /// The decoding time of the picture that is shown at `pts`.
    pub(super) fn place(&mut self, pts: Time) -> Time {
        if self.newest.is_some_and(|newest| (newest - pts).abs() > JUMP) {
            // Another timeline: it begins anew.
            self.pending.clear();
            self.last = None;
        }
        self.newest = Some(pts);
        if self.last.is_some_and(|last| pts <= last) && self.depth < MOST {
            // Pictures are reordered further than was known.
            self.depth += 1;
        }
        let at = self.pending.partition_point(|known| *known <= pts);
        self.pending.insert(at, pts);
        let dts = if self.pending.len() > self.depth {
            self.pending.remove(0)
        } else {
            let early = i64::try_from(self.depth + 1 - self.pending.len()).unwrap_or(0);
            let first = self.pending.first().copied().unwrap_or(pts);
            first - Time::from_micros(self.step.micros() * early)
        };
        let dts = match self.last {
            Some(last) if dts <= last => last + Time::from_micros(1),
            _ => dts,
        };
        self.last = Some(dts);
        dts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_reordering_both_times_are_the_same() {
        let mut dts = Dts::new(Some(0), Some(25.0));
        for n in 0..50 {
            let time = Time::from_millis(n * 40);
            assert_eq!(dts.place(time), time);
        }
    }

    #[test]
    fn with_reordering_times_are_those_of_the_encoder() {
        // I P B B as decoded: shown 0 3 1 2, 6 4 5, ..; decoding times begin one picture early, since one overtakes.
        let mut dts = Dts::new(Some(1), Some(25.0));
        let shown = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8];
        let times: Vec<i64> = shown.iter().map(|n| dts.place(Time::from_millis(n * 40)).millis()).collect();
        assert_eq!(times, [-40, 0, 40, 80, 120, 160, 200, 240, 280, 320]);
        // Where nobody said so it is learnt, and holds from then on.
        let (mut dts, mut late) = (Dts::new(None, None), 0);
        for n in 0..30 {
            for shown in [3, 1, 2] {
                let pts = Time::from_millis((n * 3 + shown) * 40);
                late += u32::from(dts.place(pts) > pts);
            }
        }
        assert!(late <= 2, "{late}");
    }

    proptest! {
        #[test]
        fn times_always_go_forwards(shown in prop::collection::vec(-10_000_i64..10_000, 1..200), depth in 0_usize..4) {
            let (mut dts, mut last) = (Dts::new(Some(depth), None), None);
            for millis in shown {
                let time = dts.place(Time::from_millis(millis));
                prop_assert!(last.is_none_or(|last| time > last) || dts.pending.len() <= depth + 1);
                last = Some(time);
            }
        }
    }
}
