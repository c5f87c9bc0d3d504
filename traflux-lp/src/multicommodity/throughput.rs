//! How much of the demands fits into what the background leaves?
//!
//! ```text
//! maximum concurrent flow:  max λ          s.t.  Σ_{p ∈ P_k} x_p = λ d_k,   Σ_{p ∋ l} x_p ≤ c_l − b_l
//! maximum total flow:       max Σ_p x_p    s.t.  Σ_{p ∈ P_k} x_p ≤ d_k,     Σ_{p ∋ l} x_p ≤ max(c_l − b_l, 0)
//! ```
//!
//! Both carry a bound by weak duality, from prices `y ≥ 0`.

use std::time::Instant;

use traflux_core::PathShare;

use super::generation::Generation;
use super::{Commodity, FlowError, FlowProblem, FlowSolution, FlowStatus, MinMaxSolver};

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
    /// Prices `y` with `Σ_k d_k dist_k(y) > 0` that prove the bound `(Σ_l (c_l − b_l) y_l) / Σ_k d_k dist_k(y)`.
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

/// By how much all demands can grow together.
///
/// The least utilisation is a convex function of the factor; Newton's method from above finds where it is 1
/// and needs few steps, each a warm start of [`MinMaxSolver`].
///
/// # Errors
/// As [`MinMaxSolver::solve`].
pub fn max_concurrent_flow(
    problem: &FlowProblem<'_>,
    deadline: Option<Instant>,
) -> Result<ConcurrentFlow, FlowError> {
    let mut solver = MinMaxSolver::new(problem.network);
    solver.check(problem)?;
    let capacities: Vec<f64> = problem.network.links().iter().map(|link| link.capacity.get()).collect();
    let links = capacities.len();
    // Without background the utilisation is proportional to the factor.
    let mut scaled = FlowProblem { background: vec![0.0; links], ..problem.clone() };
    let mut solution = solver.solve(&scaled, deadline)?;
    scaled.background.clone_from(&problem.background);
    let background_fits = problem.background.iter().zip(&capacities).all(|(load, capacity)| load <= capacity);
    let mut iterations = solution.iterations;
    let mut upper_bound = if solution.lower_bound > 0.0 { 1.0 / solution.lower_bound } else { f64::INFINITY };
    let mut link_prices = solution.link_prices.clone();
    if !background_fits || upper_bound.is_infinite() {
        let factor = if background_fits { upper_bound } else { 0.0 };
        return Ok(ConcurrentFlow {
            factor,
            upper_bound: factor,
            status: solution.status,
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
            let next = if per_factor > 0.0 { (1.0 - fixed) / per_factor } else { at };
            if next < upper_bound {
                upper_bound = next;
                link_prices.clone_from(&solution.link_prices);
            }
            if solution.status == FlowStatus::Deadline || !(next > 0.0 && next < at * (1.0 - GAP)) {
                break;
            }
            at = next;
        }
    } else {
        for (target, commodity) in scaled.commodities.iter_mut().zip(&problem.commodities) {
            target.demand = commodity.demand * at;
        }
        for load in &mut solution.loads {
            *load *= at;
        }
    }
    Ok(fit(problem, &capacities, solution, at, upper_bound, link_prices, iterations))
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
    ConcurrentFlow {
        factor: (at * scale).min(upper_bound),
        upper_bound,
        status: solution.status,
        paths: solution.paths,
        loads: loads.map(|(load, background)| background + (load - background) * scale).collect(),
        link_prices,
        iterations,
    }
}

/// How much of the demands fits at most. A commodity that no path joins gets nothing.
///
/// # Errors
/// [`FlowError`] for vectors that do not fit or numbers that are not finite and not negative.
pub fn max_total_flow(problem: &FlowProblem<'_>, deadline: Option<Instant>) -> Result<TotalFlow, FlowError> {
    let mut generation = Generation::new(problem.network);
    generation.check(problem)?;
    generation.path_cost = -1.0;
    for commodity in &problem.commodities {
        if let Some(set) = generation.set(commodity) {
            generation.master.demand[set as usize] += commodity.demand / generation.unit;
        } else {
            generation.add_special_set(commodity, std::iter::empty());
        }
    }
    let unit = generation.unit;
    for link in 0..generation.links() {
        let left = generation.capacities[link] - problem.background[link] / unit;
        generation.master.limit[link] = left.max(0.0);
    }
    generation.set_slacks(1.0);
    generation.master.start_on_keys();
    generation.master.update_prices();
    let mut status = FlowStatus::Optimal;
    let (mut upper_bound, mut link_prices) = (f64::INFINITY, Vec::new());
    loop {
        let lengths: Vec<f64> = generation.master.price.iter().map(|price| price.max(0.0) + BLUR).collect();
        let round = generation.price(&lengths, None);
        let capacity: f64 = generation.master.limit.iter().zip(&lengths).map(|(left, y)| left * y).sum();
        if capacity - round.cost < upper_bound {
            upper_bound = capacity - round.cost;
            link_prices = lengths;
        }
        if !round.found || upper_bound - routed(&generation) <= GAP * upper_bound {
            break;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            status = FlowStatus::Deadline;
            break;
        }
        if generation.pivot(deadline)? == 0 {
            return Err(generation.inaccurate());
        }
    }
    let (paths, _, loads) = generation.shares(problem);
    let routed = |(commodity, paths): (&Commodity, &Vec<PathShare>)| {
        commodity.demand * paths.iter().map(|path| path.share).sum::<f64>()
    };
    let total: f64 = problem.commodities.iter().zip(&paths).map(routed).sum();
    Ok(TotalFlow {
        total,
        upper_bound: (upper_bound * unit).max(total),
        status,
        paths,
        loads,
        link_prices,
        iterations: generation.master.pivots,
    })
}

/// What the basis carries.
fn routed(generation: &Generation) -> f64 {
    let master = &generation.master;
    let keys = master.key.iter().zip(&master.key_value);
    let basic = master.basic.iter().zip(&master.value);
    -keys.chain(basic).map(|(column, value)| master.columns.cost[*column as usize] * value).sum::<f64>()
}
