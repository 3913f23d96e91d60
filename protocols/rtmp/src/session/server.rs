//! The server's side of the dialogue.
//!
//! One connection carries one stream, published or played; asking for another while it lasts is refused and hurts
//! nothing. Nothing is taken from a publisher before [`ServerSession::accept`].
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use culvert_formats::amf0::Value;
use culvert_formats::flv::TagKind;

use super::address::App;
use super::transport::{Transport, WINDOW_BYTES, call, information};
use super::{Counts, OUT_CHUNK_SIZE, Output, Request, STREAM_ID, capabilities, script};
use crate::wire::chunk::MAX_MESSAGE_BYTES;
use crate::wire::handshake::{RANDOM_BYTES, ServerHandshake};
use crate::wire::message::{kind, split_aggregate};
use crate::wire::{Command, Error, Message, UserControl};

/// What a server's owner is told.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerEvent {
    /// The peer wants to publish: answer by [`ServerSession::accept`] or [`ServerSession::refuse`].
    Publish(Request),
    /// The peer wants to play: answer likewise. After `accept`, media may be sent as [`crate::Mux`] makes it, between
    /// any two [`Output::Send`].
    Play(Request),
    /// From an accepted publisher.
    Media {
        /// What it is.
        kind: TagKind,
        /// Milliseconds, wrapping at 2^32.
        time_ms: u32,
        /// An FLV tag body, never empty; script data without `@setDataFrame`.
        body: Bytes,
    },
    /// The peer ended what it had asked for or was accepted for. It may ask again.
    Stopped,
    /// The accepted player wants no media for now, or again.
    Paused(bool),
}

/// What the connection's one stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Idle,
    /// The owner owes an answer. `stopped`: the peer no longer waits for it, but until it has come no other question
    /// is put, so that it cannot be taken for the answer to that.
    Asked {
        goal: Goal,
        stopped: bool,
    },
    Publishing,
    Playing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Publish,
    Play,
}

/// A connection as the server sees it.
///
/// Give [`ServerSession::handle_input`] what comes, in pieces of 64 KiB at most, and after each call of anything take
/// [`ServerSession::poll_output`] until it has nothing.
#[derive(Debug)]
pub struct ServerSession {
    /// Until it is done.
    handshake: Option<ServerHandshake>,
    transport: Transport<ServerEvent>,
    app: Option<App>,
    stream_created: bool,
    role: Role,
}

impl ServerSession {
    /// A connection that was just accepted. `epoch_ms` goes into the handshake; any value will do.
    pub fn new(epoch_ms: u32, random: &[u8; RANDOM_BYTES]) -> ServerSession {
        ServerSession {
            handshake: Some(ServerHandshake::new(epoch_ms, random)),
            transport: Transport::new(),
            app: None,
            stream_created: false,
            role: Role::Idle,
        }
    }

    /// Takes what came from the peer, all of it.
    ///
    /// # Errors
    /// The peer broke the protocol or a bound. What is to be polled may still be sent; then close.
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
    pub fn poll_output(&mut self) -> Option<Output<ServerEvent>> {
        self.transport.poll()
    }

    /// Grants what the peer asked for. Does nothing if it has given up meanwhile ([`ServerEvent::Stopped`]).
    pub fn accept(&mut self) {
        let Role::Asked { goal, stopped: false } = self.role else { return self.answered() };
        self.control(UserControl::StreamBegin(STREAM_ID));
        match goal {
            Goal::Publish => {
                self.role = Role::Publishing;
                self.transport.reader.set_message_limit(MAX_MESSAGE_BYTES);
                self.status("status", "NetStream.Publish.Start", "publishing");
            }
            Goal::Play => {
                self.role = Role::Playing;
                self.status("status", "NetStream.Play.Reset", "reset");
                self.status("status", "NetStream.Play.Start", "playing");
                // Flash Player gives scripts access to the pictures only after this, and some clones wait for it.
                // Not so for the data message NetStream.Data.Start: nobody waits for it, and ffmpeg makes a track of it.
                self.data(&["|RtmpSampleAccess".into(), true.into(), true.into()]);
            }
        }
    }

