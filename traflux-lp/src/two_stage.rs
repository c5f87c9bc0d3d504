//! In which order are the stages solved, and what becomes of the answer?
//!
//! 1. `θ*`, the least maximum utilisation. Resources that given load alone (background and lower bounds)
//!    fills beyond it are closed: they get nothing more, and the level of the others is `θ° ≤ θ*`.
//! 2. Least delay, price and churn with every open resource at most `max(ρ_max, (1+ε) θ°)` utilised.
//! 3. Duals in the words of the contract, from the prices that the engine found.

use traflux_core::{Objective, SolveError, SolverStatus, SplitProblem, SplitSolution, TwoStage};

use crate::stage::{Engine, Solved, Stage};
use crate::validate::ValidProblem;

/// Solves a problem with an engine.
pub(crate) fn solve(problem: &SplitProblem, engine: &mut dyn Engine) -> Result<SplitSolution, SolveError> {
    let valid = ValidProblem::new(problem)?;
    engine.take_iterations();
    if valid.total_demand <= 0.0 {
        return keep(&valid, engine.name());
    }
    match &problem.objective {
        Objective::MinMaxWeightedCost { costs } => {
            let shares = engine.literal(&valid, costs)?;
            let worst = shares.iter().zip(costs).map(|(w, k)| w * k).fold(0.0, f64::max);
            let loads = valid.loads(&shares);
            let mut solution = keep(&valid, engine.name())?;
            solution.split = valid.split(shares, engine.name())?;
            solution.status = SolverStatus::Optimal;
            solution.theta = utilization(&valid, &loads);
            solution.objective = worst;
            solution.iterations = engine.take_iterations();
            Ok(solution)
        }
        Objective::TwoStage(goal) => two_stage(&valid, goal, engine),
    }
}

fn two_stage(
    valid: &ValidProblem,
    goal: &TwoStage,
    engine: &mut dyn Engine,
) -> Result<SplitSolution, SolveError> {
    if valid.is_late() {
        return Err(valid.late());
    }
    let mut stage = Stage::new(valid, goal);
    let (theta, level) = levels(&mut stage, engine)?;
    stage.set_caps(level);
    let solved = engine.least_cost(&stage)?;
    finish(&stage, solved, theta, engine)
}

/// `(θ*, θ°)`: with all resources that have capacity, and without those that given load decides.
fn levels(stage: &mut Stage<'_>, engine: &mut dyn Engine) -> Result<(f64, f64), SolveError> {
    let Some(theta) = engine.least_level(stage)? else {
        // Bounds were checked and flows without capacity settled, so only rounding leads here.
        return Err(SolveError::Infeasible { reason: "no split within the bounds".to_owned() });
    };
    let free = stage.goal.max_utilization / (1.0 + stage.goal.slack);
    let given = open(stage).map(|r| stage.forced(r)).fold(0.0, f64::max);
    if theta <= free || theta > given * (1.0 + 1e-9) {
        return Ok((theta, theta));
    }
    let mut order: Vec<usize> = open(stage).filter(|r| stage.forced(*r) > free).collect();
    order.sort_by(|a, b| stage.forced(*b).total_cmp(&stage.forced(*a)).then(a.cmp(b)));
    let forced: Vec<f64> = order.iter().map(|r| stage.forced(*r)).collect();
    // Closing one more is right as long as the others then need no higher level than its own; once it is
    // wrong it stays wrong.
    let (mut right, mut wrong) = (0, order.len() + 1);
    let mut level = theta;
    while wrong - right > 1 {
        let middle = right + (wrong - right) / 2;
        stage.close(&order[..middle]);
        let found = if stage.is_short() { None } else { engine.least_level(stage)? };
        match found {
            Some(found) if found <= forced[middle - 1] * (1.0 + 1e-9) => {
                level = found;
                right = middle;
            }
            _ => wrong = middle,
        }
    }
    stage.close(&order[..right]);
    Ok((theta, level))
}

fn open<'a>(stage: &'a Stage<'_>) -> impl Iterator<Item = usize> + 'a {
    (0..stage.problem.resources()).filter(|r| stage.open[*r])
}

/// The answer to a problem without demand.
fn keep(valid: &ValidProblem, solver: &'static str) -> Result<SplitSolution, SolveError> {
    let theta = utilization(valid, &valid.background);
    Ok(SplitSolution {
        split: valid.split(valid.nearest_shares(), solver)?,
        status: SolverStatus::NoDemand,
        theta,
        objective: 0.0,
        capacity_duals: vec![0.0; valid.resources()],
        demand_duals: vec![0.0; valid.flows()],
        reduced_costs: vec![0.0; valid.routes()],
        budget_dual: 0.0,
        softened: Vec::new(),
        iterations: 0,
        solver: solver.to_owned(),
    })
}

/// Greatest utilisation of a resource that has capacity.
fn utilization(valid: &ValidProblem, loads: &[f64]) -> f64 {
    loads.iter().zip(&valid.capacity).filter(|(_, c)| **c > 0.0).map(|(x, c)| x / c).fold(0.0, f64::max)
}

