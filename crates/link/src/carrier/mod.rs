//! A byte stream inside the binary messages of a WebSocket (RFC 6455), with a heartbeat of its own.
//!
//! Messages carry no meaning: what one end writes is what the other reads. Pings are WebSocket's rather than HTTP/2's, so that
//! their round trip can be measured here, and so that gateways see them. Nothing is held while a link is idle: buffers come
//! with the bytes. One task at a time has a carrier, reads and writes.
//!
//! Besides the bytes go two words, as text messages. `rest`: what I was writing ends here; once both ends have said so, the
//! next byte begins something new. So HTTP/2, whose buffers are ten times as large as all else, is there only while something
//! runs. `news`: ask for the catalogue again.

mod frame;
mod heartbeat;
mod output;
mod pace;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use culvert_net::Conn;
use culvert_net::ws::{Role, apply_mask};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use self::frame::{Header, broken};
use self::heartbeat::{Due, Heartbeat};
use self::output::Output;
use self::pace::Pace;
use crate::figures::{DONE, Shared};

/// How long last words may take, and how much of what the other end says meanwhile is read and left: all that can be under way.
const FAREWELL: Duration = Duration::from_secs(2);
const FAREWELL_BYTES: usize = 8 << 20;
/// What is read at a time where no payload is awaited: headers, and what an idle link says.
const READ_IDLE: usize = 2 << 10;
/// Most that is read at a time of a payload that is awaited.
const READ: usize = 64 << 10;
/// From here on payload is read to where it is wanted, without a buffer of ours between.
const DIRECT: usize = 4 << 10;
/// What is flushed waits from this size on until the end of the writer's turn, so that more may join it in one message.
const CORK: usize = 8 << 10;
/// Most bytes of answers to pings that wait; a peer that asks more than it reads is given up.
const CONTROL: usize = 4 << 10;
const REST: &[u8] = b"rest";
const NEWS: &[u8] = b"news";

/// The payload that is being read.
#[derive(Clone, Copy)]
struct Payload {
    left: u64,
    key: [u8; 4],
    /// Where in the key its next byte is.
    turn: usize,
}

impl Payload {
    /// Takes the mask off what was read into `buf` from `start` on.
    fn give(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let Some(given) = buf.filled_mut().get_mut(start..) else { return };
        apply_mask(given, self.key, self.turn);
        self.turn = (self.turn + given.len()) % 4;
        self.left -= given.len() as u64;
    }
}

pub(crate) struct Carrier {
    io: Conn,
    role: Role,
    /// Read and not yet understood.
    input: BytesMut,
    payload: Option<Payload>,
    /// Framed and not yet written.
    output: Output,
    shared: Arc<Shared>,
    pace: Pace,
    heartbeat: Heartbeat,
    tick: Pin<Box<Sleep>>,
    /// Our close frame is on its way; there is nothing more to say after this.
    closing: Option<Instant>,
    /// Read since then.
    left_over: usize,
    rest: Rest,
}

/// Where the bytes end and begin anew.
#[derive(Clone, Copy, Default)]
struct Rest {
    /// Whoever writes ends to rest, not for good.
    wanted: bool,
    said: bool,
    heard: bool,
}

