//! What does the problem look like to any solver of linear programs?
//!
//! Columns are volumes above the lower bounds, cut at the kink of the churn term, and the pieces of each
//! latency curve; rows are flows, resource loads, the budget and N−1. Volumes are in units of the demand to
//! be placed, loads in units of what that demand would be there, costs in units of a typical marginal cost:
//! numbers near one, whatever the fleet.

use traflux_core::{SolveError, SplitProblem, SplitSolution, WeightSolver};

use crate::backend;
use crate::domain_loss::LossRows;
use crate::lp::{Backend, Lp, LpAnswer, LpError, duals_of};
use crate::stage::{Engine, Solved, Stage};
use crate::transport::budget_words;
use crate::two_stage;
use crate::validate::ValidProblem;

/// Allowance on limits that an earlier program of the same solve gave.
const ALLOWANCE: f64 = 1e-9;

/// The portable model over any back end that is compiled in: `microlp`, `clarabel`, `highs`.
///
/// Slower than [`TransportSolver`](crate::TransportSolver) and equal to it within the back end's tolerance;
/// the reference to compare with, and the way to let another solver do the work.
pub struct GoodLpSolver {
    engine: LpEngine,
}

impl GoodLpSolver {
    /// A solver over a back end.
    ///
    /// # Errors
    /// [`SolveError::UnknownSolver`] naming the solvers there are, when this is no back end.
    pub fn new(backend: &str) -> Result<Self, SolveError> {
        match backend::by_name(backend) {
            Some(backend) => Ok(Self { engine: LpEngine { backend, iterations: 0 } }),
            None => Err(crate::unknown_solver(backend)),
        }
    }
}

impl std::fmt::Debug for GoodLpSolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GoodLpSolver").field("backend", &self.engine.backend.name()).finish()
    }
}

impl WeightSolver for GoodLpSolver {
    fn solve(&mut self, problem: &SplitProblem) -> Result<SplitSolution, SolveError> {
        two_stage::solve(problem, &mut self.engine)
    }
}

/// The engine for problems beyond the transport structure, where a back end is compiled in.
pub(crate) fn general_engine() -> Option<Box<dyn Engine>> {
    let backend = backend::NAMES.first().and_then(|name| backend::by_name(name))?;
    Some(Box::new(LpEngine { backend, iterations: 0 }))
}

struct LpEngine {
    backend: Box<dyn Backend + Send>,
    /// Linear programs solved: the back ends do not report pivots through good_lp.
    iterations: usize,
}

/// Scales of a stage.
struct Scale {
    /// Volume of one unit, requests/s.
    volume: f64,
    /// By resource: units of load that one unit of volume makes at most.
    load: Vec<f64>,
    /// By resource: some movable route leads over it.
    used: Vec<bool>,
    /// Seconds of one unit of cost.
    cost: f64,
}

impl Scale {
    fn new(stage: &Stage<'_>) -> Self {
        let problem = stage.problem;
        let volume = stage.need.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let mut load = vec![0.0f64; problem.resources()];
        let mut cost = 0.0;
        let mut count = 0usize;
        for route in (0..problem.routes()).filter(|r| stage.room[*r] > 0.0) {
            cost += problem.delay[route]
                + stage.goal.seconds_per_dollar * problem.price[route]
                + stage.goal.churn_seconds;
            for &(r, rate) in problem.uses(route) {
                load[r] = load[r].max(rate);
                cost += problem.curve[r].as_ref().map_or(0.0, |c| rate * c.slope_after(stage.fixed[r]));
            }
            count += 1;
        }
        let cost = cost / count.max(1) as f64;
        Self {
            volume,
            used: load.iter().map(|l| *l > 0.0).collect(),
            load: load.into_iter().map(|l| if l > 0.0 { l * volume } else { 1.0 }).collect(),
            cost: if cost > 0.0 { cost } else { 1.0 },
        }
    }

    fn rate(&self, resource: usize, rate: f64) -> f64 {
        rate * self.volume / self.load[resource]
    }
}

impl LpEngine {
    fn run(&mut self, lp: &Lp, problem: &ValidProblem) -> Result<LpAnswer, SolveError> {
        self.try_run(lp, problem).map_err(|error| error.into_solve_error(self.backend.name(), problem.late()))
    }

