//! Tags, or RTMP messages, to tracks and frames.
//!
//! A bad frame, header or message is dropped and counted, and costs nothing but itself. Frames are held at the
//! beginning until the set of tracks is known (see `probe.rs`). Time is unwrapped over all tags together; nothing is
//! sorted, smoothed or repaired here.
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use culvert_media::codec::{self, aac, av1, flac, h264, h265, mp3, nal, vp9};
use culvert_media::{Audio, Codec, CodecError, Frame, Kind, Time, Track, TrackId, Tracks};

use super::body::{self, Body, Content, Packet};
use super::clock::Clock;
use super::probe::Probe;
use super::{Error, MAX_TAG_BYTES, TagKind, announce};

/// Largest configuration record: a parameter set may have 64 KiB (security.md S22) and there is seldom more than one.
const MAX_CONFIG_BYTES: usize = 128 * 1024;

/// What comes out of a [`Demux`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The stream's tracks, before the first frame and again whenever they change. Frames that follow are of these.
    Tracks(Tracks),
    /// A frame of one of the latest tracks.
    Frame(Frame),
    /// The publisher says that a track has ended.
    EndOfSequence,
}

/// Turns tags into tracks and frames. Call [`Demux::poll_event`] until it has no more after each input.
///
/// Old-style video is track 0 and audio track 1; Enhanced RTMP's video track `n` is `2n`, audio track `n` is `2n + 1`.
#[derive(Debug)]
pub struct Demux {
    clock: Clock,
    /// In order of their ids, at most [`Tracks::MAX`].
    tracks: Vec<Known>,
    /// The tracks are not those of the latest [`Event::Tracks`].
    changed: bool,
    /// At the beginning only.
    probe: Option<Probe>,
    events: VecDeque<Event>,
    dropped: u64,
    problem: Option<Error>,
}

/// A track, and its configuration as it came.
#[derive(Debug)]
struct Known {
    track: Track,
    config: Bytes,
    /// Of the lengths before NAL units as they come, in bytes; 4 for what has none.
    length_size: usize,
}

impl Default for Demux {
    fn default() -> Demux {
        Demux::new()
    }
}

impl Demux {
    /// At the beginning of a stream.
    pub fn new() -> Demux {
        Demux {
            clock: Clock::default(),
            tracks: Vec::new(),
            changed: false,
            probe: Some(Probe::default()),
            events: VecDeque::new(),
            dropped: 0,
            problem: None,
        }
    }

    /// Takes a tag, or an RTMP message of the same type number. `now` becomes the frames' wall time; `time_ms` wraps
    /// at 2^32. `body` is shared by the frames, not copied, where its form is ours already.
    ///
    /// What cannot be used is dropped and counted: see [`Demux::dropped`] and [`Demux::problem`]. Only a body larger
    /// than [`MAX_TAG_BYTES`] is an error, for the sender ignores the bounds.
    pub fn handle_tag(&mut self, now: SystemTime, kind: TagKind, time_ms: u32, body: Bytes) -> Result<(), Error> {
        if body.len() > MAX_TAG_BYTES {
            return Err(Error::TooLarge(body.len()));
        }
        let parsed = match kind {
            _ if body.is_empty() => Err(Error::Empty("tag")),
            TagKind::Audio => body::audio(body),
            TagKind::Video => body::video(body),
            TagKind::Script => self.metadata(&body),
        };
        match parsed {
            Ok(parsed) => self.handle_body(now, kind, time_ms, parsed),
            Err(error) => self.note(kind, error),
        }
        self.check_probe();
        Ok(())
    }

    /// What comes next, if anything.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// No use to wait for more tracks: gives out what is held. For the end of input, and for a caller that has
    /// waited long enough by its own clock.
    pub fn flush(&mut self) {
        let Some(probe) = self.probe.take() else { return };
        self.announce_tracks();
        self.events.extend(probe.release().into_iter().map(Event::Frame));
    }

    /// How many tags and frames were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Why the latest was dropped.
    pub fn problem(&self) -> Option<&Error> {
        self.problem.as_ref()
    }

    fn metadata(&mut self, body: &[u8]) -> Result<Body, Error> {
        if let (Some(announced), Some(probe)) = (announce::read(body)?, &mut self.probe) {
            probe.announce(announced);
        }
        Ok(Body::default())
    }

    fn handle_body(&mut self, now: SystemTime, kind: TagKind, time_ms: u32, body: Body) {
        // Only frames move the clock: headers and metadata that a server repeats for late viewers often say 0.
        let coded =
            |packet: &Result<Packet, Error>| matches!(packet, Ok(Packet { content: Content::Coded { .. }, .. }));
        let time = if body.packets.iter().any(coded) { self.clock.unwrap(time_ms) } else { Time::ZERO };
        let time = time + Time::from_ticks(i64::from(body.offset_nanos), 1_000_000_000);
        for packet in body.packets {
            if let Err(error) = packet.and_then(|packet| self.handle_packet(now, time, kind, packet)) {
                self.note(kind, error);
            }
        }
    }

