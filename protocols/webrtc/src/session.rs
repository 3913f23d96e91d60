//! A session as its owner changes and ends it (RFC 9725 4.2, 4.3). Whoever has the id has the session.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request as HttpRequest};
use axum::response::{IntoResponse, Response};
use culvert_hub::parameter;
use culvert_net::web;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::proof::Remote;
use crate::server::{Fault, WebRtc, open, read};

const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
/// Largest fragment: a thousand candidates.
const MAX_BYTES: usize = 64 << 10;
/// How long the task of a session may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A peer begins its ICE anew, for its network is another one.
pub(crate) struct Restart {
    pub(crate) remote: Remote,
    /// Takes our side of it, as a fragment, or why it cannot be.
    pub(crate) answer: oneshot::Sender<Result<String, String>>,
}

/// How a session is reached.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) closed: CancellationToken,
    pub(crate) restarts: mpsc::Sender<Restart>,
    /// The credentials that hold now; each other ones are a restart.
    pub(crate) remote: Remote,
    /// How many restarts there were.
    pub(crate) restarted: u32,
}

impl Handle {
    /// What stands for it as it is now.
    pub(crate) fn tag(&self, id: &str) -> String {
        format!("\"{id}-{}\"", self.restarted)
    }
}

/// Candidates that come one by one are of no use to us, for who wants something finds us; other credentials are a restart.
pub(crate) async fn patch(Extension(webrtc): Extension<WebRtc>, http: HttpRequest) -> Response {
    let answer = change(&webrtc, http).await;
    open(answer.unwrap_or_else(refused))
}

async fn change(webrtc: &WebRtc, http: HttpRequest) -> Result<Response, Fault> {
    let (parts, body) = http.into_parts();
    let id = parameter(parts.uri.query().unwrap_or_default(), "session").unwrap_or_default().to_string();
    let handle = webrtc.sessions().get(&id).cloned().ok_or_else(unknown)?;
    is_current(&parts.headers, &handle.tag(&id))?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or(FRAGMENT);
    if !kind.starts_with(FRAGMENT) {
        return Err(Fault(415, "no-fragment", format!("the body must be {FRAGMENT}, not {kind}")));
    }
    let body = read(body, MAX_BYTES).await?;
    let text = str::from_utf8(&body).map_err(|_| Fault(400, "bad-fragment", "the fragment is no text".into()))?;
    let Some(remote) = Remote::of(text).filter(|remote| *remote != handle.remote) else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let (answer, answered) = oneshot::channel();
    let busy = |_| Fault(503, "busy", "the session is busy with another restart, or is just ending; try again".into());
    handle.restarts.try_send(Restart { remote: remote.clone(), answer }).map_err(|_| busy(()))?;
    let answered = timeout(ANSWER, answered).await.map_err(|_| busy(()))?.map_err(|_| unknown())?;
    let fragment = answered.map_err(|why| Fault(400, "bad-fragment", format!("ICE cannot begin anew: {why}")))?;
    let mut sessions = webrtc.sessions();
    let known = sessions.get_mut(&id).ok_or_else(unknown)?;
    (known.remote, known.restarted) = (remote, known.restarted + 1);
    let mut response = fragment.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(FRAGMENT));
    headers.extend(HeaderValue::from_str(&known.tag(&id)).map(|tag| (header::ETAG, tag)));
    Ok(response)
}

/// Whether the request is about the session as it is now, where it says about which it is.
fn is_current(headers: &HeaderMap, tag: &str) -> Result<(), Fault> {
    let wanted = headers.get(header::IF_MATCH).and_then(|wanted| wanted.to_str().ok());
    let fits = |wanted: &str| wanted.split(',').any(|one| one.trim() == "*" || one.trim() == tag);
    if wanted.is_none_or(fits) {
        return Ok(());
    }
    Err(Fault(412, "other-session", "ICE of this session has begun anew since: see its newest ETag".into()))
}

pub(crate) async fn delete(Extension(webrtc): Extension<WebRtc>, http: HttpRequest) -> Response {
    let id = parameter(http.uri().query().unwrap_or_default(), "session").unwrap_or_default();
    let handle = webrtc.sessions().get(&*id).cloned();
    open(match handle {
        Some(handle) => {
            handle.closed.cancel();
            StatusCode::OK.into_response()
        }
        None => refused(unknown()),
    })
}

fn unknown() -> Fault {
    Fault(404, "no-session", "there is no such session, or it has ended".into())
}

fn refused(Fault(status, kind, what): Fault) -> Response {
    web::refusal(status, kind, &what).map(Body::from).into_response()
}
