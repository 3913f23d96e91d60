//! Debian's chromium, driven by the scripts in `tests/browser/` (playwright-core).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::ffmpeg::{installed, skipped};
use crate::node::TestNode;
use crate::wait::within;

/// Long enough for a stall to show, short enough for each run of the tests.
pub const SECONDS: u64 = 8;

/// Runs a script of `tests/browser/` for [`SECONDS`] with a page of the node, and `arguments`, the URL first; what it said. None where there is no
/// browser, which is said.
pub async fn browse(test: &str, script: &str, node: &TestNode, arguments: &[&str]) -> Option<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
    let there = installed("node", "--version") && installed("/usr/bin/chromium", "--version");
    let packages = ["playwright-core", "hls.js"].map(|name| folder.join("node_modules").join(name).is_dir());
    if !there || packages.contains(&false) {
        skipped(test, "node, /usr/bin/chromium, playwright-core and hls.js (npm install --prefix tests/browser)");
        return None;
    }
    let mut command = Command::new("node");
    let (url, more) = arguments.split_first().expect("a script has a URL");
    command.arg(script).arg(node.url("http", "/healthz")).arg(url).arg(SECONDS.to_string()).args(more);
    command.current_dir(folder).kill_on_drop(true).stdin(Stdio::null());
    let done =
        within(Duration::from_secs(60 + SECONDS), "the browser", command.output()).await.expect("node was just run");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    Some(serde_json::from_str(&said).expect("it says JSON"))
}
