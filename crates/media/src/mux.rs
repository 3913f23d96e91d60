//! How frames become the bytes of one packaging, once for all its viewers.

use bytes::Bytes;

use crate::{Frame, Time, Tracks};

/// Wire bytes of one packaging, made once and shared by every viewer of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The bytes, complete: a viewer may be cut off or moved on only between chunks.
    pub data: Bytes,
    /// A viewer can begin here (after [`Mux::header`], or after [`Mux::reentry`] when it skipped).
    pub entry: bool,
    /// Decoding time of what is inside.
    pub time: Time,
}

/// A packaging: FLV tags, RTMP chunks, fMP4 fragments. One instance serves all viewers of a stream.
pub trait Mux: Send + 'static {
    /// The name of the packaging in figures and logs, such as `flv`.
    const NAME: &'static str;

    /// A packaging of these tracks.
    fn new(tracks: &Tracks) -> Self
    where
        Self: Sized;

    /// What a new viewer gets first: file header, metadata and the codecs' configuration, as of now.
    fn header(&self) -> Bytes;

    /// What a viewer gets between the chunk it last had and the entry chunk that it skipped to: the codecs'
    /// configuration as of now, for it may have changed in what was skipped.
    fn reentry(&self) -> Bytes;

    /// Whether its viewers can go on when the tracks change to these. Where they cannot (what they were told of the tracks cannot be
    /// told anew), the packaging ends, and who comes then gets another one.
    fn follows(&self, tracks: &Tracks) -> bool {
        let _ = tracks;
        true
    }

    /// The tracks changed in mid-stream; frames that follow are of these. Only called where [`Mux::follows`] says yes.
    fn set_tracks(&mut self, tracks: &Tracks, out: &mut Vec<Chunk>);

    /// Packs one frame into none, one or several chunks.
    fn push(&mut self, frame: &Frame, out: &mut Vec<Chunk>);
}
