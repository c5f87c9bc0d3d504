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
//! | [`fairness`](mod@fairness) | does each tenant get what it is entitled to? |
//! | [`history`], [`pattern`] | what is the daily and weekly shape of traffic, how does it grow and peak? |
//! | [`anomaly`], [`detector`] | has rate, error ratio, latency or routing moved, since when and by how much? |
//! | [`alerts`] | which rules should Prometheus evaluate? |
//! | [`forecast`] | when is a limit or a budget reached? |
//!
//! Nothing here reads a clock or does I/O. On the hot path requests are counted; every few seconds somebody takes a
//! snapshot, and all else follows from the difference to the one before:
//!
//! ```
//! use std::time::Duration;
//! use traflux_core::Timestamp;
//! use traflux_gateway::observe::{
//!     AnomalyDetector, AnomalySettings, BackendModel, Baseline, Format, HistorySettings, Metrics, MetricsLayout,
//!     MetricsSettings, RequestRecord, Scrape, SeriesIx, TenantExposure, TrafficHistory,
//! };
//!
//! let series = vec![BackendModel { backend: "east".into(), model: "large".into() }];
//! let metrics = Metrics::new(MetricsLayout { series, ..Default::default() }, &MetricsSettings::default())?;
//! let mut detector = AnomalyDetector::new(metrics.layout(), AnomalySettings::default())?;
//! let mut history = TrafficHistory::new(1, HistorySettings::default())?;
//! let (mut start, mut before) = (Timestamp::ZERO, metrics.snapshot());
//!
//! // On the hot path:
//! let request = RequestRecord { duration: Duration::from_millis(700), ..RequestRecord::new(SeriesIx(0)) };
//! metrics.recorder().request(&request);
//!
//! // Every ten seconds:
//! let now = start + Duration::from_secs(10);
//! let snapshot = metrics.snapshot();
//! let window = snapshot.since(&before);
//! history.record(now, 0, window.amount(SeriesIx(0)));
//! for event in detector.window(start, now, &window, &Baseline::default()) {
//!     eprintln!("{event:?}");
//! }
//! (start, before) = (now, snapshot);
//!
//! // When Prometheus asks:
//! let tenants = TenantExposure::default();
//! let scrape = Scrape { snapshot: &metrics.snapshot(), tenants: &tenants, levels: &(), series_limit: 10_000 };
//! assert!(scrape.to_text(Format::Prometheus).contains(r#"model="large",outcome="success"} 1"#));
//! # let _ = (start, before);
//! # Ok::<(), traflux_gateway::GatewayError>(())
//! ```

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

pub use crate::outcome::Outcome;
pub use alerts::{AlertSettings, LatencyKind, LatencyObjective, Objective, WaitObjective, alert_rules};
pub use anomaly::{Anomaly, AnomalyDetector, AnomalyEvent, AnomalySettings, Baseline, Expectation, Signal};
pub use buckets::BucketBounds;
pub use exposition::{Format, Level, Levels, SHARES_OF_KEYS, Scrape};
pub use fairness::{Claim, Fairness, fairness, jain_index, max_min_shares};
pub use forecast::{Exhaustion, Headroom};
pub use history::{Amount, HistorySettings, Measure, TrafficHistory};
pub use layout::{
    BackendModel, BandIx, Decider, DeciderIx, MetricsLayout, ReasonIx, Route, RouteIx, SeriesIx,
};
pub use metrics::{Metrics, MetricsSettings, Recorder, RequestRecord};
pub use pattern::{Growth, Peaks, Profile};
pub use snapshot::{HistogramCounts, SeriesHistogram, Snapshot};
pub use tenants::{TenantExposure, TenantIx, TenantMetrics, TenantSettings, TenantUse};
