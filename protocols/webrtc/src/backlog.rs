//! What waits to go to a viewer. Sound goes before pictures; pictures that would come late are left out: first those that nothing is built on, then
//! the rest of their group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use culvert_media::{Kind, Time};
use tokio::time::Instant;

use crate::feed::Unit;

/// Units that wait at the most.
const MOST: usize = 2048;
/// How long a picture may wait that nothing is built on, and how long any other.
const LATE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));
/// Sounds that are looked at to go together.
const TOGETHER: usize = 3;
/// Pictures of the cached group are shown so fast: a player shows what came last, and not what was before it.
const FAST_MS: u32 = 1;

/// What is still to be sent of a unit.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) unit: Arc<Unit>,
    /// When it is shown, by the stream's timeline and by our clock.
    pub(crate) pts: Time,
    pub(crate) shown: Instant,
    /// The first packet that has not been sent.
    pub(crate) next: usize,
    since: Instant,
}

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    sounds: VecDeque<Waiting>,
    pictures: VecDeque<Waiting>,
    /// Pictures are passed over until a key frame comes.
    waits: bool,
}

impl Backlog {
    /// Begins with what is cached: pictures alone, shown fast, so that the newest is there at once; sound begins with what is live. False: there
    /// was no picture.
    pub(crate) fn begin(&mut self, now: Instant, cached: Vec<Arc<Unit>>) -> bool {
        let pictures: Vec<_> = cached.into_iter().filter(|unit| unit.kind == Kind::Video).collect();
        self.waits = pictures.is_empty();
        let Some((last, newest)) = pictures.last().map(|unit| (unit.pts, unit.shown)) else { return false };
        let behind = pictures.len();
        for (at, unit) in pictures.into_iter().enumerate() {
            let before = u32::try_from(behind - 1 - at).unwrap_or(u32::MAX).saturating_mul(FAST_MS);
            let pts = last - Time::from_millis(before.into());
            let shown = newest.checked_sub(Duration::from_millis(before.into())).unwrap_or(newest);
            self.pictures.push_back(Waiting { unit, pts, shown, next: 0, since: now });
        }
        true
    }

    /// Takes a unit that is to go, unless it would be late. It is given back where nothing waits before it.
    pub(crate) fn push(&mut self, now: Instant, unit: Arc<Unit>) -> Option<Waiting> {
        if unit.kind == Kind::Video {
            if self.pictures.len() >= MOST {
                self.wait();
            }
            if self.waits && !unit.key {
                return None;
            }
            self.waits = false;
        }
        let (pts, shown) = (unit.pts, unit.shown);
        let waiting = Waiting { unit, pts, shown, next: 0, since: now };
        if self.is_empty() {
            return Some(waiting);
        }
        let queue = if waiting.unit.kind == Kind::Video { &mut self.pictures } else { &mut self.sounds };
        queue.push_back(waiting);
        None
    }

    /// Pictures go on with the next key frame. One that has begun is sent to its end. Says how many were left out.
    pub(crate) fn wait(&mut self) -> usize {
        self.waits = true;
        let begun = self.begun();
        let left_out = self.pictures.len() - begun;
        self.pictures.truncate(begun);
        left_out
    }

    /// Leaves out what would come late, and says how many.
    pub(crate) fn thin(&mut self, now: Instant) -> usize {
        let is_late = |waiting: &Waiting, late: Duration| now.saturating_duration_since(waiting.since) > late;
        while self.sounds.front().is_some_and(|sound| is_late(sound, LATE.1)) {
            self.sounds.pop_front();
        }
        let begun = self.begun();
        let Some(first) = self.pictures.get(begun) else { return 0 };
        let before = self.pictures.len();
        if is_late(first, LATE.1) {
            match self.pictures.iter().rposition(|waiting| waiting.unit.key) {
                Some(key) if key >= begun => drop(self.pictures.drain(begun..key)),
                Some(_) | None => return self.wait(),
            }
        } else if is_late(first, LATE.0) {
            let mut at = 0;
            self.pictures.retain(|waiting| {
                at += 1;
                at <= begun || !waiting.unit.is_disposable
            });
        }
        before - self.pictures.len()
    }

    /// How many pictures have begun: one or none.
    fn begun(&self) -> usize {
        self.pictures.front().map_or(0, |first| usize::from(first.next > 0))
    }

