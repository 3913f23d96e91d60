//! Fragmented MP4 read: an initialisation segment and the fragments behind it, as HLS sources send them.

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::Bytes;
use culvert_media::codec::{flac, nal, opus};
use culvert_media::{Audio, Codec, CodecError, Frame, Kind, Time, Track, TrackId, Tracks};
use mp4_atom::{
    Atom, Avc1, Avc3, Codec as SampleEntry, DecodeMaybe, Dfla, FlacMetadataBlock, FourCC, Header, Hev1, Hvc1, Moof,
    Moov, Traf, Trak,
};
use thiserror::Error;

use crate::Event;
use crate::elementary::Elementary;

/// Most samples of a segment: a minute at 1,000 of them per second.
const SAMPLES: usize = 60_000;

/// Why an initialisation segment or a fragment was refused.
#[derive(Debug, Error)]
pub enum Error {
    /// The boxes are broken.
    #[error("its boxes are broken: {0}")]
    Boxes(String),
    /// There is no `moov`.
    #[error("it has no moov box, so it does not say what the tracks are")]
    NoMoov,
    /// Nothing in it is carried.
    #[error("none of its tracks is carried: {0}")]
    NoTracks(String),
    /// A fragment says of a sample that it is where it is not.
    #[error("a fragment says that it has samples where there are none")]
    Samples,
    /// What it says of a track cannot be.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl From<mp4_atom::Error> for Error {
    fn from(error: mp4_atom::Error) -> Error {
        Error::Boxes(error.to_string())
    }
}

/// Takes fragments apart.
#[derive(Debug)]
pub struct Demux {
    lines: Vec<Line>,
    announced: Option<Tracks>,
    events: VecDeque<Event>,
    damaged: u64,
}

/// A track of the file.
#[derive(Debug)]
struct Line {
    /// Its number there.
    number: u32,
    own: Elementary,
    clock_hz: u32,
    /// Presentation begins here, in ticks (an edit list's media_time).
    begins: i64,
    /// Bytes of the lengths of NAL units.
    length_size: usize,
    /// Duration and size where neither fragment nor run says them.
    defaults: (u32, u32),
    /// Where it goes on if a fragment does not say.
    next: i64,
}

