//! The newest key frame of a stream as a JPEG: decoded in this process, once for all who ask.
//!
//! Not here: pictures of AV1, VP8 and VP9, of interlaced H.264, recordings.
#![forbid(unsafe_code)]

mod cache;
mod decode;
mod decoders;
mod jpeg;
mod server;

pub use server::{Elsewhere, Failure, Snapshots};
