//! What acknowledgements tell of the path: how much may be under way, how fast it is delivered, and whether it is late.
//!
//! In the manner of LEDBAT (RFC 6817): the least delay seen is the path's own, and what comes on top is a queue that we
//! made. Unlike LEDBAT it does not seek the most that the path carries but the least that the stream needs, for
//! whatever is under way when the path collapses is late by as much.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What may be under way at first, and always while nothing is late: a path of 40 ms then carries 6 Mbit/s, and one that
/// collapses to 200 kbit/s has delivered it in 1.3 s.
const FIRST_WINDOW_BYTES: usize = 32 << 10;
/// 16 Mbit/s over 2 s of round trip.
const MAX_WINDOW_BYTES: usize = 4 << 20;
/// The window never shrinks below: 200 kbit/s over 0.65 s of round trip.
const MIN_WINDOW_BYTES: usize = 16 << 10;
/// While the oldest byte is late no more is given out than keeps the path busy.
const LATE_WINDOW_BYTES: usize = 8 << 10;
/// What the slowest path that keeps the promise of 2 s (200 kbit/s) delivers in 1.9 s. A key frame that fits in there is
/// not begun while it and what is under way do not: if the path has just collapsed, nobody knows yet. Where the stream
/// has more than that under way at all times, the promise cannot be made.
const PROMISED_BYTES: usize = 47_500;
/// A smaller piece is not worth its framing, if there is more to come: one TCP segment.
pub(super) const LEAST_PIECE_BYTES: usize = 1_400;
/// Delay beyond the path's own that means a queue. More than the LEDBAT target (100 ms), less than a person notices.
const LATE_AFTER: Duration = Duration::from_millis(150);
/// The window may grow while the least of the last delays is this near to the path's own: LEDBAT's target, and its way
/// to tell a queue, which raises all delays, from jitter, which raises some.
const GROW_BELOW: Duration = Duration::from_millis(75);
const LAST_DELAYS: usize = 8;
/// Most that is added for jitter, besides a quarter of the path's own delay.
const MAX_JITTER_ALLOWANCE: Duration = Duration::from_millis(150);
/// The least delay is that of the current and the last such time, so that a new route is noticed.
const BASE_EPOCH: Duration = Duration::from_secs(30);
/// Most that a path's own delay counts for in budgets; beyond is a broken path.
pub(super) const MAX_PATIENCE: Duration = Duration::from_secs(3);
/// Late time that a measurement needs at least, and looks back on at most.
const MEASURE_LEAST: Duration = Duration::from_millis(200);
const MEASURE_MOST: Duration = Duration::from_secs(1);
/// What came through in this time tells the least that a path can carry.
const RECENT: Duration = Duration::from_millis(250);
/// What a stream brings is reckoned over this time.
const OFFERED: Duration = Duration::from_secs(2);
/// A window that held things up for so long, and a round trip, may grow: more than a single key frame does.
const HELD_UP: Duration = Duration::from_millis(200);
/// So much without lateness shows that a path is not a slow one (at least 100 kB/s, else it would have been late).
const SMOOTH_BYTES: u64 = 16 << 10;
/// After so long without lateness and without restraint, a path is no longer held for slow.
const CALM: Duration = Duration::from_secs(3);
/// Most pieces under way that are told apart; further ones count as part of the last.
const MAX_MARKS: usize = 4096;

/// The path of one relay.
#[derive(Debug)]
pub(super) struct Path {
    /// None of what follows holds if the other side does not acknowledge.
    acks: bool,
    sent: u64,
    acked: u64,
    /// Where each piece under way ends, and when it was given out.
    marks: VecDeque<(u64, Instant)>,
    first_out: Option<Instant>,
    last_ack: Option<Instant>,
    window: usize,
    base: Base,
    jitter: Jitter,
    last_delays: VecDeque<Duration>,
    /// Since when the window holds things up.
    held_since: Option<Instant>,
    late_at: Option<Instant>,
    /// Bytes acknowledged since something was last late.
    smooth: u64,
    /// How long the path was late and what it delivered in that time, lately.
    late: VecDeque<(Duration, u64)>,
    /// Bytes per second that it is held to carry; none if it was not found to be slow.
    capacity: Option<f64>,
    delivered: Meter,
    offered: Meter,
    /// The largest frame since the last but one epoch of `base`.
    largest: usize,
    /// The end of a probe, its size, and when it went out.
    probe: Option<(u64, usize, Instant)>,
}

