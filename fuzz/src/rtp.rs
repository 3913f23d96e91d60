//! F11 and F12: RTP's payload formats, both ways, and RTCP.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use culvert_formats::Event;
use culvert_formats::rtp::rtcp::{self, Block, Message};
use culvert_formats::rtp::{self, Format, Media, Packet, Receiver};
use culvert_media::codec::{check_frame, nal, opus};
use culvert_media::{Audio, Codec, Frame, Kind, Mux as _, Time, Track, TrackId, Tracks};

use crate::codec::CODECS;
use crate::split::{Random, hash};

/// Largest access unit that may come out (security.md S21).
const MAX_UNIT_BYTES: usize = 8 << 20;

/// Records of the parameter sets that encoders made (see `corpus/config_records`).
const AVCC: &[u8] = &[
    0x01, 0x42, 0xc0, 0x0a, 0xff, 0xe1, 0x00, 0x17, 0x67, 0x42, 0xc0, 0x0a, 0xd9, 0x04, 0x7b, 0x01, 0x10, 0x00, 0x00,
    0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x22, 0x64, 0x80, 0x01, 0x00, 0x05, 0x68, 0xcb, 0x83, 0xcb,
    0x20,
];
const HVCC: &[u8] = &[
    0x01, 0x01, 0x60, 0x00, 0x00, 0x00, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1e, 0xf0, 0x00, 0xfc, 0xfd, 0xf8, 0xf8,
    0x00, 0x00, 0x0f, 0x03, 0x20, 0x00, 0x01, 0x00, 0x18, 0x40, 0x01, 0x0c, 0x01, 0xff, 0xff, 0x01, 0x60, 0x00, 0x00,
    0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x1e, 0x95, 0x98, 0x09, 0x21, 0x00, 0x01, 0x00, 0x29,
    0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x1e, 0xa0,
    0x20, 0x83, 0x16, 0x59, 0x59, 0xae, 0x4c, 0xaf, 0x01, 0x68, 0x08, 0x00, 0x00, 0x03, 0x00, 0x08, 0x00, 0x00, 0x03,
    0x00, 0xc8, 0x40, 0x22, 0x00, 0x01, 0x00, 0x06, 0x44, 0x01, 0xc1, 0x73, 0xd0, 0x89,
];
const AV1C: &[u8] = &[0x81, 0x00, 0x0c, 0x00, 0x0a, 0x0a, 0x00, 0x00, 0x00, 0x02, 0xaf, 0xf7, 0x9b, 0x5f, 0x20, 0x08];
/// AudioSpecificConfig: AAC-LC, 44,100 Hz, stereo.
const ASC: &[u8] = &[0x12, 0x10];

const FORMATS: [Format; 17] = [
    Format::H264,
    Format::H265,
    Format::Av1,
    Format::Vp8,
    Format::Vp9,
    Format::Aac { size_bits: 13, index_bits: 3, delta_bits: 3, unit_ticks: 1024 },
    Format::Aac { size_bits: 6, index_bits: 2, delta_bits: 2, unit_ticks: 960 },
    Format::Aac { size_bits: 0, index_bits: 0, delta_bits: 0, unit_ticks: 1024 },
    Format::Aac { size_bits: 255, index_bits: 255, delta_bits: 0, unit_ticks: u32::MAX },
    Format::Latm { in_band: true },
    Format::Latm { in_band: false },
    Format::Mpa,
    Format::Whole(Codec::Opus),
    Format::Whole(Codec::G711A),
    Format::Whole(Codec::G711U),
    Format::L16 { channels: 2 },
    Format::L16 { channels: 0 },
];

/// Takes values off the front.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// What is behind a length of one byte, or of two more where that says 255; or all there is.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = match self.byte()? {
            255 => usize::from(u16::from_be_bytes(self.array()?)),
            length => usize::from(length),
        };
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        Some(taken)
    }
}

