//! Messages by their type (RTMP 5.4, 6.2, 7.1).
//!
//! Only bytes and fields; what a command means is [`crate::session`]'s. AMF3 is read only as encoders use it: an AMF0
//! body behind a zero byte. Shared objects are recognised and not read.
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;

use culvert_formats::amf0::{self, Value};

use super::{Error, RawMessage, write_message};

/// Message type ids (RTMP 5.4, 7.1).
pub mod kind {
    /// Set Chunk Size.
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Abort Message.
    pub const ABORT: u8 = 2;
    /// Acknowledgement.
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// User Control Message.
    pub const USER_CONTROL: u8 = 4;
    /// Window Acknowledgement Size.
    pub const WINDOW_ACK_SIZE: u8 = 5;
    /// Set Peer Bandwidth.
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    /// Audio.
    pub const AUDIO: u8 = 8;
    /// Video.
    pub const VIDEO: u8 = 9;
    /// Data in AMF3.
    pub const DATA_AMF3: u8 = 15;
    /// Command in AMF3.
    pub const COMMAND_AMF3: u8 = 17;
    /// Data in AMF0, such as `onMetaData`.
    pub const DATA: u8 = 18;
    /// Command in AMF0.
    pub const COMMAND: u8 = 20;
    /// Several messages in one.
    pub const AGGREGATE: u8 = 22;
}

/// Chunk streams that we send on. Which is which means nothing to a peer; distinct ones are customary.
pub mod csid {
    /// Control messages; the specification demands 2 (RTMP 5.4).
    pub const CONTROL: u8 = 2;
    /// Commands.
    pub const COMMAND: u8 = 3;
    /// Audio.
    pub const AUDIO: u8 = 4;
    /// Data.
    pub const DATA: u8 = 5;
    /// Video.
    pub const VIDEO: u8 = 6;
}

/// A message, parsed as far as its type says.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Chunks of up to this many bytes follow. [`super::ChunkReader`] obeys it itself.
    SetChunkSize(u32),
    /// The unfinished message on this chunk stream is void. [`super::ChunkReader`] obeys it itself.
    Abort(u32),
    /// This many bytes have come so far, modulo 2^32.
    Acknowledgement(u32),
    /// A user control event.
    UserControl(UserControl),
    /// Acknowledge at least every so many bytes.
    WindowAckSize(u32),
    /// Do not send more than this without acknowledgement.
    SetPeerBandwidth {
        /// In bytes.
        window_bytes: u32,
        /// 0 hard, 1 soft, 2 dynamic.
        limit: u8,
    },
    /// An FLV audio tag body.
    Audio(Bytes),
    /// An FLV video tag body.
    Video(Bytes),
    /// An FLV script tag body: AMF0 values.
    Data(Bytes),
    /// A remote procedure call or its answer.
    Command(Command),
    /// FLV tags in a row; see [`split_aggregate`].
    Aggregate(Bytes),
    /// Something else, of this type: shared objects, and what there may come.
    Other(u8),
}

/// User control events (RTMP 7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserControl {
    /// The message stream begins to be of use.
    StreamBegin(u32),
    /// Playback of the message stream is over.
    StreamEof(u32),
    /// There is no more data on the message stream for now.
    StreamDry(u32),
    /// The client buffers so much of the message stream.
    SetBufferLength {
        /// Message stream.
        stream_id: u32,
        /// Milliseconds.
        buffer_ms: u32,
    },
    /// The message stream is a recording.
    StreamIsRecorded(u32),
    /// To be answered with the same number.
    PingRequest(u32),
    /// The answer.
    PingResponse(u32),
    /// Another event, by its number.
    Other(u16),
}

/// A remote procedure call, or the answer to one (RTMP 7.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Procedure, or `_result`, `_error`, `onStatus`.
    pub name: String,
    /// Says which answer belongs to which call; 0 wants no answer.
    pub transaction: f64,
    /// The command object (or null), then the arguments.
    pub values: Vec<Value>,
}

