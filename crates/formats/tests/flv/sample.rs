//! Tracks and frames that pass for real, and shorthands.

use std::time::SystemTime;

use bytes::Bytes;
use culvert_formats::flv::{Demux, Error, Event, Reader, Tag, TagKind};
use culvert_media::{Audio, Codec, Frame, Track, TrackId, Tracks};

pub(crate) const H264_AAC: &[u8] = include_bytes!("../data/h264_aac_whole.flv");
pub(crate) const H265_PCMA: &[u8] = include_bytes!("../data/h265_pcma.flv");

pub(crate) const VIDEO: TrackId = TrackId(0);
pub(crate) const AUDIO: TrackId = TrackId(1);

pub(crate) const VIDEO_CODECS: [Codec; 5] = [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp8, Codec::Vp9];
pub(crate) const AUDIO_CODECS: [Codec; 6] =
    [Codec::Aac, Codec::Opus, Codec::G711A, Codec::G711U, Codec::Mp3, Codec::Flac];

pub(crate) const ASC: [u8; 2] = [0x12, 0x10];
pub(crate) const OPUS_HEAD: &[u8; 19] = b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0";
/// Of ffmpeg 9.0: 48 kHz, stereo, 16 bits.
pub(crate) const STREAMINFO: [u8; 34] = [
    4, 0, 4, 0, 0, 1, 0x51, 0, 1, 0x73, 0x0b, 0xb8, 2, 0xf0, 0, 0, 0x0c, 0, 7, 0xef, 0xcc, 0xfa, 0x4b, 0xbc, 0x42,
    0x30, 0xac, 0x64, 0xc4, 0x11, 0x66, 0x5c, 0xb2, 0x75,
];
/// From libaom, 64x64.
pub(crate) const AV1C: [u8; 16] = [0x81, 0, 0x0c, 0, 0x0a, 0x0a, 0, 0, 0, 2, 0xaf, 0xff, 0x9b, 0x5f, 0x20, 0x08];
pub(crate) const VPCC: [u8; 12] = [1, 0, 0, 0, 0, 10, 0x82, 2, 2, 2, 0, 0];

pub(crate) fn avcc() -> Bytes {
    tags(H264_AAC).unwrap()[1].body.slice(5..)
}

pub(crate) fn hvcc() -> Bytes {
    tags(H265_PCMA).unwrap()[1].body.slice(5..)
}

/// The first video track or the first audio track of this codec.
pub(crate) fn track(codec: Codec) -> Track {
    let g711 = Audio { sample_rate_hz: 8_000, channels: 1 };
    let (id, config) = match codec {
        Codec::H264 => (VIDEO, avcc()),
        Codec::H265 => (VIDEO, hvcc()),
        Codec::Av1 => (VIDEO, Bytes::from_static(&AV1C)),
        Codec::Vp8 => (VIDEO, Bytes::new()),
        Codec::Vp9 => (VIDEO, Bytes::from_static(&VPCC)),
        Codec::Aac => (AUDIO, Bytes::from_static(&ASC)),
        Codec::Opus => (AUDIO, Bytes::from_static(OPUS_HEAD)),
        Codec::Flac => (AUDIO, Bytes::from_static(&STREAMINFO)),
        Codec::G711A | Codec::G711U => return Track::audio(AUDIO, codec, g711),
        Codec::Mp3 => return Track::audio(AUDIO, codec, Audio { sample_rate_hz: 48_000, channels: 2 }),
    };
    Track::new(id, codec, config).unwrap()
}

