//! Nodes that are linked, and what can be seen of video on demand at both ends of a link.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use culvert_hub::{Action, Identity, Next, SessionFigures, Source, Subscriber};
use culvert_media::{Frame, Time, TrackId};
use tokio::task::JoinHandle;

use crate::TestNode;
use crate::node::stream_name;
use crate::pipe::{Direction, Pipe};
use crate::wait::until;

/// The configuration of a node below whoever listens there. `cascade` and `more` go behind it: keys of the section, and
/// sections.
pub fn below(upper: SocketAddr, cascade: &str, more: &str) -> String {
    format!("cascade: {{uppers: [{{url: \"ws://{upper}\"}}]{cascade}}}\n{more}")
}

/// The shortest grace there is.
pub const GRACE: &str = "on_demand: {grace: 1s}";

/// An upper, and the lower `edge1` behind a pipe.
pub struct Pair {
    /// The upper, `up`.
    pub upper: TestNode,
    /// The lower, `edge1`.
    pub lower: TestNode,
    /// Between both.
    pub pipe: Pipe,
}

impl Pair {
    /// Both without anything special but the shortest grace, linked.
    pub async fn linked() -> Pair {
        Pair::with(GRACE, "").await
    }

    /// With these keys in the upper's section `cascade`, and these sections at the lower.
    pub async fn with(upper_cascade: &str, lower: &str) -> Pair {
        let upper = TestNode::named("up", 0, &format!("cascade: {{{upper_cascade}}}"));
        let pipe = Pipe::to(upper.address());
        Pair::of(upper, pipe, lower).await
    }

    /// This upper and this pipe to it.
    pub async fn of(upper: TestNode, pipe: Pipe, lower: &str) -> Pair {
        let lower = TestNode::named("edge1", 0, &below(pipe.address(), "", lower));
        until_linked(&upper, "edge1", 1).await;
        Pair { upper, lower, pipe }
    }

    /// How many relays the lower serves.
    pub fn relays(&self) -> usize {
        relays(&self.lower).len()
    }

    /// Waits until the lower serves so many.
    pub async fn until_relays(&self, count: usize) {
        until_relays(&self.lower, count).await;
    }

    /// Bytes that came up the link so far.
    pub fn up_bytes(&self) -> u64 {
        self.pipe.passed_bytes(Direction::Up)
    }
}

/// Waits until a platform has been linked so many times, and is.
pub async fn until_linked(upper: &TestNode, cid: &str, times: u64) {
    let linked = async || {
        let peers = upper.node.cascade.peers().list();
        peers.iter().any(|peer| peer.cid.as_str() == cid && peer.linked && peer.links >= times).then_some(())
    };
    until(&format!("{cid} to be linked for the {times}. time"), linked).await;
}

/// The relays that this node serves to its upper.
pub fn relays(lower: &TestNode) -> Vec<Arc<SessionFigures>> {
    let sessions = lower.node.hub.sessions();
    sessions.into_iter().filter(|s| s.protocol == "relay" && s.action == Action::Play).collect()
}

/// Waits until it serves so many.
pub async fn until_relays(lower: &TestNode, count: usize) {
    until(&format!("{count} relays"), async || (relays(lower).len() == count).then_some(())).await;
}

/// Reads frames at a node, past its door. The stream must be live.
pub fn subscriber(node: &TestNode, stream: &str) -> Subscriber {
    let source = Source { protocol: "test", remote: node.address() };
    let admission = node.node.hub.read(&stream_name(stream), source, Identity::anonymous());
    admission.unwrap_or_else(|| panic!("{stream} is not live")).subscribe()
}

/// A frame, and when it was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As it was.
    pub frame: Frame,
    /// When.
    pub at: SystemTime,
}

impl Seen {
    /// How old it was by its wall clock.
    pub fn age(&self) -> Duration {
        self.at.duration_since(self.frame.wall).unwrap_or_default()
    }
}

/// Frames in the order in which they were seen.
pub type Record = Arc<Mutex<Vec<Seen>>>;

/// Spawns a reader that keeps all it sees, until the stream ends; then how it ended.
pub fn recording(mut subscriber: Subscriber) -> (Record, JoinHandle<culvert_hub::End>) {
    let record = Record::default();
    let into = record.clone();
    let reader = tokio::spawn(async move {
        loop {
            match subscriber.next().await {
                Next::Frame(frame) => {
                    let seen = Seen { frame, at: SystemTime::now() };
                    into.lock().expect("no reader panics").push(seen);
                }
                Next::Tracks(_) | Next::Gap(_) => {}
                Next::End(end) => return end,
            }
        }
    });
    (record, reader)
}

/// Frames by track and decoding time.
pub fn by_stamp(record: &Record) -> BTreeMap<(TrackId, Time), Seen> {
    let seen = record.lock().expect("no reader panics");
    seen.iter().map(|seen| ((seen.frame.track, seen.frame.dts), seen.clone())).collect()
}

/// Frames that were sent, between the first and the last of their track that came, and did not come.
pub fn missing(sent: &Record, came: &Record) -> Vec<(TrackId, Time)> {
    let (sent, came) = (sent.lock().expect("no reader panics"), came.lock().expect("no reader panics"));
    let came: BTreeSet<_> = came.iter().map(|seen| (seen.frame.track, seen.frame.dts)).collect();
    let within = |(track, dts)| {
        let of_track = || came.iter().filter(|(of, _)| *of == track).map(|(_, dts)| *dts);
        of_track().min().is_some_and(|first| first < dts) && of_track().max().is_some_and(|last| dts < last)
    };
    let sent = sent.iter().map(|seen| (seen.frame.track, seen.frame.dts));
    sent.filter(|frame| !came.contains(frame) && within(*frame)).collect()
}

/// The frames of a track in the order in which they were seen, by their stamps.
pub fn stamps(record: &Record, track: TrackId) -> Vec<Time> {
    let seen = record.lock().expect("no reader panics");
    seen.iter().filter(|seen| seen.frame.track == track).map(|seen| seen.frame.dts).collect()
}
