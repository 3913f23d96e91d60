//! Opus: the identification header (OpusHead, RFC 7845 5.1) and how long a packet lasts (RFC 6716 3.1).
//!
//! Packets are not taken apart.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use bytes::{BufMut, Bytes, BytesMut};

use super::{CodecError, Slices};
use crate::Time;

/// The rate at which Opus always counts and can always be decoded (RFC 7845 4).
pub const CLOCK_HZ: u32 = 48_000;
/// Longest packet, in microseconds (RFC 6716 3.2.5).
const MAX_PACKET_MICROS: i64 = 120_000;

/// The identification header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Output channels, 1 to 255.
    pub channels: u8,
    /// Samples at [`CLOCK_HZ`] to drop after the decoder starts.
    pub pre_skip: u16,
    /// What the sound had before it was coded; a hint, 0 is unknown.
    pub input_sample_rate_hz: u32,
    /// Gain to apply, in 1/256 dB.
    pub gain: i16,
    /// How coded channels become output channels.
    pub mapping: Mapping,
}

/// Channel mapping, RFC 7845 5.1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// 0: mono or stereo without a table; 1: Vorbis order; others: see their registry.
    pub family: u8,
    /// Opus streams in each packet, at least 1.
    pub streams: u8,
    /// How many of them are stereo.
    pub coupled: u8,
    /// For each output channel the number of its coded channel, or 255 for silence. Empty in family 0.
    pub table: Vec<u8>,
}

impl Mapping {
    /// The usual one for 1 to 8 channels: family 0, or family 1 with as many stereo pairs as the layout has.
    fn usual(channels: u8) -> Option<Mapping> {
        // (streams, coupled, table) so that front, side and back pairs are coupled and centre and LFE stand alone,
        // in the channel order of RFC 7845 5.1.1.2.
        let (streams, coupled, table): (u8, u8, &[u8]) = match channels {
            1 => (1, 0, &[]),
            2 => (1, 1, &[]),
            3 => (2, 1, &[0, 2, 1]),
            4 => (2, 2, &[0, 1, 2, 3]),
            5 => (3, 2, &[0, 4, 1, 2, 3]),
            6 => (4, 2, &[0, 4, 1, 2, 3, 5]),
            7 => (4, 3, &[0, 4, 1, 2, 3, 5, 6]),
            8 => (5, 3, &[0, 6, 1, 2, 3, 4, 5, 7]),
            _ => return None,
        };
        Some(Mapping { family: u8::from(channels > 2), streams, coupled, table: table.to_vec() })
    }
}

impl Head {
    /// A header for 1 to 8 channels without pre-skip, for peers that send none (RTP).
    pub fn new(channels: u8) -> Result<Head, CodecError> {
        let mapping = Mapping::usual(channels)
            .ok_or(CodecError::Value { what: "Opus channels without a table", value: u64::from(channels) })?;
        Ok(Head { channels, pre_skip: 0, input_sample_rate_hz: CLOCK_HZ, gain: 0, mapping })
    }

    /// Reads a header, with its magic "OpusHead". What follows it is passed over, as RFC 7845 5.1 asks.
    pub fn parse(head: &[u8]) -> Result<Head, CodecError> {
        let mut rest = Slices::new("OpusHead", head);
        let magic: [u8; 8] = rest.array()?;
        if magic != *b"OpusHead" {
            return Err(CodecError::Value { what: "OpusHead magic", value: u64::from_be_bytes(magic) });
        }
        let version = rest.byte()?;
        // Versions up to 15 are compatible with 1.
        if version > 15 {
            return Err(CodecError::Value { what: "OpusHead version", value: u64::from(version) });
        }
        let channels = rest.byte()?;
        let pre_skip = u16::from_le_bytes(rest.array()?);
        let input_sample_rate_hz = u32::from_le_bytes(rest.array()?);
        let gain = i16::from_le_bytes(rest.array()?);
        let mapping = match (rest.byte()?, channels) {
            (_, 0) => None,
            (0, 1 | 2) => Mapping::usual(channels),
            (0, _) => None,
            (family, _) => {
                let (streams, coupled) = (rest.byte()?, rest.byte()?);
                let table = rest.take(usize::from(channels))?.to_vec();
                Some(Mapping { family, streams, coupled, table })
            }
        };
        let mapping = mapping.ok_or(CodecError::Value { what: "Opus channels", value: u64::from(channels) })?;
        mapping.check()?;
        Ok(Head { channels, pre_skip, input_sample_rate_hz, gain, mapping })
    }

