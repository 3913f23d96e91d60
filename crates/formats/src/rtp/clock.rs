//! Timestamps of RTP: 32 bits that wrap, one clock for each source, and what joins them.

use std::time::Duration;

use culvert_media::Time;

use super::rtcp::Ntp;

/// Makes timestamps of 32 bits into ones that go on (faults.md M5, M6).
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwrap {
    last: Option<i64>,
}

impl Unwrap {
    /// The timestamp nearest to the last one.
    pub fn unwrap(&mut self, timestamp: u32) -> i64 {
        let last = self.last.unwrap_or(i64::from(timestamp));
        let low = u32::try_from(last.rem_euclid(1 << 32)).unwrap_or(0);
        let step = timestamp.wrapping_sub(low).cast_signed();
        let now = last + i64::from(step);
        self.last = Some(now);
        now
    }

    /// What this timestamp is, without taking it for the last one.
    pub fn peek(&self, timestamp: u32) -> i64 {
        let mut copy = *self;
        copy.unwrap(timestamp)
    }
}

/// A step of a source's clock beside the time that went by, which is not jitter any more.
const JUMP: Duration = Duration::from_secs(5);
/// A step back beyond what reordered pictures do.
const BACK: Time = Time::from_millis(3000);
/// Between what was told of the beginning and the first packet.
const NEAR: Time = Time::from_millis(2000);
/// When the first packet is on the timeline, so that a track which joins it may have begun before.
const BEGIN: Time = Time::from_millis(3000);
/// Sound that is off by no more than this is left alone.
const TOLERANCE: Time = Time::from_millis(10);
/// Reports that put two sources further apart than this are nonsense (clocks that were set between two reports).
const NONSENSE: Time = Time::from_millis(10_000);
/// How much a frame may be moved, so that nobody hears or sees it.
const SLEW: Time = Time::from_millis(2);

/// The clock of one source on the timeline of its stream.
#[derive(Clone, Debug)]
pub struct Sync {
    clock_hz: u32,
    unwrap: Unwrap,
    /// A timestamp and when that is.
    anchor: Option<(i64, Time)>,
    /// What the sender says that the beginning is.
    told: Option<u32>,
    /// What is still to be put right, a little with each frame.
    skew: Time,
    /// A timestamp and its wall clock, by the newest report.
    report: Option<(i64, Ntp)>,
    last: Option<(Time, Duration)>,
}

impl Sync {
    /// A clock of so many ticks a second; 0 is taken for 90,000.
    pub fn new(clock_hz: u32) -> Sync {
        let clock_hz = if clock_hz == 0 { 90_000 } else { clock_hz };
        Sync {
            clock_hz,
            unwrap: Unwrap::default(),
            anchor: None,
            told: None,
            skew: Time::ZERO,
            report: None,
            last: None,
        }
    }

    /// Says what the timestamp was when the stream began (RFC 2326 12.33: `rtptime`). Believed if the first one that is placed is near:
    /// some cameras say 0, or what was true for somebody before.
    pub fn begin(&mut self, timestamp: u32) {
        self.told = Some(timestamp);
    }

    /// Whether it is known when its timestamps are.
    pub fn has_begun(&self) -> bool {
        self.anchor.is_some()
    }

    /// Places a timestamp that came `now` (since any moment). A clock that jumps is placed anew where `now` says that it is.
    /// The first is three seconds after that moment, or what was told is.
    pub fn place(&mut self, timestamp: u32, now: Duration) -> Time {
        let ticks = self.unwrap.unwrap(timestamp);
        let told = self.told.take().map(|told| self.unwrap.peek(told));
        let near = told.filter(|told| Time::from_ticks(ticks - told, self.clock_hz).abs() <= NEAR);
        let (from, at) =
            *self.anchor.get_or_insert_with(|| near.map_or((ticks, BEGIN + micros(now)), |told| (told, BEGIN)));
        let mut time = at + Time::from_ticks(ticks - from, self.clock_hz);
        if let Some((last, then)) = self.last {
            let expected = last + micros(now.saturating_sub(then));
            // A path that stood still brings old timestamps late, which is no jump.
            if time - expected > micros(JUMP) || last - time > BACK {
                self.anchor = Some((ticks, expected));
                (self.skew, self.report) = (Time::ZERO, None);
                time = expected;
            }
        }
        let step = Time::from_micros(self.skew.micros().clamp(-SLEW.micros(), SLEW.micros()));
        if step != Time::ZERO {
            self.skew = self.skew - step;
            self.anchor = self.anchor.map(|(from, at)| (from, at + step));
            time = time + step;
        }
        self.last = Some((time, now));
        time
    }

    /// Takes a sender's report. One that comes before the first packet counts, too.
    pub fn handle_report(&mut self, ntp: Ntp, timestamp: u32) {
        if ntp.0 == 0 {
            // Some cameras have no clock and say so.
            return;
        }
        let ticks = if self.anchor.is_some() { self.unwrap.peek(timestamp) } else { self.unwrap.unwrap(timestamp) };
        self.report = Some((ticks, ntp));
    }

    /// Whether a report came.
    pub fn has_report(&self) -> bool {
        self.report.is_some()
    }

