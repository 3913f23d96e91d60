//! Playlists of other servers (RFC 8216): which rendition is taken, and what is in a media playlist.

use std::time::Duration;

use m3u8_rs::{
    AlternativeMediaType, ByteRange, Key, KeyMethod, MasterPlaylist, MediaPlaylist, Playlist, VariantStream,
};
use url::Url;

use super::PullError;

/// Target durations that are believed.
const TARGET: std::ops::RangeInclusive<f64> = 0.2..=60.0;
/// Most segments of a playlist that are looked at: a day of 2 s each.
const SEGMENTS: usize = 43_200;

/// What a server sent.
#[derive(Debug)]
pub(super) enum Found {
    /// The media playlists to take: pictures, with their sound or beside it.
    Renditions(Vec<Url>),
    Media(Media),
}

/// A media playlist.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Media {
    pub(super) target: Duration,
    /// In order, their numbers without a gap.
    pub(super) segments: Vec<Segment>,
    /// Nothing will be added.
    pub(super) ended: bool,
    /// The server answers when the segment that is asked for is there (draft-pantos-hls-rfc8216bis 6.2.5.2).
    pub(super) can_block: bool,
}

/// A segment of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segment {
    /// Media sequence number.
    pub(super) number: u64,
    pub(super) at: Place,
    /// The initialisation segment, of fragmented MP4.
    pub(super) init: Option<Place>,
    /// It does not go on where the one before ended.
    pub(super) discontinuity: bool,
    /// It is not there (EXT-X-GAP).
    pub(super) is_gap: bool,
    /// How it is encrypted.
    pub(super) encrypted: Option<String>,
}

/// A file, or (first byte, bytes) of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) url: Url,
    pub(super) range: Option<(u64, u64)>,
}

impl Place {
    /// Whether both are the same part of the same file; what is before its name, and a query, may be signed anew each time.
    pub(super) fn is_file_of(&self, other: &Place) -> bool {
        let name = |place: &Place| place.url.path().rsplit('/').next().unwrap_or_default().to_string();
        name(self) == name(other) && self.range == other.range
    }
}

/// Reads a playlist that came from `url`.
pub(super) fn parse(url: &Url, text: &[u8]) -> Result<Found, PullError> {
    // Parsers look for the first line at the very beginning.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if !text.starts_with(b"#EXTM3U") {
        let begin: String = String::from_utf8_lossy(text.get(..40).unwrap_or(text)).escape_debug().collect();
        return Err(PullError::Playlist(format!("it does not begin with #EXTM3U but with \"{begin}\"")));
    }
    let text = &mended(text)[..];
    match m3u8_rs::parse_playlist_res(text).map_err(|_| PullError::Playlist("it cannot be read".into()))? {
        Playlist::MasterPlaylist(master) => choose(url, &master).map(Found::Renditions),
        Playlist::MediaPlaylist(media) => {
            let can_block = text.windows(CAN_BLOCK.len()).any(|window| window == CAN_BLOCK);
            Ok(Found::Media(read(url, media, can_block)?))
        }
    }
}

/// What the parser would stumble over: a comma in a title makes it see a segment there, and a duration with a point another.
fn mended(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let kept = if line.starts_with(b"#EXTINF:") {
            line.iter().position(|byte| *byte == b',').and_then(|comma| line.get(..=comma)).unwrap_or(line)
        } else if line.starts_with(b"#EXT-X-TARGETDURATION:") {
            line.iter().position(|byte| *byte == b'.').and_then(|point| line.get(..point)).unwrap_or(line)
        } else {
            line
        };
        out.extend_from_slice(kept);
        out.push(b'\n');
    }
    out
}

const CAN_BLOCK: &[u8] = b"CAN-BLOCK-RELOAD=YES";

/// The variant with the highest bit rate among those that are carried, and the sound beside it.
fn choose(url: &Url, master: &MasterPlaylist) -> Result<Vec<Url>, PullError> {
    let is_carried = |codec: &str| {
        let names = ["avc1", "avc3", "hvc1", "hev1", "av01", "vp08", "vp09", "mp4a", "opus", "flac"];
        let codec = codec.trim().to_ascii_lowercase();
        names.iter().any(|name| codec.starts_with(name))
    };
    // How many of its codecs are carried: all, some, none. What says nothing is believed.
    let rank = |variant: &VariantStream| {
        let codecs: Vec<_> =
            variant.codecs.as_deref().unwrap_or_default().split(',').filter(|c| !c.is_empty()).collect();
        let carried = codecs.iter().filter(|codec| is_carried(codec)).count();
        if carried == codecs.len() { 2 } else { u8::from(carried > 0) }
    };
    let variants = master.variants.iter().filter(|variant| !variant.is_i_frame && rank(variant) > 0);
    let best = variants.max_by_key(|variant| (rank(variant), variant.bandwidth));
    let best = best.ok_or_else(|| PullError::Playlist("it lists no stream of a codec that is carried".into()))?;
    let group = master.alternatives.iter().filter(|media| {
        media.media_type == AlternativeMediaType::Audio && Some(&media.group_id) == best.audio.as_ref()
    });
    // The default one, or else the first.
    let sound = group.min_by_key(|media| !media.default).and_then(|media| media.uri.as_deref());
    [Some(best.uri.as_str()), sound].into_iter().flatten().map(|uri| resolve(url, uri)).collect()
}

