//! Readers with a place of their own: [`Subscriber`] reads frames, [`Player`] reads the shared bytes of one packaging.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use culvert_media::{Frame, Tracks};

use crate::packaging::{AnyPackaging, Chunks, Line};
use crate::ring::{Cursor, Read};
use crate::session::{Session, SessionFigures};
use crate::stream::{End, Stream, Wish};

/// What a [`Subscriber`] reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// What the frames that follow are of. Always the first thing read, and again after each change.
    Tracks(Tracks),
    /// The next frame.
    Frame(Frame),
    /// This reader was too slow, or the publisher changed: so many frames were passed over, and the next one read is
    /// a key frame.
    Gap(u64),
    /// There is no more.
    End(End),
}

/// One reader of a stream's frames.
pub struct Subscriber {
    stream: Arc<Stream>,
    session: Session,
    cursor: Cursor,
    tracks: Option<Tracks>,
    /// Read from the ring and not yet given: a gap, a change of tracks and a frame at the most.
    ready: VecDeque<Next>,
    /// Number of the frame that was read last.
    sequence: u64,
}

impl Subscriber {
    pub(crate) fn new(stream: Arc<Stream>, session: Session) -> Subscriber {
        Subscriber { stream, session, cursor: Cursor::default(), tracks: None, ready: VecDeque::new(), sequence: 0 }
    }

    /// Begins at this frame, if it is still there or the next to come, and says so; else where a new reader would. Before
    /// the first [`Subscriber::next`].
    pub fn begin_at(&mut self, sequence: u64) -> bool {
        let state = self.stream.lock();
        let there = state.ring.from(sequence).is_some() && sequence <= state.ring.end();
        if there {
            self.cursor = Cursor::at(sequence);
        }
        there
    }

    /// Tells this life of the stream from others of the same name.
    pub fn epoch(&self) -> u64 {
        self.stream.epoch
    }

    /// The number, within the stream's life, of the frame that [`Subscriber::next`] gave last.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Reads nothing and is no viewer, until the stream ends. Cancel safe. The [`Subscriber::next`] behind it makes this
    /// a viewer again, which begins like a new one: with the tracks, at the newest key frame.
    pub async fn idle(&mut self) -> End {
        self.session.set_resting(true);
        self.cursor = Cursor::default();
        self.tracks = None;
        self.ready.clear();
        loop {
            let stream = self.stream.clone();
            let changed = stream.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.session.figures().is_cancelled() {
                return End::Closed;
            }
            if let Some(end) = self.stream.lock().end.clone() {
                return end;
            }
            tokio::select! {
                () = changed => {}
                () = self.session.cancelled() => return End::Closed,
            }
        }
    }

    /// The next thing. Cancel safe.
    pub async fn next(&mut self) -> Next {
        self.session.set_resting(false);
        loop {
            let stream = self.stream.clone();
            let changed = stream.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.session.figures().is_cancelled() {
                return Next::End(End::Closed);
            }
            if let Some(next) = self.try_next() {
                return next;
            }
            tokio::select! {
                () = changed => {}
                () = self.session.cancelled() => return Next::End(End::Closed),
            }
        }
    }

    /// The next thing, where there is one.
    pub fn try_next(&mut self) -> Option<Next> {
        if self.ready.is_empty() {
            let state = self.stream.lock();
            let slot = match state.ring.read(&mut self.cursor) {
                Read::Item(slot) | Read::First(slot) => slot,
                Read::Gap(skipped, slot) => {
                    self.session.figures().count_gap(skipped);
                    self.ready.push_back(Next::Gap(skipped));
                    slot
                }
                Read::Empty => return state.end.clone().map(Next::End),
            };
            if self.tracks.as_ref().is_none_or(|known| !known.same(&slot.context)) {
                self.tracks = Some(slot.context.clone());
                self.ready.push_back(Next::Tracks(slot.context.clone()));
            }
            self.session.figures().count(slot.body.data.len() as u64, 1);
            self.session.figures().set_sent(slot.time);
            self.sequence = self.cursor.next().map_or(0, |next| next.saturating_sub(1));
            self.ready.push_back(Next::Frame(slot.body.clone()));
        }
        self.ready.pop_front()
    }

