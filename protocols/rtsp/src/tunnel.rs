//! RTSP through HTTP, for where nothing else passes: QuickTime's tunnel, two requests of which one carries what the server says and the other, in
//! base64, what the client says; and WebSocket (ONVIF Streaming Specification 5.1.1.5).

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use culvert_hub::{FORWARDED, site};
use culvert_net::http1::Head;
use culvert_net::ws::{self, Decoder, Message, Opcode, Role};
use culvert_net::{Conn, ReadHalf, WriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::Rtsp;
use crate::server::UNSENT_BYTES;

const TUNNELLED: &str = "application/x-rtsp-tunnelled";
const COOKIE: &str = "x-sessioncookie";
/// The subprotocol of WebSockets.
const SUBPROTOCOL: &str = "rtsp.onvif.org";
/// Most tunnels of which one half is there.
const WAITING: usize = 256;
/// Longest name of a tunnel.
const COOKIE_BYTES: usize = 128;
/// Between a WebSocket and its session, each way.
const PIPE_BYTES: usize = 64 << 10;
/// Largest message of a client: a request, or a packet of a publisher.
const MESSAGE_BYTES: usize = 128 << 10;

/// Tunnels of which the first half is there. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tunnels(Arc<Mutex<HashMap<String, oneshot::Sender<ReadHalf>>>>);

impl Tunnels {
    fn table(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<ReadHalf>>> {
        self.0.lock().expect("no code panics while it holds this table")
    }

    /// False: there are as many as there may be.
    fn add(&self, key: String, to: oneshot::Sender<ReadHalf>) -> bool {
        let mut table = self.table();
        table.retain(|_, to| !to.is_closed());
        if table.len() >= WAITING {
            return false;
        }
        table.insert(key, to);
        true
    }
}

impl Rtsp {
    /// Whether [`Rtsp::serve_http`] answers this head.
    pub fn takes(head: &Head) -> bool {
        let cookie = head.header(COOKIE).is_some();
        let tunnelled = |name| head.header(name).is_some_and(|value| value.contains(TUNNELLED));
        match head.method.as_str() {
            "GET" => (cookie && tunnelled("accept")) || head.lists("sec-websocket-protocol", SUBPROTOCOL),
            "POST" => cookie && tunnelled("content-type"),
            _ => false,
        }
    }

    /// Answers the head that [`Rtsp::takes`] said yes to; it is still unread on the connection. Spawns what outlives the answer.
    /// `permit` is held as [`Rtsp::serve`] does.
    pub async fn serve_http(&self, mut conn: Conn, head: Head, permit: impl Send + 'static) {
        conn.set_notsent_lowat(UNSENT_BYTES);
        conn.consume(head.bytes);
        let forwarded = FORWARDED.iter().any(|name| head.header(name).is_some());
        let origin = Some(site(head.header("origin"), head.header("host"), forwarded));
        if head.header("upgrade").is_some() {
            return self.serve_websocket(conn, &head, origin, permit).await;
        }
        let cookie = head.header(COOKIE).filter(|cookie| !cookie.is_empty() && cookie.len() <= COOKIE_BYTES);
        let Some(cookie) = cookie.map(str::to_string) else {
            return refuse(conn, "400 Bad Request").await;
        };
        let (remote, secure) = (conn.remote(), conn.is_secure());
        // A stranger who knows the name of a tunnel must not speak in it.
        let key = format!("{} {cookie}", remote.ip());
        if head.method == "POST" {
            let to = self.tunnels().table().remove(&key);
            let (read, write) = conn.into_split();
            let read: ReadHalf = Box::new(Decoding { read, _write: write, raw: BytesMut::new(), plain: Bytes::new() });
            // Without the other half there is nobody to answer to; a POST is not answered at all while the tunnel lives.
            if let Some(to) = to {
                to.send(read).ok();
            }
            return;
        }
        let (to, half) = oneshot::channel();
        if !self.tunnels().add(key, to) {
            return refuse(conn, "503 Service Unavailable").await;
        }
        let (mut gone, mut write) = conn.into_split();
        let hello = format!(
            "HTTP/1.0 200 OK\r\nServer: Culvert\r\nConnection: close\r\nCache-Control: no-store\r\nPragma: no-cache\r\n\
             Content-Type: {TUNNELLED}\r\n\r\n"
        );
        if write.write_all(hello.as_bytes()).await.is_err() {
            return;
        }
        let rtsp = self.clone();
        self.gate().hub().spawn(async move {
            // It has nothing to say: what is read is its end, which makes room for another.
            let mut ignored = [0; 64];
            let joined = tokio::select! {
                joined = timeout(rtsp.handshake(), half) => joined,
                _ = gone.read(&mut ignored) => return,
            };
            if let Ok(Ok(read)) = joined {
                rtsp.serve_halves(read, write, remote, secure, origin, permit);
            }
        });
    }

    async fn serve_websocket(&self, mut conn: Conn, head: &Head, origin: Option<String>, permit: impl Send + 'static) {
        let key = head.header("sec-websocket-key").filter(|_| head.header("sec-websocket-version") == Some("13"));
        let Some(key) = key else { return refuse(conn, "400 Bad Request").await };
        let hello = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
             Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n",
            ws::accept_key(key)
        );
        if conn.write_all(hello.as_bytes()).await.is_err() {
            return;
        }
        let (remote, secure) = (conn.remote(), conn.is_secure());
        let (ours, theirs) = duplex(PIPE_BYTES);
        // When either end goes, so does the other.
        let stall = self.stall();
        self.gate().hub().spawn(async move { drop(carry(conn, theirs, stall).await) });
        let (read, write) = tokio::io::split(ours);
        self.serve_halves(Box::new(read), Box::new(write), remote, secure, origin, permit);
    }
}

async fn refuse(mut conn: Conn, status: &str) {
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    timeout(Duration::from_secs(2), conn.write_all(answer.as_bytes())).await.ok();
}

/// Carries bytes of a session in binary messages, both ways. Neither end may take nothing for longer than `stall`.
async fn carry(conn: Conn, session: DuplexStream, stall: Duration) -> io::Result<()> {
    let (mut read, mut write) = conn.into_split();
    let (mut said, mut heard) = tokio::io::split(session);
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES);
    let (mut came, mut goes) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        let n = tokio::select! {
            n = said.read(&mut goes) => {
                let Some(bytes) = goes.get(..n?).filter(|bytes| !bytes.is_empty()) else { break };
                within(stall, write.write_all(&ws::encode(Opcode::Binary, bytes, None))).await?;
                continue;
            }
            n = read.read(&mut came) => n?,
        };
        let Some(bytes) = came.get(..n).filter(|bytes| !bytes.is_empty()) else { break };
        decoder.handle_input(bytes);
        while let Some(message) = decoder.poll_message().map_err(io::Error::other)? {
            match message {
                Message::Text(data) | Message::Binary(data) => within(stall, heard.write_all(&data)).await?,
                Message::Ping(data) => within(stall, write.write_all(&ws::encode(Opcode::Pong, &data, None))).await?,
                Message::Pong(_) => {}
                Message::Close(status) => {
                    let status = status.unwrap_or(1000);
                    return within(stall, write.write_all(&ws::close(status, "", None))).await;
                }
            }
        }
    }
    within(stall, write.write_all(&ws::close(1000, "", None))).await
}

