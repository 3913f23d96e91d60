//! What stands before each payload of a WebSocket (RFC 6455 5.2), and keys for the masks on them.

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
            // Words of ours, besides the bytes: as short and whole as control frames.
            1 | 8..=10 if length <= 125 && first & 0x80 != 0 => {}
            1 => return Err(broken("text where bytes are carried")),
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

/// Masks' keys: unpredictable to what runs in a browser, which is what masks are for (RFC 6455 10.3). A call to the system
/// for each message would cost more than the mask itself, so some are taken at a time.
pub(super) struct Keys {
    pool: Option<Box<[u8; KEYS * 4]>>,
    used: usize,
}

/// How many keys are taken at a time.
const KEYS: usize = 32;

impl Keys {
    pub(super) fn new() -> Keys {
        Keys { pool: None, used: KEYS }
    }

    pub(super) fn next(&mut self) -> [u8; 4] {
        if self.used >= KEYS {
            let mut pool = Box::new([0; KEYS * 4]);
            if getrandom::fill(&mut pool[..]).is_err() {
                // Zeros are no mask, but a valid key, and both of our ends are programs.
                return [0; 4];
            }
            self.pool = Some(pool);
            self.used = 0;
        }
        let keys = self.pool.as_ref().map_or(&[][..], |pool| &pool[..]);
        let key = keys.chunks_exact(4).nth(self.used).and_then(|key| <[u8; 4]>::try_from(key).ok());
        self.used += 1;
        key.unwrap_or_default()
    }

    /// Gives back what an idle link does not need.
    pub(super) fn rest(&mut self) {
        *self = Keys::new();
    }
}