impl Path {
    pub(super) fn new(now: Instant) -> Path {
        Path {
            acks: true,
            sent: 0,
            acked: 0,
            marks: VecDeque::new(),
            first_out: None,
            last_ack: None,
            window: FIRST_WINDOW_BYTES,
            base: Base { current: None, previous: None, since: now },
            jitter: Jitter::default(),
            last_delays: VecDeque::new(),
            held_since: None,
            late_at: None,
            smooth: 0,
            late: VecDeque::new(),
            capacity: None,
            delivered: Meter::new(RECENT),
            offered: Meter::new(OFFERED),
            largest: 0,
            probe: None,
        }
    }

    pub(super) fn without_acks(&mut self) {
        self.acks = false;
    }

    /// A frame came to be sent.
    pub(super) fn handle_offered(&mut self, now: Instant, bytes: usize) {
        self.offered.count(now, bytes as u64);
        self.largest = self.largest.max(bytes);
    }

    pub(super) fn handle_sent(&mut self, now: Instant, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
        self.first_out.get_or_insert(now);
        if !self.acks {
            return;
        }
        let full = self.marks.len() >= MAX_MARKS;
        match self.marks.back_mut() {
            Some((end, at)) if *at == now || full => *end = self.sent,
            Some(_) | None => self.marks.push_back((self.sent, now)),
        }
    }

    /// The last so many bytes given out were a probe.
    pub(super) fn handle_probe(&mut self, now: Instant, bytes: usize) {
        self.probe = Some((self.sent, bytes, now));
    }

    /// What is given out has to wait for the window, or nothing has to.
    pub(super) fn handle_held(&mut self, now: Instant, held: bool) {
        if held {
            self.held_since.get_or_insert(now);
        } else {
            self.held_since = None;
        }
    }

    /// So many bytes in all have arrived. `restrained`: frames are being left out.
    pub(super) fn handle_ack(&mut self, now: Instant, received: u64, restrained: bool) {
        // More than was sent cannot have arrived, and what has arrived has arrived.
        let received = received.min(self.sent);
        if !self.acks || received <= self.acked {
            return;
        }
        let bytes = received - self.acked;
        let late = self.lateness(now);
        let mut delay = None;
        while let Some((_, at)) = self.marks.pop_front_if(|(end, _)| *end <= received) {
            delay = Some(now.saturating_duration_since(at));
        }
        self.acked = received;
        self.last_ack = Some(now);
        self.delivered.count(now, bytes);
        if let Some(delay) = delay {
            let bound = self.base.get().unwrap_or(delay) + self.allowance();
            if self.base.handle(now, delay) {
                self.largest = 0;
            }
            self.jitter.handle(delay.min(bound));
            if self.last_delays.len() == LAST_DELAYS {
                self.last_delays.pop_front();
            }
            self.last_delays.push_back(delay);
        }
        match late {
            Some(span) => self.handle_late(now, span, bytes),
            None => self.handle_timely(now, bytes, restrained),
        }
        if let Some((_, size, at)) = self.probe.filter(|(end, ..)| *end <= received) {
            self.probe = None;
            let took = now.saturating_duration_since(at).saturating_sub(self.patience(now));
            self.raise(size as f64 / took.max(Duration::from_millis(5)).as_secs_f64());
        }
    }

    fn handle_late(&mut self, now: Instant, span: Duration, bytes: u64) {
        self.late_at = Some(now);
        self.smooth = 0;
        self.late.push_back((span.min(MEASURE_MOST), bytes));
        let total = |late: &VecDeque<(Duration, u64)>| late.iter().map(|(span, _)| *span).sum::<Duration>();
        while self.late.len() > 1 && total(&self.late) > MEASURE_MOST {
            self.late.pop_front();
        }
        let span = total(&self.late);
        if span < MEASURE_LEAST {
            return;
        }
        let capacity = self.late.iter().map(|(_, bytes)| *bytes).sum::<u64>() as f64 / span.as_secs_f64();
        // Slower than a modem is not slow but stalled; a floor, so that the first sign of life is believed.
        self.capacity = Some(capacity.max(1_000.0));
        self.window = self.busy_bytes().clamp(MIN_WINDOW_BYTES, self.window.max(MIN_WINDOW_BYTES));
    }

