//! The Transport header (RFC 2326 12.39): by which way RTP goes.

use std::fmt;

use super::headers::{number, parameter, split};

/// Most alternatives that are read of one header; clients offer 1 to 3.
const ALTERNATIVES: usize = 16;

/// One way for the RTP and RTCP of a stream. Pairs are those of RTP and RTCP, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// Interleaved on the RTSP connection, rather than UDP.
    pub tcp: bool,
    /// SRTP (RTP/SAVP, RFC 3711).
    pub secure: bool,
    /// To a group, rather than to one receiver.
    pub multicast: bool,
    /// Channels.
    pub interleaved: Option<(u8, u8)>,
    /// Of the client, not 0.
    pub client_port: Option<(u16, u16)>,
    /// Of the server, not 0.
    pub server_port: Option<(u16, u16)>,
    /// Host that sends; not to be believed.
    pub source: Option<String>,
    /// Host to send to; not to be believed (security.md S20).
    pub destination: Option<String>,
    /// Of the RTP.
    pub ssrc: Option<u32>,
    /// The client sends (`mode=record`, and `receive` as some say).
    pub record: bool,
}

impl Transport {
    /// Parses a value: its alternatives over RTP, best first, at most 16. Others, such as MP2T or RTP/AVPF, are left
    /// out. Parameters that are unknown, out of range or on port 0 count as missing.
    pub fn parse_list(value: &str) -> Vec<Transport> {
        split(value, ',').filter_map(Transport::parse).take(ALTERNATIVES).collect()
    }

    fn parse(value: &str) -> Option<Transport> {
        let mut parts = split(value, ';');
        let protocol = parts.next()?.to_ascii_uppercase();
        let (secure, lower) = match protocol.strip_prefix("RTP/AVP") {
            Some(lower) => (false, lower),
            None => (true, protocol.strip_prefix("RTP/SAVP")?),
        };
        let mut transport = Transport { secure, tcp: lower == "/TCP", ..Transport::default() };
        if !["", "/UDP", "/TCP"].contains(&lower) {
            return None;
        }
        for part in parts {
            transport.take(part);
        }
        // Some say RTP/AVP;interleaved=0-1.
        transport.tcp |= lower.is_empty() && transport.interleaved.is_some() && transport.client_port.is_none();
        Some(transport)
    }

    fn take(&mut self, part: &str) {
        let Some((name, value)) = parameter(part) else {
            self.multicast |= part.eq_ignore_ascii_case("multicast");
            return;
        };
        match name.as_str() {
            "interleaved" => {
                self.interleaved = pair(&value).and_then(|(a, b)| Some((a.try_into().ok()?, b.try_into().ok()?)))
            }
            "client_port" => self.client_port = ports(&value),
            "server_port" => self.server_port = ports(&value),
            "source" => self.source = Some(value).filter(|value| !value.is_empty()),
            "destination" => self.destination = Some(value).filter(|value| !value.is_empty()),
            "ssrc" => self.ssrc = ssrc(&value),
            "mode" => {
                let is_record =
                    |word: &str| ["record", "receive"].iter().any(|known| word.trim().eq_ignore_ascii_case(known));
                self.record = value.split(',').any(is_record);
            }
            _ => {}
        }
    }
}

/// As sent, in one header.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure { "RTP/SAVP" } else { "RTP/AVP" })?;
        f.write_str(if self.tcp { "/TCP" } else { "" })?;
        f.write_str(if self.multicast { ";multicast" } else { ";unicast" })?;
        for (name, host) in [("destination", &self.destination), ("source", &self.source)] {
            if let Some(host) = host {
                let host: String = host.chars().filter(|c| c.is_ascii_graphic() && !";,\"".contains(*c)).collect();
                write!(f, ";{name}={host}")?;
            }
        }
        if let Some((a, b)) = self.interleaved {
            write!(f, ";interleaved={a}-{b}")?;
        }
        for (name, ports) in [("client_port", self.client_port), ("server_port", self.server_port)] {
            if let Some((a, b)) = ports {
                write!(f, ";{name}={a}-{b}")?;
            }
        }
        if let Some(ssrc) = self.ssrc {
            write!(f, ";ssrc={ssrc:08X}")?;
        }
        // Without quotes, as ffmpeg does; both are allowed.
        f.write_str(if self.record { ";mode=record" } else { "" })
    }
}

/// `a-b`, or `a` for itself and its successor.
fn pair(value: &str) -> Option<(u16, u16)> {
    let (first, second) = value.split_once('-').unwrap_or((value, ""));
    let first: u16 = number(first.trim())?;
    let second = if second.trim().is_empty() { first.checked_add(1)? } else { number(second.trim())? };
    Some((first, second))
}

fn ports(value: &str) -> Option<(u16, u16)> {
    pair(value).filter(|(first, second)| *first != 0 && *second != 0)
}

