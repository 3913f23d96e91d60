//! Frames to bytes and back, a folder for each format: [`amf0`] (the values in FLV metadata and RTMP commands), [`flv`],
//! [`fmp4`] (fragmented MP4), [`rtp`], [`ts`] (MPEG transport streams, read), [`sound`] (what becomes Opus), and [`relay`] (our own, from node to node).
//!
//! Pure: no await, no clock, no socket. Protocols (RTMP, HTTP-FLV) are built on these and are not here.
#![forbid(unsafe_code)]

pub mod amf0;
mod elementary;
pub mod flv;
pub mod fmp4;
mod nal;
pub mod relay;
pub mod rtp;
mod sets;
pub mod sound;
pub mod ts;

use culvert_media::{Frame, Tracks};

/// What comes out of a container, or of a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The frames that follow are of these.
    Tracks(Tracks),
    /// An access unit, whole, with the times of where it came from.
    Frame(Frame),
    /// Pictures are missing here: what carried them was lost or damaged.
    Gap,
}
