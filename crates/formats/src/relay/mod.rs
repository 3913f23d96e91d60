//! A live stream from node to node: frames as they are, behind a length prefix and nothing clever.
//!
//! ```text
//! body   = record*
//! record = length:32 | kind:8 | fields        length counts what follows it; all numbers are big endian
//!
//! to the viewers                                                    to the source
//!   1 Hello   version:8 epoch:64 next_seq:64                          1 Ack       received_bytes:64
//!   2 Tracks  count:8 (id:8 codec:8 rate_hz:32 channels:8             2 KeyFrame
//!                      config_length:32 config)*
//!   3 Frame   seq:64 track:8 flags:8 dts:64 pts:64 wall:64 data       flags: 1 key, 2 discontinuity
//!   4 Gap     frames:64                                               dts, pts in microseconds of the stream,
//!   5 Report  disposable:64 frames:64 bytes:64 keys_only:8            wall in microseconds since 1970
//!             queued_ms:32
//!   6 End     reason:8
//! 128 Padding any bytes; kinds from 128 on are passed over, so that later versions can say more
//! ```
//!
//! [`Hello`](Record::Hello) is first and once, [`Tracks`](Record::Tracks) stands before the first frame of each track,
//! nothing follows [`End`](Record::End). Numbers of frames rise within a track, not over all: a sender on a weak uplink
//! lets sound overtake pictures.
//!
//! [`Reader`] and [`BackReader`] believe nothing: lengths, kinds, order and configuration records are checked, and an
//! error ends the reading. They do not look into frames. Nothing here knows a clock, a socket, or how to resume.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod back;
mod framing;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::time::Duration;

use culvert_media::{CodecError, Frame, TrackId, Tracks};
use thiserror::Error;

pub use back::{Back, BackReader};
pub use read::Reader;
pub use write::{fits, frame_header, padding, write};

/// The version that is spoken here.
pub const VERSION: u8 = 1;
/// Largest frame: the largest access unit that the house takes (security.md S21), as in [`crate::flv`].
pub const MAX_FRAME_BYTES: usize = 8 * 1024 * 1024;
/// Largest configuration record: a parameter set may have 64 KiB (security.md S22) and there is seldom more than one;
/// as much as [`crate::flv`] takes, for what came in must go on.
pub const MAX_CONFIG_BYTES: usize = 128 * 1024;
/// Bytes of a frame's record before its data: length, kind, and 34 of fields.
pub const FRAME_HEADER_BYTES: usize = 5 + FRAME_FIELDS_BYTES;

/// seq, track, flags, dts, pts, wall.
const FRAME_FIELDS_BYTES: usize = 8 + 1 + 1 + 8 + 8 + 8;
/// id, codec, rate, channels, length of the configuration.
const TRACK_FIELDS_BYTES: usize = 1 + 1 + 4 + 1 + 4;

const HELLO: u8 = 1;
const TRACKS: u8 = 2;
const FRAME: u8 = 3;
const GAP: u8 = 4;
const REPORT: u8 = 5;
const END: u8 = 6;
/// The first of the kinds that are passed over.
const PADDING: u8 = 128;

const FLAG_KEY: u8 = 1;
const FLAG_DISCONTINUITY: u8 = 2;

/// One thing that a relay says.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The beginning.
    Hello {
        /// Tells this life of the stream at the sender from others of the same name.
        epoch: u64,
        /// No frame that follows has a lower number.
        next_seq: u64,
    },
    /// What the frames that follow are of.
    Tracks(Tracks),
    /// One access unit.
    Frame {
        /// Its number in the life of the stream, over all tracks.
        seq: u64,
        /// Itself.
        frame: Frame,
    },
    /// Frames were left out that decoding needs. The next video frame is a key frame.
    Gap {
        /// How many, as far as is known.
        frames: u64,
    },
    /// What the sender has left out.
    Report(Report),
    /// Nothing follows.
    End(Ending),
}

/// What a sender left out because its uplink is too slow, in all since the relay began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Frames that nothing refers to.
    pub disposable: u64,
    /// Other frames.
    pub frames: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Of some video track only key frames are sent at the moment, or little more.
    pub keys_only: bool,
    /// How long the oldest frame at the sender has been waiting. Whole milliseconds on the wire.
    pub queued: Duration,
}

/// Why a relay ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The publisher said that it is done.
    Finished = 0,
    /// The publisher was lost.
    Lost = 1,
    /// Closed from outside.
    Closed = 2,
}

/// Why a relay was refused. The body is lost from there on.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// A record without a kind.
    #[error("relay record of length 0")]
    Empty,
    /// A record that is longer than its kind can be.
    #[error("relay record of kind {kind} says it has {length} bytes, at most {most} are possible")]
    TooLarge {
        /// Its kind.
        kind: u8,
        /// Its length field.
        length: u32,
        /// What the kind allows.
        most: usize,
    },
    /// A kind that is neither known nor one of those to be passed over.
    #[error("relay record of unknown kind {0}")]
    UnknownKind(u8),
    /// A record that ends before its fields do, or goes on after them.
    #[error("relay record {0} is not as long as its fields")]
    Length(&'static str),
    /// A sender of another version.
    #[error("relay of version {0}; this node speaks {VERSION}")]
    Version(u8),
    /// The body does not begin with a Hello.
    #[error("relay does not begin with a hello but with kind {0}")]
    NoHello(u8),
    /// A second Hello.
    #[error("relay says hello twice")]
    SecondHello,
    /// Something behind the end.
    #[error("relay goes on after its end")]
    AfterEnd,
    /// A set of tracks without one, with too many, or with two of one number.
    #[error("relay with {0}")]
    BadTracks(&'static str),
    /// A codec by a number that nobody gave.
    #[error("relay track of unknown codec {0}")]
    Codec(u8),
    /// A configuration record that is too long, or that its codec does not have.
    #[error("relay track {} with a configuration record of {length} bytes", .track.0)]
    ConfigLength {
        /// Of this track.
        track: TrackId,
        /// So long.
        length: u32,
    },
    /// A track whose configuration record cannot be read.
    #[error("relay track {}: {source}", .track.0)]
    Config {
        /// This track.
        track: TrackId,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A frame of a track that was not announced, or before any was.
    #[error("relay frame of track {}, which was not announced", .0.0)]
    UnknownTrack(TrackId),
    /// A frame without a byte.
    #[error("relay frame of track {} is empty", .0.0)]
    EmptyFrame(TrackId),
    /// A frame's number is not beyond that of the frame before it in its track, or is below what the Hello said.
    #[error("relay frame {seq} of track {} comes after frame {after}", .track.0)]
    Order {
        /// Of this track.
        track: TrackId,
        /// Its number.
        seq: u64,
        /// The lowest that it could have had, less one.
        after: u64,
    },
    /// After a gap in the pictures something else than a key frame.
    #[error("relay goes on after a gap with a frame of track {} that is no key frame", .0.0)]
    NotKey(TrackId),
    /// A field says what it cannot.
    #[error("relay {what} {value} is unknown")]
    Value {
        /// Which field.
        what: &'static str,
        /// What it says.
        value: u8,
    },
}