    fn handle_timely(&mut self, now: Instant, bytes: u64, restrained: bool) {
        self.smooth = self.smooth.saturating_add(bytes);
        let calm = self.late_at.is_none_or(|at| now.saturating_duration_since(at) >= CALM);
        if calm {
            self.late.clear();
        }
        if calm && !restrained {
            self.capacity = None;
        }
        self.raise(self.delivered.rate(now));
        let Some(held) = self.held_since else { return };
        // RFC 6817 2.4.2: never far beyond what is used.
        let needed = self.needed_bytes(now);
        let most = (2 * needed).max(self.largest).clamp(FIRST_WINDOW_BYTES, MAX_WINDOW_BYTES);
        let least = self.last_delays.iter().min().copied().unwrap_or_default();
        let free = least <= self.base.get().unwrap_or_default() + GROW_BELOW;
        if free && now.saturating_duration_since(held) >= HELD_UP + self.patience(now) {
            self.window = self.window.saturating_add(bytes as usize);
        }
        if free && self.smooth >= SMOOTH_BYTES {
            // Doubling from round trip to round trip takes 10 s where one takes 2 s. What the stream needs is known.
            let carried = self.capacity.map_or(usize::MAX, |capacity| (capacity * self.typical()) as usize);
            self.window = self.window.max(needed.saturating_add(needed / 4).min(carried));
        }
        self.window = self.window.min(most);
    }

    /// What the stream brings in the time that the path takes.
    fn needed_bytes(&self, now: Instant) -> usize {
        (self.offered.rate_so_far(now) * self.typical()) as usize
    }

    /// Seconds that a byte usually takes until it is acknowledged: with the path's jitter, and little of our own queue,
    /// which varies less.
    fn typical(&self) -> f64 {
        let spread = (2.0 * self.jitter.deviation).min(LATE_AFTER.as_secs_f64());
        let jittery = self.base.get().unwrap_or_default().as_secs_f64() + spread;
        self.jitter.mean.unwrap_or_default().min(jittery)
    }

    /// The path carries at least so many bytes per second.
    fn raise(&mut self, rate: f64) {
        self.capacity = self.capacity.map(|capacity| capacity.max(rate));
    }

    /// How many bytes may be given out now.
    pub(super) fn room(&self, now: Instant) -> usize {
        if !self.acks {
            return usize::MAX;
        }
        self.limit(now).saturating_sub(self.in_flight())
    }

    /// A frame of this size may be begun, after which it has to be finished. There should be room for all of it, or much.
    pub(super) fn may_begin(&self, now: Instant, bytes: usize, key: bool) -> bool {
        if !self.acks {
            return true;
        }
        let whole = bytes.min(self.limit(now) / 2).max(LEAST_PIECE_BYTES);
        let promised = key && bytes <= PROMISED_BYTES && self.needed_bytes(now) <= PROMISED_BYTES;
        let kept = !promised || bytes + self.in_flight() <= PROMISED_BYTES;
        self.room(now) >= whole && kept
    }

    /// How many bytes may be under way.
    fn limit(&self, now: Instant) -> usize {
        let late = self.lateness(now).is_some();
        if late { self.window.min(self.busy_bytes()) } else { self.window }
    }

    /// What keeps the path busy and not more: what it delivers within its own delay and a tolerable queue.
    fn busy_bytes(&self) -> usize {
        let seconds = self.typical() + LATE_AFTER.as_secs_f64();
        self.capacity.map_or(0, |capacity| (capacity * seconds) as usize).max(LATE_WINDOW_BYTES)
    }

    pub(super) fn in_flight(&self) -> usize {
        if self.acks { usize::try_from(self.sent - self.acked).unwrap_or(usize::MAX) } else { 0 }
    }

    /// How long after the path's own delay `bytes` would arrive, if they were given out now.
    pub(super) fn wait(&self, now: Instant, bytes: usize) -> Duration {
        let Some(capacity) = self.capacity(now) else { return Duration::ZERO };
        let seconds = (self.in_flight().saturating_add(bytes)) as f64 / capacity;
        // An hour is never, and a Duration has its bounds too.
        Duration::from_secs_f64(seconds.min(3600.0)).saturating_sub(self.base.get().unwrap_or_default())
    }

    /// Bytes per second, if the path was found to be slow.
    pub(super) fn capacity(&self, now: Instant) -> Option<f64> {
        let capacity = self.capacity?;
        let Some(stalled) = self.lateness(now).filter(|span| *span >= MEASURE_LEAST) else { return Some(capacity) };
        // Nothing came for a while: it may have become slower still.
        let least = MIN_WINDOW_BYTES as f64 / stalled.as_secs_f64();
        Some(capacity.min(least.max(1_000.0)))
    }

