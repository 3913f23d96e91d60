//! Reading: a connection's bytes become messages and interleaved frames (RFC 2326 4, 10.12).
//!
//! ```text
//! message   start line, header lines, empty line, body (as long as Content-Length says)
//! frame     `$` (1) | channel (1) | length (2, big endian) | data
//! ```
//!
//! Lines end in CRLF, LF or CR; an LF behind the CR that ends a head is never its body's. A body without Content-Length
//! is none, also where Content-Type says SDP: it would end with the connection, which nobody that wants to PLAY does.
//!
//! What stands between messages and is neither (the rest of a body whose Content-Length was too small; what is left
//! when a camera loses bytes of a frame) is passed over up to the next status line, request line or likely frame. What
//! comes out does not depend on how the input was split.

use bytes::{Buf, Bytes, BytesMut};

use super::message::{StartLine, is_digits, is_token_byte};
use super::{BODY_BYTES, Error, HEAD_BYTES, HEADERS, Headers, LINE_BYTES, Request, Response, SKIP_BYTES};

/// Bytes before a frame's data.
const FRAME_HEAD_BYTES: usize = 4;
/// A frame in the midst of what is not RTSP is believed only below this channel: twice as many as 16 tracks need.
const LIKELY_CHANNELS: u8 = 32;
/// The shortest RTCP report (RFC 3550 6.4.2); RTP is longer.
const LIKELY_FRAME_BYTES: usize = 8;
/// Longest method that is waited for; the longest known has 13 bytes.
const METHOD_BYTES: usize = 32;

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A request.
    Request(Request),
    /// An answer.
    Response(Response),
    /// A frame, most likely RTP or RTCP.
    Interleaved {
        /// As agreed upon in SETUP.
        channel: u8,
        /// At most 65,535 bytes, not copied: it keeps its neighbours in memory.
        data: Bytes,
    },
}

/// Cuts one direction of a connection into [`Input`]s. Feed [`Reader::handle_input`], then take [`Reader::poll`] until
/// it has nothing: then it holds at most a head, a body or a frame.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: BytesMut,
    state: State,
    /// Something came whole; before that nothing is passed over.
    begun: bool,
    /// The last byte that was taken is the CR of a line; an LF belongs to it.
    after_cr: bool,
    /// So many bytes of the buffer are known to have no line's end.
    looked: usize,
    skipped: u64,
}

#[derive(Debug)]
enum State {
    Between(Gap),
    Head(Head),
    Body(StartLine, Headers, usize),
}

/// What was passed over since the last message.
#[derive(Debug, Default)]
struct Gap {
    bytes: usize,
    /// It was more than empty lines.
    lost: bool,
    /// The next byte does not begin a line.
    mid_line: bool,
}

#[derive(Debug, Default)]
struct Head {
    start: Option<StartLine>,
    headers: Headers,
    lines: usize,
    bytes: usize,
}

/// What some bytes begin with.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Nothing,
    Message,
    Frame,
    /// More bytes will tell.
    More,
    /// The line's end will tell.
    Line,
}

impl Default for State {
    fn default() -> State {
        State::Between(Gap::default())
    }
}

impl Reader {
    /// A reader at the beginning of a connection.
    pub fn new() -> Reader {
        Reader::default()
    }

    /// Takes the next bytes.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next thing that is whole.
    ///
    /// # Errors
    /// See [`Error`]; the connection is of no use afterwards.
    pub fn poll(&mut self) -> Result<Option<Input>, Error> {
        loop {
            self.finish_line();
            let (state, more) = match std::mem::take(&mut self.state) {
                State::Between(mut gap) => match self.pass_over(&mut gap)? {
                    Look::Message => (State::Head(Head::default()), true),
                    Look::Frame if self.has_frame() => return Ok(Some(self.frame())),
                    Look::Frame | Look::More | Look::Line | Look::Nothing => (State::Between(gap), false),
                },
                State::Head(mut head) => match self.line(head.room())? {
                    Some(line) if line.is_empty() => (head.finish()?, true),
                    Some(line) => {
                        head.push(&line)?;
                        (State::Head(head), true)
                    }
                    None => (State::Head(head), false),
                },
                State::Body(start, headers, length) if self.buffer.len() >= length => {
                    let body = self.buffer.split_to(length).freeze();
                    self.begun = true;
                    return Ok(Some(start.into_input(headers, body)));
                }
                State::Body(start, headers, length) => (State::Body(start, headers, length), false),
            };
            self.state = state;
            if !more {
                return Ok(None);
            }
        }
    }

