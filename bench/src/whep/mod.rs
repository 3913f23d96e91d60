//! `bench whep`: viewers of one stream by WebRTC. Each is a full agent of str0m that agrees on keys, answers what keeps a session alive, and
//! throws the media away unread, so that the server is what is measured.

mod floor;

use std::collections::BTreeMap;
use std::io::{IoSliceMut, Write, stdout};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use serde::Serialize;
use str0m::change::SdpAnswer;
use str0m::crypto::{CryptoProvider, from_feature_flags};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind};
use str0m::net::{DatagramRecv, Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use crate::args::{Class, ServerKind, WhepArgs};
use crate::measure::percent;
use crate::publisher::Publisher;
use crate::receiver::STREAM;
use crate::servers::{Server, default_program, prepare};
use crate::stream::Shape;
use crate::{proc, report};

/// The stream's age before anybody watches.
const STREAM_AGE: Duration = Duration::from_secs(2);
/// From the last viewer's joining to the window.
const WARM_UP: Duration = Duration::from_secs(4);
/// Viewers join so far apart, as people do.
const APART: Duration = Duration::from_millis(10);
/// How often a viewer looks what came, as the floor's do. Nobody waits for its socket: on loopback who sends would pay for waking it, which viewers
/// elsewhere do not cost.
const SWEEP: Duration = Duration::from_millis(10);
/// Most bytes of a key frame.
const KEY_BYTES: u64 = 4 << 20;
/// How long a viewer may take to be connected.
const CONNECT: Duration = Duration::from_secs(15);

/// What was measured.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    viewers: u32,
    connected: u64,
    seconds: f64,
    packets_per_second: f64,
    /// Of them, those of Opus, which the server makes of the publisher's AAC.
    sounds_per_second: f64,
    megabits_per_second: f64,
    cpu_us_per_packet: f64,
    /// Of a bare loop that sends the same.
    floor_us_per_packet: f64,
    cpu_percent: f64,
    rss_kib_per_viewer: f64,
    connect_ms_median: f64,
    connect_ms_most: f64,
    generator_cpu_percent: f64,
    errors: Vec<String>,
}

#[derive(Default)]
struct Counts {
    packets: AtomicU64,
    sounds: AtomicU64,
    bytes: AtomicU64,
    connected: AtomicU64,
    over: AtomicBool,
    connect_ms: Mutex<Vec<f64>>,
    errors: Mutex<BTreeMap<String, u32>>,
}