async fn within(limit: Duration, write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(limit, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Reads what stands in base64 on a connection.
struct Decoding {
    read: ReadHalf,
    /// Held so that the connection stays open.
    _write: WriteHalf,
    raw: BytesMut,
    plain: Bytes,
}

impl AsyncRead for Decoding {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.plain.is_empty() {
                let n = self.plain.len().min(out.remaining());
                out.put_slice(&self.plain.split_to(n));
                return Poll::Ready(Ok(()));
            }
            let mut buffer = [0; 4096];
            let mut came = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.read).poll_read(cx, &mut came) {
                Poll::Ready(Ok(())) if came.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(why)) => return Poll::Ready(Err(why)),
                Poll::Pending => return Poll::Pending,
            }
            // Lines may end within it, and each request is encoded by itself, so that padding may stand anywhere.
            self.raw.extend(came.filled().iter().filter(|byte| !byte.is_ascii_whitespace()));
            let whole = self.raw.len() / 4 * 4;
            let mut plain = Vec::with_capacity(whole / 4 * 3);
            for group in self.raw.get(..whole).unwrap_or_default().chunks(4) {
                STANDARD
                    .decode_vec(group, &mut plain)
                    .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
            }
            self.raw.advance(whole);
            self.plain = plain.into();
        }
    }
}
