//! Requests and their answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request as HttpRequest};
use axum::middleware::{self, Next};
use axum::response::Response;
use bytes::Bytes;
use culvert_hub::{Action, Gate, Hub, Remote, Sender};
use culvert_media::{NameError, StreamName, Time};
use culvert_net::web;
use http::{HeaderMap, HeaderValue, Method, header};
use tokio::time::{Instant, timeout_at};

use crate::body::Pieces;
use crate::channel::{Channel, Seat, State};
use crate::playlist::{Variant, multivariant};
use crate::request::{Directives, Request, What, claims, media_uri};
use crate::viewers::{No, Viewers, Visit};
use crate::window::{Settings, Window};

/// The word for HLS in lists, rules and figures.
const PROTOCOL: &str = "hls";
/// RFC 8216 4, RFC 8216bis 10.
const PLAYLIST_TYPE: &str = "application/vnd.apple.mpegurl";
/// How long a player waits for the first segment to be complete: longer than any segment.
const FIRST: Duration = Duration::from_secs(14);
/// How long a request for something that is to come waits, in target durations (bis 6.2.5.2).
const BLOCK: u32 = 3;
/// What a stream is said to have before it was measured: a camera's usual.
const UNMEASURED: u64 = 4_000_000;
/// A player may ask for parts that come within three part durations, or three parts where they are long (bis 6.2.5.2).
const AHEAD_PARTS: i64 = 3;

/// HLS of all streams. Cheap to clone.
#[derive(Clone)]
pub struct Hls {
    viewers: Viewers,
}

