//! What utilisation can no selector of `K` pairs beat?
//!
//! Let a share `z_p` of each pair leave the base over any paths, `K` pairs in sum. With `x` the flows on paths,
//! `f_pl` the base and `b_l` what may not move:
//!
//! ```text
//! min θ   s.t.   b_l + Σ_p d_p (1 − z_p) f_pl + Σ_{paths ∋ l} x ≤ θ c_l     for every link l
//!                Σ_{paths of p} x = d_p z_p,   0 ≤ z_p ≤ 1,   Σ_p z_p ≤ K
//! ```
//!
//! Every set of `K` pairs with its routing is one solution with all `z_p` in {0, 1}. For lengths `y ≥ 0` with
//! `Σ c_l y_l = 1` and a price `λ ≥ 0` of leaving, weak duality proves
//!
//! ```text
//! θ ≥ Σ_l b_l y_l + Σ_p min(d_p Σ_l f_pl y_l, d_p dist_p(y) + λ) − λ K
//! ```
//!
//! Column generation as for [`MinMaxSolver`](super::super::MinMaxSolver), with one more row `Σ_paths x / d_p ≤ K`.

use std::time::Instant;

use traflux_core::{BaseRouting, GroupIx, Network, TrafficMatrix};

use super::super::generation::{Ended, Generation, disconnected, until};
use super::super::master::NONE;
use super::super::{Commodity, FlowError, FlowStatus, commodity, passed, relative_gap};

/// The gap at which the solver is done, relative.
const GAP: f64 = 1e-11;
/// What a solution may miss its limits and its bound by, relative.
const EXACT: f64 = 1e-9;
/// Lengths of links without a price, as a part of all prices, see [`MinMaxSolver`](super::super::MinMaxSolver).
const BLUR: f64 = 1e-11;
/// A pair with less demand than this, relative to the mean, takes as little of `K` as its demand is of that:
/// coefficients `1 / d_p` beyond 10⁴ of the mean one make bases singular. It only relaxes the problem further.
const LEAST: f64 = 1e-4;

/// A solver of that relaxation, kept for a sequence of matrices on one network.
#[derive(Debug, Clone)]
pub struct FractionalBound {
    network: Network,
    base: BaseRouting,
    generation: Generation,
    theta: u32,
    warm: bool,
    moving: Vec<(GroupIx, Commodity)>,
    /// Load of each link that stays, and what the budget allows below zero, in units of the generation.
    background: Vec<f64>,
    /// Mean demand: what a whole pair takes of the budget's row.
    whole: f64,
}

/// Which share of each pair would leave the base, with a proof that no set of as many pairs is better.
#[derive(Debug, Clone, PartialEq)]
pub struct FractionalSelection {
    /// Maximum link utilisation when these shares leave.
    pub utilization: f64,
    /// No `K` pairs, whole or in parts, can have a lower one.
    pub lower_bound: f64,
    /// Why the solver stopped.
    pub status: FlowStatus,
    /// The share `z_p` of each pair that leaves, by position of the pair, in [0, 1].
    pub moved: Vec<f64>,
    /// Lengths `y` that prove the bound, by link, `Σ c_l y_l = 1`.
    pub link_prices: Vec<f64>,
    /// The price `λ`: about what the utilisation would fall by if one more pair could leave.
    pub pair_price: f64,
    /// Pivots.
    pub iterations: usize,
}

/// A bound and the lengths that prove it, not scaled.
#[derive(Debug, Clone, Default)]
struct Bound {
    value: f64,
    lengths: Vec<f64>,
    total: f64,
}

