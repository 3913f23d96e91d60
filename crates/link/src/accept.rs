//! The upper's end: an HTTP/2 client on a connection that it accepted, while something is asked.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use culvert_net::Conn;
use culvert_net::ws::Role;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::carrier::{Carrier, Woken};
use crate::desk::{Desk, Running};
use crate::figures::{LinkFigures, Shared};
use crate::handle::{self, Handle, Lent, lock};
use crate::pieces::Cut;
use crate::retry::{RESTART, RetryHint};
use crate::serve::{self, explain};
use crate::{CONNECTION_WINDOW, HEAD, LARGEST_FRAME, LEFT, SEND_BUFFER, STREAM_WINDOW};

/// A link as its upper holds it. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    desk: Arc<Desk>,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    requests: usize,
}

/// The body of an answer. Its request counts as under way until this is dropped.
pub struct Answer {
    body: Incoming,
    _running: Running,
    _place: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answer").field(&self.body).finish()
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a request through a link has no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LinkError {
    /// The link is gone, or went while the answer was awaited.
    #[error("the link was lost: {0}")]
    Lost(String),
    /// As many requests are under way as this link may have.
    #[error("{0} requests are under way on this link, which is as many as it may have (limits.peer_requests)")]
    Busy(usize),
    /// What came was no HTTP.
    #[error("the answer was broken: {0}")]
    Broken(String),
}

/// A link that was just made.
pub struct Accepted<D> {
    /// To send requests into.
    pub link: Link,
    /// Runs the link; returns why it ended, as a sentence. Dropping it ends the link.
    pub driver: D,
}

/// A link on a WebSocket that a lower dialled; `conn` is what follows our 101. `requests`: how many at once.
pub fn accept(conn: Conn, requests: usize) -> Accepted<impl Future<Output = String> + Send + 'static> {
    conn.set_link_options();
    let shared = Arc::new(Shared::new());
    let lent = Arc::new(Mutex::new(Carrier::new(conn, Role::Server, shared.clone())));
    let desk = Arc::new(Desk::default());
    let link =
        Link { desk: desk.clone(), shared: shared.clone(), places: Arc::new(Semaphore::new(requests)), requests };
    let driver = async move {
        let ended = drive(&lent, &desk, &shared).await;
        desk.end();
        match (shared.was_closed(), shared.closed(), ended) {
            (Some((_, reason)), _, _) => format!("closed by this node: {reason}"),
            (None, Some((status, reason)), _) if reason.is_empty() => format!("closed by the other end ({status})"),
            (None, Some((_, reason)), _) => format!("closed by the other end: {reason}"),
            (None, None, Err(why)) => why,
            (None, None, Ok(())) if shared.is_broken_off() => "the connection ended without a word".to_string(),
            // GOAWAY (RFC 9113 6.8): no request begins any more, and those that are running are finished without us.
            (None, None, Ok(())) => "the other end is shutting down".to_string(),
        }
    };
    Accepted { link, driver }
}

/// Runs a link until it ends: HTTP/2 while something is asked, and the bare carrier in between. The error is a sentence.
async fn drive(lent: &Lent, desk: &Desk, shared: &Shared) -> Result<(), String> {
    loop {
        let ready = lock(lent).is_at_rest();
        tokio::select! {
            woken = handle::keep(lent) => match woken? {
                Woken::Rested => continue,
                Woken::End => return Ok(()),
                Woken::Bytes => return Err("the other end spoke without being asked".into()),
            },
            () = desk.wanted(), if ready => {}
        }
        // In a box: between two requests it takes up nothing.
        if !Box::pin(ask(lent, desk)).await? || shared.closed().is_some() {
            return Ok(());
        }
    }
}

