//! Video on demand over links that break: viewers stay, the stream goes on where it was, and nothing is lost that the
//! lower still has.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::{Duration, Instant, SystemTime};

use culvert_hub::{Action, End};
use culvert_media::TrackId;
use culvert_tests::cascade::{
    GRACE, Pair, Record, below, by_stamp, missing, recording, relays, stamps, subscriber, until_linked,
};
use culvert_tests::media::{Script, into_hub};
use culvert_tests::node::free_port;
use culvert_tests::pipe::Pipe;
use culvert_tests::view::{Continuity, Viewer};
use culvert_tests::wait::{soon, until};
use culvert_tests::{Ffmpeg, TestNode};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const VIDEO: TrackId = TrackId(0);
const STREAM: &str = "live/a-edge1";
/// The clip has a key frame every second.
const GOP: Duration = Duration::from_secs(1);

fn clip() -> Script {
    Script::clip(|_, frame| Some(frame))
}

/// A pair with the clip, that somebody watches: what the lower sent, what the upper has, and a viewer who must stay.
struct Watched {
    pair: Pair,
    sent: Record,
    came: Record,
    ended: JoinHandle<End>,
    viewer: JoinHandle<usize>,
}

impl Watched {
    async fn start(cascade: &str) -> Watched {
        let pair = Pair::with(cascade, "").await;
        into_hub(&pair.lower, "live/a", clip());
        pair.lower.until_live("live/a").await;
        let (sent, _) = recording(subscriber(&pair.lower, "live/a"));
        let mut viewer = Viewer::open(&pair.upper, STREAM, "").await;
        let (came, ended) = recording(subscriber(&pair.upper, STREAM));
        let viewer = tokio::spawn(async move {
            let mut seen = Continuity::default();
            // None of its stamps goes back, whatever happens; the harness's own bound of silence is 20 s.
            while let Some(frame) = viewer.frame().await {
                seen.check(&frame);
            }
            seen.frames
        });
        sleep(Duration::from_millis(1500)).await;
        Watched { pair, sent, came, ended, viewer }
    }

    /// Waits for a picture at the upper whose source made it after now. Returns how long that took.
    async fn goes_on(&self) -> Duration {
        let now = SystemTime::now();
        let begun = Instant::now();
        let fresh = async || {
            let came = self.came.lock().unwrap();
            came.iter().any(|seen| seen.frame.track == VIDEO && seen.frame.wall > now).then_some(())
        };
        until("the stream to go on", fresh).await;
        begun.elapsed()
    }

    fn check(&self, what: &str) {
        assert!(!self.viewer.is_finished(), "{what}: the viewer was ended");
        assert!(!self.ended.is_finished(), "{what}: the stream ended");
        let video = stamps(&self.came, VIDEO);
        assert!(video.windows(2).all(|two| two[0] < two[1]), "{what}: {video:?}");
        // Where something is missing, a key frame follows, and it is marked.
        let came = self.came.lock().unwrap();
        let video: Vec<_> = came.iter().filter(|seen| seen.frame.track == VIDEO).collect();
        for two in video.windows(2) {
            let hole = (two[1].frame.dts - two[0].frame.dts).millis() > 41;
            assert!(!hole || two[1].frame.key, "{what}: {two:?}");
        }
    }

