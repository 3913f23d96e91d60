//! `hls`: how streams are cut for HLS.

use serde::{Deserialize, Serialize};

use super::{Count, Period};

/// The section `hls`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Hls {
    /// A segment is at least this long; it begins at a key frame.
    pub segment: Period<500, 12_000>,
    /// A part, of low-latency HLS, is at most this long where frames are not further apart.
    pub part: Period<50, 2_000>,
    /// Segments in a playlist.
    pub window: Count<3, 60>,
}

impl Default for Hls {
    fn default() -> Hls {
        Hls { segment: Period::from_millis(2_000), part: Period::from_millis(200), window: Count::new(6) }
    }
}
