//! F8 to F10: RTSP's messages and with them the server's session, its headers, and SDP.

use std::time::Duration;

use culvert_rtsp::sdp::{self, Description, Medium, Told};
use culvert_rtsp::session::{Event, Output, ServerSession};
use culvert_rtsp::wire::auth::{
    Algorithm, Challenge, Client, DigestResponse, Nonce, Nonces, challenges, ha1, parse_basic, response,
};
use culvert_rtsp::wire::headers::{Public, Range, RtpInfo, Session};
use culvert_rtsp::wire::{
    BODY_BYTES, Error, HEAD_BYTES, HEADERS, Headers, Input, LINE_BYTES, Method, Reader, Transport,
};

use crate::split::{hash, splits};

/// F8: messages and frames are the same however the bytes are split, within their bounds; what we write of them is read
/// as the same. Then a server's session takes the same bytes; the first byte says how its owner answers.
pub(crate) fn rtsp_messages(data: &[u8]) {
    let Some((answers, stream)) = data.split_first() else { return };
    let mut ways = splits(stream).into_iter().map(|pieces| read(&pieces));
    let (inputs, error, skipped) = ways.next().expect("splits gives at least the whole");
    for way in ways {
        assert_eq!(way, (inputs.clone(), error.clone(), skipped));
    }
    assert!(skipped <= stream.len() as u64);
    inputs.iter().for_each(assert_bounds);
    rewrite(&inputs);

    let mut ways = splits(stream).into_iter().map(|pieces| dialogue(*answers, &pieces));
    let whole = ways.next().expect("splits gives at least the whole");
    for way in ways {
        assert_eq!(way, whole);
    }
}

fn read(pieces: &[&[u8]]) -> (Vec<Input>, Option<Error>, u64) {
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
    }
    (inputs, None, reader.skipped())
}

fn assert_bounds(input: &Input) {
    let (headers, body) = match input {
        Input::Request(request) => (&request.headers, &request.body),
        Input::Response(response) => (&response.headers, &response.body),
        Input::Interleaved { data, .. } => return assert!(data.len() <= usize::from(u16::MAX)),
    };
    // A byte that is no UTF-8 becomes three.
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(headers.iter().count() <= HEADERS && bytes <= 3 * HEAD_BYTES && body.len() <= BODY_BYTES);
}

/// Writes all of it as one stream and reads that again.
fn rewrite(inputs: &[Input]) {
    let (mut written, mut sent) = (Vec::new(), Vec::new());
    for input in inputs {
        let mut message = Vec::new();
        let input = match input {
            Input::Request(request) => {
                request.write(&mut message);
                let headers = as_sent(&request.headers, &request.body);
                is_plain(&request.uri).then_some(()).and(headers).map(|headers| {
                    let mut request = request.clone();
                    request.headers = headers;
                    Input::Request(request)
                })
            }
            Input::Response(response) => {
                response.write(&mut message);
                let headers = as_sent(&response.headers, &response.body);
                is_plain(&response.reason).then_some(()).and(headers).map(|headers| {
                    let mut response = response.clone();
                    response.headers = headers;
                    Input::Response(response)
                })
            }
            Input::Interleaved { channel, data } => {
                let [high, low] = u16::try_from(data.len()).expect("a length of 16 bits").to_be_bytes();
                message.extend_from_slice(&[b'$', *channel, high, low]);
                message.extend_from_slice(data);
                Some(input.clone())
            }
        };
        let head = match &input {
            Some(Input::Request(request)) => message.len() - request.body.len(),
            Some(Input::Response(response)) => message.len() - response.body.len(),
            Some(Input::Interleaved { .. }) => 0,
            None => continue,
        };
        // What was no UTF-8 has grown, and each line has all its spaces now: it may have become too long.
        if head <= LINE_BYTES {
            written.extend_from_slice(&message);
            sent.extend(input);
        }
    }
    assert_eq!(read(&[&written]), (sent, None, 0));
}

/// Headers as they are written: Content-Length comes last and from the body. None where something that may not be
/// written is left out, so that another message is written.
fn as_sent(headers: &Headers, body: &[u8]) -> Option<Headers> {
    let mut sent = Headers::default();
    for (name, value) in headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("Content-Length")) {
        if !name.bytes().all(|byte| byte.is_ascii_graphic()) || !is_plain(value) {
            return None;
        }
        sent.push(name, value);
    }
    if !body.is_empty() {
        sent.push("Content-Length", body.len().to_string());
    }
    Some(sent)
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// What an owner tells of its stream: two tracks.
const SDP: &str =
    "v=0\r\nm=video 0 RTP/AVP 96\r\na=control:trackID=0\r\nm=audio 0 RTP/AVP 8\r\na=control:trackID=1\r\n";
