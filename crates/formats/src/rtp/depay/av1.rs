//! AV1 ("RTP Payload Format For AV1" of AOMedia, <https://aomediacodec.github.io/av1-rtp-spec/>): OBUs get their size
//! fields back, fragments are joined, temporal delimiters and tile lists go.
//!
//! All layers stay in the temporal unit; the dependency descriptor is not read.

use culvert_media::codec::av1::{self, Obu};

use super::{Depay, Error, Gathering, Payload, UNIT_BYTES, Unit};

/// OBU types, AV1 6.2.2.
const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const TILE_LIST: u8 = 8;
/// obu_has_size_field, AV1 5.3.2.
const HAS_SIZE: u8 = 2;
/// Z: the first element continues one of the packet before.
const CONTINUES: u8 = 0x80;
/// Y: the last element goes on in the next packet.
const CONTINUED: u8 = 0x40;
/// N: a coded video sequence begins.
const SEQUENCE_BEGINS: u8 = 0x08;

/// Gathers temporal units.
#[derive(Debug, Default)]
pub(super) struct Depacketizer {
    unit: Gathering,
    dropped: u64,
    /// What there is of an OBU that goes on in the next packet.
    fragment: Option<Vec<u8>>,
    /// No packet is missing before the next one. Of the very first that is not known.
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
        // 4.2: the last packet of a temporal unit may be without marker.
        if payload.timestamp != self.unit.timestamp {
            self.end(out);
            self.unit.timestamp = payload.timestamp;
        }
        let gathered = self.gather(payload.data, continuous).map_err(|why| self.unit.tear(why));
        if payload.marker {
            self.end(out);
        }
        gathered
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Depacketizer {
    fn end(&mut self, out: &mut Vec<Unit>) {
        // An OBU that was to go on never ended.
        self.unit.torn |= self.fragment.take().is_some();
        out.extend(self.unit.take(&mut self.dropped));
    }

    /// Takes a packet of the unit: `|Z|Y| W |N|-|-|-|` and OBU elements (4.4).
    fn gather(&mut self, packet: &[u8], continuous: bool) -> Result<(), Error> {
        let (header, mut rest) = packet.split_first().ok_or(Error::Short("AV1 aggregation header"))?;
        if self.unit.packets == 0 {
            self.unit.torn |= header & CONTINUES != 0 || !continuous && !surely_begins(*header, rest);
        }
        if self.unit.torn {
            self.fragment = None;
            return Ok(());
        }
        self.unit.packet()?;
        if (header & CONTINUES != 0) != self.fragment.is_some() {
            return Err(Error::Value { what: "AV1 Z bit", value: u64::from(header >> 7) });
        }
        let mut count = usize::from(header >> 4 & 3);
        loop {
            let element = element(&mut rest, count)?;
            let last = if count == 0 { rest.is_empty() } else { count == 1 };
            self.element(element, last && header & CONTINUED != 0)?;
            if last {
                return Ok(());
            }
            count = count.saturating_sub(1);
        }
    }

    /// Takes an element, which may be the continuation of a fragment and `goes_on` where it is one itself.
    fn element(&mut self, element: &[u8], goes_on: bool) -> Result<(), Error> {
        let Some(mut fragment) = self.fragment.take() else {
            if goes_on {
                self.fragment = Some(element.to_vec());
                return Ok(());
            }
            return self.obus(element);
        };
        if self.unit.data.len() + fragment.len() + element.len() > UNIT_BYTES {
            return Err(Error::Large);
        }
        fragment.extend_from_slice(element);
        if goes_on {
            self.fragment = Some(fragment);
            return Ok(());
        }
        self.obus(&fragment)
    }

    /// Takes a whole element: one OBU, or, of senders that leave size fields in, perhaps several.
    fn obus(&mut self, element: &[u8]) -> Result<(), Error> {
        for obu in av1::obus(element) {
            let obu = obu?;
            // 5: these are to be ignored.
            if !matches!(obu.kind, TEMPORAL_DELIMITER | TILE_LIST) {
                self.put(&obu)?;
            }
        }
        Ok(())
    }

    /// Puts an OBU into the unit with a size field.
    fn put(&mut self, obu: &Obu<'_>) -> Result<(), Error> {
        if obu.sized {
            return self.unit.put(obu.raw);
        }
        let head = obu.raw.get(..obu.raw.len() - obu.payload.len()).unwrap_or_default();
        let (first, extension) = head.split_first().ok_or(Error::Short("OBU"))?;
        self.unit.put(&[first | HAS_SIZE])?;
        self.unit.put(extension)?;
        let mut size = obu.payload.len();
        while size > 0x7f {
            self.unit.put(&[0x80 | (size & 0x7f) as u8])?;
            size >>= 7;
        }
        self.unit.put(&[size as u8])?;
        self.unit.put(obu.payload)
    }
}

/// Whether a temporal unit must begin with this packet. Where packets are missing before one that just begins an OBU,
/// they may have been the unit's own first.
fn surely_begins(header: u8, mut rest: &[u8]) -> bool {
    let first = element(&mut rest, usize::from(header >> 4 & 3)).ok().and_then(<[u8]>::first);
    let kind = first.map(|first| first >> 3 & 15);
    header & SEQUENCE_BEGINS != 0 || matches!(kind, Some(SEQUENCE_HEADER | TEMPORAL_DELIMITER))
}

/// The next element, where `count` are left or, with 0, all have lengths.
fn element<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Error> {
    if count == 1 {
        return Ok(std::mem::take(rest));
    }
    let size = leb128(rest)?;
    let (element, behind) = rest.split_at_checked(size).ok_or(Error::Short("OBU element"))?;
    *rest = behind;
    Ok(element)
}

/// AV1 4.10.5, as far as a length can be within a packet.
fn leb128(rest: &mut &[u8]) -> Result<usize, Error> {
    let mut value = 0u64;
    for shift in 0..8 {
        let (byte, behind) = rest.split_first().ok_or(Error::Short("OBU element length"))?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            return usize::try_from(value).map_err(|_| Error::Value { what: "OBU element length", value });
        }
    }
    Err(Error::Value { what: "OBU element length", value })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use culvert_media::{Codec, Detail, Frame, Time, Track, TrackId, Video};
    use proptest::prelude::*;

