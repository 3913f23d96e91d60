//! One elementary stream: its PES packets gathered, and access units taken out.

use bytes::{BufMut, Bytes, BytesMut};
use culvert_media::codec::{aac, nal, opus};
use culvert_media::{Audio, Codec, CodecError, Track, TrackId};

use super::packet::Packet;
use super::pes;
use super::psi::Entry;
use super::sound::{Framing, Sound, Splitter, opus_packets};
use super::{Clock, HZ, Unit};
use crate::elementary::Elementary;
use crate::nal::{Kind, Role};
use crate::rtp::{Depacketizer, Error, Format};

/// Most bytes of a PES packet and of an access unit (security.md S21, as for RTP).
const UNIT_BYTES: usize = 8 << 20;

/// What comes out of a stream: its track where that is another than before, then a frame.
#[derive(Debug)]
pub(super) enum Out {
    Track,
    /// Presentation and decoding time, the bytes, and whether a decoder can begin there.
    Frame(i64, i64, Bytes, bool),
    /// Pictures are missing here.
    Gap,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) entry: Entry,
    pub(super) own: Elementary,
    form: Form,
    counter: Option<u8>,
    /// The PES packet that is being gathered; None: its beginning did not come.
    pes: Option<Vec<u8>>,
    damaged: u64,
}

/// What an element of LATM has in it: frames, and a configuration that is another than before.
type Whole = (Vec<Bytes>, Option<Bytes>);

#[derive(Debug)]
enum Form {
    Video(Video),
    Framed(Splitter),
    /// AudioSyncStream (ISO 14496-3 1.7.2) around AudioMuxElements.
    Latm(Box<Depacketizer>),
    Opus,
    /// A PES packet is a frame.
    Whole,
}

/// Pictures, each of one PES packet or of several of which only the first has times.
#[derive(Debug)]
struct Video {
    kind: Kind,
    unit: Option<(i64, i64, Vec<u8>)>,
    /// The decoding time that was told last, and how many units came since then.
    told: Option<(i64, i64)>,
    step: i64,
}

impl Stream {
    /// None: a kind that the hub has no word for.
    pub(super) fn new(entry: Entry, id: TrackId) -> Option<Stream> {
        let video = |kind| Form::Video(Video { kind, unit: None, told: None, step: 1 });
        // ISO 13818-1 table 2-34. 0x90 and 0x91 are what surveillance recorders have for G.711.
        let (codec, form) = match entry.stream_type {
            0x1b => (Codec::H264, video(Kind::H264)),
            0x24 => (Codec::H265, video(Kind::H265)),
            0x0f => (Codec::Aac, Form::Framed(Splitter::new(Framing::Adts))),
            0x11 => (Codec::Aac, Form::Latm(Box::new(Depacketizer::new(&Format::Latm { in_band: true })))),
            0x03 | 0x04 => (Codec::Mp3, Form::Framed(Splitter::new(Framing::Mpeg))),
            0x06 if entry.descriptor(0x05) == Some(b"Opus") => (Codec::Opus, Form::Opus),
            0x90 => (Codec::G711A, Form::Whole),
            0x91 => (Codec::G711U, Form::Whole),
            _ => return None,
        };
        let mut own = Elementary::new(id, codec);
        match codec {
            Codec::Opus => {
                // DVB extension descriptor, channel_config_code; 0 is two languages.
                let code =
                    entry.descriptor(0x7f).filter(|data| data.first() == Some(&0x80)).and_then(|data| data.get(1));
                let channels = code.copied().filter(|channels| *channels > 0).unwrap_or(2);
                own.set_track(Track::new(id, codec, opus::Head::new(channels).ok()?.write()).ok()?);
            }
            Codec::G711A | Codec::G711U => {
                own.set_track(Track::audio(id, codec, Audio { sample_rate_hz: 8000, channels: 1 }));
            }
            Codec::H264
            | Codec::H265
            | Codec::Av1
            | Codec::Vp8
            | Codec::Vp9
            | Codec::Aac
            | Codec::Mp3
            | Codec::Flac => {}
        }
        Some(Stream { entry, own, form, counter: None, pes: None, damaged: 0 })
    }

    /// What was refused since the last time that this was asked.
    pub(super) fn take_damaged(&mut self) -> u64 {
        std::mem::take(&mut self.damaged)
    }

