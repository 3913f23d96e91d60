//! Writes one packaging to all its viewers: one loop over all of them, and a task of its own only for a viewer that
//! lags (DESIGN section 4).
//!
//! A *crew* is such a loop. Each round it takes the chunks that are new and offers them to every viewer with one
//! vectored write that does not wait. Who cannot take all of it leaves the crew and catches up in a task of its own,
//! which skips to a key frame where it must, and joins a crew again when it is level.
//!
//! It knows viewers only as [`Outlet`]s: sockets, TLS and protocols are elsewhere.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use culvert_media::{Chunk, Time};
use tokio::io::AsyncWrite;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::packaging::Line;
use crate::reader::{Player, Taken};
use crate::ring::Slot;
use crate::session::SessionFigures;
use crate::stream::End;

/// Where a viewer's bytes go.
pub type Outlet = Box<dyn AsyncWrite + Send + Unpin>;

/// How a viewer is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Class {
    /// Several chunks in one write, a few tens of milliseconds apart: the cheapest, and the default.
    #[default]
    Shared,
    /// Each chunk at once.
    Low,
}

impl Class {
    /// The word in the configuration and in `?latency=`.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Shared => "shared",
            Class::Low => "low",
        }
    }
}

/// The times of fan-out.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The class of viewers that do not choose.
    pub class: Class,
    /// The longest that something waits for company in the shared class, while the machine keeps up.
    pub batch: Duration,
    /// A viewer that takes no byte for this long is closed.
    pub stall: Duration,
}

impl Default for Pace {
    /// With 20 ms a shared viewer is within 50 ms of the publisher on a busy core too (bench/NUMBERS.md).
    fn default() -> Pace {
        Pace { class: Class::Shared, batch: Duration::from_millis(20), stall: Duration::from_secs(15) }
    }
}

/// Batches grow with the time that a round takes, up to this.
const LONGEST_BATCH: Duration = Duration::from_millis(300);
/// A round's period is at least this many times what the round takes: a crew leaves half of its worker to others.
const ROUND_SHARE: u32 = 2;
/// What fills a packet on an ordinary link (1,500 bytes of Ethernet, less the headers and options of IP and TCP).
const FULL_BYTES: usize = 1400;
/// Viewers that are written to before other tasks get their turn.
const VIEWERS_A_TURN: usize = 128;
/// A crew with more viewers than this lets another worker begin one, where there is another.
const CREW: usize = 256;
/// A crew looks for what cannot wait at most this often.
const LOOK: Duration = Duration::from_millis(2);
/// Most chunks of one round: one call's worth of slices.
const ROUND_CHUNKS: usize = 512;
/// Most bytes of control messages (answers, pongs) that wait for one viewer; beyond, the peer is misbehaving.
const CONTROL_BYTES: usize = 16 << 10;

const CONTROL: u8 = 1;
const CLOSE: u8 = 2;
const LEFT: u8 = 4;

/// What the owner of a connection and the writer of its viewer share.
struct Tap {
    flags: AtomicU8,
    control: Mutex<Vec<Bytes>>,
    /// Wakes the viewer's own task, where it has one.
    notify: Notify,
    /// The crew it is in, to be woken for what cannot wait for the next chunk.
    crew: Mutex<Option<Arc<Crew>>>,
}

impl Tap {
    fn raise(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.notify.notify_one();
        let crew = self.crew.lock().expect("no code panics while it holds this lock").clone();
        if let Some(crew) = crew {
            crew.wake.notify_one();
        }
    }

    fn set_crew(&self, crew: Option<Arc<Crew>>) {
        *self.crew.lock().expect("no code panics while it holds this lock") = crew;
    }

    fn take_control(&self) -> Vec<Bytes> {
        self.flags.fetch_and(!CONTROL, Ordering::AcqRel);
        std::mem::take(&mut *self.control.lock().expect("no code panics while it holds this lock"))
    }

    fn flags(&self) -> u8 {
        self.flags.load(Ordering::Acquire)
    }
}

/// A viewer that ended, with its outlet where that still works, for a protocol's last words.
pub struct Finished {
    /// Why.
    pub end: End,
    /// Still open, at a chunk boundary.
    pub outlet: Option<Outlet>,
}

