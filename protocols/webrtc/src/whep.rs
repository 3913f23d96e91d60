//! Players: an answer to an offer, and a task that sends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_hub::{Hub, Session};
use culvert_media::{Codec, Kind};
use str0m::crypto::CryptoProvider;
use str0m::format::CodecConfig;
use str0m::media::Mid;
use str0m::net::Protocol;
use str0m::rtp::RawPacket;
use str0m::rtp::rtcp::{Nack, Rtcp};
use str0m::{Event, IceConnectionState, RtcError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::backlog::Backlog;
use crate::arrived::{Arrived, FIRST, ntp};
use crate::budget::Budget;
use crate::crowd::Place;
use crate::feed::{Heard, Live, Over, Seat, Unit};
use crate::link::{Link, ROOM};
use crate::offer::Chosen;
use crate::out::Out;
use crate::routes::Path;
use crate::srtp::Srtp;

/// How long a peer may take to agree on keys.
pub(crate) const CONNECT: Duration = Duration::from_secs(30);
/// And to find us.
pub(crate) const FIND: Duration = Duration::from_secs(10);
/// How often one whose network is too slow may wish for a key frame.
const WISH: Duration = Duration::from_secs(4);
/// It is told each so many looks what has gone: once a second.
const LOOKS: u64 = 2;

/// What was chosen for a track.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) kind: Kind,
    pub(crate) codec: Codec,
    pub(crate) chosen: Chosen,
}

/// Puts what was chosen into the configuration, so that nothing else is agreed upon.
pub(crate) fn choose(config: &mut CodecConfig, lines: &[Line]) {
    config.clear();
    for Line { chosen, .. } in lines {
        let Chosen { payload_type, rtx, codec, clock_hz, channels, format } = chosen.clone();
        let clock = str0m::media::Frequency::new(clock_hz).unwrap_or(str0m::media::Frequency::NINETY_KHZ);
        config.add_config(payload_type, rtx, codec, clock, channels, format);
    }
}

/// One who watches.
pub(crate) struct Player {
    pub(crate) link: Link,
    pub(crate) session: Session,
    pub(crate) seat: Seat,
    pub(crate) lines: Vec<Line>,
    pub(crate) closed: CancellationToken,
    pub(crate) waiting: Option<Place>,
    pub(crate) crypto: Arc<CryptoProvider>,
}

/// What goes on while it runs.
struct Run<'a> {
    link: &'a mut Link,
    session: &'a Session,
    seat: &'a Seat,
    lines: &'a [Line],
    closed: &'a CancellationToken,
    /// Its place among those of its address that are not connected yet.
    waiting: &'a mut Option<Place>,
    video: Option<Out>,
    audio: Option<Out>,
    is_connected: bool,
    live: Option<Live>,
    backlog: Backlog,
    budget: Budget,
    /// Once keys are agreed upon.
    srtp: Option<Srtp>,
    crypto: &'a CryptoProvider,
    /// The number of the next packet, of all that go out.
    wide: u64,
    arrived: Arrived,
    /// How often it was looked at what was heard.
    looks: u64,
    /// Packets that are sent again are put together here.
    body: Vec<u8>,
    /// When it last wished for a key frame.
    wished: Option<Instant>,
    events: Vec<Event>,
}

