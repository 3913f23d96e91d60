//! Samples to frames.

use bytes::Bytes;
use culvert_media::codec::aac;
use culvert_media::codec::opus::Head;
use culvert_media::{Codec, Track, TrackId};
use opus_pure::{Application, OpusEncoder};
use syom::EncodeOptions;

/// For each channel: speech of 8 kHz has no more to say, and music of 48 kHz has.
const OPUS_SPEECH_BITS: i32 = 24_000;
const OPUS_MUSIC_BITS: i32 = 64_000;
const AAC_SPEECH_BITS: u32 = 24_000;
const AAC_MUSIC_BITS: u32 = 64_000;
/// Of 10: the ear hears no difference above it in speech (RFC 6716 has no such figure; libopus's default is 9 and costs twice as much).
const COMPLEXITY: i32 = 5;
/// Packets of Opus, of 20 ms.
const PACKETS_A_SECOND: usize = 50;
/// More than a packet ever holds (RFC 6716 3.2.1, R5).
const PACKET_BYTES: usize = 1275;
/// Samples of a frame of AAC (ISO 14496-3 4.5.2.1.1).
const AAC_SAMPLES: usize = 1024;
/// Above so many samples a second it is more than a voice.
const SPEECH_HZ: u32 = 16_000;

/// Encodes frames of one size.
pub(super) trait Encode: Send + Sync {
    /// Samples of each channel in a frame.
    fn samples(&self) -> usize;
    /// By how many samples of each channel what a decoder gives is behind what went in, where its decoders do not take that back by themselves.
    fn delay(&self) -> usize {
        0
    }
    /// A frame of so many samples, the channels side by side. None: it could not be made.
    fn encode(&mut self, pcm: &[i16]) -> Option<Bytes>;
}

/// Rates that an encoder takes.
pub(super) fn takes(codec: Codec, rate_hz: u32) -> bool {
    match codec {
        // RFC 6716 2.1.3.
        Codec::Opus => [8_000, 12_000, 16_000, 24_000, 48_000].contains(&rate_hz),
        // Lower ones are in the table (ISO 14496-3 table 1.18), and hardly in any player.
        Codec::Aac => [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000].contains(&rate_hz),
        Codec::Mp3
        | Codec::Flac
        | Codec::G711A
        | Codec::G711U
        | Codec::H264
        | Codec::H265
        | Codec::Av1
        | Codec::Vp8
        | Codec::Vp9 => false,
    }
}

/// An encoder, and what its track is. None: there is none for this.
pub(super) fn encoder(codec: Codec, id: TrackId, rate_hz: u32, channels: u8) -> Option<(Box<dyn Encode>, Track)> {
    let is_speech = rate_hz <= SPEECH_HZ;
    if codec == Codec::Aac {
        let bits = if is_speech { AAC_SPEECH_BITS } else { AAC_MUSIC_BITS } * u32::from(channels);
        let options = EncodeOptions::raw().with_bitrate_bps(bits);
        let encoder = syom::Encoder::new(rate_hz, channels.into(), &options).ok()?;
        let config = aac::Config::lc(rate_hz, channels).ok()?.write().ok()?;
        let planes = vec![Vec::with_capacity(AAC_SAMPLES); channels.into()];
        let encoder: Box<dyn Encode> = Box::new(ToAac { encoder: Box::new(encoder), planes });
        return Some((encoder, Track::new(id, Codec::Aac, config).ok()?));
    }
    let application = if is_speech { Application::Voip } else { Application::Audio };
    let mut encoder = Box::new(OpusEncoder::new(i32::try_from(rate_hz).ok()?, channels.into(), application).ok()?);
    encoder.bitrate_bps = if is_speech { OPUS_SPEECH_BITS } else { OPUS_MUSIC_BITS } * i32::from(channels);
    encoder.complexity = COMPLEXITY;
    let mut head = Head::new(channels).ok()?;
    head.pre_skip = u16::try_from(encoder.lookahead() * 48_000 / rate_hz as usize).ok()?;
    head.input_sample_rate_hz = rate_hz;
    let encoder: Box<dyn Encode> = Box::new(ToOpus { encoder, samples: rate_hz as usize / PACKETS_A_SECOND });
    Some((encoder, Track::new(id, Codec::Opus, head.write()).ok()?))
}

struct ToOpus {
    encoder: Box<OpusEncoder>,
    samples: usize,
}

impl Encode for ToOpus {
    fn samples(&self) -> usize {
        self.samples
    }

    fn encode(&mut self, pcm: &[i16]) -> Option<Bytes> {
        let mut packet = [0; PACKET_BYTES];
        let bytes = self.encoder.encode_s16(pcm, self.samples, &mut packet).ok()?;
        packet.get(..bytes).filter(|data| !data.is_empty()).map(Bytes::copy_from_slice)
    }
}

struct ToAac {
    encoder: Box<syom::Encoder>,
    planes: Vec<Vec<f32>>,
}

impl Encode for ToAac {
    fn samples(&self) -> usize {
        AAC_SAMPLES
    }

    fn delay(&self) -> usize {
        // The first frame says what comes before the first sample, and nothing in our containers tells a decoder to leave it out.
        AAC_SAMPLES
    }

    fn encode(&mut self, pcm: &[i16]) -> Option<Bytes> {
        let channels = self.planes.len();
        for (channel, plane) in self.planes.iter_mut().enumerate() {
            plane.clear();
            plane.extend(pcm.iter().skip(channel).step_by(channels).map(|sample| f32::from(*sample) / 32_768.0));
        }
        let planes: Vec<&[f32]> = self.planes.iter().map(Vec::as_slice).collect();
        let mut made = None;
        let fed = self.encoder.feed(&planes, |frame| {
            made = Some(Bytes::copy_from_slice(frame.payload));
            Ok(())
        });
        fed.ok().and(made)
    }
}
