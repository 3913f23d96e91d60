//! Part `throughput`: one long body through a plain link, both ends in this process on one core, beside bare TCP.
//!
//! The link is that of the program: `keep` dials, its upgrade is answered here, `accept` goes on. Both ends share a thread
//! as they share the core, and so do those of the floor; once more, each end has a thread.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

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
/// The floor's reads.
const READ_BYTES: usize = 64 << 10;
/// How often each is measured: how two buffers lie within their pages decides over a fifth, and differs from link to link.
const TIMES: usize = 5;
/// Requests at once; there is one.
const REQUESTS: usize = 8;
/// How many bytes came, in the lower's answer.
const COUNTED: HeaderName = HeaderName::from_static("bench-counted");
const GIGA: u64 = 1_000_000_000;

/// One copy.
struct Copy {
    bytes: u64,
    cpu: Duration,
}

impl Copy {
    /// Times what `copying` does.
    async fn of(bytes: u64, copying: impl Future<Output = Result<u64>>) -> Result<Copy> {
        let cpu = own_cpu();
        let came = copying.await?;
        let copy = Copy { bytes, cpu: own_cpu().saturating_sub(cpu) };
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

/// How the floor writes.
#[derive(Clone, Copy)]
struct Floor {
    write_bytes: usize,
    /// Whether its sockets are set as those of links are.
    as_links: bool,
}

/// What the figures are compared with.
const FLOOR: Floor = Floor { write_bytes: 64 << 10, as_links: false };
/// What sockets can do that are set as a link's are at first, where each frame of a slow path is a write of its own.
const LINK_FLOOR: Floor = Floor { write_bytes: 16 << 10, as_links: true };

/// Measures.
pub(crate) fn run(gigabytes: u32, report: &mut Report) -> Result<()> {
    let bytes = u64::from(gigabytes) * GIGA;
    let bare = |floor| -> Result<Copy> { runtime()?.block_on(bare(floor, bytes)).context("bare TCP") };
    let linked = |way, ends| -> Result<Copy> { runtime()?.block_on(linked(bytes, way, ends)).context("a link") };
    let per = |copy: Copy| copy.gigabytes_per_core_second();
    let (mut floors, mut down, mut up) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TIMES {
        floors.push(per(bare(FLOOR)?));
        down.push(per(linked(Way::Down, Ends::Together)?));
        up.push(per(linked(Way::Up, Ends::Together)?));
    }
    let (down_apart, up_apart) = (linked(Way::Down, Ends::Apart)?, linked(Way::Up, Ends::Apart)?);
    let link_floor = bare(LINK_FLOOR)?;

    let (asked, unit) = (Some(Asked::AtLeast(3.0)), "GB/core s");
    for (what, values) in [("lower to upper", &down), ("upper to lower", &up), ("bare TCP", &floors)] {
        let values: Vec<String> = values.iter().map(|value| format!("{value:.2}")).collect();
        report.note(Part::Throughput, &format!("{what}, one after the other: {} {unit}", values.join(", ")));
    }
    let (floor, down, up) = (median(floors), median(down), median(up));
    for (what, value, asked) in [
        ("lower to upper, median of five", down, asked),
        ("upper to lower, median of five", up, asked),
        ("lower to upper, a thread for each end", per(down_apart), None),
        ("upper to lower, a thread for each end", per(up_apart), None),
        ("bare TCP, writes of 64 KiB, median of five", floor, None),
        ("bare TCP, writes of 16 KiB, sockets set as a link's", per(link_floor), None),
    ] {
        match asked {
            Some(asked) => report.judge(Part::Throughput, what, value, unit, asked),
            None => report.add(Part::Throughput, what, value, unit),
        }
    }
    report.add(Part::Throughput, "lower to upper / bare TCP", down / floor, "");
    report.add(Part::Throughput, "upper to lower / bare TCP", up / floor, "");
    Ok(())
}

/// Of an odd number of values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Writes until all are read at the other end.
async fn bare(floor: Floor, bytes: u64) -> Result<Copy> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let mut from = Conn::tcp(TcpStream::connect(address).await?, address);
    let (to, remote) = listener.accept().await?;
    let mut to = Conn::tcp(to, remote);
    if floor.as_links {
        from.set_link_options();
        to.set_link_options();
    } else {
        from.set_nodelay(true);
    }
    copy(&mut from, &mut to, floor.write_bytes, WARM_UP_BYTES).await?;
    Copy::of(bytes, copy(&mut from, &mut to, floor.write_bytes, bytes)).await
}

/// Bytes that came.
async fn copy(from: &mut Conn, to: &mut Conn, write_bytes: usize, bytes: u64) -> Result<u64> {
    let piece = vec![0x5a; write_bytes];
    let writing = async {
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(write_bytes);
            from.write_all(piece.get(..now).unwrap_or_default()).await?;
            left -= now as u64;
        }
        Ok::<_, std::io::Error>(())
    };
    let mut buffer = vec![0; READ_BYTES];
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
    let ((), came) = tokio::try_join!(writing, reading)?;
    Ok(came)
}

#[derive(Clone, Copy)]
enum Way {
    /// The answer is long.
    Down,
    /// The request is.
    Up,
}

/// Who runs them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// One thread, which looks after whichever can go on.
    Together,
    /// A thread each, on the same core, as two processes would have.
    Apart,
}

async fn linked(bytes: u64, way: Way, ends: Ends) -> Result<Copy> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (address, stop) = (listener.local_addr()?, CancellationToken::new());
    let _stopped = stop.clone().drop_guard();
    match ends {
        Ends::Together => drop(tokio::spawn(lower_end(address, stop))),
        Ends::Apart => {
            let runtime = runtime()?;
            thread::Builder::new().name("lower".into()).spawn(move || runtime.block_on(lower_end(address, stop)))?;
        }
    }
    let (link, driver) = upper_end(&listener).await?;
    tokio::spawn(driver);
    transfer(&link, WARM_UP_BYTES, way).await?;
    Copy::of(bytes, transfer(&link, bytes, way)).await
}

/// The link that a lower keeps.
async fn lower_end(upper: SocketAddr, stop: CancellationToken) {
    let url = UpperUrl { host: upper.ip().to_string(), port: upper.port(), secure: false, context: String::new() };
    let board = Arc::new(Board::new(&url));
    let upper = Upper { url, cid: "edge1".to_owned(), token: None, options: DialOptions::default() };
    keep(upper, Arc::new(Lower), board, stop).await;
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
    let Accepted { link, driver } = accept(conn, REQUESTS);
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
    fn call(&self, request: Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
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
        for (way, ends) in [(Way::Down, Ends::Together), (Way::Up, Ends::Together), (Way::Down, Ends::Apart)] {
            let copy = linked(1_000_001, way, ends).await.unwrap();
            assert!(copy.bytes == 1_000_001 && copy.gigabytes_per_core_second() > 0.0);
        }
        for floor in [FLOOR, LINK_FLOOR] {
            assert_eq!(bare(floor, 1_000_001).await.unwrap().bytes, 1_000_001);
        }
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![4.5, 1.5, 2.5]), 2.5);
    }

    #[tokio::test]
    async fn a_copy_that_lost_bytes_is_no_figure() {
        assert!(Copy::of(5, async { Ok(4) }).await.is_err());
    }
}
