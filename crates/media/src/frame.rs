//! The one form in which coded media lives in the hub.

use std::time::SystemTime;

use bytes::Bytes;

use crate::{Time, TrackId};

/// One access unit, immutable and shared: cloning it copies no media.
///
/// `data` is H.26x as NAL units each behind a 4-byte big-endian length (ISO 14496-15), AV1 as OBUs with size fields and
/// without temporal delimiters, VP8/VP9/AAC (raw, no ADTS)/Opus/G.711/MP3 as one codec frame or packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Which of the stream's tracks.
    pub track: TrackId,
    /// Decoding time. Strictly increasing within a track once a frame has passed the hub.
    pub dts: Time,
    /// Presentation time, never before `dts` once a frame has passed the hub.
    pub pts: Time,
    /// A decoder can begin here. True for every audio frame.
    pub key: bool,
    /// The timeline was bent right before this frame: a jump, a restart, a takeover.
    pub discontinuity: bool,
    /// When the frame entered the first node, by that node's wall clock.
    pub wall: SystemTime,
    /// The coded bytes.
    pub data: Bytes,
}
