//! Which flows come within about a percent of the optimum, found quickly?
//!
//! Coordinate descent on a smooth stand-in for the maximum utilisation (Bienstock 2002, *Potential Function
//! Methods for Approximately Solving Linear Programming Problems*):
//!
//! ```text
//! Φ(x) = μ ln Σ_l exp(u_l(x) / μ),    max_l u_l ≤ Φ ≤ max_l u_l + μ ln m
//! ```
//!
//! Its gradient `w_l / c_l`, `w = softmax(u / μ)`, is a feasible length for the bound, so each sweep brings a
//! proof too. Frank and Wolfe's method would move all commodities by one common step, which stalls when
//! congestion is local; here each commodity has one path and moves as a whole to the shortest one if that lowers
//! `Φ` with all earlier moves of the sweep in place. What needs to be split is left to
//! [`Generation`](super::generation::Generation).

use super::oracle::Oracle;
use super::path_tree::PathTree;
use super::pool::{Gains, Path, Pool, Shortest};

/// `μ` at the start, as a part of the maximum utilisation.
const SMOOTHING: f64 = 0.1;

/// `μ` falls by this factor …
const COOLING: f64 = 0.8;

/// … when what sweeps could still gain at this `μ` is less than this many times what `μ` itself hides.
const SETTLED: f64 = 2.0;

/// The commodities that would gain least are left alone: together this part of the gain.
const LEFT_ALONE: f64 = 0.4;

/// Prices swing from sweep to sweep; the bound is taken at their moving average too, every so many sweeps.
const AVERAGED_EVERY: usize = 4;
const NEWEST: f64 = 0.15;

/// The method's state between sweeps.
#[derive(Debug)]
pub(super) struct Potential<'o, 'a> {
    pub(super) oracle: &'o mut Oracle<'a>,
    capacities: &'a [f64],
    pool: Pool,
    shortest: Shortest,
    /// By link, background included, bit/s.
    loads: Vec<f64>,
    pub(super) utilization: f64,
    smoothing: f64,
    /// `w`, and its moving average.
    weights: Vec<f64>,
    average: Vec<f64>,
    pub(super) bound: f64,
    /// Lengths that prove the bound.
    pub(super) proof: Vec<f64>,
    pub(super) sweeps: usize,
    marks: Marks,
}

/// Finds links that two paths share.
#[derive(Debug)]
struct Marks {
    of_link: Vec<u64>,
    now: u64,
}

impl Marks {
    /// Takes the links that both have out of both.
    fn take_common(&mut self, old: &mut Vec<u32>, new: &mut Vec<u32>) {
        self.now += 1;
        for link in new.iter() {
            self.of_link[*link as usize] = self.now;
        }
        old.retain(|link| {
            let mark = &mut self.of_link[*link as usize];
            let common = *mark == self.now;
            if common {
                *mark = 0;
            }
            !common
        });
        new.retain(|link| self.of_link[*link as usize] == self.now);
    }
}

impl<'o, 'a> Potential<'o, 'a> {
    /// Starts with all demands on the paths that are shortest when a link is as long as its capacity is small.
    /// `None` when a commodity has no path.
    pub(super) fn new(oracle: &'o mut Oracle<'a>, capacities: &'a [f64]) -> Option<Self> {
        let links = capacities.len();
        let (count, junctions) = (oracle.reduced.core.len(), oracle.reduced.junctions);
        let equal = vec![1.0 / links.max(1) as f64; links];
        let mut state = Self {
            capacities,
            pool: Pool::new(count, PathTree::new(junctions)),
            shortest: Shortest::new(oracle.reduced),
            loads: vec![0.0; links],
            utilization: 0.0,
            smoothing: 0.0,
            weights: equal.clone(),
            average: equal.clone(),
            bound: 0.0,
            proof: super::lengths(&equal, capacities),
            sweeps: 0,
            marks: Marks { of_link: vec![0; links], now: 0 },
            oracle,
        };
        if !state.price(&equal).is_finite() {
            return None;
        }
        state.shortest.read(state.oracle, &mut state.pool.tree);
        for commodity in 0..count * count {
            if state.oracle.demands.matrix[commodity] > 0.0 {
                let (path, _) = state.shortest.of(state.oracle, commodity / count, commodity % count);
                state.pool.add(commodity, path, 1.0);
            }
        }
        state.measure();
        state.smoothing = SMOOTHING * state.utilization;
        Some(state)
    }

    pub(super) fn gap(&self) -> f64 {
        super::super::relative_gap(self.utilization, self.bound)
    }

