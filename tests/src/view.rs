//! Our own HTTP-FLV viewer, which sees every tag.

use bytes::BytesMut;
use culvert_formats::flv::{Demux, Event, Reader, Tag};
use culvert_media::{Frame, Time, TrackId};
use culvert_net::{dial, tls};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::ChildStdin;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::node::TestNode;
use crate::wait::{LONG, soon};

/// A viewer that was let in.
pub struct Viewer {
    socket: TcpStream,
    reader: Reader,
    demux: Demux,
}

impl Viewer {
    /// Opens `/play/{stream}.flv`, with a query where there is one; anything but 200 fails the test.
    pub async fn open(node: &TestNode, stream: &str, query: &str) -> Viewer {
        let socket = ask(node, &format!("/play/{stream}.flv{query}"), None).await;
        Viewer::begin(socket).await
    }

    /// Reads the answer's head and goes on from there.
    pub async fn begin(mut socket: TcpStream) -> Viewer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("an answer's head", socket.read_u8()).await.expect("an answer"));
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        Viewer { socket, reader: Reader::new(), demux: Demux::new() }
    }

    /// The next tag; None at the end of the stream.
    pub async fn tag(&mut self) -> Option<Tag> {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            if let Some(tag) = self.reader.poll_tag().expect("our FLV is FLV") {
                return Some(tag);
            }
            buffer.clear();
            let n = soon("media", self.socket.read_buf(&mut buffer)).await.unwrap_or(0);
            if n == 0 {
                return None;
            }
            self.reader.handle_input(&buffer);
        }
    }

    /// The next change of tracks, or frame; None at the end of the stream. Nothing may be dropped on the way.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.demux.poll_event() {
                return Some(event);
            }
            let tag = self.tag().await?;
            self.demux.handle_tag(SystemTime::now(), tag.kind, tag.time_ms, tag.body).expect("no tag is too large");
            assert_eq!(self.demux.dropped(), 0, "{:?}", self.demux.problem());
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Event::Frame(frame) = self.event().await? {
                return Some(frame);
            }
        }
    }
}

/// Sends a `GET` and reads nothing; `receive_bytes` makes the window of a viewer that stalls small.
pub async fn ask(node: &TestNode, path: &str, receive_bytes: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes).expect("a socket option");
    }
    let mut socket = socket.connect(node.address()).await.expect("the node listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", node.address());
    socket.write_all(request.as_bytes()).await.expect("the node reads");
    socket
}

/// Passes the binary messages of a WebSocket on to a player, until it has enough.
pub async fn by_websocket(node: &TestNode, path: &str, mut player: ChildStdin) {
    let trust = node.node.secure.then(|| tls::client(Some(&node.certificate())).expect("its own certificate"));
    let conn = dial("127.0.0.1", node.address().port(), trust, LONG).await.expect("the node listens");
    let (mut socket, _) = client_async(node.url("ws", path), conn).await.expect("the node speaks WebSocket");
    while let Some(Ok(message)) = soon("a message", socket.next()).await {
        let Message::Binary(bytes) = message else { continue };
        if player.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Looks whether the stamps of each track go forward, and by how much at the most.
#[derive(Default)]
pub struct Continuity {
    last: HashMap<TrackId, Time>,
    /// The largest step within a track.
    pub widest: Time,
    /// Frames seen.
    pub frames: usize,
}

impl Continuity {
    /// Takes the next frame; stamps that do not go forward fail the test.
    pub fn check(&mut self, frame: &Frame) {
        self.frames += 1;
        assert!(frame.pts >= frame.dts, "pts before dts: {frame:?}");
        if let Some(last) = self.last.insert(frame.track, frame.dts) {
            assert!(frame.dts > last, "track {:?}: {:?} after {last:?}", frame.track, frame.dts);
            self.widest = self.widest.max(frame.dts - last);
        }
    }
}
