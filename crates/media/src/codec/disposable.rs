//! Which frames a slow sender may leave out without harm to any other: those that no frame refers to.
//!
//! H.264 says so in each unit. H.265 says it of a temporal sub-layer only, so that the highest one must be known. AV1,
//! VP8 and VP9 say it in headers that are not read here: there, no frame is called disposable.

use super::nal;
use crate::Codec;

/// H.264 Table 7-1: an IDR slice, and parameter sets (SPS, PPS, SPS extension, subset SPS), which others refer to.
const H264_NEEDED: [u8; 5] = [5, 7, 8, 13, 15];
/// H.264 Table 7-1: slices and their partitions, and slices of extensions.
const H264_SLICES: [u8; 6] = [1, 2, 3, 4, 20, 21];
/// H.265 Table 7-1: VPS, SPS, PPS; end of sequence and of bitstream change how the next picture is decoded.
const H265_NEEDED: [u8; 5] = [32, 33, 34, 36, 37];
/// H.265 Table 7-1: the last VCL type that may be of a sub-layer non-reference picture.
const H265_LAST_NON_REFERENCE: u8 = 14;
const H265_LAST_VCL: u8 = 31;

/// Nothing refers to this access unit (in the form of [`crate::Frame`]): without it all others can be decoded.
///
/// H.264: nal_ref_idc is 0 in every unit (7.4.1). H.265: every slice is of a sub-layer non-reference picture (an even
/// type up to 14), to which no picture of the same or a lower sub-layer refers (7.4.2.2, Table 7-1), and its TemporalId
/// is `highest_temporal_id`, so that there is no higher one: see [`super::h265::highest_temporal_id`]; `None` if that is not
/// known, and then no unit is disposable. A unit that carries parameter sets is not. All other codecs, and whatever
/// cannot be read: false.
pub fn is_disposable(codec: Codec, highest_temporal_id: Option<u8>, data: &[u8]) -> bool {
    match codec {
        Codec::H264 => all_units(data, h264_unit),
        Codec::H265 => highest_temporal_id.is_some_and(|highest| all_units(data, |unit| h265_unit(unit, highest))),
        Codec::Av1
        | Codec::Vp8
        | Codec::Vp9
        | Codec::Aac
        | Codec::Opus
        | Codec::G711A
        | Codec::G711U
        | Codec::Mp3
        | Codec::Flac => false,
    }
}

/// What a unit has to do with it.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    /// A slice that nothing refers to.
    Unused,
    /// No slice, and nothing depends on it.
    Beside,
    Needed,
}

fn all_units(data: &[u8], look: impl Fn(&[u8]) -> Unit) -> bool {
    let mut slices = false;
    for unit in nal::units(data) {
        match unit.map_or(Unit::Needed, &look) {
            Unit::Unused => slices = true,
            Unit::Beside => {}
            Unit::Needed => return false,
        }
    }
    slices
}

fn h264_unit(unit: &[u8]) -> Unit {
    let Some(header) = unit.first() else { return Unit::Needed };
    let kind = header & 0x1f;
    // forbidden_zero_bit and nal_ref_idc.
    if header & 0xe0 != 0 || H264_NEEDED.contains(&kind) {
        return Unit::Needed;
    }
    if H264_SLICES.contains(&kind) { Unit::Unused } else { Unit::Beside }
}

fn h265_unit(unit: &[u8], highest: u8) -> Unit {
    let Some([first, second]) = unit.first_chunk() else { return Unit::Needed };
    let kind = first >> 1 & 0x3f;
    if first & 0x80 != 0 || H265_NEEDED.contains(&kind) {
        return Unit::Needed;
    }
    if kind > H265_LAST_VCL {
        return Unit::Beside;
    }
    // nuh_temporal_id_plus1; 0 is forbidden.
    let temporal_id = (second & 7).checked_sub(1);
    let unused = kind <= H265_LAST_NON_REFERENCE && kind % 2 == 0 && temporal_id == Some(highest);
    if unused { Unit::Unused } else { Unit::Needed }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::h265;
    use super::super::samples::{H264_FRAMES, H265_FRAMES, HEVC, hex};
    use super::*;

    fn frame(units: &[&[u8]]) -> Vec<u8> {
        units.iter().flat_map(|unit| [&(unit.len() as u32).to_be_bytes(), *unit].concat()).collect()
    }

    #[test]
    fn in_h264_every_slice_says_whether_it_is_referred_to() {
        let disposable = |units: &[&[u8]]| is_disposable(Codec::H264, None, &frame(units));
        assert!(disposable(&[&[0x01, 0x9e]]), "a B slice");
        assert!(disposable(&[&[0x09, 0xf0], &[0x06, 5, 1, 0, 0x80], &[0x01, 0x9e], &[0x01, 0x9e]]));
        assert!(!disposable(&[&[0x01, 0x9e], &[0x21, 0x9e]]), "one slice of two is a reference");
        assert!(!disposable(&[&[0x68, 0xce], &[0x01, 0x9e]]), "with a PPS");
        assert!(!disposable(&[&[0x08, 0xce], &[0x01, 0x9e]]), "with a PPS that denies itself");
        assert!(!disposable(&[&[0x09, 0xf0]]), "no picture at all");
        for (sample, _) in H264_FRAMES {
            assert!(!is_disposable(Codec::H264, None, &hex(sample)));
        }
    }

    #[test]
    fn in_h265_only_the_highest_sub_layer_is_surely_not_referred_to() {
        let unit = |kind: u8, temporal_id: u8| [kind << 1, temporal_id + 1, 0xe0];
        let disposable =
            |kind, temporal_id, highest| is_disposable(Codec::H265, highest, &frame(&[&unit(kind, temporal_id)]));
        for kind in [0, 2, 4, 6, 8] {
            assert!(disposable(kind, 2, Some(2)) && disposable(kind, 0, Some(0)), "{kind}");
            assert!(!disposable(kind, 1, Some(2)), "a higher sub-layer may refer to {kind}");
            assert!(!disposable(kind + 1, 2, Some(2)), "{kind} + 1 is a reference");
            assert!(!disposable(kind, 0, None));
        }
        assert!(!disposable(20, 0, Some(0)), "an IDR picture");
        let with = |other: u8| is_disposable(Codec::H265, Some(0), &frame(&[&unit(other, 0), &unit(0, 0)]));
        assert!(with(35) && with(39), "a delimiter, an SEI");
        assert!(!with(33) && !with(36), "an SPS, an end of sequence");
        // The encoder's B frame is a TRAIL_N or RASL_N picture of the only sub-layer that its SPS announces.
        let highest = h265::highest_temporal_id(&hex(HEVC[0].1));
        let found: Vec<bool> =
            H265_FRAMES.iter().map(|(sample, _)| is_disposable(Codec::H265, highest, &hex(sample))).collect();
        assert_eq!((highest, found), (Some(0), vec![false, false, true]));
        assert_eq!(h265::highest_temporal_id(&[]), None);
    }

    proptest! {
        #[test]
        fn garbage_is_never_disposable_unless_it_is_well_formed(data in prop::collection::vec(any::<u8>(), 0..60), highest in 0u8..8) {
            for codec in [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp8, Codec::Vp9, Codec::Aac] {
                if is_disposable(codec, Some(highest), &data) {
                    prop_assert!(nal::units(&data).all(|unit| unit.is_ok()));
                }
            }
        }
    }
}