impl Command {
    /// The nth argument behind the command object.
    pub fn argument(&self, n: usize) -> Option<&Value> {
        self.values.get(n.saturating_add(1))
    }

    /// The nth argument behind the command object, if it is a string.
    pub fn text(&self, n: usize) -> Option<&str> {
        self.argument(n).and_then(Value::as_str)
    }
}

impl Message {
    /// Parses a message's body. Media is handed on without copying.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a body too short for its type, [`Error::Amf`] for a command that cannot be read.
    pub fn parse(raw: RawMessage) -> Result<Message, Error> {
        let number = || {
            let number = raw.payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
            number.ok_or(Error::Malformed(raw.kind))
        };
        Ok(match raw.kind {
            kind::SET_CHUNK_SIZE => Message::SetChunkSize(number()?),
            kind::ABORT => Message::Abort(number()?),
            kind::ACKNOWLEDGEMENT => Message::Acknowledgement(number()?),
            kind::WINDOW_ACK_SIZE => Message::WindowAckSize(number()?),
            kind::SET_PEER_BANDWIDTH => {
                // The limit type is missing in some senders' messages; dynamic is what they mean.
                Message::SetPeerBandwidth { window_bytes: number()?, limit: raw.payload.get(4).copied().unwrap_or(2) }
            }
            kind::USER_CONTROL => Message::UserControl(UserControl::parse(&raw.payload)?),
            kind::AUDIO => Message::Audio(raw.payload),
            kind::VIDEO => Message::Video(raw.payload),
            kind::DATA => Message::Data(raw.payload),
            kind::DATA_AMF3 => Message::Data(behind_zero(raw.payload)),
            kind::COMMAND => Message::Command(Command::parse(&raw.payload)?),
            kind::COMMAND_AMF3 => Message::Command(Command::parse(&behind_zero(raw.payload))?),
            kind::AGGREGATE => Message::Aggregate(raw.payload),
            other => Message::Other(other),
        })
    }

    /// Appends the message as chunks on the customary chunk stream, with timestamp 0. [`Message::Other`] has no body.
    pub fn write(&self, out: &mut Vec<u8>, chunk_size: u32, stream_id: u32) {
        let mut body = Vec::new();
        let (csid, kind) = match self {
            Message::SetChunkSize(number) => control(&mut body, kind::SET_CHUNK_SIZE, *number),
            Message::Abort(number) => control(&mut body, kind::ABORT, *number),
            Message::Acknowledgement(number) => control(&mut body, kind::ACKNOWLEDGEMENT, *number),
            Message::WindowAckSize(number) => control(&mut body, kind::WINDOW_ACK_SIZE, *number),
            Message::SetPeerBandwidth { window_bytes, limit } => {
                let ids = control(&mut body, kind::SET_PEER_BANDWIDTH, *window_bytes);
                body.push(*limit);
                ids
            }
            Message::UserControl(event) => {
                event.write(&mut body);
                (csid::CONTROL, kind::USER_CONTROL)
            }
            Message::Command(command) => {
                command.write(&mut body);
                (csid::COMMAND, kind::COMMAND)
            }
            Message::Audio(bytes) => media(&mut body, bytes, csid::AUDIO, kind::AUDIO),
            Message::Video(bytes) => media(&mut body, bytes, csid::VIDEO, kind::VIDEO),
            Message::Data(bytes) => media(&mut body, bytes, csid::DATA, kind::DATA),
            Message::Aggregate(bytes) => media(&mut body, bytes, csid::VIDEO, kind::AGGREGATE),
            Message::Other(kind) => (csid::CONTROL, *kind),
        };
        write_message(out, chunk_size, csid, kind, 0, stream_id, &[], &body);
    }
}

fn control(body: &mut Vec<u8>, kind: u8, number: u32) -> (u8, u8) {
    body.extend_from_slice(&number.to_be_bytes());
    (csid::CONTROL, kind)
}