/// Why it ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Rtc(RtcError),
    /// It did not come, or went without a word.
    Lost(&'static str),
    Over(Over),
    Closed(&'static str),
}

impl From<RtcError> for Ended {
    fn from(error: RtcError) -> Ended {
        Ended::Rtc(error)
    }
}

impl Player {
    /// Sends until one of both goes.
    pub(crate) async fn run(mut self, hub: Hub) {
        let run = Run {
            video: None,
            audio: None,
            is_connected: false,
            live: None,
            backlog: Backlog::default(),
            budget: Budget::new(Instant::now()),
            srtp: None,
            crypto: &self.crypto,
            wide: FIRST,
            arrived: Arrived::default(),
            looks: 0,
            body: Vec::new(),
            wished: None,
            events: Vec::new(),
            link: &mut self.link,
            session: &self.session,
            seat: &self.seat,
            lines: &self.lines,
            closed: &self.closed,
            waiting: &mut self.waiting,
        };
        let why = match run.run(&hub).await {
            Ended::Rtc(why) => why.to_string(),
            Ended::Lost(why) | Ended::Closed(why) => why.to_string(),
            Ended::Over(Over::Ended) => "the stream has ended".into(),
            Ended::Over(Over::Changed) => "the stream has other codecs now".into(),
            Ended::Over(Over::Reordered) => "pictures are built on others that are shown later (B-frames)".into(),
        };
        let figures = self.session.figures();
        tracing::info!(
            stream = %figures.stream, session = figures.id, bytes = figures.bytes(), why, "WebRTC viewer left"
        );
        self.link.close();
    }
}

impl Run<'_> {
    async fn run(mut self, hub: &Hub) -> Ended {
        match self.turn(hub).await {
            Ok(ended) | Err(ended) => ended,
        }
    }

    async fn turn(&mut self, hub: &Hub) -> Result<Ended, Ended> {
        let (deadline, unfound) = (Instant::now() + CONNECT, Instant::now() + FIND);
        let closed = closed(self.session, self.closed, hub);
        tokio::pin!(closed);
        loop {
            let mut due = self.settle()?;
            let mut blocked = None;
            if self.is_connected {
                if let Some(until) = self.send_backlog(&mut blocked) {
                    due = due.min(until);
                }
                due = self.settle()?.min(due);
            } else if Instant::now() >= if self.link.is_found() { deadline } else { unfound } {
                return Err(Ended::Lost("the peer did not find this node: see docs, WebRTC, \"which ports\""));
            }
            self.link.flush();
            let wake =
                if self.is_connected { due } else { due.min(if self.link.is_found() { deadline } else { unfound }) };
            tokio::select! {
                heard = self.link.hear() => match heard {
                    Some(heard) => self.link.handle(heard),
                    None => return Err(Ended::Lost("its entry is gone")),
                },
                heard = hear(self.seat, self.live.as_mut()) => match heard {
                    Heard::Unit(unit) => self.queue(unit),
                    Heard::Gap => self.wait(),
                    Heard::Over(over) => return Ok(Ended::Over(over)),
                },
                () = written(blocked.as_deref()) => {}
                () = sleep_until(wake) => self.link.tick()?,
                why = &mut closed => return Ok(Ended::Closed(why)),
            }
        }
    }

    /// Says and hears what the agent has to, until it has nothing more.
    fn settle(&mut self) -> Result<Instant, Ended> {
        loop {
            let due = self.link.drain(&mut self.events)?;
            if !self.link.rtc.is_alive() {
                return Err(Ended::Lost("it closed the connection"));
            }
            if self.events.is_empty() {
                return Ok(due);
            }
            for event in std::mem::take(&mut self.events) {
                self.handle(event)?;
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Ended> {
        #[allow(clippy::wildcard_enum_match_arm, reason = "the list is another crate's and grows")]
        match event {
            Event::MediaAdded(media) => self.add(media.mid),
            Event::Connected => {
                let agreed = self.link.keys();
                self.srtp = agreed.and_then(|agreed| Srtp::new(self.crypto, &agreed));
                if self.srtp.is_none() {
                    return Err(Ended::Lost("it agreed on a cipher that is not known here"));
                }
                self.is_connected = true;
                self.link.prove();
                self.waiting.take();
                let (cached, live) = self.seat.begin().map_err(Ended::Over)?;
                self.live = Some(live);
                self.begin(cached);
            }
            Event::KeyframeRequest(_) => self.handle_wish(),
            Event::RawPacket(packet) => {
                if let RawPacket::RtcpRx(rtcp) = *packet {
                    self.hear_feedback(rtcp);
                }
            }
            // Twice a second.
            Event::PeerStats(stats) => {
                if let Some(pair) = stats.selected_candidate_pair {
                    self.link.nominate(Path { tcp: pair.protocol != Protocol::Udp, peer: pair.remote.addr });
                }
                self.look();
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                return Err(Ended::Lost("it has not been heard any more"));
            }
            Event::Closed => return Err(Ended::Closed("it said goodbye")),
            _ => {}
        }
        Ok(())
    }

    /// A media line of the offer: it is sent where something was chosen for it.
    fn add(&mut self, mid: Mid) {
        let kind = self.link.rtc.media(mid).map(|media| media.kind().is_video());
        let kind = if kind == Some(true) { Kind::Video } else { Kind::Audio };
        let Some(line) = self.lines.iter().find(|line| line.kind == kind) else { return };
        let place = if kind == Kind::Video { &mut self.video } else { &mut self.audio };
        let chosen = &line.chosen;
        let Some((ssrc, rtx)) =
            self.link.rtc.direct_api().stream_tx_by_mid(mid, None).map(|stream| (stream.ssrc(), stream.rtx()))
        else {
            return;
        };
        let Some(media) = self.link.rtc.media(mid) else { return };
        // Sound is not asked for again: it would be late.
        let again = rtx.zip(chosen.rtx).filter(|_| kind == Kind::Video);
        let mut first = [0; 2];
        // Without it the first number can be guessed, which is no secret (RFC 3550 5.1 wants it for ciphers weaker than these).
        getrandom::fill(&mut first).ok();
        let first = u16::from_be_bytes(first);
        place.get_or_insert_with(|| Out::new(media, ssrc, chosen.payload_type, chosen.clock_hz, again, first));
    }

    /// It cannot go on without a key frame. Where that is because of its network, the source and who else watches it are not burdened with that as
    /// often as it is said.
    fn handle_wish(&mut self) {
        let now = Instant::now();
        let is_slow = self.budget.bits_per_second().is_some();
        if !is_slow || self.wished.is_none_or(|wished| now >= wished + WISH) {
            self.wished = Some(now);
            self.seat.want_key_frame();
        }
    }

    /// What it says of what came.
    fn hear_feedback(&mut self, rtcp: Rtcp) {
        let now = Instant::now();
        let blocks = match &rtcp {
            Rtcp::ReceiverReport(report) => Some(&report.reports),
            Rtcp::SenderReport(report) => Some(&report.reports),
            _ => None,
        };
        for block in blocks.into_iter().flatten() {
            let of = |out: &&mut Out| out.ssrc() == *block.ssrc;
            let pictures = self.video.as_mut().filter(of);
            let of_pictures = pictures.is_some();
            let Some(out) = pictures.or(self.audio.as_mut().filter(of)) else { continue };
            out.know();
            self.arrived.hear_report(now, block, of_pictures);
        }
        match rtcp {
            Rtcp::Twcc(feedback) => self.arrived.hear_wide(now, feedback, self.wide),
            Rtcp::Nack(nack) => self.send_again(now, &nack),
            _ => {}
        }
    }

    /// Sends what it asks for again, as far as that is still here and was not asked for too often.
    fn send_again(&mut self, now: Instant, nack: &Nack) {
        let Some(out) = self.video.as_mut().filter(|out| out.ssrc() == *nack.ssrc) else { return };
        let (Some(srtp), Ok(path)) = (&mut self.srtp, self.link.media_path(now)) else { return };
        for entry in &nack.reports {
            let others = (0..16).filter(|bit| entry.blp >> bit & 1 == 1).map(|bit| entry.pid.wrapping_add(bit + 1));
            for sequence in std::iter::once(entry.pid).chain(others) {
                if !self.link.has_room() {
                    return;
                }
                let Some(cut) = out.again(now, sequence, &mut self.wide, &mut self.body) else { continue };
                let bytes = cut.bytes() + srtp.rtp_overhead();
                self.link.send_media(path, bytes, |out| srtp.protect_rtp(out, &cut));
                self.budget.spend(cut.body.len());
            }
        }
    }

    /// Looks at what was heard of how its network does, and says what has gone.
    fn look(&mut self) {
        let now = Instant::now();
        let was_free = self.budget.bits_per_second().is_none();
        let report = self.arrived.look();
        self.budget.handle_report(now, report);
        if let (true, Some(bits)) = (was_free, self.budget.bits_per_second()) {
            let (stream, session) = (&self.session.figures().stream, self.session.figures().id);
            tracing::info!(%stream, session, bits, ?report, "a viewer's network takes less than the stream: pictures are left out");
        }
        if self.looks.is_multiple_of(LOOKS) {
            self.report(now);
        }
        self.looks += 1;
    }

    /// Says what has gone, and which of it is shown now.
    fn report(&mut self, now: Instant) {
        let (Some(srtp), Ok(path)) = (&mut self.srtp, self.link.media_path(now)) else { return };
        let ntp = ntp(SystemTime::now());
        let reports = [&self.video, &self.audio].into_iter().flatten().filter_map(|out| out.report(now, ntp));
        for report in reports {
            let bytes = report.len() + srtp.rtcp_overhead();
            self.link.send_media(path, bytes, |out| srtp.protect_rtcp(out, &report));
        }
        self.arrived.tell(now, ntp);
    }

    fn begin(&mut self, cached: Vec<Arc<Unit>>) {
        if !self.backlog.begin(Instant::now(), cached) && self.has_video() {
            self.seat.want_key_frame();
        }
    }

    fn queue(&mut self, unit: Arc<Unit>) {
        self.budget.want(unit.bytes);
        self.backlog.push(Instant::now(), unit);
    }

    /// Whether pictures are among what was agreed upon.
    fn has_video(&self) -> bool {
        self.lines.iter().any(|line| line.kind == Kind::Video)
    }

    /// It was too slow to read: goes on at the next key frame.
    fn wait(&mut self) {
        let left_out = self.backlog.wait();
        self.session.figures().count_gap(left_out as u64);
    }

    /// Sends what waits, as far as the network takes it. Returns when there may be more; or gives the bell that says so.
    fn send_backlog(&mut self, blocked: &mut Option<Arc<Notify>>) -> Option<Instant> {
        let now = Instant::now();
        let left_out = self.backlog.thin(now);
        if left_out > 0 {
            self.session.figures().count_gap(left_out as u64);
        }
        let srtp = self.srtp.as_mut().filter(|_| !self.backlog.is_empty())?;
        let path = match self.link.media_path(now) {
            Ok(path) => path,
            Err(until) => return Some(until),
        };
        let mut room = ROOM;
        while !self.backlog.is_empty() {
            if room == ROOM && !self.link.has_room() {
                *blocked = self.link.written();
                return None;
            }
            let allowed = self.budget.allows(now);
            let Some(mut waiting) = self.backlog.pop(allowed) else { break };
            let is_picture = waiting.unit.kind == Kind::Video;
            let out = if is_picture { &mut self.video } else { &mut self.audio };
            let Some(out) = out else { continue };
            let ticks = wrapped(waiting.pts.to_ticks(out.clock_hz()));
            let unit = waiting.unit.clone();
            if waiting.next == 0 {
                out.begin(now, &unit, ticks, waiting.shown);
            }
            for packet in unit.packets.iter().skip(waiting.next) {
                if room == 0 || (is_picture && !self.budget.allows(now)) {
                    break;
                }
                let cut = out.cut(packet, ticks, &mut self.wide);
                let bytes = cut.bytes() + srtp.rtp_overhead();
                self.link.send_media(path, bytes, |out| srtp.protect_rtp(out, &cut));
                room -= 1;
                waiting.next += 1;
                self.budget.spend(packet.payload.len());
            }
            if waiting.next < unit.packets.len() {
                self.backlog.put_back(waiting);
                break;
            }
            self.session.figures().count(unit.bytes as u64, 1);
            self.session.figures().set_sent(unit.pts);
        }
        (!self.backlog.is_empty()).then(|| if room == 0 { now } else { self.budget.again() })
    }
}

/// Returns when somebody ends it, and why.
async fn closed(session: &Session, closed: &CancellationToken, hub: &Hub) -> &'static str {
    tokio::select! {
        () = session.cancelled() => "closed by who runs this node",
        () = closed.cancelled() => "it said goodbye",
        () = hub.draining() => "this node is shutting down",
    }
}

async fn written(line: Option<&Notify>) {
    match line {
        Some(line) => line.notified().await,
        None => std::future::pending().await,
    }
}

async fn hear(seat: &Seat, live: Option<&mut Live>) -> Heard {
    match live {
        Some(live) => seat.next(live).await,
        None => std::future::pending().await,
    }
}

/// The low 32 bits.
fn wrapped(ticks: i64) -> u32 {
    let [_, _, _, _, low @ ..] = ticks.to_be_bytes();
    u32::from_be_bytes(low)
}
