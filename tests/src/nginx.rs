//! nginx with TLS and a context path in front of a node, as sites have it: Debian's, on a free port of loopback.
//!
//! It is one process, without a master and without rights, that is killed when the value is dropped.

use std::fs::{File, read_to_string, write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use culvert_net::tls;
use tempfile::TempDir;

use crate::ffmpeg::{installed, skipped};
use crate::node::free_port;
use crate::wait::until;

/// Where Debian has it; not on every user's path.
const PROGRAMS: [&str; 2] = ["nginx", "/usr/sbin/nginx"];
/// nginx's own default, and so that of most sites.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Debian's user `nobody` and its group, by whom it is run where the test is run by root.
#[cfg(unix)]
const NOBODY: u32 = 65534;

/// What passes on to the upstream without more: the upgrade to a WebSocket, which needs HTTP/1.1 on that side.
const UPGRADE: &str = "
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;";

/// What a site has that passes live video and large bodies.
const STREAMING: &str = "
            proxy_buffering off;
            proxy_request_buffering off;
            client_max_body_size 0;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;";

/// What is set for one upstream; [`Site::start`] makes it run.
#[derive(Clone, Debug)]
pub struct Site {
    upstream: SocketAddr,
    context: String,
    streaming: bool,
    read_timeout: Duration,
}

impl Site {
    /// The variant of somebody who did not read on after the upgrade: answers and requests are buffered, bodies end at
    /// 1 MiB, and `Host` and who asked are not passed on.
    pub fn defaults(self) -> Site {
        Site { streaming: false, ..self }
    }

    /// After so long without a byte from the upstream it gives up; 60 s where nothing is said.
    pub fn read_timeout(self, limit: Duration) -> Site {
        Site { read_timeout: limit, ..self }
    }

    /// Starts it and waits until it listens; where no nginx is installed, says that `test` is skipped. One that does not
    /// start fails the test with its log.
    pub async fn start(&self, test: &str) -> Option<Nginx> {
        let Some(program) = PROGRAMS.into_iter().find(|program| installed(program, "-v")) else {
            skipped(test, "nginx (apt-get install nginx)");
            return None;
        };
        let dir = tempfile::tempdir().expect("a temporary folder");
        let names = ["127.0.0.1".to_string(), "localhost".to_string()];
        let (certificate, key) = tls::self_signed(dir.path(), &names).expect("a certificate for loopback");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (config, log) = (dir.path().join("nginx.conf"), dir.path().join("error.log"));
        write(&config, self.config(dir.path(), address, &certificate, &key)).expect("a file of our own");
        let mut command = Command::new(program);
        command.arg("-p").arg(dir.path()).arg("-c").arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("a file of our own"));
        #[cfg(unix)]
        without_rights(&mut command, &[dir.path(), &certificate, &key]);
        let child = command.spawn().expect("nginx was just run");
        let mut nginx = Nginx { child, dir, address, certificate, context: self.context.clone() };
        until("nginx to listen", async || nginx.listens().then_some(())).await;
        Some(nginx)
    }

    fn config(&self, dir: &Path, address: SocketAddr, certificate: &Path, key: &Path) -> String {
        let Site { upstream, context, streaming, read_timeout } = self;
        let (dir, certificate, key) = (dir.display(), certificate.display(), key.display());
        let streaming = if *streaming { STREAMING } else { "" };
        let read_timeout = read_timeout.as_millis();
        format!(
            r#"daemon off;
master_process off;
pid "{dir}/nginx.pid";
error_log stderr info;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path "{dir}/body";
    proxy_temp_path "{dir}/proxy";
    fastcgi_temp_path "{dir}/fastcgi";
    uwsgi_temp_path "{dir}/uwsgi";
    scgi_temp_path "{dir}/scgi";
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    server {{
        listen {address} ssl;
        ssl_certificate "{certificate}";
        ssl_certificate_key "{key}";
        location {context}/ {{
            proxy_pass http://{upstream}/;
            proxy_read_timeout {read_timeout}ms;{UPGRADE}{streaming}
        }}
    }}
}}
"#
        )
    }
}