impl FractionalBound {
    /// A solver for one network and its base.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting) -> Self {
        Self {
            network: network.clone(),
            base: base.clone(),
            generation: Generation::with_budget(network),
            theta: NONE,
            warm: false,
            moving: Vec::new(),
            background: Vec::new(),
            whole: 0.0,
        }
    }

    /// Starts the next matrix from scratch, so that nothing in its solution depends on those before.
    pub fn forget(&mut self) {
        self.warm = false;
    }

    /// The least utilisation when `count` pairs in sum may leave the base.
    ///
    /// It starts from the optimum before where it can. The utilisation does not depend on that, which of several
    /// best shares is found may. When the deadline passes, the shares at hand are given with the bound proven so far.
    ///
    /// # Errors
    /// [`FlowError::Network`] for a matrix of another number of nodes, [`FlowError::Disconnected`] for a demand that
    /// the base does not serve.
    pub fn solve(
        &mut self,
        demands: &TrafficMatrix,
        count: usize,
        deadline: Option<Instant>,
    ) -> Result<FractionalSelection, FlowError> {
        let pairs: Vec<GroupIx> = (0..self.network.pair_count()).map(GroupIx::from).collect();
        self.solve_among(demands, &pairs, count, deadline)
    }

    /// The same where only some pairs may leave.
    ///
    /// # Errors
    /// As [`FractionalBound::solve`]; [`FlowError::Pair`] for a pair that the network does not have.
    pub fn solve_among(
        &mut self,
        demands: &TrafficMatrix,
        pairs: &[GroupIx],
        count: usize,
        deadline: Option<Instant>,
    ) -> Result<FractionalSelection, FlowError> {
        let ecmp = self.prepare(demands, pairs, count)?;
        self.generation.master.pivots = 0;
        let kept = self.start_warm(ecmp, deadline);
        if !kept {
            self.start_cold(ecmp);
        }
        let (mut solution, exact) = self.improve(deadline);
        if kept && !exact {
            // Coefficients that change under a basis may leave it nearly singular.
            self.generation.master.pivots = 0;
            self.start_cold(ecmp);
            solution = self.improve(deadline).0;
        }
        Ok(solution)
    }

    /// Splits the demands into what moves and what stays; the utilisation when all stay.
    fn prepare(
        &mut self,
        demands: &TrafficMatrix,
        pairs: &[GroupIx],
        count: usize,
    ) -> Result<f64, FlowError> {
        self.network.check_matrix(demands)?;
        let unit = self.generation.unit;
        let mut may_move = vec![false; self.network.pair_count()];
        for pair in pairs {
            let Some(entry) = may_move.get_mut(pair.ix()) else {
                return Err(FlowError::Pair { pair: pair.ix(), pairs: self.network.pair_count() });
            };
            *entry = true;
        }
        self.moving.clear();
        self.background.clear();
        self.background.resize(self.generation.links(), 0.0);
        let mut total = 0.0;
        for (pair, may_move) in may_move.into_iter().enumerate() {
            let pair = GroupIx::from(pair);
            let Some(commodity) = commodity(&self.network, demands.as_slice(), pair) else { continue };
            if self.base.of(pair).next().is_none() {
                return Err(disconnected(&self.network, &commodity));
            }
            if may_move {
                self.moving.push((pair, commodity));
                total += commodity.demand / unit;
            } else {
                for (link, part) in self.base.of(pair) {
                    self.background[link.ix()] += commodity.demand / unit * part;
                }
            }
        }
        self.whole = if total > 0.0 { total / self.moving.len() as f64 } else { 1.0 };
        let ecmp = self.network.max_utilization(&self.base.loads(&self.network, demands));
        // Prices of the budget are about utilisation over this, as those of links are about 1 over capacity.
        let scale = if ecmp > 0.0 { ecmp } else { 1.0 };
        if let Some(capacity) = self.generation.capacities.last_mut() {
            *capacity = self.whole * count.max(1) as f64 / scale;
        }
        self.background.push(-self.whole * count as f64);
        Ok(ecmp)
    }

    fn start_warm(&mut self, ecmp: f64, deadline: Option<Instant>) -> bool {
        let generation = &mut self.generation;
        let too_many = generation.master.columns.count() > 8 * generation.sets() + 64 * generation.links();
        if !std::mem::take(&mut self.warm) || too_many {
            return false;
        }
        generation.master.demand.fill(0.0);
        self.set_demands();
        let generation = &mut self.generation;
        if !generation.master.refactor() || generation.master.position(self.theta).is_none() {
            return false;
        }
        generation.set_slacks(ecmp.max(f64::MIN_POSITIVE));
        let most = 20 * generation.links();
        let repaired = generation.master.repair(until(most, deadline));
        generation.master.update_prices();
        repaired
    }

    /// All pairs on the base.
    fn start_cold(&mut self, ecmp: f64) {
        self.generation.clear();
        let links = self.generation.links();
        let capacities = self.generation.capacities[..links].iter().enumerate();
        let entries = capacities.map(|(link, capacity)| (link as u32, -capacity));
        self.theta = self.generation.master.columns.add(NONE, 1.0, entries);
        self.set_demands();
        let generation = &mut self.generation;
        generation.master.start_on_keys();
        generation.set_slacks(ecmp.max(f64::MIN_POSITIVE));
        let busy = |link: &usize| {
            (self.background[*link] + generation.master.load[*link]) / generation.capacities[*link]
        };
        if let Some(link) = (0..links).max_by(|a, b| busy(a).total_cmp(&busy(b))) {
            let capacity = generation.capacities[link];
            generation.master.start_with(self.theta, link as u32, -capacity);
        }
        generation.master.update_prices();
    }

    /// Demands, limits, and what leaving takes of the budget.
    fn set_demands(&mut self) {
        let generation = &mut self.generation;
        for (pair, commodity) in &self.moving {
            let set = generation.set(commodity).unwrap_or_else(|| {
                let entries = self.base.of(*pair).map(|(link, part)| (link.0, part));
                generation.add_special_set(commodity, entries)
            });
            let demand = commodity.demand / generation.unit;
            generation.master.demand[set as usize] = demand;
            generation.set_use(set, (self.whole / demand).min(1.0 / LEAST));
        }
        for (limit, load) in generation.master.limit.iter_mut().zip(&self.background) {
            *limit = -load;
        }
    }

    /// Pivots to the optimum; whether its numbers are as exact as they should be.
    fn improve(&mut self, deadline: Option<Instant>) -> (FractionalSelection, bool) {
        let mut ended = self.generation.settle(deadline);
        let mut bound = Bound::default();
        // The first round has no deadline: without it nothing at all is proven.
        let mut found = self.round(&mut bound, None).unwrap_or(false);
        while ended == Ended::Done && found && self.theta() - bound.value > GAP * self.theta() {
            if passed(deadline) {
                ended = Ended::Late;
                break;
            }
            ended = self.generation.pivot(deadline);
            if ended == Ended::Done {
                match self.round(&mut bound, deadline) {
                    Some(more) => found = more,
                    None => ended = Ended::Late,
                }
            }
        }
        self.warm = ended != Ended::Stuck;
        self.solution(&bound, ended)
    }

    /// The utilisation of the basis.
    fn theta(&self) -> f64 {
        let master = &self.generation.master;
        master.position(self.theta).map_or(0.0, |position| master.value[position])
    }

    /// Grows trees under the prices and keeps the better bound; whether there are better columns, `None` where the
    /// deadline passes.
    fn round(&mut self, bound: &mut Bound, deadline: Option<Instant>) -> Option<bool> {
        let generation = &mut self.generation;
        let links = generation.links();
        let (mut total, mut value) = (0.0, 0.0);
        let mut lengths = Vec::with_capacity(links + 1);
        for row in 0..=links {
            let mut length = generation.master.price[row].max(0.0);
            if row < links {
                length += BLUR / (links as f64 * generation.capacities[row]);
                total += length * generation.capacities[row];
            }
            value += length * self.background[row];
            lengths.push(length);
        }
        let round = generation.price(&lengths, None, deadline)?;
        value = if total > 0.0 { (value + round.cost) / total } else { 0.0 };
        if value >= bound.value {
            *bound = Bound { value, lengths, total };
        }
        Some(round.found)
    }

    fn solution(&self, bound: &Bound, ended: Ended) -> (FractionalSelection, bool) {
        let generation = &self.generation;
        let (master, links) = (&generation.master, generation.links());
        let mut loads = self.background.clone();
        let mut moved = vec![0.0; self.network.pair_count()];
        let keys = master.key.iter().copied().zip(master.key_value.iter().copied());
        let basic = master.basic.iter().copied().zip(master.value.iter().copied());
        let pairs: Vec<Option<GroupIx>> = {
            let mut pairs = vec![None; generation.sets()];
            for (pair, commodity) in &self.moving {
                if let Some(set) = generation.set(commodity) {
                    pairs[set as usize] = Some(*pair);
                }
            }
            pairs
        };
        for (column, value) in keys.chain(basic) {
            let set = master.columns.set(column);
            if set == NONE || value <= 0.0 {
                continue;
            }
            for (row, part) in master.columns.entries(column) {
                loads[row] += value * part;
            }
            if let (Some(pair), false) = (pairs[set as usize], generation.special(set) == Some(column)) {
                moved[pair.ix()] += value / master.demand[set as usize];
            }
        }
        for share in &mut moved {
            *share = share.min(1.0);
        }
        let utilizations = loads[..links].iter().zip(&generation.capacities).map(|(load, c)| load / c);
        let utilization = utilizations.fold(0.0, f64::max);
        let scale = if bound.total > 0.0 { bound.total } else { 1.0 };
        let lengths = bound.lengths.iter().take(links);
        let within = |excess: f64, of: f64| excess <= EXACT * of;
        let budget = -self.background[links];
        let exact = within(loads[links], budget.max(self.whole))
            && (ended == Ended::Late || within(utilization - bound.value, utilization));
        let solution = FractionalSelection {
            utilization,
            lower_bound: bound.value.min(utilization),
            status: ended.status(relative_gap(utilization, bound.value)),
            moved,
            link_prices: lengths.map(|length| length / scale / generation.unit).collect(),
            pair_price: bound.lengths.last().map_or(0.0, |length| length * self.whole / scale),
            iterations: master.pivots,
        };
        (solution, exact)
    }
}
