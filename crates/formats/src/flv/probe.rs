//! Waiting at the beginning of a stream until it is known which tracks it has.

use culvert_media::{Frame, Time};

use super::announce::Announced;

/// How long to wait, in media time, for tracks that the metadata announced: encoders start their devices one by one.
const ANNOUNCED_WAIT: Time = Time::from_millis(3_000);
/// How long to wait for the other kind of track when nothing was announced.
const BLIND_WAIT: Time = Time::from_millis(1_000);
/// Most coded bytes held: 3 s of 10 Mbit/s.
const MAX_HELD_BYTES: usize = 4 * 1024 * 1024;
/// Most frames held: 3 s of 60 pictures and 94 AAC frames a second.
const MAX_HELD_FRAMES: usize = 512;

/// Frames that are held back, and what for.
#[derive(Debug, Default)]
pub(super) struct Probe {
    held: Vec<Frame>,
    held_bytes: usize,
    announced: Option<Announced>,
    video: bool,
    audio: bool,
}

impl Probe {
    /// The metadata came.
    pub(super) fn announce(&mut self, announced: Announced) {
        self.announced = Some(announced);
    }

    /// It is known whether there are pictures: a track is there, or one that we do not support.
    pub(super) fn know_video(&mut self) {
        self.video = true;
    }

    /// It is known whether there is sound.
    pub(super) fn know_audio(&mut self) {
        self.audio = true;
    }

    pub(super) fn hold(&mut self, frame: Frame) {
        self.held_bytes = self.held_bytes.saturating_add(frame.data.len());
        self.held.push(frame);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// All tracks are there, or it has been long enough.
    pub(super) fn is_over(&self) -> bool {
        let (ready, wait) = match self.announced {
            Some(announced) => ((self.video || !announced.video) && (self.audio || !announced.audio), ANNOUNCED_WAIT),
            None => (self.video && self.audio, BLIND_WAIT),
        };
        let waited = match (self.held.first(), self.held.last()) {
            // Either way: a clock that jumps back has not made us wait less.
            (Some(first), Some(last)) => (last.dts - first.dts).abs(),
            (_, _) => Time::ZERO,
        };
        ready || waited >= wait || self.held_bytes >= MAX_HELD_BYTES || self.held.len() >= MAX_HELD_FRAMES
    }

    /// The held frames in the order in which they came.
    pub(super) fn release(self) -> Vec<Frame> {
        self.held
    }
}
