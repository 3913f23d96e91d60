//! The pusher: a feed to a server that takes WebSocket-FLV.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use culvert_formats::flv::{TagKind, TagWriter, file_header, write_tag};
use culvert_hub::{End, Feed, Next, parameter};
use culvert_media::{Cid, Tracks};
use culvert_net::ws::client::{Upgrade, UpgradeError, connect};
use culvert_net::ws::{self, Decoder, Message, Opcode, Role, WsError};
use culvert_net::{DialError, DialOptions, ReadHalf, WriteHalf, dial_with};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use url::Url;

use super::{PROTOCOL, Word};

/// A server has little to say: pings, a close, and whether anybody watches.
const MESSAGE_BYTES: usize = 4096;
/// How long a push on demand that has said what its stream is made of waits to hear whether anybody watches. It sends
/// then in any case: some tracks are known by their media only.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// A server asks a push that rests every 10 s whether it is there; one that did not twice, and some, has gone.
const REST_SILENCE: Duration = Duration::from_secs(25);
/// How long last words may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is pushed to, and how.
#[derive(Clone, Copy, Debug)]
pub struct Push<'a> {
    /// `ws` or `wss`. A user and a password in it go as HTTP Basic, a user alone as a bearer token, the query as it is.
    pub url: &'a Url,
    /// The platform that the stream comes from, where the query of the URL does not say it.
    pub cid: &'a Cid,
    /// What is trusted, and what proxy is on the way out.
    pub dial: &'a DialOptions,
    /// Shown as a bearer token where the URL has no credentials.
    pub token: Option<&'a str>,
    /// Bounds each step, and the time without progress.
    pub silence: Duration,
    /// Rest while the server says that nobody watches.
    pub on_demand: bool,
    /// Whole frames that go before each tag but the first, to a server that is none of ours. Empty: none.
    pub before_tags: &'a [u8],
}

/// What becomes of a push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PushNews {
    /// The server takes it.
    Begun {
        /// Whether it will say if anybody watches; a push on demand to one that will not is one that sends always.
        tells: bool,
    },
    /// Nobody watches; nothing is sent.
    Resting,
    /// Somebody watches again.
    Resumed,
}

/// Why a push ended.
#[derive(Debug, Error)]
pub enum PushError {
    /// The URL cannot be used.
    #[error("{0}")]
    Url(String),
    /// The server could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It did not agree to a WebSocket.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// It speaks no WebSocket.
    #[error("the server is {0}")]
    Ws(#[from] WsError),
    /// It ended the push.
    #[error("the server closed the push{}", .0.map(|status| format!(" with status {status}")).unwrap_or_default())]
    Closed(Option<u16>),
    /// It takes nothing, or does not ask any more whether we are there.
    #[error("the server did nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// Our own stream ended.
    #[error("the stream ended here: {}", .0.name())]
    SourceEnded(End),
}

impl PushError {
    /// How long the server wants to be left alone, where it said so.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            PushError::Upgrade(UpgradeError::Refused { retry_after, .. }) => *retry_after,
            PushError::Upgrade(_)
            | PushError::Url(_)
            | PushError::Dial(_)
            | PushError::Io(_)
            | PushError::Ws(_)
            | PushError::Closed(_)
            | PushError::Silent(_)
            | PushError::SourceEnded(_) => None,
        }
    }
}

/// Pushes a feed until one of the two ends. `news` is called when something becomes of it.
pub async fn push(push: &Push<'_>, feed: &mut impl Feed, mut news: impl FnMut(PushNews)) -> Result<(), PushError> {
    let mut sending = Sending::open(push).await?;
    news(PushNews::Begun { tells: sending.tells });
    let ended = sending.run(feed, &mut news).await;
    if let Err(PushError::SourceEnded(end)) = &ended {
        sending.part(end).await;
    }
    ended
}

/// What a push does at the moment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Its tracks were sent; it waits for the first word, until then at most.
    Asking(Instant),
    /// Media goes out.
    On,
    /// Nobody watches.
    Resting,
}

struct Sending {
    read: ReadHalf,
    write: WriteHalf,
    decoder: Decoder,
    /// The server says whether anybody watches.
    tells: bool,
    /// And we obey.
    obeys: bool,
    flow: Flow,
    before_tags: Vec<u8>,
    /// A tag was sent.
    begun: bool,
    /// None until the first tracks.
    writer: Option<TagWriter>,
    time_ms: u32,
    silence: Duration,
    /// When the server said something last.
    heard: Instant,
}

/// What a round of the loop came to.
enum Woken {
    Next(Next),
    Ended(End),
    Read(std::io::Result<usize>),
    Late,
}

