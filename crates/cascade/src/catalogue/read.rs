//! The upper's side: asks a lower for its catalogue and keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use culvert_link::{Link, empty};
use culvert_media::Cid;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::time::{sleep, timeout};

use super::{Catalogue, Known, Line, MOST_PEERS, MOST_STREAMS, PATH, PeerItem, Platform, StreamItem, stream_name};
use crate::peers::Peers;

/// A catalogue that says nothing for so long is left until there are news, so that the link can rest.
const QUIET: Duration = Duration::from_secs(20);
/// And then it is asked for again all the same, for lowers that do not tell.
const AFTER_ALL: Duration = Duration::from_secs(600);
/// Longest line: a stream with 16 tracks and a sentence stays far below.
const LINE: usize = 16 << 10;
/// How long a lower may take to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// A catalogue that could not be read is asked for again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// Most tracks of a stream that are kept; ours have no more (`culvert_media::Tracks`).
const TRACKS: usize = 16;
/// Most bytes of a text for people, and of a word of ours.
const TEXT: usize = 256;
const WORD: usize = 32;
/// Most platforms on the way to one: beyond, it is a circle or a joke.
const DEPTH: usize = 16;
/// Most lines that are taken in before what they say is shown.
const BATCH: usize = 4096;

/// Reads the catalogue of a lower for as long as its link lives. The error, a sentence, is the lower's fault.
pub(crate) async fn read(peers: &Peers, cid: &Cid, generation: u64, link: &Link) -> Result<(), String> {
    loop {
        let request = Request::get(format!("http://{cid}{PATH}")).body(empty()).expect("an id can be an authority");
        match timeout(BEGIN, link.request_of_own(request)).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => {
                if follow(peers, cid, generation, answer.into_body()).await? == Followed::Quiet {
                    timeout(AFTER_ALL, link.news()).await.ok();
                    continue;
                }
            }
            Ok(Ok(answer)) => tracing::warn!(peer = %cid, status = %answer.status(), "no catalogue"),
            Ok(Err(error)) => tracing::debug!(peer = %cid, %error, "no catalogue"),
            Err(_) => tracing::warn!(peer = %cid, "no catalogue in time"),
        }
        sleep(AGAIN).await;
    }
}

/// How a catalogue stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Followed {
    /// It said nothing any more.
    Quiet,
    Ended,
}

async fn follow(peers: &Peers, cid: &Cid, generation: u64, mut body: culvert_link::Answer) -> Result<Followed, String> {
    let (mut taken, mut lines) = (Lines::default(), Reader::default());
    // A body that fails is a link that fails, which is not the catalogue's fault.
    loop {
        let frame = match timeout(QUIET, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_)) | None) => return Ok(Followed::Ended),
            Err(_) if lines.is_between() && taken.0.is_empty() => return Ok(Followed::Quiet),
            // It stopped in mid-sentence; a slow path is no fault.
            Err(_) => continue,
        };
        let Some(data) = frame.data_ref() else { continue };
        taken.0.extend_from_slice(data);
        let mut batch = Vec::new();
        while let Some(line) = taken.next()? {
            batch.push(line);
            if batch.len() == BATCH {
                lines.take(&mut batch, peers, cid, generation)?;
            }
        }
        if taken.0.is_empty() {
            // Between two changes nothing is held.
            taken.0 = BytesMut::new();
        }
        lines.take(&mut batch, peers, cid, generation)?;
    }
}

/// Bytes that are not a whole line yet.
#[derive(Default)]
struct Lines(BytesMut);

impl Lines {
    fn next(&mut self) -> Result<Option<Line>, String> {
        let Some(end) = self.0.iter().take(LINE + 1).position(|byte| *byte == b'\n') else {
            let long = self.0.len() > LINE;
            return if long { Err(format!("a line of more than {LINE} bytes")) } else { Ok(None) };
        };
        let line = self.0.split_to(end);
        self.0.advance(1);
        serde_json::from_slice(&line).map(Some).map_err(|why| format!("a line that is none of ours: {why}"))
    }
}

/// Lines to a catalogue. A snapshot is shown once it is whole.
#[derive(Default)]
struct Reader {
    snapshot: Option<Known>,
    begun: bool,
}

impl Reader {
    /// Whether all that was begun is whole.
    fn is_between(&self) -> bool {
        self.begun && self.snapshot.is_none()
    }

    fn take(&mut self, batch: &mut Vec<Line>, peers: &Peers, cid: &Cid, generation: u64) -> Result<(), String> {
        let mut changes = Vec::new();
        for line in batch.drain(..) {
            match line {
                Line::Snapshot { version, platform } => {
                    self.begun = true;
                    let platform = platform.bounded();
                    self.snapshot = Some(Known { platform, version, ..Known::default() });
                }
                Line::Whole { .. } => {
                    changes.clear();
                    let Some(known) = self.snapshot.take() else { return Err("the end of no snapshot".into()) };
                    peers.update(cid, generation, |catalogue| {
                        *catalogue = Catalogue(Arc::new(known));
                        true
                    });
                }
                _ if !self.begun => return Err("a change before the snapshot".into()),
                line @ (Line::Stream { .. } | Line::StreamGone { .. } | Line::Peer { .. } | Line::PeerGone { .. }) => {
                    match &mut self.snapshot {
                        Some(known) => {
                            apply(known, line);
                        }
                        None => changes.push(line),
                    }
                }
            }
        }
        if !changes.is_empty() {
            peers.update(cid, generation, |catalogue| {
                let known = Arc::make_mut(&mut catalogue.0);
                let mut is_news = false;
                for line in changes.drain(..) {
                    is_news |= apply(known, line);
                }
                is_news
            });
        }
        Ok(())
    }
}

