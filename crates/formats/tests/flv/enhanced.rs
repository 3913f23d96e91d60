//! Hand-made bodies of each kind that Enhanced RTMP v2 has.

use culvert_formats::flv::{Demux, Error, Event};
use culvert_media::{Codec, TrackId};

use crate::sample::*;

fn four(codec: Codec) -> &'static [u8; 4] {
    match codec {
        Codec::H264 => b"avc1",
        Codec::H265 => b"hvc1",
        Codec::Av1 => b"av01",
        Codec::Vp8 => b"vp08",
        Codec::Vp9 => b"vp09",
        Codec::Aac => b"mp4a",
        Codec::Opus => b"Opus",
        Codec::Mp3 => b".mp3",
        Codec::Flac => b"fLaC",
        Codec::G711A | Codec::G711U => panic!("has no FourCC"),
    }
}

fn size_24(bytes: &[u8]) -> [u8; 3] {
    let [_, a, b, c] = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [a, b, c]
}

#[test]
fn every_video_codec_is_read_by_its_fourcc() {
    for codec in VIDEO_CODECS {
        let mut demux = Demux::new();
        let track = track(codec);
        let data = coded(codec, true, &[1, 2, 3]);
        let composition: &[u8] = if matches!(codec, Codec::H264 | Codec::H265) { &[0, 0, 40] } else { &[] };
        video(&mut demux, 0, &[&[0x90], four(codec), &track.config]);
        video(&mut demux, 10, &[&[0x91], four(codec), composition, &data]);
        video(&mut demux, 20, &[&[0x93], four(codec), &data]);
        video(&mut demux, 30, &[&[0x92], four(codec)]);
        let events = events(&mut demux);
        assert_eq!(track_sets(&events)[0].video(), Some(&track));
        let read: Vec<_> =
            frames(&events).into_iter().map(|f| (f.pts - f.dts, f.dts.millis(), f.key, f.data)).collect();
        let shift = frames(&events)[0].pts - frames(&events)[0].dts;
        assert_eq!(shift.millis(), if composition.is_empty() { 0 } else { 40 });
        assert_eq!(read[0], (shift, 10, true, data.clone()));
        assert_eq!(read[1], (shift - shift, 20, true, data));
        assert_eq!(events.last(), Some(&Event::EndOfSequence));
        assert_eq!((events.len(), demux.dropped()), (4, 0));
    }
}

#[test]
fn every_audio_codec_is_read_by_its_fourcc() {
    for codec in [Codec::Aac, Codec::Opus, Codec::Mp3, Codec::Flac] {
        let mut demux = Demux::new();
        let track = track(codec);
        let data = coded(codec, true, &[1, 2, 3]);
        audio(&mut demux, 0, &[&[0x90], four(codec), &track.config]);
        audio(&mut demux, 0, &[&[0x94], four(codec), &[1, 2, 3, 0, 0, 0, 3]]);
        audio(&mut demux, 10, &[&[0x91], four(codec), &data]);
        audio(&mut demux, 30, &[&[0x92], four(codec)]);
        let events = events(&mut demux);
        assert_eq!(track_sets(&events)[0].audio(), Some(&track));
        assert_eq!(frames(&events)[0].data, data);
        assert!(matches!(&events[..], [Event::Tracks(_), Event::Frame(_), Event::EndOfSequence]), "{events:?}");
        assert_eq!(demux.dropped(), 0);
    }
}

#[test]
fn flac_is_the_same_with_a_file_s_head_around_its_record() {
    let block = [&[0x80, 0, 0, 34], &STREAMINFO[..]].concat();
    for record in [&[&b"fLaC"[..], &block].concat(), &block, &[&block[..], &[1, 2, 3]].concat(), &STREAMINFO[..]] {
        let mut demux = Demux::new();
        audio(&mut demux, 0, &[&[0x90], b"fLaC", record]);
        assert_eq!(track_sets(&flushed(&mut demux))[0].audio(), Some(&track(Codec::Flac)));
    }
}

#[test]
fn vp8_and_vp9_need_no_sequence_header_and_others_do() {
    for codec in VIDEO_CODECS {
        let mut demux = Demux::new();
        video(&mut demux, 0, &[&[0x93], four(codec), &coded(codec, true, &[])]);
        let events = flushed(&mut demux);
        if matches!(codec, Codec::Vp8 | Codec::Vp9) {
            assert_eq!((events.len(), demux.dropped()), (2, 0));
        } else {
            assert_eq!((events.len(), demux.dropped()), (0, 1));
            assert_eq!(demux.problem(), Some(&Error::NoSequenceHeader(codec)));
        }
    }
}

