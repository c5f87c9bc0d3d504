//! Are these flows what they say they are?
//!
//! [`verify`] recomputes paths, shares, loads, utilisation and bound from the problem alone, with a
//! shortest-path search of its own. Since the bound is proven by weak duality, a solution that passes with a gap
//! of zero is an optimum, whoever found it.

use traflux_core::{BaseRouting, LinkIx, NodeIx, PathShare};

use super::delay::least_at;
use super::{ConcurrentFlow, DelayCurve, DelaySolution, FlowProblem, FlowSolution, LargeSolution, TotalFlow};

/// Relative tolerance of all comparisons.
pub const TOLERANCE: f64 = 1e-9;

/// What flows claim and do not keep.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FlowCheckError {
    /// A vector has the wrong length.
    #[error("{what} has {found} entries, expected {expected}")]
    Shape {
        /// Which vector.
        what: &'static str,
        /// Length expected.
        expected: usize,
        /// Length found.
        found: usize,
    },
    /// A path does not join the ends of its commodity.
    #[error("path {path} of commodity {commodity} does not lead from its source to its target")]
    Path {
        /// The commodity.
        commodity: usize,
        /// Position among its paths.
        path: usize,
    },
    /// A share is not in (0, 1], or the shares of a commodity do not sum to what they should.
    #[error("shares of commodity {commodity} sum to {sum}, expected {expected}")]
    Shares {
        /// The commodity.
        commodity: usize,
        /// Their sum, NaN where one of them is no share.
        sum: f64,
        /// What they should sum to.
        expected: f64,
    },
    /// A number is not what flows and prices give.
    #[error("{what} is stated as {stated}, the flows give {found}")]
    Value {
        /// Which number.
        what: &'static str,
        /// What the solution says.
        stated: f64,
        /// What was found.
        found: f64,
    },
    /// Prices that are negative or not scaled.
    #[error("the price of link {link} is {price}")]
    Price {
        /// The link.
        link: usize,
        /// Its price.
        price: f64,
    },
}

impl FlowCheckError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Shape { .. } => "flow_check_shape",
            Self::Path { .. } => "flow_check_path",
            Self::Shares { .. } => "flow_check_shares",
            Self::Value { .. } => "flow_check_value",
            Self::Price { .. } => "flow_check_price",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}

/// Checks everything that a solution over all paths claims.
///
/// `base` is what `base_share` refers to; without one no share may stay on it.
///
/// # Errors
/// The first claim that does not hold.
pub fn verify(
    problem: &FlowProblem<'_>,
    base: Option<&BaseRouting>,
    solution: &FlowSolution,
) -> Result<(), FlowCheckError> {
    verify_flows(problem, base, solution)?;
    let bound = bound(problem, &solution.link_prices)?;
    close("lower bound", solution.lower_bound, bound, bound)
}

/// As [`verify`] for flows over listed paths, see
/// [`MinMaxSolver::solve_listed`](super::MinMaxSolver::solve_listed).
///
/// # Errors
/// The first claim that does not hold.
pub fn verify_listed(
    problem: &FlowProblem<'_>,
    listed: &[Vec<Vec<LinkIx>>],
    solution: &FlowSolution,
) -> Result<(), FlowCheckError> {
    verify_flows(problem, None, solution)?;
    shape("list of paths", problem.commodities.len(), listed.len())?;
    for (commodity, (paths, listed)) in solution.paths.iter().zip(listed).enumerate() {
        if let Some(path) = paths.iter().position(|path| !listed.contains(&path.links)) {
            return Err(FlowCheckError::Path { commodity, path });
        }
    }
    let prices = &solution.link_prices;
    check_prices(problem, prices)?;
    let mut bound: f64 = problem.background.iter().zip(prices).map(|(load, price)| load * price).sum();
    for (commodity, listed) in problem.commodities.iter().zip(listed) {
        let along = |path: &Vec<LinkIx>| path.iter().map(|link| prices[link.ix()]).sum::<f64>();
        bound += commodity.demand * listed.iter().map(along).fold(f64::INFINITY, f64::min);
    }
    close("lower bound", solution.lower_bound, bound, bound)
}

