//! Pushes of old peers, by WebSocket-FLV with doubled headers (OLD_PEERS.md 3).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use culvert_net::Conn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::doubled::Doubled;

/// Read at a time.
const READ_BYTES: usize = 16 << 10;

/// What an old upper wants before each tag but the metadata: it throws one header away, whatever that says. An empty binary frame with a
/// key of zeros is RFC 6455, and adds nothing to the FLV for servers that read it as what it is.
pub const SLOT: [u8; 6] = [0x82, 0x80, 0, 0, 0, 0];

/// How long an old upper holds a push whose connection broke, and some.
pub const PAUSE: Duration = Duration::from_secs(11);

/// A pusher's connection without the headers that are no frames. What is RFC 6455 comes through as it is; halves that differ are an error
/// of the kind [`io::ErrorKind::InvalidData`].
pub fn without_doubled_headers(conn: Conn) -> Conn {
    let (remote, secure) = (conn.remote(), conn.is_secure());
    Conn::other(Undoubled { conn, doubled: Doubled::default(), ready: BytesMut::new() }, remote, secure)
}

struct Undoubled {
    conn: Conn,
    doubled: Doubled,
    ready: BytesMut,
}

impl AsyncRead for Undoubled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                let n = this.ready.len().min(buf.remaining());
                buf.put_slice(this.ready.get(..n).unwrap_or_default());
                this.ready.advance(n);
                return Poll::Ready(Ok(()));
            }
            if this.doubled.is_doubled() == Some(false) && this.doubled.is_empty() {
                return Pin::new(&mut this.conn).poll_read(cx, buf);
            }
            match this.doubled.poll_output() {
                Ok(Some(bytes)) => this.ready = bytes,
                Err(mismatch) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, mismatch))),
                Ok(None) => {
                    let mut bytes = [0; READ_BYTES];
                    let mut read = ReadBuf::new(&mut bytes);
                    ready!(Pin::new(&mut this.conn).poll_read(cx, &mut read))?;
                    if read.filled().is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    this.doubled.handle_input(read.filled());
                }
            }
        }
    }
}

impl AsyncWrite for Undoubled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.conn).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_shutdown(cx)
    }
}
