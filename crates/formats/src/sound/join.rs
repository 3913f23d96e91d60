//! Several packets of sound as one.

use culvert_media::codec::opus::{Head, packet_duration};
use culvert_media::{Codec, Time, Track};
use opus_pure::Repacketizer;

/// Longest packet (RFC 6716 3.2.5).
const LONGEST: Time = Time::from_millis(120);
/// How far stamps may be from where the packet before ends: less than the shortest packet is, and more than what is left of a
/// stamp that was counted in milliseconds.
const NEAR: Time = Time::from_micros(1500);

/// Makes one packet of several, without decoding them.
#[derive(Debug)]
pub struct Joiner {
    repacketizer: Repacketizer,
}

impl Joiner {
    /// For this track; none where its packets are not to be joined: they are of another codec, or of several streams each (RFC 7845
    /// 5.1.1).
    pub fn new(track: &Track) -> Option<Joiner> {
        let is_one = || Head::parse(&track.config).is_ok_and(|head| head.mapping.streams == 1);
        (track.codec == Codec::Opus && is_one()).then(|| Joiner { repacketizer: Repacketizer::new() })
    }

    /// The packets, with the time of each, as one (RFC 6716 3.2), and how long that is. None: one does not begin where the one before
    /// ends, they are not coded alike, or it would be longer than a packet may be.
    pub fn join<'a>(&mut self, packets: impl IntoIterator<Item = (Time, &'a [u8])>) -> Option<(Vec<u8>, Time)> {
        self.repacketizer.clear();
        let (mut end, mut lasts) = (None, Time::ZERO);
        for (at, packet) in packets {
            let duration = packet_duration(packet)?;
            let apart = end.map_or(Time::ZERO, |end: Time| at - end);
            lasts = lasts + duration;
            if apart.abs() > NEAR || lasts > LONGEST {
                return None;
            }
            end = Some(at + duration);
            self.repacketizer.cat(packet).ok()?;
        }
        Some((self.repacketizer.out().ok()?, lasts))
    }
}

#[cfg(test)]
mod tests {
    use culvert_media::TrackId;
    use opus_pure::{Application, OpusDecoder, OpusEncoder};

    use super::*;

    fn track(channels: u8) -> Track {
        Track::new(TrackId(1), Codec::Opus, Head::new(channels).unwrap().write()).unwrap()
    }

    /// Of 20 ms each.
    fn packets(count: usize) -> Vec<Vec<u8>> {
        let mut encoder = OpusEncoder::new(48_000, 2, Application::Audio).unwrap();
        let sample = |at: usize| ((at as f32 / 19.0).sin() * 9000.0) as i16;
        let mut encode = |n: usize| {
            let pcm: Vec<i16> = (0..960).flat_map(|at| [sample(960 * n + at); 2]).collect();
            let mut out = vec![0; 1275];
            let length = encoder.encode_s16(&pcm, 960, &mut out).unwrap();
            out.truncate(length);
            out
        };
        (0..count).map(&mut encode).collect()
    }

    fn at(packets: &[Vec<u8>], from: i64, step: i64) -> impl Iterator<Item = (Time, &[u8])> {
        let stamps = (0..).map(move |n| Time::from_micros(from + n * step));
        stamps.zip(packets.iter().map(Vec::as_slice))
    }

    #[test]
    fn what_is_joined_sounds_as_what_it_was_made_of() {
        let mut joiner = Joiner::new(&track(2)).unwrap();
        let packets = packets(8);
        let mut decoder = OpusDecoder::new(48_000, 2).unwrap();
        let mut decode = |packet: &[u8], samples: usize| {
            let mut pcm = vec![0_i16; samples * 2];
            assert_eq!(decoder.decode_s16(packet, samples, &mut pcm).unwrap(), samples);
            pcm
        };
        let wanted: Vec<i16> = packets.iter().flat_map(|packet| decode(packet, 960)).collect();
        let mut decoder = OpusDecoder::new(48_000, 2).unwrap();
        let mut heard = Vec::new();
        for (group, from) in [(&packets[..2], 0), (&packets[2..5], 40_000), (&packets[5..], 100_000)] {
            let (joined, lasts) = joiner.join(at(group, from, 20_000)).unwrap();
            assert_eq!((packet_duration(&joined), lasts.millis()), (Some(lasts), 20 * group.len() as i64));
            let mut pcm = vec![0_i16; 960 * 2 * group.len()];
            decoder.decode_s16(&joined, 960 * group.len(), &mut pcm).unwrap();
            heard.extend(pcm);
        }
        assert!(wanted.iter().any(|sample| sample.abs() > 5000));
        assert_eq!(heard, wanted);
    }

    #[test]
    fn what_does_not_belong_together_is_not_joined() {
        let mut joiner = Joiner::new(&track(1)).unwrap();
        let two = packets(7);
        let mut joined = |packets: &[Vec<u8>], step| joiner.join(at(packets, 5, step)).is_some();
        assert!(joined(&two[..2], 20_000) && joined(&two[..2], 21_000) && joined(&two[..6], 20_000));
        assert!(!joined(&two[..2], 23_000) && !joined(&two[..2], 17_000), "a gap, or an overlap");
        assert!(!joined(&two, 20_000), "140 ms");
        // Another bandwidth; nothing; a count of frames that is none.
        assert!(!joined(&[two[0].clone(), vec![0x48, 1, 2]], 20_000));
        assert!(!joined(&[two[0].clone(), Vec::new()], 20_000) && !joined(&[vec![3, 0], two[0].clone()], 20_000));
        assert!(joined(&two[2..4], 20_000), "and goes on");
        assert!(Joiner::new(&track(6)).is_none(), "of several streams");
    }

    #[test]
    fn broken_packets_do_not_end_it() {
        let mut joiner = Joiner::new(&track(2)).unwrap();
        let whole = packets(1);
        let mut next = 1_u32;
        let mut random = || {
            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (next >> 24) as u8
        };
        let mut joined = 0;
        for _ in 0..20_000 {
            let mut packet = whole[0].clone();
            packet.truncate(usize::from(random()) % packet.len());
            packet.splice(..packet.len().min(6), std::iter::repeat_with(&mut random).take(4));
            let lasts = packet_duration(&packet).map_or(20_000, Time::micros);
            let packets = [packet.clone(), packet];
            if let Some((packet, lasts)) = joiner.join(at(&packets, 0, lasts)) {
                assert_eq!(packet_duration(&packet), Some(lasts));
                joined += 1;
            }
        }
        assert!(joined > 1000, "{joined}");
    }
}
