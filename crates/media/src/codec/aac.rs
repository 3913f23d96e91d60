//! AAC: AudioSpecificConfig (ISO 14496-3 1.6.2.1) and the ADTS header (1.A.2.2).
//!
//! Sound itself is not read. Of the object types those with AAC's general audio configuration and ELD are known.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use bytes::Bytes;

use super::CodecError;
use super::bits::Reader;

/// Audio object types, ISO 14496-3 table 1.17.
const AOT_LC: u32 = 2;
const AOT_SBR: u32 = 5;
const AOT_SCALABLE: u32 = 6;
const AOT_ER_SCALABLE: u32 = 20;
const AOT_ER_BSAC: u32 = 22;
const AOT_ER_LD: u32 = 23;
const AOT_PS: u32 = 29;
const AOT_ELD: u32 = 39;
/// Where parameters of SBR and PS follow those of an older decoder, ISO 14496-3 1.6.6.1 and 1.6.6.2.
const SYNC_SBR: u32 = 0x2b7;
const SYNC_PS: u32 = 0x548;
/// samplingFrequencyIndex, ISO 14496-3 table 1.18.
const RATES_HZ: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000, 7350];
/// The index that says that the rate follows in 24 bits.
const EXPLICIT_RATE: u32 = 15;

/// What an AudioSpecificConfig says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Audio object type of the core: 2 is AAC-LC, also under SBR and PS.
    pub object_type: u32,
    /// Sample rate of the core.
    pub core_rate_hz: u32,
    /// Sample rate of the output: with SBR, what the record says of it.
    pub sample_rate_hz: u32,
    /// Output channels: with PS, two.
    pub channels: u8,
    /// Spectral band replication is signalled (HE-AAC).
    pub sbr: bool,
    /// Parametric stereo is signalled (HE-AAC v2).
    pub ps: bool,
    /// Samples of one channel in each frame, at `sample_rate_hz`.
    pub samples_per_frame: u32,
}

impl Config {
    /// AAC-LC of 1 to 6 or 8 channels.
    pub fn lc(sample_rate_hz: u32, channels: u8) -> Result<Config, CodecError> {
        if sample_rate_hz == 0 || sample_rate_hz >> 24 != 0 {
            return Err(CodecError::Value { what: "AAC sample rate", value: u64::from(sample_rate_hz) });
        }
        channel_configuration(channels)?;
        Ok(Config {
            object_type: AOT_LC,
            core_rate_hz: sample_rate_hz,
            sample_rate_hz,
            channels,
            sbr: false,
            ps: false,
            samples_per_frame: 1024,
        })
    }

    /// Reads a record. Bits after it are passed over.
    pub fn parse(asc: &[u8]) -> Result<Config, CodecError> {
        let bits = &mut Reader::new("AudioSpecificConfig", asc);
        let mut object_type = object_type_bits(bits)?;
        let core_rate_hz = rate_bits(bits)?;
        let configuration = bits.bits(4)?;
        let (mut sbr, mut ps, mut sample_rate_hz) = (false, false, core_rate_hz);
        if matches!(object_type, AOT_SBR | AOT_PS) {
            (sbr, ps) = (true, object_type == AOT_PS);
            sample_rate_hz = rate_bits(bits)?;
            object_type = object_type_bits(bits)?;
            if object_type == AOT_ER_BSAC {
                bits.skip(4)?; // extensionChannelConfiguration
            }
        }
        let (mut channels, core_samples) = match object_type {
            1..=4 | AOT_SCALABLE | 7 | 17 | 19..=23 => general(bits, object_type, configuration)?,
            AOT_ELD => (channels_of(configuration)?, if bits.bit()? { 480 } else { 512 }),
            _ => return Err(CodecError::Value { what: "AAC object type", value: u64::from(object_type) }),
        };
        if !sbr && object_type != AOT_ELD {
            if matches!(object_type, 17 | 19..=23) {
                bits.skip(2)?; // epConfig
            }
            (sbr, ps, sample_rate_hz) = backward_compatible(bits, core_rate_hz)?;
        }
        if ps && channels == 1 {
            channels = 2;
        }
        let samples_per_frame = if sample_rate_hz == core_rate_hz {
            core_samples
        } else if sample_rate_hz / 2 == core_rate_hz {
            2 * core_samples
        } else {
            return Err(CodecError::Value { what: "AAC extension sample rate", value: u64::from(sample_rate_hz) });
        };
        Ok(Config { object_type, core_rate_hz, sample_rate_hz, channels, sbr, ps, samples_per_frame })
    }

