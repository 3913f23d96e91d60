//! AAC as `mpeg4-generic`, mode AAC-hbr (RFC 3640 3.3.6): one access unit a packet, or one in several.
//!
//! ```text
//! AU-headers-length (16 bits, in bits) | AU-size (13) AU-index (3) | access unit or a fragment of it
//! ```

use super::{Emit, Piece};

/// Length and one header.
const HEAD_BYTES: usize = 4;
/// What 13 bits can say.
pub(in super::super) const MAX_UNIT_BYTES: usize = (1 << 13) - 1;

/// A unit that is larger than the format can say is left out; no encoder makes one (ISO 14496-3: 6144 bits a channel).
pub(in super::super) fn pack(data: &[u8], max: usize, emit: &mut Emit<'_>) {
    let Some(size) = u16::try_from(data.len()).ok().filter(|size| usize::from(*size) <= MAX_UNIT_BYTES) else { return };
    let [high, low] = (size << 3).to_be_bytes();
    let head = [0, 16, high, low];
    let mut left = data.chunks(max.saturating_sub(HEAD_BYTES).max(1)).peekable();
    while let Some(part) = left.next() {
        // RFC 3640 3.2.3.1: all fragments say the size of the whole, and the marker is on the last.
        emit(Piece { parts: &[&head, part], marker: left.peek().is_none(), ticks: 0 });
    }
}
