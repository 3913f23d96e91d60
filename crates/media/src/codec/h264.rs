//! H.264: the decoder configuration record (avcC, ISO 14496-15 5.3.3.1), the sequence parameter set (H.264 7.3.2.1.1)
//! and where decoding can begin.
//!
//! Slices are not read, nor what an SPS says after its timing information.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use bytes::{BufMut, Bytes, BytesMut};

use super::bits::Reader;
use super::nal::{self, MAX_UNIT_BYTES};
use super::{CodecError, FrameInfo, MAX_SIDE, Slices, crop, fps};

/// NAL unit types, H.264 table 7-1.
const NAL_IDR: u8 = 5;
const NAL_SEI: u8 = 6;
/// profile_idc of Baseline.
const PROFILE_BASELINE: u8 = 66;
const NAL_SPS: u8 = 7;
/// SEI payload type of the recovery point, H.264 D.1.1.
pub(super) const SEI_RECOVERY_POINT: u32 = 6;
/// numOfSequenceParameterSets has five bits.
const MAX_SPS: usize = 31;
/// numOfPictureParameterSets has eight bits.
const MAX_PPS: usize = 255;
/// Profiles whose SPS has the chroma format and bit depths, H.264 7.3.2.1.1.
const HIGH_PROFILES: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// An AVCDecoderConfigurationRecord: the contents of an avcC box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// AVCProfileIndication, as profile_idc of the SPS.
    pub profile: u8,
    /// The constraint flags.
    pub compatibility: u8,
    /// AVCLevelIndication, ten times the level.
    pub level: u8,
    /// Bytes of each NAL unit's length in the frames that go with this record: 1, 2 or 4. Our own frames have 4.
    pub length_size: usize,
    /// Sequence parameter sets, each a NAL unit with its header; at least one.
    pub sps: Vec<Bytes>,
    /// Picture parameter sets, each a NAL unit with its header.
    pub pps: Vec<Bytes>,
}

impl Config {
    /// Reads a record. What follows the picture parameter sets is passed over: the SPS says it too.
    ///
    /// The parameter sets are not parsed: see [`Sps::parse`].
    pub fn parse(record: &[u8]) -> Result<Config, CodecError> {
        let mut rest = Slices::new("avcC", record);
        let version = rest.byte()?;
        if version != 1 {
            return Err(CodecError::Value { what: "avcC version", value: u64::from(version) });
        }
        let (profile, compatibility, level) = (rest.byte()?, rest.byte()?, rest.byte()?);
        let length_size = length_size(rest.byte()?)?;
        let sps = parameter_sets(&mut rest, 0x1f)?;
        let pps = parameter_sets(&mut rest, 0xff)?;
        if sps.is_empty() {
            return Err(CodecError::Missing("H.264 (an SPS)"));
        }
        Ok(Config { profile, compatibility, level, length_size, sps, pps })
    }

    /// A record for frames with 4-byte lengths. At least one of each set is needed, and the first SPS must be sound.
    pub fn from_parameter_sets(sps: Vec<Bytes>, pps: Vec<Bytes>) -> Result<Config, CodecError> {
        let first = Sps::parse(sps.first().ok_or(CodecError::Missing("H.264 (an SPS)"))?)?;
        check_sets("H.264 (an SPS)", &sps, MAX_SPS)?;
        check_sets("H.264 (a PPS)", &pps, MAX_PPS)?;
        let Sps { profile, compatibility, level, .. } = first;
        Ok(Config { profile, compatibility, level, length_size: 4, sps, pps })
    }

    /// The record's bytes. Sets beyond what the record can count, or longer than it can say, are left out.
    pub fn write(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(&[1, self.profile, self.compatibility, self.level]);
        out.put_u8(0xfc | length_size_minus_one(self.length_size));
        put_sets(&mut out, 0xe0, &self.sps, MAX_SPS);
        put_sets(&mut out, 0, &self.pps, MAX_PPS);
        // ISO 14496-15 5.3.3.1.2: all but Baseline, Main and Extended say their chroma format and bit depths once more.
        let sps = self.sps.first().and_then(|sps| Sps::parse(sps).ok());
        if let (Some(sps), false) = (sps, matches!(self.profile, 66 | 77 | 88)) {
            out.put_u8(0xfc | sps.chroma_format);
            out.put_u8(0xf8 | (sps.bit_depth_luma - 8));
            out.put_u8(0xf8 | (sps.bit_depth_chroma - 8));
            out.put_u8(0);
        }
        out.freeze()
    }
}

