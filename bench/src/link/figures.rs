//! What was measured, beside what was asked for.

use std::fmt::Write;

use serde::Serialize;

use crate::args::Part;
use crate::measure::Spread;
use crate::report::table;

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    /// What went wrong on the way, or must be known to read the figures.
    notes: Vec<String>,
}

/// One number.
#[derive(Debug, Serialize)]
struct Figure {
    part: Part,
    what: String,
    value: f64,
    unit: &'static str,
    asked: Option<Asked>,
    /// None where nothing is asked.
    met: Option<bool>,
}

/// What issue 3 asks for, in the figure's unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asked {
    /// No more than this.
    AtMost(f64),
    /// Less than this.
    Below(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Asked {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Asked::AtMost(most) => value <= most,
            Asked::Below(bound) => value < bound,
            Asked::AtLeast(least) => value >= least,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Asked::AtMost(value) => format!("at most {value} {unit}"),
            Asked::Below(value) => format!("below {value} {unit}"),
            Asked::AtLeast(value) => format!("at least {value} {unit}"),
        }
    }
}

impl Report {
    /// A number for which nothing is asked.
    pub(crate) fn add(&mut self, part: Part, what: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { part, what: what.into(), value, unit, asked: None, met: None });
    }

    /// A number for which something is.
    pub(crate) fn judge(&mut self, part: Part, what: impl Into<String>, value: f64, unit: &'static str, asked: Asked) {
        let met = Some(asked.is_met_by(value));
        self.figures.push(Figure { part, what: what.into(), value, unit, asked: Some(asked), met });
    }

    /// Percentiles in milliseconds, of which some may be asked for. Without a single value there is a note.
    pub(crate) fn spread(&mut self, part: Part, what: &str, spread: Option<Spread>, asked: [Option<Asked>; 3]) {
        let Some(Spread { p50, p99, max }) = spread else {
            self.note(part, &format!("{what}: nothing was measured"));
            return;
        };
        for ((name, value), asked) in [("p50", p50), ("p99", p99), ("max", max)].into_iter().zip(asked) {
            let what = format!("{what}, {name}");
            match asked {
                Some(asked) => self.judge(part, what, value, "ms", asked),
                None => self.add(part, what, value, "ms"),
            }
        }
    }

    /// A sentence.
    pub(crate) fn note(&mut self, part: Part, note: &str) {
        self.notes.push(format!("{}: {note}", part.name()));
    }

    /// A table, what was missed, and the notes.
    pub(crate) fn text(&self) -> String {
        let head = ["part", "figure", "measured", "asked", "met"];
        let rows = self.figures.iter().map(|figure| {
            vec![
                figure.part.name().to_owned(),
                figure.what.clone(),
                figure.measured(),
                figure.asked.map_or("-".to_owned(), |asked| asked.text(figure.unit)),
                figure.met.map_or("-", |met| if met { "yes" } else { "NO" }).to_owned(),
            ]
        });
        let mut text = table(&head.map(str::to_owned), &rows.collect::<Vec<_>>());
        for figure in self.figures.iter().filter(|figure| figure.met == Some(false)) {
            let asked = figure.asked.map_or(String::new(), |asked| asked.text(figure.unit));
            writeln!(text, "MISSED {}: {} is {}; asked: {asked}", figure.part.name(), figure.what, figure.measured())
                .expect("writing to a string");
        }
        for note in &self.notes {
            writeln!(text, "{note}").expect("writing to a string");
        }
        text
    }
}

impl Figure {
    fn measured(&self) -> String {
        let digits = match self.value.abs() {
            value if value >= 1000.0 => 0,
            value if value >= 10.0 => 1,
            value if value >= 1.0 => 2,
            _ => 3,
        };
        let text = format!("{:.digits$} {}", self.value, self.unit);
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    #[test]
    fn what_is_missed_is_said_and_bounds_are_kept_to_the_letter() {
        let mut all = Report::default();
        all.judge(Part::Idle, "memory", 16.0, "KiB", Asked::AtMost(16.0));
        all.judge(Part::Idle, "core", 5.0, "%", Asked::Below(5.0));
        all.judge(Part::Throughput, "down", 2.5, "GB", Asked::AtLeast(3.0));
        all.add(Part::Throughput, "ratio", 0.7204, "");
        all.spread(Part::Request, "request", Spread::of(vec![900, 950, 1_100]), [Some(Asked::Below(1.0)), None, None]);
        all.spread(Part::Relay, "added", None, [None; 3]);
        let text = all.text();
        let missed: Vec<&str> = text.lines().filter(|line| line.starts_with("MISSED")).collect();
        assert_eq!(
            missed,
            [
                "MISSED idle: core is 5.00 %; asked: below 5 %",
                "MISSED throughput: down is 2.50 GB; asked: at least 3 GB"
            ]
        );
        let row = text.lines().find(|line| line.contains("request, p50")).unwrap();
        assert!(row.contains("0.950 ms") && row.contains("below 1 ms") && row.contains("yes"), "{text}");
        assert!(text.contains("| 0.720 ") && text.ends_with("relay: added: nothing was measured\n"), "{text}");
        let json = report::json(&all).unwrap();
        assert!(json.contains("\"at_most\": 16.0") && json.contains("\"met\": false"), "{json}");
    }
}
