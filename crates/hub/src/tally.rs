//! What many viewers were sent alike, counted once for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use culvert_media::Time;

use crate::session::SessionFigures;

/// Something that was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) bytes: u64,
    pub(crate) chunks: u64,
    /// Decoding time of the last of it, where that is known.
    pub(crate) time: Option<Time>,
}

/// What a crew has written to everyone who is level in it, since the crew began. Written by the crew alone.
#[derive(Debug)]
pub(crate) struct Tally {
    bytes: AtomicU64,
    chunks: AtomicU64,
    /// Decoding time of the last, in microseconds; `i64::MIN` before.
    time_micros: AtomicI64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { bytes: AtomicU64::new(0), chunks: AtomicU64::new(0), time_micros: AtomicI64::new(i64::MIN) }
    }
}

impl Tally {
    pub(crate) fn add(&self, sent: &Sent) {
        self.bytes.fetch_add(sent.bytes, Ordering::Relaxed);
        self.chunks.fetch_add(sent.chunks, Ordering::Relaxed);
        if let Some(time) = sent.time {
            self.time_micros.store(time.micros(), Ordering::Relaxed);
        }
    }

    /// From the end of the round under way, of which `round` is all, a viewer has part in what is counted here.
    pub(crate) fn share(self: &Arc<Tally>, viewer: &SessionFigures, round: &Sent) {
        let (bytes, chunks) = (self.bytes.load(Ordering::Relaxed), self.chunks.load(Ordering::Relaxed));
        viewer.share(Share {
            tally: self.clone(),
            from_bytes: bytes + round.bytes,
            from_chunks: chunks + round.chunks,
        });
    }
}

/// A viewer's part in a [`Tally`]: what was counted after it joined.
#[derive(Debug)]
pub(crate) struct Share {
    tally: Arc<Tally>,
    from_bytes: u64,
    from_chunks: u64,
}

impl Share {
    pub(crate) fn sent(&self) -> Sent {
        let micros = self.tally.time_micros.load(Ordering::Relaxed);
        Sent {
            // Less than where it began: the round in which it joined is not counted yet.
            bytes: self.tally.bytes.load(Ordering::Relaxed).saturating_sub(self.from_bytes),
            chunks: self.tally.chunks.load(Ordering::Relaxed).saturating_sub(self.from_chunks),
            time: (micros != i64::MIN).then(|| Time::from_micros(micros)),
        }
    }
}
