//! What does the engine know of its traffic, as telemetry?
//!
//! Everything is a difference of counters over the window, read where they are counted: nothing is scraped, and
//! nothing is late. The engine counts requests, latencies, tokens and dollars by backend and model, and which rule sent
//! how many requests to which backend. So
//!
//! - what a backend finished is told apart by rule in proportion to what the rules sent there;
//! - latency, errors and timeouts of a route are those of its backend, all rules and models together;
//! - requests in flight are by Little's law: the time that requests took, over the time of the window;
//! - a refusal for lack of capacity (429) is no request that was served and none that failed. Where one in twenty is
//!   refused, what was served is the capacity that the backend has announced; afterwards this ceiling doubles every five
//!   minutes, until refusals come again;
//! - a backend is called unhealthy where some route has ejected it and nothing of what it did in the window succeeded;
//! - traffic of rules that are not controlled, and of fall-backs, is background.
//!
//! An age is that of the newest request: of throughput that of any request of the engine, because with others in sight
//! silence means no traffic; of everything else that of the backend's own. An engine that nobody asks gives telemetry
//! that grows old, by which weights are held.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use traflux_core::{
    BoxFuture, Latency, Measurements, MetricsSource, ObserveError, Rate, Reading, ResourceTelemetry, RouteIx,
    Telemetry, Timestamp, Topology, Window,
};
use traflux_gateway::observe::{RouteIx as PickIx, SeriesHistogram, SeriesIx, Snapshot};
use traflux_gateway::{Engine, Outcome};

use super::price::{Typical, prices};

/// Telemetry of an engine in the same process.
#[derive(Debug)]
pub struct EngineSource {
    engine: Engine,
    memory: Mutex<Memory>,
}

/// What was read before.
#[derive(Debug)]
struct Memory {
    /// Counters within the window and the ones before it, oldest first.
    readings: VecDeque<(Timestamp, Snapshot)>,
    /// By backend: when something was last seen to end there.
    heard: BTreeMap<String, Timestamp>,
    /// By backend: how much it serves before it refuses, in requests per second.
    ceilings: BTreeMap<String, f64>,
}

/// Refusals for lack of capacity, as a share of what was asked, from which they tell the capacity.
const REFUSED: f64 = 0.05;
/// Refusals that are chance.
const CHANCE: u64 = 3;
/// Time in which a ceiling doubles when nothing is refused.
const DOUBLING_S: f64 = 300.0;
/// Beyond any ceiling worth remembering, requests per second.
const HIGHEST: f64 = 1e9;
/// A window shorter than this is none.
const SHORTEST: Duration = Duration::from_millis(10);

impl EngineSource {
    /// A source that counts from now on.
    #[must_use]
    pub fn new(engine: Engine, now: Timestamp) -> Self {
        let readings = VecDeque::from([(now, engine.counted())]);
        Self {
            engine,
            memory: Mutex::new(Memory { readings, heard: BTreeMap::new(), ceilings: BTreeMap::new() }),
        }
    }

    /// Reads the counters and makes telemetry of them.
    fn read(&self, topology: &Topology, window: Window) -> Telemetry {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = self.engine.counted();
        let Some((span, step, latest)) = memory.take_in(window, counted) else {
            let mut telemetry = Telemetry::empty(topology, window.at, window.length);
            telemetry.warnings.push("the counters of the engine began anew".to_owned());
            return telemetry;
        };
        let seconds = span.as_secs_f64();
        let mut telemetry = Telemetry::empty(topology, window.at, span);
        let readings = self.engine.readings(window.at);
        let plan = self.engine.plan();
        let by_backend = sums(&latest);
        let any = memory.heard.values().max().copied();
        // Never heard of anything: as old as the engine's first counters would be, and older than any patience.
        let age = any.map_or(Duration::MAX, |heard| window.at.since(heard));
        let picked = Picked::of(&latest);
        let typical = Typical::of(&latest);

        for (ix, flow) in topology.flows().iter().enumerate() {
            let range = topology.route_range(ix.into());
            let names: Vec<&str> = range.clone().map(|at| backend_of(topology, at)).collect();
            let backends: Vec<_> = names.iter().map(|name| plan.backends.get(*name)).collect();
            let priced = prices(&backends, &typical);
            for ((at, name), price) in range.zip(names).zip(priced) {
                let route = &mut telemetry.routes[at];
                route.price = Some(price);
                let Some(sum) = by_backend.get(name) else { continue };
                let part = picked.part(&flow.service, name);
                let own = memory.heard.get(name).map_or(age, |heard| window.at.since(*heard));
                route.measured = sum.measured(seconds, part, any.map(|_| age), own);
            }
        }
        for (ix, resource) in topology.resources().iter().enumerate() {
            let name = resource.name.as_str();
            let Some(sum) = by_backend.get(name) else { continue };
            let own = memory.heard.get(name).map_or(age, |heard| window.at.since(*heard));
            let controlled: f64 = (0..topology.routes().len())
                .filter(|at| backend_of(topology, *at) == name)
                .map(|at| picked.part(&topology.flows()[topology.routes()[at].flow.ix()].service, name))
                .sum();
            let background = sum.served() as f64 / seconds * (1.0 - controlled).max(0.0);
            let ceiling = memory.ceiling(name, sum, seconds, step, resource.capacity);
            let ejected = readings.get(name).is_some_and(|reading| reading.ejected);
            telemetry.resources[ix] = ResourceTelemetry {
                measured: sum.measured(seconds, 1.0, any.map(|_| age), own),
                healthy: (ejected && sum.successes == 0).then_some(false),
                capacity: ceiling.map(|rate| Reading::new(Rate::saturating(rate), Duration::ZERO)),
                background: any.map(|_| Reading::new(Rate::saturating(background), age)),
                ..ResourceTelemetry::default()
            };
        }
        telemetry
    }
}

