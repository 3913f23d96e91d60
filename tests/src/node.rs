//! A node of its own for a test: a free port, a data folder that goes with it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use culvert_hub::StreamInfo;
use culvert_media::StreamName;
use culvert_node::{Node, config};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::http::{Answer, request};
use crate::wait::until;

/// A node that serves on loopback until the test ends.
pub struct TestNode {
    /// The node itself.
    pub node: Node,
    dir: TempDir,
}

impl TestNode {
    /// With these sections, on a port that is free. Must be called within a runtime; the node's tasks end with it.
    pub fn start(yaml: &str) -> TestNode {
        TestNode::at(0, yaml)
    }

    /// The same on this port.
    pub fn at(port: u16, yaml: &str) -> TestNode {
        TestNode::with(port, "", yaml)
    }

    /// The same under this platform id; port 0 is one that is free.
    pub fn named(cid: &str, port: u16, yaml: &str) -> TestNode {
        TestNode::with(port, &format!("cid: {cid}, "), yaml)
    }

    /// The same under this id and with a name for people.
    pub fn called(cid: &str, name: &str, yaml: &str) -> TestNode {
        TestNode::with(0, &format!("cid: {cid}, name: {name:?}, "), yaml)
    }

    /// The same at IPv6's loopback address, and nowhere else.
    pub fn on_ipv6(yaml: &str) -> TestNode {
        TestNode::in_dir(tempfile::tempdir().expect("a temporary folder"), "\"[::1]:0\"", "", yaml)
    }

    fn with(port: u16, who: &str, yaml: &str) -> TestNode {
        let listen = format!("127.0.0.1:{port}");
        TestNode::in_dir(tempfile::tempdir().expect("a temporary folder"), &listen, who, yaml)
    }

    /// Ends it and starts it again on another port, with what it kept in its folder.
    pub async fn again(self, yaml: &str) -> TestNode {
        self.node.drain().await;
        TestNode::in_dir(self.dir, "127.0.0.1:0", "", yaml)
    }

    fn in_dir(dir: TempDir, listen: &str, who: &str, yaml: &str) -> TestNode {
        let own = format!("listen: {listen}\nnode: {{{who}data_dir: {:?}}}\n", dir.path().join("data"));
        let config = config::parse(&(own + yaml), Path::new("test.yaml")).unwrap_or_else(|fault| panic!("{fault}"));
        let node = Node::start(&config).unwrap_or_else(|fault| panic!("{fault:#}"));
        TestNode { node, dir }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.node.address
    }

    /// A URL on it; `scheme` without the `s` of TLS.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        self.node.url(scheme, path)
    }

    /// The certificate that it made for itself.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("data/self-signed.pem")
    }

    /// A stream as the hub shows it.
    pub fn stream(&self, name: &str) -> Option<StreamInfo> {
        self.node.hub.info(&stream_name(name))
    }

    /// Waits until a stream is live and frames have come.
    pub async fn until_live(&self, name: &str) -> StreamInfo {
        let live = async || self.stream(name).filter(|s| s.state == "live" && s.frames > 0);
        until(&format!("{name} to be live"), live).await
    }

    /// Waits until a stream has gone.
    pub async fn until_gone(&self, name: &str) {
        until(&format!("{name} to end"), async || self.stream(name).is_none().then_some(())).await;
    }

    /// An answer of the API, or of anything else by HTTP.
    pub async fn get(&self, path: &str) -> Answer {
        request(self.address(), "GET", path, &[]).await
    }

    /// The same as JSON; it must have status 200.
    pub async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// The value of a line of `/metrics` that begins with this.
    pub async fn metric(&self, line: &str) -> f64 {
        let answer = self.get("/metrics").await;
        let text = answer.text();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in {text}"))
    }
}

/// A name in the grammar.
pub fn stream_name(name: &str) -> StreamName {
    StreamName::parse(name).expect("a test's own name")
}

/// A port that was free a moment ago, for a node that starts later. Of those that no system gives out by itself, as they
/// come, so that nothing else on the machine has it meanwhile: not a connection, and not a test that asked for any port.
pub fn free_port() -> u16 {
    const FROM: u32 = 20_000;
    const PORTS: u32 = 12_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Tests of other processes begin elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    let next = || begin.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % PORTS + FROM;
    let mut ports = std::iter::repeat_with(next).take(PORTS as usize).filter_map(|port| u16::try_from(port).ok());
    let free = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("one of twelve thousand ports is free")
}

/// What the configuration keeps of a token.
pub fn token_sha256(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