/// As [`verify`] for the flows of [`LargeSolver`](super::LargeSolver).
///
/// # Errors
/// The first claim that does not hold.
pub fn verify_large(problem: &FlowProblem<'_>, solution: &LargeSolution) -> Result<(), FlowCheckError> {
    let commodities = problem.commodities.len();
    shape("paths", commodities, solution.paths.len())?;
    let mut loads = problem.background.clone();
    for at in 0..commodities {
        let sum = add_flows(problem, at, solution.paths.of(at), &mut loads)?;
        sums_to(at, sum, 1.0)?;
    }
    same_loads(&solution.loads, &loads)?;
    maximum(problem, &loads, solution.utilization, solution.lower_bound)?;
    let bound = bound(problem, &solution.link_prices)?;
    close("lower bound", solution.lower_bound, bound, bound)
}

/// Checks everything that flows of the least delay claim, see [`least_delay`](super::least_delay).
///
/// # Errors
/// The first claim that does not hold.
pub fn verify_delay(
    problem: &FlowProblem<'_>,
    curve: &DelayCurve,
    solution: &DelaySolution,
) -> Result<(), FlowCheckError> {
    shape("paths", problem.commodities.len(), solution.paths.len())?;
    let mut loads = problem.background.clone();
    for (at, paths) in solution.paths.iter().enumerate() {
        add_paths(problem, at, paths, 1.0, &mut loads)?;
    }
    same_loads(&solution.loads, &loads)?;
    let links = || problem.network.links().iter().map(|link| link.capacity.get());
    let cost: f64 = links().zip(&loads).map(|(capacity, load)| curve.at(load / capacity)).sum();
    close("cost", solution.cost, cost, cost)?;
    not_above("lower bound", solution.lower_bound, solution.cost)?;
    let prices = &solution.link_prices;
    check_signs(problem, prices)?;
    let mut bound = routing_cost(problem, prices);
    let mut scale = bound;
    for (link, (capacity, price)) in links().zip(prices).enumerate() {
        if price * capacity > curve.steepest() * (1.0 + TOLERANCE) {
            return Err(FlowCheckError::Price { link, price: *price });
        }
        let least = least_at(curve, capacity, problem.background[link], *price);
        bound += least;
        scale += least.abs();
    }
    close("lower bound", solution.lower_bound, bound, scale)
}

/// Checks everything that a maximum total flow claims, see [`max_total_flow`](super::max_total_flow).
///
/// # Errors
/// The first claim that does not hold.
pub fn verify_total(problem: &FlowProblem<'_>, solution: &TotalFlow) -> Result<(), FlowCheckError> {
    shape("paths", problem.commodities.len(), solution.paths.len())?;
    let mut loads = problem.background.clone();
    let mut total = 0.0;
    for (at, (commodity, paths)) in problem.commodities.iter().zip(&solution.paths).enumerate() {
        let sum = add_flows(problem, at, slices(paths), &mut loads)?;
        if !(0.0..=1.0 + TOLERANCE).contains(&sum) {
            return Err(FlowCheckError::Shares { commodity: at, sum, expected: 1.0 });
        }
        total += commodity.demand * sum;
    }
    same_loads(&solution.loads, &loads)?;
    within_capacities(problem, &loads)?;
    close("total", solution.total, total, total)?;
    not_above("total", solution.total, solution.upper_bound)?;
    let prices = &solution.link_prices;
    check_signs(problem, prices)?;
    let left = problem.network.links().iter().zip(&problem.background);
    let left = left.map(|(link, load)| (link.capacity.get() - load).max(0.0));
    let mut bound: f64 = left.zip(prices).map(|(left, price)| left * price).sum();
    each_distance(problem, prices, |commodity, distance| {
        bound += problem.commodities[commodity].demand * (1.0 - distance).max(0.0);
    });
    close("upper bound", solution.upper_bound, bound, bound)
}

/// Checks everything that a maximum concurrent flow claims, see
/// [`max_concurrent_flow`](super::max_concurrent_flow).
///
/// # Errors
/// The first claim that does not hold.
pub fn verify_concurrent(problem: &FlowProblem<'_>, solution: &ConcurrentFlow) -> Result<(), FlowCheckError> {
    shape("paths", problem.commodities.len(), solution.paths.len())?;
    not_above("factor", solution.factor, solution.upper_bound)?;
    let prices = &solution.link_prices;
    check_prices(problem, prices)?;
    let mut loads = problem.background.clone();
    let grown = FlowProblem {
        commodities: problem
            .commodities
            .iter()
            .map(|c| super::Commodity { demand: c.demand * factor_of(solution), ..*c })
            .collect(),
        ..problem.clone()
    };
    for (at, paths) in solution.paths.iter().enumerate() {
        add_paths(&grown, at, paths, 1.0, &mut loads)?;
    }
    same_loads(&solution.loads, &loads)?;
    let left = problem.network.links().iter().zip(&problem.background);
    let left: f64 = left.zip(prices).map(|((link, load), price)| (link.capacity.get() - load) * price).sum();
    if left < 0.0 && solution.upper_bound == 0.0 {
        // The background alone does not fit.
        return Ok(());
    }
    within_capacities(problem, &loads)?;
    let per_factor = routing_cost(problem, prices);
    let bound = if per_factor > 0.0 { left.max(0.0) / per_factor } else { f64::INFINITY };
    if bound == solution.upper_bound {
        return Ok(());
    }
    close("upper bound", solution.upper_bound, bound, 1.0 / per_factor)
}

