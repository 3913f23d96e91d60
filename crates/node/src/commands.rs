//! What each command does.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use culvert_live::{Push, PushNews};
use culvert_media::Cid;
use culvert_net::{DialOptions, tls};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Node;
use crate::camera::{AudioChoice, Camera, Clip, VideoChoice};
use crate::cli::{self, CameraAudio, Command};
use crate::config::{self, Config};
use crate::demo::Demo;
use crate::doctor::{self, Case, Verdict};
use crate::logs;

/// How long a step of the camera's connection may take.
const CAMERA_SILENCE: Duration = Duration::from_secs(10);
/// The platform that the camera says it is where a URL of a WebSocket does not say another.
const CAMERA_CID: &str = "camera";

/// A failure with the exit status that it means.
struct Failed(u8, anyhow::Error);

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Failed {
        Failed(1, error)
    }
}

/// Does it, and says how it ended: 0 as asked, 1 failed at run time, 2 bad configuration.
pub fn run(command: Command) -> ExitCode {
    let done = match command {
        Command::Run(run) => serve(&run.config, &run.serve, None),
        Command::Check(check) => check_config(&check.config),
        Command::Camera(camera) => film(&camera),
        Command::Demo(demo) => serve(&None, &demo.serve, Some(demo.port)),
        Command::Doctor(doctor) => examine(&doctor),
        Command::Bench(bench) => culvert_bench::run(bench).map_err(Failed::from),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(status, error)) => {
            // Standard error may be closed; there is nobody else to tell.
            writeln!(std::io::stderr(), "culvert: {error:#}").ok();
            ExitCode::from(status)
        }
    }
}

fn check_config(file: &Option<std::path::PathBuf>) -> Result<(), Failed> {
    let config = read(file)?;
    crate::node::check_tls(&config).map_err(|why| Failed(2, why))?;
    // As comments, so that what is printed is a file of ours to begin with.
    let comments: String = config.of_m7s.iter().map(|warning| format!("# {warning}\n")).collect();
    print(&(comments + &config.masked_yaml()))
}

fn print(text: &str) -> Result<(), Failed> {
    let mut out = std::io::stdout();
    let written = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
    Ok(written.context("cannot write to standard output")?)
}

fn read(file: &Option<std::path::PathBuf>) -> Result<Config, Failed> {
    let default = Path::new(config::DEFAULT_FILE);
    let file = file.as_deref().or_else(|| default.exists().then_some(default));
    let variables = config::environment().map_err(|fault| Failed(2, fault.into()))?;
    config::load(file, variables).map_err(|fault| Failed(2, fault.into()))
}

fn begin(config: &Config) -> Result<Runtime, Failed> {
    // With thousands of peers memory is many small pieces with large buffers that are hardly used between them: a page of 2 MiB
    // would make all of it resident. Measured with 10,000 idle links: 54 KiB each with them, 32 KiB without.
    #[cfg(target_os = "linux")]
    rustix::thread::disable_transparent_huge_pages(true).ok();
    logs::init(config.log.filter.as_str(), config.log.format)?;
    for warning in &config.of_m7s {
        tracing::warn!("the configuration file is one of m7s: {warning}");
    }
    // A viewer is a descriptor; what is more than the hard limit cannot be had.
    rlimit::increase_nofile_limit(u64::MAX).ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    Ok(runtime.context("cannot start threads")?)
}

/// Serves until told to end. With a demo's port, the test camera is there too.
fn serve(file: &Option<std::path::PathBuf>, over: &cli::Serve, demo: Option<u16>) -> Result<(), Failed> {
    // A demo is the same for everybody: it reads no file.
    let mut config = match demo {
        Some(_) => Config::default(),
        None => read(file)?,
    };
    if let Some(port) = demo {
        config.listen = ([127, 0, 0, 1], port).into();
        config.node.data_dir = std::env::temp_dir().join(format!("culvert-demo-{port}"));
    }
    let filter = std::env::var("CULVERT_LOG").ok();
    over.apply(&mut config, filter.as_deref()).map_err(|why| Failed(2, anyhow::anyhow!(why)))?;
    let runtime = begin(&config)?;
    let served = runtime.block_on(async {
        // Before anybody can see that the node is there: what is not listened for ends a process at once.
        let mut signals = Signals::new()?;
        if demo.is_some() {
            let demo = Demo::start(&config)?;
            demo.show()?;
            let reload = || tracing::info!("a demo reads no configuration");
            signals.until_told(reload, demo.drain()).await;
            return Ok(());
        }
        let node = Node::start(&config)?;
        if node.identity.first_start {
            greet(&node)?;
        }
        signals.until_told(|| reload(&node, file, over), node.drain()).await;
        anyhow::Ok(())
    });
    // A second signal, or a drain that took too long: nothing waits for tasks that are left.
    runtime.shutdown_background();
    Ok(served?)
}

