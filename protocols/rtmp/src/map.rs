//! Frames to RTMP messages, cut into chunks once for all viewers of a stream.
//!
//! What a message holds is an FLV tag body ([`TagWriter`]). Each begins with a fmt 0 chunk, so that a viewer may be given
//! it after whatever it had before, and the session's own messages fit between any two (see
//! [`crate::wire::chunk_write`]).

use bytes::Bytes;
use culvert_formats::flv::{TagKind, TagWriter};
use culvert_formats::sound::NamedInAac;
use culvert_media::{Chunk, Frame, Time, Tracks};

use crate::session::{OUT_CHUNK_SIZE, STREAM_ID};
use crate::wire::message::csid;
use crate::wire::write_message;

/// RTMP for players, as [`crate::session::ServerSession`] announces it: chunks of [`OUT_CHUNK_SIZE`] on message stream
/// [`STREAM_ID`]. One chunk of the packaging is one whole message.
#[derive(Debug)]
pub struct Mux {
    writer: TagWriter,
    /// Of the latest frame: what configuration is stamped with.
    time: Time,
}

impl culvert_media::Mux for Mux {
    const NAME: &'static str = "rtmp";

    fn new(tracks: &Tracks) -> Self {
        Mux { writer: TagWriter::new(tracks), time: Time::ZERO }
    }

    fn header(&self) -> Bytes {
        let mut out = Vec::new();
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
        out.push(Chunk { data: self.header(), entry: false, time: self.time });
    }

    fn push(&mut self, frame: &Frame, out: &mut Vec<Chunk>) {
        let Some(parts) = self.writer.frame(frame) else { return };
        self.time = frame.dts;
        let mut data = Vec::new();
        write(parts.kind, parts.time_ms, &parts.prefix, &parts.payload, &mut data);
        // A viewer begins at a key frame, or anywhere if there are no pictures.
        let entry = match parts.kind {
            TagKind::Video => frame.key,
            TagKind::Audio | TagKind::Script => !self.writer.has_video(),
        };
        out.push(Chunk { data: data.into(), entry, time: frame.dts });
    }
}

impl NamedInAac for Mux {
    const NAME_IN_AAC: &'static str = "rtmp-aac";
}

impl Mux {
    /// Always at time 0: ffmpeg takes metadata at any other time for a track of subtitles.
    fn write_metadata(&self, out: &mut Vec<u8>) {
        write(TagKind::Script, 0, &[], &self.writer.metadata(), out);
    }

    fn write_sequence_headers(&self, out: &mut Vec<u8>) {
        for (kind, body) in self.writer.sequence_headers() {
            write(kind, wrapped_ms(self.time), &[], &body, out);
        }
    }
}

fn write(kind: TagKind, time_ms: u32, prefix: &[u8], payload: &[u8], out: &mut Vec<u8>) {
    let csid = match kind {
        TagKind::Audio => csid::AUDIO,
        TagKind::Video => csid::VIDEO,
        TagKind::Script => csid::DATA,
    };
    write_message(out, OUT_CHUNK_SIZE, csid, kind as u8, time_ms, STREAM_ID, prefix, payload);
}

