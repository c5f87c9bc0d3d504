//! What does the fleet look like now, as Prometheus sees it?
//!
//! [`PrometheusSource`] asks the eleven questions of [`crate::queries`] and those of the user's [`Signal`]s, the
//! two percentiles after all others and otherwise at the same time, and puts the answers in the order of the
//! topology. A question that fails leaves its field empty with a warning; only when all fail is the
//! collection an error.
//!
//! Ages are differences on the server's own clock (time of evaluation minus time of the newest sample), so a
//! local clock that is wrong or jumps does no harm.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use traflux_core::{BoxFuture, MetricsSource, ObserveError, Telemetry, Topology, Window};

use crate::answer::Answer;
use crate::client::PromClient;
use crate::error::PromError;
use crate::labels::{LabelIndex, LabelMap};
use crate::queries::{QueryOptions, QuerySet, signal_freshness};
use crate::readings::{Answers, Assembly};

/// A user's own measurement of endpoints: CPU, memory, queue length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Its key in [`traflux_core::ResourceTelemetry::signals`].
    pub name: String,
    /// Any PromQL with a vector as result. Where several series name one endpoint, the largest counts.
    pub query: String,
    /// The label that holds the endpoint's name. Where the result carries the service label too, it must fit.
    pub label: String,
    /// A query for the server time of the newest sample, by the same label. Unless given, that of a plain
    /// selector is known; the age of any other expression counts as zero.
    pub freshness: Option<String>,
}

/// The time after which the data plane gives up on a request, where known: what a censored latency is at least.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// For every service not listed.
    pub default: Option<Duration>,
    /// By service.
    pub services: BTreeMap<String, Duration>,
}

impl Timeouts {
    /// The timeout of a service.
    #[must_use]
    pub fn of(&self, service: &str) -> Option<Duration> {
        self.services.get(service).copied().or(self.default)
    }
}

/// Everything about the source beside the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOptions {
    /// Which labels hold what.
    pub labels: LabelMap,
    /// What is asked.
    pub queries: QueryOptions,
    /// The user's own measurements.
    pub signals: Vec<Signal>,
    /// Route timeouts at the start; see [`PrometheusSource::set_timeouts`].
    pub timeouts: Timeouts,
    /// Series taken of one answer; what is beyond is dropped with a warning.
    pub max_series: usize,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            labels: LabelMap::default(),
            queries: QueryOptions::default(),
            signals: Vec::new(),
            timeouts: Timeouts::default(),
            max_series: 200_000,
        }
    }
}

/// Telemetry from Prometheus.
#[derive(Debug)]
pub struct PrometheusSource {
    client: PromClient,
    options: SourceOptions,
    labels: RwLock<Arc<LabelMap>>,
    timeouts: RwLock<Arc<Timeouts>>,
}

impl PrometheusSource {
    /// A source over one server. Nothing is asked yet.
    #[must_use]
    pub fn new(client: PromClient, options: SourceOptions) -> Self {
        let labels = RwLock::new(Arc::new(options.labels.clone()));
        let timeouts = RwLock::new(Arc::new(options.timeouts.clone()));
        Self { client, options, labels, timeouts }
    }

    /// The client it asks with.
    #[must_use]
    pub fn client(&self) -> &PromClient {
        &self.client
    }

    /// Replaces the names of endpoints and hosts: discovery changed the topology.
    pub fn set_labels(&self, labels: LabelMap) {
        *self.labels.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(labels);
    }

    /// Replaces the route timeouts: discovery changed the services.
    pub fn set_timeouts(&self, timeouts: Timeouts) {
        *self.timeouts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(timeouts);
    }

    /// The questions it asks for averages over `window`.
    #[must_use]
    pub fn queries(&self, window: Duration) -> QuerySet {
        QuerySet::new(&self.options.queries, &self.labels(), window)
    }

    fn labels(&self) -> Arc<LabelMap> {
        Arc::clone(&self.labels.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn timeouts(&self) -> Arc<Timeouts> {
        Arc::clone(&self.timeouts.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn ask(&self, topology: &Topology, window: Window) -> Result<Telemetry, PromError> {
        let (labels, timeouts) = (self.labels(), self.timeouts());
        let set = QuerySet::new(&self.options.queries, &labels, window.length);
        let signals = &self.options.signals;
        let freshness: Vec<Option<String>> = signals
            .iter()
            .map(|signal| signal.freshness.clone().or_else(|| signal_freshness(&signal.query)))
            .collect();
        let core = set.named();
        let first = core
            .iter()
            .map(|(name, query)| (!is_percentile(name)).then_some(*query))
            .chain(signals.iter().map(|signal| Some(signal.query.as_str())))
            .chain(freshness.iter().map(Option::as_deref))
            .map(|query| self.maybe(query));
        let mut results = join_all(first).await;
        // Nobody answers: there is no point in waiting for another deadline.
        if results[..core.len()].iter().flatten().all(Result::is_err)
            && let Some(Err(error)) = results.iter_mut().find_map(Option::take)
        {
            return Err(error);
        }
        let second = core.iter().map(|(name, query)| self.maybe(is_percentile(name).then_some(*query)));
        for (result, late) in results.iter_mut().zip(join_all(second).await) {
            *result = result.take().or(late);
        }

        let mut results = results.into_iter();
        let mut assembly = Assembly::new(topology, window, &labels, &self.options, &timeouts);
        let mut next = |name: &str, assembly: &mut Assembly<'_>| match results.next().flatten() {
            Some(Ok(answer)) => Some(assembly.admit(name, answer)),
            Some(Err(error)) => {
                assembly.warn(format!("{name}: {error}"));
                None
            }
            None => None,
        };
        let core = core.map(|(name, _)| next(name, &mut assembly));
        let values: Vec<_> =
            signals.iter().map(|s| next(&format!("signal {}", s.name), &mut assembly)).collect();
        let ages: Vec<_> =
            signals.iter().map(|s| next(&format!("age of signal {}", s.name), &mut assembly)).collect();
        let [
            completed,
            completed_before,
            timed_out,
            failed,
            timed,
            time,
            p95_by_source,
            p95,
            newest,
            healthy,
            up,
        ] = core;
        let index = LabelIndex::new(topology, &labels);
        assembly.measure(
            &index,
            &Answers {
                completed,
                completed_before,
                timed_out,
                failed,
                timed,
                time,
                p95_by_source,
                p95,
                newest,
                healthy,
                up,
            },
        );
        for ((signal, values), ages) in signals.iter().zip(&values).zip(&ages) {
            if let Some(values) = values {
                assembly.signal(&index, signal, values, ages.as_ref());
            }
        }
        Ok(assembly.finish())
    }

    async fn maybe(&self, query: Option<&str>) -> Option<Result<Answer, PromError>> {
        match query {
            Some(query) => Some(self.client.instant(query).await),
            None => None,
        }
    }
}

/// Percentiles cost the server some twenty times what a count costs: at 10,000 endpoints about five seconds
/// of a core. Asked for at the same time they would starve the counts, so they come after them.
fn is_percentile(name: &str) -> bool {
    name.starts_with("p95")
}

impl MetricsSource for PrometheusSource {
    fn collect<'a>(
        &'a self,
        topology: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, Result<Telemetry, ObserveError>> {
        Box::pin(async move {
            self.ask(topology, window).await.map_err(|error| {
                tracing::debug!(code = error.code(), %error, "no answer from prometheus");
                ObserveError::from(error)
            })
        })
    }
}
