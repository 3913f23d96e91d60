//! Cameras: pulled all the time or for a viewer, at this node or above, however badly they behave, and back when they come back.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use culvert_media::{Frame, Kind};
use culvert_node::camera::{AudioChoice, Clip, VideoChoice};
use culvert_rtsp::wire::auth::Algorithm;
use culvert_tests::cascade::Pair;
use culvert_tests::ffmpeg::{Media, skipped};
use culvert_tests::media::{Script, into_hub};
use culvert_tests::rtsp::{Camera, Quirks};
use culvert_tests::view::{Continuity, Viewer};
use culvert_tests::wait::until;
use culvert_tests::{Ffmpeg, TestNode};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn pulling(url: &str) -> TestNode {
    TestNode::start(&format!("pull: {{always: {{live/cam: {url:?}}}}}"))
}

/// Looks at so many frames: all of them forward, and pictures among them.
async fn watch(node: &TestNode, stream: &str, frames: usize) {
    let mut viewer = Viewer::open(node, stream, "").await;
    let mut seen = Continuity::default();
    while seen.frames < frames {
        seen.check(&viewer.frame().await.expect("the stream goes on"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cameras_get_wrong_is_understood() {
    let quirks: Vec<(&str, Quirks)> = vec![
        ("none", Quirks::default()),
        ("bare carriage returns", Quirks { bare_cr: true, ..Quirks::default() }),
        ("no control, one track", Quirks { no_control: true, silent: true, ..Quirks::default() }),
        ("a Content-Length that is too small", Quirks { short_length: 20, ..Quirks::default() }),
        ("parameter sets in band only", Quirks { sets_in_band: true, ..Quirks::default() }),
        ("broken RTP-Info", Quirks { bad_info: true, ..Quirks::default() }),
        ("a clock of zero", Quirks { zero_clock: true, ..Quirks::default() }),
        ("a back channel", Quirks { back_channel: true, ..Quirks::default() }),
        ("datagrams only", Quirks { no_tcp: true, ..Quirks::default() }),
        ("another SSRC in the middle", Quirks { changes_ssrc: Some(60), ..Quirks::default() }),
    ];
    for (what, quirks) in quirks {
        let silent = quirks.silent;
        let camera = Camera::start(quirks).await;
        let node = pulling(&camera.url());
        let info = until(&format!("a camera with {what}"), async || {
            node.stream("live/cam").filter(|info| info.state == "live" && info.frames > 20)
        })
        .await;
        assert_eq!(info.tracks.len(), if silent { 1 } else { 2 }, "{what}");
        watch(&node, "live/cam", 150).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_asks_for_a_password_sends_us_on_and_is_told_apart_from_one_that_refuses() {
    for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
        let digest = Some(("admin", "p@ss word", algorithm));
        let camera = Camera::start(Quirks { digest, ..Quirks::default() }).await;
        let url = camera.url().replace("rtsp://", "rtsp://admin:p%40ss%20word@");
        let first = Camera::start(Quirks { redirects: Some(url.clone()), ..Quirks::default() }).await;
        for url in [url, first.url()] {
            let node = pulling(&url);
            node.until_live("live/cam").await;
            watch(&node, "live/cam", 30).await;
        }
        let node = pulling(&camera.url().replace("rtsp://", "rtsp://admin:wrong@"));
        let row = until("a refusal", async || {
            let row = node.json("/api/v1/pulls").await["items"][0].clone();
            row["error"].as_str().is_some().then_some(row)
        })
        .await;
        let error = row["error"].as_str().unwrap();
        assert!(
            error.contains("401") && error.contains("check user and password") && !error.contains("wrong"),
            "{row}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_choice_datagrams_come_first_and_each_way_falls_back_to_the_other() {
    for (what, quirks) in [
        ("both", Quirks::default()),
        ("no datagrams", Quirks { no_udp: true, ..Quirks::default() }),
        ("datagrams that do not come", Quirks { silent_udp: true, ..Quirks::default() }),
    ] {
        let camera = Camera::start(quirks).await;
        let node = pulling(&format!("{}#udp", camera.url()));
        let live = async || node.stream("live/cam").filter(|info| info.state == "live" && info.frames > 20);
        until(&format!("a camera by datagrams: {what}"), live).await;
        watch(&node, "live/cam", 60).await;
    }
}

/// The clip's pictures and sounds by their bytes.
fn whole(frame: &Frame, clip: &[Frame]) -> bool {
    clip.iter().any(|known| known.data == frame.data)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_datagram_in_twenty_lost_the_stream_goes_on_and_nothing_torn_is_seen() {
    let camera = Camera::start(Quirks { no_tcp: true, loses: Some(20), ..Quirks::default() }).await;
    let node = pulling(&camera.url());
    node.until_live("live/cam").await;
    let clip = Clip::load(VideoChoice::H264, AudioChoice::Aac);
    // The clip comes round and round; twice round is all that there is of it.
    let known: Vec<Frame> = clip.frames().take(2000).collect();
    let video = clip.tracks().iter().find(|track| track.kind() == Kind::Video).unwrap().id;
    let mut viewer = Viewer::open(&node, "live/cam", "").await;
    let (mut seen, mut pictures, mut sounds) = (Continuity::default(), 0, 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        let frame = viewer.frame().await.expect("the stream goes on");
        seen.check(&frame);
        assert!(whole(&frame, &known), "torn: {frame:?}");
        if frame.track == video { pictures += 1 } else { sounds += 1 }
    }
    // Nearly all of the sound, and some of the pictures of each group.
    assert!(sounds > 400 && pictures > 20, "{sounds} {pictures}");
    let info = node.stream("live/cam").unwrap();
    assert!(info.dropped > 0, "gaps are counted: {info:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_comes_back_is_back_within_two_seconds_and_its_viewers_are_still_there() {
    let camera = Camera::start(Quirks::default()).await;
    let (port, url) = (camera.address.port(), camera.url());
    let node = pulling(&url);
    node.until_live("live/cam").await;
    let mut viewer = Viewer::open(&node, "live/cam", "").await;
    let mut seen = Continuity::default();
    seen.check(&viewer.frame().await.unwrap());
    drop(camera);
    while let Ok(Some(frame)) = tokio::time::timeout(Duration::from_millis(500), viewer.frame()).await {
        seen.check(&frame);
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let camera = Camera::at(port, Quirks { freezes: Some(100), ..Quirks::default() }).await;
    let returned = Instant::now();
    seen.check(&viewer.frame().await.expect("viewers stay"));
    assert!(returned.elapsed() < Duration::from_secs(2), "{:?}", returned.elapsed());
    // It freezes: its connection lives, and says nothing. That is noticed, and the next one is taken.
    while let Ok(Some(frame)) = tokio::time::timeout(Duration::from_millis(1000), viewer.frame()).await {
        seen.check(&frame);
    }
    drop(camera);
    let _camera = Camera::at(port, Quirks::default()).await;
    let returned = Instant::now();
    seen.check(&viewer.frame().await.expect("viewers stay"));
    assert!(returned.elapsed() < Duration::from_secs(4), "{:?}", returned.elapsed());
    assert_eq!(node.stream("live/cam").unwrap().viewers, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_below_is_started_for_the_first_viewer_above_and_stopped_after_the_last() {
    let camera = Camera::start(Quirks::default()).await;
    let below = format!("pull: {{grace: 1s, on_demand: {{\"cam/*\": \"rtsp://{}/cam/$1\"}}}}", camera.address);
    let pair = Pair::with("on_demand: {grace: 1s}", &below).await;
    assert_eq!(camera.playing.load(Ordering::SeqCst), 0);
    let viewer = Viewer::open(&pair.upper, "cam/1-edge1", "").await;
    let other = Viewer::open(&pair.upper, "cam/1-edge1", "").await;
    let (mut seen, mut viewer) = (Continuity::default(), viewer);
    while seen.frames < 60 {
        seen.check(&viewer.frame().await.unwrap());
    }
    assert_eq!(camera.playing.load(Ordering::SeqCst), 1, "one camera session for all");
    // The same by RTSP, at the upper.
    let url = pair.upper.url("rtsp", "/cam/1-edge1");
    let mut client = culvert_tests::rtsp::Client::connect(pair.upper.address()).await;
    assert_eq!(client.set_up(&url).await, 2);
    drop((viewer, other, client));
    until("the camera to rest", async || (camera.playing.load(Ordering::SeqCst) == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_pushed_to_another_server_and_pushed_again_when_that_was_away() {
    let (Some(nine), port) = (Ffmpeg::nine("a_stream_is_pushed_to_another_server"), culvert_tests::node::free_port())
    else {
        return;
    };
    let lower = TestNode::start(&format!("push: {{list: {{live/a: \"rtsp://127.0.0.1:{port}/from/below\"}}}}"));
    into_hub(&lower, "live/a", Script::clip(|_, frame| Some(frame)));
    until("a dial that fails", async || {
        (lower.json("/api/v1/pushes").await["items"][0]["state"] == "retrying").then_some(())
    })
    .await;
    let upper = TestNode::at(port, "");
    upper.until_live("from/below").await;
    nine.play(&upper.url("rtsp", "/from/below")).await.assert_clean(Media::H264Aac, "pushed by RTSP");
    watch(&upper, "from/below", 100).await;
}

/// GStreamer's RTSP server, as its own example has it, with a pipeline for each client: version 1.22 aborts now and then
/// (`gst_rtsp_media_get_rates`) where one asks for datagrams while another is served the same by TCP.
const GST_SERVER: &str = r#"
import gi, sys
gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_address('127.0.0.1'); server.set_service('0')
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch('( videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=25/1 ! x264enc tune=zerolatency key-int-max=25 ! rtph264pay name=pay0 pt=96 audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay1 pt=8 )')
server.get_mount_points().add_factory('/cam', factory); server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn gstreamer_s_server_is_pulled_from_by_tcp_and_by_udp() {
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(["-c", GST_SERVER])
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let started = command.spawn().ok();
    let mut lines = started.and_then(|mut child| Some((BufReader::new(child.stdout.take()?).lines(), child)));
    let port = match &mut lines {
        Some((lines, _)) => culvert_tests::wait::soon("its port", lines.next_line()).await.ok().flatten(),
        None => None,
    };
    let Some(port) = port else {
        return skipped(
            "gstreamer_s_server_is_pulled_from_by_tcp_and_by_udp",
            "python3-gi and gir1.2-gst-rtsp-server-1.0",
        );
    };
    for choice in ["", "#udp"] {
        let node = pulling(&format!("rtsp://127.0.0.1:{port}/cam{choice}"));
        let info = until(&format!("GStreamer's camera {choice}"), async || {
            node.stream("live/cam").filter(|info| info.state == "live" && info.frames > 100)
        })
        .await;
        let names: Vec<_> = info.tracks.iter().map(|track| track.codec.name()).collect();
        assert_eq!(names, ["h264", "pcma"], "{choice}");
        // It may begin in the middle of a picture: what comes before the first key frame, one a second, is not passed on.
        assert!(info.dropped < 25 && info.discontinuities == 0, "{info:?}");
        watch(&node, "live/cam", 100).await;
    }
}
