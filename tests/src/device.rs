//! A device behind a lower node.

use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;

/// A server of a site's own network.
pub async fn device(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it listens");
    tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves until the test ends") });
    address
}
