//! HLS with fragmented MP4, and low-latency HLS: multivariant and media playlists, segments, parts (RFC 8216 and
//! draft-pantos-hls-rfc8216bis).
//!
//! A stream is cut once for all who watch it, from the first viewer's coming until the last one's leaving; what they fetch is the same bytes.
//! [`pull`] is the other direction: a stream of another server, of MPEG-TS, fragmented MP4 or packed audio, becomes one of ours. Not here:
//! several renditions of a stream, encryption, recordings.
#![forbid(unsafe_code)]

mod bare;
mod body;
mod channel;
mod playlist;
mod pull;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod viewers;
mod window;

pub use pull::{PullError, pull};
pub use server::Hls;
pub use window::Settings;
