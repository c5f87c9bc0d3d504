//! Which backends may serve a request, and how is one chosen?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::balance::RouteBalancePlan;
use super::form::{FromText, millis, one_or_many, text_or_map};
use super::matching::MatchPlan;

/// Rules, and what holds where they say nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RoutingPlan {
    /// Algorithm of a rule that names none.
    pub strategy: Algorithm,
    /// Rules. The first that matches in the order of falling priority, then of the list, decides.
    pub rules: Vec<RulePlan>,
    /// Where a request goes that no rule matches; without it such a request is answered with 404.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<RoutePlan>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RulePlan {
    /// Unique among the rules; a label of metrics and traces.
    pub name: String,
    /// Rules of higher priority are tried first.
    #[serde(default)]
    pub priority: i32,
    /// Which requests; every one without it.
    #[serde(default, rename = "match", skip_serializing_if = "MatchPlan::is_any")]
    pub matches: MatchPlan,
    /// Where they go.
    pub route: RoutePlan,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RoutePlan {
    /// Backends among which the algorithm chooses; one name or a list of names or of `{ name, weight }`.
    #[serde(deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<WeightedBackend>"))]
    pub backend: Vec<WeightedBackend>,
    /// Weight of each backend that has none of its own.
    #[serde(default = "one")]
    pub weight: u32,
    /// Goes before the strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// What of `balance` holds otherwise here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<RouteBalancePlan>,
    /// Whether backends are probed and unhealthy ones left out (`true`), nothing of the kind is done (`false`), or
    /// only what requests show counts (absent).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<bool>,
    /// Time after which a request counts as failed, streams excepted once they began.
    #[serde(
        default,
        rename = "timeout_ms",
        with = "millis::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub timeout: Option<Duration>,
    /// Backends to turn to, in this order, when none of the first can serve; one name or a list of names or of
    /// `{ backend, on, budget }`.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<FallbackPlan>"))]
    pub fallback: Vec<FallbackPlan>,
    /// Band of the queue that its requests wait in; without it the queue decides by the user's tier and the kind of
    /// request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub band: Option<String>,
    /// What a request is worth, in any unit, where a band's order is `value_density`; 1 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u32>,
}

const fn one() -> u32 {
    1
}

impl RoutePlan {
    /// A route to backends of equal weight, everything else as usual.
    #[must_use]
    pub fn to<I: IntoIterator<Item = S>, S: Into<String>>(backends: I) -> Self {
        Self {
            backend: backends
                .into_iter()
                .map(|name| WeightedBackend { name: name.into(), weight: None })
                .collect(),
            weight: one(),
            algorithm: None,
            balance: None,
            health_check: None,
            timeout: None,
            fallback: Vec::new(),
            band: None,
            value: None,
        }
    }

    /// The same with an algorithm.
    #[must_use]
    pub fn by(self, algorithm: Algorithm) -> Self {
        Self { algorithm: Some(algorithm), ..self }
    }

    /// Names of all its backends, those to turn to last.
    pub fn backend_names(&self) -> impl Iterator<Item = &str> {
        let first = self.backend.iter().map(|b| b.name.as_str());
        first.chain(self.fallback.iter().map(|f| f.backend.as_str()))
    }

    /// Backends with the weights that hold.
    pub fn weights(&self) -> impl Iterator<Item = (&str, u32)> {
        self.backend.iter().map(|b| (b.name.as_str(), b.weight.unwrap_or(self.weight)))
    }
}

/// A backend of a route. In short, its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "BackendSchema"))]
pub struct WeightedBackend {
    /// Name among the backends.
    pub name: String,
    /// Weight against the others of the route; that of the route without it, and 0 sends nothing there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct BackendForm {
    /// Name among the backends.
    name: String,
    /// Weight against the others of the route; that of the route without it, and 0 sends nothing there.
    weight: Option<u32>,
}

/// The name of a backend, or its name and weight.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum BackendSchema {
    Name(String),
    Long(BackendForm),
}

impl TryFrom<BackendForm> for WeightedBackend {
    type Error = String;

    fn try_from(form: BackendForm) -> Result<Self, String> {
        Ok(Self { name: form.name, weight: form.weight })
    }
}

impl FromText for WeightedBackend {
    const EXPECTED: &'static str = "the name of a backend, or a map with `name` and `weight`";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self { name: text.to_owned(), weight: None })
    }
}

