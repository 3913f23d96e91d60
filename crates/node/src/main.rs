//! `culvert`: reads its command line and does what it says. Exit status: 0 ended as asked, 1 failed at run time, 2 bad
//! usage or configuration.

use std::process::ExitCode;

use culvert_node::{cli, commands};

/// Small allocations by the thousand, from many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(cli) => commands::run(cli.command),
        Err(usage) => usage.exit(),
    }
}