    fn try_run(&mut self, lp: &Lp, problem: &ValidProblem) -> Result<LpAnswer, LpError> {
        if lp.cost.is_empty() {
            // Not every back end knows what to do without columns.
            return Ok(LpAnswer { values: Vec::new(), duals: Some(vec![0.0; lp.rows.len()]) });
        }
        self.iterations += 1;
        self.backend.solve(lp, problem.until)
    }

    fn with_duals(&mut self, lp: &Lp, problem: &ValidProblem) -> Result<(Vec<f64>, Vec<f64>), SolveError> {
        let answer = self.run(lp, problem)?;
        let duals = match answer.duals {
            Some(duals) => duals,
            None => {
                self.iterations += 1;
                duals_of(lp, &answer.values, self.backend.as_mut(), problem.until)
                    .map_err(|error| error.into_solve_error(self.backend.name(), problem.late()))?
            }
        };
        Ok((answer.values, duals))
    }
}

/// The program of stage 2 and where its parts are.
struct CostProgram {
    lp: Lp,
    /// By route: its columns.
    route_columns: Vec<Vec<usize>>,
    resource_row: Vec<Option<usize>>,
    loss_rows: LossRows,
    /// (row, column of the excess) of each N−1 row.
    loss: Vec<(usize, usize)>,
    lost_rows: Vec<usize>,
}

impl CostProgram {
    fn new(stage: &Stage<'_>, scale: &Scale) -> Self {
        let problem = stage.problem;
        let churn = stage.goal.churn_seconds;
        let mut lp = Lp::default();
        let mut route_columns = vec![Vec::new(); problem.routes()];
        let mut loads: Vec<Vec<(usize, f64)>> = vec![Vec::new(); problem.resources()];
        for flow in (0..problem.flows()).filter(|f| stage.need[*f] > 0.0) {
            let mut terms = Vec::new();
            for route in problem.range(flow).filter(|r| stage.room[*r] > 0.0) {
                let cost = problem.delay[route] + stage.goal.seconds_per_dollar * problem.price[route];
                let room = stage.room[route];
                let kink = problem.previous[route] * problem.demand[flow] - stage.floor_volume(route);
                let kink = if churn > 0.0 { kink.clamp(0.0, room) } else { 0.0 };
                for (slope, length) in [(cost - churn, kink), (cost + churn, room - kink)] {
                    if length <= 0.0 {
                        continue;
                    }
                    let column = lp.add_column(slope / scale.cost, length / scale.volume);
                    route_columns[route].push(column);
                    terms.push((column, 1.0));
                    for &(r, rate) in problem.uses(route) {
                        loads[r].push((column, scale.rate(r, rate)));
                    }
                }
            }
            lp.add_row(true, stage.need[flow] / scale.volume, terms);
        }
        let mut resource_row = vec![None; problem.resources()];
        for r in (0..problem.resources()).filter(|r| scale.used[*r]) {
            let mut terms = std::mem::take(&mut loads[r]);
            let length = |low: f64, high: f64| ((high - low) / scale.load[r]).max(0.0);
            if let Some(curve) = &problem.curve[r] {
                let mut start = stage.fixed[r];
                for (slope, end) in curve.pieces(stage.fixed[r], stage.caps[r]) {
                    let per_unit = slope * scale.load[r] / (scale.volume * scale.cost);
                    let column = lp.add_column(per_unit, length(start, end));
                    terms.push((column, -1.0));
                    start = end;
                }
                resource_row[r] = Some(lp.add_row(true, 0.0, terms));
            } else {
                resource_row[r] = Some(lp.add_row(false, length(stage.fixed[r], stage.caps[r]), terms));
            }
        }
        let mut program = Self {
            lp,
            route_columns,
            resource_row,
            loss_rows: LossRows::new(stage),
            loss: Vec::new(),
            lost_rows: Vec::new(),
        };
        program.add_loss_rows(stage, scale);
        program
    }

