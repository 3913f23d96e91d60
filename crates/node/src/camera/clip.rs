//! The test clip that is built into the program (`assets/clip/README.md`): 8 seconds, looped without end and without a
//! jump in its timestamps.
//!
//! Frames come as fast as they are asked for; to send them in real time is for the caller.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use culvert_formats::flv::{Demux, Event, Reader};
use culvert_media::{Frame, Time, Track, Tracks};

/// What the pictures of a [`Clip`] are coded in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum VideoChoice {
    /// H.264 Main, 640x360, 25 frames per second.
    #[default]
    H264,
    /// H.265 Main, the same pictures.
    H265,
}

/// What the sound of a [`Clip`] is coded in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum AudioChoice {
    /// AAC-LC, 48 kHz stereo.
    #[default]
    Aac,
    /// Opus, 48 kHz stereo, 20 ms packets.
    Opus,
    /// G.711 A-law, 8 kHz mono, 20 ms packets.
    Pcma,
    /// No audio track.
    None,
}

/// The embedded clip as tracks and frames; cheap to clone.
#[derive(Clone, Debug)]
pub struct Clip {
    tracks: Tracks,
    reels: Arc<[Reel]>,
}

/// One track's 8 seconds.
#[derive(Debug)]
struct Reel {
    cadence: Cadence,
    /// In order; `dts` and `pts` are not those that will be sent.
    frames: Vec<Frame>,
}

/// How long a frame lasts, exactly: FLV's milliseconds are rounded, and 8 s of them would not join.
#[derive(Clone, Copy, Debug)]
struct Cadence {
    ticks: u32,
    hz: u32,
}

impl VideoChoice {
    fn embedded(self) -> (&'static [u8], Cadence) {
        const CADENCE: Cadence = Cadence { ticks: 1, hz: 25 };
        match self {
            VideoChoice::H264 => (include_bytes!("../../../../assets/clip/h264.flv"), CADENCE),
            VideoChoice::H265 => (include_bytes!("../../../../assets/clip/h265.flv"), CADENCE),
        }
    }
}

impl AudioChoice {
    fn embedded(self) -> Option<(&'static [u8], Cadence)> {
        match self {
            AudioChoice::Aac => {
                Some((include_bytes!("../../../../assets/clip/aac.flv"), Cadence { ticks: 1024, hz: 48_000 }))
            }
            AudioChoice::Opus => {
                Some((include_bytes!("../../../../assets/clip/opus.flv"), Cadence { ticks: 960, hz: 48_000 }))
            }
            AudioChoice::Pcma => {
                Some((include_bytes!("../../../../assets/clip/pcma.flv"), Cadence { ticks: 160, hz: 8_000 }))
            }
            AudioChoice::None => None,
        }
    }
}

impl Clip {
    /// The clip with these tracks: video is track 0, audio track 1.
    pub fn load(video: VideoChoice, audio: AudioChoice) -> Clip {
        let (tracks, reels): (Vec<Track>, Vec<Reel>) = [Some(video.embedded()), audio.embedded()]
            .into_iter()
            .flatten()
            .map(|(file, cadence)| {
                let (track, frames) = read(file).expect("the clip is embedded, and a test reads each of its files");
                (track, Reel { cadence, frames })
            })
            .unzip();
        Clip { tracks: Tracks::new(tracks), reels: reels.into() }
    }

    /// What it is made of.
    pub fn tracks(&self) -> &Tracks {
        &self.tracks
    }

    /// All frames from the start, over and over, in the order of their decoding times; at the same time video is first.
    ///
    /// Time begins at 0 and goes on across the loops in even steps. `wall` is the Unix epoch: who sends a frame says
    /// when.
    pub fn frames(&self) -> Frames {
        Frames { reels: Arc::clone(&self.reels), next: vec![0; self.reels.len()] }
    }
}

/// See [`Clip::frames`]. Never ends.
#[derive(Clone, Debug)]
pub struct Frames {
    reels: Arc<[Reel]>,
    /// How many frames of each reel were given.
    next: Vec<usize>,
}

impl Iterator for Frames {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let due = self.reels.iter().zip(&mut self.next).min_by_key(|(reel, next)| reel.cadence.time(**next));
        let (reel, next) = due?;
        let time = reel.cadence.time(*next);
        let frame = reel.frames.get(*next % reel.frames.len())?;
        *next += 1;
        Some(Frame { dts: time, pts: time, ..frame.clone() })
    }
}

impl Cadence {
    /// When the nth frame is due.
    fn time(self, n: usize) -> Time {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        Time::from_ticks(n.saturating_mul(i64::from(self.ticks)), self.hz)
    }
}

