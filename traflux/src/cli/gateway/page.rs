//! What a log tells, as one self-contained page.

use std::fmt::Write as _;

use traflux_gateway::decision_log::{Planning, Summary, Trace, WhatIf, side_by_side};
use traflux_gateway::observe::{Amount, Profile};
use traflux_sim::report::escape;

use super::look_back::{TITLES, number, reached};
use crate::te::chart::{Axes, Series, figure};
use crate::te::page::{begin, end};

/// Points of a line.
const POINTS: usize = 240;

/// The recorded requests under another plan.
pub(super) fn what_if(log: &str, plan: &str, result: &WhatIf) -> String {
    let heading = format!("What if <em>{}</em> had been in force?", escape(plan));
    let mut out = begin("Gateway, what if", &heading);
    let _ = write!(
        out,
        "<p>The requests of {} under another plan. Backends are modelled by what they did in the log; what the \
         middle column differs from the first is the model's error, so compare the last two.</p>\
         <p class=\"facts\">{} requests · {:.0} s</p></header>",
        escape(log),
        result.recorded.requests,
        result.recorded.seconds
    );
    let runs = [&result.recorded, &result.modelled, &result.other];
    course(&mut out, &runs);
    latencies(&mut out, &runs);
    shares(&mut out, &runs);
    out.push_str("<h2>All numbers</h2><div class=\"scroll\"><table><thead><tr><th></th>");
    for title in TITLES {
        let _ = write!(out, "<th>{title}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for (name, values) in side_by_side(&runs) {
        let _ = write!(out, "<tr><th>{}</th>", escape(&name));
        for value in values {
            let _ = write!(out, "<td>{}</td>", value.map_or_else(|| "–".to_owned(), number));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    end(&mut out, &result.caveats);
    out
}

fn course(out: &mut String, runs: &[&Summary; 3]) {
    let most = runs.iter().flat_map(|run| run.course.iter().copied()).fold(1e-9, f64::max);
    let seconds = runs.iter().map(|run| run.seconds).fold(1.0, f64::max);
    let axes =
        Axes { x: (0.0, seconds), y: (0.0, most), x_name: "seconds", y_name: "answered well per second" };
    let lines: Vec<Series> = runs
        .iter()
        .zip(TITLES)
        .enumerate()
        .map(|(color, (run, title))| {
            let part = run.seconds / run.course.len().max(1) as f64;
            let points = run.course.iter().enumerate();
            Series {
                name: title.to_owned(),
                points: points.map(|(ix, rate)| ((ix as f64 + 0.5) * part, *rate)).collect(),
                color,
                dashed: color == 1,
            }
        })
        .collect();
    figure(out, "Requests answered well", "Per second, over the time of the log.", &axes, &lines, true);
}

/// Rows of one number in each run, with a bar for each.
fn bars(out: &mut String, heading: &str, rows: &[(String, [Option<f64>; 3])], unit: &str) {
    let most = rows.iter().flat_map(|(_, values)| values.iter().flatten().copied()).fold(1e-12, f64::max);
    let _ = write!(
        out,
        "<h2>{heading}</h2><div class=\"scroll\"><table><thead><tr><th></th><th>run</th><th></th>\
                         <th>{unit}</th></tr></thead><tbody>"
    );
    for (name, values) in rows {
        for (ix, (value, title)) in values.iter().zip(TITLES).enumerate() {
            let head = if ix == 0 { escape(name) } else { String::new() };
            let (width, shown) = match value {
                Some(value) => (100.0 * value / most, number(*value)),
                None => (0.0, "–".to_owned()),
            };
            let _ = write!(
                out,
                "<tr><th>{head}</th><td>{title}</td><td style=\"width:50%\"><div style=\"height:12px;border-radius:3px;\
                 width:{width:.1}%;background:var(--arm-{ix})\"></div></td><td>{shown}</td></tr>"
            );
        }
    }
    out.push_str("</tbody></table></div>");
}

fn latencies(out: &mut String, runs: &[&Summary; 3]) {
    let mut models: Vec<&String> = runs.iter().flat_map(|run| run.models.keys()).collect();
    models.sort();
    models.dedup();
    let mut rows = Vec::new();
    for model in models {
        let shown = if model.is_empty() { "no model" } else { model };
        let of = |share: fn(&traflux_gateway::decision_log::summary::Quantiles) -> f64| {
            [0, 1, 2].map(|ix: usize| runs[ix].models.get(model).map(share))
        };
        rows.push((format!("{shown}, p50"), of(|q| q.p50)));
        rows.push((format!("{shown}, p95"), of(|q| q.p95)));
        rows.push((format!("{shown}, p99"), of(|q| q.p99)));
    }
    if !rows.is_empty() {
        bars(out, "Latency, from arrival to the end of the answer", &rows, "seconds");
    }
}

fn shares(out: &mut String, runs: &[&Summary; 3]) {
    let mut backends: Vec<&String> = runs.iter().flat_map(|run| run.backends.keys()).collect();
    backends.sort();
    backends.dedup();
    let row = |backend: &String, of: fn(&traflux_gateway::decision_log::summary::BackendRow) -> f64| {
        (backend.clone(), [0, 1, 2].map(|ix: usize| runs[ix].backends.get(backend).map(of)))
    };
    let attempts: Vec<_> = backends.iter().map(|backend| row(backend, |row| 100.0 * row.share)).collect();
    bars(out, "Share of attempts", &attempts, "%");
    let dollars: Vec<_> = backends.iter().map(|backend| row(backend, |row| row.dollars)).collect();
    bars(out, "Cost", &dollars, "dollars");
}

/// Shape, growth and limits.
pub(super) fn planning(log: &str, trace: &Trace, planning: &Planning) -> String {
    let mut out = begin("Gateway, planning", "When will it not be enough?");
    let hours = planning.minutes as f64 / 60.0;
    let _ = write!(
        out,
        "<p>Demand in {}: what was refused counts too, with the tokens that others used of their estimates.</p>\
         <p class=\"facts\">{} requests · {hours:.1} hours</p></header>",
        escape(log),
        trace.requests.len()
    );
    for (kind, title) in
        [("backend", "Requests by backend"), ("model", "Requests by model"), ("tenant", "Requests by tenant")]
    {
        lines(&mut out, planning, kind, title, |amount| amount.requests as f64 / 60.0);
    }
    lines(&mut out, planning, "model", "Tokens by model", |amount| amount.tokens as f64 / 60.0);
    let all = planning.streams.iter().find(|stream| stream.kind == "all");
    if let Some(profile) = all.and_then(|stream| stream.profile.as_ref()) {
        shape(&mut out, profile);
    }
    limits(&mut out, planning);
    let mut notes = Vec::new();
    if all.is_none_or(|stream| stream.profile.is_none()) {
        notes.push("shapes and forecasts take a day of log with traffic, growth three days".to_owned());
    }
    if !trace.gaps.is_empty() {
        let missing: u64 = trace.gaps.iter().map(|gap| gap.count).sum();
        notes.push(format!("{missing} entries are missing from the log"));
    }
    end(&mut out, &notes);
    out
}

fn lines(out: &mut String, planning: &Planning, kind: &str, title: &str, rate: fn(&Amount) -> f64) {
    let of_kind: Vec<_> = planning.streams.iter().filter(|stream| stream.kind == kind).collect();
    let step = (planning.minutes as usize).div_ceil(POINTS).max(1);
    let series: Vec<Series> = of_kind
        .iter()
        .enumerate()
        .map(|(color, stream)| Series {
            name: if stream.name.is_empty() { "(none)".to_owned() } else { stream.name.clone() },
            points: stream
                .by_minute
                .chunks(step)
                .enumerate()
                .map(|(ix, part)| {
                    let mean = part.iter().map(rate).sum::<f64>() / part.len() as f64;
                    ((ix * step) as f64 / 60.0, mean)
                })
                .collect(),
            color,
            dashed: false,
        })
        .collect();
    let most = series.iter().flat_map(|one| one.points.iter().map(|point| point.1)).fold(1e-9, f64::max);
    let hours = planning.minutes as f64 / 60.0;
    let axes = Axes { x: (0.0, hours), y: (0.0, most), x_name: "hours", y_name: "per second" };
    let about = if step > 1 { format!("Means of {step} minutes.") } else { "By minute.".to_owned() };
    figure(out, title, &about, &axes, &series, true);
}

fn shape(out: &mut String, profile: &Profile) {
    let hours = if profile.weekly { 168 } else { 24 };
    let points: Vec<(f64, f64)> =
        profile.factors.iter().take(hours).enumerate().map(|(hour, factor)| (hour as f64, *factor)).collect();
    let most = points.iter().map(|point| point.1).fold(1.0, f64::max);
    let axes = Axes {
        x: (0.0, hours as f64),
        y: (0.0, most),
        x_name: if profile.weekly { "hour of the week from Monday" } else { "hour of the day" },
        y_name: "factor",
    };
    let lines = [
        Series { name: "factor".to_owned(), points, color: 3, dashed: false },
        Series {
            name: "mean".to_owned(),
            points: vec![(0.0, 1.0), (hours as f64, 1.0)],
            color: 1,
            dashed: true,
        },
    ];
    let (peak, hour) = profile.peak_factor();
    let about = format!(
        "Of the mean rate. Highest in hour {hour}: {peak:.2}; the peak minute of an hour is up to {:.2} times its mean.",
        profile.peaks.minute_over_hour
    );
    figure(out, "Shape of the traffic", &about, &axes, &lines, true);
}

fn limits(out: &mut String, planning: &Planning) {
    if planning.limits.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Limits</h2><p>Demand in the busiest minute over what is allowed, and when peaks will reach it.</p>\
         <div class=\"scroll\"><table><thead><tr><th>limit</th><th>of</th><th>allowed per second</th><th>mean</th>\
         <th>peak minute</th><th></th><th>reached in (earliest to latest)</th></tr></thead><tbody>",
    );
    for limit in &planning.limits {
        let share = 100.0 * limit.peak_minute / limit.allowed;
        let color = if share >= 100.0 { "--arm-2" } else { "--arm-3" };
        let _ = write!(
            out,
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td style=\"width:25%\"><div style=\"height:12px;\
             border-radius:3px;width:{:.1}%;background:var({color})\" title=\"{share:.0} %\"></div></td><td>{}{}</td></tr>",
            escape(&limit.name),
            limit.unit,
            number(limit.allowed),
            number(limit.mean),
            number(limit.peak_minute),
            share.min(100.0),
            reached(limit.headroom.as_ref()),
            if limit.window_assumed { ", taken to be per minute" } else { "" }
        );
    }
    out.push_str("</tbody></table></div>");
}
