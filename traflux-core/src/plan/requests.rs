//! What is decided for each request?

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::affinity::AffinityPlan;
use super::backend::BackendPlan;
use super::balance::BalancePlan;
use super::congestion::CongestionPlan;
use super::control::ControlPlan;
use super::health::HealthPlan;
use super::identity::IdentityPlan;
use super::limit::LimitPlan;
use super::pool::PoolPlan;
use super::queue::QueuePlan;
use super::retry::RetryPlan;
use super::routing::{RoutePlan, RoutingPlan};
use super::server::ServerPlan;
use super::tokens::TokensPlan;
use crate::error::PlanError;

/// What an in-process engine does with each request, and a proxy as far as it can.
///
/// This is also what people write: every field has a default, and short forms are read where
/// [the parts](super) say so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RequestPlan {
    /// Where a gateway listens. An engine inside another program does not look at it.
    pub server: ServerPlan,
    /// Rules.
    pub routing: RoutingPlan,
    /// How algorithms choose.
    pub balance: BalancePlan,
    /// Backends by name. One that a route names and that is not here is known by its name alone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub backends: BTreeMap<String, BackendPlan>,
    /// Clients.
    pub identity: IdentityPlan,
    /// How tokens are told from bytes before anyone has counted them: by a gateway, and by who reads bodies for an engine.
    pub tokens: TokensPlan,
    /// Limits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitPlan>,
    /// Health of endpoints.
    pub health: HealthPlan,
    /// Connections to backends, of a gateway or a proxy; an engine has none.
    pub pool: PoolPlan,
    /// Retries.
    pub retry: RetryPlan,
    /// Sessions; none are kept without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<AffinityPlan>,
    /// Control by what comes back.
    pub congestion: CongestionPlan,
    /// Waiting for room.
    pub queue: QueuePlan,
    /// A controller beside the engine; without it weights under `adaptive` follow what the engine alone observes. An
    /// engine inside another program does not look at it: who puts one together gives it to a controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlPlan>,
}

impl RequestPlan {
    /// All routes with the path of each for messages.
    pub fn routes(&self) -> impl Iterator<Item = (String, &RoutePlan)> {
        let rules = self.routing.rules.iter().enumerate();
        rules
            .map(|(ix, rule)| (format!("routing.rules[{ix}].route"), &rule.route))
            .chain(self.routing.default.iter().map(|route| ("routing.default".to_owned(), route)))
    }

    /// Names of all backends, those that only a route names among them, sorted.
    #[must_use]
    pub fn backend_names(&self) -> BTreeSet<&str> {
        let named = self.routes().flat_map(|(_, route)| route.backend_names());
        self.backends.keys().map(String::as_str).chain(named).collect()
    }

