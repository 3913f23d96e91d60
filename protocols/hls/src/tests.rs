//! Windows and their playlists, from frames made by hand.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use culvert_media::codec::h264;
use culvert_media::{Audio, Codec, Frame, Time, Track, TrackId, Tracks};
use m3u8_rs::{MediaPlaylist, Playlist};
use proptest::prelude::*;

use crate::playlist::media;
use crate::window::{Settings, Window};

const V: TrackId = TrackId(0);
const A: TrackId = TrackId(1);

fn settings() -> Settings {
    Settings { segment: Duration::from_secs(2), part: Duration::from_millis(200), window: 6 }
}

/// H.264 of a size, and sound.
fn tracks(level: u8) -> Tracks {
    // Of x264 at 320x180; another level makes another record.
    let sps = [
        0x67, 0x42, 0xc0, level, 0xd9, 0x01, 0x41, 0x9f, 0x9e, 0x10, 0, 0, 3, 0, 0x10, 0, 0, 3, 3, 0x20, 0xf1, 0x42,
        0x99, 0x60,
    ];
    let pps = [0x68, 0xcb, 0x83, 0xcb, 0x20];
    let sets = (vec![Bytes::copy_from_slice(&sps)], vec![Bytes::copy_from_slice(&pps)]);
    let config = h264::Config::from_parameter_sets(sets.0, sets.1).unwrap();
    let video = Track::new(V, Codec::H264, config.write()).unwrap();
    let sound = Audio { sample_rate_hz: 48_000, channels: 2 };
    Tracks::new(vec![video, Track::audio(A, Codec::Mp3, sound)])
}

fn sound_only() -> Tracks {
    Tracks::new(vec![tracks(0x0c).audio().unwrap().clone()])
}

fn frame(track: TrackId, at: Time, key: bool) -> Frame {
    let wall = UNIX_EPOCH + Duration::from_secs(1_000_000_000) + Duration::from_micros(at.micros().unsigned_abs());
    Frame { track, dts: at, pts: at, key, discontinuity: false, wall, data: Bytes::from_static(b"some bytes") }
}

/// Frames of both tracks in the order of their times: pictures every `step`, a key frame every `group` pictures, sound every 24 ms.
fn play(window: &mut Window, from: i64, to: i64, step: i64, group: i64) {
    let pictures = (0..).map(|i| (from + i * step, V, i % group == 0)).take_while(|(at, ..)| *at < to);
    let sound = (0..).map(|i| (from + i * 24, A, true)).take_while(|(at, ..)| *at < to);
    let mut all: Vec<_> = pictures.chain(sound).collect();
    all.sort_by_key(|(at, track, _)| (*at, track.0));
    for (at, track, key) in all {
        window.handle_frame(&frame(track, Time::from_millis(at), key));
    }
}

/// As another parser has it.
fn parsed(window: &Window, delta: bool) -> MediaPlaylist {
    let text = media(window, delta).unwrap();
    match m3u8_rs::parse_playlist_res(text.as_bytes()) {
        Ok(Playlist::MediaPlaylist(playlist)) => playlist,
        other => panic!("{other:?}: {text}"),
    }
}

