//! One packaging of one stream: muxed once, its bytes shared by all who watch it. It begins with its first viewer and
//! ends with its last.

use std::any::Any;
use std::collections::VecDeque;
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
    /// False: its viewers cannot follow, and it has ended.
    fn set_tracks(&self, tracks: &Tracks) -> bool;
    fn push(&self, frame: &Frame);
    /// Makes some more of what was cached when the packaging began. For a reader that has read all there is while
    /// [`Chunks::rest`] says that there is more.
    fn make_more(&self);
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
    /// Cached frames are still to be made, and come before anything new and before the end.
    pub(crate) rest: bool,
    pub(crate) end: Option<End>,
}

/// What a packaging is made from.
pub(crate) enum Step {
    /// The frames that follow are of these.
    Tracks(Tracks),
    Frame(Frame),
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
    /// What was cached when the packaging began and is not made yet.
    rest: VecDeque<Step>,
    /// Reused from frame to frame.
    chunks: Vec<Chunk>,
}

/// Bytes of media that are made of the cached at a time. A group of pictures takes milliseconds to copy, and its first viewer
/// sees nothing before the first of it is out.
const MAKE_BYTES: usize = 64 << 10;

impl<M: Mux> Muxing<M> {
    fn set_tracks(&mut self, tracks: &Tracks) {
        self.mux.set_tracks(tracks, &mut self.chunks);
        self.start = Arc::new(Start { header: self.mux.header(), reentry: self.mux.reentry() });
    }
}

impl<M: Mux> Packaging<M> {
    /// A packaging of these tracks that begins with `cached`. Only the first frame of that is made here, the rest as it is
    /// read, or before the next frame.
    pub(crate) fn new(tracks: &Tracks, mut cached: VecDeque<Step>, limits: RingLimits, workers: usize) -> Packaging<M> {
        let mut mux = M::new(tracks);
        // What was cached before a change that cannot be followed is not for its viewers.
        let (mut current, mut begin) = (M::new(tracks), None);
        for (at, step) in cached.iter().enumerate() {
            let Step::Tracks(tracks) = step else { continue };
            if current.follows(tracks) {
                current.set_tracks(tracks, &mut Vec::new());
            } else {
                (current, begin) = (M::new(tracks), Some(at));
            }
        }
        if let Some(Step::Tracks(tracks)) = begin.and_then(|at| cached.drain(..=at).next_back()) {
            mux = M::new(&tracks);
        }
        let start = Arc::new(Start { header: mux.header(), reentry: mux.reentry() });
        let packaging = Packaging {
            line: Arc::new(Line {
                ring: Mutex::new(Chunks { ring: Ring::new(limits), rest: false, end: None }),
                changed: Notify::new(),
                crews: Crews::new(workers),
            }),
            mux: Mutex::new(Muxing { mux, start, rest: cached, chunks: Vec::new() }),
        };
        packaging.make(&mut packaging.mux(), 1);
        packaging
    }

    fn mux(&self) -> MutexGuard<'_, Muxing<M>> {
        self.mux.lock().expect("no mux panics")
    }

    /// Makes what was cached, until `bytes` of media are done.
    fn make(&self, muxing: &mut Muxing<M>, bytes: usize) {
        let mut made = 0;
        while made < bytes
            && let Some(step) = muxing.rest.pop_front()
        {
            match step {
                Step::Tracks(tracks) => muxing.set_tracks(&tracks),
                Step::Frame(frame) => {
                    made += frame.data.len().max(1);
                    muxing.mux.push(&frame, &mut muxing.chunks);
                }
            }
            // One by one: chunks before and after a change of tracks begin with different headers.
            self.append(muxing);
        }
        if muxing.rest.is_empty() {
            muxing.rest = VecDeque::new();
        }
    }

    fn append(&self, muxing: &mut Muxing<M>) {
        let mut line = self.line.lock();
        for chunk in muxing.chunks.drain(..) {
            let (entry, time, bytes) = (chunk.entry, chunk.time, chunk.data.len());
            line.ring.push(chunk, muxing.start.clone(), entry, time, bytes);
        }
        line.rest = !muxing.rest.is_empty();
        drop(line);
        self.line.changed.notify_waiters();
    }
}

impl<M: Mux> AnyPackaging for Packaging<M> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn set_tracks(&self, tracks: &Tracks) -> bool {
        let muxing = &mut *self.mux();
        self.make(muxing, usize::MAX);
        if !muxing.mux.follows(tracks) {
            self.end(&End::Changed);
            return false;
        }
        muxing.set_tracks(tracks);
        self.append(muxing);
        true
    }

    fn push(&self, frame: &Frame) {
        let muxing = &mut *self.mux();
        self.make(muxing, usize::MAX);
        muxing.mux.push(frame, &mut muxing.chunks);
        self.append(muxing);
    }

    fn make_more(&self) {
        let muxing = &mut *self.mux();
        self.make(muxing, MAKE_BYTES);
    }

    fn end(&self, end: &End) {
        self.line.lock().end = Some(end.clone());
        self.line.changed.notify_waiters();
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
