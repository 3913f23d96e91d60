//! Pushes by command: `GET` and `POST /api/v1/pushes`, `GET` and `DELETE /api/v1/pushes/{id}`.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use culvert_media::StreamName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::Caller;
use super::lists::{page, push};
use super::orders::{full, not_saved, order, there};
use super::{Answer, Api, At, Problem};
use crate::auth::{Action, Resource};
use crate::config::{PushUrl, Retry};
use crate::relays::{Order, StartError};

pub(super) async fn list(State(api): State<Api>, caller: Caller, At(at): At) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    // Sorted as text by the page, so the number is padded.
    Ok(page(&at, api.pushes.list(), |p| format!("{:020}", p.id), push))
}

pub(super) async fn one(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    let found = number(&id).and_then(|id| api.pushes.get(id));
    Ok(Json(push(&found.ok_or_else(|| none(&id))?)))
}

pub(super) async fn stop(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    api.guard.may(&caller, Action::ChangeApi, Resource::Node)?;
    let known = number(&id).ok_or_else(|| none(&id))?;
    let order = api.pushes.stop(known).ok_or_else(|| none(&id))?;
    api.saved.forget_push(&order).await.map_err(not_saved)?;
    tracing::info!(push = known, by = %caller.remote, "push stopped by the API");
    Ok(Json(json!({ "stopped": known })))
}

fn number(id: &str) -> Option<u64> {
    id.parse().ok()
}

fn none(id: &str) -> Problem {
    Problem::not_found(format!("there is no push {id:?}; GET /api/v1/pushes lists them"))
}

/// The body of a `POST`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    stream: String,
    url: String,
    #[serde(default)]
    on_demand: bool,
    /// `forever`, `never`, or a number as such or as text.
    #[serde(default)]
    retry: Option<Value>,
    /// Begin it again after a restart.
    #[serde(default)]
    save: bool,
}

pub(super) async fn start(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    // Before the body: whoever may not needs no help with it. It makes this node dial, so it is about all of it.
    api.guard.may(&caller, Action::ChangeApi, Resource::Node)?;
    let bytes = order(&headers, body).await?;
    let (order, save) = read(&bytes)?;
    let stream = order.stream.clone();
    match api.pushes.start(order.clone()) {
        Ok(id) => {
            if save {
                api.saved.keep_push(&order).await.map_err(not_saved)?;
            }
            tracing::info!(push = id, %stream, by = %caller.remote, "push begun by the API");
            let shown = api.pushes.get(id).map_or_else(|| json!({ "id": id }), |info| push(&info));
            Ok((StatusCode::CREATED, [(LOCATION, format!("/api/v1/pushes/{id}"))], Json(shown)).into_response())
        }
        Err(why @ StartError::There(id)) => Ok(there(&why.to_string(), "id", id.into())),
        Err(why @ StartError::Full) => Err(full(&why)),
    }
}

/// The order in a body; the faults are sentences without the URL, which may hold a secret.
fn read(body: &[u8]) -> Result<(Order, bool), Problem> {
    let bad = Problem::bad;
    let new: New =
        serde_json::from_slice(body).map_err(|why| bad("bad-order", format!("no order for a push: {why}")))?;
    let stream = StreamName::parse(&new.stream).map_err(|why| bad("bad-name", why.to_string()))?;
    let url = PushUrl::parse(&new.url).map_err(|why| bad("bad-url", why))?;
    if new.on_demand && !matches!(url.url().scheme(), "ws" | "wss") {
        return Err(bad("bad-order", "on_demand is possible with ws:// and wss:// only".into()));
    }
    let retry = match &new.retry {
        None | Some(Value::Null) => Ok(Retry::Forever),
        Some(Value::String(text)) => Retry::parse(text),
        Some(other) => Retry::parse(&other.to_string()),
    };
    let retry = retry.map_err(|why| bad("bad-order", format!("retry: {why}")))?;
    Ok((Order { stream, url, on_demand: new.on_demand, retry, once: false }, new.save))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(body: &str) -> (&'static str, String) {
        let problem = read(body.as_bytes()).err().unwrap();
        (problem.kind, problem.detail)
    }

    #[test]
    fn an_order_is_read_and_its_defaults_are_those_of_the_documents() {
        let (order, save) = read(br#"{"stream": "live/a", "url": "ws://h/erwscascade/wspush/live/a"}"#).unwrap();
        assert!(!save);
        assert_eq!((order.stream.as_str(), order.on_demand, order.retry), ("live/a", false, Retry::Forever));
        for (retry, means) in [("\"never\"", Retry::Never), ("3", Retry::Times(3)), ("\"4\"", Retry::Times(4))] {
            let body = format!(r#"{{"stream": "a", "url": "wss://h/a/b", "on_demand": true, "retry": {retry}}}"#);
            let (order, _) = read(body.as_bytes()).unwrap();
            assert_eq!((order.on_demand, order.retry), (true, means));
        }
    }

    #[test]
    fn what_is_no_order_is_said_without_the_url() {
        let (kind, detail) = fault(r#"{"stream": "a", "url": "rtmp://h/a", "often": true}"#);
        assert!(kind == "bad-order" && detail.contains("often"), "{detail}");
        assert_eq!(fault(r#"{"stream": "../a", "url": "rtmp://h/a"}"#).0, "bad-name");
        let (kind, detail) = fault(r#"{"stream": "a", "url": "file://u:secret@h/a"}"#);
        assert!(kind == "bad-url" && !detail.contains("secret"), "{detail}");
        for body in [
            r#"{"stream": "a", "url": "rtmp://h/a", "on_demand": true}"#,
            "",
            "[]",
            "{}",
            r#"{"stream": "a"}"#,
            r#"{"stream": "a", "url": "rtmp://h/a", "retry": -1}"#,
        ] {
            assert_eq!(fault(body).0, "bad-order", "{body}");
        }
    }
}
