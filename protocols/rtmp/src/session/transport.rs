//! What both sides do alike below the dialogue: chunks to messages, acknowledgements, pings, the queue of outputs.
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;

use bytes::Bytes;
use culvert_formats::amf0::Value;

use super::Output;
use crate::wire::chunk::DEFAULT_CHUNK_SIZE;
use crate::wire::{ChunkReader, Command, Error, Message, UserControl};

/// Most events that wait to be polled. One input of 64 KiB gives a few thousand at most when it is real media.
pub const MAX_OUTPUTS: usize = 16_384;
/// Most bytes that wait to be polled: answers to 64 KiB of pings take less.
pub const MAX_SEND_BYTES: usize = 256 * 1024;
/// How often we want to be acknowledged, and how often a peer may expect it of us: what Flash Media Server says.
pub(super) const WINDOW_BYTES: u32 = 2_500_000;

/// What a session has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes from the peer, with the handshake.
    pub received_bytes: u64,
    /// Messages from the peer, without Set Chunk Size and Abort.
    pub messages: u64,
    /// Media that nobody had agreed to take, or that was empty.
    pub dropped_media: u64,
    /// Acknowledgements from the peer.
    pub acknowledgements: u64,
}

/// A message for the dialogue.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) timestamp: u32,
    pub(super) message: Message,
}

/// Chunks, acknowledgements and outputs of one connection.
#[derive(Debug)]
pub(super) struct Transport<E> {
    pub(super) reader: ChunkReader,
    pub(super) counts: Counts,
    outputs: VecDeque<Item<E>>,
    send_bytes: usize,
    out_chunk_size: u32,
    /// The peer's window, once it has said one, and how much had come at the last acknowledgement.
    ack_window_bytes: Option<u32>,
    acked_bytes: u64,
}

#[derive(Debug)]
enum Item<E> {
    Send(Vec<u8>),
    Event(E),
}

impl<E> Transport<E> {
    pub(super) fn new() -> Transport<E> {
        Transport {
            reader: ChunkReader::new(),
            counts: Counts::default(),
            outputs: VecDeque::new(),
            send_bytes: 0,
            out_chunk_size: DEFAULT_CHUNK_SIZE,
            ack_window_bytes: None,
            acked_bytes: 0,
        }
    }

    /// The next message for the dialogue in `input`, which is cut by what was read of it.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Error> {
        loop {
            if self.outputs.len() > MAX_OUTPUTS {
                return Err(Error::Flood(MAX_OUTPUTS));
            }
            if self.send_bytes > MAX_SEND_BYTES {
                return Err(Error::Flood(MAX_SEND_BYTES));
            }
            let taken = self.reader.handle_input(input)?;
            *input = input.get(taken..).unwrap_or_default();
            let Some(raw) = self.reader.poll_message() else { return Ok(None) };
            self.counts.messages += 1;
            let timestamp = raw.timestamp;
            match Message::parse(raw)? {
                Message::Acknowledgement(_) => self.counts.acknowledgements += 1,
                // A window of 0 would mean an acknowledgement for nothing.
                Message::WindowAckSize(bytes) => self.ack_window_bytes = Some(bytes).filter(|bytes| *bytes > 0),
                // RTMP 5.4.5: answered by the window that we now have in mind.
                Message::SetPeerBandwidth { window_bytes, limit: _ } => {
                    self.send(&Message::WindowAckSize(window_bytes), 0);
                }
                Message::UserControl(UserControl::PingRequest(number)) => {
                    self.send(&Message::UserControl(UserControl::PingResponse(number)), 0);
                }
                message @ (Message::UserControl(_)
                | Message::Audio(_)
                | Message::Video(_)
                | Message::Data(_)
                | Message::Command(_)
                | Message::Aggregate(_)
                // The reader keeps these two to itself.
                | Message::SetChunkSize(_)
                | Message::Abort(_)
                | Message::Other(_)) => return Ok(Some(Incoming { timestamp, message })),
            }
        }
    }

    /// To be called with the size of each input once it is read: acknowledges if it is time to (RTMP 5.4.3).
    pub(super) fn acknowledge(&mut self, input_bytes: usize) {
        self.counts.received_bytes += input_bytes as u64;
        let received = self.counts.received_bytes;
        if self.ack_window_bytes.is_some_and(|window| received - self.acked_bytes >= u64::from(window)) {
            self.acked_bytes = received;
            #[allow(clippy::cast_possible_truncation, reason = "the sequence number wraps, RTMP 5.4.3")]
            let sequence = received as u32;
            self.send(&Message::Acknowledgement(sequence), 0);
        }
    }

    pub(super) fn send(&mut self, message: &Message, stream_id: u32) {
        let chunk_size = self.out_chunk_size;
        self.append(|out| message.write(out, chunk_size, stream_id));
        if let Message::SetChunkSize(size) = message {
            self.out_chunk_size = *size;
        }
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8]) {
        self.append(|out| out.extend_from_slice(bytes));
    }

    pub(super) fn event(&mut self, event: E) {
        self.outputs.push_back(Item::Event(event));
    }

    pub(super) fn poll(&mut self) -> Option<Output<E>> {
        let Some(output) = self.outputs.pop_front() else {
            // A player's session is quiet for hours: it keeps no room for what it once had to say.
            self.outputs = VecDeque::new();
            return None;
        };
        Some(match output {
            Item::Send(bytes) => {
                self.send_bytes -= bytes.len();
                Output::Send(Bytes::from(bytes))
            }
            Item::Event(event) => Output::Event(event),
        })
    }

    /// Bytes without an event between them go out in one piece.
    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.outputs.back(), Some(Item::Send(_))) {
            self.outputs.push_back(Item::Send(Vec::new()));
        }
        if let Some(Item::Send(bytes)) = self.outputs.back_mut() {
            let before = bytes.len();
            write(bytes);
            self.send_bytes += bytes.len() - before;
        }
    }
}

/// A command of ours.
pub(super) fn call(name: &str, transaction: f64, values: impl Into<Vec<Value>>) -> Message {
    Message::Command(Command { name: name.to_owned(), transaction, values: values.into() })
}

/// An AMF0 object.
pub(super) fn object<const N: usize>(properties: [(&str, Value); N]) -> Value {
    Value::Object(properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// The information object of a status (RTMP 7.2.2).
pub(super) fn information(level: &str, code: &str, description: &str) -> Value {
    object([("level", level.into()), ("code", code.into()), ("description", description.into())])
}
