//! Which pairs would move if they could be chosen in part?
//!
//! Relaxed, the choice of `K` pairs is convex: a fraction `z_p` of pair `p` may leave the base, `Σ z_p ≤ K`, over
//! any paths. A few steps of Frank and Wolfe (1956) on the norm `(Σ_l u_l^β)^(1/β)`, which is near the maximum
//! utilisation `U`, give fractions that are near those of the linear program, for a small part of its cost. With `c`
//! capacities, `d` demands, `f` the fractions of the base, and `y` the slopes of that norm,
//!
//! ```text
//! y_l      = (u_l / U)^(β − 1) / c_l
//! relief_p = d_p (Σ_l f_pl y_l − dist_p(y))
//! step:      the K pairs of the greatest relief on their cheapest paths, all others on the base
//! z        ← z + γ (step − z),   γ by a line search along the loads,   β = 4 … 32
//! ```
//!
//! which is exact as the number of steps and `β` grow. [`SelectionEncoder`] shows the result to a policy.

use ndarray::{Array1, Array2};
use traflux_core::{
    BaseRouting, EncodeError, GroupIx, LinkIx, Network, NodeIx, Observation, ObservationSpace, TrafficMatrix,
};

use crate::encode::NetworkEncoder;
use crate::relief::Entries;
use crate::shortest::ToTarget;

/// Binary logarithm of `β` in the first step and in the last: at first whatever fills up counts, in the end only
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

/// Names of the features that [`SelectionEncoder`] adds.
pub mod feature {
    /// `z_p`, in [0, 1].
    pub const FRACTION: &str = "fraction";
    /// Relief at the last prices over the greatest of all pairs, in [0, 1].
    pub const LAST_RELIEF: &str = "last_relief";
    /// Relief of each step over the greatest of all pairs then, mean over the steps, in [0, 1].
    pub const MEAN_RELIEF: &str = "mean_relief";
    /// `K / (K + i)` for the pair that comes `i`th, from 0, by `z` and then by mean relief: 1 for the first, near 0.5
    /// for the last that would be chosen; 0 without any relief.
    pub const PLACE: &str = "place";

    /// The added features of a pair in the order of columns.
    pub const PAIR: [&str; 4] = [FRACTION, LAST_RELIEF, MEAN_RELIEF, PLACE];

    /// Of the network: what is left of `U` after the last step, in [0, 1].
    pub const REACHED: &str = "reached";
    /// Of the network: fraction of pairs that may be chosen, `K` over their number.
    pub const BUDGET: &str = "budget";

    /// The added features of the network in their order.
    pub const CONTEXT: [&str; 2] = [REACHED, BUDGET];
}

/// A [`NetworkEncoder`] that also shows what the relaxed choice of `K` pairs would be.
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
    relaxation: Relaxation,
    count: usize,
    inner: Observation,
    order: Vec<(f32, f32, u32)>,
}

impl SelectionEncoder {
    /// Steps of the relaxation unless set otherwise.
    pub const STEPS: usize = 8;

