//! Segments come in lumps; viewers get frames as time goes by. Pure: waiting time is an argument.

use std::time::Duration;

use culvert_media::Time;
use tokio::time::Instant;

/// A frame that is due further ahead than this is behind a jump of the source's clock: it is due now. As the hub has it.
const JUMP: Duration = Duration::from_secs(3);
/// A frame that comes later than this shows that the source has stalled: what follows is that much later, too, so that the next lump is
/// not late again.
const LATE: Duration = Duration::from_millis(500);

/// Says when the frames of a rendition are due.
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

    /// When a frame is due, and how much everything was put off because it comes late.
    pub(super) fn due(&mut self, now: Instant, time: Time) -> (Instant, Duration) {
        let Some((at, of)) = self.anchor else {
            self.begin(now, time);
            return (now, Duration::ZERO);
        };
        let micros = (time - of).micros();
        let distance = Duration::from_micros(micros.unsigned_abs());
        let due = if micros < 0 { at.checked_sub(distance) } else { at.checked_add(distance) };
        let Some(due) = due else {
            self.begin(now, time);
            return (now, Duration::ZERO);
        };
        let late = now.saturating_duration_since(due);
        if due.saturating_duration_since(now) > JUMP || late > LATE {
            self.begin(now, time);
            // Further back than a stall can be it is a jump.
            let stalled = if micros < 0 { Duration::ZERO } else { late };
            return (now, stalled);
        }
        (due, Duration::ZERO)
    }

    /// The other rendition has stalled: this one waits with it.
    pub(super) fn put_off(&mut self, by: Duration) {
        if let Some((at, _)) = &mut self.anchor {
            *at += by;
        }
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
        assert_eq!(pace.due(now, ms(90_000)), (now, Duration::ZERO));
        assert_eq!(pace.due(now, ms(90_040)), (now + 40 * MS, Duration::ZERO));
        // Sound that is a little behind the pictures is not late.
        assert_eq!(pace.due(now, ms(89_900)), (now - 100 * MS, Duration::ZERO));
        assert_eq!(pace.due(now + 100 * MS, ms(90_080)), (now + 80 * MS, Duration::ZERO));
    }

    #[test]
    fn a_stall_puts_everything_off_and_a_jump_does_not() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.due(now, ms(1_000));
        let later = now + 2_600 * MS;
        assert_eq!(pace.due(later, ms(2_000)), (later, 1_600 * MS));
        assert_eq!(pace.due(later, ms(2_040)), (later + 40 * MS, Duration::ZERO));
        // Ahead by an hour, back by an hour, to zero, and to where time itself ends.
        for time in [3_602_000, 2_000, 0, i64::MAX / 2_000, i64::MIN / 2_000, 0] {
            assert_eq!(pace.due(later, ms(time)), (later, Duration::ZERO), "{time}");
            assert_eq!(pace.due(later, ms(time + 40)).0, later + 40 * MS);
        }
        pace.put_off(500 * MS);
        assert_eq!(pace.due(later, ms(40)).0, later + 540 * MS);
    }
}
