//! Lowers that relay what is no relay: the viewer is refused with a sentence, and nobody else notices.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use culvert_formats::relay::{self, Ending, Record};
use culvert_link::{Body, channel};
use culvert_media::{Frame, TrackId, Tracks};
use culvert_node::camera::{AudioChoice, Clip, VideoChoice};
use culvert_tests::cascade::{Pair, until_linked};
use culvert_tests::client::full;
use culvert_tests::lower::Lower;
use culvert_tests::media::{Script, into_hub};
use culvert_tests::view::{Continuity, Viewer};
use culvert_tests::wait::{soon, until};
use http::{Request, Response, StatusCode};
use tokio::time::sleep;

const LIAR: &str = "liar";
const TIMES: &str = "on_demand: {grace: 1s, start_timeout: 1s, hold: 2s}";

fn clip() -> (Tracks, Vec<Frame>) {
    let clip = Clip::load(VideoChoice::H264, AudioChoice::Aac);
    (clip.tracks().clone(), clip.frames().take(100).collect())
}

fn written(records: impl IntoIterator<Item = Record>) -> Bytes {
    let mut out = BytesMut::new();
    for record in records {
        relay::write(&record, &mut out);
    }
    out.freeze()
}

fn hello() -> Record {
    Record::Hello { epoch: 7, next_seq: 0 }
}

/// A record with a length that is not its own.
fn record(length: u32, kind: u8, fields: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32(length);
    out.put_u8(kind);
    out.put_slice(fields);
    out.freeze()
}

