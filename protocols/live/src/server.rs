//! Viewers on the bare socket; pushers are handed on to `wspush`.

use std::time::Duration;

use bytes::Bytes;
use culvert_formats::sound::WithAac;
use culvert_formats::{flv, fmp4};
use culvert_hub::{Action, Admission, Attached, Class, End, Gate, Outlet, Pace, Player, Sender};
use culvert_media::Tracks;
use culvert_net::http1::{Head, PROBLEM_TYPE, problem};
use culvert_net::ws::{self, Decoder, Message, Opcode, Role};
use culvert_net::{Conn, ReadHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::request::{Format, Request, claims};
use crate::wspush;

/// What the kernel may hold unsent for a viewer: half a second at 4 Mbit/s. What waits in our own queue instead can
/// still be skipped.
pub(crate) const UNSENT_BYTES: u32 = 256 << 10;
/// A viewer has nothing to say but pings and a close.
const VIEWER_MESSAGE_BYTES: usize = 4096;
/// What is told of a stream of VP8 alone.
pub(crate) const NOT_IN_MP4: &str = "no track of this stream can be in MP4; play it as .flv or by rtsp://";
/// What a plain request for WS-RAW is told.
pub(crate) const RAW_ONLY: &str =
    "bare tags are played by WebSocket only; with .flv behind the name this is FLV by HTTP, too";
/// A WebSocket whose stream is not there by then is opened first, and waits; what is refused sooner is refused by its status.
const HANDSHAKE: Duration = Duration::from_millis(200);
/// What is refused later closes the WebSocket with the status of HTTP and this (RFC 6455 7.4.2: private use).
const CLOSE: u16 = 4000;
/// How long last words may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves viewers by HTTP and WebSocket. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    pub(crate) gate: Gate,
    pub(crate) pace: Pace,
    /// Makes WebSocket frames of what a pusher sends that is none of ours.
    pub(crate) foreign_push: fn(Conn) -> Conn,
}

/// Of a head on the bare connection.
pub(crate) fn sender_of<'a>(conn: &Conn, head: &'a Head) -> Sender<'a> {
    Sender::of_fields(conn.remote(), conn.is_secure(), |name| head.header(name))
}

impl Request {
    /// The name of what is spoken, for lists and rules.
    pub(crate) fn protocol(&self, upgrade: bool) -> &'static str {
        match (upgrade, self.format) {
            (true, Format::Raw) => "ws-raw",
            (true, Format::Mp4) => "ws-mp4",
            (false, Format::Mp4) => "http-mp4",
            (true, Format::Flv) => "ws-flv",
            (false, _) => "http-flv",
        }
    }

    /// The packaging that was asked for. FLV has Opus, which only newer players know, where the URL or the field `Accept` asks for that.
    pub(crate) fn player(&self, admission: Admission, upgrade: bool, accept: Option<&str>) -> Player {
        let opus = self.opus.unwrap_or_else(|| accept.is_some_and(|accept| accept.contains("codecs=\"opus\"")));
        match (self.format, upgrade) {
            (Format::Flv, true) if !opus => admission.play_as::<WithAac<flv::WsMux>>(),
            (Format::Flv, false) if !opus => admission.play_as::<WithAac<flv::Mux>>(),
            (Format::Raw, _) => admission.play_as::<flv::RawMux>(),
            (Format::Flv, true) => admission.play_as::<flv::WsMux>(),
            (Format::Flv, false) => admission.play_as::<flv::Mux>(),
            (Format::Mp4, true) if self.merged => admission.play_as::<fmp4::MergedWsMux>(),
            (Format::Mp4, false) if self.merged => admission.play_as::<fmp4::MergedMux>(),
            (Format::Mp4, true) => admission.play_as::<fmp4::WsMux>(),
            (Format::Mp4, false) => admission.play_as::<fmp4::Mux>(),
        }
    }

    /// Why a stream of these tracks cannot be played in the form that was asked for.
    pub(crate) fn misfit(&self, tracks: &Tracks) -> Option<&'static str> {
        (self.format == Format::Mp4 && !fmp4::carries(tracks)).then_some(NOT_IN_MP4)
    }
}

impl Live {
    /// Viewers come in by this gate and are written to at this pace. `foreign_push` makes WebSocket frames (RFC 6455) of what a pusher
    /// sends that is none of ours; what it cannot is an [`std::io::ErrorKind::InvalidData`].
    pub fn new(gate: Gate, pace: Pace, foreign_push: fn(Conn) -> Conn) -> Live {
        Live { gate, pace, foreign_push }
    }