    /// How many bytes the longest of the sounds has that go next: those that are no longer than the first can go with it.
    pub(crate) fn longest_sound(&self) -> usize {
        let next = self.sounds.iter().take(TOGETHER).flat_map(|sound| &sound.unit.packets);
        next.map(|packet| packet.payload.len()).max().unwrap_or_default()
    }

    /// What goes next; pictures only where they are allowed.
    pub(crate) fn pop(&mut self, pictures: bool) -> Option<Waiting> {
        self.sounds.pop_front().or_else(|| pictures.then(|| self.pictures.pop_front())?)
    }

    /// It has not gone to its end.
    pub(crate) fn put_back(&mut self, waiting: Waiting) {
        match waiting.unit.kind {
            Kind::Audio => self.sounds.push_front(waiting),
            Kind::Video => self.pictures.push_front(waiting),
        }
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.sounds.is_empty() && self.pictures.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(kind: Kind, key: bool, is_disposable: bool, at: i64) -> Arc<Unit> {
        let pts = Time::from_millis(at);
        Arc::new(Unit {
            number: 1,
            kind,
            key,
            is_disposable,
            pts,
            shown: Instant::now(),
            packets: Vec::new(),
            bytes: 0,
        })
    }

    /// Nothing goes.
    fn put(backlog: &mut Backlog, now: Instant, unit: Arc<Unit>) {
        if let Some(waiting) = backlog.push(now, unit) {
            backlog.put_back(waiting);
        }
    }

    /// A key frame each second, each second picture disposable, 10 a second; the time of each is its place.
    fn pictures(now: Instant, range: std::ops::Range<i64>) -> (Backlog, Instant) {
        let mut backlog = Backlog::default();
        let at = |n: i64| now + Duration::from_millis(n.unsigned_abs() * 100);
        for n in range.clone() {
            put(&mut backlog, at(n), unit(Kind::Video, n % 10 == 0, n % 2 == 1, n));
        }
        (backlog, at(range.end))
    }

    fn left(backlog: &mut Backlog) -> Vec<i64> {
        std::iter::from_fn(|| backlog.pop(true)).map(|waiting| waiting.pts.millis()).collect()
    }

    #[test]
    fn late_pictures_go_in_the_order_of_their_use() {
        let now = Instant::now();
        let (mut backlog, at) = pictures(now, 0..3);
        assert_eq!((backlog.thin(at), left(&mut backlog)), (0, vec![0, 1, 2]));
        let (mut backlog, at) = pictures(now, 0..8);
        assert_eq!((backlog.thin(at), left(&mut backlog)), (4, vec![0, 2, 4, 6]));
        let (mut backlog, at) = pictures(now, 1..13);
        assert_eq!((backlog.thin(at), left(&mut backlog)), (9, vec![10, 11, 12]), "the newest key frame");
        let (mut backlog, at) = pictures(now, 1..13);
        let mut first = backlog.pop(true).unwrap();
        first.next = 1;
        backlog.put_back(first);
        assert_eq!((backlog.thin(at), left(&mut backlog)), (8, vec![1, 10, 11, 12]), "what has begun ends");
    }

    #[test]
    fn without_a_key_frame_the_next_is_waited_for_and_sound_goes_on() {
        let now = Instant::now();
        let mut backlog = Backlog { waits: false, ..Backlog::default() };
        for n in 1..5 {
            put(&mut backlog, now, unit(Kind::Video, false, false, n));
            put(&mut backlog, now + Duration::from_secs(2), unit(Kind::Audio, false, false, 100 + n));
        }
        let at = now + Duration::from_secs(2);
        assert_eq!(backlog.thin(at), 4);
        for (n, key) in [(5, false), (6, true), (7, false)] {
            put(&mut backlog, at, unit(Kind::Video, key, false, n));
        }
        assert_eq!(backlog.pop(false).map(|sound| sound.pts.millis()), Some(101), "sound first");
        assert_eq!(left(&mut backlog), [102, 103, 104, 6, 7]);
        assert!(backlog.is_empty());
        let next = backlog.push(at, unit(Kind::Video, false, false, 8));
        assert!(next.is_some_and(|next| next.pts.millis() == 8) && backlog.is_empty(), "at once where nothing waits");
    }
}
