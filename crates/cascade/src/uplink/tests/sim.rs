//! A stream, an uplink and a reader in virtual time, a millisecond at a time.
//!
//! The path is a bottleneck with a large stupid buffer, then a delay with jitter that keeps the order, as TCP does.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_formats::relay::{Reader, Record, Report};
use culvert_media::{Audio, Codec, Frame, Time, Track, TrackId, Tracks};
use tokio::time::Instant;

use super::super::Uplink;

pub(super) const VIDEO: TrackId = TrackId(0);
pub(super) const SOUND: TrackId = TrackId(1);
/// What the network holds before it pushes back.
const BUFFER_BYTES: usize = 128 << 10;
const PACKET_BYTES: usize = 1_400;
/// As the reader is asked to acknowledge.
const ACK_EVERY_MS: u64 = 20;
const FAST: f64 = 8_000_000.0 / 8.0;

/// A number from 0 to 1 that follows from others (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
    }
}

/// 30 pictures a second and AAC of 128 kbit/s.
#[derive(Clone)]
pub(super) struct Camera {
    pub(super) video: bool,
    pub(super) sound: bool,
    pub(super) gop: u64,
    pub(super) key_bytes: usize,
    pub(super) inter_bytes: usize,
    /// Of three inter frames two are disposable.
    pub(super) b_frames: bool,
}

impl Default for Camera {
    fn default() -> Camera {
        Camera { video: true, sound: true, gop: 30, key_bytes: 40_000, inter_bytes: 7_000, b_frames: false }
    }
}

#[derive(Clone)]
pub(super) struct Network {
    /// From then on (ms) so many bytes per second.
    pub(super) rates: Vec<(u64, f64)>,
    /// One way.
    pub(super) delay_ms: u64,
    pub(super) jitter_ms: u64,
    pub(super) acks: bool,
    pub(super) seed: u64,
}

impl Default for Network {
    fn default() -> Network {
        Network { rates: vec![(0, FAST)], delay_ms: 20, jitter_ms: 0, acks: true, seed: 1 }
    }
}

impl Network {
    /// 8 Mbit/s, from `from` to `to` 200 kbit/s.
    pub(super) fn collapse(from: u64, to: u64) -> Network {
        Network { rates: vec![(0, FAST), (from, 25_000.0), (to, FAST)], ..Network::default() }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Class {
    Key,
    Inter,
    Disposable,
    Sound,
}

/// One frame of the camera, and when it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub(super) class: Class,
    pub(super) made_ms: u64,
    /// Which GOP it is of.
    pub(super) gop: u64,
    /// The reference frames before it, itself included.
    ordinal: u64,
    pub(super) arrived_ms: Option<u64>,
}

impl Fate {
    pub(super) fn latency_ms(&self) -> Option<u64> {
        self.arrived_ms.map(|at| at - self.made_ms)
    }
}

pub(super) struct Outcome {
    pub(super) fates: Vec<Fate>,
    /// By millisecond: what was given out and not yet acknowledged.
    pub(super) in_flight: Vec<usize>,
    /// By millisecond: what stands in the network before the bottleneck, that is, before a control request.
    pub(super) backlog: Vec<usize>,
    pub(super) report: Report,
    pub(super) reports: Vec<Report>,
    pub(super) gaps: u64,
    pub(super) window_end_ms: u64,
}

impl Outcome {
    /// The longest latency of this class.
    pub(super) fn worst_ms(&self, class: Class) -> u64 {
        self.fates.iter().filter(|fate| fate.class == class).filter_map(Fate::latency_ms).max().unwrap_or(0)
    }

    pub(super) fn worst_of_all_ms(&self) -> u64 {
        self.fates.iter().filter_map(Fate::latency_ms).max().unwrap_or(0)
    }

    pub(super) fn lost(&self, from: u64, to: u64) -> usize {
        let made = |fate: &&Fate| (from..to.min(self.window_end_ms)).contains(&fate.made_ms);
        self.fates.iter().filter(made).filter(|fate| fate.arrived_ms.is_none()).count()
    }

    pub(super) fn arrived(&self, class: Class, from: u64, to: u64) -> usize {
        let made = |fate: &&Fate| fate.class == class && (from..to).contains(&fate.made_ms);
        self.fates.iter().filter(made).filter(|fate| fate.arrived_ms.is_some()).count()
    }

