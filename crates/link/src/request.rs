//! A link as its upper holds it: where requests are sent into, whatever carries them.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::desk::{Desk, Running};
use crate::figures::{LinkFigures, Shared};
use crate::pieces::Cut;
use crate::retry::{RESTART, RetryHint};
use crate::serve::{self, BoxError, explain};

/// What comes later, of any kind.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What carries a link's requests where that is not HTTP/2: peers that speak something older.
pub trait Other: Send + Sync + 'static {
    /// Sends a request, as [`Link::request`].
    fn request(&self, request: Request<serve::Body>) -> BoxFuture<'static, Result<Response<serve::Body>, LinkError>>;
    /// Waits until what the other end has to tell is no longer what it told.
    fn news(&self) -> BoxFuture<'_, ()>;
    /// Ends it with a WebSocket status and a reason.
    fn close(&self, status: u16, reason: &str);
    /// Whether it has ended, or was told to.
    fn is_closed(&self) -> bool;
    /// What is known of it.
    fn figures(&self) -> LinkFigures;
}

/// A link as its upper holds it. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    carrier: Carries,
    places: Arc<Semaphore>,
    requests: usize,
}

#[derive(Clone)]
enum Carries {
    Http2 { desk: Arc<Desk>, shared: Arc<Shared> },
    Other(Arc<dyn Other>),
}

/// The body of an answer. Its request counts as under way until this is dropped.
pub struct Answer {
    body: Whose,
    _running: Option<Running>,
    _place: Option<OwnedSemaphorePermit>,
}

enum Whose {
    Http2(Incoming),
    Other(serve::Body),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("end", &self.is_end_stream()).finish_non_exhaustive()
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.body {
            Whose::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Whose::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Whose::Http2(body) => body.is_end_stream(),
            Whose::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Whose::Http2(body) => body.size_hint(),
            Whose::Other(body) => body.size_hint(),
        }
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
    /// The peer did not answer; what carries its link bounds that by itself.
    #[error("it did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// What came was no HTTP.
    #[error("the answer was broken: {0}")]
    Broken(String),
}

impl Link {
    pub(crate) fn http2(desk: Arc<Desk>, shared: Arc<Shared>, requests: usize) -> Link {
        Link { carrier: Carries::Http2 { desk, shared }, places: Arc::new(Semaphore::new(requests)), requests }
    }

    /// A link that something else carries. `requests`: how many at once.
    pub fn other(carrier: Arc<dyn Other>, requests: usize) -> Link {
        Link { carrier: Carries::Other(carrier), places: Arc::new(Semaphore::new(requests)), requests }
    }

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
        let (desk, shared) = match &self.carrier {
            Carries::Http2 { desk, shared } => (desk, shared),
            Carries::Other(other) => {
                let response = other.request(request).await?;
                return Ok(response.map(|body| Answer { body: Whose::Other(body), _running: None, _place: place }));
            }
        };
        let begun = desk.begin().await;
        let (mut sender, running) = begun.ok_or_else(|| LinkError::Lost(last_words(shared, "it has ended")))?;
        let lost = |error: &hyper::Error| LinkError::Lost(last_words(shared, &explain(error)));
        sender.ready().await.map_err(|error| lost(&error))?;
        let request = request.map(|body| Cut::new(body, shared.clone()));
        let response = sender.send_request(request).await.map_err(|error| match is_of_one_request(&error) {
            true => LinkError::Broken(explain(&error)),
            false => lost(&error),
        })?;
        Ok(response.map(|body| Answer { body: Whose::Http2(body), _running: Some(running), _place: place }))
    }

    /// Waits until the other end says that there are news.
    pub async fn news(&self) {
        match &self.carrier {
            Carries::Http2 { shared, .. } => shared.news().await,
            Carries::Other(other) => other.news().await,
        }
    }

    /// The WebSocket status with which the other end closed it.
    pub fn closed_with(&self) -> Option<u16> {
        match &self.carrier {
            Carries::Http2 { shared, .. } => shared.closed().map(|(status, _)| status),
            Carries::Other(_) => None,
        }
    }

    /// Whether it is of no more use: it has ended, or was told to.
    pub fn is_closed(&self) -> bool {
        match &self.carrier {
            Carries::Http2 { desk, shared } => desk.is_closed() || shared.was_closed().is_some(),
            Carries::Other(other) => other.is_closed(),
        }
    }

    /// What is known of it.
    pub fn figures(&self) -> LinkFigures {
        match &self.carrier {
            Carries::Http2 { shared, .. } => shared.figures(),
            Carries::Other(other) => other.figures(),
        }
    }

    /// Ends it with a WebSocket status and a reason of at most 123 bytes.
    pub fn close(&self, status: u16, reason: &str) {
        match &self.carrier {
            Carries::Http2 { shared, .. } => shared.close(status, reason),
            Carries::Other(other) => other.close(status, reason),
        }
    }

    /// Ends it because this node goes away: no request begins any more, those that are running have so long to finish, and the
    /// lower comes back as the hint says.
    pub async fn drain(&self, hint: RetryHint, within: Duration) {
        let all = u32::try_from(self.requests).unwrap_or(u32::MAX);
        // Who did not finish in time is cut off by what follows.
        timeout(within, self.places.acquire_many(all)).await.ok();
        self.close(RESTART, &hint.reason());
    }
}

/// What one of the ends said when it ended the link, or else this.
fn last_words(shared: &Shared, otherwise: &str) -> String {
    let said = [shared.closed(), shared.was_closed()].into_iter().flatten();
    said.map(|(_, reason)| reason).find(|reason| !reason.is_empty()).unwrap_or_else(|| otherwise.to_string())
}

/// Whether the link goes on: the other end, or this one, gave up this request alone.
fn is_of_one_request(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    // What the library or the caller's body did wrong before anything was sent has no such cause.
    cause.map_or(error.is_user(), h2::Error::is_reset)
}
