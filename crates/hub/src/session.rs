//! Who publishes and who watches: one [`Session`] each, listed while it lives.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::SystemTime;

use culvert_media::{StreamName, Time};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::tally::{Sent, Share};
use crate::{Action, Ask, Identity};

/// Where somebody comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The protocol it speaks.
    pub protocol: &'static str,
    /// Its address.
    pub remote: SocketAddr,
}

impl From<&Ask> for Source {
    fn from(ask: &Ask) -> Source {
        Source { protocol: ask.protocol, remote: ask.remote }
    }
}

const NOTHING: i64 = i64::MIN;

/// One publisher or viewer as the API shows it.
#[derive(Debug)]
pub struct SessionFigures {
    /// Unique in the life of this process.
    pub id: u64,
    /// What it does.
    pub action: Action,
    /// The protocol it speaks.
    pub protocol: &'static str,
    /// The stream it does it with.
    pub stream: StreamName,
    /// Its address.
    pub remote: SocketAddr,
    /// Who it is.
    pub identity: Identity,
    /// When it began.
    pub since: SystemTime,
    bytes: AtomicU64,
    frames: AtomicU64,
    gaps: AtomicU64,
    skipped: AtomicU64,
    /// Decoding time of the last thing that was handed on, in microseconds; NOTHING before.
    sent_micros: AtomicI64,
    /// Of a viewer whose crew counts for it.
    share: Mutex<Option<Share>>,
    cancel: CancellationToken,
}

impl SessionFigures {
    /// Counts bytes and frames (or chunks of a packaging) that went through.
    pub fn count(&self, bytes: u64, frames: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.frames.fetch_add(frames, Ordering::Relaxed);
    }

    pub(crate) fn count_sent(&self, sent: &Sent) {
        self.count(sent.bytes, sent.chunks);
        if let Some(time) = sent.time {
            self.set_sent(time);
        }
    }

    fn shared(&self) -> MutexGuard<'_, Option<Share>> {
        self.share.lock().expect("no code panics while it holds this lock")
    }

    /// From now on somebody else counts what is sent.
    pub(crate) fn share(&self, share: Share) {
        *self.shared() = Some(share);
    }

    /// Takes over what somebody else has counted.
    pub(crate) fn settle(&self) {
        let mut shared = self.shared();
        if let Some(share) = shared.take() {
            self.count_sent(&share.sent());
        }
    }

    /// Counts a gap: so many frames were passed over because the viewer was too slow.
    pub fn count_gap(&self, skipped: u64) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
        self.skipped.fetch_add(skipped, Ordering::Relaxed);
    }

    /// Says what was handed on last: the decoding time, from which it is told how far behind a viewer is.
    pub fn set_sent(&self, time: Time) {
        self.sent_micros.store(time.micros(), Ordering::Relaxed);
    }

    /// Decoding time of the last thing that was handed on.
    pub(crate) fn sent(&self) -> Option<Time> {
        let shared = self.shared();
        let micros = self.sent_micros.load(Ordering::Relaxed);
        let own = (micros != NOTHING).then(|| Time::from_micros(micros));
        own.max(shared.as_ref().and_then(|share| share.sent().time))
    }

    /// Bytes that went through.
    pub fn bytes(&self) -> u64 {
        let shared = self.shared();
        self.bytes.load(Ordering::Relaxed) + shared.as_ref().map_or(0, |share| share.sent().bytes)
    }

    /// Frames, or chunks of a packaging, that went through.
    pub fn frames(&self) -> u64 {
        let shared = self.shared();
        self.frames.load(Ordering::Relaxed) + shared.as_ref().map_or(0, |share| share.sent().chunks)
    }

    /// How often a viewer skipped to a key frame, and how much it missed by that.
    pub fn gaps(&self) -> (u64, u64) {
        (self.gaps.load(Ordering::Relaxed), self.skipped.load(Ordering::Relaxed))
    }

    /// Returns once somebody has ended it from outside.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Whether somebody has ended it from outside.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Ends it: its protocol sees [`Session::cancelled`].
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