/// How a packet is sent in [`rtp_depacketise`], bit by bit.
mod control {
    pub(super) const MARKER: u8 = 0x01;
    /// It has another timestamp than the packet before.
    pub(super) const LATER: u8 = 0x02;
    /// The packet before it is lost.
    pub(super) const LOST: u8 = 0x04;
    /// It comes again.
    pub(super) const TWICE: u8 = 0x08;
    /// 200 ms go by.
    pub(super) const SLOW: u8 = 0x10;
    /// Another source begins.
    pub(super) const SOURCE: u8 = 0x20;
    /// The bytes are a packet with its header, rather than a payload.
    pub(super) const RAW: u8 = 0x40;
    /// It goes on with as many more packets of the same payload as a further byte says, times 64.
    pub(super) const MANY: u8 = 0x80;
}

/// Most packets and bytes that come of one input: beyond the bounds of an access unit, but not for long.
const MAX_PACKETS: usize = 20_000;
const MAX_BYTES: usize = 12 << 20;

/// F11: packets of a format that the first byte chooses. The second says how they come: in order or not, with a
/// configuration or without, and by which clock. Frames come after their tracks, within their bounds, not out of
/// nothing, and each passes the check of its codec.
pub(crate) fn rtp_depacketise(data: &[u8]) {
    let mut input = Input(data);
    let (Some(format), Some(how)) = (input.byte(), input.byte()) else { return };
    let Some(format) = FORMATS.get(usize::from(format) % FORMATS.len()) else { return };
    let clock_hz = [90_000, 8000, 0, 1][usize::from(how >> 2 & 3)];
    let media = Media {
        format: format.clone(),
        clock_hz,
        config: (how & 2 != 0).then(|| config(format.codec())),
        audio: (how & 0x10 == 0).then_some(Audio { sample_rate_hz: 8000, channels: how >> 5 }),
        payload_type: (how & 0x80 != 0).then_some(96),
    };
    let in_order = how & 1 == 0;
    let mut session = Session::new(media);
    let (mut sequence, mut timestamp, mut ssrc) = (u16::MAX - 2, u32::MAX - 3000, 1);
    while let (Some(control), Some(bytes)) = (input.byte(), input.bytes()) {
        let more = if control & control::MANY != 0 { input.byte().unwrap_or(0) } else { 0 };
        if control & control::SLOW != 0 {
            session.now += Duration::from_millis(200);
        }
        timestamp = timestamp.wrapping_add(if control & control::LATER != 0 { 3000 } else { 0 });
        sequence = sequence.wrapping_add((control & control::LOST != 0).into());
        ssrc += u32::from(control & control::SOURCE != 0);
        for _ in 0..=usize::from(more) * 64 {
            let marker = control & control::MARKER != 0;
            let head = Packet { marker, payload_type: 96, sequence, timestamp, ssrc, payload: &[] };
            let head = if control & control::RAW != 0 { Vec::new() } else { head.header().to_vec() };
            let packet = Bytes::from([&head, bytes].concat());
            sequence = sequence.wrapping_add(1);
            for _ in 0..=u8::from(control & control::TWICE != 0) {
                if session.packets == MAX_PACKETS || session.came_bytes > MAX_BYTES {
                    return;
                }
                session.handle(packet.clone(), in_order);
            }
        }
    }
    session.finish();
}

fn config(codec: Codec) -> Bytes {
    match codec {
        Codec::H264 => Bytes::from_static(AVCC),
        Codec::H265 => Bytes::from_static(HVCC),
        Codec::Av1 => Bytes::from_static(AV1C),
        Codec::Aac => Bytes::from_static(ASC),
        Codec::Opus => opus::Head::new(2).expect("two channels are allowed").write(),
        Codec::Vp8 | Codec::Vp9 | Codec::G711A | Codec::G711U | Codec::Mp3 | Codec::Flac => Bytes::new(),
    }
}

/// A receiver of one track, and what came out of it.
struct Session {
    receiver: Receiver,
    now: Instant,
    tracks: Option<Tracks>,
    packets: usize,
    came_bytes: usize,
    out_bytes: usize,
}

