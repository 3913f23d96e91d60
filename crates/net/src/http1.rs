//! One HTTP/1.1 head, of a request or of an answer, read off a bare connection (RFC 9112). For media that goes out on the
//! bare socket, and for what is asked before a connection is something else: a proxy's tunnel, a WebSocket. All other
//! requests are hyper's.

use std::io;

use thiserror::Error;

use crate::Conn;

/// Most bytes of a head, and most headers in it (security.md S8).
pub const HEAD_BYTES: usize = 32 << 10;
const HEADERS: usize = 64;

/// A head, as far as a plain GET needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method, as sent.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// Whether it is HTTP/1.1 rather than 1.0.
    pub keeps_alive: bool,
    fields: Fields,
    /// Length of the head in bytes, with the empty line.
    pub bytes: usize,
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The words after it, as sent; they mean nothing.
    pub reason: String,
    fields: Fields,
    /// Length of the head in bytes, with the empty line.
    pub bytes: usize,
}

/// Headers: names in lower case, values as text; those whose value is no text are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields(Vec<(String, String)>);

/// Why no head could be read. The sentences are those for a request.
#[derive(Debug, Error)]
pub enum HeadError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer ended before the empty line.
    #[error("the peer closed within its request")]
    Cut,
    /// Beyond the limit ([`HEAD_BYTES`] for a request), or more than 64 headers.
    #[error("the request head is larger than {HEAD_BYTES} bytes or has more than {HEADERS} headers")]
    Large,
    /// Not HTTP/1.
    #[error("not an HTTP/1 request: {0}")]
    Syntax(httparse::Error),
}

impl Head {
    /// Parses a head that is whole; None while it is not.
    pub fn parse(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let Some(bytes) = whole(request.parse(bytes))? else { return Ok(None) };
        Ok(Some(Head {
            method: request.method.unwrap_or_default().to_string(),
            target: request.path.unwrap_or_default().to_string(),
            keeps_alive: request.version == Some(1),
            fields: Fields::new(request.headers),
            bytes,
        }))
    }

    /// Looks at a connection until its head is whole, consuming nothing.
    pub async fn peek(conn: &mut Conn) -> Result<Head, HeadError> {
        gather(conn, HEAD_BYTES, Head::parse).await
    }

    /// The first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.first(name)
    }

    /// Whether a header that is a comma-separated list has this word, whatever its case.
    pub fn lists(&self, name: &str, word: &str) -> bool {
        self.fields.lists(name, word)
    }

    /// Whether a body follows, or something that could be taken for one (RFC 9112 6).
    pub fn has_body(&self) -> bool {
        self.header("transfer-encoding").is_some() || self.header("content-length").is_some_and(|n| n != "0")
    }
}

impl Answer {
    /// Parses a head that is whole; None while it is not.
    pub fn parse(bytes: &[u8]) -> Result<Option<Answer>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let Some(bytes) = whole(answer.parse(bytes))? else { return Ok(None) };
        Ok(Some(Answer {
            status: answer.code.unwrap_or_default(),
            reason: answer.reason.unwrap_or_default().to_string(),
            fields: Fields::new(answer.headers),
            bytes,
        }))
    }

    /// Takes the next answer's head off a connection; what came after it stays to be read. Interim answers (RFC 9110 15.2)
    /// are passed over, but not 101, which ends HTTP. All heads together have at most `limit` bytes.
    pub async fn read(conn: &mut Conn, mut limit: usize) -> Result<Answer, HeadError> {
        loop {
            let answer = gather(conn, limit, Answer::parse).await?;
            conn.consume(answer.bytes);
            if answer.status >= 200 || answer.status == 101 {
                return Ok(answer);
            }
            limit = limit.saturating_sub(answer.bytes);
        }
    }

    /// The first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.first(name)
    }

    /// Whether a header that is a comma-separated list has this word, whatever its case.
    pub fn lists(&self, name: &str, word: &str) -> bool {
        self.fields.lists(name, word)
    }
}

impl Fields {
    fn new(headers: &[httparse::Header<'_>]) -> Fields {
        let text = |h: &httparse::Header<'_>| {
            Some((h.name.to_ascii_lowercase(), std::str::from_utf8(h.value).ok()?.trim().to_string()))
        };
        Fields(headers.iter().filter_map(text).collect())
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn lists(&self, name: &str, word: &str) -> bool {
        let values = self.0.iter().filter(|(known, _)| known == name);
        values.flat_map(|(_, value)| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    }
}

/// Length of a head that was parsed, once it is whole.
fn whole(parsed: httparse::Result<usize>) -> Result<Option<usize>, HeadError> {
    match parsed {
        Ok(httparse::Status::Complete(n)) => Ok(Some(n)),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::Large),
        Err(error) => Err(HeadError::Syntax(error)),
    }
}

/// Looks at a connection until `parse` finds a head, consuming nothing.
async fn gather<T>(
    conn: &mut Conn,
    limit: usize,
    parse: fn(&[u8]) -> Result<Option<T>, HeadError>,
) -> Result<T, HeadError> {
    // Looking at all of it again at each byte of a head that drips in would cost the square of its length. The first
    // look finds garbage early; later ones are for the empty line, in what is new.
    let mut looked = 0;
    loop {
        let new = conn.seen().get(looked.max(3) - 3..).unwrap_or_default();
        let empty_line = |end: &[u8]| matches!(end, [b'\n', b'\r', b'\n'] | [_, b'\n', b'\n']);
        let look = looked == 0 || new.windows(3).any(empty_line);
        looked = conn.seen().len();
        if look && let Some(head) = parse(conn.seen())? {
            return Ok(head);
        }
        if conn.seen().len() >= limit {
            return Err(HeadError::Large);
        }
        if conn.fill(limit).await? == 0 {
            return Err(HeadError::Cut);
        }
    }
}

/// A problem document (RFC 9457): a stable `type`, and a sentence that says what to do.
pub fn problem(status: u16, kind: &str, detail: &str) -> String {
    serde_json::json!({ "type": format!("urn:culvert:{kind}"), "status": status, "detail": detail }).to_string()
}

/// The media type of [`problem`].
pub const PROBLEM_TYPE: &str = "application/problem+json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_however_it_is_split() {
        let text = b"GET /play/a.flv?x=1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\r\nrest";
        let whole = text.len() - 4;
        for n in 0..whole {
            assert!(Head::parse(&text[..n]).unwrap().is_none(), "{n}");
        }
        let head = Head::parse(text).unwrap().unwrap();
        assert_eq!((head.method.as_str(), head.target.as_str(), head.bytes), ("GET", "/play/a.flv?x=1", whole));
        assert!(head.lists("connection", "upgrade") && !head.lists("connection", "close") && !head.has_body());
    }

    #[test]
    fn nonsense_and_floods_are_errors() {
        assert!(matches!(Head::parse(b"\x01\x02\r\n\r\n"), Err(HeadError::Syntax(_))));
        let flood = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        assert!(matches!(Head::parse(flood.as_bytes()), Err(HeadError::Large)));
    }
}
