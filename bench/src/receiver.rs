//! What a viewer says to begin, and what it makes of the bytes that come: bytes in, tags out, no socket.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use culvert_formats::flv::{self, TagKind};
use culvert_net::ws::{Decoder, Message, Opcode, Role, encode};
use culvert_rtmp::session::{ClientEvent, ClientSession, Goal, Output, Target};

use crate::args::{Class, FRAGMENT_HEAD_BYTES, Protocol};
use crate::stamp::STAMP_BYTES;

/// Longest answer head that is taken.
const HEAD_BYTES: usize = 8 * 1024;
/// What an RTMP session takes at once.
pub(crate) const INPUT_BYTES: usize = 64 * 1024;
/// The key of RFC 6455 1.3 and the answer that belongs to it.
const WS_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WS_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The stream's name on the server that it is published to.
pub(crate) const STREAM: &str = "live/bench";

/// What came out of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// The server plays.
    Open,
    /// A tag.
    Tag(TagKind, Bytes),
}

/// One viewer's dialogue and parser.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// Of the answer's head, until it is whole; none where there is no such thing.
    head: Option<Vec<u8>>,
    open: bool,
    dialect: Dialect,
}

#[derive(Debug)]
enum Dialect {
    Flv(flv::Reader),
    Ws { decoder: Decoder, reader: flv::Reader },
    WsMp4(Decoder),
    Rtmp(Box<ClientSession>),
    Rtsp(Box<crate::rtsp::Viewer>),
}

impl Receiver {
    /// A viewer, and the first bytes it sends once connected.
    pub(crate) fn new(protocol: Protocol, class: Class, port: u16, stream: &str) -> Result<(Receiver, Vec<u8>)> {
        let query = match class {
            Class::Shared => "",
            Class::Low => "?latency=low",
        };
        let suffix = if protocol == Protocol::WsMp4 { "mp4" } else { "flv" };
        let get =
            |more: &str| format!("GET /play/{stream}.{suffix}{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{more}\r\n");
        let upgrade = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WS_KEY}\r\n"
        );
        let reader = flv::Reader::new();
        let (head, dialect, first) = match protocol {
            Protocol::Flv => (Some(Vec::new()), Dialect::Flv(reader), get("").into_bytes()),
            Protocol::Ws => {
                let decoder = Decoder::new(Role::Client, flv::MAX_TAG_BYTES);
                (Some(Vec::new()), Dialect::Ws { decoder, reader }, get(&upgrade).into_bytes())
            }
            Protocol::WsMp4 => {
                let decoder = Decoder::new(Role::Client, flv::MAX_TAG_BYTES);
                (Some(Vec::new()), Dialect::WsMp4(decoder), get(&upgrade).into_bytes())
            }
            Protocol::Rtmp => {
                let target = Target::parse(&format!("rtmp://127.0.0.1:{port}/{stream}{query}"))?;
                let mut session = ClientSession::new(Goal::Play, target, 0, &[0x5a; 1528]);
                let mut first = Vec::new();
                take_outputs(&mut session, &mut Vec::new(), &mut first)?;
                (None, Dialect::Rtmp(Box::new(session)), first)
            }
            Protocol::Rtsp => {
                let (viewer, first) = crate::rtsp::Viewer::new(&format!("rtsp://127.0.0.1:{port}/{stream}{query}"));
                (None, Dialect::Rtsp(Box::new(viewer)), first)
            }
            // Says something, as all others do: the kernel acknowledges otherwise to those that only listen.
            Protocol::Tcp => (None, Dialect::Flv(reader), b"play\r\n".to_vec()),
        };
        Ok((Receiver { head, open: false, dialect }, first))
    }

    /// Whether the stream has been asked for: at once, but for RTMP, where that comes at the end of a dialogue.
    pub(crate) fn has_asked(&self) -> bool {
        match &self.dialect {
            Dialect::Flv(_) | Dialect::Ws { .. } | Dialect::WsMp4(_) => true,
            Dialect::Rtmp(session) => session.stream_id() != 0,
            Dialect::Rtsp(viewer) => viewer.has_asked(),
        }
    }

    /// Takes what came, at most [`INPUT_BYTES`]; appends what it was to `got` and what is to be sent to `reply`.
    ///
    /// # Errors
    /// The server refuses, ends, or breaks the protocol.
    pub(crate) fn handle_input(&mut self, mut input: &[u8], got: &mut Vec<Got>, reply: &mut Vec<u8>) -> Result<()> {
        if let Dialect::Rtmp(session) = &mut self.dialect {
            session.handle_input(input)?;
            return take_outputs(session, got, reply);
        }
        if let Dialect::Rtsp(viewer) = &mut self.dialect {
            return viewer.handle_input(input, got, reply);
        }
        if let Some(head) = &mut self.head {
            let Some(rest) = take_head(head, input)? else { return Ok(()) };
            (self.head, input) = (None, rest);
        }
        if !std::mem::replace(&mut self.open, true) {
            got.push(Got::Open);
        }
        match &mut self.dialect {
            Dialect::Flv(reader) => take_tags(reader, input, got),
            Dialect::Ws { decoder, reader } => {
                take_messages(decoder, input, reply, |message| take_tags(reader, message, got))
            }
            Dialect::WsMp4(decoder) => take_messages(decoder, input, reply, |message| {
                got.extend(fragment(message));
                Ok(())
            }),
            Dialect::Rtmp(_) | Dialect::Rtsp(_) => Ok(()),
        }
    }
}

