//! WHEP and WHIP over HTTP.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request as HttpRequest};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use culvert_hub::{Action, Gate, Remote, Sender, stream_in_path};
use culvert_media::{Kind, StreamName};
use culvert_net::{Conn, web};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use str0m::change::SdpOffer;
use str0m::crypto::dtls::DtlsCert;
use str0m::net::TcpType;
use str0m::rtp::Extension as RtpExtension;
use str0m::{Candidate, RtcConfig};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::answer::placed;
use crate::burst::Outlet;
use crate::crowd::{Crowd, Place};
use crate::direct::{Elsewhere, PATH, Tries, direct};
use crate::feed::{Feeds, Over, Sent};
use crate::keys;
use crate::link::Link;
use crate::offer::{MAX_BYTES, Offer};
use crate::proof::{Proof, Remote as Peer};
use crate::routes::Routes;
use crate::session::{Handle, delete, patch};
use crate::settings::{Settings, addresses};
use crate::tcp;
use crate::udp::Udp;
use crate::whep::{Line, Player, choose};
use crate::whip::{self, Source};

/// The word for WebRTC in lists, rules and figures.
pub(crate) const PROTOCOL: &str = "webrtc";
const SDP: &str = "application/sdp";
/// How long an offer's body may take.
const BODY: Duration = Duration::from_secs(10);
/// What stands in the headers of what goes to a player, as far as its offer has it.
const EXTENSIONS: [RtpExtension; 3] =
    [RtpExtension::TransportSequenceNumber, RtpExtension::PlayoutDelay, RtpExtension::RtpMid];
/// The id of `playout-delay` in our own map; the offer's is taken where it has one.
const PLAYOUT_DELAY: u8 = 14;

/// WebRTC of all streams. Cheap to clone.
#[derive(Clone)]
pub struct WebRtc(Arc<Inner>);

struct Inner {
    gate: Gate,
    settings: Settings,
    listen: SocketAddr,
    udp: Option<Udp>,
    routes: Routes,
    feeds: Feeds,
    certificate: Option<DtlsCert>,
    crypto: Arc<str0m::crypto::CryptoProvider>,
    sessions: Mutex<HashMap<String, Handle>>,
    crowd: Crowd,
    tries: Tries,
    silence: Duration,
}

/// The entry of a session; dropping it, however it came to that, takes it out.
struct Open {
    webrtc: WebRtc,
    id: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.webrtc.sessions().remove(&self.id);
    }
}

/// How often the agent of a player, which is silent, makes a report that does not go out: hardly ever.
const SILENT: Duration = Duration::from_secs(3600);

