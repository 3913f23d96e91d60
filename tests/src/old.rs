//! Old peers as OLD_PEERS.md has them, written from that page alone: an old lower that links and pushes, and an old upper that is
//! linked to and pushed to.

use std::net::SocketAddr;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::wait::soon;

/// A capture of `tests/data/m7s`.
pub fn capture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/m7s").join(name);
    std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// A request as an old lower sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// To be echoed.
    pub sn: i64,
    /// Path and query.
    pub url: String,
    /// Its method.
    pub method: String,
    /// Names and values.
    pub header: Value,
    /// Its body.
    pub body: Vec<u8>,
}

/// An old lower that is linked.
pub struct OldLower {
    socket: WebSocketStream<TcpStream>,
}

impl OldLower {
    /// Dials as `cid`; the status where it is refused.
    pub async fn dial(upper: SocketAddr, cid: &str) -> Result<OldLower, u16> {
        let tcp = TcpStream::connect(upper).await.expect("the upper listens");
        let url = format!("ws://{upper}/erwscascade/wsocket/register%3Fcid={cid}");
        match client_async(url, tcp).await {
            Ok((socket, _)) => Ok(OldLower { socket }),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(other) => panic!("{other}"),
        }
    }

    /// Says who it is.
    pub async fn introduce(&mut self, cid: &str, name: &str, serial: &str) {
        let info = json!({ "cid": cid, "name": name, "serial": serial }).to_string();
        self.send(1, 0, info.as_bytes()).await;
    }

    /// Sends a message.
    pub async fn send(&mut self, sn: i64, kind: i64, pad: &[u8]) {
        let message = json!({ "sn": sn, "type": kind, "pad": STANDARD.encode(pad) }).to_string();
        self.say(message).await;
    }

    /// Sends any text.
    pub async fn say(&mut self, text: String) {
        // An upper that has gone is seen by the next read.
        self.socket.send(Message::text(text)).await.ok();
    }

    /// The next request; None: the link has ended.
    pub async fn asked(&mut self) -> Option<Asked> {
        loop {
            let text = match self.socket.next().await?.ok()? {
                Message::Text(text) => text,
                Message::Close(_) => return None,
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            let message: Value = serde_json::from_str(&text).expect("the upper speaks JSON");
            assert_eq!(message["type"], 1, "{message}");
            let pad = STANDARD.decode(message["pad"].as_str().expect("a text")).expect("base64");
            let pad: Value = serde_json::from_slice(&pad).expect("JSON");
            let body = pad["body"].as_str().map(|body| STANDARD.decode(body).expect("base64")).unwrap_or_default();
            return Some(Asked {
                sn: message["sn"].as_i64().expect("a number"),
                url: pad["url"].as_str().expect("a text").into(),
                method: pad["method"].as_str().expect("a text").into(),
                header: pad["header"].clone(),
                body,
            });
        }
    }

    /// Answers one request after another, as it does; None is no answer at all. Ends with the link.
    pub async fn serve(mut self, answer: impl Fn(&Asked) -> Option<Vec<u8>> + Send + 'static) {
        while let Some(asked) = self.asked().await {
            if let Some(body) = answer(&asked) {
                self.send(asked.sn, 2, &body).await;
            }
        }
    }

    /// Ends the link as it does.
    pub async fn close(mut self) {
        self.socket.close(None).await.ok();
    }
}

/// Sends a captured push to this address, in the pieces that `next` says, and returns the connection.
pub async fn push(upper: SocketAddr, bytes: &[u8], next: impl FnMut() -> usize) -> TcpStream {
    let mut socket = TcpStream::connect(upper).await.expect("the upper listens");
    socket.set_nodelay(true).expect("a socket option");
    push_on(&mut socket, bytes, next).await;
    socket
}

/// Sends more of it.
pub async fn push_on(socket: &mut TcpStream, bytes: &[u8], mut next: impl FnMut() -> usize) {
    let mut left = bytes;
    while !left.is_empty() {
        let (now, later) = left.split_at(next().clamp(1, left.len()));
        if socket.write_all(now).await.is_err() {
            break;
        }
        left = later;
    }
}

/// The bytes of a capture with another request line.
pub fn redirected(bytes: &[u8], target: &str) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == b'\r').expect("a request line");
    [format!("GET {target} HTTP/1.1").as_bytes(), &bytes[end..]].concat()
}

