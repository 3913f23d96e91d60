//! RTSP 1.0 (RFC 2326), server and client, with RTP (RFC 3550) on the connection or in datagrams.
//!
//! [`wire`] turns bytes into messages and back, [`sdp`] reads and writes descriptions, [`session`] holds the server's dialogue without IO, and
//! `map` says in SDP what a track is, and back. None of these awaits, looks at a clock or touches a socket; [`Rtsp`], [`pull`] and [`push`] do.
//! How frames become packets and back is [`culvert_formats::rtp`]'s. Not here: RTSP 2.0 beyond what 1.0 has, multicast, SRTP.
#![forbid(unsafe_code)]

mod client;
mod map;
mod receive;
pub mod sdp;
mod server;
pub mod session;
mod tunnel;
mod udp;
pub mod wire;

pub use client::{ClientError, Prefer, pull, push};
pub use server::{Digests, Limits, REALM, Rtsp};
pub use udp::Udp;
