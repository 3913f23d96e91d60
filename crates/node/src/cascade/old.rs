//! Old URLs of m7s, answered by what this node has. What they are and how answers look is in `culvert_m7s::surface`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use culvert_hub::{Hub, Identity, SessionFigures, StreamInfo};
use culvert_m7s::surface::{self, Asked, Fault, Plugin, Relay, Said, Save, asked, response};
use culvert_media::{Cid, StreamName, rfc3339};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::{Cascade, address};
use crate::api::{Caller, Problem};
use crate::auth::{Action, Resource};
use crate::config::{PullUrl, PushUrl, Retry};
use crate::machine::Machine;
use crate::relays::{Doing, Order, PullError, Pulls, PushInfo, Pushes, RelayInfo, Saved, StartError};

/// What old URLs reach.
#[derive(Clone)]
pub(crate) struct Old {
    cascade: Cascade,
    hub: Hub,
    pulls: Pulls,
    pushes: Pushes,
    saved: Saved,
    machine: Arc<Machine>,
    cid: Cid,
}

impl Old {
    pub(crate) fn new(
        cascade: &Cascade,
        hub: &Hub,
        pulls: &Pulls,
        pushes: &Pushes,
        saved: &Saved,
        at: (&Cid, &Path),
    ) -> Old {
        let (cid, data_dir) = at;
        Old {
            cid: cid.clone(),
            cascade: cascade.clone(),
            hub: hub.clone(),
            pulls: pulls.clone(),
            pushes: pushes.clone(),
            saved: saved.clone(),
            machine: Arc::new(Machine::new(data_dir)),
        }
    }

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
            if let Some(elsewhere) = address::bare(&target, &request) {
                return elsewhere;
            }
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
                Ok(()) => response(&target, old.do_it(asked, &caller).await).map(Body::from),
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

