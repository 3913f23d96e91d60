//! `MP4A-LATM` (RFC 6416 section 6): AudioMuxElements of ISO 14496-3 1.7.3, which need not be aligned to bytes, to AAC
//! frames.
//!
//! One program of one layer, as RFC 6416 6.3 has it; error protection and CELP and HVXC lengths are refused. Where the
//! configuration is out of band, a packet's frames are counted by their lengths.

use bytes::Bytes;
use culvert_media::codec::aac;
use culvert_media::codec::bits::Reader;
use culvert_media::{Codec, CodecError};

use super::{Depay, Error, Gathering, Payload, Unit};

/// Audio object types, ISO 14496-3 table 1.17.
const AOT_SBR: u32 = 5;
const AOT_PS: u32 = 29;
/// Most frames of what was gathered until a marker: numSubFrames has six bits.
const MAX_FRAMES: usize = 64;

/// Gathers AudioMuxElements and takes the frames out.
#[derive(Debug)]
pub(super) struct Depacketizer {
    in_band: bool,
    mux: Option<StreamMux>,
    /// The configuration is another than [`Depay::config`] gave last.
    changed: bool,
    /// The sender cuts elements: after a loss the next packet may be the rest of one.
    cuts: bool,
    unit: Gathering,
    dropped: u64,
}

impl Depacketizer {
    /// `in_band`: each element says whether a StreamMuxConfig is in it (`cpresent` is not 0).
    pub(super) fn new(in_band: bool) -> Depacketizer {
        let mux = (!in_band).then(StreamMux::default);
        Depacketizer { in_band, mux, changed: false, cuts: false, unit: Gathering::default(), dropped: 0 }
    }
}

impl Depay for Depacketizer {
    fn handle(&mut self, payload: &Payload<'_>, out: &mut Vec<Unit>) -> Result<(), Error> {
        self.unit.torn |= payload.lost && self.unit.packets > 0;
        let ended = if payload.timestamp == self.unit.timestamp { Ok(()) } else { self.end(out) };
        self.unit.timestamp = payload.timestamp;
        // Nothing says that an element begins. A sender that never cut one is trusted; what is the rest of one all the
        // same would not have the right length.
        self.unit.torn |= payload.lost && self.cuts;
        self.cuts |= !payload.marker;
        let gathered = self.gather(payload.data).map_err(|why| self.unit.tear(why));
        let marked = if payload.marker { self.end(out) } else { Ok(()) };
        ended.and(gathered).and(marked)
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }

    fn config(&mut self) -> Option<Bytes> {
        let changed = std::mem::take(&mut self.changed);
        self.mux.as_ref().filter(|_| changed).map(|mux| mux.asc.clone())
    }
}

impl Depacketizer {
    fn gather(&mut self, data: &[u8]) -> Result<(), Error> {
        if self.unit.torn {
            return Ok(());
        }
        self.unit.packet()?;
        self.unit.put(data)
    }

    fn end(&mut self, out: &mut Vec<Unit>) -> Result<(), Error> {
        let Some(unit) = self.unit.take(&mut self.dropped) else {
            return Ok(());
        };
        self.elements(&unit, out).inspect_err(|_| self.dropped += 1)
    }

