//! What can still move, where, and how far?
//!
//! Volumes above the lower bounds are what an engine decides; loads from background and lower bounds are
//! given. A resource that this given load alone fills above the level that all others can keep gets nothing
//! more, and does not raise the cap of the others: one dead endpoint with a probe share must not lift the
//! limit of a healthy one.

use traflux_core::{SolveError, TwoStage};

use crate::bounded::Row;
use crate::validate::ValidProblem;

/// The two-stage problem in volumes above the lower bounds.
#[derive(Debug, Clone)]
pub(crate) struct Stage<'a> {
    pub(crate) problem: &'a ValidProblem,
    pub(crate) goal: &'a TwoStage,
    /// Least share of each route now: the lower bound, or the share itself where a flow had no choice.
    pub(crate) floor: Vec<f64>,
    /// By route: volume that may be added to the floor, requests/s.
    pub(crate) room: Vec<f64>,
    /// By flow: volume that the floors leave to be placed, requests/s.
    pub(crate) need: Vec<f64>,
    /// By resource: load from background and floors.
    pub(crate) fixed: Vec<f64>,
    /// By resource: takes part in the level `θ` and may receive more.
    pub(crate) open: Vec<bool>,
    /// By resource: greatest load in stage 2.
    pub(crate) caps: Vec<f64>,
    /// Most dollars per second.
    pub(crate) budget: Option<f64>,
    /// Departures from the problem, in words.
    pub(crate) softened: Vec<String>,
    /// Some demand has to go where there is no capacity.
    pub(crate) homeless: bool,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(problem: &'a ValidProblem, goal: &'a TwoStage) -> Self {
        let mut stage = Self {
            problem,
            goal,
            floor: problem.lower.clone(),
            room: Vec::new(),
            need: Vec::new(),
            fixed: Vec::new(),
            open: problem.capacity.iter().map(|c| *c > 0.0).collect(),
            caps: problem.capacity.clone(),
            budget: goal.budget_per_hour.map(|b| b / 3600.0),
            softened: Vec::new(),
            homeless: false,
        };
        stage.settle_homeless();
        stage.refresh();
        stage
    }

    /// Whether a route leads only over resources that may receive more.
    pub(crate) fn is_open(&self, route: usize) -> bool {
        self.problem.uses(route).iter().all(|(resource, _)| self.open[*resource])
    }

    /// Volume of a route at its floor.
    pub(crate) fn floor_volume(&self, route: usize) -> f64 {
        self.floor[route] * self.problem.demand[self.problem.flow_of[route]]
    }

    /// Utilisation of a resource by given load alone.
    pub(crate) fn forced(&self, resource: usize) -> f64 {
        self.fixed[resource] / self.problem.capacity[resource]
    }

    /// Whether some flow needs more than its open routes take.
    pub(crate) fn is_short(&self) -> bool {
        (0..self.problem.flows()).any(|flow| {
            let room: f64 = self.room[self.problem.range(flow)].iter().sum();
            room < self.need[flow] - 1e-9 * self.problem.demand[flow]
        })
    }

    /// Closes the given resources and opens all others that have capacity.
    pub(crate) fn close(&mut self, closed: &[usize]) {
        for (resource, open) in self.open.iter_mut().enumerate() {
            *open = self.problem.capacity[resource] > 0.0;
        }
        for &resource in closed {
            self.open[resource] = false;
        }
        self.refresh();
    }

    /// Caps of stage 2 at a level `θ` of the open resources.
    pub(crate) fn set_caps(&mut self, level: f64) {
        // A cap exactly at θ* would leave stage 2 a single point and rounding no room.
        let level = self.goal.max_utilization.max((1.0 + self.goal.slack.max(1e-9)) * level);
        for resource in 0..self.problem.resources() {
            self.caps[resource] = if self.open[resource] {
                (level * self.problem.capacity[resource]).max(self.fixed[resource])
            } else {
                self.fixed[resource]
            };
        }
    }

    /// Shares from volumes above the floors.
    pub(crate) fn shares(&self, added: &[f64]) -> Vec<f64> {
        (0..self.problem.routes())
            .map(|route| {
                let demand = self.problem.demand[self.problem.flow_of[route]];
                if demand > 0.0 { self.floor[route] + added[route] / demand } else { 0.0 }
            })
            .collect()
    }

    /// The shares of a solution; a flow without demand keeps what it has.
    pub(crate) fn all_shares(&self, added: &[f64]) -> Vec<f64> {
        let mut shares = self.shares(added);
        for flow in (0..self.problem.flows()).filter(|f| self.problem.demand[*f] == 0.0) {
            let range = self.problem.range(flow);
            let kept = self.problem.row(flow).nearest(&self.problem.previous[range.clone()]);
            shares[range].copy_from_slice(&kept);
        }
        shares
    }

    fn refresh(&mut self) {
        let problem = self.problem;
        self.room.clear();
        self.fixed.clone_from(&problem.background);
        self.need.clone_from(&problem.demand);
        for route in 0..problem.routes() {
            let flow = problem.flow_of[route];
            let floor = self.floor[route] * problem.demand[flow];
            self.need[flow] -= floor;
            for &(resource, rate) in problem.uses(route) {
                self.fixed[resource] += rate * floor;
            }
            let room = (problem.upper[route] - self.floor[route]) * problem.demand[flow];
            let room = if self.is_open(route) { room.max(0.0) } else { 0.0 };
            self.room.push(room);
        }
        for (flow, need) in self.need.iter_mut().enumerate() {
            // A row of floors that sums to 1 up to rounding needs nothing.
            if *need <= 1e-12 * problem.demand[flow] {
                *need = 0.0;
            }
        }
    }

    /// A flow whose routes with capacity cannot take all of it: those go to their upper bounds, the rest
    /// stays as it is now, as far as bounds allow, on routes without capacity.
    fn settle_homeless(&mut self) {
        let problem = self.problem;
        for flow in (0..problem.flows()).filter(|f| problem.demand[*f] > 0.0) {
            let range = problem.range(flow);
            let housed: Vec<bool> = range.clone().map(|route| self.is_open(route)).collect();
            let sum = |want: bool, bounds: &[f64]| -> f64 {
                range.clone().zip(&housed).filter(|(_, h)| **h == want).map(|(r, _)| bounds[r]).sum()
            };
            let rest = 1.0 - sum(true, &problem.upper);
            if rest <= sum(false, &problem.lower) + 1e-9 {
                continue;
            }
            self.homeless = true;
            self.softened.push(format!(
                "capacity for flow {flow}: {:.1} % of it has only resources without capacity",
                rest * 100.0
            ));
            let without: Vec<usize> =
                range.clone().zip(&housed).filter(|(_, h)| !**h).map(|(r, _)| r).collect();
            let pick = |from: &[f64]| -> Vec<f64> { without.iter().map(|r| from[*r]).collect() };
            let (lower, upper) = (pick(&problem.lower), pick(&problem.upper));
            let row = Row { lower: &lower, upper: &upper, total: rest };
            let kept = row.nearest(&pick(&problem.previous));
            for (route, housed) in range.zip(housed) {
                if housed {
                    self.floor[route] = problem.upper[route];
                }
            }
            for (route, share) in without.into_iter().zip(kept) {
                self.floor[route] = share;
            }
        }
    }
}

