//! The doubled header of old pushers (OLD_PEERS.md 3): after the file header and the metadata each tag comes as a bare frame
//! header without a payload, and behind it a whole frame of the same length.
//!
//! ```text
//! 82 .. len  12 34 56 78 |                      the bare header: FIN, binary, masked, always this key
//! 82 .. len  key         | len bytes, masked    the frame
//! ```
//!
//! [`Doubled`] takes the bare headers out of a pusher's bytes, so that what is left is RFC 6455. It looks once, behind the second
//! message, whether the connection has them at all; what it finds holds for the connection.

use bytes::{Buf, BytesMut};
use thiserror::Error;

/// The key of a bare header.
const BARE_KEY: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
/// FIN and binary: how both headers begin.
const BINARY: u8 = 0x82;
/// Messages before the first doubled one: the file header, and the metadata.
const CLEAN: u8 = 2;

/// A doubled header whose two halves do not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a doubled header whose two halves differ")]
pub struct Mismatch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// So many messages have begun.
    Clean(u8),
    /// RFC 6455 to the end.
    Ordinary,
    /// A bare header comes next.
    Bare,
    /// The frame behind a bare header comes next.
    Frame,
}

/// Makes RFC 6455 of what an old pusher sends. Bytes in, bytes out.
#[derive(Debug)]
pub struct Doubled {
    mode: Mode,
    /// Bytes of payload that still belong to the frame under way.
    payload: u64,
    input: BytesMut,
}

/// A frame's header (RFC 6455 5.2).
struct Header {
    bytes: usize,
    first: u8,
    masked: bool,
    key: [u8; 4],
    payload: u64,
}

impl Header {
    /// None: it is not all there.
    fn read(input: &[u8]) -> Option<Header> {
        let (&first, &second) = (input.first()?, input.get(1)?);
        let (size, payload) = match second & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes(*input.get(2..)?.first_chunk()?))),
            127 => (8, u64::from_be_bytes(*input.get(2..)?.first_chunk()?)),
            short => (0, u64::from(short)),
        };
        let masked = second & 0x80 != 0;
        let key = if masked { *input.get(2 + size..)?.first_chunk()? } else { [0; 4] };
        Some(Header { bytes: 2 + size + if masked { 4 } else { 0 }, first, masked, key, payload })
    }

    fn is_control(&self) -> bool {
        self.first & 0x08 != 0
    }

    fn ends_message(&self) -> bool {
        self.first & 0x80 != 0 && !self.is_control()
    }

    fn is_bare(&self) -> bool {
        self.first == BINARY && self.masked && self.key == BARE_KEY
    }
}

impl Default for Doubled {
    fn default() -> Doubled {
        Doubled { mode: Mode::Clean(0), payload: 0, input: BytesMut::new() }
    }
}

impl Doubled {
    /// What the pusher sent next.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Whether this connection has doubled headers; None: that is not known yet.
    pub fn is_doubled(&self) -> Option<bool> {
        match self.mode {
            Mode::Clean(_) => None,
            Mode::Ordinary => Some(false),
            Mode::Bare | Mode::Frame => Some(true),
        }
    }

    /// Whether all that came has gone out.
    pub fn is_empty(&self) -> bool {
        self.input.is_empty()
    }

    /// The next bytes of RFC 6455; None: more input is needed. After an error there is nothing more.
    pub fn poll_output(&mut self) -> Result<Option<BytesMut>, Mismatch> {
        loop {
            if self.input.is_empty() {
                return Ok(None);
            }
            if self.mode == Mode::Ordinary {
                return Ok(Some(self.input.split()));
            }
            if self.payload > 0 {
                let n = usize::try_from(self.payload).unwrap_or(usize::MAX).min(self.input.len());
                self.payload -= n as u64;
                return Ok(Some(self.input.split_to(n)));
            }
            let Some(header) = Header::read(&self.input) else { return Ok(None) };
            if header.is_control() {
                return Ok(Some(self.pass(&header)));
            }
            match self.mode {
                Mode::Clean(CLEAN..) => match self.twin(&header) {
                    Some(true) if header.is_bare() => self.mode = Mode::Bare,
                    None if header.is_bare() => return Ok(None),
                    Some(_) | None => self.mode = Mode::Ordinary,
                },
                Mode::Clean(messages) => {
                    self.mode = Mode::Clean(messages + u8::from(header.ends_message()));
                    return Ok(Some(self.pass(&header)));
                }
                Mode::Bare => match self.twin(&header) {
                    Some(true) if header.is_bare() => {
                        self.input.advance(header.bytes);
                        self.mode = Mode::Frame;
                    }
                    None if header.is_bare() => return Ok(None),
                    Some(_) | None => return Err(Mismatch),
                },
                Mode::Frame => {
                    self.mode = Mode::Bare;
                    return Ok(Some(self.pass(&header)));
                }
                Mode::Ordinary => {}
            }
        }
    }

