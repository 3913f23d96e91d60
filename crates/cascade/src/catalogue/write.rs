//! The lower's side: what this node has, as a snapshot and then as changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_hub::Hub;
use culvert_link::{Body, News as LinkNews, Sender, channel};
use http::{Response, header};
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Line, PeerItem, Platform, StreamItem, millis, stream_name};
use crate::peers::Peers;

/// Changes that come together go together.
const SETTLE: Duration = Duration::from_millis(50);
/// After a look at everything, the next one comes after so many times what it took: with ten thousand platforms below, a
/// look costs milliseconds, and there is always news.
const REST: u32 = 10;
/// Viewers, and cameras that are down, have no event of their own.
const LOOK: Duration = Duration::from_secs(1);
/// Rates change all the time: they are told with every so many looks. Ten streams then cost 2 kbit/s of an uplink.
const FIGURES: u32 = 10;
/// What was told so long ago has been heard: an upper leaves after a longer silence (`QUIET` in `read`).
const HEARD: Duration = Duration::from_secs(10);
/// Bytes of one piece of the body.
const PIECE: usize = 16 << 10;

/// Streams that are configured here and need not be there: the node knows them.
pub trait Cameras: Send + Sync + 'static {
    /// By name: `down` with its reason, or `available` on demand.
    fn list(&self) -> Vec<(String, StreamItem)>;
}

/// All that a catalogue is made of. Cheap to clone.
#[derive(Clone)]
pub struct Below {
    /// Who this node is.
    pub platform: Platform,
    /// Its streams.
    pub hub: Hub,
    /// The platforms below it.
    pub peers: Peers,
    /// Its cameras.
    pub cameras: Arc<dyn Cameras>,
}

type Rows<T> = BTreeMap<String, T>;

impl Below {
    /// What there is now: streams and platforms by name.
    fn rows(&self) -> (Rows<StreamItem>, Rows<PeerItem>) {
        let (mut streams, mut peers) = (Rows::new(), Rows::new());
        for peer in self.peers.list() {
            let catalogue = match peer.unknown_since() {
                Some(since) => peer.catalogue.unknown_since(since),
                None => peer.catalogue.clone(),
            };
            peers.insert(peer.cid.to_string(), peer.item());
            // What came through here already is not told again: nodes can be below each other.
            let own = self.peers.cid().as_str();
            let elsewhere = |path: &str| path.split('/').all(|cid| cid != own && cid != peer.cid.as_str());
            for (path, item) in catalogue.peers().iter().filter(|(path, _)| elsewhere(path)) {
                peers.insert(format!("{}/{path}", peer.cid), item.clone());
            }
            for (name, item) in catalogue.streams().iter().filter(|(_, item)| elsewhere(&item.path)) {
                // A name that would be too long here cannot be watched from here.
                let Some(name) = stream_name(name).and_then(|name| name.with_cid(&peer.cid).ok()) else { continue };
                let path = [peer.cid.as_str(), &item.path].join("/").trim_end_matches('/').to_string();
                streams.insert(name.to_string(), StreamItem { origin: "peer".into(), path, ..item.clone() });
            }
        }
        streams.extend(self.cameras.list());
        streams.extend(self.hub.list().iter().map(|info| (info.name.to_string(), StreamItem::from(info))));
        (streams, peers)
    }
}

