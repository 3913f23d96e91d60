//! The server: a connection, its session, and what it publishes or plays.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_formats::flv::{self, Demux};
use culvert_formats::sound::WithAac;
use culvert_hub::{Action, Ask, Attached, Class, Credentials, End, Gate, Outlet, Pace, Publisher, Refusal, parameter};
use culvert_media::StreamName;
use culvert_net::{Conn, ReadHalf};
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::random;
use crate::session::{Output, Request, ServerEvent, ServerSession, Takes};
use crate::wire;

/// What the kernel may hold unsent for a player; as with HTTP-FLV, what waits in our own queue can still be skipped.
const UNSENT_BYTES: u32 = 256 << 10;
/// Read at a time before it is known what a connection is for, from a player, and from a publisher.
const READ_BYTES: usize = 2048;
const PLAYER_READ_BYTES: usize = 128;
const PUBLISHER_READ_BYTES: usize = 64 << 10;
/// How long last words may take, and how long we go on reading so that the peer sees them (a close with bytes unread
/// would take them back).
const FAREWELL: Duration = Duration::from_secs(2);

/// The bounds of a connection in time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte to `publish` or `play`.
    pub handshake: Duration,
    /// A publisher that sends nothing for this long is lost.
    pub silence: Duration,
}

/// Serves RTMP connections. Cheap to clone.
#[derive(Clone)]
pub struct Rtmp {
    gate: Gate,
    pace: Pace,
    limits: Limits,
}

/// Why a connection ended, other than by the peer's wish.
#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Wire(#[from] wire::Error),
    #[error(transparent)]
    Media(#[from] flv::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("neither publish nor play within {} s", .0.as_secs())]
    Handshake(Duration),
    #[error("the publisher sent nothing for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("{0}")]
    Refused(Refusal),
    #[error("{0}")]
    Name(culvert_media::NameError),
    #[error("the peer asks more than it reads")]
    Flood,
}

impl Fault {
    /// A stable word for counters.
    fn kind(&self) -> &'static str {
        match self {
            Fault::Wire(_) => "protocol",
            Fault::Media(_) => "media",
            Fault::Io(_) => "io",
            Fault::Handshake(_) => "handshake-timeout",
            Fault::Silent(_) => "silent",
            Fault::Refused(_) => "refused",
            Fault::Name(_) => "bad-name",
            Fault::Flood => "flood",
        }
    }
}

enum Role {
    Idle,
    Publishing(Box<Publishing>),
    Playing(Attached),
}

struct Publishing {
    publisher: Publisher,
    demux: Demux,
}

struct Peer {
    gate: Gate,
    pace: Pace,
    session: ServerSession,
    read: ReadHalf,
    /// None while a player's media is being written.
    write: Option<Outlet>,
    role: Role,
    remote: std::net::SocketAddr,
    secure: bool,
    /// Events that came while something else was being done.
    aside: VecDeque<ServerEvent>,
    /// Since when it has neither published nor played.
    idle_since: Instant,
    /// A status was sent that ends the connection.
    ending: Option<Fault>,
    /// Of a stranger.
    permit: Option<Box<dyn Send>>,
}

/// What the loop woke up for.
enum Woken {
    Read(std::io::Result<usize>),
    Late,
    Finished(culvert_hub::Finished),
    Cancelled,
}

impl Rtmp {
    /// Peers come in by this gate, and players are written to at this pace.
    pub fn new(gate: Gate, pace: Pace, limits: Limits) -> Rtmp {
        Rtmp { gate, pace, limits }
    }

    /// Spawns a task that serves one connection to its end. `permit` is held until the peer says what it wants: the
    /// room that strangers take up is bounded.
    pub fn serve(&self, conn: Conn, permit: impl Send + 'static) {
        conn.set_nodelay(true);
        conn.set_notsent_lowat(UNSENT_BYTES);
        let (remote, secure) = (conn.remote(), conn.is_secure());
        let (read, write) = conn.into_split();
        // In a box, for a task that takes it by value would have room for it twice.
        let peer = Box::new(Peer {
            gate: self.gate.clone(),
            pace: self.pace,
            session: ServerSession::new(0, &random()),
            read,
            write: Some(write),
            role: Role::Idle,
            remote,
            secure,
            aside: VecDeque::new(),
            idle_since: Instant::now(),
            ending: None,
            permit: Some(Box::new(permit)),
        });
        // A task of its own: the one that told protocols apart is as large as the largest of them.
        self.gate.hub().spawn(peer.run(self.limits));
    }
}

