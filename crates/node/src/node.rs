//! One node, put together: hub, guard, gate, door, pulls, pushes, API. Nobody else holds all of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use culvert_hub::{Class, Gate, Hub, HubLimits, Pace, RingLimits};
use culvert_net::{listen, tls};
use culvert_snapshot::Snapshots;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::api::{self, Api};
use crate::auth::{Guard, Rules};
use crate::cascade::{self, Cascade, Demands, Old};
use crate::config::{Config, FanOutClass, NodeIdentity, Tls};
use crate::door::{Door, DoorFigures, DoorLimits};
use crate::http::Http;
use crate::metrics::{Made, Metrics};
use crate::protocols::{Protocols, rtsp_udp};
use crate::relays::{Pulls, Pushes, Routes, Saved};
use crate::{console, operations};

/// How long a drain may take in all.
const DRAIN: Duration = Duration::from_secs(10);

/// A node that serves.
pub struct Node {
    /// Who it is, and its admin token.
    pub identity: NodeIdentity,
    /// The port it has; of use where the configuration asked for port 0.
    pub address: SocketAddr,
    /// Whether the port opens TLS.
    pub secure: bool,
    /// Its streams.
    pub hub: Hub,
    /// Its links to uppers and from lowers.
    pub cascade: Cascade,
    guard: Arc<Guard>,
    ready: Arc<AtomicBool>,
}

impl Node {
    /// Starts what the configuration says. Spawns the accept loops, the pulls and the pushes.
    pub fn start(config: &Config) -> anyhow::Result<Node> {
        let identity = NodeIdentity::load_or_make(&config.node)?;
        let guard = Arc::new(Guard::new(Rules::new(config, &identity.admin_token)));
        let (hub, pace) = (Hub::new(hub_limits(config)), pace(config));
        let stop = hub.drain_token();
        let silence = config.limits.stall_timeout.get();
        let handshake = config.limits.handshake_timeout.get();
        let dial = tls::client(None)?;
        let pulls = Pulls::new(hub.clone(), config.pull.clone(), dial.clone(), silence, stop.clone());
        let links = config.limits.links.get().min(descriptors() / 10 * 7);
        let parts = cascade::Parts::new(config, &identity, &hub, links, &stop);
        let old_lowers = parts.old_lowers.clone();
        let demands = Demands { pulls: pulls.clone(), old_lowers, relays: parts.relays.clone() };
        let gate = Gate::new(hub.clone(), guard.clone(), Arc::new(demands));
        let cascade = Cascade::new(config, &identity, parts, guard.clone(), hub.clone(), pulls.clone())?;
        guard.look_at(cascade.peers().clone());
        let routes = Routes::new(dial, cascade.dialled());
        let pushes = Pushes::new(hub.clone(), identity.cid.clone(), routes, silence, stop.clone());
        let saved = Saved::load(&config.node.data_dir)?;
        let udp = rtsp_udp(&config.rtsp, config.listen)?;
        if let Some(udp) = &udp {
            udp.spawn(&stop);
        }
        let limits = culvert_rtmp::Limits { handshake, silence };
        let listener = bind(config.listen)?;
        let address = listener.local_addr()?;
        let protocols = Protocols::new(&gate, &guard, pace, limits, udp.clone(), config, address)?;
        protocols.webrtc.spawn(&stop);
        let figures = Arc::new(DoorFigures::default());
        let ready = Arc::new(AtomicBool::new(true));
        let shown = Arc::new(config.masked_json());
        let api = Api {
            guard: guard.clone(),
            hub: hub.clone(),
            pulls: pulls.clone(),
            pushes: pushes.clone(),
            saved: saved.clone(),
            cascade: cascade.clone(),
            config: shown,
        };
        let snapshots = Snapshots::new(gate.clone(), Arc::new(cascade.clone()), cores());
        let webrtc = protocols.webrtc.clone();
        let made = Made { hls: protocols.hls.clone(), webrtc, snapshots: snapshots.clone(), udp };
        let metrics = Metrics::new(hub.clone(), figures.clone(), cascade.clone(), made);
        let router = protocols
            .live
            .router()
            .merge(snapshots.router())
            .merge(protocols.webrtc.router(Arc::new(cascade.clone())))
            .merge(api::router(api))
            .merge(cascade.router(gate.clone()));
        let router = router.merge(operations::router(guard.clone(), metrics, ready.clone())).merge(console::router());
        let old = Old::new(&cascade, &hub, &pulls, &pushes, &saved, (&identity.cid, &config.node.data_dir));
        let router = protocols.hls.in_front_of(router);
        let router = cascade.in_front_of(protocols.live.in_front_of(old.in_front_of(router)));
        let inside = router.clone();
        let http = Http::new(router, handshake, stop.clone());
        let certificate = server_tls(config)?;
        let secure = certificate.is_some();
        let per_ip = config.limits.per_ip_handshakes.get();
        let limits = DoorLimits { handshake, per_ip, connections: descriptors() / 5 };
        let door = Door::new(certificate, limits, protocols, cascade.clone(), http, figures);

        let mut listeners = vec![listener];
        for own in [config.rtmp.listen, config.rtsp.listen].into_iter().flatten() {
            listeners.push(bind(own.0)?);
        }
        for listener in listeners {
            let (door, stop) = (door.clone(), stop.clone());
            tokio::spawn(async move { door.run(listener, stop).await });
        }
        cascade.dial(&inside, &stop);
        pulls.start_always();
        pushes.start_configured(&config.push);
        saved.begin(&pulls, &pushes);
        tracing::info!(%address, secure, cid = %identity.cid.as_str(), "serving");
        Ok(Node { identity, address, secure, hub, cascade, guard, ready })
    }

