//! The program as its users start it: what it prints, how it ends.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert_formats::flv::{Reader, TagKind};

/// Anything takes less than this, also on a busy machine with a debug build.
const LONG: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

fn culvert() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = culvert().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {} s for {what}", LONG.as_secs());
        sleep(LOOK);
    }
}

/// Two ports in a row, of which this is the first. Below those that the system gives out by itself, so that no connection and no
/// other test takes the second one meanwhile.
fn two_free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 20_000 + (std::process::id() % 5_000) as u16;
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut ports = (0..2_000).map(|_| begin + 2 * NEXT.fetch_add(1, Ordering::Relaxed));
    ports.find(|port| free(*port) && free(port + 1)).expect("two free ports of 4,000")
}

/// A program that runs, and is killed when its test ends. What it prints is in two files.
struct Running {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Running {
    /// `culvert COMMAND` with a port and a data folder of its own; `{port}` stands for the port. Waits until it listens.
    fn start(arguments: &[&str], data: &Path) -> Running {
        let port = two_free_ports();
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::File::create(dir.path().join(name)).unwrap();
        let arguments = arguments.iter().map(|a| a.replace("{port}", &port.to_string()));
        let mut command = culvert();
        command.args(arguments).arg("--data-dir").arg(data).stdout(file("out")).stderr(file("err"));
        let mut running = Running { child: command.spawn().unwrap(), port, dir };
        until("the port to be open", || {
            assert_eq!(running.child.try_wait().unwrap(), None, "{}", running.said("err"));
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        running
    }

    fn said(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap()
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        until("the program to end", || self.child.try_wait().unwrap())
    }

    /// The status of a `GET`, and what came until the other side closed or was silent for a second.
    fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        // Until it closes; a read that ends otherwise shows in what was read.
        socket.take(100_000).read_to_end(&mut answer).ok();
        let text = String::from_utf8_lossy(&answer);
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{text}"));
        (status, answer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn bad_usage_ends_with_2() {
    for arguments in [&["run", "--port", "1"][..], &["serve"], &[], &["camera", "srt://h/a"]] {
        let (status, out, err) = run(arguments);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(!err.is_empty(), "{arguments:?}");
    }
    assert_eq!(run(&["--version"]).0, Some(0));
    assert_eq!(run(&["--help"]).0, Some(0));
}

#[test]
fn a_fault_in_the_configuration_is_told_with_its_place_and_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("culvert.yaml");
    for (text, line, column, says) in [
        ("listen: 127.0.0.1:0\nlimits:\n  viewerz: 5\n", 3, 3, "viewerz"),
        ("limits: {viewers: -1}\n", 1, 19, ""),
        ("rtmp: {listen: nowhere}\n", 1, 16, "no address"),
        ("pull:\n  always:\n    ../x: rtmp://h/a\n", 3, 5, "stream name"),
        ("a: [", 1, 0, ""),
    ] {
        fs::write(&file, text).unwrap();
        for command in ["check", "run"] {
            let (status, out, err) = run(&[command, "-c", file.to_str().unwrap()]);
            assert_eq!((status, out.as_str()), (Some(2), ""), "{command} {text:?}: {err}");
            let place = format!("{}:{line}:", file.display());
            let place = if column > 0 { format!("{place}{column}: ") } else { place };
            assert!(err.contains(&place) && err.contains(says), "{command} {text:?}: {err}");
        }
    }
    let (status, _, err) = run(&["check", "-c", "/nowhere/culvert.yaml"]);
    assert_eq!(status, Some(2));
    assert!(err.contains("/nowhere/culvert.yaml"), "{err}");
}

#[test]
fn check_prints_what_is_in_force_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("culvert.yaml");
    let hash = "5".repeat(64);
    let text = format!(
        "listen: 127.0.0.1:8451\nauth:\n  users:\n  - {{name: cam, token_sha256: {hash:?}, allow: [publish]}}\n\
         pull: {{always: {{live/a: \"rtmp://u:geheim@h/a/b?token=verborgen\"}}}}\n"
    );
    fs::write(&file, text).unwrap();
    let (status, out, err) = run(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    for known in ["127.0.0.1:8451", "stall_timeout: 15s", "cam", "live/a"] {
        assert!(out.contains(known), "{known}: {out}");
    }
    for secret in [&hash, "geheim", "verborgen"] {
        assert!(!out.contains(secret), "{secret}: {out}");
    }
    // A variable goes before the file.
    let mut command = culvert();
    command.args(["check", "-c", file.to_str().unwrap()]).env("CULVERT_LISTEN", "127.0.0.1:8999");
    assert!(String::from_utf8(command.output().unwrap().stdout).unwrap().contains("127.0.0.1:8999"));
}

#[test]
fn a_configuration_of_m7s_is_read_and_what_means_nothing_here_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    // As the README of erwscascade has it.
    let text = "global:\n  http:\n    listenaddr: :8440\nerwscascade:\n  cid: \"test-c001\"\n  server:\n    - protocol: \"wss\"\n      \
                host: \"47.111.28.16\"\n      port: 8441\n      conextpath: \"\"\n  push:\n    repush: -1\n    pushlist:\n      \
                njtv/glgc: ws://127.0.0.1:8450/erwscascade/wspush/njtv/glgc\nhls:\n  fragment: 2s\nrecord: {}\n";
    fs::write(&file, text).unwrap();
    let (status, out, err) = run(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    for known in [
        "0.0.0.0:8440",
        "test-c001",
        "wss://47.111.28.16:8441",
        "retry: forever",
        "njtv/glgc",
        "segment: 2s",
        "# `record` means nothing here",
    ] {
        assert!(out.contains(known), "{known}: {out}");
    }
    // What it prints is a file of ours.
    let ours = dir.path().join("culvert.yaml");
    fs::write(&ours, &out).unwrap();
    assert_eq!(run(&["check", "-c", ours.to_str().unwrap()]).0, Some(0), "{out}");
    fs::write(&file, "erwscascade:\n  cid: \"a/b\"\n").unwrap();
    let (status, _, err) = run(&["check", "-c", file.to_str().unwrap()]);
    assert!(status == Some(2) && err.contains("this file of m7s has a fault"), "{err}");
}

#[test]
fn the_first_start_shows_the_admin_token_and_a_drain_ends_with_0() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("data");
    let mut first = Running::start(&["run", "--listen", "127.0.0.1:{port}"], &data);
    let greeting = until("the greeting", || Some(first.said("out")).filter(|out| out.lines().count() >= 3));
    let file = data.join("admin-token");
    let token = fs::read_to_string(&file).unwrap().trim().to_string();
    assert!(token.len() >= 16 && greeting.contains(&token), "{greeting}");
    assert!(greeting.contains(&format!("http://127.0.0.1:{}/console/", first.port)), "{greeting}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!first.said("err").contains(&token), "the log has no secret");
    first.signal("TERM");
    assert_eq!(first.ended().code(), Some(0));

    let mut second = Running::start(&["run", "--listen", "127.0.0.1:{port}"], &data);
    assert_eq!(second.get("/readyz").0, 200);
    assert_eq!(second.said("out"), "", "it is shown once");
    second.signal("INT");
    assert_eq!(second.ended().code(), Some(0));
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), token);
}

#[test]
fn a_port_that_is_taken_ends_with_1_and_a_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let (status, _, err) = run(&["run", "--listen", &address, "--data-dir", data.path().to_str().unwrap()]);
    assert_eq!(status, Some(1));
    assert!(err.contains(&format!("cannot listen on {address}; is another program using that port?")), "{err}");
}

#[test]
fn the_demo_says_what_to_open_and_that_plays() {
    let data = tempfile::tempdir().unwrap();
    let mut demo = Running::start(&["demo", "--port", "{port}"], data.path());
    let out = until("what to open", || Some(demo.said("out")).filter(|out| out.contains("Ctrl-C ends both.")));
    let base = format!("127.0.0.1:{}", demo.port);
    let urls = ["http://{}/console/", "http://{}/play/demo/cam1-edge1.flv", "rtmp://{}/demo/cam1-edge1"];
    for url in urls.into_iter().chain(["curl http://{}/peer/edge1/api/v1/sessions"]) {
        let url = url.replace("{}", &base);
        assert!(out.lines().any(|line| line.trim() == url), "{url}: {out}");
    }
    assert_eq!(demo.get("/console/").0, 200);
    until("the lower to be linked", || {
        let peers = String::from_utf8(demo.get("/api/v1/peers").1).unwrap();
        (peers.contains("\"linked\":true") && !peers.contains("\"catalogue_version\":0,")).then_some(())
    });
    let (status, answer) = demo.get("/play/demo/cam1-edge1.flv");
    assert_eq!(status, 200);
    let body = answer.windows(3).position(|three| three == b"FLV").expect("FLV begins");
    let mut reader = Reader::new();
    reader.handle_input(&answer[body..]);
    let tags = std::iter::from_fn(|| reader.poll_tag().unwrap());
    assert!(tags.filter(|tag| tag.kind == TagKind::Video).count() > 20);
    // Twice, as somebody in a hurry does.
    let asked = Instant::now();
    demo.signal("TERM");
    demo.signal("TERM");
    assert_eq!(demo.ended().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[test]
fn the_doctor_ends_with_0_where_a_link_can_be_made_and_with_1_where_none_can() {
    let data = tempfile::tempdir().unwrap();
    let node = Running::start(&["run", "--listen", "127.0.0.1:{port}"], data.path());
    let (status, out, err) = run(&["doctor", &format!("ws://127.0.0.1:{}", node.port)]);
    assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("A link can be made.\n"), "{out}");
    drop(node);
    let (status, out, err) = run(&["doctor", "ws://127.0.0.1:1"]);
    assert_eq!(status, Some(1), "{out}");
    assert!(out.contains("FAILED") && err.contains("no link can be made: see TCP above"), "{out}{err}");
    let (status, out, err) = run(&["doctor", "ws://127.0.0.1:1", "--ca", "/nowhere.pem"]);
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert!(err.contains("ca has no effect on a plain connection"), "{err}");
    let (status, _, err) = run(&["doctor", "wss://127.0.0.1:1", "--ca", "/nowhere.pem"]);
    assert_eq!(status, Some(2));
    assert!(err.contains("/nowhere.pem"), "{err}");
}

#[test]
fn the_camera_publishes_until_it_is_told_to_end() {
    let data = tempfile::tempdir().unwrap();
    let node = Running::start(&["run", "--listen", "127.0.0.1:{port}"], data.path());
    let url = format!("rtmp://127.0.0.1:{}/live/cam", node.port);
    let mut camera = culvert();
    camera.args(["camera", &url, "--h265", "--audio", "opus"]).stderr(Stdio::null());
    let child = camera.spawn().unwrap();
    let mut camera = Running { child, port: node.port, dir: tempfile::tempdir().unwrap() };
    let live = |text: &str| text.contains("\"h265\"") && text.contains("\"opus\"");
    until("the camera's stream", || Some(node.get("/api/v1/streams").1).filter(|a| live(&String::from_utf8_lossy(a))));
    camera.signal("INT");
    assert_eq!(camera.ended().code(), Some(0));
    until("it to be gone", || (node.get("/api/v1/streams/live/cam").0 == 404).then_some(()));
}

#[test]
fn a_hangup_reads_the_configuration_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("culvert.yaml");
    fs::write(&file, "log: {format: text}\n").unwrap();
    let arguments = ["run", "-c", file.to_str().unwrap(), "--listen", "127.0.0.1:{port}"];
    let node = Running::start(&arguments, &dir.path().join("data"));
    assert_eq!(node.get("/api/v1/streams").0, 200);
    fs::write(&file, "auth: {anonymous: {allow: [play]}}\n").unwrap();
    node.signal("HUP");
    until("the new rules", || (node.get("/api/v1/streams").0 == 401).then_some(()));
    // A fault changes nothing, and is logged.
    fs::write(&file, "nonsense: 1\n").unwrap();
    node.signal("HUP");
    until("the fault in the log", || node.said("err").contains("nonsense").then_some(()));
    assert_eq!(node.get("/api/v1/streams").0, 401);
}
