//! What comes down the link from an upper: checked against what it may call here, then answered by the very router that
//! this node's own port serves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body as HttpBody;
use culvert_cascade::{REQUESTER, check, level, problem};
use culvert_hub::Remote;
use culvert_link::{Body, Otherwise, Remote as LinkRemote, Service, body};
use culvert_m7s::upper::OldUppers;
use culvert_m7s::wire::control::Info;
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::ext::Protocol;
use tower::ServiceExt;

use super::Cascade;

/// A key for the handshake that WebSocket handlers want to see: HTTP/2 has none (RFC 8441 5.1), and nobody looks at what
/// is made of it.
const KEY: &str = "Y3VsdmVydC1vdmVyLWgyLg==";

#[derive(Clone)]
pub(super) struct Down {
    cascade: Cascade,
    router: Router,
    upper: Arc<str>,
}

impl Down {
    pub(super) fn new(cascade: Cascade, router: Router, upper: &str) -> Down {
        Down { cascade, router, upper: upper.into() }
    }
}

impl Service for Down {
    fn call(&self, request: Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        let (cascade, router, upper) = (self.cascade.clone(), self.router.clone(), self.upper.clone());
        Box::pin(answer(cascade, router, upper, request))
    }

    fn otherwise(&self) -> Option<Arc<dyn Otherwise>> {
        let platform = &self.cascade.0.below.platform;
        let info = Info {
            cid: self.cascade.0.peers.cid().to_string(),
            name: platform.name.clone(),
            serial: platform.serial.clone().unwrap_or_default(),
        };
        Some(Arc::new(OldUppers::new(info, Arc::new(self.clone()))))
    }
}

async fn answer(cascade: Cascade, router: Router, upper: Arc<str>, request: Request<Body>) -> Response<Body> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_string();
    let requester = request.headers().get(REQUESTER).and_then(|name| name.to_str().ok()).unwrap_or("the upper");
    let level = level(request.headers(), cascade.0.peers.cid());
    // An extended CONNECT is what a GET with an upgrade is in HTTP/1.1 (RFC 8441 4).
    let upgrade = request.method() == Method::CONNECT;
    if upgrade && request.extensions().get::<Protocol>().is_none_or(|protocol| protocol.as_str() != "websocket") {
        return problem(StatusCode::BAD_REQUEST, "bad-upgrade", "only WebSockets are connected to here", &level);
    }
    let method = if upgrade { Method::GET } else { request.method().clone() };
    let path = match check(&target) {
        Ok(path) => path,
        Err(why) => return problem(StatusCode::BAD_REQUEST, "bad-path", &why.to_string(), &level),
    };
    if !cascade.0.allow.allows(method.as_str(), &path) {
        tracing::info!(%upper, %requester, %method, %path, "refused: not in cascade.allow");
        let why =
            format!("{method} {path} is not among what an upper may call here; its owner can add it to cascade.allow");
        return problem(StatusCode::FORBIDDEN, "not-allowed", &why, &level);
    }
    // The audit log: what an upper changes is worth a line, what it looks at is not.
    match method {
        Method::GET | Method::HEAD => tracing::debug!(%upper, %requester, %method, %path, "called by the upper"),
        _ => tracing::info!(%upper, %requester, %method, %path, "called by the upper"),
    }
    let secure = upper.starts_with("wss");
    let address = request.extensions().get::<LinkRemote>().map(|remote| remote.0);
    let mut request = request.map(HttpBody::new);
    // The authority was the upper's way of saying who is meant.
    *request.uri_mut() = Uri::try_from(target).unwrap_or_default();
    *request.method_mut() = method;
    if upgrade {
        let headers = request.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static(KEY));
    }
    let address = address.unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
    request.extensions_mut().insert(Remote { address, secure, upper: Some(upper) });
    let mut response = router.oneshot(request).await.unwrap_or_else(|never| match never {}).map(body);
    if upgrade && response.status().is_success() {
        // As an answer to CONNECT it would be taken for a WebSocket.
        return problem(StatusCode::BAD_REQUEST, "bad-upgrade", "what is at this path is no WebSocket", &level);
    }
    if upgrade && response.status() == StatusCode::SWITCHING_PROTOCOLS {
        *response.status_mut() = StatusCode::OK;
        for name in [UPGRADE, CONNECTION, http::header::SEC_WEBSOCKET_ACCEPT] {
            response.headers_mut().remove(name);
        }
    }
    response
}
