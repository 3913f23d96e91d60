//! A device behind the lower: a web server that answers at once, for long, or never.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What bodies of many bytes are made of.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// The same piece again and again. Cloning a piece copies nothing.
#[derive(Clone, Debug)]
pub(crate) struct Repeated {
    piece: Bytes,
    left_bytes: u64,
}

impl Repeated {
    /// So many bytes.
    pub(crate) fn new(bytes: u64) -> Repeated {
        Repeated { piece: vec![0x5a; PIECE_BYTES].into(), left_bytes: bytes }
    }
}

impl hyper::body::Body for Repeated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(PIECE_BYTES);
        if bytes == 0 {
            return Poll::Ready(None);
        }
        self.left_bytes -= bytes as u64;
        Poll::Ready(Some(Ok(Frame::data(self.piece.slice(..bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

/// What is answered to a path with its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Hang,
    Stream { bytes: u64 },
    Echo { id: u64 },
    Nothing,
}

impl Wanted {
    fn parse(target: &str) -> Wanted {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let number = |name: &str| query.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        match path {
            "/hang" => Wanted::Hang,
            "/stream" => number("bytes").map_or(Wanted::Nothing, |bytes| Wanted::Stream { bytes }),
            "/echo" => number("id").map_or(Wanted::Nothing, |id| Wanted::Echo { id }),
            _ => Wanted::Nothing,
        }
    }
}

/// Starts it; where it listens. Spawns its tasks, which end with the runtime.
pub(crate) async fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).ok();
            // How a connection ends is seen by who asked.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), service_fn(answer)));
        }
    });
    Ok(address)
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    match Wanted::parse(target) {
        Wanted::Hang => std::future::pending().await,
        Wanted::Stream { bytes } => *response.body_mut() = Repeated::new(bytes).boxed(),
        Wanted::Echo { id } => *response.body_mut() = Full::new(id.to_string().into()).boxed(),
        Wanted::Nothing => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    #[tokio::test]
    async fn the_device_echoes_and_streams_and_hangs() {
        let mut client = Client::connect(start().await.unwrap()).await.unwrap();
        assert_eq!(client.get("/echo?id=71").await.unwrap(), (200, Bytes::from_static(b"71")));
        let mut bytes = 0;
        assert_eq!(client.drain("/stream?bytes=100000", &mut bytes).await.unwrap(), 200);
        assert_eq!(bytes, 100_000);
        assert_eq!(client.get("/stream").await.unwrap().0, 404);
        let hung = tokio::time::timeout(std::time::Duration::from_millis(50), client.get("/hang")).await;
        assert!(hung.is_err());
    }

    #[test]
    fn what_is_wanted_is_in_the_target() {
        assert_eq!(Wanted::parse("/hang"), Wanted::Hang);
        assert_eq!(Wanted::parse("/stream?bytes=9"), Wanted::Stream { bytes: 9 });
        assert_eq!(Wanted::parse("/echo?id=-9"), Wanted::Nothing);
        assert_eq!(Wanted::parse("/echo?identity=9"), Wanted::Nothing);
        assert_eq!(Wanted::parse("/"), Wanted::Nothing);
    }
}
