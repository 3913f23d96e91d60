//! Segments come in lumps; viewers get frames as time goes by. Pure: waiting time is an argument.

use std::time::Duration;

use culvert_media::Time;
use tokio::time::Instant;

/// A frame that is due further ahead or further back than this has nothing to do with what was before: it is due now.
const JUMP: Duration = Duration::from_secs(30);
/// A frame that comes later than this shows that the source has stalled: all that follows is that much later, too, so that the next lump is
/// not late again.
const LATE: Duration = Duration::from_millis(500);

/// Says when frames are due: those of all renditions that are told by one clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// A frame of this time was due then.
    anchor: Option<(Instant, Time)>,
}

impl Pace {
    /// From now on a frame of this time is due now.
    pub(super) fn begin(&mut self, now: Instant, time: Time) {
        self.anchor = Some((now, time));
    }

    /// When a frame is due. `anew`: it is the first behind a discontinuity, and need not be where it would have been.
    pub(super) fn due(&mut self, now: Instant, time: Time, anew: bool) -> Instant {
        let due = self.anchor.and_then(|(at, of)| {
            let micros = (time - of).micros();
            let distance = Duration::from_micros(micros.unsigned_abs());
            if micros < 0 { at.checked_sub(distance) } else { at.checked_add(distance) }
        });
        let Some(due) = due else {
            self.begin(now, time);
            return now;
        };
        let (early, late) = (due.saturating_duration_since(now), now.saturating_duration_since(due));
        let jumped = early > JUMP || late > JUMP || anew && early > LATE;
        if jumped || late > LATE {
            self.begin(now, time);
            return now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ms(n: i64) -> Time {
        Time::from_millis(n)
    }

    #[test]
    fn frames_are_due_as_their_times_say() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due(now, ms(90_000), false), now);
        assert_eq!(pace.due(now, ms(90_040), false), now + 40 * MS);
        // Sound that is a little behind the pictures is not late.
        assert_eq!(pace.due(now, ms(89_900), false), now - 100 * MS);
        assert_eq!(pace.due(now + 100 * MS, ms(90_080), false), now + 80 * MS);
        // Segments of one rendition that are missing: it waits until the others are there.
        assert_eq!(pace.due(now, ms(96_000), false), now + 6_000 * MS);
    }

    #[test]
    fn a_stall_of_one_puts_all_off() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.due(now, ms(1_000), false);
        let later = now + 9_600 * MS;
        assert_eq!(pace.due(later, ms(2_000), false), later);
        // What had gone on meanwhile waits for it.
        assert_eq!(pace.due(later, ms(10_600), false), later + 8_600 * MS);
        assert_eq!(pace.due(later, ms(2_040), false), later + 40 * MS);
    }

    #[test]
    fn jumps_are_followed() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.due(now, ms(1_000), false);
        // Ahead by an hour, back by an hour, to zero, and to where time itself ends.
        for time in [3_602_000, 2_000, 0, i64::MAX / 2_000, i64::MIN / 2_000, 0] {
            assert_eq!(pace.due(now, ms(time), false), now, "{time}");
            assert_eq!(pace.due(now, ms(time + 40), false), now + 40 * MS);
        }
        // One that was announced need not be far.
        assert_eq!(pace.due(now, ms(5_000), true), now);
        assert_eq!(pace.due(now, ms(5_400), true), now + 400 * MS);
    }
}
