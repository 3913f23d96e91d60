//! What the URL of a request names.

use percent_encoding::percent_decode_str;

/// A scheme, a DNS name and a port.
const ORIGIN_BYTES: usize = 300;

/// A URL, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Path without slashes at its ends, percent-decoded: a stream's name, and maybe a control behind it.
    pub path: String,
    /// The same as it is written in the URL.
    pub written: String,
    /// Query without `?`.
    pub query: String,
    /// `user:password`, as it is written.
    pub user_info: Option<String>,
    /// Scheme, host and port, as they are written; empty where there is only a path, and where it is longer than any host.
    pub origin: String,
}

impl Target {
    /// Takes a URL apart. Kind: a path alone is one, too.
    pub fn parse(uri: &str) -> Target {
        let (origin, rest) = match uri.find("://") {
            Some(at) => {
                let end =
                    uri.get(at + 3..).and_then(|rest| rest.find(['/', '?'])).map_or(uri.len(), |end| at + 3 + end);
                uri.split_at(end)
            }
            None => ("", uri),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user_info, origin) = match origin.rsplit_once('@') {
            Some((before, host)) => {
                let (scheme, user_info) = before.split_once("://").unwrap_or(("rtsp", before));
                (Some(user_info.to_string()), format!("{scheme}://{host}"))
            }
            None => (None, origin.to_string()),
        };
        // It is repeated for each track.
        let origin = if origin.len() > ORIGIN_BYTES { String::new() } else { origin };
        let written = path.trim_matches('/').to_string();
        let path = percent_decode_str(&written).decode_utf8_lossy().into_owned();
        Target { path, written, query: query.to_string(), user_info, origin }
    }

    /// The number behind `trackID=` at the end of the URL, and the target without it. The end may be that of the query, where a client
    /// put the control behind the whole URL.
    pub fn track(&self) -> (Target, Option<usize>) {
        let mut bare = self.clone();
        let cut = |text: &str| {
            let (before, last) = text.rsplit_once('/').unwrap_or(("", text));
            let number = last.get(..8).filter(|head| head.eq_ignore_ascii_case("trackid=")).and_then(|_| last.get(8..));
            Some((before.trim_end_matches('/').to_string(), number?.parse::<usize>().ok()?))
        };
        if let Some((query, at)) = cut(&self.query) {
            bare.query = query;
            return (bare, Some(at));
        }
        match cut(&self.path) {
            Some((path, at)) => {
                bare.path = path;
                bare.written = cut(&self.written).map_or_else(|| bare.path.clone(), |(written, _)| written);
                (bare, Some(at))
            }
            None => (bare, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_in_every_form() {
        let target = Target::parse("rtsp://u:p%40@host:8450/live/cam%31/?token=a/b");
        assert_eq!((target.path.as_str(), target.query.as_str()), ("live/cam1", "token=a/b"));
        assert_eq!((target.user_info.as_deref(), target.origin.as_str()), (Some("u:p%40"), "rtsp://host:8450"));
        assert_eq!(Target::parse("*").path, "*");
        assert_eq!(Target::parse("/live/a").path, "live/a");
        assert_eq!(Target::parse("rtsp://host").path, "");
        assert_eq!(Target::parse("rtsp://[::1]:1?token=x").query, "token=x");
    }

    #[test]
    fn a_track_is_found_behind_the_path_and_behind_the_query() {
        for (uri, path, query) in [
            ("rtsp://h/live/a/trackID=1", "live/a", ""),
            ("rtsp://h/live/a/trackid=1?token=x", "live/a", "token=x"),
            ("rtsp://h/live/a?token=x/trackID=1", "live/a", "token=x"),
            ("rtsp://h/live/a//trackID=1", "live/a", ""),
        ] {
            let (bare, track) = Target::parse(uri).track();
            assert_eq!((bare.path.as_str(), bare.query.as_str(), track), (path, query, Some(1)), "{uri}");
        }
        for uri in ["rtsp://h/live/a", "rtsp://h/live/a/trackID=x", "rtsp://h/live/a/track"] {
            assert_eq!(Target::parse(uri).track().1, None, "{uri}");
        }
    }
}
