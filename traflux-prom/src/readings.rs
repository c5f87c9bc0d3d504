//! What do the answers say, in the order of the topology?
//!
//! Pure: answers in, telemetry and warnings out. Here NaN and infinity end, milliseconds become seconds, and
//! requests without a latency are counted as censored at the timeout.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use traflux_core::{Latency, Measurements, Rate, Reading, ResourceIx, Telemetry, Topology, Window};

use crate::answer::{Answer, Sample};
use crate::labels::{LabelIndex, LabelMap, Place};
use crate::source::{Signal, SourceOptions, Timeouts};

/// Above this share of censored requests the 95th percentile *is* one of them.
const CENSORED_LIMIT: f64 = 0.05;
/// Fewer requests without a latency in one window are chance.
const FEWEST_MISSING: f64 = 5.0;
/// Names listed in one warning.
const NAMES_SHOWN: usize = 3;
/// Remarks of the server taken from one answer.
const REMARKS_TAKEN: usize = 3;

/// The answers to the questions of a [`crate::QuerySet`]; `None` for a question that failed.
pub(crate) struct Answers {
    pub(crate) completed: Option<Answer>,
    pub(crate) completed_before: Option<Answer>,
    pub(crate) timed_out: Option<Answer>,
    pub(crate) failed: Option<Answer>,
    pub(crate) timed: Option<Answer>,
    pub(crate) time: Option<Answer>,
    pub(crate) p95_by_source: Option<Answer>,
    pub(crate) p95: Option<Answer>,
    pub(crate) newest: Option<Answer>,
    pub(crate) healthy: Option<Answer>,
    pub(crate) up: Option<Answer>,
}

/// Telemetry in the making.
pub(crate) struct Assembly<'a> {
    topology: &'a Topology,
    window: Window,
    map: &'a LabelMap,
    options: &'a SourceOptions,
    timeouts: &'a Timeouts,
    telemetry: Telemetry,
    remarks: BTreeSet<String>,
}

/// What two series of one place make together.
#[derive(Clone, Copy)]
enum Combine {
    Sum,
    Largest,
}

/// One number per route and per resource, where known.
struct Column {
    routes: Vec<Option<f64>>,
    /// Over all series of the resource, those of no route included.
    resources: Vec<Option<f64>>,
    /// By resource, the part that belongs to no route: traffic of sources that the topology does not know.
    strangers: Vec<Option<f64>>,
}

/// How far a histogram may be behind its counter, and the time over which both are counted, in seconds.
#[derive(Clone, Copy)]
struct Lag {
    flush: f64,
    window: f64,
}

/// The numbers of one route or resource. Rates per second; times in milliseconds.
struct Cells {
    completed: Option<f64>,
    before: Option<f64>,
    timed_out: Option<f64>,
    failed: Option<f64>,
    timed: Option<f64>,
    time: Option<f64>,
    p95: Option<f64>,
    age: Duration,
}

impl<'a> Assembly<'a> {
    pub(crate) fn new(
        topology: &'a Topology,
        window: Window,
        map: &'a LabelMap,
        options: &'a SourceOptions,
        timeouts: &'a Timeouts,
    ) -> Self {
        let telemetry = Telemetry::empty(topology, window.at, window.length);
        Self { topology, window, map, options, timeouts, telemetry, remarks: BTreeSet::new() }
    }

    pub(crate) fn warn(&mut self, warning: String) {
        self.telemetry.warnings.push(warning);
    }

    /// Takes an answer: notes what the server remarked and bounds the number of series.
    pub(crate) fn admit(&mut self, name: &str, mut answer: Answer) -> Answer {
        use crate::answer::Value;
        for remark in answer.warnings.iter().chain(&answer.infos).take(REMARKS_TAKEN) {
            self.remarks.insert(crate::http::shortened(remark));
        }
        match &mut answer.value {
            Value::Vector(samples) => {
                let limit = self.options.max_series;
                if samples.len() > limit {
                    self.warn(format!(
                        "{name}: {} series, limit {limit}; the rest was dropped",
                        samples.len()
                    ));
                    samples.truncate(limit);
                }
            }
            other => {
                let kind = other.kind();
                self.warn(format!("{name}: expected a vector, got a {kind}"));
            }
        }
        answer
    }

