//! Which flows are within any gap of the optimum?
//!
//! Column generation with prices from the inside of the master (see [`super::master`]): share out the known
//! paths, price all paths by shortest ones, add those that are cheaper than any known, until bound and
//! utilisation meet. Rows are added too: a link starts to count when it comes near the fullest.
//!
//! Paths are priced between the master's prices and those of the best bound, where the bound is best (Ben-Ameur
//! and Neto 2007, *Acceleration of cutting-plane and column generation algorithms*). And the bound has rounds of
//! its own: of the hundreds of links near the fullest often some dozen have a price, and over these alone
//! demands fall into so few classes that a round costs little more than its shortest paths. The paths that prove
//! the bound are not those that spread the load, so they do not burden the master.

use super::classes::Classes;
use super::master::{Enough, Interior};
use super::oracle::Oracle;
use super::pool::{Gains, Path, Pool, Shortest};
use super::reduce::NONE;

/// A link is a row once its utilisation comes this near the maximum.
const NEAR: f64 = 0.1;

/// The master is solved to this part of the gap between bound and utilisation.
const MASTER_PART: f64 = 0.1;

/// A new path is shorter than the known ones by more than rounding.
const SHORTER: f64 = 1e-9;

/// New paths that gain least are left out: together this part of the gain.
const LEFT_OUT: f64 = 0.1;

/// The master need not come nearer to the bound than this part of the tolerance.
const ENOUGH: f64 = 0.7;

/// Where bounds are looked for: the part of the best bound's prices, the rest are the master's.
const CENTRED: [f64; 7] = [0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95];

/// A link is a row of the bound's rounds where it has more than this part of all prices.
const PRICED: f64 = 1e-4;

/// The bound has this many rounds between two of the master …
const BOUND_ROUNDS: usize = 20;

/// … or until this many in a row …
const BOUND_PATIENCE: usize = 3;

/// … have not closed this part of the gap.
const BOUND_PART: f64 = 0.05;

/// Rows never get prices quite of zero, from which the master could not start.
const PRICE_FLOOR: f64 = 1e-6;

/// The method's state between rounds.
#[derive(Debug)]
pub(super) struct Generation<'o, 'a> {
    oracle: &'o mut Oracle<'a>,
    capacities: &'a [f64],
    pub(super) pool: Pool,
    shortest: Shortest,
    /// By link, background included, bit/s.
    loads: Vec<f64>,
    /// Prices of links, `Σ w = 1`.
    weights: Vec<f64>,
    rows: Vec<u32>,
    row_of: Vec<u32>,
    pub(super) bound: f64,
    pub(super) proof: Vec<f64>,
    pub(super) utilization: f64,
    pub(super) rounds: usize,
}

impl<'o, 'a> Generation<'o, 'a> {
    /// Starts with paths, prices and a bound found otherwise.
    pub(super) fn new(
        oracle: &'o mut Oracle<'a>,
        capacities: &'a [f64],
        (pool, weights): (Pool, Vec<f64>),
        (bound, proof): (f64, Vec<f64>),
    ) -> Self {
        let links = capacities.len();
        let mut state = Self {
            capacities,
            pool,
            shortest: Shortest::new(oracle.reduced),
            loads: vec![0.0; links],
            weights,
            rows: Vec::new(),
            row_of: vec![NONE; links],
            bound,
            proof,
            utilization: 0.0,
            rounds: 0,
            oracle,
        };
        state.loads = state.carried(|entry| state.pool.share(entry));
        state.utilization = state.measure(&state.loads);
        state
    }

    pub(super) fn gap(&self) -> f64 {
        super::super::relative_gap(self.utilization, self.bound)
    }

    /// Load of each link when the paths have these shares.
    fn carried(&self, share: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut loads = vec![0.0; self.capacities.len()];
        self.pool.loads_with(self.oracle.reduced, self.oracle.demands, share, &mut loads);
        for (load, background) in loads.iter_mut().zip(&self.oracle.demands.background) {
            *load += background;
        }
        loads
    }

    fn measure(&self, loads: &[f64]) -> f64 {
        loads.iter().zip(self.capacities).map(|(load, capacity)| load / capacity).fold(0.0, f64::max)
    }