/// What an engine finds in stage 2.
#[derive(Debug, Clone)]
pub(crate) struct Solved {
    /// By route: volume above the floor.
    pub(crate) added: Vec<f64>,
    /// By resource: seconds that one more unit/s of load costs, the cap's dual included.
    pub(crate) resource_price: Vec<f64>,
    /// By route: seconds per request from further constraints (N−1).
    pub(crate) extra: Vec<f64>,
    /// Seconds per dollar of the budget.
    pub(crate) budget_price: f64,
    /// Departures from the problem, in words.
    pub(crate) softened: Vec<String>,
    /// Proven optimal; otherwise the deadline passed.
    pub(crate) optimal: bool,
}

/// A way to solve both stages.
pub(crate) trait Engine {
    /// Its name.
    fn name(&self) -> &'static str;

    /// `min θ` with `X_i ≤ θ μ_i` on open resources; `None` when the open routes cannot take the demand.
    fn least_level(&mut self, stage: &Stage<'_>) -> Result<Option<f64>, SolveError>;

    /// Least delay, price and churn under the caps.
    fn least_cost(&mut self, stage: &Stage<'_>) -> Result<Solved, SolveError>;

    /// Levels the literal weighted cost; the shares.
    fn literal(&mut self, problem: &ValidProblem, costs: &[f64]) -> Result<Vec<f64>, SolveError>;

    /// Pivots or iterations since the last call.
    fn take_iterations(&mut self) -> usize;
}