impl Peer {
    async fn run(mut self: Box<Peer>, limits: Limits) {
        let ended = self.talk(limits).await;
        if let Err(fault) = &ended {
            if !matches!(fault, Fault::Io(_) | Fault::Refused(_)) {
                self.gate.hub().figures().count_fault("rtmp", fault.kind());
            }
            // A peer's mistake is no trouble of ours.
            tracing::info!(remote = %self.remote, protocol = "rtmp", %fault, "connection ended");
        }
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Idle => {}
            Role::Publishing(publishing) => {
                let closed = publishing.publisher.session().figures().is_cancelled();
                publishing.publisher.finish(if closed { End::Closed } else { End::Lost });
            }
            Role::Playing(mut attached) => {
                attached.close();
                self.write = attached.ended().await.outlet(FAREWELL).await;
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
            // On the heap: an array would be part of every player's task.
            let mut ignored = vec![0; READ_BYTES];
            let read = &mut self.read;
            let drain = async { while read.read(&mut ignored).await.is_ok_and(|n| n > 0) {} };
            timeout(FAREWELL, drain).await.ok();
        }
    }

    async fn talk(&mut self, limits: Limits) -> Result<(), Fault> {
        let hub = self.gate.hub().clone();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let size = match &self.role {
                Role::Idle => READ_BYTES,
                Role::Publishing(_) => PUBLISHER_READ_BYTES,
                Role::Playing(_) => PLAYER_READ_BYTES,
            };
            if buffer.len() != size {
                buffer = vec![0; size];
            }
            let read = self.read.read(&mut buffer);
            let woken = match &mut self.role {
                Role::Idle => {
                    let left = limits.handshake.saturating_sub(self.idle_since.elapsed());
                    tokio::select! {
                        read = timeout(left, read) => read.map_or(Woken::Late, Woken::Read),
                        () = hub.draining() => Woken::Cancelled,
                    }
                }
                Role::Publishing(publishing) => tokio::select! {
                    read = timeout(limits.silence, read) => read.map_or(Woken::Late, Woken::Read),
                    () = publishing.publisher.cancelled() => Woken::Cancelled,
                },
                Role::Playing(attached) => tokio::select! {
                    read = read => Woken::Read(read),
                    finished = attached.ended() => Woken::Finished(finished),
                },
            };
            match woken {
                Woken::Read(read) => {
                    let n = read?;
                    let Some(bytes) = buffer.get(..n).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
                    self.session.handle_input(bytes)?;
                }
                Woken::Late => {
                    return Err(match self.role {
                        Role::Idle | Role::Playing(_) => Fault::Handshake(limits.handshake),
                        Role::Publishing(_) => Fault::Silent(limits.silence),
                    });
                }
                Woken::Cancelled => {
                    self.session.end("NetStream.Unpublish.Success", "taken over or closed");
                    return Ok(());
                }
                Woken::Finished(finished) => {
                    self.role = Role::Idle;
                    let end = finished.end.clone();
                    self.write = finished.outlet(FAREWELL).await;
                    self.session.end("NetStream.Play.UnpublishNotify", end.name());
                    return Ok(());
                }
            }
            // In a box of its own: it is large, and a player's task does not need it while it waits.
            Box::pin(self.flush()).await?;
            if let Some(fault) = self.ending.take() {
                return Err(fault);
            }
        }
    }

    /// Does what the session has for us.
    async fn flush(&mut self) -> Result<(), Fault> {
        loop {
            if let Some(event) = self.aside.pop_front() {
                self.handle_event(event).await?;
                continue;
            }
            match self.session.poll_output() {
                Some(Output::Send(bytes)) => self.send(bytes).await?,
                Some(Output::Event(event)) => self.handle_event(event).await?,
                None => return Ok(()),
            }
        }
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Fault> {
        if let Role::Playing(attached) = &self.role {
            return if attached.send(bytes) { Ok(()) } else { Err(Fault::Flood) };
        }
        let Some(write) = &mut self.write else { return Ok(()) };
        match timeout(self.pace.stall, write.write_all(&bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Fault::Flood),
        }
    }

    async fn handle_event(&mut self, event: ServerEvent) -> Result<(), Fault> {
        // It has said what it wants, and the gate bounds what follows.
        self.permit = None;
        match event {
            ServerEvent::Publish(request) => match self.ask(Action::Publish, &request) {
                Ok(ask) => match Box::pin(self.gate.publish(&ask)).await {
                    Ok(publisher) => {
                        self.session.accept();
                        self.role = Role::Publishing(Box::new(Publishing { publisher, demux: Demux::new() }));
                    }
                    Err(refusal) => self.refuse(publish_code(&refusal), Fault::Refused(refusal)),
                },
                Err(why) => self.refuse("NetStream.Publish.BadName", Fault::Name(why)),
            },
            ServerEvent::Play(request) => match self.ask(Action::Play, &request) {
                Ok(ask) => match Box::pin(self.gate.play(&ask)).await {
                    Ok(admission) => {
                        self.session.accept();
                        // The answer goes before the media; what else the peer said comes after.
                        while let Some(output) = self.session.poll_output() {
                            match output {
                                Output::Send(bytes) => self.send(bytes).await?,
                                Output::Event(event) => self.aside.push_back(event),
                            }
                        }
                        let class = match parameter(&request.query, "latency").as_deref() {
                            Some("low") => Class::Low,
                            Some("shared") => Class::Shared,
                            Some(_) | None => self.pace.class,
                        };
                        if let Some(write) = self.write.take() {
                            let chosen = parameter(&request.query, "audio");
                            let player = match chosen.as_deref() {
                                Some("opus" | "flac") => admission.play_as::<crate::Mux>(),
                                // One that says nothing of these is not to get them when the tracks change, either.
                                _ if request.takes != Takes::default()
                                    && request.takes.all_of(&admission.tracks())
                                    && chosen.as_deref() != Some("aac") =>
                                {
                                    admission.play_as::<crate::Mux>()
                                }
                                _ => admission.play_as::<WithAac<crate::Mux>>(),
                            };
                            self.role = Role::Playing(player.attach(write, class, self.pace));
                        }
                    }
                    Err(refusal) => self.refuse(play_code(&refusal), Fault::Refused(refusal)),
                },
                Err(why) => self.refuse("NetStream.Play.Failed", Fault::Name(why)),
            },
            ServerEvent::Media { kind, time_ms, body } => {
                if let Role::Publishing(publishing) = &mut self.role {
                    publishing.demux.handle_tag(SystemTime::now(), kind, time_ms, body)?;
                    publishing.pass_on();
                }
            }
            ServerEvent::Stopped => self.stop().await,
            // Media goes on: a player that pauses a live stream resumes at what is live, and its buffer is bounded.
            ServerEvent::Paused(_) => {}
        }
        Ok(())
    }

    async fn stop(&mut self) {
        self.idle_since = Instant::now();
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Idle => {}
            Role::Publishing(mut publishing) => {
                publishing.demux.flush();
                publishing.pass_on();
                publishing.publisher.finish(End::Finished);
            }
            Role::Playing(mut attached) => {
                attached.close();
                self.write = attached.ended().await.outlet(FAREWELL).await;
            }
        }
    }

    fn ask(&self, action: Action, request: &Request) -> Result<Ask, culvert_media::NameError> {
        let mut credentials = Credentials::from_query(&request.query);
        if let (None, Some(pair)) = (&credentials.secret, &request.user_info) {
            let (user, secret) = pair.split_once(':').unwrap_or(("", pair));
            let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            credentials = Credentials { user: Some(decode(user)), secret: Some(decode(secret)), digest: None };
        }
        Ok(Ask {
            action,
            stream: StreamName::parse(&request.path)?,
            protocol: if self.secure { "rtmps" } else { "rtmp" },
            remote: self.remote,
            secure: self.secure,
            credentials,
            origin: None,
            upper: None,
        })
    }

    fn refuse(&mut self, code: &str, fault: Fault) {
        let description = fault.to_string();
        self.session.refuse(code, &description);
        self.ending = Some(fault);
    }
}

