//! How much may wait behind our own queues, by how fast the path takes it.
//!
//! What the kernel and the carrier hold cannot be skipped any more, and all that comes later waits behind it. So it is bounded in
//! time rather than in bytes: little on an uplink, more where it is gone in a few milliseconds, since there each wake and each
//! call of the system costs more than the bytes do.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes in a second from which on a path counts as fast, and below which it no longer does.
const FAST: f64 = 16e6;
const SLOW: f64 = 8e6;
/// A verdict needs so much time.
const SPELL: Duration = Duration::from_millis(10);

/// What may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    /// In the carrier.
    pub(super) framed: usize,
    /// In the kernel, unsent (`TCP_NOTSENT_LOWAT`).
    pub(super) kernel: u32,
}

/// With the kernel's own default a 200 kbit/s uplink hides 8.9 s of video, with this 0.7 s (DESIGN section 3).
const SHORT: Bounds = Bounds { framed: 32 << 10, kernel: 16 << 10 };
/// At most 32 ms on the slowest path that counts as fast.
const LONG: Bounds = Bounds { framed: 256 << 10, kernel: 256 << 10 };

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Whether the path is fast, once that is known.
    verdict: Option<bool>,
    /// What was taken since when: a path is at least as fast.
    spell: Option<(Instant, usize)>,
    /// The socket takes no more, since when.
    full: Option<Instant>,
    /// How long it was full, and what it took then: a path is not faster.
    waited: Duration,
    taken: usize,
}

impl Pace {
    pub(super) fn is_fast(&self) -> bool {
        self.verdict == Some(true)
    }

    pub(super) fn bounds(&self) -> Bounds {
        if self.is_fast() { LONG } else { SHORT }
    }

    /// The socket takes no more for now.
    pub(super) fn handle_full(&mut self, now: Instant) {
        self.full.get_or_insert(now);
    }

    /// The socket took so much. True: the verdict is another now.
    pub(super) fn handle_taken(&mut self, now: Instant, bytes: usize) -> bool {
        let before = self.verdict;
        if let Some(since) = self.full.take() {
            self.waited += now - since;
            self.taken += bytes;
            if self.waited >= SPELL {
                if (self.taken as f64) < SLOW * self.waited.as_secs_f64() {
                    self.verdict = Some(false);
                }
                (self.waited, self.taken) = (Duration::ZERO, 0);
            }
        }
        let (since, taken) = self.spell.get_or_insert((now, 0));
        *taken += bytes;
        let time = now - *since;
        if time >= SPELL {
            if *taken as f64 >= FAST * time.as_secs_f64() {
                self.verdict = Some(true);
            }
            self.spell = None;
        }
        self.verdict != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of a path that takes `rate` bytes a second from a writer that always has more.
    fn flood(pace: &mut Pace, now: &mut Instant, rate: f64, seconds: f64) {
        let until = *now + Duration::from_secs_f64(seconds);
        while *now < until {
            pace.handle_full(*now);
            let room = pace.bounds().kernel as usize;
            *now += Duration::from_secs_f64(room as f64 / rate);
            pace.handle_taken(*now, room);
        }
    }

    #[tokio::test]
    async fn an_uplink_is_slow_a_local_network_fast_and_a_collapse_is_noticed() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        flood(&mut pace, &mut now, 1e6, 2.0);
        assert!(!pace.is_fast());
        flood(&mut pace, &mut now, 100e6, 0.1);
        assert!(pace.is_fast());
        // Between the two thresholds it stays what it was.
        flood(&mut pace, &mut now, 12e6, 1.0);
        assert!(pace.is_fast());
        // After what the kernel held when it fell, the first verdict tells.
        flood(&mut pace, &mut now, 25e3, 0.1);
        assert!(!pace.is_fast());
    }

    #[tokio::test]
    async fn a_path_that_never_refuses_is_fast_and_stays_so_when_the_writer_pauses() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..100 {
            pace.handle_taken(now, 32 << 10);
            now += Duration::from_millis(1);
        }
        assert!(pace.is_fast());
        for _ in 0..100 {
            pace.handle_taken(now, 1 << 10);
            now += Duration::from_secs(1);
        }
        assert!(pace.is_fast(), "nothing was learnt about the path");
    }

    #[tokio::test]
    async fn a_burst_into_empty_buffers_does_not_make_a_path_fast() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..100 {
            pace.handle_taken(now, 48 << 10);
            pace.handle_full(now);
            now += Duration::from_millis(400);
        }
        assert!(!pace.is_fast());
    }
}
