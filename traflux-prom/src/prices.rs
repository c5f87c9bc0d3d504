//! What does traffic cost now?
//!
//! A [`PriceBook`] holds layers: values from the configuration, a JSON or CSV file, an HTTP address that
//! answers JSON. A later layer overrides an earlier one where it says something. [`PriceBook::poll`] reads
//! again what may have changed; a layer that fails keeps its last good prices, with a warning and their age.
//!
//! ```
//! use traflux_core::UnitPrice;
//! use traflux_prom::{PriceBook, PriceEntry};
//!
//! let book = PriceBook::new().with_values(vec![PriceEntry {
//!     endpoint: "aws-eu".into(),
//!     source: Some("us".into()),
//!     service: None,
//!     usd_per_million: Some(UnitPrice::per_million(1.8)),
//!     usd_per_hour: None,
//! }])?;
//! assert_eq!(book.route_price("us", "checkout", "aws-eu"), Some(UnitPrice::per_million(1.8)));
//! assert_eq!(book.route_price("eu", "checkout", "aws-eu"), None);
//! # Ok::<(), traflux_prom::PromError>(())
//! ```
//!
//! JSON is a list of entries, or an object `{"prices": […]}`. CSV has a header line with some of `endpoint`,
//! `source`, `service`, `usd_per_million`, `usd_per_hour`; an empty field says nothing; `#` starts a comment.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use traflux_core::{HourlyPrice, Telemetry, Timestamp, Topology, UnitPrice};

use crate::error::PromError;
use crate::http::{Http, HttpOptions, read_bounded};

/// The largest list of prices that is read from a file.
const FILE_LIMIT: u64 = 16 * 1024 * 1024;

/// Prices of one endpoint, for all or some of those that send to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceEntry {
    /// The endpoint: the name of its resource.
    pub endpoint: String,
    /// Only for traffic from this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Only for traffic to this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Marginal price of the route: egress plus what the endpoint charges per request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_million: Option<UnitPrice>,
    /// Paid per hour, used or not; of the endpoint, so without source and service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_hour: Option<HourlyPrice>,
}

/// What a poll did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PricePoll {
    /// Whether any price may differ from before.
    pub changed: bool,
    /// What could not be read; the last good prices stay.
    pub errors: Vec<PromError>,
}

/// Marginal and hourly prices in layers.
#[derive(Debug, Default)]
pub struct PriceBook {
    layers: Vec<Layer>,
    prices: Prices,
}

impl PriceBook {
    /// A book that knows no price.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds fixed prices.
    ///
    /// # Errors
    /// [`PromError::Prices`] for an entry without a price, a price given twice, or an hourly price of a source.
    pub fn with_values(mut self, entries: Vec<PriceEntry>) -> Result<Self, PromError> {
        let entries = checked(entries).map_err(|reason| refused("the configuration", reason))?;
        self.layers.push(Layer { origin: Origin::Values, entries, state: State::default() });
        self.rebuild();
        Ok(self)
    }