/// The factor by which demands are to be multiplied; where there are none, any is fine.
fn factor_of(solution: &ConcurrentFlow) -> f64 {
    if solution.factor.is_finite() { solution.factor } else { 1.0 }
}

/// Everything but the bound.
fn verify_flows(
    problem: &FlowProblem<'_>,
    base: Option<&BaseRouting>,
    solution: &FlowSolution,
) -> Result<(), FlowCheckError> {
    let commodities = problem.commodities.len();
    shape("paths", commodities, solution.paths.len())?;
    shape("base shares", commodities, solution.base_share.len())?;
    shape("loads", problem.network.links().len(), solution.loads.len())?;
    let mut loads = problem.background.clone();
    for (at, commodity) in problem.commodities.iter().enumerate() {
        let rest = solution.base_share[at];
        let allowed = if base.is_some() { 0.0..=1.0 + TOLERANCE } else { 0.0..=0.0 };
        if !allowed.contains(&rest) {
            return Err(FlowCheckError::Shares { commodity: at, sum: rest, expected: 0.0 });
        }
        add_paths(problem, at, &solution.paths[at], 1.0 - rest, &mut loads)?;
        if let Some(base) = base.filter(|_| rest > 0.0) {
            for (link, part) in base.of(problem.network.pair_ix(commodity.source, commodity.target)) {
                loads[link.ix()] += commodity.demand * rest * part;
            }
        }
    }
    same_loads(&solution.loads, &loads)?;
    maximum(problem, &loads, solution.utilization, solution.lower_bound)
}

/// The utilisation is that of the loads, the bound not above.
fn maximum(
    problem: &FlowProblem<'_>,
    loads: &[f64],
    utilization: f64,
    lower_bound: f64,
) -> Result<(), FlowCheckError> {
    let found = problem.network.max_utilization(loads);
    close("utilisation", utilization, found, found)?;
    not_above("lower bound", lower_bound, utilization)
}

fn not_above(what: &'static str, stated: f64, found: f64) -> Result<(), FlowCheckError> {
    if stated <= found { Ok(()) } else { Err(FlowCheckError::Value { what, stated, found }) }
}

fn within_capacities(problem: &FlowProblem<'_>, loads: &[f64]) -> Result<(), FlowCheckError> {
    let links = problem.network.links().iter().zip(loads).zip(&problem.background);
    for ((link, load), background) in links {
        // A link that the background overfills may carry no more than that.
        let most = link.capacity.get().max(*background);
        if *load > most * (1.0 + TOLERANCE) {
            return Err(FlowCheckError::Value { what: "load within capacity", stated: most, found: *load });
        }
    }
    Ok(())
}

/// Checks the paths of one commodity, whose shares should sum to `expected`, and adds their load.
pub(super) fn add_paths(
    problem: &FlowProblem<'_>,
    commodity: usize,
    paths: &[PathShare],
    expected: f64,
    loads: &mut [f64],
) -> Result<(), FlowCheckError> {
    let sum = add_flows(problem, commodity, slices(paths), loads)?;
    sums_to(commodity, sum, expected)
}

fn slices(paths: &[PathShare]) -> impl Iterator<Item = (f64, &[LinkIx])> {
    paths.iter().map(|path| (path.share, &path.links[..]))
}

fn sums_to(commodity: usize, sum: f64, expected: f64) -> Result<(), FlowCheckError> {
    if (sum - expected).abs() <= TOLERANCE {
        Ok(())
    } else {
        Err(FlowCheckError::Shares { commodity, sum, expected })
    }
}