/// Measures and prints.
pub(crate) fn run(args: &WhepArgs) -> Result<()> {
    let program = args.program.program.clone().map_or_else(default_program, Ok)?;
    prepare()?;
    eprintln!("measuring whep, {} viewers", args.viewers);
    let figures = measure(args, &program)?;
    let text = if args.json { report::json(&[figures])? } else { table(&figures) };
    stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn measure(args: &WhepArgs, program: &Path) -> Result<Figures> {
    let shape = Shape { megabits: args.megabits, fps: args.fps, sound: !args.no_sound };
    // A key frame of the bench has 600 kB at 1 Mbit/s and 1 a second.
    if 600_000 * u64::from(args.megabits) / u64::from(args.fps) > KEY_BYTES {
        bail!("key frames of more than 4 MiB, which servers refuse: take more --fps or fewer --megabits");
    }
    let server = Server::start(ServerKind::Culvert, Class::Shared, program)?;
    let mut publisher = Publisher::start_with(server.address(), shape)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(measure_on(&server, args));
    publisher.check()?;
    let mut figures = figures.with_context(|| format!("the server's log ends:\n{}", server.log()))?;
    if shape.sound && figures.sounds_per_second == 0.0 {
        bail!("no Opus comes; the server's log ends:\n{}", server.log());
    }
    drop((publisher, server));
    figures.floor_us_per_packet = floor::measure(args.viewers, shape, args.seconds)?;
    Ok(figures)
}

async fn measure_on(server: &Server, args: &WhepArgs) -> Result<Figures> {
    let (pid, own, counts) = (server.pid(), std::process::id(), Arc::new(Counts::default()));
    let crypto = Arc::new(from_feature_flags());
    sleep(STREAM_AGE).await;
    let base_rss_kib = proc::rss_kib(pid)?;
    let mut viewers = JoinSet::new();
    for _ in 0..args.viewers {
        viewers.spawn(watch(server.address(), crypto.clone(), counts.clone()));
        sleep(APART).await;
    }
    sleep(WARM_UP).await;
    let read = || [&counts.packets, &counts.sounds, &counts.bytes].map(|count| count.load(Ordering::Relaxed));
    let (before, from) = (read(), Instant::now());
    let (cpu, own_cpu) = (proc::cpu_time(pid)?, proc::cpu_time(own)?);
    sleep(Duration::from_secs(u64::from(args.seconds))).await;
    let window = from.elapsed();
    let (cpu, own_cpu) = (proc::cpu_time(pid)?.saturating_sub(cpu), proc::cpu_time(own)?.saturating_sub(own_cpu));
    let rss_kib = proc::rss_kib(pid)?;
    let after = read();
    counts.over.store(true, Ordering::Relaxed);
    while viewers.join_next().await.is_some() {}
    let [packets, sounds, bytes] = std::array::from_fn(|at| after[at] - before[at]);
    let mut connect_ms = counts.connect_ms.lock().expect("no code panics while it counts").clone();
    connect_ms.sort_by(f64::total_cmp);
    let at =
        |part: usize| connect_ms.get((connect_ms.len().saturating_sub(1)) * part / 100).copied().unwrap_or(f64::NAN);
    let errors = counts.errors.lock().expect("no code panics while it counts");
    Ok(Figures {
        viewers: args.viewers,
        connected: counts.connected.load(Ordering::Relaxed),
        seconds: window.as_secs_f64(),
        packets_per_second: packets as f64 / window.as_secs_f64(),
        sounds_per_second: sounds as f64 / window.as_secs_f64(),
        megabits_per_second: bytes as f64 * 8.0 / 1e6 / window.as_secs_f64(),
        cpu_us_per_packet: cpu.as_secs_f64() * 1e6 / packets.max(1) as f64,
        floor_us_per_packet: f64::NAN,
        cpu_percent: percent(cpu, window),
        rss_kib_per_viewer: rss_kib.saturating_sub(base_rss_kib) as f64 / f64::from(args.viewers),
        connect_ms_median: at(50),
        connect_ms_most: at(100),
        generator_cpu_percent: percent(own_cpu, window),
        errors: errors.iter().map(|(why, count)| format!("{count} viewers: {why}")).collect(),
    })
}

async fn watch(server: SocketAddr, crypto: Arc<CryptoProvider>, counts: Arc<Counts>) {
    if let Err(why) = play(server, crypto, &counts).await {
        let mut errors = counts.errors.lock().expect("no code panics while it counts");
        *errors.entry(format!("{why:#}")).or_default() += 1;
    }
}

async fn play(server: SocketAddr, crypto: Arc<CryptoProvider>, counts: &Counts) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    socket.set_nonblocking(true)?;
    let own = socket.local_addr()?;
    let begun = Instant::now();
    let mut rtc = Rtc::builder().set_crypto_provider(crypto).set_rtp_mode(true).build(begun);
    let opus =
        rtc.codec_config().params().iter().find(|params| params.spec().codec == Codec::Opus).map(|params| *params.pt());
    rtc.add_local_candidate(Candidate::host(own, "udp")?);
    let mut change = rtc.sdp_api();
    change.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
    change.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
    let (offer, pending) = change.apply().context("no offer")?;
    let answer = timeout(CONNECT, post(server, &offer.to_sdp_string())).await??;
    rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer)?)?;
    let mut buffer = vec![0; 64 << 10];
    let mut is_connected = false;
    while !counts.over.load(Ordering::Relaxed) {
        let due = loop {
            match rtc.poll_output()? {
                Output::Timeout(due) => break due,
                Output::Transmit(transmit) => drop(socket.send_to(&transmit.contents, transmit.destination)?),
                Output::Event(Event::Connected) => {
                    is_connected = true;
                    counts.connected.fetch_add(1, Ordering::Relaxed);
                    let ms = begun.elapsed().as_secs_f64() * 1000.0;
                    counts.connect_ms.lock().expect("no code panics while it counts").push(ms);
                }
                Output::Event(_) => {}
            }
        };
        if !is_connected && begun.elapsed() > CONNECT {
            bail!("not connected within {} s", CONNECT.as_secs());
        }
        sleep_until(due.min(Instant::now() + SWEEP).into()).await;
        if due <= Instant::now() {
            rtc.handle_input(Input::Timeout(Instant::now()))?;
        }
        let mut meta = [RecvMeta::default()];
        // Until it is empty.
        while state.recv(UdpSockRef::from(&socket), &mut [IoSliceMut::new(&mut buffer)], &mut meta).is_ok() {
            for datagram in buffer.get(..meta[0].len).unwrap_or_default().chunks(meta[0].stride.max(1)) {
                // RTP and RTCP (RFC 7983 7).
                if is_connected && datagram.first().is_some_and(|first| (128..192).contains(first)) {
                    counts.packets.fetch_add(1, Ordering::Relaxed);
                    let is_sound = datagram.get(1).is_some_and(|second| Some(second & 0x7f) == opus);
                    counts.sounds.fetch_add(is_sound.into(), Ordering::Relaxed);
                    counts.bytes.fetch_add(datagram.len() as u64, Ordering::Relaxed);
                    continue;
                }
                let Ok(contents) = DatagramRecv::try_from(datagram) else { continue };
                let receive = Receive { proto: Protocol::Udp, source: meta[0].addr, destination: own, contents };
                rtc.handle_input(Input::Receive(Instant::now(), receive))?;
            }
        }
    }
    Ok(())
}

/// The answer to an offer.
async fn post(server: SocketAddr, offer: &str) -> Result<String> {
    let mut socket = TcpStream::connect(server).await?;
    let head = format!(
        "POST /whep/{STREAM} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n",
        offer.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(offer.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    if !head.starts_with("HTTP/1.1 201") {
        bail!("{}: {body}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_string())
}

fn table(figures: &Figures) -> String {
    let head = [
        "viewers",
        "connected",
        "packets/s",
        "of sound",
        "Mbit/s",
        "CPU us/packet",
        "floor us/packet",
        "core %",
        "KiB/viewer",
        "connect p50/max ms",
        "generator %",
    ];
    let row = vec![
        figures.viewers.to_string(),
        figures.connected.to_string(),
        format!("{:.0}", figures.packets_per_second),
        format!("{:.0}", figures.sounds_per_second),
        format!("{:.0}", figures.megabits_per_second),
        format!("{:.2}", figures.cpu_us_per_packet),
        format!("{:.2}", figures.floor_us_per_packet),
        format!("{:.1}", figures.cpu_percent),
        format!("{:.1}", figures.rss_kib_per_viewer),
        format!("{:.0} / {:.0}", figures.connect_ms_median, figures.connect_ms_most),
        format!("{:.0}", figures.generator_cpu_percent),
    ];
    let mut text = report::table(&head.map(str::to_owned), &[row]);
    for error in &figures.errors {
        text.push_str(error);
        text.push('\n');
    }
    text
}
