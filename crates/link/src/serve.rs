//! The lower's end: an HTTP/2 server on a connection that it dialled itself, while the upper asks.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use culvert_net::Conn;
use culvert_net::ws::Role;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::carrier::{Carrier, Woken};
use crate::figures::Shared;
use crate::handle::{self, Handle, Lent, lock};
use crate::pieces::Cut;
use crate::request::BoxFuture;
use crate::{CONNECTION_WINDOW, HEAD, LARGEST_FRAME, SEND_BUFFER, STREAM_WINDOW, STREAMS};

/// Whatever a body fails with.
pub type BoxError = Box<dyn Error + Send + Sync>;
/// A body of any kind.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Any body as a [`Body`].
pub fn body<B>(from: B) -> Body
where
    B: BodyExt<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    from.map_err(Into::into).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    body(Empty::new())
}

/// The upper's address as the socket has it: in the extensions of each request.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub SocketAddr);

/// To tell the upper that what it knows is no longer so: in the extensions of each request.
#[derive(Clone, Debug)]
pub struct News(Weak<Shared>);

impl News {
    fn of(shared: &Arc<Shared>) -> News {
        News(Arc::downgrade(shared))
    }

    /// Tells it, soon and once. False: the link is gone.
    pub fn tell(&self) -> bool {
        self.0.upgrade().is_some_and(|shared| {
            shared.tell_news();
            true
        })
    }

    /// Whether the link is gone.
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// Answers the upper's requests. A request whose upgrade the upper wants (extended CONNECT, RFC 8441) comes as it is;
/// `hyper::upgrade::on` gives its bytes.
pub trait Service: Send + Sync + 'static {
    /// Answers one. Dropped when the upper no longer wants it.
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;

    /// What serves an upper that takes our dial and not [`crate::PROTOCOL`]. None: it is dialled again and again.
    fn otherwise(&self) -> Option<Arc<dyn Otherwise>> {
        None
    }
}

/// What serves an upper that takes our dial and not [`crate::PROTOCOL`].
pub trait Otherwise: Send + Sync + 'static {
    /// What its links are, in the API.
    fn carrier(&self) -> &'static str;
    /// Serves it on what follows its 101, until it ends or `stop`. The error, a sentence, says why it is lost.
    fn serve(&self, conn: Conn, stop: CancellationToken) -> BoxFuture<'static, Result<(), String>>;
}

/// What is said then (RFC 6455 7.4.1).
const GOING: u16 = 1001;
const SHUTTING_DOWN: &str = "this node is shutting down";
/// How long what the upper asked for may take to finish once this node ends; all of a drain has 10 s.
const FINISH: Duration = Duration::from_secs(5);

/// Serves until the link ends; the error is a sentence. `stop` ends it: the upper is told not to ask any more (GOAWAY), and
/// what is running has a few seconds to finish.
pub(crate) async fn serve(
    conn: Conn,
    service: Arc<dyn Service>,
    shared: Arc<Shared>,
    stop: &CancellationToken,
) -> Result<(), String> {
    shared.part_with(stop.clone(), GOING, SHUTTING_DOWN);
    let served = Served { remote: Remote(conn.remote()), news: News::of(&shared), service, shared: shared.clone() };
    let lent = Arc::new(Mutex::new(Carrier::new(conn, Role::Client, shared.clone())));
    loop {
        tokio::select! {
            woken = handle::keep(&lent) => match woken? {
                Woken::Bytes => {}
                Woken::Rested => continue,
                Woken::End => return Ok(()),
            },
            () = stop.cancelled(), if shared.was_closed().is_none() => {
                shared.close(GOING, SHUTTING_DOWN);
                continue;
            }
        }
        // In a box: between two requests it takes up nothing.
        Box::pin(answer(&lent, &served, stop)).await?;
        if !lock(&lent).is_at_rest() || !lock(&lent).has_rested() {
            return Ok(());
        }
    }
}

struct Served {
    remote: Remote,
    news: News,
    service: Arc<dyn Service>,
    shared: Arc<Shared>,
}

/// HTTP/2 until the upper lets it rest, or the link ends.
async fn answer(lent: &Lent, served: &Served, stop: &CancellationToken) -> Result<(), String> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_frame_size(LARGEST_FRAME)
        .max_header_list_size(HEAD)
        .max_concurrent_streams(STREAMS)
        // An upper whose callers leave all at once is no attacker, and neither is what comes late of their uploads.
        .max_pending_accept_reset_streams(STREAMS as usize)
        .max_local_error_reset_streams(None)
        .enable_connect_protocol();
    let Served { remote, news, service, shared } = served;
    let answer = hyper::service::service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(*remote);
        request.extensions_mut().insert(news.clone());
        let (answer, shared) = (service.call(request.map(body)), shared.clone());
        async move { Ok::<_, Infallible>(answer.await.map(|body| Cut::new(body, shared))) }
    });
    let (handle, _back) = Handle::of(lent);
    let connection = builder.serve_connection(TokioIo::new(handle), answer);
    tokio::pin!(connection);
    let ended = tokio::select! {
        // What was asked ends with the node, and so may the connection in the same moment.
        biased;
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let finished = timeout(FINISH, &mut connection).await;
            shared.close(GOING, SHUTTING_DOWN);
            match finished {
                Ok(ended) => ended,
                Err(_) => connection.await,
            }
        }
        ended = &mut connection => ended,
    };
    ended.map_err(|error| explain(&error))
}

/// The innermost cause, which is the carrier's own words where it has some.
pub(crate) fn explain(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    // HTTP/2 errors wrap an I/O error without naming it their source.
    let text = cause.to_string();
    if text == "connection error" || text.is_empty() { error.to_string() } else { text }
}
