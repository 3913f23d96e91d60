//! Viewers whose connection belongs to hyper: later requests on a kept connection, and HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request as HttpRequest};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use culvert_hub::{Action, Player, Refusal, Remote, Sender};
use culvert_net::{Conn, web, ws};
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::request::{Format, Request, claims};
use crate::server::{Live, RAW_ONLY};

/// Pieces on their way from a viewer's task to the library; the rest waits where it can still be skipped.
const PIECES: usize = 4;

impl Live {
    /// The same URLs as routes, for requests that carry a [`Remote`].
    pub fn router(&self) -> Router {
        let mut router = Router::new();
        for path in ["/play/{*name}", "/hdl/{*name}", "/jessica/{*name}", "/fmp4/{*name}"] {
            router = router.route(path, get(handle).options(preflight));
        }
        router.layer(Extension(self.clone()))
    }
}

async fn preflight() -> Response {
    web::preflight().map(Body::from)
}

async fn handle(
    Extension(live): Extension<Live>,
    Extension(remote): Extension<Remote>,
    request: HttpRequest,
) -> Response {
    let target = request.uri().path_and_query().map_or("/", |t| t.as_str()).to_string();
    let ask = match claims(&target) {
        Some(Ok(ask)) => ask,
        Some(Err(why)) => {
            live.gate.hub().figures().count_fault("http", "bad-name");
            return error(400, "bad-name", &why.to_string());
        }
        None => {
            return error(
                404,
                "no-such-format",
                "streams are played at /play/NAME.flv and /play/NAME.mp4; see the documentation for others",
            );
        }
    };
    live.answer(ask, remote, request)
        .await
        .unwrap_or_else(|refusal| error(refusal.status(), refusal.kind(), &refusal.to_string()))
}

/// Who sends a request that the library read.
pub(crate) fn sender_of<'a>(remote: &'a Remote, http: &'a HttpRequest) -> Sender<'a> {
    Sender::of_http(remote, http.headers(), http.uri(), http.version())
}

pub(crate) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

impl Live {
    async fn answer(&self, request: Request, remote: Remote, http: HttpRequest) -> Result<Response, Refusal> {
        let headers = http.headers();
        let upgrade = text(headers, header::UPGRADE).is_some_and(|u| u.eq_ignore_ascii_case("websocket"));
        let sender = sender_of(&remote, &http);
        if request.format == Format::Raw && !upgrade {
            return Ok(error(426, "no-upgrade", RAW_ONLY));
        }
        let ask = sender.ask(Action::Play, &request.stream, &request.query, request.protocol(upgrade));
        let admission = self.gate.play(&ask).await?;
        if let Some(why) = request.misfit(&admission.tracks()) {
            return Ok(error(406, "no-track", why));
        }
        let class = request.class.unwrap_or(self.pace.class);
        if !upgrade {
            let body = match *http.method() {
                // Without a length, like the answer to GET would be.
                Method::HEAD => Body::new(LiveBody::ended()),
                _ => Body::new(LiveBody::begin(
                    request.player(admission, false, text(headers, header::ACCEPT)),
                    self.pace.stall,
                )),
            };
            let response = Response::builder()
                .header(header::CONTENT_TYPE, request.format.media_type())
                .header(header::CACHE_CONTROL, "no-store")
                .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
            return Ok(response.body(body).expect("constant headers are valid"));
        }
        let version = text(headers, header::SEC_WEBSOCKET_VERSION);
        let body = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
        let key = text(headers, header::SEC_WEBSOCKET_KEY).filter(|_| version == Some("13") && !body);
        let Some(key) = key else {
            let what = "a WebSocket needs Sec-WebSocket-Key and Sec-WebSocket-Version: 13, and no body (RFC 6455 4.1)";
            return Ok(error(400, "bad-upgrade", what));
        };
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            .header(header::SEC_WEBSOCKET_ACCEPT, ws::accept_key(key));
        let response = response.body(Body::empty()).expect("an accept key is base64");
        let live = self.clone();
        let player = request.player(admission, true, text(headers, header::ACCEPT));
        self.gate.hub().spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(http).await {
                let conn = Conn::other(TokioIo::new(upgraded), remote.address, remote.secure);
                live.begin(conn, player, class, true);
            }
        });
        Ok(response)
    }
}

pub(crate) fn error(status: u16, kind: &str, detail: &str) -> Response {
    web::refusal(status, kind, detail).map(Body::from)
}

/// A response body that never ends by itself.
struct LiveBody {
    pieces: mpsc::Receiver<Bytes>,
}

impl LiveBody {
    fn ended() -> LiveBody {
        LiveBody { pieces: mpsc::channel(1).1 }
    }

    /// Spawns the task that reads the player. It ends with the body, with the stream, or when the body is not read
    /// for as long as `stall`.
    fn begin(mut player: Player, stall: Duration) -> LiveBody {
        let (sender, pieces) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            let mut batch = Vec::new();
            loop {
                tokio::select! {
                    taken = player.take(&mut batch) => if taken.is_err() { return },
                    () = sender.closed() => return,
                }
                for piece in batch.drain(..).filter(|piece| !piece.is_empty()) {
                    if !matches!(timeout(stall, sender.send(piece)).await, Ok(Ok(()))) {
                        return;
                    }
                }
            }
        });
        LiveBody { pieces }
    }
}

impl hyper::body::Body for LiveBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
