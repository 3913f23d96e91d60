//! G.711 becomes Opus: what cameras send and browsers do not play in MP4.

use bytes::Bytes;
use culvert_media::codec::opus::Head;
use culvert_media::{Codec, Frame, Time, Track};
use opus_pure::{Application, OpusEncoder};

/// A packet of Opus.
const PACKET: Time = Time::from_millis(20);
const PACKETS_A_SECOND: usize = 50;
/// For each channel; speech of 8 kHz has no more to say.
const BITS_PER_SECOND: i32 = 24_000;
/// Of 10: the ear hears no difference above it in speech (RFC 6716 has no such figure; libopus's default is 9 and costs twice as much).
const COMPLEXITY: i32 = 5;
/// Sound whose stamps leave those of the samples by more is taken up anew where it says; less is the jitter of their clock.
const JITTER: Time = Time::from_millis(60);
/// Most seconds of sound in a frame.
const LONGEST_S: usize = 2;
/// More than a packet ever holds (RFC 6716 3.2.1, R5).
const PACKET_BYTES: usize = 1275;

/// Encodes the frames of one track.
pub(super) struct Voice {
    encoder: Box<OpusEncoder>,
    codec: Codec,
    rate_hz: usize,
    channels: usize,
    /// Samples that wait for a packet to be full.
    waiting: Vec<i16>,
    /// When the first of them is due.
    due: Option<Time>,
    /// What the encoder is made of, should it have to be made anew.
    source: Track,
}

impl std::fmt::Debug for Voice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Voice")
            .field("codec", &self.codec)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

/// The track as Opus; None: it is no G.711, or of a rate or so many channels that Opus does not take.
pub(super) fn track(track: &Track) -> Option<Track> {
    let encoder = encoder(track)?;
    let (sound, lookahead) = (track.sound()?, encoder.lookahead() * 48_000 / track.sound()?.sample_rate_hz as usize);
    let mut head = Head::new(sound.channels).ok()?;
    head.pre_skip = u16::try_from(lookahead).ok()?;
    head.input_sample_rate_hz = sound.sample_rate_hz;
    Track::new(track.id, Codec::Opus, head.write()).ok()
}

fn encoder(track: &Track) -> Option<Box<OpusEncoder>> {
    if !matches!(track.codec, Codec::G711A | Codec::G711U) {
        return None;
    }
    let sound = track.sound()?;
    let rate = i32::try_from(sound.sample_rate_hz).ok()?;
    let mut encoder = Box::new(OpusEncoder::new(rate, sound.channels.into(), Application::Voip).ok()?);
    encoder.bitrate_bps = BITS_PER_SECOND * i32::from(sound.channels);
    encoder.complexity = COMPLEXITY;
    Some(encoder)
}

impl Voice {
    /// For a track that [`track`] has an answer for.
    pub(super) fn new(track: &Track) -> Option<Voice> {
        let (encoder, sound) = (encoder(track)?, track.sound()?);
        let (rate_hz, channels) = (sound.sample_rate_hz as usize, usize::from(sound.channels));
        let source = track.clone();
        Some(Voice { encoder, codec: track.codec, rate_hz, channels, waiting: Vec::new(), due: None, source })
    }

    /// Takes a frame; `out` is given each packet that is full, with its time.
    pub(super) fn push(&mut self, frame: &Frame, mut out: impl FnMut(Time, Bytes)) {
        // Nobody speaks for so long in one breath: it is no sound, or not of this rate.
        if frame.data.len() > self.rate_hz * self.channels * LONGEST_S {
            return;
        }
        let expected = self.due.map(|due| due + self.span(self.waiting.len()));
        let mut skip = 0;
        match expected {
            // Stamps that fall behind the samples: what would be heard twice at once is left out, for time does not go back.
            Some(expected) if expected - frame.dts > JITTER => skip = self.samples(expected - frame.dts),
            Some(expected) if frame.dts - expected <= JITTER => {}
            Some(_) | None => {
                self.waiting.clear();
                self.due = Some(frame.dts);
            }
        }
        let linear: fn(u8) -> i16 = if self.codec == Codec::G711A { a_law } else { mu_law };
        self.waiting.extend(frame.data.iter().skip(skip).map(|byte| linear(*byte)));
        let (samples, mut packet) = (self.rate_hz / PACKETS_A_SECOND, [0; PACKET_BYTES]);
        let mut at = 0;
        while let Some(pcm) = self.waiting.get(at..at + samples * self.channels) {
            // The encoder is young, and this runs where a stream is held: should it panic, the packet is lost and nothing else.
            let encode = || self.encoder.encode_s16(pcm, samples, &mut packet);
            let bytes = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(encode)) {
                // It fails only for what is checked above: the lengths of both.
                Ok(bytes) => bytes.unwrap_or(0),
                Err(_) => {
                    if let Some(anew) = encoder(&self.source) {
                        self.encoder = anew;
                    }
                    0
                }
            };
            if let Some(data) = packet.get(..bytes).filter(|data| !data.is_empty()) {
                out(self.due.unwrap_or(frame.dts), Bytes::copy_from_slice(data));
            }
            self.due = self.due.map(|due| due + PACKET);
            at += pcm.len();
        }
        self.waiting.drain(..at);
    }

    /// Forgets what waits: what follows does not follow from it.
    pub(super) fn restart(&mut self) {
        (self.due, self.waiting) = (None, Vec::new());
    }

    /// Samples of all channels in so much time.
    fn samples(&self, time: Time) -> usize {
        let hz = u32::try_from(self.rate_hz).unwrap_or(1);
        usize::try_from(time.to_ticks(hz)).unwrap_or(0).saturating_mul(self.channels)
    }

    fn span(&self, samples: usize) -> Time {
        let hz = u32::try_from(self.rate_hz * self.channels).unwrap_or(1);
        Time::from_ticks(i64::try_from(samples).unwrap_or(i64::MAX), hz)
    }
}

