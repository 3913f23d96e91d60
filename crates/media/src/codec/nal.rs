//! NAL units of H.264 and H.265: behind lengths (ISO 14496-15) or between start codes (Annex B), and the way between.
//!
//! It does not look into the units, except for emulation prevention, which is the same in both codecs.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::iter;

use super::CodecError;

/// Longest parameter set or SEI message that is read, in bytes (security.md S22). Records count lengths in 16 bits.
pub(crate) const MAX_UNIT_BYTES: usize = 64 * 1024;

/// Each NAL unit of a frame in canonical form, behind 4-byte big-endian lengths (ISO 14496-15 5.3.3).
///
/// A length that lies, a cut length field or an empty unit is an error, after which the iterator ends.
pub fn units(data: &[u8]) -> impl Iterator<Item = Result<&[u8], CodecError>> {
    lengths(data, 4).map(|unit| match unit {
        Ok([]) => Err(CodecError::Value { what: "NAL unit length", value: 0 }),
        Ok(unit) => Ok(unit),
        Err(error) => Err(error),
    })
}

/// Each unit behind a big-endian length of `size` bytes, empty ones too; ends after the first error.
fn lengths(data: &[u8], size: usize) -> impl Iterator<Item = Result<&[u8], CodecError>> {
    let mut rest = data;
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let unit = split_unit(rest, size);
        rest = unit.map_or(&[], |(_, rest)| rest);
        Some(unit.map(|(unit, _)| unit).ok_or(CodecError::Short("NAL unit")))
    })
}

fn split_unit(data: &[u8], size: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_at_checked(size)?;
    let length = length.iter().fold(0u32, |length, byte| length << 8 | u32::from(*byte));
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// Each NAL unit of a byte stream (H.264 Annex B), after start codes of 3 or 4 bytes and without trailing zeros.
///
/// What stands before the first start code is left out, and so are empty units.
pub fn annexb_units(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(data).map(|(_, rest)| rest);
    iter::from_fn(move || {
        while let Some(unit) = rest {
            let (unit, next) = match after_start_code(unit) {
                Some((unit, next)) => (unit, Some(next)),
                None => (unit, None),
            };
            rest = next;
            let unit = trim_zeros(unit);
            if !unit.is_empty() {
                return Some(unit);
            }
        }
        None
    })
}

/// What is before and what is after the next `00 00 01`.
fn after_start_code(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    while let Some(&[a, b, c]) = data.get(at..at + 3) {
        // The third byte tells how far the next start code is at the least: most bytes are looked at once in three.
        at += match (a, b, c) {
            (0, 0, 1) => return Some((data.get(..at)?, data.get(at + 3..)?)),
            (_, _, 2..) => 3,
            (_, _, 1) => 3,
            (_, _, 0) => 1,
        };
    }
    None
}

/// A NAL unit never ends in a zero byte (H.264 7.4.1): zeros at its end are trailing_zero_8bits or the first byte of a
/// 4-byte start code.
fn trim_zeros(unit: &[u8]) -> &[u8] {
    let mut unit = unit;
    while let [head @ .., 0] = unit {
        unit = head;
    }
    unit
}

/// An Annex B byte stream in canonical form. Empty units are left out; without a start code the result is empty.
pub fn from_annexb(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 4);
    for unit in annexb_units(data) {
        push_unit(&mut out, unit);
    }
    out
}

/// A frame in canonical form as an Annex B byte stream with 4-byte start codes.
pub fn to_annexb(data: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(data.len());
    for unit in units(data) {
        out.extend_from_slice(&[0, 0, 0, 1]);
        out.extend_from_slice(unit?);
    }
    Ok(out)
}

/// NAL units behind lengths of `length_size` bytes (1 to 4) in canonical form. Empty units are left out, a length that
/// lies is an error.
///
/// The result is at most four times as long as `data`, plus four bytes for each of its units.
pub fn relength(data: &[u8], length_size: usize) -> Result<Vec<u8>, CodecError> {
    if !(1..=4).contains(&length_size) {
        return Err(CodecError::Value { what: "NAL length size", value: length_size as u64 });
    }
    let mut out = Vec::with_capacity(data.len().saturating_add(16));
    for unit in lengths(data, length_size) {
        push_unit(&mut out, unit?);
    }
    Ok(out)
}

/// Appends `unit` behind its 4-byte length, if it is not empty.
fn push_unit(out: &mut Vec<u8>, unit: &[u8]) {
    // No frame of ours comes near 4 GiB; what cannot be said in four bytes is left out like an empty unit.
    if let Some(length) = u32::try_from(unit.len()).ok().filter(|length| *length > 0) {
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(unit);
    }
}

/// A NAL unit without its emulation prevention bytes (H.264 7.3.1, H.265 7.3.1.1), cut at 64 KiB.
pub fn unescape(nal: &[u8]) -> Vec<u8> {
    unescaped(nal).take(MAX_UNIT_BYTES).collect()
}

/// The bytes of a NAL unit without emulation prevention: the 3 of each `00 00 03` is left out.
fn unescaped(nal: &[u8]) -> impl Iterator<Item = u8> {
    let mut zeros = 0u8;
    nal.iter().copied().filter(move |byte| {
        let keep = !(zeros >= 2 && *byte == 3);
        zeros = if *byte == 0 { zeros.saturating_add(1) } else { 0 };
        keep
    })
}