    /// The path of the first key that looks at claims.
    #[must_use]
    pub fn uses_claims(&self) -> Option<String> {
        let claims = &self.identity.trusted_claims;
        let trusted = [("tenant", &claims.tenant), ("user", &claims.user), ("user_tier", &claims.user_tier)]
            .into_iter()
            .filter(|(_, name)| name.is_some())
            .map(|(field, _)| format!("identity.trusted_claims.{field}"));
        let rules = self.routing.rules.iter().map(|rule| &rule.matches).enumerate();
        let rules = rules
            .filter(|(_, matches)| !matches.claims.is_empty())
            .map(|(ix, _)| format!("routing.rules[{ix}].match.claims"));
        let limits = self.limits.iter().map(|limit| &limit.matches).enumerate();
        let limits = limits
            .filter(|(_, matches)| !matches.claims.is_empty())
            .map(|(ix, _)| format!("limits[{ix}].match.claims"));
        trusted.chain(rules).chain(limits).next()
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`PlanError::Key`] with the path of the key, the value and its limit.
    pub fn validate(&self) -> Result<(), PlanError> {
        let wrong = |path: String, problem: String| Err(PlanError::Key { path, problem });
        let mut names = BTreeSet::new();
        for (ix, rule) in self.routing.rules.iter().enumerate() {
            if rule.name.is_empty() || !names.insert(&rule.name) {
                let problem = format!("`{}` is empty or the name of another rule", rule.name);
                return wrong(format!("routing.rules[{ix}].name"), problem);
            }
            // Metrics and decisions name it so.
            if rule.name == "default" && self.routing.default.is_some() {
                let problem = "`default` is the name of the route of routing.default".to_owned();
                return wrong(format!("routing.rules[{ix}].name"), problem);
            }
        }
        for (path, route) in self.routes() {
            if route.backend.is_empty() {
                return wrong(format!("{path}.backend"), "lists no backend".into());
            }
            let mut seen = BTreeSet::new();
            if let Some(twice) = route.backend.iter().find(|b| !seen.insert(&b.name)) {
                return wrong(format!("{path}.backend"), format!("lists `{}` twice", twice.name));
            }
            if route.weights().all(|(_, weight)| weight == 0) {
                return wrong(format!("{path}.weight"), "every backend has weight 0".into());
            }
            if let Some(balance) = &route.balance {
                balance.validate().map_err(|error| error.under(&format!("{path}.balance")))?;
            }
            let mut seen = BTreeSet::new();
            for (ix, fallback) in route.fallback.iter().enumerate() {
                if !seen.insert(&fallback.backend) {
                    let problem = format!("`{}` stands in the chain twice", fallback.backend);
                    return wrong(format!("{path}.fallback[{ix}].backend"), problem);
                }
                if let Some((key, problem)) = fallback.budget.and_then(|budget| budget.problem()) {
                    return wrong(format!("{path}.fallback[{ix}].budget.{key}"), problem);
                }
            }
        }
        let mut names = BTreeSet::new();
        for (ix, limit) in self.limits.iter().enumerate() {
            let path = |key: &str| format!("limits[{ix}].{key}");
            if limit.name.is_empty() || !names.insert(&limit.name) {
                return wrong(
                    path("name"),
                    format!("`{}` is empty or the name of another limit", limit.name),
                );
            }
            let amounts = std::iter::once((path("amount"), limit.amount))
                .chain(limit.burst.map(|burst| (path("burst"), burst)))
                .chain(
                    limit.overrides.iter().map(|(key, amount)| (path(&format!("overrides.{key}")), *amount)),
                );
            for (path, amount) in amounts {
                if !(amount > 0.0 && amount <= LARGEST_AMOUNT) {
                    return wrong(path, format!("{amount} is outside (0, {LARGEST_AMOUNT}]"));
                }
            }
            limit.validate().map_err(|error| error.under(&format!("limits[{ix}]")))?;
        }
        for (name, backend) in &self.backends {
            let prices = std::iter::once(("price".to_owned(), backend.price)).chain(
                backend
                    .models
                    .iter()
                    .filter_map(|(m, p)| p.price.map(|price| (format!("models.{m}.price"), price))),
            );
            for (key, price) in prices {
                let parts = [
                    price.input_dollars_per_million,
                    price.cached_dollars_per_million.unwrap_or(0.0),
                    price.output_dollars_per_million,
                    price.request_dollars,
                ];
                if let Some(bad) = parts.iter().find(|p| !(0.0..=LARGEST_PRICE).contains(*p)) {
                    let problem = format!("{bad} dollars is outside [0, {LARGEST_PRICE}]");
                    return wrong(format!("backends.{name}.{key}"), problem);
                }
            }
        }
        for (name, backend) in &self.backends {
            if backend
                .tls
                .as_ref()
                .is_some_and(|tls| tls.certificate_file.is_some() != tls.key_file.is_some())
            {
                let problem = "`certificate_file` and `key_file` belong together".to_owned();
                return wrong(format!("backends.{name}.tls"), problem);
            }
            if let Some(load) = &backend.load {
                load.validate().map_err(|error| error.under(&format!("backends.{name}.load")))?;
            }
        }
        if let Some(control) = &self.control {
            control.validate(&self.backend_names())?;
        }
        self.server.validate().map_err(|error| error.under("server"))?;
        self.pool.validate().map_err(|error| error.under("pool"))?;
        self.balance.validate().map_err(|error| error.under("balance"))?;
        self.identity.validate().map_err(|error| error.under("identity"))?;
        self.tokens.validate().map_err(|error| error.under("tokens"))?;
        self.health.validate().map_err(|error| error.under("health"))?;
        self.retry.validate().map_err(|error| error.under("retry"))?;
        if let Some(affinity) = &self.affinity {
            affinity.validate().map_err(|error| error.under("affinity"))?;
        }
        self.congestion.validate().map_err(|error| error.under("congestion"))?;
        self.queue.validate().map_err(|error| error.under("queue"))?;
        for (path, route) in self.routes() {
            if let Some(band) = route.band.as_deref().filter(|band| self.queue.band_named(band).is_none()) {
                return wrong(format!("{path}.band"), format!("`{band}` is no band of the queue"));
            }
        }
        Ok(())
    }
}