/// What happened to a carrier at rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Woken {
    /// The other end has ended what it was writing, too.
    Rested,
    /// It begins something new, which is to be read.
    Bytes,
    /// The link is at its end.
    End,
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
            output: Output::new(role),
            shared,
            pace: Pace::default(),
            heartbeat: Heartbeat::new(now, role),
            tick: Box::pin(sleep_until(now)),
            closing: None,
            left_over: 0,
            rest: Rest::default(),
        }
    }

    /// Writes what is framed. Ready when nothing is left.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, self.output.chunk()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.output.advance(n);
                    self.shared.count_sent(n);
                    if self.pace.handle_taken(Instant::now(), n) {
                        self.io.set_notsent_lowat(self.pace.bounds().kernel);
                        self.io.set_congestion_control(self.pace.is_fast());
                        self.shared.set_fast(self.pace.is_fast());
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.pace.handle_full(Instant::now());
                    self.shared.set_unsent(self.output.len());
                    return Poll::Pending;
                }
            }
        }
        self.shared.set_unsent(0);
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Pings, gives up a silent peer, and closes when it is asked to. An error or the end of the stream ends the link.
    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.closer.register(cx.waker());
        let now = Instant::now();
        if self.shared.take_news() {
            self.output.control(1, NEWS);
        }
        if self.closing.is_none()
            && let Some((status, reason)) = self.shared.take_close()
        {
            self.say_last(status, &reason);
        }
        if let Some(until) = self.closing {
            return self.poll_farewell(cx, until).map(Ok);
        }
        while self.tick.as_mut().poll(cx).is_ready() {
            match self.heartbeat.poll(now) {
                Due::Ping(number) => self.output.control(9, &number.to_be_bytes()),
                Due::Dead => {
                    let why = "nothing was heard of the other end for 24 s";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
                }
                Due::Wait(until) => {
                    self.tick.as_mut().reset(until);
                    // Between two bursts nothing is held.
                    if self.output.is_empty() {
                        self.output.rest();
                    }
                }
            }
        }
        // What could not be written waits for the writer's own waker, which is the same task's.
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn say_last(&mut self, status: u16, reason: &str) {
        self.output.control(8, &last_words(status, reason));
        self.closing = Some(Instant::now() + FAREWELL);
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
                Ok(Some(true)) => self.leave_input(),
                // A word; the close is still to come.
                Ok(Some(false)) if self.shared.closed().is_none() => {}
                Ok(None) => {
                    self.input.reserve(READ_IDLE);
                    match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input) {
                        Poll::Ready(Ok(n)) if n > 0 && self.left_over < FAREWELL_BYTES => {
                            self.left_over += n;
                            self.shared.count_received(n);
                        }
                        Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(()),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Ok(Some(false)) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Whoever writes next ends to rest.
    pub(crate) fn want_rest(&mut self) {
        self.rest.wanted = true;
    }

    /// Whether nothing of what was is under way, so that something new may begin.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.rest.said == self.rest.heard
    }

    /// Whether this end ended to rest.
    pub(crate) fn has_rested(&self) -> bool {
        self.rest.said
    }

    /// Something new begins. Only at rest.
    pub(crate) fn begin(&mut self) {
        self.rest = Rest::default();
        self.shared.set_resting(false);
    }

    /// Keeps the link while nobody reads or writes.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Woken>> {
        self.shared.set_resting(self.is_at_rest());
        loop {
            match self.advance()? {
                // The tail of what was.
                Some(true) if !self.is_at_rest() => {
                    self.leave_input();
                    continue;
                }
                Some(true) => return Poll::Ready(Ok(Woken::Bytes)),
                Some(false) if self.shared.closed().is_none() => return Poll::Ready(Ok(Woken::Rested)),
                Some(false) => {
                    let _ = self.poll_drain(cx);
                    return Poll::Ready(Ok(Woken::End));
                }
                None => {}
            }
            if let Poll::Ready(ended) = self.poll_heartbeat(cx) {
                if ended.is_err() && matches!(self.poll_input(cx, READ_IDLE), Poll::Ready(Ok(true))) {
                    continue;
                }
                return Poll::Ready(ended.map(|()| Woken::End));
            }
            match self.poll_input(cx, READ_IDLE) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(Woken::End)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads into `input`, which is given back while there is nothing to read. False: the connection has ended.
    fn poll_input(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<bool>> {
        self.input.reserve(room);
        let read = poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input);
        match &read {
            Poll::Ready(Ok(0)) => self.shared.set_broken_off(),
            Poll::Ready(Ok(n)) => {
                self.heartbeat.handle_input(Instant::now());
                self.shared.count_received(*n);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.input.is_empty() => self.input = BytesMut::new(),
            Poll::Pending => {}
        }
        read.map_ok(|n| n > 0)
    }

    /// Leaves out what was read of a payload.
    fn leave_input(&mut self) {
        let Some(payload) = &mut self.payload else { return };
        let n = self.input.len().min(usize::try_from(payload.left).unwrap_or(usize::MAX));
        payload.left -= n as u64;
        self.input.advance(n);
    }

    /// Understands what was read until there is payload to give. None: more must be read. `Ok(false)`: the end.
    fn advance(&mut self) -> io::Result<Option<bool>> {
        loop {
            if self.payload.is_some_and(|payload| payload.left > 0) {
                return Ok((!self.input.is_empty()).then_some(true));
            }
            let Some(header) = Header::parse(&self.input, self.role)? else { return Ok(None) };
            let Header { opcode, length, key, bytes: header } = header;
            if matches!(opcode, 0 | 2) {
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
            apply_mask(&mut payload, key, 0);
            match opcode {
                1 if payload == REST => {
                    if self.rest.heard {
                        return Err(broken("it ends twice what it was writing"));
                    }
                    self.rest.heard = true;
                    return Ok(Some(false));
                }
                1 if payload == NEWS => self.shared.hear_news(),
                // Words that later versions may have.
                1 => {}
                8 => {
                    self.shared.set_closed(&payload);
                    if self.closing.is_none() {
                        // Both may leave in the same moment, and the other end wants to know why this one does.
                        match self.shared.parting() {
                            (DONE, _) => self.output.control(8, payload.get(..2).unwrap_or_default()),
                            (status, reason) => self.output.control(8, &last_words(status, &reason)),
                        }
                    }
                    return Ok(Some(false));
                }
                9 => {
                    if self.output.control_bytes() > CONTROL {
                        return Err(broken("it pings and does not read"));
                    }
                    self.output.control(10, &payload);
                }
                10 => {
                    let answered = <[u8; 8]>::try_from(payload.as_ref()).map(u64::from_be_bytes);
                    if let Some(time) =
                        answered.ok().and_then(|number| self.heartbeat.handle_answer(Instant::now(), number))
                    {
                        self.shared.set_round_trip(time);
                    }
                }
                _ => return Err(broken("an opcode that is not defined")),
            }
        }
    }
}

impl Carrier {
    /// Reads payload to where it is wanted. Only while nothing is in `input`.
    fn poll_read_direct(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(payload) = &mut self.payload else { return Poll::Ready(Ok(())) };
        let start = buf.filled().len();
        let mut rest = (&mut self.io).take(payload.left);
        match Pin::new(&mut rest).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {}
            other @ (Poll::Ready(Err(_)) | Poll::Pending) => return other,
        }
        payload.give(buf, start);
        let came = buf.filled().len() - start;
        if came == 0 {
            self.shared.set_broken_off();
        }
        self.heartbeat.handle_input(Instant::now());
        self.shared.count_received(came);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Carrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.heard {
            return Poll::Ready(Ok(()));
        }
        loop {
            match this.advance()? {
                Some(true) => {
                    let Some(payload) = &mut this.payload else { continue };
                    let n =
                        this.input.len().min(buf.remaining()).min(usize::try_from(payload.left).unwrap_or(usize::MAX));
                    let Some(part) = this.input.get(..n) else { continue };
                    let start = buf.filled().len();
                    buf.put_slice(part);
                    payload.give(buf, start);
                    this.input.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Some(false) => {
                    // Its close is answered as far as that goes without waiting; then this is the end, whether it still listens or not.
                    let _ = this.poll_drain(cx);
                    return Poll::Ready(Ok(()));
                }
                None => {}
            }
            if let Poll::Ready(ended) = this.poll_heartbeat(cx) {
                // Who cannot be written to may have said before why it leaves.
                if ended.is_err() && matches!(this.poll_input(cx, READ_IDLE), Poll::Ready(Ok(true))) {
                    continue;
                }
                return Poll::Ready(ended);
            }
            let left = this.payload.map_or(0, |payload| payload.left);
            if this.input.is_empty() && left >= DIRECT as u64 && buf.remaining() >= DIRECT {
                return this.poll_read_direct(cx, buf);
            }
            match this.poll_input(cx, usize::try_from(left).unwrap_or(READ).min(READ) + READ_IDLE) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
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
        let bound = this.pace.bounds().framed;
        if this.output.len() >= bound
            && let Poll::Ready(ended) = this.poll_heartbeat(cx)
        {
            return Poll::Ready(Err(ended.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())));
        }
        if this.closing.is_some() {
            // After the last words nothing is said; an error here would end the connection before they were heard.
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        match bound.saturating_sub(this.output.len()) {
            0 => Poll::Pending,
            room => Poll::Ready(Ok(this.output.append(bufs, room))),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_some() {
            return Poll::Ready(Ok(()));
        }
        if (CORK..this.pace.bounds().framed).contains(&this.output.len()) {
            // The next turn begins with reading, and that with writing what is here.
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        this.poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rests = (this.rest.wanted || this.rest.heard) && this.shared.was_closed().is_none();
        if rests && this.closing.is_none() && this.shared.closed().is_none() {
            if !this.rest.said {
                this.rest.said = true;
                this.output.control(1, REST);
            }
            return match this.poll_heartbeat(cx) {
                Poll::Ready(ended) => Poll::Ready(ended),
                Poll::Pending if this.output.is_empty() => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            };
        }
        if this.closing.is_none() && this.shared.closed().is_none() {
            let (status, reason) = this.shared.parting();
            this.say_last(status, &reason);
        }
        if let Some(until) = this.closing
            && this.poll_farewell(cx, until).is_pending()
        {
            return Poll::Pending;
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

/// The payload of a close frame. Reasons are ours and short; a control frame carries 125 bytes (RFC 6455 5.5).
fn last_words(status: u16, reason: &str) -> Vec<u8> {
    status.to_be_bytes().into_iter().chain(reason.bytes().take(123)).collect()
}

#[cfg(test)]
mod tests;
