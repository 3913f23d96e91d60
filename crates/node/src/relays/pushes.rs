//! Streams sent elsewhere while they are published here: those of the configuration, and those begun by command.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use culvert_hub::{Event, Hub, Identity, Source, Subscriber};
use culvert_link::{Backoff, Upper};
use culvert_live::{PushError, PushNews};
use culvert_media::{Cid, StreamName};
use culvert_net::DialOptions;
use culvert_rtmp::ClientError;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Board, Doing, RelayInfo};
use crate::config::{Push, PushUrl, Retry};
use crate::logs::mask_url;

/// Most pushes: each is a viewer with a connection of its own.
const PUSHES: usize = 1024;
/// How long a push that is stopped may take to say so to its target.
const FAREWELL: Duration = Duration::from_secs(2);

/// All pushes. Cheap to clone.
#[derive(Clone)]
pub struct Pushes(Arc<Inner>);

struct Inner {
    hub: Hub,
    /// Of this node, for targets that want to know where a stream comes from.
    cid: Cid,
    routes: Routes,
    silence: Duration,
    stop: CancellationToken,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last_id: u64,
    rows: BTreeMap<u64, Row>,
}

struct Row {
    order: Order,
    configured: bool,
    board: Arc<Board>,
    stop: CancellationToken,
}

/// How targets are reached: one that is an upper of this node in the way that its link takes, with its token; all others
/// straight, trusting the public authorities.
pub struct Routes {
    trust: Arc<ClientConfig>,
    straight: DialOptions,
    uppers: Vec<Upper>,
}

impl Routes {
    /// Of these uppers.
    pub fn new(trust: Arc<ClientConfig>, uppers: Vec<Upper>) -> Routes {
        Routes { straight: DialOptions { tls: Some(trust.clone()), ..DialOptions::default() }, trust, uppers }
    }

    fn to(&self, url: &Url) -> (&DialOptions, Option<&str>) {
        let place = (url.host_str(), url.port_or_known_default(), url.scheme() == "wss");
        let same = |upper: &&Upper| (Some(upper.url.host.as_str()), Some(upper.url.port), upper.url.secure) == place;
        let upper = self.uppers.iter().find(same);
        upper.map_or((&self.straight, None), |upper| (&upper.options, upper.token.as_deref()))
    }
}

/// What to push where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// The stream's name here; it need not be there yet.
    pub stream: StreamName,
    /// Where to.
    pub url: PushUrl,
    /// Rest while the target says that nobody watches.
    pub on_demand: bool,
    /// How often it is tried again.
    pub retry: Retry,
    /// It ends with the stream, and is not begun anew with the next one of that name.
    pub once: bool,
}

/// Why a push was not begun.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StartError {
    /// The same stream goes to the same URL already.
    #[error("push {0} sends this stream to this URL already; stop it first to begin anew")]
    There(u64),
    /// Too many.
    #[error("this node has as many pushes as it may ({PUSHES}); stop one")]
    Full,
}

/// A push as the API shows it.
#[derive(Clone, Debug)]
pub struct PushInfo {
    /// Unique in the life of this process.
    pub id: u64,
    /// It is in the configuration, and so there again after a restart.
    pub configured: bool,
    /// How often it is tried again.
    pub retry: Retry,
    /// What it is doing.
    pub relay: RelayInfo,
}

/// How an attempt ended.
enum Ended {
    /// The stream ended here, which is no failure.
    Source,
    /// A sentence, and how long the target wants to be left alone.
    Failed(String, Option<Duration>),
}

impl Pushes {
    /// None yet. `silence` bounds each step of a target, `cid` is this node's.
    pub fn new(hub: Hub, cid: Cid, routes: Routes, silence: Duration, stop: CancellationToken) -> Pushes {
        Pushes(Arc::new(Inner { hub, cid, routes, silence, stop, table: Mutex::default() }))
    }

    /// Spawns a task for each push of the configuration.
    pub fn start_configured(&self, config: &Push) {
        for (stream, target) in &config.list {
            let (url, on_demand) = (target.url.clone(), target.on_demand);
            let order = Order { stream: stream.clone(), url, on_demand, retry: config.retry, once: false };
            if let Err(why) = self.begin(order, true) {
                tracing::error!(%stream, %why, "push not begun");
            }
        }
    }

    /// Spawns a task that sends the stream whenever it is there. Returns the id of the push.
    pub fn start(&self, order: Order) -> Result<u64, StartError> {
        self.begin(order, false)
    }

    fn begin(&self, order: Order, configured: bool) -> Result<u64, StartError> {
        let mut table = self.table();
        let same = |row: &Row| row.order.stream == order.stream && row.order.url == order.url;
        // One that has given up is in nobody's way.
        table.rows.retain(|_, row| !(same(row) && row.board.info().doing == Doing::Stopped));
        if let Some((id, _)) = table.rows.iter().find(|(_, row)| same(row)) {
            return Err(StartError::There(*id));
        }
        if table.rows.len() >= PUSHES {
            let over = table.rows.iter().find(|(_, row)| row.board.info().doing == Doing::Stopped).map(|(id, _)| *id);
            table.rows.remove(&over.ok_or(StartError::Full)?);
        }
        table.last_id += 1;
        let id = table.last_id;
        let mode = if order.on_demand { "on_demand" } else { "always" };
        let board = Arc::new(Board::new(order.stream.to_string(), mask_url(order.url.url().as_str()), mode));
        let stop = self.0.stop.child_token();
        let row = Row { order: order.clone(), configured, board: board.clone(), stop: stop.clone() };
        table.rows.insert(id, row);
        drop(table);
        // The hub waits for it when the node ends: its target is told.
        self.0.hub.spawn(self.clone().keep(order, board, stop));
        Ok(id)
    }

