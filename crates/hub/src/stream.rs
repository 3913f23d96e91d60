//! One stream: its publisher's generation, its tracks, its ring of frames, and the packagings made from it.

use std::any::TypeId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::SystemTime;

use culvert_media::{Frame, Kind, Mux, StreamName, Track, TrackId, Tracks};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::figures::Meter;
use crate::packaging::{AnyPackaging, Packaging, Step};
use crate::ring::{Ring, RingLimits};
use crate::session::{Audience, SessionFigures};
use crate::timeline::Timeline;

/// Why a stream, or a viewer's part in it, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The publisher said that it is done.
    Finished,
    /// The publisher was lost: its connection broke or it fell silent.
    Lost,
    /// Closed from outside, by the API or because the node ends.
    Closed,
    /// The viewer made no progress for too long.
    Stalled,
    /// The viewer's connection broke.
    Disconnected,
    /// What the stream is made of changed, and the viewer's protocol cannot say so: it may come again.
    Changed,
}

impl End {
    /// The word in logs and in closing messages.
    pub const fn name(&self) -> &'static str {
        match self {
            End::Finished => "finished",
            End::Lost => "publisher lost",
            End::Closed => "closed",
            End::Stalled => "viewer stalled",
            End::Disconnected => "disconnected",
            End::Changed => "the stream's media changed; open it again",
        }
    }
}

/// What flows upstream, from viewers to the publisher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Somebody cannot go on without a key frame.
    KeyFrame,
    /// Nobody watches.
    Pause,
    /// Somebody watches again.
    Resume,
}

/// Wishes that wait for a publisher; more are dropped, for a wish repeated says nothing new.
pub(crate) const WISHES: usize = 8;

/// A stream as the API shows it.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// Its name.
    pub name: StreamName,
    /// `starting` until the tracks are known, then `live`.
    pub state: &'static str,
    /// Its tracks, once known.
    pub tracks: Vec<Track>,
    /// How many watch.
    pub viewers: usize,
    /// The publisher's session.
    pub publisher: Arc<SessionFigures>,
    /// When the stream began, over all of its publishers.
    pub since: SystemTime,
    /// Frames that came in.
    pub frames: u64,
    /// Bytes of coded media that came in.
    pub bytes: u64,
    /// Frames that were not passed on: of unknown tracks, or before a key frame.
    pub dropped: u64,
    /// How often the timeline was bent.
    pub discontinuities: u64,
    /// Video frames per second, over the last seconds.
    pub fps: f64,
    /// Bits of coded media per second, over the last seconds.
    pub bits_per_second: u64,
    /// Between the last two key frames.
    pub key_interval: Option<std::time::Duration>,
    /// Bytes in the cache from which viewers begin.
    pub cached_bytes: usize,
    /// Packagings being made, by name.
    pub packagings: Vec<&'static str>,
    /// Of a stream that comes through a link: what its sender left out.
    pub upstream: Option<Upstream>,
}

/// What the sender of a relayed stream has left out so far, because its uplink was too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// Frames that nothing else needed.
    pub disposable: u64,
    /// Other frames, up to a key frame each time.
    pub frames: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Only key frames come for now.
    pub keys_only: bool,
    /// How old the oldest frame was that waited at the sender, in milliseconds.
    pub queued_ms: u32,
}

pub(crate) struct State {
    /// Counts publishers; a publisher that is not the latest writes nothing and cleans up nothing.
    pub(crate) generation: u64,
    pub(crate) publisher: Arc<SessionFigures>,
    pub(crate) wishes: mpsc::Sender<Wish>,
    pub(crate) tracks: Option<Tracks>,
    pub(crate) end: Option<End>,
    pub(crate) ring: Ring<Frame, Tracks>,
    packagings: Vec<(TypeId, Weak<dyn AnyPackaging>)>,
    timeline: Timeline,
    meter: Meter,
    /// Video tracks that are withheld until a key frame: all of them at the start and after a takeover, those whose
    /// parameters changed.
    need_key: Vec<TrackId>,
    /// The timeline was bent at a frame that was withheld.
    bent: bool,
    upstream: Option<Upstream>,
}

pub(crate) struct Stream {
    pub(crate) name: StreamName,
    /// Tells this life of the stream from others of the same name.
    pub(crate) epoch: u64,
    since: SystemTime,
    limits: RingLimits,
    state: Mutex<State>,
    /// A new frame, or the end.
    pub(crate) changed: Notify,
    pub(crate) audience: Audience,
    /// How many watch, and whether that changed since the stream began.
    pub(crate) viewers_since: watch::Receiver<usize>,
}

