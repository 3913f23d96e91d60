//! Reading: a byte stream of interleaved chunks becomes messages (RTMP 5.3).
//!
//! A payload is gathered exactly once, in memory that grows with what has come and not with what a header promises.
//! Set Chunk Size and Abort take effect here and are not handed on. Bounds are those of security.md S18.
//!
//! ```text
//! basic header   fmt (2 bits) | csid (6 bits: 2..63, or 0 and one more byte, or 1 and two more)
//! message header fmt 0: timestamp (3) length (3) type (1) stream id (4, little endian)
//!                fmt 1: delta (3)     length (3) type (1)
//!                fmt 2: delta (3)
//!                fmt 3: nothing; continues a message, or begins one like the last
//! extended       timestamp or delta (4) where the 3 bytes say 0xffffff; again on the fmt 3 chunks that follow
//! ```
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;

use super::Error;
use super::message::kind;

/// Largest chunk size that may be set (RTMP 5.4.1: the longest message has 24 bits of length).
pub const MAX_CHUNK_SIZE: u32 = 16_777_215;
/// Chunk size before Set Chunk Size (RTMP 5.4.1).
pub const DEFAULT_CHUNK_SIZE: u32 = 128;
/// Most chunk streams of one peer (security.md S18); real ones use 3 to 8.
pub const MAX_CHUNK_STREAMS: usize = 32;
/// Most bytes in unfinished messages of all chunk streams together (security.md S18).
pub const MAX_PARTIAL_BYTES: usize = 16 * 1024 * 1024;
/// Longest message of a peer that sends media (security.md S18).
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// Longest message of a peer that does not, or not yet (security.md S18). The limit at the beginning.
pub const MAX_COMMAND_BYTES: usize = 64 * 1024;

/// What a payload's memory begins with, if the message is that long: saves growing through the chunk sizes of peers
/// that stay at 128. With [`MAX_CHUNK_STREAMS`] that is at most 128 KiB for nothing.
const FIRST_RESERVE_BYTES: usize = 4096;
/// The 3-byte timestamp that says "see the extended one" (RTMP 5.3.1.3).
pub(super) const EXTENDED: u32 = 0x00ff_ffff;

/// One message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// Chunk stream id, 2 to 65,599. Only says what was interleaved with what.
    pub csid: u32,
    /// Message type id.
    pub kind: u8,
    /// Absolute, in milliseconds, wrapping at 2^32.
    pub timestamp: u32,
    /// Message stream id.
    pub stream_id: u32,
    /// The body.
    pub payload: Bytes,
}

/// Cuts messages out of chunks. Feed [`ChunkReader::handle_input`] and take [`ChunkReader::poll_message`] in turn until
/// the latter has nothing.
#[derive(Debug)]
pub struct ChunkReader {
    chunk_size: u32,
    message_limit_bytes: usize,
    partial_bytes: usize,
    streams: Vec<ChunkStream>,
    /// The bytes so far of the header that is being read, at most 18.
    head: Vec<u8>,
    /// Input that was taken for an extended timestamp and is none, at most 3 bytes; comes before further input.
    surplus: Vec<u8>,
    /// The chunk stream (index) that the next bytes belong to, and how many.
    body: Option<(usize, usize)>,
    ready: Option<RawMessage>,
}

#[derive(Debug, Default)]
struct ChunkStream {
    csid: u32,
    kind: u8,
    stream_id: u32,
    timestamp: u32,
    delta: u32,
    /// The extended timestamp of the last fmt 0 to 2 chunk as it stood there, if it had one.
    extended: Option<u32>,
    length: usize,
    /// Of the message that is under way; not empty in mid-message.
    payload: Vec<u8>,
}

/// A chunk's header, parsed but not yet applied.
#[derive(Debug)]
struct Header {
    fmt: u8,
    csid: u32,
    /// Timestamp or delta, extended or not; of a fmt 3 chunk only if extended.
    time: Option<u32>,
    extended: bool,
    length_and_kind: Option<(usize, u8)>,
    stream_id: Option<u32>,
    /// Bytes that it takes of `head`.
    size_bytes: usize,
}

impl Default for ChunkReader {
    fn default() -> ChunkReader {
        ChunkReader::new()
    }
}

impl ChunkReader {
    /// A reader at the beginning of a chunk stream, that is, behind the handshake. Allows [`MAX_COMMAND_BYTES`].
    pub fn new() -> ChunkReader {
        ChunkReader {
            chunk_size: DEFAULT_CHUNK_SIZE,
            message_limit_bytes: MAX_COMMAND_BYTES,
            partial_bytes: 0,
            streams: Vec::new(),
            head: Vec::new(),
            surplus: Vec::new(),
            body: None,
            ready: None,
        }
    }