impl<'de> Deserialize<'de> for WeightedBackend {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map::<Self, BackendForm, D>(deserializer)
    }
}

/// A backend to turn to when those before it cannot serve. In short, its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "FallbackSchema"))]
pub struct FallbackPlan {
    /// Name among the backends.
    pub backend: String,
    /// Why requests may come here; for every cause when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<FallbackCause>,
    /// How much may come here; no bound without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<FallbackBudget>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct FallbackForm {
    /// Name among the backends.
    backend: String,
    /// Why requests may come here; for every cause when empty.
    #[serde(default)]
    on: Vec<FallbackCause>,
    /// How much may come here; no bound without it.
    budget: Option<FallbackBudget>,
}

/// The name of a backend, or its name with causes and a budget.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum FallbackSchema {
    Name(String),
    Long(FallbackForm),
}

impl TryFrom<FallbackForm> for FallbackPlan {
    type Error = String;

    fn try_from(form: FallbackForm) -> Result<Self, String> {
        Ok(Self { backend: form.backend, on: form.on, budget: form.budget })
    }
}

impl FromText for FallbackPlan {
    const EXPECTED: &'static str = "the name of a backend, or a map with `backend`, `on` and `budget`";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self { backend: text.to_owned(), on: Vec::new(), budget: None })
    }
}

impl<'de> Deserialize<'de> for FallbackPlan {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map::<Self, FallbackForm, D>(deserializer)
    }
}

/// Why a request looks for another backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FallbackCause {
    /// An attempt failed.
    Failed,
    /// No answer in time.
    Timeout,
    /// No capacity: refused, cooling down, full.
    Capacity,
    /// No endpoint is healthy.
    Unhealthy,
    /// No backend before it serves the model.
    NoModel,
    /// The request is longer than the context of the model at any backend before it.
    Context,
}

/// How much may fall on a backend that stands in for others. Both bounds hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FallbackBudget {
    /// How far back requests count.
    #[serde(rename = "window_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub window: Duration,
    /// Requests that may come here per request of the route, from 0 to 10.
    pub ratio: f64,
    /// Requests per second that may come here besides.
    pub min_per_second: f64,
    /// Requests in flight that came here; no bound of its own without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
}

impl Default for FallbackBudget {
    fn default() -> Self {
        Self { window: Duration::from_secs(10), ratio: 1.0, min_per_second: 1.0, max_in_flight: None }
    }
}

impl FallbackBudget {
    /// What is wrong with it: its key and the problem.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        if self.window.is_zero() {
            return Some(("window_ms", "a window of 0 ms holds nothing".into()));
        }
        if !(0.0..=10.0).contains(&self.ratio) {
            return Some(("ratio", format!("{} is outside [0, 10]", self.ratio)));
        }
        if !(0.0..=1e6).contains(&self.min_per_second) {
            return Some(("min_per_second", format!("{} is outside [0, 1000000]", self.min_per_second)));
        }
        (self.max_in_flight == Some(0)).then(|| ("max_in_flight", "0 lets nothing through".into()))
    }
}

/// How one of several is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// By weight, evenly spaced.
    RoundRobin,
    /// By weight, independently at random.
    Weighted,
    /// The less busy, per weight, of all or, among many, of `balance.choices` drawn by weight.
    #[serde(alias = "least-request")]
    LeastConnections,
    /// The better, compared so, in expected latency times requests in flight.
    LeastLatency,
    /// The cheapest in expected dollars among those that keep the latency limit and have quota left.
    LeastCost,
    /// The fastest of those that are not hot by requests in flight (Prequal).
    HotCold,
    /// By a hash of the affinity key, bounded by load.
    ConsistentHash,
    /// By weights from the controller; without one, the least expected latency under load and errors, weighed by price.
    #[default]
    Adaptive,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::RoundRobin,
        Self::Weighted,
        Self::LeastConnections,
        Self::LeastLatency,
        Self::LeastCost,
        Self::HotCold,
        Self::ConsistentHash,
        Self::Adaptive,
    ];

    /// Its name in configuration, metrics and traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Weighted => "weighted",
            Self::LeastConnections => "least-connections",
            Self::LeastLatency => "least-latency",
            Self::LeastCost => "least-cost",
            Self::HotCold => "hot-cold",
            Self::ConsistentHash => "consistent-hash",
            Self::Adaptive => "adaptive",
        }
    }
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