impl MetricsSource for EngineSource {
    fn collect<'a>(
        &'a self,
        topology: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, Result<Telemetry, ObserveError>> {
        Box::pin(std::future::ready(Ok(self.read(topology, window))))
    }
}

impl Memory {
    /// Adds counters; gives the time of the window, that since the collection before, and what was counted in the window. `None` where
    /// there is nothing to compare with: the names changed with the plan, or the clock went back.
    fn take_in(&mut self, window: Window, counted: Snapshot) -> Option<(Duration, Duration, Snapshot)> {
        let same = |earlier: &Snapshot| std::ptr::eq(earlier.layout(), counted.layout());
        let continues =
            self.readings.back().is_some_and(|(at, last)| same(last) && window.at.since(*at) >= SHORTEST);
        if !continues {
            self.readings.clear();
            self.heard.retain(|_, at| *at <= window.at);
            self.readings.push_back((window.at, counted));
            return None;
        }
        let (last_at, last) = self.readings.back()?;
        let step = window.at.since(*last_at);
        for (backend, sum) in sums(&counted.since(last)) {
            if sum.finished > 0 {
                self.heard.insert(backend.to_owned(), window.at);
            }
        }
        // The oldest is the newest of those that are as old as the window is long.
        while self.readings.get(1).is_some_and(|(at, _)| window.at.since(*at) >= window.length) {
            self.readings.pop_front();
        }
        let (from, oldest) = self.readings.front()?;
        let (span, latest) = (window.at.since(*from), counted.since(oldest));
        self.readings.push_back((window.at, counted));
        Some((span, step, latest))
    }

    /// What a backend serves at most, as far as its refusals tell.
    fn ceiling(
        &mut self,
        backend: &str,
        sum: &Sum,
        seconds: f64,
        step: Duration,
        configured: Rate,
    ) -> Option<f64> {
        let served = sum.served() as f64 / seconds;
        if sum.refused > CHANCE && sum.refused as f64 > REFUSED * sum.finished as f64 {
            self.ceilings.insert(backend.to_owned(), served.max(1.0 / seconds));
        }
        let ceiling = self.ceilings.get_mut(backend)?;
        if sum.refused == 0 {
            *ceiling = (*ceiling * (step.as_secs_f64() / DOUBLING_S).exp2()).min(HIGHEST);
        }
        Some(if configured > Rate::ZERO { ceiling.min(configured.get()) } else { *ceiling })
    }
}

/// What a backend did, all models together.
#[derive(Debug, Default)]
struct Sum {
    /// However they ended.
    finished: u64,
    successes: u64,
    /// Refused for lack of capacity.
    refused: u64,
    /// Failures of the backend, timeouts among them.
    failed: u64,
    timeouts: u64,
    busy: Duration,
    latencies: Option<Latencies>,
}

/// Durations of successes.
#[derive(Debug)]
struct Latencies {
    mean: Duration,
    p95: Duration,
}

impl Sum {
    /// Requests that the backend took on.
    fn served(&self) -> u64 {
        self.finished - self.refused
    }

