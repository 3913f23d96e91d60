//! MPEG audio (RFC 2250 3.5): four bytes with the offset within the frame before each piece of it.
//!
//! A packet is one frame or a piece of one; frames are not put together.

use super::{Emit, Piece};

/// MBZ and Frag_offset, 16 bits each.
const HEADER_BYTES: usize = 4;

/// Cuts a frame. One that is too large for the offset's 16 bits is none, and is left out.
pub(super) fn pack(data: &[u8], max: usize, emit: &mut Emit<'_>) {
    let Ok(len) = u16::try_from(data.len()) else {
        return;
    };
    let piece_bytes = max.saturating_sub(HEADER_BYTES).max(1);
    for (piece, offset) in data.chunks(piece_bytes).zip((0..len).step_by(piece_bytes)) {
        let [high, low] = offset.to_be_bytes();
        // RFC 3551 4.1: sound has a marker where it begins after silence, which is nowhere here.
        emit(Piece { parts: &[&[0, 0, high, low], piece], marker: false, ticks: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_say_where_in_the_frame_they_are() {
        let data: Vec<u8> = (0..=255).collect();
        let mut packets = Vec::new();
        pack(&data, 104, &mut |piece| packets.push((piece.parts.concat(), piece.marker)));
        assert_eq!(packets.len(), 3);
        for ((packet, marker), offset) in packets.iter().zip([0u8, 100, 200]) {
            assert!(packet.starts_with(&[0, 0, 0, offset, offset]) && !marker);
        }
        assert_eq!(packets[2].0.len(), 60);
    }

    #[test]
    fn what_cannot_be_an_mpeg_audio_frame_is_left_out() {
        pack(&[0; 1 << 16], 1200, &mut |_| panic!("65,536 bytes are beyond the offset"));
        pack(&[], 1200, &mut |_| panic!("nothing is no frame"));
    }
}