/// Appends to the head; what came behind it, once it is whole.
fn take_head<'a>(head: &mut Vec<u8>, input: &'a [u8]) -> Result<Option<&'a [u8]>> {
    let before = head.len();
    head.extend_from_slice(input);
    let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
        if head.len() > HEAD_BYTES {
            bail!("no end of the answer's head in {HEAD_BYTES} bytes");
        }
        return Ok(None);
    };
    let text = String::from_utf8_lossy(head.get(..end).unwrap_or_default());
    let status = text.lines().next().unwrap_or_default();
    let accepted = status.contains(" 200 ") || status.contains(" 101 ") && text.contains(WS_ACCEPT);
    if !accepted {
        bail!("the server answers {status:?}");
    }
    Ok(input.get(end + 4 - before..))
}

/// Opens WebSocket messages.
fn take_messages(
    decoder: &mut Decoder,
    input: &[u8],
    reply: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    decoder.handle_input(input);
    while let Some(message) = decoder.poll_message()? {
        match message {
            Message::Binary(bytes) => take(&bytes)?,
            Message::Ping(payload) => reply.extend_from_slice(&encode(Opcode::Pong, &payload, Some([7; 4]))),
            Message::Close(status) => bail!("the server closed with status {status:?}"),
            Message::Pong(_) | Message::Text(_) => {}
        }
    }
    Ok(())
}

/// A message of WS-fMP4 as the tag that it was made of, of which only what the bench looks at is there; none for an
/// initialisation segment.
fn fragment(message: &[u8]) -> Option<Got> {
    const PRFT_BYTES: usize = 32;
    let message = if message.get(4..8)? == b"prft" { message.get(PRFT_BYTES..)? } else { message };
    if message.get(4..8)? != b"moof" {
        return None;
    }
    // tfhd's track, and the first byte of trun's flags of the sample: 2 where it depends on no other.
    let (track, flags) = (message.get(47)?, message.get(96)?);
    let stamp = message.get(FRAGMENT_HEAD_BYTES..)?.last_chunk::<STAMP_BYTES>()?;
    Some(match (track, flags) {
        (1, 2) => Got::Tag(TagKind::Video, [&[0x17, 1, 0, 0, 0], &stamp[..]].concat().into()),
        (1, _) => Got::Tag(TagKind::Video, [&[0x27, 1, 0, 0, 0], &stamp[..]].concat().into()),
        _ => Got::Tag(TagKind::Audio, [&[0xaf, 1], &stamp[..]].concat().into()),
    })
}

fn take_tags(reader: &mut flv::Reader, input: &[u8], got: &mut Vec<Got>) -> Result<()> {
    reader.handle_input(input);
    while let Some(tag) = reader.poll_tag().context("the server's FLV")? {
        got.push(Got::Tag(tag.kind, tag.body));
    }
    Ok(())
}