    fn handle_packet(&mut self, now: SystemTime, time: Time, kind: TagKind, packet: Packet) -> Result<(), Error> {
        let Packet { number, codec, content } = packet;
        let id = number.checked_mul(2).ok_or(Error::TooManyTracks(number))?;
        let id = TrackId(id | u8::from(kind == TagKind::Audio));
        match content {
            Content::Config(config) => self.configure(id, codec, &config),
            Content::Coded { composition_ms, sound, data } => {
                if data.is_empty() {
                    return Err(Error::Empty("frame"));
                }
                let pts = time + Time::from_millis(i64::from(composition_ms));
                // First, for a damaged frame must not make or change a track.
                let (key, data) = self.canonical(id, codec, data)?;
                self.know_track(id, codec, sound, &data)?;
                self.give(Frame { track: id, dts: time, pts, key, discontinuity: false, wall: now, data });
                Ok(())
            }
            Content::End => {
                self.flush();
                self.events.push_back(Event::EndOfSequence);
                Ok(())
            }
        }
    }

    /// A sequence header came.
    fn configure(&mut self, id: TrackId, codec: Codec, config: &Bytes) -> Result<(), Error> {
        if self.known(id).is_some_and(|known| known.track.codec == codec && known.config == config) {
            return Ok(());
        }
        let bad = |source| Error::Config { codec, source };
        if config.len() > MAX_CONFIG_BYTES {
            return Err(bad(CodecError::Value { what: "length of the record", value: config.len() as u64 }));
        }
        // A copy, for a slice would keep the whole input buffer alive as long as the track.
        let own = Bytes::copy_from_slice(config);
        let (length_size, canonical) = match codec {
            Codec::H264 => {
                let length_size = h264::Config::parse(config).map_err(bad)?.length_size;
                (length_size, with_length_size_4(&own, AVCC_LENGTH_SIZE_AT))
            }
            Codec::H265 => {
                let length_size = h265::Config::parse(config).map_err(bad)?.length_size;
                (length_size, with_length_size_4(&own, HVCC_LENGTH_SIZE_AT))
            }
            // Brought into one form: encoders send the record with or without its box's version and flags.
            Codec::Vp9 => (4, vp9::Config::parse(config).map_err(bad)?.write()),
            Codec::Av1 | Codec::Aac | Codec::Opus => (4, own.clone()),
            Codec::Flac => (4, stream_info(&own)),
            // Enhanced RTMP has a record for VP8, which says nothing that a VP8 frame does not.
            Codec::Vp8 => (4, Bytes::new()),
            // These come without.
            Codec::G711A | Codec::G711U | Codec::Mp3 => return Ok(()),
        };
        let track = Track::new(id, codec, canonical).map_err(bad)?;
        self.set_track(Known { track, config: own, length_size })
    }

    /// A frame came: its track must be known, or be one that a frame alone makes known.
    fn know_track(&mut self, id: TrackId, codec: Codec, sound: Option<Audio>, data: &[u8]) -> Result<(), Error> {
        let known = self.known(id).map(|known| &known.track).filter(|track| track.codec == codec);
        let track = match codec {
            Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Aac | Codec::Opus | Codec::Flac => {
                return known.map(|_| ()).ok_or(Error::NoSequenceHeader(codec));
            }
            Codec::Vp8 | Codec::Vp9 if known.is_some() => return Ok(()),
            Codec::Vp8 | Codec::Vp9 => {
                Track::new(id, codec, Bytes::new()).map_err(|source| Error::Config { codec, source })?
            }
            Codec::G711A | Codec::G711U | Codec::Mp3 => {
                let sound = match sound {
                    Some(sound) => sound,
                    None => mp3::Header::parse(data).map_err(|source| Error::Frame { codec, source })?.audio,
                };
                if known.is_some_and(|track| track.sound() == Some(sound)) {
                    return Ok(());
                }
                Track::audio(id, codec, sound)
            }
        };
        self.set_track(Known { track, config: Bytes::new(), length_size: 4 })
    }