/// The answer to `GET /cascade/v1/catalogue`. Spawns the task that writes it until its reader goes; and for a reader that goes
/// only until there are news, and can be told of them, looks after that, too.
pub fn write(below: &Below, news: Option<LinkNews>) -> Response<Body> {
    let (sender, body) = channel(1);
    tokio::spawn(keep_writing(below.clone(), sender, news));
    let mut response = Response::new(body);
    let kind = header::HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn keep_writing(below: Below, sender: Sender, news_of_link: Option<LinkNews>) {
    let (mut of_hub, mut of_peers) = (below.hub.events(), below.peers.events());
    let mut writer = Writer {
        sender,
        version: millis(SystemTime::now()),
        piece: Vec::new(),
        told: Told::default(),
        told_at: Instant::now(),
    };
    if writer.snapshot(&below).await.is_none() {
        return;
    }
    // Nobody reads, and somebody wants to know when it is worth it.
    let mut left = None;
    let mut rest = Instant::now();
    let mut looks = 0_u32;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let settled = tokio::select! {
            news = of_hub.recv() => news.is_ok_or_lagged(),
            news = of_peers.recv() => news.is_ok_or_lagged(),
            _ = look.tick() => {
                looks = looks.wrapping_add(1);
                Some(Instant::now())
            }
            () = writer.sender.closed(), if left.is_none() => {
                let Some(news) = &news_of_link else { return };
                if writer.told_at.elapsed() < HEARD {
                    news.tell();
                    return;
                }
                left = Some(news);
                continue;
            }
            // What there will be is not what there is.
            () = below.hub.draining() => return,
        };
        let Some(settled) = settled else { return };
        if left.is_some_and(LinkNews::is_gone) {
            return;
        }
        sleep_until(settled.max(rest)).await;
        let began = Instant::now();
        // What came in between is in the rows already.
        of_hub = of_hub.resubscribe();
        of_peers = of_peers.resubscribe();
        let figures = looks >= FIGURES && left.is_none();
        if figures {
            looks = 0;
        }
        if writer.changes(below.rows(), figures).await.is_none() {
            // It could not be written, so there was something to write.
            if let Some(news) = &news_of_link {
                news.tell();
            }
            return;
        }
        rest = Instant::now() + began.elapsed() * REST;
    }
}

/// Whether news of any kind came; None when no more can come.
trait News {
    fn is_ok_or_lagged(&self) -> Option<Instant>;
}

impl<T> News for Result<T, broadcast::error::RecvError> {
    fn is_ok_or_lagged(&self) -> Option<Instant> {
        match self {
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => Some(Instant::now() + SETTLE),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// What the reader knows.
#[derive(Default)]
struct Told {
    streams: Rows<StreamItem>,
    peers: Rows<PeerItem>,
}

struct Writer {
    sender: Sender,
    version: u64,
    piece: Vec<u8>,
    told: Told,
    /// When something was told the last time.
    told_at: Instant,
}

impl Writer {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// None: the reader has gone.
    async fn line(&mut self, line: &Line) -> Option<()> {
        serde_json::to_writer(&mut self.piece, line).expect("all keys are text and all numbers finite");
        self.piece.push(b'\n');
        if self.piece.len() >= PIECE { self.flush().await } else { Some(()) }
    }

    async fn flush(&mut self) -> Option<()> {
        if self.piece.is_empty() {
            return Some(());
        }
        self.told_at = Instant::now();
        self.sender.send(std::mem::take(&mut self.piece).into()).await.ok()
    }

    async fn snapshot(&mut self, below: &Below) -> Option<()> {
        let version = self.next();
        self.line(&Line::Snapshot { version, platform: below.platform.clone() }).await?;
        self.differences(below.rows(), true).await?;
        let version = self.version;
        self.line(&Line::Whole { version }).await?;
        self.flush().await
    }

    async fn changes(&mut self, now: (Rows<StreamItem>, Rows<PeerItem>), figures: bool) -> Option<()> {
        self.differences(now, figures).await?;
        self.flush().await
    }

    /// What is other than the reader knows it; of figures alone only where they are asked for.
    async fn differences(&mut self, (streams, peers): (Rows<StreamItem>, Rows<PeerItem>), figures: bool) -> Option<()> {
        let mut told = std::mem::take(&mut self.told);
        for name in gone(&told.streams, &streams) {
            told.streams.remove(&name);
            let version = self.next();
            self.line(&Line::StreamGone { version, name }).await?;
        }
        for (name, stream) in streams {
            let known = told.streams.get(&name);
            if known.is_some_and(|known| if figures { *known == stream } else { !stream.is_news_after(known) }) {
                continue;
            }
            let version = self.next();
            self.line(&Line::Stream { version, name: name.clone(), stream: stream.clone() }).await?;
            told.streams.insert(name, stream);
        }
        for path in gone(&told.peers, &peers) {
            told.peers.remove(&path);
            let version = self.next();
            self.line(&Line::PeerGone { version, path }).await?;
        }
        for (path, peer) in peers {
            let known = told.peers.get(&path);
            if known.is_some_and(|known| if figures { *known == peer } else { !peer.is_news_after(known) }) {
                continue;
            }
            let version = self.next();
            self.line(&Line::Peer { version, path: path.clone(), peer: peer.clone() }).await?;
            told.peers.insert(path, peer);
        }
        self.told = told;
        Some(())
    }
}

fn gone<T>(told: &Rows<T>, now: &Rows<T>) -> Vec<String> {
    told.keys().filter(|key| !now.contains_key(*key)).cloned().collect()
}
