use bytes::Bytes;
use culvert_formats::flv::{Demux, Error, Event, MAX_TAG_BYTES, TagKind};
use culvert_media::codec::{h264, h265};
use culvert_media::{Audio, Codec, Kind, Time, TrackId};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::sample::*;

/// With an H.264 track and nothing more to wait for.
fn with_h264() -> Demux {
    let mut demux = Demux::new();
    video(&mut demux, 0, &[&[0x17, 0, 0, 0, 0], &avcc()]);
    demux.flush();
    assert_eq!(track_sets(&events(&mut demux)).len(), 1);
    demux
}

fn key_frame() -> Vec<u8> {
    [&[0x17, 1, 0, 0, 0], &coded(Codec::H264, true, &[7])[..]].concat()
}

#[test]
fn an_h264_aac_file_is_read_whole() {
    let (events, dropped) = demuxed(H264_AAC);
    let tracks = &track_sets(&events)[0];
    let (video, audio) = (tracks.video().unwrap(), tracks.audio().unwrap());
    assert_eq!((video.codec, video.video().unwrap().width, video.video().unwrap().height), (Codec::H264, 640, 360));
    assert_eq!((audio.codec, audio.sound()), (Codec::Aac, Some(Audio { sample_rate_hz: 44_100, channels: 2 })));
    let frames = frames(&events);
    let count = |id| frames.iter().filter(|frame| frame.track == id).count();
    assert_eq!((count(VIDEO), count(AUDIO), dropped, events.len()), (51, 86, 0, 138));
    // The bit stream says what is key, and this sender's tags say the same.
    let tags = tags(H264_AAC).unwrap();
    let flagged = tags.iter().filter(|tag| tag.kind == TagKind::Video && tag.body[0] >> 4 == 1 && tag.body[1] == 1);
    let flagged: Vec<_> = flagged.map(|tag| Time::from_millis(i64::from(tag.time_ms))).collect();
    let key: Vec<_> = frames.iter().filter(|frame| frame.track == VIDEO && frame.key).map(|frame| frame.dts).collect();
    assert_eq!(key, flagged);
    assert!(key.len() > 1);
}

#[test]
fn an_h265_g711_file_is_read_whole() {
    let (events, dropped) = demuxed(H265_PCMA);
    let tracks = &track_sets(&events)[0];
    let (video, audio) = (tracks.video().unwrap(), tracks.audio().unwrap());
    assert_eq!((video.codec, video.video().unwrap().width, video.video().unwrap().height), (Codec::H265, 320, 240));
    assert_eq!((audio.codec, audio.sound()), (Codec::G711A, Some(Audio { sample_rate_hz: 8_000, channels: 1 })));
    let frames = frames(&events);
    let count = |id| frames.iter().filter(|frame| frame.track == id).count();
    assert_eq!((count(VIDEO), count(AUDIO), dropped), (138, 41, 0));
    assert_eq!(frames[0].pts.millis() - frames[0].dts.millis(), 120);
    assert!(frames[0].key);
}

#[test]
fn payloads_are_shared_not_copied() {
    let mut demux = with_h264();
    let body = Bytes::from(key_frame());
    demux.handle_tag(std::time::SystemTime::UNIX_EPOCH, TagKind::Video, 0, body.clone()).unwrap();
    assert_eq!(frames(&events(&mut demux))[0].data.as_ptr(), body[5..].as_ptr());
}

#[test]
fn chinese_h265_is_read_like_h264() {
    let mut demux = Demux::new();
    video(&mut demux, 0, &[&[0x1c, 0, 0, 0, 0], &hvcc()]);
    video(&mut demux, 0, &[&[0x1c, 1, 0, 0, 80], &coded(Codec::H265, true, &[])]);
    let events = flushed(&mut demux);
    assert_eq!(track_sets(&events)[0].video().unwrap().codec, Codec::H265);
    assert_eq!(frames(&events)[0].pts.millis(), 80);
}

#[test]
fn composition_times_are_signed() {
    let mut demux = with_h264();
    video(&mut demux, 1_000, &[&[0x17, 1, 0xff, 0xff, 0xd8], &coded(Codec::H264, true, &[])]);
    let frame = &frames(&events(&mut demux))[0];
    assert_eq!((frame.dts.millis(), frame.pts.millis()), (1_000, 960));
}

