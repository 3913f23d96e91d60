//! Frames to RTP packets and back (RFC 3550 and the payload formats), and RTCP.
//!
//! [`Mux`] cuts frames into packets once for all viewers of a stream, RTSP and WebRTC alike; [`Receiver`] puts packets in order and
//! gathers access units, of which a torn one never comes out. Sessions, sockets and SDP are protocols' business.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod clock;
mod cut;
mod depay;
mod dts;
pub mod feedback;
mod mux;
mod packet;
mod pay;
mod receive;
mod reorder;
pub mod rtcp;

pub use clock::{Sync, Unwrap};
pub use cut::{Cutter, Payload};
pub use depay::{Depacketizer, Format};
pub use mux::{Framed, Line, Mux, TRACKS, carried, framed};
pub use packet::{HEADER_BYTES, Packet, is_rtcp};
pub use receive::{Media, Receiver};
pub use reorder::Reorder;

use thiserror::Error;

/// Why a packet, or what was gathered of several, was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The bytes end before the syntax does.
    #[error("{0} ends too early")]
    Short(&'static str),
    /// A value that is not allowed, or beyond our bounds.
    #[error("{what} says {value}, which is not allowed")]
    Value {
        /// Which field.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// An access unit is larger than 8 MiB or in more than 8,192 packets (security.md S21).
    #[error("an access unit is larger than it may be")]
    Large,
    /// A configuration that is none.
    #[error(transparent)]
    Codec(#[from] culvert_media::CodecError),
}

/// The AudioSpecificConfig within a StreamMuxConfig: `config=` of `MP4A-LATM` (RFC 6416 7.3).
pub fn latm_config(config: &[u8]) -> Result<Vec<u8>, Error> {
    depay::config_of_mux(config)
}
