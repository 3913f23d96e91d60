//! Which segments of a live playlist are next, and when to look again (RFC 8216 6.3.4). Pure: waiting time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::PullError;
use super::playlist::{Media, Place, Segment};

/// A live playlist is begun so many segments before its end (RFC 8216 6.3.3).
const BEHIND: usize = 3;
/// A playlist that has not advanced for so many target durations is dead, if that is longer than silence may last.
const DEAD: u32 = 4;

/// Follows one media playlist.
#[derive(Debug)]
pub(super) struct Follower {
    /// The number of the next segment.
    next: Option<u64>,
    /// Where the one before it was, and the number of the first one then.
    last: Option<(Place, u64)>,
    /// When there was something new.
    changed: Instant,
    target: Duration,
    silence: Duration,
    has_changed: bool,
}

/// What a playlist has that is new.
#[derive(Debug, PartialEq)]
pub(super) struct News {
    pub(super) segments: Vec<Segment>,
    /// What comes does not go on where the last piece ended: segments have gone before they were fetched, or the source began anew.
    pub(super) gap: bool,
}

impl Follower {
    /// `silence`: how long a source may be without news.
    pub(super) fn new(now: Instant, silence: Duration) -> Follower {
        Follower { next: None, last: None, changed: now, target: Duration::ZERO, silence, has_changed: false }
    }

    /// The number of the segment that is waited for.
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Takes a playlist. An error: it does not advance any more.
    pub(super) fn handle(&mut self, now: Instant, media: &Media) -> Result<News, PullError> {
        self.target = media.target;
        let (Some(first), Some(last)) = (media.segments.first(), media.segments.last()) else {
            self.has_changed = false;
            return self.alive(now).map(|()| News { segments: Vec::new(), gap: false });
        };
        let edge = media.segments.len().saturating_sub(BEHIND);
        let (from, gap) =
            match self.next {
                // What has ended is shown from its beginning.
                None => (if media.ended { 0 } else { edge }, false),
                Some(next) if next < first.number => (if media.ended { 0 } else { edge }, true),
                // Numbers that have gone back: the source began anew, or this is an old copy, which a patient reader forgives.
                Some(next) if last.number.saturating_add(1) < next => {
                    if now.saturating_duration_since(self.changed) < 2 * self.target {
                        self.has_changed = false;
                        return Ok(News { segments: Vec::new(), gap: false });
                    }
                    (edge, true)
                }
                Some(next) => {
                    let from = usize::try_from(next - first.number).unwrap_or(usize::MAX);
                    let before = from.checked_sub(1).and_then(|before| media.segments.get(before));
                    let is_other = |before: &&Segment| {
                        self.last
                            .as_ref()
                            .is_some_and(|(last, begin)| *begin == first.number && !last.is_file_of(&before.at))
                    };
                    match before.filter(is_other) {
                        None => (from, false),
                        // The list begins with the same number, and under that of what was taken last there is something else: this source does
                        // not count (ffmpeg 9 with `single_file` and a window). Then addresses are all there is to go by.
                        Some(_) => match media.segments.iter().rposition(|segment| {
                            self.last.as_ref().is_some_and(|(last, _)| last.is_file_of(&segment.at))
                        }) {
                            Some(at) => (at + 1, false),
                            None => (edge, true),
                        },
                    }
                }
            };
        let segments = media.segments.get(from..).unwrap_or_default().to_vec();
        self.has_changed = !segments.is_empty();
        if self.has_changed {
            self.changed = now;
            self.next = Some(last.number.saturating_add(1));
            self.last = Some((last.at.clone(), first.number));
        } else {
            self.alive(now)?;
        }
        Ok(News { segments, gap })
    }

    /// An error where there was nothing new for too long.
    pub(super) fn alive(&self, now: Instant) -> Result<(), PullError> {
        let most = self.silence.max(DEAD * self.target);
        let still = now.saturating_duration_since(self.changed);
        if still < most { Ok(()) } else { Err(PullError::Stalled(still)) }
    }

    /// Whether the last playlist had something new.
    pub(super) fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// How long after the last look the next one is due (6.3.4): a target duration, or half of it where there was nothing new.
    pub(super) fn delay(&self) -> Duration {
        if self.has_changed { self.target } else { self.target / 2 }
    }