    use super::*;
    use crate::rtp::pay::{Packetizer, Piece};

    type Sent = (Vec<u8>, bool, u32);

    /// An OBU with a size field, as the hub has it.
    fn obu(kind: u8, len: usize) -> Vec<u8> {
        let mut out = vec![kind << 3 | HAS_SIZE];
        if len > 0x7f {
            out.push(0x80 | (len & 0x7f) as u8);
            out.push((len >> 7) as u8);
        } else {
            out.push(len as u8);
        }
        out.extend((0..len).map(|at| (at + len) as u8));
        out
    }

    /// Temporal units of OBUs with these sizes; those with a sequence header are key frames.
    fn packets(units: &[Vec<(u8, usize)>], max: usize) -> (Vec<Unit>, Vec<Sent>) {
        let (id, dts, wall) = (TrackId(0), Time::ZERO, SystemTime::UNIX_EPOCH);
        let detail = Detail::Video(Video::default());
        let mut packetizer = Packetizer::new(&Track { id, codec: Codec::Av1, config: Bytes::new(), detail });
        let (mut whole, mut packets) = (Vec::new(), Vec::new());
        for (obus, timestamp) in units.iter().zip((0..).step_by(3000)) {
            let key = obus[0].0 == SEQUENCE_HEADER;
            let data = Bytes::from(obus.iter().flat_map(|(kind, len)| obu(*kind, *len)).collect::<Vec<_>>());
            whole.push(Unit { timestamp, data: data.clone() });
            let frame = Frame { track: id, dts, pts: dts, key, discontinuity: false, wall, data };
            packetizer.pack(&frame, max, &mut |piece: Piece<'_>| {
                let sent = piece.parts.concat();
                assert!(sent.len() <= max && sent.len() > 1, "{}", sent.len());
                packets.push((sent, piece.marker, timestamp));
            });
        }
        (whole, packets)
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

