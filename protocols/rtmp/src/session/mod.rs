//! The two dialogues, without IO: [`ServerSession`] and [`ClientSession`]. Bytes in, bytes and events out.
//!
//! Commands are those of RTMP 7.2 and of the encoders and players that there are. Who may publish or play what is the
//! owner's to decide: a session asks by an event and waits for the answer.

mod address;
mod capabilities;
mod client;
mod server;
mod transport;

use bytes::Bytes;

pub use address::{Request, Target, UrlError};
pub use capabilities::Takes;
pub use client::{ClientEvent, ClientSession, Goal};
pub use server::{ServerEvent, ServerSession};
pub use transport::{Counts, MAX_OUTPUTS, MAX_SEND_BYTES};

/// The chunk size that we announce and send with, in bytes.
///
/// Larger chunks mean fewer headers to make and, since a chunk cannot be interrupted, nothing else for us: we never
/// interleave within a message. 65,536 is the largest value of RTMP's earlier revisions, which some peers still check.
pub const OUT_CHUNK_SIZE: u32 = 65_536;

/// The message stream that our server gives to a client; there is one per connection.
pub const STREAM_ID: u32 = 1;

/// What a session has for its owner.
#[derive(Clone, Debug, PartialEq)]
pub enum Output<E> {
    /// To be written to the peer, whole and in this order.
    Send(Bytes),
    /// To be known.
    Event(E),
}

/// The AMF0 string `@setDataFrame`, which a publisher puts before metadata.
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
/// The AMF0 string `@clearDataFrame`: the metadata is void.
const CLEAR_DATA_FRAME: &[u8] = b"\x02\x00\x0f@clearDataFrame";

/// The script data in a data message, without `@setDataFrame`; none if it is there to clear what was set.
fn script(body: Bytes) -> Option<Bytes> {
    if body.starts_with(CLEAR_DATA_FRAME) {
        return None;
    }
    Some(if body.starts_with(SET_DATA_FRAME) { body.slice(SET_DATA_FRAME.len()..) } else { body })
}

#[cfg(test)]
mod tests;
