//! Frames to chunks for HTTP-FLV and WS-FLV viewers: one tag a chunk, made once for all.

use bytes::Bytes;
use culvert_media::{Chunk, Frame, Time, Tracks};

use super::tag::{TAG_OVERHEAD_BYTES, file_header, write_tag};
use super::write::{TagWriter, wrapped_ms};
use super::{MAX_TAG_BYTES, TagKind};
use crate::sound::NamedInAac;

/// FLV as a plain byte stream.
pub type Mux = Packer<false>;
/// FLV over WebSocket: the file header and each tag are a binary message of their own, already framed.
pub type WsMux = Packer<true>;

/// Both packagings; use [`Mux`] or [`WsMux`].
#[derive(Debug)]
pub struct Packer<const WS: bool> {
    writer: TagWriter,
    /// Of the latest frame.
    time: Time,
}

impl<const WS: bool> NamedInAac for Packer<WS> {
    const NAME_IN_AAC: &'static str = if WS { "ws-flv-aac" } else { "flv-aac" };
}

impl<const WS: bool> culvert_media::Mux for Packer<WS> {
    const NAME: &'static str = if WS { "ws-flv" } else { "flv" };

    fn new(tracks: &Tracks) -> Self {
        Packer { writer: TagWriter::new(tracks), time: Time::ZERO }
    }

    fn header(&self) -> Bytes {
        let mut out = Vec::new();
        let file_header = file_header(self.writer.has_audio(), self.writer.has_video());
        frame_message::<WS>(file_header.len(), &mut out);
        out.extend_from_slice(&file_header);
        self.write_metadata(&mut out);
        self.write_sequence_headers(&mut out);
        out.into()
    }

    fn reentry(&self) -> Bytes {
        let mut out = Vec::new();
        self.write_sequence_headers(&mut out);
        out.into()
    }

    fn set_tracks(&mut self, tracks: &Tracks, out: &mut Vec<Chunk>) {
        let writer = TagWriter::new(tracks);
        if writer == self.writer {
            return;
        }
        self.writer = writer;
        let mut data = Vec::new();
        self.write_metadata(&mut data);
        self.write_sequence_headers(&mut data);
        out.push(Chunk { data: data.into(), entry: false, time: self.time });
    }

    fn push(&mut self, frame: &Frame, out: &mut Vec<Chunk>) {
        let Some(parts) = self.writer.frame(frame) else { return };
        self.time = frame.dts;
        let mut data = Vec::new();
        self.write(parts.kind, parts.time_ms, &parts.prefix, &parts.payload, &mut data);
        let entry = match parts.kind {
            TagKind::Video => frame.key,
            TagKind::Audio | TagKind::Script => !self.writer.has_video(),
        };
        out.push(Chunk { data: data.into(), entry, time: frame.dts });
    }
}

impl<const WS: bool> Packer<WS> {
    /// Metadata is stamped 0 whenever it is sent: ffmpeg takes script data at any other time for a track of its own.
    fn write_metadata(&self, out: &mut Vec<u8>) {
        self.write(TagKind::Script, 0, &[], &self.writer.metadata(), out);
    }

    fn write_sequence_headers(&self, out: &mut Vec<u8>) {
        for (kind, body) in self.writer.sequence_headers() {
            self.write(kind, wrapped_ms(self.time), &[], &body, out);
        }
    }

    /// One tag, in one message; `out` grows once.
    fn write(&self, kind: TagKind, time_ms: u32, prefix: &[u8], payload: &[u8], out: &mut Vec<u8>) {
        let body = prefix.len() + payload.len();
        if body > MAX_TAG_BYTES {
            return;
        }
        let tag = TAG_OVERHEAD_BYTES + body;
        out.reserve_exact(if WS { MAX_MESSAGE_HEADER_BYTES } else { 0 } + tag);
        frame_message::<WS>(tag, out);
        write_tag(kind, time_ms, prefix, payload, out);
    }
}

const MAX_MESSAGE_HEADER_BYTES: usize = 10;

/// The head of an unmasked, final, binary WebSocket frame (RFC 6455 5.2); nothing for a plain byte stream.
pub(super) fn frame_message<const WS: bool>(len: usize, out: &mut Vec<u8>) {
    if WS {
        message_head(false, len, out);
    }
}

/// The head of an unmasked, final WebSocket frame of text or bytes (RFC 6455 5.2).
pub(crate) fn message_head(text: bool, len: usize, out: &mut Vec<u8>) {
    out.push(if text { 0x81 } else { 0x82 });
    match len {
        0..=125 => out.push(u8::try_from(len).expect("at most 125")),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&u16::try_from(len).expect("at most 16 bits").to_be_bytes());
        }
        0x1_0000.. => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}
