//! Many lowers in this process: links as nodes keep them, with an empty catalogue behind each.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_cascade::catalogue::PATH;
use culvert_link::{Board, Body, Service, State, Upper, UpperUrl, body, empty, keep};
use culvert_net::DialOptions;
use http::{Request, Response, StatusCode};
use hyper::body::Frame;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A catalogue without anything in it: a snapshot that begins and is whole.
const CATALOGUE: &str = concat!(
    "{\"item\":\"snapshot\",\"version\":1,\"platform\":",
    "{\"name\":\"bench\",\"serial\":null,\"version\":\"0\",\"started_ms\":0}}\n",
    "{\"item\":\"whole\",\"version\":1}\n"
);
/// Most different reasons that are kept.
const REASONS: usize = 50;

/// All of them. They end with their runtime.
pub(crate) struct Lowers(Arc<Mutex<Tally>>);

/// What was seen of the links since [`Lowers::mark`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Links that there are now.
    pub(crate) linked: usize,
    /// From the dial to the 101, in microseconds, of the attempts that led to a link.
    pub(crate) accept_micros: Vec<u32>,
    /// Why links ended and attempts failed, and how many of each.
    pub(crate) failed: BTreeMap<String, usize>,
}

/// Answers the one thing that an upper asks of a lower that is idle.
struct Idle;

/// Once its bytes, and then nothing for as long as the link lives.
struct Open(Option<Bytes>);

impl Service for Idle {
    fn call(&self, request: Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        let mut response = Response::new(empty());
        if request.uri().path() == PATH {
            *response.body_mut() = body(Open(Some(Bytes::from_static(CATALOGUE.as_bytes()))));
        } else {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        Box::pin(std::future::ready(response))
    }
}

impl hyper::body::Body for Open {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // What ends it is the end of its link, which drops it.
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

impl Lowers {
    /// Spawns a task for each of `count` links to this upper. The dials are spread evenly over `spread`.
    pub(crate) fn dial(runtime: &Handle, upper: SocketAddr, count: u32, spread: Duration) -> Lowers {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let service: Arc<dyn Service> = Arc::new(Idle);
        for number in 0..count {
            let url =
                UpperUrl { host: upper.ip().to_string(), port: upper.port(), secure: false, context: String::new() };
            let board = Arc::new(Board::new(&url));
            let upper = Upper { url, cid: format!("lower{number}"), token: None, options: DialOptions::default() };
            let (service, tally) = (service.clone(), tally.clone());
            let pause = spread.mul_f64(f64::from(number) / f64::from(count));
            runtime.spawn(async move {
                sleep(pause).await;
                let kept = Box::pin(keep(upper, service, board.clone(), CancellationToken::new()));
                watched(kept, &board, &tally).await;
            });
        }
        Lowers(tally)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.0)
    }

    /// Links that there are now.
    pub(crate) fn linked(&self) -> usize {
        self.tally().linked
    }

    /// From here on is counted.
    pub(crate) fn mark(&self) {
        let mut tally = self.tally();
        tally.accept_micros.clear();
        tally.failed.clear();
    }

    /// What was seen since.
    pub(crate) fn seen(&self) -> Tally {
        self.tally().clone()
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().expect("no code panics while it counts links")
}

/// Runs a loop and looks at its board whenever it has done something: each dial waits at least once, for the other
/// process, so that none is missed.
async fn watched(kept: impl Future<Output = ()>, board: &Board, tally: &Mutex<Tally>) {
    let mut kept = pin!(kept);
    let mut watch = Watch::default();
    poll_fn(|cx| {
        let ended = kept.as_mut().poll(cx);
        let info = board.info();
        watch.look(info.state, info.since, info.error, tally);
        ended
    })
    .await;
}

#[derive(Default)]
struct Watch {
    state: Option<State>,
    dialled: Option<SystemTime>,
}

impl Watch {
    fn look(&mut self, state: State, since: SystemTime, error: Option<String>, tally: &Mutex<Tally>) {
        if self.state == Some(state) {
            return;
        }
        let mut tally = lock(tally);
        if self.state == Some(State::Linked) {
            tally.linked -= 1;
        }
        match state {
            State::Dialling => self.dialled = Some(since),
            State::Linked => {
                tally.linked += 1;
                let took = self.dialled.and_then(|at| since.duration_since(at).ok()).unwrap_or_default();
                tally.accept_micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
            }
            State::Waiting if self.state.is_some() => {
                let why = error.unwrap_or_default();
                if tally.failed.len() < REASONS || tally.failed.contains_key(&why) {
                    *tally.failed.entry(why).or_default() += 1;
                }
            }
            State::Waiting | State::Stopped => {}
        }
        self.state = Some(state);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn dials_are_timed_from_dialling_to_linked_and_failures_counted_by_reason() {
        let (tally, mut watch) = (Mutex::new(Tally::default()), Watch::default());
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        for (state, millis, error) in [
            (State::Waiting, 0, None),
            (State::Dialling, 10, None),
            (State::Dialling, 10, None),
            (State::Waiting, 30, Some("refused")),
            (State::Dialling, 100, Some("refused")),
            (State::Linked, 107, None),
            (State::Linked, 107, None),
        ] {
            watch.look(state, at(millis), error.map(str::to_owned), &tally);
        }
        let seen = lock(&tally).clone();
        assert_eq!((seen.linked, seen.accept_micros, seen.failed.get("refused")), (1, vec![7_000], Some(&1)));
        watch.look(State::Waiting, at(900), Some("the connection broke".to_owned()), &tally);
        let seen = lock(&tally).clone();
        assert_eq!((seen.linked, seen.failed.len()), (0, 2));
    }
}