impl Sending {
    async fn open(push: &Push<'_>) -> Result<Sending, PushError> {
        let url = push.url;
        let tls = match url.scheme() {
            "ws" => None,
            "wss" => Some(push.dial.tls.clone().ok_or_else(|| PushError::Url("nothing is trusted for wss".into()))?),
            other => return Err(PushError::Url(format!("WebSocket-FLV is pushed to ws or wss, not {other}"))),
        };
        let host = url.host_str().ok_or_else(|| PushError::Url("the URL has no host".into()))?;
        let port = url.port_or_known_default().unwrap_or(80);
        let options = DialOptions { tls, uplink: true, proxy: push.dial.proxy.clone() };
        let conn = dial_with(host, port, &options, push.silence).await?;
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        let authorization = authorization(url).or_else(|| push.token.map(|token| format!("Bearer {token}")));
        let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        let upgrade =
            Upgrade { host: &authority, target: &target(url, push.cid), protocol: Some(PROTOCOL), headers: &headers };
        let upgraded = connect(conn, &upgrade, push.silence).await?;
        let tells = upgraded.protocol.as_deref() == Some(PROTOCOL);
        let (read, write) = upgraded.conn.into_split();
        Ok(Sending {
            read,
            write,
            decoder: Decoder::new(Role::Client, MESSAGE_BYTES),
            tells,
            obeys: tells && push.on_demand,
            flow: Flow::On,
            before_tags: if tells { Vec::new() } else { push.before_tags.to_vec() },
            begun: false,
            writer: None,
            time_ms: 0,
            silence: push.silence,
            heard: Instant::now(),
        })
    }

    async fn run(&mut self, feed: &mut impl Feed, news: &mut impl FnMut(PushNews)) -> Result<(), PushError> {
        let mut buffer = vec![0; MESSAGE_BYTES];
        loop {
            let (read, flow) = (&mut self.read, self.flow);
            let rested = self.heard + REST_SILENCE;
            let from_feed = async {
                match flow {
                    Flow::On => Woken::Next(feed.next().await),
                    Flow::Asking(until) => until_then(until, Woken::Late).await,
                    Flow::Resting => timeout_at(rested, feed.idle()).await.map_or(Woken::Late, Woken::Ended),
                }
            };
            let woken = tokio::select! {
                woken = from_feed => woken,
                n = read.read(&mut buffer) => Woken::Read(n),
            };
            match woken {
                Woken::Next(Next::Tracks(tracks)) => {
                    let first = self.writer.is_none();
                    self.send_tracks(&tracks).await?;
                    if first && self.obeys {
                        self.flow = Flow::Asking(Instant::now() + FIRST_WORD);
                    }
                }
                Woken::Next(Next::Frame(frame)) => {
                    if let Some(parts) = self.writer.as_ref().and_then(|writer| writer.frame(&frame)) {
                        self.time_ms = parts.time_ms;
                        self.send_tag(parts.kind, parts.time_ms, &parts.prefix, &parts.payload).await?;
                    }
                }
                // Behind it comes a key frame; the server sees a step in time.
                Woken::Next(Next::Gap(_)) => self.send_headers().await?,
                Woken::Next(Next::End(end)) | Woken::Ended(end) => return Err(PushError::SourceEnded(end)),
                Woken::Late if self.flow == Flow::Resting => return Err(PushError::Silent(REST_SILENCE)),
                Woken::Late => self.flow = Flow::On,
                Woken::Read(n) => {
                    let Some(bytes) = buffer.get(..n?).filter(|bytes| !bytes.is_empty()) else {
                        return Err(PushError::Closed(None));
                    };
                    self.heard = Instant::now();
                    self.decoder.handle_input(bytes);
                    while let Some(message) = self.decoder.poll_message()? {
                        self.hear(message, news).await?;
                    }
                }
            }
        }
    }

    async fn hear(&mut self, message: Message, news: &mut impl FnMut(PushNews)) -> Result<(), PushError> {
        match message {
            Message::Text(text) if self.obeys => match (Word::read(&text).viewers, self.flow) {
                (Some(false), Flow::On | Flow::Asking(_)) => {
                    self.flow = Flow::Resting;
                    news(PushNews::Resting);
                    // From here on the server may forget what it has: it would be old when somebody comes.
                    let word = Word { sending: Some(false), ..Word::default() };
                    self.send(Opcode::Text, word.text().as_bytes()).await?;
                }
                (Some(true), Flow::Resting) => {
                    self.flow = Flow::On;
                    news(PushNews::Resumed);
                }
                (Some(true), Flow::Asking(_)) => self.flow = Flow::On,
                (Some(true), Flow::On) | (Some(false), Flow::Resting) | (None, _) => {}
            },
            Message::Ping(payload) => self.send(Opcode::Pong, &payload).await?,
            Message::Close(status) => return Err(PushError::Closed(status)),
            Message::Text(_) | Message::Binary(_) | Message::Pong(_) => {}
        }
        Ok(())
    }

