//! Is this solution what it says it is?
//!
//! [`verify`] recomputes sums, bounds, loads, caps, budget and objective from the problem alone, with none of
//! the code that solvers use, and checks that duals have the signs that optimality needs. It cannot prove
//! that no better split exists; comparing solvers and perturbing problems does that.

use traflux_core::{Objective, Rate, SolverStatus, SplitProblem, SplitSolution, TwoStage};

/// What a solution claims and does not keep.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CheckError {
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
    /// The shares of a flow do not sum to one.
    #[error("shares of flow {flow} sum to {sum}, expected 1")]
    Sum {
        /// The flow.
        flow: usize,
        /// Their sum.
        sum: f64,
    },
    /// A share is outside its bounds.
    #[error("share {share} of route {route} is outside [{lower}, {upper}]")]
    Bound {
        /// The route.
        route: usize,
        /// Its share.
        share: f64,
        /// Its lower bound.
        lower: f64,
        /// Its upper bound.
        upper: f64,
    },
    /// A resource is loaded beyond its cap.
    #[error("load {load}/s of resource {resource} is above its cap {cap}/s")]
    Cap {
        /// The resource.
        resource: usize,
        /// Its load.
        load: f64,
        /// Its cap.
        cap: f64,
    },
    /// More is spent than the budget, and nothing was reported as softened.
    #[error("spends ${spent}/h, budget ${budget}/h")]
    Budget {
        /// Dollars per hour.
        spent: f64,
        /// The limit.
        budget: f64,
    },
    /// The stated objective is not that of the split.
    #[error("objective is stated as {stated}, the split gives {found}")]
    Objective {
        /// What the solution says.
        stated: f64,
        /// What its split gives.
        found: f64,
    },
    /// A dual has a sign that optimality excludes.
    #[error("{what} {at} is {value}, which optimality excludes")]
    Dual {
        /// Which dual.
        what: &'static str,
        /// Of which position.
        at: usize,
        /// Its value.
        value: f64,
    },
}

impl CheckError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Shape { .. } => "check_shape",
            Self::Sum { .. } => "check_sum",
            Self::Bound { .. } => "check_bound",
            Self::Cap { .. } => "check_cap",
            Self::Budget { .. } => "check_budget",
            Self::Objective { .. } => "check_objective",
            Self::Dual { .. } => "check_dual",
        }
    }

    /// A solution that is wrong stays wrong.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}

/// What a split amounts to, recomputed from the problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// Load of each resource, background included, in its unit per second.
    pub loads: Vec<f64>,
    /// Greatest utilisation of a resource that has capacity.
    pub utilization: f64,
    /// Objective of stage 2 in seconds per second, latency by tangents; of the literal form its maximum.
    pub objective: f64,
    /// Marginal dollars per hour.
    pub dollars_per_hour: f64,
}