    /// One round: prices, new paths, master, bound. The master stops early when `late` says so. Returns whether
    /// the gap got smaller or there is something new to work with.
    pub(super) fn round(&mut self, tolerance: f64, late: &impl Fn() -> bool) -> bool {
        self.rounds += 1;
        let before = (self.bound, self.utilization);
        self.price();
        let added = self.add_paths() + self.add_rows();
        let classes = self.classes(&self.rows, &self.row_of);
        let utilization = self.bound * (1.0 + ENOUGH * tolerance) / self.utilization;
        let interior = self.master(&classes, &self.rows, tolerance, utilization, late);
        let unit = self.utilization;
        self.share_out(&classes, &interior.shares);

        // Links that are no rows are priced as the master would if they were, but together so low that the bound
        // loses no more by them than by the master's own gap.
        let mut rest = 0.0;
        for (link, weight) in self.weights.iter_mut().enumerate() {
            if let Some(price) = interior.weights.get(self.row_of[link] as usize) {
                *weight = *price;
            } else {
                let slack = 1.0 - self.loads[link] / (self.capacities[link] * unit);
                *weight = interior.smoothing / slack.max(NEAR / 2.0);
                rest += *weight;
            }
        }
        let scale = (MASTER_PART * self.gap() / rest).min(1.0);
        for (row, weight) in self.row_of.iter().zip(&mut self.weights) {
            if *row as usize >= interior.weights.len() {
                *weight *= scale;
            }
        }
        self.raise_bound(tolerance, late);
        added > 0 || self.bound > before.0 || self.utilization < before.1
    }

    /// Rounds over the links that have a price, with paths of their own: they prove a better bound and change
    /// nothing else.
    fn raise_bound(&mut self, tolerance: f64, late: &impl Fn() -> bool) {
        let (pool, weights) = (self.pool.clone(), self.weights.clone());
        let (mut round, mut idle) = (0, 0);
        while round < BOUND_ROUNDS && idle < BOUND_PATIENCE && self.gap() > tolerance && !late() {
            round += 1;
            let before = self.bound;
            self.price();
            if self.gap() <= tolerance {
                break;
            }
            self.add_paths();
            let mut row_of = vec![NONE; self.weights.len()];
            let priced = (0..self.weights.len()).filter(|link| self.weights[*link] > PRICED);
            let rows: Vec<u32> = priced.map(|link| link as u32).collect();
            for (row, link) in rows.iter().enumerate() {
                row_of[*link as usize] = row as u32;
            }
            let classes = self.classes(&rows, &row_of);
            let interior = self.master(&classes, &rows, tolerance, 0.0, late);
            self.weights.fill(0.0);
            for (link, weight) in rows.iter().zip(&interior.weights) {
                self.weights[*link as usize] = *weight;
            }
            let raised = self.bound - before > BOUND_PART * (self.utilization - before);
            idle = if raised { 0 } else { idle + 1 };
        }
        (self.pool, self.weights) = (pool, weights);
    }

    fn classes(&self, rows: &[u32], row_of: &[u32]) -> Classes {
        let (reduced, demands) = (self.oracle.reduced, self.oracle.demands);
        Classes::new(&self.pool, reduced, demands, self.capacities, rows, row_of, self.utilization)
    }

    /// Solves the master over some links, until `utilization`, as a part of that in force, is reached or prices
    /// are good enough.
    fn master(
        &self,
        classes: &Classes,
        rows: &[u32],
        tolerance: f64,
        utilization: f64,
        late: &impl Fn() -> bool,
    ) -> Interior {
        let floor = PRICE_FLOOR / rows.len() as f64;
        let weights: Vec<f64> = rows.iter().map(|link| self.weights[*link as usize] + floor).collect();
        let gap = self.gap();
        let enough = Enough { gap: (MASTER_PART * gap).max(0.2 * tolerance), utilization };
        classes.master.solve(&weights, gap.min(0.3), enough, late)
    }

