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
use crate::feed::Unit;
use crate::out::Out;
use crate::srtp::Srtp;

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

struct State {
    srtp: Srtp,
    /// Where media may go; none while it is not known whether somebody is there.
    way: Option<Way>,
    video: Option<Out>,
    audio: Option<Out>,
    backlog: Backlog,
    /// The newest unit that was seen.
    newest: u64,
    budget: Budget,
    /// The number of the next packet, of all that go out.
    wide: u64,
    arrived: Arrived,
    /// What waited has gone in part, and until then no more of it goes.
    rests: Option<Instant>,
    /// Packets are lost: each sound goes by itself, and first.
    loses: bool,
    looked: Option<Instant>,
    told: Option<Instant>,
    burst: Burst,
    /// When the session's task goes on with what waits.
    watched: Watched,
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
            burst.put(&self.outlet, way, bye.len() + srtp.rtcp_overhead(), |out| srtp.protect_rtcp(out, &bye));
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
        while room > 0 {
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
            let (mut next, mut is_blocked) = (waiting.next, false);
            for packet in packets.iter().skip(next) {
                if room == 0 || (is_picture && !self.budget.allows(now)) {
                    break;
                }
                let bytes = out.bytes_of(packet) + self.srtp.rtp_overhead();
                // What goes together must be of one size, but for the last of it, which may be shorter.
                let lacks = match is_picture {
                    _ if way.path.tcp => 0,
                    true if ends_with_sound && next + 1 == packets.len() => self.burst.lacks(outlet, way, bytes),
                    true => 0,
                    false => {
                        let next = packets.iter().skip(next + 1).map(|packet| packet.payload.len());
                        let longest = next.chain([self.backlog.longest_sound()]).max().unwrap_or_default();
                        longest.saturating_sub(packet.payload.len())
                    }
                };
                let padding = u8::try_from(lacks).unwrap_or(0);
                let bytes = bytes + usize::from(padding);
                is_blocked = !self.burst.has_room(outlet, way, bytes);
                if is_blocked {
                    break;
                }
                if next == 0 {
                    out.begin(now, &waiting.unit, ticks, waiting.shown);
                }
                let cut = out.cut(packet, padding, ticks, &mut self.wide);
                self.burst.append(outlet, way, bytes, |out| self.srtp.protect_rtp(out, &cut));
                room -= 1;
                next += 1;
                self.budget.spend(packet.payload.len() + usize::from(padding));
            }
            let is_over = next == packets.len();
            waiting.next = next;
            if !is_over {
                self.backlog.put_back(waiting);
                if is_blocked {
                    return Rest::Blocked(outlet.written(way.path));
                }
                // Sound that was to go behind it does not wait for the rest of it.
                continue;
            }
            // Sounds that are one packet count as what they are.
            figures.count(waiting.unit.bytes as u64, waiting.unit.apart.len().max(1) as u64);
            sent = sent.max(Some(waiting.unit.pts));
            sent.into_iter().for_each(|sent| figures.set_sent(sent));
        }
        if !self.burst.flush(outlet) {
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
            // The budget is of no use to sound alone.
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
            self.burst.put(outlet, way, bytes, |out| self.srtp.protect_rtp(out, &cut));
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
            self.burst.put(outlet, way, bytes, |out| self.srtp.protect_rtcp(out, &report));
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
pub(crate) mod tests {
    use std::io::IoSliceMut;
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;

    use culvert_formats::rtp::{Packet, is_rtcp};
    use culvert_hub::{Hub, HubLimits, Identity, Source};
    use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
    use str0m::crypto::dtls::SrtpProfile;
    use str0m::crypto::from_feature_flags;
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::keys::Agreed;
    use crate::out::tests::{out, unit};
    use crate::routes::{Path, Routes};
    use crate::udp::Udp;

    /// The next datagram: sequence number, and bytes.
    fn next(socket: &UdpSocket) -> Option<(u16, usize, Vec<u8>)> {
        let mut bytes = [0; 2048];
        let length = socket.recv(&mut bytes).ok()?;
        Some((Packet::parse(&bytes[..length]).unwrap().sequence, length, bytes[..length].to_vec()))
    }

    pub(crate) fn numbered(number: u64, packets: usize) -> Arc<Unit> {
        let mut unit = Arc::try_unwrap(unit(packets)).unwrap();
        (unit.number, unit.key) = (number, true);
        Arc::new(unit)
    }

    /// Of so many bytes.
    pub(crate) fn sound(number: u64, bytes: usize) -> Arc<Unit> {
        let mut unit = Arc::try_unwrap(unit(bytes)).unwrap();
        unit.packets.drain(..bytes - 1);
        (unit.number, unit.kind, unit.bytes) = (number, Kind::Audio, bytes);
        Arc::new(unit)
    }

    /// What sends pictures, and sound as SSRC 9, to this address.
    pub(crate) async fn to(peer: SocketAddr) -> (Media, Udp, Arc<SessionFigures>) {
        let udp = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        udp.turn().await;
        let crypto = from_feature_flags();
        let agreed = Agreed { profile: SrtpProfile::AEAD_AES_128_GCM, material: vec![5; 56], is_active: false };
        let (srtp, _) = Srtp::new(&crypto, &agreed).unwrap();
        let hub = Hub::new(HubLimits::default());
        let source = Source { protocol: "webrtc", remote: peer };
        let publisher = hub.publish(&"live/a".parse().unwrap(), source, Identity::anonymous()).unwrap();
        let figures = publisher.session().figures().clone();
        let outlet = Outlet::new(Some(udp.clone()), Routes::default());
        let media = Media::new(srtp, outlet, Some(out(10)), Some(out(5)), figures.clone());
        (media, udp, figures)
    }

    pub(crate) fn way(peer: SocketAddr) -> Way {
        Way { path: Path { tcp: false, peer }, from: None }
    }

    #[tokio::test]
    async fn sounds_that_come_with_a_picture_go_before_it_and_together() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // One that is told what was sent at once.
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
        socket.set_nonblocking(false).unwrap();
        let peer = socket.local_addr().unwrap();
        let (media, ..) = to(peer).await;
        media.set_way(Some(way(peer)));
        assert!(!media.begin(Vec::new(), 0));
        media.push(&[sound(1, 10), numbered(2, 2), sound(3, 30), sound(4, 20)]);
        let next = || {
            let (mut bytes, mut meta) = ([0; 4096], [RecvMeta::default()]);
            state.recv(UdpSockRef::from(&socket), &mut [IoSliceMut::new(&mut bytes)], &mut meta).unwrap();
            bytes[..meta[0].len].chunks(meta[0].stride).map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        // Headers of 28 bytes, tags of 16. The first is as long as the second, of which it says the rest to be padding; the third is shorter.
        let sounds = next();
        let seen: Vec<_> = sounds.iter().map(|packet| (packet[0], packet[3], packet.len() - 44)).collect();
        assert_eq!(seen, [(0xb0, 5, 30), (0x90, 6, 30), (0x90, 7, 20)]);
        let pictures: Vec<_> = [next(), next()].concat().iter().map(|packet| (packet[0], packet[3])).collect();
        assert_eq!(pictures, [(0x90, 10), (0x90, 11)]);
        // One by itself is as it comes.
        media.push(&[sound(5, 12)]);
        let alone = std::iter::from_fn(|| Some(next())).find(|packets| !is_rtcp(&packets[0])).unwrap();
        assert_eq!(alone.iter().map(|packet| (packet[0], packet.len() - 44)).collect::<Vec<_>>(), [(0x90, 12)]);
    }

    /// Of packets of so many bytes each.
    fn picture(number: u64, packets: &[usize]) -> Arc<Unit> {
        let packet = |(at, bytes): (usize, &usize)| crate::feed::Packet {
            payload: vec![at as u8; *bytes].into(),
            marker: at + 1 == packets.len(),
            ticks: 0,
        };
        let mut unit = Arc::try_unwrap(numbered(number, 1)).unwrap();
        unit.packets = packets.iter().enumerate().map(packet).collect();
        Arc::new(unit)
    }

    /// Two sounds of 40 ms, of 12 bytes as one packet, and of 5 and 7 by themselves.
    fn joined(number: u64) -> Arc<Unit> {
        let mut unit = Arc::try_unwrap(sound(number, 12)).unwrap();
        let packet = |bytes, ticks| crate::feed::Packet { payload: vec![9; bytes].into(), marker: false, ticks };
        (unit.apart, unit.lasts) = (vec![packet(5, 0), packet(7, 960)], Time::from_millis(40));
        Arc::new(unit)
    }

    #[tokio::test(start_paused = true)]
    async fn one_packet_of_sound_goes_as_the_last_of_a_pictures() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
        let peer = socket.local_addr().unwrap();
        let (mut media, ..) = to(peer).await;
        media.lock().audio.as_mut().unwrap().next_is(500);
        // The name of its media is not in a packet any more, as after the first report.
        media.lock().video.iter_mut().for_each(Out::know);
        media.lock().audio.iter_mut().for_each(Out::know);
        media.set_way(Some(way(peer)));
        media.begin(Vec::new(), 0);
        // What was given to the kernel at once: of each packet whether it is padded, its number, and what it has.
        let sends = || {
            let mut all = Vec::new();
            loop {
                let (mut bytes, mut meta) = (vec![0; 1 << 16], [RecvMeta::default()]);
                if state.recv(UdpSockRef::from(&socket), &mut [IoSliceMut::new(&mut bytes)], &mut meta).is_err() {
                    return all;
                }
                let packets = bytes[..meta[0].len].chunks(meta[0].stride);
                let packets = packets.filter(|packet| !is_rtcp(packet));
                let seen = |packet: &[u8]| {
                    (packet[0] & 0x20 != 0, u16::from_be_bytes([packet[2], packet[3]]), packet.len() - 40)
                };
                let packets: Vec<_> = packets.map(seen).collect();
                if !packets.is_empty() {
                    all.push(packets);
                }
            }
        };
        media.push(&[joined(1), picture(2, &[40, 40, 37])]);
        assert_eq!(sends(), [[(false, 10, 40), (false, 11, 40), (true, 12, 40), (false, 500, 12)]]);
        media.push(&[joined(3), picture(4, &[40])]);
        assert_eq!(sends(), [[(false, 13, 40), (false, 501, 12)]]);
        // To lengthen the last would cost more than it is worth; and a picture by itself is not made longer.
        media.push(&[joined(5), picture(6, &[140, 60])]);
        assert_eq!(sends(), [vec![(false, 502, 12)], vec![(false, 14, 140), (false, 15, 60)]]);
        media.push(&[picture(7, &[40, 37])]);
        assert_eq!(sends(), [[(false, 16, 40), (false, 17, 37)]]);
        // Who cannot have all of a picture at once has sound all the same.
        media.push(&[joined(8), picture(9, &[1000; 70])]);
        let now: Vec<_> = sends().concat();
        assert!((40..70).contains(&now.len()) && now.last() == Some(&(false, 503, 12)), "{now:?}");
        advance(Duration::from_millis(10)).await;
        assert!(matches!(media.send(), Rest::Done));
        assert_eq!(now.len() + sends().concat().len(), 71);
        // Who takes no packets of 40 ms, and who loses some.
        media.longest = Time::from_millis(20);
        media.push(&[joined(10), picture(11, &[40])]);
        assert_eq!(sends(), [vec![(true, 504, 7), (false, 505, 7)], vec![(false, 88, 40)]]);
        media.longest = Time::from_millis(40);
        // A report on the pictures; of 256 packets so many.
        let report = |lost: u8| {
            let block = [0, 0, 0, 7, lost, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            media.hear(&[&[0x81, 201, 0, 7, 0, 0, 0, 1][..], &block].concat());
            media.lock().looked = None;
            media.look();
        };
        report(2);
        media.push(&[joined(12), picture(13, &[40])]);
        assert_eq!(sends(), [[(false, 89, 40), (false, 506, 12)]]);
        report(3);
        media.push(&[joined(14), picture(15, &[40])]);
        assert_eq!(sends(), [vec![(true, 507, 7), (false, 508, 7)], vec![(false, 90, 40)]]);
        report(2);
        media.push(&[sound(16, 12), picture(17, &[40])]);
        assert_eq!(sends(), [[(false, 509, 12)], [(false, 91, 40)]], "still");
        report(1);
        media.push(&[joined(18), picture(19, &[40])]);
        assert_eq!(sends(), [[(false, 92, 40), (false, 510, 12)]]);
        // A picture that is shorter than sound is the last behind it.
        media.push(&[joined(20), picture(21, &[9])]);
        assert_eq!(sends(), [[(false, 511, 12), (false, 93, 9)]]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_viewer_begins_with_goes_by_and_by_and_a_live_picture_at_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
        let peer = socket.local_addr().unwrap();
        let (media, ..) = to(peer).await;
        media.set_way(Some(way(peer)));
        assert!(media.begin(vec![numbered(1, 100), numbered(2, 50)], 2));
        let came = || std::iter::from_fn(|| next(&socket)).filter(|(.., bytes)| !is_rtcp(bytes)).count();
        let Rest::Until(at) = media.send() else { panic!("there is more") };
        assert_eq!((at - Instant::now(), came()), (REST, 64));
        advance(REST / 2).await;
        assert!(matches!(media.send(), Rest::Until(rests) if rests == at), "whoever asks");
        media.push(&[sound(3, 10)]);
        assert_eq!(came(), 1, "sound waits for nothing");
        advance(REST / 2).await;
        assert!(matches!(media.send(), Rest::Until(rests) if rests == at + REST));
        assert_eq!(came(), 64);
        advance(REST).await;
        assert!(matches!(media.send(), Rest::Done));
        assert_eq!(came(), 22);
        media.push(&[numbered(4, 80)]);
        assert_eq!(came(), 80);
        media.push(&[sound(5, 10), numbered(6, 80)]);
        assert_eq!(came(), 81);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_goes_once_it_is_known_where_and_each_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
        let (media, udp, figures) = to(socket.local_addr().unwrap()).await;
        assert!(media.begin(vec![numbered(4, 2), numbered(5, 1)], 5));
        // The crew is behind what it began with; and then a unit that it did not have.
        media.push(&(3..=6).map(|number| numbered(number, 1)).collect::<Vec<_>>());
        media.waits().await;
        assert!(matches!(media.send(), Rest::Blocked(None)) && next(&socket).is_none());
        media.set_way(Some(way(socket.local_addr().unwrap())));
        assert!(matches!(media.send(), Rest::Done));
        let sent: Vec<_> = std::iter::from_fn(|| next(&socket)).collect();
        // A header of 12 bytes, extensions of 16, a tag of 16, and what the packet has.
        let seen: Vec<_> = sent.iter().map(|(sequence, length, _)| (*sequence, *length - 44)).collect();
        assert_eq!(seen, [(10, 1), (11, 2), (12, 1), (13, 1)]);
        assert_eq!(figures.frames(), 3);
        // A packet and the second one behind it; of an SSRC that is not ours; a key frame.
        let nack = |ssrc, low, others| [0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, ssrc, 0, low, 0, others];
        let compound = [&nack(7, 11, 0b10)[..], &nack(8, 12, 0), &[0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 7]].concat();
        assert!(media.hear(&compound) && !media.hear(&nack(8, 1, 1)));
        // Its own number and SSRC, and the old number in front of the payload.
        let again: Vec<_> = std::iter::from_fn(|| next(&socket)).collect();
        assert_eq!(
            again.iter().map(|(sequence, length, _)| (*sequence, *length - 44)).collect::<Vec<_>>(),
            [(5, 4), (6, 3)]
        );
        assert!(again.iter().all(|(.., bytes)| bytes[1] & 0x7f == 97 && bytes[11] == 8));
        advance(LATE).await;
        media.look();
        let (_, length, report) = next(&socket).unwrap();
        assert!(is_rtcp(&report) && length > 28 + 20 && next(&socket).is_none());
        media.look();
        assert!(next(&socket).is_none(), "once a second");
        // Others were passed over: the next that goes is a key frame.
        let mut delta = Arc::try_unwrap(numbered(9, 1)).unwrap();
        delta.key = false;
        media.push(&[Arc::new(delta)]);
        assert!(next(&socket).is_none() && figures.gaps() == (1, 2));
        media.push(&[numbered(10, 1)]);
        assert_eq!(next(&socket).map(|(sequence, ..)| sequence), Some(14));
        // The kernel takes nothing for a while: all of it waits, and what comes meanwhile behind it.
        udp.refuse(2);
        media.push(&[numbered(11, 3)]);
        media.waits().await;
        let Rest::Blocked(Some(bell)) = media.send() else { panic!("it is to wait") };
        media.push(&[numbered(12, 1)]);
        assert!(next(&socket).is_none());
        let turn = bell.rung().await;
        assert!(timeout(Duration::from_millis(1), udp.turn()).await.is_err(), "one at a time");
        assert!(turn.is_some() && matches!(media.send(), Rest::Done));
        drop(turn);
        udp.turn().await;
        let sent: Vec<_> = std::iter::from_fn(|| next(&socket)).filter(|(.., bytes)| !is_rtcp(bytes)).collect();
        assert_eq!(sent.iter().map(|(sequence, ..)| *sequence).collect::<Vec<_>>(), [15, 16, 17, 18]);
        media.bye();
        assert!(next(&socket).is_some_and(|(.., bytes)| is_rtcp(&bytes)));
    }
}
