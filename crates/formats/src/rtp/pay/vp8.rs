//! VP8 (RFC 7741): a descriptor with a picture id before each piece of the frame.
//!
//! Partitions are not told apart: all is partition 0, as RFC 7741 4.2 allows a sender that does not read them.

use culvert_media::Frame;

use super::{Emit, Piece, even};

/// The descriptor: one byte required, one of extensions, two of PictureID.
const DESCRIPTOR_BYTES: usize = 4;
/// X: extension bits follow.
const EXTENDED: u8 = 0x80;
/// S: a partition begins.
const START: u8 = 0x10;
/// I: a PictureID is present.
const PICTURE_ID: u8 = 0x80;
/// M: it has 15 bits.
const LONG_ID: u16 = 0x8000;

/// Counts frames.
#[derive(Debug)]
pub(in super::super) struct Packetizer {
    /// PictureID of the next frame; its lower 15 bits are sent.
    next: u16,
}

impl Packetizer {
    pub(super) fn new() -> Packetizer {
        Packetizer { next: 0 }
    }

    pub(super) fn pack(&mut self, frame: &Frame, max: usize, emit: &mut Emit<'_>) {
        let [high, low] = (LONG_ID | self.next).to_be_bytes();
        self.next = self.next.wrapping_add(1);
        let mut start = START;
        let mut pieces = frame.data.chunks(even(frame.data.len(), max.saturating_sub(DESCRIPTOR_BYTES))).peekable();
        while let Some(piece) = pieces.next() {
            let descriptor = [EXTENDED | start, PICTURE_ID, high, low];
            emit(Piece { parts: &[&descriptor, piece], marker: pieces.peek().is_none(), ticks: 0 });
            start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use culvert_media::{Time, TrackId};

    use super::*;

    #[test]
    fn picture_ids_count_frames_in_15_bits_and_the_first_piece_starts() {
        let data = Bytes::from(vec![7; 100]);
        let (track, dts, wall) = (TrackId(0), Time::ZERO, SystemTime::UNIX_EPOCH);
        let frame = Frame { track, dts, pts: dts, key: true, discontinuity: false, wall, data };
        let mut packetizer = Packetizer { next: 0x7fff };
        let mut packets = Vec::new();
        for _ in 0..2 {
            packetizer.pack(&frame, 64, &mut |piece| packets.push((piece.parts.concat(), piece.marker)));
        }
        let heads: Vec<_> = packets.iter().map(|(packet, marker)| (&packet[..4], packet.len(), *marker)).collect();
        assert_eq!(heads[..2], [(&[0x90, 0x80, 0xff, 0xff][..], 54, false), (&[0x80, 0x80, 0xff, 0xff][..], 54, true)]);
        assert_eq!(heads[2..], [(&[0x90, 0x80, 0x80, 0][..], 54, false), (&[0x80, 0x80, 0x80, 0][..], 54, true)]);
    }
}
