//! N viewers on one thread: joins them, reads what comes, counts bytes; a few of them look at every tag.
//!
//! Most viewers, once they play, have their bytes discarded by the kernel (`MSG_TRUNC`), so that the generator stays
//! cheaper than the server, and they are looked at once a millisecond: a reader that sleeps until bytes come is woken by
//! the very send that brings them, at the server's cost, which no viewer beyond a network is. Those that parse, the
//! *probes*, wake the generator and are looked after between any few others, so that what they measure is the server's
//! delay and not the generator's.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_rtmp::wire::Message;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::{Domain, Socket, Type};

use crate::args::{Class, Protocol};
use crate::probe::{Probe, Seen};
use crate::receiver::{Got, INPUT_BYTES, Receiver, STREAM};
use crate::stamp::now_micros;

/// Viewers that may be joining at once.
const JOINING: usize = 50;
/// Nobody joins for so long: the server is not up to it.
const JOIN_PATIENCE: Duration = Duration::from_secs(20);
/// How long viewers that are not probes may wait to be read.
const PERIOD: Duration = Duration::from_millis(1);
/// Other viewers that are served before the probes are looked after again.
const BETWEEN_PROBES: usize = 32;
/// Discarded by one call: more than a socket ever holds here.
const DISCARD_BYTES: usize = 8 * 1024 * 1024;
/// RTMP viewers acknowledge that often; what players do.
const ACK_BYTES: u64 = 2_500_000;
/// Viewers from one address: it has some 28,000 ports.
const PER_ADDRESS: usize = 20_000;
/// The receive buffer of those that do not read, so that the server's own limits are reached soon.
const STALLED_BUFFER_BYTES: usize = 16 * 1024;

/// What a viewer does once it plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Counts bytes.
    Count,
    /// Looks at every tag.
    Probe,
    /// Reads no more.
    Stall,
}

/// Where and how all of them play.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    /// The server.
    pub(crate) server: SocketAddr,
    /// How they play.
    pub(crate) protocol: Protocol,
    /// What they ask for.
    pub(crate) class: Class,
}

/// All viewers.
pub(crate) struct Crowd {
    /// Of all but the probes.
    poll: Poll,
    events: Events,
    probe_poll: Poll,
    probe_events: Events,
    members: Members,
    /// When those that are not probes were looked at.
    swept: Instant,
}

struct Members {
    channel: Channel,
    viewers: Vec<Viewer>,
    joined: usize,
    gone: BTreeMap<String, usize>,
    key_frames: u64,
    buffer: Vec<u8>,
    discard: Vec<u8>,
    got: Vec<Got>,
}

struct Viewer {
    /// None once it is over.
    socket: Option<Socket>,
    role: Role,
    stage: Stage,
    bytes: u64,
    /// At the beginning of the window.
    marked_bytes: u64,
    acked_bytes: u64,
}

enum Stage {
    Joining(Box<Probe>),
    Counting,
    Probing(Box<Probe>),
    Stalled,
    Gone,
}

impl Crowd {
    /// Nobody yet.
    pub(crate) fn new(channel: Channel) -> Result<Crowd> {
        Ok(Crowd {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            probe_poll: Poll::new()?,
            probe_events: Events::with_capacity(256),
            swept: Instant::now(),
            members: Members {
                channel,
                viewers: Vec::new(),
                joined: 0,
                gone: BTreeMap::new(),
                key_frames: 0,
                buffer: vec![0; INPUT_BYTES],
                discard: vec![0; DISCARD_BYTES],
                got: Vec::new(),
            },
        })
    }

    /// Joins so many more, a few at a time, and returns when all of them play. The role of each comes from its number.
    ///
    /// # Errors
    /// Nobody could join for a while.
    pub(crate) fn join(&mut self, count: usize, role: impl Fn(usize) -> Role) -> Result<()> {
        let goal = self.members.viewers.len() + count;
        let mut progress = (Instant::now(), 0);
        loop {
            let settled = self.members.settled();
            if settled == goal {
                return Ok(());
            }
            if settled > progress.1 {
                progress = (Instant::now(), settled);
            } else if progress.0.elapsed() > JOIN_PATIENCE {
                bail!("only {settled} of {goal} viewers could join; {}", self.members.reasons());
            }
            while self.members.viewers.len() < goal && self.members.viewers.len() - self.members.settled() < JOINING {
                self.add(role(self.members.viewers.len()))?;
            }
            self.turn(Duration::from_millis(5))?;
        }
    }

