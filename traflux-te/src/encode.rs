//! What does a network look like to a policy?
//!
//! One row per pair of nodes, in the order of pair positions. Every feature is finite and about unit scale;
//! utilisation counts relative to the fullest link, so that neither the unit of demands nor that of
//! capacities matters, and no feature depends on how nodes are numbered.
//!
//! With `d_p` the demand of pair `p`, `f_pl` the fraction of it on link `l` under the base routing, `c_l` the
//! capacity, `u_l = Σ_p d_p f_pl / c_l` the utilisation and `U = max_l u_l`, the features of a pair are those
//! of [`feature::PAIR`] and those of the network [`feature::CONTEXT`]. The base is where traffic goes when
//! nothing is rerouted: a policy sees the problem, not the last answer to it.

use ndarray::{Array1, Array2};
use traflux_core::{
    BaseRouting, EncodeError, GroupIx, Network, Observation, ObservationSpace, TrafficMatrix, network,
};

use crate::relief::{Relief, keep};
use crate::select::TopKRelief;

/// So many of the fullest links count as critical (Zhang et al. 2020).
const CRITICAL_LINKS: usize = 5;
/// Utilisations within this much of each other, relative to the greatest, tie: links with one load by
/// symmetry must not be told apart by rounding.
const TIE: f64 = 1e-9;
/// Links at least this full, relative to the fullest, count as near it.
const NEAR: f64 = 0.9;
/// Added to demands, relative to the mean, before a change is measured: a pair that starts to send is not
/// infinitely busier than before.
const CHANGE_FLOOR: f64 = 0.01;

/// Names of the features.
pub mod feature {
    /// `d_p` over the mean of all pairs; the one that is not bounded, see
    /// [`column::DEMAND`](traflux_core::network::column::DEMAND).
    pub const DEMAND: &str = "demand";
    /// `ln(1 + DEMAND)`, in [0, 5].
    pub const LOG_DEMAND: &str = "log_demand";
    /// Fraction of the other pairs that send less, in [0, 1].
    pub const DEMAND_RANK: &str = "demand_rank";
    /// Utilisation of the fullest link of its base path over `U`, in [0, 1].
    pub const BOTTLENECK: &str = "bottleneck";
    /// Mean utilisation along its base path, weighted by `f_pl`, over `U`, in [0, 1].
    pub const PATH_UTILIZATION: &str = "path_utilization";
    /// Its part of the load of its bottleneck, `d_p f_pl / (c_l u_l)`, in [0, 1]; of several the greatest.
    pub const BOTTLENECK_SHARE: &str = "bottleneck_share";
    /// Its part of the load of the fullest link of all, in [0, 1]; of several the greatest.
    pub const WORST_SHARE: &str = "worst_share";
    /// The greatest `f_pl` on the five fullest links and those that tie with the fifth, in [0, 1]: for a base
    /// of single paths, whether it crosses one.
    pub const CRITICAL: &str = "critical";
    /// What it adds to a link of its base path, at most, `max_l d_p f_pl / c_l` over `U`, in [0, 1].
    pub const PRESSURE: &str = "pressure";
    /// Utilisation of the fullest link on the path where that is least, over `U`, in [0, 1]: how full a
    /// detour would at least be. Never above `BOTTLENECK`.
    pub const ALTERNATIVE: &str = "alternative";
    /// What the network gains, to first order, when the pair may leave its base path; square root of the
    /// relief of [`TopKRelief`](crate::select::TopKRelief) over the greatest of all pairs, in [0, 1].
    pub const RELIEF: &str = "relief";
    /// Length of its base path in links, `Σ_l f_pl`, over the mean of all pairs, in [0, 4].
    pub const HOPS: &str = "hops";
    /// Least capacity on its base path over the greatest in the network, in [0, 1].
    pub const PATH_CAPACITY: &str = "path_capacity";
    /// What its source sends, over the capacity of all links out of it, over `U`, in [0, 1]: no routing can
    /// make the fullest of these links emptier.
    pub const SOURCE_CUT: &str = "source_cut";
    /// What its target receives, over the capacity of all links into it, over `U`, in [0, 1].
    pub const TARGET_CUT: &str = "target_cut";
    /// Log of `DEMAND` over that at the last encoding, both + 0.01, in [−2, 2]; 0 at first.
    pub const CHANGE: &str = "change";