/// Longest of our answers to a request that has nothing in it that is sent back.
const ANSWER_BYTES: usize = 512;
/// Bytes of an answer for each byte of a request, at most: `A * RTSP/1.0` is told of all our methods.
const ANSWER_RATIO: usize = 16;
/// Most tracks of a session, each of which has its URL in an answer to PLAY.
const TRACKS: usize = 16;

/// All that a session says and asks, in order. Its owner answers each question as soon as it comes.
fn dialogue(answers: u8, pieces: &[&[u8]]) -> Vec<String> {
    let udp = (answers & 0x40 != 0).then_some((6970, 6971));
    let mut session = ServerSession::new("0123456789abcdef0123456789abcdef".into(), udp);
    let mut owner =
        Owner { answers, asked: None, granted: false, runs: false, said: Vec::new(), sent_bytes: 0, due_bytes: 0 };
    for piece in pieces {
        owner.due_bytes += ANSWER_RATIO * piece.len();
        session.handle_input(piece);
        loop {
            if let Err(error) = owner.poll(&mut session) {
                owner.said.push(error.to_string());
                return owner.said;
            }
            if session.has_ended() {
                assert!(owner.asked.is_none());
                return owner.said;
            }
            let Some(question) = owner.asked.take() else { break };
            owner.answer(&mut session, question);
        }
    }
    owner.said
}

/// Who decides, and what a session has told it.
struct Owner {
    /// Its next decisions, a bit for each; they come round again.
    answers: u8,
    asked: Option<Question>,
    /// Some stream was granted: before that nothing comes in and nothing is to run.
    granted: bool,
    /// PLAY or RECORD was granted.
    runs: bool,
    said: Vec<String>,
    sent_bytes: usize,
    /// What may have been sent by now.
    due_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Question {
    Describe,
    Announce,
    Play,
    Record,
}

impl Owner {
    fn poll(&mut self, session: &mut ServerSession) -> Result<(), Error> {
        while let Some(output) = session.poll_output()? {
            assert!(self.asked.is_none(), "something comes before the answer: {output:?}");
            match output {
                Output::Send(sent) => self.sent(&sent),
                Output::Event(event) => self.event(session, event),
            }
            assert!(session.ways().len() <= TRACKS && (!session.is_running() || self.runs));
        }
        Ok(())
    }

    fn sent(&mut self, sent: &[u8]) {
        self.said.push(String::from_utf8_lossy(sent).into_owned());
        self.sent_bytes += sent.len();
        assert!(self.sent_bytes <= self.due_bytes, "{} bytes sent, {} due", self.sent_bytes, self.due_bytes);
        assert_is_answer(sent);
    }

    fn event(&mut self, session: &ServerSession, event: Event) {
        self.said.push(format!("{event:?}"));
        match event {
            Event::Describe(_) => self.asked = Some(Question::Describe),
            Event::Announce(_, description) => {
                assert!((1..=TRACKS).contains(&description.media.len()));
                self.asked = Some(Question::Announce);
            }
            Event::Play => self.asked = Some(Question::Play),
            Event::Record => self.asked = Some(Question::Record),
            Event::Packet { at, .. } => {
                assert!(self.granted && session.ways().get(at).is_some_and(Option::is_some));
            }
            Event::Pause => {
                assert!(self.runs);
                self.runs = false;
            }
            Event::Teardown => assert!(session.has_ended()),
        }
    }

    fn answer(&mut self, session: &mut ServerSession, question: Question) {
        let grants = self.answers & 1 != 0;
        self.answers = self.answers.rotate_right(1);
        self.due_bytes += ANSWER_BYTES;
        match question {
            _ if !grants => session.refuse(401, "no", &[("WWW-Authenticate", "Basic realm=\"x\"".into())]),
            Question::Describe => {
                self.granted = true;
                self.due_bytes += SDP.len();
                session.describe(SDP.into(), vec![7, 8]);
            }
            Question::Announce => {
                self.granted = true;
                session.accept();
            }
            Question::Record => {
                self.runs = true;
                session.accept();
            }
            Question::Play => {
                self.runs = true;
                // The stream's URL comes once for each track, however long it is.
                self.due_bytes += TRACKS * (LINE_BYTES + 64);
                session.play(&[(0, 1, 2), (1, 3, 4), (99, 5, 6)]);
            }
        }
        let answer = session.poll_answer().expect("what waited is answered at once");
        self.sent(&answer);
        assert_eq!(session.poll_answer(), None, "one answer to one request");
    }
}

/// What we send is one answer. Our own reader takes it, if its head is no longer than that reader allows: an RTP-Info
/// has the client's own URL several times.
fn assert_is_answer(sent: &[u8]) {
    if sent.len() > HEAD_BYTES {
        return;
    }
    let (inputs, error, skipped) = read(&[sent]);
    assert!(matches!(inputs[..], [Input::Response(_)]) && error.is_none() && skipped == 0, "{inputs:?} {error:?}");
}

/// F9: what is read of a header is within its bounds, and is read again as the same once it is written. Digests that a
/// client makes of what it was asked are right for the server.
pub(crate) fn rtsp_headers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    transport(&text);
    if let Some(session) = Session::parse(&text) {
        assert_eq!(Session::parse(&session.to_string()), Some(session));
    }
    range(&text);
    rtp_info(&text);
    public(&text);
    digest(&text);
}

