//! The server's end of a session (RFC 2326), without IO: requests come in, answers and wishes come out. Whether somebody may, and what a
//! stream is made of, is asked of the outside, one request at a time.
//!
//! A session belongs to its connection: nobody else can use or end it, whatever id he knows (security.md S20).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::Target;
use crate::sdp::{self, Description};
use crate::wire::headers::{RtpInfo, Session};
use crate::wire::transport::Transport;
use crate::wire::{Error, Input, Method, Reader, Request, Response};

/// What clients are told of how long a session lives without a sign of life.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Most tracks of a session.
const TRACKS: usize = 16;
const METHODS: &str = "OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, RECORD, PAUSE, GET_PARAMETER, SET_PARAMETER, TEARDOWN";

/// What comes out.
#[derive(Debug)]
pub enum Output {
    /// To the peer.
    Send(Bytes),
    /// For whoever runs the session.
    Event(Event),
}

/// What the peer wants. `Describe` to `Record` wait for an answer; nothing else comes out before it.
#[derive(Debug)]
pub enum Event {
    /// To know what a stream is made of: [`ServerSession::describe`].
    Describe(Box<Asking>),
    /// To bring a stream: [`ServerSession::accept`].
    Announce(Box<Asking>, Description),
    /// The stream that was described, by the ways that were set up: [`ServerSession::play`].
    Play,
    /// To send what was announced: [`ServerSession::accept`].
    Record,
    /// Nothing for now.
    Pause,
    /// It is done.
    Teardown,
    /// A packet of the track at this place.
    Packet {
        /// Of the tracks as they were described or announced.
        at: usize,
        /// Not media.
        rtcp: bool,
        /// The packet.
        data: Bytes,
    },
}

/// Who asks for what.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The stream, and what its URL says besides.
    pub target: Target,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
    /// For digests: what the request is about, to the letter,
    pub uri: Target,
    /// and what it asks.
    pub method: &'static str,
}

/// How a track goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// On the connection, on these channels for media and RTCP.
    Tcp(u8, u8),
    /// To and from these ports of the peer.
    Udp(u16, u16),
}

