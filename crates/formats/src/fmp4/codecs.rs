//! What the tracks are, in the words of RFC 6381: what Media Source Extensions ask for before the first byte.

use culvert_media::codec::{aac, av1, h264, h265, vp9};
use culvert_media::{Codec, Track, Tracks};

use super::lines;

/// `video/mp4; codecs="avc1.640028,mp4a.40.2"`; `audio/mp4` where there are no pictures.
pub fn mime(tracks: &Tracks) -> String {
    let lines = lines(tracks);
    let kind = if lines.iter().any(|line| line.track.video().is_some()) { "video" } else { "audio" };
    format!("{kind}/mp4; codecs=\"{}\"", codecs(tracks))
}

/// The `codecs` parameter (RFC 6381 3.2, ISO 14496-15 annex E, "Codecs Parameter String" of AV1 and of VP9).
pub fn codecs(tracks: &Tracks) -> String {
    lines(tracks).iter().map(|line| of(&line.track)).collect::<Vec<_>>().join(",")
}

fn of(track: &Track) -> String {
    let known = match track.codec {
        Codec::H264 => h264::Config::parse(&track.config).ok().and_then(|config| {
            let sps = config.sps.first()?;
            Some(format!("avc1.{}", sps.get(1..4)?.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
        }),
        Codec::H265 => h265::Config::parse(&track.config).ok().map(|config| hevc(&config.profile)),
        Codec::Av1 => av1::Config::parse(&track.config).ok().map(|config| {
            let format = config.format;
            let depth = match (format.high_bitdepth, format.twelve_bit) {
                (false, _) => 8,
                (true, false) => 10,
                (true, true) => 12,
            };
            let tier = if format.tier { 'H' } else { 'M' };
            format!("av01.{}.{:02}{tier}.{depth:02}", format.profile, format.level)
        }),
        Codec::Vp9 => vp9::Config::parse(&track.config)
            .ok()
            .map(|config| format!("vp09.{:02}.{:02}.{:02}", config.profile, config.level.max(10), config.bit_depth)),
        Codec::Aac => aac::Config::parse(&track.config).ok().map(|config| {
            let object = match (config.ps, config.sbr) {
                (true, _) => 29,
                (false, true) => 5,
                (false, false) => config.object_type,
            };
            format!("mp4a.40.{object}")
        }),
        Codec::Opus => Some("opus".into()),
        Codec::Mp3 => Some("mp4a.6B".into()),
        // The sample entry's name, as HLS has it; browsers take it as well as "flac".
        Codec::Flac => Some("fLaC".into()),
        Codec::Vp8 | Codec::G711A | Codec::G711U => None,
    };
    // What cannot be read was never taken for a track.
    known.unwrap_or_else(|| track.codec.name().to_string())
}

/// ISO 14496-15 E.3: profile, compatibility with its bits turned round, tier and level, constraints without trailing zeros.
fn hevc(profile: &h265::Profile) -> String {
    let space = match profile.space {
        0 => String::new(),
        space => char::from(b'A' + (space - 1) % 3).to_string(),
    };
    let tier = if profile.tier { 'H' } else { 'L' };
    let mut out =
        format!("hvc1.{space}{}.{:X}.{tier}{}", profile.idc, profile.compatibility.reverse_bits(), profile.level);
    let used = profile.constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in profile.constraints.iter().take(used) {
        out.push_str(&format!(".{byte:X}"));
    }
    out
}
