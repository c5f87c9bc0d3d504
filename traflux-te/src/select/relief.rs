//! Which pairs relieve the network most if they may move, judged by prices instead of a linear program?

use traflux_core::{Action, BaseRouting, GroupIx, LinkIx, Network, NodeIx, Observation, Policy, PolicyError};

use super::{check, check_pairs, demand, largest};
use crate::relief::{Relief, keep};

/// The pairs that gain the most from leaving the base, each judged by itself.
///
/// With `u` the utilisation of links under the base, `U` the greatest, `c` capacities, `d` demands and `f`
/// the fractions of the base, links have prices and pairs a relief,
///
/// ```text
/// y_l = exp(β (u_l / U − 1)) / c_l,     relief_p = d_p (Σ_l f_pl y_l − dist_p(y)),     β = 2
/// ```
///
/// the slope of a smooth maximum along the move of `p` to its cheapest path (Young 1995; Garg and Könemann
/// 2007). One search per target: cost O(n · m log n + Σ|f|). Pairs that gain nothing are not chosen, so there
/// may be fewer than asked for.
#[derive(Debug, Clone)]
pub struct TopKRelief {
    count: usize,
    base: BaseRouting,
    relief: Relief,
    utilizations: Vec<f64>,
    values: Vec<f64>,
    candidates: Vec<(f32, u32)>,
}

impl TopKRelief {
    /// `β`: low, so that links that are not yet the fullest count as well; all are judged at once, and
    /// whoever moves first fills what looked empty to the others.
    pub const SHARPNESS: f64 = 2.0;

    /// Chooses `count` pairs.
    ///
    /// # Panics
    /// When the base is one of another network.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        Self {
            count,
            base: keep(network, base),
            relief: Relief::new(network),
            utilizations: Vec::new(),
            values: Vec::new(),
            candidates: Vec::new(),
        }
    }
}

impl Policy for TopKRelief {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        check(observation)?;
        check_pairs(observation, self.base.pair_count())?;
        self.utilizations.clear();
        self.utilizations.resize(self.relief.inverse_capacities.len(), 0.0);
        add_loads(&self.base, observation, &mut self.utilizations);
        for (utilization, inverse) in self.utilizations.iter_mut().zip(&self.relief.inverse_capacities) {
            *utilization *= inverse;
        }
        let worst = self.utilizations.iter().copied().fold(0.0, f64::max);
        if worst <= 0.0 {
            return Ok(Action::choose(Vec::new()));
        }
        self.relief.set_prices(&self.utilizations, worst, Self::SHARPNESS);
        self.relief.values(&self.base, |pair| f64::from(demand(observation, pair)), &mut self.values);
        let greatest = self.values.iter().copied().fold(0.0, f64::max);
        self.candidates.clear();
        for (pair, value) in self.values.iter().enumerate() {
            if observation.mask[pair] && *value > 0.0 {
                self.candidates.push(((value / greatest) as f32, pair as u32));
            }
        }
        Ok(Action::choose(largest(&mut self.candidates, self.count)))
    }
}

/// The pairs that gain the most from leaving the base, each judged after those before it have moved.
///
/// As [`TopKRelief`], but chosen in up to [`GreedyRelief::ROUNDS`] rounds. After each round the pairs chosen
/// last, and some of the earlier ones in turn, shift traffic to their cheapest path as long as the smooth
/// maximum falls (a step of Frank and Wolfe 1956); the prices of the next round are those of the loads that
/// result. Pairs that gain nothing are not chosen, so there may be fewer than asked for.
///
/// With `r` rounds the cost is at least `r` times that of [`TopKRelief`], so this is for networks of some
/// hundred nodes at most.
#[derive(Debug, Clone)]
pub struct GreedyRelief {
    count: usize,
    base: BaseRouting,
    relief: Relief,
    loads: Vec<f64>,
    utilizations: Vec<f64>,
    values: Vec<f64>,
    candidates: Vec<(f32, u32)>,
    chosen: Vec<Chosen>,
    taken: Vec<bool>,
    step: Vec<(LinkIx, f64)>,
}

/// A pair that may move and where its traffic is now.
#[derive(Debug, Clone)]
struct Chosen {
    pair: u32,
    demand: f64,
    flow: Vec<(LinkIx, f64)>,
}

impl GreedyRelief {
    /// `β` for the first pair and for the last, in proportion in between: at first whatever fills up counts,
    /// in the end only what is fullest.
    pub const SHARPNESS: [f64; 2] = [4.0, 24.0];
    /// The most rounds; where more pairs are asked for, several are chosen in each.
    pub const ROUNDS: usize = 64;
    /// So many pairs chosen in earlier rounds move again after each.
    const REVISITED: usize = 16;
    /// Halvings of a step length: 0.02 % of it.
    const HALVINGS: usize = 12;

