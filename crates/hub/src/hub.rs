//! Streams by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use culvert_media::{Mux, StreamName, Time};
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::figures::HubFigures;
use crate::gate::{Action, Demand, Grant, Identity, Refusal, Starting};
use crate::packaging::AnyPackaging;
use crate::publisher::Publisher;
use crate::reader::{Player, Subscriber};
use crate::ring::RingLimits;
use crate::session::{Registry, Session, SessionFigures, Source};
use crate::stream::{End, Stream, StreamInfo, WISHES, Wish};

/// How long a viewer waits for a publisher that has begun but not yet said what its tracks are.
const TRACKS_WAIT: Duration = Duration::from_secs(10);
/// What starts a stream has the same bound and knows better why nothing came: so much longer it has the word.
const WORDS: Duration = Duration::from_secs(1);
/// How often a viewer has a stream started that ends before he is let in.
const STARTS: usize = 4;
/// News that a slow listener may fall behind by before it must list again.
const EVENTS: usize = 256;

/// The bounds of a hub.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// The cache of each stream.
    pub cache: RingLimits,
    /// Most viewers.
    pub viewers: usize,
    /// Most streams, and so publishers.
    pub streams: usize,
    /// Loops that one packaging may spread its viewers over: the cores of this process.
    pub workers: usize,
}

