//! The outer layer: a byte stream of tags (FLV 10.1, E.2 to E.4.1). Does not look into tags.
//!
//! ```text
//! "FLV" version flags DataOffset:32 | PreviousTagSize0:32 | tag PreviousTagSize:32 | tag ...
//! tag = 00 filter:1 type:5 | DataSize:24 | Timestamp:24 TimestampExtended:8 | StreamID:24 | body
//! ```
#![deny(clippy::indexing_slicing)]

use bytes::{Buf, Bytes, BytesMut};

use super::Error;

/// Largest body of a tag: the largest access unit that the house takes (security.md S21).
pub const MAX_TAG_BYTES: usize = 8 * 1024 * 1024;
/// Largest file header. Version 1 has 9 bytes; what a later version adds is skipped, within reason.
const MAX_HEADER_BYTES: u32 = 1024;
const HEADER_BYTES: u32 = 9;
const TAG_HEADER_BYTES: u32 = 11;

/// What is in a tag; the numbers are those of tags and of RTMP messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TagKind {
    /// Sound.
    Audio = 8,
    /// Pictures.
    Video = 9,
    /// AMF0: `onMetaData` and others.
    Script = 18,
}

impl TagKind {
    /// From the number in a tag header or an RTMP message header.
    pub fn from_number(number: u8) -> Option<TagKind> {
        match number {
            8 => Some(TagKind::Audio),
            9 => Some(TagKind::Video),
            18 => Some(TagKind::Script),
            _ => None,
        }
    }
}

/// One tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// What is in it.
    pub kind: TagKind,
    /// Milliseconds, wrapping at 2^32.
    pub time_ms: u32,
    /// VIDEODATA, AUDIODATA or SCRIPTDATA; may be empty.
    pub body: Bytes,
}

/// Cuts a byte stream into tags, however it arrives. Holds what it was given and was not asked for, never more.
///
/// A tag is given out as soon as its body is complete. After an error the stream is lost and every call says so.
#[derive(Debug)]
pub struct Reader {
    buffer: BytesMut,
    state: State,
    wrong_sizes: u64,
    skipped: u64,
}

#[derive(Clone, Debug)]
enum State {
    FileHeader,
    /// What is left of something that nobody wants, and the size that should be written behind it.
    Skip {
        left: usize,
        size: u32,
    },
    /// The size that should be written here.
    PreviousSize(u32),
    TagHeader,
    Body {
        kind: TagKind,
        time_ms: u32,
        size: u32,
    },
    Lost(Error),
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}

impl Reader {
    /// At the beginning of a stream.
    pub fn new() -> Reader {
        Reader { buffer: BytesMut::new(), state: State::FileHeader, wrong_sizes: 0, skipped: 0 }
    }

    /// Takes the next bytes. Call [`Reader::poll_tag`] until it has no more before the next input.
    pub fn handle_input(&mut self, mut input: &[u8]) {
        match &mut self.state {
            State::Lost(_) => return,
            // Unwanted bytes are not even buffered.
            State::Skip { left, .. } if self.buffer.is_empty() => {
                let unwanted = input.len().min(*left);
                *left -= unwanted;
                input.advance(unwanted);
            }
            State::Skip { .. } | State::FileHeader | State::PreviousSize(_) | State::TagHeader | State::Body { .. } => {
            }
        }
        self.buffer.extend_from_slice(input);
    }

    /// The next complete tag, if there is one.
    pub fn poll_tag(&mut self) -> Result<Option<Tag>, Error> {
        let polled = self.advance();
        if let Err(error) = &polled {
            self.state = State::Lost(error.clone());
            self.buffer = BytesMut::new();
        }
        polled
    }

    /// How many PreviousTagSize fields were wrong. Many encoders write 0 there; it matters to nobody who reads forward.
    pub fn wrong_sizes(&self) -> u64 {
        self.wrong_sizes
    }

