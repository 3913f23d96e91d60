//! The command line: what can be said on it. Doing it is `main`'s business.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Config, LogFilter, LogFormat, PushUrl};

/// One node of a live-video platform.
#[derive(Parser, Debug)]
#[command(name = "culvert", version, about, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Serve.
    Run(Run),
    /// Read the configuration and print what is in force, secrets masked; exit status 2 where it has a fault.
    Check(Check),
    /// Publish the built-in test clip in real time.
    Camera(Camera),
    /// Serve with a test camera, and say what to open; Ctrl-C ends it.
    Demo(Demo),
    /// Measure a server under load.
    Bench(culvert_bench::BenchArgs),
}

/// `culvert run`.
#[derive(Args, Debug, Default)]
pub struct Run {
    /// The configuration; culvert.yaml where there is one, else built-in defaults.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What goes before the file and the environment.
    #[command(flatten)]
    pub serve: Serve,
}

/// `culvert check`.
#[derive(Args, Debug)]
pub struct Check {
    /// The configuration; culvert.yaml where there is one, else built-in defaults.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `culvert camera`.
#[derive(Args, Debug)]
pub struct Camera {
    /// Where to publish: rtmp://HOST:PORT/APP/NAME, rtmps://.., ws://HOST:PORT/erwscascade/wspush/NAME?cid=ID or wss://..
    #[arg(value_name = "URL", value_parser = PushUrl::parse)]
    pub url: PushUrl,
    /// H.265 instead of H.264.
    #[arg(long)]
    pub h265: bool,
    /// The sound.
    #[arg(long, value_enum, default_value_t = CameraAudio::Aac)]
    pub audio: CameraAudio,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The sound of the test clip.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum CameraAudio {
    /// AAC-LC.
    Aac,
    /// Opus.
    Opus,
    /// G.711 A-law.
    Pcma,
    /// No sound.
    None,
}

/// `culvert demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// The port to serve on.
    #[arg(long, value_name = "N", default_value_t = 8450, conflicts_with = "listen")]
    pub port: u16,
    /// What goes before the file and the environment.
    #[command(flatten)]
    pub serve: Serve,
}

/// What every command that serves has; it goes before the file and the environment.
#[derive(Args, Debug, Default)]
pub struct Serve {
    /// The address and port to serve on, such as 0.0.0.0:8450.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where the node keeps its id, its admin token and other lasting things.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What every command that logs has.
#[derive(Args, Debug, Default)]
pub struct LogArgs {
    /// What is logged, such as info, debug or info,culvert_rtmp=debug; CULVERT_LOG says the same.
    #[arg(long, value_name = "FILTER", value_parser = LogFilter::parse)]
    pub log: Option<LogFilter>,
    /// The form of log lines.
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
}

impl Serve {
    /// Puts what the command line says over the configuration. `environment_filter` is the value of `CULVERT_LOG`,
    /// which goes before the configuration and behind `--log`.
    pub fn apply(&self, config: &mut Config, environment_filter: Option<&str>) -> Result<(), String> {
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(data_dir) = &self.data_dir {
            config.node.data_dir = data_dir.clone();
        }
        self.log.apply(config, environment_filter)
    }
}

impl LogArgs {
    /// The log's part of [`Serve::apply`].
    pub fn apply(&self, config: &mut Config, environment_filter: Option<&str>) -> Result<(), String> {
        match (&self.log, environment_filter) {
            (Some(filter), _) => config.log.filter = filter.clone(),
            (None, Some(text)) => {
                config.log.filter = LogFilter::parse(text).map_err(|why| format!("CULVERT_LOG: {why}"))?;
            }
            (None, None) => {}
        }
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
        Ok(())
    }
}

/// Reads a command line; the error prints itself and knows its exit status (2, or 0 for `--help`).
pub fn parse<A: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = A>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(arguments)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn said(line: &str) -> Result<Command, clap::Error> {
        parse(std::iter::once("culvert").chain(line.split_whitespace())).map(|cli| cli.command)
    }

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_a_file_and_what_goes_before_it() {
        let line = "run -c a.yaml --listen 127.0.0.1:9 --log debug --data-dir d --log-format json";
        let Command::Run(run) = said(line).unwrap() else { panic!("run") };
        assert_eq!(run.config, Some("a.yaml".into()));
        let mut config = Config::default();
        run.serve.apply(&mut config, Some("warn")).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:9");
        assert_eq!(config.node.data_dir, PathBuf::from("d"));
        assert_eq!((config.log.filter.as_str(), config.log.format), ("debug", LogFormat::Json));

        let mut config = Config::default();
        Serve::default().apply(&mut config, None).unwrap();
        assert_eq!(config, Config::default());
        Serve::default().apply(&mut config, Some("warn")).unwrap();
        assert_eq!(config.log.filter.as_str(), "warn");
        let fault = Serve::default().apply(&mut config, Some("a=b=c")).unwrap_err();
        assert!(fault.starts_with("CULVERT_LOG: \"a=b=c\" is no log filter"), "{fault}");
    }

    #[test]
    fn defaults_are_those_of_the_surface() {
        let Command::Demo(demo) = said("demo").unwrap() else { panic!("demo") };
        assert_eq!(demo.port, 8450);
        let Command::Camera(camera) = said("camera rtmp://h/live/a --h265 --audio opus").unwrap() else {
            panic!("camera")
        };
        assert_eq!((camera.h265, camera.audio), (true, CameraAudio::Opus));
        let Command::Camera(camera) = said("camera rtmps://u:pw@h/live/a").unwrap() else { panic!("camera") };
        assert_eq!((camera.h265, camera.audio), (false, CameraAudio::Aac));
        assert!(!format!("{camera:?}").contains("pw"));
        assert!(matches!(said("check -c a.yaml").unwrap(), Command::Check(check) if check.config.is_some()));
        assert!(matches!(said("check").unwrap(), Command::Check(check) if check.config.is_none()));
    }

    #[test]
    fn bad_usage_ends_with_2_and_says_what_is_wrong() {
        for (line, what) in [
            ("run --listen nowhere", "nowhere"),
            ("run --log a=b=c", "no log filter"),
            ("run --port 1", "--port"),
            ("camera", "<URL>"),
            ("camera rtsp://h/a", "rtsp:// is not in this version"),
            ("camera rtmp://h/a --audio mp3", "aac, opus, pcma, none"),
            ("demo --port 70000", "70000"),
            ("demo --port 1 --listen 127.0.0.1:1", "cannot be used with"),
            ("serve", "serve"),
            ("", "Usage"),
        ] {
            let error = said(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(what), "{line}: {error}");
        }
        assert_eq!(said("--version").unwrap_err().kind(), ErrorKind::DisplayVersion);
        assert_eq!(said("--help").unwrap_err().exit_code(), 0);
    }
}
