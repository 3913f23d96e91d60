//! A stream as WebRTC has it: frames cut into payloads once for all who watch, kept from the newest key frame on.

mod sent;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use culvert_hub::{Admission, Hub};
use culvert_media::{Kind, StreamName};
use tokio::sync::{Notify, broadcast};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::crew::{Berth, Crew};
use crate::media::Media;
use crate::unit::{Batch, Unit};

pub(crate) use self::sent::Sent;
use self::worker::Worker;

/// Batches that a crew may be behind before its viewers go on at the next key frame: four seconds of pictures and sound, or more.
const BEHIND: usize = 400;
/// Most of a group that is kept for who comes: more would be late when it is there.
const KEPT_BYTES: usize = 8 << 20;
const KEPT_UNITS: usize = 1024;
/// How long a request waits to see whether a stream that may reorder does so in a way that browsers cannot show.
const LOOK: Duration = Duration::from_millis(300);

/// The feeds of all streams. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Feeds {
    table: Arc<Mutex<HashMap<StreamName, Arc<Feed>>>>,
    /// The longest that sound waits for company where many watch.
    crowd_batch: Duration,
}

/// A feed that runs: dropping it, however it came to that, closes it.
struct Open {
    feeds: Feeds,
    stream: StreamName,
    feed: Arc<Feed>,
    over: Over,
}

impl Open {
    fn close(mut self, over: Over) {
        self.over = over;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut table = self.feeds.table();
        self.feed.close(self.over.clone());
        if table.get(&self.stream).is_some_and(|known| Arc::ptr_eq(known, &self.feed)) {
            table.remove(&self.stream);
        }
    }
}

/// One stream's.
pub(crate) struct Feed {
    state: Mutex<State>,
    seats: AtomicUsize,
    /// Of them, those that are connected and get what there is.
    watching: AtomicUsize,
    left: Notify,
    wanted: Notify,
    closed: CancellationToken,
    crowd_batch: Duration,
}

struct State {
    sent: Sent,
    cache: VecDeque<Arc<Unit>>,
    cached_bytes: usize,
    /// The number of the newest unit.
    newest: u64,
    units: Option<broadcast::Sender<Batch>>,
    crews: Vec<Arc<Crew>>,
    end: Option<Over>,
}

/// Why there is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The stream has ended.
    Ended,
    /// The codecs are others now: what was negotiated does not hold any more.
    Changed,
    /// Pictures are built on others that are shown later, and browsers show them as they come.
    Reordered,
}

/// One who watches; the last to leave ends the feed.
pub(crate) struct Seat {
    feed: Arc<Feed>,
    hub: Hub,
    berth: Option<Berth>,
}

impl Feeds {
    fn table(&self) -> MutexGuard<'_, HashMap<StreamName, Arc<Feed>>> {
        self.table.lock().expect("no code panics while it holds the feeds")
    }

    pub(crate) fn new(crowd_batch: Duration) -> Feeds {
        Feeds { crowd_batch, ..Feeds::default() }
    }

    /// A seat at the feed of a stream, which is begun where there is none.
    pub(crate) fn join(&self, hub: &Hub, stream: &StreamName, admission: &Admission) -> Seat {
        if let Some(seat) = self.table().get(stream).and_then(|feed| feed.seat(hub)) {
            return seat;
        }
        let (units, _) = broadcast::channel(BEHIND);
        // Looks for decoders, which is nothing to do while others wait for the table.
        let sent = Sent::of(&admission.tracks());
        let mut table = self.table();
        if let Some(seat) = table.get(stream).and_then(|feed| feed.seat(hub)) {
            return seat;
        }
        let state = State {
            sent,
            cache: VecDeque::new(),
            cached_bytes: 0,
            newest: 0,
            units: Some(units),
            crews: Vec::new(),
            end: None,
        };
        let feed = Arc::new(Feed {
            state: Mutex::new(state),
            seats: AtomicUsize::new(1),
            watching: AtomicUsize::new(0),
            crowd_batch: self.crowd_batch,
            left: Notify::new(),
            wanted: Notify::new(),
            closed: CancellationToken::new(),
        });
        table.insert(stream.clone(), feed.clone());
        let (feeds, stream, mut reader) = (self.clone(), stream.clone(), admission.reader());
        let open = Open { feeds, stream, feed: feed.clone(), over: Over::Ended };
        hub.spawn(async move {
            let own = open.feed.clone();
            let over = Worker::new(&own).run(&mut reader).await;
            open.close(over);
        });
        Seat { feed, hub: hub.clone(), berth: None }
    }

    /// How many streams are cut for WebRTC now.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a feed")
    }

    /// None: it is over, or about to be.
    fn seat(self: &Arc<Feed>, hub: &Hub) -> Option<Seat> {
        let taken =
            self.seats.fetch_update(Ordering::AcqRel, Ordering::Acquire, |seats| (seats > 0).then(|| seats + 1));
        let feed = taken.ok().map(|_| self.clone())?;
        let seat = Seat { feed, hub: hub.clone(), berth: None };
        let is_open = self.lock().end.is_none();
        is_open.then_some(seat)
    }

    fn close(&self, over: Over) {
        let mut state = self.lock();
        state.end = Some(over);
        state.units = None;
        state.crews.clear();
        state.cache.clear();
        self.closed.cancel();
    }

    async fn left(&self) {
        while self.seats.load(Ordering::Acquire) > 0 {
            self.left.notified().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.berth.is_some() {
            self.feed.watching.fetch_sub(1, Ordering::Relaxed);
        }
        self.feed.seats.fetch_sub(1, Ordering::AcqRel);
        self.feed.left.notify_one();
    }
}

