//! What is written is what an independent reader (mp4-atom's decoder, which the fragments do not use) finds.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use culvert_media::{Audio, Chunk, Codec, Frame, Mux as _, Time, Track, TrackId, Tracks};
use mp4_atom::{Any, Codec as SampleEntry, DecodeMaybe, Moov};

use super::*;

pub(super) const VIDEO: TrackId = TrackId(3);
pub(super) const AUDIO: TrackId = TrackId(5);

/// Records of libx264, libx265, libaom, SVT-AV1 and libvpx, as ffmpeg 5.1 wrote them.
const AVC: &str = "0142c015ffe100196742c015d901b1fe4f011000000300100000030320f162e48001000568cb83cb20";
const HEVC: &str = "0101600000009000000000003cf000fcfdf8f800000f03a00001001840010c01ffff01600000030090000003000003003c959809a10001002b42010101600000030090000003000003003ca00d880f1c9e5959a4932bc05a020000030002000003003210a2000100074401c172b46240";
const HEVC_HIGH: &str = "0124080000009d080000000099f000fcfefafa00001303a00001001b40010c02ffff2408000003009d0800000300009900009598acc048a1000100314201022408000003009d080000030000990000b005b20199c93b659598acd249caf016a020404080000003008000000f04a2000100074401c172b46240";
const AV1: &str = "81000c000a0b000000043ea7bcdaf90040";
const AV1_TEN_BITS: &str = "81014c000a0b0000000cc5036900be1010";
const VP9: &str = "01000000000a820202020000";
const OPUS: &str = "4f707573486561640102380180bb0000000000";
const AAC: &str = "1210";
/// Of ffmpeg 9.0.
const FLAC: &str = "040004000001510001730bb802f000000c0007efccfa4bbc4230ac64c411665cb275";

fn track(id: TrackId, codec: Codec, hex: &str) -> Track {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let config = (0..hex.len()).step_by(2).map(digit).collect::<Vec<_>>();
    Track::new(id, codec, config.into()).unwrap()
}

pub(super) fn h264_aac() -> Tracks {
    Tracks::new(vec![track(VIDEO, Codec::H264, AVC), track(AUDIO, Codec::Aac, AAC)])
}

pub(super) fn frame(track: TrackId, dts_ms: i64, pts_ms: i64, key: bool) -> Frame {
    let (dts, pts) = (Time::from_millis(dts_ms), Time::from_millis(pts_ms));
    let wall = UNIX_EPOCH + Duration::from_secs(1);
    Frame { track, dts, pts, key, discontinuity: false, wall, data: Bytes::from_static(b"coded") }
}

fn boxes(mut bytes: &[u8]) -> Vec<Any> {
    std::iter::from_fn(|| Any::decode_maybe(&mut bytes).unwrap()).collect()
}

fn moov(tracks: &Tracks) -> Moov {
    let found =
        boxes(&init(tracks)).into_iter().find_map(|found| if let Any::Moov(moov) = found { Some(moov) } else { None });
    found.unwrap()
}

#[test]
fn codecs_are_named_as_browsers_ask_for_them() {
    let cases = [
        (Codec::H264, AVC, "video/mp4; codecs=\"avc1.42c015\""),
        (Codec::H265, HEVC, "video/mp4; codecs=\"hvc1.1.6.L60.90\""),
        (Codec::H265, HEVC_HIGH, "video/mp4; codecs=\"hvc1.4.10.H153.9D.8\""),
        (Codec::Av1, AV1, "video/mp4; codecs=\"av01.0.00M.08\""),
        (Codec::Av1, AV1_TEN_BITS, "video/mp4; codecs=\"av01.0.01M.10\""),
        (Codec::Vp9, VP9, "video/mp4; codecs=\"vp09.00.10.08\""),
        (Codec::Opus, OPUS, "audio/mp4; codecs=\"opus\""),
        (Codec::Aac, AAC, "audio/mp4; codecs=\"mp4a.40.2\""),
        (Codec::Flac, FLAC, "audio/mp4; codecs=\"fLaC\""),
    ];
    for (codec, record, named) in cases {
        assert_eq!(mime(&Tracks::new(vec![track(VIDEO, codec, record)])), named);
    }
    assert_eq!(codecs(&h264_aac()), "avc1.42c015,mp4a.40.2");
}