/// Hexadecimal; LIVE555 pads with spaces, RFC 7826 allows several.
fn ssrc(value: &str) -> Option<u32> {
    let first = value.split('/').next()?.trim();
    let digits = first.strip_prefix("0x").or_else(|| first.strip_prefix("0X")).unwrap_or(first);
    // from_str_radix alone would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(value: &str) -> Transport {
        let list = Transport::parse_list(value);
        assert_eq!(list.len(), 1, "{value}");
        list.into_iter().next().unwrap()
    }

    #[test]
    fn alternatives_come_in_their_order_and_only_those_over_rtp() {
        let value = "RTP/AVP;unicast;client_port=4588-4589, RAW/RAW/UDP;x=1,rtp/avp/tcp;interleaved=2-3,RTP/AVPF,RTP/SAVP/UDP;multicast";
        let list = Transport::parse_list(value);
        let udp = Transport { client_port: Some((4588, 4589)), ..Transport::default() };
        let tcp = Transport { tcp: true, interleaved: Some((2, 3)), ..Transport::default() };
        let secure = Transport { secure: true, multicast: true, ..Transport::default() };
        assert_eq!(list, [udp, tcp, secure]);
        assert_eq!(Transport::parse_list(&"RTP/AVP,".repeat(100)).len(), ALTERNATIVES);
        assert_eq!(Transport::parse_list(""), []);
    }

    #[test]
    fn parameters_may_have_any_case_order_and_quotes() {
        let value = "RTP/AVP/UDP; Mode=\"PLAY,Record\" ;SSRC= 0x1a2B ;source=\"::1\";SERVER_PORT = 6000 - 6001;x;y=z;destination=h";
        let expected = Transport {
            server_port: Some((6000, 6001)),
            source: Some("::1".into()),
            destination: Some("h".into()),
            ssrc: Some(0x1a2b),
            record: true,
            ..Transport::default()
        };
        assert_eq!(one(value), expected);
        assert!(one("RTP/AVP;mode=receive").record && !one("RTP/AVP;mode=\"PLAY\"").record);
    }

    #[test]
    fn a_single_number_stands_for_two() {
        assert_eq!(one("RTP/AVP/TCP;interleaved=0").interleaved, Some((0, 1)));
        assert_eq!(one("RTP/AVP;client_port=5000").client_port, Some((5000, 5001)));
        assert_eq!(one("RTP/AVP;client_port=5000-").client_port, Some((5000, 5001)));
    }

    #[test]
    fn what_is_out_of_range_is_missing() {
        for value in ["0-1", "1-0", "0", "65535", "65536-1", "-1", "a-b", "", "+5-6"] {
            assert_eq!(one(&format!("RTP/AVP;client_port={value}")).client_port, None, "{value}");
        }
        for value in ["255", "256-257", "0-256", "-"] {
            assert_eq!(one(&format!("RTP/AVP/TCP;interleaved={value}")).interleaved, None, "{value}");
        }
        for value in ["", "+1", "123456789", "xyz"] {
            assert_eq!(one(&format!("RTP/AVP;ssrc={value}")).ssrc, None, "{value}");
        }
    }

    #[test]
    fn interleaved_without_tcp_is_tcp_unless_there_are_ports() {
        assert!(one("RTP/AVP;unicast;interleaved=0-1").tcp);
        assert!(!one("RTP/AVP;unicast;interleaved=0-1;client_port=2-3").tcp);
    }

    #[test]
    fn nothing_gets_out_through_a_host() {
        let evil = Transport { source: Some("a\r\n;b,\"c".into()), ..Transport::default() };
        assert_eq!(evil.to_string(), "RTP/AVP;unicast;source=abc");
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in "(RTP/AVP|/TCP|interleaved=|client_port=|ssrc=|[;,=\"\\\\ -]|[0-9]|\\PC){0,40}") {
            Transport::parse_list(&text);
        }

        #[test]
        fn what_is_written_is_read(
            flags: (bool, bool, bool, bool),
            interleaved: Option<(u8, u8)>,
            client_port in prop::option::of((1..=u16::MAX, 1..=u16::MAX)),
            server_port in prop::option::of((1..=u16::MAX, 1..=u16::MAX)),
            source in prop::option::of("[a-z0-9.:]{1,20}"),
            destination in prop::option::of("[a-z0-9.:]{1,20}"),
            ssrc: Option<u32>,
        ) {
            let (tcp, secure, multicast, record) = flags;
            let interleaved = interleaved.filter(|_| tcp);
            let sent = Transport {
                tcp, secure, multicast, interleaved, client_port, server_port, source, destination, ssrc, record,
            };
            prop_assert_eq!(one(&sent.to_string()), sent);
        }
    }
}