    pub(crate) fn measure(&mut self, index: &LabelIndex, answers: &Answers) {
        for clash in &index.clashes {
            self.warn(format!(
                "several endpoints have the label `{clash}`; their series cannot be told apart"
            ));
        }
        let completed = self.column(index, "throughput", answers.completed.as_ref(), Combine::Sum);
        let before = self.column(index, "throughput before", answers.completed_before.as_ref(), Combine::Sum);
        let timed_out = self.column(index, "timeouts", answers.timed_out.as_ref(), Combine::Sum);
        let failed = self.column(index, "errors", answers.failed.as_ref(), Combine::Sum);
        let timed = self.column(index, "latency count", answers.timed.as_ref(), Combine::Sum);
        let time = self.column(index, "latency sum", answers.time.as_ref(), Combine::Sum);
        let p95_by_source = self.percentiles(index, answers.p95_by_source.as_ref(), &completed);
        let p95 = self.percentiles(index, answers.p95.as_ref(), &completed);
        let ages = self.ages(index, answers.newest.as_ref());
        // An endpoint that timed out every request has no histogram at all; without any, none is collected.
        let histograms = answers.timed.as_ref().is_some_and(|answer| !answer.samples().is_empty());
        let timed_of = |timed: Option<f64>| if histograms { timed.or(Some(0.0)) } else { timed };

        let lag = Lag {
            flush: self.options.queries.flush_interval.as_secs_f64(),
            window: self.window.length.as_secs_f64(),
        };
        let services: Vec<Option<Duration>> =
            self.topology.flows().iter().map(|f| self.timeouts.of(&f.service)).collect();
        let mut longest: Vec<Option<Duration>> = vec![None; self.topology.resources().len()];
        for (ix, route) in self.topology.routes().iter().enumerate() {
            let timeout = services[route.flow.ix()];
            if let Some(endpoint) = route.consumption.first() {
                let longest = &mut longest[endpoint.resource.ix()];
                *longest = (*longest).max(timeout);
            }
            let cells = Cells {
                completed: completed.routes[ix],
                before: before.routes[ix],
                timed_out: timed_out.routes[ix],
                failed: failed.routes[ix],
                timed: timed_of(timed.routes[ix]),
                time: time.routes[ix],
                p95: p95_by_source.routes[ix],
                age: ages.routes[ix].map_or(self.window.length, seconds),
            };
            self.telemetry.routes[ix].measured = cells.measurements(timeout, lag);
        }
        for (ix, longest) in longest.into_iter().enumerate() {
            let cells = Cells {
                completed: completed.resources[ix],
                before: before.resources[ix],
                timed_out: timed_out.resources[ix],
                failed: failed.resources[ix],
                timed: timed_of(timed.resources[ix]),
                time: time.resources[ix],
                p95: p95.resources[ix],
                age: ages.resources[ix].map_or(self.window.length, seconds),
            };
            self.telemetry.resources[ix].measured = cells.measurements(longest, lag);
        }
        self.background(&completed, &ages);
        self.health(index, answers.healthy.as_ref());
        self.targets(answers);
    }

    pub(crate) fn signal(
        &mut self,
        index: &LabelIndex,
        signal: &Signal,
        values: &Answer,
        ages: Option<&Answer>,
    ) {
        let ages: HashMap<&str, Duration> = ages
            .map(Answer::samples)
            .unwrap_or_default()
            .iter()
            .filter_map(|sample| Some((sample.labels.get(&signal.label)?, age_of(sample)?)))
            .fold(HashMap::new(), |mut ages, (endpoint, age)| {
                ages.entry(endpoint)
                    .and_modify(|known: &mut Duration| *known = (*known).min(age))
                    .or_insert(age);
                ages
            });
        let (mut unlabelled, mut dropped) = (0, Dropped::default());
        for sample in values.samples() {
            let Some(endpoint) = sample.labels.get(&signal.label) else {
                unlabelled += 1;
                continue;
            };
            let Some(value) = dropped.finite(sample, endpoint) else { continue };
            let age = ages.get(endpoint).copied().unwrap_or_default();
            for resource in index.signal(endpoint, sample.labels.get(&self.map.service_label)) {
                self.telemetry.resources[resource.ix()]
                    .signals
                    .entry(signal.name.clone())
                    .and_modify(|known| {
                        known.age = known.age.max(age);
                        known.value = known.value.max(value);
                    })
                    .or_insert(Reading::new(value, age));
            }
        }
        if unlabelled > 0 {
            self.warn(format!(
                "signal {}: {unlabelled} series without label `{}`",
                signal.name, signal.label
            ));
        }
        if let Some(text) = dropped.text(&format!("signal {}", signal.name)) {
            self.warn(text);
        }
    }

