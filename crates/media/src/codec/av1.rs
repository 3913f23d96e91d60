//! AV1: the codec configuration record (av1C, "AV1 Codec ISO Media File Format Binding" 2.3), open bitstream units
//! ("AV1 Bitstream & Decoding Process Specification" 5.3) and the sequence header (5.5).
//!
//! Of frame headers only the first bits are read, and large-scale tile lists not at all.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::iter;

use bytes::{BufMut, Bytes, BytesMut};

use super::bits::Reader;
use super::{CodecError, FrameInfo, MAX_SIDE, Slices, fps};

/// OBU types, AV1 6.2.2.
const OBU_SEQUENCE_HEADER: u8 = 1;
const OBU_TEMPORAL_DELIMITER: u8 = 2;
const OBU_FRAME_HEADER: u8 = 3;
const OBU_FRAME: u8 = 6;
/// frame_type of a key frame, AV1 6.8.2.
const KEY_FRAME: u32 = 0;
/// The primaries, transfer and matrix that mean sRGB (BT.709, sRGB, identity), AV1 6.4.2.
const SRGB: [u8; 3] = [1, 13, 0];

/// An AV1CodecConfigurationRecord: the contents of an av1C box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// seq_profile, seq_level_idx and the colour format, as the sequence header has them.
    pub format: Format,
    /// Frames to decode before showing the first, where the record says so, 1 to 16.
    pub presentation_delay: Option<u8>,
    /// The sequence header OBU and perhaps metadata OBUs; may be empty.
    pub obus: Bytes,
}

/// What the record and the sequence header both say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// seq_profile, 0 to 2.
    pub profile: u8,
    /// seq_level_idx of the first operating point, 0 to 31.
    pub level: u8,
    /// seq_tier of the first operating point: the high tier.
    pub tier: bool,
    /// More than 8 bits.
    pub high_bitdepth: bool,
    /// 12 bits.
    pub twelve_bit: bool,
    /// Luma only.
    pub monochrome: bool,
    /// Chroma is halved in width.
    pub subsampling_x: bool,
    /// Chroma is halved in height.
    pub subsampling_y: bool,
    /// chroma_sample_position, 0 to 3.
    pub chroma_position: u8,
}

impl Config {
    /// Reads a record. Its OBUs are parsed by [`Config::sequence_header`].
    pub fn parse(record: &[u8]) -> Result<Config, CodecError> {
        let mut rest = Slices::new("av1C", record);
        let version = rest.byte()?;
        if version != 0x81 {
            return Err(CodecError::Value { what: "av1C marker and version", value: u64::from(version) });
        }
        let [profile, flags, delay] = rest.array()?;
        if profile >> 5 > 2 {
            return Err(CodecError::Value { what: "AV1 seq_profile", value: u64::from(profile >> 5) });
        }
        let flag = |bit: u8| flags >> bit & 1 == 1;
        let format = Format {
            profile: profile >> 5,
            level: profile & 0x1f,
            tier: flag(7),
            high_bitdepth: flag(6),
            twelve_bit: flag(5),
            monochrome: flag(4),
            subsampling_x: flag(3),
            subsampling_y: flag(2),
            chroma_position: flags & 3,
        };
        let presentation_delay = (delay & 0x10 != 0).then_some((delay & 15) + 1);
        Ok(Config { format, presentation_delay, obus: Bytes::copy_from_slice(rest.rest) })
    }

    /// A record from a whole sequence header OBU, or from the temporal unit that has one.
    pub fn from_sequence_header(data: &[u8]) -> Result<Config, CodecError> {
        for obu in obus(data) {
            let obu = obu?;
            if obu.kind == OBU_SEQUENCE_HEADER {
                let format = SequenceHeader::parse(obu.payload)?.format;
                let mut obus = BytesMut::with_capacity(obu.raw.len() + 4);
                obu.put(&mut obus);
                return Ok(Config { format, presentation_delay: None, obus: obus.freeze() });
            }
        }
        Err(CodecError::Missing("AV1 (a sequence header)"))
    }

