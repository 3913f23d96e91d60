//! Requests and their answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use culvert_hub::{Action, Admission, Ask, BoxFuture, Gate, Next, Refusal, Remote, Sender, parameter, stream_in_path};
use culvert_media::{Frame, Kind, StreamName, Track};
use culvert_net::web;
use http::{HeaderMap, StatusCode, header};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::cache::{Cache, Made, Of, Slot};
use crate::decoders::{Decoders, REST};
use crate::{decode, jpeg};

/// The word for pictures in lists, rules and figures.
const PROTOCOL: &str = "snapshot";
/// How long a picture is waited for: the distance of two key frames where the first is still to come.
const PATIENCE: Duration = Duration::from_secs(12);
/// Widths that there are: what is asked for is rounded up to one of them, or is the picture's own. Each is a decoding of its own.
const WIDTHS: [u32; 7] = [160, 320, 480, 640, 960, 1280, 1920];
/// The widest that is asked for with success; no picture is made wider than it is.
const WIDEST: u32 = 4096;
/// The end of the year 9999, in Unix time.
const LAST_DATE_S: u64 = 253_402_300_799;

/// Where pictures come from that are not taken here.
pub trait Elsewhere: Send + Sync + 'static {
    /// The picture of a stream that a platform below has, and that is not here. `query` goes along, and so do conditions.
    /// None: it is nobody's there.
    fn picture<'a>(
        &'a self,
        stream: &'a StreamName,
        query: &'a str,
        headers: &'a HeaderMap,
        requester: &'a str,
    ) -> Option<BoxFuture<'a, Response>>;
}

/// Why there is no picture.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Failure {
    /// The gate said no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// There are no pictures in it.
    #[error("this stream has sound only")]
    NoVideo,
    /// No decoder for it is built in.
    #[error("pictures of {0} are not made here, only of h264 and h265; play the stream instead")]
    Codec(&'static str),
    /// The decoder does not do all there is in the codec.
    #[error("this stream uses what the built-in decoder does not do ({0}); play it instead")]
    Unsupported(String),
    /// Larger than we decode.
    #[error("a picture of {0}x{1} is too large; at most 16,777,216 pixels are decoded")]
    TooLarge(u32, u32),
    /// It could not be decoded.
    #[error("the key frame could not be decoded ({0})")]
    Broken(String),
    /// Others' pictures are being made.
    #[error("more pictures are asked for than this node makes; try again, or ask for fewer")]
    Busy,
    /// None came in time.
    #[error("no key frame came within 12 s")]
    Late,
}

impl Failure {
    fn status(&self) -> (u16, &'static str) {
        match self {
            Failure::Refused(refusal) => (refusal.status(), refusal.kind()),
            Failure::NoVideo => (406, "no-track"),
            Failure::Codec(_) | Failure::Unsupported(_) | Failure::TooLarge(..) => (406, "no-decoder"),
            Failure::Broken(_) => (502, "broken-picture"),
            Failure::Busy => (503, "busy"),
            Failure::Late => (504, "no-key-frame"),
        }
    }
}

/// Pictures of all streams. Cheap to clone.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

struct Inner {
    gate: Gate,
    elsewhere: Arc<dyn Elsewhere>,
    cache: Cache,
    decoders: Decoders,
    /// Pictures that are made at once: each takes a core.
    cores: Arc<Semaphore>,
    made: AtomicU64,
    kept: AtomicU64,
    failed: AtomicU64,
}

impl Snapshots {
    /// Viewers come in by this gate; `cores` pictures are made at once.
    pub fn new(gate: Gate, elsewhere: Arc<dyn Elsewhere>, cores: usize) -> Snapshots {
        let (made, kept, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let decoders = Decoders::new(cores.max(1));
        let cores = Arc::new(Semaphore::new(cores.max(1)));
        Snapshots(Arc::new(Inner { gate, elsewhere, cache: Cache::default(), decoders, cores, made, kept, failed }))
    }

    /// `/snapshot/NAME.jpg`, and `/snap/NAME` as m7s has it. Requests carry a [`Remote`].
    pub fn router(&self) -> Router {
        Router::new()
            .route("/snapshot/{*name}", get(handle))
            .route("/snap/{*name}", get(handle))
            .layer(Extension(self.clone()))
    }

    /// How many pictures were made, given out once more, and not made for what they were made of.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("made", of(&self.0.made)), ("kept", of(&self.0.kept)), ("failed", of(&self.0.failed))]
    }

    /// The newest picture of a stream, not wider than `width`. Spawns its making.
    async fn take(&self, ask: &Ask, width: Option<u32>) -> Result<(Made, Bytes), Failure> {
        let admission = self.0.gate.play(ask).await?;
        let tracks = admission.tracks();
        let track = tracks.video().ok_or(Failure::NoVideo)?;
        if !matches!(track.codec, culvert_media::Codec::H264 | culvert_media::Codec::H265) {
            return Err(Failure::Codec(track.codec.name()));
        }
        let (of, track, frame) = newest_key_frame(&admission).await?;
        let slot = self.0.cache.slot(&ask.stream, width);
        // A task of its own: who asks and goes away must not leave the core free while it is still at work.
        let making = tokio::spawn(self.clone().make(slot, ask.stream.clone(), of, track, frame, width));
        let made = timeout(PATIENCE, making).await.map_err(|_| Failure::Busy)?;
        let made = made.map_err(|_| Failure::Broken("nothing came of it".into()))?;
        let jpeg = made.jpeg.clone()?;
        admission.session().count(jpeg.len() as u64, 1);
        Ok((made, jpeg))
    }

