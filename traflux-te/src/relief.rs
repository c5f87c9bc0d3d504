//! By how much would the network be relieved if a pair could go where there is room?
//!
//! A smooth stand-in for the maximum link utilisation is the potential `Φ = Σ_l exp(β (u_l / U − 1))`. But
//! for a constant its slope is a price for each link, `y_l = exp(β (u_l / U − 1)) / c_l`, and the first-order
//! gain of moving pair `p` with demand `d_p` and fractions `f_pl` to the cheapest path is
//!
//! ```text
//! relief_p = d_p (Σ_l f_pl y_l − dist_p(y))
//! ```
//!
//! These are the lengths of Young (1995) and of Garg and Könemann (2007) with one step of their methods.

use traflux_core::{BaseRouting, GroupIx, Network, NodeIx, ShortestPaths};

use crate::distances::Distances;

/// A gain of less, relative to the cost of the base, is none: sums of prices in another order differ by 1e-15
/// or so.
const ROUNDING: f64 = 1e-9;

/// Another handle of a base, with the check that all who keep one promise.
///
/// # Panics
/// When the base is one of another network.
pub(crate) fn keep(network: &Network, base: &BaseRouting) -> BaseRouting {
    assert!(base.fits(network), "the base is one of another network");
    base.clone()
}

/// Prices of links and what pairs gain under them, in memory that is kept.
#[derive(Debug, Clone)]
pub(crate) struct Relief {
    pub(crate) network: Network,
    pub(crate) inverse_capacities: Vec<f64>,
    pub(crate) prices: Vec<f64>,
    pub(crate) search: ShortestPaths,
    distances: Distances,
}

impl Relief {
    pub(crate) fn new(network: &Network) -> Self {
        let inverse_capacities = network.links().iter().map(|l| 1.0 / l.capacity.get()).collect();
        Self {
            network: network.clone(),
            inverse_capacities,
            prices: Vec::new(),
            search: ShortestPaths::default(),
            distances: Distances::new(network),
        }
    }

    /// Prices at these utilisations, `worst` the greatest of them, positive.
    pub(crate) fn set_prices(&mut self, utilizations: &[f64], worst: f64, sharpness: f64) {
        self.prices.clear();
        let price = |(u, inverse): (&f64, &f64)| (sharpness * (u / worst - 1.0)).exp() * inverse;
        self.prices.extend(utilizations.iter().zip(&self.inverse_capacities).map(price));
    }

    /// Searches the cheapest paths to one target under the prices.
    pub(crate) fn search(&mut self, target: NodeIx) {
        let prices = &self.prices;
        self.search.towards(&self.network, target, |link| prices[link.ix()]);
    }

    /// What each pair gains, 0 for pairs that the base does not join.
    pub(crate) fn values(
        &mut self,
        base: &BaseRouting,
        demand: impl Fn(usize) -> f64,
        values: &mut Vec<f64>,
    ) {
        values.clear();
        values.resize(base.pair_count(), 0.0);
        self.distances.set(&self.prices);
        for (pair, value) in values.iter_mut().enumerate() {
            let (pair, demand) = (GroupIx::from(pair), demand(pair));
            if demand > 0.0 {
                let cost: f64 = base.of(pair).map(|(l, f)| f * self.prices[l.ix()]).sum();
                let (source, target) = self.network.pair(pair);
                let gain = cost - self.distances.between(source, target);
                // No path, or the base is the cheapest but for rounding.
                if gain > ROUNDING * cost {
                    *value = demand * gain;
                }
            }
        }
    }
}
