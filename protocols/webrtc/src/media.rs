//! The half of a player's session that sends: headers, ciphers, what waits, what is sent again, and how much the network takes. It is fed by the crew
//! of its stream, which goes through many viewers at a time, and told by the session's own task what was heard; that task also sends what could
//! not go at once.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use culvert_formats::rtp::rtcp::Ntp;
use culvert_hub::SessionFigures;
use culvert_media::Kind;
use str0m::rtp::rtcp::{Nack, ReceptionReport, Rtcp};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::arrived::{Arrived, FIRST};
use crate::backlog::Backlog;
use crate::budget::{Budget, Report};
use crate::burst::{Burst, Outlet, ROOM, Way};
use crate::feed::Unit;
use crate::out::Out;
use crate::srtp::Srtp;

/// It is told each so many looks what has gone: once a second.
const LOOKS: u64 = 2;

/// What sends. Locked for as long as a burst takes.
pub(crate) struct Media {
    state: Mutex<State>,
    outlet: Outlet,
    figures: Arc<SessionFigures>,
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
    /// The newest unit that it began with: what the crew has of these is known.
    begun: u64,
    budget: Budget,
    /// The number of the next packet, of all that go out.
    wide: u64,
    arrived: Arrived,
    looks: u64,
    burst: Burst,
    /// When the session's task looks again; none: it waits for the bell.
    watched: Option<Instant>,
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
    Blocked(Option<Arc<Notify>>),
}

impl Media {
    pub(crate) fn new(
        srtp: Srtp,
        outlet: Outlet,
        video: Option<Out>,
        audio: Option<Out>,
        figures: Arc<SessionFigures>,
    ) -> Media {
        let state = State {
            srtp,
            way: None,
            video,
            audio,
            backlog: Backlog::default(),
            begun: 0,
            budget: Budget::new(Instant::now()),
            wide: FIRST,
            arrived: Arrived::default(),
            looks: 0,
            burst: Burst::default(),
            watched: None,
            body: Vec::new(),
        };
        Media { state: Mutex::new(state), outlet, figures, waits: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it sends")
    }

    /// Begins with what is cached, of which `newest` is the number of the last. False: there was no picture.
    pub(crate) fn begin(&self, cached: Vec<Arc<Unit>>, newest: u64) -> bool {
        let mut state = self.lock();
        state.begun = newest;
        state.backlog.begin(Instant::now(), cached)
    }

    /// A unit of the stream: it goes at once, or waits.
    pub(crate) fn push(&self, now: Instant, unit: &Arc<Unit>) {
        let mut state = self.lock();
        if unit.number <= state.begun {
            return;
        }
        state.budget.want(unit.bytes);
        state.backlog.push(now, unit.clone());
        let is_seen = match state.send(now, &self.outlet, &self.figures) {
            Rest::Done => true,
            Rest::Until(at) => state.watched.is_some_and(|watched| watched <= at),
            Rest::Blocked(_) => false,
        };
        if !is_seen {
            self.waits.notify_one();
        }
    }

    /// Units were passed over: goes on at the next key frame.
    pub(crate) fn gap(&self) {
        let left_out = self.lock().backlog.wait();
        self.figures.count_gap(left_out as u64);
    }

    /// Sends what waits, as far as the network takes it.
    pub(crate) fn send(&self) -> Rest {
        let mut state = self.lock();
        let rest = state.send(Instant::now(), &self.outlet, &self.figures);
        state.watched = match &rest {
            Rest::Until(at) => Some(*at),
            Rest::Done | Rest::Blocked(_) => None,
        };
        rest
    }

    /// Returns when something waits. Cancel safe.
    pub(crate) async fn waits(&self) {
        self.waits.notified().await;
    }

    /// Where media goes from now on; none: nowhere for now.
    pub(crate) fn set_way(&self, way: Option<Way>) {
        self.lock().way = way;
    }

    /// How much the network takes, where that is less than there is.
    pub(crate) fn bits_per_second(&self) -> Option<u64> {
        self.lock().budget.bits_per_second()
    }

    /// What the peer says of what came.
    pub(crate) fn hear(&self, rtcp: Rtcp) {
        let now = Instant::now();
        let mut state = self.lock();
        #[allow(clippy::wildcard_enum_match_arm, reason = "the list is another crate's and grows")]
        match rtcp {
            Rtcp::ReceiverReport(report) => report.reports.iter().for_each(|block| state.hear_block(now, block)),
            Rtcp::SenderReport(report) => report.reports.iter().for_each(|block| state.hear_block(now, block)),
            Rtcp::Twcc(feedback) => {
                let next = state.wide;
                state.arrived.hear_wide(now, feedback, next);
            }
            Rtcp::Nack(nack) => state.send_again(now, &self.outlet, &nack),
            _ => {}
        }
    }

    /// Looks, twice a second, at what was heard of how the network does, and says what has gone. Returns what was learnt if the network takes less
    /// than there is, for the first time.
    pub(crate) fn look(&self) -> Option<(u64, Report)> {
        let now = Instant::now();
        let mut state = self.lock();
        let was_free = state.budget.bits_per_second().is_none();
        let report = state.arrived.look();
        state.budget.handle_report(now, report);
        if state.looks.is_multiple_of(LOOKS) {
            state.report(now, &self.outlet);
        }
        state.looks += 1;
        state.budget.bits_per_second().filter(|_| was_free).map(|bits| (bits, report))
    }
}

impl State {
    fn send(&mut self, now: Instant, outlet: &Outlet, figures: &SessionFigures) -> Rest {
        let left_out = self.backlog.thin(now);
        if left_out > 0 {
            figures.count_gap(left_out as u64);
        }
        let mut room = ROOM;
        while !self.backlog.is_empty() {
            let Some(way) = self.way else { return Rest::Blocked(None) };
            if room == ROOM && !outlet.has_room(way.path) {
                return Rest::Blocked(outlet.written(way.path));
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
                let bytes = cut.bytes() + self.srtp.rtp_overhead();
                self.burst.put(outlet, way, bytes, |out| self.srtp.protect_rtp(out, &cut));
                room -= 1;
                waiting.next += 1;
                self.budget.spend(packet.payload.len());
            }
            if waiting.next < unit.packets.len() {
                self.backlog.put_back(waiting);
                break;
            }
            figures.count(unit.bytes as u64, 1);
            figures.set_sent(unit.pts);
        }
        self.burst.flush(outlet);
        match self.backlog.is_empty() {
            true => Rest::Done,
            false if room == 0 => Rest::Until(now),
            false => Rest::Until(self.budget.again()),
        }
    }