/// A frame's bytes that pass the checks, with something in them that tells it from others.
pub(crate) fn coded(codec: Codec, key: bool, noise: &[u8]) -> Bytes {
    let unit = |header: &[u8]| {
        let len = u32::try_from(header.len() + noise.len()).unwrap();
        [&len.to_be_bytes(), header, noise].concat()
    };
    let padding = || {
        // OBU_PADDING, its size in LEB128 of two bytes.
        let [high, low] = u16::try_from(noise.len()).unwrap().to_be_bytes();
        let size = [low | 0x80, high << 1 | low >> 7];
        [&[0x7a], &size[..], noise].concat()
    };
    match codec {
        Codec::H264 => unit(if key { &[0x65] } else { &[0x41] }),
        Codec::H265 => unit(if key { &[0x26, 1] } else { &[0x02, 1] }),
        Codec::Av1 if key => {
            let frame = [0x32, 0x0d, 0x10, 0, 0x90, 0, 0, 2, 0, 0, 0x80, 8, 0xfa, 0xe7, 0x40];
            [&AV1C[4..], &frame, &padding()].concat()
        }
        Codec::Av1 => {
            let frame = [0x32, 0x11, 0x30, 3, 0x80, 0x80, 0, 0, 0x46, 0xa8, 0x80, 0, 2, 0x40, 0, 0x20, 0, 0x9c, 0x50];
            [&frame[..], &padding()].concat()
        }
        Codec::Vp8 if key => [&[0x10, 0, 0, 0x9d, 1, 0x2a, 64, 0, 64, 0], noise].concat(),
        Codec::Vp8 => [&[0x11, 0, 0], noise].concat(),
        Codec::Vp9 if key => [&[0x82, 0x49, 0x83, 0x42, 0, 3, 0xf0, 3, 0xf0, 0], noise].concat(),
        Codec::Vp9 => [&[0x86, 0], noise].concat(),
        Codec::Aac => [&[0x21], noise].concat(),
        Codec::Opus => [&[0xfc], noise].concat(),
        Codec::Flac => [&[0xff, 0xf8, 0xaa, 0x88, 0, 0x5b], noise].concat(),
        Codec::Mp3 => [&[0xff, 0xfb, 0x94, 0], noise].concat(),
        Codec::G711A | Codec::G711U => [&[0xd5], noise].concat(),
    }
    .into()
}

pub(crate) fn tags(bytes: &[u8]) -> Result<Vec<Tag>, Error> {
    let mut reader = Reader::new();
    reader.handle_input(bytes);
    let mut tags = Vec::new();
    while let Some(tag) = reader.poll_tag()? {
        tags.push(tag);
    }
    Ok(tags)
}

pub(crate) fn give(demux: &mut Demux, kind: TagKind, time_ms: u32, body: &[u8]) {
    demux.handle_tag(SystemTime::UNIX_EPOCH, kind, time_ms, Bytes::copy_from_slice(body)).unwrap();
}

pub(crate) fn video(demux: &mut Demux, time_ms: u32, parts: &[&[u8]]) {
    give(demux, TagKind::Video, time_ms, &parts.concat());
}

pub(crate) fn audio(demux: &mut Demux, time_ms: u32, parts: &[&[u8]]) {
    give(demux, TagKind::Audio, time_ms, &parts.concat());
}

pub(crate) fn events(demux: &mut Demux) -> Vec<Event> {
    std::iter::from_fn(|| demux.poll_event()).collect()
}

pub(crate) fn frames(events: &[Event]) -> Vec<Frame> {
    events.iter().filter_map(|e| if let Event::Frame(frame) = e { Some(frame.clone()) } else { None }).collect()
}

pub(crate) fn track_sets(events: &[Event]) -> Vec<Tracks> {
    events.iter().filter_map(|e| if let Event::Tracks(tracks) = e { Some(tracks.clone()) } else { None }).collect()
}

/// What has come until now, without waiting for more tracks.
pub(crate) fn flushed(demux: &mut Demux) -> Vec<Event> {
    demux.flush();
    events(demux)
}

/// A whole file.
pub(crate) fn demuxed(bytes: &[u8]) -> (Vec<Event>, u64) {
    let mut demux = Demux::new();
    for tag in tags(bytes).unwrap() {
        demux.handle_tag(SystemTime::UNIX_EPOCH, tag.kind, tag.time_ms, tag.body).unwrap();
    }
    let events = flushed(&mut demux);
    (events, demux.dropped())
}
