//! `bench stall`: viewers that stop reading, beside viewers that read.
//!
//! When the server closes one of the former is seen by the number of its open files: the viewer itself, whose window is
//! shut, may never be told.

use std::io::{Write, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::args::{Protocol, ServerKind, StallArgs};
use crate::measure::{Case, Spread, Stage};
use crate::servers::{default_program, prepare};
use crate::viewers::{Crowd, Role};
use crate::{proc, report};

/// How often the server is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// From the last reading viewer's joining to the first that stalls.
const SETTLE: Duration = Duration::from_secs(2);
/// After the last stalled viewer is gone: whatever that does to the others is seen, too.
const AFTER: Duration = Duration::from_secs(2);

/// What stalled viewers did.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StallFigures {
    /// How they played.
    pub(crate) protocol: Protocol,
    /// Viewers that read.
    pub(crate) viewers: u32,
    /// Viewers that did not.
    pub(crate) stalled: u32,
    /// Tags that those that read did not get.
    pub(crate) missing_tags: u64,
    /// How far behind they were.
    pub(crate) behind_ms: Option<Spread>,
    /// The most that the server's memory grew, for each stalled viewer.
    pub(crate) rss_kib_per_stalled: f64,
    /// How many of the stalled the server closed.
    pub(crate) closed: u32,
    /// Seconds after the last had stalled, for the first and the last that was closed.
    pub(crate) closed_after_s: Option<(f64, f64)>,
    /// Readers that ended too early.
    pub(crate) errors: Vec<String>,
}

/// Measures and prints.
pub(crate) fn run(args: &StallArgs) -> Result<()> {
    let program = args.program.program.clone().map_or_else(default_program, Ok)?;
    prepare()?;
    let mut all = Vec::new();
    for &protocol in &args.protocols {
        eprintln!("measuring {}, {} viewers and {} stalled", protocol.name(), args.viewers, args.stalled);
        all.push(measure(protocol, args, &program)?);
    }
    let text = if args.json { report::json(&all)? } else { report::stall(&all) };
    stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn measure(protocol: Protocol, args: &StallArgs, program: &Path) -> Result<StallFigures> {
    let server = ServerKind::Culvert;
    let case = Case { round: 1, server, protocol, class: args.class, viewers: args.viewers, singles: false };
    let mut stage = Stage::set(case, program)?;
    measure_on(&mut stage, protocol, args).with_context(|| format!("the server's log ends:\n{}", stage.server.log()))
}

fn measure_on(stage: &mut Stage, protocol: Protocol, args: &StallArgs) -> Result<StallFigures> {
    let pid = stage.server.pid();
    let mut crowd = Crowd::new(stage.channel)?;
    crowd.join(args.viewers as usize, |_| Role::Probe)?;
    crowd.run_until(Instant::now() + SETTLE)?;
    crowd.mark();
    let (rss_kib, files) = (proc::rss_kib(pid)?, proc::open_files(pid)?);

    crowd.join(args.stalled as usize, |_| Role::Stall)?;
    let from = Instant::now();
    let (mut most_kib, mut closed, mut first, mut last) = (rss_kib, 0, None, None);
    while from.elapsed() < Duration::from_secs(u64::from(args.wait)) && closed < args.stalled as usize {
        crowd.run_until(Instant::now() + LOOK)?;
        most_kib = most_kib.max(proc::rss_kib(pid)?);
        let open = proc::open_files(pid)?.saturating_sub(files);
        let now_closed = (args.stalled as usize).saturating_sub(open);
        if now_closed > closed {
            (closed, last) = (now_closed, Some(from.elapsed().as_secs_f64()));
            first = first.or(last);
        }
    }
    crowd.run_until(Instant::now() + AFTER)?;
    stage.check()?;
    let seen = crowd.seen();
    Ok(StallFigures {
        protocol,
        viewers: args.viewers,
        stalled: args.stalled,
        missing_tags: seen.missing,
        behind_ms: Spread::of(seen.delays_micros),
        rss_kib_per_stalled: most_kib.saturating_sub(rss_kib) as f64 / f64::from(args.stalled),
        closed: u32::try_from(closed).unwrap_or(u32::MAX),
        closed_after_s: first.zip(last),
        errors: crowd.gone().iter().map(|(why, count)| format!("{count} viewers: {why}")).collect(),
    })
}