fn resolve(url: &Url, uri: &str) -> Result<Url, PullError> {
    let found = url.join(uri).map_err(|why| PullError::Playlist(format!("it names \"{uri}\": {why}")))?;
    match found.scheme() {
        "http" | "https" => Ok(found),
        other => {
            Err(PullError::Playlist(format!("it names \"{uri}\", of {other}, and only http and https are followed")))
        }
    }
}

fn read(url: &Url, playlist: MediaPlaylist, can_block: bool) -> Result<Media, PullError> {
    if playlist.i_frames_only {
        return Err(PullError::Playlist("it has nothing but key frames (EXT-X-I-FRAMES-ONLY)".into()));
    }
    let target = Duration::from_secs_f64((playlist.target_duration as f64).clamp(*TARGET.start(), *TARGET.end()));
    // The parser says map and key where they stand; they hold until the next ones.
    let (mut init, mut encrypted): (Option<Place>, Option<String>) = (None, None);
    let mut segments = Vec::new();
    let mut last: Option<Place> = None;
    let numbers = playlist.media_sequence..=u64::MAX;
    let skip = playlist.segments.len().saturating_sub(SEGMENTS);
    for (at, (number, segment)) in numbers.zip(playlist.segments).enumerate() {
        if let Some(map) = &segment.map {
            init = Some(place(resolve(url, &map.uri)?, map.byte_range.as_ref(), None));
        }
        if let Some(key) = &segment.key {
            encrypted = method(key);
        }
        let place = place(resolve(url, &segment.uri)?, segment.byte_range.as_ref(), last.as_ref());
        last = Some(place.clone());
        // The newest are those that matter.
        if at < skip {
            continue;
        }
        segments.push(Segment {
            number,
            at: place,
            init: init.clone(),
            discontinuity: segment.discontinuity,
            is_gap: segment.unknown_tags.iter().any(|tag| tag.tag == "X-GAP"),
            encrypted: encrypted.clone(),
        });
    }
    Ok(Media { target, segments, ended: playlist.end_list, can_block })
}

/// A range without a beginning goes on behind the one before, of the same file.
fn place(url: Url, range: Option<&ByteRange>, last: Option<&Place>) -> Place {
    let range = range.map(|range| {
        let behind = last.filter(|last| last.url == url).and_then(|last| last.range);
        let implied = behind.map_or(0, |(first, bytes)| first.saturating_add(bytes));
        (range.offset.unwrap_or(implied), range.length)
    });
    Place { url, range }
}

