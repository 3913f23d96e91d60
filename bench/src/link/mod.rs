//! `bench link`: what the links of a cascade cost, and what goes through them.
//!
//! The nodes are real ones, processes of `culvert run`; only the many lowers of `idle` and `storm`, and both ends of
//! `throughput`, live in this process, by the same crate that the program uses. Targets are those of issue 3.

mod device;
mod figures;
mod idle;
mod lowers;
mod nodes;
mod relay;
mod requests;
mod throughput;

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::{Result, bail};

use self::figures::Report;
use crate::args::{LinkArgs, Part};
use crate::report;
use crate::servers::{default_program, prepare};

/// Measures and prints.
pub(crate) fn run(args: &LinkArgs) -> Result<()> {
    let program = args.program.program.clone().map_or_else(default_program, Ok)?;
    let files = prepare()?;
    let mut report = Report::default();
    let mut failed = 0;
    for step in steps(&args.parts) {
        eprintln!("measuring {}", step.iter().map(|part| part.name()).collect::<Vec<_>>().join(" and "));
        // One that fails must not take the others' figures with it.
        if let Err(error) = measure(step, args, files, &program, &mut report) {
            eprintln!("{}: {error:#}", step.iter().map(|part| part.name()).collect::<Vec<_>>().join(" and "));
            failed += 1;
        }
    }
    let text = if args.json { report::json(&report)? } else { report.text() };
    stdout().write_all(text.as_bytes())?;
    if failed > 0 {
        bail!("{failed} measurements failed");
    }
    Ok(())
}

/// The parts that were asked for; idle and storm go together, for they have the same links.
fn steps(asked: &[Part]) -> Vec<&'static [Part]> {
    let mut steps: Vec<&[Part]> = Vec::new();
    match (asked.contains(&Part::Idle), asked.contains(&Part::Storm)) {
        (true, true) => steps.push(&[Part::Idle, Part::Storm]),
        (true, false) => steps.push(&[Part::Idle]),
        (false, true) => steps.push(&[Part::Storm]),
        (false, false) => {}
    }
    let rest: [&[Part]; 4] = [&[Part::Request], &[Part::Parallel], &[Part::Throughput], &[Part::Relay]];
    steps.extend(rest.into_iter().filter(|step| step.iter().all(|part| asked.contains(part))));
    steps
}

fn measure(step: &[Part], args: &LinkArgs, files: u64, program: &Path, report: &mut Report) -> Result<()> {
    match step {
        [Part::Request] => requests::one_by_one(program, report),
        [Part::Parallel] => requests::at_once(program, report),
        [Part::Throughput] => throughput::run(args.gigabytes, report),
        [Part::Relay] => relay::run(program, args.tries, report),
        _ => idle::run(program, args.links, files, step, report),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_storm_share_their_links_and_the_rest_goes_one_by_one() {
        let all = [Part::Relay, Part::Storm, Part::Request, Part::Idle, Part::Throughput, Part::Parallel];
        let steps_of_all = steps(&all);
        assert_eq!(steps_of_all.len(), 5);
        assert_eq!(steps_of_all.concat().len(), all.len());
        assert_eq!(steps_of_all.first(), Some(&&[Part::Idle, Part::Storm][..]));
        assert_eq!(steps(&[Part::Storm]), [&[Part::Storm]]);
        assert_eq!(steps(&[Part::Relay, Part::Relay]), [&[Part::Relay]]);
    }
}