    /// Adds a file, CSV if its name ends in `.csv`, else JSON. It is read on every poll and taken when its
    /// content changed, whatever its time stamp says.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.layers.push(Layer {
            origin: Origin::File(path.into()),
            entries: Vec::new(),
            state: State::default(),
        });
        self
    }

    /// Adds an address that answers JSON to GET, asked at most once per `every`.
    ///
    /// # Errors
    /// As [`crate::PromClient::new`].
    pub fn with_http(mut self, options: HttpOptions, every: Duration) -> Result<Self, PromError> {
        let http = Box::new(Http::new(options)?);
        self.layers.push(Layer {
            origin: Origin::Http { http, every },
            entries: Vec::new(),
            state: State::default(),
        });
        Ok(self)
    }

    /// Reads again what may have changed. Never fails as a whole: see [`PricePoll::errors`].
    pub async fn poll(&mut self, now: Timestamp) -> PricePoll {
        let mut poll = PricePoll::default();
        for layer in &mut self.layers {
            match layer.poll(now).await {
                Ok(changed) => poll.changed |= changed,
                Err(error) => {
                    tracing::warn!(code = error.code(), %error, "prices kept from before");
                    layer.state.failure = Some(error.to_string());
                    poll.errors.push(error);
                }
            }
        }
        if poll.changed {
            self.rebuild();
        }
        poll
    }

    /// The age of the layer that was read longest ago; zero when all are fixed, `None` when one was never read.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        self.layers
            .iter()
            .map(|layer| layer.age(now))
            .try_fold(Duration::ZERO, |oldest, age| Some(oldest.max(age?)))
    }

    /// The marginal price of a route. An entry for source and service wins over one for the source, that over
    /// one for the service, that over one for all.
    #[must_use]
    pub fn route_price(&self, source: &str, service: &str, endpoint: &str) -> Option<UnitPrice> {
        let candidates = self.prices.routes.get(endpoint)?;
        let fits =
            |given: &Option<String>, actual: &str| given.as_deref().is_none_or(|given| given == actual);
        candidates
            .iter()
            .filter(|price| fits(&price.source, source) && fits(&price.service, service))
            .max_by_key(|price| (price.specificity(), price.layer))
            .map(|price| price.price)
    }

    /// The hourly price of an endpoint.
    #[must_use]
    pub fn hourly_price(&self, endpoint: &str) -> Option<HourlyPrice> {
        self.prices.hourly.get(endpoint).copied()
    }

    /// Puts the prices into telemetry, and a warning for each layer whose last reading failed.
    ///
    /// Endpoints are resources by name: that of the first resource that a route consumes.
    pub fn apply(&self, topology: &Topology, telemetry: &mut Telemetry) {
        for (route, measured) in topology.routes().iter().zip(&mut telemetry.routes) {
            let Some(endpoint) = route.consumption.first() else { continue };
            let flow = &topology.flows()[route.flow.ix()];
            let endpoint = &topology.resources()[endpoint.resource.ix()].name;
            if let Some(price) = self.route_price(&flow.source, &flow.service, endpoint) {
                measured.price = Some(price);
            }
        }
        for (resource, measured) in topology.resources().iter().zip(&mut telemetry.resources) {
            if let Some(price) = self.hourly_price(&resource.name) {
                measured.hourly_price = Some(price);
            }
        }
        let now = telemetry.at;
        for layer in &self.layers {
            if let Some(failure) = &layer.state.failure {
                let kept = match layer.age(now) {
                    Some(age) => format!("those read {:.0} s ago stay", age.as_secs_f64()),
                    None => "none were ever read".to_owned(),
                };
                telemetry.warnings.push(format!("{failure}; {kept}"));
            }
        }
    }

    fn rebuild(&mut self) {
        let mut prices = Prices::default();
        for (ix, layer) in self.layers.iter().enumerate() {
            for entry in &layer.entries {
                if let Some(price) = entry.usd_per_million {
                    prices.routes.entry(entry.endpoint.clone()).or_default().push(RoutePrice {
                        source: entry.source.clone(),
                        service: entry.service.clone(),
                        layer: ix,
                        price,
                    });
                }
                if let Some(price) = entry.usd_per_hour {
                    prices.hourly.insert(entry.endpoint.clone(), price);
                }
            }
        }
        self.prices = prices;
    }
}

#[derive(Debug, Default)]
struct Prices {
    routes: HashMap<String, Vec<RoutePrice>>,
    hourly: HashMap<String, HourlyPrice>,
}

#[derive(Debug)]
struct RoutePrice {
    source: Option<String>,
    service: Option<String>,
    layer: usize,
    price: UnitPrice,
}

impl RoutePrice {
    fn specificity(&self) -> u8 {
        2 * u8::from(self.source.is_some()) + u8::from(self.service.is_some())
    }
}

#[derive(Debug)]
enum Origin {
    Values,
    File(PathBuf),
    Http { http: Box<Http>, every: Duration },
}

#[derive(Debug, Default)]
struct State {
    /// Hash of the content that the entries come from.
    content: Option<[u8; 32]>,
    /// When the entries were last confirmed.
    read: Option<Timestamp>,
    /// When it was last tried.
    tried: Option<Timestamp>,
    /// Why the last reading failed.
    failure: Option<String>,
}

#[derive(Debug)]
struct Layer {
    origin: Origin,
    entries: Vec<PriceEntry>,
    state: State,
}

impl Layer {
    fn age(&self, now: Timestamp) -> Option<Duration> {
        match self.origin {
            Origin::Values => Some(Duration::ZERO),
            Origin::File(_) | Origin::Http { .. } => self.state.read.map(|read| now.since(read)),
        }
    }