/// ITU-T G.711, table 1: a sample of 13 bits at the top of 16.
fn a_law(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let (exponent, mantissa) = (byte >> 4 & 0x07, i16::from(byte & 0x0f));
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        exponent => ((mantissa << 4) + 0x108) << (exponent - 1),
    };
    if byte & 0x80 != 0 { magnitude } else { -magnitude }
}

/// ITU-T G.711, table 2: a sample of 14 bits at the top of 16.
fn mu_law(byte: u8) -> i16 {
    let byte = !byte;
    let (exponent, mantissa) = (byte >> 4 & 0x07, i16::from(byte & 0x0f));
    let magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84;
    if byte & 0x80 != 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use culvert_media::codec::opus::packet_duration;
    use culvert_media::{Audio, TrackId};
    use opus_pure::OpusDecoder;

    use super::*;

    fn g711(codec: Codec, sample_rate_hz: u32, channels: u8) -> Track {
        Track::audio(TrackId(1), codec, Audio { sample_rate_hz, channels })
    }

    fn frame(at: Time, data: Vec<u8>) -> Frame {
        let wall = SystemTime::UNIX_EPOCH;
        Frame { track: TrackId(1), dts: at, pts: at, key: true, discontinuity: false, wall, data: data.into() }
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

    #[test]
    fn a_tone_is_still_that_tone() {
        for (codec, channels) in [(Codec::G711A, 1_u8), (Codec::G711U, 2)] {
            let source = g711(codec, 8000, channels);
            let (mut voice, mut packets) = (Voice::new(&source).unwrap(), Vec::new());
            // 440 Hz as the nearest code of each sample, in frames of 30 ms, which are no multiple of a packet.
            let linear: fn(u8) -> i16 = if codec == Codec::G711A { a_law } else { mu_law };
            let code =
                |wanted: f64| (0..=255).min_by_key(|byte| (i32::from(linear(*byte)) - wanted as i32).abs()).unwrap();
            let sample = |i: usize| code(10_000.0 * (i as f64 * 440.0 * std::f64::consts::TAU / 8000.0).sin());
            for n in 0..100 {
                let data = (n * 240..(n + 1) * 240).flat_map(|i| vec![sample(i); usize::from(channels)]).collect();
                let at = Time::from_millis(1000 + i64::try_from(n).unwrap() * 30);
                voice.push(&frame(at, data), |at, packet| packets.push((at, packet)));
            }
            assert_eq!(packets.len(), 150);
            let times: Vec<i64> = packets.iter().map(|(at, _)| at.millis()).collect();
            assert!(times.iter().enumerate().all(|(n, at)| *at == 1000 + 20 * n as i64), "{times:?}");
            assert!(packets.iter().all(|(_, packet)| packet_duration(packet) == Some(PACKET)));
            let mut decoder = OpusDecoder::new(8000, channels.into()).unwrap();
            let mut heard = Vec::new();
            for (_, packet) in &packets {
                let mut pcm = vec![0.0; 160 * usize::from(channels)];
                decoder.decode(packet, 160, &mut pcm).unwrap();
                heard.extend(pcm.iter().step_by(channels.into()).copied());
            }
            // Upward passes through nothing are periods: 440 a second.
            let settled = &heard[8000..16_000];
            let periods = settled.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
            assert!((438..=442).contains(&periods), "{periods}");
            let level = settled.iter().fold(0.0_f32, |most, sample| most.max(sample.abs())) * 32_768.0;
            assert!((8_500.0..11_500.0).contains(&level), "{level}");
        }
    }

    #[test]
    fn jitter_is_passed_over_and_a_hole_is_a_hole() {
        let source = g711(Codec::G711A, 8000, 1);
        let (mut voice, mut times) = (Voice::new(&source).unwrap(), Vec::new());
        for at in [0, 21, 38, 60, 500, 520] {
            voice.push(&frame(Time::from_millis(at), vec![0xd5; 160]), |at, _| times.push(at.millis()));
        }
        assert_eq!(times, [0, 20, 40, 60, 500, 520]);
        // Stamps that fall behind, and a frame that is no sound: time goes on.
        for (at, bytes) in [(440, 160), (460, 1600), (560, 8 << 20), (640, 160)] {
            voice.push(&frame(Time::from_millis(at), vec![0xd5; bytes]), |at, _| times.push(at.millis()));
        }
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
        assert_eq!(times.last(), Some(&660));
    }

    #[test]
    fn what_opus_does_not_take_is_left() {
        assert!(track(&g711(Codec::G711U, 8000, 2)).is_some() && track(&g711(Codec::G711A, 16_000, 1)).is_some());
        for (codec, rate, channels) in [(Codec::G711A, 11_025, 1), (Codec::G711A, 8000, 3), (Codec::Mp3, 48_000, 2)] {
            assert!(track(&g711(codec, rate, channels)).is_none(), "{codec:?} {rate} {channels}");
        }
        let made = track(&g711(Codec::G711A, 8000, 1)).unwrap();
        assert_eq!((made.codec, made.sound().unwrap().channels), (Codec::Opus, 1));
        assert!(Head::parse(&made.config).unwrap().pre_skip > 0);
    }
}
