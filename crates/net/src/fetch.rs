//! Getting pages from web servers: HTTP/1.1, redirections, connections that are used again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::{DialError, dial};

/// Why a page was not got.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The URL cannot be used.
    #[error("{0}")]
    Url(String),
    /// The server could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server speaks no HTTP, or broke off.
    #[error("the server's HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    /// The server said no.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// It fell silent.
    #[error("the server sent nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// It took too long over a page.
    #[error("the server needed more than {} s for {}", .0.as_secs(), .1)]
    Slow(Duration, Box<str>),
    /// It went on and on.
    #[error("{0} is larger than {1} bytes, the most that is taken")]
    Large(Box<str>, usize),
    /// A server outside leads to an address inside.
    #[error(
        "a server outside leads to {0} in this node's own network ({1}); if that is meant, give the address of that server itself"
    )]
    Inside(Box<str>, IpAddr),
}

/// Most redirections that are followed.
const REDIRECTS: usize = 5;
/// Connections that wait for the next page: a playlist and its segments may be of different servers.
const KEPT: usize = 4;

/// Gets pages, one at a time.
///
/// Where the first server is outside, in the Internet, what it leads to (redirections, the URLs in what it sends) may not be in a private
/// network: it would make this node ask its neighbours in the stranger's name.
pub struct Fetcher {
    tls: Arc<ClientConfig>,
    silence: Duration,
    kept: Vec<(Origin, SendRequest<Empty<Bytes>>)>,
    is_outside: Option<bool>,
    /// User and password of the first address that had them, which are for that server alone.
    login: Option<(Origin, Login)>,
}

/// What is taken: all there is, and of FLV also that which older players do not know, so that a node of ours sends its Opus as it is.
const ACCEPT: &str = "*/*, video/x-flv; codecs=\"opus\"";

/// As the URL has them, percent-encoded.
type Login = (String, Option<String>);

/// Whom a connection is with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

/// A page that was begun.
pub struct Page {
    /// Where it was in the end.
    pub url: Url,
    /// What was said of it.
    pub headers: HeaderMap,
    /// It is the part that was asked for, not the whole (RFC 9110 15.3.7).
    pub is_part: bool,
    body: Incoming,
    silence: Duration,
}

impl Fetcher {
    /// `silence` bounds each step, and the time between two pieces of a page.
    pub fn new(tls: Arc<ClientConfig>, silence: Duration) -> Fetcher {
        Fetcher { tls, silence, kept: Vec::new(), is_outside: None, login: None }
    }

    /// Another one, to which the same servers may lead.
    pub fn beside(&self) -> Fetcher {
        Fetcher {
            tls: self.tls.clone(),
            silence: self.silence,
            kept: Vec::new(),
            is_outside: self.is_outside,
            login: self.login.clone(),
        }
    }

