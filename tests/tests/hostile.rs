//! What peers send by mistake or by malice: each is told so where its protocol has words for it, is counted, and harms
//! nobody else. One test, for the figures and the memory of the process are looked at.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::Duration;

use culvert_rtmp::session::Goal;
use culvert_tests::TestNode;
use culvert_tests::http::{exchange, request};
use culvert_tests::media::{Script, publish, publish_clip};
use culvert_tests::rtmp::{Peer, chunk_head, shaken};
use culvert_tests::view::{Continuity, Viewer};
use culvert_tests::wait::{soon, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMITS: &str = "limits: {handshake_timeout: 4s}";
/// Sooner than the handshake limit: who is closed within this was not closed by that.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Later than it.
const LATE: Duration = Duration::from_secs(10);
/// What 200 bad connections may take or leave behind, with all that a test's own side of them takes: 8 MiB messages that are
/// believed and held would be 1,600 MiB.
const GROWTH_KIB: u64 = 48 << 10;

const SET_CHUNK_SIZE: u8 = 1;
const COMMAND: u8 = 20;
const VIDEO: u8 = 9;

async fn connect(node: &TestNode) -> TcpStream {
    TcpStream::connect(node.address()).await.unwrap()
}

/// Sends something and waits until the node closes; returns what it said. It must not take longer than this.
async fn closed_within(limit: Duration, mut socket: TcpStream, bytes: &[u8]) -> Vec<u8> {
    // It may have closed while we still write.
    socket.write_all(bytes).await.ok();
    let mut said = Vec::new();
    let read = async { while matches!(socket.read_buf(&mut said).await, Ok(n) if n > 0) {} };
    let shown: String = bytes.iter().take(16).map(|b| format!("{b:02x}")).collect();
    assert!(timeout(limit, read).await.is_ok(), "not closed within {limit:?}: {shown}");
    said
}

/// Objects in objects: 60 KB of them in one command, below the bound of a message.
fn amf_bomb() -> Vec<u8> {
    // "connect", 1.0, then {"a": {"a": ..
    let mut body = b"\x02\x00\x07connect\x00\x3f\xf0\0\0\0\0\0\0".to_vec();
    body.extend(b"\x03\x00\x01a".repeat(15_000));
    let mut sent = chunk_head(SET_CHUNK_SIZE, 4).to_vec();
    sent.extend([0, 1, 0, 0]);
    sent.extend(chunk_head(COMMAND, u32::try_from(body.len()).unwrap()));
    sent.extend(body);
    sent
}

/// One of each kind of bad connection; each must be closed soon.
async fn all_kinds(node: &TestNode) {
    for bytes in [&b"\x00\x01\x02\x03garbage"[..], b"SSH-2.0-OpenSSH_9.6\r\n", &[0xff; 5000], b"\x16\x03\x01\xff\xff"] {
        assert_eq!(closed_within(AT_ONCE, connect(node).await, bytes).await, b"");
    }
    let heads = closed_within(AT_ONCE, connect(node).await, b"GET / HTTP/1.1\r\nno colon\r\n\r\n").await;
    assert!(heads.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&heads));
    let large = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 70_000]].concat();
    let heads = closed_within(AT_ONCE, connect(node).await, &large).await;
    assert!(heads.is_empty() || heads.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&heads));

    // RTMP: a message of 16 MiB, chunk sizes of 0 and 2^31, a bomb, a picture before anybody was let in.
    for bytes in [
        chunk_head(COMMAND, 0x00ff_ffff).to_vec(),
        chunk_head(VIDEO, 0x00ff_ffff).to_vec(),
        [&chunk_head(SET_CHUNK_SIZE, 4)[..], &[0, 0, 0, 0]].concat(),
        [&chunk_head(SET_CHUNK_SIZE, 4)[..], &[0x7f, 0xff, 0xff, 0xff]].concat(),
        amf_bomb(),
    ] {
        closed_within(AT_ONCE, shaken(node).await, &bytes).await;
    }
    // The same length from a publisher that was let in.
    let publisher = Peer::connect(node, Goal::Publish, "live/liar").await.ready().await;
    closed_within(AT_ONCE, publisher.socket, &chunk_head(VIDEO, 0x00ff_ffff)).await;
    node.until_gone("live/liar").await;

    // WebSocket: a message of 2^63 bytes, and one of 1 GiB that could be true.
    for length in [1_u64 << 63, 1 << 30] {
        let mut socket = connect(node).await;
        let hello = "GET /play/live/quiet.flv HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://localhost\r\n\r\n";
        socket.write_all(hello.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        soon("an upgrade", socket.read_exact(&mut first)).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 101");
        let frame = [&[0x82, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat();
        let said = closed_within(AT_ONCE, socket, &frame).await;
        // The last thing is a close (RFC 6455 7.4.1): 1002 for the top bit, 1009 for what is too large.
        let status = said.get(said.len() - 2..).map(|two| u16::from_be_bytes([two[0], two[1]]));
        assert_eq!(status, Some(if length >> 63 == 1 { 1002 } else { 1009 }));
    }
}

/// What never comes to an end is closed after the handshake limit.
async fn slow_kinds(node: &TestNode) {
    let begun = chunk_head(COMMAND, 60_000);
    tokio::join!(
        closed_within(LATE, connect(node).await, b""),
        closed_within(LATE, connect(node).await, b"\x03"),
        closed_within(LATE, connect(node).await, &[3; 1000]),
        closed_within(LATE, connect(node).await, b"GE"),
        closed_within(LATE, connect(node).await, b"GET /api/v1/streams HTTP/1.1\r\nHost: x\r\n"),
        closed_within(LATE, connect(node).await, b"PRI * HTTP/2.0\r\n"),
        closed_within(LATE, shaken(node).await, b""),
        closed_within(LATE, shaken(node).await, &begun),
    );
}

async fn bad_names(node: &TestNode) {
    for path in
        ["/play/..%2fx.flv", "/play/live/../../x.flv", "/play/a%00b.flv", "/hdl/a%252fb.flv", "/play/live//a.flv"]
    {
        let answer = request(node.address(), "GET", path, &[]).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert!(answer.text().contains("stream name"), "{path}: {}", answer.text());
        // And through the library, where the head is not one for the bare socket.
        let answer = request(node.address(), "HEAD", path, &[]).await;
        assert_eq!(answer.status, 400, "HEAD {path}");
    }
    for path in ["/api/v1/streams/..%2f..%2fetc", "/api/v1/streams/a%00"] {
        assert_eq!(node.get(path).await.status, 400, "{path}");
    }
    let answer = exchange(node.address(), b"GET /play/a\0b.flv HTTP/1.1\r\nHost: x\r\n\r\n", false).await;
    assert_eq!(answer.status, 400);
    for name in ["live/../x", "live/a\0b", "../../etc/passwd", "live/a b", "live//a/."] {
        let (code, why) = Peer::connect(node, Goal::Publish, name).await.refused().await;
        assert!(code == "NetStream.Publish.BadName" && why.contains("stream name"), "{name:?}: {code}: {why}");
        let (code, why) = Peer::connect(node, Goal::Play, name).await.refused().await;
        assert!(code == "NetStream.Play.Failed" && why.contains("stream name"), "{name:?}: {code}: {why}");
    }
}

/// Resident memory of this process, node and test together.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_peers_are_told_counted_and_harm_nobody() {
    let node = TestNode::start(LIMITS);
    publish_clip(node.url("rtmp", "/live/a"));
    node.until_live("live/a").await;
    // A stream that waits for its key frame: nothing else is being written when a viewer misbehaves.
    publish(node.url("rtmp", "/live/quiet"), Script::clip(|_, frame| (!frame.key).then_some(frame)));
    until("the quiet stream", async || node.stream("live/quiet").filter(|s| s.state == "live")).await;
    let mut viewer = Viewer::open(&node, "live/a", "").await;
    let watch = tokio::spawn(async move {
        let mut seen = Continuity::default();
        while let Some(frame) = viewer.frame().await {
            seen.check(&frame);
            assert!(seen.widest.millis() <= 42, "a frame was missed: {:?}", seen.widest);
        }
    });
    bad_names(&node).await;
    slow_kinds(&node).await;
    all_kinds(&node).await;
    for (line, least) in [
        ("culvert_connections_total{what=\"unknown_protocol\"}", 4.0),
        ("culvert_connections_total{what=\"handshake_timeout\"}", 4.0),
        ("culvert_connections_total{what=\"bad_http\"}", 1.0),
    ] {
        let count = node.metric(line).await;
        assert!(count >= least, "{line} {count}");
    }

    // 200 at once, each with a message begun that is as long as may be before it is let in, and one by one 17 of each
    // kind.
    let before = resident_kib();
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut socket = shaken(&node).await;
        socket.write_all(&[&chunk_head(COMMAND, 64 << 10)[..], &[0; 100]].concat()).await.unwrap();
        held.push(socket);
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < GROWTH_KIB, "200 held connections take {grown} KiB");
    for socket in held {
        closed_within(LATE, socket, b"").await;
    }
    for _ in 0..17 {
        all_kinds(&node).await;
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < GROWTH_KIB, "grew by {grown} KiB over all");
    let only = async || (node.node.hub.sessions().len() == 3).then_some(());
    until("all but the publishers and the viewer to have gone", only).await;
    assert!(!watch.is_finished(), "the good viewer goes on");
    assert_eq!(node.get("/healthz").await.status, 200);
}
