//! Requests by the library: bodies that come and go in pieces, and HTTP/2.

use std::net::SocketAddr;

use culvert_link::{Body, body};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::wait::soon;

/// One connection, one request by HTTP/1.1; `uri` is a path. Dropping the answer closes the connection.
pub async fn ask(address: SocketAddr, mut request: Request<Body>) -> Response<Incoming> {
    let socket = TcpStream::connect(address).await.expect("the node listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.expect("a connection");
    tokio::spawn(connection.with_upgrades());
    let host = address.to_string().try_into().expect("an address is a header's value");
    request.headers_mut().entry(http::header::HOST).or_insert(host);
    let what = format!("{} {}", request.method(), request.uri());
    soon(&what, sender.send_request(request)).await.unwrap_or_else(|why| panic!("{what}: {why:?}"))
}

/// A connection by HTTP/2 with prior knowledge (RFC 9113 3.3); requests have a whole URL.
pub async fn http2(address: SocketAddr) -> http2::SendRequest<Body> {
    let socket = TcpStream::connect(address).await.expect("the node listens");
    let made = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (sender, connection) = made.expect("a connection");
    tokio::spawn(connection);
    sender
}

/// `GET` of a path.
pub fn get(path: &str) -> Request<Body> {
    Request::get(path).body(culvert_link::empty()).expect("a test's own path")
}

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    body(Full::new(bytes.into()))
}

/// All of an answer's body.
pub async fn whole(answer: Response<Incoming>) -> Bytes {
    soon("the rest of an answer", answer.into_body().collect()).await.expect("a whole answer").to_bytes()
}

/// The next piece of a body; None at its end.
pub async fn piece(body: &mut Incoming) -> Option<Bytes> {
    loop {
        let frame = soon("the next piece of an answer", body.frame()).await?.expect("a whole answer");
        if let Ok(data) = frame.into_data() {
            return Some(data);
        }
    }
}
