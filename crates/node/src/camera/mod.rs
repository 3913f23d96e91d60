//! The test camera: [`Clip`] is what it shows, [`Camera`] shows it in real time.

mod clip;
mod feed;

pub use clip::{AudioChoice, Clip, Frames, VideoChoice};
pub use feed::Camera;
