//! What a stream is made of.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{self, CodecError};

/// A track's number within its stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TrackId(pub u8);

/// How media is coded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Codec {
    /// ITU-T H.264.
    H264,
    /// ITU-T H.265.
    H265,
    /// AOMedia AV1.
    Av1,
    /// VP8, RFC 6386.
    Vp8,
    /// VP9.
    Vp9,
    /// MPEG-4 AAC, ISO 14496-3.
    Aac,
    /// Opus, RFC 6716.
    Opus,
    /// ITU-T G.711 A-law.
    G711A,
    /// ITU-T G.711 mu-law.
    G711U,
    /// MPEG-1/2 audio layer III.
    Mp3,
    /// FLAC, RFC 9639.
    Flac,
}

/// Pictures or sound.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
}

impl Codec {
    /// Pictures or sound.
    pub const fn kind(self) -> Kind {
        match self {
            Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 => Kind::Video,
            Codec::Aac | Codec::Opus | Codec::G711A | Codec::G711U | Codec::Mp3 | Codec::Flac => Kind::Audio,
        }
    }

    /// The name in the API, in figures and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::H264 => "h264",
            Codec::H265 => "h265",
            Codec::Av1 => "av1",
            Codec::Vp8 => "vp8",
            Codec::Vp9 => "vp9",
            Codec::Aac => "aac",
            Codec::Opus => "opus",
            Codec::G711A => "pcma",
            Codec::G711U => "pcmu",
            Codec::Mp3 => "mp3",
            Codec::Flac => "flac",
        }
    }
}

/// What is known of a video track from its configuration.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Video {
    /// Visible width in pixels; 0 where the configuration does not say.
    pub width: u32,
    /// Visible height in pixels; 0 where the configuration does not say.
    pub height: u32,
    /// Frames per second where the configuration says so.
    pub fps: Option<f64>,
}

/// What is known of an audio track from its configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Audio {
    /// Samples per second of one channel.
    pub sample_rate_hz: u32,
    /// Channels.
    pub channels: u8,
}

/// Pictures or sound, with what the configuration says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Detail {
    /// Pictures.
    Video(Video),
    /// Sound.
    Audio(Audio),
}

/// One elementary stream and its codec's configuration record.
#[derive(Clone, PartialEq, Debug)]
pub struct Track {
    /// Number within the stream.
    pub id: TrackId,
    /// How it is coded.
    pub codec: Codec,
    /// The configuration record: avcC, hvcC, av1C, vpcC (as in ISO 14496-15 and its kin, without box headers),
    /// AudioSpecificConfig, OpusHead (RFC 7845 5.1, with its magic), or STREAMINFO (RFC 9639 8.2, without its block's
    /// header). Empty for VP8, G.711 and MP3.
    pub config: Bytes,
    /// What the record says.
    pub detail: Detail,
}

impl Track {
    /// A track from its codec's configuration record, which is parsed in full.
    ///
    /// VP8 and VP9 may come without a record; then the picture size is unknown. H.264, H.265, AV1, AAC, Opus and FLAC
    /// need theirs. G.711 and MP3 have none: see [`Track::audio`].
    pub fn new(id: TrackId, codec: Codec, config: Bytes) -> Result<Track, CodecError> {
        let detail = codec::parse_config(codec, &config)?;
        Ok(Track { id, codec, config, detail })
    }

    /// An audio track whose codec has no configuration record (G.711, MP3).
    pub fn audio(id: TrackId, codec: Codec, audio: Audio) -> Track {
        Track { id, codec, config: Bytes::new(), detail: Detail::Audio(audio) }
    }

    /// Pictures or sound.
    pub fn kind(&self) -> Kind {
        self.codec.kind()
    }

    /// Picture size and rate, of a video track.
    pub fn video(&self) -> Option<Video> {
        match self.detail {
            Detail::Video(video) => Some(video),
            Detail::Audio(_) => None,
        }
    }

    /// Sample rate and channels, of an audio track.
    pub fn sound(&self) -> Option<Audio> {
        match self.detail {
            Detail::Video(_) => None,
            Detail::Audio(audio) => Some(audio),
        }
    }
}

/// All tracks of a stream at one time; cheap to clone.
#[derive(Clone, PartialEq, Debug)]
pub struct Tracks(Arc<[Track]>);

impl Tracks {
    /// Most tracks in a stream; further ones are ignored (security.md S20).
    pub const MAX: usize = 16;

    /// These tracks, in this order, cut at [`Tracks::MAX`].
    pub fn new(mut tracks: Vec<Track>) -> Tracks {
        tracks.truncate(Self::MAX);
        Tracks(tracks.into())
    }

    /// The track with this number.
    pub fn track(&self, id: TrackId) -> Option<&Track> {
        self.0.iter().find(|t| t.id == id)
    }

    /// The first video track.
    pub fn video(&self) -> Option<&Track> {
        self.0.iter().find(|t| t.kind() == Kind::Video)
    }

    /// The first audio track.
    pub fn audio(&self) -> Option<&Track> {
        self.0.iter().find(|t| t.kind() == Kind::Audio)
    }

    /// Each track in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Track> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The very same set, not an equal one: what a reader compares to notice a change.
    pub fn same(&self, other: &Tracks) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<'a> IntoIterator for &'a Tracks {
    type Item = &'a Track;
    type IntoIter = std::slice::Iter<'a, Track>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