    /// How many bytes were neither a message nor a frame nor an empty line, so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The LF of a CRLF whose CR was taken for the line's end as soon as it came.
    fn finish_line(&mut self) {
        if let Some(first) = self.buffer.first().filter(|_| self.after_cr) {
            let taken = usize::from(*first == b'\n');
            self.buffer.advance(taken);
            self.after_cr = false;
        }
    }

    /// Goes on to the next message or frame.
    fn pass_over(&mut self, gap: &mut Gap) -> Result<Look, Error> {
        // A line that drips in is not looked at from its beginning each time.
        let new = self.buffer.get(self.looked..).unwrap_or_default();
        if self.looked > 0 && self.buffer.len() <= LINE_BYTES && !new.iter().any(u8::is_ascii_control) {
            self.looked = self.buffer.len();
            return Ok(Look::Line);
        }
        let mut passed = 0;
        let look = loop {
            let rest = self.buffer.get(passed..).unwrap_or_default();
            let Some(first) = rest.first() else { break Look::More };
            let ends_line = matches!(first, b'\r' | b'\n');
            if !ends_line {
                match look(rest, gap) {
                    Look::Nothing if !self.begun => return Err(Error::NotRtsp),
                    Look::Nothing => gap.lost = true,
                    found @ (Look::Message | Look::Frame | Look::More | Look::Line) => break found,
                }
            }
            gap.mid_line = !ends_line;
            self.skipped = self.skipped.saturating_add(u64::from(gap.lost));
            passed += 1;
        };
        self.buffer.advance(passed);
        self.looked = if look == Look::Line { self.buffer.len() } else { 0 };
        gap.bytes = gap.bytes.saturating_add(passed);
        if gap.bytes > SKIP_BYTES { Err(Error::Lost) } else { Ok(look) }
    }

    /// The next line without its end, at most `limit` bytes.
    fn line(&mut self, limit: usize) -> Result<Option<BytesMut>, Error> {
        let new = self.buffer.get(self.looked..).unwrap_or_default();
        let end = new.iter().position(|byte| matches!(byte, b'\r' | b'\n')).map(|n| n + self.looked);
        if end.unwrap_or(self.buffer.len()) > limit {
            return Err(Error::HeadTooLarge);
        }
        let Some(end) = end else {
            self.looked = self.buffer.len();
            return Ok(None);
        };
        self.looked = 0;
        let line = self.buffer.split_to(end);
        self.after_cr = self.buffer.get_u8() == b'\r';
        Ok(Some(line))
    }

    fn has_frame(&self) -> bool {
        let head = self.buffer.first_chunk::<FRAME_HEAD_BYTES>();
        head.is_some_and(|[_, _, high, low]| self.buffer.len() - FRAME_HEAD_BYTES >= length(*high, *low))
    }

    fn frame(&mut self) -> Input {
        let (_, channel, length) = (self.buffer.get_u8(), self.buffer.get_u8(), self.buffer.get_u16());
        self.begun = true;
        Input::Interleaved { channel, data: self.buffer.split_to(length.into()).freeze() }
    }
}

impl Head {
    /// Longest line that may come next, without its end.
    fn room(&self) -> usize {
        if self.start.is_none() { LINE_BYTES } else { HEAD_BYTES.saturating_sub(self.bytes + 1) }
    }

    fn push(&mut self, line: &[u8]) -> Result<(), Error> {
        self.bytes += line.len() + 1;
        if self.start.is_none() {
            self.start = Some(StartLine::parse(line).ok_or(Error::Syntax("status line"))?);
            return Ok(());
        }
        self.lines += 1;
        if self.lines > HEADERS {
            return Err(Error::HeadTooLarge);
        }
        self.headers.push_line(line);
        Ok(())
    }

    fn finish(self) -> Result<State, Error> {
        let start = self.start.ok_or(Error::Syntax("status line"))?;
        let length = body_length(&self.headers)?;
        Ok(State::Body(start, self.headers, length))
    }
}

impl StartLine {
    fn into_input(self, headers: Headers, body: Bytes) -> Input {
        match self {
            StartLine::Request { method, uri } => Input::Request(Request { method, uri, headers, body }),
            StartLine::Response { status, reason } => Input::Response(Response { status, reason, headers, body }),
        }
    }
}