    /// Denies what the peer asked for, by a status such as `NetStream.Publish.BadName`. The connection goes on: closing
    /// it, once the outputs are sent, is the owner's to do. Does nothing if the peer has given up meanwhile.
    pub fn refuse(&mut self, code: &str, description: &str) {
        if let Role::Asked { stopped: false, .. } = self.role {
            self.status("error", code, description);
        }
        self.answered();
    }

    /// Ends an accepted stream from this side, by a status such as `NetStream.Play.UnpublishNotify`.
    pub fn end(&mut self, code: &str, description: &str) {
        match self.role {
            Role::Idle | Role::Asked { .. } => return,
            Role::Playing => self.control(UserControl::StreamEof(STREAM_ID)),
            Role::Publishing => {}
        }
        self.role = Role::Idle;
        self.status("status", code, description);
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.transport.counts
    }

    /// The answer to a question that was given up has come.
    fn answered(&mut self) {
        if let Role::Asked { .. } = self.role {
            self.role = Role::Idle;
        }
    }

    fn handle_message(&mut self, timestamp: u32, message: Message) -> Result<(), Error> {
        match message {
            Message::Command(command) => return self.handle_command(&command),
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
            // Of no interest here, or done already below the dialogue.
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

    fn media(&mut self, kind: TagKind, time_ms: u32, body: Bytes) {
        if self.role == Role::Publishing && !body.is_empty() {
            self.transport.event(ServerEvent::Media { kind, time_ms, body });
        } else {
            self.transport.counts.dropped_media += 1;
        }
    }

    fn handle_command(&mut self, command: &Command) -> Result<(), Error> {
        if self.app.is_none() && command.name != "connect" {
            return Err(Error::Unexpected("a command before connect"));
        }
        match command.name.as_str() {
            "connect" => return self.connect(command),
            "releaseStream" => self.result(command, &[Value::Null, Value::Undefined]),
            "FCPublish" => {
                self.notify("onFCPublish", "NetStream.Publish.Start", command.text(0));
                self.result(command, &[Value::Null, Value::Undefined]);
            }
            "FCUnpublish" => {
                self.notify("onFCUnpublish", "NetStream.Unpublish.Success", command.text(0));
                self.result(command, &[Value::Null, Value::Undefined]);
                self.stop(Some(Goal::Publish));
            }
            "FCSubscribe" => self.notify("onFCSubscribe", "NetStream.Play.Start", command.text(0)),
            "createStream" if self.stream_created => {
                self.error(command, "NetConnection.Call.Failed", "a connection has one stream");
            }
            "createStream" => {
                self.stream_created = true;
                self.result(command, &[Value::Null, f64::from(STREAM_ID).into()]);
            }
            // Of a live stream nobody knows it.
            "getStreamLength" => self.result(command, &[Value::Null, 0.0.into()]),
            "publish" | "play" if command.argument(0) == Some(&Value::Bool(false)) => self.stop(None),
            "publish" => self.ask(Goal::Publish, command),
            "play" => self.ask(Goal::Play, command),
            "pause" | "pauseRaw" => self.pause(command.argument(0).and_then(Value::as_bool).unwrap_or(true)),
            "closeStream" => self.stop(None),
            "deleteStream" => {
                self.stop(None);
                self.stream_created = false;
            }
            "seek" => self.status("error", "NetStream.Seek.Failed", "a live stream cannot be sought"),
            // Calls that want no answer, such as receiveAudio, and answers to what we did not ask.
            _ if command.transaction == 0.0 || command.name.starts_with('_') => {}
            _ => self.error(command, "NetConnection.Call.Failed", "no such procedure"),
        }
        Ok(())
    }

    fn connect(&mut self, command: &Command) -> Result<(), Error> {
        let Some(object) =
            command.values.first().filter(|value| matches!(value, Value::Object(_) | Value::EcmaArray(_)))
        else {
            return Err(Error::Unexpected("connect without a command object"));
        };
        if self.app.is_some() {
            self.error(command, "NetConnection.Connect.Rejected", "already connected");
            return Ok(());
        }
        self.app = Some(App::new(object));

        self.transport.send(&Message::WindowAckSize(WINDOW_BYTES), 0);
        self.transport.send(&Message::SetPeerBandwidth { window_bytes: WINDOW_BYTES, limit: 2 }, 0);
        self.transport.send(&Message::SetChunkSize(OUT_CHUNK_SIZE), 0);
        // Peers read what a server can from its version, so it is that of a Flash Media Server, as everywhere.
        let mut properties =
            vec![("fmsVer".to_owned(), "FMS/3,0,1,123".into()), ("capabilities".to_owned(), 31.0.into())];
        if capabilities::are_in(object) {
            properties.extend(capabilities::properties());
        }
        let mut information = information("status", "NetConnection.Connect.Success", "connected");
        if let Value::Object(properties) = &mut information {
            properties.push(("objectEncoding".to_owned(), 0.0.into()));
        }
        self.result(command, &[Value::Object(properties), information]);
        Ok(())
    }

    /// `publish` or `play`.
    fn ask(&mut self, goal: Goal, command: &Command) {
        // Some clients forget createStream; nothing depends on it.
        let Some(app) = self.app.as_ref().filter(|_| self.role == Role::Idle) else {
            let code = match goal {
                Goal::Publish => "NetStream.Publish.BadName",
                Goal::Play => "NetStream.Play.Failed",
            };
            return self.status("error", code, "this connection has a stream already");
        };
        let request = app.request(command.text(0).unwrap_or_default());
        self.role = Role::Asked { goal, stopped: false };
        self.transport.event(match goal {
            Goal::Publish => ServerEvent::Publish(request),
            Goal::Play => ServerEvent::Play(request),
        });
    }

    /// The peer has enough, if it is about this goal.
    fn stop(&mut self, only: Option<Goal>) {
        let (goal, next) = match self.role {
            Role::Idle | Role::Asked { stopped: true, .. } => return,
            Role::Asked { goal, stopped: false } => (goal, Role::Asked { goal, stopped: true }),
            Role::Publishing => (Goal::Publish, Role::Idle),
            Role::Playing => (Goal::Play, Role::Idle),
        };
        if only.is_some_and(|only| only != goal) {
            return;
        }
        self.role = next;
        match goal {
            Goal::Publish => self.status("status", "NetStream.Unpublish.Success", "stopped"),
            Goal::Play => self.status("status", "NetStream.Play.Stop", "stopped"),
        }
        self.transport.event(ServerEvent::Stopped);
    }

    fn pause(&mut self, paused: bool) {
        if self.role != Role::Playing {
            return self.status("error", "NetStream.Failed", "nothing is playing");
        }
        if paused {
            self.status("status", "NetStream.Pause.Notify", "paused");
            self.control(UserControl::StreamEof(STREAM_ID));
        } else {
            self.control(UserControl::StreamBegin(STREAM_ID));
            self.status("status", "NetStream.Unpause.Notify", "playing");
        }
        self.transport.event(ServerEvent::Paused(paused));
    }

    fn control(&mut self, event: UserControl) {
        self.transport.send(&Message::UserControl(event), 0);
    }

    /// `_result`, if the call wants an answer.
    fn result(&mut self, command: &Command, values: &[Value]) {
        if command.transaction != 0.0 {
            self.transport.send(&call("_result", command.transaction, values), 0);
        }
    }

    /// `_error`, if the call wants an answer.
    fn error(&mut self, command: &Command, code: &str, description: &str) {
        if command.transaction != 0.0 {
            let values = [Value::Null, information("error", code, description)];
            self.transport.send(&call("_error", command.transaction, values), 0);
        }
    }

    /// `onFCPublish` and its kin; encoders wait for some of them. `name` is the stream's, as the peer said it.
    fn notify(&mut self, name: &str, code: &str, stream_name: Option<&str>) {
        let values = [Value::Null, information("status", code, stream_name.unwrap_or_default())];
        self.transport.send(&call(name, 0.0, values), 0);
    }

    fn status(&mut self, level: &str, code: &str, description: &str) {
        let values = [Value::Null, information(level, code, description)];
        self.transport.send(&call("onStatus", 0.0, values), STREAM_ID);
    }

    fn data(&mut self, values: &[Value]) {
        let mut body = Vec::new();
        values.iter().for_each(|value| value.encode(&mut body));
        self.transport.send(&Message::Data(body.into()), STREAM_ID);
    }
}