impl Session {
    fn new(media: Media) -> Session {
        let now = Instant::now();
        let receiver = Receiver::new(now, vec![media]);
        Session { receiver, now, tracks: None, packets: 0, came_bytes: 0, out_bytes: 0 }
    }

    fn handle(&mut self, packet: Bytes, in_order: bool) {
        self.packets += 1;
        self.came_bytes += packet.len();
        // What is broken is counted.
        let damaged = self.receiver.damaged();
        if self.receiver.handle_rtp(self.now, 0, packet, in_order).is_err() {
            assert!(self.receiver.damaged() > damaged);
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(event) = self.receiver.poll_event() {
            match event {
                Event::Tracks(tracks) => {
                    assert_eq!(tracks.len(), 1);
                    self.tracks = Some(tracks);
                }
                Event::Frame(frame) => self.frame(&frame),
                Event::Gap => {
                    let video = self.tracks.as_ref().and_then(|tracks| tracks.video());
                    assert!(video.is_some(), "only pictures are missed");
                }
            }
        }
        // A packet has 12 bytes before its payload, and the smallest payload becomes a unit of 5.
        assert!(self.out_bytes <= self.came_bytes, "{} bytes out of {}", self.out_bytes, self.came_bytes);
    }

    fn frame(&mut self, frame: &Frame) {
        let tracks = self.tracks.as_ref().expect("tracks come before frames");
        let track = tracks.track(frame.track).expect("a frame is of one of the tracks");
        assert_eq!(check_frame(track.codec, &frame.data).map(|info| info.key), Ok(frame.key));
        assert!(frame.data.len() <= MAX_UNIT_BYTES && frame.pts >= frame.dts);
        self.out_bytes += frame.data.len();
    }

    /// Lets the time go by until nothing is waited for.
    fn finish(mut self) {
        for _ in 0..rtp::TRACKS {
            let Some(due) = self.receiver.poll_timeout() else { break };
            self.now = self.now.max(due);
            self.receiver.handle_timeout(self.now);
            self.drain();
            let next = self.receiver.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "woken for nothing");
        }
        for (at, report) in self.receiver.poll_reports(self.now) {
            assert!(at == 0 && rtcp::messages(&report).all(|message| message.is_ok()));
        }
    }
}

/// Most frames of one input.
const MAX_FRAMES: usize = 24;
/// Longest unit of a picture, in several packets.
const MAX_PART_BYTES: usize = 6000;
/// Longest payload of a packet that may be cut: samples beyond it are several frames on the other side.
const PAYLOAD_BYTES: usize = 1160;
/// Largest access unit of AAC (RFC 3640: 13 bits).
const MAX_AAC_BYTES: usize = (1 << 13) - 1;
/// Between two frames.
const STEP: Duration = Duration::from_millis(40);

/// Of [`CODECS`] RTP carries so many, all but the last: there is no payload format for FLAC.
const CARRIED: usize = CODECS.len() - 1;

