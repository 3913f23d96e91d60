//! WebSocket framing (RFC 6455 5), without sockets: bytes to messages and back, and the handshake's key. [`client`] asks
//! a server for a WebSocket on a connection.
//!
//! No extensions are offered: media gains nothing by compression (security.md S14).

pub mod client;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use sha1::{Digest, Sha1};
use thiserror::Error;

pub use self::client::{Upgrade, UpgradeError, Upgraded, connect};

/// Most fragments of one message (security.md S13).
const FRAGMENTS: usize = 1024;

/// The answer to `Sec-WebSocket-Key` (RFC 6455 4.2.2).
pub fn accept_key(key: &str) -> String {
    let mut sha = Sha1::new();
    sha.update(key.trim());
    sha.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(sha.finalize())
}

/// Kinds of frames (RFC 6455 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// UTF-8 text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The end, with a status and a reason.
    Close = 8,
    /// To be answered with the same payload.
    Ping = 9,
    /// The answer.
    Pong = 10,
}

/// A whole message, or a control frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Text; not checked for UTF-8.
    Text(Bytes),
    /// Bytes.
    Binary(Bytes),
    /// The peer ends, with this status where it gave one.
    Close(Option<u16>),
    /// To be answered.
    Ping(Bytes),
    /// An answer.
    Pong(Bytes),
}

/// What a peer did wrong, with the status to close with (RFC 6455 7.4.1).
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WsError {
    /// Against the protocol: 1002.
    #[error("against the WebSocket protocol: {0}")]
    Protocol(&'static str),
    /// A message larger than we take: 1009.
    #[error("a WebSocket message of more than {0} bytes")]
    TooBig(usize),
}

impl WsError {
    /// The status to close with.
    pub const fn status(&self) -> u16 {
        match self {
            WsError::Protocol(_) => 1002,
            WsError::TooBig(_) => 1009,
        }
    }
}

/// Who is reading: it decides whether frames must be masked (RFC 6455 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Frames come from a client, masked.
    Server,
    /// Frames come from a server, bare.
    Client,
}

/// Frames to messages. Its buffer grows with what was received, never with what a length declares.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    limit: usize,
    buffer: BytesMut,
    /// The fragments so far, and what kind of message they are.
    partial: Option<(Opcode, BytesMut, usize)>,
}

impl Decoder {
    /// For messages of at most `limit` bytes.
    pub fn new(role: Role, limit: usize) -> Decoder {
        Decoder { role, limit, buffer: BytesMut::new(), partial: None }
    }

    /// Takes what came in.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, once it is whole.
    pub fn poll_message(&mut self) -> Result<Option<Message>, WsError> {
        while let Some((opcode, fin, payload)) = self.frame()? {
            let message = match (opcode, &mut self.partial) {
                (8, _) => Message::Close(match payload.as_ref() {
                    [] => None,
                    [_] => return Err(WsError::Protocol("a close frame with half a status")),
                    [a, b, ..] => Some(u16::from_be_bytes([*a, *b])),
                }),
                (9, _) => Message::Ping(payload.freeze()),
                (10, _) => Message::Pong(payload.freeze()),
                (1 | 2, Some(_)) => return Err(WsError::Protocol("a new message within a fragmented one")),
                (1, None) if fin => Message::Text(payload.freeze()),
                (2, None) if fin => Message::Binary(payload.freeze()),
                (1, partial @ None) => {
                    *partial = Some((Opcode::Text, payload, 1));
                    continue;
                }
                (2, partial @ None) => {
                    *partial = Some((Opcode::Binary, payload, 1));
                    continue;
                }
                (0, Some((_, gathered, count))) => {
                    *count += 1;
                    if gathered.len() + payload.len() > self.limit || *count > FRAGMENTS {
                        return Err(WsError::TooBig(self.limit));
                    }
                    gathered.extend_from_slice(&payload);
                    match self.partial.take_if(|_| fin) {
                        Some((Opcode::Text, gathered, _)) => Message::Text(gathered.freeze()),
                        Some((_, gathered, _)) => Message::Binary(gathered.freeze()),
                        None => continue,
                    }
                }
                (0, None) => return Err(WsError::Protocol("a continuation of nothing")),
                (_, _) => return Err(WsError::Protocol("an opcode that is not defined")),
            };
            return Ok(Some(message));
        }
        Ok(None)
    }

