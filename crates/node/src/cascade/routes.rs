//! The cascade's paths on the one port: `/peer/..`, `/relay/..`, `/target/..` and the catalogue.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, FromRef, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use culvert_cascade::{Destination, catalogue, serve_relay};
use culvert_hub::{Ask, Gate, Remote, parameter};
use culvert_link::News;
use culvert_media::StreamName;

use super::old::refuse_foreign_page;
use super::{Cascade, address};
use crate::api::{Caller, Problem};
use crate::auth::{Action, Guard, Resource};

#[derive(Clone)]
struct Routes {
    cascade: Cascade,
    gate: Gate,
}

impl FromRef<Routes> for Arc<Guard> {
    fn from_ref(routes: &Routes) -> Arc<Guard> {
        routes.cascade.0.guard.clone()
    }
}

pub(super) fn router(cascade: Cascade, gate: Gate) -> Router {
    Router::new()
        .route("/peer/{*rest}", any(peer))
        .route("/target/{*rest}", any(target))
        .route("/relay/{*stream}", get(relay))
        .route(catalogue::PATH, get(list))
        .with_state(Routes { cascade, gate })
}

/// What stands behind a prefix, as it came: the router has decoded its own copy.
fn behind<'a>(request: &'a Request, prefix: &str) -> &'a str {
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    target.strip_prefix(prefix).unwrap_or_default()
}

/// Any request for a platform below.
async fn peer(State(routes): State<Routes>, caller: Caller, request: Request) -> Result<Response, Problem> {
    if let Some(elsewhere) = address::bare(behind(&request, ""), &request) {
        return Ok(elsewhere);
    }
    let inner = &routes.cascade.0;
    let asked = behind(&request, "");
    let scope = address::device(asked);
    if scope.is_none() {
        // A device's own forms come from a page of no origin; nothing else that a browser sends for a page from elsewhere is what its user meant.
        caller.refuse_borrowed()?;
    }
    let may = inner.guard.may(&caller, Action::Peer, Resource::Node);
    let who = may.map_err(|problem| match scope {
        Some(scope) => problem.within(scope),
        None => problem,
    })?;
    let requester = match request.headers().get(culvert_cascade::REQUESTER) {
        // An upper says for whom it asks; from anybody else that is hearsay.
        Some(name) if caller.upper.is_some() => name.to_str().unwrap_or("an upper").to_string(),
        Some(_) | None => culvert_hub::Identity::from(&who).name.to_string(),
    };
    let level = culvert_cascade::level(request.headers(), inner.peers.cid());
    let to = match Destination::parse(behind(&request, "/peer/")) {
        Ok(to) => to,
        Err(fault) => return Ok(fault.response(&level).map(Body::new)),
    };
    if inner.peers.is_old(&to.cid) {
        refuse_foreign_page(&caller)?;
    }
    let response = inner.proxy.forward(&to, request.map(culvert_link::body), &requester).await;
    Ok(response.map(Body::new))
}

/// A device on this node's own network that its owner has named.
async fn target(State(routes): State<Routes>, caller: Caller, request: Request) -> Result<Response, Problem> {
    if let Some(elsewhere) = address::bare(behind(&request, ""), &request) {
        return Ok(elsewhere);
    }
    let inner = &routes.cascade.0;
    let scope = address::device(behind(&request, "")).unwrap_or_default();
    inner.guard.may(&caller, Action::Peer, Resource::Node).map_err(|problem| problem.within(scope))?;
    let behind = behind(&request, "/target/").to_string();
    Ok(inner.targets.forward(&behind, request).await)
}

/// The stream, for an upper: its frames with all that is known of them. The request's body carries acknowledgements.
async fn relay(
    State(routes): State<Routes>,
    Extension(remote): Extension<Remote>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let name = request.uri().path().strip_prefix("/relay/").unwrap_or_default();
    let stream = StreamName::parse(name).map_err(|why| Problem::bad("bad-name", why.to_string()))?;
    let query = request.uri().query().unwrap_or_default();
    let number = |name| parameter(query, name).and_then(|text| text.parse::<u64>().ok());
    let resume = number("epoch").zip(number("seq"));
    let ask = Ask {
        action: culvert_hub::Action::Play,
        stream,
        protocol: "relay",
        remote: remote.address,
        secure: remote.secure,
        credentials: caller.credentials,
        origin: Some(caller.site),
        upper: caller.upper,
    };
    let admission = routes.gate.play(&ask).await?;
    let response = serve_relay(routes.gate.hub(), admission, resume, culvert_link::body(request.into_body()));
    Ok(response.map(Body::new))
}

async fn list(
    State(routes): State<Routes>,
    caller: Caller,
    news: Option<Extension<News>>,
) -> Result<Response, Problem> {
    let inner = &routes.cascade.0;
    inner.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    Ok(catalogue::write(&inner.below, news.map(|Extension(news)| news)).map(Body::new).into_response())
}
