//! The header of an MPEG audio frame, layer III: ISO 11172-3 2.4.1.3, ISO 13818-3 2.4.1.3, and MPEG 2.5.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use super::CodecError;
use super::bits::Reader;
use crate::Audio;

/// bitrate_index of layer III in kbit/s, of MPEG-1 and of MPEG-2 and 2.5; 0 is free format.
const RATES_1: [u32; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
const RATES_2: [u32; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];

/// What the header of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the whole frame, with the header. None: free format, which does not say.
    pub frame_bytes: Option<usize>,
    /// Of one channel.
    pub samples: u32,
    /// Samples per second of one channel, and channels.
    pub audio: Audio,
}

impl Header {
    /// Reads the four bytes that a frame begins with.
    pub fn parse(data: &[u8]) -> Result<Header, CodecError> {
        let mut bits = Reader::new("MPEG audio header", data);
        let value = |what, value: u32| CodecError::Value { what, value: u64::from(value) };
        let (sync, version, layer) = (bits.bits(11)?, bits.bits(2)?, bits.bits(2)?);
        bits.skip(1)?; // protection_bit
        let (bitrate, rate, padding) = (bits.bits(4)?, bits.bits(2)?, bits.bits(1)?);
        bits.skip(1)?; // private_bit
        let channels = if bits.bits(2)? == 3 { 1 } else { 2 };
        bits.skip(6)?; // to the end of the header, which must be there
        if sync != 0x7ff {
            return Err(value("MPEG audio sync word", sync));
        }
        if layer != 1 {
            return Err(value("MPEG audio layer", layer));
        }
        let first = version == 3;
        let divisor = match version {
            3 => 1,
            2 => 2,
            0 => 4,
            _ => return Err(value("MPEG audio version", version)),
        };
        let kbit = if first { RATES_1 } else { RATES_2 }.get(bitrate as usize).copied();
        let kbit = kbit.ok_or_else(|| value("MPEG audio bit rate", bitrate))?;
        let base_hz = [44_100, 48_000, 32_000].get(rate as usize).copied();
        let rate_hz = base_hz.ok_or_else(|| value("MPEG audio sample rate", rate))? / divisor;
        let samples = if first { 1152 } else { 576 };
        let frame_bytes = samples / 8 * 1000 * kbit / rate_hz + padding;
        Ok(Header {
            frame_bytes: (kbit > 0).then_some(frame_bytes as usize),
            samples,
            audio: Audio { sample_rate_hz: rate_hz, channels },
        })
    }

    /// Bytes of the frame; free format is an error.
    pub fn bytes(&self) -> Result<usize, CodecError> {
        self.frame_bytes.ok_or(CodecError::Value { what: "MPEG audio bit rate", value: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_length_samples_and_rate() {
        let parse = |header: [u8; 4]| {
            Header::parse(&header).map(|h| (h.frame_bytes, h.samples, h.audio.sample_rate_hz, h.audio.channels))
        };
        assert_eq!(parse([0xff, 0xfb, 0x90, 0]), Ok((Some(417), 1152, 44_100, 2))); // 128 kbit/s
        assert_eq!(parse([0xff, 0xfb, 0x92, 0x40]), Ok((Some(418), 1152, 44_100, 2))); // joint stereo
        assert_eq!(parse([0xff, 0xfb, 0xe4, 0]), Ok((Some(960), 1152, 48_000, 2))); // 320 kbit/s
        assert_eq!(parse([0xff, 0xf3, 0x80, 0xc0]), Ok((Some(208), 576, 22_050, 1))); // MPEG-2, 64 kbit/s
        assert_eq!(parse([0xff, 0xe3, 0x18, 0]), Ok((Some(72), 576, 8000, 2))); // MPEG-2.5, 8 kbit/s
        assert_eq!(parse([0xff, 0xfb, 0, 0]), Ok((None, 1152, 44_100, 2)), "free format");
        for bad in [
            &[0xff, 0xfd, 0x90, 0][..], // layer II
            &[0xff, 0xfb, 0xf0, 0],     // bit rate 15
            &[0xff, 0xfb, 0x9c, 0],     // rate 3
            &[0xff, 0xeb, 0x90, 0],     // version 1
            &[0xff, 0x1b, 0x90, 0],     // no sync
            &[0xff, 0xfb, 0x90],
        ] {
            assert!(Header::parse(bad).is_err(), "{bad:02x?}");
        }
        assert!(Header::parse(&[0xff, 0xfb, 0, 0]).unwrap().bytes().is_err());
    }
}
