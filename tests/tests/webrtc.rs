//! WebRTC: Debian's chromium plays by WHEP and publishes by WHIP, ffmpeg 9 publishes, through the one port alone, and from a node below; and what
//! strangers send does no harm.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::process::Stdio;
use std::time::Duration;

use culvert_media::Codec;
use culvert_node::camera::{AudioChoice, VideoChoice};
use culvert_tests::browser::{SECONDS, browse, browse_all};
use culvert_tests::cascade::Pair;
use culvert_tests::ffmpeg::{Media, skipped};
use culvert_tests::http::{Answer, exchange, request};
use culvert_tests::lossy::Lossy;
use culvert_tests::media::{Script, into_hub};
use culvert_tests::wait::{soon, until};
use culvert_tests::{Ffmpeg, TestNode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::Command;

/// What chromium offers, in short: one codec of each kind.
const OFFER: &str = include_str!("offer.sdp");

fn assert_played(played: &Value, protocol: &str, video: &str, audio: &str) {
    let nothing = Value::Array(vec![]);
    assert_eq!((&played["status"], &played["errors"]), (&201.into(), &nothing), "{played}");
    assert_eq!((&played["protocol"], &played["state"]), (&protocol.into(), &"connected".into()), "{played}");
    assert_eq!((&played["video"]["codec"], &played["audio"]["codec"]), (&video.into(), &audio.into()), "{played}");
    // Of 25 a second; the browser may skip a callback when the machine is busy.
    assert!(played["frames"].as_u64().unwrap() >= SECONDS * 25 * 8 / 10, "{played}");
    assert!(played["video"]["decoded"].as_u64().unwrap() >= SECONDS * 25 * 9 / 10, "{played}");
    // Sound comes all the time, and is not made up by the player.
    let (samples, concealed) = (&played["audio"]["samples"], &played["audio"]["concealed"]);
    let (samples, concealed) = (samples.as_u64().unwrap(), concealed.as_u64().unwrap());
    assert!(concealed * 20 < samples && samples > SECONDS * 7_000, "{played}");
    // The cached group is not shown at its own pace, which would be seconds behind.
    assert!(played["video"]["jitter_ms"].as_f64().unwrap() < 200.0, "{played}");
    assert!((0..5_000).contains(&played["first_frame_ms"].as_i64().unwrap()), "{played}");
    assert_eq!(played["goodbye"], 200, "{played}");
}

async fn plays(test: &str, media: Media, way: &str, video: &str, audio: &str) {
    let Some(five) = Ffmpeg::five(test) else { return };
    let node = TestNode::start("");
    // By RTSP, for this ffmpeg knows no Opus in FLV.
    let _publisher = five.publish(media, &node.url("rtsp", "/live/a"));
    node.until_live("live/a").await;
    let Some(played) = browse_all(test, "whep.mjs", &node, &[&node.url("http", "/whep/live/a"), way]).await else {
        return;
    };
    assert_played(&played, way, video, audio);
    until("the viewer to be gone", async || (node.stream("live/a")?.viewers == 0).then_some(())).await;
    let streams = async || (node.metric("culvert_webrtc_streams{}").await == 0.0).then_some(());
    until("nothing to be cut any more", streams).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_h264_and_opus_by_udp() {
    plays("chromium_plays_h264_and_opus_by_udp", Media::H264Opus, "udp", "video/H264", "audio/opus").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_hears_aac_and_needs_no_port_but_the_one() {
    let test = "chromium_hears_aac_and_needs_no_port_but_the_one";
    plays(test, Media::H264Aac, "tcp", "video/H264", "audio/opus").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_whose_network_changes_begins_ice_anew_and_goes_on() {
    let test = "a_player_whose_network_changes_begins_ice_anew_and_goes_on";
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", Script::of(Some(VideoChoice::H264), AudioChoice::Opus));
    node.until_live("live/a").await;
    let url = node.url("http", "/whep/live/a");
    let Some(played) = browse_all(test, "whep.mjs", &node, &[&url, "restart"]).await else { return };
    let fragment = "application/trickle-ice-sdpfrag";
    assert_eq!((&played["stale"], &played["restart"]), (&412.into(), &json!([200, fragment, true])), "{played}");
    assert_played(&played, "udp", "video/H264", "audio/opus");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_who_begins_ice_anew_and_does_not_come_back_is_let_go() {
    let test = "a_player_who_begins_ice_anew_and_does_not_come_back_is_let_go";
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", Script::of(Some(VideoChoice::H264), AudioChoice::Opus));
    node.until_live("live/a").await;
    let Some(played) = browse(test, "whep.mjs", &node, &[&node.url("http", "/whep/live/a"), "leave"]).await else {
        return;
    };
    assert_eq!((&played["left"], played["video"]["decoded"].as_u64() > Some(50)), (&200.into(), true), "{played}");
    let sessions = async || node.json("/api/v1/sessions").await["items"].as_array().unwrap().len();
    assert_eq!(sessions().await, 2, "publisher and player");
    // 20 s after it said so.
    until("the player to be let go", async || (sessions().await < 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_vp8_vp9_and_av1_and_comes_by_ipv6() {
    let test = "chromium_plays_vp8_vp9_and_av1_and_comes_by_ipv6";
    let Some(nine) = Ffmpeg::nine(test) else { return };
    let node = TestNode::on_ipv6("");
    for (codec, media) in [("VP8", Media::Vp8), ("VP9", Media::Vp9), ("AV1", Media::Av1Opus)] {
        let stream = format!("live/{codec}");
        let publisher = nine.publish(media, &node.url("rtsp", &format!("/{stream}")));
        node.until_live(&stream).await;
        let url = node.url("http", &format!("/whep/{stream}"));
        let Some(played) = browse_all(test, "whep.mjs", &node, &[&url, "udp"]).await else { return };
        assert_played(&played, "udp", &format!("video/{codec}"), "audio/opus");
        drop(publisher);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_asks_for_pictures_hears_a_stream_that_has_none() {
    let test = "a_page_that_asks_for_pictures_hears_a_stream_that_has_none";
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", Script::of(None, AudioChoice::Aac));
    node.until_live("live/a").await;
    let url = node.url("http", "/whep/live/a");
    let Some(played) = browse(test, "whep.mjs", &node, &[&url, "udp"]).await else { return };
    assert_eq!((&played["status"], &played["state"]), (&201.into(), &"connected".into()), "{played}");
    assert_eq!(played["audio"]["codec"], "audio/opus", "{played}");
    assert!(played["audio"]["samples"].as_u64().unwrap() > SECONDS * 40_000, "{played}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_on_the_way_is_sent_again() {
    let test = "what_is_lost_on_the_way_is_sent_again";
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", Script::of(Some(VideoChoice::H264), AudioChoice::Opus));
    node.until_live("live/a").await;
    // One in twenty, in both directions.
    let path = Lossy::to(node.address(), 20).await;
    let (url, port) = (node.url("http", "/whep/live/a"), path.port.to_string());
    let Some(played) = browse(test, "whep.mjs", &node, &[&url, &port]).await else { return };
    let (came, lost) = path.counts();
    assert!(lost * 30 > came && lost * 12 < came, "{lost} of {came}");
    assert_eq!((&played["status"], &played["state"]), (&201.into(), &"connected".into()), "{played}");
    let of = |what: &str| played["video"][what].as_u64().unwrap();
    assert!(of("nacks") > 0 && of("decoded") >= SECONDS * 25 * 8 / 10, "{played}");
    // It is repaired by what is sent again, not by key frames.
    assert!(of("plis") <= 2, "{played}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_whose_router_gives_it_another_port_goes_on() {
    let test = "a_player_whose_router_gives_it_another_port_goes_on";
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", Script::of(Some(VideoChoice::H264), AudioChoice::Opus));
    node.until_live("live/a").await;
    let path = Lossy::wide(node.address()).await;
    let (url, port) = (node.url("http", "/whep/live/a"), path.port.to_string());
    let forgotten = async {
        // Once pictures go: a group of them came at once.
        until("a player", async || (path.counts().0 > 120).then_some(())).await;
        path.forget();
    };
    let arguments = [url.as_str(), port.as_str()];
    let (played, ()) = tokio::join!(browse(test, "whep.mjs", &node, &arguments), forgotten);
    let Some(played) = played else { return };
    assert_eq!((&played["status"], &played["state"]), (&201.into(), &"connected".into()), "{played}");
    // It asks whether we are there each 2.5 s at the latest, and says each second what came; media follows.
    let pictures = SECONDS * 25;
    assert!(played["video"]["decoded"].as_u64().unwrap() > pictures / 2, "{played}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_whose_network_is_too_narrow_gets_fewer_pictures_and_all_the_sound() {
    let test = "a_viewer_whose_network_is_too_narrow_gets_fewer_pictures_and_all_the_sound";
    let Some(five) = Ffmpeg::five(test) else { return };
    let node = TestNode::start("");
    let _publisher = five.publish(Media::TwoMegabits, &node.url("rtmp", "/live/a"));
    node.until_live("live/a").await;
    let path = Lossy::wide(node.address()).await;
    // Half of what the stream has.
    path.narrow(135_000);
    let (url, port) = (node.url("http", "/whep/live/a"), path.port.to_string());
    // What it learns from is what gets lost at first; from then on little may.
    let learnt = async {
        until("pictures to be left out", async || {
            let sessions = node.json("/api/v1/sessions").await;
            sessions["items"].as_array()?.iter().find(|session| session["gaps"].as_u64() > Some(0)).map(drop)
        })
        .await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        path.counts()
    };
    let arguments = [url.as_str(), port.as_str()];
    let (played, before) = tokio::join!(browse(test, "whep.mjs", &node, &arguments), learnt);
    let Some(played) = played else { return };
    let of = |kind: &str, what: &str| played[kind][what].as_f64().unwrap();
    assert_eq!((&played["status"], &played["state"]), (&201.into(), &"connected".into()), "{played}");
    let pictures = (SECONDS * 25) as f64;
    assert!((0.1 * pictures..0.9 * pictures).contains(&of("video", "decoded")), "{played}");
    assert!(of("audio", "concealed") < 0.2 * of("audio", "samples"), "{played}");
    let (came, lost) = path.counts();
    let (came, lost) = (came - before.0, lost - before.1);
    assert!(came > 300 && lost * 20 < came * 3, "{lost} of {came} were sent for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_a_platforms_stream_from_the_upper_with_the_g711_of_its_camera() {
    let test = "chromium_plays_a_platforms_stream_from_the_upper_with_the_g711_of_its_camera";
    let pair = Pair::linked().await;
    let _publishing = into_hub(&pair.lower, "live/a", Script::of(Some(VideoChoice::H264), AudioChoice::Pcma));
    pair.lower.until_live("live/a").await;
    let url = pair.upper.url("http", "/whep/live/a-edge1");
    let Some(played) = browse_all(test, "whep.mjs", &pair.upper, &[&url, "udp"]).await else { return };
    assert_played(&played, "udp", "video/H264", "audio/PCMA");
    pair.until_relays(0).await;
    // Asked through the upper the lower answers by itself, and the media goes past the upper: here both are on this machine.
    let before = pair.up_bytes();
    let url = pair.upper.url("http", "/peer/edge1/whep/live/a");
    let Some(played) = browse_all(test, "whep.mjs", &pair.upper, &[&url, "udp"]).await else { return };
    assert_played(&played, "udp", "video/H264", "audio/PCMA");
    assert_eq!(pair.relays(), 0);
    assert!(pair.up_bytes() - before < 200_000, "{}", pair.up_bytes() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_chromium_publishes_is_played_by_everything_else() {
    let test = "what_chromium_publishes_is_played_by_everything_else";
    let Some(nine) = Ffmpeg::nine(test) else { return };
    let node = TestNode::start("");
    let url = node.url("http", "/whip/live/a");
    let play = async {
        node.until_live("live/a").await;
        let tracks = node.stream("live/a").unwrap().tracks;
        assert_eq!(tracks.iter().map(|track| track.codec).collect::<Vec<_>>(), [Codec::H264, Codec::Opus]);
        for (scheme, path) in [("rtmp", "/live/a"), ("http", "/play/live/a.mp4"), ("rtsp", "/live/a")] {
            // A browser lowers its rate as it likes: what comes must be right, whatever there is of it.
            nine.play(&node.url(scheme, path)).await.assert_decoded(path);
        }
    };
    let arguments = [url.as_str()];
    let publish = browse(test, "whip.mjs", &node, &arguments);
    let (published, played) = tokio::join!(publish, async {
        // Without a browser there is nothing to play.
        tokio::time::timeout(Duration::from_secs(60), play).await
    });
    let Some(published) = published else { return };
    assert!(played.is_ok(), "it was not played within a minute");
    assert_eq!((&published["status"], &published["state"]), (&201.into(), &"connected".into()), "{published}");
    assert_eq!((&published["codec"], &published["goodbye"]), (&"video/H264".into(), &200.into()), "{published}");
    // Key frames come because they are asked for.
    assert!(published["keys"].as_u64().unwrap() >= SECONDS / 3, "{published}");
    node.until_gone("live/a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_publishes_by_whip() {
    let Some(nine) = Ffmpeg::nine("ffmpeg_publishes_by_whip") else { return };
    let node = TestNode::start("");
    let publisher = nine.publish(Media::H264Opus, &node.url("http", "/whip/live/a"));
    node.until_live("live/a").await;
    nine.play(&node.url("rtmp", "/live/a")).await.assert_clean(Media::H264Opus, "RTMP of WHIP");
    nine.play(&node.url("http", "/play/live/a.mp4")).await.assert_clean(Media::H264Opus, "MP4 of WHIP");
    assert_eq!(node.stream("live/a").unwrap().publisher.protocol, "webrtc");
    drop(publisher);
    node.until_gone("live/a").await;
}

/// What GStreamer tells of it (`tests/gstreamer/webrtc.py`). None: it is not here, which is said.
async fn gstreamer(test: &str, what: &str, url: &str, seconds: u64) -> Option<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/gstreamer/webrtc.py");
    // Debian's bindings are of Debian's Python.
    let mut command = Command::new("/usr/bin/python3");
    command.args([script, what, url, &seconds.to_string()]).kill_on_drop(true).stdin(Stdio::null());
    let output = soon("GStreamer to say what came of it", command.output()).await;
    let needs = "/usr/bin/python3 with python3-gi, gir1.2-gst-plugins-bad-1.0 and gstreamer1.0-nice";
    let Some(output) = output.ok().filter(|output| output.status.code() != Some(77)) else {
        skipped(test, needs);
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    Some(serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {said}")))
}

/// Its certificate is of RSA.
#[tokio::test(flavor = "multi_thread")]
async fn gstreamer_plays_and_publishes() {
    let test = "gstreamer_plays_and_publishes";
    let (Some(five), Some(nine)) = (Ffmpeg::five(test), Ffmpeg::nine(test)) else { return };
    let node = TestNode::start("");
    let _publisher = five.publish(Media::H264Aac, &node.url("rtmp", "/live/a"));
    node.until_live("live/a").await;
    let Some(played) = gstreamer(test, "whep", &node.url("http", "/whep/live/a"), SECONDS + 4).await else { return };
    assert_eq!((&played["status"], &played["state"]), (&201.into(), &"connected".into()), "{played}");
    // 25 pictures and 50 packets of sound a second; it takes two to be connected.
    let (video, audio) = (played["video"].as_u64().unwrap(), played["audio"].as_u64().unwrap());
    assert!(video >= SECONDS * 25 * 8 / 10 && audio >= SECONDS * 50 * 8 / 10, "{played}");
    let url = node.url("http", "/whip/live/g");
    let published = gstreamer(test, "whip", &url, SECONDS + 8);
    let watched = async {
        node.until_live("live/g").await;
        nine.play(&node.url("http", "/play/live/g.mp4")).await.assert_clean(Media::H264Opus, "MP4 of GStreamer's WHIP");
    };
    let (published, ()) = tokio::join!(published, watched);
    let published = published.unwrap();
    assert_eq!((&published["status"], &published["state"]), (&201.into(), &"connected".into()), "{published}");
}

/// Whose certificate is another than the one that the offer names gets no keys (security.md S21).
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_who_the_offer_says_does_not_publish() {
    let test = "who_is_not_who_the_offer_says_does_not_publish";
    let node = TestNode::start("");
    let url = node.url("http", "/whip/live/g");
    let (mut came, mut sent) = (false, false);
    let let_go = until("it to be let go", async || {
        let stream = node.stream("live/g");
        came |= stream.is_some();
        sent |= stream.as_ref().is_some_and(|stream| !stream.tracks.is_empty());
        (came && stream.is_none()).then_some(())
    });
    tokio::select! {
        told = gstreamer(test, "forged", &url, 15) => assert!(told.is_none(), "it was not let go before it went: {told:?}"),
        () = let_go => assert!(!sent, "what it sent was taken"),
    }
}

async fn post(node: &TestNode, path: &str, kind: &str, body: &[u8]) -> Answer {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        node.address(),
        body.len()
    );
    let bytes = [head.as_bytes(), body].concat();
    soon(path, exchange(node.address(), &bytes, false)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_answered_with_its_reason() {
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", Script::of(Some(VideoChoice::H265), AudioChoice::Aac));
    node.until_live("live/a").await;
    let detail = |answer: &Answer| answer.json()["detail"].as_str().unwrap().to_string();
    let sdp = "application/sdp";
    // No common codec: both sides of it are named.
    let answer = post(&node, "/whep/live/a", sdp, OFFER.as_bytes()).await;
    assert_eq!(answer.status, 406, "{}", answer.text());
    assert!(detail(&answer).contains("h265") && detail(&answer).contains("VP8, H264"), "{}", detail(&answer));
    let large = format!("{OFFER}{}", "a=x\r\n".repeat(200_000));
    for (path, kind, body, status, words) in [
        ("/whep/live/none", sdp, OFFER, 404, "no stream"),
        ("/whep/live/a", "application/json", OFFER, 415, "application/sdp"),
        ("/whep/live/a", sdp, "hello", 400, "v=0"),
        ("/whep/live/a", sdp, "v=0\r\ns=-\r\n", 400, "no media"),
        ("/whip/live/b", sdp, "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 theora/90000\r\n", 406, "theora"),
        ("/whep/live/a", sdp, &large, 413, "128 KiB"),
        ("/whip/live/a", sdp, OFFER, 409, "another name"),
        ("/whip/live/../a", sdp, OFFER, 404, ""),
    ] {
        let answer = post(&node, path, kind, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{path} {body:.40}: {}", answer.text());
        assert!(detail(&answer).contains(words), "{path}: {}", detail(&answer));
    }
    // What is broken in the middle is refused, and nothing is left behind.
    for cut in (10..OFFER.len()).step_by(97) {
        let answer = post(&node, "/whip/live/b", sdp, &OFFER.as_bytes()[..cut]).await;
        assert!([201, 400, 406, 409].contains(&answer.status), "cut at {cut}: {}", answer.text());
    }
    assert_eq!(node.get("/whep/live/a?session=0").await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_where_and_how_and_a_session_is_ended_by_its_owner() {
    let node = TestNode::start(
        "webrtc: {public_addr: [203.0.113.7], ice_servers: [{url: \"stun:stun.example\"}, {url: \"turn:t.example\", user: u, password: p}]}",
    );
    let _publishing = into_hub(&node, "live/a", Script::of(Some(VideoChoice::H264), AudioChoice::Opus));
    node.until_live("live/a").await;
    let candidates = "a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n".repeat(1_000);
    let answer = post(&node, "/whep/live/a", "application/sdp", format!("{OFFER}{candidates}").as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let sdp = answer.text();
    let port = node.address().port();
    assert!(sdp.contains(&format!("203.0.113.7 {port} typ host")), "{sdp}");
    assert!(sdp.contains("tcptype passive") && sdp.contains("a=ice-lite") && sdp.contains("a=sendonly"), "{sdp}");
    let link = answer.header("link").unwrap();
    assert!(link.contains("<stun:stun.example>; rel=\"ice-server\""), "{link}");
    assert!(answer.header("etag").is_some() && answer.header("access-control-expose-headers").is_some());
    let location = answer.header("location").unwrap();
    until("the viewer to be counted", async || (node.stream("live/a")?.viewers == 1).then_some(())).await;
    let ask = async |method: &str| request(node.address(), method, &location, &[]).await.status;
    assert_eq!((ask("PATCH").await, ask("DELETE").await), (204, 200));
    until("the viewer to be gone", async || (node.stream("live/a")?.viewers == 0).then_some(())).await;
    let gone = async || (ask("DELETE").await == 404).then_some(());
    until("the session to be forgotten", gone).await;
    let config = node.json("/api/v1/config").await.to_string();
    assert!(!config.contains("\"p\""), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn m7s_s_page_posts_its_offer_through_the_upper_to_the_platform() {
    let pair = Pair::linked().await;
    let _publishing = into_hub(&pair.lower, "live/a", Script::of(Some(VideoChoice::H264), AudioChoice::Opus));
    pair.lower.until_live("live/a").await;
    for path in [
        "/erwscascade/httpproxy/?cid=edge1&httpPath=webrtc/play/live/a",
        "/erwscascade/httpproxy/webrtc/play/live/a?cid=edge1",
        "/peer/edge1/webrtc/play/live/a",
    ] {
        let answer = post(&pair.upper, path, "application/sdp", OFFER.as_bytes()).await;
        assert_eq!((answer.status, answer.header("content-type").as_deref()), (200, Some("application/sdp")), "{path}");
        // It is the platform that is to be found.
        let port = pair.lower.address().port();
        assert!(answer.text().contains(&format!("{port} typ host")), "{path}: {}", answer.text());
        assert!(answer.header("location").unwrap().contains("session="), "{path}");
    }
    let three = async || (pair.lower.stream("live/a")?.viewers == 3).then_some(());
    until("the platform to have three viewers", three).await;
    assert_eq!(pair.relays(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_connected_by_the_direct_path_is_played_to_by_the_upper() {
    let pair = Pair::linked().await;
    let _publishing = into_hub(&pair.lower, "live/a", Script::of(Some(VideoChoice::H264), AudioChoice::Opus));
    pair.lower.until_live("live/a").await;
    let ask = async |query: &str| {
        let path = format!("/whep/live/a-edge1{query}");
        let answer = post(&pair.upper, &path, "application/sdp", OFFER.as_bytes()).await;
        assert_eq!(answer.status, 201, "{query}: {}", answer.text());
        (answer.header("culvert-path").unwrap(), answer.header("location").unwrap(), answer.text())
    };
    let is_of = |node: &TestNode, answer: &str| answer.contains(&format!("{} typ host", node.address().port()));
    let (path, location, answer) = ask("?path=auto").await;
    assert_eq!((path.as_str(), pair.relays()), ("direct", 0));
    assert!(is_of(&pair.lower, &answer) && location.starts_with("/peer/edge1/whep/live/a?session="), "{location}");
    assert_eq!(request(pair.upper.address(), "DELETE", &location, &[]).await.status, 200);
    until("it to be ended there", async || (pair.lower.stream("live/a")?.viewers == 0).then_some(())).await;
    // It was not connected: the second time it is the upper, whatever it asks for but `direct`.
    for query in ["?path=auto", "?path=auto", ""] {
        let (path, location, answer) = ask(query).await;
        assert!(
            path == "here" && is_of(&pair.upper, &answer) && location.starts_with("/whep/live/a-edge1"),
            "{location}"
        );
    }
    assert_eq!(pair.relays(), 1);
    assert_eq!(ask("?path=direct").await.0, "direct");
    let none = post(&pair.upper, "/whep/live/none?path=direct", "application/sdp", OFFER.as_bytes()).await;
    assert_eq!(none.status, 404, "{}", none.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_answered_and_do_no_harm() {
    let node = TestNode::start("");
    let address = node.address();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // A binding request for a name that nobody has, DTLS, RTP, and nothing at all.
    let mut stun = vec![0, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42];
    stun.extend([7; 12]);
    stun.extend([0, 6, 0, 5]);
    stun.extend(b"abc:d\0\0\0");
    let dtls = [&[22, 0xfe, 0xfd][..], &[0; 60]].concat();
    let rtp = [&[0x80, 96][..], &[1; 40]].concat();
    for _ in 0..500 {
        for datagram in [&stun[..], &dtls, &rtp, &[]] {
            udp.send_to(datagram, address).await.unwrap();
        }
    }
    let dropped = async || {
        (node.metric("culvert_webrtc_datagrams_dropped_total{why=\"unknown_sender\"}").await >= 1_000.0).then_some(())
    };
    until("them to be dropped", dropped).await;
    let mut buffer = [0; 100];
    assert!(
        tokio::time::timeout(Duration::from_millis(300), udp.recv_from(&mut buffer)).await.is_err(),
        "nobody answers"
    );
    // The same by TCP: the connection is closed.
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let framed = [&(stun.len() as u16).to_be_bytes()[..], &stun].concat();
    tcp.write_all(&framed).await.unwrap();
    let closed = soon("the connection to be closed", tcp.read(&mut buffer)).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    assert_eq!(node.get("/healthz").await.status, 200);
}