    /// Prepares to encode matrices for the choice of `count` pairs.
    ///
    /// # Panics
    /// When the base is one of another network.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        Self {
            encoder: NetworkEncoder::new(network, base),
            relaxation: Relaxation::new(network, Self::STEPS),
            count,
            inner: Observation::default(),
            order: Vec::new(),
        }
    }

    /// Takes another number of steps; their cost is in proportion. Policies are to be used with the number they
    /// were trained with.
    #[must_use]
    pub fn with_steps(mut self, steps: usize) -> Self {
        self.relaxation.steps = steps;
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
        self.relaxation.solve(base, demands, utilizations, self.count);
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
        let relaxed = &self.relaxation;
        if let (Some(rows), Some(inner)) = (observation.groups.as_slice_mut(), self.inner.groups.as_slice()) {
            let rows = rows.chunks_exact_mut(columns).zip(inner.chunks_exact(known));
            for (pair, (row, inner)) in rows.enumerate() {
                row[..known].copy_from_slice(inner);
                let added = [relaxed.fractions[pair], relaxed.reliefs[pair], relaxed.mean_reliefs[pair], 0.0];
                row[known..].copy_from_slice(&added);
            }
        }
        let count = self.count.max(1) as f32;
        for (at, (_, _, pair)) in self.order.iter().enumerate() {
            observation.groups[[*pair as usize, known + 3]] = count / (count + at as f32);
        }
        for (value, inner) in observation.context.iter_mut().zip(&self.inner.context) {
            *value = *inner;
        }
        observation.context[context - 2] = relaxed.reached.min(1.0) as f32;
        observation.context[context - 1] = self.count as f32 / pairs.max(1) as f32;
        Ok(())
    }

    /// Sorts pairs by fraction, then by relief; equal ones are left in the order of their positions, which only
    /// pairs without any relief can be.
    fn place(&mut self) {
        let relaxed = &self.relaxation;
        self.order.clear();
        let values = relaxed.fractions.iter().zip(&relaxed.mean_reliefs).enumerate();
        let some = values.filter(|(_, (z, relief))| **z > 0.0 || **relief > 0.0);
        self.order.extend(some.map(|(pair, (z, relief))| (*z, *relief, pair as u32)));
        let by = |a: &(f32, f32, u32), b: &(f32, f32, u32)| {
            b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2))
        };
        self.order.sort_unstable_by(by);
    }
}

/// The relaxed choice, in memory that is kept.
#[derive(Debug, Clone)]
pub(crate) struct Relaxation {
    pub(crate) steps: usize,
    nodes: usize,
    network: Network,
    inverse_capacities: Vec<f64>,
    prices: Vec<f64>,
    distances: Vec<f32>,
    search: ToTarget,
    utilizations: Vec<f64>,
    toward: Vec<f64>,
    keys: Vec<(f32, u32)>,
    /// By pair: the fraction that leaves the base.
    pub(crate) fractions: Vec<f32>,
    /// By pair: relief at the last prices, relative to the greatest.
    pub(crate) reliefs: Vec<f32>,
    /// By pair: relief, each step's relative to its greatest, averaged over steps.
    pub(crate) mean_reliefs: Vec<f32>,
    /// `U` at the end over `U` of the base.
    pub(crate) reached: f64,
}

impl Relaxation {
    pub(crate) fn new(network: &Network, steps: usize) -> Self {
        Self {
            steps,
            nodes: network.nodes().len(),
            network: network.clone(),
            inverse_capacities: network.links().iter().map(|l| 1.0 / l.capacity.get()).collect(),
            prices: Vec::new(),
            distances: Vec::new(),
            search: ToTarget::default(),
            utilizations: Vec::new(),
            toward: Vec::new(),
            keys: Vec::new(),
            fractions: Vec::new(),
            reliefs: Vec::new(),
            mean_reliefs: Vec::new(),
            reached: 1.0,
        }
    }

