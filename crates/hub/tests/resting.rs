//! Readers that rest while nobody wants what they bring, and publishers whose source rests.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_hub::{End, Feed, Hub, HubLimits, Identity, Next, Source, Subscriber};
use culvert_media::{Codec, Frame, StreamName, Time, Track, TrackId, Tracks};
use tokio::time::timeout;

const VIDEO: TrackId = TrackId(0);

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

fn frame(n: i64, key: bool) -> Frame {
    let time = Time::from_millis(n * 40);
    let data = Bytes::from_static(b"x");
    Frame { track: VIDEO, dts: time, pts: time, key, discontinuity: false, wall: SystemTime::UNIX_EPOCH, data }
}

fn read(hub: &Hub) -> Subscriber {
    hub.read(&name(), source(), Identity::anonymous()).expect("it is live").subscribe()
}

fn viewers(hub: &Hub) -> usize {
    hub.info(&name()).expect("it is there").viewers
}

async fn rest(reader: &mut Subscriber) {
    // It would wait for the end of the stream.
    assert!(timeout(Duration::from_millis(1), Feed::idle(reader)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_rests_is_no_viewer_and_begins_again_at_the_newest_key_frame() {
    let hub = Hub::new(HubLimits::default());
    let publisher = hub.publish(&name(), source(), Identity::anonymous()).expect("the name is free");
    publisher.set_tracks(tracks());
    let write = |n, key| publisher.write(frame(n, key)).expect("nobody took over");
    write(0, true);
    let mut reader = read(&hub);
    assert!(matches!(Feed::next(&mut reader).await, Next::Tracks(_)));
    assert_eq!(viewers(&hub), 1);
    rest(&mut reader).await;
    rest(&mut reader).await;
    assert_eq!(viewers(&hub), 0);
    assert_eq!(hub.sessions().len(), 2, "it is still listed");
    for n in 1..60 {
        write(n, n % 25 == 0);
    }
    assert_eq!(Feed::next(&mut reader).await, Next::Tracks(tracks()));
    assert_eq!(viewers(&hub), 1);
    for n in 50..60 {
        assert_eq!(Feed::next(&mut reader).await, Next::Frame(frame(n, n == 50)));
    }
    rest(&mut reader).await;
    drop(reader);
    assert_eq!((viewers(&hub), hub.sessions().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_rests_hears_of_the_end_and_of_being_closed() {
    let hub = Hub::new(HubLimits::default());
    let publisher = hub.publish(&name(), source(), Identity::anonymous()).expect("the name is free");
    publisher.set_tracks(tracks());
    let (mut one, mut other) = (read(&hub), read(&hub));
    one.session().figures().cancel();
    assert_eq!(one.idle().await, End::Closed);
    let (ended, ()) = tokio::join!(other.idle(), async { publisher.finish(End::Finished) });
    assert_eq!(ended, End::Finished);
}

#[tokio::test(start_paused = true)]
async fn what_a_resting_source_brought_last_is_not_shown_to_who_comes_later() {
    let hub = Hub::new(HubLimits::default());
    let publisher = hub.publish(&name(), source(), Identity::anonymous()).expect("the name is free");
    publisher.set_tracks(tracks());
    let write = |n, key| publisher.write(frame(n, key)).expect("nobody took over");
    write(0, true);
    let mut early = read(&hub);
    write(1, false);
    publisher.forget();
    assert_eq!(hub.info(&name()).expect("it is live").cached_bytes, 0);
    let mut late = read(&hub);
    assert_eq!(late.try_next(), None);
    // An hour later, in the middle of a group of pictures.
    write(90_000, false);
    write(90_001, true);
    assert!(matches!(early.try_next(), Some(Next::Tracks(_))));
    let mut seen = Vec::new();
    for reader in [&mut early, &mut late] {
        while let Some(next) = reader.try_next() {
            if let Next::Frame(frame) = next {
                assert!(frame.key && frame.discontinuity, "{frame:?}");
                seen.push(frame.dts);
            }
        }
    }
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_on_demand_ends_at_once_when_the_last_viewer_leaves_for_good_and_else_after_the_grace() {
    let grace = Duration::from_secs(10);
    for (leaves_last, took) in [(true, 0), (false, 10)] {
        let hub = Hub::new(HubLimits::default());
        let publisher = hub.publish(&name(), source(), Identity::anonymous()).expect("the name is free");
        publisher.set_tracks(tracks());
        let (relay, viewer) = (read(&hub), read(&hub));
        let begun = tokio::time::Instant::now();
        let ends = publisher.end_unwatched(grace, grace);
        tokio::pin!(ends);
        assert!(timeout(Duration::from_millis(1), &mut ends).await.is_err());
        if leaves_last {
            drop(viewer);
            relay.leave();
        } else {
            relay.leave();
            assert!(timeout(Duration::from_millis(1), &mut ends).await.is_err(), "somebody else watches");
            drop(viewer);
        }
        ends.await;
        assert_eq!(begun.elapsed().as_secs(), took);
        assert!(hub.info(&name()).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_viewer_who_came_and_went_before_anybody_looked_was_the_first_one() {
    let hub = Hub::new(HubLimits::default());
    let publisher = hub.publish(&name(), source(), Identity::anonymous()).expect("the name is free");
    publisher.set_tracks(tracks());
    drop(read(&hub));
    let begun = tokio::time::Instant::now();
    publisher.end_unwatched(Duration::from_secs(10), Duration::from_secs(1)).await;
    assert_eq!(begun.elapsed().as_secs(), 1);
    let publisher = hub.publish(&name(), source(), Identity::anonymous()).expect("the name is free");
    let begun = tokio::time::Instant::now();
    publisher.end_unwatched(Duration::from_secs(10), Duration::from_secs(1)).await;
    assert_eq!(begun.elapsed().as_secs(), 10, "nobody came");
}
