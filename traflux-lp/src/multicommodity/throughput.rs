//! How much of the demands fits into what the background leaves?
//!
//! ```text
//! maximum concurrent flow:  max λ          s.t.  Σ_{p ∈ P_k} x_p = λ d_k,   Σ_{p ∋ l} x_p ≤ c_l − b_l
//! maximum total flow:       max Σ_p x_p    s.t.  Σ_{p ∈ P_k} x_p ≤ d_k,     Σ_{p ∋ l} x_p ≤ max(c_l − b_l, 0)
//! ```
//!
//! Both carry a bound by weak duality, from prices `y ≥ 0`.

use std::time::Instant;

use traflux_core::{Link, Network, PathShare, ShortestPaths};

use super::generation::{Ended, Generation, until};
use super::graph::Graph;
use super::{
    Commodity, FlowError, FlowProblem, FlowSolution, FlowStatus, MinMaxSolver, OPTIMAL_GAP, passed,
    relative_gap,
};

/// The gap at which the solvers are done, relative.
const GAP: f64 = 1e-10;
/// What a link without a price costs in the search for paths: fewer hops win where prices are the same.
const BLUR: f64 = 1e-13;

/// The factor by which all demands can grow together.
#[derive(Debug, Clone, PartialEq)]
pub struct ConcurrentFlow {
    /// Fraction of every demand that fits; infinite where there is no demand, 0 where the background alone
    /// is more than a link can carry.
    pub factor: f64,
    /// No larger factor fits.
    pub upper_bound: f64,
    /// Why the solver stopped.
    pub status: FlowStatus,
    /// Paths of each commodity, in the order of the problem; shares of `factor` times its demand.
    pub paths: Vec<Vec<PathShare>>,
    /// Load of each link in bit/s, background included.
    pub loads: Vec<f64>,
    /// Prices `y ≥ 0` with `Σ_l c_l y_l = 1` that prove the bound `(Σ_l (c_l − b_l) y_l) / Σ_k d_k dist_k(y)`,
    /// where `Σ_k d_k dist_k(y) > 0` unless there is no demand. Of a background that is more than a link can
    /// carry they are the proof, `Σ_l (c_l − b_l) y_l < 0`: then nothing fits at all.
    pub link_prices: Vec<f64>,
    /// Pivots.
    pub iterations: usize,
}

/// The most traffic that fits.
#[derive(Debug, Clone, PartialEq)]
pub struct TotalFlow {
    /// bit/s of all commodities together.
    pub total: f64,
    /// No more fits.
    pub upper_bound: f64,
    /// Why the solver stopped.
    pub status: FlowStatus,
    /// Paths of each commodity, in the order of the problem; shares of its demand that sum to at most 1.
    pub paths: Vec<Vec<PathShare>>,
    /// Load of each link in bit/s, background included.
    pub loads: Vec<f64>,
    /// Prices `y ≥ 0` that prove the bound `Σ_k d_k max(0, 1 − dist_k(y)) + Σ_l max(c_l − b_l, 0) y_l`.
    pub link_prices: Vec<f64>,
    /// Pivots.
    pub iterations: usize,
}

impl ConcurrentFlow {
    /// `(upper_bound − factor) / upper_bound`, 0 where both are 0 or infinite.
    #[must_use]
    pub fn gap(&self) -> f64 {
        relative_gap(self.upper_bound, self.factor)
    }
}

impl TotalFlow {
    /// `(upper_bound − total) / upper_bound`, 0 where nothing fits.
    #[must_use]
    pub fn gap(&self) -> f64 {
        relative_gap(self.upper_bound, self.total)
    }
}

/// By how much all demands can grow together.
///
/// The least utilisation is a convex function of the factor; Newton's method from above finds where it is 1
/// and needs few steps, each a warm start of [`MinMaxSolver`]. For a sequence of problems on one network see
/// [`max_concurrent_flow_by`].
///
/// # Errors
/// As [`MinMaxSolver::solve`].
pub fn max_concurrent_flow(
    problem: &FlowProblem<'_>,
    deadline: Option<Instant>,
) -> Result<ConcurrentFlow, FlowError> {
    max_concurrent_flow_by(&mut MinMaxSolver::new(problem.network), problem, deadline)
}