#[test]
fn time_goes_on_over_the_wrap_with_audio_before_video() {
    let mut demux = with_h264();
    audio(&mut demux, 0, &[&[0xaf, 0], &ASC]);
    // Headers that servers repeat with time 0 do not count.
    for (kind, time_ms) in [(9, u32::MAX - 20), (8, u32::MAX - 30), (9, 19), (8, u32::MAX - 9), (9, 59), (8, 13)] {
        match kind {
            8 => audio(&mut demux, time_ms, &[&[0xaf, 1, 0x21, 0]]),
            _ => video(&mut demux, time_ms, &[&key_frame()]),
        }
        audio(&mut demux, 0, &[&[0xaf, 0], &ASC]);
    }
    let top = i64::from(u32::MAX);
    let times: Vec<_> = frames(&events(&mut demux)).iter().map(|frame| frame.dts.millis()).collect();
    assert_eq!(times, [top - 20, top - 30, top + 20, top - 9, top + 60, top + 14]);
}

#[test]
fn a_repeated_header_is_silent_and_a_changed_one_is_told_before_the_next_frame() {
    let mut demux = with_h264();
    video(&mut demux, 0, &[&[0x17, 0, 0, 0, 0], &avcc()]);
    video(&mut demux, 0, &[&key_frame()]);
    assert_eq!(track_sets(&events(&mut demux)).len(), 0);
    // A second PPS makes it another record.
    let mut config = h264::Config::parse(&avcc()).unwrap();
    config.pps.push(config.pps[0].clone());
    video(&mut demux, 0, &[&[0x17, 0, 0, 0, 0], &config.write()]);
    assert_eq!(events(&mut demux), []);
    video(&mut demux, 40, &[&key_frame()]);
    let events = events(&mut demux);
    let [Event::Tracks(tracks), Event::Frame(_)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(tracks.video().unwrap().config, config.write());
}

#[test]
fn short_nal_lengths_become_four_bytes_in_frames_and_record() {
    let frame = coded(Codec::H264, true, &[1, 2, 3]);
    let mut record = h264::Config::parse(&avcc()).unwrap();
    record.length_size = 2;
    let mut demux = Demux::new();
    video(&mut demux, 0, &[&[0x17, 0, 0, 0, 0], &record.write()]);
    video(&mut demux, 0, &[&[0x17, 1, 0, 0, 0], &frame[2..]]);
    let events = flushed(&mut demux);
    assert_eq!(frames(&events)[0].data, frame);
    let config = track_sets(&events)[0].video().unwrap().config.clone();
    assert_eq!(h264::Config::parse(&config).unwrap().length_size, 4);

    let frame = coded(Codec::H265, true, &[1, 2, 3]);
    let mut record = h265::Config::parse(&hvcc()).unwrap();
    record.length_size = 1;
    let mut demux = Demux::new();
    video(&mut demux, 0, &[&[0x1c, 0, 0, 0, 0], &record.write()]);
    video(&mut demux, 0, &[&[0x1c, 1, 0, 0, 0], &frame[3..]]);
    let events = flushed(&mut demux);
    assert_eq!(frames(&events)[0].data, frame);
    let config = track_sets(&events)[0].video().unwrap().config.clone();
    assert_eq!(h265::Config::parse(&config).unwrap().length_size, 4);
}

#[test]
fn the_bit_stream_says_what_is_a_key_frame() {
    let mut demux = with_h264();
    video(&mut demux, 0, &[&[0x17, 1, 0, 0, 0], &coded(Codec::H264, false, &[])]);
    video(&mut demux, 40, &[&[0x27, 1, 0, 0, 0], &coded(Codec::H264, true, &[])]);
    let keys: Vec<_> = frames(&events(&mut demux)).iter().map(|frame| frame.key).collect();
    assert_eq!(keys, [false, true]);
}

#[test]
fn adts_headers_are_taken_off() {
    let mut demux = Demux::new();
    audio(&mut demux, 0, &[&[0xaf, 0], &ASC]);
    let raw = [0x21, 1, 2, 3, 4];
    audio(&mut demux, 0, &[&[0xaf, 1], &[0xff, 0xf1, 0x50, 0x80, 1, 0x9f, 0xfc], &raw]);
    audio(&mut demux, 23, &[&[0xaf, 1], &raw]);
    let frames = frames(&flushed(&mut demux));
    assert_eq!(frames.iter().map(|frame| &frame.data[..]).collect::<Vec<_>>(), [&raw[..], &raw]);
}

#[test]
fn mp3_says_its_rate_itself_and_g711_is_8_khz() {
    for (first, codec, sound) in [
        (0x2f, Codec::Mp3, Audio { sample_rate_hz: 48_000, channels: 2 }),
        (0xe2, Codec::Mp3, Audio { sample_rate_hz: 48_000, channels: 2 }),
        (0x7e, Codec::G711A, Audio { sample_rate_hz: 8_000, channels: 1 }),
        (0x83, Codec::G711U, Audio { sample_rate_hz: 8_000, channels: 2 }),
    ] {
        let mut demux = Demux::new();
        audio(&mut demux, 5, &[&[first], &coded(codec, true, &[1, 2])]);
        let events = flushed(&mut demux);
        let track = track_sets(&events)[0].audio().unwrap().clone();
        assert_eq!((track.codec, track.sound(), frames(&events).len()), (codec, Some(sound), 1));
    }
}

#[test]
fn the_end_of_a_sequence_is_told_after_its_frames() {
    let mut demux = Demux::new();
    video(&mut demux, 0, &[&[0x17, 0, 0, 0, 0], &avcc()]);
    video(&mut demux, 0, &[&key_frame()]);
    video(&mut demux, 0, &[&[0x17, 2, 0, 0, 0]]);
    assert!(matches!(&events(&mut demux)[..], [Event::Tracks(_), Event::Frame(_), Event::EndOfSequence]));
}

#[test]
fn what_cannot_be_used_is_dropped_and_counted() {
    use TagKind::{Audio, Script, Video};
    let no_sps = [1, 0x4d, 0x40, 0x1e, 0xff, 0xe0, 0];
    let bad: Vec<(TagKind, Vec<u8>)> = vec![
        // Nothing at all, M14 in faults.md.
        (Video, vec![]),
        (Audio, vec![]),
        (Script, vec![]),
        (Video, vec![0x17]),
        (Video, vec![0x17, 1, 0, 0]),
        (Video, vec![0x17, 1, 0, 0, 0]),
        (Audio, vec![0xaf, 1]),
        // A header without SPS, an empty one, a packet type that is none.
        (Video, [&[0x17, 0, 0, 0, 0], &no_sps[..]].concat()),
        (Video, vec![0x17, 0, 0, 0, 0]),
        (Video, vec![0x17, 3, 0, 0, 0]),
        (Audio, vec![0xaf, 2, 0]),
        // Lengths that lie, an empty NAL unit, no picture.
        (Video, vec![0x17, 1, 0, 0, 0, 0, 0, 0, 9, 0x65]),
        (Video, vec![0x17, 1, 0, 0, 0, 0, 0, 0, 0]),
        (Video, vec![0x17, 1, 0, 0, 0, 0, 0, 0, 1, 0x67]),
        // Before its header, and of codecs that are not ours: Speex, PCM, Nellymoser, H.263, VP6, the unknown.
        (Audio, vec![0xaf, 1, 0x21]),
        (Video, [&[0x1c, 1, 0, 0, 0], &coded(Codec::H265, true, &[])[..]].concat()),
        (Audio, vec![0xb2, 1]),
        (Audio, vec![0x3f, 1]),
        (Audio, vec![0x6f, 1]),
        (Video, vec![0x12, 1]),
        (Video, vec![0x14, 1]),
        (Video, vec![0x1f, 1]),
        // A record beyond all measure.
        (Audio, [&[0xaf, 0], &ASC[..], &[0; 128 * 1024]].concat()),
        // MP3 that is not, and VP9 that is not, which must not take the place of the H.264.
        (Video, b"\x93vp09\x00\x00\x00".to_vec()),
        (Audio, vec![0x2f, 1, 2, 3, 4, 5]),
        (Script, vec![2, 0, 9, 0]),
    ];
    let mut demux = with_h264();
    for (count, (kind, body)) in (1..).zip(bad) {
        give(&mut demux, kind, 0, &body);
        assert_eq!(demux.dropped(), count, "{kind:?} {body:02x?}: {:?}", demux.problem());
        assert_eq!(events(&mut demux), [], "{kind:?} {body:02x?}");
    }
    // And it goes on.
    video(&mut demux, 0, &[&key_frame()]);
    assert_eq!(events(&mut demux).len(), 1);
    // These are no fault: a command frame, cue points.
    video(&mut demux, 0, &[&[0x57, 0]]);
    let before = demux.dropped();
    give(&mut demux, Script, 0, b"\x02\0\x0aonCuePoint\x05");
    assert_eq!((demux.dropped(), events(&mut demux).len()), (before, 0));
}

#[test]
fn a_body_beyond_the_bound_is_an_error() {
    let mut demux = Demux::new();
    let huge = Bytes::from(vec![0; MAX_TAG_BYTES + 1]);
    let refused = demux.handle_tag(std::time::SystemTime::UNIX_EPOCH, TagKind::Video, 0, huge);
    assert_eq!(refused, Err(Error::TooLarge(MAX_TAG_BYTES + 1)));
}

/// A first byte that leads somewhere, then anything.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let fourccs = [&b"avc1"[..], b"hvc1", b"av01", b"vp08", b"vp09", b"mp4a", b"Opus", b".mp3", b"fLaC", &[], &[0, 0]];
    let first = prop_oneof![
        0x90u8..0x98,
        prop::sample::select(vec![0x17, 0x1c, 0x27, 0xaf, 0x2f, 0x72, 0xa1, 0xd0]),
        any::<u8>()
    ];
    let bytes = prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..80);
    (first, prop::option::of(0u8..0x30), prop::sample::select(fourccs.to_vec()), bytes).prop_map(
        |(first, second, four, rest)| [&[first], &second.into_iter().collect::<Vec<_>>()[..], four, &rest].concat(),
    )
}

