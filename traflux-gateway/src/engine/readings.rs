//! What is known of each backend now, beside what was counted?

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use traflux_core::Timestamp;

use super::Engine;

/// A backend as the engine has it now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendReading {
    /// Requests in flight, of all models.
    pub in_flight: u64,
    /// Most that may be.
    pub limit: u64,
    /// Whether some route has ejected all of its endpoints, for some model at least.
    pub ejected: bool,
}

impl Engine {
    /// The backends of the plan in force, by name. With [`counted`](Self::counted) it is all that a controller needs
    /// to know; neither changes anything.
    #[must_use]
    pub fn readings(&self, now: Timestamp) -> BTreeMap<Arc<str>, BackendReading> {
        let compiled = self.compiled.load_full();
        let mut readings: BTreeMap<Arc<str>, BackendReading> = BTreeMap::new();
        for pool in compiled.pools() {
            let mut eligible: BTreeMap<&Arc<str>, bool> = BTreeMap::new();
            for (position, member) in pool.members.iter().enumerate() {
                let health = pool.health.as_ref();
                let is_eligible = health.is_none_or(|health| health.eligibility(now, position).eligible);
                *eligible.entry(&member.state.name).or_default() |= is_eligible;
            }
            for (name, is_eligible) in eligible {
                readings.entry(Arc::clone(name)).or_default().ejected |= !is_eligible;
            }
        }
        let registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        for state in registry.backends() {
            // What only an earlier plan named is not shown.
            if let Some(reading) = readings.get_mut(&state.name) {
                reading.in_flight += u64::from(state.concurrency.in_flight());
                reading.limit += u64::from(state.concurrency.limit());
            }
        }
        readings
    }
}
