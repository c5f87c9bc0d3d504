//! How do new parameters reach inference while it runs?
//!
//! One handle, cloned to the learner and to every policy: the learner swaps a whole set of parameters in,
//! a policy takes the current set once per decision, so no decision mixes two sets. The switch that freezes
//! learning is here too, since it must stop exploration and updates together.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::parameters::Parameters;

/// A handle on the parameters in use; clones share them.
#[derive(Debug, Clone)]
pub struct SharedParameters {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    current: RwLock<Arc<Parameters>>,
    version: AtomicU64,
    frozen: AtomicBool,
}

impl SharedParameters {
    /// Shares a first set as version 0.
    #[must_use]
    pub fn new(parameters: Parameters) -> Self {
        Self {
            inner: Arc::new(Inner {
                current: RwLock::new(Arc::new(parameters)),
                version: AtomicU64::new(0),
                frozen: AtomicBool::new(false),
            }),
        }
    }

    /// The set in use.
    #[must_use]
    pub fn load(&self) -> Arc<Parameters> {
        // A writer only swaps an Arc: a poisoned lock still holds a whole set.
        Arc::clone(&self.inner.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the set in use and returns its version.
    pub fn publish(&self, parameters: Parameters) -> u64 {
        let mut current = self.inner.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(parameters);
        self.inner.version.fetch_add(1, Ordering::Release) + 1
    }

    /// How many sets were published.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.inner.version.load(Ordering::Acquire)
    }

    /// Stops learning and exploration: policies act deterministically, a learner takes nothing in.
    pub fn freeze(&self) {
        self.inner.frozen.store(true, Ordering::Release);
    }

    /// Resumes learning and exploration.
    pub fn resume(&self) {
        self.inner.frozen.store(false, Ordering::Release);
    }

    /// Whether learning is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.inner.frozen.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::NetworkShape;

    #[test]
    fn a_published_set_is_seen_by_every_clone_and_old_sets_stay_whole() {
        let shape = NetworkShape { group_features: 2, context_features: 1, hidden: 4, identities: 0 };
        let shared = SharedParameters::new(Parameters::seeded(shape, 1));
        let other = shared.clone();
        let before = other.load();
        assert_eq!(shared.publish(Parameters::seeded(shape, 2)), 1);
        assert_eq!(*before, Parameters::seeded(shape, 1));
        assert_eq!(*other.load(), Parameters::seeded(shape, 2));
        assert_eq!(other.version(), 1);
    }

    #[test]
    fn freezing_one_handle_freezes_all() {
        let shape = NetworkShape { group_features: 2, context_features: 1, hidden: 4, identities: 0 };
        let shared = SharedParameters::new(Parameters::seeded(shape, 1));
        let other = shared.clone();
        shared.freeze();
        assert!(other.is_frozen());
        other.resume();
        assert!(!shared.is_frozen());
    }
}
