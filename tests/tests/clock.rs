//! Timestamps at every boundary, and timestamps that jump: played across without an error, always going forward
//! (faults.md M1 to M3, M9).
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use culvert_tests::ffmpeg::Media;
use culvert_tests::media::{Script, publish};
use culvert_tests::view::{Continuity, Viewer};
use culvert_tests::{Ffmpeg, TestNode};

/// How long it is watched: the boundary, or the jump, is 2 s into the stream.
const SECONDS: u64 = 4;
const BEFORE: i64 = 2000;

/// Watches by our demuxer, and by ffmpeg where it is here; returns what our own eyes saw, and how often the node bent the
/// timeline.
async fn watched(test: &str, stamp: impl Fn(i64) -> i64 + Send + 'static) -> (Continuity, u64) {
    let ffmpeg = Ffmpeg::five(test);
    let node = TestNode::start("");
    publish(node.url("rtmp", "/live/a"), Script::restamped(stamp));
    node.until_live("live/a").await;
    let mut viewer = Viewer::open(&node, "live/a", "").await;
    let see = async {
        let mut seen = Continuity::default();
        // 25 pictures and 47 packets of sound a second.
        while seen.frames < 72 * SECONDS as usize {
            seen.check(&viewer.frame().await.expect("the stream goes on"));
        }
        seen
    };
    let play = async |url: String| {
        let Some(five) = &ffmpeg else { return };
        five.play_for(SECONDS, &url).await.assert_clean(Media::H264Aac, &format!("{test} by {url}"));
    };
    let http = play(node.url("http", "/play/live/a.flv"));
    let (seen, (), ()) = tokio::join!(see, http, play(node.url("rtmp", "/live/a")));
    (seen, node.stream("live/a").unwrap().discontinuities)
}

async fn boundary(test: &str, at: i64) {
    let (seen, bent) = watched(test, move |ms| ms + at - BEFORE).await;
    assert!(seen.widest.millis() <= 42, "{:?}", seen.widest);
    assert_eq!(bent, 0, "nothing jumped");
}

async fn jump(test: &str, by: i64) {
    let (seen, bent) = watched(test, move |ms| 60_000 + ms + if ms >= BEFORE { by } else { 0 }).await;
    // Bent within one frame, or what a busy machine makes of one.
    assert!(seen.widest.millis() <= 1000, "{:?}", seen.widest);
    assert!(bent >= 1, "it was noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extended_timestamp_begins_within_a_stream() {
    boundary("the_extended_timestamp_begins_within_a_stream", 16_777_215).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sign_bit_of_31_is_crossed() {
    boundary("the_sign_bit_of_31_is_crossed", 1 << 31).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_32_bits_wraps() {
    boundary("the_clock_of_32_bits_wraps", 1 << 32).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_of_ten_seconds_is_bent() {
    jump("a_jump_of_ten_seconds_is_bent", 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_back_is_bent() {
    jump("a_jump_back_is_bent", -5_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_of_an_hour_is_bent() {
    jump("a_jump_of_an_hour_is_bent", 3_600_000).await;
}
