//! Streams sent elsewhere while they are published here.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use culvert_hub::{Event, Hub, Identity, Source, Subscriber};
use culvert_media::StreamName;
use culvert_rtmp::ClientError;
use rustls::ClientConfig;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::{Board, Doing, RelayInfo};
use crate::config::{Push, PushUrl, Retry};
use crate::logs::mask_url;

/// All pushes. Cheap to clone.
#[derive(Clone)]
pub struct Pushes(Arc<Inner>);

struct Inner {
    hub: Hub,
    retry: Retry,
    tls: Arc<ClientConfig>,
    silence: Duration,
    stop: CancellationToken,
    list: Vec<(StreamName, PushUrl, Arc<Board>)>,
}

impl Pushes {
    /// The pushes of this configuration, none begun. `silence` bounds each step of a target.
    pub fn new(hub: Hub, config: &Push, tls: Arc<ClientConfig>, silence: Duration, stop: CancellationToken) -> Pushes {
        let board = |stream: &StreamName, url: &PushUrl| {
            Arc::new(Board::new(stream.to_string(), mask_url(url.url().as_str()), "always"))
        };
        let list = config.list.iter().map(|(stream, url)| (stream.clone(), url.clone(), board(stream, url))).collect();
        Pushes(Arc::new(Inner { hub, retry: config.retry, tls, silence, stop, list }))
    }

    /// Spawns a task for each of them.
    pub fn start(&self) {
        for (stream, url, board) in &self.0.list {
            tokio::spawn(self.clone().keep(stream.clone(), url.clone(), board.clone()));
        }
    }

    /// What each push is doing.
    pub fn list(&self) -> Vec<RelayInfo> {
        self.0.list.iter().map(|(_, _, board)| board.info()).collect()
    }

    /// Sends one stream whenever it is there, until the node ends or the retries are used up.
    async fn keep(self, stream: StreamName, url: PushUrl, board: Arc<Board>) {
        let mut backoff = Backoff::default();
        loop {
            board.set(Doing::Waiting, None);
            let mut feed = tokio::select! {
                feed = self.source(&stream) => feed,
                () = self.0.stop.cancelled() => return,
            };
            board.set(Doing::Starting, None);
            let mut live = None;
            let begun = || {
                live.get_or_insert_with(Instant::now);
                board.set(Doing::Live, None);
            };
            let sending = culvert_rtmp::push(url.url().as_str(), &self.0.tls, self.0.silence, &mut feed, begun);
            let ended = tokio::select! {
                ended = sending => ended,
                () = self.0.stop.cancelled() => return,
            };
            // A session that was cancelled through the API is tried again like any other end.
            let why = match ended {
                Ok(()) | Err(ClientError::SourceEnded(_)) => continue,
                Err(error) => error.to_string(),
            };
            tracing::warn!(%stream, url = %mask_url(url.url().as_str()), %why, "push failed");
            let wait = backoff.after(live);
            let may_retry = match self.0.retry {
                Retry::Forever => true,
                Retry::Never => false,
                Retry::Times(times) => backoff.failures() <= times,
            };
            if !may_retry {
                board.set(Doing::Stopped, Some(why));
                return;
            }
            board.set(Doing::Retrying, Some(why));
            tokio::select! {
                () = sleep(wait) => {}
                () = self.0.stop.cancelled() => return,
            }
        }
    }

    /// Waits for the stream to be live.
    async fn source(&self, stream: &StreamName) -> Subscriber {
        let mut events = self.0.hub.events();
        loop {
            let remote = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let source = Source { protocol: "push", remote };
            if let Some(admission) = self.0.hub.read(stream, source, Identity::anonymous()) {
                return admission.subscribe();
            }
            // Whatever the news is, also that some was missed, the stream is looked up again.
            while let Ok(Event::Ended(_)) = events.recv().await {}
        }
    }
}
