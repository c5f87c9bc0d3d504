//! Which backend or rule behaves unusually, since when, and by how much?
//!
//! An [`AnomalyDetector`] takes windows of some seconds, each the difference of two
//! [`Snapshot`]s, and watches per backend and model
//!
//! - the rate of requests ([`Deviation`]), against a seasonal profile where one is given,
//! - the share of errors ([`Drift`]),
//! - latency: the share of requests beyond the bound nearest to their usual 95th percentile ([`Drift`]), which
//!   takes no assumption about how latencies are distributed,
//!
//! and per rule how its requests are split among backends against the plan: Pearson's χ² as a z-score (E. B. Wilson,
//! M. M. Hilferty, "The distribution of chi-square", PNAS 17, 1931) says whether it differs, the population
//! stability index `Σ (seen − plan)·ln(seen / plan)` whether the difference matters.
//!
//! The tests measure false alarms on stationary traffic and delays on shifts. Real failures come in bursts, which
//! no model of independent requests foresees: raise [`threshold`](AnomalySettings::threshold) where that is normal.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::Timestamp;

use super::detector::{Deviation, Drift, DriftSettings, Hysteresis, Latch, Shift, Verdict};
use super::layout::{BackendModel, MetricsLayout, RouteIx, SeriesIx};
use super::pattern::Profile;
use super::snapshot::{SeriesHistogram, Snapshot};
use crate::error::GatewayError;

/// When an [`AnomalyDetector`] gives alarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnomalySettings {
    /// Standard deviations by which a rate may leave the usual.
    pub rate_deviations: f64,
    /// Least standard deviation of a rate, as a share of the usual: 0.1 and 5 deviations let it change by half.
    pub rate_least_deviation: f64,
    /// Windows a rate is compared with.
    pub memory_windows: usize,
    /// Errors are looked for at this many times their usual share, and slow requests at this many times theirs.
    pub ratio: f64,
    /// Least rise of the share of errors or slow requests that matters.
    pub least_rise: f64,
    /// Logarithm of the likelihood ratio at which errors and latency give alarm. The mean number of requests to a
    /// false alarm is at least e to the power of it.
    pub threshold: f64,
    /// Requests before the usual share of errors, or the usual latency, is known.
    pub least_requests: u64,
    /// Population stability index at which a split differs; 0.1 is slight, 0.25 large.
    pub share_index: f64,
    /// Requests of a rule that are compared with its plan at once; fewer wait for the next window.
    pub share_requests: u64,
    /// Windows in a row before an alarm of rate or split.
    pub raise_after: u32,
    /// Quiet windows in a row before an alarm ends.
    pub clear_after: u32,
}

impl Default for AnomalySettings {
    /// Rates that change by half, errors and slow requests at three times the usual and at least 2 % more, splits
    /// at an index of 0.1.
    fn default() -> Self {
        Self {
            rate_deviations: 5.0,
            rate_least_deviation: 0.1,
            memory_windows: 60,
            ratio: 3.0,
            least_rise: 0.02,
            threshold: 20.0,
            least_requests: 500,
            share_index: 0.1,
            share_requests: 200,
            raise_after: 2,
            clear_after: 6,
        }
    }
}

impl AnomalySettings {
    /// Whether the settings can be used.
    ///
    /// # Errors
    /// [`GatewayError::Setting`].
    pub fn validate(&self) -> Result<(), GatewayError> {
        let positive = [
            ("rate_deviations", self.rate_deviations),
            ("rate_least_deviation", self.rate_least_deviation),
            ("least_rise", self.least_rise),
            ("threshold", self.threshold),
            ("share_index", self.share_index),
            // At a ratio of one there is nothing to look for.
            ("ratio", self.ratio - 1.0),
        ];
        for (setting, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                let expected = if setting == "ratio" { "more than 1" } else { "a positive number" };
                let value = if setting == "ratio" { self.ratio } else { value };
                return Err(GatewayError::setting(setting, value, expected));
            }
        }
        let counts = [
            ("least_requests", self.least_requests),
            ("share_requests", self.share_requests),
            ("raise_after", u64::from(self.raise_after)),
            ("clear_after", u64::from(self.clear_after)),
        ];
        for (setting, value) in counts {
            if value == 0 {
                return Err(GatewayError::setting(setting, "0", "at least 1"));
            }
        }
        if !(8..=10_080).contains(&self.memory_windows) {
            return Err(GatewayError::setting("memory_windows", self.memory_windows, "8 to 10080"));
        }
        Ok(())
    }

    fn drift(&self, least_usual: f64) -> Drift {
        Drift::new(DriftSettings {
            ratio: self.ratio,
            least_rise: self.least_rise,
            least_usual,
            threshold: self.threshold,
            least_trials: self.least_requests as f64,
            keep: 1.0 - 1.0 / self.memory_windows as f64,
            clear_after: self.clear_after,
            fixed: None,
        })
    }
}

