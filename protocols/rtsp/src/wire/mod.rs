//! Bytes to messages and back (RFC 2326): [`reader`] cuts a connection into [`message`]s and interleaved frames; what
//! is in their headers is [`transport`]'s, [`headers`]' and [`auth`]'s.
//!
//! Pure: no socket, no clock, no randomness. Knows nothing of what a method does to a session. Bounds are those of
//! security.md S20. Strict in sending (always RTSP/1.0, CRLF, no control characters), kind in receiving; a header that
//! cannot be read is None rather than an error, since only its reader knows whether it can do without.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod auth;
pub mod headers;
pub mod message;
pub mod reader;
pub mod transport;

pub use message::{Headers, Method, Request, Response};
pub use reader::{Input, Reader};
pub use transport::Transport;

/// Longest request or status line in bytes (security.md S20).
pub const LINE_BYTES: usize = 8 << 10;
/// Most header lines of a message; each line of a folded header counts (security.md S20).
pub const HEADERS: usize = 64;
/// Longest head in bytes: all lines, each with one byte for its end (security.md S20).
pub const HEAD_BYTES: usize = 32 << 10;
/// Longest body in bytes (security.md S20).
pub const BODY_BYTES: usize = 64 << 10;
/// Most bytes in a row that are passed over in search of the next message: as many as a body has that its
/// Content-Length does not cover.
pub const SKIP_BYTES: usize = 64 << 10;

/// Why a connection cannot go on. After any of these the bytes that follow have no meaning: close, a server after the
/// answer that the variant names.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The first bytes are no RTSP. There is nobody to answer to.
    #[error("the peer does not speak RTSP")]
    NotRtsp,
    /// A head beyond [`LINE_BYTES`], [`HEADERS`] or [`HEAD_BYTES`]: 413.
    #[error("the head has a line over {LINE_BYTES} bytes, more than {HEADERS} headers, or over {HEAD_BYTES} bytes")]
    HeadTooLarge,
    /// A body of so many bytes was announced, more than [`BODY_BYTES`]: 413.
    #[error("a body of {0} bytes is over {BODY_BYTES}")]
    BodyTooLarge(u64),
    /// This part of a head cannot be read, and what follows depends on it: 400.
    #[error("malformed {0}")]
    Syntax(&'static str),
    /// Behind the last message [`SKIP_BYTES`] went by without another one. Connect anew.
    #[error("no message within {SKIP_BYTES} bytes behind the last one")]
    Lost,
}
