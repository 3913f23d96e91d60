//! What is listed, as JSON. Times are RFC 3339, sizes bytes, durations milliseconds, and the names say so.

use axum::response::Json;
use culvert_hub::{Action, Hub, SessionFigures, StreamInfo, parameter};
use culvert_media::{Detail, Time, Track, rfc3339};
use serde_json::{Value, json};

use crate::logs::Line;
use crate::relays::{PushInfo, RelayInfo};

/// Most items of one answer.
const ITEMS: usize = 1000;

/// Where in a list to begin: `?after=CURSOR&limit=N`.
#[derive(Debug, Default)]
pub(super) struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

impl Page {
    /// From a query string; the error is a sentence.
    pub(super) fn parse(query: &str) -> Result<Page, String> {
        let limit = match parameter(query, "limit") {
            Some(text) => {
                let limit = text.parse().ok().filter(|limit| *limit > 0);
                Some(limit.ok_or_else(|| format!("limit={text} is no number of items"))?)
            }
            None => None,
        };
        Ok(Page { after: parameter(query, "after"), limit })
    }

    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// Items of one answer.
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(ITEMS).clamp(1, ITEMS)
    }
}

/// A page of items that are sorted by `key`.
pub(super) fn page<T>(at: &Page, items: Vec<T>, key: impl Fn(&T) -> String, show: impl Fn(&T) -> Value) -> Json<Value> {
    let limit = at.limit();
    let rest = items.iter().filter(|item| at.after.as_ref().is_none_or(|after| key(item) > *after));
    let mut found: Vec<&T> = rest.take(limit + 1).collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|item| key(item));
    Json(json!({ "items": found.into_iter().map(show).collect::<Vec<_>>(), "next": next }))
}

fn track(track: &Track) -> Value {
    match track.detail {
        Detail::Video(v) => {
            json!({ "id": track.id.0, "codec": track.codec.name(), "width": v.width, "height": v.height, "fps": v.fps })
        }
        Detail::Audio(a) => {
            json!({ "id": track.id.0, "codec": track.codec.name(), "sample_rate_hz": a.sample_rate_hz, "channels": a.channels })
        }
    }
}

pub(super) fn stream(hub: &Hub, info: &StreamInfo) -> Value {
    json!({
        "name": info.name.as_str(),
        "state": info.state,
        "tracks": info.tracks.iter().map(track).collect::<Vec<_>>(),
        "viewers": info.viewers,
        "origin": info.publisher.protocol,
        "publisher": session(hub, &info.publisher),
        "since": rfc3339(info.since),
        "frames": info.frames,
        "bytes": info.bytes,
        "dropped_frames": info.dropped,
        "discontinuities": info.discontinuities,
        "fps": (info.fps * 100.0).round() / 100.0,
        "bits_per_second": info.bits_per_second,
        "key_interval_ms": info.key_interval.map(|d| d.as_millis() as u64),
        "cached_bytes": info.cached_bytes,
        "packagings": info.packagings,
        "upstream": info.upstream.map(|left| json!({
            "disposable_frames": left.disposable,
            "frames": left.frames,
            "bytes": left.bytes,
            "keys_only": left.keys_only,
            "queued_ms": left.queued_ms,
        })),
    })
}

pub(super) fn session(hub: &Hub, s: &SessionFigures) -> Value {
    let (gaps, skipped) = s.gaps();
    json!({
        "id": s.id,
        "protocol": s.protocol,
        "action": s.action.name(),
        "stream": s.stream.as_str(),
        "remote": s.remote.to_string(),
        "identity": &*s.identity.name,
        "since": rfc3339(s.since),
        "bytes": s.bytes(),
        "frames": s.frames(),
        "gaps": gaps,
        "skipped_frames": skipped,
        "behind_ms": hub.behind(s).filter(|_| s.action == Action::Play).map(Time::millis),
    })
}

pub(super) fn line(line: &Line) -> Value {
    json!({ "id": line.id, "time": rfc3339(line.time), "level": line.level, "target": line.target, "message": line.message })
}

pub(super) fn relay(info: &RelayInfo) -> Value {
    json!({
        "stream": info.stream,
        "url": info.url,
        "mode": info.mode,
        "state": info.doing.name(),
        "since": rfc3339(info.since),
        "error": info.error,
        "attempts": info.attempts,
    })
}

pub(super) fn push(info: &PushInfo) -> Value {
    let mut shown = relay(&info.relay);
    shown["id"] = info.id.into();
    shown["configured"] = info.configured.into();
    shown["retry"] = info.retry.to_string().into();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_by_their_cursor() {
        let items: Vec<_> = (0..5).map(|n| format!("s{n}")).collect();
        let mut at = Page { after: None, limit: Some(2) };
        let mut seen = Vec::new();
        loop {
            let Json(answer) = page(&at, items.clone(), String::clone, |s| json!(s));
            seen.extend(answer["items"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()));
            match answer["next"].as_str() {
                Some(next) => at.after = Some(next.to_string()),
                None => break,
            }
        }
        assert_eq!(seen, items);
    }
}