    /// Whether [`Live::serve`] answers this head: a plain `GET` of one of our URLs.
    pub fn takes(head: &Head) -> bool {
        let ours = || claims(&head.target).is_some() || wspush::claims(&head.target).is_some();
        head.method == "GET" && head.keeps_alive && !head.has_body() && ours()
    }

    /// Answers the head that [`Live::takes`] said yes to; it is still unread on the connection. Spawns what outlives
    /// the answer and returns once that is running.
    pub async fn serve(&self, mut conn: Conn, head: Head) {
        conn.consume(head.bytes);
        if wspush::claims(&head.target).is_some() {
            return self.serve_push(conn, &head).await;
        }
        let Some(Ok(request)) = claims(&head.target) else {
            self.gate.hub().figures().count_fault("http", "bad-name");
            tracing::info!(remote = %conn.remote(), protocol = "http", "refused: the path is no stream name");
            let what = "the path is no stream name: segments of A-Z a-z 0-9 . _ ~ - joined by single slashes";
            return answer(conn, &error_response(400, "bad-name", what)).await;
        };
        let upgrade = head.lists("connection", "upgrade") && head.lists("upgrade", "websocket");
        let protocol = request.protocol(upgrade);
        let sender = sender_of(&conn, &head);
        let hello = match (upgrade, head.header("sec-websocket-key")) {
            (false, _) if request.format == Format::Raw => {
                return answer(conn, &error_response(426, "no-upgrade", RAW_ONLY)).await;
            }
            (false, _) => ok_response(request.format),
            (true, Some(key)) if head.header("sec-websocket-version") == Some("13") => {
                switching(&ws::accept_key(key), "")
            }
            (true, _) => {
                self.gate.hub().figures().count_fault("http", "bad-upgrade");
                let what = "a WebSocket needs Sec-WebSocket-Key and Sec-WebSocket-Version: 13 (RFC 6455 4.1)";
                return answer(conn, &error_response(400, "bad-upgrade", what)).await;
            }
        };
        let ask = sender.ask(Action::Play, &request.stream, &request.query, protocol);
        // A viewer that leaves while it waits for a stream must not be held: its end of the connection tells.
        let play = self.gate.play(&ask);
        tokio::pin!(play);
        let soon = tokio::select! {
            admitted = &mut play => Some(admitted),
            () = gone(&mut conn) => return,
            // A browser makes one WebSocket to a host at a time: one that waits for a camera must not hold up all others.
            () = sleep(HANDSHAKE), if upgrade => None,
        };
        let is_open = soon.is_none();
        if is_open && !self.send(&mut conn, hello.as_bytes()).await {
            return;
        }
        let admitted = match soon {
            Some(admitted) => admitted,
            None => tokio::select! {
                admitted = play => admitted,
                () = gone(&mut conn) => return,
            },
        };
        let suited =
            admitted.map_err(|no| (no.status(), no.kind(), no.to_string())).and_then(|admission| {
                match request.misfit(&admission.tracks()) {
                    Some(why) => Err((406, "no-track", why.to_string())),
                    None => Ok(admission),
                }
            });
        let admission = match suited {
            Ok(admission) => admission,
            Err((status, _, why)) if is_open => return answer(conn, &ws::close(CLOSE + status, &why, None)).await,
            Err((status, kind, why)) => return answer(conn, &error_response(status, kind, &why)).await,
        };
        let class = request.class.unwrap_or(self.pace.class);
        conn.set_nodelay(true);
        conn.set_notsent_lowat(UNSENT_BYTES);
        if is_open || self.send(&mut conn, hello.as_bytes()).await {
            self.begin(conn, request.player(admission, upgrade, head.header("accept")), class, upgrade);
        }
    }

    /// Whether it was taken in time.
    async fn send(&self, conn: &mut Conn, bytes: &[u8]) -> bool {
        timeout(self.pace.stall, conn.write_all(bytes)).await.is_ok_and(|written| written.is_ok())
    }

    /// Spawns the two sides of a viewer: what is written to it, and what it says.
    pub(crate) fn begin(&self, conn: Conn, player: Player, class: Class, websocket: bool) {
        let (read, write) = conn.into_split();
        let attached = player.attach(write, class, self.pace);
        // A task of its own: the one that read the request is as large as the largest protocol.
        if websocket {
            self.gate.hub().spawn(listen_ws(read, attached));
        } else {
            self.gate.hub().spawn(listen_http(read, attached));
        }
    }
}

