//! Tables for a terminal.

use std::fmt::Write;

use super::{COLUMNS, Report};
use crate::compare::{ArmResult, Interval, paired_difference};

pub(super) fn text(report: &Report<'_>) -> String {
    let mut out = String::new();
    arms(report, &mut out);
    windows(report, &mut out);
    differences(report, &mut out);
    out
}

/// What is compared pair by pair: heading, number, factor, decimals.
pub(super) type Difference = (&'static str, fn(&crate::outcome::Outcome) -> f64, f64, usize);

pub(super) const DIFFERENCES: [Difference; 3] = [
    ("mean ms", |o| o.mean.as_millis(), 1.0, 2),
    ("SLO miss points", |o| o.slo_miss_ratio, 100.0, 3),
    ("$/1M", |o| o.billed_price.get(), 1.0, 4),
];

/// Every other arm with the differences of the arm in focus to it.
pub(super) fn paired<'a>(report: &Report<'a>) -> Vec<(&'a ArmResult, Vec<Option<Interval>>)> {
    let Some(focus) = report.focus_arm() else { return Vec::new() };
    report
        .arms
        .iter()
        .filter(|arm| arm.name != focus.name)
        .map(|arm| {
            let intervals =
                DIFFERENCES.iter().map(|(_, number, ..)| paired_difference(focus, arm, number)).collect();
            (arm, intervals)
        })
        .collect()
}

fn width(report: &Report<'_>) -> usize {
    report.arms.iter().map(|a| a.name.chars().count()).max().unwrap_or(0).max(8)
}

fn arms(report: &Report<'_>, out: &mut String) {
    let seeds = report.seeds();
    let minutes = report.scenario.duration_s / 60.0;
    let plural = if seeds == 1 { "seed" } else { "seeds" };
    let _ =
        writeln!(out, "scenario {}, {minutes:.0} virtual minutes, {seeds} {plural}", report.scenario.name);
    let first = width(report);
    let _ = write!(out, "\n{:first$}", "arm");
    for column in &COLUMNS {
        let _ = write!(out, "  {:>10}", column.heading);
    }
    out.push('\n');
    for arm in report.arms {
        let _ = write!(out, "{:first$}", arm.name);
        for column in &COLUMNS {
            let value = arm.mean_of(column.number) * column.scale;
            let _ = write!(out, "  {value:>10.0$}", column.decimals);
        }
        out.push('\n');
    }
}

fn windows(report: &Report<'_>, out: &mut String) {
    let names = report.window_names();
    let first = width(report);
    let _ = write!(out, "\n{:first$}", "mean ms (SLO miss %) by window");
    out.push('\n');
    let columns: Vec<usize> = names.iter().map(|n| n.chars().count().max(15)).collect();
    let _ = write!(out, "{:first$}", "arm");
    for (name, column) in names.iter().zip(&columns) {
        let _ = write!(out, "  {name:>column$}");
    }
    out.push('\n');
    for arm in report.arms {
        let _ = write!(out, "{:first$}", arm.name);
        for (name, column) in names.iter().zip(&columns) {
            let mean = arm.mean_of(|o| o.window(name).map_or(0.0, |w| w.mean.as_millis()));
            let miss = arm.mean_of(|o| o.window(name).map_or(0.0, |w| w.slo_miss_ratio)) * 100.0;
            let cell = format!("{mean:.1} ({miss:.2})");
            let _ = write!(out, "  {cell:>column$}");
        }
        out.push('\n');
    }
}

fn differences(report: &Report<'_>, out: &mut String) {
    let Some(focus) = report.focus_arm() else { return };
    if report.seeds() < 2 || report.arms.len() < 2 {
        return;
    }
    let first = width(report);
    let _ = writeln!(
        out,
        "\n{} minus the arm, paired by seed: mean [95 % interval]; * = zero outside",
        focus.name
    );
    let _ = write!(out, "{:first$}", "arm");
    for (heading, ..) in &DIFFERENCES {
        let _ = write!(out, "  {heading:>32}");
    }
    out.push('\n');
    for (arm, intervals) in paired(report) {
        let _ = write!(out, "{:first$}", arm.name);
        for (interval, (_, _, scale, decimals)) in intervals.iter().zip(&DIFFERENCES) {
            let cell = interval.map_or_else(
                || "no common seed".to_owned(),
                |i| {
                    let star = if i.is_significant() { "*" } else { " " };
                    let [mean, low, high] = [i.mean, i.low, i.high].map(|x| x * scale);
                    format!("{mean:+.decimals$} [{low:+.decimals$}, {high:+.decimals$}]{star}")
                },
            );
            let _ = write!(out, "  {cell:>32}");
        }
        out.push('\n');
    }
}
