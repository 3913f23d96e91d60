use std::time::UNIX_EPOCH;

use culvert_media::{Codec, Kind};
use proptest::prelude::*;

use super::packet::{BYTES, SYNC};
use super::psi::tests::section;
use super::sound::tests::adts;
use super::*;

/// 320x240, baseline; the same in 640x480.
const SPS: &[u8] = &[
    0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x07, 0xe8, 0x40, 0x00, 0x00, 0x03, 0x00, 0x40, 0x00, 0x00, 0x0c, 0x83, 0xc5,
    0x0a, 0xa8,
];
const PPS: &[u8] = &[0x68, 0xce, 0x0f, 0xc8];
const KEY: &[u8] = &[0x65, 0x88, 1, 2, 3];
const DELTA: &[u8] = &[0x41, 0x9a, 4, 5];
const AUD: &[u8] = &[0x09, 0xf0];

/// Writes packets.
#[derive(Default)]
struct Muxer {
    counters: std::collections::HashMap<u16, u8>,
    out: Vec<u8>,
}

impl Muxer {
    fn packets(&mut self, pid: u16, payload: &[u8]) {
        for (at, piece) in payload.chunks(184).enumerate() {
            let counter = self.counters.entry(pid).or_default();
            let begins = if at == 0 { 0x40 } else { 0 };
            let mut packet = vec![SYNC, begins | (pid >> 8) as u8, pid as u8];
            let room = 184 - piece.len();
            if room > 0 {
                packet.extend([0x30 | *counter, (room - 1) as u8]);
                packet.extend([0u8].iter().take(room - 1));
                packet.extend(vec![0xff; (room - 1).saturating_sub(1)]);
            } else {
                packet.push(0x10 | *counter);
            }
            *counter = (*counter + 1) & 0x0f;
            packet.extend_from_slice(piece);
            assert_eq!(packet.len(), BYTES);
            self.out.extend(packet);
        }
    }

    fn tables(&mut self, streams: &[(u8, u16, &[u8])]) {
        let mut map = vec![0xe1, 0x00, 0xf0, 0];
        for (kind, pid, descriptors) in streams {
            map.extend([*kind, 0xe0 | (pid >> 8) as u8, *pid as u8, 0xf0, descriptors.len() as u8]);
            map.extend_from_slice(descriptors);
        }
        self.packets(0, &[&[0][..], &section(0, &[0, 1, 0xf0, 0])].concat());
        self.packets(0x1000, &[&[0][..], &section(2, &map)].concat());
    }

    fn pes(&mut self, pid: u16, times: Option<(u64, u64)>, data: &[u8]) {
        let time = |mark: u8, t: u64| {
            [
                mark << 4 | ((t >> 30) as u8 & 7) << 1 | 1,
                (t >> 22) as u8,
                ((t >> 15) as u8) << 1 | 1,
                (t >> 7) as u8,
                (t as u8) << 1 | 1,
            ]
        };
        let mut pes = vec![0, 0, 1, 0xe0, 0, 0, 0x80];
        match times {
            Some((pts, dts)) => {
                pes.extend([0xc0, 10]);
                pes.extend(time(3, pts));
                pes.extend(time(1, dts));
            }
            None => pes.extend([0, 0]),
        }
        pes.extend_from_slice(data);
        self.packets(pid, &pes);
    }
}

fn annexb(units: &[&[u8]]) -> Vec<u8> {
    units.iter().flat_map(|unit| [&[0, 0, 0, 1][..], unit].concat()).collect()
}

/// Track, presentation and decoding time in ticks of 90 kHz, key, bytes.
type Seen = (u8, i64, i64, bool, usize);

/// Everything that comes out, and the number of gaps.
fn read(demux: &mut Demux, data: &[u8]) -> (Vec<Tracks>, Vec<Seen>, usize) {
    demux.handle_input(UNIX_EPOCH, data);
    demux.flush(UNIX_EPOCH);
    let (mut tracks, mut frames, mut gaps) = (Vec::new(), Vec::new(), 0);
    while let Some(event) = demux.poll_event() {
        match event {
            Event::Tracks(new) => tracks.push(new),
            Event::Frame(f) => frames.push((f.track.0, f.pts.to_ticks(HZ), f.dts.to_ticks(HZ), f.key, f.data.len())),
            Event::Gap => gaps += 1,
        }
    }
    (tracks, frames, gaps)
}

fn sample() -> Vec<u8> {
    let mut muxer = Muxer::default();
    muxer.tables(&[(0x1b, 0x100, &[]), (0x0f, 0x101, &[]), (0x81, 0x102, &[])]);
    muxer.pes(0x100, Some((99_000, 90_000)), &annexb(&[AUD, SPS, PPS, KEY]));
    muxer.pes(0x101, Some((90_000, 90_000)), &[adts(300), adts(20)].concat());
    muxer.pes(0x100, Some((93_600, 93_600)), &annexb(&[AUD, DELTA]));
    muxer.pes(0x102, Some((93_600, 93_600)), b"AC-3 is not ours");
    muxer.pes(0x100, Some((104_400, 97_200)), &annexb(&[AUD, DELTA]));
    muxer.out
}