    /// Begins a page (http or https); `range` is (first byte, bytes). A user and a password in the URL are shown by Basic, to the same server
    /// also where it is named without them, and to no other.
    pub async fn get(&mut self, url: &Url, range: Option<(u64, u64)>) -> Result<Page, FetchError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let response = self.request(&url, range).await?;
            let status = response.status();
            if status.is_redirection() {
                let next = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
                url = next.and_then(|next| url.join(next).ok()).ok_or(FetchError::Status(status))?;
                continue;
            }
            let is_part = status == StatusCode::PARTIAL_CONTENT && range.is_some();
            if status != StatusCode::OK && !is_part {
                return Err(FetchError::Status(status));
            }
            let (parts, body) = response.into_parts();
            return Ok(Page { url, headers: parts.headers, is_part, body, silence: self.silence });
        }
        Err(FetchError::Url(format!("more than {REDIRECTS} redirections")))
    }

    async fn request(&mut self, url: &Url, range: Option<(u64, u64)>) -> Result<Response<Incoming>, FetchError> {
        let secure = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(FetchError::Url(format!("a page is got by http or https, not by {other}"))),
        };
        let host = url.host_str().ok_or_else(|| FetchError::Url("the URL has no host".into()))?;
        let port = url.port_or_known_default().unwrap_or(80);
        let origin = Origin { secure, host: host.to_string(), port };
        if self.login.is_none() && (!url.username().is_empty() || url.password().is_some()) {
            self.login = Some((origin.clone(), (url.username().to_string(), url.password().map(str::to_string))));
        }
        let login = self.login.clone().filter(|(of, _)| *of == origin).map(|(_, login)| login);
        let login = login.as_ref();
        let kept = self.kept.iter().position(|(known, _)| *known == origin).map(|at| self.kept.swap_remove(at).1);
        if let Some(mut sender) = kept.filter(|sender| !sender.is_closed())
            && matches!(timeout(self.silence, sender.ready()).await, Ok(Ok(())))
        {
            // The server may have closed it in this moment: then another one is made.
            // Or a router on the way has forgotten it, and nothing says so.
            let asked = timeout(self.silence, sender.send_request(head(url, host, login, range)?)).await;
            if let Ok(Ok(response)) = asked {
                return Ok(self.keep(origin, sender, response));
            }
        }
        let conn = dial(host, port, secure.then(|| self.tls.clone()), self.silence).await?;
        let address = conn.remote().ip();
        let is_outside = !is_inside(address);
        if *self.is_outside.get_or_insert(is_outside) && !is_outside {
            return Err(FetchError::Inside(host.into(), address));
        }
        let (mut sender, driver) = handshake(TokioIo::new(conn)).await?;
        // The driver ends with the sender and the page.
        tokio::spawn(driver);
        let answered = timeout(self.silence, sender.send_request(head(url, host, login, range)?)).await;
        let response = answered.map_err(|_| FetchError::Silent(self.silence))??;
        Ok(self.keep(origin, sender, response))
    }

    /// The connection is there for the next page, once this one has been read.
    fn keep(
        &mut self,
        origin: Origin,
        sender: SendRequest<Empty<Bytes>>,
        response: Response<Incoming>,
    ) -> Response<Incoming> {
        if self.kept.len() >= KEPT {
            self.kept.remove(0);
        }
        self.kept.push((origin, sender));
        response
    }
}

fn head(
    url: &Url,
    host: &str,
    login: Option<&Login>,
    range: Option<(u64, u64)>,
) -> Result<Request<Empty<Bytes>>, FetchError> {
    let target = url.query().map_or_else(|| url.path().to_string(), |query| format!("{}?{query}", url.path()));
    let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
    let mut request = Request::get(target)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, "culvert")
        .header(header::ACCEPT, ACCEPT);
    let own = (url.username().to_string(), url.password().map(str::to_string));
    let has_own = !own.0.is_empty() || own.1.is_some();
    if let Some((user, password)) = if has_own { Some(&own) } else { login } {
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pair = format!("{}:{}", decode(user), decode(password.as_deref().unwrap_or_default()));
        request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
    }
    if let Some((first, bytes)) = range {
        let last = first.saturating_add(bytes).saturating_sub(1);
        request = request.header(header::RANGE, format!("bytes={first}-{last}"));
    }
    request.body(Empty::new()).map_err(|error| FetchError::Url(error.to_string()))
}

impl Page {
    /// The next piece of it; None: it is whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            return match timeout(self.silence, self.body.frame()).await {
                Ok(Some(frame)) => match frame?.into_data() {
                    Ok(data) => Ok(Some(data)),
                    // Trailers.
                    Err(_) => continue,
                },
                Ok(None) => Ok(None),
                Err(_) => Err(FetchError::Silent(self.silence)),
            };
        }
    }

    /// All of it: at most `most` bytes, within `time`.
    pub async fn whole(mut self, most: usize, time: Duration) -> Result<Bytes, FetchError> {
        let until = Instant::now() + time;
        let mut all = BytesMut::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(piece) = timeout(left, self.next()).await else {
                return Err(FetchError::Slow(time, self.url.path().into()));
            };
            let Some(piece) = piece? else { return Ok(all.freeze()) };
            if all.len() + piece.len() > most {
                return Err(FetchError::Large(self.url.path().into(), most));
            }
            all.extend_from_slice(&piece);
        }
    }
}

