//! Part `throughput`: one long body through a plain link, both ends in this process on one core, beside bare TCP.
//!
//! The link is that of the program: `keep` dials, its upgrade is answered here, `accept` goes on. Both ends share a thread,
//! as they share the core; the floor does the same with bare writes.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use culvert_link::{
    Accepted, Board, Body, Link, PROTOCOL, Service, Upper, UpperUrl, accept, accept_key, body, empty, keep,
};
use culvert_net::http1::Head;
use culvert_net::{Conn, DialOptions};
use http::header::HeaderName;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::device::Repeated;
use super::figures::{Asked, Report};
use super::nodes::runtime;
use crate::args::Part;

/// Before the figures count: windows, buffers and caches are what they will be.
const WARM_UP_BYTES: u64 = 256 << 20;
/// The floor's writes and reads.
const FLOOR_BYTES: usize = 64 << 10;
/// Requests at once; there is one.
const REQUESTS: usize = 8;
/// How many bytes came, in the lower's answer.
const COUNTED: HeaderName = HeaderName::from_static("bench-counted");
const GIGA: u64 = 1_000_000_000;

/// One copy.
struct Copy {
    bytes: u64,
    cpu: Duration,
    time: Duration,
}

impl Copy {
    /// Times what `copying` does.
    async fn of(bytes: u64, copying: impl Future<Output = Result<u64>>) -> Result<Copy> {
        let (from, cpu) = (Instant::now(), own_cpu());
        let came = copying.await?;
        let copy = Copy { bytes, cpu: own_cpu().saturating_sub(cpu), time: from.elapsed() };
        if came != bytes {
            bail!("{came} of {bytes} bytes came");
        }
        Ok(copy)
    }

    fn gigabytes_per_core_second(&self) -> f64 {
        self.bytes as f64 / GIGA as f64 / self.cpu.as_secs_f64()
    }
}

/// CPU time of this process.
fn own_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Measures.
pub(crate) fn run(gigabytes: u32, report: &mut Report) -> Result<()> {
    let bytes = u64::from(gigabytes) * GIGA;
    let floor = runtime()?.block_on(bare(bytes)).context("bare TCP")?;
    let down = runtime()?.block_on(linked(bytes, Way::Down)).context("from the lower")?;
    let up = runtime()?.block_on(linked(bytes, Way::Up)).context("to the lower")?;
    let floor_again = runtime()?.block_on(bare(bytes)).context("bare TCP")?;
    let asked = Asked::AtLeast(3.0);
    let per = Copy::gigabytes_per_core_second;
    report.judge(Part::Throughput, "lower to upper, both ends", per(&down), "GB/core s", asked);
    report.judge(Part::Throughput, "upper to lower, both ends", per(&up), "GB/core s", asked);
    report.add(Part::Throughput, "bare TCP, before", per(&floor), "GB/core s");
    report.add(Part::Throughput, "bare TCP, after", per(&floor_again), "GB/core s");
    let floors = Copy {
        bytes: floor.bytes + floor_again.bytes,
        cpu: floor.cpu + floor_again.cpu,
        time: floor.time + floor_again.time,
    };
    report.add(Part::Throughput, "lower to upper / bare TCP", per(&down) / per(&floors), "");
    report.add(Part::Throughput, "upper to lower / bare TCP", per(&up) / per(&floors), "");
    report.add(
        Part::Throughput,
        "lower to upper, by the clock",
        down.bytes as f64 / 1e9 / down.time.as_secs_f64(),
        "GB/s",
    );
    Ok(())
}

