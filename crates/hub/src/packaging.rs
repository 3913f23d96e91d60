//! One packaging of one stream: muxed once, its bytes shared by all who watch it. It begins with its first viewer and
//! ends with its last.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use culvert_media::{Chunk, Frame, Mux, Tracks};
use tokio::sync::Notify;

use crate::End;
use crate::fanout::Crews;
use crate::ring::{Ring, RingLimits};

/// A packaging as the stream that feeds it sees it.
pub(crate) trait AnyPackaging: Send + Sync {
    fn name(&self) -> &'static str;
    fn set_tracks(&self, tracks: &Tracks);
    fn push(&self, frame: &Frame);
    fn end(&self, end: &End);
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// What a viewer needs before an entry chunk.
#[derive(Debug)]
pub(crate) struct Start {
    /// For its first.
    pub(crate) header: Bytes,
    /// For one it skipped to.
    pub(crate) reentry: Bytes,
}

/// The chunks of a packaging, in order, with all who read them.
pub(crate) struct Line {
    ring: Mutex<Chunks>,
    /// A new chunk, or the end.
    pub(crate) changed: Notify,
    /// The loops that write to viewers' sockets.
    pub(crate) crews: Crews,
}

pub(crate) struct Chunks {
    pub(crate) ring: Ring<Chunk, Arc<Start>>,
    pub(crate) end: Option<End>,
}

impl Line {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Chunks> {
        self.ring.lock().expect("no code panics while it holds a line's lock")
    }
}

pub(crate) struct Packaging<M> {
    pub(crate) line: Arc<Line>,
    mux: Mutex<Muxing<M>>,
}

struct Muxing<M> {
    mux: M,
    start: Arc<Start>,
    /// Reused from frame to frame.
    chunks: Vec<Chunk>,
}

impl<M: Mux> Packaging<M> {
    pub(crate) fn new(tracks: &Tracks, limits: RingLimits, workers: usize) -> Packaging<M> {
        let mux = M::new(tracks);
        let start = Arc::new(Start { header: mux.header(), reentry: mux.reentry() });
        Packaging {
            line: Arc::new(Line {
                ring: Mutex::new(Chunks { ring: Ring::new(limits), end: None }),
                changed: Notify::new(),
                crews: Crews::new(workers),
            }),
            mux: Mutex::new(Muxing { mux, start, chunks: Vec::new() }),
        }
    }

    fn mux(&self) -> MutexGuard<'_, Muxing<M>> {
        self.mux.lock().expect("no mux panics")
    }

    fn append(&self, muxing: &mut Muxing<M>) {
        let mut line = self.line.lock();
        for chunk in muxing.chunks.drain(..) {
            let (entry, time, bytes) = (chunk.entry, chunk.time, chunk.data.len());
            line.ring.push(chunk, muxing.start.clone(), entry, time, bytes);
        }
        drop(line);
        self.line.changed.notify_waiters();
    }
}

impl<M: Mux> AnyPackaging for Packaging<M> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn set_tracks(&self, tracks: &Tracks) {
        let muxing = &mut *self.mux();
        muxing.mux.set_tracks(tracks, &mut muxing.chunks);
        muxing.start = Arc::new(Start { header: muxing.mux.header(), reentry: muxing.mux.reentry() });
        self.append(muxing);
    }

    fn push(&self, frame: &Frame) {
        let muxing = &mut *self.mux();
        muxing.mux.push(frame, &mut muxing.chunks);
        self.append(muxing);
    }

    fn end(&self, end: &End) {
        self.line.lock().end = Some(end.clone());
        self.line.changed.notify_waiters();
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
