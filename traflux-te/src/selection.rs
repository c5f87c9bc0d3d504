//! Which pairs would a quick choice take, and how sure is it of each?
//!
//! Pairs are chosen in a few rounds. Prices of links are the slopes of the norm `(Σ_l u_l^β)^(1/β)`, which is near the
//! maximum utilisation `U`; with `c` capacities, `d` demands and `f` the fractions of the base,
//!
//! ```text
//! y_l      = (u_l / U)^(β − 1) / c_l,                     β = 4, 8, 16, 32 as pairs are chosen
//! relief_p = d_p (Σ_l f_pl y_l − dist_p(y))
//! ```
//!
//! The pairs of the greatest relief move to their cheapest path one after the other, each as far as the norm falls (a
//! step of Frank and Wolfe 1956); one that has nothing to gain any more is passed over. Some of those chosen earlier
//! move again before prices are set anew. It is the idea of [`GreedyRelief`](crate::GreedyRelief) with one search per
//! round for all pairs together, so that a policy can look at the result in every step: [`SelectionEncoder`] shows it.
//! The other way, [`QuickChoice::Fractions`], relaxes the choice: fractions of pairs may leave, `K` in sum.

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};
use traflux_core::{
    BaseRouting, EncodeError, GroupIx, LinkIx, Network, NodeIx, Observation, ObservationSpace, TrafficMatrix,
};

use crate::encode::NetworkEncoder;
use crate::shortest::ToTarget;

/// Binary logarithm of `β` for the first pairs and for the last: at first whatever fills up counts, in the end only
/// what is fullest. Powers of two, so that slopes are a few products and the same on every machine.
const DOUBLINGS: [usize; 2] = [2, 5];
/// Networks of more nodes are searched node by node, smaller ones by a matrix.
const MATRIX_NODES: usize = 128;
/// Halvings of one line search: 1.6 % of a step.
const HALVINGS: usize = 6;
/// Added to prices relative to the greatest: keeps paths short where nothing is full, and sums of `f32` exact
/// enough to walk along.
const FLOOR: f64 = 1e-5;
/// A gain of less, relative to the cost of the base, is none: distances are sums of `f32`.
const ROUNDING: f64 = 1e-4;
/// So many candidates are looked at for each pair chosen in a round.
const CANDIDATES: usize = 3;
/// So many pairs chosen in earlier rounds move again after each.
const REVISITED: usize = 8;
/// A pair of which less would leave is not chosen.
const LEAST_SHIFT: f64 = 0.05;

/// Names of the features that [`SelectionEncoder`] adds.
pub mod feature {
    /// The fraction of its demand that the quick choice moves, in [0, 1].
    pub const FRACTION: &str = "fraction";
    /// Relief in the last round over the greatest of all pairs then, in [0, 1].
    pub const LAST_RELIEF: &str = "last_relief";
    /// Relief of each round over the greatest of all pairs then, mean over the rounds, in [0, 1].
    pub const MEAN_RELIEF: &str = "mean_relief";
    /// `K / (K + i)` for the pair that comes `i`th, from 0: the quick choice in its order, then all others by mean
    /// relief. 1 for the first, near 0.5 for the last of `K`; 0 without any relief.
    pub const PLACE: &str = "place";

    /// The added features of a pair in the order of columns.
    pub const PAIR: [&str; 4] = [FRACTION, LAST_RELIEF, MEAN_RELIEF, PLACE];

    /// Of the network: what the quick choice leaves of `U`, in [0, 1].
    pub const REACHED: &str = "reached";
    /// Of the network: fraction of pairs that may be chosen, `K` over their number.
    pub const BUDGET: &str = "budget";

    /// The added features of the network in their order.
    pub const CONTEXT: [&str; 2] = [REACHED, BUDGET];
}

/// How the quick choice is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuickChoice {
    /// Whole pairs in this many rounds at most: nearest to the best set where much traffic has to move evenly.
    Rounds(usize),
    /// Fractions of pairs, in this many steps: smoother from one matrix to the next, and so easier to learn from
    /// where traffic has a history.
    Fractions(usize),
}

