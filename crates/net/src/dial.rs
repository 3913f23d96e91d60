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
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::Conn;

/// Why a peer could not be reached, by the step that failed.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name has no address.
    #[error("cannot find the address of {host}: {why}")]
    Resolve {
        /// What was asked for.
        host: String,
        /// What the resolver said.
        why: io::Error,
    },
    /// No address answered.
    #[error("cannot connect to {address}: {why}")]
    Connect {
        /// The address tried last.
        address: SocketAddr,
        /// Why.
        why: io::Error,
    },
    /// TLS failed: a certificate that is not trusted, a wrong name, an old version.
    #[error("TLS with {host} failed: {why}")]
    Tls {
        /// The name that the certificate must have.
        host: String,
        /// Why.
        why: io::Error,
    },
}

/// Resolves, connects to the first address that answers (RFC 8305), and makes it TLS where `tls` is given. `limit` holds for each
/// step. Names are resolved at every call; nothing is remembered.
pub async fn dial(host: &str, port: u16, tls: Option<Arc<ClientConfig>>, limit: Duration) -> Result<Conn, DialError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let resolve = |why| DialError::Resolve { host: host.to_string(), why };
    let found = timeout(limit, lookup_host((bare, port))).await.unwrap_or_else(|_| Err(late())).map_err(resolve)?;
    let (tcp, address) = race(found.collect(), limit)
        .await?
        .ok_or_else(|| resolve(io::Error::new(io::ErrorKind::NotFound, "no address")))?;
    tcp.set_nodelay(true).ok();
    let Some(tls) = tls else { return Ok(Conn::tcp(tcp, address)) };
    let fault = |why| DialError::Tls { host: host.to_string(), why };
    let name = ServerName::try_from(bare.to_string())
        .map_err(|_| fault(io::Error::new(io::ErrorKind::InvalidInput, "not a name that a certificate can have")))?;
    let tls = timeout(limit, TlsConnector::from(tls).connect(name, tcp)).await.unwrap_or_else(|_| Err(late()));
    Ok(Conn::tls_client(tls.map_err(fault)?, address))
}

/// A further address is tried when one has not answered for so long (RFC 8305 5: the recommended delay).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;

/// The first of these that answers. Attempts that are not needed end with this call. The error is that of the attempt
/// that failed last.
async fn race(addresses: Vec<SocketAddr>, limit: Duration) -> Result<Option<(TcpStream, SocketAddr)>, DialError> {
    let mut attempts = JoinSet::new();
    let mut left = addresses.into_iter().take(ADDRESSES);
    let mut failed = None;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    loop {
        if let Some(address) = left.next() {
            attempts.spawn(async move {
                let tcp = timeout(limit, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(late()));
                tcp.map(|tcp| (tcp, address)).map_err(|why| DialError::Connect { address, why })
            });
        } else if attempts.is_empty() {
            return failed.map_or(Ok(None), Err);
        }
        let patience = if left.len() > 0 { STAGGER } else { limit + STAGGER };
        match timeout(patience, attempts.join_next()).await {
            Ok(Some(Ok(Ok(found)))) => return Ok(Some(found)),
            Ok(Some(Ok(Err(error)))) => failed = Some(error),
            // A task of ours that panicked, none left, or the next one's turn.
            Ok(Some(Err(_)) | None) | Err(_) => {}
        }
    }
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