    /// AudioMuxElement, ISO 14496-3 table 1.41, once or more. All or nothing: a broken one does not change the
    /// configuration.
    fn elements(&mut self, unit: &Unit, out: &mut Vec<Unit>) -> Result<(), Error> {
        let bits = &mut Reader::new("AudioMuxElement", &unit.data);
        let mut timestamp = unit.timestamp;
        let mut new = None;
        let mut frames = Vec::new();
        while bits.remaining_bits() > 0 {
            if self.in_band && !bits.bit()? {
                new = Some(StreamMux::parse(bits)?);
            }
            let mux = new.as_ref().or(self.mux.as_ref()).ok_or(CodecError::Missing(Codec::Aac.name()))?;
            for _ in 0..mux.sub_frames {
                let bytes = mux.frame_bytes(bits)?;
                let data = copy(bits, bytes.saturating_mul(8))?.into();
                if frames.len() == MAX_FRAMES {
                    return Err(Error::Value { what: "LATM frames", value: frames.len() as u64 + 1 });
                }
                frames.push(Unit { timestamp, data });
                timestamp = timestamp.wrapping_add(mux.frame_ticks);
            }
            bits.skip(mux.other_bits)?;
            bits.align();
        }
        out.extend(frames.into_iter().filter(|frame| !frame.data.is_empty()));
        if let Some(new) = new {
            self.changed |= self.mux.as_ref().is_none_or(|mux| mux.asc != new.asc);
            self.mux = Some(new);
        }
        Ok(())
    }
}

/// The AudioSpecificConfig in a StreamMuxConfig, which SDP has as `config` of `MP4A-LATM`.
pub(crate) fn config_of_mux(config: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(StreamMux::parse(&mut Reader::new("StreamMuxConfig", config))?.asc.to_vec())
}

/// What a StreamMuxConfig says.
#[derive(Debug)]
struct StreamMux {
    asc: Bytes,
    /// Frames in each element.
    sub_frames: u32,
    /// How long each frame is, where it does not say so itself.
    fixed_bytes: Option<usize>,
    /// otherDataLenBits: what follows the frames.
    other_bits: usize,
    /// Samples of a frame, at the rate of the core.
    frame_ticks: u32,
}

impl Default for StreamMux {
    fn default() -> StreamMux {
        StreamMux { asc: Bytes::new(), sub_frames: 1, fixed_bytes: None, other_bits: 0, frame_ticks: 1024 }
    }
}

impl StreamMux {
    /// StreamMuxConfig, ISO 14496-3 table 1.42.
    fn parse(bits: &mut Reader<'_>) -> Result<StreamMux, Error> {
        let version = bits.bits(1)?;
        if version == 1 {
            expect("audioMuxVersionA", bits.bits(1)?, 0)?;
            latm_value(bits)?; // taraBufferFullness
        }
        expect("allStreamsSameTimeFraming", bits.bits(1)?, 1)?;
        let sub_frames = bits.bits(6)? + 1;
        expect("numProgram", bits.bits(4)?, 0)?;
        expect("numLayer", bits.bits(3)?, 0)?;
        let asc: Bytes = if version == 1 {
            let length = latm_value(bits)?;
            copy(bits, length as usize)?
        } else {
            let mut from = bits.clone();
            skip_config(bits)?;
            let length = bits.position_bits() - from.position_bits();
            copy(&mut from, length)?
        }
        .into();
        let config = aac::Config::parse(&asc)?;
        let fixed_bytes = match bits.bits(3)? {
            0 => {
                bits.skip(8)?; // latmBufferFullness
                None
            }
            1 => Some(bits.bits(9)? as usize + 20),
            kind => return Err(Error::Value { what: "LATM frameLengthType", value: u64::from(kind) }),
        };
        let other_bits = if bits.bit()? { other_data_bits(bits, version)? as usize } else { 0 };
        if bits.bit()? {
            bits.skip(8)?; // crcCheckSum
        }
        // With SBR there are twice as many at twice the rate.
        let doubled = if config.sample_rate_hz > config.core_rate_hz { 2 } else { 1 };
        Ok(StreamMux { asc, sub_frames, fixed_bytes, other_bits, frame_ticks: config.samples_per_frame / doubled })
    }

    /// PayloadLengthInfo, ISO 14496-3 table 1.44.
    fn frame_bytes(&self, bits: &mut Reader<'_>) -> Result<usize, Error> {
        if let Some(bytes) = self.fixed_bytes {
            return Ok(bytes);
        }
        let mut sum = 0;
        loop {
            let byte = bits.byte()?;
            sum += usize::from(byte);
            if byte != 255 {
                return Ok(sum);
            }
        }
    }
}

