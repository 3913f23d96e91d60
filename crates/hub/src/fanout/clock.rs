//! When rounds are.

use std::time::Duration;

use tokio::time::Instant;

use super::{Class, Pace};
use crate::packaging::Line;

/// Batches grow with the time that a round takes, up to this.
const LONGEST_BATCH: Duration = Duration::from_millis(300);
/// What a crew leaves its worker for others after a round: half of what the round took.
const ROUND_REST: u32 = 2;
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
    /// Of the last round.
    round_at: Option<Instant>,
    /// The least time between two rounds: half a batch, more where rounds take long.
    period: Duration,
    /// Since when something waits.
    waiting: Option<Instant>,
}

impl Clock {
    pub(super) fn new(class: Class, pace: Pace) -> Clock {
        Clock { class, batch: pace.batch, round_at: None, period: pace.batch / 2, waiting: None }
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

    pub(super) fn round_done(&mut self, started: Instant) {
        self.waiting = None;
        self.round_at = Some(started);
        let took = started.elapsed();
        self.period = (took + took / ROUND_REST).clamp(self.batch / 2, LONGEST_BATCH.max(self.batch));
    }
}
