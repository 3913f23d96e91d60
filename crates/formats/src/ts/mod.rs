//! MPEG transport streams (ISO 13818-1) to tracks and frames: H.264, H.265, AAC (ADTS and LATM), MP3, Opus, G.711; and the sound of HLS
//! that is packed without a container ([`Packed`]).
//!
//! Damage costs what it hit: a torn access unit never comes out, and an [`Event::Gap`] stands in its place. Of several programs the
//! first is taken.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod packed;
mod packet;
mod pes;
mod psi;
mod sound;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::Bytes;
use culvert_media::{Frame, Time, Track, TrackId, Tracks};

use packet::{BYTES, Packet, SYNC};
use psi::Sections;
use stream::{Out, Stream};

pub use packed::Packed;

use crate::Event;

/// Ticks of a second of all times in it.
const HZ: u32 = 90_000;

/// Most events that wait to be taken: a segment of a minute at 1,000 frames per second, and twice that.
const EVENTS: usize = 120_000;

/// An access unit in the form of [`Frame::data`], with times in 90 kHz.
#[derive(Clone, Debug, PartialEq)]
struct Unit {
    pts: i64,
    dts: i64,
    data: Bytes,
}

/// Unwraps 33 bits.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    last: Option<i64>,
}

impl Clock {
    /// The time that is nearest to the last one.
    fn unwrap(&mut self, time: u64) -> i64 {
        let time = match self.last {
            Some(last) => self.beside(last, time),
            None => time.cast_signed(),
        };
        self.last = Some(time);
        time
    }

    /// The time that is nearest to `base`.
    fn beside(&self, base: i64, time: u64) -> i64 {
        const WRAP: i64 = 1 << 33;
        let ahead = (time.cast_signed() - base).rem_euclid(WRAP);
        base + if ahead >= WRAP / 2 { ahead - WRAP } else { ahead }
    }
}

/// Takes a transport stream apart.
#[derive(Debug, Default)]
pub struct Demux {
    /// Less than a packet and the byte behind it.
    rest: Vec<u8>,
    pat: Sections,
    pmt: Option<(u16, Sections)>,
    /// What the map said last.
    program: Vec<psi::Entry>,
    streams: Vec<Stream>,
    others: Vec<u8>,
    clock: Clock,
    /// Changed since it was last said.
    announced: Vec<Track>,
    events: VecDeque<Event>,
    damaged: u64,
}

impl Demux {
    /// Of which nothing is known.
    pub fn new() -> Demux {
        Demux::default()
    }

    /// Takes what follows; packets need not be whole. What is no packet is passed over.
    pub fn handle_input(&mut self, now: SystemTime, data: &[u8]) {
        let joined;
        let data = match self.rest.is_empty() {
            true => data,
            false => {
                joined = [&std::mem::take(&mut self.rest)[..], data].concat();
                &joined
            }
        };
        let mut rest = data;
        // What begins a packet is known by what begins the next one: in the middle of something else the byte is there by chance.
        while let Some(bytes) = rest.get(..=BYTES) {
            if bytes.first() != Some(&SYNC) || bytes.last() != Some(&SYNC) {
                self.damaged += 1;
                let skip = rest.iter().skip(1).position(|byte| *byte == SYNC);
                rest = skip.and_then(|skip| rest.get(1 + skip..)).unwrap_or(&[]);
                continue;
            }
            self.take(now, bytes);
            rest = rest.get(BYTES..).unwrap_or(&[]);
        }
        self.rest = rest.to_vec();
    }

    fn take(&mut self, now: SystemTime, bytes: &[u8]) {
        match bytes.first_chunk().and_then(Packet::parse) {
            Some(packet) => self.packet(now, &packet),
            None => self.damaged += 1,
        }
    }

    /// Nothing follows for now: what was gathered is whole. To be called at the end of a segment.
    pub fn flush(&mut self, now: SystemTime) {
        let last = std::mem::take(&mut self.rest);
        if last.len() == BYTES {
            self.take(now, &last);
        }
        self.settle_all(now);
    }

