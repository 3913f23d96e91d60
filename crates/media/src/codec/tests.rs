//! What holds for every codec: whole records and frames are read, cut ones refused, and nothing panics.

use proptest::prelude::*;

use super::samples::*;
use super::*;

const CODECS: [Codec; 11] = [
    Codec::H264,
    Codec::H265,
    Codec::Av1,
    Codec::Vp8,
    Codec::Vp9,
    Codec::Aac,
    Codec::Opus,
    Codec::G711A,
    Codec::G711U,
    Codec::Mp3,
    Codec::Flac,
];

/// Every record among the samples.
fn records() -> Vec<(Codec, Vec<u8>)> {
    let mut all = Vec::new();
    all.extend(AVC.iter().map(|sample| (Codec::H264, hex(sample.1))));
    all.extend(HEVC.iter().map(|sample| (Codec::H265, hex(sample.1))));
    all.extend([AV1C_AOM, AV1C_SVT].map(|record| (Codec::Av1, hex(record))));
    all.push((Codec::Vp9, hex(VPCC)));
    all.extend(ASC.map(|(record, ..)| (Codec::Aac, hex(record))));
    all.extend(OPUS.map(|(record, _)| (Codec::Opus, hex(record))));
    all.extend(FLAC.map(|(record, ..)| (Codec::Flac, hex(record))));
    all
}

/// Every frame among the samples, and whether a decoder can begin there.
fn frames() -> Vec<(Codec, Vec<u8>, bool)> {
    let mut all = Vec::new();
    all.extend(H264_FRAMES.map(|(frame, key)| (Codec::H264, hex(frame), key)));
    all.extend(H265_FRAMES.map(|(frame, key)| (Codec::H265, hex(frame), key)));
    all.extend(AV1_FRAMES.map(|(frame, key)| (Codec::Av1, hex(frame), key)));
    all.extend(VP9_FRAMES.map(|(frame, key)| (Codec::Vp9, hex(frame), key)));
    all.extend(VP8_FRAMES.map(|(frame, key)| (Codec::Vp8, hex(frame), key)));
    all.extend(FLAC_FRAMES.map(|(frame, _)| (Codec::Flac, hex(frame), true)));
    all
}

#[test]
fn every_real_record_is_read() {
    for (codec, record) in records() {
        let detail = parse_config(codec, &record).unwrap();
        match detail {
            Detail::Video(video) => assert!(codec == Codec::Vp9 || video.width > 0 && video.height > 0),
            Detail::Audio(audio) => assert!(audio.sample_rate_hz > 0 && audio.channels > 0),
        }
    }
}

#[test]
fn codecs_without_a_record_have_defaults_and_the_others_miss_theirs() {
    for codec in CODECS {
        let detail = parse_config(codec, &[]);
        match codec {
            Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Aac | Codec::Opus | Codec::Flac => {
                assert_eq!(detail, Err(CodecError::Missing(codec.name())));
            }
            Codec::Vp8 | Codec::Vp9 => assert_eq!(detail, Ok(Detail::Video(Video::default()))),
            Codec::G711A | Codec::G711U => {
                assert_eq!(detail, Ok(Detail::Audio(Audio { sample_rate_hz: 8000, channels: 1 })));
            }
            Codec::Mp3 => assert_eq!(detail, Ok(Detail::Audio(Audio { sample_rate_hz: 44_100, channels: 2 }))),
        }
    }
}

#[test]
fn a_record_with_other_lengths_than_our_frames_is_refused() {
    let mut record = hex(AVC[0].1);
    record[4] = 0xfd;
    let error = parse_config(Codec::H264, &record).unwrap_err();
    assert_eq!(error, CodecError::Value { what: "NAL length size of a track's record", value: 2 });
    let mut config = h264::Config::parse(&record).unwrap();
    config.length_size = 4;
    assert!(parse_config(Codec::H264, &config.write()).is_ok());
}

#[test]
fn a_decoder_can_begin_where_the_encoder_says_so() {
    for (codec, frame, key) in frames() {
        assert_eq!(check_frame(codec, &frame), Ok(FrameInfo { key }), "{codec:?}");
    }
    for codec in CODECS {
        assert_eq!(check_frame(codec, &[]), Err(CodecError::Short("frame")));
        if codec.kind() == crate::Kind::Audio && codec != Codec::Flac {
            assert_eq!(check_frame(codec, &[1]), Ok(FrameInfo { key: true }));
        }
    }
}

#[test]
fn cut_frames_of_codecs_with_lengths_are_refused() {
    for (codec, frame, _) in frames() {
        if matches!(codec, Codec::H264 | Codec::H265 | Codec::Av1) {
            for length in 0..frame.len() {
                assert!(check_frame(codec, &frame[..length]).is_err(), "{codec:?} {length}");
            }
        }
    }
}

#[test]
fn a_cut_record_is_an_error_or_says_the_same() {
    for (codec, record) in records() {
        let whole = parse_config(codec, &record).unwrap();
        for length in 1..record.len() {
            match parse_config(codec, &record[..length]) {
                // An av1C without its OBUs is allowed, and does not say the size.
                Ok(Detail::Video(video)) if codec == Codec::Av1 && length == 4 => assert_eq!(video, Video::default()),
                Ok(cut) => assert_eq!(cut, whole, "{codec:?} {length}"),
                Err(_) => {}
            }
        }
    }
}

fn every_parser(data: &[u8]) {
    for codec in CODECS {
        let _ = parse_config(codec, data);
        let _ = check_frame(codec, data);
    }
    let _ = h264::Sps::parse(data);
    let _ = h265::Sps::parse(data);
    if let Ok(config) = h264::Config::parse(data) {
        let _ = config.write();
    }
    if let Ok(config) = h265::Config::parse(data) {
        let _ = config.write();
    }
    let _ = av1::SequenceHeader::parse(data);
    let _ = av1::Config::from_sequence_header(data);
    let _ = av1::without_temporal_delimiters(Bytes::copy_from_slice(data));
    if let Ok(config) = aac::Config::parse(data) {
        let _ = config.write();
    }
    let _ = aac::adts_header(data);
    let _ = opus::packet_duration(data);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic(data in prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..120), head in 0usize..6) {
        // Beginnings that let more of the parsers go on.
        let heads: [&[u8]; 6] = [&[], &[0x67, 100], &[0x42, 1, 1], &[0x81, 0, 12, 0, 10, 11], b"OpusHead\x01", &[1, 100, 0, 30, 0xff]];
        every_parser(&[heads[head], &data].concat());
    }

    #[test]
    fn damaged_records_and_frames_never_panic(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut all: Vec<Vec<u8>> = records().into_iter().map(|(_, record)| record).collect();
        all.extend(frames().into_iter().map(|(_, frame, _)| frame));
        let data = which.get(&all);
        let mut data = data.clone();
        let at = at.index(data.len());
        data[at] = byte;
        every_parser(&data);
        every_parser(&data[cut.index(data.len())..]);
        every_parser(&data[..cut.index(data.len())]);
    }
}
