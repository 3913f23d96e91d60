//! The right to write to a stream. Dropping it ends the stream.

use std::sync::Arc;

use culvert_media::{Frame, StreamName, Tracks};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use crate::hub::{Event, Hub};
use crate::session::Session;
use crate::stream::{End, Stream, Wish};

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
    wishes: mpsc::Receiver<Wish>,
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
        Publisher { hub, stream, generation, session, wishes, end: End::Lost }
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

    /// Passes a frame on to all viewers. Never waits: slow viewers skip.
    pub fn write(&self, frame: Frame) -> Result<(), Replaced> {
        self.session.figures().count(frame.data.len() as u64, 1);
        if self.stream.write(self.generation, frame) { Ok(()) } else { Err(Replaced) }
    }

    /// The next thing that viewers want. Cancel safe. Waits for ever once another publisher took over.
    pub async fn wish(&mut self) -> Wish {
        match self.wishes.recv().await {
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
        self.stream.viewers.subscribe()
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