    /// The features of a pair in the order of columns.
    pub const PAIR: [&str; 16] = [
        DEMAND,
        LOG_DEMAND,
        DEMAND_RANK,
        BOTTLENECK,
        PATH_UTILIZATION,
        BOTTLENECK_SHARE,
        WORST_SHARE,
        CRITICAL,
        PRESSURE,
        ALTERNATIVE,
        RELIEF,
        HOPS,
        PATH_CAPACITY,
        SOURCE_CUT,
        TARGET_CUT,
        CHANGE,
    ];

    /// Of the network: mean of `u_l` over `U`, in [0, 1].
    pub const MEAN_UTILIZATION: &str = "mean_utilization";
    /// Of the network: standard deviation of `u_l` over `U`, in [0, 1].
    pub const UTILIZATION_SPREAD: &str = "utilization_spread";
    /// Of the network: fraction of links with `u_l ≥ 0.9 U`.
    pub const NEAR_WORST: &str = "near_worst";
    /// Of the network: the greatest `SOURCE_CUT` or `TARGET_CUT`, in [0, 1]: a lower bound of what the
    /// optimum is of `U`.
    pub const CUT_BOUND: &str = "cut_bound";
    /// Of the network: standard deviation of demands over their mean, halved, in [0, 4].
    pub const DEMAND_SPREAD: &str = "demand_spread";
    /// Of the network: log of the sum of demands over that at the last encoding, in [−2, 2]; 0 at first.
    pub const TOTAL_CHANGE: &str = "total_change";
    /// Of the network: log of `U` over that at the last encoding, in [−2, 2]; 0 at first.
    pub const WORST_CHANGE: &str = "worst_change";
    /// Of the network: `ln n / 8` for `n` nodes.
    pub const SIZE: &str = "size";
    /// Of the network: links per node over 4, in [0, 4].
    pub const DEGREE: &str = "degree";

    /// The features of the network in their order.
    pub const CONTEXT: [&str; 9] = [
        MEAN_UTILIZATION,
        UTILIZATION_SPREAD,
        NEAR_WORST,
        CUT_BOUND,
        DEMAND_SPREAD,
        TOTAL_CHANGE,
        WORST_CHANGE,
        SIZE,
        DEGREE,
    ];
}

const COLUMNS: usize = feature::PAIR.len();

/// Turns matrices of one network and base routing into observations.
///
/// It remembers the last matrix for the features of change; [`NetworkEncoder::reset`] forgets it between
/// episodes.
///
/// ```
/// use traflux_core::BitRate;
/// use traflux_te::generate::{BackboneConfig, TrafficModel, backbone};
/// use traflux_te::{NetworkEncoder, ecmp};
///
/// let network = backbone(&BackboneConfig::default(), 1)?;
/// let demands = TrafficModel::Exponential { mean: BitRate::gigabits_per_second(1.0) }.matrix(&network, 2)?;
/// let mut encoder = NetworkEncoder::new(&network, &ecmp(&network)?);
/// let observation = encoder.encode(&demands)?;
/// assert_eq!(observation.groups.nrows(), network.pair_count());
/// assert_eq!(observation.groups.ncols(), encoder.space().group_features.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct NetworkEncoder {
    nodes: usize,
    base: BaseRouting,
    relief: Relief,
    tails: Vec<u32>,
    heads: Vec<u32>,
    /// One over the capacity of all links out of and into each node; 0 for none.
    inverse_out: Vec<f64>,
    inverse_in: Vec<f64>,
    /// Of each pair what no demand changes.
    hops: Vec<f32>,
    path_capacities: Vec<f32>,
    mask: Vec<bool>,
    previous: Option<Previous>,
    work: Work,
}