/// The same by a solver that is kept for a sequence of problems on one network.
///
/// # Errors
/// As [`MinMaxSolver::solve`].
pub fn max_concurrent_flow_by(
    solver: &mut MinMaxSolver,
    problem: &FlowProblem<'_>,
    deadline: Option<Instant>,
) -> Result<ConcurrentFlow, FlowError> {
    solver.check(problem)?;
    let capacities: Vec<f64> = problem.network.links().iter().map(|link| link.capacity.get()).collect();
    let links = capacities.len();
    // Without background the utilisation is proportional to the factor.
    let mut scaled = FlowProblem { background: vec![0.0; links], ..problem.clone() };
    let mut solution = solver.solve(&scaled, deadline)?;
    scaled.background.clone_from(&problem.background);
    let overload = |link: usize| problem.background[link] / capacities[link];
    let fullest = (0..links).max_by(|a, b| overload(*a).total_cmp(&overload(*b)));
    let too_full = fullest.filter(|link| overload(*link) > 1.0);
    let mut iterations = solution.iterations;
    let mut link_prices = solution.link_prices.clone();
    let left = capacities.iter().zip(&problem.background).map(|(capacity, load)| capacity - load);
    let worth: f64 = left.zip(&link_prices).map(|(left, price)| left * price).sum();
    let demanded = solution.lower_bound > 0.0;
    let mut upper_bound = if demanded { worth.max(0.0) / solution.lower_bound } else { f64::INFINITY };
    if let Some(link) = too_full {
        upper_bound = 0.0;
        link_prices.fill(0.0);
        link_prices[link] = 1.0 / capacities[link];
    }
    if demanded
        && too_full.is_none()
        && let Some(prices) = blocked(problem)
    {
        upper_bound = 0.0;
        link_prices = prices;
    }
    if upper_bound == 0.0 || upper_bound.is_infinite() {
        return Ok(ConcurrentFlow {
            factor: upper_bound,
            upper_bound,
            status: FlowStatus::Optimal,
            paths: solution.paths,
            loads: problem.background.clone(),
            link_prices,
            iterations,
        });
    }
    let mut at = upper_bound;
    if problem.background.iter().any(|load| *load > 0.0) {
        loop {
            for (target, commodity) in scaled.commodities.iter_mut().zip(&problem.commodities) {
                target.demand = commodity.demand * at;
            }
            solution = solver.solve(&scaled, deadline)?;
            iterations += solution.iterations;
            let fixed: f64 =
                problem.background.iter().zip(&solution.link_prices).map(|(load, price)| load * price).sum();
            let per_factor = (solution.lower_bound - fixed) / at;
            // A background that fills a link leaves nothing, give or take rounding.
            let next = if per_factor > 0.0 { ((1.0 - fixed) / per_factor).max(0.0) } else { at };
            if next < upper_bound {
                upper_bound = next;
                link_prices.clone_from(&solution.link_prices);
            }
            if solution.status != FlowStatus::Optimal || !(next > 0.0 && next < at * (1.0 - GAP)) {
                break;
            }
            at = next;
        }
    } else {
        for load in &mut solution.loads {
            *load *= at;
        }
    }
    Ok(fit(problem, &capacities, solution, at, upper_bound, link_prices, iterations))
}

