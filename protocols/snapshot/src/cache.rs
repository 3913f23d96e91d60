//! Pictures that were made: one of each stream and width, as long as its key frame is the newest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use culvert_media::StreamName;

use crate::Failure;

/// Most bytes of pictures that are kept.
const MOST_BYTES: usize = 64 << 20;
/// Most pictures.
const MOST: usize = 4096;

/// Which frame a picture was made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Of {
    /// The life of the stream.
    pub(crate) epoch: u64,
    /// The number of the frame within it.
    pub(crate) sequence: u64,
}

/// A picture.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) of: Of,
    /// When its frame came to the first node.
    pub(crate) wall: SystemTime,
    /// Or why there is none.
    pub(crate) jpeg: Result<Bytes, Failure>,
}

type Key = (StreamName, Option<u32>);

/// A place for the picture of a stream in one width. Whoever holds its lock makes the picture, and others wait for that.
pub(crate) type Slot = Arc<tokio::sync::Mutex<Option<Made>>>;

#[derive(Default)]
pub(crate) struct Cache {
    slots: Mutex<HashMap<Key, (Slot, u64)>>,
    uses: AtomicU64,
}

impl Cache {
    /// The place of a picture. Those that were not asked for the longest go where there are too many.
    pub(crate) fn slot(&self, stream: &StreamName, width: Option<u32>) -> Slot {
        let now = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut slots = self.slots.lock().expect("no code panics while it holds the pictures");
        let entry = slots.entry((stream.clone(), width)).or_default();
        entry.1 = now;
        let slot = entry.0.clone();
        while slots.len() > MOST || slots.values().map(|(slot, _)| bytes(slot)).sum::<usize>() > MOST_BYTES {
            let oldest = slots.iter().filter(|(_, (_, used))| *used != now).min_by_key(|(_, (_, used))| *used);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { break };
            slots.remove(&key);
        }
        slot
    }
}

/// Of one that is being made: none yet.
fn bytes(slot: &Slot) -> usize {
    slot.try_lock().map_or(0, |made| made.as_ref().and_then(|made| made.jpeg.as_ref().ok()).map_or(0, Bytes::len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_goes_first() {
        let cache = Cache::default();
        let name = |i: u32| StreamName::parse(&format!("live/{i}")).unwrap();
        for i in 0..20 {
            let made = Made {
                of: Of { epoch: 1, sequence: 1 },
                wall: SystemTime::UNIX_EPOCH,
                jpeg: Ok(vec![0; 5 << 20].into()),
            };
            *cache.slot(&name(i), None).try_lock().unwrap() = Some(made);
            // Asked for again and again.
            cache.slot(&name(0), None);
        }
        cache.slot(&name(99), Some(64));
        let there = |i| cache.slots.lock().unwrap().contains_key(&(name(i), None));
        assert!(there(0) && there(19) && !there(1) && !there(5));
        let all: usize = cache.slots.lock().unwrap().values().map(|(slot, _)| bytes(slot)).sum();
        assert!(all <= MOST_BYTES, "{all}");
    }
}
