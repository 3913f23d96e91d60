//! Viewers of a hub, over pipes instead of sockets: who gets what, who is dropped, and that nothing is left behind.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_hub::{
    Action, Ask, Attached, BoxFuture, Class, Credentials, Demand, End, Gate, Grant, Hub, HubLimits, Identity, Next,
    Pace, Policy, Publisher, Refusal, RingLimits, Source, Starting, Wish,
};
use culvert_media::{Chunk, Codec, Frame, Mux, StreamName, Time, Track, TrackId, Tracks};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const VIDEO: TrackId = TrackId(0);

/// Chunks that can be read by eye: `H;` header, `R;` reentry, `T;` new tracks, `K7;` key frame 7, `p8;` the others; padded so
/// that each frame's chunk has the size of its data.
struct Words;

impl Mux for Words {
    const NAME: &'static str = "words";
    fn new(_: &Tracks) -> Words {
        Words
    }
    fn header(&self) -> Bytes {
        Bytes::from_static(b"H;")
    }
    fn reentry(&self) -> Bytes {
        Bytes::from_static(b"R;")
    }
    fn set_tracks(&mut self, _: &Tracks, out: &mut Vec<Chunk>) {
        out.push(Chunk { data: Bytes::from_static(b"T;"), entry: false, time: Time::ZERO });
    }
    fn push(&mut self, frame: &Frame, out: &mut Vec<Chunk>) {
        let word = format!("{}{};", if frame.key { 'K' } else { 'p' }, frame.dts.millis() / 40);
        let data = format!("{word:·>width$}", width = frame.data.len().max(word.len()));
        out.push(Chunk { data: data.replace('·', ".").into(), entry: frame.key, time: frame.dts });
    }
}

fn name() -> StreamName {
    "live/a".parse().expect("in the grammar")
}

fn source() -> Source {
    Source { protocol: "test", remote: ([127, 0, 0, 1], 1).into() }
}

/// VP8 needs no configuration record.
fn tracks() -> Tracks {
    Tracks::new(vec![Track::new(VIDEO, Codec::Vp8, Bytes::new()).expect("VP8 has no record")])
}

fn frame(n: i64, key: bool, bytes: usize) -> Frame {
    let time = Time::from_millis(n * 40);
    let data = vec![0; bytes].into();
    Frame { track: VIDEO, dts: time, pts: time, key, discontinuity: false, wall: SystemTime::UNIX_EPOCH, data }
}

fn publish(hub: &Hub, identity: Identity) -> Publisher {
    let publisher = hub.publish(&name(), source(), identity).expect("the name is free");
    publisher.set_tracks(tracks());
    publisher
}

fn small() -> Hub {
    let cache = RingLimits { bytes: 64 << 10, ..RingLimits::default() };
    Hub::new(HubLimits { cache, workers: 1, ..HubLimits::default() })
}

/// A viewer whose pipe holds `room` bytes.
fn watch(hub: &Hub, class: Class, room: usize) -> (Attached, DuplexStream) {
    let admission = hub.read(&name(), source(), Identity::anonymous()).expect("the stream is live");
    let (ours, theirs) = duplex(room);
    (admission.play_as::<Words>().attach(Box::new(theirs), class, Pace::default()), ours)
}

