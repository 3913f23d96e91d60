//! Segments to frames: MPEG-TS, fragmented MP4 or packed audio, told apart by their first bytes.

use std::time::SystemTime;

use bytes::Bytes;
use culvert_formats::ts::{self, Packed};
use culvert_formats::{Event, fmp4};
use culvert_media::{Time, TrackId, Tracks};

/// Reads the segments of one rendition, one after another.
#[derive(Debug, Default)]
pub(super) struct Reader {
    container: Option<Container>,
    /// What the tracks were last.
    tracks: Option<Tracks>,
    others: Vec<u8>,
}

/// What was in a segment.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) events: Vec<Event>,
    /// A part of it could not be read, and why.
    pub(super) broken: Option<String>,
}

#[derive(Debug)]
enum Container {
    Ts(Box<ts::Demux>),
    Mp4(fmp4::Demux),
    Packed(Packed),
}

impl Reader {
    /// What follows has nothing to do with what was before, but that it is the same stream.
    pub(super) fn restart(&mut self) {
        self.container = None;
        self.tracks = None;
    }

    /// There is another initialisation segment, of fragmented MP4. The error is a sentence.
    pub(super) fn init(&mut self, init: &[u8]) -> Result<(), String> {
        self.restart();
        let demux =
            fmp4::Demux::new(init).map_err(|why| format!("the initialisation segment cannot be used: {why}"))?;
        self.container = Some(Container::Mp4(demux));
        Ok(())
    }

    /// What is there and cannot be carried, for people.
    pub(super) fn others(&self) -> String {
        shown(&self.others)
    }

    /// Takes a segment apart: what is in it, by decoding times. The error is a sentence, and says that there was nothing.
    pub(super) fn read(&mut self, now: SystemTime, data: &Bytes) -> Result<Content, String> {
        let begins = begins(data)?;
        let container = match (self.container.take(), begins) {
            (Some(Container::Mp4(demux)), Begins::Mp4) => Container::Mp4(demux),
            (_, Begins::Mp4) => {
                // A segment may bring its own moov, where the playlist names none.
                Container::Mp4(
                    fmp4::Demux::new(data)
                        .map_err(|why| format!("the playlist names no EXT-X-MAP, and in the segment {why}"))?,
                )
            }
            (Some(Container::Ts(demux)), Begins::Ts) => Container::Ts(demux),
            (_, Begins::Ts) => Container::Ts(Box::default()),
            (Some(Container::Packed(packed)), Begins::Packed) => Container::Packed(packed),
            (_, Begins::Packed) => Container::Packed(Packed::new()),
        };
        let (events, ended) = match self.container.insert(container) {
            Container::Ts(demux) => {
                demux.handle_input(now, data);
                demux.flush(now);
                if demux.others() != self.others {
                    self.others = demux.others().to_vec();
                    tracing::info!(others = shown(&self.others), "an HLS source has streams that are not carried");
                }
                (std::iter::from_fn(|| demux.poll_event()).collect(), Ok(()))
            }
            Container::Mp4(demux) => {
                let ended = demux.handle_segment(now, data).map_err(|why| why.to_string());
                (std::iter::from_fn(|| demux.poll_event()).collect(), ended)
            }
            Container::Packed(packed) => match packed.handle_segment(now, data) {
                Ok(events) => (events, Ok(())),
                Err(why) => (Vec::new(), Err(why.to_string())),
            },
        };
        match ended {
            Err(why) if events.is_empty() => Err(why),
            ended => Ok(Content { events: in_order(events, &mut self.tracks), broken: ended.err() }),
        }
    }
}

fn shown(others: &[u8]) -> String {
    let types: Vec<_> = others.iter().map(|kind| format!("{kind:#04x}")).collect();
    if types.is_empty() { "nothing is known of them".into() } else { format!("stream types {}", types.join(", ")) }
}

enum Begins {
    Ts,
    Mp4,
    Packed,
}

fn begins(data: &[u8]) -> Result<Begins, String> {
    const BOXES: [&[u8; 4]; 10] =
        [b"styp", b"ftyp", b"moof", b"moov", b"sidx", b"emsg", b"prft", b"mdat", b"free", b"uuid"];
    match data.get(4..8) {
        Some(name) if BOXES.iter().any(|known| name == *known) => Ok(Begins::Mp4),
        _ if data.first() == Some(&0x47) => Ok(Begins::Ts),
        _ if Packed::looks_like(data) => Ok(Begins::Packed),
        // Something before the first packet is passed over by the reader of transport streams.
        _ if data.iter().take(188).any(|byte| *byte == 0x47) && data.len() > 2 * 188 => Ok(Begins::Ts),
        _ => {
            let begin: String = String::from_utf8_lossy(data.get(..40).unwrap_or(data)).escape_debug().collect();
            Err(format!("a segment is neither MPEG-TS nor MP4 nor packed audio: it begins with \"{begin}\""))
        }
    }
}

