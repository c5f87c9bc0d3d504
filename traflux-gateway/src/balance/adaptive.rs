//! What weights follow from latency, errors and price?
//!
//! Off the hot path, every few seconds. A controller's weights are used as they are while they are fresh; without
//! them, the share of endpoint `i` with configured weight `b`, latency `ℓ`, error ratio `e` and price `p` moves
//! towards
//!
//! `s*_i ∝ b_i · (ℓ_min / ℓ_i)^α · (1 − e_i)^β · (p_min / p_i)^γ`
//!
//! by at most a factor `1 + step` up or down, and stays at least `least_share` of an even share, so that every
//! endpoint goes on to be measured. It begins at `b_i · (p_min / p_i)^γ`: prices stand in the plan and need no steps.
//! Equal readings give equal weights; an endpoint without a price counts as the cheapest.
//!
//! By default `α = β = 0`: whoever is drawn is compared by latency, load and errors anyway, and what counts twice sends
//! so much to the fast that they queue. Where not all are compared
//! ([`BalanceSettings::compare_all_up_to`](super::BalanceSettings)), `α = ½` has the fast drawn more often, for shorter
//! answers on average and later first tokens in the worst cases.
//!
//! Prices have no other way to count, so `γ = ½`. The choice divides the latency that it expects under load by the
//! weight ([`choice`](super::choice)), so what is least is
//!
//! `(ℓ_i · (q_i + 1) + cost of errors) · p_i^γ / b_i`
//!
//! A dollar and a second have no common measure that holds for all users, so the common unit is a *ratio*: with `γ = ½`
//! a price four times as high is worth half of the latency. Of two idle endpoints the dearer is taken where it is more
//! than twice as fast. Of busy ones whose latency is equal and does not depend on their load, `ℓ_i = ℓ / √(q + 1)`, so
//! requests in flight, and with them rates, come to `(1 / p)^2γ`: with `γ = ½` to the inverse of prices, with `γ = 1`
//! to their inverse squares.
//!
//! What is cheap and fails is no bargain: `p = p_plan + (p_max − p_plan) · min(1, e / error_limit)`, so that an endpoint
//! of which `error_limit` fail counts as dear as the dearest.

use traflux_core::Timestamp;
use traflux_core::plan::balance::{AdaptivePlan, Estimate};

use super::endpoint::Endpoint;
use super::estimator::Tick;
use crate::error::GatewayError;
use crate::units::PicoDollars;

/// What is known of one endpoint at an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Its configured weight; 0 leaves it out.
    pub weight: u32,
    /// Its unit latency in seconds; `None` where nothing is known, which counts as the mean of the others.
    pub latency: Option<f64>,
    /// The share of its answers that failed, in [0, 1].
    pub error_ratio: f64,
    /// What a typical request costs there.
    pub price: PicoDollars,
}

impl Reading {
    /// The reading of an endpoint now, without a price.
    #[must_use]
    pub fn of(endpoint: &Endpoint, weight: u32, now: Timestamp) -> Self {
        let tick = Tick::of(now);
        Self {
            weight,
            latency: endpoint.unit_latency(tick, Estimate::Mean, 0, 0).map(f64::from),
            error_ratio: f64::from(endpoint.error_ratio(tick)),
            price: PicoDollars(0),
        }
    }
}

/// Weights that a controller sent.
#[derive(Debug, Clone, Copy)]
pub struct SetWeights<'a> {
    /// By position.
    pub weights: &'a [u32],
    /// When they were computed.
    pub at: Timestamp,
}

/// The weights of one pool over time.
#[derive(Debug, Clone)]
pub struct AdaptiveWeights {
    settings: AdaptivePlan,
    shares: Vec<f64>,
    weights: Vec<u32>,
    led: bool,
}

impl AdaptiveWeights {
    /// What the largest weight is near to: fine enough for steps, small enough for tables.
    pub const SCALE: f64 = 10_000.0;

    /// Nothing known yet.
    ///
    /// # Errors
    /// As [`AdaptivePlan::validate`].
    pub fn new(settings: AdaptivePlan) -> Result<Self, GatewayError> {
        settings.validate()?;
        Ok(Self { settings, shares: Vec::new(), weights: Vec::new(), led: false })
    }

