//! Lowers that dial: who they are and whether they may, decided before the 101; then the connection is a link.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use culvert_cascade::Room;
use culvert_hub::{Credentials, FORWARDED, Refusal, Remote, parameter, site};
use culvert_link::{PROTOCOL, REGISTER};
use culvert_media::Cid;
use culvert_net::Conn;
use culvert_net::http1::{Head, PROBLEM_TYPE, problem};
use culvert_net::ws::accept_key;
use http::{HeaderMap, StatusCode, Version, header};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::Cascade;
use crate::auth::Dialler;

/// How long last words may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// What a lower is told to wait that is one too many.
const RETRY_AFTER: &str = "30";

/// Whether this target, path and query, is where lowers dial, behind whatever context path; which that is, and the query. What is
/// behind `/peer/` is asked of that platform.
fn claims(target: &str) -> Option<(&str, &str)> {
    let (path, query) = target.split_once('?').or_else(|| culvert_m7s::register::split(target)).unwrap_or((target, ""));
    let context = path.strip_suffix(REGISTER)?;
    (!path.starts_with("/peer/")).then_some((context, query))
}

/// What a dialling lower shows.
struct Shown<'a> {
    remote: std::net::SocketAddr,
    context: &'a str,
    query: &'a str,
    authorization: Option<&'a str>,
    host: Option<&'a str>,
    has_origin: bool,
    forwarded: bool,
    secure: bool,
    upgrade: bool,
    key: Option<&'a str>,
    protocols: bool,
    certificate: Option<&'a dyn Fn(&str) -> bool>,
}

/// The platform that may link, the answer to its key, and its place.
struct Yes {
    cid: Cid,
    accept: String,
    room: Room,
    /// An old peer, which reaches this node at that URL.
    old: Option<String>,
}

impl Yes {
    fn protocol(&self) -> Option<&'static str> {
        self.old.is_none().then_some(PROTOCOL)
    }
}

/// A no, before the 101.
struct No(u16, &'static str, String);

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        No(refusal.status(), refusal.kind(), refusal.to_string())
    }
}

impl Cascade {
    /// Whether [`Cascade::register`] answers this head.
    pub(crate) fn takes(head: &Head) -> bool {
        head.method == "GET" && head.keeps_alive && !head.has_body() && claims(&head.target).is_some()
    }

    /// Answers the head that [`Cascade::takes`] said yes to; it is still unread on the connection. Spawns the link's task.
    pub(crate) async fn register(&self, mut conn: Conn, head: Head) {
        conn.consume(head.bytes);
        let answer = match self.admit_head(&conn, &head) {
            Ok(yes) => {
                let protocol =
                    yes.protocol().map_or(String::new(), |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
                let hello = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {}\r\n{protocol}\r\n",
                    yes.accept
                );
                if matches!(timeout(FAREWELL, conn.write_all(hello.as_bytes())).await, Ok(Ok(()))) {
                    self.begin(yes, conn);
                }
                return;
            }
            Err(No(status, kind, detail)) => {
                let body = problem(status, kind, &detail);
                let reason = StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
                let retry = if status == 503 { format!("Retry-After: {RETRY_AFTER}\r\n") } else { String::new() };
                format!(
                    "HTTP/1.1 {status} {reason}\r\nContent-Type: {PROBLEM_TYPE}\r\nContent-Length: {}\r\n{retry}\
                     Connection: close\r\n\r\n{body}",
                    body.len()
                )
            }
        };
        let words = async {
            conn.write_all(answer.as_bytes()).await?;
            conn.shutdown().await
        };
        timeout(FAREWELL, words).await.ok();
    }

    /// Spawns the link's task.
    fn begin(&self, yes: Yes, conn: Conn) {
        let Yes { cid, room, old, .. } = yes;
        match old {
            None => self.0.peers.spawn(cid, conn, room),
            Some(url) => self.0.old_lowers.spawn(cid, url, conn, room),
        }
    }

    fn admit_head(&self, conn: &Conn, head: &Head) -> Result<Yes, No> {
        let certificate = |name: &str| conn.client_certificate_is_for(name);
        let (context, query) = claims(&head.target).unwrap_or_default();
        let shown = Shown {
            remote: conn.remote(),
            context,
            query,
            authorization: head.header("authorization"),
            host: head.header("host"),
            has_origin: head.header("origin").is_some(),
            forwarded: FORWARDED.iter().any(|name| head.header(name).is_some()),
            secure: conn.is_secure() || head.header("x-forwarded-proto") == Some("https"),
            upgrade: head.lists("connection", "upgrade") && head.lists("upgrade", "websocket"),
            key: head.header("sec-websocket-key").filter(|_| head.header("sec-websocket-version") == Some("13")),
            protocols: head.lists("sec-websocket-protocol", PROTOCOL),
            certificate: conn.has_client_certificate().then_some(&certificate),
        };
        self.admit(&shown)
    }