    /// When the moment of the newest report is on the timeline.
    fn reported(&self) -> Option<(Time, Ntp)> {
        let ((from, at), (ticks, ntp)) = (self.anchor?, self.report?);
        Some((at + Time::from_ticks(ticks - from, self.clock_hz), ntp))
    }

    /// Moves this clock so that it says the same as another one, by the reports of both: at once before its first frame was given out
    /// (`at_once`), afterwards, or from far away, little by little.
    pub fn follow(&mut self, other: &Sync, at_once: bool) {
        let (Some((ours, our_ntp)), Some((theirs, their_ntp))) = (self.reported(), other.reported()) else { return };
        let should = theirs + Time::from_micros(our_ntp.micros_since(their_ntp));
        let off = should - ours;
        if off.abs() > NONSENSE {
            return;
        }
        if at_once && off.abs() <= BEGIN {
            self.anchor = self.anchor.map(|(from, at)| (from, at + off));
            self.last = self.last.map(|(time, now)| (time + off, now));
        } else if off.abs() > TOLERANCE {
            self.skew = off;
        } else {
            self.skew = Time::ZERO;
        }
    }
}

fn micros(duration: Duration) -> Time {
    Time::from_micros(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A report of this moment by a camera whose clock began at 1900.
    fn ntp(millis: u64) -> Ntp {
        Ntp((millis + 1000) * (1 << 32) / 1000)
    }

    #[test]
    fn timestamps_wrap_without_a_step_forwards_and_backwards() {
        let mut unwrap = Unwrap::default();
        let seen: Vec<i64> = [u32::MAX - 1, 2, u32::MAX, 3, 1 << 31, 3 << 30, 5].map(|t| unwrap.unwrap(t)).into();
        let first = i64::from(u32::MAX) - 1;
        assert_eq!(
            seen,
            [
                first,
                first + 4,
                first + 1,
                first + 5,
                first + 2 + (1 << 31),
                first + 2 + (3 << 30),
                first + 7 + (1 << 32)
            ]
        );
        // 13 hours of video at 90 kHz.
        let (mut sync, mut last) = (Sync::new(90_000), Time::ZERO);
        for second in 0..100_000_u64 {
            let time = sync.place((second * 90_000) as u32, Duration::from_secs(second));
            assert!(time > last);
            last = time;
        }
        assert_eq!(last, BEGIN + Time::from_millis(99_999_000));
    }

    #[test]
    fn sound_is_put_beside_its_picture_by_reports_at_once_or_little_by_little() {
        let (mut video, mut sound) = (Sync::new(90_000), Sync::new(8000));
        video.place(1000, ms(0));
        // The sound of that moment comes 300 ms late.
        sound.place(5000, ms(300));
        video.handle_report(ntp(40), 1000 + 3600);
        sound.handle_report(ntp(40), 5000 + 320);
        let mut at_once = sound.clone();
        at_once.follow(&video, true);
        assert_eq!(at_once.place(5000 + 320, ms(340)), BEGIN + Time::from_millis(40));
        sound.follow(&video, false);
        let mut last = BEGIN + Time::from_millis(300);
        for n in 1..400_u32 {
            let time = sound.place(5000 + n * 160, ms(300 + u64::from(n) * 20));
            assert!(time > last && (time - last).millis() >= 18);
            last = time;
        }
        assert_eq!(last, BEGIN + Time::from_millis(399 * 20));
    }

    #[test]
    fn reports_that_are_nonsense_change_nothing_and_a_clock_that_jumps_goes_on() {
        let (mut video, mut sound) = (Sync::new(90_000), Sync::new(8000));
        video.place(0, ms(0));
        sound.place(0, ms(0));
        video.handle_report(ntp(0), 0);
        sound.handle_report(ntp(3_600_000), 0);
        sound.follow(&video, true);
        assert_eq!(sound.place(160, ms(20)), BEGIN + Time::from_millis(20));
        sound.handle_report(Ntp(0), 0);
        assert_eq!(video.place(4_000_000_000, ms(40)), BEGIN + Time::from_millis(40));
        assert_eq!(video.place(4_000_003_600, ms(80)), BEGIN + Time::from_millis(80));
    }

    #[test]
    fn a_path_that_stood_still_does_not_bend_the_timeline() {
        let mut video = Sync::new(90_000);
        for n in 0..100_u32 {
            video.place(n * 3600, ms(u64::from(n) * 40));
        }
        // Seven seconds of nothing, and then all of it at once.
        let late: Vec<i64> = (100..275_u32).map(|n| (video.place(n * 3600, ms(11_000)) - BEGIN).millis()).collect();
        assert_eq!((late[0], late[174]), (4000, 274 * 40));
    }

    #[test]
    fn what_is_told_of_the_beginning_is_believed_if_it_is_near() {
        let (mut near, mut far) = (Sync::new(90_000), Sync::new(90_000));
        near.begin(1000);
        far.begin(0);
        assert_eq!(near.place(1000 + 9000, ms(5)), BEGIN + Time::from_millis(100));
        assert_eq!(far.place(3_000_000_000, ms(5)), BEGIN + Time::from_millis(5));
    }
}