    /// Takes a packet's payload.
    pub(super) fn handle(&mut self, packet: &Packet<'_>, clock: &mut Clock, out: &mut Vec<Out>) {
        if packet.discontinuity {
            self.counter = None;
        }
        let Some(payload) = packet.payload else { return };
        let last = self.counter.replace(packet.counter);
        if last == Some(packet.counter) {
            // Sent twice, as 2.4.3.3 allows.
            return;
        }
        if last.is_some_and(|last| (last + 1) & 0x0f != packet.counter) {
            self.tear(out);
        }
        if packet.begins {
            self.end(clock, out);
            self.pes = Some(payload.to_vec());
        } else if let Some(pes) = &mut self.pes {
            pes.extend_from_slice(payload);
            if pes.len() > UNIT_BYTES {
                self.tear(out);
                return;
            }
        }
        let whole = self.pes.as_ref().and_then(|pes| Some(pes.len() >= pes::Header::parse(pes).ok()?.end?));
        if whole == Some(true) {
            self.end(clock, out);
        }
    }

    /// A packet is missing: what it belonged to is torn.
    fn tear(&mut self, out: &mut Vec<Out>) {
        self.damaged += 1;
        self.pes = None;
        match &mut self.form {
            Form::Video(video) => {
                video.unit = None;
                out.push(Out::Gap);
            }
            Form::Framed(splitter) => splitter.tear(),
            Form::Latm(_) | Form::Opus | Form::Whole => {}
        }
    }

    /// The end of a segment: what was gathered is whole, but for a packet that says that it goes on.
    pub(super) fn flush(&mut self, clock: &mut Clock, out: &mut Vec<Out>) {
        let says = |pes: &Vec<u8>| pes::Header::parse(pes).ok()?.end.map(|end| end > pes.len());
        if self.pes.as_ref().and_then(says) == Some(true) {
            return;
        }
        self.end(clock, out);
        if let Form::Video(video) = &mut self.form {
            let units = video.end();
            self.emit(units, out);
        }
        self.counter = None;
    }

    /// The PES packet that was being gathered has ended.
    fn end(&mut self, clock: &mut Clock, out: &mut Vec<Out>) {
        let Some(pes) = self.pes.take() else { return };
        if self.packet(&pes, clock, out).is_err() {
            self.damaged += 1;
            if let Form::Video(video) = &mut self.form {
                video.unit = None;
                out.push(Out::Gap);
            }
        }
    }

    fn packet(&mut self, pes: &[u8], clock: &mut Clock, out: &mut Vec<Out>) -> Result<(), Error> {
        let header = pes::Header::parse(pes)?;
        let end = header.end.unwrap_or(pes.len());
        let payload = pes.get(header.payload..end).ok_or(CodecError::Short("PES packet"))?;
        let times = header.times.map(|(pts, dts)| {
            let dts = clock.unwrap(dts);
            (clock.beside(dts, pts), dts)
        });
        let pts = times.map(|(pts, _)| pts);
        let mut units = Vec::new();
        let mut opus = None;
        match &mut self.form {
            Form::Video(video) => units = video.take(times, payload),
            Form::Framed(splitter) => {
                let mut framed = Vec::new();
                self.damaged += splitter.take(pts, payload, &mut framed);
                for (unit, sound) in framed {
                    if self.own.set_track(track_of(self.own.id(), sound)?) {
                        out.push(Out::Track);
                    }
                    self.emit(vec![unit], out);
                }
                return Ok(());
            }
            Form::Latm(depacketizer) => {
                let elements = audio_sync_elements(payload).map(|element| depacketizer.whole(element?));
                let elements: Vec<_> = elements.collect::<Result<_, Error>>()?;
                return self.elements(pts, elements, out);
            }
            Form::Opus => opus = pts.map(|pts| opus_packets(pts, payload, &mut units)),
            Form::Whole => units.extend(pts.map(|pts| Unit { pts, dts: pts, data: Bytes::copy_from_slice(payload) })),
        }
        self.emit(units, out);
        Ok(opus.unwrap_or(Ok(()))?)
    }

