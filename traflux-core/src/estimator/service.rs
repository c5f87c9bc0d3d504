//! How long does a request take when nobody else is there?
//!
//! Every latency measured below a utilisation of 0.7 gives one answer, `S = L/(1 + W(ρ))`. The configured time
//! is where the search begins and counts as 50 requests: over the first windows readings correct it quickly
//! (by at most a factor of 2 up when the delay of the routes is known; an unknown delay hides in the service
//! time), afterwards slowly, so that a brown-out of minutes does not become the normal state.

use super::config::CapacityConfig;
use super::readings::View;
use super::slowdown::stretch;
use super::smooth::weight;
use crate::topology::Resource;

/// Beyond this utilisation the model of the queue would dominate the answer.
const LOW: f64 = 0.7;
/// A first correction of the configured time beyond this factor is a fault, not a calibration.
const CALIBRATION_LIMIT: f64 = 2.0;

/// How many requests the configured time (or the first reading) is worth.
const PRIOR: f64 = 50.0;

/// The service time at no load of one endpoint.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceTime {
    seconds: Option<f64>,
    learned: f64,
    requests: f64,
}

impl ServiceTime {
    /// The time to compare with, taken from the configuration or else from the first reading.
    pub(super) fn prepare(
        &mut self,
        resource: &Resource,
        view: &View,
        utilization: f64,
        servers: f64,
    ) -> Option<f64> {
        if self.seconds.is_none() {
            let configured = resource.service_time.map(|s| s.as_secs()).filter(|s| *s > 0.0);
            let measured = view.latency.map(|l| l / stretch(utilization.min(0.95), servers));
            self.seconds = configured.or(measured.filter(|s| *s > 0.0)).map(|s| s.clamp(1e-6, 1e5));
        }
        self.seconds
    }

    /// Whether a deviation still corrects the configuration instead of accusing the endpoint.
    pub(super) fn is_calibrating(&self, window: f64, view: &View, slowdown: f64) -> bool {
        !self.is_calibrated(window) && (view.delay <= 0.0 || slowdown <= CALIBRATION_LIMIT)
    }

    fn is_calibrated(&self, window: f64) -> bool {
        self.learned >= 2.0 * window && self.requests >= 2.0 * PRIOR
    }

    /// Takes a reading of an endpoint that is as it should be.
    pub(super) fn learn(
        &mut self,
        step: f64,
        window: f64,
        latency_ratio: f64,
        utilization: f64,
        servers: f64,
        resource: &Resource,
        view: &View,
        config: &CapacityConfig,
    ) {
        let Some(seconds) = self.seconds else { return };
        if utilization > LOW || view.samples < 10.0 {
            return;
        }
        let reading = seconds * latency_ratio / stretch(utilization, servers);
        let requests = view.samples * (step / window).min(1.0);
        let gain = if self.is_calibrated(window) {
            weight(step, config.service_time_s)
        } else {
            requests / (self.requests + requests + PRIOR)
        };
        let mut next = seconds + gain * (reading - seconds);
        if let Some(configured) = resource.service_time.map(|s| s.as_secs()).filter(|s| *s > 0.0)
            && view.delay > 0.0
        {
            next = next.clamp(configured / 4.0, configured * CALIBRATION_LIMIT);
        }
        self.seconds = Some(next.clamp(1e-6, 1e5));
        self.learned = (self.learned + step).min(1e9);
        self.requests = (self.requests + requests).min(1e12);
    }

    /// The time in seconds; before any reading what is configured, else 10 ms.
    pub(super) fn seconds(&self, resource: &Resource) -> f64 {
        self.seconds.or(resource.service_time.map(|s| s.as_secs().min(1e5))).unwrap_or(0.01)
    }
}