/// Prices of links that the background fills, where some commodity cannot avoid them: nothing is left for it.
fn blocked(problem: &FlowProblem<'_>) -> Option<Vec<f64>> {
    let links = problem.network.links().iter().zip(&problem.background);
    let full: Vec<bool> = links.map(|(link, load)| *load >= link.capacity.get()).collect();
    let count = full.iter().filter(|full| **full).count();
    if count == 0 {
        return None;
    }
    let price = |(link, full): (&Link, &bool)| {
        if *full { 1.0 / (count as f64 * link.capacity.get()) } else { 0.0 }
    };
    let prices: Vec<f64> = problem.network.links().iter().zip(&full).map(price).collect();
    let (graph, mut shortest) = (Graph::new(problem.network), ShortestPaths::default());
    let mut source = None;
    let blocked = problem.commodities.iter().filter(|commodity| commodity.demand > 0.0).any(|commodity| {
        if source.replace(commodity.source) != Some(commodity.source) {
            graph.search(commodity.source.0, &prices, &mut shortest);
        }
        shortest.distance(commodity.target) > 0.0
    });
    blocked.then_some(prices)
}

/// Scales flows until they fit.
fn fit(
    problem: &FlowProblem<'_>,
    capacities: &[f64],
    solution: FlowSolution,
    at: f64,
    upper_bound: f64,
    link_prices: Vec<f64>,
    iterations: usize,
) -> ConcurrentFlow {
    let mut scale = 1.0_f64;
    for ((load, background), capacity) in solution.loads.iter().zip(&problem.background).zip(capacities) {
        if *load > *capacity {
            scale = scale.min((capacity - background) / (load - background));
        }
    }
    let loads = solution.loads.iter().zip(&problem.background);
    let factor = (at * scale).min(upper_bound);
    ConcurrentFlow {
        factor,
        upper_bound,
        status: match solution.status {
            _ if relative_gap(upper_bound, factor) <= OPTIMAL_GAP => FlowStatus::Optimal,
            FlowStatus::Deadline => FlowStatus::Deadline,
            FlowStatus::Optimal | FlowStatus::Stalled => FlowStatus::Stalled,
        },
        paths: solution.paths,
        loads: loads.map(|(load, background)| background + (load - background) * scale).collect(),
        link_prices,
        iterations,
    }
}

/// How much of the demands fits at most. A commodity that no path joins gets nothing.
///
/// For a sequence of problems on one network see [`TotalFlowSolver`].
///
/// # Errors
/// [`FlowError`] for vectors that do not fit or numbers that are not finite and not negative.
pub fn max_total_flow(problem: &FlowProblem<'_>, deadline: Option<Instant>) -> Result<TotalFlow, FlowError> {
    TotalFlowSolver::new(problem.network).solve(problem, deadline)
}

/// A solver for how much fits that is kept for a sequence of problems on one network: it starts from the optimum
/// before when demands and background have changed. The total does not depend on what was solved before; which of
/// several optimal flows is found may.
#[derive(Debug, Clone)]
pub struct TotalFlowSolver {
    generation: Generation,
    warm: bool,
}

impl TotalFlowSolver {
    /// A solver for one network.
    #[must_use]
    pub fn new(network: &Network) -> Self {
        Self { generation: Generation::new(network), warm: false }
    }

    /// As [`max_total_flow`].
    ///
    /// # Errors
    /// As [`max_total_flow`]; [`FlowError::OtherNetwork`] for a problem on another network than that of
    /// [`TotalFlowSolver::new`].
    pub fn solve(
        &mut self,
        problem: &FlowProblem<'_>,
        deadline: Option<Instant>,
    ) -> Result<TotalFlow, FlowError> {
        self.generation.check(problem)?;
        self.generation.master.pivots = 0;
        let kept = self.start_warm(problem, deadline);
        if !kept {
            self.start_cold(problem);
        }
        let mut bound = Bound::default();
        let mut ended = self.maximize(&mut bound, deadline);
        if kept && ended == Ended::Stuck {
            // The basis of another problem may be a bad one for this.
            self.start_cold(problem);
            ended = self.maximize(&mut bound, deadline);
        }
        self.warm = ended != Ended::Stuck;
        let generation = &self.generation;
        let (paths, _, loads) = generation.shares(problem);
        let routed = |(commodity, paths): (&Commodity, &Vec<PathShare>)| {
            commodity.demand * paths.iter().map(|path| path.share).sum::<f64>()
        };
        let total: f64 = problem.commodities.iter().zip(&paths).map(routed).sum();
        let upper_bound = (bound.value * generation.unit).max(total);
        Ok(TotalFlow {
            total,
            upper_bound,
            status: ended.status(relative_gap(upper_bound, total)),
            paths,
            loads,
            link_prices: bound.lengths,
            iterations: generation.master.pivots,
        })
    }

