//! Prometheus as a metrics source, and Traflux's own metrics for it to scrape.
//!
//! | question | module |
//! |---|---|
//! | what does the fleet look like now? | [`source`]: [`PrometheusSource`], a [`traflux_core::MetricsSource`] |
//! | what exactly is asked, and why? | [`queries`] |
//! | which series belongs to which route? | [`labels`] |
//! | how is Prometheus spoken to? | [`client`], over [`http`] |
//! | what may it answer? | [`answer`] |
//! | what does traffic cost now? | [`prices`]: [`PriceBook`] |
//! | what does Traflux say of itself? | [`exporter`]: [`Exporter`] |
//! | how must Prometheus be configured? | [`bootstrap`] |

pub mod answer;
pub mod bootstrap;
pub mod client;
pub mod error;
pub mod exporter;
pub mod http;
pub mod labels;
pub mod prices;
pub mod queries;
mod readings;
pub mod source;

pub use answer::{Answer, Labels, NativeHistogram, Point, Sample, SampleValue, Series, Value};
pub use bootstrap::{
    AlertingRules, EnvoyTarget, PrometheusBootstrap, TrafluxTarget, prometheus_config, prometheus_rules,
};
pub use client::PromClient;
pub use error::PromError;
pub use exporter::{Exporter, TransitionDrop};
pub use http::{Auth, HttpOptions, Secret, TlsOptions};
pub use labels::{LabelMap, sanitize};
pub use prices::{PriceBook, PriceEntry, PricePoll};
pub use queries::{Histograms, Layout, QueryOptions, QuerySet};
pub use source::{PrometheusSource, Signal, SourceOptions, Timeouts};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExample;