    /// The longest that a segment may take to come.
    pub(super) fn patience(&self) -> Duration {
        self.silence.max(DEAD * self.target)
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::super::playlist::Place;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn media(numbers: std::ops::Range<u64>, ended: bool) -> Media {
        let segment = |number| Segment {
            number,
            at: Place { url: Url::parse("http://h/s").unwrap(), range: Some((number * 100, 100)) },
            init: None,
            discontinuity: false,
            is_gap: false,
            encrypted: None,
        };
        Media { target: 2 * SECOND, segments: numbers.map(segment).collect(), ended, can_block: false }
    }

    fn numbers(news: Result<News, PullError>) -> (Vec<u64>, bool) {
        let news = news.unwrap();
        (news.segments.iter().map(|segment| segment.number).collect(), news.gap)
    }

    #[test]
    fn a_live_playlist_is_followed_from_near_its_end() {
        let now = Instant::now();
        let mut follower = Follower::new(now, 10 * SECOND);
        assert_eq!(numbers(follower.handle(now, &media(10..20, false))), (vec![17, 18, 19], false));
        assert_eq!((follower.delay(), follower.next()), (2 * SECOND, Some(20)));
        assert_eq!(numbers(follower.handle(now, &media(10..20, false))), (vec![], false));
        assert_eq!(follower.delay(), SECOND);
        assert_eq!(numbers(follower.handle(now, &media(12..22, false))), (vec![20, 21], false));
        // It fell behind.
        assert_eq!(numbers(follower.handle(now, &media(30..40, false))), (vec![37, 38, 39], true));
        // An old copy from another cache.
        assert_eq!(numbers(follower.handle(now + SECOND, &media(29..39, false))), (vec![], false));
        assert_eq!(numbers(follower.handle(now + 2 * SECOND, &media(31..41, false))), (vec![40], false));
    }

    #[test]
    fn a_source_that_began_anew_is_followed_after_a_while() {
        let now = Instant::now();
        let mut follower = Follower::new(now, 10 * SECOND);
        follower.handle(now, &media(100..106, false)).unwrap();
        assert_eq!(numbers(follower.handle(now + 2 * SECOND, &media(0..2, false))), (vec![], false));
        assert_eq!(numbers(follower.handle(now + 4 * SECOND, &media(0..3, false))), (vec![0, 1, 2], true));
        assert_eq!(numbers(follower.handle(now + 6 * SECOND, &media(0..4, false))), (vec![3], false));
    }

    #[test]
    fn a_source_that_does_not_count_is_followed_by_its_addresses() {
        let now = Instant::now();
        let uncounted = |numbers| {
            let mut media = media(numbers, false);
            media.segments.iter_mut().zip(0..).for_each(|(segment, number)| segment.number = number);
            media
        };
        let places = |news: Result<News, PullError>| {
            let news = news.unwrap();
            (news.segments.iter().map(|segment| segment.at.range.unwrap().0 / 100).collect::<Vec<_>>(), news.gap)
        };
        let mut follower = Follower::new(now, 10 * SECOND);
        assert_eq!(places(follower.handle(now, &uncounted(0..4))), (vec![1, 2, 3], false));
        assert_eq!(places(follower.handle(now, &uncounted(2..6))), (vec![4, 5], false));
        assert_eq!(places(follower.handle(now, &uncounted(2..6))), (vec![], false));
        assert_eq!(places(follower.handle(now, &uncounted(3..7))), (vec![6], false));
        assert_eq!(places(follower.handle(now, &uncounted(30..34))), (vec![31, 32, 33], true));
    }

    #[test]
    fn what_has_ended_is_taken_from_its_beginning() {
        let now = Instant::now();
        let mut follower = Follower::new(now, 10 * SECOND);
        assert_eq!(numbers(follower.handle(now, &media(0..9, true))).0.len(), 9);
        assert_eq!(numbers(follower.handle(now, &media(0..9, true))), (vec![], false));
    }

    #[test]
    fn one_that_never_advances_is_given_up() {
        let now = Instant::now();
        let mut follower = Follower::new(now, 5 * SECOND);
        follower.handle(now, &media(0..3, false)).unwrap();
        assert!(follower.handle(now + 7 * SECOND, &media(0..3, false)).is_ok());
        let stalled = follower.handle(now + 8 * SECOND, &media(0..3, false));
        assert!(matches!(stalled, Err(PullError::Stalled(still)) if still == 8 * SECOND));
        let mut empty = Follower::new(now, 5 * SECOND);
        assert!(empty.handle(now + 7 * SECOND, &media(0..0, false)).is_ok());
        assert!(empty.handle(now + 8 * SECOND, &media(0..0, false)).is_err());
    }
}