    /// The file header before the first tracks, then what the tracks are.
    async fn send_tracks(&mut self, tracks: &Tracks) -> Result<(), PushError> {
        let writer = TagWriter::new(tracks);
        if self.writer.is_none() {
            self.send(Opcode::Binary, &file_header(writer.has_audio(), writer.has_video())).await?;
        }
        self.send_tag(TagKind::Script, 0, &[], &writer.metadata()).await?;
        self.writer = Some(writer);
        self.send_headers().await
    }

    /// The codecs' configuration as it is now.
    async fn send_headers(&mut self) -> Result<(), PushError> {
        let headers = self.writer.as_ref().map(TagWriter::sequence_headers).unwrap_or_default();
        for (kind, body) in headers {
            self.send_tag(kind, self.time_ms, &[], &body).await?;
        }
        Ok(())
    }

    async fn send_tag(&mut self, kind: TagKind, time_ms: u32, prefix: &[u8], body: &[u8]) -> Result<(), PushError> {
        let mut tag = Vec::with_capacity(prefix.len() + body.len() + 15);
        write_tag(kind, time_ms, prefix, body, &mut tag);
        if tag.is_empty() {
            return Ok(());
        }
        let frame = ws::encode(Opcode::Binary, &tag, Some(ws::mask()));
        if std::mem::replace(&mut self.begun, true) && !self.before_tags.is_empty() {
            let both = [&self.before_tags[..], &frame].concat();
            return self.write(&both).await;
        }
        self.write(&frame).await
    }

    async fn send(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), PushError> {
        self.write(&ws::encode(opcode, payload, Some(ws::mask()))).await
    }

    async fn write(&mut self, mut left: &[u8]) -> Result<(), PushError> {
        // What is bounded is the time without progress: a key frame takes long on a slow uplink.
        while !left.is_empty() {
            match timeout(self.silence, self.write.write(left)).await {
                Ok(Ok(0)) => return Err(PushError::Closed(None)),
                Ok(n) => left = left.get(n?..).unwrap_or_default(),
                Err(_) => return Err(PushError::Silent(self.silence)),
            }
        }
        timeout(self.silence, self.write.flush())
            .await
            .map_err(|_| PushError::Silent(self.silence))?
            .map_err(PushError::Io)
    }

    /// Says why there is no more (RFC 6455 7.4.1), and waits for the server to have read it.
    async fn part(&mut self, end: &End) {
        let status = match end {
            End::Finished => 1000,
            End::Closed => 1001,
            End::Lost | End::Stalled | End::Disconnected | End::Changed => 1011,
        };
        let (read, write) = (&mut self.read, &mut self.write);
        let words = async {
            write.write_all(&ws::close(status, end.name(), Some(ws::mask()))).await?;
            write.shutdown().await?;
            let mut ignored = vec![0; MESSAGE_BYTES];
            while read.read(&mut ignored).await? > 0 {}
            Ok::<_, std::io::Error>(())
        };
        timeout(FAREWELL, words).await.ok();
    }
}

async fn until_then<T>(then: Instant, what: T) -> T {
    sleep_until(then).await;
    what
}

/// Path and query, with our cid where the query has none.
fn target(url: &Url, cid: &Cid) -> String {
    let query = url.query().unwrap_or_default();
    match (query, parameter(query, "cid")) {
        ("", _) => format!("{}?cid={cid}", url.path()),
        (query, Some(_)) => format!("{}?{query}", url.path()),
        (query, None) => format!("{}?{query}&cid={cid}", url.path()),
    }
}

/// RFC 7617 where there is a password, else RFC 6750.
fn authorization(url: &Url) -> Option<String> {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    match (decode(url.username()), url.password().map(decode)) {
        (user, None) if user.is_empty() => None,
        (token, None) => Some(format!("Bearer {token}")),
        (user, Some(password)) => Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cid_is_added_where_the_url_has_none() {
        let cid = Cid::parse("c1").unwrap();
        let target = |url: &str| target(&Url::parse(url).unwrap(), &cid);
        assert_eq!(target("ws://h/x/erwscascade/wspush/a"), "/x/erwscascade/wspush/a?cid=c1");
        assert_eq!(target("ws://h/a?token=t%20u"), "/a?token=t%20u&cid=c1");
        assert_eq!(target("ws://h/a?cid=mine&token=t"), "/a?cid=mine&token=t");
    }

    #[test]
    fn a_password_goes_as_basic_and_a_name_alone_as_a_token() {
        let header = |url: &str| authorization(&Url::parse(url).unwrap());
        assert_eq!(header("ws://h/a?token=x"), None);
        assert_eq!(header("ws://a%20token@h/a").as_deref(), Some("Bearer a token"));
        assert_eq!(header("ws://u:p%3Aq@h/a").as_deref(), Some("Basic dTpwOnE="));
    }
}
