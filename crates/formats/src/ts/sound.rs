//! Frames of sound in PES packets, which need not begin and end where frames do: told apart by their own headers.

use bytes::Bytes;
use culvert_media::codec::{aac, mp3, opus};
use culvert_media::{Audio, CodecError};

use super::{HZ, Unit};

/// Frames whose headers say how long they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// AAC behind ADTS headers (ISO 14496-3 1.A.3.2).
    Adts,
    /// MPEG audio, layer III.
    Mpeg,
}

/// What a frame's header says of its sound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sound {
    Aac(aac::Config),
    Mp3(Audio),
}

/// What a header says.
struct Head {
    sound: Sound,
    /// Of the header, where it does not belong to the frame.
    skip: usize,
    bytes: usize,
    samples: u32,
    rate_hz: u32,
}

impl Framing {
    fn head(self, data: &[u8]) -> Result<Head, CodecError> {
        match self {
            Framing::Adts => {
                let adts = aac::adts_header(data)?;
                Ok(Head {
                    sound: Sound::Aac(adts.config),
                    skip: adts.header_len_bytes,
                    bytes: adts.frame_len_bytes,
                    samples: adts.samples,
                    rate_hz: adts.config.sample_rate_hz,
                })
            }
            Framing::Mpeg => {
                let mp3 = mp3::Header::parse(data)?;
                let (samples, rate_hz) = (mp3.samples, mp3.audio.sample_rate_hz);
                Ok(Head { sound: Sound::Mp3(mp3.audio), skip: 0, bytes: mp3.bytes()?, samples, rate_hz })
            }
        }
    }
}

/// Tells frames apart.
#[derive(Clone, Debug)]
pub(crate) struct Splitter {
    framing: Framing,
    /// The beginning of a frame whose rest has not come.
    carry: Vec<u8>,
    /// From this byte of it on the next frame that begins is of this time.
    mark: Option<(usize, i64)>,
    /// A time that was told, and how many samples were behind it since.
    since: Option<(i64, u64)>,
    rate_hz: u32,
}

impl Splitter {
    pub(crate) fn new(framing: Framing) -> Splitter {
        Splitter { framing, carry: Vec::new(), mark: None, since: None, rate_hz: 0 }
    }

    /// Takes what follows; `time` in 90 kHz is that of the first frame that begins in it (ISO 13818-1 2.4.3.7). What is no frame is
    /// passed over. Returns how often there was such.
    pub(crate) fn take(&mut self, time: Option<i64>, data: &[u8], out: &mut Vec<(Unit, Sound)>) -> u64 {
        if let Some(time) = time {
            self.mark = Some((self.carry.len(), time));
        }
        self.carry.extend_from_slice(data);
        let (mut at, mut damaged, mut is_lost) = (0, 0, false);
        while let Some(rest) = self.carry.get(at..).filter(|rest| !rest.is_empty()) {
            let head = match self.framing.head(rest) {
                Ok(head) => head,
                // The longest header that is waited for has 9 bytes.
                Err(CodecError::Short(_)) if rest.len() < 16 => break,
                Err(_) => {
                    damaged += u64::from(!is_lost);
                    (at, is_lost) = (at + 1, true);
                    continue;
                }
            };
            let Some(frame) = rest.get(head.skip..head.bytes) else { break };
            is_lost = false;
            if let Some((_, time)) = self.mark.take_if(|(from, _)| *from <= at) {
                self.since = Some((time, 0));
            }
            if let Some((time, samples)) = self.since {
                if self.rate_hz != head.rate_hz {
                    self.since = Some((time + ticks(samples, self.rate_hz), 0));
                }
                self.rate_hz = head.rate_hz;
            }
            if let Some((time, samples)) = &mut self.since {
                let time = *time + ticks(*samples, head.rate_hz);
                *samples += u64::from(head.samples);
                out.push((Unit { pts: time, dts: time, data: Bytes::copy_from_slice(frame) }, head.sound));
            }
            at += head.bytes;
        }
        self.carry.drain(..at);
        if let Some((from, _)) = &mut self.mark {
            *from = from.saturating_sub(at);
        }
        damaged
    }

    /// When the next frame begins, in 90 kHz. None: no time was told.
    pub(crate) fn time(&self) -> Option<i64> {
        self.since.map(|(time, samples)| time + ticks(samples, self.rate_hz))
    }

    /// What follows does not go on where the last piece ended.
    pub(crate) fn tear(&mut self) {
        self.carry.clear();
        self.mark = None;
    }
}

fn ticks(samples: u64, rate_hz: u32) -> i64 {
    i64::try_from(u128::from(samples) * u128::from(HZ) / u128::from(rate_hz.max(1))).unwrap_or(i64::MAX)
}

