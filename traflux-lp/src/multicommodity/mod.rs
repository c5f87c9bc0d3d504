//! How evenly can the demands between many pairs of nodes be spread over the links of a network?
//!
//! # The problem
//!
//! Commodities `k` with demand `d_k` from `s_k` to `t_k` share directed links `l` of capacity `c_l` that carry a
//! background `b_l` already. Over the paths `P_k` of each commodity (all of them, never listed) choose flows
//! `x_p ≥ 0` that minimise the maximum link utilisation:
//!
//! ```text
//! min θ   s.t.   Σ_{p ∈ P_k} x_p = d_k            for every commodity k
//!                b_l + Σ_{p ∋ l} x_p ≤ θ c_l      for every link l
//! ```
//!
//! For any lengths `y ≥ 0` with `Σ c_l y_l = 1`, and `dist_k(y)` the length of a shortest path of commodity `k`,
//! weak duality gives the bound that every solution here carries:
//!
//! ```text
//! θ ≥ Σ_k d_k dist_k(y) + Σ_l b_l y_l
//! ```

pub mod check;
mod columns;
mod delay;
mod error;
mod generation;
mod inverse;
mod master;
mod min_max;
pub mod select;
mod shortest;
mod throughput;

pub use delay::{DelayCurve, DelaySolution, least_delay};
pub use error::FlowError;
pub use min_max::{MinMaxSolver, Preference};
pub use throughput::{ConcurrentFlow, TotalFlow, max_concurrent_flow, max_total_flow};

use traflux_core::{
    BaseRouting, GroupIx, Network, NetworkError, NodeIx, PathShare, Rerouting, Routing, TrafficMatrix,
};

/// One demand that may take any paths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Commodity {
    /// Where it starts.
    pub source: NodeIx,
    /// Where it ends.
    pub target: NodeIx,
    /// bit/s, positive.
    pub demand: f64,
}

/// Commodities on a network whose links carry some load already.
#[derive(Debug, Clone)]
pub struct FlowProblem<'a> {
    /// The links.
    pub network: &'a Network,
    /// What is free to move.
    pub commodities: Vec<Commodity>,
    /// Load of each link in bit/s that stays where it is.
    pub background: Vec<f64>,
}

impl<'a> FlowProblem<'a> {
    /// Every demand is free: the optimum over all paths.
    ///
    /// # Errors
    /// [`NetworkError::Length`] when the matrix is for another number of nodes.
    pub fn all(network: &'a Network, demands: &TrafficMatrix) -> Result<Self, NetworkError> {
        fits(network, demands)?;
        let commodities = (0..network.pair_count())
            .filter_map(|pair| commodity(network, demands, GroupIx::from(pair)))
            .collect();
        Ok(Self { network, commodities, background: vec![0.0; network.links().len()] })
    }

    /// Only the pairs `critical` are free; all others follow the base (Zhang et al. 2020, eqs. 4a–4e). A pair
    /// without demand, and one named again, is left out.
    ///
    /// # Errors
    /// [`NetworkError::Length`] when the matrix is for another number of nodes.
    pub fn critical(
        network: &'a Network,
        base: &BaseRouting,
        demands: &TrafficMatrix,
        critical: &[GroupIx],
    ) -> Result<Self, NetworkError> {
        fits(network, demands)?;
        let mut background = base.loads(network, demands);
        let mut pairs = critical.to_vec();
        pairs.sort_unstable();
        pairs.dedup();
        let mut commodities = Vec::with_capacity(pairs.len());
        for pair in pairs {
            if let Some(commodity) = commodity(network, demands, pair) {
                for (link, fraction) in base.of(pair) {
                    background[link.ix()] -= commodity.demand * fraction;
                }
                commodities.push(commodity);
            }
        }
        // What was taken off may leave a rounding error below zero.
        for load in &mut background {
            *load = load.max(0.0);
        }
        Ok(Self { network, commodities, background })
    }
}

fn fits(network: &Network, demands: &TrafficMatrix) -> Result<(), NetworkError> {
    if demands.nodes() == network.nodes().len() {
        return Ok(());
    }
    Err(NetworkError::Length {
        what: "traffic matrix",
        got: demands.nodes(),
        expected: network.nodes().len(),
    })
}

fn commodity(network: &Network, demands: &TrafficMatrix, pair: GroupIx) -> Option<Commodity> {
    let (source, target) = network.pair(pair);
    let demand = demands.demand(source, target);
    (demand > 0.0).then_some(Commodity { source, target, demand })
}

/// Why a solver stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowStatus {
    /// The gap is within the tolerance asked for.
    Optimal,
    /// The deadline passed; the solution is feasible and its gap is what it says.
    Deadline,
}

/// Flows with a proof of how good they are.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowSolution {
    /// Maximum link utilisation of these flows.
    pub utilization: f64,
    /// No flows can have a lower one.
    pub lower_bound: f64,
    /// Why the solver stopped.
    pub status: FlowStatus,
    /// Load of each link in bit/s, background included.
    pub loads: Vec<f64>,
    /// Paths of each commodity, in the order of the problem; their shares and `base_share` sum to 1.
    pub paths: Vec<Vec<PathShare>>,
    /// Fraction of each commodity that stays on its base routing, in the order of the problem: 0 unless the
    /// solver was given a base, see [`Preference::LeastRerouted`].
    pub base_share: Vec<f64>,
    /// Lengths `y` that prove the bound, by link, `Σ c_l y_l = 1`: what the utilisation falls by for each
    /// bit/s taken off a link.
    pub link_prices: Vec<f64>,
    /// Pivots or iterations.
    pub iterations: usize,
}

impl FlowSolution {
    /// `(utilization − lower_bound) / utilization`, 0 for no load.
    #[must_use]
    pub fn gap(&self) -> f64 {
        if self.utilization > 0.0 {
            (self.utilization - self.lower_bound).max(0.0) / self.utilization
        } else {
            0.0
        }
    }

    /// What has to be put in force: the commodities of `problem` of which any part leaves the base.
    ///
    /// # Errors
    /// [`NetworkError`] when the solution is not one of `problem`, or two commodities have the same ends.
    pub fn routing(&self, problem: &FlowProblem<'_>) -> Result<Routing, NetworkError> {
        let shares = self.paths.iter().zip(&self.base_share);
        let reroutings = problem.commodities.iter().zip(shares).filter(|(_, (paths, _))| !paths.is_empty());
        let reroutings = reroutings.map(|(commodity, (paths, base_share))| Rerouting {
            pair: problem.network.pair_ix(commodity.source, commodity.target),
            base_share: *base_share,
            paths: paths.clone(),
        });
        Routing::new(problem.network, reroutings.collect())
    }
}
