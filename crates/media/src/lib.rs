//! The words that every room of the house speaks: [`Time`], [`Codec`], [`Track`], [`Frame`], [`Chunk`], [`Mux`],
//! [`StreamName`], [`Cid`], and the codecs' own configuration records ([`codec`]).
//!
//! Pure: no await, no clock, no socket. It does not know any container or protocol; those are `culvert-formats` and
//! `protocols/*`.
#![forbid(unsafe_code)]

mod cid;
pub mod codec;
mod frame;
mod mux;
mod name;
mod time;
mod track;
mod wall;

pub use cid::{Cid, CidError};
pub use codec::CodecError;
pub use frame::Frame;
pub use mux::{Chunk, Mux};
pub use name::{NameError, StreamName};
pub use time::Time;
pub use track::{Audio, Codec, Detail, Kind, Track, TrackId, Tracks, Video};
pub use wall::rfc3339;
