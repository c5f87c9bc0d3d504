//! The page: headline, plots, tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::chart::{Chart, Lane, Scale, Series, lanes};
use super::table::{DIFFERENCES, paired};
use super::{COLUMNS, Report, escape};
use crate::arms::CriticalRow;
use crate::compare::ArmResult;
use crate::condition::windows;
use crate::outcome::Minute;

/// The style sheet of every report; colours of arms are `--arm-0` to `--arm-8`, of what a page is about `--focus`.
pub const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Colours of endpoints; CSS variables, so that light and dark pages each have their own.
const ENDPOINT_COLORS: usize = 10;
/// Colours of arms other than the one in focus.
const ARM_COLORS: usize = 9;
/// Spans listed in words below the lane.
const LISTED_SPANS: usize = 40;

pub(super) fn html(report: &Report<'_>) -> String {
    let mut out = String::with_capacity(256 * 1024);
    let name = escape(&report.scenario.name);
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Traflux: {name}</title><style>{STYLE}</style></head><body><main>"
    );
    header(report, &mut out);
    plots(report, &mut out);
    tables(report, &mut out);
    if !report.notes.is_empty() {
        out.push_str("<footer>");
        for note in report.notes {
            let _ = write!(out, "<p>{}</p>", escape(note));
        }
        out.push_str("</footer>");
    }
    let _ = write!(out, "</main><div id=\"tip\" hidden></div><script>{SCRIPT}</script></body></html>");
    out
}

fn header(report: &Report<'_>, out: &mut String) {
    let scenario = report.scenario;
    let seeds = report.seeds();
    let _ = write!(
        out,
        "<header><p class=\"brand\">Traflux</p><h1>Scenario <em>{}</em></h1><p>{}</p><p class=\"facts\">\
         {} endpoints · {} sources · {:.0} virtual minutes · {} {} · objective {:.0} ms</p></header>",
        escape(&scenario.name),
        escape(&scenario.description),
        scenario.endpoints.len(),
        scenario.sources.len(),
        scenario.duration_s / 60.0,
        seeds,
        if seeds == 1 { "seed" } else { "seeds" },
        scenario.slo_ms
    );
    let (Some(focus), Some(baseline)) = (report.focus_arm(), report.baseline_arm()) else { return };
    let _ = write!(
        out,
        "<section class=\"cards\" aria-label=\"{}, against {}\">",
        escape(&focus.name),
        escape(&baseline.name)
    );
    for ix in [0, 2, 5, 6] {
        let column = &COLUMNS[ix];
        let value = focus.mean_of(column.number);
        let other = baseline.mean_of(column.number);
        let (class, text) = change(value, other);
        let _ = write!(
            out,
            "<div class=\"card\"><span>{}</span><strong>{:.*}</strong><small class=\"{class}\">{text}</small>\
             <small>{}: {:.*}</small></div>",
            escape(column.heading),
            column.decimals,
            value * column.scale,
            escape(&baseline.name),
            column.decimals,
            other * column.scale
        );
    }
    out.push_str("</section>");
}

/// A relative change in words; less is better.
fn change(value: f64, other: f64) -> (&'static str, String) {
    if other == 0.0 {
        return ("", "no base".to_owned());
    }
    let relative = (value / other - 1.0) * 100.0;
    match relative {
        r if r <= -0.5 => ("good", format!("{:.0} % less", -r)),
        r if r >= 0.5 => ("bad", format!("{r:.0} % more")),
        _ => ("", "the same".to_owned()),
    }
}

