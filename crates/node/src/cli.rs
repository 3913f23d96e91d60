//! The command line: what can be said on it. Doing it is `main`'s business.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;

use crate::config::{Cid, Config, LogFilter, LogFormat, Pin, ProxyUrl, PushUrl, Secret, UpperUrl};

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
    /// Dial an upper as a link would, a step at a time, and say what fails and what to do.
    Doctor(Doctor),
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

/// `culvert doctor`. The options are the keys of a row of `cascade.uppers`.
#[derive(Args, Debug)]
pub struct Doctor {
    /// The upper: ws://HOST:PORT or wss://HOST:PORT/CONTEXT.
    #[arg(value_name = "URL", value_parser = UpperUrl::parse)]
    pub url: UpperUrl,
    /// What is shown to it.
    #[arg(long, value_name = "T", value_parser = of_the_configuration::<Secret>)]
    pub token: Option<Secret>,
    /// Under which id; a made-up one otherwise. With it no link is made without --replace.
    #[arg(long, value_name = "ID", value_parser = |text: &str| Cid::parse(text))]
    pub cid: Option<Cid>,
    /// Make the link although a node that is linked under this id is replaced by it, until that one dials again.
    #[arg(long, requires = "cid")]
    pub replace: bool,
    /// PEM: an authority that may have signed its certificate, beside the public ones.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// SHA-256 of the key that it must have, in hex or base64; may be given several times.
    #[arg(long, value_name = "PIN", value_parser = of_the_configuration::<Pin>)]
    pub pin: Vec<Pin>,
    /// PEM: the certificate that is shown to it.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM: its private key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// The proxy on the way: http://HOST:3128 or socks5://HOST:1080.
    #[arg(long, value_name = "URL", value_parser = ProxyUrl::parse)]
    pub proxy: Option<ProxyUrl>,
}

/// A value as the configuration reads it.
fn of_the_configuration<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|fault| fault.to_string())
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
        let Command::Doctor(doctor) = said("doctor ws://h --token pw").unwrap() else { panic!("doctor") };
        assert!(doctor.cid.is_none() && !format!("{doctor:?}").contains("pw"), "{doctor:?}");
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
            ("camera http://h/a", "http: is not possible here"),
            ("camera rtmp://h/a --audio mp3", "aac, opus, pcma, none"),
            ("demo --port 70000", "70000"),
            ("doctor", "<URL>"),
            ("doctor rtmp://h", "begins with wss://"),
            ("doctor ws://h --replace", "--cid"),
            ("doctor ws://h --cid a/b", "a platform id is made of"),
            ("doctor wss://h --cert a", "--key"),
            ("doctor wss://h --pin 12", "64 hex digits or in base64"),
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
