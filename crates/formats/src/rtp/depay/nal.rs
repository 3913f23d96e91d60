//! H.264 (RFC 6184) and H.265 (RFC 7798): single units, aggregates and fragments to access units behind 4-byte lengths.

use culvert_media::codec::nal;

use super::{Depay, Gathering, Payload, Unit};
use crate::nal::{Kind, Role};
use crate::rtp::Error;

#[derive(Debug)]
pub(super) struct Depacketizer {
    kind: Kind,
    gathering: Gathering,
    /// Where the length of the unit that fragments are gathered of stands.
    fragment: Option<usize>,
    /// There is a slice in what was gathered.
    has_picture: bool,
    /// Packets were lost right before this unit began: it is whole only if its first slice is a picture's first.
    suspect: bool,
    /// The unit that was given out last.
    last: Option<u32>,
    has_marker_bug: bool,
    dropped: u64,
}

impl Depacketizer {
    pub(super) fn new(kind: Kind) -> Depacketizer {
        Depacketizer {
            kind,
            gathering: Gathering::default(),
            fragment: None,
            has_picture: false,
            suspect: true,
            last: None,
            has_marker_bug: false,
            dropped: 0,
        }
    }

    fn take(&mut self, out: &mut Vec<Unit>) {
        if self.fragment.take().is_some() {
            // Its end never came.
            self.gathering.torn = true;
        }
        self.has_picture = false;
        self.suspect = false;
        self.last = Some(self.gathering.timestamp);
        out.extend(self.gathering.take(&mut self.dropped));
    }

    /// A whole NAL unit.
    fn unit(&mut self, unit: &[u8]) -> Result<(), Error> {
        let Some(first) = unit.first() else { return Ok(()) };
        if unit.len() < self.kind.header_bytes() {
            return Err(self.gathering.tear(Error::Short("a NAL unit")));
        }
        match self.kind.role(*first) {
            Role::Filler => return Ok(()),
            Role::Picture => self.picture(unit),
            Role::Set(_) | Role::Other => {}
            Role::Aggregate | Role::Fragment | Role::Unknown => {
                return Err(self.gathering.tear(Error::Value { what: "a NAL unit's type", value: u64::from(*first) }));
            }
        }
        if !self.gathering.torn {
            self.gathering.put(&u32::try_from(unit.len()).unwrap_or(u32::MAX).to_be_bytes())?;
            self.gathering.put(unit)?;
        }
        Ok(())
    }

    fn picture(&mut self, unit: &[u8]) {
        let begins = self.kind.begins_picture(unit);
        if !self.has_picture && !begins {
            if self.suspect {
                self.gathering.torn = true;
            } else if self.last == Some(self.gathering.timestamp) {
                // The slices before it went out as a unit: this sender marks the end of each slice.
                self.has_marker_bug = true;
                self.gathering.torn = true;
            }
        }
        self.has_picture = true;
    }

    fn aggregate(&mut self, data: &[u8]) -> Result<(), Error> {
        let mut rest = data.get(self.kind.header_bytes()..).unwrap_or_default();
        while let Some((length, behind)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some((unit, behind)) = behind.split_at_checked(length) else {
                return Err(self.gathering.tear(Error::Short("an aggregation packet")));
            };
            self.unit(unit)?;
            rest = behind;
        }
        Ok(())
    }

    fn fragment(&mut self, data: &[u8]) -> Result<(), Error> {
        let (header, rest) =
            data.split_at_checked(self.kind.header_bytes()).ok_or(Error::Short("a fragmentation unit"))?;
        let (fragment, part) = rest.split_first().ok_or(Error::Short("a fragmentation unit"))?;
        let (start, end) = (fragment & 0x80 != 0, fragment & 0x40 != 0);
        if start {
            if self.fragment.take().is_some() {
                self.gathering.torn = true;
            }
            let first = header.first().copied().unwrap_or(0);
            let header: &[u8] = match self.kind {
                Kind::H264 => &[first & 0xe0 | fragment & 0x1f],
                Kind::H265 => &[first & 0x81 | (fragment & 0x3f) << 1, header.get(1).copied().unwrap_or(1)],
            };
            if self.kind.role(header.first().copied().unwrap_or(0)) == Role::Picture {
                // Only the first bit behind the header is asked for.
                let begin = [header, part.get(..1).unwrap_or_default()].concat();
                self.picture(&begin);
            }
            if !self.gathering.torn {
                self.fragment = Some(self.gathering.data.len());
                self.gathering.put(&[0; 4])?;
                self.gathering.put(header)?;
            }
        }
        if self.gathering.torn {
            return Ok(());
        }
        let Some(at) = self.fragment else {
            return Err(self.gathering.tear(Error::Value { what: "a fragment without a beginning", value: 0 }));
        };
        self.gathering.put(part)?;
        if end {
            self.fragment = None;
            let length = u32::try_from(self.gathering.data.len() - at - 4).unwrap_or(u32::MAX);
            if let Some(field) = self.gathering.data.get_mut(at..at + 4) {
                field.copy_from_slice(&length.to_be_bytes());
            }
        }
        Ok(())
    }
}