/// Addresses that are not of the Internet: this machine's, private ones (RFC 1918, RFC 4193), of providers' own networks (RFC 6598), of
/// the link, and those that mean none or many.
fn is_inside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
                || a == 0
                || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::tls;

    const SECOND: Duration = Duration::from_secs(1);

    /// A server that gives these answers, one after another; what was asked comes out, with the number of the connection.
    async fn server(
        answers: &'static [&'static str],
        per_connection: usize,
    ) -> (Url, mpsc::UnboundedReceiver<(usize, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/first", listener.local_addr().unwrap())).unwrap();
        let (seen, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut answers = answers.iter();
            for connection in 0.. {
                let (mut socket, _) = listener.accept().await.unwrap();
                for _ in 0..per_connection {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        if socket.read(&mut byte).await.unwrap_or(0) == 0 {
                            break;
                        }
                        head.push(byte[0]);
                    }
                    if head.is_empty() {
                        break;
                    }
                    let Some(answer) = answers.next() else { return };
                    seen.send((connection, String::from_utf8(head).unwrap())).ok();
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        (url, asked)
    }

    fn fetcher() -> Fetcher {
        Fetcher::new(tls::client(None).unwrap(), SECOND)
    }

    #[tokio::test]
    async fn a_connection_is_used_again_and_another_made_where_it_was_closed() {
        const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        let (mut url, mut asked) = server(&[PAGE, PAGE, PAGE], 2).await;
        let mut fetcher = fetcher();
        url.set_username("us%20er").unwrap();
        url.set_password(Some("p")).unwrap();
        for _ in 0..3 {
            let page = fetcher.get(&url, None).await.unwrap();
            assert_eq!(page.whole(2, SECOND).await.unwrap(), "hi");
            // The same server is shown the same, however it is named.
            url.set_username("").unwrap();
            url.set_password(None).unwrap();
        }
        let mut connections = Vec::new();
        while let Ok((connection, head)) = asked.try_recv() {
            assert!(head.contains(&format!("authorization: Basic {}", STANDARD.encode("us er:p"))), "{head}");
            connections.push(connection);
        }
        assert_eq!(connections, [0, 0, 1]);
    }

    #[tokio::test]
    async fn a_server_that_sends_more_than_it_said_costs_its_connection_alone() {
        const MORE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and so on, which nobody asked for";
        let (url, mut asked) = server(&[MORE, MORE, MORE], 9).await;
        let mut fetcher = fetcher();
        for _ in 0..3 {
            let page = fetcher.get(&url, None).await.unwrap();
            assert_eq!(page.whole(2, SECOND).await.unwrap(), "hi");
        }
        let connections: Vec<_> =
            std::iter::from_fn(|| asked.try_recv().ok()).map(|(connection, _)| connection).collect();
        assert_eq!(connections, [0, 1, 2]);
    }

    #[tokio::test]
    async fn redirections_parts_and_ends_are_told() {
        let (url, mut asked) = server(
            &[
                "HTTP/1.1 302 Found\r\nLocation: sub/second?x=1\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 206 Partial\r\nContent-Length: 3\r\n\r\nabc",
                "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
            ],
            10,
        )
        .await;
        let mut fetcher = fetcher();
        let page = fetcher.get(&url, Some((5, 3))).await.unwrap();
        assert_eq!((page.url.path(), page.url.query(), page.is_part), ("/sub/second", Some("x=1"), true));
        assert_eq!(page.whole(3, SECOND).await.unwrap(), "abc");
        asked.recv().await.unwrap();
        let (_, head) = asked.recv().await.unwrap();
        assert!(head.starts_with("GET /sub/second?x=1 HTTP/1.1\r\n") && head.contains("range: bytes=5-7"), "{head}");
        let large = fetcher.get(&url, None).await.unwrap().whole(9, SECOND).await;
        assert!(matches!(large, Err(FetchError::Large(_, 9))));
        // What was not read to its end leaves no connection for the next page, and this server has one alone.
        assert!(fetcher.get(&url, None).await.is_err());
    }

    #[tokio::test]
    async fn silence_ends_it() {
        tokio::time::pause();
        let (url, _asked) = server(&["HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01", ""], 10).await;
        let mut fetcher = fetcher();
        let page = fetcher.get(&url, None).await.unwrap();
        assert!(matches!(page.whole(99, 10 * SECOND).await, Err(FetchError::Silent(SECOND))));
    }

    #[test]
    fn addresses_inside_are_known() {
        let inside = |address: &str| is_inside(address.parse().unwrap());
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(inside(address), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "::ffff:8.8.8.8"] {
            assert!(!inside(address), "{address}");
        }
    }
}
