//! What becomes of streams and their viewers: second publishers, takeovers, missing streams, slow and stalled viewers,
//! streams without a key frame, codecs that change.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::{Duration, Instant};

use culvert_formats::flv::Event;
use culvert_media::{Codec, Frame, Time, TrackId, Tracks};
use culvert_node::camera::{AudioChoice, Clip, VideoChoice};
use culvert_rtmp::session::Goal;
use culvert_tests::ffmpeg::Media;
use culvert_tests::http::exchange;
use culvert_tests::media::{Script, into_hub, publish, publish_clip, recorded};
use culvert_tests::node::token_sha256;
use culvert_tests::rtmp::Peer;
use culvert_tests::view::{Continuity, Viewer, ask};
use culvert_tests::wait::{LONG, soon, until};
use culvert_tests::{Ffmpeg, TestNode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const VIDEO: TrackId = TrackId(0);

/// Makes pictures of 40 KB, 8 Mbit/s, by filler data (H.264 7.3.2.7), so that a socket's buffers are full soon.
fn fat(_: Duration, mut frame: Frame) -> Option<Frame> {
    const FILLER: usize = 40_000;
    if frame.track == VIDEO {
        let mut nal = vec![0xff; FILLER];
        nal[0] = 12;
        nal[FILLER - 1] = 0x80;
        let length = u32::try_from(FILLER).unwrap().to_be_bytes();
        frame.data = [&frame.data[..], &length, &nal].concat().into();
    }
    Some(frame)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_publisher_is_refused_and_the_first_goes_on() {
    let node = TestNode::start("");
    let first = publish_clip(node.url("rtmp", "/live/a"));
    let before = node.until_live("live/a").await;
    let (code, why) = Peer::connect(&node, Goal::Publish, "live/a").await.refused().await;
    assert_eq!(code, "NetStream.Publish.BadName");
    assert!(why.contains("published by somebody else"), "{why}");
    let more = async || (node.stream("live/a")?.frames > before.frames + 50).then_some(());
    until("more of the first publisher", more).await;
    let now = node.stream("live/a").unwrap();
    assert!(!first.is_finished() && now.publisher.id == before.publisher.id && now.discontinuities == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_user_takes_over_and_viewers_play_on_without_an_error() {
    let yaml = format!(
        "auth: {{anonymous: {{allow: [play]}}, users: [{{name: cam, token_sha256: {}, allow: [publish]}}]}}",
        token_sha256("geheim")
    );
    let node = TestNode::start(&yaml);
    let url = node.url("rtmp", "/live/a?token=geheim");
    let first = publish_clip(url.clone());
    let before = node.until_live("live/a").await;
    let mut viewer = Viewer::open(&node, "live/a", "").await;
    let play = node.url("http", "/play/live/a.flv");
    let ffmpeg = Ffmpeg::five("a part of the_same_user_takes_over_and_viewers_play_on_without_an_error");
    let plays = async {
        let Some(five) = &ffmpeg else { return };
        five.play_for(4, &play).await.assert_clean(Media::H264Aac, "across a takeover");
    };
    let viewers = 1 + usize::from(ffmpeg.is_some());
    let taken_over = async {
        let watched = async || (node.stream("live/a")?.viewers == viewers).then_some(());
        until("all to watch", watched).await;
        let second = publish_clip(url.clone());
        let bent = async || node.stream("live/a").filter(|s| s.discontinuities > 0);
        let now = until("the takeover", bent).await;
        assert_ne!(now.publisher.id, before.publisher.id);
        let mut seen = Continuity::default();
        while seen.frames < 200 {
            seen.check(&viewer.frame().await.expect("the stream goes on"));
        }
        assert!(seen.widest.millis() < 2000, "{:?}", seen.widest);
        assert!(!second.is_finished());
    };
    tokio::join!(plays, taken_over);
    let told = first.await.unwrap().unwrap_err().to_string();
    assert!(told.contains("taken over"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_is_said_to_be_missing_at_once() {
    let node = TestNode::start("");
    let asked = Instant::now();
    let answer = node.get("/play/live/none.flv").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("there is no stream live/none"), "{}", answer.text());
    assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"));
    let (code, why) = Peer::connect(&node, Goal::Play, "live/none").await.refused().await;
    assert_eq!((code.as_str(), why.as_str()), ("NetStream.Play.StreamNotFound", "there is no stream live/none"));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mp4_cannot_carry_is_refused_by_name_and_plays_as_flv() {
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", Script::vp8());
    node.until_live("live/a").await;
    for path in ["/play/live/a.mp4", "/fmp4/live/a.mp4"] {
        let answer = node.get(path).await;
        assert_eq!((answer.status, &answer.json()["type"]), (406, &"urn:culvert:no-track".into()), "{}", answer.text());
        assert!(answer.text().contains("play it as .flv"), "{}", answer.text());
    }
    assert!(Viewer::open(&node, "live/a", "").await.frame().await.is_some());
    // The sound of a camera is in it, in another coding.
    let _publishing = into_hub(&node, "live/b", Script::of(Some(VideoChoice::H264), AudioChoice::Pcma));
    node.until_live("live/b").await;
    let mut socket = ask(&node, "/fmp4/live/b.mp4", None).await;
    let mut seen = vec![0; 4096];
    timeout(LONG, socket.read_exact(&mut seen)).await.unwrap().unwrap();
    assert!(seen.starts_with(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n"), "{}", String::from_utf8_lossy(&seen));
    for name in [b"avc1", b"Opus", b"moof"] {
        assert!(seen.windows(4).any(|four| four == name), "{}", String::from_utf8_lossy(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_may_wait_for_a_stream_where_the_configuration_says_so() {
    let node = TestNode::start("limits: {wait_for_stream: 10s}");
    let mut waiting = ask(&node, "/play/live/a.flv", None).await;
    let silent = timeout(Duration::from_millis(300), waiting.read_u8()).await;
    assert!(silent.is_err(), "it was answered before there was a stream: {silent:?}");
    publish_clip(node.url("rtmp", "/live/a"));
    let mut viewer = Viewer::begin(waiting).await;
    assert!(viewer.frame().await.is_some());

    let node = TestNode::start("limits: {wait_for_stream: 300ms}");
    let asked = Instant::now();
    assert_eq!(node.get("/play/live/a.flv").await.status, 404);
    assert!(asked.elapsed() >= Duration::from_millis(300), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_viewers_go_and_a_good_one_misses_nothing() {
    let node = TestNode::start("limits: {stall_timeout: 1s}");
    publish(node.url("rtmp", "/live/a"), Script::clip(fat));
    node.until_live("live/a").await;
    let mut good = Viewer::open(&node, "live/a", "").await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        stalled.push(ask(&node, "/play/live/a.flv", Some(4096)).await);
    }
    let viewers = async |n: usize| (node.stream("live/a")?.viewers == n).then_some(());
    until("all to watch", async || viewers(21).await).await;
    let mut seen = Continuity::default();
    while node.stream("live/a").unwrap().viewers > 1 {
        seen.check(&good.frame().await.expect("the stream goes on"));
        assert!(seen.frames < 72 * 20, "stalled viewers are still there after 20 s");
    }
    // And a second more, with the stalled ones gone.
    for _ in 0..72 {
        seen.check(&good.frame().await.expect("the stream goes on"));
    }
    assert!(seen.widest.millis() <= 42, "a frame was missed: {:?}", seen.widest);
    let sessions = node.json("/api/v1/sessions").await;
    let players: Vec<_> = sessions["items"].as_array().unwrap().iter().filter(|s| s["action"] == "play").collect();
    assert_eq!((players.len(), &players[0]["gaps"]), (1, &0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_viewer_goes_on_at_a_key_frame() {
    let node = TestNode::start("limits: {max_lag: 500ms}");
    publish(node.url("rtmp", "/live/a"), Script::clip(fat));
    let begun = node.until_live("live/a").await;
    let mut viewer = Viewer::begin(ask(&node, "/play/live/a.flv", Some(4096)).await).await;
    let mut last = viewer.frame().await.unwrap().dts;
    // It reads nothing while 5 s of media pass: 72 frames a second, 8 Mbit/s.
    let passed = async || (node.stream("live/a")?.frames > begun.frames + 360).then_some(());
    until("5 s of media", passed).await;
    let after = loop {
        let frame = viewer.frame().await.expect("the stream goes on");
        if frame.track != VIDEO {
            continue;
        }
        if frame.dts.millis() - last.millis() > 1000 {
            break frame;
        }
        last = frame.dts;
    };
    assert!(after.key, "after the gap comes a key frame: {:?}", after.dts);
    let sessions = node.node.hub.sessions();
    assert!(sessions.iter().any(|s| s.gaps().0 > 0 && s.gaps().1 > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_key_frame_gives_nothing() {
    let node = TestNode::start("");
    let without = |_, frame: Frame| (!(frame.track == VIDEO && frame.key)).then_some(frame);
    publish(node.url("rtmp", "/live/a"), Script::clip(without));
    until("the tracks", async || node.stream("live/a").filter(|s| s.state == "live")).await;
    let mut viewer = Viewer::open(&node, "live/a", "").await;
    until("withheld frames", async || (node.stream("live/a")?.dropped > 50).then_some(())).await;
    let sent: u64 = node.node.hub.sessions().iter().filter(|s| s.protocol == "http-flv").map(|s| s.frames()).sum();
    assert_eq!(sent, 0, "frames without a key frame before them");
    let frame = timeout(Duration::from_millis(300), viewer.frame()).await;
    assert!(frame.is_err(), "{frame:?}");
}

/// Publishes two seconds of the clip and then, on the same connection, something else.
fn clip_and_then(node: &TestNode, tracks: Tracks, frames: impl Iterator<Item = Frame> + Send + 'static) {
    publish(node.url("rtmp", "/live/a"), Script::clip_and_then(Time::from_millis(2000), tracks, frames));
}

/// What a viewer is told of the video track until the first picture of the second kind, and that picture. What its
/// demuxer cannot use fails the test there: a frame before its sequence header is such.
async fn change_seen(node: &TestNode) -> (Vec<(Codec, u32)>, Frame) {
    let mut viewer = Viewer::open(node, "live/a", "").await;
    let mut told = Vec::new();
    loop {
        match viewer.event().await.expect("the stream goes on") {
            Event::Tracks(tracks) => {
                let video = tracks.video().unwrap();
                told.push((video.codec, video.video().unwrap().width));
            }
            Event::Frame(frame) if frame.track == VIDEO && told.len() > 1 => return (told, frame),
            Event::Frame(_) | Event::EndOfSequence => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_codec_comes_with_its_configuration_before_its_key_frame() {
    let node = TestNode::start("");
    let new = Clip::load(VideoChoice::H265, AudioChoice::Aac);
    clip_and_then(&node, new.tracks().clone(), new.frames());
    node.until_live("live/a").await;
    let (told, first) = change_seen(&node).await;
    assert_eq!(told, [(Codec::H264, 640), (Codec::H265, 640)]);
    assert!(first.key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_size_is_played_without_an_error() {
    // ffmpeg 5 reads what follows a change by the old parameters, also from a file.
    let Some(nine) = Ffmpeg::nine("a_change_of_size_is_played_without_an_error") else { return };
    let (tracks, frames) = recorded(&nine.record(Media::H264Aac, 6).await);
    let node = TestNode::start("");
    clip_and_then(&node, tracks, frames.into_iter());
    node.until_live("live/a").await;
    let urls = [node.url("http", "/play/live/a.flv"), node.url("rtmp", "/live/a")];
    let ((told, first), http, rtmp) =
        tokio::join!(change_seen(&node), nine.play_for(4, &urls[0]), nine.play_for(4, &urls[1]));
    assert_eq!(told, [(Codec::H264, 640), (Codec::H264, 320)]);
    assert!(first.key);
    http.assert_clean(Media::H264Aac, "HTTP-FLV across a change of size");
    rtmp.assert_clean(Media::H264Aac, "RTMP across a change of size");
}

/// A browser makes one WebSocket to a host at a time: one that is held until a camera starts would hold up all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_has_to_wait_is_opened_first_and_closed_with_the_reason() {
    // One that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = silent.local_addr().unwrap().port();
    let node = TestNode::start(&format!(
        "pull: {{start_timeout: 1s, on_demand: {{live/dead: \"rtmp://127.0.0.1:{dead}/live/x\"}}}}"
    ));
    let open = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut socket = TcpStream::connect(node.address()).await.unwrap();
    socket.write_all(open("/play/live/dead.mp4").as_bytes()).await.unwrap();
    let mut head = [0; 12];
    soon("the handshake", socket.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    let mut rest = Vec::new();
    soon("the end", socket.read_to_end(&mut rest)).await.unwrap();
    let frame = rest.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let (first, status) = (rest[frame], u16::from_be_bytes([rest[frame + 2], rest[frame + 3]]));
    assert_eq!(first, 0x88, "a close frame");
    // What plain HTTP says, and 4000.
    let plain = node.get("/play/live/dead.mp4").await;
    assert_eq!(status, 4000 + plain.status, "{}", plain.text());
    assert!(String::from_utf8_lossy(&rest[frame + 4..]).contains("live/dead"), "{rest:?}");
    // What is known at once is said at once.
    let none = exchange(node.address(), open("/play/live/none.mp4").as_bytes(), false).await;
    assert_eq!(none.status, 404);
}
