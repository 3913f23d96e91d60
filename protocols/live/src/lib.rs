//! Live video by HTTP and WebSocket: HTTP-FLV and WS-FLV out, HTTP-FLV in from another server, and WebSocket-FLV pushed
//! in and out.
//!
//! A `GET` that comes first on a connection is answered on the bare socket ([`Live::serve`]), its bytes framed once and
//! shared by all viewers; what comes later on a kept connection, or over HTTP/2, goes through the library
//! ([`Live::router`], [`Live::in_front_of`]). Not here: fMP4 and HLS.
#![forbid(unsafe_code)]

mod library;
mod pull;
mod request;
mod server;
mod wspush;

pub use pull::{PullError, pull};
pub use request::{Request, claims};
pub use server::Live;
pub use wspush::{Push, PushError, PushNews, push};
