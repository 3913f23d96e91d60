//! A key frame becomes a picture. Pure, and slow: tens of milliseconds.

use culvert_media::codec::h264::{self, Colour};
use culvert_media::codec::{h265, nal};
use culvert_media::{Codec, StreamName, Track};

use crate::Failure;
use crate::decoders::{Decoders, Kept};

/// Most pixels of a picture: 4096 x 4096, above which a decoder takes more than 50 MB.
const MOST_PIXELS: u64 = 1 << 24;
/// Most pixels of a picture whose decoder is kept: 2560 x 1600 and some, which hold 30 MB.
const KEPT_PIXELS: usize = 1 << 22;
/// Table 7-1 of H.264: a slice of an IDR picture.
const H264_IDR: u8 = 5;
/// Table 7-1 of H.264, and of H.265: parameter sets.
const H264_SETS: std::ops::RangeInclusive<u8> = 7..=8;
const H265_SETS: std::ops::RangeInclusive<u8> = 32..=34;

/// A picture of 4:2:0 with eight bits a sample; no row is padded.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    /// In pixels.
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) y: Vec<u8>,
    /// Half as wide and half as high, rounded up; so is `v`.
    pub(crate) u: Vec<u8>,
    pub(crate) v: Vec<u8>,
    pub(crate) colour: Colour,
}

impl Picture {
    /// Columns and rows of `u` and `v`.
    pub(crate) fn chroma_size(&self) -> (usize, usize) {
        (self.width.div_ceil(2), self.height.div_ceil(2))
    }
}

/// Decodes a key frame of a track of this stream.
pub(crate) fn decode(
    track: &Track,
    frame: &[u8],
    stream: &StreamName,
    decoders: &Decoders,
) -> Result<Picture, Failure> {
    match track.codec {
        // A recovery point that is no IDR picture leaves what was before it in the decoder.
        Codec::H264 if has_idr(frame) => {
            with_kept(&decoders.h264, stream, |decoder| decode_h264(&track.config, frame, decoder))
        }
        Codec::H264 => decode_h264(&track.config, frame, &mut rusty_h264::Decoder::new()),
        Codec::H265 => with_kept(&decoders.h265, stream, |decoder| decode_h265(&track.config, frame, decoder)),
        Codec::Av1
        | Codec::Vp8
        | Codec::Vp9
        | Codec::Aac
        | Codec::Opus
        | Codec::G711A
        | Codec::G711U
        | Codec::Mp3
        | Codec::Flac => Err(Failure::Codec(track.codec.name())),
    }
}

/// Decodes with the stream's own decoder. One that has failed is not used again.
fn with_kept<D: Default>(
    kept: &Kept<D>,
    stream: &StreamName,
    decode: impl FnOnce(&mut D) -> Result<Picture, Failure>,
) -> Result<Picture, Failure> {
    let mut decoder = kept.take(stream);
    let picture = decode(&mut decoder)?;
    if picture.width * picture.height <= KEPT_PIXELS {
        kept.keep(stream, decoder);
    }
    Ok(picture)
}

fn has_idr(frame: &[u8]) -> bool {
    nal::units(frame).flatten().any(|unit| unit.first().is_some_and(|header| header & 0x1f == H264_IDR))
}

fn decode_h264(record: &[u8], frame: &[u8], decoder: &mut rusty_h264::Decoder) -> Result<Picture, Failure> {
    let config = h264::Config::parse(record).map_err(broken)?;
    // Which of them a picture takes, it says itself: each must be within bounds.
    let all: Result<Vec<h264::Sps>, _> = config.sps.iter().map(|set| h264::Sps::parse(set)).collect();
    let all = all.map_err(broken)?;
    all.iter().try_for_each(|sps| within_bounds(sps.coded_width, sps.coded_height))?;
    let sps = all.first().ok_or(Failure::Broken("no SPS".into()))?;
    let sets = config.sps.iter().chain(&config.pps);
    let stream = stream(sets.map(|set| &set[..]), frame, |header| H264_SETS.contains(&(header & 0x1f)))?;
    let picture = decoder.decode(&stream).map_err(|why| match why {
        rusty_h264::DecodeError::Unsupported(what) => Failure::Unsupported(what.into()),
        rusty_h264::DecodeError::Truncated
        | rusty_h264::DecodeError::MissingParameterSet
        | rusty_h264::DecodeError::Internal(_) => Failure::Broken(why.to_string()),
    })?;
    let picture = picture.ok_or(Failure::Broken("no picture in the key frame".into()))?;
    let (width, height) = (picture.width, picture.height);
    checked(Picture { width, height, y: picture.y, u: picture.u, v: picture.v, colour: sps.colour })
}

