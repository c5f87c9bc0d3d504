//! Traffic from flows to endpoints is a transport problem: how is it solved exactly and fast?
//!
//! Where every movable request meets one resource that matters, both stages are flows on a bipartite
//! network (flows → resources → root), and [`crate::network`] solves them with prices that are the duals:
//!
//! * Stage 1 asks whether demand fits at a level `θ`: arcs `resource → root` carry `θ μ_i − fixed_i` for
//!   nothing and more at cost 1. A flow that costs nothing fits; otherwise prices (0 or 1) mark a cut, and
//!   the `θ` at which that cut just fits is the next try. This is Newton's method on the parametric cut
//!   (W. Dinkelbach, "On nonlinear fractional programming", Management Science 13, 1967): exact, and
//!   finite because every step finds another cut. Mostly the first try fits.
//! * Stage 2 puts the tangents of the latency curves on the arcs `resource → root` and the kink of the churn
//!   on the arcs `flow → resource`.
//! * A budget is priced: a multiplier on dollars, found where the two best splits on either side of it cost
//!   the same; the answer lies between those two.
//!
//! Further resources without a latency curve (quotas, egress links) and N−1 are left out at first; when the
//! answer meets them anyway, it is optimal. Otherwise the general linear program is solved.

mod cost;

use std::collections::BinaryHeap;
use std::time::Instant;

use traflux_core::{SolveError, SplitProblem, SplitSolution, WeightSolver};

use crate::domain_loss;
use crate::literal;
use crate::portable;
use crate::simplex::{Ended, Network, Piece};
use crate::stage::{Engine, Solved, Stage};
use crate::two_stage;
use crate::validate::ValidProblem;

pub(crate) use cost::budget_words;

/// Excess over a limit that counts as rounding, relative.
const ROUNDING: f64 = 1e-9;
/// Steps of a search that is finite in exact arithmetic; beyond, rounding leads it in circles.
const MAX_STEPS: usize = 200;

/// The default solver: a network simplex for the transport structure, the general linear program for
/// anything beyond it.
///
/// It keeps no basis: it starts from the better of a greedy split and the split in force, which the problem
/// carries, so the answer depends on the problem alone and equal problems give bit-identical answers.
///
/// ```
/// use traflux_core::{
///     Generation, Latency, LatencyCurve, Objective, ProblemResource, ProblemRoute, SplitProblem, TwoStage,
///     WeightSolver,
/// };
///
/// let route = |delay: f64, resource| ProblemRoute {
///     lower: 0.0,
///     upper: 1.0,
///     previous: 0.5,
///     delay,
///     price: 0.0,
///     consumption: vec![(resource, 1.0)],
/// };
/// let resource = |capacity| ProblemResource {
///     capacity,
///     background: 0.0,
///     curve: Some(LatencyCurve::new(Latency::millis(20.0), 8.0)),
///     multiplier: 1.0,
///     domain: None,
/// };
/// let problem = SplitProblem {
///     generation: Generation(0),
///     flow_offsets: vec![0, 2],
///     demand: vec![100.0],
///     routes: vec![route(0.002, 0), route(0.080, 1)],
///     resources: vec![resource(100.0), resource(100.0)],
///     objective: Objective::TwoStage(TwoStage::default()),
///     deadline: std::time::Duration::from_secs(1),
/// };
/// let solution = traflux_lp::TransportSolver::new().solve(&problem)?;
/// // The near endpoint is filled to ρ_max = 0.8; one more request/s of capacity there would save about
/// // the 78 ms that the far one is farther.
/// assert!((solution.split.shares()[0] - 0.8).abs() < 1e-9);
/// assert!(solution.capacity_duals[0] > 0.04);
/// # Ok::<(), traflux_core::SolveError>(())
/// ```
#[derive(Debug, Default)]
pub struct TransportSolver {
    engine: TransportEngine,
}

impl TransportSolver {
    /// Its name in the registry.
    pub const NAME: &'static str = "transport";

    /// A solver.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl WeightSolver for TransportSolver {
    fn solve(&mut self, problem: &SplitProblem) -> Result<SplitSolution, SolveError> {
        two_stage::solve(problem, &mut self.engine)
    }
}

#[derive(Debug, Default)]
pub(crate) struct TransportEngine {
    network: Network,
    /// Volumes of the last level that fitted: feasible for stage 2 whatever happens.
    levelled: Vec<f64>,
    iterations: usize,
}

