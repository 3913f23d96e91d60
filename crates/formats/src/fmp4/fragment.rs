//! A fragment: `moof` and `mdat`, of any number of samples of any number of tracks; `prft` before it where the wall clock is told.
//!
//! ```text
//! prft moof { mfhd, traf { tfhd, tfdt, trun }.. } mdat { the samples, track by track }
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// A sample on its way into a fragment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Until the next one, in the track's ticks.
    pub(super) duration: u32,
    /// From decoding to presentation.
    pub(super) composition: i32,
    /// A decoder can begin here.
    pub(super) key: bool,
    /// The coded bytes.
    pub(super) data: Bytes,
}

/// The samples of one track, one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// The track's number, from 1.
    pub(super) track: u32,
    /// Decoding time of the first sample, in the track's ticks.
    pub(super) decode_time: u64,
    pub(super) samples: &'a [Sample],
}

/// When a sample came to the first node: what a player subtracts from its own clock to know how late it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Of this track.
    pub(super) track: u32,
    pub(super) wall: SystemTime,
    /// The sample's presentation time in the track's ticks.
    pub(super) presented: u64,
}

/// Offsets in tfhd are counted from the moof (ISO 14496-12 8.8.7).
const DEFAULT_BASE_IS_MOOF: u32 = 0x02_0000;
/// trun has a data offset, and of each sample duration, size, flags and composition offset (8.8.8).
const TRUN_FLAGS: u32 = 0x01 | 0x0100 | 0x0200 | 0x0400 | 0x0800;
/// It depends on no other; and: it depends on others and is no sync sample (8.6.4, 8.8.3.1).
const SYNC: u32 = 0x0200_0000;
const NOT_SYNC: u32 = 0x0101_0000;
/// Of moof and mfhd.
const MOOF_BYTES: usize = 8 + 16;
/// Of traf, tfhd, tfdt and trun without samples.
const TRAF_BYTES: usize = 8 + 16 + 20 + 20;
/// Of a sample in trun.
const SAMPLE_BYTES: usize = 16;
/// Of an mdat.
const HEAD_BYTES: usize = 8;

/// A prft of version 1: 8 + 4 + 4 + 8 + 8.
const PRFT_BYTES: usize = 32;
/// Its flags: the two clocks are tied to each other in the same way wherever the box is (8.16.5.3).
const CONSISTENT: u32 = 8;
/// From 1900, where NTP begins, to 1970, in seconds (RFC 5905 6).
const NTP_TO_UNIX_S: u64 = 2_208_988_800;

