//! Values to bytes.

use super::{Value, marker};

impl Value {
    /// Appends the value. Strings beyond 65,535 bytes are written as long strings; property names, which have no long
    /// form, are cut there.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Number(number) => {
                out.push(marker::NUMBER);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Value::Bool(truth) => out.extend_from_slice(&[marker::BOOLEAN, u8::from(*truth)]),
            Value::String(text) => match u16::try_from(text.len()) {
                Ok(len) => {
                    out.push(marker::STRING);
                    out.extend_from_slice(&len.to_be_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
                Err(_) => {
                    out.push(marker::LONG_STRING);
                    out.extend_from_slice(&count(text.len()).to_be_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
            },
            Value::Object(properties) => {
                out.push(marker::OBJECT);
                encode_properties(properties, out);
            }
            Value::Null => out.push(marker::NULL),
            Value::Undefined => out.push(marker::UNDEFINED),
            Value::EcmaArray(properties) => {
                out.push(marker::ECMA_ARRAY);
                out.extend_from_slice(&count(properties.len()).to_be_bytes());
                encode_properties(properties, out);
            }
            Value::StrictArray(values) => {
                out.push(marker::STRICT_ARRAY);
                out.extend_from_slice(&count(values.len()).to_be_bytes());
                for value in values {
                    value.encode(out);
                }
            }
            Value::Date(millis) => {
                out.push(marker::DATE);
                out.extend_from_slice(&millis.to_be_bytes());
                out.extend_from_slice(&[0, 0]);
            }
        }
    }
}

fn encode_properties(properties: &[(String, Value)], out: &mut Vec<u8>) {
    for (name, value) in properties {
        encode_name(name, out);
        value.encode(out);
    }
    encode_name("", out);
    out.push(marker::OBJECT_END);
}

fn encode_name(name: &str, out: &mut Vec<u8>) {
    let cut = name.floor_char_boundary(usize::from(u16::MAX));
    let (name, _) = name.split_at(cut);
    let len = u16::try_from(name.len()).expect("cut at u16::MAX just above");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("our own values are far smaller than 4 GiB")
}
