//! How does Prometheus read it?
//!
//! | metric | labels | what it is |
//! |---|---|---|
//! | `traflux_gateway_requests_total` | backend, model, outcome | finished requests |
//! | `traflux_gateway_input_tokens_total`, `…_cached_input_tokens_total`, `…_output_tokens_total` | backend, model | tokens |
//! | `traflux_gateway_cost_dollars_total` | backend, model | what requests cost |
//! | `traflux_gateway_retries_total`, `…_hedges_total` | backend, model | requests sent again, or twice |
//! | `traflux_gateway_busy_seconds_total` | backend, model | durations of all requests; its rate is how many are in flight |
//! | `traflux_gateway_request_duration_seconds` | backend, model | dispatch to end of successes (histogram) |
//! | `traflux_gateway_time_to_first_token_seconds` | backend, model | dispatch to first token of successes (histogram) |
//! | `traflux_gateway_time_per_output_token_seconds` | backend, model | between tokens (histogram) |
//! | `traflux_gateway_queue_wait_seconds` | band | wait in the queue (histogram) |
//! | `traflux_gateway_decisions_total` | rule, algorithm, reason | decisions; series appear with their first decision |
//! | `traflux_gateway_picks_total` | rule, backend | requests a rule sent to a backend |
//! | `traflux_gateway_tenant_requests_total`, `…_tenant_tokens_total`, `…_tenant_cost_dollars_total` | tenant | the heaviest tenants, and `_other` |
//! | `traflux_gateway_queue_requests`, `…_queue_tokens` | band | what waits now |
//! | `traflux_gateway_limiter_used`, `…_limiter_limit` | limiter, unit | level and limit of a limiter |
//! | `traflux_gateway_exhaustion_seconds` | limit | forecast time until a limit or budget is reached; `+Inf`: never |
//! | `traflux_gateway_in_flight_requests`, `…_concurrency_limit_requests` | backend | requests in flight and how many may be |
//! | `traflux_gateway_backend_ejected` | backend | 1 while it gets no traffic |
//! | `traflux_gateway_plan_share_ratio` | rule, backend | share of a rule's traffic that the plan gives |
//! | `traflux_gateway_fairness_jain_ratio` | scope | Jain's index of the last window |
//! | `traflux_gateway_anomaly` | signal, rule, backend, model | 1 while something is unusual; the series goes with it |
//! | `traflux_gateway_misdirected_total` | | records with an unknown index: a fault of the embedder |
//! | `traflux_gateway_series_dropped` | | series of this answer left out for the limit or as duplicates |
//!
//! The number of series is bounded: counters by the [`MetricsLayout`](super::MetricsLayout), tenants by
//! [`TenantSettings::shown`](super::TenantSettings::shown), and every metric by [`Scrape::series_limit`].

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::{self, Write};
use std::time::Duration;

use super::anomaly::Signal;
use super::layout::{BandIx, DeciderIx, ReasonIx, RouteIx, SeriesIx};
use super::snapshot::{HistogramCounts, SeriesHistogram, Snapshot};
use super::tenants::{TenantExposure, TenantIx, TenantUse};
use crate::outcome::Outcome;

/// The label of all tenants without a series of their own.
pub const OTHER_TENANTS: &str = "_other";

/// What all names begin with.
pub(crate) const PREFIX: &str = "traflux_gateway_";

/// Which text format is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The content type of an answer.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Shares of what a key may take, by which keys are counted.
pub const SHARES_OF_KEYS: [f64; 4] = [0.0, 0.5, 0.8, 0.95];

