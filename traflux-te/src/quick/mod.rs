//! Which pairs would leave the base if there were no time for a linear program?
//!
//! What [`selection`](crate::selection) shows: pairs chosen in rounds and then exchanged, or fractions of pairs.

mod exchange;
mod prices;

use traflux_core::{BaseRouting, GroupIx, LinkIx, Network};

use prices::{Prices, slope};

/// Binary logarithm of `β` for the first pairs and for the last: at first whatever fills up counts, in the end only
/// what is fullest. Powers of two, so that slopes are a few products and the same on every machine.
const DOUBLINGS: [usize; 2] = [2, 5];
/// Halvings of one line search: 1.6 % of a step.
const HALVINGS: usize = 6;
/// So many candidates are looked at for each pair chosen in a round.
const CANDIDATES: usize = 3;
/// So many pairs chosen in earlier rounds move again after each.
const REVISITED: usize = 8;
/// A pair of which less would leave is not chosen.
const LEAST_SHIFT: f64 = 0.05;

/// A positive number and a position, in the order of numbers and then the earlier position greater: one comparison of
/// integers, as positive floats are in the order of their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64);

impl Key {
    fn new(relief: f32, at: usize) -> Self {
        Self(u64::from(relief.to_bits()) << 32 | u64::from(!(at as u32)))
    }

    fn relief(&self) -> f32 {
        f32::from_bits((self.0 >> 32) as u32)
    }

    fn pair(&self) -> usize {
        !(self.0 as u32) as usize
    }
}

/// The quick choice, in memory that is kept.
#[derive(Debug, Clone)]
pub(crate) struct Chooser {
    prices: Prices,
    utilizations: Vec<f64>,
    /// Pairs that gain something, by relief.
    keys: Vec<Key>,
    /// Chosen pairs in their order, and what each adds to the utilisation of links.
    pub(crate) chosen: Vec<u32>,
    flows: Vec<Vec<(LinkIx, f64)>>,
    flow: Vec<(LinkIx, f64)>,
    change: Vec<(LinkIx, f64)>,
    /// Utilisations and changes of the links of a line search, relative to the fullest link.
    line: [Vec<f64>; 2],
    toward: Vec<f64>,
    /// Positions in `chosen` of those worth least, and loads to go back to.
    least: Vec<Key>,
    saved: Vec<f64>,
    /// By pair: the fraction that moved.
    pub(crate) fractions: Vec<f32>,
    /// By pair: relief at the last prices, relative to the greatest.
    pub(crate) reliefs: Vec<f32>,
    /// By pair: relief, each round's relative to its greatest, averaged over rounds.
    pub(crate) mean_reliefs: Vec<f32>,
}

impl Chooser {
    pub(crate) fn new(network: &Network) -> Self {
        Self {
            prices: Prices::new(network),
            utilizations: Vec::new(),
            keys: Vec::new(),
            chosen: Vec::new(),
            flows: Vec::new(),
            flow: Vec::new(),
            change: Vec::new(),
            line: [Vec::new(), Vec::new()],
            toward: Vec::new(),
            least: Vec::new(),
            saved: Vec::new(),
            fractions: Vec::new(),
            reliefs: Vec::new(),
            mean_reliefs: Vec::new(),
        }
    }

    /// Forgets the last choice.
    pub(crate) fn begin(&mut self, pairs: usize, base_utilizations: &[f64]) {
        for values in [&mut self.fractions, &mut self.reliefs, &mut self.mean_reliefs] {
            values.clear();
            values.resize(pairs, 0.0);
        }
        self.chosen.clear();
        self.utilizations.clear();
        self.utilizations.extend_from_slice(base_utilizations);
    }

    /// `U` now over `U` of the base.
    pub(crate) fn reached(&self, base_utilizations: &[f64]) -> f64 {
        let at_base = greatest(base_utilizations);
        if at_base > 0.0 { greatest(&self.utilizations) / at_base } else { 1.0 }
    }