/// What moved.
#[derive(Debug, Clone, PartialEq)]
pub enum Signal {
    /// Requests per second of a backend and model.
    Rate(BackendModel),
    /// Share of requests to a backend and model that failed.
    Errors(BackendModel),
    /// Share of requests to a backend and model that were slower than this.
    Slow(BackendModel, Duration),
    /// Share of a rule's requests that went to a backend: the one that differs most from the plan.
    Split {
        /// The rule.
        rule: String,
        /// The backend.
        backend: String,
    },
}

/// Something unusual.
#[derive(Debug, Clone, PartialEq)]
pub struct Anomaly {
    /// What.
    pub signal: Signal,
    /// When it was noticed.
    pub at: Timestamp,
    /// Since when, usual and seen value (per second for rates, shares otherwise), and how sure.
    pub shift: Shift,
}

/// A change of the alarms.
#[derive(Debug, Clone, PartialEq)]
pub enum AnomalyEvent {
    /// An alarm begins.
    Raised(Anomaly),
    /// An alarm ends.
    Cleared {
        /// What is usual again.
        signal: Signal,
        /// When.
        at: Timestamp,
    },
}

impl AnomalyEvent {
    /// What it is about.
    #[must_use]
    pub const fn signal(&self) -> &Signal {
        match self {
            Self::Raised(anomaly) => &anomaly.signal,
            Self::Cleared { signal, .. } => signal,
        }
    }
}

impl Signal {
    /// A stable name of its kind, for metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rate(_) => "rate",
            Self::Errors(_) => "errors",
            Self::Slow(..) => "slow",
            Self::Split { .. } => "split",
        }
    }
}

/// What a window is compared with.
pub trait Expectation {
    /// Requests per second to expect of a series in the window that begins at `start`; `None` where there is no
    /// profile.
    fn rate(&self, series: SeriesIx, start: Timestamp) -> Option<f64>;

    /// The share of its rule's requests that the plan gives a route; `None` where the rule has no plan.
    fn share(&self, route: RouteIx) -> Option<f64>;
}

/// Profiles and a plan, as far as there are any.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    /// Profiles of requests by [`SeriesIx`].
    pub profiles: Vec<Option<Profile>>,
    /// Planned shares by [`RouteIx`].
    pub shares: Vec<Option<f64>>,
}

impl Expectation for Baseline {
    fn rate(&self, series: SeriesIx, start: Timestamp) -> Option<f64> {
        self.profiles.get(series.index())?.as_ref().map(|profile| profile.expected(start))
    }

    fn share(&self, route: RouteIx) -> Option<f64> {
        self.shares.get(route.index()).copied().flatten()
    }
}

/// Neither profiles nor a plan.
impl Expectation for () {
    fn rate(&self, _series: SeriesIx, _start: Timestamp) -> Option<f64> {
        None
    }

    fn share(&self, _route: RouteIx) -> Option<f64> {
        None
    }
}

/// Watches all series and rules of a layout.
#[derive(Debug, Clone)]
pub struct AnomalyDetector {
    settings: AnomalySettings,
    hysteresis: Hysteresis,
    series: Vec<SeriesWatch>,
    rules: Vec<RuleWatch>,
}

#[derive(Debug, Clone)]
struct SeriesWatch {
    rate: Deviation,
    errors: Drift,
    slow: Drift,
    /// Counts by bucket while the usual latency is learned.
    learned: Vec<u64>,
    /// Requests in buckets beyond this one are slow.
    bound: Option<(usize, Duration)>,
}

#[derive(Debug, Clone)]
struct RuleWatch {
    routes: Vec<usize>,
    plan: Vec<f64>,
    seen: Vec<u64>,
    since: Option<Timestamp>,
    alarmed_since: Timestamp,
    latch: Latch,
    worst: usize,
}