/// Which node and arc stands for what; the volume unit is the demand that is to be placed.
struct Layout {
    /// By resource: its node, where some movable route leads to it.
    node: Vec<Option<usize>>,
    /// By resource: units per request.
    rate: Vec<f64>,
    /// By resource: the arc to the root.
    sink: Vec<usize>,
    /// By flow: its node, where it has volume to place.
    flow_node: Vec<Option<usize>>,
    /// (route, arc, index of the resource it leads to, or `None` straight to the root).
    arcs: Vec<(usize, usize, Option<usize>)>,
    unit: f64,
    /// Some constraint was left out.
    relaxed: bool,
}

impl Layout {
    /// The transport structure of a stage, where it has one.
    fn new(stage: &Stage<'_>) -> Option<Self> {
        let problem = stage.problem;
        let count = problem.resources();
        let mut layout = Self {
            node: vec![None; count],
            rate: vec![0.0; count],
            sink: vec![usize::MAX; count],
            flow_node: vec![None; problem.flows()],
            arcs: Vec::with_capacity(problem.routes()),
            unit: stage.need.iter().sum::<f64>().max(f64::MIN_POSITIVE),
            relaxed: stage.goal.survive_domain_loss.is_some(),
        };
        let mut nodes = 0;
        for flow in (0..problem.flows()).filter(|f| stage.need[*f] > 0.0) {
            layout.flow_node[flow] = Some(nodes);
            nodes += 1;
            for route in problem.range(flow).filter(|r| stage.room[*r] > 0.0) {
                let uses = problem.uses(route);
                let mut curved = uses.iter().filter(|(r, _)| problem.curve[*r].is_some());
                let main = curved.next().or(uses.first());
                if curved.next().is_some() {
                    return None;
                }
                layout.relaxed |= uses.len() > 1;
                layout.arcs.push((route, usize::MAX, main.map(|(r, _)| *r)));
                let Some(&(resource, rate)) = main else { continue };
                if layout.node[resource].is_none() {
                    layout.node[resource] = Some(usize::MAX);
                    layout.rate[resource] = rate;
                } else if layout.rate[resource] != rate {
                    return None;
                }
            }
        }
        for node in layout.node.iter_mut().filter(|n| n.is_some()) {
            *node = Some(nodes);
            nodes += 1;
        }
        Some(layout)
    }

    fn supplies(&self, stage: &Stage<'_>) -> Vec<f64> {
        let mut supply: Vec<f64> = stage.need.iter().filter(|n| **n > 0.0).map(|n| n / self.unit).collect();
        supply.resize(supply.len() + self.node.iter().flatten().count(), 0.0);
        supply
    }

    /// An arc per flow and resource that leads to the root: tree arcs to start with.
    fn hubs(&self, stage: &Stage<'_>, network: &Network) -> Vec<usize> {
        let flows = self.flow_node.iter().flatten().count();
        let mut hubs = vec![usize::MAX; flows + self.node.iter().flatten().count()];
        let mut most = vec![-1.0; flows];
        for &(route, arc, _) in &self.arcs {
            let Some(node) = self.flow_node[stage.problem.flow_of[route]] else { continue };
            // The arc with most room on both sides leaves the tree last.
            let flow = network.flow(arc);
            let end = network.pieces(arc).last().map_or(0.0, |p| p.end);
            let room = flow.min(end - flow);
            if room > most[node] {
                most[node] = room;
                hubs[node] = arc;
            }
        }
        for (resource, node) in self.node.iter().enumerate() {
            if let Some(node) = node {
                hubs[*node] = self.sink[resource];
            }
        }
        hubs
    }

    fn volumes(&self, stage: &Stage<'_>, network: &Network) -> Vec<f64> {
        let mut added = vec![0.0; stage.problem.routes()];
        for &(route, arc, _) in &self.arcs {
            added[route] = (network.flow(arc) * self.unit).clamp(0.0, stage.room[route]);
        }
        added
    }
}

/// Marginal cost of a route for the greedy start; the heap gives the least first.
#[derive(PartialEq)]
struct Offer {
    cost: f64,
    at: usize,
}

impl Eq for Offer {}

impl Ord for Offer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.cost.total_cmp(&self.cost).then(other.at.cmp(&self.at))
    }
}