/// The low two bits of a record's lengthSizeMinusOne byte; 3-byte lengths do not exist (ISO 14496-15 5.3.3.1.3).
pub(super) fn length_size(byte: u8) -> Result<usize, CodecError> {
    match byte & 3 {
        2 => Err(CodecError::Value { what: "NAL length size", value: 3 }),
        size => Ok(usize::from(size) + 1),
    }
}

/// What [`length_size`] reads. A size that does not exist is written as 4, the only one our frames have.
pub(super) fn length_size_minus_one(size: usize) -> u8 {
    match size {
        1 => 0,
        2 => 1,
        _ => 3,
    }
}

/// A count under `mask`, then that many sets behind 16-bit lengths.
fn parameter_sets(rest: &mut Slices<'_>, mask: u8) -> Result<Vec<Bytes>, CodecError> {
    let count = rest.byte()? & mask;
    (0..count).map(|_| rest.unit()).collect()
}

fn put_sets(out: &mut BytesMut, marker: u8, sets: &[Bytes], most: usize) {
    let sets: Vec<_> = sets.iter().filter(|set| set.len() < MAX_UNIT_BYTES).take(most).collect();
    out.put_u8(marker | u8::try_from(sets.len()).expect("both counts fit a byte"));
    for set in sets {
        put_unit(out, set);
    }
}

/// A set behind its 16-bit length.
pub(super) fn put_unit(out: &mut BytesMut, set: &[u8]) {
    out.put_u16(u16::try_from(set.len()).expect("longer sets were sorted out"));
    out.put_slice(set);
}

/// That there are 1 to `most` sets, none of them empty or longer than a record can say.
pub(super) fn check_sets(what: &'static str, sets: &[Bytes], most: usize) -> Result<(), CodecError> {
    if sets.is_empty() {
        return Err(CodecError::Missing(what));
    }
    if sets.len() > most {
        return Err(CodecError::Value { what: "number of parameter sets", value: sets.len() as u64 });
    }
    match sets.iter().find(|set| set.is_empty() || set.len() >= MAX_UNIT_BYTES) {
        Some(set) => Err(CodecError::Value { what: "parameter set length", value: set.len() as u64 }),
        None => Ok(()),
    }
}

/// What a sequence parameter set says.
#[derive(Clone, Debug, PartialEq)]
pub struct Sps {
    /// seq_parameter_set_id.
    pub id: u8,
    /// profile_idc.
    pub profile: u8,
    /// The constraint flags.
    pub compatibility: u8,
    /// level_idc, ten times the level.
    pub level: u8,
    /// chroma_format_idc: 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma_format: u8,
    /// Bits of a luma sample, 8 to 14.
    pub bit_depth_luma: u8,
    /// Bits of a chroma sample, 8 to 14.
    pub bit_depth_chroma: u8,
    /// Pictures may be fields.
    pub interlaced: bool,
    /// Width in pixels before cropping: what a decoder needs memory for.
    pub coded_width: u32,
    /// Height in pixels before cropping.
    pub coded_height: u32,
    /// Visible width in pixels.
    pub width: u32,
    /// Visible height in pixels, of the whole frame.
    pub height: u32,
    /// Frames per second, where the timing information says so.
    pub fps: Option<f64>,
    /// Most pictures that may be shown before one that is decoded earlier (max_num_reorder_frames), where that is said or follows
    /// from the rest.
    pub reordering: Option<u8>,
    /// How its samples mean colours.
    pub colour: Colour,
}