/// In up to 24 rounds: fewer pairs than that are chosen one by one.
impl Default for QuickChoice {
    fn default() -> Self {
        Self::Rounds(24)
    }
}

/// A [`NetworkEncoder`] that also shows what a quick choice of `K` pairs would be.
///
/// ```
/// use traflux_core::BitRate;
/// use traflux_te::generate::{BackboneConfig, TrafficModel, backbone};
/// use traflux_te::{SelectionEncoder, ecmp, share_of_pairs};
///
/// let network = backbone(&BackboneConfig::default(), 1)?;
/// let demands = TrafficModel::Exponential { mean: BitRate::gigabits_per_second(1.0) }.matrix(&network, 2)?;
/// let count = share_of_pairs(&network, 0.1);
/// let mut encoder = SelectionEncoder::new(&network, &ecmp(&network)?, count);
/// let observation = encoder.encode(&demands)?;
/// assert_eq!(observation.groups.ncols(), encoder.space().group_features.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SelectionEncoder {
    encoder: NetworkEncoder,
    chooser: Chooser,
    count: usize,
    quick: QuickChoice,
    inner: Observation,
    order: Vec<(f32, u32)>,
}

impl SelectionEncoder {
    /// Prepares to encode matrices for the choice of `count` pairs.
    ///
    /// # Panics
    /// When the base is one of another network.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        Self {
            encoder: NetworkEncoder::new(network, base),
            chooser: Chooser::new(network),
            count,
            quick: QuickChoice::default(),
            inner: Observation::default(),
            order: Vec::new(),
        }
    }

    /// Makes the quick choice in another way; the cost is in proportion to the rounds or steps. Policies are to be
    /// used with the way they were trained with. With 0 nothing is chosen and the added features are 0.
    #[must_use]
    pub fn with_quick_choice(mut self, quick: QuickChoice) -> Self {
        self.quick = quick;
        self
    }

    /// How many pairs are to be chosen.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Shape of the observations.
    #[must_use]
    pub fn space(&self) -> ObservationSpace {
        let mut space = self.encoder.space();
        space.group_features.extend(feature::PAIR.map(str::to_owned));
        space.context_features.extend(feature::CONTEXT.map(str::to_owned));
        space
    }

    /// Forgets the last matrix.
    pub fn reset(&mut self) {
        self.encoder.reset();
    }

    /// Encodes one matrix.
    ///
    /// # Errors
    /// [`EncodeError::Shape`] for a matrix of another number of nodes.
    pub fn encode(&mut self, demands: &TrafficMatrix) -> Result<Observation, EncodeError> {
        let mut observation = Observation::default();
        self.encode_into(demands, &mut observation)?;
        Ok(observation)
    }

    /// The same in the memory of an earlier observation, whatever it holds.
    ///
    /// # Errors
    /// [`EncodeError::Shape`] for a matrix of another number of nodes; the observation is then as before.
    pub fn encode_into(
        &mut self,
        demands: &TrafficMatrix,
        observation: &mut Observation,
    ) -> Result<(), EncodeError> {
        self.encoder.encode_into(demands, &mut self.inner)?;
        let (base, demands, utilizations) = self.encoder.problem();
        self.chooser.begin(base.pair_count(), utilizations);
        match self.quick {
            QuickChoice::Rounds(rounds) => self.chooser.choose(base, demands, self.count, rounds),
            QuickChoice::Fractions(steps) => {
                self.chooser.divide(base, demands, utilizations, self.count, steps);
            }
        }
        self.chooser.reached = self.chooser.reached(utilizations);
        self.place();
        let (pairs, known) = self.inner.groups.dim();
        let columns = known + feature::PAIR.len();
        if observation.groups.dim() != (pairs, columns) || !observation.groups.is_standard_layout() {
            observation.groups = Array2::zeros((pairs, columns));
        }
        let context = self.inner.context.len() + feature::CONTEXT.len();
        if observation.context.len() != context {
            observation.context = Array1::zeros(context);
        }
        observation.mask.clone_from(&self.inner.mask);
        let quick = &self.chooser;
        if let (Some(rows), Some(inner)) = (observation.groups.as_slice_mut(), self.inner.groups.as_slice()) {
            let rows = rows.chunks_exact_mut(columns).zip(inner.chunks_exact(known));
            for (pair, (row, inner)) in rows.enumerate() {
                row[..known].copy_from_slice(inner);
                let added = [quick.fractions[pair], quick.reliefs[pair], quick.mean_reliefs[pair], 0.0];
                row[known..].copy_from_slice(&added);
            }
        }
        let count = self.count.max(1) as f32;
        for (at, (_, pair)) in self.order.iter().enumerate() {
            observation.groups[[*pair as usize, known + 3]] = count / (count + at as f32);
        }
        for (value, inner) in observation.context.iter_mut().zip(&self.inner.context) {
            *value = *inner;
        }
        observation.context[context - 2] = quick.reached.min(1.0) as f32;
        observation.context[context - 1] = self.count as f32 / pairs.max(1) as f32;
        Ok(())
    }

    /// Sorts pairs: those that were chosen in their order, then the others by relief; equal ones by position.
    fn place(&mut self) {
        let quick = &self.chooser;
        self.order.clear();
        self.order.extend(quick.chosen.iter().map(|pair| (0.0, *pair)));
        let chosen = self.order.len();
        let others = quick.mean_reliefs.iter().zip(&quick.fractions).enumerate();
        let others = others.filter(|(_, (relief, fraction))| **relief > 0.0 && **fraction == 0.0);
        self.order.extend(others.map(|(pair, (relief, _))| (*relief, pair as u32)));
        self.order[chosen..].sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    }
}

