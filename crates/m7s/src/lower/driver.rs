//! The one task of an old lower's link: reads it, gives it one request at a time, asks it for its streams, and finds out when it
//! is dead.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use culvert_cascade::catalogue::MOST_STREAMS;
use culvert_link::{Conn, LinkError};
use culvert_media::StreamName;
use culvert_net::ws::{self, Decoder, Message, Opcode, Role};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout as within};

use super::{Job, Shared};
use crate::wire::control::{self, Unreadable};

/// Largest message: an answer of 24 MiB in base64. The old wire cannot pass it on in pieces.
const MESSAGE_BYTES: usize = 33 << 20;
const READ_BYTES: usize = 16 << 10;
/// How often it is asked whether it is there.
const PING: Duration = Duration::from_secs(10);
/// A lower that says nothing for so long is dead; DESIGN section 3.
const SILENCE: Duration = Duration::from_secs(25);
/// It reads nothing while it works on a request, pings neither.
const BUSY_SILENCE: Duration = Duration::from_secs(60);
/// Its streams are asked for this often: it does not tell.
const POLL: Duration = Duration::from_secs(10);
/// It has so long for that, so that callers do not wait behind a lower that has no such list; then it is left alone for a while.
const POLL_ANSWER: Duration = Duration::from_secs(3);
const POLL_AGAIN: Duration = Duration::from_secs(60);
/// Most bytes of a text for people.
const TEXT_BYTES: usize = 256;
const POLL_URL: &str = "/erwscascade/api/streamlist";
/// With so much unwritten, pings are not answered any more.
const PONGS_BYTES: usize = 64 << 10;
/// How long last words may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// A request that it works on.
struct Flight {
    sn: i64,
    whose: Whose,
    deadline: Instant,
}

enum Whose {
    Caller(oneshot::Sender<Result<Bytes, LinkError>>),
    /// The list of its streams.
    Ours,
}

struct Driving {
    shared: Arc<Shared>,
    timeout: Duration,
    decoder: Decoder,
    /// Not yet written.
    output: BytesMut,
    flight: Option<Flight>,
    /// Of the last request.
    sn: i64,
    /// Requests that it did not answer in time, and may still be at.
    owes: usize,
    heard: Instant,
    ping_at: Instant,
    pinged: Option<Instant>,
    poll_at: Instant,
}

/// Runs the link until it ends; says why, as a sentence.
pub(super) async fn drive(conn: Conn, shared: Arc<Shared>, mut jobs: mpsc::Receiver<Job>, timeout: Duration) -> String {
    let (mut read, mut write) = conn.into_split();
    let now = Instant::now();
    let mut driving = Driving {
        shared: shared.clone(),
        timeout,
        decoder: Decoder::new(Role::Server, MESSAGE_BYTES),
        output: BytesMut::new(),
        flight: None,
        sn: 0,
        owes: 0,
        heard: now,
        ping_at: now + PING,
        pinged: None,
        poll_at: now,
    };
    let mut buffer = vec![0; READ_BYTES];
    let (why, parting) = loop {
        let wake = driving.next_wake();
        tokio::select! {
            n = read.read(&mut buffer) => match n {
                Ok(0) => break ("the connection ended without a word".to_string(), None),
                Err(error) => break (format!("the connection broke: {error}"), None),
                Ok(n) => match driving.handle_input(buffer.get(..n).unwrap_or_default()) {
                    Ok(true) => {}
                    Ok(false) => break ("closed by the other end".to_string(), Some((1000, String::new()))),
                    Err(fault) => break (format!("the other end is {fault}"), Some((fault.status(), fault.to_string()))),
                },
            },
            n = write.write(&driving.output), if !driving.output.is_empty() => match n {
                Ok(0) => break ("the connection takes nothing more".to_string(), None),
                Err(error) => break (format!("the connection broke: {error}"), None),
                Ok(n) => driving.wrote(n),
            },
            // What was never written must not have the next request behind it.
            job = jobs.recv(), if driving.flight.is_none() && driving.output.is_empty() => match job {
                Some(job) => driving.ask(job),
                None => break ("nobody holds the link any more".to_string(), Some((1001, String::new()))),
            },
            () = shared.closing.cancelled() => {
                let parting = shared.parting.lock().expect("no code panics while it holds last words").clone();
                let parting = parting.unwrap_or((1000, String::new()));
                break (format!("closed by this node: {}", parting.1), Some(parting));
            }
            () = sleep_until(wake) => if let Err(why) = driving.handle_time() {
                break (why, None);
            },
        }
    };
    // Whoever asks from now on hears that it is lost, and those who wait do when they are dropped.
    jobs.close();
    drop((driving, jobs));
    if let Some((status, reason)) = parting {
        let words = async {
            write.write_all(&ws::close(status, &reason, None)).await?;
            write.shutdown().await
        };
        within(FAREWELL, words).await.ok();
    }
    why
}

impl Driving {
    fn next_wake(&self) -> Instant {
        let flight = self.flight.as_ref().map(|flight| flight.deadline);
        let poll = self.flight.is_none().then_some(self.poll_at);
        [Some(self.ping_at), Some(self.dead_at()), flight, poll].into_iter().flatten().min().unwrap_or(self.ping_at)
    }

    fn dead_at(&self) -> Instant {
        // What we ask by ourselves a lower that is there answers at once.
        let asked = self.flight.as_ref().is_some_and(|flight| matches!(flight.whose, Whose::Caller(_)));
        let busy = asked || self.owes > 0;
        self.heard + if busy { BUSY_SILENCE.max(self.timeout + PING) } else { SILENCE }
    }

