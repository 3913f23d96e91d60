//! VP9: the codec configuration record (vpcC, "VP Codec ISO Media File Format Binding" 1.0) and the uncompressed
//! beginning of a frame ("VP9 Bitstream & Decoding Process Specification" 6.2).
//!
//! Superframes are not taken apart: their first frame speaks for them.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use bytes::{BufMut, Bytes, BytesMut};

use super::bits::Reader;
use super::{CodecError, MAX_SIDE, Slices};

/// sRGB, the color_space without subsampling.
const CS_RGB: u32 = 7;

/// A VPCodecConfigurationRecord: the contents of a vpcC box. It does not say the picture's size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// 0 to 3.
    pub profile: u8,
    /// Ten times the level; 0 is unknown.
    pub level: u8,
    /// 8, 10 or 12.
    pub bit_depth: u8,
    /// 0 and 1 are 4:2:0 (vertical, collocated), 2 is 4:2:2, 3 is 4:4:4.
    pub chroma_subsampling: u8,
    /// Samples use the full range.
    pub full_range: bool,
    /// ISO 23001-8 colour primaries.
    pub colour_primaries: u8,
    /// ISO 23001-8 transfer characteristics.
    pub transfer: u8,
    /// ISO 23001-8 matrix coefficients.
    pub matrix: u8,
}

impl Config {
    /// Reads a record with or without the four bytes of version and flags of its box: enhanced RTMP peers send either.
    ///
    /// Both can be told apart, because the third byte of a record without them holds the bit depth, and no
    /// bit depth is 0.
    pub fn parse(record: &[u8]) -> Result<Config, CodecError> {
        let mut rest = Slices::new(
            "vpcC",
            match record {
                [0 | 1, 0, 0, 0, record @ ..] => record,
                record => record,
            },
        );
        let (profile, level, format) = (rest.byte()?, rest.byte()?, rest.byte()?);
        if profile > 3 {
            return Err(CodecError::Value { what: "VP9 profile", value: u64::from(profile) });
        }
        let (bit_depth, chroma_subsampling) = (format >> 4, format >> 1 & 7);
        if !matches!(bit_depth, 8 | 10 | 12) {
            return Err(CodecError::Value { what: "VP9 bit depth", value: u64::from(bit_depth) });
        }
        if chroma_subsampling > 3 {
            return Err(CodecError::Value { what: "VP9 chroma subsampling", value: u64::from(chroma_subsampling) });
        }
        let (colour_primaries, transfer, matrix) = (rest.byte()?, rest.byte()?, rest.byte()?);
        // VP8 and VP9 have no initialization data: what a record has of it is passed over.
        let length = rest.u16()?;
        rest.take(usize::from(length))?;
        let full_range = format & 1 != 0;
        Ok(Config { profile, level, bit_depth, chroma_subsampling, full_range, colour_primaries, transfer, matrix })
    }

    /// The record with version 1 and flags 0 before it, as in a file: 12 bytes.
    pub fn write(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(12);
        out.put_u32(1 << 24);
        let format = (self.bit_depth & 15) << 4 | (self.chroma_subsampling & 7) << 1 | u8::from(self.full_range);
        out.put_slice(&[self.profile, self.level, format, self.colour_primaries, self.transfer, self.matrix]);
        out.put_u16(0);
        out.freeze()
    }
}

/// What the beginning of a frame's uncompressed header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// 0 to 3.
    pub profile: u8,
    /// A decoder can begin here.
    pub key: bool,
    /// Width and height in pixels; of key frames only.
    pub size: Option<(u32, u32)>,
}

impl Header {
    /// Reads the beginning of a frame or superframe.
    pub fn parse(frame: &[u8]) -> Result<Header, CodecError> {
        let mut bits = Reader::new("VP9 frame", frame);
        let marker = bits.bits(2)?;
        if marker != 2 {
            return Err(CodecError::Value { what: "VP9 frame marker", value: u64::from(marker) });
        }
        let profile = bits.small(1)? | bits.small(1)? << 1;
        if profile == 3 && bits.bit()? {
            return Err(CodecError::Value { what: "VP9 profile", value: 4 });
        }
        if bits.bit()? {
            bits.skip(3)?; // show_existing_frame: frame_to_show_map_idx, and nothing else
            return Ok(Header { profile, key: false, size: None });
        }
        let key = !bits.bit()?;
        bits.skip(2)?; // show_frame, error_resilient_mode
        let size = if key { Some(key_size(&mut bits, profile)?) } else { None };
        Ok(Header { profile, key, size })
    }
}

/// frame_sync_code, color_config and frame_size of a key frame.
fn key_size(bits: &mut Reader<'_>, profile: u8) -> Result<(u32, u32), CodecError> {
    let sync = bits.bits(24)?;
    if sync != 0x49_8342 {
        return Err(CodecError::Value { what: "VP9 sync code", value: u64::from(sync) });
    }
    if profile >= 2 {
        bits.skip(1)?; // ten_or_twelve_bit
    }
    let full_chroma = profile & 1 == 1;
    if bits.bits(3)? != CS_RGB {
        bits.skip(1)?; // color_range
        bits.skip(if full_chroma { 3 } else { 0 })?; // subsampling_x, subsampling_y, reserved_zero
    } else if full_chroma {
        bits.skip(1)?; // reserved_zero
    } else {
        return Err(CodecError::Value { what: "VP9 color_space", value: u64::from(CS_RGB) });
    }
    let (width, height) = (bits.bits(16)? + 1, bits.bits(16)? + 1);
    if width.max(height) > MAX_SIDE {
        return Err(CodecError::Value { what: "VP9 picture size", value: u64::from(width.max(height)) });
    }
    Ok((width, height))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{VP9_FRAMES, VPCC, hex};
    use super::*;

    #[test]
    fn a_record_is_read_with_and_without_version_and_flags() {
        let record = hex(VPCC);
        let config = Config::parse(&record).unwrap();
        assert_eq!((config.profile, config.level, config.bit_depth, config.chroma_subsampling), (0, 10, 8, 1));
        assert_eq!(Config::parse(&record[4..]).as_ref(), Ok(&config));
        assert_eq!(config.write(), record);
        assert_eq!(
            Config::parse(&[4, 0, 0x80, 1, 1, 1, 0, 0]),
            Err(CodecError::Value { what: "VP9 profile", value: 4 })
        );
        assert_eq!(Config::parse(&record[..11]), Err(CodecError::Short("vpcC")));
    }

    #[test]
    fn key_frames_say_their_size() {
        let key = Header::parse(&hex(VP9_FRAMES[0].0)).unwrap();
        assert_eq!(key, Header { profile: 0, key: true, size: Some((64, 64)) });
        assert_eq!(Header::parse(&hex(VP9_FRAMES[1].0)).unwrap(), Header { profile: 0, key: false, size: None });
        // show_existing_frame 0.
        assert_eq!(Header::parse(&[0x88]), Ok(Header { profile: 0, key: false, size: None }));
        assert!(Header::parse(&[0x42, 0x49, 0x83]).is_err() && Header::parse(&[0x82, 0x49, 0x83]).is_err());
    }
}
