//! The stream that is measured with: 1280x720, 30 fps, 2 Mbit/s of H.264 and 128 kbit/s of AAC, without a picture in it.
//!
//! Parameter sets, slice headers and AudioSpecificConfig are those of a real encode; behind the slice headers comes
//! filler. So everything between a publisher and a viewer's decoder takes it for real, and a decoder of pictures does not. Sound is real, for what
//! turns it into Opus for WebRTC is to have something to do.

use std::time::Duration;

use bytes::Bytes;
use culvert_formats::amf0::Value;
use culvert_formats::flv::TagKind;

use crate::stamp::STAMP_BYTES;

/// Of its pictures, in Mbit/s, where nothing else is said.
const MEGABITS: u32 = 2;
/// Pictures a second, where nothing else is said.
const FPS: u32 = 30;
/// From key frame to key frame, in pictures: one second, at 30.
pub(crate) const GOP: u64 = 30;
/// Bytes of all video bodies of a second: 2 Mbit/s.
pub(crate) const VIDEO_BYTES_PER_SECOND: usize = 250_000;
/// A body between two key frames, on average; what is left of the second is the key frame's, about 40 kB.
const P_BYTES: usize = 7_241;
const KEY_BYTES: usize = VIDEO_BYTES_PER_SECOND - P_BYTES * (GOP as usize - 1);
/// By how much the bodies' sizes differ, step by step. Were two in a row alike, Linux would take their size for the
/// path's segment size and acknowledge each at once, which no real stream makes it do.
const P_STEP_BYTES: usize = 180;
/// Of AAC, which has frames of 1,024 samples.
const SAMPLE_RATE_HZ: u64 = 48_000;
const AAC_SAMPLES: u64 = 1_024;
/// An audio body: 128 kbit/s and two bytes of header.
const AUDIO_BYTES: usize = 343;

/// avcC of: `ffmpeg -f lavfi -i testsrc2=s=1280x720:r=30 -c:v libx264 -pix_fmt yuv420p -b:v 2M -g 30 -bf 0 out.flv`
/// (ffmpeg 5.1, x264 164): High, level 3.1.
const AVCC: &[u8] = &[
    0x01, 0x64, 0x00, 0x1f, 0xff, 0xe1, 0x00, 0x18, 0x67, 0x64, 0x00, 0x1f, 0xac, 0xb2, 0x00, 0xa0, 0x0b, 0x76, 0x02,
    0x20, 0x00, 0x00, 0x03, 0x00, 0x20, 0x00, 0x00, 0x07, 0x81, 0xe3, 0x06, 0x49, 0x01, 0x00, 0x05, 0x68, 0xeb, 0xcc,
    0xb2, 0x2c, 0xfd, 0xf8, 0xf8, 0x00,
];
/// How the IDR slice of the same encode begins, NAL header included, and how the P slice behind it does.
const IDR_SLICE: &[u8] = &[0x65, 0x88, 0x84, 0x7f, 0xd9, 0x67, 0x4c, 0xf8, 0x7a, 0xf4];
const P_SLICE: &[u8] = &[0x41, 0x9a, 0x3b, 0x1f, 0xc6, 0x1a, 0xeb, 0xfc, 0x1d, 0xbf];
/// AAC-LC, 48 kHz, stereo; and a frame of it, which is followed by itself: `ffmpeg -f lavfi -i anoisesrc=c=pink:r=48000:a=0.3 -c:a aac -b:a 112k`
/// (ffmpeg 5.1; on two channels). Decoders do not read what comes behind its end.
const ASC: &[u8] = &[0x11, 0x90];
const AAC_FRAME: &[u8] = include_bytes!("../assets/noise.aac");

/// A tag that is due. Its body ends in a [`crate::stamp::Stamp`], which is made when it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Tag {
    /// Audio or video.
    pub(crate) kind: TagKind,
    /// Counts from 1, without a gap.
    pub(crate) seq: u32,
    /// Milliseconds since the stream's beginning.
    pub(crate) time_ms: u32,
    /// The same, exactly: when it is to be sent.
    pub(crate) due: Duration,
    /// The body but for the stamp.
    pub(crate) body: Bytes,
}

/// What of a stream may be otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Of its pictures, in Mbit/s.
    pub(crate) megabits: u32,
    /// Pictures a second.
    pub(crate) fps: u32,
    /// Whether there is sound.
    pub(crate) sound: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { megabits: MEGABITS, fps: FPS, sound: true }
    }
}

