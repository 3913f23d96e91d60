//! Fragmented MP4 (ISO 14496-12), as browsers' Media Source Extensions, ffmpeg and HLS read it.
//!
//! [`init`] is the part that says what the tracks are; its boxes are mp4-atom's.
//! [`Mux`] makes a fragment of each frame, once for all viewers; [`Gather`] makes one of many. [`Demux`] reads what others made. Not here: whole
//! files, editing, encryption.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod codecs;
mod demux;
mod fragment;
mod gather;
mod init;
mod mux;
#[cfg(test)]
mod tests;

pub use codecs::{codecs, mime};
pub use demux::{Demux, Error};
pub use gather::Gather;
pub use init::init;
pub use mux::{MergedMux, MergedWsMux, Mux, Packer, WsMux};

use culvert_media::{Codec, Kind, Track, Tracks};

use crate::sound::Transcoder;

/// Ticks of a video track's clock per second.
const VIDEO_HZ: u32 = 90_000;

/// A track as MP4 has it.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    track: Track,
    /// From 1.
    number: u32,
    /// Ticks per second.
    clock_hz: u32,
    /// What the decoder is told.
    entry: mp4_atom::Codec,
    /// What it is encoded from, where it does not come as it goes.
    source: Option<Track>,
}

/// The tracks that MP4 carries so that browsers play them: the first of video and the first of audio, which is G.711 as Opus where there is no
/// other. VP9 without its record is none of them.
fn lines(tracks: &Tracks) -> Vec<Line> {
    let first =
        |kind: Kind| tracks.iter().filter(|track| track.kind() == kind).find_map(|t| Some((t, init::entry(t)?)));
    let voice = || {
        tracks.iter().find_map(|source| {
            let is_speech = matches!(source.codec, Codec::G711A | Codec::G711U);
            let track = is_speech.then(|| Transcoder::new(source, Codec::Opus)).flatten()?.track().clone();
            Some(Line { entry: init::entry(&track)?, track, number: 0, clock_hz: 0, source: Some(source.clone()) })
        })
    };
    let line = |(track, entry): (&Track, _)| Line { track: track.clone(), number: 0, clock_hz: 0, entry, source: None };
    let both = [first(Kind::Video).map(line), first(Kind::Audio).map(line).or_else(voice)].into_iter().flatten();
    both.zip(1..)
        .map(|(line, number)| {
            let clock_hz = line.track.sound().map_or(VIDEO_HZ, |sound| sound.sample_rate_hz.max(1));
            Line { number, clock_hz, ..line }
        })
        .collect()
}

/// Whether there is a track that MP4 carries.
pub fn carries(tracks: &Tracks) -> bool {
    !lines(tracks).is_empty()
}