/// What goes wrong, with what to tell: status, a stable word, a sentence.
pub(crate) struct Fault(pub(crate) u16, pub(crate) &'static str, pub(crate) String);

impl WebRtc {
    /// WebRTC behind this gate, with a socket for datagrams at `listen`, the very address of the one port. Where that cannot be had, it goes by
    /// TCP alone. `silence` is how long a publisher may bring nothing. Must be called within a runtime.
    pub fn new(gate: Gate, settings: Settings, listen: SocketAddr, silence: Duration) -> WebRtc {
        let udp = Udp::bind(listen)
            .inspect_err(|why| tracing::warn!(%listen, %why, "no UDP port of that number: WebRTC goes by TCP only"));
        let crypto = Arc::new(keys::provider());
        let certificate = crypto.dtls_provider.generate_certificate();
        WebRtc(Arc::new(Inner {
            gate,
            feeds: Feeds::new(settings.crowd_batch),
            settings,
            listen,
            udp: udp.ok(),
            routes: Routes::default(),
            certificate,
            crypto,
            sessions: Mutex::default(),
            crowd: Crowd::default(),
            tries: Tries::default(),
            silence,
        }))
    }

    /// Spawns the task that reads datagrams until `stop`.
    pub fn spawn(&self, stop: &CancellationToken) {
        if let Some(udp) = self.0.udp.clone() {
            tokio::spawn(udp.run(self.0.routes.clone(), stop.clone()));
        }
    }

    /// Serves a connection that begins as ICE over TCP does. `stranger` is held until it is somebody's; `patience` is how long that may take.
    pub async fn serve(&self, conn: Conn, stranger: impl Send + 'static, patience: Duration) {
        tcp::serve(conn, self.0.routes.clone(), stranger, patience).await;
    }

    /// How many sessions there are, how many streams are cut for them, how many datagrams were nobody's, and how many were lost here.
    pub fn figures(&self) -> (usize, usize, u64, u64) {
        let (strange, lost) = self.0.routes.figures();
        (self.sessions().len(), self.0.feeds.count(), strange, lost)
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    pub(crate) fn tries(&self) -> &Tries {
        &self.0.tries
    }

    /// The URLs; `elsewhere` knows the platforms below. Requests carry a [`Remote`].
    pub fn router(&self, elsewhere: Arc<dyn Elsewhere>) -> Router {
        let push = post(whip).patch(patch).delete(delete).options(preflight);
        let play = post(whep).patch(patch).delete(delete).options(preflight);
        Router::new()
            .route("/whep/{*stream}", play.clone())
            .route("/webrtc/play/{*stream}", play)
            .route("/whip/{*stream}", push.clone())
            .route("/webrtc/push/{*stream}", push)
            .layer(Extension(elsewhere))
            .layer(Extension(self.clone()))
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.0.sessions.lock().expect("no code panics while it holds the sessions")
    }

    fn config(&self) -> RtcConfig {
        let config = RtcConfig::new().set_crypto_provider(self.0.crypto.clone()).set_ice_lite(true).set_rtp_mode(true);
        match &self.0.certificate {
            Some(certificate) => config.set_dtls_cert(certificate.clone()),
            None => config,
        }
    }

    async fn play(&self, stream: &StreamName, remote: &Remote, http: &Parts, body: &[u8]) -> Result<Response, Fault> {
        let inner = &self.0;
        let offer = Offer::parse(body).map_err(|why| Fault(400, "bad-offer", why.to_string()))?;
        let sender = Sender::of_http(remote, &http.headers, &http.uri, http.version);
        let ask = sender.ask(Action::Play, stream, http.uri.query().unwrap_or_default(), PROTOCOL);
        let refused = |why: culvert_hub::Refusal| Fault(why.status(), why.kind(), why.to_string());
        let admission = inner.gate.play(&ask).await.map_err(refused)?;
        let seat = inner.feeds.join(inner.gate.hub(), stream, &admission);
        seat.check().await.map_err(|over| unplayable(&over, stream))?;
        let sent = seat.sent();
        let lines = lines(&sent, &offer)?;
        let waiting = Some(self.crowd(remote)?);
        let (link, answer, handle) = self.link(offer, &lines, &sender, true)?;
        let closed = handle.closed.clone();
        let open = self.enter(handle)?;
        let id = open.id.clone();
        let (session, crypto) = (admission.into_session(), inner.crypto.clone());
        let player = Player { link, session, seat, lines, closed, waiting, crypto };
        let hub = inner.gate.hub().clone();
        tracing::info!(%stream, remote = %remote.address, session = player.session.figures().id, "WebRTC viewer");
        inner.gate.hub().spawn(async move {
            player.run(hub).await;
            drop(open);
        });
        Ok(self.created(answer, &id, remote, http))
    }

    async fn publish(
        &self,
        stream: &StreamName,
        remote: &Remote,
        http: &Parts,
        body: &[u8],
    ) -> Result<Response, Fault> {
        let inner = &self.0;
        let offer = Offer::parse(body).map_err(|why| Fault(400, "bad-offer", why.to_string()))?;
        let lines = whip::lines(&offer);
        if lines.is_empty() {
            let what = format!(
                "the offer has {} and {}, and what is taken is H264, H265, AV1, VP9, VP8 with opus, PCMA, PCMU",
                offer.names(Kind::Video),
                offer.names(Kind::Audio)
            );
            return Err(Fault(406, "no-codec", what));
        }
        let sender = Sender::of_http(remote, &http.headers, &http.uri, http.version);
        let ask = sender.ask(Action::Publish, stream, http.uri.query().unwrap_or_default(), PROTOCOL);
        let refused = |why: culvert_hub::Refusal| Fault(why.status(), why.kind(), why.to_string());
        // An offer that is good for nothing ends nobody's stream.
        inner.gate.may(&ask).await.map_err(refused)?;
        let waiting = Some(self.crowd(remote)?);
        let (link, answer, handle) = self.link(offer, &lines, &sender, false)?;
        let closed = handle.closed.clone();
        let open = self.enter(handle)?;
        let id = open.id.clone();
        let publisher = inner.gate.publish(&ask).await.map_err(refused)?;
        let source = Source { link, publisher, lines, closed, waiting, silence: inner.silence };
        let hub = inner.gate.hub().clone();
        tracing::info!(%stream, remote = %remote.address, "WebRTC publisher");
        inner.gate.hub().spawn(async move {
            source.run(hub).await;
            drop(open);
        });
        Ok(self.created(answer, &id, remote, http))
    }

    /// A peer that made this offer, and our answer: these lines of it and no others.
    fn link(
        &self,
        offer: Offer,
        lines: &[Line],
        sender: &Sender<'_>,
        is_player: bool,
    ) -> Result<(Link, String, Handle), Fault> {
        let inner = &self.0;
        let mut types: Vec<_> =
            lines.iter().flat_map(|line| [Some(line.chosen.payload_type), line.chosen.rtx]).flatten().collect();
        types.sort_unstable();
        if types.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(Fault(400, "bad-offer", "the offer has one payload type for two codecs".into()));
        }
        let mut config = self.config();
        if is_player {
            config = config.set_rtcp_report_interval_video(SILENT).set_rtcp_report_interval_audio(SILENT);
            // What is agreed upon is what `Out` writes.
            config = config.clear_extension_map();
            for (id, extension) in (1..).zip(EXTENSIONS) {
                config = config.set_extension(id, extension.clone());
            }
        } else {
            config = config.set_extension(PLAYOUT_DELAY, RtpExtension::PlayoutDelay);
        }
        choose(config.codec_config(), lines);
        let now = std::time::Instant::now();
        let (mut rtc, keys) = keys::build(config, now, offer.may_be_rsa());
        // What a publisher sends the agent deciphers.
        let keys = is_player.then_some(keys);
        let own = addresses(&inner.settings, inner.listen, sender.host, sender.remote.ip());
        for address in &own {
            for candidate in candidates(*address, inner.udp.is_some()) {
                rtc.add_local_candidate(candidate);
            }
        }
        let name = rtc.direct_api().local_ice_credentials().ufrag;
        let (entry, inbox) = inner.routes.enter(&name);
        let bad = |why: String| Fault(400, "bad-offer", format!("the offer cannot be answered: {why}"));
        let parsed = SdpOffer::from_sdp_string(&offer.text).map_err(|why| bad(why.to_string()))?;
        let answer = rtc.sdp_api().accept_offer(parsed).map_err(|why| bad(why.to_string()))?;
        let peer =
            Peer::of(&offer.text).ok_or_else(|| bad("it has no ICE credentials (a=ice-ufrag, a=ice-pwd)".into()))?;
        let proof = Proof::new(inner.crypto.clone(), peer.clone(), &name);
        let (restarts, asked) = mpsc::channel(1);
        let handle = Handle { closed: CancellationToken::new(), restarts, remote: peer, restarted: 0 };
        let outlet = Outlet::new(inner.udp.clone(), inner.routes.clone());
        let link = Link::new((rtc, keys), offer.text, proof, outlet, entry, (inbox, asked), own);
        Ok((link, placed(&answer.to_sdp_string()), handle))
    }

    /// A place among those of this address that are not connected yet.
    fn crowd(&self, remote: &Remote) -> Result<Place, Fault> {
        let what = "too many players and publishers of this address have posted an offer and are not connected; wait until they are";
        self.0.crowd.enter(remote.address.ip()).ok_or_else(|| Fault(429, "too-many", what.into()))
    }

    /// A session that its peer may end.
    fn enter(&self, handle: Handle) -> Result<Open, Fault> {
        let id = random().ok_or_else(|| Fault(500, "no-random", "the system gives no random bytes".into()))?;
        self.sessions().insert(id.clone(), handle);
        Ok(Open { webrtc: self.clone(), id })
    }

    /// The answer to an offer, as RFC 9725 4.2 has it.
    fn created(&self, answer: String, id: &str, remote: &Remote, http: &Parts) -> Response {
        let path = http.uri.path();
        // Through a link the address is another's: then it is said relative to that.
        let location = if remote.upper.is_some() { format!("?session={id}") } else { format!("{path}?session={id}") };
        // m7s's players look for 200.
        let status = if path.starts_with("/webrtc/play/") { StatusCode::OK } else { StatusCode::CREATED };
        let mut response = Response::new(Body::from(answer));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP));
        headers.insert(PATH, HeaderValue::from_static("here"));
        let mut set = |name, value: String| HeaderValue::from_str(&value).map(|value| headers.insert(name, value)).ok();
        set(header::LOCATION, location);
        set(header::ETAG, format!("\"{id}-0\""));
        for server in &self.0.settings.ice_servers {
            let credential = server.credential.as_ref().map_or(String::new(), |(user, password)| {
                format!("; username=\"{user}\"; credential=\"{password}\"; credential-type=\"password\"")
            });
            if let Ok(link) = HeaderValue::from_str(&format!("<{}>; rel=\"ice-server\"{credential}", server.url)) {
                headers.append(header::LINK, link);
            }
        }
        open(response)
    }
}