impl Demux {
    /// Of this initialisation segment.
    pub fn new(init: &[u8]) -> Result<Demux, Error> {
        let moov = boxes(init).find_map(|found| match found {
            Ok((kind, _, body)) if kind == Moov::KIND => Some(Moov::decode_body(&mut &*body).map_err(Error::from)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        let moov = moov.ok_or(Error::NoMoov)??;
        let (mut lines, mut others) = (Vec::new(), Vec::new());
        for trak in moov.trak.iter().take(Tracks::MAX) {
            let id = TrackId(u8::try_from(lines.len()).unwrap_or(u8::MAX));
            let entry = trak.mdia.minf.stbl.stsd.codecs.first();
            match entry.map(|entry| track(id, entry)) {
                Some(Ok(Some((track, length_size)))) => lines.push(line(&moov, trak, track, length_size)),
                Some(Ok(None)) => others.extend(entry.map(name)),
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
        }
        if lines.is_empty() {
            return Err(Error::NoTracks(if others.is_empty() { "there are none".into() } else { others.join(", ") }));
        }
        Ok(Demux { lines, announced: None, events: VecDeque::new(), damaged: 0 })
    }

    /// Takes a media segment: any number of fragments, whole. After an error what came before it is there.
    pub fn handle_segment(&mut self, now: SystemTime, segment: &Bytes) -> Result<(), Error> {
        let mut budget = SAMPLES;
        for found in boxes(segment) {
            let (kind, begin, body) = found?;
            if kind == Moof::KIND {
                let moof = Moof::decode_body(&mut &*body)?;
                self.fragment(now, segment, begin, &moof, &mut budget)?;
            }
        }
        Ok(())
    }

    /// The next thing that came out.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Samples that were refused so far.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn fragment(
        &mut self,
        now: SystemTime,
        segment: &Bytes,
        begin: usize,
        moof: &Moof,
        budget: &mut usize,
    ) -> Result<(), Error> {
        // Where data goes on if nobody says (ISO 14496-12 8.8.7.1).
        let mut implied = begin;
        let mut samples = Vec::new();
        for traf in &moof.traf {
            let Some(at) = self.lines.iter().position(|line| line.number == traf.tfhd.track_id) else { continue };
            let Some(line) = self.lines.get_mut(at) else { continue };
            let base = match traf.tfhd.base_data_offset {
                Some(offset) => usize::try_from(offset).map_err(|_| Error::Samples)?,
                None if traf.tfhd.default_base_is_moof => begin,
                None => implied,
            };
            let place = Place { line: at, base, length: segment.len() };
            implied = runs(line, traf, &place, budget, &mut samples)?;
        }
        // As they are decoded, tracks side by side.
        samples.sort_by_key(|sample: &Sample| sample.dts);
        for sample in samples {
            self.sample(now, segment, &sample);
        }
        Ok(())
    }

    fn sample(&mut self, now: SystemTime, segment: &Bytes, sample: &Sample) {
        let Some(line) = self.lines.get_mut(sample.line) else { return };
        let data = segment.slice(sample.from..sample.to);
        let data = match (line.own.codec(), line.length_size) {
            (Codec::H264 | Codec::H265, size) if size != 4 => nal::relength(&data, size).map(Bytes::from),
            _ => Ok(data),
        };
        let track = line.own.id();
        match data.and_then(|data| line.own.take(data)) {
            Ok(Some((data, key))) => {
                self.announce();
                let (dts, pts) = (sample.dts, sample.pts);
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
            Ok(None) => {}
            Err(_) => {
                self.damaged += 1;
                if line.own.codec().kind() == Kind::Video {
                    self.events.push_back(Event::Gap);
                }
            }
        }
    }

    fn announce(&mut self) {
        let known = self.announced.iter().flat_map(Tracks::iter);
        let now = || self.lines.iter().filter_map(|line| line.own.track());
        if !known.eq(now()) {
            let tracks = Tracks::new(now().cloned().collect());
            self.announced = Some(tracks.clone());
            self.events.push_back(Event::Tracks(tracks));
        }
    }
}

#[derive(Debug)]
struct Sample {
    line: usize,
    dts: Time,
    pts: Time,
    from: usize,
    to: usize,
}

/// Where the data of a traf is: of which line, from where on, in how many bytes.
struct Place {
    line: usize,
    base: usize,
    length: usize,
}

/// The samples of a traf. Returns where their data ends.
fn runs(
    line: &mut Line,
    traf: &Traf,
    place: &Place,
    budget: &mut usize,
    samples: &mut Vec<Sample>,
) -> Result<usize, Error> {
    let (duration, size) = line.defaults;
    let duration = traf.tfhd.default_sample_duration.unwrap_or(duration);
    let size = traf.tfhd.default_sample_size.unwrap_or(size);
    if let Some(tfdt) = &traf.tfdt {
        line.next = i64::try_from(tfdt.base_media_decode_time).map_err(|_| Error::Samples)?;
    }
    let mut from = place.base;
    for trun in &traf.trun {
        if let Some(offset) = trun.data_offset {
            from = place.base.checked_add_signed(offset as isize).ok_or(Error::Samples)?;
        }
        for sample in &trun.samples {
            let bytes = sample.size.unwrap_or(size) as usize;
            let to = from.checked_add(bytes).filter(|to| *to <= place.length).ok_or(Error::Samples)?;
            *budget = budget.checked_sub(1).ok_or(Error::Samples)?;
            let dts = line.next.saturating_sub(line.begins);
            let pts = dts.saturating_add(sample.cts.unwrap_or(0));
            let time = |ticks| Time::from_ticks(ticks, line.clock_hz);
            if bytes > 0 {
                samples.push(Sample { line: place.line, dts: time(dts), pts: time(pts), from, to });
            }
            line.next = line.next.saturating_add(i64::from(sample.duration.unwrap_or(duration)));
            from = to;
        }
    }
    Ok(from)
}

fn line(moov: &Moov, trak: &Trak, track: Track, length_size: usize) -> Line {
    let number = trak.tkhd.track_id;
    let trex = moov.mvex.iter().flat_map(|mvex| &mvex.trex).find(|trex| trex.track_id == number);
    let edits = trak.edts.iter().filter_map(|edts| edts.elst.as_ref()).flat_map(|elst| &elst.entries);
    // What is empty puts the media off, in the movie's clock; the first that is not says where in the media it begins (8.6.6).
    let (mut empty, mut media) = (0i64, 0i64);
    for edit in edits {
        match edit.media_time {
            None => empty = empty.saturating_add_unsigned(edit.segment_duration),
            Some(time) => {
                media = i64::try_from(time).unwrap_or(i64::MAX);
                break;
            }
        }
    }
    let clock_hz = trak.mdia.mdhd.timescale.max(1);
    let empty = Time::from_ticks(empty, moov.mvhd.timescale.max(1)).to_ticks(clock_hz);
    Line {
        number,
        own: Elementary::with(track),
        clock_hz,
        begins: media.saturating_sub(empty),
        length_size,
        defaults: trex.map_or((0, 0), |trex| (trex.default_sample_duration, trex.default_sample_size)),
        next: 0,
    }
}

/// The track of a sample entry, and the bytes of its NAL lengths. None: the hub has no word for it.
#[allow(clippy::wildcard_enum_match_arm, reason = "the list is another crate's and grows")]
fn track(id: TrackId, entry: &SampleEntry) -> Result<Option<(Track, usize)>, CodecError> {
    use culvert_media::codec::{h264, h265};
    let of = |codec, config: Bytes| Track::new(id, codec, config).map(|track| Some((track, 4)));
    match entry {
        SampleEntry::Avc1(Avc1 { avcc, .. }) | SampleEntry::Avc3(Avc3 { avcc, .. }) => {
            let mut config = h264::Config::parse(&record(avcc)?)?;
            let size = std::mem::replace(&mut config.length_size, 4);
            Ok(Some((Track::new(id, Codec::H264, config.write())?, size)))
        }
        SampleEntry::Hvc1(Hvc1 { hvcc, .. }) | SampleEntry::Hev1(Hev1 { hvcc, .. }) => {
            let mut config = h265::Config::parse(&record(hvcc)?)?;
            let size = std::mem::replace(&mut config.length_size, 4);
            Ok(Some((Track::new(id, Codec::H265, config.write())?, size)))
        }
        SampleEntry::Av01(entry) => of(Codec::Av1, record(&entry.av1c)?),
        SampleEntry::Vp09(entry) => of(Codec::Vp9, record(&entry.vpcc)?),
        SampleEntry::Vp08(_) => of(Codec::Vp8, Bytes::new()),
        SampleEntry::Mp4a(entry) => {
            let config = &entry.esds.es_desc.dec_config;
            match (config.object_type_indication, &config.dec_specific) {
                // ISO 14496-1 table 5: MPEG-4 audio; MPEG-2 AAC, Main, LC and SSR; MPEG-1 and MPEG-2 audio.
                (0x40 | 0x66..=0x68, Some(specific)) => of(Codec::Aac, Bytes::copy_from_slice(&specific.raw)),
                (0x6b | 0x69, _) => Ok(Some((mp3(id, &entry.audio), 4))),
                _ => Ok(None),
            }
        }
        SampleEntry::Flac(entry) => {
            let is_info = |block: &&FlacMetadataBlock| matches!(block, FlacMetadataBlock::StreamInfo { .. });
            let info = entry.dfla.blocks.iter().find(is_info).cloned().ok_or(CodecError::Missing("FLAC"))?;
            let body = record(&Dfla { blocks: vec![info] })?;
            of(Codec::Flac, body.slice(body.len().saturating_sub(flac::STREAMINFO_BYTES)..))
        }
        SampleEntry::Mp3(entry) => Ok(Some((mp3(id, &entry.audio), 4))),
        SampleEntry::Opus(entry) => {
            let dops = &entry.dops;
            let mut head = opus::Head::new(dops.output_channel_count.clamp(1, 8))?;
            (head.pre_skip, head.gain) = (dops.pre_skip, dops.output_gain);
            head.input_sample_rate_hz = dops.input_sample_rate;
            if let Some(mapping) = &dops.channel_mapping {
                head.mapping = opus::Mapping {
                    family: mapping.family,
                    streams: mapping.stream_count,
                    coupled: mapping.coupled_count,
                    table: mapping.channel_mapping.clone(),
                };
            }
            of(Codec::Opus, head.write())
        }
        _ => Ok(None),
    }
}

fn mp3(id: TrackId, audio: &mp4_atom::Audio) -> Track {
    let sample_rate_hz = u32::from(audio.sample_rate.integer()).max(1);
    let channels = u8::try_from(audio.channel_count).unwrap_or(2);
    Track::audio(id, Codec::Mp3, Audio { sample_rate_hz, channels })
}

/// A configuration record as the box has it.
fn record<A: Atom>(atom: &A) -> Result<Bytes, CodecError> {
    let mut out = Vec::new();
    atom.encode_body(&mut out).map_err(|_| CodecError::Short("configuration record"))?;
    Ok(out.into())
}

/// What an entry that is not carried is called.
fn name(entry: &SampleEntry) -> String {
    if let SampleEntry::Unknown(kind, _) = entry {
        return kind.to_string();
    }
    let shown = format!("{entry:?}");
    shown.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase()
}

/// Each box of the upper level: its name, where it begins, and what is in it. A length that lies is an error, after which it ends.
fn boxes(data: &[u8]) -> impl Iterator<Item = Result<(FourCC, usize, &[u8]), Error>> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let begin = data.len() - rest.len();
        if rest.is_empty() {
            return None;
        }
        let header = match Header::decode_maybe(&mut rest) {
            Ok(Some(header)) => header,
            Ok(None) => {
                rest = &[];
                return Some(Err(Error::Boxes("it ends within a box".into())));
            }
            Err(error) => {
                rest = &[];
                return Some(Err(error.into()));
            }
        };
        let size = header.size.unwrap_or(rest.len());
        let Some((body, behind)) = rest.split_at_checked(size) else {
            rest = &[];
            return Some(Err(Error::Boxes(format!("{} is longer than what there is", header.kind))));
        };
        rest = behind;
        Some(Ok((header.kind, begin, body)))
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use mp4_atom::{Edts, Elst, ElstEntry, Encode, Mfhd, Tfdt, Tfhd, Trex, Trun, TrunEntry};
    use proptest::prelude::*;

    use super::super::tests::{AUDIO, VIDEO, frame, h264_aac};
    use super::super::{Gather, init};
    use super::*;

    fn picture(dts_ms: i64, pts_ms: i64, key: bool) -> Frame {
        let nal: &[u8] = if key { &[0, 0, 0, 3, 0x65, 0x88, 1] } else { &[0, 0, 0, 3, 0x41, 0x9a, 2] };
        Frame { data: Bytes::from_static(nal), ..frame(VIDEO, dts_ms, pts_ms, key) }
    }

    fn segment() -> Vec<u8> {
        let mut gather = Gather::new(&h264_aac());
        for n in 0..6 {
            gather.push(&picture(40 * n, 40 * n + 80, n == 0));
            gather.push(&frame(AUDIO, 23 * n, 23 * n, true));
        }
        let mut out = Vec::new();
        gather.write(None, &mut out);
        out
    }

    fn read(demux: &mut Demux, segment: &[u8]) -> Result<Vec<Event>, Error> {
        let ended = demux.handle_segment(UNIX_EPOCH, &Bytes::copy_from_slice(segment));
        let events = std::iter::from_fn(|| demux.poll_event()).collect();
        ended.map(|()| events)
    }

    fn frames(events: &[Event]) -> Vec<(u8, i64, i64, bool)> {
        let frames = events.iter().filter_map(|event| match event {
            Event::Frame(frame) => Some((frame.track.0, frame.dts.millis(), frame.pts.millis(), frame.key)),
            Event::Tracks(_) | Event::Gap => None,
        });
        frames.collect()
    }

    #[test]
    fn what_we_write_is_what_is_read() {
        let mut demux = Demux::new(&init(&h264_aac())).unwrap();
        let events = read(&mut demux, &segment()).unwrap();
        let Event::Tracks(tracks) = &events[0] else { panic!("{events:?}") };
        let named = |tracks: &Tracks| tracks.iter().map(|t| (t.codec, t.config.clone())).collect::<Vec<_>>();
        assert_eq!(named(tracks), named(&h264_aac()));
        let frames = frames(&events);
        let of = |track| frames.iter().filter(|f| f.0 == track).map(|f| (f.1, f.2, f.3)).collect::<Vec<_>>();
        assert_eq!(of(0), (0..6).map(|n| (40 * n, 40 * n + 80, n == 0)).collect::<Vec<_>>());
        assert_eq!(of(1).len(), 6);
        assert!(of(1).iter().zip(0i64..).all(|(found, n)| (found.0 - 23 * n).abs() <= 1), "{:?}", of(1));
        assert!(frames.windows(2).all(|pair| pair[0].1 <= pair[1].1), "side by side in time: {frames:?}");
        assert_eq!(demux.damaged(), 0);
    }

    /// The moov of two tracks, changed.
    fn changed(change: impl Fn(&mut Moov)) -> Vec<u8> {
        let init = init(&h264_aac());
        let (_, _, body) = boxes(&init).map(Result::unwrap).find(|(kind, ..)| *kind == Moov::KIND).unwrap();
        let mut moov = Moov::decode_body(&mut &*body).unwrap();
        change(&mut moov);
        let mut out = Vec::new();
        moov.encode(&mut out).unwrap();
        out
    }

    /// A fragment of one track behind `before` bytes of something else.
    fn fragment(tfhd: Tfhd, trun: Trun, before: usize, data: &[u8]) -> Vec<u8> {
        let tfdt = Some(Tfdt { base_media_decode_time: 90_000 });
        let traf = Traf { tfhd, tfdt, trun: vec![trun], ..Traf::default() };
        let mut out = vec![0; before];
        if let Some(head) = out.first_chunk_mut() {
            *head = [0, 0, 0, before as u8, b'f', b'r', b'e', b'e'];
        }
        Moof { mfhd: Mfhd { sequence_number: 1 }, traf: vec![traf] }.encode(&mut out).unwrap();
        out.extend((data.len() as u32 + 8).to_be_bytes());
        out.extend(b"mdat");
        out.extend(data);
        out
    }

    #[test]
    fn what_fragments_leave_out_is_found_elsewhere() {
        // Lengths of two bytes; size and duration in trex; presentation begins 2 s into the media.
        let init = changed(|moov| {
            let SampleEntry::Avc1(avc) = &mut moov.trak[0].mdia.minf.stbl.stsd.codecs[0] else { panic!("H.264") };
            avc.avcc.length_size = 2;
            moov.mvex.as_mut().unwrap().trex[0] =
                Trex { track_id: 1, default_sample_duration: 3_000, default_sample_size: 5, ..Trex::default() };
            let entries = vec![
                // Half a second of nothing before it.
                ElstEntry { media_time: None, segment_duration: 45_000, ..ElstEntry::default() },
                ElstEntry { media_time: Some(180_000), ..ElstEntry::default() },
            ];
            moov.trak[0].edts = Some(Edts { elst: Some(Elst { entries }) });
        });
        let data = [0, 3, 0x65, 0x88, 1, 0, 3, 0x41, 0x9a, 2];
        let entry = |cts| TrunEntry { cts: Some(cts), ..TrunEntry::default() };
        let samples = || vec![entry(180_000), entry(186_000)].into();
        // Nothing says where the data is but the offset from the moof; then from the file's beginning.
        let relative = Tfhd { track_id: 1, default_base_is_moof: true, ..Tfhd::default() };
        let length = fragment(relative.clone(), Trun { data_offset: Some(0), samples: samples() }, 0, &data).len();
        let offset = (length - data.len()) as i32;
        let absolute = Tfhd { track_id: 1, base_data_offset: Some(20), ..Tfhd::default() };
        let implied = Tfhd { track_id: 1, ..Tfhd::default() };
        let cases = [(relative, offset), (absolute, offset + 8), (implied, offset)];
        for (tfhd, offset) in cases {
            let bytes = fragment(tfhd, Trun { data_offset: Some(offset), samples: samples() }, 20, &data);
            let mut demux = Demux::new(&init).unwrap();
            let events = read(&mut demux, &bytes).unwrap();
            assert_eq!(frames(&events), [(0, -500, 1_500, true), (0, -467, 1_600, false)]);
            assert!(matches!(&events[1], Event::Frame(frame) if *frame.data == [0, 0, 0, 3, 0x65, 0x88, 1]));
        }
    }

    #[test]
    fn what_lies_is_refused_with_its_reason() {
        let why = |init: &[u8]| Demux::new(init).unwrap_err().to_string();
        assert!(why(b"").contains("no moov") && why(b"<html>").contains("boxes"));
        assert!(why(&changed(|moov| moov.trak.clear())).contains("there are none"));
        let other = changed(|moov| {
            moov.trak.truncate(1);
            moov.trak[0].mdia.minf.stbl.stsd.codecs = vec![mp4_atom::Tx3g::default().into()];
        });
        assert!(why(&other).contains("tx3g"), "{}", why(&other));
        let mut demux = Demux::new(&init(&h264_aac())).unwrap();
        let tfhd = Tfhd { track_id: 1, default_sample_size: Some(0), ..Tfhd::default() };
        let many = mp4_atom::TrunSamples::Inherited { count: u32::MAX, first_flags: None };
        let bytes = fragment(tfhd, Trun { data_offset: None, samples: many }, 0, &[]);
        assert!(matches!(read(&mut demux, &bytes), Err(Error::Samples)));
        // No more in many fragments than in one.
        let few = || mp4_atom::TrunSamples::Inherited { count: 30_000, first_flags: None };
        let tfhd = Tfhd { track_id: 1, default_sample_size: Some(0), ..Tfhd::default() };
        let one = fragment(tfhd, Trun { data_offset: None, samples: few() }, 0, &[]);
        assert_eq!(read(&mut demux, &[&one[..], &one].concat()).unwrap(), []);
        assert!(matches!(read(&mut demux, &[&one[..], &one, &one].concat()), Err(Error::Samples)));
        let tfhd = Tfhd { track_id: 1, default_sample_size: Some(9), ..Tfhd::default() };
        for offset in [i32::MIN, -1, 1_000, i32::MAX] {
            let one = mp4_atom::TrunSamples::Inherited { count: 1, first_flags: None };
            let bytes = fragment(tfhd.clone(), Trun { data_offset: Some(offset), samples: one }, 0, &[1; 9]);
            assert!(matches!(read(&mut demux, &bytes), Err(Error::Samples)), "{offset}");
        }
    }

    proptest! {
        #[test]
        fn damage_does_no_harm(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30), in_init: bool) {
            let (mut init, mut segment) = (init(&h264_aac()).to_vec(), segment());
            for (at, value) in flips {
                let bytes = if in_init { &mut init } else { &mut segment };
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(mut demux) = Demux::new(&init) {
                read(&mut demux, &segment).ok();
                prop_assert!(demux.events.len() <= SAMPLES);
            }
        }
    }
}