/// F11: frames of a codec that the first byte chooses, packed and gathered again. The second byte says what happens on
/// the way: nothing, another order, or loss. Without loss the same frames come out, with loss only whole ones.
pub(crate) fn rtp_round_trip(data: &[u8]) {
    let mut input = Input(data);
    let (Some(codec), Some(way)) = (input.byte(), input.byte()) else { return };
    let in_band = codec & 0x80 != 0;
    let Some(codec) = CODECS.get(usize::from(codec & 0x7f) % CARRIED).copied() else { return };
    let track = track(codec);
    let frames = frames(codec, &mut input);
    let (datagrams, loses) = (way & 1 != 0, way & 2 != 0);
    let mut random = Random(hash(data));
    let mut packets = pack(&track, &frames);
    if loses {
        packets.retain(|_| random.below(2 + usize::from(way >> 2)) > 0);
    } else if datagrams {
        // Pairs that change places: never further than a window.
        packets.chunks_exact_mut(2).for_each(|pair| {
            if random.below(2) == 0 && pair[0].sequence.is_some_and(|sequence| sequence > 0) {
                pair.reverse();
            }
        });
    }
    let came = receive(&track, in_band, !datagrams, packets);
    if loses {
        let sent: Vec<_> = frames.iter().map(|frame| essence(codec, &frame.data)).collect();
        let mut left = sent.iter();
        for frame in &came {
            let whole = essence(codec, &frame.data);
            assert!(left.any(|sent| *sent == whole), "{codec:?} torn, or out of order: {frame:?}");
        }
        return;
    }
    let seen = |frames: &[Frame]| frames.iter().map(|frame| (frame.key, frame.data.clone())).collect::<Vec<_>>();
    assert_eq!(seen(&came), seen(&frames));
    let since = |frames: &[Frame]| frames.iter().map(|frame| frame.pts - frames[0].pts).collect::<Vec<_>>();
    for (came, sent) in since(&came).into_iter().zip(since(&frames)) {
        assert!((came - sent).abs() <= Time::from_millis(1), "{came:?} for {sent:?}");
    }
}

fn track(codec: Codec) -> Track {
    let (id, sound) = (TrackId(0), |sample_rate_hz, channels| Audio { sample_rate_hz, channels });
    match codec {
        Codec::G711A => Track::audio(id, codec, sound(8000, 1)),
        Codec::G711U => Track::audio(id, codec, sound(16_000, 2)),
        Codec::Mp3 | Codec::Flac => Track::audio(id, codec, sound(32_000, 2)),
        Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 | Codec::Aac | Codec::Opus => {
            Track::new(id, codec, config(codec)).expect("an encoder's record")
        }
    }
}

/// Frames out of an input: of each, what it is (a byte) and how long (two); what is in them is the input over and over.
/// A stream begins with a key frame.
fn frames(codec: Codec, input: &mut Input<'_>) -> Vec<Frame> {
    let filling = input.0;
    let mut frames = Vec::new();
    while let (Some(what), Some(size)) = (input.byte(), input.array().map(u16::from_be_bytes)) {
        let n = frames.len();
        if n == MAX_FRAMES {
            break;
        }
        let key = n == 0 || what & 1 != 0 || codec.kind() == Kind::Audio;
        let part = |at: usize| -> Vec<u8> {
            let size = (usize::from(size) + at * 977) % MAX_PART_BYTES;
            filling.iter().copied().cycle().skip(n * 7 + at).take(size + 1).collect()
        };
        let data = frame(codec, key, what, &part);
        let time = Time::from(STEP * n as u32);
        let wall = SystemTime::UNIX_EPOCH + STEP * n as u32;
        frames.push(Frame {
            track: TrackId(0),
            dts: time,
            pts: time,
            key,
            discontinuity: false,
            wall,
            data: data.into(),
        });
    }
    frames
}