    pub(crate) fn finish(mut self) -> Telemetry {
        let remarks = std::mem::take(&mut self.remarks);
        self.telemetry
            .warnings
            .extend(remarks.into_iter().map(|remark| format!("prometheus says: {remark}")));
        self.telemetry
    }

    /// Traffic of unknown sources, in the unit of the endpoint: nothing here moves it, and it takes capacity.
    ///
    /// Summed from its own series, which is exactly 0 where every series belongs to a route. What a stranger's
    /// request consumes is not known; the mean over the endpoint's routes stands in for it.
    fn background(&mut self, completed: &Column, ages: &Column) {
        let mut consumed = vec![(0.0, 0.0); self.topology.resources().len()];
        for route in self.topology.routes() {
            if let Some(endpoint) = route.consumption.first() {
                let (sum, routes) = &mut consumed[endpoint.resource.ix()];
                *sum += endpoint.per_request;
                *routes += 1.0;
            }
        }
        for (ix, (sum, routes)) in consumed.into_iter().enumerate() {
            if completed.resources[ix].is_none() || routes == 0.0 {
                continue;
            }
            let requests = completed.strangers[ix].unwrap_or(0.0).max(0.0);
            let age = ages.strangers[ix].filter(|_| completed.strangers[ix].is_some());
            let age = age.or(ages.resources[ix]).map_or(self.window.length, seconds);
            let load = Rate::saturating(requests * sum / routes);
            self.telemetry.resources[ix].background = Some(Reading::new(load, age));
        }
    }

    fn place(&self, index: &LabelIndex, sample: &Sample) -> Option<Place> {
        index.place(&sample.labels, self.map, self.options.queries.layout)
    }

    fn empty(&self) -> Column {
        Column {
            routes: vec![None; self.topology.routes().len()],
            resources: vec![None; self.topology.resources().len()],
            strangers: vec![None; self.topology.resources().len()],
        }
    }

    fn column(
        &mut self,
        index: &LabelIndex,
        name: &str,
        answer: Option<&Answer>,
        combine: Combine,
    ) -> Column {
        let mut column = self.empty();
        let mut dropped = Dropped::default();
        for sample in answer.map(Answer::samples).unwrap_or_default() {
            let Some(place) = self.place(index, sample) else { continue };
            let endpoint = sample.labels.get(&self.map.endpoint_label).unwrap_or("");
            if let Some(value) = dropped.finite(sample, endpoint) {
                column.add(place, value, combine);
            }
        }
        if let Some(text) = dropped.text(name) {
            self.warn(text);
        }
        column
    }

    /// Percentiles: not a number where there was no request, which is no news.
    fn percentiles(&mut self, index: &LabelIndex, answer: Option<&Answer>, completed: &Column) -> Column {
        let mut column = self.empty();
        let mut dropped = Dropped::default();
        for sample in answer.map(Answer::samples).unwrap_or_default() {
            let Some(place) = self.place(index, sample) else { continue };
            let volume =
                place.route.map_or(completed.resources[place.resource.ix()], |r| completed.routes[r.ix()]);
            let idle = volume.is_none_or(|volume| volume <= 0.0);
            if idle && sample.number().is_some_and(f64::is_nan) {
                continue;
            }
            let endpoint = sample.labels.get(&self.map.endpoint_label).unwrap_or("");
            if let Some(value) = dropped.finite(sample, endpoint) {
                column.add(place, value, Combine::Largest);
            }
        }
        if let Some(text) = dropped.text("p95") {
            self.warn(text);
        }
        column
    }

