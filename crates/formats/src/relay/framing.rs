//! Lengths and kinds: a body is cut into records, however it arrives.

use bytes::{Buf, Bytes, BytesMut};

use super::{Error, PADDING};

/// Holds what it was given and was not asked for, never more.
#[derive(Debug)]
pub(super) struct Framing {
    buffer: BytesMut,
    /// What is left of a record that nobody wants; not even buffered.
    skip: usize,
    /// Most bytes after the length, by kind; none for a kind that does not exist.
    limit: fn(u8) -> Option<usize>,
}

impl Framing {
    pub(super) fn new(limit: fn(u8) -> Option<usize>) -> Framing {
        Framing { buffer: BytesMut::new(), skip: 0, limit }
    }

    pub(super) fn handle_input(&mut self, mut input: &[u8]) {
        // While something is skipped the buffer is empty.
        let unwanted = input.len().min(self.skip);
        input.advance(unwanted);
        self.skip -= unwanted;
        self.buffer.extend_from_slice(input);
    }

    /// The next complete record: its kind and its fields, which share the buffer's memory.
    pub(super) fn poll(&mut self) -> Result<Option<(u8, Bytes)>, Error> {
        while let Some((&[l3, l2, l1, l0], &[kind, ..])) = self.buffer.split_first_chunk() {
            let length = u32::from_be_bytes([l3, l2, l1, l0]);
            let size = length as usize;
            if length == 0 {
                return Err(Error::Empty);
            }
            if kind >= PADDING {
                self.buffer.advance(4);
                let unwanted = self.buffer.len().min(size);
                self.buffer.advance(unwanted);
                self.skip = size - unwanted;
                continue;
            }
            let most = (self.limit)(kind).ok_or(Error::UnknownKind(kind))?;
            if size > most {
                return Err(Error::TooLarge { kind, length, most });
            }
            if self.buffer.len() - 4 < size {
                return Ok(None);
            }
            self.buffer.advance(4);
            let mut record = self.buffer.split_to(size).freeze();
            record.advance(1);
            return Ok(Some((kind, record)));
        }
        // A length of 0 is known before the kind that it does not count.
        if self.buffer.first_chunk() == Some(&[0; 4]) { Err(Error::Empty) } else { Ok(None) }
    }

    /// Lets go of what is held.
    pub(super) fn clear(&mut self) {
        self.buffer = BytesMut::new();
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}

/// The fields of a record, which must be read to their end.
pub(super) struct Fields {
    rest: Bytes,
    what: &'static str,
}

impl Fields {
    pub(super) fn new(what: &'static str, rest: Bytes) -> Fields {
        Fields { rest, what }
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.rest.try_get_u8().map_err(|_| Error::Length(self.what))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.rest.try_get_u32().map_err(|_| Error::Length(self.what))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.rest.try_get_u64().map_err(|_| Error::Length(self.what))
    }

    pub(super) fn i64(&mut self) -> Result<i64, Error> {
        self.rest.try_get_i64().map_err(|_| Error::Length(self.what))
    }

    pub(super) fn take(&mut self, size: usize) -> Result<Bytes, Error> {
        if size > self.rest.len() { Err(Error::Length(self.what)) } else { Ok(self.rest.split_to(size)) }
    }

    pub(super) fn rest(self) -> Bytes {
        self.rest
    }

    pub(super) fn end(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::Length(self.what)) }
    }
}
