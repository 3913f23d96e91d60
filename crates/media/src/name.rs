//! The name of a stream, checked once where it enters.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// `segment(/segment)*` of `[A-Za-z0-9._~-]`, no segment `.` or `..`, at most 255 bytes (DESIGN 1, security.md S23).
///
/// Two names are the same stream only when they are the same bytes; there is no second spelling of a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);

/// Why a text is no stream name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Nothing, or an empty segment (`a//b`, `/a`, `a/`).
    #[error("a stream name is segments joined by single slashes, as in live/cam1; this one has an empty segment")]
    Empty,
    /// More than 255 bytes.
    #[error("a stream name has at most 255 bytes; this one has {0}")]
    Long(usize),
    /// A `.` or `..` segment.
    #[error("a stream name must not have a segment . or ..")]
    Dots,
    /// A character outside the grammar.
    #[error("a stream name is made of A-Z a-z 0-9 . _ ~ - and /; this one has {0:?}")]
    Character(char),
}

impl StreamName {
    /// Most bytes in a name.
    pub const MAX_BYTES: usize = 255;

    /// Checks the grammar.
    pub fn parse(text: &str) -> Result<StreamName, NameError> {
        if text.len() > Self::MAX_BYTES {
            return Err(NameError::Long(text.len()));
        }
        if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "._~-/".contains(*c))) {
            return Err(NameError::Character(bad));
        }
        for segment in text.split('/') {
            match segment {
                "" => return Err(NameError::Empty),
                "." | ".." => return Err(NameError::Dots),
                _ => {}
            }
        }
        Ok(StreamName(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for StreamName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<StreamName, NameError> {
        StreamName::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for name in ["live/cam1", "a", "live/cam1-c1-c2", "a/b/c.d_e~f", "...", &"x".repeat(255)] {
            assert_eq!(StreamName::parse(name).map(|n| n.to_string()), Ok(name.to_string()));
        }
    }

    #[test]
    fn names_that_could_mean_two_things_are_refused() {
        use NameError::*;
        for (name, why) in [
            ("", Empty),
            ("/a", Empty),
            ("a/", Empty),
            ("a//b", Empty),
            ("a/../b", Dots),
            (".", Dots),
            ("a/./b", Dots),
            ("a\0b", Character('\0')),
            ("a%2fb", Character('%')),
            ("a\\b", Character('\\')),
            ("über", Character('ü')),
            ("a b", Character(' ')),
        ] {
            assert_eq!(StreamName::parse(name), Err(why), "{name:?}");
        }
        assert_eq!(StreamName::parse(&"x".repeat(256)), Err(Long(256)));
    }
}