/// Recomputes what shares amount to. `None` when there is not one share per route, or indices of the problem
/// point outside.
///
/// ```
/// # use traflux_core::{Generation, Objective, ProblemResource, ProblemRoute, SplitProblem, TwoStage};
/// # let route = |resource| ProblemRoute {
/// #     lower: 0.0, upper: 1.0, previous: 0.5, delay: 0.01, price: 2e-6, consumption: vec![(resource, 1.0)],
/// # };
/// # let resource = ProblemResource {
/// #     capacity: 100.0, background: 10.0, curve: None, multiplier: 1.0, domain: None,
/// # };
/// # let problem = SplitProblem {
/// #     generation: Generation(0), flow_offsets: vec![0, 2], demand: vec![50.0],
/// #     routes: vec![route(0), route(1)], resources: vec![resource.clone(), resource],
/// #     objective: Objective::TwoStage(TwoStage::default()),
/// #     deadline: std::time::Duration::from_secs(1),
/// # };
/// let audit = traflux_lp::check::audit(&problem, &[0.2, 0.8]).expect("two routes, two shares");
/// assert!((audit.loads[1] - 50.0).abs() < 1e-12);
/// assert!((audit.utilization - 0.5).abs() < 1e-12);
/// ```
#[must_use]
pub fn audit(problem: &SplitProblem, shares: &[f64]) -> Option<Audit> {
    if shares.len() != problem.routes.len() || problem.flow_offsets.len() != problem.demand.len() + 1 {
        return None;
    }
    let mut loads: Vec<f64> = problem.resources.iter().map(|r| r.background).collect();
    let mut dollars = 0.0;
    let mut delay = 0.0;
    let mut churn = 0.0;
    for (flow, demand) in problem.demand.iter().enumerate() {
        for ix in problem.flow_offsets[flow]..problem.flow_offsets[flow + 1] {
            let route = problem.routes.get(ix)?;
            let volume = demand * shares[ix];
            dollars += route.price * volume;
            delay += route.delay * volume;
            churn += demand * (shares[ix] - route.previous).abs();
            for (resource, rate) in &route.consumption {
                *loads.get_mut(*resource)? += rate * volume;
            }
        }
    }
    let mut utilization = 0.0f64;
    for (resource, load) in problem.resources.iter().zip(&loads) {
        if resource.capacity > 0.0 {
            utilization = utilization.max(load / resource.capacity);
        }
    }
    let objective = match &problem.objective {
        Objective::TwoStage(goal) => {
            let mut total = delay + goal.seconds_per_dollar * dollars + goal.churn_seconds * churn;
            for (resource, load) in problem.resources.iter().zip(&loads) {
                if let Some(curve) = &resource.curve {
                    let tangents = curve.tangents(Rate::saturating(resource.capacity), goal.tangents);
                    let highest = tangents.iter().map(|t| t.slope * load + t.intercept).fold(0.0, f64::max);
                    total += resource.multiplier * highest;
                }
            }
            total
        }
        Objective::MinMaxWeightedCost { costs } => {
            costs.iter().zip(shares).map(|(k, w)| k * w).fold(0.0, f64::max)
        }
    };
    Some(Audit { loads, utilization, objective, dollars_per_hour: dollars * 3600.0 })
}

/// Checks a solution against its problem. `tolerance` is relative, without unit: 1e-6 suits every solver here.
///
/// # Errors
/// [`CheckError`], the first claim that does not hold.
pub fn verify(problem: &SplitProblem, solution: &SplitSolution, tolerance: f64) -> Result<Audit, CheckError> {
    let shares = solution.split.shares();
    for (what, expected, found) in [
        ("split", problem.routes.len(), shares.len()),
        ("capacity_duals", problem.resources.len(), solution.capacity_duals.len()),
        ("demand_duals", problem.demand.len(), solution.demand_duals.len()),
        ("reduced_costs", problem.routes.len(), solution.reduced_costs.len()),
    ] {
        if expected != found {
            return Err(CheckError::Shape { what, expected, found });
        }
    }
    for flow in 0..problem.demand.len() {
        let range = problem.flow_offsets[flow]..problem.flow_offsets[flow + 1];
        let sum: f64 = shares[range.clone()].iter().sum();
        if sum.is_nan() || (sum - 1.0).abs() > tolerance.min(1e-9) {
            return Err(CheckError::Sum { flow, sum });
        }
        for route in range {
            let (share, bounds) = (shares[route], &problem.routes[route]);
            if !(share >= bounds.lower - tolerance && share <= bounds.upper + tolerance) {
                let (lower, upper) = (bounds.lower, bounds.upper);
                return Err(CheckError::Bound { route, share, lower, upper });
            }
        }
    }
    let audit = audit(problem, shares).ok_or(CheckError::Shape {
        what: "problem",
        expected: problem.routes.len(),
        found: shares.len(),
    })?;
    if solution.status == SolverStatus::NoDemand {
        return Ok(audit);
    }
    let off = (solution.objective - audit.objective).abs();
    if off.is_nan() || off > tolerance * audit.objective.abs().max(1e-12) {
        return Err(CheckError::Objective { stated: solution.objective, found: audit.objective });
    }
    if let Objective::TwoStage(goal) = &problem.objective {
        verify_limits(problem, solution, goal, &audit, tolerance)?;
        verify_duals(problem, solution, goal, &audit, tolerance)?;
    }
    Ok(audit)
}

