//! How fast does the estimator believe what it sees?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Parameters of a [`FleetEstimator`](super::FleetEstimator). Times are in seconds, ratios in [0, 1].
///
/// A value that makes no sense (NaN, negative, a ratio above 1) is refused in a configuration file; an estimator
/// made with one takes the nearest that does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct EstimatorConfig {
    /// Demand forecast.
    pub demand: DemandConfig,
    /// Capacity and latency curve.
    pub capacity: CapacityConfig,
    /// Health.
    pub health: HealthConfig,
    /// A reading older than this teaches nothing new.
    pub stale_s: f64,
    /// Time from a plan's decision until traffic follows it: push, connection reuse; the service raises it to the
    /// control interval.
    pub control_delay_s: f64,
}

impl Default for EstimatorConfig {
    fn default() -> Self {
        Self {
            demand: DemandConfig::default(),
            capacity: CapacityConfig::default(),
            health: HealthConfig::default(),
            stale_s: 45.0,
            control_delay_s: 3.0,
        }
    }
}

/// Parameters of the demand forecast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DemandConfig {
    /// Time constant of the level.
    pub level_s: f64,
    /// Time constant of the trend.
    pub trend_s: f64,
    /// The forecast stays within this factor of the last reading, up and down; at least 1.
    pub growth_limit: f64,
    /// How much of a falling trend is believed: capacity freed late costs little, taken back late much.
    pub fall_share: f64,
    /// Width of the band in standard deviations of the one-step error.
    pub band_sigmas: f64,
    /// Time constant with which the band closes after a surprise. It opens at once.
    pub band_close_s: f64,
    /// Relative widening of the band per second without a reading; the sum is bounded by 0.5.
    pub widen_per_s: f64,
}

impl Default for DemandConfig {
    fn default() -> Self {
        Self {
            level_s: 8.0,
            trend_s: 40.0,
            growth_limit: 1.6,
            fall_share: 0.5,
            band_sigmas: 2.0,
            band_close_s: 90.0,
            widen_per_s: 0.002,
        }
    }
}

/// Parameters of the capacity and curve estimates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CapacityConfig {
    /// Parallel servers where neither the topology nor `capacity · service time` tells.
    pub default_servers: f64,
    /// Slowdown (1 = as its load explains) from which a loss is suspected. Few samples raise it.
    pub loss_threshold: f64,
    /// Share of one window by which new evidence of a loss is followed: 1 = within one window.
    pub loss_speed: f64,
    /// Time constant of recovery under evidence that the capacity is back.
    pub recovery_s: f64,
    /// Time constant of recovery without evidence: after a saturation, while there is too little load to tell.
    pub probe_s: f64,
    /// How often that time doubles when such a recovery ends in another saturation; at most 10.
    pub probe_doublings: u32,
    /// The estimate never falls below this share of the nominal capacity, so that a recovery can be seen.
    pub floor_ratio: f64,
    /// The estimate never rises above this multiple of the nominal capacity.
    pub ceiling_ratio: f64,
    /// Time constant of the service time at no load.
    pub service_time_s: f64,
    /// Growth of the demand within one window that counts as a surge.
    pub surge_ratio: f64,
    /// During a surge the true load is assumed to be up to this multiple of the (lagging) reading.
    pub surge_lag: f64,
    /// Least margin of the lower bound.
    pub margin: f64,
    /// Width of the lower bound in standard deviations of the estimate's error.
    pub margin_sigmas: f64,
    /// Relative widening of the margin per second of age.
    pub margin_per_s: f64,
    /// Greatest margin.
    pub margin_max: f64,
}

impl Default for CapacityConfig {
    fn default() -> Self {
        Self {
            default_servers: 16.0,
            loss_threshold: 1.25,
            loss_speed: 0.8,
            recovery_s: 30.0,
            probe_s: 150.0,
            probe_doublings: 1,
            floor_ratio: 0.02,
            ceiling_ratio: 1.5,
            service_time_s: 600.0,
            surge_ratio: 1.1,
            surge_lag: 2.5,
            margin: 0.03,
            margin_sigmas: 1.0,
            margin_per_s: 0.001,
            margin_max: 0.4,
        }
    }
}