    /// How many tags of unknown type, or encrypted, were left out.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn advance(&mut self) -> Result<Option<Tag>, Error> {
        loop {
            match &mut self.state {
                State::FileHeader => {
                    let Some(header) = self.take::<{ HEADER_BYTES as usize }>() else { return Ok(None) };
                    let [a, b, c, _version, _flags, offset @ ..] = header;
                    if [a, b, c] != *b"FLV" {
                        return Err(Error::Signature([a, b, c]));
                    }
                    let size = u32::from_be_bytes(offset);
                    if !(HEADER_BYTES..=MAX_HEADER_BYTES).contains(&size) {
                        return Err(Error::HeaderSize(size));
                    }
                    self.state = State::Skip { left: (size - HEADER_BYTES) as usize, size: 0 };
                }
                State::Skip { left, size } => {
                    let unwanted = self.buffer.len().min(*left);
                    self.buffer.advance(unwanted);
                    *left -= unwanted;
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = State::PreviousSize(*size);
                }
                State::PreviousSize(expected) => {
                    let expected = *expected;
                    let Some(size) = self.take() else { return Ok(None) };
                    self.wrong_sizes += u64::from(u32::from_be_bytes(size) != expected);
                    self.state = State::TagHeader;
                }
                State::TagHeader => {
                    let Some(header) = self.take::<{ TAG_HEADER_BYTES as usize }>() else { return Ok(None) };
                    let [kind, s2, s1, s0, t2, t1, t0, t3, _stream @ ..] = header;
                    let size = u32::from_be_bytes([0, s2, s1, s0]);
                    if size as usize > MAX_TAG_BYTES {
                        return Err(Error::TooLarge(size as usize));
                    }
                    // With the filter bit or a reserved bit set the number is none that we know.
                    self.state = match TagKind::from_number(kind) {
                        Some(kind) => State::Body { kind, time_ms: u32::from_be_bytes([t3, t2, t1, t0]), size },
                        None => {
                            self.skipped += 1;
                            State::Skip { left: size as usize, size: TAG_HEADER_BYTES + size }
                        }
                    };
                }
                State::Body { kind, time_ms, size } => {
                    if self.buffer.len() < *size as usize {
                        return Ok(None);
                    }
                    let body = self.buffer.split_to(*size as usize).freeze();
                    let tag = Tag { kind: *kind, time_ms: *time_ms, body };
                    self.state = State::PreviousSize(TAG_HEADER_BYTES + *size);
                    return Ok(Some(tag));
                }
                State::Lost(error) => return Err(error.clone()),
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = *self.buffer.first_chunk()?;
        self.buffer.advance(N);
        Some(taken)
    }
}

/// The file header and the first PreviousTagSize.
pub fn file_header(has_audio: bool, has_video: bool) -> [u8; 13] {
    let flags = u8::from(has_audio) << 2 | u8::from(has_video);
    [b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0]
}

/// How many bytes [`write_tag`] adds to a body.
pub(super) const TAG_OVERHEAD_BYTES: usize = TAG_HEADER_BYTES as usize + 4;

/// Appends a tag whose body is `prefix` and `payload`, and its PreviousTagSize. A body beyond [`MAX_TAG_BYTES`] cannot
/// be read back by anyone like us, so it is not written.
pub fn write_tag(kind: TagKind, time_ms: u32, prefix: &[u8], payload: &[u8], out: &mut Vec<u8>) {
    let body = prefix.len().saturating_add(payload.len());
    let Some(size) = u32::try_from(body).ok().filter(|_| body <= MAX_TAG_BYTES) else { return };
    let [_, s2, s1, s0] = size.to_be_bytes();
    let [t3, t2, t1, t0] = time_ms.to_be_bytes();
    out.extend_from_slice(&[kind as u8, s2, s1, s0, t2, t1, t0, t3, 0, 0, 0]);
    out.extend_from_slice(prefix);
    out.extend_from_slice(payload);
    out.extend_from_slice(&(TAG_HEADER_BYTES + size).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_grows_by_what_came_not_by_what_was_declared() {
        let mut reader = Reader::new();
        reader.handle_input(&file_header(true, true));
        // A tag that says 8 MiB, and one that nobody wants.
        reader.handle_input(&[8, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(reader.poll_tag(), Ok(None));
        assert!(reader.buffer.capacity() < 1024);

        let mut reader = Reader::new();
        reader.handle_input(&file_header(true, true));
        reader.handle_input(&[7, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for _ in 0..1024 {
            assert_eq!(reader.poll_tag(), Ok(None));
            reader.handle_input(&[0; 8192]);
        }
        assert!(reader.buffer.capacity() < 1024);
        reader.handle_input(&[0, 0x80, 0, 11]);
        assert_eq!(reader.poll_tag(), Ok(None));
        assert_eq!((reader.skipped(), reader.wrong_sizes()), (1, 0));
    }
}