impl Depay for Depacketizer {
    fn handle(&mut self, payload: &Payload<'_>, out: &mut Vec<Unit>) -> Result<(), Error> {
        if !self.gathering.is_empty() {
            if payload.lost {
                self.gathering.torn = true;
            }
            if payload.timestamp != self.gathering.timestamp {
                self.take(out);
                // What is missing may have been the beginning of this one, too.
                self.suspect = payload.lost;
            }
        } else if payload.lost {
            self.suspect = true;
        }
        let Some(first) = payload.data.first() else { return Ok(()) };
        self.gathering.timestamp = payload.timestamp;
        self.gathering.packet()?;
        if payload.data.starts_with(&[0, 0, 1]) || payload.data.starts_with(&[0, 0, 0, 1]) {
            // Some cameras send start codes, and several units between them.
            for unit in nal::annexb_units(payload.data) {
                self.unit(unit)?;
            }
        } else {
            match self.kind.role(*first) {
                Role::Aggregate => self.aggregate(payload.data)?,
                Role::Fragment => {
                    if let Err(why) = self.fragment(payload.data) {
                        return Err(self.gathering.tear(why));
                    }
                }
                Role::Picture | Role::Set(_) | Role::Filler | Role::Other | Role::Unknown => self.unit(payload.data)?,
            }
        }
        // Parameter sets are marked by some as if they were a unit of their own.
        let ends = self.has_picture || self.gathering.torn;
        if payload.marker && ends && !self.has_marker_bug {
            self.take(out);
        }
        Ok(())
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use culvert_media::{Codec, Frame, Time, Track, TrackId};
    use proptest::prelude::*;

    use super::*;
    use crate::rtp::pay;

    fn packets(kind: Kind, units: &[Vec<u8>], max: usize) -> Vec<(Vec<u8>, bool)> {
        let mut data = Vec::new();
        for unit in units {
            data.extend((unit.len() as u32).to_be_bytes());
            data.extend(unit);
        }
        let codec = if kind == Kind::H264 { Codec::H264 } else { Codec::H265 };
        let track = Track {
            id: TrackId(0),
            codec,
            config: Bytes::new(),
            detail: culvert_media::Detail::Video(Default::default()),
        };
        let (dts, wall) = (Time::ZERO, SystemTime::UNIX_EPOCH);
        let frame =
            Frame { track: TrackId(0), dts, pts: dts, key: false, discontinuity: false, wall, data: data.into() };
        let mut packets = Vec::new();
        pay::Packetizer::new(&track).pack(&frame, max, &mut |piece| {
            assert!(piece.parts.concat().len() <= max);
            packets.push((piece.parts.concat(), piece.marker));
        });
        packets
    }

    fn joined(units: &[Vec<u8>]) -> Bytes {
        units.iter().flat_map(|unit| [&(unit.len() as u32).to_be_bytes()[..], unit].concat()).collect()
    }

    /// A picture of some slices, of which the first begins it, behind an SEI.
    fn picture(kind: Kind, sizes: &[usize]) -> Vec<Vec<u8>> {
        let header: &[u8] = if kind == Kind::H264 { &[0x65] } else { &[19 << 1, 1] };
        let sei: Vec<u8> = if kind == Kind::H264 { vec![0x06, 1, 2] } else { vec![39 << 1, 1, 2] };
        let slices = sizes.iter().enumerate().map(|(n, size)| {
            let mut slice = header.to_vec();
            slice.push(if n == 0 { 0x80 } else { 0x40 });
            slice.extend((0..*size).map(|at| (at * 7 + n) as u8));
            slice
        });
        std::iter::once(sei).chain(slices).collect()
    }

    fn feed(
        depay: &mut Depacketizer,
        packets: &[(Vec<u8>, bool)],
        timestamp: u32,
        gone: &[usize],
        lost: &mut bool,
    ) -> Vec<Unit> {
        let mut out = Vec::new();
        for (at, (data, marker)) in packets.iter().enumerate() {
            if gone.contains(&at) {
                *lost = true;
                continue;
            }
            let payload = Payload { data, marker: *marker, timestamp, lost: std::mem::take(lost) };
            depay.handle(&payload, &mut out).ok();
        }
        out
    }

    proptest! {
        #[test]
        fn what_was_cut_comes_back_whole_or_not_at_all(
            h265: bool, sizes in prop::collection::vec(0_usize..3000, 1..5), max in 64_usize..1500,
            gone in prop::collection::vec(0_usize..40, 0..4),
        ) {
            let kind = if h265 { Kind::H265 } else { Kind::H264 };
            let units = picture(kind, &sizes);
            let packets = packets(kind, &units, max);
            let (mut depay, mut lost) = (Depacketizer::new(kind), false);
            let whole = |timestamp| Unit { timestamp, data: joined(&units) };
            // One before, the one that loses packets, and one after it.
            prop_assert_eq!(feed(&mut depay, &packets, 1, &[], &mut lost), [whole(1)]);
            let hurt = feed(&mut depay, &packets, 2, &gone, &mut lost);
            let after = feed(&mut depay, &packets, 3, &[], &mut lost);
            if gone.iter().all(|at| *at >= packets.len()) {
                prop_assert_eq!(hurt, [whole(2)]);
                prop_assert_eq!(after, [whole(3)]);
            } else {
                // The first may be missing if it held no slice: an SEI.
                let slices = |unit: &Unit| nal::units(&unit.data).filter(|unit| kind.role(unit.as_ref().unwrap()[0]) == Role::Picture).count();
                for unit in hurt.iter().chain(&after) {
                    prop_assert!(unit.timestamp == 3 || slices(unit) == sizes.len(), "torn: {unit:?}");
                }
                prop_assert_eq!(after.last(), Some(&whole(3)));
            }
        }

        #[test]
        fn garbage_never_panics(h265: bool, payloads in prop::collection::vec(any::<Vec<u8>>(), 1..12)) {
            let mut depay = Depacketizer::new(if h265 { Kind::H265 } else { Kind::H264 });
            for (n, data) in payloads.iter().enumerate() {
                let payload = Payload { data, marker: n % 3 == 0, timestamp: (n / 2) as u32, lost: n % 5 == 0 };
                depay.handle(&payload, &mut Vec::new()).ok();
            }
        }
    }

    #[test]
    fn quirks_of_cameras_are_seen_through() {
        let kind = Kind::H264;
        let payload = |data: &'static [u8], marker, timestamp| Payload { data, marker, timestamp, lost: false };
        let mut depay = Depacketizer::new(kind);
        let mut out = Vec::new();
        // Start codes within a payload, and a marker on parameter sets.
        depay.handle(&payload(&[0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2], true, 1), &mut out).unwrap();
        assert!(out.is_empty());
        depay.handle(&payload(&[0x65, 0x80], true, 1), &mut out).unwrap();
        assert_eq!(&out[0].data[..], [0, 0, 0, 2, 0x67, 1, 0, 0, 0, 2, 0x68, 2, 0, 0, 0, 2, 0x65, 0x80]);
        // A marker on each slice: after the first picture they are not trusted any more.
        out.clear();
        for timestamp in 2..5 {
            for slice in [&[0x41, 0x80][..], &[0x41, 0x40]] {
                depay.handle(&Payload { data: slice, marker: true, timestamp, lost: false }, &mut out).unwrap();
            }
        }
        let sizes: Vec<_> = out.iter().map(|unit| (unit.timestamp, unit.data.len())).collect();
        assert_eq!(sizes, [(2, 6), (3, 12)]);
        // No marker at all: the next timestamp ends a picture.
        let (mut depay, mut out) = (Depacketizer::new(kind), Vec::new());
        for timestamp in 0..3 {
            depay.handle(&payload(&[0x41, 0x80], false, timestamp), &mut out).unwrap();
        }
        assert_eq!(out.len(), 2);
    }
}
