//! SDP (RFC 8866), as far as RTSP needs it: which media a session has, how each is packed, and where it is controlled.
//!
//! Cameras write it carelessly, so only what is needed is asked for: lines end anyhow, order is free, and what is not understood is left
//! out.

use std::fmt::Write;

/// Longest description that is read (security.md S20).
pub const MAX_BYTES: usize = 64 << 10;
/// Most media of one.
const MAX_MEDIA: usize = 16;

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// `a=control` before the first medium: the aggregate.
    pub control: Option<String>,
    /// `a=range`.
    pub range: Option<String>,
    /// What it is made of; at most 16, the rest is left out.
    pub media: Vec<Medium>,
}

/// One `m=` line, with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Medium {
    /// `video`, `audio`, or something else.
    pub kind: String,
    /// The first format's number.
    pub payload_type: u8,
    /// `a=rtpmap`: the encoding's name as it is written, its clock, and what stands behind (channels).
    pub rtpmap: Option<(String, u32, Option<u32>)>,
    /// `a=fmtp`: names in lower case, values.
    pub fmtp: Vec<(String, String)>,
    /// `a=control`.
    pub control: Option<String>,
    /// `a=sendonly` (an ONVIF back channel: it is for us to send), `recvonly`, ...
    pub direction: Option<String>,
}

impl Medium {
    /// A parameter of the format.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.fmtp.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Description {
    /// Reads a description. Nothing is an error; what is not there is not found.
    pub fn parse(text: &str) -> Description {
        let mut session = Description::default();
        let mut full = false;
        for line in text.split(['\r', '\n']).map(str::trim) {
            let Some((kind, value)) = line.split_once('=') else { continue };
            match kind.trim() {
                "m" => {
                    full = session.media.len() == MAX_MEDIA;
                    if !full {
                        session.media.push(medium(value));
                    }
                }
                "a" if !full => session.attribute(value),
                _ => {}
            }
        }
        session
    }

    fn attribute(&mut self, attribute: &str) {
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let Some(medium) = self.media.last_mut() else {
            match name.as_str() {
                "control" => self.control = Some(value.into()),
                "range" => self.range = Some(value.into()),
                _ => {}
            }
            return;
        };
        // Each of these is of one format; those of the first one are ours.
        let own = || {
            let (number, rest) = value.split_once(char::is_whitespace)?;
            (number.parse::<u8>().ok()? == medium.payload_type).then_some(rest.trim())
        };
        match name.as_str() {
            "rtpmap" => medium.rtpmap = own().and_then(rtpmap).or(medium.rtpmap.take()),
            "fmtp" => {
                if let Some(rest) = own() {
                    medium.fmtp = fmtp(rest);
                }
            }
            "control" => medium.control = Some(value.into()),
            "sendonly" | "recvonly" | "sendrecv" | "inactive" => medium.direction = Some(name),
            _ => {}
        }
    }
}

/// `video 0 RTP/AVP 96 97`.
fn medium(value: &str) -> Medium {
    let mut words = value.split_whitespace();
    let kind = words.next().unwrap_or_default().to_ascii_lowercase();
    let payload_type = words.nth(2).and_then(|number| number.parse().ok()).unwrap_or(u8::MAX);
    Medium { kind, payload_type, ..Medium::default() }
}

/// `H264/90000`, `OPUS/48000/2`.
fn rtpmap(value: &str) -> Option<(String, u32, Option<u32>)> {
    let mut parts = value.split('/').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?.to_string();
    let clock = parts.next().and_then(|hz| hz.parse().ok()).unwrap_or(0);
    Some((name, clock, parts.next().and_then(|channels| channels.parse().ok())))
}

/// `packetization-mode=1; sprop-parameter-sets=..`.
fn fmtp(value: &str) -> Vec<(String, String)> {
    let parameters = value.split(';').filter_map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let name = name.trim().to_ascii_lowercase();
        (!name.is_empty()).then(|| (name, value.trim().to_string()))
    });
    // Some hundred would be nonsense, and are looked through for each name.
    parameters.take(64).collect()
}

/// What [`write()`] tells of one medium.
#[derive(Clone, Debug)]
pub struct Told {
    /// `video` or `audio`.
    pub kind: &'static str,
    /// The number of its format.
    pub payload_type: u8,
    /// `H264/90000`.
    pub rtpmap: String,
    /// Parameters of the format; may be empty.
    pub fmtp: String,
    /// Its control.
    pub control: String,
}