/// otherDataLenBits of either version.
fn other_data_bits(bits: &mut Reader<'_>, version: u32) -> Result<u32, Error> {
    if version == 1 {
        return latm_value(bits);
    }
    let mut value = 0u32;
    loop {
        let more = bits.bit()?;
        let high = value.checked_mul(256);
        let high = high.ok_or(Error::Value { what: "LATM otherDataLenBits", value: u64::from(value) })?;
        value = high | bits.bits(8)?;
        if !more {
            return Ok(value);
        }
    }
}

/// LatmGetValue: one to four bytes.
fn latm_value(bits: &mut Reader<'_>) -> Result<u32, Error> {
    let bytes = bits.bits(2)? + 1;
    Ok(bits.bits(8 * bytes)?)
}

fn expect(what: &'static str, value: u32, only: u32) -> Result<(), Error> {
    if value == only { Ok(()) } else { Err(Error::Value { what, value: u64::from(value) }) }
}

/// The next bits as bytes, the last filled up with zeros.
fn copy(bits: &mut Reader<'_>, count: usize) -> Result<Vec<u8>, Error> {
    if count > bits.remaining_bits() {
        return Err(Error::Short("AudioMuxElement"));
    }
    let mut out = Vec::with_capacity(count.div_ceil(8));
    for _ in 0..count / 8 {
        out.push(bits.byte()?);
    }
    let tail = (count % 8) as u32;
    if tail > 0 {
        out.push(bits.small(tail)? << (8 - tail));
    }
    Ok(out)
}

/// Goes behind an AudioSpecificConfig whose length nobody says (audioMuxVersion 0), ISO 14496-3 1.6.2.1. Extensions for
/// older decoders cannot be behind it: without a length they are not looked for. What it says [`aac::Config`] reads.
fn skip_config(bits: &mut Reader<'_>) -> Result<(), Error> {
    let begin = bits.position_bits();
    let mut object_type = skip_object_type(bits)?;
    skip_rate(bits)?;
    let channels = bits.bits(4)?;
    if matches!(object_type, AOT_SBR | AOT_PS) {
        skip_rate(bits)?;
        object_type = skip_object_type(bits)?;
    }
    let resilient = match object_type {
        1..=4 => false,
        17 | 19 | 23 => true,
        _ => return Err(Error::Value { what: "AAC object type in LATM", value: u64::from(object_type) }),
    };
    // GASpecificConfig, ISO 14496-3 4.4.1
    bits.skip(1)?; // frameLengthFlag
    if bits.bit()? {
        bits.skip(14)?; // coreCoderDelay
    }
    let extension = bits.bit()?;
    if channels == 0 {
        skip_program(bits, begin)?;
    }
    if extension {
        bits.skip(if resilient { 3 + 1 } else { 1 })?; // resilience flags, extensionFlag3
    }
    if resilient {
        expect("AAC epConfig", bits.bits(2)?, 0)?;
    }
    Ok(())
}

fn skip_object_type(bits: &mut Reader<'_>) -> Result<u32, Error> {
    match bits.bits(5)? {
        31 => Ok(32 + bits.bits(6)?),
        object_type => Ok(object_type),
    }
}

fn skip_rate(bits: &mut Reader<'_>) -> Result<(), Error> {
    if bits.bits(4)? == 15 {
        bits.skip(24)?;
    }
    Ok(())
}