    /// The record's bytes, for AAC Main, LC, SSR and LTP without extensions; other kinds are an error, their own record
    /// should be kept.
    pub fn write(&self) -> Result<Bytes, CodecError> {
        if !(1..=4).contains(&self.object_type) || self.sbr || self.ps || self.samples_per_frame != 1024 {
            return Err(CodecError::Value { what: "AAC object type to write", value: u64::from(self.object_type) });
        }
        let channels = u64::from(channel_configuration(self.channels)?);
        let rate = u64::from(self.sample_rate_hz);
        // Object type 5 bits, rate 4 or 4 + 24, channels 4, then the three zero flags of GASpecificConfig.
        let head = u64::from(self.object_type);
        match RATES_HZ.iter().zip(0u64..).find(|(hz, _)| **hz == self.sample_rate_hz) {
            Some((_, index)) => {
                let word = (head << 4 | index) << 4 | channels;
                Ok(Bytes::copy_from_slice(&((word << 3) as u16).to_be_bytes()))
            }
            None if rate > 0 && rate >> 24 == 0 => {
                let word = ((head << 4 | u64::from(EXPLICIT_RATE)) << 24 | rate) << 4 | channels;
                let [_, _, _, bytes @ ..] = (word << 3).to_be_bytes();
                Ok(Bytes::copy_from_slice(&bytes))
            }
            None => Err(CodecError::Value { what: "AAC sample rate", value: rate }),
        }
    }
}

/// GetAudioObjectType: up to 30 in five bits, up to 95 with six more.
fn object_type_bits(bits: &mut Reader<'_>) -> Result<u32, CodecError> {
    match bits.bits(5)? {
        31 => Ok(32 + bits.bits(6)?),
        object_type => Ok(object_type),
    }
}

fn rate_bits(bits: &mut Reader<'_>) -> Result<u32, CodecError> {
    let index = bits.bits(4)?;
    let rate = if index == EXPLICIT_RATE { Some(bits.bits(24)?) } else { RATES_HZ.get(index as usize).copied() };
    rate.filter(|rate| *rate > 0).ok_or(CodecError::Value { what: "AAC sample rate", value: u64::from(index) })
}

/// channelConfiguration to channels, ISO 14496-3 table 1.19.
fn channels_of(configuration: u32) -> Result<u8, CodecError> {
    match configuration {
        1..=6 => Ok(configuration as u8),
        7 | 12 | 14 => Ok(8),
        11 => Ok(7),
        13 => Ok(24),
        _ => Err(CodecError::Value { what: "AAC channel configuration", value: u64::from(configuration) }),
    }
}

/// Channels to channelConfiguration, as far as every decoder knows it.
fn channel_configuration(channels: u8) -> Result<u8, CodecError> {
    match channels {
        1..=6 => Ok(channels),
        8 => Ok(7),
        _ => Err(CodecError::Value { what: "AAC channels", value: u64::from(channels) }),
    }
}

/// GASpecificConfig, ISO 14496-3 4.4.1: channels and samples per frame.
fn general(bits: &mut Reader<'_>, object_type: u32, configuration: u32) -> Result<(u8, u32), CodecError> {
    let samples = match (object_type, bits.bit()?) {
        (AOT_ER_LD, false) => 512,
        (AOT_ER_LD, true) => 480,
        (_, false) => 1024,
        (_, true) => 960,
    };
    if bits.bit()? {
        bits.skip(14)?; // coreCoderDelay
    }
    let extension = bits.bit()?;
    let channels = if configuration == 0 { program_channels(bits)? } else { channels_of(configuration)? };
    if matches!(object_type, AOT_SCALABLE | AOT_ER_SCALABLE) {
        bits.skip(3)?; // layerNr
    }
    if extension {
        match object_type {
            AOT_ER_BSAC => bits.skip(5 + 11)?,
            17 | 19 | AOT_ER_SCALABLE | AOT_ER_LD => bits.skip(3)?,
            _ => {}
        }
        bits.skip(1)?; // extensionFlag3
    }
    Ok((channels, samples))
}

