//! H.265: the decoder configuration record (hvcC, ISO 14496-15 8.3.3.1), the sequence parameter set (H.265 7.3.2.2)
//! and where decoding can begin.
//!
//! Slices are not read, nor VPS and PPS, nor what an SPS says after its timing information, nor layers above the base.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use bytes::{BufMut, Bytes, BytesMut};

use super::bits::Reader;
use super::h264::{Colour, SEI_RECOVERY_POINT, check_sets, length_size, length_size_minus_one, put_unit, vui_colour};
use super::nal::{self, MAX_UNIT_BYTES};
use super::{CodecError, FrameInfo, MAX_SIDE, Slices, crop, fps};

/// NAL unit types, H.265 table 7-1.
const NAL_IRAP: std::ops::RangeInclusive<u8> = 16..=21;
const NAL_LAST_VCL: u8 = 31;
const NAL_VPS: u8 = 32;
const NAL_SPS: u8 = 33;
const NAL_PPS: u8 = 34;
const NAL_PREFIX_SEI: u8 = 39;
/// vps_video_parameter_set_id has four bits, sps_seq_parameter_set_id is at most 15, pps_pic_parameter_set_id at most 63.
const MAX_VPS: usize = 16;
const MAX_SPS: usize = 16;
const MAX_PPS: usize = 64;
/// sps_max_dec_pic_buffering_minus1 is at most 15, and so is the number of reference pictures (H.265 A.4.2).
const MAX_REFERENCES: usize = 16;

/// general_profile_space to general_level_idc, as the SPS and the record both have them (H.265 7.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// general_profile_space, 0 to 3.
    pub space: u8,
    /// general_tier_flag: the high tier.
    pub tier: bool,
    /// general_profile_idc.
    pub idc: u8,
    /// general_profile_compatibility_flag 0 to 31, the first in the highest bit.
    pub compatibility: u32,
    /// The 48 bits of constraint flags.
    pub constraints: [u8; 6],
    /// general_level_idc, thirty times the level.
    pub level: u8,
}

/// An HEVCDecoderConfigurationRecord: the contents of an hvcC box.
///
/// What it only hints at (frame rate, parallelism, segmentation) is not kept and is written as unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Profile, tier and level.
    pub profile: Profile,
    /// chroma_format_idc: 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma_format: u8,
    /// Bits of a luma sample, 8 to 15.
    pub bit_depth_luma: u8,
    /// Bits of a chroma sample, 8 to 15.
    pub bit_depth_chroma: u8,
    /// Temporal layers; 0 is unknown.
    pub temporal_layers: u8,
    /// Temporal layers may be switched up at any picture.
    pub temporal_nesting: bool,
    /// Bytes of each NAL unit's length in the frames that go with this record: 1, 2 or 4. Our own frames have 4.
    pub length_size: usize,
    /// Video parameter sets, each a NAL unit with its header.
    pub vps: Vec<Bytes>,
    /// Sequence parameter sets, each a NAL unit with its header; at least one.
    pub sps: Vec<Bytes>,
    /// Picture parameter sets, each a NAL unit with its header.
    pub pps: Vec<Bytes>,
}

