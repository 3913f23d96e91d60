//! Which URLs are ours, and what they ask for.

use std::fmt;

use culvert_hub::{parameter, stream_in_path};
use culvert_media::{NameError, StreamName};

/// Where a stream's multivariant playlist is: under our prefix, and under those of m7s (m7s-v4.md 4.3).
const PATHS: [(&str, &str); 3] = [("/play/", ".m3u8"), ("/hls/", ".m3u8"), ("/llhls/", "/index.m3u8")];
/// Between a stream's name and a session's id. No name has it, so nothing here can be mistaken for another stream.
const MARK: char = '@';
/// A media playlist, in its session's folder.
pub(crate) const MEDIA: &str = "live.m3u8";

/// The id of a session: who knows it has been let in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sid(u128);

impl Sid {
    /// One that nobody can guess.
    pub(crate) fn random() -> Sid {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system has random numbers");
        Sid(u128::from_be_bytes(bytes))
    }

    fn parse(text: &str) -> Option<Sid> {
        let hex = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if hex { u128::from_str_radix(text, 16).ok().map(Sid) } else { None }
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// The media playlist.
    Playlist,
    /// An initialisation segment.
    Map(u64),
    /// A segment by its number.
    Segment(u64),
    /// A part of a segment.
    Part(u64, usize),
}

/// A request under one of our URLs.
#[derive(Clone)]
pub(crate) enum Request {
    /// The multivariant playlist, which begins a session. The text is what goes before the mark and the session's id in the URI of its
    /// folder, as seen from there.
    Begin(StreamName, String),
    /// Something of a session.
    Of(StreamName, Sid, What),
}

/// Reads a path. None: not one of our URLs.
pub(crate) fn claims(path: &str) -> Option<Result<Request, NameError>> {
    let of_session = PATHS.iter().find_map(|(prefix, _)| of_session(path.strip_prefix(prefix)?));
    if let Some((name, sid, what)) = of_session {
        return Some(stream_in_path(name).map(|stream| Request::Of(stream, sid, what)));
    }
    let (name, suffix) =
        PATHS.iter().find_map(|(prefix, suffix)| Some((path.strip_prefix(prefix)?.strip_suffix(suffix)?, suffix)))?;
    let up = if suffix.starts_with('/') { "../" } else { "" };
    // As it was written: one that says %2f for a slash has another place among the folders.
    let last = name.rsplit('/').next().unwrap_or_default();
    Some(stream_in_path(name).map(|stream| Request::Begin(stream, format!("{up}{last}"))))
}

/// The URI of a session's media playlist, as seen from the multivariant one.
pub(crate) fn media_uri(folder: &str, sid: Sid) -> String {
    format!("{folder}{MARK}{sid}/{MEDIA}")
}

fn of_session(path: &str) -> Option<(&str, Sid, What)> {
    let (folder, file) = path.rsplit_once('/')?;
    let (name, sid) = folder.rsplit_once(MARK)?;
    let sid = Sid::parse(sid)?;
    if file == MEDIA {
        return Some((name, sid, What::Playlist));
    }
    let (kind, numbers) = file.strip_suffix(".m4s")?.split_once('-')?;
    let what = match kind {
        "init" => What::Map(number(numbers)?),
        "seg" => What::Segment(number(numbers)?),
        "part" => {
            let (segment, part) = numbers.split_once('-')?;
            What::Part(number(segment)?, usize::try_from(number(part)?).ok()?)
        }
        _ => return None,
    };
    Some((name, sid, what))
}

/// A decimal integer (RFC 8216 4.2): digits only.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Delivery directives (bis 6.2.5).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Directives {
    /// The answer waits until the playlist has this segment, or this part of it.
    pub(crate) wait_for: Option<(u64, Option<usize>)>,
    /// The reader has an older playlist and needs the news only.
    pub(crate) skip: bool,
}

