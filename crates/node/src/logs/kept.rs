//! The newest lines of the log, for `/api/v1/log`: what is written to standard error stays readable from above, where nobody has a shell.

use std::collections::VecDeque;
use std::fmt::{Debug, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines that are kept.
const LINES: usize = 1000;
/// Bytes of one line; the rest is cut off. So all of them are half a megabyte at most.
const LINE_BYTES: usize = 512;

/// A line of the log.
#[derive(Clone, Debug)]
pub struct Line {
    /// Counts from 1 since the program started.
    pub id: u64,
    /// When it was written.
    pub time: SystemTime,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// The room of the code, as in `culvert_hub::gate`.
    pub target: &'static str,
    /// What happened, and then its fields as `name=value`.
    pub message: String,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    last: u64,
}

/// Logging is one for a process, and so is this.
static RING: LazyLock<Mutex<Ring>> = LazyLock::new(Mutex::default);

/// Lines after the one with this id, the oldest first, `most` at most; without an id the newest.
pub fn after(id: Option<u64>, most: usize) -> Vec<Line> {
    let ring = RING.lock().unwrap_or_else(PoisonError::into_inner);
    match id {
        Some(id) => ring.lines.iter().filter(|line| line.id > id).take(most).cloned().collect(),
        None => ring.lines.iter().skip(ring.lines.len().saturating_sub(most)).cloned().collect(),
    }
}

/// Keeps what passes the log's filter.
pub(super) struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let Text { mut message, fields } = text;
        message.push_str(&fields);
        truncate(&mut message);
        message.shrink_to_fit();
        let metadata = event.metadata();
        let level = match *metadata.level() {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warn",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        };
        let mut ring = RING.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last += 1;
        let line = Line { id: ring.last, time: SystemTime::now(), level, target: metadata.target(), message };
        if ring.lines.len() == LINES {
            ring.lines.pop_front();
        }
        ring.lines.push_back(line);
    }
}

fn truncate(message: &mut String) {
    if message.len() > LINE_BYTES {
        let end = (0..=LINE_BYTES - 2).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push_str("..");
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // A string takes what is written to it.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_newest_are_kept_with_their_fields_and_each_has_a_bound() {
        let subscriber = tracing_subscriber::registry().with(Keep);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(stream = "live/a", remote = %"127.0.0.1:9", "it broke");
            let own = after(None, 1).pop().unwrap();
            assert_eq!((own.level, own.message.as_str()), ("warn", "it broke stream=\"live/a\" remote=127.0.0.1:9"));
            assert_eq!(own.target, module_path!());
            for _ in 0..LINES {
                tracing::info!("{}", "ä".repeat(LINE_BYTES));
            }
            let all = after(None, usize::MAX);
            assert_eq!(all.len(), LINES);
            assert!(
                all.iter().all(|line| line.message.len() <= LINE_BYTES && line.message.ends_with("ä..")),
                "{:?}",
                all[0]
            );
            let two = after(Some(own.id), 2);
            assert_eq!(two.iter().map(|line| line.id).collect::<Vec<_>>(), [own.id + 1, own.id + 2]);
            assert!(after(Some(all[LINES - 1].id), 5).is_empty());
        });
    }
}
