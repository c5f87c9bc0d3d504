//! What helps a simplex that gets lost?
//!
//! Where many flows are equally good, columns that the prices of one corner ask for are of little use at the next,
//! and tens of thousands of pivots bring little. The [`LargeSolver`] prices from the inside of its master, so its
//! paths, a few for each commodity, are nearly all that an optimum needs; from there the simplex finds one in
//! some hundred pivots.

use std::time::Instant;

use super::super::{FlowError, FlowProblem, FlowSolution, LargeSolution, LargeSolver, passed, relative_gap};
use super::{Bound, Choice, Ended, MinMaxSolver};

/// After so many pivots over all paths the solver for large networks is asked for paths to start from, …
pub(super) const HAND_OVER: usize = 10_000;
/// … with flows of this gap.
const NEAR: f64 = 0.01;

impl MinMaxSolver {
    /// Starts again from the paths of the solver for large networks. `None` when the basis is optimal; where the
    /// deadline passes or rounding is in the way the best flows of all that were tried, with the best bound.
    pub(super) fn hand_over(
        &mut self,
        problem: &FlowProblem<'_>,
        bound: &mut Bound,
        deadline: Option<Instant>,
    ) -> Result<Option<FlowSolution>, FlowError> {
        let before = self.solution(problem, bound, Ended::Late);
        let solver = LargeSolver { tolerance: NEAR, ..LargeSolver::default() };
        let large = solver.solve(problem, deadline)?;
        if large.lower_bound > bound.value {
            let lengths = large.link_prices.iter().map(|price| price * self.generation.unit).collect();
            *bound = Bound { value: large.lower_bound, lengths };
        }
        let mut ended = Ended::Late;
        if !passed(deadline) {
            self.start_cold(problem, Choice { base: None, listed: None }, deadline)?;
            self.start_along(problem, &large);
            self.generation.listed = true;
            ended = self.minimize(&mut Bound::default(), deadline);
            self.generation.listed = false;
        }
        if ended == Ended::Done {
            ended = self.minimize(bound, deadline);
        }
        if ended == Ended::Done {
            return Ok(None);
        }
        self.warm = false;
        let now = self.solution(problem, bound, ended);
        let (utilization, loads) = (large.utilization, large.loads);
        let paths = (0..problem.commodities.len()).map(|at| large.paths.shares(at)).collect();
        let base_share = vec![0.0; problem.commodities.len()];
        let large = FlowSolution { utilization, loads, paths, base_share, ..now.clone() };
        let flows = [now, large, before].into_iter();
        let best = flows.min_by(|a, b| a.utilization.total_cmp(&b.utilization));
        let unit = self.generation.unit;
        Ok(best.map(|flows| FlowSolution {
            lower_bound: bound.value.min(flows.utilization),
            status: ended.status(relative_gap(flows.utilization, bound.value)),
            link_prices: bound.lengths.iter().map(|length| length / unit).collect(),
            iterations: self.generation.master.pivots,
            ..flows
        }))
    }

    /// Every commodity on the path that carries most of it, its others at hand.
    fn start_along(&mut self, problem: &FlowProblem<'_>, flows: &LargeSolution) {
        self.smoothing = 0.0;
        let generation = &mut self.generation;
        for (at, commodity) in problem.commodities.iter().enumerate() {
            let Some(set) = generation.set(commodity) else { continue };
            let mut most = 0.0;
            for (share, links) in flows.paths.of(at) {
                let links: Vec<u32> = links.iter().map(|link| link.0).collect();
                let column = generation.column_along(set, &links);
                if share > most {
                    most = share;
                    generation.master.key[set as usize] = column;
                }
            }
        }
        generation.master.start_on_keys();
        self.start_theta();
    }
}