impl Directives {
    /// From a query string; the error is a sentence.
    pub(crate) fn parse(query: &str) -> Result<Directives, String> {
        let integer = |name: &str| match parameter(query, name) {
            None => Ok(None),
            Some(text) => number(&text).map(Some).ok_or_else(|| format!("{name}={text:.40} is no decimal number")),
        };
        let part = integer("_HLS_part")?;
        let part = part.map(usize::try_from).transpose().map_err(|_| "_HLS_part is far too large".to_string())?;
        let wait_for = match (integer("_HLS_msn")?, part) {
            (None, Some(_)) => return Err("_HLS_part needs _HLS_msn".into()),
            (number, part) => number.map(|number| (number, part)),
        };
        let skip = parameter(query, "_HLS_skip").is_some_and(|value| matches!(value.as_str(), "YES" | "v2"));
        Ok(Directives { wait_for, skip })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> (String, What) {
        match claims(path).unwrap().unwrap() {
            Request::Of(stream, sid, what) => {
                assert_eq!(sid.to_string(), "0123456789abcdef0123456789abcdef");
                (stream.as_str().to_string(), what)
            }
            Request::Begin(..) => panic!("{path} begins a session"),
        }
    }

    #[test]
    fn our_urls_are_claimed_and_others_are_left_alone() {
        for (path, uri) in [
            ("/play/live/cam1.m3u8", "cam1@00000000000000000000000000000007/live.m3u8"),
            ("/hls/live/cam1.m3u8", "cam1@00000000000000000000000000000007/live.m3u8"),
            ("/play/live%2fcam1.m3u8", "live%2fcam1@00000000000000000000000000000007/live.m3u8"),
            ("/llhls/live/cam1/index.m3u8", "../cam1@00000000000000000000000000000007/live.m3u8"),
        ] {
            let Request::Begin(stream, folder) = claims(path).unwrap().unwrap() else { panic!("{path}") };
            assert_eq!((stream.as_str(), media_uri(&folder, Sid(7))), ("live/cam1", uri.to_string()));
        }
        let sid = "0123456789abcdef0123456789abcdef";
        let name = || "live/cam1".to_string();
        assert_eq!(of(&format!("/play/live/cam1@{sid}/live.m3u8")), (name(), What::Playlist));
        assert_eq!(of(&format!("/hls/live/cam1@{sid}/init-3.m4s")), (name(), What::Map(3)));
        assert_eq!(of(&format!("/llhls/live/cam1@{sid}/seg-12.m4s")), (name(), What::Segment(12)));
        assert_eq!(of(&format!("/play/live%2fcam1@{sid}/part-12-0.m4s")), (name(), What::Part(12, 0)));
        for path in [
            "/play/live/cam1.mp4",
            "/hls/api/list",
            "/play/live/cam1@0123/live.m3u7",
            "/play/live/cam1@0123456789ABCDEF0123456789abcdef/seg-1.m4s",
            "/play/live/cam1@0123456789abcdef0123456789abcdef/seg-+1.m4s",
            "/play/live/cam1@0123456789abcdef0123456789abcdef/part-1.m4s",
        ] {
            assert!(claims(path).is_none(), "{path}");
        }
        for path in ["/play/..%2fx.m3u8", "/play/a%252fb.m3u8", "/play/.m3u8", "/play/a@b.m3u8", "/play/a@0/live.m3u8"]
        {
            assert!(claims(path).unwrap().is_err(), "{path}");
        }
    }

    #[test]
    fn directives_are_decimal_numbers_or_a_fault() {
        let read = |query| Directives::parse(query).ok();
        let of = |number, part| Some(Directives { wait_for: Some((number, part)), skip: false });
        assert_eq!(read("_HLS_msn=12"), of(12, None));
        assert_eq!(read("token=x&_HLS_msn=12&_HLS_part=3"), of(12, Some(3)));
        assert_eq!(read("_HLS_skip=YES"), Some(Directives { wait_for: None, skip: true }));
        assert_eq!(read(""), Some(Directives::default()));
        for query in [
            "_HLS_part=1",
            "_HLS_msn=",
            "_HLS_msn=-1",
            "_HLS_msn=1.5",
            "_HLS_msn=99999999999999999999999",
            "_HLS_msn=0x10",
            "_HLS_msn=1&_HLS_part=x",
        ] {
            assert_eq!(read(query), None, "{query}");
        }
    }
}