impl Seat {
    /// What is sent of the stream.
    pub(crate) fn sent(&self) -> Sent {
        self.feed.lock().sent.clone()
    }

    /// Whether the stream can be shown, as far as is known. Where its parameter sets say that pictures are reordered by one, it is B-frames of which
    /// nothing is built; a few pictures are waited for to see that. By two or more, it is B-frames that others are built on.
    pub(crate) async fn check(&self) -> Result<(), Over> {
        let over = || self.feed.lock().end.clone();
        match self.sent().reordering() {
            Some(0) | None => {}
            Some(1) if over().is_none() => sleep(LOOK).await,
            Some(1) => {}
            Some(_) => return Err(Over::Reordered),
        }
        over().map_or(Ok(()), Err)
    }

    /// Takes part: `media` gets what is cached from the newest key frame on, and all that follows. False: there was no picture.
    pub(crate) fn begin(&mut self, media: Arc<Media>) -> Result<bool, Over> {
        let mut state = self.feed.lock();
        let units = match (&state.units, &state.end) {
            (Some(units), None) => units.clone(),
            (_, over) => return Err(over.clone().unwrap_or(Over::Ended)),
        };
        let has_picture = media.begin(state.cache.iter().cloned().collect(), state.newest);
        let crew = match state.crews.iter().max_by_key(|crew| crew.room()).filter(|crew| crew.room() > 0) {
            Some(crew) => crew.clone(),
            None => {
                let crew = Arc::new(Crew::default());
                self.hub.spawn(crew.clone().run(units.subscribe()));
                state.crews.push(crew.clone());
                crew
            }
        };
        if self.berth.replace(crew.enter(media)).is_none() {
            self.feed.watching.fetch_add(1, Ordering::Relaxed);
        }
        Ok(has_picture)
    }

    /// Somebody cannot go on without a key frame.
    pub(crate) fn want_key_frame(&self) {
        self.feed.wanted.notify_one();
    }

    /// Returns when there is no more, and why. Cancel safe.
    pub(crate) async fn over(&self) -> Over {
        match &self.berth {
            Some(berth) => berth.over().await,
            None => self.feed.closed.cancelled().await,
        }
        self.feed.lock().end.clone().unwrap_or(Over::Ended)
    }
}

impl State {
    fn push(&mut self, units: Vec<Unit>) {
        let numbered = units.into_iter().zip(self.newest + 1..).map(|(unit, number)| Arc::new(Unit { number, ..unit }));
        let batch: Batch = numbered.collect();
        for unit in &*batch {
            self.newest = unit.number;
            self.keep(unit);
        }
        if let Some(units) = &self.units {
            // Nobody may be there at this moment.
            units.send(batch).ok();
        }
    }

    /// Keeps it for who comes, where a decoder can show it.
    fn keep(&mut self, unit: &Arc<Unit>) {
        if unit.key {
            self.forget();
        }
        // Sound begins with what is live.
        if unit.kind == Kind::Audio || (!unit.key && self.cache.is_empty()) {
            return;
        }
        self.cached_bytes += unit.bytes;
        self.cache.push_back(unit.clone());
        if self.cached_bytes > KEPT_BYTES || self.cache.len() > KEPT_UNITS {
            // Who comes now waits for the next one.
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.cache.clear();
        self.cached_bytes = 0;
    }
}
