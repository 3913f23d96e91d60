//! One kept HTTP/1.1 connection to a node.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Most bytes of an answer that is kept; the lists of the API stay far below.
const ANSWER_BYTES: usize = 4 << 20;
/// How often a node is asked whether it is so far.
const LOOK: Duration = Duration::from_millis(20);

/// Asks one thing after another.
#[derive(Debug)]
pub(crate) struct Client {
    sender: SendRequest<Empty<Bytes>>,
    server: SocketAddr,
}

impl Client {
    /// Connects. Spawns the task that runs the connection.
    pub(crate) async fn connect(server: SocketAddr) -> Result<Client> {
        let tcp = TcpStream::connect(server).await.with_context(|| format!("connecting to {server}"))?;
        tcp.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
        tokio::spawn(connection);
        Ok(Client { sender, server })
    }

    /// Status and body.
    pub(crate) async fn get(&mut self, path: &str) -> Result<(u16, Bytes)> {
        let answer = self.ask(path).await?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(|why| anyhow::anyhow!("{path}: {why}"))?;
        Ok((status, body.to_bytes()))
    }

    /// Status of an answer whose body is not kept; its length is added to `bytes` as it comes.
    pub(crate) async fn drain(&mut self, path: &str, bytes: &mut u64) -> Result<u16> {
        let answer = self.ask(path).await?;
        let (status, mut body) = (answer.status().as_u16(), answer.into_body());
        while let Some(frame) = body.frame().await {
            *bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        Ok(status)
    }

    /// The value of the line of `/metrics` that begins with this.
    pub(crate) async fn metric(&mut self, line: &str) -> Result<f64> {
        let (status, text) = self.get("/metrics").await?;
        let text = String::from_utf8_lossy(&text);
        value(&text, line).with_context(|| format!("/metrics (status {status}) has no {line}"))
    }

    async fn ask(&mut self, path: &str) -> Result<http::Response<hyper::body::Incoming>> {
        self.sender.ready().await?;
        let request = Request::get(path).header(http::header::HOST, self.server.to_string()).body(Empty::new())?;
        Ok(self.sender.send_request(request).await?)
    }
}

fn value(text: &str, line: &str) -> Option<f64> {
    text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Waits until a metric has this value; how long that took.
pub(crate) async fn until_metric(server: SocketAddr, line: &str, goal: f64, patience: Duration) -> Result<Duration> {
    let from = Instant::now();
    let mut client = Client::connect(server).await?;
    loop {
        let value = client.metric(line).await?;
        if value == goal {
            return Ok(from.elapsed());
        }
        if from.elapsed() > patience {
            bail!("{line} is {value} and not {goal} after {patience:?}");
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_its_whole_name_with_labels() {
        let text = "# TYPE culvert_peers gauge\nculvert_peers{state=\"linked\"} 12\nculvert_streams{} 0\n";
        assert_eq!(value(text, "culvert_peers{state=\"linked\"}"), Some(12.0));
        assert_eq!((value(text, "culvert_streams{}"), value(text, "culvert_streams")), (Some(0.0), None));
    }
}
