//! The door for pushers: all that can be refused is refused by an HTTP status, before the 101 (OLD_PEERS.md 3: a close
//! right behind it crashes old peers).

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request as HttpRequest};
use axum::middleware::{self, Next};
use axum::response::Response;
use culvert_hub::{Action, Publisher, Refusal, Remote, Sender};
use culvert_net::Conn;
use culvert_net::http1::Head;
use culvert_net::ws;
use http::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::receive::{FIRST_MEDIA, receive};
use super::{PROTOCOL, TargetError, claims};
use crate::library::{self, text};
use crate::server::{self, Live};

/// What a request shows, whoever parsed it.
struct Request<'a> {
    target: &'a str,
    sender: Sender<'a>,
    /// It asks for a WebSocket.
    upgrade: bool,
    /// Its key, where it speaks version 13 and has no body.
    key: Option<&'a str>,
    /// It offers [`PROTOCOL`].
    ours: bool,
}

/// A pusher that was let in.
struct Admitted {
    publisher: Publisher,
    accept: String,
    ours: bool,
}

/// A no, as HTTP says it.
struct Refused {
    status: u16,
    kind: &'static str,
    detail: String,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused { status: refusal.status(), kind: refusal.kind(), detail: refusal.to_string() }
    }
}

impl Live {
    async fn admit(&self, request: &Request<'_>) -> Result<Admitted, Refused> {
        let fault = |status, kind, detail: String| {
            self.gate.hub().figures().count_fault("ws-flv", kind);
            tracing::info!(remote = %request.sender.remote, protocol = "ws-flv", %detail, "push refused");
            Refused { status, kind, detail }
        };
        let target = match claims(request.target) {
            Some(Ok(target)) => target,
            Some(Err(why @ TargetError::Name(_))) => return Err(fault(400, "bad-name", why.to_string())),
            Some(Err(why @ (TargetError::NoCid | TargetError::Cid(_)))) => {
                return Err(fault(400, "bad-cid", why.to_string()));
            }
            None => {
                return Err(fault(404, "not-found", "streams are pushed to /erwscascade/wspush/NAME?cid=ID".into()));
            }
        };
        if request.sender.origin.is_some() {
            // security.md S11: browsers let any page open a WebSocket to anywhere.
            return Err(fault(403, "origin", "web pages may not push streams; a pusher sends no Origin".into()));
        }
        if !request.upgrade {
            return Err(fault(
                426,
                "no-upgrade",
                "a push is a WebSocket; a gateway in front must pass Upgrade on".into(),
            ));
        }
        let Some(key) = request.key else {
            let what = "a WebSocket needs Sec-WebSocket-Key and Sec-WebSocket-Version: 13, and no body (RFC 6455 4.1)";
            return Err(fault(400, "bad-upgrade", what.into()));
        };
        let ask = request.sender.ask(Action::Publish, &target.stream, &target.query, "ws-flv");
        let publisher = self.gate.publish(&ask).await?;
        Ok(Admitted { publisher, accept: ws::accept_key(key), ours: request.ours })
    }

    /// Answers a push that came first on a connection; its head is consumed already.
    pub(crate) async fn serve_push(&self, mut conn: Conn, head: &Head) {
        let request = Request {
            target: &head.target,
            sender: server::sender_of(&conn, head),
            upgrade: head.lists("connection", "upgrade") && head.lists("upgrade", "websocket"),
            key: head.header("sec-websocket-key").filter(|_| head.header("sec-websocket-version") == Some("13")),
            ours: head.lists("sec-websocket-protocol", PROTOCOL),
        };
        let admitted = match self.admit(&request).await {
            Ok(admitted) => admitted,
            Err(Refused { status, kind, detail }) => {
                return server::answer(conn, &server::error_response(status, kind, &detail)).await;
            }
        };
        let protocol = if admitted.ours { format!("Sec-WebSocket-Protocol: {PROTOCOL}\r\n") } else { String::new() };
        let hello = server::switching(&admitted.accept, &protocol);
        if timeout(self.pace.stall, conn.write_all(hello.as_bytes())).await.is_ok_and(|r| r.is_ok()) {
            self.begin_push(conn, admitted);
        }
    }

    /// Spawns what reads the pusher to its end.
    fn begin_push(&self, conn: Conn, admitted: Admitted) {
        let hub = self.gate.hub();
        let conn = if admitted.ours { conn } else { (self.foreign_push)(conn) };
        // A task of its own: the one that read the request is as large as the largest protocol.
        hub.spawn(Box::pin(receive(conn, admitted.publisher, admitted.ours, self.pace.stall, hub.clone())));
    }

    /// Puts what no route can say in front of all routes: pushes, which come under any context path. For requests that
    /// carry a [`Remote`].
    pub fn in_front_of(&self, router: Router) -> Router {
        router.layer(middleware::from_fn(push_or)).layer(Extension(self.clone()))
    }
}

async fn push_or(Extension(live): Extension<Live>, http: HttpRequest, next: Next) -> Response {
    let target = http.uri().path_and_query().map_or("/", |t| t.as_str()).to_string();
    let remote = http.extensions().get::<Remote>().cloned();
    match remote.filter(|_| *http.method() == Method::GET && claims(&target).is_some()) {
        Some(remote) => live.answer_push(&target, remote, http).await,
        None => next.run(http).await,
    }
}

impl Live {
    /// Answers a push that came to the library: later on a kept connection, as through a gateway.
    async fn answer_push(&self, target: &str, remote: Remote, http: HttpRequest) -> Response {
        let headers = http.headers();
        let body = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
        let version = text(headers, header::SEC_WEBSOCKET_VERSION).filter(|_| !body);
        let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let request = Request {
            target,
            sender: library::sender_of(&remote, &http),
            upgrade: text(headers, header::UPGRADE).is_some_and(|u| u.eq_ignore_ascii_case("websocket")),
            key: text(headers, header::SEC_WEBSOCKET_KEY).filter(|_| version == Some("13")),
            ours: offered.flat_map(|value| value.split(',')).any(|item| item.trim() == PROTOCOL),
        };
        let admitted = match self.admit(&request).await {
            Ok(admitted) => admitted,
            Err(Refused { status, kind, detail }) => return library::error(status, kind, &detail),
        };
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            .header(header::SEC_WEBSOCKET_ACCEPT, &admitted.accept);
        if admitted.ours {
            response = response.header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
        }
        let live = self.clone();
        self.gate.hub().spawn(async move {
            // A peer that goes away in between leaves a name that nobody can publish under, but not for long.
            if let Ok(Ok(upgraded)) = timeout(FIRST_MEDIA, hyper::upgrade::on(http)).await {
                let conn = Conn::other(TokioIo::new(upgraded), remote.address, remote.secure);
                live.begin_push(conn, admitted);
            }
        });
        response.body(Body::empty()).expect("an accept key is base64")
    }
}
