//! An old upper, served by us as its lower: requests come as messages, answers go back as bare bodies, in the order of the requests and
//! never late, for its reader is stuck for good by an answer that it does not wait for any more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use culvert_link::{Body, BoxFuture, Conn, Otherwise, Remote, Service, body, empty};
use culvert_net::ws::{self, Decoder, Message, Opcode, Role};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, interval_at, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::gather::gather;
use crate::wire::control::{self, Info};

/// It waits 10 s for an answer; this leaves some time for the way.
const ANSWER: Duration = Duration::from_millis(9_000);
/// Requests at work at once; what is more is answered with a refusal in its turn.
const REQUESTS: usize = 64;
/// Refusals that wait beside them; an upper that goes on asking all the same is out of its mind.
const REFUSALS: usize = 64;
/// Bytes of requests at work.
const AT_WORK_BYTES: usize = 64 << 20;
/// With so much unwritten, pings are not answered any more.
const PONGS_BYTES: usize = 64 << 10;
/// When it has given up on an answer.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// Largest request.
const MESSAGE_BYTES: usize = 33 << 20;
/// Most bytes of an answer: it goes in one message, and is built in memory.
const ANSWER_BYTES: usize = 16 << 20;
const READ_BYTES: usize = 16 << 10;
const PING: Duration = Duration::from_secs(10);
/// An upper that answered pings and then says nothing for so long is dead.
const SILENCE: Duration = Duration::from_secs(25);
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// Where an old lower takes whole URLs to: its own port, whatever that is. Other hosts are not ours to call for it.
const OWN: &str = "http://127.0.0.1:8440";

/// Serves uppers that are of the old kind.
pub struct OldUppers {
    info: Info,
    service: Arc<dyn Service>,
}

impl OldUppers {
    /// Introduces this node as `info`, and answers by `service`.
    pub fn new(info: Info, service: Arc<dyn Service>) -> OldUppers {
        OldUppers { info, service }
    }
}

impl Otherwise for OldUppers {
    fn carrier(&self) -> &'static str {
        "m7s"
    }

    fn serve(&self, conn: Conn, stop: CancellationToken) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(serve(conn, self.info.clone(), self.service.clone(), stop))
    }
}

/// One of its requests, done.
struct Answered {
    sn: i64,
    deadline: Instant,
    body: Bytes,
    /// Of the request.
    asked_bytes: usize,
}

struct Serving {
    decoder: Decoder,
    output: BytesMut,
    answers: FuturesOrdered<BoxFuture<'static, Answered>>,
    at_work_bytes: usize,
    /// By when what is in `output` must have gone out.
    sent_by: Option<Instant>,
    overrun: bool,
    service: Arc<dyn Service>,
    remote: SocketAddr,
    heard: Instant,
    /// It answers pings.
    answers_pings: bool,
    said_farewell: bool,
}

/// Serves one until it ends or `stop`. The error, a sentence, says why the link is lost.
async fn serve(conn: Conn, info: Info, service: Arc<dyn Service>, stop: CancellationToken) -> Result<(), String> {
    let remote = conn.remote();
    let (mut read, mut write) = conn.into_split();
    let mut serving = Serving {
        decoder: Decoder::new(Role::Client, MESSAGE_BYTES),
        output: BytesMut::new(),
        answers: FuturesOrdered::new(),
        at_work_bytes: 0,
        sent_by: None,
        overrun: false,
        service,
        remote,
        heard: Instant::now(),
        answers_pings: false,
        said_farewell: false,
    };
    serving.send(Opcode::Text, control::Message::info(1, &info).as_bytes());
    let mut pings = interval_at(Instant::now() + PING, PING);
    let mut buffer = vec![0; READ_BYTES];
    let ended = loop {
        let dead = serving.heard + SILENCE;
        tokio::select! {
            n = read.read(&mut buffer) => match n {
                Ok(0) => break Err("the connection ended without a word".to_string()),
                Err(error) => break Err(format!("the connection broke: {error}")),
                Ok(n) => match serving.handle_input(buffer.get(..n).unwrap_or_default()) {
                    Ok(()) if serving.said_farewell => break Ok(()),
                    Ok(()) if serving.overrun => break Err("the upper asks for more than can wait".into()),
                    Ok(()) => {}
                    Err(fault) => break Err(format!("the upper is {fault}")),
                },
            },
            n = write.write(&serving.output), if !serving.output.is_empty() => match n {
                Ok(0) => break Err("the connection takes nothing more".to_string()),
                Err(error) => break Err(format!("the connection broke: {error}")),
                Ok(n) => serving.wrote(n),
            },
            // A late answer stops its reader for good; a link that ended is dialled again.
            () = sleep_until(serving.sent_by.unwrap_or(dead)), if serving.sent_by.is_some() => {
                break Err("an answer took longer to go out than the upper waits for it".to_string());
            }
            // One behind the other: what waits here can still be left out when it is late.
            Some(answered) = serving.answers.next(), if serving.output.is_empty() => serving.answer(&answered),
            _ = pings.tick() => serving.send(Opcode::Ping, b""),
            () = sleep_until(dead), if serving.answers_pings => {
                break Err(format!("it said nothing for {} s", SILENCE.as_secs()));
            }
            () = stop.cancelled() => break Ok(()),
        }
    };
    let at_boundary = serving.output.is_empty();
    // Its side of a connection must have ended before there is another one of ours: the second of two with one cid that ends
    // ends the old upper.
    let words = async {
        write.write_all(&ws::close(1000, "", Some(ws::mask()))).await?;
        while !serving.said_farewell {
            let n = read.read(&mut buffer).await?;
            if n == 0 || serving.handle_input(buffer.get(..n).unwrap_or_default()).is_err() {
                break;
            }
        }
        write.shutdown().await
    };
    if at_boundary {
        timeout(FAREWELL, words).await.ok();
    }
    ended
}

