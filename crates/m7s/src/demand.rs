//! Old lowers that are linked, and their streams on demand: the first viewer of `name-cid` has the lower push it, and a grace after
//! the last the push is stopped. The original never had that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use culvert_cascade::{OnDemand, Peers, Room};
use culvert_hub::{Demand, Hub, Refusal, Starting};
use culvert_link::{Accepted, Conn, Link, empty};
use culvert_media::{Cid, StreamName};
use http::Request;
use http_body_util::{BodyExt, Limited};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::lower;

/// Most pushes at once: viewers choose their names.
const PUSHES: usize = 4096;
/// A grace below this would end what a viewer who changes the protocol is about to ask for again.
const LEAST_GRACE: Duration = Duration::from_millis(100);
/// Of an answer no more is read.
const ANSWER_BYTES: usize = 1024;

/// All old lowers of this node. Cheap to clone.
#[derive(Clone)]
pub struct OldLowers(Arc<Inner>);

struct Inner {
    hub: Hub,
    peers: Peers,
    times: OnDemand,
    /// How long one answer may take.
    timeout: Duration,
    stop: CancellationToken,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Where a lower reaches this node, and the generation of its link, by its id; of those that are linked.
    urls: HashMap<Cid, (u64, String)>,
    /// Pushes asked for so far: a lower knows each by its target, and holds on to one that has ended for a while.
    asked: u64,
    running: HashMap<StreamName, Running>,
}

/// A push that was asked for.
struct Running {
    failed: watch::Receiver<Option<Refusal>>,
    /// The stream was there.
    was_live: bool,
    /// Somebody came after it had ended, and before it was cleared away.
    wanted: bool,
}

