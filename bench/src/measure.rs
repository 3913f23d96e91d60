//! One measurement of fan-out from beginning to end: one server, one protocol, one class, N viewers.
//!
//! 1. The server starts and the stream with it; 2. twenty viewers come one by one, for the time to the first key frame;
//! 3. base figures; 4. all join; 5. warm-up; 6. the window, which begins half-way between two key frames, so that a
//!    whole number of seconds has the same bytes wherever it lies; 7. all leave.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::args::{Class, FanoutArgs, Protocol, ServerKind};
use crate::proc;
use crate::publisher::Publisher;
use crate::servers::Server;
use crate::stream::bytes_per_second;
use crate::viewers::{Channel, Crowd, Role};

/// Single viewers for the time to the first key frame.
const SINGLES: u64 = 20;
/// The nth of them comes that many times n behind the one before, modulo a second: all moments between two key frames
/// are tried, also at servers whose viewers leave right behind one.
const SINGLES_APART_MS: u64 = 137;
/// The stream's age before anybody watches, so that a cache can have a key frame.
const STREAM_AGE: Duration = Duration::from_millis(1500);
/// From the last viewer's joining to the window.
const WARM_UP: Duration = Duration::from_secs(3);
/// A key frame comes each second.
const KEY_FRAME_PATIENCE: Duration = Duration::from_secs(5);
/// Half-way between two key frames.
const MID_GOP: Duration = Duration::from_millis(500);
/// What a viewer may be behind at the window's end and still be said to have had all: the longest batch that issue 2 allows.
const GRACE: Duration = Duration::from_millis(300);
/// Of the stream's bytes in the window, what a viewer at full rate has had.
const FULL_RATE: f64 = 0.99;

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Which time this is measured.
    pub(crate) round: u32,
    /// The server.
    pub(crate) server: ServerKind,
    /// How its viewers play.
    pub(crate) protocol: Protocol,
    /// What they ask for.
    pub(crate) class: Class,
    /// How many.
    pub(crate) viewers: u32,
    /// Whether the time to the first key frame is taken by single viewers before.
    pub(crate) singles: bool,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Which time this was measured.
    pub(crate) round: u32,
    /// The server.
    pub(crate) server: ServerKind,
    /// How its viewers played.
    pub(crate) protocol: Protocol,
    /// None for a server that has none.
    pub(crate) class: Option<Class>,
    /// Viewers that were asked to join.
    pub(crate) viewers: u32,
    /// The window.
    pub(crate) seconds: f64,
    /// The server's CPU time, in milliseconds per viewer and second.
    pub(crate) cpu_ms_per_viewer_second: f64,
    /// The same, in per cent of its core.
    pub(crate) cpu_percent: f64,
    /// With the stream and without viewers.
    pub(crate) base_cpu_percent: f64,
    /// Likewise.
    pub(crate) base_rss_kib: u64,
    /// At the window's end.
    pub(crate) rss_kib: u64,
    /// What viewers added.
    pub(crate) rss_kib_per_viewer: f64,
    /// From the request to the first key frame, for single viewers that came while the stream ran.
    pub(crate) first_key_ms: Option<Spread>,
    /// The same for the probes, which joined with all the others.
    pub(crate) first_key_joining_ms: Option<Spread>,
    /// From the publisher's socket to a probe.
    pub(crate) behind_ms: Option<Spread>,
    /// Viewers that had at least 99 % of the stream's bytes.
    pub(crate) full_rate: u32,
    /// Tags that probes missed.
    pub(crate) missing_tags: u64,
    /// By all viewers in the window.
    pub(crate) received_bytes: u64,
    /// The generator's own CPU, in per cent of its core. Near 100 it is the generator that is measured.
    pub(crate) generator_cpu_percent: f64,
    /// The longest that the publisher was late with a tag; more than a few milliseconds: generator or server too busy.
    pub(crate) publisher_late_ms: Option<f64>,
    /// Why viewers ended too early, and how many.
    pub(crate) errors: Vec<String>,
}

/// Percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Half of them are below.
    pub p50: f64,
    /// All but one in a hundred are below.
    pub p99: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of microseconds.
    pub(crate) fn of(mut micros: Vec<u32>) -> Option<Spread> {
        micros.sort_unstable();
        let at = |part: f64| {
            let index = ((micros.len() as f64 * part).ceil() as usize).saturating_sub(1);
            micros.get(index).map(|micros| f64::from(*micros) / 1000.0)
        };
        Some(Spread { p50: at(0.5)?, p99: at(0.99)?, max: at(1.0)? })
    }
}

impl Figures {
    /// Whether every viewer had everything, and nothing came more than a second late.
    pub(crate) fn all_served(&self) -> bool {
        let in_time = self.behind_ms.is_some_and(|behind| behind.max <= 1000.0);
        self.full_rate == self.viewers && self.missing_tags == 0 && in_time
    }
}

/// Server, publisher and the way in, for one measurement.
pub(crate) struct Stage {
    /// The server.
    pub(crate) server: Server,
    /// None for the floor, which makes the stream itself.
    pub(crate) publisher: Option<Publisher>,
    /// For its viewers.
    pub(crate) channel: Channel,
}

