//! Writes one packaging to all its viewers: one loop over all of them, and a task of its own only for a viewer that
//! lags (DESIGN section 4).
//!
//! A *crew* is such a loop. Each round it takes the chunks that are new and offers them to every viewer with one
//! vectored write that does not wait. Who cannot take all of it leaves the crew and catches up in a task of its own,
//! which skips to a key frame where it must, and joins a crew again when it is level.
//!
//! It knows viewers only as [`Outlet`]s: sockets, TLS and protocols are elsewhere.

mod clock;
mod crew;
mod round;
mod viewer;

use std::time::Duration;

use tokio::io::AsyncWrite;

pub(crate) use self::crew::Crews;
pub use self::viewer::{Attached, Finished};

/// Most chunks of one write: one call's worth of slices.
const ROUND_CHUNKS: usize = 512;

/// Where a viewer's bytes go.
pub type Outlet = Box<dyn AsyncWrite + Send + Unpin>;

/// How a viewer is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Class {
    /// What fills a packet at once, and what does not within [`Pace::batch`]: the cheapest, and the default.
    #[default]
    Shared,
    /// Each chunk at once.
    Low,
}

impl Class {
    /// The word in the configuration and in `?latency=`.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Shared => "shared",
            Class::Low => "low",
        }
    }
}

/// The times of fan-out.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The class of viewers that do not choose.
    pub class: Class,
    /// The longest that something waits for company in the shared class, while the machine keeps up.
    pub batch: Duration,
    /// The longest that pictures are gathered for hundreds of viewers of one packaging in the shared class. Zero: they are not.
    pub crowd: Duration,
    /// A viewer that takes no byte for this long is closed.
    pub stall: Duration,
}

impl Default for Pace {
    /// With 20 ms a shared viewer is within 50 ms of the publisher on a busy core too (bench/NUMBERS.md).
    fn default() -> Pace {
        Pace {
            class: Class::Shared,
            batch: Duration::from_millis(20),
            crowd: Duration::ZERO,
            stall: Duration::from_secs(15),
        }
    }
}
