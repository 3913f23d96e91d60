//! News as server-sent events (`/api/v1/events`): streams that begin and end, platforms that are linked, lost or changed.
//!
//! An event says what to look at again, not what it is like. Who falls behind is told to list everything anew.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use culvert_cascade::PeerEvent;
use culvert_hub::Event;
use http::header;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::interval;

use super::{Api, Caller, Problem};
use crate::auth::{Action, Resource};

/// Events on their way to one listener; beyond, those in the sources wait, and are dropped there in the end.
const PIECES: usize = 16;
/// A comment so often shows gateways and browsers that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn stream(State(api): State<Api>, caller: Caller) -> Result<Response, Problem> {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    let (sender, body) = culvert_link::channel(PIECES);
    let hub = api.hub.clone();
    hub.spawn(tell(api, sender));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(body)).into_response())
}

async fn tell(api: Api, sender: culvert_link::Sender) {
    let (mut streams, mut peers) = (api.hub.events(), api.cascade.peers().events());
    let mut alive = interval(KEEP_ALIVE);
    loop {
        let (kind, data) = tokio::select! {
            news = streams.recv() => match news {
                Ok(Event::Live(name)) => ("stream", json!({ "name": name.as_str(), "state": "live" })),
                Ok(Event::Ended(name)) => ("stream", json!({ "name": name.as_str(), "state": "ended" })),
                Err(RecvError::Lagged(_)) => ("reload", Value::Null),
                Err(RecvError::Closed) => return,
            },
            news = peers.recv() => match news {
                Ok(PeerEvent::Linked(cid)) => ("peer", json!({ "cid": cid.as_str(), "state": "linked" })),
                Ok(PeerEvent::Lost(cid)) => ("peer", json!({ "cid": cid.as_str(), "state": "lost" })),
                Ok(PeerEvent::Changed(cid)) => ("peer", json!({ "cid": cid.as_str(), "state": "changed" })),
                Err(RecvError::Lagged(_)) => ("reload", Value::Null),
                Err(RecvError::Closed) => return,
            },
            _ = alive.tick() => ("", Value::Null),
            () = sender.closed() => return,
            () = api.hub.draining() => return,
        };
        let text = if kind.is_empty() { ": \n\n".to_string() } else { format!("event: {kind}\ndata: {data}\n\n") };
        if sender.send(text.into()).await.is_err() {
            return;
        }
    }
}