/// Bytes of a fragment.
pub(super) fn bytes(arrival: Option<Arrival>, runs: &[Run<'_>]) -> usize {
    let prft = if arrival.is_some() { PRFT_BYTES } else { 0 };
    prft + moof_bytes(runs) + HEAD_BYTES + runs.iter().map(media_bytes).sum::<usize>()
}

fn moof_bytes(runs: &[Run<'_>]) -> usize {
    MOOF_BYTES + runs.iter().map(|run| TRAF_BYTES + SAMPLE_BYTES * run.samples.len()).sum::<usize>()
}

fn media_bytes(run: &Run<'_>) -> usize {
    run.samples.iter().map(|sample| sample.data.len()).sum()
}

/// 32 bits, as boxes have lengths. Frames are bounded far below.
fn word(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Writes a fragment; `sequence` counts them, from 1.
pub(super) fn write(sequence: u32, arrival: Option<Arrival>, runs: &[Run<'_>], out: &mut Vec<u8>) {
    let mut put = |value: u32| out.extend_from_slice(&value.to_be_bytes());
    let name = |name: &[u8; 4]| u32::from_be_bytes(*name);
    if let Some(Arrival { track, wall, presented }) = arrival {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        put(word(PRFT_BYTES));
        put(name(b"prft"));
        put(1 << 24 | CONSISTENT);
        put(track);
        // NTP's seconds wrap in 2036; that is its era, which the reader knows.
        put((since.as_secs().wrapping_add(NTP_TO_UNIX_S)) as u32);
        put(((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000) as u32);
        put((presented >> 32) as u32);
        put(presented as u32);
    }
    put(word(moof_bytes(runs)));
    put(name(b"moof"));
    put(16);
    put(name(b"mfhd"));
    put(0);
    put(sequence);
    let mut at = moof_bytes(runs) + HEAD_BYTES;
    for run in runs {
        put(word(TRAF_BYTES + SAMPLE_BYTES * run.samples.len()));
        put(name(b"traf"));
        put(16);
        put(name(b"tfhd"));
        put(DEFAULT_BASE_IS_MOOF);
        put(run.track);
        put(20);
        put(name(b"tfdt"));
        // Version 1: 64 bits.
        put(1 << 24);
        put((run.decode_time >> 32) as u32);
        put(run.decode_time as u32);
        put(word(20 + SAMPLE_BYTES * run.samples.len()));
        put(name(b"trun"));
        // Version 1: composition offsets may be negative.
        put(1 << 24 | TRUN_FLAGS);
        put(word(run.samples.len()));
        put(word(at));
        for sample in run.samples {
            put(sample.duration);
            put(word(sample.data.len()));
            put(if sample.key { SYNC } else { NOT_SYNC });
            put(sample.composition.cast_unsigned());
        }
        at += media_bytes(run);
    }
    put(word(HEAD_BYTES + runs.iter().map(media_bytes).sum::<usize>()));
    put(name(b"mdat"));
    for sample in runs.iter().flat_map(|run| run.samples) {
        out.extend_from_slice(&sample.data);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mp4_atom::{Any, DecodeMaybe, Mdat, Moof};

    use super::*;

    fn sample(duration: u32, composition: i32, key: bool, data: &'static [u8]) -> Sample {
        Sample { duration, composition, key, data: Bytes::from_static(data) }
    }

    #[test]
    fn another_reader_finds_what_was_written() {
        let (video, audio) = (
            [sample(3600, -200, true, b"abcdef"), sample(3601, 7200, false, b"gh")],
            [sample(1024, 0, true, b"i"), sample(1024, 0, true, b"")],
        );
        let runs = [
            Run { track: 2, decode_time: 0x1_0000_0005, samples: &video },
            Run { track: 1, decode_time: 9, samples: &audio },
        ];
        let mut out = Vec::new();
        write(7, None, &runs, &mut out);
        assert_eq!(out.len(), bytes(None, &runs));
        let mut rest = &out[..];
        let Some(Any::Moof(Moof { mfhd, traf })) = Any::decode_maybe(&mut rest).unwrap() else { panic!("no moof") };
        assert_eq!((out.len() - rest.len(), mfhd.sequence_number), (moof_bytes(&runs), 7));
        let mut data = Vec::new();
        for (traf, run) in traf.iter().zip(&runs) {
            assert_eq!((traf.tfhd.track_id, traf.tfhd.base_data_offset), (run.track, None));
            assert_eq!(traf.tfdt.as_ref().unwrap().base_media_decode_time, run.decode_time);
            let trun = &traf.trun[0];
            let mut at = usize::try_from(trun.data_offset.unwrap()).unwrap();
            assert_eq!(trun.samples.len(), run.samples.len());
            for (i, sample) in run.samples.iter().enumerate() {
                let entry = trun.samples.get(i).unwrap();
                let flags = if sample.key { SYNC } else { NOT_SYNC };
                let told = (entry.duration, entry.flags, entry.cts);
                assert_eq!(told, (Some(sample.duration), Some(flags), Some(sample.composition.into())));
                let size = entry.size.unwrap() as usize;
                assert_eq!(out[at..at + size], sample.data);
                at += size;
                data.extend_from_slice(&sample.data);
            }
        }
        let Some(Any::Mdat(mdat)) = Any::decode_maybe(&mut rest).unwrap() else { panic!("no mdat") };
        assert_eq!((mdat, rest.len()), (Mdat { data }, 0));
    }

    #[test]
    fn the_wall_clock_goes_before_the_fragment() {
        let wall = UNIX_EPOCH + Duration::from_millis(1_500);
        let presented = 0x1_0000_0005 - 200;
        let arrival = Some(Arrival { track: 2, wall, presented });
        let samples = [sample(3600, -200, true, b"x")];
        let runs = [Run { track: 2, decode_time: 0x1_0000_0005, samples: &samples }];
        let mut out = Vec::new();
        write(1, arrival, &runs, &mut out);
        assert_eq!(out.len(), bytes(arrival, &runs));
        assert_eq!(&out[4..8], b"prft");
        // 1900 + 70 years + 1.5 s, and the time of presentation.
        assert_eq!(out[16..20], 2_208_988_801_u32.to_be_bytes());
        assert_eq!(out[20..24], 0x8000_0000_u32.to_be_bytes());
        assert_eq!(out[24..32], presented.to_be_bytes());
        assert_eq!(&out[36..40], b"moof");
    }
}
