//! A stream in HLS: one window for all who watch it, fed by one reader.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use culvert_hub::{Next, Session, Subscriber};
use culvert_media::{StreamName, Tracks};
use tokio::sync::Notify;

use crate::playlist;
use crate::window::{Settings, Window};

/// The window of a stream, and what is told of it.
pub(crate) struct Channel {
    pub(crate) stream: StreamName,
    state: Mutex<State>,
    /// A part, a segment, or the end.
    pub(crate) changed: Notify,
    seats: AtomicUsize,
    /// Somebody left.
    left: Notify,
}

pub(crate) struct State {
    pub(crate) window: Window,
    /// Written once for all who ask between two changes.
    whole: Option<Bytes>,
    delta: Option<Bytes>,
}

impl State {
    /// The media playlist as it is now; None before the first segment is complete.
    pub(crate) fn playlist(&mut self, delta: bool) -> Option<Bytes> {
        let kept = if delta { &mut self.delta } else { &mut self.whole };
        if kept.is_none() {
            *kept = playlist::media(&self.window, delta).map(Bytes::from);
        }
        kept.clone()
    }

    fn change(&mut self, change: impl FnOnce(&mut Window)) {
        change(&mut self.window);
        (self.whole, self.delta) = (None, None);
    }
}

/// One who watches; the last to leave ends the channel.
pub(crate) struct Seat {
    pub(crate) channel: Arc<Channel>,
    pub(crate) session: Session,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.channel.seats.fetch_sub(1, Ordering::AcqRel);
        self.channel.left.notify_one();
    }
}

/// Why a channel is read no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// Nobody watches.
    Left,
    /// The stream has ended.
    Ended,
}

impl Channel {
    /// A channel whose first segment has the one number, after as many discontinuities as the other.
    pub(crate) fn new(stream: StreamName, settings: Settings, tracks: &Tracks, from: (u64, u64)) -> Channel {
        let state = State { window: Window::new(settings, tracks, from.0, from.1), whole: None, delta: None };
        Channel {
            stream,
            state: Mutex::new(state),
            changed: Notify::new(),
            seats: AtomicUsize::new(0),
            left: Notify::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a window")
    }

    /// A place for a viewer.
    pub(crate) fn seat(self: &Arc<Channel>, session: Session) -> Seat {
        self.seats.fetch_add(1, Ordering::AcqRel);
        Seat { channel: self.clone(), session }
    }

    pub(crate) fn is_left(&self) -> bool {
        self.seats.load(Ordering::Acquire) == 0
    }

    /// Returns once nobody has a seat.
    pub(crate) async fn left(&self) {
        while !self.is_left() {
            self.left.notified().await;
        }
    }

    /// Changes the window and tells all who wait for that.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Window)) {
        self.lock().change(change);
        self.changed.notify_waiters();
    }

    /// Fills the window until the stream has ended or nobody is left.
    pub(crate) async fn fill(&self, reader: &mut Subscriber) -> Over {
        loop {
            let next = tokio::select! {
                next = reader.next() => next,
                () = self.left() => return Over::Left,
            };
            match next {
                Next::Frame(frame) => {
                    let mut state = self.lock();
                    if state.window.handle_frame(&frame) {
                        state.change(|_| {});
                        drop(state);
                        self.changed.notify_waiters();
                    }
                }
                Next::Tracks(tracks) => self.change(|window| window.handle_tracks(&tracks)),
                Next::Gap(_) => self.change(Window::handle_gap),
                Next::End(_) => return Over::Ended,
            }
        }
    }
}