    /// Ages in seconds: time of evaluation minus time of the newest sample, both of the server's clock.
    fn ages(&mut self, index: &LabelIndex, answer: Option<&Answer>) -> Column {
        let mut column = self.empty();
        let mut unknown = Names::default();
        for sample in answer.map(Answer::samples).unwrap_or_default() {
            let Some(place) = self.place(index, sample) else {
                unknown.add(sample.labels.get(&self.map.endpoint_label).unwrap_or(""));
                continue;
            };
            if let Some(age) = age_of(sample) {
                // The newest sample decides: the smallest age, so the largest of the negative ones.
                column.add(place, -age.as_secs_f64(), Combine::Largest);
            }
        }
        if answer.is_none() {
            // A rate has no sample older than its window: that bound is what is left to say.
            self.warn(format!("ages are unknown; counted as {:?}", self.window.length));
        }
        if unknown.count > 0 {
            let (series, names) = (unknown.count, unknown.text());
            self.warn(format!(
                "{series} series of endpoints that are not in the topology were ignored: {names}"
            ));
        }
        for age in
            column.routes.iter_mut().chain(&mut column.resources).chain(&mut column.strangers).flatten()
        {
            *age = -*age;
        }
        column
    }

    fn health(&mut self, index: &LabelIndex, answer: Option<&Answer>) {
        for sample in answer.map(Answer::samples).unwrap_or_default() {
            let Some(resource) = index.host(&sample.labels, self.map, self.options.queries.layout) else {
                continue;
            };
            if let Some(value) = sample.number().filter(|value| value.is_finite()) {
                let healthy = &mut self.telemetry.resources[resource.ix()].healthy;
                *healthy = Some(healthy.unwrap_or(false) || value > 0.0);
            }
        }
    }

    /// Says which sources have targets that are down or none at all, and what is missing if all seem well.
    fn targets(&mut self, answers: &Answers) {
        let Some(up) = &answers.up else { return };
        let mut by_source: BTreeMap<&str, (usize, Names)> = BTreeMap::new();
        for sample in up.samples() {
            let source = sample.labels.get(&self.map.source_label).unwrap_or("");
            let (targets, down) = by_source.entry(source).or_default();
            *targets += 1;
            if sample.number().is_none_or(|value| value != 1.0) {
                down.add(sample.labels.get("instance").unwrap_or("?"));
            }
        }
        let mut warnings: Vec<String> = by_source
            .iter()
            .filter(|(_, (_, down))| down.count > 0)
            .map(|(source, (targets, down))| {
                format!("source `{source}`: {} of {targets} targets are down: {}", down.count, down.text())
            })
            .collect();
        let any_up = by_source.values().any(|(targets, down)| down.count < *targets);
        let mut absent: Names = Names::default();
        let sources: BTreeSet<&str> = self.topology.flows().iter().map(|f| f.source.as_str()).collect();
        for source in sources.iter().filter(|source| !by_source.contains_key(**source)) {
            absent.add(source);
        }
        if absent.count > 0 {
            warnings.push(format!(
                "no target has label `{}` for {} of {} sources: {}",
                self.map.source_label,
                absent.count,
                sources.len(),
                absent.text()
            ));
        }
        if any_up && answers.completed.as_ref().is_some_and(|answer| answer.samples().is_empty()) {
            warnings.push(format!(
                "targets are up, but no rate carries label `{}`: no traffic yet, no `stats_tags` for it, or a \
                 window of {:?} that holds fewer than two scrapes",
                self.map.endpoint_label, self.window.length
            ));
        }
        let silent = answers.timed.as_ref().is_some_and(|answer| answer.samples().is_empty());
        if silent && answers.completed.as_ref().is_some_and(|answer| !answer.samples().is_empty()) {
            warnings.push("requests are counted, but there is no latency histogram".into());
        }
        self.telemetry.warnings.extend(warnings);
    }
}

impl Column {
    fn add(&mut self, place: Place, value: f64, combine: Combine) {
        let resource: ResourceIx = place.resource;
        let part = match place.route {
            Some(route) => &mut self.routes[route.ix()],
            None => &mut self.strangers[resource.ix()],
        };
        for cell in [part, &mut self.resources[resource.ix()]] {
            *cell = Some(match (*cell, combine) {
                (None, _) => value,
                (Some(known), Combine::Sum) => known + value,
                (Some(known), Combine::Largest) => known.max(value),
            });
        }
    }
}

