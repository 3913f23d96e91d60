//! When to try again (DESIGN section 3): first after up to 1 s, then after up to twice as long each time, 30 s at the
//! most, at random, so that a thousand nodes do not come back at once.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// What lasted this long counts as a success; what flaps keeps backing off.
const STABLE: Duration = Duration::from_secs(30);

/// The state of one thing that is tried again and again.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// An attempt that began to work at `live`, or never did, has ended: how long to wait before the next.
    pub fn after(&mut self, live: Option<Instant>) -> Duration {
        if live.is_some_and(|live| live.elapsed() >= STABLE) {
            self.failures = 0;
        }
        let bound = FIRST.saturating_mul(1 << self.failures.min(5)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let random = getrandom::u64().unwrap_or(u64::MAX / 2);
        bound.mul_f64(random as f64 / u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_30_seconds_and_begin_anew_after_30_good_ones() {
        let mut backoff = Backoff::default();
        for n in 0..50u32 {
            assert!(backoff.after(None) <= FIRST * (1 << n.min(5)));
        }
        assert_eq!(backoff.failures(), 50);
        let flapped = Instant::now();
        backoff.after(Some(flapped));
        assert_eq!(backoff.failures(), 51);
        let good = Instant::now();
        tokio::time::advance(STABLE).await;
        assert!(backoff.after(Some(good)) <= FIRST);
        assert_eq!(backoff.failures(), 1);
    }
}
