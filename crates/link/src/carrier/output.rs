//! What waits for the socket: whole WebSocket frames, and behind them one message that may still grow.
//!
//! HTTP/2 writes frame by frame, 16 KiB at a time. A message, a mask and a call of the system for each of them would cost more
//! than the bytes do, so what is written before the socket takes it becomes one message.

use std::io;

use bytes::{Buf, BufMut, BytesMut};
use culvert_net::ws::{Role, apply_mask};

use super::frame::Keys;

/// Most bytes of a message whose length takes two bytes (RFC 6455 5.2).
const MEDIUM: usize = u16::MAX as usize;
/// Below this the length stands in the second byte.
const SHORT: usize = 126;
/// What is copied and masked while it is in the processor's nearest cache.
const BLOCK: usize = 4 << 10;
/// Left out in front of the first message. Processors copy several times slower between two places that are alike in their
/// place within a page; the kernel's are mostly at the beginning of one, and so would ours be. Measured: a third of all CPU time.
const ASIDE: usize = 1 << 10;

/// The message at the end, while it grows.
struct Open {
    /// Where the room for its header begins.
    start: usize,
    /// How much room there is. The first message in line has some for a length of eight bytes: what it does not take is left
    /// out in front. A later one has some for two bytes, for nothing may be between two frames.
    header: usize,
    /// Most bytes of its payload.
    most: usize,
    key: [u8; 4],
}

pub(super) struct Output {
    bytes: BytesMut,
    open: Option<Open>,
    masked: bool,
    keys: Keys,
    /// Of control frames since all was written the last time.
    control: usize,
}

impl Output {
    pub(super) fn new(role: Role) -> Output {
        let masked = role == Role::Client;
        Output { bytes: BytesMut::new(), open: None, masked, keys: Keys::new(), control: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of control frames that may still wait.
    pub(super) fn control_bytes(&self) -> usize {
        self.control
    }

    /// Takes some of the parts, at most `room` bytes; how many.
    pub(super) fn append(&mut self, parts: &[io::IoSlice<'_>], room: usize) -> usize {
        let mut taken = 0;
        let all: usize = parts.iter().map(|part| part.len()).sum();
        let aside = if all >= BLOCK { ASIDE } else { 0 };
        self.bytes.reserve(all.min(room) + aside + 14);
        for part in parts {
            let mut rest = part.get(..part.len().min(room - taken)).unwrap_or_default();
            while !rest.is_empty() {
                let (so_far, most, key) = self.payload(aside);
                if so_far == most {
                    self.close();
                    continue;
                }
                let (now, later) = rest.split_at(rest.len().min(most - so_far).min(BLOCK));
                let at = self.bytes.len();
                self.bytes.extend_from_slice(now);
                if self.masked
                    && let Some(now) = self.bytes.get_mut(at..)
                {
                    apply_mask(now, key, so_far);
                }
                taken += now.len();
                rest = later;
            }
        }
        taken
    }

    /// Of the message that grows, which is begun where there is none: its length, what that may become, and its key.
    fn payload(&mut self, aside: usize) -> (usize, usize, [u8; 4]) {
        let open = match &self.open {
            Some(open) => open,
            None => {
                let (start, mask) = (self.bytes.len(), if self.masked { 4 } else { 0 });
                let (header, most) = if start == 0 { (aside + 10 + mask, usize::MAX) } else { (4 + mask, MEDIUM) };
                let key = if self.masked { self.keys.next() } else { [0; 4] };
                self.bytes.put_bytes(0, header);
                self.open.insert(Open { start, header, most, key })
            }
        };
        (self.bytes.len() - open.start - open.header, open.most, open.key)
    }

    /// Writes the header of the message at the end: nothing is added to it any more.
    fn close(&mut self) {
        let Some(Open { start, header: room, key, .. }) = self.open.take() else { return };
        let length = self.bytes.len() - start - room;
        let (header, used) = header(2, length, self.masked.then_some(key));
        let spare = room - used;
        let Some(frame) = self.bytes.get_mut(start..) else { return };
        if let Some(place) = frame.get_mut(spare..room) {
            place.copy_from_slice(header.get(..used).unwrap_or_default());
        }
        if start == 0 {
            self.bytes.advance(spare);
        } else if spare > 0 {
            // Fewer than 126 bytes.
            frame.copy_within(spare.., 0);
            self.bytes.truncate(start + used + length);
        }
    }

    /// Adds a control frame of at most 125 bytes.
    pub(super) fn control(&mut self, opcode: u8, payload: &[u8]) {
        self.close();
        let key = if self.masked { self.keys.next() } else { [0; 4] };
        let (header, used) = header(opcode, payload.len(), self.masked.then_some(key));
        self.bytes.reserve(used + payload.len());
        self.control += used + payload.len();
        self.bytes.put_slice(header.get(..used).unwrap_or_default());
        let at = self.bytes.len();
        self.bytes.put_slice(payload);
        if let Some(payload) = self.bytes.get_mut(at..) {
            apply_mask(payload, key, 0);
        }
    }

    /// What is to be written now.
    pub(super) fn chunk(&mut self) -> &[u8] {
        self.close();
        &self.bytes
    }

    /// So much of it was written.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        if self.bytes.is_empty() {
            self.control = 0;
        }
    }

    /// Gives back what an idle link does not need. Only once all is written.
    pub(super) fn rest(&mut self) {
        self.bytes = BytesMut::new();
        self.keys.rest();
    }
}

/// A final frame's header (RFC 6455 5.2), and how many of the bytes it is.
fn header(opcode: u8, length: usize, key: Option<[u8; 4]>) -> ([u8; 14], usize) {
    let mut header = [0; 14];
    let mut rest: &mut [u8] = &mut header;
    let mask = if key.is_some() { 0x80 } else { 0 };
    rest.put_u8(0x80 | opcode);
    if length < SHORT {
        rest.put_u8(mask | length as u8);
    } else if length <= MEDIUM {
        rest.put_u8(mask | 126);
        rest.put_u16(length as u16);
    } else {
        rest.put_u8(mask | 127);
        rest.put_u64(length as u64);
    }
    if let Some(key) = key {
        rest.put_slice(&key);
    }
    let used = 14 - rest.len();
    (header, used)
}
