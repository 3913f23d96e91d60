//! Writing: a message becomes chunks, always the same ones (RTMP 5.3).
//!
//! A message begins with a fmt 0 chunk and goes on in fmt 3 chunks: its bytes depend on nothing that was sent before,
//! so that they can be made once and shared by all viewers, whenever each of them came. The price is 8 bytes more per
//! message than deltas would take.

use super::chunk::EXTENDED;

/// Appends a message, its body being `prefix` and `payload` in a row.
///
/// `csid` is 2 to 63, `chunk_size` the one that was last announced (at least 1), and the body at most 16,777,215 bytes
/// (RTMP 5.3.1.2.1); our own messages are far below, and a longer one is a bug of the caller.
#[allow(clippy::too_many_arguments, reason = "a message header has that many fields")]
pub fn write_message(
    out: &mut Vec<u8>,
    chunk_size: u32,
    csid: u8,
    kind: u8,
    timestamp: u32,
    stream_id: u32,
    prefix: &[u8],
    payload: &[u8],
) {
    debug_assert!((2..64).contains(&csid) && chunk_size > 0);
    let (csid, chunk_size) = (csid & 0x3f, (chunk_size as usize).max(1));
    let length = prefix.len() + payload.len();
    let length_field = u32::try_from(length).ok().filter(|length| *length <= EXTENDED);
    let length_field = length_field.expect("a message of ours is below 16 MiB").to_be_bytes();
    let extended = (timestamp >= EXTENDED).then(|| timestamp.to_be_bytes());
    let extended = extended.as_ref().map_or(&[][..], |bytes| bytes.as_slice());

    let further = length.saturating_sub(1) / chunk_size;
    out.reserve_exact(12 + extended.len() + length + further * (1 + extended.len()));
    out.push(csid);
    out.extend_from_slice(&timestamp.min(EXTENDED).to_be_bytes()[1..]);
    out.extend_from_slice(&length_field[1..]);
    out.push(kind);
    out.extend_from_slice(&stream_id.to_le_bytes());
    out.extend_from_slice(extended);
    let mut room = chunk_size;
    for mut part in [prefix, payload] {
        while !part.is_empty() {
            if room == 0 {
                out.push(0xc0 | csid);
                out.extend_from_slice(extended);
                room = chunk_size;
            }
            let (now, later) = part.split_at(part.len().min(room));
            out.extend_from_slice(now);
            room -= now.len();
            part = later;
        }
    }
}
