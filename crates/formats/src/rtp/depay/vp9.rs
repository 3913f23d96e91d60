//! VP9 (RFC 9628), flexible mode and not: descriptors come off, and a picture's spatial layers stay together.
//!
//! Picture ids, references and scalability structures are read over; no layer is left out.

use culvert_media::codec::bits::Reader;

use super::{Depay, Error, Gathering, Payload, Unit};

/// Gathers pictures.
#[derive(Debug, Default)]
pub(super) struct Depacketizer {
    unit: Gathering,
    dropped: u64,
    /// No packet is missing before the next one.
    continuous: bool,
}

impl Depay for Depacketizer {
    fn handle(&mut self, payload: &Payload<'_>, out: &mut Vec<Unit>) -> Result<(), Error> {
        self.unit.torn |= payload.lost && self.unit.packets > 0;
        self.continuous &= !payload.lost;
        if payload.data.is_empty() {
            return Ok(()); // padding alone, as WebRTC's senders probe with
        }
        let continuous = std::mem::replace(&mut self.continuous, true);
        if payload.timestamp != self.unit.timestamp {
            out.extend(self.unit.take(&mut self.dropped));
            self.unit.timestamp = payload.timestamp;
        }
        let gathered = split(payload.data)
            .and_then(|(begins, data)| self.gather(begins.picture(continuous), data))
            .map_err(|why| self.unit.tear(why));
        if payload.marker {
            out.extend(self.unit.take(&mut self.dropped));
        }
        gathered
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Depacketizer {
    fn gather(&mut self, begins: bool, data: &[u8]) -> Result<(), Error> {
        self.unit.torn |= !begins && self.unit.packets == 0;
        if self.unit.torn {
            return Ok(());
        }
        self.unit.packet()?;
        self.unit.put(data)
    }
}

/// What begins with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    /// Nothing.
    Not,
    /// A frame that needs none of the same picture before it, of the lowest spatial layer or of a higher one.
    Independent {
        /// The lowest there is.
        lowest: bool,
    },
    /// A frame of a higher layer that is predicted from a lower one of its picture.
    Layer,
}

impl Begins {
    /// Whether a picture can begin so. A forwarder may have left out lower layers that nothing needs, but where packets
    /// are missing they may as well have been some that are.
    fn picture(self, continuous: bool) -> bool {
        match self {
            Begins::Not | Begins::Layer => false,
            Begins::Independent { lowest } => lowest || continuous,
        }
    }
}

/// What begins here, and what is behind the descriptor (RFC 9628 4.2).
///
/// ```text
///       |I|P|L|F|B|E|V|Z|
/// I:    |M| PICTURE ID  |  M: a second byte
/// L:    | TID |U| SID |D|
/// L,!F: |   TL0PICIDX   |
/// P,F:  | P_DIFF      |N|  up to three times, N: another
/// V:    | SS            |
/// ```
fn split(payload: &[u8]) -> Result<(Begins, &[u8]), Error> {
    let mut bits = Reader::new("VP9 payload descriptor", payload);
    let [id, predicted, layers, flexible] = [bits.bit()?, bits.bit()?, bits.bit()?, bits.bit()?];
    let (begins, _ends, structure, _unreferenced) = (bits.bit()?, bits.bit()?, bits.bit()?, bits.bit()?);
    if id && bits.bit()? {
        bits.skip(8 + 7)?;
    } else if id {
        bits.skip(7)?;
    }
    let (mut lowest, mut depends) = (true, false);
    if layers {
        bits.skip(3 + 1)?; // TID, U
        (lowest, depends) = (bits.bits(3)? == 0, bits.bit()?);
        if !flexible {
            bits.skip(8)?;
        }
    }
    if predicted && flexible {
        let mut references = 1u64;
        while bits.bits(8)? & 1 != 0 {
            references += 1;
            if references > 3 {
                return Err(Error::Value { what: "VP9 references", value: references });
            }
        }
    }
    if structure {
        skip_structure(&mut bits)?;
    }
    let begins = match (begins, depends && !lowest) {
        (false, _) => Begins::Not,
        (true, false) => Begins::Independent { lowest },
        (true, true) => Begins::Layer,
    };
    Ok((begins, payload.get(bits.position_bits() / 8..).unwrap_or_default()))
}

/// The scalability structure, RFC 9628 4.2.1.
fn skip_structure(bits: &mut Reader<'_>) -> Result<(), Error> {
    let layers = bits.bits(3)? as usize + 1;
    let (sizes, group) = (bits.bit()?, bits.bit()?);
    bits.skip(3)?;
    if sizes {
        bits.skip(layers * (16 + 16))?;
    }
    if group {
        for _ in 0..bits.bits(8)? {
            bits.skip(3 + 1)?; // TID, U
            let references = bits.bits(2)? as usize;
            bits.skip(2 + 8 * references)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use culvert_media::{Codec, Frame, Time, Track, TrackId};
    use proptest::prelude::*;

    use super::*;
    use crate::rtp::pay::{Packetizer, Piece};

    type Sent = (Vec<u8>, bool, u32);

    fn packets(sizes: &[usize], max: usize) -> (Vec<Unit>, Vec<Sent>) {
        let (track, dts, wall) = (TrackId(0), Time::ZERO, SystemTime::UNIX_EPOCH);
        let mut packetizer = Packetizer::new(&Track::new(track, Codec::Vp9, Bytes::new()).unwrap());
        let (mut units, mut packets) = (Vec::new(), Vec::new());
        for (size, timestamp) in sizes.iter().zip((0..).step_by(3000)) {
            let data: Bytes = (0..*size).map(|at| (at + size) as u8).collect();
            units.push(Unit { timestamp, data: data.clone() });
            let frame = Frame { track, dts, pts: dts, key: false, discontinuity: false, wall, data };
            packetizer.pack(&frame, max, &mut |piece: Piece<'_>| {
                assert!(piece.parts.concat().len() <= max);
                packets.push((piece.parts.concat(), piece.marker, timestamp));
            });
        }
        (units, packets)
    }

    fn gather(depacketizer: &mut Depacketizer, packets: &[Sent], missing: Option<usize>) -> Vec<Unit> {
        let mut out = Vec::new();
        for (at, (data, marker, timestamp)) in packets.iter().enumerate().filter(|(at, _)| Some(*at) != missing) {
            let lost = at > 0 && missing == Some(at - 1);
            let payload = Payload { data, marker: *marker, timestamp: *timestamp, lost };
            depacketizer.handle(&payload, &mut out).unwrap();
        }
        out
    }

    #[test]
    fn a_missing_packet_costs_its_picture_and_no_other() {
        let (units, packets) = packets(&[150, 40, 200, 62, 61, 60, 300], 64);
        for missing in 0..packets.len() {
            let mut depacketizer = Depacketizer::default();
            let out = gather(&mut depacketizer, &packets, Some(missing));
            let expected: Vec<_> = units.iter().filter(|unit| unit.timestamp != packets[missing].2).cloned().collect();
            // Nobody says that the very last packet is missing, so its picture does not end.
            assert_eq!(out, expected, "without {missing}");
            assert!(depacketizer.dropped() <= 1);
        }
    }

    #[test]
    fn a_picture_without_marker_ends_where_the_timestamp_changes() {
        let (units, mut packets) = packets(&[150, 40, 200], 64);
        packets.iter_mut().for_each(|packet| packet.1 = false);
        assert_eq!(gather(&mut Depacketizer::default(), &packets, None), units[..2]);
        for missing in 0..packets.len() {
            let out = gather(&mut Depacketizer::default(), &packets, Some(missing));
            assert!(out.iter().all(|unit| units.contains(unit)), "without {missing}");
        }
    }

    #[test]
    fn every_form_of_descriptor_comes_off() {
        let lowest = Begins::Independent { lowest: true };
        let forms: [(&[u8], Begins); 10] = [
            (&[0x08], lowest),
            (&[0x88, 0x11], lowest),
            (&[0x88, 0x91, 0x11], lowest),
            (&[0xa8, 0x11, 0x21, 0x55], lowest), // D of the lowest layer means nothing
            (&[0xac, 0x11, 0x22, 0x55], Begins::Independent { lowest: false }),
            (&[0xac, 0x11, 0x23, 0x55], Begins::Layer),
            (&[0xd8, 0x11, 0x02], lowest), // flexible, one reference
            (&[0xf8, 0x91, 0x11, 0x00, 0x03, 0x05, 0x06], lowest), // three, and layer indices without TL0PICIDX
            // Two layers with sizes; a group of two pictures, the second with two references.
            (&[0x0a, 0x38, 0, 16, 0, 9, 0, 32, 0, 18, 2, 0x00, 0x28, 1, 2], lowest),
            (&[0x80, 0x11], Begins::Not),
        ];
        for (form, begins) in forms {
            let data = [form, &[1, 2, 3]].concat();
            assert_eq!(split(&data), Ok((begins, &[1, 2, 3][..])), "{form:02x?}");
        }
        assert_eq!(split(&[0xd8, 0x11, 3, 3, 3, 2, 1]), Err(Error::Value { what: "VP9 references", value: 4 }));
        assert!(matches!(split(&[0x0a, 0x10, 0]), Err(Error::Codec(_))));
    }

    #[test]
    fn spatial_layers_of_a_picture_stay_together() {
        let low = (vec![0xac, 1, 0x00, 0, 1], false, 7);
        let high = (vec![0xac, 1, 0x03, 0, 2], true, 7);
        let out = gather(&mut Depacketizer::default(), &[low.clone(), high.clone()], None);
        assert_eq!(out, [Unit { timestamp: 7, data: Bytes::from_static(&[1, 2]) }]);
        for missing in 0..2 {
            let mut depacketizer = Depacketizer::default();
            let mut packets = vec![low.clone(), high.clone()];
            packets.push((vec![0x8c, 2, 3], true, 8));
            assert_eq!(gather(&mut depacketizer, &packets, Some(missing)).len(), 1, "the one behind");
            assert_eq!(depacketizer.dropped(), 1);
        }
    }

    #[test]
    fn a_picture_may_begin_above_the_lowest_layer_if_nothing_is_missing() {
        let before = (vec![0x8c, 1, 0], true, 6);
        let high = (vec![0xac, 2, 0x02, 0, 2], true, 7);
        assert_eq!(gather(&mut Depacketizer::default(), &[before.clone(), high.clone()], None).len(), 2);
        let lost = (vec![0xac, 2, 0x00, 0, 1], false, 7);
        assert_eq!(gather(&mut Depacketizer::default(), &[before, lost, high], Some(1)).len(), 1);
    }

    proptest! {
        #[test]
        fn what_was_cut_is_put_together(sizes in prop::collection::vec(1usize..400, 1..6), max in 64usize..200) {
            let (units, packets) = packets(&sizes, max);
            prop_assert_eq!(gather(&mut Depacketizer::default(), &packets, None), units);
        }

        #[test]
        fn garbage_does_no_harm(packets in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..24), any::<bool>(), 0u32..3, any::<bool>()), 0..20,
        )) {
            let mut depacketizer = Depacketizer::default();
            let mut out = Vec::new();
            for (data, marker, timestamp, lost) in &packets {
                let payload = Payload { data, marker: *marker, timestamp: *timestamp, lost: *lost };
                let _ = depacketizer.handle(&payload, &mut out);
            }
            prop_assert!(out.iter().all(|unit| !unit.data.is_empty()));
        }
    }
}
