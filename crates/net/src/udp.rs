//! Sockets for datagrams: a pair, for media and what is said about it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// What the kernel may hold unread: half a second of 64 cameras of 4 Mbit/s. It gives less where its own limit is lower.
const UNREAD_BYTES: usize = 16 << 20;
/// What it may hold unsent: a key frame for some dozen viewers.
const UNSENT_BYTES: usize = 4 << 20;

/// A socket for datagrams at this address. Must be called within a runtime.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Best effort, as all such: sizes do not decide whether it works.
    socket.set_recv_buffer_size(UNREAD_BYTES).ok();
    socket.set_send_buffer_size(UNSENT_BYTES).ok();
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false).ok();
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Two sockets on neighbouring ports, the first of them even, wherever there are such (RFC 3550 11). Must be called within a runtime.
pub fn bind_pair(ip: IpAddr) -> io::Result<(UdpSocket, UdpSocket)> {
    const TRIES: usize = 64;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for _ in 0..TRIES {
        let first = bind(SocketAddr::new(ip, 0))?;
        let port = first.local_addr()?.port();
        if port % 2 != 0 || port == u16::MAX {
            continue;
        }
        match bind(SocketAddr::new(ip, port + 1)) {
            Ok(second) => return Ok((first, second)),
            Err(why) => last = why,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pair_has_neighbouring_ports_and_datagrams_go_through() {
        let (media, reports) = bind_pair("127.0.0.1".parse().unwrap()).unwrap();
        let (a, b) = (media.local_addr().unwrap(), reports.local_addr().unwrap());
        assert!(a.port() % 2 == 0 && b.port() == a.port() + 1);
        media.send_to(b"x", b).await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(reports.recv_from(&mut buffer).await.unwrap(), (1, a));
    }
}
