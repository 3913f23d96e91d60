//! What a platform has: itself, its streams with tracks and state, its cameras that are down and why, and the platforms
//! below it. A lower sends a snapshot and then changes, a JSON object a line (`Line`); its upper keeps a
//! [`Catalogue`] of it.
//!
//! Names in it are those of the platform that sends it.

mod read;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_hub::StreamInfo;
use culvert_media::{Detail, StreamName, Track};
use serde::{Deserialize, Serialize};

pub(crate) use self::read::read;
pub use self::write::{Below, Cameras, write};

/// Where a lower serves it.
pub const PATH: &str = "/cascade/v1/catalogue";
/// Most streams of one platform that are kept (security.md S31); what is more is counted, not kept.
pub const MOST_STREAMS: usize = 10_000;
/// Most platforms below one.
pub const MOST_PEERS: usize = 10_000;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "item", rename_all = "snake_case")]
pub enum Line {
    /// A snapshot begins: what was known before is no more, once it is whole.
    Snapshot {
        /// Grows with every line that changes something.
        version: u64,
        /// Who sends it.
        platform: Platform,
    },
    /// The snapshot is whole.
    Whole {
        /// As of this version.
        version: u64,
    },
    /// A stream is there, or has changed.
    Stream {
        /// Of this line.
        version: u64,
        /// Its name there.
        name: String,
        /// What is known of it.
        stream: StreamItem,
    },
    /// A stream is not there any more.
    StreamGone {
        /// Of this line.
        version: u64,
        /// Its name there.
        name: String,
    },
    /// A platform below, at this path of ids.
    Peer {
        /// Of this line.
        version: u64,
        /// `CID` or `CID/CID`.
        path: String,
        /// What is known of it.
        peer: PeerItem,
    },
    /// A platform below was forgotten there.
    PeerGone {
        /// Of this line.
        version: u64,
        /// `CID` or `CID/CID`.
        path: String,
    },
}

/// A platform as it shows itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// For people.
    pub name: String,
    /// Whatever its owner wrote there.
    #[serde(default)]
    pub serial: Option<String>,
    /// Of its program.
    pub version: String,
    /// When its program was started, in milliseconds since 1970.
    pub started_ms: u64,
}

/// A stream of a platform.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamItem {
    /// `live`, `starting`, `available` (starts with its first viewer), `down` (a camera that should be there and is
    /// not), `unknown` (it is behind a link that is broken).
    pub state: String,
    /// Where it comes from there: a protocol, `pull`, `relay`, or `peer` for what is one level below.
    #[serde(default)]
    pub origin: String,
    /// The platforms that it comes through, as `CID` or `CID/CID`; empty for a stream of the platform itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What it is made of.
    #[serde(default)]
    pub tracks: Vec<TrackItem>,
    /// How many watch there.
    #[serde(default)]
    pub viewers: usize,
    /// Coded media over the last seconds.
    #[serde(default)]
    pub bits_per_second: u64,
    /// Pictures a second.
    #[serde(default)]
    pub fps: f64,
    /// Between key frames.
    #[serde(default)]
    pub key_interval_ms: Option<u64>,
    /// Since when it is so, in milliseconds since 1970.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Why it is down, as a sentence.
    #[serde(default)]
    pub error: Option<String>,
    /// Since when nothing is known of it, in milliseconds since 1970.
    #[serde(default)]
    pub unknown_since: Option<u64>,
}

impl StreamItem {
    /// Whether this differs from what was told before by more than figures, which are told now and then.
    pub(crate) fn is_news_after(&self, before: &StreamItem) -> bool {
        type Said<'a> = (&'a str, &'a str, &'a str, &'a [TrackItem], usize, Option<u64>, Option<&'a str>, Option<u64>);
        fn said(item: &StreamItem) -> Said<'_> {
            let StreamItem { state, origin, path, tracks, viewers, since_ms, error, unknown_since, .. } = item;
            (state, origin, path, tracks, *viewers, *since_ms, error.as_deref(), *unknown_since)
        }
        said(self) != said(before)
    }
}

/// A track, as far as people want to know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrackItem {
    /// Its codec's name.
    pub codec: String,
    /// Picture size, of video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Picture size, of video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Of sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rate_hz: Option<u32>,
    /// Of sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
}

