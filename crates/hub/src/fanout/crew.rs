//! The loop over all viewers of a packaging that are level with it.
//!
//! Each round it takes the chunks that are new and offers them to every viewer with one write that does not wait. Who
//! cannot take all of it, or has something else to be sent, leaves for a task of its own.
//!
//! A round touches as little of each viewer as can be, its socket: memory that is not in the processor's cache costs more
//! than anything else here. So viewers that are level have no place of their own and no counters of their own; what the crew
//! has written is counted once for all of them, and somebody who wants something of it says so to the crew.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Pace;
use super::clock::{Clock, Due, Unsent};
use super::round::{Offer, Round};
use super::viewer::{Member, catch_up};
use crate::fanout::Class;
use crate::packaging::Line;
use crate::tally::Tally;

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
    /// Something cannot wait for the next chunk: a viewer that comes, or one that has flags up.
    wake: Notify,
    /// Somebody has flags up.
    called: AtomicBool,
}

#[derive(Default)]
struct Inbox {
    joining: Vec<Member>,
    /// The loop has ended; whoever comes must begin another.
    closed: bool,
}

impl Crew {
    /// Makes the crew look at the flags of all of its viewers.
    pub(super) fn call(&self) {
        self.called.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().expect("no code panics while it holds an inbox")
    }
}

impl Crews {
    pub(crate) fn new(workers: usize) -> Crews {
        Crews { workers: workers.max(1), crews: Mutex::default() }
    }

