//! Frames to bytes and back, a folder for each format: [`amf0`] (the values in FLV metadata and RTMP commands), [`flv`],
//! [`fmp4`] (fragmented MP4), [`rtp`], and [`relay`] (our own, from node to node).
//!
//! Pure: no await, no clock, no socket. Protocols (RTMP, HTTP-FLV) are built on these and are not here.
#![forbid(unsafe_code)]

pub mod amf0;
pub mod flv;
pub mod fmp4;
pub mod relay;
pub mod rtp;
