//! Frames to samples.

use culvert_media::codec::{aac, opus};
use culvert_media::{Codec, Track};
use opus_pure::OpusDecoder;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_FLAC, CODEC_ID_MP3};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::packet::PacketRef;
use symphonia::core::units::{Duration, Timestamp};
use symphonia::default::codecs::{AacDecoder, FlacDecoder, MpaDecoder};

/// Most seconds of sound in a frame: nobody speaks for so long in one breath.
const LONGEST_S: usize = 2;

/// Decodes the frames of one track.
pub(super) trait Decode: Send + Sync {
    /// Samples per second, and channels, of what comes out.
    fn sound(&self) -> (u32, u8);
    /// Appends the samples of a frame, the channels side by side. False: it is no sound.
    fn decode(&mut self, frame: &[u8], out: &mut Vec<i16>) -> bool;
    /// What follows does not follow from what was before.
    fn restart(&mut self) {}
}

/// A decoder for this track. None: there is none.
pub(super) fn decoder(track: &Track) -> Option<Box<dyn Decode>> {
    let sound = track.sound()?;
    match track.codec {
        Codec::G711A | Codec::G711U => {
            let linear: fn(u8) -> i16 = if track.codec == Codec::G711A { a_law } else { mu_law };
            Some(Box::new(G711 { linear, rate_hz: sound.sample_rate_hz, channels: sound.channels }))
        }
        Codec::Aac => {
            let config = aac::Config::parse(&track.config).ok()?;
            // The decoder knows the core alone; what SBR and PS would add to it is not heard.
            let channels = if config.ps { 1 } else { config.channels };
            let core = aac::Config::lc(config.core_rate_hz, channels).ok()?.write().ok()?;
            let mut parameters = AudioCodecParameters::new();
            parameters.for_codec(CODEC_ID_AAC).with_sample_rate(config.core_rate_hz);
            parameters.with_extra_data(core.to_vec().into_boxed_slice());
            let decoder = AacDecoder::try_new(&parameters, &AudioDecoderOptions::default()).ok()?;
            Some(Box::new(Library {
                decoder: Box::new(decoder),
                rate_hz: config.core_rate_hz,
                channels,
                samples: Vec::new(),
            }))
        }
        Codec::Mp3 => {
            let mut parameters = AudioCodecParameters::new();
            parameters.for_codec(CODEC_ID_MP3).with_sample_rate(sound.sample_rate_hz);
            let decoder = MpaDecoder::try_new(&parameters, &AudioDecoderOptions::default()).ok()?;
            let (rate_hz, channels) = (sound.sample_rate_hz, sound.channels);
            Some(Box::new(Library { decoder: Box::new(decoder), rate_hz, channels, samples: Vec::new() }))
        }
        Codec::Flac => {
            let mut parameters = AudioCodecParameters::new();
            parameters.for_codec(CODEC_ID_FLAC).with_sample_rate(sound.sample_rate_hz);
            parameters.with_extra_data(track.config.to_vec().into_boxed_slice());
            let decoder = FlacDecoder::try_new(&parameters, &AudioDecoderOptions::default()).ok()?;
            let (rate_hz, channels) = (sound.sample_rate_hz, sound.channels);
            Some(Box::new(Library { decoder: Box::new(decoder), rate_hz, channels, samples: Vec::new() }))
        }
        Codec::Opus => {
            let head = opus::Head::parse(&track.config).ok()?;
            let channels = head.channels;
            if head.mapping.family != 0 || !(1..=2).contains(&channels) {
                return None;
            }
            let decoder = Box::new(OpusDecoder::new(OPUS_HZ as i32, channels.into()).ok()?);
            Some(Box::new(Opus { decoder, channels }))
        }
        Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 => None,
    }
}

/// A decoder gives any of its rates; this is the one that is not made of another.
const OPUS_HZ: u32 = opus::CLOCK_HZ;
/// Samples of a channel in the longest packet, of 120 ms (RFC 6716 3.2.5).
const OPUS_SAMPLES: usize = OPUS_HZ as usize * 120 / 1000;

/// Packets of Opus.
struct Opus {
    decoder: Box<OpusDecoder>,
    channels: u8,
}

impl Decode for Opus {
    fn sound(&self) -> (u32, u8) {
        (OPUS_HZ, self.channels)
    }

    fn decode(&mut self, frame: &[u8], out: &mut Vec<i16>) -> bool {
        let (at, channels) = (out.len(), usize::from(self.channels));
        out.resize(at + OPUS_SAMPLES * channels, 0);
        let room = out.get_mut(at..).unwrap_or_default();
        // An empty packet asks for what was lost to be made up (RFC 6716 4.4): that is no sound.
        let made = if frame.is_empty() { 0 } else { self.decoder.decode_s16(frame, OPUS_SAMPLES, room).unwrap_or(0) };
        out.truncate(at + made * channels);
        made > 0
    }