/// Any page may read it.
pub(crate) fn open(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    set(header::ACCESS_CONTROL_EXPOSE_HEADERS, "Location, Link, ETag, Culvert-Path");
    set(header::CACHE_CONTROL, "no-store");
    response
}

/// What goes to whom, or why nothing does.
fn lines(sent: &Sent, offer: &Offer) -> Result<Vec<Line>, Fault> {
    let tracks = [&sent.video, &sent.audio].into_iter().flatten();
    let lines: Vec<Line> = tracks
        .clone()
        .filter_map(|track| Some(Line { kind: track.kind(), codec: track.codec, chosen: offer.choose(track)? }))
        .collect();
    let video = sent.video.as_ref().filter(|_| lines.iter().all(|line| line.kind != Kind::Video));
    if let Some(video) = video {
        let what = format!(
            "the stream's pictures are {}, and the offer has {}; play it as .mp4 or .flv, or with another browser",
            video.codec.name(),
            offer.names(Kind::Video)
        );
        return Err(Fault(406, "no-codec", what));
    }
    if lines.is_empty() {
        let has: Vec<_> = tracks.map(|track| track.codec.name()).collect();
        let what = format!(
            "the stream has {}, and the offer has {} for sound; play it as .mp4 or .flv",
            if has.is_empty() { "nothing that WebRTC carries".into() } else { has.join(", ") },
            offer.names(Kind::Audio)
        );
        return Err(Fault(406, "no-codec", what));
    }
    Ok(lines)
}