/// The quick choice, in memory that is kept.
#[derive(Debug, Clone)]
struct Chooser {
    network: Network,
    inverse_capacities: Vec<f64>,
    prices: Vec<f64>,
    /// `[nodes, nodes]`, from row to column.
    distances: Vec<f32>,
    search: ToTarget,
    utilizations: Vec<f64>,
    keys: Vec<(f32, u32)>,
    /// Chosen pairs in their order, and what each adds to the utilisation of links.
    chosen: Vec<u32>,
    flows: Vec<Vec<(LinkIx, f64)>>,
    flow: Vec<(LinkIx, f64)>,
    change: Vec<(LinkIx, f64)>,
    toward: Vec<f64>,
    /// By pair: the fraction that moved.
    fractions: Vec<f32>,
    /// By pair: relief at the last prices, relative to the greatest.
    reliefs: Vec<f32>,
    /// By pair: relief, each round's relative to its greatest, averaged over rounds.
    mean_reliefs: Vec<f32>,
    /// `U` at the end over `U` of the base.
    reached: f64,
}

impl Chooser {
    fn new(network: &Network) -> Self {
        Self {
            network: network.clone(),
            inverse_capacities: network.links().iter().map(|l| 1.0 / l.capacity.get()).collect(),
            prices: Vec::new(),
            distances: Vec::new(),
            search: ToTarget::default(),
            utilizations: Vec::new(),
            keys: Vec::new(),
            chosen: Vec::new(),
            flows: Vec::new(),
            flow: Vec::new(),
            change: Vec::new(),
            toward: Vec::new(),
            fractions: Vec::new(),
            reliefs: Vec::new(),
            mean_reliefs: Vec::new(),
            reached: 1.0,
        }
    }

    /// Forgets the last choice.
    fn begin(&mut self, pairs: usize, base_utilizations: &[f64]) {
        for values in [&mut self.fractions, &mut self.reliefs, &mut self.mean_reliefs] {
            values.clear();
            values.resize(pairs, 0.0);
        }
        self.chosen.clear();
        self.utilizations.clear();
        self.utilizations.extend_from_slice(base_utilizations);
    }