    /// How late the pictures of the last second were.
    fn lateness(&self) -> Duration {
        let came = self.came.lock().unwrap();
        came.iter().rev().take(25).map(|seen| seen.age()).max().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_link_costs_no_frame_and_no_viewer() {
    let watched = Watched::start(GRACE).await;
    let Watched { pair, sent, came, .. } = &watched;
    let session = pair.upper.stream(STREAM).unwrap().publisher.id;
    let ffmpeg = Ffmpeg::five("a part of a_reset_link_costs_no_frame_and_no_viewer");
    let url = pair.upper.url("http", &format!("/play/{STREAM}.flv"));
    let plays = async {
        let Some(five) = &ffmpeg else { return };
        // That nothing is missing is counted below, frame by frame; this is for a decoder's eyes.
        five.play_for(6, &url).await.assert_decoded("over resets");
    };
    let resets = async {
        // One: after a second break within 30 s the lower may wait longer than the upper's readers may lag.
        sleep(Duration::from_millis(700)).await;
        pair.pipe.reset();
        until_linked(&pair.upper, "edge1", 2).await;
        let took = watched.goes_on().await;
        println!("reset: a new picture {took:?} after the link was back");
        assert!(took < GOP, "{took:?}");
    };
    tokio::join!(plays, resets);
    watched.check("resets");
    assert_eq!(missing(sent, came), []);
    let info = pair.upper.stream(STREAM).unwrap();
    assert_eq!((info.publisher.id, info.discontinuities, info.dropped), (session, 0, 0));
    assert_eq!(relays(&pair.lower).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_comes_back_too_late_for_the_cache_goes_on_at_a_key_frame() {
    let watched = Watched::start(GRACE).await;
    let Watched { pair, sent, came, .. } = &watched;
    pair.pipe.refuse(true);
    pair.pipe.reset();
    sleep(Duration::from_millis(4500)).await;
    pair.pipe.refuse(false);
    until_linked(&pair.upper, "edge1", 2).await;
    let took = watched.goes_on().await;
    assert!(took < GOP + Duration::from_millis(500), "{took:?}");
    sleep(GOP).await;
    watched.check("4.5 s without a link");
    let lost = missing(sent, came).len();
    println!("{lost} frames were lost, {took:?} from link to picture, then {:?} late", watched.lateness());
    assert!(lost > 0);
    assert!(watched.lateness() < Duration::from_secs(1), "{:?}", watched.lateness());
    // The timeline is that of the source all the same.
    let (sent, came) = (by_stamp(sent), by_stamp(came));
    let again: Vec<_> = came.keys().rev().skip(10).take(30).collect();
    assert!(again.iter().all(|place| sent.contains_key(place)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_seconds_without_a_packet_are_a_pause_and_no_end() {
    let watched = Watched::start(GRACE).await;
    let Watched { pair, .. } = &watched;
    pair.pipe.blackhole(true);
    sleep(Duration::from_secs(3)).await;
    pair.pipe.blackhole(false);
    let took = watched.goes_on().await;
    sleep(2 * GOP).await;
    watched.check("a blackhole");
    let lost = missing(&watched.sent, &watched.came).len();
    println!("a new picture {took:?} after, {lost} frames were left out; later {:?} late", watched.lateness());
    assert!(took < GOP + Duration::from_millis(500), "{took:?}");
    assert!(watched.lateness() < Duration::from_secs(1), "{:?}", watched.lateness());
    let peers = pair.upper.node.cascade.peers().list();
    assert!(peers.iter().all(|peer| peer.links == 1), "the link was not lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_link_is_replaced_and_its_relay_goes_on_over_the_new_one() {
    let watched = Watched::start(GRACE).await;
    let Watched { pair, sent, came, .. } = &watched;
    // The upper still holds the old socket, which says nothing.
    pair.pipe.half_open();
    until_linked(&pair.upper, "edge1", 2).await;
    let took = watched.goes_on().await;
    assert!(took < GOP, "{took:?}");
    sleep(GOP).await;
    watched.check("half-open");
    assert_eq!(missing(sent, came), []);
    assert_eq!(relays(&pair.lower).len(), 1);
    let sessions = pair.upper.node.hub.sessions();
    assert_eq!(sessions.iter().filter(|s| s.action == Action::Publish).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_gone_for_longer_than_the_hold_ends_its_viewers_and_the_next_one_finds_the_stream() {
    let watched = Watched::start("on_demand: {grace: 1s, hold: 2s}").await;
    let Watched { pair, viewer, ended, .. } = watched;
    pair.pipe.refuse(true);
    let broken = Instant::now();
    pair.pipe.reset();
    assert_eq!(soon("the end", ended).await.unwrap(), End::Lost);
    let held = broken.elapsed();
    assert!((1900..3500).contains(&held.as_millis()), "{held:?}");
    assert!(soon("the viewer's end", viewer).await.unwrap() > 50);
    pair.upper.until_gone(STREAM).await;
    assert!(pair.upper.get(&format!("/play/{STREAM}.flv")).await.status >= 502);
    pair.pipe.refuse(false);
    until_linked(&pair.upper, "edge1", 2).await;
    let mut viewer = Viewer::open(&pair.upper, STREAM, "").await;
    assert!(viewer.frame().await.is_some_and(|frame| frame.key));
}

/// A node that can be killed: with its runtime all of its sockets go.
fn mortal(cid: &'static str, port: u16, yaml: String, stream: Option<&'static str>) -> (Runtime, TestNode) {
    let runtime = Runtime::new().unwrap();
    let inside = runtime.enter();
    let node = TestNode::named(cid, port, &yaml);
    if let Some(stream) = stream {
        into_hub(&node, stream, clip());
    }
    drop(inside);
    (runtime, node)
}

/// Ends it; its sockets are closed then, and its port is free.
async fn bury(runtime: Runtime) {
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_that_is_killed_or_restarted_goes_on_with_the_viewers_it_had() {
    for killed in [true, false] {
        let upper = TestNode::named("up", 0, &format!("cascade: {{{GRACE}}}"));
        let pipe = Pipe::to(upper.address());
        let yaml = below(pipe.address(), "", "");
        let (runtime, lower) = mortal("edge1", 0, yaml.clone(), Some("live/a"));
        until_linked(&upper, "edge1", 1).await;
        lower.until_live("live/a").await;
        let mut viewer = Viewer::open(&upper, STREAM, "").await;
        let (came, ended) = recording(subscriber(&upper, STREAM));
        let mut seen = Continuity::default();
        while seen.frames < 100 {
            seen.check(&viewer.frame().await.unwrap());
        }
        if killed {
            drop(lower);
        } else {
            lower.node.drain().await;
        }
        bury(runtime).await;
        let before = came.lock().unwrap().len();
        let (runtime, lower) = mortal("edge1", 0, yaml, Some("live/a"));
        until_linked(&upper, "edge1", 2).await;
        lower.until_live("live/a").await;
        let linked = Instant::now();
        until("the stream to go on", async || (came.lock().unwrap().len() > before + 50).then_some(())).await;
        let took = linked.elapsed();
        println!("killed {killed}: 50 frames {took:?} after the link");
        while seen.frames < 250 {
            seen.check(&viewer.frame().await.expect("viewers stay"));
        }
        assert!(!ended.is_finished(), "killed: {killed}");
        // What was under way when the lower went may still have come before the mark.
        let marks = came.lock().unwrap()[before..].iter().filter(|taken| taken.frame.discontinuity).count();
        assert_eq!(marks, 1, "killed: {killed}");
        let video = stamps(&came, VIDEO);
        assert!(video.windows(2).all(|two| two[0] < two[1]), "{video:?}");
        bury(runtime).await;
        drop(lower);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_between_that_is_killed_or_restarted_does_not_end_the_viewers_above() {
    for killed in [true, false] {
        let top = TestNode::named("top", 0, &format!("cascade: {{{GRACE}}}"));
        let port = free_port();
        let yaml = below(top.address(), &format!(", {GRACE}"), "");
        let (runtime, middle) = mortal("m1", port, yaml.clone(), None);
        let bottom = TestNode::named("b1", 0, &below(middle.address(), "", ""));
        into_hub(&bottom, "live/a", clip());
        until_linked(&top, "m1", 1).await;
        until_linked(&middle, "b1", 1).await;
        let mut viewer = Viewer::open(&top, "live/a-b1-m1", "").await;
        let mut seen = Continuity::default();
        while seen.frames < 100 {
            seen.check(&viewer.frame().await.unwrap());
        }
        if killed {
            drop(middle);
        } else {
            middle.node.drain().await;
        }
        bury(runtime).await;
        let (runtime, middle) = mortal("m1", port, yaml, None);
        let begun = Instant::now();
        while seen.frames < 400 {
            seen.check(&viewer.frame().await.expect("viewers stay"));
        }
        println!("killed {killed}: 300 frames {:?} after the restart", begun.elapsed());
        bury(runtime).await;
        drop(middle);
    }
}
