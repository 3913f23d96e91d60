//! Tag bodies to packets: which track, which codec, configuration or coded frame (FLV 10.1 E.4.2 and E.4.3; Enhanced
//! RTMP v2 "Enhanced Audio" and "Enhanced Video"). Knows no state and does not look into frames.
#![deny(clippy::indexing_slicing)]

use bytes::{Buf, Bytes};
use culvert_media::{Audio, Codec, Tracks};

use super::Error;

/// What a tag body says.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// To be added to the tag's time.
    pub(super) offset_nanos: u32,
    /// In order; one, unless the tag is a multitrack one. At most [`Tracks::MAX`], and an error.
    pub(super) packets: Vec<Result<Packet, Error>>,
}

/// One packet of one track.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Packet {
    /// Enhanced RTMP's track number; 0 for all that know of none.
    pub(super) number: u8,
    pub(super) codec: Codec,
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// The codec's configuration record.
    Config(Bytes),
    /// A frame; presented `composition_ms` after the tag's time.
    Coded { composition_ms: i32, sound: Option<Audio>, data: Bytes },
    /// No more of this track.
    End,
}

const VIDEO: &str = "video tag";
const AUDIO: &str = "audio tag";
/// FrameType of a frame that is a command to the player, E.4.3.1.
const COMMAND_FRAME: u8 = 5;
/// SoundFormat that Enhanced RTMP took for itself.
const EX_AUDIO: u8 = 9;

/// Reads a video tag's body.
pub(super) fn video(mut body: Bytes) -> Result<Body, Error> {
    let first = byte(&mut body, VIDEO)?;
    let frame_type = first >> 4 & 7;
    if first & 0x80 != 0 {
        return enhanced(VIDEO, first & 0x0f, frame_type == COMMAND_FRAME, body);
    }
    let codec = match (frame_type, first & 0x0f) {
        (COMMAND_FRAME, _) => return Ok(Body::default()),
        (_, 7) => Codec::H264,
        (_, 12) => Codec::H265,
        (_, id) => return Err(Error::OldCodec { what: "video", id }),
    };
    let packet_type = byte(&mut body, VIDEO)?;
    let composition_ms = signed_24(&mut body, VIDEO)?;
    let content = match packet_type {
        0 => Content::Config(body),
        1 => Content::Coded { composition_ms, sound: None, data: body },
        2 => Content::End,
        id => return Err(Error::PacketType { what: "video", id }),
    };
    Ok(Body::one(Packet { number: 0, codec, content }))
}

/// Reads an audio tag's body.
pub(super) fn audio(mut body: Bytes) -> Result<Body, Error> {
    let first = byte(&mut body, AUDIO)?;
    let channels = 1 + (first & 1);
    // The rate bits cannot say 8 kHz and encoders put anything there; G.711 is 8 kHz (RFC 3551 4.5.14).
    let g711 = Some(Audio { sample_rate_hz: 8_000, channels });
    let (codec, sound) = match first >> 4 {
        EX_AUDIO => return enhanced(AUDIO, first & 0x0f, false, body),
        10 => {
            let content = match byte(&mut body, AUDIO)? {
                0 => Content::Config(body),
                1 => Content::Coded { composition_ms: 0, sound: None, data: body },
                id => return Err(Error::PacketType { what: "audio", id }),
            };
            return Ok(Body::one(Packet { number: 0, codec: Codec::Aac, content }));
        }
        2 | 14 => (Codec::Mp3, None),
        7 => (Codec::G711A, g711),
        8 => (Codec::G711U, g711),
        id => return Err(Error::OldCodec { what: "audio", id }),
    };
    let content = Content::Coded { composition_ms: 0, sound, data: body };
    Ok(Body::one(Packet { number: 0, codec, content }))
}

impl Body {
    fn one(packet: Packet) -> Body {
        Body { offset_nanos: 0, packets: vec![Ok(packet)] }
    }
}

/// What a packet holds; audio and video number it differently in part.
#[derive(Clone, Copy, PartialEq)]
enum PacketType {
    SequenceStart,
    CodedFrames,
    SequenceEnd,
    CodedFramesX,
    /// HDR metadata, AV1 for MPEG-TS, channel layout: known, and not for us.
    Ignored,
    Multitrack,
    ModEx,
}

impl PacketType {
    fn new(what: &'static str, id: u8) -> Result<PacketType, Error> {
        match (what, id) {
            (_, 0) => Ok(PacketType::SequenceStart),
            (_, 1) => Ok(PacketType::CodedFrames),
            (_, 2) => Ok(PacketType::SequenceEnd),
            (VIDEO, 3) => Ok(PacketType::CodedFramesX),
            (_, 4) | (VIDEO, 5) => Ok(PacketType::Ignored),
            (VIDEO, 6) | (AUDIO, 5) => Ok(PacketType::Multitrack),
            (_, 7) => Ok(PacketType::ModEx),
            _ => Err(Error::PacketType { what, id }),
        }
    }
}