/// HTTP/2 until nothing was asked for a while. False: the link has ended.
async fn ask(lent: &Lent, desk: &Desk) -> Result<bool, String> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_frame_size(LARGEST_FRAME)
        .max_header_list_size(HEAD)
        .max_concurrent_reset_streams(LEFT)
        // Frames that come late for what was forgotten all the same are no fault, however many.
        .max_local_error_reset_streams(None);
    let (handle, back) = Handle::of(lent);
    let handshake = builder.handshake::<_, Cut<serve::Body>>(TokioIo::new(handle)).await;
    let (sender, mut connection) = handshake.map_err(|error| explain(&error))?;
    desk.open(sender);
    tokio::select! {
        ended = &mut connection => {
            return ended.map(|()| false).map_err(|error| explain(&error));
        }
        // Whoever writes the last of it must know before that the carrier stays.
        () = desk.rested(|| lock(lent).want_rest()) => {}
    }
    connection.await.map_err(|error| explain(&error))?;
    // The sender's end is an error to nobody.
    back.await.ok();
    Ok(lock(lent).has_rested())
}

impl Link {
    /// Sends a request whose target is a path (and query), and returns its answer's head with the body to come.
    /// Cancelling it, or dropping the body, cancels the request at the other end. Never waits for a place.
    pub async fn request(&self, request: Request<serve::Body>) -> Result<Response<Answer>, LinkError> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| LinkError::Busy(self.requests))?;
        self.send(request, Some(place)).await
    }

    /// The same for what the node itself asks once and keeps open: it takes nobody's place.
    pub async fn request_of_own(&self, request: Request<serve::Body>) -> Result<Response<Answer>, LinkError> {
        self.send(request, None).await
    }

    async fn send(
        &self,
        request: Request<serve::Body>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Response<Answer>, LinkError> {
        let begun = self.desk.begin().await;
        let (mut sender, running) = begun.ok_or_else(|| LinkError::Lost(self.last_words("it has ended")))?;
        sender.ready().await.map_err(|error| LinkError::Lost(self.why(&error)))?;
        let request = request.map(|body| Cut::new(body, self.shared.clone()));
        let response = sender.send_request(request).await.map_err(|error| match is_of_one_request(&error) {
            true => LinkError::Broken(explain(&error)),
            false => LinkError::Lost(self.why(&error)),
        })?;
        Ok(response.map(|body| Answer { body, _running: running, _place: place }))
    }

    /// Waits until the other end says that there are news.
    pub async fn news(&self) {
        self.shared.news().await;
    }

    fn why(&self, error: &hyper::Error) -> String {
        self.last_words(&explain(error))
    }

    /// What one of the ends said when it ended the link, or else this.
    fn last_words(&self, otherwise: &str) -> String {
        let said = [self.shared.closed(), self.shared.was_closed()].into_iter().flatten();
        said.map(|(_, reason)| reason).find(|reason| !reason.is_empty()).unwrap_or_else(|| otherwise.to_string())
    }

    /// The WebSocket status with which the other end closed it.
    pub fn closed_with(&self) -> Option<u16> {
        self.shared.closed().map(|(status, _)| status)
    }

    /// Whether it is of no more use: it has ended, or was told to.
    pub fn is_closed(&self) -> bool {
        self.desk.is_closed() || self.shared.was_closed().is_some()
    }

    /// What is known of it.
    pub fn figures(&self) -> LinkFigures {
        self.shared.figures()
    }

    /// Ends it with a WebSocket status and a reason of at most 123 bytes.
    pub fn close(&self, status: u16, reason: &str) {
        self.shared.close(status, reason);
    }

    /// Ends it because this node goes away: no request begins any more, those that are running have so long to finish, and the
    /// lower comes back as the hint says.
    pub async fn drain(&self, hint: RetryHint, within: Duration) {
        let all = u32::try_from(self.requests).unwrap_or(u32::MAX);
        // Who did not finish in time is cut off by what follows.
        timeout(within, self.places.acquire_many(all)).await.ok();
        self.shared.close(RESTART, &hint.reason());
    }
}

/// Whether the link goes on: the other end, or this one, gave up this request alone.
fn is_of_one_request(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    // What the library or the caller's body did wrong before anything was sent has no such cause.
    cause.map_or(error.is_user(), h2::Error::is_reset)
}
