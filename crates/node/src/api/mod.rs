//! The public API under `/api/v1`: lists as `{"items": [..], "next": null | cursor}`, errors as problem JSON
//! (RFC 9457). The console is a client of this and of nothing else.

mod caller;
mod events;
mod lists;
mod orders;
mod peers;
mod pulls;
mod pushes;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Router, http};
use culvert_hub::{Hub, Refusal, parameter};
use culvert_media::StreamName;
use culvert_net::http1::{PROBLEM_TYPE, problem};
use serde_json::{Value, json};

pub(crate) use self::caller::Caller;
pub use self::caller::MayReadMetrics;
use self::lists::{Page, page, session, stream};
use crate::auth::{Action, Guard, Resource};
use crate::cascade::Cascade;
use crate::logs;
use crate::relays::{Pulls, Pushes, Saved};

/// What the API shows.
#[derive(Clone)]
pub struct Api {
    /// Who may call it.
    pub guard: Arc<Guard>,
    /// Streams and sessions.
    pub hub: Hub,
    /// Streams fetched from elsewhere.
    pub pulls: Pulls,
    /// Streams sent elsewhere.
    pub pushes: Pushes,
    /// Those of both that are begun again after a restart.
    pub saved: Saved,
    /// Links to uppers and from lowers.
    pub cascade: Cascade,
    /// The configuration in force, masked.
    pub config: Arc<Value>,
}

/// An error as the caller sees it.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    /// For whom a password is asked, where it is not for all of this node.
    realm: Option<String>,
}

impl Problem {
    /// The request cannot be understood; the detail says what would be right.
    pub(crate) fn forbidden(kind: &'static str, detail: &str) -> Problem {
        Problem { status: StatusCode::FORBIDDEN, kind, detail: detail.into(), realm: None }
    }

    pub(crate) fn bad(kind: &'static str, detail: String) -> Problem {
        Problem { status: StatusCode::BAD_REQUEST, kind, detail, realm: None }
    }

    /// Where it asks for a password, that is for what is below this path alone: browsers give it nowhere else by themselves (RFC 7617 2.2).
    pub(crate) fn within(self, path: &str) -> Problem {
        let plain = |c: &char| c.is_ascii_alphanumeric() || "/._~-".contains(*c);
        Problem { realm: Some(path.chars().filter(plain).collect()), ..self }
    }

    fn not_found(detail: String) -> Problem {
        Problem { status: StatusCode::NOT_FOUND, kind: "not-found", detail, realm: None }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Problem { status, kind: refusal.kind(), detail: refusal.to_string(), realm: None }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = problem(self.status.as_u16(), self.kind, &self.detail);
        let mut response = (self.status, [(http::header::CONTENT_TYPE, PROBLEM_TYPE)], body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let realm = self.realm.map_or("culvert".into(), |path| format!("culvert {path}"));
            let challenge = http::HeaderValue::try_from(format!("Basic realm=\"{realm}\""));
            response.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge.expect("it has no quotes"));
        }
        response
    }
}

/// The routes, to be merged into the node's.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v1/streams", get(streams))
        .route("/api/v1/streams/{*name}", get(one_stream).delete(close_stream))
        .route("/api/v1/sessions", get(sessions))
        .route("/api/v1/sessions/{id}", get(one_session).delete(close_session))
        .route("/api/v1/pulls", get(pulls::list).post(pulls::start))
        .route("/api/v1/pulls/{*stream}", get(pulls::one).delete(pulls::stop))
        .route("/api/v1/pushes", get(pushes::list).post(pushes::start))
        .route("/api/v1/pushes/{id}", get(pushes::one).delete(pushes::stop))
        .route("/api/v1/peers", get(peers::list))
        .route("/api/v1/peers/{cid}", get(peers::one))
        .route("/api/v1/uppers", get(peers::uppers))
        .route("/api/v1/events", get(events::stream))
        .route("/api/v1/config", get(config))
        .route("/api/v1/log", get(log))
        .route("/api/v1/tickets", post(ticket))
        .fallback(unknown)
        .with_state(api)
}

/// A list's place, from the query.
struct At(Page);

