//! Requests and answers (RFC 2326 4 to 7): their parts, and how they are written. Reading is [`super::reader`]'s.

use bytes::Bytes;

/// Headers in the order in which they were sent. Names may come more than once and in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

/// What a request asks for (RFC 2326 10). Case matters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Method {
    Options,
    Describe,
    Announce,
    Setup,
    Play,
    Record,
    Pause,
    GetParameter,
    SetParameter,
    Teardown,
    Redirect,
    /// Another one, as sent.
    Other(String),
}

/// A request (RFC 2326 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub method: Method,
    /// Absolute, or `*`; as sent, spaces and all.
    pub uri: String,
    /// Without Content-Length when sending; it follows from the body.
    pub headers: Headers,
    /// Empty if there is none.
    pub body: Bytes,
}

/// An answer (RFC 2326 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Three digits.
    pub status: u16,
    /// The words after it; they mean nothing.
    pub reason: String,
    /// Without Content-Length when sending; it follows from the body.
    pub headers: Headers,
    /// Empty if there is none.
    pub body: Bytes,
}

/// The first line of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StartLine {
    Request { method: Method, uri: String },
    Response { status: u16, reason: String },
}

impl Headers {
    /// The first value of this name, whatever its case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of this name, whatever its case.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Appends a header.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Names as sent, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// CSeq, if it is a number in digits: nothing else may be echoed (security.md S20).
    pub fn cseq(&self) -> Option<u32> {
        self.get("CSeq").filter(|text| is_digits(text))?.parse().ok()
    }

    /// Takes a line of a head as it came, without its end. One without a colon says nothing and is left out.
    pub(super) fn push_line(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        if line.starts_with([' ', '\t']) {
            // RFC 2326 4.2 with RFC 2616 2.2: a folded line continues the one before.
            if let Some((_, value)) = self.0.last_mut() {
                let more = line.trim();
                value.extend((!value.is_empty() && !more.is_empty()).then_some(' '));
                value.push_str(more);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            self.push(name.trim(), value.trim());
        }
    }

    fn write(&self, body: &[u8], out: &mut Vec<u8>) {
        for (name, value) in self.iter() {
            let name: String = name.chars().filter(|c| c.is_ascii_graphic() && *c != ':').collect();
            if name.eq_ignore_ascii_case("Content-Length") {
                continue;
            }
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            write_text(value, out);
            out.extend_from_slice(b"\r\n");
        }
        if !body.is_empty() {
            out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
    }
}

impl Method {
    /// The method of this name.
    pub fn parse(name: &str) -> Method {
        match name {
            "OPTIONS" => Method::Options,
            "DESCRIBE" => Method::Describe,
            "ANNOUNCE" => Method::Announce,
            "SETUP" => Method::Setup,
            "PLAY" => Method::Play,
            "RECORD" => Method::Record,
            "PAUSE" => Method::Pause,
            "GET_PARAMETER" => Method::GetParameter,
            "SET_PARAMETER" => Method::SetParameter,
            "TEARDOWN" => Method::Teardown,
            "REDIRECT" => Method::Redirect,
            _ => Method::Other(name.to_string()),
        }
    }

    /// Its name, as sent.
    pub fn name(&self) -> &str {
        match self {
            Method::Options => "OPTIONS",
            Method::Describe => "DESCRIBE",
            Method::Announce => "ANNOUNCE",
            Method::Setup => "SETUP",
            Method::Play => "PLAY",
            Method::Record => "RECORD",
            Method::Pause => "PAUSE",
            Method::GetParameter => "GET_PARAMETER",
            Method::SetParameter => "SET_PARAMETER",
            Method::Teardown => "TEARDOWN",
            Method::Redirect => "REDIRECT",
            Method::Other(name) => name,
        }
    }
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: Method, uri: impl Into<String>) -> Request {
        Request { method, uri: uri.into(), headers: Headers::default(), body: Bytes::new() }
    }

    /// With this header too.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Request {
        self.headers.push(name, value);
        self
    }

    /// With this body, and its Content-Type.
    pub fn with_body(mut self, content_type: &str, body: impl Into<Bytes>) -> Request {
        self.headers.push("Content-Type", content_type);
        self.body = body.into();
        self
    }

    /// Appends it as it is sent. Control characters are left out of all texts.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_text(self.method.name(), out);
        out.push(b' ');
        write_text(&self.uri, out);
        out.extend_from_slice(b" RTSP/1.0\r\n");
        self.headers.write(&self.body, out);
    }
}

impl Response {
    /// An answer with the reason phrase of its status, without headers and body.
    pub fn new(status: u16) -> Response {
        Response { status, reason: reason(status).to_string(), headers: Headers::default(), body: Bytes::new() }
    }

    /// With this header too.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push(name, value);
        self
    }

    /// With this body, and its Content-Type.
    pub fn with_body(mut self, content_type: &str, body: impl Into<Bytes>) -> Response {
        self.headers.push("Content-Type", content_type);
        self.body = body.into();
        self
    }

    /// Appends it as it is sent. Control characters are left out of all texts.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("RTSP/1.0 {:03} ", self.status).as_bytes());
        write_text(&self.reason, out);
        out.extend_from_slice(b"\r\n");
        self.headers.write(&self.body, out);
    }
}

