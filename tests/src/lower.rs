//! A lower that is no node: a link of ours, kept as a node keeps it, that answers the upper as a test wants; and a link by
//! hand, up to its 101, for what no node would do.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use culvert_link::{Board, Body, PROTOCOL, REGISTER, Service, Upper, UpperInfo, UpperUrl, keep};
use culvert_net::ws::{Upgrade, UpgradeError, Upgraded, connect};
use culvert_net::{DialOptions, dial};
use http::{Request, Response};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::node::TestNode;
use crate::wait::{LONG, until};

/// A link that is kept until this is dropped.
pub struct Lower {
    board: Arc<Board>,
    stop: CancellationToken,
}

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

struct By<F>(F);

impl<F, A> Service for By<F>
where
    F: Fn(Request<Body>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    fn call(&self, request: Request<Body>) -> Answering {
        Box::pin((self.0)(request))
    }
}

impl Lower {
    /// Dials `upper` as `cid`, again and again; whatever the upper asks is answered by `answer`.
    pub fn keep<F, A>(upper: SocketAddr, cid: &str, answer: F) -> Lower
    where
        F: Fn(Request<Body>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        Lower::keep_by(None, upper, cid, answer)
    }

    /// The same with this token.
    pub fn keep_by<F, A>(token: Option<&str>, upper: SocketAddr, cid: &str, answer: F) -> Lower
    where
        F: Fn(Request<Body>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let (host, port) = (upper.ip().to_string(), upper.port());
        let url = UpperUrl { host, port, secure: false, context: String::new() };
        let (board, stop) = (Arc::new(Board::new(&url)), CancellationToken::new());
        let upper = Upper { url, cid: cid.into(), token: token.map(Into::into), options: DialOptions::default() };
        tokio::spawn(keep(upper, Arc::new(By(answer)), board.clone(), stop.clone()));
        Lower { board, stop }
    }

    /// What its loop says of itself.
    pub fn info(&self) -> UpperInfo {
        self.board.info()
    }
}

impl Drop for Lower {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Asks for a link at `path` with this query, and with these headers beside those of the handshake.
pub async fn register(
    upper: SocketAddr,
    query: &str,
    protocol: Option<&str>,
    headers: &[(&str, &str)],
) -> Result<Upgraded, UpgradeError> {
    let conn = dial(&upper.ip().to_string(), upper.port(), None, LONG).await.expect("the node listens");
    let (host, target) = (upper.to_string(), format!("{REGISTER}{query}"));
    connect(conn, &Upgrade { host: &host, target: &target, protocol, headers }, LONG).await
}

/// The same as our own lowers do it, without a token; it must work.
pub async fn register_as(upper: SocketAddr, cid: &str) -> Upgraded {
    let made = register(upper, &format!("?cid={cid}"), Some(PROTOCOL), &[]).await;
    made.unwrap_or_else(|why| panic!("{cid}: {why}"))
}

/// The row of a platform in the upper's list once `look` says yes to it.
pub async fn until_peer(upper: &TestNode, cid: &str, what: &str, look: impl Fn(&Value) -> bool) -> Value {
    let row = async || {
        let answer = upper.get(&format!("/api/v1/peers/{cid}")).await;
        (answer.status == 200).then(|| answer.json()).filter(&look)
    };
    until(&format!("the platform {cid} to be {what}"), row).await
}

/// Waits until the upper can ask a platform, and knows who it is.
pub async fn until_linked(upper: &TestNode, cid: &str) -> Value {
    until_peer(upper, cid, "linked", |row| row["linked"] == true).await
}

/// The first row of `/api/v1/uppers` once `look` says yes to it.
pub async fn until_upper(lower: &TestNode, what: &str, look: impl Fn(&Value) -> bool) -> Value {
    let row = async || lower.json("/api/v1/uppers").await["items"][0].clone();
    until(&format!("the upper to be {what}"), async || Some(row().await).filter(&look)).await
}