/// What must hold of each playlist: each segment and part there, durations that add up, nothing longer than was promised.
fn check(window: &Window) {
    let Some(text) = media(window, false) else { return };
    let playlist = parsed(window, false);
    let number = |uri: &str| uri.trim_end_matches(".m4s").rsplit('-').next().unwrap().parse::<u64>().unwrap();
    let (target, mut expected) = (playlist.target_duration, playlist.media_sequence);
    for segment in &playlist.segments {
        assert_eq!(number(&segment.uri), expected, "{text}");
        let kept = window.segment(expected).unwrap();
        assert!((f64::from(segment.duration)).round() <= target as f64, "{text}");
        let sum = kept.parts.iter().fold(Time::ZERO, |sum, part| sum + part.duration);
        assert_eq!(sum, kept.duration, "{text}");
        assert!(window.map(kept.map).is_some());
        expected += 1;
    }
    assert_eq!(window.next_number(), expected, "{text}");
    let limit = window.part_target();
    let mut of_segment: HashMap<u64, Time> = HashMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("#EXT-X-PART:DURATION=")) {
        let (seconds, rest) = line.split_once(",URI=\"part-").unwrap();
        let (segment, rest) = rest.split_once('-').unwrap();
        let (segment, part): (u64, usize) =
            (segment.parse().unwrap(), rest.split_once('.').unwrap().0.parse().unwrap());
        let (whole, micros) = seconds.split_once('.').unwrap();
        let duration = Time::from_micros(whole.parse::<i64>().unwrap() * 1_000_000 + micros.parse::<i64>().unwrap());
        assert_eq!(window.part(segment, part).unwrap().duration, duration, "{text}");
        assert!(duration <= limit, "{duration:?} is over {limit:?}: {text}");
        let sum = of_segment.entry(segment).or_default();
        *sum = *sum + duration;
    }
}

#[test]
fn segments_begin_at_key_frames_and_parts_add_up() {
    let mut window = Window::new(settings(), &tracks(0x0c), 100, 0);
    play(&mut window, 0, 1_990, 40, 25);
    assert!(media(&window, false).is_none(), "no segment is complete");
    let mut window = Window::new(settings(), &tracks(0x0c), 100, 0);
    play(&mut window, 0, 21_000, 40, 25);
    let playlist = parsed(&window, false);
    check(&window);
    assert_eq!((playlist.media_sequence, playlist.segments.len(), playlist.target_duration), (104, 6, 2));
    assert!(playlist.segments.iter().all(|segment| segment.duration == 2.0 && !segment.discontinuity));
    assert!(playlist.independent_segments && !playlist.end_list);
    assert_eq!(window.part_target(), Time::from_millis(205));
    assert_eq!(window.segment(109).unwrap().parts.len(), 10);
    assert!(window.segment(109).unwrap().parts.iter().all(|part| part.duration == Time::from_millis(200)));
    // Dates lie end to end.
    let dates: Vec<i64> = playlist.segments.iter().map(|s| s.program_date_time.unwrap().timestamp_millis()).collect();
    assert!(dates.windows(2).all(|pair| pair[1] - pair[0] == 2000), "{dates:?}");
    // Those that were listed are there for who has an older playlist, and then no more.
    assert!(window.segment(100).is_some() && window.segment(99).is_none());
    play(&mut window, 22_000, 52_000, 40, 25);
    assert!(window.segment(100).is_none());
}

#[test]
fn who_has_most_of_it_is_told_the_news_only() {
    let mut window = Window::new(Settings { window: 12, ..settings() }, &tracks(0x0c), 0, 0);
    play(&mut window, 0, 25_000, 40, 25);
    let text = media(&window, true).unwrap();
    assert!(text.contains("#EXT-X-SKIP:SKIPPED-SEGMENTS=6\n"), "{text}");
    assert_eq!(text.matches("#EXTINF").count(), 6, "{text}");
    assert_eq!(media(&window, false).unwrap().matches("#EXTINF").count(), 12);
}

