//! A reader of single bits, as the bit streams of all codecs here need it.
//!
//! Every read past the end is an error. It knows no codec; emulation prevention is [`super::nal::unescape`]'s work.
#![deny(clippy::indexing_slicing)]

use super::CodecError;

/// Most zero bits before an Exp-Golomb code: values are 32 bits wide in every codec here (security.md S22).
const MAX_GOLOMB_ZEROS: u32 = 32;

/// Reads bits from the most significant down.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    data: &'a [u8],
    /// Next bit, counted from the beginning.
    at: usize,
    /// What is being read, for the errors.
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `data`; `what` names it in errors.
    pub fn new(what: &'static str, data: &'a [u8]) -> Reader<'a> {
        Reader { data, at: 0, what }
    }

    /// How many bits are left.
    pub fn remaining_bits(&self) -> usize {
        self.data.len().saturating_mul(8).saturating_sub(self.at)
    }

    /// How many bits have been read.
    pub fn position_bits(&self) -> usize {
        self.at
    }

    /// One bit.
    pub fn bit(&mut self) -> Result<bool, CodecError> {
        let byte = self.data.get(self.at / 8).ok_or(CodecError::Short(self.what))?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Ok(bit == 1)
    }

    /// `count` bits, at most 32, as a number.
    pub fn bits(&mut self, count: u32) -> Result<u32, CodecError> {
        if count > 32 {
            return Err(CodecError::Value { what: "bit count", value: u64::from(count) });
        }
        if self.remaining_bits() < count as usize {
            return Err(CodecError::Short(self.what));
        }
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.bit()?);
        }
        Ok(value)
    }

    /// Eight bits.
    pub fn byte(&mut self) -> Result<u8, CodecError> {
        Ok(u8::try_from(self.bits(8)?).expect("eight bits fit a byte"))
    }

    /// `count` bits, at most 8.
    pub fn small(&mut self, count: u32) -> Result<u8, CodecError> {
        let value = self.bits(count)?;
        u8::try_from(value).map_err(|_| CodecError::Value { what: self.what, value: u64::from(value) })
    }

    /// Leaves out `count` bits, which must be there.
    pub fn skip(&mut self, count: usize) -> Result<(), CodecError> {
        if self.remaining_bits() < count {
            return Err(CodecError::Short(self.what));
        }
        self.at += count;
        Ok(())
    }

    /// Goes on to the next whole byte.
    pub fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    /// An unsigned Exp-Golomb code: ue(v), H.264 9.1. At most 32 zero bits, and a value of 32 bits.
    pub fn ue(&mut self) -> Result<u32, CodecError> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > MAX_GOLOMB_ZEROS {
                return Err(CodecError::Value { what: "Exp-Golomb prefix", value: u64::from(zeros) });
            }
        }
        let value = (1u64 << zeros) - 1 + u64::from(self.bits(zeros)?);
        u32::try_from(value).map_err(|_| CodecError::Value { what: "Exp-Golomb code", value })
    }

    /// As [`Reader::ue`], refusing what is above `max`; `what` names the element.
    pub fn ue_max(&mut self, what: &'static str, max: u32) -> Result<u32, CodecError> {
        let value = self.ue()?;
        if value > max { Err(CodecError::Value { what, value: u64::from(value) }) } else { Ok(value) }
    }

    /// A signed Exp-Golomb code: se(v), H.264 9.1.1.
    pub fn se(&mut self) -> Result<i32, CodecError> {
        let code = i64::from(self.ue()?);
        let value = if code % 2 == 1 { (code + 1) / 2 } else { -(code / 2) };
        i32::try_from(value).map_err(|_| CodecError::Value { what: "Exp-Golomb code", value: code.unsigned_abs() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exp_golomb_codes_are_those_of_the_specification() {
        // H.264 table 9-2 and 9-3: 1, 010, 011, 00100, 00101 are 0 to 4, or 0, 1, -1, 2, -2.
        let data = [0b1010_0110, 0b0100_0010, 0b1000_0000];
        let mut bits = Reader::new("test", &data);
        assert_eq!([(); 5].map(|()| bits.ue().unwrap()), [0, 1, 2, 3, 4]);
        let mut bits = Reader::new("test", &data);
        assert_eq!([(); 5].map(|()| bits.se().unwrap()), [0, 1, -1, 2, -2]);
    }

    #[test]
    fn codes_end_at_32_zeros_and_32_bits_of_value() {
        let ue = |data: &[u8]| Reader::new("test", data).ue();
        assert_eq!(ue(&[0, 0, 0, 0, 0x80, 0, 0, 0, 0]), Ok(u32::MAX));
        assert!(matches!(ue(&[0, 0, 0, 0, 0x80, 0, 0, 0, 0x80]), Err(CodecError::Value { .. })));
        assert!(matches!(ue(&[0; 9]), Err(CodecError::Value { .. })));
        assert_eq!(ue(&[0, 0, 0, 0]), Err(CodecError::Short("test")));
        assert_eq!(ue(&[0, 0, 0, 0, 0x80, 0, 0, 0]), Err(CodecError::Short("test")));
        assert_eq!(ue(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), Ok(u32::MAX - 1));
    }

    #[test]
    fn a_refused_read_moves_nothing() {
        let mut bits = Reader::new("test", &[0xa5, 0x5a]);
        assert_eq!(bits.bits(12), Ok(0xa55));
        assert!(bits.bits(5).is_err() && bits.skip(5).is_err() && bits.bits(33).is_err());
        assert_eq!((bits.position_bits(), bits.remaining_bits()), (12, 4));
        bits.align();
        assert_eq!(bits.remaining_bits(), 0);
        assert_eq!(bits.bits(0), Ok(0));
    }

    proptest! {
        #[test]
        fn bits_are_read_as_numbers(value in any::<u64>(), first in 0u32..=32) {
            let data = value.to_be_bytes();
            let mut bits = Reader::new("test", &data);
            let high = u64::from(bits.bits(first).unwrap());
            let low = u64::from(bits.bits(32).unwrap());
            prop_assert_eq!(u128::from(high) << 32 | u128::from(low), u128::from(value) >> (32 - first));
        }
    }
}
