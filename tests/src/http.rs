//! Plain HTTP/1.1 requests, byte by byte: tests also ask what no library would.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wait::soon;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// What came of the body: all of it where it had a length, else until the server closed.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|fault| panic!("{fault}: {}", self.text()))
    }

    /// A header's value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut rows = head.lines().filter_map(|line| line.split_once(':'));
    rows.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_string())
}

/// Asks and waits for the whole answer. Not for what never ends.
pub async fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    soon(&format!("{method} {path}"), exchange(address, (text + "\r\n").as_bytes(), method == "HEAD")).await
}

/// Sends these bytes and reads one answer.
pub async fn exchange(address: SocketAddr, bytes: &[u8], no_body: bool) -> Answer {
    let mut socket = TcpStream::connect(address).await.expect("the node listens");
    socket.write_all(bytes).await.expect("the node reads");
    let mut read = Vec::new();
    loop {
        let end = read.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let length = end.and_then(|end| {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let length = header(&head, "content-length").and_then(|text| text.parse::<usize>().ok());
            // 204 has no body and says no length (RFC 9110 15.3.5).
            Some(end + if no_body || head.starts_with("HTTP/1.1 204") { 0 } else { length? })
        });
        if length.is_some_and(|length| read.len() >= length) {
            break;
        }
        // A server that closes with something unread may reset; what came until then counts.
        if !matches!(socket.read_buf(&mut read).await, Ok(n) if n > 0) {
            break;
        }
    }
    let end = read.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no HTTP answer: {:?}", String::from_utf8_lossy(&read))) + 4;
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    Answer { status, head, body: read.split_off(end) }
}