/// A viewer that is being written to. Dropping it means that its peer has left.
pub struct Attached {
    tap: Arc<Tap>,
    figures: Arc<SessionFigures>,
    done: oneshot::Receiver<Finished>,
}

impl Attached {
    /// Puts bytes between two chunks: pongs, acknowledgements, answers to commands. False when too much of that
    /// waits already; the peer asks more than it reads, and its connection is to be closed.
    pub fn send(&self, bytes: Bytes) -> bool {
        let mut control = self.tap.control.lock().expect("no code panics while it holds this lock");
        if control.iter().map(Bytes::len).sum::<usize>() + bytes.len() > CONTROL_BYTES {
            return false;
        }
        control.push(bytes);
        drop(control);
        self.tap.raise(CONTROL);
        true
    }

    /// Returns when the viewer has ended, from whichever side: by itself, with its stream, or through the API. Cancel
    /// safe.
    pub async fn ended(&mut self) -> Finished {
        let finished = tokio::select! {
            finished = &mut self.done => finished,
            () = self.figures.cancelled() => {
                self.tap.raise(CLOSE);
                (&mut self.done).await
            }
        };
        finished.unwrap_or(Finished { end: End::Closed, outlet: None })
    }

    /// Asks it to end with [`End::Closed`]; wait for [`Attached::ended`].
    pub fn close(&self) {
        self.tap.raise(CLOSE);
    }

    /// What is shown of this viewer.
    pub fn session(&self) -> &Arc<SessionFigures> {
        &self.figures
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.tap.raise(LEFT);
    }
}

struct Member {
    player: Player,
    outlet: Outlet,
    tap: Arc<Tap>,
    done: oneshot::Sender<Finished>,
    class: Class,
    pace: Pace,
    /// Taken from the line and not yet written; begins within a chunk where a write was partial.
    pending: VecDeque<Bytes>,
    /// Some of what comes first in `pending` has been written: nothing else may go before the rest of it.
    cut: bool,
}

impl Player {
    /// Hands the viewer to the loops that write this packaging. Spawns the task that brings it level.
    pub fn attach(self, outlet: Outlet, class: Class, pace: Pace) -> Attached {
        let tap = Arc::new(Tap {
            flags: AtomicU8::new(0),
            control: Mutex::default(),
            notify: Notify::new(),
            crew: Mutex::default(),
        });
        let (done, receiver) = oneshot::channel();
        let figures = self.session().clone();
        let member =
            Member { player: self, outlet, tap: tap.clone(), done, class, pace, pending: VecDeque::new(), cut: false };
        tokio::spawn(catch_up(member));
        Attached { tap, figures, done: receiver }
    }
}

/// Serves one viewer alone until it is level with its packaging, then lets a crew take it.
async fn catch_up(mut member: Member) {
    let mut progress = Instant::now();
    let end = loop {
        let tap = member.tap.clone();
        let woken = tap.notify.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        let flags = tap.flags();
        if flags & LEFT != 0 {
            break End::Disconnected;
        }
        if flags & CLOSE != 0 {
            break End::Closed;
        }
        if !member.pending.is_empty() {
            let stalled = progress + member.pace.stall;
            tokio::select! {
                biased;
                written = timeout_at(stalled, member.write()) => match written {
                    Ok(Ok(())) => {
                        progress = Instant::now();
                        continue;
                    }
                    Ok(Err(_)) => break End::Disconnected,
                    Err(_) => break End::Stalled,
                },
                () = &mut woken => continue,
            }
        }
        if flags & CONTROL != 0 {
            member.pending.extend(tap.take_control());
            continue;
        }
        let line = member.player.line.clone();
        let changed = line.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let pending = &mut member.pending;
        match member.player.try_take(|bytes| {
            if !bytes.is_empty() {
                pending.push_back(bytes)
            }
        }) {
            Taken::Some => {}
            Taken::End(end) => break end,
            Taken::Empty => {
                let stalled = progress + member.pace.stall;
                tokio::select! {
                    biased;
                    flushed = timeout_at(stalled, member.flush()) => match flushed {
                        Ok(Ok(())) => progress = Instant::now(),
                        Ok(Err(_)) => break End::Disconnected,
                        Err(_) => break End::Stalled,
                    },
                    () = &mut woken => continue,
                }
                if member.player.cursor.next().is_some() {
                    return line.crews.join(member);
                }
                // It waits for an entry; no crew can use it before.
                tokio::select! {
                    () = changed => progress = Instant::now(),
                    () = woken => {}
                }
            }
        }
    };
    member.finish(end);
}

