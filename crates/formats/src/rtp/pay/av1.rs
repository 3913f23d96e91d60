//! AV1 ("RTP Payload Format For AV1" of AOMedia, <https://aomediacodec.github.io/av1-rtp-spec/>): OBUs without their
//! size fields, up to three in a packet and cut where they do not fit.
//!
//! Layers are not told apart beyond what the format asks for: the dependency descriptor is not made here.

use bytes::Bytes;
use culvert_media::codec::av1::{self, Obu};
use culvert_media::{Frame, Track};

use super::{Emit, Piece};

/// OBU types, AV1 6.2.2.
const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const TILE_LIST: u8 = 8;
/// obu_extension_flag and obu_has_size_field, AV1 5.3.2.
const EXTENSION: u8 = 4;
const HAS_SIZE: u8 = 2;
/// Z: the first element continues one of the packet before.
const CONTINUES: u8 = 0x80;
/// Y: the last element goes on in the next packet.
const CONTINUED: u8 = 0x40;
/// N: a coded video sequence begins.
const SEQUENCE_BEGINS: u8 = 0x08;
/// Fewer bytes than these behind another element are not worth cutting an OBU for.
const MIN_ROOM_BYTES: usize = 16;

/// Cuts temporal units.
#[derive(Debug)]
pub(in super::super) struct Packetizer {
    /// The sequence header OBU of the track's record, if it has one.
    header: Bytes,
}

impl Packetizer {
    pub(super) fn new(track: &Track) -> Packetizer {
        let obus = av1::Config::parse(&track.config).map_or_else(|_| Bytes::new(), |config| config.obus);
        let header = av1::obus(&obus).flatten().find(|obu| obu.kind == SEQUENCE_HEADER);
        Packetizer { header: header.map_or_else(Bytes::new, |obu| obus.slice_ref(obu.raw)) }
    }

    /// Sends nothing of a frame that does not consist of OBUs.
    pub(super) fn pack(&mut self, frame: &Frame, max: usize, emit: &mut Emit<'_>) {
        let Ok(obus) = av1::obus(&frame.data).collect::<Result<Vec<_>, _>>() else {
            return;
        };
        let missing = frame.key && obus.iter().all(|obu| obu.kind != SEQUENCE_HEADER);
        let header = av1::obus(if missing { &self.header } else { &[] }).flatten();
        // 5: temporal delimiters and tile lists are not sent.
        let sent = header.chain(obus).filter(|obu| !matches!(obu.kind, TEMPORAL_DELIMITER | TILE_LIST));
        let elements: Vec<_> = sent.map(|obu| Element::new(&obu)).collect();
        let mut cursor = Cursor { elements: &elements, sent: 0 };
        let mut begins = if frame.key { SEQUENCE_BEGINS } else { 0 };
        while !cursor.elements.is_empty() {
            cursor.packet(std::mem::take(&mut begins), max, emit);
        }
    }
}

/// An OBU as it is sent: without size field.
#[derive(Debug)]
struct Element<'a> {
    kind: u8,
    /// The header, and the extension where there is one.
    head: [u8; 2],
    extended: bool,
    body: &'a [u8],
}

impl<'a> Element<'a> {
    fn new(obu: &Obu<'a>) -> Element<'a> {
        let first = obu.raw.first().map_or(0, |first| first & !HAS_SIZE);
        let extension = obu.raw.get(1).copied().unwrap_or_default();
        Element { kind: obu.kind, head: [first, extension], extended: first & EXTENSION != 0, body: obu.payload }
    }

    fn head(&self) -> &[u8] {
        let [first, _] = &self.head;
        if self.extended { &self.head } else { std::slice::from_ref(first) }
    }

    fn len(&self) -> usize {
        self.head().len() + self.body.len()
    }

    /// temporal_id and spatial_id.
    fn layer(&self) -> Option<u8> {
        let [_, extension] = self.head;
        self.extended.then_some(extension)
    }

    /// Whether it may follow in a packet that has this layer. 5: one layer for a packet, what has none before what has
    /// one, and a sequence header before all.
    fn may_follow(&self, layer: Option<u8>) -> bool {
        self.kind != SEQUENCE_HEADER && (layer.is_none() || self.layer() == layer)
    }

    /// Up to `len` bytes from `from` on, in two parts.
    fn cut(&self, from: usize, len: usize) -> [&[u8]; 2] {
        let head = self.head().get(from..).unwrap_or_default();
        let head = head.get(..len).unwrap_or(head);
        let body = self.body.get(from.saturating_sub(self.head().len())..).unwrap_or_default();
        [head, body.get(..len - head.len()).unwrap_or(body)]
    }
}

/// What is yet to be sent.
struct Cursor<'a> {
    elements: &'a [Element<'a>],
    /// Bytes of the first that are sent.
    sent: usize,
}

