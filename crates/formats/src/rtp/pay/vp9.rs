//! VP9 (RFC 9628) in non-flexible mode, without layers: a descriptor with a picture id before each piece of the frame.
//!
//! A superframe is one frame here. No scalability structure is sent: there is one layer.

use culvert_media::Frame;
use culvert_media::codec::vp9::Header;

use super::{Emit, Piece, even};

/// The descriptor: one byte required, two of picture id.
const DESCRIPTOR_BYTES: usize = 3;
/// I: a picture id is present.
const PICTURE_ID: u8 = 0x80;
/// P: the picture is predicted from others.
const PREDICTED: u8 = 0x40;
/// B: the frame begins.
const BEGIN: u8 = 0x08;
/// E: the frame ends.
const END: u8 = 0x04;
/// M: the picture id has 15 bits.
const LONG_ID: u16 = 0x8000;

/// Counts pictures.
#[derive(Debug)]
pub(in super::super) struct Packetizer {
    /// Picture id of the next frame; its lower 15 bits are sent.
    next: u16,
}

impl Packetizer {
    pub(super) fn new() -> Packetizer {
        Packetizer { next: 0 }
    }

    pub(super) fn pack(&mut self, frame: &Frame, max: usize, emit: &mut Emit<'_>) {
        let [high, low] = (LONG_ID | self.next).to_be_bytes();
        self.next = self.next.wrapping_add(1);
        let key = Header::parse(&frame.data).map_or(frame.key, |header| header.key);
        let flags = PICTURE_ID | if key { 0 } else { PREDICTED };
        let mut begin = BEGIN;
        let mut pieces = frame.data.chunks(even(frame.data.len(), max.saturating_sub(DESCRIPTOR_BYTES))).peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            let descriptor = [flags | begin | if last { END } else { 0 }, high, low];
            emit(Piece { parts: &[&descriptor, piece], marker: last, ticks: 0 });
            begin = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use culvert_media::{Time, TrackId};

    use super::*;

    fn packets(packetizer: &mut Packetizer, start: &[u8], len: usize) -> Vec<(Vec<u8>, bool)> {
        let mut data = start.to_vec();
        data.resize(len, 0);
        let (track, dts, wall) = (TrackId(0), Time::ZERO, SystemTime::UNIX_EPOCH);
        let data = Bytes::from(data);
        let frame = Frame { track, dts, pts: dts, key: false, discontinuity: false, wall, data };
        let mut packets = Vec::new();
        packetizer.pack(&frame, 64, &mut |piece| packets.push((piece.parts.concat(), piece.marker)));
        packets
    }

    #[test]
    fn a_frame_begins_ends_and_says_whether_it_is_predicted() {
        let mut packetizer = Packetizer { next: 0x7fff };
        // Beginnings of libvpx-vp9 frames: a key frame of 64x64 and one that is predicted.
        let key = packets(&mut packetizer, &[0x82, 0x49, 0x83, 0x42, 0, 0x03, 0xf0, 0x03, 0xf6, 0], 150);
        let heads: Vec<_> = key.iter().map(|(packet, marker)| (&packet[..3], packet.len(), *marker)).collect();
        assert_eq!(heads[0], (&[0x88, 0xff, 0xff][..], 53, false));
        assert_eq!(heads[1], (&[0x80, 0xff, 0xff][..], 53, false));
        assert_eq!(heads[2], (&[0x84, 0xff, 0xff][..], 53, true));
        let predicted = packets(&mut packetizer, &[0x86, 0, 0x40], 20);
        assert_eq!((&predicted[0].0[..3], predicted[0].1), (&[0xcc, 0x80, 0][..], true));
    }
}
