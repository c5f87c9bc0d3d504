//! How much traffic will a flow send when the next plan is in force?
//!
//! Holt's linear method with irregular steps: with a reading `y` at a step of `Δ` seconds,
//!
//! ```text
//! ŷ = l + bΔ                      one-step forecast
//! l ← ŷ + α(y − ŷ)                α = 1 − e^(−Δ/level)
//! b ← b + β((l − l₀)/Δ − b)       β = 1 − e^(−Δ/trend)
//! ```
//!
//! A windowed rate is the average over the window, so it stands for the middle of it: the forecast
//! reaches `window/2 + age + control delay` ahead and stays within a factor of the last reading.
//! (C. C. Holt, "Forecasting seasonals and trends by exponentially weighted moving averages", 1957.)

use std::time::Duration;

use super::config::DemandConfig;
use super::smooth::{Clock, weight};
use crate::estimate::FlowEstimate;
use crate::units::{Rate, Timestamp};

/// Demand of one flow.
#[derive(Debug, Clone, Default)]
pub(super) struct DemandTracker {
    clock: Clock,
    last: Option<f64>,
    level: f64,
    trend: f64,
    variance: f64,
    surprise: f64,
    window: f64,
}

impl DemandTracker {
    /// Takes a reading of the whole flow; `age` is that of its oldest part.
    pub(super) fn observe(
        &mut self,
        at: Timestamp,
        window: Duration,
        offered: f64,
        age: Duration,
        config: &DemandConfig,
    ) {
        self.window = window.as_secs_f64();
        let Some(step) = self.clock.advance(at, age) else { return };
        if self.last.is_none() {
            self.level = offered;
        } else if step > 0.0 {
            // After a gap longer than a few windows the old trend says nothing.
            if step > 3.0 * self.window.max(20.0) {
                self.trend = 0.0;
            }
            let forecast = (self.level + self.trend * step).max(0.0);
            let error = offered - forecast;
            let level = forecast + weight(step, config.level_s) * error;
            self.trend += weight(step, config.trend_s) * ((level - self.level) / step - self.trend);
            self.level = level.max(0.0);
            let sigma = self.variance.sqrt();
            self.surprise *= 1.0 - weight(step, config.band_close_s);
            if error > 3.0 * sigma.max(0.01 * forecast) {
                self.surprise = self.surprise.max(error);
            } else {
                self.variance += weight(step, config.band_close_s) * (error * error - self.variance);
            }
        }
        self.last = Some(offered);
    }

    /// The forecast and its band as of `at`.
    pub(super) fn estimate(&self, at: Timestamp, control_delay: f64, config: &DemandConfig) -> FlowEstimate {
        let Some(last) = self.last else {
            return FlowEstimate { demand: Rate::ZERO, upper: Rate::ZERO, age: None };
        };
        let age = self.clock.age(at).unwrap_or_default();
        let age_s = age.as_secs_f64();
        // A trend is not carried on for longer than two windows without news.
        let horizon = self.window / 2.0 + age_s.min(2.0 * self.window.max(10.0)) + control_delay;
        let trend = if self.trend < 0.0 { config.fall_share * self.trend } else { self.trend };
        let forecast = (self.level + trend * horizon)
            .clamp(last / config.growth_limit, last * config.growth_limit)
            .max(0.0);
        let band = config.band_sigmas * self.variance.sqrt() + self.surprise;
        let widening = 1.0 + (config.widen_per_s * age_s).min(0.5);
        let upper = (forecast.max(last) * widening + band).min(last.max(forecast) * 3.0).max(forecast);
        FlowEstimate { demand: Rate::saturating(forecast), upper: Rate::saturating(upper), age: Some(age) }
    }
}
