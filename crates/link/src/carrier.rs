//! A byte stream inside the binary messages of a WebSocket (RFC 6455), with a heartbeat of its own.
//!
//! Messages carry no meaning: what one end writes is what the other reads. A ping goes out every 10 s; an end that has
//! heard nothing for 24 s is given up. Pings are WebSocket's rather than HTTP/2's, so that their round trip can be
//! measured here, and so that gateways see them. Nothing is held while a link is idle: buffers come with the bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use culvert_net::Conn;
use culvert_net::ws::Role;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use crate::figures::Shared;

/// How often an end shows that it is there (DESIGN section 3).
const PING_EVERY: Duration = Duration::from_secs(10);
/// Two pings unanswered and four seconds more: a dead peer is known within 25 s (faults.md L2).
const SILENCE: Duration = Duration::from_secs(24);
/// How long last words may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// What is read at a time once bytes flow; an idle link reads into less.
const READ: usize = 64 << 10;
const READ_IDLE: usize = 2 << 10;
/// What waits for the socket at the most: what is stale must be skipped before it comes here.
const WRITE: usize = 32 << 10;
/// Most bytes of one message of ours: an HTTP/2 frame of 16 KiB with its header, and a little.
const MESSAGE: usize = 20 << 10;
/// Most bytes of answers to pings that wait; a peer that asks more than it reads is given up.
const CONTROL: usize = 4 << 10;

/// The payload that is being read.
#[derive(Clone, Copy)]
struct Payload {
    left: u64,
    key: [u8; 4],
    /// Where in the key its next byte is.
    turn: usize,
}

pub(crate) struct Carrier {
    io: Conn,
    role: Role,
    /// Read and not yet understood.
    input: BytesMut,
    payload: Option<Payload>,
    /// Framed and not yet written.
    output: BytesMut,
    shared: Arc<Shared>,
    heard: Instant,
    pinged: Option<Instant>,
    pings: u64,
    tick: Pin<Box<Sleep>>,
    /// The last read filled its buffer: the next one may be larger.
    flowing: bool,
    /// Our close frame is on its way; there is nothing more to say after this.
    closing: Option<Instant>,
}

impl Carrier {
    /// `role`: what this end is. Clients mask.
    pub(crate) fn new(io: Conn, role: Role, shared: Arc<Shared>) -> Carrier {
        let now = Instant::now();
        Carrier {
            io,
            role,
            input: BytesMut::new(),
            payload: None,
            output: BytesMut::new(),
            shared,
            heard: now,
            pinged: None,
            pings: 0,
            // The first ping goes at once: it tells the round trip.
            tick: Box::pin(sleep_until(now)),
            flowing: false,
            closing: None,
        }
    }