    /// Chooses `count` pairs.
    ///
    /// # Panics
    /// When the base is one of another network.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        Self {
            count,
            base: keep(network, base),
            relief: Relief::new(network),
            loads: Vec::new(),
            utilizations: Vec::new(),
            values: Vec::new(),
            candidates: Vec::new(),
            chosen: Vec::new(),
            taken: Vec::new(),
            step: Vec::new(),
        }
    }

    /// `β` now.
    fn sharpness(&self) -> f64 {
        let [first, last] = Self::SHARPNESS;
        first + (last - first) * self.chosen.len() as f64 / self.count.max(1) as f64
    }

    /// Prices of the loads at hand; gives the greatest utilisation.
    fn price(&mut self) -> f64 {
        self.utilizations.clear();
        let loads = self.loads.iter().zip(&self.relief.inverse_capacities);
        self.utilizations.extend(loads.map(|(load, inverse)| load.max(0.0) * inverse));
        let worst = self.utilizations.iter().copied().fold(0.0, f64::max);
        if worst > 0.0 {
            self.relief.set_prices(&self.utilizations, worst, self.sharpness());
        }
        worst
    }

    /// Shifts traffic of one chosen pair to its cheapest path, as far as the smooth maximum falls.
    fn shift(&mut self, at: usize) {
        let worst = self.price();
        if worst <= 0.0 {
            return;
        }
        let sharpness = self.sharpness();
        let chosen = &mut self.chosen[at];
        let (source, target) = self.relief.network.pair(GroupIx(chosen.pair));
        self.relief.search(target);
        // Away from where it is, towards the cheapest path.
        self.step.clear();
        self.step.extend(chosen.flow.iter().map(|(link, amount)| (*link, -amount)));
        let mut node = source;
        while let Some(link) = self.relief.cheapest_hop(node, target) {
            add(&mut self.step, link, chosen.demand);
            node = self.relief.network.links()[link.ix()].head;
        }
        let (inverse, loads) = (&self.relief.inverse_capacities, &self.loads);
        let slope = |length: f64| -> f64 {
            let of = |(link, amount): &(LinkIx, f64)| {
                let inverse = inverse[link.ix()];
                let utilization = (loads[link.ix()] + length * amount) * inverse / worst;
                (sharpness * (utilization - 1.0)).exp() * amount * inverse
            };
            self.step.iter().map(of).sum()
        };
        let (mut low, mut high) = (0.0, 1.0);
        if slope(1.0) <= 0.0 {
            low = 1.0;
        } else {
            for _ in 0..Self::HALVINGS {
                let middle = 0.5 * (low + high);
                if slope(middle) < 0.0 { low = middle } else { high = middle }
            }
        }
        if low > 0.0 {
            for (link, amount) in &self.step {
                self.loads[link.ix()] += low * amount;
                add(&mut chosen.flow, *link, low * amount);
            }
            chosen.flow.retain(|(_, amount)| *amount > 1e-12 * chosen.demand);
        }
    }
}

impl Policy for GreedyRelief {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        check(observation)?;
        check_pairs(observation, self.base.pair_count())?;
        self.loads.clear();
        self.loads.resize(self.relief.inverse_capacities.len(), 0.0);
        add_loads(&self.base, observation, &mut self.loads);
        self.taken.clear();
        self.taken.extend(observation.mask.iter().map(|open| !open));
        self.chosen.clear();
        let per_round = self.count.div_ceil(Self::ROUNDS).max(1);
        let mut revisit = 0;
        while self.chosen.len() < self.count && self.price() > 0.0 {
            let taken = &self.taken;
            let left = |pair: usize| if taken[pair] { 0.0 } else { f64::from(demand(observation, pair)) };
            self.relief.values(&self.base, left, &mut self.values);
            let greatest = self.values.iter().copied().fold(0.0, f64::max);
            if greatest <= 0.0 {
                break;
            }
            self.candidates.clear();
            let gains = self.values.iter().enumerate().filter(|(_, value)| **value > 0.0);
            self.candidates.extend(gains.map(|(pair, value)| ((value / greatest) as f32, pair as u32)));
            let before = self.chosen.len();
            for pair in largest(&mut self.candidates, per_round.min(self.count - before)) {
                let demand = f64::from(demand(observation, pair.ix()));
                let flow = self.base.of(pair).map(|(link, part)| (link, part * demand)).collect();
                self.taken[pair.ix()] = true;
                self.chosen.push(Chosen { pair: pair.0, demand, flow });
            }
            for at in before..self.chosen.len() {
                self.shift(at);
            }
            for _ in 0..Self::REVISITED.min(before) {
                revisit = (revisit + 1) % self.chosen.len();
                self.shift(revisit);
            }
        }
        Ok(Action::choose(self.chosen.iter().map(|chosen| GroupIx(chosen.pair)).collect()))
    }
}

impl Relief {
    /// The first link of a cheapest path to the target of the last search; `None` at the target.
    fn cheapest_hop(&self, node: NodeIx, target: NodeIx) -> Option<LinkIx> {
        if node == target {
            return None;
        }
        let (distance, rank) = (self.search.distances(), self.search.ranks());
        let head = |link: &LinkIx| self.network.links()[link.ix()].head.ix();
        let through = |link: &LinkIx| self.prices[link.ix()] + distance[head(link)];
        let links = self.network.out_links(node).iter().copied();
        links
            .filter(|link| rank[head(link)] < rank[node.ix()])
            .min_by(|a, b| through(a).total_cmp(&through(b)))
    }
}

/// Adds to the entry of a link, or a new one.
fn add(flow: &mut Vec<(LinkIx, f64)>, link: LinkIx, amount: f64) {
    match flow.iter_mut().find(|(other, _)| *other == link) {
        Some((_, sum)) => *sum += amount,
        None => flow.push((link, amount)),
    }
}

/// Adds the demands of an observation to links, along the base.
pub(super) fn add_loads(base: &BaseRouting, observation: &Observation, loads: &mut [f64]) {
    for pair in 0..base.pair_count() {
        let demand = f64::from(demand(observation, pair));
        if demand > 0.0 {
            for (link, fraction) in base.of(GroupIx::from(pair)) {
                loads[link.ix()] += demand * fraction;
            }
        }
    }
}
