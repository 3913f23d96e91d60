//! Players: an answer to an offer, and a task that sends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use culvert_hub::{Hub, Session};
use culvert_media::{Codec, Kind, Time};
use str0m::format::CodecConfig;
use str0m::media::{MediaTime, Mid, Pt};
use str0m::rtp::{ExtensionValues, RtpWrite};
use str0m::{Event, IceConnectionState, RtcError};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::crowd::Place;
use crate::feed::{Heard, Live, Over, Seat, Unit};
use crate::link::Link;
use crate::offer::Chosen;

/// How long a peer may take to agree on keys.
pub(crate) const CONNECT: Duration = Duration::from_secs(30);
/// And to find us.
pub(crate) const FIND: Duration = Duration::from_secs(10);
/// A viewer begins with what is cached, which may be megabytes: so much goes at once, and then nothing for so long (128 Mbit/s).
const BURST_BYTES: usize = 48 << 10;
const PAUSE: Duration = Duration::from_millis(3);
/// Units that wait for a viewer who has just come.
const BACKLOG: usize = 2048;
/// Packets that are kept to be sent again, and how long: what is asked for later is of no use any more. Of what goes out, at most so much is sent
/// again.
const AGAIN: usize = 1024;
const AGAIN_TIME: Duration = Duration::from_millis(600);
const AGAIN_RATIO: f32 = 0.25;
/// Pictures of the cached group are shown so fast: a player shows what came last, and not what was before it.
const FAST_MS: u32 = 1;

/// A track on its way.
#[derive(Debug)]
pub(crate) struct Out {
    mid: Mid,
    payload_type: Pt,
    clock_hz: u32,
    sequence: u64,
}

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
}

/// What is still to be sent of a unit.
struct Waiting {
    unit: Arc<Unit>,
    /// When it is shown, by the stream's timeline and by our clock.
    pts: Time,
    shown: Instant,
    /// The first packet that has not been sent.
    next: usize,
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
    backlog: VecDeque<Waiting>,
    /// Pictures are passed over until a key frame comes.
    waits: bool,
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
            backlog: VecDeque::new(),
            waits: true,
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
        let mut pause: Option<Instant> = None;
        let closed = closed(self.session, self.closed, hub);
        tokio::pin!(closed);
        loop {
            let mut due = self.settle()?;
            if self.is_connected {
                if pause.is_none_or(|until| until <= Instant::now()) {
                    pause = self.send_backlog()?.then(|| Instant::now() + PAUSE);
                    due = self.settle()?;
                }
            } else if Instant::now() >= if self.link.is_found() { deadline } else { unfound } {
                return Err(Ended::Lost("the peer did not find this node: see docs, WebRTC, \"which ports\""));
            }
            self.link.flush();
            let wake =
                if self.is_connected { due } else { due.min(if self.link.is_found() { deadline } else { unfound }) };
            let wake = pause.map_or(wake, |pause| pause.min(wake));
            tokio::select! {
                datagram = self.link.inbox.recv() => match datagram {
                    Some(datagram) => self.link.take(&datagram),
                    None => return Err(Ended::Lost("its entry is gone")),
                },
                heard = hear(self.seat, self.live.as_mut()) => match heard {
                    Heard::Unit(unit) => self.queue(unit),
                    Heard::Gap => self.wait(),
                    Heard::Over(over) => return Ok(Ended::Over(over)),
                },
                () = sleep_until(wake) => if due <= Instant::now() { self.link.tick()? },
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
                self.is_connected = true;
                self.link.prove();
                self.waiting.take();
                let (cached, live) = self.seat.begin().map_err(Ended::Over)?;
                self.live = Some(live);
                self.begin(cached);
            }
            Event::KeyframeRequest(_) => self.seat.want_key_frame(),
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
        let (payload_type, clock_hz) = (line.chosen.payload_type, line.chosen.clock_hz);
        if let Some(stream) = self.link.rtc.direct_api().stream_tx_by_mid(mid, None) {
            stream.set_rtx_cache(AGAIN, AGAIN_TIME, Some(AGAIN_RATIO));
        }
        place.get_or_insert(Out { mid, payload_type, clock_hz, sequence: 1 });
    }

