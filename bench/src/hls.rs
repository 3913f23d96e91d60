//! `bench hls`: viewers of one stream by HLS, each a player's requests on one kept connection.
//!
//! A low-latency player asks for the playlist that will have the next part and then for that part; a plain one asks for the playlist once in a
//! target duration and then for the segments that are new.

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::args::{Class, HlsArgs, Player, ServerKind};
use crate::client::Client;
use crate::measure::percent;
use crate::publisher::Publisher;
use crate::receiver::STREAM;
use crate::servers::{Server, default_program, prepare};
use crate::{proc, report};

/// The stream's age before anybody watches.
const STREAM_AGE: Duration = Duration::from_secs(2);
/// From the first viewer, for whom the window is begun, to the others: until it is full (twice six segments of two seconds and two more), or what it
/// grows by would be counted as theirs.
const BEGIN: Duration = Duration::from_secs(32);
/// From the last viewer's joining to the window.
const WARM_UP: Duration = Duration::from_secs(4);
/// Viewers join so far apart, as people do.
const APART: Duration = Duration::from_millis(4);

/// What was measured.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    player: Player,
    viewers: u32,
    seconds: f64,
    cpu_ms_per_viewer_second: f64,
    cpu_percent: f64,
    rss_kib_per_viewer: f64,
    requests_per_second: f64,
    /// Of the stream's parts (or segments) in the window, what all viewers together did not get.
    missed: u64,
    received_bytes: u64,
    generator_cpu_percent: f64,
    errors: Vec<String>,
}

/// Measures and prints.
pub(crate) fn run(args: &HlsArgs) -> Result<()> {
    let program = args.program.program.clone().map_or_else(default_program, Ok)?;
    prepare()?;
    let mut all = Vec::new();
    for &player in &args.players {
        eprintln!("measuring hls, {} {} viewers", args.viewers, player.name());
        all.push(measure(player, args, &program)?);
    }
    let text = if args.json { report::json(&all)? } else { table(&all) };
    stdout().write_all(text.as_bytes())?;
    Ok(())
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    bytes: AtomicU64,
    /// Parts or segments that a viewer found gone from the playlist before it had them.
    missed: AtomicU64,
    over: AtomicBool,
    errors: Mutex<BTreeMap<String, u32>>,
}

fn measure(player: Player, args: &HlsArgs, program: &Path) -> Result<Figures> {
    let server = Server::start(ServerKind::Culvert, Class::Shared, program)?;
    let mut publisher = Publisher::start(server.address())?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(measure_on(&server, player, args));
    publisher.check()?;
    figures.with_context(|| format!("the server's log ends:\n{}", server.log()))
}

async fn measure_on(server: &Server, player: Player, args: &HlsArgs) -> Result<Figures> {
    let (pid, own, counts) = (server.pid(), std::process::id(), Arc::new(Counts::default()));
    sleep(STREAM_AGE).await;
    let mut viewers = JoinSet::new();
    // The window is there before the base is taken, for it is the stream's and no viewer's.
    viewers.spawn(watch(server.address(), player, counts.clone()));
    sleep(BEGIN).await;
    let base_rss_kib = proc::rss_kib(pid)?;
    for _ in 1..args.viewers {
        viewers.spawn(watch(server.address(), player, counts.clone()));
        sleep(APART).await;
    }
    sleep(WARM_UP).await;
    let read = || [&counts.requests, &counts.bytes, &counts.missed].map(|count| count.load(Ordering::Relaxed));
    let (before, from) = (read(), Instant::now());
    let (cpu, own_cpu) = (proc::cpu_time(pid)?, proc::cpu_time(own)?);
    sleep(Duration::from_secs(u64::from(args.seconds))).await;
    let window = from.elapsed();
    let (cpu, own_cpu) = (proc::cpu_time(pid)?.saturating_sub(cpu), proc::cpu_time(own)?.saturating_sub(own_cpu));
    let rss_kib = proc::rss_kib(pid)?;
    let [requests, bytes, missed] = read();
    counts.over.store(true, Ordering::Relaxed);
    while viewers.join_next().await.is_some() {}
    let errors = counts.errors.lock().expect("no code panics while it counts");
    Ok(Figures {
        player,
        viewers: args.viewers,
        seconds: window.as_secs_f64(),
        cpu_ms_per_viewer_second: cpu.as_secs_f64() * 1000.0 / f64::from(args.viewers) / window.as_secs_f64(),
        cpu_percent: percent(cpu, window),
        rss_kib_per_viewer: rss_kib.saturating_sub(base_rss_kib) as f64 / f64::from(args.viewers),
        requests_per_second: (requests - before[0]) as f64 / window.as_secs_f64(),
        missed: missed - before[2],
        received_bytes: bytes - before[1],
        generator_cpu_percent: percent(own_cpu, window),
        errors: errors.iter().map(|(why, count)| format!("{count} viewers: {why}")).collect(),
    })
}

async fn watch(server: SocketAddr, player: Player, counts: Arc<Counts>) {
    if let Err(why) = play(server, player, &counts).await {
        let mut errors = counts.errors.lock().expect("no code panics while it counts");
        *errors.entry(format!("{why:#}")).or_default() += 1;
    }
}

