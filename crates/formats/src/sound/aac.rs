//! A stream whose sound is AAC, for players that know nothing newer.

use bytes::Bytes;
use culvert_media::{Chunk, Codec, Frame, Mux, Track, Tracks};

use super::Transcoder;

/// Who takes AAC and not all of the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Player {
    /// Of FLV: knows G.711, and neither Opus nor FLAC.
    Flv,
    /// Of HLS: knows FLAC, and neither Opus nor G.711.
    Hls,
}

impl Player {
    fn takes(self, codec: Codec) -> bool {
        match codec {
            Codec::Opus => false,
            Codec::Flac => self == Player::Hls,
            Codec::G711A | Codec::G711U => self == Player::Flv,
            Codec::Aac | Codec::Mp3 | Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 => true,
        }
    }
}

/// A stream on its way to such players: its first track of sound that they do not take becomes AAC; all else passes as it is.
#[derive(Debug)]
pub struct InAac {
    tracks: Tracks,
    voice: Option<Transcoder>,
    player: Player,
    /// A frame that had this mark has not come out yet.
    discontinuity: bool,
}

impl InAac {
    /// Of a stream with these tracks.
    pub fn new(tracks: &Tracks, player: Player) -> InAac {
        let mut made = InAac { tracks: tracks.clone(), voice: None, player, discontinuity: false };
        made.set_tracks(tracks);
        made
    }

    /// The tracks are these from now on.
    pub fn set_tracks(&mut self, tracks: &Tracks) {
        let is_changed = |track: &&Track| !self.player.takes(track.codec);
        let source = tracks.audio().filter(is_changed);
        if self.voice.as_ref().map(Transcoder::source) != source {
            self.voice = source.and_then(|source| Transcoder::new(source, Codec::Aac));
        }
        self.tracks = match &self.voice {
            None => tracks.clone(),
            Some(voice) => {
                let other = |track: &Track| if track.id == voice.source().id { voice.track() } else { track }.clone();
                Tracks::new(tracks.iter().map(other).collect())
            }
        };
    }

    /// What comes out.
    pub fn tracks(&self) -> &Tracks {
        &self.tracks
    }

    /// Takes a frame, and gives what it becomes: itself, or none or some of AAC.
    pub fn push(&mut self, frame: &Frame, mut out: impl FnMut(&Frame)) {
        match &mut self.voice {
            Some(voice) if voice.source().id == frame.track => {
                self.discontinuity |= frame.discontinuity;
                voice.push(frame, |at, data| {
                    let discontinuity = std::mem::take(&mut self.discontinuity);
                    out(&Frame { dts: at, pts: at, data, discontinuity, ..frame.clone() });
                });
            }
            Some(_) | None => out(frame),
        }
    }

    /// What follows does not follow from what came before.
    pub fn restart(&mut self) {
        self.voice.iter_mut().for_each(Transcoder::restart);
    }
}

/// A packaging that there is with AAC as well.
pub trait NamedInAac: Mux {
    /// The name of that in figures and logs.
    const NAME_IN_AAC: &'static str;
}

/// A packaging of a stream whose Opus has become AAC.
#[derive(Debug)]
pub struct WithAac<M> {
    stage: InAac,
    mux: M,
}

impl<M: NamedInAac> Mux for WithAac<M> {
    const NAME: &'static str = M::NAME_IN_AAC;

    fn new(tracks: &Tracks) -> WithAac<M> {
        let stage = InAac::new(tracks, Player::Flv);
        WithAac { mux: M::new(stage.tracks()), stage }
    }

    fn header(&self) -> Bytes {
        self.mux.header()
    }

    fn reentry(&self) -> Bytes {
        self.mux.reentry()
    }

    fn follows(&self, tracks: &Tracks) -> bool {
        self.mux.follows(InAac::new(tracks, Player::Flv).tracks())
    }

    fn set_tracks(&mut self, tracks: &Tracks, out: &mut Vec<Chunk>) {
        self.stage.set_tracks(tracks);
        self.mux.set_tracks(self.stage.tracks(), out);
    }

    fn push(&mut self, frame: &Frame, out: &mut Vec<Chunk>) {
        let mux = &mut self.mux;
        self.stage.push(frame, |frame| mux.push(frame, out));
    }
}
