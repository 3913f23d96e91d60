//! The socket for datagrams: many at once in both directions where the kernel can (GSO, GRO).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::routes::{Datagram, Path, Routes};

/// Largest datagram, or run of them, that is read at once.
const READ_BYTES: usize = 64 << 10;

/// A socket. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Udp(Arc<Inner>);

struct Inner {
    socket: UdpSocket,
    state: UdpSocketState,
    /// Those who wait until the kernel takes more.
    turns: Arc<Semaphore>,
    /// Refuses so many sends as if the kernel's buffer were full.
    #[cfg(test)]
    refusals: std::sync::atomic::AtomicUsize,
}

/// It is somebody's turn to send what the kernel did not take before.
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
}

impl Udp {
    /// A socket at this address.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Udp> {
        let socket = culvert_net::udp::bind(address)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let turns = Arc::new(Semaphore::new(1));
        #[cfg(test)]
        let refusals = Default::default();
        Ok(Udp(Arc::new(Inner {
            socket,
            state,
            turns,
            #[cfg(test)]
            refusals,
        })))
    }

    /// Returns when it takes datagrams, and those have had their turn who waited before. Cancel safe.
    pub(crate) async fn turn(&self) -> Turn {
        let turn = self.0.turns.clone().acquire_owned().await;
        let (Ok(_turn), Ok(())) = (turn, self.0.socket.writable().await) else {
            // The runtime ends, and this with it.
            return std::future::pending().await;
        };
        Turn { _turn }
    }

    /// Lets it refuse so many sends.
    #[cfg(test)]
    pub(crate) fn refuse(&self, sends: usize) {
        self.0.refusals.store(sends, Ordering::Relaxed);
    }

    /// How many datagrams of one size may go at once.
    pub(crate) fn most_at_once(&self) -> usize {
        self.0.state.max_gso_segments().max(1)
    }

    /// Sends datagrams of `size` bytes each, of which the last may be shorter, from `from` where that is known. All of them or, with an error, none;
    /// [`io::ErrorKind::WouldBlock`]: the kernel has too many already.
    pub(crate) fn send(&self, to: SocketAddr, from: Option<IpAddr>, data: &[u8], size: usize) -> io::Result<()> {
        #[cfg(test)]
        if self.0.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let segment_size = (data.len() > size).then_some(size);
        let transmit = Transmit { destination: to, ecn: None, contents: data, segment_size, src_ip: from };
        let socket = &self.0.socket;
        socket.try_io(Interest::WRITABLE, || self.0.state.try_send(UdpSockRef::from(socket), &transmit))
    }

    /// Reads until `stop`, and passes on what comes.
    pub(crate) async fn run(self, routes: Routes, stop: CancellationToken) {
        let mut buffers = vec![vec![0; READ_BYTES]; BATCH_SIZE.min(8)];
        let mut metas = vec![RecvMeta::default(); buffers.len()];
        loop {
            tokio::select! {
                readable = self.0.socket.readable() => if readable.is_err() { return },
                () = stop.cancelled() => return,
            }
            let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let socket = &self.0.socket;
            let read = socket
                .try_io(Interest::READABLE, || self.0.state.recv(UdpSockRef::from(socket), &mut slices, &mut metas));
            // Errors are of one peer, such as a port that is closed; the socket lives.
            let Ok(count) = read else { continue };
            drop(slices);
            for (meta, buffer) in metas.iter().zip(&buffers).take(count) {
                let data = buffer.get(..meta.len).unwrap_or_default();
                let peer = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                for piece in data.chunks(meta.stride.max(1)) {
                    let path = Path { tcp: false, peer };
                    let to = meta.dst_ip.map(|ip| ip.to_canonical());
                    routes.pass(Datagram { path, to, data: Bytes::copy_from_slice(piece) });
                }
            }
        }
    }
}
