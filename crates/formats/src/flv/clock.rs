//! FLV's and RTMP's 32-bit millisecond clock, made endless.

use culvert_media::Time;

/// How near to 2^31 a step must be to be taken for the wrap of an encoder that counts in 31 bits (TimestampExtended
/// makes the field signed in the specification, so some clear the sign). Reordering between audio and video and a
/// pause in sending are far below it, and no stream truly jumps by 24 days give or take a minute.
const NEAR_31_BITS_MS: i64 = 60_000;

/// Unwraps the timestamps of all tags of a stream, audio and video together, by taking each step as the nearest one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// The latest timestamp as it came, and what it stands for in milliseconds.
    last: Option<(u32, i64)>,
}

impl Clock {
    /// What this timestamp stands for. The first stands for itself.
    pub(super) fn unwrap(&mut self, time_ms: u32) -> Time {
        let full = match self.last {
            None => i64::from(time_ms),
            Some((last_ms, last_full)) => last_full.saturating_add(step(last_ms, time_ms)),
        };
        self.last = Some((time_ms, full));
        Time::from_millis(full)
    }
}

/// The distance between two timestamps in milliseconds.
fn step(from_ms: u32, to_ms: u32) -> i64 {
    // As i32: the nearest of the two ways round.
    let nearest = i64::from(to_ms.wrapping_sub(from_ms).cast_signed());
    if nearest < NEAR_31_BITS_MS - (1 << 31) {
        nearest + (1 << 31)
    } else if nearest > (1 << 31) - NEAR_31_BITS_MS {
        nearest - (1 << 31)
    } else {
        nearest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unwrapped(times: &[u32]) -> Vec<i64> {
        let mut clock = Clock::default();
        times.iter().map(|&t| clock.unwrap(t).millis()).collect()
    }

    #[test]
    fn the_first_timestamp_stands_for_itself() {
        assert_eq!(unwrapped(&[u32::MAX]), [i64::from(u32::MAX)]);
        assert_eq!(unwrapped(&[3_000_000_000, 3_000_000_040]), [3_000_000_000, 3_000_000_040]);
    }

    #[test]
    fn audio_slightly_before_video_at_the_32_bit_wrap_does_not_jump() {
        let top = 1i64 << 32;
        assert_eq!(
            unwrapped(&[u32::MAX - 9, 30, u32::MAX - 4, 70, 5]),
            [top - 10, top + 30, top - 5, top + 70, top + 5]
        );
    }

    #[test]
    fn audio_slightly_before_video_at_the_31_bit_wrap_does_not_jump() {
        let top = 1i64 << 31;
        assert_eq!(unwrapped(&[0x7fff_fff6, 30, 0x7fff_fffb, 70, 5]), [top - 10, top + 30, top - 5, top + 70, top + 5]);
        // An encoder that counts on does not wrap there.
        assert_eq!(unwrapped(&[0x7fff_fff6, 0x8000_001e]), [top - 10, top + 30]);
    }
}
