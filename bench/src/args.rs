//! The command line of `culvert bench`, for the node's own to embed.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

/// `culvert bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What can be measured.
#[derive(Subcommand, Debug)]
pub enum BenchCommand {
    /// What a server costs under N viewers of one stream.
    Fanout(FanoutArgs),
    /// What viewers that stop reading cost the others and the server.
    Stall(StallArgs),
    /// What viewers by HLS cost.
    Hls(HlsArgs),
    /// What viewers by WebRTC cost.
    Whep(WhepArgs),
    /// What links between nodes cost, and what goes through them.
    Link(LinkArgs),
    /// The bare loop of sends that servers are compared with; started by fanout.
    #[command(hide = true)]
    Floor(FloorArgs),
}

/// `culvert bench fanout`.
#[derive(Args, Debug)]
pub struct FanoutArgs {
    /// Viewers at once.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub viewers: u32,
    /// How long to measure, once all have joined and 3 s have passed.
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// The servers, measured one after another.
    #[arg(
        long,
        visible_alias = "server",
        value_enum,
        value_delimiter = ',',
        default_value = "culvert,nginx-rtmp,floor"
    )]
    pub servers: Vec<ServerKind>,
    /// Of the servers that have several.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "flv,ws,rtmp")]
    pub protocols: Vec<Protocol>,
    /// Of the servers that have several.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "shared")]
    pub class: Vec<Class>,
    /// How often to go through all of them. Ratios are those of a round; what the machine does meanwhile moves both sides.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How many of the viewers parse what they receive; the others count bytes.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub probes: u32,
    /// Raise the number of viewers until some viewer is behind; --viewers is where to begin.
    #[arg(long)]
    pub find_limit: bool,
    /// JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// The program to be measured.
    #[command(flatten)]
    pub program: ProgramArgs,
}

/// `culvert bench stall`.
#[derive(Args, Debug)]
pub struct StallArgs {
    /// Viewers that read, each of them checked tag by tag.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub viewers: u32,
    /// Viewers that stop reading once they have begun.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=9000))]
    pub stalled: u32,
    /// How they play.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "flv,ws,rtmp")]
    pub protocols: Vec<Protocol>,
    /// How they are served.
    #[arg(long, value_enum, default_value_t = Class::Shared)]
    pub class: Class,
    /// How long to wait for the server to close those that do not read.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub wait: u32,
    /// JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// The program to be measured.
    #[command(flatten)]
    pub program: ProgramArgs,
}

/// `culvert bench hls`.
#[derive(Args, Debug)]
pub struct HlsArgs {
    /// Viewers at once.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub viewers: u32,
    /// How long to measure, once all have joined and 4 s have passed.
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// What they play with.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "low-latency,plain")]
    pub players: Vec<Player>,
    /// JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// The program to be measured.
    #[command(flatten)]
    pub program: ProgramArgs,
}

/// `culvert bench whep`.
#[derive(Args, Debug)]
pub struct WhepArgs {
    /// Viewers at once.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub viewers: u32,
    /// How long to measure, once all have joined and 4 s have passed.
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// What the pictures have, in Mbit/s.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=50))]
    pub megabits: u32,
    /// Pictures a second: the fewer, the more datagrams go at once.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=120))]
    pub fps: u32,
    /// Pictures alone; else there is AAC, of which the server makes Opus: 50 datagrams a second, each by itself.
    #[arg(long)]
    pub no_sound: bool,
    /// JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// The program to be measured.
    #[command(flatten)]
    pub program: ProgramArgs,
}

/// `culvert bench link`.
#[derive(Args, Debug)]
pub struct LinkArgs {
    /// What of it, in the order of this list.
    #[arg(
        long = "part",
        visible_alias = "parts",
        value_enum,
        value_delimiter = ',',
        default_value = "idle,storm,request,parallel,throughput,relay"
    )]
    pub parts: Vec<Part>,
    /// Links at once, of idle and storm.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub links: u32,
    /// Bytes of each body, of throughput.
    #[arg(long, value_name = "GB", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub gigabytes: u32,
    /// First viewers, of relay.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub tries: u32,
    /// JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// The program to be measured.
    #[command(flatten)]
    pub program: ProgramArgs,
}

/// The program to be measured.
#[derive(Args, Debug)]
pub struct ProgramArgs {
    /// culvert itself; this very program if it is that, else target/release/culvert.
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
}

