//! The nodes below: who may link under which ids.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use culvert_media::{Cid, StreamName};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::OldPeers;
use crate::config::values::{FromText, leaf_by_text, shown};
use crate::config::{Config, TokenHash};

/// The section `cascade.lowers`.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Lowers {
    /// Who may link, and publish streams under his id. Default: nobody, or this machine where there is no `auth` section.
    #[serde(deserialize_with = "bounded")]
    pub admit: Vec<Admit>,
    /// Which m7s peers, who have no credential to show, may link and push. Default: none. They never get an id for which
    /// `admit` has a row.
    pub old_peers: OldPeers,
}

/// One of `cascade.lowers.admit`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Admit {
    /// Under which ids.
    pub cid: CidPattern,
    /// The SHA-256 of the token, 64 hex digits. None: with a client certificate of `tls.client_ca` for the id.
    #[serde(default)]
    pub token_sha256: Option<TokenHash>,
}

/// Most rows: each presented token is compared with all of them.
const MAX_ROWS: usize = 10_000;

fn bounded<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Admit>, D::Error> {
    let rows = Option::<Vec<Admit>>::deserialize(from)?.unwrap_or_default();
    if rows.len() > MAX_ROWS {
        return Err(serde::de::Error::custom(format!("cascade.lowers.admit has more than {MAX_ROWS} rows")));
    }
    Ok(rows)
}

/// A pattern for platform ids, in which each `*` stands for any characters, or none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CidPattern(Arc<str>);

impl CidPattern {
    /// Checks it; the fault is a sentence.
    pub fn parse(text: &str) -> Result<CidPattern, String> {
        let literal = text.replace('*', "");
        match Cid::parse(&literal) {
            // A pattern of stars alone, or `.*`, which is `.` without them.
            _ if text.contains('*') && matches!(&*literal, "" | "." | "..") && text.len() <= Cid::MAX_BYTES => {}
            Ok(_) if text.len() <= Cid::MAX_BYTES => {}
            Ok(_) => return Err(format!("{}: a pattern for platform ids has at most 64 characters", shown(text))),
            Err(why) => return Err(format!("{} is no pattern for platform ids: {why}", shown(text))),
        }
        Ok(CidPattern(text.into()))
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for this id.
    pub fn matches(&self, cid: &Cid) -> bool {
        // What is between the stars is found from the left, each as early as it can be; the last has to be the end.
        let mut rest = cid.as_str();
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(last) = parts.next_back() else { return rest == first };
        let Some(behind) = rest.strip_prefix(first) else { return false };
        rest = behind;
        for part in parts {
            let Some((_, behind)) = rest.split_once(part) else { return false };
            rest = behind;
        }
        rest.ends_with(last)
    }

    /// Whether a stream of this name can have come from a platform of such an id: it ends in `-` and that id.
    pub fn ends(&self, stream: &StreamName) -> bool {
        // An id has no slash in it.
        let last = stream.as_str().rsplit('/').next().unwrap_or_default();
        last.match_indices('-').any(|(at, _)| {
            let cid = last.get(at.saturating_add(1)..).and_then(|tail| Cid::parse(tail).ok());
            cid.is_some_and(|cid| self.matches(&cid) && stream.without_cid(&cid).is_some())
        })
    }
}

impl FromText for CidPattern {
    fn from_text(text: &str) -> Result<CidPattern, String> {
        CidPattern::parse(text)
    }
}
leaf_by_text!(CidPattern);

impl Serialize for CidPattern {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl fmt::Display for CidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The first row that goes against another section: its number and what is wrong.
pub(in crate::config) fn contradiction(config: &Config) -> Option<(usize, String)> {
    let by_certificate = config.tls.as_ref().is_some_and(|tls| tls.client_ca().is_some());
    let users = config.auth.iter().flat_map(|auth| &auth.users);
    let owners: BTreeMap<[u8; 32], &str> = users.map(|user| (user.token_sha256.0, user.name.as_str())).collect();
    config.cascade.lowers.admit.iter().enumerate().find_map(|(at, row)| {
        let sentence = match row.token_sha256 {
            None if by_certificate => return None,
            None => "this row needs a token_sha256, since there is no tls.client_ca whose certificates could be shown instead".into(),
            Some(token) => {
                let user = owners.get(&token.0)?;
                format!("this token is that of {user:?} in auth.users; make another for linking")
            }
        };
        Some((at, sentence))
    })
}

impl Places {
    /// Line and column of a row of `cascade.lowers.admit`, from 1.
    pub(in crate::config) fn of_row(&self, row: usize) -> Option<(u64, u64)> {
        let at = self.cascade.lowers.admit.get(row)?.referenced;
        (at.line() > 0).then(|| (at.line(), at.column()))
    }
}

/// So much of a configuration as it takes to find the place of a row.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(in crate::config) struct Places {
    cascade: PlacesCascade,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PlacesCascade {
    lowers: PlacesLowers,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PlacesLowers {
    admit: Vec<serde_saphyr::Spanned<IgnoredAny>>,
}
