//! What is unusual now, is it shared fairly, and how long do limits last?
//!
//! Off the path of requests: [`Engine::upkeep`] looks every ten seconds at the difference of two snapshots of the
//! counters, and every minute at tenants and at the amounts that histories keep. Nothing of it changes a decision.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::limit::{LimitPlan, LimitScope, LimitUnit};
use traflux_core::plan::routing::Algorithm;

use super::Engine;
use super::compile::Compiled;
use super::counters::Counters;
use crate::observe::{
    Amount, Anomaly, AnomalyDetector, AnomalyEvent, Baseline, Claim, Exhaustion, Fairness, HistorySettings,
    Measure, SeriesIx, Snapshot, TenantIx, TenantUse, TrafficHistory, fairness,
};

/// Time between two looks at the counters.
const WINDOW: Duration = Duration::from_secs(10);
/// Time between two looks at tenants, and between two records of a history.
const MINUTE: Duration = Duration::from_secs(60);
/// Windows, each of an hour, from which the usual shares of a rule are told.
const USUAL: Duration = Duration::from_secs(3600);
/// Requests of a rule from which its usual shares are told.
const USUAL_REQUESTS: u64 = 1000;
/// Changes of alarms that wait for somebody to take them; the oldest go first.
const MOST_EVENTS: usize = 256;
/// Histories, of 54 kB each: series first, in their order, then limits.
const MOST_HISTORIES: usize = 256;
const HISTORY_WEEKS: u32 = 4;

/// What watches an engine.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Counters that the rest speaks of.
    counters: Option<Arc<Counters>>,
    window: Option<(Timestamp, Snapshot)>,
    minute: Option<(Timestamp, Snapshot)>,
    usual: Option<(Timestamp, Snapshot)>,
    detector: Option<AnomalyDetector>,
    /// Profiles by series; usual shares by route.
    baseline: Baseline,
    alarms: Vec<Anomaly>,
    events: VecDeque<AnomalyEvent>,
    /// What each tenant had used, and what had been refused to it, a minute ago.
    tenants: Option<Vec<(TenantUse, u64)>>,
    fairness: Option<Fairness>,
    histories: BTreeMap<Stream, TrafficHistory>,
    /// Which history has its turn to be looked at.
    turn: usize,
    limits: BTreeMap<String, Exhaustion>,
}

/// Whose history it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Stream {
    Series {
        backend: String,
        model: String,
    },
    /// A limit of all, or of each backend.
    Limit {
        name: String,
        backend: String,
    },
}

impl Engine {
    /// What behaves unusually now: rates, errors, latencies and shares of routing that have moved, since when and by how
    /// much. Told from windows of ten seconds, so it takes [`upkeep`](Self::upkeep) to be called.
    #[must_use]
    pub fn anomalies(&self) -> Vec<Anomaly> {
        self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner).alarms.clone()
    }

    /// Alarms that began or ended since this was called last, at most 256.
    pub fn take_anomaly_events(&self) -> Vec<AnomalyEvent> {
        self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner).events.drain(..).collect()
    }

    /// How fairly the last minute's tokens were shared among tenants: what each got over what it was entitled to. `None`
    /// before the first minute and after one without requests.
    #[must_use]
    pub fn fairness(&self) -> Option<Fairness> {
        self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner).fairness
    }

    /// When limits will be reached that hold for all requests, or for all of a backend, by name. Known from the first day
    /// on.
    #[must_use]
    pub fn exhaustion(&self) -> BTreeMap<String, Exhaustion> {
        self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner).limits.clone()
    }

    pub(super) fn watch(&self, compiled: &Compiled, now: Timestamp) {
        self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner).look(compiled, now);
    }
}

impl Watch {
    fn look(&mut self, compiled: &Compiled, now: Timestamp) {
        let same = self.counters.as_ref().is_some_and(|known| Arc::ptr_eq(known, &compiled.counters));
        let due = |last: &Option<(Timestamp, Snapshot)>, every| {
            last.as_ref().is_none_or(|(at, _)| now.since(*at) >= every)
        };
        if same && !due(&self.window, WINDOW) {
            return;
        }
        let snapshot = compiled.counters.metrics.snapshot();
        if !same {
            self.begin(compiled, snapshot, now);
            return;
        }
        if due(&self.usual, USUAL) {
            self.learn_shares(&snapshot);
            self.usual = Some((now, snapshot.clone()));
        }
        if let (Some((start, before)), Some(detector)) = (&self.window, &mut self.detector) {
            let baseline = Baseline {
                shares: planned(compiled, &snapshot, &self.baseline.shares),
                profiles: self.baseline.profiles.clone(),
            };
            for event in detector.window(*start, now, &snapshot.since(before), &baseline) {
                self.alarms.retain(|alarm| alarm.signal != *event.signal());
                if let AnomalyEvent::Raised(alarm) = &event {
                    self.alarms.push(alarm.clone());
                }
                if self.events.len() == MOST_EVENTS {
                    self.events.pop_front();
                }
                self.events.push_back(event);
            }
        }
        if due(&self.minute, MINUTE) {
            if let Some((_, before)) = &self.minute {
                let counted = snapshot.since(before);
                self.record(compiled, &counted, now);
            }
            self.share(compiled);
            self.minute = Some((now, snapshot.clone()));
        }
        self.look_ahead(compiled, &snapshot, now);
        self.window = Some((now, snapshot));
    }

