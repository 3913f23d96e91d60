//! A pusher that was let in: its messages become a published stream.

use std::time::{Duration, SystemTime};

use culvert_formats::flv::{self, Demux, Event, Reader};
use culvert_hub::{End, Hub, Publisher};
use culvert_net::ws::{self, Decoder, Message, Opcode, Role, WsError};
use culvert_net::{Conn, WriteHalf};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::Word;

/// Largest message: twice the largest tag (security.md S21), and what FLV puts around one.
const MESSAGE_BYTES: usize = (16 << 20) + 15;
/// Read at a time.
const READ_BYTES: usize = 64 << 10;
/// A pusher shows within this what its stream is made of.
pub(super) const FIRST_MEDIA: Duration = Duration::from_secs(10);
/// A push on demand goes on for so long after its last viewer.
const GRACE: Duration = Duration::from_secs(10);
/// A pusher that rests is asked this often whether it is still there, or more often where the limit of silence is
/// short. Gateways close what is idle for 60 s.
const PING: Duration = Duration::from_secs(10);
/// How long last words may take, and how long we go on reading so that the peer sees them.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a pusher did wrong, or what befell it.
#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Ws(#[from] WsError),
    #[error(transparent)]
    Flv(#[from] flv::Error),
    #[error(transparent)]
    Io(std::io::Error),
    /// What stands between us and the socket cannot make WebSocket frames of what comes.
    #[error("{0}")]
    Framing(std::io::Error),
    #[error("a text message; pushes are binary")]
    Text,
    #[error("no media within {} s", FIRST_MEDIA.as_secs())]
    Late,
    #[error("the pusher sent nothing for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the pusher reads nothing")]
    Deaf,
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Fault {
        if error.kind() == std::io::ErrorKind::InvalidData { Fault::Framing(error) } else { Fault::Io(error) }
    }
}

impl Fault {
    /// The status to close with (RFC 6455 7.4.1), and a stable word for counters.
    fn words(&self) -> (u16, &'static str) {
        match self {
            Fault::Ws(fault) => (fault.status(), "protocol"),
            Fault::Framing(_) => (1002, "protocol"),
            Fault::Flv(_) => (1007, "media"),
            Fault::Io(_) => (1002, "io"),
            Fault::Text => (1003, "text"),
            Fault::Late => (1008, "no-media"),
            Fault::Silent(_) => (1008, "silent"),
            Fault::Deaf => (1008, "flood"),
        }
    }
}

/// How a push ended without a fault.
enum Over {
    /// The pusher closed, with this status.
    Closed(Option<u16>),
    /// Its connection ended without a word.
    Gone,
    /// The API closed it, another pusher took over, or the node ends.
    Cancelled,
}

struct Receiving {
    publisher: Publisher,
    viewers: watch::Receiver<usize>,
    write: WriteHalf,
    /// Whether the pusher is one of ours, and wants to hear of viewers.
    ours: bool,
    silence: Duration,
    decoder: Decoder,
    reader: Reader,
    demux: Demux,
    /// The tracks are known.
    live: bool,
    began: Instant,
    /// When something was read last.
    heard: Instant,
    /// What the pusher was told last of viewers.
    told: Option<bool>,
    /// Since when nobody watches.
    unwatched: Option<Instant>,
    ping_at: Instant,
}

/// Publishes what comes until one of the two ends.
pub(super) async fn receive(conn: Conn, publisher: Publisher, ours: bool, silence: Duration, hub: Hub) {
    let remote = conn.remote();
    let (mut read, write) = conn.into_split();
    let now = Instant::now();
    let mut receiving = Receiving {
        viewers: publisher.viewers(),
        publisher,
        write,
        ours,
        silence,
        decoder: Decoder::new(Role::Server, MESSAGE_BYTES),
        reader: Reader::new(),
        demux: Demux::new(),
        live: false,
        began: now,
        heard: now,
        told: None,
        unwatched: None,
        ping_at: now,
    };
    let over = receiving.talk(&mut read).await;
    let (end, status, reason) = match over {
        Ok(Over::Closed(Some(1000))) => (End::Finished, Some(1000), String::new()),
        // Statuses that mean that there was none must not be sent back (RFC 6455 7.4).
        Ok(Over::Closed(Some(status @ (1001..=1003 | 1007..=1014 | 3000..=4999)))) => {
            (End::Lost, Some(status), String::new())
        }
        Ok(Over::Closed(status)) => (End::Lost, Some(status.map_or(1000, |_| 1002)), String::new()),
        Ok(Over::Gone) | Err(Fault::Io(_)) => (End::Lost, None, String::new()),
        Ok(Over::Cancelled) => (End::Closed, Some(1001), "closed or taken over".to_string()),
        Err(fault) => {
            let (status, kind) = fault.words();
            hub.figures().count_fault("ws-flv", kind);
            // A peer's mistake is no trouble of ours.
            tracing::info!(%remote, protocol = "ws-flv", stream = %receiving.publisher.name(), %fault, "push ended");
            (End::Lost, Some(status), fault.to_string())
        }
    };
    if end == End::Finished {
        receiving.demux.flush();
        receiving.pass_on();
    }
    receiving.publisher.finish(end);
    if let Some(status) = status {
        let mut write = receiving.write;
        let words = async {
            write.write_all(&ws::close(status, &reason, None)).await?;
            write.shutdown().await
        };
        timeout(FAREWELL, words).await.ok();
        let mut ignored = vec![0; 4096];
        let drain = async { while read.read(&mut ignored).await.is_ok_and(|n| n > 0) {} };
        timeout(FAREWELL, drain).await.ok();
    }
}