impl<S: Sync> FromRequestParts<S> for At {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<At, Problem> {
        let bad = |detail| Problem::bad("bad-query", detail);
        Page::parse(parts.uri.query().unwrap_or_default()).map(At).map_err(bad)
    }
}

type Answer = Result<Json<Value>, Problem>;

async fn unknown() -> Problem {
    let what = "nothing is here; the API is /api/v1/streams, /sessions, /peers, /uppers, /pulls, /pushes, /events, /log, /config and /tickets, the page /console/";
    Problem::not_found(what.into())
}

async fn streams(State(api): State<Api>, caller: Caller, At(at): At, RawQuery(query): RawQuery) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    if let Some(cid) = parameter(query.as_deref().unwrap_or_default(), "peer") {
        return peers::streams(&api, &at, &cid);
    }
    Ok(page(&at, api.hub.list(), |s| s.name.to_string(), |s| stream(&api.hub, s)))
}

fn stream_name(name: &str) -> Result<StreamName, Problem> {
    StreamName::parse(name).map_err(|why| Problem::bad("bad-name", why.to_string()))
}

async fn one_stream(State(api): State<Api>, caller: Caller, Path(name): Path<String>) -> Answer {
    let name = stream_name(&name)?;
    api.guard.may(&caller, Action::ReadApi, Resource::Stream(&name))?;
    let info = api.hub.info(&name).ok_or(Refusal::NoStream(name))?;
    Ok(Json(stream(&api.hub, &info)))
}

async fn close_stream(State(api): State<Api>, caller: Caller, Path(name): Path<String>) -> Answer {
    let name = stream_name(&name)?;
    api.guard.may(&caller, Action::ChangeApi, Resource::Stream(&name))?;
    let info = api.hub.info(&name).ok_or(Refusal::NoStream(name))?;
    tracing::info!(stream = %info.name, by = %caller.remote, "closed by the API");
    info.publisher.cancel();
    Ok(Json(json!({ "closed": info.name.as_str() })))
}

async fn sessions(State(api): State<Api>, caller: Caller, At(at): At) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    // Sorted as text by the page, so the number is padded.
    Ok(page(&at, api.hub.sessions(), |s| format!("{:020}", s.id), |s| session(&api.hub, s)))
}

fn session_id(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| Problem::not_found(format!("{text:?} is no session's id")))
}

async fn one_session(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    let id = session_id(&id)?;
    let found = api.hub.session(id).ok_or_else(|| Problem::not_found(format!("there is no session {id}")))?;
    Ok(Json(session(&api.hub, &found)))
}

async fn close_session(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    api.guard.may(&caller, Action::ChangeApi, Resource::Node)?;
    let id = session_id(&id)?;
    let found = api.hub.session(id).ok_or_else(|| Problem::not_found(format!("there is no session {id}")))?;
    tracing::info!(session = id, stream = %found.stream, by = %caller.remote, "closed by the API");
    found.cancel();
    Ok(Json(json!({ "closed": id })))
}

/// A word that stands for the caller's token in the URLs of players.
async fn ticket(State(api): State<Api>, caller: Caller) -> Answer {
    if !caller.shows_itself {
        return Err(Problem::forbidden("no-token", "a ticket stands for a token; show one (Authorization: Bearer ..)"));
    }
    let (word, life) = api.guard.ticket(&caller.shown())?;
    Ok(Json(json!({ "ticket": word, "expires_ms": life.as_millis() as u64 })))
}

/// The newest lines of the log, or those after one: `?after=ID`.
async fn log(State(api): State<Api>, caller: Caller, At(at): At) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    let after = match at.after() {
        Some(text) => {
            Some(text.parse().map_err(|_| Problem::bad("bad-query", format!("after={text} is no line's id")))?)
        }
        None => None,
    };
    let limit = at.limit();
    let mut lines = logs::after(after, limit + usize::from(after.is_some()));
    let more = lines.len() > limit;
    lines.truncate(limit);
    let next = lines.last().filter(|_| more).map(|line| line.id.to_string());
    Ok(Json(json!({ "items": lines.iter().map(lists::line).collect::<Vec<_>>(), "next": next })))
}

async fn config(State(api): State<Api>, caller: Caller) -> Answer {
    api.guard.may(&caller, Action::ReadApi, Resource::Node)?;
    Ok(Json((*api.config).clone()))
}