    /// The frame in the form of [`Frame::data`], and whether a decoder can begin with it. The bit stream is believed,
    /// not the tag.
    fn canonical(&self, id: TrackId, codec: Codec, data: Bytes) -> Result<(bool, Bytes), Error> {
        let bad = |source| Error::Frame { codec, source };
        let data = match codec {
            Codec::H264 | Codec::H265 => match self.known(id).map_or(4, |known| known.length_size) {
                4 => data,
                other => nal::relength(&data, other).map_err(bad)?.into(),
            },
            Codec::Av1 => av1::without_temporal_delimiters(data).map_err(bad)?,
            Codec::Aac => without_adts(data),
            Codec::Vp8 | Codec::Vp9 | Codec::Opus | Codec::G711A | Codec::G711U | Codec::Mp3 | Codec::Flac => data,
        };
        if data.is_empty() {
            return Err(Error::Empty("frame"));
        }
        let info = codec::check_frame(codec, &data).map_err(bad)?;
        Ok((info.key || codec.kind() == Kind::Audio, data))
    }

    fn known(&self, id: TrackId) -> Option<&Known> {
        self.tracks.iter().find(|known| known.track.id == id)
    }

    fn set_track(&mut self, new: Known) -> Result<(), Error> {
        let id = new.track.id;
        match self.tracks.binary_search_by_key(&id, |known| known.track.id) {
            Ok(at) => {
                let Some(old) = self.tracks.get(at) else { return Ok(()) };
                if old.track != new.track {
                    // Frames that are held are of the old track.
                    if self.probe.as_ref().is_some_and(|probe| !probe.is_empty()) {
                        self.flush();
                    }
                    self.changed = true;
                }
                if let Some(old) = self.tracks.get_mut(at) {
                    *old = new;
                }
            }
            Err(_) if self.tracks.len() >= Tracks::MAX => return Err(Error::TooManyTracks(id.0 / 2)),
            Err(at) => {
                if let Some(probe) = &mut self.probe {
                    match new.track.kind() {
                        Kind::Video => probe.know_video(),
                        Kind::Audio => probe.know_audio(),
                    }
                }
                self.tracks.insert(at, new);
                self.changed = true;
            }
        }
        Ok(())
    }

    fn give(&mut self, frame: Frame) {
        if let Some(probe) = &mut self.probe {
            probe.hold(frame);
        } else {
            self.announce_tracks();
            self.events.push_back(Event::Frame(frame));
        }
    }

    fn announce_tracks(&mut self) {
        if std::mem::take(&mut self.changed) {
            let tracks = self.tracks.iter().map(|known| known.track.clone()).collect();
            self.events.push_back(Event::Tracks(Tracks::new(tracks)));
        }
    }

    fn check_probe(&mut self) {
        if self.probe.as_ref().is_some_and(Probe::is_over) {
            self.flush();
        }
    }

    fn note(&mut self, kind: TagKind, error: Error) {
        self.dropped = self.dropped.saturating_add(1);
        if let (Error::OldCodec { .. } | Error::FourCc(_), Some(probe)) = (&error, &mut self.probe) {
            // Nothing to wait for.
            match kind {
                TagKind::Video => probe.know_video(),
                TagKind::Audio => probe.know_audio(),
                TagKind::Script => {}
            }
        }
        self.problem = Some(error);
    }
}

/// Where lengthSizeMinusOne is, in the low two bits: ISO 14496-15 5.3.3.1.2.
const AVCC_LENGTH_SIZE_AT: usize = 4;
/// And in ISO 14496-15 8.3.3.1.2.
const HVCC_LENGTH_SIZE_AT: usize = 21;

/// The record as it is to be with frames in our form.
fn with_length_size_4(config: &Bytes, at: usize) -> Bytes {
    if config.get(at).is_none_or(|byte| byte & 3 == 3) {
        return config.clone();
    }
    let mut changed = BytesMut::from(&config[..]);
    if let Some(byte) = changed.get_mut(at) {
        *byte |= 3;
    }
    changed.freeze()
}

/// STREAMINFO alone: what Enhanced RTMP has of FLAC may begin with the marker and the block's header as a file does, and go on with other blocks.
fn stream_info(record: &Bytes) -> Bytes {
    let bare = record.strip_prefix(b"fLaC").unwrap_or(record);
    // The type is 0, and may have the flag of the last block (RFC 9639 8.1).
    match bare {
        [0 | 0x80, 0, 0, 34, rest @ ..] if rest.len() >= flac::STREAMINFO_BYTES => {
            record.slice_ref(rest.get(..flac::STREAMINFO_BYTES).unwrap_or_default())
        }
        _ => record.clone(),
    }
}

/// AAC is to come raw; some cameras leave the ADTS header on. Raw AAC cannot begin like one: it would be an END element.
fn without_adts(data: Bytes) -> Bytes {
    match aac::adts_header(&data) {
        Ok(adts) if adts.frame_len_bytes == data.len() && adts.header_len_bytes < data.len() => {
            data.slice(adts.header_len_bytes..)
        }
        Ok(_) | Err(_) => data,
    }
}
