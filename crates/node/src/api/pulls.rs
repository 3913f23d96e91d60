//! Pulls, and those by command: `GET` and `POST /api/v1/pulls`, `GET` and `DELETE /api/v1/pulls/{stream}`.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use culvert_media::StreamName;
use serde::Deserialize;
use serde_json::json;

use super::caller::Caller;
use super::lists::{page, relay};
use super::orders::{full, not_saved, order, there};
use super::{Answer, Api, At, Problem, stream_name};
use crate::auth::{Action, Resource};
use crate::config::PullUrl;
use crate::relays::PullError;

pub(super) async fn list(State(api): State<Api>, caller: Caller, At(at): At) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    Ok(page(&at, api.pulls.list(), |p| p.stream.clone(), relay))
}

fn none(stream: &StreamName) -> Problem {
    Problem::not_found(format!("there is no pull of {stream}; GET /api/v1/pulls lists them"))
}

pub(super) async fn one(State(api): State<Api>, caller: Caller, Path(name): Path<String>) -> Answer {
    let name = stream_name(&name)?;
    api.guard.may(&caller, Action::ReadApi, Resource::Stream(&name))?;
    let found = api.pulls.list().into_iter().find(|pull| pull.stream == name.as_str());
    Ok(Json(relay(&found.ok_or_else(|| none(&name))?)))
}

pub(super) async fn stop(State(api): State<Api>, caller: Caller, Path(name): Path<String>) -> Answer {
    let name = stream_name(&name)?;
    api.guard.may(&caller, Action::ChangeApi, Resource::Stream(&name))?;
    if !api.pulls.stop(&name) {
        return Err(none(&name));
    }
    api.saved.forget_pull(&name).await.map_err(not_saved)?;
    tracing::info!(stream = %name, by = %caller.remote, "pull stopped by the API");
    Ok(Json(json!({ "stopped": name.as_str() })))
}

/// The body of a `POST`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    stream: String,
    url: String,
    #[serde(default)]
    on_demand: bool,
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
    let new: New = serde_json::from_slice(&bytes)
        .map_err(|why| Problem::bad("bad-order", format!("no order for a pull: {why}")))?;
    let stream = stream_name(&new.stream)?;
    let url = PullUrl::parse(&new.url).map_err(|why| Problem::bad("bad-url", why))?;
    match api.pulls.add(&stream, &url, new.on_demand) {
        Ok(()) => {}
        Err(why @ PullError::There(_)) => return Ok(there(&why.to_string(), "stream", stream.as_str().into())),
        Err(why @ PullError::Full) => return Err(full(&why)),
    }
    tracing::info!(%stream, by = %caller.remote, "pull begun by the API");
    if new.save {
        api.saved.keep_pull(&stream, &url, new.on_demand).await.map_err(not_saved)?;
    }
    let found = api.pulls.list().into_iter().find(|pull| pull.stream == stream.as_str());
    let shown = found.map_or_else(|| json!({ "stream": stream.as_str() }), |info| relay(&info));
    Ok((StatusCode::CREATED, [(LOCATION, format!("/api/v1/pulls/{stream}"))], Json(shown)).into_response())
}
