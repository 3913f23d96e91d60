//! A connection to a server: requests and their answers, with what comes between them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_net::{Conn, ReadHalf, WriteHalf, dial};
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::ClientError;
use crate::wire::auth::{Challenge, Client};
use crate::wire::headers::{Public, Session};
use crate::wire::{Input, Method, Reader, Request, Response};

/// What the kernel may hold unsent of a push; what waits in our own queue instead can still be skipped.
const UNSENT_BYTES: u32 = 64 << 10;
const READ_BYTES: usize = 64 << 10;
/// How long a camera may take to accept: one that is away is asked again, and must be found soon after its return.
const DIAL: Duration = Duration::from_secs(2);
/// How long it may take where there is a name to be looked up, or TLS to be opened.
const FAR_DIAL: Duration = Duration::from_secs(6);
/// How long the last word may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes of packets that came before the answer to a request; a server may begin before it says so.
const EARLY_BYTES: usize = 8 << 20;
/// A session whose server does not say how long it lives (RFC 2326 12.37).
const SESSION: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("Culvert/", env!("CARGO_PKG_VERSION"));

/// A connection, and the session on it.
pub(super) struct Connection {
    read: ReadHalf,
    /// None once the last word was said.
    write: Option<WriteHalf>,
    reader: Reader,
    buffer: Vec<u8>,
    silence: Duration,
    cseq: u32,
    /// Without user and password.
    pub(super) url: Url,
    user: Option<(String, String)>,
    auth: Option<Client>,
    session: Option<String>,
    pub(super) session_timeout: Duration,
    public: Option<Public>,
    early: VecDeque<(u8, Bytes)>,
    early_bytes: usize,
    pub(super) remote: std::net::SocketAddr,
    /// What the session is asked about as a whole.
    pub(super) aggregate: String,
}

impl Drop for Connection {
    /// Spawns a task for the last word, where a session is left without one.
    fn drop(&mut self) {
        let (Some(mut write), Some(_), Ok(runtime)) =
            (self.write.take(), &self.session, tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let url = self.aggregate.clone();
        let teardown = self.written(Request::new(Method::Teardown, url));
        runtime.spawn(async move { timeout(FAREWELL, say_last(&mut write, &teardown)).await });
    }
}

async fn say_last(write: &mut WriteHalf, bytes: &[u8]) -> std::io::Result<()> {
    write.write_all(bytes).await?;
    write.shutdown().await
}

/// What came while nothing was asked.
#[derive(Debug)]
pub(super) enum Heard {
    /// A packet, on its channel.
    Packet(u8, Bytes),
    /// An answer to a sign of life, or a question of the server.
    Answer,
}

impl Connection {
    pub(super) async fn open(url: &Url, tls: &Arc<ClientConfig>, silence: Duration) -> Result<Connection, ClientError> {
        let host = url.host_str().ok_or_else(|| ClientError::Url("this URL names no host".into()))?;
        let secure = match url.scheme() {
            "rtsp" => false,
            "rtsps" => true,
            other => return Err(ClientError::Url(format!("{other}: is not RTSP"))),
        };
        let port = url.port().unwrap_or(if secure { 322 } else { 554 });
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let near = !secure && host.parse::<std::net::IpAddr>().is_ok();
        let limit = if near { DIAL } else { FAR_DIAL }.min(silence);
        let conn: Conn = dial(host, port, secure.then(|| tls.clone()), limit).await?;
        conn.set_nodelay(true);
        conn.set_notsent_lowat(UNSENT_BYTES);
        conn.set_keepalive();
        let remote = conn.remote();
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let has_user = !url.username().is_empty() || url.password().is_some();
        let user = has_user.then(|| (decode(url.username()), decode(url.password().unwrap_or_default())));
        let mut bare = url.clone();
        // Neither fails for a URL with a host.
        bare.set_username("").ok();
        bare.set_password(None).ok();
        bare.set_fragment(None);
        let (read, write) = conn.into_split();
        let aggregate = bare.to_string();
        Ok(Connection {
            aggregate,
            read,
            write: Some(write),
            reader: Reader::new(),
            buffer: vec![0; READ_BYTES],
            silence,
            cseq: 0,
            url: bare,
            user,
            auth: None,
            session: None,
            session_timeout: SESSION,
            public: None,
            early: VecDeque::new(),
            early_bytes: 0,
            remote,
        })
    }

