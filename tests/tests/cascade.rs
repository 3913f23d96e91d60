//! Video on demand: what a viewer of the upper starts at the lower, shares, and ends; through any number of levels.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::{Duration, Instant};

use culvert_formats::flv::Event;
use culvert_hub::{Action, End, Identity, Next, Wish};
use culvert_media::{Codec, Time, TrackId};
use culvert_node::camera::{AudioChoice, Clip, VideoChoice};
use culvert_tests::cascade::{
    GRACE, Pair, below, by_stamp, recording, relays, stamps, subscriber, until_linked, until_relays,
};
use culvert_tests::ffmpeg::Media;
use culvert_tests::http::request;
use culvert_tests::media::{Script, drive, into_hub, paced, publish_clip, publisher};
use culvert_tests::node::{stream_name, token_sha256};
use culvert_tests::rtmp::Peer;
use culvert_tests::view::{Continuity, Viewer, ask, by_websocket};
use culvert_tests::wait::{soon, until};
use culvert_tests::{Ffmpeg, TestNode};
use tokio::time::sleep;

/// What may pass a link in a second where no video does: heartbeats, and figures in the catalogue.
const QUIET_BYTES: u64 = 6_000;
const VIDEO: TrackId = TrackId(0);

fn clip() -> Script {
    Script::clip(|_, frame| Some(frame))
}

async fn watched(node: &TestNode, stream: &str, viewers: usize) {
    let look = async || (node.stream(stream)?.viewers == viewers).then_some(());
    until(&format!("{viewers} to watch {stream}"), look).await;
}

