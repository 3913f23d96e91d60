//! A fragment: `moof` and `mdat`, of one sample; `prft` before it where the wall clock is told.
//!
//! ```text
//! prft moof { mfhd, traf { tfhd, tfdt, trun } } mdat { the sample }
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

/// A sample on its way into a fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a> {
    /// The track's number, from 1.
    pub(super) track: u32,
    /// Counts fragments, from 1.
    pub(super) sequence: u32,
    /// Decoding time in the track's ticks.
    pub(super) decode_time: u64,
    /// Until the next one.
    pub(super) duration: u32,
    /// From decoding to presentation.
    pub(super) composition: i32,
    /// A decoder can begin here.
    pub(super) key: bool,
    /// When it came to the first node, where that is told: what a player subtracts from its own clock to know how late it is.
    pub(super) wall: Option<SystemTime>,
    /// The coded bytes.
    pub(super) data: &'a [u8],
}

/// Offsets in tfhd are counted from the moof (ISO 14496-12 8.8.7).
const DEFAULT_BASE_IS_MOOF: u32 = 0x02_0000;
/// trun has a data offset, and of its sample duration, size, flags and composition offset (8.8.8).
const TRUN_FLAGS: u32 = 0x01 | 0x0100 | 0x0200 | 0x0400 | 0x0800;
/// It depends on no other; and: it depends on others and is no sync sample (8.6.4, 8.8.3.1).
const SYNC: u32 = 0x0200_0000;
const NOT_SYNC: u32 = 0x0101_0000;
/// The moof has the same length for all samples: 8 + 16 + 8 + 16 + 20 + 36.
const MOOF_BYTES: u32 = 104;
/// Of an mdat.
const HEAD_BYTES: u32 = 8;

/// A prft of version 1: 8 + 4 + 4 + 8 + 8.
const PRFT_BYTES: u32 = 32;
/// Its flags: the two clocks are tied to each other in the same way wherever the box is (8.16.5.3).
const CONSISTENT: u32 = 8;
/// From 1900, where NTP begins, to 1970, in seconds (RFC 5905 6).
const NTP_TO_UNIX_S: u64 = 2_208_988_800;

/// Bytes of a fragment beside its sample.
pub(super) fn overhead_bytes(sample: &Sample<'_>) -> usize {
    let prft = if sample.wall.is_some() { PRFT_BYTES } else { 0 };
    (prft + MOOF_BYTES + HEAD_BYTES) as usize
}

/// Writes the fragment of one sample.
pub(super) fn write(sample: &Sample<'_>, out: &mut Vec<u8>) {
    let size = u32::try_from(sample.data.len()).unwrap_or(u32::MAX - HEAD_BYTES);
    let mut word = |value: u32| out.extend_from_slice(&value.to_be_bytes());
    let name = |name: &[u8; 4]| u32::from_be_bytes(*name);
    if let Some(wall) = sample.wall {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        word(PRFT_BYTES);
        word(name(b"prft"));
        word(1 << 24 | CONSISTENT);
        word(sample.track);
        // NTP's seconds wrap in 2036; that is its era, which the reader knows.
        word((since.as_secs().wrapping_add(NTP_TO_UNIX_S)) as u32);
        word(((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000) as u32);
        let presented = sample.decode_time.saturating_add_signed(sample.composition.into());
        word((presented >> 32) as u32);
        word(presented as u32);
    }
    word(MOOF_BYTES);
    word(name(b"moof"));
    word(16);
    word(name(b"mfhd"));
    word(0);
    word(sample.sequence);
    word(MOOF_BYTES - 24);
    word(name(b"traf"));
    word(16);
    word(name(b"tfhd"));
    word(DEFAULT_BASE_IS_MOOF);
    word(sample.track);
    word(20);
    word(name(b"tfdt"));
    // Version 1: 64 bits.
    word(1 << 24);
    word((sample.decode_time >> 32) as u32);
    word(sample.decode_time as u32);
    word(36);
    word(name(b"trun"));
    // Version 1: composition offsets may be negative.
    word(1 << 24 | TRUN_FLAGS);
    word(1);
    word(MOOF_BYTES + HEAD_BYTES);
    word(sample.duration);
    word(size);
    word(if sample.key { SYNC } else { NOT_SYNC });
    word(sample.composition.cast_unsigned());
    word(size + HEAD_BYTES);
    word(name(b"mdat"));
    out.extend_from_slice(sample.data);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mp4_atom::{Any, DecodeMaybe, Mdat, Moof};

    use super::*;

    fn sample(data: &[u8]) -> Sample<'_> {
        Sample {
            track: 2,
            sequence: 7,
            decode_time: 0x1_0000_0005,
            duration: 3600,
            composition: -200,
            key: true,
            wall: None,
            data,
        }
    }

    #[test]
    fn another_reader_finds_what_was_written() {
        let sample = sample(b"abcdef");
        let mut out = Vec::new();
        write(&sample, &mut out);
        assert_eq!(out.len(), overhead_bytes(&sample) + 6);
        let mut rest = &out[..];
        let Some(Any::Moof(Moof { mfhd, traf })) = Any::decode_maybe(&mut rest).unwrap() else { panic!("no moof") };
        assert_eq!((out.len() - rest.len(), mfhd.sequence_number), (MOOF_BYTES as usize, 7));
        let traf = &traf[0];
        assert_eq!((traf.tfhd.track_id, traf.tfhd.base_data_offset), (2, None));
        assert_eq!(traf.tfdt.as_ref().unwrap().base_media_decode_time, 0x1_0000_0005);
        let trun = &traf.trun[0];
        assert_eq!(trun.data_offset, Some((MOOF_BYTES + HEAD_BYTES).cast_signed()));
        let entry = trun.samples.get(0).unwrap();
        assert_eq!((entry.duration, entry.size, entry.flags, entry.cts), (Some(3600), Some(6), Some(SYNC), Some(-200)));
        let Some(Any::Mdat(Mdat { data })) = Any::decode_maybe(&mut rest).unwrap() else { panic!("no mdat") };
        assert_eq!((&data[..], rest.len()), (&b"abcdef"[..], 0));
    }

    #[test]
    fn the_wall_clock_goes_before_the_fragment() {
        let wall = UNIX_EPOCH + Duration::from_millis(1_500);
        let sample = Sample { wall: Some(wall), ..sample(b"x") };
        let mut out = Vec::new();
        write(&sample, &mut out);
        assert_eq!(out.len(), overhead_bytes(&sample) + 1);
        assert_eq!(&out[4..8], b"prft");
        // 1900 + 70 years + 1.5 s, and the time of presentation.
        assert_eq!(out[16..20], 2_208_988_801_u32.to_be_bytes());
        assert_eq!(out[20..24], 0x8000_0000_u32.to_be_bytes());
        assert_eq!(out[24..32], (0x1_0000_0005_u64 - 200).to_be_bytes());
        assert_eq!(&out[36..40], b"moof");
    }
}
