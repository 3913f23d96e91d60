//! Streams pushed from one node to another by WebSocket-FLV: by configuration and by command, always and on demand; and
//! what the receiving end says to pushers that are wrong.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::{Duration, Instant};

use culvert_hub::Feed;
use culvert_live::{Push, PushError, PushNews};
use culvert_media::{Cid, Kind};
use culvert_net::ws::{self, Decoder, Message, Opcode, Role};
use culvert_net::{DialOptions, tls};
use culvert_tests::ffmpeg::Media;
use culvert_tests::http::{Answer, exchange, request};
use culvert_tests::media::{Script, publish, publish_clip};
use culvert_tests::nginx::Nginx;
use culvert_tests::node::{free_port, token_sha256};
use culvert_tests::pipe::{Direction, Pipe};
use culvert_tests::view::{Continuity, Viewer};
use culvert_tests::wait::{soon, until};
use culvert_tests::{Ffmpeg, TestNode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);
const WSPUSH: &str = "/erwscascade/wspush";

/// `name` as it is called at an upper of `lower`.
fn above(lower: &TestNode, name: &str) -> String {
    format!("{name}-{}", lower.node.identity.cid)
}

/// Where `upper` takes the stream.
fn target(upper: &TestNode, name: &str) -> String {
    upper.url("ws", &format!("{WSPUSH}/{name}"))
}

/// Waits for a push of this stream to be in this state, and returns its row.
async fn push_is(node: &TestNode, stream: &str, state: &str) -> Value {
    let look = async || {
        let rows = node.json("/api/v1/pushes").await;
        rows["items"].as_array()?.iter().find(|row| row["stream"] == stream && row["state"] == state).cloned()
    };
    until(&format!("the push of {stream} to be {state}"), look).await
}