impl Member {
    /// Writes some of what is pending; returns as soon as there was progress.
    async fn write(&mut self) -> io::Result<()> {
        let Member { outlet, pending, cut, .. } = self;
        let n = poll_fn(|cx| {
            let slices: Vec<IoSlice<'_>> = pending.iter().take(ROUND_CHUNKS).map(|b| IoSlice::new(b)).collect();
            Pin::new(&mut *outlet).poll_write_vectored(cx, &slices)
        })
        .await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        *cut = advance(pending, n);
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.outlet).poll_flush(cx)).await
    }

    /// Ends the viewer. Its outlet is good for last words only where it is at a chunk boundary.
    fn finish(self, end: End) {
        let clean = !self.cut && !matches!(end, End::Disconnected | End::Stalled);
        let figures = self.player.session().clone();
        let (gaps, skipped) = figures.gaps();
        tracing::info!(
            session = figures.id, stream = %figures.stream, protocol = figures.protocol, remote = %figures.remote,
            end = end.name(), bytes = figures.bytes(), gaps, skipped, "viewer ended"
        );
        // Nobody waiting means that the connection is gone already.
        drop(self.done.send(Finished { end, outlet: clean.then_some(self.outlet) }));
    }
}

/// Drops what was written. True when it ends within a chunk.
fn advance(pending: &mut VecDeque<Bytes>, mut n: usize) -> bool {
    while let Some(front) = pending.front_mut() {
        if front.len() > n {
            front.advance(n);
            return n > 0;
        }
        n -= front.len();
        pending.pop_front();
    }
    false
}

/// The crews of one line.
pub(crate) struct Crews {
    workers: usize,
    crews: Mutex<Vec<Arc<Crew>>>,
}

struct Crew {
    class: Class,
    load: AtomicUsize,
    inbox: Mutex<Inbox>,
    wake: Notify,
}

#[derive(Default)]
struct Inbox {
    joining: Vec<Member>,
    /// The loop has ended; whoever comes must begin another.
    closed: bool,
}

impl Crew {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().expect("no code panics while it holds an inbox")
    }
}

impl Crews {
    pub(crate) fn new(workers: usize) -> Crews {
        Crews { workers: workers.max(1), crews: Mutex::default() }
    }

    /// Gives a level viewer to the least loaded crew of its class. Spawns a crew where there is none, or where all
    /// are large and a worker is free.
    fn join(&self, mut member: Member) {
        // Level viewers have nothing pending; what catching up needed room for is given back.
        member.pending = VecDeque::new();
        let mut crews = self.crews.lock().expect("no code panics while it holds the list of crews");
        crews.retain(|crew| !crew.inbox().closed);
        let same = || crews.iter().filter(|crew| crew.class == member.class);
        let least = same().min_by_key(|crew| crew.load.load(Ordering::Relaxed)).cloned();
        let spare = same().count() < self.workers;
        if let Some(crew) = least.filter(|crew| !spare || crew.load.load(Ordering::Relaxed) < CREW) {
            let mut inbox = crew.inbox();
            if !inbox.closed {
                crew.load.fetch_add(1, Ordering::Relaxed);
                member.tap.set_crew(Some(crew.clone()));
                inbox.joining.push(member);
                drop(inbox);
                crew.wake.notify_one();
                return;
            }
        }
        let crew = Arc::new(Crew {
            class: member.class,
            load: AtomicUsize::new(1),
            inbox: Mutex::default(),
            wake: Notify::new(),
        });
        let (line, pace) = (member.player.line.clone(), member.pace);
        member.tap.set_crew(Some(crew.clone()));
        crew.inbox().joining.push(member);
        crew.wake.notify_one();
        crews.push(crew.clone());
        // Readiness of a thousand sockets is asked for in one go: tokio's cooperative budget would end each round
        // after 128 of them. The loop yields by itself.
        tokio::spawn(tokio::task::coop::unconstrained(run(crew, line, pace)));
    }
}