    /// The path is late, or was just now: small pieces, so that what else is on the link has its turn.
    pub(super) fn is_slow(&self, now: Instant) -> bool {
        self.capacity.is_some() || self.lateness(now).is_some()
    }

    /// Whether the oldest byte under way is late; then, for how long nothing has been delivered.
    pub(super) fn lateness(&self, now: Instant) -> Option<Duration> {
        let ((_, oldest), base) = (self.marks.front()?, self.base.get()?);
        let age = now.saturating_duration_since(*oldest);
        let since = self.last_ack.map_or(*oldest, |ack| ack.max(*oldest));
        (age > base + self.allowance()).then(|| now.saturating_duration_since(since))
    }

    /// How far a delay may be above the least: a queue that nobody minds, and four times the mean deviation (as RFC 6298
    /// has it for time-outs, for the same reason), bounded so that a growing queue does not excuse itself.
    fn allowance(&self) -> Duration {
        let most = MAX_JITTER_ALLOWANCE + self.base.get().unwrap_or_default() / 4;
        LATE_AFTER + Duration::from_secs_f64(4.0 * self.jitter.deviation).min(most)
    }

    /// The path's own delay, which is nobody's fault; before anything came back, as long as that takes.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        if !self.acks {
            return Duration::ZERO;
        }
        let waited = || self.first_out.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.base.get().unwrap_or_else(waited).min(MAX_PATIENCE)
    }
}

/// The least delay lately.
#[derive(Debug)]
struct Base {
    current: Option<Duration>,
    previous: Option<Duration>,
    since: Instant,
}

impl Base {
    /// Takes a delay; says whether a new epoch began.
    fn handle(&mut self, now: Instant, delay: Duration) -> bool {
        let new = now.saturating_duration_since(self.since) >= BASE_EPOCH && self.current.is_some();
        if new {
            self.previous = self.current.take();
            self.since = now;
        }
        self.current = Some(self.current.map_or(delay, |least| least.min(delay)));
        new
    }

    fn get(&self) -> Option<Duration> {
        self.current.into_iter().chain(self.previous).min()
    }
}

/// Mean delay and mean deviation, smoothed as RFC 6298 2 does.
#[derive(Debug, Default)]
struct Jitter {
    mean: Option<f64>,
    deviation: f64,
}

impl Jitter {
    fn handle(&mut self, delay: Duration) {
        let delay = delay.as_secs_f64();
        let mean = *self.mean.get_or_insert(delay);
        self.deviation += ((delay - mean).abs() - self.deviation) / 4.0;
        self.mean = Some(mean + (delay - mean) / 8.0);
    }
}

/// Bytes per second over a sliding time.
#[derive(Debug)]
struct Meter {
    span: Duration,
    /// At most 17: what comes within a sixteenth of the span is one.
    counts: VecDeque<(Instant, u64)>,
    began: Option<Instant>,
}

impl Meter {
    fn new(span: Duration) -> Meter {
        Meter { span, counts: VecDeque::new(), began: None }
    }

    fn count(&mut self, now: Instant, bytes: u64) {
        self.began.get_or_insert(now);
        while self.counts.pop_front_if(|(at, _)| now.saturating_duration_since(*at) > self.span).is_some() {}
        match self.counts.back_mut() {
            Some((at, sum)) if now.saturating_duration_since(*at) < self.span / 16 => *sum = sum.saturating_add(bytes),
            Some(_) | None => self.counts.push_back((now, bytes)),
        }
    }

    /// Over the whole span, even if there was less to count, and a quarter more, since what is counted at its beginning
    /// took time before: a rate that is surely not too high.
    fn rate(&self, now: Instant) -> f64 {
        self.sum(now) / (self.span + self.span / 4).as_secs_f64()
    }

    /// Over the span as far as there was anything to count.
    fn rate_so_far(&self, now: Instant) -> f64 {
        let age = self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        self.sum(now) / age.clamp(self.span / 8, self.span).as_secs_f64()
    }

    fn sum(&self, now: Instant) -> f64 {
        let recent = self.counts.iter().filter(|(at, _)| now.saturating_duration_since(*at) <= self.span);
        recent.map(|(_, bytes)| *bytes).sum::<u64>() as f64
    }
}