    /// The URL of a path on this node, as somebody on this machine would write it.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        let host = if self.address.ip().is_unspecified() { "127.0.0.1".to_string() } else { bracketed(self.address) };
        let scheme = if self.secure { format!("{scheme}s") } else { scheme.to_string() };
        format!("{scheme}://{host}:{}{path}", self.address.port())
    }

    /// Takes over what can change while it runs: who may do what, and how long viewers wait.
    pub fn reload(&self, config: &Config) {
        self.guard.replace(Rules::new(config, &self.identity.admin_token));
        tracing::info!(
            "configuration read again: auth and limits.wait_for_stream are in force; the rest needs a restart"
        );
    }

    /// Lets nobody in any more, tells publishers and viewers, and waits until they have gone, within bounds.
    pub async fn drain(&self) {
        self.ready.store(false, Ordering::Relaxed);
        self.hub.drain();
        self.cascade.peers().drain();
        let gone = async {
            self.hub.drained().await;
            self.cascade.peers().drained().await;
        };
        if timeout(DRAIN, gone).await.is_err() {
            tracing::warn!(seconds = DRAIN.as_secs(), "some peers did not go in time");
        }
    }
}

fn bracketed(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(address).with_context(|| format!("cannot listen on {address}; is another program using that port?"))
}

fn hub_limits(config: &Config) -> HubLimits {
    let limits = &config.limits;
    let cache = RingLimits {
        bytes: usize::try_from(limits.gop_cache.bytes.get()).unwrap_or(usize::MAX),
        span: limits.gop_cache.span.get(),
        max_lag: limits.max_lag.get(),
        ..RingLimits::default()
    };
    // A fifth of the descriptors is for who neither publishes nor watches (security.md S16), a tenth for ourselves.
    let viewers = limits.viewers.get().min(descriptors() / 10 * 7);
    HubLimits { cache, viewers, streams: limits.publishers.get(), ..HubLimits::default() }
}

/// How many files and sockets this process may have open.
fn descriptors() -> usize {
    rlimit::Resource::NOFILE.get_soft().map_or(1024, |soft| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// Pictures that may be made at once: half of the cores, for the other half has viewers.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

fn pace(config: &Config) -> Pace {
    let class = match config.fan_out.class {
        FanOutClass::Shared => Class::Shared,
        FanOutClass::Low => Class::Low,
    };
    Pace {
        class,
        batch: config.limits.shared_batch.get(),
        crowd: Duration::ZERO,
        stall: config.limits.stall_timeout.get(),
    }
}

fn server_tls(config: &Config) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    let (cert, key) = match &config.tls {
        None => return Ok(None),
        Some(Tls::Files { cert, key, .. }) => (cert.clone(), key.clone()),
        Some(Tls::SelfSigned { .. }) => {
            let names = ["localhost".to_string(), "127.0.0.1".to_string(), "::1".to_string()];
            tls::self_signed(&config.node.data_dir, &names)?
        }
    };
    let files = tls::Files::load(&cert, &key)?;
    let client_ca = config.tls.as_ref().and_then(Tls::client_ca);
    Ok(Some(tls::server(Arc::new(files), client_ca)?))
}

/// Whether the certificate's files can be used. Makes nothing.
pub(crate) fn check_tls(config: &Config) -> anyhow::Result<()> {
    if let Some(Tls::Files { cert, key, .. }) = &config.tls {
        tls::Files::load(cert, key)?;
    }
    Ok(())
}
