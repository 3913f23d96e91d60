//! Sound that becomes Opus: what cameras and encoders send and browsers do not take, G.711 in MP4, AAC and MP3 in WebRTC.
//!
//! What decodes is behind a trait, so that others can take their places; the encoder is opus-pure's.

mod decode;
mod opus;
mod resample;

pub use opus::ToOpus;

use decode::Decode;
use resample::Resampler;
