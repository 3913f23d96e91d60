//! MPEG audio (RFC 2250 3.5): whole frames are told apart, fragments of one are joined.
//!
//! Layer III alone, since the hub has no other; frames of free format say no length and are refused.

use bytes::Bytes;
use culvert_media::CodecError;
use culvert_media::codec::bits::Reader;

use super::{Depay, Error, Gathering, Payload, Unit};

/// Ticks of a second: RFC 3551 4.5.13.
const CLOCK_HZ: u64 = 90_000;
/// bitrate_index of layer III in kbit/s, of MPEG-1 and of MPEG-2 and 2.5; 0 is free format.
const RATES_1: [u32; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
const RATES_2: [u32; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];

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
            let timestamp = first.wrapping_add((samples * CLOCK_HZ / u64::from(header.rate_hz)) as u32);
            let Some((frame, behind)) = rest.split_at_checked(header.frame_bytes) else {
                self.unit.timestamp = timestamp;
                self.frame_bytes = header.frame_bytes;
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

/// Sample rate in Hz and channels of a frame.
pub(in super::super) fn mpeg_audio(frame: &[u8]) -> Result<(u32, u8), Error> {
    Header::parse(frame).map(|header| (header.rate_hz, header.channels))
}

/// What the header of a frame says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    /// With the header itself.
    frame_bytes: usize,
    /// Of one channel.
    samples: u32,
    rate_hz: u32,
    channels: u8,
}

impl Header {
    /// ISO 11172-3 2.4.1.3 and ISO 13818-3 2.4.1.3.
    fn parse(data: &[u8]) -> Result<Header, Error> {
        let mut bits = Reader::new("MPEG audio header", data);
        let value = |what, value: u32| Error::from(CodecError::Value { what, value: u64::from(value) });
        let (sync, version, layer) = (bits.bits(11)?, bits.bits(2)?, bits.bits(2)?);
        bits.skip(1)?; // protection_bit
        let (bitrate, rate, padding) = (bits.bits(4)?, bits.bits(2)?, bits.bits(1)?);
        bits.skip(1)?; // private_bit
        let channels = if bits.bits(2)? == 3 { 1 } else { 2 };
        bits.skip(6)?; // to the end of the header, which must be there
        if sync != 0x7ff {
            return Err(value("MPEG audio sync word", sync));
        }
        if layer != 1 {
            return Err(value("MPEG audio layer", layer));
        }
        let first = version == 3;
        let divisor = match version {
            3 => 1,
            2 => 2,
            0 => 4,
            _ => return Err(value("MPEG audio version", version)),
        };
        let kbit = if first { RATES_1 } else { RATES_2 }.get(bitrate as usize).copied().filter(|kbit| *kbit > 0);
        let kbit = kbit.ok_or_else(|| value("MPEG audio bit rate", bitrate))?;
        let base_hz = [44_100, 48_000, 32_000].get(rate as usize).copied();
        let rate_hz = base_hz.ok_or_else(|| value("MPEG audio sample rate", rate))? / divisor;
        let samples = if first { 1152 } else { 576 };
        let frame_bytes = samples / 8 * 1000 * kbit / rate_hz + padding;
        Ok(Header { frame_bytes: frame_bytes as usize, samples, rate_hz, channels })
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
        let len = Header::parse(&data).unwrap().frame_bytes;
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
    fn headers_say_length_samples_and_rate() {
        let parse = |header: [u8; 4]| Header::parse(&header).map(|h| (h.frame_bytes, h.samples, h.rate_hz));
        assert_eq!(parse([0xff, 0xfb, 0x90, 0]), Ok((417, 1152, 44_100))); // 128 kbit/s
        assert_eq!(parse([0xff, 0xfb, 0x92, 0]), Ok((418, 1152, 44_100)));
        assert_eq!(parse([0xff, 0xfb, 0xe4, 0]), Ok((960, 1152, 48_000))); // 320 kbit/s
        assert_eq!(parse([0xff, 0xf3, 0x80, 0]), Ok((208, 576, 22_050))); // MPEG-2, 64 kbit/s
        assert_eq!(parse([0xff, 0xe3, 0x18, 0]), Ok((72, 576, 8000))); // MPEG-2.5, 8 kbit/s
        for bad in [
            [0xff, 0xfd, 0x90, 0],
            [0xff, 0xfb, 0, 0],
            [0xff, 0xfb, 0xf0, 0],
            [0xff, 0xfb, 0x9c, 0],
            [0xff, 0xeb, 0x90, 0],
        ] {
            assert!(parse(bad).is_err(), "{bad:02x?}");
        }
        assert!(Header::parse(&[0xff, 0xfb, 0x90]).is_err());
        assert_eq!(mpeg_audio(&[0xff, 0xfb, 0x90, 0x40]), Ok((44_100, 2)), "joint stereo");
        assert_eq!(mpeg_audio(&[0xff, 0xf3, 0x80, 0xc0]), Ok((22_050, 1)));
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
                prop_assert!(Header::parse(&unit.data).is_ok_and(|header| header.frame_bytes == unit.data.len()));
            }
        }
    }
}
