//! FLAC, RFC 9639: what STREAMINFO says of a stream, and what the header of a frame says of it.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use super::CodecError;
use super::bits::Reader;
use crate::Audio;

/// STREAMINFO as it is, without the header of its block (RFC 9639 8.2).
pub const STREAMINFO_BYTES: usize = 34;
/// Block sizes by the four bits of a frame's header that are a number of their own (RFC 9639 9.1.1).
const SMALL_BLOCK: u32 = 192;
/// The next ones are this and its doubles.
const ODD_BLOCK: u32 = 144;
/// And this and its.
const EVEN_BLOCK: u32 = 256;

/// Most samples of a channel in a frame: what may be streamed has no more (RFC 9639 7), and a few bytes of FLAC say as many as one likes.
const MOST_SAMPLES: u32 = 16_384;

/// What STREAMINFO says (RFC 9639 8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Samples of a channel in the smallest and in the largest block.
    pub block: (u16, u16),
    /// Bits of a sample.
    pub bits: u8,
    /// Samples per second of one channel, and channels.
    pub audio: Audio,
}

impl StreamInfo {
    /// Reads the 34 bytes. What is not sound (a rate of 0), and blocks that no stream may have, are refused.
    pub fn parse(data: &[u8]) -> Result<StreamInfo, CodecError> {
        let value = |what, value: u32| CodecError::Value { what, value: u64::from(value) };
        if data.len() != STREAMINFO_BYTES {
            return Err(CodecError::Value { what: "FLAC STREAMINFO length", value: data.len() as u64 });
        }
        let mut bits = Reader::new("FLAC STREAMINFO", data);
        let (least, most) = (bits.bits(16)?, bits.bits(16)?);
        bits.skip(24 + 24)?; // sizes of frames, which may be unknown
        let (rate, channels, depth) = (bits.bits(20)?, bits.small(3)? + 1, bits.small(5)? + 1);
        if least < 16 || most < least {
            return Err(value("FLAC block size", least));
        }
        if rate == 0 {
            return Err(value("FLAC sample rate", rate));
        }
        if depth < 4 {
            return Err(value("FLAC bits of a sample", depth.into()));
        }
        let block = (u16::try_from(least).unwrap_or(u16::MAX), u16::try_from(most).unwrap_or(u16::MAX));
        Ok(StreamInfo { block, bits: depth, audio: Audio { sample_rate_hz: rate, channels } })
    }
}

/// Samples of a channel in a frame, by its header, which is checked as far as its CRC (RFC 9639 9.1). At most 16,384.
pub fn frame_samples(data: &[u8]) -> Result<u32, CodecError> {
    let value = |what, value: u32| CodecError::Value { what, value: u64::from(value) };
    let mut bits = Reader::new("FLAC frame header", data);
    let sync = bits.bits(15)?;
    if sync != 0x7ffc {
        return Err(value("FLAC sync code", sync));
    }
    bits.skip(1)?; // blocking strategy
    let (block, rate, channels) = (bits.bits(4)?, bits.bits(4)?, bits.bits(4)?);
    let (depth, reserved) = (bits.bits(3)?, bits.bits(1)?);
    if block == 0 || rate == 15 || channels > 10 || depth == 3 || reserved != 0 {
        return Err(value("FLAC frame header", block << 12 | rate << 8 | channels << 4 | depth << 1 | reserved));
    }
    // The number of the frame or of its first sample, coded as UTF-8 codes numbers, in up to seven bytes (9.1.5).
    let follow = match bits.byte()?.leading_ones() {
        0 => 0,
        ones @ 2..=7 => ones - 1,
        ones => return Err(value("FLAC coded number", ones)),
    };
    bits.skip(follow as usize * 8)?;
    let samples = match block {
        1 => SMALL_BLOCK,
        2..=5 => ODD_BLOCK << (block - 1),
        6 => bits.bits(8)? + 1,
        7 => bits.bits(16)? + 1,
        _ => EVEN_BLOCK << (block - 8),
    };
    match rate {
        12 => bits.skip(8)?,
        13 | 14 => bits.skip(16)?,
        _ => {}
    }
    let head = data.get(..bits.position_bits() / 8).unwrap_or_default();
    let (crc, told) = (crc_8(head), bits.bits(8)?);
    if u32::from(crc) != told {
        return Err(value("FLAC frame header CRC", told));
    }
    if samples > MOST_SAMPLES {
        return Err(value("FLAC block size", samples));
    }
    Ok(samples)
}

/// x^8 + x^2 + x + 1, from 0 (RFC 9639 9.1.8).
fn crc_8(data: &[u8]) -> u8 {
    data.iter()
        .fold(0, |crc, byte| (0..8).fold(crc ^ byte, |crc, _| if crc & 0x80 == 0 { crc << 1 } else { crc << 1 ^ 7 }))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{FLAC, FLAC_FRAMES, hex};
    use super::*;

    #[test]
    fn real_streams_are_read() {
        for (record, rate, channels, bits, block) in FLAC {
            let info = StreamInfo::parse(&hex(record)).unwrap();
            let audio = Audio { sample_rate_hz: rate, channels };
            assert_eq!(info, StreamInfo { block: (block, block), bits, audio });
        }
        for (frame, samples) in FLAC_FRAMES {
            assert_eq!(frame_samples(&hex(frame)), Ok(samples));
        }
    }

    #[test]
    fn a_frame_is_not_longer_than_what_may_be_streamed() {
        // The block size in 16 bits, less one; the number and the rate as in the first sample.
        let frame = |samples: u32| {
            let [_, _, high, low] = (samples - 1).to_be_bytes();
            let head = [0xff, 0xf8, 0x7a, 0x88, 0, high, low];
            [&head[..], &[crc_8(&head)]].concat()
        };
        assert_eq!((frame_samples(&frame(1)), frame_samples(&frame(16_384))), (Ok(1), Ok(16_384)));
        for samples in [16_385, 65_536] {
            let refused = CodecError::Value { what: "FLAC block size", value: samples.into() };
            assert_eq!(frame_samples(&frame(samples)), Err(refused));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = hex(FLAC[0].0);
        // No blocks, the largest smaller than the smallest, no rate, one bit a sample.
        for (at, bytes) in [(0, &[0, 15][..]), (2, &[0, 17]), (10, &[0, 0, 0x02]), (12, &[0x02, 0x10])] {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            assert!(StreamInfo::parse(&bad).is_err(), "{at}");
        }
        for length in 0..good.len() {
            assert!(StreamInfo::parse(&good[..length]).is_err());
        }
        let frame = hex(FLAC_FRAMES[0].0);
        let head = frame_samples(&frame).map(|_| 6).unwrap();
        for at in 0..head {
            for bit in 0..8 {
                let mut bad = frame.clone();
                bad[at] ^= 1 << bit;
                // The blocking strategy is under the CRC as all else is.
                assert!(frame_samples(&bad).is_err(), "{at} {bit}");
            }
            assert!(frame_samples(&frame[..at]).is_err());
        }
    }
}
