//! The one port: accepts connections, tells by their first bytes what they speak, opens TLS and looks again, and hands
//! them to their protocol. What is unknown is closed at once; what is slow is closed after the handshake limit.

mod sniff;
mod strangers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use culvert_hls::Hls;
use culvert_net::Conn;
use culvert_net::http1::{Head, HeadError, PROBLEM_TYPE, problem};
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use self::sniff::{First, SNIFF_BYTES, sniff};
use self::strangers::{Permit, Strangers};
use crate::cascade::Cascade;
use crate::http::Http;
use crate::protocols::Protocols;

/// How long accepting pauses when the system has no more descriptors (faults.md B3).
const NO_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(100);
/// How long last words may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the door counts.
#[derive(Debug, Default)]
pub struct DoorFigures {
    accepted: AtomicU64,
    unknown: AtomicU64,
    late: AtomicU64,
    crowded: AtomicU64,
    tls_failed: AtomicU64,
    bad_head: AtomicU64,
    full: AtomicU64,
}

impl DoorFigures {
    /// (what became of a connection, how many).
    pub fn list(&self) -> [(&'static str, u64); 7] {
        [
            ("accepted", &self.accepted),
            ("unknown_protocol", &self.unknown),
            ("handshake_timeout", &self.late),
            ("too_many_handshakes", &self.crowded),
            ("tls_failed", &self.tls_failed),
            ("bad_http", &self.bad_head),
            ("too_many_connections", &self.full),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}

/// What the door bounds.
#[derive(Clone, Copy, Debug)]
pub struct DoorLimits {
    /// How long a connection may take to show what it is.
    pub handshake: Duration,
    /// Unfinished handshakes of one address.
    pub per_ip: usize,
    /// Connections that neither publish nor watch nor link.
    pub connections: usize,
}

/// Tells connections apart. Cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    tls: Option<TlsAcceptor>,
    strangers: Strangers,
    /// For connections that neither publish nor watch.
    places: Arc<Semaphore>,
    handshake: Duration,
    protocols: Protocols,
    cascade: Cascade,
    http: Http,
    figures: Arc<DoorFigures>,
}

/// The places that a connection takes up until it is a publisher or a viewer: one of its address, and one of all.
type Stranger = (Permit, OwnedSemaphorePermit);

/// Why a connection went no further.
enum Turned {
    /// It said something that nothing here speaks.
    Unknown,
    /// It took too long.
    Late,
    /// TLS failed.
    Tls(io::Error),
    /// It broke, or its peer went away.
    Gone,
}

impl Door {
    /// A door to these protocols.
    pub fn new(
        tls: Option<Arc<ServerConfig>>,
        limits: DoorLimits,
        protocols: Protocols,
        cascade: Cascade,
        http: Http,
        figures: Arc<DoorFigures>,
    ) -> Door {
        let DoorLimits { handshake, per_ip, connections } = limits;
        let strangers = Strangers::new(per_ip);
        let places = Arc::new(Semaphore::new(connections));
        let tls = tls.map(TlsAcceptor::from);
        Door(Arc::new(Inner { tls, strangers, places, handshake, protocols, cascade, http, figures }))
    }

    /// Accepts until `stop`. Spawns a task for each connection.
    pub async fn run(&self, listener: TcpListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((tcp, remote)) => self.admit(tcp, remote),
                Err(error) if is_peers(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections now; see ulimit -n");
                    sleep(NO_DESCRIPTORS_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, tcp: TcpStream, remote: SocketAddr) {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let figures = &self.0.figures;
        figures.accepted.fetch_add(1, Ordering::Relaxed);
        // Publishers and viewers are bounded by limits of their own; this is for all the others.
        let Ok(place) = self.0.places.clone().try_acquire_owned() else {
            figures.full.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%remote, "closed: as many connections as this node may have");
            return;
        };
        let Some(stranger) = self.0.strangers.admit(remote.ip()) else {
            figures.crowded.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%remote, "closed: too many unfinished handshakes from this address");
            return;
        };
        let conn = Conn::tcp(tcp, remote);
        conn.set_nodelay(true);
        conn.set_keepalive();
        let door = self.clone();
        self.0.protocols.hub.spawn(async move {
            let figures = &door.0.figures;
            let (count, what) = match door.open(conn, (stranger, place)).await {
                Ok(()) | Err(Turned::Gone) => return,
                Err(Turned::Unknown) => (&figures.unknown, "an unknown protocol".to_string()),
                Err(Turned::Late) => (&figures.late, "no request in time".to_string()),
                Err(Turned::Tls(error)) => (&figures.tls_failed, format!("TLS failed: {error}")),
            };
            count.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%remote, "closed: {what}");
        });
    }

    async fn open(&self, conn: Conn, stranger: Stranger) -> Result<(), Turned> {
        let deadline = Instant::now() + self.0.handshake;
        // Whoever has not said anything yet has nothing to lose when the node ends.
        let (conn, first) = tokio::select! {
            told = self.tell(conn, deadline) => told?,
            () = self.0.protocols.hub.draining() => return Err(Turned::Gone),
        };
        match first {
            First::Rtmp => self.0.protocols.rtmp.serve(conn, stranger),
            First::Rtsp => self.0.protocols.rtsp.serve(conn, stranger),
            First::Ice => Box::pin(self.0.protocols.webrtc.serve(conn, stranger, self.0.handshake)).await,
            First::Http1 => return self.open_http1(conn, deadline, stranger).await,
            First::Http2 => {
                let (of_address, _of_all) = stranger;
                drop(of_address);
                Box::pin(self.0.http.serve(conn)).await;
            }
            First::Tls | First::More | First::Unknown => return Err(Turned::Unknown),
        }
        Ok(())
    }

    /// What it speaks, inside TLS where it opens that.
    async fn tell(&self, conn: Conn, deadline: Instant) -> Result<(Conn, First), Turned> {
        let (conn, first) = look(conn, deadline).await?;
        match (first, &self.0.tls) {
            (First::Tls, Some(tls)) => look(open_tls(conn, tls, deadline).await?, deadline).await,
            _ => Ok((conn, first)),
        }
    }

    /// The first request decides: live media goes out on the bare socket, all else is the library's.
    async fn open_http1(&self, mut conn: Conn, deadline: Instant, stranger: Stranger) -> Result<(), Turned> {
        let peeked = tokio::select! {
            peeked = timeout_at(deadline, Head::peek(&mut conn)) => peeked,
            () = self.0.protocols.hub.draining() => return Err(Turned::Gone),
        };
        let head = match peeked {
            Ok(Ok(head)) => head,
            Ok(Err(HeadError::Io(_) | HeadError::Cut)) => return Err(Turned::Gone),
            Ok(Err(fault @ (HeadError::Large | HeadError::Syntax(_)))) => {
                self.0.figures.bad_head.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(remote = %conn.remote(), %fault, "closed: bad HTTP");
                let (status, reason) = match fault {
                    HeadError::Large => (431, "Request Header Fields Too Large"),
                    HeadError::Syntax(_) | HeadError::Io(_) | HeadError::Cut => (400, "Bad Request"),
                };
                let body = problem(status, "bad-request", &fault.to_string());
                let response = format!(
                    "HTTP/1.1 {status} {reason}\r\nContent-Type: {PROBLEM_TYPE}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                timeout(FAREWELL, conn.write_all(response.as_bytes())).await.ok();
                return Err(Turned::Gone);
            }
            Err(_) => return Err(Turned::Late),
        };
        if culvert_rtsp::Rtsp::takes(&head) {
            // Whoever tunnels has not said yet what he wants.
            Box::pin(self.0.protocols.rtsp.serve_http(conn, head, stranger)).await;
            return Ok(());
        }
        let (of_address, of_all) = stranger;
        drop(of_address);
        if Cascade::takes(&head) {
            drop(of_all);
            Box::pin(self.0.cascade.register(conn, head)).await;
        } else if culvert_live::Live::takes(&head) {
            drop(of_all);
            Box::pin(self.0.protocols.live.serve(conn, head)).await;
        } else if Hls::takes(&head) {
            // In a task of its own: a player stays for long, and this one has room for all that a connection may turn out to be.
            let (hls, http) = (self.0.protocols.hls.clone(), self.0.http.clone());
            self.0.protocols.hub.spawn(async move {
                let _of_all = of_all;
                // What else it asks on this connection is the library's.
                if let Some(conn) = hls.serve(conn, head).await {
                    Box::pin(http.serve(conn)).await;
                }
            });
        } else {
            Box::pin(self.0.http.serve(conn)).await;
        }
        Ok(())
    }
}

/// Reads until it is clear what the connection speaks.
async fn look(mut conn: Conn, deadline: Instant) -> Result<(Conn, First), Turned> {
    loop {
        let told = sniff(conn.seen());
        if told != First::More {
            return Ok((conn, told));
        }
        match timeout_at(deadline, conn.fill(SNIFF_BYTES)).await {
            Ok(Ok(0) | Err(_)) => return Err(Turned::Gone),
            Ok(Ok(_)) => {}
            Err(_) => return Err(Turned::Late),
        }
    }
}

async fn open_tls(conn: Conn, tls: &TlsAcceptor, deadline: Instant) -> Result<Conn, Turned> {
    let remote = conn.remote();
    let socket = conn.into_socket().ok_or(Turned::Unknown)?;
    match timeout_at(deadline, tls.accept(socket)).await {
        Ok(Ok(tls)) => Ok(Conn::tls_server(tls, remote)),
        Ok(Err(error)) => Err(Turned::Tls(error)),
        Err(_) => Err(Turned::Late),
    }
}

/// Errors of one connection, which say nothing about the next.
fn is_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
