//! Streams fetched from elsewhere: all the time, or while somebody watches; by configuration, or by command.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use culvert_hub::{Demand, End, Hub, Identity, Publisher, Refusal, Source, Starting};
use culvert_media::StreamName;
use culvert_rtsp::Prefer;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Board, Doing, RelayInfo};
use crate::config::{Pull, PullUrl};
use crate::logs::mask_url;
use culvert_link::Backoff;

/// A camera that is away is looked for at least this often: it is to be back within 2 s of its return. One that refuses us is left
/// alone longer each time, for some lock out who shows a wrong password.
const LOOK_FOR_CAMERA: Duration = Duration::from_secs(1);
/// Most pulls at once: viewers choose the names of those on demand.
const PULLS: usize = 1024;
/// The least grace: a viewer needs a moment to come through the door.
const LEAST_GRACE: Duration = Duration::from_secs(1);

/// All pulls. Cheap to clone.
#[derive(Clone)]
pub struct Pulls(Arc<Inner>);

struct Inner {
    hub: Hub,
    config: Pull,
    tls: Arc<ClientConfig>,
    silence: Duration,
    stop: CancellationToken,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    running: HashMap<StreamName, Running>,
    /// On demand by command; asked before the patterns of the configuration.
    on_demand: BTreeMap<StreamName, PullUrl>,
}

#[derive(Clone)]
struct Running {
    board: Arc<Board>,
    failed: watch::Receiver<Option<Refusal>>,
    kind: Kind,
    stop: CancellationToken,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// From the configuration.
    Always,
    /// Begun by command, and all the time from then on.
    Command,
    /// While somebody watches.
    OnDemand,
}

impl Kind {
    /// The word in the API.
    const fn name(self) -> &'static str {
        match self {
            Kind::Always | Kind::Command => "always",
            Kind::OnDemand => "on_demand",
        }
    }
}

/// Why a pull was not begun.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PullError {
    /// There is one of this name.
    #[error("a pull of {0} is there already; stop it first to begin anew")]
    There(StreamName),
    /// Too many.
    #[error("this node has as many pulls as it may ({PULLS}); stop one")]
    Full,
}

impl Pulls {
    /// The pulls of this configuration, none begun. `silence` bounds each step of a source, and the time between two
    /// pieces of media.
    pub fn new(hub: Hub, config: Pull, tls: Arc<ClientConfig>, silence: Duration, stop: CancellationToken) -> Pulls {
        Pulls(Arc::new(Inner { hub, config, tls, silence, stop, table: Mutex::default() }))
    }

    /// Spawns a task for each stream that is pulled all the time.
    pub fn start_always(&self) {
        for (stream, url) in &self.0.config.always {
            self.begin(&mut self.table(), stream, url, Kind::Always);
        }
    }

    /// Spawns a task that pulls this stream until it is stopped; with `on_demand` it is pulled while somebody watches.
    pub fn add(&self, stream: &StreamName, url: &PullUrl, on_demand: bool) -> Result<(), PullError> {
        let mut table = self.table();
        if table.running.contains_key(stream) || table.on_demand.contains_key(stream) {
            return Err(PullError::There(stream.clone()));
        }
        if table.running.len() + table.on_demand.len() >= PULLS {
            return Err(PullError::Full);
        }
        match on_demand {
            true => drop(table.on_demand.insert(stream.clone(), url.clone())),
            false => drop(self.begin(&mut table, stream, url, Kind::Command)),
        }
        Ok(())
    }

    /// Ends a pull. False: there is none. What the configuration has is back with its next viewer, or after a restart.
    pub fn stop(&self, stream: &StreamName) -> bool {
        let mut table = self.table();
        let known = table.on_demand.remove(stream).is_some();
        let running = table.running.get(stream).map(|pull| pull.stop.cancel());
        known || running.is_some()
    }

