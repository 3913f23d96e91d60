//! Old URLs of m7s, answered by what this node has. What they are and how answers look is in `culvert_m7s::surface`.

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use culvert_hub::{Hub, Identity, StreamInfo};
use culvert_m7s::surface::{Asked, Fault, Said, asked, response};
use culvert_media::StreamName;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::Cascade;
use crate::api::{Caller, Problem, rfc3339};
use crate::auth::{Action, Resource};
use crate::config::{PushUrl, Retry};
use crate::relays::{Order, PushInfo, Pushes, StartError};

/// What old URLs reach.
#[derive(Clone)]
pub(crate) struct Old {
    pub(crate) cascade: Cascade,
    pub(crate) hub: Hub,
    pub(crate) pushes: Pushes,
}

impl Old {
    /// Puts them in front of all routes: they are known in any case.
    pub(crate) fn in_front_of(self, router: Router) -> Router {
        router.layer(from_fn_with_state(self, answer))
    }
}

async fn answer(axum::extract::State(old): axum::extract::State<Old>, request: Request, next: Next) -> Response {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_string();
    let Some(asked) = asked(&target) else { return next.run(request).await };
    match asked {
        Ok(Asked::Proxy(to)) => {
            let (mut parts, body) = request.into_parts();
            let caller = match Caller::from_request_parts(&mut parts, &()).await {
                Ok(caller) => caller,
                Err(problem) => return problem.into_response(),
            };
            let inner = &old.cascade.0;
            let who = match inner.guard.may(&caller, Action::Peer, Resource::Node) {
                Ok(who) => who,
                Err(problem) => return problem.into_response(),
            };
            if inner.peers.is_old(&to.cid)
                && let Err(problem) = refuse_foreign_page(&caller)
            {
                return problem.into_response();
            }
            let requester = Identity::from(&who).name.to_string();
            let request = Request::from_parts(parts, culvert_link::body(body));
            inner.proxy.forward(&to, request, &requester).await.map(Body::new)
        }
        Ok(Asked::Slash(to)) => (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, to)]).into_response(),
        Ok(asked) => {
            let (mut parts, _) = request.into_parts();
            let caller = match Caller::from_request_parts(&mut parts, &()).await {
                Ok(caller) => caller,
                Err(problem) => return problem.into_response(),
            };
            let plain = matches!(parts.method, Method::GET | Method::POST | Method::HEAD);
            match old.may(&caller, &asked) {
                // Neither a look nor a question beforehand does it.
                Ok(()) if !plain || asked.changes() && parts.method == Method::HEAD => {
                    StatusCode::METHOD_NOT_ALLOWED.into_response()
                }
                Ok(()) => response(&target, old.do_it(asked, &caller)).map(Body::from),
                Err(problem) => problem.into_response(),
            }
        }
        Err(fault) => response(&target, Err(fault)).map(Body::from),
    }
}

impl Old {
    /// Whether this caller may. What changes something by GET is for who shows who he is, unless old peers are let in here.
    fn may(&self, caller: &Caller, asked: &Asked) -> Result<(), Problem> {
        let guard = &self.cascade.0.guard;
        let action = if asked.changes() { Action::ChangeApi } else { Action::ReadApi };
        guard.may(caller, action, Resource::Node)?;
        if !asked.changes() || caller.upper.is_some() {
            return Ok(());
        }
        if !caller.shows_itself && !guard.has_old_peers() {
            let detail = "a GET that changes something needs a token (?token=.. or a bearer's), or cascade.lowers.old_peers; \
                          scripts of today use POST /api/v1/pushes";
            return Err(Problem::forbidden("old-call", detail));
        }
        refuse_foreign_page(caller)?;
        Ok(())
    }

    fn do_it(&self, asked: Asked, caller: &Caller) -> Result<Said, Fault> {
        match asked {
            Asked::ClientList => Ok(Said::Json(self.clients())),
            Asked::StreamList => Ok(Said::Json(self.hub.list().iter().map(listed).collect())),
            Asked::Push(stream, target) => self.push(&stream, &target, caller),
            Asked::StopPush(url) => self.stop_push(&url, caller),
            Asked::ListPush => Ok(Said::Json(self.pushes.list().iter().map(pusher).collect())),
            Asked::Stream(name) => Ok(Said::Json(shown(&self.stream(&name)?))),
            Asked::CloseStream(name) => {
                let info = self.stream(&name)?;
                tracing::info!(stream = %info.name, by = %caller.remote, "closed by an old call");
                info.publisher.cancel();
                Ok(Said::Done)
            }
            Asked::SysInfo => {
                let platform = &self.cascade.0.below.platform;
                let started = culvert_cascade::catalogue::from_millis(platform.started_ms);
                Ok(Said::Json(json!({
                    "StartTime": rfc3339(started), "LocalIP": "", "Version": format!("culvert {}", platform.version),
                })))
            }
            Asked::Missing(why) => Err(Fault::not_found(why)),
            Asked::Proxy(_) | Asked::Slash(_) => Err(Fault::not_found("not here")),
        }
    }