/// The chunks of one round.
#[derive(Default)]
struct Round {
    /// Sequence number of `chunks[0]`.
    first: u64,
    chunks: Vec<Bytes>,
    /// Of the last of them.
    time: Time,
    end: Option<End>,
}

async fn run(crew: Arc<Crew>, line: Arc<Line>, pace: Pace) {
    let mut members: Vec<Member> = Vec::new();
    let mut next: Option<u64> = None;
    let mut clock = Clock::new(crew.class, pace);
    let mut looked = Instant::now();
    loop {
        // Before any waiting: once the last viewer has gone nothing feeds the line any more, and nothing would wake it.
        if !take_in(&crew, &mut members, &mut next) {
            return;
        }
        let changed = line.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        // A new viewer, an answer, somebody who left: served by a round without chunks, for it cannot wait.
        let take_chunks = match clock.due(&Unsent::count(&line, next)) {
            Due::Now => true,
            Due::At(at) => tokio::select! {
                () = sleep_until(at) => true,
                () = &mut changed => continue,
                () = crew.wake.notified() => false,
            },
            Due::Never => tokio::select! {
                () = &mut changed => continue,
                () = crew.wake.notified() => false,
            },
        };
        if !take_chunks {
            // A viewer that pings without end must not make the crew look at all of its viewers each time.
            sleep_until(looked + LOOK).await;
            looked = Instant::now();
            serve(&crew, &mut members, &Round::default()).await;
            continue;
        }
        let round = Round::take(&line, next);
        let started = Instant::now();
        serve(&crew, &mut members, &round).await;
        next = Some(round.first + round.chunks.len() as u64);
        clock.round_done(started);
        if let Some(end) = round.end {
            for member in members.drain(..) {
                crew.load.fetch_sub(1, Ordering::Relaxed);
                member.finish(end.clone());
            }
        }
    }
}

/// Takes in who is joining. False: there is nobody, and the crew is closed.
fn take_in(crew: &Crew, members: &mut Vec<Member>, next: &mut Option<u64>) -> bool {
    let mut inbox = crew.inbox();
    for member in inbox.joining.drain(..) {
        let place = member.player.cursor.next();
        *next = match (*next, place) {
            (Some(next), Some(place)) if !members.is_empty() => Some(next.min(place)),
            (_, place) => place,
        };
        members.push(member);
    }
    inbox.closed = members.is_empty();
    !inbox.closed
}

/// What a crew has not offered yet.
struct Unsent {
    bytes: usize,
    ended: bool,
}

impl Unsent {
    fn count(line: &Line, next: Option<u64>) -> Unsent {
        let chunks = line.lock();
        let ended = chunks.end.is_some();
        let slots = next.and_then(|next| chunks.ring.from(next));
        // A crew that fell behind the ring has nothing to lose by beginning at once.
        let lost = next.is_some() && slots.is_none();
        let bytes = slots.map_or(0, |slots| slots.map(|slot| slot.body.data.len()).sum());
        Unsent { bytes: if lost { FULL_BYTES } else { bytes }, ended }
    }
}

/// When a crew's next round is.
enum Due {
    Now,
    At(Instant),
    /// There is nothing new.
    Never,
}

/// Decides when rounds are. In the shared class, what fills a packet goes at once and what does not waits for company:
/// as Nagle's algorithm has it, but by our clock rather than by the peer's acknowledgements, which some delay by more
/// than a batch. So a video frame leaves when it comes, and the sound since the one before leaves with it.
struct Clock {
    class: Class,
    batch: Duration,
    /// Of the last round.
    round_at: Option<Instant>,
    /// The least time between two rounds: half a batch, more where rounds take long.
    period: Duration,
    /// Since when something waits.
    waiting: Option<Instant>,
}

impl Clock {
    fn new(class: Class, pace: Pace) -> Clock {
        Clock { class, batch: pace.batch, round_at: None, period: pace.batch / 2, waiting: None }
    }

