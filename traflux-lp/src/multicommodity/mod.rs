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
//!
//! # Who solves what
//!
//! * [`MinMaxSolver`]: this problem, exactly, over all paths or listed ones, alone or with a second objective
//!   ([`Preference`]) that decides among the optimal flows.
//! * [`LargeSolver`]: the same for hundreds of nodes, to a tolerance, with a certified gap.
//! * [`max_concurrent_flow`] and [`max_total_flow`]: how much fits; [`TotalFlowSolver`] for a sequence.
//! * [`least_delay`]: a convex cost of every link instead of the maximum.
//! * [`choose_paths`]: which few paths of each pair to set up, from matrices of the past.
//! * [`check`]: whether flows are what they claim.
//!
//! ```
//! use traflux_core::{BitRate, Latency, Link, Network, Node, NodeIx, TrafficMatrix};
//! use traflux_lp::multicommodity::{FlowProblem, MinMaxSolver};
//!
//! let nodes = ["a", "b", "c"].map(|name| Node { name: name.into(), position: None });
//! let link = |tail, head| Link {
//!     tail: NodeIx(tail),
//!     head: NodeIx(head),
//!     capacity: BitRate::gigabits_per_second(10.0),
//!     weight: 1.0,
//!     delay: Latency::ZERO,
//! };
//! let network = Network::new(nodes.to_vec(), vec![link(0, 1), link(0, 2), link(2, 1)])?;
//! let mut demands = TrafficMatrix::zero(3);
//! demands.set(NodeIx(0), NodeIx(1), BitRate::gigabits_per_second(8.0));
//! let problem = FlowProblem::all(&network, &demands)?;
//! let solution = MinMaxSolver::new(&network).solve(&problem, None)?;
//! // Half of it goes around.
//! assert!((solution.utilization - 0.4).abs() < 1e-9);
//! assert!(solution.gap() < 1e-9);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod check;
mod columns;
mod delay;
mod error;
mod generation;
mod graph;
mod inverse;
mod large;
mod master;
mod min_max;
mod path_sets;
pub mod select;
mod throughput;

pub use delay::{DelayCurve, DelaySolution, least_delay};
pub use error::FlowError;
pub use large::{FlowPaths, LargeSolution, LargeSolver};
pub use min_max::{MinMaxSolver, Preference};
pub use path_sets::{NamedPaths, PathChoice, PathSets, PathSetsFit, PathSetsStatus, choose_paths};
pub use throughput::{
    ConcurrentFlow, TotalFlow, TotalFlowSolver, max_concurrent_flow, max_concurrent_flow_by, max_total_flow,
};

use std::time::Instant;

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
        network.check_matrix(demands)?;
        Self::all_of_rows(network, demands.as_slice())
    }

    /// The same for demands by rows in memory of the caller's: `nodes × nodes` numbers in bit/s, row = source, of
    /// which the diagonal is not looked at.
    ///
    /// # Errors
    /// [`NetworkError::Length`], or [`NetworkError::Demand`] for a NaN, infinite or negative demand.
    pub fn all_of_rows(network: &'a Network, rows: &[f64]) -> Result<Self, NetworkError> {
        network.check_rows(rows)?;
        let commodities = (0..network.pair_count())
            .filter_map(|pair| commodity(network, rows, GroupIx::from(pair)))
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
        network.check_matrix(demands)?;
        Self::critical_of_rows(network, base, demands.as_slice(), critical)
    }

    /// The same for demands by rows in memory of the caller's, as [`FlowProblem::all_of_rows`] takes them.
    ///
    /// # Errors
    /// As [`FlowProblem::all_of_rows`].
    pub fn critical_of_rows(
        network: &'a Network,
        base: &BaseRouting,
        rows: &[f64],
        critical: &[GroupIx],
    ) -> Result<Self, NetworkError> {
        network.check_rows(rows)?;
        let mut background = base.loads_of_rows(network, rows);
        let mut pairs = critical.to_vec();
        pairs.sort_unstable();
        pairs.dedup();
        let mut commodities = Vec::with_capacity(pairs.len());
        for pair in pairs {
            if let Some(commodity) = commodity(network, rows, pair) {
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

    /// Adds load in bit/s that stays where it is, by link.
    ///
    /// # Errors
    /// [`NetworkError::Length`] when there is not one number for each link. The numbers are checked by the solver.
    pub fn add_background(&mut self, loads: &[f64]) -> Result<(), NetworkError> {
        if loads.len() != self.background.len() {
            let (got, expected) = (loads.len(), self.background.len());
            return Err(NetworkError::Length { what: "background", got, expected });
        }
        for (background, load) in self.background.iter_mut().zip(loads) {
            *background += load;
        }
        Ok(())
    }
}

fn commodity(network: &Network, rows: &[f64], pair: GroupIx) -> Option<Commodity> {
    let (source, target) = network.pair(pair);
    let demand = rows[source.ix() * network.nodes().len() + target.ix()];
    (demand > 0.0).then_some(Commodity { source, target, demand })
}

/// The largest relative gap of an exact solver's optimum.
const OPTIMAL_GAP: f64 = 1e-9;

fn passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

fn relative_gap(larger: f64, smaller: f64) -> f64 {
    if larger <= smaller {
        0.0
    } else if larger.is_finite() {
        (larger - smaller) / larger
    } else {
        1.0
    }
}

/// Why a solver stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowStatus {
    /// The gap is within the tolerance asked for, or 10⁻⁹ where none is.
    Optimal,
    /// The deadline passed; the solution is feasible and its gap is what it says.
    Deadline,
    /// Rounding keeps the gap from falling further; the solution is feasible and its gap is what it says.
    Stalled,
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
        relative_gap(self.utilization, self.lower_bound)
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