#[test]
fn a_vp9_record_without_version_and_flags_is_the_same_record() {
    let mut demux = Demux::new();
    video(&mut demux, 0, &[&[0x90], b"vp09", &VPCC[4..]]);
    assert_eq!(track_sets(&flushed(&mut demux))[0].video(), Some(&track(Codec::Vp9)));
}

#[test]
fn a_temporal_delimiter_is_taken_out_of_av1() {
    let mut demux = Demux::new();
    let data = coded(Codec::Av1, true, &[]);
    video(&mut demux, 0, &[&[0x90], b"av01", &AV1C]);
    video(&mut demux, 0, &[&[0x91], b"av01", &[0x12, 0], &data]);
    assert_eq!(frames(&flushed(&mut demux))[0].data, data);
}

#[test]
fn metadata_and_commands_and_mpeg_ts_records_are_passed_over() {
    let mut demux = Demux::new();
    video(&mut demux, 0, &[&[0x94], b"hvc1", b"\x02\0\x09colorInfo\x05"]);
    video(&mut demux, 0, &[&[0x95], b"av01", &[1, 2, 3]]);
    video(&mut demux, 0, &[&[0xd1, 0]]);
    assert_eq!((flushed(&mut demux).len(), demux.dropped()), (0, 0));
}

#[test]
fn unsupported_codecs_and_packet_types_are_counted() {
    let mut demux = Demux::new();
    for (count, name) in (1..).zip([b"sac3", b"ac-3", b"ec-3", b"avc1"]) {
        audio(&mut demux, 0, &[&[0x91], name, &[1, 2]]);
        assert_eq!((demux.dropped(), demux.problem()), (count, Some(&Error::FourCc(*name))));
    }
    video(&mut demux, 0, &[&[0x91], b"vvc1", &[0, 0, 0, 1]]);
    video(&mut demux, 0, &[&[0x98], b"hvc1"]);
    audio(&mut demux, 0, &[&[0x93], b"Opus"]);
    audio(&mut demux, 0, &[&[0x96], b"Opus"]);
    assert_eq!((demux.dropped(), flushed(&mut demux).len()), (8, 0));
}

#[test]
fn one_track_of_several() {
    let mut demux = Demux::new();
    let data = coded(Codec::H264, true, &[]);
    video(&mut demux, 0, &[&[0x96, 0x00], b"avc1", &[3], &avcc()]);
    video(&mut demux, 0, &[&[0x96, 0x01], b"avc1", &[3], &[0, 0, 20], &data]);
    audio(&mut demux, 0, &[&[0x95, 0x00], b"Opus", &[2], OPUS_HEAD]);
    audio(&mut demux, 0, &[&[0x95, 0x01], b"Opus", &[2], &coded(Codec::Opus, true, &[])]);
    let events = flushed(&mut demux);
    let ids: Vec<_> = track_sets(&events)[0].iter().map(|track| (track.id, track.codec)).collect();
    assert_eq!(ids, [(TrackId(5), Codec::Opus), (TrackId(6), Codec::H264)]);
    let frames: Vec<_> = frames(&events).into_iter().map(|frame| (frame.track, frame.pts.millis())).collect();
    assert_eq!((frames, demux.dropped()), (vec![(TrackId(6), 20), (TrackId(5), 0)], 0));
}

#[test]
fn many_tracks_of_one_codec() {
    let mut demux = Demux::new();
    let (first, second) = (coded(Codec::Aac, true, &[1]), coded(Codec::Aac, true, &[2, 2]));
    audio(&mut demux, 0, &[&[0x95, 0x10], b"mp4a", &[0], &size_24(&ASC), &ASC, &[1], &size_24(&ASC), &ASC]);
    audio(&mut demux, 0, &[&[0x95, 0x11], b"mp4a", &[0], &size_24(&first), &first, &[1], &size_24(&second), &second]);
    let events = flushed(&mut demux);
    let frames: Vec<_> = frames(&events).into_iter().map(|frame| (frame.track, frame.data)).collect();
    assert_eq!(frames, [(TrackId(1), first), (TrackId(3), second)]);
    assert_eq!((track_sets(&events)[0].len(), demux.dropped()), (2, 0));
}

