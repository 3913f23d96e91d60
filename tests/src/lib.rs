//! Whole nodes under test: what a test needs to start one, to bring it media, and to watch and question it from outside.
//!
//! The tests are in `tests/`, a file per subject. They use loopback only. A test that needs a program which is not here
//! says so on standard error, past the harness's capture, and passes. Nobody sleeps to wait for something: what is
//! awaited is looked at until it is there ([`wait`]); sleeping is only how media is paced.
#![forbid(unsafe_code)]

pub mod browser;
pub mod cascade;
pub mod client;
pub mod device;
pub mod ffmpeg;
pub mod http;
pub mod lossy;
pub mod lower;
pub mod media;
pub mod nginx;
pub mod node;
pub mod old;
pub mod pipe;
pub mod rtmp;
pub mod rtsp;
pub mod view;
pub mod wait;
pub mod web;

pub use ffmpeg::Ffmpeg;
pub use node::TestNode;
