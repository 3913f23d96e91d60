//! Old peers, m7s v4 with the plugin erwscascade (OLD_PEERS.md): captures of theirs replayed against our upper, and our lower under an
//! upper of theirs. What the original gets wrong (section 5 there) has a test of its own where it is ours to get right.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use culvert_media::{Frame, Tracks};
use culvert_node::camera::{AudioChoice, VideoChoice};
use culvert_tests::cascade::{below, until_linked};
use culvert_tests::http::{exchange, request};
use culvert_tests::media::{Script, into_hub, publish_clip, recorded};
use culvert_tests::node::token_sha256;
use culvert_tests::old::{OldLower, OldUpper, capture, push, push_on, receive_push, redirected};
use culvert_tests::view::{Viewer, by_websocket};
use culvert_tests::wait::{soon, until};
use culvert_tests::{Ffmpeg, TestNode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

const OLD: &str = "cascade: {lowers: {old_peers: true}}";

async fn linked(upper: &TestNode, cid: &str) -> Value {
    until(&format!("{cid} to be linked"), async || {
        let peer = upper.get(&format!("/api/v1/peers/{cid}")).await;
        (peer.status == 200 && peer.json()["linked"] == true).then(|| peer.json())
    })
    .await
}

/// Frames without what a way through a node may change: when they are.
type Body<'a> = (u32, bool, i64, usize, &'a [u8]);

fn bodies(frames: &[Frame]) -> Vec<Body<'_>> {
    let late = |f: &Frame| f.pts.millis() - f.dts.millis();
    frames.iter().map(|f| (f.track.0.into(), f.key, late(f), f.data.len(), f.data.as_ref())).collect()
}

/// All that comes out of a stream until it ends.
async fn watched(mut viewer: Viewer) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = viewer.frame().await {
        frames.push(frame);
    }
    frames
}

/// Pieces of a length that looks random and is the same each time.
fn random(mut seed: u64) -> impl FnMut() -> usize {
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % 3000 + 1
    }
}

