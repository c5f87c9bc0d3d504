//! What is true, for oracles and tests: no telemetry tells it, and no controller may ask.

use traflux_core::{Latency, Rate};

use super::Fleet;

/// What is true of an endpoint now; telemetry does not tell, and no controller may ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EndpointTruth {
    /// Requests per second it can serve now.
    pub capacity: Rate,
    /// Slots it has now.
    pub slots: u32,
    /// Mean service time now.
    pub service_time: Latency,
    /// Share of requests that fail or vanish by themselves, in [0, 1]; 1 in an outage.
    pub failure_ratio: f64,
    /// Requests being served.
    pub busy: u32,
    /// Requests waiting.
    pub waiting: usize,
}

/// Where all requests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Requests sent so far.
    pub arrived: u64,
    /// Answered well.
    pub succeeded: u64,
    /// Failed, timeouts included.
    pub failed: u64,
    /// Still open for their clients.
    pub in_flight: u64,
}

impl Fleet {
    /// Where all requests are.
    #[must_use]
    pub fn census(&self) -> Census {
        let (ended, failed) = self.recorder.totals();
        let in_flight: u64 = self.sources.iter().flat_map(|s| &s.in_flight).map(|n| u64::from(*n)).sum();
        Census { arrived: self.arrived, succeeded: ended - failed, failed, in_flight }
    }

    /// What is true of an endpoint now, by its position in the topology's resources: for oracles and tests only.
    ///
    /// # Panics
    /// When there is no such endpoint.
    #[must_use]
    pub fn truth(&self, endpoint: usize) -> EndpointTruth {
        let state = &self.endpoints[endpoint];
        let condition = &state.condition;
        let service = state.mean_service_ns * 1e-9 * condition.slowness(self.now as f64 * 1e-9);
        let failure_ratio =
            if condition.outage { 1.0 } else { 1.0 - (1.0 - condition.blackhole) * (1.0 - condition.errors) };
        let capacity = if condition.outage { 0.0 } else { f64::from(condition.slots) / service };
        EndpointTruth {
            capacity: Rate::saturating(capacity),
            slots: condition.slots,
            service_time: Latency::saturating(service),
            failure_ratio,
            busy: state.busy,
            waiting: state.queue.len(),
        }
    }

    /// The rate at which a source sends now: for oracles and tests only.
    ///
    /// # Panics
    /// When there is no such source.
    #[must_use]
    pub fn true_demand(&self, source: usize) -> Rate {
        Rate::saturating(self.sources[source].arrivals.rate(self.now as f64 * 1e-9))
    }

    /// The round-trip time of a route now: for oracles and tests only.
    ///
    /// # Panics
    /// When there is no such route.
    #[must_use]
    pub fn true_delay(&self, route: usize) -> Latency {
        Latency::saturating(self.routes[route].round_trip as f64 * 1e-9)
    }
}
