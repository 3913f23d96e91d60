//! RTMP (Adobe "RTMP 1.0", with Enhanced RTMP v2's `connect` capabilities), server and client.
//!
//! [`wire`] turns bytes into messages and back, [`session`] holds the two dialogues without IO, and [`Mux`] packs frames
//! as RTMP chunks that all viewers share. None of these awaits, looks at a clock or touches a socket; [`Rtmp`], [`pull`] and
//! [`push`] do. What media
//! messages hold is FLV and lives in [`culvert_formats::flv`]. Not here: RTMPE, RTMPT, AMF3 values, shared objects.
#![forbid(unsafe_code)]

mod client;
mod map;
mod server;
pub mod session;
pub mod wire;

pub use client::{ClientError, pull, push};
pub use map::Mux;
pub use server::{Limits, Rtmp};
pub use wire::Error;

/// What a handshake's random part is made of. Nothing depends on it being secret.
fn random() -> [u8; wire::handshake::RANDOM_BYTES] {
    let mut bytes = [0; wire::handshake::RANDOM_BYTES];
    // A system without randomness would still serve.
    getrandom::fill(&mut bytes).ok();
    bytes
}