    /// One frame, unmasked: opcode, FIN, payload.
    fn frame(&mut self) -> Result<Option<(u8, bool, BytesMut)>, WsError> {
        let &[first, second, ref rest @ ..] = self.buffer.as_ref() else { return Ok(None) };
        let (fin, opcode, masked) = (first & 0x80 != 0, first & 0x0f, second & 0x80 != 0);
        if first & 0x70 != 0 {
            return Err(WsError::Protocol("a reserved bit is set"));
        }
        if masked != (self.role == Role::Server) {
            return Err(WsError::Protocol("frames of clients are masked, those of servers are not"));
        }
        let (length, used) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
            (126 | 127, _) => return Ok(None),
            (short, _) => (u64::from(short), 2),
        };
        if opcode >= 8 && (length > 125 || !fin) {
            return Err(WsError::Protocol("a control frame that is long or fragmented"));
        }
        if length >> 63 != 0 {
            return Err(WsError::Protocol("a length with its top bit set (RFC 6455 5.2)"));
        }
        if length > self.limit as u64 {
            return Err(WsError::TooBig(self.limit));
        }
        let length = length as usize;
        let header = used + if masked { 4 } else { 0 };
        if self.buffer.len() < header + length {
            return Ok(None);
        }
        let mut key = [0u8; 4];
        if masked {
            self.buffer.advance(used);
            self.buffer.copy_to_slice(&mut key);
        } else {
            self.buffer.advance(header);
        }
        let mut payload = self.buffer.split_to(length);
        apply_mask(&mut payload, key, 0);
        if self.buffer.is_empty() {
            // A quiet connection holds no buffer.
            self.buffer = BytesMut::new();
        }
        Ok(Some((opcode, fin, payload)))
    }
}

/// XORs with the key from its byte `turn` on (RFC 6455 5.3).
pub fn apply_mask(bytes: &mut [u8], key: [u8; 4], turn: usize) {
    if key == [0; 4] {
        return;
    }
    let mut turned = key;
    turned.rotate_left(turn % 4);
    let [a, b, c, d] = turned;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    // Arrays rather than slices: only then the compiler makes vectors of it, and not a call for every eight bytes.
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(turned.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// One whole frame. `mask` is for clients.
pub fn encode(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 14);
    out.push(0x80 | opcode as u8);
    let bit = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        n @ 0..=125 => out.push(bit | n as u8),
        n @ 126..=0xffff => {
            out.push(bit | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(bit | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    if let Some(key) = mask {
        out.extend_from_slice(&key);
        let from = out.len();
        out.extend_from_slice(payload);
        if let Some(body) = out.get_mut(from..) {
            apply_mask(body, key, 0);
        }
    } else {
        out.extend_from_slice(payload);
    }
    out.into()
}

/// A key for the next frame of a client. It keeps intermediaries from being fooled by what looks like HTTP (RFC 6455 10.3); nothing
/// secret depends on it.
pub fn mask() -> [u8; 4] {
    getrandom::u32().unwrap_or(0x5bd1_e995).to_ne_bytes()
}

/// A close frame with a status and a reason of at most 123 bytes.
pub fn close(status: u16, reason: &str, mask: Option<[u8; 4]>) -> Bytes {
    let mut payload = status.to_be_bytes().to_vec();
    let mut room = 123.min(reason.len());
    while !reason.is_char_boundary(room) {
        room -= 1;
    }
    payload.extend_from_slice(reason.get(..room).unwrap_or_default().as_bytes());
    encode(Opcode::Close, &payload, mask)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_key_of_the_rfc_gives_the_answer_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    fn decode(bytes: &[u8]) -> Result<Option<Message>, WsError> {
        let mut decoder = Decoder::new(Role::Server, 1 << 20);
        decoder.handle_input(bytes);
        decoder.poll_message()
    }

    #[test]
    fn what_is_against_the_rfc_is_refused() {
        for (bytes, what) in [
            (&b"\x82\x00"[..], "bare frame of a client"),
            (b"\xc2\x80\0\0\0\0", "reserved bit"),
            (b"\x09\x80\0\0\0\0", "fragmented ping"),
            (b"\x89\xfe\x00\x7e\0\0\0\0", "long ping"),
            (b"\x80\x80\0\0\0\0", "continuation of nothing"),
            (b"\x83\x80\0\0\0\0", "opcode 3"),
            (b"\x88\x81\0\0\0\0\x03", "half a status"),
            (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", "length with its top bit set"),
        ] {
            assert!(matches!(decode(bytes), Err(WsError::Protocol(_))), "{what}");
        }
    }

    #[test]
    fn a_close_reason_is_cut_at_a_character() {
        let frame = close(1001, &"ü".repeat(100), None);
        assert_eq!(frame.len(), 2 + 2 + 122);
    }

    proptest! {
        #[test]
        fn messages_survive_framing_fragmenting_and_any_split(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
            key in any::<[u8; 4]>(),
            cut in 1usize..50,
        ) {
            let mut bytes = Vec::new();
            let last = parts.len() - 1;
            for (i, part) in parts.iter().enumerate() {
                let mut frame = encode(Opcode::Binary, part, Some(key)).to_vec();
                frame[0] = if i == 0 { 2 } else { 0 } | if i == last { 0x80 } else { 0 };
                bytes.extend(frame);
                bytes.extend(encode(Opcode::Ping, b"x", Some(key)));
            }
            let mut decoder = Decoder::new(Role::Server, 1 << 20);
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.handle_input(piece);
                while let Some(message) = decoder.poll_message().unwrap() {
                    if let Message::Binary(b) = message { seen.push(b) }
                }
            }
            prop_assert_eq!(seen, vec![Bytes::from(parts.concat())]);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(Role::Client, 1000);
            decoder.handle_input(&bytes);
            while let Ok(Some(_)) = decoder.poll_message() {}
        }
    }
}
