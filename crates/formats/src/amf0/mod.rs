//! AMF0 values, as in FLV script tags and RTMP commands (Adobe "Action Message Format -- AMF 0", December 2007).
//!
//! Reads all markers that a live publisher or player sends. Not read: references, movie clips, record sets and the
//! switch to AMF3; such a value is an [`Error::Unsupported`]. Long strings and XML become [`Value::String`], typed
//! objects lose their class name, dates their time zone (which the specification wants to be 0).
//!
//! Bounds (security.md S19): [`MAX_DEPTH`], [`MAX_ITEMS`], [`MAX_STRING_BYTES`].

mod decode;
mod encode;

use thiserror::Error;

pub use decode::{decode, decode_all};

/// Deepest nesting: a bare value has depth 1 (security.md S19).
pub const MAX_DEPTH: usize = 32;
/// Most values in one call of [`decode()`] or [`decode_all`], the nested ones included (security.md S19).
pub const MAX_ITEMS: usize = 1024;
/// Longest string (security.md S19).
pub const MAX_STRING_BYTES: usize = 64 * 1024;

/// The type markers of section 2.1.
mod marker {
    pub(super) const NUMBER: u8 = 0x00;
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const STRING: u8 = 0x02;
    pub(super) const OBJECT: u8 = 0x03;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const UNDEFINED: u8 = 0x06;
    pub(super) const ECMA_ARRAY: u8 = 0x08;
    pub(super) const OBJECT_END: u8 = 0x09;
    pub(super) const STRICT_ARRAY: u8 = 0x0a;
    pub(super) const DATE: u8 = 0x0b;
    pub(super) const LONG_STRING: u8 = 0x0c;
    pub(super) const XML: u8 = 0x0f;
    pub(super) const TYPED_OBJECT: u8 = 0x10;
}

/// One AMF0 value. Properties keep their order and may repeat.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A double.
    Number(f64),
    /// True or false.
    Bool(bool),
    /// Text; bytes that are not UTF-8 are read as U+FFFD.
    String(String),
    /// Named properties.
    Object(Vec<(String, Value)>),
    /// Nothing.
    Null,
    /// Not even that.
    Undefined,
    /// Named properties again, as `onMetaData` has them.
    EcmaArray(Vec<(String, Value)>),
    /// Numbered values.
    StrictArray(Vec<Value>),
    /// Milliseconds since 1970, UTC.
    Date(f64),
}

impl Value {
    /// The text, of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    /// The number, of a number.
    pub fn as_f64(&self) -> Option<f64> {
        if let Value::Number(number) = self { Some(*number) } else { None }
    }

    /// The truth, of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(truth) = self { Some(*truth) } else { None }
    }

    /// The first property of this name, of an object or an ECMA array.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(properties) | Value::EcmaArray(properties) => {
                properties.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            Value::Number(_)
            | Value::Bool(_)
            | Value::String(_)
            | Value::Null
            | Value::Undefined
            | Value::StrictArray(_)
            | Value::Date(_) => None,
        }
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Number(number)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Value {
        Value::Bool(truth)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

/// Why a value was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The bytes end before the value does.
    #[error("AMF0 value ends too early")]
    Short,
    /// A marker that we do not read: a reference, a movie clip, AMF3, or no marker at all.
    #[error("AMF0 marker {0:#04x} is not supported")]
    Unsupported(u8),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("AMF0 value is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More values than [`MAX_ITEMS`].
    #[error("more than {MAX_ITEMS} AMF0 values")]
    TooMany,
    /// A string longer than [`MAX_STRING_BYTES`]; this many bytes.
    #[error("AMF0 string of {0} bytes, longer than {MAX_STRING_BYTES}")]
    TooLong(u32),
}

#[cfg(test)]
mod tests;
