//! Debian's chromium plays what we give browsers, by Media Source Extensions and by hls.js: `tests/browser/` drives it by playwright-core.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use culvert_hub::Identity;
use culvert_media::Time;
use culvert_node::camera::{AudioChoice, VideoChoice};
use culvert_tests::browser::{SECONDS, browse, browse_all};
use culvert_tests::ffmpeg::Media;
use culvert_tests::media::{Script, drive, into_hub, publisher, recorded};
use culvert_tests::{Ffmpeg, TestNode};
use serde_json::Value;

async fn plays(test: &str, media: Media, sound: &str) {
    let Some(five) = Ffmpeg::five(test) else { return };
    let node = TestNode::start("");
    // By RTSP, for this ffmpeg knows no Opus in FLV.
    let _publisher = five.publish(media, &node.url("rtsp", "/live/a"));
    node.until_live("live/a").await;
    let Some(played) = browse_all(test, "mse.mjs", &node, &[&node.url("ws", "/play/live/a.mp4")]).await else { return };
    let mime = played["mime"].as_str().unwrap();
    assert!(mime.starts_with("video/mp4; codecs=\"avc1.") && mime.ends_with(&format!(",{sound}\"")), "{played}");
    assert_eq!((&played["width"], &played["height"]), (&320.into(), &180.into()), "{played}");
    assert_eq!(
        (&played["errors"], &played["stalls"], &played["ranges"]),
        (&Value::Array(vec![]), &0.into(), &1.into())
    );
    // Of 25 a second; the browser may skip a callback when the machine is busy.
    assert!(played["frames"].as_u64().unwrap() >= SECONDS * 25 * 9 / 10, "{played}");
    assert!(played["audio_bytes"].as_u64().unwrap() > 10_000, "{played}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_h264_and_aac_by_websocket() {
    plays("chromium_plays_h264_and_aac_by_websocket", Media::H264Aac, "mp4a.40.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_h264_and_opus_by_websocket() {
    plays("chromium_plays_h264_and_opus_by_websocket", Media::H264Opus, "opus").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_h264_and_flac_by_websocket_and_hls() {
    let test = "chromium_plays_h264_and_flac_by_websocket_and_hls";
    let Some(nine) = Ffmpeg::nine(test) else { return };
    let node = TestNode::start("");
    let _publisher = nine.publish(Media::H264Flac, &node.url("rtmp", "/live/a"));
    node.until_live("live/a").await;
    let Some(played) = browse_all(test, "mse.mjs", &node, &[&node.url("ws", "/play/live/a.mp4")]).await else { return };
    assert!(played["mime"].as_str().unwrap().ends_with(",fLaC\""), "{played}");
    let Some(hls) = browse_all(test, "hls.mjs", &node, &[&node.url("http", "/play/live/a.m3u8")]).await else { return };
    assert!(hls["levels"][0]["codecs"].as_str().unwrap().to_lowercase().ends_with("flac"), "{hls}");
    for played in [played, hls] {
        assert_eq!((&played["errors"], &played["stalls"]), (&Value::Array(vec![]), &0.into()), "{played}");
        assert!(played["frames"].as_u64().unwrap() >= SECONDS * 25 * 9 / 10, "{played}");
        assert!(played["audio_bytes"].as_u64().unwrap() > 10_000, "{played}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_hears_the_g711_of_a_camera() {
    let test = "chromium_hears_the_g711_of_a_camera";
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", Script::of(Some(VideoChoice::H264), AudioChoice::Pcma));
    node.until_live("live/a").await;
    let Some(played) = browse_all(test, "mse.mjs", &node, &[&node.url("ws", "/play/live/a.mp4")]).await else { return };
    assert!(played["mime"].as_str().unwrap().ends_with(",opus\""), "{played}");
    assert_eq!((&played["errors"], &played["stalls"]), (&Value::Array(vec![]), &0.into()), "{played}");
    assert!(played["frames"].as_u64().unwrap() >= SECONDS * 25 * 9 / 10, "{played}");
    assert!(played["audio_bytes"].as_u64().unwrap() > 10_000, "{played}");
}

async fn plays_by_hls_js(test: &str, media: Media, sound: &str) {
    let Some(five) = Ffmpeg::five(test) else { return };
    let node = TestNode::start("");
    let _publisher = five.publish(media, &node.url("rtsp", "/live/a"));
    node.until_live("live/a").await;
    let Some(played) = browse_all(test, "hls.mjs", &node, &[&node.url("http", "/play/live/a.m3u8")]).await else {
        return;
    };
    let codecs = played["levels"][0]["codecs"].as_str().unwrap();
    assert!(codecs.starts_with("avc1.") && codecs.ends_with(sound), "{played}");
    assert_eq!((&played["width"], &played["height"]), (&320.into(), &180.into()), "{played}");
    let empty = Value::Array(vec![]);
    assert_eq!((&played["fatal"], &played["errors"], &played["stalls"]), (&empty, &empty, &0.into()), "{played}");
    assert!(played["frames"].as_u64().unwrap() >= SECONDS * 25 * 9 / 10, "{played}");
    // Five parts a second, not whole segments; and so it is nearer than one segment is long.
    assert!(played["parts"].as_u64().unwrap() >= SECONDS * 4, "{played}");
    assert!(played["hls_latency_s"].as_f64().unwrap() < 2.0, "{played}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_h264_and_aac_by_low_latency_hls() {
    plays_by_hls_js("chromium_plays_h264_and_aac_by_low_latency_hls", Media::H264Aac, "mp4a.40.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_h264_and_opus_by_low_latency_hls() {
    plays_by_hls_js("chromium_plays_h264_and_opus_by_low_latency_hls", Media::H264Opus, "mp4a.40.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_on_by_hls_over_a_change_and_another_publisher() {
    let test = "chromium_plays_on_by_hls_over_a_change_and_another_publisher";
    let Some(five) = Ffmpeg::five(test) else { return };
    let (tracks, frames) = recorded(&five.record(Media::H264Aac, 5).await);
    let node = TestNode::start("");
    let script = Script::clip_and_then(Time::from_millis(8000), tracks, frames.into_iter());
    let publishing = into_hub(&node, "live/a", script);
    node.until_live("live/a").await;
    let again = async {
        publishing.await.unwrap();
        drive(publisher(&node, "live/a", Identity::anonymous()), Script::clip(|_, frame| Some(frame))).await;
    };
    let url = node.url("http", "/play/live/a.m3u8");
    let arguments = [url.as_str()];
    let played = tokio::select! {
        played = browse(test, "hls.mjs", &node, &arguments) => played,
        () = again => panic!("the clip has no end"),
    };
    let Some(played) = played else { return };
    assert_eq!(played["fatal"], Value::Array(vec![]), "{played}");
    assert!(played["discontinuities"].as_u64().unwrap() >= 1, "{played}");
    // It stands still only while there is nothing to show.
    assert!(played["frames"].as_u64().unwrap() >= SECONDS * 25 / 2, "{played}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_follows_a_change_of_size_in_mid_stream() {
    let test = "chromium_follows_a_change_of_size_in_mid_stream";
    let Some(five) = Ffmpeg::five(test) else { return };
    let (tracks, frames) = recorded(&five.record(Media::H264Aac, 14).await);
    let node = TestNode::start("");
    // Late enough for a browser that has to share the machine with six others while it starts.
    let script = Script::clip_and_then(Time::from_millis(9500), tracks, frames.into_iter());
    let _publishing = into_hub(&node, "live/a", script);
    node.until_live("live/a").await;
    let Some(played) = browse(test, "mse.mjs", &node, &[&node.url("ws", "/play/live/a.mp4")]).await else { return };
    assert_eq!((&played["changes"], &played["width"]), (&1.into(), &320.into()), "{played}");
    assert_eq!((&played["errors"], &played["stalls"]), (&Value::Array(vec![]), &0.into()), "{played}");
}