/// Makes the stream, tag by tag, for ever.
#[derive(Debug)]
pub(crate) struct Source {
    key: Bytes,
    audio: Bytes,
    shape: Shape,
    /// Sizes of pictures are those of 2 Mbit/s and 30 a second, multiplied and divided by these.
    scale: (usize, usize),
    seq: u32,
    pictures: u64,
    sounds: u64,
}

impl Default for Source {
    fn default() -> Source {
        Source::new()
    }
}

impl Source {
    /// At the beginning.
    pub(crate) fn new() -> Source {
        Source::of(Shape::default())
    }

    /// At the beginning, of this shape.
    pub(crate) fn of(shape: Shape) -> Source {
        let scale = ((shape.megabits * FPS) as usize, (MEGABITS * shape.fps) as usize);
        Source {
            shape,
            key: video_body(0x17, IDR_SLICE, KEY_BYTES * scale.0 / scale.1),
            audio: filled([&[0xaf, 1], AAC_FRAME].concat(), AUDIO_BYTES),
            scale,
            seq: 0,
            pictures: 0,
            sounds: 0,
        }
    }

    /// What comes before the first tag, at time 0: metadata and sequence headers.
    pub(crate) fn headers(shape: Shape) -> Vec<(TagKind, Vec<u8>)> {
        let sound = shape.sound.then(|| (TagKind::Audio, [&[0xaf, 0], ASC].concat()));
        let pictures = [(TagKind::Script, metadata(shape)), (TagKind::Video, [&[0x17, 0, 0, 0, 0], AVCC].concat())];
        pictures.into_iter().chain(sound).collect()
    }

    /// The next tag in order of time; video goes first where both are due.
    pub(crate) fn next_tag(&mut self) -> Tag {
        self.seq = self.seq.wrapping_add(1);
        let picture_due = Duration::from_nanos(self.pictures * 1_000_000_000 / u64::from(self.shape.fps));
        let sound_due = Duration::from_nanos(self.sounds * AAC_SAMPLES * 1_000_000_000 / SAMPLE_RATE_HZ);
        let (kind, due, body) = if picture_due <= sound_due || !self.shape.sound {
            let body = match p_bytes(self.pictures % GOP) {
                None => self.key.clone(),
                Some(bytes) => video_body(0x27, P_SLICE, bytes * self.scale.0 / self.scale.1),
            };
            self.pictures += 1;
            (TagKind::Video, picture_due, body)
        } else {
            self.sounds += 1;
            (TagKind::Audio, sound_due, self.audio.clone())
        };
        #[allow(clippy::cast_possible_truncation, reason = "FLV's clock wraps at 32 bits, after 49 days")]
        let time_ms = due.as_millis() as u32;
        Tag { kind, seq: self.seq, time_ms, due, body }
    }
}

/// Whether this body is that of a key frame, and not its sequence header.
pub(crate) fn is_key_frame(kind: TagKind, body: &[u8]) -> bool {
    kind == TagKind::Video && body.starts_with(&[0x17, 1])
}

/// Bytes that a viewer receives in a second at the least, with so many bytes around each body.
pub(crate) fn bytes_per_second(overhead_bytes: usize) -> f64 {
    let sounds = SAMPLE_RATE_HZ as f64 / AAC_SAMPLES as f64;
    VIDEO_BYTES_PER_SECOND as f64 + sounds * AUDIO_BYTES as f64 + (f64::from(FPS) + sounds) * overhead_bytes as f64
}

/// Of the body at this place in a GOP; none for the key frame. The sizes are [`P_BYTES`] on average, each is there once,
/// and neighbours differ by much.
fn p_bytes(place: u64) -> Option<usize> {
    let middle = (GOP as usize - 2) / 2;
    let step = (place.checked_sub(1)? as usize * 11) % (GOP as usize - 1);
    Some(P_BYTES + step * P_STEP_BYTES - middle * P_STEP_BYTES)
}

/// FLV's five bytes, the length of the one NAL unit, the unit; `total_bytes` with the stamp.
fn video_body(flags: u8, slice: &[u8], total_bytes: usize) -> Bytes {
    let unit = u32::try_from(total_bytes - 9).expect("bodies of the bench are far below 4 GiB");
    filled([&[flags, 1, 0, 0, 0], unit.to_be_bytes().as_slice(), slice].concat(), total_bytes)
}

