//! The initialisation segment: `ftyp` and `moov`, without samples.

use bytes::Bytes;
use culvert_media::codec::{flac, h264, h265, opus};
use culvert_media::{Codec, Track, Tracks};
use mp4_atom::esds::{DecoderConfig, DecoderSpecific, EsDescriptor};
use mp4_atom::{
    Atom, Audio, Av01, Av1c, Avc1, Avcc, Codec as SampleEntry, Compressor, Dfla, Dinf, Dops, Dref, Encode, Esds, Flac,
    FourCC, Ftyp, Hdlr, Hvc1, Hvcc, Mdhd, Mdia, Minf, Moov, Mp4a, Mvex, Mvhd, Opus, OpusChannelMapping, Smhd, Stbl,
    Stco, Stsc, Stsd, Stsz, StszSamples, Stts, Tkhd, Trak, Trex, Url, Visual, Vmhd, Vp09, VpcC,
};

use super::{Line, VIDEO_HZ, lines};

/// What goes before the first fragment. Empty where no track can be carried.
pub fn init(tracks: &Tracks) -> Bytes {
    let lines = lines(tracks);
    if lines.is_empty() {
        return Bytes::new();
    }
    let brand = |name: &[u8; 4]| FourCC::new(name);
    let ftyp = Ftyp {
        major_brand: brand(b"iso6"),
        minor_version: 0,
        compatible_brands: vec![brand(b"iso6"), brand(b"iso5"), brand(b"mp41"), brand(b"cmfc")],
    };
    let trex =
        lines.iter().map(|line| Trex { track_id: line.number, default_sample_description_index: 1, ..Trex::default() });
    let moov = Moov {
        mvhd: Mvhd { timescale: VIDEO_HZ, rate: 1.into(), volume: 1.into(), next_track_id: 3, ..Mvhd::default() },
        mvex: Some(Mvex { mehd: None, trex: trex.collect() }),
        trak: lines.iter().map(trak).collect(),
        ..Moov::default()
    };
    let mut out = Vec::new();
    // Writing to memory fails only for what no box can say, such as a text without an end.
    let written = ftyp.encode(&mut out).and_then(|()| moov.encode(&mut out));
    if written.is_err() {
        out.clear();
    }
    out.into()
}

fn trak(line: &Line) -> Trak {
    let video = line.track.video();
    let (width, height) = size(&line.track);
    let handler = if video.is_some() { b"vide" } else { b"soun" };
    let empty = Stbl {
        stsd: Stsd { codecs: vec![line.entry.clone()] },
        stts: Stts::default(),
        stsc: Stsc::default(),
        stsz: Stsz { samples: StszSamples::Different { sizes: Vec::new() } },
        stco: Some(Stco::default()),
        ..Stbl::default()
    };
    Trak {
        tkhd: Tkhd {
            track_id: line.number,
            enabled: true,
            in_movie: true,
            volume: u8::from(video.is_none()).into(),
            width: width.into(),
            height: height.into(),
            ..Tkhd::default()
        },
        mdia: Mdia {
            mdhd: Mdhd { timescale: line.clock_hz, language: "und".into(), ..Mdhd::default() },
            hdlr: Hdlr { handler: FourCC::new(handler), name: "culvert".into() },
            minf: Minf {
                vmhd: video.map(|_| Vmhd::default()),
                smhd: video.is_none().then(Smhd::default),
                dinf: Dinf { dref: Dref { entries: vec![Url::default().into()] } },
                stbl: empty,
                ..Minf::default()
            },
        },
        ..Trak::default()
    }
}