fn method(key: &Key) -> Option<String> {
    match &key.method {
        KeyMethod::None => None,
        KeyMethod::AES128 => Some("AES-128".into()),
        KeyMethod::SampleAES => Some("SAMPLE-AES".into()),
        KeyMethod::Other(other) => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url() -> Url {
        Url::parse("http://u:p@host/live/index.m3u8?token=1").unwrap()
    }

    fn media(text: &str) -> Media {
        match parse(&url(), text.as_bytes()).unwrap() {
            Found::Media(media) => media,
            Found::Renditions(urls) => panic!("{urls:?}"),
        }
    }

    fn why(text: &str) -> String {
        parse(&url(), text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn segments_are_named_and_what_holds_for_all_is_said_of_each() {
        let media = media(
            "\u{feff}#EXTM3U\r\n#EXT-X-TARGETDURATION:4\r\n#EXT-X-MEDIA-SEQUENCE:7\r\n#EXT-X-MAP:URI=\"init.mp4\",BYTERANGE=\"90@10\"\r\n\
             #EXTINF:4,\r\n#EXT-X-BYTERANGE:100@100\r\nall.mp4\r\n#EXTINF:4,\r\n#EXT-X-BYTERANGE:50\r\nall.mp4\r\n\
             #EXT-X-DISCONTINUITY\r\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\",IV=0x00000000000000000000000000000001\r\n#EXTINF:4,\r\n/b.m4s\r\n\
             #EXT-X-GAP\r\n#EXTINF:4,\r\nhttps://other/c.m4s?x\r\n",
        );
        assert_eq!((media.target, media.ended, media.can_block), (Duration::from_secs(4), false, false));
        let at = |n: usize| (media.segments[n].at.url.as_str(), media.segments[n].at.range);
        assert_eq!(at(0), ("http://u:p@host/live/all.mp4", Some((100, 100))));
        assert_eq!(at(1), ("http://u:p@host/live/all.mp4", Some((200, 50))));
        assert_eq!(at(2), ("http://u:p@host/b.m4s", None));
        assert_eq!(at(3), ("https://other/c.m4s?x", None));
        assert!(media.segments.iter().zip(7..).all(|(segment, number)| segment.number == number));
        let init = Place { url: url().join("init.mp4").unwrap(), range: Some((10, 90)) };
        assert!(media.segments.iter().all(|segment| segment.init.as_ref() == Some(&init)));
        let flags: Vec<_> = media.segments.iter().map(|s| (s.discontinuity, s.is_gap, s.encrypted.is_some())).collect();
        let plain = (false, false, false);
        assert_eq!(flags, [plain, plain, (true, false, true), (false, true, true)]);
    }

    #[test]
    fn the_best_variant_and_its_sound_are_taken() {
        let master = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"de\",DEFAULT=NO,URI=\"de.m3u8\"\n\
             #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"en\",DEFAULT=YES,URI=\"en.m3u8\"\n\
             #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"b\",NAME=\"en\",DEFAULT=YES\n\
             #EXT-X-STREAM-INF:BANDWIDTH=100,CODECS=\"avc1.42c01e,mp4a.40.2\",AUDIO=\"b\"\nlow.m3u8\n\
             #EXT-X-STREAM-INF:BANDWIDTH=300,CODECS=\"avc1.42c01e,mp4a.40.2\",AUDIO=\"a\"\nhigh.m3u8\n\
             #EXT-X-STREAM-INF:BANDWIDTH=900,CODECS=\"dvh1.05.01\"\nother.m3u8\n\
             #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=999,URI=\"keys.m3u8\"\n";
        let renditions = |text: &str| match parse(&url(), text.as_bytes()).unwrap() {
            Found::Renditions(urls) => urls.iter().map(|url| url.path().to_string()).collect::<Vec<_>>(),
            Found::Media(media) => panic!("{media:?}"),
        };
        assert_eq!(renditions(master), ["/live/high.m3u8", "/live/en.m3u8"]);
        // Sound that is with the pictures has no address.
        assert_eq!(renditions(&master.replace("=300", "=50")), ["/live/low.m3u8"]);
        assert!(why("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS=\"dvh1\"\nx\n").contains("no stream"));
        // All of a variant is better than a part of one that has more.
        let dolby = master.replace("dvh1.05.01", "dvh1.05.06,mp4a.40.2");
        assert_eq!(renditions(&dolby), ["/live/high.m3u8", "/live/en.m3u8"]);
        // As hls.js and we write it, and as Apple does.
        for flac in ["fLaC", "flac"] {
            assert_eq!(renditions(&master.replace("dvh1.05.01", flac)), ["/live/other.m3u8"]);
        }
    }

    #[test]
    fn what_lies_is_named() {
        assert!(why("<html>no such page").contains("<html>"));
        assert!(why("").contains("#EXTM3U"));
        assert!(why("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n").contains("file"));
        assert!(why("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-I-FRAMES-ONLY\n#EXTINF:1,\na\n").contains("key frames"));
        let titled = media("#EXTM3U\n#EXT-X-TARGETDURATION:2.5\n#EXTINF:2.1,Artist, Title\na.ts\n#EXTINF:2.1\nb.ts\n");
        assert_eq!((titled.segments.len(), titled.target), (2, Duration::from_secs(2)));
        assert_eq!(titled.segments[0].at.url.path(), "/live/a.ts");
        let lie = |target: &str| media(&format!("#EXTM3U\n#EXT-X-TARGETDURATION:{target}\n#EXTINF:1,\na\n")).target;
        assert_eq!(lie("0"), Duration::from_millis(200));
        assert_eq!(lie("18446744073709551615"), Duration::from_secs(60));
        let last = media(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:18446744073709551615\n#EXTINF:1,\na\n#EXTINF:1,\nb\n",
        );
        assert_eq!(last.segments.len(), 1, "numbers end somewhere");
    }

    proptest! {
        #[test]
        fn nothing_panics(lines in prop::collection::vec(prop_oneof![
            Just("#EXT-X-BYTERANGE:18446744073709551615@18446744073709551615".to_string()),
            Just("#EXT-X-MAP:URI=\"\",BYTERANGE=\"1\"".to_string()),
            Just("#EXT-X-KEY:METHOD=X".to_string()),
            Just("#EXTINF:-1e99,".to_string()),
            Just("#EXT-X-MEDIA-SEQUENCE:99999999999999999999".to_string()),
            Just("http://[".to_string()),
            "[ -~\u{80}-\u{ff}]{0,30}",
            "#EXT-X-[A-Z-]{1,12}:[ -~]{0,30}",
        ], 0..30), bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let text = format!("#EXTM3U\n{}\n", lines.join("\n"));
            parse(&url(), text.as_bytes()).ok();
            parse(&url(), &[text.as_bytes(), &bytes].concat()).ok();
            parse(&url(), &[b"#EXTM3U\n", &bytes[..]].concat()).ok();
        }
    }
}