#[test]
fn another_reader_finds_the_tracks() {
    let moov = moov(&h264_aac());
    assert_eq!(moov.mvex.unwrap().trex.iter().map(|trex| trex.track_id).collect::<Vec<_>>(), [1, 2]);
    let [video, sound] = &moov.trak[..] else { panic!("two tracks") };
    assert_eq!((video.tkhd.track_id, video.tkhd.width.integer(), video.tkhd.height.integer()), (1, 426, 240));
    assert_eq!((video.mdia.mdhd.timescale, sound.mdia.mdhd.timescale), (90_000, 44_100));
    let SampleEntry::Avc1(avc) = &video.mdia.minf.stbl.stsd.codecs[0] else { panic!("H.264") };
    assert_eq!((avc.visual.width, avc.avcc.avc_level_indication, avc.avcc.length_size), (426, 0x15, 4));
    let SampleEntry::Mp4a(aac) = &sound.mdia.minf.stbl.stsd.codecs[0] else { panic!("AAC") };
    let specific = aac.esds.es_desc.dec_config.dec_specific.as_ref().unwrap();
    assert_eq!((aac.audio.channel_count, specific.profile, specific.freq_index), (2, 2, 4));
}

#[test]
fn every_codec_that_is_carried_is_read_back() {
    let read = |codec, record| {
        let tracks = Tracks::new(vec![track(VIDEO, codec, record)]);
        let (whole, config) = (init(&tracks), tracks.iter().next().unwrap().config.clone());
        // An OpusHead says the same as a dOps, in another byte order.
        assert!(codec == Codec::Opus || whole.windows(config.len()).any(|at| at == &config[..]), "{codec:?}");
        let moov = moov(&tracks);
        moov.trak[0].mdia.minf.stbl.stsd.codecs[0].clone()
    };
    assert!(matches!(read(Codec::H264, AVC), SampleEntry::Avc1(_)));
    assert!(matches!(read(Codec::Aac, AAC), SampleEntry::Mp4a(_)));
    assert!(matches!(read(Codec::H265, HEVC), SampleEntry::Hvc1(_)));
    assert!(matches!(read(Codec::Av1, AV1), SampleEntry::Av01(_)));
    assert!(matches!(read(Codec::Vp9, VP9), SampleEntry::Vp09(_)));
    let SampleEntry::Opus(opus) = read(Codec::Opus, OPUS) else { panic!("Opus") };
    assert_eq!((opus.dops.output_channel_count, opus.dops.pre_skip), (2, 312));
    assert!(matches!(read(Codec::Flac, FLAC), SampleEntry::Flac(_)));
    let mp3 = Track::audio(AUDIO, Codec::Mp3, Audio { sample_rate_hz: 44_100, channels: 2 });
    let moov = moov(&Tracks::new(vec![mp3]));
    let SampleEntry::Mp4a(mp3) = &moov.trak[0].mdia.minf.stbl.stsd.codecs[0] else { panic!("MP3") };
    assert_eq!(mp3.esds.es_desc.dec_config.object_type_indication, 0x6b);
}

#[test]
fn flac_is_read_back_by_our_own_reader() {
    let tracks = Tracks::new(vec![track(TrackId(0), Codec::Flac, FLAC)]);
    let mut demux = Demux::new(&init(&tracks)).unwrap();
    let (mut mux, mut out) = (Mux::new(&tracks), Vec::new());
    // 1024 samples, as the frame's header says.
    let data = Bytes::from_static(&[0xff, 0xf8, 0xaa, 0x88, 0, 0x5b, 1, 2, 3]);
    for at in [1000, 1021] {
        mux.push(&Frame { data: data.clone(), ..frame(TrackId(0), at, at, true) }, &mut out);
    }
    assert_eq!(told(&out)[0], (1, 48_000, 1024, 0));
    demux.handle_segment(UNIX_EPOCH, &out.iter().flat_map(|chunk| chunk.data.to_vec()).collect()).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| demux.poll_event()).collect();
    assert_eq!(events[0], crate::Event::Tracks(tracks));
    let data_of =
        |event: &crate::Event| if let crate::Event::Frame(frame) = event { Some(frame.data.clone()) } else { None };
    assert_eq!(events.iter().filter_map(data_of).collect::<Vec<_>>(), [data.clone(), data]);
}

