//! Parts `idle` and `storm`: an upper with many links on which nothing happens, and what happens when it is killed.

use std::net::SocketAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::figures::{Asked, Report};
use super::lowers::Lowers;
use super::nodes::{LINKED, config, runtime};
use crate::args::Part;
use crate::client::until_metric;
use crate::measure::Spread;
use crate::proc;
use crate::servers::{SERVER_CORE, SPARE_FILES, Server, free_address};

/// The node's start is over, and what it needs without links is touched.
const BEFORE: Duration = Duration::from_secs(2);
/// So many links are dialled in a second at the beginning: quick, and nobody waits.
const DIALS_PER_SECOND: f64 = 1500.0;
/// From the last link to the first figure: what was asked at the beginning is over, and the links are at rest.
const SETTLE: Duration = Duration::from_secs(60);
/// In which CPU is counted: three heartbeats of each end.
const WINDOW: Duration = Duration::from_secs(30);
/// How long links may take to be there or to come back.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often they are counted.
const LOOK: Duration = Duration::from_millis(5);
/// For the upper's own list to say the same as the lowers.
const LIST_PATIENCE: Duration = Duration::from_secs(10);
/// A node gives links 70 % of its descriptors.
const LINKS_SHARE: f64 = 0.7;

/// Measures `idle`, `storm` or both with the same links.
pub(crate) fn run(program: &Path, links: u32, files: u64, parts: &[Part], report: &mut Report) -> Result<()> {
    let most = (files as f64 * LINKS_SHARE).min(files.saturating_sub(SPARE_FILES) as f64);
    if f64::from(links) > most {
        bail!("a node has at most {most} links here (70 % of ulimit -Hn)");
    }
    // A thread of its own for the lowers: this one counts.
    let lowers_runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let address = free_address()?;
    let upper = start(program, address)?;
    sleep(BEFORE);
    let base = (proc::rss_kib(upper.pid())?, proc::anonymous_kib(upper.pid())?);
    let spread = Duration::from_secs_f64(f64::from(links) / DIALS_PER_SECOND);
    let lowers = Lowers::dial(lowers_runtime.handle(), address, links, spread);
    let done = until_linked(&lowers, &upper, links).and_then(|()| {
        if parts.contains(&Part::Idle) {
            idle(&upper, links, base, report)?;
        }
        if parts.contains(&Part::Storm) {
            return storm(upper, program, address, &lowers, links, report);
        }
        Ok(())
    });
    lowers_runtime.shutdown_background();
    done
}

fn start(program: &Path, address: SocketAddr) -> Result<Server> {
    Server::node(program, &SERVER_CORE.to_string(), address, &config("upper", None, ""))
}

/// Waits until all have their 101, and the upper itself says so.
fn until_linked(lowers: &Lowers, upper: &Server, links: u32) -> Result<()> {
    let from = Instant::now();
    while lowers.linked() < links as usize {
        if from.elapsed() > PATIENCE {
            let seen = lowers.seen();
            bail!("{} of {links} links after {PATIENCE:?}; what failed: {:?}", seen.linked, seen.failed);
        }
        sleep(LOOK);
    }
    runtime()?
        .block_on(until_metric(upper.address(), LINKED, f64::from(links), LIST_PATIENCE))
        .with_context(|| format!("the upper's log ends:\n{}", upper.log()))?;
    Ok(())
}

fn idle(upper: &Server, links: u32, base: (u64, u64), report: &mut Report) -> Result<()> {
    let (pid, own) = (upper.pid(), std::process::id());
    sleep(SETTLE);
    let per_link = |now: u64, before: u64| now.saturating_sub(before) as f64 / f64::from(links);
    let rss = per_link(proc::rss_kib(pid)?, base.0);
    let anonymous = per_link(proc::anonymous_kib(pid)?, base.1);
    let (from, cpu, own_cpu) = (Instant::now(), proc::cpu_time(pid)?, proc::cpu_time(own)?);
    sleep(WINDOW);
    let window = from.elapsed().as_secs_f64();
    let percent = |now: Duration, before: Duration| 100.0 * now.saturating_sub(before).as_secs_f64() / window;
    let (cpu, own_cpu) = (percent(proc::cpu_time(pid)?, cpu), percent(proc::cpu_time(own)?, own_cpu));
    report.add(Part::Idle, "links", f64::from(links), "");
    report.judge(Part::Idle, "RSS a link", rss, "KiB", Asked::AtMost(16.0));
    report.add(Part::Idle, "of it anonymous", anonymous, "KiB");
    report.add(Part::Idle, "RSS without links", base.0 as f64, "KiB");
    report.judge(Part::Idle, "upper's core", cpu, "%", Asked::Below(5.0));
    report.add(Part::Idle, "lowers' core, all together", own_cpu, "%");
    Ok(())
}

fn storm(
    upper: Server,
    program: &Path,
    address: SocketAddr,
    lowers: &Lowers,
    links: u32,
    report: &mut Report,
) -> Result<()> {
    lowers.mark();
    let killed = Instant::now();
    upper.kill()?;
    let upper = start(program, address)?;
    let (down, listening) = (killed.elapsed(), Instant::now());
    let own_cpu = proc::cpu_time(std::process::id())?;
    until_linked(lowers, &upper, links)?;
    let back = listening.elapsed();
    let (cpu, own_cpu) = (proc::cpu_time(upper.pid())?, proc::cpu_time(std::process::id())?.saturating_sub(own_cpu));
    let seen = lowers.seen();
    report.add(Part::Storm, "links", f64::from(links), "");
    report.add(Part::Storm, "from the kill to the port", down.as_secs_f64(), "s");
    report.judge(Part::Storm, "from the port to all links", back.as_secs_f64(), "s", Asked::AtMost(30.0));
    let asked = [None, Some(Asked::Below(1000.0)), None];
    report.spread(Part::Storm, "dial to 101", Spread::of(seen.accept_micros), asked);
    report.add(Part::Storm, "upper's CPU", cpu.as_secs_f64(), "s");
    report.add(Part::Storm, "lowers' CPU, all together", own_cpu.as_secs_f64(), "s");
    for (why, count) in seen.failed {
        report.note(Part::Storm, &format!("{count} times: {why}"));
    }
    Ok(())
}