/// Most alternatives of a Transport.
const ALTERNATIVES: usize = 16;
/// Most streams of an RTP-Info.
const STREAMS: usize = 32;

fn transport(text: &str) {
    let list = Transport::parse_list(text);
    assert!(list.len() <= ALTERNATIVES);
    for mut way in list {
        // These do not go into a header; nor do channels have a meaning without a connection.
        let host = |host: String| host.chars().filter(|c| c.is_ascii_graphic() && !";,\"".contains(*c)).collect();
        way.source = way.source.map(host).filter(|host: &String| !host.is_empty());
        way.destination = way.destination.map(host).filter(|host: &String| !host.is_empty());
        way.interleaved = way.interleaved.filter(|_| way.tcp);
        assert_eq!(Transport::parse_list(&way.to_string()), [way]);
    }
}

fn range(text: &str) {
    let Some(range) = Range::parse(text) else { return };
    let (start, end) = match &range {
        Range::Now { end } => (Duration::ZERO, *end),
        Range::Npt { start, end } => (*start, *end),
        Range::Clock { .. } => (Duration::ZERO, None),
    };
    // Each number is read in 32 bits, hours as well as seconds, and only seconds are written.
    if start.max(end.unwrap_or_default()).as_secs() > u64::from(u32::MAX) {
        return;
    }
    // Milliseconds are written.
    let whole = |time: Duration| Duration::new(time.as_secs(), time.subsec_millis() * 1_000_000);
    let written = range.to_string();
    let expected = match range {
        Range::Now { end } => Range::Now { end: end.map(whole) },
        Range::Npt { start, end } => Range::Npt { start: whole(start), end: end.map(whole) },
        Range::Clock { .. } => range,
    };
    assert_eq!(Range::parse(&written), Some(expected));
}

fn rtp_info(text: &str) {
    assert!(RtpInfo::parse_list(text).len() <= STREAMS);
    let infos = text.lines().map(|line| {
        let number = hash(line.as_bytes());
        let [a, b, c, d, e, f, flags, _] = number.to_be_bytes();
        let (seq, rtptime) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
        RtpInfo { url: url(line), seq: (flags & 1 != 0).then_some(seq), rtptime: (flags & 2 != 0).then_some(rtptime) }
    });
    let infos: Vec<RtpInfo> = infos.filter(|info| *info != RtpInfo::default()).take(STREAMS).collect();
    assert_eq!(RtpInfo::parse_list(&RtpInfo::write_list(&infos)), infos);
}

/// A URL out of any text. It may have commas and semicolons, but not what looks like another part behind one.
fn url(line: &str) -> String {
    let mut url = String::new();
    for c in line.chars().filter(|c| c.is_ascii_graphic() && *c != '"') {
        url.push(c);
        url.extend([',', ';'].contains(&c).then_some('/'));
    }
    url
}

fn public(text: &str) {
    let all = [
        Method::Options,
        Method::Describe,
        Method::Announce,
        Method::Setup,
        Method::Play,
        Method::Record,
        Method::Pause,
        Method::GetParameter,
        Method::SetParameter,
        Method::Teardown,
        Method::Redirect,
    ];
    let public = Public::parse(text.lines());
    let known: Vec<Method> = all.iter().filter(|method| public.has(method)).cloned().collect();
    let again = Public::parse([Public::write(&known).as_str()].into_iter());
    assert!(all.iter().all(|method| again.has(method) == public.has(method)));
}

