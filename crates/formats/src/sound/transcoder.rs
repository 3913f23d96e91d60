//! Frames of one codec become frames of another, with the times of what they are made of.

use bytes::Bytes;
use culvert_media::{Codec, Frame, Time, Track};

use super::decode::decoder;
use super::encode::{encoder, takes};
use super::{Decode, Encode, Resampler};

/// Rates that no encoder takes and that are made 48,000 a second. Others are in no table, and the work of resampling grows with what two rates have
/// no divisor in common.
const OTHER_RATES_HZ: [u32; 8] = [7_350, 11_025, 22_050, 32_000, 44_100, 64_000, 88_200, 96_000];
/// Sound whose stamps leave those of the samples by more is taken up anew where it says; less is the jitter of their clock.
const JITTER: Time = Time::from_millis(60);

/// Makes frames of one codec of the frames of one track.
pub struct Transcoder {
    source: Track,
    track: Track,
    decoder: Box<dyn Decode>,
    resampler: Option<Resampler>,
    encoder: Box<dyn Encode>,
    /// Of what the encoder takes.
    rate_hz: usize,
    channels: usize,
    /// Samples that wait for a frame to be full.
    waiting: Vec<i16>,
    decoded: Vec<i16>,
    /// When the first of those that wait is due.
    due: Option<Time>,
}

