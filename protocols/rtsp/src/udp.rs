//! The pair of sockets on which the datagrams of all sessions come and go, told apart by where they come from.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use culvert_net::udp::bind;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

/// Datagrams that wait for one session; beyond, they are lost, as datagrams are.
const WAITING: usize = 512;
/// Largest datagram that is taken: more than any that is not cut on its way.
const DATAGRAM_BYTES: usize = 16 << 10;

/// A packet that came for a session.
#[derive(Debug)]
pub(crate) struct Datagram {
    /// Of its tracks.
    pub(crate) at: usize,
    /// Not media.
    pub(crate) rtcp: bool,
    pub(crate) data: Bytes,
}

/// Both sockets. Cheap to clone.
#[derive(Clone)]
pub struct Udp(Arc<Inner>);

struct Inner {
    media: UdpSocket,
    reports: UdpSocket,
    ports: (u16, u16),
    table: Mutex<Table>,
    unknown: AtomicU64,
    overrun: AtomicU64,
}

#[derive(Default)]
struct Table {
    last: u64,
    /// By (where from, whether reports).
    peers: HashMap<(SocketAddr, bool), Peer>,
}

struct Peer {
    registration: u64,
    at: usize,
    to: mpsc::Sender<Datagram>,
}

/// The places of one session in the table. Dropping it frees them.
pub(crate) struct Registration {
    udp: Udp,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.udp.table().peers.retain(|_, peer| peer.registration != self.number);
    }
}

impl Udp {
    /// Two sockets at this address, for media and RTCP. Must be called within a runtime.
    pub fn bind(ip: IpAddr, media: u16, reports: u16) -> io::Result<Udp> {
        let (media, reports) = (bind(SocketAddr::new(ip, media))?, bind(SocketAddr::new(ip, reports))?);
        Udp::of(media, reports)
    }

    /// Of two sockets.
    pub(crate) fn of(media: UdpSocket, reports: UdpSocket) -> io::Result<Udp> {
        let ports = (media.local_addr()?.port(), reports.local_addr()?.port());
        let (table, unknown, overrun) = (Mutex::default(), AtomicU64::new(0), AtomicU64::new(0));
        Ok(Udp(Arc::new(Inner { media, reports, ports, table, unknown, overrun })))
    }

    /// The two ports.
    pub fn ports(&self) -> (u16, u16) {
        self.0.ports
    }

    /// Datagrams from addresses that no session named, and those that a session was too slow to take.
    pub fn dropped(&self) -> (u64, u64) {
        (self.0.unknown.load(Ordering::Relaxed), self.0.overrun.load(Ordering::Relaxed))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().expect("no code panics while it holds this table")
    }

    /// Spawns the loops that read both sockets until `stop`.
    pub fn spawn(&self, stop: &CancellationToken) {
        for rtcp in [false, true] {
            let (udp, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = udp.read(rtcp) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }

    async fn read(&self, rtcp: bool) {
        let socket = if rtcp { &self.0.reports } else { &self.0.media };
        let mut buffer = vec![0; DATAGRAM_BYTES + 1];
        loop {
            // An error is what a datagram of ours to a closed port came back as, and says nothing of the next one.
            let Ok((n, from)) = socket.recv_from(&mut buffer).await else { continue };
            if let Some(data) = buffer.get(..n).filter(|data| data.len() <= DATAGRAM_BYTES) {
                // Of its own size: one that is kept must not keep others.
                self.deliver(from, rtcp, data);
            }
        }
    }

    fn deliver(&self, from: SocketAddr, rtcp: bool, data: &[u8]) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let table = self.table();
        let Some(peer) = table.peers.get(&(from, rtcp)) else {
            self.0.unknown.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if let Err(TrySendError::Full(_)) =
            peer.to.try_send(Datagram { at: peer.at, rtcp, data: Bytes::copy_from_slice(data) })
        {
            self.0.overrun.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has what comes from these ports of a peer delivered: (track, media port, RTCP port). None: a session that there is has one of
    /// them; whoever is behind the same address must not be able to take it.
    pub(crate) fn register(
        &self,
        ip: IpAddr,
        ways: &[(usize, u16, u16)],
    ) -> Option<(Registration, mpsc::Receiver<Datagram>)> {
        let (to, from) = mpsc::channel(WAITING);
        let mut table = self.table();
        let taken = |port: u16, rtcp: bool| table.peers.contains_key(&(SocketAddr::new(ip, port), rtcp));
        if ways.iter().any(|(_, media, reports)| taken(*media, false) || taken(*reports, true)) {
            return None;
        }
        table.last += 1;
        let number = table.last;
        for (at, media, reports) in ways {
            for (port, rtcp) in [(*media, false), (*reports, true)] {
                let peer = Peer { registration: number, at: *at, to: to.clone() };
                table.peers.insert((SocketAddr::new(ip, port), rtcp), peer);
            }
        }
        drop(table);
        Some((Registration { udp: self.clone(), number }, from))
    }

    /// Sends a datagram. What the system cannot take now is lost, as datagrams are.
    pub(crate) async fn send(&self, to: SocketAddr, rtcp: bool, data: &[u8]) {
        let socket = if rtcp { &self.0.reports } else { &self.0.media };
        socket.send_to(data, to).await.ok();
    }
}