impl PartialOrd for Offer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl TransportEngine {
    fn build(
        &mut self,
        stage: &Stage<'_>,
        layout: &mut Layout,
        route_pieces: impl Fn(usize) -> [Piece; 2],
        sink_pieces: impl Fn(usize, &mut Vec<Piece>),
    ) {
        self.network.reset(layout.supplies(stage));
        let root = self.network.root();
        for entry in &mut layout.arcs {
            let (route, arc, resource) = entry;
            let flow = stage.problem.flow_of[*route];
            let from = layout.flow_node[flow].expect("arcs belong to flows with volume");
            let to = resource.map_or(root, |r| layout.node[r].expect("a resource of an arc has a node"));
            *arc = self.network.add_arc(from, to, route_pieces(*route));
        }
        let mut pieces = Vec::new();
        for resource in 0..layout.node.len() {
            if let Some(node) = layout.node[resource] {
                pieces.clear();
                sink_pieces(resource, &mut pieces);
                layout.sink[resource] = self.network.add_arc(node, root, pieces.iter().copied());
            }
        }
    }

    /// Sets arc flows from volumes of routes.
    fn preset(&mut self, stage: &Stage<'_>, layout: &Layout, added: &[f64]) {
        let mut load = vec![0.0; layout.node.len()];
        for &(route, arc, resource) in &layout.arcs {
            let x = (added[route] / layout.unit).clamp(0.0, stage.room[route] / layout.unit);
            self.network.set_flow(arc, x);
            if let Some(resource) = resource {
                load[resource] += x;
            }
        }
        for (resource, load) in load.into_iter().enumerate() {
            if layout.node[resource].is_some() {
                self.network.set_flow(layout.sink[resource], load);
            }
        }
    }

    /// Fills each flow's cheapest pieces in turn, larger flows first.
    fn greedy(&self, stage: &Stage<'_>, layout: &Layout) -> Vec<f64> {
        let mut added = vec![0.0; stage.problem.routes()];
        let mut load = vec![0.0; layout.node.len()];
        let mut sink_piece = vec![0usize; layout.node.len()];
        let mut route_piece = vec![0usize; layout.arcs.len()];
        let mut first = vec![layout.arcs.len(); stage.problem.flows() + 1];
        for (at, (route, _, _)) in layout.arcs.iter().enumerate().rev() {
            first[stage.problem.flow_of[*route]] = at;
        }
        let mut order: Vec<usize> = (0..stage.problem.flows()).filter(|f| stage.need[*f] > 0.0).collect();
        order.sort_by(|a, b| stage.need[*b].total_cmp(&stage.need[*a]).then(a.cmp(b)));
        let mut heap = BinaryHeap::new();
        for flow in order {
            let mut left = stage.need[flow] / layout.unit;
            heap.clear();
            let of_flow = layout.arcs[first[flow]..].iter();
            let of_flow = of_flow.take_while(|(route, _, _)| stage.problem.flow_of[*route] == flow);
            let offer = |at: usize, route_piece: &[usize], sink_piece: &[usize]| -> Option<Offer> {
                let (_, arc, resource) = layout.arcs[at];
                let own = self.network.pieces(arc).get(route_piece[at])?.slope;
                let shared =
                    resource.map_or(0.0, |r| self.network.pieces(layout.sink[r])[sink_piece[r]].slope);
                Some(Offer { cost: own + shared, at })
            };
            heap.extend(
                (first[flow]..first[flow] + of_flow.count())
                    .filter_map(|at| offer(at, &route_piece, &sink_piece)),
            );
            while left > 0.0 {
                let Some(Offer { at, .. }) = heap.pop() else { break };
                let (route, arc, resource) = layout.arcs[at];
                let own_end = self.network.pieces(arc)[route_piece[at]].end;
                let mut step = (own_end - added[route]).min(left);
                let mut fills_sink = false;
                if let Some(r) = resource {
                    let room = self.network.pieces(layout.sink[r])[sink_piece[r]].end - load[r];
                    fills_sink = room <= step;
                    step = step.min(room).max(0.0);
                    load[r] += step;
                    if fills_sink {
                        load[r] = self.network.pieces(layout.sink[r])[sink_piece[r]].end;
                        sink_piece[r] += 1;
                    }
                }
                added[route] += step;
                left -= step;
                if own_end - added[route] <= 0.0 {
                    added[route] = own_end;
                    route_piece[at] += 1;
                } else if !fills_sink && left > 0.0 {
                    // Rounding: the step was meant to reach the border.
                    route_piece[at] += 1;
                }
                heap.extend(offer(at, &route_piece, &sink_piece));
            }
        }
        added.iter_mut().for_each(|x| *x *= layout.unit);
        added
    }

