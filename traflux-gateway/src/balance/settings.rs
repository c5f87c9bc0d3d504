//! What can be set about balancing?

use std::ops::{Deref, DerefMut};

use traflux_core::plan::balance::BalancePlan;
use traflux_core::plan::routing::Algorithm;

/// How a pool chooses: an algorithm, and what the plan says of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BalanceSettings {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What it leaves open.
    pub plan: BalancePlan,
}

impl BalanceSettings {
    /// The defaults with another algorithm.
    #[must_use]
    pub fn of(algorithm: Algorithm) -> Self {
        Self { algorithm, ..Self::default() }
    }
}

impl Deref for BalanceSettings {
    type Target = BalancePlan;

    #[inline]
    fn deref(&self) -> &BalancePlan {
        &self.plan
    }
}

impl DerefMut for BalanceSettings {
    fn deref_mut(&mut self) -> &mut BalancePlan {
        &mut self.plan
    }
}
