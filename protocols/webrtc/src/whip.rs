//! Publishers: an answer to an offer, and a task that receives.

use std::time::{Duration, Instant as Moment};

use bytes::BytesMut;
use culvert_formats::Event as Received;
use culvert_formats::rtp::rtcp::{self, Ntp, SenderInfo};
use culvert_formats::rtp::{Format, Media, Packet, Receiver};
use culvert_hub::{End, Hub, Publisher, Wish};
use culvert_media::{Audio, Codec, Kind};
use str0m::media::KeyframeRequestKind;
use str0m::rtp::{RtpPacket, Ssrc};
use str0m::{Event, IceConnectionState};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::crowd::Place;
use crate::link::Link;
use crate::offer::Offer;
use crate::whep::{CONNECT, Ended, FIND, Line};

/// Browsers make key frames when they are asked for them, and otherwise hardly ever; so that whoever comes later can begin, they are asked so often.
const KEY_FRAMES: Duration = Duration::from_millis(2000);
/// A loss asks for one, too, but not more often than so.
const ASK: Duration = Duration::from_millis(500);
/// How often layers of a simulcast are compared.
const COMPARE: Duration = Duration::from_secs(1);
/// How long a packet is waited for that was asked for again.
const PATIENCE: Duration = Duration::from_millis(500);
/// Whom a report is from.
const CNAME: &str = "whip";

/// What is taken, the most useful first: what everybody can play.
const VIDEO: [Codec; 5] = [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp9, Codec::Vp8];
const AUDIO: [Codec; 3] = [Codec::Opus, Codec::G711A, Codec::G711U];

/// What is taken of an offer. Empty: nothing in it can be.
pub(crate) fn lines(offer: &Offer) -> Vec<Line> {
    let first = |kind: Kind, codecs: &[Codec]| {
        let found = codecs.iter().find_map(|codec| Some((*codec, offer.first(kind, *codec)?)));
        found.map(|(codec, chosen)| Line { kind, codec, chosen })
    };
    [first(Kind::Video, &VIDEO), first(Kind::Audio, &AUDIO)].into_iter().flatten().collect()
}

/// How a line is received.
fn media(line: &Line) -> Media {
    let format = match line.codec {
        Codec::H264 => Format::H264,
        Codec::H265 => Format::H265,
        Codec::Av1 => Format::Av1,
        Codec::Vp8 => Format::Vp8,
        Codec::Vp9 => Format::Vp9,
        Codec::Opus | Codec::G711A | Codec::G711U | Codec::Aac | Codec::Mp3 | Codec::Flac => Format::Whole(line.codec),
    };
    let channels = line.chosen.channels.unwrap_or(1);
    let sound = Audio { sample_rate_hz: line.chosen.clock_hz, channels };
    let audio = (line.kind == Kind::Audio).then_some(sound);
    Media { format, clock_hz: line.chosen.clock_hz, config: None, audio, payload_type: None }
}

/// One who brings a stream.
pub(crate) struct Source {
    pub(crate) link: Link,
    pub(crate) publisher: Publisher,
    pub(crate) lines: Vec<Line>,
    pub(crate) closed: CancellationToken,
    pub(crate) waiting: Option<Place>,
    /// How long it may bring nothing.
    pub(crate) silence: Duration,
}

/// What goes on while it runs.
struct Run<'a> {
    source: &'a mut Source,
    receiver: Receiver,
    /// Whose packets are the pictures: of several layers, the best.
    layers: Layers,
    reported: Vec<Option<std::time::SystemTime>>,
    is_connected: bool,
    heard: Instant,
    asked: Option<Instant>,
    key: Option<Instant>,
    events: Vec<Event>,
}

/// The layers of a simulcast: the one that has the most bytes is taken.
#[derive(Debug, Default)]
struct Layers {
    counts: Vec<(Ssrc, usize)>,
    taken: Option<Ssrc>,
    compared: Option<Instant>,
}