impl Cursor<'_> {
    /// Sends one packet.
    fn packet(&mut self, begins: u8, max: usize, emit: &mut Emit<'_>) {
        let mut header = begins | if self.sent > 0 { CONTINUES } else { 0 };
        let mut room = max.saturating_sub(1).max(1);
        let mut layer = None;
        let mut slots = [([0; 5], 0, [&[][..]; 2]); 3];
        for (slot, count) in slots.iter_mut().zip(1u8..) {
            let Some((element, behind)) = self.elements.split_first() else {
                break;
            };
            // 4.4: W is the count of elements, and the last has no length.
            header = header & !0x30 | count << 4;
            layer = layer.or(element.layer());
            let left = element.len() - self.sent;
            let (size, size_bytes) = leb128(left);
            let parts = element.cut(self.sent, left.min(room));
            let next = behind.first().is_some_and(|next| next.may_follow(layer));
            if next && count < 3 && size_bytes + left + MIN_ROOM_BYTES <= room {
                *slot = (size, size_bytes, parts);
                room -= size_bytes + left;
                (self.elements, self.sent) = (behind, 0);
                continue;
            }
            *slot = (size, 0, parts);
            if left > room {
                header |= CONTINUED;
                self.sent += room;
            } else {
                (self.elements, self.sent) = (behind, 0);
            }
            break;
        }
        let [a, b, c] = &slots;
        let [[a, aa, aaa], [b, bb, bbb], [c, cc, ccc]] =
            [a, b, c].map(|(size, bytes, [head, body])| [size.get(..*bytes).unwrap_or_default(), head, body]);
        let parts = [&[header][..], a, aa, aaa, b, bb, bbb, c, cc, ccc];
        emit(Piece { parts: &parts, marker: self.elements.is_empty(), ticks: 0 });
    }
}

/// AV1 4.10.5, and how many bytes it takes.
fn leb128(value: usize) -> ([u8; 5], usize) {
    let mut rest = value;
    let mut out = [0; 5];
    let mut bytes = 0;
    for byte in &mut out {
        *byte = (rest & 0x7f) as u8 | if rest > 0x7f { 0x80 } else { 0 };
        rest >>= 7;
        bytes += 1;
        if rest == 0 {
            break;
        }
    }
    (out, bytes)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use culvert_media::{Codec, Time, TrackId};

    use super::*;

    /// libaom's av1C of 426x240, and its sequence header with and without size field.
    const RECORD: [u8; 16] = [0x81, 0, 0x0c, 0, 0x0a, 0x0b, 0, 0, 0, 4, 0x3e, 0xa7, 0xbc, 0xda, 0xf9, 0];
    const HEADER: [u8; 12] = [0x08, 0, 0, 0, 4, 0x3e, 0xa7, 0xbc, 0xda, 0xf9, 0, 0x40];

    fn packets(data: &[u8], key: bool, max: usize) -> Vec<(Vec<u8>, bool)> {
        let config = Bytes::from([&RECORD[..], &[0x40]].concat());
        let track = Track::new(TrackId(0), Codec::Av1, config).unwrap();
        let (id, dts, wall) = (TrackId(0), Time::ZERO, SystemTime::UNIX_EPOCH);
        let data = Bytes::copy_from_slice(data);
        let frame = Frame { track: id, dts, pts: dts, key, discontinuity: false, wall, data };
        let mut packets = Vec::new();
        Packetizer::new(&track).pack(&frame, max, &mut |piece| packets.push((piece.parts.concat(), piece.marker)));
        packets
    }

    #[test]
    fn a_key_frame_gets_the_sequence_header_that_it_lacks() {
        let frame = [0x12, 0, 0x32, 3, 1, 2, 3]; // a temporal delimiter, which goes, and a frame
        let expected = [&[0x28, 12][..], &HEADER, &[0x30, 1, 2, 3]].concat();
        assert_eq!(packets(&frame, true, 64), [(expected, true)]);
        assert_eq!(packets(&frame, false, 64), [(vec![0x10, 0x30, 1, 2, 3], true)]);
        let own = [0x0a, 1, 9, 0x32, 3, 1, 2, 3];
        assert_eq!(packets(&own, true, 64), [(vec![0x28, 2, 0x08, 9, 0x30, 1, 2, 3], true)]);
    }

    #[test]
    fn an_obu_that_does_not_fit_is_cut() {
        let frame = [&[0x32, 0x80, 1][..], &[7; 128]].concat();
        let packets = packets(&frame, false, 64);
        let heads: Vec<_> = packets.iter().map(|(packet, marker)| (packet[0], packet.len(), *marker)).collect();
        assert_eq!(heads, [(0x50, 64, false), (0xd0, 64, false), (0x90, 4, true)]);
    }

    #[test]
    fn layers_do_not_share_a_packet_and_three_obus_at_most_do() {
        // Two frames of spatial layer 0, one of layer 1, and four without a layer before.
        let frame =
            [&[0x2a, 1, 1, 0x2a, 1, 2, 0x2a, 1, 3, 0x2a, 1, 4][..], &[0x36, 0, 1, 5, 0x36, 0, 1, 6, 0x36, 8, 1, 7]]
                .concat();
        let expected = [
            (vec![0x30, 2, 0x28, 1, 2, 0x28, 2, 0x28, 3], false),
            (vec![0x30, 2, 0x28, 4, 3, 0x34, 0, 5, 0x34, 0, 6], false),
            (vec![0x10, 0x34, 8, 7], true),
        ];
        assert_eq!(packets(&frame, false, 64), expected);
    }

    #[test]
    fn what_does_not_consist_of_obus_is_left_out() {
        assert_eq!(packets(&[0x32, 9, 1], true, 64), []);
        assert_eq!(packets(&[], false, 64), []);
    }
}