    /// The sequence header, if the record has it.
    pub fn sequence_header(&self) -> Result<Option<SequenceHeader>, CodecError> {
        let mut header = None;
        for obu in obus(&self.obus) {
            let obu = obu?;
            if obu.kind == OBU_SEQUENCE_HEADER && header.is_none() {
                header = Some(SequenceHeader::parse(obu.payload)?);
            }
        }
        Ok(header)
    }

    /// The record's bytes.
    pub fn write(&self) -> Bytes {
        let format = &self.format;
        let mut out = BytesMut::with_capacity(4 + self.obus.len());
        out.put_u8(0x81);
        out.put_u8(format.profile << 5 | format.level & 0x1f);
        let flags = [
            format.tier,
            format.high_bitdepth,
            format.twelve_bit,
            format.monochrome,
            format.subsampling_x,
            format.subsampling_y,
        ];
        let flags = flags.iter().fold(0, |flags, flag| flags << 1 | u8::from(*flag));
        out.put_u8(flags << 2 | format.chroma_position & 3);
        out.put_u8(self.presentation_delay.map_or(0, |delay| 0x10 | delay.saturating_sub(1) & 15));
        out.put_slice(&self.obus);
        out.freeze()
    }
}

/// What a sequence header says.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceHeader {
    /// Profile, level and colour format.
    pub format: Format,
    /// reduced_still_picture_header: every frame is a key frame and does not say so.
    pub reduced: bool,
    /// Largest width in pixels.
    pub width: u32,
    /// Largest height in pixels.
    pub height: u32,
    /// Frames per second, where the timing information says that pictures come at equal intervals.
    pub fps: Option<f64>,
}

impl SequenceHeader {
    /// Reads the payload of a sequence header OBU, as [`Obu::payload`] has it.
    pub fn parse(payload: &[u8]) -> Result<SequenceHeader, CodecError> {
        let mut bits = Reader::new("AV1 sequence header", payload);
        let profile = bits.small(3)?;
        if profile > 2 {
            return Err(CodecError::Value { what: "AV1 seq_profile", value: u64::from(profile) });
        }
        bits.skip(1)?; // still_picture
        let reduced = bits.bit()?;
        let mut format = Format {
            profile,
            level: 0,
            tier: false,
            high_bitdepth: false,
            twelve_bit: false,
            monochrome: false,
            subsampling_x: false,
            subsampling_y: false,
            chroma_position: 0,
        };
        let mut fps = None;
        if reduced {
            format.level = bits.small(5)?;
        } else {
            (fps, format.level, format.tier) = operating_points(&mut bits)?;
        }
        let (width_bits, height_bits) = (bits.bits(4)? + 1, bits.bits(4)? + 1);
        // Both are at most 2^16.
        let (width, height) = (bits.bits(width_bits)? + 1, bits.bits(height_bits)? + 1);
        if width.max(height) > MAX_SIDE {
            return Err(CodecError::Value { what: "AV1 picture size", value: u64::from(width.max(height)) });
        }
        skip_tools(&mut bits, reduced)?;
        format.colours(&mut bits)?;
        bits.skip(1)?; // film_grain_params_present
        Ok(SequenceHeader { format, reduced, width, height, fps })
    }
}

/// Timing and operating points of a header that is not reduced: frames per second, level and tier of the first point.
fn operating_points(bits: &mut Reader<'_>) -> Result<(Option<f64>, u8, bool), CodecError> {
    let mut rate = None;
    // Bits of each decoder buffer delay, if there is a decoder model.
    let mut delay_bits = None;
    if bits.bit()? {
        let (units, scale) = (bits.bits(32)?, bits.bits(32)?);
        if bits.bit()? {
            let ticks = f64::from(bits.ue()?) + 1.0; // uvlc() is ue(v) by another name
            rate = fps(f64::from(scale), f64::from(units) * ticks);
        }
        if bits.bit()? {
            delay_bits = Some(bits.bits(5)? as usize + 1);
            bits.skip(32 + 5 + 5)?;
        }
    }
    let display_delay = bits.bit()?;
    let mut first = None;
    for _ in 0..=bits.bits(5)? {
        bits.skip(12)?; // operating_point_idc
        let level = bits.small(5)?;
        let tier = level > 7 && bits.bit()?;
        first = first.or(Some((level, tier)));
        if let Some(delay_bits) = delay_bits
            && bits.bit()?
        {
            bits.skip(2 * delay_bits + 1)?; // both delays, low_delay_mode_flag
        }
        if display_delay && bits.bit()? {
            bits.skip(4)?;
        }
    }
    let (level, tier) = first.expect("there is one operating point at the least");
    Ok((rate, level, tier))
}

