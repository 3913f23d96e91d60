//! Which URLs are ours, and what they ask for.

use culvert_hub::{Class, parameter, stream_in_path};
use culvert_media::{NameError, StreamName};

/// Where a stream can be played as what: under our prefix, and under those of m7s (m7s-v4.md 4.3).
const PATHS: [(&str, &str, Format); 5] = [
    ("/play/", ".flv", Format::Flv),
    ("/play/", ".mp4", Format::Mp4),
    ("/hdl/", ".flv", Format::Flv),
    ("/jessica/", ".flv", Format::Flv),
    ("/fmp4/", ".mp4", Format::Mp4),
];
/// Behind it, and without `.flv`, is m7s's WS-RAW.
const RAW_PREFIX: &str = "/jessica/";

/// In what form a stream is played.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// FLV.
    Flv,
    /// Fragmented MP4.
    Mp4,
    /// Bare tags, by WebSocket only.
    Raw,
}

impl Format {
    /// Of an HTTP response.
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Format::Flv | Format::Raw => "video/x-flv",
            Format::Mp4 => "video/mp4",
        }
    }
}

/// A viewer's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What to play.
    pub stream: StreamName,
    /// As what.
    pub format: Format,
    /// The class that `?latency=` chose.
    pub class: Option<Class>,
    /// `?chunk=50ms`: what comes within so much is one fragment of MP4. Otherwise each frame is one.
    pub merged: bool,
    /// `?audio=`: whether sound may be Opus or FLAC in FLV.
    pub opus: Option<bool>,
    /// The query string, without `?`.
    pub query: String,
}

/// Reads a target (path and query). None: not one of our URLs.
pub fn claims(target: &str) -> Option<Result<Request, NameError>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let found = PATHS.iter().find_map(|(prefix, suffix, format)| {
        let name = path.strip_prefix(prefix)?.strip_suffix(suffix)?;
        Some((name, *format))
    });
    let raw = || path.strip_prefix(RAW_PREFIX).filter(|name| !name.is_empty()).map(|name| (name, Format::Raw));
    let (name, format) = found.or_else(raw)?;
    Some(stream_in_path(name).map(|stream| Request {
        stream,
        format,
        class: match parameter(query, "latency").as_deref() {
            Some("low") => Some(Class::Low),
            Some("shared") => Some(Class::Shared),
            Some(_) | None => None,
        },
        merged: parameter(query, "chunk").as_deref() == Some("50ms"),
        opus: match parameter(query, "audio").as_deref() {
            Some("opus" | "flac") => Some(true),
            Some("aac") => Some(false),
            Some(_) | None => None,
        },
        query: query.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_urls_are_claimed_and_others_are_left_alone() {
        let ask = claims("/play/live/cam1.flv?latency=low&token=x").unwrap().unwrap();
        assert_eq!((ask.stream.as_str(), ask.class, ask.merged), ("live/cam1", Some(Class::Low), false));
        assert!(claims("/play/live/cam1.mp4?chunk=50ms").unwrap().unwrap().merged);
        assert!(!claims("/play/live/cam1.mp4?chunk=frame").unwrap().unwrap().merged);
        for target in ["/hdl/a/b.flv", "/jessica/a/b.flv", "/play/a/b.flv"] {
            assert_eq!(claims(target).unwrap().unwrap().stream.as_str(), "a/b");
        }
        let raw = claims("/jessica/a/b?x").unwrap().unwrap();
        assert_eq!((raw.stream.as_str(), raw.format, ask.format), ("a/b", Format::Raw, Format::Flv));
        for target in ["/play/a/b.mp4", "/fmp4/a/b.mp4?x"] {
            let ask = claims(target).unwrap().unwrap();
            assert_eq!((ask.stream.as_str(), ask.format), ("a/b", Format::Mp4), "{target}");
        }
        for target in [
            "/",
            "/play/a/b",
            "/hdl/a/b",
            "/jessica/",
            "/play/a.m3u8",
            "/fmp4/a.flv",
            "/play/",
            "/api/v1/streams",
            "/player/a.flv",
        ] {
            assert_eq!(claims(target), None, "{target}");
        }
    }

    #[test]
    fn names_are_decoded_once_and_then_checked() {
        assert_eq!(claims("/play/a%2Fb.flv").unwrap().unwrap().stream.as_str(), "a/b");
        for target in ["/play/..%2fx.flv", "/play/a%252fb.flv", "/play/a%00.flv", "/play/.flv", "/play/%ff.flv"] {
            assert!(claims(target).unwrap().is_err(), "{target}");
        }
    }
}
