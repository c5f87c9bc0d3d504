//! How good can a set of `K` pairs be, if time does not matter?

use traflux_core::{Action, BaseRouting, GroupIx, Network, Observation, Policy, PolicyError, TrafficMatrix};

use super::super::{FlowError, FlowSolution, MinMaxSolver, Preference};
use super::dual_guided::NO_GAIN;
use super::evaluate::critical;
use super::gains::Gains;
use super::{DualGuidedGreedy, FractionalBound, LeastMoved, RelaxAndRound, best, failed, open, read};

/// Of the sets of [`RelaxAndRound`], [`LeastMoved`] and [`DualGuidedGreedy`] the best, improved by exchanges.
///
/// With `g` the gains of [`DualGuidedGreedy`] under the prices of a set `S`, exchanging `p ∈ S` for `q ∉ S` cannot
/// lower the utilisation by more than `g_q − g_p`. Exchanges are tried from the most promising on, several at once
/// first, and the first that helps is taken, until the [fractional bound](FractionalBound) is met, none can help,
/// or the number of problems solved reaches its limit.
///
/// It is not for real time. What it chooses is a label to learn from, and a reference: on the bound it is optimal.
/// Pairs that no longer leave the base at the end are dropped; the rest come by the traffic they move.
#[derive(Debug, Clone)]
pub struct GreedyOracle {
    network: Network,
    base: BaseRouting,
    count: usize,
    problems: usize,
    relaxed: RelaxAndRound,
    least_moved: LeastMoved,
    guided: DualGuidedGreedy,
    fractional: FractionalBound,
    any: MinMaxSolver,
    least_rerouted: MinMaxSolver,
    gains: Gains,
}

/// A set with the optimum for it.
struct Known {
    chosen: Vec<GroupIx>,
    solution: FlowSolution,
}

impl GreedyOracle {
    /// The number of problems that exchanges may solve unless said otherwise.
    pub const PROBLEMS: usize = 120;

    /// Chooses at most `count` pairs.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        Self {
            network: network.clone(),
            base: base.clone(),
            count,
            problems: Self::PROBLEMS,
            relaxed: RelaxAndRound::new(network, base, count),
            least_moved: LeastMoved::new(network, base, count),
            guided: DualGuidedGreedy::new(network, base, count),
            fractional: FractionalBound::new(network, base),
            any: MinMaxSolver::new(network),
            least_rerouted: MinMaxSolver::new(network),
            gains: Gains::new(network),
        }
    }

    /// Lets exchanges solve another number of problems.
    #[must_use]
    pub fn with_problems(mut self, problems: usize) -> Self {
        self.problems = problems;
        self
    }

    fn solve(&mut self, demands: &TrafficMatrix, chosen: Vec<GroupIx>) -> Result<Known, FlowError> {
        let problem = critical(&self.network, &self.base, demands, &chosen)?;
        let solution = self.any.solve(&problem, None)?;
        Ok(Known { chosen, solution })
    }

    fn improve(
        &mut self,
        demands: &TrafficMatrix,
        open: &[GroupIx],
        mut known: Known,
    ) -> Result<Known, FlowError> {
        self.fractional.forget();
        let bound = self.fractional.solve_among(demands, open, self.count, None)?.lower_bound;
        let mut left = self.problems;
        'improved: while known.solution.utilization > bound * (1.0 + NO_GAIN) {
            let prices = &known.solution.link_prices;
            let gains = self.gains.of(&self.network, &self.base, demands, prices);
            let least = NO_GAIN * known.solution.utilization;
            // The least worth keeping first, the most promising of the others first.
            let mut inside = known.chosen.clone();
            inside.sort_by(|a, b| gains[a.ix()].total_cmp(&gains[b.ix()]).then(a.cmp(b)));
            let outside = open.iter().filter(|pair| !inside.contains(pair));
            let outside = outside.map(|pair| (gains[pair.ix()], 0.0, *pair));
            let outside = best(outside.filter(|(gain, ..)| *gain > least).collect(), self.count);
            for exchange in exchanges(&gains, &inside, &outside, self.count, least) {
                if left == 0 {
                    return Ok(known);
                }
                left -= 1;
                let next = self.solve(demands, exchange)?;
                if next.solution.utilization < known.solution.utilization - least {
                    known = next;
                    continue 'improved;
                }
            }
            break;
        }
        Ok(known)
    }
}

/// Sets to try instead of `inside`, at most `count` pairs each. Where there is room, pairs are only added.
fn exchanges(
    gains: &[f64],
    inside: &[GroupIx],
    outside: &[GroupIx],
    count: usize,
    least: f64,
) -> Vec<Vec<GroupIx>> {
    let room = (count - inside.len()).min(outside.len());
    if room > 0 {
        return vec![[inside, &outside[..room]].concat()];
    }
    let helps = |out: GroupIx, into: GroupIx| gains[into.ix()] - gains[out.ix()] > least;
    let mut several = inside.iter().zip(outside).take_while(|(out, into)| helps(**out, **into)).count();
    let mut sets = Vec::new();
    while several > 1 {
        sets.push([&inside[several..], &outside[..several]].concat());
        several /= 2;
    }
    let mut single: Vec<(f64, usize, GroupIx)> = Vec::new();
    for (at, out) in inside.iter().enumerate() {
        for into in outside.iter().filter(|into| helps(*out, **into)) {
            single.push((gains[into.ix()] - gains[out.ix()], at, *into));
        }
    }
    single.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    sets.extend(single.into_iter().map(|(_, at, into)| {
        let mut set = inside.to_vec();
        set[at] = into;
        set
    }));
    sets
}

impl Policy for GreedyOracle {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let demands = read(&self.network, observation)?;
        let open = open(observation);
        self.any.forget();
        let mut known: Option<Known> = None;
        let starts = [
            self.least_moved.act(observation)?.critical,
            self.relaxed.act(observation)?.critical,
            self.guided.choose(&demands, open.clone()).map_err(failed)?,
        ];
        for start in starts {
            let next = self.solve(&demands, start).map_err(failed)?;
            let better = |known: &Known| next.solution.utilization < known.solution.utilization;
            if known.as_ref().is_none_or(better) {
                known = Some(next);
            }
        }
        let Some(known) = known else { return Ok(Action::default()) };
        let known = self.improve(&demands, &open, known).map_err(failed)?;
        let problem = critical(&self.network, &self.base, &demands, &known.chosen).map_err(failed)?;
        self.least_rerouted.forget();
        let preference = Preference::LeastRerouted(&self.base);
        let solution = self.least_rerouted.solve_preferring(&problem, preference, None).map_err(failed)?;
        let moved = problem.commodities.iter().zip(&solution.base_share).map(|(commodity, stays)| {
            let pair = self.network.pair_ix(commodity.source, commodity.target);
            (commodity.demand * (1.0 - stays), commodity.demand, pair)
        });
        Ok(Action::choose(best(moved.filter(|(moved, ..)| *moved > 0.0).collect(), self.count)))
    }
}
