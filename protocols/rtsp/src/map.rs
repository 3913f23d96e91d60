//! Tracks to SDP and back: names of encodings and their parameters (RFC 6184, 7798, 3640, 6416, 7587, 3551, 2250; AOMedia for AV1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use culvert_formats::rtp::{self, Format, Line, Media};
use culvert_media::codec::{aac, av1, h264, h265};
use culvert_media::{Audio, Codec, Kind, Track, Tracks};

use crate::sdp::{Medium, Told};

/// How the tracks of a stream that RTP carries are told. The control of the track at place n is `trackID=n`.
pub(crate) fn told(tracks: &Tracks) -> Vec<Told> {
    tracks.iter().enumerate().map(|(at, track)| tell(at, track)).collect()
}

fn tell(at: usize, track: &Track) -> Told {
    let Line { clock_hz, payload_type, .. } = rtp::Mux::line(at, track);
    let (name, fmtp) = parameters(track);
    let channels = match (track.codec, track.sound()) {
        // RFC 7587 7: always two, whatever it has.
        (Codec::Opus, _) => "/2".to_string(),
        (Codec::Mp3, _) | (_, None) => String::new(),
        (Codec::Aac, Some(sound)) => format!("/{}", sound.channels),
        (_, Some(sound)) if sound.channels > 1 => format!("/{}", sound.channels),
        (_, Some(_)) => String::new(),
    };
    let kind = match track.kind() {
        Kind::Video => "video",
        Kind::Audio => "audio",
    };
    Told { kind, payload_type, rtpmap: format!("{name}/{clock_hz}{channels}"), fmtp, control: format!("trackID={at}") }
}