    fn one(packets: &[&[u8]]) -> Result<Vec<Unit>, Error> {
        let mut depacketizer = Depacketizer::default();
        let mut out = Vec::new();
        for (data, at) in packets.iter().zip(1..) {
            let payload = Payload { data, marker: at == packets.len(), timestamp: 1, lost: false };
            depacketizer.handle(&payload, &mut out)?;
        }
        Ok(out)
    }

    #[test]
    fn a_missing_packet_lets_no_torn_unit_out() {
        // A key frame, frames in pieces, one whose first packet ends with an OBU, small ones.
        let units = [
            vec![(1, 11), (6, 200)],
            vec![(3, 20), (4, 41), (4, 61), (4, 130)],
            vec![(6, 10)],
            vec![(6, 61)],
            vec![(6, 62)],
            vec![(1, 11), (6, 20)],
            vec![(6, 30)],
        ];
        let (units, packets) = packets(&units, 64);
        for markers in [true, false] {
            let packets: Vec<Sent> =
                packets.iter().map(|(data, marker, at)| (data.clone(), marker & markers, *at)).collect();
            for missing in 0..packets.len() {
                let mut depacketizer = Depacketizer::default();
                let out = gather(&mut depacketizer, &packets, Some(missing));
                assert!(out.iter().all(|unit| units.contains(unit)), "without {missing}");
                assert!(out.iter().all(|unit| unit.timestamp != packets[missing].2));
                // Its own, and the next, which may lack its beginning; without markers the one before and the last.
                let spared = units.len() - if markers { 2 } else { 4 };
                assert!(out.len() >= spared && depacketizer.dropped() <= 2, "without {missing}");
            }
        }
    }

    #[test]
    fn after_a_loss_only_what_surely_begins_is_taken() {
        let mut depacketizer = Depacketizer::default();
        let mut out = Vec::new();
        let mut handle = |data: &[u8], timestamp, lost| {
            depacketizer.handle(&Payload { data, marker: true, timestamp, lost }, &mut out).unwrap();
            out.len()
        };
        assert_eq!(handle(&[0x10, 0x30, 1], 1, false), 0, "the middle of a unit may be the first that was heard");
        assert_eq!(handle(&[0x10, 0x30, 1], 2, false), 1);
        assert_eq!(handle(&[0x10, 0x30, 1], 3, true), 1);
        assert_eq!(handle(&[0x18, 0x30, 1], 4, true), 2, "N");
        assert_eq!(handle(&[0x10, 0x08, 1], 5, true), 3, "a sequence header");
        assert_eq!(handle(&[0x20, 1, 0x10, 0x30, 1], 6, true), 4, "a temporal delimiter");
        assert_eq!(depacketizer.dropped(), 2);
    }

    #[test]
    fn lengths_are_read_with_and_without_count() {
        let expected = [Unit { timestamp: 1, data: Bytes::from_static(&[0x0a, 1, 9, 0x32, 2, 7, 8, 0x32, 1, 5]) }];
        let elements = [&[0x08, 9][..], &[0x30, 7, 8], &[0x30, 5]];
        let [a, b, c] = elements;
        assert_eq!(one(&[&[&[0x08, 2], a, &[3], b, &[2], c].concat()]).unwrap(), expected);
        assert_eq!(one(&[&[&[0x38, 2], a, &[0x83, 0], b, c].concat()]).unwrap(), expected);
        assert_eq!(one(&[&[&[0x28, 2], a, b].concat(), &[&[0x10], c].concat()]).unwrap(), expected);
        // The second is cut in three; the last length is left out, or not.
        let fragments: [&[u8]; 3] = [&[0x68, 2, 0x08, 9, 0x30], &[0xc0, 1, 7], &[0xa0, 1, 8, 0x30, 5]];
        assert_eq!(one(&fragments).unwrap(), expected);
    }