    /// The longest message from now on, cut at [`MAX_MESSAGE_BYTES`]. Messages under way keep their old limit.
    pub fn set_message_limit(&mut self, bytes: usize) {
        self.message_limit_bytes = bytes.min(MAX_MESSAGE_BYTES);
    }

    /// Reads up to the end of `input` or of the first whole message; how many bytes that was. While a message waits
    /// to be polled it takes nothing.
    ///
    /// # Errors
    /// What a peer must not send (see [`Error`]); the connection is of no use afterwards.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<usize, Error> {
        let mut rest = input;
        while self.ready.is_none() {
            if !self.surplus.is_empty() {
                let mut surplus = std::mem::take(&mut self.surplus);
                let taken = self.step(&surplus)?;
                surplus.drain(..taken);
                self.surplus.append(&mut surplus);
            } else if !rest.is_empty() {
                let taken = self.step(rest)?;
                rest = rest.get(taken..).unwrap_or_default();
            } else {
                break;
            }
        }
        Ok(input.len() - rest.len())
    }

    /// The message that the last input completed.
    pub fn poll_message(&mut self) -> Option<RawMessage> {
        self.ready.take()
    }

    /// Bytes held for unfinished messages, as allocated.
    pub fn held_bytes(&self) -> usize {
        self.streams.iter().map(|stream| stream.payload.capacity()).sum()
    }

    /// Takes one header byte, or as many body bytes as belong to the chunk. `input` is not empty.
    fn step(&mut self, input: &[u8]) -> Result<usize, Error> {
        let Some((index, left)) = self.body else {
            self.head.extend(input.first());
            if let Some(header) = self.parse_header()? {
                self.surplus.extend(self.head.drain(header.size_bytes..));
                self.head.clear();
                self.apply(&header)?;
            }
            return Ok(1);
        };
        let taken = input.get(..left).unwrap_or(input);
        // Who may not send media yet has no use for many messages at once either (security.md S17).
        let limit = if self.message_limit_bytes <= MAX_COMMAND_BYTES { MAX_COMMAND_BYTES } else { MAX_PARTIAL_BYTES };
        if self.partial_bytes + taken.len() > limit {
            return Err(Error::Partial(limit));
        }
        self.partial_bytes += taken.len();
        self.body = if taken.len() < left { Some((index, left - taken.len())) } else { None };
        let stream = self.streams.get_mut(index).expect("chunk streams are never removed");
        stream.gather(taken);
        if stream.payload.len() == stream.length {
            self.finish(index)?;
        }
        Ok(taken.len())
    }

    /// The header in `head`, unless bytes are missing.
    fn parse_header(&self) -> Result<Option<Header>, Error> {
        let Some((&first, rest)) = self.head.split_first() else { return Ok(None) };
        let (csid, rest) = match (first & 0x3f, rest) {
            (0, [low, rest @ ..]) => (64 + u32::from(*low), rest),
            (1, [low, high, rest @ ..]) => (64 + u32::from(*low) + 256 * u32::from(*high), rest),
            (0 | 1, _) => return Ok(None),
            (csid, rest) => (u32::from(csid), rest),
        };
        let fmt = first >> 6;
        let stream = self.streams.iter().find(|stream| stream.csid == csid);
        // librtmp begins chunk stream 2 with fmt 1; there is nothing that it could miss but the stream id, which is 0.
        if stream.is_none() && fmt >= 2 {
            return Err(Error::NoEarlierChunk { csid, fmt });
        }
        let Some((fields, rest)) = rest.split_at_checked(match fmt {
            0 => 11,
            1 => 7,
            2 => 3,
            _ => 0,
        }) else {
            return Ok(None);
        };
        let (time, length_and_kind, stream_id) = match *fields {
            [a, b, c, d, e, f, kind, ref id @ ..] => (
                Some(u24([a, b, c])),
                Some((u24([d, e, f]) as usize, kind)),
                id.try_into().ok().map(u32::from_le_bytes),
            ),
            [a, b, c] => (Some(u24([a, b, c])), None, None),
            _ => (None, None, None),
        };
        let mut header = Header {
            fmt,
            csid,
            time,
            extended: false,
            length_and_kind,
            stream_id,
            size_bytes: self.head.len() - rest.len(),
        };
        match (time, stream) {
            (Some(EXTENDED), _) => {}
            (None, Some(ChunkStream { extended: Some(expected), payload, .. })) => {
                // The specification wants the field repeated on fmt 3; some peers do not. In mid-message it is known
                // what it must say: anything else is payload.
                let differs = rest.iter().zip(expected.to_be_bytes()).any(|(is, must)| *is != must);
                if differs && !payload.is_empty() {
                    return Ok(Some(header));
                }
            }
            (Some(_), _) | (None, _) => return Ok(Some(header)),
        }
        let Some(extended) = rest.first_chunk() else { return Ok(None) };
        header.time = Some(u32::from_be_bytes(*extended));
        header.extended = true;
        header.size_bytes += 4;
        Ok(Some(header))
    }

    /// Begins or continues a message as the header says.
    fn apply(&mut self, header: &Header) -> Result<(), Error> {
        let index = match self.streams.iter().position(|stream| stream.csid == header.csid) {
            Some(index) => index,
            None if self.streams.len() == MAX_CHUNK_STREAMS => return Err(Error::ChunkStreams(header.csid)),
            None => {
                self.streams.push(ChunkStream { csid: header.csid, ..ChunkStream::default() });
                self.streams.len() - 1
            }
        };
        let stream = self.streams.get_mut(index).expect("an index that was just found");
        if stream.payload.is_empty() {
            stream.begin(header);
            if stream.length > self.message_limit_bytes {
                let (kind, length, limit) = (stream.kind, stream.length, self.message_limit_bytes);
                return Err(Error::TooLong { kind, length, limit });
            }
        } else if header.fmt != 3 {
            // A full header in mid-message: some encoders do so, and then it repeats the message's own (ffmpeg takes
            // it so too). Only its extended timestamp counts, for the chunks that follow repeat it.
            let other_length = header.length_and_kind.is_some_and(|pair| pair != (stream.length, stream.kind));
            if other_length || header.stream_id.is_some_and(|id| id != stream.stream_id) {
                return Err(Error::Interrupted(header.csid));
            }
            stream.extended = header.time.filter(|_| header.extended);
        }
        let left = stream.length - stream.payload.len();
        if left == 0 {
            return self.finish(index);
        }
        self.body = Some((index, left.min(self.chunk_size as usize)));
        Ok(())
    }

    /// A message is whole.
    fn finish(&mut self, index: usize) -> Result<(), Error> {
        let stream = self.streams.get_mut(index).expect("an index that was just used");
        let payload = Bytes::from(std::mem::take(&mut stream.payload));
        self.partial_bytes -= payload.len();
        let (kind, number) = (stream.kind, payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)));
        match (kind, number) {
            (kind::SET_CHUNK_SIZE, Some(size @ 1..=MAX_CHUNK_SIZE)) => self.chunk_size = size,
            (kind::SET_CHUNK_SIZE, Some(size)) => return Err(Error::ChunkSize(size)),
            (kind::ABORT, Some(csid)) => self.abort(csid),
            (kind::SET_CHUNK_SIZE | kind::ABORT, None) => return Err(Error::Malformed(kind)),
            _ => {
                let (csid, timestamp, stream_id) = (stream.csid, stream.timestamp, stream.stream_id);
                self.ready = Some(RawMessage { csid, kind, timestamp, stream_id, payload });
            }
        }
        Ok(())
    }

    /// Drops what has come of a message (RTMP 5.4.2).
    fn abort(&mut self, csid: u32) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.csid == csid) {
            self.partial_bytes -= stream.payload.len();
            stream.payload = Vec::new();
        }
    }
}