proptest! {
    #[test]
    fn arbitrary_tags_never_panic_and_never_pile_up(
        bodies in prop::collection::vec((0..3u8, any::<u32>(), any_body()), 0..80)
    ) {
        let mut demux = with_h264();
        for (kind, time_ms, body) in bodies {
            let kind = [TagKind::Audio, TagKind::Video, TagKind::Script][usize::from(kind)];
            give(&mut demux, kind, time_ms, &body);
            let events = events(&mut demux);
            // A tag has at most 16 tracks' frames, each perhaps behind a change of tracks.
            prop_assert!(events.len() <= 32);
            for tracks in track_sets(&events) {
                prop_assert!(tracks.len() <= 16);
            }
        }
    }

    #[test]
    fn a_damaged_file_never_panics_and_gives_frames_of_known_tracks(
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 0..30),
        second in any::<bool>(),
    ) {
        let mut tags = tags(if second { H265_PCMA } else { H264_AAC }).unwrap();
        for (index, byte) in damage {
            let at = index.index(tags.len() * 32);
            let tag = &mut tags[at / 32];
            let mut body = tag.body.to_vec();
            if let Some(old) = body.get_mut(at % 32) {
                *old = byte;
            }
            tag.body = body.into();
        }
        let mut demux = Demux::new();
        for tag in &tags {
            give(&mut demux, tag.kind, tag.time_ms, &tag.body);
        }
        let mut known: Vec<(TrackId, Kind)> = Vec::new();
        for event in flushed(&mut demux) {
            match event {
                Event::Tracks(tracks) => known = tracks.iter().map(|track| (track.id, track.kind())).collect(),
                Event::Frame(frame) => {
                    let of = known.iter().find(|(id, _)| *id == frame.track);
                    prop_assert!(of.is_some());
                    prop_assert!(frame.key || of.unwrap().1 == Kind::Video);
                    prop_assert!(!frame.data.is_empty());
                }
                Event::EndOfSequence => {}
            }
        }
    }
}