    fn add_loss_rows(&mut self, stage: &Stage<'_>, scale: &Scale) {
        let mut lost = Vec::new();
        for (_, routes) in &self.loss_rows.domains {
            let column = self.lp.add_column(0.0, f64::INFINITY);
            let fixed: f64 = routes.iter().map(|r| stage.floor_volume(*r)).sum();
            let mut terms = vec![(column, 1.0)];
            for route in routes {
                terms.extend(self.route_columns[*route].iter().map(|c| (*c, -1.0)));
            }
            self.lost_rows.push(self.lp.add_row(true, fixed / scale.volume, terms));
            lost.push(column);
        }
        for row in &self.loss_rows.rows {
            let unit = scale.load[row.resource];
            let fixed: f64 = row.own.iter().map(|(r, rate)| rate * stage.floor_volume(*r)).sum();
            let excess = self.lp.add_column(0.0, f64::INFINITY);
            let mut terms = vec![(lost[row.domain], row.weight * scale.volume / unit), (excess, -1.0)];
            for &(route, rate) in &row.own {
                terms.extend(self.route_columns[route].iter().map(|c| (*c, rate * scale.volume / unit)));
            }
            let at = self.lp.add_row(false, (row.limit - fixed) / unit, terms);
            self.loss.push((at, excess));
        }
    }

    fn added(&self, values: &[f64], scale: &Scale) -> Vec<f64> {
        self.route_columns
            .iter()
            .map(|columns| columns.iter().map(|c| values[*c]).sum::<f64>() * scale.volume)
            .collect()
    }

    /// (column, dollars per unit of volume and typical price) of all columns with a price.
    fn price_terms(&self, stage: &Stage<'_>, typical: f64) -> Vec<(usize, f64)> {
        let mut terms = Vec::new();
        for (route, columns) in self.route_columns.iter().enumerate() {
            if stage.problem.price[route] > 0.0 {
                terms.extend(columns.iter().map(|c| (*c, stage.problem.price[route] / typical)));
            }
        }
        terms
    }
}

impl Engine for LpEngine {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn least_level(&mut self, stage: &Stage<'_>) -> Result<Option<f64>, SolveError> {
        let problem = stage.problem;
        let forced =
            (0..problem.resources()).filter(|r| stage.open[*r]).map(|r| stage.forced(r)).fold(0.0, f64::max);
        if stage.need.iter().all(|n| *n == 0.0) {
            return Ok(Some(forced));
        }
        let scale = Scale::new(stage);
        let mut lp = Lp::default();
        let level = lp.add_column(1.0, f64::INFINITY);
        let mut loads: Vec<Vec<(usize, f64)>> = vec![Vec::new(); problem.resources()];
        for flow in (0..problem.flows()).filter(|f| stage.need[*f] > 0.0) {
            let mut terms = Vec::new();
            for route in problem.range(flow).filter(|r| stage.room[*r] > 0.0) {
                let column = lp.add_column(0.0, stage.room[route] / scale.volume);
                terms.push((column, 1.0));
                for &(r, rate) in problem.uses(route) {
                    loads[r].push((column, scale.rate(r, rate)));
                }
            }
            lp.add_row(true, stage.need[flow] / scale.volume, terms);
        }
        for r in (0..problem.resources()).filter(|r| scale.used[*r]) {
            let mut terms = std::mem::take(&mut loads[r]);
            terms.push((level, -problem.capacity[r] / scale.load[r]));
            let spare = (forced * problem.capacity[r] - stage.fixed[r]) / scale.load[r];
            lp.add_row(false, spare.max(0.0), terms);
        }
        match self.try_run(&lp, problem) {
            Ok(answer) => Ok(Some(forced + answer.values[level])),
            Err(LpError::Infeasible) => Ok(None),
            Err(error) => Err(error.into_solve_error(self.backend.name(), problem.late())),
        }
    }

