//! What comes from old peers: doubled headers, control messages, proxied URLs.

use culvert_m7s::surface::{Asked, proxied};
use culvert_m7s::wire::control::{Message, Request};
use culvert_m7s::wire::doubled::{Doubled, Mismatch};

use crate::split::splits;

/// The same frames however the bytes are split; nothing is added; what is RFC 6455 comes out as it went in.
pub(crate) fn m7s_doubled(data: &[u8]) {
    let mut ways = splits(data).into_iter().map(|pieces| undoubled(&pieces));
    let (out, fault) = ways.next().expect("splits gives at least the whole");
    for way in ways {
        assert_eq!(way, (out.clone(), fault));
    }
    assert!(out.len() <= data.len());
    // What was taken apart has no doubled headers any more, unless frames of its own look like them.
    if fault.is_none() && !out.windows(4).any(|four| four == [0x12, 0x34, 0x56, 0x78]) {
        let (again, fault) = undoubled(&[&out]);
        assert!(fault.is_none() && out.starts_with(&again));
    }
}

fn undoubled(pieces: &[&[u8]]) -> (Vec<u8>, Option<Mismatch>) {
    let (mut doubled, mut out) = (Doubled::default(), Vec::new());
    for piece in pieces {
        doubled.handle_input(piece);
        loop {
            match doubled.poll_output() {
                Ok(Some(bytes)) => out.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(fault) => return (out, Some(fault)),
            }
        }
    }
    (out, None)
}

/// What was read and written is read again as the same.
pub(crate) fn m7s_control(data: &[u8]) {
    let Ok(message) = Message::read(data) else { return };
    let written = match &message {
        Message::Info(info) => Message::info(1, info),
        Message::Request(request) => request.text(),
        Message::Response { sn, body: Ok(body) } => Message::response(*sn, body),
        Message::Response { body: Err(_), .. } | Message::Unknown(_) => return,
    };
    let again = Message::read(written.as_bytes()).expect("what we write is a message");
    match (again, message) {
        // Names of headers that differ in nothing are put together.
        (Message::Request(again), Message::Request(message)) => assert_eq!(sorted(again), sorted(message)),
        (again, message) => assert_eq!(again, message),
    }
}

fn sorted(mut request: Request) -> Request {
    request.headers.sort();
    request
}

/// Whatever is asked for, only paths that pass go to a platform.
pub(crate) fn m7s_proxy_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    for path in [path.to_string(), format!("/erwscascade/httpproxy/{path}")] {
        if let Some(Ok(Asked::Proxy(to))) = proxied(&path, query) {
            assert!(culvert_cascade::check(&to.target).is_ok(), "{to:?}");
        }
    }
}