/// The largest amount of a limit.
const LARGEST_AMOUNT: f64 = 1e15;
/// The largest price, in dollars per million tokens or per request.
const LARGEST_PRICE: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::limit::{CalendarPlan, CalendarWindow, LimitShape};

    fn plan(json: &str) -> RequestPlan {
        serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn short_forms_read_as_what_they_stand_for() {
        let plan = plan(
            r#"{"routing": {"strategy": "adaptive", "rules": [
                {"name": "a", "match": {"headers": {"X-Priority": "critical"}}, "route": {"backend": "x", "weight": 100}},
                {"name": "b", "match": {"path": "/v1", "user_tier": "free"},
                 "route": {"backend": ["x", {"name": "y", "weight": 3}], "algorithm": "least-cost"}}]}}"#,
        );
        assert_eq!(plan.validate(), Ok(()));
        assert_eq!(plan.routing.rules[0].route.weights().collect::<Vec<_>>(), [("x", 100)]);
        assert_eq!(plan.routing.rules[1].route.weights().collect::<Vec<_>>(), [("x", 1), ("y", 3)]);
        assert_eq!(plan.backend_names().into_iter().collect::<Vec<_>>(), ["x", "y"]);
        let json = serde_json::to_string(&plan).unwrap_or_default();
        assert_eq!(serde_json::from_str::<RequestPlan>(&json).ok(), Some(plan));
    }

    #[test]
    fn windows_of_the_calendar_read_in_short_and_with_a_clock() {
        let limit = |shape: &str| {
            format!(r#"{{"limits": [{{"name": "l", "unit": "dollars", "amount": 1, "shape": {shape}}}]}}"#)
        };
        for (shape, every, utc_offset_minutes) in [
            (r#"{"calendar": "day"}"#, CalendarWindow::Day, 0),
            (r#"{"calendar": "week"}"#, CalendarWindow::Week, 0),
            (r#"{"calendar": {"every": "month"}}"#, CalendarWindow::Month, 0),
            (r#"{"calendar": {"every": "month", "utc_offset_minutes": -300}}"#, CalendarWindow::Month, -300),
        ] {
            let plan = plan(&limit(shape));
            assert_eq!(plan.validate(), Ok(()));
            let calendar = CalendarPlan { every, utc_offset_minutes };
            assert_eq!(plan.limits[0].shape, LimitShape::Calendar(calendar));
            let json = serde_json::to_string(&plan).unwrap_or_default();
            assert_eq!(serde_json::from_str::<RequestPlan>(&json).ok(), Some(plan));
        }
        for wrong in
            [r#"{"calendar": "year"}"#, r#"{"calendar": {"utc_offset_minutes": 60}}"#, r#""calendar""#]
        {
            assert!(serde_json::from_str::<RequestPlan>(&limit(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_types_cannot_say_is_refused_with_its_path() {
        for (json, expected) in [
            (r#"{"routing": {"default": {"backend": []}}}"#, "routing.default.backend: lists no backend"),
            (
                r#"{"routing": {"default": {"backend": "x"}, "rules": [{"name": "default", "route": {"backend": "y"}}]}}"#,
                "routing.rules[0].name: `default` is the name of the route of routing.default",
            ),
            (
                r#"{"routing": {"default": {"backend": "x", "weight": 0}}}"#,
                "routing.default.weight: every backend has weight 0",
            ),
            (
                r#"{"routing": {"default": {"backend": "x", "fallback": ["y", {"backend": "y"}]}}}"#,
                "routing.default.fallback[1].backend: `y` stands in the chain twice",
            ),
            (
                r#"{"routing": {"default": {"backend": "x", "fallback": {"backend": "y", "budget": {"ratio": -1}}}}}"#,
                "routing.default.fallback[0].budget.ratio: -1 is outside [0, 10]",
            ),
            (
                r#"{"retry": {"hedge": {"quantile": 1}}}"#,
                "retry.hedge.quantile: 1, expected more than 0, less than 1",
            ),
            (
                r#"{"routing": {"default": {"backend": "x", "balance": {"price_exponent": 9}}}}"#,
                "routing.default.balance.price_exponent: 9, expected 0 to 8",
            ),
            (
                r#"{"balance": {"slow_start": {"aggression": 0}}}"#,
                "balance.slow_start.aggression: 0, expected 0.01 to 100",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "tokens", "amount": -1}]}"#,
                "limits[0].amount: -1 is outside (0, 1000000000000000]",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "overrides": {"acme": 2}}]}"#,
                "limits[0].overrides: `acme`, expected none without `by`",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "by": ["backend", "tenant"], "overrides": {"acme": 2}}]}"#,
                "limits[0].overrides: `acme`, expected `tenant/backend`, in all but the last part `\\/` for a slash",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "shape": {"warm_up": {"cold_factor": 1}}}]}"#,
                "limits[0].shape.warm_up.cold_factor: 1, expected more than 1, at most 1000",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "burst": 20, "shape": "pacing"}]}"#,
                "limits[0].burst: 20, expected none with `pacing`: only `token_bucket` has one",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "burst": 20, "shape": {"warm_up": {}}}]}"#,
                "limits[0].burst: 20, expected none with `warm_up`: only `token_bucket` has one",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "concurrency", "amount": 1, "burst": 2}]}"#,
                "limits[0].burst: 2, expected none with `unit: concurrency`: only `token_bucket` has one",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "period_ms": 0}]}"#,
                "limits[0].period_ms: 0, expected more than 0: a period of 0 ms has no rate",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "shape": "fixed_window", "offset_ms": 60000}]}"#,
                "limits[0].offset_ms: 60000, expected less than period_ms (60000)",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "offset_ms": 1}]}"#,
                "limits[0].offset_ms: 1, expected none with `token_bucket`: only `fixed_window` has one",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "dollars", "amount": 1, "shape": {"calendar": "month"}, "period_ms": 1000}]}"#,
                "limits[0].period_ms: 1000, expected none with `calendar`, whose windows have lengths of their own",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "concurrency", "amount": 1, "shape": {"calendar": "day"}}]}"#,
                "limits[0].shape: calendar, expected none with `unit: concurrency`",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "dollars", "amount": 1, "shape": {"calendar": {"every": "day", "utc_offset_minutes": 900}}}]}"#,
                "limits[0].shape.calendar.utc_offset_minutes: 900, expected -720 to 840",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "by": "tenant", "max_keys": 0}]}"#,
                "limits[0].max_keys: 0, expected 1 to 16777216",
            ),
            (
                r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "max_keys": 5}]}"#,
                "limits[0].max_keys: 5, expected none without `by`",
            ),
            (
                r#"{"tokens": {"models": {"m": {"bytes_per_token": 0}}}}"#,
                "tokens.models.m.bytes_per_token: 0, expected 0.1 to 100",
            ),
            (
                r#"{"server": {"request_timeout_ms": 0}}"#,
                "server.request_timeout_ms: 0, expected more than 0",
            ),
            (
                r#"{"server": {"stream_idle_timeout_ms": 0}}"#,
                "server.stream_idle_timeout_ms: 0, expected more than 0",
            ),
            (
                r#"{"server": {"stream_quiet_after_ms": 0}}"#,
                "server.stream_quiet_after_ms: 0, expected more than 0",
            ),
            (
                r#"{"congestion": {"cool_down": {"base_ms": 2000, "max_ms": 1000}}}"#,
                "congestion.cool_down.base_ms: 2000, expected more than 0, at most max_ms (1000)",
            ),
            (
                r#"{"congestion": {"cool_down": {"first_share": 0}}}"#,
                "congestion.cool_down.first_share: 0, expected a share above 0, at most 1",
            ),
            (
                r#"{"congestion": {"signal": {"queue_full": 0}}}"#,
                "congestion.signal.queue_full: 0, expected a number above 0",
            ),
            (
                r#"{"congestion": {"signal": {"expiry_ms": 1000}}}"#,
                "congestion.signal.expiry_ms: 1000, expected at least fresh_ms (2000)",
            ),
            (
                r#"{"congestion": {"signal": {"leave": 1.5}}}"#,
                "congestion.signal.leave: 1.5, expected more than 0, at most enter (1)",
            ),
            (
                r#"{"congestion": {"feedback": {"max_wait_ms": 0}}}"#,
                "congestion.feedback.max_wait_ms: 0, expected more than 0",
            ),
            (r#"{"server": {"max_body_bytes": 0}}"#, "server.max_body_bytes: 0, expected at least 1"),
            (r#"{"server": {"max_connections": 0}}"#, "server.max_connections: 0, expected at least 1"),
            (r#"{"pool": {"max_requests": 0}}"#, "pool.max_requests: 0, expected at least 1"),
            (
                r#"{"pool": {"max_requests_per_connection": 0}}"#,
                "pool.max_requests_per_connection: 0, expected at least 1",
            ),
            (
                r#"{"identity": {"api_keys": [{"name": "k", "sha256": "ab", "tenant": "t"}]}}"#,
                "identity.api_keys[0].sha256: 2 characters, expected 64 hexadecimal digits",
            ),
            (
                r#"{"backends": {"b": {"tls": {"key_file": "key.pem"}}}}"#,
                "backends.b.tls: `certificate_file` and `key_file` belong together",
            ),
            (
                r#"{"backends": {"b": {"load": {"interval_ms": 1}}}}"#,
                "backends.b.load.interval_ms: 1ms, expected at least 10 ms",
            ),
            (
                r#"{"identity": {"jwt": {"issuer": "me"}}}"#,
                "identity.jwt: needs `keys` or `secret`, with which tokens are verified",
            ),
            (
                r#"{"identity": {"jwt": {"secret": {"env": "S"}}, "claims_header": "x-claims"}}"#,
                "identity.claims_header: stands beside `jwt`, but claims come from one of them",
            ),
            (
                r#"{"identity": {"claims_header": "x claims"}}"#,
                "identity.claims_header: `x claims` is no name of a header",
            ),
        ] {
            let error = plan(json).validate().err().map(|e| e.to_string());
            assert_eq!(error.as_deref(), Some(expected));
        }
    }
}
