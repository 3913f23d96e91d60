//! What waits to go to a viewer. Sound goes before pictures, but for one packet of it that can be the last of what the kernel is given at once; pictures
//! that would come late are left out: first those that nothing is built on, then the rest of their group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use culvert_media::{Kind, Time};
use tokio::time::Instant;

use crate::burst::LENGTHENED;
use crate::unit::{Packet, Unit};

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
    /// Sounds that are one packet go by themselves.
    apart: bool,
    since: Instant,
}

impl Waiting {
    fn new(now: Instant, unit: Arc<Unit>) -> Waiting {
        Waiting { pts: unit.pts, shown: unit.shown, unit, next: 0, apart: false, since: now }
    }

    /// All of it.
    pub(crate) fn packets(&self) -> &[Packet] {
        if self.apart && !self.unit.apart.is_empty() { &self.unit.apart } else { &self.unit.packets }
    }
}

/// What waits of a kind. The first of it is here: mostly there is no other, and with many viewers all that lies elsewhere is in no cache.
#[derive(Debug, Default)]
struct Queue {
    first: Option<Waiting>,
    rest: VecDeque<Waiting>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.first.iter().chain(&self.rest)
    }

    fn push_back(&mut self, waiting: Waiting) {
        if self.is_empty() {
            self.first = Some(waiting);
        } else {
            self.rest.push_back(waiting);
        }
    }

    fn push_front(&mut self, waiting: Waiting) {
        if let Some(second) = self.first.replace(waiting) {
            self.rest.push_front(second);
        }
    }

    fn pop_front(&mut self) -> Option<Waiting> {
        self.first.take().or_else(|| self.rest.pop_front())
    }

    /// All of it at one place.
    fn all(&mut self) -> &mut VecDeque<Waiting> {
        if let Some(first) = self.first.take() {
            self.rest.push_front(first);
        }
        &mut self.rest
    }
}

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    sounds: Queue,
    pictures: Queue,
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
            self.pictures.push_back(Waiting { pts, shown, ..Waiting::new(now, unit) });
        }
        true
    }

    /// Takes a unit that is to go, unless it would be late. `apart`: sounds are to go by themselves.
    pub(crate) fn push(&mut self, now: Instant, unit: Arc<Unit>, apart: bool) {
        if unit.kind == Kind::Audio {
            self.sounds.push_back(Waiting { apart, ..Waiting::new(now, unit) });
            return;
        }
        if self.pictures.len() >= MOST {
            self.wait();
        }
        if self.waits && !unit.key {
            return;
        }
        self.waits = false;
        self.pictures.push_back(Waiting::new(now, unit));
    }

    /// Pictures go on with the next key frame. One that has begun is sent to its end. Says how many were left out.
    pub(crate) fn wait(&mut self) -> usize {
        self.waits = true;
        let begun = self.begun();
        let left_out = self.pictures.len() - begun;
        self.pictures.all().truncate(begun);
        left_out
    }

    /// Leaves out what would come late, and says how many.
    pub(crate) fn thin(&mut self, now: Instant) -> usize {
        let is_late = |waiting: &Waiting, late: Duration| now.saturating_duration_since(waiting.since) > late;
        while self.sounds.iter().next().is_some_and(|sound| is_late(sound, LATE.1)) {
            self.sounds.pop_front();
        }
        let begun = self.begun();
        let Some(first) = self.pictures.iter().nth(begun) else { return 0 };
        let before = self.pictures.len();
        if is_late(first, LATE.1) {
            let pictures = self.pictures.all();
            match pictures.iter().rposition(|waiting| waiting.unit.key) {
                Some(key) if key >= begun => drop(pictures.drain(begun..key)),
                Some(_) | None => return self.wait(),
            }
        } else if is_late(first, LATE.0) {
            let mut at = 0;
            self.pictures.all().retain(|waiting| {
                at += 1;
                at <= begun || !waiting.unit.is_disposable
            });
        }
        before - self.pictures.len()
    }

    /// How many pictures have begun: one or none.
    fn begun(&self) -> usize {
        self.pictures.iter().next().map_or(0, |first| usize::from(first.next > 0))
    }

    /// How many bytes the longest of the sounds has that go next: those that are no longer than the first can go with it.
    pub(crate) fn longest_sound(&self) -> usize {
        let next = self.sounds.iter().take(TOGETHER).flat_map(Waiting::packets);
        next.map(|packet| packet.payload.len()).max().unwrap_or_default()
    }

    /// Whether what waits is one picture of less than `room` packets, the last of which can be made as long as the others, and one packet of sound that is
    /// no longer, and so can go behind it.
    pub(crate) fn can_end_with_sound(&self, room: usize) -> bool {
        let (mut sounds, mut pictures) = (self.sounds.iter(), self.pictures.iter());
        let (Some(sound), None) = (sounds.next(), sounds.next()) else { return false };
        let (Some(picture), None) = (pictures.next(), pictures.next()) else { return false };
        let size = match picture.packets() {
            [.., before, last] if last.payload.len() + LENGTHENED >= before.payload.len() => before.payload.len(),
            [only] => only.payload.len(),
            _ => return false,
        };
        let [sound] = sound.packets() else { return false };
        sound.payload.len() <= size && picture.next == 0 && picture.packets().len() < room
    }

    /// What goes next; pictures only where they are allowed, and before sound where that is said.
    pub(crate) fn pop(&mut self, pictures: bool, picture_first: bool) -> Option<Waiting> {
        if pictures && picture_first {
            return self.pictures.pop_front();
        }
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
        Arc::new(Unit { number: 1, key, is_disposable, ..Unit::new(kind, pts, Instant::now()) })
    }

    /// A key frame each second, each second picture disposable, 10 a second; the time of each is its place.
    fn pictures(now: Instant, range: std::ops::Range<i64>) -> (Backlog, Instant) {
        let mut backlog = Backlog::default();
        let at = |n: i64| now + Duration::from_millis(n.unsigned_abs() * 100);
        for n in range.clone() {
            backlog.push(at(n), unit(Kind::Video, n % 10 == 0, n % 2 == 1, n), false);
        }
        (backlog, at(range.end))
    }

    fn left(backlog: &mut Backlog) -> Vec<i64> {
        std::iter::from_fn(|| backlog.pop(true, false)).map(|waiting| waiting.pts.millis()).collect()
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
        let mut first = backlog.pop(true, false).unwrap();
        first.next = 1;
        backlog.put_back(first);
        assert_eq!((backlog.thin(at), left(&mut backlog)), (8, vec![1, 10, 11, 12]), "what has begun ends");
    }

    #[test]
    fn without_a_key_frame_the_next_is_waited_for_and_sound_goes_on() {
        let now = Instant::now();
        let mut backlog = Backlog { waits: false, ..Backlog::default() };
        for n in 1..5 {
            backlog.push(now, unit(Kind::Video, false, false, n), false);
            backlog.push(now + Duration::from_secs(2), unit(Kind::Audio, false, false, 100 + n), false);
        }
        let at = now + Duration::from_secs(2);
        assert_eq!(backlog.thin(at), 4);
        for (n, key) in [(5, false), (6, true), (7, false)] {
            backlog.push(at, unit(Kind::Video, key, false, n), false);
        }
        assert_eq!(backlog.pop(false, false).map(|sound| sound.pts.millis()), Some(101), "sound first");
        assert_eq!(left(&mut backlog), [102, 103, 104, 6, 7]);
        assert!(backlog.is_empty());
    }
}
