//! Which few pairs should leave the base, when a linear program may be asked?
//!
//! Of all pairs `p` with demand `d_p`, at most `K` may leave the base routing (fractions `f_pl`), all others stay.
//! Which set is best is a combinatorial question; this module has its relaxation, rules that round it, and what
//! judges any set:
//!
//! * [`FractionalBound`]: pairs may leave in part, `K` in sum. No set of `K` pairs is better.
//! * [`RelaxAndRound`], [`LeastMoved`], [`DualGuidedGreedy`]: selectors that solve one or a few linear programs.
//! * [`GreedyOracle`]: the best of these, then exchanges. Slow; a source of labels and a reference.
//! * [`SelectionEvaluator`]: utilisation, routing and rerouted share of any set, and the optimum over all.
//!
//! All selectors are [policies](Policy) that read [`DEMAND`], relative demands, and are therefore indifferent to
//! the unit of traffic. They choose `K` pairs *at most*: one that would stay on the base anyway is left out. Equal
//! observations give equal actions, whatever was asked before.

mod dual_guided;
mod evaluate;
mod fractional;
mod gains;
mod least_moved;
mod oracle;
mod relax_and_round;

pub use dual_guided::DualGuidedGreedy;
pub use evaluate::{SelectionEvaluator, SelectionOutcome};
pub use fractional::{FractionalBound, FractionalSelection};
pub use least_moved::LeastMoved;
pub use oracle::GreedyOracle;
pub use relax_and_round::RelaxAndRound;

#[cfg(doc)]
use traflux_core::Policy;
use traflux_core::network::column::DEMAND;
use traflux_core::{GroupIx, Network, Observation, PolicyError, TrafficMatrix};

use super::FlowError;

/// The demands of an observation, with the mean capacity of the links as the mean of all pairs, and which pairs
/// may be chosen. A demand that is not a positive number counts as none.
fn read(network: &Network, observation: &Observation) -> Result<TrafficMatrix, PolicyError> {
    let pairs = network.pair_count();
    if observation.groups.ncols() <= DEMAND && !observation.is_empty() {
        return Err(PolicyError::Shape { expected: DEMAND + 1, found: observation.groups.ncols() });
    }
    for (what, found) in [("observation", observation.len()), ("mask", observation.mask.len())] {
        if found != pairs {
            let reason = format!("{found} pairs in the {what}, {pairs} in the network");
            return Err(PolicyError::Failed { reason });
        }
    }
    let links = network.links();
    let unit = links.iter().map(|link| link.capacity.get()).sum::<f64>() / links.len().max(1) as f64;
    let nodes = network.nodes().len();
    let mut rows = vec![0.0; nodes * nodes];
    for pair in 0..pairs {
        let demand = f64::from(observation.groups[[pair, DEMAND]]);
        if demand.is_finite() && demand > 0.0 {
            let (source, target) = network.pair(GroupIx::from(pair));
            rows[source.ix() * nodes + target.ix()] = demand * unit;
        }
    }
    TrafficMatrix::from_rows(nodes, rows).map_err(|error| failed(error.into()))
}

/// The pairs that may be chosen.
fn open(observation: &Observation) -> Vec<GroupIx> {
    let open = observation.mask.iter().enumerate().filter(|(_, open)| **open);
    open.map(|(pair, _)| GroupIx::from(pair)).collect()
}

fn failed(error: FlowError) -> PolicyError {
    PolicyError::Failed { reason: error.to_string() }
}

/// The `count` best, best first: by the first number, then the second, then position.
fn best(mut candidates: Vec<(f64, f64, GroupIx)>, count: usize) -> Vec<GroupIx> {
    candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
    candidates.truncate(count);
    candidates.into_iter().map(|(.., pair)| pair).collect()
}
