//! Time on a stream's own timeline.

use std::fmt;
use std::ops::{Add, Sub};

/// A point, or a distance, on a stream's own timeline, in microseconds. Not a clock: `Instant` is for waiting and
/// `SystemTime` is for people.
///
/// Arithmetic saturates, so that a lying timestamp cannot panic. i64 microseconds last 292,000 years.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(i64);

impl Time {
    /// The beginning of a timeline; no distance.
    pub const ZERO: Time = Time(0);
    /// The latest time there is.
    pub const MAX: Time = Time(i64::MAX);

    /// From microseconds.
    pub const fn from_micros(micros: i64) -> Time {
        Time(micros)
    }

    /// From milliseconds.
    pub const fn from_millis(millis: i64) -> Time {
        Time(millis.saturating_mul(1000))
    }

    /// In microseconds.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// In whole milliseconds, rounded down.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// From `n` ticks of a clock of `hz`, rounded to the nearest microsecond. A clock of 0 Hz counts as 1 Hz.
    ///
    /// The product is taken in 128 bits: `ticks * 1_000_000` in 64 bits overflows after 28 hours of nanoseconds, a
    /// bug that other servers have shipped (faults.md M7).
    pub fn from_ticks(n: i64, hz: u32) -> Time {
        Time(scale(n, 1_000_000, hz.max(1)))
    }

    /// In ticks of a clock of `hz`, rounded to the nearest tick.
    pub fn to_ticks(self, hz: u32) -> i64 {
        scale(self.0, hz, 1_000_000)
    }

    /// The distance without its sign.
    pub const fn abs(self) -> Time {
        Time(self.0.saturating_abs())
    }
}

/// `n * num / den`, rounded to nearest (halves up), saturating.
fn scale(n: i64, num: u32, den: u32) -> i64 {
    let (num, den) = (i128::from(num), i128::from(den));
    let scaled = (i128::from(n) * num + den / 2).div_euclid(den);
    i64::try_from(scaled).unwrap_or(if scaled < 0 { i64::MIN } else { i64::MAX })
}

impl Add for Time {
    type Output = Time;
    fn add(self, other: Time) -> Time {
        Time(self.0.saturating_add(other.0))
    }
}

impl Sub for Time {
    type Output = Time;
    fn sub(self, other: Time) -> Time {
        Time(self.0.saturating_sub(other.0))
    }
}

impl From<std::time::Duration> for Time {
    fn from(d: std::time::Duration) -> Time {
        Time(i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
    }
}

/// Seconds with six digits, as in `12.345678s`.
impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let micros = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}s", micros / 1_000_000, micros % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_survive_every_known_wrap_point() {
        // 90 kHz at 2^33 (MPEG-TS), 48 kHz at 2^32 (RTP), 1 GHz at 28 h 28 m (faults.md M4 to M7).
        for (n, hz) in [(1i64 << 33, 90_000), (1 << 32, 48_000), (102_481_911_520_608_620, 1_000_000_000)] {
            let time = Time::from_ticks(n, hz);
            let back = Time::to_ticks(time, hz);
            assert!((back - n).abs() <= i64::from(hz / 1_000_000 + 1), "{n} at {hz} Hz came back as {back}");
        }
        assert_eq!(Time::from_ticks(i64::MAX, 1), Time::MAX);
        assert_eq!(Time::from_ticks(90, 0).micros(), 90_000_000);
    }

    #[test]
    fn rounding_is_to_nearest_and_negative_millis_round_down() {
        assert_eq!(Time::from_ticks(1, 90_000).micros(), 11);
        assert_eq!(Time::from_ticks(-1, 90_000).micros(), -11);
        assert_eq!(Time::from_micros(-1).millis(), -1);
        assert_eq!(Time::from_micros(1999).millis(), 1);
    }

    #[test]
    fn debug_shows_seconds() {
        assert_eq!(format!("{:?}", Time::from_micros(-1_500_000)), "-1.500000s");
    }
}
