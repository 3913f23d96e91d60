//! `mpeg4-generic` (RFC 3640): one or more access units a packet behind their AU headers, or fragments of one.

use bytes::Bytes;
use culvert_media::codec::bits::Reader;

use super::{Depay, Gathering, Payload, Unit};
use crate::rtp::Error;

/// Most access units of one packet.
const UNITS: usize = 64;

#[derive(Debug)]
pub(super) struct Depacketizer {
    size_bits: u32,
    index_bits: u32,
    delta_bits: u32,
    unit_ticks: u32,
    /// Fragments of one unit, and how large it is to become.
    gathering: Gathering,
    whole_bytes: usize,
    dropped: u64,
}

impl Depacketizer {
    pub(super) fn new(size_bits: u8, index_bits: u8, delta_bits: u8, unit_ticks: u32) -> Depacketizer {
        Depacketizer {
            size_bits: u32::from(size_bits.min(32)),
            index_bits: u32::from(index_bits.min(32)),
            delta_bits: u32::from(delta_bits.min(32)),
            unit_ticks,
            gathering: Gathering::default(),
            whole_bytes: 0,
            dropped: 0,
        }
    }

    /// The sizes of the AU headers, and what is behind them.
    fn sizes<'a>(&self, data: &'a [u8]) -> Result<(Vec<usize>, &'a [u8]), Error> {
        let (length, rest) = data.split_first_chunk::<2>().ok_or(Error::Short("AU headers"))?;
        let bits = usize::from(u16::from_be_bytes(*length));
        let (headers, units) = rest.split_at_checked(bits.div_ceil(8)).ok_or(Error::Short("AU headers"))?;
        let (mut sizes, mut at) = (Vec::new(), 0);
        let mut reader = Reader::new("AU headers", headers);
        while at < bits {
            if sizes.len() == UNITS {
                return Err(Error::Value { what: "the number of access units of a packet", value: UNITS as u64 + 1 });
            }
            let index = if sizes.is_empty() { self.index_bits } else { self.delta_bits };
            let size = reader.bits(self.size_bits)?;
            // Interleaving (an index that is not 0) is for lossy networks of the nineties; none of our peers has it.
            if reader.bits(index)? != 0 {
                return Err(Error::Value { what: "AU-index", value: 1 });
            }
            sizes.push(usize::try_from(size).unwrap_or(usize::MAX));
            at += usize::try_from(self.size_bits + index).unwrap_or(usize::MAX).max(1);
        }
        Ok((sizes, units))
    }

    fn take(&mut self, out: &mut Vec<Unit>) {
        out.extend(self.gathering.take(&mut self.dropped));
        self.whole_bytes = 0;
    }

    fn fragment(&mut self, payload: &Payload<'_>, size: usize, data: &[u8], out: &mut Vec<Unit>) -> Result<(), Error> {
        if self.gathering.is_empty() {
            self.gathering.timestamp = payload.timestamp;
            self.whole_bytes = size;
            // The first of them cannot be told from the second: only a packet that follows one that ended a unit is trusted.
            if payload.lost {
                self.gathering.torn = true;
            }
        }
        if self.gathering.timestamp != payload.timestamp || self.whole_bytes != size {
            self.gathering.torn = true;
        }
        self.gathering.packet()?;
        if !self.gathering.torn {
            self.gathering.put(data)?;
        }
        if self.gathering.data.len() > size {
            return Err(self.gathering.tear(Error::Value { what: "AU-size", value: size as u64 }));
        }
        if self.gathering.data.len() == size || payload.marker {
            if self.gathering.data.len() != size {
                self.gathering.torn = true;
            }
            self.take(out);
        }
        Ok(())
    }
}

impl Depay for Depacketizer {
    fn handle(&mut self, payload: &Payload<'_>, out: &mut Vec<Unit>) -> Result<(), Error> {
        if !self.gathering.is_empty() && (payload.lost || self.gathering.timestamp != payload.timestamp) {
            self.gathering.torn = true;
            self.take(out);
        }
        if self.size_bits == 0 {
            if !payload.data.is_empty() {
                out.push(Unit { timestamp: payload.timestamp, data: Bytes::copy_from_slice(payload.data) });
            }
            return Ok(());
        }
        let (sizes, mut units) = self.sizes(payload.data)?;
        if let [size] = sizes[..]
            && size > units.len()
        {
            return self.fragment(payload, size, units, out);
        }
        let mut timestamp = payload.timestamp;
        for size in sizes {
            let (unit, rest) = units.split_at_checked(size).ok_or(Error::Short("an access unit"))?;
            if !unit.is_empty() {
                out.push(Unit { timestamp, data: Bytes::copy_from_slice(unit) });
            }
            timestamp = timestamp.wrapping_add(self.unit_ticks);
            units = rest;
        }
        Ok(())
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rtp::pay::{Piece, aac};

    fn hbr() -> Depacketizer {
        Depacketizer::new(13, 3, 3, 1024)
    }

    fn packets(unit: &[u8], max: usize) -> Vec<(Vec<u8>, bool)> {
        let mut packets = Vec::new();
        aac::pack(unit, max, &mut |piece: Piece<'_>| packets.push((piece.parts.concat(), piece.marker)));
        packets
    }

    #[test]
    fn several_units_of_one_packet_follow_each_other_in_time() {
        let payload = [0, 32, 0, 2 << 3, 0, 1 << 3, b'a', b'b', b'c'];
        let mut out = Vec::new();
        hbr().handle(&Payload { data: &payload, marker: true, timestamp: u32::MAX, lost: false }, &mut out).unwrap();
        let units: Vec<_> = out.iter().map(|unit| (unit.timestamp, &unit.data[..])).collect();
        assert_eq!(units, [(u32::MAX, &b"ab"[..]), (1023, b"c")]);
    }

    proptest! {
        #[test]
        fn what_was_cut_comes_back_whole_or_not_at_all(
            unit in prop::collection::vec(any::<u8>(), 1..4000), max in 64_usize..1500, lost in prop::option::of(0_usize..60),
        ) {
            let packets = packets(&unit, max);
            let (mut depay, mut out, mut gone) = (hbr(), Vec::new(), false);
            let all = packets.len();
            for (at, (data, marker)) in packets.iter().enumerate() {
                if lost == Some(at) {
                    gone = true;
                    continue;
                }
                let missing = lost.is_some_and(|lost| lost + 1 == at);
                depay.handle(&Payload { data, marker: *marker, timestamp: 5, lost: missing }, &mut out).unwrap();
            }
            prop_assert!(lost.is_none_or(|at| at >= all) != gone);
            match gone {
                false => prop_assert_eq!(&out[..], &[Unit { timestamp: 5, data: unit.into() }][..]),
                true => prop_assert!(out.is_empty()),
            }
        }

        #[test]
        fn garbage_never_panics(payloads in prop::collection::vec(any::<Vec<u8>>(), 1..8), bits in 0_u8..40) {
            let mut depay = Depacketizer::new(bits, 3, 3, 1024);
            for (n, data) in payloads.iter().enumerate() {
                let timestamp = (n / 2) as u32;
                depay.handle(&Payload { data, marker: n % 3 == 0, timestamp, lost: n % 5 == 0 }, &mut Vec::new()).ok();
            }
        }
    }
}
