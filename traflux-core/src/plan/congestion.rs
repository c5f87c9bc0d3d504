//! How much load does a backend bear, and what is turned away beyond it?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;
use super::range::{check, check_positive, in_millis, listed};
use crate::error::PlanError;

/// Priority bands that congestion control tells apart; band 0 is the most important, later ones share the last.
pub const MAX_BANDS: usize = 8;

/// Control of what is sent to a backend by what comes back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CongestionPlan {
    /// A limit on requests in flight that adapts. Without it an engine keeps its usual one, and a proxy has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyPlan>,
    /// Turning away what a backend would refuse. Without it an engine does so as usual, and a proxy does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle: Option<ThrottlePlan>,
    /// Staying away from a backend that refused for lack of capacity.
    pub cool_down: CoolDownPlan,
    /// What counts as full of what backends report of themselves.
    pub signal: SignalPlan,
    /// How far the headers of backends are believed.
    pub feedback: FeedbackPlan,
    /// Whether clients get the load reports (ORCA) that backends send with their answers. A gateway reads them anyway.
    pub pass_load_reports: bool,
}

impl CongestionPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a value out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        if let Some(concurrency) = &self.concurrency {
            concurrency.validate().map_err(|error| error.under("concurrency"))?;
        }
        if let Some(throttle) = &self.throttle {
            throttle.validate().map_err(|error| error.under("throttle"))?;
        }
        self.cool_down.validate().map_err(|error| error.under("cool_down"))?;
        self.signal.validate().map_err(|error| error.under("signal"))?;
        self.feedback.validate().map_err(|error| error.under("feedback"))
    }
}

/// A limit on requests in flight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ConcurrencyPlan {
    /// How the limit adapts; the gradient controller.
    pub algorithm: ConcurrencyAlgorithm,
    /// The limit to start with; 20.
    pub initial: u32,
    /// The smallest limit, at least 1; 2.
    pub min: u32,
    /// The largest limit; 1000.
    pub max: u32,
    /// Share of the limit that each priority band may fill, the last holding for all further bands; 1: who goes first is
    /// the queue's to say. At least one request always fits.
    pub band_shares: Vec<f64>,
    /// Least length of a window of samples; 250 ms.
    #[serde(rename = "window_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub window: Duration,
    /// Least number of samples in a window; 10. After 20 times its least length it ends with fewer.
    pub window_samples: u32,
}

impl Default for ConcurrencyPlan {
    fn default() -> Self {
        Self {
            algorithm: ConcurrencyAlgorithm::default(),
            initial: 20,
            min: 2,
            max: 1000,
            band_shares: vec![1.0],
            window: Duration::from_millis(250),
            window_samples: 10,
        }
    }
}

impl ConcurrencyPlan {
    /// A limit that does not adapt.
    #[must_use]
    pub fn fixed(limit: u32) -> Self {
        Self {
            algorithm: ConcurrencyAlgorithm::Fixed,
            initial: limit,
            min: 1,
            max: limit.max(1),
            ..Self::default()
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] unless `1 ≤ min ≤ initial ≤ max`, shares are in (0, 1] and at most [`MAX_BANDS`], and the
    /// algorithm's own parameters are in range.
    pub fn validate(&self) -> Result<(), PlanError> {
        let (min, max) = (self.min, self.max);
        check(min >= 1, "min", min, "at least 1")?;
        check(
            (min..=max).contains(&self.initial),
            "initial",
            self.initial,
            format_args!("min ({min}) to max ({max})"),
        )?;
        let shares = &self.band_shares;
        check(
            shares.len() <= MAX_BANDS && shares.iter().all(|share| *share > 0.0 && *share <= 1.0),
            "band_shares",
            listed(shares),
            "up to 8 shares above 0, at most 1",
        )?;
        self.algorithm.validate().map_err(|error| error.under("algorithm"))
    }
}

/// How a concurrency limit adapts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConcurrencyAlgorithm {
    /// Not at all.
    Fixed,
    /// By drops alone: additive increase, multiplicative decrease.
    Aimd(AimdPlan),
    /// By the queue that latency betrays.
    Vegas(VegasPlan),
    /// By the ratio of latency at reduced load to latency now.
    Gradient(GradientPlan),
    /// By the ratio of long-term to short-term latency.
    Gradient2(Gradient2Plan),
}