impl Config {
    /// Reads a record. The parameter sets are not parsed (see [`Sps::parse`]); other units in it are left out.
    pub fn parse(record: &[u8]) -> Result<Config, CodecError> {
        let mut rest = Slices::new("hvcC", record);
        let version = rest.byte()?;
        // Records of the time before the standard was finished say 0, and cameras still send them.
        if version > 1 {
            return Err(CodecError::Value { what: "hvcC version", value: u64::from(version) });
        }
        let general = rest.byte()?;
        let profile = Profile {
            space: general >> 6,
            tier: general & 0x20 != 0,
            idc: general & 0x1f,
            compatibility: u32::from_be_bytes(rest.array()?),
            constraints: rest.array()?,
            level: rest.byte()?,
        };
        rest.take(3)?; // min_spatial_segmentation_idc, parallelismType
        let chroma_format = rest.byte()? & 3;
        let bit_depth_luma = (rest.byte()? & 7) + 8;
        let bit_depth_chroma = (rest.byte()? & 7) + 8;
        rest.take(2)?; // avgFrameRate
        let layers = rest.byte()?;
        let length_size = length_size(layers)?;
        let (mut vps, mut sps, mut pps) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rest.byte()? {
            let kind = rest.byte()? & 0x3f;
            for _ in 0..rest.u16()? {
                let unit = rest.unit()?;
                match kind {
                    NAL_VPS => push_set(&mut vps, unit, MAX_VPS)?,
                    NAL_SPS => push_set(&mut sps, unit, MAX_SPS)?,
                    NAL_PPS => push_set(&mut pps, unit, MAX_PPS)?,
                    _ => {}
                }
            }
        }
        if sps.is_empty() {
            return Err(CodecError::Missing("H.265 (an SPS)"));
        }
        Ok(Config {
            profile,
            chroma_format,
            bit_depth_luma,
            bit_depth_chroma,
            temporal_layers: layers >> 3 & 7,
            temporal_nesting: layers & 4 != 0,
            length_size,
            vps,
            sps,
            pps,
        })
    }

    /// A record for frames with 4-byte lengths. At least one of each set is needed, and the first SPS must be sound.
    pub fn from_parameter_sets(vps: Vec<Bytes>, sps: Vec<Bytes>, pps: Vec<Bytes>) -> Result<Config, CodecError> {
        let first = Sps::parse(sps.first().ok_or(CodecError::Missing("H.265 (an SPS)"))?)?;
        check_sets("H.265 (a VPS)", &vps, MAX_VPS)?;
        check_sets("H.265 (an SPS)", &sps, MAX_SPS)?;
        check_sets("H.265 (a PPS)", &pps, MAX_PPS)?;
        Ok(Config {
            profile: first.profile,
            chroma_format: first.chroma_format,
            bit_depth_luma: first.bit_depth_luma,
            bit_depth_chroma: first.bit_depth_chroma,
            temporal_layers: first.temporal_layers,
            temporal_nesting: first.temporal_nesting,
            length_size: 4,
            vps,
            sps,
            pps,
        })
    }

    /// The record's bytes. Sets longer than the record can say are left out.
    pub fn write(&self) -> Bytes {
        let mut out = BytesMut::new();
        let profile = &self.profile;
        out.put_u8(1);
        out.put_u8(profile.space << 6 | u8::from(profile.tier) << 5 | profile.idc & 0x1f);
        out.put_u32(profile.compatibility);
        out.put_slice(&profile.constraints);
        out.put_u8(profile.level);
        out.put_u16(0xf000); // min_spatial_segmentation_idc: none
        out.put_u8(0xfc); // parallelismType: unknown
        out.put_u8(0xfc | self.chroma_format & 3);
        out.put_u8(0xf8 | self.bit_depth_luma.saturating_sub(8) & 7);
        out.put_u8(0xf8 | self.bit_depth_chroma.saturating_sub(8) & 7);
        out.put_u16(0); // avgFrameRate: unknown
        let layers = (self.temporal_layers & 7) << 3 | u8::from(self.temporal_nesting) << 2;
        out.put_u8(layers | length_size_minus_one(self.length_size));
        let arrays = [(NAL_VPS, &self.vps, MAX_VPS), (NAL_SPS, &self.sps, MAX_SPS), (NAL_PPS, &self.pps, MAX_PPS)];
        out.put_u8(arrays.iter().map(|(_, sets, _)| u8::from(!sets.is_empty())).sum());
        for (kind, sets, most) in arrays.into_iter().filter(|(_, sets, _)| !sets.is_empty()) {
            let sets: Vec<_> = sets.iter().filter(|set| set.len() < MAX_UNIT_BYTES).take(most).collect();
            out.put_u8(0x80 | kind); // array_completeness
            out.put_u16(u16::try_from(sets.len()).expect("at most 64"));
            for set in sets {
                put_unit(&mut out, set);
            }
        }
        out.freeze()
    }
}