    /// `U` now over `U` of the base.
    fn reached(&self, base_utilizations: &[f64]) -> f64 {
        let greatest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let at_base = greatest(base_utilizations);
        if at_base > 0.0 { greatest(&self.utilizations) / at_base } else { 1.0 }
    }

    /// A few steps of Frank and Wolfe on all pairs at once: the `count` pairs of the greatest relief on their
    /// cheapest paths and all others on the base is where to, a line search says how far.
    fn divide(
        &mut self,
        base: &BaseRouting,
        demands: &[f64],
        base_utilizations: &[f64],
        count: usize,
        steps: usize,
    ) {
        let mut toward = std::mem::take(&mut self.toward);
        for step in 0..steps {
            let [first, last] = DOUBLINGS;
            let doublings = first + step * (last - first + 1) / steps;
            let worst = self.utilizations.iter().copied().fold(0.0, f64::max);
            if worst <= 0.0 || count == 0 {
                break;
            }
            self.price(doublings, worst);
            self.measure(base, demands);
            if self.keys.is_empty() {
                break;
            }
            self.keep_best(count);
            toward.clear();
            toward.extend_from_slice(base_utilizations);
            for at in 0..self.keys.len() {
                let pair = self.keys[at].1 as usize;
                for (link, part) in base.entries(GroupIx::from(pair)) {
                    toward[link.ix()] -= demands[pair] * part * self.inverse_capacities[link.ix()];
                }
                let (mut node, target) = self.network.pair(GroupIx::from(pair));
                for _ in 0..self.network.nodes().len() {
                    let Some(link) = self.hop(node, target).filter(|_| node != target) else { break };
                    toward[link.ix()] += demands[pair] * self.inverse_capacities[link.ix()];
                    node = self.network.links()[link.ix()].head;
                }
            }
            let change = |(at, u): (usize, &f64)| (LinkIx::from(at), toward[at] - u);
            self.change.clear();
            self.change.extend(self.utilizations.iter().enumerate().map(change));
            let length = self.length(doublings, worst);
            for (utilization, toward) in self.utilizations.iter_mut().zip(&toward) {
                *utilization += length * (toward - *utilization);
            }
            let keep = (1.0 - length) as f32;
            self.fractions.iter_mut().for_each(|fraction| *fraction *= keep);
            for (_, pair) in &self.keys {
                self.fractions[*pair as usize] += length as f32;
            }
        }
        self.toward = toward;
        let scale = 1.0 / steps.max(1) as f32;
        self.mean_reliefs.iter_mut().for_each(|relief| *relief *= scale);
        self.chosen.clear();
        let some = self.fractions.iter().enumerate().filter(|(_, fraction)| **fraction > 0.0);
        self.chosen.extend(some.map(|(pair, _)| pair as u32));
        let (fractions, reliefs) = (&self.fractions, &self.mean_reliefs);
        self.chosen.sort_unstable_by(|a, b| {
            let key = |pair: u32| (fractions[pair as usize], reliefs[pair as usize]);
            let (a_key, b_key) = (key(*a), key(*b));
            b_key.0.total_cmp(&a_key.0).then(b_key.1.total_cmp(&a_key.1)).then(a.cmp(b))
        });
    }

