//! `cascade`: the nodes above, which this one dials, and the nodes below, which dial this one.
//!
//! Only what is wanted: links are made elsewhere, and no file that is named here is opened here.

mod allow;
mod lowers;
mod old_peers;
mod target;
mod upper;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::allow::{Allow, AllowRule};
pub use self::lowers::{Admit, CidPattern, Lowers};
pub(super) use self::lowers::{Places, contradiction};
pub use self::old_peers::{Network, OldPeer, OldPeers};
pub use self::target::{TargetName, TargetUrl};
pub use self::upper::{Pin, ProxyUrl, Secret, Upper, UpperUrl, Uppers};
use super::values::{Period, or_default};

/// The section `cascade`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Cascade {
    /// The nodes above. Default: none.
    #[serde(deserialize_with = "or_default")]
    pub uppers: Uppers,
    /// Who may link from below.
    #[serde(deserialize_with = "or_default")]
    pub lowers: Lowers,
    /// What an upper may call here. Default: [`Allow::default`], which is reading and playing.
    pub allow: Allow,
    /// Other web servers that an upper may reach through this node, by name. `allow` has to name them, too.
    #[serde(deserialize_with = "or_default")]
    pub targets: BTreeMap<TargetName, TargetUrl>,
    /// Streams from below.
    #[serde(deserialize_with = "or_default")]
    pub on_demand: RelayTimes,
    /// How long a platform below may take to begin its answer to a request.
    pub request_timeout: Period<100, 3_600_000>,
}

impl Default for Cascade {
    fn default() -> Cascade {
        Cascade {
            uppers: Uppers::default(),
            lowers: Lowers::default(),
            allow: Allow::default(),
            targets: BTreeMap::new(),
            on_demand: RelayTimes::default(),
            request_timeout: Period::from_millis(10_000),
        }
    }
}

/// `cascade.on_demand`: how long streams from below are waited for and kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct RelayTimes {
    /// How long a stream from below goes on without a viewer.
    pub grace: Period<0, 3_600_000>,
    /// How long viewers wait for a stream from below to bring its first picture.
    pub start_timeout: Period<100, 300_000>,
    /// How long viewers are kept while the link that their stream came by is broken.
    pub hold: Period<0, 3_600_000>,
}

impl Default for RelayTimes {
    fn default() -> RelayTimes {
        RelayTimes {
            grace: Period::from_millis(10_000),
            start_timeout: Period::from_millis(10_000),
            hold: Period::from_millis(30_000),
        }
    }
}

#[cfg(test)]
mod tests;
