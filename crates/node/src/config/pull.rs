//! `pull` and `push`: streams that this node fetches from elsewhere, and those that it sends.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;

use culvert_media::StreamName;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::glob::Glob;
use super::urls::{OnDemand, PullTemplate, PullUrl, PushUrl};
use super::values::{FromText, Period, leaf_by_text, shown};

/// The section `pull`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Pull {
    /// Streams that are fetched all the time, by name.
    #[serde(with = "streams")]
    pub always: BTreeMap<StreamName, PullUrl>,
    /// Streams that are fetched while somebody watches, by name or pattern; the closest pattern wins.
    pub on_demand: OnDemandTable,
    /// How long a pull on demand goes on without a viewer.
    pub grace: Period<0, 3_600_000>,
    /// How long viewers of a source that is lost are kept while it is looked for.
    pub hold: Period<0, 3_600_000>,
    /// How long viewers wait for a pull on demand to bring its first picture.
    pub start_timeout: Period<100, 300_000>,
}

impl Default for Pull {
    fn default() -> Pull {
        Pull {
            always: BTreeMap::new(),
            on_demand: OnDemandTable::default(),
            grace: Period::from_millis(10_000),
            hold: Period::from_millis(30_000),
            start_timeout: Period::from_millis(10_000),
        }
    }
}

/// `pull.on_demand`, the closest patterns first.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct OnDemandTable(Vec<OnDemand>);

impl OnDemandTable {
    /// Where this stream could be fetched from: by the pattern with the most literal characters that matches.
    pub fn url_for(&self, stream: &StreamName) -> Option<PullUrl> {
        self.0.iter().find_map(|row| row.url_for(stream))
    }

    /// The rows, the closest patterns first.
    pub fn rows(&self) -> &[OnDemand] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for OnDemandTable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<OnDemandTable, D::Error> {
        let rows = BTreeMap::<Glob, PullTemplate>::deserialize(from)?;
        let mut rows: Vec<OnDemand> = rows.into_iter().map(|(streams, from)| OnDemand { streams, from }).collect();
        for row in &rows {
            let (needs, has) = (row.from.highest(), row.streams.wildcards());
            if needs > has {
                let why =
                    format!("the URL for {} has ${needs}, but the pattern has only {has} of * and **", row.streams);
                return Err(de::Error::custom(why));
            }
        }
        rows.sort_by_key(|row| (std::cmp::Reverse(row.streams.literal_bytes()), row.streams.wildcards()));
        Ok(OnDemandTable(rows))
    }
}

impl Serialize for OnDemandTable {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|row| (&row.streams, &row.from)))
    }
}

/// The section `push`.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Push {
    /// How often a failed push is tried again: `forever`, `never` or a number of times.
    pub retry: Retry,
    /// Streams that are sent while they are published, by name.
    #[serde(with = "streams")]
    pub list: BTreeMap<StreamName, PushTarget>,
}

/// One of `push.list`: just a URL, or a section with `url` and `on_demand`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushTarget {
    /// Where it is sent.
    pub url: PushUrl,
    /// Whether only while somebody watches there. Default: always.
    pub on_demand: bool,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a section of keys and values")]
struct TargetKeys {
    url: PushUrl,
    #[serde(default)]
    on_demand: bool,
}

impl<'de> Deserialize<'de> for PushTarget {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<PushTarget, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = PushTarget;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL, or a section with url and on_demand")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PushTarget, E> {
                PushUrl::from_text(text).map(|url| PushTarget { url, on_demand: false }).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, keys: A) -> Result<PushTarget, A::Error> {
                let TargetKeys { url, on_demand } = TargetKeys::deserialize(MapAccessDeserializer::new(keys))?;
                if on_demand && !matches!(url.url().scheme(), "ws" | "wss") {
                    let why = "on_demand is possible with ws:// and wss:// only: no other target can say whether somebody \
                               watches";
                    return Err(de::Error::custom(why));
                }
                Ok(PushTarget { url, on_demand })
            }
        }
        from.deserialize_any(Either)
    }
}

impl Serialize for PushTarget {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.on_demand {
            false => self.url.serialize(to),
            true => TargetKeys { url: self.url.clone(), on_demand: true }.serialize(to),
        }
    }
}

/// How often something that failed is tried again.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Retry {
    /// For as long as the node runs.
    #[default]
    Forever,
    /// Once it has failed, it has failed.
    Never,
    /// So many times without success in between.
    Times(u32),
}

impl Retry {
    /// From `forever`, `never` or a number; the fault is a sentence.
    pub fn parse(text: &str) -> Result<Retry, String> {
        match text {
            "forever" => Ok(Retry::Forever),
            "never" => Ok(Retry::Never),
            digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map(Retry::Times).map_err(|_| format!("{} is too many; write forever", shown(text)))
            }
            _ => Err(format!("{} is no number of attempts; write forever, never or a number", shown(text))),
        }
    }
}

impl FromText for Retry {
    fn from_text(text: &str) -> Result<Retry, String> {
        Retry::parse(text)
    }
}
leaf_by_text!(Retry);

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Retry::Forever => f.write_str("forever"),
            Retry::Never => f.write_str("never"),
            Retry::Times(times) => write!(f, "{times}"),
        }
    }
}

impl Serialize for Retry {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Maps by stream name; the name is checked at its own place in the file.
mod streams {
    use super::*;

    #[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
    struct Key(StreamName);

    impl FromText for Key {
        fn from_text(text: &str) -> Result<Key, String> {
            StreamName::parse(text).map(Key).map_err(|why| format!("{}: {why}", shown(text)))
        }
    }
    leaf_by_text!(Key);

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        from: D,
    ) -> Result<BTreeMap<StreamName, T>, D::Error> {
        let rows = BTreeMap::<Key, T>::deserialize(from)?;
        Ok(rows.into_iter().map(|(name, value)| (name.0, value)).collect())
    }

    pub(super) fn serialize<S: Serializer, T: Serialize>(
        rows: &BTreeMap<StreamName, T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(rows.iter().map(|(name, value)| (name.as_str(), value)))
    }
}
