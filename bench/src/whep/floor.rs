//! The floor: a bare loop that gives the kernel the same datagrams in the same bursts for as many sockets. No WebRTC, no encryption: what is left is
//! the kernel's cost of the sends, which on loopback has the receiving of them in it. A server can be cheaper only by sending less often.

use std::io::{ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::thread::{Builder, sleep, yield_now};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_formats::flv::TagKind;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::time::{ClockId, clock_gettime};

use crate::stream::{Shape, Source};

/// A datagram of ours: payload, RTP with its extensions, SRTP.
const DATAGRAM_BYTES: usize = 1190;
/// Sound, as Opus.
const SOUND_BYTES: usize = 300;
/// Most at once, as the server has it.
const BURST_BYTES: usize = 60 << 10;
/// How long a thread waits to see whether it is over.
const GLANCE: Duration = Duration::from_millis(200);

/// Microseconds of a core for each datagram.
pub(super) fn measure(viewers: u32, shape: Shape, seconds: u32) -> Result<f64> {
    let sink = UdpSocket::bind("127.0.0.1:0")?;
    sink.set_read_timeout(Some(GLANCE))?;
    let others: Vec<_> = (1..viewers).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let sockets: Vec<UdpSocket> = std::iter::once(sink).chain(others).collect();
    let to: Vec<SocketAddr> = sockets.iter().map(UdpSocket::local_addr).collect::<Result<_, _>>()?;
    let sender = Builder::new().name("floor".into()).spawn(move || send(&to, shape, seconds))?;
    drain(&sockets, || sender.is_finished())?;
    sender.join().ok().context("the floor's thread has panicked")?
}

/// Reads and throws away.
fn drain(sockets: &[UdpSocket], is_over: impl Fn() -> bool) -> Result<()> {
    let states: Vec<_> = sockets
        .iter()
        .map(|socket| UdpSocketState::new(UdpSockRef::from(socket)).map(|state| (socket, state)))
        .collect::<Result<_, _>>()?;
    let mut buffer = vec![0; 64 << 10];
    while !is_over() {
        for (socket, state) in &states {
            socket.set_nonblocking(true)?;
            let mut meta = [RecvMeta::default()];
            // Until it is empty.
            while state.recv(UdpSockRef::from(socket), &mut [IoSliceMut::new(&mut buffer)], &mut meta).is_ok() {}
        }
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn send(to: &[SocketAddr], shape: Shape, seconds: u32) -> Result<f64> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    let most = state.max_gso_segments().clamp(1, BURST_BYTES / DATAGRAM_BYTES) * DATAGRAM_BYTES;
    let (mut source, start, data) = (Source::of(shape), Instant::now(), vec![0x5a; BURST_BYTES]);
    let (mut datagrams, from) = (0u64, clock_gettime(ClockId::ThreadCPUTime));
    while start.elapsed() < Duration::from_secs(u64::from(seconds)) {
        let tag = source.next_tag();
        sleep(tag.due.saturating_sub(start.elapsed()));
        let mut left = if tag.kind == TagKind::Video { tag.body.len() } else { SOUND_BYTES };
        while left > 0 {
            let burst = left.min(most);
            left -= burst;
            for peer in to {
                let contents = data.get(..burst).unwrap_or_default();
                let segment_size = (burst > DATAGRAM_BYTES).then_some(DATAGRAM_BYTES);
                let transmit = Transmit { destination: *peer, ecn: None, contents, segment_size, src_ip: None };
                while let Err(why) = state.try_send(UdpSockRef::from(&socket), &transmit) {
                    if why.kind() != ErrorKind::WouldBlock {
                        return Err(why.into());
                    }
                    yield_now();
                }
            }
            datagrams += (burst.div_ceil(DATAGRAM_BYTES) * to.len()) as u64;
        }
    }
    let till = clock_gettime(ClockId::ThreadCPUTime);
    let micros = (till.tv_sec - from.tv_sec) as f64 * 1e6 + (till.tv_nsec - from.tv_nsec) as f64 / 1e3;
    Ok(micros / datagrams.max(1) as f64)
}
