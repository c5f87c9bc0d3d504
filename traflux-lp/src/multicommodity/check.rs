//! Are these flows what they say they are?
//!
//! [`verify`] recomputes paths, shares, loads, utilisation and bound from the problem alone, with a
//! shortest-path search of its own. Since the bound is proven by weak duality, a solution that passes with a gap
//! of zero is an optimum, whoever found it.

use traflux_core::{BaseRouting, LinkIx, NodeIx, PathShare};

use super::{FlowProblem, FlowSolution};

/// Relative tolerance of all comparisons.
const TOLERANCE: f64 = 1e-9;

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
    let bound =
        bound(problem, &solution.link_prices, |source| distances(problem, source, &solution.link_prices))?;
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
    let utilization = problem.network.max_utilization(&loads);
    close("utilisation", solution.utilization, utilization, utilization)?;
    if solution.lower_bound > solution.utilization {
        let (stated, found) = (solution.lower_bound, solution.utilization);
        return Err(FlowCheckError::Value { what: "lower bound", stated, found });
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
    let ends = &problem.commodities[commodity];
    let mut sum = 0.0;
    for (path, share) in paths.iter().enumerate() {
        let mut node = ends.source;
        for link in &share.links {
            match problem.network.links().get(link.ix()) {
                Some(found) if found.tail == node => node = found.head,
                _ => return Err(FlowCheckError::Path { commodity, path }),
            }
            loads[link.ix()] += ends.demand * share.share;
        }
        if node != ends.target {
            return Err(FlowCheckError::Path { commodity, path });
        }
        sum += if share.share > 0.0 { share.share } else { f64::NAN };
    }
    if (sum - expected).abs() <= TOLERANCE {
        Ok(())
    } else {
        Err(FlowCheckError::Shares { commodity, sum, expected })
    }
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
    let scale = found.iter().copied().fold(0.0, f64::max);
    stated.iter().zip(found).try_for_each(|(stated, found)| close("load", *stated, *found, scale))
}

fn check_prices(problem: &FlowProblem<'_>, prices: &[f64]) -> Result<(), FlowCheckError> {
    shape("prices", problem.network.links().len(), prices.len())?;
    if let Some(link) = prices.iter().position(|price| !(price.is_finite() && *price >= 0.0)) {
        return Err(FlowCheckError::Price { link, price: prices[link] });
    }
    if prices.is_empty() {
        return Ok(());
    }
    let scale: f64 =
        problem.network.links().iter().zip(prices).map(|(link, price)| link.capacity.get() * price).sum();
    close("sum of capacities times prices", 1.0, scale, 1.0)
}

fn bound(
    problem: &FlowProblem<'_>,
    prices: &[f64],
    distances: impl Fn(NodeIx) -> Vec<f64>,
) -> Result<f64, FlowCheckError> {
    check_prices(problem, prices)?;
    let mut bound: f64 = problem.background.iter().zip(prices).map(|(load, price)| load * price).sum();
    let mut order: Vec<usize> = (0..problem.commodities.len()).collect();
    order.sort_by_key(|at| problem.commodities[*at].source);
    let mut known: Option<(NodeIx, Vec<f64>)> = None;
    for at in order {
        let commodity = &problem.commodities[at];
        if known.as_ref().is_none_or(|(source, _)| *source != commodity.source) {
            known = Some((commodity.source, distances(commodity.source)));
        }
        if let Some((_, distances)) = &known
            && commodity.demand > 0.0
        {
            bound += commodity.demand * distances[commodity.target.ix()];
        }
    }
    Ok(bound)
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