/// Returns once the peer has closed. A peer that says more than fits is not waiting but flooding: it counts as gone.
async fn gone(conn: &mut Conn) {
    while matches!(conn.fill(VIEWER_MESSAGE_BYTES).await, Ok(n) if n > 0) {}
}

/// An HTTP viewer says nothing; its end is all there is to hear.
async fn listen_http(mut read: ReadHalf, mut attached: Attached) {
    let mut ignored = [0u8; 64];
    let outlet = loop {
        tokio::select! {
            finished = attached.ended() => break finished.outlet(FAREWELL).await,
            heard = read.read(&mut ignored) => if !matches!(heard, Ok(n) if n > 0) {
                return;
            },
        }
    };
    if let Some(mut outlet) = outlet {
        // Without a length, the end of the connection is the end of the body (RFC 9112 6.3).
        timeout(FAREWELL, outlet.shutdown()).await.ok();
    }
}

/// A WebSocket viewer pings and closes.
async fn listen_ws(mut read: ReadHalf, mut attached: Attached) {
    let mut decoder = Decoder::new(Role::Server, VIEWER_MESSAGE_BYTES);
    let mut buffer = [0u8; 256];
    loop {
        tokio::select! {
            finished = attached.ended() => {
                let end = finished.end.clone();
                return farewell(finished.outlet(FAREWELL).await, &end).await;
            }
            heard = read.read(&mut buffer) => {
                let Some(bytes) = heard.ok().filter(|&n| n > 0).and_then(|n| buffer.get(..n)) else { return };
                decoder.handle_input(bytes);
                if let Err(status) = hear(&mut decoder, &attached) {
                    attached.close();
                    if let Some(outlet) = attached.ended().await.outlet(FAREWELL).await {
                        part(outlet, status, "").await;
                    }
                    return;
                }
            }
        }
    }
}

/// Answers what was heard. The error is the status to close with.
fn hear(decoder: &mut Decoder, attached: &Attached) -> Result<(), u16> {
    while let Some(message) = decoder.poll_message().map_err(|e| e.status())? {
        match message {
            Message::Ping(payload) => {
                if !attached.send(ws::encode(Opcode::Pong, &payload, None)) {
                    return Err(1008);
                }
            }
            // Statuses that mean that there was none must not be sent back (RFC 6455 7.4).
            Message::Close(Some(status @ (1000..=1003 | 1007..=1014 | 3000..=4999))) => return Err(status),
            Message::Close(None) => return Err(1000),
            Message::Close(Some(_)) => return Err(1002),
            Message::Pong(_) | Message::Text(_) | Message::Binary(_) => {}
        }
    }
    Ok(())
}

/// Tells a WebSocket viewer why there is no more (RFC 6455 7.4.1).
async fn farewell(outlet: Option<Outlet>, end: &End) {
    let status = match end {
        End::Finished => 1000,
        End::Lost | End::Changed => 1011,
        End::Closed => 1001,
        End::Stalled | End::Disconnected => return,
    };
    if let Some(outlet) = outlet {
        part(outlet, status, end.name()).await;
    }
}

async fn part(mut outlet: Outlet, status: u16, reason: &str) {
    let words = async {
        outlet.write_all(&ws::close(status, reason, None)).await?;
        outlet.shutdown().await
    };
    timeout(FAREWELL, words).await.ok();
}

pub(crate) async fn answer(mut conn: Conn, response: &Bytes) {
    let words = async {
        conn.write_all(response).await?;
        conn.shutdown().await
    };
    timeout(FAREWELL, words).await.ok();
}

/// Players on any page may read; a page never gets a user's credentials by that (security.md S12).
const CORS: &str = "Access-Control-Allow-Origin: *\r\n";

fn ok_response(format: Format) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nConnection: close\r\nCache-Control: no-store\r\n{CORS}\r\n",
        format.media_type()
    )
}

/// `more` is headers, each with its end of line.
pub(crate) fn switching(accept: &str, more: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

pub(crate) fn error_response(status: u16, kind: &str, detail: &str) -> Bytes {
    let body = problem(status, kind, detail);
    let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
    let challenge = if status == 401 { "WWW-Authenticate: Basic realm=\"culvert\"\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {PROBLEM_TYPE}\r\nContent-Length: {}\r\nConnection: close\r\n{challenge}{CORS}\r\n{body}",
        body.len()
    )
    .into()
}
