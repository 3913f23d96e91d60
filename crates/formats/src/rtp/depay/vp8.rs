//! VP8 (RFC 7741): descriptors come off, what is behind them is the frame.
//!
//! Picture ids and layers are read over: a frame is what has one timestamp, and sequence numbers say what is missing.

use super::{Depay, Error, Gathering, Payload, Unit};

/// Gathers frames.
#[derive(Debug, Default)]
pub(super) struct Depacketizer {
    unit: Gathering,
    dropped: u64,
}

impl Depay for Depacketizer {
    fn handle(&mut self, payload: &Payload<'_>, out: &mut Vec<Unit>) -> Result<(), Error> {
        self.unit.torn |= payload.lost && self.unit.packets > 0;
        if payload.data.is_empty() {
            return Ok(()); // padding alone, as WebRTC's senders probe with
        }
        let split = split(payload.data);
        let begins = split.as_ref().is_ok_and(|(begins, _)| *begins);
        if begins || payload.timestamp != self.unit.timestamp {
            out.extend(self.unit.take(&mut self.dropped));
            self.unit.timestamp = payload.timestamp;
        }
        let gathered = split.and_then(|(begins, data)| self.gather(begins, data)).map_err(|why| self.unit.tear(why));
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

/// Whether a frame begins here, and what is behind the descriptor.
///
/// ```text
///      |X|R|N|S|R| PID |  S and PID 0: the frame's first packet
/// X:   |I|L|T|K|  RSV  |
/// I:   |M| PictureID   |  M: a second byte
/// L:   |   TL0PICIDX   |
/// T/K: |TID|Y| KEYIDX  |
/// ```
fn split(payload: &[u8]) -> Result<(bool, &[u8]), Error> {
    let mut rest = payload;
    let first = byte(&mut rest)?;
    if first & 0x80 != 0 {
        let extensions = byte(&mut rest)?;
        if extensions & 0x80 != 0 && byte(&mut rest)? & 0x80 != 0 {
            byte(&mut rest)?;
        }
        if extensions & 0x40 != 0 {
            byte(&mut rest)?;
        }
        if extensions & 0x30 != 0 {
            byte(&mut rest)?;
        }
    }
    Ok((first & 0x17 == 0x10, rest))
}

fn byte(rest: &mut &[u8]) -> Result<u8, Error> {
    let (byte, behind) = rest.split_first().ok_or(Error::Short("VP8 payload descriptor"))?;
    *rest = behind;
    Ok(*byte)
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
        let mut packetizer = Packetizer::new(&Track::new(track, Codec::Vp8, Bytes::new()).unwrap());
        let (mut units, mut packets) = (Vec::new(), Vec::new());
        for (size, timestamp) in sizes.iter().zip((0..).step_by(3000)) {
            let data: Bytes = (0..*size).map(|at| (at + size) as u8).collect();
            units.push(Unit { timestamp, data: data.clone() });
            let frame = Frame { track, dts, pts: dts, key: false, discontinuity: false, wall, data };
            let emit = &mut |piece: Piece<'_>| {
                assert!(piece.parts.concat().len() <= max);
                packets.push((piece.parts.concat(), piece.marker, timestamp));
            };
            packetizer.pack(&frame, max, emit);
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
    fn a_missing_packet_costs_its_frame_and_no_other() {
        let (units, packets) = packets(&[150, 40, 200, 61, 60, 59, 300], 64);
        for missing in 0..packets.len() {
            let mut depacketizer = Depacketizer::default();
            let out = gather(&mut depacketizer, &packets, Some(missing));
            let expected: Vec<_> = units.iter().filter(|unit| unit.timestamp != packets[missing].2).cloned().collect();
            // Nobody says that the very last packet is missing, so its frame does not end.
            assert_eq!(out, expected, "without {missing}");
            assert!(depacketizer.dropped() <= 1);
        }
    }

    #[test]
    fn a_frame_without_marker_ends_where_the_next_begins() {
        let (units, mut packets) = packets(&[150, 40, 200], 64);
        packets.iter_mut().for_each(|packet| packet.1 = false);
        assert_eq!(gather(&mut Depacketizer::default(), &packets, None), units[..2]);
        packets.iter_mut().for_each(|packet| packet.2 = 0); // nor a timestamp of its own
        let out = gather(&mut Depacketizer::default(), &packets, None);
        assert!(out.iter().zip(&units[..2]).all(|(out, unit)| out.data == unit.data) && out.len() == 2);
    }

    #[test]
    fn every_form_of_descriptor_comes_off() {
        let forms: [&[u8]; 8] = [
            &[0x10],
            &[0x30], // N
            &[0x90, 0x00],
            &[0x90, 0x80, 0x11],
            &[0x90, 0x80, 0x81, 0x11],
            &[0x90, 0x40, 0x22],
            &[0x90, 0x20, 0x40],
            &[0x90, 0xf0, 0x81, 0x11, 0x22, 0x43],
        ];
        for form in forms {
            let data = [form, &[1, 2, 3]].concat();
            assert_eq!(split(&data), Ok((true, &[1, 2, 3][..])), "{form:02x?}");
        }
        assert_eq!(split(&[0x00, 1]), Ok((false, &[1][..])));
        assert_eq!(split(&[0x11, 1]), Ok((false, &[1][..])), "another partition begins, not the frame");
        assert_eq!(split(&[0x90, 0x80, 0x81]), Err(Error::Short("VP8 payload descriptor")));
    }

    #[test]
    fn a_broken_descriptor_tears_its_frame_and_the_next_one_comes() {
        let mut depacketizer = Depacketizer::default();
        let mut out = Vec::new();
        let mut handle = |data: &[u8], marker, timestamp| {
            depacketizer.handle(&Payload { data, marker, timestamp, lost: false }, &mut out)
        };
        handle(&[0x10, 1], false, 1).unwrap();
        assert!(handle(&[0x80], false, 1).is_err());
        handle(&[0x00, 2], true, 1).unwrap();
        handle(&[], false, 1).unwrap();
        handle(&[0x10, 3], true, 2).unwrap();
        assert_eq!(out, [Unit { timestamp: 2, data: Bytes::from_static(&[3]) }]);
        assert_eq!(depacketizer.dropped(), 1);
    }

    proptest! {
        #[test]
        fn what_was_cut_is_put_together(sizes in prop::collection::vec(1usize..400, 1..6), max in 64usize..200) {
            let (units, packets) = packets(&sizes, max);
            prop_assert_eq!(gather(&mut Depacketizer::default(), &packets, None), units);
        }

        #[test]
        fn garbage_does_no_harm(packets in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..12), any::<bool>(), 0u32..3, any::<bool>()), 0..20,
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