/// Parameters of health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// Error ratio, timeouts included, from which an endpoint is unhealthy.
    pub unhealthy_errors: f64,
    /// Error ratio, timeouts included, from which it is degraded.
    pub degraded_errors: f64,
    /// Ratio of timed-out requests from which it is degraded.
    pub degraded_censored: f64,
    /// Slowdown from which an endpoint with a capacity loss is degraded.
    pub degraded_slowdown: f64,
    /// 95th percentile, round trip included, above which an endpoint with a capacity loss is degraded.
    pub p95_limit_ms: Option<f64>,
    /// Upper limits on the user's own signals, by name.
    pub signal_limits: BTreeMap<String, f64>,
    /// Good windows in a row before a bad state is left.
    pub recover_windows: f64,
    /// Least time in a bad state.
    pub min_hold_s: f64,
    /// A bad state is forgotten after this time without any request, so that the endpoint can be tried again.
    pub forget_s: f64,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            unhealthy_errors: 0.5,
            degraded_errors: 0.05,
            degraded_censored: 0.05,
            degraded_slowdown: 3.0,
            p95_limit_ms: None,
            signal_limits: BTreeMap::new(),
            recover_windows: 2.0,
            min_hold_s: 20.0,
            forget_s: 180.0,
        }
    }
}

impl EstimatorConfig {
    /// The same configuration with every value inside its valid range.
    #[must_use]
    pub fn sanitized(mut self) -> Self {
        let default = Self::default();
        let fix = |value: &mut f64, low: f64, high: f64, fallback: f64| {
            *value = if value.is_nan() { fallback } else { value.clamp(low, high) };
        };
        const DAY: f64 = 86_400.0;
        fix(&mut self.stale_s, 0.1, DAY, default.stale_s);
        fix(&mut self.control_delay_s, 0.0, 600.0, default.control_delay_s);
        let (d, o) = (&mut self.demand, &default.demand);
        fix(&mut d.level_s, 0.0, DAY, o.level_s);
        fix(&mut d.trend_s, 0.1, DAY, o.trend_s);
        fix(&mut d.growth_limit, 1.0, 10.0, o.growth_limit);
        fix(&mut d.fall_share, 0.0, 1.0, o.fall_share);
        fix(&mut d.band_sigmas, 0.0, 10.0, o.band_sigmas);
        fix(&mut d.band_close_s, 0.1, DAY, o.band_close_s);
        fix(&mut d.widen_per_s, 0.0, 1.0, o.widen_per_s);
        let (c, o) = (&mut self.capacity, &default.capacity);
        fix(&mut c.default_servers, 1.0, 1e6, o.default_servers);
        fix(&mut c.loss_threshold, 1.01, 100.0, o.loss_threshold);
        fix(&mut c.loss_speed, 0.05, 1.0, o.loss_speed);
        fix(&mut c.recovery_s, 1.0, DAY, o.recovery_s);
        fix(&mut c.probe_s, 1.0, DAY, o.probe_s);
        c.probe_doublings = c.probe_doublings.min(10);
        fix(&mut c.floor_ratio, 1e-4, 1.0, o.floor_ratio);
        fix(&mut c.ceiling_ratio, 1.0, 10.0, o.ceiling_ratio);
        fix(&mut c.service_time_s, 1.0, 30.0 * DAY, o.service_time_s);
        fix(&mut c.surge_ratio, 1.01, 10.0, o.surge_ratio);
        fix(&mut c.surge_lag, 1.0, 10.0, o.surge_lag);
        fix(&mut c.margin, 0.0, 0.9, o.margin);
        fix(&mut c.margin_sigmas, 0.0, 10.0, o.margin_sigmas);
        fix(&mut c.margin_per_s, 0.0, 1.0, o.margin_per_s);
        fix(&mut c.margin_max, c.margin, 0.95, o.margin_max.max(c.margin));
        let (h, o) = (&mut self.health, &default.health);
        fix(&mut h.unhealthy_errors, 0.01, 1.0, o.unhealthy_errors);
        fix(&mut h.degraded_errors, 0.001, 1.0, o.degraded_errors);
        fix(&mut h.degraded_censored, 0.001, 1.0, o.degraded_censored);
        fix(&mut h.degraded_slowdown, 1.0, 1e3, o.degraded_slowdown);
        fix(&mut h.recover_windows, 0.0, 100.0, o.recover_windows);
        fix(&mut h.min_hold_s, 0.0, DAY, o.min_hold_s);
        fix(&mut h.forget_s, 1.0, DAY, o.forget_s);
        self
    }
}
