//! Devices on this node's own network, such as a camera's web page, reached through it at `/target/NAME/..` and from above
//! at `/peer/CID/target/NAME/..`. Only those that the configuration names (security.md S4).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use culvert_cascade::{check, drop_hop_by_hop, upward};
use culvert_net::http1::{PROBLEM_TYPE, problem};
use culvert_net::{Conn, dial, tls};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, Uri};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::config::{TargetName, TargetUrl};

/// How long each step towards a device, and the beginning of its answer, may take.
const STEP: Duration = Duration::from_secs(10);

/// Of one connection only, or for this node alone; the device has its own credentials from the configuration.
const STAY: [HeaderName; 12] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::ORIGIN,
    header::REFERER,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VIA,
    culvert_cascade::REQUESTER,
];

pub(super) struct Targets {
    rows: BTreeMap<String, TargetUrl>,
    trust: Arc<ClientConfig>,
}

struct No(StatusCode, &'static str, String);

impl Targets {
    pub(super) fn new(rows: &BTreeMap<TargetName, TargetUrl>) -> anyhow::Result<Targets> {
        let rows = rows.iter().map(|(name, url)| (name.as_str().to_string(), url.clone())).collect();
        Ok(Targets { rows, trust: tls::client(None)? })
    }

    /// `behind`: what stands behind `/target/`, as it came.
    pub(super) async fn forward(&self, behind: &str, request: Request) -> Response {
        self.try_forward(behind, request).await.unwrap_or_else(|No(status, kind, detail)| {
            let body = problem(status.as_u16(), kind, &detail);
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
            response
        })
    }

    async fn try_forward(&self, behind: &str, mut request: Request) -> Result<Response, No> {
        let end = behind.find(['/', '?']).unwrap_or(behind.len());
        let (name, rest) = behind.split_at(end);
        let target = self.rows.get(name).ok_or_else(|| {
            No(StatusCode::NOT_FOUND, "unknown-target", format!("no device {name:?} is named in cascade.targets here"))
        })?;
        let path = if rest.starts_with('/') { rest.to_string() } else { format!("/{rest}") };
        check(&path).map_err(|why| No(StatusCode::BAD_REQUEST, "bad-path", why.to_string()))?;
        let upgrade =
            request.headers().get(header::UPGRADE).is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let client = upgrade.then(|| hyper::upgrade::on(&mut request));
        let conn = self.connect(name, target).await?;
        let broken =
            |why: hyper::Error| No(StatusCode::BAD_GATEWAY, "target-broken", format!("the device {name}: {why}"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(conn)).await.map_err(broken)?;
        // It ends with the answer's body, or with the WebSocket.
        tokio::spawn(connection.with_upgrades());
        let (parts, body) = request.into_parts();
        // A body, even an empty one in chunks, would be taken for the first bytes of the WebSocket.
        let mut asked = http::Request::new(if upgrade { Body::empty() } else { body });
        *asked.method_mut() = parts.method;
        let prefix = target.path().trim_end_matches('/');
        *asked.uri_mut() = Uri::try_from(format!("{prefix}{path}"))
            .map_err(|why| No(StatusCode::BAD_REQUEST, "bad-path", why.to_string()))?;
        *asked.headers_mut() = downward(parts.headers, target, upgrade);
        let silent = || No(StatusCode::GATEWAY_TIMEOUT, "target-silent", format!("the device {name} does not answer"));
        let answer = timeout(STEP, sender.send_request(asked)).await.map_err(|_| silent())?.map_err(broken)?;
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (answer.status(), client) {
            return Ok(joined(answer, client));
        }
        let mut answer = answer.map(Body::new);
        // Within what is mounted here a path is one of this node; what leads elsewhere on the device leads nowhere.
        let moved = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let moved = moved.and_then(|to| at_device(to, target)).and_then(|to| to.strip_prefix(prefix));
        let moved = moved.filter(|to| to.starts_with('/')).and_then(|to| HeaderValue::try_from(to).ok());
        if let Some(moved) = moved {
            answer.headers_mut().insert(header::LOCATION, moved);
        }
        upward(answer.headers_mut(), &format!("/target/{name}"));
        Ok(answer)
    }

    async fn connect(&self, name: &str, target: &TargetUrl) -> Result<Conn, No> {
        let trust = target.is_secure().then(|| self.trust.clone());
        let conn = dial(target.host(), target.port(), trust, STEP).await.map_err(|why| {
            No(StatusCode::BAD_GATEWAY, "target-unreachable", format!("the device {name} cannot be reached: {why}"))
        })?;
        let written = target.host().trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        if !written && is_link_local(conn.remote().ip()) {
            // A name must not lead to what only this machine's hypervisor answers (169.254.169.254).
            let why = format!("the name of the device {name} leads to a link-local address; write the address itself");
            return Err(No(StatusCode::BAD_GATEWAY, "target-unreachable", why));
        }
        Ok(conn)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn downward(mut headers: HeaderMap, target: &TargetUrl, upgrade: bool) -> HeaderMap {
    drop_hop_by_hop(&mut headers);
    for name in &STAY {
        headers.remove(name);
    }
    let host = format!("{}:{}", target.host(), target.port());
    if let Ok(host) = HeaderValue::try_from(host) {
        headers.insert(header::HOST, host);
    }
    if let Some(Ok(value)) = target.authorization().map(HeaderValue::try_from) {
        headers.insert(header::AUTHORIZATION, value);
    }
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    headers
}

/// The path of a redirection; None where it leads away from the device, which writes its own URL by the `Host` that it was
/// told.
fn at_device<'a>(to: &'a str, target: &TargetUrl) -> Option<&'a str> {
    let scheme = if target.is_secure() { "https://" } else { "http://" };
    let Some(rest) = to.strip_prefix(scheme) else { return Some(to) };
    let (host, path) = rest.split_at(rest.find('/')?);
    (host == target.host() || host == format!("{}:{}", target.host(), target.port())).then_some(path)
}

/// A WebSocket of the device. Spawns the task that joins the two ends.
fn joined(answer: http::Response<hyper::body::Incoming>, client: hyper::upgrade::OnUpgrade) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    response.headers_mut().remove(header::SET_COOKIE);
    tokio::spawn(async move {
        if let Ok((client, device)) = tokio::try_join!(client, hyper::upgrade::on(answer)) {
            let (mut client, mut device) = (TokioIo::new(client), TokioIo::new(device));
            tokio::io::copy_bidirectional(&mut client, &mut device).await.ok();
        }
    });
    response
}