    /// Volumes of the split in force, where the bounds allow it.
    fn in_force(stage: &Stage<'_>) -> Vec<f64> {
        let problem = stage.problem;
        let mut added = vec![0.0; problem.routes()];
        for flow in (0..problem.flows()).filter(|f| stage.need[*f] > 0.0) {
            let range = problem.range(flow);
            let base: Vec<f64> = range
                .clone()
                .map(|r| (problem.previous[r] * problem.demand[flow]) - stage.floor_volume(r))
                .collect();
            let lower = vec![0.0; range.len()];
            let row = crate::bounded::Row {
                lower: &lower,
                upper: &stage.room[range.clone()],
                total: stage.need[flow],
            };
            added[range].copy_from_slice(&row.nearest(&base));
        }
        added
    }

    fn run(&mut self, stage: &Stage<'_>, layout: &Layout, tolerance: f64, until: Instant) -> Ended {
        let hubs = layout.hubs(stage, &self.network);
        let before = self.network.pivots;
        let ended = self.network.solve(&hubs, tolerance, until);
        self.iterations += self.network.pivots - before;
        ended
    }

    /// Whether everything that the layout left out is met by these volumes.
    fn meets_the_rest(stage: &Stage<'_>, added: &[f64], limit: impl Fn(usize) -> f64) -> bool {
        let loads = stage.problem.loads(&stage.shares(added));
        (0..loads.len()).all(|r| !stage.open[r] || loads[r] <= limit(r) * (1.0 + ROUNDING))
    }

    /// The general linear program.
    fn general(&mut self) -> Result<Box<dyn Engine>, SolveError> {
        portable::general_engine().ok_or(SolveError::Unsupported {
            solver: TransportSolver::NAME,
            what: "several binding resources per route or N-1 without a linear-programming back end",
        })
    }

    /// `θ` by Newton's method on cuts, with the volumes in `levelled`.
    fn level_by_cuts(
        &mut self,
        stage: &Stage<'_>,
        layout: &mut Layout,
        start: f64,
    ) -> Result<Option<f64>, SolveError> {
        let problem = stage.problem;
        let mut theta = start;
        for _ in 0..MAX_STEPS {
            let unit = layout.unit;
            let rate = layout.rate.clone();
            self.build(
                stage,
                layout,
                |route| [Piece { slope: 0.0, end: stage.room[route] / unit }, Piece { slope: 0.0, end: 0.0 }],
                |r, pieces| {
                    let room = (theta * problem.capacity[r] - stage.fixed[r]) / (rate[r] * unit);
                    pieces.push(Piece { slope: 0.0, end: room.max(0.0) });
                    pieces.push(Piece { slope: 1.0, end: f64::INFINITY });
                },
            );
            let added = self.greedy(stage, layout);
            self.preset(stage, layout, &added);
            if self.run(stage, layout, 1e-9, problem.until) == Ended::Deadline {
                return Err(problem.late());
            }
            let excess = self.network.cost();
            if excess <= 1e-11 {
                self.levelled = layout.volumes(stage, &self.network);
                return Ok(Some(theta));
            }
            let cut = self.cut_level(stage, layout);
            // The level at which the cut fits; without capacity in the cut no level helps.
            if !cut.is_finite() {
                return Ok(None);
            }
            if cut <= theta * (1.0 + 1e-14) {
                self.levelled = layout.volumes(stage, &self.network);
                return Ok(Some(theta));
            }
            theta = cut;
        }
        Ok(Some(theta))
    }

    /// The level at which the cut that prices mark just fits.
    fn cut_level(&self, stage: &Stage<'_>, layout: &Layout) -> f64 {
        let problem = stage.problem;
        let dear = |node: usize| self.network.price(node) > 0.5;
        let mut volume = 0.0;
        let mut capacity = 0.0;
        for (flow, node) in layout.flow_node.iter().enumerate() {
            if node.is_some_and(dear) {
                volume += stage.need[flow];
            }
        }
        for &(route, _, resource) in &layout.arcs {
            let from = layout.flow_node[problem.flow_of[route]];
            let escapes = resource.is_none_or(|r| layout.node[r].is_some_and(|n| !dear(n)));
            if from.is_some_and(dear) && escapes {
                volume -= stage.room[route];
            }
        }
        for (r, node) in layout.node.iter().enumerate() {
            if node.is_some_and(dear) {
                volume += stage.fixed[r] / layout.rate[r];
                capacity += problem.capacity[r] / layout.rate[r];
            }
        }
        if capacity > 0.0 { volume / capacity } else { f64::INFINITY }
    }
}