/// Filler up to where the stamp begins. It has no zero byte, so that no start code can arise, and no pattern.
fn filled(mut body: Vec<u8>, total_bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9u32;
    body.resize_with(total_bytes - STAMP_BYTES, || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state as u8) | 1
    });
    body.into()
}

fn metadata(shape: Shape) -> Vec<u8> {
    let pictures = [
        ("width", 1280.0),
        ("height", 720.0),
        ("framerate", f64::from(shape.fps)),
        ("videodatarate", 1000.0 * f64::from(shape.megabits)),
        ("videocodecid", 7.0),
    ];
    // Who is told of sound waits for it.
    let sound = [("audiodatarate", 128.0), ("audiosamplerate", 48_000.0), ("audiocodecid", 10.0)];
    let properties = pictures.into_iter().chain(sound.into_iter().filter(|_| shape.sound));
    let properties = properties.map(|(name, value)| (name.to_owned(), Value::Number(value)));
    let mut out = Vec::new();
    Value::String("onMetaData".to_owned()).encode(&mut out);
    Value::EcmaArray(properties.collect()).encode(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use culvert_formats::flv::{Demux, Event};
    use culvert_media::{Codec, Frame, Tracks};

    use super::*;
    use crate::stamp::Stamp;

    fn bodies(seconds: u64) -> Vec<(Tag, Bytes)> {
        let mut source = Source::new();
        let tags = std::iter::from_fn(|| Some(source.next_tag()));
        tags.take_while(|tag| tag.due < Duration::from_secs(seconds))
            .map(|tag| {
                let stamp = Stamp { seq: tag.seq, micros: 1 };
                let body = [&tag.body[..], &stamp.write()].concat().into();
                (tag, body)
            })
            .collect()
    }

    #[test]
    fn our_own_demux_finds_two_tracks_and_nothing_wrong() {
        let mut demux = Demux::new();
        let (mut tracks, mut frames) = (Vec::<Tracks>::new(), Vec::<Frame>::new());
        let headers = Source::headers(Shape::default()).into_iter().map(|(kind, body)| (kind, 0, Bytes::from(body)));
        let tags = bodies(2).into_iter().map(|(tag, body)| (tag.kind, tag.time_ms, body));
        for (kind, time_ms, body) in headers.chain(tags) {
            demux.handle_tag(SystemTime::UNIX_EPOCH, kind, time_ms, body).unwrap();
            while let Some(event) = demux.poll_event() {
                match event {
                    Event::Tracks(new) => tracks.push(new),
                    Event::Frame(frame) => frames.push(frame),
                    Event::EndOfSequence => panic!("the stream does not end"),
                }
            }
        }
        assert_eq!((demux.dropped(), demux.problem()), (0, None));
        assert_eq!(tracks.len(), 1);
        let codecs: Vec<Codec> = tracks[0].iter().map(|track| track.codec).collect();
        assert_eq!(codecs, [Codec::H264, Codec::Aac]);
        let size = tracks[0].iter().find_map(|track| track.video()).map(|video| (video.width, video.height));
        assert_eq!(size, Some((1280, 720)));
        let pictures: Vec<&Frame> = frames.iter().filter(|frame| frame.track.0 == 0).collect();
        assert_eq!((pictures.len(), frames.len() - pictures.len()), (60, 94));
        assert!(pictures.iter().enumerate().all(|(n, frame)| frame.key == (n % 30 == 0)));
    }

    #[test]
    fn a_second_has_the_bytes_that_it_should_have() {
        let second: Vec<_> = bodies(1);
        let of = |kind| second.iter().filter(|(tag, _)| tag.kind == kind).map(|(_, body)| body.len()).sum::<usize>();
        assert_eq!(of(TagKind::Video), VIDEO_BYTES_PER_SECOND);
        assert_eq!(of(TagKind::Audio), 47 * AUDIO_BYTES);
        assert!((39_000..41_000).contains(&KEY_BYTES));
        assert!((bytes_per_second(0) - 266_078.0).abs() < 1.0);
    }

    #[test]
    fn tags_are_numbered_without_a_gap_and_in_order_of_time() {
        let tags = bodies(3);
        assert!(tags.iter().zip(1..).all(|((tag, body), n)| tag.seq == n && Stamp::read(body).unwrap().seq == n));
        assert!(tags.is_sorted_by_key(|(tag, _)| tag.due));
        assert!(tags.iter().all(|(tag, body)| is_key_frame(tag.kind, body) == (body.len() == KEY_BYTES)));
    }
}
