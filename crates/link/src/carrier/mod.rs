//! A byte stream inside the binary messages of a WebSocket (RFC 6455), with a heartbeat of its own.
//!
//! Messages carry no meaning: what one end writes is what the other reads. A ping goes out every 10 s; an end that has
//! heard nothing for 24 s is given up. Pings are WebSocket's rather than HTTP/2's, so that their round trip can be
//! measured here, and so that gateways see them. Nothing is held while a link is idle: buffers come with the bytes.

mod frame;

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

use self::frame::{Header, broken, mask_key, unmask};
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
            return self.poll_farewell(cx, until).map(Ok);
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

    /// Says the last words, and reads on until the other end has heard them: a socket that is closed with something unread
    /// resets, and the reset overtakes the words.
    fn poll_farewell(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.tick.as_mut().reset(until);
        if self.tick.as_mut().poll(cx).is_ready() || matches!(self.poll_drain(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        loop {
            match self.advance() {
                Ok(Some(true)) => {
                    let Some(payload) = &mut self.payload else { continue };
                    let n = self.input.len().min(usize::try_from(payload.left).unwrap_or(usize::MAX));
                    payload.left -= n as u64;
                    self.input.advance(n);
                }
                Ok(None) => {
                    self.input.reserve(READ_IDLE);
                    match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input) {
                        Poll::Ready(Ok(n)) if n > 0 => self.shared.count_received(n),
                        Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(()),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Ok(Some(false)) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Understands what was read until there is payload to give. None: more must be read. `Ok(false)`: the end.
    fn advance(&mut self) -> io::Result<Option<bool>> {
        loop {
            if self.payload.is_some_and(|payload| payload.left > 0) {
                return Ok((!self.input.is_empty()).then_some(true));
            }
            let Some(header) = Header::parse(&self.input, self.role)? else { return Ok(None) };
            let Header { opcode, length, key, bytes: header } = header;
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
        // Who waits to write does not always read meanwhile; a dead peer must be found out all the same.
        if this.output.len() >= WRITE
            && let Poll::Ready(ended) = this.poll_heartbeat(cx)
        {
            return Poll::Ready(Err(ended.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())));
        }
        if this.closing.is_some() {
            // After the last words nothing is said; an error here would end the connection before they were heard.
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
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
        let this = self.get_mut();
        if this.closing.is_some() { Poll::Ready(Ok(())) } else { this.poll_drain(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.poll_drain(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut this.io).poll_shutdown(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;
