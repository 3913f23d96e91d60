//! Platforms: who is linked ([`Peers`]), HTTP through the link ([`Proxy`]), what is below ([`catalogue`]), and live
//! streams through it, fetched only while somebody watches ([`Relays`], [`serve_relay`]).
//!
//! Only this room knows both links and streams. Who may do what is decided by the node; what runs over a link is a
//! `culvert_link`'s business.
#![forbid(unsafe_code)]

pub mod catalogue;
mod peers;
mod proxy;
mod relays;
mod source;
mod uplink;

pub use peers::{PeerEvent, PeerInfo, PeerLimits, Peers, Room};
pub use proxy::{
    Destination, Fault, PathError, Proxy, REQUESTER, check, drop_hop_by_hop, level, problem, upward, without_token,
};
pub use relays::{OnDemand, Relays};
pub use source::serve_relay;
