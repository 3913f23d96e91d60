//! What Enhanced RTMP v2 adds to `connect` and its answer ("Enhancing NetConnection connect Command").

use culvert_formats::amf0::Value;

use super::transport::object;

/// Video that we carry besides the old numbers; what [`culvert_formats::flv::Demux`] reads.
const VIDEO: [&str; 5] = ["avc1", "hvc1", "av01", "vp08", "vp09"];
/// Audio likewise.
const AUDIO: [&str; 3] = ["mp4a", "Opus", ".mp3"];
/// FourCcInfoMask CanForward: we pass media on and do not code it.
const CAN_FORWARD: f64 = 4.0;
/// CapsExMask Multitrack (2), ModEx (4) and TimestampNanoOffset (8); not Reconnect (1).
const CAPS_EX: f64 = 14.0;

/// Whether the peer's command object says that it knows Enhanced RTMP, v1 or v2.
pub(super) fn are_in(object: &Value) -> bool {
    ["fourCcList", "capsEx", "videoFourCcInfoMap", "audioFourCcInfoMap"].iter().any(|key| object.get(key).is_some())
}

/// Whether the peer's command object says that it takes Opus.
pub(super) fn take_opus(object: &Value) -> bool {
    let is_it = |name: &str| name == "Opus" || name == "*";
    let listed = match object.get("fourCcList") {
        Some(Value::StrictArray(list)) => list.iter().any(|name| name.as_str().is_some_and(is_it)),
        Some(_) | None => false,
    };
    listed
        || object.get("audioFourCcInfoMap").is_some_and(|map| ["Opus", "*"].iter().any(|name| map.get(name).is_some()))
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