    /// Begins with counters of other names; alarms end, and histories of names that stay go on.
    fn begin(&mut self, compiled: &Compiled, snapshot: Snapshot, now: Timestamp) {
        let layout = snapshot.layout();
        // Settings were checked when the engine was made.
        self.detector = AnomalyDetector::new(layout, compiled.settings.anomalies.clone()).ok();
        let at = now;
        self.events
            .extend(self.alarms.drain(..).map(|alarm| AnomalyEvent::Cleared { signal: alarm.signal, at }));
        self.baseline =
            Baseline { profiles: vec![None; layout.series.len()], shares: vec![None; layout.routes.len()] };
        self.window = Some((now, snapshot.clone()));
        self.minute = Some((now, snapshot.clone()));
        self.usual = Some((now, snapshot));
        self.counters = Some(Arc::clone(&compiled.counters));
        self.tenants = None;
        self.share(compiled);
        self.limits.clear();
    }

    /// Takes the shares since the last time for the usual, of rules with requests enough.
    fn learn_shares(&mut self, snapshot: &Snapshot) {
        let Some((_, before)) = &self.usual else { return };
        let counted = snapshot.since(before);
        let routes = &snapshot.layout().routes;
        let mut of_rule: BTreeMap<&str, u64> = BTreeMap::new();
        let picks = |ix: usize| counted.picks(crate::observe::RouteIx(ix as u32));
        for (ix, route) in routes.iter().enumerate() {
            *of_rule.entry(&route.rule).or_default() += picks(ix);
        }
        for (ix, route) in routes.iter().enumerate() {
            let all = of_rule.get(route.rule.as_str()).copied().unwrap_or(0);
            if all >= USUAL_REQUESTS {
                self.baseline.shares[ix] = Some(picks(ix) as f64 / all as f64);
            }
        }
    }

    /// Writes a minute into the histories.
    fn record(&mut self, compiled: &Compiled, counted: &Snapshot, now: Timestamp) {
        let mut record = |stream: Stream, amount: Amount| {
            if !self.histories.contains_key(&stream) {
                let settings = HistorySettings { weeks: HISTORY_WEEKS, ..HistorySettings::default() };
                if self.histories.len() >= MOST_HISTORIES {
                    return;
                }
                let Ok(history) = TrafficHistory::new(1, settings) else { return };
                self.histories.insert(stream.clone(), history);
            }
            if let Some(history) = self.histories.get_mut(&stream) {
                history.record(now, 0, amount);
            }
        };
        let series = &counted.layout().series;
        for (ix, names) in series.iter().enumerate() {
            let stream = Stream::Series { backend: names.backend.clone(), model: names.model.clone() };
            record(stream, counted.amount(SeriesIx(ix as u32)));
        }
        for (limit, backend) in foreseeable(compiled) {
            let mut sum = Amount::default();
            for (ix, _) in
                series.iter().enumerate().filter(|(_, s)| backend.is_empty() || s.backend == backend)
            {
                add(&mut sum, limit.unit, counted, SeriesIx(ix as u32));
            }
            record(Stream::Limit { name: limit.name.clone(), backend: backend.to_owned() }, sum);
        }
    }

    /// Looks ahead for one stream at a time, because it takes the time of a thousand decisions.
    fn look_ahead(&mut self, compiled: &Compiled, snapshot: &Snapshot, now: Timestamp) {
        let Some((stream, history)) = self.histories.iter().nth(self.turn) else {
            self.turn = 0;
            return;
        };
        self.turn += 1;
        match stream {
            Stream::Series { backend, model } => {
                let profile = history.profile(0, Measure::Requests, now);
                if let Some(ix) = snapshot.layout().series_ix(backend, model) {
                    self.baseline.profiles[ix.index()] = profile;
                }
            }
            Stream::Limit { name, backend } => {
                let limit = compiled.plan.limits.iter().find(|limit| limit.name == *name);
                let Some(limit) = limit else { return };
                let (measure, allowed) = match limit.unit {
                    LimitUnit::Concurrency => (Measure::Concurrency, limit.amount),
                    unit => (measure(unit), limit.amount / limit.usual_period().as_secs_f64()),
                };
                if let Some(profile) = history.profile(0, measure, now) {
                    let name = if backend.is_empty() { name.clone() } else { format!("{name} of {backend}") };
                    self.limits.insert(name, profile.headroom(allowed, now).exhaustion);
                }
            }
        }
    }

