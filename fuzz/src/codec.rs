//! F13 to F16: parameter sets, configuration records, frames, Annex B.

use bytes::Bytes;
use culvert_formats::fmp4;
use culvert_media::codec::{check_frame, h264, h265, nal};
use culvert_media::{Codec, Detail, Track, TrackId, Tracks};
use h264_reader::nal::sps::SeqParameterSet;
use h264_reader::rbsp::{BitReader, decode_nal};
use mp4_atom::{Any, DecodeMaybe};

/// Largest side of a picture that may come out of a record (security.md S22).
const MAX_SIDE: u32 = 16_384;

/// All that the project knows; a byte of the input chooses.
pub(crate) const CODECS: [Codec; 11] = [
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

/// The first byte chooses the codec.
fn choose(data: &[u8]) -> Option<(Codec, &[u8])> {
    let (first, rest) = data.split_first()?;
    CODECS.get(usize::from(*first) % CODECS.len()).map(|codec| (*codec, rest))
}

/// An H.264 SPS: sizes are within bounds, and h264-reader sees the same picture where it reads the set, too.
pub(crate) fn sps264(data: &[u8]) {
    let Ok(sps) = h264::Sps::parse(data) else { return };
    assert_size(sps.width, sps.height);
    let Ok(rbsp) = decode_nal(data) else { return };
    let Ok(other) = SeqParameterSet::from_bits(BitReader::new(&*rbsp)) else { return };
    let Ok(size) = other.pixel_dimensions() else { return };
    assert_eq!((sps.width, sps.height), size);
    assert_eq!(sps.profile, u8::from(other.profile_idc));
    assert_eq!(sps.level, other.level_idc);
}

/// An H.265 SPS: sizes are within bounds.
pub(crate) fn sps265(data: &[u8]) {
    if let Ok(sps) = h265::Sps::parse(data) {
        assert_size(sps.width, sps.height);
    }
}

/// A configuration record of any codec: sizes are within bounds, a record of H.264 or H.265 that we write back is read as
/// the same, and a track that MP4 carries has an initialisation segment, which another reader reads.
pub(crate) fn config_records(data: &[u8]) {
    let Some((codec, record)) = choose(data) else { return };
    if let Ok(track) = Track::new(TrackId(0), codec, Bytes::copy_from_slice(record)) {
        match track.detail {
            Detail::Video(video) if video.width == 0 => assert_eq!(video.height, 0),
            Detail::Video(video) => assert_size(video.width, video.height),
            Detail::Audio(audio) => assert!(audio.sample_rate_hz > 0 && audio.channels > 0),
        }
        let tracks = Tracks::new(vec![track]);
        let init = fmp4::init(&tracks);
        assert_eq!(fmp4::carries(&tracks), !init.is_empty());
        assert_eq!(fmp4::carries(&tracks), !fmp4::codecs(&tracks).is_empty());
        let mut rest = &init[..];
        while let Some(found) = Any::decode_maybe(&mut rest).expect("boxes that we wrote are well formed") {
            assert!(matches!(found, Any::Ftyp(_) | Any::Moov(_)), "{found:?}");
        }
        assert!(rest.is_empty());
    }
    if let Ok(config) = h264::Config::parse(record) {
        assert_eq!(h264::Config::parse(&config.write()), Ok(config));
    }
    if let Ok(config) = h265::Config::parse(record) {
        assert_eq!(h265::Config::parse(&config.write()), Ok(config));
    }
}

/// A frame of any codec.
pub(crate) fn frames(data: &[u8]) {
    let Some((codec, frame)) = choose(data) else { return };
    let checked = check_frame(codec, frame);
    if frame.is_empty() {
        assert!(checked.is_err());
    }
    // The other length sizes come from records; whatever they make of it is a frame of 4-byte lengths.
    for length_size in 1..=4 {
        if let Ok(canonical) = nal::relength(frame, length_size) {
            assert!(nal::units(&canonical).all(|unit| unit.is_ok()));
        }
    }
}

/// Annex B to lengths: every unit is well formed, and there and back again changes nothing.
pub(crate) fn annexb(data: &[u8]) {
    let frame = nal::from_annexb(data);
    let units: Vec<_> = nal::units(&frame).map(|unit| unit.expect("a unit that we wrote is well formed")).collect();
    assert!(units.iter().copied().eq(nal::annexb_units(data)));
    assert!(units.iter().map(|unit| unit.len()).sum::<usize>() <= data.len());
    let back = nal::to_annexb(&frame).expect("a frame that we wrote is well formed");
    assert_eq!(nal::from_annexb(&back), frame);
    assert!(nal::unescape(data).len() <= data.len());
}

fn assert_size(width: u32, height: u32) {
    assert!((1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height), "{width}x{height}");
}