impl AnomalyDetector {
    /// A detector that knows nothing yet.
    ///
    /// # Errors
    /// [`GatewayError::Setting`].
    pub fn new(layout: &MetricsLayout, settings: AnomalySettings) -> Result<Self, GatewayError> {
        settings.validate()?;
        let hysteresis = Hysteresis { raise_after: settings.raise_after, clear_after: settings.clear_after };
        let watch = |_: &BackendModel| SeriesWatch {
            rate: Deviation::new(
                settings.rate_deviations,
                settings.rate_least_deviation,
                settings.memory_windows,
                hysteresis,
            ),
            errors: settings.drift(1e-3),
            slow: settings.drift(1e-2),
            learned: Vec::new(),
            bound: None,
        };
        let mut rules: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (ix, route) in layout.routes.iter().enumerate() {
            rules.entry(&route.rule).or_default().push(ix);
        }
        let rules = rules.into_values().map(|routes| RuleWatch {
            plan: Vec::new(),
            seen: vec![0; routes.len()],
            routes,
            since: None,
            alarmed_since: Timestamp::ZERO,
            latch: Latch::default(),
            worst: 0,
        });
        Ok(Self {
            series: layout.series.iter().map(watch).collect(),
            rules: rules.collect(),
            hysteresis,
            settings,
        })
    }

    /// Takes the window from `start` to `end`: what was counted in it, and what was to be expected. Windows should
    /// be of about equal length. Gives the changes of the alarms, series by series, then rule by rule.
    pub fn window(
        &mut self,
        start: Timestamp,
        end: Timestamp,
        counted: &Snapshot,
        expectation: &dyn Expectation,
    ) -> Vec<AnomalyEvent> {
        let mut events = Vec::new();
        let layout = counted.layout();
        let seconds = end.since(start).as_secs_f64().max(1e-3);
        for (ix, (watch, names)) in self.series.iter_mut().zip(&layout.series).enumerate() {
            let series = SeriesIx(ix as u32);
            let requests = counted.all_requests(series);
            let expected = expectation.rate(series, start).map(|rate| rate * seconds);
            let mut rate = watch.rate.window(start, requests as f64, expected);
            if let Verdict::Raised(shift) = &mut rate {
                shift.usual /= seconds;
                shift.seen /= seconds;
            }
            push(&mut events, end, rate, || Signal::Rate(names.clone()));
            let errors = watch.errors.window(start, requests, counted.errors(series));
            push(&mut events, end, errors, || Signal::Errors(names.clone()));
            // The time to the first token does not depend on how long an answer is; take it where there is one.
            let latency = [SeriesHistogram::TimeToFirstToken, SeriesHistogram::Duration];
            let mut latency = latency.into_iter().filter_map(|which| counted.histogram(series, which));
            let Some(histogram) = latency.find(|histogram| histogram.count() > 0) else { continue };
            let bounds: Vec<Duration> = histogram.bounds.bounds().collect();
            let (slow, bound) = watch.latency(start, histogram.counts, &bounds, self.settings.least_requests);
            push(&mut events, end, slow, || Signal::Slow(names.clone(), bound));
        }
        for watch in &mut self.rules {
            let verdict = watch.window(start, counted, expectation, &self.settings, self.hysteresis);
            push(&mut events, end, verdict, || {
                let route = layout.routes.get(watch.routes[watch.worst]);
                let (rule, backend) =
                    route.map_or_else(Default::default, |r| (r.rule.clone(), r.backend.clone()));
                Signal::Split { rule, backend }
            });
        }
        events
    }

    /// How many alarms there are.
    #[must_use]
    pub fn alarms(&self) -> usize {
        let series = self.series.iter().map(|watch| {
            [watch.rate.is_alarmed(), watch.errors.is_alarmed(), watch.slow.is_alarmed()].map(usize::from)
        });
        let rules = self.rules.iter().filter(|watch| watch.latch.alarm).count();
        series.flatten().sum::<usize>() + rules
    }
}

fn push(events: &mut Vec<AnomalyEvent>, at: Timestamp, verdict: Verdict, signal: impl FnOnce() -> Signal) {
    match verdict {
        Verdict::Same => {}
        Verdict::Raised(shift) => events.push(AnomalyEvent::Raised(Anomaly { signal: signal(), at, shift })),
        Verdict::Cleared => events.push(AnomalyEvent::Cleared { signal: signal(), at }),
    }
}

