//! Prometheus and prices as one metrics source.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use traflux_core::{BoxFuture, MetricsSource, ObserveError, ServicePlan, Telemetry, Topology, Window};
use traflux_prom::{
    Auth, Histograms, HttpOptions, LabelMap, PriceBook, PromClient, PromError, PrometheusSource,
    QueryOptions, Secret, Signal, SourceOptions, Timeouts, TlsOptions,
};

use crate::config::{AuthConfig, Config, PricesConfig, PrometheusConfig, ServiceConfig};

/// Telemetry from Prometheus, with prices from wherever they come.
pub(super) struct PricedSource {
    prometheus: Arc<PrometheusSource>,
    prices: Option<Mutex<PriceBook>>,
}

impl PricedSource {
    pub(super) fn new(prometheus: Arc<PrometheusSource>, prices: Option<PriceBook>) -> Self {
        Self { prometheus, prices: prices.map(Mutex::new) }
    }
}

impl MetricsSource for PricedSource {
    fn collect<'a>(
        &'a self,
        topology: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, Result<Telemetry, ObserveError>> {
        Box::pin(async move {
            let Some(prices) = &self.prices else { return self.prometheus.collect(topology, window).await };
            let mut prices = prices.lock().await;
            // What could not be read becomes a warning of the telemetry below.
            let (telemetry, _) =
                tokio::join!(self.prometheus.collect(topology, window), prices.poll(window.at));
            let mut telemetry = telemetry?;
            prices.apply(topology, &mut telemetry);
            Ok(telemetry)
        })
    }
}

/// The connection to Prometheus as configured.
pub(crate) fn http_options(config: &PrometheusConfig) -> HttpOptions {
    connection(&config.url, config.timeout_ms, &config.headers, &config.auth)
}

fn connection(
    url: &str,
    timeout_ms: f64,
    headers: &BTreeMap<String, String>,
    auth: &AuthConfig,
) -> HttpOptions {
    let mut options = HttpOptions::new(url);
    options.deadline = Duration::from_secs_f64(timeout_ms * 1e-3);
    options.auth = match (&auth.username, &auth.password_file, &auth.bearer_token_file) {
        (Some(username), Some(file), _) => {
            Auth::Basic { username: username.clone(), password: Secret::File(file.clone()) }
        }
        (_, _, Some(file)) => Auth::Bearer { token: Secret::File(file.clone()) },
        _ => Auth::None,
    };
    options.headers =
        headers.iter().map(|(name, value)| (name.clone(), Secret::Text(value.clone()))).collect();
    options.tls = TlsOptions {
        ca_file: auth.ca_file.clone(),
        client_certificate: auth.cert_file.clone().zip(auth.key_file.clone()),
    };
    options
}

/// Which label values stand for which names.
pub(crate) fn label_map(config: &Config, services: &[ServicePlan]) -> LabelMap {
    let hosts: BTreeMap<String, String> = services
        .iter()
        .flat_map(|service| &service.endpoints)
        .flat_map(|endpoint| {
            endpoint
                .hosts
                .iter()
                .map(|host| (format!("{}:{}", host.address, host.port), endpoint.name.clone()))
        })
        .collect();
    LabelMap { source_label: config.metrics.prometheus.source_label.clone(), hosts, ..LabelMap::default() }
}

/// After what time a request to each service counts as timed out.
pub(super) fn timeouts(config: &Config) -> Timeouts {
    let of = |service: &ServiceConfig| Duration::from_secs_f64(service.timeout_ms * 1e-3);
    Timeouts { default: None, services: config.services.iter().map(|s| (s.name.clone(), of(s))).collect() }
}

/// The metrics source as configured.
///
/// # Errors
/// [`PromError`] for a URL or certificate that cannot be used.
pub(super) fn prometheus(
    config: &Config,
    services: &[ServicePlan],
) -> Result<Arc<PrometheusSource>, PromError> {
    let prometheus = &config.metrics.prometheus;
    let client = PromClient::new(http_options(prometheus))?;
    let options = SourceOptions {
        labels: label_map(config, services),
        queries: QueryOptions {
            histograms: if prometheus.native_histograms { Histograms::Native } else { Histograms::Classic },
            ..QueryOptions::default()
        },
        signals: prometheus
            .signals
            .iter()
            .map(|signal| Signal {
                name: signal.name.clone(),
                query: signal.query.clone(),
                label: signal.label.clone(),
                freshness: None,
            })
            .collect(),
        timeouts: timeouts(config),
        ..SourceOptions::default()
    };
    Ok(Arc::new(PrometheusSource::new(client, options)))
}

/// Prices as configured.
///
/// # Errors
/// [`PromError`] for a URL, header or certificate that cannot be used.
pub(super) fn price_book(config: &PricesConfig) -> Result<PriceBook, PromError> {
    let book = PriceBook::new();
    match (&config.file, &config.url) {
        (Some(file), _) => Ok(book.with_file(file)),
        (_, Some(url)) => {
            let options = connection(url, config.timeout_ms, &config.headers, &config.auth);
            book.with_http(options, Duration::from_secs_f64(config.refresh_s))
        }
        _ => Ok(book),
    }
}
