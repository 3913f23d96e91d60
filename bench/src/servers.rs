//! Starts the servers that are measured, each pinned to one core, and ends them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;

use crate::args::{Class, ServerKind};
use crate::proc;

/// The server's core and the generator's.
pub(crate) const SERVER_CORE: usize = 0;
/// See [`SERVER_CORE`].
pub(crate) const GENERATOR_CORE: usize = 1;
/// Files that a process needs besides its viewers' sockets.
pub(crate) const SPARE_FILES: u64 = 100;

/// How long a server may take to listen, and to end when it is asked to.
const START_PATIENCE: Duration = Duration::from_secs(15);
const END_PATIENCE: Duration = Duration::from_secs(3);
const NGINX: &str = "/usr/sbin/nginx";
const NGINX_RTMP: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";

/// A server that is running. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// The process that serves: for nginx the worker.
    pid: u32,
    address: SocketAddr,
    dir: TempDir,
}

/// Pins this process to the generator's core and raises the limit of open files as far as it goes, for the servers too.
/// How many files that is.
pub(crate) fn prepare() -> Result<u64> {
    let mut cores = CpuSet::new();
    cores.set(GENERATOR_CORE);
    if let Err(error) = sched_setaffinity(None, &cores) {
        eprintln!("warning: cannot pin the generator to core {GENERATOR_CORE} ({error}); figures will be worse");
    }
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// The program to measure, if none was named.
pub(crate) fn default_program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    if own.file_stem().is_some_and(|name| name == "culvert") {
        return Ok(own);
    }
    let beside = own.with_file_name("culvert");
    if beside.exists() { Ok(beside) } else { Ok(PathBuf::from("target/release/culvert")) }
}

impl Server {
    /// Starts it and waits until it listens.
    pub(crate) fn start(kind: ServerKind, class: Class, program: &Path) -> Result<Server> {
        let dir = tempfile::Builder::new().prefix("culvert-bench").tempdir()?;
        let address = free_address()?;
        let port = address.port();
        let mut command = Command::new("taskset");
        command.args(["-c", &SERVER_CORE.to_string()]);
        match kind {
            ServerKind::Culvert => {
                command
                    .arg(absolute(program)?)
                    .args(["run", "--listen", &address.to_string(), "--data-dir"])
                    .arg(dir.path());
            }
            ServerKind::NginxRtmp => {
                if !Path::new(NGINX).exists() || !Path::new(NGINX_RTMP).exists() {
                    bail!("nginx with its RTMP module is not installed: apt-get install nginx libnginx-mod-rtmp");
                }
                let config = dir.path().join("nginx.conf");
                fs::write(&config, nginx_config(dir.path(), port))?;
                command.args([NGINX, "-e", "stderr", "-p"]).arg(dir.path()).arg("-c").arg(config);
            }
            ServerKind::Floor => {
                command.arg(std::env::current_exe()?).args(own_command());
                command.args(["floor", "--port", &port.to_string(), "--class", class.name()]);
            }
        }
        let mut server = Server::launch(command, dir, address)?;
        if kind == ServerKind::NginxRtmp {
            server.pid = proc::child_of(server.pid).context("nginx has no worker")?;
        }
        Ok(server)
    }

    /// Starts culvert with this configuration (YAML) and waits until it listens there. `cores`: in the form of `taskset -c`.
    pub(crate) fn node(program: &Path, cores: &str, address: SocketAddr, yaml: &str) -> Result<Server> {
        let dir = tempfile::Builder::new().prefix("culvert-bench").tempdir()?;
        let config = dir.path().join("culvert.yaml");
        fs::write(&config, yaml)?;
        let mut command = Command::new("taskset");
        command.args(["-c", cores]).arg(absolute(program)?).arg("run").arg("-c").arg(config);
        command.args(["--listen", &address.to_string(), "--data-dir"]).arg(dir.path());
        Server::launch(command, dir, address)
    }

    fn launch(mut command: Command, dir: TempDir, address: SocketAddr) -> Result<Server> {
        let log = File::create(dir.path().join("log"))?;
        command.current_dir(&dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("starting the server by taskset (util-linux)")?;
        let pid = child.id();
        let mut server = Server { child, pid, address, dir };
        server.wait()?;
        Ok(server)
    }

    /// Ends it by SIGKILL: it says good-bye to nobody.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process that serves.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The end of what it has logged.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let from = log.lines().count().saturating_sub(10);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }

    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended at once, with {status}:\n{}", self.log());
            }
            if start.elapsed() > START_PATIENCE {
                bail!("the server does not listen on {}:\n{}", self.address, self.log());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // nginx's worker ends only if its master is asked.
        let asked = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = asked {
            kill_process(pid, Signal::TERM).ok();
        }
        let start = Instant::now();
        while start.elapsed() < END_PATIENCE && matches!(self.child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(20));
        }
        // It may be gone already, which is all that is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn absolute(program: &Path) -> Result<PathBuf> {
    program
        .canonicalize()
        .with_context(|| format!("{}: build it (cargo build --release) or name it with --program", program.display()))
}

/// On loopback; free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// What stands before `fanout` on our own command line: nothing for `culvert-bench`, `bench` for the node's.
fn own_command() -> Vec<String> {
    std::env::args().skip(1).take_while(|word| word != "fanout" && word != "stall").collect()
}

/// Debian's nginx with what it needs to serve RTMP and nothing tuned.
fn nginx_config(dir: &Path, port: u16) -> String {
    format!(
        "load_module {NGINX_RTMP};\n\
         daemon off;\n\
         worker_processes 1;\n\
         pid {}/nginx.pid;\n\
         error_log stderr error;\n\
         events {{ worker_connections 19900; }}\n\
         rtmp {{ access_log off; server {{ listen 127.0.0.1:{port}; application live {{ live on; }} }} }}\n",
        dir.display()
    )
}