/// Frames by their decoding times, and what the tracks are before the first of them: a container says them one by one as they appear,
/// and viewers would see the stream change with each.
fn in_order(events: Vec<Event>, known: &mut Option<Tracks>) -> Vec<Event> {
    let mut out: Vec<Event> = Vec::with_capacity(events.len());
    // Where the tracks were said last, and where frames have been since then.
    let mut said = None;
    let mut from = 0;
    for event in events {
        match event {
            Event::Tracks(tracks) => {
                let adds =
                    known.as_ref().is_none_or(|known| known.iter().all(|track| tracks.iter().any(|new| new == track)));
                *known = Some(tracks.clone());
                match said.and_then(|at: usize| out.get_mut(at)).filter(|_| adds) {
                    Some(place) => *place = Event::Tracks(tracks),
                    None if adds && said.is_none() => {
                        out.insert(0, Event::Tracks(tracks));
                        (said, from) = (Some(0), 1);
                    }
                    None => {
                        sort(&mut out, from);
                        (said, from) = (Some(out.len()), out.len() + 1);
                        out.push(Event::Tracks(tracks));
                    }
                }
            }
            Event::Gap => {
                sort(&mut out, from);
                out.push(Event::Gap);
                from = out.len();
            }
            Event::Frame(_) => out.push(event),
        }
    }
    sort(&mut out, from);
    out
}

/// Puts tracks side by side. Frames of one track stay as they came, whatever their times say: they are decoded in that order.
fn sort(events: &mut Vec<Event>, from: usize) {
    let mut latest: Vec<(TrackId, Time)> = Vec::new();
    let keyed = events.drain(from.min(events.len())..).map(|event| {
        let Event::Frame(frame) = &event else { return (Time::MAX, event) };
        let at = match latest.iter_mut().find(|(track, _)| *track == frame.track) {
            Some((_, at)) => {
                *at = frame.dts.max(*at);
                *at
            }
            None => {
                latest.push((frame.track, frame.dts));
                frame.dts
            }
        };
        (at, event)
    });
    let mut keyed: Vec<_> = keyed.collect();
    keyed.sort_by_key(|(at, _)| *at);
    events.extend(keyed.into_iter().map(|(_, event)| event));
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use culvert_media::{Audio, Codec, Frame, Track};

    use super::*;

    fn tracks(ids: &[u8]) -> Event {
        let track = |id: &u8| {
            let audio = Audio { sample_rate_hz: 8000 + u32::from(*id), channels: 1 };
            Track::audio(TrackId(*id & 0x0f), Codec::G711A, audio)
        };
        Event::Tracks(Tracks::new(ids.iter().map(track).collect()))
    }

    fn frame(track: u8, ms: i64) -> Event {
        let at = Time::from_millis(ms);
        let (track, data) = (TrackId(track), Bytes::from_static(b"x"));
        Event::Frame(Frame { track, dts: at, pts: at, key: true, discontinuity: false, wall: UNIX_EPOCH, data })
    }

    fn told(events: &[Event]) -> String {
        let one = |event: &Event| match event {
            Event::Tracks(tracks) => format!("[{}]", tracks.len()),
            Event::Frame(frame) => frame.dts.millis().to_string(),
            Event::Gap => "gap".into(),
        };
        events.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn tracks_are_said_once_and_frames_are_in_order() {
        let mut known = None;
        let first = vec![
            tracks(&[0]),
            frame(0, 0),
            frame(0, 40),
            tracks(&[0, 1]),
            frame(1, 20),
            Event::Gap,
            frame(0, 80),
            frame(1, 60),
        ];
        assert_eq!(told(&in_order(first, &mut known)), "[2] 0 20 40 gap 60 80");
        // The same ones are not said again; a further one is said at once, another one where it begins.
        assert_eq!(told(&in_order(vec![frame(0, 100)], &mut known)), "100");
        assert_eq!(told(&in_order(vec![frame(0, 120), tracks(&[0, 1, 2]), frame(2, 110)], &mut known)), "[3] 110 120");
        // Of one track the order is that of decoding.
        let odd = vec![frame(0, 140), frame(0, 144), frame(0, 143), frame(1, 143)];
        assert_eq!(told(&in_order(odd, &mut known)), "140 143 144 143");
        let changed = vec![frame(0, 160), frame(1, 150), tracks(&[0, 0x11, 2]), frame(1, 190), frame(0, 180)];
        assert_eq!(told(&in_order(changed, &mut known)), "150 160 [3] 180 190");
    }

    #[test]
    fn what_is_no_segment_is_named() {
        let mut reader = Reader::default();
        let page = Bytes::from_static(b"<!DOCTYPE html><title>404</title>");
        assert!(reader.read(UNIX_EPOCH, &page).unwrap_err().contains("DOCTYPE"));
        assert!(reader.read(UNIX_EPOCH, &Bytes::new()).is_err());
        let lone = Bytes::from_static(b"\0\0\0\x08moof");
        assert!(reader.read(UNIX_EPOCH, &lone).unwrap_err().contains("EXT-X-MAP"));
        assert!(reader.init(b"junk").is_err());
    }
}