    /// Chooses up to `count` pairs in rounds.
    fn choose(&mut self, base: &BaseRouting, demands: &[f64], count: usize, most_rounds: usize) {
        if most_rounds == 0 || count == 0 {
            return;
        }
        let per_round = count.div_ceil(most_rounds);
        let mut revisit = 0;
        let mut rounds = 0;
        for _ in 0..most_rounds {
            let [first, last] = DOUBLINGS;
            let doublings = (first + self.chosen.len() * (last - first + 1) / count).min(last);
            let worst = self.utilizations.iter().copied().fold(0.0, f64::max);
            if worst <= 0.0 || self.chosen.len() >= count {
                break;
            }
            self.price(doublings, worst);
            self.measure(base, demands);
            rounds += 1;
            // Those chosen before are not candidates.
            let fractions = &self.fractions;
            self.keys.retain(|(_, pair)| fractions[*pair as usize] == 0.0);
            if self.keys.is_empty() {
                break;
            }
            self.keep_best(CANDIDATES * per_round);
            self.keys.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let before = self.chosen.len();
            let keys = std::mem::take(&mut self.keys);
            for (_, pair) in &keys {
                if self.chosen.len() >= count.min(before + per_round) {
                    break;
                }
                let pair = *pair as usize;
                self.flow.clear();
                let entries = base.entries(GroupIx::from(pair)).iter();
                self.flow.extend(
                    entries.map(|(link, part)| {
                        (*link, demands[pair] * part * self.inverse_capacities[link.ix()])
                    }),
                );
                let length = self.shift(pair, demands[pair], doublings, worst);
                if length > LEAST_SHIFT {
                    self.fractions[pair] = length as f32;
                    if self.flows.len() == self.chosen.len() {
                        self.flows.push(Vec::new());
                    }
                    self.flows[self.chosen.len()].clone_from(&self.flow);
                    self.chosen.push(pair as u32);
                }
            }
            self.keys = keys;
            for _ in 0..before.min(REVISITED) {
                revisit = (revisit + 1) % before;
                let pair = self.chosen[revisit] as usize;
                std::mem::swap(&mut self.flow, &mut self.flows[revisit]);
                let length = self.shift(pair, demands[pair], doublings, worst);
                std::mem::swap(&mut self.flow, &mut self.flows[revisit]);
                self.fractions[pair] += length as f32 * (1.0 - self.fractions[pair]);
            }
        }
        let scale = 1.0 / rounds.max(1) as f32;
        self.mean_reliefs.iter_mut().for_each(|relief| *relief *= scale);
    }

    /// Slopes of the norm relative to the greatest, and distances under them.
    fn price(&mut self, doublings: usize, worst: f64) {
        self.prices.clear();
        let per_worst = 1.0 / worst;
        let price = |(u, inverse): (&f64, &f64)| slope(u * per_worst, doublings) * inverse;
        self.prices.extend(self.utilizations.iter().zip(&self.inverse_capacities).map(price));
        let greatest = self.prices.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        self.prices.iter_mut().for_each(|price| *price = *price / greatest + FLOOR);
        let n = self.network.nodes().len();
        self.distances.clear();
        self.distances.resize(n * n, f32::INFINITY);
        if n > MATRIX_NODES {
            for target in 0..n {
                let prices = &self.prices;
                self.search.search(&self.network, NodeIx::from(target), |link| prices[link.ix()]);
                for source in 0..n {
                    self.distances[source * n + target] = self.search.distance[source] as f32;
                }
            }
            return;
        }
        for node in 0..n {
            self.distances[node * n + node] = 0.0;
        }
        for (link, price) in self.network.links().iter().zip(&self.prices) {
            let cell = &mut self.distances[link.tail.ix() * n + link.head.ix()];
            *cell = cell.min(*price as f32);
        }
        // Floyd (1962): branch-free rows beat a heap at this size.
        for via in 0..n {
            let (before, rest) = self.distances.split_at_mut(via * n);
            let (row, after) = rest.split_at_mut(n);
            for other in before.chunks_exact_mut(n).chain(after.chunks_exact_mut(n)) {
                let first = other[via];
                if first.is_finite() {
                    for (cell, second) in other.iter_mut().zip(row.iter()) {
                        *cell = cell.min(first + second);
                    }
                }
            }
        }
    }

