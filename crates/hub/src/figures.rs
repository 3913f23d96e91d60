//! Figures of streams, sessions and the hub: counted where things happen, read by the API and the metrics.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use culvert_media::{Frame, Time};
use tokio::time::Instant;

use crate::{Action, Refusal};

/// What the hub counts over its whole life.
#[derive(Debug, Default)]
pub struct HubFigures {
    refusals: Mutex<HashMap<(&'static str, &'static str), u64>>,
    faults: Mutex<HashMap<(&'static str, &'static str), u64>>,
}

impl HubFigures {
    /// Counts a refusal; at most as many counters as there are actions and kinds of refusal.
    pub(crate) fn count_refusal(&self, action: Action, refusal: &Refusal) {
        let mut refusals = self.refusals.lock().expect("no code panics while it holds this lock");
        *refusals.entry((action.name(), refusal.kind())).or_default() += 1;
    }

    /// Counts what a peer did wrong, by words of which each protocol has a few.
    pub fn count_fault(&self, protocol: &'static str, what: &'static str) {
        let mut faults = self.faults.lock().expect("no code panics while it holds this lock");
        *faults.entry((protocol, what)).or_default() += 1;
    }

    /// (protocol, what a peer did wrong, count).
    pub fn faults(&self) -> Vec<(&'static str, &'static str, u64)> {
        let faults = self.faults.lock().expect("no code panics while it holds this lock");
        faults.iter().map(|(&(protocol, what), &n)| (protocol, what, n)).collect()
    }

    /// (action, kind of refusal, count).
    pub fn refusals(&self) -> Vec<(&'static str, &'static str, u64)> {
        let refusals = self.refusals.lock().expect("no code panics while it holds this lock");
        refusals.iter().map(|(&(action, kind), &n)| (action, kind, n)).collect()
    }
}

/// How long rates are averaged over.
const WINDOW: Duration = Duration::from_secs(2);

/// Figures of one stream as it comes in.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
    pub(crate) discontinuities: u64,
    pub(crate) key_interval: Option<Duration>,
    last_key: Option<Time>,
    window_start: Instant,
    window_video: u32,
    window_bytes: u64,
    fps: f64,
    bits_per_second: u64,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Meter {
        Meter {
            frames: 0,
            bytes: 0,
            dropped: 0,
            discontinuities: 0,
            key_interval: None,
            last_key: None,
            window_start: now,
            window_video: 0,
            window_bytes: 0,
            fps: 0.0,
            bits_per_second: 0,
        }
    }

    pub(crate) fn count(&mut self, frame: &Frame, video: bool, now: Instant) {
        self.frames += 1;
        self.bytes += frame.data.len() as u64;
        self.discontinuities += u64::from(frame.discontinuity);
        self.window_bytes += frame.data.len() as u64;
        if video {
            self.window_video += 1;
            if frame.key {
                let since = self.last_key.map(|last| (frame.dts - last).micros().unsigned_abs());
                self.key_interval = since.map(Duration::from_micros);
                self.last_key = Some(frame.dts);
            }
        }
        let elapsed = now.saturating_duration_since(self.window_start);
        if elapsed >= WINDOW {
            let seconds = elapsed.as_secs_f64();
            self.fps = f64::from(self.window_video) / seconds;
            self.bits_per_second = (self.window_bytes as f64 * 8.0 / seconds) as u64;
            self.window_start = now;
            self.window_video = 0;
            self.window_bytes = 0;
        }
    }

    /// (video frames per second, bits per second) of the last full window; zero once nothing has come for two.
    pub(crate) fn rates(&self, now: Instant) -> (f64, u64) {
        if now.saturating_duration_since(self.window_start) > WINDOW * 2 {
            return (0.0, 0);
        }
        (self.fps, self.bits_per_second)
    }
}
