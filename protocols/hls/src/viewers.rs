//! Who watches: sessions that HTTP does not have. One begins with a multivariant playlist, which names the folder of the session; it rests when
//! nothing is fetched for a while, comes back with the next request, and is forgotten at last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_formats::fmp4;
use culvert_hub::{Admission, Ask, Event, Gate, Identity, Refusal, SessionFigures, Source, Subscriber};
use culvert_media::{StreamName, Time};
use tokio::time::{Instant, sleep, timeout_at};

use crate::channel::{Channel, Over, Seat};
use crate::request::Sid;
use crate::window::{Settings, Window};

/// Who fetches nothing for so long, and for three target durations, watches no more.
const IDLE: Duration = Duration::from_secs(10);
/// A session that rests is known for so long: a page in the background, a phone in a pocket.
const KNOWN: Duration = Duration::from_secs(600);
/// Sessions that are known, resting ones included.
const MOST: usize = 65_536;
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
    /// Somebody looks who fetches no more.
    looking: bool,
}

struct Viewer {
    /// What was asked when it began, and is asked again when it comes back.
    ask: Ask,
    /// None: it rests.
    seat: Option<Arc<Seat>>,
    seen: Instant,
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
    pub(crate) async fn begin(&self, ask: Ask) -> Result<(Sid, Arc<Seat>), No> {
        let seat = self.admit(&ask).await?;
        let sid = Sid::random();
        let mut table = self.table();
        if table.viewers.len() >= MOST {
            let full = "this node knows as many HLS sessions as it may; those that rest are forgotten after 10 minutes";
            return Err(Refusal::Full(full.into()).into());
        }
        table.viewers.insert(sid, Viewer { ask, seat: Some(seat.clone()), seen: Instant::now() });
        if !std::mem::replace(&mut table.looking, true) {
            self.gate().hub().spawn(self.clone().look());
        }
        Ok((sid, seat))
    }

    /// The seat of a session, which is let in anew where it rests.
    pub(crate) async fn of(&self, sid: Sid, stream: &StreamName) -> Result<Arc<Seat>, No> {
        let ask = {
            let mut table = self.table();
            let viewer =
                table.viewers.get_mut(&sid).filter(|viewer| viewer.ask.stream == *stream).ok_or(No::Unknown)?;
            viewer.seen = Instant::now();
            match &viewer.seat {
                Some(seat) if seat.session.figures().is_cancelled() => {
                    table.viewers.remove(&sid);
                    return Err(No::Closed);
                }
                Some(seat) => return Ok(seat.clone()),
                None => viewer.ask.clone(),
            }
        };
        let seat = self.admit(&ask).await?;
        if let Some(viewer) = self.table().viewers.get_mut(&sid) {
            (viewer.seat, viewer.seen) = (Some(seat.clone()), Instant::now());
        }
        Ok(seat)
    }

    /// A session has had what it asked for.
    pub(crate) fn touch(&self, sid: Sid) {
        if let Some(viewer) = self.table().viewers.get_mut(&sid) {
            viewer.seen = Instant::now();
        }
    }

    /// How many streams are in HLS now, and how many bytes are kept for that.
    pub(crate) fn kept(&self) -> (usize, usize) {
        let channels: Vec<_> = self.table().channels.values().cloned().collect();
        (channels.len(), channels.iter().map(|channel| channel.lock().window.bytes()).sum())
    }

    async fn admit(&self, ask: &Ask) -> Result<Arc<Seat>, No> {
        let admission = self.gate().play(ask).await?;
        let tracks = admission.tracks();
        if !fmp4::carries(&tracks) {
            return Err(No::Unsuited);
        }
        let mut table = self.table();
        let channel = match table.channels.get(&ask.stream) {
            Some(channel) => channel.clone(),
            None => {
                let channel = Channel::new(ask.stream.clone(), self.0.settings, &tracks, first_number());
                let channel = Arc::new(channel);
                table.channels.insert(ask.stream.clone(), channel.clone());
                let (source, identity) = of(admission.session());
                let (viewers, of, reader) = (self.clone(), channel.clone(), admission.reader());
                self.gate().hub().spawn(async move { viewers.run(of, reader, source, identity).await });
                channel
            }
        };
        Ok(Arc::new(channel.seat(admission.into_session())))
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
            if let Some(admission) = hub.read(&channel.stream, source.clone(), identity.clone()) {
                self.seat_again(channel);
                return Some(admission.reader());
            }
            let news = async { while let Ok(Event::Ended(_)) = events.recv().await {} };
            timeout_at(deadline, news).await.ok()?;
        }
    }

    fn seat_again(&self, channel: &Arc<Channel>) {
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
            viewer.seat = admission.map(|admission: Admission| Arc::new(channel.seat(admission.into_session())));
        }
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
/// what the former came to: segments come at most once a second in the long run.
fn first_number() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