    fn least_cost(&mut self, stage: &Stage<'_>) -> Result<Solved, SolveError> {
        let problem = stage.problem;
        let scale = Scale::new(stage);
        let mut program = CostProgram::new(stage, &scale);
        let mut softened = Vec::new();
        let mut survives = true;
        if !program.loss.is_empty() {
            // First as little excess as possible, then as little delay as that allows.
            let mut first = program.lp.clone();
            first.cost.iter_mut().for_each(|c| *c = 0.0);
            for (_, excess) in &program.loss {
                first.cost[*excess] = 1.0;
            }
            let answer = self.run(&first, problem)?;
            let least = first.value(&answer.values);
            survives = least <= 1e-8;
            if survives {
                for (_, excess) in &program.loss {
                    program.lp.upper[*excess] = 0.0;
                }
            } else {
                let terms = program.loss.iter().map(|(_, excess)| (*excess, 1.0)).collect();
                program.lp.add_row(false, least * (1.0 + 1e-7) + ALLOWANCE, terms);
            }
        }
        let mut budget_row = None;
        let typical = problem.price.iter().copied().fold(0.0, f64::max);
        if let Some(budget) = stage.budget.filter(|_| typical > 0.0) {
            let terms = program.price_terms(stage, typical);
            let fixed: f64 = (0..problem.routes()).map(|r| problem.price[r] * stage.floor_volume(r)).sum();
            let mut cheapest = program.lp.clone();
            cheapest.cost.iter_mut().for_each(|c| *c = 0.0);
            for (column, price) in &terms {
                cheapest.cost[*column] = *price;
            }
            let least = cheapest.value(&self.run(&cheapest, problem)?.values);
            let unit = typical * scale.volume;
            let mut limit = (budget - fixed) / unit;
            if limit < least * (1.0 - ALLOWANCE) - ALLOWANCE {
                softened.push(budget_words(budget, fixed + least * unit));
            }
            limit = limit.max(least * (1.0 + ALLOWANCE) + ALLOWANCE);
            budget_row = Some(program.lp.add_row(false, limit, terms));
        }
        let (values, duals) = self.with_duals(&program.lp, problem)?;
        let added = program.added(&values, &scale);
        if !survives {
            softened.extend(program.loss_rows.words(stage, &added));
        }
        // Row duals are per unit of the row and of cost; back to seconds.
        let seconds = scale.cost * scale.volume;
        let resource_price = (0..problem.resources())
            .map(|r| match program.resource_row[r] {
                Some(row) => (-duals[row] * seconds / scale.load[r]).max(0.0),
                None => problem.curve[r].as_ref().map_or(0.0, |c| c.slope_after(stage.fixed[r])),
            })
            .collect();
        let budget_price =
            budget_row.map_or(0.0, |row| (-duals[row] * seconds / (typical * scale.volume)).max(0.0));
        let mut extra = vec![0.0; problem.routes()];
        for (row, (at, _)) in program.loss_rows.rows.iter().zip(&program.loss) {
            let price = -duals[*at] * seconds / scale.load[row.resource];
            for &(route, rate) in &row.own {
                extra[route] += price * rate;
            }
            for route in &program.loss_rows.domains[row.domain].1 {
                extra[*route] += price * row.weight;
            }
        }
        Ok(Solved { added, resource_price, extra, budget_price, softened, optimal: true })
    }

    /// `min Σ_f z_f` with `w_r k_r ≤ z_f`, costs in units of the flow's greatest.
    fn literal(&mut self, problem: &ValidProblem, costs: &[f64]) -> Result<Vec<f64>, SolveError> {
        let mut lp = Lp::default();
        for flow in 0..problem.flows() {
            let range = problem.range(flow);
            let greatest = costs[range.clone()].iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            let worst = lp.add_column(1.0, f64::INFINITY);
            let mut terms = Vec::new();
            for route in range.clone() {
                let column = lp.add_column(0.0, problem.upper[route] - problem.lower[route]);
                terms.push((column, 1.0));
                let cost = costs[route] / greatest;
                lp.add_row(false, -problem.lower[route] * cost, vec![(column, cost), (worst, -1.0)]);
            }
            let lower: f64 = problem.lower[range].iter().sum();
            lp.add_row(true, (1.0 - lower).max(0.0), terms);
        }
        let answer = self.run(&lp, problem)?;
        // Each flow has its level before its routes.
        Ok((0..problem.routes())
            .map(|route| problem.lower[route] + answer.values[route + problem.flow_of[route] + 1])
            .collect())
    }

    fn take_iterations(&mut self) -> usize {
        std::mem::take(&mut self.iterations)
    }
}
