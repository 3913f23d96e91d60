//! FLV, seen from outside: bytes to tags to frames and back.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

mod demux;
mod enhanced;
mod mux;
mod probe;
mod reader;
mod sample;
