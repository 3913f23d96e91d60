//! Messages of the control link (OLD_PEERS.md 2): JSON in text frames, with base64 in it, and in that JSON once more.
//!
//! ```text
//! {"sn": 1, "type": 0, "pad": base64({"cid", "name", "serial"})}                          from the lower, once or more
//! {"sn": 7, "type": 1, "pad": base64({"url", "header": {k: [v]}, "method", "body": base64})}   from the upper
//! {"sn": 7, "type": 2, "pad": base64(the bare body of the answer)}                        from the lower
//! ```

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const INFO: i64 = 0;
const REQUEST: i64 = 1;
const RESPONSE: i64 = 2;

/// What a lower says of itself. A lower without `cinfo` in its configuration says nothing at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// Its id, which may be empty: the one in the URL counts.
    pub cid: String,
    /// What people call it.
    pub name: String,
    /// Its serial number.
    pub serial: String,
}

/// A request for the lower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// To be echoed in the answer.
    pub sn: i64,
    /// Path and query; old uppers send whole `http:` URLs, too.
    pub url: String,
    /// Its method.
    pub method: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who the lower is.
    Info(Info),
    /// A request.
    Request(Request),
    /// An answer: nothing but a body, or what is wrong with it.
    Response {
        /// Of the request.
        sn: i64,
        /// Without status and headers: the old wire has none.
        body: Result<Bytes, Unreadable>,
    },
    /// Of a type that is not known, which old peers ignore.
    Unknown(i64),
}

/// A message that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Unreadable {
    /// Not `{"sn", "type", "pad"}` with a number, a number and a text.
    #[error("it is not the JSON of a message")]
    Json,
    /// Its `pad` is not base64.
    #[error("its pad is not base64")]
    Base64,
    /// What is in the `pad` is not the JSON of such a message.
    #[error("what is in its pad is not the JSON of such a message")]
    Pad,
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    sn: i64,
    r#type: i64,
    #[serde(borrow, default)]
    pad: Option<std::borrow::Cow<'a, str>>,
}

/// Headers may be null, and so may the values of one, for Go's nil.
type Headers = BTreeMap<String, Option<Vec<String>>>;

#[derive(Serialize, Deserialize)]
struct Pad {
    #[serde(default)]
    url: String,
    #[serde(default)]
    header: Option<Headers>,
    #[serde(default)]
    method: String,
    #[serde(default)]
    body: Option<String>,
}

impl Message {
    /// Reads the text of a frame.
    pub fn read(text: &[u8]) -> Result<Message, Unreadable> {
        let envelope: Envelope<'_> = serde_json::from_slice(text).map_err(|_| Unreadable::Json)?;
        let sn = envelope.sn;
        let pad = STANDARD.decode(envelope.pad.as_deref().unwrap_or_default()).map_err(|_| Unreadable::Base64);
        Ok(match envelope.r#type {
            INFO => Message::Info(serde_json::from_slice(&pad?).map_err(|_| Unreadable::Pad)?),
            REQUEST => Message::Request(Request::read(sn, &pad?)?),
            RESPONSE => Message::Response { sn, body: pad.map(Bytes::from) },
            other => Message::Unknown(other),
        })
    }

    /// The text of a frame that introduces a lower.
    pub fn info(sn: i64, info: &Info) -> String {
        envelope(sn, INFO, &serde_json::to_vec(info).expect("three texts are always JSON"))
    }

    /// The text of a frame that answers a request.
    pub fn response(sn: i64, body: &[u8]) -> String {
        envelope(sn, RESPONSE, body)
    }
}

impl Request {
    fn read(sn: i64, pad: &[u8]) -> Result<Request, Unreadable> {
        let pad: Pad = serde_json::from_slice(pad).map_err(|_| Unreadable::Pad)?;
        let body = STANDARD.decode(pad.body.unwrap_or_default()).map_err(|_| Unreadable::Base64)?;
        let headers = pad.header.unwrap_or_default().into_iter();
        let headers = headers
            .flat_map(|(name, values)| values.unwrap_or_default().into_iter().map(move |value| (name.clone(), value)));
        Ok(Request { sn, url: pad.url, method: pad.method, headers: headers.collect(), body: body.into() })
    }