/// The one track of a file and its frames; `None` if there is not exactly one, without fault.
fn read(file: &'static [u8]) -> Option<(Track, Vec<Frame>)> {
    let (mut reader, mut demux) = (Reader::new(), Demux::new());
    let (mut tracks, mut frames) = (None, Vec::new());
    reader.handle_input(file);
    while let Some(tag) = reader.poll_tag().ok()? {
        demux.handle_tag(SystemTime::UNIX_EPOCH, tag.kind, tag.time_ms, tag.body).ok()?;
    }
    demux.flush();
    while let Some(event) = demux.poll_event() {
        match event {
            Event::Tracks(now) => tracks = Some(now),
            // A copy, so that a frame does not keep the whole file in memory a second time.
            Event::Frame(frame) => frames.push(Frame { data: Bytes::copy_from_slice(&frame.data), ..frame }),
            Event::EndOfSequence => {}
        }
    }
    let tracks = tracks.filter(|tracks| tracks.len() == 1 && demux.dropped() == 0 && !frames.is_empty())?;
    tracks.iter().next().cloned().map(|track| (track, frames))
}

#[cfg(test)]
mod tests {
    use culvert_media::{Audio, Codec, TrackId};

    use super::*;

    const LOOP: Time = Time::from_millis(8000);
    const VIDEO: TrackId = TrackId(0);
    const AUDIO: TrackId = TrackId(1);

    const CHOICES: [(VideoChoice, AudioChoice, usize); 6] = [
        (VideoChoice::H264, AudioChoice::Aac, 375),
        (VideoChoice::H264, AudioChoice::Opus, 400),
        (VideoChoice::H264, AudioChoice::Pcma, 400),
        (VideoChoice::H264, AudioChoice::None, 0),
        (VideoChoice::H265, AudioChoice::Aac, 375),
        (VideoChoice::H265, AudioChoice::None, 0),
    ];

    fn of(frames: &[Frame], track: TrackId) -> Vec<&Frame> {
        frames.iter().filter(|frame| frame.track == track).collect()
    }

    #[test]
    fn three_loops_go_on_in_even_steps_with_the_same_number_of_frames() {
        for (video, audio, sounds) in CHOICES {
            let per_loop = 200 + sounds;
            let frames: Vec<_> = Clip::load(video, audio).frames().take(3 * per_loop).collect();
            assert!(frames.is_sorted_by_key(|frame| frame.dts), "{video:?} {audio:?}");
            for (track, count) in [(VIDEO, 200), (AUDIO, sounds)] {
                let own = of(&frames, track);
                let step = LOOP.micros() as f64 / count as f64;
                for (n, frame) in own.iter().enumerate() {
                    let error = frame.dts.micros() as f64 - n as f64 * step;
                    assert!(error.abs() <= 1.0, "{audio:?}: frame {n} at {:?}", frame.dts);
                    assert_eq!(frame.pts, frame.dts);
                }
                assert!(own.windows(2).all(|pair| pair[0].dts < pair[1].dts));
                for loops in 0..3 {
                    let from = Time::from_micros(LOOP.micros() * loops);
                    let within = own.iter().filter(|frame| (from..from + LOOP).contains(&frame.dts)).count();
                    assert_eq!(within, count, "{video:?} {audio:?} loop {loops}");
                }
            }
        }
    }

    #[test]
    fn the_second_loop_is_the_first_eight_seconds_later() {
        let frames: Vec<_> = Clip::load(VideoChoice::H264, AudioChoice::Aac).frames().take(2 * 575).collect();
        for (first, second) in frames.iter().zip(&frames[575..]) {
            assert_eq!(*second, Frame { dts: first.dts + LOOP, pts: first.pts + LOOP, ..first.clone() });
        }
    }

    #[test]
    fn the_tracks_are_as_described() {
        let clip = Clip::load(VideoChoice::H264, AudioChoice::Aac);
        let (video, audio) = (clip.tracks().track(VIDEO).expect("video"), clip.tracks().track(AUDIO).expect("audio"));
        assert_eq!((video.codec, audio.codec), (Codec::H264, Codec::Aac));
        let size = video.video().map(|video| (video.width, video.height, video.fps));
        assert_eq!(size, Some((640, 360, Some(25.0))));
        assert_eq!(audio.sound(), Some(Audio { sample_rate_hz: 48_000, channels: 2 }));

        let clip = Clip::load(VideoChoice::H265, AudioChoice::Pcma);
        assert_eq!(clip.tracks().iter().map(|track| track.codec).collect::<Vec<_>>(), [Codec::H265, Codec::G711A]);
        assert_eq!(
            clip.tracks().video().and_then(Track::video).map(|video| (video.width, video.height)),
            Some((640, 360))
        );
        assert_eq!(clip.tracks().audio().and_then(Track::sound), Some(Audio { sample_rate_hz: 8_000, channels: 1 }));
        assert_eq!(Clip::load(VideoChoice::H264, AudioChoice::None).tracks().len(), 1);
    }

    #[test]
    fn every_second_begins_with_a_key_frame() {
        for video in [VideoChoice::H264, VideoChoice::H265] {
            for (n, frame) in Clip::load(video, AudioChoice::None).frames().take(400).enumerate() {
                assert_eq!(frame.key, n % 25 == 0, "{video:?} frame {n}");
            }
        }
    }

    #[test]
    fn video_is_first_where_times_are_equal() {
        let first: Vec<_> = Clip::load(VideoChoice::H265, AudioChoice::Opus).frames().take(3).collect();
        assert_eq!(first.iter().map(|frame| frame.track).collect::<Vec<_>>(), [VIDEO, AUDIO, AUDIO]);
    }
}
