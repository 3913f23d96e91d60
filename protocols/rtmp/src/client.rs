//! The client: pulls a stream from another server, or pushes one to it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_formats::flv::{self, Demux, TagKind, TagWriter};
use culvert_formats::sound::{InAac, Player};
use culvert_hub::{End, Feed, Next, Publisher, Replaced};
use culvert_net::{Conn, DialError, ReadHalf, WriteHalf, dial};
use rustls::ClientConfig;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::random;
use crate::session::{ClientEvent, ClientSession, Goal, Output, Target, UrlError};
use crate::wire;

/// What the kernel may hold unsent of a push; what waits in our own queue instead can still be skipped.
const UNSENT_BYTES: u32 = 64 << 10;
/// Read at a time from a server that plays.
const READ_BYTES: usize = 64 << 10;

/// Why a pull or a push ended.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The server could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The server speaks no RTMP.
    #[error("the server's RTMP is broken: {0}")]
    Wire(#[from] wire::Error),
    /// What it sends is no media.
    #[error("the server's media is broken: {0}")]
    Media(#[from] flv::Error),
    /// The server said no, or ended the stream.
    #[error("the server said {code}: {description}")]
    Ended {
        /// Its code.
        code: String,
        /// Its words.
        description: String,
    },
    /// It closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// It fell silent, or takes nothing.
    #[error("the server did nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// Our own stream was closed or taken over.
    #[error(transparent)]
    Replaced(#[from] Replaced),
    /// Our own stream ended.
    #[error("the stream ended here: {}", .0.name())]
    SourceEnded(End),
}

struct Connection {
    session: ClientSession,
    read: ReadHalf,
    write: WriteHalf,
    buffer: Vec<u8>,
    silence: Duration,
}

impl Connection {
    async fn open(
        url: &str,
        goal: Goal,
        tls: &Arc<ClientConfig>,
        silence: Duration,
    ) -> Result<Connection, ClientError> {
        let target = Target::parse(url)?;
        let conn: Conn = dial(&target.host, target.port, target.tls.then(|| tls.clone()), silence).await?;
        conn.set_notsent_lowat(UNSENT_BYTES);
        let (read, write) = conn.into_split();
        let session = ClientSession::new(goal, target, 0, &random());
        Ok(Connection { session, read, write, buffer: vec![0; READ_BYTES], silence })
    }

    /// Sends what waits; returns the next event, where there is one.
    async fn flush(&mut self) -> Result<Option<ClientEvent>, ClientError> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(bytes) => write(&mut self.write, &bytes, self.silence).await?,
                Output::Event(ClientEvent::Ended { code, description }) => {
                    return Err(ClientError::Ended { code: tame(&code), description: tame(&description) });
                }
                Output::Event(event) => return Ok(Some(event)),
            }
        }
        Ok(None)
    }

    /// Takes what the server sends next.
    async fn hear(&mut self) -> Result<(), ClientError> {
        let n = match timeout(self.silence, self.read.read(&mut self.buffer)).await {
            Ok(n) => n?,
            Err(_) => return Err(ClientError::Silent(self.silence)),
        };
        match self.buffer.get(..n).filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => Ok(self.session.handle_input(bytes)?),
            None => Err(ClientError::Closed),
        }
    }

    async fn event(&mut self) -> Result<ClientEvent, ClientError> {
        loop {
            if let Some(event) = self.flush().await? {
                return Ok(event);
            }
            self.hear().await?;
        }
    }
}

async fn write(to: &mut WriteHalf, bytes: &[u8], limit: Duration) -> Result<(), ClientError> {
    // What is bounded is the time without progress: a key frame takes long on a slow uplink.
    let mut left = bytes;
    while !left.is_empty() {
        match timeout(limit, to.write(left)).await {
            Ok(Ok(0)) => return Err(ClientError::Closed),
            Ok(n) => left = left.get(n?..).unwrap_or_default(),
            Err(_) => return Err(ClientError::Silent(limit)),
        }
    }
    match timeout(limit, to.flush()).await {
        Ok(flushed) => Ok(flushed?),
        Err(_) => Err(ClientError::Silent(limit)),
    }
}

