//! The half of a player's session that sends: headers, ciphers, what waits, what is sent again, and how much the network takes. It is fed by the crew
//! of its stream, which goes through many viewers at a time, and told by the session's own task what was heard; that task also sends what could
//! not go at once.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use culvert_formats::rtp::feedback::Nack;
use culvert_formats::rtp::rtcp::{self, Block, Message, Ntp};
use culvert_hub::SessionFigures;
use culvert_media::{Kind, Time};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::arrived::{Arrived, FIRST};
use crate::backlog::Backlog;
use crate::budget::Budget;
use crate::burst::{Bell, Burst, Outlet, ROOM, Way};
use crate::out::Out;
use crate::srtp::Srtp;
use crate::unit::Unit;

/// How often it is looked at what was heard, and how often it is told what has gone.
const LOOK: Duration = Duration::from_millis(500);
const TELL: Duration = Duration::from_secs(1);
/// Where no unit came for so long after a look, the session's task has the next.
const LATE: Duration = Duration::from_secs(5);
/// Packets of what waits that go at once, and how long no more of it goes then. A player's socket holds some 90 on Linux (212,992 bytes, of which each
/// takes 2,304, however short) where it does not ask for more, as Firefox does not. The budget counts bytes.
const PART: usize = 64;
const REST: Duration = Duration::from_millis(2);
/// The part of the packets from which on two sounds in one packet would be missed too often, and down to which they still would.
const FEW: (f32, f32) = (0.005, 0.01);
/// Packets that are looked for of a compound that asks for many.
const ASKED: usize = 1024;

/// What sends. Locked for as long as a burst takes.
pub(crate) struct Media {
    state: Mutex<State>,
    outlet: Outlet,
    figures: Arc<SessionFigures>,
    /// The longest packet of sound that it takes.
    longest: Time,
    /// Rings when something waits that did not before.
    waits: Notify,
}

/// In the order of use, what is looked at for each picture first: with many viewers all of it is in no cache.
#[repr(C)]
struct State {
    /// The newest unit that was seen.
    newest: u64,
    /// When the session's task goes on with what waits.
    watched: Watched,
    /// Where media may go; none while it is not known whether somebody is there.
    way: Option<Way>,
    /// What waited has gone in part, and until then no more of it goes.
    rests: Option<Instant>,
    looked: Option<Instant>,
    /// Packets are lost: each sound goes by itself, and first.
    loses: bool,
    /// The number of the next packet, of all that go out.
    wide: u64,
    budget: Budget,
    backlog: Backlog,
    video: Option<Out>,
    burst: Burst,
    srtp: Srtp,
    audio: Option<Out>,
    arrived: Arrived,
    told: Option<Instant>,
    /// Packets that are sent again are put together here.
    body: Vec<u8>,
}

/// What is left to be done.
pub(crate) enum Rest {
    /// Nothing.
    Done,
    /// There may be more at this moment.
    Until(Instant),
    /// When this bell has rung; none: when the way is another.
    Blocked(Option<Bell>),
}

/// What the session's task waits for.
enum Watched {
    /// That something waits.
    Nothing,
    /// This moment.
    Until(Instant),
    /// That more can be put on its way.
    Bell,
}