/// Something that has a level now rather than a count so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Level<'a> {
    /// What waits in a band of the queue.
    Queue {
        /// The band.
        band: &'a str,
        /// Requests that wait.
        requests: u64,
        /// Their estimated tokens.
        tokens: u64,
    },
    /// How full a limiter is.
    Limiter {
        /// Its name.
        limiter: &'a str,
        /// What it counts: requests, tokens, dollars.
        unit: &'a str,
        /// What is taken; beyond the limit it is in debt.
        used: f64,
        /// What may be taken.
        limit: f64,
    },
    /// How full a limiter is that counts each key apart: how many keys have used how much.
    Keys {
        /// Its name.
        limiter: &'a str,
        /// What it counts: requests, tokens, dollars.
        unit: &'a str,
        /// For each of [`SHARES_OF_KEYS`] the keys that have used more than this share of what they may take.
        above: [u64; SHARES_OF_KEYS.len()],
        /// What the fullest key has used of what it may take; beyond 1 it is in debt.
        fullest: f64,
    },
    /// When a limit or budget will be reached.
    Exhaustion {
        /// Name of the limit or budget.
        limit: &'a str,
        /// Time from now; `None`: not in sight.
        within: Option<Duration>,
    },
    /// Requests in flight to a backend.
    Concurrency {
        /// The backend.
        backend: &'a str,
        /// Requests in flight.
        in_flight: u64,
        /// Most that may be.
        limit: u64,
    },
    /// Whether a backend gets traffic.
    Ejection {
        /// The backend.
        backend: &'a str,
        /// Whether it is ejected.
        ejected: bool,
    },
    /// What the plan gives a backend.
    PlanShare {
        /// The rule.
        rule: &'a str,
        /// The backend.
        backend: &'a str,
        /// Share of the rule's traffic, 0 to 1.
        share: f64,
    },
    /// Something is unusual.
    Anomaly(&'a Signal),
    /// How fairly the last window was shared.
    Fairness {
        /// Among whom: tenants, keys of a tenant.
        scope: &'a str,
        /// Jain's index.
        jain: f64,
    },
}

/// What a scrape asks the rest of the gateway for.
pub trait Levels {
    /// Calls `visit` with every level, in any order.
    fn levels(&self, visit: &mut dyn FnMut(Level<'_>));

    /// The name of a tenant; one without is shown by its position.
    fn tenant_name(&self, tenant: TenantIx) -> Option<Cow<'_, str>> {
        let _ = tenant;
        None
    }
}

/// No levels.
impl Levels for () {
    fn levels(&self, _visit: &mut dyn FnMut(Level<'_>)) {}
}

/// Everything that one answer shows.
pub struct Scrape<'a> {
    /// The counters.
    pub snapshot: &'a Snapshot,
    /// The tenants.
    pub tenants: &'a TenantExposure,
    /// The levels.
    pub levels: &'a dyn Levels,
    /// Most series of one metric; a histogram counts as one.
    pub series_limit: usize,
}

impl fmt::Debug for Scrape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").field("series_limit", &self.series_limit).finish_non_exhaustive()
    }
}