    /// Judges how the last minute was shared. What a tenant is entitled to is its max-min share of what was served, of
    /// equal weights; what it asked for is what it got and what was refused to it for want of capacity, its own limits
    /// apart.
    fn share(&mut self, compiled: &Compiled) {
        let mut now: Vec<(TenantUse, u64)> = Vec::new();
        compiled.tenants.for_each(|_, slot| {
            if now.len() <= slot {
                now.resize(slot + 1, Default::default());
            }
            let tenant = TenantIx(slot as u32);
            now[slot] = (compiled.used.used(tenant), compiled.used.unserved(tenant));
        });
        let Some(then) = self.tenants.replace(now.clone()) else {
            self.fairness = None;
            return;
        };
        let claims: Vec<Claim> = now
            .iter()
            .enumerate()
            .map(|(slot, (used, unserved))| {
                let (before, unserved_before) = then.get(slot).copied().unwrap_or_default();
                let used = used.since(&before);
                // A request without tokens counts as one.
                let received = used.tokens.max(used.requests) as f64;
                let demanded = received + unserved.wrapping_sub(unserved_before) as f64;
                Claim { demanded, received, weight: 1.0 }
            })
            .filter(|claim| claim.demanded > 0.0)
            .collect();
        self.fairness = (!claims.is_empty()).then(|| fairness(&claims));
    }

    pub(super) fn alarms(&self) -> &[Anomaly] {
        &self.alarms
    }

    pub(super) fn last_fairness(&self) -> Option<Fairness> {
        self.fairness
    }

    pub(super) fn forecasts(&self) -> &BTreeMap<String, Exhaustion> {
        &self.limits
    }
}

/// The shares that are expected of each route: those of the weights where the algorithm keeps to them and every model is
/// served alike, else the usual ones.
fn planned(compiled: &Compiled, snapshot: &Snapshot, usual: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut shares = usual.to_vec();
    let routes = &snapshot.layout().routes;
    let mut seen: Vec<&str> = Vec::new();
    for route in &compiled.routes {
        // What a rule falls back to has its name but no share of its own.
        if seen.contains(&&*route.name) {
            continue;
        }
        seen.push(&route.name);
        let mut pools = route.pools.iter().flatten().map(|pool| pool.shares());
        let Some(first) = pools.next().filter(|_| keeps_to_weights(route.algorithm)) else { continue };
        if pools.any(|other| other != first) {
            continue;
        }
        for (ix, of) in routes.iter().enumerate().filter(|(_, of)| *of.rule == *route.name) {
            shares[ix] = Some(first.get(of.backend.as_str()).copied().unwrap_or(0.0));
        }
    }
    shares
}

/// Whether requests are split as the weights say.
pub(super) const fn keeps_to_weights(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::RoundRobin | Algorithm::Weighted | Algorithm::Adaptive)
}

/// Limits that can be told from counters: of all requests, or of all requests to each backend.
fn foreseeable(compiled: &Compiled) -> Vec<(&LimitPlan, &str)> {
    let mut found = Vec::new();
    for limit in compiled.plan.limits.iter().filter(|limit| limit.matches.is_any()) {
        match limit.by.as_slice() {
            [] => found.push((limit, "")),
            [LimitScope::Backend] => {
                found.extend(compiled.plan.backends.keys().map(|backend| (limit, backend.as_str())));
            }
            _ => {}
        }
    }
    found
}

fn add(sum: &mut Amount, unit: LimitUnit, counted: &Snapshot, series: SeriesIx) {
    let amount = counted.amount(series);
    sum.requests += amount.requests;
    sum.tokens += match unit {
        LimitUnit::InputTokens => counted.input_tokens(series),
        LimitUnit::OutputTokens => counted.output_tokens(series),
        _ => amount.tokens,
    };
    sum.cost.0 = sum.cost.0.saturating_add(amount.cost.0);
    sum.busy += amount.busy;
}

const fn measure(unit: LimitUnit) -> Measure {
    match unit {
        LimitUnit::Requests => Measure::Requests,
        LimitUnit::Tokens | LimitUnit::InputTokens | LimitUnit::OutputTokens => Measure::Tokens,
        LimitUnit::Dollars => Measure::Dollars,
        LimitUnit::Concurrency => Measure::Concurrency,
    }
}