impl Stream {
    pub(crate) fn new(
        name: StreamName,
        limits: RingLimits,
        publisher: Arc<SessionFigures>,
        wishes: mpsc::Sender<Wish>,
    ) -> Stream {
        let audience = Audience::default();
        Stream {
            name,
            // Not a secret; where there is no randomness, the time tells two lives apart.
            epoch: getrandom::u64().unwrap_or_else(|_| {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
            }),
            since: SystemTime::now(),
            limits,
            state: Mutex::new(State {
                generation: 1,
                publisher,
                wishes,
                tracks: None,
                end: None,
                ring: Ring::new(limits),
                packagings: Vec::new(),
                timeline: Timeline::default(),
                meter: Meter::new(Instant::now()),
                need_key: Vec::new(),
                bent: false,
                upstream: None,
            }),
            changed: Notify::new(),
            viewers_since: audience.viewers.subscribe(),
            audience,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a stream's lock")
    }

    /// Another publisher of the same identity takes over. Viewers stay and notice a bent timeline.
    pub(crate) fn take_over(&self, publisher: Arc<SessionFigures>, wishes: mpsc::Sender<Wish>) -> u64 {
        let mut state = self.lock();
        state.generation += 1;
        std::mem::replace(&mut state.publisher, publisher).cancel();
        state.wishes = wishes;
        state.restart();
        state.generation
    }

    /// The publisher begins anew: its stamps need not go on, and video waits for a key frame.
    pub(crate) fn restart(&self, generation: u64) {
        let mut state = self.lock();
        if state.generation == generation {
            state.restart();
        }
    }

    /// Nothing comes for now: what is cached is not to be shown any more, and what comes next need not follow from it.
    pub(crate) fn forget(&self, generation: u64) {
        let mut state = self.lock();
        if state.generation == generation {
            state.ring.clear();
            state.restart();
        }
    }

    /// Frames are missing here, and the timeline goes on: video waits for a key frame, which is marked. Where nothing was passed on yet,
    /// nothing is missing: a source that is joined in the middle of a picture begins torn.
    pub(crate) fn gap(&self, generation: u64) {
        let mut state = self.lock();
        if state.generation == generation {
            let mut video = state.tracks.iter().flatten().filter(|t| t.kind() == Kind::Video).peekable();
            let flows = match video.peek() {
                Some(_) => video.any(|t| !state.need_key.contains(&t.id)),
                None => state.meter.frames > 0,
            };
            state.need_keys();
            state.bent |= flows;
        }
    }

    pub(crate) fn set_upstream(&self, generation: u64, upstream: Upstream) {
        let mut state = self.lock();
        if state.generation == generation {
            state.upstream = Some(upstream);
        }
    }

    /// Says what the stream is made of. True when that makes it live or changes it.
    pub(crate) fn set_tracks(&self, generation: u64, tracks: Tracks) -> bool {
        let mut state = self.lock();
        if state.generation != generation || state.end.is_some() || state.tracks.as_ref() == Some(&tracks) {
            return false;
        }
        let known = state.tracks.clone();
        let same = |t: &Track| known.as_ref().is_some_and(|known| known.track(t.id) == Some(t));
        let changed = tracks.iter().filter(|t| t.kind() == Kind::Video && !same(t)).map(|t| t.id);
        state.need_key.extend(changed);
        for feed in state.feeds() {
            if !feed.set_tracks(&tracks) {
                let gone = Arc::downgrade(&feed);
                state.packagings.retain(|(_, known)| !known.ptr_eq(&gone));
            }
        }
        state.tracks = Some(tracks);
        true
    }

    /// Passes a frame on. False when this publisher was replaced or the stream has ended.
    pub(crate) fn write(&self, generation: u64, mut frame: Frame) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        if state.generation != generation || state.end.is_some() {
            return false;
        }
        let Some(tracks) = state.tracks.clone() else {
            state.meter.dropped += 1;
            return true;
        };
        let Some(track) = tracks.track(frame.track) else {
            state.meter.dropped += 1;
            return true;
        };
        let video = track.kind() == Kind::Video;
        let stamp = state.timeline.map(frame.track, frame.dts, frame.pts, now);
        frame.dts = stamp.dts;
        frame.pts = stamp.pts;
        state.bent |= stamp.discontinuity;
        if video && frame.key {
            state.need_key.retain(|waiting| *waiting != frame.track);
        }
        if video && state.need_key.contains(&frame.track) {
            state.meter.dropped += 1;
            return true;
        }
        frame.discontinuity |= std::mem::take(&mut state.bent);
        state.meter.count(&frame, video, now);
        // A viewer begins at a key frame of the first video track, or at any frame where there is no video.
        let entry = match tracks.video() {
            Some(first) => frame.key && first.id == frame.track,
            None => true,
        };
        for feed in state.feeds() {
            feed.push(&frame);
        }
        let (time, bytes) = (frame.dts, frame.data.len());
        state.ring.push(frame, tracks, entry, time, bytes);
        drop(state);
        self.changed.notify_waiters();
        true
    }

