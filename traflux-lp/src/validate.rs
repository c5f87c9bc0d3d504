//! Is this a question that can be answered?
//!
//! [`ValidProblem::new`] is the only way in: what it lets through has finite numbers, indices that exist and
//! rows of bounds that contain a split. Every solver works on this form, so all of them refuse the same
//! problems with the same error.

use std::time::{Duration, Instant};

use traflux_core::split::ROW_TOLERANCE;
use traflux_core::{Generation, Objective, Rate, SolveError, Split, SplitProblem, TwoStage};

use crate::bounded::Row;
use crate::convex::Convex;

/// Numbers beyond this are taken for mistakes; below it, no sum of products overflows.
const LARGEST: f64 = 1e15;

/// A [`SplitProblem`] that was checked. Latency curves are tangents here, and consumptions are merged.
#[derive(Debug, Clone)]
pub(crate) struct ValidProblem {
    pub(crate) generation: Generation,
    pub(crate) offsets: Vec<usize>,
    pub(crate) demand: Vec<f64>,
    /// Sum of all demand.
    pub(crate) total_demand: f64,
    pub(crate) lower: Vec<f64>,
    pub(crate) upper: Vec<f64>,
    pub(crate) previous: Vec<f64>,
    pub(crate) delay: Vec<f64>,
    pub(crate) price: Vec<f64>,
    pub(crate) flow_of: Vec<usize>,
    uses_offsets: Vec<usize>,
    uses: Vec<(usize, f64)>,
    pub(crate) capacity: Vec<f64>,
    pub(crate) background: Vec<f64>,
    /// Tangents times the resource's multiplier; `None` where nothing waits.
    pub(crate) curve: Vec<Option<Convex>>,
    pub(crate) domain: Vec<Option<usize>>,
    pub(crate) deadline: Duration,
    pub(crate) until: Instant,
}

impl ValidProblem {
    /// Checks a problem. Time counts from here.
    pub(crate) fn new(problem: &SplitProblem) -> Result<Self, SolveError> {
        let started = Instant::now();
        let flows = problem.demand.len();
        let count = problem.routes.len();
        let offsets = &problem.flow_offsets;
        if offsets.len() != flows + 1 {
            return Err(invalid("number of flow offsets", offsets.len() as f64));
        }
        if offsets[0] != 0 || offsets[flows] != count {
            return Err(invalid("last flow offset", offsets[flows] as f64));
        }
        for (flow, pair) in offsets.windows(2).enumerate() {
            if pair[0] >= pair[1] {
                return Err(invalid(&format!("route count of flow {flow}"), 0.0));
            }
        }
        let mut valid = Self {
            generation: problem.generation,
            offsets: offsets.clone(),
            demand: Vec::with_capacity(flows),
            total_demand: 0.0,
            lower: Vec::with_capacity(count),
            upper: Vec::with_capacity(count),
            previous: Vec::with_capacity(count),
            delay: Vec::with_capacity(count),
            price: Vec::with_capacity(count),
            flow_of: Vec::with_capacity(count),
            uses_offsets: Vec::with_capacity(count + 1),
            uses: Vec::with_capacity(count),
            capacity: Vec::with_capacity(problem.resources.len()),
            background: Vec::with_capacity(problem.resources.len()),
            curve: Vec::with_capacity(problem.resources.len()),
            domain: problem.resources.iter().map(|r| r.domain).collect(),
            deadline: problem.deadline,
            // A deadline beyond what the clock can express is none.
            until: started
                .checked_add(problem.deadline)
                .unwrap_or_else(|| started + Duration::from_secs(86_400)),
        };
        for (flow, demand) in problem.demand.iter().enumerate() {
            valid.demand.push(number(*demand, || format!("demand of flow {flow}"))?);
        }
        valid.total_demand = valid.demand.iter().sum();
        valid.take_objective(&problem.objective, count)?;
        valid.take_resources(problem)?;
        valid.take_routes(problem)?;
        for flow in 0..flows {
            let range = valid.range(flow);
            let lower: f64 = valid.lower[range.clone()].iter().sum();
            let upper: f64 = valid.upper[range].iter().sum();
            if lower > 1.0 + ROW_TOLERANCE || upper < 1.0 - ROW_TOLERANCE {
                return Err(SolveError::InfeasibleBounds { flow, lower, upper });
            }
        }
        Ok(valid)
    }

