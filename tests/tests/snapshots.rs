//! Pictures: decoded here, given again from the cache, taken at the lower for what is below.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use culvert_node::camera::{AudioChoice, VideoChoice};
use culvert_tests::cascade::Pair;
use culvert_tests::ffmpeg::Media;
use culvert_tests::http::{Answer, request};
use culvert_tests::media::{Script, into_hub, recorded};
use culvert_tests::node::token_sha256;
use culvert_tests::wait::{soon, until};
use culvert_tests::{Ffmpeg, TestNode};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Width, height and mean colour of a JPEG, as ffmpeg has them.
async fn look(jpeg: &[u8]) -> (usize, usize, [f64; 3]) {
    assert_eq!((&jpeg[..2], &jpeg[jpeg.len() - 2..]), (&[0xff, 0xd8][..], &[0xff, 0xd9][..]), "a whole JPEG");
    let size = jpeg.windows(9).find(|w| w[0] == 0xff && w[1] == 0xc0).unwrap();
    let (height, width) = (u16::from_be_bytes([size[5], size[6]]), u16::from_be_bytes([size[7], size[8]]));
    let mut child = Command::new("ffmpeg")
        .args([
            "-v", "error", "-xerror", "-f", "mjpeg", "-i", "pipe:0", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(jpeg).await.unwrap();
    let pixels = soon("ffmpeg to decode a JPEG", child.wait_with_output()).await.unwrap().stdout;
    assert_eq!(pixels.len(), usize::from(width) * usize::from(height) * 3);
    let mean = |at: usize| {
        let sum: f64 = pixels.iter().skip(at).step_by(3).map(|sample| f64::from(*sample)).sum();
        sum / (pixels.len() / 3) as f64
    };
    (width.into(), height.into(), [mean(0), mean(1), mean(2)])
}

/// Publishes one colour until dropped.
fn publish_colour(node: &TestNode, size: &str, codec: &str, more: &str) -> tokio::process::Child {
    let url = node.url("rtsp", "/live/a");
    let arguments = format!(
        "-nostdin -v fatal -re -f lavfi -i color=c=0x2060c0:size={size}:rate=10 {more} -c:v {codec} -g 10 -t 60 \
         -f rtsp -rtsp_transport tcp {url}"
    );
    Command::new("ffmpeg").args(arguments.split_whitespace()).kill_on_drop(true).spawn().unwrap()
}

async fn is_the_colour(answer: &Answer, width: usize, height: usize) {
    assert_eq!((answer.status, answer.header("content-type").as_deref()), (200, Some("image/jpeg")), "{}", answer.head);
    let (w, h, mean) = look(&answer.body).await;
    assert_eq!((w, h), (width, height));
    for (got, wanted) in mean.iter().zip([0x20, 0x60, 0xc0]) {
        assert!((got - f64::from(wanted)).abs() < 6.0, "{mean:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h264_and_h265_become_jpegs_of_the_right_colours() {
    if Ffmpeg::five("h264_and_h265_become_jpegs_of_the_right_colours").is_none() {
        return;
    }
    // With BT.709 said, not said, in full range; in ten bits; in several slices.
    let h264 = "libx264 -preset ultrafast -pix_fmt yuv420p";
    let h265 = "libx265 -preset ultrafast -x265-params log-level=none";
    let tagged = "-vf scale=out_color_matrix=bt709 -colorspace bt709";
    for (size, codec, more) in [
        ("1280x720", format!("{h264} -x264-params slices=4"), tagged.to_string()),
        ("640x360", h264.to_string(), String::new()),
        ("322x182", h264.to_string(), "-vf scale=out_range=full -color_range pc".to_string()),
        ("1920x1080", format!("{h265} -pix_fmt yuv420p"), tagged.to_string()),
        ("640x360", format!("{h265} -pix_fmt yuv420p10le"), String::new()),
    ] {
        let node = TestNode::start("");
        let _publisher = publish_colour(&node, size, &codec, &more);
        node.until_live("live/a").await;
        let (width, height) = size.split_once('x').map(|(w, h)| (w.parse().unwrap(), h.parse().unwrap())).unwrap();
        let first = node.get("/snapshot/live/a.jpg").await;
        is_the_colour(&first, width, height).await;
        // By the same decoder.
        let second = until("a newer key frame", async || {
            let answer = node.get("/snapshot/live/a.jpg").await;
            (answer.header("etag") != first.header("etag")).then_some(answer)
        })
        .await;
        is_the_colour(&second, width, height).await;
        is_the_colour(&node.get("/snap/live/a?width=160").await, 160, height * 160 / width).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_made_once_for_each_key_frame() {
    let node = TestNode::start("");
    // One key frame, and no other: the clip's first second, and then sound.
    let _publishing = into_hub(
        &node,
        "live/a",
        Script::clip(|at, frame| Some(frame).filter(|f| at < Duration::from_millis(900) || f.track.0 != 0)),
    );
    node.until_live("live/a").await;
    let first = node.get("/snapshot/live/a.jpg").await;
    assert_eq!(first.status, 200, "{}", first.text());
    let (etag, modified) = (first.header("etag").unwrap(), first.header("last-modified").unwrap());
    assert!(modified.ends_with("GMT"), "{modified}");
    let count = async |what: &str| node.metric(&format!("culvert_snapshots_total{{what=\"{what}\"}}")).await;
    let asked: Vec<_> = (0..20).map(|_| node.get("/snapshot/live/a.jpg")).collect();
    for again in asked {
        assert_eq!(again.await.body, first.body);
    }
    assert_eq!((count("made").await, count("kept").await), (1.0, 20.0));
    let known = request(node.address(), "GET", "/snapshot/live/a.jpg", &[("If-None-Match", &etag)]).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    // Another width is another picture; widths are rounded to a few.
    let small = node.get("/snapshot/live/a.jpg?width=100").await;
    assert_ne!(small.header("etag").unwrap(), etag);
    assert_eq!(node.get("/snapshot/live/a.jpg?width=112").await.body, small.body);
    assert_eq!(count("made").await, 2.0);
    assert_eq!(node.stream("live/a").unwrap().viewers, 0, "nobody watches by that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_key_frame_is_a_newer_picture() {
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", Script::clip(|_, frame| Some(frame)));
    node.until_live("live/a").await;
    let first = node.get("/snapshot/live/a.jpg").await.header("etag").unwrap();
    until("another picture", async || {
        let answer = request(node.address(), "GET", "/snapshot/live/a.jpg", &[("If-None-Match", &first)]).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shown_is_said() {
    let node = TestNode::start("");
    let _sound = into_hub(&node, "live/sound", Script::of(None, AudioChoice::Aac));
    node.until_live("live/sound").await;
    let Some(nine) = Ffmpeg::nine("a part of what_cannot_be_shown_is_said") else { return };
    let (tracks, frames) = recorded(&nine.record(Media::Av1Opus, 2).await);
    let none = Script::clip_and_then(culvert_media::Time::ZERO, tracks, frames.into_iter());
    let _av1 = into_hub(&node, "live/av1", none);
    until("av1", async || {
        let info = node.stream("live/av1")?;
        info.tracks.iter().any(|track| track.codec == culvert_media::Codec::Av1).then_some(())
    })
    .await;
    for (path, status, word) in [
        ("/snapshot/live/none.jpg", 404, "no-stream"),
        ("/snapshot/live/sound.jpg", 406, "sound only"),
        ("/snapshot/live/av1.jpg", 406, "av1"),
        ("/snapshot/live/none", 404, "/snapshot/NAME.jpg"),
        ("/snapshot/live%2f..%2fx.jpg", 400, "bad-name"),
        ("/snapshot/live/sound.jpg?width=0", 400, "width"),
        ("/snapshot/live/sound.jpg?width=99999", 400, "width"),
        ("/snapshot/live/sound.jpg?width=x", 400, "width"),
    ] {
        let begun = Instant::now();
        let answer = node.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.text().contains(word), "{path}: {}", answer.text());
        assert!(begun.elapsed() < Duration::from_secs(2), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_cannot_be_decoded_harms_nobody() {
    let node = TestNode::start("");
    // The slices of every key frame are turned over behind their headers.
    let broken = Script::clip(|_, mut frame| {
        if frame.track.0 == 0 {
            let mut data = frame.data.to_vec();
            let from = data.len() / 2;
            for (i, byte) in data[from..].iter_mut().enumerate() {
                *byte ^= (i * 37) as u8 | 1;
            }
            frame.data = data.into();
        }
        Some(frame)
    });
    let _broken = into_hub(&node, "live/broken", broken);
    let _sound = into_hub(&node, "live/a", Script::of(Some(VideoChoice::H264), AudioChoice::None));
    node.until_live("live/broken").await;
    node.until_live("live/a").await;
    // Some of it may show; it is answered, with a picture or with why there is none.
    let answer = node.get("/snapshot/live/broken.jpg").await;
    assert!(matches!(answer.status, 200 | 502), "{}: {}", answer.status, answer.text());
    assert_eq!(node.get("/snapshot/live/a.jpg").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_below_one_picture_crosses_the_link_and_no_video() {
    let pair = Pair::linked().await;
    let _publishing = into_hub(&pair.lower, "live/a", Script::clip(|_, frame| Some(frame)));
    pair.lower.until_live("live/a").await;
    until("the catalogue to have it", async || {
        let streams = pair.upper.json("/api/v1/streams?peer=edge1").await;
        (!streams["items"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    let before = pair.up_bytes();
    let answer = pair.upper.get("/snapshot/live/a-edge1.jpg?width=160").await;
    assert_eq!(
        (answer.status, answer.header("content-type").as_deref()),
        (200, Some("image/jpeg")),
        "{}",
        answer.text()
    );
    assert_eq!(look(&answer.body).await.0, 160);
    assert_eq!(pair.relays(), 0, "no video crosses");
    let crossed = usize::try_from(pair.up_bytes() - before).unwrap();
    assert!(crossed < answer.body.len() + 4_000, "{crossed} bytes for a picture of {}", answer.body.len());
    // What the asker has already does not cross again.
    let etag = answer.header("etag").unwrap();
    let path = "/snapshot/live/a-edge1.jpg?width=160";
    let known = until("the same key frame twice", async || {
        let fresh = pair.upper.get(path).await.header("etag")?;
        let known = request(pair.upper.address(), "GET", path, &[("If-None-Match", &fresh)]).await;
        (known.status == 304).then_some(known)
    })
    .await;
    assert!(known.body.is_empty() && !etag.is_empty());
    let none = pair.upper.get("/snapshot/live/none-edge1.jpg").await;
    assert_eq!(none.status, 404, "{}", none.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_play_sees_no_picture() {
    let hash = token_sha256("viewer");
    let users = format!("auth: {{users: [{{name: v, token_sha256: {hash}, allow: [play], streams: \"live/*\"}}]}}\n");
    let node = TestNode::start(&users);
    let _publishing = into_hub(&node, "live/a", Script::clip(|_, frame| Some(frame)));
    node.until_live("live/a").await;
    assert_eq!(node.get("/snapshot/live/a.jpg").await.status, 401);
    assert_eq!(node.get("/snapshot/live/a.jpg?token=viewer").await.status, 200);
    assert_eq!(node.get("/snapshot/other/a.jpg?token=viewer").await.status, 403);
}
