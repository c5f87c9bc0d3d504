//! Least request: of two endpoints drawn by weight, the one with fewer requests in flight per weight.
//!
//! Two choices instead of a scan: M. Mitzenmacher, "The power of two choices in randomized load balancing",
//! IEEE TPDS 12, 2001. With weights, load `(in flight + 1) / weight` is compared, so that at balance requests
//! in flight stand in proportion to weights.

use traflux_core::Timestamp;

use crate::alias::AliasTable;
use crate::picker::{Candidate, Picker};
use crate::rng::Rng;
use crate::weighted::open_weights;

/// Power of two choices on requests in flight.
#[derive(Debug, Clone)]
pub struct LeastRequest {
    table: AliasTable,
    weights: Vec<u32>,
    rng: Rng,
}

impl LeastRequest {
    /// A picker without endpoints yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { table: AliasTable::default(), weights: Vec::new(), rng: Rng::new(seed) }
    }
}

impl Picker for LeastRequest {
    fn configure(&mut self, candidates: &[Candidate]) {
        self.table.rebuild(open_weights(candidates));
        self.weights.clear();
        self.weights.extend(candidates.iter().map(|c| c.weight));
    }

    fn pick(&mut self, _now: Timestamp, in_flight: &[u32]) -> Option<usize> {
        let (a, b) = self.table.draw_two(&mut self.rng)?;
        // Cross-multiplied, so that the comparison is exact.
        let load = |ix: usize, other: usize| {
            u128::from(in_flight[ix]).saturating_add(1) * u128::from(self.weights[other])
        };
        Some(if load(b, a) < load(a, b) { b } else { a })
    }
}
