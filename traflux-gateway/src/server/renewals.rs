//! Did certificates and keys that changed come into force?

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::GatewayError;

/// What became of the files that a plan names.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    done: AtomicU64,
    failed: AtomicU64,
    /// Why the last attempt failed; none where it did not.
    problem: Mutex<Option<GatewayError>>,
}

impl Renewals {
    /// Takes in how an attempt ended.
    pub(super) fn ended<T>(&self, result: &Result<T, GatewayError>) {
        let count = if result.is_ok() { &self.done } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = result.as_ref().err().cloned();
    }

    /// Why those in use are older than their files.
    pub(super) fn problem(&self) -> Option<GatewayError> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counters for Prometheus.
    pub(super) fn exposition(&self) -> String {
        format!(
            "# TYPE traflux_gateway_renewals_total counter\n\
             traflux_gateway_renewals_total{{result=\"success\"}} {}\n\
             traflux_gateway_renewals_total{{result=\"failure\"}} {}\n\
             # TYPE traflux_gateway_renewal_failing gauge\n\
             traflux_gateway_renewal_failing {}\n",
            self.done.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
            u8::from(self.problem().is_some())
        )
    }
}