/// Whether an SEI NAL unit, of which `payload` is what follows the NAL header, has a message of this type (H.264 7.3.2.3.1, H.265 7.3.5).
///
/// Reads at most 64 KiB; a message that breaks off ends the search.
pub(crate) fn sei_has(payload: &[u8], wanted: u32) -> bool {
    let mut bytes = unescaped(payload).take(MAX_UNIT_BYTES);
    while let Some(kind) = sei_number(&mut bytes) {
        // Each message has a size byte; where there is none, `kind` was the rbsp trailing bits (0x80).
        let Some(size) = sei_number(&mut bytes) else { return false };
        if kind == wanted {
            return true;
        }
        if size > 0 && bytes.nth(size as usize - 1).is_none() {
            return false;
        }
    }
    false
}

/// ff_byte* last_byte, added up. At most 64 KiB of them, so that the sum fits.
fn sei_number(bytes: &mut impl Iterator<Item = u8>) -> Option<u32> {
    let mut sum = 0;
    loop {
        let byte = bytes.next()?;
        sum += u32::from(byte);
        if byte != 0xff {
            return Some(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn start_codes_of_both_lengths_and_trailing_zeros_are_understood() {
        let stream = [9, 0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 0, 0, 0, 0, 1, 0, 0, 1, 0x65, 0, 1, 0, 0, 0];
        let units: Vec<&[u8]> = annexb_units(&stream).collect();
        assert_eq!(units, [&[0x67, 1][..], &[0x68], &[0x65, 0, 1]]);
        assert_eq!(annexb_units(&[1, 2, 3, 0, 0]).count(), 0);
        assert_eq!(annexb_units(&[0, 0, 1]).count(), 0);
    }

    #[test]
    fn lying_lengths_and_empty_units_are_errors() {
        let all = |data: &'static [u8]| units(data).collect::<Result<Vec<_>, _>>();
        assert_eq!(all(&[0, 0, 0, 1, 5, 0, 0, 0, 2, 6, 7]), Ok(vec![&[5][..], &[6, 7]]));
        assert_eq!(all(&[0, 0, 0, 2, 5]), Err(CodecError::Short("NAL unit")));
        assert_eq!(all(&[0xff, 0xff, 0xff, 0xff, 5]), Err(CodecError::Short("NAL unit")));
        assert_eq!(all(&[0, 0, 0, 1, 5, 0]), Err(CodecError::Short("NAL unit")));
        assert_eq!(all(&[0, 0, 0, 0]), Err(CodecError::Value { what: "NAL unit length", value: 0 }));
    }

    #[test]
    fn lengths_of_every_size_become_four_bytes_and_empty_units_go() {
        let canonical = [0, 0, 0, 1, 5, 0, 0, 0, 2, 6, 7];
        for size in 1..=4 {
            let mut data = Vec::new();
            for unit in [&[5][..], &[], &[6, 7]] {
                data.extend_from_slice(&(unit.len() as u32).to_be_bytes()[4 - size..]);
                data.extend_from_slice(unit);
            }
            assert_eq!(relength(&data, size).unwrap(), canonical, "{size}");
            assert!(relength(&data[..data.len() - 1], size).is_err());
        }
        assert!(relength(&canonical, 0).is_err());
        assert!(relength(&canonical, 5).is_err());
    }

    #[test]
    fn emulation_prevention_goes_and_the_result_is_bounded() {
        assert_eq!(unescape(&[1, 0, 0, 3, 1, 0, 0, 0, 3, 0, 0, 3]), [1, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(unescape(&[0, 0, 3, 0, 0, 3, 3]), [0, 0, 0, 0, 3]);
        assert_eq!(unescape(&vec![1; 200_000]).len(), MAX_UNIT_BYTES);
    }

    #[test]
    fn sei_messages_are_found_behind_others() {
        // user_data_unregistered (5) of 260 bytes, then recovery point (6) of one byte.
        let mut sei = vec![5, 0xff, 5];
        sei.extend([7; 260]);
        sei.extend([6, 1, 0x84, 0x80]);
        assert!(sei_has(&sei, 6) && sei_has(&sei, 5) && !sei_has(&sei, 1));
        assert!(!sei_has(&sei[..200], 6));
        assert!(!sei_has(&[], 6) && !sei_has(&[0xff; 70_000], 6));
    }

    /// Units as a real encoder makes them: no start code inside, no zero at the end.
    fn unit() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0u8..6, 0..40).prop_map(|bytes| {
            let mut unit = vec![0x65];
            for byte in bytes {
                if byte <= 3 && unit.ends_with(&[0, 0]) {
                    unit.push(3);
                }
                unit.push(byte);
            }
            unit.push(0x80);
            unit
        })
    }

    proptest! {
        #[test]
        fn frames_survive_annexb_and_back(units in prop::collection::vec(unit(), 0..8)) {
            let mut frame = Vec::new();
            for unit in &units {
                push_unit(&mut frame, unit);
            }
            let stream = to_annexb(&frame).unwrap();
            prop_assert_eq!(annexb_units(&stream).collect::<Vec<_>>(), units);
            prop_assert_eq!(from_annexb(&stream), frame);
        }

        #[test]
        fn arbitrary_bytes_never_panic(data in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..200), size in 0usize..6) {
            let _ = to_annexb(&data);
            let _ = relength(&data, size);
            prop_assert!(unescape(&data).len() <= data.len());
            let _ = sei_has(&data, 6);
            prop_assert!(units(&from_annexb(&data)).all(|unit| unit.is_ok()));
        }

        #[test]
        fn start_codes_are_found_as_the_simple_way_finds_them(data in prop::collection::vec(0u8..3, 0..60)) {
            let found = after_start_code(&data).map(|(before, _)| before.len());
            prop_assert_eq!(found, data.windows(3).position(|w| w == [0, 0, 1]));
        }
    }
}
