//! A track of a container whose configuration may be in band, too: its access units become frames' bytes.

use bytes::Bytes;
use culvert_media::codec::{self, av1};
use culvert_media::{Codec, CodecError, Kind, Track, TrackId};

use crate::sets::Sets;

/// One track, and what is known of it so far.
#[derive(Clone, Debug)]
pub(crate) struct Elementary {
    id: TrackId,
    codec: Codec,
    sets: Sets,
    track: Option<Track>,
}

impl Elementary {
    /// Of which nothing is known but the codec.
    pub(crate) fn new(id: TrackId, codec: Codec) -> Elementary {
        Elementary { id, codec, sets: Sets::new(codec), track: None }
    }

    /// Of which the container says what it is.
    pub(crate) fn with(track: Track) -> Elementary {
        let mut own = Elementary::new(track.id, track.codec);
        own.sets.begin(track.id, &track.config);
        own.track = Some(track);
        own
    }

    pub(crate) fn id(&self) -> TrackId {
        self.id
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    /// None: its configuration has not come yet.
    pub(crate) fn track(&self) -> Option<&Track> {
        self.track.as_ref()
    }

    /// Says what it is. True: something else than before.
    pub(crate) fn set_track(&mut self, track: Track) -> bool {
        let is_new = self.track.as_ref() != Some(&track);
        self.track = Some(track);
        is_new
    }

    /// A frame's bytes (see [`culvert_media::Frame::data`]) of an access unit in that form, and whether a decoder can begin there. None:
    /// there is no picture in it, or it comes before its configuration.
    pub(crate) fn take(&mut self, data: Bytes) -> Result<Option<(Bytes, bool)>, CodecError> {
        let data = match self.codec {
            Codec::H264 | Codec::H265 => {
                let left = self.sets.take(&data)?;
                if let Some(track) = self.sets.track(self.id) {
                    self.track = Some(track);
                }
                left
            }
            Codec::Av1 => {
                let data = av1::without_temporal_delimiters(data)?;
                if let Ok(config) = av1::Config::from_sequence_header(&data) {
                    self.track = Some(Track::new(self.id, self.codec, config.write())?);
                }
                Some(data)
            }
            Codec::Vp8
            | Codec::Vp9
            | Codec::Aac
            | Codec::Opus
            | Codec::G711A
            | Codec::G711U
            | Codec::Mp3
            | Codec::Flac => Some(data),
        };
        let Some(data) = data.filter(|_| self.track.is_some()) else { return Ok(None) };
        match codec::check_frame(self.codec, &data) {
            Ok(info) => Ok(Some((data, info.key || self.codec.kind() == Kind::Audio))),
            Err(CodecError::NoPicture) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
