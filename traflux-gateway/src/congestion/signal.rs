//! How full is a backend, by its own account and by ours?
//!
//! Saturation is the fullest of its resources, 1 meaning full:
//! `max(waiting / queue_full, cache use / cache_full, utilization / utilization_full)`.
//!
//! Reports come from more than one place, and each says what it knows: what one does not say is as it was said before,
//! for as long as that is fresh.
//!
//! Reports are always old. So
//! - what we have sent since the report adds to its queue if there was one, lest everybody run to the backend
//!   that looked idle a moment ago;
//! - our own requests in flight, as a share of the concurrency limit, always count too;
//! - a report older than `fresh` loses its say evenly until `expiry`, and then only our own count does: a
//!   backend that stops reporting is neither trusted for ever nor shut off;
//! - a backend with nothing of ours in flight is never called saturated, so that work goes on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use traflux_core::Timestamp;
use traflux_core::plan::congestion::SignalPlan;

use crate::units::{duration_nanos, nanos};

/// What a backend measured of itself; all numbers as reported, none negative.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadReport {
    /// Requests waiting for a place in a batch.
    pub waiting: Option<f64>,
    /// Requests being served.
    pub running: Option<f64>,
    /// Share of the key-value cache in use, in [0, 1].
    pub cache_use: Option<f64>,
    /// Utilization as the application defines it, 1 being full.
    pub application_utilization: Option<f64>,
    /// Share of the processors in use.
    pub cpu_utilization: Option<f64>,
    /// Share of memory in use.
    pub memory_utilization: Option<f64>,
    /// Requests per second.
    pub requests_per_second: Option<f64>,
    /// Errors per second.
    pub errors_per_second: Option<f64>,
}

/// The saturation of one backend (and model), from its reports and our own count.
#[derive(Debug)]
pub struct BackendSignal {
    plan: SignalPlan,
    /// Nanoseconds of the last report; 0 before the first. Relaxed, as all below: readers that mix two
    /// reports a moment apart are off by what changed between them.
    at: AtomicU64,
    /// Bits of an `f64`: saturation but for the queue.
    resources: AtomicU64,
    /// Bits of an `f64`: requests waiting.
    waiting: AtomicU64,
    /// Ours in flight at the report.
    in_flight: AtomicU32,
    saturated: AtomicBool,
    known: Mutex<Option<Known>>,
}

/// What reports have said.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    report: LoadReport,
    /// Nanoseconds at which each of [`FIELDS`] was said.
    said: [u64; FIELDS.len()],
}

/// What a report may say.
const FIELDS: [fn(&mut LoadReport) -> &mut Option<f64>; 8] = [
    |report| &mut report.waiting,
    |report| &mut report.running,
    |report| &mut report.cache_use,
    |report| &mut report.application_utilization,
    |report| &mut report.cpu_utilization,
    |report| &mut report.memory_utilization,
    |report| &mut report.requests_per_second,
    |report| &mut report.errors_per_second,
];

impl Known {
    /// Takes in what a report says, and forgets what it does not say and is no longer fresh.
    fn take_in(&mut self, at: u64, mut report: LoadReport, fresh: u64) {
        for (field, said) in FIELDS.iter().zip(&mut self.said) {
            let known = field(&mut self.report);
            match *field(&mut report) {
                Some(value) => (*known, *said) = (Some(value), at),
                None if at.saturating_sub(*said) > fresh => *known = None,
                None => {}
            }
        }
    }
}

impl BackendSignal {
    /// One without a report.
    #[must_use]
    pub fn new(plan: &SignalPlan) -> Self {
        Self {
            plan: *plan,
            at: AtomicU64::new(0),
            resources: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            saturated: AtomicBool::new(false),
            known: Mutex::new(None),
        }
    }

    /// Takes in a report measured at `at`, with our requests in flight then. An older one than the last is
    /// ignored.
    pub fn report(&self, at: Timestamp, report: LoadReport, in_flight: u32) {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let at = nanos(at).max(1);
        if at < self.at.load(Ordering::Relaxed) {
            return;
        }
        let known = known.get_or_insert_default();
        known.take_in(at, report, duration_nanos(self.plan.fresh));
        let all = &known.report;
        self.resources.store(resources(&self.plan, all).to_bits(), Ordering::Relaxed);
        self.waiting.store(all.waiting.unwrap_or(0.0).max(0.0).to_bits(), Ordering::Relaxed);
        if report.waiting.is_some() {
            self.in_flight.store(in_flight, Ordering::Relaxed);
        }
        self.at.store(at, Ordering::Relaxed);
    }

