//! How much a viewer's network takes, by what the viewer says has come, and what of it is left at this moment.
//!
//! Where little is lost and nothing queues, nothing is held back. Where a tenth is lost, or answers take much longer than they did (a queue on the way
//! that grows: most mobile networks lose nothing and deliver late instead), so much goes out as arrived, a little less, and then more again, step by
//! step, until that is more than the stream has. The thresholds are those of Google Congestion Control (draft-ietf-rmcat-gcc-02 6); what is lost is
//! told by transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01) or else by receiver reports (RFC 3550 6.4.2), delays by
//! these.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second where nothing is held back: 128 Mbit/s, so that what is cached does not go out in one instant.
const FREE: f64 = 16e6;
/// And where all is: sound passes.
const LEAST: f64 = 12_500.0;
/// So much goes out at once, within these bounds: four packets, and a burst of the kernel's.
const AT_ONCE: Duration = Duration::from_millis(3);
const AT_ONCE_BYTES: (f64, f64) = (4_800.0, 48e3);
/// Part of the packets that is lost: up to the first it is chance, from the second on it is the network that is full.
const LOST: (f64, f64) = (0.02, 0.10);
/// How much longer than at its best an answer takes where a queue is on the way.
const QUEUE: Duration = Duration::from_millis(200);
/// The best of so long counts, twice this at the most: paths change.
const BEST_OF: Duration = Duration::from_secs(30);
/// Each second that goes well adds so much.
const MORE: f64 = 1.08;
/// So many seconds in a row there was room for half as much again: then it is not held back any more.
const CALM: f64 = 5.0;
/// What is said within so long of holding something back is about what went out before.
const SETTLE: Duration = Duration::from_millis(900);

/// What a viewer said of the last while, a second at the most.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    /// The part that was lost, 0 to 1.
    pub(crate) loss: Option<f32>,
    /// There and back, where that was measured anew.
    pub(crate) rtt: Option<Duration>,
}