impl Default for ConcurrencyAlgorithm {
    fn default() -> Self {
        Self::Gradient(GradientPlan::default())
    }
}

impl ConcurrencyAlgorithm {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a parameter out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        let probe = |share: f64, interval: Duration| {
            check(share > 0.0 && share < 1.0, "probe_share", share, "a share above 0, below 1")?;
            check_positive("probe_interval_ms", interval)
        };
        let smoothing = |smoothing: f64| {
            check(smoothing > 0.0 && smoothing <= 1.0, "smoothing", smoothing, "a share above 0, at most 1")
        };
        let tolerance =
            |tolerance: f64| check((1.0..=10.0).contains(&tolerance), "tolerance", tolerance, "1 to 10");
        match self {
            Self::Fixed => Ok(()),
            Self::Aimd(aimd) => {
                check((0.0..=1e6).contains(&aimd.increase), "increase", aimd.increase, "0 to 1000000")?;
                let decrease = aimd.decrease;
                check((0.5..1.0).contains(&decrease), "decrease", decrease, "at least 0.5, below 1")
            }
            Self::Vegas(vegas) => probe(vegas.probe_share, vegas.probe_interval),
            Self::Gradient(gradient) => {
                tolerance(gradient.tolerance)?;
                smoothing(gradient.smoothing)?;
                probe(gradient.probe_share, gradient.probe_interval)
            }
            Self::Gradient2(gradient) => {
                tolerance(gradient.tolerance)?;
                smoothing(gradient.smoothing)?;
                check((0.0..=1e6).contains(&gradient.queue), "queue", gradient.queue, "0 to 1000000")?;
                check(gradient.long_windows > 0, "long_windows", gradient.long_windows, "at least 1")
            }
        }
    }
}

/// AIMD (D.-M. Chiu, R. Jain, "Analysis of the increase and decrease algorithms for congestion avoidance in
/// computer networks", 1989): `limit + increase` after a window without drops, `limit · decrease` after one
/// with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AimdPlan {
    /// Requests added per window; 1.
    pub increase: f64,
    /// Factor after drops, in [0.5, 1); 0.9.
    pub decrease: f64,
    /// A latency above this counts as a drop; none.
    #[serde(rename = "latency_limit_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub latency_limit: Option<Duration>,
}

impl Default for AimdPlan {
    fn default() -> Self {
        Self { increase: 1.0, decrease: 0.9, latency_limit: None }
    }
}

/// TCP Vegas (L. Brakmo, L. Peterson, 1995) in the form for requests of Netflix' concurrency-limits: the queue
/// is estimated as `limit · (1 − baseline / latency)` and held between `α = 3·log₁₀ limit` and
/// `β = 6·log₁₀ limit`.
///
/// Departure: both latencies are geometric means, and the baseline is measured at reduced load, not as a
/// minimum, which would take the variation of work for a queue.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct VegasPlan {
    /// Share of the limit at which the baseline is measured, in (0, 1); 0.5.
    pub probe_share: f64,
    /// Samples per measurement; 100.
    pub probe_samples: u32,
    /// The longest time without a measurement; 120 s: while it measures, the limit is halved.
    #[serde(rename = "probe_interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub probe_interval: Duration,
}

impl Default for VegasPlan {
    fn default() -> Self {
        Self { probe_share: 0.5, probe_samples: 100, probe_interval: Duration::from_secs(120) }
    }
}

