//! What of a stream goes to browsers.

use culvert_formats::sound::Transcoder;
use culvert_media::codec::{h264, h265};
use culvert_media::{Codec, Kind, Track, Tracks};

/// The tracks that are sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) video: Option<Track>,
    pub(crate) audio: Option<Track>,
    /// What the sound is made of, where it does not go as it comes.
    pub(super) source: Option<Track>,
}

impl Sent {
    pub(crate) fn of(tracks: &Tracks) -> Sent {
        let is_sent = |track: &&Track| match track.codec {
            Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 | Codec::Opus => true,
            Codec::G711A | Codec::G711U => {
                track.sound().is_some_and(|sound| sound.sample_rate_hz == 8000 && sound.channels == 1)
            }
            Codec::Aac | Codec::Mp3 | Codec::Flac => false,
        };
        let first = |kind: Kind| tracks.iter().filter(is_sent).find(|track| track.kind() == kind).cloned();
        let video = first(Kind::Video);
        if let Some(audio) = first(Kind::Audio) {
            return Sent { video, audio: Some(audio), source: None };
        }
        let sounds = tracks.iter().filter(|track| track.kind() == Kind::Audio);
        let made = sounds.into_iter().find_map(|source| Some((source, Transcoder::new(source, Codec::Opus)?)));
        let (source, audio) = made.map(|(source, to_opus)| (source.clone(), to_opus.track().clone())).unzip();
        Sent { video, audio, source }
    }

    /// What is said in the offer and answer holds for the other as well.
    pub(super) fn suits(&self, other: &Sent) -> bool {
        let same = |a: &Option<Track>, b: &Option<Track>| match (a, b) {
            (Some(a), Some(b)) => a.codec == b.codec,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same(&self.video, &other.video) && same(&self.audio, &other.audio)
    }

    /// How many pictures may be shown before one that was decoded earlier, where the parameter sets say so.
    pub(super) fn reordering(&self) -> Option<u32> {
        let track = self.video.as_ref()?;
        match track.codec {
            Codec::H264 => h264::Config::parse(&track.config)
                .ok()
                .and_then(|config| h264::Sps::parse(config.sps.first()?).ok()?.reordering.map(u32::from)),
            Codec::H265 => h265::Config::parse(&track.config)
                .ok()
                .and_then(|config| h265::Sps::parse(config.sps.first()?).ok()?.reordering.map(u32::from)),
            Codec::Av1
            | Codec::Vp8
            | Codec::Vp9
            | Codec::Aac
            | Codec::Opus
            | Codec::G711A
            | Codec::G711U
            | Codec::Mp3
            | Codec::Flac => None,
        }
    }
}