impl std::fmt::Debug for Transcoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transcoder")
            .field("from", &self.source.codec)
            .field("to", &self.track.codec)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Transcoder {
    /// Of this track to Opus or AAC. None: it is that already, nobody here decodes it, or it has a rate or so many channels that the encoder does
    /// not take.
    pub fn new(source: &Track, to: Codec) -> Option<Transcoder> {
        if source.codec == to {
            return None;
        }
        let decoder = decoder(source)?;
        let (rate_hz, channels) = decoder.sound();
        if !(1..=2).contains(&channels) {
            return None;
        }
        let is_taken = takes(to, rate_hz);
        let speech = matches!(source.codec, Codec::G711A | Codec::G711U);
        if !is_taken && (speech || !OTHER_RATES_HZ.contains(&rate_hz)) {
            return None;
        }
        let resampler = match is_taken {
            true => None,
            false => Some(Resampler::new(rate_hz as usize, usize::from(channels))?),
        };
        let rate_hz = if is_taken { rate_hz } else { 48_000 };
        let (encoder, track) = encoder(to, source.id, rate_hz, channels)?;
        Some(Transcoder {
            source: source.clone(),
            track,
            decoder,
            resampler,
            encoder,
            rate_hz: rate_hz as usize,
            channels: usize::from(channels),
            waiting: Vec::new(),
            decoded: Vec::new(),
            due: None,
        })
    }

    /// What goes in.
    pub fn source(&self) -> &Track {
        &self.source
    }

    /// What comes out.
    pub fn track(&self) -> &Track {
        &self.track
    }

    /// Takes a frame; `out` is given each frame that is full, with its time.
    pub fn push(&mut self, frame: &Frame, mut out: impl FnMut(Time, Bytes)) {
        self.decoded.clear();
        // Decoder and encoder are young, and this runs where a stream is held: should one panic, a packet is lost and nothing else.
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.samples_of(&frame.data)));
        match made {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return self.renew(),
        }
        let delay = self.resampler.as_ref().map_or(Time::ZERO, |r| Time::from_ticks(r.delay() as i64, 48_000));
        let begins = frame.dts - delay;
        let expected = self.due.map(|due| due + self.span(self.waiting.len()));
        let mut skip = 0;
        match expected {
            // Stamps that fall behind the samples: what would be heard twice at once is left out, for time does not go back.
            Some(expected) if expected - begins > JITTER => skip = self.samples(expected - begins),
            Some(expected) if begins - expected <= JITTER => {}
            Some(_) | None => {
                self.waiting.clear();
                self.due = Some(begins);
            }
        }
        self.waiting.extend(self.decoded.iter().skip(skip));
        let (samples, mut at) = (self.encoder.samples(), 0);
        let (length, delay) = (self.span(samples * self.channels), self.span(self.encoder.delay() * self.channels));
        while let Some(pcm) = self.waiting.get(at..at + samples * self.channels) {
            let encoder = &mut self.encoder;
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| encoder.encode(pcm))) {
                Ok(Some(data)) => {
                    let due = self.due.unwrap_or(frame.dts) - delay;
                    if due >= Time::ZERO {
                        out(due, data);
                    }
                }
                Ok(None) | Err(_) => {
                    let (rate, channels) = (self.rate_hz as u32, self.channels as u8);
                    if let Some((anew, _)) = super::encode::encoder(self.track.codec, self.source.id, rate, channels) {
                        self.encoder = anew;
                    }
                }
            }
            self.due = self.due.map(|due| due + length);
            at += pcm.len();
        }
        self.waiting.drain(..at);
    }

    /// Puts the samples of a frame, at the encoder's rate, into `decoded`.
    fn samples_of(&mut self, data: &[u8]) -> bool {
        let Some(resampler) = &mut self.resampler else { return self.decoder.decode(data, &mut self.decoded) };
        let mut samples = Vec::new();
        let is_sound = self.decoder.decode(data, &mut samples);
        resampler.push(&samples, &mut self.decoded);
        is_sound
    }

    /// Begins with another decoder, after one that is broken.
    fn renew(&mut self) {
        if let Some(anew) = Transcoder::new(&self.source, self.track.codec) {
            *self = anew;
        }
    }

    /// Forgets what waits: what follows does not follow from it.
    pub fn restart(&mut self) {
        (self.due, self.waiting) = (None, Vec::new());
        self.decoder.restart();
        self.resampler.iter_mut().for_each(Resampler::restart);
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use culvert_media::codec::opus::{Head, packet_duration};
    use culvert_media::{Audio, TrackId};
    use opus_pure::OpusDecoder;

    use super::super::decode::{a_law, mu_law};
    use super::*;

    fn g711(codec: Codec, sample_rate_hz: u32, channels: u8) -> Track {
        Track::audio(TrackId(1), codec, Audio { sample_rate_hz, channels })
    }

    fn frame(at: Time, data: Vec<u8>) -> Frame {
        let wall = SystemTime::UNIX_EPOCH;
        Frame { track: TrackId(1), dts: at, pts: at, key: true, discontinuity: false, wall, data: data.into() }
    }

    #[test]
    fn a_tone_is_still_that_tone() {
        for (codec, channels) in [(Codec::G711A, 1_u8), (Codec::G711U, 2)] {
            let source = g711(codec, 8000, channels);
            let (mut voice, mut packets) = (Transcoder::new(&source, Codec::Opus).unwrap(), Vec::new());
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
            assert!(packets.iter().all(|(_, packet)| packet_duration(packet) == Some(Time::from_millis(20))));
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

    /// Codes a tone of 440 Hz, two seconds of it, frame by frame.
    fn tone(rate_hz: usize, channels: usize, mut encode: Box<dyn Encode>) -> Vec<(Time, Bytes)> {
        let samples = encode.samples();
        let sample = |i: usize| (10_000.0 * (i as f64 * 440.0 * std::f64::consts::TAU / rate_hz as f64).sin()) as i16;
        let frames = (0..2 * rate_hz / samples).map(|n| {
            let pcm: Vec<i16> =
                (n * samples..(n + 1) * samples).flat_map(|i| std::iter::repeat_n(sample(i), channels)).collect();
            let at = Time::from_ticks((n * samples) as i64, rate_hz as u32);
            (at, encode.encode(&pcm).unwrap())
        });
        frames.collect()
    }

    #[test]
    fn opus_becomes_aac_and_aac_opus_and_a_tone_is_still_that_tone_at_its_time() {
        let ways = [
            (Codec::Opus, 48_000, 1, Codec::Aac),
            (Codec::Opus, 48_000, 2, Codec::Aac),
            (Codec::Opus, 16_000, 1, Codec::Aac),
            (Codec::Aac, 48_000, 2, Codec::Opus),
            (Codec::Aac, 44_100, 2, Codec::Opus),
        ];
        for (from, rate_hz, channels, to) in ways {
            let (coder, source) = encoder(from, TrackId(1), rate_hz, channels).unwrap();
            let mut made = Transcoder::new(&source, to).unwrap();
            assert_eq!((made.track().codec, made.track().sound().unwrap().channels), (to, channels));
            let mut frames = Vec::new();
            for (at, data) in tone(rate_hz as usize, channels.into(), coder) {
                made.push(&frame(at, data.to_vec()), |at, data| frames.push((at, data)));
            }
            let mut decoder = decoder(made.track()).unwrap();
            let (heard_hz, _) = decoder.sound();
            let mut heard = Vec::new();
            for (_, data) in &frames {
                assert!(decoder.decode(data, &mut heard));
            }
            let heard: Vec<i16> = heard.into_iter().step_by(channels.into()).collect();
            // Each frame lasts until the next one.
            let each = heard.len() / frames.len();
            for pair in frames.windows(2) {
                let lasts = (pair[1].0 - pair[0].0).to_ticks(heard_hz);
                assert!((lasts - each as i64).abs() <= 2, "{from:?} {rate_hz}: {lasts} of {each}");
            }
            let second = &heard[heard_hz as usize / 2..heard_hz as usize * 3 / 2];
            let periods = second.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
            assert!((438..=442).contains(&periods), "{from:?} {rate_hz} {channels}: {periods}");
            let level = second.iter().map(|sample| i32::from(*sample).abs()).max().unwrap();
            assert!((8_000..12_500).contains(&level), "{from:?} {rate_hz} {channels}: {level}");
        }
    }

    #[test]
    fn what_is_no_sound_makes_none() {
        let (_, source) = encoder(Codec::Opus, TrackId(1), 48_000, 2).unwrap();
        let mut made = Transcoder::new(&source, Codec::Aac).unwrap();
        let mut count = 0;
        for (n, data) in
            [&[][..], &[0xff; 3], &[0xfc], &[0; 4000], &[0x7f, 0, 0, 0]].into_iter().cycle().take(500).enumerate()
        {
            made.push(&frame(Time::from_millis(20 * n as i64), data.to_vec()), |_, _| count += 1);
        }
        assert!(count <= 500);
        assert!(Transcoder::new(&source, Codec::Opus).is_none(), "it is that");
    }

    #[test]
    fn jitter_is_passed_over_and_a_hole_is_a_hole() {
        let source = g711(Codec::G711A, 8000, 1);
        let (mut voice, mut times) = (Transcoder::new(&source, Codec::Opus).unwrap(), Vec::new());
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
        let track = |track: &Track| Transcoder::new(track, Codec::Opus).map(|made| made.track().clone());
        assert!(track(&g711(Codec::G711U, 8000, 2)).is_some() && track(&g711(Codec::G711A, 16_000, 1)).is_some());
        for (codec, rate, channels) in [(Codec::G711A, 11_025, 1), (Codec::G711A, 8000, 3), (Codec::Opus, 48_000, 2)] {
            assert!(track(&g711(codec, rate, channels)).is_none(), "{codec:?} {rate} {channels}");
        }
        let made = track(&g711(Codec::G711A, 8000, 1)).unwrap();
        assert_eq!((made.codec, made.sound().unwrap().channels), (Codec::Opus, 1));
        assert!(Head::parse(&made.config).unwrap().pre_skip > 0);
    }
}
