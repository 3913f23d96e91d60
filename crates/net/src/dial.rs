//! Dialling out and listening.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::Conn;

/// Why a peer could not be reached, by the step that failed.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name has no address.
    #[error("cannot find the address of {host}: {source}")]
    Resolve {
        /// What was asked for.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address answered.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address tried last.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS failed: a certificate that is not trusted, a wrong name, an old version.
    #[error("TLS with {host} failed: {source}")]
    Tls {
        /// The name that the certificate must have.
        host: String,
        /// Why.
        source: io::Error,
    },
}

/// Resolves, connects to the first address that answers, and makes it TLS where `tls` is given. `limit` holds for each
/// step. Names are resolved at every call; nothing is remembered.
pub async fn dial(host: &str, port: u16, tls: Option<Arc<ClientConfig>>, limit: Duration) -> Result<Conn, DialError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let resolve = |source| DialError::Resolve { host: host.to_string(), source };
    let found = timeout(limit, lookup_host((bare, port))).await.unwrap_or_else(|_| Err(late())).map_err(resolve)?;
    let mut failed = None;
    for address in found {
        let tcp = match timeout(limit, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(late())) {
            Ok(tcp) => tcp,
            Err(source) => {
                failed = Some(DialError::Connect { address, source });
                continue;
            }
        };
        tcp.set_nodelay(true).ok();
        let Some(tls) = tls else { return Ok(Conn::tcp(tcp, address)) };
        let fault = |source| DialError::Tls { host: host.to_string(), source };
        let name = ServerName::try_from(bare.to_string()).map_err(|_| {
            fault(io::Error::new(io::ErrorKind::InvalidInput, "not a name that a certificate can have"))
        })?;
        let tls = timeout(limit, TlsConnector::from(tls).connect(name, tcp)).await.unwrap_or_else(|_| Err(late()));
        return Ok(Conn::tls_client(tls.map_err(fault)?, address));
    }
    Err(failed.unwrap_or_else(|| resolve(io::Error::new(io::ErrorKind::NotFound, "no address"))))
}

/// Listens with a queue of 4,096 connections and `SO_REUSEADDR`. An IPv6 wildcard takes IPv4 too.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}