impl Media {
    pub(crate) fn new(
        srtp: Srtp,
        outlet: Outlet,
        video: Option<Out>,
        audio: Option<Out>,
        figures: Arc<SessionFigures>,
    ) -> Media {
        let longest = audio.as_ref().map_or(Time::ZERO, Out::longest);
        let state = State {
            srtp,
            way: None,
            video,
            audio,
            backlog: Backlog::default(),
            newest: 0,
            budget: Budget::new(Instant::now()),
            wide: FIRST,
            arrived: Arrived::default(),
            rests: None,
            loses: false,
            looked: None,
            told: None,
            burst: Burst::default(),
            watched: Watched::Nothing,
            body: Vec::new(),
        };
        Media { state: Mutex::new(state), outlet, figures, longest, waits: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it sends")
    }

    /// Begins with what is cached, of which `newest` is the number of the last. False: there was no picture.
    pub(crate) fn begin(&self, cached: Vec<Arc<Unit>>, newest: u64) -> bool {
        let mut state = self.lock();
        state.newest = newest;
        state.backlog.begin(Instant::now(), cached)
    }

    /// Units of the stream: they go at once, or wait. Where others were passed over before one, pictures go on with a key frame.
    pub(crate) fn push(&self, units: &[Arc<Unit>]) {
        let (mut state, now) = (self.lock(), Instant::now());
        // The crew was behind what it began with.
        let first_new = units.partition_point(|unit| unit.number <= state.newest);
        let units = units.get(first_new..).unwrap_or_default();
        if units.is_empty() {
            return;
        }
        // What is live goes at once; what waited, as the group of pictures a viewer begins with, by and by.
        let is_live = state.backlog.is_empty();
        for unit in units {
            if unit.number > state.newest + 1 {
                let left_out = state.backlog.wait() as u64;
                self.figures.count_gap(left_out + unit.number - state.newest - 1);
            }
            state.newest = unit.number;
            let out = if unit.kind == Kind::Video { &state.video } else { &state.audio };
            if out.is_none() {
                continue;
            }
            state.budget.want(unit.bytes);
            let apart = state.loses || unit.lasts > self.longest;
            state.backlog.push(now, unit.clone(), apart);
        }
        // Others were there before: it has its turn.
        if matches!(state.watched, Watched::Bell) && state.way.is_some_and(|way| !way.path.tcp) {
            let left_out = state.backlog.thin(now);
            if left_out > 0 {
                self.figures.count_gap(left_out as u64);
            }
            state.look(now, &self.outlet, &self.figures);
            return;
        }
        let room = if is_live { ROOM } else { PART };
        if is_live {
            state.rests = None;
        }
        let is_seen = match (state.send(now, room, &self.outlet, &self.figures), &state.watched) {
            (Rest::Done, _) | (Rest::Blocked(Some(_)), Watched::Bell) => true,
            (Rest::Until(at), Watched::Until(watched)) => *watched <= at,
            (Rest::Until(_) | Rest::Blocked(_), _) => false,
        };
        // Here, where all that it looks at has just been used: a timer of each viewer would cost more than the look.
        state.look(now, &self.outlet, &self.figures);
        if !is_seen {
            self.waits.notify_one();
        }
    }

    /// Sends what waits, as far as the network takes it.
    pub(crate) fn send(&self) -> Rest {
        let mut state = self.lock();
        let rest = state.send(Instant::now(), PART, &self.outlet, &self.figures);
        state.watched = match &rest {
            Rest::Until(at) => Watched::Until(*at),
            Rest::Blocked(Some(_)) => Watched::Bell,
            Rest::Done | Rest::Blocked(None) => Watched::Nothing,
        };
        rest
    }

    /// Returns when something waits. Cancel safe.
    pub(crate) async fn waits(&self) {
        self.waits.notified().await;
    }

    /// Where media goes from now on; none: nowhere for now.
    pub(crate) fn set_way(&self, way: Option<Way>) {
        let mut state = self.lock();
        if state.way != way {
            // What waits is for where it went.
            state.burst.finish(&self.outlet);
            state.way = way;
        }
    }

    /// How much the network takes, where that is less than there is.
    pub(crate) fn bits_per_second(&self) -> Option<u64> {
        self.lock().budget.bits_per_second()
    }

    /// What the peer says of what came, deciphered. Whether it wishes for a key frame.
    pub(crate) fn hear(&self, compound: &[u8]) -> bool {
        let messages: Vec<Message> = rtcp::messages(compound).map_while(Result::ok).collect();
        let now = Instant::now();
        let mut state = self.lock();
        let (mut wishes, mut asked) = (false, ASKED);
        for message in messages {
            match message {
                Message::Receiver(_, blocks) | Message::Sender(_, _, blocks) => {
                    blocks.iter().for_each(|block| state.hear_block(now, block));
                }
                Message::Wide(feedback) => {
                    let next = state.wide;
                    state.arrived.hear_wide(&feedback, next);
                }
                Message::Nack(nack) => state.send_again(now, &self.outlet, &nack, &mut asked),
                Message::WantKeyFrame => wishes = true,
                Message::Bye(_) | Message::Other(_) => {}
            }
        }
        wishes
    }

    /// Looks at what was heard where no unit gave occasion to. Returns when to see whether that is so again.
    pub(crate) fn look(&self) -> Instant {
        let mut state = self.lock();
        let now = Instant::now();
        if state.looked.is_none_or(|looked| now >= looked + LATE) {
            state.look(now, &self.outlet, &self.figures);
        }
        state.looked.unwrap_or(now) + LATE
    }

    /// Says that there is no more (RFC 3550 6.6).
    pub(crate) fn bye(&self) {
        let mut state = self.lock();
        let State { srtp, way, video, audio, burst, .. } = &mut *state;
        let Some(way) = *way else { return };
        for out in [video, audio].into_iter().flatten() {
            let mut bye = Vec::new();
            rtcp::write_bye(out.ssrc(), &mut bye);
            burst.put(&self.outlet, &way, bye.len() + srtp.rtcp_overhead(), |out| srtp.protect_rtcp(out, &bye));
        }
        burst.finish(&self.outlet);
    }
}

impl State {
    /// Sends what waits, at the most so many packets.
    fn send(&mut self, now: Instant, mut room: usize, outlet: &Outlet, figures: &SessionFigures) -> Rest {
        let left_out = self.backlog.thin(now);
        if left_out > 0 {
            figures.count_gap(left_out as u64);
        }
        let way = self.way.filter(|way| outlet.has_room(way.path));
        let Some(way) = way else {
            let bell = self.way.filter(|_| !self.backlog.is_empty()).map(|way| outlet.written(way.path));
            return if self.backlog.is_empty() { Rest::Done } else { Rest::Blocked(bell.flatten()) };
        };
        let rests = self.rests.filter(|until| now < *until);
        // Where the network is narrow sound goes first, and where it loses packets, too: what comes last of a burst is lost first.
        let is_wide = !self.loses && self.budget.bits_per_second().is_none();
        let (mut has_sound, mut sent) = (false, None);
        let (mut bytes_sent, mut frames_sent, mut is_blocked) = (0, 0, false);
        while room > 0 && !is_blocked {
            let allowed = rests.is_none() && self.budget.allows(now);
            let may_end_with_sound = is_wide && !has_sound && !way.path.tcp && outlet.goes_together();
            let ends_with_sound = may_end_with_sound && self.backlog.can_end_with_sound(room);
            let Some(mut waiting) = self.backlog.pop(allowed, ends_with_sound) else { break };
            let is_picture = waiting.unit.kind == Kind::Video;
            has_sound |= !is_picture;
            let out = if is_picture { &mut self.video } else { &mut self.audio };
            let Some(out) = out else { continue };
            let ticks = wrapped(waiting.pts.to_ticks(out.clock_hz()));
            let packets = waiting.packets();
            let mut next = waiting.next;
            for packet in packets.iter().skip(next) {
                if room == 0 || (is_picture && !self.budget.allows(now)) {
                    break;
                }
                let bytes = out.bytes_of(packet) + self.srtp.rtp_overhead();
                // What goes together must be of one size, but for the last of it, which may be shorter.
                let lacks = match is_picture {
                    _ if way.path.tcp => 0,
                    true if ends_with_sound && next + 1 == packets.len() => self.burst.lacks(outlet, &way, bytes),
                    true => 0,
                    false => {
                        let next = packets.iter().skip(next + 1).map(|packet| packet.payload.len());
                        let longest = next.chain([self.backlog.longest_sound()]).max().unwrap_or_default();
                        longest.saturating_sub(packet.payload.len())
                    }
                };
                let padding = u8::try_from(lacks).unwrap_or(0);
                let bytes = bytes + usize::from(padding);
                is_blocked = !self.burst.has_room(outlet, &way, bytes);
                if is_blocked {
                    break;
                }
                if next == 0 {
                    out.begin(now, &waiting.unit, ticks, waiting.shown);
                }
                let cut = out.cut(packet, padding, ticks, &mut self.wide);
                debug_assert_eq!(cut.bytes() + self.srtp.rtp_overhead(), bytes, "else it would not be written");
                self.burst.append(outlet, &way, bytes, |out| self.srtp.protect_rtp(out, &cut));
                room -= 1;
                next += 1;
                self.budget.spend(packet.payload.len() + usize::from(padding));
            }
            let is_over = next == packets.len();
            waiting.next = next;
            if !is_over {
                self.backlog.put_back(waiting);
                // Sound that was to go behind it does not wait for the rest of it.
                continue;
            }
            // Sounds that are one packet count as what they are.
            bytes_sent += waiting.unit.bytes as u64;
            frames_sent += waiting.unit.apart.len().max(1) as u64;
            sent = sent.max(Some(waiting.unit.pts));
        }
        // Once for all of it: what others read is elsewhere.
        if let Some(sent) = sent {
            figures.count(bytes_sent, frames_sent);
            figures.set_sent(sent);
        }
        if is_blocked || !self.burst.flush(outlet) {
            return Rest::Blocked(outlet.written(way.path));
        }
        match self.backlog.is_empty() {
            true => Rest::Done,
            false if room == 0 => Rest::Until(*self.rests.insert(now + REST)),
            false => Rest::Until(rests.unwrap_or_else(|| self.budget.again())),
        }
    }

