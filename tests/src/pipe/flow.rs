//! What is on its way in one direction: a queue, the pace at which it leaves, and the wire behind it. No socket and no clock.
//!
//! ```text
//! handle_input -> queued --pace--> flying --delay--> ripe -> poll_output
//!                 `------------------- held -------------------'
//! ```
//!
//! Bytes lie in `held` in their order from the first to the last; only the borders between the three parts move. So no
//! change of pace or delay can lose or reorder any.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

/// Bytes leave the queue in pieces of so long at the pace that is set.
const PIECE: Duration = Duration::from_millis(10);
/// What a timer that fires late may make good, so that the pace is kept on average; also the longest burst after a
/// pause.
const LATE: Duration = Duration::from_millis(20);
/// Bytes that enter the wire within so long fly as one: what the timer can tell apart.
const TICK: Duration = Duration::from_millis(1);
/// The most that is on the wire: 2 s of 16 Mbit/s. At the bound no more is read.
const WIRE_BYTES: usize = 4 << 20;

/// Pace and delay as they are now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Course {
    /// Bytes per second; None is no limit, and 0 lets nothing pass.
    pub(super) rate: Option<u64>,
    pub(super) delay: Duration,
}

/// What comes out.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Output<'a> {
    Bytes(&'a [u8]),
    /// After the last byte.
    End,
}

/// One direction's bytes.
pub(super) struct Flow {
    queue_bytes: usize,
    held: BytesMut,
    /// How many at the front of `held` have arrived.
    ripe: usize,
    /// How many after those are on the wire.
    flying: usize,
    /// When they entered it, and how many each time; none are the end.
    marks: VecDeque<(Instant, usize)>,
    /// The piece that left the queue last: when by the pace, and its size.
    last: (Instant, usize),
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Queued,
    Flying,
    Ripe,
}

impl Flow {
    /// Nothing yet. So much is held, but for what is on the wire.
    pub(super) fn new(queue_bytes: usize, now: Instant) -> Flow {
        let marks = VecDeque::new();
        Flow { queue_bytes, held: BytesMut::new(), ripe: 0, flying: 0, marks, last: (now, 0), end: End::Open }
    }

    /// How much may be read now. Bytes that arrived and are not taken count as the queue's: a wire is no buffer.
    pub(super) fn room(&self) -> usize {
        if self.end != End::Open {
            return 0;
        }
        let queue = self.queue_bytes.saturating_sub(self.queued() + self.ripe);
        queue.min(WIRE_BYTES.saturating_sub(self.held.len()))
    }

    /// Takes what was read; nothing is the end. Not to be more than there is room for.
    pub(super) fn handle_input(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.end = End::Queued;
        }
        self.held.extend_from_slice(bytes);
    }

    /// Moves on what is due, and returns when there will be more.
    pub(super) fn handle_timeout(&mut self, now: Instant, course: Course) -> Option<Instant> {
        let next_piece = loop {
            let queued = self.queued();
            let (at, piece) = match course.rate {
                _ if queued == 0 => break None,
                None => (now, queued),
                Some(0) => break None,
                Some(rate) => (self.next(rate), queued.min(paced(rate))),
            };
            if at > now {
                break Some(at);
            }
            self.last = (at.max(now.checked_sub(LATE).unwrap_or(now)), piece);
            self.enter(now, piece);
        };
        if self.end == End::Queued && self.queued() == 0 {
            self.end = End::Flying;
            self.marks.push_back((now, 0));
        }
        while let Some(&(_, bytes)) = self.marks.front().filter(|(entered, _)| *entered + course.delay <= now) {
            self.marks.pop_front();
            self.flying -= bytes;
            self.ripe += bytes;
            if bytes == 0 {
                self.end = End::Ripe;
            }
        }
        let arrives = self.marks.front().map(|(entered, _)| *entered + course.delay);
        next_piece.into_iter().chain(arrives).min()
    }

    /// What has arrived and was not taken yet.
    pub(super) fn poll_output(&self) -> Option<Output<'_>> {
        match self.held.get(..self.ripe) {
            Some(bytes) if !bytes.is_empty() => Some(Output::Bytes(bytes)),
            _ => (self.end == End::Ripe).then_some(Output::End),
        }
    }

    /// So many of them were taken.
    pub(super) fn taken(&mut self, bytes: usize) {
        self.held.advance(bytes);
        self.ripe -= bytes;
    }

    fn queued(&self) -> usize {
        self.held.len() - self.ripe - self.flying
    }

    /// When the next piece may leave, by the pace of now. What left at another one is not counted for more than a piece.
    fn next(&self, rate: u64) -> Instant {
        let (at, bytes) = self.last;
        at + Duration::from_secs_f64(bytes.min(paced(rate)) as f64 / rate as f64)
    }

    fn enter(&mut self, now: Instant, bytes: usize) {
        self.flying += bytes;
        match self.marks.back_mut() {
            Some((entered, many)) if now < *entered + TICK => *many += bytes,
            Some(_) | None => self.marks.push_back((now, bytes)),
        }
    }
}