    /// Sends a request and returns the answer to it; answers a challenge, once.
    pub(super) async fn ask(&mut self, request: Request) -> Result<Response, ClientError> {
        let response = self.ask_once(request.clone()).await?;
        if response.status != 401 {
            return Ok(response);
        }
        let Some(challenge) = Challenge::best(response.headers.all("WWW-Authenticate")) else { return Ok(response) };
        match (&mut self.auth, &self.user) {
            // It was answered already: what was shown is wrong, unless only its nonce is old.
            (Some(auth), _) if challenge.is_stale() => auth.handle_challenge(challenge),
            (None, Some((user, password))) => self.auth = Some(Client::new(user, password, challenge)),
            (Some(_), _) | (None, None) => return Ok(response),
        }
        self.ask_once(request).await
    }

    async fn ask_once(&mut self, request: Request) -> Result<Response, ClientError> {
        let cseq = self.send(request).await?;
        let deadline = Instant::now() + self.silence;
        loop {
            match self.next(deadline).await? {
                Input::Response(response) if response.headers.cseq().is_none_or(|echo| echo == cseq) => {
                    return Ok(response);
                }
                // To a sign of life that we did not wait for.
                Input::Response(_) => {}
                Input::Interleaved { channel, data } => {
                    if self.early_bytes + data.len() <= EARLY_BYTES {
                        self.early_bytes += data.len();
                        self.early.push_back((channel, data));
                    }
                }
                Input::Request(request) => self.answer(&request).await?,
            }
        }
    }

    /// Sends a request without waiting for its answer; returns its number.
    pub(super) async fn send(&mut self, request: Request) -> Result<u32, ClientError> {
        let out = self.written(request);
        self.write(&out).await?;
        Ok(self.cseq)
    }

    /// The bytes of a request in this session.
    fn written(&mut self, mut request: Request) -> Vec<u8> {
        self.cseq += 1;
        request.headers.push("CSeq", self.cseq.to_string());
        request.headers.push("User-Agent", AGENT);
        if let Some(session) = &self.session {
            request.headers.push("Session", session.clone());
        }
        if let Some(auth) = &mut self.auth {
            let mut cnonce = [0; 8];
            // A system without randomness would still serve.
            getrandom::fill(&mut cnonce).ok();
            let cnonce = format!("{:016x}", u64::from_be_bytes(cnonce));
            let value = auth.authorize(request.method.name(), &request.uri, &cnonce);
            request.headers.push("Authorization", value);
        }
        let mut out = Vec::new();
        request.write(&mut out);
        out
    }

    /// Says that the session is over, so that the server has room for the next one; whoever drops a connection without this has it said in
    /// a task of its own.
    pub(super) async fn farewell(&mut self) {
        let (Some(mut write), Some(_)) = (self.write.take(), &self.session) else { return };
        let url = self.aggregate.clone();
        let teardown = self.written(Request::new(Method::Teardown, url));
        timeout(FAREWELL, say_last(&mut write, &teardown)).await.ok();
    }

    /// Writes bytes. What is bounded is the time without progress: a key frame takes long on a slow uplink.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let (mut left, limit) = (bytes, self.silence);
        let Some(write) = &mut self.write else { return Err(ClientError::Closed) };
        while !left.is_empty() {
            match timeout(limit, write.write(left)).await {
                Ok(Ok(0)) => return Err(ClientError::Closed),
                Ok(n) => left = left.get(n?..).unwrap_or_default(),
                Err(_) => return Err(ClientError::Silent(limit)),
            }
        }
        match timeout(limit, write.flush()).await {
            Ok(flushed) => Ok(flushed?),
            Err(_) => Err(ClientError::Silent(limit)),
        }
    }