/// An old upper, to which one lower is linked.
pub struct OldUpper {
    socket: WebSocketStream<TcpStream>,
    sn: i64,
}

impl OldUpper {
    /// Waits for a lower to link. No subprotocol is agreed to, whatever was offered.
    pub async fn accept(listener: &TcpListener) -> OldUpper {
        let (tcp, _) = soon("a lower's dial", listener.accept()).await.expect("a connection");
        OldUpper { socket: accept_async(tcp).await.expect("the lower speaks WebSocket"), sn: 0 }
    }

    /// The next message of this type, its `sn` and what is in its `pad`.
    pub async fn heard(&mut self, kind: i64) -> (i64, Vec<u8>) {
        loop {
            let message = soon("a message of the lower", self.socket.next()).await.expect("the link lives");
            let Message::Text(text) = message.expect("the lower speaks WebSocket") else { continue };
            let message: Value = serde_json::from_str(&text).expect("the lower speaks JSON");
            if message["type"] == kind {
                let pad = STANDARD.decode(message["pad"].as_str().expect("a text")).expect("base64");
                return (message["sn"].as_i64().expect("a number"), pad);
            }
        }
    }

    /// Asks, without waiting for the answer; returns its number.
    pub async fn ask(&mut self, method: &str, url: &str, body: &[u8]) -> i64 {
        self.sn += 1;
        let body = if body.is_empty() { Value::Null } else { STANDARD.encode(body).into() };
        let pad = json!({ "url": url, "header": {}, "method": method, "body": body }).to_string();
        let message = json!({ "sn": self.sn, "type": 1, "pad": STANDARD.encode(pad) }).to_string();
        self.socket.send(Message::text(message)).await.expect("the link lives");
        self.sn
    }
}

/// What an old upper makes of a push: it reads as Go's code does, two messages as they are and then, again and again, one header that it
/// throws away and one whole frame. Returns the request's head and the FLV, once there are so many bytes of that.
pub async fn receive_push(listener: &TcpListener, enough: usize) -> (String, Vec<u8>) {
    let (mut tcp, _) = soon("a push", listener.accept()).await.expect("a connection");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("the head", tcp.read_u8()).await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("a head is text");
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    let accept = culvert_net::ws::accept_key(key);
    let yes = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    tcp.write_all(yes.as_bytes()).await.expect("the lower reads");
    let mut flv = Vec::new();
    let mut frames = 0;
    while flv.len() < enough {
        if frames >= 2 {
            soon("a header", header(&mut tcp)).await;
        }
        let (length, mask) = soon("a header", header(&mut tcp)).await;
        let mut payload = vec![0; length];
        soon("a payload", tcp.read_exact(&mut payload)).await.expect("a payload");
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        flv.extend(payload);
        frames += 1;
    }
    (head, flv)
}

/// Length and key of a masked binary frame.
async fn header(tcp: &mut TcpStream) -> (usize, [u8; 4]) {
    assert_eq!(tcp.read_u8().await.expect("a frame"), 0x82, "one whole binary frame");
    let length = match tcp.read_u8().await.expect("a length") {
        0xfe => usize::from(tcp.read_u16().await.expect("a length")),
        0xff => tcp.read_u64().await.expect("a length") as usize,
        short => usize::from(short.checked_sub(0x80).expect("a mask")),
    };
    let mut key = [0; 4];
    tcp.read_exact(&mut key).await.expect("a key");
    (length, key)
}
