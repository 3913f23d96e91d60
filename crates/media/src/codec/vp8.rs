//! VP8: the uncompressed beginning of a frame (RFC 6386 9.1). It has no configuration record.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use super::{CodecError, Slices};

/// What the frame tag and, of a key frame, the start header say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// A decoder can begin here.
    pub key: bool,
    /// Width and height in pixels; of key frames only.
    pub size: Option<(u32, u32)>,
}

impl Header {
    /// Reads the beginning of a frame, which must be whole: its first partition must fit in it.
    pub fn parse(frame: &[u8]) -> Result<Header, CodecError> {
        let mut rest = Slices::new("VP8 frame", frame);
        let [a, b, c] = rest.array()?;
        let tag = u32::from_le_bytes([a, b, c, 0]);
        let version = tag >> 1 & 7;
        if version > 3 {
            return Err(CodecError::Value { what: "VP8 version", value: u64::from(version) });
        }
        let key = tag & 1 == 0;
        let size = if key { Some(start_header(&mut rest)?) } else { None };
        rest.take((tag >> 5) as usize)?;
        Ok(Header { key, size })
    }
}

fn start_header(rest: &mut Slices<'_>) -> Result<(u32, u32), CodecError> {
    let [a, b, c] = rest.array()?;
    if [a, b, c] != [0x9d, 0x01, 0x2a] {
        return Err(CodecError::Value { what: "VP8 start code", value: u64::from(u32::from_be_bytes([0, a, b, c])) });
    }
    // The upper two bits are a scaling hint for the display.
    let width = u32::from(u16::from_le_bytes(rest.array()?)) & 0x3fff;
    let height = u32::from(u16::from_le_bytes(rest.array()?)) & 0x3fff;
    if width == 0 || height == 0 {
        return Err(CodecError::Value { what: "VP8 picture size", value: 0 });
    }
    Ok((width, height))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{VP8_FRAMES, hex};
    use super::*;

    #[test]
    fn key_frames_say_their_size_and_partitions_must_fit() {
        let key = hex(VP8_FRAMES[0].0);
        assert_eq!(Header::parse(&key), Ok(Header { key: true, size: Some((64, 64)) }));
        assert_eq!(Header::parse(&hex(VP8_FRAMES[1].0)), Ok(Header { key: false, size: None }));
        assert_eq!(Header::parse(&key[..12]), Err(CodecError::Short("VP8 frame")));
        let mut broken = key;
        broken[3] = 0;
        assert!(matches!(Header::parse(&broken), Err(CodecError::Value { what: "VP8 start code", .. })));
    }
}
