//! What can be wrong with a peer's bytes.

use culvert_formats::amf0;
use thiserror::Error;

/// Why a connection cannot go on. After any of these the bytes that follow have no meaning: close.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// C0 or S0 asks for an encrypted RTMPE session (version 6, 8 or 9). Use RTMPS instead.
    #[error("RTMPE (handshake version {0}) is not supported; use RTMPS")]
    Encrypted(u8),
    /// C0 or S0 is no version that there is; most likely not RTMP at all.
    #[error("handshake version {0} is not RTMP's 3")]
    Version(u8),
    /// Set Chunk Size outside of 1 to 16,777,215 (RTMP 5.4.1, security.md S18).
    #[error("chunk size {0} is not within 1 to 16777215")]
    ChunkSize(u32),
    /// More chunk streams than [`crate::wire::chunk::MAX_CHUNK_STREAMS`].
    #[error("chunk stream {0} is one too many")]
    ChunkStreams(u32),
    /// A message longer than the limit in force.
    #[error("message of type {kind} with {length} bytes, allowed are {limit}")]
    TooLong {
        /// Message type id.
        kind: u8,
        /// Declared length in bytes.
        length: usize,
        /// Limit in force, in bytes.
        limit: usize,
    },
    /// The unfinished messages of all chunk streams together exceed [`crate::wire::chunk::MAX_PARTIAL_BYTES`].
    #[error("unfinished messages exceed {0} bytes together")]
    Partial(usize),
    /// A new header in the middle of a message, for another message (CVE-2016-10191 in another implementation).
    #[error("chunk stream {0} starts another message in the middle of one")]
    Interrupted(u32),
    /// A chunk that leans on an earlier one that never came.
    #[error("chunk type {fmt} on chunk stream {csid}, which has no earlier chunk to lean on")]
    NoEarlierChunk {
        /// Chunk stream id.
        csid: u32,
        /// Chunk type, 2 or 3.
        fmt: u8,
    },
    /// A message whose body is shorter than its type needs, or says what it must not.
    #[error("malformed message of type {0}")]
    Malformed(u8),
    /// A command whose values cannot be read.
    #[error("command: {0}")]
    Amf(#[from] amf0::Error),
    /// A command that has no place here, such as `play` before `connect`.
    #[error("unexpected: {0}")]
    Unexpected(&'static str),
    /// More output than [`crate::session::MAX_OUTPUTS`] waits; the owner does not poll, or the peer asks too much.
    #[error("more than {0} outputs wait")]
    Flood(usize),
}
