//! ICE over TCP (RFC 6544) for who can reach one TCP port and nothing else: packets behind two bytes of length (RFC 4571).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use culvert_net::{Conn, ReadHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::routes::{Datagram, Path, Routes, named};

/// The longest silence: a consent check comes every 5 s (RFC 7675 5.1).
const SILENCE: Duration = Duration::from_secs(30);
/// How long a write may take before the peer is taken for dead.
const STUCK: Duration = Duration::from_secs(10);
/// Largest packet that a peer sends: browsers keep to 1,500 bytes.
const PACKET_BYTES: usize = 4096;
/// Packets that are written at once.
const TOGETHER: usize = 64;
/// What the kernel may hold unsent: what waits there is late.
const UNSENT_BYTES: u32 = 64 << 10;

/// Whether a connection begins as one of ICE: a length, and a binding request of that length (RFC 8489 5). None: too few bytes to tell.
pub fn begins_ice(seen: &[u8]) -> Option<bool> {
    let looks = |at: usize, fits: fn(u8) -> bool| seen.get(at).is_none_or(|byte| fits(*byte));
    let cookie = [0x21, 0x12, 0xa4, 0x42];
    let is_possible = looks(0, |high| high < 2)
        && looks(2, |kind| kind == 0)
        && looks(3, |kind| kind == 1)
        && cookie.iter().enumerate().all(|(at, byte)| seen.get(6 + at).is_none_or(|seen| seen == byte));
    match (is_possible, seen.len() >= 10) {
        (false, _) => Some(false),
        (true, true) => Some(true),
        (true, false) => None,
    }
}

/// Serves a connection. `stranger` is what it holds until it is somebody's.
pub(crate) async fn serve(conn: Conn, routes: Routes, stranger: impl Send + 'static, patience: Duration) {
    conn.set_nodelay(true);
    conn.set_notsent_lowat(UNSENT_BYTES);
    let peer = conn.remote();
    let (mut read, mut write) = conn.into_split();
    let Ok(Some(first)) = timeout(patience, packet(&mut read)).await else { return };
    let is_request = named(&first).is_some();
    // Writable before its first packet is answered.
    let (connection, mut unwritten) = routes.connect(peer);
    if !is_request || !pass(&routes, peer, first) {
        tracing::debug!(%peer, "closed: ICE for nobody here");
        return;
    }
    let reading = async {
        while let Ok(Some(data)) = timeout(SILENCE, packet(&mut read)).await {
            // Its session is over, or has more connections than anybody needs.
            if !pass(&routes, peer, data) {
                return;
            }
        }
    };
    let writing = async {
        let mut packets = Vec::with_capacity(TOGETHER);
        let mut out = Vec::new();
        // The session's agent answers who has the right checksum, and nobody else: until then it is a stranger.
        let Ok(Some(first)) = timeout(patience, unwritten.recv()).await else { return };
        packets.push(first);
        frame(&mut packets, &mut out);
        if !matches!(timeout(STUCK, write.write_all(&out)).await, Ok(Ok(()))) {
            return;
        }
        drop(stranger);
        while unwritten.recv_many(&mut packets, TOGETHER).await > 0 {
            out.clear();
            frame(&mut packets, &mut out);
            match timeout(STUCK, write.write_all(&out)).await {
                Ok(Ok(())) => connection.wrote(),
                Ok(Err(_)) | Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

fn frame(packets: &mut Vec<Bytes>, out: &mut Vec<u8>) {
    for packet in packets.drain(..) {
        if let Ok(length) = u16::try_from(packet.len()) {
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&packet);
        }
    }
}

fn pass(routes: &Routes, peer: SocketAddr, data: Bytes) -> bool {
    routes.pass(Datagram { path: Path { tcp: true, peer }, to: None, data })
}

/// The next packet. None: the end, or a length that lies.
async fn packet(read: &mut ReadHalf) -> Option<Bytes> {
    let length = usize::from(read.read_u16().await.ok()?);
    if length == 0 || length > PACKET_BYTES {
        return None;
    }
    let mut data = vec![0; length];
    read.read_exact(&mut data).await.ok()?;
    Some(data.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ice_is_told_by_its_first_bytes() {
        let request = [0, 0x54, 0, 1, 0, 0x40, 0x21, 0x12, 0xa4, 0x42, 9, 9];
        for n in 0..10 {
            assert_eq!(begins_ice(&request[..n]), None, "{n}");
        }
        assert_eq!(begins_ice(&request[..10]), Some(true));
        for other in
            [&b"GET / HTTP/1.1"[..], b"\x16\x03\x01", b"\x03", b"\x00\x54\x01", b"\x00\x54\x00\x01\x00\x40\x21\x13"]
        {
            assert_eq!(begins_ice(other), Some(false), "{other:?}");
        }
    }
}
