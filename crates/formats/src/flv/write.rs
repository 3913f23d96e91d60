//! Frames to tag bodies: for FLV tags and for RTMP messages alike. One video and one audio track; FLV of old cannot
//! carry more, and few players read Enhanced RTMP's multitrack form.

use std::ops::Deref;

use bytes::Bytes;
use culvert_media::{Audio, Codec, Frame, Time, Track, Tracks};

use super::{MAX_TAG_BYTES, TagKind};
use crate::amf0::Value;

/// What stands before the coded bytes in a tag body. At most 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    bytes: [u8; Prefix::MAX],
    len: u8,
}

impl Prefix {
    /// Video by FourCC: a byte, the FourCC, the composition time.
    const MAX: usize = 8;

    fn new(parts: &[&[u8]]) -> Prefix {
        let mut bytes = [0; Prefix::MAX];
        let mut len = 0u8;
        for (to, from) in bytes.iter_mut().zip(parts.iter().copied().flatten()) {
            *to = *from;
            len += 1;
        }
        Prefix { bytes, len }
    }
}

impl Deref for Prefix {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).expect("counted while filling")
    }
}

/// A tag: its body is `prefix` and then `payload`.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// Audio or video.
    pub kind: TagKind,
    /// Milliseconds, wrapping at 2^32.
    pub time_ms: u32,
    /// What FLV puts before the frame.
    pub prefix: Prefix,
    /// The frame's own bytes, shared.
    pub payload: Bytes,
}

/// Makes tag bodies for the first video and the first audio track.
#[derive(Clone, Debug, PartialEq)]
pub struct TagWriter {
    video: Option<Track>,
    audio: Option<Track>,
}

impl TagWriter {
    /// For these tracks.
    pub fn new(tracks: &Tracks) -> TagWriter {
        TagWriter { video: tracks.video().cloned(), audio: tracks.audio().cloned() }
    }

    /// There is a video track.
    pub fn has_video(&self) -> bool {
        self.video.is_some()
    }

    /// There is an audio track.
    pub fn has_audio(&self) -> bool {
        self.audio.is_some()
    }