/// Milliseconds on the wire: the low 32 bits.
fn wrapped_ms(time: Time) -> u32 {
    let [_, _, _, _, low @ ..] = time.millis().to_be_bytes();
    u32::from_be_bytes(low)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use culvert_media::{Audio, Codec, Mux as _, Track, TrackId};

    use super::*;
    use crate::wire::chunk::MAX_MESSAGE_BYTES;
    use crate::wire::message::{Message, kind};
    use crate::wire::{ChunkReader, RawMessage};

    fn video() -> Track {
        Track::new(TrackId(0), Codec::Vp8, Bytes::new()).expect("VP8 needs no record")
    }

    fn audio() -> Track {
        Track::audio(TrackId(1), Codec::G711A, Audio { sample_rate_hz: 8_000, channels: 1 })
    }

    fn frame(track: u8, millis: i64, key: bool, data: Bytes) -> Frame {
        let time = Time::from_millis(millis);
        let (track, wall) = (TrackId(track), SystemTime::UNIX_EPOCH);
        Frame { track, dts: time, pts: time, key, discontinuity: false, wall, data }
    }

    /// As a player reads it that was told our chunk size.
    fn read(parts: &[&[u8]]) -> Vec<RawMessage> {
        let mut reader = ChunkReader::new();
        reader.set_message_limit(MAX_MESSAGE_BYTES);
        let (mut messages, mut wire) = (Vec::new(), Vec::new());
        Message::SetChunkSize(OUT_CHUNK_SIZE).write(&mut wire, 128, 0);
        wire.extend(parts.concat());
        let mut rest = &wire[..];
        loop {
            rest = &rest[reader.handle_input(rest).expect("ours")..];
            let Some(message) = reader.poll_message() else { break };
            messages.push(message);
        }
        assert!(rest.is_empty());
        messages
    }

    #[test]
    fn a_player_reads_header_and_chunks_and_may_skip_between_any_two() {
        let mut mux = Mux::new(&Tracks::new(vec![video(), audio()]));
        let header = mux.header();
        let mut chunks = Vec::new();
        let long = Bytes::from(vec![5; 200_000]);
        // Beyond 16,777,215 ms, and beyond 2^32 (faults.md M1, M3).
        mux.push(&frame(0, 16_777_300, true, long.clone()), &mut chunks);
        mux.push(&frame(1, 16_777_310, true, Bytes::from_static(b"sound")), &mut chunks);
        mux.push(&frame(7, 16_777_320, true, Bytes::from_static(b"of no track")), &mut chunks);
        mux.push(&frame(0, (1 << 32) + 40, false, Bytes::from_static(b"picture")), &mut chunks);
        let entries: Vec<bool> = chunks.iter().map(|chunk| chunk.entry).collect();
        assert_eq!(entries, [true, false, false]);

        let in_a_row = read(&[&header, &chunks[0].data, &chunks[1].data, &chunks[2].data]);
        let seen: Vec<_> = in_a_row.iter().map(|m| (m.csid, m.kind, m.timestamp, m.stream_id)).collect();
        assert_eq!(
            seen,
            [
                (5, kind::DATA, 0, 1),
                (6, kind::VIDEO, 0, 1),
                (6, kind::VIDEO, 16_777_300, 1),
                (4, kind::AUDIO, 16_777_310, 1),
                (6, kind::VIDEO, 40, 1)
            ]
        );
        assert!(in_a_row[2].payload.ends_with(&long));
        let skipped = read(&[&header, &chunks[1].data, &mux.reentry(), &chunks[2].data]);
        assert_eq!(skipped.last(), in_a_row.last());
        assert_eq!(skipped[3].payload, in_a_row[1].payload, "the configuration again");
    }

    #[test]
    fn sound_alone_can_be_entered_anywhere_and_new_tracks_are_announced_once() {
        let (sound, both) = (Tracks::new(vec![audio()]), Tracks::new(vec![audio(), video()]));
        let (mut mux, mut chunks) = (Mux::new(&sound), Vec::new());
        mux.push(&frame(1, 20, true, Bytes::from_static(b"sound")), &mut chunks);
        mux.set_tracks(&sound, &mut chunks);
        assert!(matches!(&chunks[..], [Chunk { entry: true, .. }]));
        mux.set_tracks(&both, &mut chunks);
        mux.set_tracks(&both, &mut chunks);
        assert_eq!(chunks.len(), 2);
        let kinds: Vec<u8> = read(&[&chunks[1].data]).iter().map(|message| message.kind).collect();
        assert_eq!((kinds, chunks[1].entry), (vec![kind::DATA, kind::VIDEO], false));
    }
}