/// RFC 2326 12.14; two that differ would let two readers see two connections.
fn body_length(headers: &Headers) -> Result<usize, Error> {
    let mut values = headers.all("Content-Length");
    let Some(first) = values.next() else { return Ok(0) };
    if !is_digits(first) || values.any(|other| other != first) {
        return Err(Error::Syntax("Content-Length"));
    }
    let length = first.parse().unwrap_or(u64::MAX);
    usize::try_from(length).ok().filter(|length| *length <= BODY_BYTES).ok_or(Error::BodyTooLarge(length))
}

fn length(high: u8, low: u8) -> usize {
    u16::from_be_bytes([high, low]).into()
}

fn look(bytes: &[u8], gap: &Gap) -> Look {
    match bytes {
        [b'$', ..] if gap.lost => likely_frame(bytes),
        [b'$', ..] => Look::Frame,
        _ => match status_line(bytes) {
            Look::Nothing if !gap.mid_line => request_line(bytes, gap),
            found @ (Look::Nothing | Look::Message | Look::Frame | Look::More | Look::Line) => found,
        },
    }
}

/// RFC 2326 7.1. Also within a line: the body before it may lack its last line's end.
fn status_line(bytes: &[u8]) -> Look {
    let pattern = b"RTSP/0.0 0";
    let fits = |(byte, wanted): (&u8, &u8)| if *wanted == b'0' { byte.is_ascii_digit() } else { byte == wanted };
    match bytes.iter().zip(pattern).all(fits) {
        true if bytes.len() < pattern.len() => Look::More,
        true => Look::Message,
        false => Look::Nothing,
    }
}

/// RFC 2326 6.1.
fn request_line(bytes: &[u8], gap: &Gap) -> Look {
    match bytes.iter().position(|byte| !is_token_byte(*byte)) {
        None if bytes.len() <= METHOD_BYTES => return Look::More,
        Some(1..=METHOD_BYTES) => {}
        _ => return Look::Nothing,
    }
    let line = bytes.get(..=LINE_BYTES).unwrap_or(bytes);
    let line = line.split_at_checked(line.iter().position(u8::is_ascii_control).unwrap_or(line.len()));
    match line {
        Some((line, [b'\r' | b'\n', ..])) if StartLine::parse(line).is_some() => Look::Message,
        Some((line, [])) if line.len() <= LINE_BYTES => Look::Line,
        // Too long a line: [`Reader::line`] says so.
        Some((_, [])) if !gap.lost => Look::Message,
        _ => Look::Nothing,
    }
}