/// What goes wrong, with what to tell: status, a stable word, a sentence.
pub(crate) struct Fault(u16, &'static str, String);

/// What is found: its media type, and its bytes.
pub(crate) type Found = Result<(&'static str, Pieces), Fault>;

impl From<No> for Fault {
    fn from(no: No) -> Fault {
        match no {
            No::Refused(refusal) => Fault(refusal.status(), refusal.kind(), refusal.to_string()),
            No::Unsuited => {
                let what = "no track of this stream can be in MP4; play it as .flv or by rtsp://";
                Fault(406, "no-track", what.into())
            }
            No::Unknown => {
                let what = "there is no such session, or it was forgotten; open the stream's .m3u8 again";
                Fault(404, "no-session", what.into())
            }
            No::Closed => Fault(403, "closed", "this session was closed by who runs this node".into()),
        }
    }
}

impl Hls {
    /// Viewers come in by this gate.
    pub fn new(gate: Gate, settings: Settings) -> Hls {
        Hls { viewers: Viewers::new(gate, settings) }
    }

    /// Answers our URLs and passes on what is none of them. Requests carry a [`Remote`].
    pub fn in_front_of(&self, router: Router) -> Router {
        router.layer(middleware::from_fn(hls_or)).layer(Extension(self.clone()))
    }

    /// How many streams are in HLS now, and how many bytes are kept for that.
    pub fn kept(&self) -> (usize, usize) {
        self.viewers.kept()
    }

    pub(crate) fn hub(&self) -> &Hub {
        self.viewers.gate().hub()
    }

    pub(crate) fn bad_name(&self, why: &NameError) -> Fault {
        self.hub().figures().count_fault(PROTOCOL, "bad-name");
        Fault(400, "bad-name", why.to_string())
    }

    /// `is_look`: it is HEAD.
    pub(crate) async fn answer(&self, request: Request, sender: &Sender<'_>, is_look: bool, query: &str) -> Found {
        match request {
            // On the heap: it is rare, and its room would be kept by all who wait for a part.
            Request::Begin(stream, folder) => Box::pin(self.begin(stream, &folder, sender, is_look, query)).await,
            Request::Of(stream, sid, what) => {
                let visit = self.viewers.of(sid, &stream).await?;
                match what {
                    What::Playlist => media(visit, query).await,
                    What::Map(_) | What::Segment(_) | What::Part(..) => fetch(visit, what).await,
                }
            }
        }
    }

    async fn begin(&self, stream: StreamName, folder: &str, sender: &Sender<'_>, is_look: bool, query: &str) -> Found {
        let ask = sender.ask(Action::Play, &stream, query, PROTOCOL);
        if is_look {
            // A look: it is let in to hear what a GET would, and begins no session.
            self.viewers.look_in(&ask).await?;
            return Ok((PLAYLIST_TYPE, Pieces::new(std::iter::empty())));
        }
        let (sid, seat, tracks) = self.viewers.begin(ask).await?;
        let info = self.viewers.gate().hub().info(&stream);
        let (bits_per_second, fps) = info.map_or((0, 0.0), |info| (info.bits_per_second, info.fps));
        // The peak is not known before the stream is over; what is measured over seconds, and a half, is seldom passed.
        let peak = bits_per_second + bits_per_second / 2;
        let text = multivariant(Variant {
            tracks: &tracks,
            bits_per_second: if peak == 0 { UNMEASURED } else { peak },
            fps,
            uri: &media_uri(folder, sid),
        });
        count(&seat, text.len() as u64, None);
        Ok((PLAYLIST_TYPE, Pieces::new(std::iter::once(Bytes::from(text)))))
    }
}

async fn hls_or(Extension(hls): Extension<Hls>, http: HttpRequest, next: Next) -> Response {
    let (path, remote) = (http.uri().path(), http.extensions().get::<Remote>().cloned());
    let (Some(claimed), Some(remote)) = (claims(path), remote) else { return next.run(http).await };
    let answer = match (claimed, http.method()) {
        (_, &Method::OPTIONS) => return web::preflight().map(Body::from),
        (_, method) if !matches!(*method, Method::GET | Method::HEAD) => {
            Err(Fault(405, "method", "playlists and segments are read with GET".into()))
        }
        (Err(why), _) => Err(hls.bad_name(&why)),
        (Ok(request), method) => {
            let sender = Sender::of_http(&remote, http.headers(), http.uri(), http.version());
            hls.answer(request, &sender, *method == Method::HEAD, http.uri().query().unwrap_or_default()).await
        }
    };
    match answer {
        Ok((kind, pieces)) => {
            let mut response = Response::new(Body::new(pieces));
            *response.headers_mut() = headers(kind);
            response
        }
        Err(fault) => error(fault).map(Body::from),
    }
}

/// The media playlist, as soon as it has what is waited for.
async fn media(visit: Visit, query: &str) -> Found {
    let directives = Directives::parse(query).map_err(|why| Fault(400, "bad-directive", why))?;
    let ready = |state: &mut State| match directives.wait_for {
        // What was never complete is over.
        _ if state.window.is_ended() => Some(state.playlist(directives.skip).ok_or_else(gone)),
        Some((number, part)) if state.window.target().is_some() => match progress(&state.window, number, part) {
            Progress::There => state.playlist(directives.skip).map(Ok),
            Progress::Coming => None,
            Progress::TooFar => Some(Err(too_far(&state.window, number))),
        },
        _ => state.playlist(directives.skip).map(Ok),
    };
    let channel = &visit.seat.channel;
    let text = when(channel, ready).await.ok_or_else(late)??;
    let end = channel.lock().window.end_time();
    count(&visit.seat, text.len() as u64, Some(end));
    Ok((PLAYLIST_TYPE, Pieces::new(std::iter::once(text)).of(visit)))
}

/// A segment, a part, an initialisation segment. Of parts, the next one is waited for: it is what the playlist hints at.
async fn fetch(visit: Visit, what: What) -> Found {
    let found = |state: &mut State| {
        let window = &state.window;
        let found = match what {
            What::Map(number) => window.map(number).map(|map| (Pieces::new(std::iter::once(map)), None)),
            What::Segment(number) => window.segment(number).map(|segment| {
                let pieces = Pieces::new(segment.parts.iter().map(|part| part.data.clone()));
                (pieces, Some(segment.begin + segment.duration))
            }),
            What::Part(number, part) => window
                .part(number, part)
                .map(|part| (Pieces::new(std::iter::once(part.data.clone())), Some(window.end_time()))),
            What::Playlist => None,
        };
        let hinted = matches!(what, What::Part(number, part) if window.edge() == (number, part));
        match found {
            Some(found) => Some(Ok(found)),
            None if hinted && !window.is_ended() => None,
            None => Some(Err(gone())),
        }
    };
    let channel = &visit.seat.channel;
    let (body, end) = when(channel, found).await.ok_or_else(late)??;
    count(&visit.seat, body.bytes(), end);
    let audio_only = channel.lock().window.is_audio_only();
    Ok((if audio_only { "audio/mp4" } else { "video/mp4" }, body.of(visit)))
}

enum Progress {
    There,
    Coming,
    TooFar,
}

/// Whether a playlist has this segment, or this part of it.
fn progress(window: &Window, number: u64, part: Option<usize>) -> Progress {
    let (open, parts) = window.edge();
    let ahead =
        (Time::from_millis(1000 * AHEAD_PARTS).micros() / window.part_target().micros().max(1)).max(AHEAD_PARTS);
    let ahead = usize::try_from(ahead).unwrap_or(usize::MAX);
    let (number, part) = match part {
        // More parts than a complete segment has: the first of the next is meant (bis 6.2.5.2).
        Some(part) if number < open && window.part(number, part).is_none() => (number + 1, Some(0)),
        other => (number, other),
    };
    let far = match part {
        Some(part) => number > open + 1 || number == open + 1 && part > ahead || number == open && part > parts + ahead,
        // Of complete segments, two beyond the last one.
        None => number > open + 1,
    };
    let there = number < open || number == open && part.is_some_and(|part| part < parts);
    match (there, far) {
        (true, _) => Progress::There,
        (false, true) => Progress::TooFar,
        (false, false) => Progress::Coming,
    }
}

/// Waits for the window to have something. None: it took too long.
async fn when<T>(channel: &Arc<Channel>, mut ready: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let changed = channel.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let patience = {
            let mut state = channel.lock();
            if let Some(found) = ready(&mut state) {
                return Some(found);
            }
            state.window.target().map_or(FIRST, |target| Duration::from_micros(target.micros().unsigned_abs()) * BLOCK)
        };
        timeout_at(begun + patience, changed).await.ok()?;
    }
}

/// Counts what a viewer is given.
fn count(seat: &Seat, bytes: u64, end: Option<Time>) {
    let figures = seat.session.figures();
    figures.count(bytes, 1);
    if let Some(end) = end {
        figures.set_sent(end);
    }
}

fn gone() -> Fault {
    Fault(404, "gone", "this is not in the playlist; read the playlist again".into())
}

fn too_far(window: &Window, number: u64) -> Fault {
    let next = window.next_number();
    Fault(400, "too-far", format!("_HLS_msn={number} is too far ahead: segment {next} is being made"))
}

fn late() -> Fault {
    let what =
        "nothing has come of this stream for too long; it has no key frame yet, or its publisher pauses. Try again";
    Fault(503, "late", what.into())
}

/// Of what is found.
pub(crate) fn headers(kind: &'static str) -> HeaderMap {
    HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ])
}

pub(crate) fn error(Fault(status, kind, detail): Fault) -> http::Response<String> {
    let mut response = web::refusal(status, kind, &detail);
    match status {
        405 => response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS")),
        503 => response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
        _ => None,
    };
    response
}
