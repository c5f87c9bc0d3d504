//! May this endpoint carry traffic?
//!
//! | state | entered when |
//! |---|---|
//! | unhealthy | its probe fails, or at least half of its requests fail |
//! | degraded | 5 % of requests fail or time out beyond what overload explains, a signal exceeds its limit, or its service is 3 times slower than its load explains (or above the p95 limit) |
//! | healthy | none of these for some windows in a row and a minimum time |
//! | unknown | never measured; or bad once and without any request for minutes, so that it is tried again |
//!
//! Bad states are entered at once, on evidence: a failing ratio counts by the lower end of its confidence interval
//! (Wilson, one-sided 90 %) and from two failures on. A surge of load is never a reason. Good windows count
//! only with enough requests in them.

use super::config::HealthConfig;
use crate::estimate::Health;
use crate::units::Timestamp;

/// What the newest window says about health.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signs {
    /// Seconds of new data, `None` when nothing is new.
    pub(super) step: Option<f64>,
    /// Length of the window in seconds.
    pub(super) window: f64,
    /// What a prober says.
    pub(super) probed: Option<bool>,
    /// Requests in the window.
    pub(super) samples: f64,
    /// Share of failed requests.
    pub(super) errors: Option<f64>,
    /// Share of timed-out requests.
    pub(super) censored: Option<f64>,
    /// It lost capacity and breaches its objective.
    pub(super) slow: bool,
    /// A user's signal exceeds its limit.
    pub(super) signal: bool,
    /// Whether anything else in the fleet was measured: silence then means no traffic, not no metrics.
    pub(super) fleet_seen: bool,
}

/// Health of one resource or route.
#[derive(Debug, Clone)]
pub(super) struct HealthTracker {
    health: Health,
    since: Option<Timestamp>,
    last_request: Option<Timestamp>,
    good_for: f64,
    good_samples: f64,
    requests: f64,
    failures: f64,
    timeouts: f64,
}

impl Default for HealthTracker {
    fn default() -> Self {
        Self {
            health: Health::Unknown,
            since: None,
            last_request: None,
            good_for: 0.0,
            good_samples: 0.0,
            requests: 0.0,
            failures: 0.0,
            timeouts: 0.0,
        }
    }
}

/// Requests that a bad endpoint must serve well before it is trusted.
const GOOD_SAMPLES: f64 = 10.0;

impl HealthTracker {
    /// Takes the newest signs and gives the state.
    pub(super) fn update(&mut self, at: Timestamp, signs: &Signs, config: &HealthConfig) -> Health {
        let step = signs.step.map(|step| step.clamp(0.0, 2.0 * signs.window.max(1.0)));
        if let Some(step) = step {
            self.count(step, signs);
        }
        let new = step.is_some() && signs.samples > 0.0;
        if new {
            self.last_request = Some(at);
        }
        let verdict = self.verdict(signs, config, new);
        match verdict {
            Some(bad) => {
                let worse = rank(bad) > rank(self.health);
                let milder =
                    bad == Health::Degraded && self.health == Health::Unhealthy && self.held(at, config);
                if worse || milder {
                    self.since = Some(at);
                    self.health = bad;
                }
                self.good_for = 0.0;
                self.good_samples = 0.0;
            }
            None => self.improve(at, signs, step, config),
        }
        self.health
    }

    /// Counts requests with a memory of about three windows; consecutive windows overlap, so each adds only
    /// its new part.
    fn count(&mut self, step: f64, signs: &Signs) {
        let window = signs.window.max(0.1);
        let part = (step / window).min(1.0);
        let keep = (-step / (3.0 * window)).exp();
        let requests = (signs.samples * part).min(1e12);
        self.requests = self.requests * keep + requests;
        self.failures = self.failures * keep + requests * signs.errors.unwrap_or(0.0);
        self.timeouts = self.timeouts * keep + requests * signs.censored.unwrap_or(0.0);
    }

    /// The bad state that the evidence asks for, if any.
    fn verdict(&self, signs: &Signs, config: &HealthConfig, new: bool) -> Option<Health> {
        if signs.probed == Some(false) {
            return Some(Health::Unhealthy);
        }
        let exceeds = |ratio: Option<f64>, total: f64, limit: f64| {
            let window = new && ratio.is_some_and(|r| lower(r * signs.samples, signs.samples) >= limit);
            // The longer memory serves endpoints whose windows hold few requests.
            window || (new && signs.samples < 30.0 && lower(total, self.requests) >= limit)
        };
        if exceeds(signs.errors, self.failures, config.unhealthy_errors) {
            return Some(Health::Unhealthy);
        }
        let degraded = exceeds(signs.errors, self.failures, config.degraded_errors)
            || exceeds(signs.censored, self.timeouts, config.degraded_censored)
            || (new && signs.slow)
            || signs.signal;
        degraded.then_some(Health::Degraded)
    }

    /// Whether the state was held for its minimum time. A clock that went backwards must not lock it in.
    fn held(&self, at: Timestamp, config: &HealthConfig) -> bool {
        self.since.is_none_or(|since| at < since || at.since(since).as_secs_f64() >= config.min_hold_s)
    }

    fn improve(&mut self, at: Timestamp, signs: &Signs, step: Option<f64>, config: &HealthConfig) {
        let bad = matches!(self.health, Health::Degraded | Health::Unhealthy);
        if !bad {
            if (step.is_some() && signs.samples >= 1.0) || signs.probed == Some(true) {
                self.health = Health::Healthy;
            }
            return;
        }
        if let Some(step) = step
            && signs.samples >= 1.0
        {
            self.good_for += step;
            self.good_samples += signs.samples * (step / signs.window.max(0.1)).min(1.0);
        }
        if !self.held(at, config) {
            return;
        }
        if self.good_for >= config.recover_windows * signs.window && self.good_samples >= GOOD_SAMPLES {
            self.health = Health::Healthy;
            self.since = Some(at);
            return;
        }
        let silent_since = self.last_request.max(self.since);
        let silent = silent_since.is_some_and(|t| at.since(t).as_secs_f64() >= config.forget_s);
        if silent && signs.fleet_seen {
            self.health = Health::Unknown;
            self.since = Some(at);
        }
    }
}

fn rank(health: Health) -> u8 {
    match health {
        Health::Healthy | Health::Unknown => 0,
        Health::Degraded => 1,
        Health::Unhealthy => 2,
    }
}

/// Lower end of the Wilson interval (z = 1.28) of `failures` among `requests`; 0 below two failures.
fn lower(failures: f64, requests: f64) -> f64 {
    const Z: f64 = 1.28;
    if failures < 2.0 || requests <= 0.0 {
        return 0.0;
    }
    let ratio = (failures / requests).min(1.0);
    let z2 = Z * Z / requests;
    let root = Z * (ratio * (1.0 - ratio) / requests + z2 / (4.0 * requests)).max(0.0).sqrt();
    ((ratio + z2 / 2.0 - root) / (1.0 + z2)).max(0.0)
}