    /// Those that are level, in all crews of a class.
    fn viewers(&self, class: Class) -> usize {
        let crews = self.crews.lock().expect("no code panics while it holds the list of crews");
        crews.iter().filter(|crew| crew.class == class).map(|crew| crew.load.load(Ordering::Relaxed)).sum()
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
            called: AtomicBool::new(false),
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

async fn run(crew: Arc<Crew>, line: Arc<Line>, pace: Pace) {
    let mut viewers = Viewers { crew, level: Vec::new(), coming: Vec::new(), next: None, tally: Arc::default() };
    let mut clock = Clock::new(viewers.crew.class, pace);
    let mut looked = Instant::now();
    loop {
        // Before any waiting: once the last viewer has gone nothing feeds the line any more, and nothing would wake it.
        if !viewers.take_in() {
            return;
        }
        let changed = line.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        // A new viewer, an answer, somebody who left: served without chunks, for it cannot wait.
        let take_chunks = match clock.due(&Unsent::count(&line, viewers.next)) {
            Due::Now => true,
            Due::At(at) => tokio::select! {
                () = sleep_until(at) => true,
                () = &mut changed => continue,
                () = viewers.crew.wake.notified() => false,
            },
            Due::Never => tokio::select! {
                () = &mut changed => continue,
                () = viewers.crew.wake.notified() => false,
            },
        };
        if !take_chunks {
            // A viewer that pings without end must not make the crew look at all of its viewers each time.
            sleep_until(looked + LOOK).await;
            looked = Instant::now();
            viewers.look();
            continue;
        }
        let Some(round) = Round::take(&line, viewers.next) else {
            // The loop itself fell behind the ring: everybody catches up alone.
            viewers.release_all();
            continue;
        };
        let started = Instant::now();
        viewers.look();
        viewers.serve(&round).await;
        clock.round_done(started, line.crews.viewers(viewers.crew.class));
        if let Some(end) = &round.end {
            for member in viewers.take_all() {
                member.finish(end.clone());
            }
        }
    }
}

/// The viewers of a crew.
struct Viewers {
    crew: Arc<Crew>,
    /// Everything before `next` was written to these; their own cursors and figures are out of date.
    level: Vec<Member>,
    /// These have not had a round yet, and know their own place.
    coming: Vec<Member>,
    /// Sequence number of the chunk that the next round begins with; None before the first viewer.
    next: Option<u64>,
    tally: Arc<Tally>,
}

impl Viewers {
    /// Takes in who is joining. False: there is nobody, and the crew is closed.
    fn take_in(&mut self) -> bool {
        let joining = {
            let mut inbox = self.crew.inbox();
            let joining = std::mem::take(&mut inbox.joining);
            inbox.closed = joining.is_empty() && self.level.is_empty() && self.coming.is_empty();
            if inbox.closed {
                return false;
            }
            joining
        };
        if self.level.is_empty() {
            let places = joining.iter().chain(&self.coming).filter_map(|member| member.player.cursor.next());
            self.next = places.min();
        }
        for member in joining {
            // One that is behind the others came while they had a round; it is brought level once more.
            // And of one with flags up the call was heard before it was here.
            if member.player.cursor.next() < self.next || member.tap.flags() != 0 {
                self.release(member);
            } else {
                self.coming.push(member);
            }
        }
        true
    }

    /// Lets those go that have flags up.
    fn look(&mut self) {
        // First: who calls from here on is heard the next time, wherever he is by then.
        let called = self.crew.called.swap(false, Ordering::AcqRel);
        // Those who come may have had theirs up before the crew could be called.
        for member in self.coming.extract_if(.., |member| member.tap.flags() != 0).collect::<Vec<_>>() {
            self.release(member);
        }
        if !called {
            return;
        }
        let mut i = 0;
        while i < self.level.len() {
            if self.level[i].tap.flags() == 0 {
                i += 1;
            } else {
                let member = self.take_level(i);
                self.release(member);
            }
        }
    }

    /// Offers a round to all.
    async fn serve(&mut self, round: &Round) {
        let mut turn = 0;
        let mut i = 0;
        while i < self.level.len() {
            match round.offer(&mut self.level[i], 0) {
                Offer::Whole => i += 1,
                Offer::Part { sent, next } => {
                    let mut member = self.take_level(i);
                    member.took(&sent, next);
                    self.release(member);
                }
            }
            rest_after(&mut turn).await;
        }
        let mut i = 0;
        while i < self.coming.len() {
            let place = self.coming[i].player.cursor.next();
            let Some(skip) = place.and_then(|place| usize::try_from(place.checked_sub(round.first)?).ok()) else {
                let member = self.coming.swap_remove(i);
                self.release(member);
                continue;
            };
            if round.first + skip as u64 >= round.end_seq() {
                // It is ahead of this round.
                i += 1;
                continue;
            }
            let mut member = self.coming.swap_remove(i);
            match round.offer(&mut member, skip) {
                Offer::Whole => {
                    member.took(&round.rest_of(skip), round.end_seq());
                    self.tally.share(member.player.session(), &round.total());
                    self.level.push(member);
                }
                Offer::Part { sent, next } => {
                    member.took(&sent, next);
                    self.release(member);
                }
            }
            rest_after(&mut turn).await;
        }
        self.tally.add(&round.total());
        self.next = Some(round.end_seq());
    }

    /// Takes one of those that are level out, with its place and its figures.
    fn take_level(&mut self, i: usize) -> Member {
        let mut member = self.level.swap_remove(i);
        if let Some(next) = self.next {
            member.player.cursor.set_next(next);
        }
        member.player.session().settle();
        member
    }

    fn take_all(&mut self) -> Vec<Member> {
        let mut all: Vec<Member> = (0..self.level.len()).rev().map(|i| self.take_level(i)).collect();
        all.append(&mut self.coming);
        self.crew.load.fetch_sub(all.len(), Ordering::Relaxed);
        all
    }

    fn release_all(&mut self) {
        for member in self.take_all() {
            member.tap.set_crew(None);
            tokio::spawn(catch_up(member));
        }
    }

    /// Leaves a viewer to a task of its own.
    fn release(&self, member: Member) {
        self.crew.load.fetch_sub(1, Ordering::Relaxed);
        member.tap.set_crew(None);
        tokio::spawn(catch_up(member));
    }
}

/// Lets other tasks have their turn after some viewers.
async fn rest_after(turn: &mut usize) {
    *turn += 1;
    if *turn == VIEWERS_A_TURN {
        *turn = 0;
        tokio::task::yield_now().await;
    }
}
