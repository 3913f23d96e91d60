//! Waiting for what must come to pass, within a bound.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Anything takes less than this, also on a busy machine with a debug build.
pub const LONG: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until there is something to see; fails the test with `what` after [`LONG`].
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {} s for {what}", LONG.as_secs());
        sleep(LOOK).await;
    }
}

/// The result of something that must come within [`LONG`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(LONG, what, future).await
}

/// The same with another bound.
pub async fn within<T>(bound: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match timeout(bound, future).await {
        Ok(result) => result,
        Err(_) => panic!("waited {} s for {what}", bound.as_secs()),
    }
}