impl Cells {
    /// Requests per second without a latency because they timed out; `None` where that cannot be told.
    ///
    /// Two kinds. A request that timed out before any answer is a 504 that lacks a latency. One that timed out
    /// after the answer began keeps its status, so it is only missing: from the count now and from the count
    /// one flush earlier, beyond what failed (a refused connection has no latency either), and beyond what
    /// the requests of one flush may differ by chance, three standard deviations of twice a Poisson count.
    fn censored(&self, lag: Lag) -> Option<f64> {
        let (completed, timed) = (self.completed?, self.timed?);
        let now = completed - timed;
        let before = self.before.unwrap_or(completed) - timed;
        let failed = self.failed.unwrap_or(0.0);
        let silent = self.timed_out.or(self.failed).unwrap_or(0.0).min(now.max(before)).max(0.0);
        let broken_off = now.min(before) - failed;
        let chance = 3.0 * (2.0 * completed * lag.flush).sqrt();
        let certain = broken_off * lag.window > chance.max(FEWEST_MISSING);
        Some(if certain { silent + broken_off } else { silent }.min(completed))
    }

    fn measurements(&self, timeout: Option<Duration>, lag: Lag) -> Measurements {
        let reading = |value: f64| Reading::new(value, self.age);
        let latency = |millis: f64| Reading::new(Latency::saturating(millis * 1e-3), self.age);
        let positive = self.completed.filter(|completed| *completed > 0.0);
        let censored = positive.and_then(|_| self.censored(lag));
        let censored_ratio = positive.zip(censored).map(|(completed, censored)| censored / completed);
        let censored_at =
            timeout.filter(|_| censored_ratio.is_some_and(|ratio| ratio > CENSORED_LIMIT)).map(Latency::from);
        let p95 = self.p95.map(latency);
        Measurements {
            throughput: self.completed.map(|value| Reading::new(Rate::saturating(value), self.age)),
            latency_mean: self
                .time
                .zip(self.timed)
                .filter(|(_, timed)| *timed > 0.0)
                .map(|(time, timed)| latency(time / timed)),
            latency_p95: match (p95, censored_at) {
                (Some(p95), Some(at_least)) => Some(Reading::new(p95.value.max(at_least), self.age)),
                (None, Some(at_least)) => Some(Reading::new(at_least, self.age)),
                (p95, None) => p95,
            },
            error_ratio: positive
                .zip(self.failed)
                .map(|(all, failed)| reading((failed / all).clamp(0.0, 1.0))),
            censored_ratio: censored_ratio.map(reading),
            // Those that time out are in flight all that time, and in no latency sum.
            concurrency: self.time.or(self.completed.filter(|c| *c == 0.0)).map(|time| {
                let waiting = censored_at.zip(censored).map_or(0.0, |(at, censored)| at.as_secs() * censored);
                reading(time * 1e-3 + waiting)
            }),
        }
    }
}

/// Values that cannot be used, counted.
#[derive(Default)]
struct Dropped {
    names: Names,
    example: Option<String>,
}

impl Dropped {
    fn finite(&mut self, sample: &Sample, endpoint: &str) -> Option<f64> {
        let number = sample.number();
        if let Some(value) = number.filter(|value| value.is_finite()) {
            return Some(value);
        }
        self.names.add(endpoint);
        self.example.get_or_insert_with(|| {
            number.map_or_else(|| "a native histogram".into(), |value| value.to_string())
        });
        None
    }

    fn text(&self, what: &str) -> Option<String> {
        let example = self.example.as_ref()?;
        Some(format!(
            "{what}: {} values dropped (first is {example}): {}",
            self.names.count,
            self.names.text()
        ))
    }
}

/// Names of which a few are shown and all are counted.
#[derive(Default)]
struct Names {
    count: usize,
    shown: BTreeSet<String>,
}

impl Names {
    fn add(&mut self, name: &str) {
        self.count += 1;
        // The first in order of the alphabet, so that equal answers give equal warnings in any order.
        if self.shown.len() < NAMES_SHOWN || self.shown.last().is_some_and(|last| name < last.as_str()) {
            self.shown.insert(name.to_owned());
            if self.shown.len() > NAMES_SHOWN {
                self.shown.pop_last();
            }
        }
    }

    fn text(&self) -> String {
        let shown: Vec<String> = self.shown.iter().map(|name| format!("`{name}`")).collect();
        let more = if self.count > self.shown.len() { ", …" } else { "" };
        format!("{}{more}", shown.join(", "))
    }
}

/// Time of evaluation minus the sample's own time, which is the value; `None` where that is no time.
fn age_of(sample: &Sample) -> Option<Duration> {
    let newest = sample.number().filter(|seconds| seconds.is_finite())?;
    Some(seconds(sample.at.as_secs_f64() - newest))
}

/// A duration that saturates at both ends.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX)
}