    /// Reads what comes until then.
    pub(crate) fn run_until(&mut self, deadline: Instant) -> Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left.min(Duration::from_millis(100)))?;
        }
    }

    /// Reads what comes until a probe has had a key frame, so that windows can lie alike in the stream.
    pub(crate) fn run_until_key_frame(&mut self, patience: Duration) -> Result<()> {
        let (before, deadline) = (self.members.key_frames, Instant::now() + patience);
        while self.members.key_frames == before {
            if Instant::now() > deadline {
                bail!("no probe received a key frame in {patience:?}; {}", self.members.reasons());
            }
            self.turn(Duration::from_millis(5))?;
        }
        Ok(())
    }

    /// Here the window begins: counts anew.
    pub(crate) fn mark(&mut self) {
        for viewer in &mut self.members.viewers {
            viewer.marked_bytes = viewer.bytes;
            if let Stage::Probing(probe) = &mut viewer.stage {
                probe.mark();
            }
        }
    }

    /// Bytes of each viewer since the window began; 0 for one that is gone.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u64> {
        let of = |viewer: &Viewer| if viewer.socket.is_some() { viewer.bytes - viewer.marked_bytes } else { 0 };
        self.members.viewers.iter().map(of)
    }

    /// What the probes have seen since the window began, and of their beginnings.
    pub(crate) fn seen(&self) -> Seen {
        let mut seen = Seen::default();
        for viewer in &self.members.viewers {
            match &viewer.stage {
                Stage::Joining(probe) | Stage::Probing(probe) => seen.add(probe),
                Stage::Counting | Stage::Stalled | Stage::Gone => {}
            }
        }
        seen
    }

    /// Why viewers ended before they were let go, and how many of them.
    pub(crate) fn gone(&self) -> &BTreeMap<String, usize> {
        &self.members.gone
    }

    fn add(&mut self, role: Role) -> Result<()> {
        let Channel { server, protocol, class } = self.members.channel;
        let index = self.members.viewers.len();
        let (receiver, first) = Receiver::new(protocol, class, server.port(), STREAM)?;
        let socket = connect(server, index, role).with_context(|| format!("viewer {index}"))?;
        let probe = Probe::new(receiver, now_micros());
        send(&socket, &first)?;
        socket.set_nonblocking(true)?;
        let (fd, token) = (socket.as_raw_fd(), Token(index));
        let poll = if role == Role::Probe { &self.probe_poll } else { &self.poll };
        poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        self.members.viewers.push(Viewer {
            socket: Some(socket),
            role,
            stage: Stage::Joining(Box::new(probe)),
            bytes: 0,
            marked_bytes: 0,
            acked_bytes: 0,
        });
        Ok(())
    }

    fn turn(&mut self, patience: Duration) -> Result<()> {
        let Crowd { poll, events, probe_poll, probe_events, members, swept } = self;
        if polled(probe_poll.poll(probe_events, Some(patience.min(PERIOD))))? {
            probe_events.iter().for_each(|event| members.handle(event));
        }
        // Probes may keep waking us; the others have their own rhythm.
        if swept.elapsed() < PERIOD || !polled(poll.poll(events, Some(Duration::ZERO)))? {
            return Ok(());
        }
        *swept = Instant::now();
        for (index, event) in events.iter().enumerate() {
            if index % BETWEEN_PROBES == 0 && polled(probe_poll.poll(probe_events, Some(Duration::ZERO)))? {
                probe_events.iter().for_each(|event| members.handle(event));
            }
            members.handle(event);
        }
        Ok(())
    }
}