/// A frame as the hub has it. `what`: bits 1 and 2 are how many further parts it has, bit 3 whether something that is no
/// picture comes first.
fn frame(codec: Codec, key: bool, what: u8, part: &dyn Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let (parts, other) = (usize::from(what >> 1 & 3), what & 8 != 0);
    let mut data = Vec::new();
    match codec {
        Codec::H264 | Codec::H265 => {
            let (message, slice): (&[u8], &[u8]) = match (codec, key) {
                (Codec::H265, true) => (&[39 << 1, 1], &[19 << 1, 1]),
                (Codec::H265, false) => (&[39 << 1, 1], &[1 << 1, 1]),
                (_, true) => (&[6], &[0x65]),
                (_, false) => (&[6], &[0x41]),
            };
            let mut unit = |header: &[u8], body: &[u8]| {
                data.extend_from_slice(&u32::try_from(header.len() + body.len()).expect("it is small").to_be_bytes());
                data.extend_from_slice(header);
                data.extend_from_slice(body);
            };
            if other {
                // Of a type that says nothing.
                unit(message, &[0xf0, 1, 0, 0x80]);
            }
            for at in 0..=parts {
                let mut body = part(at);
                // The first bit behind the header says whether a picture begins.
                body[0] = body[0] & 0x7f | if at == 0 { 0x80 } else { 0 };
                unit(slice, &body);
            }
        }
        Codec::Av1 => {
            if key {
                data.extend_from_slice(&AV1C[4..]);
            }
            let mut obu = |header: u8, body: &[u8]| {
                data.push(header);
                let mut size = body.len();
                while size > 0x7f {
                    data.push(0x80 | (size & 0x7f) as u8);
                    size >>= 7;
                }
                data.push(size as u8);
                data.extend_from_slice(body);
            };
            for at in 1..=parts {
                obu(0x2a, &part(at));
            }
            // Shown, and a key frame or not.
            let begin = if key { 0x10 } else { 0x30 };
            obu(0x32, &[&[begin][..], &part(0)].concat());
        }
        // A first partition of no bytes.
        Codec::Vp8 if key => data.extend([&[0x10, 0, 0, 0x9d, 0x01, 0x2a, 64, 0, 48, 0][..], &part(0)].concat()),
        Codec::Vp8 => data.extend([&[0x11, 0, 0][..], &part(0)].concat()),
        Codec::Vp9 if key => {
            data.extend([&[0x82, 0x49, 0x83, 0x42, 0, 0x03, 0xf0, 0x02, 0xf6, 0][..], &part(0)].concat());
        }
        Codec::Vp9 => data.extend([&[0x86, 0][..], &part(0)].concat()),
        Codec::Aac => data.extend(part(0).into_iter().take(MAX_AAC_BYTES)),
        Codec::Opus | Codec::Flac => data.extend(part(0)),
        Codec::G711A => data.extend(part(0).into_iter().take(PAYLOAD_BYTES)),
        // Two channels.
        Codec::G711U => data.extend(part(0).repeat(2).into_iter().take(PAYLOAD_BYTES)),
        Codec::Mp3 => {
            // MPEG-1 layer III at 32,000 Hz: 9 bytes for each 2 kbit/s.
            let rates = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
            let body = part(0);
            let at = body.len() % rates.len();
            data.extend([0xff, 0xfb, (at as u8 + 1) << 4 | 2 << 2, 0xc4]);
            data.extend(body.into_iter().cycle().take(rates[at] * 9 / 2 - 4));
        }
    }
    assert_eq!(check_frame(codec, &data).map(|info| info.key), Ok(key), "the frame is none of {codec:?}");
    data
}

/// A packet on its way.
struct Sent {
    /// Of which frame it is.
    frame: usize,
    /// None: it is RTCP.
    sequence: Option<u16>,
    bytes: Bytes,
}

fn pack(track: &Track, frames: &[Frame]) -> Vec<Sent> {
    let mut mux = rtp::Mux::new(&Tracks::new(vec![track.clone()]));
    let (mut chunks, mut packets) = (Vec::new(), Vec::new());
    for (at, frame) in frames.iter().enumerate() {
        mux.push(frame, &mut chunks);
        for chunk in chunks.drain(..) {
            let framed: Vec<_> = rtp::framed(&chunk.data).collect();
            assert!(framed.iter().flat_map(|framed| &framed.framed).eq(&chunk.data));
            for rtp::Framed { channel, packet, framed } in framed {
                assert_eq!(framed.get(4..), Some(&packet[..]));
                assert!(channel < 2 && rtp::is_rtcp(&packet) == (channel == 1));
                // An Opus packet is never cut.
                assert!(packet.len() <= rtp::HEADER_BYTES + PAYLOAD_BYTES || track.codec == Codec::Opus);
                let sequence = (channel == 0).then(|| Packet::parse(&packet).expect("we made it").sequence);
                packets.push(Sent { frame: at, sequence, bytes: packet });
            }
        }
    }
    packets
}