/// Checks the paths of one commodity and adds their load; the sum of shares, NaN where one is none.
fn add_flows<'a>(
    problem: &FlowProblem<'_>,
    commodity: usize,
    paths: impl Iterator<Item = (f64, &'a [LinkIx])>,
    loads: &mut [f64],
) -> Result<f64, FlowCheckError> {
    let ends = &problem.commodities[commodity];
    let mut sum = 0.0;
    for (path, (share, links)) in paths.enumerate() {
        let mut node = ends.source;
        for link in links {
            match problem.network.links().get(link.ix()) {
                Some(found) if found.tail == node => node = found.head,
                _ => return Err(FlowCheckError::Path { commodity, path }),
            }
            loads[link.ix()] += ends.demand * share;
        }
        if node != ends.target {
            return Err(FlowCheckError::Path { commodity, path });
        }
        sum += if share > 0.0 { share } else { f64::NAN };
    }
    Ok(sum)
}

pub(super) fn shape(what: &'static str, expected: usize, found: usize) -> Result<(), FlowCheckError> {
    if expected == found { Ok(()) } else { Err(FlowCheckError::Shape { what, expected, found }) }
}

pub(super) fn close(what: &'static str, stated: f64, found: f64, scale: f64) -> Result<(), FlowCheckError> {
    if (stated - found).abs() <= TOLERANCE * scale.abs() {
        Ok(())
    } else {
        Err(FlowCheckError::Value { what, stated, found })
    }
}

pub(super) fn same_loads(stated: &[f64], found: &[f64]) -> Result<(), FlowCheckError> {
    shape("loads", found.len(), stated.len())?;
    let scale = found.iter().copied().fold(0.0, f64::max);
    stated.iter().zip(found).try_for_each(|(stated, found)| close("load", *stated, *found, scale))
}

fn check_signs(problem: &FlowProblem<'_>, prices: &[f64]) -> Result<(), FlowCheckError> {
    shape("prices", problem.network.links().len(), prices.len())?;
    match prices.iter().position(|price| !(price.is_finite() && *price >= 0.0)) {
        Some(link) => Err(FlowCheckError::Price { link, price: prices[link] }),
        None => Ok(()),
    }
}

fn check_prices(problem: &FlowProblem<'_>, prices: &[f64]) -> Result<(), FlowCheckError> {
    check_signs(problem, prices)?;
    if prices.is_empty() {
        return Ok(());
    }
    let scale: f64 =
        problem.network.links().iter().zip(prices).map(|(link, price)| link.capacity.get() * price).sum();
    close("sum of capacities times prices", 1.0, scale, 1.0)
}

fn bound(problem: &FlowProblem<'_>, prices: &[f64]) -> Result<f64, FlowCheckError> {
    check_prices(problem, prices)?;
    let fixed: f64 = problem.background.iter().zip(prices).map(|(load, price)| load * price).sum();
    Ok(fixed + routing_cost(problem, prices))
}

/// What all commodities cost on their shortest paths.
fn routing_cost(problem: &FlowProblem<'_>, prices: &[f64]) -> f64 {
    let mut cost = 0.0;
    each_distance(problem, prices, |commodity, distance| {
        cost += problem.commodities[commodity].demand * distance;
    });
    cost
}

/// Visits each commodity that has a demand with the length of its shortest path.
fn each_distance(problem: &FlowProblem<'_>, prices: &[f64], mut visit: impl FnMut(usize, f64)) {
    let mut order: Vec<usize> = (0..problem.commodities.len()).collect();
    order.sort_by_key(|at| problem.commodities[*at].source);
    let mut known: Option<(NodeIx, Vec<f64>)> = None;
    for at in order {
        let commodity = &problem.commodities[at];
        if known.as_ref().is_none_or(|(source, _)| *source != commodity.source) {
            known = Some((commodity.source, distances(problem, commodity.source, prices)));
        }
        if let Some((_, distances)) = &known
            && commodity.demand > 0.0
        {
            visit(at, distances[commodity.target.ix()]);
        }
    }
}

/// Distances from a node, by relaxing every link until nothing changes.
pub(super) fn distances(problem: &FlowProblem<'_>, source: NodeIx, lengths: &[f64]) -> Vec<f64> {
    let mut distance = vec![f64::INFINITY; problem.network.nodes().len()];
    distance[source.ix()] = 0.0;
    for _ in 0..distance.len() {
        let mut changed = false;
        for (link, length) in problem.network.links().iter().zip(lengths) {
            let along = distance[link.tail.ix()] + length;
            if along < distance[link.head.ix()] {
                distance[link.head.ix()] = along;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    distance
}
