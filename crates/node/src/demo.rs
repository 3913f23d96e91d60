//! `culvert demo`: an upper, a lower behind it with a camera, in one process. What runs on two machines in real life, with
//! nothing left out: the lower dials the upper's port, and its video crosses the link only while somebody watches.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use culvert_hub::{Identity, Source};
use culvert_media::{Cid, StreamName};

use crate::Node;
use crate::camera::{AudioChoice, Camera, Clip, VideoChoice};
use crate::config::{self, Config};

/// What the lower is called at the upper.
const LOWER: &str = "edge1";
const STREAM: &str = "demo/cam1";

/// The two nodes; both serve for as long as this lives.
pub(crate) struct Demo {
    pub(crate) upper: Node,
    pub(crate) lower: Node,
}

impl Demo {
    /// Starts both; the upper as `config` says, the lower on the next port. Spawns the camera.
    pub(crate) fn start(config: &Config) -> anyhow::Result<Demo> {
        let data = &config.node.data_dir;
        let mut above = config.clone();
        above.node.data_dir = data.join("upper");
        above.node.cid = Some(cid("upper"));
        let upper = Node::start(&above)?;
        let port = match upper.address.port() {
            u16::MAX => anyhow::bail!("the demo needs two ports, and there is none after {}", u16::MAX),
            port => port + 1,
        };
        let mut below = lower(&upper, &data.join(LOWER))?;
        below.log = config.log.clone();
        below.listen = (upper.address.ip(), port).into();
        let lower = Node::start(&below)?;
        let name = StreamName::parse(STREAM).expect("a constant name in the grammar");
        let source = Source { protocol: "camera", remote: lower.address };
        let publisher = lower.hub.publish(&name, source, Identity::anonymous())?;
        let clip = Clip::load(VideoChoice::H264, AudioChoice::Aac);
        tokio::spawn(Camera::new(&clip).run(publisher));
        Ok(Demo { upper, lower })
    }

    /// Says what to open.
    pub(crate) fn show(&self) -> anyhow::Result<()> {
        let (upper, lower) = (&self.upper, &self.lower);
        let stream = format!("{STREAM}-{LOWER}");
        let mut out = std::io::stdout();
        writeln!(out, "Two nodes are running: an upper, and the lower {LOWER} that dialled it and has a test camera.")?;
        writeln!(out, "Open in a browser:")?;
        writeln!(out, "  {}", upper.url("http", "/console/"))?;
        writeln!(out, "or play the lower's camera from the upper with ffplay, VLC or mpv:")?;
        writeln!(out, "  {}", upper.url("http", &format!("/play/{stream}.flv")))?;
        writeln!(out, "  {}", upper.url("rtmp", &format!("/{stream}")))?;
        writeln!(out, "  {}", upper.url("rtsp", &format!("/{stream}")))?;
        writeln!(out, "Its video crosses the link only while somebody watches. Ask the upper what it knows:")?;
        writeln!(out, "  curl {}", upper.url("http", "/api/v1/peers"))?;
        writeln!(out, "and the lower, through the link, what it is doing:")?;
        writeln!(out, "  curl {}", upper.url("http", &format!("/peer/{LOWER}/api/v1/sessions")))?;
        writeln!(out, "Publish a stream of your own at the lower; it appears at the upper as live/mine-{LOWER}:")?;
        writeln!(out, "  ffmpeg -re -i FILE -c copy -f flv {}", lower.url("rtmp", "/live/mine"))?;
        writeln!(out, "Ctrl-C ends both.")?;
        out.flush()?;
        Ok(())
    }

    /// Drains both, the lower first: it says good-bye to the upper.
    pub(crate) async fn drain(&self) {
        self.lower.drain().await;
        self.upper.drain().await;
    }
}

fn cid(text: &str) -> Cid {
    Cid::parse(text).expect("a constant id in the grammar")
}

/// The configuration that a person would write for it.
fn lower(upper: &Node, data: &Path) -> anyhow::Result<Config> {
    let url = upper.url("ws", "");
    let text = format!("node: {{cid: {LOWER}, name: Gate house}}\ncascade: {{uppers: [{{url: {url:?}}}]}}\n");
    let mut config = config::parse(&text, Path::new("demo.yaml")).context("the demo's own configuration")?;
    config.node.data_dir = data.to_path_buf();
    Ok(config)
}
