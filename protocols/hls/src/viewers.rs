//! Who watches: sessions that HTTP does not have. One begins with a multivariant playlist, which names the folder of the session; it rests when
//! nothing is fetched for a while, comes back with the next request, and is forgotten at last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_formats::fmp4;
use culvert_hub::{Admission, Ask, Event, Gate, Identity, Refusal, SessionFigures, Source, Subscriber};
use culvert_media::{StreamName, Time, Tracks};
use tokio::time::{Instant, sleep, timeout_at};

use crate::channel::{Channel, Over, Seat};
use crate::request::Sid;
use crate::window::{Settings, Window};

/// Who fetches nothing for so long, and for three target durations, watches no more.
const IDLE: Duration = Duration::from_secs(10);
/// Who has not fetched the media playlist by then was not a player but a look.
const GLANCE: Duration = Duration::from_secs(3);
/// How often is asked again whether somebody may: what was taken away must not go on for as long as he watches.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// A session that rests is known for so long: a page in the background, a phone in a pocket.
const KNOWN: Duration = Duration::from_secs(600);
/// Sessions that are known, resting ones included.
const MOST: usize = 65_536;
/// Streams whose past is known; a player of one that is forgotten has been away for long.
const PAST: usize = 65_536;
/// How often is looked who fetches no more.
const LOOK: Duration = Duration::from_secs(1);
/// How long viewers are kept for a stream that has ended to begin anew.
const HOLD: Duration = Duration::from_secs(10);

/// All viewers by HLS. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Viewers(Arc<Inner>);

struct Inner {
    gate: Gate,
    settings: Settings,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    viewers: HashMap<Sid, Viewer>,
    channels: HashMap<StreamName, Arc<Channel>>,
    /// Of streams that were in HLS before: discontinuities until then. Small numbers, for hls.js counts up to them.
    past: HashMap<StreamName, u64>,
    /// Somebody looks who fetches no more.
    looking: bool,
}

struct Viewer {
    /// What was asked when it began, and is asked again when it comes back.
    ask: Ask,
    /// None: it rests.
    seat: Option<Arc<Seat>>,
    seen: Instant,
    /// When it was last asked whether it may.
    asked: Instant,
    /// It has fetched something of its folder.
    fetches: bool,
}

/// A request of a session: while it lasts, its viewer is there.
pub(crate) struct Visit {
    viewers: Viewers,
    sid: Sid,
    pub(crate) seat: Arc<Seat>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(viewer) = self.viewers.table().viewers.get_mut(&self.sid) {
            viewer.seen = Instant::now();
        }
    }
}

/// Why somebody does not watch.
pub(crate) enum No {
    /// The gate said so.
    Refused(Refusal),
    /// None of the tracks is for MP4.
    Unsuited,
    /// There is no such session.
    Unknown,
    /// It was ended from outside.
    Closed,
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        No::Refused(refusal)
    }
}

impl Viewers {
    pub(crate) fn new(gate: Gate, settings: Settings) -> Viewers {
        Viewers(Arc::new(Inner { gate, settings, table: Mutex::default() }))
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().expect("no code panics while it holds the table of viewers")
    }

    /// Begins a session. Spawns what fills the window, where nothing does.
    pub(crate) async fn begin(&self, ask: Ask) -> Result<(Sid, Arc<Seat>, Tracks), No> {
        let (seat, tracks) = self.admit(&ask).await?;
        let (sid, now) = (Sid::random(), Instant::now());
        let mut table = self.table();
        if table.viewers.len() >= MOST {
            let resting = table.viewers.iter().filter(|(_, viewer)| viewer.seat.is_none());
            let Some(longest) = resting.min_by_key(|(_, viewer)| viewer.seen).map(|(sid, _)| *sid) else {
                let full = "this node has as many HLS sessions as it may (65,536)";
                return Err(Refusal::Full(full.into()).into());
            };
            table.viewers.remove(&longest);
        }
        let viewer = Viewer { ask, seat: Some(seat.clone()), seen: now, asked: now, fetches: false };
        table.viewers.insert(sid, viewer);
        if !std::mem::replace(&mut table.looking, true) {
            self.gate().hub().spawn(self.clone().look());
        }
        Ok((sid, seat, tracks))
    }

