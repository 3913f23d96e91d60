//! HLS with fragmented MP4, and low-latency HLS: multivariant and media playlists, segments, parts (RFC 8216 and
//! draft-pantos-hls-rfc8216bis).
//!
//! A stream is cut once for all who watch it, from the first viewer's coming until the last one's leaving; what they fetch is the same bytes. Not
//! here: MPEG-TS, several renditions, encryption, recordings.
#![forbid(unsafe_code)]

mod body;
mod channel;
mod playlist;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod viewers;
mod window;

pub use server::Hls;
pub use window::Settings;
