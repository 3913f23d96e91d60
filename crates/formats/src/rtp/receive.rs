//! The packets of one session to frames: in order, whole, on one timeline.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use culvert_media::codec::{aac, av1, check_frame, mp3, opus};
use culvert_media::{Audio, Codec, Frame, Kind, Track, TrackId, Tracks};

use super::clock::Sync;
use super::depay::{Depacketizer, Format, Payload, Unit};
use super::dts::Dts;
use super::packet::Packet;
use super::rtcp::{self, Message, Reception};
use super::{Error, Reorder};
use crate::Event;
use crate::sets::Sets;

/// How long the tracks are waited for that were announced and have not sent anything; a camera may announce sound that is switched off.
const WAIT: Duration = Duration::from_millis(1000);
/// Most bytes that are held meanwhile.
const HELD_BYTES: usize = 16 << 20;
/// How often a receiver reports.
const REPORT: Duration = Duration::from_secs(5);

/// A track as its session announces it.
#[derive(Clone, Debug, PartialEq)]
pub struct Media {
    /// How it is packed.
    pub format: Format,
    /// Ticks of its clock per second.
    pub clock_hz: u32,
    /// The configuration record, where the session says it: avcC, hvcC, AudioSpecificConfig.
    pub config: Option<Bytes>,
    /// Rate and channels, of sound.
    pub audio: Option<Audio>,
    /// Which of the packets are its own; None: all.
    pub payload_type: Option<u8>,
}

/// Receives a session.
#[derive(Debug)]
pub struct Receiver {
    sources: Vec<Source>,
    began: Instant,
    /// Since when something came.
    first: Option<Instant>,
    /// What goes out once the tracks are known.
    held: VecDeque<Event>,
    held_bytes: usize,
    announced: bool,
    events: VecDeque<Event>,
    reported: Option<Instant>,
    damaged: u64,
}

#[derive(Debug)]
struct Source {
    media: Media,
    id: TrackId,
    ssrc: Option<u32>,
    reorder: Reorder,
    depay: Depacketizer,
    sync: Sync,
    dts: Option<Dts>,
    sets: Sets,
    track: Option<Track>,
    /// It is another than was announced; that is said with the next picture.
    changed: bool,
    /// The track is among those that were announced.
    is_out: bool,
    seen: bool,
    torn: u64,
    reception: Reception,
}

impl Receiver {
    /// Of a session that announces these.
    pub fn new(now: Instant, media: Vec<Media>) -> Receiver {
        let sources = media.into_iter().enumerate().map(|(at, media)| {
            let id = TrackId(u8::try_from(at).unwrap_or(u8::MAX));
            let mut sets = Sets::new(media.format.codec());
            let track = media.config.as_ref().and_then(|config| sets.begin(id, config)).or_else(|| known(id, &media));
            Source {
                depay: Depacketizer::new(&media.format),
                sync: Sync::new(media.clock_hz),
                media,
                id,
                ssrc: None,
                reorder: Reorder::new(),
                dts: None,
                sets,
                track,
                changed: false,
                is_out: false,
                seen: false,
                torn: 0,
                reception: Reception::default(),
            }
        });
        Receiver {
            sources: sources.collect(),
            began: now,
            first: None,
            held: VecDeque::new(),
            held_bytes: 0,
            announced: false,
            events: VecDeque::new(),
            reported: None,
            damaged: 0,
        }
    }

    /// What is missing is waited for so long: the sender is asked for it again. Before anything comes.
    pub fn with_patience(mut self, patience: Duration) -> Receiver {
        self.sources.iter_mut().for_each(|source| source.reorder = Reorder::waiting(patience));
        self
    }

    /// Says when the first packets of a track are, as the server told it (RTP-Info): all that it names begin at one moment.
    pub fn begin(&mut self, at: usize, timestamp: u32) {
        if let Some(source) = self.sources.get_mut(at).filter(|source| !source.sync.has_begun()) {
            source.sync.begin(timestamp);
        }
    }

