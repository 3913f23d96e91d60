//! What is listed, as JSON. Times are RFC 3339, sizes bytes, durations milliseconds, and the names say so.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::response::Json;
use culvert_hub::{Action, Hub, SessionFigures, StreamInfo, parameter};
use culvert_media::{Detail, Time, Track};
use serde_json::{Value, json};

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
}

/// A page of items that are sorted by `key`.
pub(super) fn page<T>(at: &Page, items: Vec<T>, key: impl Fn(&T) -> String, show: impl Fn(&T) -> Value) -> Json<Value> {
    let limit = at.limit.unwrap_or(ITEMS).clamp(1, ITEMS);
    let rest = items.iter().filter(|item| at.after.as_ref().is_none_or(|after| key(item) > *after));
    let mut found: Vec<&T> = rest.take(limit + 1).collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|item| key(item));
    Json(json!({ "items": found.into_iter().map(show).collect::<Vec<_>>(), "next": next }))
}

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil date from days since 1970-01-01, counting years from March so that the leap day comes last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.250Z"),
            (951_782_399, "2000-02-28T23:59:59.250Z"),
            (951_782_400, "2000-02-29T00:00:00.250Z"),
            (1_735_689_600, "2025-01-01T00:00:00.250Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 250)), text);
        }
    }

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