impl Scrape<'_> {
    /// The answer to a scrape.
    #[must_use]
    pub fn to_text(&self, format: Format) -> String {
        let mut writer = Writer { format, limit: self.series_limit, dropped: 0, text: String::new() };
        self.counters(&mut writer);
        self.histograms(&mut writer);
        self.tenants(&mut writer);
        self.levels(&mut writer);
        let mut family = writer.family("misdirected_total", Kind::Counter, "Records with an unknown index");
        family.sample(&[], self.snapshot.misdirected() as f64);
        writer.finish(family);
        let mut family = writer.family("series_dropped", Kind::Gauge, "Series left out of this answer");
        family.sample(&[], writer.dropped as f64);
        writer.finish(family);
        if format == Format::OpenMetrics {
            writer.text.push_str("# EOF\n");
        }
        writer.text
    }

    fn counters(&self, writer: &mut Writer) {
        let snapshot = self.snapshot;
        let layout = snapshot.layout();
        let mut family = writer.family("requests_total", Kind::Counter, "Finished requests to backends");
        for (ix, series) in layout.series.iter().enumerate() {
            for outcome in Outcome::ALL {
                // All outcomes from the start, since a counter that appears with its first error shows no increase.
                let labels =
                    [("backend", &*series.backend), ("model", &*series.model), ("outcome", outcome.name())];
                family.sample(&labels, snapshot.requests(SeriesIx(ix as u32), outcome) as f64);
            }
        }
        writer.finish(family);
        type Count = fn(&Snapshot, SeriesIx) -> f64;
        let counts: [(&str, &str, Count); 7] = [
            ("input_tokens_total", "Prompt tokens, cached ones included", |s, ix| s.input_tokens(ix) as f64),
            ("cached_input_tokens_total", "Prompt tokens read from a cache", |s, ix| {
                s.cached_tokens(ix) as f64
            }),
            ("output_tokens_total", "Tokens of answers", |s, ix| s.output_tokens(ix) as f64),
            ("cost_dollars_total", "What requests cost", |s, ix| s.cost(ix).as_dollars()),
            ("busy_seconds_total", "Durations of all requests", |s, ix| s.busy(ix).as_secs_f64()),
            ("retries_total", "Requests sent again", |s, ix| s.retries(ix) as f64),
            ("hedges_total", "Requests sent a second time before the first was answered", |s, ix| {
                s.hedges(ix) as f64
            }),
        ];
        for (name, help, count) in counts {
            let mut family = writer.family(name, Kind::Counter, help);
            for (ix, series) in layout.series.iter().enumerate() {
                let labels = [("backend", &*series.backend), ("model", &*series.model)];
                family.sample(&labels, count(snapshot, SeriesIx(ix as u32)));
            }
            writer.finish(family);
        }
        let mut family =
            writer.family("decisions_total", Kind::Counter, "Decisions and why they came out so");
        for (decider, names) in layout.deciders.iter().enumerate() {
            for (reason, name) in layout.reasons.iter().enumerate() {
                let count = snapshot.decisions(DeciderIx(decider as u32), ReasonIx(reason as u32));
                if count > 0 {
                    let labels = [("rule", &*names.rule), ("algorithm", &*names.algorithm), ("reason", name)];
                    family.sample(&labels, count as f64);
                }
            }
        }
        writer.finish(family);
        let mut family = writer.family("picks_total", Kind::Counter, "Requests a rule sent to a backend");
        for (ix, route) in layout.routes.iter().enumerate() {
            let labels = [("rule", &*route.rule), ("backend", &*route.backend)];
            family.sample(&labels, snapshot.picks(RouteIx(ix as u32)) as f64);
        }
        writer.finish(family);
    }

    fn histograms(&self, writer: &mut Writer) {
        let histograms = [
            (SeriesHistogram::Duration, "request_duration_seconds", "From dispatch to the end of successes"),
            (
                SeriesHistogram::TimeToFirstToken,
                "time_to_first_token_seconds",
                "From dispatch to the first token of successes",
            ),
            (
                SeriesHistogram::TimePerOutputToken,
                "time_per_output_token_seconds",
                "Between two output tokens",
            ),
        ];
        let layout = self.snapshot.layout();
        for (histogram, name, help) in histograms {
            let mut family = writer.family(name, Kind::Histogram, help);
            for (ix, series) in layout.series.iter().enumerate() {
                if let Some(counts) = self.snapshot.histogram(SeriesIx(ix as u32), histogram) {
                    family.histogram(&[("backend", &series.backend), ("model", &series.model)], &counts);
                }
            }
            writer.finish(family);
        }
        let mut family = writer.family("queue_wait_seconds", Kind::Histogram, "Wait in the queue");
        for (ix, band) in layout.bands.iter().enumerate() {
            if let Some(counts) = self.snapshot.queue_wait(BandIx(ix as u32)) {
                family.histogram(&[("band", band)], &counts);
            }
        }
        writer.finish(family);
    }

    fn tenants(&self, writer: &mut Writer) {
        let mut names = HashSet::from([OTHER_TENANTS.to_owned()]);
        let mut shown: Vec<(String, TenantUse)> = vec![(OTHER_TENANTS.to_owned(), self.tenants.other)];
        for (tenant, used) in &self.tenants.tenants {
            let mut name =
                self.levels.tenant_name(*tenant).map_or_else(|| tenant.0.to_string(), Cow::into_owned);
            while !names.insert(name.clone()) {
                name = format!("{name}#{}", tenant.0);
            }
            shown.push((name, *used));
        }
        type Count = fn(&TenantUse) -> f64;
        let counts: [(&str, &str, Count); 3] = [
            ("tenant_requests_total", "Requests of the heaviest tenants", |used| used.requests as f64),
            ("tenant_tokens_total", "Tokens of the heaviest tenants", |used| used.tokens as f64),
            ("tenant_cost_dollars_total", "Cost of the heaviest tenants", |used| used.cost.as_dollars()),
        ];
        for (name, help, count) in counts {
            let mut family = writer.family(name, Kind::Counter, help);
            for (tenant, used) in &shown {
                family.sample(&[("tenant", tenant)], count(used));
            }
            writer.finish(family);
        }
    }

    fn levels(&self, writer: &mut Writer) {
        let gauges = [
            ("queue_requests", "Requests that wait in the queue"),
            ("queue_tokens", "Estimated tokens of the requests that wait"),
            ("limiter_used", "What is taken of a limiter"),
            ("limiter_limit", "What may be taken of a limiter"),
            ("exhaustion_seconds", "Forecast time until a limit or budget is reached"),
            ("in_flight_requests", "Requests in flight to a backend"),
            ("concurrency_limit_requests", "Requests that may be in flight to a backend"),
            ("backend_ejected", "1 while a backend gets no traffic"),
            ("plan_share_ratio", "Share of a rule's traffic that the plan gives a backend"),
            ("fairness_jain_ratio", "Jain's index of the last window"),
            ("anomaly", "1 while something is unusual"),
            ("limiter_keys", "Keys of a limiter that have used more than a share of what they may take"),
            ("limiter_fullest_key_ratio", "What the fullest key of a limiter has used of what it may take"),
        ];
        let mut families = gauges.map(|(name, help)| writer.family(name, Kind::Gauge, help));
        self.levels.levels(&mut |level| match level {
            Level::Queue { band, requests, tokens } => {
                families[0].sample(&[("band", band)], requests as f64);
                families[1].sample(&[("band", band)], tokens as f64);
            }
            Level::Limiter { limiter, unit, used, limit } => {
                families[2].sample(&[("limiter", limiter), ("unit", unit)], used);
                families[3].sample(&[("limiter", limiter), ("unit", unit)], limit);
            }
            Level::Keys { limiter, unit, above, fullest } => {
                for (share, keys) in SHARES_OF_KEYS.iter().zip(above) {
                    let labels = [("limiter", limiter), ("unit", unit), ("above", &share.to_string())];
                    families[11].sample(&labels, keys as f64);
                }
                families[12].sample(&[("limiter", limiter), ("unit", unit)], fullest);
            }
            Level::Exhaustion { limit, within } => {
                families[4].sample(&[("limit", limit)], within.map_or(f64::INFINITY, |d| d.as_secs_f64()));
            }
            Level::Concurrency { backend, in_flight, limit } => {
                families[5].sample(&[("backend", backend)], in_flight as f64);
                families[6].sample(&[("backend", backend)], limit as f64);
            }
            Level::Ejection { backend, ejected } => {
                families[7].sample(&[("backend", backend)], if ejected { 1.0 } else { 0.0 });
            }
            Level::PlanShare { rule, backend, share } => {
                families[8].sample(&[("rule", rule), ("backend", backend)], share);
            }
            Level::Anomaly(signal) => {
                let (rule, backend, model) = match signal {
                    Signal::Rate(of) | Signal::Errors(of) | Signal::Slow(of, _) => {
                        ("", &of.backend, &*of.model)
                    }
                    Signal::Split { rule, backend } => (rule.as_str(), backend, ""),
                };
                let labels =
                    [("signal", signal.name()), ("rule", rule), ("backend", backend), ("model", model)];
                families[10].sample(&labels, 1.0);
            }
            Level::Fairness { scope, jain } => families[9].sample(&[("scope", scope)], jain),
        });
        for family in families {
            writer.finish(family);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

struct Writer {
    format: Format,
    limit: usize,
    dropped: u64,
    text: String,
}

/// All samples of one metric; they must stand together.
struct Family {
    name: String,
    kind: Kind,
    help: &'static str,
    limit: usize,
    dropped: u64,
    seen: HashSet<String>,
    text: String,
}

impl Writer {
    fn family(&self, name: &str, kind: Kind, help: &'static str) -> Family {
        Family {
            name: format!("{PREFIX}{name}"),
            kind,
            help,
            limit: self.limit,
            dropped: 0,
            seen: HashSet::new(),
            text: String::new(),
        }
    }

    fn finish(&mut self, family: Family) {
        self.dropped += family.dropped;
        if family.seen.is_empty() {
            return;
        }
        // OpenMetrics names a counter without its suffix and knows units.
        let name = match self.format {
            Format::OpenMetrics => family.name.trim_end_matches("_total"),
            Format::Prometheus => &family.name,
        };
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let text = &mut self.text;
        put(text, format_args!("# HELP {name} {}\n# TYPE {name} {kind}\n", family.help));
        if self.format == Format::OpenMetrics {
            for unit in ["seconds", "dollars", "ratio", "requests", "tokens"] {
                if name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')) {
                    put(text, format_args!("# UNIT {name} {unit}\n"));
                }
            }
        }
        text.push_str(&family.text);
    }
}

impl Family {
    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        let Some(labels) = self.admit(labels) else { return };
        let braces = if labels.is_empty() { ("", "") } else { ("{", "}") };
        put(
            &mut self.text,
            format_args!("{}{}{labels}{} {}\n", self.name, braces.0, braces.1, Number(value)),
        );
    }

    fn histogram(&mut self, labels: &[(&str, &str)], counts: &HistogramCounts<'_>) {
        let Some(labels) = self.admit(labels) else { return };
        let name = &self.name;
        let mut cumulated = 0;
        let bounds = counts.bounds.bounds().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(counts.counts) {
            cumulated += count;
            put(
                &mut self.text,
                format_args!("{name}_bucket{{{labels},le=\"{}\"}} {cumulated}\n", Bound(bound)),
            );
        }
        let sum = Number(counts.sum.as_secs_f64());
        put(
            &mut self.text,
            format_args!("{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {cumulated}\n"),
        );
    }

    /// The labels as text, unless the series is a duplicate or one too many.
    fn admit(&mut self, labels: &[(&str, &str)]) -> Option<String> {
        let mut text = String::new();
        for (name, value) in labels {
            let comma = if text.is_empty() { "" } else { "," };
            put(&mut text, format_args!("{comma}{name}=\"{}\"", Escaped(value)));
        }
        if self.seen.len() >= self.limit || !self.seen.insert(text.clone()) {
            self.dropped += 1;
            return None;
        }
        Some(text)
    }
}

fn put(text: &mut String, what: fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(what);
}

/// A label value: backslash, quote and line feed escaped.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// A value: integers without a point, infinities as both formats spell them.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value.is_nan() => f.write_str("NaN"),
            value if value.is_infinite() => f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" }),
            value => write!(f, "{value}"),
        }
    }
}

/// An upper bound: with a point, as OpenMetrics asks for, so that both formats name the same series.
pub(crate) struct Bound(pub(crate) f64);

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_infinite() { f.write_str("+Inf") } else { write!(f, "{:?}", self.0) }
    }
}