impl ChunkStream {
    /// Takes over what the header says and keeps the rest from the message before (RTMP 5.3.1.2).
    fn begin(&mut self, header: &Header) {
        if let Some((length, kind)) = header.length_and_kind {
            (self.length, self.kind) = (length, kind);
        }
        if let Some(id) = header.stream_id {
            self.stream_id = id;
        }
        if header.fmt != 3 {
            self.extended = header.time.filter(|_| header.extended);
        }
        // A fmt 3 chunk that begins a message repeats the delta; behind a fmt 0 chunk that is its timestamp (5.3.1.2.4).
        self.delta = header.time.unwrap_or(self.delta);
        self.timestamp = if header.fmt == 0 { self.delta } else { self.timestamp.wrapping_add(self.delta) };
    }

    fn gather(&mut self, bytes: &[u8]) {
        let have = self.payload.len();
        if self.payload.capacity() - have < bytes.len() {
            // Doubling, but never beyond the message's end: then the finished vector has no slack to give back.
            let more = bytes.len().max(have).max(FIRST_RESERVE_BYTES);
            self.payload.reserve_exact(more.min(self.length - have));
        }
        self.payload.extend_from_slice(bytes);
    }
}

fn u24([a, b, c]: [u8; 3]) -> u32 {
    u32::from_be_bytes([0, a, b, c])
}