    /// What every stream has gathered is whole.
    fn settle_all(&mut self, now: SystemTime) {
        for at in 0..self.streams.len() {
            let mut out = Vec::new();
            if let Some(stream) = self.streams.get_mut(at) {
                stream.flush(&mut self.clock, &mut out);
            }
            self.settle(now, at, out);
        }
    }

    /// The next thing that came out.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What was refused so far: packets, access units, headers.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Types (ISO 13818-1 table 2-34) of the streams that are not taken.
    pub fn others(&self) -> &[u8] {
        &self.others
    }

    fn packet(&mut self, now: SystemTime, packet: &Packet<'_>) {
        let payload = packet.payload.unwrap_or(&[]);
        if packet.pid == 0 {
            let section = self.pat.handle(packet.begins, payload);
            if let Some(pid) = section.and_then(|section| psi::first_program(&section))
                && self.pmt.as_ref().is_none_or(|(known, _)| *known != pid)
            {
                self.pmt = Some((pid, Sections::default()));
            }
            return;
        }
        if let Some((pid, sections)) = &mut self.pmt
            && *pid == packet.pid
        {
            let section = sections.handle(packet.begins, payload);
            if let Some(entries) = section.and_then(|section| psi::streams(&section)) {
                self.program(now, entries);
            }
            return;
        }
        let Some(at) = self.streams.iter().position(|stream| stream.entry.pid == packet.pid) else { return };
        let mut out = Vec::new();
        if let Some(stream) = self.streams.get_mut(at) {
            stream.handle(packet, &mut self.clock, &mut out);
        }
        self.settle(now, at, out);
    }

    /// The program is made of these.
    fn program(&mut self, now: SystemTime, entries: Vec<psi::Entry>) {
        if entries == self.program {
            return;
        }
        self.program.clone_from(&entries);
        self.settle_all(now);
        let mut known = std::mem::take(&mut self.streams);
        self.others.clear();
        for entry in entries {
            if let Some(at) = known.iter().position(|stream| stream.entry == entry) {
                self.streams.push(known.swap_remove(at));
                continue;
            }
            if self.streams.len() >= Tracks::MAX {
                continue;
            }
            let stream_type = entry.stream_type;
            let taken = |id: &u8| known.iter().chain(&self.streams).any(|stream| stream.own.id() == TrackId(*id));
            let id = (0..=u8::MAX).find(|id| !taken(id)).unwrap_or_default();
            match Stream::new(entry, TrackId(id)) {
                Some(stream) => self.streams.push(stream),
                None => self.others.push(stream_type),
            }
        }
    }

    /// Passes on what came out of a stream. What nobody has taken is bounded: frames may be as small as they like.
    fn settle(&mut self, now: SystemTime, at: usize, out: Vec<Out>) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        self.damaged += stream.take_damaged();
        let track = stream.own.id();
        for out in out {
            if self.events.len() >= EVENTS {
                self.damaged += 1;
                continue;
            }
            match out {
                Out::Track => {}
                Out::Gap => self.events.push_back(Event::Gap),
                Out::Frame(pts, dts, data, key) => {
                    self.announce();
                    let (pts, dts) = (Time::from_ticks(pts, HZ), Time::from_ticks(dts, HZ));
                    self.events.push_back(Event::Frame(Frame {
                        track,
                        dts,
                        pts,
                        key,
                        discontinuity: false,
                        wall: now,
                        data,
                    }));
                }
            }
        }
    }

    /// Says what the tracks are, where that is something else than before.
    fn announce(&mut self) {
        let tracks: Vec<_> = self.streams.iter().filter_map(|stream| stream.own.track().cloned()).collect();
        if tracks != self.announced {
            self.announced.clone_from(&tracks);
            self.events.push_back(Event::Tracks(Tracks::new(tracks)));
        }
    }
}
