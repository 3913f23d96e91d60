use std::time::SystemTime;

use culvert_formats::amf0::{self, Value};
use culvert_formats::flv::{Event, Mux, TagKind, TagWriter, WsMux};
use culvert_media::{Audio, Chunk, Codec, Frame, Kind, Mux as _, Time, Track, TrackId, Tracks};
use proptest::prelude::*;

use crate::sample::*;

fn frame(track: &Track, dts_us: i64, pts_us: i64, key: bool, noise: &[u8]) -> Frame {
    Frame {
        track: track.id,
        dts: Time::from_micros(dts_us),
        pts: Time::from_micros(pts_us),
        key: key || track.kind() == Kind::Audio,
        discontinuity: false,
        wall: SystemTime::UNIX_EPOCH,
        data: coded(track.codec, key, noise),
    }
}

fn pushed<M: culvert_media::Mux>(mux: &mut M, frames: &[Frame]) -> Vec<Chunk> {
    let mut out = Vec::new();
    for frame in frames {
        mux.push(frame, &mut out);
    }
    out
}

/// What a viewer gets who is there from the beginning.
fn muxed<M: culvert_media::Mux>(tracks: &Tracks, frames: &[Frame]) -> Vec<u8> {
    let mut mux = M::new(tracks);
    let header = mux.header();
    let chunks = pushed(&mut mux, frames);
    [&header[..], &chunks.iter().map(|chunk| &chunk.data[..]).collect::<Vec<_>>().concat()].concat()
}

/// WebSocket frames to messages.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[0], 0x82, "final, binary");
        let (len, head) = match bytes[1] {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            127 => (usize::try_from(u64::from_be_bytes(bytes[2..10].try_into().unwrap())).unwrap(), 10),
            len => (usize::from(len), 2),
        };
        assert!(
            len >= match head {
                2 => 0,
                4 => 126,
                _ => 65_536,
            },
            "the shortest form"
        );
        messages.push(&bytes[head..head + len]);
        bytes = &bytes[head + len..];
    }
    messages
}

/// The frame as FLV can say it: in whole milliseconds.
fn in_millis(frame: &Frame) -> Frame {
    Frame { dts: Time::from_millis(frame.dts.millis()), pts: Time::from_millis(frame.pts.millis()), ..frame.clone() }
}

