//! The header of an MPEG audio frame, layer III (ISO 11172-3 2.4.1.3, ISO 13818-3, and MPEG 2.5): FLV's own flags
//! cannot say 48 kHz.
#![deny(clippy::indexing_slicing)]

use culvert_media::{Audio, CodecError};

/// Sample rate and channels of an MP3 frame.
pub(super) fn sound(frame: &[u8]) -> Result<Audio, CodecError> {
    // 11 bits sync, version:2 layer:2 protection:1 | bitrate:4 rate:2 padding:1 private:1 | mode:2 ...
    let &[sync, version, rate, mode] = frame.first_chunk().ok_or(CodecError::Short("MP3 header"))?;
    if sync != 0xff || version & 0xe0 != 0xe0 {
        return Err(CodecError::Value { what: "MP3 sync word", value: u64::from(sync) << 8 | u64::from(version) });
    }
    if version >> 1 & 3 != 1 {
        return Err(CodecError::Value { what: "MPEG audio layer", value: u64::from(version >> 1 & 3) });
    }
    let base_hz = match rate >> 2 & 3 {
        0 => 44_100,
        1 => 48_000,
        2 => 32_000,
        reserved => return Err(CodecError::Value { what: "MP3 sample rate", value: u64::from(reserved) }),
    };
    let sample_rate_hz = match version >> 3 & 3 {
        3 => base_hz,
        2 => base_hz / 2,
        0 => base_hz / 4,
        reserved => return Err(CodecError::Value { what: "MPEG version", value: u64::from(reserved) }),
    };
    Ok(Audio { sample_rate_hz, channels: if mode >> 6 == 3 { 1 } else { 2 } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_channels_are_read_and_other_layers_are_not() {
        assert_eq!(sound(&[0xff, 0xfb, 0x94, 0x00]), Ok(Audio { sample_rate_hz: 48_000, channels: 2 }));
        assert_eq!(sound(&[0xff, 0xf3, 0x40, 0xc0]), Ok(Audio { sample_rate_hz: 22_050, channels: 1 }));
        assert_eq!(sound(&[0xff, 0xe3, 0x48, 0xc0]), Ok(Audio { sample_rate_hz: 8_000, channels: 1 }));
        for bad in [&[0xff, 0xfb, 0x90][..], &[0xff, 0xfd, 0x90, 0], &[0xff, 0xfb, 0x9c, 0], &[0xff, 0x1b, 0x90, 0]] {
            assert!(sound(bad).is_err(), "{bad:02x?}");
        }
    }
}