fn decode_h265(record: &[u8], frame: &[u8], decoder: &mut rusty_h265::Decoder) -> Result<Picture, Failure> {
    let config = h265::Config::parse(record).map_err(broken)?;
    let all: Result<Vec<h265::Sps>, _> = config.sps.iter().map(|set| h265::Sps::parse(set)).collect();
    let all = all.map_err(broken)?;
    all.iter().try_for_each(|sps| within_bounds(sps.coded_width, sps.coded_height))?;
    let sps = all.first().ok_or(Failure::Broken("no SPS".into()))?;
    let sets = config.vps.iter().chain(&config.sps).chain(&config.pps);
    let stream = stream(sets.map(|set| &set[..]), frame, |header| H265_SETS.contains(&(header >> 1 & 0x3f)))?;
    let refused = |why: rusty_h265::Error| {
        if let rusty_h265::Error::Unsupported(what) = why {
            return Failure::Unsupported(what.to_string());
        }
        Failure::Broken(why.to_string())
    };
    decoder.push_annexb(&stream, None).map_err(refused)?;
    decoder.flush();
    let found = decoder.next_frame().map_err(refused)?;
    // Of its own and of no other picture.
    while decoder.next_frame().is_ok() {}
    let (depth, (width, height), picture) = (found.bit_depth(), (found.width, found.height), &*found.picture);
    if picture.chroma_format_idc != 1 {
        return Err(Failure::Unsupported("colours that are not 4:2:0".into()));
    }
    let [y, u, v] = &picture.planes;
    let (left, top, ..) = picture.crop;
    let plane = |from: &rusty_h265::Plane, left: usize, top: usize, width: usize, height: usize| {
        let rows = from.data.chunks_exact(from.stride.max(1)).skip(top).take(height);
        let mut out = Vec::with_capacity(width * height);
        for row in rows {
            let row = row.get(left..left + width).unwrap_or_default();
            // Apart, and without a check of the shift for each: so that many are done at once.
            match depth.saturating_sub(8) {
                0 => out.extend(row.iter().map(|sample| *sample as u8)),
                more => out.extend(row.iter().map(|sample| sample.wrapping_shr(more.into()) as u8)),
            }
        }
        out
    };
    let (columns, rows) = (width.div_ceil(2), height.div_ceil(2));
    let y = plane(y, left, top, width, height);
    let [u, v] = [u, v].map(|from| plane(from, left / 2, top / 2, columns, rows));
    checked(Picture { width, height, y, u, v, colour: sps.colour })
}

fn broken(why: impl ToString) -> Failure {
    Failure::Broken(why.to_string())
}

fn within_bounds(width: u32, height: u32) -> Result<(), Failure> {
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(Failure::TooLarge(width, height));
    }
    Ok(())
}

/// What a decoder reads: parameter sets of the record, and of the frame all but its own, which could ask for another size.
fn stream<'a>(
    sets: impl Iterator<Item = &'a [u8]>,
    frame: &[u8],
    is_set: impl Fn(u8) -> bool,
) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::with_capacity(frame.len() + 1024);
    let mut put = |unit: &[u8]| {
        out.extend_from_slice(&[0, 0, 0, 1]);
        out.extend_from_slice(unit);
    };
    sets.for_each(&mut put);
    for unit in nal::units(frame) {
        let unit = unit.map_err(broken)?;
        if !unit.first().is_some_and(|header| is_set(*header)) {
            put(unit);
        }
    }
    Ok(out)
}

/// What the planes say of their sizes is relied upon from here on.
fn checked(picture: Picture) -> Result<Picture, Failure> {
    let (columns, rows) = picture.chroma_size();
    let whole = picture.y.len() >= picture.width * picture.height
        && picture.u.len() >= columns * rows
        && picture.v.len() >= columns * rows;
    if !whole || picture.width == 0 || picture.height == 0 {
        return Err(Failure::Broken("the picture is not whole".into()));
    }
    Ok(picture)
}
