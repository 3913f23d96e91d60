//! Bytes and messages of the old wire, without sockets, clocks or tasks.

pub mod control;
pub mod doubled;
