//! Frames to fragments for HTTP and WebSocket viewers: one frame a fragment, made once for all.

use bytes::Bytes;
use culvert_media::codec::{aac, opus};
use culvert_media::{Chunk, Codec, Frame, Time, Tracks};

use super::fragment::{self, Sample};
use super::{Line, init, line, lines, mime};
use crate::flv::message_head;

/// Fragmented MP4 as a plain byte stream.
pub type Mux = Packer<false>;
/// The same over WebSocket: a text message with the MIME type, then the initialisation segment and each fragment in a binary message of
/// its own, already framed.
pub type WsMux = Packer<true>;

/// Both packagings; use [`Mux`] or [`WsMux`].
#[derive(Debug)]
pub struct Packer<const WS: bool> {
    lines: Vec<Line>,
    /// Made when the tracks change, and the same bytes for all viewers.
    header: Bytes,
    sequence: u32,
    /// Of each line: the last decoding time in ticks, and how long the last sample was.
    last: Vec<Option<(u64, u32)>>,
    /// Of the latest frame.
    time: Time,
}

/// Longest sample that is told: a source that pauses shows its last picture for so long, and no player has to believe more.
const LONGEST: Time = Time::from_millis(10_000);

impl<const WS: bool> culvert_media::Mux for Packer<WS> {
    const NAME: &'static str = if WS { "ws-mp4" } else { "mp4" };

    fn new(tracks: &Tracks) -> Self {
        let lines = lines(tracks);
        let last = vec![None; lines.len()];
        Packer { lines, header: header::<WS>(tracks), sequence: 0, last, time: Time::ZERO }
    }

    fn header(&self) -> Bytes {
        self.header.clone()
    }

    fn reentry(&self) -> Bytes {
        self.header()
    }

    fn set_tracks(&mut self, tracks: &Tracks, out: &mut Vec<Chunk>) {
        let new = lines(tracks);
        if new == self.lines {
            return;
        }
        (self.last, self.lines, self.header) = (vec![None; new.len()], new, header::<WS>(tracks));
        out.push(Chunk { data: self.header.clone(), entry: false, time: self.time });
    }

    fn push(&mut self, frame: &Frame, out: &mut Vec<Chunk>) {
        let Some(at) = self.lines.iter().position(|line| line.track.id == frame.track) else { return };
        let Some(line) = line(&self.lines, frame.track) else { return };
        self.time = frame.dts;
        let ticks = |time: Time| u64::try_from(time.to_ticks(line.clock_hz)).unwrap_or(0);
        let decode_time = ticks(frame.dts);
        // Never before the decoding (`Frame::pts`), and no reordering is so deep that 32 bits do not tell it.
        let composition = i32::try_from(ticks(frame.pts).saturating_sub(decode_time)).unwrap_or(i32::MAX);
        let duration = match self.last.get(at).copied().flatten() {
            // As long as the one before: when the next comes is not known yet.
            Some((before, _)) => {
                let most = u64::try_from(LONGEST.to_ticks(line.clock_hz)).unwrap_or(0);
                u32::try_from(decode_time.saturating_sub(before).clamp(1, most)).unwrap_or(1)
            }
            None => first_duration(line, frame),
        };
        if let Some(last) = self.last.get_mut(at) {
            *last = Some((decode_time, duration));
        }
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let video = line.track.video().is_some();
        let entry = if video { frame.key } else { self.lines.iter().all(|line| line.track.video().is_none()) };
        let sample = Sample {
            track: line.number,
            sequence: self.sequence,
            decode_time,
            duration,
            composition,
            key: frame.key,
            // With pictures that one can begin at is often enough: clocks do not run apart within a group.
            wall: (video && frame.key).then_some(frame.wall),
            data: &frame.data,
        };
        let mut data = Vec::new();
        let bytes = fragment::overhead_bytes(&sample) + frame.data.len();
        data.reserve_exact(bytes + if WS { 10 } else { 0 });
        if WS {
            message_head(false, bytes, &mut data);
        }
        fragment::write(&sample, &mut data);
        out.push(Chunk { data: data.into(), entry, time: frame.dts });
    }
}

/// The initialisation segment; over WebSocket, behind the MIME type.
fn header<const WS: bool>(tracks: &Tracks) -> Bytes {
    let init = init(tracks);
    if !WS {
        return init;
    }
    let (mime, mut out) = (mime(tracks), Vec::new());
    message_head(true, mime.len(), &mut out);
    out.extend_from_slice(mime.as_bytes());
    message_head(false, init.len(), &mut out);
    out.extend_from_slice(&init);
    out.into()
}

/// How long a track's first frame is, by what its codec or configuration says.
fn first_duration(line: &Line, frame: &Frame) -> u32 {
    let ticks = match line.track.codec {
        Codec::Aac => aac::Config::parse(&line.track.config).map_or(1024, |config| config.samples_per_frame.into()),
        Codec::Opus => opus::packet_duration(&frame.data).map_or(960, |time| time.to_ticks(line.clock_hz)),
        // ISO 11172-3: of layer III.
        Codec::Mp3 => 1152,
        Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 | Codec::G711A | Codec::G711U => {
            let fps = line.track.video().and_then(|video| video.fps).filter(|fps| *fps >= 1.0).unwrap_or(25.0);
            (f64::from(line.clock_hz) / fps) as i64
        }
    };
    u32::try_from(ticks).unwrap_or(1).max(1)
}
