//! Who is linked: one live link per platform at the most, and who was linked before.
//!
//! A newer link of a platform replaces the older one at once, which may be half-open; each has a generation, and whoever
//! cleans up compares it first (security.md S1).

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use culvert_link::{Accepted, Conn, FORGET, Link, LinkFigures, RetryHint, accept};
use culvert_media::{Cid, StreamName};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalogue::{self, Catalogue, PeerItem};
use crate::proxy::Fault;

/// WebSocket status (of the private range, RFC 6455 7.4.2): a newer link of the same platform took over.
const REPLACED: u16 = 4001;
const REPLACED_WHY: &str = "replaced by a newer link of the same platform";
/// WebSocket status: the other end broke what is spoken inside the link.
const BROKEN: u16 = 4002;
/// How long what is running through a link may take to finish once this node ends; all of a drain has 10 s.
const FINISH: Duration = Duration::from_secs(5);
/// News that a slow listener may fall behind by before it must list again.
const EVENTS: usize = 1024;
/// Platforms that are remembered after they were lost, beside those that are linked; the longest lost go first.
const REMEMBERED: usize = 20_000;

/// The bounds of [`Peers`].
#[derive(Clone, Copy, Debug)]
pub struct PeerLimits {
    /// Most links.
    pub links: usize,
    /// Most requests under way on one link.
    pub requests: usize,
}

/// News of platforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A platform can be asked.
    Linked(Cid),
    /// It cannot any more.
    Lost(Cid),
    /// Its catalogue changed.
    Changed(Cid),
}

/// All platforms directly below. Cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    cid: Cid,
    limits: PeerLimits,
    table: Mutex<Table>,
    generations: AtomicU64,
    events: broadcast::Sender<PeerEvent>,
    /// Some platform was linked or lost, or its catalogue changed.
    changed: Notify,
    faults: Mutex<HashMap<&'static str, u64>>,
    tasks: TaskTracker,
    draining: CancellationToken,
}

/// All that are known, and how many of them are linked or about to be: with ten thousand, nobody counts them one by one.
#[derive(Default)]
struct Table {
    by_cid: HashMap<Cid, Entry>,
    linked: usize,
    coming: usize,
}

/// A place for one more link, from the yes until it is made, and its generation: which of two is the newer is decided where they are let
/// in, not by whose task runs first.
pub struct Room {
    peers: Peers,
    generation: u64,
}

impl Room {
    /// Of the link that is about to be made; a newer one's is larger.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.peers.table().coming -= 1;
    }
}

struct Entry {
    generation: u64,
    link: Option<Link>,
    carrier: &'static str,
    remote: SocketAddr,
    /// Since when it is linked, or lost.
    since: SystemTime,
    why_lost: String,
    links: u64,
    catalogue: Catalogue,
}

/// A platform as the API shows it.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its id.
    pub cid: Cid,
    /// What its link is, or was: `h2`, or `m7s` for an old peer.
    pub carrier: &'static str,
    /// Where its link comes from.
    pub remote: SocketAddr,
    /// Whether it can be asked.
    pub linked: bool,
    /// Since when it is linked, or lost.
    pub since: SystemTime,
    /// Why it was lost, as a sentence.
    pub error: Option<String>,
    /// How often it was linked.
    pub links: u64,
    /// Of the link that there is.
    pub figures: Option<LinkFigures>,
    /// What it says of itself and of what it has.
    pub catalogue: Catalogue,
}

impl PeerInfo {
    /// Since when nothing is known of it.
    pub fn unknown_since(&self) -> Option<SystemTime> {
        (!self.linked).then_some(self.since)
    }

    /// As the upper of this node sees it.
    pub(crate) fn item(&self) -> PeerItem {
        let platform = self.catalogue.platform();
        PeerItem {
            name: platform.name.clone(),
            serial: platform.serial.clone(),
            linked: self.linked,
            unknown_since: self.unknown_since().map(catalogue::millis),
            carrier: self.carrier.into(),
            rtt_ms: self.figures.and_then(|f| f.round_trip).map(|rtt| rtt.as_secs_f64() * 1000.0),
            streams: self.catalogue.streams().len(),
        }
    }
}

impl Peers {
    /// Of the node `cid`; none yet.
    pub fn new(cid: Cid, limits: PeerLimits) -> Peers {
        Peers(Arc::new(Inner {
            cid,
            limits,
            table: Mutex::default(),
            generations: AtomicU64::new(0),
            events: broadcast::Sender::new(EVENTS),
            changed: Notify::new(),
            faults: Mutex::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
        }))
    }

    /// The node that they are below.
    pub fn cid(&self) -> &Cid {
        &self.0.cid
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().expect("no code panics while it holds the table of platforms")
    }

