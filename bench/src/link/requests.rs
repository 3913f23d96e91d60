//! Parts `request` and `parallel`: HTTP through a link between two real nodes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::device;
use super::figures::{Asked, Report};
use super::nodes::{runtime, start};
use crate::args::Part;
use crate::client::Client;
use crate::measure::Spread;
use crate::proc;
use crate::servers::Server;

/// Before the figures count.
const WARM_UP: u32 = 200;
/// One after another.
const REQUESTS: u32 = 2000;
/// Clients with small requests, beside one that hangs and one that streams: 64 in all.
const SMALL: u64 = 62;
/// How long they go on.
const WINDOW: Duration = Duration::from_secs(10);
/// The long body.
const STREAM_BYTES: u64 = 1 << 30;
/// A small request that takes longer is lost.
const LOST: Duration = Duration::from_secs(10);
/// The upper's core; and those of the lower where the bench is busy, too.
const UPPER_CORE: &str = "0";
const LOWER_CORE: &str = "1";
const BOTH_CORES: &str = "0,1";

/// Part `request`.
pub(crate) fn one_by_one(program: &Path, report: &mut Report) -> Result<()> {
    let runtime = runtime()?;
    let upper = start(&runtime, program, UPPER_CORE, "upper", None, "")?;
    let lower = start(&runtime, program, LOWER_CORE, "edge1", Some(upper.address()), "")?;
    let times = |server: &Server, path: &'static str| runtime.block_on(timed(server.address(), path));
    let through = times(&upper, "/peer/edge1/healthz")?;
    let direct = times(&lower, "/healthz")?;
    report.spread(Part::Request, "through the link", Spread::of(through), [Some(Asked::Below(1.0)), None, None]);
    report.spread(Part::Request, "the same at the lower itself", Spread::of(direct), [None; 3]);
    Ok(())
}

/// Microseconds of each request.
async fn timed(server: SocketAddr, path: &str) -> Result<Vec<u32>> {
    let mut client = Client::connect(server).await?;
    let mut micros = Vec::new();
    for number in 0..WARM_UP + REQUESTS {
        let from = Instant::now();
        let (status, body) = client.get(path).await?;
        if (status, body.as_ref()) != (200, b"ok\n".as_slice()) {
            bail!("{path} answers {status}: {}", String::from_utf8_lossy(&body));
        }
        if number >= WARM_UP {
            micros.push(to_micros(from.elapsed()));
        }
    }
    Ok(micros)
}

fn to_micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// What the small requests came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Small {
    micros: Vec<u32>,
    lost: u64,
    crossed: u64,
    /// Of the first that was lost.
    why: Option<String>,
}

impl Small {
    /// Takes an answer to the request with this id.
    fn take(&mut self, id: u64, took: Duration, answer: Result<(u16, bytes::Bytes)>) {
        match answer {
            Ok((200, body)) if body.as_ref() == id.to_string().as_bytes() => self.micros.push(to_micros(took)),
            Ok((200, _)) => self.crossed += 1,
            Ok((status, body)) => self.lose(format!("status {status}: {}", String::from_utf8_lossy(&body))),
            Err(why) => self.lose(format!("{why:#}")),
        }
    }

    fn lose(&mut self, why: String) {
        self.lost += 1;
        self.why.get_or_insert(why);
    }

    fn add(&mut self, other: Small) {
        self.micros.extend(other.micros);
        self.lost += other.lost;
        self.crossed += other.crossed;
        self.why = self.why.take().or(other.why);
    }
}

