//! Bytes to records, and the order that they must have.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use culvert_media::{Audio, Codec, Frame, Kind, Time, Track, TrackId, Tracks};

use super::framing::{Fields, Framing};
use super::{
    END, Ending, Error, FLAG_DISCONTINUITY, FLAG_KEY, FRAME, FRAME_FIELDS_BYTES, GAP, HELLO, MAX_CONFIG_BYTES,
    MAX_FRAME_BYTES, REPORT, Record, Report, TRACK_FIELDS_BYTES, TRACKS, VERSION,
};

/// Reads a relay. Memory grows by what was received, never by what a length announces.
///
/// After an error the relay is lost and every call says so.
#[derive(Debug)]
pub struct Reader {
    framing: Framing,
    order: Order,
    lost: Option<Error>,
}

/// What came before, as far as it decides what may come.
#[derive(Debug, Default)]
struct Order {
    /// The lowest number that a frame may have, once there was a Hello.
    first_seq: Option<u64>,
    tracks: Option<Tracks>,
    /// The number of the last frame of each track of `tracks` that had one.
    last_seq: Vec<(TrackId, u64)>,
    /// A gap was announced; a key frame must follow.
    gap: bool,
    ended: bool,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}

impl Reader {
    /// At the beginning of a body.
    pub fn new() -> Reader {
        Reader { framing: Framing::new(limit), order: Order::default(), lost: None }
    }

    /// Takes the next bytes. Call [`Reader::poll_record`] until it has no more before the next input.
    pub fn handle_input(&mut self, input: &[u8]) {
        if self.lost.is_none() {
            self.framing.handle_input(input);
        }
    }

    /// The next complete record, if there is one. A frame's data is not copied again.
    pub fn poll_record(&mut self) -> Result<Option<Record>, Error> {
        if let Some(error) = &self.lost {
            return Err(error.clone());
        }
        let polled = self.advance();
        if let Err(error) = &polled {
            self.lost = Some(error.clone());
            self.framing.clear();
        }
        polled
    }

    fn advance(&mut self) -> Result<Option<Record>, Error> {
        let Some((kind, fields)) = self.framing.poll()? else { return Ok(None) };
        if self.order.ended {
            return Err(Error::AfterEnd);
        }
        if self.order.first_seq.is_none() && kind != HELLO {
            return Err(Error::NoHello(kind));
        }
        let record = match kind {
            HELLO => hello(fields)?,
            TRACKS => Record::Tracks(tracks(fields)?),
            FRAME => frame(fields)?,
            GAP => {
                let mut fields = Fields::new("gap", fields);
                let frames = fields.u64()?;
                fields.end()?;
                Record::Gap { frames }
            }
            REPORT => Record::Report(report(fields)?),
            END => Record::End(ending(fields)?),
            other => return Err(Error::UnknownKind(other)),
        };
        self.order.check(&record)?;
        Ok(Some(record))
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.framing.capacity()
    }
}

/// Most bytes after the length of a record of this kind.
fn limit(kind: u8) -> Option<usize> {
    match kind {
        HELLO | GAP | REPORT | END => Some(64),
        TRACKS => Some(2 + Tracks::MAX * (TRACK_FIELDS_BYTES + MAX_CONFIG_BYTES)),
        FRAME => Some(1 + FRAME_FIELDS_BYTES + MAX_FRAME_BYTES),
        _ => None,
    }
}

impl Order {
    fn check(&mut self, record: &Record) -> Result<(), Error> {
        match record {
            Record::Hello { next_seq, .. } if self.first_seq.is_none() => self.first_seq = Some(*next_seq),
            Record::Hello { .. } => return Err(Error::SecondHello),
            Record::Tracks(tracks) => {
                self.last_seq.retain(|(id, _)| tracks.track(*id).is_some());
                self.tracks = Some(tracks.clone());
            }
            Record::Frame { seq, frame } => self.check_frame(*seq, frame)?,
            Record::Gap { .. } => self.gap = true,
            Record::Report(_) => {}
            Record::End(_) => self.ended = true,
        }
        Ok(())
    }

    fn check_frame(&mut self, seq: u64, frame: &Frame) -> Result<(), Error> {
        let id = frame.track;
        let track = self.tracks.as_ref().and_then(|tracks| tracks.track(id)).ok_or(Error::UnknownTrack(id))?;
        if frame.data.is_empty() {
            return Err(Error::EmptyFrame(id));
        }
        let first = self.first_seq.unwrap_or(0);
        if seq < first {
            return Err(Error::Order { track: id, seq, after: first.saturating_sub(1) });
        }
        if track.kind() == Kind::Video {
            if self.gap && !frame.key {
                return Err(Error::NotKey(id));
            }
            self.gap = false;
        }
        match self.last_seq.iter_mut().find(|(of, _)| *of == id) {
            Some((_, last)) if seq <= *last => return Err(Error::Order { track: id, seq, after: *last }),
            Some((_, last)) => *last = seq,
            None => self.last_seq.push((id, seq)),
        }
        Ok(())
    }
}