    async fn next(&mut self, deadline: Instant) -> Result<Input, ClientError> {
        loop {
            if let Some(input) = self.reader.poll()? {
                return Ok(input);
            }
            match timeout_at(deadline, self.fill()).await {
                Ok(filled) => filled?,
                Err(_) => return Err(ClientError::Silent(self.silence)),
            }
        }
    }

    /// Reads some bytes. Cancel safe.
    async fn fill(&mut self) -> Result<(), ClientError> {
        let n = self.read.read(&mut self.buffer).await?;
        match self.buffer.get(..n).filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => {
                self.reader.handle_input(bytes);
                Ok(())
            }
            None => Err(ClientError::Closed),
        }
    }

    /// What comes next while nothing is asked. Cancel safe, but for the answer to a question of the server.
    pub(super) async fn hear(&mut self) -> Result<Heard, ClientError> {
        if let Some((channel, data)) = self.early.pop_front() {
            return Ok(Heard::Packet(channel, data));
        }
        loop {
            match self.reader.poll()? {
                Some(Input::Interleaved { channel, data }) => return Ok(Heard::Packet(channel, data)),
                Some(Input::Response(response)) => {
                    // RFC 2326 11.3.5: the session is gone, though media may go on for a while.
                    if response.status == 454 {
                        return Err(ClientError::Ended);
                    }
                    return Ok(Heard::Answer);
                }
                Some(Input::Request(request)) => {
                    self.answer(&request).await?;
                    return Ok(Heard::Answer);
                }
                None => self.fill().await?,
            }
        }
    }

    /// Answers a question of the server.
    async fn answer(&mut self, request: &Request) -> Result<(), ClientError> {
        let status = match request.method {
            Method::Options | Method::GetParameter | Method::SetParameter => 200,
            // It will close the connection; the next attempt asks anew, and is sent on.
            Method::Redirect | Method::Teardown => return Err(ClientError::Ended),
            Method::Describe
            | Method::Announce
            | Method::Setup
            | Method::Play
            | Method::Record
            | Method::Pause
            | Method::Other(_) => 501,
        };
        let mut response = Response::new(status);
        if let Some(cseq) = request.headers.cseq() {
            response.headers.push("CSeq", cseq.to_string());
        }
        let mut out = Vec::new();
        response.write(&mut out);
        self.write(&out).await
    }

    /// Asks what the server can; some know no `OPTIONS`, which is no fault.
    pub(super) async fn options(&mut self) -> Result<(), ClientError> {
        let response = self.ask(Request::new(Method::Options, self.url.as_str())).await?;
        if response.status == 200 {
            self.public = Some(Public::parse(response.headers.all("Public")));
        }
        Ok(())
    }

    /// Takes what an answer says of the session.
    pub(super) fn note_session(&mut self, response: &Response) {
        let Some(session) = response.headers.get("Session").and_then(Session::parse) else { return };
        if let Some(timeout) = session.timeout {
            self.session_timeout = timeout.clamp(Duration::from_secs(5), Duration::from_secs(3600));
        }
        self.session = Some(session.id);
    }

    /// Says that we are there, by what the server has for it.
    pub(super) async fn sign_of_life(&mut self) -> Result<(), ClientError> {
        let has = self.public.as_ref().is_some_and(|public| public.has(&Method::GetParameter));
        let method = if has { Method::GetParameter } else { Method::Options };
        let url = self.aggregate.clone();
        self.send(Request::new(method, url)).await.map(|_| ())
    }
}

/// An answer that is not a yes, as an error.
pub(super) fn refused(method: &'static str, response: &Response) -> ClientError {
    /// Most characters of a server's words that are repeated.
    const WORDS: usize = 200;
    let reason = response.reason.escape_debug().take(WORDS).collect();
    ClientError::Refused { method, status: response.status, reason }
}