#[test]
fn a_record_with_something_behind_it_is_a_record() {
    let careless = Tracks::new(vec![track(VIDEO, Codec::H264, &format!("{AVC}00"))]);
    let SampleEntry::Avc1(avc) = &moov(&careless).trak[0].mdia.minf.stbl.stsd.codecs[0] else { panic!("H.264") };
    assert_eq!((avc.avcc.sequence_parameter_sets.len(), avc.avcc.picture_parameter_sets.len()), (1, 1));
    assert_eq!(codecs(&careless), "avc1.42c015");
}

#[test]
fn what_mp4_does_not_carry_is_left_out() {
    // Of a rate that Opus has not.
    let g711 = Track::audio(AUDIO, Codec::G711A, Audio { sample_rate_hz: 11_025, channels: 1 });
    let alone = Tracks::new(vec![g711.clone()]);
    assert!(!carries(&alone) && init(&alone).is_empty());
    let both = Tracks::new(vec![track(VIDEO, Codec::H264, AVC), g711]);
    assert!(carries(&both));
    assert_eq!(moov(&both).trak.len(), 1);
    let (mut mux, mut out) = (Mux::new(&both), Vec::new());
    mux.push(&frame(AUDIO, 0, 0, true), &mut out);
    assert!(out.is_empty());
}

#[test]
fn g711_goes_as_opus_unless_there_is_other_sound() {
    let g711 = Track::audio(TrackId(7), Codec::G711A, Audio { sample_rate_hz: 8000, channels: 1 });
    let both = Tracks::new(vec![track(VIDEO, Codec::H264, AVC), g711.clone()]);
    assert_eq!(codecs(&both), "avc1.42c015,opus");
    let SampleEntry::Opus(opus) = &moov(&both).trak[1].mdia.minf.stbl.stsd.codecs[0] else { panic!("Opus") };
    assert!(opus.dops.pre_skip > 0);
    let (mut mux, mut out) = (Mux::new(&both), Vec::new());
    for at in 0..10 {
        let sound = Frame { data: vec![0xd5; 320].into(), ..frame(TrackId(7), 1000 + at * 40, 1000 + at * 40, true) };
        mux.push(&sound, &mut out);
    }
    // 40 ms of it are two packets of 20 ms each, in one fragment.
    let told = told(&out);
    assert_eq!(told.len(), 10);
    assert!(
        told.iter().enumerate().all(|(n, fragment)| *fragment == (2, 48_000 + n as u64 * 1920, 960, 0)),
        "{told:?}"
    );
    let with_aac = Tracks::new(vec![g711, h264_aac().audio().unwrap().clone()]);
    assert!(codecs(&with_aac).starts_with("mp4a"));
}

/// Of each fragment: track, decoding time, duration, composition offset.
fn told(chunks: &[Chunk]) -> Vec<(u32, u64, u32, i64)> {
    let fragments = chunks
        .iter()
        .flat_map(|chunk| boxes(&chunk.data))
        .filter_map(|found| if let Any::Moof(moof) = found { Some(moof) } else { None });
    fragments
        .map(|moof| {
            let entry = moof.traf[0].trun[0].samples.get(0).unwrap();
            let time = moof.traf[0].tfdt.as_ref().unwrap().base_media_decode_time;
            (moof.traf[0].tfhd.track_id, time, entry.duration.unwrap(), entry.cts.unwrap())
        })
        .collect()
}

#[test]
fn a_frame_is_a_fragment_on_its_track_s_clock() {
    let (mut mux, mut out) = (Mux::new(&h264_aac()), Vec::new());
    mux.push(&frame(VIDEO, 1000, 1080, true), &mut out);
    mux.push(&frame(AUDIO, 1000, 1000, true), &mut out);
    mux.push(&frame(VIDEO, 1040, 1040, false), &mut out);
    mux.push(&frame(AUDIO, 1023, 1023, true), &mut out);
    assert_eq!(out.iter().map(|chunk| chunk.entry).collect::<Vec<_>>(), [true, false, false, false]);
    let first = told(&out[..2]);
    // The first picture is as long as the record's frame rate says, 25 a second; of AAC 1024 samples.
    assert_eq!(first, [(1, 90_000, 3600, 7200), (2, 44_100, 1024, 0)]);
    assert_eq!(told(&out[2..]), [(1, 93_600, 3600, 0), (2, 45_114, 1014, 0)]);
    // The wall clock goes with pictures that one can begin at.
    assert_eq!(out.iter().map(|chunk| &chunk.data[4..8] == b"prft").collect::<Vec<_>>(), [true, false, false, false]);
}

