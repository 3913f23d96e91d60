//! MPEG audio (RFC 2250 3.5): whole frames are told apart, fragments of one are joined.
//!
//! Layer III alone, since the hub has no other; frames of free format say no length and are refused.

use bytes::Bytes;
use culvert_media::codec::mp3::Header;

use super::{Depay, Error, Gathering, Payload, Unit};

/// Ticks of a second: RFC 3551 4.5.13.
const CLOCK_HZ: u64 = 90_000;

/// Gathers frames.
#[derive(Debug, Default)]
pub(super) struct Depacketizer {
    unit: Gathering,
    /// How long the frame that is gathered will be.
    frame_bytes: usize,
    dropped: u64,
}

impl Depay for Depacketizer {
    fn handle(&mut self, payload: &Payload<'_>, out: &mut Vec<Unit>) -> Result<(), Error> {
        self.unit.torn |= payload.lost && self.unit.packets > 0;
        if payload.data.is_empty() {
            return Ok(());
        }
        self.take(payload, out).map_err(|why| self.unit.tear(why))
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Depacketizer {
    fn take(&mut self, payload: &Payload<'_>, out: &mut Vec<Unit>) -> Result<(), Error> {
        let split = payload.data.split_first_chunk();
        let ([_, _, high, low], data) = split.ok_or(Error::Short("MPEG audio payload header"))?;
        let offset = u16::from_be_bytes([*high, *low]);
        if offset == 0 || payload.timestamp != self.unit.timestamp {
            // The end of what was being gathered did not come.
            self.unit.torn |= self.unit.packets > 0;
            out.extend(self.unit.take(&mut self.dropped));
            self.unit.timestamp = payload.timestamp;
        }
        if offset == 0 { self.frames(data, out) } else { self.fragment(usize::from(offset), data, out) }
    }

    /// Frames, of which the last, usually the only one, may go on in the next packet.
    fn frames(&mut self, data: &[u8], out: &mut Vec<Unit>) -> Result<(), Error> {
        let first = self.unit.timestamp;
        let (mut rest, mut samples) = (data, 0u64);
        while !rest.is_empty() {
            let header = Header::parse(rest)?;
            let bytes = header.bytes()?;
            let rate_hz = u64::from(header.audio.sample_rate_hz);
            let timestamp = first.wrapping_add((samples * CLOCK_HZ / rate_hz) as u32);
            let Some((frame, behind)) = rest.split_at_checked(bytes) else {
                self.unit.timestamp = timestamp;
                self.frame_bytes = bytes;
                self.unit.packet()?;
                return self.unit.put(rest);
            };
            out.push(Unit { timestamp, data: Bytes::copy_from_slice(frame) });
            (rest, samples) = (behind, samples + u64::from(header.samples));
        }
        Ok(())
    }

    fn fragment(&mut self, offset: usize, data: &[u8], out: &mut Vec<Unit>) -> Result<(), Error> {
        self.unit.torn |= self.unit.packets == 0;
        if self.unit.torn {
            return Ok(());
        }
        if offset != self.unit.data.len() || offset + data.len() > self.frame_bytes {
            return Err(Error::Value { what: "MPEG audio fragment offset", value: offset as u64 });
        }
        self.unit.packet()?;
        self.unit.put(data)?;
        if self.unit.data.len() == self.frame_bytes {
            out.extend(self.unit.take(&mut self.dropped));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use culvert_media::{Audio, Codec, Frame, Time, Track, TrackId};
    use proptest::prelude::*;

    use super::*;
    use crate::rtp::pay::{Packetizer, Piece};

    type Sent = (Vec<u8>, u32);

    /// An MPEG-1 frame at 44,100 Hz with this bit rate.
    fn frame(bitrate: u8, padding: bool) -> Vec<u8> {
        let mut data = vec![0xff, 0xfb, bitrate << 4 | u8::from(padding) << 1, 0];
        let len = Header::parse(&data).unwrap().bytes().unwrap();
        data.extend((4..len).map(|at| at as u8));
        data
    }

    fn packets(frames: &[Vec<u8>], max: usize) -> (Vec<Unit>, Vec<Sent>) {
        let audio = Audio { sample_rate_hz: 44_100, channels: 2 };
        let mut packetizer = Packetizer::new(&Track::audio(TrackId(0), Codec::Mp3, audio));
        let (mut units, mut packets) = (Vec::new(), Vec::new());
        for (data, timestamp) in frames.iter().zip((0..).step_by(2351)) {
            let (track, dts, wall) = (TrackId(0), Time::ZERO, std::time::SystemTime::UNIX_EPOCH);
            let data = Bytes::copy_from_slice(data);
            units.push(Unit { timestamp, data: data.clone() });
            let frame = Frame { track, dts, pts: dts, key: true, discontinuity: false, wall, data };
            packetizer.pack(&frame, max, &mut |piece: Piece<'_>| {
                assert!(piece.parts.concat().len() <= max);
                packets.push((piece.parts.concat(), timestamp));
            });
        }
        (units, packets)
    }

    fn gather(depacketizer: &mut Depacketizer, packets: &[Sent], missing: Option<usize>) -> Vec<Unit> {
        let mut out = Vec::new();
        for (at, (data, timestamp)) in packets.iter().enumerate().filter(|(at, _)| Some(*at) != missing) {
            let lost = at > 0 && missing == Some(at - 1);
            let payload = Payload { data, marker: false, timestamp: *timestamp, lost };
            depacketizer.handle(&payload, &mut out).unwrap();
        }
        out
    }

    #[test]
    fn a_missing_packet_costs_its_frame_and_no_other() {
        let frames = [frame(9, false), frame(1, false), frame(14, true), frame(5, false)];
        let (units, packets) = packets(&frames, 200);
        for missing in 0..packets.len() {
            let mut depacketizer = Depacketizer::default();
            let out = gather(&mut depacketizer, &packets, Some(missing));
            let expected: Vec<_> = units.iter().filter(|unit| unit.timestamp != packets[missing].1).cloned().collect();
            assert_eq!(out, expected, "without {missing}");
            assert!(depacketizer.dropped() <= 1);
        }
    }

    #[test]
    fn frames_in_one_packet_are_told_apart_and_follow_in_time() {
        let whole = frame(1, false);
        let packet = [&[0; 4][..], &whole, &whole, &whole].concat();
        let out = gather(&mut Depacketizer::default(), &[(packet, u32::MAX)], None);
        // 1,152 samples at 44,100 Hz are 2,351.02 ticks.
        assert_eq!(out.iter().map(|unit| unit.timestamp).collect::<Vec<_>>(), [u32::MAX, 2350, 4701]);
        assert!(out.iter().all(|unit| unit.data == whole));
    }

    #[test]
    fn a_fragment_in_the_wrong_place_tears_its_frame() {
        let whole = frame(9, false);
        let piece = |offset: u16, bytes: &[u8]| [&[0, 0][..], &offset.to_be_bytes(), bytes].concat();
        let mut depacketizer = Depacketizer::default();
        let mut out = Vec::new();
        let mut handle = |data: Vec<u8>, timestamp| {
            depacketizer.handle(&Payload { data: &data, marker: false, timestamp, lost: false }, &mut out)
        };
        handle(piece(0, &whole[..100]), 1).unwrap();
        assert!(handle(piece(101, &whole[101..]), 1).is_err());
        handle(piece(100, &whole[100..]), 1).unwrap();
        handle(piece(0, &whole[..100]), 2).unwrap();
        assert!(handle(piece(100, &[&whole[100..], &[0]].concat()), 2).is_err());
        handle(piece(50, &whole[50..]), 3).unwrap();
        assert!(handle(vec![0, 0], 3).is_err());
        handle(piece(0, &whole), 4).unwrap();
        assert_eq!(out, [Unit { timestamp: 4, data: whole.into() }]);
        assert_eq!(depacketizer.dropped(), 3);
    }

    proptest! {
        #[test]
        fn what_was_cut_is_put_together(
            frames in prop::collection::vec((1u8..15, any::<bool>()), 1..6),
            max in 64usize..500,
        ) {
            let frames: Vec<_> = frames.into_iter().map(|(bitrate, padding)| frame(bitrate, padding)).collect();
            let (units, packets) = packets(&frames, max);
            prop_assert_eq!(gather(&mut Depacketizer::default(), &packets, None), units);
        }

        #[test]
        fn garbage_does_no_harm(packets in prop::collection::vec(
            (
                prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), Just(0xfb), any::<u8>()], 0..200),
                0u32..3,
                any::<bool>(),
            ),
            0..20,
        )) {
            let mut depacketizer = Depacketizer::default();
            let mut out = Vec::new();
            for (data, timestamp, lost) in &packets {
                let payload = Payload { data, marker: false, timestamp: *timestamp, lost: *lost };
                let _ = depacketizer.handle(&payload, &mut out);
            }
            for unit in &out {
                prop_assert!(Header::parse(&unit.data).is_ok_and(|header| header.bytes() == Ok(unit.data.len())));
            }
        }
    }
}
