//! What stands before each payload of a WebSocket (RFC 6455 5.2), and the mask on it.

use std::io;

use culvert_net::ws::Role;

/// The header of a frame.
pub(super) struct Header {
    pub(super) opcode: u8,
    /// Of the payload.
    pub(super) length: u64,
    pub(super) key: [u8; 4],
    /// Its own size.
    pub(super) bytes: usize,
}

impl Header {
    /// The one at the beginning of `input`, once it is whole. `role`: who reads it. An error: the peer broke the protocol.
    pub(super) fn parse(input: &[u8], role: Role) -> io::Result<Option<Header>> {
        let &[first, second, ref rest @ ..] = input else { return Ok(None) };
        let (opcode, masked) = (first & 0x0f, second & 0x80 != 0);
        if first & 0x70 != 0 {
            return Err(broken("a reserved bit is set"));
        }
        if masked == (role == Role::Client) {
            return Err(broken("frames of clients are masked, those of servers are not"));
        }
        let (length, used) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
            (126 | 127, _) => return Ok(None),
            (short, _) => (u64::from(short), 2),
        };
        match opcode {
            // What a fragment belongs to does not matter to a byte stream.
            0 | 2 => {}
            1 => return Err(broken("text where bytes are carried")),
            8..=10 if length <= 125 && first & 0x80 != 0 => {}
            _ => return Err(broken("a control frame that is long, fragmented or not defined")),
        }
        if length >> 63 != 0 {
            return Err(broken("a length with its top bit set"));
        }
        if !masked {
            return Ok(Some(Header { opcode, length, key: [0; 4], bytes: used }));
        }
        let key = input.get(used..used + 4).and_then(|key| <[u8; 4]>::try_from(key).ok());
        Ok(key.map(|key| Header { opcode, length, key, bytes: used + 4 }))
    }
}

pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the other end broke the WebSocket protocol: {what}"))
}

/// Unpredictable to what runs in a browser, which is what masks are for (RFC 6455 10.3); both of our ends are programs.
/// Zeros, which are no mask, stand in only when the system has no randomness.
pub(super) fn mask_key() -> [u8; 4] {
    getrandom::u32().unwrap_or_default().to_ne_bytes()
}

/// XORs with the key from its byte `turn` on, eight bytes at a time (RFC 6455 5.3).
pub(super) fn unmask(bytes: &mut [u8], key: [u8; 4], turn: usize) {
    if key == [0; 4] {
        return;
    }
    let mut turned = key;
    turned.rotate_left(turn % 4);
    let [a, b, c, d] = turned;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        if let Ok(eight) = <[u8; 8]>::try_from(&*word) {
            word.copy_from_slice(&(u64::from_ne_bytes(eight) ^ wide).to_ne_bytes());
        }
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(turned.into_iter().cycle()) {
        *byte ^= key;
    }
}
