//! How evenly can demands be spread over a network of hundreds of nodes, and how sure is that?
//!
//! 1. Trees and chains are taken out of the network exactly ([`reduce`]), so that the shortest paths of all
//!    pairs cost some milliseconds for 754 nodes ([`oracle`]).
//! 2. One path for each commodity is improved by coordinate descent on a smooth potential, with a bound at every
//!    sweep ([`potential`]), until the tolerance is met or little more is gained.
//! 3. Column generation with prices from the inside of an interior-point master splits what has to be split
//!    ([`generation`], [`master`]); demands with the same choice are one ([`classes`]). The bound has rounds of
//!    its own over the links that have a price.

mod classes;
mod generation;
mod master;
mod oracle;
mod path_tree;
mod paths;
mod pool;
mod potential;
mod reduce;
mod solution;

use std::num::NonZeroUsize;
use std::time::Instant;

use traflux_core::LinkIx;

use super::{Commodity, FlowError, FlowProblem, FlowStatus, passed, relative_gap};
use generation::Generation;
use oracle::Oracle;
pub use paths::FlowPaths;
use pool::Pool;
use potential::Potential;
use reduce::{Reduced, TreePath};
pub use solution::LargeSolution;

/// The potential is left when this many sweeps …
const SWEEPS: usize = 15;

/// … have not brought the gap down to this part.
const WORTHWHILE: f64 = 0.8;

/// Rounds of column generation without any progress before it gives up: rounding is in the way.
const PATIENCE: usize = 4;

/// Shares below this, or this part of the tolerance, are not listed.
const DUST: f64 = 1e-9;
const DUST_PART: f64 = 1e-4;

/// The gap is closed to this part of the tolerance, so that what is listed keeps it.
const INNER: f64 = 1.0 - 1e-3;

/// What the shares of a commodity may miss the sum of 1 by before they are scaled to it.
const SUM: f64 = 1e-6;

/// Solves [`FlowProblem`]s on networks of hundreds of nodes to a gap that is asked for.
///
/// Equal problems give bit-identical answers with any number of threads, unless the deadline passes.
#[derive(Debug, Clone, PartialEq)]
pub struct LargeSolver {
    /// The gap asked for, `(utilisation − bound) / utilisation`, not negative.
    pub tolerance: f64,
    /// How many threads look for shortest paths; more than 4 are not used.
    pub threads: NonZeroUsize,
}

impl Default for LargeSolver {
    fn default() -> Self {
        Self { tolerance: 1e-4, threads: NonZeroUsize::MIN }
    }
}

impl LargeSolver {
    /// Finds flows and a proof of how near the optimum they are; when the deadline passes, those at hand.
    ///
    /// # Errors
    /// [`FlowError`] where vectors do not fit the network, a number is not finite and not negative, or no path
    /// joins the ends of a commodity.
    pub fn solve(
        &self,
        problem: &FlowProblem<'_>,
        deadline: Option<Instant>,
    ) -> Result<LargeSolution, FlowError> {
        let late = || passed(deadline);
        self.check(problem)?;
        let reduced = Reduced::new(problem);
        let demands = reduced.demands(problem);
        if let Some(commodity) = demands.cut_off {
            return Err(disconnected(problem, commodity));
        }
        let capacities: Vec<f64> = problem.network.links().iter().map(|link| link.capacity.get()).collect();
        let mut oracle = Oracle::new(&reduced, &demands, self.threads.get());
        let Some(mut potential) = Potential::new(&mut oracle, &capacities) else {
            return Err(first_disconnected(problem, &reduced, &oracle));
        };
        let tolerance = INNER * self.tolerance;
        let mut mark = potential.gap();
        while potential.gap() > tolerance && !late() {
            potential.sweep();
            if potential.sweeps.is_multiple_of(SWEEPS) {
                if potential.gap() > WORTHWHILE * mark {
                    break;
                }
                mark = potential.gap();
            }
        }
        let sweeps = potential.sweeps;
        let proof = (potential.bound, potential.proof.clone());
        let parts = potential.into_parts();
        let mut generation = Generation::new(&mut oracle, &capacities, parts, proof);
        let mut idle = 0;
        while generation.gap() > tolerance && !late() && idle < PATIENCE {
            idle = if generation.round(tolerance, &late) { 0 } else { idle + 1 };
        }

        let iterations = sweeps + generation.rounds;
        let dust = DUST.min(DUST_PART * self.tolerance);
        let paths = list(problem, &reduced, &generation.pool, dust)
            .ok_or(FlowError::Accuracy { pivots: iterations })?;
        let mut loads = problem.background.clone();
        for (ix, commodity) in problem.commodities.iter().enumerate() {
            for (share, links) in paths.of(ix) {
                let flow = commodity.demand * share;
                for link in links {
                    loads[link.ix()] += flow;
                }
            }
        }
        let utilization = problem.network.max_utilization(&loads);
        let lower_bound = generation.bound.min(utilization);
        let status = if relative_gap(utilization, lower_bound) <= self.tolerance {
            FlowStatus::Optimal
        } else if idle < PATIENCE {
            FlowStatus::Deadline
        } else {
            FlowStatus::Stalled
        };
        let link_prices = generation.proof;
        Ok(LargeSolution { utilization, lower_bound, status, loads, paths, link_prices, iterations })
    }

