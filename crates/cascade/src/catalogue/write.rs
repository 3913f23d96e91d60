//! The lower's side: what this node has, as a snapshot and then as changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_hub::Hub;
use culvert_link::{Body, channel};
use http::{Response, header};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Line, PeerItem, Platform, StreamItem, millis, stream_name};
use crate::peers::Peers;

/// Changes that come together go together.
const SETTLE: Duration = Duration::from_millis(50);
/// After a look at everything, the next one comes after so many times what it took: with ten thousand platforms below, a
/// look costs milliseconds, and there is always news.
const REST: u32 = 10;
/// Figures such as rates have no event of their own.
const FIGURES: Duration = Duration::from_secs(5);
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
            for (path, item) in catalogue.peers() {
                peers.insert(format!("{}/{path}", peer.cid), item.clone());
            }
            for (name, item) in catalogue.streams() {
                // A name that would be too long here cannot be watched from here.
                let Some(name) = stream_name(name).and_then(|name| name.with_cid(&peer.cid).ok()) else { continue };
                streams.insert(name.to_string(), StreamItem { origin: "peer".into(), ..item.clone() });
            }
        }
        streams.extend(self.cameras.list());
        streams.extend(self.hub.list().iter().map(|info| (info.name.to_string(), StreamItem::from(info))));
        (streams, peers)
    }
}

/// The answer to `GET /cascade/v1/catalogue`. Spawns the task that writes it until its reader goes.
pub fn write(below: &Below) -> Response<Body> {
    let (sender, body) = channel(1);
    tokio::spawn(keep_writing(below.clone(), sender));
    let mut response = Response::new(body);
    let kind = header::HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn keep_writing(below: Below, sender: mpsc::Sender<Bytes>) {
    let (mut of_hub, mut of_peers) = (below.hub.events(), below.peers.events());
    let mut writer = Writer { sender, version: millis(SystemTime::now()), piece: Vec::new() };
    let (mut streams, mut peers) = below.rows();
    if writer.snapshot(&below.platform, &streams, &peers).await.is_none() {
        return;
    }
    let mut rest = Instant::now();
    let mut figures = interval(FIGURES);
    figures.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let settled = tokio::select! {
            news = of_hub.recv() => news.is_ok_or_lagged(),
            news = of_peers.recv() => news.is_ok_or_lagged(),
            _ = figures.tick() => Some(Instant::now()),
            () = writer.sender.closed() => return,
        };
        let Some(settled) = settled else { return };
        sleep_until(settled.max(rest)).await;
        let began = Instant::now();
        // What came in between is in the rows already.
        of_hub = of_hub.resubscribe();
        of_peers = of_peers.resubscribe();
        let (now_streams, now_peers) = below.rows();
        if writer.changes(&streams, &now_streams, &peers, &now_peers).await.is_none() {
            return;
        }
        (streams, peers) = (now_streams, now_peers);
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

struct Writer {
    sender: mpsc::Sender<Bytes>,
    version: u64,
    piece: Vec<u8>,
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
        self.sender.send(std::mem::take(&mut self.piece).into()).await.ok()
    }

    async fn snapshot(
        &mut self,
        platform: &Platform,
        streams: &Rows<StreamItem>,
        peers: &Rows<PeerItem>,
    ) -> Option<()> {
        let version = self.next();
        self.line(&Line::Snapshot { version, platform: platform.clone() }).await?;
        self.changes_in(&Rows::new(), streams, &Rows::new(), peers).await?;
        let version = self.version;
        self.line(&Line::Whole { version }).await?;
        self.flush().await
    }

    async fn changes(
        &mut self,
        streams: &Rows<StreamItem>,
        now_streams: &Rows<StreamItem>,
        peers: &Rows<PeerItem>,
        now_peers: &Rows<PeerItem>,
    ) -> Option<()> {
        self.changes_in(streams, now_streams, peers, now_peers).await?;
        self.flush().await
    }

    async fn changes_in(
        &mut self,
        streams: &Rows<StreamItem>,
        now_streams: &Rows<StreamItem>,
        peers: &Rows<PeerItem>,
        now_peers: &Rows<PeerItem>,
    ) -> Option<()> {
        for (name, stream) in now_streams.iter().filter(|(name, stream)| streams.get(*name) != Some(stream)) {
            let version = self.next();
            self.line(&Line::Stream { version, name: name.clone(), stream: stream.clone() }).await?;
        }
        for name in streams.keys().filter(|name| !now_streams.contains_key(*name)) {
            let version = self.next();
            self.line(&Line::StreamGone { version, name: name.clone() }).await?;
        }
        for (path, peer) in now_peers.iter().filter(|(path, peer)| peers.get(*path) != Some(peer)) {
            let version = self.next();
            self.line(&Line::Peer { version, path: path.clone(), peer: peer.clone() }).await?;
        }
        for path in peers.keys().filter(|path| !now_peers.contains_key(*path)) {
            let version = self.next();
            self.line(&Line::PeerGone { version, path: path.clone() }).await?;
        }
        Some(())
    }
}