/// Most characters of a server's words that are repeated.
const WORDS: usize = 200;

/// A server's words for our logs: on one line, and not long.
fn tame(words: &str) -> String {
    words.escape_debug().take(WORDS).collect()
}

/// Pulls `url` into the stream until one of the two ends; `begun` is called when media flows. `silence` bounds each
/// step and the time between two messages.
pub async fn pull(
    url: &str,
    tls: &Arc<ClientConfig>,
    silence: Duration,
    publisher: &Publisher,
    mut begun: impl FnMut(),
) -> Result<(), ClientError> {
    let mut connection = Connection::open(url, Goal::Play, tls, silence).await?;
    let mut demux = Demux::new();
    loop {
        let ClientEvent::Media { kind, time_ms, body } = connection.event().await? else { continue };
        demux.handle_tag(SystemTime::now(), kind, time_ms, body)?;
        while let Some(event) = demux.poll_event() {
            match event {
                flv::Event::Tracks(tracks) => {
                    publisher.set_tracks(tracks);
                    begun();
                }
                flv::Event::Frame(frame) => publisher.write(frame)?,
                flv::Event::EndOfSequence => {}
            }
        }
    }
}

/// Pushes a feed to `url` until one of the two ends; `begun` is called when the server takes it. `silence` bounds each
/// step. Opus becomes AAC for a server that does not say that it takes it.
pub async fn push(
    url: &str,
    tls: &Arc<ClientConfig>,
    silence: Duration,
    feed: &mut impl Feed,
    mut begun: impl FnMut(),
) -> Result<(), ClientError> {
    let mut connection = Connection::open(url, Goal::Publish, tls, silence).await?;
    while connection.event().await? != ClientEvent::Ready {}
    begun();
    let mut stage = None;
    let mut writer: Option<TagWriter> = None;
    let mut time_ms = 0;
    let mut out = Vec::new();
    let mut heard = vec![0; 4096];
    loop {
        connection.flush().await?;
        let next = tokio::select! {
            next = feed.next() => next,
            n = connection.read.read(&mut heard) => {
                match heard.get(..n?).filter(|bytes| !bytes.is_empty()) {
                    Some(bytes) => connection.session.handle_input(bytes)?,
                    None => return Err(ClientError::Closed),
                }
                continue;
            }
        };
        let session = &connection.session;
        out.clear();
        match next {
            Next::Tracks(tracks) => {
                if stage.is_some() || !session.takes().all_of(&tracks) {
                    stage.get_or_insert_with(|| InAac::new(&tracks, Player::Flv)).set_tracks(&tracks);
                }
                let new = TagWriter::new(stage.as_ref().map_or(&tracks, InAac::tracks));
                session.write_media(TagKind::Script, 0, &[], &new.metadata(), &mut out);
                for (kind, body) in new.sequence_headers() {
                    session.write_media(kind, time_ms, &[], &body, &mut out);
                }
                writer = Some(new);
            }
            Next::Frame(frame) => {
                let mut pass = |frame: &_| {
                    if let Some(parts) = writer.as_ref().and_then(|w| w.frame(frame)) {
                        time_ms = parts.time_ms;
                        session.write_media(parts.kind, parts.time_ms, &parts.prefix, &parts.payload, &mut out);
                    }
                };
                match &mut stage {
                    Some(stage) => stage.push(&frame, pass),
                    None => pass(&frame),
                }
            }
            // The server sees a step in time, and a key frame behind it.
            Next::Gap(_) => stage.iter_mut().for_each(InAac::restart),
            Next::End(end) => {
                connection.session.close();
                connection.flush().await?;
                timeout(silence, connection.write.shutdown()).await.ok();
                return Err(ClientError::SourceEnded(end));
            }
        }
        write(&mut connection.write, &out, silence).await?;
    }
}
