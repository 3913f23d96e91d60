//! The client's side of the dialogue: pulls a stream from another server, or pushes one there.
//!
//! One stream for one connection; reconnecting is the owner's. Not done: authentication by challenge (Adobe's and
//! Limelight's schemes), redirects.
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use culvert_formats::amf0::Value;
use culvert_formats::flv::TagKind;

use super::transport::{Transport, WINDOW_BYTES, call};
use super::{Counts, OUT_CHUNK_SIZE, Output, SET_DATA_FRAME, Takes, Target, capabilities, script};
use crate::wire::chunk::MAX_MESSAGE_BYTES;
use crate::wire::handshake::{ClientHandshake, RANDOM_BYTES};
use crate::wire::message::{csid, kind, split_aggregate};
use crate::wire::{Command, Error, Message, UserControl, write_message};

/// Transaction ids, by which answers are told apart. Those of `publish` and `play` are not 0, so that errors come back.
const CONNECT: f64 = 1.0;
const RELEASE_STREAM: f64 = 2.0;
const FC_PUBLISH: f64 = 3.0;
const CREATE_STREAM: f64 = 4.0;
const START: f64 = 5.0;

/// How much we tell a server that we buffer, in milliseconds: what players say. It must not be 0, for some servers
/// send only as fast as the buffer drains.
const BUFFER_MS: u32 = 3000;
/// `start` of `play`: the live stream of this name, or else a recording (RTMP 7.2.2.1).
const LIVE_OR_RECORDED: f64 = -2.0;

/// What a client connects for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To receive the stream.
    Play,
    /// To send it.
    Publish,
}

/// What a client's owner is told.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientEvent {
    /// The server plays, or takes what is published: [`ClientSession::write_media`] may begin.
    Ready,
    /// From the server that plays.
    Media {
        /// What it is.
        kind: TagKind,
        /// Milliseconds, wrapping at 2^32.
        time_ms: u32,
        /// An FLV tag body, never empty.
        body: Bytes,
    },
    /// The server refused or ended it. Comes once, and nothing after it.
    Ended {
        /// Status code, such as `NetStream.Play.StreamNotFound`. As the server said it: do not trust it in any way.
        code: String,
        /// For people, likewise.
        description: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    CreatingStream,
    Starting,
    Ready,
    Ended,
}

/// A connection as the client sees it.
///
/// Send what [`ClientSession::poll_output`] gives at once; give [`ClientSession::handle_input`] what comes, in pieces of
/// 64 KiB at most, and after each call take [`ClientSession::poll_output`] until it has nothing.
#[derive(Debug)]
pub struct ClientSession {
    goal: Goal,
    target: Target,
    /// Until it is done.
    handshake: Option<ClientHandshake>,
    transport: Transport<ClientEvent>,
    phase: Phase,
    stream_id: u32,
    takes: Takes,
}

impl ClientSession {
    /// A connection that was just opened. `epoch_ms` goes into the handshake; any value will do.
    pub fn new(goal: Goal, target: Target, epoch_ms: u32, random: &[u8; RANDOM_BYTES]) -> ClientSession {
        let mut handshake = ClientHandshake::new(epoch_ms, random);
        let mut transport = Transport::new();
        if let Some(bytes) = handshake.poll_output() {
            transport.send_bytes(&bytes);
        }
        if goal == Goal::Play {
            transport.reader.set_message_limit(MAX_MESSAGE_BYTES);
        }
        let handshake = Some(handshake);
        ClientSession {
            goal,
            target,
            handshake,
            transport,
            phase: Phase::Connecting,
            stream_id: 0,
            takes: Takes::default(),
        }
    }