impl OldLowers {
    /// Among these platforms, whose pushes come into this hub.
    pub fn new(hub: Hub, peers: Peers, times: OnDemand, timeout: Duration, stop: CancellationToken) -> OldLowers {
        OldLowers(Arc::new(Inner { hub, peers, times, timeout, stop, table: Mutex::default() }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().expect("no code panics while it holds the table of old lowers")
    }

    /// Spawns the link of an old lower. `url`: where it dialled this node, up to and with the context path; there it pushes to. Empty: it
    /// did not say.
    pub fn spawn(&self, cid: Cid, url: String, conn: Conn, room: Room) {
        let remote = conn.remote();
        let Accepted { link, driver } = lower::accept(conn, cid.as_str(), self.0.timeout, self.0.peers.requests());
        let generation = room.generation();
        let mut table = self.table();
        if table.urls.get(&cid).is_none_or(|(known, _)| *known < generation) {
            table.urls.insert(cid.clone(), (generation, url));
        }
        drop(table);
        let (own, this) = (cid.clone(), self.clone());
        let driver = async move {
            let why = driver.await;
            // A newer link may be there.
            this.table().urls.retain(|known, (of, _)| *known != own || *of != generation);
            why
        };
        self.0.peers.spawn_other(cid, remote, Accepted { link, driver }, room);
    }

    fn note(&self, stream: &StreamName, change: impl FnOnce(&mut Running)) {
        if let Some(running) = self.table().running.get_mut(stream) {
            change(running);
        }
    }

    /// Whose stream it is, what it is called there, and where it is to be pushed; None: no old lower's.
    fn owner(&self, stream: &StreamName) -> Option<(Cid, StreamName, String)> {
        let (cid, below) = self.0.peers.owner(stream)?;
        let link = self.0.peers.get(&cid).ok()?;
        if link.figures().carrier != "m7s" {
            return None;
        }
        let url = self.table().urls.get(&cid).map(|(_, url)| url.clone()).unwrap_or_default();
        Some((cid, below, url))
    }

    async fn keep(self, push: Push, failed: watch::Sender<Option<Refusal>>) {
        loop {
            let ended = push.run(&self).await;
            let mut table = self.table();
            let again = table.running.get_mut(&push.stream).is_some_and(|running| {
                running.was_live = false;
                std::mem::take(&mut running.wanted)
            });
            if let Err(why) = ended {
                table.running.remove(&push.stream);
                drop(table);
                tracing::warn!(stream = %push.stream, peer = %push.cid, %why, "an old lower does not push");
                failed.send_replace(Some(why));
                return;
            }
            if !again || self.0.stop.is_cancelled() {
                table.running.remove(&push.stream);
                return;
            }
        }
    }
}

impl Demand for OldLowers {
    fn start(&self, stream: &StreamName) -> Option<Starting> {
        let timeout = self.0.times.start_timeout;
        let start = |failed| Some(Starting { timeout, failed });
        let owner = self.owner(stream);
        let mut table = self.table();
        if let Some(running) = table.running.get_mut(stream) {
            running.wanted = running.was_live;
            return start(running.failed.clone());
        }
        let (cid, below, url) = owner?;
        if url.is_empty() {
            let why =
                format!("{cid} did not say where it dialled this node (Host), so it cannot be told where to push to");
            return Some(Starting::refused(Refusal::NotStarted(why)));
        }
        if table.running.len() >= PUSHES {
            let why = format!("this node has as many pushes of old peers on demand as it may ({PUSHES})");
            return Some(Starting::refused(Refusal::Full(why)));
        }
        let (failed, seen) = watch::channel(None);
        table.running.insert(stream.clone(), Running { failed: seen.clone(), was_live: false, wanted: false });
        drop(table);
        let target = format!("{url}/erwscascade/wspush/{below}?cid={cid}");
        let push = Push { stream: stream.clone(), cid, below, target };
        tokio::spawn(self.clone().keep(push, failed));
        start(seen)
    }
}

struct Push {
    stream: StreamName,
    cid: Cid,
    below: StreamName,
    /// With the cid, which the lower then leaves as it is: one without `cinfo` has none of its own to add.
    target: String,
}

/// What may not stand in a value of a query as it is.
const VALUE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b'<').add(b'>');

impl Push {
    /// Has the lower push until nobody watches any more. The error: why there is no stream.
    async fn run(&self, lowers: &OldLowers) -> Result<(), Refusal> {
        let Inner { hub, peers, times, stop, .. } = &*lowers.0;
        let link = peers.get(&self.cid).map_err(|fault| Refusal::NotStarted(fault.to_string()))?;
        let begun = Instant::now();
        let number = {
            let mut table = lowers.table();
            table.asked += 1;
            table.asked
        };
        let target = format!("{}&n={number}", self.target);
        let encoded = utf8_percent_encode(&target, VALUE);
        let said =
            ask(&link, &self.cid, &format!("/erwscascade/api/push?streamPath={}&target={encoded}", self.below)).await?;
        if !said.trim_start().starts_with("ok") {
            return Err(Refusal::NotStarted(format!("{} does not push the stream: {}", self.cid, said.trim())));
        }
        let Some(mut viewers) = self.live(hub, begun + times.start_timeout).await else {
            self.stop(&link, &target).await;
            let seconds = times.start_timeout.as_secs_f32();
            return Err(Refusal::NotStarted(format!("{} said ok and pushed nothing within {seconds} s", self.cid)));
        };
        lowers.note(&self.stream, |running| running.was_live = true);
        let grace = times.grace.max(LEAST_GRACE);
        let mut patience = times.start_timeout + grace;
        loop {
            let is_watched = *viewers.borrow() > 0;
            // Also one who came and went before this was polled.
            let come = async { is_watched || viewers.changed().await.is_ok() };
            let came = tokio::select! {
                came = timeout(patience, come) => came,
                () = stop.cancelled() => return Ok(()),
            };
            match came {
                // Whoever was about to come is here.
                Ok(true) => lowers.note(&self.stream, |running| running.wanted = false),
                // The stream has ended: the lower's link, its camera, or somebody through the API.
                Ok(false) => return Ok(()),
                Err(_) if hub.end_unwatched(&self.stream) => {
                    self.stop(&link, &target).await;
                    return Ok(());
                }
                Err(_) => {}
            }
            let gone = tokio::select! {
                gone = viewers.wait_for(|n| *n == 0) => gone.is_ok(),
                () = stop.cancelled() => return Ok(()),
            };
            if !gone {
                return Ok(());
            }
            patience = grace;
        }
    }

    /// Waits for the push to come in.
    async fn live(&self, hub: &Hub, until: Instant) -> Option<watch::Receiver<usize>> {
        let mut events = hub.events();
        loop {
            if let Some(viewers) = hub.viewers(&self.stream) {
                return Some(viewers);
            }
            // Whatever the news is, also that some was missed, the stream is looked up again.
            timeout_at(until, events.recv()).await.ok()?.ok();
        }
    }

    /// The lower knows a push by its target as it was given.
    async fn stop(&self, link: &Link, target: &str) {
        let path = format!("/api/stop/push?url={}", utf8_percent_encode(target, VALUE));
        match ask(link, &self.cid, &path).await {
            Ok(said) => {
                tracing::info!(stream = %self.stream, peer = %self.cid, said = said.trim(), "push of an old lower stopped")
            }
            Err(why) => {
                tracing::info!(stream = %self.stream, peer = %self.cid, %why, "push of an old lower not stopped")
            }
        }
    }
}

/// What the lower says to a GET.
async fn ask(link: &Link, cid: &Cid, path: &str) -> Result<String, Refusal> {
    let fault = |why: String| Refusal::NotStarted(format!("{cid}: {why}"));
    let request = Request::get(format!("http://{cid}{path}")).body(empty()).map_err(|why| fault(why.to_string()))?;
    let answer = link.request_of_own(request).await.map_err(|why| fault(why.to_string()))?;
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
    let body = body.map_err(|_| fault("its answer is too long".into()))?.to_bytes();
    Ok(String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control() || *c == '\n').collect())
}
