//! A long run of HLS with jumps, changes of codec and publishers that go and come back: every playlist is read by two strict parsers and compared
//! with the one before, and everything it names is fetched. `CULVERT_HLS_SECONDS=600` makes it ten minutes; CI has less.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use culvert_media::{Frame, Time, Tracks};
use culvert_tests::browser::read_strictly;
use culvert_tests::ffmpeg::Media;
use culvert_tests::http::request;
use culvert_tests::media::{Script, into_hub, recorded};
use culvert_tests::{Ffmpeg, TestNode};
use m3u8_rs::{MediaPlaylist, Playlist};
use tokio::process::Command;
use tokio::time::sleep;

fn seconds() -> u64 {
    std::env::var("CULVERT_HLS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(45)
}

/// What is published, one after another, for ever: each for 9 s, with 2 s of nobody between some of them.
async fn publish(node: &TestNode, recordings: &[(Tracks, Vec<Frame>)]) {
    let jump = |by: i64| Script::restamped(move |ms| if ms < 4000 { ms } else { ms + by });
    let mut turn = 0;
    loop {
        let (tracks, frames) = recordings[turn % recordings.len()].clone();
        let then = |at| Script::clip_and_then(Time::from_millis(at), tracks.clone(), frames.clone().into_iter());
        let script = match turn % 5 {
            0 => jump(10_000),
            1 => then(4000),
            2 => jump(-3_600_000),
            3 => then(2500),
            _ => jump(30_000),
        };
        let publishing = into_hub(node, "live/a", script);
        sleep(Duration::from_secs(9)).await;
        publishing.abort();
        node.until_gone("live/a").await;
        sleep(Duration::from_millis(if turn % 2 == 0 { 0 } else { 2000 })).await;
        turn += 1;
    }
}

/// What was seen of a segment when it was first complete.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    micros: i64,
    discontinuity: u64,
}

/// What all playlists together say.
#[derive(Default)]
struct Run {
    playlists: Vec<String>,
    first: u64,
    target: Option<u64>,
    segments: BTreeMap<u64, Seen>,
    /// Of each segment, its parts' durations as they were listed.
    parts: BTreeMap<u64, BTreeMap<u64, i64>>,
}

fn micros(seconds: &str) -> i64 {
    let (whole, rest) = seconds.split_once('.').unwrap();
    assert_eq!(rest.len(), 6, "{seconds}");
    whole.parse::<i64>().unwrap() * 1_000_000 + rest.parse::<i64>().unwrap()
}

impl Run {
    /// Compares a playlist with all before it; what it names, newly.
    fn read(&mut self, text: &str) -> Vec<String> {
        let playlist = match m3u8_rs::parse_playlist_res(text.as_bytes()) {
            Ok(Playlist::MediaPlaylist(playlist)) => playlist,
            other => panic!("{other:?}: {text}"),
        };
        self.playlists.push(text.to_string());
        let MediaPlaylist { media_sequence, target_duration, discontinuity_sequence, ref segments, .. } = playlist;
        assert!(media_sequence >= self.first, "{text}");
        self.first = media_sequence;
        assert_eq!(*self.target.get_or_insert(target_duration), target_duration, "{text}");
        let mut named = Vec::new();
        let mut discontinuity = discontinuity_sequence;
        let lengths = text
            .lines()
            .filter_map(|line| line.strip_prefix("#EXTINF:"))
            .map(|line| micros(line.trim_end_matches(',')));
        for (at, (segment, length)) in segments.iter().zip(lengths).enumerate() {
            let number = media_sequence + at as u64;
            assert_eq!(segment.uri, format!("seg-{number}.m4s"), "{text}");
            discontinuity += u64::from(segment.discontinuity);
            assert!((length + 500_000) / 1_000_000 <= i64::try_from(target_duration).unwrap(), "{text}");
            let seen = Seen { micros: length, discontinuity };
            // The same segment is the same in every playlist, and has the same place among the discontinuities.
            assert_eq!(*self.segments.entry(number).or_insert(seen.clone()), seen, "segment {number}: {text}");
            named.push(segment.uri.clone());
        }
        let part_target =
            text.lines().find_map(|line| line.strip_prefix("#EXT-X-PART-INF:PART-TARGET=")).map(micros).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("#EXT-X-PART:DURATION=")) {
            let (length, uri) = (line.split(',').next().unwrap(), line.split('"').nth(1).unwrap());
            let numbers: Vec<u64> =
                uri.trim_end_matches(".m4s").split('-').skip(1).map(|number| number.parse().unwrap()).collect();
            let of_segment = self.parts.entry(numbers[0]).or_default();
            assert_eq!(*of_segment.entry(numbers[1]).or_insert(micros(length)), micros(length), "{uri}: {text}");
            assert!(micros(length) <= part_target, "{uri}: {text}");
            named.push(uri.to_string());
        }
        for (number, parts) in &self.parts {
            if let Some(segment) = self.segments.get(number) {
                assert!(parts.keys().copied().eq(0..parts.len() as u64), "{parts:?}");
                assert_eq!(parts.values().sum::<i64>(), segment.micros, "the parts of {number}: {text}");
            }
        }
        named.extend(
            text.lines()
                .filter_map(|line| line.strip_prefix("#EXT-X-MAP:URI="))
                .map(|uri| uri.trim_matches('"').to_string()),
        );
        self.parts.retain(|number, _| *number >= media_sequence);
        named
    }
}

