//! Asking a server for a WebSocket (RFC 6455 4.1) on a connection that was dialled: the request, what must be true of the
//! answer, and what it says where it is no. Redirections are not followed, nothing is tried again, and no extension is
//! offered: all that is for the caller. The frames after it are [`crate::ws`]'s.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::accept_key;
use crate::http1::{Answer, HEAD_BYTES, HeadError};
use crate::text::tame;
use crate::{Conn, tls};

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade<'a> {
    /// The value of `Host`.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The subprotocol to offer.
    pub protocol: Option<&'a str>,
    /// Further headers, such as `Authorization`; not those of the handshake itself.
    pub headers: &'a [(&'a str, &'a str)],
}

/// A WebSocket.
pub struct Upgraded {
    /// The connection; what came after the answer is read first.
    pub conn: Conn,
    /// The subprotocol, where the server took the one that was offered.
    pub protocol: Option<String>,
    /// The answer's `Date`, as sent: of use where the own clock may be wrong.
    pub date: Option<String>,
}

/// Why there is no WebSocket.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// The request holds what no request may.
    #[error("the WebSocket cannot be asked for: {0}")]
    Request(&'static str),
    /// Another answer than 101.
    #[error("{}", refusal(*status, detail))]
    Refused {
        /// The status.
        status: u16,
        /// The `detail` of a problem document (RFC 9457), or the beginning of a text; empty where there is none.
        detail: String,
        /// How long the server wants to be left alone, at most a day.
        retry_after: Option<Duration>,
        /// The answer's `Date`, as sent.
        date: Option<String>,
    },
    /// The server is elsewhere, or something in between wants to be seen first.
    #[error(
        "redirected to {location}: if that is the server, configure its URL; else it may be the login page of the network \
         in between"
    )]
    Redirected {
        /// Where to.
        location: String,
    },
    /// The answer is no HTTP/1.
    #[error("the answer is not HTTP/1: is it the right port, and ws for plain, wss for TLS?")]
    NotHttp,
    /// `Sec-WebSocket-Accept` does not fit the key: not a WebSocket server, or a cache in between.
    #[error("the answer belongs to another request (Sec-WebSocket-Accept): does a cache answer in the server's place?")]
    BadAccept,
    /// The answer is 101, and yet against RFC 6455.
    #[error("the answer is against the WebSocket protocol: {0}")]
    Protocol(&'static str),
    /// No answer in time.
    #[error("no answer to the WebSocket request within {} s: is it the right port, ws for plain and wss for TLS?", .0.as_secs_f32())]
    Late(Duration),
    /// The connection broke.
    #[error("the connection broke before the answer: {}", tls::explain(.0))]
    Io(#[from] io::Error),
}

fn refusal(status: u16, detail: &str) -> String {
    let hint = match status {
        200..=299 => {
            " where a WebSocket was asked for: is the path right, and does the gateway in front pass Upgrade on?"
        }
        400 | 426 => ": does the gateway in front pass the headers Upgrade and Connection on, by HTTP/1.1?",
        401 | 403 => ": the server does not accept this token or certificate for what was asked",
        404 | 405 => ": is the path right, with the context path of the gateway in front?",
        407 | 511 => ": a proxy or the network in between wants a login",
        408 | 504 => ": the server, or the one behind the gateway, is too slow to answer",
        429 => ": too many requests; it wants to be left alone for a while",
        502 => ": a gateway answers, and the server behind it does not",
        503 => ": the server is overloaded or on its way down",
        _ => "",
    };
    let gap = if detail.is_empty() { "" } else { ": " };
    format!("the server answered {status}{hint}{gap}{detail}")
}

/// A refusal's body is looked at so far. Ours have some hundred bytes, a gateway's pages a thousand.
const BODY_BYTES: usize = 8 << 10;
/// The answer is known by then; its explanation is worth only a short wait.
const BODY_WAIT: Duration = Duration::from_secs(2);
/// Characters of a refusal's text, and of any other of the server's words, that are told.
const DETAIL: usize = 200;
/// `Retry-After` beyond it is a mistake or worse.
const RETRY_MOST: Duration = Duration::from_secs(24 * 60 * 60);

/// Asks for a WebSocket. `limit` is for the answer's head; a refusal's body may take two seconds more. The head may have
/// 32 KiB.
pub async fn connect(mut conn: Conn, upgrade: &Upgrade<'_>, limit: Duration) -> Result<Upgraded, UpgradeError> {
    let mut nonce = [0u8; 16];
    getrandom::fill(&mut nonce).map_err(|_| UpgradeError::Request("the system gives no random bytes"))?;
    let key = STANDARD.encode(nonce);
    let request = upgrade.request(&key)?;
    let answer = timeout(limit, ask(&mut conn, &request)).await.unwrap_or(Err(UpgradeError::Late(limit)))?;
    if answer.status != 101 {
        return Err(refused(&mut conn, &answer).await);
    }
    let protocol = check(&answer, &key, upgrade.protocol)?;
    Ok(Upgraded { conn, protocol, date: date(&answer) })
}

impl Upgrade<'_> {
    /// The request's head, checked: nothing of it comes from where nobody could have put a line end in.
    fn request(&self, key: &str) -> Result<String, UpgradeError> {
        let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if self.host.is_empty() || !visible(self.host) {
            return Err(UpgradeError::Request("the host has a space, a control character, or nothing at all"));
        }
        if !self.target.starts_with('/') || !visible(self.target) || self.target.contains('#') {
            return Err(UpgradeError::Request("the path does not begin with /, or has what must be percent-encoded"));
        }
        let Upgrade { host, target, .. } = self;
        let mut head = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        );
        if let Some(protocol) = self.protocol {
            if !is_token(protocol) {
                return Err(UpgradeError::Request("the subprotocol is not a token (RFC 9110 5.6.2)"));
            }
            head.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
        }
        for (name, value) in self.headers {
            if !is_token(name) || is_ours(name) {
                return Err(UpgradeError::Request("a header's name is not a token, or belongs to the handshake"));
            }
            if value.chars().any(|c| c.is_control() && c != '\t') {
                return Err(UpgradeError::Request("a header's value has a control character"));
            }
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        Ok(head)
    }
}