    /// Number of flows.
    pub(crate) fn flows(&self) -> usize {
        self.demand.len()
    }

    /// Number of routes.
    pub(crate) fn routes(&self) -> usize {
        self.lower.len()
    }

    /// Number of resources.
    pub(crate) fn resources(&self) -> usize {
        self.capacity.len()
    }

    /// Positions of one flow's routes.
    pub(crate) fn range(&self, flow: usize) -> std::ops::Range<usize> {
        self.offsets[flow]..self.offsets[flow + 1]
    }

    /// What a route consumes: (resource, units per request), each resource once.
    pub(crate) fn uses(&self, route: usize) -> &[(usize, f64)] {
        &self.uses[self.uses_offsets[route]..self.uses_offsets[route + 1]]
    }

    /// The bounds of one flow's row.
    pub(crate) fn row(&self, flow: usize) -> Row<'_> {
        let range = self.range(flow);
        Row { lower: &self.lower[range.clone()], upper: &self.upper[range], total: 1.0 }
    }

    /// Load of each resource under these shares, background included.
    pub(crate) fn loads(&self, shares: &[f64]) -> Vec<f64> {
        let mut loads = self.background.clone();
        for (route, share) in shares.iter().enumerate() {
            let volume = share * self.demand[self.flow_of[route]];
            for &(resource, rate) in self.uses(route) {
                loads[resource] += rate * volume;
            }
        }
        loads
    }

    /// The shares in force, moved into the bounds as little as possible.
    pub(crate) fn nearest_shares(&self) -> Vec<f64> {
        let mut shares = Vec::with_capacity(self.routes());
        for flow in 0..self.flows() {
            shares.extend(self.row(flow).nearest(&self.previous[self.range(flow)]));
        }
        shares
    }

    /// Shares as a [`Split`]; rounding is settled within the bounds first.
    pub(crate) fn split(&self, mut shares: Vec<f64>, solver: &'static str) -> Result<Split, SolveError> {
        for flow in 0..self.flows() {
            let range = self.range(flow);
            self.row(flow).settle(&mut shares[range.clone()]);
            // Bounds that miss 1 by rounding leave a sum that does too.
            let sum: f64 = shares[range.clone()].iter().sum();
            if sum > 0.0 {
                shares[range].iter_mut().for_each(|s| *s /= sum);
            }
        }
        Split::new(self.generation, self.offsets.clone(), shares)
            .map_err(|error| SolveError::Failed { solver, reason: error.to_string() })
    }

    /// The error of a deadline that passed.
    pub(crate) fn late(&self) -> SolveError {
        let limit_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        SolveError::Deadline { limit_ms }
    }

    /// Whether the deadline passed.
    pub(crate) fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    fn take_objective(&self, objective: &Objective, routes: usize) -> Result<(), SolveError> {
        match objective {
            Objective::TwoStage(goal) => check_two_stage(goal),
            Objective::MinMaxWeightedCost { costs } => {
                if costs.len() != routes {
                    return Err(invalid("number of costs", costs.len() as f64));
                }
                match costs.iter().position(|c| !(c.is_finite() && *c > 0.0 && *c <= LARGEST)) {
                    Some(route) => Err(invalid(&format!("cost of route {route}"), costs[route])),
                    None => Ok(()),
                }
            }
        }
    }

    fn take_resources(&mut self, problem: &SplitProblem) -> Result<(), SolveError> {
        let tangents = match &problem.objective {
            Objective::TwoStage(goal) => Some(goal.tangents),
            Objective::MinMaxWeightedCost { .. } => None,
        };
        for (ix, resource) in problem.resources.iter().enumerate() {
            let capacity = number(resource.capacity, || format!("capacity of resource {ix}"))?;
            self.capacity.push(capacity);
            self.background.push(number(resource.background, || format!("background of resource {ix}"))?);
            let factor = number(resource.multiplier, || format!("multiplier of resource {ix}"))?;
            let curve = match (&resource.curve, tangents) {
                (Some(curve), Some(count)) if factor > 0.0 && capacity > 0.0 => {
                    Some(Convex::new(&curve.tangents(Rate::saturating(capacity), count), factor))
                }
                _ => None,
            };
            self.curve.push(curve);
        }
        Ok(())
    }

    fn take_routes(&mut self, problem: &SplitProblem) -> Result<(), SolveError> {
        let mut flow = 0;
        for (ix, route) in problem.routes.iter().enumerate() {
            while ix >= self.offsets[flow + 1] {
                flow += 1;
            }
            self.flow_of.push(flow);
            let lower = share(route.lower, || format!("lower bound of route {ix}"))?;
            let upper = share(route.upper, || format!("upper bound of route {ix}"))?;
            if lower > upper + ROW_TOLERANCE {
                return Err(invalid(&format!("lower bound above the upper {upper} of route {ix}"), lower));
            }
            self.lower.push(lower);
            self.upper.push(upper.max(lower));
            self.previous.push(number(route.previous, || format!("previous share of route {ix}"))?);
            self.delay.push(number(route.delay, || format!("delay of route {ix}"))?);
            self.price.push(number(route.price, || format!("price of route {ix}"))?);
            let first = self.uses.len();
            self.uses_offsets.push(first);
            for &(resource, rate) in &route.consumption {
                if resource >= self.capacity.len() {
                    return Err(invalid(&format!("resource index of route {ix}"), resource as f64));
                }
                let rate = number(rate, || format!("consumption of route {ix}"))?;
                if rate == 0.0 {
                    continue;
                }
                match self.uses[first..].iter_mut().find(|(r, _)| *r == resource) {
                    Some((_, sum)) => *sum += rate,
                    None => self.uses.push((resource, rate)),
                }
            }
        }
        self.uses_offsets.push(self.uses.len());
        Ok(())
    }
}