/// Whether that changes more than figures. What is no name, or one too many, is left out and counted.
fn apply(known: &mut Known, line: Line) -> bool {
    match line {
        Line::Stream { version, name, stream } => {
            known.version = version;
            let named = stream_name(&name).is_some() && (stream.path.is_empty() || is_path(&stream.path));
            let stream = stream.bounded();
            let is_news = known.streams.get(&name).is_none_or(|before| stream.is_news_after(before));
            let kept = named && insert(&mut known.streams, name, stream, MOST_STREAMS);
            known.left_out += u64::from(!kept);
            is_news
        }
        Line::StreamGone { version, name } => {
            known.version = version;
            known.streams.remove(&name).is_some()
        }
        Line::Peer { version, path, peer } => {
            known.version = version;
            let peer = peer.bounded();
            let is_news = known.peers.get(&path).is_none_or(|before| peer.is_news_after(before));
            known.left_out += u64::from(!(is_path(&path) && insert(&mut known.peers, path, peer, MOST_PEERS)));
            is_news
        }
        Line::PeerGone { version, path } => {
            known.version = version;
            known.peers.remove(&path).is_some()
        }
        Line::Snapshot { .. } | Line::Whole { .. } => false,
    }
}

fn is_path(text: &str) -> bool {
    text.split('/').count() <= DEPTH && text.split('/').all(|cid| Cid::parse(cid).is_ok())
}

fn insert<T>(rows: &mut BTreeMap<String, T>, key: String, value: T, most: usize) -> bool {
    if rows.len() >= most && !rows.contains_key(&key) {
        return false;
    }
    rows.insert(key, value);
    true
}

/// At most so many bytes of a text.
fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text.shrink_to_fit();
    text
}

// What a lower says of itself is as long as it likes, and kept ten thousand times.

impl StreamItem {
    fn bounded(mut self) -> StreamItem {
        self.tracks.truncate(TRACKS);
        self.tracks.shrink_to_fit();
        for track in &mut self.tracks {
            track.codec = cut(std::mem::take(&mut track.codec), WORD);
        }
        let (state, origin) = (cut(self.state, WORD), cut(self.origin, WORD));
        StreamItem { state, origin, error: self.error.map(|why| cut(why, TEXT)), ..self }
    }
}

impl PeerItem {
    fn bounded(self) -> PeerItem {
        let (name, serial) = (cut(self.name, TEXT), self.serial.map(|serial| cut(serial, TEXT)));
        PeerItem { name, serial, carrier: cut(self.carrier, WORD), ..self }
    }
}

impl Platform {
    fn bounded(self) -> Platform {
        let (name, serial) = (cut(self.name, TEXT), self.serial.map(|serial| cut(serial, TEXT)));
        Platform { name, serial, version: cut(self.version, WORD), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PeerItem, Platform, StreamItem};
    use super::*;
    use crate::peers::PeerLimits;

    fn peers() -> Peers {
        Peers::new(Cid::parse("top").unwrap(), PeerLimits { links: 1, requests: 1 })
    }

    fn stream(version: u64, name: &str) -> Line {
        Line::Stream {
            version,
            name: name.into(),
            stream: StreamItem { state: "live".into(), ..StreamItem::default() },
        }
    }

    #[test]
    fn lines_come_out_whatever_the_pieces() {
        let text = [
            serde_json::to_string(&Line::Snapshot { version: 1, platform: Platform::default() }).unwrap(),
            serde_json::to_string(&stream(2, "live/a")).unwrap(),
            serde_json::to_string(&Line::Peer { version: 3, path: "c1".into(), peer: PeerItem::default() }).unwrap(),
        ]
        .join("\n")
            + "\n";
        for cut in 1..text.len() {
            let (mut lines, mut seen) = (Lines::default(), 0);
            for piece in text.as_bytes().chunks(cut) {
                lines.0.extend_from_slice(piece);
                while lines.next().unwrap().is_some() {
                    seen += 1;
                }
            }
            assert_eq!(seen, 3);
        }
    }

    #[test]
    fn what_is_no_catalogue_is_an_error_with_bounded_memory() {
        let mut lines = Lines(BytesMut::from("{\"item\":\"nonsense\"}\n"));
        assert!(lines.next().is_err());
        let mut endless = Lines(BytesMut::from(&vec![b'x'; LINE + 1][..]));
        assert!(endless.next().unwrap_err().contains("more than"));
        let (mut reader, cid) = (Reader::default(), Cid::parse("c").unwrap());
        assert!(reader.take(&mut vec![stream(1, "live/a")], &peers(), &cid, 1).is_err());
        assert!(reader.take(&mut vec![Line::Whole { version: 1 }], &peers(), &cid, 1).is_err());
    }

    #[test]
    fn a_million_streams_are_counted_and_ten_thousand_kept() {
        let mut known = Known::default();
        for n in 0..1_000_000u64 {
            apply(&mut known, stream(n, &format!("live/{n}")));
        }
        apply(&mut known, stream(1, "no/../name"));
        assert_eq!((known.streams.len(), known.left_out), (MOST_STREAMS, 990_001));
    }
}
