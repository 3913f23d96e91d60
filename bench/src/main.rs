//! `culvert-bench`: `culvert bench` as a program of its own, so that measuring a build does not need that very build.

use clap::Parser;
use culvert_bench::{BenchArgs, run};

/// Measures live-video servers under load.
#[derive(Parser)]
#[command(name = "culvert-bench", version, arg_required_else_help = true)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    run(Line::parse().bench)
}
