//! Part `relay`: three real nodes in a row, a stream at the lowest, viewers at each.
//!
//! All viewers are HTTP-FLV and of the class that has each tag at once, so that a batch for many viewers is not taken for
//! what a level adds. Frames carry the time at which they were published, at the foot of their data; so they can be told
//! apart behind any number of levels.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;

use super::figures::{Asked, Report};
use super::nodes::{runtime, start};
use crate::args::{Class, Part, Protocol};
use crate::client::until_metric;
use crate::measure::Spread;
use crate::probe::Probe;
use crate::publisher::Publisher;
use crate::receiver::{INPUT_BYTES, Receiver, STREAM};
use crate::servers::Server;
use crate::stamp::now_micros;

/// What says how many streams a node has.
const STREAMS: &str = "culvert_streams{}";
/// The least that a node has; tries come after it.
const GRACE: &str = "  on_demand: {grace: 1s}\n";
/// For a relay of two levels to end after its last viewer: two graces and a second.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// The stream's age before anybody watches.
const STREAM_AGE: Duration = Duration::from_millis(1500);
/// The nth try comes that many times n later, modulo a second: all moments between two key frames are tried.
const TRIES_APART_MS: u64 = 137;
/// How long a viewer waits for anything at all.
const SILENCE: Duration = Duration::from_secs(5);
/// Before the window, so that all levels run.
const WARM_UP: Duration = Duration::from_secs(3);
/// In which what levels add is taken.
const WINDOW: Duration = Duration::from_secs(20);

/// A node, and what the stream is called there.
struct Level {
    node: Server,
    stream: String,
}

/// Measures.
pub(crate) fn run(program: &Path, tries: u32, report: &mut Report) -> Result<()> {
    let runtime = runtime()?;
    let top = start(&runtime, program, "0", "top", None, GRACE)?;
    let middle = start(&runtime, program, "1", "middle", Some(top.address()), GRACE)?;
    let lowest = start(&runtime, program, "0", "lowest", Some(middle.address()), "")?;
    let mut publisher = Publisher::start(lowest.address())?;
    sleep(STREAM_AGE);
    let levels = [
        Level { node: lowest, stream: STREAM.to_owned() },
        Level { node: middle, stream: format!("{STREAM}-lowest") },
        Level { node: top, stream: format!("{STREAM}-lowest-middle") },
    ];
    let done = measure(&runtime, &levels, tries, report);
    publisher.check()?;
    done.with_context(|| {
        let logs = levels.iter().map(|level| format!("{} logs:\n{}", level.stream, level.node.log()));
        logs.collect::<Vec<_>>().join("\n")
    })
}

fn measure(runtime: &Runtime, levels: &[Level; 3], tries: u32, report: &mut Report) -> Result<()> {
    let [lowest, middle, top] = levels;
    for (what, level, asked) in [
        ("first frame, one level down", middle, None),
        ("first frame, two levels down", top, Some(Asked::Below(300.0))),
    ] {
        let mut micros = Vec::new();
        for number in 0..tries {
            for relaying in [top, middle] {
                let ended = until_metric(relaying.node.address(), STREAMS, 0.0, END_PATIENCE);
                runtime.block_on(ended).context("the relay does not end")?;
            }
            sleep(Duration::from_millis(u64::from(number) * TRIES_APART_MS % 1000));
            let mut viewer = Viewer::open(level)?;
            micros.push(viewer.until_key_frame()?);
        }
        report.spread(Part::Relay, what, Spread::of(micros), [None, None, asked]);
    }
    let direct = first_key_frames_at(lowest, tries)?;
    report.spread(Part::Relay, "first frame at the lowest itself", Spread::of(direct), [None; 3]);
    let [at_lowest, at_middle, at_top] = delays(levels)?;
    let asked = [None, Some(Asked::Below(20.0)), None];
    report.spread(Part::Relay, "added by one level", added(&at_lowest, &at_middle), asked);
    report.spread(Part::Relay, "added by the next", added(&at_middle, &at_top), asked);
    report.spread(Part::Relay, "added by both", added(&at_lowest, &at_top), [None; 3]);
    let at = |delays: &Delays| Spread::of(delays.values().copied().collect());
    report.spread(Part::Relay, "publisher to a viewer at the lowest", at(&at_lowest), [None; 3]);
    report.spread(Part::Relay, "publisher to a viewer at the top", at(&at_top), [None; 3]);
    for (level, seen) in levels.iter().zip([&at_lowest, &at_middle, &at_top]) {
        let (first, last) = (seen.keys().next(), seen.keys().next_back());
        let whole = first.zip(last).map_or(0, |(first, last)| (last - first) as usize + 1);
        if whole > seen.len() {
            report.note(Part::Relay, &format!("{}: {} of {whole} frames missing", level.stream, whole - seen.len()));
        }
    }
    Ok(())
}

