//! What may stand where a proxied path stands: checked at both ends, so that neither trusts the other (security.md S4).

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// Longest path with its query.
const MAX_BYTES: usize = 8 << 10;

/// Why a path does not go further.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PathError {
    /// Too long.
    #[error("the path is longer than {MAX_BYTES} bytes")]
    Long,
    /// An absolute URL, `*`, nothing: not a path.
    #[error("what is asked of a platform must be a path that begins with one slash")]
    NoPath,
    /// An empty segment in the middle.
    #[error("the path has // in it, which some take for a host")]
    Slashes,
    /// `.` or `..`, also percent-encoded.
    #[error("the path has a segment . or ..")]
    Dots,
    /// A backslash, a control character, a `#`, or what is no UTF-8, also percent-encoded.
    #[error("the path has a character that has no place there: {0}")]
    Character(&'static str),
    /// `@` in the first segment, where it could pass for a user before a host.
    #[error("the path has an @ where a host could be read into it")]
    At,
}

/// Checks a path with its query, as it came. Returns the path, decoded once; a second decode anywhere would let a path
/// mean two things.
pub fn check(path_and_query: &str) -> Result<String, PathError> {
    if path_and_query.len() > MAX_BYTES {
        return Err(PathError::Long);
    }
    if path_and_query.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(PathError::Character("a space or a control character"));
    }
    if path_and_query.contains('#') {
        return Err(PathError::Character("#"));
    }
    let path = path_and_query.split_once('?').map_or(path_and_query, |(path, _)| path);
    if !path.starts_with('/') {
        return Err(PathError::NoPath);
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| PathError::Character("no UTF-8"))?;
    if decoded.contains('\\') {
        return Err(PathError::Character("a backslash"));
    }
    if decoded.chars().any(char::is_control) {
        return Err(PathError::Character("a control character"));
    }
    if decoded.contains("//") {
        return Err(PathError::Slashes);
    }
    let mut segments = decoded.split('/').skip(1);
    if decoded.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(PathError::Dots);
    }
    if segments.next().is_some_and(|first| first.contains('@')) {
        return Err(PathError::At);
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_paths_pass_and_are_decoded_once() {
        for (path, decoded) in [
            ("/", "/"),
            ("/api/v1/streams?after=a//b@c", "/api/v1/streams"),
            ("/play/live/cam1.flv", "/play/live/cam1.flv"),
            ("/a%20b/%25c", "/a b/%c"),
            ("/a/b@c", "/a/b@c"),
            ("/peer/c1/x/", "/peer/c1/x/"),
        ] {
            assert_eq!(check(path).as_deref(), Ok(decoded), "{path}");
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        use PathError::{At, Character, Dots, Long, NoPath, Slashes};
        for (path, why) in [
            ("", NoPath),
            ("*", NoPath),
            ("http://evil/", NoPath),
            ("//evil/", Slashes),
            ("/%2fevil/", Slashes),
            ("/a//b", Slashes),
            ("/a/../b", Dots),
            ("/a/%2e%2e/b", Dots),
            ("/.", Dots),
            ("/a\\b", Character("a backslash")),
            ("/a%5cb", Character("a backslash")),
            ("/a%0d%0aX: y", Character("a space or a control character")),
            ("/a%0d%0aX:y", Character("a control character")),
            ("/a%00", Character("a control character")),
            ("/a\r\nX:y", Character("a space or a control character")),
            ("/a#b", Character("#")),
            ("/a%ff", Character("no UTF-8")),
            ("/@evil/", At),
            ("/u:p%40evil/", At),
        ] {
            assert_eq!(check(path), Err(why), "{path:?}");
        }
        assert_eq!(check(&format!("/{}", "a".repeat(9000))), Err(Long));
    }

    proptest::proptest! {
        #[test]
        fn what_passes_has_one_meaning(path in "[/a.%2eEfF5c0@\\\\#? -~]{0,40}") {
            if let Ok(decoded) = check(&path) {
                proptest::prop_assert!(decoded.starts_with('/') && !decoded.contains("//") && !decoded.contains('\\'));
                proptest::prop_assert!(!decoded.split('/').any(|segment| segment == ".." || segment == "."));
            }
        }
    }
}