    /// Solves for demands by pair and utilisations of the base, roughly.
    pub(crate) fn solve(&mut self, base: &Entries, demands: &[f64], base_utilizations: &[f64], count: usize) {
        let pairs = base.pairs();
        for values in [&mut self.fractions, &mut self.reliefs, &mut self.mean_reliefs] {
            values.clear();
            values.resize(pairs, 0.0);
        }
        self.reached = 1.0;
        let at_base = base_utilizations.iter().copied().fold(0.0, f64::max);
        if at_base <= 0.0 || count == 0 {
            return;
        }
        self.utilizations.clear();
        self.utilizations.extend_from_slice(base_utilizations);
        for step in 0..self.steps {
            let [first, last] = DOUBLINGS;
            let doublings = first + step * (last - first + 1) / self.steps;
            let worst = self.utilizations.iter().copied().fold(0.0, f64::max);
            if worst <= 0.0 {
                break;
            }
            self.price(doublings, worst);
            self.measure(base, demands);
            if self.keys.is_empty() {
                break;
            }
            self.choose(count);
            self.toward.clear();
            self.toward.extend_from_slice(base_utilizations);
            for at in 0..self.keys.len() {
                self.detour(base, demands, self.keys[at].1 as usize);
            }
            let length = self.length(doublings, worst);
            if length > 0.0 {
                for (utilization, toward) in self.utilizations.iter_mut().zip(&self.toward) {
                    *utilization += length * (toward - *utilization);
                }
                let keep = (1.0 - length) as f32;
                self.fractions.iter_mut().for_each(|fraction| *fraction *= keep);
                for (_, pair) in &self.keys {
                    self.fractions[*pair as usize] += length as f32;
                }
            }
        }
        let scale = 1.0 / self.steps.max(1) as f32;
        self.mean_reliefs.iter_mut().for_each(|relief| *relief *= scale);
        self.reached = self.utilizations.iter().copied().fold(0.0, f64::max) / at_base;
    }

    /// Slopes of the smooth maximum, relative to the greatest, and distances under them.
    fn price(&mut self, doublings: usize, worst: f64) {
        self.prices.clear();
        let per_worst = 1.0 / worst;
        let price = |(u, inverse): (&f64, &f64)| slope(u * per_worst, doublings) * inverse;
        self.prices.extend(self.utilizations.iter().zip(&self.inverse_capacities).map(price));
        let greatest = self.prices.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        self.prices.iter_mut().for_each(|price| *price = *price / greatest + FLOOR);
        let n = self.nodes;
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
    fn measure(&mut self, base: &Entries, demands: &[f64]) {
        let n = self.nodes;
        self.keys.clear();
        let mut pair = 0;
        let mut greatest = 0.0f32;
        for source in 0..n {
            for target in (0..n).filter(|target| *target != source) {
                let demand = demands[pair];
                if demand > 0.0 {
                    let cost: f64 = base.of(pair).iter().map(|(l, f)| f * self.prices[l.ix()]).sum();
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
    fn choose(&mut self, count: usize) {
        if count < self.keys.len() {
            self.keys.select_nth_unstable_by(count, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            self.keys.truncate(count);
        }
    }

    /// Takes a pair off its base and onto its cheapest path, in `toward`.
    fn detour(&mut self, base: &Entries, demands: &[f64], pair: usize) {
        let n = self.nodes;
        let demand = demands[pair];
        for (link, fraction) in base.of(pair) {
            self.toward[link.ix()] -= demand * fraction * self.inverse_capacities[link.ix()];
        }
        let (source, target) = self.network.pair(GroupIx::from(pair));
        let mut node = source;
        for _ in 0..n {
            if node == target {
                break;
            }
            let links = self.network.out_links(node);
            let through = |link: &LinkIx| {
                let head = self.network.links()[link.ix()].head;
                self.prices[link.ix()] as f32 + self.distances[head.ix() * n + target.ix()]
            };
            let Some(link) = links.iter().copied().min_by(|a, b| through(a).total_cmp(&through(b))) else {
                break;
            };
            self.toward[link.ix()] += demand * self.inverse_capacities[link.ix()];
            node = self.network.links()[link.ix()].head;
        }
    }

    /// Where between here (0) and `toward` (1) the norm is least.
    fn length(&self, doublings: usize, worst: f64) -> f64 {
        let per_worst = 1.0 / worst;
        let falls = |length: f64| -> bool {
            let of = |(u, t): (&f64, &f64)| {
                let change = t - u;
                slope((u + length * change).max(0.0) * per_worst, doublings) * change
            };
            self.utilizations.iter().zip(&self.toward).map(of).sum::<f64>() < 0.0
        };
        if falls(1.0) {
            return 1.0;
        }
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = 0.5 * (low + high);
            if falls(middle) { low = middle } else { high = middle }
        }
        0.5 * (low + high)
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