impl SeriesWatch {
    fn latency(
        &mut self,
        start: Timestamp,
        counts: &[u64],
        bounds: &[Duration],
        least_requests: u64,
    ) -> (Verdict, Duration) {
        // After a lasting change of latency the bound splits requests no longer at some per cent.
        let stale = self.slow.usual().is_some_and(|usual| !(0.002..0.25).contains(&usual));
        if self.bound.is_some() && stale && !self.slow.is_alarmed() {
            self.bound = None;
            self.learned.clear();
            self.slow.forget();
        }
        let Some((bound, latency)) = self.bound else {
            self.learned.resize(counts.len(), 0);
            for (learned, count) in self.learned.iter_mut().zip(counts) {
                *learned += count;
            }
            let total: u64 = self.learned.iter().sum();
            if total >= least_requests {
                // The bound nearest to the 95th percentile, as ratios go. Half a request beyond it keeps the
                // logarithm finite.
                let mut beyond = total;
                let distance = |count: &u64| {
                    beyond -= count;
                    ((beyond as f64 + 0.5) / (total as f64 * 0.05)).ln().abs()
                };
                let distances: Vec<f64> = self.learned.iter().take(bounds.len()).map(distance).collect();
                let nearest = (0..distances.len()).min_by(|a, b| distances[*a].total_cmp(&distances[*b]));
                let bucket = nearest.unwrap_or(0);
                self.bound = bounds.get(bucket).map(|latency| (bucket, *latency));
            }
            return (Verdict::Same, Duration::ZERO);
        };
        let slow = counts.iter().skip(bound + 1).sum();
        (self.slow.window(start, counts.iter().sum(), slow), latency)
    }
}

impl RuleWatch {
    fn window(
        &mut self,
        start: Timestamp,
        counted: &Snapshot,
        expectation: &dyn Expectation,
        settings: &AnomalySettings,
        hysteresis: Hysteresis,
    ) -> Verdict {
        let plan =
            self.routes.iter().map(|ix| expectation.share(RouteIx(*ix as u32))).collect::<Option<Vec<f64>>>();
        let plan = plan.unwrap_or_default();
        if plan != self.plan {
            // Requests of two plans cannot be told apart.
            self.plan = plan;
            self.seen.fill(0);
            self.since = None;
        }
        let sum: f64 = self.plan.iter().sum();
        if self.plan.len() < 2 || sum <= 0.0 {
            return Verdict::Same;
        }
        let since = *self.since.get_or_insert(start);
        for (seen, route) in self.seen.iter_mut().zip(&self.routes) {
            *seen += counted.picks(RouteIx(*route as u32));
        }
        let total: u64 = self.seen.iter().sum();
        if total < settings.share_requests {
            return Verdict::Same;
        }
        let total = total as f64;
        let shares: Vec<(f64, f64)> =
            self.seen.iter().zip(&self.plan).map(|(seen, plan)| (*seen as f64 / total, plan / sum)).collect();
        let (z, index) = (chi_square_deviations(&shares, total), stability_index(&shares));
        let beyond = z > settings.rate_deviations && index > settings.share_index;
        if beyond && self.latch.beyond == 0 {
            self.alarmed_since = since;
        }
        self.seen.fill(0);
        self.since = None;
        match self.latch.window(beyond, index < settings.share_index / 2.0, hysteresis) {
            Some(true) => {
                let moved = |ix: &usize| (shares[*ix].0 - shares[*ix].1).abs();
                let worst = (0..shares.len()).rev().max_by(|a, b| moved(a).total_cmp(&moved(b)));
                self.worst = worst.unwrap_or(0);
                let (seen, usual) = shares[self.worst];
                Verdict::Raised(Shift { since: self.alarmed_since, usual, seen, score: z })
            }
            Some(false) => Verdict::Cleared,
            None => Verdict::Same,
        }
    }
}