fn take_outputs(session: &mut ClientSession, got: &mut Vec<Got>, reply: &mut Vec<u8>) -> Result<()> {
    while let Some(output) = session.poll_output() {
        match output {
            Output::Send(bytes) => reply.extend_from_slice(&bytes),
            Output::Event(ClientEvent::Ready) => got.push(Got::Open),
            Output::Event(ClientEvent::Media { kind, body, .. }) => got.push(Got::Tag(kind, body)),
            Output::Event(ClientEvent::Ended { code, description }) => bail!("the server says {code}: {description}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n\r\n";

    fn flv_bytes() -> Vec<u8> {
        let mut bytes = flv::file_header(true, true).to_vec();
        flv::write_tag(TagKind::Audio, 5, &[0xaf, 1], &[1, 2], &mut bytes);
        flv::write_tag(TagKind::Video, 6, &[0x17, 1], &[3], &mut bytes);
        bytes
    }

    fn expected() -> Vec<Got> {
        vec![
            Got::Open,
            Got::Tag(TagKind::Audio, Bytes::from_static(&[0xaf, 1, 1, 2])),
            Got::Tag(TagKind::Video, Bytes::from_static(&[0x17, 1, 3])),
        ]
    }

    fn feed(protocol: Protocol, bytes: &[u8], piece: usize) -> Result<(Vec<Got>, Vec<u8>)> {
        let (mut receiver, _) = Receiver::new(protocol, Class::Shared, 80, STREAM)?;
        let (mut got, mut reply) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            receiver.handle_input(piece, &mut got, &mut reply)?;
        }
        Ok((got, reply))
    }

    #[test]
    fn http_flv_is_read_in_any_pieces() {
        let bytes = [OK, &flv_bytes()].concat();
        for piece in [1, 3, 50, 1000] {
            assert_eq!(feed(Protocol::Flv, &bytes, piece).unwrap().0, expected(), "{piece}");
        }
        assert_eq!(feed(Protocol::Tcp, &flv_bytes(), 7).unwrap().0, expected());
    }

    #[test]
    fn web_socket_messages_are_opened_and_pings_answered() {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {WS_ACCEPT}\r\n\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&encode(Opcode::Ping, b"x", None));
        for part in flv_bytes().chunks(17) {
            bytes.extend_from_slice(&encode(Opcode::Binary, part, None));
        }
        for piece in [1, 1000] {
            let (got, reply) = feed(Protocol::Ws, &bytes, piece).unwrap();
            assert_eq!((got, reply), (expected(), encode(Opcode::Pong, b"x", Some([7; 4])).to_vec()));
        }
    }

    #[test]
    fn fragments_are_told_by_their_track_and_whether_one_can_begin_there() {
        use culvert_media::{Codec, Frame, Mux as _, Time, Track, TrackId, Tracks};
        let source = crate::stream::Source::headers(crate::stream::Shape::default());
        let record = |kind, skip: usize| {
            let header = source.iter().find(|(of, _)| *of == kind).map(|(_, body)| body[skip..].to_vec());
            Bytes::from(header.unwrap())
        };
        let video = Track::new(TrackId(0), Codec::H264, record(TagKind::Video, 5)).unwrap();
        let sound = Track::new(TrackId(1), Codec::Aac, record(TagKind::Audio, 2)).unwrap();
        let mut mux = culvert_formats::fmp4::WsMux::new(&Tracks::new(vec![video, sound]));
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {WS_ACCEPT}\r\n\r\n");
        let mut bytes = [head.as_bytes(), &mux.header()].concat();
        let data = Bytes::from_static(b"0123456789abcde");
        for (track, key) in [(0, true), (1, true), (0, false)] {
            let (time, wall) = (Time::ZERO, std::time::UNIX_EPOCH);
            let frame = Frame {
                track: TrackId(track),
                dts: time,
                pts: time,
                key,
                discontinuity: false,
                wall,
                data: data.clone(),
            };
            let mut chunks = Vec::new();
            mux.push(&frame, &mut chunks);
            bytes.extend(chunks.iter().flat_map(|chunk| chunk.data.to_vec()));
        }
        let tag = |kind, head: &[u8]| Got::Tag(kind, [head, &data[..]].concat().into());
        let video = |first| tag(TagKind::Video, &[first, 1, 0, 0, 0]);
        let expected = vec![Got::Open, video(0x17), tag(TagKind::Audio, &[0xaf, 1]), video(0x27)];
        assert_eq!(feed(Protocol::WsMp4, &bytes, 11).unwrap().0, expected);
    }

    #[test]
    fn a_refusal_is_told_by_its_status_line() {
        let refusal = feed(Protocol::Flv, b"HTTP/1.1 404 Not Found\r\n\r\n", 1000).unwrap_err();
        assert!(refusal.to_string().contains("404 Not Found"), "{refusal}");
        assert!(feed(Protocol::Flv, &[b'x'; HEAD_BYTES + 1], 1000).is_err());
    }

    #[test]
    fn the_class_is_in_the_request() {
        let (_, first) = Receiver::new(Protocol::Flv, Class::Low, 81, STREAM).unwrap();
        let text = String::from_utf8(first).unwrap();
        assert!(text.starts_with("GET /play/live/bench.flv?latency=low HTTP/1.1\r\nHost: 127.0.0.1:81\r\n"), "{text}");
        let (rtmp, first) = Receiver::new(Protocol::Rtmp, Class::Low, 81, STREAM).unwrap();
        assert_eq!((first.len(), rtmp.has_asked()), (1537, false));
    }
}