fn finish(
    stage: &Stage<'_>,
    mut solved: Solved,
    theta: f64,
    engine: &mut dyn Engine,
) -> Result<SplitSolution, SolveError> {
    let valid = stage.problem;
    let goal = stage.goal;
    let split = valid.split(stage.all_shares(&solved.added), engine.name())?;
    let shares = split.shares();
    let loads = valid.loads(shares);
    let objective = objective(valid, goal, shares, &loads);
    price_loads(stage, &loads, &mut solved.resource_price);
    price_closed(stage, shares, &mut solved);
    let marginal = marginal_costs(stage, &solved);
    let capacity_duals = (0..valid.resources())
        .map(|r| {
            let at_cap = loads[r] >= stage.caps[r] * (1.0 - 1e-6);
            let slope = valid.curve[r].as_ref().map_or(0.0, |c| c.slope_after(stage.caps[r]));
            if at_cap { (solved.resource_price[r] - slope).max(0.0) } else { 0.0 }
        })
        .collect();
    let demand_duals = (0..valid.flows())
        .map(|flow| {
            let range = valid.range(flow);
            valid.row(flow).cheapest(&marginal[range.clone()], &valid.previous[range], goal.churn_seconds)
        })
        .collect();
    let reduced_costs = reduced_costs(stage, shares, &marginal);
    let status = if theta > 1.0 + 1e-9 || stage.homeless {
        SolverStatus::Overloaded
    } else if solved.optimal {
        SolverStatus::Optimal
    } else {
        let bound = lower_bound(stage, &solved, &marginal);
        SolverStatus::Gap { gap: ((objective - bound) / objective.abs().max(1e-12)).max(0.0) }
    };
    let mut softened = stage.softened.clone();
    softened.extend(solved.softened);
    Ok(SplitSolution {
        status,
        theta,
        objective,
        capacity_duals,
        demand_duals,
        reduced_costs,
        budget_dual: solved.budget_price,
        softened,
        iterations: engine.take_iterations(),
        solver: engine.name().to_owned(),
        split,
    })
}

/// The stage 2 objective, with latency by tangents.
pub(crate) fn objective(valid: &ValidProblem, goal: &TwoStage, shares: &[f64], loads: &[f64]) -> f64 {
    let mut total = 0.0;
    for (route, share) in shares.iter().enumerate() {
        let demand = valid.demand[valid.flow_of[route]];
        let cost = valid.delay[route] + goal.seconds_per_dollar * valid.price[route];
        total += demand * (cost * share + goal.churn_seconds * (share - valid.previous[route]).abs());
    }
    for (curve, load) in valid.curve.iter().zip(loads) {
        total += curve.as_ref().map_or(0.0, |c| c.value(*load));
    }
    total
}

/// Seconds that one more request on each route costs, churn aside.
fn marginal_costs(stage: &Stage<'_>, solved: &Solved) -> Vec<f64> {
    let valid = stage.problem;
    let dollar = stage.goal.seconds_per_dollar + solved.budget_price;
    (0..valid.routes())
        .map(|route| {
            let resources: f64 =
                valid.uses(route).iter().map(|(r, rate)| rate * solved.resource_price[*r]).sum();
            valid.delay[route] + dollar * valid.price[route] + resources + solved.extra[route]
        })
        .collect()
}

/// The price of a resource that carries nothing but its given load is only bounded from above by what engines
/// see; demand duals need the slope at that load, since lower bounds are shares and grow with demand.
fn price_loads(stage: &Stage<'_>, loads: &[f64], prices: &mut [f64]) {
    const BESIDE: f64 = 1e-7;
    for (r, price) in prices.iter_mut().enumerate() {
        let Some(curve) = &stage.problem.curve[r] else { continue };
        let least = curve.slope_after(loads[r] * (1.0 - BESIDE));
        let most = if loads[r] < stage.caps[r] * (1.0 - BESIDE) {
            curve.slope_after(loads[r] * (1.0 + BESIDE))
        } else {
            f64::INFINITY
        };
        *price = price.clamp(least, most);
    }
}

/// A closed resource costs at least what makes it no better than the best route of each flow: what one more
/// unit of capacity there would save.
fn price_closed(stage: &Stage<'_>, shares: &[f64], solved: &mut Solved) {
    let valid = stage.problem;
    if stage.open.iter().all(|open| *open) {
        return;
    }
    for r in (0..valid.resources()).filter(|r| !stage.open[*r]) {
        solved.resource_price[r] = valid.curve[r].as_ref().map_or(0.0, |c| c.slope_after(stage.fixed[r]));
    }
    let marginal = marginal_costs(stage, solved);
    let mut more = vec![0.0f64; valid.resources()];
    for flow in 0..valid.flows() {
        let Some(best) = best_of_flow(stage, shares, &marginal, flow) else { continue };
        for route in valid.range(flow) {
            if valid.upper[route] <= stage.floor[route] {
                continue;
            }
            let closed = valid.uses(route).iter().find(|(r, _)| !stage.open[*r]);
            if let Some((r, rate)) = closed {
                more[*r] = more[*r].max((best - marginal[route] - stage.goal.churn_seconds) / rate);
            }
        }
    }
    for (price, more) in solved.resource_price.iter_mut().zip(more) {
        *price += more;
    }
}