/// Pearson's χ² of `(seen, planned)` shares of so many requests, as standard deviations.
fn chi_square_deviations(shares: &[(f64, f64)], total: f64) -> f64 {
    let (mut statistic, mut classes) = (0.0, 0.0);
    // Classes of fewer than five expected are taken together, or one stray request would decide.
    let mut rest = (0.0, 0.0);
    let mut add = |seen: f64, plan: f64| {
        statistic += total * (seen - plan).powi(2) / plan;
        classes += 1.0;
    };
    for (seen, plan) in shares {
        if plan * total >= 5.0 {
            add(*seen, *plan);
        } else {
            rest = (rest.0 + seen, rest.1 + plan);
        }
    }
    if rest.0 + rest.1 > 0.0 {
        add(rest.0, rest.1.max(0.5 / total));
    }
    let freedom: f64 = (classes - 1.0_f64).max(1.0);
    let spread = 2.0 / (9.0 * freedom);
    ((statistic / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}

/// The population stability index of `(seen, planned)` shares; a share of zero counts as 1 in 10,000.
fn stability_index(shares: &[(f64, f64)]) -> f64 {
    let floor = |share: f64| share.max(1e-4);
    shares.iter().map(|(seen, plan)| (floor(*seen) - floor(*plan)) * (floor(*seen) / floor(*plan)).ln()).sum()
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shift { since, usual, seen, score } = self.shift;
        let way = if seen > usual { "rose" } else { "fell" };
        let (usual_percent, seen_percent) = (usual * 100.0, seen * 100.0);
        match &self.signal {
            Signal::Rate(of) => {
                write!(
                    f,
                    "request rate of {} {way} from {usual:.1}/s to {seen:.1}/s ({score:+.1} deviations)",
                    Of(of)
                )?;
            }
            Signal::Errors(of) => {
                write!(f, "errors of {} {way} from {usual_percent:.2} % to {seen_percent:.2} %", Of(of))?;
            }
            Signal::Slow(of, bound) => write!(
                f,
                "requests to {} that take longer than {:.3} s {way} from {usual_percent:.1} % to {seen_percent:.1} %",
                Of(of),
                bound.as_secs_f64()
            )?,
            Signal::Split { rule, backend } => write!(
                f,
                "rule `{rule}` sends {seen_percent:.1} % to backend `{backend}`, planned {usual_percent:.1} %"
            )?,
        }
        write!(f, ", since {:.0} s before", self.at.since(since).as_secs_f64())
    }
}

impl fmt::Display for AnomalyEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised(anomaly) => write!(f, "unusual: {anomaly}"),
            Self::Cleared { signal: Signal::Rate(of), .. } => {
                write!(f, "as usual: request rate of {}", Of(of))
            }
            Self::Cleared { signal: Signal::Errors(of), .. } => write!(f, "as usual: errors of {}", Of(of)),
            Self::Cleared { signal: Signal::Slow(of, _), .. } => write!(f, "as usual: latency of {}", Of(of)),
            Self::Cleared { signal: Signal::Split { rule, backend }, .. } => {
                write!(f, "as usual: share of backend `{backend}` in rule `{rule}`")
            }
        }
    }
}

/// A backend and its model, where it has one.
struct Of<'a>(&'a BackendModel);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend `{}`", self.0.backend)?;
        if self.0.model.is_empty() { Ok(()) } else { write!(f, " (model `{}`)", self.0.model) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviations_of_chi_square_are_those_of_the_table() {
        // χ² = 16.27 with 3 degrees of freedom has probability 0.001, a normal deviation of 3.09.
        // Σ (o−e)²/e = N · 4 · d²/0.25 = 16 N d².
        let total = 4000.0;
        let shift = (16.27f64 / 16.0 / total).sqrt();
        let shares = [(0.25 + shift, 0.25), (0.25 - shift, 0.25), (0.25 + shift, 0.25), (0.25 - shift, 0.25)];
        let z = chi_square_deviations(&shares, total);
        // Wilson and Hilferty are off by 0.04 there.
        assert!((z - 3.09).abs() < 0.05, "{z}");
    }

    #[test]
    fn the_stability_index_is_symmetric_and_zero_for_equal_splits() {
        assert_eq!(stability_index(&[(0.5, 0.5), (0.5, 0.5)]), 0.0);
        let index = stability_index(&[(0.6, 0.4), (0.4, 0.6)]);
        // 0.2 · ln 1.5 twice.
        assert!((index - 0.4 * 1.5f64.ln()).abs() < 1e-12);
        assert!(stability_index(&[(1.0, 1.0), (0.0, 0.0)]).abs() < 1e-12);
    }
}