    /// Takes in what came. False: it said farewell.
    fn handle_input(&mut self, bytes: &[u8]) -> Result<bool, ws::WsError> {
        self.heard = Instant::now();
        self.shared.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.decoder.handle_input(bytes);
        while let Some(message) = self.decoder.poll_message()? {
            match message {
                Message::Text(text) | Message::Binary(text) => self.handle_message(&text),
                // Who asks faster than he reads does not wait for an answer.
                Message::Ping(payload) if self.output.len() < PONGS_BYTES => self.send(Opcode::Pong, &payload),
                Message::Ping(_) => {}
                Message::Pong(_) => {
                    if let Some(at) = self.pinged.take() {
                        self.shared.round_trip_micros.store(at.elapsed().as_micros() as u64, Ordering::Relaxed);
                    }
                }
                Message::Close(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn handle_message(&mut self, text: &[u8]) {
        match control::Message::read(text) {
            Ok(control::Message::Info(mut info)) => {
                for text in [&mut info.cid, &mut info.name, &mut info.serial] {
                    text.truncate(text.floor_char_boundary(TEXT_BYTES));
                }
                if !info.cid.is_empty() && info.cid != self.shared.cid {
                    tracing::info!(peer = %self.shared.cid, says = %info.cid, "an old lower calls itself otherwise; what it dialled as counts");
                }
                self.know(|known| known.info = info);
            }
            Ok(control::Message::Response { sn, body }) => self.answered(sn, body),
            Ok(control::Message::Request(_) | control::Message::Unknown(_)) => {}
            Err(why) => tracing::info!(peer = %self.shared.cid, %why, "a message of an old lower is passed over"),
        }
    }

    fn answered(&mut self, sn: i64, body: Result<Bytes, Unreadable>) {
        let Some(flight) = self.flight.take_if(|flight| flight.sn == sn) else {
            self.owes = self.owes.saturating_sub(1);
            tracing::debug!(peer = %self.shared.cid, sn, "an answer that nobody waits for any more is dropped");
            return;
        };
        let body = body.map_err(|why| LinkError::Broken(why.to_string()));
        match (flight.whose, body) {
            (Whose::Caller(caller), body) => drop(caller.send(body)),
            (Whose::Ours, Ok(body)) => self.list(&body),
            (Whose::Ours, Err(_)) => {}
        }
    }

    fn list(&mut self, body: &[u8]) {
        /// As `streamlist` has it; `null` for none.
        #[derive(Deserialize)]
        struct Item {
            #[serde(rename = "StreamPath")]
            path: String,
        }
        let Ok(items) = serde_json::from_slice::<Option<Vec<Item>>>(body) else {
            tracing::debug!(peer = %self.shared.cid, "an old lower's list of streams cannot be read");
            return;
        };
        let named = items.unwrap_or_default().into_iter().map(|item| item.path);
        let streams: BTreeSet<String> =
            named.filter(|name| StreamName::parse(name).is_ok()).take(MOST_STREAMS).collect();
        self.know(|known| known.streams = streams);
    }

    fn know(&self, change: impl FnOnce(&mut super::Known)) {
        let changed = self.shared.known.send_if_modified(|known| {
            let before = known.clone();
            change(known);
            *known != before
        });
        if changed {
            self.shared.news.notify_one();
        }
    }

    fn ask(&mut self, job: Job) {
        // A caller who left meanwhile needs no answer.
        if !job.answer.is_closed() {
            self.begin(job.request, Whose::Caller(job.answer));
        }
    }

    fn begin(&mut self, mut request: control::Request, whose: Whose) {
        self.sn += 1;
        request.sn = self.sn;
        self.send(Opcode::Text, request.text().as_bytes());
        let within = match whose {
            Whose::Caller(_) => self.timeout,
            Whose::Ours => self.timeout.min(POLL_ANSWER),
        };
        self.flight = Some(Flight { sn: self.sn, whose, deadline: Instant::now() + within });
    }

    fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        self.output.extend_from_slice(&ws::encode(opcode, payload, None));
    }

    fn wrote(&mut self, n: usize) {
        self.output.advance(n);
        self.shared.sent.fetch_add(n as u64, Ordering::Relaxed);
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }

    /// Does what is due. The error: it is dead.
    fn handle_time(&mut self) -> Result<(), String> {
        let now = Instant::now();
        if now >= self.dead_at() {
            return Err(format!("it said nothing for {} s", (now - self.heard).as_secs()));
        }
        match self.flight.take_if(|flight| now >= flight.deadline).map(|flight| flight.whose) {
            Some(Whose::Caller(caller)) => {
                self.owes += 1;
                drop(caller.send(Err(LinkError::Silent(self.timeout))));
            }
            Some(Whose::Ours) => self.poll_at = now + POLL_AGAIN,
            None => {}
        }
        if now >= self.ping_at {
            self.ping_at = now + PING;
            self.pinged.get_or_insert(now);
            self.send(Opcode::Ping, b"");
        }
        if self.flight.is_none() && now >= self.poll_at {
            self.poll_at = now + POLL;
            let request = control::Request {
                sn: 0,
                url: POLL_URL.into(),
                method: "GET".into(),
                headers: Vec::new(),
                body: Bytes::new(),
            };
            self.begin(request, Whose::Ours);
        }
        Ok(())
    }
}