/// What comes out at the other end. In band: the session does not say the parameter sets.
fn receive(track: &Track, in_band: bool, in_order: bool, packets: Vec<Sent>) -> Vec<Frame> {
    let line = rtp::Mux::line(0, track);
    let format = match track.codec {
        Codec::H264 => Format::H264,
        Codec::H265 => Format::H265,
        Codec::Av1 => Format::Av1,
        Codec::Vp8 => Format::Vp8,
        Codec::Vp9 => Format::Vp9,
        Codec::Aac => Format::Aac { size_bits: 13, index_bits: 3, delta_bits: 3, unit_ticks: 1024 },
        Codec::Mp3 => Format::Mpa,
        Codec::Opus | Codec::G711A | Codec::G711U | Codec::Flac => Format::Whole(track.codec),
    };
    let said = track.kind() == Kind::Audio || !in_band;
    let media = Media {
        format,
        clock_hz: line.clock_hz,
        config: Some(track.config.clone()).filter(|config| said && !config.is_empty()),
        audio: track.sound(),
        payload_type: Some(line.payload_type),
    };
    let began = Instant::now();
    let (mut receiver, mut now) = (Receiver::new(began, vec![media]), began);
    let (mut frames, mut codec) = (Vec::new(), None);
    let mut drain = |receiver: &mut Receiver| {
        while let Some(event) = receiver.poll_event() {
            match event {
                Event::Tracks(tracks) => codec = tracks.iter().next().map(|track| track.codec),
                Event::Frame(frame) => {
                    assert_eq!(codec, Some(track.codec));
                    frames.push(frame);
                }
                Event::Gap => {}
            }
        }
    };
    for packet in packets {
        now = now.max(began + STEP * u32::try_from(packet.frame).expect("frames are few"));
        match packet.sequence {
            Some(_) => receiver.handle_rtp(now, 0, packet.bytes, in_order).ok(),
            None => {
                assert!(!receiver.handle_rtcp(now, 0, &packet.bytes), "nobody said that it is over");
                None
            }
        };
        drain(&mut receiver);
    }
    receiver.handle_timeout(now + Duration::from_secs(2));
    drain(&mut receiver);
    frames
}

/// What must be whole of a frame even where packets are lost: of pictures in NAL units what is a picture; a message
/// before it may be missing.
fn essence(codec: Codec, data: &[u8]) -> Vec<u8> {
    let is_picture = |unit: &&[u8]| {
        if codec == Codec::H265 { unit[0] >> 1 & 0x3f < 32 } else { (1..=5).contains(&(unit[0] & 0x1f)) }
    };
    if !matches!(codec, Codec::H264 | Codec::H265) {
        return data.to_vec();
    }
    let units = nal::units(data).map(|unit| unit.expect("a frame that passed the check"));
    units.filter(is_picture).flat_map(|unit| [&(unit.len() as u32).to_be_bytes(), unit].concat()).collect()
}

/// F12: a compound's parts are not more than its words; what we write of them is read as the same. Then a receiver of a
/// picture and a sound takes them between packets, cut as [`rtp_depacketise`] does.
pub(crate) fn rtcp(data: &[u8]) {
    let parts: Vec<_> = rtcp::messages(data).collect();
    assert!(parts.len() <= data.len() / 4 + 1);
    assert!(parts.iter().rev().skip(1).all(Result::is_ok), "nothing is read behind what is broken");
    rewrite(parts.into_iter().flatten(), &String::from_utf8_lossy(data));
    reports(&mut Input(data));
}