/// `POST /api/v1/pushes`.
async fn post(node: &TestNode, media_type: &str, body: &str) -> Answer {
    let (host, length) = (node.address(), body.len());
    let text = format!(
        "POST /api/v1/pushes HTTP/1.1\r\nHost: {host}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    soon("an answer to POST", exchange(node.address(), text.as_bytes(), false)).await
}

async fn order(node: &TestNode, order: Value) -> Answer {
    post(node, "application/json; charset=utf-8", &order.to_string()).await
}

async fn watch(node: &TestNode, stream: &str, frames: usize) {
    let mut viewer = Viewer::open(node, stream, "").await;
    let mut seen = Continuity::default();
    while seen.frames < frames {
        seen.check(&viewer.frame().await.expect("the stream goes on"));
    }
    assert!(seen.widest.millis() <= 42, "{:?}", seen.widest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_push_and_one_by_command_bring_the_stream_under_its_platforms_name() {
    let upper = TestNode::start("");
    let lower = TestNode::start(&format!("push: {{list: {{live/a: {:?}}}}}", target(&upper, "live/a")));
    publish_clip(lower.url("rtmp", "/live/a"));
    let (first, second) = (above(&lower, "live/a"), "deep/er/b-mine");
    let stream = upper.until_live(&first).await;
    assert_eq!(stream.tracks, lower.until_live("live/a").await.tracks);
    assert_eq!(stream.publisher.protocol, "ws-flv");

    // By command, under a context path that the gateway left in place, and a cid of its own in the URL.
    let url = upper.url("ws", "/some/context/erwscascade/wspush/deep/er/b?cid=mine");
    let made = order(&lower, json!({"stream": "live/a", "url": url})).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["id"].as_u64().unwrap();
    assert_eq!(made.header("location").unwrap(), format!("/api/v1/pushes/{id}"));
    upper.until_live(second).await;
    for name in [first.as_str(), second] {
        watch(&upper, name, 100).await;
    }
    let rows = lower.json("/api/v1/pushes").await;
    let shown: Vec<_> =
        rows["items"].as_array().unwrap().iter().map(|r| (r["configured"].clone(), r["mode"].clone())).collect();
    assert_eq!(shown, [(json!(true), json!("always")), (json!(false), json!("always"))], "{rows}");
    let row = lower.json(&format!("/api/v1/pushes/{id}")).await;
    assert_eq!((&row["state"], &row["retry"], &row["attempts"]), (&json!("live"), &json!("forever"), &json!(1)));

    if let Some(ffmpeg) = Ffmpeg::five("a_configured_push_and_one_by_command") {
        let url = upper.url("http", &format!("/play/{first}.flv"));
        ffmpeg.play(&url).await.assert_clean(Media::H264Aac, &url);
    }

    // Stopping one leaves the other, and its stream is gone at once.
    let stopped = request(lower.address(), "DELETE", &format!("/api/v1/pushes/{id}"), &[]).await;
    assert_eq!((stopped.status, stopped.json()), (200, json!({ "stopped": id })));
    upper.until_gone(second).await;
    assert_eq!(request(lower.address(), "DELETE", &format!("/api/v1/pushes/{id}"), &[]).await.status, 404);
    assert_eq!(lower.get(&format!("/api/v1/pushes/{id}")).await.status, 404);
    watch(&upper, &first, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_cannot_be_carried_out_are_refused_with_a_sentence() {
    let node = TestNode::start("auth: {anonymous: {allow: [read-api], streams: \"**\"}}");
    let good = json!({"stream": "live/a", "url": "rtmp://127.0.0.1:1/a/b"}).to_string();
    assert_eq!(post(&node, "application/json", &good).await.status, 401);
    let node = TestNode::start("");
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        assert_eq!(post(&node, media_type, &good).await.status, 415, "{media_type}");
    }
    for (body, kind) in [
        (json!({"stream": "live/a"}), "urn:culvert:bad-order"),
        (json!({"stream": "live/a", "url": "ws://h/a", "when": "now"}), "urn:culvert:bad-order"),
        (json!({"stream": "live//a", "url": "ws://h/a"}), "urn:culvert:bad-name"),
        (json!({"stream": "live/a", "url": "http://h/a"}), "urn:culvert:bad-url"),
        (json!({"stream": "live/a", "url": "rtmp://h/a", "on_demand": true}), "urn:culvert:bad-order"),
    ] {
        let answer = order(&node, body.clone()).await;
        assert_eq!((answer.status, &answer.json()["type"]), (400, &json!(kind)), "{body}");
    }
    let large = format!("{{\"stream\": \"live/a\", \"url\": \"{}\"}}", "x".repeat(65 << 10));
    assert_eq!(post(&node, "application/json", &large).await.status, 413);

    let first = post(&node, "application/json", &good).await.json()["id"].clone();
    let again = post(&node, "application/json", &good).await;
    assert_eq!((again.status, &again.json()["id"]), (409, &first), "{}", again.text());
    for n in 1..1024 {
        let url = format!("rtmp://127.0.0.1:1/a/{n}");
        assert_eq!(order(&node, json!({"stream": "live/a", "url": url})).await.status, 201);
    }
    let full = order(&node, json!({"stream": "live/a", "url": "rtmp://127.0.0.1:1/one/more"})).await;
    assert_eq!(full.status, 503, "{}", full.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_tried_again_when_the_upper_was_away_and_when_the_source_returns() {
    let port = free_port();
    let url = format!("ws://127.0.0.1:{port}{WSPUSH}/live/a");
    let lower = TestNode::start(&format!("push: {{list: {{live/a: {url:?}}}}}"));
    let name = above(&lower, "live/a");
    push_is(&lower, "live/a", "waiting").await;
    let source = publish_clip(lower.url("rtmp", "/live/a"));
    // A first dial that nobody answers is tried again.
    let row = push_is(&lower, "live/a", "retrying").await;
    assert!(row["error"].as_str().is_some_and(|why| why.contains("refused")), "{row}");
    let upper = TestNode::at(port, "");
    upper.until_live(&name).await;
    watch(&upper, &name, 50).await;

    soon("the upper to end", upper.node.drain()).await;
    drop(upper);
    push_is(&lower, "live/a", "retrying").await;
    let upper = TestNode::at(port, "");
    upper.until_live(&name).await;

    source.abort();
    upper.until_gone(&name).await;
    push_is(&lower, "live/a", "waiting").await;
    publish_clip(lower.url("rtmp", "/live/a"));
    upper.until_live(&name).await;
    watch(&upper, &name, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_end_when_the_order_says_so_and_another_order_begins_anew() {
    let lower = TestNode::start("");
    publish_clip(lower.url("rtmp", "/live/a"));
    lower.until_live("live/a").await;
    let body = json!({"stream": "live/a", "url": format!("ws://127.0.0.1:{}/x", free_port()), "retry": "never"});
    let first = order(&lower, body.clone()).await.json()["id"].clone();
    let row = push_is(&lower, "live/a", "stopped").await;
    assert_eq!((&row["id"], &row["attempts"], &row["retry"]), (&first, &json!(1), &json!("never")));
    let second = order(&lower, body).await;
    assert_eq!(second.status, 201);
    assert_ne!(second.json()["id"], first);
    assert_eq!(lower.json("/api/v1/pushes").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_on_demand_rests_while_nobody_watches_and_is_there_at_once_when_somebody_does() {
    let upper = TestNode::start("");
    let list = format!("push: {{list: {{live/a: {{url: {:?}, on_demand: true}}}}}}", target(&upper, "live/a"));
    let lower = TestNode::start(&list);
    publish_clip(lower.url("rtmp", "/live/a"));
    let name = above(&lower, "live/a");
    let live = async || upper.stream(&name).filter(|stream| stream.state == "live");
    let stream = until("the stream to be listed", live).await;
    assert_eq!(stream.tracks, lower.stream("live/a").unwrap().tracks);
    assert_eq!(push_is(&lower, "live/a", "waiting").await["mode"], "on_demand");
    let rests = async || (lower.stream("live/a")?.viewers == 0).then_some(());
    until("the push to be no viewer below", rests).await;

    for round in 0..2 {
        // Nothing comes, and for longer than the limit of silence the two ends only see to it that the other is there.
        let frames = upper.stream(&name).unwrap().frames;
        assert!(round > 0 || frames == 0, "{frames}");
        tokio::time::sleep(Duration::from_secs(if round == 0 { 17 } else { 2 })).await;
        let stream = upper.stream(&name).expect("a push that rests is not lost");
        assert_eq!((stream.frames, stream.cached_bytes, stream.viewers), (frames, 0, 0));

        let asked = Instant::now();
        let mut viewer = Viewer::open(&upper, &name, "").await;
        let mut seen = Continuity::default();
        let video =
            |frame: &culvert_media::Frame| stream.tracks.iter().any(|t| t.id == frame.track && t.kind() == Kind::Video);
        let first = loop {
            let frame = viewer.frame().await.expect("a stream that is watched comes");
            seen.check(&frame);
            if video(&frame) {
                break frame;
            }
        };
        assert!(first.key && asked.elapsed() < Duration::from_secs(1), "{first:?} after {:?}", asked.elapsed());
        while seen.frames < 200 {
            seen.check(&viewer.frame().await.expect("the stream goes on"));
        }
        assert!(seen.widest.millis() <= 42, "{:?}", seen.widest);
        push_is(&lower, "live/a", "live").await;
        assert_eq!(lower.stream("live/a").unwrap().viewers, 1);
        drop(viewer);
        let left = Instant::now();
        push_is(&lower, "live/a", "waiting").await;
        assert!(left.elapsed() > Duration::from_secs(9), "the grace is kept: {:?}", left.elapsed());
        until("the push to be no viewer below", rests).await;
        until("what is cached to be forgotten", async || (upper.stream(&name)?.cached_bytes == 0).then_some(())).await;
    }

    // The source ends while the push rests: the stream above ends with it.
    let closed = request(lower.address(), "DELETE", "/api/v1/streams/live/a", &[]).await;
    assert_eq!(closed.status, 200);
    upper.until_gone(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_on_demand_goes_through_two_levels() {
    let top = TestNode::start("");
    let middle = TestNode::start("");
    let url = target(&middle, "live/a");
    let bottom = TestNode::start(&format!("push: {{list: {{live/a: {{url: {url:?}, on_demand: true}}}}}}"));
    let (at_middle, at_top) = (above(&bottom, "live/a"), format!("{}-m", above(&bottom, "live/a")));
    let url = format!("{}?cid=m", target(&top, &at_middle));
    let made = order(&middle, json!({"stream": at_middle, "url": url, "on_demand": true})).await;
    assert_eq!(made.status, 201, "{}", made.text());
    publish_clip(bottom.url("rtmp", "/live/a"));
    until("the stream to be listed at the top", async || top.stream(&at_top)).await;
    until("the camera to be left alone", async || (bottom.stream("live/a")?.viewers == 0).then_some(())).await;
    let mut viewer = Viewer::open(&top, &at_top, "").await;
    let asked = Instant::now();
    viewer.frame().await.expect("the stream comes");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(bottom.stream("live/a").unwrap().viewers, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_taken_in_each_form() {
    let token = "edge's own token";
    let upper = TestNode::start(&format!(
        "auth: {{users: [{{name: edge, token_sha256: {}, allow: [publish], streams: \"live/**\"}}]}}",
        token_sha256(token)
    ));
    let address = upper.address();
    let escaped = "edge%27s%20own%20token";
    let lower = TestNode::start("");
    publish_clip(lower.url("rtmp", "/live/a"));
    lower.until_live("live/a").await;
    for (url, why) in [
        (format!("ws://{address}{WSPUSH}/live/none"), "401"),
        (format!("ws://{address}{WSPUSH}/live/wrong?token=wrong"), "401"),
        (format!("ws://{address}{WSPUSH}/other/a?token={escaped}"), "403"),
    ] {
        let id = order(&lower, json!({"stream": "live/a", "url": url})).await.json()["id"].clone();
        let row = push_is(&lower, "live/a", "retrying").await;
        assert!(row["error"].as_str().unwrap().contains(why), "{row}");
        assert!(!row.to_string().contains("wrong?token=wrong") && !row.to_string().contains(escaped), "{row}");
        request(lower.address(), "DELETE", &format!("/api/v1/pushes/{id}"), &[]).await;
    }
    for (n, url) in [
        format!("ws://{address}{WSPUSH}/live/0?cid=c&token={escaped}"),
        format!("ws://{escaped}@{address}{WSPUSH}/live/1?cid=c"),
        format!("ws://anybody:{escaped}@{address}{WSPUSH}/live/2?cid=c"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(order(&lower, json!({"stream": "live/a", "url": url})).await.status, 201);
        let stream = upper.until_live(&format!("live/{n}-c")).await;
        assert_eq!(&*stream.publisher.identity.name, "user:edge");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_below_pushes_by_the_token_of_its_link_and_under_its_own_name_only() {
    let upper = TestNode::start(&format!(
        "auth: {{}}\ncascade: {{lowers: {{admit: [{{cid: \"edge-*\", token_sha256: {}}}]}}}}",
        token_sha256("t")
    ));
    let lower = TestNode::start("");
    publish_clip(lower.url("rtmp", "/live/a"));
    lower.until_live("live/a").await;
    let url = |cid: &str| format!("{}?cid={cid}&token=t", target(&upper, "live/a"));
    order(&lower, json!({"stream": "live/a", "url": url("other")})).await;
    let row = push_is(&lower, "live/a", "retrying").await;
    assert!(row["error"].as_str().unwrap().contains("403"), "{row}");
    order(&lower, json!({"stream": "live/a", "url": url("edge-7")})).await;
    upper.until_live("live/a-edge-7").await;
}

/// The head of a push.
fn head(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("an answer's head", socket.read_u8()).await.expect("an answer"));
    }
    String::from_utf8(head).unwrap()
}

/// A pusher that was let in, by hand.
async fn pusher(node: &TestNode, path: &str, more: &str) -> TcpStream {
    let mut socket = TcpStream::connect(node.address()).await.unwrap();
    socket.write_all(head(path, more).as_bytes()).await.unwrap();
    let said = read_head(&mut socket).await;
    assert!(said.starts_with("HTTP/1.1 101"), "{said}");
    assert_eq!(said.contains("culvert.flv"), more.contains("culvert.flv"), "{said}");
    socket
}

/// The next message that is not a ping; None where the server went without a close.
async fn message(socket: &mut TcpStream, decoder: &mut Decoder) -> Option<Message> {
    let mut buffer = [0; 1024];
    loop {
        match decoder.poll_message().expect("the server speaks WebSocket") {
            Some(Message::Ping(_)) => continue,
            Some(message) => return Some(message),
            None => {}
        }
        match soon("a message", socket.read(&mut buffer)).await {
            Ok(n) if n > 0 => decoder.handle_input(&buffer[..n]),
            Ok(_) | Err(_) => return None,
        }
    }
}

async fn closed(mut socket: TcpStream) -> Option<u16> {
    let mut decoder = Decoder::new(Role::Client, 4096);
    loop {
        match message(&mut socket, &mut decoder).await {
            Some(Message::Close(status)) => return status,
            Some(_) => {}
            None => return None,
        }
    }
}

/// Two seconds of the clip as a file.
async fn recording() -> Vec<u8> {
    let node = TestNode::start("");
    publish_clip(node.url("rtmp", "/live/a"));
    node.until_live("live/a").await;
    let mut socket = culvert_tests::view::ask(&node, "/play/live/a.flv", None).await;
    read_head(&mut socket).await;
    let mut flv = vec![0; 200 << 10];
    soon("media", socket.read_exact(&mut flv)).await.unwrap();
    flv
}

#[tokio::test(flavor = "multi_thread")]
async fn any_pusher_is_taken_however_it_cuts_its_messages_and_says_whether_it_is_done() {
    let node = TestNode::start("");
    let flv = recording().await;
    // Pieces of 1,000 bytes in fragments, with an unasked pong and a ping in between; then one message for all.
    for piece in [1000, flv.len()] {
        let mut socket = pusher(&node, &format!("{WSPUSH}/live/x?cid=c1"), "").await;
        for (n, bytes) in flv.chunks(piece).enumerate() {
            let mut frame = ws::encode(Opcode::Binary, bytes, MASK).to_vec();
            frame[0] = match (n % 3, n + 1 == flv.chunks(piece).count()) {
                (0, true) => 0x82,
                (0, false) => 0x02,
                (_, true) | (2, false) => 0x80,
                (_, false) => 0x00,
            };
            socket.write_all(&frame).await.unwrap();
            socket.write_all(&ws::encode(Opcode::Pong, b"", MASK)).await.unwrap();
        }
        socket.write_all(&ws::encode(Opcode::Ping, b"there?", MASK)).await.unwrap();
        let mut decoder = Decoder::new(Role::Client, 4096);
        assert_eq!(message(&mut socket, &mut decoder).await, Some(Message::Pong("there?".into())));
        assert!(node.until_live("live/x-c1").await.frames > 10);
        let mut viewer = Viewer::open(&node, "live/x-c1", "").await;
        viewer.frame().await.unwrap();
        socket.write_all(&ws::close(1000, "", MASK)).await.unwrap();
        assert_eq!(closed(socket).await, Some(1000));
        node.until_gone("live/x-c1").await;
    }

    // On a connection that was used before, and so by the library.
    let mut socket = TcpStream::connect(node.address()).await.unwrap();
    socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
    let said = read_head(&mut socket).await;
    let length: usize =
        said.to_lowercase().split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    soon("a body", socket.read_exact(&mut vec![0; length])).await.unwrap();
    let offer = "Sec-WebSocket-Protocol: other, culvert.flv\r\n";
    socket.write_all(head(&format!("/ctx{WSPUSH}/live/y?cid=c1"), offer).as_bytes()).await.unwrap();
    let said = read_head(&mut socket).await;
    assert!(said.starts_with("HTTP/1.1 101") && said.to_lowercase().contains("protocol: culvert.flv"), "{said}");
    socket.write_all(&ws::encode(Opcode::Binary, &flv, MASK)).await.unwrap();
    let mut decoder = Decoder::new(Role::Client, 4096);
    let told = message(&mut socket, &mut decoder).await;
    assert_eq!(told, Some(Message::Text(r#"{"viewers":false}"#.into())));
    let mut viewer = Viewer::open(&node, "live/y-c1", "").await;
    viewer.frame().await.unwrap();
    assert_eq!(message(&mut socket, &mut decoder).await, Some(Message::Text(r#"{"viewers":true}"#.into())));
    // Closed by the API.
    request(node.address(), "DELETE", "/api/v1/streams/live/y-c1", &[]).await;
    assert_eq!(closed(socket).await, Some(1001));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_that_may_not_is_refused_before_the_101() {
    let node = TestNode::start("");
    let taken = publish_clip(node.url("rtmp", "/live/taken-c1"));
    node.until_live("live/taken-c1").await;
    let path = |rest: &str| format!("{WSPUSH}/{rest}");
    for (path, more, status) in [
        (path("live/a"), "", 400),
        (path("live/a?cid=a%2Fb"), "", 400),
        (path("live//a?cid=c"), "", 400),
        (path("?cid=c"), "", 400),
        (path("live/a?cid=c"), "Origin: http://127.0.0.1\r\n", 403),
        (path("live/a?cid=c"), "Origin: null\r\n", 403),
        // Forwarded by a proxy on this machine, for anybody.
        (path("live/a?cid=c"), "X-Forwarded-For: 203.0.113.1\r\n", 403),
        (path("live/taken?cid=c1"), "", 409),
        (format!("/peer/c1{WSPUSH}/live/a?cid=c"), "", 404),
    ] {
        let text = head(&path, more);
        let answer = soon("an answer", exchange(node.address(), text.as_bytes(), false)).await;
        assert_eq!(answer.status, status, "{path} {more}: {}", answer.text());
        assert_eq!(answer.json()["status"], status);
        // And by the library.
        let text = format!("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n{text}");
        let answer = soon("answers", exchange_second(&node, &text)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {more}: {answer}");
    }
    assert_eq!(node.get(&path("live/a?cid=c")).await.status, 426);
    let old = head(&path("live/a?cid=c"), "").replace("Version: 13", "Version: 8");
    assert_eq!(exchange(node.address(), old.as_bytes(), false).await.status, 400);
    taken.abort();
    let faults = node.node.hub.figures().faults();
    for kind in ["bad-cid", "bad-name", "origin", "no-upgrade", "bad-upgrade"] {
        assert!(faults.iter().any(|(protocol, what, _)| (*protocol, *what) == ("ws-flv", kind)), "{kind}: {faults:?}");
    }
}

/// The head of the second answer on one connection.
async fn exchange_second(node: &TestNode, text: &str) -> String {
    let mut socket = TcpStream::connect(node.address()).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    let first = read_head(&mut socket).await;
    let length: usize =
        first.to_lowercase().split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    socket.read_exact(&mut vec![0; length]).await.unwrap();
    read_head(&mut socket).await
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_closes_the_push_that_sent_it_and_is_counted() {
    let node = TestNode::start("");
    let flv = recording().await;
    let binary = |bytes: &[u8]| ws::encode(Opcode::Binary, bytes, MASK).to_vec();
    // A tag that says it has 16 MiB, behind a header.
    let lying = [&flv[..13], &[9, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0]].concat();
    let too_large = [&[0x82, 0xff][..], &(17u64 << 20).to_be_bytes(), &[0; 4]].concat();
    for (bytes, status) in [
        (binary(b"this is not FLV at all"), 1007),
        (binary(&lying), 1007),
        (ws::encode(Opcode::Text, b"hello", MASK).to_vec(), 1003),
        // The doubled headers of old peers, and other things that no frame is.
        (vec![0x82, 0x00], 1002),
        (vec![0xff; 20], 1002),
        (too_large, 1009),
    ] {
        let mut socket = pusher(&node, &format!("{WSPUSH}/live/bad?cid=c1"), "").await;
        socket.write_all(&bytes).await.unwrap();
        assert_eq!(closed(socket).await, Some(status), "{:02x?}", &bytes[..bytes.len().min(20)]);
        node.until_gone("live/bad-c1").await;
    }
    let faults: u64 = node.node.hub.figures().faults().iter().filter(|(p, ..)| *p == "ws-flv").map(|(.., n)| n).sum();
    assert_eq!(faults, 6);

    // One that breaks off without a word, and one that says nothing at all.
    let mut socket = pusher(&node, &format!("{WSPUSH}/live/cut?cid=c1"), "").await;
    socket.write_all(&binary(&flv)).await.unwrap();
    node.until_live("live/cut-c1").await;
    drop(socket);
    node.until_gone("live/cut-c1").await;
    let socket = pusher(&node, &format!("{WSPUSH}/live/mute?cid=c1"), "Sec-WebSocket-Protocol: culvert.flv\r\n").await;
    assert_eq!(closed(socket).await, Some(1008));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_stream_reach_the_upper() {
    let upper = TestNode::start("");
    let lower = TestNode::start(&format!("push: {{list: {{live/a: {:?}}}}}", target(&upper, "live/a")));
    // Stamps beyond 2^31 ms, as after 25 days.
    publish(lower.url("rtmp", "/live/a"), Script::restamped(|ms| ms + 2_147_482_000));
    let name = above(&lower, "live/a");
    upper.until_live(&name).await;
    watch(&upper, &name, 200).await;
}

/// Pushes to this URL as `culvert camera` does, with an authority that the test made.
async fn film(url: String, authority: std::path::PathBuf, mut feed: impl Feed) -> Result<(), PushError> {
    let (url, cid) = (url.parse().unwrap(), Cid::parse("camera").unwrap());
    let trust = tls::client(Some(&authority)).unwrap();
    let dial = DialOptions { tls: Some(trust), ..DialOptions::default() };
    let silence = Duration::from_secs(5);
    let push = Push { url: &url, cid: &cid, dial: &dial, token: None, silence, on_demand: false, before_tags: &[] };
    culvert_live::push(&push, &mut feed, |news| assert_eq!(news, PushNews::Begun { tells: true })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_goes_through_tls_and_through_a_gateway_with_a_context_path() {
    let node = TestNode::start("tls: {self_signed: true}");
    let url = node.url("ws", &format!("{WSPUSH}/live/tls"));
    assert!(url.starts_with("wss://"), "{url}");
    let pushing = tokio::spawn(film(url, node.certificate(), Script::clip(|_, frame| Some(frame))));
    node.until_live("live/tls-camera").await;
    node.stream("live/tls-camera").unwrap().publisher.cancel();
    let ended = soon("the push to end", pushing).await.unwrap();
    assert!(matches!(ended, Err(PushError::Closed(Some(1001)))), "{ended:?}");

    // What a gateway forwards is on behalf of nobody known, so a token is needed.
    let token = "secret";
    let auth = format!("auth: {{users: [{{name: u, token_sha256: {}, allow: [publish, play]}}]}}", token_sha256(token));
    let node = TestNode::start(&auth);
    let Some(nginx) = Nginx::before(node.address(), "/ctx").start("a_push_goes_through_a_gateway").await else {
        return;
    };
    let url = nginx.url("wss", &format!("{WSPUSH}/live/gate?token={token}"));
    tokio::spawn(film(url, nginx.certificate().to_path_buf(), Script::clip(|_, frame| Some(frame))));
    node.until_live("live/gate-camera").await;
    let mut viewer = Viewer::open(&node, "live/gate-camera", "?token=secret").await;
    let mut seen = Continuity::default();
    while seen.frames < 100 {
        seen.check(&viewer.frame().await.expect("the stream goes on"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_too_slow_gets_what_it_can_decode_and_one_that_stands_still_is_left() {
    let upper = TestNode::start("limits: {stall_timeout: 30s}");
    let pipe = Pipe::to(upper.address());
    let url = format!("ws://{}{WSPUSH}/live/a?cid=c", pipe.address());
    // The kernel may take a whole burst of 64 KiB, and then nothing until most of it has gone.
    let lower = TestNode::start(&format!("limits: {{stall_timeout: 8s}}\npush: {{list: {{live/a: {url:?}}}}}"));
    publish_clip(lower.url("rtmp", "/live/a"));
    let tracks = upper.until_live("live/a-c").await.tracks;
    let mut viewer = Viewer::open(&upper, "live/a-c", "").await;
    viewer.frame().await.unwrap();
    // A third of what the clip needs.
    let needed = lower.stream("live/a").unwrap();
    let rate = async || lower.stream("live/a").map(|s| s.bits_per_second).filter(|bits| *bits > 0);
    let bits = until("the bit rate to be known", rate).await;
    pipe.set_rate(Direction::Up, Some(bits / 8 / 3));
    let video = tracks.iter().find(|t| t.kind() == Kind::Video).unwrap().id;
    let (mut last, mut skips, begun) = (None, 0, Instant::now());
    while begun.elapsed() < Duration::from_secs(12) {
        let Some(frame) = viewer.frame().await else {
            panic!("the stream goes on, with gaps: {}", lower.json("/api/v1/pushes").await);
        };
        if frame.track != video {
            continue;
        }
        if last.is_some_and(|last| (frame.dts - last).millis() > 60) {
            assert!(frame.key, "what was skipped ends at a key frame: {frame:?}");
            skips += 1;
        }
        last = Some(frame.dts);
    }
    assert!(skips > 0, "{needed:?}");
    // Nothing is queued without bound: what comes now is not old.
    let newest = lower.node.hub.info(&culvert_tests::node::stream_name("live/a")).unwrap();
    let session = lower.node.hub.sessions().into_iter().find(|s| s.protocol == "push").unwrap();
    let behind = lower.node.hub.behind(&session).unwrap();
    assert!(behind.millis() < 4000, "{behind:?} behind: {newest:?}");

    pipe.blackhole(true);
    until("the push to give up", async || {
        let rows = lower.json("/api/v1/pushes").await;
        rows["items"][0]["error"].as_str()?.contains("did nothing for 8 s").then_some(())
    })
    .await;
}
