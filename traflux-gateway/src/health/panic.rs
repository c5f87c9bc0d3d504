//! When is the health of endpoints to be ignored?
//!
//! When so few are called healthy that sending everything to them would break them too, or when it is likelier
//! that the checks are wrong (Envoy: panic threshold). Then all endpoints are used. The share of healthy
//! endpoints below which this happens is 0.5 in Envoy, which presumes nothing else protects the survivors;
//! here concurrency limits do, and the default in [`HealthPlan`](super::HealthPlan) is 0.2, so that two
//! dead backends out of three are avoided and three out of three are tried.

/// Whether fewer than a share `threshold` of endpoints are healthy. Never with a threshold of 0, nor without
/// endpoints.
#[must_use]
pub fn is_panicking(healthy: usize, total: usize, threshold: f64) -> bool {
    total > 0 && (healthy as f64) < threshold * total as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_below_the_threshold_and_not_at_it() {
        assert!(!is_panicking(1, 2, 0.5));
        assert!(is_panicking(1, 3, 0.5));
        assert!(!is_panicking(1, 3, 0.2));
        assert!(is_panicking(0, 1, 0.2));
        assert!(!is_panicking(0, 5, 0.0));
        assert!(!is_panicking(0, 0, 0.5));
    }
}
