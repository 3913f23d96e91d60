//! Packed audio (RFC 8216 3.4): ADTS or MP3 frames without a container, behind an ID3 tag that says the time of the first.

use std::time::SystemTime;

use culvert_media::{CodecError, Frame, Time, Track, TrackId, Tracks};

use super::sound::{Framing, Splitter};
use super::stream::track_of;
use super::{Clock, HZ};
use crate::Event;

/// The owner of the private frame that says the time.
const OWNER: &[u8] = b"com.apple.streaming.transportStreamTimestamp\0";

/// Takes segments of packed audio apart.
#[derive(Debug, Default)]
pub struct Packed {
    clock: Clock,
    /// Where the next segment begins if it does not say so.
    next: i64,
    announced: Option<Track>,
}

impl Packed {
    /// Of which nothing is known.
    pub fn new() -> Packed {
        Packed::default()
    }

    /// Whether a segment begins as packed audio does.
    pub fn looks_like(data: &[u8]) -> bool {
        data.starts_with(b"ID3") || data.first_chunk().is_some_and(|[a, b]| *a == 0xff && b & 0xe0 == 0xe0)
    }

    /// Takes a whole segment.
    pub fn handle_segment(&mut self, now: SystemTime, data: &[u8]) -> Result<Vec<Event>, CodecError> {
        let (time, mut sound) = tags(data)?;
        let begin = time.map_or(self.next, |time| self.clock.unwrap(time));
        // ADTS has two bits of layer, which are 0.
        let framing = match sound.first_chunk() {
            Some([0xff, b]) if b & 0xf6 == 0xf0 => Framing::Adts,
            Some([0xff, b]) if b & 0xe0 == 0xe0 => Framing::Mpeg,
            Some(_) | None => return Err(CodecError::Short("packed audio")),
        };
        let mut frames = Vec::new();
        let mut splitter = Splitter::new(framing);
        // What is left of it at the end is less than a frame.
        splitter.take(Some(begin), std::mem::take(&mut sound), &mut frames);
        let mut events = Vec::new();
        for (unit, sound) in frames {
            // What cannot be a track is a frame by chance.
            let Ok(track) = track_of(TrackId(0), sound) else { continue };
            if self.announced.as_ref() != Some(&track) {
                events.push(Event::Tracks(Tracks::new(vec![track.clone()])));
                self.announced = Some(track);
            }
            let at = Time::from_ticks(unit.dts, HZ);
            self.next = splitter.time().unwrap_or(unit.dts);
            let data = unit.data;
            events.push(Event::Frame(Frame {
                track: TrackId(0),
                dts: at,
                pts: at,
                key: true,
                discontinuity: false,
                wall: now,
                data,
            }));
        }
        Ok(events)
    }
}

/// The time in the ID3 tags (id3v2.4.0-structure 3.1) at the beginning, and what is behind them.
fn tags(data: &[u8]) -> Result<(Option<u64>, &[u8]), CodecError> {
    let (mut rest, mut time) = (data, None);
    while rest.starts_with(b"ID3") {
        let short = CodecError::Short("ID3 tag");
        let (head, behind) = rest.split_first_chunk::<10>().ok_or(short.clone())?;
        let [_, _, _, _, _, _, size @ ..] = *head;
        let (tag, behind) = behind.split_at_checked(syncsafe(size)).ok_or(short)?;
        let at = tag.windows(OWNER.len()).position(|window| window == OWNER);
        let said = at.and_then(|at| tag.get(at + OWNER.len()..)?.first_chunk());
        // The upper 31 bits are 0.
        time = said.map(|said| u64::from_be_bytes(*said) & ((1 << 33) - 1)).or(time);
        rest = behind;
    }
    Ok((time, rest))
}

/// Seven bits of each byte.
fn syncsafe(bytes: [u8; 4]) -> usize {
    bytes.into_iter().fold(0, |size, byte| size << 7 | usize::from(byte & 0x7f))
}