    /// The same for what the library reads: a gateway may send it on a connection that was used before.
    pub(crate) fn in_front_of(&self, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), by_library))
    }

    fn admit(&self, shown: &Shown<'_>) -> Result<Yes, No> {
        let verdict = self.try_admit(shown);
        if let Err(No(status, why, detail)) = &verdict {
            tracing::info!(remote = %shown.remote, status, why, %detail, "link refused");
            self.0.below.hub.figures().count_fault("link", why);
        }
        verdict
    }

    fn try_admit(&self, shown: &Shown<'_>) -> Result<Yes, No> {
        let cid = parameter(shown.query, "cid");
        let cid = cid.ok_or_else(|| No(400, "no-cid", "a link needs ?cid=ID, the id of the platform".into()))?;
        let cid = Cid::parse(&cid).map_err(|why| No(400, "bad-cid", why.to_string()))?;
        let old = !shown.protocols;
        if old && shown.has_origin {
            return Err(No(403, "origin", "a link is not made by web pages: this request has an Origin header".into()));
        }
        let credentials = Credentials::from_http(shown.authorization, shown.query);
        if old && shown.upgrade && (credentials.secret.is_some() || shown.certificate.is_some()) {
            // An old peer has nothing to show.
            let why =
                format!("a link speaks {PROTOCOL} (Sec-WebSocket-Protocol), which a gateway in front must pass on");
            return Err(No(400, "no-protocol", why));
        }
        if old && shown.upgrade {
            // It has no way to show a credential, so what is asked of it is another question.
            self.0.guard.admit_old(shown.remote.ip(), &cid)?;
        } else {
            let site = site(None, shown.host, shown.forwarded);
            self.0.guard.admit_link(
                &Dialler {
                    remote: shown.remote.ip(),
                    credentials: &credentials,
                    has_origin: shown.has_origin,
                    site: &site,
                    certificate: shown.certificate,
                },
                &cid,
            )?;
        }
        let Some(key) = shown.key.filter(|_| shown.upgrade) else {
            let why =
                "a link is a WebSocket (RFC 6455, version 13); a gateway in front must pass Upgrade and Connection on";
            return Err(No(426, "no-upgrade", why.into()));
        };
        if cid == *self.0.peers.cid() {
            let why = format!("{cid} is this node's own id; give the lower node another one (node.cid)");
            return Err(No(409, "own-id", why));
        }
        // One who has nothing to show must not take what somebody has who showed something.
        if old && self.0.peers.info(&cid).is_some_and(|peer| peer.linked && peer.carrier != "m7s") {
            let why = format!("{cid} is linked by a node that is no old peer; while it is, no old peer gets this id");
            return Err(No(403, "taken", why));
        }
        let room = self.0.peers.room(&cid).map_err(|why| No(503, "no-room", why))?;
        let old = old.then(|| {
            let scheme = if shown.secure { "wss" } else { "ws" };
            shown.host.map_or(String::new(), |host| format!("{scheme}://{host}{}", shown.context))
        });
        Ok(Yes { cid, accept: accept_key(key), room, old })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn lists(headers: &HeaderMap, name: &header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}

async fn by_library(
    State(cascade): State<Cascade>,
    Extension(remote): Extension<Remote>,
    request: Request,
    next: Next,
) -> Response {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_string();
    // An upper does not link to its own lower through the link.
    let Some((context, query)) = claims(&target).filter(|_| remote.upper.is_none()) else {
        return next.run(request).await;
    };
    let headers = request.headers();
    let shown = Shown {
        remote: remote.address,
        context,
        query,
        authorization: text(headers, &header::AUTHORIZATION),
        host: text(headers, &header::HOST),
        has_origin: headers.contains_key(header::ORIGIN),
        forwarded: request.version() == Version::HTTP_10 || FORWARDED.iter().any(|name| headers.contains_key(*name)),
        secure: remote.secure || headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https"),
        upgrade: lists(headers, &header::CONNECTION, "upgrade") && lists(headers, &header::UPGRADE, "websocket"),
        key: text(headers, &header::SEC_WEBSOCKET_KEY)
            .filter(|_| text(headers, &header::SEC_WEBSOCKET_VERSION) == Some("13")),
        protocols: lists(headers, &header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL),
        certificate: None,
    };
    let response = match cascade.admit(&shown) {
        Ok(yes) => {
            let mut response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::UPGRADE, "websocket")
                .header(header::CONNECTION, "Upgrade")
                .header(header::SEC_WEBSOCKET_ACCEPT, &yes.accept);
            if let Some(protocol) = yes.protocol() {
                response = response.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
            }
            tokio::spawn(async move {
                if let Ok(upgraded) = hyper::upgrade::on(request).await {
                    cascade.begin(yes, Conn::other(TokioIo::new(upgraded), remote.address, remote.secure));
                }
            });
            response.body(Body::empty())
        }
        Err(No(status, kind, detail)) => {
            let refused = Response::builder().status(status).header(header::CONTENT_TYPE, PROBLEM_TYPE);
            // What is wrong with a token now is wrong later, too.
            let refused = if status == 503 { refused.header(header::RETRY_AFTER, RETRY_AFTER) } else { refused };
            refused.body(Body::from(problem(status, kind, &detail)))
        }
    };
    response.expect("statuses are in range and headers constant or base64")
}