/// What the features of change compare with.
#[derive(Debug, Clone, Default)]
struct Previous {
    /// By pair, relative to the mean then.
    demands: Vec<f32>,
    total: f64,
    worst: f64,
}

/// Memory kept from one encoding to the next.
#[derive(Debug, Clone, Default)]
struct Work {
    demands: Vec<f64>,
    utilizations: Vec<f64>,
    /// Links, emptiest first.
    by_utilization: Vec<u32>,
    /// By pair, relative to the greatest.
    alternatives: Vec<f32>,
    reach: Vec<u64>,
    reliefs: Vec<f64>,
    /// Positions of demands, the smallest first, and for each its rank.
    order: Vec<u32>,
    ranks: Vec<f32>,
    out_cut: Vec<f64>,
    in_cut: Vec<f64>,
}

impl NetworkEncoder {
    /// Prepares to encode matrices for this network and base.
    ///
    /// # Panics
    /// When the base is one of another network.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting) -> Self {
        let nodes = network.nodes().len();
        let base = keep(network, base);
        let pairs = (0..network.pair_count()).map(GroupIx::from);
        let greatest = network.links().iter().map(|l| l.capacity.get()).fold(0.0, f64::max);
        let (mut out, mut into) = (vec![0.0; nodes], vec![0.0; nodes]);
        for link in network.links() {
            out[link.tail.ix()] += link.capacity.get();
            into[link.head.ix()] += link.capacity.get();
        }
        let inverse = |v: f64| if v > 0.0 { 1.0 / v } else { 0.0 };
        let lengths: Vec<f64> = pairs.clone().map(|p| base.of(p).map(|(_, f)| f).sum()).collect();
        let joined = lengths.iter().filter(|hops| **hops > 0.0).count().max(1) as f64;
        let mean_hops = (lengths.iter().sum::<f64>() / joined).max(f64::MIN_POSITIVE);
        let least = |p: GroupIx| {
            let capacities = base.of(p).map(|(l, _)| network.links()[l.ix()].capacity.get());
            capacities.reduce(f64::min).unwrap_or(0.0) * inverse(greatest)
        };
        Self {
            nodes,
            hops: lengths.iter().map(|hops| (hops / mean_hops).min(4.0) as f32).collect(),
            path_capacities: pairs.map(|p| least(p) as f32).collect(),
            mask: lengths.iter().map(|hops| *hops > 0.0).collect(),
            base,
            relief: Relief::new(network),
            tails: network.links().iter().map(|l| l.tail.0).collect(),
            heads: network.links().iter().map(|l| l.head.0).collect(),
            inverse_out: out.into_iter().map(inverse).collect(),
            inverse_in: into.into_iter().map(inverse).collect(),
            previous: None,
            work: Work::default(),
        }
    }

    /// Shape of the observations.
    #[must_use]
    pub fn space(&self) -> ObservationSpace {
        ObservationSpace {
            group_features: feature::PAIR.iter().map(|name| (*name).to_owned()).collect(),
            context_features: feature::CONTEXT.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    /// Forgets the last matrix.
    pub fn reset(&mut self) {
        self.previous = None;
    }

    /// Encodes one matrix: `[pairs, 16]`, `[9]`, and a mask of the pairs that the base joins.
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
        if demands.nodes() != self.nodes {
            return Err(EncodeError::Shape {
                what: "nodes in the traffic matrix",
                expected: self.nodes,
                found: demands.nodes(),
            });
        }
        let pairs = self.mask.len();
        if observation.groups.dim() != (pairs, COLUMNS) || !observation.groups.is_standard_layout() {
            observation.groups = Array2::zeros((pairs, COLUMNS));
        }
        if observation.context.len() != feature::CONTEXT.len() || observation.context.as_slice().is_none() {
            observation.context = Array1::zeros(feature::CONTEXT.len());
        }
        observation.mask.clone_from(&self.mask);

        let total = self.load(demands);
        let mean = total / pairs.max(1) as f64;
        let per_mean = if mean > 0.0 { 1.0 / mean } else { 0.0 };
        let worst = self.work.utilizations.iter().copied().fold(0.0, f64::max);
        let threshold = self.sort_links(worst);
        self.alternatives(worst);
        self.reliefs(worst);
        self.rank();
        self.cuts(worst);

        if let Some(values) = observation.groups.as_slice_mut() {
            self.fill_pairs(values, per_mean, worst, threshold);
        }
        if let Some(values) = observation.context.as_slice_mut() {
            self.fill_context(values, mean, total, worst);
        }

        let previous = self.previous.get_or_insert_with(Previous::default);
        previous.demands.clear();
        let column = observation.groups.column(network::column::DEMAND);
        previous.demands.extend(column);
        (previous.total, previous.worst) = (total, worst);
        Ok(())
    }

    /// The base, demands by pair and utilisation by link of the last matrix.
    pub(crate) fn problem(&self) -> (&BaseRouting, &[f64], &[f64]) {
        (&self.base, &self.work.demands, &self.work.utilizations)
    }

    /// Demands by pair and utilisation by link; gives the sum of all demands.
    fn load(&mut self, demands: &TrafficMatrix) -> f64 {
        let work = &mut self.work;
        work.demands.clear();
        for source in 0..self.nodes {
            let row = &demands.as_slice()[source * self.nodes..(source + 1) * self.nodes];
            work.demands.extend_from_slice(&row[..source]);
            work.demands.extend_from_slice(&row[source + 1..]);
        }
        work.utilizations.clear();
        work.utilizations.resize(self.relief.inverse_capacities.len(), 0.0);
        for (pair, demand) in work.demands.iter().enumerate() {
            if *demand > 0.0 {
                for (link, fraction) in self.base.of(GroupIx::from(pair)) {
                    work.utilizations[link.ix()] += demand * fraction;
                }
            }
        }
        for (utilization, inverse) in work.utilizations.iter_mut().zip(&self.relief.inverse_capacities) {
            *utilization *= inverse;
        }
        work.demands.iter().sum()
    }

    /// Sorts links by utilisation; gives the utilisation from which on they are critical.
    fn sort_links(&mut self, worst: f64) -> f64 {
        let work = &mut self.work;
        let links = work.utilizations.len();
        work.by_utilization.clear();
        work.by_utilization.extend(0..links as u32);
        let utilizations = &work.utilizations;
        work.by_utilization
            .sort_unstable_by(|a, b| utilizations[*a as usize].total_cmp(&utilizations[*b as usize]));
        let at = links.saturating_sub(CRITICAL_LINKS);
        work.by_utilization.get(at).map_or(f64::INFINITY, |link| {
            // Links without load are not critical, however few others there are.
            (utilizations[*link as usize] - TIE * worst).max(TIE * worst)
        })
    }

    /// For each pair the least utilisation, relative to the greatest, such that links no fuller join it:
    /// links are added, emptiest first, to a transitive closure. Cost O(links · nodes + nodes³ / 64).
    fn alternatives(&mut self, worst: f64) {
        let (nodes, work) = (self.nodes, &mut self.work);
        let words = nodes.div_ceil(64);
        work.alternatives.clear();
        work.alternatives.resize(self.mask.len(), 0.0);
        if worst <= 0.0 {
            return;
        }
        work.reach.clear();
        work.reach.resize(nodes * words, 0);
        for node in 0..nodes {
            work.reach[node * words + node / 64] |= 1 << (node % 64);
        }
        for &link in &work.by_utilization {
            let (tail, head) = (self.tails[link as usize] as usize, self.heads[link as usize] as usize);
            if work.reach[tail * words + head / 64] >> (head % 64) & 1 == 1 {
                continue;
            }
            let value = (work.utilizations[link as usize] / worst) as f32;
            for source in 0..nodes {
                if work.reach[source * words + tail / 64] >> (tail % 64) & 1 == 0 {
                    continue;
                }
                for word in 0..words {
                    let mut fresh = work.reach[head * words + word] & !work.reach[source * words + word];
                    work.reach[source * words + word] |= fresh;
                    while fresh != 0 {
                        let target = word * 64 + fresh.trailing_zeros() as usize;
                        fresh &= fresh - 1;
                        let pair = source * (nodes - 1) + target - usize::from(target > source);
                        work.alternatives[pair] = value;
                    }
                }
            }
        }
    }

    /// For each pair the square root of its relief relative to the greatest.
    fn reliefs(&mut self, worst: f64) {
        let work = &mut self.work;
        work.reliefs.clear();
        work.reliefs.resize(self.mask.len(), 0.0);
        if worst <= 0.0 {
            return;
        }
        self.relief.set_prices(&work.utilizations, worst, TopKRelief::SHARPNESS);
        let demands = &work.demands;
        self.relief.values(&self.base, |pair| demands[pair], &mut work.reliefs);
        let greatest = work.reliefs.iter().copied().fold(0.0, f64::max);
        let scale = if greatest > 0.0 { 1.0 / greatest } else { 0.0 };
        work.reliefs.iter_mut().for_each(|relief| *relief = (*relief * scale).sqrt());
    }

    /// For each pair the fraction of the other pairs that send less.
    fn rank(&mut self) {
        let work = &mut self.work;
        let pairs = work.demands.len();
        let demands = &work.demands;
        work.order.clear();
        work.order.extend(0..pairs as u32);
        work.order.sort_unstable_by(|a, b| demands[*a as usize].total_cmp(&demands[*b as usize]));
        work.ranks.resize(pairs, 0.0);
        let scale = 1.0 / pairs.saturating_sub(1).max(1) as f32;
        let mut below = 0;
        for (at, pair) in work.order.iter().enumerate() {
            if at > 0 && demands[*pair as usize] > demands[work.order[at - 1] as usize] {
                below = at;
            }
            work.ranks[*pair as usize] = below as f32 * scale;
        }
    }

    /// For each node what it sends and receives over what its links can carry, relative to the greatest
    /// utilisation.
    fn cuts(&mut self, worst: f64) {
        let work = &mut self.work;
        work.out_cut.clear();
        work.out_cut.resize(self.nodes, 0.0);
        work.in_cut.clear();
        work.in_cut.resize(self.nodes, 0.0);
        let scale = if worst > 0.0 { 1.0 / worst } else { 0.0 };
        let mut pair = 0;
        for source in 0..self.nodes {
            for target in (0..self.nodes).filter(|t| *t != source) {
                // Demands that nothing serves load no link, so they must not count against one.
                if self.mask[pair] {
                    work.out_cut[source] += work.demands[pair];
                    work.in_cut[target] += work.demands[pair];
                }
                pair += 1;
            }
        }
        for node in 0..self.nodes {
            work.out_cut[node] = (work.out_cut[node] * self.inverse_out[node] * scale).min(1.0);
            work.in_cut[node] = (work.in_cut[node] * self.inverse_in[node] * scale).min(1.0);
        }
    }

    fn fill_pairs(&self, values: &mut [f32], per_mean: f64, worst: f64, threshold: f64) {
        let work = &self.work;
        let utilizations = &work.utilizations;
        let per_worst = if worst > 0.0 { 1.0 / worst } else { 0.0 };
        let tie = TIE * worst;
        for (pair, row) in values.chunks_exact_mut(COLUMNS).enumerate() {
            let entries = self.base.entries(GroupIx::from(pair));
            let demand = work.demands[pair];
            let bottleneck = entries.iter().map(|(l, _)| utilizations[l.ix()]).fold(0.0, f64::max);
            let (mut along, mut hops) = (0.0, 0.0f64);
            let (mut of_bottleneck, mut of_worst, mut critical, mut pressure) =
                (0.0f64, 0.0f64, 0.0f64, 0.0f64);
            for (link, fraction) in entries {
                let utilization = utilizations[link.ix()];
                along += fraction * utilization;
                hops += fraction;
                let adds = demand * fraction * self.relief.inverse_capacities[link.ix()];
                pressure = pressure.max(adds);
                if utilization >= bottleneck - tie && utilization > 0.0 {
                    let part = adds / utilization;
                    of_bottleneck = of_bottleneck.max(part);
                    if utilization >= worst - tie {
                        of_worst = of_worst.max(part);
                    }
                }
                if utilization >= threshold {
                    critical = critical.max(*fraction);
                }
            }
            let (source, target) = self.ends(pair);
            let relative = (demand * per_mean) as f32;
            let change = self.previous.as_ref().map_or(0.0, |previous| {
                let floor = CHANGE_FLOOR as f32;
                ((relative + floor) / (previous.demands[pair] + floor)).ln().clamp(-2.0, 2.0)
            });
            let unit = |value: f64| value.min(1.0) as f32;
            row.copy_from_slice(&[
                relative,
                relative.ln_1p().min(5.0),
                work.ranks[pair],
                unit(bottleneck * per_worst),
                unit(if hops > 0.0 { along / hops * per_worst } else { 0.0 }),
                unit(of_bottleneck),
                unit(of_worst),
                unit(critical),
                unit(pressure * per_worst),
                if self.mask[pair] { work.alternatives[pair] } else { 0.0 },
                unit(work.reliefs[pair]),
                self.hops[pair],
                self.path_capacities[pair],
                work.out_cut[source] as f32,
                work.in_cut[target] as f32,
                change,
            ]);
        }
    }

    fn fill_context(&self, values: &mut [f32], mean: f64, total: f64, worst: f64) {
        let work = &self.work;
        let (links, pairs) = (work.utilizations.len().max(1) as f64, work.demands.len().max(1) as f64);
        let per_worst = if worst > 0.0 { 1.0 / worst } else { 0.0 };
        let level = work.utilizations.iter().sum::<f64>() / links * per_worst;
        let spread = |sum: f64, count: f64| (sum / count).sqrt();
        let relative = work.utilizations.iter().map(|u| u * per_worst);
        let utilization_spread = spread(relative.clone().map(|u| (u - level).powi(2)).sum(), links);
        let near = relative.filter(|u| *u >= NEAR - TIE).count() as f64 / links;
        let cuts = work.out_cut.iter().chain(&work.in_cut).copied().fold(0.0, f64::max);
        let demand_spread = if mean > 0.0 {
            spread(work.demands.iter().map(|d| (d / mean - 1.0).powi(2)).sum(), pairs) / 2.0
        } else {
            0.0
        };
        let change = |now: f64, before: fn(&Previous) -> f64| {
            let before = self.previous.as_ref().map_or(0.0, before);
            if now > 0.0 && before > 0.0 { (now / before).ln().clamp(-2.0, 2.0) } else { 0.0 }
        };
        let nodes = self.nodes.max(1) as f64;
        let context = [
            level.min(1.0),
            utilization_spread.min(1.0),
            near,
            cuts,
            demand_spread.min(4.0),
            change(total, |previous| previous.total),
            change(worst, |previous| previous.worst),
            nodes.ln() / 8.0,
            (self.tails.len() as f64 / nodes / 4.0).min(4.0),
        ];
        for (value, feature) in values.iter_mut().zip(context) {
            *value = feature as f32;
        }
    }

    fn ends(&self, pair: usize) -> (usize, usize) {
        let others = self.nodes - 1;
        let (source, rest) = (pair / others, pair % others);
        (source, rest + usize::from(rest >= source))
    }
}
