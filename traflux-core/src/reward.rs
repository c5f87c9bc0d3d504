//! How good was the step?

use serde::{Deserialize, Serialize};

use crate::stages::RewardFunction;
use crate::telemetry::Telemetry;
use crate::topology::Topology;

/// A total with its terms; the total is their sum.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reward {
    /// Sum of the terms.
    pub total: f64,
    /// Named terms, usually not positive.
    pub terms: Vec<(String, f64)>,
}

impl Reward {
    /// Sums named terms; a term that is not finite counts as zero.
    #[must_use]
    pub fn from_terms(terms: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        let terms: Vec<(String, f64)> = terms
            .into_iter()
            .map(|(name, value)| (name.to_owned(), if value.is_finite() { value } else { 0.0 }))
            .collect();
        Self { total: terms.iter().map(|(_, value)| value).sum(), terms }
    }

    /// The value of a term.
    #[must_use]
    pub fn term(&self, name: &str) -> Option<f64> {
        self.terms.iter().find(|(n, _)| n == name).map(|(_, value)| *value)
    }
}

/// Weights of the fleet's reward. Every term is a cost per request, so that the load does not count twice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RewardWeights {
    /// Per 100 ms of mean latency.
    pub latency: f64,
    /// Per whole request failed (an error ratio of 1).
    pub errors: f64,
    /// Per dollar per million requests.
    pub price: f64,
    /// Per whole fleet moved.
    pub churn: f64,
}

impl Default for RewardWeights {
    fn default() -> Self {
        Self { latency: 1.0, errors: 50.0, price: 0.05, churn: 0.5 }
    }
}

/// `−(latency/100 ms · a + errors · b + price · c + churn · d)`, each a mean over requests of the window.
///
/// Churn is measured: half the L1 distance between the traffic shares of the two windows, by flow. Requests
/// censored at a timeout count as errors; their latency is unknown and not counted.
#[derive(Debug, Clone)]
pub struct FleetReward {
    topology: Topology,
    weights: RewardWeights,
}

impl FleetReward {
    /// A reward for one topology.
    #[must_use]
    pub fn new(topology: Topology, weights: RewardWeights) -> Self {
        Self { topology, weights }
    }
}

impl RewardFunction for FleetReward {
    fn reward(&self, before: &Telemetry, after: &Telemetry) -> Reward {
        let routes = self.topology.routes();
        if after.routes.len() != routes.len() || before.routes.len() != routes.len() {
            return Reward::default();
        }
        let volume =
            |t: &Telemetry, ix: usize| t.routes[ix].measured.throughput.map_or(0.0, |r| r.value.get());
        let total: f64 = (0..routes.len()).map(|ix| volume(after, ix)).sum();
        if total <= 0.0 {
            return Reward::default();
        }
        let (mut latency, mut answered, mut errors, mut price) = (0.0, 0.0, 0.0, 0.0);
        for (ix, route) in routes.iter().enumerate() {
            let measured = &after.routes[ix].measured;
            let volume = volume(after, ix);
            if let Some(mean) = measured.latency_mean {
                let share = 1.0 - measured.censored_ratio.map_or(0.0, |r| r.value);
                latency += volume * share * mean.value.as_secs();
                answered += volume * share;
            }
            errors += volume * measured.error_ratio.map_or(0.0, |r| r.value);
            price += volume * after.routes[ix].price.unwrap_or(route.price).get();
        }
        let mut churn = 0.0;
        let mut counted = 0.0;
        for w in self.topology.flow_offsets().windows(2) {
            let sums = [before, after].map(|t| (w[0]..w[1]).map(|ix| volume(t, ix)).sum::<f64>());
            if sums.iter().all(|s| *s > 0.0) {
                churn += 0.5
                    * (w[0]..w[1])
                        .map(|ix| (volume(before, ix) / sums[0] - volume(after, ix) / sums[1]).abs())
                        .sum::<f64>();
                counted += 1.0;
            }
        }
        let mean_latency = if answered > 0.0 { latency / answered } else { 0.0 };
        let mean_churn = if counted > 0.0 { churn / counted } else { 0.0 };
        Reward::from_terms([
            ("latency", -self.weights.latency * mean_latency / 0.1),
            ("errors", -self.weights.errors * errors / total),
            ("price", -self.weights.price * price / total),
            ("churn", -self.weights.churn * mean_churn),
        ])
    }
}