    fn begin(
        &self,
        table: &mut Table,
        stream: &StreamName,
        url: &PullUrl,
        kind: Kind,
    ) -> watch::Receiver<Option<Refusal>> {
        let (failed, seen) = watch::channel(None);
        let board = Arc::new(Board::new(stream.to_string(), mask_url(url.url().as_str()), kind.name()));
        let stop = self.0.stop.child_token();
        let running = Running { board: board.clone(), failed: seen.clone(), kind, stop: stop.clone() };
        table.running.insert(stream.clone(), running);
        let pull = Order { stream: stream.clone(), url: url.clone(), board, kind, stop };
        tokio::spawn(self.clone().keep(pull, failed));
        seen
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().expect("no code panics while it holds the table of pulls")
    }

    /// What each pull is doing; those on demand by the configuration that nobody watches are not there.
    pub fn list(&self) -> Vec<RelayInfo> {
        let table = self.table();
        let mut list: Vec<_> = table.running.values().map(|pull| pull.board.info()).collect();
        let waiting = table.on_demand.iter().filter(|(stream, _)| !table.running.contains_key(stream));
        list.extend(waiting.map(|(stream, url)| {
            Board::new(stream.to_string(), mask_url(url.url().as_str()), Kind::OnDemand.name()).info()
        }));
        list.sort_by(|a, b| a.stream.cmp(&b.stream));
        list
    }

    /// Streams that would be pulled for a first viewer and are not pulled now; those of patterns are not known.
    pub fn available(&self) -> Vec<StreamName> {
        let table = self.table();
        let rows = self.0.config.on_demand.rows().iter().filter(|row| row.streams.wildcards() == 0);
        let configured = rows.filter_map(|row| StreamName::parse(&row.streams.to_string()).ok());
        let mut names: Vec<_> = configured.chain(table.on_demand.keys().cloned()).collect();
        names.retain(|name| !table.running.contains_key(name));
        names.sort();
        names.dedup();
        names
    }

    /// Keeps one stream coming, until the node ends or, on demand, until nobody has watched for the grace.
    async fn keep(self, pull: Order, failed: watch::Sender<Option<Refusal>>) {
        let (stream, url, board) = (&pull.stream, &pull.url, &pull.board);
        let mut backoff = Backoff::default();
        let mut held: Option<Publisher> = None;
        // When media last flowed.
        let mut lost_at: Option<Instant> = None;
        loop {
            board.set(Doing::Starting, None);
            let mut live = None;
            let (ended, publisher) = self.attempt(&pull, held.take(), &mut live).await;
            let why = match ended {
                Attempt::Unwanted => {
                    // The stream first, then the table: whoever comes in between sees this attempt end without a word,
                    // and asks for another.
                    if let Some(publisher) = publisher {
                        publisher.finish(if pull.stop.is_cancelled() { End::Closed } else { End::Finished });
                    }
                    self.table().running.remove(stream);
                    return;
                }
                Attempt::Failed(why, absence) => (why, absence),
            };
            let (why, absence) = why;
            tracing::warn!(%stream, url = %mask_url(url.url().as_str()), %why, "pull failed");
            board.set(Doing::Retrying, Some(why.clone()));
            if live.is_some() {
                lost_at = Some(Instant::now());
            }
            let mut wait = backoff.after(live);
            if absence {
                wait = wait.min(LOOK_FOR_CAMERA);
            }
            // Viewers of a source that was live stay for a while.
            let keep = lost_at.is_some_and(|lost| lost.elapsed() + wait < self.0.config.hold.get());
            if pull.kind == Kind::OnDemand && !keep {
                // Its viewers are told at once; the next one makes another attempt.
                self.table().running.remove(stream);
                let why = format!("the source of {stream} failed: {why}");
                failed.send_replace(Some(Refusal::NotStarted(why)));
                return;
            }
            held = publisher.filter(|_| keep);
            tokio::select! {
                () = sleep(wait) => {}
                () = pull.stop.cancelled() => break,
            }
        }
        self.table().running.remove(stream);
    }

