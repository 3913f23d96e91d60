//! What a protocol's client reads when it sends a stream elsewhere.

use std::future::pending;

use crate::{End, Next, Subscriber};

/// Where frames to be sent come from: a stream of the hub, or a camera.
pub trait Feed: Send {
    /// The next thing. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Next> + Send;

    /// Reads nothing while nobody wants what this brings, and returns when the source ends. Cancel safe. The
    /// [`Feed::next`] behind it begins at the newest key frame, its tracks first.
    ///
    /// A feed that leaves this out cannot rest: it goes on where it was.
    fn idle(&mut self) -> impl Future<Output = End> + Send {
        pending()
    }
}

impl Feed for Subscriber {
    async fn next(&mut self) -> Next {
        Subscriber::next(self).await
    }

    async fn idle(&mut self) -> End {
        Subscriber::idle(self).await
    }
}
