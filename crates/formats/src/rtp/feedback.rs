//! What a receiver says at once of what came: packets that are missing (RFC 4585 6.2.1), and of each packet of a session whether it came
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01 3.1).

use super::Error;

const SHORT: Error = Error::Short("RTCP feedback");

/// Packets of a source are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The source.
    pub ssrc: u32,
    /// A sequence number, and in bits from the lowest on which of the next 16 are missing as well.
    pub entries: Vec<(u16, u16)>,
}

impl Nack {
    /// Reads what follows the first word of the packet.
    pub fn parse(body: &[u8]) -> Result<Nack, Error> {
        let (source, entries) = body.get(4..).and_then(|rest| rest.split_first_chunk()).ok_or(SHORT)?;
        let entry = |entry: &[u8; 4]| {
            let [p0, p1, b0, b1] = *entry;
            (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([b0, b1]))
        };
        Ok(Nack { ssrc: u32::from_be_bytes(*source), entries: entries.as_chunks().0.iter().map(entry).collect() })
    }

    /// The sequence numbers, in the order in which they are written.
    pub fn sequences(&self) -> impl Iterator<Item = u16> + '_ {
        self.entries.iter().flat_map(|(first, others)| {
            let others = (0..16).filter(move |bit| others >> bit & 1 == 1).map(move |bit| first.wrapping_add(bit + 1));
            std::iter::once(*first).chain(others)
        })
    }
}

/// Which packets came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wide {
    /// The number of the first packet.
    pub first: u16,
    /// So many packets in a row, and whether they came. No run is empty.
    pub runs: Vec<(u16, bool)>,
}

impl Wide {
    /// Reads what follows the first word of the packet. When each packet came is not looked at.
    pub fn parse(body: &[u8]) -> Result<Wide, Error> {
        let (head, mut rest) = body.get(8..).and_then(|rest| rest.split_first_chunk::<8>()).ok_or(SHORT)?;
        let [f0, f1, c0, c1, ..] = *head;
        let (first, mut left) = (u16::from_be_bytes([f0, f1]), u16::from_be_bytes([c0, c1]));
        let mut runs: Vec<(u16, bool)> = Vec::new();
        let mut put = |length: u16, symbol: u16| {
            let length = length.min(left);
            left -= length;
            // Came, with a small difference in time or a large one; 3 is reserved.
            let came = symbol == 1 || symbol == 2;
            match runs.last_mut() {
                Some((known, same)) if *same == came => *known += length,
                Some(_) | None if length > 0 => runs.push((length, came)),
                Some(_) | None => {}
            }
            left
        };
        let mut more = put(0, 0) > 0;
        while more {
            let (chunk, behind) = rest.split_first_chunk().ok_or(SHORT)?;
            rest = behind;
            let chunk = u16::from_be_bytes(*chunk);
            more = match chunk >> 14 {
                0 | 1 => put(chunk & 0x1fff, chunk >> 13 & 3),
                2 => (0..14).rev().map(|bit| put(1, chunk >> bit & 1)).last().unwrap_or_default(),
                _ => (0..7).rev().map(|at| put(1, chunk >> (2 * at) & 3)).last().unwrap_or_default(),
            } > 0;
        }
        Ok(Wide { first, runs })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let nack = Nack::parse(&[0, 0, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0x80, 1, 0, 9, 0, 0, 5]).unwrap();
        assert_eq!(nack.ssrc, 7);
        assert_eq!(nack.sequences().collect::<Vec<_>>(), [0xffff, 0, 15, 9]);
        assert!(Nack::parse(&[0; 7]).is_err());
    }

    fn wide(count: u16, chunks: &[u16]) -> Result<Wide, Error> {
        let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 7, 0xff, 0xfe];
        bytes.extend(count.to_be_bytes());
        bytes.extend([0, 0, 1, 1]);
        bytes.extend(chunks.iter().flat_map(|chunk| chunk.to_be_bytes()));
        Wide::parse(&bytes)
    }

    #[test]
    fn all_kinds_of_chunks_are_read() {
        // Runs of 5 that did not come and of 3 that came late; one bit each; two bits each, the reserved ones among them.
        let read =
            wide(5 + 3 + 14 + 4, &[5, 0x4003, 0x8000 | 0b11_0000_0000_0001, 0xc000 | 0b01_10_00_11_11_11_11]).unwrap();
        let runs = [(5, false), (5, true), (11, false), (3, true), (2, false)];
        assert_eq!((read.first, &read.runs[..]), (0xfffe, &runs[..]));
        // What is behind the count is not meant; empty runs say nothing; too few chunks.
        assert_eq!(wide(2, &[0x2000, 0x4000, 0x3fff]).unwrap().runs, [(2, true)]);
        assert_eq!(wide(0, &[]).unwrap().runs, []);
        assert!(wide(15, &[0x8000]).is_err() && wide(1, &[0x2000]).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(nack) = Nack::parse(&bytes) {
                prop_assert!(nack.sequences().count() <= bytes.len() * 17);
            }
            if let Ok(wide) = Wide::parse(&bytes) {
                let sum: usize = wide.runs.iter().map(|(length, _)| usize::from(*length)).sum();
                prop_assert_eq!(sum, usize::from(u16::from_be_bytes([bytes[10], bytes[11]])));
                prop_assert!(wide.runs.iter().all(|(length, _)| *length > 0));
            }
        }
    }
}
