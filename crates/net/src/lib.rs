//! Connections: the one module that opens sockets. [`Conn`] is a TCP connection, plain or inside TLS, with what was
//! already read of it; [`dial_with`] makes one, through a proxy where need be; [`tls`] holds certificates and says whom we
//! trust; [`Fetcher`] gets pages; [`http1`] reads one head off a bare connection; [`ws`] opens WebSockets and frames their messages.
//!
//! It knows no protocol above these and no media.
#![forbid(unsafe_code)]

mod conn;
mod dial;
mod fetch;
pub mod http1;
mod proxy;
mod tcp;
mod text;
pub mod tls;
pub mod udp;
pub mod web;
pub mod ws;

pub use conn::{Conn, Duplex, ReadHalf, Socket, WriteHalf};
pub use dial::{DialError, DialOptions, dial, dial_with, listen};
pub use fetch::{FetchError, Fetcher, Page};
pub use proxy::{Proxy, ProxyError};