#[test]
fn a_pause_of_the_source_is_no_sample_of_an_hour() {
    let (mut mux, mut out) = (Mux::new(&h264_aac()), Vec::new());
    mux.push(&frame(VIDEO, -40, -40, true), &mut out);
    mux.push(&frame(VIDEO, 3_600_000, 3_600_000, true), &mut out);
    assert_eq!(told(&out), [(1, 0, 3600, 0), (1, 324_000_000, 900_000, 0)]);
}

#[test]
fn other_tracks_begin_with_another_initialisation_and_the_same_do_not() {
    let (mut mux, mut out) = (Mux::new(&h264_aac()), Vec::new());
    mux.set_tracks(&h264_aac(), &mut out);
    assert!(out.is_empty());
    let tracks = Tracks::new(vec![track(VIDEO, Codec::H265, HEVC)]);
    mux.set_tracks(&tracks, &mut out);
    assert_eq!(out[0].data, init(&tracks));
    assert_eq!(mux.header(), init(&tracks));
    assert!(!out[0].entry);
}

#[test]
fn by_websocket_the_mime_type_comes_first_and_each_fragment_is_a_message() {
    let (mut mux, mut out) = (WsMux::new(&h264_aac()), Vec::new());
    let header = mux.header();
    let named = mime(&h264_aac());
    assert_eq!(header[..2], [0x81, u8::try_from(named.len()).unwrap()]);
    assert_eq!(&header[2..2 + named.len()], named.as_bytes());
    let rest = &header[2 + named.len()..];
    let bytes = init(&h264_aac());
    assert_eq!((rest[0], rest[1], usize::from(rest[2]) << 8 | usize::from(rest[3])), (0x82, 126, bytes.len()));
    assert_eq!(rest[4..], bytes);
    mux.push(&frame(AUDIO, 0, 0, true), &mut out);
    assert_eq!(out[0].data[..2], [0x82, 104 + 8 + 5]);
    assert_eq!(&out[0].data[6..10], b"moof");
}

#[test]
fn merged_fragments_begin_at_key_frames_and_lose_nothing() {
    let (mut mux, mut out) = (MergedMux::new(&h264_aac()), Vec::new());
    let mut pushed = 0;
    for i in 0..50 {
        mux.push(&frame(VIDEO, i * 40, i * 40, i % 25 == 0), &mut out);
        mux.push(&frame(AUDIO, i * 40 + 5, i * 40 + 5, true), &mut out);
        pushed += 2;
    }
    let samples = |chunk: &Chunk| -> Vec<(u32, usize)> {
        let moof = boxes(&chunk.data)
            .into_iter()
            .find_map(|found| if let Any::Moof(moof) = found { Some(moof) } else { None });
        moof.unwrap().traf.iter().map(|traf| (traf.tfhd.track_id, traf.trun[0].samples.len())).collect()
    };
    // Two pictures and their sound in each but the one before a key frame.
    assert_eq!(samples(&out[0]), [(1, 2), (2, 2)]);
    assert_eq!(out.iter().filter(|chunk| chunk.entry).map(|chunk| chunk.time.millis()).collect::<Vec<_>>(), [0, 1000]);
    let all: usize = out.iter().flat_map(samples).map(|(_, samples)| samples).sum();
    // The last ones wait for what ends them.
    assert!(pushed - all <= 4 && all < pushed, "{all} of {pushed}");
    assert_eq!(out.len(), 25);
    // Pictures that stop do not keep the sound.
    let before = out.len();
    for i in 0..50 {
        mux.push(&frame(AUDIO, 2000 + i * 20, 2000 + i * 20, true), &mut out);
    }
    assert!(out.len() - before >= 4, "{}", out.len() - before);
    // A change gives out what was gathered before it.
    mux.set_tracks(&Tracks::new(vec![h264_aac().video().unwrap().clone()]), &mut out);
    let last = out.len() - 2;
    assert_eq!(samples(&out[last]).first().map(|(track, _)| *track), Some(2));
}