/// A share that is this close to a bound is at it.
const NEAR: f64 = 1e-9;

/// Seconds that one request more costs on the best route of a flow that may take it; if none may, what one
/// request less saves on the worst.
fn best_of_flow(stage: &Stage<'_>, shares: &[f64], marginal: &[f64], flow: usize) -> Option<f64> {
    let valid = stage.problem;
    let churn = stage.goal.churn_seconds;
    let movable = |r: &usize| valid.upper[*r] > valid.lower[*r] && stage.is_open(*r);
    let receivers = valid.range(flow).filter(movable).filter(|r| shares[*r] < valid.upper[*r] - NEAR);
    let best = receivers.map(|r| upwards(valid, churn, shares, marginal, r)).reduce(f64::min);
    best.or_else(|| {
        valid
            .range(flow)
            .filter(movable)
            .map(|r| downwards(valid, churn, shares, marginal, r))
            .reduce(f64::max)
    })
}

fn upwards(valid: &ValidProblem, churn: f64, shares: &[f64], marginal: &[f64], r: usize) -> f64 {
    marginal[r] + if shares[r] >= valid.previous[r] - NEAR { churn } else { -churn }
}

fn downwards(valid: &ValidProblem, churn: f64, shares: &[f64], marginal: &[f64], r: usize) -> f64 {
    marginal[r] + if shares[r] > valid.previous[r] + NEAR { churn } else { -churn }
}

fn reduced_costs(stage: &Stage<'_>, shares: &[f64], marginal: &[f64]) -> Vec<f64> {
    let valid = stage.problem;
    let churn = stage.goal.churn_seconds;
    let mut out = vec![0.0; shares.len()];
    for flow in 0..valid.flows() {
        let Some(best) = best_of_flow(stage, shares, marginal, flow) else { continue };
        for r in valid.range(flow) {
            let may_fall = shares[r] > valid.lower[r] + NEAR;
            let may_rise = shares[r] < valid.upper[r] - NEAR;
            out[r] = match (may_fall, may_rise) {
                (true, true) if stage.is_open(r) && valid.demand[flow] > 0.0 => 0.0,
                (true, false) => (downwards(valid, churn, shares, marginal, r) - best).min(0.0),
                (false, true) => (upwards(valid, churn, shares, marginal, r) - best).max(0.0),
                // Frozen: what is beyond the churn that moving would cost.
                _ => marginal[r] - best.clamp(marginal[r] - churn, marginal[r] + churn),
            };
        }
    }
    out
}

/// The Lagrangian bound under the prices at hand: no split within the caps costs less.
fn lower_bound(stage: &Stage<'_>, solved: &Solved, marginal: &[f64]) -> f64 {
    let valid = stage.problem;
    let churn = stage.goal.churn_seconds;
    let mut bound = 0.0;
    for flow in 0..valid.flows() {
        let range = valid.range(flow);
        let row = valid.row(flow);
        bound += valid.demand[flow] * row.cheapest(&marginal[range.clone()], &valid.previous[range], churn);
    }
    for r in 0..valid.resources() {
        let price = solved.resource_price[r];
        bound += price * valid.background[r];
        bound += match &valid.curve[r] {
            Some(curve) => curve.least_with_price(price, 0.0, stage.caps[r]),
            None => -price * stage.caps[r],
        };
    }
    bound - solved.budget_price * stage.budget.unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Fleet;
    use crate::transport::TransportEngine;

    #[test]
    fn prices_of_the_transport_solver_prove_that_its_split_is_best() {
        for (flows, endpoints, seeds) in [(1, 100, 20), (6, 100, 20), (10, 1000, 2)] {
            for seed in 0..seeds {
                let load = 0.3 + 0.1 * (seed % 7) as f64;
                let fleet = Fleet { load, ..Fleet::new(flows, endpoints, seed) };
                let problem = fleet.problem();
                let valid = ValidProblem::new(&problem).unwrap();
                let mut engine = TransportEngine::default();
                let mut stage = Stage::new(&valid, &fleet.goal);
                let (_, level) = levels(&mut stage, &mut engine).unwrap();
                stage.set_caps(level);
                let mut solved = engine.least_cost(&stage).unwrap();
                let shares = stage.all_shares(&solved.added);
                let loads = valid.loads(&shares);
                price_loads(&stage, &loads, &mut solved.resource_price);
                let found = objective(&valid, &fleet.goal, &shares, &loads);
                let bound = lower_bound(&stage, &solved, &marginal_costs(&stage, &solved));
                assert!(found - bound <= 1e-9 * found, "{flows} x {endpoints}, {seed}: {found}, {bound}");
            }
        }
    }
}