    /// Goes from the shares in force towards the master's as far as the maximum utilisation falls: a link that
    /// is no row yet may be in the way.
    fn share_out(&mut self, classes: &Classes, columns: &[f64]) {
        let mut shares: Vec<f64> = (0..self.pool.len()).map(|entry| self.pool.share(entry)).collect();
        classes.hand_out(&self.pool, columns, &mut shares);
        let loads = self.carried(|entry| shares[entry]);
        // A row that the master would fill beyond the maximum counts from now on.
        for link in 0..loads.len() {
            if loads[link] > self.utilization * self.capacities[link] {
                self.add_row(link);
            }
        }
        let step = self.best_step(&loads);
        for (entry, share) in shares.iter().enumerate() {
            let old = self.pool.share(entry);
            self.pool.set_share(entry, old + step * (share - old));
        }
        for (load, new) in self.loads.iter_mut().zip(&loads) {
            *load += step * (new - *load);
        }
        self.utilization = self.measure(&self.loads);
    }

    /// The step towards `loads` with the least maximum, by golden section: the maximum is convex in the step.
    fn best_step(&self, loads: &[f64]) -> f64 {
        let at = |step: f64| {
            let lines = self.loads.iter().zip(loads).zip(self.capacities);
            lines.map(|((old, new), capacity)| (old + step * (new - old)) / capacity).fold(0.0, f64::max)
        };
        if at(1.0) <= at(1.0 - 1e-6) {
            return 1.0;
        }
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..40 {
            let (a, b) = (low + (high - low) * 0.382, low + (high - low) * 0.618);
            if at(a) <= at(b) { high = b } else { low = a }
        }
        if at(low) < at(0.0) { low } else { 0.0 }
    }

    fn add_row(&mut self, link: usize) -> usize {
        let new = self.row_of[link] == NONE;
        if new {
            self.row_of[link] = self.rows.len() as u32;
            self.rows.push(link as u32);
        }
        usize::from(new)
    }

    fn add_rows(&mut self) -> usize {
        let least = (1.0 - NEAR) * self.utilization;
        let near: Vec<usize> = (0..self.loads.len())
            .filter(|link| self.loads[*link] >= least * self.capacities[*link])
            .collect();
        near.into_iter().map(|link| self.add_row(link)).sum()
    }

    /// Finds shortest paths where, between the best bound's prices and the master's, the bound is best; keeps it
    /// if it is the best of all.
    fn price(&mut self) {
        let sum: f64 = self.weights.iter().sum();
        let centre = self.proof.clone();
        let mut best = (f64::NEG_INFINITY, centre.clone());
        for part in CENTRED {
            let mixed = self.weights.iter().zip(centre.iter().zip(self.capacities));
            let mixed: Vec<f64> = mixed.map(|(w, (y, c))| (1.0 - part) * w / sum + part * y * c).collect();
            let lengths = super::lengths(&mixed, self.capacities);
            let bound = self.oracle.bound(&lengths);
            if bound > best.0 {
                best = (bound, lengths);
            }
        }
        let (bound, lengths) = best;
        self.oracle.bound(&lengths);
        if bound > self.bound {
            self.bound = bound;
            self.proof = lengths;
        }
    }

    /// Adds the shortest paths where they are shorter than all known, those that gain most.
    fn add_paths(&mut self) -> usize {
        let (reduced, demands, lengths) = (self.oracle.reduced, self.oracle.demands, &self.oracle.lengths);
        let count = reduced.core.len();
        self.shortest.read(self.oracle, &mut self.pool.tree);
        let between = self.pool.tree.lengths(&lengths.segments);
        let mut found: Vec<(usize, Path, f64)> = Vec::new();
        let mut gains = Gains::default();
        for (commodity, demand) in demands.matrix.iter().enumerate().filter(|(_, demand)| **demand > 0.0) {
            let (path, length) = self.shortest.of(self.oracle, commodity / count, commodity % count);
            let known = self
                .pool
                .of(commodity)
                .map(|entry| self.pool.length(reduced, lengths, &between, commodity, self.pool.path(entry)))
                .fold(f64::INFINITY, f64::min);
            if length < known * (1.0 - SHORTER) {
                let gain = demand * (known - length);
                gains.add(gain);
                found.push((commodity, path, gain));
            }
        }
        let least = gains.least(LEFT_OUT);
        found.retain(|(.., gain)| *gain >= least);
        for (commodity, path, _) in &found {
            self.pool.add(*commodity, *path, 0.0);
        }
        found.len()
    }
}
