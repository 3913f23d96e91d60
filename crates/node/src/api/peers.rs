//! Platforms above and below, as JSON.

use axum::extract::{Path, State};
use axum::response::Json;
use culvert_cascade::PeerInfo;
use culvert_cascade::catalogue::{Catalogue, PeerItem, StreamItem, from_millis};
use culvert_link::{LinkFigures, State as LinkState};
use culvert_media::{Cid, StreamName, rfc3339};
use serde_json::{Value, json};

use super::lists::{Page, page};
use super::{Answer, Api, At, Caller, Problem};
use crate::auth::{Action, Resource};

/// What is shown of a platform that is lost: nothing is known of what it has.
fn shown(peer: &PeerInfo) -> Catalogue {
    match peer.unknown_since() {
        Some(since) => peer.catalogue.unknown_since(since),
        None => peer.catalogue.clone(),
    }
}

fn link(figures: &LinkFigures) -> Value {
    json!({
        "since": rfc3339(figures.since),
        "age_ms": figures.since.elapsed().unwrap_or_default().as_millis() as u64,
        "sent_bytes": figures.sent_bytes,
        "received_bytes": figures.received_bytes,
        "unsent_bytes": figures.unsent_bytes,
        "resting": figures.resting,
    })
}

fn millis_of(figures: Option<&LinkFigures>) -> Option<f64> {
    let micros = figures?.round_trip?.as_micros() as f64;
    Some((micros / 10.0).round() / 100.0)
}

fn peer(info: &PeerInfo) -> Value {
    let platform = info.catalogue.platform();
    json!({
        "cid": info.cid.as_str(),
        "name": if platform.name.is_empty() { info.cid.as_str() } else { &platform.name },
        "serial": platform.serial,
        "version": platform.version,
        "linked": info.linked,
        "since": rfc3339(info.since),
        "unknown_since": info.unknown_since().map(rfc3339),
        "error": info.error,
        "carrier": info.carrier,
        "remote": info.remote.to_string(),
        "rtt_ms": millis_of(info.figures.as_ref()),
        "links": info.links,
        "reconnects": info.links.saturating_sub(1),
        "link": info.figures.as_ref().map(link),
        "streams": info.catalogue.streams().len(),
        "peers": info.catalogue.peers().len(),
        "catalogue_version": info.catalogue.version(),
        "left_out": info.catalogue.left_out(),
    })
}

fn below((path, item): (&String, &PeerItem)) -> Value {
    json!({
        "path": path,
        "name": item.name,
        "serial": item.serial,
        "linked": item.linked,
        "unknown_since": item.unknown_since.map(|at| rfc3339(from_millis(at))),
        "carrier": item.carrier,
        "rtt_ms": item.rtt_ms,
        "streams": item.streams,
    })
}

fn stream(cid: &Cid, name: &str, item: &StreamItem) -> Value {
    let here = StreamName::parse(name).ok().and_then(|name| name.with_cid(cid).ok());
    json!({
        "name": name,
        "play": here.map(|name| name.to_string()),
        "state": item.state,
        "origin": item.origin,
        "path": item.path,
        "tracks": item.tracks,
        "viewers": item.viewers,
        "bits_per_second": item.bits_per_second,
        "fps": item.fps,
        "key_interval_ms": item.key_interval_ms,
        "since": item.since_ms.map(|at| rfc3339(from_millis(at))),
        "unknown_since": item.unknown_since.map(|at| rfc3339(from_millis(at))),
        "error": item.error,
    })
}

pub(super) async fn list(State(api): State<Api>, caller: Caller, At(at): At) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    Ok(page(&at, api.cascade.peers().list(), |p| p.cid.to_string(), peer))
}

fn find(api: &Api, cid: &str) -> Result<PeerInfo, Problem> {
    let cid = Cid::parse(cid).map_err(|why| Problem::bad("bad-cid", why.to_string()))?;
    let found = api.cascade.peers().info(&cid);
    found.ok_or_else(|| Problem::not_found(format!("no platform {cid} is known here; see /api/v1/peers")))
}

/// One platform with all that is known of it.
pub(super) async fn one(State(api): State<Api>, caller: Caller, Path(cid): Path<String>) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    let info = find(&api, &cid)?;
    let mut value = peer(&info);
    let known = shown(&info);
    if let Value::Object(rows) = &mut value {
        let streams: Vec<Value> = known.streams().iter().map(|(name, item)| stream(&info.cid, name, item)).collect();
        rows.insert("streams".into(), streams.into());
        rows.insert("peers".into(), known.peers().iter().map(below).collect());
    }
    Ok(Json(value))
}

/// The streams of a platform: `/api/v1/streams?peer=CID`.
pub(super) fn streams(api: &Api, at: &Page, cid: &str) -> Answer {
    let info = find(api, cid)?;
    let known = shown(&info);
    let rows: Vec<(&String, &StreamItem)> = known.streams().iter().collect();
    Ok(page(at, rows, |(name, _)| name.to_string(), |(name, item)| stream(&info.cid, name, item)))
}

/// The links to uppers.
pub(super) async fn uppers(State(api): State<Api>, caller: Caller, At(at): At) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    let mut list = api.cascade.uppers();
    list.sort_by(|a, b| a.url.cmp(&b.url));
    Ok(page(
        &at,
        list,
        |upper| upper.url.clone(),
        |upper| {
            json!({
                "url": upper.url,
                "state": upper.state.name(),
                "linked": upper.state == LinkState::Linked,
                "since": rfc3339(upper.since),
                "error": upper.error,
                "attempts": upper.attempts,
                "links": upper.links,
                "carrier": upper.carrier,
                "rtt_ms": millis_of(upper.figures.as_ref()),
                "link": upper.figures.as_ref().map(link),
            })
        },
    ))
}