    /// Frames a whole message into the output.
    fn frame(&mut self, opcode: u8, parts: &[io::IoSlice<'_>], length: usize) {
        self.output.reserve(length + 14);
        self.output.put_u8(0x80 | opcode);
        let masked = self.role == Role::Client;
        let bit = if masked { 0x80 } else { 0 };
        match length {
            n @ 0..=125 => self.output.put_u8(bit | n as u8),
            n @ 126..=0xffff => {
                self.output.put_u8(bit | 126);
                self.output.put_u16(n as u16);
            }
            n => {
                self.output.put_u8(bit | 127);
                self.output.put_u64(n as u64);
            }
        }
        let key = if masked { mask_key() } else { [0; 4] };
        if masked {
            self.output.put_slice(&key);
        }
        let start = self.output.len();
        let mut left = length;
        for part in parts {
            let take = part.len().min(left);
            self.output.put_slice(part.get(..take).unwrap_or_default());
            left -= take;
        }
        if masked && let Some(payload) = self.output.get_mut(start..) {
            unmask(payload, key, 0);
        }
    }

    fn control(&mut self, opcode: u8, payload: &[u8]) {
        self.frame(opcode, &[io::IoSlice::new(payload)], payload.len());
    }

    /// Writes what is framed. Ready when nothing is left.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.output) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.output.advance(n);
                    self.shared.count_sent(n);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.shared.set_unsent(self.output.len());
                    return Poll::Pending;
                }
            }
        }
        self.shared.set_unsent(0);
        if self.output.capacity() > 0 && !self.flowing {
            self.output = BytesMut::new();
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Pings, gives up a silent peer, and closes when it is asked to. An error or the end of the stream ends the link.
    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.closer.register(cx.waker());
        let now = Instant::now();
        if self.closing.is_none()
            && let Some((status, reason)) = self.shared.take_close()
        {
            let mut payload = status.to_be_bytes().to_vec();
            // Reasons are ours and short; a control frame carries 125 bytes (RFC 6455 5.5).
            payload.extend(reason.bytes().take(123));
            self.control(8, &payload);
            self.closing = Some(now + FAREWELL);
        }
        if let Some(until) = self.closing {
            let written = self.poll_drain(cx);
            if written.is_ready() || now >= until {
                return Poll::Ready(written_or_done(written));
            }
            self.tick.as_mut().reset(until);
            return self.tick.as_mut().poll(cx).map(Ok);
        }
        while self.tick.as_mut().poll(cx).is_ready() {
            if now >= self.heard + SILENCE {
                let why = "nothing was heard of the other end for 24 s";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            if self.pinged.is_none_or(|at| now >= at + PING_EVERY) {
                self.pings += 1;
                let number = self.pings.to_be_bytes();
                self.control(9, &number);
                self.pinged = Some(now);
            }
            let next = self.pinged.map_or(now, |at| at + PING_EVERY).min(self.heard + SILENCE);
            self.tick.as_mut().reset(next);
            // Between two bursts nothing is held.
            self.flowing = false;
        }
        // What could not be written waits for the writer's own waker, which is the same task's.
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Understands what was read until there is payload to give. None: more must be read. `Ok(false)`: the end.
    fn advance(&mut self) -> io::Result<Option<bool>> {
        loop {
            if self.payload.is_some_and(|payload| payload.left > 0) {
                return Ok((!self.input.is_empty()).then_some(true));
            }
            let Some((opcode, length, key, header)) = self.header()? else { return Ok(None) };
            if opcode < 8 {
                self.input.advance(header);
                self.payload = Some(Payload { left: length, key, turn: 0 });
                continue;
            }
            let length = length as usize;
            if self.input.len() < header + length {
                return Ok(None);
            }
            self.input.advance(header);
            let mut payload = self.input.split_to(length);
            unmask(&mut payload, key, 0);
            match opcode {
                8 => {
                    self.shared.set_closed(&payload);
                    if self.closing.is_none() {
                        self.control(8, payload.get(..2).unwrap_or_default());
                    }
                    return Ok(Some(false));
                }
                9 => {
                    if self.output.len() > WRITE + CONTROL {
                        return Err(broken("it pings and does not read"));
                    }
                    self.control(10, &payload);
                }
                10 => {
                    let answered = <[u8; 8]>::try_from(payload.as_ref()).map(u64::from_be_bytes);
                    if let (Ok(number), Some(at)) = (answered, self.pinged)
                        && number == self.pings
                    {
                        self.shared.set_round_trip(at.elapsed());
                    }
                }
                _ => return Err(broken("an opcode that is not defined")),
            }
        }
    }

    /// Opcode, length, key and size of the header that comes next, once it is whole.
    fn header(&self) -> io::Result<Option<(u8, u64, [u8; 4], usize)>> {
        let &[first, second, ref rest @ ..] = self.input.as_ref() else { return Ok(None) };
        let (opcode, masked) = (first & 0x0f, second & 0x80 != 0);
        if first & 0x70 != 0 {
            return Err(broken("a reserved bit is set"));
        }
        if masked == (self.role == Role::Client) {
            return Err(broken("frames of clients are masked, those of servers are not"));
        }
        let (length, used) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
            (126 | 127, _) => return Ok(None),
            (short, _) => (u64::from(short), 2),
        };
        match opcode {
            // What a fragment belongs to does not matter to a byte stream.
            0 | 2 => {}
            1 => return Err(broken("text where bytes are carried")),
            8..=10 if length <= 125 && first & 0x80 != 0 => {}
            _ => return Err(broken("a control frame that is long, fragmented or not defined")),
        }
        if length >> 63 != 0 {
            return Err(broken("a length with its top bit set"));
        }
        if !masked {
            return Ok(Some((opcode, length, [0; 4], used)));
        }
        let key = self.input.get(used..used + 4).and_then(|key| <[u8; 4]>::try_from(key).ok());
        Ok(key.map(|key| (opcode, length, key, used + 4)))
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the other end broke the WebSocket protocol: {what}"))
}

fn written_or_done(written: Poll<io::Result<()>>) -> io::Result<()> {
    match written {
        Poll::Ready(Err(error)) => Err(error),
        Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
    }
}

/// Unpredictable to what runs in a browser, which is what masks are for (RFC 6455 10.3); both of our ends are programs.
/// Zeros, which are no mask, stand in only when the system has no randomness.
fn mask_key() -> [u8; 4] {
    getrandom::u32().unwrap_or_default().to_ne_bytes()
}

/// XORs with the key from its byte `turn` on, eight bytes at a time (RFC 6455 5.3).
fn unmask(bytes: &mut [u8], key: [u8; 4], turn: usize) {
    if key == [0; 4] {
        return;
    }
    let mut turned = key;
    turned.rotate_left(turn % 4);
    let [a, b, c, d] = turned;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        if let Ok(eight) = <[u8; 8]>::try_from(&*word) {
            word.copy_from_slice(&(u64::from_ne_bytes(eight) ^ wide).to_ne_bytes());
        }
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(turned.into_iter().cycle()) {
        *byte ^= key;
    }
}

impl AsyncRead for Carrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.advance()? {
                Some(true) => {
                    let Some(payload) = &mut this.payload else { continue };
                    let n =
                        this.input.len().min(buf.remaining()).min(usize::try_from(payload.left).unwrap_or(usize::MAX));
                    let Some(part) = this.input.get(..n) else { continue };
                    let start = buf.filled().len();
                    buf.put_slice(part);
                    if let Some(given) = buf.filled_mut().get_mut(start..) {
                        unmask(given, payload.key, payload.turn);
                    }
                    payload.turn = (payload.turn + n) % 4;
                    payload.left -= n as u64;
                    this.input.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Some(false) => {
                    // Its close is answered as far as that goes without waiting; then this is the end.
                    let _ = this.poll_drain(cx)?;
                    return Poll::Ready(Ok(()));
                }
                None => {}
            }
            if let Poll::Ready(ended) = this.poll_heartbeat(cx) {
                return Poll::Ready(ended);
            }
            let room = if this.flowing { READ } else { READ_IDLE };
            this.input.reserve(room);
            match poll_read_buf(Pin::new(&mut this.io), cx, &mut this.input) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(n)) => {
                    this.heard = Instant::now();
                    this.shared.count_received(n);
                    this.flowing |= n >= READ_IDLE;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if this.input.is_empty() {
                        this.input = BytesMut::new();
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closing.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.output.len() >= WRITE
            && let Poll::Ready(Err(error)) = this.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        if this.output.len() >= WRITE {
            return Poll::Pending;
        }
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>().min(MESSAGE);
        if length > 0 {
            this.frame(2, bufs, length);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.poll_drain(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut this.io).poll_shutdown(cx),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn ends(buffer: usize) -> (Carrier, Carrier, Arc<Shared>) {
        let (a, b) = duplex(buffer);
        let remote = ([127, 0, 0, 1], 1).into();
        let shared = Arc::new(Shared::new());
        let client = Carrier::new(Conn::other(a, remote, false), Role::Client, shared.clone());
        (client, Carrier::new(Conn::other(b, remote, false), Role::Server, Arc::new(Shared::new())), shared)
    }

    /// A server's end and the bare bytes of its client.
    fn bare() -> (Carrier, DuplexStream, Arc<Shared>) {
        let (a, b) = duplex(1 << 20);
        let shared = Arc::new(Shared::new());
        (Carrier::new(Conn::other(a, ([127, 0, 0, 1], 1).into(), false), Role::Server, shared.clone()), b, shared)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_one_end_writes_is_what_the_other_reads(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40_000), 1..6),
            buffer in 1usize..5000,
            from_client in any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let (client, server, _) = ends(buffer);
                let (mut write, mut read) = if from_client { (client, server) } else { (server, client) };
                let sent = parts.concat();
                let writing = async {
                    for part in &parts {
                        write.write_all(part).await.unwrap();
                    }
                    write.flush().await.unwrap();
                    // Answers to pings must not stand still for want of a reader.
                    let _ = write.read(&mut [0; 1]).await;
                };
                let mut seen = vec![0; sent.len()];
                tokio::select! {
                    () = writing => panic!("nothing ends here"),
                    read = read.read_exact(&mut seen) => { read.unwrap(); }
                }
                assert!(seen == sent);
            });
        }
    }

    #[tokio::test]
    async fn the_first_ping_tells_the_round_trip_and_close_is_said_to_the_other_end() {
        let (mut client, mut server, shared) = ends(4096);
        let (mut a, mut b) = ([0; 1], [0; 1]);
        let reading = async { tokio::join!(client.read(&mut a), server.read(&mut b)) };
        let closing = async {
            while shared.figures().round_trip.is_none() {
                tokio::task::yield_now().await;
            }
            shared.close(4001, "replaced");
        };
        let ((first, second), ()) = tokio::join!(reading, closing);
        assert_eq!((first.unwrap(), second.unwrap()), (0, 0));
        assert_eq!(server.shared.closed(), Some((4001, "replaced".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up_within_25_seconds_and_a_live_one_is_not() {
        let begun = Instant::now();
        let (mut server, _silent, _) = bare();
        let error = server.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!((Duration::from_secs(20)..Duration::from_secs(25)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        let (mut client, mut server, _) = ends(4096);
        let (mut a, mut b) = ([0; 1], [0; 1]);
        let both = async { tokio::join!(client.read(&mut a), server.read(&mut b)) };
        assert!(tokio::time::timeout(Duration::from_secs(600), both).await.is_err(), "they answer each other's pings");
    }

    #[tokio::test]
    async fn what_breaks_the_protocol_ends_the_link() {
        for (bytes, what) in [
            (&b"\x82\x01x"[..], "bare frame of a client"),
            (b"\xc2\x80\0\0\0\0", "reserved bit"),
            (b"\x81\x80\0\0\0\0", "text"),
            (b"\x09\x80\0\0\0\0", "fragmented ping"),
            (b"\x89\xfe\x00\x7e\0\0\0\0", "long ping"),
            (b"\x83\x80\0\0\0\0", "opcode 3"),
            (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", "length with its top bit set"),
        ] {
            let (mut server, mut client, _) = bare();
            client.write_all(bytes).await.unwrap();
            let error = server.read(&mut [0; 16]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_pings_without_reading_is_given_up() {
        let (a, mut b) = duplex(1 << 10);
        let remote = ([127, 0, 0, 1], 1).into();
        let mut server = Carrier::new(Conn::other(a, remote, false), Role::Server, Arc::new(Shared::new()));
        let pinging = async {
            let ping = [&b"\x89\xfd\0\0\0\0"[..], &[0; 125]].concat();
            while b.write_all(&ping).await.is_ok() {}
        };
        let mut byte = [0];
        tokio::select! {
            ended = server.read(&mut byte) => assert!(ended.is_err()),
            () = pinging => panic!("it was never told"),
        }
    }
}
