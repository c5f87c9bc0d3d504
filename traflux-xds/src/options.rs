//! What may an operator set about the resources that are compiled?

use std::time::Duration;

use crate::error::XdsError;

/// Envoy's fast, local reaction: a host that fails several times in a row is left out for a while, long
/// before a controller has seen it in its metrics. Ejection by comparison of success rates is always off:
/// that comparison is what the controller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierOptions {
    /// Failures in a row (502, 503, 504, refused, reset, timed out) that eject a host.
    pub consecutive_gateway_failures: u32,
    /// How often ejections are looked at again.
    pub interval: Duration,
    /// How long the first ejection lasts; later ones last longer.
    pub base_ejection_time: Duration,
    /// The most hosts of a cluster that may be ejected at a time, in percent.
    pub max_ejection_percent: u32,
}

impl Default for OutlierOptions {
    fn default() -> Self {
        Self {
            consecutive_gateway_failures: 5,
            interval: Duration::from_secs(5),
            base_ejection_time: Duration::from_secs(10),
            // Half: with more ejected, Envoy would panic and send to all of them anyway.
            max_ejection_percent: 50,
        }
    }
}

/// How much may be outstanding at a time towards a cluster.
///
/// Envoy's own defaults (1024 each) are reached at a few thousand requests per second and then answer 503,
/// which looks like a failing endpoint; these leave room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitOptions {
    /// Connections.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests in flight.
    pub max_requests: u32,
    /// Retries in flight.
    pub max_retries: u32,
}

impl Default for CircuitOptions {
    fn default() -> Self {
        Self { max_connections: 16_384, max_pending_requests: 16_384, max_requests: 32_768, max_retries: 64 }
    }
}

/// What [`compile`](crate::compile()) needs beyond the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileOptions {
    /// Envoy's local ejection of failing hosts; `None` leaves all of it to the controller.
    pub outlier: Option<OutlierOptions>,
    /// Limits on what is outstanding.
    pub circuit: CircuitOptions,
    /// Publish counters and gauges per host (`envoy_cluster_endpoint_*`). Envoy refuses every cluster when
    /// this is on and the bootstrap's cluster manager has a `load_stats_config`: choose one.
    pub per_endpoint_stats: bool,
    /// Also publish a listener under the bare name of each service, for proxyless gRPC clients
    /// (`xds:///service`). An Envoy does not see it.
    pub grpc_listeners: bool,
    /// Share of healthy hosts, in percent, below which Envoy ignores health; 0 never does.
    pub panic_threshold_percent: u32,
    /// How often Envoy pings an idle HTTP/2 connection to a host.
    pub http2_keepalive: Duration,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            outlier: Some(OutlierOptions::default()),
            circuit: CircuitOptions::default(),
            per_endpoint_stats: true,
            grpc_listeners: true,
            panic_threshold_percent: 50,
            http2_keepalive: Duration::from_secs(30),
        }
    }
}

impl CompileOptions {
    /// Checks every number against what Envoy accepts.
    ///
    /// # Errors
    /// [`XdsError::Option`] for the first that is outside its limits.
    pub fn validate(&self) -> Result<(), XdsError> {
        let within = |option, value: u64, low, high| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(XdsError::Option { option, value, low, high })
            }
        };
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        const HOUR_MS: u64 = 3_600_000;
        within("panic_threshold_percent", self.panic_threshold_percent.into(), 0, 100)?;
        within("http2_keepalive_ms", millis(self.http2_keepalive), 1, HOUR_MS)?;
        if let Some(outlier) = &self.outlier {
            let failures = outlier.consecutive_gateway_failures.into();
            within("consecutive_gateway_failures", failures, 1, u64::from(u32::MAX))?;
            within("outlier_interval_ms", millis(outlier.interval), 1, HOUR_MS)?;
            within("base_ejection_time_ms", millis(outlier.base_ejection_time), 1, HOUR_MS)?;
            within("max_ejection_percent", outlier.max_ejection_percent.into(), 0, 100)?;
        }
        for (option, value) in [
            ("max_connections", self.circuit.max_connections),
            ("max_pending_requests", self.circuit.max_pending_requests),
            ("max_requests", self.circuit.max_requests),
        ] {
            within(option, value.into(), 1, u64::from(u32::MAX))?;
        }
        Ok(())
    }
}