fn unplayable(over: &Over, stream: &StreamName) -> Fault {
    match over {
        Over::Ended => Fault(404, "no-stream", format!("the stream {stream} has ended")),
        Over::Changed => Fault(503, "changed", format!("the codecs of {stream} are changing; try again")),
        Over::Reordered => {
            let what = format!(
                "the pictures of {stream} are built on others that are shown later (B-frames as references), and browsers show WebRTC's pictures as \
                 they come; play it by WebSocket as /play/{stream}.mp4, or set the encoder to no B-frames"
            );
            Fault(406, "b-frames", what)
        }
    }
}

/// By UDP, and by TCP for who comes to us.
fn candidates(address: SocketAddr, by_udp: bool) -> impl Iterator<Item = Candidate> {
    let udp = Candidate::builder().udp().host(address).build().ok().filter(|_| by_udp);
    let tcp = Candidate::builder().tcp().host(address).tcptype(TcpType::Passive).build().ok();
    [udp, tcp].into_iter().flatten()
}

/// 128 bits that nobody can guess.
fn random() -> Option<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn whep(
    Extension(webrtc): Extension<WebRtc>,
    Extension(elsewhere): Extension<Arc<dyn Elsewhere>>,
    http: HttpRequest,
) -> Response {
    answered(&webrtc, http, Some(&elsewhere)).await
}

async fn whip(Extension(webrtc): Extension<WebRtc>, http: HttpRequest) -> Response {
    answered(&webrtc, http, None).await
}

/// `elsewhere` of who wants to play.
async fn answered(webrtc: &WebRtc, http: HttpRequest, elsewhere: Option<&Arc<dyn Elsewhere>>) -> Response {
    answer(webrtc, http, elsewhere).await.unwrap_or_else(|Fault(status, kind, what)| {
        open(web::refusal(status, kind, &what).map(Body::from).into_response())
    })
}

async fn answer(webrtc: &WebRtc, http: HttpRequest, elsewhere: Option<&Arc<dyn Elsewhere>>) -> Result<Response, Fault> {
    let (parts, body) = http.into_parts();
    let remote = parts.extensions.get::<Remote>().cloned();
    let remote = remote.ok_or_else(|| Fault(500, "internal", "the request came from nowhere".into()))?;
    let stream = stream(&parts)?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or(SDP);
    if !kind.starts_with(SDP) && !kind.starts_with("text/plain") {
        return Err(Fault(415, "no-sdp", format!("the body must be {SDP}, not {kind}")));
    }
    let body = read(body, MAX_BYTES).await?;
    let Some(elsewhere) = elsewhere else { return webrtc.publish(&stream, &remote, &parts, &body).await };
    match direct(webrtc, elsewhere, &stream, &remote, &parts, &body).await? {
        Some(answer) => Ok(answer),
        None => webrtc.play(&stream, &remote, &parts, &body).await,
    }
}

/// A body, whole.
pub(crate) async fn read(body: Body, most: usize) -> Result<Bytes, Fault> {
    let body = timeout(BODY, Limited::new(body, most).collect()).await;
    let body = body.map_err(|_| Fault(408, "slow", "the body did not come in time".into()))?;
    let body = body.map_err(|_| Fault(413, "too-large", format!("the body may have {} KiB", most >> 10)))?;
    Ok(body.to_bytes())
}

fn stream(http: &Parts) -> Result<StreamName, Fault> {
    let path = http.uri.path();
    let name =
        ["/whep/", "/webrtc/play/", "/whip/", "/webrtc/push/"].iter().find_map(|prefix| path.strip_prefix(prefix));
    stream_in_path(name.unwrap_or_default()).map_err(|why| Fault(404, "no-stream", why.to_string()))
}

async fn preflight() -> Response {
    let mut response = web::preflight().map(Body::from).into_response();
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::ACCESS_CONTROL_ALLOW_METHODS, "POST, PATCH, DELETE, OPTIONS");
    set(header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type, If-Match");
    set(HeaderName::from_static("accept-post"), SDP);
    response
}
