//! Sound that becomes other sound: what cameras, encoders and browsers send and others do not take. G.711 becomes Opus in MP4; AAC and MP3 become Opus
//! in WebRTC; Opus becomes AAC in FLV and RTMP for those who do not know it, and in HLS, as G.711 does there.
//!
//! What decodes and what encodes is behind a trait each, so that others can take their places; the encoders are opus-pure's and syom's.

mod aac;
mod decode;
mod encode;
mod join;
mod resample;
mod transcoder;

pub use aac::{InAac, NamedInAac, Player, WithAac};
pub use join::Joiner;
pub use transcoder::Transcoder;

use decode::Decode;
use encode::Encode;
use resample::Resampler;