/// How many bytes a piece has.
fn paced(rate: u64) -> usize {
    usize::try_from(u128::from(rate) * PIECE.as_millis() / 1000).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: usize = 16 << 10;
    const FREE: Course = Course { rate: None, delay: Duration::ZERO };

    /// Takes all that has arrived.
    fn take(flow: &mut Flow) -> Vec<u8> {
        let Some(Output::Bytes(bytes)) = flow.poll_output() else { return Vec::new() };
        let bytes = bytes.to_vec();
        flow.taken(bytes.len());
        bytes
    }

    #[test]
    fn without_a_rate_and_a_delay_all_arrives_at_once() {
        let now = Instant::now();
        let mut flow = Flow::new(QUEUE, now);
        flow.handle_input(b"abc");
        flow.handle_input(b"");
        assert_eq!(flow.handle_timeout(now, FREE), None);
        assert_eq!(take(&mut flow), b"abc");
        assert_eq!(flow.poll_output(), Some(Output::End));
    }

    #[test]
    fn a_rate_is_kept_in_pieces_of_ten_milliseconds_also_by_a_late_timer() {
        let begun = Instant::now();
        let mut flow = Flow::new(QUEUE, begun);
        let course = Course { rate: Some(100_000), ..FREE };
        flow.handle_input(&[7; 10_000]);
        let (mut now, mut sizes) = (begun, Vec::new());
        while let Some(wake) = flow.handle_timeout(now, course) {
            sizes.push(take(&mut flow).len());
            now = wake + Duration::from_millis(3);
        }
        assert_eq!(sizes, [1000; 9]);
        assert_eq!(now - begun, Duration::from_millis(93), "late once, and not nine times");
    }

    #[test]
    fn a_pause_is_not_saved_up() {
        let begun = Instant::now();
        let mut flow = Flow::new(QUEUE, begun);
        flow.handle_input(&[7; 10_000]);
        flow.handle_timeout(begun + Duration::from_secs(5), Course { rate: Some(100_000), ..FREE });
        assert_eq!(take(&mut flow).len(), 3000, "a piece, and what a late timer may make good");
    }

    #[test]
    fn a_rate_of_nothing_lets_nothing_pass_until_it_is_changed() {
        let now = Instant::now();
        let mut flow = Flow::new(QUEUE, now);
        flow.handle_input(&[7; QUEUE]);
        assert_eq!((flow.handle_timeout(now, Course { rate: Some(0), ..FREE }), flow.room()), (None, 0));
        assert_eq!(flow.poll_output(), None);
        flow.handle_timeout(now, FREE);
        assert_eq!(take(&mut flow).len(), QUEUE);
        flow.handle_input(&[7; QUEUE]);
        let wake = flow.handle_timeout(now, Course { rate: Some(1), ..FREE });
        assert_eq!(wake, Some(now + Duration::from_secs(1)), "what passed without a rate has not to be paid for");
    }

    #[test]
    fn the_wire_is_no_part_of_the_queue_until_its_bytes_arrive_and_are_not_taken() {
        let now = Instant::now();
        let mut flow = Flow::new(QUEUE, now);
        let late = Course { delay: Duration::from_millis(100), ..FREE };
        flow.handle_input(&[1; QUEUE]);
        assert_eq!(flow.handle_timeout(now, late), Some(now + late.delay));
        assert_eq!(flow.room(), QUEUE, "all of it flies");
        flow.handle_input(b"2");
        let arrived = now + late.delay;
        assert_eq!(flow.handle_timeout(arrived, late), Some(arrived + late.delay), "the second one's turn");
        assert_eq!(flow.room(), 0);
        assert_eq!((take(&mut flow).len(), flow.room()), (QUEUE, QUEUE));
    }

    #[test]
    fn the_end_flies_too_and_the_wire_has_a_bound() {
        let now = Instant::now();
        let mut flow = Flow::new(QUEUE, now);
        let late = Course { delay: Duration::from_millis(100), ..FREE };
        let mut sent = 0;
        while flow.room() > 0 {
            flow.handle_input(&vec![7; flow.room()]);
            sent = flow.held.len();
            flow.handle_timeout(now, late);
        }
        assert_eq!(sent, WIRE_BYTES);
        flow.handle_input(b"");
        flow.handle_timeout(now + late.delay / 2, late);
        assert_eq!(flow.poll_output(), None);
        flow.handle_timeout(now + late.delay, late);
        assert_eq!(take(&mut flow).len(), WIRE_BYTES);
        assert_eq!(flow.poll_output(), None, "the end entered later");
        flow.handle_timeout(now + late.delay * 2, late);
        assert_eq!(flow.poll_output(), Some(Output::End));
    }
}