    /// Ends the stream for all, unless this publisher was replaced. True when it did.
    pub(crate) fn end(&self, generation: u64, end: End) -> bool {
        self.end_if(generation, end, |_| true)
    }

    /// Ends the stream unless somebody watches. Viewers are counted under the same lock, so none is let in to a stream
    /// that ends.
    pub(crate) fn end_unwatched(&self, generation: u64, end: End) -> bool {
        self.end_if(generation, end, |viewers| viewers == 0)
    }

    fn end_if(&self, generation: u64, end: End, may: impl FnOnce(usize) -> bool) -> bool {
        let mut state = self.lock();
        if state.generation != generation || state.end.is_some() || !may(*self.audience.viewers.borrow()) {
            return false;
        }
        for feed in state.feeds() {
            feed.end(&end);
        }
        state.end = Some(end);
        drop(state);
        self.changed.notify_waiters();
        true
    }

    /// The shared packaging `M` of this stream: the one that is being made, or a new one that begins with what a new
    /// viewer needs. None before the tracks are known.
    pub(crate) fn packaging<M: Mux>(&self, workers: usize) -> Option<Arc<Packaging<M>>> {
        let mut state = self.lock();
        let tracks = state.tracks.clone()?;
        let id = TypeId::of::<M>();
        let running = state.packagings.iter().find(|(known, _)| *known == id).and_then(|(_, feed)| feed.upgrade());
        if let Some(packaging) = running.and_then(|feed| feed.as_any().downcast::<Packaging<M>>().ok()) {
            return Some(packaging);
        }
        let mut since = state.ring.since_entry().peekable();
        let begin = since.peek().map_or(&tracks, |slot| &slot.context);
        let begin = begin.clone();
        let mut current = begin.clone();
        let mut cached = VecDeque::new();
        for slot in since {
            if !slot.context.same(&current) {
                current = slot.context.clone();
                cached.push_back(Step::Tracks(current.clone()));
            }
            cached.push_back(Step::Frame(slot.body.clone()));
        }
        if !tracks.same(&current) {
            cached.push_back(Step::Tracks(tracks));
        }
        let packaging = Arc::new(Packaging::<M>::new(&begin, cached, self.limits, workers));
        if let Some(end) = &state.end {
            packaging.end(end);
        }
        let feed: Arc<dyn AnyPackaging> = packaging.clone();
        state.packagings.retain(|(_, feed)| feed.strong_count() > 0);
        state.packagings.push((id, Arc::downgrade(&feed)));
        Some(packaging)
    }

    pub(crate) fn wish(&self, wish: Wish) {
        // Full means that the publisher has as many wishes to read already.
        self.lock().wishes.try_send(wish).ok();
    }

    pub(crate) fn info(&self) -> StreamInfo {
        let state = self.lock();
        let (fps, bits_per_second) = state.meter.rates(Instant::now());
        StreamInfo {
            name: self.name.clone(),
            state: if state.tracks.is_some() { "live" } else { "starting" },
            tracks: state.tracks.iter().flatten().cloned().collect(),
            viewers: *self.audience.viewers.borrow(),
            publisher: state.publisher.clone(),
            since: self.since,
            frames: state.meter.frames,
            bytes: state.meter.bytes,
            dropped: state.meter.dropped,
            discontinuities: state.meter.discontinuities,
            fps,
            bits_per_second,
            key_interval: state.meter.key_interval,
            cached_bytes: state.ring.bytes(),
            packagings: state.packagings.iter().filter_map(|(_, f)| f.upgrade()).map(|f| f.name()).collect(),
            upstream: state.upstream,
        }
    }
}

impl State {
    /// What comes next need not follow from what came before.
    fn restart(&mut self) {
        self.timeline.restart();
        self.need_keys();
    }

    fn need_keys(&mut self) {
        let tracks = self.tracks.iter().flatten();
        self.need_key = tracks.filter(|t| t.kind() == Kind::Video).map(|t| t.id).collect();
    }

    /// Packagings that somebody watches; those that nobody does end here.
    fn feeds(&mut self) -> Vec<Arc<dyn AnyPackaging>> {
        let mut live = Vec::with_capacity(self.packagings.len());
        self.packagings.retain(|(_, feed)| match feed.upgrade() {
            Some(feed) => {
                live.push(feed);
                true
            }
            None => false,
        });
        live
    }
}