    /// A request of a session, which is let in anew where it rests.
    pub(crate) async fn of(&self, sid: Sid, stream: &StreamName) -> Result<Visit, No> {
        let visit = |seat| Visit { viewers: self.clone(), sid, seat };
        let (ask, seat) = {
            let mut table = self.table();
            let viewer =
                table.viewers.get_mut(&sid).filter(|viewer| viewer.ask.stream == *stream).ok_or(No::Unknown)?;
            (viewer.seen, viewer.fetches) = (Instant::now(), true);
            match &viewer.seat {
                Some(seat) if seat.session.figures().is_cancelled() => {
                    table.viewers.remove(&sid);
                    return Err(No::Closed);
                }
                Some(seat) if viewer.asked.elapsed() < ASK_AGAIN => return Ok(visit(seat.clone())),
                seat => (viewer.ask.clone(), seat.clone()),
            }
        };
        // Who watches is asked for leave only, who comes back is let in as well.
        let answer = match seat {
            Some(seat) => self.gate().may(&ask).await.map(|_| seat).map_err(No::from),
            None => Box::pin(self.admit(&ask)).await.map(|(seat, _)| seat),
        };
        let before = {
            let (now, mut table) = (Instant::now(), self.table());
            let Some(viewer) = table.viewers.get_mut(&sid) else { return Err(No::Unknown) };
            (viewer.seen, viewer.asked) = (now, now);
            match &answer {
                // Who was only asked for leave has a seat, and meanwhile perhaps a newer one (`seat_again`).
                Ok(_) if viewer.seat.is_some() => None,
                answer => std::mem::replace(&mut viewer.seat, answer.as_ref().ok().cloned()),
            }
        };
        // Outside the table's lock: the end of a session asks others.
        drop(before);
        answer.map(visit)
    }

    /// How many streams are in HLS now, and how many bytes are kept for that.
    pub(crate) fn kept(&self) -> (usize, usize) {
        let channels: Vec<_> = self.table().channels.values().cloned().collect();
        (channels.len(), channels.iter().map(|channel| channel.lock().window.bytes()).sum())
    }

    /// Whether a session could begin.
    pub(crate) async fn look_in(&self, ask: &Ask) -> Result<(), No> {
        let admission = self.gate().play(ask).await?;
        if fmp4::carries(&admission.tracks()) { Ok(()) } else { Err(No::Unsuited) }
    }

    async fn admit(&self, ask: &Ask) -> Result<(Arc<Seat>, Tracks), No> {
        let admission = self.gate().play(ask).await?;
        let tracks = admission.tracks();
        if !fmp4::carries(&tracks) {
            return Err(No::Unsuited);
        }
        let mut table = self.table();
        let channel = match table.channels.get(&ask.stream) {
            Some(channel) => channel.clone(),
            None => {
                let discontinuities = table.past.get(&ask.stream).map_or(0, |past| past + 1);
                let from = (first_number(), discontinuities);
                let channel = Channel::new(ask.stream.clone(), self.0.settings, &tracks, from);
                let channel = Arc::new(channel);
                table.channels.insert(ask.stream.clone(), channel.clone());
                let (source, identity) = of(admission.session());
                let (viewers, of, reader) = (self.clone(), channel.clone(), admission.reader());
                self.gate().hub().spawn(async move { viewers.run(of, reader, source, identity).await });
                channel
            }
        };
        let tracks = channel.lock().window.tracks().clone();
        Ok((Arc::new(channel.seat(admission.into_session())), tracks))
    }

    /// Serves a channel until nobody watches, or its stream has ended and does not come back.
    async fn run(self, channel: Arc<Channel>, mut reader: Subscriber, source: Source, identity: Identity) {
        let hub = self.gate().hub().clone();
        loop {
            let over = tokio::select! {
                over = channel.fill(&mut reader) => over,
                () = hub.draining() => break,
            };
            if over == Over::Ended {
                channel.change(Window::handle_gap);
                let again = tokio::select! {
                    again = self.again(&channel, &source, &identity) => again,
                    () = channel.left() => None,
                    () = hub.draining() => None,
                };
                match again {
                    Some(next) => {
                        reader = next;
                        continue;
                    }
                    None if !channel.is_left() => break,
                    None => {}
                }
            }
            // Whoever comes now finds either this channel, and is counted, or none.
            let mut table = self.table();
            if channel.is_left() {
                table.forget(&channel);
                return;
            }
        }
        channel.change(Window::handle_end);
        self.table().forget(&channel);
    }

