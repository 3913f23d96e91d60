//! When rounds are.

use std::time::Duration;

use tokio::time::Instant;

use super::{Class, Pace};
use crate::packaging::Line;

/// Batches grow with the time that a round takes, up to this.
const LONGEST_BATCH: Duration = Duration::from_millis(300);
/// What a crew leaves its worker for others after a round: half of what the round took.
const ROUND_REST: u32 = 2;
/// What each viewer adds to the time between two rounds, up to [`Pace::crowd`]: 250 viewers get each picture of 25 a second by
/// itself, 500 get two at a time.
const CROWD_SHARE: Duration = Duration::from_micros(160);
/// What fills a packet on an ordinary link (1,500 bytes of Ethernet, less the headers and options of IP and TCP).
const FULL_BYTES: usize = 1400;

/// What a crew has not offered yet.
pub(super) struct Unsent {
    bytes: usize,
    ended: bool,
}

impl Unsent {
    pub(super) fn count(line: &Line, next: Option<u64>) -> Unsent {
        let chunks = line.lock();
        let ended = chunks.end.is_some();
        let slots = next.and_then(|next| chunks.ring.from(next));
        // A crew that fell behind the ring has nothing to lose by beginning at once.
        let lost = next.is_some() && slots.is_none();
        let bytes = slots.map_or(0, |slots| slots.map(|slot| slot.body.data.len()).sum());
        Unsent { bytes: if lost { FULL_BYTES } else { bytes }, ended }
    }
}

/// When a crew's next round is.
pub(super) enum Due {
    Now,
    At(Instant),
    /// There is nothing new.
    Never,
}

/// Decides when rounds are. In the shared class, what fills a packet goes at once and what does not waits for company:
/// as Nagle's algorithm has it, but by our clock rather than by the peer's acknowledgements, which some delay by more
/// than a batch. So a video frame leaves when it comes, and the sound since the one before leaves with it.
pub(super) struct Clock {
    class: Class,
    batch: Duration,
    crowd: Duration,
    /// Of the last round.
    round_at: Option<Instant>,
    /// The least time between two rounds: half a batch, more where rounds take long or go to a crowd.
    period: Duration,
    /// Since when something waits.
    waiting: Option<Instant>,
}

impl Clock {
    pub(super) fn new(class: Class, pace: Pace) -> Clock {
        Clock { class, batch: pace.batch, crowd: pace.crowd, round_at: None, period: pace.batch / 2, waiting: None }
    }

    pub(super) fn due(&mut self, unsent: &Unsent) -> Due {
        if unsent.bytes == 0 && !unsent.ended {
            return Due::Never;
        }
        if self.class == Class::Low {
            return Due::Now;
        }
        let now = Instant::now();
        let waiting = *self.waiting.get_or_insert(now);
        let full = unsent.bytes >= FULL_BYTES || unsent.ended;
        let wanted = if full { now } else { waiting + self.batch };
        let allowed = self.round_at.map_or(now, |at| at + self.period);
        let at = wanted.max(allowed);
        if at <= now { Due::Now } else { Due::At(at) }
    }

    /// After a round of a crowd of so many viewers, in this crew and others.
    pub(super) fn round_done(&mut self, started: Instant, viewers: usize) {
        self.waiting = None;
        self.round_at = Some(started);
        let took = started.elapsed();
        let crowd = CROWD_SHARE.saturating_mul(u32::try_from(viewers).unwrap_or(u32::MAX)).min(self.crowd);
        self.period =
            (took + took / ROUND_REST).max(crowd).clamp(self.batch / 2, LONGEST_BATCH.max(self.batch).max(self.crowd));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long after a round to so many a picture goes that came at once behind it.
    fn next_after(viewers: usize, class: Class, crowd: u64) -> Duration {
        let pace = Pace { crowd: Duration::from_millis(crowd), ..Pace::default() };
        let mut clock = Clock::new(class, pace);
        let now = Instant::now();
        clock.round_done(now, viewers);
        match clock.due(&Unsent { bytes: 20_000, ended: false }) {
            Due::Now => Duration::ZERO,
            Due::At(at) => at - now,
            Due::Never => panic!("there is something"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_s_rounds_are_further_apart_where_that_is_allowed_and_nobody_else_s() {
        let ms = Duration::from_millis;
        assert_eq!(next_after(10, Class::Shared, 80), ms(10));
        assert_eq!(next_after(250, Class::Shared, 80), ms(40));
        assert_eq!(next_after(500, Class::Shared, 80), ms(80));
        assert_eq!(next_after(20_000, Class::Shared, 80), ms(80));
        assert_eq!(next_after(20_000, Class::Shared, 1000), ms(1000));
        assert_eq!(next_after(20_000, Class::Shared, 0), ms(10));
        assert_eq!(next_after(20_000, Class::Low, 80), ms(0));
    }
}