#[test]
fn jumps_changes_and_restarts_are_discontinuities_and_are_counted() {
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    play(&mut window, 0, 4_100, 40, 25);
    window.handle_tracks(&tracks(0x0d));
    play(&mut window, 5_000, 9_100, 40, 25);
    // Another publisher of the same, whose times begin anew.
    window.handle_gap();
    window.handle_tracks(&tracks(0x0d));
    play(&mut window, 40, 4_100, 40, 25);
    let mut bent = frame(V, Time::from_millis(4_100), true);
    bent.discontinuity = true;
    window.handle_frame(&bent);
    play(&mut window, 4_140, 6_200, 40, 25);
    check(&window);
    let text = media(&window, false).unwrap();
    assert_eq!(window.discontinuities() as usize + text.matches("#EXT-X-DISCONTINUITY\n").count(), 3, "{text}");
    assert!(text.contains("init-0.m4s") || window.discontinuities() > 0, "{text}");
    // All of it goes; what was counted stays.
    play(&mut window, 7_000, 40_000, 40, 25);
    let text = media(&window, false).unwrap();
    assert!(text.contains("#EXT-X-DISCONTINUITY-SEQUENCE:3\n") && !text.contains("#EXT-X-DISCONTINUITY\n"), "{text}");
    assert!(text.contains("#EXT-X-MAP:URI=\"init-1.m4s\"") && window.map(0).is_none(), "{text}");
}

#[test]
fn sparse_key_frames_slow_pictures_and_missing_ones_stay_within_what_was_promised() {
    // A group of 10 s: so is a segment.
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    play(&mut window, 0, 45_000, 40, 250);
    check(&window);
    assert_eq!((window.target().unwrap(), window.all_independent()), (Time::from_millis(10_000), true));
    // One picture a second, all of them key frames.
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    play(&mut window, 0, 30_000, 1_000, 1);
    check(&window);
    assert_eq!((window.target().unwrap(), window.part_target()), (Time::from_millis(2_000), Time::from_millis(1_005)));
    // One key frame and never again.
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    play(&mut window, 0, 60_000, 40, i64::MAX);
    check(&window);
    assert_eq!((window.target().unwrap(), window.all_independent()), (Time::from_millis(12_000), false));
    // No picture at all.
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    play(&mut window, 0, 10_000, i64::MAX / 4, 1);
    let mut late = Window::new(settings(), &tracks(0x0c), 0, 0);
    for at in (0..10_000).step_by(24) {
        late.handle_frame(&frame(A, Time::from_millis(at), true));
    }
    check(&late);
    assert!(late.next_number() >= 2, "sound goes on alone");
    // Sound alone, as it should be.
    let mut window = Window::new(settings(), &sound_only(), 0, 0);
    for at in (0..10_000).step_by(24) {
        window.handle_frame(&frame(A, Time::from_millis(at), true));
    }
    check(&window);
    assert!(window.all_independent() && window.is_audio_only());
    assert_eq!(window.target().unwrap(), Time::from_millis(2_000));
}

#[test]
fn a_pause_is_a_discontinuity_and_no_long_segment() {
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    play(&mut window, 0, 6_100, 40, 25);
    play(&mut window, 20_000, 26_100, 40, 25);
    check(&window);
    let text = media(&window, false).unwrap();
    assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{text}");
}

#[test]
fn an_end_is_told_and_large_pictures_are_bounded() {
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    play(&mut window, 0, 5_000, 40, 25);
    window.handle_end();
    let text = media(&window, false).unwrap();
    assert!(text.ends_with("#EXT-X-ENDLIST\n") && !text.contains("PRELOAD"), "{text}");
    // 4 MiB a picture: a hundred megabytes a second.
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    let data = Bytes::from(vec![0; 4 << 20]);
    for i in 0..250 {
        let picture = Frame { data: data.clone(), ..frame(V, Time::from_millis(i * 40), i % 25 == 0) };
        window.handle_frame(&picture);
        // Three that stay listed and the one that is being made, each with the part that went over.
        assert!(window.bytes() <= 4 * ((32 << 20) + (24 << 20)), "{}", window.bytes());
    }
    check(&window);
}

