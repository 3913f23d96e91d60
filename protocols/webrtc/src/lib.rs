//! WebRTC: players by WHEP (draft-ietf-wish-whep), publishers by WHIP (RFC 9725), over UDP and, with RFC 4571 framing, over TCP; both on the
//! number of the one port.
//!
//! ICE, DTLS, what publishers send, and the ciphers are str0m's, one [`str0m::Rtc`] a session, driven by a task of its own. We are an ICE-lite agent
//! (RFC 8445 2.5): who wants something finds us. Frames are cut into payloads once for all viewers of a stream; crews go through the viewers, write
//! headers and encipher them straight into what goes to the kernel (`media`, `out`, `srtp`), for that is done most often of all.
#![forbid(unsafe_code)]

mod answer;
mod arrived;
mod backlog;
mod budget;
mod burst;
mod crew;
mod crowd;
mod direct;
mod feed;
mod keys;
mod link;
mod media;
pub mod offer;
mod out;
mod peers;
mod proof;
mod routes;
mod rsa;
mod server;
mod session;
mod settings;
mod sounds;
mod srtp;
mod tcp;
mod udp;
mod unit;
mod whep;
mod whip;

pub use direct::Elsewhere;
pub use routes::named;
pub use server::WebRtc;
pub use settings::{IceServer, Settings};
pub use tcp::begins_ice;
