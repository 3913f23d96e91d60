//! Which URLs are ours, and what they ask for.

use culvert_hub::{Class, parameter};
use culvert_media::{NameError, StreamName};
use percent_encoding::percent_decode_str;

/// Prefixes under which a stream can be played: ours, and those of m7s (m7s-v4.md 4.3).
const PREFIXES: [&str; 3] = ["/play/", "/hdl/", "/jessica/"];
/// Behind it, and without `.flv`, is m7s's WS-RAW.
const RAW_PREFIX: &str = "/jessica/";

/// A viewer's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What to play.
    pub stream: StreamName,
    /// As bare tags, by WebSocket only; else as FLV.
    pub raw: bool,
    /// The class that `?latency=` chose.
    pub class: Option<Class>,
    /// The query string, without `?`.
    pub query: String,
}

/// Reads a target (path and query). None: not one of our URLs.
pub fn claims(target: &str) -> Option<Result<Request, NameError>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let name = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix))?;
    let raw = path.starts_with(RAW_PREFIX) && !name.is_empty() && !name.ends_with(".flv");
    let name = if raw { name } else { name.strip_suffix(".flv")? };
    // Decoded once, then checked: a second decode anywhere would let a name mean two things.
    let name = percent_decode_str(name).decode_utf8().map_err(|_| NameError::Character('\u{fffd}'));
    Some(name.and_then(|name| StreamName::parse(&name)).map(|stream| Request {
        stream,
        raw,
        class: match parameter(query, "latency").as_deref() {
            Some("low") => Some(Class::Low),
            Some("shared") => Some(Class::Shared),
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
        assert_eq!((ask.stream.as_str(), ask.class), ("live/cam1", Some(Class::Low)));
        for target in ["/hdl/a/b.flv", "/jessica/a/b.flv", "/play/a/b.flv"] {
            assert_eq!(claims(target).unwrap().unwrap().stream.as_str(), "a/b");
        }
        let raw = claims("/jessica/a/b?x").unwrap().unwrap();
        assert_eq!((raw.stream.as_str(), raw.raw, ask.raw), ("a/b", true, false));
        for target in
            ["/", "/play/a/b", "/hdl/a/b", "/jessica/", "/play/a.mp4", "/play/", "/api/v1/streams", "/player/a.flv"]
        {
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
