//! Decoders between two pictures of a stream: what they have allocated is used again, which is a tenth of a picture's time.
//!
//! Each stays with its stream, so that nothing of one stream's pictures can come to show in another's.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use culvert_media::StreamName;
use tokio::time::Instant;

/// How long one is kept that is not used: it holds some 12 MB after a picture of 1080 rows.
pub(crate) const REST: Duration = Duration::from_secs(10);

/// Of each codec those that rest.
pub(crate) struct Decoders {
    pub(crate) h264: Kept<rusty_h264::Decoder>,
    pub(crate) h265: Kept<rusty_h265::Decoder>,
}

impl Decoders {
    /// So many of each rest at most; then the one that has rested the longest goes.
    pub(crate) fn new(most: usize) -> Decoders {
        Decoders { h264: Kept::new(most), h265: Kept::new(most) }
    }

    /// Lets go of those that have rested for [`REST`].
    pub(crate) fn forget(&self) {
        self.h264.forget();
        self.h265.forget();
    }
}

/// Those of one codec.
pub(crate) struct Kept<D> {
    resting: Mutex<Vec<Resting<D>>>,
    most: usize,
}

struct Resting<D> {
    stream: StreamName,
    since: Instant,
    decoder: D,
}

impl<D: Default> Kept<D> {
    fn new(most: usize) -> Kept<D> {
        Kept { resting: Mutex::new(Vec::new()), most }
    }

    fn resting(&self) -> MutexGuard<'_, Vec<Resting<D>>> {
        self.resting.lock().expect("no code panics while it holds the decoders")
    }

    /// The one that this stream has had, or a new one.
    pub(crate) fn take(&self, stream: &StreamName) -> D {
        let mut resting = self.resting();
        let own = resting.iter().position(|resting| resting.stream == *stream);
        own.map_or_else(D::default, |at| resting.swap_remove(at).decoder)
    }

    /// Keeps one that has done its work.
    pub(crate) fn keep(&self, stream: &StreamName, decoder: D) {
        let mut resting = self.resting();
        resting.push(Resting { stream: stream.clone(), since: Instant::now(), decoder });
        while resting.len() > self.most {
            let oldest = resting.iter().enumerate().min_by_key(|(_, resting)| resting.since).map(|(at, _)| at);
            resting.swap_remove(oldest.unwrap_or(0));
        }
    }

    fn forget(&self) {
        self.resting().retain(|resting| resting.since.elapsed() < REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_decoder_stays_with_its_stream_and_not_for_ever() {
        let (decoders, name) = (Kept::<()>::new(2), |name: &str| StreamName::parse(name).unwrap());
        let there = || decoders.resting().iter().map(|one| one.stream.to_string()).collect::<Vec<_>>();
        for stream in ["live/a", "live/b", "live/c"] {
            decoders.keep(&name(stream), ());
            tokio::time::advance(REST / 2).await;
        }
        assert_eq!(there().len(), 2, "the longest at rest went: {:?}", there());
        decoders.take(&name("live/d"));
        assert_eq!(there().len(), 2);
        decoders.take(&name("live/c"));
        assert_eq!(there(), ["live/b"]);
        decoders.forget();
        assert!(there().is_empty());
    }
}