/// The gradient controller of Envoy's adaptive concurrency filter:
/// `gradient = clamp(tolerance · baseline / latency, ½, 2)`, `limit ← gradient · limit + √limit`, smoothed.
///
/// Departures: geometric means in place of percentiles, and a baseline measured at a share of the limit, or
/// whenever load falls low by itself, in place of one measured at three requests every minute. With `c` servers
/// and even work the limit settles where `limit ≈ tolerance · c + √limit`, and lower where work varies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct GradientPlan {
    /// Latency, as a multiple of the baseline, up to which the limit grows; 1.25.
    pub tolerance: f64,
    /// Weight of the new limit in each window, in (0, 1]; 0.4.
    pub smoothing: f64,
    /// Share of the limit at which the baseline is measured, in (0, 1); 0.5.
    pub probe_share: f64,
    /// Samples per measurement; 50.
    pub probe_samples: u32,
    /// The longest time without a measurement; 120 s: while it measures, the limit is halved.
    #[serde(rename = "probe_interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub probe_interval: Duration,
}

impl Default for GradientPlan {
    fn default() -> Self {
        Self {
            tolerance: 1.25,
            smoothing: 0.4,
            probe_share: 0.5,
            probe_samples: 50,
            probe_interval: Duration::from_secs(120),
        }
    }
}

/// Gradient2 of Netflix' concurrency-limits: `gradient = clamp(tolerance · long / short, ½, 1)`,
/// `limit ← gradient · limit + queue`, smoothed. It never lowers the limit to probe; in exchange its long-term
/// average rises with a standing queue, so under lasting overload it needs drops or a maximum to hold it (in
/// simulation without either, 26 times the server's capacity after four minutes).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Gradient2Plan {
    /// Latency, as a multiple of the long-term average, that is tolerated; 1.5.
    pub tolerance: f64,
    /// Requests added per window; 4.
    pub queue: f64,
    /// Weight of the new limit in each window, in (0, 1]; 0.2.
    pub smoothing: f64,
    /// Windows that the long-term average reaches back; 600.
    pub long_windows: u32,
}

impl Default for Gradient2Plan {
    fn default() -> Self {
        Self { tolerance: 1.5, queue: 4.0, smoothing: 0.2, long_windows: 600 }
    }
}

/// Client-side throttling (Google, *Site Reliability Engineering*, 2016, ch. 21).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ThrottlePlan {
    /// How far back counts reach; 2 minutes.
    #[serde(rename = "window_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub window: Duration,
    /// `K` by priority band, at least 1, the last holding for all further bands; 4, 2, 1.5, 1.1.
    pub tolerance: Vec<f64>,
    /// Requests in the window below which nothing is rejected; 20.
    pub min_requests: u64,
    /// The highest probability of rejection; 0.95.
    pub max_probability: f64,
}

impl Default for ThrottlePlan {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(120),
            tolerance: vec![4.0, 2.0, 1.5, 1.1],
            min_requests: 20,
            max_probability: 0.95,
        }
    }
}

impl ThrottlePlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a window of zero, a tolerance below 1 or too many of them, or a probability outside [0, 1].
    pub fn validate(&self) -> Result<(), PlanError> {
        check_positive("window_ms", self.window)?;
        let tolerance = &self.tolerance;
        check(
            tolerance.len() <= MAX_BANDS && tolerance.iter().all(|k| (1.0..=1e6).contains(k)),
            "tolerance",
            listed(tolerance),
            "up to 8 numbers of at least 1",
        )?;
        let probability = self.max_probability;
        check((0.0..=1.0).contains(&probability), "max_probability", probability, "a probability from 0 to 1")
    }
}

/// How long a backend that refused for lack of capacity is left alone, and how it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CoolDownPlan {
    /// Wait after the first refusal that states none, doubled by each further one; 1 s.
    #[serde(rename = "base_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub base: Duration,
    /// The longest wait that is guessed; 60 s.
    #[serde(rename = "max_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub max: Duration,
    /// Random stretch of each wait, as a share of it, 0 to 10; 0.1.
    pub spread: f64,
    /// Time in which the full share returns; 5 s.
    #[serde(rename = "ramp_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub ramp: Duration,
    /// Share right after the wait, in (0, 1]; 0.1.
    pub first_share: f64,
}

