//! Streams fetched from elsewhere ([`Pulls`]) and sent elsewhere ([`Pushes`]), each tried again by the same rule.

mod pulls;
mod pushes;
mod saved;

use std::sync::Mutex;
use std::time::SystemTime;

pub use pulls::{PullError, Pulls};
pub use pushes::{Order, PushInfo, Pushes, Routes, StartError};
pub use saved::Saved;

/// What one pull or push is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Nothing: nobody watches, here or at the target, or there is nothing to send.
    Waiting,
    /// Connecting.
    Starting,
    /// Media flows.
    Live,
    /// The last attempt failed; another one comes.
    Retrying,
    /// It failed and is not tried again.
    Stopped,
}

impl Doing {
    /// The word in the API.
    pub const fn name(&self) -> &'static str {
        match self {
            Doing::Waiting => "waiting",
            Doing::Starting => "starting",
            Doing::Live => "live",
            Doing::Retrying => "retrying",
            Doing::Stopped => "stopped",
        }
    }
}

/// A pull or push as the API shows it.
#[derive(Clone, Debug)]
pub struct RelayInfo {
    /// The stream's name here.
    pub stream: String,
    /// Where from or where to, secrets masked.
    pub url: String,
    /// `always` or `on_demand`.
    pub mode: &'static str,
    /// What it is doing.
    pub doing: Doing,
    /// Since when.
    pub since: SystemTime,
    /// Why the last attempt ended, as a sentence.
    pub error: Option<String>,
    /// Attempts so far.
    pub attempts: u64,
}

/// The state of one relay, written by its task and read by the API.
#[derive(Debug)]
struct Board(Mutex<RelayInfo>);

impl Board {
    fn new(stream: String, url: String, mode: &'static str) -> Board {
        let since = SystemTime::now();
        Board(Mutex::new(RelayInfo { stream, url, mode, doing: Doing::Waiting, since, error: None, attempts: 0 }))
    }

    fn set(&self, doing: Doing, error: Option<String>) {
        let mut info = self.0.lock().expect("no code panics while it writes a board");
        info.attempts += u64::from(doing == Doing::Starting);
        if info.doing != doing {
            info.since = SystemTime::now();
        }
        info.doing = doing;
        if error.is_some() {
            info.error = error;
        } else if info.doing == Doing::Live {
            info.error = None;
        }
    }

    fn info(&self) -> RelayInfo {
        self.0.lock().expect("no code panics while it writes a board").clone()
    }
}
