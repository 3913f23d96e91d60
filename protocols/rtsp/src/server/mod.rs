//! The server: a connection, its session, and what it brings or sees.

mod admit;
mod play;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_formats::rtp;
use culvert_hub::{Admission, Ask, Attached, End, Finished, Gate, Outlet, Pace, Player, Publisher};
use culvert_media::Tracks;
use culvert_net::{Conn, ReadHalf};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::receive::Intake;
use crate::session::{Event, Output, ServerSession, TIMEOUT, Way};
use crate::tunnel::Tunnels;
use crate::udp::{Datagram, Registration, Udp};
use crate::wire;
use crate::wire::auth::{Algorithm, Nonces};

/// What the kernel may hold unsent for a player; what waits in our own queue instead can still be skipped.
pub(crate) const UNSENT_BYTES: u32 = 256 << 10;
/// Read at a time before it is known what a connection is for, from a player, and from a publisher.
const READ_BYTES: usize = 2048;
const PLAYER_READ_BYTES: usize = 512;
const PUBLISHER_READ_BYTES: usize = 64 << 10;
/// How long last words may take, and how long we go on reading so that the peer sees them.
const FAREWELL: Duration = Duration::from_secs(2);
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
    #[error("its ports are another session's now")]
    Ports,
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
            Fault::Ports => "ports",
        }
    }
}

enum Role {
    Idle,
    /// A stream was described, and is held until it is played.
    Described(Box<Described>),
    Publishing(Box<Publishing>),
    /// All of it, on the connection, with all others.
    Playing(Attached, Box<Described>),
    /// Some of it, or by datagrams: by itself.
    Feeding(Box<Feeding>),
}

struct Described {
    ask: Ask,
    query: String,
    /// None while it rests after a `PAUSE`.
    admission: Option<Admission>,
    tracks: Tracks,
    /// It has played, and was told how long it may be silent.
    has_played: bool,
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
    /// Of this connection alone: what was shown on another is of no use here.
    nonces: Nonces,
}