/// A sample entry; None for what MP4 does not carry so that browsers play it, and for a record that nobody can read.
pub(super) fn entry(track: &Track) -> Option<SampleEntry> {
    let mut record = &track.config[..];
    let entry: SampleEntry = match track.codec {
        Codec::H264 => {
            // Some encoders leave the record's end out or put something behind it; the parameter sets are sound all the same.
            let again = || Avcc::decode_body(&mut &h264::Config::parse(&track.config).ok()?.write()[..]).ok();
            let avcc = Avcc::decode_body(&mut record).ok().or_else(again)?;
            Avc1 {
                visual: visual(track),
                avcc,
                btrt: None,
                colr: None,
                pasp: None,
                taic: None,
                fiel: None,
                spatial: None,
            }
            .into()
        }
        Codec::H265 => {
            let again = || Hvcc::decode_body(&mut &h265::Config::parse(&track.config).ok()?.write()[..]).ok();
            let hvcc = Hvcc::decode_body(&mut record).ok().or_else(again)?;
            Hvc1 { visual: visual(track), hvcc, ..Hvc1::default() }.into()
        }
        Codec::Av1 => {
            let av1c = Av1c::decode_body(&mut record).ok()?;
            Av01 { visual: visual(track), av1c, ..Av01::default() }.into()
        }
        Codec::Vp9 => {
            let vpcc = VpcC::decode_body(&mut record).ok()?;
            Vp09 { visual: visual(track), vpcc, ..Vp09::default() }.into()
        }
        Codec::Aac => mp4a(track, 0x40, Some(track.config.to_vec())).into(),
        // MPEG-1 audio as an object of MPEG-4's (ISO 14496-1 table 5), which has no configuration.
        Codec::Mp3 => mp4a(track, 0x6b, None).into(),
        Codec::Opus => opus_entry(track).into(),
        Codec::Flac => {
            // A FullBox, and the header of the block, which is the last (Encapsulation of FLAC in ISO BMFF 3.3.2).
            let body = [&[0, 0, 0, 0, 0x80, 0, 0, flac::STREAMINFO_BYTES as u8], record].concat();
            Flac { audio: audio(track), dfla: Dfla::decode_body(&mut &body[..]).ok()? }.into()
        }
        Codec::Vp8 | Codec::G711A | Codec::G711U => return None,
    };
    // What can be read can not always be written.
    entry.encode(&mut Vec::new()).ok()?;
    Some(entry)
}

fn visual(track: &Track) -> Visual {
    let (width, height) = size(track);
    Visual { data_reference_index: 1, width, height, compressor: Compressor::default(), ..Visual::default() }
}

fn size(track: &Track) -> (u16, u16) {
    let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
    track.video().map_or((0, 0), |video| (side(video.width), side(video.height)))
}

fn audio(track: &Track) -> Audio {
    let (rate, channels) = track.sound().map_or((48_000, 2), |sound| (sound.sample_rate_hz, sound.channels));
    Audio {
        data_reference_index: 1,
        channel_count: u16::from(channels),
        sample_size: 16,
        // Rates that 16 bits cannot say are told by the codec's record alone.
        sample_rate: u16::try_from(rate).unwrap_or(0).into(),
    }
}

/// With an ES_Descriptor (ISO 14496-1 7.2.6.5); `specific` is the AudioSpecificConfig.
fn mp4a(track: &Track, object_type: u8, specific: Option<Vec<u8>>) -> Mp4a {
    let dec_config = DecoderConfig {
        object_type_indication: object_type,
        // Audio. Buffer size and bit rates are not known.
        stream_type: 5,
        dec_specific: specific.map(|raw| DecoderSpecific { raw, ..DecoderSpecific::default() }),
        ..DecoderConfig::default()
    };
    let es_desc = EsDescriptor { dec_config, ..EsDescriptor::default() };
    Mp4a { audio: audio(track), esds: Esds { es_desc }, btrt: None, taic: None }
}

fn opus_entry(track: &Track) -> Opus {
    let head = opus::Head::parse(&track.config).ok();
    let dops = head.map_or_else(
        || Dops {
            output_channel_count: 2,
            pre_skip: 0,
            input_sample_rate: 48_000,
            output_gain: 0,
            channel_mapping: None,
        },
        |head| Dops {
            output_channel_count: head.channels,
            pre_skip: head.pre_skip,
            // Not the head's, which is a hint: chromium refuses what is not the sample entry's, and that has to be 48 kHz.
            input_sample_rate: 48_000,
            output_gain: head.gain,
            channel_mapping: (head.mapping.family != 0).then(|| OpusChannelMapping {
                family: head.mapping.family,
                stream_count: head.mapping.streams,
                coupled_count: head.mapping.coupled,
                channel_mapping: head.mapping.table.clone(),
            }),
        },
    );
    Opus { audio: audio(track), dops, btrt: None }
}
