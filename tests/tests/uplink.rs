//! An uplink that collapses under a stream: from 8 Mbit/s to a tenth of what the stream needs, and back.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::{BufMut, BytesMut};
use culvert_hub::Next;
use culvert_media::{Frame, Time, TrackId};
use culvert_node::camera::{AudioChoice, Clip, VideoChoice};
use culvert_tests::cascade::{GRACE, Pair, Record, Seen, recording, subscriber};
use culvert_tests::ffmpeg::Media;
use culvert_tests::media::{Script, into_hub};
use culvert_tests::pipe::{Direction, Pipe};
use culvert_tests::view::Viewer;
use culvert_tests::wait::until;
use culvert_tests::{Ffmpeg, TestNode};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

const STREAM: &str = "live/a-edge1";
const VIDEO: TrackId = TrackId(0);
const SOUND: TrackId = TrackId(1);
/// 8 Mbit/s.
const WIDE: Option<u64> = Some(1_000_000);
/// 200 kbit/s.
const NARROW: Option<u64> = Some(25_000);
const BEFORE: Duration = Duration::from_secs(4);
const COLLAPSED: Duration = Duration::from_secs(15);
const AFTER: Duration = Duration::from_secs(6);
/// Pictures a second, and in a group.
const RATE: u64 = 30;
/// An AAC packet of 128 kbit/s: 1024 samples at 48 kHz.
const SOUND_MICROS: u64 = 21_333;
const SOUND_BYTES: usize = 341;

/// 2 Mbit/s of pictures, a key frame of 40 KB every second, each with its number behind the NAL header.
fn picture(number: u64) -> Frame {
    let key = number.is_multiple_of(RATE);
    let size: u32 = if key { 40_000 } else { 7_000 };
    let mut data = BytesMut::new();
    data.put_u32(size - 4);
    // H.264 7.3.1: an IDR slice, or another one that is referred to.
    data.put_u8(if key { 0x65 } else { 0x41 });
    data.put_u64(number);
    data.put_bytes(0xaa, size as usize - data.len());
    let dts = Time::from_micros((number * 1_000_000 / RATE) as i64);
    frame(VIDEO, dts, key, data)
}

fn sound(number: u64) -> Frame {
    let data = BytesMut::from(&[0x21; SOUND_BYTES][..]);
    frame(SOUND, Time::from_micros((number * SOUND_MICROS) as i64), true, data)
}

fn frame(track: TrackId, dts: Time, key: bool, data: BytesMut) -> Frame {
    Frame { track, dts, pts: dts, key, discontinuity: false, wall: SystemTime::now(), data: data.freeze() }
}

fn two_megabits() -> Script {
    let (mut pictures, mut sounds) = ((0..).map(picture).peekable(), (0..).map(sound).peekable());
    let frames = std::iter::from_fn(move || {
        let sound_first = sounds.peek()?.dts < pictures.peek()?.dts;
        if sound_first { sounds.next() } else { pictures.next() }
    });
    let due = |frame: Frame| (Duration::from_micros(frame.dts.micros() as u64), Next::Frame(frame));
    let tracks = Clip::load(VideoChoice::H264, AudioChoice::Aac).tracks().clone();
    Script::new(std::iter::once((Duration::ZERO, Next::Tracks(tracks))).chain(frames.map(due)))
}

/// What a picture says it is.
fn number(seen: &Seen) -> u64 {
    u64::from_be_bytes(seen.frame.data[5..13].try_into().unwrap())
}

/// What a proxied request took, or its status where that was not 200.
type Requests = Arc<Mutex<Vec<Result<Duration, u16>>>>;

/// Asks the lower for its health through the upper, every 300 ms.
async fn requests(upper: &TestNode, until: Instant) -> Vec<Result<Duration, u16>> {
    let all = Requests::default();
    let mut running = JoinSet::new();
    let mut tick = interval(Duration::from_millis(300));
    while Instant::now() < until {
        tick.tick().await;
        let (address, all) = (upper.address(), all.clone());
        running.spawn(async move {
            let begun = Instant::now();
            let answer = culvert_tests::http::request(address, "GET", "/peer/edge1/healthz", &[]).await;
            let took = if answer.status == 200 { Ok(begun.elapsed()) } else { Err(answer.status) };
            all.lock().unwrap().push(took);
        });
    }
    while running.join_next().await.is_some() {}
    std::mem::take(&mut all.lock().unwrap())
}

/// The rates, one after the other; when the last began.
async fn collapse(pipe: &Pipe) -> SystemTime {
    pipe.set_rate(Direction::Up, WIDE);
    sleep(BEFORE).await;
    pipe.set_rate(Direction::Up, NARROW);
    sleep(COLLAPSED).await;
    pipe.set_rate(Direction::Up, WIDE);
    let recovered = SystemTime::now();
    sleep(AFTER).await;
    recovered
}

fn of(record: &Record, track: TrackId) -> Vec<Seen> {
    record.lock().unwrap().iter().filter(|seen| seen.frame.track == track).cloned().collect()
}

fn oldest<'a>(seen: impl IntoIterator<Item = &'a Seen>) -> Duration {
    seen.into_iter().map(Seen::age).max().unwrap_or_default()
}