    /// The header's bytes, version 1.
    pub fn write(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(21 + self.mapping.table.len());
        out.put_slice(b"OpusHead");
        out.put_slice(&[1, self.channels]);
        out.put_u16_le(self.pre_skip);
        out.put_u32_le(self.input_sample_rate_hz);
        out.put_i16_le(self.gain);
        out.put_u8(self.mapping.family);
        if self.mapping.family != 0 {
            out.put_slice(&[self.mapping.streams, self.mapping.coupled]);
            out.put_slice(&self.mapping.table);
        }
        out.freeze()
    }
}

impl Mapping {
    fn check(&self) -> Result<(), CodecError> {
        let coded = self.streams.checked_add(self.coupled).filter(|_| self.streams > 0 && self.coupled <= self.streams);
        let Some(coded) = coded else {
            return Err(CodecError::Value { what: "Opus stream count", value: u64::from(self.streams) });
        };
        match self.table.iter().find(|channel| **channel >= coded && **channel != 255) {
            Some(channel) => Err(CodecError::Value { what: "Opus channel mapping", value: u64::from(*channel) }),
            None => Ok(()),
        }
    }
}

/// How long a packet lasts, from its first byte or two; `None` where they break the rules.
pub fn packet_duration(packet: &[u8]) -> Option<Time> {
    let (toc, rest) = packet.split_first()?;
    // RFC 6716 table 2.
    let frame_micros = match toc >> 3 {
        config @ 0..12 => [10_000, 20_000, 40_000, 60_000].get(usize::from(config % 4)),
        config @ 12..16 => [10_000, 20_000].get(usize::from(config % 2)),
        config => [2500, 5000, 10_000, 20_000].get(usize::from(config % 4)),
    }?;
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => i64::from(rest.first()? & 0x3f),
    };
    let micros = frame_micros * frames;
    (micros > 0 && micros <= MAX_PACKET_MICROS).then_some(Time::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{OPUS, hex};
    use super::*;

    #[test]
    fn real_heads_are_read_and_written_as_read() {
        for (record, channels) in OPUS {
            let record = hex(record);
            let head = Head::parse(&record).unwrap();
            assert_eq!(
                (head.channels, head.pre_skip, head.input_sample_rate_hz, head.gain),
                (channels, 312, 48_000, 0)
            );
            assert_eq!(head.write(), record);
            // libopus lays channels out as we do.
            assert_eq!(Head::new(channels).unwrap().mapping, head.mapping);
        }
    }

    #[test]
    fn our_own_heads_are_sound_and_others_are_refused() {
        for channels in 1..=8 {
            let head = Head::new(channels).unwrap();
            assert_eq!(Head::parse(&head.write()), Ok(head));
        }
        assert!(Head::new(0).is_err() && Head::new(9).is_err());
        let good = hex(OPUS[1].0);
        // Version, channels, family, streams, coupled, a channel that is not coded.
        for (at, byte) in [(0, b'o'), (8, 16), (9, 0), (18, 0), (19, 0), (20, 5), (22, 6)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(Head::parse(&bad).is_err(), "{at}");
        }
        let mut silent = good;
        silent[22] = 255;
        assert!(Head::parse(&silent).is_ok());
    }

    #[test]
    fn packets_last_as_their_first_byte_says() {
        let millis = |packet: &[u8]| packet_duration(packet).map(|time| time.micros());
        // libopus: 20 ms in one CELT frame; three of them by `-frame_duration 60`.
        assert_eq!(millis(&[0xfc, 0xb4]), Some(20_000));
        assert_eq!(millis(&[0xff, 0x83]), Some(60_000));
        assert_eq!(millis(&[0x18]), Some(60_000));
        assert_eq!(millis(&[0x60]), Some(10_000));
        assert_eq!(millis(&[0x81]), Some(5000));
        assert_eq!(millis(&[0x1b, 2]), Some(120_000));
        assert_eq!(millis(&[0x1b, 3]), None);
        assert_eq!(millis(&[0xff]), None);
        assert_eq!(millis(&[0xff, 0]), None);
        assert_eq!(millis(&[]), None);
    }
}
