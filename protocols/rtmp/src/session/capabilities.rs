//! What Enhanced RTMP v2 adds to `connect` and its answer ("Enhancing NetConnection connect Command").

use culvert_formats::amf0::Value;
use culvert_media::{Codec, Tracks};

use super::transport::object;

/// Video that we carry besides the old numbers; what [`culvert_formats::flv::Demux`] reads.
const VIDEO: [&str; 5] = ["avc1", "hvc1", "av01", "vp08", "vp09"];
/// Audio likewise.
const AUDIO: [&str; 4] = ["mp4a", "Opus", ".mp3", "fLaC"];
/// FourCcInfoMask CanForward: we pass media on and do not code it.
const CAN_FORWARD: f64 = 4.0;
/// CapsExMask Multitrack (2), ModEx (4) and TimestampNanoOffset (8); not Reconnect (1).
const CAPS_EX: f64 = 14.0;

/// Whether the peer's command object says that it knows Enhanced RTMP, v1 or v2.
pub(super) fn are_in(object: &Value) -> bool {
    ["fourCcList", "capsEx", "videoFourCcInfoMap", "audioFourCcInfoMap"].iter().any(|key| object.get(key).is_some())
}

/// What a peer says that it takes of sound, beyond what all know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// Opus.
    pub opus: bool,
    /// FLAC.
    pub flac: bool,
}

impl Takes {
    /// Whether these tracks can go as they are.
    pub fn all_of(self, tracks: &Tracks) -> bool {
        tracks.iter().all(|track| match track.codec {
            Codec::Opus => self.opus,
            Codec::Flac => self.flac,
            Codec::H264
            | Codec::H265
            | Codec::Av1
            | Codec::Vp8
            | Codec::Vp9
            | Codec::Aac
            | Codec::G711A
            | Codec::G711U
            | Codec::Mp3 => true,
        })
    }

    /// By the peer's command object.
    pub(super) fn of(object: &Value) -> Takes {
        let takes = |name: &str| {
            let listed = match object.get("fourCcList") {
                Some(Value::StrictArray(list)) => {
                    list.iter().filter_map(Value::as_str).any(|one| one == name || one == "*")
                }
                Some(_) | None => false,
            };
            let map = object.get("audioFourCcInfoMap");
            listed || map.is_some_and(|map| [name, "*"].iter().any(|name| map.get(name).is_some()))
        };
        Takes { opus: takes("Opus"), flac: takes("fLaC") }
    }

    /// What either of two says.
    pub(super) fn or(self, other: Takes) -> Takes {
        Takes { opus: self.opus || other.opus, flac: self.flac || other.flac }
    }
}

/// Our own, as properties for `connect` or its answer.
pub(super) fn properties() -> Vec<(String, Value)> {
    let list = VIDEO.iter().chain(&AUDIO).map(|name| Value::from(*name)).collect();
    vec![
        ("fourCcList".to_owned(), Value::StrictArray(list)),
        ("videoFourCcInfoMap".to_owned(), object(VIDEO.map(|name| (name, CAN_FORWARD.into())))),
        ("audioFourCcInfoMap".to_owned(), object(AUDIO.map(|name| (name, CAN_FORWARD.into())))),
        ("capsEx".to_owned(), CAPS_EX.into()),
    ]
}