async fn collapses(what: &str, deep: bool) {
    let upper = TestNode::named("up", 0, &format!("cascade: {{{GRACE}}}"));
    let pipe = if deep { Pipe::deep(upper.address()) } else { Pipe::to(upper.address()) };
    let pair = Pair::of(upper, pipe, "").await;
    into_hub(&pair.lower, "live/a", two_megabits());
    pair.lower.until_live("live/a").await;
    let _viewer = Viewer::open(&pair.upper, STREAM, "").await;
    let (came, _) = recording(subscriber(&pair.upper, STREAM));
    let end = Instant::now() + BEFORE + COLLAPSED + AFTER;
    let began = SystemTime::now();
    let (recovered, mut asked) = tokio::join!(collapse(&pair.pipe), requests(&pair.upper, end));
    let (pictures, sounds) = (of(&came, VIDEO), of(&came, SOUND));

    let failed = asked.iter().filter(|took| took.is_err()).count();
    asked.sort();
    let took = |part: usize| asked[(asked.len() - 1) * part / 100].unwrap_or_default();
    eprintln!("{what}: {} proxied requests, {failed} failed: p50 {:?}, p99 {:?}", asked.len(), took(50), took(99));

    // The relay's first frames are those of the cache.
    let fresh = pictures.iter().filter(|seen| seen.frame.wall > began);
    let usual = {
        let before = fresh.clone().filter(|seen| seen.at < began + BEFORE);
        let mut ages: Vec<_> = before.map(Seen::age).collect();
        ages.sort();
        ages[ages.len() / 2]
    };
    let (late, late_sound) = (oldest(fresh), oldest(sounds.iter().filter(|seen| seen.frame.wall > began)));
    eprintln!("{what}: pictures usually {usual:?} old, at most {late:?}; sound at most {late_sound:?}");

    let (mut gaps, mut whole_since) = (0, None);
    for two in pictures.windows(2) {
        let (before, after) = (number(&two[0]), number(&two[1]));
        if after != before + 1 {
            assert!(after > before && two[1].frame.key, "{what}: {after} after {before} cannot be decoded");
            gaps += 1;
            whole_since = Some(two[1].frame.wall);
        }
    }
    let after = whole_since.map(|at| at.duration_since(recovered).unwrap_or_default());
    let info = pair.upper.stream(STREAM).unwrap();
    eprintln!(
        "{what}: {} of {} pictures and {} pieces of sound came, {gaps} gaps, whole again {after:?} after recovery; \
         the sender says {:?}",
        pictures.len(),
        number(pictures.last().unwrap()) + 1,
        sounds.len(),
        info.upstream,
    );
    let shown = pair.upper.json(&format!("/api/v1/streams/{STREAM}")).await;
    eprintln!("{what}: upstream {}", shown["upstream"]);

    assert_eq!(failed, 0, "{asked:?}");
    assert!(took(99) <= Duration::from_secs(3), "{what}: {:?}", took(99));
    assert!(late - usual <= Duration::from_secs(2), "{what}: {late:?}");
    assert!(late_sound <= usual + Duration::from_secs(2), "{what}: {late_sound:?}");
    assert!(after.is_some_and(|after| after <= Duration::from_secs(2)), "{what}: {after:?}");
    // Without a gap since then, and up to the end.
    let last = pictures.last().unwrap().frame.wall;
    assert!(last > recovered + AFTER - Duration::from_secs(1), "{what}: {last:?}");
    assert!(gaps > 0 && shown["upstream"]["frames"].as_u64().unwrap() > 100, "{shown}");
    // Pictures go on all the time, if few.
    let widest = pictures.windows(2).map(|two| two[1].at.duration_since(two[0].at).unwrap_or_default()).max();
    eprintln!("{what}: the longest time without a picture was {widest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_that_collapses_adds_two_seconds_at_most_and_is_whole_again_after_two_groups() {
    // The second behind a modem that buffers 128 KiB.
    tokio::join!(collapses("small buffers", false), collapses("deep buffers", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_through_a_collapse_is_decoded_without_an_error() {
    let Some(five) = Ffmpeg::five("what_comes_through_a_collapse_is_decoded_without_an_error") else { return };
    let pair = Pair::linked().await;
    let _publisher = five.publish(Media::TwoMegabits, &pair.lower.url("rtmp", "/live/a"));
    pair.lower.until_live("live/a").await;
    let rate = async || pair.lower.stream("live/a").filter(|info| info.bits_per_second > 1_500_000);
    until("2 Mbit/s", rate).await;
    let viewer = Viewer::open(&pair.upper, STREAM, "").await;
    let (_came, stays) = recording(subscriber(&pair.upper, STREAM));
    drop(viewer);
    let url = pair.upper.url("http", &format!("/play/{STREAM}.flv"));
    let seconds = (BEFORE + COLLAPSED).as_secs();
    let (played, _) = tokio::join!(five.play_for(seconds, &url), collapse(&pair.pipe));
    played.assert_decoded("a collapse");
    assert!(!stays.is_finished(), "the stream ended");
    let left_out = pair.upper.stream(STREAM).unwrap().upstream;
    eprintln!("decoded; {left_out:?}");
    assert!(left_out.is_some_and(|upstream| upstream.frames > 50), "{left_out:?}");
}
