//! Round robin: every open endpoint in turn, weights ignored.

use traflux_core::Timestamp;

use crate::picker::{Candidate, Picker};
use crate::rng::Rng;

/// Takes the open endpoints in turn, from a random start, so that many clients do not begin with the same one.
#[derive(Debug, Clone)]
pub struct RoundRobin {
    open: Vec<u32>,
    cursor: usize,
    rng: Rng,
}

impl RoundRobin {
    /// A picker without endpoints yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { open: Vec::new(), cursor: 0, rng: Rng::new(seed) }
    }
}

impl Picker for RoundRobin {
    fn configure(&mut self, candidates: &[Candidate]) {
        let next = self.open.get(self.cursor).copied();
        self.open.clear();
        self.open.extend((0..candidates.len() as u32).filter(|ix| candidates[*ix as usize].is_open()));
        self.cursor = match next {
            Some(next) => self.open.iter().position(|ix| *ix >= next).unwrap_or(0),
            None if self.open.is_empty() => 0,
            None => self.rng.below(self.open.len()),
        };
    }

    fn pick(&mut self, _now: Timestamp, _in_flight: &[u32]) -> Option<usize> {
        let picked = *self.open.get(self.cursor)?;
        self.cursor = (self.cursor + 1) % self.open.len();
        Some(picked as usize)
    }
}