fn hello(fields: Bytes) -> Result<Record, Error> {
    let mut fields = Fields::new("hello", fields);
    // The version is first, for the rest may look otherwise in another one.
    let version = fields.u8()?;
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let (epoch, next_seq) = (fields.u64()?, fields.u64()?);
    fields.end()?;
    Ok(Record::Hello { epoch, next_seq })
}

fn tracks(fields: Bytes) -> Result<Tracks, Error> {
    let mut fields = Fields::new("tracks", fields);
    let count = usize::from(fields.u8()?);
    if count == 0 {
        return Err(Error::BadTracks("no track"));
    }
    if count > Tracks::MAX {
        return Err(Error::BadTracks("more than 16 tracks"));
    }
    let mut tracks: Vec<Track> = Vec::new();
    for _ in 0..count {
        let track = track(&mut fields)?;
        if tracks.iter().any(|other| other.id == track.id) {
            return Err(Error::BadTracks("two tracks of one number"));
        }
        tracks.push(track);
    }
    fields.end()?;
    Ok(Tracks::new(tracks))
}

fn track(fields: &mut Fields) -> Result<Track, Error> {
    let id = TrackId(fields.u8()?);
    let codec = codec(fields.u8()?)?;
    let sound = Audio { sample_rate_hz: fields.u32()?, channels: fields.u8()? };
    let length = fields.u32()?;
    if length as usize > MAX_CONFIG_BYTES {
        return Err(Error::ConfigLength { track: id, length });
    }
    // Copied, for a track may live much longer than what arrived with it.
    let config = Bytes::copy_from_slice(&fields.take(length as usize)?);
    match codec {
        Codec::G711A | Codec::G711U | Codec::Mp3 if !config.is_empty() => {
            Err(Error::ConfigLength { track: id, length })
        }
        Codec::G711A | Codec::G711U | Codec::Mp3 if sound.sample_rate_hz == 0 || sound.channels == 0 => {
            Err(Error::BadTracks("sound without a rate or without a channel"))
        }
        Codec::G711A | Codec::G711U | Codec::Mp3 => Ok(Track::audio(id, codec, sound)),
        Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 | Codec::Aac | Codec::Opus | Codec::Flac => {
            Track::new(id, codec, config).map_err(|source| Error::Config { track: id, source })
        }
    }
}

/// The codec by its number on the wire.
fn codec(number: u8) -> Result<Codec, Error> {
    match number {
        1 => Ok(Codec::H264),
        2 => Ok(Codec::H265),
        3 => Ok(Codec::Av1),
        4 => Ok(Codec::Vp8),
        5 => Ok(Codec::Vp9),
        16 => Ok(Codec::Aac),
        17 => Ok(Codec::Opus),
        18 => Ok(Codec::G711A),
        19 => Ok(Codec::G711U),
        20 => Ok(Codec::Mp3),
        21 => Ok(Codec::Flac),
        other => Err(Error::Codec(other)),
    }
}

fn frame(fields: Bytes) -> Result<Record, Error> {
    let mut fields = Fields::new("frame", fields);
    let seq = fields.u64()?;
    let track = TrackId(fields.u8()?);
    // Flags that are not known here are of later versions, and may be overlooked.
    let flags = fields.u8()?;
    let (dts, pts) = (Time::from_micros(fields.i64()?), Time::from_micros(fields.i64()?));
    let wall = wall(fields.i64()?);
    let (key, discontinuity) = (flags & FLAG_KEY != 0, flags & FLAG_DISCONTINUITY != 0);
    Ok(Record::Frame { seq, frame: Frame { track, dts, pts, key, discontinuity, wall, data: fields.rest() } })
}

/// A time that the system cannot say is taken as 1970.
fn wall(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    let wall = if micros < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    wall.unwrap_or(UNIX_EPOCH)
}

fn report(fields: Bytes) -> Result<Report, Error> {
    let mut fields = Fields::new("report", fields);
    let (disposable, frames, bytes) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let keys_only = match fields.u8()? {
        0 => false,
        1 => true,
        value => return Err(Error::Value { what: "report's keys_only", value }),
    };
    let queued = Duration::from_millis(u64::from(fields.u32()?));
    fields.end()?;
    Ok(Report { disposable, frames, bytes, keys_only, queued })
}

fn ending(fields: Bytes) -> Result<Ending, Error> {
    let mut fields = Fields::new("end", fields);
    let reason = fields.u8()?;
    fields.end()?;
    match reason {
        0 => Ok(Ending::Finished),
        1 => Ok(Ending::Lost),
        2 => Ok(Ending::Closed),
        value => Err(Error::Value { what: "end's reason", value }),
    }
}
