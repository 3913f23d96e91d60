//! Samples of a rate that Opus does not know (44,100 and its like) to 48,000 a second.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _};

/// What comes out.
const RATE_HZ: usize = 48_000;
/// Samples of a channel that go in at once.
const CHUNK: usize = 1024;

/// Resamples one track.
pub(super) struct Resampler {
    fft: Fft<f32>,
    channels: usize,
    /// What does not fill a chunk.
    waiting: Vec<f32>,
    out: Vec<f32>,
}

impl Resampler {
    /// From this rate. None: it cannot be.
    pub(super) fn new(rate_hz: usize, channels: usize) -> Option<Resampler> {
        let fft = Fft::new(rate_hz, RATE_HZ, CHUNK, 1, channels, FixedSync::Input).ok()?;
        let out = vec![0.0; fft.output_frames_max() * channels];
        Some(Resampler { fft, channels, waiting: Vec::new(), out })
    }

    /// How many samples of a channel what comes out is behind what went in, at 48,000 a second, but for what waits.
    pub(super) fn delay(&self) -> usize {
        self.fft.output_delay()
    }

    /// Appends what comes out of these.
    pub(super) fn push(&mut self, samples: &[i16], out: &mut Vec<i16>) {
        self.waiting.extend(samples.iter().map(|sample| f32::from(*sample) / 32_768.0));
        loop {
            let frames = self.fft.input_frames_next();
            let Some(chunk) = self.waiting.get(..frames * self.channels) else { return };
            let room = self.out.len() / self.channels.max(1);
            let input = InterleavedSlice::new(chunk, self.channels, frames);
            let output = InterleavedSlice::new_mut(&mut self.out, self.channels, room);
            let (Ok(input), Ok(mut output)) = (input, output) else { return };
            // The lengths are those that it asked for.
            let made = self.fft.process_into_buffer(&input, &mut output, None).map_or(0, |(_, made)| made);
            let made = self.out.get(..made * self.channels).unwrap_or_default();
            out.extend(made.iter().map(|sample| (sample * 32_768.0).clamp(-32_768.0, 32_767.0) as i16));
            self.waiting.drain(..frames * self.channels);
        }
    }

    /// What follows does not follow from what was before.
    pub(super) fn restart(&mut self) {
        self.waiting.clear();
        self.fft.reset();
    }
}