    fn check(&self, problem: &FlowProblem<'_>) -> Result<(), FlowError> {
        let value = |what, index, value: f64| {
            if value.is_finite() && value >= 0.0 {
                Ok(())
            } else {
                Err(FlowError::Value { what, index, value })
            }
        };
        value("tolerance", 0, self.tolerance)?;
        let (nodes, links) = (problem.network.nodes().len(), problem.network.links().len());
        let found = problem.background.len();
        if found != links {
            return Err(FlowError::Length { what: "background", found, expected: links });
        }
        for (ix, load) in problem.background.iter().enumerate() {
            value("background", ix, *load)?;
        }
        for (ix, commodity) in problem.commodities.iter().enumerate() {
            value("demand", ix, commodity.demand)?;
            let (source_node, target_node) = (commodity.source.ix(), commodity.target.ix());
            if source_node.max(target_node) >= nodes || source_node == target_node {
                return Err(FlowError::Ends { commodity: ix, source_node, target_node, nodes });
            }
        }
        Ok(())
    }
}

/// Lengths `y_l = w_l / c_l` with `Σ c_l y_l = 1` from weights of any sum. None is zero, which breaks ties
/// between paths over links that are far from full in favour of fewer and wider links.
fn lengths(weights: &[f64], capacities: &[f64]) -> Vec<f64> {
    const FLOOR: f64 = 1e-9;
    let floor = FLOOR * weights.iter().sum::<f64>() / weights.len().max(1) as f64;
    let sum: f64 = weights.iter().map(|weight| weight + floor).sum();
    weights.iter().zip(capacities).map(|(weight, capacity)| (weight + floor) / sum / capacity).collect()
}

fn disconnected(problem: &FlowProblem<'_>, commodity: usize) -> FlowError {
    let Commodity { source, target, demand } = problem.commodities[commodity];
    let name = |node: traflux_core::NodeIx| problem.network.nodes()[node.ix()].name.clone();
    FlowError::Disconnected { source_node: name(source), target_node: name(target), demand }
}

/// The error for the first commodity that crosses the core where no path does.
fn first_disconnected(problem: &FlowProblem<'_>, reduced: &Reduced, oracle: &Oracle<'_>) -> FlowError {
    let pair = oracle.disconnected();
    let mut path = TreePath::default();
    let crosses = |commodity: &Commodity| {
        reduced.tree_path(commodity.source.0, commodity.target.0, &mut path).is_some() && path.core == pair
    };
    let commodity = problem.commodities.iter().position(crosses).unwrap_or(0);
    disconnected(problem, commodity)
}

/// The paths of all commodities, through trees and core, without those of a share below `dust`; `None` where
/// shares do not sum to 1.
fn list(problem: &FlowProblem<'_>, reduced: &Reduced, pool: &Pool, dust: f64) -> Option<FlowPaths> {
    let count = reduced.core.len();
    let mut paths = FlowPaths::default();
    let (mut way, mut links) = (TreePath::default(), Vec::new());
    for commodity in &problem.commodities {
        let known = reduced.tree_path(commodity.source.0, commodity.target.0, &mut way).is_some();
        if known && commodity.demand > 0.0 {
            match way.core {
                Some((source, target)) => {
                    let pair = source as usize * count + target as usize;
                    let shares = || pool.of(pair).map(|entry| (entry, pool.share(entry)));
                    let sum: f64 = shares().map(|(_, share)| share).sum();
                    if sum.is_nan() || (sum - 1.0).abs() > SUM {
                        return None;
                    }
                    let listed = || shares().filter(|(_, share)| *share > dust);
                    let scale: f64 = listed().map(|(_, share)| share).sum();
                    for (entry, share) in listed() {
                        links.clear();
                        pool.links(reduced, pair, pool.path(entry), &mut links);
                        let all = way.before.iter().chain(&links).chain(&way.after);
                        paths.push_path(share / scale, all.map(|link| LinkIx(*link)));
                    }
                }
                None => {
                    paths.push_path(1.0, way.before.iter().chain(&way.after).map(|link| LinkIx(*link)));
                }
            }
        }
        paths.end_commodity();
    }
    Some(paths)
}
