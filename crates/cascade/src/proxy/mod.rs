//! HTTP through a link: any method, bodies both ways as they come, WebSocket upgrades, honest errors with the level
//! where they arose.
//!
//! It does not decide who may: that is done before ([`Proxy::forward`] is for who may), and again by the platform below.

mod fault;
mod headers;
mod path;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use culvert_link::{Answer, Body, Link, LinkError, accept_key, body, empty};
use culvert_media::Cid;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::time::{Instant, sleep_until};

pub use self::fault::{Fault, problem};
pub use self::headers::{drop_hop_by_hop, upward};
pub use self::path::{PathError, check};
use self::upload::{Lease, Progress, Upload};
use crate::peers::Peers;

/// Most platforms that a request goes through (security.md S6).
const HOPS: usize = 4;
/// Who asks, for the audit log of the platform below.
pub const REQUESTER: HeaderName = HeaderName::from_static("culvert-requester");

/// Sends requests to platforms below. Cheap to clone.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    peers: Peers,
    timeout: Duration,
    body_bytes: u64,
}

/// A path on a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Which platform.
    pub cid: Cid,
    /// The path there with its query, as it came.
    pub target: String,
}

impl Destination {
    /// From what stands behind `/peer/`: `CID/path?query`, or `CID` alone. A `token=` in the query is this node's business
    /// and does not go down (security.md S9).
    pub fn parse(behind: &str) -> Result<Destination, Fault> {
        let end = behind.find(['/', '?']).unwrap_or(behind.len());
        let (cid, rest) = behind.split_at(end);
        let cid = Cid::parse(cid).map_err(|why| Fault::Cid(why.to_string()))?;
        let target = if rest.starts_with('/') { rest.to_string() } else { format!("/{rest}") };
        check(&target)?;
        Ok(Destination { cid, target: without_token(&target) })
    }
}

/// A target (`/PATH?QUERY`) without the credential of this node that may be in its query.
pub fn without_token(target: &str) -> String {
    let Some((path, query)) = target.split_once('?').filter(|(_, query)| query.contains("token=")) else {
        return target.to_string();
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("token=")).collect();
    if kept.is_empty() { path.to_string() } else { format!("{path}?{}", kept.join("&")) }
}

/// The cid path from the node that was asked first to this one.
pub fn level(headers: &HeaderMap, own: &Cid) -> String {
    let mut path = headers::via(headers);
    path.push(own.to_string());
    path.join("/")
}

impl Proxy {
    /// For these platforms. `timeout`: how long one may take to begin its answer; `body_bytes`: most of a request.
    pub fn new(peers: Peers, timeout: Duration, body_bytes: u64) -> Proxy {
        Proxy(Arc::new(Inner { peers, timeout, body_bytes }))
    }

    /// Sends a request down and returns what comes back, or the problem that kept it. `requester` is who asks. Spawns a
    /// task for a WebSocket that goes through.
    pub async fn forward(&self, to: &Destination, request: Request<Body>, requester: &str) -> Response<Body> {
        let level = level(request.headers(), self.0.peers.cid());
        match self.try_forward(to, request, requester).await {
            Ok(response) => response,
            Err(fault) => {
                let (status, why) = fault.kind();
                tracing::info!(peer = %to.cid, target = %to.target, %requester, status = status.as_u16(), why, "not proxied");
                self.0.peers.count_fault(why);
                fault.response(&level)
            }
        }
    }

    async fn try_forward(
        &self,
        to: &Destination,
        mut request: Request<Body>,
        requester: &str,
    ) -> Result<Response<Body>, Fault> {
        let mut hops = headers::via(request.headers());
        let own = self.0.peers.cid().to_string();
        if hops.len() >= HOPS || hops.contains(&own) {
            hops.push(own);
            return Err(Fault::Loop(HOPS, hops.join(" > ")));
        }
        hops.push(own);
        let declared = hyper::body::Body::size_hint(request.body()).lower();
        if declared > self.0.body_bytes {
            return Err(Fault::TooLarge(self.0.body_bytes));
        }
        if request.headers().len() > headers::MOST {
            return Err(Fault::TooManyHeaders(headers::MOST));
        }
        let upgrade = Upgrade::wanted(&request)?;
        let link = self.0.peers.get(&to.cid)?;
        // What is made of the request's parts below must not take its upgrade along.
        let upgrade = upgrade.map(|kind| (kind, hyper::upgrade::on(&mut request)));
        let (parts, sent) = request.into_parts();
        let (upload, progress) = Upload::new(if upgrade.is_some() { empty() } else { sent }, self.0.body_bytes);
        let mut down = Request::new(body(upload));
        *down.method_mut() = if upgrade.is_some() { Method::CONNECT } else { parts.method };
        *down.uri_mut() = uri(to)?;
        *down.headers_mut() = parts.headers;
        headers::downward(down.headers_mut());
        let via = headers::via_value(&hops).ok_or_else(|| Fault::Loop(HOPS, hops.join(" > ")))?;
        down.headers_mut().insert(header::VIA, via);
        if let Ok(requester) = HeaderValue::try_from(requester) {
            down.headers_mut().insert(REQUESTER, requester);
        }
        if upgrade.is_some() {
            down.extensions_mut().insert(Protocol::from_static("websocket"));
        }
        let answer = self.answer(&link, to, down, &progress).await?;
        match upgrade {
            Some((kind, client)) if answer.status().is_success() => Ok(kind.accept(answer, client)),
            Some(_) | None => passed_on(to, answer),
        }
    }

