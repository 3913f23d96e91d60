//! One WebSocket that carries HTTP/2 turned round (DESIGN section 3): the lower node dials and then *serves*, the upper
//! accepts and then *asks*.
//!
//! [`keep`] holds a link to an upper for ever; [`accept`] is the upper's side and gives a [`Link`] to send requests
//! into. It knows bytes and requests, not media and not platforms: who may link, and what is asked, is decided above.
//!
//! HTTP/2 is there while something is asked. After that the WebSocket stays alone, with its heartbeat, and a tenth of the memory.
#![forbid(unsafe_code)]

mod accept;
mod backoff;
mod carrier;
mod desk;
mod dial;
mod figures;
mod handle;
mod pieces;
mod request;
mod retry;
mod serve;
#[cfg(test)]
mod tests;

pub use accept::{Accepted, accept};
pub use backoff::Backoff;
pub use culvert_net::Conn;
pub use culvert_net::ws::accept_key;
pub use dial::{Board, KeepError, State, Upper, UpperInfo, UpperUrl, keep};
pub use figures::LinkFigures;
pub use pieces::{Place, Sender, Unwanted, channel};
pub use request::{Answer, BoxFuture, Link, LinkError, Other};
pub use retry::RetryHint;
pub use serve::{Body, BoxError, News, Otherwise, Remote, Service, body, empty};

/// What is offered when a link is dialled (`Sec-WebSocket-Protocol`).
pub const PROTOCOL: &str = "culvert.h2";
/// Where an upper is dialled, behind its context path.
pub const REGISTER: &str = "/erwscascade/wsocket/register";

/// WebSocket status (of the private range, RFC 6455 7.4.2) with which somebody ends a link who is no platform and does not
/// come back: `culvert doctor`.
pub const FORGET: u16 = 4003;

/// Small windows keep data in the processor's caches (DESIGN section 3).
const STREAM_WINDOW: u32 = 256 << 10;
/// As large as there is: streams are the only brake, or some that are not read would stop all others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// What one body may have in HTTP/2's queue. What is to be skipped when it becomes stale must not be there: see [`channel`].
const SEND_BUFFER: usize = 130_560;
/// Most bytes of a frame of a body on a slow path: what is begun goes out whole, and all others wait.
const FRAME: usize = 16 << 10;
/// Most bytes of any frame. Fewer and larger ones cost less, where they are gone in a moment.
const LARGEST_FRAME: u32 = 64 << 10;
/// Most bytes of a head (security.md S8).
const HEAD: u32 = 32 << 10;
/// Requests whose callers left and of which something may still come: with more of them than HTTP/2 remembers, each frame that
/// comes late counts as a fault of the other end, and the thousandth ends the link. A few hundred bytes each, for 30 s.
const LEFT: usize = 1024;
/// Requests at once on one link; what an upper may ask is bounded there, too (`limits.peer_requests`).
const STREAMS: u32 = 1024;