/// ExVideoTagHeader and ExVideoTagBody, ExAudioTagHeader and ExAudioTagBody, behind their first byte.
fn enhanced(what: &'static str, packet_type: u8, command: bool, mut rest: Bytes) -> Result<Body, Error> {
    let mut body = Body::default();
    let mut packet_type = PacketType::new(what, packet_type)?;
    // Each turn eats three bytes at least, so a tag bounds it.
    while packet_type == PacketType::ModEx {
        let mut size = usize::from(byte(&mut rest, what)?) + 1;
        if size == 256 {
            size = usize::from(rest.try_get_u16().map_err(|_| Error::Short(what))?) + 1;
        }
        let data = take(&mut rest, size, what)?;
        let next = byte(&mut rest, what)?;
        // TimestampOffsetNano; other modifiers may come and are to be passed over.
        if let (0, Some(&[n2, n1, n0])) = (next >> 4, data.first_chunk()) {
            body.offset_nanos = u32::from_be_bytes([0, n2, n1, n0]);
        }
        packet_type = PacketType::new(what, next & 0x0f)?;
    }
    if packet_type == PacketType::Ignored || command {
        return Ok(body);
    }
    if packet_type != PacketType::Multitrack {
        let codec = codec(what, &mut rest)?;
        body.packets.extend(packet(what, 0, codec, packet_type, rest).transpose());
        return Ok(body);
    }

    // A list that goes wrong does not take with it what came before.
    if let Err(error) = multitrack(what, rest, &mut body.packets) {
        body.packets.push(Err(error));
    }
    Ok(body)
}

/// The list of tracks of a multitrack body.
fn multitrack(what: &'static str, mut rest: Bytes, packets: &mut Vec<Result<Packet, Error>>) -> Result<(), Error> {
    // AvMultitrackType: 0 one track, 1 many tracks, 2 many tracks and each its own codec.
    let types = byte(&mut rest, what)?;
    let packet_type = PacketType::new(what, types & 0x0f)?;
    let many = match types >> 4 {
        0 => false,
        1 | 2 => true,
        id => return Err(Error::PacketType { what, id }),
    };
    let common = if types >> 4 == 2 { None } else { Some(codec(what, &mut rest)?) };
    loop {
        // Of a codec that is not ours the size is still to be read; of one that is cut off there is none.
        let codec = match common {
            Some(codec) => Ok(codec),
            None => match codec(what, &mut rest) {
                Err(error @ Error::Short(_)) => return Err(error),
                other => other,
            },
        };
        let number = byte(&mut rest, what)?;
        let data = if many {
            let [s2, s1, s0] = bytes_24(&mut rest, what)?;
            take(&mut rest, u32::from_be_bytes([0, s2, s1, s0]) as usize, what)?
        } else {
            std::mem::take(&mut rest)
        };
        if packets.len() >= Tracks::MAX {
            return Err(Error::TooManyTracks(number));
        }
        let packet = codec.and_then(|codec| packet(what, number, codec, packet_type, data));
        packets.extend(packet.transpose());
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// One track's part of an enhanced body; none if it is of no concern.
fn packet(
    what: &'static str,
    number: u8,
    codec: Codec,
    packet_type: PacketType,
    mut data: Bytes,
) -> Result<Option<Packet>, Error> {
    let content = match packet_type {
        PacketType::SequenceStart => Content::Config(data),
        PacketType::SequenceEnd => Content::End,
        PacketType::CodedFrames => {
            let composition_ms =
                if matches!(codec, Codec::H264 | Codec::H265) { signed_24(&mut data, what)? } else { 0 };
            Content::Coded { composition_ms, sound: None, data }
        }
        PacketType::CodedFramesX => Content::Coded { composition_ms: 0, sound: None, data },
        PacketType::Ignored => return Ok(None),
        // Neither may stand inside a multitrack packet.
        PacketType::Multitrack => return Err(Error::PacketType { what, id: 6 }),
        PacketType::ModEx => return Err(Error::PacketType { what, id: 7 }),
    };
    Ok(Some(Packet { number, codec, content }))
}

/// Takes a FourCC.
fn codec(what: &'static str, rest: &mut Bytes) -> Result<Codec, Error> {
    let four: [u8; 4] = *rest.first_chunk().ok_or(Error::Short(what))?;
    rest.advance(4);
    match (what, &four) {
        (VIDEO, b"avc1") => Ok(Codec::H264),
        (VIDEO, b"hvc1") => Ok(Codec::H265),
        (VIDEO, b"av01") => Ok(Codec::Av1),
        (VIDEO, b"vp08") => Ok(Codec::Vp8),
        (VIDEO, b"vp09") => Ok(Codec::Vp9),
        (AUDIO, b"mp4a") => Ok(Codec::Aac),
        (AUDIO, b"Opus") => Ok(Codec::Opus),
        (AUDIO, b".mp3") => Ok(Codec::Mp3),
        (AUDIO, b"fLaC") => Ok(Codec::Flac),
        _ => Err(Error::FourCc(four)),
    }
}

fn byte(rest: &mut Bytes, what: &'static str) -> Result<u8, Error> {
    rest.try_get_u8().map_err(|_| Error::Short(what))
}

fn bytes_24(rest: &mut Bytes, what: &'static str) -> Result<[u8; 3], Error> {
    let three = *rest.first_chunk().ok_or(Error::Short(what))?;
    rest.advance(3);
    Ok(three)
}

fn signed_24(rest: &mut Bytes, what: &'static str) -> Result<i32, Error> {
    let [b2, b1, b0] = bytes_24(rest, what)?;
    Ok(i32::from_be_bytes([b2, b1, b0, 0]) >> 8)
}

fn take(rest: &mut Bytes, size: usize, what: &'static str) -> Result<Bytes, Error> {
    if size > rest.len() { Err(Error::Short(what)) } else { Ok(rest.split_to(size)) }
}