impl Receiving {
    async fn talk(&mut self, read: &mut culvert_net::ReadHalf) -> Result<Over, Fault> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let next = self.keep_up().await?;
            tokio::select! {
                n = read.read(&mut buffer) => {
                    let Some(bytes) = buffer.get(..n?).filter(|bytes| !bytes.is_empty()) else { return Ok(Over::Gone) };
                    self.heard = Instant::now();
                    self.decoder.handle_input(bytes);
                    while let Some(message) = self.decoder.poll_message()? {
                        if let Some(over) = self.take(message).await? {
                            return Ok(over);
                        }
                    }
                }
                () = self.publisher.cancelled() => return Ok(Over::Cancelled),
                // Whoever came or left is looked at in `keep_up`. The sender lives in the stream.
                _ = self.viewers.changed(), if self.ours && self.live => {}
                () = sleep_until(next) => {}
            }
        }
    }

    async fn take(&mut self, message: Message) -> Result<Option<Over>, Fault> {
        match message {
            Message::Binary(bytes) => {
                self.reader.handle_input(&bytes);
                while let Some(tag) = self.reader.poll_tag()? {
                    self.demux.handle_tag(SystemTime::now(), tag.kind, tag.time_ms, tag.body)?;
                    self.pass_on();
                }
            }
            Message::Text(text) if self.ours => {
                if Word::read(&text).sending == Some(false) {
                    self.publisher.forget();
                }
            }
            Message::Text(_) => return Err(Fault::Text),
            Message::Ping(payload) => self.say(Opcode::Pong, &payload).await?,
            Message::Pong(_) => {}
            Message::Close(status) => return Ok(Some(Over::Closed(status))),
        }
        Ok(None)
    }

    /// Frames to the hub. A publisher that was replaced hears of it by `cancelled`.
    fn pass_on(&mut self) {
        while let Some(event) = self.demux.poll_event() {
            match event {
                Event::Tracks(tracks) => {
                    self.publisher.set_tracks(tracks);
                    self.live = true;
                }
                Event::Frame(frame) => {
                    if self.publisher.write(frame).is_err() {
                        return;
                    }
                }
                Event::EndOfSequence => {}
            }
        }
    }

    /// Does what is due, and says when something will be due next.
    async fn keep_up(&mut self) -> Result<Instant, Fault> {
        let now = Instant::now();
        if now >= self.heard + self.silence {
            return Err(Fault::Silent(self.silence));
        }
        if !self.live {
            let late = self.began + FIRST_MEDIA;
            if now < late {
                return Ok(late.min(self.heard + self.silence));
            }
            // Some of its tracks may be known, and it may be waiting for the others in vain.
            self.demux.flush();
            self.pass_on();
            if !self.live {
                return Err(Fault::Late);
            }
        }
        let mut next = None;
        if self.ours {
            next = self.tell(now).await?;
        }
        let silent = self.heard + self.silence;
        Ok(next.map_or(silent, |next: Instant| next.min(silent)))
    }

    /// Tells the pusher whether anybody watches: at first as it is, later when nobody did for a while. Asks one that
    /// rests whether it is still there.
    async fn tell(&mut self, now: Instant) -> Result<Option<Instant>, Fault> {
        if *self.viewers.borrow_and_update() > 0 {
            self.unwatched = None;
            self.tell_viewers(true, now).await?;
            return Ok(None);
        }
        let until = *self.unwatched.get_or_insert(now) + GRACE;
        if self.told == Some(true) && now < until {
            return Ok(Some(until));
        }
        self.tell_viewers(false, now).await?;
        if now >= self.ping_at {
            self.say(Opcode::Ping, b"").await?;
            self.ping_at = now + PING.min(self.silence / 3);
        }
        Ok(Some(self.ping_at))
    }

    async fn tell_viewers(&mut self, any: bool, now: Instant) -> Result<(), Fault> {
        if self.told == Some(any) {
            return Ok(());
        }
        self.told = Some(any);
        // Its silence counts anew: until now it may have rested, and said no more than that it is there.
        self.heard = now;
        self.ping_at = now + PING.min(self.silence / 3);
        self.say(Opcode::Text, Word { viewers: Some(any), ..Word::default() }.text().as_bytes()).await
    }

    async fn say(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        let frame = ws::encode(opcode, payload, None);
        let words = async {
            self.write.write_all(&frame).await?;
            self.write.flush().await
        };
        timeout(self.silence, words).await.map_err(|_| Fault::Deaf)?.map_err(Fault::Io)
    }
}
