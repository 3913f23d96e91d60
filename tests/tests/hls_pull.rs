//! HLS of other servers becomes a stream of ours: what ffmpeg and our own node cut, and what servers do that lie.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use culvert_media::Codec;
use culvert_tests::ffmpeg::Media;
use culvert_tests::media::publish_clip;
use culvert_tests::view::{Continuity, Viewer};
use culvert_tests::wait::until;
use culvert_tests::web::Web;
use culvert_tests::{Ffmpeg, TestNode};
use tempfile::TempDir;

const TS: [&str; 5] = ["-hls_flags", "delete_segments", "-hls_delete_threshold", "3", "a.m3u8"];
const MP4: [&str; 3] = ["-hls_segment_type", "fmp4", "a.m3u8"];

/// A node that pulls `live/a` from there all the time.
fn puller(url: &str) -> TestNode {
    TestNode::start(&format!("pull: {{always: {{live/a: {url:?}}}}}"))
}

/// Frames come as time goes by, not in lumps of a second.
async fn comes_evenly(node: &TestNode, frames: usize) {
    let mut viewer = Viewer::open(node, "live/a", "").await;
    let mut seen = Continuity::default();
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while seen.frames < frames {
        seen.check(&viewer.frame().await.expect("the stream goes on"));
        // The cached group comes at once.
        if seen.frames > frames / 2 {
            longest = longest.max(last.elapsed());
        }
        last = Instant::now();
    }
    assert!(seen.widest.millis() <= 100, "nothing is missing: {:?}", seen.widest);
    assert!(longest < Duration::from_millis(600), "nothing for {longest:?}");
}

/// What ffmpeg cuts is pulled, comes evenly, and every player plays it without an error.
async fn cut_and_pulled(cutter: &Ffmpeg, player: &Ffmpeg, media: Media, arguments: &[&str]) -> TestNode {
    let directory = TempDir::new().unwrap();
    let web = Web::of(directory.path().to_path_buf()).await;
    let _cutter = cutter.segment(media, directory.path(), arguments);
    until("the first segments", async || enough(directory.path(), "a.m3u8").then_some(())).await;
    let node = puller(&web.url("/a.m3u8"));
    node.until_live("live/a").await;
    comes_evenly(&node, 200).await;
    for url in [node.url("http", "/play/live/a.flv"), node.url("http", "/play/live/a.mp4"), node.url("rtmp", "/live/a")]
    {
        player.play(&url).await.assert_clean(media, &format!("{media:?} by {url}"));
    }
    let info = node.stream("live/a").unwrap();
    assert_eq!((info.dropped, info.discontinuities), (0, 0), "{info:?}");
    node
}

/// Three segments are there.
fn enough(directory: &Path, playlist: &str) -> bool {
    let text = std::fs::read_to_string(directory.join(playlist)).unwrap_or_default();
    text.matches("#EXTINF").count() >= 3
}