impl Rtsp {
    /// Peers come in by this gate, and players are written to at this pace.
    pub fn new(gate: Gate, pace: Pace, limits: Limits, udp: Option<Udp>, digests: Digests) -> Rtsp {
        Rtsp(Arc::new(Inner { gate, pace, limits, udp, digests, tunnels: Tunnels::default() }))
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

    pub(crate) fn stall(&self) -> Duration {
        self.0.pace.stall
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
        let mut secret = [0; 32];
        // Without randomness a digest could be shown again; all else is the same.
        getrandom::fill(&mut secret).ok();
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
            nonces: Nonces::new(&secret),
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
            Role::Playing(mut attached, _) => {
                attached.close();
                self.write = attached.ended().await.outlet(FAREWELL).await;
            }
        }
        if let Some(mut write) = self.write.take() {
            let words = async {
                while let Some(bytes) = self.session.poll_answer() {
                    write.write_all(&bytes).await?;
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
                Role::Playing(..) | Role::Feeding(_) => PLAYER_READ_BYTES,
            };
            if buffer.len() != size {
                buffer = vec![0; size];
            }
            match self.wake(&mut buffer).await {
                Woken::Read(read) => {
                    let n = read?;
                    let Some(bytes) = buffer.get(..n).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
                    self.note_life();
                    self.session.handle_input(bytes);
                }
                Woken::Datagram(Some(datagram)) => self.handle_datagram(datagram),
                Woken::Datagram(None) => return Err(Fault::Ports),
                Woken::Timer => {}
                Woken::Late => {
                    let limits = &self.rtsp.0.limits;
                    return Err(match &self.role {
                        Role::Publishing(_) => Fault::Silent(limits.silence),
                        Role::Feeding(_) => Fault::Gone,
                        Role::Described(described) if described.has_played => Fault::Gone,
                        Role::Idle | Role::Described(_) | Role::Playing(..) => Fault::Handshake(limits.handshake),
                    });
                }
                Woken::Chunks(Ok(())) => self.feed().await?,
                Woken::Chunks(Err(end)) => {
                    tracing::debug!(remote = %self.remote, end = end.name(), "viewer ended");
                    self.say_bye().await;
                    return Ok(());
                }
                Woken::Finished(finished) => {
                    self.role = Role::Idle;
                    self.write = finished.outlet(FAREWELL).await;
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
                let rests = matches!(&self.role, Role::Described(described) if described.has_played);
                let bound = if rests { SIGN_OF_LIFE } else { limits.handshake };
                let left = bound.saturating_sub(self.idle_since.elapsed());
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
            Role::Playing(attached, _) => tokio::select! {
                read = read => Woken::Read(read),
                finished = attached.ended() => Woken::Finished(finished),
            },
            Role::Feeding(feeding) => {
                let Feeding { player, chunks, came, heard, .. } = feeding.as_mut();
                let late = *heard + SIGN_OF_LIFE;
                let mut out = Vec::new();
                tokio::select! {
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
            // Before it begins to send, its time runs from the announcement.
            Role::Publishing(publishing) if publishing.came.is_none() && self.session.is_running() => {
                publishing.heard = Instant::now();
            }
            Role::Feeding(feeding) => feeding.heard = Instant::now(),
            Role::Described(described) if described.has_played => self.idle_since = Instant::now(),
            Role::Publishing(_) | Role::Idle | Role::Described(_) | Role::Playing(..) => {}
        }
    }

    fn handle_datagram(&mut self, datagram: Datagram) {
        let Datagram { at, rtcp, data } = datagram;
        match &mut self.role {
            Role::Publishing(publishing) => {
                publishing.heard = Instant::now();
                if self.session.is_running() {
                    publishing.intake.handle(std::time::Instant::now(), at, rtcp, data, false);
                }
            }
            Role::Feeding(feeding) => feeding.heard = Instant::now(),
            Role::Idle | Role::Described(_) | Role::Playing(..) => {}
        }
    }

    /// Does what the session has for us.
    async fn flush(&mut self) -> Result<(), Fault> {
        loop {
            match self.session.poll_output() {
                Ok(Some(Output::Send(bytes))) => self.say(bytes).await?,
                Ok(Some(Output::Event(event))) => self.handle_event(event).await?,
                Ok(None) => return Ok(()),
                Err(fault) => {
                    self.say(refusal_of(&fault)).await.ok();
                    return Err(fault.into());
                }
            }
        }
    }

    /// Tells a viewer that there is no more, on each way (RFC 3550 6.6).
    async fn say_bye(&mut self) {
        let Role::Feeding(feeding) = &self.role else { return };
        let ssrcs = feeding.described.tracks.iter().enumerate().map(|(at, track)| rtp::Mux::line(at, track).ssrc);
        let byes: Vec<(Way, Vec<u8>)> = ssrcs
            .zip(&feeding.ways)
            .filter_map(|(ssrc, way)| {
                let mut bye = Vec::new();
                rtp::rtcp::write_bye(ssrc, &mut bye);
                Some(((*way)?, bye))
            })
            .collect();
        for (way, bye) in byes {
            match way {
                Way::Tcp(_, channel) => drop(self.say(interleaved(channel, &bye)).await),
                Way::Udp(_, port) => {
                    if let Some(udp) = &self.rtsp.0.udp {
                        udp.send(SocketAddr::new(self.remote.ip(), port), true, &bye).await;
                    }
                }
            }
        }
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
        if let Role::Playing(attached, _) = &self.role {
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
            Event::Describe(asking) => self.describe(*asking).await,
            Event::Announce(asking, session) => self.announce(*asking, session).await,
            Event::Record => {
                if let Role::Publishing(publishing) = &mut self.role {
                    publishing.heard = Instant::now();
                    let ways = udp_ways(self.session.ways());
                    if let (false, true, Some(udp)) = (ways.is_empty(), publishing.came.is_none(), &self.rtsp.0.udp) {
                        let Some((registration, came)) = udp.register(self.remote.ip(), &ways) else {
                            self.session.refuse(461, PORTS_TAKEN, &[]);
                            return Ok(());
                        };
                        (publishing._registration, publishing.came) = (Some(registration), Some(came));
                    }
                }
                self.session.accept();
                Ok(())
            }
            Event::Play => self.play().await,
            Event::Pause => {
                self.pause().await;
                Ok(())
            }
            Event::Teardown => Ok(()),
            Event::Packet { at, rtcp, data } => {
                if let Role::Publishing(publishing) = &mut self.role {
                    publishing.intake.handle(std::time::Instant::now(), at, rtcp, data, true);
                }
                Ok(())
            }
        }
    }
}

/// Two sessions of one machine cannot have the same ports.
const PORTS_TAKEN: &str = "another session has these ports; choose others";

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