impl Stage {
    /// Starts both and gives the stream some time.
    pub(crate) fn set(case: Case, program: &std::path::Path) -> Result<Stage> {
        let server = Server::start(case.server, case.class, program)?;
        let publisher = match case.server {
            ServerKind::Culvert | ServerKind::NginxRtmp => Some(
                Publisher::start(server.address())
                    .with_context(|| format!("the server's log ends:\n{}", server.log()))?,
            ),
            ServerKind::Floor => None,
        };
        sleep(STREAM_AGE);
        let channel = Channel { server: server.address(), protocol: case.protocol, class: case.class };
        Ok(Stage { server, publisher, channel })
    }

    /// # Errors
    /// The publisher has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.publisher.as_mut().map_or(Ok(()), Publisher::check)
    }
}

/// Measures.
pub(crate) fn measure(case: Case, args: &FanoutArgs, program: &std::path::Path) -> Result<Figures> {
    let mut stage = Stage::set(case, program)?;
    measure_on(&mut stage, case, args).with_context(|| format!("the server's log ends:\n{}", stage.server.log()))
}

fn measure_on(stage: &mut Stage, case: Case, args: &FanoutArgs) -> Result<Figures> {
    let (pid, own) = (stage.server.pid(), std::process::id());
    let first_key = if case.singles { single_viewers(stage)? } else { Vec::new() };

    let (base_from, base_cpu) = (Instant::now(), proc::cpu_time(pid)?);
    sleep(Duration::from_secs(1));
    let base_cpu_percent = percent(proc::cpu_time(pid)?.saturating_sub(base_cpu), base_from.elapsed());
    let base_rss_kib = proc::rss_kib(pid)?;

    let mut crowd = Crowd::new(stage.channel)?;
    let every = (case.viewers / args.probes).max(1) as usize;
    crowd.join(case.viewers as usize, |index| if index % every == 0 { Role::Probe } else { Role::Count })?;
    crowd.run_until(Instant::now() + WARM_UP)?;
    crowd.run_until_key_frame(KEY_FRAME_PATIENCE)?;
    crowd.run_until(Instant::now() + MID_GOP)?;

    crowd.mark();
    stage.publisher.as_ref().map(Publisher::take_lateness);
    let (from, cpu, own_cpu) = (Instant::now(), proc::cpu_time(pid)?, proc::cpu_time(own)?);
    crowd.run_until(from + Duration::from_secs(u64::from(args.seconds)))?;
    let window = from.elapsed();
    let (cpu, own_cpu) = (proc::cpu_time(pid)?.saturating_sub(cpu), proc::cpu_time(own)?.saturating_sub(own_cpu));
    let rss_kib = proc::rss_kib(pid)?;
    let (seen, received_bytes) = (crowd.seen(), crowd.bytes().sum());
    let publisher_late_ms = stage.publisher.as_ref().map(|publisher| publisher.take_lateness().as_secs_f64() * 1000.0);
    crowd.run_until(Instant::now() + GRACE)?;
    stage.check()?;

    let enough = bytes_per_second(case.protocol.overhead_bytes()) * f64::from(args.seconds) * FULL_RATE;
    let full_rate = crowd.bytes().filter(|bytes| *bytes as f64 >= enough).count();
    let viewer_seconds = f64::from(case.viewers) * window.as_secs_f64();
    Ok(Figures {
        round: case.round,
        server: case.server,
        protocol: case.protocol,
        class: (case.server != ServerKind::NginxRtmp).then_some(case.class),
        viewers: case.viewers,
        seconds: window.as_secs_f64(),
        cpu_ms_per_viewer_second: cpu.as_secs_f64() * 1000.0 / viewer_seconds,
        cpu_percent: percent(cpu, window),
        base_cpu_percent,
        base_rss_kib,
        rss_kib,
        rss_kib_per_viewer: rss_kib.saturating_sub(base_rss_kib) as f64 / f64::from(case.viewers),
        first_key_ms: Spread::of(first_key),
        first_key_joining_ms: Spread::of(seen.first_key_micros),
        behind_ms: Spread::of(seen.delays_micros),
        full_rate: u32::try_from(full_rate).unwrap_or(u32::MAX),
        missing_tags: seen.missing,
        received_bytes,
        generator_cpu_percent: percent(own_cpu, window),
        publisher_late_ms,
        errors: crowd.gone().iter().map(|(why, count)| format!("{count} viewers: {why}")).collect(),
    })
}

/// Viewers that come one by one while the stream runs; microseconds from the request to the first key frame.
fn single_viewers(stage: &Stage) -> Result<Vec<u32>> {
    let mut micros = Vec::new();
    for n in 0..SINGLES {
        let mut crowd = Crowd::new(stage.channel)?;
        crowd.join(1, |_| Role::Probe)?;
        if crowd.seen().first_key_micros.is_empty() {
            crowd.run_until_key_frame(KEY_FRAME_PATIENCE)?;
        }
        micros.extend(crowd.seen().first_key_micros);
        drop(crowd);
        sleep(Duration::from_millis(n * SINGLES_APART_MS % 1000));
    }
    // One that stands out is told by its place: the first viewer finds nothing made, the others do.
    let each: Vec<String> = micros.iter().map(|micros| format!("{:.2}", f64::from(*micros) / 1000.0)).collect();
    eprintln!("  first key frames of single viewers, ms: {}", each.join(" "));
    Ok(micros)
}

pub(crate) fn percent(cpu: Duration, of: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / of.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let spread = Spread::of((1..=200).rev().map(|n| n * 1000).collect()).unwrap();
        assert_eq!(spread, Spread { p50: 100.0, p99: 198.0, max: 200.0 });
        assert_eq!(Spread::of(vec![7_500]).unwrap(), Spread { p50: 7.5, p99: 7.5, max: 7.5 });
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
