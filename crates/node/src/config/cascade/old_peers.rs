//! `cascade.lowers.old_peers`: nodes of m7s v4 below, which have no credentials to show (security.md S2).
#![deny(clippy::indexing_slicing)]

use std::fmt;
use std::net::IpAddr;

use culvert_media::Cid;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::CidPattern;
use crate::config::values::{FromText, leaf_by_text, or_default, shown};

/// Which old peers may link, and push streams that end in their id: `false`, `true` for all, or a list.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct OldPeers(Vec<OldPeer>);

/// One of the list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section of keys and values")]
pub struct OldPeer {
    /// Under which ids.
    pub cid: CidPattern,
    /// From which networks. Default: from anywhere.
    #[serde(default, deserialize_with = "or_default")]
    pub from: Vec<Network>,
}

/// Most rows.
const MAX_ROWS: usize = 10_000;

impl OldPeers {
    /// Whether there may be any.
    pub fn is_on(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether one from this address may have this id.
    pub fn admit(&self, remote: IpAddr, cid: &Cid) -> bool {
        self.0.iter().any(|row| {
            row.cid.matches(cid) && (row.from.is_empty() || row.from.iter().any(|network| network.contains(remote)))
        })
    }

    /// The same, by a row that names it, or some like it: not `true`, and not `*`.
    pub fn admit_by_name(&self, remote: IpAddr, cid: &Cid) -> bool {
        let named = self.0.iter().filter(|row| row.cid.as_str().contains(|c| c != '*')).cloned();
        OldPeers(named.collect()).admit(remote, cid)
    }

    fn all() -> Vec<OldPeer> {
        let cid = CidPattern::parse("*").expect("a star is a pattern");
        vec![OldPeer { cid, from: Vec::new() }]
    }
}

impl<'de> Deserialize<'de> for OldPeers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<OldPeers, D::Error> {
        struct Rows;
        impl<'de> Visitor<'de> for Rows {
            type Value = OldPeers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a list of {cid, from}")
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<OldPeers, E> {
                Ok(OldPeers::default())
            }

            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<OldPeers, E> {
                Ok(OldPeers(if on { OldPeers::all() } else { Vec::new() }))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OldPeers, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = seq.next_element()? {
                    if rows.len() == MAX_ROWS {
                        let why = format!("cascade.lowers.old_peers has more than {MAX_ROWS} rows");
                        return Err(serde::de::Error::custom(why));
                    }
                    rows.push(row);
                }
                Ok(OldPeers(rows))
            }
        }
        from.deserialize_any(Rows)
    }
}

impl Serialize for OldPeers {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() || self.0 == OldPeers::all() {
            return to.serialize_bool(self.is_on());
        }
        self.0.serialize(to)
    }
}

/// An address, or the addresses that begin alike: `10.0.0.0/8`, `fd00::/8`, `192.168.1.7`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether the address is in it. `::ffff:10.0.0.1` is 10.0.0.1.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => alike(own.to_bits().into(), other.to_bits().into(), 32, self.bits),
            (IpAddr::V6(own), IpAddr::V6(other)) => alike(own.to_bits(), other.to_bits(), 128, self.bits),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Whether the first `bits` of two numbers of `width` bits are the same.
fn alike(a: u128, b: u128, width: u8, bits: u8) -> bool {
    (a ^ b).checked_shr(u32::from(width.saturating_sub(bits))).unwrap_or(0) == 0
}

impl FromText for Network {
    fn from_text(text: &str) -> Result<Network, String> {
        let fault =
            || format!("{} is no network; write an address, or one with a length as in 10.0.0.0/8", shown(text));
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| fault()))?;
        if bits > most {
            return Err(fault());
        }
        Ok(Network { address: address.to_canonical(), bits })
    }
}
leaf_by_text!(Network);

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}/{}", self.address, self.bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::from_text(text).unwrap()
    }

    #[test]
    fn networks_contain_what_begins_alike() {
        for (of, inside, outside) in [
            ("10.0.0.0/8", "10.200.3.4", "11.0.0.0"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.6"),
            ("192.168.1.0/31", "::ffff:192.168.1.1", "192.168.1.2"),
            ("fd00::/8", "fd12::1", "fe80::1"),
            ("::1", "::1", "127.0.0.1"),
        ] {
            assert!(network(of).contains(inside.parse().unwrap()), "{of} {inside}");
            assert!(!network(of).contains(outside.parse().unwrap()), "{of} {outside}");
        }
        assert!(network("0.0.0.0/0").contains([1, 2, 3, 4].into()));
        assert!(network("::/0").contains("fd00::1".parse().unwrap()));
        for wrong in ["", "10.0.0/8", "10.0.0.0/33", "10.0.0.0/", "::/129", "host", "10.0.0.0/-1"] {
            assert!(Network::from_text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rows_admit_by_id_and_network() {
        let peers: OldPeers = serde_saphyr::from_str("[{cid: cam-*, from: [10.0.0.0/8]}, {cid: x}]").unwrap();
        let cid = |text| Cid::parse(text).unwrap();
        assert!(peers.admit([10, 1, 1, 1].into(), &cid("cam-7")));
        assert!(!peers.admit([11, 1, 1, 1].into(), &cid("cam-7")) && !peers.admit([10, 1, 1, 1].into(), &cid("y")));
        assert!(peers.admit([1, 1, 1, 1].into(), &cid("x")));
        let on: OldPeers = serde_saphyr::from_str("true").unwrap();
        assert!(on.is_on() && on.admit([1, 1, 1, 1].into(), &cid("any")));
        let off: OldPeers = serde_saphyr::from_str("false").unwrap();
        assert!(!off.is_on() && !off.admit([127, 0, 0, 1].into(), &cid("any")));
    }
}