#[derive(Clone, Debug)]
enum Step {
    Picture { step: i64, key: bool, bent: bool },
    Sound { step: i64 },
    Gap,
    Change,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (1_i64..120, any::<bool>(), prop::bool::weighted(0.02)).prop_map(|(step, key, bent)| Step::Picture { step, key, bent }),
        1 => (500_i64..20_000, any::<bool>(), Just(false)).prop_map(|(step, key, bent)| Step::Picture { step, key, bent }),
        20 => (1_i64..60).prop_map(|step| Step::Sound { step }),
        1 => Just(Step::Gap),
        1 => Just(Step::Change),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// F7 of fuzzing.md: whatever comes, each playlist is sound, and from one to the next nothing goes back.
    #[test]
    fn any_run_of_frames_gives_sound_playlists(steps in prop::collection::vec(step(), 1..600)) {
        let mut window = Window::new(settings(), &tracks(0x0c), 7, 0);
        let (mut video, mut audio, mut level) = (0, 0, 0x0c);
        let (mut sequence, mut target) = (7, None);
        for step in steps {
            let changed = match step {
                Step::Picture { step, key, bent } => {
                    video += step;
                    window.handle_frame(&Frame { discontinuity: bent, ..frame(V, Time::from_millis(video), key) })
                }
                Step::Sound { step } => {
                    audio += step;
                    window.handle_frame(&frame(A, Time::from_millis(audio), true))
                }
                Step::Gap => {
                    window.handle_gap();
                    true
                }
                Step::Change => {
                    level = if level == 0x0c { 0x0d } else { 0x0c };
                    window.handle_tracks(&tracks(level));
                    true
                }
            };
            if !changed || media(&window, false).is_none() {
                continue;
            }
            check(&window);
            let playlist = parsed(&window, true);
            prop_assert!(playlist.media_sequence >= sequence);
            prop_assert!(target.is_none_or(|target| target == playlist.target_duration));
            (sequence, target) = (playlist.media_sequence, Some(playlist.target_duration));
        }
    }
}

#[test]
fn the_clock_on_the_wall_may_run_away() {
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    for i in 0..500 {
        let at = Time::from_millis(i * 40);
        // An hour later from the middle on.
        let wall = SystemTime::UNIX_EPOCH
            + Duration::from_secs(if i < 250 { 0 } else { 3600 })
            + Duration::from_millis(i as u64 * 40);
        window.handle_frame(&Frame { wall, ..frame(V, at, i % 25 == 0) });
    }
    check(&window);
    let dates: Vec<i64> =
        parsed(&window, false).segments.iter().map(|s| s.program_date_time.unwrap().timestamp()).collect();
    assert!(dates.first().is_some_and(|date| *date < 60) && dates.last().is_some_and(|date| *date > 3600), "{dates:?}");
}

#[test]
fn a_first_segment_that_says_little_decides_little() {
    // A pause of ten minutes before the second key frame is no group of pictures.
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    play(&mut window, 0, 1_000, 40, i64::MAX);
    play(&mut window, 600_000, 606_100, 40, 25);
    check(&window);
    assert!(window.target().unwrap() <= Time::from_millis(12_000), "{:?}", window.target());
    // Cut short by another set of tracks after a single picture: parts are still as long as was asked for.
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    window.handle_frame(&frame(V, Time::ZERO, true));
    window.handle_tracks(&tracks(0x0d));
    play(&mut window, 40, 6_100, 40, 25);
    check(&window);
    assert!(window.part_target() >= Time::from_millis(200), "{:?}", window.part_target());
    assert!(window.segment(2).unwrap().parts.iter().any(|part| part.duration == Time::from_millis(200)));
}

#[test]
fn a_picture_that_stands_makes_one_part_long_and_not_all_that_follow() {
    let mut window = Window::new(settings(), &tracks(0x0c), 0, 0);
    play(&mut window, 0, 6_100, 40, 25);
    play(&mut window, 7_400, 9_000, 40, 25);
    check(&window);
    assert!(window.part_target() > Time::from_millis(1_000), "{:?}", window.part_target());
    play(&mut window, 9_000, 30_000, 40, 25);
    check(&window);
    assert_eq!(window.part_target(), Time::from_millis(205));
}