/// The coding tools between the size and the colours.
fn skip_tools(bits: &mut Reader<'_>, reduced: bool) -> Result<(), CodecError> {
    if !reduced && bits.bit()? {
        bits.skip(4 + 3)?; // lengths of frame ids
    }
    bits.skip(3)?; // 128x128 superblocks, filter intra, intra edge filter
    if !reduced {
        bits.skip(4)?; // interintra, masked compound, warped motion, dual filter
        let order_hint = bits.bit()?;
        if order_hint {
            bits.skip(2)?; // jnt_comp, ref_frame_mvs
        }
        // seq_choose_screen_content_tools, or else seq_force_screen_content_tools
        let screen_content = bits.bit()? || bits.bit()?;
        if screen_content && !bits.bit()? {
            bits.skip(1)?; // seq_force_integer_mv
        }
        if order_hint {
            bits.skip(3)?;
        }
    }
    bits.skip(3) // superres, cdef, restoration
}

impl Format {
    /// color_config, AV1 5.5.2.
    fn colours(&mut self, bits: &mut Reader<'_>) -> Result<(), CodecError> {
        self.high_bitdepth = bits.bit()?;
        self.twelve_bit = self.profile == 2 && self.high_bitdepth && bits.bit()?;
        self.monochrome = self.profile != 1 && bits.bit()?;
        let description = if bits.bit()? { [bits.byte()?, bits.byte()?, bits.byte()?] } else { [2; 3] };
        if self.monochrome {
            (self.subsampling_x, self.subsampling_y) = (true, true);
            return bits.skip(1); // color_range
        }
        if description != SRGB {
            bits.skip(1)?; // color_range
            (self.subsampling_x, self.subsampling_y) = match self.profile {
                0 => (true, true),
                1 => (false, false),
                _ if self.twelve_bit => {
                    let x = bits.bit()?;
                    (x, x && bits.bit()?)
                }
                _ => (true, false),
            };
            if self.subsampling_x && self.subsampling_y {
                self.chroma_position = bits.small(2)?;
            }
        }
        bits.skip(1) // separate_uv_delta_q
    }
}

/// One open bitstream unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obu<'a> {
    /// obu_type.
    pub kind: u8,
    /// It has its own size field. Only the last of a sample may lack it; none of our own does.
    pub sized: bool,
    /// The whole of it, with header and size field.
    pub raw: &'a [u8],
    /// What follows the header and the size field.
    pub payload: &'a [u8],
}

impl Obu<'_> {
    /// Appends the unit with a size field.
    fn put(&self, out: &mut BytesMut) {
        if self.sized {
            return out.put_slice(self.raw);
        }
        let header = self.raw.iter().take(self.raw.len() - self.payload.len());
        out.extend(header.enumerate().map(|(at, byte)| if at == 0 { byte | 2 } else { *byte }));
        let mut size = self.payload.len();
        while size > 0x7f {
            out.put_u8(0x80 | (size & 0x7f) as u8);
            size >>= 7;
        }
        out.put_u8(size as u8);
        out.put_slice(self.payload);
    }
}

/// Each OBU of a low-overhead byte stream (AV1 5.2). One without a size field reaches to the end. Ends after the first
/// error.
pub fn obus(data: &[u8]) -> impl Iterator<Item = Result<Obu<'_>, CodecError>> {
    let mut rest = data;
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let obu = split_obu(rest);
        rest = match &obu {
            Ok(obu) => rest.get(obu.raw.len()..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(obu)
    })
}