    /// Looks, twice a second, at what was heard of how the network does, and says what has gone.
    fn look(&mut self, now: Instant, outlet: &Outlet, figures: &SessionFigures) {
        if self.looked.is_some_and(|looked| now < looked + LOOK) {
            return;
        }
        self.looked = Some(now);
        self.video.iter_mut().for_each(|out| out.forget(now));
        let was_free = self.budget.bits_per_second().is_none();
        let report = self.arrived.look();
        self.budget.handle_report(now, report);
        report.loss.into_iter().for_each(|loss| self.learn(loss));
        if self.told.is_none_or(|told| now >= told + TELL) {
            self.report(now, outlet);
        }
        if let Some(bits) = self.budget.bits_per_second().filter(|_| was_free) {
            let (stream, session) = (&figures.stream, figures.id);
            tracing::info!(%stream, session, bits, ?report, "a viewer's network takes less than the stream: pictures are left out");
        }
    }

    /// This part of the packets was lost.
    fn learn(&mut self, loss: f32) {
        let (few, many) = FEW;
        self.loses = loss > if self.loses { few } else { many };
    }

    fn hear_block(&mut self, now: Instant, block: &Block) {
        let of = |out: &&mut Out| out.ssrc() == block.ssrc;
        let pictures = self.video.as_mut().filter(of);
        let of_pictures = pictures.is_some();
        let Some(out) = pictures.or(self.audio.as_mut().filter(of)) else { return };
        out.know();
        if self.video.is_none() {
            // `Arrived` passes over what is said of sound: the budget is of pictures.
            self.learn(f32::from(block.fraction_lost) / 256.0);
        }
        self.arrived.hear_report(now, block, of_pictures);
    }

