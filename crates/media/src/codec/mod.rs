//! The codecs' own configuration records and bit streams, as far as a server must read them.
//!
//! Bounds are those of security.md S22: parameter sets at most 64 KiB, pictures at most 16,384 a side, Exp-Golomb codes
//! at most 32 zero bits, counts as the specifications bound them. Nothing is half read: a record parses whole or is
//! refused.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod aac;
pub mod av1;
pub mod bits;
mod disposable;
pub mod flac;
pub mod h264;
pub mod h265;
pub mod mp3;
pub mod nal;
pub mod opus;
pub mod vp8;
pub mod vp9;

use bytes::Bytes;
use thiserror::Error;

use crate::{Audio, Codec, Detail, Video};

pub use disposable::is_disposable;

/// Why a configuration record or a frame was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    /// The bytes end before the syntax does.
    #[error("{0} ends too early")]
    Short(&'static str),
    /// A value that the specification does not allow, or that is beyond our bounds.
    #[error("{what} says {value}, which is not allowed")]
    Value {
        /// Which syntax element.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// The codec needs a configuration record and there is none.
    #[error("{0} needs a configuration record")]
    Missing(&'static str),
    /// The frame is well formed but has no coded picture in it (parameter sets, SEI or delimiters alone): to be dropped.
    #[error("the frame has no coded picture")]
    NoPicture,
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// A decoder can begin here.
    pub key: bool,
}

/// Largest width and height of a picture, in pixels (security.md S22).
const MAX_SIDE: u32 = 16_384;
/// Frames per second that are still believed; above it is a broken clock.
const MAX_FPS: f64 = 1000.0;

/// Reads what a configuration record says of its track. See [`crate::Track::new`].
///
/// VP8 and VP9 records say no picture size, and VP8, VP9, G.711 and MP3 may come without one: G.711 is then taken as
/// 8,000 Hz mono and MP3 as 44,100 Hz stereo. The sample rate of Opus is always 48,000 Hz, its decoders' own.
///
/// A record that announces NAL unit lengths of 1 or 2 bytes is refused, since it contradicts [`crate::Frame`]: parse it
/// with [`h264::Config`] or [`h265::Config`], bring the frames into form with [`nal::relength`], set `length_size` to 4
/// and write it.
pub fn parse_config(codec: Codec, config: &[u8]) -> Result<Detail, CodecError> {
    let needs = || if config.is_empty() { Err(CodecError::Missing(codec.name())) } else { Ok(()) };
    match codec {
        Codec::H264 => {
            needs()?;
            let config = h264::Config::parse(config)?;
            canonical(config.length_size)?;
            let sps = h264::Sps::parse(config.sps.first().ok_or(CodecError::Missing("H.264 (an SPS)"))?)?;
            Ok(Detail::Video(Video { width: sps.width, height: sps.height, fps: sps.fps }))
        }
        Codec::H265 => {
            needs()?;
            let config = h265::Config::parse(config)?;
            canonical(config.length_size)?;
            let sps = h265::Sps::parse(config.sps.first().ok_or(CodecError::Missing("H.265 (an SPS)"))?)?;
            Ok(Detail::Video(Video { width: sps.width, height: sps.height, fps: sps.fps }))
        }
        Codec::Av1 => {
            needs()?;
            let header = av1::Config::parse(config)?.sequence_header()?;
            let video = header.map(|h| Video { width: h.width, height: h.height, fps: h.fps });
            Ok(Detail::Video(video.unwrap_or_default()))
        }
        Codec::Vp9 => {
            if !config.is_empty() {
                vp9::Config::parse(config)?;
            }
            Ok(Detail::Video(Video::default()))
        }
        Codec::Vp8 => Ok(Detail::Video(Video::default())),
        Codec::Aac => {
            needs()?;
            let config = aac::Config::parse(config)?;
            Ok(Detail::Audio(Audio { sample_rate_hz: config.sample_rate_hz, channels: config.channels }))
        }
        Codec::Opus => {
            needs()?;
            let head = opus::Head::parse(config)?;
            Ok(Detail::Audio(Audio { sample_rate_hz: opus::CLOCK_HZ, channels: head.channels }))
        }
        Codec::G711A | Codec::G711U => Ok(Detail::Audio(Audio { sample_rate_hz: 8000, channels: 1 })),
        Codec::Mp3 => Ok(Detail::Audio(Audio { sample_rate_hz: 44_100, channels: 2 })),
        Codec::Flac => {
            needs()?;
            Ok(Detail::Audio(flac::StreamInfo::parse(config)?.audio))
        }
    }
}

fn canonical(length_size: usize) -> Result<(), CodecError> {
    match length_size {
        4 => Ok(()),
        size => Err(CodecError::Value { what: "NAL length size of a track's record", value: size as u64 }),
    }
}

/// Checks a frame's structure in the canonical form of [`crate::Frame`], and says whether a decoder can begin there.
///
/// Lengths and headers are walked, coded pictures are not read. [`CodecError::NoPicture`] is a frame that may be dropped
/// without harm; every other error is a damaged one.
pub fn check_frame(codec: Codec, data: &[u8]) -> Result<FrameInfo, CodecError> {
    if data.is_empty() {
        return Err(CodecError::Short("frame"));
    }
    match codec {
        Codec::H264 => h264::check_frame(data),
        Codec::H265 => h265::check_frame(data),
        Codec::Av1 => av1::check_frame(data),
        Codec::Vp8 => Ok(FrameInfo { key: vp8::Header::parse(data)?.key }),
        Codec::Vp9 => Ok(FrameInfo { key: vp9::Header::parse(data)?.key }),
        Codec::Aac | Codec::Opus | Codec::G711A | Codec::G711U | Codec::Mp3 => Ok(FrameInfo { key: true }),
        Codec::Flac => flac::frame_samples(data).map(|_| FrameInfo { key: true }),
    }
}

/// `side` without `before` and `after` times `unit`; something must be left.
fn crop(side: u32, before: u32, after: u32, unit: u32) -> Result<u32, CodecError> {
    let cut = before.checked_add(after).and_then(|cut| cut.checked_mul(unit));
    match cut.and_then(|cut| side.checked_sub(cut)) {
        Some(left) if left > 0 => Ok(left),
        _ => Err(CodecError::Value { what: "picture cropping", value: u64::from(before).max(u64::from(after)) }),
    }
}

/// `frames` in `seconds`, if that is a rate and not nonsense.
fn fps(frames: f64, seconds: f64) -> Option<f64> {
    let fps = frames / seconds;
    (fps > 0.0 && fps <= MAX_FPS).then_some(fps)
}

/// A reader of whole bytes for configuration records.
struct Slices<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Slices<'a> {
    fn new(what: &'static str, rest: &'a [u8]) -> Slices<'a> {
        Slices { rest, what }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError::Short(self.what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CodecError::Short(self.what))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, CodecError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// A parameter set behind its 16-bit length; an empty one is refused.
    fn unit(&mut self) -> Result<Bytes, CodecError> {
        let length = self.u16()?;
        if length == 0 {
            return Err(CodecError::Value { what: "parameter set length", value: 0 });
        }
        Ok(Bytes::copy_from_slice(self.take(usize::from(length))?))
    }
}

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