fn split_obu(data: &[u8]) -> Result<Obu<'_>, CodecError> {
    let mut rest = Slices::new("OBU", data);
    let header = rest.byte()?;
    if header & 0x80 != 0 {
        return Err(CodecError::Value { what: "obu_forbidden_bit", value: 1 });
    }
    if header & 4 != 0 {
        rest.byte()?; // temporal_id, spatial_id
    }
    let sized = header & 2 != 0;
    let size = if sized { leb128(&mut rest)? } else { rest.rest.len() };
    let payload = rest.take(size)?;
    let (raw, _) = data.split_at_checked(data.len() - rest.rest.len()).ok_or(CodecError::Short("OBU"))?;
    Ok(Obu { kind: header >> 3 & 15, sized, raw, payload })
}

/// AV1 4.10.5: at most eight bytes, and a value of 32 bits.
fn leb128(rest: &mut Slices<'_>) -> Result<usize, CodecError> {
    let mut value = 0u64;
    for shift in 0..8 {
        let byte = rest.byte()?;
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            let size = u32::try_from(value).map_err(|_| CodecError::Value { what: "OBU size", value })?;
            return Ok(size as usize);
        }
    }
    Err(CodecError::Value { what: "OBU size", value })
}

/// A temporal unit in canonical form: without temporal delimiters and with a size field in every OBU. What is already so
/// is not copied.
pub fn without_temporal_delimiters(data: Bytes) -> Result<Bytes, CodecError> {
    let mut canonical = true;
    for obu in obus(&data) {
        let obu = obu?;
        canonical = canonical && obu.sized && obu.kind != OBU_TEMPORAL_DELIMITER;
    }
    if canonical {
        return Ok(data);
    }
    // A size field takes at most five bytes for 32 bits.
    let mut out = BytesMut::with_capacity(data.len() + 5);
    for obu in obus(&data) {
        let obu = obu?;
        if obu.kind != OBU_TEMPORAL_DELIMITER {
            obu.put(&mut out);
        }
    }
    Ok(out.freeze())
}

/// Checks a frame: every OBU with a true size field, no temporal delimiter, and at least one frame header in it.
///
/// A decoder can begin where the first frame is a key frame that is shown, behind a sequence header: what the file
/// format calls a sync sample.
pub fn check_frame(data: &[u8]) -> Result<FrameInfo, CodecError> {
    // Whether there was a sequence header and, if so, a reduced one.
    let mut sequence = None;
    let mut key = None;
    for obu in obus(data) {
        let obu = obu?;
        if !obu.sized || obu.kind == OBU_TEMPORAL_DELIMITER {
            return Err(CodecError::Value {
                what: "OBU type without size, or not of a frame",
                value: u64::from(obu.kind),
            });
        }
        match obu.kind {
            OBU_SEQUENCE_HEADER => {
                let mut bits = Reader::new("AV1 sequence header", obu.payload);
                bits.skip(4)?; // seq_profile, still_picture
                sequence = Some(bits.bit()?);
            }
            OBU_FRAME_HEADER | OBU_FRAME if key.is_none() => {
                let key_frame = match sequence {
                    Some(true) => true,
                    Some(false) | None => shown_key_frame(obu.payload)?,
                };
                key = Some(key_frame && sequence.is_some());
            }
            _ => {}
        }
    }
    key.map(|key| FrameInfo { key }).ok_or(CodecError::NoPicture)
}

