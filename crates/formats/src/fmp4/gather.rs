//! Frames on their way into one fragment.

use culvert_media::codec::{aac, flac, opus};
use culvert_media::{Codec, Frame, Time, TrackId, Tracks};

use super::fragment::{self, Arrival, Run, Sample};
use super::{Line, lines};
use crate::sound::Transcoder;

/// Frames become fragments, as many frames in one as are pushed before it is written.
///
/// A fragment says how long each sample is, which is known once the next one is there. Of the last sample in a fragment it says what the one
/// before it took, unless [`Gather::write`] is told when its track goes on.
#[derive(Debug)]
pub struct Gather {
    lines: Vec<Pending>,
    sequence: u32,
    arrival: Option<Arrival>,
}

/// What is gathered of one track.
#[derive(Debug)]
struct Pending {
    line: Line,
    /// What makes its samples of what comes, where that is coded otherwise.
    voice: Option<Transcoder>,
    samples: Vec<Sample>,
    /// Decoding time of the first and of the last of them, or of the last one written, in ticks.
    first: u64,
    last: Option<u64>,
    /// How long the one before took.
    usual: Option<u32>,
}

/// Longest sample that is told: a source that pauses shows its last picture for so long, and no player has to believe more.
const LONGEST: Time = Time::from_millis(10_000);

impl Gather {
    /// For fragments behind the initialisation segment of these tracks.
    pub fn new(tracks: &Tracks) -> Gather {
        let pending = |line: Line| {
            let voice = line.source.as_ref().and_then(|source| Transcoder::new(source, Codec::Opus));
            Pending { line, voice, samples: Vec::new(), first: 0, last: None, usual: None }
        };
        Gather { lines: lines(tracks).into_iter().map(pending).collect(), sequence: 0, arrival: None }
    }

    /// Whether the fragments are the same for these tracks, so that they need no initialisation segment of their own.
    pub fn suits(&self, tracks: &Tracks) -> bool {
        self.lines.iter().map(|pending| &pending.line).eq(&lines(tracks))
    }

    /// Whether frames of this track are carried.
    pub fn carries(&self, track: TrackId) -> bool {
        self.lines.iter().any(|pending| pending.line.track.id == track)
    }

    /// The track by which others are cut: the pictures, or sound where there are none.
    pub fn leader(&self) -> Option<TrackId> {
        self.lines.first().map(|pending| pending.line.track.id)
    }

    /// Whether there are pictures.
    pub fn has_video(&self) -> bool {
        self.lines.iter().any(|pending| pending.line.track.video().is_some())
    }

    /// Nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|pending| pending.samples.is_empty())
    }

    /// Takes a frame; one of a track that is not carried is passed over.
    pub fn push(&mut self, frame: &Frame) {
        let Some(pending) = self.lines.iter_mut().find(|pending| pending.line.track.id == frame.track) else { return };
        if let Some(mut voice) = pending.voice.take() {
            voice.push(frame, |at, data| pending.push(&Frame { dts: at, pts: at, data, ..frame.clone() }));
            pending.voice = Some(voice);
            return;
        }
        pending.push(frame);
        // With pictures that one can begin at is often enough: clocks do not run apart within a group.
        if pending.line.track.video().is_some() && frame.key && self.arrival.is_none() {
            let presented = pending.ticks(frame.pts);
            self.arrival = Some(Arrival { track: pending.line.number, wall: frame.wall, presented });
        }
    }

    /// What follows does not follow from what came before, and need not come later on the timeline.
    pub fn restart(&mut self) {
        for pending in &mut self.lines {
            pending.last = None;
            pending.voice.iter_mut().for_each(Transcoder::restart);
        }
    }

    /// Bytes that [`Gather::write`] would append now.
    pub fn bytes(&self) -> usize {
        fragment::bytes(self.arrival, &self.runs())
    }

    /// Appends a fragment of what is gathered, and begins the next. `next`: when the leading track goes on, where that is known.
    pub fn write(&mut self, next: Option<Time>, out: &mut Vec<u8>) {
        if let (Some(next), Some(leader)) = (next, self.lines.first_mut()) {
            let ticks = next.to_ticks(leader.line.clock_hz);
            leader.goes_on_at(u64::try_from(ticks).unwrap_or(0));
        }
        self.sequence = self.sequence.wrapping_add(1).max(1);
        fragment::write(self.sequence, self.arrival.take(), &self.runs(), out);
        for pending in &mut self.lines {
            pending.samples.clear();
        }
    }

    fn runs(&self) -> Vec<Run<'_>> {
        let there = self.lines.iter().filter(|pending| !pending.samples.is_empty());
        there
            .map(|pending| Run { track: pending.line.number, decode_time: pending.first, samples: &pending.samples })
            .collect()
    }
}

impl Pending {
    fn ticks(&self, time: Time) -> u64 {
        u64::try_from(time.to_ticks(self.line.clock_hz)).unwrap_or(0)
    }

    fn push(&mut self, frame: &Frame) {
        let decode_time = self.ticks(frame.dts);
        // Never before the decoding (`Frame::pts`), and no reordering is so deep that 32 bits do not tell it.
        let composition = i32::try_from(self.ticks(frame.pts).saturating_sub(decode_time)).unwrap_or(i32::MAX);
        self.goes_on_at(decode_time);
        if self.samples.is_empty() {
            self.first = decode_time;
        }
        let duration = self.usual.unwrap_or_else(|| self.first_duration(frame));
        self.last = Some(decode_time);
        self.samples.push(Sample { duration, composition, key: frame.key, data: frame.data.clone() });
    }

    /// The sample after the last one is decoded then.
    fn goes_on_at(&mut self, decode_time: u64) {
        let Some(last) = self.last else { return };
        let most = u64::try_from(LONGEST.to_ticks(self.line.clock_hz)).unwrap_or(0);
        let duration = u32::try_from(decode_time.saturating_sub(last).clamp(1, most)).unwrap_or(1);
        self.usual = Some(duration);
        if let Some(sample) = self.samples.last_mut() {
            sample.duration = duration;
        }
    }

    /// How long a track's first frame is, by what its codec or configuration says.
    fn first_duration(&self, frame: &Frame) -> u32 {
        let Line { track, clock_hz, .. } = &self.line;
        let ticks = match track.codec {
            Codec::Aac => aac::Config::parse(&track.config).map_or(1024, |config| config.samples_per_frame.into()),
            Codec::Opus => opus::packet_duration(&frame.data).map_or(960, |time| time.to_ticks(*clock_hz)),
            // ISO 11172-3: of layer III.
            Codec::Mp3 => 1152,
            Codec::Flac => flac::frame_samples(&frame.data).map_or(4096, i64::from),
            Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 | Codec::G711A | Codec::G711U => {
                let fps = track.video().and_then(|video| video.fps).filter(|fps| *fps >= 1.0).unwrap_or(25.0);
                (f64::from(*clock_hz) / fps) as i64
            }
        };
        u32::try_from(ticks).unwrap_or(1).max(1)
    }
}