/// Opus packets behind control headers ("ETSI TS Opus", as ffmpeg and VLC have it: `opus_control_header`), the first of which is of `time`.
pub(super) fn opus_packets(mut time: i64, data: &[u8], out: &mut Vec<Unit>) -> Result<(), CodecError> {
    const WHAT: &str = "Opus control header";
    let mut rest = data;
    while let Some((&[first, second], behind)) = rest.split_first_chunk() {
        if first != 0x7f || second & 0xe0 != 0xe0 {
            return Err(CodecError::Value { what: WHAT, value: u64::from(first) << 8 | u64::from(second) });
        }
        let mut behind = behind;
        let mut bytes = 0;
        loop {
            let (more, after) = behind.split_first().ok_or(CodecError::Short(WHAT))?;
            bytes += usize::from(*more);
            behind = after;
            if *more != 255 {
                break;
            }
        }
        // start_trim and end_trim are of 16 bits each; a control extension says its length.
        for trim in [0x10, 0x08] {
            if second & trim != 0 {
                behind = behind.get(2..).ok_or(CodecError::Short(WHAT))?;
            }
        }
        if second & 0x04 != 0 {
            let (length, after) = behind.split_first().ok_or(CodecError::Short(WHAT))?;
            behind = after.get(usize::from(*length)..).ok_or(CodecError::Short(WHAT))?;
        }
        let (packet, after) = behind.split_at_checked(bytes).ok_or(CodecError::Short("Opus packet"))?;
        let lasts =
            opus::packet_duration(packet).ok_or(CodecError::Value { what: "Opus packet", value: bytes as u64 })?;
        out.push(Unit { pts: time, dts: time, data: Bytes::copy_from_slice(packet) });
        time = time.saturating_add(lasts.to_ticks(HZ));
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ADTS frame of `bytes` bytes of sound at 44,100 Hz.
    pub(in super::super) fn adts(bytes: usize) -> Vec<u8> {
        let length = (bytes + 7) as u32;
        let mut out =
            vec![0xff, 0xf1, 0x50, 0x80 | (length >> 11) as u8, (length >> 3) as u8, (length << 5) as u8 | 0x1f, 0xfc];
        out.extend((0..bytes).map(|at| at as u8 & 0x7f));
        out
    }

    #[test]
    fn frames_across_packets_keep_their_times() {
        let all: Vec<u8> = (0..6).flat_map(|n| adts(100 + n)).collect();
        // The second packet begins in the middle of the third frame: its time is that of the fourth.
        let (first, second) = all.split_at(107 + 108 + 50);
        let (mut splitter, mut out) = (Splitter::new(Framing::Adts), Vec::new());
        assert_eq!(splitter.take(Some(1_000_000), first, &mut out), 0);
        assert_eq!(splitter.take(Some(1_006_000), second, &mut out), 0);
        let times: Vec<_> = out.iter().map(|(unit, _)| unit.pts - 1_000_000).collect();
        assert_eq!(times, [0, 2089, 4179, 6000, 8089, 10_179]);
        assert_eq!(out.iter().map(|(unit, _)| unit.data.len()).collect::<Vec<_>>(), [100, 101, 102, 103, 104, 105]);
        assert!(matches!(out[0].1, Sound::Aac(config) if config.sample_rate_hz == 44_100 && config.channels == 2));
    }

    #[test]
    fn rubbish_between_frames_is_passed_over_and_counted() {
        let (mut splitter, mut out) = (Splitter::new(Framing::Adts), Vec::new());
        let bytes = [&b"junk"[..], &adts(20), &[0; 30], &adts(21), &adts(22)[..10]].concat();
        assert_eq!(splitter.take(Some(0), &bytes, &mut out), 2);
        assert_eq!(out.iter().map(|(unit, _)| unit.data.len()).collect::<Vec<_>>(), [20, 21]);
        splitter.tear();
        assert_eq!(splitter.take(Some(9_000), &adts(9), &mut out), 0);
        assert_eq!(out.last().map(|(unit, _)| (unit.pts, unit.data.len())), Some((9_000, 9)));
    }

    #[test]
    fn opus_is_taken_out_of_its_control_headers() {
        // 20 ms packets (CELT, fullband) of 3 and 300 bytes, the first with a start trim.
        let (small, large) = ([0xfc, 1, 2], [&[0xfc][..], &[7; 299]].concat());
        let data = [&[0x7f, 0xf0, 3, 0, 60][..], &small, &[0x7f, 0xe0, 255, 45], &large].concat();
        let mut out = Vec::new();
        opus_packets(90_000, &data, &mut out).unwrap();
        assert_eq!(
            out.iter().map(|unit| (unit.pts, unit.data.len())).collect::<Vec<_>>(),
            [(90_000, 3), (91_800, 300)]
        );
        for cut in 1..data.len() {
            let mut out = Vec::new();
            // At the border between packets there is nothing wrong, and a lone first byte is no packet.
            let good = opus_packets(0, &data[..cut], &mut out).is_ok();
            assert_eq!(good, [1, 8, 9].contains(&cut), "cut at {cut}");
        }
        assert!(opus_packets(0, &[0x7e, 0xe0, 1, 0xfc], &mut out).is_err());
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_make_no_difference(sizes in prop::collection::vec(1usize..300, 1..12), cuts in prop::collection::vec(1usize..400, 1..40)) {
            let all: Vec<u8> = sizes.iter().flat_map(|bytes| adts(*bytes)).collect();
            let (mut splitter, mut out) = (Splitter::new(Framing::Adts), Vec::new());
            let (mut rest, mut time) = (&all[..], Some(0));
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(*cut));
                prop_assert_eq!(splitter.take(time.take(), piece, &mut out), 0);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            let times: Vec<_> = out.iter().map(|(unit, _)| unit.pts).collect();
            let expected: Vec<_> = (0..sizes.len() as i64).map(|n| n * 1024 * 90_000 / 44_100).collect();
            prop_assert_eq!(times, expected);
        }

        #[test]
        fn garbage_does_no_harm(pieces in prop::collection::vec(prop::collection::vec(prop_oneof![Just(0xffu8), Just(0xf1), any::<u8>()], 0..200), 0..20)) {
            for framing in [Framing::Adts, Framing::Mpeg] {
                let (mut splitter, mut out) = (Splitter::new(framing), Vec::new());
                for piece in &pieces {
                    splitter.take(Some(0), piece, &mut out);
                    prop_assert!(splitter.carry.len() < 16 * 1024);
                    let mut packets = Vec::new();
                    opus_packets(i64::MAX - 5, piece, &mut packets).ok();
                }
            }
        }
    }
}