/// What may go out. What is asked for each picture comes first: with many viewers all of it is in no cache.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Budget {
    /// Bytes a second; none: as much as there is.
    rate: Option<f64>,
    tokens: f64,
    filled: Instant,
    /// Since the last report: what went out, and what would have.
    sent: f64,
    wanted: f64,
    reported: Instant,
    /// The best round trips of this and the last while.
    best: [Option<Duration>; 2],
    best_since: Instant,
    last: Option<Duration>,
    /// How much longer than at its best it took by then.
    queue: Duration,
    /// For how many seconds.
    calm: f64,
    /// Until then nothing is learnt.
    settled: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Budget {
        let zero = 0.0;
        Budget {
            rate: None,
            tokens: AT_ONCE_BYTES.1,
            filled: now,
            sent: zero,
            wanted: zero,
            reported: now,
            best: [None; 2],
            best_since: now,
            last: None,
            queue: Duration::ZERO,
            calm: zero,
            settled: now,
        }
    }

    /// Bits a second, where less than all goes out.
    pub(crate) fn bits_per_second(&self) -> Option<u64> {
        self.rate.map(|rate| (rate * 8.0) as u64)
    }

    fn at_once(&self) -> f64 {
        let (least, most) = AT_ONCE_BYTES;
        (self.rate.unwrap_or(FREE) * AT_ONCE.as_secs_f64()).clamp(least, most)
    }

    /// Whether something may go out now.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        // It is asked for each packet of a picture, all at one moment.
        if now > self.filled {
            let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
            self.filled = now;
            self.tokens = (self.tokens + elapsed * self.rate.unwrap_or(FREE)).min(self.at_once());
        }
        self.tokens > 0.0
    }

    /// When as much may go out as goes at once.
    pub(crate) fn again(&self) -> Instant {
        self.filled + Duration::from_secs_f64((self.at_once() - self.tokens) / self.rate.unwrap_or(FREE))
    }

    /// This many bytes went out.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.tokens -= bytes as f64;
        self.sent += bytes as f64;
    }

    /// This many bytes came to be sent.
    pub(crate) fn want(&mut self, bytes: usize) {
        self.wanted += bytes as f64;
    }

    /// Learns from what a viewer said.
    pub(crate) fn handle_report(&mut self, now: Instant, report: Report) {
        let seconds = now.saturating_duration_since(self.reported).as_secs_f64();
        if seconds < 0.1 || now < self.settled {
            return;
        }
        self.reported = now;
        let (sent, wanted) = (self.sent / seconds, self.wanted / seconds);
        (self.sent, self.wanted) = (0.0, 0.0);
        let loss = f64::from(report.loss.unwrap_or(0.0)).clamp(0.0, 1.0);
        let growth = report.rtt.map_or(0.0, |rtt| self.measure(now, rtt));
        let queue = self.queue;
        if report.rtt.is_none() && queue > QUEUE && loss <= LOST.1 {
            // That was judged when it was measured; what was done about it has not been seen yet.
            return;
        }
        if loss > LOST.1 || queue > QUEUE {
            self.calm = 0.0;
            // It is getting shorter by itself: what was done is enough.
            if loss <= LOST.1 && growth < 0.0 && self.rate.is_some() {
                return;
            }
            let sent = self.rate.map_or(sent, |rate| sent.max(rate / 2.0));
            let arrived = sent * (1.0 - loss) * (1.0 - growth.max(0.0) / seconds).max(0.3);
            let margin = if queue > QUEUE { 0.85 } else { 1.0 - loss / 2.0 };
            let rate = (arrived * margin).min(self.rate.unwrap_or(FREE)).max(LEAST);
            self.rate = Some(rate);
            self.settled = now + SETTLE;
        } else if let (Some(rate), true) = (self.rate, loss < LOST.0 && queue < QUEUE / 2) {
            self.calm = if rate > 1.5 * wanted { self.calm + seconds } else { 0.0 };
            let is_used = sent > 0.6 * rate || wanted > rate;
            let more = rate * MORE.powf(seconds) + 1000.0 * seconds;
            self.rate = (self.calm < CALM).then_some(if is_used { more } else { rate });
        }
    }

    /// Takes what was measured of how long it takes, and says how many seconds longer that is than last time.
    fn measure(&mut self, now: Instant, rtt: Duration) -> f64 {
        if now.saturating_duration_since(self.best_since) > BEST_OF {
            self.best = [None, self.best[0]];
            self.best_since = now;
        }
        let [this, before] = self.best;
        let this = this.map_or(rtt, |best| best.min(rtt));
        self.best = [Some(this), before];
        let best = before.map_or(this, |before| before.min(this));
        self.queue = rtt.saturating_sub(best);
        self.last.replace(rtt).map_or(0.0, |last| rtt.as_secs_f64() - last.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line with a queue; what does not fit is lost.
    struct Line {
        bytes_per_second: f64,
        most: f64,
        queued: f64,
        came: f64,
        lost: f64,
    }

    /// Sends a stream of so many bytes a second over it for so long, and says what arrived a second in the last ten, how much of that was lost, and
    /// how long it took at the end.
    fn run(budget: &mut Budget, line: &mut Line, from: Instant, wanted: f64, seconds: u32) -> (f64, f64, Duration) {
        let step = Duration::from_millis(1);
        let (mut backlog, mut now): (f64, _) = (0.0, from);
        let (mut arrived, mut gone) = (0.0, 0.0);
        for second in 0..seconds {
            (line.came, line.lost) = (0.0, 0.0);
            for _ in 0..1000 {
                now += step;
                backlog = (backlog + wanted / 1000.0).min(wanted);
                budget.want((wanted / 1000.0) as usize);
                line.queued = (line.queued - line.bytes_per_second / 1000.0).max(0.0);
                while backlog >= 1200.0 && budget.allows(now) {
                    budget.spend(1200);
                    backlog -= 1200.0;
                    line.came += 1.0;
                    if line.queued + 1200.0 > line.most {
                        line.lost += 1.0;
                    } else {
                        line.queued += 1200.0;
                    }
                }
            }
            let loss = if line.came > 0.0 { line.lost / line.came } else { 0.0 };
            if second + 10 >= seconds {
                arrived += (line.came - line.lost) * 120.0;
                gone += loss / 10.0;
            }
            let rtt = Duration::from_millis(40) + Duration::from_secs_f64(line.queued / line.bytes_per_second);
            budget.handle_report(now, Report { loss: Some(loss as f32), rtt: Some(rtt) });
        }
        (arrived, gone, Duration::from_secs_f64(line.queued / line.bytes_per_second))
    }

    #[test]
    fn a_line_that_is_too_narrow_is_filled_and_not_overrun_and_forgotten_once_it_is_wide() {
        // By what is lost (50 ms of queue), and by what is late (5 s of it).
        for queue in [0.05, 5.0] {
            let start = Instant::now();
            let mut budget = Budget::new(start);
            let mut line = Line { bytes_per_second: 125e3, most: 125e3 * queue, queued: 0.0, came: 0.0, lost: 0.0 };
            let (arrived, lost, waits) = run(&mut budget, &mut line, start, 250e3, 40);
            assert!((70e3..126e3).contains(&arrived), "{arrived} with {queue} s");
            assert!(lost < 0.08, "{lost} with {queue} s");
            assert!(waits < Duration::from_millis(700), "{waits:?} with {queue} s");
            assert!(budget.bits_per_second().is_some());
            (line.bytes_per_second, line.most) = (1250e3, 1250e3 * queue);
            let (arrived, ..) = run(&mut budget, &mut line, start + Duration::from_secs(40), 250e3, 60);
            assert!(arrived > 245e3, "{arrived} with {queue} s");
            assert_eq!(budget.bits_per_second(), None, "with {queue} s");
        }
    }

    #[test]
    fn what_is_lost_by_chance_holds_nothing_back_and_silence_says_nothing() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for second in 1..100 {
            budget.want(250_000);
            budget.spend(250_000);
            let loss = (second % 2 == 0).then_some(0.05);
            let rtt = (second % 3 == 0).then_some(Duration::from_millis(second % 7 * 20));
            budget.handle_report(start + Duration::from_secs(second), Report { loss, rtt });
            assert_eq!(budget.bits_per_second(), None);
        }
    }

    #[test]
    fn a_round_trip_is_judged_once_and_nothing_is_added_before_the_next() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut report = |second: u64, rtt: Option<u64>| {
            let now = start + Duration::from_secs(second);
            budget.want(500_000);
            // What is held back does not go out.
            budget.spend(if second <= 2 { 500_000 } else { 100_000 });
            budget.handle_report(now, Report { loss: Some(0.0), rtt: rtt.map(Duration::from_millis) });
            budget.rate
        };
        assert_eq!(report(1, Some(40)), None);
        let cut = report(2, Some(400));
        assert!(cut.is_some());
        assert_eq!((report(3, None), report(4, None)), (cut, cut));
        // It got worse still, and then better.
        let again = report(5, Some(500));
        assert!(again < cut);
        assert!(report(7, Some(40)) > again && report(8, None) > again);
    }

    #[test]
    fn bursts_are_bounded_and_sound_passes_where_nothing_else_does() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert!(budget.allows(start));
        budget.spend(48_000);
        assert!(!budget.allows(start) && budget.again() <= start + Duration::from_millis(4));
        assert!(budget.allows(start + Duration::from_millis(3)));
        for second in 1..60 {
            let now = start + Duration::from_secs(second);
            budget.spend(20_000);
            budget.handle_report(now, Report { loss: Some(1.0), rtt: None });
        }
        assert_eq!(budget.bits_per_second(), Some(100_000));
        assert!(budget.allows(start + Duration::from_secs(120)));
    }
}