/// Whether events were polled; a signal is no error.
fn polled(result: std::io::Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Members {
    /// Those that play and those that are gone.
    fn settled(&self) -> usize {
        self.joined + self.gone.values().sum::<usize>()
    }

    fn reasons(&self) -> String {
        let reasons: Vec<String> = self.gone.iter().map(|(why, count)| format!("{count}: {why}")).collect();
        if reasons.is_empty() { "no viewer is gone".to_owned() } else { format!("gone: {}", reasons.join("; ")) }
    }

    fn handle(&mut self, event: &Event) {
        let index = event.token().0;
        if let Err(why) = self.read(index, event.is_read_closed())
            && let Some(viewer) = self.viewers.get_mut(index)
        {
            if matches!(viewer.stage, Stage::Counting | Stage::Probing(_) | Stage::Stalled) {
                self.joined -= 1;
            }
            viewer.socket = None;
            viewer.stage = Stage::Gone;
            *self.gone.entry(format!("{why:#}")).or_default() += 1;
        }
    }

    fn read(&mut self, index: usize, closed: bool) -> Result<()> {
        let Some(viewer) = self.viewers.get_mut(index) else { return Ok(()) };
        loop {
            let Some(socket) = &viewer.socket else { return Ok(()) };
            let (buffer, flags) = match &viewer.stage {
                Stage::Counting => (&mut self.discard[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC),
                Stage::Joining(_) | Stage::Probing(_) => (&mut self.buffer[..], RecvFlags::DONTWAIT),
                // Its end is seen by the server's files.
                Stage::Stalled | Stage::Gone => return Ok(()),
            };
            let asked = buffer.len();
            let count = match rustix::net::recv(socket, &mut *buffer, flags) {
                Ok((_, 0)) => bail!("closed by the server"),
                Ok((_, count)) => count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            viewer.bytes += count as u64;
            match &mut viewer.stage {
                Stage::Counting => {
                    if self.channel.protocol == Protocol::Rtmp {
                        acknowledge(socket, &mut viewer.acked_bytes, viewer.bytes)?;
                    }
                }
                Stage::Joining(probe) | Stage::Probing(probe) => {
                    let input = self.buffer.get(..count).unwrap_or_default();
                    let (opened, keys, reply) = probe.handle_input(now_micros(), input, &mut self.got)?;
                    send(socket, &reply)?;
                    self.key_frames += keys;
                    if opened {
                        self.joined += 1;
                        viewer.open();
                    }
                }
                Stage::Stalled | Stage::Gone => {}
            }
            // A short read has emptied the socket (epoll(7)), unless its end is there to be read.
            if count < asked && !closed && !matches!(viewer.stage, Stage::Joining(_)) {
                return Ok(());
            }
        }
    }
}

impl Viewer {
    /// It plays.
    fn open(&mut self) {
        let next = match self.role {
            Role::Count => Stage::Counting,
            Role::Stall => Stage::Stalled,
            Role::Probe => match std::mem::replace(&mut self.stage, Stage::Gone) {
                Stage::Joining(probe) => Stage::Probing(probe),
                other @ (Stage::Counting | Stage::Probing(_) | Stage::Stalled | Stage::Gone) => other,
            },
        };
        self.stage = next;
    }
}

fn connect(server: SocketAddr, index: usize, role: Role) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if role == Role::Stall {
        socket.set_recv_buffer_size(STALLED_BUFFER_BYTES)?;
    }
    if let Some(address) = u8::try_from(index / PER_ADDRESS).ok().filter(|address| *address > 0) {
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1 + address), 0)).into())?;
    }
    socket.connect_timeout(&server.into(), JOIN_PATIENCE)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Requests and answers are small, and fit the socket or the server is not reading.
fn send(socket: &Socket, bytes: &[u8]) -> Result<()> {
    if !bytes.is_empty() {
        let mut socket = socket;
        socket.write_all(bytes).context("sending to the server")?;
    }
    Ok(())
}

fn acknowledge(socket: &Socket, acked_bytes: &mut u64, bytes: u64) -> Result<()> {
    if bytes - *acked_bytes < ACK_BYTES {
        return Ok(());
    }
    *acked_bytes = bytes;
    let mut out = Vec::new();
    #[allow(clippy::cast_possible_truncation, reason = "the sequence number wraps, RTMP 5.4.3")]
    Message::Acknowledgement(bytes as u32).write(&mut out, 128, 0);
    send(socket, &out)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use culvert_formats::flv::{self, TagKind};

    use super::*;
    use crate::stamp::Stamp;

    /// Answers so many viewers with two tags, one after another, and closes the last.
    fn server(viewers: usize) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut bytes = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        bytes.extend_from_slice(&flv::file_header(true, true));
        for (seq, key) in [(1, 0x17), (2, 0x27)] {
            let stamp = Stamp { seq, micros: now_micros() };
            flv::write_tag(TagKind::Video, 0, &[key, 1, 0, 0, 0], &stamp.write(), &mut bytes);
        }
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for _ in 0..viewers {
                let (mut socket, _) = listener.accept().unwrap();
                assert!(socket.read(&mut [0; 1000]).unwrap() > 20);
                socket.write_all(&bytes).unwrap();
                open.push(socket);
            }
            open.pop();
            std::thread::park();
        });
        address
    }

    #[test]
    fn a_crowd_joins_counts_and_tells_who_was_closed() {
        let channel = Channel { server: server(4), protocol: Protocol::Flv, class: Class::Shared };
        let mut crowd = Crowd::new(channel).unwrap();
        let roles = [Role::Probe, Role::Stall, Role::Count, Role::Count];
        crowd.join(4, |index| roles[index]).unwrap();
        crowd.run_until(Instant::now() + Duration::from_millis(50)).unwrap();
        let seen = crowd.seen();
        assert_eq!((seen.first_key_micros.len(), seen.delays_micros.len(), seen.missing), (1, 2, 0));
        let bytes: Vec<u64> = crowd.bytes().collect();
        // 19 of HTTP, 13 of the file's head, and for each tag 15, 5 and the stamp.
        assert_eq!(bytes[0], 19 + 13 + 2 * (20 + crate::stamp::STAMP_BYTES as u64));
        assert_eq!((bytes[2], bytes[3]), (bytes[0], 0));
        assert_eq!(crowd.gone().get("closed by the server"), Some(&1));
    }
}