#[test]
fn pictures_and_sound_come_out_with_their_times() {
    let mut demux = Demux::new();
    let (tracks, frames, gaps) = read(&mut demux, &sample());
    let last = tracks.last().unwrap();
    assert_eq!(last.iter().map(|track| track.codec).collect::<Vec<_>>(), [Codec::H264, Codec::Aac]);
    assert_eq!(last.video().and_then(Track::video).map(|video| (video.width, video.height)), Some((320, 240)));
    // Parameter sets and delimiters have gone; sound has no headers.
    let video: Vec<_> = frames.iter().filter(|frame| frame.0 == 0).map(|f| (f.1, f.2, f.3, f.4)).collect();
    assert_eq!(video, [(99_000, 90_000, true, 9), (93_600, 93_600, false, 8), (104_400, 97_200, false, 8)]);
    let audio: Vec<_> = frames.iter().filter(|frame| frame.0 == 1).map(|f| (f.1, f.4)).collect();
    assert_eq!(audio, [(90_000, 300), (92_089, 20)]);
    assert_eq!((gaps, demux.damaged(), demux.others()), (0, 0, &[0x81][..]));
}

#[test]
fn thirty_three_bits_go_on_for_ever() {
    let mut muxer = Muxer::default();
    muxer.tables(&[(0x1b, 0x100, &[])]);
    let wrap = 1u64 << 33;
    for time in [wrap - 3_600, 0, 3_600] {
        muxer.pes(0x100, Some(((time + 7_200) % wrap, time)), &annexb(&[SPS, PPS, KEY]));
    }
    let (_, frames, _) = read(&mut Demux::new(), &muxer.out);
    let wrap = wrap as i64;
    let times: Vec<_> = frames.iter().map(|f| (f.1, f.2)).collect();
    assert_eq!(times, [(wrap + 3_600, wrap - 3_600), (wrap + 7_200, wrap), (wrap + 10_800, wrap + 3_600)]);
}

#[test]
fn a_picture_may_be_cut_and_several_may_be_together() {
    let mut muxer = Muxer::default();
    muxer.tables(&[(0x1b, 0x100, &[])]);
    let key = annexb(&[AUD, SPS, PPS, KEY]);
    muxer.pes(0x100, Some((0, 0)), &key[..40]);
    muxer.pes(0x100, None, &key[40..]);
    muxer.pes(0x100, Some((3_000, 3_000)), &annexb(&[AUD, DELTA, AUD, DELTA, DELTA, AUD, DELTA]));
    let (_, frames, _) = read(&mut Demux::new(), &muxer.out);
    let seen: Vec<_> = frames.iter().map(|f| (f.2, f.4)).collect();
    // Those behind the first are placed by the distance of the last two that said their times.
    assert_eq!(seen, [(0, 9), (3_000, 8), (6_000, 16), (9_000, 8)]);
    // Two in each: the distance is that of a pair, halved; before it is known they are told apart and no more.
    let mut muxer = Muxer::default();
    muxer.tables(&[(0x1b, 0x100, &[])]);
    for n in 0..3 {
        let time = Some((3_003 * n, 3_003 * n));
        muxer.pes(0x100, time, &annexb(&[AUD, SPS, PPS, KEY, AUD, DELTA]));
    }
    let (_, frames, _) = read(&mut Demux::new(), &muxer.out);
    assert_eq!(frames.iter().map(|f| f.2).collect::<Vec<_>>(), [0, 1, 3_003, 4_504, 6_006, 7_507]);
}

#[test]
fn a_lost_packet_tears_its_picture_alone() {
    let mut muxer = Muxer::default();
    muxer.tables(&[(0x1b, 0x100, &[])]);
    let large = [&[0x41, 0x9a][..], &[7; 700]].concat();
    muxer.pes(0x100, Some((0, 0)), &annexb(&[SPS, PPS, KEY]));
    let before = muxer.out.len();
    muxer.pes(0x100, Some((3_600, 3_600)), &annexb(&[&large]));
    muxer.pes(0x100, Some((7_200, 7_200)), &annexb(&[SPS, PPS, KEY]));
    let mut cut = muxer.out.clone();
    cut.drain(before + BYTES..before + 2 * BYTES);
    let mut demux = Demux::new();
    let (_, frames, gaps) = read(&mut demux, &cut);
    // The first had ended, but nobody can know that it was not to go on.
    assert_eq!((frames.iter().map(|f| f.2).collect::<Vec<_>>(), gaps, demux.damaged()), (vec![7_200], 1, 1));
    // Junk between packets costs nothing else; a packet sent twice is one.
    let mut junk = muxer.out.clone();
    let twice = junk[before..before + BYTES].to_vec();
    junk.splice(before..before, twice);
    junk.splice(0..0, *b"G junk G junk");
    let mut demux = Demux::new();
    let (_, frames, gaps) = read(&mut demux, &junk);
    assert_eq!((frames.len(), gaps), (3, 0));
    assert!(demux.damaged() > 0);
}