fn plots(report: &Report<'_>, out: &mut String) {
    let Some(focus) = report.focus_arm() else { return };
    let Some(outcome) = focus.outcomes.first() else { return };
    let end_s = report.scenario.duration_s;
    let open = windows(report.scenario);
    let times: Vec<f64> = outcome.minutes.iter().map(|m| m.start_s + m.length_s / 2.0).collect();
    let endpoints: Vec<String> = report.scenario.endpoints.iter().map(|e| e.name.clone()).collect();
    let layers = endpoints
        .iter()
        .enumerate()
        .map(|(ix, name)| Series {
            name: name.clone(),
            color: endpoint_color(ix),
            values: outcome.minutes.iter().map(|m| m.shares.get(ix).map_or(0.0, |s| s * 100.0)).collect(),
            strong: false,
        })
        .collect();
    let subtitle = format!("{}: share of all requests by endpoint, minute by minute", focus.name);
    let base = Chart {
        id: "weights",
        title: "Where traffic went",
        subtitle: &subtitle,
        unit: "%",
        decimals: 1,
        height: 300.0,
        scale: Scale::Linear(0.0, 100.0),
        stacked: true,
        times: &times,
        end_s,
        windows: &open,
        series: layers,
    };
    out.push_str(&base.figure());
    critical(focus, &endpoints, end_s, &open, out);
    let by_arm = |number: &dyn Fn(&Minute) -> f64| arm_series(report, number);
    let latency = by_arm(&|m| m.mean.as_millis());
    let (low, high) = extent(&latency);
    out.push_str(
        &Chart {
            id: "latency",
            title: "Latency",
            subtitle: "Mean over the requests of a minute, failures at the timeout; logarithmic",
            unit: "ms",
            scale: Scale::Log((low * 0.9).max(1.0), (high * 1.1).max(10.0)),
            stacked: false,
            series: latency,
            ..base.clone()
        }
        .figure(),
    );
    let misses = by_arm(&|m| if m.requests == 0 { 0.0 } else { m.missed as f64 / m.requests as f64 * 100.0 });
    let (_, high) = extent(&misses);
    out.push_str(
        &Chart {
            id: "misses",
            title: "Objective missed",
            subtitle: "Share of requests that failed or were slower than the objective",
            unit: "%",
            decimals: 2,
            height: 220.0,
            scale: Scale::Linear(0.0, high.max(1.0)),
            stacked: false,
            series: misses,
            ..base.clone()
        }
        .figure(),
    );
    let cost = by_arm(&|m| if m.requests == 0 { 0.0 } else { m.billed_usd / m.requests as f64 * 1e6 });
    let (low, high) = extent(&cost);
    out.push_str(
        &Chart {
            id: "cost",
            title: "Cost",
            subtitle: "Provisioned compute and egress, per million requests",
            unit: "$/1M",
            decimals: 3,
            height: 220.0,
            scale: Scale::Linear((low * 0.95).max(0.0), high * 1.03),
            stacked: false,
            series: cost,
            ..base.clone()
        }
        .figure(),
    );
    let reward = by_arm(&|m| m.reward);
    let (low, high) = extent(&reward);
    out.push_str(
        &Chart {
            id: "reward",
            title: "Reward",
            subtitle: "Minus latency, errors, price and churn, at default weights; the scale ends where most arms do",
            unit: "",
            decimals: 3,
            height: 220.0,
            // One arm in overload would flatten all others.
            scale: Scale::Linear(low.max(-8.0), high.max(-0.1)),
            stacked: false,
            series: reward,
            ..base
        }
        .figure(),
    );
}

fn arm_series(report: &Report<'_>, number: &dyn Fn(&Minute) -> f64) -> Vec<Series> {
    let focus = report.focus_arm().map(|a| a.name.as_str());
    let mut others = 0;
    report
        .arms
        .iter()
        .filter_map(|arm| {
            let strong = Some(arm.name.as_str()) == focus;
            let color = if strong {
                "var(--focus)".to_owned()
            } else {
                others += 1;
                format!("var(--arm-{})", (others - 1) % ARM_COLORS)
            };
            let minutes = &arm.outcomes.first()?.minutes;
            let values = minutes.iter().map(number).collect();
            Some(Series { name: arm.name.clone(), color, values, strong })
        })
        .collect()
}

fn endpoint_color(ix: usize) -> String {
    format!("var(--endpoint-{})", ix % ENDPOINT_COLORS)
}

fn extent(series: &[Series]) -> (f64, f64) {
    let values = || series.iter().flat_map(|s| s.values.iter().copied()).filter(|v| v.is_finite());
    (values().fold(f64::INFINITY, f64::min).min(1e12), values().fold(f64::NEG_INFINITY, f64::max).max(-1e12))
}

/// A stretch of time in which one group was critical.
struct Stretch<'a> {
    group: &'a str,
    from: f64,
    to: f64,
    reasons: Vec<(&'a str, u32)>,
}

