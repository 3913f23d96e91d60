//! The machine this node runs on, as Linux tells it under `/proc`. Where something is not told it is 0 or absent.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Looks at the machine; rates are since the last look.
#[derive(Debug)]
pub(crate) struct Machine {
    data_dir: PathBuf,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    busy: u64,
    all: u64,
    /// (name, bytes received, bytes sent).
    network: Vec<(String, u64, u64)>,
    shown: Figures,
}

/// Rates over less than this mean nothing, so the last ones are told again.
const SHORTEST: Duration = Duration::from_millis(500);

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Bytes of memory.
    pub(crate) memory_total: u64,
    /// Bytes that are free or can be had at once.
    pub(crate) memory_available: u64,
    /// Share of all cores that was busy, 0 to 1.
    pub(crate) cpu: f64,
    /// Bytes of the disk that `data_dir` is on.
    pub(crate) disk_total: u64,
    /// Bytes there that are free to us.
    pub(crate) disk_free: u64,
    /// Its network interfaces.
    pub(crate) network: Vec<Interface>,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// Bytes since it came up.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Bytes per second.
    pub(crate) receive_rate: u64,
    pub(crate) send_rate: u64,
}

impl Machine {
    /// Takes a first look, so that there are rates at the first question.
    pub(crate) fn new(data_dir: &Path) -> Machine {
        let (busy, all) = cpu(&read("/proc/stat"));
        let network = network(&read("/proc/net/dev"));
        let last = Last { at: Instant::now(), busy, all, network, shown: Figures::default() };
        Machine { data_dir: data_dir.to_path_buf(), last: Mutex::new(last) }
    }

    /// Looks again.
    pub(crate) fn look(&self) -> Figures {
        let mut last = self.last.lock().expect("no code panics while it holds this lock");
        let elapsed = last.at.elapsed();
        if elapsed < SHORTEST && last.shown.memory_total > 0 {
            return last.shown.clone();
        }
        let (busy, all) = cpu(&read("/proc/stat"));
        let now = network(&read("/proc/net/dev"));
        let rate =
            |now: u64, before: u64| (now.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
        let interfaces = now.iter().map(|(name, received, sent)| {
            let before = last.network.iter().find(|(known, ..)| known == name);
            let (old_received, old_sent) = before.map_or((*received, *sent), |(_, received, sent)| (*received, *sent));
            Interface {
                name: name.clone(),
                received: *received,
                sent: *sent,
                receive_rate: rate(*received, old_received),
                send_rate: rate(*sent, old_sent),
            }
        });
        let (memory_total, memory_available) = memory(&read("/proc/meminfo"));
        let (disk_total, disk_free) = disk(&self.data_dir);
        let ticks = all.saturating_sub(last.all);
        let shown = Figures {
            memory_total,
            memory_available,
            cpu: if ticks == 0 { 0.0 } else { busy.saturating_sub(last.busy) as f64 / ticks as f64 },
            disk_total,
            disk_free,
            network: interfaces.collect(),
        };
        *last = Last { at: Instant::now(), busy, all, network: now, shown: shown.clone() };
        shown
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// (busy, all) ticks of all cores: the first line of `/proc/stat` (proc_stat(5)), where the fourth and fifth are idle.
fn cpu(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    // The ninth and tenth, guests, are in the first two already.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).map(|n| n.parse().unwrap_or(0)).collect();
    let all = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}

/// (total, available) bytes (proc_meminfo(5), which counts in KiB).
fn memory(meminfo: &str) -> (u64, u64) {
    let line = |name| meminfo.lines().find_map(|line| line.strip_prefix(name));
    let bytes =
        |name| line(name).and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10;
    (bytes("MemTotal:"), bytes("MemAvailable:"))
}

/// (name, received, sent) of each interface: columns 1 and 9 of `/proc/net/dev` (proc_pid_net(5)).
fn network(dev: &str) -> Vec<(String, u64, u64)> {
    let rows = dev.lines().skip(2).filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        Some((name.trim().to_string(), *numbers.first()?, *numbers.get(8)?))
    });
    rows.collect()
}

#[cfg(unix)]
fn disk(folder: &Path) -> (u64, u64) {
    let Ok(about) = rustix::fs::statvfs(folder) else { return (0, 0) };
    (about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize)
}

#[cfg(not(unix))]
fn disk(_: &Path) -> (u64, u64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_tells_is_read() {
        assert_eq!(cpu("cpu  10 1 5 80 4 0 2 3 7 7\ncpu0 1 1 1 1\n"), (21, 105));
        assert_eq!(memory("MemTotal:  100 kB\nMemFree: 3 kB\nMemAvailable:   50 kB\n"), (102_400, 51_200));
        let dev = "Inter-|   Receive  | Transmit\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n  eth0:70 1 0 0 0 0 0 0 8 0\n";
        assert_eq!(network(dev), [("lo".into(), 5, 6), ("eth0".into(), 70, 8)]);
        assert_eq!((cpu(""), memory("x"), network("").len()), ((0, 0), (0, 0), 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory_a_disk_and_a_loopback() {
        let seen = Machine::new(Path::new("/")).look();
        assert!(seen.memory_total > seen.memory_available && seen.memory_available > 0, "{seen:?}");
        assert!(seen.disk_total > 0 && (0.0..=1.0).contains(&seen.cpu), "{seen:?}");
        assert!(seen.network.iter().any(|one| one.name == "lo"), "{seen:?}");
    }
}
