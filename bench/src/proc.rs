//! What the kernel says of a process: CPU time, memory, open files, children. Linux only.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// User and system time of all threads of a process so far.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("{path}: has the server died?"))?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("{path} is not as proc(5) says"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Resident memory, in KiB.
pub(crate) fn rss_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("{path}: has the server died?"))?;
    kib(&status, "VmRSS:").with_context(|| format!("{path} has no VmRSS"))
}

/// Resident memory that is no file's, in KiB: what the program itself has allocated and touched.
pub(crate) fn anonymous_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("{path}: has the server died?"))?;
    kib(&status, "RssAnon:").with_context(|| format!("{path} has no RssAnon"))
}

/// How many files and sockets a process has open.
pub(crate) fn open_files(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&path).with_context(|| format!("{path}: has the server died?"))?.count())
}

/// The first child of a process.
pub(crate) fn child_of(pid: u32) -> Option<u32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let child = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        (field(&stat, 4)?.parse::<u32>().ok()? == pid).then_some(child)
    })
}

/// utime and stime, fields 14 and 15 of proc(5).
fn cpu_ticks(stat: &str) -> Option<u64> {
    Some(field(stat, 14)?.parse::<u64>().ok()? + field(stat, 15)?.parse::<u64>().ok()?)
}

/// A field of /proc/PID/stat by its number in proc(5), 3 at the least: the second is a name that may hold anything.
fn field(stat: &str, number: usize) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number.checked_sub(3)?)
}

/// A line of /proc/PID/status that is in KiB.
fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_name_with_brackets() {
        let stat = "42 (a) b) R) S 7 42 42 0 -1 4194560 100 0 0 0 250 17 0 0 20 0 1 0 5 1000 200 18446744073709551615";
        assert_eq!((cpu_ticks(stat), field(stat, 4)), (Some(267), Some("7")));
        assert_eq!(cpu_ticks("42 (a) S 7"), None);
    }

    #[test]
    fn memory_is_read_in_kib() {
        let status = "Name:\tx\nVmHWM:\t  9000 kB\nVmRSS:\t  8120 kB\nRssAnon:\t    3012 kB\n";
        assert_eq!((kib(status, "VmRSS:"), kib(status, "RssAnon:")), (Some(8120), Some(3012)));
        assert_eq!(kib("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn the_kernel_knows_this_process() {
        let own = std::process::id();
        assert!(
            cpu_time(own).is_ok()
                && rss_kib(own).unwrap() > anonymous_kib(own).unwrap()
                && open_files(own).unwrap() > 2
        );
        assert!(cpu_time(u32::MAX).is_err());
    }
}