    /// The weights from now on, by position. Every reading of positive weight gets a positive one.
    pub fn update(&mut self, now: Timestamp, readings: &[Reading], set: Option<SetWeights<'_>>) -> &[u32] {
        if self.shares.len() != readings.len() {
            let prices = prices(readings);
            let begin = |r: &Reading| {
                f64::from(r.weight) * self.by_price(&Reading { error_ratio: 0.0, ..*r }, prices)
            };
            let sum: f64 = readings.iter().map(begin).sum();
            self.shares = readings.iter().map(|r| begin(r) / sum.max(f64::MIN_POSITIVE)).collect();
        }
        let fresh = set.filter(|set| {
            set.weights.len() == readings.len()
                && now.since(set.at) <= self.settings.fresh_for
                && set.weights.iter().any(|weight| *weight > 0)
        });
        self.led = fresh.is_some();
        if let Some(set) = fresh {
            // Own steps begin from there when the controller falls silent.
            let total: f64 = set.weights.iter().map(|w| f64::from(*w)).sum();
            self.shares = set.weights.iter().map(|w| f64::from(*w) / total).collect();
            self.weights = set.weights.to_vec();
            return &self.weights;
        }
        let target = self.target(readings);
        let open = readings.iter().filter(|r| r.weight > 0).count().max(1) as f64;
        let least = self.settings.least_share / open;
        let up = 1.0 + self.settings.step;
        for (share, (target, reading)) in self.shares.iter_mut().zip(target.iter().zip(readings)) {
            // From nothing (a new endpoint, or one without weight) a share begins at its least.
            let from = share.max(least);
            *share = if reading.weight == 0 { 0.0 } else { target.clamp(from / up, from * up).max(least) };
        }
        let total: f64 = self.shares.iter().sum();
        let greatest = self.shares.iter().copied().fold(0.0, f64::max);
        self.weights.clear();
        for (share, reading) in self.shares.iter_mut().zip(readings) {
            let weight = if greatest > 0.0 { *share / greatest * Self::SCALE } else { 0.0 };
            self.weights.push(if reading.weight == 0 { 0 } else { (weight.round() as u32).max(1) });
            *share /= total.max(f64::MIN_POSITIVE);
        }
        &self.weights
    }

    /// Whether the weights of the last update are those of a controller.
    #[must_use]
    pub const fn is_led(&self) -> bool {
        self.led
    }

    fn target(&self, readings: &[Reading]) -> Vec<f64> {
        let open = || readings.iter().filter(|r| r.weight > 0);
        let known: Vec<f64> =
            open().filter_map(|r| r.latency).filter(|l| l.is_finite() && *l > 0.0).collect();
        let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
        let latency = |r: &Reading| r.latency.filter(|l| l.is_finite() && *l > 0.0).unwrap_or(mean);
        let prices = prices(readings);
        let score = |r: &Reading| {
            f64::from(r.weight)
                * (mean / latency(r)).powf(self.settings.latency_exponent)
                * (1.0 - r.error_ratio.clamp(0.0, 1.0)).powf(self.settings.error_exponent)
                * self.by_price(r, prices)
        };
        let scores: Vec<f64> = readings.iter().map(score).collect();
        let total: f64 = scores.iter().sum();
        if total > 0.0 {
            return scores.iter().map(|score| score / total).collect();
        }
        let weights: f64 = open().map(|r| f64::from(r.weight)).sum();
        readings.iter().map(|r| f64::from(r.weight) / weights.max(1.0)).collect()
    }

    /// `(p_min / p)^γ`; 1 where nobody has a price.
    fn by_price(&self, reading: &Reading, prices: Option<(f64, f64)>) -> f64 {
        let Some((least, most)) = prices else { return 1.0 };
        let planned = if reading.price.0 > 0 { reading.price.0 as f64 } else { least };
        let failing = (reading.error_ratio.max(0.0) / self.settings.error_limit).min(1.0);
        (least / (planned + (most - planned) * failing)).powf(self.settings.price_exponent)
    }
}

