//! Payloads without headers, for who numbers and stamps packets by himself: WebRTC, where each viewer has his own.

use culvert_media::{Frame, Track};

use super::pay::{Packetizer, Piece};

/// Cuts the frames of one track into payloads.
#[derive(Debug)]
pub struct Cutter(Packetizer);

/// A payload of a frame.
#[derive(Debug)]
pub struct Payload<'a> {
    /// Its parts, one behind the other.
    pub parts: &'a [&'a [u8]],
    /// The marker bit: for video it is the last of its picture.
    pub marker: bool,
    /// How much later than the frame's own time it is, in ticks of the track's clock.
    pub ticks: u32,
}

impl Cutter {
    /// Of this track.
    pub fn new(track: &Track) -> Cutter {
        Cutter(Packetizer::new(track))
    }

    /// Gives each payload of a frame, of at most `max` bytes (at least 64), in order. Parameter sets go before each key frame.
    pub fn cut(&mut self, frame: &Frame, max: usize, give: &mut dyn FnMut(Payload<'_>)) {
        self.0.pack(frame, max, &mut |Piece { parts, marker, ticks }| give(Payload { parts, marker, ticks }));
    }
}
