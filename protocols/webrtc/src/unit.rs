//! A frame as WebRTC's viewers get it: cut into payloads once for all of them.

use std::sync::Arc;

use culvert_media::{Kind, Time};
use tokio::time::Instant;

/// Most bytes of a payload: with RTP, its extensions, SRTP, UDP and IPv6 it passes where 1,280 bytes do (RFC 8200 5).
pub(crate) const PAYLOAD_BYTES: usize = 1150;

/// A frame, cut.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// Counted from 1.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    /// A decoder can begin here.
    pub(crate) key: bool,
    /// Nothing is built on it.
    pub(crate) is_disposable: bool,
    /// When it is shown, on the stream's timeline.
    pub(crate) pts: Time,
    /// The same by our clock.
    pub(crate) shown: Instant,
    pub(crate) packets: Vec<Packet>,
    /// Sounds that are one packet in `packets`, each by itself: for those who are not to have that.
    pub(crate) apart: Vec<Packet>,
    /// How long the sounds are of which that packet is made.
    pub(crate) lasts: Time,
    pub(crate) bytes: usize,
}

/// Units that are sent at the same time: they go to each viewer together.
pub(crate) type Batch = Arc<[Arc<Unit>]>;

impl Unit {
    /// One without a packet yet, and without a number.
    pub(crate) fn new(kind: Kind, pts: Time, shown: Instant) -> Unit {
        let (packets, apart, lasts, bytes) = (Vec::new(), Vec::new(), Time::ZERO, 0);
        Unit { number: 0, kind, key: false, is_disposable: false, pts, shown, packets, apart, lasts, bytes }
    }
}

/// A payload.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) payload: Arc<[u8]>,
    pub(crate) marker: bool,
    /// Later than the unit, in ticks of the track's clock.
    pub(crate) ticks: u32,
}
