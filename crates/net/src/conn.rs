//! One connection, whatever is underneath.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use rustls_pki_types::{DnsName, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};
use webpki::EndEntityCert;

use crate::tcp;

/// Both directions of some byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The reading half of a [`Conn`].
pub type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// The writing half of a [`Conn`].
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection. Bytes that were looked at before it was known what they are ([`Conn::fill`]) are read again first.
pub struct Conn {
    io: Io,
    seen: BytesMut,
    remote: SocketAddr,
    secure: bool,
}

enum Io {
    Tcp(TcpStream),
    TlsServer(Box<server::TlsStream<Socket>>),
    TlsClient(Box<client::TlsStream<Socket>>),
    Other(Box<dyn Duplex>),
}

impl Conn {
    /// A plain TCP connection.
    pub fn tcp(tcp: TcpStream, remote: SocketAddr) -> Conn {
        Conn { io: Io::Tcp(tcp), seen: BytesMut::new(), remote, secure: false }
    }

    /// The accepting end of TLS.
    pub fn tls_server(tls: server::TlsStream<Socket>, remote: SocketAddr) -> Conn {
        Conn { io: Io::TlsServer(Box::new(tls)), seen: BytesMut::new(), remote, secure: true }
    }

    /// The dialling end of TLS.
    pub fn tls_client(tls: client::TlsStream<Socket>, remote: SocketAddr) -> Conn {
        Conn { io: Io::TlsClient(Box::new(tls)), seen: BytesMut::new(), remote, secure: true }
    }

    /// Any other byte stream: an upgraded HTTP request, a pipe in a test.
    pub fn other(io: impl Duplex + 'static, remote: SocketAddr, secure: bool) -> Conn {
        Conn { io: Io::Other(Box::new(io)), seen: BytesMut::new(), remote, secure }
    }

    /// The peer's address as the socket has it; that of the proxy where there is one.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Whether the bytes are encrypted on the wire.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// What TLS agreed on by ALPN.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.io {
            Io::TlsServer(tls) => tls.get_ref().1.alpn_protocol(),
            Io::TlsClient(tls) => tls.get_ref().1.alpn_protocol(),
            Io::Tcp(_) | Io::Other(_) => None,
        }
    }

    /// Whether this is the accepting end of TLS and the peer showed a certificate of an authority of ours (see
    /// [`crate::tls::server`]) that is made out to `name`: a DNS name among its alternative names, letter for letter. Stricter
    /// than for servers' names: a wildcard is nobody's name, and `EDGE` is not `edge`. What DNS
    /// does not take for a name (`1001`, `a~b`) cannot be shown this way.
    pub fn client_certificate_is_for(&self, name: &str) -> bool {
        let Io::TlsServer(tls) = &self.io else { return false };
        // Present only if the handshake's verifier took it.
        let Some([first, ..]) = tls.get_ref().1.peer_certificates() else { return false };
        let (Ok(cert), Ok(dns)) = (EndEntityCert::try_from(first), DnsName::try_from(name)) else { return false };
        cert.verify_is_valid_for_subject_name(&ServerName::DnsName(dns)).is_ok()
            && cert.valid_dns_names().any(|known| known == name)
    }

    /// Whether the peer showed a client certificate, which was verified.
    pub fn has_client_certificate(&self) -> bool {
        match &self.io {
            Io::TlsServer(tls) => tls.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty()),
            Io::Tcp(_) | Io::TlsClient(_) | Io::Other(_) => false,
        }
    }

    fn socket(&self) -> Option<&TcpStream> {
        match &self.io {
            Io::Tcp(tcp) => Some(tcp),
            Io::TlsServer(tls) => Some(&tls.get_ref().0.tcp),
            Io::TlsClient(tls) => Some(&tls.get_ref().0.tcp),
            Io::Other(_) => None,
        }
    }

    /// Turns Nagle's algorithm off (`true`) or on. Best effort.
    pub fn set_nodelay(&self, nodelay: bool) {
        if let Some(tcp) = self.socket() {
            tcp.set_nodelay(nodelay).ok();
        }
    }

    /// Asks the kernel to find out whether a silent peer is still there: after 60 s, then each 15 s, 4 times. Best effort.
    pub fn set_keepalive(&self) {
        if let Some(tcp) = self.socket() {
            tcp::set_keepalive(tcp);
        }
    }

    /// Bounds what the kernel takes before it has sent what it has (`TCP_NOTSENT_LOWAT`), so that what is stale can
    /// still be skipped in our own queue. Best effort: not every system has it.
    pub fn set_notsent_lowat(&self, bytes: u32) {
        if let Some(tcp) = self.socket() {
            tcp::set_notsent_lowat(tcp, bytes);
        }
    }

    /// Has the kernel find out by what suits a fast path, or a slow one (BBR), how much it may send. Best effort.
    pub fn set_congestion_control(&self, fast: bool) {
        if let Some(tcp) = self.socket() {
            tcp::set_congestion_control(tcp, fast);
        }
    }

    /// What a link wants of its socket: no Nagle, keepalive, `TCP_NOTSENT_LOWAT` of 16 KiB, `TCP_USER_TIMEOUT` of 20 s. Best
    /// effort.
    pub fn set_link_options(&self) {
        if let Some(tcp) = self.socket() {
            tcp::set_link_options(tcp);
        }
    }

    /// What was looked at and not yet consumed.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Reads some more to look at, up to `limit` bytes in all. 0 means that the peer has ended, or the limit is
    /// reached.
    pub async fn fill(&mut self, limit: usize) -> io::Result<usize> {
        let room = limit.saturating_sub(self.seen.len());
        if room == 0 {
            return Ok(0);
        }
        // Apart, so that nothing is lost when this is given up half-way.
        let Conn { io, seen, .. } = self;
        if let Io::Tcp(tcp) = io {
            // Most connections wait most of the time, and do so without a buffer.
            tcp.readable().await?;
        }
        seen.reserve(room.min(2048));
        io.take(room as u64).read_buf(seen).await
    }

    /// Drops the first `n` of the bytes that were looked at.
    pub fn consume(&mut self, n: usize) {
        self.seen.advance(n.min(self.seen.len()));
        if self.seen.is_empty() {
            // A connection lives long; what it was recognised by does not have to.
            self.seen = BytesMut::new();
        }
    }

    /// Takes the bare socket out, for TLS on top of it. None where it is not bare.
    pub fn into_socket(self) -> Option<Socket> {
        match self.io {
            Io::Tcp(tcp) => Some(Socket { seen: self.seen, tcp }),
            Io::TlsServer(_) | Io::TlsClient(_) | Io::Other(_) => None,
        }
    }

    /// The two directions, each to be owned by somebody else.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        let (read, write): (ReadHalf, WriteHalf) = match self.io {
            Io::Tcp(tcp) => {
                let (read, write) = tcp.into_split();
                (Box::new(read), Box::new(write))
            }
            Io::TlsServer(tls) => boxed(tokio::io::split(tls)),
            Io::TlsClient(tls) => boxed(tokio::io::split(tls)),
            Io::Other(io) => boxed(tokio::io::split(io)),
        };
        if self.seen.is_empty() {
            return (read, write);
        }
        (Box::new(Replay { seen: self.seen, then: read }), write)
    }
}

