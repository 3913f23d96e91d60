//! A bounded run of items with sequence numbers, read by any number of cursors: frames of a stream, or chunks of one
//! packaging of it. No lock and no waiting in here.

use std::collections::VecDeque;
use std::time::Duration;

use culvert_media::Time;

/// How much a ring keeps. It always keeps what a new viewer needs (from the newest entry on) as far as the caps allow.
#[derive(Clone, Copy, Debug)]
pub struct RingLimits {
    /// Most bytes of media.
    pub bytes: usize,
    /// Longest span on the timeline.
    pub span: Duration,
    /// Most items, whatever their size.
    pub items: usize,
    /// A reader that is further behind than this moves on to the newest entry as soon as there is a newer one.
    pub max_lag: Duration,
}

impl Default for RingLimits {
    /// 32 MiB and 20 s hold a 10 s group of pictures at 20 Mbit/s (faults.md M17); 8,192 items are 20 s of 240 fps
    /// video with audio.
    fn default() -> RingLimits {
        RingLimits { bytes: 32 << 20, span: Duration::from_secs(20), items: 8192, max_lag: Duration::from_secs(2) }
    }
}

/// How much of the past before the newest entry stays, so that a reader that is a little behind when a key frame
/// comes loses nothing.
const HISTORY: Time = Time::from_millis(1500);

/// One item, with what a reader needs to begin at it (the tracks, or the packaging's header).
#[derive(Clone, Debug)]
pub(crate) struct Slot<B, C> {
    pub(crate) body: B,
    pub(crate) context: C,
    pub(crate) time: Time,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Ring<B, C> {
    slots: VecDeque<Slot<B, C>>,
    /// Sequence number of `slots[0]`.
    first: u64,
    /// Sequence numbers of entries still here, oldest first.
    entries: VecDeque<u64>,
    bytes: usize,
    limits: RingLimits,
}

/// A reader's place. `None` inside: not yet at an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    next: Option<u64>,
    /// Items counted as skipped since the last one that was read.
    skipped: u64,
    /// Where an unplaced cursor has looked up to.
    seen: u64,
    placed_once: bool,
}

