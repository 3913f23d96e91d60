//! What is written is read as the same, however it arrives; what lies is refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use culvert_media::{Audio, Codec, Frame, Time, Track, TrackId, Tracks};
use proptest::prelude::*;

use super::*;
use crate::flv;

const VIDEO: TrackId = TrackId(0);
const AUDIO: TrackId = TrackId(1);
const G711: TrackId = TrackId(7);

/// H.264 with its real record, AAC, and a codec that has none.
fn tracks() -> Tracks {
    let mut reader = flv::Reader::new();
    reader.handle_input(include_bytes!("../../tests/data/h264_aac_whole.flv"));
    let avcc = loop {
        let tag = reader.poll_tag().unwrap().unwrap();
        if tag.kind == flv::TagKind::Video {
            break tag.body.slice(5..);
        }
    };
    Tracks::new(vec![
        Track::new(VIDEO, Codec::H264, avcc).unwrap(),
        Track::new(AUDIO, Codec::Aac, Bytes::from_static(&[0x12, 0x10])).unwrap(),
        Track::audio(G711, Codec::G711U, Audio { sample_rate_hz: 16_000, channels: 2 }),
    ])
}

fn frame(track: TrackId, key: bool, data: &'static [u8]) -> Frame {
    Frame {
        track,
        dts: Time::from_micros(-5),
        pts: Time::from_micros(40_000),
        key,
        discontinuity: !key,
        wall: UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456),
        data: Bytes::from_static(data),
    }
}

fn hello() -> Record {
    Record::Hello { epoch: 0x0102_0304_0506_0708, next_seq: 10 }
}

/// A bit of everything, in a possible order.
fn whole() -> Vec<Record> {
    let report = Report { disposable: 1, frames: 2, bytes: 3, keys_only: true, queued: Duration::from_millis(1_234) };
    let of = |seq, frame| Record::Frame { seq, frame };
    vec![
        hello(),
        Record::Tracks(tracks()),
        of(10, frame(VIDEO, true, &[0, 0, 0, 1, 0x65])),
        // Sound overtook a picture.
        of(13, frame(AUDIO, true, &[1; 300])),
        of(12, frame(VIDEO, false, &[0, 0, 0, 1, 0x41])),
        Record::Report(report),
        Record::Gap { frames: 7 },
        of(20, frame(AUDIO, true, &[2])),
        of(21, frame(VIDEO, true, &[0, 0, 0, 1, 0x65])),
        of(22, frame(G711, true, &[3])),
        Record::End(Ending::Lost),
    ]
}

fn written(records: &[Record]) -> Bytes {
    let mut out = BytesMut::new();
    records.iter().for_each(|record| write(record, &mut out));
    out.freeze()
}

/// All records out of these pieces, and what ended the reading.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Record>, Option<Error>) {
    let (mut reader, mut records) = (Reader::new(), Vec::new());
    for piece in pieces {
        reader.handle_input(piece);
        loop {
            match reader.poll_record() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(reader.poll_record(), Err(error.clone()), "lost for good");
                    return (records, Some(error));
                }
            }
        }
    }
    (records, None)
}

fn refusal(records: &[Record]) -> Option<Error> {
    read([&written(records)[..]]).1
}

#[test]
fn everything_is_read_as_it_was_written_however_it_is_split() {
    let (records, bytes) = (whole(), written(&whole()));
    for at in 0..=bytes.len() {
        let (before, behind) = bytes.split_at(at);
        assert_eq!(read([before, behind]), (records.clone(), None), "split at {at}");
    }
    assert_eq!(read(bytes.chunks(1)), (records, None));
}

