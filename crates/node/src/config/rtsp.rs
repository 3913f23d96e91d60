//! `rtsp`: the ports that RTSP has besides the one.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize, Serializer};

use super::ListenAddr;
use super::values::{FromText, Period, leaf_by_text, shown};

/// The section `rtsp`. RTSP is spoken on the one port in any case.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Rtsp {
    /// A further port, such as RTSP's own `0.0.0.0:554`; all that the one port speaks is spoken there too. Default: none.
    pub listen: Option<ListenAddr>,
    /// The pair of UDP ports for RTP and RTCP of all sessions.
    pub udp: UdpPorts,
    /// The longest that pictures are gathered for hundreds of viewers of one stream, on their connections. Players of RTP have a
    /// buffer against jitter that is longer (RFC 3550 6.4.1).
    pub crowd_batch: Period<0, 1_000>,
}

impl Default for Rtsp {
    fn default() -> Rtsp {
        Rtsp { listen: None, udp: UdpPorts::Auto, crowd_batch: Period::from_millis(80) }
    }
}

/// `rtsp.udp`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum UdpPorts {
    /// 8000 and 8001 of the address of `listen`, where they are free.
    #[default]
    Auto,
    /// RTSP goes by TCP only.
    None,
    /// These, or the node does not start.
    At {
        /// Of this machine.
        ip: IpAddr,
        /// For RTP.
        media: u16,
        /// For RTCP.
        reports: u16,
    },
}

impl FromText for UdpPorts {
    fn from_text(text: &str) -> Result<UdpPorts, String> {
        let why = || format!("{} is no pair of ports; write auto, none, or such as 0.0.0.0:8000-8001", shown(text));
        match text {
            "auto" => return Ok(UdpPorts::Auto),
            "none" => return Ok(UdpPorts::None),
            _ => {}
        }
        let (ip, ports) = text.rsplit_once(':').ok_or_else(why)?;
        let ip = ip.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| why())?;
        let (media, reports) = ports.split_once('-').ok_or_else(why)?;
        let (media, reports): (u16, u16) = (media.parse().map_err(|_| why())?, reports.parse().map_err(|_| why())?);
        if media == 0 || reports == 0 || media == reports {
            return Err(why());
        }
        Ok(UdpPorts::At { ip, media, reports })
    }
}
leaf_by_text!(UdpPorts);

impl fmt::Display for UdpPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UdpPorts::Auto => f.write_str("auto"),
            UdpPorts::None => f.write_str("none"),
            UdpPorts::At { ip: IpAddr::V4(ip), media, reports } => write!(f, "{ip}:{media}-{reports}"),
            UdpPorts::At { ip: IpAddr::V6(ip), media, reports } => write!(f, "[{ip}]:{media}-{reports}"),
        }
    }
}

impl Serialize for UdpPorts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_shown() {
        for text in ["auto", "none", "0.0.0.0:8000-8001", "[::]:20000-20001"] {
            assert_eq!(UdpPorts::from_text(text).unwrap().to_string(), text);
        }
        for text in ["", "8000", "0.0.0.0:8000", "0.0.0.0:8000-8000", "0.0.0.0:0-1", "x:1-2", "0.0.0.0:1-70000"] {
            assert!(UdpPorts::from_text(text).unwrap_err().contains("0.0.0.0:8000-8001"), "{text}");
        }
    }
}
