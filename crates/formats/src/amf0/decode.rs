//! Bytes to values.
#![deny(clippy::indexing_slicing)]

use super::{Error, MAX_DEPTH, MAX_ITEMS, MAX_STRING_BYTES, Value, marker};

/// Takes one value off the front of `input`. On an error `input` is left as it was.
pub fn decode(input: &mut &[u8]) -> Result<Value, Error> {
    let mut reader = Reader { rest: input, items: 0 };
    let value = reader.value(1)?;
    *input = reader.rest;
    Ok(value)
}

/// Reads values until the input ends. [`MAX_ITEMS`] holds for all of them together.
pub fn decode_all(input: &[u8]) -> Result<Vec<Value>, Error> {
    let mut reader = Reader { rest: input, items: 0 };
    let mut values = Vec::new();
    while !reader.rest.is_empty() {
        values.push(reader.value(1)?);
    }
    Ok(values)
}

/// What is left to read, and how many values were read.
struct Reader<'a> {
    rest: &'a [u8],
    items: usize,
}

impl Reader<'_> {
    /// One value. Recursive, but never deeper than [`MAX_DEPTH`]. Nothing is reserved by what a count says.
    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        if depth > MAX_DEPTH {
            return Err(Error::TooDeep);
        }
        self.items += 1;
        if self.items > MAX_ITEMS {
            return Err(Error::TooMany);
        }
        let [kind] = self.array()?;
        match kind {
            marker::NUMBER => Ok(Value::Number(f64::from_be_bytes(self.array()?))),
            marker::BOOLEAN => {
                let [truth] = self.array()?;
                Ok(Value::Bool(truth != 0))
            }
            marker::STRING => Ok(Value::String(self.short_string()?)),
            marker::LONG_STRING | marker::XML => {
                let len = u32::from_be_bytes(self.array()?);
                Ok(Value::String(self.string(len)?))
            }
            marker::OBJECT => Ok(Value::Object(self.properties(depth)?)),
            marker::TYPED_OBJECT => {
                self.short_string()?;
                Ok(Value::Object(self.properties(depth)?))
            }
            marker::ECMA_ARRAY => {
                // The count is a hint at most: encoders write 0, or the number before they added one more.
                let _: [u8; 4] = self.array()?;
                Ok(Value::EcmaArray(self.properties(depth)?))
            }
            marker::STRICT_ARRAY => {
                let count = u32::from_be_bytes(self.array()?);
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(depth + 1)?);
                }
                Ok(Value::StrictArray(values))
            }
            marker::DATE => {
                let millis = f64::from_be_bytes(self.array()?);
                let _zone: [u8; 2] = self.array()?;
                Ok(Value::Date(millis))
            }
            marker::NULL => Ok(Value::Null),
            marker::UNDEFINED => Ok(Value::Undefined),
            other => Err(Error::Unsupported(other)),
        }
    }

    /// Properties up to and with the end: an empty name and the end marker. An empty name with a value is a property.
    fn properties(&mut self, depth: usize) -> Result<Vec<(String, Value)>, Error> {
        let mut properties = Vec::new();
        loop {
            let name = self.short_string()?;
            if name.is_empty()
                && let Some((&marker::OBJECT_END, rest)) = self.rest.split_first()
            {
                self.rest = rest;
                return Ok(properties);
            }
            properties.push((name, self.value(depth + 1)?));
        }
    }

    fn short_string(&mut self) -> Result<String, Error> {
        let len = u16::from_be_bytes(self.array()?);
        self.string(u32::from(len))
    }

    fn string(&mut self, len: u32) -> Result<String, Error> {
        let wanted = usize::try_from(len).ok().filter(|&n| n <= MAX_STRING_BYTES).ok_or(Error::TooLong(len))?;
        let (bytes, rest) = self.rest.split_at_checked(wanted).ok_or(Error::Short)?;
        self.rest = rest;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Error::Short)?;
        self.rest = rest;
        Ok(*bytes)
    }
}