/// What the way through the cascade is compared with.
fn first_key_frames_at(level: &Level, tries: u32) -> Result<Vec<u32>> {
    let mut micros = Vec::new();
    for number in 0..tries {
        sleep(Duration::from_millis(u64::from(number) * TRIES_APART_MS % 1000));
        micros.push(Viewer::open(level)?.until_key_frame()?);
    }
    Ok(micros)
}

/// How far behind each tag was, by its number.
type Delays = BTreeMap<u32, u32>;

/// By a viewer at each level, each with a thread of its own, in the same time.
fn delays(levels: &[Level; 3]) -> Result<[Delays; 3]> {
    let from = Instant::now() + WARM_UP;
    let watch = |level: &Level| Viewer::open(level)?.watch(from, from + WINDOW);
    thread::scope(|scope| {
        let threads = levels.each_ref().map(|level| scope.spawn(move || watch(level)));
        let [a, b, c] = threads.map(|thread| match thread.join() {
            Ok(seen) => seen,
            Err(_) => bail!("a viewer's thread has panicked"),
        });
        Ok([a?, b?, c?])
    })
}

/// What the way from one viewer to the other took, tag by tag. One that came earlier through more levels took nothing.
fn added(near: &Delays, far: &Delays) -> Option<Spread> {
    let both = far.iter().filter_map(|(number, far)| Some(far.saturating_sub(*near.get(number)?)));
    Spread::of(both.collect())
}

/// One viewer with a socket of its own.
struct Viewer {
    socket: TcpStream,
    probe: Probe,
    buffer: Vec<u8>,
}

impl Viewer {
    /// Asks for the stream.
    fn open(level: &Level) -> Result<Viewer> {
        let server: SocketAddr = level.node.address();
        let (receiver, first) = Receiver::new(Protocol::Flv, Class::Low, server.port(), &level.stream)?;
        let mut socket = TcpStream::connect(server)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let probe = Probe::new(receiver, now_micros());
        socket.write_all(&first)?;
        Ok(Viewer { socket, probe, buffer: vec![0; INPUT_BYTES] })
    }

    /// Takes what comes next.
    fn turn(&mut self) -> Result<()> {
        let count = match self.socket.read(&mut self.buffer) {
            Ok(0) => bail!("closed by the server"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("nothing came"),
        };
        let input = self.buffer.get(..count).unwrap_or_default();
        // HTTP-FLV has nothing to reply.
        self.probe.handle_input(now_micros(), input, &mut Vec::new())?;
        Ok(())
    }

    /// Microseconds from the request.
    fn until_key_frame(&mut self) -> Result<u32> {
        loop {
            if let Some(micros) = self.probe.first_key_micros() {
                return Ok(micros);
            }
            self.turn()?;
        }
    }

    fn watch(&mut self, from: Instant, until: Instant) -> Result<Delays> {
        while Instant::now() < from {
            self.turn()?;
        }
        self.probe.mark();
        while Instant::now() < until {
            self.turn()?;
        }
        Ok(self.probe.delays_micros().iter().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_level_adds_is_taken_tag_by_tag() {
        let near = Delays::from([(1, 1_000), (2, 9_000), (3, 2_000), (9, 0)]);
        let far = Delays::from([(2, 10_000), (3, 5_000), (4, 1), (1, 900)]);
        let spread = added(&near, &far).unwrap();
        assert_eq!((spread.p50, spread.max), (1.0, 3.0));
        assert_eq!(added(&near, &Delays::new()), None);
    }
}