/// Part `parallel`.
pub(crate) fn at_once(program: &Path, report: &mut Report) -> Result<()> {
    let runtime = runtime()?;
    let device = runtime.block_on(device::start())?;
    let upper = start(&runtime, program, UPPER_CORE, "upper", None, "")?;
    // The bench, with its clients and its device, has a core of its own to fight for.
    let more = format!("  allow: [\"* /**\"]\n  targets: {{dev: \"http://{device}\"}}\n");
    let lower = start(&runtime, program, BOTH_CORES, "edge1", Some(upper.address()), &more)?;
    let own = std::process::id();
    let cpu = || -> Result<[Duration; 3]> {
        Ok([proc::cpu_time(upper.pid())?, proc::cpu_time(lower.pid())?, proc::cpu_time(own)?])
    };
    let before = cpu()?;
    let (small, streamed, hung) = together(&runtime, upper.address())?;
    let after = cpu()?;
    report.judge(Part::Parallel, "small requests lost", small.lost as f64, "", Asked::AtMost(0.0));
    report.judge(Part::Parallel, "small requests crossed", small.crossed as f64, "", Asked::AtMost(0.0));
    report.add(Part::Parallel, "small requests answered", small.micros.len() as f64, "");
    let asked = [None, Some(Asked::Below(50.0)), None];
    report.spread(Part::Parallel, "a small request", Spread::of(small.micros), asked);
    report.add(Part::Parallel, "streamed beside them", streamed as f64 / STREAM_BYTES as f64, "GiB");
    for ((name, after), before) in ["upper's core", "lower's core", "bench's core"].into_iter().zip(after).zip(before) {
        let percent = 100.0 * after.saturating_sub(before).as_secs_f64() / WINDOW.as_secs_f64();
        report.add(Part::Parallel, name, percent, "%");
    }
    if let Some(why) = small.why {
        report.note(Part::Parallel, &format!("the first that was lost: {why}"));
    }
    if streamed < STREAM_BYTES {
        report.note(Part::Parallel, &format!("the long body of 1 GiB was not whole after {WINDOW:?}"));
    }
    report.note(Part::Parallel, &format!("the one that hangs {hung}"));
    Ok(())
}

/// All 64 for a while: the small ones, bytes of the long body, what became of the one that hangs.
fn together(runtime: &Runtime, upper: SocketAddr) -> Result<(Small, u64, String)> {
    runtime.block_on(async {
        let until = Instant::now() + WINDOW;
        let hanging = tokio::spawn(hang(upper, until));
        let streaming = tokio::spawn(stream(upper, until));
        let mut loops = JoinSet::new();
        for number in 0..SMALL {
            loops.spawn(echo(upper, number, until));
        }
        let mut small = Small::default();
        while let Some(done) = loops.join_next().await {
            small.add(done?.context("a client of small requests")?);
        }
        Ok((small, streaming.await?.context("the long body")?, hanging.await?))
    })
}

async fn echo(upper: SocketAddr, number: u64, until: Instant) -> Result<Small> {
    let (mut client, mut small, mut id) = (Client::connect(upper).await?, Small::default(), number << 32);
    while Instant::now() < until {
        let (path, from) = (format!("/peer/edge1/target/dev/echo?id={id}"), Instant::now());
        let answer = timeout(LOST, client.get(&path)).await;
        let broken = !matches!(answer, Ok(Ok(_)));
        small.take(id, from.elapsed(), answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {LOST:?}"))));
        if broken {
            client = Client::connect(upper).await?;
        }
        id += 1;
    }
    Ok(small)
}

/// Streams again and again; bytes that came.
async fn stream(upper: SocketAddr, until: Instant) -> Result<u64> {
    let (mut client, mut bytes) = (Client::connect(upper).await?, 0);
    let path = format!("/peer/edge1/target/dev/stream?bytes={STREAM_BYTES}");
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let before = bytes;
        match timeout(left, client.drain(&path, &mut bytes)).await {
            Ok(Ok(200)) if bytes - before == STREAM_BYTES => {}
            Ok(Ok(status)) => bail!("status {status} and {} of {STREAM_BYTES} bytes", bytes - before),
            Ok(Err(why)) => return Err(why),
            Err(_) => break,
        }
    }
    Ok(bytes)
}

/// Asks for what never comes.
async fn hang(upper: SocketAddr, until: Instant) -> String {
    let left = until.saturating_duration_since(Instant::now());
    let asked = async { Client::connect(upper).await?.get("/peer/edge1/target/dev/hang").await };
    match timeout(left, asked).await {
        Err(_) => "was still waiting at the end".to_owned(),
        Ok(Ok((status, _))) => format!("was answered {status}"),
        Ok(Err(why)) => format!("failed: {why:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_request_is_crossed_and_an_error_is_lost() {
        let (mut small, ms) = (Small::default(), Duration::from_millis(1));
        small.take(7, ms, Ok((200, "7".into())));
        small.take(7, ms, Ok((200, "8".into())));
        small.take(7, ms, Ok((200, "77".into())));
        let mut other = Small::default();
        other.take(9, ms, Ok((502, "no link".into())));
        other.take(9, ms, Err(anyhow::anyhow!("reset")));
        small.add(other);
        let why = Some("status 502: no link".to_owned());
        assert_eq!(small, Small { micros: vec![1000], lost: 2, crossed: 2, why });
    }
}