    /// What is shown of this reader.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Asks the publisher for something.
    pub fn wish(&self, wish: Wish) {
        self.stream.wish(wish);
    }

    /// Leaves for others who watched through this one, and after whom it has waited already: a stream on demand that
    /// nobody else watches ends now, not a grace later.
    pub fn leave(mut self) {
        self.session.set_for_good();
    }
}

/// Most bytes that one reader takes from a line at a time, unless one chunk alone is larger: what a stalled viewer
/// holds on to beyond the shared cache (issue 2: at most 2 MiB a viewer).
const BATCH_BYTES: usize = 256 << 10;
/// Most chunks that one reader takes at a time; far below the kernel's 1,024 slices a call.
const BATCH_CHUNKS: usize = 128;

/// One viewer of a packaging: it reads bytes that are shared with all other viewers.
pub struct Player {
    pub(crate) line: Arc<Line>,
    pub(crate) cursor: Cursor,
    pub(crate) session: Session,
    /// The packaging is made as long as somebody holds on to it.
    hold: Arc<dyn AnyPackaging>,
}

/// What [`Player::try_take`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Bytes were appended.
    Some,
    /// There is nothing to read now.
    Empty,
    /// There is no more.
    End(End),
}

impl Player {
    pub(crate) fn new(line: Arc<Line>, hold: Arc<dyn AnyPackaging>, session: Session) -> Player {
        Player { line, cursor: Cursor::default(), session, hold }
    }

    /// Appends the next bytes for this viewer, whole chunks, beginning with the packaging's header. Cancel safe.
    pub async fn take(&mut self, out: &mut Vec<Bytes>) -> Result<(), End> {
        loop {
            let line = self.line.clone();
            let changed = line.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.session.figures().is_cancelled() {
                return Err(End::Closed);
            }
            match self.try_take(|bytes| out.push(bytes)) {
                Taken::Some => return Ok(()),
                Taken::End(end) => return Err(end),
                Taken::Empty => tokio::select! {
                    () = changed => {}
                    () = self.session.cancelled() => return Err(End::Closed),
                },
            }
        }
    }

    /// As [`Player::take`], without waiting.
    pub(crate) fn try_take(&mut self, mut out: impl FnMut(Bytes)) -> Taken {
        let line = self.line.clone();
        loop {
            let chunks = line.lock();
            if self.read(&chunks, &mut out) {
                return Taken::Some;
            }
            if !chunks.rest {
                return chunks.end.clone().map_or(Taken::Empty, Taken::End);
            }
            drop(chunks);
            self.hold.make_more();
        }
    }

    /// Reads what there is, at most a batch. False: nothing.
    fn read(&mut self, chunks: &Chunks, mut out: impl FnMut(Bytes)) -> bool {
        let (mut bytes, mut count, mut last) = (0, 0u64, None);
        while bytes < BATCH_BYTES && count < BATCH_CHUNKS as u64 {
            let slot = match chunks.ring.read(&mut self.cursor) {
                Read::Item(slot) => slot,
                Read::First(slot) => {
                    bytes += slot.context.header.len();
                    out(slot.context.header.clone());
                    slot
                }
                Read::Gap(skipped, slot) => {
                    self.session.figures().count_gap(skipped);
                    bytes += slot.context.reentry.len();
                    out(slot.context.reentry.clone());
                    slot
                }
                Read::Empty => break,
            };
            bytes += slot.body.data.len();
            count += 1;
            last = Some(slot.time);
            out(slot.body.data.clone());
        }
        let Some(last) = last else { return false };
        self.session.figures().set_sent(last);
        self.session.figures().count(bytes as u64, count);
        true
    }

    /// What is shown of this viewer.
    pub fn session(&self) -> &Arc<SessionFigures> {
        self.session.figures()
    }
}
