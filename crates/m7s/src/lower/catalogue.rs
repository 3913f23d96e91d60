//! What an old lower has, told as our own lowers tell it: a snapshot, then what changes. Its driver asks it now and then.

use std::sync::Arc;

use bytes::Bytes;
use culvert_cascade::catalogue::{Line, Platform, StreamItem};
use culvert_link::{Body, BoxError, body as boxed};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::watch;

use super::{Known, Shared};

/// How such a program calls itself here.
const VERSION: &str = "m7s v4";

/// The catalogue, for as long as it is read.
pub(super) fn body(shared: &Arc<Shared>) -> Body {
    let since_ms = culvert_cascade::catalogue::millis(shared.since);
    let telling =
        Telling { known: shared.known.subscribe(), told: None, version: 0, cid: shared.cid.clone(), since_ms };
    boxed(StreamBody::new(stream::unfold(telling, |mut telling| async move {
        let lines = telling.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(lines)), telling))
    })))
}

struct Telling {
    known: watch::Receiver<Known>,
    told: Option<Known>,
    version: u64,
    cid: String,
    since_ms: u64,
}

impl Telling {
    /// The next lines; None: the link has ended.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.told.is_some() {
                self.known.changed().await.ok()?;
            }
            let now = self.known.borrow_and_update().clone();
            let lines = self.lines(&now);
            self.told = Some(now);
            if !lines.is_empty() {
                return Some(lines.into());
            }
        }
    }

    fn lines(&mut self, now: &Known) -> Vec<u8> {
        let mut lines = Vec::new();
        // Its name stands in the snapshot only.
        match self.told.take().filter(|told| told.info == now.info) {
            None => {
                let name = if now.info.name.is_empty() { self.cid.clone() } else { now.info.name.clone() };
                let serial = Some(now.info.serial.clone()).filter(|serial| !serial.is_empty());
                let platform = Platform { name, serial, version: VERSION.into(), started_ms: self.since_ms };
                lines.push(Line::Snapshot { version: self.count(), platform });
                let streams = now.streams.iter().map(|name| self.stream(name));
                lines.extend(streams.collect::<Vec<_>>());
                lines.push(Line::Whole { version: self.version });
            }
            Some(told) => {
                for gone in told.streams.difference(&now.streams) {
                    lines.push(Line::StreamGone { version: self.count(), name: gone.clone() });
                }
                let come: Vec<Line> = now.streams.difference(&told.streams).map(|name| self.stream(name)).collect();
                lines.extend(come);
            }
        }
        let text = |line: &Line| serde_json::to_string(line).expect("a line is always JSON") + "\n";
        lines.iter().map(text).collect::<String>().into_bytes()
    }

    fn stream(&mut self, name: &str) -> Line {
        let stream = StreamItem { state: "live".into(), origin: "m7s".into(), ..StreamItem::default() };
        Line::Stream { version: self.count(), name: name.to_string(), stream }
    }

    fn count(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}