    /// The measurements of so great a part of it.
    fn measured(&self, seconds: f64, part: f64, any: Option<Duration>, own: Duration) -> Measurements {
        let Some(age) = any else { return Measurements::default() };
        let served = self.served();
        let ratio = |count: u64| (served > 0).then(|| Reading::new(count as f64 / served as f64, own));
        let latency = |pick: fn(&Latencies) -> Duration| {
            self.latencies.as_ref().map(|latencies| Reading::new(Latency::from(pick(latencies)), own))
        };
        Measurements {
            throughput: Some(Reading::new(Rate::saturating(served as f64 / seconds * part), age)),
            latency_mean: latency(|latencies| latencies.mean),
            latency_p95: latency(|latencies| latencies.p95),
            error_ratio: ratio(self.failed),
            censored_ratio: ratio(self.timeouts),
            concurrency: Some(Reading::new(self.busy.as_secs_f64() / seconds * part, age)),
        }
    }
}

/// Counters by backend.
fn sums(counted: &Snapshot) -> BTreeMap<&str, Sum> {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut histograms: BTreeMap<&str, (Vec<u64>, Duration, SeriesIx)> = BTreeMap::new();
    for (ix, series) in counted.layout().series.iter().enumerate() {
        let at = SeriesIx(ix as u32);
        let sum = sums.entry(&series.backend).or_default();
        let of = |wanted: fn(Outcome) -> bool| -> u64 {
            Outcome::ALL.into_iter().filter(|o| wanted(*o)).map(|outcome| counted.requests(at, outcome)).sum()
        };
        // What never left the gateway says nothing of the backend.
        sum.finished += of(|outcome| !matches!(outcome, Outcome::LocalTimeout | Outcome::PoolFull));
        sum.successes += of(|outcome| outcome == Outcome::Success);
        sum.refused += of(|outcome| outcome == Outcome::Limited);
        sum.failed += of(Outcome::is_failure);
        sum.timeouts += counted.requests(at, Outcome::Timeout);
        sum.busy += counted.busy(at);
        let Some(histogram) = counted.histogram(at, SeriesHistogram::Duration) else { continue };
        let (counts, total, _) = histograms
            .entry(&series.backend)
            .or_insert_with(|| (vec![0; histogram.counts.len()], Duration::ZERO, at));
        counts.iter_mut().zip(histogram.counts).for_each(|(count, more)| *count += more);
        *total += histogram.sum;
    }
    for (backend, (counts, total, at)) in histograms {
        let count: u64 = counts.iter().sum();
        let bounds = counted.histogram(at, SeriesHistogram::Duration).map(|histogram| histogram.bounds);
        let p95 = bounds.and_then(|bounds| bounds.quantile(&counts, 0.95));
        if let (Some(sum), Some(p95)) = (sums.get_mut(backend), p95) {
            sum.latencies = Some(Latencies { mean: total.div_f64(count.max(1) as f64), p95 });
        }
    }
    sums
}

/// Which rule sent how many requests to which backend.
struct Picked<'a> {
    by_route: BTreeMap<(&'a str, &'a str), u64>,
    by_backend: BTreeMap<&'a str, u64>,
}

impl<'a> Picked<'a> {
    fn of(counted: &'a Snapshot) -> Self {
        let (mut by_route, mut by_backend) = (BTreeMap::new(), BTreeMap::new());
        for (ix, route) in counted.layout().routes.iter().enumerate() {
            let picks = counted.picks(PickIx(ix as u32));
            *by_route.entry((route.rule.as_str(), route.backend.as_str())).or_default() += picks;
            *by_backend.entry(route.backend.as_str()).or_default() += picks;
        }
        Self { by_route, by_backend }
    }

    /// The part of a backend's requests that a rule sent, in [0, 1].
    fn part(&self, rule: &str, backend: &str) -> f64 {
        let of_rule = self.by_route.get(&(rule, backend)).copied().unwrap_or(0);
        let all = self.by_backend.get(backend).copied().unwrap_or(0);
        if all > 0 {
            return of_rule as f64 / all as f64;
        }
        // What ends in this window was all sent before it: in equal parts.
        let rules = self.by_route.keys().filter(|(_, name)| *name == backend).count();
        if self.by_route.contains_key(&(rule, backend)) { 1.0 / rules as f64 } else { 0.0 }
    }
}

/// The backend of a route: its group has the name.
fn backend_of(topology: &Topology, at: usize) -> &str {
    let group = topology.routes()[RouteIx::from(at).ix()].group;
    &topology.groups()[group.ix()].name
}