    /// Ends a push and returns what it was; None: there is none of this id. One of the configuration is back after a restart.
    pub fn stop(&self, id: u64) -> Option<Order> {
        let row = self.table().rows.remove(&id)?;
        row.stop.cancel();
        Some(row.order)
    }

    /// What each push is doing, the oldest first.
    pub fn list(&self) -> Vec<PushInfo> {
        self.table().rows.iter().map(|(id, row)| row.info(*id)).collect()
    }

    /// One of them.
    pub fn get(&self, id: u64) -> Option<PushInfo> {
        self.table().rows.get(&id).map(|row| row.info(id))
    }

    /// The newest push to this URL.
    pub fn by_url(&self, url: &str) -> Option<u64> {
        let table = self.table();
        table.rows.iter().rev().find(|(_, row)| row.order.url.url().as_str() == url).map(|(id, _)| *id)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().expect("no code panics while it holds the table of pushes")
    }

    /// Sends one stream whenever it is there, until it is stopped or the retries are used up.
    async fn keep(self, order: Order, board: Arc<Board>, stop: CancellationToken) {
        let (stream, url) = (&order.stream, mask_url(order.url.url().as_str()));
        let mut backoff = Backoff::default();
        let mut warned = false;
        loop {
            board.set(Doing::Waiting, None);
            let mut feed = tokio::select! {
                feed = self.source(stream) => feed,
                () = stop.cancelled() => return,
            };
            board.set(Doing::Starting, None);
            let (mut live, mut old) = (None, false);
            let session = feed.session().figures().clone();
            let news = |news| match news {
                PushNews::Begun { tells } => {
                    live.get_or_insert_with(Instant::now);
                    old = !tells && matches!(order.url.url().scheme(), "ws" | "wss");
                    board.set(Doing::Live, None);
                    if order.on_demand && !tells && !std::mem::replace(&mut warned, true) {
                        tracing::info!(%stream, %url, "the target does not say whether anybody watches: sending always");
                    }
                }
                PushNews::Resting => board.set(Doing::Waiting, None),
                PushNews::Resumed => board.set(Doing::Live, None),
            };
            let ended = {
                let sending = self.send(&order, &mut feed, news);
                tokio::pin!(sending);
                tokio::select! {
                    ended = &mut sending => ended,
                    () = stop.cancelled() => {
                        session.cancel();
                        timeout(FAREWELL, sending).await.ok();
                        return;
                    }
                }
            };
            // A session that was cancelled through the API is tried again like any other end.
            let Ended::Failed(why, left_alone) = ended else {
                if order.once {
                    board.set(Doing::Stopped, None);
                    return;
                }
                continue;
            };
            tracing::warn!(%stream, %url, %why, "push failed");
            // An old upper is ended by a second push of a name whose first it still holds.
            let left_alone = if old { Some(culvert_m7s::push::PAUSE) } else { left_alone };
            let wait = backoff.after(live).max(left_alone.unwrap_or_default());
            let may_retry = match order.retry {
                Retry::Forever => true,
                Retry::Never => false,
                Retry::Times(times) => backoff.failures() <= times,
            };
            if !may_retry {
                board.set(Doing::Stopped, Some(why));
                return;
            }
            board.set(Doing::Retrying, Some(why));
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One connection to the target.
    async fn send(&self, order: &Order, feed: &mut Subscriber, mut news: impl FnMut(PushNews) + Send) -> Ended {
        let (url, silence) = (order.url.url(), self.0.silence);
        if matches!(url.scheme(), "ws" | "wss") {
            let (dial, token) = self.0.routes.to(url);
            let (cid, on_demand, before_tags) = (&self.0.cid, order.on_demand, &culvert_m7s::push::SLOT);
            let push = culvert_live::Push { url, cid, dial, token, silence, on_demand, before_tags };
            return match culvert_live::push(&push, feed, news).await {
                Ok(()) | Err(PushError::SourceEnded(_)) => Ended::Source,
                Err(error) => Ended::Failed(error.to_string(), error.retry_after()),
            };
        }
        let begun = || news(PushNews::Begun { tells: false });
        if matches!(url.scheme(), "rtsp" | "rtsps") {
            return match culvert_rtsp::push(url, &self.0.routes.trust, silence, feed, begun).await {
                Ok(()) | Err(culvert_rtsp::ClientError::SourceEnded(_)) => Ended::Source,
                Err(error) => Ended::Failed(error.to_string(), None),
            };
        }
        match culvert_rtmp::push(url.as_str(), &self.0.routes.trust, silence, feed, begun).await {
            Ok(()) | Err(ClientError::SourceEnded(_)) => Ended::Source,
            Err(error) => Ended::Failed(error.to_string(), None),
        }
    }

    /// Waits for the stream to be live.
    async fn source(&self, stream: &StreamName) -> Subscriber {
        let mut events = self.0.hub.events();
        loop {
            let remote = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let source = Source { protocol: "push", remote };
            if let Some(admission) = self.0.hub.read(stream, source, Identity::anonymous()) {
                return admission.subscribe();
            }
            // Whatever the news is, also that some was missed, the stream is looked up again.
            while let Ok(Event::Ended(_)) = events.recv().await {}
        }
    }
}

impl Row {
    fn info(&self, id: u64) -> PushInfo {
        PushInfo { id, configured: self.configured, retry: self.order.retry, relay: self.board.info() }
    }
}
