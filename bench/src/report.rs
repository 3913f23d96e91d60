//! Figures as text: tables for people, JSON for machines.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use crate::args::{Class, ServerKind};
use crate::measure::{Figures, Spread};
use crate::stall::StallFigures;

/// All of it, as one JSON document.
pub(crate) fn json<T: Serialize>(all: &T) -> Result<String> {
    Ok(serde_json::to_string_pretty(all)? + "\n")
}

/// The table of `fanout`, the ratios to what the servers are compared with, and what went wrong.
pub(crate) fn fanout(all: &[Figures]) -> String {
    let head = [
        "server",
        "protocol",
        "class",
        "viewers",
        "CPU ms/viewer/s",
        "core %",
        "KiB/viewer",
        "first key p50/p99/max ms",
        "behind p50/p99/max ms",
        "full rate",
        "missed tags",
        "generator %",
    ];
    let rows = all.iter().map(|figures| {
        vec![
            figures.server.name().to_owned(),
            figures.protocol.name().to_owned(),
            figures.class.map_or("-", Class::name).to_owned(),
            figures.viewers.to_string(),
            format!("{:.4}", figures.cpu_ms_per_viewer_second),
            format!("{:.1}", figures.cpu_percent),
            format!("{:.1}", figures.rss_kib_per_viewer),
            spread(figures.first_key_ms),
            spread(figures.behind_ms),
            figures.full_rate.to_string(),
            figures.missing_tags.to_string(),
            format!("{:.0}", figures.generator_cpu_percent),
        ]
    });
    let mut text = table(&head.map(str::to_owned), &rows.collect::<Vec<_>>());
    let mut compared: Vec<(String, Vec<f64>)> = Vec::new();
    for figures in all {
        for (name, ratio) in ratios(figures, all) {
            let (protocol, class) = (figures.protocol.name(), figures.class.map_or("-", Class::name));
            let what = format!("culvert {protocol} {class} / {name}, {} viewers", figures.viewers);
            match compared.iter_mut().find(|(known, _)| *known == what) {
                Some((_, ratios)) => ratios.push(ratio),
                None => compared.push((what, vec![ratio])),
            }
        }
    }
    for (what, ratios) in &mut compared {
        writeln!(text, "{what}: {}", of_rounds(ratios)).expect("writing to a string");
    }
    for figures in all {
        let what = format!("{} {} {}", figures.server.name(), figures.protocol.name(), figures.viewers);
        if let Some(late) = figures.publisher_late_ms.filter(|late| *late > 20.0) {
            writeln!(text, "{what}: the publisher was up to {late:.0} ms late").expect("writing to a string");
        }
        for error in &figures.errors {
            writeln!(text, "{what}: {error}").expect("writing to a string");
        }
    }
    text
}

/// The table of `stall`.
pub(crate) fn stall(all: &[StallFigures]) -> String {
    let head =
        ["protocol", "viewers", "stalled", "missed tags", "behind p50/p99/max ms", "KiB/stalled", "closed", "after s"];
    let rows = all.iter().map(|figures| {
        vec![
            figures.protocol.name().to_owned(),
            figures.viewers.to_string(),
            figures.stalled.to_string(),
            figures.missing_tags.to_string(),
            spread(figures.behind_ms),
            format!("{:.0}", figures.rss_kib_per_stalled),
            figures.closed.to_string(),
            figures.closed_after_s.map_or("-".to_owned(), |(first, last)| format!("{first:.1} to {last:.1}")),
        ]
    });
    let mut text = table(&head.map(str::to_owned), &rows.collect::<Vec<_>>());
    for figures in all {
        for error in &figures.errors {
            writeln!(text, "{}: {error}", figures.protocol.name()).expect("writing to a string");
        }
    }
    text
}

/// The median, and what it is the median of.
fn of_rounds(ratios: &mut [f64]) -> String {
    let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    match ratios {
        [] => "-".to_owned(),
        [one] => format!("{one:.2}"),
        // Of an even number the larger of the two in the middle, which is no flattery.
        several => format!("median {:.2} of {}", several[several.len() / 2], each.join(", ")),
    }
}

