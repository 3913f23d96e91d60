//! `limits`: how much of everything, and for how long. The type of each key holds its bounds.

use serde::{Deserialize, Serialize};

use super::values::{Count, Period, Size, or_default};

/// The section `limits`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Limits {
    /// Most nodes linked from below at once (security.md S31).
    pub links: Count<0, 1_000_000>,
    /// Most requests that go down one link at once, relays included (S31).
    pub peer_requests: Count<1, 100_000>,
    /// Most bytes in the body of a request that goes down a link; relays and upgraded connections have no such bound.
    pub peer_body: Size<1024, { 1 << 40 }>,
    /// Most viewers at once, of all streams and protocols.
    pub viewers: Count<0, 1_000_000>,
    /// Most publishers at once, pulls included.
    pub publishers: Count<0, 1_000_000>,
    /// Most connections of one address that have not yet finished their handshake (S16).
    pub per_ip_handshakes: Count<1, 100_000>,
    /// How long a connection may take from its first byte to what it wants (S16).
    pub handshake_timeout: Period<100, 600_000>,
    /// How long a publisher or a pull may be silent before it is ended.
    pub stall_timeout: Period<1_000, 3_600_000>,
    /// How long a viewer waits for a stream that nobody publishes and nothing here can start; 0s: not at all.
    pub wait_for_stream: Period<0, 600_000>,
    /// What a stream keeps so that a new viewer has a picture at once.
    #[serde(deserialize_with = "or_default")]
    pub gop_cache: GopCache,
    /// How far a viewer may lag before it skips to a key frame.
    pub max_lag: Period<100, 60_000>,
    /// The longest that a shared viewer's data is gathered before it is sent; 0s: each frame at once.
    pub shared_batch: Period<0, 1_000>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            links: Count::new(20_000),
            peer_requests: Count::new(256),
            peer_body: Size::from_bytes(1 << 30),
            viewers: Count::new(20_000),
            publishers: Count::new(20_000),
            per_ip_handshakes: Count::new(64),
            handshake_timeout: Period::from_millis(10_000),
            stall_timeout: Period::from_millis(15_000),
            wait_for_stream: Period::from_millis(0),
            gop_cache: GopCache::default(),
            max_lag: Period::from_millis(2_000),
            shared_batch: Period::from_millis(20),
        }
    }
}

/// `limits.gop_cache`: the frames since a key frame that a stream keeps, whichever bound is met first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct GopCache {
    /// Most bytes per stream.
    pub bytes: Size<{ 64 << 10 }, { 4 << 30 }>,
    /// Longest time per stream.
    pub span: Period<100, 600_000>,
}

impl Default for GopCache {
    fn default() -> GopCache {
        GopCache { bytes: Size::from_bytes(32 << 20), span: Period::from_millis(20_000) }
    }
}