fn push_set(sets: &mut Vec<Bytes>, set: Bytes, most: usize) -> Result<(), CodecError> {
    if sets.len() == most {
        return Err(CodecError::Value { what: "number of parameter sets", value: most as u64 + 1 });
    }
    sets.push(set);
    Ok(())
}

/// What a sequence parameter set says.
#[derive(Clone, Debug, PartialEq)]
pub struct Sps {
    /// sps_seq_parameter_set_id.
    pub id: u8,
    /// Profile, tier and level.
    pub profile: Profile,
    /// Temporal layers, 1 to 7.
    pub temporal_layers: u8,
    /// Temporal layers may be switched up at any picture.
    pub temporal_nesting: bool,
    /// chroma_format_idc: 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma_format: u8,
    /// Bits of a luma sample, 8 to 15.
    pub bit_depth_luma: u8,
    /// Bits of a chroma sample, 8 to 15.
    pub bit_depth_chroma: u8,
    /// Width in pixels before cropping: what a decoder needs memory for.
    pub coded_width: u32,
    /// Height in pixels before cropping.
    pub coded_height: u32,
    /// Visible width in pixels.
    pub width: u32,
    /// Visible height in pixels.
    pub height: u32,
    /// Pictures per second, where the timing information says so.
    pub fps: Option<f64>,
    /// Most pictures that may be shown before one that is decoded earlier (sps_max_num_reorder_pics), where that makes sense.
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
        let header = bits.bits(16)?;
        // forbidden_zero_bit, type, and nuh_layer_id 0: an SPS of a higher layer has another syntax (F.7.3.2.2.1).
        if header & 0xfff8 != u32::from(NAL_SPS) << 9 {
            return Err(CodecError::Value { what: "SPS NAL header", value: u64::from(header) });
        }
        bits.skip(4)?; // sps_video_parameter_set_id
        let max_sub_layers_minus1 = bits.small(3)?;
        if max_sub_layers_minus1 > 6 {
            return Err(CodecError::Value { what: "sps_max_sub_layers_minus1", value: 7 });
        }
        let temporal_nesting = bits.bit()?;
        let profile = Profile::parse(&mut bits, max_sub_layers_minus1)?;
        let id = bits.ue_max("sps_seq_parameter_set_id", 15)? as u8;
        let chroma_format = bits.ue_max("chroma_format_idc", 3)? as u8;
        let separate = chroma_format == 3 && bits.bit()?;
        let mut width = bits.ue_max("picture width", MAX_SIDE)?;
        let mut height = bits.ue_max("picture height", MAX_SIDE)?;
        if width == 0 || height == 0 {
            return Err(CodecError::Value { what: "picture size", value: 0 });
        }
        let (coded_width, coded_height) = (width, height);
        if bits.bit()? {
            // SubWidthC and SubHeightC, table 6-1.
            let (unit_x, unit_y) = match (chroma_format, separate) {
                (1, _) => (2, 2),
                (2, _) => (2, 1),
                _ => (1, 1),
            };
            width = crop(width, bits.ue()?, bits.ue()?, unit_x)?;
            height = crop(height, bits.ue()?, bits.ue()?, unit_y)?;
        }
        // The record has three bits for each depth, the profiles stop at 16: 15 is what both can say.
        let bit_depth_luma = bits.ue_max("bit_depth_luma_minus8", 7)? as u8 + 8;
        let bit_depth_chroma = bits.ue_max("bit_depth_chroma_minus8", 7)? as u8 + 8;
        let reordering = skip_tools(&mut bits, max_sub_layers_minus1)?;
        let (colour, fps) =
            if bits.bit()? { (vui_colour(&mut bits)?, vui_fps(&mut bits)?) } else { (Colour::default(), None) };
        Ok(Sps {
            id,
            profile,
            temporal_layers: max_sub_layers_minus1 + 1,
            temporal_nesting,
            chroma_format,
            bit_depth_luma,
            bit_depth_chroma,
            coded_width,
            coded_height,
            width,
            height,
            fps,
            reordering,
            colour,
        })
    }
}