    /// Sends what is asked for again, as far as that is still here and was not asked for too often.
    fn send_again(&mut self, now: Instant, outlet: &Outlet, nack: &Nack, asked: &mut usize) {
        let Some(out) = self.video.as_mut().filter(|out| out.ssrc() == nack.ssrc) else { return };
        let Some(way) = self.way else { return };
        // The kernel takes nothing: it will be asked for once more.
        if !self.burst.flush(outlet) {
            return;
        }
        for sequence in nack.sequences() {
            if *asked == 0 || !outlet.has_room(way.path) {
                break;
            }
            *asked -= 1;
            let Some(cut) = out.again(now, sequence, &mut self.wide, &mut self.body) else { continue };
            let bytes = cut.bytes() + self.srtp.rtp_overhead();
            self.burst.put(outlet, &way, bytes, |out| self.srtp.protect_rtp(out, &cut));
            self.budget.spend(cut.body.len());
        }
        self.burst.finish(outlet);
    }

    /// Says what has gone, and which of it is shown now.
    fn report(&mut self, now: Instant, outlet: &Outlet) {
        let Some(way) = self.way else { return };
        if !self.burst.flush(outlet) {
            return;
        }
        let ntp = Ntp::of(SystemTime::now());
        for report in [&self.video, &self.audio].into_iter().flatten().filter_map(|out| out.report(now, ntp)) {
            self.told = Some(now);
            let bytes = report.len() + self.srtp.rtcp_overhead();
            self.burst.put(outlet, &way, bytes, |out| self.srtp.protect_rtcp(out, &report));
        }
        self.burst.finish(outlet);
        self.arrived.tell(now, ntp);
    }
}

/// The low 32 bits.
fn wrapped(ticks: i64) -> u32 {
    let [_, _, _, _, low @ ..] = ticks.to_be_bytes();
    u32::from_be_bytes(low)
}

#[cfg(test)]
pub(crate) mod tests;