impl Stretch<'_> {
    fn words(&self) -> String {
        let reasons: Vec<_> = self.reasons.iter().map(|(reason, _)| *reason).collect();
        format!("{} · {}–{} · {}", self.group, clock(self.from), clock(self.to), reasons.join("; "))
    }
}

fn critical(
    arm: &ArmResult,
    endpoints: &[String],
    end_s: f64,
    open: &[crate::condition::WindowSpan],
    out: &mut String,
) {
    if arm.critical.is_empty() {
        return;
    }
    let stretches = stretches(&arm.critical, end_s);
    let mut groups: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    for stretch in &stretches {
        if !groups.contains(&stretch.group) {
            groups.push(stretch.group);
        }
    }
    let rows: Vec<Lane> = groups
        .iter()
        .enumerate()
        .map(|(ix, group)| Lane {
            name: (*group).to_owned(),
            color: endpoint_color(ix),
            spans: stretches
                .iter()
                .filter(|s| s.group == *group)
                .map(|s| (s.from, s.to, s.words()))
                .collect(),
        })
        .collect();
    let subtitle = format!(
        "{}: endpoints whose weights could move; rest the pointer on a bar for the reasons",
        arm.name
    );
    out.push_str(&lanes("What was critical, and why", &subtitle, &rows, end_s, open));
    let mut longest: Vec<&Stretch<'_>> = stretches.iter().collect();
    longest.sort_by(|a, b| (b.to - b.from).total_cmp(&(a.to - a.from)).then(a.from.total_cmp(&b.from)));
    longest.truncate(LISTED_SPANS);
    longest.sort_by(|a, b| a.from.total_cmp(&b.from));
    let _ = write!(
        out,
        "<details><summary>The {} longest, in words</summary><ul class=\"reasons\">",
        longest.len()
    );
    for stretch in longest {
        let _ = write!(out, "<li>{}</li>", escape(&stretch.words()));
    }
    out.push_str("</ul></details>");
}

/// Joins rows of one group that follow each other at the usual distance; up to four reasons each, the most
/// frequent first.
fn stretches(rows: &[CriticalRow], end_s: f64) -> Vec<Stretch<'_>> {
    let mut times: Vec<f64> = rows.iter().map(|r| r.at_s).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    let step = times.windows(2).map(|w| w[1] - w[0]).fold(f64::INFINITY, f64::min).min(end_s.max(1.0) / 50.0);
    let mut by_group: BTreeMap<&str, Vec<&CriticalRow>> = BTreeMap::new();
    for row in rows {
        by_group.entry(&row.group).or_default().push(row);
    }
    let mut found: Vec<Stretch<'_>> = Vec::new();
    for (group, mut rows) in by_group {
        rows.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        let mut current: Option<Stretch<'_>> = None;
        for row in rows {
            match &mut current {
                Some(stretch) if row.at_s <= stretch.to + 0.5 * step => stretch.to = row.at_s + step,
                _ => {
                    found.extend(current.take());
                    current =
                        Some(Stretch { group, from: row.at_s, to: row.at_s + step, reasons: Vec::new() });
                }
            }
            if let Some(stretch) = &mut current {
                match stretch.reasons.iter_mut().find(|(reason, _)| *reason == row.reason) {
                    Some((_, count)) => *count += 1,
                    None => stretch.reasons.push((&row.reason, 1)),
                }
            }
        }
        found.extend(current);
    }
    for stretch in &mut found {
        stretch.to = stretch.to.min(end_s);
        stretch.reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        stretch.reasons.truncate(4);
    }
    found.sort_by(|a, b| a.from.total_cmp(&b.from));
    found
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds % 3600 / 60, seconds % 60)
}