/// RFC 3550 5.1, 6.4: version 2; and behind it stands something too. One by accident would swallow up to 64 KiB.
fn likely_frame(bytes: &[u8]) -> Look {
    match bytes {
        [_, channel, ..] if *channel >= LIKELY_CHANNELS => Look::Nothing,
        [_, _, high, low, version, rest @ ..] => match length(*high, *low) {
            length if length < LIKELY_FRAME_BYTES || version >> 6 != 2 => Look::Nothing,
            length => match rest.get(length - 1) {
                Some(b'$' | b'\r' | b'\n' | b'A'..=b'Z') => Look::Frame,
                Some(_) => Look::Nothing,
                None => Look::More,
            },
        },
        _ => Look::More,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Method;

    /// All that comes out of these pieces, and how it ends.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Input>, Option<Error>, u64) {
        let (mut reader, mut inputs) = (Reader::new(), Vec::new());
        for piece in pieces {
            reader.handle_input(piece);
            loop {
                match reader.poll() {
                    Ok(Some(input)) => inputs.push(input),
                    Ok(None) => break,
                    Err(error) => return (inputs, Some(error), reader.skipped()),
                }
            }
            assert!(reader.buffer.len() <= BODY_BYTES.max(HEAD_BYTES) + FRAME_HEAD_BYTES);
        }
        (inputs, None, reader.skipped())
    }

    fn inputs(text: &[u8]) -> Vec<Input> {
        let (inputs, error, _) = read([text]);
        assert_eq!(error, None);
        inputs
    }

    fn error(text: &[u8]) -> Option<Error> {
        read([text]).1
    }

    fn play() -> Request {
        Request::new(Method::Play, "rtsp://h/a").with("CSeq", "3")
    }

    const PLAY: &str = "PLAY rtsp://h/a RTSP/1.0\r\nCSeq: 3\r\n\r\n";
    const RTP: &[u8] = b"$\x00\x00\x0c\x80\x60\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01";

    fn rtp() -> Input {
        Input::Interleaved { channel: 0, data: Bytes::from_static(&RTP[4..]) }
    }

    #[test]
    fn lines_may_end_in_any_way() {
        let expected = play().with_body("a/b", "\rx");
        for end in ["\r\n", "\n", "\r"] {
            let text = PLAY.trim_end().replace("\r\n", end);
            let text =
                format!("{end}{end}{text}{end}Content-Type : a/b{end}Content-length:2{end}{end}\rx{text}{end}{end}");
            let inputs = inputs(text.as_bytes());
            let Some((Input::Request(first), [Input::Request(second)])) = inputs.split_first() else {
                panic!("{inputs:?}")
            };
            assert_eq!((&first.body, first.headers.get("Content-Type")), (&expected.body, Some("a/b")), "{end:?}");
            assert_eq!(second, &play(), "{end:?}");
        }
    }

    #[test]
    fn frames_and_messages_may_alternate_and_a_dollar_in_a_head_is_a_character() {
        let mut bytes = RTP.to_vec();
        bytes.extend_from_slice(b"RTSP/2.0 200 OK\r\nSession: $\x00\x00\x01\r\n\r\n$\xff\x00\x00");
        bytes.extend_from_slice(PLAY.as_bytes());
        let response = Input::Response(Response::new(200).with("Session", "$\0\0\u{1}"));
        let empty = Input::Interleaved { channel: 255, data: Bytes::new() };
        assert_eq!(inputs(&bytes), [rtp(), response, empty, Input::Request(play())]);
    }

    #[test]
    fn a_head_with_nothing_but_a_bare_cr_behind_it_is_whole() {
        assert_eq!(inputs(b"RTSP/1.0 200 OK\r\r").len(), 1);
        assert_eq!(inputs(b"RTSP/1.0 200 OK\r\n\r").len(), 1);
        assert_eq!(inputs(b"RTSP/1.0 200 OK\r\n").len(), 0);
    }

    #[test]
    fn the_rest_of_a_body_is_passed_over() {
        let rests = ["=0\r\ns=RTSP x\r\na b c d\r\n", "=0\r\nt=$1 $\x01\x02", "\n\nx", "=0\r\nGET / HTTP/1.0\r\n"];
        for rest in rests {
            let mut bytes = b"RTSP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nv".to_vec();
            bytes.extend_from_slice(rest.as_bytes());
            for next in [b"RTSP/1.0 404 Not Found\r\n\r\n".as_slice(), RTP] {
                let mut bytes = bytes.clone();
                bytes.extend_from_slice(next);
                bytes.extend_from_slice(RTP);
                bytes.push(b'$');
                assert_eq!(inputs(&bytes).len(), 3, "{rest:?}");
            }
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(PLAY.as_bytes());
            let (inputs, error, skipped) = read([bytes.as_slice()]);
            assert_eq!((inputs.get(1), error), (Some(&Input::Request(play())), None), "{rest:?}");
            let expected = rest.trim_start().len() + 2;
            assert_eq!(skipped, expected as u64, "{rest:?}");
        }
    }

    #[test]
    fn a_body_that_lacks_its_length_is_passed_over() {
        let text = format!("RTSP/1.0 200 OK\r\nContent-Type: application/sdp\r\n\r\nv=0\r\nm=video\r\n{PLAY}");
        assert_eq!(inputs(text.as_bytes())[1..], [Input::Request(play())]);
    }

    #[test]
    fn the_search_for_a_message_has_an_end() {
        let at = |n: usize| format!("{PLAY}{}\n{PLAY}", "=".repeat(n - 1));
        assert_eq!(inputs(at(SKIP_BYTES).as_bytes()).len(), 2);
        assert_eq!(error(at(SKIP_BYTES + 1).as_bytes()), Some(Error::Lost));
        assert_eq!(error("\n".repeat(SKIP_BYTES + 1).as_bytes()), Some(Error::Lost));
    }

    #[test]
    fn what_does_not_begin_as_rtsp_is_not_searched() {
        for text in ["GET / HTTP/1.1\r\n", "\x16\x03\x01", "\r\n=", "RTSP/1.0 OK\r\n"] {
            assert_eq!(error(text.as_bytes()), Some(Error::NotRtsp), "{text}");
        }
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let line = |n: usize| format!("PLAY {} RTSP/1.0\r\n\r\n", "a".repeat(n - 14));
        assert_eq!(inputs(line(LINE_BYTES).as_bytes()).len(), 1);
        assert_eq!(error(line(LINE_BYTES + 1).as_bytes()), Some(Error::HeadTooLarge));
        let lines = |n: usize| format!("RTSP/1.0 200 OK\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert_eq!(inputs(lines(HEADERS).as_bytes()).len(), 1);
        assert_eq!(error(lines(HEADERS + 1).as_bytes()), Some(Error::HeadTooLarge));
        let head = |n: usize| format!("RTSP/1.0 200 OK\r\na:{}\r\n\r\n", "b".repeat(n - 20));
        assert_eq!(inputs(head(HEAD_BYTES).as_bytes()).len(), 1);
        assert_eq!(error(head(HEAD_BYTES + 2).as_bytes()), Some(Error::HeadTooLarge));
        let body = |n: usize| format!("RTSP/1.0 200 OK\r\nContent-Length: {n}\r\n\r\n{}", "b".repeat(n));
        assert_eq!(inputs(body(BODY_BYTES).as_bytes()).len(), 1);
        assert_eq!(error(body(BODY_BYTES + 1).as_bytes()), Some(Error::BodyTooLarge(65_537)));
    }

    #[test]
    fn a_content_length_is_digits() {
        for value in ["", "-1", "+1", "0x1", "1 1", "1\r\nContent-Length: 2"] {
            let text = format!("RTSP/1.0 200 OK\r\nContent-Length: {value}\r\n\r\n");
            assert_eq!(error(text.as_bytes()), Some(Error::Syntax("Content-Length")), "{value}");
        }
        let text = "RTSP/1.0 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n";
        assert_eq!(error(text.as_bytes()), Some(Error::BodyTooLarge(u64::MAX)));
    }

    fn any_piece() -> impl Strategy<Value = Vec<u8>> {
        let written = |request: Request| {
            let mut out = Vec::new();
            request.write(&mut out);
            out
        };
        prop_oneof![
            "[A-Z]{1,9}".prop_map(move |name| written(Request::new(Method::parse(&name), "rtsp://h/a b"))),
            any::<Vec<u8>>().prop_map(move |body| written(play().with_body("$\r", body))),
            Just(b"RTSP/1.0 200 OK\rA: $\r b\r\n\n".to_vec()),
            Just(b"RTSP/1.0 200 OK\nContent-Length: 3\r\r\n\n\nv=0 m\r\n".to_vec()),
            (0..40_u8, any::<Vec<u8>>())
                .prop_map(|(channel, data)| [&[b'$', channel, 0, data.len() as u8], &*data].concat()),
            Just(RTP.to_vec()),
            Just(RTP[1..].to_vec()),
            any::<Vec<u8>>(),
            "[A-Z]{1,40} [ -~]{0,40} RTSP/1.0[\r\n $]{0,3}".prop_map(String::into_bytes),
            "[$RTSP/1.0 2\r\n\t]{0,40}".prop_map(String::into_bytes),
            (0..9000_usize).prop_map(|n| format!("GET {}", "a".repeat(n)).into_bytes()),
        ]
    }

    proptest! {
        #[test]
        fn what_comes_out_does_not_depend_on_the_split(
            pieces in prop::collection::vec(any_piece(), 0..12),
            begun: bool,
            step in 1..40_usize,
        ) {
            let mut bytes = if begun { PLAY.as_bytes().to_vec() } else { Vec::new() };
            bytes.extend(pieces.concat());
            let whole = read([bytes.as_slice()]);
            prop_assert_eq!(&read(bytes.chunks(1)), &whole);
            prop_assert_eq!(&read(bytes.chunks(step)), &whole);
        }

        #[test]
        fn what_is_written_is_read(
            uri in "[!-~]([ -~]{0,20}[!-~])?",
            headers in prop::collection::vec(("[a-zA-Z-]{1,12}", "([!-~]([ -~]{0,20}[!-~])?)?"), 0..9),
            status in 100..1000_u16,
            body: Vec<u8>,
            channel: u8,
        ) {
            let (mut request, mut response) = (Request::new(Method::Setup, uri), Response::new(status));
            for (name, value) in headers {
                request.headers.push(&name, &value);
                response.headers.push(name, value);
            }
            request = request.with_body("x", body.clone());
            let mut out = Vec::new();
            request.write(&mut out);
            response.write(&mut out);
            out.extend_from_slice(&[b'$', channel, 0, body.len() as u8]);
            out.extend_from_slice(&body);
            if !body.is_empty() {
                request.headers.push("Content-Length", body.len().to_string());
            }
            let frame = Input::Interleaved { channel, data: body.into() };
            prop_assert_eq!(inputs(&out), [Input::Request(request), Input::Response(response), frame]);
        }
    }
}
