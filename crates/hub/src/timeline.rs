//! Bends a publisher's timestamps into one timeline that always goes forward: jumps, rewinds, wraps that were not
//! unwrapped, tracks that disagree, restarts (faults.md M9, M16).
//!
//! A publisher whose stamps are sane is left as it is, to the microsecond. Pure: waiting time is an argument.

use culvert_media::{Time, TrackId};
use tokio::time::Instant;

/// A step of a track that differs from the time that really went by more than this is a jump, not a pause. Cameras
/// that pause or run at 1 fps stay below it; publishers that send faster than real time take small steps.
const JUMP: Time = Time::from_millis(3000);
/// A step back of less than this is jitter of a sloppy clock: it is flattened, not taken for a rewind.
const JITTER: Time = Time::from_millis(500);
/// Where another track's offset puts a frame within this of the stream's head, both tracks made the same jump.
const AGREEMENT: Time = Time::from_millis(1000);
/// The least step between frames of a track: one millisecond, the resolution of FLV and RTMP.
const STEP: Time = Time::from_millis(1);

#[derive(Debug)]
struct Line {
    track: TrackId,
    offset: Time,
    last_in: Time,
    last_out: Time,
    last_at: Instant,
    /// Added to presentation times: the most that one of them came before its decoding time. A constant keeps the order
    /// of pictures, which lifting each by itself would not.
    lift: Time,
}

/// What became of a frame's stamps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stamp {
    pub(crate) dts: Time,
    pub(crate) pts: Time,
    /// The timeline was bent here.
    pub(crate) discontinuity: bool,
}

/// The timeline of one stream, over all of its publishers.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    lines: Vec<Line>,
    /// The latest time given out, and when.
    head: Option<(Time, Instant)>,
    /// The next frame is of a new publisher.
    restarted: bool,
}

impl Timeline {
    /// Another publisher begins: its stamps need not have to do with those before.
    pub(crate) fn restart(&mut self) {
        self.lines.clear();
        self.restarted = self.head.is_some();
    }

    /// Maps a frame's stamps.
    pub(crate) fn map(&mut self, track: TrackId, dts: Time, pts: Time, now: Instant) -> Stamp {
        let mut bent = std::mem::take(&mut self.restarted);
        let place = self.lines.iter().position(|l| l.track == track);
        let out = match place.and_then(|i| self.lines.get(i)) {
            Some(line) => {
                let step = dts - line.last_in;
                let waited = Time::from(now.saturating_duration_since(line.last_at));
                let jumped = step - waited > JUMP || Time::ZERO - step > JITTER;
                if jumped {
                    bent = true;
                    let expected = line.last_out + waited.max(STEP);
                    dts + self.offset_near(track, dts, expected, AGREEMENT)
                } else {
                    (dts + line.offset).max(line.last_out + STEP)
                }
            }
            None => dts + self.first_offset(track, dts, now),
        };
        let out = match place.and_then(|i| self.lines.get(i)) {
            Some(line) => out.max(line.last_out + STEP),
            None => out,
        };
        // What was flattened does not shift the frames after it: the offset stays what the jump decided.
        let kept = place.and_then(|i| self.lines.get(i)).filter(|_| !bent).map(|l| l.offset);
        let lift = place.and_then(|i| self.lines.get(i)).map_or(Time::ZERO, |l| l.lift).max(dts - pts);
        let offset = kept.unwrap_or(out - dts);
        let line = Line { track, offset, last_in: dts, last_out: out, last_at: now, lift };
        match place.and_then(|i| self.lines.get_mut(i)) {
            Some(old) => *old = line,
            None => self.lines.push(line),
        }
        if self.head.is_none_or(|(head, _)| out > head) {
            self.head = Some((out, now));
        }
        Stamp { dts: out, pts: (out + (pts - dts) + lift).max(out), discontinuity: bent }
    }

    /// The offset for a track's first frame.
    fn first_offset(&self, track: TrackId, dts: Time, now: Instant) -> Time {
        let Some((head, at)) = self.head else {
            // The stream's very first frame keeps its stamp, so that a relayed stream keeps its timeline.
            return if dts < Time::ZERO { Time::ZERO - dts } else { Time::ZERO };
        };
        let waited = Time::from(now.saturating_duration_since(at));
        let expected = head + waited.max(STEP);
        if self.lines.is_empty() {
            return expected - dts;
        }
        // A track that begins may be behind the others by what is a pause: sound overtakes pictures on a weak uplink.
        self.offset_near(track, dts, expected, JUMP)
    }

