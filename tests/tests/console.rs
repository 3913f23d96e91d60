//! The console as an operator uses it, in Debian's chromium: `tests/browser/console.mjs`.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_node::camera::{AudioChoice, VideoChoice};
use culvert_tests::browser::Operator;
use culvert_tests::cascade::{GRACE, Pair, below, until_linked};
use culvert_tests::ffmpeg::extent;
use culvert_tests::media::{Script, into_hub};
use culvert_tests::node::token_sha256;
use culvert_tests::old::{OldLower, capture, push};
use culvert_tests::wait::until;
use culvert_tests::{Ffmpeg, TestNode};
use serde_json::{Value, json};

const STREAM: &str = "live/cam1-edge1";

fn camera(node: &TestNode, name: &str) -> tokio::task::JoinHandle<()> {
    into_hub(node, name, Script::of(Some(VideoChoice::H264), AudioChoice::Aac))
}

/// An upper that shows the camera of the lower `edge1`.
async fn with_camera() -> (Pair, tokio::task::JoinHandle<()>) {
    let pair = Pair::linked().await;
    let publishing = camera(&pair.lower, "live/cam1");
    pair.lower.until_live("live/cam1").await;
    (pair, publishing)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_looks_without_a_token_and_a_token_is_kept_for_the_tab() {
    let test = "nobody_looks_without_a_token_and_a_token_is_kept_for_the_tab";
    let (token, hash) = ("an-operator's-token", token_sha256("an-operator's-token"));
    let user = format!("{{name: op, token_sha256: \"{hash}\", allow: [play, read-api]}}");
    let node = TestNode::start(&format!("auth: {{users: [{user}]}}"));
    let _publishing = camera(&node, "live/a");
    node.until_live("live/a").await;
    let Some(mut operator) = Operator::at(test, &node, "sign-in", &[token, "live/a"]) else { return };
    let said = operator.says().await;
    assert_eq!(said["refused"], "This node does not know that token.", "{said}");
    assert_eq!((&said["kept"], &said["stored"], &said["leaked"]), (&true.into(), &0.into(), &json!([])), "{said}");
    assert!(!said["address"].as_str().unwrap().contains(token), "{said}");
    operator.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_opens_on_a_wall_that_shows_what_is_below() {
    let test = "it_opens_on_a_wall_that_shows_what_is_below";
    let (pair, _publishing) = with_camera().await;
    let Some(mut operator) = Operator::at(test, &pair.upper, "first-sight", &[STREAM]) else { return };
    let said = operator.says().await;
    println!("{said}");
    // Issue 8: 150 KB compressed. Times are no test's business, and are printed.
    assert!(said["bytes"].as_u64().unwrap() < 150_000, "{said}");
    operator.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tile_plays_a_lowers_stream_by_each_protocol() {
    let test = "a_tile_plays_a_lowers_stream_by_each_protocol";
    let (pair, _publishing) = with_camera().await;
    let Some(mut operator) = Operator::at(test, &pair.upper, "protocols", &[STREAM, "4"]) else { return };
    for protocol in ["whep", "mp4", "flv", "hls"] {
        let said = operator.says().await;
        assert_eq!(
            (&said["protocol"], &said["width"], &said["state"]),
            (&protocol.into(), &640.into(), &"playing".into()),
            "{said}"
        );
        // 100 in 4 s, of which a browser on a busy machine leaves some out; and the first of them may have to catch up.
        let frames = said["frames"].as_u64().unwrap();
        assert!((25..140).contains(&frames), "{said}");
        assert!(said["figures"]["Codec"].as_str().unwrap().contains("640×360"), "{said}");
        assert!(said["figures"]["Rate"].as_str().unwrap().contains("bit/s"), "{said}");
        assert!(said["figures"]["Latency"].as_str().unwrap().ends_with(" ms"), "{said}");
    }
    operator.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_tiles_connect_and_a_page_out_of_sight_costs_nothing() {
    let test = "sixty_four_tiles_connect_and_a_page_out_of_sight_costs_nothing";
    let names: Vec<String> = (1..=8).map(|n| format!("live/cam{n}")).collect();
    let pair = Pair::linked().await;
    let _publishing: Vec<_> = names.iter().map(|name| camera(&pair.lower, name)).collect();
    for name in &names {
        pair.lower.until_live(name).await;
    }
    let above: Vec<String> = names.iter().map(|name| format!("{name}-edge1")).collect();
    let arguments: Vec<&str> = ["64", "3"].into_iter().chain(above.iter().map(String::as_str)).collect();
    let Some(mut operator) = Operator::at(test, &pair.upper, "many", &arguments) else { return };
    let said = operator.says().await;
    println!("{said}");
    assert_eq!(said["playing"], 64, "{said}");
    // So many are sockets, each of its own; on a busy machine a tile may take the second way of them.
    let ways = said["protocols"].as_array().unwrap();
    assert!(ways.contains(&json!("mp4")) && ways.iter().all(|way| way == "mp4" || way == "flv"), "{said}");
    let viewers = async || {
        names
            .iter()
            .all(|name| pair.upper.stream(&format!("{name}-edge1")).is_none_or(|s| s.viewers == 0))
            .then_some(())
    };
    assert_eq!(operator.says().await, json!({ "paused": true }));
    until("the viewers to be gone", viewers).await;
    operator.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_and_recordings_are_what_was_shown() {
    let test = "pictures_and_recordings_are_what_was_shown";
    let Some(five) = Ffmpeg::five(test) else { return };
    let (pair, _publishing) = with_camera().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (picture, recording) = (path("a.png"), path("a.mp4"));
    let Some(mut operator) = Operator::at(test, &pair.upper, "save", &[STREAM, &picture, &recording]) else { return };
    let said = operator.says().await;
    let names: Vec<&str> = said["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(names.iter().all(|name| name.starts_with("live_cam1-edge1-2")), "{said}");
    assert!(names[0].ends_with(".png") && names[1].ends_with(".mp4"), "{said}");
    operator.ends().await;
    // The clip has bars of all brightnesses: white and black are in it.
    let (low, high) = five.brightness(&picture).await;
    assert!(low < 40 && high > 200, "{low}..{high}");
    let played = five.play(&recording).await;
    played.assert_decoded("the recording");
    let (start, duration) = extent(&recording).await;
    assert!(start < 0.1 && (3.0..15.0).contains(&duration), "{start} {duration}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_lost_is_shown_as_lost_and_comes_back() {
    let test = "a_platform_that_is_lost_is_shown_as_lost_and_comes_back";
    let upper = TestNode::named("up", 0, &format!("cascade: {{{GRACE}}}"));
    let address = upper.address();
    // A lower that ends with its runtime, at once and without a word, as a process does that is killed.
    let lower = || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let run = runtime.spawn(async move {
            let node = TestNode::named("edge1", 0, &below(address, "", ""));
            camera(&node, "live/cam1").await.unwrap();
        });
        (runtime, run)
    };
    let (first, _) = lower();
    until_linked(&upper, "edge1", 1).await;
    let Some(mut operator) = Operator::at(test, &upper, "lost", &[STREAM, "edge1"]) else { return };
    assert_eq!(operator.says().await, json!({ "linked": true }));
    let mut events = upper.node.cascade.peers().events();
    first.shutdown_background();
    let known_at = loop {
        if matches!(events.recv().await.unwrap(), culvert_cascade::PeerEvent::Lost(_)) {
            break SystemTime::now();
        }
    };
    let said = operator.says().await;
    let known_at = known_at.duration_since(UNIX_EPOCH).unwrap();
    let shown_at = Duration::from_millis(said["seen_at"].as_u64().unwrap());
    println!("shown {:?} after the node knew; {said}", shown_at.saturating_sub(known_at));
    assert!(said["row"].as_str().unwrap().contains("unknown for"), "{said}");
    assert!(!said["why"].as_str().unwrap().is_empty(), "{said}");
    let (second, _) = lower();
    let said = operator.says().await;
    assert!(said["back"].as_bool().unwrap() && said["frames"].as_u64().unwrap() > 10, "{said}");
    operator.ends().await;
    second.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_is_shown_as_ended_and_plays_again_when_it_is_back() {
    let test = "a_stream_that_ends_is_shown_as_ended_and_plays_again_when_it_is_back";
    let node = TestNode::start("");
    let mut publishing = camera(&node, "live/a");
    node.until_live("live/a").await;
    let Some(mut operator) = Operator::at(test, &node, "ended", &["live/a"]) else { return };
    for protocol in ["whep", "hls"] {
        assert_eq!(operator.says().await, json!({ "playing": protocol }));
        publishing.abort();
        node.until_gone("live/a").await;
        let known_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let said = operator.says().await;
        let after = Duration::from_millis(said["seen_at"].as_u64().unwrap()).saturating_sub(known_at);
        println!("{protocol}: shown {after:?} after the node knew; {said}");
        assert!(said["text"].as_str().unwrap().contains("not there"), "{said}");
        publishing = camera(&node, "live/a");
        let said = operator.says().await;
        assert!(said["frames"].as_u64().unwrap() > 10, "{said}");
    }
    operator.ends().await;
    publishing.abort();
}

/// Issue 4: an old lower is a platform like any other, with its limits shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_m7s_is_a_platform_like_any_other() {
    let test = "a_node_of_m7s_is_a_platform_like_any_other";
    let upper = TestNode::start(&format!("cascade: {{lowers: {{old_peers: true}}, {GRACE}}}"));
    let address = upper.address();
    let mut lower = OldLower::dial(address, "test-c001").await.unwrap();
    lower.introduce("test-c001", "pc-test", "c001").await;
    let pushing: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>> = Arc::default();
    let runtime = tokio::runtime::Handle::current();
    tokio::spawn(lower.serve(move |request| {
        if request.url.starts_with("/erwscascade/api/push?") {
            let wire = capture("h264_aac_whole.c2s.bin");
            *pushing.lock().unwrap() = Some(runtime.spawn(async move {
                let _socket = push(address, &wire, || 8192).await;
                std::future::pending::<()>().await;
            }));
            return Some(b"ok\n".to_vec());
        }
        if request.url.starts_with("/api/stop/push?") {
            pushing.lock().unwrap().take().inspect(|pushing| pushing.abort());
            return Some(b"ok\n".to_vec());
        }
        let streams =
            request.url.contains("streamlist").then_some(&br#"[{"Source":"api","StreamPath":"live/test"}]"#[..]);
        Some(streams.unwrap_or(b"null").to_vec())
    }));
    let listed = async || {
        let peers = upper.json("/api/v1/streams?peer=test-c001").await;
        (peers["items"].as_array()?.len() == 1).then_some(())
    };
    until("its stream to be listed", listed).await;
    let Some(mut operator) = Operator::at(test, &upper, "old", &["test-c001", "live/test"]) else { return };
    let said = operator.says().await;
    assert_eq!((&said["limits"], &said["asks"]), (&true.into(), &json!([])), "{said}");
    assert!(said["cells"].as_array().unwrap().contains(&"m7s".into()), "{said}");
    assert_eq!(
        (&said["tile"]["stream"], &said["tile"]["state"]),
        (&"live/test-test-c001".into(), &"playing".into()),
        "{said}"
    );
    operator.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_suits_a_desk_and_a_phone_both_languages_and_all_people() {
    let test = "each_page_suits_a_desk_and_a_phone_both_languages_and_all_people";
    let name = "Gate <img src=x onerror=hacked=1> house";
    let row = |cid: &str| format!("{{cid: {cid}, token_sha256: \"{}\"}}", token_sha256("a-lower's-token"));
    let admit = format!("lowers: {{admit: [{}, {}]}}", row("edge1"), row("shed-2"));
    let upper = TestNode::named("up", 0, &format!("cascade: {{{GRACE}, {admit}}}"));
    let link = format!("{{url: \"ws://{}\", token: \"a-lower's-token\"}}", upper.address());
    let lower = TestNode::called("edge1", name, &format!("cascade: {{uppers: [{link}]}}"));
    until_linked(&upper, "edge1", 1).await;
    let _publishing = camera(&lower, "live/cam1");
    lower.until_live("live/cam1").await;
    let Some(mut operator) = Operator::at(test, &upper, "pages", &["edge1", name]) else { return };
    for (look, lang, other, platforms) in [
        ("desk-en", "en", "zh", "Platforms"),
        ("desk-zh", "zh", "en", "平台"),
        ("phone-en", "en", "zh", "Platforms"),
        ("phone-zh", "zh", "en", "平台"),
    ] {
        let said = operator.says().await;
        assert_eq!(said["look"], look);
        assert_eq!((&said["findings"], &said["wide"]), (&json!([]), &json!([])), "{said}");
        assert_eq!((&said["lang"], &said["other"]), (&lang.into(), &other.into()), "{said}");
        assert!(said["titles"][0].as_str().unwrap().starts_with(platforms), "{said}");
        // What somebody below calls himself stands there as text.
        assert_eq!((&said["literal"], &said["hacked"]), (&true.into(), &Value::Null), "{said}");
    }
    operator.ends().await;
}