#[test]
fn many_tracks_of_many_codecs_and_one_that_is_not_ours() {
    let mut demux = Demux::new();
    let (avc, hvc) = (avcc(), hvcc());
    let part = |name: &[u8], id, data: &[u8]| [name, &[id], &size_24(data), data].concat();
    let headers = [part(b"avc1", 0, &avc), part(b"vvc1", 1, &[1, 2]), part(b"hvc1", 2, &hvc)].concat();
    video(&mut demux, 0, &[&[0x96, 0x20], &headers]);
    let data = coded(Codec::H265, true, &[]);
    video(&mut demux, 7, &[&[0x96, 0x23], &part(b"hvc1", 2, &data)]);
    let events = flushed(&mut demux);
    let ids: Vec<_> = track_sets(&events)[0].iter().map(|track| (track.id, track.codec)).collect();
    assert_eq!(ids, [(TrackId(0), Codec::H264), (TrackId(4), Codec::H265)]);
    let frame = &frames(&events)[0];
    assert_eq!((frame.track, &frame.data, demux.dropped()), (TrackId(4), &data, 1));
}

#[test]
fn multitrack_bodies_that_lie_are_counted_and_what_came_before_is_used() {
    let mut demux = Demux::new();
    audio(&mut demux, 0, &[&[0x95, 0x10], b"mp4a", &[0], &size_24(&ASC), &ASC, &[1, 0, 0, 9, 1]]);
    audio(&mut demux, 0, &[&[0x95, 0x30], b"mp4a", &[0]]);
    audio(&mut demux, 0, &[&[0x95, 0x05], b"mp4a", &[0]]);
    audio(&mut demux, 0, &[&[0x95, 0x07], b"mp4a", &[0]]);
    audio(&mut demux, 0, &[&[0x95]]);
    assert_eq!(demux.dropped(), 5);
    assert_eq!(track_sets(&flushed(&mut demux))[0].len(), 1);
}

#[test]
fn a_stream_has_16_tracks_at_most() {
    let mut demux = Demux::new();
    for id in 0..=u8::MAX {
        audio(&mut demux, 0, &[&[0x95, 0x00], b"mp4a", &[id], &ASC]);
    }
    assert_eq!(demux.dropped(), 240);
    assert_eq!(track_sets(&flushed(&mut demux))[0].len(), 16);
}

#[test]
fn nanoseconds_are_added_to_the_time() {
    let mut demux = Demux::new();
    let data = coded(Codec::Opus, true, &[]);
    audio(&mut demux, 0, &[&[0x90], b"Opus", OPUS_HEAD]);
    // 500,000 ns; then an unknown modifier of 300 bytes before 250,000 ns.
    audio(&mut demux, 10, &[&[0x97, 2, 7, 0xa1, 0x20, 0x01], b"Opus", &data]);
    let unknown = [&[255, 1, 43][..], &[0; 300]].concat();
    audio(&mut demux, 20, &[&[0x97], &unknown, &[0x17], &[2, 3, 0xd0, 0x90, 0x01], b"Opus", &data]);
    let times: Vec<_> = frames(&flushed(&mut demux)).iter().map(|frame| frame.dts.micros()).collect();
    assert_eq!((times, demux.dropped()), (vec![10_500, 20_250], 0));

    let mut demux = Demux::new();
    video(&mut demux, 0, &[&[0x90], b"hvc1", &hvcc()]);
    video(&mut demux, 40, &[&[0x97, 2, 7, 0xa1, 0x20, 0x01], b"hvc1", &[0, 0, 5], &coded(Codec::H265, true, &[])]);
    let frame = &frames(&flushed(&mut demux))[0];
    assert_eq!((frame.dts.micros(), frame.pts.micros()), (40_500, 45_500));
}

#[test]
fn a_list_of_more_tracks_than_a_stream_can_have_is_read_up_to_there() {
    let mut demux = Demux::new();
    let part = |id| [&[id], &size_24(&ASC)[..], &ASC].concat();
    let list: Vec<u8> = (0..40).flat_map(part).collect();
    audio(&mut demux, 0, &[&[0x95, 0x10], b"mp4a", &list]);
    assert_eq!((demux.dropped(), demux.problem()), (1, Some(&Error::TooManyTracks(16))));
    assert_eq!(track_sets(&flushed(&mut demux))[0].len(), 16);
}
