//! A request's body on its way down: passed on as it comes, counted, and watched.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use culvert_link::{Body, BoxError};
use futures_util::task::AtomicWaker;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const TOO_LARGE: u8 = 2;
const GIVEN_UP: u8 = 3;

/// How far an upload is, as the one who waits for the answer sees it.
#[derive(Debug)]
pub(super) struct Progress {
    state: AtomicU8,
    /// More was asked of the caller than has come. Where not, it is the platform that does not take what is there.
    wanted: AtomicBool,
    /// Wakes whoever sends the body when it is given up.
    sender: AtomicWaker,
    bytes: AtomicU64,
    last: Mutex<Instant>,
}

impl Progress {
    fn touch(&self) {
        *self.last.lock().expect("no code panics while it holds this lock") = Instant::now();
    }

    /// When the caller last did his part.
    pub(super) fn last(&self) -> Instant {
        *self.last.lock().expect("no code panics while it holds this lock")
    }

    /// Whether the caller is waited for.
    pub(super) fn is_stalled(&self) -> bool {
        self.state.load(Ordering::Relaxed) == RUNNING && self.wanted.load(Ordering::Relaxed)
    }

    /// Nobody waits for the answer any more: the body ends in an error, so that the platform learns of it.
    fn give_up(&self) {
        self.state.compare_exchange(RUNNING, GIVEN_UP, Ordering::Relaxed, Ordering::Relaxed).ok();
        self.sender.wake();
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.state.load(Ordering::Relaxed) == TOO_LARGE
    }
}

/// Gives the upload up when it is dropped before [`Lease::end`].
pub(super) struct Lease<'a>(Option<&'a Progress>);

impl<'a> Lease<'a> {
    pub(super) fn of(progress: &'a Progress) -> Lease<'a> {
        Lease(Some(progress))
    }

    /// The answer has begun: the rest of the upload is between the caller and the platform.
    pub(super) fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(progress) = self.0 {
            progress.give_up();
        }
    }
}

pub(super) struct Upload {
    body: Body,
    most: u64,
    progress: Arc<Progress>,
}

impl Upload {
    /// Passes on at most so many bytes.
    pub(super) fn new(body: Body, most: u64) -> (Upload, Arc<Progress>) {
        let state = if hyper::body::Body::is_end_stream(&body) { DONE } else { RUNNING };
        let progress = Arc::new(Progress {
            state: AtomicU8::new(state),
            wanted: AtomicBool::new(false),
            sender: AtomicWaker::new(),
            bytes: AtomicU64::new(0),
            last: Mutex::new(Instant::now()),
        });
        (Upload { body, most, progress: progress.clone() }, progress)
    }
}

impl hyper::body::Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.progress.sender.register(cx.waker());
        if self.progress.state.load(Ordering::Relaxed) == GIVEN_UP {
            return Poll::Ready(Some(Err("nobody waits for the answer any more".into())));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = hyper::body::Body::is_end_stream(&self.body);
        let progress = &self.progress;
        progress.wanted.store(polled.is_pending(), Ordering::Relaxed);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                progress.touch();
                let more = frame.data_ref().map_or(0, Buf::remaining) as u64;
                if progress.bytes.fetch_add(more, Ordering::Relaxed) + more > self.most {
                    progress.state.store(TOO_LARGE, Ordering::Relaxed);
                    return Poll::Ready(Some(Err("the body is larger than may go down".into())));
                }
                // Who knows its length does not ask for the end.
                if ended {
                    progress.state.store(DONE, Ordering::Relaxed);
                }
            }
            Poll::Ready(None) => {
                progress.touch();
                progress.state.store(DONE, Ordering::Relaxed);
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