    /// Takes a header out as it is; its payload follows.
    fn pass(&mut self, header: &Header) -> BytesMut {
        self.payload = header.payload;
        self.input.split_to(header.bytes)
    }

    /// Whether the same header but for the key follows this one; None: not enough has come to say.
    fn twin(&self, header: &Header) -> Option<bool> {
        let same = header.bytes.saturating_sub(BARE_KEY.len());
        let (first, rest) = (self.input.get(..same)?, self.input.get(header.bytes..)?);
        let compared = rest.len().min(same);
        if first.get(..compared) != rest.get(..compared) {
            return Some(false);
        }
        (compared == same).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    fn header(len: usize, key: [u8; 4]) -> Vec<u8> {
        let mut out = vec![BINARY];
        match len {
            0..=125 => out.push(0x80 | len as u8),
            126..=0xffff => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            _ => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&key);
        out
    }

    fn frame(len: usize, key: [u8; 4]) -> Vec<u8> {
        [header(len, key), vec![0xaa; len]].concat()
    }

    fn bare(len: usize) -> Vec<u8> {
        header(len, BARE_KEY)
    }

    fn run(input: &[u8], piece: usize) -> Result<(Vec<u8>, Option<bool>), Mismatch> {
        let (mut doubled, mut out) = (Doubled::default(), Vec::new());
        for bytes in input.chunks(piece) {
            doubled.handle_input(bytes);
            while let Some(bytes) = doubled.poll_output()? {
                out.extend_from_slice(&bytes);
            }
        }
        Ok((out, doubled.is_doubled()))
    }

    #[test]
    fn bare_headers_are_taken_out_whatever_the_pieces() {
        let sizes = [0, 1, 5, 125, 126, 70_000];
        let begin = [frame(13, KEY), frame(397, KEY)].concat();
        let wire: Vec<u8> = sizes.iter().flat_map(|len| [bare(*len), frame(*len, KEY)].concat()).collect();
        let plain: Vec<u8> = sizes.iter().flat_map(|len| frame(*len, KEY)).collect();
        for piece in [1, 2, 3, 7, 64, 1000, usize::MAX] {
            let got = run(&[begin.clone(), wire.clone()].concat(), piece);
            assert_eq!(got, Ok(([begin.clone(), plain.clone()].concat(), Some(true))), "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_not_doubled_goes_through_as_it_is() {
        let wire = [frame(13, KEY), frame(397, KEY), frame(9, KEY), bare(9), frame(9, KEY)].concat();
        for piece in [1, 3, usize::MAX] {
            assert_eq!(run(&wire, piece), Ok((wire.clone(), Some(false))));
        }
        // A frame whose key happens to be that one, and what is no frame of a client at all.
        for third in [frame(200, BARE_KEY), vec![0x82, 3, 1, 2, 3], vec![0xff; 40]] {
            let wire = [frame(13, KEY), frame(397, KEY), third].concat();
            assert_eq!(run(&wire, 1).map(|(out, _)| out), Ok(wire));
        }
    }

    #[test]
    fn halves_that_differ_are_an_error() {
        let begin = [frame(13, KEY), frame(397, KEY), bare(20), frame(20, KEY)].concat();
        for wrong in [
            [bare(20), frame(21, KEY)].concat(),
            [bare(200), frame(20, KEY)].concat(),
            frame(20, KEY),
            [bare(20), vec![0x81]].concat(),
        ] {
            for piece in [1, usize::MAX] {
                assert_eq!(run(&[begin.clone(), wrong.clone()].concat(), piece), Err(Mismatch));
            }
        }
    }

    #[test]
    fn control_frames_and_fragments_stand_between_messages() {
        let ping = [vec![0x89, 0x80], KEY.to_vec()].concat();
        let first = [vec![0x02, 0x81], KEY.to_vec(), vec![1]].concat();
        let rest = [vec![0x80, 0x81], KEY.to_vec(), vec![2]].concat();
        let wire = [&ping[..], &first, &ping, &rest, &frame(3, KEY), &ping, &bare(4), &frame(4, KEY), &ping].concat();
        let plain = [&ping[..], &first, &ping, &rest, &frame(3, KEY), &ping, &frame(4, KEY), &ping].concat();
        assert_eq!(run(&wire, 1), Ok((plain, Some(true))));
    }
}