    /// Takes what came from the server, all of it.
    ///
    /// # Errors
    /// The server broke the protocol or a bound; close.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(), Error> {
        let mut rest = input;
        if let Some(handshake) = &mut self.handshake {
            let taken = handshake.handle_input(rest)?;
            rest = rest.get(taken..).unwrap_or_default();
            if let Some(bytes) = handshake.poll_output() {
                self.transport.send_bytes(&bytes);
            }
            if handshake.is_done() {
                self.handshake = None;
                self.connect();
            }
        }
        if self.handshake.is_none() {
            while let Some(incoming) = self.transport.next(&mut rest)? {
                self.handle_message(incoming.timestamp, incoming.message)?;
            }
        }
        self.transport.acknowledge(input.len());
        Ok(())
    }

    /// What to send or to know next, in order.
    pub fn poll_output(&mut self) -> Option<Output<ClientEvent>> {
        self.transport.poll()
    }

    /// What the server said in its answer to `connect` that it takes.
    pub fn takes(&self) -> Takes {
        self.takes
    }

    /// The message stream that the server gave; 0 before it did.
    pub fn stream_id(&self) -> u32 {
        self.stream_id
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.transport.counts
    }

    /// Appends a media message to `out`, its FLV tag body being `prefix` and `payload` in a row; to be sent between any
    /// two [`Output::Send`]. Script data gets its `@setDataFrame`. Does nothing unless [`ClientEvent::Ready`] has come
    /// to publish and [`ClientEvent::Ended`] has not.
    pub fn write_media(&self, kind: TagKind, time_ms: u32, prefix: &[u8], payload: &[u8], out: &mut Vec<u8>) {
        if self.goal != Goal::Publish || self.phase != Phase::Ready {
            return;
        }
        let with_set;
        let (csid, prefix) = match kind {
            TagKind::Audio => (csid::AUDIO, prefix),
            TagKind::Video => (csid::VIDEO, prefix),
            TagKind::Script => {
                with_set = [SET_DATA_FRAME, prefix].concat();
                (csid::DATA, with_set.as_slice())
            }
        };
        write_message(out, OUT_CHUNK_SIZE, csid, kind as u8, time_ms, self.stream_id, prefix, payload);
    }

    /// Says goodbye; close once the outputs are sent. No events come afterwards.
    pub fn close(&mut self) {
        if matches!(self.phase, Phase::Starting | Phase::Ready) {
            if self.goal == Goal::Publish {
                self.call("FCUnpublish", 0.0, [Value::Null, self.name()]);
            }
            self.call("deleteStream", 0.0, [Value::Null, f64::from(self.stream_id).into()]);
        }
        self.phase = Phase::Ended;
    }

    fn name(&self) -> Value {
        self.target.stream_name.as_str().into()
    }

    fn call(&mut self, name: &str, transaction: f64, values: impl Into<Vec<Value>>) {
        self.transport.send(&call(name, transaction, values), 0);
    }

    fn connect(&mut self) {
        // What encoders and players say, for some servers treat strangers badly.
        let (version, kind) = match self.goal {
            Goal::Play => ("LNX 9,0,124,2", None),
            Goal::Publish => ("FMLE/3.0 (compatible; Culvert)", Some("nonprivate")),
        };
        let mut properties = vec![("app".to_owned(), self.target.app.as_str().into())];
        properties.extend(kind.map(|kind| ("type".to_owned(), kind.into())));
        properties.extend([
            ("flashVer".to_owned(), version.into()),
            ("tcUrl".to_owned(), self.target.tc_url.as_str().into()),
            ("fpad".to_owned(), false.into()),
            ("capabilities".to_owned(), 239.0.into()),
            // All that the old numbers can say (RTMP 7.2.1.1).
            ("audioCodecs".to_owned(), f64::from(0x0fff).into()),
            ("videoCodecs".to_owned(), f64::from(0x00ff).into()),
            ("videoFunction".to_owned(), 1.0.into()),
            ("objectEncoding".to_owned(), 0.0.into()),
        ]);
        properties.extend(capabilities::properties());
        self.call("connect", CONNECT, [Value::Object(properties)]);
    }

    fn handle_message(&mut self, timestamp: u32, message: Message) -> Result<(), Error> {
        match message {
            Message::Command(command) => self.handle_command(&command),
            Message::Audio(body) => self.media(TagKind::Audio, timestamp, body),
            Message::Video(body) => self.media(TagKind::Video, timestamp, body),
            Message::Data(body) => {
                if let Some(body) = script(body) {
                    self.media(TagKind::Script, timestamp, body);
                }
            }
            Message::Aggregate(body) => {
                for (part_kind, time, body) in split_aggregate(timestamp, &body)? {
                    match part_kind {
                        kind::AUDIO => self.media(TagKind::Audio, time, body),
                        kind::VIDEO => self.media(TagKind::Video, time, body),
                        kind::DATA => self.handle_message(time, Message::Data(body))?,
                        _ => {}
                    }
                }
            }
            Message::UserControl(UserControl::StreamEof(id)) if id == self.stream_id && self.phase == Phase::Ready => {
                self.end("NetStream.Play.Stop", "end of stream");
            }
            Message::UserControl(_)
            | Message::SetChunkSize(_)
            | Message::Abort(_)
            | Message::Acknowledgement(_)
            | Message::WindowAckSize(_)
            | Message::SetPeerBandwidth { .. }
            | Message::Other(_) => {}
        }
        Ok(())
    }

    /// Some servers send metadata before they say that they play.
    fn media(&mut self, kind: TagKind, time_ms: u32, body: Bytes) {
        let wanted = self.goal == Goal::Play && matches!(self.phase, Phase::Starting | Phase::Ready);
        if wanted && !body.is_empty() {
            self.transport.event(ClientEvent::Media { kind, time_ms, body });
        } else {
            self.transport.counts.dropped_media += 1;
        }
    }

    fn handle_command(&mut self, command: &Command) {
        match (command.name.as_str(), self.phase) {
            ("_result", Phase::Connecting) if command.transaction == CONNECT => {
                self.takes = command.values.iter().map(Takes::of).fold(Takes::default(), Takes::or);
                self.create_stream();
            }
            ("_result", Phase::CreatingStream) if command.transaction == CREATE_STREAM => self.start(command),
            // A server that knows neither releaseStream nor FCPublish is none the worse.
            ("_error", _) if [RELEASE_STREAM, FC_PUBLISH].contains(&command.transaction) => {}
            ("_error", _) => self.end_by(command, "NetConnection.Call.Failed"),
            ("close", _) => self.end("NetConnection.Connect.Closed", "closed by the server"),
            ("onStatus", _) => self.handle_status(command),
            _ => {}
        }
    }

    fn create_stream(&mut self) {
        self.phase = Phase::CreatingStream;
        self.transport.send(&Message::WindowAckSize(WINDOW_BYTES), 0);
        if self.goal == Goal::Publish {
            self.transport.send(&Message::SetChunkSize(OUT_CHUNK_SIZE), 0);
            self.call("releaseStream", RELEASE_STREAM, [Value::Null, self.name()]);
            self.call("FCPublish", FC_PUBLISH, [Value::Null, self.name()]);
        }
        self.call("createStream", CREATE_STREAM, [Value::Null]);
    }

    fn start(&mut self, command: &Command) {
        let id = command.argument(0).and_then(Value::as_f64).filter(|id| (0.0..=f64::from(u32::MAX)).contains(id));
        let Some(id) = id else {
            return self.end("NetConnection.Call.Failed", "createStream gave no stream id");
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was just checked")]
        let id = id as u32;
        self.stream_id = id;
        self.phase = Phase::Starting;
        let start = match self.goal {
            Goal::Publish => call("publish", START, [Value::Null, self.name(), "live".into()]),
            Goal::Play => call("play", START, [Value::Null, self.name(), LIVE_OR_RECORDED.into()]),
        };
        self.transport.send(&start, self.stream_id);
        if self.goal == Goal::Play {
            let buffer = UserControl::SetBufferLength { stream_id: self.stream_id, buffer_ms: BUFFER_MS };
            self.transport.send(&Message::UserControl(buffer), 0);
        }
    }

    fn handle_status(&mut self, command: &Command) {
        let text = |key| command.argument(0).and_then(|value| value.get(key)).and_then(Value::as_str);
        let ready = match self.goal {
            Goal::Play => "NetStream.Play.Start",
            Goal::Publish => "NetStream.Publish.Start",
        };
        let code = text("code").unwrap_or_default();
        if code == ready && self.phase == Phase::Starting {
            self.phase = Phase::Ready;
            self.transport.event(ClientEvent::Ready);
        } else if text("level") == Some("error") || is_end(code) {
            self.end_by(command, "NetStream.Failed");
        }
    }

    /// By the information object of a command, or by this code if it has none.
    fn end_by(&mut self, command: &Command, code: &str) {
        let text = |key| command.argument(0).and_then(|value| value.get(key)).and_then(Value::as_str);
        self.end(text("code").unwrap_or(code), text("description").unwrap_or_default());
    }

    fn end(&mut self, code: &str, description: &str) {
        if self.phase != Phase::Ended {
            self.phase = Phase::Ended;
            let (code, description) = (code.to_owned(), description.to_owned());
            self.transport.event(ClientEvent::Ended { code, description });
        }
    }
}

/// Statuses that end a stream though their level is no error.
fn is_end(code: &str) -> bool {
    [
        "NetStream.Play.Stop",
        "NetStream.Play.Complete",
        "NetStream.Play.UnpublishNotify",
        "NetStream.Unpublish.Success",
        "NetConnection.Connect.Closed",
    ]
    .contains(&code)
}