impl Sps {
    /// Reads an SPS NAL unit with its header, as it is in the stream (with emulation prevention).
    pub fn parse(nal: &[u8]) -> Result<Sps, CodecError> {
        if nal.len() > MAX_UNIT_BYTES {
            return Err(CodecError::Value { what: "SPS length", value: nal.len() as u64 });
        }
        let rbsp = nal::unescape(nal);
        let mut bits = Reader::new("SPS", &rbsp);
        let header = bits.byte()?;
        if header & 0x9f != NAL_SPS {
            return Err(CodecError::Value { what: "SPS NAL header", value: u64::from(header) });
        }
        let (profile, compatibility, level) = (bits.byte()?, bits.byte()?, bits.byte()?);
        let id = bits.ue_max("seq_parameter_set_id", 31)? as u8;
        let mut chroma = Chroma { format: 1, separate: false, depth_luma: 8, depth_chroma: 8 };
        if HIGH_PROFILES.contains(&profile) {
            chroma = Chroma::parse(&mut bits)?;
        }
        bits.ue_max("log2_max_frame_num_minus4", 12)?;
        let in_order = skip_order_count(&mut bits)? == 2;
        bits.ue_max("max_num_ref_frames", 16)?;
        bits.skip(1)?; // gaps_in_frame_num_value_allowed_flag
        let width = (bits.ue_max("pic_width_in_mbs_minus1", MAX_SIDE / 16 - 1)? + 1) * 16;
        let map_units = bits.ue_max("pic_height_in_map_units_minus1", MAX_SIDE / 16 - 1)? + 1;
        let frame_mbs_only = bits.bit()?;
        let fields = if frame_mbs_only { 1 } else { 2 };
        let height = map_units * 16 * fields;
        if height > MAX_SIDE {
            return Err(CodecError::Value { what: "picture height", value: u64::from(height) });
        }
        if !frame_mbs_only {
            bits.skip(1)?; // mb_adaptive_frame_field_flag
        }
        bits.skip(1)?; // direct_8x8_inference_flag
        let (mut visible_width, mut visible_height) = (width, height);
        if bits.bit()? {
            let (unit_x, unit_y) = chroma.crop_unit();
            visible_width = crop(width, bits.ue()?, bits.ue()?, unit_x)?;
            visible_height = crop(height, bits.ue()?, bits.ue()?, unit_y * fields)?;
        }
        let (mut fps, mut reordering, mut colour) = (None, None, Colour::default());
        if bits.bit()? {
            colour = vui_colour(&mut bits)?;
            fps = vui_fps(&mut bits)?;
            // What is behind the timing may be cut or broken without harm.
            reordering = vui_reordering(&mut bits).ok().flatten();
        }
        if in_order || profile == PROFILE_BASELINE {
            // Pictures are shown as they are decoded (8.2.1.3); Baseline has no B slices (A.2.1).
            reordering = Some(0);
        }
        Ok(Sps {
            id,
            profile,
            compatibility,
            level,
            chroma_format: chroma.format,
            bit_depth_luma: chroma.depth_luma,
            bit_depth_chroma: chroma.depth_chroma,
            interlaced: !frame_mbs_only,
            coded_width: width,
            coded_height: height,
            width: visible_width,
            height: visible_height,
            fps,
            reordering,
            colour,
        })
    }
}

/// What only the high profiles say.
struct Chroma {
    format: u8,
    separate: bool,
    depth_luma: u8,
    depth_chroma: u8,
}