/// Each line is a challenge, and also one of the things that go into an answer.
fn digest(text: &str) {
    let nonces = Nonces::new(&[7; 32]);
    if let Some(response) = DigestResponse::parse(text) {
        assert_eq!(response.a2("PLAY").len(), response.response.len());
        assert_eq!(nonces.check(&response.nonce, 0), Nonce::Forged);
    }
    parse_basic(text);
    let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let mut next = || lines.next().unwrap_or_default();
    let (first, user, password, uri, cnonce, realm) = (next(), next(), next(), next(), next(), next());
    if let Some(challenge) = Challenge::best(text.lines().chain([first])) {
        answer(challenge, user, password, uri, cnonce);
    }
    let nonce = nonces.issue(1000);
    for algorithms in [&[][..], &[Algorithm::Md5], &[Algorithm::Sha256, Algorithm::Md5]] {
        let asked = challenges(realm, &nonce, first.is_empty(), algorithms);
        assert_eq!(asked.len(), algorithms.len() + 1);
        let challenge = Challenge::best(asked.iter().map(String::as_str)).expect("we know what we ask for");
        assert!(algorithms.is_empty() || challenge.is_stale() == first.is_empty());
        if let Some(response) = answer(challenge, user, password, uri, cnonce) {
            assert_eq!(Some(&response.algorithm), algorithms.iter().max());
            assert_eq!(nonces.check(&response.nonce, 1001), Nonce::Good);
        }
    }
}

/// A client's answer is read as what went into it, and proves the password. Control characters are left out of headers
/// and not of what is hashed, so that nobody with one of them can prove anything.
fn answer(challenge: Challenge, user: &str, password: &str, uri: &str, cnonce: &str) -> Option<DigestResponse> {
    let mut client = Client::new(user, password, challenge.clone());
    let value = client.authorize("PLAY", uri, cnonce);
    let asked = match challenge {
        Challenge::Basic { .. } => {
            let read = parse_basic(&value);
            assert!(user.contains(':') || read == Some((user.to_owned(), password.to_owned())));
            return None;
        }
        Challenge::Digest(asked) => asked,
    };
    let texts = [user, uri, cnonce, &asked.realm, &asked.nonce];
    if !texts.into_iter().all(is_plain) {
        return None;
    }
    let read = DigestResponse::parse(&value).expect("a client's answer is a response");
    let texts = (read.user.as_str(), read.uri.as_str(), read.realm.as_str(), read.nonce.as_str(), read.algorithm);
    assert_eq!(texts, (user, uri, asked.realm.as_str(), asked.nonce.as_str(), asked.algorithm));
    let qop = ("00000001".to_owned(), cnonce.to_owned(), "auth".to_owned());
    assert_eq!(read.qop, asked.qop.then_some(qop));
    let ha1 = ha1(read.algorithm, user, &read.realm, password);
    assert_eq!(read.response, response(read.algorithm, &ha1, &read.middle(), &read.a2("PLAY")));
    Some(read)
}

/// Most parameters of a format.
const PARAMETERS: usize = 64;

/// F10: a description is within its bounds and no longer than its text; what we tell of the same media is read as the
/// same.
pub(crate) fn sdp(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let session = Description::parse(&text);
    assert!(session.media.len() <= TRACKS);
    assert!(session.media.iter().all(|medium| medium.fmtp.len() <= PARAMETERS));
    let bytes: usize = session.media.iter().map(held_bytes).sum();
    assert!(bytes <= text.len(), "{bytes} bytes of {}", text.len());

    let host =
        if data.len().is_multiple_of(2) { [127, 0, 0, 1].into() } else { [0x2001_u16, 0xdb8, 0, 0, 0, 0, 0, 1].into() };
    let (told, expected): (Vec<Told>, Vec<Medium>) = session.media.iter().filter_map(tell).unzip();
    let title = session.control.as_deref().unwrap_or("-");
    let again = Description::parse(&sdp::write(host, title, &told));
    assert_eq!((again.control.as_deref(), again.range.as_deref()), (Some("*"), Some("npt=now-")));
    assert_eq!(again.media, expected);
}

fn held_bytes(medium: &Medium) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let fmtp: usize = medium.fmtp.iter().map(|(name, value)| name.len() + value.len()).sum();
    let rtpmap = medium.rtpmap.as_ref().map_or(0, |(name, ..)| name.len());
    medium.kind.len() + rtpmap + fmtp + length(&medium.control) + length(&medium.direction)
}

/// What we would tell of a medium, and what is read of that.
fn tell(medium: &Medium) -> Option<(Told, Medium)> {
    let kind = ["video", "audio"].into_iter().find(|kind| medium.kind == *kind)?;
    let rtpmap = medium.rtpmap.as_ref().map(|(name, clock_hz, channels)| {
        let channels = channels.map(|channels| format!("/{channels}")).unwrap_or_default();
        format!("{name}/{clock_hz}{channels}")
    });
    let fmtp: Vec<String> = medium.fmtp.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let control = medium.control.clone().unwrap_or_default();
    let told = Told {
        kind,
        payload_type: medium.payload_type,
        rtpmap: rtpmap.unwrap_or_default(),
        fmtp: fmtp.join("; "),
        control: control.clone(),
    };
    // Neither is told: a control is always, a direction never.
    let expected = Medium { control: Some(control), direction: None, ..medium.clone() };
    Some((told, expected))
}