/// These pieces, and then either the end or nothing any more.
fn pieces(pieces: impl Iterator<Item = Bytes> + Send + 'static, ends: bool) -> Body {
    let (sender, body) = channel(1);
    tokio::spawn(async move {
        for piece in pieces {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
        if !ends {
            sender.closed().await;
        }
    });
    body
}

fn once(bytes: Bytes) -> Body {
    pieces(std::iter::once(bytes), false)
}

/// What the liar sends as this stream.
fn lie(stream: &str) -> Body {
    let (tracks, mut frames) = clip();
    let first = frames.remove(0);
    let frame = |seq, frame: Frame| Record::Frame { seq, frame };
    match stream {
        "garbage" => once(vec![0x55; 64 << 10].into()),
        "text" => full("<html>It works!</html>"),
        "no-hello" => once(written([Record::Tracks(tracks)])),
        "two-hellos" => once(written([hello(), hello()])),
        "other-version" => once(record(18, 1, &[9; 17])),
        "short-hello" => once(record(5, 1, &[1, 0, 0, 0])),
        "frame-first" => once(written([hello(), frame(0, first)])),
        "other-track" => {
            once(written([hello(), Record::Tracks(tracks), frame(0, Frame { track: TrackId(9), ..first })]))
        }
        "backwards" => once(written([hello(), Record::Tracks(tracks), frame(5, first.clone()), frame(4, first)])),
        "many-tracks" => once([written([hello()]), record(300, 2, &[255; 299])].concat().into()),
        "large-tracks" => once([written([hello()]), record(0x7fff_ffff, 2, &[1; 64])].concat().into()),
        "large-frame" => {
            once([written([hello(), Record::Tracks(tracks)]), record(0xffff_ffff, 3, &[0; 64])].concat().into())
        }
        // A record that is passed over and has no end: 4 GiB of it are announced, and come as fast as they are taken.
        "endless" => {
            let begin = [written([hello()]), record(0xffff_ffff, 200, &[])].concat();
            pieces(std::iter::once(begin.into()).chain(std::iter::repeat(Bytes::from_static(&[0; 16384]))), false)
        }
        "empty" => culvert_link::empty(),
        "ended" => once(written([hello(), Record::End(Ending::Finished)])),
        "silent" => pieces(std::iter::empty(), false),
        "hello-only" => once(written([hello()])),
        _ => unreachable!("{stream} is not asked for"),
    }
}

/// How often each was asked for what.
type Asked = Arc<AtomicUsize>;

async fn answer(request: Request<Body>, asked: Asked) -> Response<Body> {
    let path = request.uri().path().to_string();
    if path == "/cascade/v1/catalogue" {
        let snapshot = r#"{"item":"snapshot","version":1,"platform":{"name":"L","version":"1","started_ms":0}}"#;
        let whole = r#"{"item":"whole","version":1}"#;
        return Response::new(once(format!("{snapshot}\n{whole}\n").into()));
    }
    let stream = path.strip_prefix("/relay/lies/").unwrap_or_default().to_string();
    asked.fetch_add(1, Ordering::Relaxed);
    let refused = |status, body| Response::builder().status(status).body(body).unwrap();
    let (tracks, frames) = clip();
    let all = |from: u64| {
        let frames = frames.clone().into_iter().enumerate();
        let frames = frames.map(move |(n, frame)| Record::Frame { seq: from + n as u64, frame });
        written([hello(), Record::Tracks(tracks.clone())].into_iter().chain(frames))
    };
    match stream.as_str() {
        "no-head" => std::future::pending().await,
        "status" => refused(StatusCode::IM_A_TEAPOT, culvert_link::empty()),
        "endless-refusal" => {
            refused(StatusCode::BAD_GATEWAY, pieces(std::iter::repeat(Bytes::from_static(&[b'<'; 16384])), false))
        }
        "wordy" => {
            let detail = format!("no\\r\\n{}", "\\u001b[31m".repeat(20));
            refused(StatusCode::FORBIDDEN, full(format!("{{\"detail\":\"{detail}\"}}")))
        }
        // Begins well.
        "later" => {
            let (sender, body) = channel(1);
            let good = all(0);
            tokio::spawn(async move {
                sender.send(good).await.ok();
                // A viewer is to have begun before.
                sleep(Duration::from_millis(300)).await;
                sender.send(Bytes::from_static(&[0x55; 4096])).await.ok();
                sender.closed().await;
            });
            Response::new(body)
        }
        // Brings something each time, and breaks off.
        "flaps" => {
            let from = 1000 * asked.load(Ordering::Relaxed) as u64;
            Response::new(pieces(std::iter::once(all(from)), true))
        }
        other => Response::new(lie(other)),
    }
}

struct Stage {
    pair: Pair,
    asked: Asked,
    _liar: Lower,
}

async fn stage() -> Stage {
    let pair = Pair::with(TIMES, "").await;
    into_hub(&pair.lower, "live/a", Script::clip(|_, frame| Some(frame)));
    pair.lower.until_live("live/a").await;
    let asked = Asked::default();
    let counted = asked.clone();
    let liar = Lower::keep(pair.upper.address(), LIAR, move |request| answer(request, counted.clone()));
    until_linked(&pair.upper, LIAR, 1).await;
    Stage { pair, asked, _liar: liar }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_none_is_refused_with_a_sentence_and_disturbs_nobody() {
    let Stage { pair, asked, .. } = &stage().await;
    let mut beside = Viewer::open(&pair.upper, "live/a-edge1", "").await;
    let cases = [
        ("garbage", "relay"),
        ("text", "relay"),
        ("no-hello", "does not begin with a hello"),
        ("two-hellos", "hello twice"),
        ("other-version", "version 9"),
        ("short-hello", "not as long as its fields"),
        ("frame-first", "which was not announced"),
        ("other-track", "which was not announced"),
        ("backwards", "comes after frame 5"),
        ("many-tracks", "more than 16 tracks"),
        ("large-tracks", "at most"),
        ("large-frame", "at most"),
        ("endless", "sent no media within 1 s"),
        ("empty", "without an end"),
        ("ended", "before it began"),
        ("silent", "sent no media within 1 s"),
        ("hello-only", "sent no media within 1 s"),
        ("no-head", "did not answer within 1 s"),
        ("status", "418"),
        ("endless-refusal", "502"),
        ("wordy", "liar says: no"),
    ];
    let lies = cases.map(async |(stream, says)| {
        let begun = Instant::now();
        let answer = pair.upper.get(&format!("/play/lies/{stream}-{LIAR}.flv")).await;
        // What is only found out behind the tracks ends a viewer who was let in.
        if answer.status == 200 {
            assert!(matches!(stream, "other-track" | "backwards" | "large-frame"), "{stream} was taken for a relay");
            return;
        }
        let why = answer.json()["detail"].as_str().unwrap().to_string();
        println!("{stream}: {} {why}", answer.status);
        assert!((400..600).contains(&answer.status), "{stream}: {}", answer.status);
        assert!(why.contains(says) && why.contains(LIAR) && !why.contains(char::is_control), "{stream}: {why}");
        assert!(begun.elapsed() < Duration::from_secs(6), "{stream}: {:?}", begun.elapsed());
    });
    let undisturbed = async {
        let mut seen = Continuity::default();
        while seen.frames < 200 {
            seen.check(&beside.frame().await.unwrap());
        }
        assert!(seen.widest.millis() <= 45, "{:?}", seen.widest);
    };
    tokio::join!(futures_util::future::join_all(lies), undisturbed);
    let ask = asked.load(Ordering::Relaxed);
    assert_eq!(ask, cases.len(), "each is asked once");
    let left = async || (pair.upper.node.hub.list().len() == 1).then_some(());
    until("the lies to be forgotten", left).await;
    let faults = pair.upper.node.cascade.peers().faults();
    assert!(faults.iter().any(|(what, n)| *what == "bad-relay" && *n >= 9), "{faults:?}");
    assert!(pair.upper.node.cascade.peers().list().iter().all(|peer| peer.linked && peer.links == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_lies_later_ends_its_viewers() {
    let Stage { pair, .. } = &stage().await;
    let mut viewer = Viewer::open(&pair.upper, "lies/later-liar", "").await;
    assert!(viewer.frame().await.is_some());
    let ends = async { while viewer.event().await.is_some() {} };
    soon("the end", ends).await;
    pair.upper.until_gone("lies/later-liar").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_breaks_off_again_and_again_is_not_asked_in_a_tight_loop() {
    let Stage { pair, asked, .. } = &stage().await;
    let mut viewer = Viewer::open(&pair.upper, "lies/flaps-liar", "").await;
    assert!(viewer.frame().await.is_some());
    sleep(Duration::from_secs(3)).await;
    let asked = asked.load(Ordering::Relaxed);
    assert!((2..=5).contains(&asked), "asked {asked} times in 3 s");
}