    /// Takes an RTP packet of the track at this place. `in_order`: the way it came keeps order (TCP), so nothing is waited for.
    pub fn handle_rtp(&mut self, now: Instant, at: usize, bytes: Bytes, in_order: bool) -> Result<(), Error> {
        let Some(source) = self.sources.get_mut(at) else { return Ok(()) };
        let packet = Packet::parse(&bytes).inspect_err(|_| self.damaged += 1)?;
        if source.media.payload_type.is_some_and(|kind| kind != packet.payload_type) {
            // Comfort noise, telephone events, padding.
            return Ok(());
        }
        if source.ssrc.replace(packet.ssrc).is_some_and(|known| known != packet.ssrc) {
            // Another sender: its numbers and times have nothing to do with those before.
            source.reorder.restart();
        }
        let elapsed = now.saturating_duration_since(self.began);
        source.reception.handle(packet.ssrc, packet.sequence, packet.timestamp, elapsed, source.media.clock_hz);
        self.first.get_or_insert(now);
        source.reorder.handle(now, packet.sequence, bytes);
        // On a way that keeps order, what is missing does not come any more.
        let due = if in_order { now + Duration::from_secs(1) } else { now };
        let taken = self.take(at, now, due);
        self.settle(now);
        taken
    }

    /// What has waited long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        for at in 0..self.sources.len() {
            // A broken payload is counted where it is met.
            self.take(at, now, now).ok();
        }
        self.settle(now);
    }

    /// When to call [`Receiver::handle_timeout`]; None: not before something comes.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.sources.iter().filter_map(|source| source.reorder.poll_timeout()).min();
        // Before there is anything to announce, only a packet changes that.
        let some = self.sources.iter().any(|source| source.track.is_some() && source.seen);
        let settle = self.first.filter(|_| some && !self.announced).map(|first| first + WAIT);
        waiting.into_iter().chain(settle).min()
    }

    /// Takes RTCP of the track at this place. True: its source has ended.
    pub fn handle_rtcp(&mut self, now: Instant, at: usize, bytes: &[u8]) -> bool {
        let elapsed = now.saturating_duration_since(self.began);
        let Some(source) = self.sources.get_mut(at) else { return false };
        let mut ended = false;
        for message in rtcp::messages(bytes).map_while(Result::ok) {
            match message {
                Message::Sender(_, info, _) => {
                    source.sync.handle_report(info.ntp, info.timestamp);
                    source.reception.note_report(info.ntp, elapsed);
                }
                Message::Bye(sources) => ended |= source.ssrc.is_none_or(|ssrc| sources.contains(&ssrc)),
                Message::Receiver(..)
                | Message::Nack(_)
                | Message::Wide(_)
                | Message::WantKeyFrame
                | Message::Other(_) => {}
            }
        }
        self.align();
        ended
    }

    /// The next thing that came out.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Reports to send about what came: (track, RTCP), every 5 s.
    pub fn poll_reports(&mut self, now: Instant) -> Vec<(usize, Vec<u8>)> {
        if self.reported.is_some_and(|last| now.saturating_duration_since(last) < REPORT) {
            return Vec::new();
        }
        self.reported = Some(now);
        let elapsed = now.saturating_duration_since(self.began);
        let report = |(at, source): (usize, &mut Source)| {
            let block = source.reception.block(elapsed)?;
            let mut out = Vec::new();
            rtcp::write_receiver(0x0043_5552 | u32::from(source.id.0) << 24, &[block], "culvert", &mut out);
            Some((at, out))
        };
        self.sources.iter_mut().enumerate().filter_map(report).collect()
    }

    /// Packets that never came, over all tracks.
    pub fn lost(&self) -> u64 {
        self.sources.iter().map(|source| source.reorder.lost()).sum()
    }

    /// Packets and units that were broken.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Takes what is in order, and what waited until `due` for something before it.
    fn take(&mut self, at: usize, now: Instant, due: Instant) -> Result<(), Error> {
        let mut result = Ok(());
        let mut units = Vec::new();
        while let Some(source) = self.sources.get_mut(at)
            && let Some((bytes, lost)) = source.reorder.poll(due)
        {
            source.seen = true;
            if lost && source.media.format.codec().kind() == Kind::Video {
                // Whole pictures may be missing, to which those that follow refer.
                self.put(Event::Gap);
            }
            let Some(source) = self.sources.get_mut(at) else { break };
            let Ok(packet) = Packet::parse(&bytes) else { continue };
            let payload = Payload { data: packet.payload, marker: packet.marker, timestamp: packet.timestamp, lost };
            let taken = source.depay.handle(&payload, &mut units);
            if let Err(why) = taken {
                self.damaged += 1;
                result = Err(why);
            }
            for unit in units.drain(..) {
                self.unit(at, now, unit);
            }
        }
        result
    }

    /// An access unit.
    fn unit(&mut self, at: usize, now: Instant, unit: Unit) {
        let elapsed = now.saturating_duration_since(self.began);
        let Some(source) = self.sources.get_mut(at) else { return };
        let torn = source.depay.dropped();
        if std::mem::replace(&mut source.torn, torn) != torn && source.media.format.codec().kind() == Kind::Video {
            self.put(Event::Gap);
        }
        let Some(source) = self.sources.get_mut(at) else { return };
        let data = match source.track_of(&unit) {
            Ok(Some((data, changed))) => {
                if changed && source.is_out {
                    self.announce();
                }
                data
            }
            // Parameter sets alone.
            Ok(None) => return,
            Err(_) => return self.broken(at),
        };
        let beside = self.begun_beside(at);
        let Some(source) = self.sources.get_mut(at) else { return };
        let Some(track) = &source.track else { return };
        let key = match check_frame(track.codec, &data) {
            Ok(info) => info.key,
            Err(_) => return self.broken(at),
        };
        let mut pts = source.sync.place(unit.timestamp, elapsed);
        if let Some(other) = beside {
            // When it came says less of when it was than the reports do, where the sender or the line is busy.
            source.sync.follow(&other, true);
            pts = source.sync.place(unit.timestamp, elapsed);
        }
        let dts = match track.codec {
            Codec::H264 | Codec::H265 => {
                let depth = source.sets.reordering();
                let fps = track.video().and_then(|video| video.fps);
                source.dts.get_or_insert_with(|| Dts::new(depth, fps)).place(pts)
            }
            Codec::Av1
            | Codec::Vp8
            | Codec::Vp9
            | Codec::Aac
            | Codec::Opus
            | Codec::G711A
            | Codec::G711U
            | Codec::Mp3
            | Codec::Flac => pts,
        };
        let frame = Frame {
            track: source.id,
            dts,
            pts: pts.max(dts),
            key,
            discontinuity: false,
            wall: SystemTime::now(),
            data,
        };
        if self.announced && !source.is_out {
            // It came late, or its configuration did.
            self.announce();
        }
        self.put(Event::Frame(frame));
    }

    /// The clock that a source is to begin by: one that has begun, while this one has not.
    fn begun_beside(&self, at: usize) -> Option<Sync> {
        self.sources.get(at).filter(|source| !source.sync.has_begun())?;
        let begun = |sync: &&Sync| sync.has_begun() && sync.has_report();
        self.sources.iter().map(|source| &source.sync).find(begun).cloned()
    }

    /// A unit that is none: what follows refers to what is not there.
    fn broken(&mut self, at: usize) {
        self.damaged += 1;
        if self.sources.get(at).is_some_and(|source| source.media.format.codec().kind() == Kind::Video) {
            self.put(Event::Gap);
        }
    }

    fn put(&mut self, event: Event) {
        if self.announced {
            self.events.push_back(event);
            return;
        }
        match &event {
            Event::Frame(frame) => self.held_bytes += frame.data.len(),
            // One says as much as several.
            Event::Gap if self.held.back() == Some(&Event::Gap) => return,
            Event::Gap | Event::Tracks(_) => {}
        }
        self.held.push_back(event);
    }

    /// Announces the tracks once all of them have sent something, or enough time has gone by.
    fn settle(&mut self, now: Instant) {
        let Some(first) = self.first.filter(|_| !self.announced) else { return };
        let all = self.sources.iter().all(|source| source.track.is_some() && source.seen);
        let late = now.saturating_duration_since(first) >= WAIT || self.held_bytes > HELD_BYTES;
        if !all && !late || !self.sources.iter().any(|source| source.track.is_some() && source.seen) {
            if self.held_bytes > HELD_BYTES {
                self.held.clear();
                self.held_bytes = 0;
            }
            return;
        }
        self.announce();
        self.announced = true;
        self.events.append(&mut self.held);
    }

    fn announce(&mut self) {
        for source in &mut self.sources {
            source.is_out = source.track.is_some() && source.seen;
        }
        let tracks = self.sources.iter().filter(|source| source.is_out).filter_map(|source| source.track.clone());
        let event = Event::Tracks(Tracks::new(tracks.collect()));
        self.events.push_back(event);
    }

    /// Puts sound beside the picture, by the reports of both.
    fn align(&mut self) {
        let leader = self.sources.iter().position(|source| source.media.format.codec().kind() == Kind::Video);
        let Some(leader) = self.sources.get(leader.unwrap_or(0)).map(|source| (source.id, source.sync.clone())) else {
            return;
        };
        for source in self.sources.iter_mut().filter(|source| source.id != leader.0) {
            source.sync.follow(&leader.1, !source.seen);
        }
    }
}