#[test]
fn a_program_may_change() {
    let mut demux = Demux::new();
    read(&mut demux, &sample());
    let mut muxer = Muxer::default();
    muxer.tables(&[(0x0f, 0x101, &[]), (0x06, 0x103, &[5, 4, b'O', b'p', b'u', b's', 0x7f, 2, 0x80, 1])]);
    muxer.pes(0x103, Some((0, 0)), &[0x7f, 0xe0, 2, 0xfc, 1]);
    muxer.pes(0x101, Some((0, 0)), &adts(9));
    let (tracks, frames, _) = read(&mut demux, &muxer.out);
    let last = tracks.last().unwrap();
    assert_eq!(last.iter().map(|track| track.codec).collect::<Vec<_>>(), [Codec::Aac, Codec::Opus]);
    assert!(last.iter().all(|track| track.kind() == Kind::Audio));
    assert_eq!(last.iter().map(|track| track.sound().unwrap().channels).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(frames.len(), 2);
}

#[test]
fn latm_is_read_out_of_its_sync_layer() {
    // useSameStreamMux 0, version 0, all the same, 1 frame, 1 program, 1 layer; LC, 44.1 kHz, stereo; length type 0; no more.
    let bits = "0 0 1 000000 0000 000 00010 0100 0010 000 000 11111111 0 0";
    let sound = [0x21u8, 0x10, 0x04];
    let mut bits: Vec<u8> = bits.bytes().filter(|b| *b != b' ').map(|b| b - b'0').collect();
    for byte in [&[sound.len() as u8][..], &sound].concat() {
        bits.extend((0..8).rev().map(|at| byte >> at & 1));
    }
    let element: Vec<u8> =
        bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (at, bit)| sum | bit << (7 - at))).collect();
    let framed = [&[0x56, 0xe0, element.len() as u8][..], &element].concat();
    let mut muxer = Muxer::default();
    muxer.tables(&[(0x11, 0x101, &[])]);
    muxer.pes(0x101, Some((0, 0)), &[&framed[..], &framed].concat());
    let (tracks, frames, _) = read(&mut Demux::new(), &muxer.out);
    assert_eq!(tracks[0].audio().and_then(Track::sound).map(|s| (s.sample_rate_hz, s.channels)), Some((44_100, 2)));
    assert_eq!(frames.iter().map(|f| (f.2, f.4)).collect::<Vec<_>>(), [(0, 3), (2_089, 3)]);
}

#[test]
fn packed_audio_begins_where_its_tag_says() {
    let mut tag = b"PRIV\0\0\0\x35\0\0com.apple.streaming.transportStreamTimestamp\0".to_vec();
    tag.extend((90_000u64).to_be_bytes());
    let segment = [&[b'I', b'D', b'3', 4, 0, 0, 0, 0, 0, tag.len() as u8][..], &tag, &adts(30), &adts(31)].concat();
    assert!(Packed::looks_like(&segment) && Packed::looks_like(&adts(5)) && !Packed::looks_like(&sample()));
    let mut packed = Packed::new();
    let times = |events: Vec<Event>| -> Vec<i64> {
        events
            .iter()
            .filter_map(|event| match event {
                Event::Frame(frame) => Some(frame.dts.to_ticks(HZ)),
                Event::Tracks(_) | Event::Gap => None,
            })
            .collect()
    };
    let events = packed.handle_segment(UNIX_EPOCH, &segment).unwrap();
    assert!(matches!(&events[0], Event::Tracks(tracks) if tracks.audio().unwrap().codec == Codec::Aac));
    assert_eq!(times(events), [90_000, 92_089]);
    // Without a tag it goes on where the last one ended.
    assert_eq!(times(packed.handle_segment(UNIX_EPOCH, &adts(30)).unwrap()), [94_179]);
    assert!(packed.handle_segment(UNIX_EPOCH, b"ID3").is_err());
    assert!(packed.handle_segment(UNIX_EPOCH, b"no sound").is_err());
}

proptest! {
    #[test]
    fn pieces_of_any_size_make_no_difference(cuts in prop::collection::vec(1usize..400, 1..20)) {
        let all = sample();
        let mut demux = Demux::new();
        let mut rest = &all[..];
        for cut in cuts.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*cut));
            demux.handle_input(UNIX_EPOCH, piece);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        let (tracks, frames, gaps) = read(&mut demux, &[]);
        let whole = read(&mut Demux::new(), &all);
        prop_assert_eq!((tracks.last(), frames, gaps), (whole.0.last(), whole.1, whole.2));
    }

    #[test]
    fn damage_does_no_harm(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..60)) {
        let mut bytes = [sample(), sample()].concat();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let mut demux = Demux::new();
        let (_, frames, _) = read(&mut demux, &bytes);
        prop_assert!(frames.len() <= 10);
        // Whatever it says of such, it says it.
        Packed::new().handle_segment(UNIX_EPOCH, &bytes).ok();
    }
}