impl Publishing {
    /// Frames to the hub. A publisher that was replaced hears of it by `cancelled`.
    fn pass_on(&mut self) {
        while let Some(event) = self.demux.poll_event() {
            match event {
                flv::Event::Tracks(tracks) => self.publisher.set_tracks(tracks),
                flv::Event::Frame(frame) => {
                    if self.publisher.write(frame).is_err() {
                        return;
                    }
                }
                flv::Event::EndOfSequence => {}
            }
        }
    }
}

/// Codes that players and encoders know (RTMP 7.2.2, and Flash Media Server's list).
fn publish_code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Taken(_) | Refusal::NoStream(_) | Refusal::NoneBelow(_) => "NetStream.Publish.BadName",
        Refusal::Unauthorized(_) | Refusal::Forbidden(_) => "NetStream.Publish.Denied",
        Refusal::Full(_) | Refusal::TooMany(_) | Refusal::Draining | Refusal::NotStarted(_) => {
            "NetStream.Publish.Failed"
        }
    }
}

fn play_code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NoStream(_) | Refusal::NoneBelow(_) | Refusal::NotStarted(_) => "NetStream.Play.StreamNotFound",
        Refusal::Unauthorized(_) | Refusal::Forbidden(_) => "NetStream.Play.Denied",
        Refusal::Full(_) | Refusal::TooMany(_) | Refusal::Draining | Refusal::Taken(_) => "NetStream.Play.Failed",
    }
}