async fn play(server: SocketAddr, player: Player, counts: &Counts) -> Result<()> {
    let mut client = Client::connect(server).await?;
    let multivariant = text(&mut client, &format!("/play/{STREAM}.m3u8"), counts).await?;
    let uri = multivariant.lines().last().context("an empty playlist")?;
    let folder = format!("/play/live/{}", uri.strip_suffix("live.m3u8").context("no media playlist")?);
    let (mut last, mut query) = (None, String::new());
    while !counts.over.load(Ordering::Relaxed) {
        let playlist = Playlist::parse(text(&mut client, &format!("{folder}live.m3u8{query}"), counts).await?, player)?;
        let new = playlist.after(last);
        if let (Some(last), Some(first)) = (last, new.first())
            && !playlist.pieces.iter().any(|(at, _)| *at == last)
            && *first > last
        {
            counts.missed.fetch_add(1, Ordering::Relaxed);
        }
        // A player begins near the end.
        let from = if last.is_none() { new.len().saturating_sub(1) } else { 0 };
        for at in new.iter().skip(from) {
            let Some((_, uri)) = playlist.pieces.iter().find(|(of, _)| of == at) else { continue };
            let mut bytes = 0;
            let status = client.drain(&format!("{folder}{uri}"), &mut bytes).await?;
            counts.requests.fetch_add(1, Ordering::Relaxed);
            counts.bytes.fetch_add(bytes, Ordering::Relaxed);
            if status != 200 {
                bail!("{uri} answers {status}");
            }
        }
        last = new.last().copied().or(last);
        match player {
            Player::LowLatency => {
                let (number, part) = playlist.hint.context("no preload hint")?;
                query = format!("?_HLS_msn={number}&_HLS_part={part}");
            }
            Player::Plain => {
                let target = Duration::from_secs(playlist.target);
                sleep(if new.is_empty() { target / 2 } else { target }).await;
            }
        }
    }
    Ok(())
}

async fn text(client: &mut Client, path: &str, counts: &Counts) -> Result<String> {
    let (status, body) = client.get(path).await?;
    counts.requests.fetch_add(1, Ordering::Relaxed);
    counts.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    if status != 200 {
        bail!("{path} answers {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// A part or a segment: its segment's number, and its own within that.
type At = (u64, u64);

struct Playlist {
    target: u64,
    pieces: Vec<(At, String)>,
    hint: Option<At>,
}

impl Playlist {
    fn parse(text: String, player: Player) -> Result<Playlist> {
        let mut playlist = Playlist { target: 0, pieces: Vec::new(), hint: None };
        for line in text.lines() {
            let quoted = || line.split('"').nth(1).unwrap_or_default();
            if let Some(seconds) = line.strip_prefix("#EXT-X-TARGETDURATION:") {
                playlist.target = seconds.parse()?;
            } else if line.starts_with("#EXT-X-PRELOAD-HINT") {
                playlist.hint = at(quoted());
            } else if line.starts_with("#EXT-X-PART:") && player == Player::LowLatency {
                playlist.pieces.extend(at(quoted()).map(|at| (at, quoted().to_string())));
            } else if line.starts_with("seg-") && player == Player::Plain {
                playlist.pieces.extend(at(line).map(|at| (at, line.to_string())));
            }
        }
        Ok(playlist)
    }

    fn after(&self, last: Option<At>) -> Vec<At> {
        self.pieces.iter().map(|(at, _)| *at).filter(|at| last.is_none_or(|last| *at > last)).collect()
    }
}

/// `seg-12.m4s`, `part-12-3.m4s`.
fn at(uri: &str) -> Option<At> {
    let mut numbers = uri.strip_suffix(".m4s")?.split('-').skip(1).map(str::parse);
    let segment = numbers.next()?.ok()?;
    Some((segment, numbers.next().and_then(Result::ok).unwrap_or_default()))
}

fn table(all: &[Figures]) -> String {
    let head = [
        "player",
        "viewers",
        "CPU ms/viewer/s",
        "core %",
        "KiB/viewer",
        "requests/s",
        "Mbit/s",
        "missed",
        "generator %",
    ];
    let rows = all.iter().map(|figures| {
        vec![
            figures.player.name().to_owned(),
            figures.viewers.to_string(),
            format!("{:.4}", figures.cpu_ms_per_viewer_second),
            format!("{:.1}", figures.cpu_percent),
            format!("{:.1}", figures.rss_kib_per_viewer),
            format!("{:.0}", figures.requests_per_second),
            format!("{:.0}", figures.received_bytes as f64 * 8.0 / 1e6 / figures.seconds),
            figures.missed.to_string(),
            format!("{:.0}", figures.generator_cpu_percent),
        ]
    });
    let mut text = report::table(&head.map(str::to_owned), &rows.collect::<Vec<_>>());
    for error in all.iter().flat_map(|figures| &figures.errors) {
        text.push_str(error);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_in_a_playlist_is_told_by_numbers() {
        let text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\nseg-7.m4s\n#EXT-X-PART:DURATION=0.2,URI=\"part-8-0.m4s\"\n\
                    #EXT-X-PART:DURATION=0.2,URI=\"part-8-1.m4s\"\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-8-2.m4s\"\n";
        let low = Playlist::parse(text.into(), Player::LowLatency).unwrap();
        assert_eq!(
            (low.after(None), low.after(Some((8, 0))), low.hint),
            (vec![(8, 0), (8, 1)], vec![(8, 1)], Some((8, 2)))
        );
        let plain = Playlist::parse(text.into(), Player::Plain).unwrap();
        assert_eq!((plain.after(None), plain.target), (vec![(7, 0)], 2));
    }
}
