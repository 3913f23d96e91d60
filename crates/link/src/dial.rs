//! The lower's loop: dials an upper, serves it, and begins again, for ever.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use culvert_net::ws::{Upgrade, UpgradeError, connect};
use culvert_net::{DialError, DialOptions, dial_with};
use thiserror::Error;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::figures::{LinkFigures, Shared};
use crate::retry::{RESTART, RetryHint};
use crate::serve::{Service, serve};
use crate::{PROTOCOL, REGISTER};

/// How long each step of a dial may take (security.md S16).
const STEP: Duration = Duration::from_secs(10);
/// Longest `Retry-After` that is obeyed; what is longer is taken for a mistake.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Where an upper is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpperUrl {
    /// Its name or address; brackets around IPv6 may be there or not.
    pub host: String,
    /// Its one port.
    pub port: u16,
    /// Whether the connection is TLS.
    pub secure: bool,
    /// What stands before our paths: empty, or `/a/b` without a slash at the end.
    pub context: String,
}

impl UpperUrl {
    /// The host as URLs have it: an IPv6 address in brackets (RFC 3986 3.2.2).
    fn written(&self) -> String {
        let v6 = self.host.contains(':') && !self.host.starts_with('[');
        if v6 { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// The value of `Host`.
    pub fn authority(&self) -> String {
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => self.written(),
            (_, port) => format!("{}:{port}", self.written()),
        }
    }

    /// What is asked to make a link.
    pub fn register(&self, cid: &str) -> String {
        format!("{}{REGISTER}?cid={cid}", self.context)
    }
}

impl fmt::Display for UpperUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        write!(f, "{scheme}://{}:{}{}", self.written(), self.port, self.context)
    }
}

/// An upper to dial. `Debug` does not show the token.
#[derive(Clone)]
pub struct Upper {
    /// Where it is.
    pub url: UpperUrl,
    /// Who we are: in the grammar of a platform id.
    pub cid: String,
    /// What we show.
    pub token: Option<String>,
    /// How it is dialled; `tls` must be there where the URL is secure.
    pub options: DialOptions,
}

impl fmt::Debug for Upper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upper").field("url", &self.url).field("cid", &self.cid).finish_non_exhaustive()
    }
}

/// What a link to an upper is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// On its way.
    Dialling,
    /// The upper can ask.
    Linked,
    /// The last attempt or link ended; another one comes.
    Waiting,
    /// This node ends.
    Stopped,
}

impl State {
    /// The word in the API.
    pub const fn name(self) -> &'static str {
        match self {
            State::Dialling => "dialling",
            State::Linked => "linked",
            State::Waiting => "waiting",
            State::Stopped => "stopped",
        }
    }
}

/// A link to an upper as the API shows it.
#[derive(Clone, Debug)]
pub struct UpperInfo {
    /// Where it is.
    pub url: String,
    /// What it is doing.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// Why the last attempt or link ended, as a sentence.
    pub error: Option<String>,
    /// Dials so far.
    pub attempts: u64,
    /// Links that were made so far.
    pub links: u64,
    /// What the link is, or the last one was: `h2`, or `m7s` for an old upper.
    pub carrier: Option<&'static str>,
    /// Of the link that there is, where it is one of ours.
    pub figures: Option<LinkFigures>,
}

/// The state of one loop, written by it and read by the API.
#[derive(Debug)]
pub struct Board(Mutex<(UpperInfo, Option<Arc<Shared>>)>);

impl Board {
    /// Of an upper that was not dialled yet.
    pub fn new(url: &UpperUrl) -> Board {
        let info = UpperInfo {
            url: url.to_string(),
            state: State::Waiting,
            since: SystemTime::now(),
            error: None,
            attempts: 0,
            links: 0,
            carrier: None,
            figures: None,
        };
        Board(Mutex::new((info, None)))
    }

    fn lock(&self) -> MutexGuard<'_, (UpperInfo, Option<Arc<Shared>>)> {
        self.0.lock().expect("no code panics while it writes a board")
    }

    fn set(&self, state: State, shared: Option<Arc<Shared>>, error: Option<String>) {
        let mut board = self.lock();
        let (info, link) = &mut *board;
        info.attempts += u64::from(state == State::Dialling);
        info.links += u64::from(state == State::Linked);
        if info.state != state {
            info.since = SystemTime::now();
        }
        info.state = state;
        if error.is_some() || state == State::Linked {
            info.error = error;
        }
        *link = shared;
    }

    /// What it is doing.
    pub fn info(&self) -> UpperInfo {
        let board = self.lock();
        UpperInfo { figures: board.1.as_ref().map(|link| link.figures()), ..board.0.clone() }
    }
}

