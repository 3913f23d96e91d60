//! What a receiver of RTP makes of what comes: packets of our own, some of them missing, late, or in other forms.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use culvert_formats::Event;
use culvert_formats::rtp::{Format, Media, Mux, Packet, Receiver, framed};
use culvert_media::codec::h264;
use culvert_media::{Audio, Codec, Frame, Mux as _, Time, Track, TrackId, Tracks};

/// SPS and PPS of x264 for 160x120 and for 320x240, Baseline.
const SMALL: [&[u8]; 2] = [
    &[
        0x67, 0x42, 0xc0, 0x0b, 0xd9, 0x02, 0x84, 0x7e, 0x5c, 0x04, 0x40, 0x00, 0x00, 0x03, 0x00, 0x40, 0x00, 0x00,
        0x0c, 0x83, 0xc5, 0x0a, 0x92,
    ],
    &[0x68, 0xcb, 0x83, 0xcb, 0x20],
];
const LARGE: [&[u8]; 2] = [
    &[
        0x67, 0x42, 0xc0, 0x0d, 0xd9, 0x01, 0x41, 0xfb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03,
        0x03, 0x20, 0xf1, 0x42, 0xa4, 0x80,
    ],
    &[0x68, 0xcb, 0x83, 0xcb, 0x20],
];

fn record(sets: [&[u8]; 2]) -> Bytes {
    let [sps, pps] = sets.map(Bytes::copy_from_slice);
    h264::Config::from_parameter_sets(vec![sps], vec![pps]).unwrap().write()
}

fn video(config: Option<Bytes>) -> Media {
    Media { format: Format::H264, clock_hz: 90_000, config, audio: None, payload_type: None }
}

fn sound() -> Media {
    let audio = Some(Audio { sample_rate_hz: 8000, channels: 1 });
    Media { format: Format::Whole(Codec::G711A), clock_hz: 8000, config: None, audio, payload_type: None }
}

/// A picture of so many bytes, 40 ms after the one before.
fn picture(n: i64, key: bool, bytes: usize) -> Frame {
    let mut nal = vec![if key { 0x65 } else { 0x41 }, 0x80];
    nal.resize(bytes.max(3), n as u8);
    let data = [&(nal.len() as u32).to_be_bytes()[..], &nal].concat();
    let time = Time::from_millis(n * 40);
    let wall = SystemTime::UNIX_EPOCH;
    Frame { track: TrackId(0), dts: time, pts: time, key, discontinuity: false, wall, data: data.into() }
}

/// Packets of pictures, each list those of one.
fn packets(pictures: impl Iterator<Item = Frame>) -> Vec<Vec<Bytes>> {
    let track = Track::new(TrackId(0), Codec::H264, record(SMALL)).unwrap();
    let mut mux = Mux::new(&Tracks::new(vec![track]));
    let mut out = Vec::new();
    pictures
        .map(|frame| {
            mux.push(&frame, &mut out);
            let chunks = std::mem::take(&mut out);
            let media = chunks.iter().flat_map(|chunk| framed(&chunk.data)).filter(|packet| packet.channel == 0);
            media.map(|packet| packet.packet).collect()
        })
        .collect()
}

fn events(receiver: &mut Receiver) -> Vec<Event> {
    std::iter::from_fn(|| receiver.poll_event()).collect()
}

#[test]
fn whole_pictures_that_are_lost_make_a_gap_before_those_that_refer_to_them() {
    let now = Instant::now();
    let mut receiver = Receiver::new(now, vec![video(Some(record(SMALL)))]);
    let pictures = packets((0..10).map(|n| picture(n, n == 0, 200)));
    assert!(pictures.iter().all(|packets| packets.len() == 1));
    for (n, packet) in pictures.into_iter().flatten().enumerate() {
        if n != 5 {
            receiver.handle_rtp(now + Duration::from_millis(n as u64 * 40), 0, packet, true).unwrap();
        }
    }
    let seen: Vec<&str> = events(&mut receiver)
        .iter()
        .map(|event| match event {
            Event::Tracks(_) => "tracks",
            Event::Frame(_) => "frame",
            Event::Gap => "gap",
        })
        .collect();
    assert_eq!(
        seen,
        ["tracks", "frame", "frame", "frame", "frame", "frame", "gap", "frame", "frame", "frame", "frame"]
    );
    assert_eq!(receiver.lost(), 1);
}

