//! The id of a platform, and how it ends the names of the streams that came from there.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::{NameError, StreamName};

/// A platform id: 1 to 64 of `[A-Za-z0-9._~-]`, so that it can end a stream name and stand in a path; not `.` or `..`.
///
/// Two ids are the same platform only when they are the same bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid(Arc<str>);

/// Why a text is no platform id.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CidError {
    /// Nothing, or more than 64 bytes.
    #[error("a platform id has 1 to 64 characters; this one has {0}")]
    Length(usize),
    /// `.` or `..`.
    #[error("a platform id must not be . or .., which would be a step in a path")]
    Dots,
    /// A character outside the grammar.
    #[error("a platform id is made of A-Z a-z 0-9 . _ ~ -; this one has {0:?}")]
    Character(char),
}

impl Cid {
    /// Most bytes: a stream name has at most 255 and carries one cid per level.
    pub const MAX_BYTES: usize = 64;

    /// Checks the grammar.
    pub fn parse(text: &str) -> Result<Cid, CidError> {
        if text.is_empty() || text.len() > Self::MAX_BYTES {
            return Err(CidError::Length(text.len()));
        }
        if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "._~-".contains(*c))) {
            return Err(CidError::Character(bad));
        }
        if matches!(text, "." | "..") {
            return Err(CidError::Dots);
        }
        Ok(Cid(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl StreamName {
    /// What this stream of the platform `cid` is called one level up: `name-cid` (DESIGN section 2). It can be too long.
    pub fn with_cid(&self, cid: &Cid) -> Result<StreamName, NameError> {
        StreamName::parse(&format!("{self}-{cid}"))
    }

    /// What this stream is called at the platform `cid`: the name without the `-cid` at its end. None where it does not
    /// end so, or where nothing that is a name would be left.
    pub fn without_cid(&self, cid: &Cid) -> Option<StreamName> {
        let left = self.as_str().strip_suffix(cid.as_str())?.strip_suffix('-')?;
        StreamName::parse(left).ok()
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Cid {
    type Err = CidError;
    fn from_str(text: &str) -> Result<Cid, CidError> {
        Cid::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> StreamName {
        StreamName::parse(text).unwrap()
    }

    fn cid(text: &str) -> Cid {
        Cid::parse(text).unwrap()
    }

    #[test]
    fn ids_can_end_a_name_and_stand_in_a_path() {
        for good in ["c1", "test-c001", "a", "...", "_~.-", &"x".repeat(64)] {
            assert_eq!(Cid::parse(good).map(|cid| cid.to_string()), Ok(good.to_string()));
        }
        for (bad, why) in [
            ("", CidError::Length(0)),
            (&"x".repeat(65), CidError::Length(65)),
            (".", CidError::Dots),
            ("..", CidError::Dots),
            ("a/b", CidError::Character('/')),
            ("a b", CidError::Character(' ')),
            ("a%2f", CidError::Character('%')),
            ("a\r\n", CidError::Character('\r')),
            ("é", CidError::Character('é')),
        ] {
            assert_eq!(Cid::parse(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn a_stream_gets_the_id_of_its_platform_at_its_end_and_loses_it_again() {
        let up = name("live/cam1").with_cid(&cid("c1")).unwrap().with_cid(&cid("edge-7")).unwrap();
        assert_eq!(up.as_str(), "live/cam1-c1-edge-7");
        assert_eq!(up.without_cid(&cid("edge-7")), Some(name("live/cam1-c1")));
        assert_eq!(up.without_cid(&cid("7")), Some(name("live/cam1-c1-edge")));
        assert_eq!(name(&"x".repeat(254)).with_cid(&cid("c")), Err(NameError::Long(256)));
    }

    #[test]
    fn a_name_that_does_not_end_in_the_id_or_would_be_nothing_without_it_is_of_no_such_platform() {
        for (full, id) in [
            ("live/cam1", "c1"),
            ("live/camc1", "c1"),
            ("live/cam-C1", "c1"),
            ("c1", "c1"),
            ("-c1", "c1"),
            ("live/-c1", "c1"),
            ("live/.-c1", "c1"),
            ("live/..-c1", "c1"),
            ("live/a-c1/b", "c1"),
        ] {
            assert_eq!(name(full).without_cid(&cid(id)), None, "{full} {id}");
        }
    }
}