/// A track that needs no more than what the session says.
fn known(id: TrackId, media: &Media) -> Option<Track> {
    let codec = media.format.codec();
    match codec {
        Codec::Vp8 | Codec::Vp9 => Track::new(id, codec, Bytes::new()).ok(),
        Codec::Opus => {
            let head = opus::Head::new(media.audio.map_or(2, |audio| audio.channels)).ok()?;
            Track::new(id, codec, head.write()).ok()
        }
        Codec::G711A | Codec::G711U => Some(Track::audio(id, codec, media.audio?)),
        Codec::Aac => {
            // Without a configuration the session's rate and channels are all that is known.
            let audio = media.audio?;
            let config = aac::Config::lc(audio.sample_rate_hz, audio.channels).ok()?.write().ok()?;
            Track::new(id, codec, config).ok()
        }
        Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Mp3 | Codec::Flac => None,
    }
}

impl Source {
    /// The frame within a unit, and whether its track is another than before. None: there is no picture in it.
    fn track_of(&mut self, unit: &Unit) -> Result<Option<(Bytes, bool)>, Error> {
        let codec = self.media.format.codec();
        let before = self.track.clone();
        let taken = self.take_config(unit);
        self.changed |= self.track != before;
        let Some(data) = taken? else { return Ok(None) };
        let changed = std::mem::take(&mut self.changed);
        if changed && codec.kind() == Kind::Video {
            self.dts = None;
        }
        Ok(Some((data, changed)))
    }

