//! `bench fanout`: the measurements that were asked for, one after another.

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::{Result, bail};

use crate::args::{Class, FanoutArgs, Protocol, ServerKind};
use crate::measure::{Case, Figures, measure};
use crate::report;
use crate::servers::{SPARE_FILES, default_program, prepare};

/// The numbers of viewers that a search for the limit goes through.
const STEPS: [u32; 14] =
    [1000, 2000, 4000, 6000, 8000, 10_000, 11_000, 12_000, 13_000, 14_000, 15_000, 16_000, 18_000, 19_800];

/// Measures and prints.
pub(crate) fn run(args: &FanoutArgs) -> Result<()> {
    let program = args.program.program.clone().map_or_else(default_program, Ok)?;
    let most = u32::try_from(prepare()?.saturating_sub(SPARE_FILES)).unwrap_or(u32::MAX);
    if args.viewers > most {
        bail!("a process may have {most} viewers here (ulimit -Hn, less {SPARE_FILES})");
    }
    let (mut all, mut failed) = (Vec::new(), 0);
    for case in (1..=args.rounds).flat_map(|round| cases(args, round)) {
        let done = if args.find_limit {
            find_limit(case, most, args, &program, &mut all)
        } else {
            one(case, args, &program).map(|figures| all.push(figures))
        };
        // One that fails must not take the others' figures with it.
        if let Err(error) = done {
            eprintln!("{} {}: {error:#}", case.server.name(), case.protocol.name());
            failed += 1;
        }
    }
    let text = if args.json { report::json(&all)? } else { report::fanout(&all) };
    stdout().write_all(text.as_bytes())?;
    if failed > 0 {
        bail!("{failed} measurements failed");
    }
    Ok(())
}

/// Every server with what it has of the protocols and classes.
fn cases(args: &FanoutArgs, round: u32) -> Vec<Case> {
    let mut cases = Vec::new();
    for &server in &args.servers {
        let (protocols, classes): (&[Protocol], &[Class]) = match server {
            ServerKind::Culvert => (&args.protocols, &args.class),
            ServerKind::NginxRtmp => (&[Protocol::Rtmp], &[Class::Shared]),
            ServerKind::Floor => (&[Protocol::Tcp], &args.class),
        };
        for &class in classes {
            cases.extend(protocols.iter().map(|&protocol| Case {
                round,
                server,
                protocol,
                class,
                viewers: args.viewers,
                singles: !args.find_limit,
            }));
        }
    }
    cases
}

fn find_limit(case: Case, most: u32, args: &FanoutArgs, program: &Path, all: &mut Vec<Figures>) -> Result<()> {
    let steps = STEPS.into_iter().filter(|step| (args.viewers + 1..=most).contains(step));
    for viewers in std::iter::once(args.viewers).chain(steps) {
        let figures = one(Case { viewers, ..case }, args, program)?;
        let served = figures.all_served();
        all.push(figures);
        if !served {
            break;
        }
    }
    Ok(())
}

fn one(case: Case, args: &FanoutArgs, program: &Path) -> Result<Figures> {
    eprintln!(
        "measuring {} {} {}, {} viewers",
        case.server.name(),
        case.protocol.name(),
        case.class.name(),
        case.viewers
    );
    let figures = measure(case, args, program)?;
    let behind = figures.behind_ms.map_or(0.0, |behind| behind.max);
    eprintln!(
        "  {:.4} ms of CPU per viewer and second, {} at full rate, at most {behind:.0} ms behind",
        figures.cpu_ms_per_viewer_second, figures.full_rate
    );
    Ok(figures)
}