impl Serving {
    fn handle_input(&mut self, bytes: &[u8]) -> Result<(), ws::WsError> {
        self.heard = Instant::now();
        self.decoder.handle_input(bytes);
        while let Some(message) = self.decoder.poll_message()? {
            match message {
                Message::Text(text) | Message::Binary(text) => match control::Message::read(&text) {
                    Ok(control::Message::Request(request)) => self.take(request),
                    Ok(_) => {}
                    Err(why) => tracing::info!(%why, "a message of an old upper is passed over"),
                },
                // Who asks faster than he reads does not wait for an answer.
                Message::Ping(payload) if self.output.len() < PONGS_BYTES => self.send(Opcode::Pong, &payload),
                Message::Ping(_) => {}
                Message::Pong(_) => self.answers_pings = true,
                Message::Close(_) => self.said_farewell = true,
            }
        }
        Ok(())
    }

    fn take(&mut self, request: control::Request) {
        let deadline = Instant::now() + ANSWER;
        let (sn, asked_bytes) = (request.sn, request.body.len());
        if self.answers.len() >= REQUESTS + REFUSALS {
            self.overrun = true;
            return;
        }
        if self.answers.len() >= REQUESTS || self.at_work_bytes + asked_bytes > AT_WORK_BYTES {
            let body = Bytes::from_static(b"as many requests are under way on this link as may be\n");
            let refused = Answered { sn, deadline, body, asked_bytes: 0 };
            return self.answers.push_back(Box::pin(async move { refused }));
        }
        self.at_work_bytes += asked_bytes;
        let (service, remote) = (self.service.clone(), self.remote);
        self.answers.push_back(Box::pin(async move {
            let answered = timeout_at(deadline, answer(request, service, remote)).await;
            let body = answered.unwrap_or(Bytes::from_static(b"no answer in time\n"));
            Answered { sn, deadline, body, asked_bytes }
        }));
    }

    fn answer(&mut self, answered: &Answered) {
        let Answered { sn, deadline, body, asked_bytes } = answered;
        self.at_work_bytes -= asked_bytes;
        // The answers before it may have taken long to go out.
        let given_up = *deadline + (GIVEN_UP - ANSWER);
        if Instant::now() <= *deadline + (GIVEN_UP - ANSWER) / 2 {
            self.send(Opcode::Text, control::Message::response(*sn, body).as_bytes());
            self.sent_by = Some(given_up);
        } else {
            tracing::info!(sn, "an answer to an old upper is too late and left out");
        }
    }

    fn wrote(&mut self, n: usize) {
        self.output.advance(n);
        if self.output.is_empty() {
            self.output = BytesMut::new();
            self.sent_by = None;
        }
    }

    fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        self.output.extend_from_slice(&ws::encode(opcode, payload, Some(ws::mask())));
    }
}

/// The body of our answer; what goes wrong is a text, for there is no status to say it.
async fn answer(request: control::Request, service: Arc<dyn Service>, remote: SocketAddr) -> Bytes {
    let request = match as_http(request, remote) {
        Ok(request) => request,
        Err(why) => return format!("{why}\n").into(),
    };
    let response: Response<Body> = service.call(request).await;
    gather(response.into_body(), ANSWER_BYTES).await.unwrap_or_else(|why| format!("the answer: {why}\n").into())
}

fn as_http(request: control::Request, remote: SocketAddr) -> Result<Request<Body>, &'static str> {
    let target = request.url.strip_prefix(OWN).unwrap_or(&request.url);
    if !target.starts_with('/') {
        return Err("only paths of this node can be asked for, beginning with /");
    }
    let uri: Uri = target.parse().map_err(|_| "this is no path that HTTP can ask for")?;
    let method = if request.method.is_empty() { "GET" } else { &request.method };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| "this is no method of HTTP")?;
    // A tunnel cannot come back through messages.
    if method == Method::CONNECT {
        return Err("no connection goes through the link of an old upper");
    }
    let sent = if request.body.is_empty() { empty() } else { body(Full::new(request.body)) };
    let mut http = Request::new(sent);
    (*http.method_mut(), *http.uri_mut()) = (method, uri);
    for (name, value) in &request.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else { continue };
        if !OF_A_CONNECTION.contains(&name) {
            http.headers_mut().append(name, value);
        }
    }
    http.extensions_mut().insert(Remote(remote));
    Ok(http)
}

/// What says something of a connection that does not exist here, or asks for an answer whose form could not be told.
const OF_A_CONNECTION: [HeaderName; 9] = [
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::TE,
    header::EXPECT,
    header::ACCEPT_ENCODING,
    header::RANGE,
];