    /// Elements of LATM, each with the configuration that was in it.
    fn elements(&mut self, pts: Option<i64>, elements: Vec<Whole>, out: &mut Vec<Out>) -> Result<(), Error> {
        let mut time = pts;
        for (frames, config) in elements {
            if let Some(config) = config
                && self.own.set_track(Track::new(self.own.id(), self.own.codec(), config)?)
            {
                out.push(Out::Track);
            }
            let Some(track) = self.own.track() else { continue };
            let config = aac::Config::parse(&track.config)?;
            let lasts = i64::from(config.samples_per_frame) * i64::from(HZ) / i64::from(config.sample_rate_hz.max(1));
            for data in frames {
                let Some(at) = time else { break };
                self.emit(vec![Unit { pts: at, dts: at, data }], out);
                time = Some(at + lasts);
            }
        }
        Ok(())
    }

    fn emit(&mut self, units: Vec<Unit>, out: &mut Vec<Out>) {
        for unit in units {
            let before = self.own.track().cloned();
            let taken = self.own.take(unit.data);
            if self.own.track() != before.as_ref() {
                out.push(Out::Track);
            }
            match taken {
                Ok(Some((data, key))) => out.push(Out::Frame(unit.pts, unit.dts, data, key)),
                Ok(None) => {}
                Err(_) => {
                    self.damaged += 1;
                    if matches!(self.form, Form::Video(_)) {
                        out.push(Out::Gap);
                    }
                }
            }
        }
    }
}

impl Video {
    /// Takes a PES packet's payload, and returns what ended with it.
    fn take(&mut self, times: Option<(i64, i64)>, payload: &[u8]) -> Vec<Unit> {
        let Some((pts, dts)) = times else {
            // It goes on.
            if let Some((.., data)) = &mut self.unit
                && data.len() + payload.len() <= UNIT_BYTES
            {
                data.extend_from_slice(payload);
            }
            return Vec::new();
        };
        let ended = self.end();
        self.unit = Some((pts, dts, payload.to_vec()));
        ended
    }

    /// The access units of what was gathered: one, or several between delimiters, of which only the first has times of its own.
    fn end(&mut self) -> Vec<Unit> {
        let Some((pts, dts, data)) = self.unit.take() else { return Vec::new() };
        let step = self.told.map(|(last, units)| (dts - last) / units.max(1));
        if let Some(step) = step.filter(|step| (1..=90_000).contains(step)) {
            self.step = step;
        }
        let mut units: Vec<Unit> = Vec::new();
        let mut unit = BytesMut::with_capacity(data.len() + 16);
        let mut has_picture = false;
        let mut push = |unit: BytesMut| {
            let late = self.step * units.len() as i64;
            units.push(Unit { pts: pts + late, dts: dts + late, data: unit.freeze() });
        };
        for part in nal::annexb_units(&data) {
            let role = part.first().map_or(Role::Unknown, |first| self.kind.role(*first));
            // A delimiter is of no use behind a length, and neither is filler.
            if role == Role::Filler {
                if has_picture && part.first().is_some_and(|first| self.kind.is_delimiter(*first)) {
                    push(std::mem::take(&mut unit));
                    has_picture = false;
                }
                continue;
            }
            has_picture |= role == Role::Picture;
            unit.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
            unit.put_slice(part);
        }
        if !unit.is_empty() {
            push(unit);
        }
        self.told = Some((dts, units.len() as i64));
        units
    }
}

/// The track that a frame's own header describes.
pub(crate) fn track_of(id: TrackId, sound: Sound) -> Result<Track, CodecError> {
    match sound {
        Sound::Aac(config) => Track::new(id, Codec::Aac, config.write()?),
        Sound::Mp3(audio) => Ok(Track::audio(id, Codec::Mp3, audio)),
    }
}

/// The AudioMuxElements of an AudioSyncStream: each behind 11 bits of sync and 13 of length.
fn audio_sync_elements(data: &[u8]) -> impl Iterator<Item = Result<&[u8], CodecError>> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (&[first, high, low], behind) = rest.split_first_chunk()?;
        rest = &[];
        if first != 0x56 || high & 0xe0 != 0xe0 {
            let value = u64::from(first) << 8 | u64::from(high);
            return Some(Err(CodecError::Value { what: "AudioSyncStream", value }));
        }
        let length = usize::from(high & 0x1f) << 8 | usize::from(low);
        let Some((element, behind)) = behind.split_at_checked(length) else {
            return Some(Err(CodecError::Short("AudioSyncStream")));
        };
        rest = behind;
        Some(Ok(element))
    })
}