#[test]
fn the_bytes_are_those_of_the_drawing() {
    let bytes = written(&[hello(), Record::Gap { frames: 7 }, Record::End(Ending::Closed)]);
    let expected = [
        &[0, 0, 0, 18, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 10][..],
        &[0, 0, 0, 9, 4, 0, 0, 0, 0, 0, 0, 0, 7],
        &[0, 0, 0, 2, 6, 2],
    ];
    assert_eq!(bytes, expected.concat());

    let header = frame_header(&frame(G711, true, &[1, 2, 3]), 258).unwrap();
    assert_eq!(header.len(), FRAME_HEADER_BYTES);
    assert_eq!(&header[..15], [0, 0, 0, 38, 3, 0, 0, 0, 0, 0, 0, 1, 2, 7, 1]);
    assert_eq!(&header[15..31], [&[0xff; 7][..], &[0xfb], &40_000u64.to_be_bytes()].concat());
    assert_eq!(&header[31..], 1_700_000_000_123_456u64.to_be_bytes());

    assert_eq!(Back::Ack { received_bytes: 258 }.to_bytes(), vec![0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(Back::KeyFrame.to_bytes(), vec![0, 0, 0, 1, 2]);
}

#[test]
fn a_frames_data_is_not_copied_and_memory_does_not_follow_a_declared_length() {
    let mut reader = Reader::new();
    reader.handle_input(&written(&[hello(), Record::Tracks(tracks())]));
    while reader.poll_record().unwrap().is_some() {}
    let empty = reader.capacity();
    // A frame that says 8 MiB, and one byte of it.
    let length = (MAX_FRAME_BYTES as u32 + 35).to_be_bytes();
    reader.handle_input(&[&length[..], &[3, 0]].concat());
    assert_eq!(reader.poll_record(), Ok(None));
    assert!(reader.capacity() < empty + 4096, "{}", reader.capacity());

    // 64 MiB that nobody wants.
    let mut reader = Reader::new();
    reader.handle_input(&[4, 0, 0, 0, 200]);
    for _ in 0..1024 {
        assert_eq!(reader.poll_record(), Ok(None));
        reader.handle_input(&[0; 65_536]);
    }
    assert!(reader.capacity() < 200_000, "{}", reader.capacity());
}

#[test]
fn the_largest_frame_passes_and_a_larger_one_is_neither_written_nor_read() {
    let big = |size: usize| Frame { data: Bytes::from(vec![5; size]), ..frame(VIDEO, true, &[]) };
    let records = [hello(), Record::Tracks(tracks()), Record::Frame { seq: 10, frame: big(MAX_FRAME_BYTES) }];
    assert_eq!(read([&written(&records)[..]]), (records.to_vec(), None));
    assert_eq!(frame_header(&big(MAX_FRAME_BYTES + 1), 0), None);
    assert_eq!(written(&[Record::Frame { seq: 0, frame: big(MAX_FRAME_BYTES + 1) }]), Bytes::new());

    let head = written(&records[..2]);
    let length = (MAX_FRAME_BYTES as u32 + 36).to_be_bytes();
    let (_, error) = read([&head[..], &length, &[3]]);
    assert!(matches!(error, Some(Error::TooLarge { kind: 3, .. })), "{error:?}");
}

#[test]
fn later_kinds_and_padding_are_passed_over_and_unknown_ones_refused() {
    let bytes = [
        &padding(5)[..],
        &written(&[hello()]),
        &padding(8192),
        &[0, 0, 0, 3, 255, 1, 2],
        &written(&[Record::Tracks(tracks())]),
    ];
    assert_eq!((bytes[0].len(), bytes[2].len()), (5, 8192));
    assert_eq!(read(bytes), (vec![hello(), Record::Tracks(tracks())], None));
    assert_eq!(read(bytes.concat().chunks(1)).0.len(), 2);
    for kind in [0, 7, 127] {
        assert_eq!(read([&written(&[hello()])[..], &[0, 0, 0, 1, kind]]).1, Some(Error::UnknownKind(kind)));
    }
    assert_eq!(read([&[0, 0, 0][..], &[0]]).1, Some(Error::Empty));
}

#[test]
fn a_relay_that_does_not_keep_the_order_is_refused() {
    let (hello, tracks) = (hello(), Record::Tracks(tracks()));
    let of = |seq, track, key| Record::Frame { seq, frame: frame(track, key, &[9]) };
    let with = |records: &[Record]| refusal(&[&[hello.clone(), tracks.clone()], records].concat());

    assert_eq!(refusal(std::slice::from_ref(&tracks)), Some(Error::NoHello(2)));
    assert_eq!(refusal(&[hello.clone(), of(10, VIDEO, true)]), Some(Error::UnknownTrack(VIDEO)));
    assert_eq!(with(std::slice::from_ref(&hello)), Some(Error::SecondHello));
    assert_eq!(with(&[of(10, TrackId(3), true)]), Some(Error::UnknownTrack(TrackId(3))));
    assert_eq!(with(&[of(9, VIDEO, true)]), Some(Error::Order { track: VIDEO, seq: 9, after: 9 }));
    let twice = [of(11, VIDEO, true), of(12, AUDIO, true), of(11, VIDEO, false)];
    assert_eq!(with(&twice), Some(Error::Order { track: VIDEO, seq: 11, after: 11 }));
    assert_eq!(with(&[Record::Gap { frames: 1 }, of(10, VIDEO, false)]), Some(Error::NotKey(VIDEO)));
    assert_eq!(with(&[Record::End(Ending::Finished), of(10, VIDEO, true)]), Some(Error::AfterEnd));
    let empty = Record::Frame { seq: 10, frame: frame(AUDIO, true, &[]) };
    assert_eq!(with(&[empty]), Some(Error::EmptyFrame(AUDIO)));
    // A track that went and came back under its number may begin anew with a number that it had.
    let gone = Record::Tracks(Tracks::new(vec![Track::audio(
        G711,
        Codec::G711A,
        Audio { sample_rate_hz: 8_000, channels: 1 },
    )]));
    assert_eq!(with(&[of(11, VIDEO, true), gone.clone(), of(12, VIDEO, true)]), Some(Error::UnknownTrack(VIDEO)));
    assert_eq!(with(&[of(11, VIDEO, true), gone, tracks.clone(), of(12, VIDEO, true)]), None);
}

#[test]
fn fields_that_lie_are_refused() {
    let hello = written(&[hello()]);
    let after = |record: &[u8]| read([&hello[..], record]).1.unwrap();
    let record = |kind: u8, fields: &[u8]| [&(fields.len() as u32 + 1).to_be_bytes()[..], &[kind], fields].concat();
    let of = |fields: &[&[u8]]| after(&record(TRACKS, &fields.concat()));

    assert_eq!(read([&record(HELLO, &[2, 0, 0])[..]]).1, Some(Error::Version(2)));
    assert_eq!(read([&record(HELLO, &[1; 18])[..]]).1, Some(Error::Length("hello")));
    assert_eq!(after(&record(GAP, &[0; 7])), Error::Length("gap"));
    assert_eq!(after(&record(FRAME, &[0; 33])), Error::Length("frame"));
    assert_eq!(after(&record(END, &[3])), Error::Value { what: "end's reason", value: 3 });
    let report = [&[0; 24][..], &[2], &[0; 4]].concat();
    assert_eq!(after(&record(REPORT, &report)), Error::Value { what: "report's keys_only", value: 2 });

    let vp8 = |id: u8| [id, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(of(&[&[0]]), Error::BadTracks("no track"));
    assert_eq!(of(&[&[17]]), Error::BadTracks("more than 16 tracks"));
    assert_eq!(of(&[&[2], &vp8(1), &vp8(1)]), Error::BadTracks("two tracks of one number"));
    assert_eq!(of(&[&[2], &vp8(1)]), Error::Length("tracks"));
    assert_eq!(of(&[&[1], &vp8(1), &[0]]), Error::Length("tracks"));
    assert_eq!(of(&[&[1, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0]]), Error::Codec(9));
    assert_eq!(
        of(&[&[1, 1, 18, 0, 0, 0, 0, 1, 0, 0, 0, 0]]),
        Error::BadTracks("sound without a rate or without a channel")
    );
    let sound_with_config = Error::ConfigLength { track: TrackId(1), length: 1 };
    assert_eq!(of(&[&[1, 1, 18, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0]]), sound_with_config);
    let long = Error::ConfigLength { track: TrackId(1), length: u32::MAX };
    assert_eq!(of(&[&[1, 1, 1, 0, 0, 0, 0, 0], &[0xff; 4]]), long);
    let bad = of(&[&[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]]);
    assert!(matches!(bad, Error::Config { track: TrackId(1), .. }), "{bad:?}");
    assert!(bad.to_string().starts_with("relay track 1: "), "{bad}");
}

#[test]
fn a_track_that_no_reader_takes_is_left_out() {
    let mut all: Vec<Track> = tracks().iter().cloned().collect();
    all[0].config = Bytes::from(vec![0; MAX_CONFIG_BYTES + 1]);
    assert!(!fits(&all[0]) && fits(&all[1]));
    let rest = Tracks::new(all[1..].to_vec());
    let (records, error) = read([&written(&[hello(), Record::Tracks(Tracks::new(all))])[..]]);
    assert_eq!((&records[1], error), (&Record::Tracks(rest), None));
}

#[test]
fn walls_before_1970_and_beyond_all_time_do_no_harm() {
    for (wall, back) in [
        (UNIX_EPOCH - Duration::from_micros(5), Some(UNIX_EPOCH - Duration::from_micros(5))),
        (UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2), None),
    ] {
        let wrote = Record::Frame { seq: 10, frame: Frame { wall, ..frame(AUDIO, true, &[1]) } };
        let (records, error) = read([&written(&[hello(), Record::Tracks(tracks()), wrote])[..]]);
        assert_eq!(error, None);
        let Some(Record::Frame { frame, .. }) = records.last() else { panic!("{records:?}") };
        assert!(back.is_none_or(|back| frame.wall == back));
    }
}

#[test]
fn what_flows_back_is_read_however_it_is_split_and_garbage_is_refused() {
    let all = [Back::KeyFrame, Back::Ack { received_bytes: u64::MAX }, Back::Ack { received_bytes: 0 }];
    let bytes = all.map(|back| back.to_bytes().to_vec()).concat();
    let read = |pieces: &[&[u8]]| {
        let (mut reader, mut found) = (BackReader::new(), Vec::new());
        for piece in pieces {
            reader.handle_input(piece);
            while let Some(back) = reader.poll_record()? {
                found.push(back);
            }
        }
        Ok(found)
    };
    for at in 0..=bytes.len() {
        let (before, behind) = bytes.split_at(at);
        assert_eq!(read(&[before, behind]), Ok(all.to_vec()));
    }
    assert_eq!(read(&[&[0, 0, 0, 2, 200, 0], &Back::KeyFrame.to_bytes()]), Ok(vec![Back::KeyFrame]));
    assert_eq!(read(&[&[0, 0, 0, 65, 1]]), Err(Error::TooLarge { kind: 1, length: 65, most: 64 }));
    assert_eq!(read(&[&[0, 0, 0, 2, 1, 0]]), Err(Error::Length("acknowledgement")));
    assert_eq!(read(&[&[0, 0, 0, 2, 2, 0]]), Err(Error::Length("wish for a key frame")));
    assert_eq!(read(&[&[0, 0, 0, 2, 3, 0]]), Err(Error::UnknownKind(3)));
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let data = prop::collection::vec(any::<u8>(), 1..200);
    (0usize..3, any::<[bool; 2]>(), any::<[i64; 2]>(), 0u64..1 << 50, data).prop_map(
        |(track, flags, times, wall, data)| Frame {
            track: [VIDEO, AUDIO, G711][track],
            key: flags[0],
            discontinuity: flags[1],
            dts: Time::from_micros(times[0]),
            pts: Time::from_micros(times[1]),
            wall: SystemTime::UNIX_EPOCH + Duration::from_micros(wall),
            data: data.into(),
        },
    )
}

proptest! {
    #[test]
    fn any_frames_survive_any_split(frames in prop::collection::vec((any_frame(), 1u64..1 << 40), 0..20), cuts in prop::collection::vec(1usize..100, 1..50)) {
        let mut seq = 10;
        let mut records = vec![hello(), Record::Tracks(tracks())];
        for (frame, step) in frames {
            seq += step;
            records.push(Record::Frame { seq, frame });
        }
        let bytes = written(&records);
        let (mut rest, mut pieces, mut cuts) = (&bytes[..], Vec::new(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            pieces.push(piece);
            rest = behind;
        }
        prop_assert_eq!(read(pieces), (records, None));
    }

    #[test]
    fn turned_bytes_never_panic_and_never_give_more_than_came(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = written(&whole()).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let (records, _) = read([&bytes[..]]);
        prop_assert!(records.len() <= whole().len());
        prop_assert_eq!(read(bytes.chunks(3)), read([&bytes[..]]));
    }
}