/// program_config_element, ISO 14496-3 4.4.1.1: its channels.
fn program_channels(bits: &mut Reader<'_>) -> Result<u8, CodecError> {
    bits.skip(4 + 2 + 4)?; // tag, object type, rate
    let pairs = bits.bits(4)? + bits.bits(4)? + bits.bits(4)?; // front, side, back
    let lfe = bits.small(2)?;
    let data = bits.bits(3)?;
    let coupling = bits.bits(4)?;
    for mixdown_bits in [4, 4, 3] {
        if bits.bit()? {
            bits.skip(mixdown_bits)?;
        }
    }
    let mut channels = lfe;
    for _ in 0..pairs {
        channels += if bits.bit()? { 2 } else { 1 };
        bits.skip(4)?;
    }
    bits.skip(4 * usize::from(lfe) + 4 * data as usize + 5 * coupling as usize)?;
    bits.align();
    let comment_bytes = usize::from(bits.byte()?);
    bits.skip(8 * comment_bytes)?;
    if channels == 0 { Err(CodecError::Value { what: "AAC channels", value: 0 }) } else { Ok(channels) }
}

/// SBR and PS after the record that older decoders read, ISO 14496-3 1.6.2.1: sbr, ps and the output rate.
fn backward_compatible(bits: &mut Reader<'_>, core_rate_hz: u32) -> Result<(bool, bool, u32), CodecError> {
    if bits.remaining_bits() < 16 || bits.bits(11)? != SYNC_SBR || object_type_bits(bits)? != AOT_SBR || !bits.bit()? {
        return Ok((false, false, core_rate_hz));
    }
    let rate = rate_bits(bits)?;
    let ps = bits.remaining_bits() >= 12 && bits.bits(11)? == SYNC_PS && bits.bit()?;
    Ok((true, ps, rate))
}

/// An ADTS header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adts {
    /// What an AudioSpecificConfig of the same would say.
    pub config: Config,
    /// The header's own length: 7, or 9 with a checksum.
    pub header_len_bytes: usize,
    /// Length of header and sound together.
    pub frame_len_bytes: usize,
    /// Samples of one channel in the frame: 1024 for each of its 1 to 4 blocks.
    pub samples: u32,
}