    fn clients(&self) -> Value {
        let linked = self.cascade.0.peers.list().into_iter().filter(|peer| peer.linked);
        let client = linked.map(|peer| {
            let platform = peer.catalogue.platform();
            json!({
                "cid": peer.cid.as_str(), "name": platform.name, "serial": platform.serial.clone().unwrap_or_default(),
            })
        });
        client.collect()
    }

    fn stream(&self, name: &str) -> Result<StreamInfo, Fault> {
        let name = StreamName::parse(name).map_err(|_| Fault::no_stream())?;
        self.hub.info(&name).ok_or_else(Fault::no_stream)
    }

    fn push(&self, stream: &str, target: &str, caller: &Caller) -> Result<Said, Fault> {
        let stream = StreamName::parse(stream).map_err(|why| Fault::query(why.to_string()))?;
        let url = PushUrl::parse(target).map_err(Fault::query)?;
        if self.hub.info(&stream).is_none() {
            return Err(Fault::no_stream());
        }
        let order = Order { stream: stream.clone(), url, on_demand: false, retry: Retry::Never, once: true };
        match self.pushes.start(order) {
            Ok(id) => {
                tracing::info!(push = id, %stream, by = %caller.remote, "push begun by an old call");
                Ok(Said::Done)
            }
            // Asked for twice it says so to nobody.
            Err(StartError::There(_)) => Ok(Said::Done),
            Err(why @ StartError::Full) => Err(Fault { code: 5000, message: why.to_string() }),
        }
    }

    /// A push is known by its target, with or without the cid that was added to it.
    fn stop_push(&self, url: &str, caller: &Caller) -> Result<Said, Fault> {
        let bare = url.split_once("?cid=").map_or(url, |(bare, _)| bare);
        let found = self.pushes.by_url(url).or_else(|| self.pushes.by_url(bare)).ok_or_else(Fault::no_pusher)?;
        self.pushes.stop(found);
        tracing::info!(push = found, by = %caller.remote, "push stopped by an old call");
        Ok(Said::Done)
    }
}

/// GETs change things on old peers, and browsers let any page send them.
pub(super) fn refuse_foreign_page(caller: &Caller) -> Result<(), Problem> {
    if caller.is_foreign_page && caller.upper.is_none() {
        let detail = "what may change something by a GET is not for web pages from elsewhere";
        return Err(Problem::forbidden("origin", detail));
    }
    Ok(())
}

/// As `streamlist` has it.
fn listed(info: &StreamInfo) -> Value {
    json!({ "Source": info.publisher.protocol, "StreamPath": info.name.as_str() })
}

/// As `/api/stream` has it, as far as it means something here.
fn shown(info: &StreamInfo) -> Value {
    let (app, name) = info.name.as_str().split_once('/').unwrap_or(("", info.name.as_str()));
    json!({
        "ID": info.publisher.id,
        "StartTime": rfc3339(info.since),
        "Path": info.name.as_str(),
        "Publisher": {
            "ID": info.publisher.id.to_string(), "Type": info.publisher.protocol,
            "RemoteAddr": info.publisher.remote.to_string(), "StartTime": rfc3339(info.publisher.since), "Args": {},
        },
        // 1 waits for its tracks, 2 is published.
        "State": if info.state == "live" { 2 } else { 1 },
        "Subscribers": [],
        "Tracks": info.tracks.iter().map(|track| json!({ "Name": track.codec.name() })).collect::<Vec<_>>(),
        "BPS": info.bits_per_second / 8,
        "AppName": app,
        "StreamName": name,
    })
}

/// As `/api/list/push` has it.
fn pusher(info: &PushInfo) -> Value {
    json!({
        "ID": info.id.to_string(),
        "Type": "Pusher",
        "RemoteAddr": info.relay.url,
        "StartTime": rfc3339(info.relay.since),
        "Args": {},
        "StreamPath": info.relay.stream,
        "RemoteURL": info.relay.url,
        "ReConnectCount": info.relay.attempts,
    })
}
