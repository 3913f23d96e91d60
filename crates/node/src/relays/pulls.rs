//! Streams fetched from elsewhere: all the time, or while somebody watches.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use culvert_hub::{Demand, End, Hub, Identity, Publisher, Refusal, Source, Starting};
use culvert_media::StreamName;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Board, Doing, RelayInfo};
use crate::config::{Pull, PullUrl};
use crate::logs::mask_url;
use culvert_link::Backoff;

/// How long viewers are kept while a source that was live is connected anew.
const KEEP_VIEWERS: Duration = Duration::from_secs(10);
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
    running: Mutex<HashMap<StreamName, Running>>,
}

#[derive(Clone)]
struct Running {
    board: Arc<Board>,
    failed: watch::Receiver<Option<Refusal>>,
    always: bool,
}

impl Pulls {
    /// The pulls of this configuration, none begun. `silence` bounds each step of a source, and the time between two
    /// pieces of media.
    pub fn new(hub: Hub, config: Pull, tls: Arc<ClientConfig>, silence: Duration, stop: CancellationToken) -> Pulls {
        Pulls(Arc::new(Inner { hub, config, tls, silence, stop, running: Mutex::default() }))
    }

    /// Spawns a task for each stream that is pulled all the time.
    pub fn start_always(&self) {
        for (stream, url) in &self.0.config.always {
            let (failed, seen) = watch::channel(None);
            let board = Arc::new(Board::new(stream.to_string(), mask_url(url.url().as_str()), "always"));
            self.running().insert(stream.clone(), Running { board: board.clone(), failed: seen, always: true });
            tokio::spawn(self.clone().keep(stream.clone(), url.clone(), board, failed, false));
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<StreamName, Running>> {
        self.0.running.lock().expect("no code panics while it holds the table of pulls")
    }

    /// What each pull is doing; those on demand that nobody watches are not there.
    pub fn list(&self) -> Vec<RelayInfo> {
        let mut list: Vec<_> = self.running().values().map(|pull| pull.board.info()).collect();
        list.sort_by(|a, b| a.stream.cmp(&b.stream));
        list
    }

    /// Streams that would be pulled for a first viewer and are not pulled now; those of patterns are not known.
    pub fn available(&self) -> Vec<StreamName> {
        let running = self.running();
        let rows = self.0.config.on_demand.rows().iter().filter(|row| row.streams.wildcards() == 0);
        let names = rows.filter_map(|row| StreamName::parse(&row.streams.to_string()).ok());
        names.filter(|name| !running.contains_key(name)).collect()
    }

    /// Keeps one stream coming, until the node ends or, on demand, until nobody has watched for the grace.
    async fn keep(
        self,
        stream: StreamName,
        url: PullUrl,
        board: Arc<Board>,
        failed: watch::Sender<Option<Refusal>>,
        on_demand: bool,
    ) {
        let mut backoff = Backoff::default();
        let mut held: Option<Publisher> = None;
        // When media last flowed.
        let mut lost_at: Option<Instant> = None;
        loop {
            board.set(Doing::Starting, None);
            let mut live = None;
            let (ended, publisher) = self.attempt(&stream, url.url(), &board, held.take(), &mut live, on_demand).await;
            let why = match ended {
                Attempt::Unwanted => {
                    // The stream first, then the table: whoever comes in between sees this attempt end without a word,
                    // and asks for another.
                    if let Some(publisher) = publisher {
                        publisher.finish(if self.0.stop.is_cancelled() { End::Closed } else { End::Finished });
                    }
                    self.running().remove(&stream);
                    return;
                }
                Attempt::Failed(why) => why,
            };
            tracing::warn!(%stream, url = %mask_url(url.url().as_str()), %why, "pull failed");
            board.set(Doing::Retrying, Some(why.clone()));
            if live.is_some() {
                lost_at = Some(Instant::now());
            }
            let wait = backoff.after(live);
            // Viewers of a source that was live stay for a while.
            let keep = lost_at.is_some_and(|lost| lost.elapsed() + wait < KEEP_VIEWERS);
            if on_demand && !keep {
                // Its viewers are told at once; the next one makes another attempt.
                self.running().remove(&stream);
                let why = format!("the source of {stream} failed: {why}");
                failed.send_replace(Some(Refusal::NotStarted(why)));
                return;
            }
            held = publisher.filter(|_| keep);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.0.stop.cancelled() => break,
            }
        }
        self.running().remove(&stream);
    }

    /// One connection to the source. The publisher comes back, so that its viewers can be kept.
    async fn attempt(
        &self,
        stream: &StreamName,
        url: &Url,
        board: &Board,
        held: Option<Publisher>,
        live: &mut Option<Instant>,
        on_demand: bool,
    ) -> (Attempt, Option<Publisher>) {
        let again = held.is_some();
        let publisher = match held {
            Some(publisher) => publisher,
            None => {
                let remote = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let source = Source { protocol: "pull", remote };
                match self.0.hub.publish(stream, source, Identity::anonymous()) {
                    Ok(publisher) => publisher,
                    Err(refusal) => return (Attempt::Failed(refusal.to_string()), None),
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
                "rtmp" | "rtmps" => culvert_rtmp::pull(url.as_str(), tls, silence, &publisher, &mut begun)
                    .await
                    .map_err(|e| e.to_string()),
                _ => culvert_live::pull(url, tls, silence, &publisher, &mut begun).await.map_err(|e| e.to_string()),
            }
        };
        let ended = tokio::select! {
            ended = source => Attempt::Failed(ended.err().unwrap_or_else(|| "the source ended".into())),
            () = publisher.cancelled() => match on_demand {
                true => Attempt::Unwanted,
                false => Attempt::Failed("closed by the API".into()),
            },
            () = publisher.end_unwatched(first, grace), if on_demand => Attempt::Unwanted,
            () = self.0.stop.cancelled() => Attempt::Unwanted,
        };
        let cancelled = publisher.session().figures().is_cancelled();
        (ended, Some(publisher).filter(|_| !cancelled))
    }
}

enum Attempt {
    /// Nobody watches, or the node ends.
    Unwanted,
    /// A sentence.
    Failed(String),
}

impl Demand for Pulls {
    fn start(&self, stream: &StreamName) -> Option<Starting> {
        let timeout = self.0.config.start_timeout.get();
        let mut running = self.running();
        if let Some(pull) = running.get(stream) {
            // Viewers of a stream that is pulled all the time are told that it is not there.
            return (!pull.always).then(|| Starting { timeout, failed: pull.failed.clone() });
        }
        if running.len() >= PULLS {
            let why = format!("this node pulls as many streams as it may ({PULLS})");
            return Some(Starting::refused(Refusal::Full(why)));
        }
        let url = self.0.config.on_demand.url_for(stream)?;
        let (failed, seen) = watch::channel(None);
        let board = Arc::new(Board::new(stream.to_string(), mask_url(url.url().as_str()), "on_demand"));
        running.insert(stream.clone(), Running { board: board.clone(), failed: seen.clone(), always: false });
        drop(running);
        tokio::spawn(self.clone().keep(stream.clone(), url, board, failed, true));
        Some(Starting { timeout, failed: seen })
    }
}
