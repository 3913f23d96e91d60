//! Frames to RTP payloads, a file for each payload format.

pub(super) mod aac;
mod av1;
mod mpa;
mod nal;
mod vp8;
mod vp9;
mod whole;

use culvert_media::{Codec, Frame, Track};

/// One RTP payload: what is in it, one part behind the other.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    /// Its parts. Together at most the bound that was asked for.
    pub(super) parts: &'a [&'a [u8]],
    /// The marker bit.
    pub(super) marker: bool,
    /// How much later than the frame's own time it is, in ticks of the track's clock.
    pub(super) ticks: u32,
}

/// Gets each payload of a frame, in order.
pub(super) type Emit<'a> = dyn FnMut(Piece<'_>) + 'a;

/// Cuts the frames of one track. Not made for a track that has no payload format.
#[derive(Debug)]
pub(super) enum Packetizer {
    /// H.264 and H.265.
    Nal(nal::Packetizer),
    Av1(av1::Packetizer),
    Vp8(vp8::Packetizer),
    Vp9(vp9::Packetizer),
    Aac,
    Mpa,
    /// Opus and G.711; bytes per tick where a payload may be cut anywhere.
    Whole(Option<u32>),
}

/// How large the pieces are of which there are as few as can be, of at most `most` bytes: all alike, and the last a few bytes
/// shorter. So they go to the kernel as one.
fn even(bytes: usize, most: usize) -> usize {
    bytes.div_ceil(bytes.div_ceil(most.max(1)).max(1)).max(1)
}

impl Packetizer {
    pub(super) fn new(track: &Track) -> Packetizer {
        match track.codec {
            Codec::H264 | Codec::H265 => Packetizer::Nal(nal::Packetizer::new(track)),
            Codec::Av1 => Packetizer::Av1(av1::Packetizer::new(track)),
            Codec::Vp8 => Packetizer::Vp8(vp8::Packetizer::new()),
            Codec::Vp9 => Packetizer::Vp9(vp9::Packetizer::new()),
            Codec::Aac => Packetizer::Aac,
            Codec::Mp3 => Packetizer::Mpa,
            // Nobody has said how RTP carries FLAC, and `carried` leaves it out.
            Codec::Opus | Codec::Flac => Packetizer::Whole(None),
            Codec::G711A | Codec::G711U => {
                Packetizer::Whole(Some(track.sound().map_or(1, |sound| u32::from(sound.channels.max(1)))))
            }
        }
    }

    /// Cuts a frame into payloads of at most `max` bytes (at least 64).
    pub(super) fn pack(&mut self, frame: &Frame, max: usize, emit: &mut Emit<'_>) {
        match self {
            Packetizer::Nal(packetizer) => packetizer.pack(frame, max, emit),
            Packetizer::Av1(packetizer) => packetizer.pack(frame, max, emit),
            Packetizer::Vp8(packetizer) => packetizer.pack(frame, max, emit),
            Packetizer::Vp9(packetizer) => packetizer.pack(frame, max, emit),
            Packetizer::Aac => aac::pack(&frame.data, max, emit),
            Packetizer::Mpa => mpa::pack(&frame.data, max, emit),
            Packetizer::Whole(bytes_per_tick) => whole::pack(&frame.data, max, *bytes_per_tick, emit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::even;

    #[test]
    fn pieces_are_as_few_as_can_be_and_alike() {
        for (bytes, most, size) in [(0, 10, 1), (1, 10, 1), (10, 10, 10), (11, 10, 6), (20_000, 1148, 1112), (5, 0, 1)]
        {
            assert_eq!(even(bytes, most), size, "{bytes} by {most}");
        }
        for bytes in 1..3000 {
            let size = even(bytes, 100);
            let pieces: Vec<_> = vec![0; bytes].chunks(size).map(<[u8]>::len).collect();
            assert_eq!(pieces.len(), bytes.div_ceil(100), "{bytes}");
            assert!(size <= 100 && pieces.iter().all(|piece| piece + pieces.len() > size), "{bytes}");
        }
    }
}
