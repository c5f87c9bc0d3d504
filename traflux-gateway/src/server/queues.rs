//! How are queues told to whoever operates the gateway?

use std::time::Duration;

use serde::Serialize;
use traflux_core::Timestamp;

use crate::engine::{Engine, QueueReading, QueuedReading, WaitingLoad};

/// Requests and tenants of each queue that are shown unless `limit` says otherwise, and the most that it may say.
const USUAL: usize = 100;
const MOST: usize = 1000;

#[derive(Serialize)]
struct Document {
    queues: Vec<Queue>,
}

#[derive(Serialize)]
struct Queue {
    backends: Vec<String>,
    former: bool,
    #[serde(flatten)]
    load: Load,
    bands: Vec<Band>,
    tenants: Vec<Tenant>,
    requests: Vec<Request>,
}

#[derive(Serialize)]
struct Load {
    waiting: u64,
    tokens: u64,
    oldest_ms: Option<f64>,
}

#[derive(Serialize)]
struct Band {
    band: String,
    #[serde(flatten)]
    load: Load,
}

#[derive(Serialize)]
struct Tenant {
    tenant: Option<String>,
    #[serde(flatten)]
    load: Load,
}

#[derive(Serialize)]
struct Request {
    /// A text, for not every reader of JSON has whole numbers of 64 bits.
    id: String,
    rule: String,
    band: String,
    tenant: Option<String>,
    /// Requests that are expected to start before it.
    position: u32,
    waited_ms: f64,
    eta_ms: Option<f64>,
}

/// The queues as JSON; for a query that cannot be, what is wrong with it.
pub(super) fn answer(engine: &Engine, now: Timestamp, query: &str) -> Result<String, String> {
    let mut most = USUAL;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "limit" {
            return Err(format!("unknown parameter `{name}`\n"));
        }
        most = value
            .parse()
            .ok()
            .filter(|most| *most <= MOST)
            .ok_or_else(|| format!("limit is `{value}`, expected a whole number of at most {MOST}\n"))?;
    }
    let queues = engine.queues(now, most).into_iter().map(Queue::from).collect();
    // Texts and finite numbers serialise always.
    Ok(serde_json::to_string(&Document { queues }).unwrap_or_default() + "\n")
}

impl From<QueueReading> for Queue {
    fn from(reading: QueueReading) -> Self {
        let QueueReading { backends, former, load, bands, tenants, requests } = reading;
        let bands = bands.into_iter().map(|(band, load)| Band { band, load: load.into() });
        let tenants = tenants.into_iter().map(|(tenant, load)| Tenant { tenant, load: load.into() });
        Self {
            backends,
            former,
            load: load.into(),
            bands: bands.collect(),
            tenants: tenants.collect(),
            requests: requests.into_iter().map(Request::from).collect(),
        }
    }
}

impl From<WaitingLoad> for Load {
    fn from(load: WaitingLoad) -> Self {
        Self { waiting: load.requests, tokens: load.tokens, oldest_ms: load.oldest.map(millis) }
    }
}

impl From<QueuedReading> for Request {
    fn from(queued: QueuedReading) -> Self {
        Self {
            id: queued.ticket.get().to_string(),
            rule: queued.rule.to_string(),
            band: queued.band,
            tenant: queued.tenant,
            position: queued.outlook.position,
            waited_ms: millis(queued.waited),
            eta_ms: queued.outlook.starts_in.map(millis),
        }
    }
}

/// To the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
