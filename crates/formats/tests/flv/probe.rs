use culvert_formats::amf0::Value;
use culvert_formats::flv::{Demux, Event, TagKind};
use culvert_media::Codec;

use crate::sample::*;

fn metadata(demux: &mut Demux, properties: &[(&str, f64)]) {
    let mut body = Vec::new();
    Value::from("onMetaData").encode(&mut body);
    let properties = properties.iter().map(|(name, number)| ((*name).to_owned(), (*number).into())).collect();
    Value::EcmaArray(properties).encode(&mut body);
    give(demux, TagKind::Script, 0, &body);
}

fn video_header(demux: &mut Demux) {
    video(demux, 0, &[&[0x17, 0, 0, 0, 0], &avcc()]);
}

fn video_frame(demux: &mut Demux, time_ms: u32) {
    video(demux, time_ms, &[&[0x17, 1, 0, 0, 0], &coded(Codec::H264, true, &[])]);
}

fn audio_header(demux: &mut Demux) {
    audio(demux, 0, &[&[0xaf, 0], &ASC]);
}

fn audio_frame(demux: &mut Demux, time_ms: u32) {
    audio(demux, time_ms, &[&[0xaf, 1], &coded(Codec::Aac, true, &[])]);
}

#[test]
fn the_first_tracks_are_complete_and_frames_keep_their_order() {
    let mut demux = Demux::new();
    video_header(&mut demux);
    video_frame(&mut demux, 0);
    video_frame(&mut demux, 40);
    assert_eq!(events(&mut demux), []);
    audio_header(&mut demux);
    audio_frame(&mut demux, 50);
    let events = events(&mut demux);
    assert!(matches!(&events[0], Event::Tracks(tracks) if tracks.len() == 2));
    let times: Vec<_> = frames(&events).iter().map(|frame| (frame.track, frame.dts.millis())).collect();
    assert_eq!(times, [(VIDEO, 0), (VIDEO, 40), (AUDIO, 50)]);
    assert_eq!((track_sets(&events).len(), demux.dropped()), (1, 0));
}

#[test]
fn without_metadata_the_other_track_is_waited_for_one_second() {
    let mut demux = Demux::new();
    video_header(&mut demux);
    video_frame(&mut demux, 5_000);
    video_frame(&mut demux, 5_999);
    assert_eq!(events(&mut demux), []);
    video_frame(&mut demux, 6_000);
    let first = events(&mut demux);
    assert_eq!((track_sets(&first)[0].len(), frames(&first).len()), (1, 3));
    // And when it comes after all, the tracks are told anew, before its first frame.
    audio_header(&mut demux);
    assert_eq!(events(&mut demux), []);
    audio_frame(&mut demux, 6_010);
    let later = events(&mut demux);
    assert!(matches!(&later[..], [Event::Tracks(tracks), Event::Frame(_)] if tracks.len() == 2));
}

#[test]
fn with_metadata_exactly_what_it_announces_is_waited_for() {
    let mut demux = Demux::new();
    metadata(&mut demux, &[("videocodecid", 7.0), ("width", 640.0)]);
    video_header(&mut demux);
    assert!(matches!(&events(&mut demux)[..], [Event::Tracks(tracks)] if tracks.len() == 1));

    let mut demux = Demux::new();
    metadata(&mut demux, &[("videocodecid", 7.0), ("audiosamplerate", 44_100.0)]);
    video_header(&mut demux);
    for time_ms in (0..3_000).step_by(40) {
        video_frame(&mut demux, time_ms);
    }
    assert_eq!(events(&mut demux), []);
    video_frame(&mut demux, 3_000);
    let events = events(&mut demux);
    assert_eq!((track_sets(&events)[0].len(), frames(&events).len()), (1, 76));
}

#[test]
fn a_track_that_cannot_be_supported_is_not_waited_for() {
    let mut demux = Demux::new();
    metadata(&mut demux, &[("videocodecid", 7.0), ("audiocodecid", 11.0)]);
    video_header(&mut demux);
    video_frame(&mut demux, 0);
    audio(&mut demux, 0, &[&[0xb2, 1, 2, 3]]);
    let events = events(&mut demux);
    assert_eq!((track_sets(&events)[0].len(), frames(&events).len(), demux.dropped()), (1, 1, 1));
}

#[test]
fn waiting_is_bounded_in_frames_and_in_bytes() {
    let mut demux = Demux::new();
    video_header(&mut demux);
    for _ in 0..511 {
        video_frame(&mut demux, 0);
    }
    assert_eq!(events(&mut demux), []);
    video_frame(&mut demux, 0);
    assert_eq!(events(&mut demux).len(), 513);

    let mut demux = Demux::new();
    video_header(&mut demux);
    let large = coded(Codec::H264, true, &vec![1; 1 << 20]);
    for count in 0..4 {
        assert_eq!(events(&mut demux), [], "{count} frames");
        video(&mut demux, 0, &[&[0x17, 1, 0, 0, 0], &large]);
    }
    assert_eq!(events(&mut demux).len(), 5);
}

#[test]
fn the_caller_may_stop_waiting() {
    let mut demux = Demux::new();
    audio_header(&mut demux);
    audio_frame(&mut demux, 0);
    assert_eq!(events(&mut demux), []);
    assert!(matches!(&flushed(&mut demux)[..], [Event::Tracks(_), Event::Frame(_)]));
    assert_eq!(flushed(&mut demux), []);
    // Nothing there at all: nothing to tell.
    assert_eq!(flushed(&mut Demux::new()), []);
}

#[test]
fn a_header_that_changes_while_waiting_does_not_mix_with_held_frames() {
    let mut demux = Demux::new();
    video_header(&mut demux);
    video_frame(&mut demux, 0);
    video(&mut demux, 0, &[&[0x90], b"hvc1", &hvcc()]);
    video(&mut demux, 40, &[&[0x93], b"hvc1", &coded(Codec::H265, true, &[])]);
    let events = events(&mut demux);
    let [Event::Tracks(old), Event::Frame(_), Event::Tracks(new), Event::Frame(_)] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!([old, new].map(|tracks| tracks.video().unwrap().codec), [Codec::H264, Codec::H265]);
}