/// The least and the greatest price of those that have one and take part.
fn prices(readings: &[Reading]) -> Option<(f64, f64)> {
    let priced = || readings.iter().filter(|r| r.weight > 0).map(|r| r.price.0).filter(|price| *price > 0);
    Some((priced().min()? as f64, priced().max()? as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(latency: f64) -> Reading {
        Reading { weight: 1, latency: Some(latency), error_ratio: 0.0, price: PicoDollars(0) }
    }

    fn learning() -> AdaptivePlan {
        AdaptivePlan { latency_exponent: 0.5, error_exponent: 2.0, ..AdaptivePlan::default() }
    }

    fn settle(readings: &[Reading], settings: AdaptivePlan) -> Vec<f64> {
        let mut adaptive = AdaptiveWeights::new(settings).unwrap();
        for _ in 0..100 {
            adaptive.update(Timestamp::ZERO, readings, None);
        }
        let total: f64 = adaptive.weights.iter().map(|w| f64::from(*w)).sum();
        adaptive.weights.iter().map(|w| f64::from(*w) / total).collect()
    }

    #[test]
    fn by_default_latency_counts_in_the_choice_and_not_in_the_weights_too() {
        let failing = Reading { error_ratio: 0.5, ..reading(0.4) };
        assert_eq!(settle(&[reading(0.1), failing], AdaptivePlan::default()), [0.5, 0.5]);
    }

    #[test]
    fn shares_settle_on_the_root_of_relative_speed() {
        let shares = settle(&[reading(0.1), reading(0.4)], learning());
        // √4 : 1
        assert!((shares[0] - 2.0 / 3.0).abs() < 1e-3, "{shares:?}");
    }

    #[test]
    fn errors_and_prices_repel() {
        let failing = Reading { error_ratio: 0.5, ..reading(0.1) };
        let shares = settle(&[reading(0.1), failing], learning());
        assert!((shares[1] - 0.2).abs() < 1e-3, "1 : (1/2)²: {shares:?}");
        let dear = Reading { price: PicoDollars(20), ..reading(0.1) };
        let cheap = Reading { price: PicoDollars(10), ..reading(0.1) };
        let settings = AdaptivePlan { price_exponent: 2.0, ..learning() };
        let shares = settle(&[dear, cheap], settings);
        assert!((shares[0] - 0.2).abs() < 1e-3, "{shares:?}");
    }

    #[test]
    fn prices_count_from_the_first_update_on_by_their_root() {
        let priced = |price| Reading { price: PicoDollars(price), ..reading(0.1) };
        let mut adaptive = AdaptiveWeights::new(AdaptivePlan::default()).unwrap();
        let weights = adaptive.update(Timestamp::ZERO, &[priced(40), priced(10), priced(0)], None).to_vec();
        // 40 : 10 is 2 : 1 in weights, and who has no price counts as the cheapest.
        assert_eq!(weights, [5_000, 10_000, 10_000]);
        let plan = AdaptivePlan { price_exponent: 0.0, ..AdaptivePlan::default() };
        let mut adaptive = AdaptiveWeights::new(plan).unwrap();
        assert_eq!(adaptive.update(Timestamp::ZERO, &[priced(40), priced(10)], None), [10_000, 10_000]);
    }

    #[test]
    fn what_is_cheap_and_fails_counts_as_dear() {
        let priced = |price, error_ratio| Reading { price: PicoDollars(price), error_ratio, ..reading(0.1) };
        let cheap = |errors| settle(&[priced(10, errors), priced(40, 0.0)], AdaptivePlan::default())[0];
        assert!((cheap(0.0) - 2.0 / 3.0).abs() < 1e-3);
        // Half way from 10 to 40.
        assert!((cheap(0.1) - 1.6_f64.sqrt() / (1.6_f64.sqrt() + 1.0)).abs() < 1e-3);
        assert!((cheap(0.2) - 0.5).abs() < 1e-3 && (cheap(0.9) - 0.5).abs() < 1e-3);
    }

    #[test]
    fn a_step_is_bounded_and_a_share_never_vanishes() {
        let mut adaptive = AdaptiveWeights::new(learning()).unwrap();
        let dead = Reading { error_ratio: 1.0, ..reading(10.0) };
        let weights = adaptive.update(Timestamp::ZERO, &[reading(0.1), dead], None).to_vec();
        let ratio = f64::from(weights[0]) / f64::from(weights[1]);
        assert!(ratio <= 1.25 * 1.25 + 1e-3, "{ratio}");
        let shares = settle(&[reading(0.1), dead], learning());
        assert!(shares[1] > 0.02 && shares[1] < 0.03, "{shares:?}");
    }

    #[test]
    fn fresh_weights_of_a_controller_win_and_stale_ones_do_not() {
        let mut adaptive = AdaptiveWeights::new(learning()).unwrap();
        let readings = [reading(0.1), reading(0.1)];
        let set = SetWeights { weights: &[9, 1], at: Timestamp::from_secs_f64(100.0) };
        assert_eq!(adaptive.update(Timestamp::from_secs_f64(120.0), &readings, Some(set)), [9, 1]);
        let later = adaptive.update(Timestamp::from_secs_f64(131.0), &readings, Some(set)).to_vec();
        // From 9 : 1 by one step towards 1 : 1.
        let ratio = f64::from(later[0]) / f64::from(later[1]);
        assert!((ratio - 9.0 / 1.25 / 1.25).abs() < 0.01, "{later:?}");
    }

    #[test]
    fn the_unknown_count_as_the_mean_and_nobody_as_nobody() {
        let unknown = Reading { latency: None, ..reading(1.0) };
        let shares = settle(&[reading(0.2), unknown, reading(0.2)], learning());
        assert!(shares.iter().all(|share| (share - 1.0 / 3.0).abs() < 1e-3), "{shares:?}");
        let mut adaptive = AdaptiveWeights::new(learning()).unwrap();
        assert!(adaptive.update(Timestamp::ZERO, &[], None).is_empty());
        let closed = Reading { weight: 0, ..reading(1.0) };
        assert_eq!(adaptive.update(Timestamp::ZERO, &[closed], None), [0]);
    }
}
