//! `traflux gateway replay`, `analyze` and `alerts`: what a log and counters tell.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use traflux_gateway::decision_log::{
    LogReader, Planning, Trace, WhatIf, csv, replay as play_again, side_by_side, what_if,
};
use traflux_gateway::observe::{AlertSettings, MetricsSettings, alert_rules};

use super::page;
use crate::cli::Failure;

/// Titles of what stands side by side.
pub(super) const TITLES: [&str; 3] = ["recorded", "same plan, modelled", "other plan"];

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    traflux gateway replay decisions.jsonl\n  \
    traflux gateway replay decisions.jsonl --plan other.yaml\n  \
    traflux gateway replay decisions.jsonl --plan other.yaml --html what-if.html --csv what-if.csv\n\n\
    Files that were rotated away (FILE.1, FILE.2, ...) are read first. Without --plan the end is 0 only if every answer \
    is the recorded one. With --plan backends are modelled by what they did in the log: compare the other plan with the \
    column of the same plan, which went through the same model.")]
pub(super) struct ReplayArgs {
    /// The log.
    #[arg(value_name = "LOG")]
    log: PathBuf,
    /// Plays the recorded requests under this plan.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Where a page with plots goes.
    #[arg(long, value_name = "FILE", requires = "plan")]
    html: Option<PathBuf>,
    /// Where the numbers go.
    #[arg(long, value_name = "FILE", requires = "plan")]
    csv: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    traflux gateway analyze decisions.jsonl\n  \
    traflux gateway analyze decisions.jsonl --utc-offset-minutes 120 --html planning.html --csv planning.csv\n\n\
    A profile of the day takes a day of log, growth three days, a profile of the week two weeks. A log with gaps can be \
    analysed; what is missing counts for nothing.")]
pub(super) struct AnalyzeArgs {
    /// The log.
    #[arg(value_name = "LOG")]
    log: PathBuf,
    /// Local time less UTC, in minutes: where days begin.
    #[arg(long, value_name = "MINUTES", default_value_t = 0, allow_negative_numbers = true)]
    utc_offset_minutes: i32,
    /// Where a page with plots goes.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Where the numbers of every minute go.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    traflux gateway alerts rules.yml                  99.9 % of requests to each backend succeed\n  \
    traflux gateway alerts --settings alerts.yaml     other objectives, to standard output\n  \
    promtool check rules rules.yml\n\n\
    alerts.yaml, every key may be absent:\n  \
    runbook_url: https://wiki.example/runbook\n  \
    objectives:\n    \
    - { name: chat, backend: openai, success: 0.995, latency: { of: time_to_first_token, limit_ms: 2000, share: 0.95 } }\n  \
    waits:\n    \
    - { band: interactive, limit_ms: 1000, share: 0.95 }")]
pub(super) struct AlertsArgs {
    /// Where the rules go; to standard output without it.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Objectives and thresholds.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

pub(super) fn replay(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let mut log = open(&args.log)?;
    let Some(file) = &args.plan else {
        let done = play_again(&mut log)?;
        if done.is_cut {
            warn("the log broke off in the middle of a line");
        }
        return match done.difference {
            None => {
                say(&format!("{} calls, {} answers: all as recorded\n", done.calls, done.answers))?;
                Ok(ExitCode::SUCCESS)
            }
            Some(difference) => {
                say(&format!("{} answers as recorded, then\n{difference}", done.answers - 1))?;
                Ok(ExitCode::FAILURE)
            }
        };
    };
    let plan = super::read(file)?;
    let trace = Trace::read(&mut log)?;
    let result = what_if(&trace, &plan)?;
    let table = side_by_side(&[&result.recorded, &result.modelled, &result.other]);
    if let Some(path) = &args.csv {
        save(path, &csv(&TITLES, &table))?;
    }
    if let Some(path) = &args.html {
        save(path, &page::what_if(&args.log.display().to_string(), &file.display().to_string(), &result))?;
    }
    say(&compared(&result, &table))?;
    Ok(ExitCode::SUCCESS)
}

/// The runs side by side, for a terminal.
fn compared(result: &WhatIf, table: &[(String, Vec<Option<f64>>)]) -> String {
    let width = table.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut out = format!("{:<width$}", "");
    for title in TITLES {
        let _ = write!(out, "  {title:>19}");
    }
    out.push('\n');
    for (name, values) in table {
        let _ = write!(out, "{name:<width$}");
        for value in values {
            let _ = write!(out, "  {:>19}", value.map_or_else(|| "–".to_owned(), number));
        }
        out.push('\n');
    }
    for caveat in &result.caveats {
        let _ = writeln!(out, "note: {caveat}");
    }
    out
}

/// A number in as many digits as tell something.
pub(super) fn number(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    let digits = if value.abs() >= 100.0 {
        1
    } else if value.abs() >= 1.0 {
        3
    } else {
        6
    };
    format!("{value:.digits$}")
}

pub(super) fn analyze(args: &AnalyzeArgs) -> Result<ExitCode, Failure> {
    let trace = Trace::read(&mut open(&args.log)?)?;
    let planning = Planning::of(&trace, args.utc_offset_minutes)?;
    if let Some(path) = &args.csv {
        save(path, &minutes_csv(&planning))?;
    }
    if let Some(path) = &args.html {
        save(path, &page::planning(&args.log.display().to_string(), &trace, &planning))?;
    }
    let missing: u64 = trace.gaps.iter().map(|gap| gap.count).sum();
    if missing > 0 {
        warn(&format!("{missing} entries are missing from the log"));
    }
    say(&planned(&planning))?;
    Ok(ExitCode::SUCCESS)
}

fn planned(planning: &Planning) -> String {
    let seconds = planning.minutes as f64 * 60.0;
    let mut out = format!("{:.1} hours of log; rates are per second\n\n", seconds / 3600.0);
    let name = |kind: &str, name: &str| match (kind, name) {
        ("all", _) => "all requests".to_owned(),
        (kind, "") => format!("{kind} (none)"),
        (kind, name) => format!("{kind} {name}"),
    };
    let names = planning.streams.iter().map(|stream| name(stream.kind, &stream.name).chars().count());
    let width =
        names.chain(planning.limits.iter().map(|l| l.name.chars().count())).max().unwrap_or(0).max(12);
    let _ = writeln!(
        out,
        "{:<width$} {:>10} {:>10} {:>12} {:>12} {:>12} {:>11} {:>12}",
        "", "requests", "peak min.", "tokens", "peak min.", "dollars/day", "peak factor", "growth/day"
    );
    for stream in &planning.streams {
        let profile = stream.profile.as_ref();
        let _ = writeln!(
            out,
            "{:<width$} {:>10.3} {:>10.3} {:>12.1} {:>12.1} {:>12.4} {:>11} {:>12}",
            name(stream.kind, &stream.name),
            stream.total.requests as f64 / seconds,
            stream.peak_minute.0,
            stream.total.tokens as f64 / seconds,
            stream.peak_minute.1,
            stream.total.cost.as_dollars() / seconds * 86_400.0,
            profile.map_or_else(|| "–".to_owned(), |profile| format!("{:.2}", profile.peak_factor().0)),
            profile.map_or_else(|| "–".to_owned(), growth),
        );
    }
    if !planning.limits.is_empty() {
        let _ = writeln!(
            out,
            "\n{:<width$} {:>14} {:>12} {:>12} {:>12} {:>9}  reached by peaks in",
            "limit", "of", "allowed", "mean", "peak min.", "peak"
        );
    }
    for limit in &planning.limits {
        let _ = writeln!(
            out,
            "{:<width$} {:>14} {:>12.3} {:>12.3} {:>12.3} {:>7.0} %  {}{}",
            limit.name,
            limit.unit,
            limit.allowed,
            limit.mean,
            limit.peak_minute,
            100.0 * limit.peak_minute / limit.allowed,
            reached(limit.headroom.as_ref()),
            if limit.window_assumed { " (taken to be per minute)" } else { "" }
        );
    }
    if planning.streams.iter().all(|stream| stream.profile.is_none()) {
        out.push_str("note: shapes and forecasts take a day of log with traffic, growth three days\n");
    }
    out
}

fn growth(profile: &traflux_gateway::observe::Profile) -> String {
    let growth = profile.growth;
    if growth.low.is_finite() { format!("{:+.4}", growth.per_day) } else { "unknown".to_owned() }
}

/// When a limit is reached, with the earliest and the latest time.
pub(super) fn reached(headroom: Option<&traflux_gateway::observe::Headroom>) -> String {
    let days = |within: Option<Duration>| match within {
        None => "not in sight".to_owned(),
        Some(Duration::ZERO) => "now".to_owned(),
        Some(within) => format!("{:.1} days", within.as_secs_f64() / 86_400.0),
    };
    match headroom {
        None => "unknown: the log is too short".to_owned(),
        Some(headroom) => {
            let exhaustion = headroom.exhaustion;
            format!(
                "{} ({} to {})",
                days(exhaustion.within),
                days(exhaustion.earliest),
                days(exhaustion.latest)
            )
        }
    }
}

fn minutes_csv(planning: &Planning) -> String {
    let mut out = String::from("kind,name,minute_unix_s,requests,tokens,dollars,busy_s\n");
    let start = planning.from.since_epoch().as_secs();
    for stream in &planning.streams {
        let name = if stream.name.contains([',', '"', '\n']) {
            format!("\"{}\"", stream.name.replace('"', "\"\""))
        } else {
            stream.name.clone()
        };
        for (minute, amount) in stream.by_minute.iter().enumerate() {
            let _ = writeln!(
                out,
                "{},{name},{},{},{},{},{}",
                stream.kind,
                start + minute as u64 * 60,
                amount.requests,
                amount.tokens,
                amount.cost.as_dollars(),
                amount.busy.as_secs_f64()
            );
        }
    }
    out
}

pub(super) fn alerts(args: &AlertsArgs) -> Result<ExitCode, Failure> {
    let settings = match &args.settings {
        None => AlertSettings::default(),
        Some(file) => {
            let wrong = |problem: &dyn std::fmt::Display| format!("{}: {problem}", file.display());
            let text = std::fs::read_to_string(file).map_err(|problem| wrong(&problem))?;
            crate::config::read_yaml(&text).map_err(|problem| wrong(&problem))?
        }
    };
    let rules = alert_rules(&settings, &MetricsSettings::default())?;
    match &args.file {
        Some(path) => save(path, &rules)?,
        None => say(&rules)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn open(file: &Path) -> Result<LogReader<Box<dyn std::io::BufRead>>, Failure> {
    Ok(LogReader::open(file)?)
}

fn save(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|problem| format!("{}: {problem}", path.display()).into())
}

/// Writes to standard output; a reader that has enough, such as `head`, is no failure.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(problem) if problem.kind() != std::io::ErrorKind::BrokenPipe => Err(problem.into()),
        _ => Ok(()),
    }
}

fn warn(message: &str) {
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(std::io::stderr(), "warning: {message}");
}
