//! Connections: the one module that opens sockets. [`Conn`] is a TCP connection, plain or inside TLS, with what was
//! already read of it; [`tls`] holds certificates; [`http1`] reads one request head off a bare connection; [`ws`]
//! frames WebSocket messages.
//!
//! It knows no protocol above these and no media.
#![forbid(unsafe_code)]

mod conn;
mod dial;
pub mod http1;
pub mod tls;
pub mod ws;

pub use conn::{Conn, Duplex, ReadHalf, Socket, WriteHalf};
pub use dial::{DialError, dial, listen};
