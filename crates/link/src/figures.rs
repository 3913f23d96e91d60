//! What is known of one link while it lives: counted by its carrier, read by whoever shows it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// No round trip was measured yet.
const UNKNOWN: u64 = u64::MAX;

/// What a carrier shares with those who hold its link.
#[derive(Debug)]
pub(crate) struct Shared {
    since: SystemTime,
    sent: AtomicU64,
    received: AtomicU64,
    unsent: AtomicUsize,
    round_trip_micros: AtomicU64,
    /// Whether the path takes what is written as fast as it comes.
    fast: AtomicBool,
    /// Whether there is no HTTP/2 now.
    resting: AtomicBool,
    /// Whether the other end is to be told that there are news.
    news: AtomicBool,
    /// The other end has some.
    heard_news: Notify,
    words: Mutex<Words>,
    /// Wakes the carrier when it is asked to say something.
    pub(crate) closer: AtomicWaker,
}

/// What it was for is done (RFC 6455 7.4.1).
pub(crate) const DONE: u16 = 1000;

#[derive(Debug, Default)]
struct Words {
    /// What to say when this end has nothing more to do.
    parting: Option<(CancellationToken, u16, &'static str)>,
    /// What to say to the other end.
    close: Option<(u16, String)>,
    /// What it said.
    closed: Option<(u16, String)>,
    /// Its connection ended before it said anything.
    broken_off: bool,
}

/// Figures of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFigures {
    /// What carries it: `h2`, or `m7s` for an old peer.
    pub carrier: &'static str,
    /// When it was made.
    pub since: SystemTime,
    /// Bytes that went out, with all framing but TLS.
    pub sent_bytes: u64,
    /// Bytes that came in.
    pub received_bytes: u64,
    /// Bytes that wait in this process for the socket to take them.
    pub unsent_bytes: usize,
    /// Whether nothing was asked for a while, so that the link takes up little.
    pub resting: bool,
    /// Of the last ping, through whatever stands between.
    pub round_trip: Option<Duration>,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        Shared {
            since: SystemTime::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            unsent: AtomicUsize::new(0),
            round_trip_micros: AtomicU64::new(UNKNOWN),
            fast: AtomicBool::new(false),
            resting: AtomicBool::new(true),
            news: AtomicBool::new(false),
            heard_news: Notify::new(),
            words: Mutex::default(),
            closer: AtomicWaker::new(),
        }
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().expect("no code panics while it holds a link's words")
    }

    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_unsent(&self, bytes: usize) {
        self.unsent.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_round_trip(&self, time: Duration) {
        self.round_trip_micros.store(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// Asks the carrier to tell the other end that there are news.
    pub(crate) fn tell_news(&self) {
        self.news.store(true, Ordering::Release);
        self.closer.wake();
    }

    pub(crate) fn take_news(&self) -> bool {
        self.news.swap(false, Ordering::Acquire)
    }

    pub(crate) fn hear_news(&self) {
        self.heard_news.notify_one();
    }

    /// Waits for the other end to have news.
    pub(crate) async fn news(&self) {
        self.heard_news.notified().await;
    }

    pub(crate) fn set_fast(&self, fast: bool) {
        self.fast.store(fast, Ordering::Relaxed);
    }

    pub(crate) fn set_resting(&self, resting: bool) {
        self.resting.store(resting, Ordering::Relaxed);
    }

    pub(crate) fn is_fast(&self) -> bool {
        self.fast.load(Ordering::Relaxed)
    }

    /// Asks the carrier to say this and end. The first to ask is heard.
    pub(crate) fn close(&self, status: u16, reason: &str) {
        self.words().close.get_or_insert_with(|| (status, reason.to_string()));
        self.closer.wake();
    }

    /// What to say when all is done and `once` is cancelled, unless it is asked to close before: also where the connection ends by itself in that
    /// moment, since what was asked has ended.
    pub(crate) fn part_with(&self, once: CancellationToken, status: u16, reason: &'static str) {
        self.words().parting = Some((once, status, reason));
    }

    pub(crate) fn parting(&self) -> (u16, String) {
        let words = self.words();
        let parting = words.parting.as_ref().filter(|(once, ..)| once.is_cancelled());
        let parting = parting.map(|(_, status, reason)| (*status, reason.to_string()));
        words.close.clone().or(parting).unwrap_or((DONE, String::new()))
    }

    pub(crate) fn take_close(&self) -> Option<(u16, String)> {
        self.words().close.clone()
    }

    /// The payload of the other end's close frame.
    pub(crate) fn set_closed(&self, payload: &[u8]) {
        let status = payload.first_chunk().map_or(1005, |status| u16::from_be_bytes(*status));
        let reason = payload.get(2..).map(String::from_utf8_lossy).unwrap_or_default();
        self.words().closed = Some((status, reason.chars().filter(|c| !c.is_control()).collect()));
    }

    pub(crate) fn set_broken_off(&self) {
        let mut words = self.words();
        words.broken_off = words.closed.is_none();
    }

    pub(crate) fn is_broken_off(&self) -> bool {
        self.words().broken_off
    }

    pub(crate) fn closed(&self) -> Option<(u16, String)> {
        self.words().closed.clone()
    }

    /// Whether this end asked to close.
    pub(crate) fn was_closed(&self) -> Option<(u16, String)> {
        self.words().close.clone()
    }

    pub(crate) fn figures(&self) -> LinkFigures {
        let micros = self.round_trip_micros.load(Ordering::Relaxed);
        LinkFigures {
            carrier: "h2",
            since: self.since,
            sent_bytes: self.sent.load(Ordering::Relaxed),
            received_bytes: self.received.load(Ordering::Relaxed),
            unsent_bytes: self.unsent.load(Ordering::Relaxed),
            resting: self.resting.load(Ordering::Relaxed),
            round_trip: (micros != UNKNOWN).then(|| Duration::from_micros(micros)),
        }
    }
}