    /// Nothing flows.
    fn start_cold(&mut self, problem: &FlowProblem<'_>) {
        let generation = &mut self.generation;
        generation.clear();
        generation.path_cost = -1.0;
        add(generation, problem);
        generation.set_slacks(1.0);
        generation.master.start_on_keys();
        generation.master.update_prices();
    }

    /// Takes over the basis before; false where that is not worth it.
    fn start_warm(&mut self, problem: &FlowProblem<'_>, deadline: Option<Instant>) -> bool {
        let generation = &mut self.generation;
        if !std::mem::take(&mut self.warm) || !generation.is_like_before(problem) {
            return false;
        }
        generation.master.demand.fill(0.0);
        add(generation, problem);
        generation.set_slacks(1.0);
        let most = 20 * generation.links();
        let repaired = generation.master.refactor() && generation.master.repair(until(most, deadline));
        generation.master.update_prices();
        repaired
    }

    /// Grows trees and pivots until bound and flows meet.
    fn maximize(&mut self, bound: &mut Bound, deadline: Option<Instant>) -> Ended {
        let generation = &mut self.generation;
        // A warm start may leave prices below zero behind.
        let settled = generation.settle(deadline);
        let mut blur = BLUR;
        loop {
            let lengths: Vec<f64> =
                generation.master.price.iter().map(|price| price.max(0.0) + blur).collect();
            // The first round has no deadline: without it nothing at all is proven.
            let late = if bound.lengths.is_empty() { None } else { deadline };
            let Some(round) = generation.price(&lengths, None, late) else { return Ended::Late };
            let capacity: f64 = generation.master.limit.iter().zip(&lengths).map(|(left, y)| left * y).sum();
            if capacity - round.cost < bound.value {
                bound.value = capacity - round.cost;
                bound.lengths = lengths;
            }
            if settled != Ended::Done {
                return settled;
            }
            if !round.found && blur > 0.0 && relative_gap(bound.value, routed(generation)) > OPTIMAL_GAP {
                // Next to nothing fits, so that even the blur counts.
                blur = 0.0;
                continue;
            }
            if !round.found || bound.value - routed(generation) <= GAP * bound.value {
                return Ended::Done;
            }
            if passed(deadline) {
                return Ended::Late;
            }
            let ended = generation.pivot(deadline);
            if ended != Ended::Done {
                return ended;
            }
        }
    }
}

/// The least upper bound that was proven, in units, and the prices that prove it.
#[derive(Debug)]
struct Bound {
    value: f64,
    lengths: Vec<f64>,
}

impl Default for Bound {
    fn default() -> Self {
        Self { value: f64::INFINITY, lengths: Vec::new() }
    }
}

/// Adds demands to the sets there are, makes those that are missing, and limits loads by what the background leaves.
fn add(generation: &mut Generation, problem: &FlowProblem<'_>) {
    for commodity in &problem.commodities {
        if let Some(set) = generation.set(commodity) {
            generation.master.demand[set as usize] += commodity.demand / generation.unit;
        } else {
            generation.add_special_set(commodity, std::iter::empty());
        }
    }
    for link in 0..generation.links() {
        let left = generation.capacities[link] - problem.background[link] / generation.unit;
        generation.master.limit[link] = left.max(0.0);
    }
}

/// What the basis carries.
fn routed(generation: &Generation) -> f64 {
    let master = &generation.master;
    let keys = master.key.iter().zip(&master.key_value);
    let basic = master.basic.iter().zip(&master.value);
    -keys.chain(basic).map(|(column, value)| master.columns.cost[*column as usize] * value).sum::<f64>()
}