fn codecs(node: &TestNode) -> Vec<Codec> {
    node.stream("live/a").unwrap().tracks.iter().map(|track| track.codec).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn transport_streams_are_pulled() {
    let Some(five) = Ffmpeg::five("transport_streams_are_pulled") else { return };
    let node = cut_and_pulled(&five, &five, Media::H264Aac, &TS).await;
    assert_eq!(codecs(&node), [Codec::H264, Codec::Aac]);
    cut_and_pulled(&five, &five, Media::BFrames, &TS).await;
    cut_and_pulled(&five, &five, Media::AudioOnly, &TS).await;
    let Some(nine) = Ffmpeg::nine("a part of transport_streams_are_pulled") else { return };
    let node = cut_and_pulled(&five, &nine, Media::H265Aac, &TS).await;
    assert_eq!(codecs(&node), [Codec::H265, Codec::Aac]);
    let node = cut_and_pulled(&nine, &nine, Media::H264Opus, &TS).await;
    assert_eq!(codecs(&node), [Codec::H264, Codec::Opus]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fragmented_mp4_is_pulled() {
    let Some(five) = Ffmpeg::five("fragmented_mp4_is_pulled") else { return };
    cut_and_pulled(&five, &five, Media::BFrames, &MP4).await;
    let Some(nine) = Ffmpeg::nine("a part of fragmented_mp4_is_pulled") else { return };
    let node = cut_and_pulled(&five, &nine, Media::H264Opus, &MP4).await;
    assert_eq!(codecs(&node), [Codec::H264, Codec::Opus]);
    let node = cut_and_pulled(&nine, &nine, Media::Av1Opus, &MP4).await;
    assert_eq!(codecs(&node), [Codec::Av1, Codec::Opus]);
    // All in one file, of which the playlist names ranges.
    let arguments = ["-hls_segment_type", "fmp4", "-hls_flags", "single_file", "a.m3u8"];
    cut_and_pulled(&nine, &nine, Media::H264Aac, &arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_in_a_rendition_of_its_own_is_put_beside_the_picture() {
    let Some(five) = Ffmpeg::five("sound_in_a_rendition_of_its_own_is_put_beside_the_picture") else { return };
    for kind in ["fmp4", "mpegts"] {
        let map = "v:0,agroup:a a:0,agroup:a,default:yes";
        let arguments = ["-hls_segment_type", kind, "-master_pl_name", "all.m3u8", "-var_stream_map", map, "v%v.m3u8"];
        let directory = TempDir::new().unwrap();
        let web = Web::of(directory.path().to_path_buf()).await;
        let _cutter = five.segment(Media::H264Aac, directory.path(), &arguments);
        let both = async || (enough(directory.path(), "v0.m3u8") && enough(directory.path(), "v1.m3u8")).then_some(());
        until("the first segments of both", both).await;
        let node = puller(&web.url("/all.m3u8"));
        node.until_live("live/a").await;
        let two = async || (codecs(&node) == [Codec::H264, Codec::Aac]).then_some(());
        until("both tracks", two).await;
        comes_evenly(&node, 200).await;
        five.play(&node.url("rtmp", "/live/a")).await.assert_clean(Media::H264Aac, kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_pulls_from_a_node_on_demand_and_the_source_knows_when_it_is_over() {
    let a = TestNode::start("");
    publish_clip(a.url("rtmp", "/live/a"));
    a.until_live("live/a").await;
    let url = a.url("http", "/llhls/live/a/index.m3u8");
    let b = TestNode::start(&format!("pull: {{on_demand: {{live/a: {url:?}}}, grace: 1s}}"));
    comes_evenly(&b, 400).await;
    assert_eq!(b.stream("live/a").unwrap().discontinuities, 0);
    assert_eq!(b.stream("live/a").unwrap().tracks.len(), a.stream("live/a").unwrap().tracks.len());
    assert_eq!(a.stream("live/a").unwrap().viewers, 1);
    b.until_gone("live/a").await;
    until("the source to be left", async || (a.stream("live/a")?.viewers == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_begins_anew_keeps_its_viewers() {
    let Some(five) = Ffmpeg::five("a_source_that_begins_anew_keeps_its_viewers") else { return };
    begins_anew(&five, &["a.m3u8"]).await;
    // Its initialisation segment is another then, under the same name.
    begins_anew(&five, &MP4).await;
}

async fn begins_anew(five: &Ffmpeg, arguments: &[&str]) {
    let directory = TempDir::new().unwrap();
    let web = Web::of(directory.path().to_path_buf()).await;
    let cutter = five.segment(Media::H264Aac, directory.path(), arguments);
    until("the first segments", async || enough(directory.path(), "a.m3u8").then_some(())).await;
    let node = puller(&web.url("/a.m3u8"));
    node.until_live("live/a").await;
    let mut viewer = Viewer::open(&node, "live/a", "").await;
    let mut seen = Continuity::default();
    while seen.frames < 100 {
        seen.check(&viewer.frame().await.expect("the stream goes on"));
    }
    drop(cutter);
    for file in std::fs::read_dir(directory.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    // Its numbers begin at 0, with pictures of another codec.
    let _again = five.segment(Media::H265Aac, directory.path(), arguments);
    let other = async || (node.stream("live/a").is_some() && codecs(&node)[0] == Codec::H265).then_some(());
    until("the new source", other).await;
    let until_frames = seen.frames + 200;
    while seen.frames < until_frames {
        seen.check(&viewer.frame().await.expect("its viewers stay"));
    }
}

/// What the pull says of its source, once that is this.
async fn says(node: &TestNode, words: &str) {
    let look = async || {
        let row = node.json("/api/v1/pulls").await["items"][0].clone();
        row["error"].as_str().filter(|error| error.contains(words)).map(str::to_string)
    };
    until(&format!("the pull to say: {words}"), look).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_lie_are_named_and_do_no_harm() {
    let head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n";
    let cases: [(&str, &str, &str); 6] = [
        ("<html>nothing here", "", "does not begin with #EXTM3U but with \"<html>"),
        ("{head}#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n#EXTINF:1,\na.ts\n", "", "encrypts its segments (AES-128)"),
        (
            "{head}#EXTINF:1,\na.ts\n#EXTINF:1,\nb.ts\n#EXTINF:1,\nc.ts\n",
            "no segment, but a page",
            "neither MPEG-TS nor MP4",
        ),
        ("{head}#EXTINF:1,\nfile:///etc/passwd\n", "", "only http and https are followed"),
        ("{head}#EXT-X-MAP:URI=\"i\"\n#EXTINF:1,\na\n#EXTINF:1,\nb\n#EXTINF:1,\nc\n", "\0\0\0\x08ftyp", "no moov box"),
        ("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlist.m3u8\n", "", "leads to another list"),
    ];
    for (playlist, segment, words) in cases {
        let (text, segment) = (playlist.replace("{head}", head), segment.to_string());
        let web = Web::start(move |path| {
            let body = if path.contains("m3u8") { text.clone() } else { segment.clone() };
            (200, body.into_bytes())
        })
        .await;
        let node = puller(&web.url("/list.m3u8"));
        says(&node, words).await;
        assert!(node.stream("live/a").is_none_or(|info| info.tracks.is_empty()), "{playlist}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_playlist_that_never_advances_is_given_up_and_its_requests_are_few() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let web = Web::start(move |path| {
        counted.fetch_add(usize::from(path.contains("m3u8")), Ordering::Relaxed);
        // It says that it blocks, and does not; its segments are not there.
        let text = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES\n#EXTINF:1,\na.ts\n";
        if path.contains("m3u8") { (200, text.into()) } else { (404, Vec::new()) }
    })
    .await;
    let node = TestNode::start(&format!(
        "pull: {{always: {{live/a: {:?}}}}}\nlimits: {{stall_timeout: 3s}}",
        web.url("/list.m3u8")
    ));
    says(&node, "has not advanced for").await;
    // 4 s of it at two a second, and the first one.
    let asked = asked.load(Ordering::Relaxed);
    assert!((4..=12).contains(&asked), "{asked} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_504_with_a_sentence() {
    let web = Web::start(|_| (404, Vec::new())).await;
    let url = web.url("/live/$1.m3u8");
    let node = TestNode::start(&format!("pull: {{on_demand: {{\"live/*\": {url:?}}}}}"));
    let answer = node.get("/play/live/x.flv").await;
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(answer.json()["detail"].as_str().unwrap().contains("404"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn m7s_s_call_pulls_a_playlist_whatever_its_address() {
    let Some(five) = Ffmpeg::five("m7s_s_call_pulls_a_playlist_whatever_its_address") else { return };
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_path_buf();
    let web = Web::start(move |asked| {
        let name = if asked == "/camera?id=1" { "a.m3u8" } else { asked.trim_start_matches('/') };
        std::fs::read(path.join(name)).map_or((404, Vec::new()), |bytes| (200, bytes))
    })
    .await;
    let _cutter = five.segment(Media::H264Aac, directory.path(), &TS);
    until("the first segments", async || enough(directory.path(), "a.m3u8").then_some(())).await;
    let url = web.url("/camera?id=1");
    // Taken for FLV it is a sentence that says what to do.
    let node = TestNode::start("cascade: {lowers: {old_peers: true}}");
    let target = url.replace('?', "%3F");
    let ok = async |call: &str| {
        let answer = node.get(&format!("/{call}/api/pull?streamPath=live/{call}&target={target}")).await;
        assert_eq!((answer.status, answer.text().trim()), (200, "ok"));
    };
    ok("hdl").await;
    says(&node, "end the URL with #hls").await;
    ok("hls").await;
    node.until_live("live/hls").await;
    let pulls = node.json("/api/list/pull").await;
    let row = pulls.as_array().unwrap().iter().find(|row| row["StreamPath"] == "live/hls").unwrap();
    assert_eq!(row["Type"], "HLSPuller", "{pulls}");
    assert_eq!(node.json("/hls/api/list").await[0]["Path"], "live/hls");
}