/// The encoding's name, and its parameters.
fn parameters(track: &Track) -> (&'static str, String) {
    match track.codec {
        Codec::H264 => {
            let Ok(config) = h264::Config::parse(&track.config) else { return ("H264", "packetization-mode=1".into()) };
            let sets = base64s(config.sps.iter().chain(&config.pps));
            let level = config.sps.first().and_then(|sps| sps.get(1..4)).map(hex).unwrap_or_default();
            ("H264", format!("packetization-mode=1; profile-level-id={level}; sprop-parameter-sets={sets}"))
        }
        Codec::H265 => {
            let Ok(config) = h265::Config::parse(&track.config) else { return ("H265", String::new()) };
            let (vps, sps, pps) = (base64s(&config.vps), base64s(&config.sps), base64s(&config.pps));
            ("H265", format!("sprop-vps={vps}; sprop-sps={sps}; sprop-pps={pps}"))
        }
        Codec::Av1 => {
            let header = av1::Config::parse(&track.config).and_then(|config| config.sequence_header()).ok().flatten();
            let told = header.map(|h| {
                format!("profile={}; level-idx={}; tier={}", h.format.profile, h.format.level, u8::from(h.format.tier))
            });
            ("AV1", told.unwrap_or_default())
        }
        Codec::Vp8 => ("VP8", String::new()),
        Codec::Vp9 => ("VP9", "profile-id=0".into()),
        Codec::Aac => {
            let config = hex(&track.config);
            let fmtp = "profile-level-id=1; mode=AAC-hbr; sizelength=13; indexlength=3; indexdeltalength=3; config=";
            ("MPEG4-GENERIC", format!("{fmtp}{config}"))
        }
        Codec::Opus => {
            let stereo = u8::from(track.sound().is_none_or(|sound| sound.channels > 1));
            ("opus", format!("sprop-stereo={stereo}"))
        }
        Codec::G711A => ("PCMA", String::new()),
        Codec::G711U => ("PCMU", String::new()),
        Codec::Mp3 => ("MPA", String::new()),
        Codec::Flac => ("FLAC", String::new()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect::<Option<Vec<u8>>>();
    bytes.filter(|bytes| rest.is_empty() && !bytes.is_empty() && bytes.len() <= 1024)
}

fn base64s<'a>(sets: impl IntoIterator<Item = &'a Bytes>) -> String {
    sets.into_iter().map(|set| STANDARD.encode(set)).collect::<Vec<_>>().join(",")
}

fn unbase64s(text: &str) -> Vec<Bytes> {
    // Some cameras leave the padding out, or put a comma behind the last.
    let decode = |part: &str| {
        let bare = part.trim().trim_end_matches('=');
        base64::engine::general_purpose::STANDARD_NO_PAD.decode(bare).ok().map(Bytes::from)
    };
    text.split(',').filter(|part| !part.trim().is_empty()).filter_map(decode).take(16).collect()
}

/// How a medium that somebody announces is received. None: it is nothing that the hub has (metadata, unknown encodings), or it is for us
/// to send (an ONVIF back channel).
pub(crate) fn media(medium: &Medium) -> Option<Media> {
    if medium.kind != "video" && medium.kind != "audio" {
        return None;
    }
    let (name, clock_hz, channels) = encoding(medium)?;
    let channels = u8::try_from(channels).unwrap_or(1).max(1);
    let number = |key: &str| medium.parameter(key).and_then(|value| value.parse::<u8>().ok());
    let video = |format, config| Media {
        format,
        clock_hz: if clock_hz == 0 { 90_000 } else { clock_hz },
        config,
        audio: None,
        payload_type: Some(medium.payload_type),
    };
    let audio = |format, clock_hz: u32, config, sample_rate_hz| Media {
        format,
        clock_hz,
        config,
        audio: Some(Audio { sample_rate_hz, channels }),
        payload_type: Some(medium.payload_type),
    };
    Some(match name.to_ascii_uppercase().as_str() {
        "H264" => {
            let sets = unbase64s(medium.parameter("sprop-parameter-sets").unwrap_or_default());
            let of = |kind: u8| {
                sets.iter().filter(|set| set.first().is_some_and(|b| b & 0x1f == kind)).cloned().collect::<Vec<_>>()
            };
            let config = h264::Config::from_parameter_sets(of(7), of(8)).ok().map(|config| config.write());
            video(Format::H264, config)
        }
        "H265" | "HEVC" => {
            let of = |key: &str| unbase64s(medium.parameter(key).unwrap_or_default());
            let config = h265::Config::from_parameter_sets(of("sprop-vps"), of("sprop-sps"), of("sprop-pps"));
            video(Format::H265, config.ok().map(|config| config.write()))
        }
        "AV1" => video(Format::Av1, None),
        "VP8" => video(Format::Vp8, None),
        "VP9" => video(Format::Vp9, None),
        "MPEG4-GENERIC" => {
            let config = medium.parameter("config").and_then(unhex).map(Bytes::from);
            let parsed = config.as_ref().and_then(|config| aac::Config::parse(config).ok());
            let config = config.filter(|_| parsed.is_some());
            let format = Format::Aac {
                size_bits: number("sizelength").unwrap_or(13),
                index_bits: number("indexlength").unwrap_or(3),
                delta_bits: number("indexdeltalength").unwrap_or(3),
                unit_ticks: 1024,
            };
            let rate = parsed.map_or(clock_hz, |config| config.sample_rate_hz);
            audio(format, if clock_hz == 0 { rate } else { clock_hz }, config, rate)
        }
        "MP4A-LATM" => {
            let in_band = medium.parameter("cpresent").is_none_or(|value| value != "0");
            let config = medium.parameter("config").and_then(unhex).and_then(|mux| rtp::latm_config(&mux).ok());
            audio(Format::Latm { in_band }, clock_hz, config.map(Bytes::from), clock_hz)
        }
        "OPUS" => {
            let stereo = medium.parameter("sprop-stereo").is_none_or(|value| value == "1");
            let mut opus = audio(Format::Whole(Codec::Opus), 48_000, None, 48_000);
            opus.audio = Some(Audio { sample_rate_hz: 48_000, channels: if stereo { 2 } else { 1 } });
            opus
        }
        "PCMA" => audio(Format::Whole(Codec::G711A), nonzero(clock_hz, 8000), None, nonzero(clock_hz, 8000)),
        "PCMU" => audio(Format::Whole(Codec::G711U), nonzero(clock_hz, 8000), None, nonzero(clock_hz, 8000)),
        "L16" => audio(Format::L16 { channels }, nonzero(clock_hz, 44_100), None, nonzero(clock_hz, 44_100)),
        "MPA" => audio(Format::Mpa, 90_000, None, 44_100),
        _ => return None,
    })
    .filter(|_| medium.direction.as_deref() != Some("sendonly") || !has_back_channel_name(medium))
}

fn nonzero(hz: u32, otherwise: u32) -> u32 {
    if hz == 0 { otherwise } else { hz }
}

/// A back channel is announced as `sendonly` audio (ONVIF Streaming 5.3.2). Some cameras call their own sound that, so only a control that
/// says so, too, makes it one.
fn has_back_channel_name(medium: &Medium) -> bool {
    medium.control.as_deref().is_some_and(|control| control.to_ascii_lowercase().contains("backchannel"))
}

/// Name, clock and channels: as announced, or by the static number (RFC 3551 tables 4 and 5).
fn encoding(medium: &Medium) -> Option<(String, u32, u32)> {
    if let Some((name, clock, channels)) = &medium.rtpmap {
        return Some((name.clone(), *clock, channels.unwrap_or(1)));
    }
    let (name, clock, channels) = match medium.payload_type {
        0 => ("PCMU", 8000, 1),
        8 => ("PCMA", 8000, 1),
        10 => ("L16", 44_100, 2),
        11 => ("L16", 44_100, 1),
        14 => ("MPA", 90_000, 1),
        _ => return None,
    };
    Some((name.into(), clock, channels))
}

#[cfg(test)]
mod tests {
    use culvert_media::TrackId;

    use super::*;
    use crate::sdp::{Description, write};

    fn read(text: &str) -> Option<Media> {
        media(&Description::parse(text).media[0])
    }

    #[test]
    fn what_is_told_of_a_track_makes_the_same_track() {
        let asc = Bytes::from_static(&[0x12, 0x10]);
        let tracks = Tracks::new(vec![
            Track::new(TrackId(0), Codec::Aac, asc.clone()).unwrap(),
            Track::audio(TrackId(1), Codec::G711A, Audio { sample_rate_hz: 8000, channels: 1 }),
            Track::audio(TrackId(2), Codec::G711U, Audio { sample_rate_hz: 16_000, channels: 2 }),
            Track::new(TrackId(3), Codec::Vp8, Bytes::new()).unwrap(),
        ]);
        let session = Description::parse(&write("::1".parse().unwrap(), "x", &told(&tracks)));
        let back: Vec<_> = session.media.iter().map(|medium| media(medium).unwrap()).collect();
        assert_eq!(back[0].config, Some(asc));
        assert_eq!((back[0].clock_hz, back[0].payload_type), (44_100, Some(96)));
        assert_eq!((back[1].payload_type, back[1].audio), (Some(8), Some(Audio { sample_rate_hz: 8000, channels: 1 })));
        assert_eq!(
            (back[2].payload_type, back[2].audio),
            (Some(98), Some(Audio { sample_rate_hz: 16_000, channels: 2 }))
        );
        assert_eq!(back[3].format, Format::Vp8);
    }

    #[test]
    fn careless_descriptions_are_understood() {
        let sets = "Z00AKp2oHgCJ+WbgICAoAAAfQAAGGoQg,aO48gA";
        let camera =
            read(&format!("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=fmtp:96 sprop-parameter-sets={sets},"))
                .unwrap();
        assert!(camera.config.is_some());
        // No parameter sets: they come in band. A clock of zero is none.
        let bare = read("m=video 0 RTP/AVP 96\na=rtpmap:96 h264/0").unwrap();
        assert_eq!((bare.format, bare.clock_hz, bare.config), (Format::H264, 90_000, None));
        assert_eq!(read("m=audio 0 RTP/AVP 0").unwrap().format, Format::Whole(Codec::G711U));
        assert_eq!(read("m=audio 0 RTP/AVP 99"), None);
        assert_eq!(read("m=application 0 RTP/AVP 96\na=rtpmap:96 H264/90000"), None);
        assert_eq!(read("m=audio 0 RTP/AVP 0\na=sendonly\na=control:trackID=audiobackchannel"), None);
        assert!(read("m=audio 0 RTP/AVP 0\na=sendonly\na=control:trackID=2").is_some());
        let broken = read("m=audio 0 RTP/AVP 97\na=rtpmap:97 MPEG4-GENERIC/16000/1\na=fmtp:97 config=zz").unwrap();
        assert_eq!((broken.config, broken.audio), (None, Some(Audio { sample_rate_hz: 16_000, channels: 1 })));
    }
}
