//! Players: an answer to an offer, and a task that keeps the session. What is sent goes by [`Media`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use culvert_hub::{Hub, Session, SessionFigures};
use culvert_media::{Codec, Kind};
use str0m::crypto::CryptoProvider;
use str0m::format::CodecConfig;
use str0m::media::Mid;
use str0m::{Event, IceConnectionState, RtcError};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::burst::Bell;
use crate::crowd::Place;
use crate::feed::{Over, Seat};
use crate::link::Link;
use crate::media::{Media, Rest};
use crate::offer::Chosen;
use crate::out::Out;
use crate::routes::Datagram;
use crate::srtp::{Heard, Srtp};
use crate::udp::Turn;

/// How long a peer may take to agree on keys.
pub(crate) const CONNECT: Duration = Duration::from_secs(30);
/// And to find us.
pub(crate) const FIND: Duration = Duration::from_secs(10);
/// How long one may take that begins ICE anew.
const RETURN: Duration = Duration::from_secs(20);
/// How often one whose network is too slow may wish for a key frame.
const WISH: Duration = Duration::from_secs(4);
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
        let Chosen { payload_type, rtx, codec, clock_hz, channels, format, .. } = chosen.clone();
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
    player: &'a mut Player,
    video: Option<Out>,
    audio: Option<Out>,
    is_connected: bool,
    /// Once keys are agreed upon: what sends, and what hears.
    media: Option<Arc<Media>>,
    heard: Option<Heard>,
    /// When the way of media is to be looked at again, where it does not go anywhere.
    ask: Option<Instant>,
    /// When it is to be back that has begun ICE anew.
    returns: Option<Instant>,
    /// It may send what the kernel did not take before, and others wait until it has.
    turn: Option<Turn>,
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