impl StartLine {
    /// Parses a line without its end; None if it is neither a request line nor a status line (RFC 2326 6.1, 7.1).
    pub(super) fn parse(line: &[u8]) -> Option<StartLine> {
        let line = String::from_utf8_lossy(line);
        let (first, rest) = line.trim_end().split_once(' ')?;
        if is_version(first) {
            let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let status = Some(status).filter(|text| text.len() == 3 && is_digits(text))?.parse().ok()?;
            return Some(StartLine::Response { status, reason: reason.trim().to_string() });
        }
        // Spaces in a URI are wrong and common: the version is behind the last one.
        let (uri, version) = rest.rsplit_once(' ')?;
        let uri = uri.trim();
        let good = is_method(first) && is_version(version) && !uri.is_empty();
        good.then(|| StartLine::Request { method: Method::parse(first), uri: uri.to_string() })
    }
}

/// Whether a byte may be in a method or a header name (RFC 2326 15.1, token).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether there is at least one digit, and nothing else.
pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A text without its control characters.
fn write_text(text: &str, out: &mut Vec<u8>) {
    let mut utf8 = [0; 4];
    for c in text.chars().filter(|c| !c.is_control()) {
        out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
    }
}

fn is_method(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Version 2.0 is RFC 7826's, whose messages look the same.
fn is_version(text: &str) -> bool {
    let number = text.strip_prefix("RTSP/").and_then(|number| number.split_once('.'));
    number.is_some_and(|(major, minor)| is_digits(major) && is_digits(minor) && major.len() == 1 && minor.len() == 1)
}

/// RFC 2326 7.1.1.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        250 => "Low on Storage Space",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Time-out",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Large",
        415 => "Unsupported Media Type",
        451 => "Parameter Not Understood",
        452 => "Conference Not Found",
        453 => "Not Enough Bandwidth",
        454 => "Session Not Found",
        455 => "Method Not Valid in This State",
        456 => "Header Field Not Valid for Resource",
        457 => "Invalid Range",
        458 => "Parameter Is Read-Only",
        459 => "Aggregate operation not allowed",
        460 => "Only aggregate operation allowed",
        461 => "Unsupported transport",
        462 => "Destination unreachable",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Time-out",
        505 => "RTSP Version not supported",
        551 => "Option not supported",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_with_the_length_of_its_body_and_no_other() {
        let mut out = Vec::new();
        let request = Request::new(Method::Announce, "rtsp://h/a").with("CSeq", "1").with("content-length", "7");
        request.with_body("application/sdp", "v=0\r\n").write(&mut out);
        let expected = "ANNOUNCE rtsp://h/a RTSP/1.0\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        Response::new(454).with("CSeq", "2").write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "RTSP/1.0 454 Session Not Found\r\nCSeq: 2\r\n\r\n");
    }

    #[test]
    fn no_line_break_gets_out_through_a_text() {
        let mut out = Vec::new();
        let evil = "a\r\nEvil: 1\n\u{85}b";
        Request::new(Method::Other(evil.into()), evil).with(evil, evil).write(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "aEvil: 1b aEvil: 1b RTSP/1.0\r\naEvil1b: aEvil: 1b\r\n\r\n");
    }

    #[test]
    fn headers_are_found_whatever_their_case_and_folding() {
        let mut headers = Headers::default();
        for line in
            ["\tnothing before", "CSEQ :  7 ", "www-Authenticate: Basic", "WWW-authenticate:", "  Digest", "\t x", "?"]
        {
            headers.push_line(line.as_bytes());
        }
        assert_eq!((headers.get("cseq"), headers.cseq()), (Some("7"), Some(7)));
        assert_eq!(headers.all("WWW-Authenticate").collect::<Vec<_>>(), ["Basic", "Digest x"]);
        assert_eq!(headers.iter().count(), 3);
    }

    #[test]
    fn a_cseq_that_is_no_number_is_none() {
        for value in ["", "+1", "-1", "1x", "99999999999", "1\u{664}"] {
            assert_eq!(Request::new(Method::Play, "*").with("CSeq", value).headers.cseq(), None, "{value}");
        }
    }

    #[test]
    fn start_lines_are_told_from_other_lines() {
        let request = |method, uri: &str| Some(StartLine::Request { method, uri: uri.into() });
        assert_eq!(StartLine::parse(b"OPTIONS * RTSP/1.0"), request(Method::Options, "*"));
        assert_eq!(StartLine::parse(b"PLAY rtsp://h/a b RTSP/2.0 "), request(Method::Play, "rtsp://h/a b"));
        let response = |status, reason: &str| Some(StartLine::Response { status, reason: reason.into() });
        assert_eq!(StartLine::parse(b"RTSP/1.0 200 OK"), response(200, "OK"));
        assert_eq!(StartLine::parse(b"RTSP/1.0 404"), response(404, ""));
        for line in
            ["", "GET / HTTP/1.1", "OPTIONS RTSP/1.0", "a=b * RTSP/1.0", "RTSP/1.0 20 OK", "RTSP/1.0", "A  RTSP/1.0"]
        {
            assert_eq!(StartLine::parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn each_method_has_the_name_by_which_it_is_parsed() {
        let names = "OPTIONS DESCRIBE ANNOUNCE SETUP PLAY RECORD PAUSE GET_PARAMETER SET_PARAMETER TEARDOWN REDIRECT X";
        for name in names.split(' ') {
            assert_eq!(Method::parse(name).name(), name);
            assert_eq!(matches!(Method::parse(name), Method::Other(_)), name == "X");
        }
    }
}