#[test]
fn a_source_that_has_not_said_what_it_is_is_not_looked_at_again_until_it_speaks() {
    let now = Instant::now();
    let mut receiver = Receiver::new(now, vec![video(None), sound()]);
    let pictures = packets([picture(3, false, 200), picture(4, true, 3000)].into_iter());
    receiver.handle_rtp(now, 0, pictures[0][0].clone(), true).unwrap();
    assert_eq!(receiver.poll_timeout(), None);
    receiver.handle_timeout(now + Duration::from_secs(10));
    assert_eq!((receiver.poll_timeout(), events(&mut receiver)), (None, vec![]));
    // Its key frame brings the parameter sets; the sound never comes, and is not waited for for ever.
    for packet in &pictures[1] {
        receiver.handle_rtp(now + Duration::from_secs(10), 0, packet.clone(), true).unwrap();
    }
    let seen = events(&mut receiver);
    let Some(Event::Tracks(tracks)) = seen.first() else { panic!("{seen:?}") };
    assert_eq!(tracks.iter().count(), 1);
}

#[test]
fn parameter_sets_in_a_unit_of_their_own_count_for_the_picture_behind() {
    let now = Instant::now();
    let mut receiver = Receiver::new(now, vec![video(Some(record(SMALL)))]);
    for packet in packets((0..2).map(|n| picture(n, n == 0, 200))).into_iter().flatten() {
        receiver.handle_rtp(now, 0, packet, true).unwrap();
    }
    events(&mut receiver);
    let mut send = |sequence: u16, timestamp: u32, marker: bool, payload: &[u8]| {
        let packet = Packet { marker, payload_type: 96, sequence, timestamp, ssrc: 0x0043_5600, payload: &[] };
        receiver.handle_rtp(now, 0, [&packet.header()[..], payload].concat().into(), true).unwrap();
    };
    send(2, 7000, true, LARGE[0]);
    send(3, 7000, true, LARGE[1]);
    send(4, 7200, true, &[0x65, 0x80, 1, 2]);
    let seen = events(&mut receiver);
    let sizes: Vec<_> = seen
        .iter()
        .filter_map(|event| match event {
            Event::Tracks(tracks) => tracks.iter().next()?.video(),
            Event::Frame(_) | Event::Gap => None,
        })
        .map(|video| (video.width, video.height))
        .collect();
    assert_eq!(sizes, [(320, 240)], "{seen:?}");
}

#[test]
fn a_track_whose_first_packet_is_late_begins_where_the_reports_say() {
    let tracks = Tracks::new(vec![
        Track::new(TrackId(0), Codec::H264, record(SMALL)).unwrap(),
        Track::audio(TrackId(1), Codec::G711A, Audio { sample_rate_hz: 8000, channels: 1 }),
    ]);
    let (mut mux, mut out) = (Mux::new(&tracks), Vec::new());
    let wall = |frame: Frame| Frame {
        wall: SystemTime::UNIX_EPOCH + Duration::from_millis(frame.pts.millis() as u64),
        ..frame
    };
    let speech = Frame { track: TrackId(1), data: vec![0xd5; 160].into(), ..picture(4, true, 0) };
    mux.push(&wall(picture(5, true, 200)), &mut out);
    mux.push(&wall(speech), &mut out);
    let packets: Vec<_> = out.iter().flat_map(|chunk| framed(&chunk.data)).collect();
    // Either comes 300 ms after the other.
    for late in [0, 1] {
        let now = Instant::now();
        let mut receiver = Receiver::new(now, vec![video(Some(record(SMALL))), sound()]);
        for at in [1 - late, late] {
            let now = if at == late { now + Duration::from_millis(300) } else { now };
            for packet in packets.iter().filter(|packet| usize::from(packet.channel / 2) == at) {
                if packet.channel % 2 == 1 {
                    receiver.handle_rtcp(now, at, &packet.packet);
                } else {
                    receiver.handle_rtp(now, at, packet.packet.clone(), true).unwrap();
                }
            }
        }
        let seen = events(&mut receiver);
        let pts = |track| {
            let frames =
                seen.iter().filter_map(|event| if let Event::Frame(frame) = event { Some(frame) } else { None });
            frames.filter(|frame| frame.track == TrackId(track)).map(|frame| frame.pts).next().unwrap()
        };
        assert_eq!(pts(0) - pts(1), Time::from_millis(40), "the one that is late: {late}");
        assert!(pts(1) > Time::ZERO);
    }
}