#[test]
fn a_file_that_is_muxed_again_is_the_same_file() {
    for bytes in [H264_AAC, H265_PCMA] {
        let (events, _) = demuxed(bytes);
        let (tracks, frames) = (track_sets(&events), frames(&events));
        let (again, dropped) = demuxed(&muxed::<Mux>(&tracks[0], &frames));
        assert_eq!((again, dropped), (events, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn what_is_muxed_is_demuxed_for_every_pair_of_codecs(
        video in prop::option::weighted(0.85, prop::sample::select(VIDEO_CODECS.to_vec())),
        audio in prop::option::weighted(0.85, prop::sample::select(AUDIO_CODECS.to_vec())),
        start_ms in prop::sample::select(vec![0i64, 1_234, (1 << 31) - 300, (1 << 32) - 300]),
        steps in prop::collection::vec(
            (any::<bool>(), 0..90_000i64, -100_000..400_000i64, any::<bool>(),
             prop::collection::vec(any::<u8>(), 0..300)),
            1..60,
        ),
    ) {
        let list: Vec<Track> = [video, audio].into_iter().flatten().map(track).collect();
        prop_assume!(!list.is_empty());
        let mut now = start_ms * 1000;
        let mut frames = Vec::new();
        for (first, step, shift, key, noise) in &steps {
            now += step;
            let track = if *first { list.first() } else { list.last() }.unwrap();
            let shift = if matches!(track.codec, Codec::H264 | Codec::H265) { *shift } else { 0 };
            frames.push(frame(track, now, now + shift, *key, noise));
        }
        let tracks = Tracks::new(list);
        let bytes = muxed::<Mux>(&tracks, &frames);

        let (events, dropped) = demuxed(&bytes);
        prop_assert_eq!(dropped, 0);
        prop_assert!(events.iter().all(|event| !matches!(event, Event::EndOfSequence)));
        let expected: Vec<_> = frames.iter().map(in_millis).collect();
        prop_assert_eq!(crate::sample::frames(&events), expected);
        // MP3 and G.711 tracks are known by their first frames.
        let spoken = |track: &&Track| {
            !matches!(track.codec, Codec::Mp3 | Codec::G711A | Codec::G711U)
                || frames.iter().any(|frame| frame.track == track.id)
        };
        let last = track_sets(&events).last().unwrap().clone();
        prop_assert_eq!(last, Tracks::new(tracks.iter().filter(spoken).cloned().collect()));

        // WS-FLV is the same, message by message.
        let ws = muxed::<WsMux>(&tracks, &frames);
        let messages = messages(&ws);
        prop_assert_eq!(messages.concat(), bytes);
        prop_assert_eq!(messages[0].len(), 13);
        let headers = TagWriter::new(&tracks).sequence_headers().len();
        prop_assert_eq!(messages.len(), 2 + headers + frames.len());
    }
}

#[test]
fn websocket_lengths_take_7_16_or_64_bits() {
    let track = track(Codec::G711A);
    let mut mux = WsMux::new(&Tracks::new(vec![track.clone()]));
    // 15 bytes of tag, one of flags, one that is always there.
    for (noise, head) in [(108, 2), (109, 4), (65_518, 4), (65_519, 10)] {
        let chunks = pushed(&mut mux, &[frame(&track, 0, 0, true, &vec![0; noise])]);
        assert_eq!(messages(&chunks[0].data).len(), 1);
        assert_eq!(chunks[0].data.len(), 17 + noise + head);
    }
}

#[test]
fn viewers_enter_at_key_frames_or_at_any_sound_where_there_are_no_pictures() {
    let (video, audio) = (track(Codec::H264), track(Codec::Aac));
    let frames =
        [frame(&video, 0, 0, true, &[]), frame(&audio, 0, 0, true, &[]), frame(&video, 40_000, 40_000, false, &[])];
    let entries = |tracks| {
        let mut mux = Mux::new(&Tracks::new(tracks));
        pushed(&mut mux, &frames).iter().map(|chunk| (chunk.entry, chunk.time.millis())).collect::<Vec<_>>()
    };
    assert_eq!(entries(vec![video, audio.clone()]), [(true, 0), (false, 0), (false, 40)]);
    assert_eq!(entries(vec![audio]), [(true, 0)]);
}

#[test]
fn headers_say_the_time_of_the_latest_frame_and_which_tracks_there_are() {
    let (video, audio) = (track(Codec::H264), track(Codec::Aac));
    for (list, flags) in [(vec![video.clone(), audio.clone()], 5), (vec![video.clone()], 1), (vec![audio], 4)] {
        let count = list.len();
        let mut mux = Mux::new(&Tracks::new(list.clone()));
        assert_eq!(mux.header()[4], flags);
        pushed(&mut mux, &[frame(&list[0], (1 << 32) * 1000 + 7_000, (1 << 32) * 1000 + 7_000, true, &[])]);
        let tags = tags(&mux.header()).unwrap();
        assert_eq!(tags.len(), 1 + count);
        assert_eq!(tags[0].time_ms, 0, "metadata, always");
        assert!(tags[1..].iter().all(|tag| tag.time_ms == 7));
        // A viewer that skipped gets the codecs' configuration only.
        assert!(mux.header().ends_with(&mux.reentry()));
        assert_eq!(mux.reentry()[0], tags[1].kind as u8);
    }
}

#[test]
fn tracks_that_change_are_told_to_who_is_there() {
    let (h264, h265) = (Tracks::new(vec![track(Codec::H264)]), Tracks::new(vec![track(Codec::H265)]));
    let mut mux = Mux::new(&h264);
    let mut bytes = mux.header().to_vec();
    let mut out = pushed(&mut mux, &[frame(&track(Codec::H264), 0, 0, true, &[])]);
    mux.set_tracks(&Tracks::new(h264.iter().cloned().collect()), &mut out);
    assert_eq!(out.len(), 1, "nothing changed for this packaging");
    mux.set_tracks(&h265, &mut out);
    out.extend(pushed(&mut mux, &[frame(&track(Codec::H265), 40_000, 40_000, true, &[])]));
    assert_eq!(out.iter().map(|chunk| chunk.entry).collect::<Vec<_>>(), [true, false, true]);
    out.iter().for_each(|chunk| bytes.extend_from_slice(&chunk.data));
    let (events, dropped) = demuxed(&bytes);
    assert_eq!((track_sets(&events), dropped), (vec![h264, h265], 0));
}

#[test]
fn only_the_first_tracks_are_carried() {
    let mut other = track(Codec::H264);
    other.id = TrackId(2);
    let writer = TagWriter::new(&Tracks::new(vec![track(Codec::H265), other.clone()]));
    assert_eq!(writer.frame(&frame(&other, 0, 0, true, &[])), None);
    assert_eq!(writer.sequence_headers().len(), 1);
}

#[test]
fn metadata_says_what_is_known() {
    let of = |tracks| {
        let values = amf0::decode_all(&TagWriter::new(&Tracks::new(tracks)).metadata()).unwrap();
        assert_eq!((values.len(), values[0].as_str()), (2, Some("onMetaData")));
        values[1].clone()
    };
    let number = |value: &Value, key| value.get(key).and_then(Value::as_f64);
    let old = of(vec![track(Codec::H264), track(Codec::Aac)]);
    let numbers = ["width", "height", "videocodecid", "audiocodecid", "audiosamplerate", "audiochannels"];
    assert_eq!(numbers.map(|key| number(&old, key).unwrap()), [640.0, 360.0, 7.0, 10.0, 44_100.0, 2.0]);
    assert_eq!(old.get("stereo").and_then(Value::as_bool), Some(true));
    assert_eq!(old.get("encoder").and_then(Value::as_str), Some("culvert"));
    let new = of(vec![track(Codec::H265), track(Codec::Opus)]);
    assert_eq!(number(&new, "videocodecid"), Some(f64::from(u32::from_be_bytes(*b"hvc1"))));
    assert_eq!(number(&new, "audiocodecid"), Some(f64::from(u32::from_be_bytes(*b"Opus"))));
    let sound = of(vec![track(Codec::G711U)]);
    assert_eq!((number(&sound, "width"), number(&sound, "audiocodecid")), (None, Some(8.0)));
}

#[test]
fn prefixes_are_as_specified() {
    let prefix = |codec, key, shift_us| {
        let track = track(codec);
        let writer = TagWriter::new(&Tracks::new(vec![track.clone()]));
        let parts = writer.frame(&frame(&track, 500, 500 + shift_us, key, &[])).unwrap();
        assert_eq!(parts.kind, if codec.kind() == Kind::Video { TagKind::Video } else { TagKind::Audio });
        parts.prefix.to_vec()
    };
    assert_eq!(prefix(Codec::H264, true, 80_000), [0x17, 1, 0, 0, 80]);
    assert_eq!(prefix(Codec::H264, false, -40_000), [0x27, 1, 0xff, 0xff, 0xd8]);
    assert_eq!(prefix(Codec::H264, false, i64::MAX / 2), [0x27, 1, 0x7f, 0xff, 0xff]);
    assert_eq!(prefix(Codec::H265, true, 0), *b"\x93hvc1");
    assert_eq!(prefix(Codec::H265, false, 40_000), *b"\xa1hvc1\0\0\x28");
    assert_eq!(prefix(Codec::Av1, true, 0), *b"\x91av01");
    assert_eq!(prefix(Codec::Vp8, false, 0), *b"\xa1vp08");
    assert_eq!(prefix(Codec::Vp9, false, 0), *b"\xa1vp09");
    assert_eq!(prefix(Codec::Aac, true, 0), [0xaf, 1]);
    assert_eq!(prefix(Codec::Opus, true, 0), *b"\x91Opus");
    assert_eq!(prefix(Codec::G711A, true, 0), [0x72]);
    assert_eq!(prefix(Codec::G711U, true, 0), [0x82]);
    assert_eq!(prefix(Codec::Mp3, true, 0), [0x2f]);

    for (sample_rate_hz, channels, expected) in
        [(44_100, 2, 0x2f), (22_050, 1, 0x2a), (11_025, 1, 0x26), (8_000, 1, 0xe2), (32_000, 2, 0x2f)]
    {
        let track = Track::audio(AUDIO, Codec::Mp3, Audio { sample_rate_hz, channels });
        let writer = TagWriter::new(&Tracks::new(vec![track.clone()]));
        assert_eq!(writer.frame(&frame(&track, 0, 0, true, &[])).unwrap().prefix.to_vec(), [expected]);
    }
}

#[test]
fn presentation_times_never_drift_by_rounding() {
    let track = track(Codec::H264);
    let writer = TagWriter::new(&Tracks::new(vec![track.clone()]));
    for count in 0..1000 {
        let (dts, pts) = (count * 33_333, count * 33_333 + 66_667);
        let parts = writer.frame(&frame(&track, dts, pts, false, &[])).unwrap();
        let shift = u32::from_be_bytes([0, parts.prefix[2], parts.prefix[3], parts.prefix[4]]);
        assert_eq!(i64::from(parts.time_ms + shift), pts / 1000);
    }
}