async fn replays(name: &str, stream: &str) {
    let upper = TestNode::start(&format!("{OLD}\nlimits: {{wait_for_stream: 10s, max_lag: 60s}}"));
    let (wire, flv) = (capture(&format!("{name}.c2s.bin")), capture(&format!("{name}.flv")));
    let (_, expected): (Tracks, Vec<Frame>) = recorded(&flv);
    assert!(expected.len() > 100);
    let mut seeds = 1..;
    let pieces: [Box<dyn FnMut() -> usize + Send>; 5] = [
        Box::new(|| usize::MAX),
        Box::new(|| 1),
        Box::new(random(seeds.next().unwrap())),
        Box::new(random(seeds.next().unwrap())),
        Box::new(|| 7),
    ];
    for (n, mut pieces) in pieces.into_iter().enumerate() {
        let viewer = tokio::spawn({
            let address = upper.address();
            let path = format!("GET /play/{stream}.flv HTTP/1.1\r\nHost: {address}\r\n\r\n");
            async move {
                let mut socket = TcpStream::connect(address).await.unwrap();
                socket.write_all(path.as_bytes()).await.unwrap();
                watched(Viewer::begin(socket).await).await
            }
        });
        // So much that the stream is known and the first key frame is the newest; the rest once somebody watches.
        let (first, rest) = wire.split_at(30_000);
        let mut socket = push(upper.address(), first, &mut pieces).await;
        until("a viewer", async || (upper.stream(stream)?.viewers == 1).then_some(())).await;
        push_on(&mut socket, rest, pieces).await;
        // What is left unread would make a reset of its end, and take back what is on its way.
        let mut hello = [0; 512];
        assert!(socket.read(&mut hello).await.unwrap() > 100);
        drop(socket);
        let got = soon("the stream to end", viewer).await.unwrap();
        let (got, expected) = (bodies(&got), bodies(&expected));
        let differs = got.iter().zip(&expected).position(|(got, expected)| got != expected);
        let brief = |list: &[Body<'_>]| {
            let at = differs.unwrap_or(list.len()).saturating_sub(2);
            list[at..].iter().take(5).map(|(track, key, late, len, _)| (*track, *key, *late, *len)).collect::<Vec<_>>()
        };
        assert!(
            differs.is_none() && got.len() == expected.len(),
            "{name}, way {n} to cut it: {} of {} frames, {differs:?}: {:?} for {:?}",
            got.len(),
            expected.len(),
            brief(&got),
            brief(&expected)
        );
        upper.until_gone(stream).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_push_comes_out_tag_for_tag_however_it_is_cut() {
    replays("h264_aac_whole", "live/test-test-c001").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_push_of_h265_and_g711_comes_out_tag_for_tag_however_it_is_cut() {
    replays("h265_pcma", "live/hevc-test-c001").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_pushes_decode_without_an_error() {
    let Some(ffmpeg) = Ffmpeg::nine("captured_pushes_decode_without_an_error") else { return };
    let upper = TestNode::start(&format!("{OLD}\nlimits: {{wait_for_stream: 10s, max_lag: 60s}}"));
    for (name, stream) in [("h264_aac_whole", "live/test-test-c001"), ("h265_pcma", "live/hevc-test-c001")] {
        let wire = capture(&format!("{name}.c2s.bin"));
        let played = ffmpeg.play_from(stream, "flv", async |input| {
            let path = format!("/play/{stream}.flv");
            let pushing = async {
                let (first, rest) = wire.split_at(30_000);
                let mut socket = push(upper.address(), first, || 4096).await;
                until("a viewer", async || (upper.stream(stream)?.viewers == 1).then_some(())).await;
                push_on(&mut socket, rest, || 4096).await;
                // The player needs the end of the stream to be sure of its last picture.
            };
            tokio::join!(by_websocket(&upper, &path, input), pushing);
        });
        played.await.assert_decoded(name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_lower_is_the_same_platform_wherever_its_bytes_are_cut() {
    let upper = TestNode::start(OLD);
    for (name, cid, shown) in [
        ("register_proxy", "test-c001", ("pc-test", "c001")),
        ("reregister_sn2", "test-c001", ("pc-test", "c001")),
        ("register_nocid_uuid", "a38367ec-fdfc-4678-85f9-66c77b2c26cf", ("a38367ec-fdfc-4678-85f9-66c77b2c26cf", "")),
    ] {
        let wire = capture(&format!("{name}.c2s.bin"));
        for cut in 1..wire.len() {
            let mut socket = TcpStream::connect(upper.address()).await.unwrap();
            socket.set_nodelay(true).unwrap();
            socket.write_all(&wire[..cut]).await.unwrap();
            if cut % 16 == 0 {
                // Most cuts are seen as such by the reader; of some that is made sure.
                sleep(Duration::from_millis(2)).await;
            }
            socket.write_all(&wire[cut..]).await.unwrap();
            let mut hello = [0; 12];
            socket.read_exact(&mut hello).await.unwrap();
            assert_eq!(&hello, b"HTTP/1.1 101", "{name} cut at {cut}");
            if cut % 50 == 1 || cut == wire.len() - 1 {
                let look = async || {
                    let peer = upper.get(&format!("/api/v1/peers/{cid}")).await;
                    let peer = (peer.status == 200).then(|| peer.json())?;
                    let serial = peer["serial"].as_str().unwrap_or_default();
                    (peer["name"] == shown.0 && serial == shown.1 && peer["carrier"] == "m7s").then_some(())
                };
                until(&format!("{name} cut at {cut} to be shown as it is"), look).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_an_old_lower_are_answered_one_by_one_and_never_mixed_up() {
    let upper = TestNode::start(OLD);
    let mut lower = OldLower::dial(upper.address(), "c1").await.unwrap();
    lower.introduce("c1", "gate", "s1").await;
    let busy = Arc::new(Mutex::new(0));
    tokio::spawn(lower.serve(move |asked| {
        let mut busy = busy.lock().unwrap();
        *busy += 1;
        Some(if asked.url.starts_with("/echo") { asked.body.clone() } else { b"[]".to_vec() })
    }));
    linked(&upper, "c1").await;
    let address = upper.address();
    let calls = (0..48u32).map(|n| {
        tokio::spawn(async move {
            let body: Vec<u8> = (0..30_000u32).map(|i| (i.wrapping_mul(n + 1) >> 3) as u8).collect();
            let head = format!(
                "POST /peer/c1/echo?n={n} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let answer = exchange(address, &[head.as_bytes(), &body].concat(), false).await;
            (answer.status, answer.body == body)
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(soon("an answer", call).await.unwrap(), (200, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_lower_is_asked_for_its_streams_and_its_link_is_shown_for_what_it_is() {
    let upper = TestNode::start(OLD);
    let mut lower = OldLower::dial(upper.address(), "c1").await.unwrap();
    lower.introduce("c1", "gate", "s1").await;
    tokio::spawn(lower.serve(|asked| {
        let list = br#"[{"Source":"api","StreamPath":"live/test"},{"Source":"api","StreamPath":"../bad"}]"#;
        (asked.url == "/erwscascade/api/streamlist" && asked.method == "GET").then(|| list.to_vec())
    }));
    linked(&upper, "c1").await;
    let streams = until("the lower's streams", async || {
        let streams = upper.json("/api/v1/streams?peer=c1").await;
        (streams["items"].as_array()?.len() == 1).then_some(streams)
    })
    .await;
    assert_eq!((&streams["items"][0]["name"], &streams["items"][0]["state"]), (&"live/test".into(), &"live".into()));
    let peer = upper.json("/api/v1/peers/c1").await;
    assert_eq!((&peer["carrier"], &peer["name"], &peer["serial"]), (&"m7s".into(), &"gate".into(), &"s1".into()));
    // What cannot go through such a link says so.
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let refused = request(upper.address(), "GET", "/peer/c1/jessica/live/test.flv", &upgrade).await;
    assert_eq!(refused.status, 501, "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_lower_that_is_silent_late_or_gone_is_told_by_its_status_and_blocks_nobody() {
    let upper = TestNode::start("cascade: {lowers: {old_peers: true}, request_timeout: 500ms}");
    let mut lower = OldLower::dial(upper.address(), "c1").await.unwrap();
    let address = upper.address();
    let get = |path: &'static str| tokio::spawn(async move { request(address, "GET", path, &[]).await });
    let asked = lower.asked().await.unwrap();
    assert_eq!(asked.url, "/erwscascade/api/streamlist");
    lower.send(asked.sn, 2, b"[]").await;

    let (hung, next) = (get("/peer/c1/hangs"), get("/peer/c1/next"));
    let first = soon("a request", lower.asked()).await.unwrap();
    assert!(timeout(Duration::from_millis(200), lower.asked()).await.is_err(), "one at a time");
    let second = soon("the next", lower.asked()).await.unwrap();
    let (answered, silent) = if first.url == "/hangs" { (next, hung) } else { (hung, next) };
    assert_eq!(soon("a 504", silent).await.unwrap().status, 504);
    // The late answer is nobody's, nor are one of a number that was never asked, and nonsense.
    lower.send(first.sn, 2, b"late").await;
    lower.send(4711, 2, b"unasked").await;
    lower.say("{\"sn\":\"x\"}".into()).await;
    lower.send(second.sn, 2, b"right").await;
    lower.send(second.sn, 2, b"twice").await;
    // It may have waited too long behind the one that hung.
    let answer = soon("an answer", answered).await.unwrap();
    assert!(answer.status == 200 && answer.text() == "right" || answer.status == 504, "{answer:?}");

    let (broken, third) = (get("/peer/c1/broken"), soon("a request", lower.asked()).await.unwrap());
    lower.say(format!("{{\"sn\":{},\"type\":2,\"pad\":\"no base64!\"}}", third.sn)).await;
    assert_eq!(soon("a 502", broken).await.unwrap().status, 502);

    let (lost, _) = (get("/peer/c1/lost"), soon("a request", lower.asked()).await.unwrap());
    drop(lower);
    assert_eq!(soon("a 502", lost).await.unwrap().status, 502);
    until("the loss to be shown", async || (upper.json("/api/v1/peers/c1").await["linked"] == false).then_some(()))
        .await;
    assert_eq!(request(address, "GET", "/peer/c1/x", &[]).await.status, 502);
    assert_eq!(request(address, "GET", "/peer/c2/x", &[]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_of_an_old_lower_ends_its_link_and_nothing_else() {
    let upper = TestNode::start(OLD);
    let lower = OldLower::dial(upper.address(), "other").await.unwrap();
    tokio::spawn(lower.serve(|_| Some(b"[]".to_vec())));
    let mut socket = TcpStream::connect(upper.address()).await.unwrap();
    let head = "GET /erwscascade/wsocket/register%3Fcid=big HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    linked(&upper, "big").await;
    // A frame that declares 2 GiB.
    socket.write_all(&[0x81, 0xff, 0, 0, 0, 0, 0x80, 0, 0, 0, 1, 2, 3, 4]).await.unwrap();
    let mut rest = Vec::new();
    soon("the end of the link", socket.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.windows(4).any(|four| four[0] == 0x88 && four[2..] == 1009_u16.to_be_bytes()), "closed as too big");
    assert_eq!(request(upper.address(), "GET", "/peer/other/x", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_links_with_one_cid_the_newer_is_the_one_whatever_ends_when() {
    let upper = TestNode::start(OLD);
    let mut pick = random(7);
    let mut links: Vec<(usize, OldLower)> = Vec::new();
    let mut newest = None;
    let mut made = 0;
    for step in 0..1000 {
        if links.is_empty() || pick().is_multiple_of(2) {
            made += 1;
            let mut lower = OldLower::dial(upper.address(), "c1").await.unwrap();
            lower.introduce("c1", &format!("n{made}"), "").await;
            links.push((made, lower));
            newest = Some(made);
        } else {
            let (which, lower) = links.swap_remove(pick() % links.len());
            // With a farewell, or without.
            if pick().is_multiple_of(2) {
                lower.close().await
            } else {
                drop(lower)
            }
            if newest == Some(which) {
                newest = None;
            }
        }
        if step % 20 == 19 {
            let what = format!("step {step}: {newest:?} to be the one that is linked");
            until(&what, async || {
                let peer = upper.get("/api/v1/peers/c1").await.json();
                let right = match newest {
                    Some(newest) => peer["linked"] == true && peer["name"] == format!("n{newest}"),
                    None => peer["linked"] == false,
                };
                right.then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_peers_are_off_by_default_and_get_nobody_else_s_id_or_name() {
    let off = TestNode::start("");
    assert_eq!(OldLower::dial(off.address(), "c1").await.err(), Some(401));

    let keyed = format!(
        "cascade: {{lowers: {{admit: [{{cid: \"keyed-*\", token_sha256: {}}}], old_peers: [{{cid: \"c*\"}}, {{cid: \"far\", from: [10.0.0.0/8]}}, \
         {{cid: \"keyed-2\"}}]}}}}\nauth: {{users: []}}",
        token_sha256("secret")
    );
    let upper = TestNode::start(&keyed);
    for (cid, status) in
        [("c1", None), ("other", Some(401)), ("far", Some(401)), ("keyed-1", Some(403)), ("keyed-2", Some(403))]
    {
        assert_eq!(OldLower::dial(upper.address(), cid).await.err(), status, "{cid}");
    }
    let with_origin = "GET /erwscascade/wsocket/register%3Fcid=c1 HTTP/1.1\r\nHost: h\r\nOrigin: http://h\r\nUpgrade: websocket\r\n\
                       Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(exchange(upper.address(), with_origin.as_bytes(), false).await.status, 403);

    let wire = capture("h264_aac_whole.c2s.bin");
    for (target, live) in [
        ("live/a?cid=c1", Some("live/a-c1")),
        ("live/a?cid=other", None),
        ("live/a?cid=far", None),
        ("live/a?cid=keyed-1", None),
        // Of the ids that end the name one belongs to somebody.
        ("live/a-keyed?cid=c-1", None),
        ("live/keyed-a?cid=c1", Some("live/keyed-a-c1")),
    ] {
        let wire = redirected(&wire, &format!("/erwscascade/wspush/{target}"));
        let mut socket = push(upper.address(), &wire, || 4096).await;
        match live {
            Some(stream) => drop(upper.until_live(stream).await),
            None => {
                let mut hello = [0; 12];
                socket.read_exact(&mut hello).await.unwrap();
                assert_eq!(&hello, b"HTTP/1.1 401", "{target}");
            }
        }
    }
}

/// One that linked by the admin token has no row of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_linked_by_a_node_of_ours_is_not_pushed_by_an_old_peer() {
    let upper = TestNode::named("up", 0, "cascade: {lowers: {old_peers: true}}\nauth: {users: []}");
    let admin = upper.node.identity.admin_token.reveal();
    let link = format!("{{url: \"ws://{}\", token: \"{admin}\"}}", upper.address());
    let _lower = TestNode::named("c1", 0, &format!("cascade: {{uppers: [{link}]}}"));
    until_linked(&upper, "c1", 1).await;
    let wire = capture("h264_aac_whole.c2s.bin");
    for (target, is_taken) in [("live/a?cid=c1", true), ("live/a?cid=c2", false)] {
        let wire = redirected(&wire, &format!("/erwscascade/wspush/{target}"));
        let mut socket = push(upper.address(), &wire, || 4096).await;
        if is_taken {
            let mut hello = [0; 12];
            socket.read_exact(&mut hello).await.unwrap();
            assert_eq!(&hello, b"HTTP/1.1 401", "{target}");
        } else {
            upper.until_live("live/a-c2").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_old_lower_is_pushed_while_somebody_watches_and_stopped_after() {
    let upper = TestNode::start("cascade: {lowers: {old_peers: true}, on_demand: {grace: 1s}}");
    let address = upper.address();
    // One that is half-open, and goes when the next has come.
    let mut replaced = OldLower::dial(address, "test-c001").await.unwrap();
    linked(&upper, "test-c001").await;
    let mut lower = OldLower::dial(address, "test-c001").await.unwrap();
    while soon("the end of the older link", replaced.asked()).await.is_some() {}
    lower.introduce("test-c001", "pc", "").await;
    let asked = Arc::new(Mutex::new(Vec::<String>::new()));
    let heard = asked.clone();
    let pushing: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>> = Arc::default();
    let runtime = tokio::runtime::Handle::current();
    tokio::spawn(lower.serve(move |request| {
        heard.lock().unwrap().push(request.url.clone());
        if request.url.starts_with("/erwscascade/api/push?") {
            let wire = capture("h264_aac_whole.c2s.bin");
            *pushing.lock().unwrap() = Some(runtime.spawn(async move {
                let socket = push(address, &wire, || 8192).await;
                std::future::pending::<()>().await;
                drop(socket);
            }));
            return Some(b"ok\n".to_vec());
        }
        if request.url.starts_with("/api/stop/push?") {
            if let Some(pushing) = pushing.lock().unwrap().take() {
                pushing.abort();
            }
            return Some(b"ok\n".to_vec());
        }
        Some(b"null".to_vec())
    }));
    linked(&upper, "test-c001").await;
    let orders = |asked: &Arc<Mutex<Vec<String>>>| -> Vec<String> {
        asked.lock().unwrap().iter().filter(|url| url.contains("push")).cloned().collect()
    };
    for round in 1..=2 {
        let (mut one, mut other) = tokio::join!(
            Viewer::open(&upper, "live/test-test-c001", ""),
            Viewer::open(&upper, "live/test-test-c001", "")
        );
        one.frame().await.unwrap();
        other.frame().await.unwrap();
        assert_eq!(orders(&asked).len(), round * 2 - 1, "one push for both: {:?}", orders(&asked));
        drop((one, other));
        let left = Instant::now();
        until("the push to be stopped", async || (orders(&asked).len() == round * 2).then_some(())).await;
        assert!((0.9..8.0).contains(&left.elapsed().as_secs_f64()), "{:?}", left.elapsed());
        upper.until_gone("live/test-test-c001").await;
    }
    let orders = orders(&asked);
    // The lower knows a push by its target as it was given, each round by another.
    for (n, orders) in orders.chunks(2).enumerate() {
        let target = format!("ws://{address}/erwscascade/wspush/live/test?cid=test-c001%26n={}", n + 1);
        assert_eq!(orders[0], format!("/erwscascade/api/push?streamPath=live/test&target={target}"));
        assert_eq!(orders[1], format!("/api/stop/push?url={target}"));
    }

    // What the lower says when it has no such stream is what the viewer hears.
    let none = upper.get("/play/live/none-test-c002.flv").await;
    assert_eq!(none.status, 404, "{}", none.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_of_ours_answers_an_old_upper_in_the_order_of_its_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let lower = TestNode::named("edge1", 0, &below(listener.local_addr().unwrap(), "", ""));
    into_hub(&lower, "live/a", Script::clip(|_, frame| Some(frame)));
    let mut upper = OldUpper::accept(&listener).await;
    let (_, info) = upper.heard(0).await;
    let info: Value = serde_json::from_slice(&info).unwrap();
    assert_eq!(info["cid"], "edge1");
    let mut asked = Vec::new();
    for n in 0..20 {
        // Slow, quick, refused, none at all.
        let url = ["/api/v1/streams", "/healthz", "/api/v1/config/../x", "http://10.0.0.1/x", "/none"][n % 5];
        asked.push((upper.ask("GET", url, b"").await, url));
    }
    for (sn, url) in asked {
        let (answered, body) = upper.heard(2).await;
        let body = String::from_utf8(body).unwrap();
        assert_eq!(answered, sn, "{url}: {body}");
        let expected = match url {
            "/api/v1/streams" => "\"items\"",
            "http://10.0.0.1/x" => "only paths of this node",
            "/healthz" => "ok",
            "/none" => "cascade.allow",
            _ => "\"detail\"",
        };
        assert!(body.contains(expected), "{url}: {body}");
    }
    let uppers = lower.json("/api/v1/uppers").await;
    assert_eq!((&uppers["items"][0]["carrier"], &uppers["items"][0]["linked"]), (&"m7s".into(), &true.into()));
    // An answer without end is no answer: something is said in time.
    let begun = Instant::now();
    let sn = upper.ask("GET", "/play/live/a.flv", b"").await;
    let (answered, body) = upper.heard(2).await;
    assert!(answered == sn && begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(String::from_utf8_lossy(&body).contains("in time"), "{} bytes", body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_ours_is_read_by_an_old_upper_whatever_is_in_it() {
    for (audio, video) in [
        (AudioChoice::Aac, Some(VideoChoice::H264)),
        (AudioChoice::Pcma, Some(VideoChoice::H265)),
        (AudioChoice::Aac, None),
        (AudioChoice::None, Some(VideoChoice::H264)),
    ] {
        let what = format!("{audio:?} {video:?}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("ws://{}/erwscascade/wspush/live/a", listener.local_addr().unwrap());
        let lower = TestNode::named("edge1", 0, &format!("push: {{list: {{live/a: \"{target}\"}}}}"));
        into_hub(&lower, "live/a", Script::of(video, audio));
        let (head, flv) = receive_push(&listener, 20_000).await;
        assert!(head.starts_with("GET /erwscascade/wspush/live/a?cid=edge1 HTTP/1.1\r\n"), "{head}");
        let flags = u8::from(video.is_some()) | if audio == AudioChoice::None { 0 } else { 4 };
        assert_eq!(flv[..13], [b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0], "{what}");
        assert_eq!(flv[13], 18, "{what}: the metadata comes first");
        let (tracks, frames) = recorded(&flv);
        let kinds = usize::from(video.is_some()) + usize::from(audio != AudioChoice::None);
        assert_eq!((tracks.iter().count(), frames.len() > 5), (kinds, true), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_that_differ_and_tags_that_lie_end_the_push_and_nothing_else() {
    let upper = TestNode::start(OLD);
    let _other = publish_clip(upper.url("rtmp", "/live/other"));
    upper.until_live("live/other").await;
    let wire = capture("h264_aac_whole.c2s.bin");
    // The first bare header is at 619 (the capture's listing): another length in the frame behind it, and a tag whose length lies.
    let mut differs = wire.clone();
    differs[691 + 6 + 2 + 1] ^= 1;
    let mut lies = wire.clone();
    for byte in &mut lies[619 + 12 + 1..619 + 12 + 4] {
        *byte ^= 0xff;
    }
    for (what, wire) in [("differs", differs), ("lies", lies), ("empty", empty_messages(&wire))] {
        let mut socket = push(upper.address(), &wire, || 4096).await;
        let mut rest = Vec::new();
        // What it wrote meanwhile may reset the connection.
        drop(
            timeout(Duration::from_secs(15), socket.read_to_end(&mut rest))
                .await
                .unwrap_or_else(|_| panic!("{what}: still open")),
        );
    }
    assert!(upper.stream("live/other").is_some_and(|stream| stream.state == "live"));
}

/// The head of a push, and messages with nothing in them.
fn empty_messages(wire: &[u8]) -> Vec<u8> {
    let end = wire.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let empty = [0x82, 0x80, 1, 2, 3, 4];
    [&wire[..end], &empty[..], &empty, &empty].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_of_old_find_what_they_called() {
    let upper = TestNode::start(OLD);
    let mut lower = OldLower::dial(upper.address(), "test-c001").await.unwrap();
    lower.introduce("test-c001", "pc-test", "c001").await;
    tokio::spawn(lower.serve(|asked| {
        Some(match asked.url.as_str() {
            "/erwscascade/api/streamlist" => b"[{\"Source\":\"api\",\"StreamPath\":\"live/test\"}]".to_vec(),
            url => format!("{} {url} {}", asked.method, String::from_utf8_lossy(&asked.body)).into_bytes(),
        })
    }));
    let get = async |path: &str| {
        let answer = upper.get(path).await;
        (answer.status, answer.text().trim_end().to_string())
    };
    let list = r#"[{"cid":"test-c001","name":"pc-test","serial":"c001"}]"#.to_string();
    until("the platform to be named", async || (get("/erwscascade/api/clientlist").await.1 == list).then_some(()))
        .await;
    let wrapped = format!(r#"{{"code":0,"data":{list},"msg":"ok"}}"#);
    assert_eq!(get("/ErWsCascade/api/clientlist?format=json").await, (200, wrapped));
    assert_eq!(get("/erwscascade/api/streamlist").await, (200, "[]".into()));
    let below = r#"[{"Source":"api","StreamPath":"live/test"}]"#.to_string();
    assert_eq!(get("/erwscascade/api/streamlist?cid=test-c001").await, (200, below));
    // The seed's examples: SDP through the proxy, and a push command through it.
    let sdp = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\n";
    let head = format!(
        "POST /erwscascade/httpproxy/?httpPath=webrtc/play/njtv/glgc-ts?cid=test-c001 HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
        sdp.len()
    );
    let answer = exchange(upper.address(), head.as_bytes(), false).await;
    assert_eq!((answer.status, answer.text()), (200, format!("POST /webrtc/play/njtv/glgc-ts {sdp}")));
    for target in ["ws://h:1/erwscascade/wspush/njtv/glgc", "rtmp://h/njtv/glgc"] {
        let pushed = format!("/erwscascade/api/push?streamPath=njtv/glgc&target={target}");
        let answer = get(&format!("/erwscascade/httpproxy/?cid=test-c001&httpPath={pushed}")).await;
        assert_eq!(answer, (200, format!("GET {pushed}")), "{target}");
    }
    assert_eq!(get("/erwscascade/httpproxy/?httpPath=/x").await, (400, "invalid cid".into()));
    assert_eq!(get("/erwscascade/httpproxy/?cid=nobody&httpPath=/x").await.0, 404);
    assert_eq!(upper.get("/erwscascade/httpproxy?cid=a").await.status, 301);

    // A push by command, and its end.
    into_hub(&upper, "live/a", Script::clip(|_, frame| Some(frame)));
    upper.until_live("live/a").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("ws://{}/erwscascade/wspush/live/a", listener.local_addr().unwrap());
    let push = format!("/erwscascade/api/push?streamPath=live/a&target={target}");
    assert_eq!(get(&push).await, (200, "ok".into()));
    assert_eq!(get(&push).await, (200, "ok".into()));
    drop(receive_push(&listener, 1000).await);
    let pushes = upper.json("/api/list/push").await;
    assert_eq!((&pushes[0]["StreamPath"], &pushes[0]["RemoteURL"]), (&"live/a".into(), &target.as_str().into()));
    assert_eq!(get(&format!("/api/stop/push?url={target}?cid=whoever")).await, (200, "ok".into()));
    assert_eq!(get(&format!("/api/stop/push?url={target}")).await, (404, "no such pusher".into()));
    let none = "/erwscascade/api/push?streamPath=live/none&target=rtmp://h/a";
    assert_eq!(get(none).await, (404, "no such stream".into()));
    assert_eq!(
        get("/api/stream?streamPath=no/such&format=json").await,
        (200, r#"{"code":4041,"msg":"no such stream"}"#.into())
    );
    let stream = upper.json("/api/stream?streamPath=live/a").await;
    assert_eq!((&stream["Path"], &stream["State"], &stream["StreamName"]), (&"live/a".into(), &2.into(), &"a".into()));
    assert_eq!(get("/api/closestream?streamPath=live/a").await, (200, "ok".into()));
    upper.until_gone("live/a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_changes_something_is_not_for_everybody() {
    let push = "/erwscascade/api/push?streamPath=live/a&target=rtmp://127.0.0.1:1/live/a";
    // Off: not even this machine, but for a token.
    let off = TestNode::start("");
    into_hub(&off, "live/a", Script::clip(|_, frame| Some(frame)));
    off.until_live("live/a").await;
    assert_eq!(off.get(push).await.status, 403);
    let token = off.node.identity.admin_token.reveal().to_string();
    assert_eq!(off.get(&format!("{push}&token={token}")).await.status, 200);
    let on = TestNode::start(OLD);
    into_hub(&on, "live/a", Script::clip(|_, frame| Some(frame)));
    on.until_live("live/a").await;
    let token = on.node.identity.admin_token.reveal().to_string();
    for path in [push.to_string(), format!("{push}&token={token}")] {
        // Pictures and links bring no Origin.
        for shown in [
            ("Origin", "http://evil.example"),
            ("Referer", "http://evil.example/page"),
            ("Sec-Fetch-Site", "cross-site"),
        ] {
            let foreign = request(on.address(), "GET", &path, &[shown]).await;
            assert_eq!(foreign.status, 403, "{path} {shown:?}: {}", foreign.text());
        }
        assert_eq!(request(on.address(), "HEAD", &path, &[]).await.status, 405);
    }
    // What a browser sends by itself is not what somebody shows.
    let basic = format!("Basic {}", STANDARD.encode(format!("u:{}", off.node.identity.admin_token.reveal())));
    assert_eq!(request(off.address(), "GET", push, &[("Authorization", &basic)]).await.status, 403);
    // To an old lower any GET may be such a one.
    let old = OldLower::dial(on.address(), "c1").await.unwrap();
    tokio::spawn(old.serve(|_| Some(b"[]".to_vec())));
    linked(&on, "c1").await;
    for path in ["/peer/c1/api/closestream?streamPath=a", "/erwscascade/httpproxy/api/closestream?cid=c1&streamPath=a"]
    {
        assert_eq!(on.get(path).await.status, 200, "{path}");
        assert_eq!(request(on.address(), "GET", path, &[("Sec-Fetch-Site", "cross-site")]).await.status, 403, "{path}");
    }
    assert_eq!(on.get(push).await.status, 200);
    // And in no case without the right to.
    let closed = TestNode::start(&format!("{OLD}\nauth: {{users: []}}"));
    assert_eq!(closed.get(push).await.status, 401);
    assert_eq!(closed.get("/erwscascade/api/clientlist").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_of_bare_tags_gets_the_tags_of_the_flv() {
    let node = TestNode::start("");
    into_hub(&node, "live/a", Script::clip(|_, frame| Some(frame)));
    node.until_live("live/a").await;
    let tcp = TcpStream::connect(node.address()).await.unwrap();
    let (mut raw, _) = tokio_tungstenite::client_async(node.url("ws", "/jessica/live/a"), tcp).await.unwrap();
    let mut tags = Vec::new();
    while tags.len() < 60 {
        let message = soon("a message", futures_util::StreamExt::next(&mut raw)).await.unwrap().unwrap();
        if let tokio_tungstenite::tungstenite::Message::Binary(bytes) = message {
            tags.push(bytes);
        }
    }
    // The decoders' configuration, then a key frame; both tracks, stamps that go on.
    assert!(tags[0][0] == 2 && tags[0][5..7] == [0x17, 0] && tags[1][0] == 1 && tags[1][5..7] == [0xaf, 0]);
    assert!(tags[2][0] == 2 && tags[2][5..7] == [0x17, 1]);
    let stamps = |kind: u8| -> Vec<u32> {
        let of_kind = tags[2..].iter().filter(|tag| tag[0] == kind);
        of_kind.map(|tag| u32::from_be_bytes(tag[1..5].try_into().unwrap())).collect()
    };
    for kind in [1, 2] {
        let stamps = stamps(kind);
        assert!(stamps.len() > 10 && stamps.is_sorted(), "{kind}: {stamps:?}");
    }
    assert_eq!(node.get("/jessica/live/a").await.status, 426);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_comes_back_takes_over_from_its_half_open_predecessor() {
    let upper = TestNode::start(OLD);
    let wire = capture("h264_aac_whole.c2s.bin");
    let half_open = push(upper.address(), &wire[..30_000], || 4096).await;
    upper.until_live("live/test-test-c001").await;
    let before = upper.stream("live/test-test-c001").unwrap().publisher.id;
    let mut viewer = Viewer::open(&upper, "live/test-test-c001", "").await;
    viewer.frame().await.unwrap();
    let again = push(upper.address(), &wire, || 4096).await;
    until("the newer push", async || {
        let stream = upper.stream("live/test-test-c001")?;
        (stream.publisher.id != before && stream.frames > 100).then_some(())
    })
    .await;
    // Who watched before goes on.
    for _ in 0..100 {
        viewer.frame().await.unwrap();
    }
    drop((half_open, again));
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_old_url_our_own_lower_s_answers_keep_status_and_headers_and_bodies_may_be_chunked() {
    let upper = TestNode::named("up", 0, OLD);
    let _lower = TestNode::named("edge1", 0, &below(upper.address(), "", ""));
    linked(&upper, "edge1").await;
    // What is linked by somebody who is no old peer is not an old peer's.
    assert_eq!(OldLower::dial(upper.address(), "edge1").await.err(), Some(403));
    let none = upper.get("/erwscascade/httpproxy/?cid=edge1&httpPath=/api/v1/streams/live/none").await;
    assert_eq!((none.status, none.header("content-type").as_deref()), (404, Some("application/problem+json")));
    assert_eq!(upper.json("/erwscascade/api/streamlist?cid=edge1").await, Value::Array(Vec::new()));
    let refused = upper
        .get("/erwscascade/httpproxy/?cid=edge1&httpPath=/erwscascade/api/push?streamPath=a&target=rtmp://h/a")
        .await;
    assert_eq!(refused.status, 403, "{}", refused.text());

    let mut old = OldLower::dial(upper.address(), "c1").await.unwrap();
    old.introduce("c1", "", "").await;
    tokio::spawn(old.serve(|asked| Some(if asked.method == "POST" { asked.body.clone() } else { b"[]".to_vec() })));
    linked(&upper, "c1").await;
    let chunked = "POST /erwscascade/httpproxy/echo?cid=c1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let answer = exchange(upper.address(), chunked.as_bytes(), false).await;
    assert_eq!((answer.status, answer.text()), (200, "hello world".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_wait_behind_a_lower_that_never_tells_its_streams() {
    let upper = TestNode::start(OLD);
    let lower = OldLower::dial(upper.address(), "c1").await.unwrap();
    tokio::spawn(lower.serve(|asked| (!asked.url.ends_with("streamlist")).then(|| b"here".to_vec())));
    linked(&upper, "c1").await;
    for _ in 0..5 {
        let begun = Instant::now();
        assert_eq!(upper.get("/peer/c1/x").await.text(), "here");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
