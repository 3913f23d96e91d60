//! `webrtc`: where players find this node, and how sound goes to many.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::values::{FromText, Period, leaf_by_text, shown};

/// The section `webrtc`. WebRTC has the number of the one port, TCP and UDP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct WebRtc {
    /// Addresses under which this node is found from outside, where a router stands in front of it. Default: those of this machine.
    pub public_addr: Vec<PublicAddr>,
    /// Servers that players are told of, STUN and TURN.
    pub ice_servers: Vec<IceServer>,
    /// The longest that sound waits for the next picture where hundreds watch a stream.
    pub crowd_batch: Period<0, 1_000>,
}

impl Default for WebRtc {
    fn default() -> WebRtc {
        WebRtc { public_addr: Vec::new(), ice_servers: Vec::new(), crowd_batch: Period::from_millis(50) }
    }
}

/// One of `webrtc.public_addr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct PublicAddr(pub IpAddr);

impl FromText for PublicAddr {
    fn from_text(text: &str) -> Result<PublicAddr, String> {
        let ip: IpAddr = text
            .parse()
            .map_err(|_| format!("{} is no IP address; write such as 203.0.113.5, without a port", shown(text)))?;
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(format!("{} is no address under which anybody is found", shown(text)));
        }
        Ok(PublicAddr(ip))
    }
}
leaf_by_text!(PublicAddr);

/// One of `webrtc.ice_servers`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section with url, and user and password where the server wants them")]
pub struct IceServer {
    /// Where it is.
    pub url: IceUrl,
    /// Of TURN.
    #[serde(default)]
    pub user: Option<String>,
    /// Of TURN. Every player is told it.
    #[serde(default)]
    pub password: Option<String>,
}

/// `stun:HOST`, `turn:HOST:PORT?transport=tcp`, `turns:HOST` (RFC 7064, RFC 7065).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct IceUrl(pub String);

impl FromText for IceUrl {
    fn from_text(text: &str) -> Result<IceUrl, String> {
        let why = || format!("{} is no such server; write stun:HOST, turn:HOST or turns:HOST", shown(text));
        let (scheme, host) = text.split_once(':').ok_or_else(why)?;
        // It goes into a header between angle brackets.
        let is_plain = host.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '"' | '/' | '\\'));
        match scheme {
            "stun" | "stuns" | "turn" | "turns" if is_plain && !host.is_empty() => Ok(IceUrl(text.to_string())),
            _ => Err(why()),
        }
    }
}
leaf_by_text!(IceUrl);
