use std::net::UdpSocket;
use std::time::SystemTime;

use bytes::Bytes;
use culvert_formats::rtp::{Packet as Received, is_rtcp};
use culvert_hub::{HubLimits, Identity, Source};
use culvert_media::codec::opus::Head;
use culvert_media::{Codec, Frame, Time, Track, TrackId, Tracks};
use tokio::time::advance;

use super::*;
use crate::media::tests::{to, way};

/// Lets the feed and its crews go on.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn sound_waits_for_the_next_picture_where_many_watch_and_a_picture_for_nothing() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let peer = socket.local_addr().unwrap();
    let (hub, stream): (_, StreamName) = (Hub::new(HubLimits::default()), "live/a".parse().unwrap());
    let source = || Source { protocol: "webrtc", remote: peer };
    let publisher = hub.publish(&stream, source(), Identity::anonymous()).unwrap();
    let (video, audio) = (TrackId(1), TrackId(2));
    publisher.set_tracks(Tracks::new(vec![
        Track::new(video, Codec::Vp8, Bytes::new()).unwrap(),
        Track::new(audio, Codec::Opus, Head::new(2).unwrap().write()).unwrap(),
    ]));
    let write = async |track: TrackId, at: i64, data: Vec<u8>| {
        let (dts, wall) = (Time::from_millis(at), SystemTime::now());
        let frame = Frame { track, dts, pts: dts, key: track == video, discontinuity: false, wall, data: data.into() };
        publisher.write(frame).unwrap();
        settle().await;
    };
    write(video, 0, vec![0; 30]).await;
    let admission = hub.read(&stream, source(), Identity::anonymous()).unwrap();
    let feeds = Feeds::new(Duration::from_millis(40));
    let mut seat = feeds.join(&hub, &stream, &admission);
    settle().await;
    let (media, ..) = to(peer).await;
    media.set_way(Some(way(peer)));
    let media = Arc::new(media);
    assert_eq!(seat.begin(media.clone()), Ok(true));
    media.send();
    // How many bytes each packet has.
    let came = || {
        let mut bytes = [0; 2048];
        let packets = std::iter::from_fn(|| socket.recv(&mut bytes).ok().map(|length| bytes[..length].to_vec()));
        let media = packets.filter(|packet| !is_rtcp(packet)).collect::<Vec<_>>();
        media.iter().map(|packet| Received::parse(packet).unwrap().payload.len() - 16).collect::<Vec<_>>()
    };
    assert_eq!(came(), [34], "what it begins with; the descriptor of VP8 has four bytes");
    // 20 ms, as it is in a code of its own in front of what is one.
    let sound = |bytes: usize| [vec![0x98], vec![7; bytes - 1]].concat();
    let watch = |viewers| seat.feed.watching.store(viewers, Ordering::Relaxed);
    watch(124);
    write(audio, 20, sound(5)).await;
    assert_eq!(came(), [5], "few watch");
    watch(200);
    write(audio, 40, sound(5)).await;
    advance(Duration::from_millis(20)).await;
    write(audio, 60, sound(6)).await;
    assert_eq!(came(), [0; 0], "200 x 0.16 ms are not over");
    // Both sounds are one packet behind it, in which the length of the first is said.
    write(video, 60, vec![0; 30]).await;
    assert_eq!(came(), [34, 11]);
    write(video, 80, vec![0; 31]).await;
    assert_eq!(came(), [35], "a picture waits for nothing");
    write(audio, 80, sound(7)).await;
    advance(Duration::from_millis(31)).await;
    settle().await;
    assert_eq!(came(), [0; 0]);
    advance(Duration::from_millis(2)).await;
    settle().await;
    assert_eq!(came(), [7], "no picture came");
    watch(100_000);
    write(audio, 100, sound(8)).await;
    advance(Duration::from_millis(41)).await;
    settle().await;
    assert_eq!(came(), [8], "40 ms are the most");
    write(audio, 120, sound(9)).await;
    publisher.finish(culvert_hub::End::Finished);
    settle().await;
    assert_eq!(came(), [9], "what waits goes before the end");
    watch(1);
}
