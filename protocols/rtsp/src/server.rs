//! The server: a connection, its session, and what it brings or sees.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use culvert_formats::rtp::{self, Packet, framed};
use culvert_hub::{
    Action, Admission, Ask, Attached, Class, Credentials, Digest, End, Finished, Gate, Outlet, Pace, Player, Publisher,
    Refusal, parameter,
};
use culvert_media::{Mux as _, StreamName, Tracks};
use culvert_net::{Conn, ReadHalf};
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::receive::Intake;
use crate::sdp::{self, Description};
use crate::session::{Asking, Event, Output, ServerSession, TIMEOUT, Way};
use crate::tunnel::Tunnels;
use crate::udp::{Datagram, Registration, Udp};
use crate::wire::auth::{Algorithm, DigestResponse, Nonce, Nonces, challenges};
use crate::{map, wire};

/// What the kernel may hold unsent for a player; what waits in our own queue instead can still be skipped.
const UNSENT_BYTES: u32 = 256 << 10;
/// Read at a time before it is known what a connection is for, from a player, and from a publisher.
const READ_BYTES: usize = 2048;
const PLAYER_READ_BYTES: usize = 512;
const PUBLISHER_READ_BYTES: usize = 64 << 10;
/// How long last words may take, and how long we go on reading so that the peer sees them.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long `PLAY` waits for a first picture, to say which packet it begins with.
const FIRST_PICTURE: Duration = Duration::from_secs(2);
/// A viewer of datagrams that says nothing for so long is gone: it was told [`TIMEOUT`].
const SIGN_OF_LIFE: Duration = Duration::from_secs(TIMEOUT.as_secs() * 3 / 2);
/// The realm of all challenges; `auth.users[].digest` is made with it.
pub const REALM: &str = "culvert";

/// The bounds of a connection in time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte to `RECORD` or `PLAY`.
    pub handshake: Duration,
    /// A publisher that sends nothing for this long is lost.
    pub silence: Duration,
}

/// Which digests can be checked: as users have them now.
pub type Digests = Arc<dyn Fn() -> Vec<Algorithm> + Send + Sync>;

/// Serves RTSP connections. Cheap to clone.
#[derive(Clone)]
pub struct Rtsp(Arc<Inner>);

struct Inner {
    gate: Gate,
    pace: Pace,
    limits: Limits,
    udp: Option<Udp>,
    nonces: Nonces,
    digests: Digests,
    tunnels: Tunnels,
}

/// Why a connection ended, other than by the peer's wish.
#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Wire(#[from] wire::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("neither RECORD nor PLAY within {} s", .0.as_secs())]
    Handshake(Duration),
    #[error("the publisher sent nothing for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the viewer gave no sign of life for {} s", SIGN_OF_LIFE.as_secs())]
    Gone,
    #[error("the viewer took nothing for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("the peer asks more than it reads")]
    Flood,
    #[error("the stream is no longer what was described; open it again")]
    Changed,
}

impl Fault {
    /// A stable word for counters.
    fn kind(&self) -> &'static str {
        match self {
            Fault::Wire(_) => "protocol",
            Fault::Io(_) => "io",
            Fault::Handshake(_) => "handshake-timeout",
            Fault::Silent(_) => "silent",
            Fault::Gone => "gone",
            Fault::Stalled(_) => "stalled",
            Fault::Flood => "flood",
            Fault::Changed => "changed",
        }
    }
}

enum Role {
    Idle,
    /// A stream was described, and is held until it is played.
    Described(Box<Described>),
    Publishing(Box<Publishing>),
    /// All of it, on the connection, with all others.
    Playing(Attached),
    /// Some of it, or by datagrams: by itself.
    Feeding(Box<Feeding>),
}

struct Described {
    ask: Ask,
    query: String,
    /// None while it rests after a `PAUSE`.
    admission: Option<Admission>,
    tracks: Tracks,
}

