//! How is a solution of half a million commodities written down?

use super::FlowPaths;
use crate::multicommodity::{FlowStatus, relative_gap};

/// Flows of a large problem with a proof of how good they are.
#[derive(Debug, Clone, PartialEq)]
pub struct LargeSolution {
    /// Maximum link utilisation of these flows.
    pub utilization: f64,
    /// No flows can have a lower one.
    pub lower_bound: f64,
    /// Why the solver stopped.
    pub status: FlowStatus,
    /// Load of each link in bit/s, background included.
    pub loads: Vec<f64>,
    /// Paths of each commodity, in the order of the problem.
    pub paths: FlowPaths,
    /// Lengths `y` that prove the bound, by link, `Σ c_l y_l = 1`.
    pub link_prices: Vec<f64>,
    /// Sweeps of the potential and rounds of column generation.
    pub iterations: usize,
}

impl LargeSolution {
    /// `(utilisation − lower_bound) / utilisation`, 0 for no load.
    #[must_use]
    pub fn gap(&self) -> f64 {
        relative_gap(self.utilization, self.lower_bound)
    }
}
