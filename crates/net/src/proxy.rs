//! The way out through a proxy: an HTTP CONNECT tunnel (RFC 9110 9.3.6) or SOCKS5 (RFC 1928, RFC 1929).
//!
//! The proxy resolves the target's name, since where one is needed there is often no other DNS. It is itself spoken to in
//! the clear; what the link needs kept secret goes through TLS inside the tunnel.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use tokio::io::AsyncWriteExt;

use crate::http1::{Answer, HeadError};
use crate::text::tame;
use crate::{Conn, DialError};

/// A proxy on the way out.
#[derive(Clone, PartialEq, Eq)]
pub enum Proxy {
    /// An HTTP proxy that allows CONNECT.
    Http {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
        /// User and password, sent as Basic (RFC 7617).
        user: Option<(String, String)>,
    },
    /// A SOCKS5 proxy.
    Socks5 {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
        /// User and password, each of 1 to 255 bytes (RFC 1929).
        user: Option<(String, String)>,
    },
}

/// Without the password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = self.address();
        let kind = match self {
            Proxy::Http { .. } => "http",
            Proxy::Socks5 { .. } => "socks5",
        };
        write!(f, "Proxy({kind}://{host}:{port})")
    }
}

/// Why a proxy opened no way to the target.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// The proxy itself could not be reached.
    #[error(transparent)]
    Unreachable(Box<DialError>),
    /// Host, user or password cannot be said in the proxy's language.
    #[error("{0}")]
    Request(&'static str),
    /// An HTTP proxy answered with a status other than 2xx.
    #[error("it answered {status} {reason}{}", hint(*status))]
    Refused {
        /// The status.
        status: u16,
        /// The words after it.
        reason: String,
    },
    /// A SOCKS proxy refused, with its reply code (RFC 1928 6).
    #[error("it refused: {} (SOCKS reply {})", socks_reply(*.0), .0)]
    Socks(u8),
    /// A SOCKS proxy does not take user and password, or none where there are none.
    #[error("it does not accept the user and password, or wants some where none are configured")]
    Login,
    /// What answers is no such proxy.
    #[error("it does not speak {0}: is this the right port, and the right kind of proxy?")]
    Garbage(&'static str),
    /// Its answer's head is beyond 16 KiB.
    #[error("its answer's head is larger than {HEAD_BYTES} bytes")]
    Large,
    /// It closed instead of answering.
    #[error("it closed the connection instead of answering")]
    Closed,
    /// It did not answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Late(Duration),
    /// The connection to it broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn hint(status: u16) -> &'static str {
    match status {
        407 => ": it wants a user and password, or not these",
        403 | 405 => ": it does not allow CONNECT to this host and port",
        502..=504 => ": it could not reach the host",
        _ => "",
    }
}

/// RFC 1928 6.
fn socks_reply(code: u8) -> &'static str {
    match code {
        1 => "it failed for a reason of its own",
        2 => "its rules do not allow this",
        3 => "it cannot reach the network",
        4 => "it cannot reach the host, or does not find its name",
        5 => "the host refused the connection",
        6 => "the connection's time to live ran out",
        7 => "it does not know the command CONNECT",
        8 => "it does not take this kind of address",
        _ => "an unknown reason",
    }
}

/// Most bytes of an HTTP proxy's answer before the tunnel: half of what a request to us may have, and far more than
/// proxies send.
const HEAD_BYTES: usize = 16 << 10;

impl Proxy {
    /// Host and port of the proxy itself.
    pub fn address(&self) -> (&str, u16) {
        match self {
            Proxy::Http { host, port, .. } | Proxy::Socks5 { host, port, .. } => (host, *port),
        }
    }

    /// Opens the way to `host` (an IPv6 address without brackets) on a connection to the proxy. What comes after the proxy's
    /// answer is the target's and stays to be read.
    pub(crate) async fn open(&self, conn: &mut Conn, host: &str, port: u16) -> Result<(), ProxyError> {
        // Both of the target's forms end up in a line of text, or in one that a proxy may log.
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic() && !b"/@?#\\".contains(&b)) {
            return Err(ProxyError::Request("the host to dial is not a name or an address"));
        }
        match self {
            Proxy::Http { user, .. } => connect(conn, host, port, user.as_ref()).await,
            Proxy::Socks5 { user, .. } => socks5(conn, host, port, user.as_ref()).await,
        }
    }
}

type Login<'a> = Option<&'a (String, String)>;