    fn hear_block(&mut self, now: Instant, block: &ReceptionReport) {
        let of = |out: &&mut Out| out.ssrc() == *block.ssrc;
        let pictures = self.video.as_mut().filter(of);
        let of_pictures = pictures.is_some();
        let Some(out) = pictures.or(self.audio.as_mut().filter(of)) else { return };
        out.know();
        self.arrived.hear_report(now, block, of_pictures);
    }

    /// Sends what is asked for again, as far as that is still here and was not asked for too often.
    fn send_again(&mut self, now: Instant, outlet: &Outlet, nack: &Nack) {
        let Some(out) = self.video.as_mut().filter(|out| out.ssrc() == *nack.ssrc) else { return };
        let Some(way) = self.way else { return };
        for entry in &nack.reports {
            let others = (0..16).filter(|bit| entry.blp >> bit & 1 == 1).map(|bit| entry.pid.wrapping_add(bit + 1));
            for sequence in std::iter::once(entry.pid).chain(others) {
                if !outlet.has_room(way.path) {
                    return;
                }
                let Some(cut) = out.again(now, sequence, &mut self.wide, &mut self.body) else { continue };
                let bytes = cut.bytes() + self.srtp.rtp_overhead();
                self.burst.put(outlet, way, bytes, |out| self.srtp.protect_rtp(out, &cut));
                self.budget.spend(cut.body.len());
            }
        }
        self.burst.flush(outlet);
    }