fn media(body: &mut Vec<u8>, bytes: &Bytes, csid: u8, kind: u8) -> (u8, u8) {
    body.extend_from_slice(bytes);
    (csid, kind)
}

/// The body behind the byte that says "AMF0 all the same" in the messages for AMF3.
fn behind_zero(body: Bytes) -> Bytes {
    if body.first() == Some(&0) { body.slice(1..) } else { body }
}

impl UserControl {
    fn parse(body: &[u8]) -> Result<UserControl, Error> {
        let malformed = Error::Malformed(kind::USER_CONTROL);
        let (event, rest) = body.split_first_chunk().ok_or(malformed.clone())?;
        let (first, second) = (rest.first_chunk(), rest.get(4..).and_then(|rest| rest.first_chunk()));
        let number = || first.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(malformed.clone());
        Ok(match u16::from_be_bytes(*event) {
            0 => UserControl::StreamBegin(number()?),
            1 => UserControl::StreamEof(number()?),
            2 => UserControl::StreamDry(number()?),
            3 => UserControl::SetBufferLength {
                stream_id: number()?,
                buffer_ms: u32::from_be_bytes(*second.ok_or(malformed.clone())?),
            },
            4 => UserControl::StreamIsRecorded(number()?),
            6 => UserControl::PingRequest(number()?),
            7 => UserControl::PingResponse(number()?),
            other => UserControl::Other(other),
        })
    }

    fn write(self, body: &mut Vec<u8>) {
        let (event, numbers) = match self {
            UserControl::StreamBegin(id) => (0u16, [Some(id), None]),
            UserControl::StreamEof(id) => (1, [Some(id), None]),
            UserControl::StreamDry(id) => (2, [Some(id), None]),
            UserControl::SetBufferLength { stream_id, buffer_ms } => (3, [Some(stream_id), Some(buffer_ms)]),
            UserControl::StreamIsRecorded(id) => (4, [Some(id), None]),
            UserControl::PingRequest(number) => (6, [Some(number), None]),
            UserControl::PingResponse(number) => (7, [Some(number), None]),
            UserControl::Other(event) => (event, [None, None]),
        };
        body.extend_from_slice(&event.to_be_bytes());
        for number in numbers.into_iter().flatten() {
            body.extend_from_slice(&number.to_be_bytes());
        }
    }
}

impl Command {
    fn parse(body: &[u8]) -> Result<Command, Error> {
        let mut values = amf0::decode_all(body)?.into_iter();
        let Some(Value::String(name)) = values.next() else { return Err(Error::Malformed(kind::COMMAND)) };
        let transaction = match values.next() {
            Some(Value::Number(transaction)) => transaction,
            // Sloppy callers that expect no answer leave it out.
            None => 0.0,
            Some(_) => return Err(Error::Malformed(kind::COMMAND)),
        };
        Ok(Command { name, transaction, values: values.collect() })
    }

    fn write(&self, body: &mut Vec<u8>) {
        Value::from(self.name.as_str()).encode(body);
        Value::Number(self.transaction).encode(body);
        for value in &self.values {
            value.encode(body);
        }
    }
}

/// Most messages in an aggregate: more than a minute of one audio and one video track. Our own bound.
pub const MAX_AGGREGATED: usize = 4096;

