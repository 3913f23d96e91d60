//! A fuzz target per parser: a function that takes any bytes and panics when the parser breaks a promise.
//!
//! The promises are more than not to panic: however the bytes are split, the same comes out (see [`split`]); what was
//! read and written is read again as the same; nothing is held or given out beyond its bound; a second reader agrees.
//!
//! The targets are plain functions, so that three can call them: `tests/replay.rs` on stable Rust with the seeds in
//! `corpus/` (part of `cargo test`), libFuzzer through `run/`, and whoever has a file that broke something. Memory as
//! such is for libFuzzer's `-rss_limit_mb` and `-malloc_limit_mb`.

mod amf0;
mod codec;
mod flv;
mod m7s;
mod node;
mod relay;
mod rtmp;
mod rtp;
mod rtsp;
mod segments;
pub mod split;
mod webrtc;

/// A target's name and itself.
pub type Target = (&'static str, fn(&[u8]));

/// The targets, by the names of their folders in `corpus/` and of their programs in `run/`.
pub const TARGETS: &[Target] = &[
    ("amf0", amf0::amf0),
    ("annexb", codec::annexb),
    ("config_file", node::config_file),
    ("config_records", codec::config_records),
    ("door_sniffer", node::door_sniffer),
    ("flv", flv::flv),
    ("frames", codec::frames),
    ("m7s_control", m7s::m7s_control),
    ("m7s_doubled", m7s::m7s_doubled),
    ("m7s_proxy_url", m7s::m7s_proxy_url),
    ("mp4", segments::mp4),
    ("relay", relay::relay),
    ("rtcp", rtp::rtcp),
    ("rtmp_chunks", rtmp::rtmp_chunks),
    ("rtmp_handshake", rtmp::rtmp_handshake),
    ("rtmp_session", rtmp::rtmp_session),
    ("rtp_depacketise", rtp::rtp_depacketise),
    ("rtp_round_trip", rtp::rtp_round_trip),
    ("rtsp_headers", rtsp::rtsp_headers),
    ("rtsp_messages", rtsp::rtsp_messages),
    ("sdp", rtsp::sdp),
    ("sps264", codec::sps264),
    ("sps265", codec::sps265),
    ("stun", webrtc::stun),
    ("ts", segments::ts),
    ("webrtc_offer", webrtc::offer),
];
