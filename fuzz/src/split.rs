//! One input, arriving in different pieces.

/// Longest input that [`splits`] also gives byte by byte; beyond it that is only slow.
const MAX_SINGLE_BYTES: usize = 8 * 1024;

/// The same bytes whole, byte by byte (if they are few), and in two ways that look like chance but follow from the
/// bytes, so that a find can be repeated from its file alone.
pub fn splits(data: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut ways = vec![vec![data]];
    if data.len() <= MAX_SINGLE_BYTES {
        ways.push(data.chunks(1).collect());
    }
    let seed = hash(data);
    for (salt, longest) in [(1, 7), (2, 1500)] {
        let mut random = Random(seed ^ salt);
        let (mut rest, mut pieces) = (data, Vec::new());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((1 + random.below(longest)).min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        ways.push(pieces);
    }
    ways
}

/// FNV-1a, 64 bits: any number that follows from the bytes would do.
pub fn hash(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The same sequence from the same seed, always (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_the_same_bytes() {
        let data: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let ways = splits(&data);
        assert_eq!(ways.len(), 4);
        assert!(ways.iter().all(|pieces| pieces.concat() == data));
    }
}