    /// The head of the answer. Each piece of an upload gives more time: what is slow is not what is stuck.
    async fn answer(
        &self,
        link: &Link,
        to: &Destination,
        request: Request<Body>,
        progress: &Progress,
    ) -> Result<Response<Answer>, Fault> {
        let asked = link.request(request);
        tokio::pin!(asked);
        let lease = Lease::of(progress);
        let failed = |error: LinkError| match progress.is_too_large() {
            true => Fault::TooLarge(self.0.body_bytes),
            false => Fault::Link(to.cid.clone(), error),
        };
        let timeout = self.0.timeout;
        loop {
            let deadline = progress.last() + timeout;
            tokio::select! {
                answer = &mut asked => {
                    let answer = answer.map_err(failed)?;
                    lease.end();
                    return Ok(answer);
                }
                () = sleep_until(deadline) => {}
            }
            if Instant::now() >= progress.last() + timeout {
                return Err(match progress.is_stalled() {
                    true => Fault::Stalled(timeout),
                    false => Fault::Silent(to.cid.clone(), timeout),
                });
            }
        }
    }
}

fn uri(to: &Destination) -> Result<Uri, Fault> {
    let uri = Uri::builder().scheme("http").authority(to.cid.as_str()).path_and_query(to.target.as_str()).build();
    uri.map_err(|_| Fault::Path(PathError::Character("not allowed in a URL")))
}

fn passed_on(to: &Destination, answer: Response<Answer>) -> Result<Response<Body>, Fault> {
    if answer.headers().len() > headers::MOST {
        return Err(Fault::BadAnswer(to.cid.clone(), "it has too many headers"));
    }
    let mut response = answer.map(body);
    upward(response.headers_mut(), &format!("/peer/{}", to.cid));
    Ok(response)
}

/// How the caller asked for a WebSocket.
enum Upgrade {
    /// HTTP/1.1 (RFC 6455 4.1), with what it is to be answered.
    Http1(HeaderValue),
    /// Extended CONNECT (RFC 8441).
    Connect,
}

impl Upgrade {
    fn wanted(request: &Request<Body>) -> Result<Option<Upgrade>, Fault> {
        if request.method() == Method::CONNECT {
            let websocket = request.extensions().get::<Protocol>().is_some_and(|p| p.as_str() == "websocket");
            return if websocket { Ok(Some(Upgrade::Connect)) } else { Err(Fault::Upgrade) };
        }
        let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let empty = hyper::body::Body::is_end_stream(request.body());
        let Some(upgrade) = text(header::UPGRADE) else { return Ok(None) };
        // HTTP/2 by `Upgrade: h2c` and its kin may be ignored (RFC 9110 7.8).
        if !upgrade.eq_ignore_ascii_case("websocket") {
            return Ok(None);
        }
        let key = text(header::SEC_WEBSOCKET_KEY).filter(|_| text(header::SEC_WEBSOCKET_VERSION) == Some("13"));
        // A body on such a request could be taken for the first bytes of the WebSocket (security.md S7).
        let key = key.filter(|_| request.method() == Method::GET && empty).ok_or(Fault::Upgrade)?;
        let accept = HeaderValue::try_from(accept_key(key)).map_err(|_| Fault::Upgrade)?;
        Ok(Some(Upgrade::Http1(accept)))
    }

    /// Says yes to the caller and joins the two ends. Spawns the task that does.
    fn accept(self, mut answer: Response<Answer>, client: OnUpgrade) -> Response<Body> {
        let mut response = Response::new(empty());
        let headers = response.headers_mut();
        if let Some(protocol) = answer.headers_mut().remove(header::SEC_WEBSOCKET_PROTOCOL) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        if let Upgrade::Http1(accept) = self {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        tokio::spawn(async move {
            let ends = tokio::try_join!(client, hyper::upgrade::on(&mut answer));
            if let Ok((client, below)) = ends {
                // However it ends, both ends end.
                copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(below)).await.ok();
            }
        });
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_a_platform_and_a_path_that_passes() {
        let parse = |text| Destination::parse(text).map(|to| (to.cid.to_string(), to.target));
        let some = |cid: &str, target: &str| Ok((cid.to_string(), target.to_string()));
        assert_eq!(parse("c1/api/v1/streams?a=b"), some("c1", "/api/v1/streams?a=b"));
        assert_eq!(parse("c1"), some("c1", "/"));
        assert_eq!(parse("c1?x"), some("c1", "/?x"));
        assert_eq!(parse("c2/peer/c1/x"), some("c2", "/peer/c1/x"));
        assert_eq!(parse("c1/x?token=a&b=c&token=d&tokens=e"), some("c1", "/x?b=c&tokens=e"));
        assert_eq!(parse("c1?token=a"), some("c1", "/"));
        for wrong in ["", "/x", "..", "c1//x", "c1/../x", "c1/@h/", "c%31/x", "c1/http://h/"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