    fn restart(&mut self) {
        self.decoder.reset_state().ok();
    }
}

/// A byte is a sample.
struct G711 {
    linear: fn(u8) -> i16,
    rate_hz: u32,
    channels: u8,
}

impl Decode for G711 {
    fn sound(&self) -> (u32, u8) {
        (self.rate_hz, self.channels)
    }

    fn decode(&mut self, frame: &[u8], out: &mut Vec<i16>) -> bool {
        let is_sound = frame.len() <= self.rate_hz as usize * usize::from(self.channels) * LONGEST_S;
        if is_sound {
            out.extend(frame.iter().map(|byte| (self.linear)(*byte)));
        }
        is_sound
    }
}

/// One of symphonia's.
struct Library {
    decoder: Box<dyn AudioDecoder>,
    rate_hz: u32,
    channels: u8,
    samples: Vec<i16>,
}

impl Decode for Library {
    fn sound(&self) -> (u32, u8) {
        (self.rate_hz, self.channels)
    }

    fn decode(&mut self, frame: &[u8], out: &mut Vec<i16>) -> bool {
        let packet = PacketRef::new(0, Timestamp::ZERO, Duration::ZERO, frame);
        let Ok(decoded) = self.decoder.decode_ref(&packet) else { return false };
        let has = decoded.spec().channels().count();
        if decoded.spec().rate() != self.rate_hz || has == 0 {
            return false;
        }
        self.samples.clear();
        decoded.copy_to_vec_interleaved(&mut self.samples);
        // Parametric stereo, and joint stereo that begins with one channel, have another number than was announced.
        let wants = usize::from(self.channels);
        out.extend(
            self.samples
                .chunks_exact(has)
                .flat_map(|all| (0..wants).map(|n| all.get(n.min(has - 1)).copied().unwrap_or(0))),
        );
        true
    }

    fn restart(&mut self) {
        self.decoder.reset();
    }
}

/// ITU-T G.711, table 1: a sample of 13 bits at the top of 16.
pub(super) fn a_law(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let (exponent, mantissa) = (byte >> 4 & 0x07, i16::from(byte & 0x0f));
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        exponent => ((mantissa << 4) + 0x108) << (exponent - 1),
    };
    if byte & 0x80 != 0 { magnitude } else { -magnitude }
}

/// ITU-T G.711, table 2: a sample of 14 bits at the top of 16.
pub(super) fn mu_law(byte: u8) -> i16 {
    let byte = !byte;
    let (exponent, mantissa) = (byte >> 4 & 0x07, i16::from(byte & 0x0f));
    let magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84;
    if byte & 0x80 != 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x^16 + x^15 + x^2 + 1 over all of a frame (RFC 9639 9.3).
    fn crc_16(data: &[u8]) -> u16 {
        data.iter().fold(0, |crc, byte| {
            (0..8).fold(
                crc ^ u16::from(*byte) << 8,
                |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x8005 },
            )
        })
    }

    #[test]
    fn flac_is_heard() {
        // 48 kHz, two channels of 16 bits.
        let mut info = [4, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0x0b, 0xb8, 2, 0xf0].to_vec();
        info.resize(34, 0);
        let track = Track::new(culvert_media::TrackId(0), Codec::Flac, info.into()).unwrap();
        let mut decoder = decoder(&track).unwrap();
        assert_eq!(decoder.sound(), (48_000, 2));
        // 1024 samples, each channel a constant (RFC 9639 9.2.3): 1,000 and -1,000.
        let mut frame = vec![0xff, 0xf8, 0xaa, 0x18, 0, 0xba, 0, 0x03, 0xe8, 0, 0xfc, 0x18];
        frame.extend(crc_16(&frame).to_be_bytes());
        assert_eq!(culvert_media::codec::check_frame(Codec::Flac, &frame).map(|info| info.key), Ok(true));
        let mut out = Vec::new();
        assert!(decoder.decode(&frame, &mut out));
        assert_eq!(out, [1000, -1000].repeat(1024));
        assert!(!decoder.decode(&frame[..8], &mut out));
    }

    #[test]
    fn samples_are_those_of_the_tables() {
        // G.711's own ends and middle: the largest, the smallest, silence.
        assert_eq!([0xaa, 0x2a, 0xd5, 0x55].map(a_law), [32_256, -32_256, 8, -8]);
        assert_eq!([0x80, 0x00, 0xff, 0x7f].map(mu_law), [32_124, -32_124, 0, 0]);
        // Both are monotonous along each half.
        let rises = |linear: fn(u8) -> i16, code: fn(u8) -> u8| (1..128).all(|i| linear(code(i)) > linear(code(i - 1)));
        assert!(rises(a_law, |i| (i | 0x80) ^ 0x55) && rises(mu_law, |i| !i));
    }
}
