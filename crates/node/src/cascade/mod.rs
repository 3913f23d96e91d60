//! The cascade as this node has it: links to its uppers, links of its lowers, and the paths that belong to both.
//!
//! What a link and a platform are is in `culvert_link` and `culvert_cascade`; here they meet the configuration, the one
//! port, and who may do what.

mod address;
mod cameras;
mod direct;
mod down;
mod old;
mod pictures;
mod register;
mod routes;
mod target;

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use axum::Router;
use culvert_cascade::catalogue::{Below, Platform, millis};
use culvert_cascade::{OnDemand, PeerLimits, Peers, Proxy, Relays};
use culvert_hub::{Demand, Gate, Hub, Starting};
use culvert_link::{Board, Upper, UpperInfo, UpperUrl, keep};
use culvert_m7s::OldLowers;
use culvert_media::StreamName;
use culvert_net::{DialOptions, Proxy as DialProxy, tls};
use tokio_util::sync::CancellationToken;

use self::cameras::Configured;
use self::down::Down;
pub(crate) use self::old::Old;
use self::target::Targets;
use crate::auth::Guard;
use crate::config::{self, Allow, Config, NodeIdentity};
use crate::relays::Pulls;

/// Streams that start with their first viewer, wherever they come from.
pub(crate) struct Demands {
    pub(crate) pulls: Pulls,
    pub(crate) old_lowers: OldLowers,
    pub(crate) relays: Relays,
}

impl Demand for Demands {
    fn start(&self, stream: &StreamName) -> Option<Starting> {
        // An old lower has no relay; its streams are pushed.
        let from_below = || self.old_lowers.start(stream).or_else(|| self.relays.start(stream));
        self.pulls.start(stream).or_else(from_below)
    }
}

/// All of it. Cheap to clone.
#[derive(Clone)]
pub struct Cascade(Arc<Inner>);

struct Inner {
    guard: Arc<Guard>,
    /// The platforms below.
    peers: Peers,
    old_lowers: OldLowers,
    proxy: Proxy,
    below: Below,
    uppers: Vec<(Upper, Arc<Board>)>,
    allow: Allow,
    targets: Targets,
}

/// What the cascade is made of before there is a gate.
pub(crate) struct Parts {
    pub(crate) peers: Peers,
    pub(crate) old_lowers: OldLowers,
    pub(crate) relays: Relays,
}

impl Parts {
    pub(crate) fn new(
        config: &Config,
        identity: &NodeIdentity,
        hub: &Hub,
        links: usize,
        stop: &CancellationToken,
    ) -> Parts {
        let limits = PeerLimits { links, requests: config.limits.peer_requests.get() };
        let peers = Peers::new(identity.cid.clone(), limits);
        let times = &config.cascade.on_demand;
        let times =
            OnDemand { grace: times.grace.get(), start_timeout: times.start_timeout.get(), hold: times.hold.get() };
        let request = config.cascade.request_timeout.get();
        let old_lowers = OldLowers::new(hub.clone(), peers.clone(), times, request, stop.clone());
        Parts { relays: Relays::new(hub.clone(), peers.clone(), times, stop.clone()), old_lowers, peers }
    }
}

impl Cascade {
    /// Of this configuration; no upper is dialled yet.
    pub(crate) fn new(
        config: &Config,
        identity: &NodeIdentity,
        parts: Parts,
        guard: Arc<Guard>,
        hub: Hub,
        pulls: Pulls,
    ) -> anyhow::Result<Cascade> {
        let platform = Platform {
            name: identity.name.to_string(),
            serial: identity.serial.as_ref().map(|serial| serial.to_string()),
            version: env!("CARGO_PKG_VERSION").to_string(),
            started_ms: millis(SystemTime::now()),
        };
        let section = &config.cascade;
        let peers = parts.peers;
        let below = Below { platform, hub, peers: peers.clone(), cameras: Arc::new(Configured(pulls)) };
        let body_bytes = config.limits.peer_body.get();
        let proxy = Proxy::new(peers.clone(), section.request_timeout.get(), body_bytes);
        let uppers: anyhow::Result<Vec<_>> =
            section.uppers.all().iter().map(|upper| dialled(upper, identity)).collect();
        let targets = Targets::new(&section.targets)?;
        Ok(Cascade(Arc::new(Inner {
            guard,
            peers,
            old_lowers: parts.old_lowers,
            proxy,
            below,
            uppers: uppers?,
            allow: section.allow.clone(),
            targets,
        })))
    }

    /// Spawns a loop for each upper, which it may ask through this router.
    pub(crate) fn dial(&self, router: &Router, stop: &CancellationToken) {
        for (upper, board) in &self.0.uppers {
            let service = Down::new(self.clone(), router.clone(), &upper.url.to_string());
            tokio::spawn(keep(upper.clone(), Arc::new(service), board.clone(), stop.clone()));
        }
    }

    /// The platforms below.
    pub fn peers(&self) -> &Peers {
        &self.0.peers
    }

    /// The uppers as they are dialled.
    pub(crate) fn dialled(&self) -> Vec<Upper> {
        self.0.uppers.iter().map(|(upper, _)| upper.clone()).collect()
    }

    /// The links to uppers.
    pub fn uppers(&self) -> Vec<UpperInfo> {
        self.0.uppers.iter().map(|(_, board)| board.info()).collect()
    }

    /// The routes of the cascade, to be merged into the node's.
    pub(crate) fn router(&self, gate: Gate) -> Router {
        routes::router(self.clone(), gate)
    }
}

/// An upper of the configuration as it is dialled.
pub(crate) fn dialled(upper: &config::Upper, identity: &NodeIdentity) -> anyhow::Result<(Upper, Arc<Board>)> {
    let upper = to_dial(upper, identity.cid.as_str())?;
    let board = Arc::new(Board::new(&upper.url));
    Ok((upper, board))
}

/// The same, as the platform `cid`. Reads the files that it names.
pub(crate) fn to_dial(upper: &config::Upper, cid: &str) -> anyhow::Result<Upper> {
    let from = &upper.url;
    let url = UpperUrl {
        host: from.host().to_string(),
        port: from.port(),
        secure: from.is_secure(),
        context: from.context().to_string(),
    };
    let pins: Vec<[u8; 32]> = upper.pins.iter().map(|pin| pin.0).collect();
    let identity = upper.client.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
    let trust = tls::Trust { ca: upper.ca.as_deref(), pins: &pins, identity, alpn_http1: true };
    let trust = tls::client_with(&trust).with_context(|| format!("cascade.uppers: {url}"))?;
    let proxy = upper.proxy.as_ref().map(|proxy| {
        let (host, port, user) = (proxy.host().to_string(), proxy.port(), proxy.user());
        if proxy.is_socks5() { DialProxy::Socks5 { host, port, user } } else { DialProxy::Http { host, port, user } }
    });
    let token = upper.token.as_ref().map(|token| token.reveal().to_string());
    let options = DialOptions { tls: url.secure.then_some(trust), proxy, uplink: true };
    Ok(Upper { url, cid: cid.to_string(), token, options })
}
