//! What `culvert doctor` prints: a line for each step, and under it what to do.

use std::io::{self, Write};

/// How a step went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    /// Well.
    Ok,
    /// Well enough for a link, and yet worth a look.
    Note,
    /// There can be no link.
    Failed,
    /// Not tried.
    Skipped,
}

impl Mark {
    const fn word(self) -> &'static str {
        match self {
            Mark::Ok => "ok",
            Mark::Note => "note",
            Mark::Failed => "FAILED",
            Mark::Skipped => "skipped",
        }
    }
}

/// The lines so far. A fault in writing is kept for the end.
pub(super) struct Report<W> {
    out: W,
    written: io::Result<()>,
    told: Vec<&'static str>,
    failed: Option<&'static str>,
}

impl<W: Write> Report<W> {
    pub(super) fn new(out: W) -> Report<W> {
        Report { out, written: Ok(()), told: Vec::new(), failed: None }
    }

    pub(super) fn text(&mut self, line: &str) {
        if self.written.is_ok() {
            self.written = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
        }
    }

    fn line(&mut self, step: &'static str, mark: Mark, what: &str) {
        self.told.push(step);
        self.text(&format!("{step:<12} {:<8} {what}", mark.word()));
    }

    /// A further line of the step before.
    pub(super) fn also(&mut self, what: &str) {
        self.text(&format!("{:<21} {what}", ""));
    }

    fn advise(&mut self, advice: &str) {
        if !advice.is_empty() {
            self.also(&format!("-> {advice}"));
        }
    }

    pub(super) fn ok(&mut self, step: &'static str, what: &str) {
        self.line(step, Mark::Ok, what);
    }

    pub(super) fn note(&mut self, step: &'static str, what: &str, advice: &str) {
        self.line(step, Mark::Note, what);
        self.advise(advice);
    }

    pub(super) fn fail(&mut self, step: &'static str, what: &str, advice: &str) {
        self.failed.get_or_insert(step);
        self.line(step, Mark::Failed, what);
        self.advise(advice);
    }

    pub(super) fn skip(&mut self, step: &'static str, why: &str) {
        self.line(step, Mark::Skipped, why);
    }

    /// Says of those steps that nothing was said of yet that they were not tried.
    pub(super) fn skip_rest(&mut self, steps: &[&'static str]) {
        let why = self.failed.map_or_else(String::new, |failed| format!("{failed} failed"));
        for step in steps {
            if !self.told.contains(step) {
                self.skip(step, &why);
            }
        }
    }

    /// The first step that failed; an error where the report could not be written.
    pub(super) fn end(self) -> io::Result<Option<&'static str>> {
        self.written.map(|()| self.failed)
    }
}

/// Most characters of what somebody else wrote: our own longest refusal is shorter.
const WORDS: usize = 300;

/// What somebody else wrote, for a terminal: one line, no control characters, of bounded length.
pub(super) fn tame(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(WORDS).collect()
}
