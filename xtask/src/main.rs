//! Chores of the house, run as `cargo run -p xtask -- CHORE`. Today there is one: `arrows` (see [`arrows`]).
//!
//! It has no part in the program, and nothing depends on it.

mod arrows;

use std::env;
use std::io::{self, Write};
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo run -p xtask -- arrows    fails on a dependency that points the wrong way";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let chore = arguments.next();
    let done = match (chore.as_deref(), arguments.next()) {
        (Some("arrows"), None) => check_arrows(),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why);
            ExitCode::FAILURE
        }
    }
}

/// Asks cargo for the workspace and judges its edges; `Err` is the text for people.
fn check_arrows() -> Result<(), String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .map_err(|e| format!("cargo metadata did not start: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let edges = arrows::edges(&output.stdout).map_err(|e| e.to_string())?;
    let bad: Vec<_> = edges.iter().filter_map(arrows::judge).collect();
    if bad.is_empty() {
        say(&format!("arrows: {} edges between our packages, all as drawn", edges.len()));
        return Ok(());
    }
    let lines: Vec<_> = bad.iter().map(ToString::to_string).collect();
    Err(format!("{}\narrows: {} of {} edges point the wrong way", lines.join("\n"), bad.len(), edges.len()))
}

/// A line on standard output. A reader that has gone is no reason to fail.
fn say(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}