/// RFC 9110 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether a header decides what the handshake is, or where the request ends.
fn is_ours(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ours = ["host", "upgrade", "connection", "content-length", "transfer-encoding"];
    ours.contains(&name.as_str()) || name.starts_with("sec-websocket-")
}

async fn ask(conn: &mut Conn, request: &str) -> Result<Answer, UpgradeError> {
    conn.write_all(request.as_bytes()).await?;
    conn.flush().await?;
    Answer::read(conn, HEAD_BYTES).await.map_err(|error| match error {
        HeadError::Io(why) => UpgradeError::Io(why),
        HeadError::Cut => io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it").into(),
        HeadError::Large => UpgradeError::Protocol("its head is larger than 32 KiB, or has more than 64 headers"),
        HeadError::Syntax(_) => UpgradeError::NotHttp,
    })
}

/// RFC 6455 4.1, the numbered list of what a client must check. Returns the subprotocol.
fn check(answer: &Answer, key: &str, offered: Option<&str>) -> Result<Option<String>, UpgradeError> {
    if !answer.lists("upgrade", "websocket") {
        return Err(UpgradeError::Protocol("101 without Upgrade: websocket"));
    }
    if !answer.lists("connection", "upgrade") {
        return Err(UpgradeError::Protocol("101 without Connection: Upgrade"));
    }
    match answer.header("sec-websocket-accept") {
        None => return Err(UpgradeError::Protocol("101 without Sec-WebSocket-Accept")),
        Some(accept) if accept != accept_key(key) => return Err(UpgradeError::BadAccept),
        Some(_) => {}
    }
    if answer.header("sec-websocket-extensions").is_some_and(|list| !list.is_empty()) {
        return Err(UpgradeError::Protocol("an extension that was not offered"));
    }
    match (answer.header("sec-websocket-protocol"), offered) {
        (None, _) => Ok(None),
        // RFC 6455 1.9: names of subprotocols are compared as they are.
        (Some(chosen), Some(offered)) if chosen == offered => Ok(Some(chosen.to_string())),
        (Some(_), _) => Err(UpgradeError::Protocol("a subprotocol that was not offered")),
    }
}