/// The messages in an aggregate (RTMP 7.1.6): type, timestamp and body of each. The aggregate's own timestamp is that of
/// the first; the others keep their distance to it.
///
/// # Errors
/// [`Error::Malformed`] when a tag is cut off, or there are more than [`MAX_AGGREGATED`]. A missing back pointer behind the last tag is forgiven.
pub fn split_aggregate(timestamp: u32, body: &Bytes) -> Result<Vec<(u8, u32, Bytes)>, Error> {
    let mut messages = Vec::new();
    let mut rest = body.clone();
    let mut offset = None;
    // An FLV tag: type (1), length (3), timestamp (3), its upper byte (1), stream id (3), body, back pointer (4).
    while let Some(&[kind, a, b, c, d, e, f, upper, _, _, _]) = rest.first_chunk() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let time = u32::from_be_bytes([upper, d, e, f]);
        let offset = *offset.get_or_insert(timestamp.wrapping_sub(time));
        if rest.len() - 11 < length || messages.len() == MAX_AGGREGATED {
            return Err(Error::Malformed(kind::AGGREGATE));
        }
        messages.push((kind, time.wrapping_add(offset), rest.slice(11..11 + length)));
        rest = rest.slice((11 + length + 4).min(rest.len())..);
    }
    if rest.is_empty() { Ok(messages) } else { Err(Error::Malformed(kind::AGGREGATE)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ChunkReader;

    fn raw(kind: u8, payload: &[u8]) -> RawMessage {
        RawMessage { csid: 3, kind, timestamp: 0, stream_id: 0, payload: Bytes::copy_from_slice(payload) }
    }

    #[test]
    fn what_is_written_is_read() {
        let command =
            Command { name: "call".into(), transaction: 4.0, values: vec![Value::Null, "x".into(), 5.0.into()] };
        assert_eq!(
            (command.text(0), command.argument(1), command.text(1)),
            (Some("x"), Some(&Value::Number(5.0)), None)
        );
        let events = [
            UserControl::StreamBegin(1),
            UserControl::StreamEof(2),
            UserControl::StreamDry(3),
            UserControl::SetBufferLength { stream_id: 4, buffer_ms: 5 },
            UserControl::StreamIsRecorded(6),
            UserControl::PingRequest(7),
            UserControl::PingResponse(u32::MAX),
            UserControl::Other(31),
        ];
        let mut messages = vec![
            Message::Acknowledgement(u32::MAX),
            Message::WindowAckSize(1),
            Message::SetPeerBandwidth { window_bytes: 2, limit: 1 },
            Message::Audio(Bytes::from_static(b"a")),
            Message::Video(Bytes::from(vec![1; 300])),
            Message::Data(Bytes::from_static(b"d")),
            Message::Command(command),
            Message::Aggregate(Bytes::from_static(b"g")),
            Message::Other(19),
        ];
        messages.extend(events.map(Message::UserControl));
        for message in messages {
            let mut wire = Vec::new();
            message.write(&mut wire, 128, 1);
            let mut reader = ChunkReader::new();
            assert_eq!(reader.handle_input(&wire), Ok(wire.len()));
            assert_eq!(reader.poll_message().map(Message::parse), Some(Ok(message)));
        }
    }

    #[test]
    fn bodies_too_short_are_errors() {
        for (kind, body) in [
            (kind::ACKNOWLEDGEMENT, &b"abc"[..]),
            (kind::WINDOW_ACK_SIZE, b""),
            (kind::SET_PEER_BANDWIDTH, b"abc"),
            (kind::USER_CONTROL, b"\x00"),
            (kind::USER_CONTROL, b"\x00\x06abc"),
            (kind::USER_CONTROL, b"\x00\x03abcdefg"),
            (kind::COMMAND, b""),
            (kind::COMMAND, b"\x05"),
            (kind::COMMAND, b"\x02\x00\x01x\x05"),
        ] {
            assert_eq!(Message::parse(raw(kind, body)), Err(Error::Malformed(kind)), "{kind} {body:?}");
        }
        assert!(matches!(Message::parse(raw(kind::COMMAND, b"\x02\x00\x09x")), Err(Error::Amf(_))));
    }

    #[test]
    fn an_aggregate_of_dust_is_an_error() {
        let dust = [8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11].repeat(MAX_AGGREGATED + 1);
        assert_eq!(split_aggregate(0, &dust.into()), Err(Error::Malformed(kind::AGGREGATE)));
        assert_eq!(split_aggregate(0, &Bytes::new()), Ok(vec![]));
    }
}