    /// Takes a configuration that is in the unit, and returns the rest of it.
    fn take_config(&mut self, unit: &Unit) -> Result<Option<Bytes>, Error> {
        let codec = self.media.format.codec();
        Ok(match codec {
            Codec::H264 | Codec::H265 => {
                let data = self.sets.take(&unit.data)?;
                if let Some(track) = self.sets.track(self.id) {
                    self.track = Some(track);
                }
                data
            }
            Codec::Av1 => {
                if let Ok(config) = av1::Config::from_sequence_header(&unit.data) {
                    self.track = Some(Track::new(self.id, codec, config.write())?);
                }
                Some(unit.data.clone())
            }
            Codec::Aac => {
                if let Some(config) = self.depay.config() {
                    self.track = Some(Track::new(self.id, codec, config)?);
                }
                Some(unit.data.clone())
            }
            Codec::Mp3 => {
                if self.track.is_none() {
                    let audio = mp3::Header::parse(&unit.data)?.audio;
                    self.track = Some(Track::audio(self.id, codec, audio));
                }
                Some(unit.data.clone())
            }
            Codec::Vp8 | Codec::Vp9 | Codec::Opus | Codec::G711A | Codec::G711U | Codec::Flac => {
                Some(unit.data.clone())
            }
        })
    }
}
