//! What flows from the viewers' side to the source, in the body of the relay's request.

use bytes::{BufMut, Bytes, BytesMut};

use super::Error;
use super::framing::{Fields, Framing};

const ACK: u8 = 1;
const KEY_FRAME: u8 = 2;
/// Longest record. The longest that there is has 9 bytes.
const MAX_RECORD_BYTES: usize = 64;

/// One thing that the viewers' side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// So far the relay has come.
    Ack {
        /// All bytes of the body, from its beginning.
        received_bytes: u64,
    },
    /// Somebody cannot go on without a key frame.
    KeyFrame,
}

impl Back {
    /// The record.
    pub fn to_bytes(self) -> Bytes {
        let mut out = BytesMut::with_capacity(13);
        match self {
            Back::Ack { received_bytes } => {
                out.put_u32(9);
                out.put_u8(ACK);
                out.put_u64(received_bytes);
            }
            Back::KeyFrame => {
                out.put_u32(1);
                out.put_u8(KEY_FRAME);
            }
        }
        out.freeze()
    }
}

/// Reads what [`Back::to_bytes`] wrote, however it arrives. After an error all is lost and every call says so.
#[derive(Debug)]
pub struct BackReader {
    framing: Framing,
    lost: Option<Error>,
}

impl Default for BackReader {
    fn default() -> BackReader {
        BackReader::new()
    }
}

impl BackReader {
    /// At the beginning of a body.
    pub fn new() -> BackReader {
        let limit = |kind| matches!(kind, ACK | KEY_FRAME).then_some(MAX_RECORD_BYTES);
        BackReader { framing: Framing::new(limit), lost: None }
    }

    /// Takes the next bytes. Call [`BackReader::poll_record`] until it has no more before the next input.
    pub fn handle_input(&mut self, input: &[u8]) {
        if self.lost.is_none() {
            self.framing.handle_input(input);
        }
    }

    /// The next complete record, if there is one.
    pub fn poll_record(&mut self) -> Result<Option<Back>, Error> {
        if let Some(error) = &self.lost {
            return Err(error.clone());
        }
        let polled = self.framing.poll().and_then(|record| record.map(parse).transpose());
        if let Err(error) = &polled {
            self.lost = Some(error.clone());
            self.framing.clear();
        }
        polled
    }
}

fn parse((kind, fields): (u8, Bytes)) -> Result<Back, Error> {
    match kind {
        ACK => {
            let mut fields = Fields::new("acknowledgement", fields);
            let received_bytes = fields.u64()?;
            fields.end()?;
            Ok(Back::Ack { received_bytes })
        }
        KEY_FRAME => {
            Fields::new("wish for a key frame", fields).end()?;
            Ok(Back::KeyFrame)
        }
        other => Err(Error::UnknownKind(other)),
    }
}