impl Chroma {
    fn parse(bits: &mut Reader<'_>) -> Result<Chroma, CodecError> {
        let format = bits.ue_max("chroma_format_idc", 3)? as u8;
        let separate = format == 3 && bits.bit()?;
        let depth_luma = bits.ue_max("bit_depth_luma_minus8", 6)? as u8 + 8;
        let depth_chroma = bits.ue_max("bit_depth_chroma_minus8", 6)? as u8 + 8;
        bits.skip(1)?; // qpprime_y_zero_transform_bypass_flag
        if bits.bit()? {
            for list in 0..if format == 3 { 12 } else { 8 } {
                if bits.bit()? {
                    skip_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
        Ok(Chroma { format, separate, depth_luma, depth_chroma })
    }

    /// Luma samples of one unit of cropping in a frame without fields: (7-19) to (7-22).
    fn crop_unit(&self) -> (u32, u32) {
        match (self.format, self.separate) {
            (1, _) => (2, 2),
            (2, _) => (2, 1),
            _ => (1, 1),
        }
    }
}

/// H.264 7.3.2.1.1.1.
fn skip_scaling_list(bits: &mut Reader<'_>, size: u32) -> Result<(), CodecError> {
    let (mut last, mut next) = (8, 8);
    for _ in 0..size {
        if next != 0 {
            let delta = bits.se()?;
            if !(-128..=127).contains(&delta) {
                return Err(CodecError::Value { what: "delta_scale", value: u64::from(delta.unsigned_abs()) });
            }
            next = (last + delta + 256) % 256;
        }
        last = if next == 0 { last } else { next };
    }
    Ok(())
}

/// Returns the type.
fn skip_order_count(bits: &mut Reader<'_>) -> Result<u32, CodecError> {
    let kind = bits.ue_max("pic_order_cnt_type", 2)?;
    match kind {
        0 => {
            bits.ue_max("log2_max_pic_order_cnt_lsb_minus4", 12)?;
        }
        1 => {
            bits.skip(1)?; // delta_pic_order_always_zero_flag
            bits.se()?;
            bits.se()?;
            for _ in 0..bits.ue_max("num_ref_frames_in_pic_order_cnt_cycle", 255)? {
                bits.se()?;
            }
        }
        _ => {}
    }
    Ok(kind)
}

/// H.264 E.1.1, the timing information.
fn vui_fps(bits: &mut Reader<'_>) -> Result<Option<f64>, CodecError> {
    if !bits.bit()? {
        return Ok(None);
    }
    // Two ticks are a frame: one for each field (E.2.1).
    let (units, scale) = (bits.bits(32)?, bits.bits(32)?);
    // fixed_frame_rate_flag; a record that is cut here has said its rate all the same.
    bits.skip(1).ok();
    Ok(fps(f64::from(scale), 2.0 * f64::from(units)))
}

/// H.264 E.1.1, from behind the timing information on: max_num_reorder_frames.
fn vui_reordering(bits: &mut Reader<'_>) -> Result<Option<u8>, CodecError> {
    let (nal, vcl) = (skip_hrd(bits)?, skip_hrd(bits)?);
    if nal || vcl {
        bits.skip(1)?; // low_delay_hrd_flag
    }
    bits.skip(1)?; // pic_struct_present_flag
    if !bits.bit()? {
        return Ok(None);
    }
    bits.skip(1)?; // motion_vectors_over_pic_boundaries_flag
    for _ in 0..4 {
        bits.ue()?; // sizes and lengths of vectors
    }
    Ok(Some(bits.ue_max("max_num_reorder_frames", 16)? as u8))
}

/// H.264 E.1.2, where the flag before it says that it is there.
fn skip_hrd(bits: &mut Reader<'_>) -> Result<bool, CodecError> {
    if !bits.bit()? {
        return Ok(false);
    }
    let count = bits.ue_max("cpb_cnt_minus1", 31)? + 1;
    bits.skip(8)?;
    for _ in 0..count {
        bits.ue()?;
        bits.ue()?;
        bits.skip(1)?;
    }
    bits.skip(20)?;
    Ok(true)
}

/// How the samples of a picture mean colours, as H.264 E.2.1 and H.265 E.3.1 have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Colour {
    /// Samples go from 0 to 255 (of 8 bits), not from 16 to 235 and 240.
    pub full_range: bool,
    /// matrix_coefficients: 1 BT.709, 5 and 6 BT.601, 9 BT.2020; 2 where it is not said.
    pub matrix: u8,
}

impl Default for Colour {
    fn default() -> Colour {
        Colour { full_range: false, matrix: 2 }
    }
}

/// The part of the VUI that H.264 and H.265 have in common: aspect ratio, overscan, colours, chroma location.
pub(super) fn vui_colour(bits: &mut Reader<'_>) -> Result<Colour, CodecError> {
    let mut colour = Colour::default();
    const EXTENDED_SAR: u8 = 255;
    if bits.bit()? && bits.byte()? == EXTENDED_SAR {
        bits.skip(32)?;
    }
    if bits.bit()? {
        bits.skip(1)?; // overscan_appropriate_flag
    }
    if bits.bit()? {
        bits.skip(3)?; // video_format
        colour.full_range = bits.bit()?;
        if bits.bit()? {
            bits.skip(16)?; // colour_primaries, transfer_characteristics
            colour.matrix = bits.byte()?;
        }
    }
    if bits.bit()? {
        bits.ue()?;
        bits.ue()?;
    }
    Ok(colour)
}

/// Checks a frame: every length true, every NAL unit with its header, and at least one slice in it.
///
/// A decoder can begin at an IDR slice, or at a recovery point (a gradual refresh has no IDR at all).
pub fn check_frame(data: &[u8]) -> Result<FrameInfo, CodecError> {
    let (mut key, mut picture) = (false, false);
    for unit in nal::units(data) {
        let (header, payload) = unit?.split_first().ok_or(CodecError::Short("NAL unit"))?;
        if header & 0x80 != 0 {
            return Err(CodecError::Value { what: "forbidden_zero_bit", value: 1 });
        }
        match header & 0x1f {
            NAL_IDR => (key, picture) = (true, true),
            1..NAL_IDR => picture = true,
            NAL_SEI => key = key || nal::sei_has(payload, SEI_RECOVERY_POINT),
            _ => {}
        }
    }
    if picture { Ok(FrameInfo { key }) } else { Err(CodecError::NoPicture) }
}

#[cfg(test)]
mod tests {
    use h264_reader::nal::sps::SeqParameterSet;
    use h264_reader::rbsp::{BitReader, decode_nal};
    use proptest::prelude::*;

    use super::super::samples::{AVC, hex};
    use super::*;

    /// The same SPS as another parser reads it.
    fn oracle(nal: &[u8]) -> Option<SeqParameterSet> {
        SeqParameterSet::from_bits(BitReader::new(&*decode_nal(nal).ok()?)).ok()
    }

    #[test]
    fn real_sps_are_read_as_the_encoder_and_another_parser_say() {
        for (name, record, width, height, fps, interlaced, chroma_format, depth) in AVC {
            let config = Config::parse(&hex(record)).unwrap();
            let sps = Sps::parse(&config.sps[0]).unwrap();
            assert_eq!((sps.width, sps.height, sps.interlaced), (width, height, interlaced), "{name}");
            assert_eq!((sps.chroma_format, sps.bit_depth_luma, sps.bit_depth_chroma), (chroma_format, depth, depth));
            assert!((sps.fps.unwrap() - fps).abs() < 1e-6, "{name} {:?}", sps.fps);
            assert_eq!(
                [sps.profile, sps.compatibility, sps.level],
                [config.profile, config.compatibility, config.level]
            );
            let other = oracle(&config.sps[0]).unwrap();
            assert_eq!(other.pixel_dimensions().unwrap(), (sps.width, sps.height), "{name}");
            assert_eq!((u8::from(other.profile_idc), other.level_idc), (sps.profile, sps.level));
            let restricted = other.vui_parameters.as_ref().and_then(|vui| vui.bitstream_restrictions.as_ref());
            if let Some(restricted) = restricted {
                assert_eq!(sps.reordering.map(u32::from), Some(restricted.max_num_reorder_frames), "{name}");
            }
        }
        // libx264 with -bf 3: pictures are built on B-frames.
        let sps = hex("6764001eacd940a02ff97011000003000100000300320f162d96");
        assert_eq!(Sps::parse(&sps).unwrap().reordering, Some(2));
    }

    #[test]
    fn real_records_are_written_as_they_were_read() {
        for (name, record, ..) in AVC {
            let record = hex(record);
            let config = Config::parse(&record).unwrap();
            assert_eq!(config.write(), record, "{name}");
            assert_eq!(Config::from_parameter_sets(config.sps.clone(), config.pps.clone()).as_ref(), Ok(&config));
        }
    }

    #[test]
    fn records_without_parameter_sets_or_with_lengths_of_three_are_refused() {
        assert_eq!(Config::parse(&[1, 66, 0, 30, 0xff, 0xe0, 0]), Err(CodecError::Missing("H.264 (an SPS)")));
        assert_eq!(
            Config::parse(&[1, 66, 0, 30, 0xfe, 0xe0, 0]),
            Err(CodecError::Value { what: "NAL length size", value: 3 })
        );
        assert_eq!(Config::parse(&[0; 8]), Err(CodecError::Value { what: "avcC version", value: 0 }));
        let sps = Bytes::from(hex(AVC[0].1)).slice(8..33);
        assert!(Sps::parse(&sps).is_ok());
        assert_eq!(Config::from_parameter_sets(vec![sps], vec![]), Err(CodecError::Missing("H.264 (a PPS)")));
    }

    #[test]
    fn pictures_beyond_our_bounds_are_refused() {
        // Baseline, level 1, id 0, then: frame_num 0, order count type 2, 1 reference, no gaps, a width of macroblocks, a
        // height of 1, whole frames, no 8x8, no cropping, no VUI.
        let sps = |width: &str| {
            let bits = format!("1 1 011 010 0 {width} 1 1 0 0 0 1").replace(' ', "");
            let byte = |bits: &[u8]| bits.iter().enumerate().fold(0, |sum, (at, bit)| sum | (bit - b'0') << (7 - at));
            [&[0x67, 66, 0, 10][..], &bits.as_bytes().chunks(8).map(byte).collect::<Vec<_>>()].concat()
        };
        let nal = sps("0000000000 1 0000000000"); // 1023: 1024 macroblocks
        assert_eq!(Sps::parse(&nal).map(|sps| (sps.width, sps.height, sps.fps)), Ok((16_384, 16, None)));
        let wide = sps("0000000000 1 0000000001");
        let error = CodecError::Value { what: "pic_width_in_mbs_minus1", value: 1024 };
        assert_eq!(Sps::parse(&wide), Err(error));
        let mut long = nal.clone();
        long.resize(MAX_UNIT_BYTES + 1, 0);
        assert!(matches!(Sps::parse(&long), Err(CodecError::Value { what: "SPS length", .. })));
    }

    #[test]
    fn a_frame_without_a_slice_has_no_picture() {
        // SPS, PPS, SEI with a recovery point, access unit delimiter.
        let units: [&[u8]; 4] = [&[0x67, 1], &[0x68, 1], &[6, 6, 1, 0x84, 0x80], &[9, 0xf0]];
        let frame: Vec<u8> = units.iter().flat_map(|u| [&[0, 0, 0, u.len() as u8], *u].concat()).collect();
        assert_eq!(check_frame(&frame), Err(CodecError::NoPicture));
        let with_slice = [&frame[..], &[0, 0, 0, 2, 0x41, 0x9a]].concat();
        assert_eq!(check_frame(&with_slice), Ok(FrameInfo { key: true }));
        assert_eq!(check_frame(&[0, 0, 0, 2, 0x41, 0x9a]), Ok(FrameInfo { key: false }));
        assert!(check_frame(&[0, 0, 0, 1, 0xe5]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn whatever_both_parsers_accept_they_read_alike(which in 0..AVC.len(), flips in prop::collection::vec(any::<prop::sample::Index>(), 1..4)) {
            let config = Config::parse(&hex(AVC[which].1)).unwrap();
            let mut nal = config.sps[0].to_vec();
            for flip in flips {
                let at = 8 + flip.index(nal.len() * 8 - 8);
                nal[at / 8] ^= 1 << (at % 8);
            }
            if let (Ok(ours), Some(other)) = (Sps::parse(&nal), oracle(&nal)) {
                prop_assert_eq!(other.pixel_dimensions().ok(), Some((ours.width, ours.height)));
                prop_assert_eq!(u8::from(other.profile_idc), ours.profile);
                if let Some(fps) = ours.fps {
                    prop_assert_eq!(other.fps(), Some(fps));
                }
            }
        }
    }
}
