//! Puts packets of one source in order and says where some are missing (RFC 3550 A.1).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Most packets that wait for one that is missing (security.md S21).
const WINDOW: usize = 512;
/// The longest that they wait. Networks reorder within milliseconds; what takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(100);
/// A step of the numbers beyond this is not loss: the source began anew.
const JUMP: i32 = 3000;

impl Default for Reorder {
    fn default() -> Reorder {
        Reorder::new()
    }
}

/// The packets of one source, in order.
#[derive(Debug)]
pub struct Reorder {
    patience: Duration,
    /// The number that comes next, extended to 64 bits.
    next: Option<i64>,
    /// (extended number, when it came, packet), by number.
    waiting: VecDeque<(i64, Instant, Bytes)>,
    /// Packets that were given up.
    lost: u64,
    /// Packets that came twice or too late.
    late: u64,
    /// Numbers of a source that begins anew come several times in a row before they are believed.
    strange: u8,
    /// Something is missing before what comes out next.
    gap: bool,
}

impl Reorder {
    /// Nothing yet.
    pub fn new() -> Reorder {
        Reorder::waiting(PATIENCE)
    }

    /// Nothing yet; what is missing is waited for so long, for it may be sent again.
    pub fn waiting(patience: Duration) -> Reorder {
        Reorder { patience, next: None, waiting: VecDeque::new(), lost: 0, late: 0, strange: 0, gap: false }
    }

    /// Takes a packet by its sequence number.
    pub fn handle(&mut self, now: Instant, sequence: u16, packet: Bytes) {
        let next = *self.next.get_or_insert(i64::from(sequence));
        // The distance on the circle of 16 bits.
        let low = next.rem_euclid(1 << 16);
        let mut step = i32::try_from(i64::from(sequence) - low).unwrap_or(0);
        if step > 1 << 15 {
            step -= 1 << 16;
        } else if step < -(1 << 15) {
            step += 1 << 16;
        }
        if step.abs() > JUMP {
            self.strange += 1;
            if self.strange < 3 {
                self.late += 1;
                return;
            }
            // The source counts from elsewhere now. What waits is older.
            self.restart();
            self.next = Some(i64::from(sequence));
            self.waiting.push_back((i64::from(sequence), now, packet));
            return;
        }
        self.strange = 0;
        let number = next + i64::from(step);
        if step < 0 {
            self.late += 1;
            return;
        }
        let at = self.waiting.partition_point(|(known, ..)| *known < number);
        if self.waiting.get(at).is_some_and(|(known, ..)| *known == number) {
            self.late += 1;
            return;
        }
        self.waiting.insert(at, (number, now, packet));
    }

    /// The source begins anew: what waits is dropped, and something is missing.
    pub fn restart(&mut self) {
        self.waiting.clear();
        self.next = None;
        self.strange = 0;
        self.gap = true;
    }

    /// The next packet in order, and whether packets are missing right before it.
    pub fn poll(&mut self, now: Instant) -> Option<(Bytes, bool)> {
        let next = self.next?;
        let (number, came, _) = self.waiting.front()?;
        let missing = u64::try_from(number - next).unwrap_or(0);
        if missing > 0 && self.waiting.len() < WINDOW && now.saturating_duration_since(*came) < self.patience {
            return None;
        }
        self.lost += missing;
        let (number, _, packet) = self.waiting.pop_front()?;
        self.next = Some(number + 1);
        Some((packet, missing > 0 || std::mem::take(&mut self.gap)))
    }

    /// When to [`Reorder::poll`] again though nothing came.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.front().map(|(_, came, _)| *came + self.patience)
    }

    /// Packets that never came.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Packets that came twice or too late.
    pub fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(n: u16) -> Bytes {
        Bytes::copy_from_slice(&n.to_be_bytes())
    }

    fn out(reorder: &mut Reorder, now: Instant) -> Vec<(u16, bool)> {
        std::iter::from_fn(|| reorder.poll(now)).map(|(p, lost)| (u16::from_be_bytes([p[0], p[1]]), lost)).collect()
    }

    #[test]
    fn packets_out_of_order_come_in_order_and_across_the_wrap() {
        let (mut reorder, now) = (Reorder::new(), Instant::now());
        for n in [65_534, 0, 65_535, 2, 1] {
            reorder.handle(now, n, packet(n));
        }
        let order: Vec<_> = [65_534, 65_535, 0, 1, 2].map(|n| (n, false)).into();
        assert_eq!(out(&mut reorder, now), order);
        assert_eq!((reorder.lost(), reorder.late()), (0, 0));
    }

    #[test]
    fn what_does_not_come_is_waited_for_and_then_told() {
        let (mut reorder, now) = (Reorder::new(), Instant::now());
        for n in [10, 12, 13] {
            reorder.handle(now, n, packet(n));
        }
        assert_eq!(out(&mut reorder, now), [(10, false)]);
        let due = reorder.poll_timeout().unwrap();
        assert_eq!(due, now + PATIENCE);
        assert_eq!(out(&mut reorder, due), [(12, true), (13, false)]);
        reorder.handle(due, 11, packet(11));
        assert_eq!(out(&mut reorder, due), []);
        assert_eq!((reorder.lost(), reorder.late()), (1, 1));
        // A full window does not wait.
        for n in 0..WINDOW as u16 {
            reorder.handle(due, 20 + n, packet(n));
        }
        assert_eq!(out(&mut reorder, due).len(), WINDOW);
        assert_eq!(reorder.lost(), 7);
    }

    #[test]
    fn a_source_that_begins_anew_is_believed_after_some_packets() {
        let (mut reorder, now) = (Reorder::new(), Instant::now());
        reorder.handle(now, 100, packet(100));
        assert_eq!(out(&mut reorder, now), [(100, false)]);
        for n in [30_000, 30_001, 30_002, 30_003] {
            reorder.handle(now, n, packet(n));
        }
        assert_eq!(out(&mut reorder, now), [(30_002, true), (30_003, false)]);
        // One stray number changes nothing.
        reorder.handle(now, 3, packet(3));
        reorder.handle(now, 30_004, packet(30_004));
        assert_eq!(out(&mut reorder, now), [(30_004, false)]);
    }

    proptest! {
        #[test]
        fn numbers_never_go_back_and_gaps_are_told(numbers in prop::collection::vec(0_u16..200, 1..300)) {
            let (mut reorder, now) = (Reorder::new(), Instant::now());
            let mut last: Option<u16> = None;
            for n in numbers {
                reorder.handle(now, n, packet(n));
                let later = now + if n % 7 == 0 { PATIENCE } else { Duration::ZERO };
                for (number, lost) in out(&mut reorder, later) {
                    if let Some(last) = last {
                        prop_assert!(number > last);
                        prop_assert_eq!(lost, number != last + 1);
                    }
                    last = Some(number);
                }
            }
        }
    }
}
