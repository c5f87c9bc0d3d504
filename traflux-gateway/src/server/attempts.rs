//! Did what changed come into force: plans, and the certificates and keys that they name?

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::GatewayError;

/// How attempts to take in one kind of change ended.
#[derive(Debug)]
pub(super) struct Attempts {
    /// What is attempted, in the names of metrics: `reload` or `renewal`.
    what: &'static str,
    done: AtomicU64,
    failed: AtomicU64,
    /// Why the last attempt failed; none where it did not.
    problem: Mutex<Option<GatewayError>>,
}

impl Attempts {
    pub(super) const fn of(what: &'static str) -> Self {
        Self { what, done: AtomicU64::new(0), failed: AtomicU64::new(0), problem: Mutex::new(None) }
    }

    /// Takes in how an attempt ended.
    pub(super) fn ended<T>(&self, result: &Result<T, GatewayError>) {
        let count = if result.is_ok() { &self.done } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = result.as_ref().err().cloned();
    }

    /// Why the last attempt failed, and what is in use is older than what was written.
    pub(super) fn problem(&self) -> Option<GatewayError> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counters for Prometheus.
    pub(super) fn exposition(&self) -> String {
        let what = self.what;
        format!(
            "# TYPE traflux_gateway_{what}s_total counter\n\
             traflux_gateway_{what}s_total{{result=\"success\"}} {}\n\
             traflux_gateway_{what}s_total{{result=\"failure\"}} {}\n\
             # TYPE traflux_gateway_{what}_failing gauge\n\
             traflux_gateway_{what}_failing {}\n",
            self.done.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
            u8::from(self.problem().is_some())
        )
    }
}