impl Ended {
    /// It had its time.
    pub(crate) fn unconnected(link: &Link) -> Ended {
        Ended::Lost(if link.is_found() {
            "it found this node, and no keys were agreed upon (DTLS): see docs, WebRTC, \"When it does not work\""
        } else {
            "the peer did not find this node: see docs, WebRTC, \"Which ports\""
        })
    }
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
            player: &mut self,
            video: None,
            audio: None,
            is_connected: false,
            media: None,
            heard: None,
            ask: None,
            returns: None,
            turn: None,
            wished: None,
            events: Vec::new(),
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
        let (Ok(ended) | Err(ended)) = self.turn(hub).await;
        if let Some(media) = &self.media {
            media.bye();
        }
        ended
    }

    async fn turn(&mut self, hub: &Hub) -> Result<Ended, Ended> {
        let (deadline, unfound) = (Instant::now() + CONNECT, Instant::now() + FIND);
        let Player { session, closed, .. } = &*self.player;
        let mut ended = pin!(ended(session.figures().clone(), closed.clone(), hub));
        loop {
            let due = self.settle()?;
            // Only now: its media lines are heard of after that it is connected.
            if self.is_connected && self.media.is_none() {
                self.begin()?;
            }
            let mut rest = Rest::Done;
            let mut limit = None;
            if let Some(media) = self.media.clone() {
                self.guide(&media);
                rest = media.send();
                if self.returns.is_some_and(|returns| returns <= Instant::now()) {
                    return Err(Ended::Lost("it began ICE anew and did not come back"));
                }
                limit = Some(media.look()).into_iter().chain(self.ask).chain(self.returns).min();
            } else {
                let until = if self.player.link.is_found() { deadline } else { unfound };
                if Instant::now() >= until {
                    return Err(Ended::unconnected(&self.player.link));
                }
                limit.replace(until);
            }
            let full = self.player.link.flush();
            // Also of one that has no media yet: others wait for it.
            self.turn = None;
            let (later, bell) = match rest {
                Rest::Done => (None, None),
                Rest::Until(at) => (Some(at), None),
                Rest::Blocked(bell) => (None, bell),
            };
            let wake = [Some(due), limit, later].into_iter().flatten().min().unwrap_or(due);
            let bell = bell.or(full);
            // Kept while what is heard is none of the agent's: each would be entered with its bell or clock anew.
            let media = self.media.clone();
            let (mut rung, mut waits) = (pin!(rung(bell.as_ref())), pin!(waits(media.as_deref())));
            let mut woken = pin!(sleep_until(wake));
            loop {
                let Player { link, seat, .. } = &mut *self.player;
                tokio::select! {
                    heard = link.hear() => {
                        let heard = heard.ok_or(Ended::Lost("its entry is gone"))?;
                        // None of the agent's business, of which each viewer has some 100 KB that are in no cache.
                        if link.handle(heard).is_some_and(|rtcp| !self.hear(&rtcp)) {
                            continue;
                        }
                    }
                    () = &mut waits => {}
                    turn = &mut rung => self.turn = turn,
                    () = &mut woken => if due <= Instant::now() {
                        link.tick()?;
                    },
                    over = seat.over() => return Ok(Ended::Over(over)),
                    why = &mut ended => return Ok(Ended::Closed(why)),
                }
                break;
            }
        }
    }

    /// Says and hears what the agent has to, until it has nothing more.
    fn settle(&mut self) -> Result<Instant, Ended> {
        loop {
            let due = self.player.link.drain(&mut self.events)?;
            if !self.player.link.rtc.is_alive() {
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

    /// Says where media goes: to where somebody is known to be.
    fn guide(&mut self, media: &Media) {
        let link = &mut self.player.link;
        let (way, again) = link.media_way(Instant::now());
        // What ends the agreement on keys goes before what is enciphered with them.
        link.flush();
        self.ask = again;
        media.set_way(way);
    }

    fn handle(&mut self, event: Event) -> Result<(), Ended> {
        #[allow(clippy::wildcard_enum_match_arm, reason = "the list is another crate's and grows")]
        match event {
            Event::MediaAdded(media) => self.add(media.mid),
            Event::Connected => self.is_connected = true,
            // It began anew: the agent waits for it without end.
            Event::IceConnectionStateChange(IceConnectionState::Checking) if self.is_connected => {
                self.returns = Some(Instant::now() + RETURN);
            }
            Event::IceConnectionStateChange(IceConnectionState::Connected | IceConnectionState::Completed) => {
                self.returns = None;
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
        let rtc = &mut self.player.link.rtc;
        let stream = rtc.direct_api().stream_tx_by_mid(mid, None).map(|stream| (stream.ssrc(), stream.rtx()));
        let (Some((ssrc, rtx)), Some(media)) = (stream, rtc.media(mid)) else { return };
        let kind = if media.kind().is_video() { Kind::Video } else { Kind::Audio };
        let Some(Line { chosen, .. }) = self.player.lines.iter().find(|line| line.kind == kind) else { return };
        // Of two of a kind, one may be without what was chosen.
        if !media.remote_pts().contains(&chosen.payload_type) {
            return;
        }
        // Sound is not asked for again: it would be late.
        let again = rtx.zip(chosen.rtx).filter(|_| kind == Kind::Video);
        let place = if kind == Kind::Video { &mut self.video } else { &mut self.audio };
        place.get_or_insert_with(|| Out::new(media, ssrc, chosen, again, first_number()));
    }

    /// Keys are agreed upon: media goes.
    fn begin(&mut self) -> Result<(), Ended> {
        let Player { link, session, seat, lines, crypto, waiting, .. } = &mut *self.player;
        let halves = link.keys().and_then(|agreed| Srtp::new(crypto, &agreed));
        let (srtp, heard) = halves.ok_or(Ended::Lost("it agreed on a cipher that is not known here"))?;
        link.prove();
        waiting.take();
        let (video, audio) = (self.video.take(), self.audio.take());
        let media = Arc::new(Media::new(srtp, link.outlet().clone(), video, audio, session.figures().clone()));
        let has_picture = seat.begin(media.clone()).map_err(Ended::Over)?;
        if !has_picture && lines.iter().any(|line| line.kind == Kind::Video) {
            seat.want_key_frame();
        }
        (self.media, self.heard) = (Some(media), Some(heard));
        Ok(())
    }

    /// It cannot go on without a key frame. Where that is because of its network, the source and who else watches it are not burdened with that as
    /// often as it is said.
    fn handle_wish(&mut self) {
        let now = Instant::now();
        let is_slow = self.media.as_ref().is_some_and(|media| media.bits_per_second().is_some());
        if !is_slow || self.wished.is_none_or(|wished| now >= wished + WISH) {
            self.wished = Some(now);
            self.player.seat.want_key_frame();
        }
    }

    /// What it says of what came. True: it came by another path than media goes.
    fn hear(&mut self, rtcp: &Datagram) -> bool {
        let (Some(media), Some(heard)) = (&self.media, &mut self.heard) else { return false };
        let Some(compound) = heard.open(&rtcp.data) else { return false };
        let moves = self.player.link.follow(rtcp.path);
        if media.hear(&compound) {
            self.handle_wish();
        }
        moves
    }
}

/// The first number of a track's packets. Without any the first is 0, which is no secret to who can decipher the rest.
fn first_number() -> u16 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).ok();
    u16::from_be_bytes(bytes)
}

/// Returns when somebody ends it, and why.
async fn ended(session: Arc<SessionFigures>, closed: CancellationToken, hub: &Hub) -> &'static str {
    tokio::select! {
        () = session.cancelled() => "closed by who runs this node",
        () = closed.cancelled() => "it said goodbye",
        () = hub.draining() => "this node is shutting down",
    }
}

async fn rung(bell: Option<&Bell>) -> Option<Turn> {
    match bell {
        Some(bell) => bell.rung().await,
        None => std::future::pending().await,
    }
}

async fn waits(media: Option<&Media>) {
    match media {
        Some(media) => media.waits().await,
        None => std::future::pending().await,
    }
}