impl Layers {
    /// Whether this packet is of the layer that is taken, and whether that is another than before.
    fn take(&mut self, ssrc: Ssrc, bytes: usize, now: Instant) -> (bool, bool) {
        let known = self.counts.len();
        match self.counts.iter_mut().find(|(known, _)| *known == ssrc) {
            Some((_, count)) => *count += bytes,
            // More than any simulcast has: somebody plays with numbers.
            None if known >= 16 => return (false, false),
            None => self.counts.push((ssrc, bytes)),
        }
        let before = *self.taken.get_or_insert(ssrc);
        let compared = *self.compared.get_or_insert(now);
        if now.saturating_duration_since(compared) >= COMPARE {
            self.compared = Some(now);
            let count =
                |ssrc: Ssrc| self.counts.iter().find(|(known, _)| *known == ssrc).map_or(0, |(_, count)| *count);
            if let Some((best, most)) = self.counts.iter().copied().max_by_key(|(_, count)| *count)
                && most > count(before) + count(before) / 2
            {
                self.taken = Some(best);
            }
            self.counts.iter_mut().for_each(|(_, count)| *count = 0);
        }
        (self.taken == Some(ssrc), self.taken != Some(before))
    }
}

impl Source {
    /// Receives until one of both goes.
    pub(crate) async fn run(mut self, hub: Hub) {
        let receiver = Receiver::new(Moment::now(), self.lines.iter().map(media).collect());
        // What is lost is asked for again, and comes a round trip later (security.md S21: 500 ms).
        let receiver = receiver.with_patience(PATIENCE);
        let run = Run {
            receiver,
            layers: Layers::default(),
            reported: vec![None; self.lines.len()],
            is_connected: false,
            heard: Instant::now(),
            asked: None,
            key: None,
            events: Vec::new(),
            source: &mut self,
        };
        let (why, end) = match run.run(&hub).await {
            Ended::Rtc(why) => (why.to_string(), End::Lost),
            Ended::Lost(why) => (why.to_string(), End::Lost),
            Ended::Closed(why) => (why.to_string(), End::Finished),
            Ended::Over(_) => ("another publisher took over, or the stream was closed".into(), End::Closed),
        };
        tracing::info!(stream = %self.publisher.name(), why, "WebRTC publisher left");
        self.link.close();
        self.publisher.finish(end);
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
        loop {
            self.pass_on()?;
            let now = Instant::now();
            if self.is_connected && self.key.is_some_and(|key| now >= key + KEY_FRAMES) {
                self.want_key_frame(now);
            }
            let due = self.settle()?;
            let now = Instant::now();
            if self.is_connected {
                if now >= self.heard + self.source.silence {
                    return Err(Ended::Lost("it sent nothing any more"));
                }
            } else if now >= if self.source.link.is_found() { deadline } else { unfound } {
                return Err(Ended::unconnected(&self.source.link));
            }
            self.source.link.flush();
            let waiting = self.receiver.poll_timeout().map(Instant::from_std);
            let key = self.key.filter(|_| self.is_connected).map(|key| key + KEY_FRAMES);
            let limit = match (self.is_connected, self.source.link.is_found()) {
                (true, _) => self.heard + self.source.silence,
                (false, true) => deadline,
                (false, false) => unfound,
            };
            let wake = [Some(due), waiting, key, Some(limit)].into_iter().flatten().min().unwrap_or(due);
            let Source { link, publisher, closed, .. } = &mut *self.source;
            tokio::select! {
                heard = link.hear() => match heard {
                    // Its agent keeps all to itself.
                    Some(heard) => drop(link.handle(heard)),
                    None => return Err(Ended::Lost("its entry is gone")),
                },
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    self.receiver.handle_timeout(now.into_std());
                    if due <= now {
                        self.source.link.tick()?;
                    }
                }
                wish = publisher.wish() => if wish == Wish::KeyFrame { self.want_key_frame(Instant::now()) },
                () = publisher.cancelled() => return Ok(Ended::Over(crate::feed::Over::Ended)),
                () = closed.cancelled() => return Ok(Ended::Closed("it said goodbye")),
                () = hub.draining() => return Ok(Ended::Closed("this node is shutting down")),
            }
        }
    }

    fn settle(&mut self) -> Result<Instant, Ended> {
        loop {
            let due = self.source.link.drain(&mut self.events)?;
            if !self.source.link.rtc.is_alive() {
                return Err(Ended::Closed("it closed the connection"));
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
            Event::Connected => {
                self.is_connected = true;
                self.source.link.prove();
                self.source.waiting.take();
                self.heard = Instant::now();
                tracing::debug!(stream = %self.source.publisher.name(), "a WebRTC publisher is connected");
            }
            Event::RtpPacket(packet) => self.packet(packet),
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                return Err(Ended::Lost("it has not been heard any more"));
            }
            Event::Closed => return Err(Ended::Closed("it said goodbye")),
            _ => {}
        }
        Ok(())
    }

    fn packet(&mut self, packet: RtpPacket) {
        let kind = *packet.header.payload_type;
        let by_type = |line: &Line| *line.chosen.payload_type == kind;
        let Some(at) = self.source.lines.iter().position(by_type) else { return };
        let now = Instant::now();
        self.heard = now;
        let ssrc = packet.header.ssrc;
        if self.source.lines.get(at).is_some_and(|line| line.kind == Kind::Video) {
            let (is_taken, is_other) = self.layers.take(ssrc, packet.payload.len(), now);
            if is_other {
                self.source.publisher.gap();
                self.want_key_frame(now);
            }
            if !is_taken {
                return;
            }
            self.key.get_or_insert(now);
        }
        let own = Packet {
            marker: packet.header.marker,
            payload_type: kind,
            sequence: packet.header.sequence_number,
            timestamp: packet.header.timestamp,
            ssrc: *ssrc,
            payload: &[],
        };
        let mut bytes = BytesMut::with_capacity(12 + packet.payload.len());
        bytes.extend_from_slice(&own.header());
        bytes.extend_from_slice(&packet.payload);
        self.report(at, &packet);
        // What is broken is counted there, and is the sender's business.
        self.receiver.handle_rtp(now.into_std(), at, bytes.freeze(), false).ok();
    }

    /// What the sender says of its clocks, once for each report: it puts sound beside pictures.
    fn report(&mut self, at: usize, packet: &RtpPacket) {
        let Some(info) = &packet.last_sender_info else { return };
        let Some(reported) = self.reported.get_mut(at) else { return };
        if reported.replace(info.ntp_time) == Some(info.ntp_time) {
            return;
        }
        let info = SenderInfo {
            ntp: Ntp::of(info.ntp_time),
            timestamp: info.rtp_time.numer() as u32,
            packets: info.sender_packet_count,
            octets: info.sender_octet_count,
        };
        let mut bytes = Vec::new();
        rtcp::write_sender(*packet.header.ssrc, &info, CNAME, &mut bytes);
        self.receiver.handle_rtcp(Moment::now(), at, &bytes);
    }

    fn want_key_frame(&mut self, now: Instant) {
        if let Some(asked) = self.asked.filter(|asked| now < *asked + ASK) {
            // It is asked for as soon as it may be.
            self.key = self.key.map(|_| asked + ASK - KEY_FRAMES);
            return;
        }
        self.key = self.key.map(|_| now);
        self.asked = Some(now);
        let stream = self.layers.taken;
        if let Some(ssrc) = stream
            && let Some(stream) = self.source.link.rtc.direct_api().stream_rx(&ssrc)
        {
            stream.request_keyframe(KeyframeRequestKind::Pli);
        }
    }

    /// Frames to the hub.
    fn pass_on(&mut self) -> Result<(), Ended> {
        let mut torn = false;
        while let Some(event) = self.receiver.poll_event() {
            let publisher = &self.source.publisher;
            match event {
                Received::Tracks(tracks) => publisher.set_tracks(tracks),
                Received::Frame(frame) => {
                    if frame.key
                        && self.source.lines.first().is_some_and(|line| line.kind == Kind::Video)
                        && frame.track.0 == 0
                    {
                        self.key = Some(Instant::now());
                    }
                    publisher.write(frame).map_err(|_| Ended::Over(crate::feed::Over::Ended))?;
                }
                Received::Gap => {
                    publisher.gap();
                    torn = true;
                }
            }
        }
        if torn {
            self.want_key_frame(Instant::now());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_with_the_most_bytes_is_taken() {
        let (mut layers, mut now) = (Layers::default(), Instant::now());
        let (low, high): (Ssrc, Ssrc) = (1.into(), 2.into());
        assert_eq!(layers.take(low, 100, now), (true, false));
        assert_eq!(layers.take(high, 900, now), (false, false));
        now += COMPARE;
        assert_eq!(layers.take(low, 100, now), (false, true));
        assert_eq!(layers.take(high, 900, now), (true, false));
        // It stays while nobody is much better, and a layer that has stopped is left.
        now += COMPARE;
        assert_eq!(layers.take(low, 1_000, now), (false, false));
        layers.take(low, 100, now);
        now += COMPARE;
        assert_eq!(layers.take(low, 100, now), (true, true));
        for ssrc in 3..100 {
            layers.take(ssrc.into(), 1, now);
        }
        assert!(layers.counts.len() <= 16);
    }
}
