//! Debian's chromium, driven by the scripts in `tests/browser/` (playwright-core).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::ffmpeg::{installed, skipped};
use crate::node::TestNode;
use crate::wait::within;

/// Long enough for a stall to show, short enough for each run of the tests.
pub const SECONDS: u64 = 8;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("browser")
}

/// What hls-parser, a strict reader, says of these HLS playlists: see `tests/browser/playlists.mjs`. None where there is none, which is said.
pub async fn read_strictly(test: &str, playlists: &[String]) -> Option<Value> {
    if !installed("node", "--version") || !folder().join("node_modules/hls-parser").is_dir() {
        skipped(test, "node and hls-parser (npm install --prefix tests/browser)");
        return None;
    }
    let file = tempfile::NamedTempFile::new().expect("a place for files");
    std::fs::write(file.path(), json!(playlists).to_string()).expect("a disk with room");
    let mut command = Command::new("node");
    command.arg("playlists.mjs").arg(file.path()).current_dir(folder()).kill_on_drop(true).stdin(Stdio::null());
    let done = within(Duration::from_secs(120), "hls-parser", command.output()).await.expect("node was just run");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    Some(serde_json::from_str(&said).expect("it says JSON"))
}

/// Whether there is a browser and what drives it; where there is not, it is said.
fn ready(test: &str) -> bool {
    let there = installed("node", "--version") && installed("/usr/bin/chromium", "--version");
    let packages =
        ["playwright-core", "hls.js", "axe-core"].map(|name| folder().join("node_modules").join(name).is_dir());
    if !there || packages.contains(&false) {
        skipped(
            test,
            "node, /usr/bin/chromium, playwright-core, hls.js and axe-core (npm install --prefix tests/browser)",
        );
        return false;
    }
    true
}

/// Runs a script of `tests/browser/` for [`SECONDS`] with a page of the node, and `arguments`, the URL first; what it said. None where there is no
/// browser, which is said.
pub async fn browse(test: &str, script: &str, node: &TestNode, arguments: &[&str]) -> Option<Value> {
    if !ready(test) {
        return None;
    }
    let mut command = Command::new("node");
    let (url, more) = arguments.split_first().expect("a script has a URL");
    command.arg(script).arg(node.url("http", "/healthz")).arg(url).arg(SECONDS.to_string()).args(more);
    command.current_dir(folder()).kill_on_drop(true).stdin(Stdio::null());
    let done =
        within(Duration::from_secs(60 + SECONDS), "the browser", command.output()).await.expect("node was just run");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    Some(serde_json::from_str(&said).expect("it says JSON"))
}

/// [`browse`], of a stream of 25 pictures a second that goes on. A browser on a machine that is busy with others leaves pictures out and stands
/// still, whatever it is sent: then it plays once more, twice at the most, which is said.
pub async fn browse_all(test: &str, script: &str, node: &TestNode, arguments: &[&str]) -> Option<Value> {
    for _ in 0..2 {
        let played = browse(test, script, node, arguments).await?;
        let of = |what: &str| played.pointer(what).and_then(Value::as_u64).unwrap_or(0);
        let heard = of("/audio/concealed") * 20 <= of("/audio/samples");
        if of("/frames") >= SECONDS * 25 * 9 / 10 && of("/stalls") == 0 && heard {
            return Some(played);
        }
        // Where the harness does not swallow it, as what was skipped.
        writeln!(std::io::stderr(), "AGAIN: {test}: the browser did not show all: {played}").ok();
    }
    browse(test, script, node, arguments).await
}

/// Somebody who uses the console: `tests/browser/console.mjs`. What he sees is kept as pictures in `target/tmp/console/`.
pub struct Operator {
    lines: Lines<BufReader<ChildStdout>>,
    browser: Child,
}

impl Operator {
    /// Opens the console of this node in one of the script's modes. None where there is no browser, which is said.
    pub fn at(test: &str, node: &TestNode, mode: &str, arguments: &[&str]) -> Option<Operator> {
        if !ready(test) {
            return None;
        }
        // `deps/` is where tests are; `tmp/` is beside it.
        let own = std::env::current_exe().expect("a test knows where it is");
        let shots = own.ancestors().nth(3).expect("it is in target/debug/deps").join("tmp/console");
        std::fs::create_dir_all(&shots).expect("the folder of the build can be written");
        let mut command = Command::new("node");
        command.arg("console.mjs").arg(mode).arg(node.url("http", "")).args(arguments).env("SHOTS", shots);
        command.current_dir(folder()).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut browser = command.spawn().expect("node was just run");
        let lines = BufReader::new(browser.stdout.take().expect("it is piped")).lines();
        Some(Operator { lines, browser })
    }

    /// The next thing that he says.
    pub async fn says(&mut self) -> Value {
        let line = within(Duration::from_secs(120), "the operator's word", self.lines.next_line()).await;
        let line = line.expect("it says text").expect("it says why it fails, above");
        serde_json::from_str(&line).expect("it says JSON")
    }

    /// His last word is that no script failed, and that nothing was asked for elsewhere.
    pub async fn ends(mut self) {
        assert_eq!(self.says().await, json!({ "problems": [], "strangers": [] }));
        let status = within(Duration::from_secs(30), "the browser's end", self.browser.wait()).await;
        assert!(status.expect("it was started").success());
    }
}
