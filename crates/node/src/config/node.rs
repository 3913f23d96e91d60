//! `node`: who this node is and where it keeps what it must remember.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use culvert_media::Cid;
use serde::{Deserialize, Serialize, Serializer};

use super::values::{FromText, leaf_by_text, optional_leaf, optional_shown, shown};

/// The section `node`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Node {
    /// The platform id by which other nodes know this one. Default: a UUID, made once and kept in `data_dir`.
    #[serde(deserialize_with = "optional_leaf", serialize_with = "optional_shown")]
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

impl FromText for Cid {
    fn from_text(text: &str) -> Result<Cid, String> {
        Cid::parse(text).map_err(|why| format!("{}: {why}", shown(text)))
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
leaf_by_text!(Label);

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