/// `FLOOR_BYTES` a write, until all are read at the other end.
async fn bare(bytes: u64) -> Result<Copy> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let mut from = TcpStream::connect(address).await?;
    from.set_nodelay(true)?;
    let (mut to, _) = listener.accept().await?;
    let mut buffer = vec![0; FLOOR_BYTES];
    for (bytes, counts) in [(WARM_UP_BYTES, false), (bytes, true)] {
        let piece = vec![0x5a; FLOOR_BYTES];
        let writing = tokio::spawn(async move {
            let mut left = bytes;
            while left > 0 {
                let now = usize::try_from(left).unwrap_or(usize::MAX).min(FLOOR_BYTES);
                from.write_all(piece.get(..now).unwrap_or_default()).await?;
                left -= now as u64;
            }
            Ok::<_, std::io::Error>(from)
        });
        let reading = async {
            let mut came = 0;
            while came < bytes {
                match to.read(&mut buffer).await? {
                    0 => break,
                    count => came += count as u64,
                }
            }
            Ok(came)
        };
        let copy = Copy::of(bytes, reading).await?;
        from = writing.await??;
        if counts {
            return Ok(copy);
        }
    }
    bail!("the second round counts")
}

#[derive(Clone, Copy)]
enum Way {
    /// The answer is long.
    Down,
    /// The request is.
    Up,
}

async fn linked(bytes: u64, way: Way) -> Result<Copy> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let lower = tokio::spawn(lower_end(listener.local_addr()?));
    let (link, driver) = upper_end(&listener).await?;
    let driver = tokio::spawn(driver);
    transfer(&link, WARM_UP_BYTES, way).await?;
    let copy = Copy::of(bytes, transfer(&link, bytes, way)).await;
    lower.abort();
    driver.abort();
    copy
}

/// The link that a lower keeps.
async fn lower_end(upper: SocketAddr) {
    let url = UpperUrl { host: upper.ip().to_string(), port: upper.port(), secure: false, context: String::new() };
    let board = Arc::new(Board::new(&url));
    let upper = Upper { url, cid: "edge1".to_owned(), token: None, options: DialOptions::default() };
    keep(upper, Arc::new(Lower), board, CancellationToken::new()).await;
}

/// Answers the dial as a node does, without asking who it is.
async fn upper_end(listener: &TcpListener) -> Result<(Link, impl Future<Output = String> + Send + 'static)> {
    let (tcp, remote) = listener.accept().await?;
    let mut conn = Conn::tcp(tcp, remote);
    let head = Head::peek(&mut conn).await?;
    let accepted = accept_key(head.header("sec-websocket-key").context("a dial without a key")?);
    conn.consume(head.bytes);
    let yes = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accepted}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
    );
    conn.write_all(yes.as_bytes()).await?;
    let Accepted { link, driver } = accept(conn, REQUESTS).await?;
    Ok((link, driver))
}

/// Bytes that came at the other end.
async fn transfer(link: &Link, bytes: u64, way: Way) -> Result<u64> {
    let (path, sent) = match way {
        Way::Down => (format!("/{bytes}"), empty()),
        Way::Up => ("/0".to_owned(), body(Repeated::new(bytes))),
    };
    let answer = link.request(Request::post(format!("http://edge1{path}")).body(sent)?).await?;
    let counted = answer.headers().get(COUNTED).and_then(|count| count.to_str().ok()?.parse().ok());
    let came = count(answer.into_body()).await;
    match way {
        Way::Down => Ok(came),
        Way::Up => counted.context("the lower did not count"),
    }
}

async fn count<B: hyper::body::Body<Data = Bytes> + Unpin>(mut body: B) -> u64 {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    bytes
}

/// Takes in what comes, and then gives as many bytes as the path says.
struct Lower;

impl Service for Lower {
    fn call(&self, request: Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async {
            let bytes = request.uri().path().trim_start_matches('/').parse().unwrap_or_default();
            let came = count(request.into_body()).await;
            let mut response = Response::new(body(Repeated::new(bytes)));
            response.headers_mut().insert(COUNTED, came.into());
            response
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_byte_comes_both_ways_and_over_bare_tcp() {
        for way in [Way::Down, Way::Up] {
            let copy = linked(1_000_001, way).await.unwrap();
            assert!(copy.bytes == 1_000_001 && copy.gigabytes_per_core_second() > 0.0);
        }
        assert_eq!(bare(1_000_001).await.unwrap().bytes, 1_000_001);
    }

    #[tokio::test]
    async fn a_copy_that_lost_bytes_is_no_figure() {
        assert!(Copy::of(5, async { Ok(4) }).await.is_err());
    }
}
