//! The right to write to a stream. Dropping it ends the stream.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_media::{Frame, StreamName, Tracks};
use thiserror::Error;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

use crate::hub::{Event, Hub};
use crate::session::Session;
use crate::stream::{End, Stream, Upstream, Wish};

/// A write came too late: another publisher took over, or the stream was closed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("this publisher was replaced or its stream was closed")]
pub struct Replaced;

/// Exactly one per stream.
pub struct Publisher {
    hub: Hub,
    stream: Arc<Stream>,
    generation: u64,
    session: Session,
    /// Behind a lock so that one task may wait for wishes and for viewers at once.
    wishes: Mutex<mpsc::Receiver<Wish>>,
    /// How many watch, and whether that changed since this publisher began.
    viewers_since: watch::Receiver<usize>,
    end: End,
}

impl Publisher {
    pub(crate) fn new(
        hub: Hub,
        stream: Arc<Stream>,
        generation: u64,
        session: Session,
        wishes: mpsc::Receiver<Wish>,
    ) -> Publisher {
        let viewers_since = stream.audience.viewers.subscribe();
        Publisher { hub, stream, generation, session, wishes: Mutex::new(wishes), viewers_since, end: End::Lost }
    }

    /// The stream's name.
    pub fn name(&self) -> &StreamName {
        &self.stream.name
    }

    /// Says what the stream is made of, at the start and whenever that changes. Frames before the first call are
    /// dropped; after a change, video waits for a key frame.
    pub fn set_tracks(&self, tracks: Tracks) {
        if self.stream.set_tracks(self.generation, tracks) {
            let figures = self.session.figures();
            tracing::info!(
                stream = %self.stream.name, protocol = figures.protocol, remote = %figures.remote,
                identity = %figures.identity.name, "publishing"
            );
            self.hub.announce(Event::Live(self.stream.name.clone()));
        }
    }

    /// The source was connected anew: its timestamps need not go on where the last ones stopped. Viewers stay, and go
    /// on at its first key frame.
    pub fn restart(&self) {
        self.stream.restart(self.generation);
    }

    /// The source rests because nobody watches. What is cached is forgotten, for it would be old when a viewer comes: he
    /// waits for the next key frame. The stream stays live.
    pub fn forget(&self) {
        self.stream.forget(self.generation);
    }

    /// Frames are missing here, though the timeline goes on. Viewers stay, and go on at the next key frame.
    pub fn gap(&self) {
        self.stream.gap(self.generation);
    }

    /// What the sender of this stream says that it left out.
    pub fn set_upstream(&self, upstream: Upstream) {
        self.stream.set_upstream(self.generation, upstream);
    }

    /// Ends the stream once nobody has watched it for `grace`, or at once when the last one left
    /// [for good](crate::Subscriber::leave); a first viewer has until `first` to come. Returns after that. Whoever asks to play in the same moment is either counted, and the stream goes on, or finds it ended.
    pub async fn end_unwatched(&self, first: Duration, grace: Duration) {
        // From when this publisher began: who came and went before this was first polled has been there, too.
        let mut viewers = self.viewers_since.clone();
        let mut patience = first;
        loop {
            // The sender lives in the stream, which this holds.
            if *viewers.borrow() == 0 && timeout(patience, viewers.changed()).await.is_err() {
                if self.stream.end_unwatched(self.generation, End::Finished) {
                    self.hub.remove(&self.stream);
                    return;
                }
                // Taken over or closed: whoever did that sees to the rest.
                if self.stream.lock().end.is_some() || self.session.figures().is_cancelled() {
                    return std::future::pending().await;
                }
            }
            if viewers.wait_for(|n| *n == 0).await.is_err() {
                return;
            }
            patience = if self.stream.audience.over.load(Ordering::Relaxed) { Duration::ZERO } else { grace };
        }
    }

    /// Passes a frame on to all viewers. Never waits: slow viewers skip.
    pub fn write(&self, frame: Frame) -> Result<(), Replaced> {
        self.session.figures().count(frame.data.len() as u64, 1);
        if self.stream.write(self.generation, frame) { Ok(()) } else { Err(Replaced) }
    }

    /// The next thing that viewers want. Cancel safe. Waits for ever once another publisher took over.
    pub async fn wish(&self) -> Wish {
        match self.wishes.lock().await.recv().await {
            Some(wish) => wish,
            None => std::future::pending().await,
        }
    }

    /// Returns once this publisher has to go: another one took over, or the API closed it.
    pub async fn cancelled(&self) {
        self.session.cancelled().await;
    }

    /// How many watch, and news of it.
    pub fn viewers(&self) -> watch::Receiver<usize> {
        self.stream.audience.viewers.subscribe()
    }

    /// What is shown of this publisher.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Ends the stream, telling viewers why. Dropping says [`End::Lost`].
    pub fn finish(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let end = std::mem::replace(&mut self.end, End::Lost);
        // The generation is compared inside: a publisher that was replaced cleans up nothing.
        if self.stream.end(self.generation, end) {
            self.hub.remove(&self.stream);
        }
    }
}