    /// One connection to the source. The publisher comes back, so that its viewers can be kept.
    async fn attempt(
        &self,
        pull: &Order,
        held: Option<Publisher>,
        live: &mut Option<Instant>,
    ) -> (Attempt, Option<Publisher>) {
        let (stream, url, board) = (&pull.stream, pull.url.url(), &pull.board);
        let again = held.is_some();
        let publisher = match held {
            Some(publisher) => publisher,
            None => {
                let remote = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let source = Source { protocol: "pull", remote };
                match self.0.hub.publish(stream, source, Identity::anonymous()) {
                    Ok(publisher) => publisher,
                    Err(refusal) => return (Attempt::Failed(refusal.to_string(), false), None),
                }
            }
        };
        if again {
            publisher.restart();
        }
        let (tls, silence) = (&self.0.tls, self.0.silence);
        let grace = self.0.config.grace.get().max(LEAST_GRACE);
        let first = self.0.config.start_timeout.get() + grace;
        let mut begun = || {
            live.get_or_insert_with(Instant::now);
            board.set(Doing::Live, None);
        };
        let source = async {
            match url.scheme() {
                "rtsp" | "rtsps" => {
                    let prefer = if url.fragment() == Some("udp") { Prefer::Udp } else { Prefer::Tcp };
                    let ended = culvert_rtsp::pull(url, prefer, tls, silence, &publisher, &mut begun).await;
                    ended.map_err(|e| (e.to_string(), e.is_absence()))
                }
                "rtmp" | "rtmps" => culvert_rtmp::pull(url.as_str(), tls, silence, &publisher, &mut begun)
                    .await
                    .map_err(|e| (e.to_string(), false)),
                _ if pull.url.is_hls() => {
                    let ended = culvert_hls::pull(url, tls, silence, &publisher, &mut begun).await;
                    ended.map_err(|e| (e.to_string(), false))
                }
                _ => {
                    let ended = culvert_live::pull(url, tls, silence, &publisher, &mut begun).await;
                    ended.map_err(|e| (e.to_string(), false))
                }
            }
        };
        let ended = tokio::select! {
            ended = source => {
                let (why, absence) = ended.err().unwrap_or_else(|| ("the source ended".into(), false));
                Attempt::Failed(why, absence)
            }
            () = publisher.cancelled() => match pull.kind {
                // Who closes the stream of a command means the command.
                Kind::OnDemand | Kind::Command => Attempt::Unwanted,
                Kind::Always => Attempt::Failed("closed by the API".into(), false),
            },
            () = publisher.end_unwatched(first, grace), if pull.kind == Kind::OnDemand => Attempt::Unwanted,
            () = pull.stop.cancelled() => Attempt::Unwanted,
        };
        let cancelled = publisher.session().figures().is_cancelled();
        (ended, Some(publisher).filter(|_| !cancelled))
    }
}

/// One of the pulls.
struct Order {
    stream: StreamName,
    url: PullUrl,
    board: Arc<Board>,
    kind: Kind,
    stop: CancellationToken,
}

enum Attempt {
    /// Nobody watches, or the node ends.
    Unwanted,
    /// A sentence, and whether the source is just not there.
    Failed(String, bool),
}

impl Demand for Pulls {
    fn start(&self, stream: &StreamName) -> Option<Starting> {
        let timeout = self.0.config.start_timeout.get();
        let mut table = self.table();
        if let Some(pull) = table.running.get(stream) {
            // Viewers of a stream that is pulled all the time are told that it is not there.
            return (pull.kind == Kind::OnDemand).then(|| Starting { timeout, failed: pull.failed.clone() });
        }
        let by_command = table.on_demand.get(stream).cloned();
        let url = by_command.or_else(|| self.0.config.on_demand.url_for(stream))?;
        if table.running.len() >= PULLS {
            let why = format!("this node pulls as many streams as it may ({PULLS})");
            return Some(Starting::refused(Refusal::Full(why)));
        }
        Some(Starting { timeout, failed: self.begin(&mut table, stream, &url, Kind::OnDemand) })
    }
}