/// program_config_element, ISO 14496-3 4.4.1.1, of a configuration that begins at `begin`.
fn skip_program(bits: &mut Reader<'_>, begin: usize) -> Result<(), Error> {
    bits.skip(4 + 2 + 4)?; // tag, object type, rate
    let [front, side, back, lfe, data, coupling] =
        [bits.bits(4)?, bits.bits(4)?, bits.bits(4)?, bits.bits(2)?, bits.bits(3)?, bits.bits(4)?];
    for mixdown_bits in [4, 4, 3] {
        if bits.bit()? {
            bits.skip(mixdown_bits)?;
        }
    }
    let elements = 5 * (front + side + back + coupling) + 4 * (lfe + data);
    bits.skip(elements as usize)?;
    // It is aligned to bytes of the configuration, not of what that is in.
    let used = bits.position_bits() - begin;
    bits.skip(used.next_multiple_of(8) - used)?;
    let comment_bytes = bits.bits(8)?;
    bits.skip(8 * comment_bytes as usize)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// AAC-LC, 44,100 Hz, stereo; and with frames of 960 samples.
    const LC: &str = "00010 0100 0010 000";
    const LC_960: &str = "00010 0100 0010 100";

    /// Written zeros and ones, and bytes.
    #[derive(Clone, Default)]
    struct Bits(String);

    impl Bits {
        fn put(mut self, bits: &str) -> Bits {
            self.0.extend(bits.chars().filter(|bit| *bit != ' '));
            self
        }

        fn bytes(self, bytes: &[u8]) -> Bits {
            bytes.iter().fold(self, |bits, byte| bits.put(&format!("{byte:08b}")))
        }

        /// PayloadLengthInfo and the frame.
        fn frame(self, frame: &[u8]) -> Bits {
            let runs = frame.len() / 255;
            self.bytes(&vec![255; runs]).bytes(&[(frame.len() % 255) as u8]).bytes(frame)
        }

        fn end(self) -> Vec<u8> {
            let byte = |bits: &[u8]| bits.iter().enumerate().fold(0, |sum, (at, bit)| sum | (bit - b'0') << (7 - at));
            self.0.as_bytes().chunks(8).map(byte).collect()
        }
    }

    /// StreamMuxConfig of version 0 with this configuration, count of frames and tail (from otherDataPresent on).
    fn mux(asc: &str, sub_frames: usize, tail: &str) -> Bits {
        Bits::default()
            .put("0 1")
            .put(&format!("{:06b}", sub_frames - 1))
            .put("0000 000")
            .put(asc)
            .put("000 11111111")
            .put(tail)
    }

    fn handle(latm: &mut Depacketizer, packets: &[(&[u8], bool, u32, bool)]) -> (Vec<Unit>, Result<(), Error>) {
        let mut out = Vec::new();
        let results = packets
            .iter()
            .map(|&(data, marker, timestamp, lost)| latm.handle(&Payload { data, marker, timestamp, lost }, &mut out));
        let result = results.fold(Ok(()), Result::and);
        (out, result)
    }

    fn unit(timestamp: u32, data: &[u8]) -> Unit {
        Unit { timestamp, data: Bytes::copy_from_slice(data) }
    }

    #[test]
    fn configurations_of_sdp_are_read() {
        // AAC-LC at 24 kHz, mono; HE-AAC that says so, of 24 and 48 kHz, stereo.
        assert_eq!(config_of_mux(&[0x40, 0x00, 0x26, 0x10, 0x3f, 0xc0]), Ok(vec![0x13, 0x08]));
        let he = [0x40, 0x00, 0x56, 0x23, 0x10, 0x1f, 0xe0];
        assert_eq!(config_of_mux(&he), Ok(vec![0x2b, 0x11, 0x88, 0x00]));
        // A program_config_element that is aligned within the configuration.
        let program = "00010 0011 0000 000 0000 01 0011 0001 0000 0000 00 000 0000 000 10000 0 00000001 01010101";
        let expected = Bits::default().put(program).end();
        assert_eq!(config_of_mux(&mux(program, 1, "00").end()), Ok(expected));
        assert_eq!(config_of_mux(&[]), Err(CodecError::Short("StreamMuxConfig").into()));
        for (bad, why) in [
            ("0 0", "time framing"),
            ("0 1 000000 0001 000", "two programs"),
            ("0 1 000000 0000 001", "two layers"),
            ("1 1", "audioMuxVersionA"),
            ("0 1 000000 0000 000 01000 0100 0010 000 000 00000000 00", "CELP"),
        ] {
            assert!(config_of_mux(&Bits::default().put(bad).put("0000000000000000").end()).is_err(), "{why}");
        }
    }

    #[test]
    fn version_1_says_the_length_of_the_configuration() {
        // taraBufferFullness in two bytes; 40 bits with the extension for older decoders.
        let asc = [0x13, 0x88, 0x56, 0xe5, 0xa5];
        let config = Bits::default().put("1 0 01").bytes(&[1, 2]).put("1 000000 0000 000 00").bytes(&[40]);
        let config = config.bytes(&asc).put("000 11111111 1 00 00000101 1 00000000");
        assert_eq!(config_of_mux(&config.clone().end()), Ok(asc.to_vec()));
        let element = Bits::default().put("0").put(&config.0).frame(&[1, 2, 3]).put("10101").end();
        let mut latm = Depacketizer::new(true);
        assert_eq!(handle(&mut latm, &[(&element, true, 5, false)]), (vec![unit(5, &[1, 2, 3])], Ok(())));
    }

    #[test]
    fn frames_need_not_be_aligned_and_follow_in_time() {
        let other = "1 0 00000011 0"; // three bits of other data, no checksum
        let element = Bits::default().put("0").put(&mux(LC_960, 3, other).0);
        let element = element.frame(&[1; 255]).frame(&[2; 600]).frame(&[0xaa, 0x55]).put("111").end();
        let same = Bits::default().put("1").frame(&[4]).frame(&[]).frame(&[6]).put("111").end();
        let mut latm = Depacketizer::new(true);
        let (out, result) = handle(&mut latm, &[(&element, true, 100, false), (&same, true, 5000, false)]);
        assert_eq!(result, Ok(()));
        let expected = [unit(100, &[1; 255]), unit(1060, &[2; 600]), unit(2020, &[0xaa, 0x55]), unit(5000, &[4])];
        assert_eq!(out[..4], expected);
        assert_eq!(out[4..], [unit(6920, &[6])], "the second of three is empty");
    }

    #[test]
    fn a_configuration_is_reported_when_it_changes() {
        let element = |asc| Bits::default().put("0").put(&mux(asc, 1, "00").0).frame(&[1]).end();
        let (first, second) = (element(LC), element(LC_960));
        let mut latm = Depacketizer::new(true);
        let same = Bits::default().put("1").frame(&[1]).end();
        assert!(handle(&mut latm, &[(&same, true, 1, false)]).1.is_err(), "there is no configuration yet");
        assert_eq!(latm.config(), None);
        handle(&mut latm, &[(&first, true, 2, false)]).1.unwrap();
        assert_eq!(latm.config(), Some(Bits::default().put(LC).end().into()));
        handle(&mut latm, &[(&first, true, 3, false), (&same, true, 4, false)]).1.unwrap();
        assert_eq!(latm.config(), None);
        handle(&mut latm, &[(&second[..second.len() - 1], true, 5, false)]).1.unwrap_err();
        assert_eq!(latm.config(), None, "a broken element changes nothing");
        handle(&mut latm, &[(&second, true, 6, false)]).1.unwrap();
        assert_eq!(latm.config(), Some(Bits::default().put(LC_960).end().into()));
        assert_eq!(latm.dropped(), 2);
    }

    #[test]
    fn out_of_band_frames_are_counted_by_their_lengths() {
        let element = Bits::default().frame(&[1; 300]).frame(&[2; 3]).end();
        let mut latm = Depacketizer::new(false);
        let (out, result) = handle(&mut latm, &[(&element, true, u32::MAX, false)]);
        assert_eq!((out, result), (vec![unit(u32::MAX, &[1; 300]), unit(1023, &[2; 3])], Ok(())));
        assert_eq!(latm.config(), None);
        assert!(handle(&mut latm, &[(&[2, 1], true, 1, false)]).1.is_err());
        assert!(handle(&mut latm, &[(&[1; 2 * (MAX_FRAMES + 1)], true, 1, false)]).1.is_err());
    }

    #[test]
    fn a_missing_fragment_costs_its_element_and_no_other() {
        let elements: Vec<Vec<u8>> =
            [500usize, 90, 300, 20, 260].map(|len| Bits::default().frame(&vec![len as u8; len]).end()).into();
        let mut packets = Vec::new();
        for (element, timestamp) in elements.iter().zip((0..).step_by(1024)) {
            let mut pieces = element.chunks(100).peekable();
            while let Some(piece) = pieces.next() {
                packets.push((piece, pieces.peek().is_none(), timestamp, false));
            }
        }
        let all = handle(&mut Depacketizer::new(false), &packets).0;
        assert_eq!(all.len(), elements.len());
        for missing in 0..packets.len() {
            let mut packets = packets.clone();
            let (_, _, timestamp, _) = packets.remove(missing);
            if let Some(next) = packets.get_mut(missing) {
                next.3 = missing > 0;
            }
            let mut latm = Depacketizer::new(false);
            let (out, _) = handle(&mut latm, &packets);
            assert!(out.iter().all(|unit| all.contains(unit) && unit.timestamp != timestamp), "without {missing}");
            assert!(out.len() + 2 >= all.len() && latm.dropped() <= 2);
        }
    }

    #[test]
    fn a_sender_that_cuts_nothing_loses_only_what_is_missing() {
        let element = Bits::default().frame(&[7; 30]).end();
        let mut latm = Depacketizer::new(false);
        let (out, result) = handle(&mut latm, &[(&element, true, 0, false), (&element, true, 2048, true)]);
        assert_eq!((out.len(), result, latm.dropped()), (2, Ok(()), 0));
        // The rest of the first that is cut has the wrong length.
        assert!(handle(&mut latm, &[(&element[9..], true, 4096, true)]).1.is_err());
        // Without markers elements end where the timestamp changes.
        let (out, _) = handle(&mut latm, &[(&element, false, 5000, false), (&element, false, 6024, false)]);
        assert_eq!(out, [unit(5000, &[7; 30])]);
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            lens in prop::collection::vec(1usize..1200, 1..5), max in 64usize..400, in_band in any::<bool>(),
        ) {
            let frames: Vec<Vec<u8>> = lens.iter().map(|len| (0..*len).map(|at| (at + len) as u8).collect()).collect();
            let config = Bits::default().put("0").put(&mux(LC, frames.len(), "00").0);
            let element = if in_band { config } else { Bits::default() };
            let element = frames.iter().fold(element, |element, frame| element.frame(frame)).end();
            let count = element.chunks(max).count();
            let pieces = element.chunks(max).zip(1..);
            let packets: Vec<_> = pieces.map(|(piece, at)| (piece, at == count, 0, false)).collect();
            let (out, result) = handle(&mut Depacketizer::new(in_band), &packets);
            let expected: Vec<_> = frames.iter().zip((0..).step_by(1024)).map(|(frame, at)| unit(at, frame)).collect();
            prop_assert_eq!((out, result), (expected, Ok(())));
        }

        #[test]
        fn garbage_does_no_harm(in_band in any::<bool>(), packets in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..40), any::<bool>(), 0u32..3, any::<bool>()), 0..20,
        ), config in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = config_of_mux(&config);
            let mut latm = Depacketizer::new(in_band);
            for (data, marker, timestamp, lost) in &packets {
                let (out, _) = handle(&mut latm, &[(data, *marker, *timestamp, *lost)]);
                prop_assert!(out.iter().all(|unit| !unit.data.is_empty()));
                let _ = latm.config();
            }
        }
    }
}
