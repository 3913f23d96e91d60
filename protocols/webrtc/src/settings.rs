//! What is set for all sessions.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// A server that helps players to find a way, as they are told (RFC 9725 4.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceServer {
    /// `stun:`, `turn:` or `turns:` URL.
    pub url: String,
    /// User and password, of TURN.
    pub credential: Option<(String, String)>,
}

/// What the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Addresses under which this node is found from outside; none: those of this machine.
    pub public: Vec<IpAddr>,
    /// Told to players.
    pub ice_servers: Vec<IceServer>,
    /// The longest that sound waits for the next picture where hundreds watch.
    pub crowd_batch: Duration,
}

/// Where players are to look for us, the most likely first: what the configuration says, or else the address that the request was sent to
/// and the one by which this machine reaches the peer, and the Internet.
pub(crate) fn addresses(
    settings: &Settings,
    listen: SocketAddr,
    host: Option<&str>,
    remote: IpAddr,
) -> Vec<SocketAddr> {
    let mut found: Vec<IpAddr> = settings.public.clone();
    if found.is_empty() {
        if listen.ip().is_unspecified() {
            found.extend(host.and_then(literal));
            // A documentation address (RFC 5737): nothing is sent to it.
            let internet = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
            found.extend([remote, internet].into_iter().filter_map(own_address));
        } else {
            found.push(listen.ip());
        }
    }
    let mut out: Vec<SocketAddr> = Vec::new();
    for ip in found.iter().map(|ip| ip.to_canonical()).filter(|ip| !ip.is_unspecified()) {
        let address = SocketAddr::new(ip, listen.port());
        if !out.contains(&address) {
            out.push(address);
        }
    }
    out.truncate(MOST);
    out
}

/// Most candidates of a kind.
const MOST: usize = 8;

/// The address in a Host header, where it is one and no name.
fn literal(host: &str) -> Option<IpAddr> {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => host.split(':').next()?,
    };
    name.parse().ok()
}

/// The address of this machine from which the other is reached.
fn own_address(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Connecting a datagram socket sends nothing: it looks up the route.
    socket.connect((remote, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_a_player_can_reach() {
        let listen: SocketAddr = "0.0.0.0:8450".parse().unwrap();
        let of = |settings: &Settings, listen, host, remote: &str| -> Vec<String> {
            addresses(settings, listen, host, remote.parse().unwrap()).iter().map(ToString::to_string).collect()
        };
        let none = Settings::default();
        let seen = of(&none, listen, Some("10.9.8.7:8450"), "127.0.0.1");
        assert_eq!(seen[..2], ["10.9.8.7:8450", "127.0.0.1:8450"]);
        assert_eq!(of(&none, listen, Some("[fd00::5]"), "127.0.0.1")[0], "[fd00::5]:8450");
        assert_eq!(of(&none, listen, Some("node.example:8450"), "127.0.0.1")[0], "127.0.0.1:8450");
        assert_eq!(of(&none, "192.0.2.9:1".parse().unwrap(), Some("10.9.8.7"), "127.0.0.1"), ["192.0.2.9:1"]);
        let public = Settings { public: vec!["203.0.113.5".parse().unwrap()], ..none };
        assert_eq!(of(&public, listen, Some("10.9.8.7"), "127.0.0.1"), ["203.0.113.5:8450"]);
    }
}
