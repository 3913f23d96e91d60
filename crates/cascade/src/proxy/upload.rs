//! A request's body on its way down: passed on as it comes, counted, and watched.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use culvert_link::{Body, BoxError};
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const TOO_LARGE: u8 = 2;

/// How far an upload is, as the one who waits for the answer sees it.
#[derive(Debug)]
pub(super) struct Progress {
    state: AtomicU8,
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

    /// Whether the whole body has gone down.
    pub(super) fn is_done(&self) -> bool {
        self.state.load(Ordering::Relaxed) == DONE
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.state.load(Ordering::Relaxed) == TOO_LARGE
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
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let progress = &self.progress;
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                progress.touch();
                let more = frame.data_ref().map_or(0, Buf::remaining) as u64;
                if progress.bytes.fetch_add(more, Ordering::Relaxed) + more > self.most {
                    progress.state.store(TOO_LARGE, Ordering::Relaxed);
                    return Poll::Ready(Some(Err("the body is larger than may go down".into())));
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
