//! FLV (Adobe "Flash Video File Format Specification" 10.1, annex E) with Enhanced RTMP v1 and v2 (Veovera Software
//! Organization): [`Reader`] turns bytes into tags, [`Demux`] tags into tracks and frames, [`TagWriter`] frames into
//! tag bodies, [`Mux`] and [`WsMux`] frames into shared chunks for HTTP-FLV and WS-FLV viewers.
//!
//! RTMP's audio, video and data messages are FLV tag bodies, so RTMP uses [`Demux`] and [`TagWriter`] too. Not done
//! here: encryption, seeking, cue points, anything that needs a clock.
//!
//! Codecs, read: H.264 (7), H.265 (12 as Chinese encoders have it), AAC (10), MP3 (2, 14), G.711 (7, 8); by FourCC
//! `avc1 hvc1 av01 vp08 vp09 mp4a Opus .mp3`. Written: the old form for H.264, AAC, MP3 and G.711, else the FourCC.

mod announce;
mod body;
mod clock;
mod demux;
mod mux;
mod probe;
mod raw;
mod tag;
mod write;

use culvert_media::{Codec, CodecError};
use thiserror::Error;

use crate::amf0;

pub use demux::{Demux, Event};
pub(crate) use mux::message_head;
pub use mux::{Mux, Packer, WsMux};
pub use raw::RawMux;
pub use tag::{MAX_TAG_BYTES, Reader, Tag, TagKind, file_header, write_tag};
pub use write::{Parts, Prefix, TagWriter};

/// Why a byte stream, a tag, or a part of a tag was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The stream does not begin with `FLV`.
    #[error("not an FLV stream: it begins with {0:02x?}")]
    Signature([u8; 3]),
    /// The file header claims an impossible or absurd size of itself.
    #[error("FLV header of {0} bytes")]
    HeaderSize(u32),
    /// A tag larger than [`MAX_TAG_BYTES`].
    #[error("FLV tag of {0} bytes, larger than {MAX_TAG_BYTES}")]
    TooLarge(usize),
    /// A tag, or a frame within it, without a single byte.
    #[error("empty {0}")]
    Empty(&'static str),
    /// The tag ends before its own syntax does.
    #[error("{0} ends too early")]
    Short(&'static str),
    /// A codec that we do not carry, by its number in the old form.
    #[error("{what} codec {id} is not supported")]
    OldCodec {
        /// Audio or video.
        what: &'static str,
        /// SoundFormat or CodecID.
        id: u8,
    },
    /// A codec that we do not carry, by its FourCC.
    #[error("codec {:?} is not supported", String::from_utf8_lossy(.0))]
    FourCc([u8; 4]),
    /// A packet type that is reserved or makes no sense where it stands.
    #[error("{what} packet type {id} is not supported")]
    PacketType {
        /// Audio or video.
        what: &'static str,
        /// AVCPacketType, AACPacketType, VideoPacketType or AudioPacketType.
        id: u8,
    },
    /// A track number, or a number of tracks, beyond what a stream can have.
    #[error("track {0} is one too many")]
    TooManyTracks(u8),
    /// A frame came before its sequence header.
    #[error("{} frame before its sequence header", .0.name())]
    NoSequenceHeader(Codec),
    /// A sequence header that cannot be read.
    #[error("{} sequence header: {source}", codec.name())]
    Config {
        /// Of this codec.
        codec: Codec,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A frame that cannot be read.
    #[error("{} frame: {source}", codec.name())]
    Frame {
        /// Of this codec.
        codec: Codec,
        /// What is wrong with it.
        source: CodecError,
    },
    /// Metadata that is not AMF0.
    #[error("metadata: {0}")]
    Metadata(#[from] amf0::Error),
}