/// A platform below the one that sends this.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerItem {
    /// For people.
    pub name: String,
    /// Whatever its owner wrote there.
    #[serde(default)]
    pub serial: Option<String>,
    /// Whether it can be asked.
    pub linked: bool,
    /// Since when nothing is known of it, in milliseconds since 1970.
    #[serde(default)]
    pub unknown_since: Option<u64>,
    /// What its link is.
    #[serde(default)]
    pub carrier: String,
    /// Round trip of its link.
    #[serde(default)]
    pub rtt_ms: Option<f64>,
    /// How many streams it has.
    #[serde(default)]
    pub streams: usize,
}

impl PeerItem {
    /// As [`StreamItem::is_news_after`].
    pub(crate) fn is_news_after(&self, before: &PeerItem) -> bool {
        type Said<'a> = (&'a str, Option<&'a str>, bool, Option<u64>, &'a str, usize);
        fn said(item: &PeerItem) -> Said<'_> {
            let PeerItem { name, serial, linked, unknown_since, carrier, streams, rtt_ms: _ } = item;
            (name, serial.as_deref(), *linked, *unknown_since, carrier, *streams)
        }
        said(self) != said(before)
    }
}

/// What is known of a platform. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(Arc<Known>);

#[derive(Clone, Debug, Default)]
struct Known {
    platform: Platform,
    version: u64,
    streams: BTreeMap<String, StreamItem>,
    peers: BTreeMap<String, PeerItem>,
    /// Lines that were not kept because there were too many.
    left_out: u64,
}

impl Catalogue {
    /// Who it is of.
    pub fn platform(&self) -> &Platform {
        &self.0.platform
    }

    /// Its streams by their names there.
    pub fn streams(&self) -> &BTreeMap<String, StreamItem> {
        &self.0.streams
    }

    /// The platforms below it by their paths.
    pub fn peers(&self) -> &BTreeMap<String, PeerItem> {
        &self.0.peers
    }

    /// The version it is at; 0 before the first snapshot.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// How many streams and platforms are not kept because there are too many.
    pub fn left_out(&self) -> u64 {
        self.0.left_out
    }

    /// The same as it is shown once its link is lost: nothing in it is known any more.
    pub fn unknown_since(&self, since: SystemTime) -> Catalogue {
        let since = millis(since);
        let mut known = Known::clone(&self.0);
        for stream in known.streams.values_mut() {
            stream.state = "unknown".into();
            stream.unknown_since.get_or_insert(since);
            (stream.viewers, stream.bits_per_second, stream.fps) = (0, 0, 0.0);
        }
        for peer in known.peers.values_mut() {
            peer.linked = false;
            peer.unknown_since.get_or_insert(since);
            peer.rtt_ms = None;
        }
        Catalogue(Arc::new(known))
    }
}

/// Milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The other way.
pub fn from_millis(millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

impl From<&Track> for TrackItem {
    fn from(track: &Track) -> TrackItem {
        let item = TrackItem { codec: track.codec.name().to_string(), ..TrackItem::default() };
        match track.detail {
            Detail::Video(video) => TrackItem { width: Some(video.width), height: Some(video.height), ..item },
            Detail::Audio(audio) => {
                TrackItem { sample_rate_hz: Some(audio.sample_rate_hz), channels: Some(audio.channels), ..item }
            }
        }
    }
}

impl From<&StreamInfo> for StreamItem {
    fn from(info: &StreamInfo) -> StreamItem {
        StreamItem {
            state: info.state.to_string(),
            origin: info.publisher.protocol.to_string(),
            path: String::new(),
            tracks: info.tracks.iter().map(TrackItem::from).collect(),
            viewers: info.viewers,
            bits_per_second: info.bits_per_second,
            fps: (info.fps * 10.0).round() / 10.0,
            key_interval_ms: info.key_interval.map(|d| d.as_millis() as u64),
            since_ms: Some(millis(info.since)),
            error: None,
            unknown_since: None,
        }
    }
}

/// A stream's name from the wire, where it is one.
fn stream_name(name: &str) -> Option<StreamName> {
    StreamName::parse(name).ok()
}