    #[test]
    fn size_fields_that_should_not_be_there_are_kept_and_delimiters_are_not() {
        let expected = [Unit { timestamp: 1, data: Bytes::from_static(&[0x0a, 1, 9, 0x36, 8, 2, 7, 8]) }];
        // Each with its size; all in one element; a tile list and an empty element between.
        assert_eq!(one(&[&[0x38, 2, 0x12, 0, 3, 0x0a, 1, 9, 0x36, 8, 2, 7, 8]]).unwrap(), expected);
        assert_eq!(one(&[&[0x18, 0x12, 0, 0x0a, 1, 9, 0x36, 8, 2, 7, 8]]).unwrap(), expected);
        assert_eq!(one(&[&[0x08, 2, 0x08, 9, 3, 0x40, 1, 2, 0, 4, 0x34, 8, 7, 8]]).unwrap(), expected);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert_eq!(one(&[&[0x08, 3, 0x08, 9]]), Err(Error::Short("OBU element")));
        assert_eq!(one(&[&[0x38, 2, 0x08, 9]]), Err(Error::Short("OBU element length")));
        assert!(one(&[&[0x18, 0x88, 9]]).is_err(), "obu_forbidden_bit");
        assert!(one(&[&[0x58, 0x08, 9], &[0x10, 0x30, 1]]).is_err(), "what Y said goes on does not");
        assert!(one(&[&[0x18, 0x08, 9], &[0x90, 0x30, 1]]).is_err(), "Z continues nothing");
        assert_eq!(one(&[&[0x58, 0x08, 9]]), Ok(vec![]), "no end");
    }

    #[test]
    fn an_obu_beyond_the_bound_is_given_up_and_the_next_unit_comes() {
        let mut depacketizer = Depacketizer::default();
        let mut out = Vec::new();
        let mut handle = |data: &[u8], timestamp| {
            depacketizer.handle(&Payload { data, marker: false, timestamp, lost: false }, &mut out)
        };
        let piece = |header| [&[header][..], &[0x30; 1 << 20]].concat();
        handle(&piece(0x58), 1).unwrap();
        (1..8).for_each(|_| handle(&piece(0xd0), 1).unwrap());
        assert_eq!(handle(&piece(0xd0), 1), Err(Error::Large));
        handle(&piece(0x90), 1).unwrap();
        handle(&[0x10, 0x30, 1], 2).unwrap();
        handle(&[0x10, 0x30, 1], 3).unwrap();
        assert_eq!(out, [Unit { timestamp: 2, data: Bytes::from_static(&[0x32, 1, 1]) }]);
        assert_eq!(depacketizer.dropped(), 1);
    }

    proptest! {
        #[test]
        fn what_was_cut_is_put_together(
            units in prop::collection::vec(prop::collection::vec((3u8..7, 0usize..300), 1..6), 0..5),
            max in 64usize..200, missing in any::<prop::sample::Index>(),
        ) {
            let mut units = units;
            units.insert(0, vec![(SEQUENCE_HEADER, 11), (6, 100)]);
            let (units, packets) = packets(&units, max);
            prop_assert_eq!(&gather(&mut Depacketizer::default(), &packets, None), &units);
            let missing = missing.index(packets.len());
            let out = gather(&mut Depacketizer::default(), &packets, Some(missing));
            prop_assert!(out.iter().all(|unit| units.contains(unit) && unit.timestamp != packets[missing].2));
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
            for unit in &out {
                prop_assert!(av1::obus(&unit.data).all(|obu| obu.is_ok_and(|obu| obu.sized && obu.kind != 2)));
            }
        }
    }
}