    /// Room for one more link; asked before the 101. The sentence says why there is none.
    pub fn room(&self, cid: &Cid) -> Result<Room, String> {
        if self.0.draining.is_cancelled() {
            return Err("this node is shutting down".into());
        }
        let mut table = self.table();
        let replaces = table.by_cid.get(cid).is_some_and(|entry| entry.link.is_some());
        if table.linked + table.coming >= self.0.limits.links && !replaces {
            return Err(format!("this node has as many links as it may (limits.links: {})", self.0.limits.links));
        }
        table.coming += 1;
        let generation = self.0.generations.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Room { peers: self.clone(), generation })
    }

    /// Runs the link of a platform until it ends; who it is was decided before.
    pub async fn run(
        &self,
        cid: Cid,
        remote: SocketAddr,
        accepted: Accepted<impl Future<Output = String>>,
        room: Room,
    ) {
        let Accepted { link, driver } = accepted;
        let generation = room.generation;
        self.enter(&cid, generation, link.clone(), remote);
        drop(room);
        if self.0.draining.is_cancelled() {
            // It was let in a moment before, and not told with the others.
            let link = link.clone();
            self.0.tasks.spawn(async move { link.drain(RetryHint::spread(1), FINISH).await });
        }
        tracing::info!(peer = %cid, %remote, generation, "linked");
        let reading = async {
            if let Err(why) = catalogue::read(self, &cid, generation, &link).await {
                tracing::warn!(peer = %cid, %why, "catalogue broken; the link is closed");
                self.count_fault("bad-catalogue");
                link.close(BROKEN, "the catalogue is broken");
            }
            std::future::pending::<()>().await;
        };
        // In a box: between two events a link is to take up little.
        let why = {
            let (driver, reading) = (Box::pin(driver), Box::pin(reading));
            tokio::select! {
                why = driver => why,
                () = reading => unreachable!("it waits for the link to end"),
            }
        };
        self.leave(&cid, generation, why, link.closed_with() == Some(FORGET));
    }

    /// Spawns [`Peers::run`] on what follows our 101; [`Peers::drained`] waits for it.
    pub fn spawn(&self, cid: Cid, conn: Conn, room: Room) {
        let remote = conn.remote();
        self.spawn_other(cid, remote, accept(conn, self.0.limits.requests), room);
    }

    /// The same for a link that is carried by something else.
    pub fn spawn_other(
        &self,
        cid: Cid,
        remote: SocketAddr,
        accepted: Accepted<impl Future<Output = String> + Send + 'static>,
        room: Room,
    ) {
        let peers = self.clone();
        self.0.tasks.spawn(async move { peers.run(cid, remote, accepted, room).await });
    }

    /// Most requests under way on one link.
    pub fn requests(&self) -> usize {
        self.0.limits.requests
    }

    fn enter(&self, cid: &Cid, generation: u64, link: Link, remote: SocketAddr) {
        let mut table = self.table();
        if table.by_cid.get(cid).is_some_and(|entry| entry.generation > generation) {
            tracing::info!(peer = %cid, %remote, generation, "link replaced before it began");
            link.close(REPLACED, REPLACED_WHY);
            return;
        }
        let (links, catalogue) = match table.by_cid.remove(cid) {
            Some(old) => {
                if let Some(link) = &old.link {
                    table.linked -= 1;
                    tracing::info!(peer = %cid, remote = %old.remote, generation = old.generation, "link replaced");
                    link.close(REPLACED, REPLACED_WHY);
                }
                // What was known stays shown until the new snapshot is whole.
                (old.links, old.catalogue)
            }
            None => (0, Catalogue::default()),
        };
        let since = SystemTime::now();
        let carrier = link.figures().carrier;
        let (link, links, why_lost) = (Some(link), links + 1, String::new());
        let entry = Entry { generation, link, carrier, remote, since, why_lost, links, catalogue };
        table.by_cid.insert(cid.clone(), entry);
        table.linked += 1;
        drop(table);
        self.announce(PeerEvent::Linked(cid.clone()));
    }

    fn leave(&self, cid: &Cid, generation: u64, why: String, forgotten: bool) {
        let mut table = self.table();
        let Some(entry) = table.by_cid.get_mut(cid).filter(|entry| entry.generation == generation) else {
            tracing::debug!(peer = %cid, generation, %why, "replaced link ended");
            return;
        };
        if forgotten {
            tracing::info!(peer = %cid, remote = %entry.remote, generation, %why, "link ended");
            table.by_cid.remove(cid);
        } else {
            entry.link = None;
            entry.since = SystemTime::now();
            tracing::warn!(peer = %cid, remote = %entry.remote, generation, %why, "link lost");
            entry.why_lost = why;
        }
        table.linked -= 1;
        table.forget();
        drop(table);
        self.announce(PeerEvent::Lost(cid.clone()));
    }

    /// Changes what is known of a platform, unless its link was replaced. `change` says whether that is more than figures, which come every few seconds
    /// and are nobody's news.
    pub(crate) fn update(&self, cid: &Cid, generation: u64, change: impl FnOnce(&mut Catalogue) -> bool) {
        let mut table = self.table();
        let Some(entry) = table.by_cid.get_mut(cid).filter(|entry| entry.generation == generation) else { return };
        let is_news = change(&mut entry.catalogue);
        drop(table);
        if is_news {
            self.announce(PeerEvent::Changed(cid.clone()));
        } else {
            self.0.changed.notify_waiters();
        }
    }

    fn announce(&self, event: PeerEvent) {
        self.0.changed.notify_waiters();
        // Nobody listening is no error.
        drop(self.0.events.send(event));
    }

    /// News from now on. A listener that is told that it lagged lists the platforms again.
    pub fn events(&self) -> broadcast::Receiver<PeerEvent> {
        self.0.events.subscribe()
    }

    /// The link of a platform.
    pub fn get(&self, cid: &Cid) -> Result<Link, Fault> {
        let table = self.table();
        let entry = table.by_cid.get(cid).ok_or_else(|| Fault::Unknown(cid.clone()))?;
        let lost = || Fault::Lost { cid: cid.clone(), since: entry.since, why: entry.why_lost.clone() };
        entry.link.clone().filter(|link| !link.is_closed()).ok_or_else(lost)
    }

    /// Whether it is an old peer.
    pub fn is_old(&self, cid: &Cid) -> bool {
        self.table().by_cid.get(cid).is_some_and(|entry| entry.carrier != "h2")
    }

    /// Waits for a platform to be linked.
    pub async fn linked(&self, cid: &Cid) -> Link {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Ok(link) = self.get(cid) {
                return link;
            }
            changed.await;
        }
    }

    /// Waits for a link to end or to be replaced, which is told before the old one, maybe half-open, has said farewell.
    pub(crate) async fn closed(&self, link: &Link) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if link.is_closed() {
                return;
            }
            changed.await;
        }
    }

    /// Whose stream this is, and what it is called there: by the longest known id that ends its name.
    pub fn owner(&self, stream: &StreamName) -> Option<(Cid, StreamName)> {
        let table = self.table();
        // The ids that could end it are few; those that are known may be many.
        let name = stream.as_str();
        let dashes = name.match_indices('-').map(|(at, _)| at + 1);
        let mut known =
            dashes.filter_map(|at| Cid::parse(name.get(at..)?).ok()).filter(|cid| table.by_cid.contains_key(cid));
        known.find_map(|cid| stream.without_cid(&cid).map(|below| (cid, below)))
    }

    /// All that are known, by id.
    pub fn list(&self) -> Vec<PeerInfo> {
        let mut list: Vec<PeerInfo> = self.table().by_cid.iter().map(|(cid, entry)| entry.info(cid)).collect();
        list.sort_by(|a, b| a.cid.cmp(&b.cid));
        list
    }

    /// One of them.
    pub fn info(&self, cid: &Cid) -> Option<PeerInfo> {
        self.table().by_cid.get(cid).map(|entry| entry.info(cid))
    }

    /// How many are linked, and how many are known.
    pub fn count(&self) -> (usize, usize) {
        let table = self.table();
        (table.linked, table.by_cid.len())
    }

    /// Counts what went wrong, by words of which there are a few.
    pub(crate) fn count_fault(&self, what: &'static str) {
        *self.0.faults.lock().expect("no code panics while it counts").entry(what).or_default() += 1;
    }

    /// (what went wrong, how often).
    pub fn faults(&self) -> Vec<(&'static str, u64)> {
        let faults = self.0.faults.lock().expect("no code panics while it counts");
        faults.iter().map(|(what, n)| (*what, *n)).collect()
    }

    /// Ends all links: what is running is finished, as far as that goes in a few seconds, and lowers are told when to come
    /// back. Spawns a task for each; [`Peers::drained`] waits for them.
    pub fn drain(&self) {
        self.0.draining.cancel();
        let links: Vec<Link> = self.table().by_cid.values().filter_map(|entry| entry.link.clone()).collect();
        let hint = RetryHint::spread(links.len());
        for link in links {
            self.0.tasks.spawn(async move { link.drain(hint, FINISH).await });
        }
    }

    /// Returns once all links have ended.
    pub async fn drained(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Entry {
    fn info(&self, cid: &Cid) -> PeerInfo {
        PeerInfo {
            cid: cid.clone(),
            carrier: self.carrier,
            remote: self.remote,
            linked: self.link.is_some(),
            since: self.since,
            error: self.link.is_none().then(|| self.why_lost.clone()),
            links: self.links,
            figures: self.link.as_ref().map(Link::figures),
            catalogue: self.catalogue.clone(),
        }
    }
}

impl Table {
    /// Forgets who was lost the longest ago, where too many were.
    fn forget(&mut self) {
        if self.by_cid.len() - self.linked <= REMEMBERED {
            return;
        }
        let lost = self.by_cid.iter().filter(|(_, entry)| entry.link.is_none());
        if let Some(oldest) = lost.min_by_key(|(_, entry)| entry.since).map(|(cid, _)| cid.clone()) {
            self.by_cid.remove(&oldest);
        }
    }
}
