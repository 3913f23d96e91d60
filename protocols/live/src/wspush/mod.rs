//! Streams pushed by WebSocket-FLV (OLD_PEERS.md 3): [`claims`] says which URLs they come by, `accept` lets a pusher in,
//! `receive` publishes what it sends, and [`send`] is the pusher.
//!
//! The payloads of all binary messages joined are an FLV file; where one message ends means nothing. Two of our own
//! find each other by the subprotocol [`PROTOCOL`], and then say by short texts ([`Word`]) whether anybody watches, so
//! that a push on demand rests while nobody does. Not here: the doubled frame headers of m7s.

mod accept;
mod receive;
mod send;

use culvert_hub::{parameter, stream_in_path};
use culvert_media::{Cid, CidError, NameError, StreamName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::send::{Push, PushError, PushNews, push};

/// The subprotocol by which our own nodes know each other.
pub(crate) const PROTOCOL: &str = "culvert.flv";

/// Where the path of a push begins, behind a context path that a gateway may have left in front of it.
const MARK: &str = "/erwscascade/wspush/";
/// First segments of paths that are something else here, whatever stands behind them: a stream may be called
/// `erwscascade/wspush/a`, and what is meant for a platform below is not meant for this one (SURFACE.md).
const NOT_CONTEXT: [&str; 19] = [
    "api",
    "cascade",
    "console",
    "erwscascade",
    "fmp4",
    "hdl",
    "hls",
    "jessica",
    "peer",
    "play",
    "relay",
    "rtmp",
    "rtsp",
    "snap",
    "snapshot",
    "target",
    "webrtc",
    "whep",
    "whip",
];

/// A pusher's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// What the stream will be called here: `stream-cid`.
    pub(crate) stream: StreamName,
    /// The query string, without `?`.
    pub(crate) query: String,
}

/// Why a target that is meant to be a push is none.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum TargetError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("a push says by ?cid=ID from which platform it comes, and its stream is then called NAME-ID")]
    NoCid,
    #[error("cid: {0}")]
    Cid(#[from] CidError),
}

/// Reads a target (path and query): `{context}/erwscascade/wspush/{stream}?cid=ID`. None: it is no push.
pub(crate) fn claims(target: &str) -> Option<Result<Target, TargetError>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (context, name) = path.split_once(MARK)?;
    let first = context.split('/').find(|segment| !segment.is_empty());
    if first.is_some_and(|first| NOT_CONTEXT.contains(&first)) {
        return None;
    }
    Some(read(name, query))
}

fn read(name: &str, query: &str) -> Result<Target, TargetError> {
    let name = stream_in_path(name)?;
    let cid = Cid::parse(&parameter(query, "cid").ok_or(TargetError::NoCid)?)?;
    Ok(Target { stream: name.with_cid(&cid)?, query: query.to_string() })
}

/// What the two ends of a push say to each other by text, as JSON. What is not known is passed over.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Word {
    /// From the receiver: whether anybody watches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) viewers: Option<bool>,
    /// From the sender: false, that no media comes until somebody watches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sending: Option<bool>,
}

impl Word {
    /// A text that says nothing we know is as good as none.
    fn read(text: &[u8]) -> Word {
        serde_json::from_slice(text).unwrap_or_default()
    }

    fn text(self) -> String {
        serde_json::to_string(&self).expect("two words are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(target: &str) -> String {
        claims(target).unwrap().unwrap().stream.to_string()
    }

    #[test]
    fn a_push_is_named_after_its_stream_and_its_platform_under_any_context_path() {
        assert_eq!(name("/erwscascade/wspush/live/a?cid=c1"), "live/a-c1");
        assert_eq!(name("/context/erwscascade/wspush/a?token=x&cid=edge%2D7"), "a-edge-7");
        assert_eq!(name("/a/b/erwscascade/wspush/one/two/three?cid=c"), "one/two/three-c");
        assert_eq!(name("/erwscascade/wspush/live%2Fa?cid=c1"), "live/a-c1");
    }

    #[test]
    fn what_belongs_to_another_path_or_another_platform_is_left_alone() {
        for target in [
            "/",
            "/erwscascade/wspush",
            "/erwscascade/wsocket/register%3Fcid=c",
            "/peer/c1/erwscascade/wspush/live/a?cid=c",
            "/play/erwscascade/wspush/a.flv?cid=c",
            "/api/v1/streams/erwscascade/wspush/a",
            "//peer/erwscascade/wspush/a?cid=c",
        ] {
            assert_eq!(claims(target), None, "{target}");
        }
    }

    #[test]
    fn names_and_ids_are_checked() {
        let fault = |target: &str| claims(target).unwrap().unwrap_err();
        assert_eq!(fault("/erwscascade/wspush/live/a"), TargetError::NoCid);
        assert_eq!(fault("/erwscascade/wspush/live/a?cid="), TargetError::Cid(CidError::Length(0)));
        assert_eq!(fault("/erwscascade/wspush/live/a?cid=a/b"), TargetError::Cid(CidError::Character('/')));
        assert_eq!(fault("/erwscascade/wspush/?cid=c"), TargetError::Name(NameError::Empty));
        assert_eq!(fault("/erwscascade/wspush/../a?cid=c"), TargetError::Name(NameError::Dots));
        assert_eq!(fault("/erwscascade/wspush/%ff?cid=c"), TargetError::Name(NameError::Character('\u{fffd}')));
        let long = format!("/erwscascade/wspush/{}?cid=c1", "x".repeat(253));
        assert_eq!(fault(&long), TargetError::Name(NameError::Long(256)));
    }

    #[test]
    fn words_survive_the_wire_and_nonsense_says_nothing() {
        let watched = Word { viewers: Some(true), ..Word::default() };
        assert_eq!(watched.text(), r#"{"viewers":true}"#);
        assert_eq!(Word::read(watched.text().as_bytes()), watched);
        assert_eq!(Word::read(br#"{"sending":false,"later":[1]}"#).sending, Some(false));
        for nonsense in [&b""[..], b"hello", b"[]", b"{\"viewers\":1}", b"\xff"] {
            assert_eq!(Word::read(nonsense), Word::default());
        }
    }
}