impl Profile {
    /// profile_tier_level(1, max_sub_layers_minus1), H.265 7.3.3.
    fn parse(bits: &mut Reader<'_>, max_sub_layers_minus1: u8) -> Result<Profile, CodecError> {
        let (space, tier, idc) = (bits.small(2)?, bits.bit()?, bits.small(5)?);
        let compatibility = bits.bits(32)?;
        let mut constraints = [0; 6];
        for byte in &mut constraints {
            *byte = bits.byte()?;
        }
        let level = bits.byte()?;
        let mut layers_bits = 0;
        for _ in 0..max_sub_layers_minus1 {
            layers_bits += if bits.bit()? { 88 } else { 0 };
            layers_bits += if bits.bit()? { 8 } else { 0 };
        }
        if max_sub_layers_minus1 > 0 {
            bits.skip(usize::from(8 - max_sub_layers_minus1) * 2)?;
        }
        bits.skip(layers_bits)?;
        Ok(Profile { space, tier, idc, compatibility, constraints, level })
    }
}

/// The coding tools between the bit depths and the VUI, H.265 7.3.2.2.1; returns sps_max_num_reorder_pics of all layers.
fn skip_tools(bits: &mut Reader<'_>, max_sub_layers_minus1: u8) -> Result<Option<u8>, CodecError> {
    let order_count_bits = bits.ue_max("log2_max_pic_order_cnt_lsb_minus4", 12)? + 4;
    let first = if bits.bit()? { 0 } else { max_sub_layers_minus1 };
    let mut reordering = None;
    for _ in first..=max_sub_layers_minus1 {
        bits.ue_max("sps_max_dec_pic_buffering_minus1", 15)?;
        reordering = u8::try_from(bits.ue()?).ok().filter(|pictures| *pictures <= 16);
        bits.ue()?;
    }
    for _ in 0..6 {
        bits.ue()?; // block sizes and transform depths
    }
    if bits.bit()? && bits.bit()? {
        skip_scaling_lists(bits)?;
    }
    bits.skip(2)?; // amp_enabled_flag, sample_adaptive_offset_enabled_flag
    if bits.bit()? {
        bits.skip(8)?; // pcm bit depths
        bits.ue()?;
        bits.ue()?;
        bits.skip(1)?;
    }
    let mut previous = Vec::new();
    for index in 0..bits.ue_max("num_short_term_ref_pic_sets", 64)? {
        previous = short_term_set(bits, index, &previous)?;
    }
    if bits.bit()? {
        let count = bits.ue_max("num_long_term_ref_pics_sps", 32)?;
        bits.skip(count as usize * (order_count_bits as usize + 1))?;
    }
    bits.skip(2)?; // sps_temporal_mvp_enabled_flag, strong_intra_smoothing_enabled_flag
    Ok(reordering)
}

/// H.265 7.3.4.
fn skip_scaling_lists(bits: &mut Reader<'_>) -> Result<(), CodecError> {
    for size in 0..4u32 {
        for _ in 0..if size == 3 { 2 } else { 6 } {
            if !bits.bit()? {
                bits.ue_max("scaling_list_pred_matrix_id_delta", 5)?;
                continue;
            }
            let coefficients = 64.min(1 << (4 + 2 * size));
            for _ in 0..coefficients + u32::from(size > 1) {
                bits.se()?;
            }
        }
    }
    Ok(())
}

/// One st_ref_pic_set of an SPS (H.265 7.3.7 and 7.4.8): the distances of its pictures in output order, in the order of
/// the specification, which is what the next set's flags refer to.
fn short_term_set(bits: &mut Reader<'_>, index: u32, previous: &[i32]) -> Result<Vec<i32>, CodecError> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if index > 0 && bits.bit()? {
        let negative = bits.bit()?;
        let distance = bits.ue_max("abs_delta_rps_minus1", 0x7fff)? as i32 + 1;
        let delta = if negative { -distance } else { distance };
        // The flags stand for the pictures of the previous set and, last, for the picture that it belonged to.
        for picture in previous.iter().copied().chain([0]) {
            let used = bits.bit()?;
            let kept = used || bits.bit()?;
            // At most 64 sets move a picture by 2^15 each.
            match picture + delta {
                moved if kept && moved < 0 => before.push(moved),
                moved if kept && moved > 0 => after.push(moved),
                _ => {}
            }
        }
        before.sort_unstable_by(|a, b| b.cmp(a));
        after.sort_unstable();
    } else {
        let counts = (bits.ue_max("num_negative_pics", 16)?, bits.ue_max("num_positive_pics", 16)?);
        for (count, sign, list) in [(counts.0, -1, &mut before), (counts.1, 1, &mut after)] {
            let mut picture = 0;
            for _ in 0..count {
                picture += sign * (bits.ue_max("delta_poc_minus1", 0x7fff)? as i32 + 1);
                bits.skip(1)?; // used_by_curr_pic_flag
                list.push(picture);
            }
        }
    }
    before.append(&mut after);
    if before.len() > MAX_REFERENCES {
        return Err(CodecError::Value { what: "pictures in a short-term set", value: before.len() as u64 });
    }
    Ok(before)
}