/// What a read found.
#[derive(Debug)]
pub(crate) enum Read<'a, B, C> {
    /// The next item.
    Item(&'a Slot<B, C>),
    /// An entry, after that many items were skipped.
    Gap(u64, &'a Slot<B, C>),
    /// An entry: the reader's first item.
    First(&'a Slot<B, C>),
    /// Nothing to read now.
    Empty,
}

impl<B, C> Ring<B, C> {
    pub(crate) fn new(limits: RingLimits) -> Ring<B, C> {
        Ring { slots: VecDeque::new(), first: 0, entries: VecDeque::new(), bytes: 0, limits }
    }

    /// Sequence number that the next item will get.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, body: B, context: C, entry: bool, time: Time, bytes: usize) {
        if entry {
            self.entries.push_back(self.end());
        }
        self.bytes += bytes;
        self.slots.push_back(Slot { body, context, time, bytes });
        self.evict();
    }

    /// Forgets all items. Readers go on with what comes next.
    pub(crate) fn clear(&mut self) {
        self.first = self.end();
        self.slots.clear();
        self.entries.clear();
        self.bytes = 0;
    }

    /// Slots from the newest entry on, for a packaging that begins now.
    pub(crate) fn since_entry(&self) -> impl Iterator<Item = &Slot<B, C>> {
        let from = self.entries.back().map_or(self.slots.len(), |seq| (seq - self.first) as usize);
        self.slots.iter().skip(from)
    }

    fn slot(&self, seq: u64) -> Option<&Slot<B, C>> {
        self.slots.get(usize::try_from(seq.checked_sub(self.first)?).ok()?)
    }

    fn evict(&mut self) {
        let Some(newest) = self.slots.back().map(|s| s.time) else { return };
        let span = Time::from(self.limits.span);
        while let Some(front) = self.slots.front() {
            let over =
                self.bytes > self.limits.bytes || self.slots.len() > self.limits.items || newest - front.time > span;
            // Who lags less than `max_lag` is not to skip, so what he has not read stays.
            let history = HISTORY.max(Time::from(self.limits.max_lag));
            let stale = self.entries.back().is_some_and(|&entry| entry > self.first) && newest - front.time > history;
            // The item just pushed always stays: a ring that holds nothing would starve every reader.
            if !(over || stale) || self.slots.len() == 1 {
                break;
            }
            if self.entries.front() == Some(&self.first) {
                self.entries.pop_front();
            }
            if let Some(gone) = self.slots.pop_front() {
                self.bytes -= gone.bytes;
                self.first += 1;
            }
        }
    }

    /// Reads the next item for this cursor and moves it on. New cursors begin at the newest entry; a cursor whose next
    /// item is gone, or is older than `max_lag` while a newer entry is here, skips to the newest entry.
    pub(crate) fn read(&self, cursor: &mut Cursor) -> Read<'_, B, C> {
        if let Some(next) = cursor.next {
            let Some(slot) = self.slot(next) else {
                if next >= self.end() {
                    return Read::Empty;
                }
                return self.enter(cursor, next);
            };
            if self.too_old(next, slot) {
                return self.enter(cursor, next);
            }
            cursor.next = Some(next + 1);
            return Read::Item(slot);
        }
        self.enter(cursor, cursor.seen)
    }

    fn too_old(&self, next: u64, slot: &Slot<B, C>) -> bool {
        let newer_entry = self.entries.back().is_some_and(|&entry| entry > next);
        let newest = self.slots.back().map_or(slot.time, |s| s.time);
        newer_entry && newest - slot.time > Time::from(self.limits.max_lag)
    }

    /// Places a cursor, that has read or passed over everything before `from`, at the newest entry from there on.
    fn enter(&self, cursor: &mut Cursor, from: u64) -> Read<'_, B, C> {
        let target = self.entries.back().copied().filter(|&entry| entry >= from);
        let stop = target.unwrap_or(self.end());
        if cursor.placed_once {
            cursor.skipped += stop.saturating_sub(from);
        }
        cursor.seen = stop;
        let Some((seq, slot)) = target.and_then(|seq| Some((seq, self.slot(seq)?))) else {
            cursor.next = None;
            return Read::Empty;
        };
        cursor.next = Some(seq + 1);
        if std::mem::replace(&mut cursor.placed_once, true) {
            Read::Gap(std::mem::take(&mut cursor.skipped), slot)
        } else {
            Read::First(slot)
        }
    }

    /// Time of the newest item.
    pub(crate) fn newest(&self) -> Option<Time> {
        self.slots.back().map(|slot| slot.time)
    }

    /// Slots from `seq` on, or None when some of them are gone.
    pub(crate) fn from(&self, seq: u64) -> Option<impl Iterator<Item = &Slot<B, C>>> {
        let skip = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        Some(self.slots.iter().skip(skip))
    }
}

impl Cursor {
    /// A cursor that goes on at `next`; what it then finds missing is a gap.
    pub(crate) fn at(next: u64) -> Cursor {
        Cursor { next: Some(next), placed_once: true, ..Cursor::default() }
    }

