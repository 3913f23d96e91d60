//! Old peers: nodes that run m7s v4 with its plugin erwscascade (OLD_PEERS.md). All that is peculiar to them is here: their
//! control link in both roles, the doubled headers of their pushes, and their URLs.
//!
//! To the rest of the house an old lower is a platform like any other ([`lower::accept`] makes a `culvert_link::Link` of it). Who
//! may link or push is decided by the node. An old upper is served by [`upper::OldUppers`].
#![forbid(unsafe_code)]

pub mod config;
mod demand;
mod gather;
pub mod lower;
pub mod push;
pub mod register;
pub mod surface;
pub mod upper;
pub mod wire;

pub use demand::OldLowers;