/// Reads the ADTS header at the beginning of `data`. Whether the frame is whole is for the caller to compare.
pub fn adts_header(data: &[u8]) -> Result<Adts, CodecError> {
    let mut bits = Reader::new("ADTS header", data);
    let sync = bits.bits(12)?;
    if sync != 0xfff {
        return Err(CodecError::Value { what: "ADTS sync word", value: u64::from(sync) });
    }
    bits.skip(1)?; // ID: MPEG-4 or MPEG-2
    let layer = bits.bits(2)?;
    if layer != 0 {
        return Err(CodecError::Value { what: "ADTS layer", value: u64::from(layer) });
    }
    let header_len_bytes = if bits.bit()? { 7 } else { 9 };
    let object_type = bits.bits(2)? + 1;
    let index = bits.bits(4)?;
    let rate = RATES_HZ.get(index as usize).copied();
    let rate = rate.ok_or(CodecError::Value { what: "ADTS sample rate", value: u64::from(index) })?;
    bits.skip(1)?; // private_bit
    let channels = channels_of(bits.bits(3)?)?;
    bits.skip(4)?; // original, home, copyright
    let frame_len_bytes = bits.bits(13)? as usize;
    bits.skip(11)?; // buffer fullness
    let blocks = bits.bits(2)? + 1;
    if frame_len_bytes <= header_len_bytes {
        return Err(CodecError::Value { what: "ADTS frame length", value: frame_len_bytes as u64 });
    }
    let config = Config { object_type, ..Config::lc(rate, channels)? };
    Ok(Adts { config, header_len_bytes, frame_len_bytes, samples: 1024 * blocks })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{ADTS, ASC, hex};
    use super::*;

    #[test]
    fn real_records_are_read_and_their_core_is_written() {
        for (record, rate, channels) in ASC {
            let record = hex(record);
            let config = Config::parse(&record).unwrap();
            assert_eq!(Ok(config), Config::lc(rate, channels));
            // ffmpeg adds that there is no SBR.
            assert_eq!(config.write().unwrap(), record[..2]);
        }
    }

    #[test]
    fn sbr_and_ps_are_found_where_they_are_signalled() {
        // Object type 5: 24 kHz core, stereo, 48 kHz output, LC. 00101 0110 0010 0011 00010 000.
        let explicit = Config::parse(&[0x2b, 0x11, 0x88, 0x00]).unwrap();
        assert_eq!((explicit.object_type, explicit.core_rate_hz, explicit.sample_rate_hz), (2, 24_000, 48_000));
        assert_eq!((explicit.channels, explicit.samples_per_frame, explicit.sbr, explicit.ps), (2, 2048, true, false));
        // Object type 29: 22,050 Hz core, mono, 44,100 Hz output, LC. 11101 0111 0001 0100 00010 000.
        let stereo = Config::parse(&[0xeb, 0x8a, 0x08, 0x00]).unwrap();
        assert_eq!((stereo.core_rate_hz, stereo.sample_rate_hz, stereo.channels), (22_050, 44_100, 2));
        assert!(stereo.sbr && stereo.ps && stereo.write().is_err());
        // The same behind what an older decoder reads: 00010 0111 0001 000, 01010110111 00101 1 0100, 10101001000 1.
        let behind = Config::parse(&[0x13, 0x88, 0x56, 0xe5, 0xa5, 0x48, 0x80]).unwrap();
        assert_eq!(behind, stereo);
    }

    #[test]
    fn rates_and_object_types_may_be_spelt_out() {
        // LC, 15, 44,056 Hz, stereo: 00010 1111 (24 bits) 0010 000.
        let config = Config::lc(44_056, 2).unwrap();
        let record = config.write().unwrap();
        assert_eq!(record.len(), 5);
        assert_eq!(Config::parse(&record), Ok(config));
        // ELD is 31 and then 7 in six bits: 11111 000111 0011 0001 1 (480 samples).
        let eld = Config::parse(&[0xf8, 0xe6, 0x30]).unwrap();
        assert_eq!((eld.object_type, eld.sample_rate_hz, eld.channels, eld.samples_per_frame), (39, 48_000, 1, 480));
        // 95, the last there can be: 11111 111111.
        assert_eq!(Config::parse(&[0xff, 0xe6, 0x20]), Err(CodecError::Value { what: "AAC object type", value: 95 }));
        assert!(Config::parse(&[0x16, 0x90]).is_err(), "13 is no rate");
        assert!(Config::lc(0, 2).is_err() && Config::lc(48_000, 7).is_err());
    }

    #[test]
    fn channels_may_come_from_a_program_config_element() {
        // LC, 48 kHz, configuration 0, GASpecificConfig 000; tag 0, LC (01), rate 3; 2 front, 0 side, 1 back, 1 LFE, no
        // data, no coupling, no mixdown; single and pair in front, a pair behind, the LFE; aligned; no comment.
        let bits = "00010 0011 0000 000 0000 01 0011 0010 0000 0001 01 000 0000 000 00000 10000 10001 0000";
        let bits: Vec<u8> = bits.bytes().filter(|b| *b != b' ').map(|b| b - b'0').collect();
        let mut record: Vec<u8> = bits
            .chunks(8)
            .map(|byte| byte.iter().enumerate().fold(0, |sum, (at, bit)| sum | bit << (7 - at)))
            .collect();
        assert!(Config::parse(&record).is_err(), "the comment's length is missing");
        record.push(0);
        assert_eq!(Config::parse(&record).unwrap().channels, 6);
    }

    #[test]
    fn adts_headers_are_read() {
        let adts = adts_header(&hex(ADTS)).unwrap();
        assert_eq!(Ok(adts.config), Config::lc(44_100, 2));
        assert_eq!((adts.header_len_bytes, adts.frame_len_bytes, adts.samples), (7, 345, 1024));
        let mut bad = hex(ADTS);
        assert_eq!(adts_header(&bad[..6]), Err(CodecError::Short("ADTS header")));
        bad[0] = 0xfe;
        assert!(adts_header(&bad).is_err());
    }

    proptest! {
        #[test]
        fn every_lc_config_survives_writing(rate in 1u32..1 << 24, channels in 0u8..12) {
            if let Ok(config) = Config::lc(rate, channels) {
                prop_assert_eq!(Config::parse(&config.write().unwrap()), Ok(config));
            }
        }
    }
}