async fn connect(conn: &mut Conn, host: &str, port: u16, user: Login<'_>) -> Result<(), ProxyError> {
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: culvert\r\n");
    if let Some((name, password)) = user {
        if name.contains(':') || name.chars().chain(password.chars()).any(char::is_control) {
            return Err(ProxyError::Request("the proxy's user has a colon, or its password a control character"));
        }
        let pair = STANDARD.encode(format!("{name}:{password}"));
        request.push_str(&format!("Proxy-Authorization: Basic {pair}\r\n"));
    }
    request.push_str("\r\n");
    conn.write_all(request.as_bytes()).await?;
    let answer = Answer::read(conn, HEAD_BYTES).await.map_err(|error| match error {
        HeadError::Io(why) => ProxyError::Io(why),
        HeadError::Cut => ProxyError::Closed,
        HeadError::Large => ProxyError::Large,
        HeadError::Syntax(_) => ProxyError::Garbage("HTTP/1"),
    })?;
    // A length in a 2xx answer means nothing: the tunnel begins after the head (RFC 9110 9.3.6).
    match answer.status {
        200..=299 => Ok(()),
        status => Err(ProxyError::Refused { status, reason: tame(&answer.reason, 100) }),
    }
}

const SOCKS: u8 = 5;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
/// Version of the login's own negotiation (RFC 1929 2).
const LOGIN: u8 = 1;

async fn socks5(conn: &mut Conn, host: &str, port: u16, user: Login<'_>) -> Result<(), ProxyError> {
    // All of it is made before the first byte goes out, so that what cannot be said is said to nobody.
    let login = user.map(|(name, password)| -> Result<Vec<u8>, ProxyError> {
        let fault = "the proxy's user and password must have 1 to 255 bytes each (RFC 1929)";
        let mut out = vec![LOGIN];
        short(&mut out, name, fault)?;
        short(&mut out, password, fault)?;
        Ok(out)
    });
    let login = login.transpose()?;
    // VER CMD=CONNECT RSV ATYP DST.ADDR DST.PORT (RFC 1928 4)
    let mut request = vec![SOCKS, 1, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(1);
            request.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(4);
            request.extend(address.octets());
        }
        Err(_) => {
            request.push(3);
            short(&mut request, host, "SOCKS5 takes names of at most 255 bytes")?;
        }
    }
    request.extend(port.to_be_bytes());

    let offer: &[u8] = if login.is_some() { &[SOCKS, 2, NO_LOGIN, PASSWORD] } else { &[SOCKS, 1, NO_LOGIN] };
    conn.write_all(offer).await?;
    match (take(conn).await?, &login) {
        ([SOCKS, NO_LOGIN], _) => {}
        ([SOCKS, PASSWORD], Some(login)) => {
            conn.write_all(login).await?;
            let [version, status] = take(conn).await?;
            if version != LOGIN {
                return Err(ProxyError::Garbage("SOCKS5"));
            }
            if status != 0 {
                return Err(ProxyError::Login);
            }
        }
        ([SOCKS, _], _) => return Err(ProxyError::Login),
        ([_, _], _) => return Err(ProxyError::Garbage("SOCKS5")),
    }
    conn.write_all(&request).await?;
    // VER REP RSV ATYP BND.ADDR BND.PORT (RFC 1928 6); nobody needs the address.
    let [version, reply, _, kind] = take(conn).await?;
    if version != SOCKS {
        return Err(ProxyError::Garbage("SOCKS5"));
    }
    if reply != 0 {
        return Err(ProxyError::Socks(reply));
    }
    let address = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(take::<1>(conn).await?[0]),
        _ => return Err(ProxyError::Garbage("SOCKS5")),
    };
    arrived(conn, address + 2).await?;
    conn.consume(address + 2);
    Ok(())
}

/// A length byte and the text; the fault where it does not fit or is empty.
fn short(out: &mut Vec<u8>, text: &str, fault: &'static str) -> Result<(), ProxyError> {
    let length = u8::try_from(text.len()).ok().filter(|n| *n > 0).ok_or(ProxyError::Request(fault))?;
    out.push(length);
    out.extend(text.bytes());
    Ok(())
}

/// The next `N` bytes, and no more.
async fn take<const N: usize>(conn: &mut Conn) -> Result<[u8; N], ProxyError> {
    arrived(conn, N).await?;
    let bytes = conn.seen().first_chunk().copied().ok_or(ProxyError::Closed)?;
    conn.consume(N);
    Ok(bytes)
}

/// Waits until so many bytes can be looked at.
async fn arrived(conn: &mut Conn, n: usize) -> Result<(), ProxyError> {
    while conn.seen().len() < n {
        if conn.fill(n).await? == 0 {
            return Err(ProxyError::Closed);
        }
    }
    Ok(())
}
