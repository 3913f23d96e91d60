//! Who asks through a link: HTTP/2 is begun for the first request, and let go when none has run for a while.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::pieces::Cut;
use crate::serve;

/// After so long without a request, or up to twice as long, HTTP/2 rests. To begin it again takes no round trip.
const REST_AFTER: Duration = Duration::from_secs(10);

pub(crate) type Sender = SendRequest<Cut<serve::Body>>;

#[derive(Default)]
pub(crate) struct Desk {
    state: Mutex<State>,
    /// Somebody asks, and HTTP/2 rests.
    wanted: Notify,
    /// Nothing runs any more.
    idle: Notify,
    /// There is HTTP/2 now, or there will be none.
    changed: Notify,
}

#[derive(Default)]
struct State {
    sender: Option<Sender>,
    running: usize,
    /// Requests so far.
    begun: u64,
    ended: bool,
}

/// A request that runs, until the last of its answer.
pub(crate) struct Running(Arc<Desk>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        if state.running == 0 {
            self.0.idle.notify_one();
        }
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it is at the desk")
    }

    /// Begins a request, and HTTP/2 where there is none. None: the link has ended.
    pub(crate) async fn begin(self: &Arc<Desk>) -> Option<(Sender, Running)> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(begun) = self.try_begin() {
                return begun;
            }
            self.wanted.notify_one();
            changed.await;
        }
    }

    /// None: HTTP/2 rests.
    fn try_begin(self: &Arc<Desk>) -> Option<Option<(Sender, Running)>> {
        let mut state = self.lock();
        if state.ended {
            return Some(None);
        }
        let sender = state.sender.clone()?;
        state.running += 1;
        state.begun += 1;
        Some(Some((sender, Running(self.clone()))))
    }

    /// Waits for somebody to ask.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// There is HTTP/2 now.
    pub(crate) fn open(&self, sender: Sender) {
        self.lock().sender = Some(sender);
        self.changed.notify_waiters();
    }

    /// Returns once nothing has run for a while; then nothing can before it is opened again. `before`: what is to be done before
    /// HTTP/2 may notice.
    pub(crate) async fn rested(&self, before: impl Fn()) {
        loop {
            let begun = {
                let state = self.lock();
                (state.running == 0).then_some(state.begun)
            };
            let Some(begun) = begun else {
                self.idle.notified().await;
                continue;
            };
            sleep(REST_AFTER).await;
            let mut state = self.lock();
            if state.running == 0 && state.begun == begun {
                before();
                state.sender = None;
                return;
            }
        }
    }

    /// Whether it is of no more use.
    pub(crate) fn is_closed(&self) -> bool {
        let state = self.lock();
        state.ended || state.sender.as_ref().is_some_and(SendRequest::is_closed)
    }

    /// The link has ended.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.sender = None;
        drop(state);
        self.changed.notify_waiters();
    }
}
