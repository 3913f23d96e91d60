//! H.264 (RFC 6184, packetization mode 1) and H.265 (RFC 7798): small units together (STAP-A, AP), large ones in pieces (FU-A, FU).

use bytes::Bytes;
use culvert_media::codec::{h264, h265, nal};
use culvert_media::{Codec, Frame, Track};

use super::{Emit, Piece, even};
use crate::nal::{Kind, Role};

#[derive(Debug)]
pub(in super::super) struct Packetizer {
    kind: Kind,
    /// What goes before each key frame: a viewer begins there, and what the SDP says may have changed.
    sets: Vec<Bytes>,
}

impl Packetizer {
    pub(in super::super) fn new(track: &Track) -> Packetizer {
        match if track.codec == Codec::H265 { Kind::H265 } else { Kind::H264 } {
            Kind::H265 => {
                let config = h265::Config::parse(&track.config).ok();
                let sets = config.map(|c| [c.vps, c.sps, c.pps].concat()).unwrap_or_default();
                Packetizer { kind: Kind::H265, sets }
            }
            Kind::H264 => {
                let config = h264::Config::parse(&track.config).ok();
                let sets = config.map(|c| [c.sps, c.pps].concat()).unwrap_or_default();
                Packetizer { kind: Kind::H264, sets }
            }
        }
    }

    pub(in super::super) fn pack(&mut self, frame: &Frame, max: usize, emit: &mut Emit<'_>) {
        // Frames were checked when they came in.
        let own: Vec<&[u8]> = nal::units(&frame.data).map_while(Result::ok).collect();
        let role = |unit: &[u8]| unit.first().map_or(Role::Filler, |first| self.kind.role(*first));
        let has_sets = own.iter().any(|unit| role(unit) == Role::Set(1));
        let sets = self.sets.iter().filter(|_| frame.key && !has_sets).map(Bytes::as_ref);
        let units: Vec<&[u8]> = sets.chain(own.iter().copied()).filter(|unit| role(unit) != Role::Filler).collect();
        let mut left = &units[..];
        while let [first, ..] = left {
            if first.len() > max {
                left = left.get(1..).unwrap_or_default();
                self.cut(first, max, left.is_empty(), emit);
                continue;
            }
            let together = self.together(left, max);
            let (group, rest) = left.split_at_checked(together).unwrap_or((left, &[]));
            left = rest;
            match group {
                [unit] => emit(Piece { parts: &[unit], marker: left.is_empty(), ticks: 0 }),
                _ => self.join(group, left.is_empty(), emit),
            }
        }
    }

    /// How many units from the first on fit into one payload.
    fn together(&self, units: &[&[u8]], max: usize) -> usize {
        let mut bytes = self.kind.header_bytes();
        let fits = |unit: &&&[u8]| {
            bytes += 2 + unit.len();
            bytes <= max
        };
        units.iter().take_while(fits).count().max(1)
    }

    /// STAP-A (RFC 6184 5.7.1), AP (RFC 7798 4.4.2).
    fn join(&self, units: &[&[u8]], marker: bool, emit: &mut Emit<'_>) {
        let header: [u8; 2] = match self.kind {
            // The highest importance of those in it.
            Kind::H264 => {
                let importance = units.iter().filter_map(|unit| unit.first()).map(|first| first & 0x60).max();
                [importance.unwrap_or(0) | 24, 0]
            }
            // The lowest layer and temporal id of those in it; all layers are 0 here.
            Kind::H265 => {
                let temporal = units.iter().filter_map(|unit| unit.get(1)).map(|second| second & 0x07).min();
                [48 << 1, temporal.unwrap_or(1)]
            }
        };
        let lengths: Vec<[u8; 2]> =
            units.iter().map(|unit| u16::try_from(unit.len()).unwrap_or(u16::MAX).to_be_bytes()).collect();
        let mut parts: Vec<&[u8]> = Vec::with_capacity(1 + units.len() * 2);
        parts.push(header.get(..self.kind.header_bytes()).unwrap_or(&header));
        for (length, unit) in lengths.iter().zip(units) {
            parts.push(length);
            parts.push(unit);
        }
        emit(Piece { parts: &parts, marker, ticks: 0 });
    }

    /// FU-A (RFC 6184 5.8), FU (RFC 7798 4.4.3).
    fn cut(&self, unit: &[u8], max: usize, last: bool, emit: &mut Emit<'_>) {
        let Some((header, body)) = unit.split_at_checked(self.kind.header_bytes()) else { return };
        let kind = self.kind.type_of(header.first().copied().unwrap_or(0));
        let (first, second) = (header.first().copied().unwrap_or(0), header.get(1).copied().unwrap_or(1));
        let head = match self.kind {
            Kind::H264 => [first & 0xe0 | 28, 0, 0],
            Kind::H265 => [first & 0x81 | 49 << 1, second, 0],
        };
        let head_bytes = self.kind.header_bytes();
        let pieces = body.chunks(even(body.len(), max.saturating_sub(head_bytes + 1)));
        let count = pieces.len();
        for (at, part) in pieces.enumerate() {
            let (start, end) = (at == 0, at + 1 == count);
            let fragment = [u8::from(start) << 7 | u8::from(end) << 6 | kind];
            let head = head.get(..head_bytes).unwrap_or_default();
            emit(Piece { parts: &[head, &fragment, part], marker: last && end, ticks: 0 });
        }
    }
}