/// A date has 29 characters; the older forms have more (RFC 9110 5.6.7).
const DATE_MOST: usize = 64;

fn date(answer: &Answer) -> Option<String> {
    answer.header("date").map(|date| tame(date, DATE_MOST))
}

async fn refused(conn: &mut Conn, answer: &Answer) -> UpgradeError {
    let location = answer.header("location").filter(|location| !location.is_empty());
    if let (300..=399, Some(location)) = (answer.status, location) {
        return UpgradeError::Redirected { location: tame(location, DETAIL) };
    }
    // What came in time is explanation enough.
    timeout(BODY_WAIT, gather_body(conn, answer)).await.ok();
    UpgradeError::Refused {
        status: answer.status,
        detail: detail(answer, conn.seen()),
        retry_after: retry_after(answer),
        date: date(answer),
    }
}

/// Looks at the body until it is whole, too long, or the connection ends.
async fn gather_body(conn: &mut Conn, answer: &Answer) {
    let length = answer.header("content-length").and_then(|n| n.parse::<usize>().ok());
    let chunked = answer.lists("transfer-encoding", "chunked");
    loop {
        let whole =
            if chunked { conn.seen().ends_with(b"0\r\n\r\n") } else { length.is_some_and(|n| conn.seen().len() >= n) };
        if whole || !matches!(conn.fill(BODY_BYTES).await, Ok(1..)) {
            return;
        }
    }
}

/// What a refusal's body says, as far as it arrived.
fn detail(answer: &Answer, body: &[u8]) -> String {
    let length = answer.header("content-length").and_then(|n| n.parse::<usize>().ok());
    let body = body.get(..length.unwrap_or(usize::MAX).min(body.len())).unwrap_or_default();
    let body = if answer.lists("transfer-encoding", "chunked") { without_chunks(body) } else { body.to_vec() };
    let kind = answer.header("content-type").unwrap_or("text/plain").to_ascii_lowercase();
    if kind.contains("json")
        && let Ok(problem) = serde_json::from_slice::<serde_json::Value>(&body)
        && let Some(detail) = problem.get("detail").and_then(serde_json::Value::as_str)
    {
        return tame(detail, DETAIL);
    }
    let text = kind.starts_with("text/") || kind.contains("json") || kind.contains("xml");
    if text { tame(&String::from_utf8_lossy(&body), DETAIL) } else { String::new() }
}

/// The data of a chunked body (RFC 9112 7.1), up to where it ends or breaks.
fn without_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Ok(httparse::Status::Complete((used, size))) = httparse::parse_chunk_size(body) {
        let rest = body.get(used..).unwrap_or_default();
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        let (data, after) = rest.split_at_checked(size).unwrap_or_default();
        if data.is_empty() {
            break;
        }
        out.extend_from_slice(data);
        body = after.strip_prefix(b"\r\n").unwrap_or(after);
    }
    out
}

/// Seconds, or a date (RFC 9110 10.2.3), which is taken from the server's own clock where it says what that is: ours may be
/// wrong.
fn retry_after(answer: &Answer) -> Option<Duration> {
    let value = answer.header("retry-after")?;
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let now = answer.header("date").and_then(|date| httpdate::parse_http_date(date).ok());
            let then = httpdate::parse_http_date(value).ok()?;
            then.duration_since(now.unwrap_or_else(std::time::SystemTime::now)).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_MOST))
}