    /// Sorts pairs: those that were chosen in their order, then the others by relief; equal ones by position.
    pub(crate) fn rank(&self, order: &mut Vec<(f32, u32)>) {
        order.clear();
        order.extend(self.chosen.iter().map(|pair| (0.0, *pair)));
        let others = self.mean_reliefs.iter().zip(&self.fractions).enumerate();
        let others = others.filter(|(_, (relief, fraction))| **relief > 0.0 && **fraction == 0.0);
        order.extend(others.map(|(pair, (relief, _))| (*relief, pair as u32)));
        order[self.chosen.len()..].sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    }

    /// A few steps of Frank and Wolfe on all pairs at once: the `count` pairs of the greatest relief on their
    /// cheapest paths and all others on the base is where to, a line search says how far.
    pub(crate) fn divide(
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
            let worst = greatest(&self.utilizations);
            if worst <= 0.0 || count == 0 {
                break;
            }
            self.measure(base, demands, doublings, worst);
            if self.keys.is_empty() {
                break;
            }
            self.keep_best(count);
            toward.clear();
            toward.extend_from_slice(base_utilizations);
            let inverse = &self.prices.inverse_capacities;
            for pair in self.keys.iter().map(Key::pair) {
                let demand = demands[pair];
                for (link, part) in base.entries(GroupIx::from(pair)) {
                    toward[link.ix()] -= demand * part * inverse[link.ix()];
                }
                self.prices.walk(pair, |link| toward[link.ix()] += demand * inverse[link.ix()]);
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
            for key in &self.keys {
                self.fractions[key.pair()] += length as f32;
            }
        }
        self.toward = toward;
        self.average(steps);
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

    /// Chooses up to `count` pairs in rounds, then exchanges some.
    pub(crate) fn choose(&mut self, base: &BaseRouting, demands: &[f64], count: usize, most_rounds: usize) {
        if most_rounds == 0 || count == 0 {
            return;
        }
        let per_round = count.div_ceil(most_rounds);
        let mut revisit = 0;
        let mut rounds = 0;
        for _ in 0..most_rounds {
            let [first, last] = DOUBLINGS;
            let doublings = (first + self.chosen.len() * (last - first + 1) / count).min(last);
            let worst = greatest(&self.utilizations);
            if worst <= 0.0 || self.chosen.len() >= count {
                break;
            }
            self.measure(base, demands, doublings, worst);
            rounds += 1;
            self.keep_outside(CANDIDATES * per_round);
            if self.keys.is_empty() {
                break;
            }
            let before = self.chosen.len();
            let keys = std::mem::take(&mut self.keys);
            for pair in keys.iter().map(Key::pair) {
                if self.chosen.len() >= count.min(before + per_round) {
                    break;
                }
                self.put_on_base(base, pair, demands[pair]);
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
                self.shift_again(revisit, demands, doublings, worst);
            }
        }
        if self.chosen.len() == count {
            rounds += self.exchange(base, demands);
        }
        self.average(rounds);
    }

    /// Sets prices and measures reliefs; leaves those that are positive in `keys`.
    fn measure(&mut self, base: &BaseRouting, demands: &[f64], doublings: usize, worst: f64) {
        self.prices.set(&self.utilizations, doublings, worst);
        self.keys.clear();
        let (keys, mut most) = (&mut self.keys, 0.0f32);
        self.prices.reliefs(base, demands, |pair, relief| {
            let relief = relief as f32;
            most = most.max(relief);
            keys.push(Key::new(relief, pair));
        });
        self.reliefs.fill(0.0);
        for key in &self.keys {
            let (pair, relief) = (key.pair(), key.relief() / most);
            self.reliefs[pair] = relief;
            self.mean_reliefs[pair] += relief;
        }
    }

    /// Makes means of the sums over rounds.
    fn average(&mut self, rounds: usize) {
        let scale = 1.0 / rounds.max(1) as f32;
        self.mean_reliefs.iter_mut().for_each(|relief| *relief *= scale);
    }

    /// Keeps the best `count` of `keys`.
    fn keep_best(&mut self, count: usize) {
        if count < self.keys.len() {
            self.keys.select_nth_unstable_by(count, |a, b| b.cmp(a));
            self.keys.truncate(count);
        }
    }

    /// Keeps the best `count` of `keys` that are not chosen, the best first.
    fn keep_outside(&mut self, count: usize) {
        let fractions = &self.fractions;
        self.keys.retain(|key| fractions[key.pair()] == 0.0);
        self.keep_best(count);
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Makes `flow` what a pair adds to links on the base.
    fn put_on_base(&mut self, base: &BaseRouting, pair: usize, demand: f64) {
        let inverse = &self.prices.inverse_capacities;
        let entries = base.entries(GroupIx::from(pair)).iter();
        self.flow.clear();
        self.flow.extend(entries.map(|(link, part)| (*link, demand * part * inverse[link.ix()])));
    }

    /// Moves `flow` towards the cheapest path as far as the norm falls; gives how far, from 0 to 1.
    fn shift(&mut self, pair: usize, demand: f64, doublings: usize, worst: f64) -> f64 {
        self.change.clear();
        self.change.extend(self.flow.iter().map(|(link, amount)| (*link, -amount)));
        let (change, inverse) = (&mut self.change, &self.prices.inverse_capacities);
        if !self.prices.walk(pair, |link| add(change, link, demand * inverse[link.ix()])) {
            return 0.0;
        }
        let length = self.length(doublings, worst);
        if length > 0.0 {
            for (link, change) in &self.change {
                self.utilizations[link.ix()] += length * change;
                add(&mut self.flow, *link, length * change);
            }
            let least = 1e-9 * self.flow.iter().map(|(_, amount)| *amount).fold(0.0, f64::max);
            self.flow.retain(|(_, amount)| *amount > least);
        }
        length
    }

    /// Moves a pair that is chosen already.
    fn shift_again(&mut self, at: usize, demands: &[f64], doublings: usize, worst: f64) {
        let pair = self.chosen[at] as usize;
        std::mem::swap(&mut self.flow, &mut self.flows[at]);
        let length = self.shift(pair, demands[pair], doublings, worst);
        std::mem::swap(&mut self.flow, &mut self.flows[at]);
        self.fractions[pair] += length as f32 * (1.0 - self.fractions[pair]);
    }

    /// How far along `change` the norm falls, from 0 to 1.
    fn length(&mut self, doublings: usize, worst: f64) -> f64 {
        let per_worst = 1.0 / worst;
        let [utilizations, changes] = &mut self.line;
        utilizations.clear();
        changes.clear();
        for (link, change) in self.change.iter().filter(|(_, change)| *change != 0.0) {
            utilizations.push(self.utilizations[link.ix()] * per_worst);
            changes.push(change * per_worst);
        }
        let falls = |length| steepness(utilizations, changes, length, doublings) < 0.0;
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
}

/// Slope of the norm when links have gone `length` of their change.
fn steepness(utilizations: &[f64], changes: &[f64], length: f64, doublings: usize) -> f64 {
    match doublings {
        2 => steepness_of::<2>(utilizations, changes, length),
        3 => steepness_of::<3>(utilizations, changes, length),
        4 => steepness_of::<4>(utilizations, changes, length),
        5 => steepness_of::<5>(utilizations, changes, length),
        6 => steepness_of::<6>(utilizations, changes, length),
        _ => steepness_of::<7>(utilizations, changes, length),
    }
}

fn steepness_of<const DOUBLINGS: usize>(utilizations: &[f64], changes: &[f64], length: f64) -> f64 {
    let of = |u: f64, change: f64| {
        let u = u + length * change;
        slope(if u > 0.0 { u } else { 0.0 }, DOUBLINGS) * change
    };
    // Sums side by side: one would have to wait for itself.
    let (blocks, rest) = utilizations.as_chunks::<4>();
    let (changes, others) = changes.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for (u, change) in blocks.iter().zip(changes) {
        for lane in 0..4 {
            sums[lane] += of(u[lane], change[lane]);
        }
    }
    let rest: f64 = rest.iter().zip(others).map(|(u, change)| of(*u, *change)).sum();
    (sums[0] + sums[2]) + (sums[1] + sums[3]) + rest
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Adds to the entry of a link, or a new one.
fn add(flow: &mut Vec<(LinkIx, f64)>, link: LinkIx, amount: f64) {
    match flow.iter_mut().find(|(other, _)| *other == link) {
        Some((_, sum)) => *sum += amount,
        None => flow.push((link, amount)),
    }
}
