//! The text of playlists (RFC 8216, and its second edition draft-pantos-hls-rfc8216bis for what has low latency).

use std::fmt::Write;

use culvert_formats::fmp4;
use culvert_media::{Time, Tracks, rfc3339};

use crate::window::{Segment, Window};

/// EXT-X-SKIP asks for it; all else is older.
const VERSION: u32 = 9;
/// A playlist may leave out what is older than so many target durations (bis 4.4.3.8: at least six).
const SKIP_AFTER: i64 = 6;
/// Parts are listed of so many segments before the one that is being made: none is more than three target durations from the end (bis 4.4.4.9).
const PARTS_OF: u64 = 2;
/// What a player without parts, and one with them, keeps from the end, in target durations of either (bis 4.4.3.8).
const HOLD_BACK: i64 = 3;

/// What a player needs to choose: one variant there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant<'a> {
    pub(crate) tracks: &'a Tracks,
    pub(crate) bits_per_second: u64,
    pub(crate) fps: f64,
    /// Of the media playlist.
    pub(crate) uri: &'a str,
}

/// The multivariant playlist.
pub(crate) fn multivariant(variant: Variant<'_>) -> String {
    let mut out = format!("#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-STREAM-INF:BANDWIDTH={}", variant.bits_per_second);
    put(&mut out, format_args!(",CODECS=\"{}\"", fmp4::codecs(variant.tracks)));
    if let Some(video) = variant.tracks.video().and_then(|track| track.video()) {
        if video.width > 0 && video.height > 0 {
            put(&mut out, format_args!(",RESOLUTION={}x{}", video.width, video.height));
        }
        if variant.fps > 0.0 {
            put(&mut out, format_args!(",FRAME-RATE={:.3}", variant.fps));
        }
    }
    put(&mut out, format_args!("\n{}\n", variant.uri));
    out
}

/// The media playlist; `delta`: without what the reader has already, where that is much. None: no segment is complete yet.
pub(crate) fn media(window: &Window, delta: bool) -> Option<String> {
    let target = window.target()?;
    let (mut out, whole) = (String::with_capacity(4096), target.millis() / 1000);
    put(&mut out, format_args!("#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-TARGETDURATION:{whole}\n"));
    put(
        &mut out,
        format_args!(
            "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL={},HOLD-BACK={},PART-HOLD-BACK={}\n",
            Seconds(times(target, SKIP_AFTER)),
            Seconds(times(target, HOLD_BACK)),
            Seconds(times(window.part_target(), HOLD_BACK)),
        ),
    );
    put(&mut out, format_args!("#EXT-X-PART-INF:PART-TARGET={}\n", Seconds(window.part_target())));
    let mut listed = window.listed().peekable();
    let first = listed.peek().map_or(window.next_number(), |segment| segment.number);
    put(&mut out, format_args!("#EXT-X-MEDIA-SEQUENCE:{first}\n"));
    put(&mut out, format_args!("#EXT-X-DISCONTINUITY-SEQUENCE:{}\n", window.discontinuities()));
    if window.all_independent() {
        out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
    }
    // How far from the end a segment ends. Times of the stream do not tell: they begin anew where it does.
    let open = window.open().map_or(Time::ZERO, |open| open.duration);
    let mut left = window.listed().fold(open, |sum, segment| sum + segment.duration);
    if delta {
        let (mut skipped, after) = (0, times(target, SKIP_AFTER));
        while let Some(gone) = listed.next_if(|segment| left - segment.duration >= after) {
            left = left - gone.duration;
            skipped += 1;
        }
        if skipped > 0 {
            put(&mut out, format_args!("#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}\n"));
        }
    }
    let mut map = None;
    let (number, part) = window.edge();
    for segment in listed {
        begin(&mut out, segment, &mut map);
        if segment.number + PARTS_OF >= number {
            parts(&mut out, segment);
        }
        put(&mut out, format_args!("#EXTINF:{},\nseg-{}.m4s\n", Seconds(segment.duration), segment.number));
    }
    if window.is_ended() {
        out.push_str("#EXT-X-ENDLIST\n");
        return Some(out);
    }
    if let Some(open) = window.open().filter(|open| !open.parts.is_empty()) {
        begin(&mut out, open, &mut map);
        parts(&mut out, open);
    }
    // Also while nothing comes: hls.js 1.7 takes the last segment for the begin of the next where nothing follows it.
    put(&mut out, format_args!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-{number}-{part}.m4s\"\n"));
    Some(out)
}

/// What goes before a segment, complete or not.
fn begin(out: &mut String, segment: &Segment, map: &mut Option<u64>) {
    if segment.discontinuity {
        out.push_str("#EXT-X-DISCONTINUITY\n");
    }
    if *map != Some(segment.map) {
        put(out, format_args!("#EXT-X-MAP:URI=\"init-{}.m4s\"\n", segment.map));
        *map = Some(segment.map);
    }
    put(out, format_args!("#EXT-X-PROGRAM-DATE-TIME:{}\n", rfc3339(segment.wall)));
}

fn parts(out: &mut String, segment: &Segment) {
    for (at, part) in segment.parts.iter().enumerate() {
        let independent = if part.independent { ",INDEPENDENT=YES" } else { "" };
        let (duration, number) = (Seconds(part.duration), segment.number);
        put(out, format_args!("#EXT-X-PART:DURATION={duration},URI=\"part-{number}-{at}.m4s\"{independent}\n"));
    }
}

fn times(time: Time, n: i64) -> Time {
    Time::from_micros(time.micros().saturating_mul(n))
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("writing to memory does not fail");
}

/// Decimal seconds, to the microsecond: what parts say adds up to what their segment says.
struct Seconds(Time);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.micros().max(0);
        write!(f, "{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}