    /// The text of a frame that asks it.
    pub fn text(&self) -> String {
        let mut header = Headers::new();
        for (name, value) in &self.headers {
            header.entry(name.clone()).or_default().get_or_insert_default().push(value.clone());
        }
        let pad = Pad {
            url: self.url.clone(),
            header: Some(header),
            method: self.method.clone(),
            body: (!self.body.is_empty()).then(|| STANDARD.encode(&self.body)),
        };
        envelope(self.sn, REQUEST, &serde_json::to_vec(&pad).expect("texts are always JSON"))
    }
}

fn envelope(sn: i64, r#type: i64, pad: &[u8]) -> String {
    let envelope = Envelope { sn, r#type, pad: Some(STANDARD.encode(pad).into()) };
    serde_json::to_string(&envelope).expect("numbers and a text are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_captures_are_read() {
        let info =
            br#"{"sn":1,"type":0,"pad":"eyJjaWQiOiJ0ZXN0LWMwMDEiLCJuYW1lIjoicGMtdGVzdCIsInNlcmlhbCI6ImMwMDEifQ=="}"#;
        let expected = Info { cid: "test-c001".into(), name: "pc-test".into(), serial: "c001".into() };
        assert_eq!(Message::read(info), Ok(Message::Info(expected.clone())));
        assert_eq!(Message::info(1, &expected).as_bytes(), info);
        let answer = br#"{"sn":6,"type":2,"pad":"b2sK"}"#;
        assert_eq!(Message::read(answer), Ok(Message::Response { sn: 6, body: Ok(Bytes::from_static(b"ok\n")) }));
        assert_eq!(Message::response(6, b"ok\n").as_bytes(), answer);
        let request = br#"{"sn":2,"type":1,"pad":"eyJ1cmwiOiJodHRwOi8vMTI3LjAuMC4xOjkwOTkvZWNobz9hPTFcdTAwMjZiPTIiLCJoZWFkZXIiOnsiQ29udGVudC1UeXBlIjpbImFwcGxpY2F0aW9uL3NkcCJdfSwibWV0aG9kIjoiUE9TVCIsImJvZHkiOiJkajB3RFFwdlBTMGdNU0F4SUVsT0lFbFFOQ0F3TGpBdU1DNHdEUW89In0="}"#;
        let expected = Request {
            sn: 2,
            url: "http://127.0.0.1:9099/echo?a=1&b=2".into(),
            method: "POST".into(),
            headers: vec![("Content-Type".into(), "application/sdp".into())],
            body: Bytes::from_static(b"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\n"),
        };
        assert_eq!(Message::read(request), Ok(Message::Request(expected.clone())));
        assert_eq!(Message::read(expected.text().as_bytes()), Ok(Message::Request(expected)));
    }

    #[test]
    fn nulls_and_what_is_missing_are_empty() {
        let request = |pad: &str| Message::read(envelope(3, REQUEST, pad.as_bytes()).as_bytes());
        let empty = Request { sn: 3, url: "/a".into(), method: "GET".into(), headers: vec![], body: Bytes::new() };
        assert_eq!(
            request(r#"{"url":"/a","header":null,"method":"GET","body":null}"#),
            Ok(Message::Request(empty.clone()))
        );
        assert_eq!(request(r#"{"url":"/a","method":"GET","header":{"A":null},"more":1}"#), Ok(Message::Request(empty)));
        assert_eq!(Message::read(br#"{"sn":1,"type":0,"pad":"e30="}"#), Ok(Message::Info(Info::default())));
        assert_eq!(Message::read(br#"{"sn":1,"type":7}"#), Ok(Message::Unknown(7)));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for text in [
            &b""[..],
            b"{}",
            b"[]",
            b"null",
            br#"{"sn":"1","type":2,"pad":""}"#,
            b"\xff\xfe",
            br#"{"sn":1e30,"type":2}"#,
        ] {
            assert_eq!(Message::read(text), Err(Unreadable::Json), "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(Message::read(br#"{"sn":1,"type":0,"pad":"=="}"#), Err(Unreadable::Base64));
        assert_eq!(Message::read(br#"{"sn":1,"type":1,"pad":"MQ=="}"#), Err(Unreadable::Pad));
        // The answer that cannot be read still belongs to its request.
        let broken = Message::Response { sn: 4, body: Err(Unreadable::Base64) };
        assert_eq!(Message::read(br#"{"sn":4,"type":2,"pad":"!"}"#), Ok(broken));
        let deep = format!("{{\"sn\":1,\"type\":2,\"x\":{}", "[".repeat(100_000));
        assert_eq!(Message::read(deep.as_bytes()), Err(Unreadable::Json));
    }
}