    /// Finds shortest paths at the weights, keeps the bound they prove if it is the best, and returns it.
    fn price(&mut self, weights: &[f64]) -> f64 {
        let lengths = super::lengths(weights, self.capacities);
        let bound = self.oracle.bound(&lengths);
        if bound > self.bound {
            self.bound = bound;
            self.proof = lengths;
        }
        bound
    }

    fn measure(&mut self) {
        self.pool.loads(self.oracle.reduced, self.oracle.demands, &mut self.loads);
        for (load, background) in self.loads.iter_mut().zip(&self.oracle.demands.background) {
            *load += background;
        }
        self.utilization = self.loads.iter().zip(self.capacities).map(|(l, c)| l / c).fold(0.0, f64::max);
    }

    /// Shortest paths once; then each commodity in turn moves to its own if the potential falls.
    pub(super) fn sweep(&mut self) {
        let (top, smoothing) = (self.utilization, self.smoothing);
        let used = self.loads.iter().zip(self.capacities).map(|(load, capacity)| load / capacity);
        let mut weights: Vec<f64> = used.clone().map(|u| ((u - top) / smoothing).exp()).collect();
        // Derivative of the potential by load, but for a factor.
        let mut prices: Vec<f64> = weights.iter().zip(self.capacities).map(|(w, c)| w / c).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        let mean: f64 = used.zip(&weights).map(|(u, w)| u * w).sum();
        for (average, weight) in self.average.iter_mut().zip(&weights) {
            *average += NEWEST * (weight - *average);
        }
        if self.sweeps % AVERAGED_EVERY == AVERAGED_EVERY - 1 {
            let average = self.average.clone();
            self.price(&average);
        }
        let bound = self.price(&weights);
        self.weights = weights;
        if mean - bound < SETTLED * (top - mean) {
            self.smoothing *= COOLING;
        }

        self.shortest.read(self.oracle, &mut self.pool.tree);
        let (reduced, demands) = (self.oracle.reduced, self.oracle.demands);
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for (commodity, entry, path) in self.candidates() {
            let demand = demands.matrix[commodity];
            old.clear();
            new.clear();
            self.pool.links(reduced, commodity, self.pool.path(entry), &mut old);
            self.pool.links(reduced, commodity, path, &mut new);
            self.marks.take_common(&mut old, &mut new);
            let sum = |links: &[u32]| links.iter().map(|link| prices[*link as usize]).sum::<f64>();
            if sum(&old) <= sum(&new) {
                continue;
            }
            // At half of the move the potential's slope is about its mean over the move.
            let half = 0.5 * demand / smoothing;
            let price = |link: &u32, half: f64| {
                prices[*link as usize] * (half / self.capacities[*link as usize]).exp()
            };
            let gain: f64 = old.iter().map(|link| price(link, -half)).sum();
            let loss: f64 = new.iter().map(|link| price(link, half)).sum();
            if loss >= gain {
                continue;
            }
            for (links, flow) in [(&old, -demand), (&new, demand)] {
                for link in links {
                    let link = *link as usize;
                    self.loads[link] += flow;
                    let capacity = self.capacities[link];
                    prices[link] = ((self.loads[link] / capacity - top) / smoothing).exp() / capacity;
                }
            }
            self.pool.set_path(entry, path);
        }
        self.sweeps += 1;
        self.measure();
    }

    /// Commodities whose path is not the shortest: commodity, its entry in the pool, the shortest path.
    fn candidates(&self) -> Vec<(usize, usize, Path)> {
        let (reduced, lengths) = (self.oracle.reduced, &self.oracle.lengths);
        let count = reduced.core.len();
        let between = self.pool.tree.lengths(&lengths.segments);
        let mut found: Vec<(usize, usize, Path, f64)> = Vec::new();
        let mut gains = Gains::default();
        for (commodity, demand) in self.oracle.demands.matrix.iter().enumerate() {
            let Some(entry) = self.pool.of(commodity).next() else { continue };
            let (path, length) = self.shortest.of(self.oracle, commodity / count, commodity % count);
            let now = self.pool.path(entry);
            if path == now {
                continue;
            }
            let gain = demand * (self.pool.length(reduced, lengths, &between, commodity, now) - length);
            if gain > 0.0 {
                gains.add(gain);
                found.push((commodity, entry, path, gain));
            }
        }
        let least = gains.least(LEFT_ALONE);
        let most = found.into_iter().filter(|(.., gain)| *gain >= least);
        most.map(|(commodity, entry, path, _)| (commodity, entry, path)).collect()
    }

    /// One path of each commodity, and prices.
    pub(super) fn into_parts(self) -> (Pool, Vec<f64>) {
        (self.pool, self.average)
    }
}
