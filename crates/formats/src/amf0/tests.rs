use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode(&mut out);
    out
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<f64>().prop_filter("NaN is not itself", |n| !n.is_nan()).prop_map(Value::Number),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::String),
        Just(Value::Null),
        Just(Value::Undefined),
        (-1e15..1e15).prop_map(Value::Date),
    ];
    leaf.prop_recursive(6, 200, 6, |inner| {
        let properties = prop::collection::vec(("[a-z]{0,8}", inner.clone()), 0..6);
        prop_oneof![
            properties.clone().prop_map(Value::Object),
            properties.prop_map(Value::EcmaArray),
            prop::collection::vec(inner, 0..6).prop_map(Value::StrictArray),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(values in prop::collection::vec(any_value(), 0..4)) {
        let bytes: Vec<u8> = values.iter().flat_map(encoded).collect();
        prop_assert_eq!(decode_all(&bytes).unwrap(), values.clone());
        let mut rest = bytes.as_slice();
        for value in &values {
            prop_assert_eq!(&decode(&mut rest).unwrap(), value);
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![0u8..0x12, any::<u8>()], 0..600)) {
        let mut rest = bytes.as_slice();
        if decode(&mut rest).is_err() {
            prop_assert_eq!(rest, bytes.as_slice());
        }
        let _ = decode_all(&bytes);
    }

    #[test]
    fn every_truncation_is_an_error(value in any_value(), cut in any::<prop::sample::Index>()) {
        let bytes = encoded(&value);
        let short = &bytes[..cut.index(bytes.len())];
        prop_assert_eq!(decode(&mut &*short), Err(Error::Short));
    }
}

#[test]
fn a_depth_bomb_is_refused_cheaply() {
    let objects = [3, 0, 1, b'a'].repeat(200_000);
    let arrays = [0x0a, 0, 0, 0, 1].repeat(200_000);
    let begun = Instant::now();
    assert_eq!(decode(&mut objects.as_slice()), Err(Error::TooDeep));
    assert_eq!(decode(&mut arrays.as_slice()), Err(Error::TooDeep));
    assert!(begun.elapsed() < Duration::from_millis(50), "debug build on a busy machine; far less otherwise");

    let mut deep = Value::Null;
    for _ in 1..MAX_DEPTH {
        deep = Value::StrictArray(vec![deep]);
    }
    assert_eq!(decode(&mut encoded(&deep).as_slice()), Ok(deep.clone()));
    assert_eq!(decode(&mut encoded(&Value::StrictArray(vec![deep])).as_slice()), Err(Error::TooDeep));
}

#[test]
fn items_are_counted_over_the_whole_call() {
    let many = Value::StrictArray(vec![Value::Null; MAX_ITEMS - 1]);
    assert_eq!(decode(&mut encoded(&many).as_slice()), Ok(many.clone()));
    assert_eq!(decode_all(&[encoded(&many), vec![5]].concat()), Err(Error::TooMany));
    // A count that lies reserves nothing.
    assert_eq!(decode(&mut [0x0a, 0xff, 0xff, 0xff, 0xff].as_slice()), Err(Error::Short));
}

#[test]
fn strings_are_long_up_to_the_bound() {
    for len in [65_535, MAX_STRING_BYTES] {
        let text = Value::String("x".repeat(len));
        assert_eq!(decode(&mut encoded(&text).as_slice()), Ok(text));
    }
    assert_eq!(decode(&mut [0x0c, 0, 1, 0, 1].as_slice()), Err(Error::TooLong(65_537)));
    assert_eq!(decode(&mut [2, 0, 2, 0xff, b'a'].as_slice()), Ok("\u{fffd}a".into()));
}

#[test]
fn an_ecma_array_may_lie_about_its_count() {
    let bytes = [8, 0, 0, 0, 99, 0, 1, b'a', 1, 1, 0, 0, 9];
    let value = decode(&mut bytes.as_slice()).unwrap();
    assert_eq!(value.get("a").and_then(Value::as_bool), Some(true));
    assert_eq!(value.get("b"), None);
    // But its end marker must be there.
    assert_eq!(decode(&mut &bytes[..bytes.len() - 3]), Err(Error::Short));
}

#[test]
fn typed_objects_and_xml_are_read_and_amf3_is_not() {
    let typed = [0x10, 0, 1, b'C', 0, 1, b'n', 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    assert_eq!(decode(&mut typed.as_slice()).unwrap().get("n").and_then(Value::as_f64), Some(2.0));
    assert_eq!(decode(&mut [0x0f, 0, 0, 0, 1, b'x'].as_slice()), Ok("x".into()));
    for marker in [0x04, 0x07, 0x09, 0x0d, 0x0e, 0x11, 0x12, 0xff] {
        assert_eq!(decode(&mut [marker, 0, 0, 0].as_slice()), Err(Error::Unsupported(marker)));
    }
}

#[test]
fn a_connect_command_is_read() {
    let bytes = [
        &[2, 0, 7][..],
        b"connect",
        &[0, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 3],
        b"app",
        &[2, 0, 4],
        b"live",
        &[0, 0, 9],
    ]
    .concat();
    let values = decode_all(&bytes).unwrap();
    assert_eq!(values[0].as_str(), Some("connect"));
    assert_eq!(values[1].as_f64(), Some(1.0));
    assert_eq!(values[2].get("app").and_then(Value::as_str), Some("live"));
}
