//! Captured pushes of old peers, cut in two at one byte after the other: what comes in is the same wherever it is cut.
//!
//! There are 440,000 such places. The usual run takes all of the first kilobyte, where the connection becomes a push, and from
//! there on every 499th, which moves through heads and payloads alike; `CULVERT_EVERY_CUT=1` takes all of them (in a release
//! build ten minutes or so).
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::sync::Arc;

use culvert_hub::{Event, Identity, Next, Source};
use culvert_media::Frame;
use culvert_tests::TestNode;
use culvert_tests::media::recorded;
use culvert_tests::node::stream_name;
use culvert_tests::old::{capture, redirected};
use culvert_tests::wait::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const OLD: &str = "cascade: {lowers: {old_peers: true}}\nlimits: {max_lag: 60s, per_ip_handshakes: 100}";
/// So much that the stream is known and its first key frame is the newest.
const BEGINNING: usize = 26_000;
const AT_ONCE: usize = 8;

fn cuts(length: usize) -> Vec<usize> {
    if std::env::var_os("CULVERT_EVERY_CUT").is_some() {
        return (1..length).collect();
    }
    (1..1000).chain((1000..length).step_by(499)).collect()
}

/// What a frame is, apart from when.
fn body(frame: &Frame) -> (u32, bool, i64, &[u8]) {
    (frame.track.0.into(), frame.key, frame.pts.millis() - frame.dts.millis(), &frame.data)
}

/// Pushes `wire` under a name of its own, cut at `cut`, and compares what the hub has with `expected`.
async fn pushed(node: &TestNode, name: &str, wire: &[u8], cut: usize, expected: &[Frame]) {
    let stream = stream_name(&format!("cut/{name}{cut}-c1"));
    let mut events = node.node.hub.events();
    let wire = redirected(wire, &format!("/erwscascade/wspush/cut/{name}{cut}?cid=c1"));
    // The new request line has another length.
    let cut = cut.min(wire.len() - 1);
    let mut socket = TcpStream::connect(node.address()).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (first, rest) = wire.split_at(BEGINNING);
    if cut < BEGINNING {
        socket.write_all(&first[..cut]).await.unwrap();
        socket.write_all(&first[cut..]).await.unwrap();
    } else {
        socket.write_all(first).await.unwrap();
    }
    let subscribed = async {
        loop {
            let source = Source { protocol: "test", remote: node.address() };
            if let Some(admission) = node.node.hub.read(&stream, source, Identity::anonymous()) {
                return admission.subscribe();
            }
            while let Ok(Event::Ended(_)) = events.recv().await {}
        }
    };
    let mut feed = soon("the stream", subscribed).await;
    let mut seen = 0;
    let mut reading = async |until: usize| {
        while seen < until {
            match soon("a frame", feed.next()).await {
                Next::Frame(frame) => {
                    let (got, due) = (body(&frame), body(&expected[seen]));
                    let brief = |of: &(u32, bool, i64, &[u8])| (of.0, of.1, of.2, of.3.len());
                    let (got_brief, due_brief) = (brief(&got), brief(&due));
                    assert!(got == due, "{name} cut at {cut}: frame {seen} is {got_brief:?} for {due_brief:?}");
                    seen += 1;
                }
                Next::Tracks(_) => {}
                other @ (Next::Gap(_) | Next::End(_)) => {
                    panic!("{name} cut at {cut}: {other:?} after {seen} of {} frames", expected.len())
                }
            }
        }
    };
    // A reader's place is where it first reads.
    reading(1).await;
    let sending = async {
        if cut < BEGINNING {
            socket.write_all(rest).await.unwrap();
        } else {
            socket.write_all(&rest[..cut - BEGINNING]).await.unwrap();
            socket.write_all(&rest[cut - BEGINNING..]).await.unwrap();
        }
        let mut hello = [0; 12];
        socket.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"HTTP/1.1 101");
    };
    tokio::join!(reading(expected.len()), sending);
}

async fn at_every_cut(name: &'static str) {
    let node = Arc::new(TestNode::start(OLD));
    let wire: Arc<[u8]> = capture(&format!("{name}.c2s.bin")).into();
    let expected: Arc<[Frame]> = recorded(&capture(&format!("{name}.flv"))).1.into();
    assert!(expected.len() > 100);
    let (places, mut tasks) = (Arc::new(Semaphore::new(AT_ONCE)), tokio::task::JoinSet::new());
    let cuts = cuts(wire.len());
    let all = cuts.len();
    for cut in cuts {
        let place = places.clone().acquire_owned().await.unwrap();
        let (node, wire, expected) = (node.clone(), wire.clone(), expected.clone());
        tasks.spawn(async move {
            pushed(&node, name, &wire, cut, &expected).await;
            drop(place);
        });
        while let Some(done) = tasks.try_join_next() {
            done.unwrap();
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // Past the harness's capture: how much was tried is part of the result.
    let told = format!("{name}: cut at {all} of {} places, {} frames each\n", wire.len() - 1, expected.len());
    std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_the_same_wherever_it_is_cut() {
    at_every_cut("h264_aac_whole").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_h265_and_g711_is_the_same_wherever_it_is_cut() {
    at_every_cut("h265_pcma").await;
}