/// Lets the program run by `nobody`, who is given these files, where we are root.
#[cfg(unix)]
fn without_rights(command: &mut Command, own: &[&Path]) {
    use std::os::unix::fs::{MetadataExt, chown};
    use std::os::unix::process::CommandExt;

    // Who has just made a file owns it.
    let ours = own.iter().all(|path| path.metadata().is_ok_and(|file| file.uid() == 0));
    if ours && own.iter().all(|path| chown(path, Some(NOBODY), Some(NOBODY)).is_ok()) {
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// An nginx that runs.
pub struct Nginx {
    child: Child,
    dir: TempDir,
    address: SocketAddr,
    certificate: PathBuf,
    context: String,
}

impl Nginx {
    /// One that passes what is below `https://127.0.0.1:PORT{context}/` on to `http://{upstream}/`, with all that live
    /// video wants. `context` is as `/ctx`, or empty.
    pub fn before(upstream: SocketAddr, context: &str) -> Site {
        Site { upstream, context: context.to_string(), streaming: true, read_timeout: READ_TIMEOUT }
    }

    /// Where it listens; with TLS, always.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL by it, `https` or `wss`, of what the upstream knows as `path`.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{}{path}", self.address, self.context)
    }

    /// The certificate that it shows, for 127.0.0.1 and localhost, as PEM.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// What it has to say so far, from its level `info` on.
    pub fn log(&self) -> String {
        read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    /// It writes its process id when it has bound its port.
    fn listens(&mut self) -> bool {
        let ended = self.child.try_wait().expect("it is our child");
        assert!(ended.is_none(), "nginx does not start: {ended:?}\n{}", self.log());
        read_to_string(self.dir.path().join("nginx.pid")).is_ok_and(|pid| pid.ends_with('\n'))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::wait::soon;

    /// Asks `nginx` for `/ctx/a/b?c=d` while one answer is given behind it; returns what was asked there and what came
    /// of the answer.
    async fn through(nginx: &Nginx, upstream: &TcpListener) -> (String, String) {
        let answer = async {
            let (mut socket, _) = upstream.accept().await.expect("loopback");
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(socket.read_u8().await.expect("a request"));
            }
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.expect("nginx reads");
            String::from_utf8(asked).expect("a request")
        };
        let ask = async {
            let trust = tls::client(Some(nginx.certificate())).expect("its certificate");
            let port = nginx.address().port();
            let mut conn =
                culvert_net::dial("127.0.0.1", port, Some(trust), Duration::from_secs(10)).await.expect("TLS");
            let asked = format!("GET /ctx/a/b?c=d HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
            conn.write_all(asked.as_bytes()).await.expect("nginx reads");
            let mut answer = String::new();
            // It closes without a word of TLS.
            conn.read_to_string(&mut answer).await.ok();
            answer
        };
        soon("an answer by nginx", async { tokio::join!(answer, ask) }).await
    }

    #[tokio::test]
    async fn a_get_passes_to_the_root_of_the_upstream() {
        let upstream = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let site = Nginx::before(upstream.local_addr().expect("bound"), "/ctx");
        let Some(nginx) = site.start("a_get_passes_to_the_root_of_the_upstream").await else { return };
        let (asked, answer) = through(&nginx, &upstream).await;
        assert!(asked.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("X-Forwarded-For: 127.0.0.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("Host: {}\r\n", nginx.address())), "{asked}");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhello"), "{answer}\n{}", nginx.log());
        assert_eq!(nginx.url("wss", "/a"), format!("wss://{}/ctx/a", nginx.address()));
    }

    #[tokio::test]
    async fn with_defaults_it_passes_and_says_less() {
        let upstream = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let site = Nginx::before(upstream.local_addr().expect("bound"), "/ctx").defaults();
        let Some(nginx) = site.start("with_defaults_it_passes_and_says_less").await else { return };
        let (asked, answer) = through(&nginx, &upstream).await;
        assert!(asked.starts_with("GET /a/b?c=d HTTP/1.1\r\n") && !asked.contains("X-Forwarded-For"), "{asked}");
        assert!(answer.ends_with("\r\n\r\nhello"), "{answer}\n{}", nginx.log());
    }

    #[tokio::test]
    async fn an_upstream_that_is_silent_for_too_long_is_a_504_and_the_child_ends_with_its_value() {
        let upstream = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let site = Nginx::before(upstream.local_addr().expect("bound"), "").read_timeout(Duration::from_millis(100));
        let test = "an_upstream_that_is_silent_for_too_long_is_a_504_and_the_child_ends_with_its_value";
        let Some(nginx) = site.start(test).await else { return };
        let trust = tls::client(Some(nginx.certificate())).expect("its certificate");
        let port = nginx.address().port();
        let limit = Duration::from_secs(10);
        let mut conn = culvert_net::dial("localhost", port, Some(trust), limit).await.expect("TLS");
        conn.write_all(b"GET /a HTTP/1.0\r\n\r\n").await.expect("nginx reads");
        let mut answer = String::new();
        soon("an answer by nginx", conn.read_to_string(&mut answer)).await.ok();
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}\n{}", nginx.log());
        let address = nginx.address();
        drop(nginx);
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    }
}