    /// The first GOP from which on nothing is missing, counted from the first that began after `since`.
    pub(super) fn gops_until_whole(&self, since: u64) -> u64 {
        let key = self.fates.iter().find(|fate| fate.class == Class::Key && fate.made_ms >= since);
        let Some(first) = key.map(|fate| fate.gop) else { return 0 };
        let made = |fate: &&Fate| fate.made_ms < self.window_end_ms && fate.class != Class::Sound;
        let last_hole = self.fates.iter().filter(made).rfind(|fate| fate.arrived_ms.is_none());
        last_hole.map_or(0, |fate| (fate.gop + 1).saturating_sub(first))
    }

    pub(super) fn most_in_flight(&self, from: u64, to: u64) -> usize {
        self.in_flight[from as usize..to as usize].iter().copied().max().unwrap()
    }

    pub(super) fn most_backlog(&self, from: u64, to: u64) -> usize {
        self.backlog[from as usize..to as usize].iter().copied().max().unwrap()
    }
}

pub(super) fn tracks(camera: &Camera) -> Tracks {
    let avcc = "0142c015ffe100196742c015d901b1fe4f011000000300100000030320f162e48001000568cb83cb20";
    let avcc: Vec<u8> =
        (0..avcc.len()).step_by(2).map(|at| u8::from_str_radix(&avcc[at..at + 2], 16).unwrap()).collect();
    let video = Track::new(VIDEO, Codec::H264, avcc.into()).unwrap();
    let sound = Track::audio(SOUND, Codec::G711A, Audio { sample_rate_hz: 16_000, channels: 1 });
    Tracks::new(
        [camera.video.then_some(video), camera.sound.then_some(sound)].into_iter().flatten().collect::<Vec<_>>(),
    )
}

pub(super) fn frame(class: Class, made_ms: u64, bytes: usize) -> Frame {
    let header = match class {
        Class::Key => 0x65,
        Class::Inter => 0x41,
        Class::Disposable => 0x01,
        Class::Sound => 0,
    };
    let mut data = vec![0xaa; bytes.max(6)];
    let length = (data.len() as u32 - 4).to_be_bytes();
    data[..4].copy_from_slice(&length);
    data[4] = header;
    let at = Time::from_millis(made_ms as i64);
    Frame {
        track: if class == Class::Sound { SOUND } else { VIDEO },
        dts: at,
        pts: at,
        key: matches!(class, Class::Key | Class::Sound),
        discontinuity: false,
        wall: SystemTime::UNIX_EPOCH,
        data: data.into(),
    }
}

/// The frames that a camera makes in this millisecond.
fn made(camera: &Camera, ms: u64) -> Vec<(Class, usize)> {
    let due = |rate: u64, den: u64| ms * rate / (1000 * den) != (ms + 1) * rate / (1000 * den);
    let mut made = Vec::new();
    if camera.video && due(30, 1) {
        let number = (ms + 1) * 30 / 1000 - 1;
        made.push(match number % camera.gop {
            0 => (Class::Key, camera.key_bytes),
            n if camera.b_frames && n % 3 != 0 => (Class::Disposable, camera.inter_bytes),
            _ => (Class::Inter, camera.inter_bytes),
        });
    }
    // 1024 samples of 48 kHz: 46.875 a second, 341 bytes each.
    if camera.sound && due(46_875, 1000) {
        made.push((Class::Sound, 341));
    }
    made
}

/// Runs for so many milliseconds. Panics if a frame arrives that cannot be decoded.
pub(super) fn run(camera: &Camera, network: &Network, length_ms: u64) -> Outcome {
    let start = Instant::now();
    let mut random = Random(network.seed);
    let mut uplink = Uplink::new(start, 7);
    if !network.acks {
        uplink = uplink.without_acks();
    }
    uplink.handle_tracks(&tracks(camera));
    let (mut fates, mut ordinal, mut gop): (Vec<Fate>, u64, u64) = (Vec::new(), 0, 0);
    let mut buffer: VecDeque<Bytes> = VecDeque::new();
    let (mut buffered, mut credit) = (0, 0.0);
    let mut flying: VecDeque<(u64, Bytes)> = VecDeque::new();
    let mut acks: VecDeque<(u64, u64)> = VecDeque::new();
    let (mut given, mut received, mut acked_at, mut ack_sent) = (0u64, 0u64, 0, 0);
    let mut acked = 0;
    let mut reader = Reader::new();
    let mut outcome = Outcome {
        fates: Vec::new(),
        in_flight: Vec::new(),
        backlog: Vec::new(),
        report: Report::default(),
        reports: Vec::new(),
        gaps: 0,
        // What was made in the last seconds may still be under way.
        window_end_ms: length_ms - 3_000,
    };
    let mut decoded: Option<u64> = None;
    for ms in 0..length_ms {
        let now = start + Duration::from_millis(ms);
        for (class, bytes) in made(camera, ms) {
            gop += u64::from(class == Class::Key);
            ordinal += u64::from(matches!(class, Class::Key | Class::Inter));
            uplink.handle_frame(now, fates.len() as u64, frame(class, ms, bytes));
            fates.push(Fate { class, made_ms: ms, gop, ordinal, arrived_ms: None });
        }
        while let Some((_, bytes)) = acks.pop_front_if(|(at, _)| *at <= ms) {
            uplink.handle_ack(now, bytes);
            acked = bytes;
        }
        // The bottleneck.
        let rate = network.rates.iter().rfind(|(from, _)| *from <= ms).unwrap().1;
        credit = f64::min(credit + rate / 1000.0, PACKET_BYTES as f64 + rate / 1000.0);
        loop {
            while buffered < BUFFER_BYTES
                && let Some(piece) = uplink.poll_output(now)
            {
                assert!(!piece.is_empty() && piece.len() <= 16 << 10);
                given += piece.len() as u64;
                buffered += piece.len();
                buffer.push_back(piece);
            }
            let Some(front) = buffer.front_mut() else { break };
            let size = front.len().min(PACKET_BYTES);
            if credit < size as f64 {
                break;
            }
            credit -= size as f64;
            buffered -= size;
            let packet = front.split_to(size);
            if front.is_empty() {
                buffer.pop_front();
            }
            let jitter = (random.next() * network.jitter_ms as f64) as u64;
            let at = (ms + network.delay_ms + jitter).max(flying.back().map_or(0, |(at, _)| *at));
            flying.push_back((at, packet));
        }
        if buffer.is_empty() {
            credit = credit.min(PACKET_BYTES as f64);
        }
        // The reader.
        while let Some((_, packet)) = flying.pop_front_if(|(at, _)| *at <= ms) {
            received += packet.len() as u64;
            reader.handle_input(&packet);
            while let Some(record) = reader.poll_record().expect("our own relay is sound") {
                match record {
                    Record::Frame { seq, frame } => {
                        let fate = &mut fates[seq as usize];
                        assert_eq!(frame.dts.millis(), fate.made_ms as i64);
                        fate.arrived_ms = Some(ms);
                        let expected = match fate.class {
                            Class::Sound => None,
                            Class::Key => {
                                decoded = Some(fate.ordinal);
                                None
                            }
                            Class::Inter => Some(fate.ordinal - 1),
                            Class::Disposable => Some(fate.ordinal),
                        };
                        if let Some(expected) = expected {
                            assert_eq!(decoded, Some(expected), "frame {seq} of {ms} ms cannot be decoded");
                            decoded = Some(fate.ordinal);
                        }
                    }
                    Record::Gap { frames } => outcome.gaps += frames,
                    Record::Report(report) => outcome.reports.push(report),
                    Record::Hello { epoch, next_seq } => assert_eq!((epoch, next_seq), (7, 0)),
                    Record::Tracks(got) => assert_eq!(got, tracks(camera)),
                    Record::End(ending) => panic!("{ending:?}"),
                }
            }
        }
        if network.acks && received > ack_sent && (ms >= acked_at + ACK_EVERY_MS || received - ack_sent >= 16 << 10) {
            let jitter = (random.next() * network.jitter_ms as f64) as u64;
            let at = (ms + network.delay_ms + jitter).max(acks.back().map_or(0, |(at, _)| *at));
            acks.push_back((at, received));
            (acked_at, ack_sent) = (ms, received);
        }
        outcome.in_flight.push((given - acked) as usize);
        outcome.backlog.push(buffered);
        assert!(uplink.queued() < 2 << 20, "{} bytes wait", uplink.queued());
    }
    outcome.report = uplink.report();
    outcome.fates = fates;
    outcome
}