struct Publishing {
    publisher: Publisher,
    intake: Intake,
    /// Of datagrams.
    came: Option<mpsc::Receiver<Datagram>>,
    _registration: Option<Registration>,
    heard: Instant,
}

struct Feeding {
    described: Described,
    player: Player,
    chunks: VecDeque<Bytes>,
    /// Where each track goes.
    ways: Vec<Option<Way>>,
    came: Option<mpsc::Receiver<Datagram>>,
    _registration: Option<Registration>,
    heard: Instant,
}

/// What the loop woke up for.
enum Woken {
    Read(std::io::Result<usize>),
    Datagram(Option<Datagram>),
    Timer,
    Late,
    Chunks(Result<(), End>),
    Finished(Finished),
    Cancelled,
}

struct Peer {
    rtsp: Rtsp,
    session: ServerSession,
    read: ReadHalf,
    /// None while a player's media is being written.
    write: Option<Outlet>,
    role: Role,
    remote: SocketAddr,
    secure: bool,
    /// The web site on whose behalf it speaks, where it came by HTTP.
    origin: Option<String>,
    idle_since: Instant,
    permit: Option<Box<dyn Send>>,
}

impl Rtsp {
    /// Peers come in by this gate, and players are written to at this pace. `secret` makes challenges that nobody can forge.
    pub fn new(gate: Gate, pace: Pace, limits: Limits, udp: Option<Udp>, secret: [u8; 32], digests: Digests) -> Rtsp {
        Rtsp(Arc::new(Inner {
            gate,
            pace,
            limits,
            udp,
            nonces: Nonces::new(&secret),
            digests,
            tunnels: Tunnels::default(),
        }))
    }

    /// The sockets for datagrams.
    pub fn udp(&self) -> Option<&Udp> {
        self.0.udp.as_ref()
    }

    pub(crate) fn tunnels(&self) -> &Tunnels {
        &self.0.tunnels
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    pub(crate) fn handshake(&self) -> Duration {
        self.0.limits.handshake
    }

    /// Spawns a task that serves one connection to its end. `permit` is held until the peer says what it wants: the room that
    /// strangers take up is bounded.
    pub fn serve(&self, conn: Conn, permit: impl Send + 'static) {
        conn.set_nodelay(true);
        conn.set_notsent_lowat(UNSENT_BYTES);
        let (remote, secure) = (conn.remote(), conn.is_secure());
        let (read, write) = conn.into_split();
        self.serve_halves(read, write, remote, secure, None, permit);
    }

    /// The same for two ways that belong together. `origin`: the site on whose behalf, where it came by HTTP.
    pub(crate) fn serve_halves(
        &self,
        read: ReadHalf,
        write: Outlet,
        remote: SocketAddr,
        secure: bool,
        origin: Option<String>,
        permit: impl Send + 'static,
    ) {
        let mut id = [0; 16];
        // A session belongs to its connection, so that even a known id is of no use.
        getrandom::fill(&mut id).ok();
        let id = format!("{:032x}", u128::from_be_bytes(id));
        // Datagrams have no TLS: whoever came by it gets nothing outside.
        let udp = self.0.udp.as_ref().filter(|_| !secure && origin.is_none());
        let peer = Box::new(Peer {
            rtsp: self.clone(),
            session: ServerSession::new(id, udp.map(Udp::ports)),
            read,
            write: Some(write),
            role: Role::Idle,
            remote,
            secure,
            origin,
            idle_since: Instant::now(),
            permit: Some(Box::new(permit)),
        });
        self.0.gate.hub().spawn(peer.run());
    }
}

impl Peer {
    async fn run(mut self: Box<Peer>) {
        let ended = self.talk().await;
        let hub = self.rtsp.0.gate.hub();
        if let Err(fault) = &ended {
            if !matches!(fault, Fault::Io(_)) {
                hub.figures().count_fault("rtsp", fault.kind());
            }
            tracing::info!(remote = %self.remote, protocol = "rtsp", %fault, "connection ended");
        }
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Idle | Role::Described(_) | Role::Feeding(_) => {}
            Role::Publishing(publishing) => {
                let closed = publishing.publisher.session().figures().is_cancelled();
                let (lost, damaged) = publishing.intake.losses();
                if lost + damaged > 0 {
                    tracing::info!(remote = %self.remote, protocol = "rtsp", stream = %publishing.publisher.name(), lost, damaged, "packets lost");
                }
                publishing.publisher.finish(match (closed, self.session.has_ended()) {
                    (true, _) => End::Closed,
                    (false, true) => End::Finished,
                    (false, false) => End::Lost,
                });
            }
            Role::Playing(mut attached) => {
                attached.close();
                self.write = attached.ended().await.outlet;
            }
        }
        if let Some(mut write) = self.write.take() {
            let words = async {
                while let Some(output) = self.session.poll_output() {
                    if let Output::Send(bytes) = output {
                        write.write_all(&bytes).await?;
                    }
                }
                write.shutdown().await
            };
            timeout(FAREWELL, words).await.ok();
            // A close with bytes unread would take back what was said.
            let mut ignored = vec![0; READ_BYTES];
            let read = &mut self.read;
            let drain = async { while read.read(&mut ignored).await.is_ok_and(|n| n > 0) {} };
            timeout(FAREWELL, drain).await.ok();
        }
    }