fn tables(report: &Report<'_>, out: &mut String) {
    let focus = report.focus_arm().map(|a| a.name.as_str());
    let row_class = |arm: &ArmResult| if Some(arm.name.as_str()) == focus { " class=\"focus\"" } else { "" };
    out.push_str(
        "<h2>All arms</h2><p>Means over seeds. The best of each column is bold; less is better in all.</p>",
    );
    out.push_str("<div class=\"scroll\"><table><thead><tr><th>arm</th>");
    for column in &COLUMNS {
        let _ = write!(out, "<th>{}</th>", escape(column.heading));
    }
    out.push_str("</tr></thead><tbody>");
    let text = |arm: &ArmResult, ix: usize| {
        let column = &COLUMNS[ix];
        format!("{:.*}", column.decimals, arm.mean_of(column.number) * column.scale)
    };
    let best: Vec<f64> = COLUMNS
        .iter()
        .map(|c| report.arms.iter().map(|a| a.mean_of(c.number)).fold(f64::INFINITY, f64::min))
        .collect();
    for arm in report.arms {
        let _ = write!(out, "<tr{}><th>{}</th>", row_class(arm), escape(&arm.name));
        for (ix, best) in best.iter().enumerate() {
            // As printed, so that equal numbers are equally bold.
            let cell = text(arm, ix);
            let column = &COLUMNS[ix];
            let bold = cell == format!("{:.*}", column.decimals, best * column.scale);
            let _ = write!(out, "<td{}>{cell}</td>", if bold { " class=\"best\"" } else { "" });
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    let names = report.window_names();
    out.push_str(
        "<h2>By event</h2><p>Mean latency in ms of the requests sent in it, and the share that missed the objective.</p>\
         <div class=\"scroll\"><table><thead><tr><th>arm</th>",
    );
    for name in &names {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("</tr></thead><tbody>");
    for arm in report.arms {
        let _ = write!(out, "<tr{}><th>{}</th>", row_class(arm), escape(&arm.name));
        for name in &names {
            let mean = arm.mean_of(|o| o.window(name).map_or(0.0, |w| w.mean.as_millis()));
            let miss = arm.mean_of(|o| o.window(name).map_or(0.0, |w| w.slo_miss_ratio)) * 100.0;
            let _ = write!(out, "<td>{mean:.1} <small>{miss:.2} %</small></td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    differences(report, out);
}

fn differences(report: &Report<'_>, out: &mut String) {
    let Some(focus) = report.focus_arm() else { return };
    if report.seeds() < 2 || report.arms.len() < 2 {
        return;
    }
    let _ = write!(
        out,
        "<h2>Paired differences</h2><p>{} minus the arm, seed by seed: mean and 95 % interval. Green and red where zero \
         lies outside.</p><div class=\"scroll\"><table><thead><tr><th>arm</th>",
        escape(&focus.name)
    );
    for (heading, ..) in &DIFFERENCES {
        let _ = write!(out, "<th>{}</th>", escape(heading));
    }
    out.push_str("</tr></thead><tbody>");
    for (arm, intervals) in paired(report) {
        let _ = write!(out, "<tr><th>{}</th>", escape(&arm.name));
        for (interval, (_, _, scale, decimals)) in intervals.iter().zip(&DIFFERENCES) {
            let Some(i) = interval else {
                out.push_str("<td>no common seed</td>");
                continue;
            };
            let class = match (i.is_significant(), i.mean < 0.0) {
                (true, true) => "good",
                (true, false) => "bad",
                _ => "",
            };
            let [mean, low, high] = [i.mean, i.low, i.high].map(|x| x * scale);
            let _ = write!(
                out,
                "<td><span class=\"{class}\">{mean:+.decimals$}</span> <small>[{low:+.decimals$}, {high:+.decimals$}]</small></td>"
            );
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(at_s: f64, group: &str, reason: &str) -> CriticalRow {
        CriticalRow { at_s, group: group.to_owned(), reason: reason.to_owned() }
    }

    #[test]
    fn rows_that_follow_each_other_become_one_stretch() {
        let rows = [
            row(5.0, "a", "slow"),
            row(10.0, "a", "full"),
            row(10.0, "b", "cheap"),
            row(15.0, "a", "full"),
            row(40.0, "a", "slow"),
        ];
        let found = stretches(&rows, 1000.0);
        let spans: Vec<_> = found.iter().map(|s| (s.group, s.from, s.to)).collect();
        assert_eq!(spans, [("a", 5.0, 20.0), ("b", 10.0, 15.0), ("a", 40.0, 45.0)]);
        assert_eq!(found[0].words(), "a · 0:00:05–0:00:20 · full; slow");
    }

    #[test]
    fn a_change_is_good_when_less() {
        assert_eq!(change(80.0, 100.0), ("good", "20 % less".to_owned()));
        assert_eq!(change(150.0, 100.0), ("bad", "50 % more".to_owned()));
        assert_eq!(change(1.0, 0.0).0, "");
    }
}
