//! Opus (RFC 7587: a packet is a payload) and G.711 (RFC 3551 4.5.14: samples, to be cut anywhere).

use super::{Emit, Piece};

/// `bytes_per_tick`: of payloads that may be cut; others go as they are, or not at all where they are larger than a datagram.
pub(super) fn pack(data: &[u8], max: usize, bytes_per_tick: Option<u32>, emit: &mut Emit<'_>) {
    let Some(bytes_per_tick) = bytes_per_tick else {
        emit(Piece { parts: &[data], marker: false, ticks: 0 });
        return;
    };
    // On whole samples of all channels.
    let unit = usize::try_from(bytes_per_tick).unwrap_or(1).max(1);
    let mut ticks = 0;
    for part in data.chunks((max / unit).max(1) * unit) {
        emit(Piece { parts: &[part], marker: false, ticks });
        ticks += u32::try_from(part.len() / unit).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_cut_between_each_other_and_packets_are_not_cut() {
        let mut seen = Vec::new();
        pack(&[7; 1000], 301, Some(2), &mut |piece| seen.push((piece.parts.concat().len(), piece.ticks)));
        assert_eq!(seen, [(300, 0), (300, 150), (300, 300), (100, 450)]);
        seen.clear();
        pack(&[7; 1000], 301, None, &mut |piece| seen.push((piece.parts.concat().len(), piece.ticks)));
        assert_eq!(seen, [(1000, 0)]);
    }
}