    /// The offset of another track where it puts `dts` near `expected`: then both keep their lip sync exactly.
    fn offset_near(&self, track: TrackId, dts: Time, expected: Time, within: Time) -> Time {
        self.lines
            .iter()
            .filter(|l| l.track != track)
            .map(|l| l.offset)
            .find(|&offset| (dts + offset - expected).abs() <= within && dts + offset >= Time::ZERO)
            .unwrap_or(expected - dts)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const V: TrackId = TrackId(0);
    const A: TrackId = TrackId(1);

    fn ms(n: i64) -> Time {
        Time::from_millis(n)
    }

    /// Feeds (track, dts in ms), 20 ms of real time apart, and returns what came out in ms.
    fn run(input: &[(TrackId, i64)]) -> Vec<i64> {
        let mut line = Timeline::default();
        let start = Instant::now();
        input
            .iter()
            .enumerate()
            .map(|(i, &(track, dts))| {
                line.map(track, ms(dts), ms(dts), start + Duration::from_millis(i as u64 * 20)).dts.millis()
            })
            .collect()
    }

    #[test]
    fn sane_stamps_pass_untouched_at_every_boundary() {
        for start in [0, 16_777_215 - 50, (1 << 31) - 50, (1 << 32) - 50, 95_443_717 - 50] {
            let input: Vec<_> = (0..10).map(|i| (if i % 2 == 0 { V } else { A }, start + i * 20)).collect();
            assert_eq!(run(&input), input.iter().map(|x| x.1).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_jump_ahead_or_back_is_bent_within_one_frame_and_both_tracks_stay_in_step() {
        for jump in [10_000, 3_600_000, -5_000, -3_600_000] {
            let base = 4_000_000;
            let input: Vec<_> = (0..20)
                .map(|i| (if i % 2 == 0 { V } else { A }, base + i * 20 + if i >= 10 { jump } else { 0 }))
                .collect();
            let out = run(&input);
            for pair in out.windows(2) {
                assert!((1..=60).contains(&(pair[1] - pair[0])), "jump {jump}: {out:?}");
            }
        }
    }

    #[test]
    fn a_pause_of_the_camera_is_no_jump() {
        let mut line = Timeline::default();
        let start = Instant::now();
        line.map(V, ms(0), ms(0), start);
        let stamp = line.map(V, ms(60_000), ms(60_000), start + Duration::from_secs(60));
        assert_eq!((stamp.dts, stamp.discontinuity), (ms(60_000), false));
    }

    #[test]
    fn the_same_stamp_twice_and_small_steps_back_are_flattened() {
        assert_eq!(run(&[(V, 100), (V, 100), (V, 90), (V, 140)]), [100, 101, 102, 140]);
    }

    #[test]
    fn tracks_that_disagree_by_30_seconds_are_brought_together() {
        let input: Vec<_> = (0..10).map(|i| if i % 2 == 0 { (V, i * 20) } else { (A, 30_000 + i * 20) }).collect();
        let out = run(&input);
        assert!(out.windows(2).all(|p| (p[1] - p[0]).abs() <= 40), "{out:?}");
    }

    #[test]
    fn audio_that_begins_a_little_before_video_keeps_its_distance() {
        assert_eq!(run(&[(V, 40), (A, 23), (V, 80), (A, 46)]), [40, 23, 80, 46]);
        assert_eq!(run(&[(A, 0), (V, 5), (A, 23)]), [0, 5, 23]);
    }

    #[test]
    fn pictures_that_begin_behind_the_sound_keep_lip_sync() {
        assert_eq!(run(&[(A, 5000), (A, 7000), (V, 5010), (A, 7020), (V, 5050)]), [5000, 7000, 5010, 7020, 5050]);
    }

    #[test]
    fn negative_first_stamps_become_zero() {
        assert_eq!(run(&[(V, -80), (V, -40), (V, 0)]), [0, 40, 80]);
    }

    #[test]
    fn pictures_keep_their_order_where_presentation_comes_before_decoding() {
        let mut line = Timeline::default();
        let now = Instant::now();
        // I P B B with offsets 0, +2, -1, -1 frames: shown as I B B P.
        let frames = [(0, 0), (40, 120), (80, 40), (120, 80), (160, 240), (200, 160), (240, 200)];
        let shown: Vec<_> = frames.iter().map(|&(dts, pts)| line.map(V, ms(dts), ms(pts), now).pts.millis()).collect();
        let mut order: Vec<_> = (2..shown.len()).collect();
        order.sort_by_key(|&i| shown[i]);
        assert_eq!(order, [2, 3, 5, 6, 4], "{shown:?}");
    }

    #[test]
    fn another_publisher_goes_on_where_the_last_one_stopped() {
        let mut line = Timeline::default();
        let start = Instant::now();
        line.map(V, ms(5000), ms(5000), start);
        line.restart();
        let stamp = line.map(V, ms(0), ms(80), start + Duration::from_millis(300));
        assert_eq!(stamp, Stamp { dts: ms(5300), pts: ms(5380), discontinuity: true });
        assert_eq!(line.map(A, ms(3), ms(3), start + Duration::from_millis(300)).dts, ms(5303));
    }

    proptest! {
        #[test]
        fn any_stamps_at_all_give_strictly_rising_dts_and_pts_not_before_it(
            input in prop::collection::vec((0u8..3, any::<i64>(), any::<i64>(), 0u64..5000), 1..100)
        ) {
            let mut line = Timeline::default();
            let mut now = Instant::now();
            let mut last = [None::<Time>; 3];
            for (track, dts, pts, wait) in input {
                now += Duration::from_millis(wait);
                let (dts, pts) = (Time::from_micros(dts / 4), Time::from_micros(pts / 4));
                let stamp = line.map(TrackId(track), dts, pts, now);
                prop_assert!(stamp.pts >= stamp.dts);
                let slot = &mut last[usize::from(track)];
                prop_assert!(slot.is_none_or(|l| stamp.dts > l));
                *slot = Some(stamp.dts);
            }
        }
    }
}