    /// What there is in the slot of this key frame or of a newer one, or what is made now and left there. A picture that could not be made is
    /// kept, too: it would not come out better.
    async fn make(
        self,
        slot: Slot,
        stream: StreamName,
        of: Of,
        track: Track,
        frame: Frame,
        width: Option<u32>,
    ) -> Made {
        let inner = &self.0;
        let mut place = slot.lock_owned().await;
        if let Some(made) = place.as_ref().filter(|made| made.of.epoch == of.epoch && made.of.sequence >= of.sequence) {
            inner.kept.fetch_add(1, Ordering::Relaxed);
            return made.clone();
        }
        let core = inner.cores.clone().acquire_owned().await;
        let wall = frame.wall;
        let (own, of_stream) = (self.clone(), stream.clone());
        let work = move || {
            let _core = core;
            let picture = decode::decode(&track, &frame.data, &of_stream, &own.0.decoders)?;
            jpeg::encode(&picture, width.map(|width| width as usize)).map(Bytes::from)
        };
        // The decoders are young: should one panic, it is this picture's end and nothing else.
        let done = tokio::task::spawn_blocking(work).await;
        let jpeg = done.unwrap_or_else(|_| Err(Failure::Broken("the decoder gave up".into())));
        let later = self.clone();
        tokio::spawn(async move {
            sleep(REST).await;
            later.0.decoders.forget();
        });
        let count = if jpeg.is_ok() { &inner.made } else { &inner.failed };
        count.fetch_add(1, Ordering::Relaxed);
        if let Err(why) = &jpeg {
            tracing::info!(%stream, %why, "no picture");
        }
        place.insert(Made { of, wall, jpeg }).clone()
    }
}

/// The newest key frame that is there, or the first to come.
async fn newest_key_frame(admission: &Admission) -> Result<(Of, Track, Frame), Failure> {
    let mut reader = admission.reader();
    let mut known = admission.tracks();
    let read = async {
        loop {
            match reader.next().await {
                Next::Tracks(tracks) => known = tracks,
                Next::Frame(frame) if frame.key => {
                    let track = known.track(frame.track).filter(|track| track.kind() == Kind::Video);
                    if let Some(track) = track {
                        return Ok((track.clone(), frame));
                    }
                }
                Next::Frame(_) | Next::Gap(_) => {}
                Next::End(_) => return Err(Failure::Late),
            }
        }
    };
    let (track, frame) = timeout(PATIENCE, read).await.unwrap_or(Err(Failure::Late))?;
    Ok((Of { epoch: reader.epoch(), sequence: reader.sequence() }, track, frame))
}

async fn handle(
    Extension(snapshots): Extension<Snapshots>,
    Extension(remote): Extension<Remote>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let path = parts.uri.path();
    let name = path.strip_prefix("/snapshot/").map(|name| name.strip_suffix(".jpg"));
    let name =
        name.unwrap_or_else(|| path.strip_prefix("/snap/").map(|name| name.strip_suffix(".jpg").unwrap_or(name)));
    let Some(name) = name else {
        return error(404, "no-such-format", "pictures are at /snapshot/NAME.jpg");
    };
    let stream = match stream_in_path(name) {
        Ok(stream) => stream,
        Err(why) => return error(400, "bad-name", &why.to_string()),
    };
    let query = parts.uri.query().unwrap_or_default();
    let width = match parameter(query, "width").map(|text| text.parse::<u32>()) {
        None => None,
        Some(Ok(width)) if (1..=WIDEST).contains(&width) => WIDTHS.into_iter().find(|known| *known >= width),
        Some(_) => return error(400, "bad-width", "width is a number of pixels from 1 to 4096"),
    };
    let sender = Sender::of_http(&remote, &parts.headers, &parts.uri, parts.version);
    let ask = sender.ask(Action::Play, &stream, query, PROTOCOL);
    let answer = async {
        if snapshots.0.gate.hub().info(&stream).is_none() {
            let size = width.map(|width| format!("width={width}")).unwrap_or_default();
            // Asked before it is known whether somebody has it: the answer must not tell that to who may not see it.
            let grant = snapshots.0.gate.may(&ask).await?;
            let elsewhere = &snapshots.0.elsewhere;
            if let Some(picture) = elsewhere.picture(&stream, &size, &parts.headers, &grant.identity.name) {
                return Ok(picture.await);
            }
        }
        let (made, jpeg) = snapshots.take(&ask, width).await?;
        Ok(show(&made, jpeg, width, &parts.headers))
    };
    answer.await.unwrap_or_else(|failure: Failure| {
        let (status, kind) = failure.status();
        error(status, kind, &failure.to_string())
    })
}

fn show(made: &Made, jpeg: Bytes, width: Option<u32>, headers: &HeaderMap) -> Response {
    // What a platform says of its clock need not be a date that HTTP has.
    let wall = made.wall.clamp(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(LAST_DATE_S));
    let etag = format!("\"{:x}-{:x}-{}\"", made.of.epoch, made.of.sequence, width.unwrap_or_default());
    let asked = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let known = asked.is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    let response = Response::builder()
        .status(if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK })
        .header(header::CONTENT_TYPE, "image/jpeg")
        .header(header::ETAG, etag)
        .header(header::LAST_MODIFIED, httpdate::fmt_http_date(wall))
        .header(header::CACHE_CONTROL, "private, no-cache")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
        .header(header::ACCESS_CONTROL_EXPOSE_HEADERS, "ETag, Last-Modified");
    let body = if known { Body::empty() } else { Body::from(jpeg) };
    response.body(body).expect("constant headers are valid, and so is an ETag of digits")
}

fn error(status: u16, kind: &str, detail: &str) -> Response {
    web::refusal(status, kind, detail).map(Body::from)
}
