//! Which sources, services and endpoints does the rig have?

use serde_json::{Value, json};

/// The two source regions, each with an Envoy of its own.
pub(crate) const SOURCES: [&str; 2] = ["us-east", "eu-central"];

/// One endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint {
    /// Its name.
    pub name: &'static str,
    /// Median time to serve a request, milliseconds.
    pub median_ms: f64,
    /// Requests served at a time; more wait.
    pub concurrency: usize,
    /// Capacity that the controller is told, requests/s.
    pub capacity_rps: f64,
    /// Price that the controller is told, $ per million requests.
    pub price: f64,
    /// Round-trip time from each source, milliseconds. Backends really wait that long.
    pub rtt_ms: [f64; 2],
}

/// One service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service {
    /// Its name.
    pub name: &'static str,
    /// After this long Envoy gives a request up.
    pub timeout_ms: u32,
    /// Whether it speaks gRPC.
    pub http2: bool,
    /// Requests per second from each source.
    pub rate_rps: f64,
    /// Its endpoints.
    pub endpoints: &'static [Endpoint],
}

const fn endpoint(
    name: &'static str,
    median_ms: f64,
    concurrency: usize,
    capacity_rps: f64,
    price: f64,
    rtt_ms: [f64; 2],
) -> Endpoint {
    Endpoint { name, median_ms, concurrency, capacity_rps, price, rtt_ms }
}

/// The service of most claims. Its slots are ample, so that a brown-out of × 10 slows requests down and
/// does not pile them up until they time out: what then fails would not be the move's fault, nor show it.
/// Each source has two endpoints near by, and either can take all of its traffic: when one browns out, latency
/// can be what it was before.
pub(crate) const WEB: Service = Service {
    name: "web",
    timeout_ms: 3000,
    http2: false,
    rate_rps: 150.0,
    endpoints: &[
        endpoint("us-a", 20.0, 64, 300.0, 3.0, [2.0, 30.0]),
        endpoint("us-b", 25.0, 64, 300.0, 2.0, [2.0, 30.0]),
        endpoint("eu-a", 20.0, 64, 300.0, 3.0, [30.0, 2.0]),
        endpoint("eu-b", 25.0, 64, 300.0, 2.0, [30.0, 2.0]),
        endpoint("ap-a", 60.0, 64, 300.0, 1.0, [50.0, 50.0]),
    ],
};

/// The service with an endpoint that times out.
pub(crate) const PAY: Service = Service {
    name: "pay",
    timeout_ms: 300,
    http2: false,
    rate_rps: 40.0,
    endpoints: &[
        endpoint("pay-a", 8.0, 64, 150.0, 2.0, [2.0, 2.0]),
        endpoint("pay-b", 16.0, 64, 150.0, 2.0, [2.0, 2.0]),
        endpoint("pay-c", 30.0, 64, 150.0, 2.0, [2.0, 2.0]),
    ],
};

/// The service of the proxyless gRPC client; its backends are in Python.
pub(crate) const ECHO: Service = Service {
    name: "echo",
    timeout_ms: 3000,
    http2: true,
    rate_rps: 40.0,
    endpoints: &[
        endpoint("echo-a", 4.0, 16, 150.0, 2.0, [0.0, 0.0]),
        endpoint("echo-b", 25.0, 16, 150.0, 2.0, [0.0, 0.0]),
        endpoint("echo-c", 60.0, 16, 150.0, 2.0, [0.0, 0.0]),
    ],
};

impl Service {
    /// Static shares: proportional to the capacities that the controller is told.
    pub(crate) fn static_shares(&self) -> Vec<f64> {
        let sum: f64 = self.endpoints.iter().map(|e| e.capacity_rps).sum();
        self.endpoints.iter().map(|e| e.capacity_rps / sum).collect()
    }

    /// Position of an endpoint.
    pub(crate) fn position(&self, endpoint: &str) -> Option<usize> {
        self.endpoints.iter().position(|e| e.name == endpoint)
    }
}

/// Where things listen: known only at run time.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    /// The service.
    pub service: Service,
    /// Port of each endpoint.
    pub backends: Vec<u16>,
    /// Port of each source's listener.
    pub listeners: [u16; 2],
}

/// The service as `traflux.yaml` has it.
pub(crate) fn service_config(placed: &Placed) -> Value {
    let service = &placed.service;
    let endpoints: Vec<Value> = service
        .endpoints
        .iter()
        .zip(&placed.backends)
        .map(|(endpoint, port)| {
            json!({
                "name": endpoint.name,
                "address": format!("127.0.0.1:{port}"),
                "capacity_rps": endpoint.capacity_rps,
                "price_usd_per_million": endpoint.price,
                "domain": endpoint.name,
            })
        })
        .collect();
    json!({
        "name": service.name,
        "timeout_ms": service.timeout_ms,
        "http2": service.http2,
        "listen_by_source": {
            SOURCES[0]: format!("127.0.0.1:{}", placed.listeners[0]),
            SOURCES[1]: format!("127.0.0.1:{}", placed.listeners[1]),
        },
        "endpoints": endpoints,
    })
}

/// The sources as `traflux.yaml` has them.
pub(crate) fn sources_config(placed: &[Placed]) -> Value {
    let sources = SOURCES.iter().enumerate().map(|(ix, name)| {
        let rtt: serde_json::Map<String, Value> = placed
            .iter()
            .flat_map(|p| p.service.endpoints)
            .map(|e| (e.name.to_owned(), json!(e.rtt_ms[ix])))
            .collect();
        json!({ "name": name, "rtt_ms": rtt })
    });
    Value::Array(sources.collect())
}