/// Plays by HLS until told to stop; its errors and how much it played, in seconds.
async fn player(url: String, seconds: u64) -> (String, u64) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i", &url, "-t", &seconds.to_string(), "-progress", "pipe:1"]);
    let done = command.args(["-f", "null", "-"]).kill_on_drop(true).output().await.unwrap();
    let progress = String::from_utf8_lossy(&done.stdout).into_owned();
    let last = progress.lines().rev().find_map(|line| line.strip_prefix("out_time_us=")?.parse::<u64>().ok());
    (String::from_utf8_lossy(&done.stderr).into_owned(), last.unwrap_or_default() / 1_000_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_playlist_of_a_run_with_jumps_changes_and_restarts_is_right() {
    let Some(five) = Ffmpeg::five("every_playlist_of_a_run_with_jumps_changes_and_restarts_is_right") else { return };
    let mut recordings = Vec::new();
    for media in [Media::H264Aac, Media::VideoOnly] {
        recordings.push(recorded(&five.record(media, 12).await));
    }
    if let Some(nine) = Ffmpeg::nine("the H.265 in every_playlist_of_a_run_with_jumps_changes_and_restarts_is_right") {
        recordings.push(recorded(&nine.record(Media::H265Aac, 12).await));
    }
    let node = TestNode::start("");
    let watch = async {
        node.until_live("live/a").await;
        let begun = Instant::now();
        let playing = tokio::spawn(player(node.url("http", "/play/live/a.m3u8"), seconds() / 2));
        let text = node.get("/play/live/a.m3u8").await.text();
        let folder = format!("/play/live/{}", text.lines().last().unwrap().trim_end_matches("live.m3u8"));
        let get = async |file: &str| request(node.address(), "GET", &format!("{folder}{file}"), &[]).await;
        let (mut run, mut query) = (Run::default(), String::new());
        let mut fetched = std::collections::BTreeSet::new();
        while begun.elapsed() < Duration::from_secs(seconds()) {
            let answer = get(&format!("live.m3u8{query}")).await;
            // While nobody publishes, a request that waits is told so after three target durations.
            if answer.status == 503 {
                continue;
            }
            assert_eq!(answer.status, 200, "{query}: {}", answer.text());
            let text = answer.text();
            assert!(!text.contains("ENDLIST"), "{text}");
            for named in run.read(&text) {
                if fetched.insert(named.clone()) {
                    let got = get(&named).await;
                    assert!(got.status == 200 && got.body.len() > 100, "{named} is named and not there: {text}");
                }
            }
            let hint = text
                .lines()
                .find_map(|line| line.split("URI=\"part-").nth(1).filter(|_| line.contains("HINT")))
                .unwrap();
            let (number, part) = hint.trim_end_matches(".m4s\"").split_once('-').unwrap();
            query = format!("?_HLS_msn={number}&_HLS_part={part}");
        }
        (run, fetched.len(), playing)
    };
    let (run, fetched, playing) = tokio::select! {
        done = watch => done,
        () = publish(&node, &recordings) => unreachable!("it goes on for ever"),
    };
    let discontinuities = run.segments.values().map(|segment| segment.discontinuity).max().unwrap_or_default();
    println!(
        "{} playlists, {} segments, {discontinuities} discontinuities, {fetched} files",
        run.playlists.len(),
        run.segments.len()
    );
    // A jump or a change, and a restart, in each turn of at most 11 s.
    assert!(discontinuities >= seconds() / 11, "{discontinuities}");
    assert!(run.playlists.len() as u64 >= seconds() * 3, "{}", run.playlists.len());
    if let Some(read) = read_strictly("hls-parser in every_playlist_of_a_run..", &run.playlists).await {
        assert_eq!(
            (&read["errors"], &read["playlists"]),
            (&serde_json::json!([]), &run.playlists.len().into()),
            "{read}"
        );
        assert!(read["parts"].as_u64() > read["segments"].as_u64() && read["maps"].as_u64() > Some(0), "{read}");
    }
    let (errors, played) = playing.await.unwrap();
    // Its reader of playlists has nothing to say against any of them. Its decoders have: it passes over a second initialisation segment
    // ("Found duplicated MOOV Atom"), and so decodes what comes after a change with the parameters from before.
    let of_reader: Vec<&str> = errors.lines().filter(|line| line.starts_with("[hls @")).collect();
    assert!(of_reader.is_empty(), "{of_reader:?}");
    assert!(played + 2 >= seconds() / 2, "ffmpeg played {played} s");
}