    fn due(&mut self, unsent: &Unsent) -> Due {
        if unsent.bytes == 0 && !unsent.ended {
            return Due::Never;
        }
        if self.class == Class::Low {
            return Due::Now;
        }
        let now = Instant::now();
        let waiting = *self.waiting.get_or_insert(now);
        let full = unsent.bytes >= FULL_BYTES || unsent.ended;
        let wanted = if full { now } else { waiting + self.batch };
        let allowed = self.round_at.map_or(now, |at| at + self.period);
        let at = wanted.max(allowed);
        if at <= now { Due::Now } else { Due::At(at) }
    }

    fn round_done(&mut self, started: Instant) {
        self.waiting = None;
        self.round_at = Some(started);
        self.period = (started.elapsed() * ROUND_SHARE).clamp(self.batch / 2, LONGEST_BATCH.max(self.batch));
    }
}

impl Round {
    fn take(line: &Line, next: Option<u64>) -> Round {
        let chunks = line.lock();
        let end = chunks.ring.end();
        let first = next.unwrap_or(end).min(end);
        match chunks.ring.from(first) {
            Some(slots) => {
                let mut time = Time::ZERO;
                let mut bytes = |slot: &Slot<Chunk, _>| {
                    time = slot.time;
                    slot.body.data.clone()
                };
                let taken: Vec<Bytes> = slots.take(ROUND_CHUNKS).map(&mut bytes).collect();
                let all = first + taken.len() as u64 == end;
                Round { first, chunks: taken, time, end: chunks.end.clone().filter(|_| all) }
            }
            // The loop itself fell behind the ring: everybody catches up alone.
            None => Round { first: end, chunks: Vec::new(), time: Time::ZERO, end: chunks.end.clone() },
        }
    }
}

/// Offers a round to every member. Members that cannot take all of it, or have something else to be sent, leave.
async fn serve(crew: &Arc<Crew>, members: &mut Vec<Member>, round: &Round) {
    let slices: Vec<IoSlice<'_>> = round.chunks.iter().map(|b| IoSlice::new(b)).collect();
    // total[i]: bytes from chunk i to the end.
    let mut total: Vec<usize> = vec![0; slices.len() + 1];
    for (i, slice) in slices.iter().enumerate().rev() {
        total[i] = total[i + 1] + slice.len();
    }
    let end = round.first + slices.len() as u64;
    let mut i = 0;
    let mut turn = 0;
    while i < members.len() {
        let stays = members[i].offer(round, &slices, &total, end);
        if stays {
            i += 1;
        } else {
            let member = members.swap_remove(i);
            crew.load.fetch_sub(1, Ordering::Relaxed);
            member.tap.set_crew(None);
            tokio::spawn(catch_up(member));
        }
        turn += 1;
        if turn == VIEWERS_A_TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

impl Member {
    /// One write that does not wait. True when the member is level afterwards and has nothing else to be sent.
    fn offer(&mut self, round: &Round, slices: &[IoSlice<'_>], total: &[usize], end: u64) -> bool {
        if self.tap.flags() != 0 {
            return false;
        }
        if slices.is_empty() {
            return true;
        }
        let place = match self.player.cursor.next() {
            Some(place) if place >= end => return true,
            Some(place) if place >= round.first => (place - round.first) as usize,
            Some(_) | None => return false,
        };
        let cx = &mut Context::from_waker(Waker::noop());
        let written = match Pin::new(&mut self.outlet).poll_write_vectored(cx, &slices[place..]) {
            Poll::Ready(Ok(n)) => n,
            // The error comes again in the member's own task, which ends it.
            Poll::Ready(Err(_)) | Poll::Pending => return false,
        };
        let figures = self.player.session();
        if written == total[place] {
            figures.count(written as u64, (slices.len() - place) as u64);
            figures.set_sent(round.time);
            self.player.cursor.set_next(end);
            return true;
        }
        // Partial: what is left of the chunk that was cut must go out before anything else.
        let mut left = written;
        let mut at = place;
        while left > 0 && left >= slices[at].len() {
            left -= slices[at].len();
            at += 1;
        }
        if left > 0 {
            let rest = round.chunks[at].slice(left..);
            figures.count((written + rest.len()) as u64, (at + 1 - place) as u64);
            self.pending.push_back(rest);
            self.cut = true;
            at += 1;
        } else {
            figures.count(written as u64, (at - place) as u64);
        }
        self.player.cursor.set_next(round.first + at as u64);
        false
    }
}
