//! Asks a Prometheus what it knows of a fleet, and prints the telemetry and the queries behind it.
//!
//! ```text
//! cargo run -p traflux-prom --example ask -- http://127.0.0.1:9090 10 us/checkout=a,b,c eu/checkout=a,b,c
//! ```
//!
//! The second argument is the window in seconds; what follows are flows as `source/service=endpoint,…`.
//! `TRAFLUX_TIMEOUT_MS` sets the route timeout, `TRAFLUX_NATIVE=1` asks for native histograms;
//! `TRAFLUX_CA` names a file with the authority to trust, `TRAFLUX_USER` and `TRAFLUX_PASSWORD_FILE` log in.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use traflux_core::{
    Consumption, Flow, HourlyPrice, Latency, Measurements, MetricsSource, Rate, Resource, Route, Timestamp,
    Topology, UnitPrice, Window,
};
use traflux_prom::{Auth, Histograms, HttpOptions, PromClient, PrometheusSource, Secret, SourceOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(seconds)) = (arguments.next(), arguments.next()) else {
        return Err("usage: ask URL WINDOW_SECONDS SOURCE/SERVICE=ENDPOINT,… …".into());
    };
    let topology = parse_topology(arguments)?;
    let window = Window {
        at: Timestamp::new(SystemTime::now().duration_since(UNIX_EPOCH)?),
        length: Duration::from_secs_f64(seconds.parse()?),
    };
    let mut options = SourceOptions::default();
    if std::env::var_os("TRAFLUX_NATIVE").is_some() {
        options.queries.histograms = Histograms::Native;
    }
    if let Ok(millis) = std::env::var("TRAFLUX_TIMEOUT_MS") {
        options.timeouts.default = Some(Duration::from_millis(millis.parse()?));
    }
    let mut http = HttpOptions::new(url);
    http.tls.ca_file = std::env::var_os("TRAFLUX_CA").map(Into::into);
    if let (Ok(username), Some(file)) =
        (std::env::var("TRAFLUX_USER"), std::env::var_os("TRAFLUX_PASSWORD_FILE"))
    {
        http.auth = Auth::Basic { username, password: Secret::File(file.into()) };
    }
    let source = PrometheusSource::new(PromClient::new(http)?, options);
    println!("prometheus {}", source.client().version().await?);
    for (name, query) in source.queries(window.length).named() {
        match source.client().instant(query).await {
            Ok(answer) => println!("{name}: {} series\n  {query}", answer.samples().len()),
            Err(error) => println!("{name}: {error}\n  {query}"),
        }
    }
    let started = std::time::Instant::now();
    let telemetry = source.collect(&topology, window).await?;
    println!("collected in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    println!(
        "{:24} {:>9} {:>9} {:>9} {:>7} {:>7} {:>7} {:>6}",
        "", "req/s", "mean ms", "p95 ms", "errors", "cens.", "in fl.", "age s"
    );
    for (route, measured) in topology.routes().iter().zip(&telemetry.routes) {
        print_row(&route.name, &measured.measured, None);
    }
    for (resource, measured) in topology.resources().iter().zip(&telemetry.resources) {
        print_row(&resource.name, &measured.measured, measured.healthy);
    }
    for warning in &telemetry.warnings {
        println!("warning: {warning}");
    }
    Ok(())
}

fn print_row(name: &str, measured: &Measurements, healthy: Option<bool>) {
    let number = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "-".into(),
    };
    println!(
        "{name:24} {:>9} {:>9} {:>9} {:>7} {:>7} {:>7} {:>6} {}",
        number(measured.throughput.map(|r| r.value.get()), 2),
        number(measured.latency_mean.map(|r| r.value.as_millis()), 2),
        number(measured.latency_p95.map(|r| r.value.as_millis()), 2),
        number(measured.error_ratio.map(|r| r.value), 4),
        number(measured.censored_ratio.map(|r| r.value), 4),
        number(measured.concurrency.map(|r| r.value), 2),
        number(measured.age().map(|age| age.as_secs_f64()), 3),
        healthy.map_or("", |healthy| if healthy { "healthy" } else { "unhealthy" }),
    );
}

fn parse_topology(specifications: impl Iterator<Item = String>) -> Result<Topology, Box<dyn Error>> {
    let mut builder = Topology::builder();
    let mut known = BTreeMap::new();
    for specification in specifications {
        let (name, endpoints) = specification.split_once('=').ok_or("a flow is SOURCE/SERVICE=ENDPOINT,…")?;
        let (source, service) = name.split_once('/').ok_or("a flow is SOURCE/SERVICE=ENDPOINT,…")?;
        let flow =
            builder.add_flow(Flow { name: name.into(), source: source.into(), service: service.into() });
        for endpoint in endpoints.split(',') {
            let (resource, group) = *known.entry(endpoint.to_owned()).or_insert_with(|| {
                let resource = Resource {
                    name: endpoint.into(),
                    capacity: Rate::per_second(1.0),
                    concurrency: None,
                    service_time: None,
                    domain: None,
                    hourly_price: HourlyPrice::ZERO,
                };
                builder.add_endpoint(resource, 0)
            });
            builder.add_route(Route {
                name: format!("{name}/{endpoint}"),
                flow,
                group,
                consumption: vec![Consumption { resource, per_request: 1.0 }],
                delay: Latency::ZERO,
                price: UnitPrice::ZERO,
            });
        }
    }
    Ok(builder.build()?)
}