fn check_two_stage(goal: &TwoStage) -> Result<(), SolveError> {
    number(goal.max_utilization, || "max_utilization".into())?;
    number(goal.slack, || "slack".into())?;
    number(goal.seconds_per_dollar, || "seconds_per_dollar".into())?;
    number(goal.churn_seconds, || "churn_seconds".into())?;
    if !(1..=1000).contains(&goal.tangents) {
        return Err(invalid("number of tangents", goal.tangents as f64));
    }
    if let Some(budget) = goal.budget_per_hour {
        number(budget, || "budget_per_hour".into())?;
    }
    if let Some(level) = goal.survive_domain_loss
        && number(level, || "survive_domain_loss".into())? == 0.0
    {
        return Err(invalid("survive_domain_loss", level));
    }
    Ok(())
}

fn number(value: f64, what: impl FnOnce() -> String) -> Result<f64, SolveError> {
    if value.is_finite() && (0.0..=LARGEST).contains(&value) {
        Ok(value + 0.0)
    } else {
        Err(SolveError::Invalid { what: what(), value })
    }
}

fn share(value: f64, what: impl FnOnce() -> String) -> Result<f64, SolveError> {
    if value.is_finite() && (-ROW_TOLERANCE..=1.0 + ROW_TOLERANCE).contains(&value) {
        Ok(value.clamp(0.0, 1.0))
    } else {
        Err(SolveError::Invalid { what: what(), value })
    }
}

fn invalid(what: &str, value: f64) -> SolveError {
    SolveError::Invalid { what: what.to_owned(), value }
}