/// H.265 E.2.1, from behind the colours up to the timing information.
fn vui_fps(bits: &mut Reader<'_>) -> Result<Option<f64>, CodecError> {
    bits.skip(3)?; // neutral_chroma_indication_flag, field_seq_flag, frame_field_info_present_flag
    if bits.bit()? {
        for _ in 0..4 {
            bits.ue()?; // default display window
        }
    }
    if !bits.bit()? {
        return Ok(None);
    }
    let (units, scale) = (bits.bits(32)?, bits.bits(32)?);
    Ok(fps(f64::from(scale), f64::from(units)))
}

/// The highest TemporalId that pictures of a track may have, by the sequence parameter sets of its configuration record
/// (sps_max_sub_layers_minus1, 7.4.3.2.1). None if the record has no set, or one that cannot be read.
pub fn highest_temporal_id(config: &[u8]) -> Option<u8> {
    let config = Config::parse(config).ok()?;
    let layers = config.sps.iter().map(|sps| Sps::parse(sps).ok().map(|sps| sps.temporal_layers));
    layers.collect::<Option<Vec<u8>>>()?.into_iter().max()?.checked_sub(1)
}

/// Checks a frame: every length true, every NAL unit with its header, and at least one slice segment in it.
///
/// A decoder can begin at an IRAP picture (IDR, CRA, BLA), or at a recovery point.
pub fn check_frame(data: &[u8]) -> Result<FrameInfo, CodecError> {
    let (mut key, mut picture) = (false, false);
    for unit in nal::units(data) {
        let Some(([header, _], payload)) = unit?.split_first_chunk() else {
            return Err(CodecError::Short("NAL unit header"));
        };
        if header & 0x80 != 0 {
            return Err(CodecError::Value { what: "forbidden_zero_bit", value: 1 });
        }
        match header >> 1 & 0x3f {
            kind if NAL_IRAP.contains(&kind) => (key, picture) = (true, true),
            0..=NAL_LAST_VCL => picture = true,
            NAL_PREFIX_SEI => key = key || nal::sei_has(payload, SEI_RECOVERY_POINT),
            _ => {}
        }
    }
    if picture { Ok(FrameInfo { key }) } else { Err(CodecError::NoPicture) }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{HEVC, hex};
    use super::*;

    #[test]
    fn real_sps_are_read_as_the_encoder_says() {
        for (name, record, width, height, fps, level, chroma_format, depth) in HEVC {
            let config = Config::parse(&hex(record)).unwrap();
            let sps = Sps::parse(&config.sps[0]).unwrap();
            assert_eq!((sps.width, sps.height, sps.profile.level), (width, height, level), "{name}");
            assert_eq!((sps.chroma_format, sps.bit_depth_luma, sps.bit_depth_chroma), (chroma_format, depth, depth));
            assert!((sps.fps.unwrap() - fps).abs() < 1e-6, "{name} {:?}", sps.fps);
            assert_eq!(sps.profile, config.profile);
            assert_eq!((sps.chroma_format, sps.bit_depth_luma), (config.chroma_format, config.bit_depth_luma));
        }
    }

    #[test]
    fn real_records_are_written_as_they_were_read() {
        for (name, record, ..) in HEVC {
            let record = hex(record);
            let config = Config::parse(&record).unwrap();
            let written = config.write();
            assert_eq!(Config::parse(&written).as_ref(), Ok(&config), "{name}");
            // ffmpeg says whether the sets are complete by the tag, and what it knows of layers: the rest is the same.
            assert_eq!((&written[..21], &written[23..]), (&record[..21], &record[23..]), "{name}");
            let made = Config::from_parameter_sets(config.vps.clone(), config.sps.clone(), config.pps.clone()).unwrap();
            assert_eq!((made.profile, &made.sps, made.length_size), (config.profile, &config.sps, 4));
        }
    }

    #[test]
    fn other_units_in_a_record_are_left_out_and_version_0_is_taken() {
        let mut record = hex(HEVC[0].1);
        let config = Config::parse(&record).unwrap();
        record[0] = 0;
        record[22] += 1;
        record.extend([39, 0, 1, 0, 3, 0x4e, 1, 5]);
        assert_eq!(Config::parse(&record), Ok(config));
        record.pop();
        assert_eq!(Config::parse(&record), Err(CodecError::Short("hvcC")));
        record[0] = 2;
        assert_eq!(Config::parse(&record), Err(CodecError::Value { what: "hvcC version", value: 2 }));
        let mut bare = hex(HEVC[0].1);
        bare.truncate(22);
        bare.push(0);
        assert_eq!(Config::parse(&bare), Err(CodecError::Missing("H.265 (an SPS)")));
    }

    /// Bits of text, spaces aside.
    fn pack(bits: &str) -> Vec<u8> {
        let bits: Vec<u8> = bits.bytes().filter(|b| *b != b' ').map(|b| b - b'0').collect();
        bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (at, bit)| sum | bit << (7 - at))).collect()
    }

    #[test]
    fn a_predicted_short_term_set_has_the_distances_of_the_specification() {
        // Two before at -1 and -3, one after at 2: ue 2, ue 1, (ue 0, 1), (ue 1, 1), (ue 1, 1).
        let data = pack("011 010 1 1 010 1 010 1");
        let first = short_term_set(&mut Reader::new("set", &data), 0, &[]).unwrap();
        assert_eq!(first, [-1, -3, 2]);
        // Predicted, one picture earlier in time: delta -1. Flags for -1, -3, 2 and the picture itself: used, left out
        // (0 0), kept but unused (0 1), used.
        let data = pack("1 1 1 1 00 01 1");
        let second = short_term_set(&mut Reader::new("set", &data), 1, &first).unwrap();
        assert_eq!(second, [-1, -2, 1]);
        // Delta +1: the picture at -1 falls on this one and is left out whatever its flag says.
        let data = pack("1 0 1 1 1 1 1");
        let third = short_term_set(&mut Reader::new("set", &data), 2, &second).unwrap();
        assert_eq!(third, [-1, 1, 2]);
        let data = pack("0 000010001 000010001");
        assert!(short_term_set(&mut Reader::new("set", &data), 1, &third).is_err());
    }

    #[test]
    fn a_frame_without_a_slice_has_no_picture() {
        // VPS, SEI with a recovery point, access unit delimiter.
        let units: [&[u8]; 3] = [&[0x40, 1, 1], &[0x4e, 1, 6, 1, 0x84, 0x80], &[0x46, 1, 0x50]];
        let frame: Vec<u8> = units.iter().flat_map(|u| [&[0, 0, 0, u.len() as u8], *u].concat()).collect();
        assert_eq!(check_frame(&frame), Err(CodecError::NoPicture));
        let slice = [0, 0, 0, 3, 2, 1, 0xd0];
        assert_eq!(check_frame(&[&frame[..], &slice].concat()), Ok(FrameInfo { key: true }));
        assert_eq!(check_frame(&slice), Ok(FrameInfo { key: false }));
        assert!(check_frame(&[0, 0, 0, 1, 0x26]).is_err());
        // CRA.
        assert_eq!(check_frame(&[0, 0, 0, 3, 0x2a, 1, 0xaf]), Ok(FrameInfo { key: true }));
    }
}