    /// The sequence number it reads next; None while it waits for an entry.
    pub(crate) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Moves on, after what was read without [`Ring::read`].
    pub(crate) fn set_next(&mut self, next: u64) {
        self.next = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(bytes: usize, items: usize) -> RingLimits {
        RingLimits { bytes, items, span: Duration::from_secs(1000), max_lag: Duration::from_secs(1000) }
    }

    fn push(ring: &mut Ring<u64, ()>, entry: bool, millis: i64, bytes: usize) {
        let seq = ring.end();
        ring.push(seq, (), entry, Time::from_millis(millis), bytes);
    }

    fn read(ring: &Ring<u64, ()>, cursor: &mut Cursor) -> Option<(u64, Option<u64>)> {
        match ring.read(cursor) {
            Read::Item(slot) | Read::First(slot) => Some((slot.body, None)),
            Read::Gap(n, slot) => Some((slot.body, Some(n))),
            Read::Empty => None,
        }
    }

    #[test]
    fn a_new_reader_begins_at_the_newest_entry() {
        let mut ring = Ring::new(limits(1000, 100));
        for (i, entry) in [true, false, false, true, false].into_iter().enumerate() {
            push(&mut ring, entry, i as i64 * 40, 10);
        }
        let mut cursor = Cursor::default();
        assert_eq!(read(&ring, &mut cursor), Some((3, None)));
        assert_eq!(read(&ring, &mut cursor), Some((4, None)));
        assert_eq!(read(&ring, &mut cursor), None);
    }

    #[test]
    fn nothing_is_given_before_an_entry() {
        let mut ring = Ring::new(limits(1000, 100));
        let mut cursor = Cursor::default();
        push(&mut ring, false, 0, 10);
        assert_eq!(read(&ring, &mut cursor), None);
        push(&mut ring, true, 40, 10);
        assert_eq!(read(&ring, &mut cursor), Some((1, None)));
    }

    #[test]
    fn a_slow_reader_restarts_at_a_key_frame_and_is_told_how_much_it_missed() {
        let mut ring = Ring::new(limits(50, 100));
        let mut cursor = Cursor::default();
        push(&mut ring, true, 0, 10);
        assert_eq!(read(&ring, &mut cursor), Some((0, None)));
        for i in 1..12 {
            push(&mut ring, i % 4 == 0, i * 40, 10);
        }
        // 7.. are here; 8 is the newest entry.
        assert_eq!(read(&ring, &mut cursor), Some((8, Some(7))));
    }

    #[test]
    fn a_group_of_pictures_beyond_the_cap_leaves_no_entry_until_the_next_one() {
        let mut ring = Ring::new(limits(50, 100));
        push(&mut ring, true, 0, 10);
        for i in 1..20 {
            push(&mut ring, false, i * 40, 10);
        }
        assert!(ring.bytes() <= 50);
        let mut cursor = Cursor::default();
        assert_eq!(read(&ring, &mut cursor), None);
        push(&mut ring, true, 800, 10);
        assert_eq!(read(&ring, &mut cursor), Some((20, None)));
    }

    #[test]
    fn a_reader_that_lags_too_far_skips_even_though_its_item_is_still_here() {
        let mut ring = Ring::new(RingLimits { max_lag: Duration::from_secs(1), ..limits(10_000, 1000) });
        let mut cursor = Cursor::default();
        push(&mut ring, true, 0, 10);
        assert_eq!(read(&ring, &mut cursor), Some((0, None)));
        for i in 1..30 {
            push(&mut ring, i == 27, i * 40, 10);
        }
        assert_eq!(read(&ring, &mut cursor), Some((27, Some(26))));
    }

    proptest! {
        #[test]
        fn caps_hold_and_what_follows_a_gap_is_an_entry(
            ops in prop::collection::vec((any::<bool>(), 1usize..30, 0u8..4), 1..300)
        ) {
            let mut ring = Ring::new(limits(200, 20));
            let mut cursor = Cursor::default();
            let mut expected = None;
            let mut entries = Vec::new();
            for (i, (entry, bytes, reads)) in ops.into_iter().enumerate() {
                push(&mut ring, entry, i as i64 * 10, bytes);
                entries.push(entry);
                prop_assert!(ring.bytes() <= 200);
                for _ in 0..reads {
                    match ring.read(&mut cursor) {
                        Read::Item(slot) => prop_assert_eq!(Some(slot.body), expected),
                        Read::First(slot) => prop_assert!(entries[slot.body as usize]),
                        Read::Gap(n, slot) => {
                            prop_assert!(entries[slot.body as usize]);
                            prop_assert_eq!(slot.body, expected.unwrap_or(0) + n);
                        }
                        Read::Empty => continue,
                    }
                    expected = cursor.next();
                }
            }
        }
    }
}
