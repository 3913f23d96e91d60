//! F3: AMF0 values.

use culvert_formats::amf0::{Error, MAX_DEPTH, MAX_ITEMS, MAX_STRING_BYTES, Value, decode, decode_all};

/// Depth and count are within their bounds; one by one gives the same as all at once; what is written is read again as
/// the same.
pub(crate) fn amf0(data: &[u8]) {
    let Ok(values) = decode_all(data) else {
        let mut rest = data;
        while let Ok(value) = decode(&mut rest) {
            assert_bounded(&[value]);
        }
        return;
    };
    assert_bounded(&values);

    let mut rest = data;
    for value in &values {
        let single = decode(&mut rest).expect("what is read among others is read alone");
        assert_eq!(encode(&[single]), encode(std::slice::from_ref(value)));
    }
    assert!(rest.is_empty());

    // Compared as bytes: a number may be NaN, which equals nothing.
    let written = encode(&values);
    match decode_all(&written) {
        Ok(again) => assert_eq!(encode(&again), written),
        // Text that is not UTF-8 grows threefold when its bytes become U+FFFD.
        Err(Error::TooLong(_)) => assert!(data.len() > MAX_STRING_BYTES / 3),
        Err(error) => panic!("our own writing is refused: {error}"),
    }
}

fn encode(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        value.encode(&mut out);
    }
    out
}

fn assert_bounded(values: &[Value]) {
    let mut count = 0;
    let depth = values.iter().map(|value| depth(value, &mut count)).max().unwrap_or(0);
    assert!(depth <= MAX_DEPTH, "depth {depth}");
    assert!(count <= MAX_ITEMS, "{count} values");
}

fn depth(value: &Value, count: &mut usize) -> usize {
    *count += 1;
    let below = match value {
        Value::Object(properties) | Value::EcmaArray(properties) => {
            properties.iter().map(|(_, value)| depth(value, count)).max()
        }
        Value::StrictArray(values) => values.iter().map(|value| depth(value, count)).max(),
        Value::Number(_) | Value::Bool(_) | Value::String(_) | Value::Null | Value::Undefined | Value::Date(_) => None,
    };
    1 + below.unwrap_or(0)
}
