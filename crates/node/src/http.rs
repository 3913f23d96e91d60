//! HTTP/1.1 and HTTP/2 by hyper: everything but live media on a bare socket.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use culvert_hub::Remote;
use culvert_net::Conn;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Most requests at once on one HTTP/2 connection: a wall of 64 players, twice.
const STREAMS: u32 = 128;

/// Serves a router on connections that the door hands over. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    router: Router,
    builder: Builder<TokioExecutor>,
    stop: CancellationToken,
}

impl Http {
    /// Serves `router`; connections drain once `stop` is cancelled. `header_limit` is how long a request's head may
    /// take.
    pub fn new(router: Router, header_limit: Duration, stop: CancellationToken) -> Http {
        let mut builder = Builder::new(TokioExecutor::new());
        // Without a timer hyper's own limits do nothing (DESIGN section 3).
        builder.http1().timer(TokioTimer::new()).header_read_timeout(header_limit).max_headers(64);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS).max_header_list_size(32 << 10);
        builder.http2().keep_alive_interval(Duration::from_secs(20));
        Http { router, builder, stop }
    }

    /// Serves one connection to its end.
    pub async fn serve(&self, conn: Conn) {
        let remote = Remote { address: conn.remote(), secure: conn.is_secure(), upper: None };
        let router = self.router.clone();
        let sender = remote.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(sender.clone());
            let router = router.clone();
            async move { Ok::<_, Infallible>(router.oneshot(request.map(Body::new)).await.unwrap_or_else(|e| match e {})) }
        });
        let connection = self.builder.serve_connection_with_upgrades(TokioIo::new(conn), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(remote = %remote.address, %error, "HTTP connection ended");
        }
    }
}