/// The beginning of an uncompressed_header, AV1 5.9.2.
fn shown_key_frame(payload: &[u8]) -> Result<bool, CodecError> {
    let mut bits = Reader::new("AV1 frame header", payload);
    let existing = bits.bit()?;
    // A shown existing frame has an index where others have their type.
    Ok(!existing && bits.bits(2)? == KEY_FRAME && bits.bit()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{AV1_FRAMES, AV1C_AOM, AV1C_SVT, hex};
    use super::*;

    #[test]
    fn real_records_say_size_and_format_twice_and_are_written_as_read() {
        for (record, width, height, ten_bit) in [(AV1C_AOM, 426, 240, false), (AV1C_SVT, 642, 362, true)] {
            let record = hex(record);
            let config = Config::parse(&record).unwrap();
            let header = config.sequence_header().unwrap().unwrap();
            assert_eq!((header.width, header.height, header.format.high_bitdepth), (width, height, ten_bit));
            assert_eq!(header.format, config.format);
            assert_eq!(config.write(), record);
            assert_eq!(Config::from_sequence_header(&config.obus), Ok(config));
        }
    }

    #[test]
    fn temporal_delimiters_go_and_a_missing_size_comes() {
        let frame = Bytes::from(hex(AV1_FRAMES[0].0));
        assert_eq!(without_temporal_delimiters(frame.clone()).unwrap().as_ptr(), frame.as_ptr());
        let with = Bytes::from([&[0x12, 0][..], &frame].concat());
        assert!(check_frame(&with).is_err());
        assert_eq!(without_temporal_delimiters(with).unwrap(), frame);
        // The last OBU of the sample without a size field, as the file format allows.
        let mut unsized_last = frame.to_vec();
        assert_eq!(unsized_last[12..14], [0x32, 14]);
        unsized_last[12] = 0x30;
        unsized_last.remove(13);
        assert!(check_frame(&unsized_last).is_err());
        assert_eq!(without_temporal_delimiters(unsized_last.into()).unwrap(), frame);
    }

    #[test]
    fn a_key_frame_needs_its_sequence_header_and_a_picture() {
        let frame = hex(AV1_FRAMES[0].0);
        assert_eq!(check_frame(&frame), Ok(FrameInfo { key: true }));
        assert_eq!(check_frame(&frame[12..]), Ok(FrameInfo { key: false }));
        assert_eq!(check_frame(&frame[..12]), Err(CodecError::NoPicture));
        // The same header, but not shown at once.
        let mut hidden = frame.clone();
        hidden[14] &= 0xef;
        assert_eq!(check_frame(&hidden), Ok(FrameInfo { key: false }));
    }

    #[test]
    fn timing_of_equal_intervals_is_the_frame_rate() {
        // Profile 0; timing: 1 unit at 50 Hz, equal intervals of two ticks; no decoder model, no display delay, one
        // operating point of level 9, high tier; 4 bits for each side: 16 by 9; then the tools, all off, and 4:2:0.
        let bits = [
            "000 0 0 1",
            &format!("{:032b}{:032b}", 1, 50),
            "1 010 0",
            "0 00000 000000000000 01001 1",
            "0011 0011 1111 1000",
            "0 000 0000 0 1 1 000",
            "0 0 0 0 00 0",
            "0 1",
        ]
        .concat();
        let bits: Vec<u8> = bits.bytes().filter(|b| *b != b' ').map(|b| b - b'0').collect();
        let data: Vec<u8> = bits
            .chunks(8)
            .map(|byte| byte.iter().enumerate().fold(0, |sum, (at, bit)| sum | bit << (7 - at)))
            .collect();
        let header = SequenceHeader::parse(&data).unwrap();
        assert_eq!((header.width, header.height, header.fps), (16, 9, Some(25.0)));
        assert_eq!((header.format.level, header.format.tier, header.format.subsampling_y), (9, true, true));
    }

    proptest! {
        #[test]
        fn units_cover_the_data_and_the_canonical_form_is_stable(data in prop::collection::vec(prop_oneof![0u8..24, any::<u8>()], 0..60)) {
            let walked: Result<Vec<_>, _> = obus(&data).collect();
            if let Ok(walked) = walked {
                prop_assert_eq!(walked.iter().map(|obu| obu.raw.len()).sum::<usize>(), data.len());
                let canonical = without_temporal_delimiters(data.into()).unwrap();
                prop_assert!(obus(&canonical).all(|obu| obu.is_ok_and(|obu| obu.sized && obu.kind != 2)));
                prop_assert_eq!(without_temporal_delimiters(canonical.clone()).unwrap(), canonical);
            }
        }
    }
}