    /// The last report, with what others said before that was still fresh then.
    #[must_use]
    pub fn last(&self) -> Option<LoadReport> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).map(|known| known.report)
    }

    /// How much the last report counts at `now`, in [0, 1].
    #[inline]
    #[must_use]
    pub fn trust(&self, now: Timestamp) -> f64 {
        let at = self.at.load(Ordering::Relaxed);
        if at == 0 {
            return 0.0;
        }
        let age = nanos(now).saturating_sub(at);
        let (fresh, expiry) = (duration_nanos(self.plan.fresh), duration_nanos(self.plan.expiry));
        if age <= fresh {
            1.0
        } else if age >= expiry {
            0.0
        } else {
            (expiry - age) as f64 / (expiry - fresh) as f64
        }
    }

    /// Saturation at `now`, 1 meaning full, given our requests in flight and the concurrency limit on them.
    #[inline]
    #[must_use]
    pub fn saturation(&self, now: Timestamp, in_flight: u32, limit: u32) -> f64 {
        let local = f64::from(in_flight) / f64::from(limit.max(1));
        let trust = self.trust(now);
        if trust <= 0.0 {
            return local;
        }
        let mut waiting = f64::from_bits(self.waiting.load(Ordering::Relaxed));
        if waiting > 0.0 {
            // Who comes after a queue queues.
            waiting += f64::from(in_flight.saturating_sub(self.in_flight.load(Ordering::Relaxed)));
        }
        let resources = f64::from_bits(self.resources.load(Ordering::Relaxed));
        let remote = resources.max(waiting / self.plan.queue_full);
        local + trust * (remote - local).max(0.0)
    }

    /// Whether the backend is to be left alone, with hysteresis between `enter` and `leave`.
    #[inline]
    #[must_use]
    pub fn is_saturated(&self, now: Timestamp, in_flight: u32, limit: u32) -> bool {
        let saturation = self.saturation(now, in_flight, limit);
        let before = self.saturated.load(Ordering::Relaxed);
        let after = saturation >= if before { self.plan.leave } else { self.plan.enter };
        if before != after {
            self.saturated.store(after, Ordering::Relaxed);
        }
        after && in_flight > 0
    }
}

/// Saturation but for the queue.
fn resources(plan: &SignalPlan, report: &LoadReport) -> f64 {
    let cache = report.cache_use.unwrap_or(0.0) / plan.cache_full;
    let utilization = report.application_utilization.or(report.cpu_utilization).unwrap_or(0.0);
    cache.max(utilization / plan.utilization_full)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_millis(milliseconds))
    }

    #[test]
    fn the_fullest_resource_counts() {
        let signal = BackendSignal::new(&SignalPlan::default());
        assert_eq!(signal.saturation(at(0), 3, 10), 0.3);
        let report = LoadReport { waiting: Some(2.0), cache_use: Some(0.45), ..LoadReport::default() };
        signal.report(at(1_000), report, 3);
        assert!((signal.saturation(at(1_000), 3, 10) - 0.5).abs() < 1e-12);
        assert!((signal.saturation(at(1_000), 8, 10) - 1.4).abs() < 1e-12, "five more wait behind two");
        assert_eq!(signal.last(), Some(report));
    }

    #[test]
    fn an_old_report_fades_into_our_own_count() {
        let signal = BackendSignal::new(&SignalPlan::default());
        signal.report(at(1_000), LoadReport { cache_use: Some(0.9), ..LoadReport::default() }, 1);
        assert!((signal.saturation(at(3_000), 1, 10) - 1.0).abs() < 1e-12);
        assert!((signal.saturation(at(7_000), 1, 10) - 0.55).abs() < 1e-12);
        assert!((signal.saturation(at(11_000), 1, 10) - 0.1).abs() < 1e-12);
        // A report from before is late and changes nothing.
        signal.report(at(500), LoadReport { cache_use: Some(0.0), ..LoadReport::default() }, 1);
        assert!((signal.saturation(at(1_000), 1, 10) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_report_leaves_alone_what_it_does_not_say() {
        let signal = BackendSignal::new(&SignalPlan::default());
        signal.report(at(1_000), LoadReport { waiting: Some(4.0), ..LoadReport::default() }, 2);
        let utilized = LoadReport { application_utilization: Some(0.095), ..LoadReport::default() };
        signal.report(at(2_000), utilized, 3);
        let both = LoadReport { waiting: Some(4.0), ..utilized };
        assert_eq!(signal.last(), Some(both));
        // Four, and one that came since they were counted.
        assert!((signal.saturation(at(2_000), 3, 100) - 1.0).abs() < 1e-12);
        // Utilization is said again and again, the queue no more.
        signal.report(at(3_000), utilized, 3);
        assert_eq!(signal.last(), Some(both));
        signal.report(at(3_001), utilized, 3);
        assert_eq!(signal.last(), Some(utilized));
        assert!((signal.saturation(at(3_001), 3, 100) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn saturation_is_left_later_than_entered_and_never_stops_the_last_request() {
        let signal = BackendSignal::new(&SignalPlan::default());
        assert!(!signal.is_saturated(at(0), 9, 10));
        assert!(signal.is_saturated(at(0), 10, 10));
        assert!(signal.is_saturated(at(0), 9, 10));
        assert!(!signal.is_saturated(at(0), 7, 10));
        signal.report(at(1), LoadReport { waiting: Some(500.0), ..LoadReport::default() }, 0);
        assert!(!signal.is_saturated(at(1), 0, 10), "nothing of ours is in flight");
        assert!(signal.is_saturated(at(1), 1, 10));
    }
}