/// Why there is no link.
#[derive(Debug, Error)]
pub enum KeepError {
    /// The upper could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It, or something in front of it, does not let us in.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// It speaks the old protocol.
    #[error(
        "the upper does not speak {PROTOCOL}: it is an old m7s upper, or a gateway in front of it drops \
         Sec-WebSocket-Protocol"
    )]
    Old,
    /// There was a link, and it ended.
    #[error("{0}")]
    Ended(String),
}

/// Keeps a link to this upper until `stop`, trying again by the rule of DESIGN section 3. Each upper has a loop of its
/// own; names are resolved at every attempt.
pub async fn keep(upper: Upper, service: Arc<dyn Service>, board: Arc<Board>, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    loop {
        board.set(State::Dialling, None, None);
        let mut live = None;
        let shared = Arc::new(Shared::new());
        let attempt = async {
            tokio::select! {
                attempt = attempt(&upper, &service, &board, &shared, &mut live, &stop) => Some(attempt),
                () = stopped_before_link(&stop, &board) => None,
            }
        };
        let Some(Err(error)) = attempt.await else { break };
        if stop.is_cancelled() {
            break;
        }
        tracing::warn!(upper = %upper.url, why = %error, "link lost or not made");
        board.set(State::Waiting, None, Some(error.to_string()));
        let hint = shared.closed().filter(|(status, _)| *status == RESTART);
        let wait = backoff.after(live);
        let wait = match (hint.and_then(|(_, reason)| RetryHint::parse(&reason)), &error) {
            (Some(hint), _) => hint.pick(),
            (None, KeepError::Upgrade(UpgradeError::Refused { retry_after: Some(after), .. })) => {
                (*after).min(LONGEST_WAIT) + wait
            }
            (None, _) => wait,
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => break,
        }
    }
    board.set(State::Stopped, None, None);
}

/// A link that is there is drained by who serves it; before that there is nothing to drain.
async fn stopped_before_link(stop: &CancellationToken, board: &Board) {
    stop.cancelled().await;
    if board.lock().0.state == State::Linked {
        std::future::pending().await
    }
}

async fn attempt(
    upper: &Upper,
    service: &Arc<dyn Service>,
    board: &Board,
    shared: &Arc<Shared>,
    live: &mut Option<Instant>,
    stop: &CancellationToken,
) -> Result<(), KeepError> {
    let url = &upper.url;
    let options = DialOptions { uplink: true, ..upper.options.clone() };
    let conn = dial_with(&url.host, url.port, &options, STEP).await?;
    let bearer = upper.token.as_ref().map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
    let (host, target) = (url.authority(), url.register(&upper.cid));
    let upgrade = Upgrade { host: &host, target: &target, protocol: Some(PROTOCOL), headers: &headers };
    let upgraded = connect(conn, &upgrade, STEP).await?;
    if upgraded.protocol.as_deref() != Some(PROTOCOL) {
        let Some(otherwise) = service.otherwise() else { return Err(KeepError::Old) };
        board.set(State::Linked, None, None);
        board.lock().0.carrier = Some(otherwise.carrier());
        *live = Some(Instant::now());
        tracing::info!(upper = %url, cid = %upper.cid, carrier = otherwise.carrier(), "linked");
        let ended = otherwise.serve(upgraded.conn, stop.clone()).await;
        return Err(KeepError::Ended(ended.map_or_else(|why| why, |()| "the upper ended the link".to_string())));
    }
    board.set(State::Linked, Some(shared.clone()), None);
    board.lock().0.carrier = Some("h2");
    *live = Some(Instant::now());
    tracing::info!(upper = %url, cid = %upper.cid, "linked");
    let ended = serve(upgraded.conn, service.clone(), shared.clone(), stop).await;
    Err(KeepError::Ended(match (shared.closed(), ended) {
        (Some((_, reason)), _) if !reason.is_empty() => format!("the upper closed the link: {reason}"),
        (_, Err(why)) => why,
        (_, Ok(())) => "the upper ended the link".to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_is_written_in_brackets() {
        let url = |host: &str, port| UpperUrl { host: host.into(), port, secure: false, context: "/a".into() };
        for host in ["::1", "[::1]"] {
            assert_eq!((url(host, 80).authority(), url(host, 81).authority()), ("[::1]".into(), "[::1]:81".into()));
            assert_eq!(url(host, 80).to_string(), "ws://[::1]:80/a");
        }
        assert_eq!(url("h", 81).authority(), "h:81");
    }
}