fn rewrite(parts: impl Iterator<Item = Message>, name: &str) {
    let (mut written, mut expected) = (Vec::new(), Vec::new());
    let mut clocks = Vec::new();
    let receiver = |ssrc, blocks: &[Block], written: &mut Vec<u8>, expected: &mut Vec<Message>| {
        rtcp::write_receiver(ssrc, blocks, name, written);
        let clip = |block: &Block| Block { lost: block.lost.min(0x7f_ffff), ..*block };
        expected.extend([Message::Receiver(ssrc, blocks.iter().map(clip).collect()), Message::Other(202)]);
    };
    for part in parts {
        match part {
            Message::Sender(ssrc, info, blocks) => {
                rtcp::write_sender(ssrc, &info, name, &mut written);
                expected.extend([Message::Sender(ssrc, info, Vec::new()), Message::Other(202)]);
                receiver(ssrc, &blocks, &mut written, &mut expected);
                clocks.push(info.ntp);
            }
            Message::Receiver(ssrc, blocks) => receiver(ssrc, &blocks, &mut written, &mut expected),
            Message::Bye(sources) => sources.into_iter().for_each(|ssrc| {
                rtcp::write_bye(ssrc, &mut written);
                expected.extend([Message::Receiver(ssrc, Vec::new()), Message::Bye(vec![ssrc])]);
            }),
            Message::Nack(nack) => assert!(nack.sequences().count() <= 17 * nack.entries.len()),
            Message::Wide(wide) => assert!(wide.runs.iter().all(|(length, _)| *length > 0)),
            Message::WantKeyFrame => {}
            Message::Other(kind) => assert!(!matches!(kind, 200 | 201 | 203)),
        }
    }
    assert!(written.len().is_multiple_of(4));
    let again: Result<Vec<_>, _> = rtcp::messages(&written).collect();
    assert_eq!(again, Ok(expected));
    for pair in clocks.windows(2) {
        // Both are rounded down.
        assert!((0..=1).contains(&-(pair[0].micros_since(pair[1]) + pair[1].micros_since(pair[0]))));
    }
}

/// Records of a byte (which track, how much time goes by, whether a packet comes before), four of a timestamp where a
/// packet does, and a compound.
fn reports(input: &mut Input<'_>) {
    let sound = Audio { sample_rate_hz: 8000, channels: 1 };
    let media = |format, clock_hz, audio| Media { format, clock_hz, config: None, audio, payload_type: None };
    let media = vec![media(Format::Vp8, 90_000, None), media(Format::Whole(Codec::G711A), 8000, Some(sound))];
    let began = Instant::now();
    let (mut receiver, mut now, mut sequences) = (Receiver::new(began, media), began, [0_u16; 2]);
    let (mut sent, mut came) = (0, 0);
    while let Some(what) = input.byte() {
        let at = usize::from(what & 1);
        now += Duration::from_millis(u64::from(what >> 2) * 100);
        if what & 2 != 0 {
            let Some(timestamp) = input.array().map(u32::from_be_bytes) else { break };
            // A picture of VP8 in one packet; any bytes are a sound.
            let payload = [0x10, 0x11, 0, 0, 7];
            let head =
                Packet { marker: true, payload_type: 96, sequence: sequences[at], timestamp, ssrc: 7, payload: &[] };
            sequences[at] = sequences[at].wrapping_add(1);
            let packet = [&head.header()[..], &payload].concat();
            receiver.handle_rtp(now, at, packet.into(), true).expect("it is whole");
            sent += 1;
        }
        let Some(compound) = input.bytes() else { break };
        let says_bye = rtcp::messages(compound).any(|part| matches!(part, Ok(Message::Bye(_))));
        let ended = receiver.handle_rtcp(now, at, compound);
        assert!(says_bye || !ended);
        for (at, report) in receiver.poll_reports(now) {
            let parts: Result<Vec<_>, _> = rtcp::messages(&report).collect();
            let Ok([Message::Receiver(_, blocks), Message::Other(202)]) = parts.as_deref() else {
                panic!("{parts:?} is no report")
            };
            assert!(at < 2 && blocks.len() == 1 && blocks[0].ssrc == 7);
        }
        while let Some(event) = receiver.poll_event() {
            if let Event::Frame(frame) = event {
                assert!(frame.pts >= frame.dts);
                came += 1;
            }
        }
    }
    receiver.handle_timeout(now + Duration::from_secs(2));
    came += std::iter::from_fn(|| receiver.poll_event()).filter(|event| matches!(event, Event::Frame(_))).count();
    // Each packet is a frame.
    assert_eq!(came, sent);
}
