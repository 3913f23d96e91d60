//! `node`: who this node is and where it keeps what it must remember.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::values::{FromText, leaf_by_text, shown};

/// The section `node`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Node {
    /// The platform id by which other nodes know this one. Default: a UUID, made once and kept in `data_dir`.
    pub cid: Option<Cid>,
    /// A name for people. Default: the cid.
    pub name: Option<Label>,
    /// A serial number, for whoever keeps a list of devices. Default: none.
    pub serial: Option<Label>,
    /// Where the cid, the admin token and other lasting things are kept; made where there is none.
    #[serde(serialize_with = "lossy")]
    pub data_dir: PathBuf,
}

/// `--data-dir` need not be UTF-8; what is shown is.
fn lossy<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

impl Default for Node {
    fn default() -> Node {
        Node { cid: None, name: None, serial: None, data_dir: "culvert-data".into() }
    }
}

/// A platform id: 1 to 64 of `[A-Za-z0-9._~-]`, so that it can end a stream name and stand in a path; not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid(Arc<str>);

impl Cid {
    /// Most bytes: a stream name has at most 255 and carries one cid per level.
    pub const MAX_BYTES: usize = 64;

    /// Checks the grammar; the fault is a sentence.
    pub fn parse(text: &str) -> Result<Cid, String> {
        let bad = |why: &str| Err(format!("{} is no platform id: {why}", shown(text)));
        if text.is_empty() || text.len() > Self::MAX_BYTES {
            return bad("it has 1 to 64 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b)) {
            return bad("it is made of A-Z a-z 0-9 . _ ~ -");
        }
        if text == "." || text == ".." {
            return bad("it would be a step in a path");
        }
        Ok(Cid(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromText for Cid {
    fn from_text(text: &str) -> Result<Cid, String> {
        Cid::parse(text)
    }
}

/// A text for people: 1 to 128 bytes on one line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Arc<str>);

impl Label {
    /// Most bytes: it is shown in lists.
    pub const MAX_BYTES: usize = 128;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromText for Label {
    fn from_text(text: &str) -> Result<Label, String> {
        if text.trim().is_empty() || text.len() > Self::MAX_BYTES || text.chars().any(char::is_control) {
            return Err(format!("{} should be 1 to {} bytes of text on one line", shown(text), Self::MAX_BYTES));
        }
        Ok(Label(text.into()))
    }
}
leaf_by_text!(Cid, Label);

macro_rules! plain_text {
    ($($name:ident),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )+};
}
plain_text!(Cid, Label);