/// Reads until `last` has come, and returns the words.
async fn words(pipe: &mut DuplexStream, last: &str) -> Vec<String> {
    let mut text = String::new();
    while !text.replace('.', "").ends_with(last) {
        let mut buffer = [0; 4096];
        let n = pipe.read(&mut buffer).await.expect("a pipe does not fail");
        assert!(n > 0, "ended after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..n]).expect("words are text"));
    }
    text.replace('.', "").split_terminator(';').map(str::to_string).collect()
}

/// Lets every task run until none has anything to do.
async fn settle() {
    sleep(Duration::from_secs(1)).await;
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn viewers_of_both_classes_begin_at_a_key_frame_and_get_everything_after_it() {
    let hub = small();
    let publisher = publish(&hub, Identity::anonymous());
    for n in 0..5 {
        publisher.write(frame(n, n == 3, 10)).expect("nobody else publishes");
    }
    let (shared, mut a) = watch(&hub, Class::Shared, 4096);
    let (low, mut b) = watch(&hub, Class::Low, 4096);
    settle().await;
    for n in 5..8 {
        publisher.write(frame(n, false, 10)).expect("nobody else publishes");
        settle().await;
    }
    for (viewer, pipe) in [(&shared, &mut a), (&low, &mut b)] {
        assert_eq!(words(pipe, "p7;").await, ["H", "K3", "p4", "p5", "p6", "p7"]);
        // What a crew counts for its viewers is shown as theirs: two bytes of header, and five frames of ten.
        let figures = viewer.session();
        assert_eq!((figures.bytes(), figures.frames(), hub.behind(figures)), (52, 5, Some(Time::ZERO)));
        // And stays theirs when they leave the crew, here for the sake of an answer.
        viewer.send(Bytes::from_static(b"A;"));
        settle().await;
        assert_eq!((figures.bytes(), figures.frames(), hub.behind(figures)), (52, 5, Some(Time::ZERO)));
    }
    assert_eq!(hub.info(&name()).map(|info| (info.viewers, info.packagings)), Some((2, vec!["words"])));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_behind_when_the_last_viewer_leaves() {
    let hub = small();
    let publisher = publish(&hub, Identity::anonymous());
    publisher.write(frame(0, true, 10)).expect("nobody else publishes");
    for class in [Class::Low, Class::Shared] {
        let (attached, pipe) = watch(&hub, class, 4096);
        settle().await;
        assert_eq!(tasks(), 1, "a crew");
        drop((attached, pipe));
        settle().await;
        assert_eq!(tasks(), 0, "{class:?}: the crew goes with its last viewer, though no frame comes any more");
        assert_eq!(hub.info(&name()).map(|info| (info.viewers, info.packagings)), Some((0, vec![])));
    }
}

#[tokio::test(start_paused = true)]
async fn a_viewer_that_takes_nothing_is_closed_after_the_stall_time_and_costs_nobody_a_frame() {
    let hub = small();
    let publisher = publish(&hub, Identity::anonymous());
    publisher.write(frame(0, true, 100)).expect("nobody else publishes");
    let (_good, mut good) = watch(&hub, Class::Shared, 1 << 20);
    let (mut stalled, _unread) = watch(&hub, Class::Shared, 150);
    for n in 1..=1000 {
        publisher.write(frame(n, n % 25 == 0, 100)).expect("nobody else publishes");
        sleep(Duration::from_millis(40)).await;
        if n == 300 {
            let behind = hub.sessions().iter().filter_map(|s| hub.behind(s)).max();
            assert!(behind >= Some(Time::from_millis(10_000)), "{behind:?}: its age is shown");
        }
    }
    let finished = timeout(Duration::from_millis(1), stalled.ended()).await.expect("it ended long ago");
    assert_eq!(finished.end, End::Stalled);
    let seen = words(&mut good, "K1000;").await;
    assert_eq!(seen.len(), 1 + 1001);
    assert!(!seen.contains(&"R".to_string()), "no gap");
}

#[tokio::test(start_paused = true)]
async fn pings_do_not_keep_a_stalled_viewer_alive() {
    let hub = small();
    let publisher = publish(&hub, Identity::anonymous());
    publisher.write(frame(0, true, 5000)).expect("nobody else publishes");
    let (mut stalled, _unread) = watch(&hub, Class::Shared, 100);
    for _ in 0..20 {
        stalled.send(Bytes::from_static(b"pong"));
        sleep(Duration::from_secs(1)).await;
    }
    let finished = timeout(Duration::from_millis(1), stalled.ended()).await.expect("it ended after 15 s");
    assert_eq!(finished.end, End::Stalled);
}

#[tokio::test(start_paused = true)]
async fn a_slow_viewer_goes_on_at_a_key_frame_with_the_configuration_before_it() {
    let hub = small();
    let publisher = publish(&hub, Identity::anonymous());
    publisher.write(frame(0, true, 1000)).expect("nobody else publishes");
    let (attached, mut pipe) = watch(&hub, Class::Shared, 3000);
    for n in 1..=500 {
        publisher.write(frame(n, n % 50 == 0, 1000)).expect("nobody else publishes");
        sleep(Duration::from_millis(20)).await;
    }
    let seen = words(&mut pipe, "K500;").await;
    let gap = seen.iter().position(|word| word == "R").expect("it was told");
    assert!(seen[gap + 1].starts_with('K'), "{seen:?}");
    let numbers = |words: &[String]| words.iter().filter_map(|w| w[1..].parse::<u32>().ok()).collect::<Vec<_>>();
    assert!(numbers(&seen[..gap]).windows(2).all(|w| w[1] == w[0] + 1), "whole before the gap: {seen:?}");
    let (gaps, skipped) = attached.session().gaps();
    assert!(gaps >= 1 && skipped >= 50, "{gaps} gaps, {skipped} skipped");
}

#[tokio::test(start_paused = true)]
async fn answers_go_out_between_two_chunks_even_when_no_chunk_comes() {
    let hub = small();
    let publisher = publish(&hub, Identity::anonymous());
    publisher.write(frame(0, true, 10)).expect("nobody else publishes");
    let (attached, mut pipe) = watch(&hub, Class::Shared, 4096);
    assert_eq!(words(&mut pipe, "K0;").await, ["H", "K0"]);
    settle().await;
    assert!(attached.send(Bytes::from_static(b"pong;")));
    assert_eq!(words(&mut pipe, "pong;").await, ["pong"]);
    settle().await;
    publisher.write(frame(1, false, 10)).expect("nobody else publishes");
    assert_eq!(words(&mut pipe, "p1;").await, ["p1"]);
    let flood = (0..100).all(|_| attached.send(vec![0; 1024].into()));
    assert!(!flood, "what waits for one viewer is bounded");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_stream_reaches_its_viewers_with_their_outlets() {
    let hub = small();
    let publisher = publish(&hub, Identity::anonymous());
    publisher.write(frame(0, true, 10)).expect("nobody else publishes");
    let (mut level, _a) = watch(&hub, Class::Shared, 4096);
    settle().await;
    let (mut joining, _b) = watch(&hub, Class::Shared, 4096);
    publisher.finish(End::Finished);
    for viewer in [&mut level, &mut joining] {
        let finished = viewer.ended().await;
        assert_eq!(
            (finished.end.clone(), finished.outlet(Duration::from_secs(1)).await.is_some()),
            (End::Finished, true)
        );
    }
    assert!(hub.list().is_empty());
    settle().await;
    assert_eq!((tasks(), hub.sessions().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_second_publisher_is_refused_and_the_same_proven_identity_takes_over() {
    let hub = small();
    let first = publish(&hub, Identity::proven("cam"));
    first.write(frame(100, true, 10)).expect("nobody else publishes");
    let (_viewer, mut pipe) = watch(&hub, Class::Low, 4096);
    assert_eq!(words(&mut pipe, "K100;").await, ["H", "K100"]);
    for other in [Identity::anonymous(), Identity::proven("mallory")] {
        let refused = hub.publish(&name(), source(), other).err();
        assert_eq!(refused, Some(Refusal::Taken(name())));
    }
    let second = publish(&hub, Identity::proven("cam"));
    assert!(first.write(frame(101, false, 10)).is_err(), "the first has been replaced");
    timeout(Duration::from_millis(1), first.cancelled()).await.expect("and is told");
    second.write(frame(5, false, 10)).expect("it holds the stream");
    second.write(frame(6, true, 10)).expect("it holds the stream");
    drop(first);
    assert_eq!(hub.list().len(), 1, "the first one's clean-up ends nothing");
    assert_eq!(words(&mut pipe, "K101;").await, ["K101"], "the timeline goes on, and begins at a key frame");
    assert_eq!(hub.info(&name()).map(|info| (info.discontinuities, info.dropped)), Some((1, 1)));
}

#[tokio::test(start_paused = true)]
async fn frames_come_with_their_tracks_and_gaps_are_told() {
    let hub = small();
    let publisher = publish(&hub, Identity::anonymous());
    publisher.write(frame(0, true, 1000)).expect("nobody else publishes");
    let mut reader = hub.read(&name(), source(), Identity::anonymous()).expect("live").subscribe();
    assert!(matches!(reader.next().await, Next::Tracks(_)));
    assert!(matches!(reader.next().await, Next::Frame(f) if f.key));
    for n in 1..=200 {
        publisher.write(frame(n, n % 100 == 0, 1000)).expect("nobody else publishes");
    }
    assert_eq!(reader.next().await, Next::Gap(199));
    assert!(matches!(reader.next().await, Next::Frame(f) if f.key && f.dts == Time::from_millis(8000)));
    publisher.finish(End::Closed);
    assert_eq!(reader.next().await, Next::End(End::Closed));
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_missing_before_the_first_one_break_nothing() {
    let hub = small();
    let publisher = publish(&hub, Identity::anonymous());
    let figures = || hub.info(&name()).map(|info| (info.frames, info.discontinuities, info.dropped));
    publisher.gap();
    publisher.write(frame(0, false, 10)).expect("nobody else publishes");
    publisher.gap();
    publisher.write(frame(1, true, 10)).expect("nobody else publishes");
    assert_eq!(figures(), Some((1, 0, 1)));
    publisher.gap();
    publisher.gap();
    publisher.write(frame(2, false, 10)).expect("nobody else publishes");
    publisher.write(frame(3, true, 10)).expect("nobody else publishes");
    assert_eq!(figures(), Some((2, 1, 2)));
}

#[tokio::test(start_paused = true)]
async fn wishes_reach_the_publisher() {
    let hub = small();
    let publisher = publish(&hub, Identity::anonymous());
    let admission = hub.read(&name(), source(), Identity::anonymous()).expect("live");
    admission.wish(Wish::KeyFrame);
    assert_eq!(publisher.wish().await, Wish::KeyFrame);
}

struct Everybody(Duration);

impl Policy for Everybody {
    fn admit<'a>(&'a self, _: &'a Ask) -> BoxFuture<'a, Result<Grant, Refusal>> {
        Box::pin(std::future::ready(Ok(Grant { identity: Identity::anonymous(), wait: self.0 })))
    }
}

/// Starts nothing, or fails with a reason.
struct Camera(Option<Refusal>);

impl Demand for Camera {
    fn start(&self, _: &StreamName) -> Option<Starting> {
        self.0.clone().map(Starting::refused)
    }
}

fn ask() -> Ask {
    Ask {
        action: Action::Play,
        stream: name(),
        protocol: "test",
        remote: ([127, 0, 0, 1], 1).into(),
        secure: false,
        credentials: Credentials::default(),
        origin: None,
        upper: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_viewer_of_a_missing_stream_waits_as_long_as_the_gate_says_and_no_longer() {
    let hub = small();
    let gate =
        |wait, demand| Gate::new(hub.clone(), Arc::new(Everybody(Duration::from_secs(wait))), Arc::new(Camera(demand)));
    let begun = tokio::time::Instant::now();
    assert_eq!(gate(0, None).play(&ask()).await.err(), Some(Refusal::NoStream(name())));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(gate(5, None).play(&ask()).await.err(), Some(Refusal::NoStream(name())));
    assert_eq!(begun.elapsed().as_secs(), 5);
    let why = Some(Refusal::NotStarted("camera refused: 401".into()));
    assert_eq!(gate(0, why.clone()).play(&ask()).await.err(), why);
    assert_eq!(begun.elapsed().as_secs(), 5);

    let waiting = tokio::spawn({
        let gate = gate(5, None);
        async move { gate.play(&ask()).await.map(|admission| admission.tracks().len()) }
    });
    sleep(Duration::from_secs(2)).await;
    let publisher = publish(&hub, Identity::anonymous());
    assert_eq!(waiting.await.expect("no panic"), Ok(1));
    drop(publisher);
    assert_eq!(hub.figures().refusals().iter().map(|(_, _, n)| n).sum::<u64>(), 3);
}

/// Starts a source that has its name and never says what it sends.
struct Silent(Hub, Mutex<Option<(Publisher, watch::Sender<Option<Refusal>>)>>);

impl Demand for Silent {
    fn start(&self, name: &StreamName) -> Option<Starting> {
        let (sender, failed) = watch::channel(None);
        let publisher = self.0.publish(name, source(), Identity::anonymous()).expect("the name is free");
        *self.1.lock().expect("nobody panics") = Some((publisher, sender));
        Some(Starting { timeout: Duration::from_secs(1), failed })
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_says_nothing_is_waited_for_as_long_as_it_is_given() {
    let hub = small();
    let silent = Arc::new(Silent(hub.clone(), Mutex::default()));
    let gate = Gate::new(hub.clone(), Arc::new(Everybody(Duration::ZERO)), silent);
    let begun = tokio::time::Instant::now();
    let refused = gate.play(&ask()).await.err();
    assert!(matches!(refused, Some(Refusal::NotStarted(_))), "{refused:?}");
    // A second more is for what the source itself says of it.
    assert_eq!(begun.elapsed().as_secs(), 2);
    // Of whoever publishes by himself it is not known how long he takes.
    assert!(matches!(gate.play(&ask()).await.err(), Some(Refusal::NotStarted(_))));
    assert_eq!(begun.elapsed().as_secs(), 12);
}

/// Starts what ends at once and says nothing, and counts how often.
struct Mute(AtomicUsize);

impl Demand for Mute {
    fn start(&self, _: &StreamName) -> Option<Starting> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Some(Starting { timeout: Duration::from_secs(3), failed: watch::channel(None).1 })
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ends_at_once_and_says_nothing_is_not_started_again_and_again() {
    let mute = Arc::new(Mute(Default::default()));
    let gate = Gate::new(small(), Arc::new(Everybody(Duration::ZERO)), mute.clone());
    let begun = tokio::time::Instant::now();
    assert_eq!(gate.play(&ask()).await.err(), Some(Refusal::NoStream(name())));
    assert_eq!((mute.0.load(Ordering::Relaxed), begun.elapsed().as_secs()), (4, 4));
}

static PACKED: AtomicUsize = AtomicUsize::new(0);

/// [`Words`] that count the frames packed.
struct Counted(Words);

impl Mux for Counted {
    const NAME: &'static str = "counted";
    fn new(tracks: &Tracks) -> Counted {
        Counted(Words::new(tracks))
    }
    fn header(&self) -> Bytes {
        self.0.header()
    }
    fn reentry(&self) -> Bytes {
        self.0.reentry()
    }
    fn set_tracks(&mut self, tracks: &Tracks, out: &mut Vec<Chunk>) {
        self.0.set_tracks(tracks, out);
    }
    fn push(&mut self, frame: &Frame, out: &mut Vec<Chunk>) {
        PACKED.fetch_add(1, Ordering::Relaxed);
        self.0.push(frame, out);
    }
}

#[tokio::test(start_paused = true)]
async fn a_packaging_begins_with_its_key_frame_and_makes_the_rest_of_the_group_as_it_is_read() {
    let hub = Hub::new(HubLimits { workers: 1, ..HubLimits::default() });
    let publisher = publish(&hub, Identity::anonymous());
    for n in 0..20 {
        publisher.write(frame(n, n == 0, 20_000)).expect("nobody else publishes");
    }
    let mut player = hub.read(&name(), source(), Identity::anonymous()).expect("live").play_as::<Counted>();
    assert_eq!(PACKED.load(Ordering::Relaxed), 1);
    let mut out = Vec::new();
    player.take(&mut out).await.expect("the stream is live");
    assert_eq!((out.len(), PACKED.load(Ordering::Relaxed)), (2, 1), "the header and the key frame");
    player.take(&mut out).await.expect("the stream is live");
    assert!((3..12).contains(&out.len()), "{} chunks: some of the rest", out.len());
    // What is new comes after the rest, and the end after all.
    publisher.write(frame(20, false, 20_000)).expect("nobody else publishes");
    assert_eq!(PACKED.load(Ordering::Relaxed), 21);
    publisher.finish(End::Finished);
    while player.take(&mut out).await.is_ok() {}
    let all: Vec<u8> = out.iter().flatten().copied().filter(|byte| *byte != b'.').collect();
    let expected: String = (1..=20).map(|n| format!("p{n};")).collect();
    assert_eq!(String::from_utf8(all).expect("words are text"), format!("H;K0;{expected}"));

    // A stream that ends while the rest is still to be made.
    let publisher = publish(&hub, Identity::anonymous());
    for n in 0..20 {
        publisher.write(frame(n, n == 0, 20_000)).expect("nobody else publishes");
    }
    let mut player = hub.read(&name(), source(), Identity::anonymous()).expect("live").play_as::<Counted>();
    publisher.finish(End::Finished);
    let mut out = Vec::new();
    while player.take(&mut out).await.is_ok() {}
    assert_eq!(out.len(), 21, "a header and twenty frames");
}