/// The floor's process.
#[derive(Args, Debug)]
pub struct FloorArgs {
    /// Where it listens, on 127.0.0.1.
    #[arg(long)]
    pub port: u16,
    /// With TCP_NODELAY (low) or without.
    #[arg(long, value_enum)]
    pub class: Class,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    /// This project's program.
    Culvert,
    /// Debian's nginx with libnginx-mod-rtmp.
    NginxRtmp,
    /// A bare loop of sends on plain TCP connections.
    Floor,
}

/// moof of one sample and the head of its mdat, as `formats/fmp4` writes them.
pub(crate) const FRAGMENT_HEAD_BYTES: usize = 104 + 8;

/// How a viewer plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP-FLV.
    Flv,
    /// FLV in WebSocket messages.
    Ws,
    /// Fragmented MP4 in WebSocket messages.
    WsMp4,
    /// RTMP.
    Rtmp,
    /// RTSP, with RTP on the connection.
    Rtsp,
    /// FLV on a TCP connection, without a request: the floor's.
    #[value(skip)]
    Tcp,
}

/// What a viewer of HLS plays with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Player {
    /// One that asks for parts, and for playlists that wait for them.
    LowLatency,
    /// One that asks for segments.
    Plain,
}

impl Player {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Player::LowLatency => "low-latency",
            Player::Plain => "plain",
        }
    }
}

/// How a viewer is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Batches; of the floor, a send per tag with Nagle's algorithm.
    Shared,
    /// TCP_NODELAY, each tag at once.
    Low,
}

/// What of a link is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Memory and CPU of an upper whose links are idle.
    Idle,
    /// The upper is killed and comes back; so do all links.
    Storm,
    /// One small request after another.
    Request,
    /// 64 requests at once: one hangs, one streams, the others are small.
    Parallel,
    /// One long body, both ends on one core, beside bare TCP.
    Throughput,
    /// Video on demand over one level and over two.
    Relay,
}

impl Part {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Idle => "idle",
            Part::Storm => "storm",
            Part::Request => "request",
            Part::Parallel => "parallel",
            Part::Throughput => "throughput",
            Part::Relay => "relay",
        }
    }
}

impl ServerKind {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            ServerKind::Culvert => "culvert",
            ServerKind::NginxRtmp => "nginx-rtmp",
            ServerKind::Floor => "floor",
        }
    }
}

impl Protocol {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Flv => "flv",
            Protocol::Ws => "ws",
            Protocol::WsMp4 => "ws-mp4",
            Protocol::Rtmp => "rtmp",
            Protocol::Rtsp => "rtsp",
            Protocol::Tcp => "tcp",
        }
    }

    /// Bytes around a tag's body, at the least: FLV's 15, and 4 for a WebSocket message of more than 125 bytes; for
    /// RTMP a chunk header of type 1, for RTSP four bytes and RTP's twelve.
    pub const fn overhead_bytes(self) -> usize {
        match self {
            Protocol::Flv | Protocol::Tcp => 15,
            Protocol::Ws => 19,
            // moof and the head of mdat, without the FLV header within the body: at most 5 bytes.
            Protocol::WsMp4 => 4 + FRAGMENT_HEAD_BYTES - 5,
            Protocol::Rtmp => 8,
            // Without the FLV header within the body: 5 bytes of a picture's, 2 of a sound's.
            Protocol::Rtsp => 11,
        }
    }
}

impl Class {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Shared => "shared",
            Class::Low => "low",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    #[test]
    fn lists_are_given_with_commas() {
        Line::command().debug_assert();
        let line = ["bench", "fanout", "--server", "culvert,floor", "--protocols", "ws,rtmp", "--class", "shared,low"];
        let BenchCommand::Fanout(args) = Line::try_parse_from(line).map_err(|e| e.to_string()).unwrap().bench.command
        else {
            panic!("fanout")
        };
        assert_eq!(args.servers, [ServerKind::Culvert, ServerKind::Floor]);
        assert_eq!(args.protocols, [Protocol::Ws, Protocol::Rtmp]);
        assert_eq!((args.class.as_slice(), args.viewers, args.seconds), (&[Class::Shared, Class::Low][..], 1000, 15));
        assert!(Line::try_parse_from(["bench", "fanout", "--viewers", "0"]).is_err());
        let line = ["bench", "link", "--part", "storm,relay", "--links", "500"];
        let BenchCommand::Link(args) = Line::try_parse_from(line).map_err(|e| e.to_string()).unwrap().bench.command
        else {
            panic!("link")
        };
        assert_eq!((args.parts.as_slice(), args.links), (&[Part::Storm, Part::Relay][..], 500));
        assert!(Line::try_parse_from(["bench", "link", "--part", "idle,none"]).is_err());
        assert!(Line::try_parse_from(["bench", "fanout", "--protocols", "tcp"]).is_err());
    }
}
