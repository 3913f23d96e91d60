//! Frames to chunks for players of m7s's WS-RAW (`/jessica/NAME`): a binary WebSocket message for each tag, without the tag's own header.
//!
//! ```text
//! 01 sound, 02 video | u32 BE, milliseconds | the tag's body
//! ```

use bytes::Bytes;
use culvert_media::{Chunk, Frame, Time, Tracks};

use super::TagKind;
use super::mux::frame_message;
use super::write::{TagWriter, wrapped_ms};

/// What stands before a body.
const HEAD_BYTES: usize = 5;

/// The packaging.
#[derive(Debug)]
pub struct RawMux {
    writer: TagWriter,
    /// Of the latest frame.
    time: Time,
}

impl culvert_media::Mux for RawMux {
    const NAME: &'static str = "ws-raw";

    fn new(tracks: &Tracks) -> RawMux {
        RawMux { writer: TagWriter::new(tracks), time: Time::ZERO }
    }

    fn header(&self) -> Bytes {
        self.reentry()
    }

    fn reentry(&self) -> Bytes {
        let mut out = Vec::new();
        for (kind, body) in self.writer.sequence_headers() {
            write(kind, wrapped_ms(self.time), &[], &body, &mut out);
        }
        out.into()
    }

    fn set_tracks(&mut self, tracks: &Tracks, out: &mut Vec<Chunk>) {
        let writer = TagWriter::new(tracks);
        if writer != self.writer {
            self.writer = writer;
            out.push(Chunk { data: self.reentry(), entry: false, time: self.time });
        }
    }

    fn push(&mut self, frame: &Frame, out: &mut Vec<Chunk>) {
        let Some(parts) = self.writer.frame(frame) else { return };
        self.time = frame.dts;
        let mut data = Vec::with_capacity(10 + HEAD_BYTES + parts.prefix.len() + parts.payload.len());
        write(parts.kind, parts.time_ms, &parts.prefix, &parts.payload, &mut data);
        let entry = if parts.kind == TagKind::Video { frame.key } else { !self.writer.has_video() };
        out.push(Chunk { data: data.into(), entry, time: frame.dts });
    }
}

fn write(kind: TagKind, time_ms: u32, prefix: &[u8], payload: &[u8], out: &mut Vec<u8>) {
    frame_message::<true>(HEAD_BYTES + prefix.len() + payload.len(), out);
    out.push(if kind == TagKind::Video { 2 } else { 1 });
    out.extend_from_slice(&time_ms.to_be_bytes());
    out.extend_from_slice(prefix);
    out.extend_from_slice(payload);
}