    /// The body of the `onMetaData` script tag: two AMF0 values. RTMP puts `@setDataFrame` before it.
    pub fn metadata(&self) -> Vec<u8> {
        let mut properties: Vec<(&str, Value)> = Vec::new();
        if let Some(track) = &self.video {
            if let Some(video) = track.video() {
                if video.width > 0 && video.height > 0 {
                    properties.push(("width", f64::from(video.width).into()));
                    properties.push(("height", f64::from(video.height).into()));
                }
                properties.extend(video.fps.map(|fps| ("framerate", fps.into())));
            }
            properties.push(("videocodecid", f64::from(codec_number(track)).into()));
        }
        if let Some(track) = &self.audio {
            properties.push(("audiocodecid", f64::from(codec_number(track)).into()));
            if let Some(sound) = track.sound() {
                properties.push(("audiosamplerate", f64::from(sound.sample_rate_hz).into()));
                properties.push(("audiochannels", f64::from(sound.channels).into()));
                properties.push(("stereo", (sound.channels > 1).into()));
            }
        }
        properties.push(("encoder", "culvert".into()));
        let mut body = Vec::new();
        Value::from("onMetaData").encode(&mut body);
        Value::EcmaArray(properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            .encode(&mut body);
        body
    }

    /// The bodies of the tags that configure the decoders: none for codecs that need none.
    pub fn sequence_headers(&self) -> Vec<(TagKind, Vec<u8>)> {
        let video = self.video.as_ref().and_then(video_header).map(|body| (TagKind::Video, body));
        let audio = self.audio.as_ref().and_then(audio_header).map(|body| (TagKind::Audio, body));
        video.into_iter().chain(audio).collect()
    }

    /// The tag of a frame. None if its track is not carried, or if it is larger than a tag can be.
    pub fn frame(&self, frame: &Frame) -> Option<Parts> {
        let of = |track: &Option<Track>| track.as_ref().is_some_and(|track| track.id == frame.track);
        let (kind, prefix) = if of(&self.video) {
            (TagKind::Video, video_prefix(self.video.as_ref()?.codec, frame)?)
        } else if of(&self.audio) {
            (TagKind::Audio, audio_prefix(self.audio.as_ref()?)?)
        } else {
            return None;
        };
        if prefix.len() + frame.data.len() > MAX_TAG_BYTES {
            return None;
        }
        Some(Parts { kind, time_ms: wrapped_ms(frame.dts), prefix, payload: frame.data.clone() })
    }
}

/// Milliseconds on the wire: the low 32 bits.
pub(super) fn wrapped_ms(time: Time) -> u32 {
    let [_, _, _, _, b3, b2, b1, b0] = time.millis().to_be_bytes();
    u32::from_be_bytes([b3, b2, b1, b0])
}

/// How a codec is named in a tag.
#[derive(Clone, Copy)]
enum Naming {
    /// SoundFormat or CodecID.
    Old(u8),
    FourCc([u8; 4]),
}

fn naming(track: &Track) -> Naming {
    match track.codec {
        Codec::H264 => Naming::Old(7),
        Codec::H265 => Naming::FourCc(*b"hvc1"),
        Codec::Av1 => Naming::FourCc(*b"av01"),
        Codec::Vp8 => Naming::FourCc(*b"vp08"),
        Codec::Vp9 => Naming::FourCc(*b"vp09"),
        Codec::Aac => Naming::Old(10),
        Codec::Opus => Naming::FourCc(*b"Opus"),
        Codec::G711A => Naming::Old(7),
        Codec::G711U => Naming::Old(8),
        // 14 is MP3 at 8 kHz, a rate that the flags cannot say.
        Codec::Mp3 if track.sound().is_some_and(|sound| sound.sample_rate_hz == 8_000) => Naming::Old(14),
        Codec::Mp3 => Naming::Old(2),
        Codec::Flac => Naming::FourCc(*b"fLaC"),
    }
}

/// As `videocodecid` and `audiocodecid` have it.
fn codec_number(track: &Track) -> u32 {
    match naming(track) {
        Naming::Old(id) => u32::from(id),
        Naming::FourCc(four) => u32::from_be_bytes(four),
    }
}

const KEY_FRAME: u8 = 1;
const INTER_FRAME: u8 = 2;
const EX_VIDEO: u8 = 0x80;
const EX_AUDIO: u8 = 0x90;
/// Packet types, the same for video and audio.
const SEQUENCE_START: u8 = 0;
const CODED_FRAMES: u8 = 1;
/// Video only: without composition time.
const CODED_FRAMES_X: u8 = 3;
/// SoundFormat 10, and flags that are to be 44 kHz, 16 bits, stereo whatever it is.
const AAC_FLAGS: u8 = 0xaf;

/// vpcC with version and flags: profile 0, no level, 8 bits, 4:2:0, colours unspecified. Says of any VP8 what there is
/// to say.
const VP8_RECORD: [u8; 12] = [1, 0, 0, 0, 0, 0, 0x82, 2, 2, 2, 0, 0];

fn video_header(track: &Track) -> Option<Vec<u8>> {
    let record: &[u8] = if track.codec == Codec::Vp8 { &VP8_RECORD } else { &track.config };
    if record.is_empty() {
        return None;
    }
    Some(match naming(track) {
        Naming::Old(id) => [&[KEY_FRAME << 4 | id, 0, 0, 0, 0], record].concat(),
        Naming::FourCc(four) => [&[EX_VIDEO | KEY_FRAME << 4 | SEQUENCE_START], &four[..], record].concat(),
    })
}

fn audio_header(track: &Track) -> Option<Vec<u8>> {
    match track.codec {
        Codec::Aac => Some([&[AAC_FLAGS, 0], &track.config[..]].concat()),
        Codec::Opus => Some([&[EX_AUDIO | SEQUENCE_START], &b"Opus"[..], &track.config].concat()),
        Codec::Flac => Some([&[EX_AUDIO | SEQUENCE_START], &b"fLaC"[..], &track.config].concat()),
        Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 | Codec::G711A | Codec::G711U | Codec::Mp3 => {
            None
        }
    }
}

fn video_prefix(codec: Codec, frame: &Frame) -> Option<Prefix> {
    let first = if frame.key { KEY_FRAME } else { INTER_FRAME } << 4;
    // Rounded down each, not their difference: so the presentation time as the player adds it up never drifts.
    let composition_ms = frame.pts.millis().saturating_sub(frame.dts.millis());
    let composition = composition_24(composition_ms);
    let by_four = |packet_type, four: &[u8; 4], composition: &[u8]| {
        Some(Prefix::new(&[&[EX_VIDEO | first | packet_type], four, composition]))
    };
    match codec {
        Codec::H264 => Some(Prefix::new(&[&[first | 7, 1], &composition])),
        Codec::H265 if composition_ms == 0 => by_four(CODED_FRAMES_X, b"hvc1", &[]),
        Codec::H265 => by_four(CODED_FRAMES, b"hvc1", &composition),
        Codec::Av1 => by_four(CODED_FRAMES, b"av01", &[]),
        Codec::Vp8 => by_four(CODED_FRAMES, b"vp08", &[]),
        Codec::Vp9 => by_four(CODED_FRAMES, b"vp09", &[]),
        Codec::Aac | Codec::Opus | Codec::G711A | Codec::G711U | Codec::Mp3 | Codec::Flac => None,
    }
}

fn audio_prefix(track: &Track) -> Option<Prefix> {
    match track.codec {
        Codec::Aac => Some(Prefix::new(&[&[AAC_FLAGS, 1]])),
        Codec::Opus => Some(Prefix::new(&[&[EX_AUDIO | CODED_FRAMES], b"Opus"])),
        Codec::Flac => Some(Prefix::new(&[&[EX_AUDIO | CODED_FRAMES], b"fLaC"])),
        Codec::G711A => Some(Prefix::new(&[&[7 << 4 | sound_flags(track.sound(), 0)]])),
        Codec::G711U => Some(Prefix::new(&[&[8 << 4 | sound_flags(track.sound(), 0)]])),
        Codec::Mp3 => {
            let (format, rate) = match track.sound().map_or(44_100, |sound| sound.sample_rate_hz) {
                8_000 => (14, 0),
                ..=11_999 => (2, 1),
                12_000..=24_000 => (2, 2),
                // The decoder reads 32 and 48 kHz in the frames; the flags have nothing nearer.
                24_001.. => (2, 3),
            };
            Some(Prefix::new(&[&[format << 4 | sound_flags(track.sound(), rate)]]))
        }
        Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 => None,
    }
}

/// SoundRate, SoundSize (16 bits, as for all that is compressed) and SoundType.
fn sound_flags(sound: Option<Audio>, rate: u8) -> u8 {
    rate << 2 | 1 << 1 | u8::from(sound.is_some_and(|sound| sound.channels > 1))
}

/// A composition time as SI24, cut to what that can say: two hours either way.
fn composition_24(millis: i64) -> [u8; 3] {
    let [_, _, _, _, _, b2, b1, b0] = millis.clamp(-0x80_0000, 0x7f_ffff).to_be_bytes();
    [b2, b1, b0]
}
