//! The load generator: what a live-video server costs under many viewers of one stream, what viewers that stop reading do
//! to it, and what the links of a cascade cost. `culvert bench` and `culvert-bench` are both [`run`].
//!
//! It measures from outside, by /proc and sockets, so that other servers can be measured in the same run. It does not
//! look at pictures and does not test correctness; that is `tests/`. Linux only.
#![forbid(unsafe_code)]

mod args;
mod client;
mod fanout;
mod floor;
mod hls;
mod link;
mod measure;
mod probe;
mod proc;
mod publisher;
mod receiver;
mod report;
mod rtsp;
mod servers;
mod stall;
mod stamp;
mod stream;
mod viewers;
mod whep;

pub use args::{
    BenchArgs, BenchCommand, Class, FanoutArgs, FloorArgs, HlsArgs, LinkArgs, Part, Player, ProgramArgs, Protocol,
    ServerKind, StallArgs, WhepArgs,
};

/// Does what the command line says and prints the figures.
///
/// Blocks for minutes, and pins the calling thread and those it starts to one core.
///
/// # Errors
/// A server that cannot be started or does not serve; a machine that is too small.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    match args.command {
        BenchCommand::Fanout(args) => fanout::run(&args),
        BenchCommand::Stall(args) => stall::run(&args),
        BenchCommand::Hls(args) => hls::run(&args),
        BenchCommand::Whep(args) => whep::run(&args),
        BenchCommand::Link(args) => link::run(&args),
        BenchCommand::Floor(args) => floor::run(&args),
    }
}