impl Default for CoolDownPlan {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            spread: 0.1,
            ramp: Duration::from_secs(5),
            first_share: 0.1,
        }
    }
}

impl CoolDownPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a share outside (0, 1], a negative spread, or a base of zero or above the maximum.
    pub fn validate(&self) -> Result<(), PlanError> {
        let (base, most) = (in_millis(self.base), in_millis(self.max));
        let expected = format_args!("more than 0, at most max_ms ({most})");
        check(!self.base.is_zero() && self.base <= self.max, "base_ms", base, expected)?;
        check((0.0..=10.0).contains(&self.spread), "spread", self.spread, "a share from 0 to 10")?;
        let share = self.first_share;
        check(share > 0.0 && share <= 1.0, "first_share", share, "a share above 0, at most 1")
    }
}

/// What counts as full of what a backend reports of itself, by `load` or with its answers, and for how long a report
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct SignalPlan {
    /// Requests waiting that mean full; 5.
    pub queue_full: f64,
    /// Use of the key-value cache that means full; 0.9.
    pub cache_full: f64,
    /// Utilization that means full; 0.95. That of the application counts, else that of the processors.
    pub utilization_full: f64,
    /// Age up to which a report counts in full; 2 s.
    #[serde(rename = "fresh_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub fresh: Duration,
    /// Age from which a report counts no more; 10 s.
    #[serde(rename = "expiry_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub expiry: Duration,
    /// Saturation at which a backend is called saturated; 1.
    pub enter: f64,
    /// Saturation below which it no longer is; 0.8.
    pub leave: f64,
}

impl Default for SignalPlan {
    fn default() -> Self {
        Self {
            queue_full: 5.0,
            cache_full: 0.9,
            utilization_full: 0.95,
            fresh: Duration::from_secs(2),
            expiry: Duration::from_secs(10),
            enter: 1.0,
            leave: 0.8,
        }
    }
}

impl SignalPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a threshold that is not positive, an expiry before `fresh`, or a `leave` of nothing or above `enter`.
    pub fn validate(&self) -> Result<(), PlanError> {
        for (key, value) in [
            ("queue_full", self.queue_full),
            ("cache_full", self.cache_full),
            ("utilization_full", self.utilization_full),
            ("enter", self.enter),
        ] {
            check(value.is_finite() && value > 0.0, key, value, "a number above 0")?;
        }
        let expected = format_args!("at least fresh_ms ({})", in_millis(self.fresh));
        check(self.expiry >= self.fresh, "expiry_ms", in_millis(self.expiry), expected)?;
        // At 0 an endpoint would be full for ever once it was: nothing is below nothing.
        let expected = format_args!("more than 0, at most enter ({})", self.enter);
        check(self.leave > 0.0 && self.leave <= self.enter, "leave", self.leave, expected)
    }
}

/// How far the headers of backends are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FeedbackPlan {
    /// The longest wait that is kept; 10 minutes. A day's quota that is used up is then asked about again every 10
    /// minutes.
    #[serde(rename = "max_wait_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub max_wait: Duration,
    /// The furthest reset of a quota that is believed; 31 days.
    #[serde(rename = "max_reset_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub max_reset: Duration,
}

impl Default for FeedbackPlan {
    fn default() -> Self {
        Self { max_wait: Duration::from_secs(600), max_reset: Duration::from_secs(31 * 86_400) }
    }
}

impl FeedbackPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a bound of zero.
    pub fn validate(&self) -> Result<(), PlanError> {
        check_positive("max_wait_ms", self.max_wait)?;
        check_positive("max_reset_ms", self.max_reset)
    }
}