/// The viewers of one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audience {
    /// How many.
    pub(crate) viewers: watch::Sender<usize>,
    /// The last one to leave has waited for others already, so nobody else needs to.
    pub(crate) over: Arc<AtomicBool>,
}

/// The right to be listed, and to be counted as a viewer: dropping it ends both.
#[derive(Debug)]
pub struct Session {
    figures: Arc<SessionFigures>,
    registry: Weak<Registry>,
    audience: Option<Audience>,
    /// This viewer leaves for those behind it, too, who have had their grace.
    for_good: bool,
    /// Listed, but not counted as a viewer.
    resting: bool,
}

impl Session {
    /// What is shown of it.
    pub fn figures(&self) -> &Arc<SessionFigures> {
        &self.figures
    }

    /// Returns once somebody has ended this session from outside (API, takeover).
    pub async fn cancelled(&self) {
        self.figures.cancel.cancelled().await;
    }

    /// This viewer is about to leave, and waited before for others to come: the stream need not wait again.
    pub(crate) fn set_for_good(&mut self) {
        self.for_good = true;
    }

    /// A viewer that rests stays listed and does not count. One that comes back is let in whatever the limit: it was
    /// here before.
    pub(crate) fn set_resting(&mut self, resting: bool) {
        if std::mem::replace(&mut self.resting, resting) == resting {
            return;
        }
        let (Some(audience), Some(registry)) = (&self.audience, self.registry.upgrade()) else { return };
        let viewers = &audience.viewers;
        if resting {
            audience.over.store(self.for_good, Ordering::Relaxed);
            viewers.send_modify(|n| *n = n.saturating_sub(1));
            registry.viewers.fetch_sub(1, Ordering::Relaxed);
        } else {
            viewers.send_modify(|n| *n += 1);
            registry.viewers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.set_resting(true);
        if let Some(registry) = self.registry.upgrade() {
            registry.lock().remove(&self.figures.id);
        }
    }
}

/// All sessions by id.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next: AtomicU64,
    viewers: AtomicUsize,
    live: Mutex<HashMap<u64, Arc<SessionFigures>>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<SessionFigures>>> {
        self.live.lock().expect("no code panics while it holds this lock")
    }

    /// How many watch.
    pub(crate) fn viewers(&self) -> usize {
        self.viewers.load(Ordering::Relaxed)
    }

    /// Begins a session. A viewer belongs to the `audience` of its stream.
    pub(crate) fn open(
        self: &Arc<Registry>,
        action: Action,
        stream: &StreamName,
        source: Source,
        identity: Identity,
        audience: Option<Audience>,
    ) -> Session {
        let mut session = self.unlisted(action, stream, source, identity);
        session.audience = audience;
        self.lock().insert(session.figures.id, session.figures.clone());
        if let Some(audience) = &session.audience {
            audience.viewers.send_modify(|n| *n += 1);
            self.viewers.fetch_add(1, Ordering::Relaxed);
        }
        session
    }

    /// A session that is neither listed nor counted: of who reads for others that are.
    pub(crate) fn unlisted(
        self: &Arc<Registry>,
        action: Action,
        stream: &StreamName,
        source: Source,
        identity: Identity,
    ) -> Session {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let figures = Arc::new(SessionFigures {
            id,
            action,
            protocol: source.protocol,
            stream: stream.clone(),
            remote: source.remote,
            identity,
            since: SystemTime::now(),
            bytes: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            sent_micros: AtomicI64::new(NOTHING),
            share: Mutex::new(None),
            cancel: CancellationToken::new(),
        });
        Session { figures, registry: Arc::downgrade(self), audience: None, for_good: false, resting: false }
    }

    pub(crate) fn list(&self) -> Vec<Arc<SessionFigures>> {
        let mut list: Vec<_> = self.lock().values().cloned().collect();
        list.sort_by_key(|s| s.id);
        list
    }

    pub(crate) fn session(&self, id: u64) -> Option<Arc<SessionFigures>> {
        self.lock().get(&id).cloned()
    }
}