    /// Says what has gone, and which of it is shown now.
    fn report(&mut self, now: Instant, outlet: &Outlet) {
        let Some(way) = self.way else { return };
        let ntp = Ntp::of(SystemTime::now());
        let reports = [&self.video, &self.audio].into_iter().flatten().filter_map(|out| out.report(now, ntp));
        for report in reports {
            let bytes = report.len() + self.srtp.rtcp_overhead();
            self.burst.put(outlet, way, bytes, |out| self.srtp.protect_rtcp(out, &report));
        }
        self.burst.flush(outlet);
        self.arrived.tell(now, ntp);
    }
}

/// The low 32 bits.
fn wrapped(ticks: i64) -> u32 {
    let [_, _, _, _, low @ ..] = ticks.to_be_bytes();
    u32::from_be_bytes(low)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use culvert_formats::rtp::{Packet, is_rtcp};
    use culvert_hub::{Hub, HubLimits, Identity, Source};
    use str0m::crypto::dtls::SrtpProfile;
    use str0m::crypto::from_feature_flags;
    use str0m::rtp::rtcp::NackEntry;

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

    fn numbered(number: u64, packets: usize) -> Arc<Unit> {
        let mut unit = Arc::try_unwrap(unit(packets)).unwrap();
        (unit.number, unit.key) = (number, true);
        Arc::new(unit)
    }

    #[tokio::test]
    async fn what_waits_goes_once_it_is_known_where_and_each_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let udp = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        // The runtime hears of it when it rests.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let crypto = from_feature_flags();
        let agreed = Agreed { profile: SrtpProfile::AEAD_AES_128_GCM, material: vec![5; 56], is_active: false };
        let srtp = Srtp::new(&crypto, &agreed).unwrap();
        let hub = Hub::new(HubLimits::default());
        let source = Source { protocol: "webrtc", remote: socket.local_addr().unwrap() };
        let publisher = hub.publish(&"live/a".parse().unwrap(), source, Identity::anonymous()).unwrap();
        let figures = publisher.session().figures().clone();
        let media = Media::new(srtp, Outlet::new(Some(udp), Routes::default()), Some(out(10)), None, figures.clone());
        assert!(media.begin(vec![numbered(4, 2), numbered(5, 1)], 5));
        let now = Instant::now();
        // The crew is behind what it began with; and then a unit that it did not have.
        (3..=6).for_each(|number| media.push(now, &numbered(number, 1)));
        media.waits().await;
        assert!(matches!(media.send(), Rest::Blocked(None)) && next(&socket).is_none());
        let way = Way { path: Path { tcp: false, peer: socket.local_addr().unwrap() }, from: None };
        media.set_way(Some(way));
        assert!(matches!(media.send(), Rest::Done));
        let sent: Vec<_> = std::iter::from_fn(|| next(&socket)).collect();
        // A header of 12 bytes, extensions of 16, a tag of 16, and what the packet has.
        let seen: Vec<_> = sent.iter().map(|(sequence, length, _)| (*sequence, *length - 44)).collect();
        assert_eq!(seen, [(10, 1), (11, 2), (12, 1), (13, 1)]);
        assert_eq!(figures.frames(), 3);
        let asked = |pid, blp| Nack { sender_ssrc: 1.into(), ssrc: 7.into(), reports: NackEntry { pid, blp }.into() };
        media.hear(Rtcp::Nack(asked(11, 0b10)));
        media.hear(Rtcp::Nack(Nack { ssrc: 8.into(), ..asked(12, 0) }));
        // Its own number and SSRC, and the old number in front of the payload.
        let again: Vec<_> = std::iter::from_fn(|| next(&socket)).collect();
        assert_eq!(
            again.iter().map(|(sequence, length, _)| (*sequence, *length - 44)).collect::<Vec<_>>(),
            [(5, 4), (6, 3)]
        );
        assert!(again.iter().all(|(.., bytes)| bytes[1] & 0x7f == 97 && bytes[11] == 8));
        assert!(media.look().is_none());
        let (_, length, report) = next(&socket).unwrap();
        assert!(is_rtcp(&report) && length > 28 + 20 && next(&socket).is_none());
        assert!(media.look().is_none() && next(&socket).is_none(), "once a second");
    }
}