    /// Reliefs at the prices; leaves those that are positive in `keys`.
    fn measure(&mut self, base: &BaseRouting, demands: &[f64]) {
        let n = self.network.nodes().len();
        self.keys.clear();
        let mut pair = 0;
        let mut greatest = 0.0f32;
        for source in 0..n {
            for target in (0..n).filter(|target| *target != source) {
                let demand = demands[pair];
                if demand > 0.0 {
                    let cost: f64 =
                        base.entries(GroupIx::from(pair)).iter().map(|(l, f)| f * self.prices[l.ix()]).sum();
                    let gain = cost - f64::from(self.distances[source * n + target]);
                    if gain > ROUNDING * cost {
                        let relief = (demand * gain) as f32;
                        greatest = greatest.max(relief);
                        self.keys.push((relief, pair as u32));
                    }
                }
                pair += 1;
            }
        }
        self.reliefs.fill(0.0);
        for (relief, pair) in &mut self.keys {
            *relief /= greatest;
            self.reliefs[*pair as usize] = *relief;
            self.mean_reliefs[*pair as usize] += *relief;
        }
    }

    /// Keeps the best `count` of `keys`.
    fn keep_best(&mut self, count: usize) {
        if count < self.keys.len() {
            self.keys.select_nth_unstable_by(count, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            self.keys.truncate(count);
        }
    }

    /// Moves `flow` towards the cheapest path as far as the norm falls; gives how far, from 0 to 1.
    fn shift(&mut self, pair: usize, demand: f64, doublings: usize, worst: f64) -> f64 {
        let n = self.network.nodes().len();
        self.change.clear();
        self.change.extend(self.flow.iter().map(|(link, amount)| (*link, -amount)));
        let (source, target) = self.network.pair(GroupIx::from(pair));
        let mut node = source;
        for _ in 0..n {
            if node == target {
                break;
            }
            let Some(link) = self.hop(node, target) else { return 0.0 };
            let amount = demand * self.inverse_capacities[link.ix()];
            match self.change.iter_mut().find(|(other, _)| *other == link) {
                Some((_, sum)) => *sum += amount,
                None => self.change.push((link, amount)),
            }
            node = self.network.links()[link.ix()].head;
        }
        let length = self.length(doublings, worst);
        if length > 0.0 {
            for (link, change) in &self.change {
                self.utilizations[link.ix()] += length * change;
                match self.flow.iter_mut().find(|(other, _)| other == link) {
                    Some((_, amount)) => *amount += length * change,
                    None => self.flow.push((*link, length * change)),
                }
            }
            let least = 1e-9 * self.flow.iter().map(|(_, amount)| *amount).fold(0.0, f64::max);
            self.flow.retain(|(_, amount)| *amount > least);
        }
        length
    }

    /// How far along `change` the norm falls, from 0 to 1.
    fn length(&self, doublings: usize, worst: f64) -> f64 {
        let per_worst = 1.0 / worst;
        let falls = |length: f64| {
            let of = |(link, change): &(LinkIx, f64)| {
                let utilization = (self.utilizations[link.ix()] + length * change).max(0.0);
                slope(utilization * per_worst, doublings) * change
            };
            self.change.iter().map(of).sum::<f64>() < 0.0
        };
        if falls(1.0) {
            return 1.0;
        }
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = 0.5 * (low + high);
            if falls(middle) { low = middle } else { high = middle }
        }
        low
    }

    /// The first link of a cheapest path.
    fn hop(&self, node: NodeIx, target: NodeIx) -> Option<LinkIx> {
        let n = self.network.nodes().len();
        let through = |link: &LinkIx| {
            let head = self.network.links()[link.ix()].head;
            self.prices[link.ix()] as f32 + self.distances[head.ix() * n + target.ix()]
        };
        let mut best: Option<(f32, LinkIx)> = None;
        for link in self.network.out_links(node) {
            let cost = through(link);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, *link));
            }
        }
        best.map(|(_, link)| link)
    }
}

/// `u^(2^doublings − 1)`.
fn slope(u: f64, doublings: usize) -> f64 {
    let (mut product, mut square) = (u, u);
    for _ in 1..doublings {
        square *= square;
        product *= square;
    }
    product
}
