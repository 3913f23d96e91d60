//! The loop over all viewers of a packaging that are level with it.
//!
//! Each round it takes the chunks that are new, puts them side by side once, and offers them to every viewer with one
//! write that does not wait: a plain send costs the kernel several per cent less than a vectored one. Who cannot take
//! all of it, or has something else to be sent, leaves for a task of its own.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use culvert_media::{Chunk, Time};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::clock::{Clock, Due, Unsent};
use super::viewer::{Member, catch_up};
use super::{Pace, ROUND_CHUNKS};
use crate::fanout::Class;
use crate::packaging::Line;
use crate::ring::Slot;
use crate::stream::End;

/// Viewers that are written to before other tasks get their turn: a fifth of a millisecond on a slow core, so that somebody
/// who comes is not kept waiting by those who are there.
const VIEWERS_A_TURN: usize = 16;
/// A crew with more viewers than this lets another worker begin one, where there is another.
const CREW: usize = 256;
/// A crew looks for what cannot wait at most this often.
const LOOK: Duration = Duration::from_millis(2);

/// The crews of one line.
pub(crate) struct Crews {
    workers: usize,
    crews: Mutex<Vec<Arc<Crew>>>,
}

/// One such loop, as its viewers see it.
pub(super) struct Crew {
    class: Class,
    load: AtomicUsize,
    inbox: Mutex<Inbox>,
    pub(super) wake: Notify,
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
    pub(super) fn join(&self, mut member: Member) {
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
    /// All of them, one after another.
    joined: Bytes,
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
                let end = chunks.end.clone().filter(|_| all);
                Round { first, joined: join(&taken), chunks: taken, time, end }
            }
            // The loop itself fell behind the ring: everybody catches up alone.
            None => Round { first: end, end: chunks.end.clone(), ..Round::default() },
        }
    }
}

/// One copy per round, whatever the number of viewers; none where there is only one chunk.
fn join(chunks: &[Bytes]) -> Bytes {
    if let [one] = chunks {
        return one.clone();
    }
    let mut joined = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks.iter().for_each(|chunk| joined.extend_from_slice(chunk));
    joined.freeze()
}

/// Offers a round to every member. Members that cannot take all of it, or have something else to be sent, leave.
async fn serve(crew: &Arc<Crew>, members: &mut Vec<Member>, round: &Round) {
    // Where each chunk begins in `joined`.
    let starts: Vec<usize> = round
        .chunks
        .iter()
        .scan(0, |at, chunk| {
            let start = *at;
            *at += chunk.len();
            Some(start)
        })
        .collect();
    let mut i = 0;
    let mut turn = 0;
    while i < members.len() {
        let stays = members[i].offer(round, &starts);
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
    fn offer(&mut self, round: &Round, starts: &[usize]) -> bool {
        if self.tap.flags() != 0 {
            return false;
        }
        if starts.is_empty() {
            return true;
        }
        let end = round.first + starts.len() as u64;
        let place = match self.player.cursor.next() {
            Some(place) if place >= end => return true,
            Some(place) if place >= round.first => (place - round.first) as usize,
            Some(_) | None => return false,
        };
        let bytes = &round.joined[starts[place]..];
        let cx = &mut Context::from_waker(Waker::noop());
        let written = match Pin::new(&mut self.outlet).poll_write(cx, bytes) {
            Poll::Ready(Ok(n)) => n,
            // The error comes again in the member's own task, which ends it.
            Poll::Ready(Err(_)) | Poll::Pending => return false,
        };
        let figures = self.player.session();
        if written == bytes.len() {
            figures.count(written as u64, (starts.len() - place) as u64);
            figures.set_sent(round.time);
            self.player.cursor.set_next(end);
            return true;
        }
        // Partial: what is left of the chunk that was cut must go out before anything else.
        let reached = starts[place] + written;
        let whole = starts.partition_point(|start| *start <= reached) - 1;
        let mut done = whole;
        let mut counted = written;
        if reached > starts[whole] {
            let rest = round.chunks[whole].slice(reached - starts[whole]..);
            counted += rest.len();
            self.pending.push_back(rest);
            self.cut = true;
            done += 1;
        }
        figures.count(counted as u64, (done - place) as u64);
        self.player.cursor.set_next(round.first + done as u64);
        false
    }
}