#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// Neither.
    None,
    /// It was told of so many tracks.
    Player(usize),
    /// It announced tracks that are controlled by these.
    Publisher(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ready,
    Running,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Waiting {
    cseq: Option<String>,
    method: Method,
    target: Target,
    /// To be set up once the stream is known.
    setup: Option<Request>,
}

/// One connection's session.
#[derive(Debug)]
pub struct ServerSession {
    reader: Reader,
    outputs: VecDeque<Output>,
    /// Our two ports for datagrams.
    udp: Option<(u16, u16)>,
    /// 128 bits as text.
    id: String,
    role: Role,
    phase: Phase,
    ways: Vec<Option<Way>>,
    /// SSRCs that we send with, by track.
    ssrcs: Vec<u32>,
    base: Target,
    waiting: Option<Waiting>,
    ended: bool,
}

impl ServerSession {
    /// `id`: 128 bits nobody can guess, as text. `udp`: our ports for media and RTCP, where datagrams are offered.
    pub fn new(id: String, udp: Option<(u16, u16)>) -> ServerSession {
        ServerSession {
            reader: Reader::new(),
            outputs: VecDeque::new(),
            udp,
            id,
            role: Role::None,
            phase: Phase::Ready,
            ways: Vec::new(),
            ssrcs: Vec::new(),
            base: Target::default(),
            waiting: None,
            ended: false,
        }
    }

    /// Takes bytes of the peer; then [`ServerSession::poll_output`] until there is nothing more.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        self.reader.handle_input(bytes);
    }

    /// The next thing to do. What follows a request that waits is looked at after its answer.
    pub fn poll_output(&mut self) -> Result<Option<Output>, Error> {
        while self.outputs.is_empty() && self.waiting.is_none() && !self.ended {
            match self.reader.poll()? {
                Some(Input::Request(request)) => self.request(request),
                Some(Input::Interleaved { channel, data }) => self.packet(channel, data),
                // To what we never asked.
                Some(Input::Response(_)) => {}
                None => break,
            }
        }
        Ok(self.outputs.pop_front())
    }

    /// The next answer that is ready, without looking at what the peer said behind its request.
    pub fn poll_answer(&mut self) -> Option<Bytes> {
        match self.outputs.pop_front() {
            Some(Output::Send(bytes)) => Some(bytes),
            Some(event @ Output::Event(_)) => {
                self.outputs.push_front(event);
                None
            }
            None => None,
        }
    }

    /// How each track goes, once set up.
    pub fn ways(&self) -> &[Option<Way>] {
        &self.ways
    }

    /// Whether media flows.
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// The last answer has been given; the connection can be closed.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Answers a `DESCRIBE`, or what stands for one, with what the stream is made of: SDP, and the SSRC of each track.
    pub fn describe(&mut self, sdp: String, ssrcs: Vec<u32>) {
        let Some(waiting) = self.waiting.take() else { return };
        self.role = Role::Player(ssrcs.len().min(TRACKS));
        self.ways = vec![None; ssrcs.len().min(TRACKS)];
        self.ssrcs = ssrcs;
        self.base = waiting.target.clone();
        if let Some(setup) = waiting.setup {
            self.setup(&setup);
            return;
        }
        let base = format!("{}/{}/", waiting.target.origin, waiting.target.written);
        let response = Response::new(200).with("Content-Base", base).with_body("application/sdp", sdp);
        self.answer(waiting.cseq.as_deref(), response);
    }

    /// Answers an `ANNOUNCE` or a `RECORD`: yes.
    pub fn accept(&mut self) {
        let Some(waiting) = self.waiting.take() else { return };
        let mut response = Response::new(200);
        if waiting.method == Method::Record {
            self.phase = Phase::Running;
            response = response.with("Session", self.id.as_str());
        } else {
            self.base = waiting.target;
        }
        self.answer(waiting.cseq.as_deref(), response);
    }

    /// Answers a `PLAY`: what comes next of each track, as (track, sequence number, timestamp).
    pub fn play(&mut self, next: &[(usize, u16, u32)]) {
        let Some(waiting) = self.waiting.take() else { return };
        self.phase = Phase::Running;
        let base = format!("{}/{}", self.base.origin, self.base.written);
        let info = next.iter().filter(|(at, ..)| self.ways.get(*at).is_some_and(Option::is_some));
        let info: Vec<RtpInfo> = info
            .map(|(at, sequence, timestamp)| RtpInfo {
                url: format!("{base}/trackID={at}"),
                seq: Some(*sequence),
                rtptime: Some(*timestamp),
            })
            .collect();
        let mut response = Response::new(200).with("Session", self.id.as_str()).with("Range", "npt=now-");
        if !info.is_empty() {
            response = response.with("RTP-Info", RtpInfo::write_list(&info));
        }
        self.answer(waiting.cseq.as_deref(), response);
    }

    /// Answers whatever waits: no. `headers` are added, such as challenges.
    pub fn refuse(&mut self, status: u16, why: &str, headers: &[(&str, String)]) {
        let Some(waiting) = self.waiting.take() else { return };
        let mut response = Response::new(status);
        for (name, value) in headers {
            response = response.with(name, value.clone());
        }
        // The reason phrase is what most clients show.
        if !why.is_empty() && status != 401 {
            response.reason = why.chars().take(200).collect();
        }
        if waiting.method == Method::Announce {
            self.role = Role::None;
        }
        self.answer(waiting.cseq.as_deref(), response);
    }

    fn answer(&mut self, cseq: Option<&str>, mut response: Response) {
        if let Some(cseq) = cseq {
            response.headers.push("CSeq", cseq);
        }
        response.headers.push("Server", "Culvert");
        let mut out = Vec::new();
        response.write(&mut out);
        self.outputs.push_back(Output::Send(out.into()));
    }

    fn packet(&mut self, channel: u8, data: Bytes) {
        let found = self.ways.iter().enumerate().find_map(|(at, way)| match way {
            Some(Way::Tcp(media, rtcp)) if *media == channel || *rtcp == channel => Some((at, *rtcp == channel)),
            _ => None,
        });
        // What came before a PAUSE was sent while it was running, whenever it is looked at.
        if let Some((at, rtcp)) = found.filter(|_| self.phase == Phase::Running) {
            self.outputs.push_back(Output::Event(Event::Packet { at, rtcp, data }));
        }
    }

    fn request(&mut self, request: Request) {
        let cseq = cseq_of(&request);
        let cseq = cseq.as_deref();
        if let Some(needs) = request.headers.get("Require") {
            // RFC 2326 12.32; ONVIF's back channel is asked for this way.
            let response = Response::new(551).with("Unsupported", needs);
            return self.answer(cseq, response);
        }
        let foreign =
            request.headers.get("Session").and_then(Session::parse).is_some_and(|session| session.id != self.id);
        let opening = matches!(request.method, Method::Options | Method::Describe | Method::Announce);
        if foreign && !opening {
            return self.answer(cseq, Response::new(454));
        }
        let target = Target::parse(&request.uri);
        match &request.method {
            Method::Options => self.answer(cseq, Response::new(200).with("Public", METHODS)),
            Method::GetParameter | Method::SetParameter => self.keep_alive(cseq),
            Method::Describe if self.phase == Phase::Running || matches!(self.role, Role::Publisher(_)) => {
                self.answer(cseq, Response::new(455));
            }
            Method::Describe => self.ask(cseq, &request, target, None, "DESCRIBE", Event::Describe),
            Method::Announce => self.announce(cseq, &request, target),
            Method::Setup if self.phase == Phase::Running => self.answer(cseq, Response::new(455)),
            Method::Setup if self.role == Role::None => {
                let bare = target.track().0;
                self.ask(cseq, &request, bare, Some(request.clone()), "SETUP", Event::Describe);
            }
            Method::Setup => self.setup(&request),
            Method::Play => match &self.role {
                Role::Player(_) if self.phase == Phase::Running => {
                    let response = Response::new(200).with("Session", self.id.as_str()).with("Range", "npt=now-");
                    self.answer(cseq, response);
                }
                Role::Player(_) if self.ways.iter().any(Option::is_some) => {
                    self.wait(cseq, &request, target, Event::Play)
                }
                Role::Player(_) | Role::Publisher(_) | Role::None => self.answer(cseq, Response::new(455)),
            },
            Method::Record => match &self.role {
                Role::Publisher(_) if self.phase == Phase::Ready && self.ways.iter().any(Option::is_some) => {
                    self.wait(cseq, &request, target, Event::Record);
                }
                Role::Publisher(_) | Role::Player(_) | Role::None => self.answer(cseq, Response::new(455)),
            },
            Method::Pause => match (&self.role, self.phase) {
                (Role::Player(_), phase) => {
                    self.answer(cseq, Response::new(200).with("Session", self.id.as_str()));
                    if phase == Phase::Running {
                        self.phase = Phase::Ready;
                        self.outputs.push_back(Output::Event(Event::Pause));
                    }
                }
                // GStreamer says so before it goes; what comes meanwhile is not taken.
                (Role::Publisher(_), _) => {
                    self.phase = Phase::Ready;
                    self.answer(cseq, Response::new(200).with("Session", self.id.as_str()));
                }
                (Role::None, _) => self.answer(cseq, Response::new(455)),
            },
            Method::Teardown => {
                self.answer(cseq, Response::new(200).with("Session", self.id.as_str()));
                self.ended = true;
                self.outputs.push_back(Output::Event(Event::Teardown));
            }
            Method::Redirect | Method::Other(_) => {
                self.answer(cseq, Response::new(501).with("Public", METHODS));
            }
        }
    }

    fn keep_alive(&mut self, cseq: Option<&str>) {
        let mut response = Response::new(200);
        if self.role != Role::None {
            response = response.with("Session", self.id.as_str());
        }
        self.answer(cseq, response);
    }

    fn ask(
        &mut self,
        cseq: Option<&str>,
        request: &Request,
        target: Target,
        setup: Option<Request>,
        method: &'static str,
        event: impl FnOnce(Box<Asking>) -> Event,
    ) {
        let authorization = request.headers.get("Authorization").map(str::to_string);
        self.waiting = Some(Waiting {
            cseq: cseq.map(str::to_string),
            method: request.method.clone(),
            target: target.clone(),
            setup,
        });
        self.outputs.push_back(Output::Event(event(Box::new(Asking {
            target,
            authorization,
            uri: Target::parse(&request.uri),
            method,
        }))));
    }

    fn wait(&mut self, cseq: Option<&str>, request: &Request, target: Target, event: Event) {
        self.waiting =
            Some(Waiting { cseq: cseq.map(str::to_string), method: request.method.clone(), target, setup: None });
        self.outputs.push_back(Output::Event(event));
    }

    fn announce(&mut self, cseq: Option<&str>, request: &Request, target: Target) {
        if self.role != Role::None {
            return self.answer(cseq, Response::new(455));
        }
        let text = String::from_utf8_lossy(&request.body);
        let session = Description::parse(&text);
        if session.media.is_empty() || text.len() > sdp::MAX_BYTES {
            let mut response = Response::new(400);
            response.reason = "no media in this SDP".into();
            return self.answer(cseq, response);
        }
        let controls = session.media.iter().map(|medium| medium.control.clone().unwrap_or_default());
        self.role = Role::Publisher(controls.collect());
        self.ways = vec![None; session.media.len().min(TRACKS)];
        self.ask(cseq, request, target, None, "ANNOUNCE", |asking| Event::Announce(asking, session));
    }

    fn setup(&mut self, request: &Request) {
        let cseq = cseq_of(request);
        let Some(at) = self.track_of(&request.uri) else {
            return self.answer(cseq.as_deref(), Response::new(404));
        };
        let offers = request.headers.all("Transport").flat_map(Transport::parse_list);
        let chosen = offers.into_iter().find_map(|offer| self.choose(at, &offer).map(|way| (offer, way)));
        let Some((offer, way)) = chosen else {
            return self.answer(cseq.as_deref(), Response::new(461));
        };
        if let Some(place) = self.ways.get_mut(at) {
            *place = Some(way);
        }
        let mut told = Transport { record: offer.record, tcp: offer.tcp, ..Transport::default() };
        match way {
            Way::Tcp(media, rtcp) => told.interleaved = Some((media, rtcp)),
            Way::Udp(..) => (told.client_port, told.server_port) = (offer.client_port, self.udp),
        }
        if matches!(self.role, Role::Player(_)) {
            told.ssrc = self.ssrcs.get(at).copied();
        }
        let session = Session { id: self.id.clone(), timeout: Some(TIMEOUT) };
        let response = Response::new(200).with("Transport", told.to_string()).with("Session", session.to_string());
        self.answer(cseq.as_deref(), response);
    }

    /// The way that an offer leads to, where it is one of ours. All tracks of a session go the same way.
    fn choose(&self, at: usize, offer: &Transport) -> Option<Way> {
        let is_tcp = self.ways.iter().flatten().next().map(|way| matches!(way, Way::Tcp(..)));
        if offer.multicast || offer.secure || is_tcp.is_some_and(|tcp| tcp != offer.tcp) {
            return None;
        }
        if !offer.tcp {
            let (media, rtcp) = offer.client_port?;
            self.udp?;
            return Some(Way::Udp(media, rtcp));
        }
        let own = u8::try_from(at * 2).ok()?;
        match &self.role {
            // What all viewers share has the same numbers for all of them; they are told which.
            Role::Player(_) => Some(Way::Tcp(own, own + 1)),
            Role::Publisher(_) | Role::None => {
                let (media, rtcp) = offer.interleaved.unwrap_or((own, own + 1));
                let taken = self.ways.iter().enumerate().any(|(other, way)| {
                    other != at
                        && matches!(way, Some(Way::Tcp(a, b)) if [*a, *b].iter().any(|c| *c == media || *c == rtcp))
                });
                (!taken).then_some(Way::Tcp(media, rtcp))
            }
        }
    }

    /// Which track a `SETUP` is about.
    fn track_of(&self, uri: &str) -> Option<usize> {
        match &self.role {
            Role::None => None,
            Role::Player(count) => match Target::parse(uri).track().1 {
                Some(at) => (at < *count).then_some(at),
                // The aggregate of a stream that has one track is that track.
                None => (*count == 1).then_some(0),
            },
            Role::Publisher(controls) => {
                // GStreamer puts the query behind the control, ffmpeg before it.
                let forms = [uri, uri.split('?').next().unwrap_or(uri)].map(|uri| uri.trim_end_matches('/'));
                let ends = |control: &str| {
                    let is = |uri: &str| {
                        uri == control.trim_end_matches('/')
                            || uri.strip_suffix(control).is_some_and(|base| base.ends_with('/'))
                    };
                    !control.is_empty() && forms.into_iter().any(is)
                };
                let named = controls.iter().position(|control| ends(control));
                // Without a control of its own: in the order in which they come.
                named.or_else(|| {
                    let free = self.ways.iter().position(Option::is_none)?;
                    controls.get(free).is_some_and(|control| control.is_empty() || control == "*").then_some(free)
                })
            }
        }
    }
}

/// The number of a request, to be echoed; nothing but digits is (security.md S20).
fn cseq_of(request: &Request) -> Option<String> {
    let cseq = request.headers.get("CSeq").map(str::trim);
    cseq.filter(|c| !c.is_empty() && c.len() <= 10 && c.bytes().all(|b| b.is_ascii_digit())).map(str::to_string)
}