    async fn do_it(&self, asked: Asked, caller: &Caller) -> Result<Said, Fault> {
        match asked {
            Asked::ClientList => Ok(Said::Json(self.clients())),
            Asked::StreamList => {
                let streams = self.streams();
                Ok(Said::Json(streams.iter().map(|(info, url)| surface::source(info, url.as_deref())).collect()))
            }
            Asked::Push(order) => self.push(order, caller).await,
            Asked::StopPush(url) => self.stop_push(&url, caller).await,
            Asked::ListPush => Ok(Said::Json(self.pushes.list().iter().map(pusher).collect())),
            Asked::Pull(order) => self.pull(order, caller).await,
            Asked::ListPull => Ok(Said::Json(self.pulls.list().iter().map(puller).collect())),
            Asked::ListOf(plugin) => Ok(Said::Json(self.streams_of(plugin))),
            Asked::Stream(name) => {
                let info = self.stream(&name)?;
                Ok(Said::Json(self.shown(&info, self.pulled(&info).as_deref())))
            }
            Asked::CloseStream(name) => {
                let info = self.stream(&name)?;
                tracing::info!(stream = %info.name, by = %caller.remote, "closed by an old call");
                info.publisher.cancel();
                Ok(Said::Done)
            }
            Asked::StopSubscribe(name, id) => {
                let info = self.stream(&name)?;
                let found = self.viewers(&info).into_iter().find(|viewer| viewer.id.to_string() == id);
                let viewer = found.ok_or_else(Fault::no_subscriber)?;
                tracing::info!(session = viewer.id, stream = %info.name, by = %caller.remote, "closed by an old call");
                viewer.cancel();
                Ok(Said::Done)
            }
            Asked::SysInfo => {
                let platform = &self.cascade.0.below.platform;
                let started = culvert_cascade::catalogue::from_millis(platform.started_ms);
                Ok(Said::Json(json!({
                    "StartTime": rfc3339(started), "LocalIP": "", "Version": format!("culvert {}", platform.version),
                })))
            }
            Asked::Summary => {
                let seen = self.machine.look();
                let network = seen.network.into_iter().map(|one| surface::Interface {
                    name: one.name,
                    received: one.received,
                    sent: one.sent,
                    receive_rate: one.receive_rate,
                    send_rate: one.send_rate,
                });
                let machine = surface::Machine {
                    memory_total: seen.memory_total,
                    memory_available: seen.memory_available,
                    cpu: seen.cpu,
                    disk_total: seen.disk_total,
                    disk_free: seen.disk_free,
                    network: network.collect(),
                };
                Ok(Said::Json(surface::summary(&machine, &self.streams())))
            }
            Asked::Plugins => {
                let platform = &self.cascade.0.below.platform;
                let serial = platform.serial.as_deref().unwrap_or_default();
                let known = (self.cid.as_str(), platform.name.as_str(), serial);
                Ok(Said::Json(surface::plugins(&platform.version, known)))
            }
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

    /// All streams, with the URL that each is pulled from, masked.
    fn streams(&self) -> Vec<(StreamInfo, Option<String>)> {
        let pulls = self.pulls.list();
        let url = |info: &StreamInfo| {
            let pull = pulls.iter().find(|pull| pull.stream == info.name.as_str());
            pull.filter(|_| info.publisher.protocol == "pull").map(|pull| pull.url.clone())
        };
        let streams = self.hub.list().into_iter();
        streams.map(|info| (url(&info), info)).map(|(url, info)| (info, url)).collect()
    }

    fn pulled(&self, info: &StreamInfo) -> Option<String> {
        self.streams().into_iter().find(|(known, _)| known.name == info.name)?.1
    }

    fn streams_of(&self, plugin: Plugin) -> Value {
        let streams = self.streams();
        let of = streams.iter().map(|(info, url)| self.shown(info, url.as_deref()));
        of.filter(|shown| shown["Publisher"]["Type"].as_str().is_some_and(|kind| kind.starts_with(plugin.name())))
            .collect()
    }

    fn shown(&self, info: &StreamInfo, url: Option<&str>) -> Value {
        surface::stream(info, url, &self.viewers(info))
    }

    fn viewers(&self, info: &StreamInfo) -> Vec<Arc<SessionFigures>> {
        let sessions = self.hub.sessions().into_iter();
        sessions.filter(|one| one.stream == info.name && one.action == culvert_hub::Action::Play).collect()
    }

    async fn push(&self, asked: surface::Order, caller: &Caller) -> Result<Said, Fault> {
        let stream = StreamName::parse(&asked.stream).map_err(|why| Fault::query(why.to_string()))?;
        let url = PushUrl::parse(&asked.target).map_err(Fault::query)?;
        if self.hub.info(&stream).is_none() {
            return Err(Fault::no_stream());
        }
        let save = asked.save != Save::No;
        // What is to be there after a restart is to be there for the next stream of that name, too.
        let retry = if save { Retry::Forever } else { Retry::Never };
        let order = Order { stream: stream.clone(), url, on_demand: false, retry, once: !save };
        match self.pushes.start(order.clone()) {
            Ok(id) => tracing::info!(push = id, %stream, by = %caller.remote, "push begun by an old call"),
            // Asked for twice it says so to nobody.
            Err(StartError::There(_)) => {}
            Err(why @ StartError::Full) => return Err(Fault { code: 5000, message: why.to_string() }),
        }
        if save {
            self.saved.keep_push(&order).await.map_err(not_saved)?;
        }
        Ok(Said::Done)
    }

    async fn pull(&self, asked: surface::Order, caller: &Caller) -> Result<Said, Fault> {
        let stream = StreamName::parse(&asked.stream).map_err(|why| Fault::query(why.to_string()))?;
        let url = PullUrl::parse(&asked.target).map_err(Fault::query)?;
        let on_demand = asked.save == Save::OnDemand;
        let pulled = self.pulls.list().iter().any(|pull| pull.stream == stream.as_str());
        if !pulled && self.hub.info(&stream).is_some() {
            return Err(Fault::publish(format!("{stream} is published already")));
        }
        match self.pulls.add(&stream, &url, on_demand) {
            Ok(()) => tracing::info!(%stream, by = %caller.remote, "pull begun by an old call"),
            // Asked for twice it says so to nobody.
            Err(PullError::There(_)) => {}
            Err(why @ PullError::Full) => return Err(Fault { code: 5000, message: why.to_string() }),
        }
        if asked.save != Save::No {
            self.saved.keep_pull(&stream, &url, on_demand).await.map_err(not_saved)?;
        }
        Ok(Said::Done)
    }

    /// A push is known by its target, with or without the cid that was added to it.
    async fn stop_push(&self, url: &str, caller: &Caller) -> Result<Said, Fault> {
        let bare = url.split_once("?cid=").map_or(url, |(bare, _)| bare);
        let found = self.pushes.by_url(url).or_else(|| self.pushes.by_url(bare)).ok_or_else(Fault::no_pusher)?;
        let order = self.pushes.stop(found).ok_or_else(Fault::no_pusher)?;
        tracing::info!(push = found, by = %caller.remote, "push stopped by an old call");
        self.saved.forget_push(&order).await.map_err(not_saved)?;
        Ok(Said::Done)
    }
}

/// Done, but not for the next start.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn not_saved(why: io::Error) -> Fault {
    tracing::error!(%why, "relays.json was not written");
    Fault { code: 5003, message: format!("done, but not saved: {why}") }
}

/// GETs change things on old peers, and browsers let any page send them.
pub(super) fn refuse_foreign_page(caller: &Caller) -> Result<(), Problem> {
    if caller.is_foreign_page && caller.upper.is_none() {
        let detail = "what may change something by a GET is not for web pages from elsewhere";
        return Err(Problem::forbidden("origin", detail));
    }
    Ok(())
}

fn pusher(info: &PushInfo) -> Value {
    surface::pusher(&relay(&info.relay, info.id.to_string()))
}

fn puller(info: &RelayInfo) -> Value {
    surface::puller(&relay(info, info.stream.clone()))
}

fn relay(info: &RelayInfo, id: String) -> Relay<'_> {
    let live = info.doing == Doing::Live;
    Relay { id, since: info.since, stream: &info.stream, url: &info.url, attempts: info.attempts, live }
}