fn boxed(
    (read, write): (impl AsyncRead + Send + Unpin + 'static, impl AsyncWrite + Send + Unpin + 'static),
) -> (ReadHalf, WriteHalf) {
    (Box::new(read), Box::new(write))
}

/// Reads what was looked at, then the rest.
struct Replay {
    seen: BytesMut,
    then: ReadHalf,
}

impl AsyncRead for Replay {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if replay(&mut self.seen, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.then).poll_read(cx, buf)
    }
}

/// Gives out what was looked at. False when nothing of it is left.
fn replay(seen: &mut BytesMut, buf: &mut ReadBuf<'_>) -> bool {
    if seen.is_empty() {
        return false;
    }
    let n = seen.len().min(buf.remaining());
    buf.put_slice(&seen.split_to(n));
    if seen.is_empty() {
        *seen = BytesMut::new();
    }
    true
}

/// A TCP socket of which some bytes were looked at; they are read again first.
pub struct Socket {
    seen: BytesMut,
    tcp: TcpStream,
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if replay(&mut self.seen, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if replay(&mut self.seen, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::TlsServer(io) => Pin::new(io).poll_read(cx, buf),
            Io::TlsClient(io) => Pin::new(io).poll_read(cx, buf),
            Io::Other(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::TlsServer(io) => Pin::new(io).poll_write(cx, buf),
            Io::TlsClient(io) => Pin::new(io).poll_write(cx, buf),
            Io::Other(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::TlsServer(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::TlsClient(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Other(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::TlsServer(io) => Pin::new(io).poll_flush(cx),
            Io::TlsClient(io) => Pin::new(io).poll_flush(cx),
            Io::Other(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::TlsServer(io) => Pin::new(io).poll_shutdown(cx),
            Io::TlsClient(io) => Pin::new(io).poll_shutdown(cx),
            Io::Other(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
