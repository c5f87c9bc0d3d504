//! What does the gateway see of itself, and what follows from it?
//!
//! | module | question |
//! |---|---|
//! | [`layout`] | which series are there? All are known before the first request |
//! | [`buckets`] | into which bucket falls a latency? |
//! | [`metrics`] | how is a request counted in some 20 ns without contention? |
//! | [`snapshot`] | what was counted, in all or between two moments? |
//! | [`tenants`] | which tenants deserve a series of their own? |
//! | [`exposition`] | how does Prometheus read it? |
//! | [`fairness`] | does each tenant get what it is entitled to? |
//! | [`history`], [`pattern`] | what is the daily and weekly shape of traffic, how does it grow and peak? |
//! | [`anomaly`], [`detector`] | has rate, error ratio, latency or routing moved, since when and by how much? |
//! | [`alerts`] | which rules should Prometheus evaluate? |
//! | [`forecast`] | when is a limit or a budget reached? |
//!
//! Nothing here reads a clock or does I/O.

pub mod alerts;
pub mod anomaly;
pub mod buckets;
pub mod detector;
pub mod exposition;
pub mod fairness;
pub mod forecast;
pub mod history;
pub mod layout;
pub mod metrics;
pub mod pattern;
mod robust;
pub mod snapshot;
pub mod tenants;

pub use alerts::{AlertSettings, LatencyKind, LatencyObjective, Objective, WaitObjective, alert_rules};
pub use anomaly::{Anomaly, AnomalyDetector, AnomalyEvent, AnomalySettings, Expectation, Signal};
pub use buckets::BucketBounds;
pub use exposition::{Format, Level, Levels, Scrape};
pub use fairness::{Claim, Fairness, fairness, jain_index, max_min_shares};
pub use forecast::{Exhaustion, Headroom};
pub use history::{Amount, HistorySettings, Measure, TrafficHistory};
pub use layout::{
    BackendModel, BandIx, Decider, DeciderIx, MetricsLayout, Outcome, ReasonIx, Route, RouteIx, SeriesIx,
};
pub use metrics::{Metrics, MetricsSettings, Recorder, RequestRecord};
pub use pattern::{Growth, Peaks, Profile};
pub use snapshot::{HistogramCounts, SeriesHistogram, Snapshot};
pub use tenants::{TenantExposure, TenantIx, TenantMetrics, TenantSettings, TenantUse};