    /// Begins with what is cached: pictures alone, shown fast, so that the newest is there at once; sound begins with what is live.
    fn begin(&mut self, cached: Vec<Arc<Unit>>) {
        self.waits = self.has_video();
        let pictures: Vec<_> = cached.into_iter().filter(|unit| unit.kind == Kind::Video).collect();
        let last = pictures.last().map(|unit| (unit.pts, unit.shown));
        let behind = pictures.len();
        if let Some((last, newest)) = last {
            for (at, unit) in pictures.into_iter().enumerate() {
                let before = u32::try_from(behind - 1 - at).unwrap_or(u32::MAX).saturating_mul(FAST_MS);
                let pts = last - Time::from_millis(before.into());
                let shown = newest.checked_sub(Duration::from_millis(before.into())).unwrap_or(newest);
                self.backlog.push_back(Waiting { unit, pts, shown, next: 0 });
            }
            self.waits = false;
        } else if self.waits {
            self.seat.want_key_frame();
        }
    }

    fn queue(&mut self, unit: Arc<Unit>) {
        if self.backlog.len() >= BACKLOG {
            self.wait();
        }
        if unit.kind == Kind::Video && self.waits {
            if !unit.key {
                return;
            }
            self.waits = false;
        }
        let (pts, shown) = (unit.pts, unit.shown);
        self.backlog.push_back(Waiting { unit, pts, shown, next: 0 });
    }

    /// Whether pictures are among what was agreed upon.
    fn has_video(&self) -> bool {
        self.lines.iter().any(|line| line.kind == Kind::Video)
    }

    /// Goes on at the next key frame.
    fn wait(&mut self) {
        self.backlog.retain(|waiting| waiting.unit.kind == Kind::Audio);
        self.backlog.truncate(BACKLOG / 2);
        self.waits = self.has_video();
        self.seat.want_key_frame();
    }

    /// Sends what waits. True: there is more, a little later.
    fn send_backlog(&mut self) -> Result<bool, Ended> {
        let mut bytes = 0;
        while let Some(mut waiting) = self.backlog.pop_front() {
            let unit = waiting.unit.clone();
            let out = if unit.kind == Kind::Video { &mut self.video } else { &mut self.audio };
            let Some(out) = out else { continue };
            let time = wrapped(waiting.pts.to_ticks(out.clock_hz));
            for packet in unit.packets.iter().skip(waiting.next) {
                if bytes >= BURST_BYTES || !self.link.has_room() {
                    self.backlog.push_front(waiting);
                    return Ok(true);
                }
                let mut api = self.link.rtc.direct_api();
                let Some(stream) = api.stream_tx_by_mid(out.mid, None) else { break };
                let time = time.wrapping_add(packet.ticks);
                let wallclock = waiting.shown.into_std();
                let write =
                    RtpWrite::new(out.payload_type, out.sequence.into(), time, wallclock, packet.payload.clone());
                let video = unit.kind == Kind::Video;
                stream.write_rtp(write.marker(packet.marker).nackable(video).ext_vals(at_once(video)));
                out.sequence += 1;
                self.link.drain(&mut self.events)?;
                bytes += packet.payload.len();
                waiting.next += 1;
            }
            self.session.figures().count(unit.bytes as u64, 1);
            self.session.figures().set_sent(unit.pts);
        }
        Ok(false)
    }
}

/// Pictures are to be shown as soon as they are there (the extension `playout-delay`).
fn at_once(video: bool) -> ExtensionValues {
    let zero = video.then_some(MediaTime::ZERO);
    ExtensionValues { play_delay_min: zero, play_delay_max: zero, ..ExtensionValues::default() }
}

/// Returns when somebody ends it, and why.
async fn closed(session: &Session, closed: &CancellationToken, hub: &Hub) -> &'static str {
    tokio::select! {
        () = session.cancelled() => "closed by who runs this node",
        () = closed.cancelled() => "it said goodbye",
        () = hub.draining() => "this node is shutting down",
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
