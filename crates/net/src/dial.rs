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

use crate::proxy::{Proxy, ProxyError};
use crate::{Conn, tls};

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
    /// The proxy opened no way to the host.
    #[error("the proxy {proxy} gives no connection: {why}")]
    Proxy {
        /// Its host and port.
        proxy: String,
        /// Why.
        why: ProxyError,
    },
    /// TLS failed: a certificate that is not trusted, a wrong name, an old version; the sentence says which
    /// ([`tls::explain`]).
    #[error("TLS with {host} failed: {}", tls::explain(why))]
    Tls {
        /// The name that the certificate must have.
        host: String,
        /// Why.
        why: io::Error,
    },
}

/// How to dial, beyond host and port. The default is a plain connection without a proxy.
#[derive(Clone, Debug, Default)]
pub struct DialOptions {
    /// Whom to trust, where the connection is to be TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// The proxy on the way out.
    pub proxy: Option<Proxy>,
    /// Whether the socket gets what a link wants of it ([`Conn::set_link_options`]).
    pub uplink: bool,
}

/// [`dial_with`], without a proxy.
pub async fn dial(host: &str, port: u16, tls: Option<Arc<ClientConfig>>, limit: Duration) -> Result<Conn, DialError> {
    dial_with(host, port, &DialOptions { tls, ..DialOptions::default() }, limit).await
}

/// Resolves, connects to the first address that answers (RFC 8305), asks the proxy where there is one, and makes it TLS
/// where `tls` is given. With a proxy it is the proxy that is resolved and connected to, and [`Conn::remote`] is its address.
/// `limit` holds for each step. Names are resolved at every call; nothing is remembered.
pub async fn dial_with(host: &str, port: u16, options: &DialOptions, limit: Duration) -> Result<Conn, DialError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let conn = match &options.proxy {
        None => connect(host, port, options.uplink, limit).await?,
        Some(proxy) => through(proxy, bare, port, options.uplink, limit).await?,
    };
    let Some(tls) = options.tls.clone() else { return Ok(conn) };
    let fault = |why| DialError::Tls { host: host.to_string(), why };
    let name = ServerName::try_from(bare.to_string())
        .map_err(|_| fault(io::Error::new(io::ErrorKind::InvalidInput, "not a name that a certificate can have")))?;
    let remote = conn.remote();
    let socket = conn.into_socket().expect("nothing but TCP is underneath so far");
    let tls = timeout(limit, TlsConnector::from(tls).connect(name, socket)).await.unwrap_or_else(|_| Err(late()));
    let tls = tls.map_err(|why| {
        let cut = why.kind() == io::ErrorKind::UnexpectedEof;
        fault(if cut {
            io::Error::new(why.kind(), "it closed within the handshake: does it speak TLS on this port?")
        } else {
            why
        })
    })?;
    Ok(Conn::tls_client(tls, remote))
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

async fn through(proxy: &Proxy, host: &str, port: u16, uplink: bool, limit: Duration) -> Result<Conn, DialError> {
    let (proxy_host, proxy_port) = proxy.address();
    let fault = |why| DialError::Proxy { proxy: format!("{proxy_host}:{proxy_port}"), why };
    let reached = connect(proxy_host, proxy_port, uplink, limit).await;
    let mut conn = reached.map_err(|error| fault(ProxyError::Unreachable(Box::new(error))))?;
    let opened = timeout(limit, proxy.open(&mut conn, host, port)).await;
    opened.unwrap_or(Err(ProxyError::Late(limit))).map_err(fault)?;
    Ok(conn)
}

async fn connect(host: &str, port: u16, uplink: bool, limit: Duration) -> Result<Conn, DialError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let resolve = |why| DialError::Resolve { host: host.to_string(), why };
    let found = timeout(limit, lookup_host((bare, port))).await.unwrap_or_else(|_| Err(late())).map_err(resolve)?;
    let (tcp, address) = race(found.collect(), limit)
        .await?
        .ok_or_else(|| resolve(io::Error::new(io::ErrorKind::NotFound, "no address")))?;
    let conn = Conn::tcp(tcp, address);
    if uplink {
        conn.set_link_options();
    } else {
        conn.set_nodelay(true);
    }
    Ok(conn)
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
