//! How to follow integer weights?
//!
//! [`SmoothWeighted`] spaces picks evenly: the earliest-deadline-first scheduler that Envoy uses for weighted round
//! robin. An endpoint of weight `w` has its next deadline `1/w` after its last; the earliest goes next.
//! [`WeightedRandom`] draws independently, so that counts are binomial.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use traflux_core::Timestamp;

use crate::alias::AliasTable;
use crate::picker::{Candidate, Picker};
use crate::rng::Rng;

/// Smooth weighted round robin in O(log n).
#[derive(Debug, Clone)]
pub struct SmoothWeighted {
    heap: BinaryHeap<Entry>,
    weights: Vec<u32>,
    /// The virtual time of the last pick.
    virtual_now: f64,
    /// By endpoint: what is left of its period, as a fraction; kept across configurations so that frequent
    /// changes of weights do not favour the endpoints of large weight.
    phases: Vec<f64>,
    rng: Rng,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    deadline: f64,
    ix: u32,
}

impl SmoothWeighted {
    /// A picker without endpoints yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            heap: BinaryHeap::new(),
            weights: Vec::new(),
            virtual_now: 0.0,
            phases: Vec::new(),
            rng: Rng::new(seed),
        }
    }
}

impl Picker for SmoothWeighted {
    fn configure(&mut self, candidates: &[Candidate]) {
        for entry in &self.heap {
            let left = (entry.deadline - self.virtual_now) * f64::from(self.weights[entry.ix as usize]);
            self.phases[entry.ix as usize] = left.clamp(0.0, 1.0);
        }
        let known = self.phases.len().min(candidates.len());
        self.phases.truncate(known);
        for _ in known..candidates.len() {
            self.phases.push(self.rng.uniform());
        }
        self.weights.clear();
        self.weights.extend(candidates.iter().map(|c| if c.is_open() { c.weight } else { 0 }));
        self.virtual_now = 0.0;
        self.heap.clear();
        for (ix, weight) in self.weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
            self.heap.push(Entry { deadline: self.phases[ix] / f64::from(*weight), ix: ix as u32 });
        }
    }

    fn pick(&mut self, _now: Timestamp, _in_flight: &[u32]) -> Option<usize> {
        let mut top = self.heap.peek_mut()?;
        let ix = top.ix as usize;
        self.virtual_now = top.deadline;
        top.deadline += 1.0 / f64::from(self.weights[ix]);
        drop::<PeekMut<'_, Entry>>(top);
        Some(ix)
    }
}

/// Draws by weight, independently.
#[derive(Debug, Clone)]
pub struct WeightedRandom {
    table: AliasTable,
    rng: Rng,
}

impl WeightedRandom {
    /// A picker without endpoints yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { table: AliasTable::default(), rng: Rng::new(seed) }
    }
}

impl Picker for WeightedRandom {
    fn configure(&mut self, candidates: &[Candidate]) {
        self.table.rebuild(open_weights(candidates));
    }

    fn pick(&mut self, _now: Timestamp, _in_flight: &[u32]) -> Option<usize> {
        self.table.draw(&mut self.rng)
    }
}

/// Positions and weights of the endpoints that may be chosen.
pub(crate) fn open_weights(candidates: &[Candidate]) -> impl Iterator<Item = (u32, u32)> + '_ {
    candidates.iter().enumerate().map(|(ix, c)| (ix as u32, if c.is_open() { c.weight } else { 0 }))
}

impl Ord for Entry {
    /// Reversed, so that the heap's greatest is the earliest; ties go to the earlier endpoint.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.ix.cmp(&self.ix))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
