//! What every tag of the bench's stream carries in its last bytes: which one it is, and when it was handed over.
//!
//! The clock is the machine's monotonic one, which all processes share, so a viewer can tell how far behind it is
//! without knowing who published. No byte is below 0x80: H.264's start codes cannot arise.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Groups of seven bits in a sequence number.
const SEQ_GROUPS: usize = 5;
/// Groups of seven bits in a time.
const TIME_GROUPS: usize = 9;
/// Of a stamp: its groups and a check.
pub(crate) const STAMP_BYTES: usize = SEQ_GROUPS + TIME_GROUPS + 1;

/// A tag's identity and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Counts the tags of a stream, audio and video together, without a gap.
    pub(crate) seq: u32,
    /// When it was handed to the publisher's socket, by [`now_micros`].
    pub(crate) micros: u64,
}

/// Microseconds of the machine's monotonic clock.
pub(crate) fn now_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).map_or(0, |since_boot| since_boot.as_micros() as u64)
}

impl Stamp {
    /// As the last bytes of a tag's body.
    pub(crate) fn write(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0x80; STAMP_BYTES];
        let (groups, check) = bytes.split_at_mut(SEQ_GROUPS + TIME_GROUPS);
        let numbers = [(u64::from(self.seq), SEQ_GROUPS), (self.micros, TIME_GROUPS)];
        let sevens = numbers.into_iter().flat_map(|(n, count)| (0..count).rev().map(move |i| (n >> (7 * i)) & 0x7f));
        for (byte, seven) in groups.iter_mut().zip(sevens) {
            *byte |= seven as u8;
        }
        check.fill(checksum(groups));
        bytes
    }

    /// From a tag's body; none where it does not end in a stamp, as sequence headers and metadata do not.
    pub(crate) fn read(body: &[u8]) -> Option<Stamp> {
        let (groups, check) = body.last_chunk::<STAMP_BYTES>()?.split_at(SEQ_GROUPS + TIME_GROUPS);
        if groups.iter().any(|byte| byte & 0x80 == 0) || check != [checksum(groups)] {
            return None;
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |n, byte| n << 7 | u64::from(byte & 0x7f));
        let (seq, micros) = groups.split_at(SEQ_GROUPS);
        Some(Stamp { seq: u32::try_from(number(seq)).ok()?, micros: number(micros) })
    }
}

fn checksum(groups: &[u8]) -> u8 {
    0x80 | groups.iter().fold(0x55, |sum, byte| sum ^ byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_at_the_end_of_a_body_and_nowhere_else() {
        let stamp = Stamp { seq: 0xfedc_ba98, micros: 1 << 62 | 12345 };
        let body = [&[1, 2, 3][..], &stamp.write()].concat();
        assert_eq!(Stamp::read(&body), Some(stamp));
        assert!(stamp.write().iter().all(|byte| byte & 0x80 != 0));
        assert_eq!(Stamp::read(&body[..body.len() - 1]), None);
        assert_eq!(Stamp::read(&[0xff; 40]), None);
        assert_eq!(Stamp::read(&[0xff; 4]), None);
    }

    #[test]
    fn the_clock_goes_on() {
        let earlier = now_micros();
        assert!(earlier > 0 && now_micros() >= earlier);
    }
}