    async fn poll(&mut self, now: Timestamp) -> Result<bool, PromError> {
        let (bytes, origin, csv) = match &self.origin {
            Origin::Values => return Ok(false),
            Origin::File(path) => {
                let bytes = read_bounded(path, FILE_LIMIT)
                    .map_err(|error| refused(&shown(path), reason_of(error)))?;
                let csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
                (bytes, shown(path), csv)
            }
            Origin::Http { http, every } => {
                // A clock that jumped back must not stop the polling.
                if self.state.tried.is_some_and(|tried| now >= tried && now.since(tried) < *every) {
                    return Ok(false);
                }
                self.state.tried = Some(now);
                let reply = http.send(Method::GET, "", None).await?;
                if let Some(error) = http.status_error(reply.status, &String::from_utf8_lossy(&reply.body)) {
                    return Err(error);
                }
                if reply.status / 100 != 2 {
                    return Err(refused(http.host(), format!("answered with status {}", reply.status)));
                }
                (reply.body, http.host().to_owned(), false)
            }
        };
        let content: [u8; 32] = Sha256::digest(&bytes).into();
        let changed = self.state.content != Some(content);
        if changed {
            let entries = if csv { parse_csv(&bytes) } else { parse_json(&bytes) };
            self.entries = entries.and_then(checked).map_err(|reason| refused(&origin, reason))?;
            self.state.content = Some(content);
        }
        self.state.read = Some(now);
        self.state.failure = None;
        Ok(changed)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn refused(origin: &str, reason: String) -> PromError {
    PromError::Prices { origin: origin.to_owned(), reason }
}

fn reason_of(error: PromError) -> String {
    match error {
        PromError::SecretFile { reason, .. } => reason,
        other => other.to_string(),
    }
}

fn parse_json(bytes: &[u8]) -> Result<Vec<PriceEntry>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wrapped {
        prices: Vec<PriceEntry>,
    }
    let object = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let parsed = if object {
        serde_json::from_slice::<Wrapped>(bytes).map(|wrapped| wrapped.prices)
    } else {
        serde_json::from_slice(bytes)
    };
    parsed.map_err(|error| error.to_string())
}

fn parse_csv(bytes: &[u8]) -> Result<Vec<PriceEntry>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(ix, line)| (ix + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let (_, header) = lines.next().ok_or("there is no header line")?;
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    for (ix, column) in columns.iter().enumerate() {
        if !["endpoint", "source", "service", "usd_per_million", "usd_per_hour"].contains(column) {
            return Err(format!("unknown column `{column}`"));
        }
        if columns[..ix].contains(column) {
            return Err(format!("column `{column}` is there twice"));
        }
    }
    let mut entries = Vec::new();
    for (number, line) in lines {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if fields.len() != columns.len() {
            return Err(format!("line {number} has {} fields, the header {}", fields.len(), columns.len()));
        }
        let field = |name: &str| {
            let ix = columns.iter().position(|column| *column == name)?;
            Some(fields[ix]).filter(|field| !field.is_empty())
        };
        let dollars = |name: &str| {
            field(name)
                .map(|text| {
                    text.parse::<f64>().map_err(|_| format!("line {number}: {name} `{text}` is no number"))
                })
                .transpose()
        };
        let invalid = |error: traflux_core::UnitError| format!("line {number}: {error}");
        entries.push(PriceEntry {
            endpoint: field("endpoint").ok_or_else(|| format!("line {number} names no endpoint"))?.to_owned(),
            source: field("source").map(str::to_owned),
            service: field("service").map(str::to_owned),
            usd_per_million: dollars("usd_per_million")?.map(UnitPrice::new).transpose().map_err(invalid)?,
            usd_per_hour: dollars("usd_per_hour")?.map(HourlyPrice::new).transpose().map_err(invalid)?,
        });
    }
    Ok(entries)
}

/// Refuses what cannot be meant.
fn checked(entries: Vec<PriceEntry>) -> Result<Vec<PriceEntry>, String> {
    let mut seen = std::collections::HashSet::new();
    for entry in &entries {
        if entry.usd_per_million.is_none() && entry.usd_per_hour.is_none() {
            return Err(format!("the entry of `{}` has no price", entry.endpoint));
        }
        if entry.usd_per_hour.is_some() && (entry.source.is_some() || entry.service.is_some()) {
            return Err(format!(
                "`{}`: an hourly price belongs to the endpoint, not to a source",
                entry.endpoint
            ));
        }
        for (kind, there) in
            [("million", entry.usd_per_million.is_some()), ("hour", entry.usd_per_hour.is_some())]
        {
            if there && !seen.insert((kind, &entry.endpoint, &entry.source, &entry.service)) {
                return Err(format!("the price per {kind} of `{}` is there twice", entry.endpoint));
            }
        }
    }
    Ok(entries)
}