    async fn talk(&mut self) -> Result<(), Fault> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let size = match &self.role {
                Role::Idle | Role::Described(_) => READ_BYTES,
                Role::Publishing(_) => PUBLISHER_READ_BYTES,
                Role::Playing(_) | Role::Feeding(_) => PLAYER_READ_BYTES,
            };
            if buffer.len() != size {
                buffer = vec![0; size];
            }
            match self.wake(&mut buffer).await {
                Woken::Read(read) => {
                    let n = read?;
                    let Some(bytes) = buffer.get(..n).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
                    self.note_life();
                    if let Err(fault) = self.session.handle_input(bytes) {
                        self.say(refusal_of(&fault)).await.ok();
                        return Err(fault.into());
                    }
                }
                Woken::Datagram(datagram) => self.handle_datagram(datagram),
                Woken::Timer => {}
                Woken::Late => {
                    let limits = &self.rtsp.0.limits;
                    return Err(match self.role {
                        Role::Publishing(_) => Fault::Silent(limits.silence),
                        Role::Feeding(_) => Fault::Gone,
                        Role::Idle | Role::Described(_) | Role::Playing(_) => Fault::Handshake(limits.handshake),
                    });
                }
                Woken::Chunks(Ok(())) => self.feed().await?,
                Woken::Chunks(Err(end)) => {
                    tracing::debug!(remote = %self.remote, end = end.name(), "viewer ended");
                    return Ok(());
                }
                Woken::Finished(finished) => {
                    self.role = Role::Idle;
                    self.write = finished.outlet;
                    return Ok(());
                }
                Woken::Cancelled => return Ok(()),
            }
            // In a box of its own: it is large, and a player's task does not need it while it waits.
            Box::pin(self.flush()).await?;
            Box::pin(self.pass_on()).await?;
            if self.session.has_ended() {
                return Ok(());
            }
        }
    }

    async fn wake(&mut self, buffer: &mut [u8]) -> Woken {
        let limits = self.rtsp.0.limits;
        let hub = self.rtsp.0.gate.hub();
        let read = self.read.read(buffer);
        match &mut self.role {
            Role::Idle | Role::Described(_) => {
                let left = limits.handshake.saturating_sub(self.idle_since.elapsed());
                tokio::select! {
                    read = timeout(left, read) => read.map_or(Woken::Late, Woken::Read),
                    () = hub.draining() => Woken::Cancelled,
                }
            }
            Role::Publishing(publishing) => {
                let Publishing { publisher, intake, came, heard, .. } = publishing.as_mut();
                let timer = intake.poll_timeout().map(Instant::from_std);
                // A session that is set up may take its time to begin.
                let late = *heard + if self.session.is_running() { limits.silence } else { limits.handshake };
                tokio::select! {
                    read = read => Woken::Read(read),
                    datagram = next(came) => Woken::Datagram(datagram),
                    () = sleep_until(timer.unwrap_or(late)), if timer.is_some_and(|timer| timer < late) => Woken::Timer,
                    () = sleep_until(late) => Woken::Late,
                    () = publisher.cancelled() => Woken::Cancelled,
                }
            }
            Role::Playing(attached) => tokio::select! {
                read = read => Woken::Read(read),
                finished = attached.ended() => Woken::Finished(finished),
            },
            Role::Feeding(feeding) => {
                let Feeding { player, chunks, came, heard, .. } = feeding.as_mut();
                let late = *heard + SIGN_OF_LIFE;
                let mut out = Vec::new();
                tokio::select! {
                    biased;
                    read = read => Woken::Read(read),
                    datagram = next(came) => Woken::Datagram(datagram),
                    // On the connection its end is noticed; datagrams go anywhere.
                    () = sleep_until(late), if came.is_some() => Woken::Late,
                    taken = player.take(&mut out) => {
                        chunks.extend(out);
                        Woken::Chunks(taken)
                    }
                }
            }
        }
    }

    fn note_life(&mut self) {
        match &mut self.role {
            // A publisher's sign of life is media, which comes on the connection only where that carries it.
            Role::Publishing(publishing) if publishing.came.is_none() => publishing.heard = Instant::now(),
            Role::Feeding(feeding) => feeding.heard = Instant::now(),
            Role::Publishing(_) | Role::Idle | Role::Described(_) | Role::Playing(_) => {}
        }
    }

    fn handle_datagram(&mut self, datagram: Option<Datagram>) {
        let Some(Datagram { at, rtcp, data }) = datagram else { return };
        match &mut self.role {
            Role::Publishing(publishing) => {
                publishing.heard = Instant::now();
                if self.session.is_running() {
                    publishing.intake.handle(std::time::Instant::now(), at, rtcp, data, false);
                }
            }
            Role::Feeding(feeding) => feeding.heard = Instant::now(),
            Role::Idle | Role::Described(_) | Role::Playing(_) => {}
        }
    }

    /// Does what the session has for us.
    async fn flush(&mut self) -> Result<(), Fault> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(bytes) => self.say(bytes).await?,
                Output::Event(event) => self.handle_event(event).await?,
            }
        }
        Ok(())
    }

    /// What was received, to the hub; and reports about it.
    async fn pass_on(&mut self) -> Result<(), Fault> {
        let Role::Publishing(publishing) = &mut self.role else { return Ok(()) };
        let now = std::time::Instant::now();
        publishing.intake.handle_timeout(now);
        if publishing.intake.pass_on(&publishing.publisher).is_err() {
            // Replaced: `cancelled` says so.
            return Ok(());
        }
        if !self.session.is_running() {
            return Ok(());
        }
        for (at, report) in publishing.intake.poll_reports(now) {
            match self.session.ways().get(at).copied().flatten() {
                Some(Way::Tcp(_, channel)) => self.say(interleaved(channel, &report)).await?,
                Some(Way::Udp(_, port)) => {
                    if let Some(udp) = &self.rtsp.0.udp {
                        udp.send(SocketAddr::new(self.remote.ip(), port), true, &report).await;
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    async fn say(&mut self, bytes: Bytes) -> Result<(), Fault> {
        if let Role::Playing(attached) = &self.role {
            return if attached.send(bytes) { Ok(()) } else { Err(Fault::Flood) };
        }
        let Some(write) = &mut self.write else { return Ok(()) };
        match timeout(self.rtsp.0.pace.stall, write.write_all(&bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Fault::Flood),
        }
    }

    async fn handle_event(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Describe(asking) => self.describe(asking).await,
            Event::Announce(asking, session) => self.announce(asking, session).await,
            Event::Record => {
                if let Role::Publishing(publishing) = &mut self.role {
                    publishing.heard = Instant::now();
                    let ways = udp_ways(self.session.ways());
                    if let (false, Some(udp)) = (ways.is_empty(), &self.rtsp.0.udp) {
                        let (registration, came) = udp.register(self.remote.ip(), &ways);
                        (publishing._registration, publishing.came) = (Some(registration), Some(came));
                    }
                }
                Ok(self.session.accept()?)
            }
            Event::Play => self.play().await,
            Event::Pause => {
                self.pause().await;
                Ok(())
            }
            Event::Teardown => Ok(()),
            Event::Packet { at, rtcp, data } => {
                if let Role::Publishing(publishing) = &mut self.role
                    && self.session.is_running()
                {
                    publishing.intake.handle(std::time::Instant::now(), at, rtcp, data, true);
                }
                Ok(())
            }
        }
    }

    async fn describe(&mut self, asking: Asking) -> Result<(), Fault> {
        let ask = match self.ask(Action::Play, &asking) {
            Ok(ask) => ask,
            Err(why) => return Ok(self.session.refuse(404, &why, &[])?),
        };
        // It has said what it wants, and the gate bounds what follows.
        let permit = self.permit.take();
        match Box::pin(self.rtsp.0.gate.play(&ask)).await {
            Ok(admission) => {
                let tracks = admission.tracks();
                let any: IpAddr = match self.remote {
                    SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                let text = sdp::write(any, ask.stream.as_str(), &map::told(&tracks));
                let ssrcs = tracks.iter().enumerate().map(|(at, track)| rtp::Mux::line(at, track).ssrc).collect();
                self.role = Role::Described(Box::new(Described {
                    ask,
                    query: asking.target.query,
                    admission: Some(admission),
                    tracks,
                }));
                self.idle_since = Instant::now();
                Ok(self.session.describe(text, ssrcs)?)
            }
            Err(refusal) => {
                self.permit = permit;
                self.refuse(&refusal)
            }
        }
    }

    async fn announce(&mut self, asking: Asking, session: Description) -> Result<(), Fault> {
        let ask = match self.ask(Action::Publish, &asking) {
            Ok(ask) => ask,
            Err(why) => return Ok(self.session.refuse(400, &why, &[])?),
        };
        let Some(intake) = Intake::new(std::time::Instant::now(), &session) else {
            let why = "nothing in this SDP is a form of media that is taken here";
            return Ok(self.session.refuse(415, why, &[])?);
        };
        let permit = self.permit.take();
        match Box::pin(self.rtsp.0.gate.publish(&ask)).await {
            Ok(publisher) => {
                let heard = Instant::now();
                let publishing = Publishing { publisher, intake, came: None, _registration: None, heard };
                self.role = Role::Publishing(Box::new(publishing));
                Ok(self.session.accept()?)
            }
            Err(refusal) => {
                self.permit = permit;
                self.refuse(&refusal)
            }
        }
    }

    async fn play(&mut self) -> Result<(), Fault> {
        let Role::Described(described) = std::mem::replace(&mut self.role, Role::Idle) else {
            return Ok(self.session.refuse(455, "", &[])?);
        };
        let mut described = *described;
        let admission = match described.admission.take() {
            Some(admission) => admission,
            // It paused, and comes back to what is live now.
            None => match Box::pin(self.rtsp.0.gate.play(&described.ask)).await {
                Ok(admission) => admission,
                Err(refusal) => return self.refuse(&refusal),
            },
        };
        if !rtp::Mux::new(&described.tracks).follows(&admission.tracks()) {
            self.session.refuse(404, "the stream is no longer what was described; open it again", &[])?;
            self.flush_sends().await?;
            return Err(Fault::Changed);
        }
        let class = match parameter(&described.query, "latency").as_deref() {
            Some("low") => Class::Low,
            Some("shared") => Class::Shared,
            Some(_) | None => self.rtsp.0.pace.class,
        };
        let mut player = admission.play_as::<rtp::Mux>();
        let mut first = Vec::new();
        // Without a picture in time it begins with whatever comes.
        let taken = timeout(FIRST_PICTURE, player.take(&mut first)).await;
        if let Ok(Err(_)) = taken {
            return Ok(self.session.refuse(404, "the stream has ended", &[])?);
        }
        self.session.play(&next_packets(&first))?;
        let ways = self.session.ways().to_vec();
        let whole = ways.len() == described.tracks.iter().count();
        if whole && ways.iter().all(|way| matches!(way, Some(Way::Tcp(..)))) {
            self.flush_sends().await?;
            for chunk in first {
                self.say(chunk).await?;
            }
            if let Some(write) = self.write.take() {
                self.role = Role::Playing(player.attach(write, class, self.rtsp.0.pace));
            }
            return Ok(());
        }
        let (mut came, mut registration) = (None, None);
        let by_udp = udp_ways(&ways);
        if let (false, Some(udp)) = (by_udp.is_empty(), &self.rtsp.0.udp) {
            let (held, receiver) = udp.register(self.remote.ip(), &by_udp);
            (registration, came) = (Some(held), Some(receiver));
        }
        self.flush_sends().await?;
        let heard = Instant::now();
        let chunks = first.into();
        self.role = Role::Feeding(Box::new(Feeding {
            described,
            player,
            chunks,
            ways,
            came,
            _registration: registration,
            heard,
        }));
        self.feed().await
    }

    /// Answers that the session has ready; events stay.
    async fn flush_sends(&mut self) -> Result<(), Fault> {
        let mut aside = Vec::new();
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(bytes) => self.say(bytes).await?,
                Output::Event(event) => aside.push(event),
            }
        }
        // A player has no more to say in one read than what an answer lets through.
        for event in aside {
            if let Event::Teardown = event {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends what was taken to where each track goes.
    async fn feed(&mut self) -> Result<(), Fault> {
        let Role::Feeding(feeding) = &mut self.role else { return Ok(()) };
        let (udp, ip, stall) = (self.rtsp.0.udp.clone(), self.remote.ip(), self.rtsp.0.pace.stall);
        while let Some(chunk) = feeding.chunks.pop_front() {
            let mut on_connection = Vec::new();
            for packet in framed(&chunk) {
                let rtcp = packet.channel % 2 == 1;
                match feeding.ways.get(usize::from(packet.channel / 2)).copied().flatten() {
                    Some(Way::Udp(media, reports)) => {
                        if let Some(udp) = &udp {
                            let port = if rtcp { reports } else { media };
                            udp.send(SocketAddr::new(ip, port), rtcp, &packet.packet).await;
                        }
                    }
                    Some(Way::Tcp(..)) => on_connection.extend_from_slice(&interleaved(packet.channel, &packet.packet)),
                    None => {}
                }
            }
            if let (false, Some(write)) = (on_connection.is_empty(), &mut self.write) {
                match timeout(stall, write.write_all(&on_connection)).await {
                    Ok(written) => written?,
                    Err(_) => return Err(Fault::Stalled(stall)),
                }
            }
        }
        Ok(())
    }

    async fn pause(&mut self) {
        self.idle_since = Instant::now();
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Playing(mut attached) => {
                let figures = attached.session().clone();
                attached.close();
                self.write = attached.ended().await.outlet;
                tracing::debug!(session = figures.id, "paused");
            }
            Role::Feeding(feeding) => self.role = Role::Described(Box::new(feeding.described)),
            role @ (Role::Idle | Role::Described(_) | Role::Publishing(_)) => self.role = role,
        }
    }

    fn ask(&self, action: Action, asking: &Asking) -> Result<Ask, String> {
        let stream = StreamName::parse(&asking.target.path).map_err(|why| why.to_string())?;
        Ok(Ask {
            action,
            stream,
            protocol: if self.secure { "rtsps" } else { "rtsp" },
            remote: self.remote,
            secure: self.secure,
            credentials: self.credentials(asking),
            origin: self.origin.clone(),
            upper: None,
        })
    }

    fn credentials(&self, asking: &Asking) -> Credentials {
        if let Some(value) = asking.authorization.as_deref() {
            let Some(digest) = DigestResponse::parse(value) else {
                return Credentials::from_http(Some(value), &asking.target.query);
            };
            // A nonce that is not of ours, or old, shows nothing; the challenge that follows has a new one.
            if self.rtsp.0.nonces.check(&digest.nonce, now_seconds()) != Nonce::Good || digest.realm != REALM {
                return Credentials::default();
            }
            let shown = Digest {
                user: digest.user.clone(),
                sha256: digest.algorithm == Algorithm::Sha256,
                middle: digest.middle(),
                a2: digest.a2(asking.method),
                response: digest.response.clone(),
            };
            return Credentials { user: Some(digest.user), secret: None, digest: Some(shown) };
        }
        if let Some(pair) = &asking.target.user_info {
            let (user, secret) = pair.split_once(':').unwrap_or(("", pair));
            let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            return Credentials { user: Some(decode(user)), secret: Some(decode(secret)), digest: None };
        }
        Credentials::from_query(&asking.target.query)
    }

    fn refuse(&mut self, refusal: &Refusal) -> Result<(), Fault> {
        let mut headers = Vec::new();
        if let Refusal::Unauthorized(_) = refusal {
            let digests = (self.rtsp.0.digests)();
            let nonce = self.rtsp.0.nonces.issue(now_seconds());
            for challenge in challenges(REALM, &nonce, false, &digests) {
                headers.push(("WWW-Authenticate", challenge));
            }
        }
        let status = match refusal {
            Refusal::Unauthorized(_) => 401,
            Refusal::Forbidden(_) | Refusal::Taken(_) => 403,
            Refusal::NoStream(_) | Refusal::NoneBelow(_) | Refusal::NotStarted(_) => 404,
            Refusal::TooMany(_) | Refusal::Full(_) | Refusal::Draining => 503,
        };
        Ok(self.session.refuse(status, &refusal.to_string(), &headers)?)
    }
}

/// What to tell a peer whose bytes are no RTSP, or too many.
fn refusal_of(fault: &wire::Error) -> Bytes {
    let status = match fault {
        wire::Error::HeadTooLarge | wire::Error::BodyTooLarge(_) => 413,
        wire::Error::NotRtsp | wire::Error::Syntax(_) | wire::Error::Lost => 400,
    };
    let mut out = Vec::new();
    wire::Response::new(status).write(&mut out);
    out.into()
}

fn udp_ways(ways: &[Option<Way>]) -> Vec<(usize, u16, u16)> {
    let by_udp = ways.iter().enumerate().filter_map(|(at, way)| match way {
        Some(Way::Udp(media, reports)) => Some((at, *media, *reports)),
        Some(Way::Tcp(..)) | None => None,
    });
    by_udp.collect()
}

/// (track, sequence number, timestamp) of the first packet of each track.
fn next_packets(chunks: &[Bytes]) -> Vec<(usize, u16, u32)> {
    let mut next: Vec<(usize, u16, u32)> = Vec::new();
    for packet in chunks.iter().flat_map(framed).filter(|packet| packet.channel % 2 == 0) {
        let at = usize::from(packet.channel / 2);
        if next.iter().any(|(known, ..)| *known == at) {
            continue;
        }
        if let Ok(first) = Packet::parse(&packet.packet) {
            next.push((at, first.sequence, first.timestamp));
        }
    }
    next.sort_by_key(|(at, ..)| *at);
    next
}

/// A packet between messages (RFC 2326 10.12).
pub(crate) fn interleaved(channel: u8, packet: &[u8]) -> Bytes {
    let [high, low] = u16::try_from(packet.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[b'$', channel, high, low], packet].concat().into()
}

/// The next datagram, where there are any.
async fn next(came: &mut Option<mpsc::Receiver<Datagram>>) -> Option<Datagram> {
    match came {
        Some(came) => came.recv().await,
        None => std::future::pending().await,
    }
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