impl Engine for TransportEngine {
    fn name(&self) -> &'static str {
        TransportSolver::NAME
    }

    fn least_level(&mut self, stage: &Stage<'_>) -> Result<Option<f64>, SolveError> {
        let problem = stage.problem;
        let forced =
            (0..problem.resources()).filter(|r| stage.open[*r]).map(|r| stage.forced(r)).fold(0.0, f64::max);
        self.levelled = vec![0.0; problem.routes()];
        if stage.need.iter().all(|n| *n == 0.0) {
            return Ok(Some(forced));
        }
        let Some(mut layout) = Layout::new(stage) else {
            return self.general()?.least_level(stage);
        };
        // No split does better than all flows spread over all resources they may reach.
        let mut volume: f64 = stage.need.iter().sum();
        let mut capacity = 0.0;
        let reaches_root = layout.arcs.iter().any(|(_, _, resource)| resource.is_none());
        for r in (0..problem.resources()).filter(|r| layout.node[*r].is_some()) {
            volume += stage.fixed[r] / layout.rate[r];
            capacity += problem.capacity[r] / layout.rate[r];
        }
        let even = if reaches_root || capacity <= 0.0 { 0.0 } else { volume / capacity };
        let start = even.max(forced);
        let level = match spread(stage, &layout, start) {
            Some(added) => {
                self.levelled = added;
                Some(start)
            }
            None => self.level_by_cuts(stage, &mut layout, start)?,
        };
        match level {
            Some(theta) if layout.relaxed => {
                let limit = |r: usize| theta * problem.capacity[r];
                if Self::meets_the_rest(stage, &self.levelled, limit) {
                    return Ok(Some(theta));
                }
                self.general()?.least_level(stage)
            }
            level => Ok(level),
        }
    }

    fn least_cost(&mut self, stage: &Stage<'_>) -> Result<Solved, SolveError> {
        let Some(mut layout) = Layout::new(stage) else {
            return self.general()?.least_cost(stage);
        };
        let solved = self.least_cost_of(stage, &mut layout)?;
        if layout.relaxed {
            let fits = Self::meets_the_rest(stage, &solved.added, |r| stage.caps[r]);
            if !fits || !domain_loss::is_met(stage, &solved.added) {
                return self.general()?.least_cost(stage);
            }
        }
        Ok(solved)
    }

    fn literal(&mut self, problem: &ValidProblem, costs: &[f64]) -> Result<Vec<f64>, SolveError> {
        Ok(literal::level_weighted_cost(problem, costs).0)
    }

    fn take_iterations(&mut self) -> usize {
        std::mem::take(&mut self.iterations)
    }
}

/// All flows in proportion to what resources have left at a level: optimal where bounds allow it.
fn spread(stage: &Stage<'_>, layout: &Layout, theta: f64) -> Option<Vec<f64>> {
    let problem = stage.problem;
    let left = |r: usize| (theta * problem.capacity[r] - stage.fixed[r]) / layout.rate[r];
    let mut added = vec![0.0; problem.routes()];
    let mut at = 0;
    while at < layout.arcs.len() {
        let flow = problem.flow_of[layout.arcs[at].0];
        let end = at + layout.arcs[at..].iter().take_while(|(r, _, _)| problem.flow_of[*r] == flow).count();
        let mut sum = 0.0;
        for (_, _, resource) in &layout.arcs[at..end] {
            let left = left((*resource)?);
            if left < 0.0 {
                return None;
            }
            sum += left;
        }
        if sum <= 0.0 {
            return None;
        }
        for &(route, _, resource) in &layout.arcs[at..end] {
            let volume = stage.need[flow] * left(resource?) / sum;
            if volume > stage.room[route] {
                return None;
            }
            added[route] = volume;
        }
        at = end;
    }
    let loads = problem.loads(&stage.shares(&added));
    let fits = |r: usize| layout.node[r].is_none() || loads[r] <= theta * problem.capacity[r] * (1.0 + 1e-12);
    (0..loads.len()).all(fits).then_some(added)
}
