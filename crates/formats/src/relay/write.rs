//! Records to bytes.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use culvert_media::{Codec, Frame, Track, Tracks};

use super::{
    END, Ending, FLAG_DISCONTINUITY, FLAG_KEY, FRAME, FRAME_HEADER_BYTES, GAP, HELLO, MAX_CONFIG_BYTES,
    MAX_FRAME_BYTES, PADDING, REPORT, Record, Report, TRACKS, VERSION,
};

/// A reader takes this track: its configuration record is no longer than [`MAX_CONFIG_BYTES`].
pub fn fits(track: &Track) -> bool {
    track.config.len() <= MAX_CONFIG_BYTES
}

/// Appends a record.
///
/// What no reader takes is not written: tracks that do not [fit](fits), and a frame beyond [`MAX_FRAME_BYTES`].
pub fn write(record: &Record, out: &mut BytesMut) {
    match record {
        Record::Hello { epoch, next_seq } => {
            head(out, HELLO, 17);
            out.put_u8(VERSION);
            out.put_u64(*epoch);
            out.put_u64(*next_seq);
        }
        Record::Tracks(tracks) => write_tracks(tracks, out),
        Record::Frame { seq, frame } => {
            let Some(header) = frame_header(frame, *seq) else { return };
            out.put_slice(&header);
            out.put_slice(&frame.data);
        }
        Record::Gap { frames } => {
            head(out, GAP, 8);
            out.put_u64(*frames);
        }
        Record::Report(report) => write_report(report, out),
        Record::End(ending) => {
            head(out, END, 1);
            out.put_u8(match ending {
                Ending::Finished | Ending::Lost | Ending::Closed => *ending as u8,
            });
        }
    }
}

/// The record of a frame up to its data, which is to follow as it is. None if that is beyond [`MAX_FRAME_BYTES`].
pub fn frame_header(frame: &Frame, seq: u64) -> Option<[u8; FRAME_HEADER_BYTES]> {
    let data = u32::try_from(frame.data.len()).ok().filter(|_| frame.data.len() <= MAX_FRAME_BYTES)?;
    let mut header = [0; FRAME_HEADER_BYTES];
    let mut out = &mut header[..];
    out.put_u32(FRAME_HEADER_BYTES as u32 - 4 + data);
    out.put_u8(FRAME);
    out.put_u64(seq);
    out.put_u8(frame.track.0);
    let key = if frame.key { FLAG_KEY } else { 0 };
    out.put_u8(key | if frame.discontinuity { FLAG_DISCONTINUITY } else { 0 });
    out.put_i64(frame.dts.micros());
    out.put_i64(frame.pts.micros());
    out.put_i64(wall_micros(frame.wall));
    Some(header)
}

/// A record that every reader passes over, of so many bytes in all (at least 5): to find out what a path can carry.
pub fn padding(bytes: u32) -> Bytes {
    let length = bytes.saturating_sub(4).max(1);
    let mut out = BytesMut::with_capacity(length as usize + 4);
    head(&mut out, PADDING, length - 1);
    out.put_bytes(0, length as usize - 1);
    out.freeze()
}

/// The length of all that follows it, and the kind.
fn head(out: &mut BytesMut, kind: u8, fields: u32) {
    out.put_u32(fields + 1);
    out.put_u8(kind);
}

fn write_tracks(tracks: &Tracks, out: &mut BytesMut) {
    let mut fields = BytesMut::new();
    let fitting = || tracks.iter().filter(|track| fits(track));
    fields.put_u8(u8::try_from(fitting().count()).expect("a stream has at most 16 tracks"));
    for track in fitting() {
        // Where there is a configuration record, it says the rate itself.
        let sound = track.sound().filter(|_| track.config.is_empty());
        fields.put_u8(track.id.0);
        fields.put_u8(codec_number(track.codec));
        fields.put_u32(sound.map_or(0, |sound| sound.sample_rate_hz));
        fields.put_u8(sound.map_or(0, |sound| sound.channels));
        fields.put_u32(u32::try_from(track.config.len()).expect("it fits"));
        fields.put_slice(&track.config);
    }
    head(out, TRACKS, u32::try_from(fields.len()).expect("16 tracks that fit are 2 MiB"));
    out.put_slice(&fields);
}

fn write_report(report: &Report, out: &mut BytesMut) {
    head(out, REPORT, 29);
    out.put_u64(report.disposable);
    out.put_u64(report.frames);
    out.put_u64(report.bytes);
    out.put_u8(u8::from(report.keys_only));
    out.put_u32(u32::try_from(report.queued.as_millis()).unwrap_or(u32::MAX));
}

/// The codec on the wire; never to be changed.
fn codec_number(codec: Codec) -> u8 {
    match codec {
        Codec::H264 => 1,
        Codec::H265 => 2,
        Codec::Av1 => 3,
        Codec::Vp8 => 4,
        Codec::Vp9 => 5,
        Codec::Aac => 16,
        Codec::Opus => 17,
        Codec::G711A => 18,
        Codec::G711U => 19,
        Codec::Mp3 => 20,
        Codec::Flac => 21,
    }
}

/// Microseconds since 1970, before it negative.
fn wall_micros(wall: SystemTime) -> i64 {
    match wall.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    }
}