fn cap(problem: &SplitProblem, goal: &TwoStage, theta: f64, resource: usize) -> f64 {
    goal.max_utilization.max((1.0 + goal.slack) * theta) * problem.resources[resource].capacity
}

fn verify_limits(
    problem: &SplitProblem,
    solution: &SplitSolution,
    goal: &TwoStage,
    audit: &Audit,
    tolerance: f64,
) -> Result<(), CheckError> {
    for (resource, load) in audit.loads.iter().copied().enumerate() {
        let cap = cap(problem, goal, solution.theta, resource);
        if problem.resources[resource].capacity > 0.0 && load > cap * (1.0 + tolerance) {
            return Err(CheckError::Cap { resource, load, cap });
        }
    }
    match goal.budget_per_hour {
        Some(budget)
            if solution.softened.is_empty() && audit.dollars_per_hour > budget * (1.0 + tolerance) =>
        {
            Err(CheckError::Budget { spent: audit.dollars_per_hour, budget })
        }
        _ => Ok(()),
    }
}

fn verify_duals(
    problem: &SplitProblem,
    solution: &SplitSolution,
    goal: &TwoStage,
    audit: &Audit,
    tolerance: f64,
) -> Result<(), CheckError> {
    // Seconds that count as nothing, beside the costs at hand.
    let typical = problem.routes.iter().map(|r| r.delay).sum::<f64>() / problem.routes.len().max(1) as f64
        + audit.objective.abs() / problem.demand.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let nothing = 100.0 * tolerance * typical;
    let mut given: Vec<f64> = problem.resources.iter().map(|r| r.background).collect();
    for flow in 0..problem.demand.len() {
        for ix in problem.flow_offsets[flow]..problem.flow_offsets[flow + 1] {
            let route = &problem.routes[ix];
            for (resource, rate) in &route.consumption {
                given[*resource] += rate * route.lower * problem.demand[flow];
            }
            let value = solution.reduced_costs[ix];
            let share = solution.split.shares()[ix];
            // Without demand any share is as good, and without capacity there was no choice.
            let open = problem.demand[flow] > 0.0
                && route.consumption.iter().all(|(r, _)| problem.resources[*r].capacity > 0.0);
            let (falls, rises) = (share > route.lower + tolerance, share < route.upper - tolerance);
            let excluded = match (falls, rises) {
                (true, true) => value.abs() > nothing,
                (false, true) => value < -nothing,
                (true, false) => value > nothing,
                (false, false) => false,
            };
            if open && excluded {
                return Err(CheckError::Dual { what: "reduced cost of route", at: ix, value });
            }
        }
    }
    for (resource, dual) in solution.capacity_duals.iter().copied().enumerate() {
        let (load, given) = (audit.loads[resource], given[resource]);
        let capacity = problem.resources[resource].capacity;
        let level = if capacity > 0.0 { load / capacity } else { f64::INFINITY };
        // At its cap, or a resource that given load alone fills.
        let full =
            level >= goal.max_utilization * (1.0 - 10.0 * tolerance) || load <= given * (1.0 + tolerance);
        if dual.is_nan() || dual < 0.0 || (dual > nothing && !full) {
            return Err(CheckError::Dual { what: "capacity dual of resource", at: resource, value: dual });
        }
    }
    if let Some(budget) = goal.budget_per_hour {
        let spare = audit.dollars_per_hour < budget * (1.0 - 10.0 * tolerance);
        let dual = solution.budget_dual;
        if dual.is_nan() || dual < 0.0 || (spare && dual > nothing * 1e6) {
            return Err(CheckError::Dual { what: "budget dual", at: 0, value: dual });
        }
    }
    Ok(())
}