    /// Waits for the stream to begin anew, and lets all who watched it in again.
    async fn again(&self, channel: &Arc<Channel>, source: &Source, identity: &Identity) -> Option<Subscriber> {
        let hub = self.gate().hub();
        let (mut events, deadline) = (hub.events(), Instant::now() + HOLD);
        loop {
            if let Some(reader) = hub.reader(&channel.stream, source.clone(), identity.clone()) {
                self.seat_again(channel);
                return Some(reader);
            }
            let news = async { while let Ok(Event::Ended(_)) = events.recv().await {} };
            timeout_at(deadline, news).await.ok()?;
        }
    }

    fn seat_again(&self, channel: &Arc<Channel>) {
        let mut before = Vec::new();
        let mut table = self.table();
        let of_it = |viewer: &&mut Viewer| {
            viewer
                .seat
                .as_ref()
                .is_some_and(|seat| Arc::ptr_eq(&seat.channel, channel) && !seat.session.figures().is_cancelled())
        };
        for viewer in table.viewers.values_mut().filter(of_it) {
            let Some((source, identity)) = viewer.seat.as_ref().map(|seat| of(seat.session.figures())) else {
                continue;
            };
            // Where there is no room any more it rests, and hears why with its next request.
            let admission = self.gate().hub().read(&channel.stream, source, identity);
            let seat = admission.map(|admission: Admission| Arc::new(channel.seat(admission.into_session())));
            before.extend(std::mem::replace(&mut viewer.seat, seat));
        }
        drop(table);
        drop(before);
    }

    /// Looks who fetches no more, as long as there is anybody.
    async fn look(self) {
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = self.gate().hub().draining() => {}
            }
            let draining = self.gate().hub().is_draining();
            let mut gone = Vec::new();
            let mut table = self.table();
            let now = Instant::now();
            table.viewers.retain(|_, viewer| {
                let quiet = now.saturating_duration_since(viewer.seen);
                if !viewer.fetches && quiet > GLANCE {
                    gone.extend(viewer.seat.take());
                    return false;
                }
                if let Some(seat) = &viewer.seat {
                    let (target, figures) = (seat.channel.lock().window.target(), seat.session.figures());
                    let patience = target.map_or(IDLE, |target| IDLE.max(three(target)));
                    // A request that waits holds the seat, too.
                    if quiet > patience && Arc::strong_count(seat) == 1 || draining {
                        gone.extend(viewer.seat.take());
                    } else if figures.is_cancelled() {
                        gone.extend(viewer.seat.take());
                        return false;
                    }
                }
                quiet < KNOWN && !draining
            });
            let empty = table.viewers.is_empty();
            if empty {
                table.looking = false;
            }
            drop(table);
            // Outside the table's lock: the end of a session asks others.
            drop(gone);
            if empty {
                return;
            }
        }
    }
}

impl Table {
    fn forget(&mut self, channel: &Arc<Channel>) {
        // There may be a younger one.
        if self.channels.get(&channel.stream).is_some_and(|known| Arc::ptr_eq(known, channel)) {
            self.channels.remove(&channel.stream);
            if self.past.len() >= PAST {
                self.past.clear();
            }
            self.past.insert(channel.stream.clone(), channel.lock().window.all_discontinuities());
        }
    }
}

fn three(target: Time) -> Duration {
    Duration::from_micros(target.micros().unsigned_abs() * 3)
}

fn of(figures: &SessionFigures) -> (Source, Identity) {
    (Source { protocol: figures.protocol, remote: figures.remote }, figures.identity.clone())
}

/// The number of a window's first segment. A later window of the same stream must not count from below (RFC 8216 6.2.1), whoever has forgotten
/// what the former came to: no segment is shorter than half a second in the long run.
fn first_number() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() * 2 + u64::from(since.subsec_millis() / 500)
}