/// Frames that go forward without a hole.
async fn plays(viewer: &mut Viewer, frames: usize) {
    let mut seen = Continuity::default();
    while seen.frames < frames {
        seen.check(&viewer.frame().await.expect("the stream goes on"));
    }
    assert!(seen.widest.millis() <= 45, "{:?}", seen.widest);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_viewer_starts_a_relay_that_all_share_and_it_ends_a_grace_after_the_last() {
    let pair = Pair::linked().await;
    publish_clip(pair.lower.url("rtmp", "/live/a"));
    pair.lower.until_live("live/a").await;
    let before = pair.up_bytes();
    sleep(Duration::from_secs(1)).await;
    assert!(pair.up_bytes() - before < QUIET_BYTES, "{} bytes, and nobody watches", pair.up_bytes() - before);
    assert_eq!((pair.relays(), pair.upper.stream("live/a-edge1").is_none()), (0, true));

    let mut viewers = Vec::new();
    for _ in 0..4 {
        viewers.push(Viewer::open(&pair.upper, "live/a-edge1", "").await);
    }
    viewers.push(Viewer::begin(ask(&pair.upper, "/hdl/live/a-edge1.flv", None).await).await);
    for viewer in &mut viewers {
        plays(viewer, 60).await;
    }
    assert_eq!(pair.relays(), 1, "{:?}", relays(&pair.lower));
    let info = pair.upper.stream("live/a-edge1").unwrap();
    assert_eq!((info.viewers, info.publisher.protocol, info.dropped, info.discontinuities), (5, "relay", 0, 0));
    assert_eq!(pair.lower.stream("live/a").unwrap().viewers, 1);

    let relay = relays(&pair.lower).remove(0).id;
    viewers.truncate(1);
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(relays(&pair.lower).first().map(|r| r.id), Some(relay), "one watches on");
    drop(viewers);
    watched(&pair.upper, "live/a-edge1", 0).await;
    let gone = Instant::now();
    pair.upper.until_gone("live/a-edge1").await;
    pair.until_relays(0).await;
    let took = gone.elapsed();
    assert!((800..2000).contains(&took.as_millis()), "grace 1 s: {took:?}");
    let before = pair.up_bytes();
    sleep(Duration::from_secs(1)).await;
    let idle = pair.up_bytes() - before;
    assert!(idle < QUIET_BYTES, "{idle} bytes after the relay ended");
    println!("ended {took:?} after the last viewer; {idle} bytes in the second after");
}

async fn played_above(media: Media, publisher: &Ffmpeg, player: &Ffmpeg) {
    let pair = Pair::linked().await;
    let _publisher = publisher.publish(media, &pair.lower.url("rtmp", "/live/a"));
    pair.lower.until_live("live/a").await;
    let upper = &pair.upper;
    let (rtmp, http) = (upper.url("rtmp", "/live/a-edge1"), upper.url("http", "/play/live/a-edge1.flv"));
    let by_ws =
        player.play_from("WS-FLV", "flv", async |stdin| by_websocket(upper, "/play/live/a-edge1.flv", stdin).await);
    let (by_rtmp, by_http, by_ws) = tokio::join!(player.play(&rtmp), player.play(&http), by_ws);
    for (played, how) in [(by_rtmp, "RTMP"), (by_http, "HTTP-FLV"), (by_ws, "WS-FLV")] {
        played.assert_clean(media, &format!("{media:?} by {how}"));
    }
    let info = upper.stream("live/a-edge1").unwrap();
    assert_eq!((info.dropped, info.discontinuities), (0, 0), "{media:?}");
    assert_eq!(info.tracks, pair.lower.stream("live/a").unwrap().tracks);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ffmpeg_publishes_below_is_decoded_above_without_an_error() {
    let Some(five) = Ffmpeg::five("what_ffmpeg_publishes_below_is_decoded_above_without_an_error") else { return };
    for media in [Media::H264Aac, Media::BFrames, Media::VideoOnly, Media::AudioOnly] {
        played_above(media, &five, &five).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h265_of_below_is_decoded_above_without_an_error() {
    let Some(nine) = Ffmpeg::nine("h265_of_below_is_decoded_above_without_an_error") else { return };
    played_above(Media::H265Aac, &nine, &nine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stamps_keys_and_wall_clock_are_those_of_the_source_whatever_the_group_of_pictures() {
    let pair = Pair::linked().await;
    // A group of pictures of 4 s: a relay that begins has as much to send at once, and sound overtakes pictures then.
    let long = |at: Duration, mut frame: culvert_media::Frame| {
        frame.key &= frame.track != VIDEO || at.as_millis().is_multiple_of(4000);
        frame.dts = frame.dts + Time::from_millis(5_000_123);
        frame.pts = frame.pts + Time::from_millis(5_000_123);
        Some(frame)
    };
    let h265 = Clip::load(VideoChoice::H265, AudioChoice::Opus);
    let tracks = std::iter::once((Duration::ZERO, Next::Tracks(h265.tracks().clone())));
    into_hub(&pair.lower, "live/a", Script::clip(long));
    into_hub(&pair.lower, "live/b", Script::new(tracks.chain(paced(h265.frames(), |_, frame| Some(frame)))));
    for stream in ["live/a", "live/b"] {
        pair.lower.until_live(stream).await;
        let (sent, _) = recording(subscriber(&pair.lower, stream));
        sleep(Duration::from_secs(3)).await;
        let _viewer = Viewer::open(&pair.upper, &format!("{stream}-edge1"), "").await;
        let (came, _) = recording(subscriber(&pair.upper, &format!("{stream}-edge1")));
        sleep(Duration::from_secs(3)).await;
        let (sent, came) = (by_stamp(&sent), by_stamp(&came));
        let first = sent.keys().next().unwrap().1;
        let came: Vec<_> = came.into_iter().filter(|((_, dts), _)| *dts >= first).collect();
        for (place, came) in &came {
            let (a, b) =
                (&sent.get(place).unwrap_or_else(|| panic!("{stream}: {came:?} was not sent")).frame, &came.frame);
            assert_eq!((a.pts, a.key, a.discontinuity, &a.data), (b.pts, b.key, b.discontinuity, &b.data), "{stream}");
            let apart = a.wall.duration_since(b.wall).unwrap_or_else(|later| later.duration());
            assert!(apart < Duration::from_micros(1), "{stream}: {apart:?}");
        }
        assert!(came.len() > 210, "{stream}: {}", came.len());
        let figures = pair.upper.stream(&format!("{stream}-edge1")).unwrap();
        assert_eq!((figures.dropped, figures.discontinuities), (0, 0));
    }
}

/// A node at the top, two below it, and two below each of those; the four at the bottom have a stream each.
struct Tree {
    top: TestNode,
    middle: Vec<TestNode>,
    bottom: Vec<TestNode>,
}

async fn tree() -> Tree {
    let top = TestNode::named("top", 0, &format!("cascade: {{{GRACE}}}"));
    let (mut middle, mut bottom) = (Vec::new(), Vec::new());
    for cid in ["m1", "m2"] {
        let node = TestNode::named(cid, 0, &below(top.address(), &format!(", {GRACE}"), ""));
        for leaf in ["b1", "b2"] {
            let leaf = TestNode::named(leaf, 0, &below(node.address(), "", ""));
            into_hub(&leaf, "live/a", clip());
            bottom.push(leaf);
        }
        middle.push(node);
    }
    for (at, cid) in ["m1", "m2"].iter().enumerate() {
        until_linked(&top, cid, 1).await;
        for leaf in ["b1", "b2"] {
            until_linked(&middle[at], leaf, 1).await;
        }
    }
    Tree { top, middle, bottom }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_levels_with_two_lowers_each_play_by_their_names_and_end_end_to_end() {
    let tree = tree().await;
    let Tree { top, middle, bottom } = &tree;
    let names = ["live/a-b1-m1", "live/a-b2-m1", "live/a-b1-m2", "live/a-b2-m2"];
    let mut viewers = Vec::new();
    for name in names {
        let asked = Instant::now();
        let mut viewer = Viewer::open(top, name, "").await;
        let first = viewer.frame().await.unwrap();
        // The goal is 300 ms, which the bench measures; here other tests run beside, and nothing is optimised.
        let took = asked.elapsed();
        println!("{name}: first frame after {took:?}");
        assert!(first.key && took < Duration::from_secs(3), "{name}: {took:?}");
        viewers.push(viewer);
    }
    for viewer in &mut viewers {
        plays(viewer, 100).await;
    }
    for leaf in bottom {
        assert_eq!(relays(leaf).len(), 1);
    }
    assert!(middle.iter().all(|node| relays(node).len() == 2));
    // One more in the middle shares what the top has begun there.
    let mut beside = Viewer::open(&middle[0], "live/a-b1", "").await;
    plays(&mut beside, 60).await;
    assert_eq!(relays(&bottom[0]).len(), 1);
    drop((viewers, beside));
    watched(top, names[0], 0).await;
    let gone = Instant::now();
    for node in bottom.iter().chain(middle) {
        until_relays(node, 0).await;
    }
    let took = gone.elapsed();
    println!("ended {took:?} after the last viewer, with a grace of 1 s");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_who_comes_while_a_relay_is_stopping_is_never_refused() {
    // The moments around the end, through one level and through two.
    let tree = tree().await;
    let Tree { top, middle, .. } = &tree;
    let places = [(&middle[0], "live/a-b1"), (&middle[0], "live/a-b2"), (top, "live/a-b1-m2"), (top, "live/a-b2-m2")];
    let tries = places.into_iter().enumerate().map(async |(place, (node, stream))| {
        let mut restarted = 0;
        for n in 0..8 {
            Viewer::open(node, stream, "").await.frame().await.unwrap();
            watched(node, stream, 0).await;
            let before = node.stream(stream).unwrap().publisher.id;
            // From 30 ms before the end to 18 ms after it, with the noise of the machine.
            sleep(Duration::from_micros(970_000 + n * 6_000 + place as u64 * 1_500)).await;
            let mut viewer = Viewer::open(node, stream, "").await;
            assert!(viewer.frame().await.is_some_and(|frame| frame.key));
            restarted += u64::from(before != node.stream(stream).unwrap().publisher.id);
        }
        restarted
    });
    let restarted: u64 = futures_util::future::join_all(tries).await.iter().sum();
    println!("{restarted} of 32 relays were started again");
    assert!((4..32).contains(&restarted), "the moments are not around the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_stream_is_said_to_be_missing_in_the_words_of_who_was_asked() {
    let tree = tree().await;
    let top = &tree.top;
    let asked = Instant::now();
    for (stream, says) in [
        ("live/none-m1", "m1 says: there is no stream live/none"),
        ("live/none-b1-m1", "m1 says: b1 says: there is no stream live/none"),
        ("live/a-b9-m1", "m1 says: there is no stream live/a-b9"),
        ("live/a-m9", "there is no stream live/a-m9"),
    ] {
        let answer = top.get(&format!("/play/{stream}.flv")).await;
        assert_eq!(answer.status, 404, "{stream}: {}", answer.text());
        assert_eq!(answer.json()["detail"], says, "{stream}");
        let (code, why) = Peer::connect(top, culvert_rtmp::session::Goal::Play, stream).await.refused().await;
        assert_eq!((code.as_str(), why.as_str()), ("NetStream.Play.StreamNotFound", says));
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(top.node.hub.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_platform_is_said_to_be_lost_and_since_when() {
    let pair = Pair::linked().await;
    into_hub(&pair.lower, "live/a", clip());
    pair.pipe.refuse(true);
    pair.pipe.close();
    let peers = pair.upper.node.cascade.peers();
    until("the link to be lost", async || peers.list().iter().all(|peer| !peer.linked).then_some(())).await;
    let answer = pair.upper.get("/play/live/a-edge1.flv").await;
    let why = answer.json()["detail"].as_str().unwrap().to_string();
    assert!(
        answer.status >= 502 && why.contains("edge1") && why.contains("it was lost 0 s ago"),
        "{} {why}",
        answer.status
    );
    println!("{} {why}", answer.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_the_lower_pulls_on_demand_starts_and_stops_with_the_viewer_above() {
    let camera = TestNode::start("");
    into_hub(&camera, "live/cam", clip());
    camera.until_live("live/cam").await;
    let pull = format!("pull: {{grace: 1s, on_demand: {{\"cams/*\": {:?}}}}}", camera.url("rtmp", "/live/$1"));
    let pair = Pair::with(GRACE, &pull).await;
    assert_eq!(camera.stream("live/cam").unwrap().viewers, 0);
    let mut viewer = Viewer::open(&pair.upper, "cams/cam-edge1", "").await;
    plays(&mut viewer, 60).await;
    assert_eq!(camera.stream("live/cam").unwrap().viewers, 1);
    drop(viewer);
    watched(&pair.upper, "cams/cam-edge1", 0).await;
    let gone = Instant::now();
    watched(&camera, "live/cam", 0).await;
    println!("the camera was left {:?} after the last viewer, with graces of 1 s", gone.elapsed());
    assert!(gone.elapsed() < Duration::from_secs(2), "{:?}", gone.elapsed());
    assert!(pair.lower.stream("cams/cam").is_none() && pair.upper.stream("cams/cam-edge1").is_none());
    // And again.
    let mut viewer = Viewer::open(&pair.upper, "cams/cam-edge1", "").await;
    plays(&mut viewer, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_a_key_frame_travels_down() {
    let tree = tree().await;
    let leaf = &tree.bottom[0];
    let camera = publisher(leaf, "live/b", Identity::anonymous());
    let clip = Clip::load(VideoChoice::H264, AudioChoice::None);
    camera.set_tracks(clip.tracks().clone());
    let mut frames = clip.frames();
    camera.write(frames.next().unwrap()).unwrap();
    let mut viewer = Viewer::open(&tree.top, "live/b-b1-m1", "").await;
    viewer.frame().await.unwrap();
    subscriber(&tree.top, "live/b-b1-m1").wish(Wish::KeyFrame);
    assert_eq!(soon("the wish", camera.wish()).await, Wish::KeyFrame);
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_above_stay_when_the_publisher_below_is_replaced_even_by_another_codec() {
    let pair = Pair::linked().await;
    let camera = Identity::proven("camera");
    tokio::spawn(drive(publisher(&pair.lower, "live/a", camera.clone()), clip()));
    pair.lower.until_live("live/a").await;
    let mut viewer = Viewer::open(&pair.upper, "live/a-edge1", "").await;
    plays(&mut viewer, 60).await;
    let mut frames = subscriber(&pair.upper, "live/a-edge1");
    let (seen, _) = recording(subscriber(&pair.upper, "live/a-edge1"));
    let h265 = Clip::load(VideoChoice::H265, AudioChoice::Aac);
    let tracks = std::iter::once((Duration::ZERO, Next::Tracks(h265.tracks().clone())));
    let script = Script::new(tracks.chain(paced(h265.frames(), |_, frame| Some(frame))));
    tokio::spawn(drive(publisher(&pair.lower, "live/a", camera), script));
    let changed = async {
        loop {
            match frames.next().await {
                Next::Tracks(tracks) if tracks.video().unwrap().codec == Codec::H265 => break,
                Next::End(end) => panic!("the stream ended: {end:?}"),
                Next::Tracks(_) | Next::Frame(_) | Next::Gap(_) => {}
            }
        }
    };
    soon("the other codec", changed).await;
    let Next::Frame(first) = frames.next().await else { panic!("tracks are followed by a frame") };
    // Of each codec only whole groups of pictures.
    let first = match first.track {
        VIDEO => first,
        _ => loop {
            if let Next::Frame(frame) = soon("a picture", frames.next()).await
                && frame.track == VIDEO
            {
                break frame;
            }
        },
    };
    assert!(first.key, "{first:?}");
    // The viewer, who has an old packaging, is still there and sees it too.
    let switched = async {
        loop {
            match viewer.event().await.expect("viewers stay") {
                Event::Tracks(tracks) if tracks.video().is_some_and(|t| t.codec == Codec::H265) => break,
                Event::Tracks(_) | Event::Frame(_) | Event::EndOfSequence => {}
            }
        }
    };
    soon("the viewer to see it", switched).await;
    let video = stamps(&seen, VIDEO);
    assert!(video.is_sorted() && video.windows(2).all(|two| (two[1] - two[0]).millis() < 1500), "{video:?}");
    assert_eq!(pair.relays(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_stream_below_is_the_end_above_and_its_reason_is_told() {
    let pair = Pair::linked().await;
    for (end, name) in [(End::Finished, "live/a"), (End::Lost, "live/b")] {
        let camera = publisher(&pair.lower, name, Identity::anonymous());
        let clip = Clip::load(VideoChoice::H264, AudioChoice::Aac);
        camera.set_tracks(clip.tracks().clone());
        let mut frames = clip.frames();
        camera.write(frames.next().unwrap()).unwrap();
        let above = format!("{name}-edge1");
        let mut viewer = Viewer::open(&pair.upper, &above, "").await;
        viewer.frame().await.unwrap();
        let (_, ended) = recording(subscriber(&pair.upper, &above));
        camera.finish(end.clone());
        assert_eq!(soon("the end", ended).await.unwrap(), end);
        assert!(soon("the viewer's end", viewer.event()).await.is_none());
        pair.upper.until_gone(&above).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_can_be_closed_by_the_api_of_either_end_and_the_next_viewer_starts_another() {
    let pair = Pair::linked().await;
    into_hub(&pair.lower, "live/a", clip());
    pair.lower.until_live("live/a").await;
    for at_upper in [true, false] {
        let mut viewer = Viewer::open(&pair.upper, "live/a-edge1", "").await;
        plays(&mut viewer, 30).await;
        let (_, ended) = recording(subscriber(&pair.upper, "live/a-edge1"));
        let (node, id) = match at_upper {
            true => (&pair.upper, pair.upper.stream("live/a-edge1").unwrap().publisher.id),
            false => (&pair.lower, relays(&pair.lower)[0].id),
        };
        let answer = request(node.address(), "DELETE", &format!("/api/v1/sessions/{id}"), &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(soon("the end", ended).await.unwrap(), End::Closed);
        while viewer.event().await.is_some() {}
        pair.until_relays(0).await;
    }
    let sessions = pair.lower.node.hub.sessions();
    assert!(sessions.iter().all(|session| session.action == Action::Publish), "{sessions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_viewer_above_does_not_disturb_the_others() {
    let pair = Pair::linked().await;
    // About 4 Mbit/s, so that a socket is full soon.
    let fat = |_, mut frame: culvert_media::Frame| {
        let mut data = frame.data.to_vec();
        if frame.track == VIDEO {
            data.extend([0, 0, 0x40, 0, 12]);
            data.extend(std::iter::repeat_n(0xff, 0x40_00 - 1));
        }
        frame.data = data.into();
        Some(frame)
    };
    into_hub(&pair.lower, "live/a", Script::clip(fat));
    pair.lower.until_live("live/a").await;
    let (mut one, mut two) =
        (Viewer::open(&pair.upper, "live/a-edge1", "").await, Viewer::open(&pair.upper, "live/a-edge1", "").await);
    let _slow = ask(&pair.upper, "/play/live/a-edge1.flv", Some(4096)).await;
    watched(&pair.upper, "live/a-edge1", 3).await;
    let both = async { tokio::join!(plays(&mut one, 350), plays(&mut two, 350)) };
    soon("350 frames", both).await;
    assert_eq!(pair.relays(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_not_given_to_who_may_not_play() {
    let node = TestNode::start(&format!(
        "auth:\n  users:\n  - {{name: other, token_sha256: {}, allow: [play], streams: \"other/**\"}}\n  - {{name: \
         viewer, token_sha256: {}, allow: [play], streams: \"live/**\"}}\n",
        token_sha256("other's"),
        token_sha256("viewer's")
    ));
    into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    for (token, status) in [(None, 401), (Some("Bearer wrong"), 401), (Some("Bearer other's"), 403)] {
        let headers: Vec<_> = token.into_iter().map(|token| ("Authorization", token)).collect();
        let answer = request(node.address(), "GET", "/relay/live/a", &headers).await;
        assert_eq!(answer.status, status, "{token:?}: {}", answer.text());
    }
    let answer = request(node.address(), "GET", "/relay/live/none", &[("Authorization", "Bearer viewer's")]).await;
    assert_eq!(answer.status, 404, "{}", answer.text());
    assert_eq!(relays(&node).len(), 0);
    assert!(node.node.hub.info(&stream_name("live/a")).is_some_and(|info| info.viewers == 0));
}
