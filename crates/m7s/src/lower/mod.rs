//! An old lower, held by us as its upper: it answers one request at a time, with nothing but a body, and says nothing by itself.

mod catalogue;
mod driver;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_cascade::catalogue::PATH as CATALOGUE;
use culvert_link::{Accepted, Body, BoxFuture, Conn, Link, LinkError, LinkFigures, Other, body};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::gather::{GatherError, gather};
use crate::wire::control::{self, Info};

/// Requests that wait for their turn; more are refused as too many on one link.
const QUEUE: usize = 256;
/// Most bytes of a request's body: it goes in one message, in base64 twice over.
const BODY_BYTES: usize = 8 << 20;
/// No round trip was measured yet.
const UNKNOWN: u64 = u64::MAX;

/// What an old lower is not told. Of an answer only the body comes back: what makes it depend on a status or on a header that
/// nobody will see must not be asked for. The others are of one connection, or follow from the body.
const NOT_SENT: [HeaderName; 11] = [
    header::ACCEPT_ENCODING,
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
    header::HOST,
];

/// What is known of it, which changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    info: Info,
    streams: BTreeSet<String>,
}

/// What its driver shares with those who hold its link.
#[derive(Debug)]
struct Shared {
    cid: String,
    since: SystemTime,
    sent: AtomicU64,
    received: AtomicU64,
    round_trip_micros: AtomicU64,
    known: watch::Sender<Known>,
    news: Notify,
    /// What to say at the end.
    parting: Mutex<Option<(u16, String)>>,
    closing: CancellationToken,
}

/// A request that waits for its turn.
struct Job {
    request: control::Request,
    answer: oneshot::Sender<Result<Bytes, LinkError>>,
}

struct OldLower {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

/// A link on the WebSocket that an old lower dialled; `conn` is what follows our 101. `timeout`: how long one answer may take;
/// `requests`: how many may wait at once.
pub fn accept(
    conn: Conn,
    cid: &str,
    timeout: Duration,
    requests: usize,
) -> Accepted<impl Future<Output = String> + Send + 'static> {
    conn.set_link_options();
    let shared = Arc::new(Shared {
        cid: cid.to_string(),
        since: SystemTime::now(),
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
        round_trip_micros: AtomicU64::new(UNKNOWN),
        known: watch::Sender::new(Known::default()),
        news: Notify::new(),
        parting: Mutex::default(),
        closing: CancellationToken::new(),
    });
    let (jobs, waiting) = mpsc::channel(QUEUE);
    let link = Link::other(Arc::new(OldLower { shared: shared.clone(), jobs }), requests);
    Accepted { link, driver: driver::drive(conn, shared, waiting, timeout) }
}

impl Other for OldLower {
    fn request(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, LinkError>> {
        let (shared, jobs) = (self.shared.clone(), self.jobs.clone());
        Box::pin(async move {
            if request.uri().path() == CATALOGUE {
                return Ok(Response::new(catalogue::body(&shared)));
            }
            ask(request, &jobs).await
        })
    }

    fn news(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.news.notified())
    }

    fn close(&self, status: u16, reason: &str) {
        let mut parting = self.shared.parting.lock().expect("no code panics while it holds last words");
        parting.get_or_insert_with(|| (status, reason.to_string()));
        drop(parting);
        self.shared.closing.cancel();
    }

    fn is_closed(&self) -> bool {
        self.jobs.is_closed() || self.shared.closing.is_cancelled()
    }

    fn figures(&self) -> LinkFigures {
        let micros = self.shared.round_trip_micros.load(Ordering::Relaxed);
        LinkFigures {
            carrier: "m7s",
            since: self.shared.since,
            sent_bytes: self.shared.sent.load(Ordering::Relaxed),
            received_bytes: self.shared.received.load(Ordering::Relaxed),
            unsent_bytes: 0,
            resting: self.jobs.capacity() == self.jobs.max_capacity(),
            round_trip: (micros != UNKNOWN).then(|| Duration::from_micros(micros)),
        }
    }
}

async fn ask(request: Request<Body>, jobs: &mpsc::Sender<Job>) -> Result<Response<Body>, LinkError> {
    let (parts, sent) = request.into_parts();
    if parts.method == Method::CONNECT {
        let why = "this platform runs m7s v4, through whose link no WebSocket goes; what can be had is in docs/09-from-m7s.md";
        return Ok(plain(StatusCode::NOT_IMPLEMENTED, why));
    }
    let sent = match gather(sent, BODY_BYTES).await {
        Ok(sent) => sent,
        Err(why @ GatherError::Large(_)) => {
            let why = format!("this platform runs m7s v4, to which a body goes in one message, and {why}");
            return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, &why));
        }
        Err(why @ GatherError::Broken(_)) => return Err(LinkError::Broken(format!("the request's body: {why}"))),
    };
    let url = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_string();
    let request = control::Request {
        sn: 0,
        url,
        method: parts.method.to_string(),
        headers: sendable(&parts.headers),
        body: sent,
    };
    let (answer, answered) = oneshot::channel();
    jobs.try_send(Job { request, answer }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => LinkError::Busy(QUEUE),
        mpsc::error::TrySendError::Closed(_) => LinkError::Lost("it has ended".into()),
    })?;
    let body = answered.await.unwrap_or_else(|_| Err(LinkError::Lost("it ended meanwhile".into())))?;
    let kind = guess(&body);
    let mut response = Response::new(full(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

fn sendable(headers: &HeaderMap) -> Vec<(String, String)> {
    let kept = headers.iter().filter(|(name, _)| !NOT_SENT.contains(name));
    kept.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_string()))).collect()
}

/// What an answer is, for its headers did not come with it.
fn guess(body: &[u8]) -> &'static str {
    match body.trim_ascii_start().first() {
        Some(b'{' | b'[') => "application/json",
        Some(b'v') if body.starts_with(b"v=0") => "application/sdp",
        Some(_) if std::str::from_utf8(body).is_err() => "application/octet-stream",
        Some(_) | None => "text/plain; charset=utf-8",
    }
}

fn full(from: Bytes) -> Body {
    body(Full::new(from))
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