/// CPU of culvert to that of what it is compared with, at the same number of viewers in the same round.
fn ratios(figures: &Figures, all: &[Figures]) -> Vec<(&'static str, f64)> {
    if figures.server != ServerKind::Culvert {
        return Vec::new();
    }
    let same = |other: &&Figures| {
        other.round == figures.round && other.viewers == figures.viewers && other.cpu_ms_per_viewer_second > 0.0
    };
    let rivals = all.iter().filter(same).filter_map(|other| match other.server {
        ServerKind::Culvert => None,
        ServerKind::NginxRtmp => Some(("nginx-rtmp", other)),
        ServerKind::Floor => (other.class == figures.class).then_some(("floor", other)),
    });
    rivals.map(|(name, other)| (name, figures.cpu_ms_per_viewer_second / other.cpu_ms_per_viewer_second)).collect()
}

fn spread(spread: Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |Spread { p50, p99, max }| format!("{p50:.2} / {p99:.2} / {max:.2}"))
}

/// A Markdown table, for it goes into NUMBERS.md as it is.
pub(crate) fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let lines = rows.iter().map(Vec::as_slice).chain([head]);
            lines.filter_map(|cells| cells.get(column).map(String::len)).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(head) + &line(&rule) + &rows.iter().map(|row| line(row)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Protocol;

    fn figures(round: u32, server: ServerKind, class: Option<Class>, cpu: f64) -> Figures {
        let protocol = if server == ServerKind::Floor { Protocol::Tcp } else { Protocol::Rtmp };
        Figures {
            round,
            server,
            protocol,
            class,
            viewers: 1000,
            seconds: 15.0,
            cpu_ms_per_viewer_second: cpu,
            cpu_percent: cpu * 100.0,
            base_cpu_percent: 0.1,
            base_rss_kib: 9_000,
            rss_kib: 12_000,
            rss_kib_per_viewer: 3.0,
            first_key_ms: Spread::of(vec![400]),
            first_key_joining_ms: None,
            behind_ms: Spread::of(vec![1_000, 41_000]),
            full_rate: 1000,
            missing_tags: 0,
            received_bytes: 1,
            generator_cpu_percent: 30.0,
            publisher_late_ms: Some(1.0),
            errors: vec!["1 viewers: closed by the server".to_owned()],
        }
    }

    #[test]
    fn ratios_are_to_nginx_and_to_the_floor_of_the_same_class() {
        let all = [
            figures(1, ServerKind::Culvert, Some(Class::Shared), 0.09),
            figures(1, ServerKind::Culvert, Some(Class::Low), 0.2),
            figures(1, ServerKind::NginxRtmp, None, 0.12),
            figures(1, ServerKind::Floor, Some(Class::Low), 0.16),
        ];
        let text = fanout(&all);
        assert!(text.contains("culvert rtmp shared / nginx-rtmp, 1000 viewers: 0.75"), "{text}");
        assert!(text.contains("culvert rtmp low / floor, 1000 viewers: 1.25"), "{text}");
        assert!(!text.contains("culvert rtmp shared / floor"), "{text}");
        assert!(text.contains("| 1.00 / 41.00 / 41.00"), "{text}");
        assert!(text.contains("closed by the server"), "{text}");
        assert!(json(&all).unwrap().contains("\"cpu_ms_per_viewer_second\": 0.09"));
    }
    #[test]
    fn ratios_are_those_of_a_round_and_their_median_is_told() {
        let low = Some(Class::Low);
        let round = |n, ours| [figures(n, ServerKind::Culvert, low, ours), figures(n, ServerKind::Floor, low, 0.5)];
        let all: Vec<Figures> = [round(1, 0.6), round(2, 0.5), round(3, 0.55)].concat();
        let text = fanout(&all);
        assert!(text.contains("culvert rtmp low / floor, 1000 viewers: median 1.10 of 1.20, 1.00, 1.10"), "{text}");
    }
}