fn greet(node: &Node) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "Console:  {}", node.url("http", "/console/"))?;
    writeln!(out, "Admin token (kept in {}):", node.identity.admin_token_file.display())?;
    writeln!(out, "          {}", node.identity.admin_token.reveal())?;
    out.flush()?;
    Ok(())
}

/// What is sent to this process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Serves until the first SIGTERM or Ctrl-C, then drains; a second one ends at once. SIGHUP reads the configuration
    /// again.
    async fn until_told(&mut self, reload: impl Fn(), drain: impl Future<Output = ()>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => reload(),
            }
        }
        tracing::info!("draining; a second signal ends at once");
        tokio::select! {
            () = drain => {}
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn reload(node: &Node, file: &Option<std::path::PathBuf>, over: &cli::Serve) {
    match read(file) {
        Ok(mut config) => match over.apply(&mut config, None) {
            Ok(()) => node.reload(&config),
            Err(why) => tracing::error!(%why, "configuration not taken over"),
        },
        Err(Failed(_, error)) => tracing::error!(error = %format!("{error:#}"), "configuration not taken over"),
    }
}

/// Examines the way to an upper.
fn examine(asked: &cli::Doctor) -> Result<(), Failed> {
    let case = Case::new(asked).map_err(|why| Failed(2, why))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start threads")?;
    let verdict = runtime.block_on(doctor::examine(&case, &mut std::io::stdout()));
    runtime.shutdown_background();
    match verdict.context("cannot write to standard output")? {
        Verdict::Linked => print("A link can be made."),
        Verdict::NotTried => {
            let why =
                "nothing failed, but without --replace no link was tried, so it is not known whether one can be made";
            Err(Failed(1, anyhow::anyhow!(why)))
        }
        Verdict::Failed(step) => Err(Failed(1, anyhow::anyhow!("no link can be made: see {step} above"))),
    }
}

/// Publishes the clip until the server ends it or somebody does here.
fn film(camera: &cli::Camera) -> Result<(), Failed> {
    let mut config = Config::default();
    let filter = std::env::var("CULVERT_LOG").ok();
    camera.log.apply(&mut config, filter.as_deref()).map_err(|why| Failed(2, anyhow::anyhow!(why)))?;
    let runtime = begin(&config)?;
    let audio = match camera.audio {
        CameraAudio::Aac => AudioChoice::Aac,
        CameraAudio::Opus => AudioChoice::Opus,
        CameraAudio::Pcma => AudioChoice::Pcma,
        CameraAudio::None => AudioChoice::None,
    };
    let video = if camera.h265 { VideoChoice::H265 } else { VideoChoice::H264 };
    let mut feed = Camera::new(&Clip::load(video, audio));
    let ended = runtime.block_on(async {
        let url = camera.url.url();
        let masked = logs::mask_url(url.as_str());
        let trust = tls::client(None)?;
        let on_air = || tracing::info!(url = %masked, "the camera is on air; Ctrl-C ends it");
        let sending = async {
            if matches!(url.scheme(), "ws" | "wss") {
                let cid = Cid::parse(CAMERA_CID).expect("a constant in the grammar");
                let dial = DialOptions { tls: Some(trust), ..DialOptions::default() };
                let (silence, before_tags) = (CAMERA_SILENCE, &culvert_m7s::push::SLOT);
                let push = Push { url, cid: &cid, dial: &dial, token: None, silence, on_demand: false, before_tags };
                let news = |news| match news {
                    PushNews::Begun { .. } => on_air(),
                    PushNews::Resting | PushNews::Resumed => {}
                };
                return culvert_live::push(&push, &mut feed, news).await.map_err(anyhow::Error::from);
            }
            if matches!(url.scheme(), "rtsp" | "rtsps") {
                return culvert_rtsp::push(url, &trust, CAMERA_SILENCE, &mut feed, on_air).await.map_err(Into::into);
            }
            culvert_rtmp::push(url.as_str(), &trust, CAMERA_SILENCE, &mut feed, on_air).await.map_err(Into::into)
        };
        tokio::select! {
            ended = sending => ended.with_context(|| format!("publishing to {masked}")),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    });
    runtime.shutdown_background();
    Ok(ended?)
}