/// Writes the description of a live session (RFC 8866 5, RFC 2326 C.1). `host` is where its sender is.
pub fn write(host: std::net::IpAddr, title: &str, media: &[Told]) -> String {
    let family = if host.is_ipv4() { "IP4" } else { "IP6" };
    let any = if host.is_ipv4() { "0.0.0.0" } else { "::" };
    // A session id that stays the same for the same stream.
    let mut out = format!(
        "v=0\r\no=- 0 0 IN {family} {host}\r\ns={title}\r\nc=IN {family} {any}\r\nt=0 0\r\na=control:*\r\na=range:npt=now-\r\n"
    );
    for Told { kind, payload_type, rtpmap, fmtp, control } in media {
        // Writing to a string cannot fail.
        write!(out, "m={kind} 0 RTP/AVP {payload_type}\r\na=rtpmap:{payload_type} {rtpmap}\r\n").ok();
        if !fmtp.is_empty() {
            write!(out, "a=fmtp:{payload_type} {fmtp}\r\n").ok();
        }
        write!(out, "a=control:{control}\r\n").ok();
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_camera_says_is_read() {
        // A Hikvision DS-2CD2xxx's form, with its own order and a private medium.
        let text = "v=0\r\no=- 1109162014219182 1109162014219192 IN IP4 x.y.z.w\r\ns=Media Presentation\r\nb=AS:5100\r\n\
            a=control:rtsp://10.0.0.1/Streaming/Channels/101/\r\nm=video 0 RTP/AVP 96\r\nb=AS:5000\r\n\
            a=control:rtsp://10.0.0.1/Streaming/Channels/101/trackID=1\r\na=rtpmap:96 H264/90000\r\n\
            a=fmtp:96 profile-level-id=420029; packetization-mode=1; sprop-parameter-sets=Z00AKp2oHgCJ+WbgICAoAAAfQAAGGoQg,aO48gA==\r\n\
            m=audio 0 RTP/AVP 8 96\r\na=control:trackID=2\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:96 L16/8000/1\r\na=sendonly\r\n\
            m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n";
        let session = Description::parse(text);
        assert_eq!(session.control.as_deref(), Some("rtsp://10.0.0.1/Streaming/Channels/101/"));
        let [video, audio, other] = &session.media[..] else { panic!("{session:?}") };
        assert_eq!((video.kind.as_str(), video.payload_type), ("video", 96));
        assert_eq!(video.rtpmap, Some(("H264".into(), 90_000, None)));
        assert_eq!(video.parameter("sprop-parameter-sets"), Some("Z00AKp2oHgCJ+WbgICAoAAAfQAAGGoQg,aO48gA=="));
        assert_eq!((audio.payload_type, &audio.rtpmap), (8, &Some(("PCMA".into(), 8000, None))));
        assert_eq!((audio.direction.as_deref(), audio.control.as_deref()), (Some("sendonly"), Some("trackID=2")));
        assert_eq!(other.kind, "application");
        // The same with bare carriage returns, and with bare line feeds.
        assert_eq!(Description::parse(&text.replace("\r\n", "\r")), session);
        assert_eq!(Description::parse(&text.replace("\r\n", "\n")), session);
    }

    #[test]
    fn there_are_only_so_many_media() {
        let text = "m=video 0 RTP/AVP 96\r\na=control:x\r\n".repeat(10_000);
        let session = Description::parse(&text);
        assert_eq!(session.media.len(), MAX_MEDIA);
    }

    #[test]
    fn what_is_written_is_read() {
        let told = Told {
            kind: "audio",
            payload_type: 97,
            rtpmap: "MPEG4-GENERIC/44100/2".into(),
            fmtp: "sizelength=13;config=1210".into(),
            control: "trackID=1".into(),
        };
        let text = write("127.0.0.1".parse().unwrap(), "live/a", &[told]);
        let session = Description::parse(&text);
        assert_eq!(session.control.as_deref(), Some("*"));
        let medium = &session.media[0];
        assert_eq!(medium.rtpmap, Some(("MPEG4-GENERIC".into(), 44_100, Some(2))));
        assert_eq!((medium.parameter("config"), medium.parameter("sizelength")), (Some("1210"), Some("13")));
    }

    proptest! {
        #[test]
        fn garbage_is_read_as_far_as_it_goes(text in "[ -~\r\n]{0,400}", lines in prop::collection::vec("[amvs]=[ -~]{0,40}", 0..40)) {
            Description::parse(&text);
            Description::parse(&lines.join("\r\n"));
        }
    }
}