impl Default for HubLimits {
    fn default() -> HubLimits {
        HubLimits {
            cache: RingLimits::default(),
            viewers: 20_000,
            streams: 4096,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// News of streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stream can be played, or its tracks changed.
    Live(StreamName),
    /// A stream has ended.
    Ended(StreamName),
}

/// All streams of a node. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    limits: HubLimits,
    streams: Mutex<HashMap<StreamName, Arc<Stream>>>,
    sessions: Arc<Registry>,
    figures: HubFigures,
    events: broadcast::Sender<Event>,
    /// Some stream appeared, became live, or ended.
    changed: Notify,
    draining: CancellationToken,
    tasks: TaskTracker,
}

/// A viewer that was let in, about to choose how it reads.
pub struct Admission {
    stream: Arc<Stream>,
    session: Session,
    registry: Arc<Registry>,
    workers: usize,
}

impl Hub {
    /// An empty hub.
    pub fn new(limits: HubLimits) -> Hub {
        Hub(Arc::new(Inner {
            limits,
            streams: Mutex::default(),
            sessions: Arc::default(),
            figures: HubFigures::default(),
            events: broadcast::Sender::new(EVENTS),
            changed: Notify::new(),
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<StreamName, Arc<Stream>>> {
        self.0.streams.lock().expect("no code panics while it holds the map of streams")
    }

    /// Reserves the name. A stream that is being published is refused, unless both publishers are the same proven
    /// identity: then the new one takes over and viewers stay (security.md S24).
    pub fn publish(&self, name: &StreamName, source: Source, identity: Identity) -> Result<Publisher, Refusal> {
        if self.0.draining.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let open = || self.0.sessions.open(Action::Publish, name, source.clone(), identity.clone(), None);
        let (sender, wishes) = mpsc::channel(WISHES);
        let mut streams = self.streams();
        // A stream that has ended and is about to leave the map is none.
        if let Some(stream) = streams.get(name).filter(|stream| stream.lock().end.is_none()).cloned() {
            let holder = stream.lock().publisher.clone();
            if !(identity.proven && identity == holder.identity) {
                return Err(Refusal::Taken(name.clone()));
            }
            let session = open();
            let generation = stream.take_over(session.figures().clone(), sender);
            drop(streams);
            tracing::info!(stream = %name, protocol = source.protocol, remote = %source.remote, "publisher taken over");
            return Ok(Publisher::new(self.clone(), stream, generation, session, wishes));
        }
        if streams.len() >= self.0.limits.streams {
            return Err(Refusal::Full("this node has as many publishers as it may (limits.publishers)".into()));
        }
        let session = open();
        let stream = Arc::new(Stream::new(name.clone(), self.0.limits.cache, session.figures().clone(), sender));
        streams.insert(name.clone(), stream.clone());
        drop(streams);
        self.0.changed.notify_waiters();
        Ok(Publisher::new(self.clone(), stream, 1, session, wishes))
    }

    /// Lets a viewer in, once the stream is live. See [`crate::Gate::play`].
    pub(crate) async fn play(
        &self,
        name: &StreamName,
        source: Source,
        grant: Grant,
        demand: &dyn Demand,
    ) -> Result<Admission, Refusal> {
        let mut deadline = Instant::now() + grant.wait;
        let mut starting: Option<Starting> = None;
        let (mut seen, mut starts) = (false, 0);
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.0.draining.is_cancelled() {
                return Err(Refusal::Draining);
            }
            match self.find(name) {
                Some(stream) if stream.lock().tracks.is_some() => {
                    if let Some(admission) = self.admit(stream, source.clone(), grant.identity.clone())? {
                        return Ok(admission);
                    }
                    // It ended in this moment; who ended it takes it off the map.
                    continue;
                }
                // It was reserved and its tracks are about to come; that bound is counted once, and is not for what is started here, which has
                // one of its own.
                Some(_) if starting.is_none() && !std::mem::replace(&mut seen, true) => {
                    deadline = deadline.max(Instant::now() + TRACKS_WAIT);
                }
                Some(_) => {}
                None if starting.is_none() && starts < STARTS => {
                    starting = demand.start(name);
                    starts += 1;
                    if let Some(starting) = &starting {
                        deadline = deadline.max(Instant::now() + starting.timeout + WORDS);
                    }
                }
                None => {}
            }
            let waited = async {
                match &mut starting {
                    Some(starting) => tokio::select! {
                        () = changed => None,
                        failed = failure(&mut starting.failed) => failed,
                    },
                    None => {
                        changed.await;
                        None
                    }
                }
            };
            match timeout_at(deadline, waited).await {
                Ok(None) => {
                    // The stream's end may be noticed before what is said about it.
                    if let Some(why) = starting.as_ref().and_then(|starting| starting.failed.borrow().clone()) {
                        return Err(why);
                    }
                    // An attempt that ended without a word was one that nobody wanted any more; this viewer asks anew.
                    starting = starting.filter(|starting| starting.failed.has_changed().is_ok());
                }
                Ok(Some(why)) => return Err(why),
                Err(_) if starting.is_some() => {
                    return Err(Refusal::NotStarted(format!("the source of {name} did not answer in time")));
                }
                Err(_) if self.find(name).is_some() => {
                    return Err(Refusal::NotStarted(format!("{name} is being published but has sent no media yet")));
                }
                Err(_) => return Err(Refusal::NoStream(name.clone())),
            }
        }
    }

    /// Reads a stream without asking anybody: for what the node itself does (pushes, relays, pictures). None when it
    /// is not live.
    pub fn read(&self, name: &StreamName, source: Source, identity: Identity) -> Option<Admission> {
        let stream = self.find(name).filter(|s| s.lock().tracks.is_some())?;
        self.admit(stream, source, identity).ok().flatten()
    }

    /// None: the stream has ended.
    fn admit(&self, stream: Arc<Stream>, source: Source, identity: Identity) -> Result<Option<Admission>, Refusal> {
        let audience = Some(stream.audience.clone());
        let registry = &self.0.sessions;
        if registry.viewers() >= self.0.limits.viewers {
            return Err(Refusal::Full("this node serves as many viewers as it may (limits.viewers)".into()));
        }
        let state = stream.lock();
        if state.end.is_some() {
            return Ok(None);
        }
        // Counted under the lock: a stream does not end for want of viewers while one is being let in.
        let session = registry.open(Action::Play, &stream.name, source, identity, audience);
        drop(state);
        Ok(Some(Admission { stream, session, registry: registry.clone(), workers: self.0.limits.workers }))
    }

    /// The stream of this name that has not ended.
    fn find(&self, name: &StreamName) -> Option<Arc<Stream>> {
        // Not with the map in hand: a stream is held while its frames are packed.
        let stream = self.streams().get(name).cloned()?;
        let ended = stream.lock().end.is_some();
        (!ended).then_some(stream)
    }

    /// Reads frames of a live stream for viewers that are counted each by itself ([`Admission::into_session`]): no viewer itself, and
    /// not bounded like one. None when it is not live.
    pub fn reader(&self, name: &StreamName, source: Source, identity: Identity) -> Option<Subscriber> {
        let stream = self.find(name).filter(|stream| stream.lock().tracks.is_some())?;
        let session = self.0.sessions.unlisted(Action::Play, name, source, identity);
        Some(Subscriber::new(stream, session))
    }

    /// How many watch a stream, and whether that changed since it began. None: there is no such stream.
    pub fn viewers(&self, name: &StreamName) -> Option<watch::Receiver<usize>> {
        self.find(name).map(|stream| stream.viewers_since.clone())
    }

    /// Ends a stream, and its publisher, unless somebody watches. Whoever asks to play in the same moment is either counted, and
    /// the stream goes on, or finds it ended. False: it goes on.
    pub fn end_unwatched(&self, name: &StreamName) -> bool {
        let Some(stream) = self.find(name) else { return true };
        let (generation, publisher) = {
            let state = stream.lock();
            (state.generation, state.publisher.clone())
        };
        if !stream.end_unwatched(generation, End::Finished) {
            return stream.lock().end.is_some();
        }
        publisher.cancel();
        self.remove(&stream);
        true
    }

    pub(crate) fn remove(&self, stream: &Arc<Stream>) {
        let mut streams = self.streams();
        // The map may hold a younger stream of that name already.
        if streams.get(&stream.name).is_some_and(|known| Arc::ptr_eq(known, stream)) {
            streams.remove(&stream.name);
        }
        drop(streams);
        let info = stream.info();
        if !info.tracks.is_empty() {
            tracing::info!(stream = %stream.name, frames = info.frames, bytes = info.bytes, "stream ended");
        }
        self.announce(Event::Ended(stream.name.clone()));
    }

    pub(crate) fn announce(&self, event: Event) {
        self.0.changed.notify_waiters();
        // Nobody listening is no error.
        drop(self.0.events.send(event));
    }

    /// News from now on. A listener that is told that it lagged lists the streams again.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// All streams, by name.
    pub fn list(&self) -> Vec<StreamInfo> {
        let mut streams: Vec<_> = self.streams().values().cloned().collect();
        streams.sort_by(|a, b| a.name.cmp(&b.name));
        streams.iter().map(|s| s.info()).collect()
    }

    /// One stream.
    pub fn info(&self, name: &StreamName) -> Option<StreamInfo> {
        self.find(name).map(|s| s.info())
    }

    /// All publishers and viewers, the oldest first.
    pub fn sessions(&self) -> Vec<Arc<SessionFigures>> {
        self.0.sessions.list()
    }

    /// How far a viewer is behind its stream: the age of the newest frame over that of the last one handed to it.
    pub fn behind(&self, session: &SessionFigures) -> Option<Time> {
        let newest = self.find(&session.stream)?.lock().ring.newest()?;
        Some((newest - session.sent()?).max(Time::ZERO))
    }

    /// One of them.
    pub fn session(&self, id: u64) -> Option<Arc<SessionFigures>> {
        self.0.sessions.session(id)
    }

    /// What the hub counts.
    pub fn figures(&self) -> &HubFigures {
        &self.0.figures
    }

    /// Lets nobody in any more, and ends whoever is there.
    pub fn drain(&self) {
        self.0.draining.cancel();
        self.0.changed.notify_waiters();
        for session in self.sessions() {
            session.cancel();
        }
    }

    /// What [`Hub::drain`] cancels. Whatever else is to end with the node ends by it: a stream of which a part ended by
    /// another one, a moment before, would be told to its readers as having ended by itself.
    pub fn drain_token(&self) -> CancellationToken {
        self.0.draining.clone()
    }

    /// Whether nobody is let in any more.
    pub fn is_draining(&self) -> bool {
        self.0.draining.is_cancelled()
    }

    /// Returns once nobody is let in any more.
    pub async fn draining(&self) {
        self.0.draining.cancelled().await;
    }

    /// Spawns a task that serves a peer: [`Hub::drained`] waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(task);
    }

    /// Returns once every peer has been told and has gone.
    pub async fn drained(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// Why an attempt failed; None when it ended without a word.
async fn failure(failed: &mut watch::Receiver<Option<Refusal>>) -> Option<Refusal> {
    failed.wait_for(Option::is_some).await.map_or(None, |why| why.clone())
}

impl Admission {
    /// Reads frames.
    pub fn subscribe(self) -> Subscriber {
        Subscriber::new(self.stream, self.session)
    }

    /// Reads frames for many viewers, each of which holds a [`Session`] of its own: this reader is none itself.
    pub fn reader(&self) -> Subscriber {
        let figures = self.session.figures();
        let source = Source { protocol: figures.protocol, remote: figures.remote };
        let session = self.registry.unlisted(Action::Play, &self.stream.name, source, figures.identity.clone());
        Subscriber::new(self.stream.clone(), session)
    }

    /// The right to watch, for who reads through another's [`Admission::reader`].
    pub fn into_session(self) -> Session {
        self.session
    }

    /// Reads the shared bytes of a packaging.
    pub fn play_as<M: Mux>(self) -> Player {
        let packaging = self.stream.packaging::<M>(self.workers).expect("viewers are admitted to live streams only");
        let line = packaging.line.clone();
        let hold: Arc<dyn AnyPackaging> = packaging;
        Player::new(line, hold, self.session)
    }

    /// What the stream is made of now.
    pub fn tracks(&self) -> culvert_media::Tracks {
        self.stream.lock().tracks.clone().expect("viewers are admitted to live streams only")
    }

    /// Asks the publisher for something.
    pub fn wish(&self, wish: Wish) {
        self.stream.wish(wish);
    }

    /// What is shown of this viewer.
    pub fn session(&self) -> &Arc<SessionFigures> {
        self.session.figures()
    }
}
