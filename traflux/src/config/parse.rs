//! From text to a configuration that cannot be wrong.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{AuthConfig, Config, PricesConfig};
use crate::controller::Mode;

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The text is not YAML.
    #[error("not valid YAML: {reason}")]
    Syntax {
        /// What the parser said, with line and column.
        reason: String,
    },
    /// A key is unknown, missing, of the wrong type or out of its limits.
    #[error("{path}: {problem}")]
    Key {
        /// Path of the key, such as `services[0].endpoints[1].capacity_rps`.
        path: String,
        /// What is wrong, with the value and its limits.
        problem: String,
    },
}

impl ConfigError {
    /// A stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "config_io",
            Self::Syntax { .. } => "config_syntax",
            Self::Key { .. } => "config_key",
        }
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }

    pub(super) fn key(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Key { path: path.into(), problem: problem.into() }
    }
}

/// Reads YAML into any type, with the path of the key in the error.
///
/// # Errors
/// [`ConfigError::Syntax`] or [`ConfigError::Key`].
pub(crate) fn read_yaml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|e| ConfigError::Syntax { reason: first_line(&e.to_string()) })?;
    read_value(value)
}

fn read_value<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        ConfigError::key(if path == "." { "top level".to_owned() } else { path }, error.inner().to_string())
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or(text).to_owned()
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Io {
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        Self::parse(&text)
    }

    /// Reads and checks a text.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = read_yaml(text)?;
        config.check()?;
        Ok(config)
    }

    /// Reads and checks a text for a controller whose measurements come from elsewhere than Prometheus: `metrics` may
    /// be left out.
    ///
    /// ```
    /// let text = "{sources: [{name: eu}], services: [{name: api, endpoints: [
    ///     {name: near, address: '10.0.0.1:80', capacity_rps: 50}, {name: far, address: '10.0.0.2:80', capacity_rps: 150}]}]}";
    /// let built = traflux::Config::parse_for_any_source(text)?.build(&Default::default())?;
    /// assert_eq!(built.fleet.fallback.shares(), [0.25, 0.75]);
    /// assert!(traflux::Config::parse(text).is_err(), "whose measurements?");
    /// # Ok::<(), traflux::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse_for_any_source(text: &str) -> Result<Self, ConfigError> {
        let mut value: Value = read_yaml(text)?;
        if let Value::Object(keys) = &mut value {
            // Nobody asks this one; its windows and intervals are those of the loop.
            keys.entry("metrics")
                .or_insert_with(|| serde_json::json!({"prometheus": {"url": "http://127.0.0.1:9090"}}));
        }
        let config: Self = read_value(value)?;
        config.check()?;
        Ok(config)
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`ConfigError::Key`] for the first key that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        // With a discovery file endpoints may come later.
        self.check_with(self.discovery.file.is_none())
    }

    /// The same for services that were replaced while running: tables of the sources may name endpoints that
    /// left and may come back.
    pub(crate) fn check_replaced(&self) -> Result<(), ConfigError> {
        self.check_with(false)
    }

    fn check_with(&self, endpoints_are_known: bool) -> Result<(), ConfigError> {
        self.check_services()?;
        self.check_sources(endpoints_are_known)?;
        self.check_shared(endpoints_are_known)?;
        self.check_metrics()?;
        self.check_numbers()?;
        if !self.api.listen.ip().is_loopback() && !self.api.allow_remote {
            return Err(ConfigError::key(
                "api.listen",
                format!("{} is not a loopback address; set api.allow_remote to allow it", self.api.listen),
            ));
        }
        Ok(())
    }

    fn check_sources(&self, endpoints_are_known: bool) -> Result<(), ConfigError> {
        if self.sources.is_empty() {
            return Err(ConfigError::key("sources", "is empty; at least one source is needed"));
        }
        let endpoints: BTreeSet<&str> =
            self.services.iter().flat_map(|s| s.endpoints.iter().map(|e| e.name.as_str())).collect();
        let mut names = BTreeSet::new();
        for (ix, source) in self.sources.iter().enumerate() {
            let at = |key: &str| format!("sources[{ix}].{key}");
            name(&at("name"), &source.name)?;
            if !names.insert(&source.name) {
                return Err(ConfigError::key(at("name"), format!("`{}` is named twice", source.name)));
            }
            for (key, table) in
                [("rtt_ms", &source.rtt_ms), ("egress_usd_per_million", &source.egress_usd_per_million)]
            {
                for (endpoint, value) in table {
                    if endpoints_are_known && !endpoints.contains(endpoint.as_str()) {
                        return Err(ConfigError::key(
                            at(&format!("{key}.{endpoint}")),
                            "no endpoint has this name",
                        ));
                    }
                    within(&at(&format!("{key}.{endpoint}")), *value, 0.0, 1e9)?;
                }
            }
        }
        Ok(())
    }

    fn check_shared(&self, endpoints_are_known: bool) -> Result<(), ConfigError> {
        let endpoints: BTreeSet<&str> = self.endpoints().map(|spec| spec.endpoint.name.as_str()).collect();
        let mut names = endpoints.clone();
        for (ix, shared) in self.shared.iter().enumerate() {
            let at = |key: &str| format!("shared[{ix}].{key}");
            name(&at("name"), &shared.name)?;
            if !names.insert(&shared.name) {
                return Err(ConfigError::key(at("name"), format!("`{}` is named twice", shared.name)));
            }
            within(&at("capacity_per_s"), shared.capacity_per_s, 0.0, 1e12)?;
            if shared.per_request.is_empty() {
                return Err(ConfigError::key(at("per_request"), "is empty; at least one endpoint is needed"));
            }
            for (endpoint, taken) in &shared.per_request {
                let at = at(&format!("per_request.{endpoint}"));
                if endpoints_are_known && !endpoints.contains(endpoint.as_str()) {
                    return Err(ConfigError::key(at, "no endpoint has this name"));
                }
                within(&at, *taken, 1e-9, 1e12)?;
            }
            for (nth, source) in shared.sources.iter().enumerate() {
                if !self.sources.iter().any(|s| s.name == *source) {
                    return Err(ConfigError::key(
                        at(&format!("sources[{nth}]")),
                        format!("no source has the name `{source}`"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_services(&self) -> Result<(), ConfigError> {
        if self.services.is_empty() {
            return Err(ConfigError::key("services", "is empty; at least one service is needed"));
        }
        let mut services = BTreeSet::new();
        let mut endpoints = BTreeSet::new();
        for (ix, service) in self.services.iter().enumerate() {
            let at = |key: &str| format!("services[{ix}].{key}");
            name(&at("name"), &service.name)?;
            if !services.insert(&service.name) {
                return Err(ConfigError::key(at("name"), format!("`{}` is named twice", service.name)));
            }
            within(&at("timeout_ms"), service.timeout_ms, 1.0, 3.6e6)?;
            within(&at("connect_timeout_ms"), service.connect_timeout_ms, 1.0, 3.6e6)?;
            for source in service.listen_by_source.keys() {
                if !self.sources.iter().any(|s| s.name == *source) {
                    return Err(ConfigError::key(
                        at(&format!("listen_by_source.{source}")),
                        "no source has this name",
                    ));
                }
            }
            if service.endpoints.is_empty() {
                return Err(ConfigError::key(at("endpoints"), "is empty; at least one endpoint is needed"));
            }
            for (at_endpoint, endpoint) in service.endpoints.iter().enumerate() {
                let at = |key: &str| format!("services[{ix}].endpoints[{at_endpoint}].{key}");
                name(&at("name"), &endpoint.name)?;
                if !endpoints.insert(&endpoint.name) {
                    return Err(ConfigError::key(at("name"), format!("`{}` is named twice", endpoint.name)));
                }
                if endpoint.hosts().next().is_none() {
                    return Err(ConfigError::key(at("address"), "is missing; give `address` or `addresses`"));
                }
                if endpoint.address.is_some() && !endpoint.addresses.is_empty() {
                    return Err(ConfigError::key(
                        at("addresses"),
                        "`address` and `addresses` exclude each other",
                    ));
                }
                for host in endpoint.hosts() {
                    host_and_port(host).map_err(|problem| ConfigError::key(at("address"), problem))?;
                }
                within(&at("capacity_rps"), endpoint.capacity_rps, 0.0, 1e9)?;
                within(&at("service_time_ms"), endpoint.service_time_ms.unwrap_or(1.0), 1e-3, 3.6e6)?;
                within(&at("price_usd_per_million"), endpoint.price_usd_per_million, 0.0, 1e9)?;
                within(&at("hourly_usd"), endpoint.hourly_usd, 0.0, 1e9)?;
                if endpoint.concurrency == Some(0) {
                    return Err(ConfigError::key(at("concurrency"), "is 0, must be at least 1"));
                }
            }
        }
        Ok(())
    }

    fn check_metrics(&self) -> Result<(), ConfigError> {
        let prometheus = &self.metrics.prometheus;
        let at = |key: &str| format!("metrics.prometheus.{key}");
        http_url(&at("url"), &prometheus.url)?;
        within(&at("scrape_interval_s"), prometheus.scrape_interval_s, 0.1, 3600.0)?;
        within(&at("timeout_ms"), prometheus.timeout_ms, 1.0, 60_000.0)?;
        let least = 4.0 * prometheus.scrape_interval_s;
        if !(least..=86_400.0).contains(&prometheus.window_s) {
            return Err(ConfigError::key(
                at("window_s"),
                format!(
                    "{} must be at least four scrape intervals, {least}, and at most 86400",
                    prometheus.window_s
                ),
            ));
        }
        check_auth(&at("auth"), &prometheus.auth)?;
        let mut names = BTreeSet::new();
        for (ix, signal) in prometheus.signals.iter().enumerate() {
            let at = |key: &str| format!("metrics.prometheus.signals[{ix}].{key}");
            name(&at("name"), &signal.name)?;
            if !names.insert(&signal.name) {
                return Err(ConfigError::key(at("name"), format!("`{}` is named twice", signal.name)));
            }
            if signal.query.trim().is_empty() {
                return Err(ConfigError::key(at("query"), "is empty"));
            }
            if signal.label.is_empty() {
                return Err(ConfigError::key(at("label"), "is empty"));
            }
            // The limit is also the scale of the policy's feature.
            if let Some(limit) = signal.limit.filter(|limit| !(limit.is_finite() && *limit > 0.0)) {
                return Err(ConfigError::key(at("limit"), format!("{limit} must be finite and above 0")));
            }
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let objective = &self.objective;
        within("objective.max_utilization", objective.max_utilization, 0.05, 1.0)?;
        within(
            "objective.usd_per_million_for_10_ms",
            objective.usd_per_million_for_10_ms.unwrap_or(1.0),
            1e-6,
            1e9,
        )?;
        within("objective.budget_usd_per_hour", objective.budget_usd_per_hour.unwrap_or(1.0), 0.0, 1e12)?;
        within("objective.error_ms", objective.error_ms, 0.0, 3.6e6)?;
        within("objective.churn_ms", objective.churn_ms, 0.0, 1e5)?;
        within("objective.headroom", objective.headroom, 0.0, 5.0)?;
        within("objective.deadline_ms", objective.deadline_ms, 1.0, 60_000.0)?;
        let control = &self.control;
        within("control.interval_s", control.interval_s, 0.1, 3600.0)?;
        within("control.dead_band", control.dead_band, 0.0, 0.5)?;
        within("control.min_push_interval_s", control.min_push_interval_s, 0.0, 3600.0)?;
        within("control.weight_total", f64::from(control.weight_total), 100.0, 1e9)?;
        within("control.decisions_kept", control.decisions_kept as f64, 1.0, 100_000.0)?;
        control.guard.check().map_err(|(key, value, limits)| {
            ConfigError::key(format!("control.guard.{key}"), format!("{value} is outside {limits}"))
        })?;
        let ladder = &control.ladder;
        within("control.ladder.fresh_within_s", ladder.fresh_within_s, 0.1, 86_400.0)?;
        within("control.ladder.alarm_after_s", ladder.alarm_after_s, 0.0, 86_400.0)?;
        within("control.ladder.ramp_after_s", ladder.ramp_after_s, ladder.alarm_after_s, 86_400.0)?;
        within("control.ladder.ramp_over_s", ladder.ramp_over_s, 0.0, 86_400.0)?;
        within("control.ladder.max_elapsed_s", ladder.max_elapsed_s, 0.1, 3600.0)?;
        within("discovery.file_refresh_s", self.discovery.file_refresh_s, 0.1, 86_400.0)?;
        within("discovery.dns_refresh_s", self.discovery.dns_refresh_s, 1.0, 86_400.0)?;
        let reward = &objective.reward;
        within("objective.reward.latency", reward.latency, 0.0, 1e6)?;
        within("objective.reward.errors", reward.errors, 0.0, 1e6)?;
        within("objective.reward.price", reward.price, 0.0, 1e6)?;
        within("objective.reward.churn", reward.churn, 0.0, 1e6)?;
        self.check_estimator()?;
        self.check_policy()?;
        self.prices.as_ref().map_or(Ok(()), check_prices)
    }

    fn check_policy(&self) -> Result<(), ConfigError> {
        let policy = &self.policy;
        if policy.k == Some(0) {
            return Err(ConfigError::key("policy.k", "is 0, must be at least 1"));
        }
        within("policy.learning_rate", policy.learning_rate, 1e-8, 1.0)?;
        let bounds = &policy.bounds;
        within("policy.bounds.headroom_max", bounds.headroom_max, 0.0, 5.0)?;
        within("policy.bounds.multiplier_min", bounds.multiplier_min, 1e-3, 1e3)?;
        within("policy.bounds.multiplier_max", bounds.multiplier_max, bounds.multiplier_min, 1e3)?;
        if policy.save_to.is_some() && policy.mode != Mode::Learning {
            return Err(ConfigError::key(
                "policy.save_to",
                format!(
                    "has an effect in mode `learning` only, the mode is `{}`; to use what was learned, name the \
                     file in policy.checkpoint",
                    policy.mode.name()
                ),
            ));
        }
        Ok(())
    }

    /// The estimators would replace what makes no sense; an operator wants to know of it instead.
    fn check_estimator(&self) -> Result<(), ConfigError> {
        const AT: &str = "control.estimator";
        let estimator = &self.control.estimator;
        if let Some((key, given, nearest)) = first_difference(estimator, &estimator.clone().sanitized()) {
            return Err(ConfigError::key(
                format!("{AT}.{key}"),
                format!("{given} is out of range, the nearest value in range is {nearest}"),
            ));
        }
        let health = &estimator.health;
        within(&format!("{AT}.health.p95_limit_ms"), health.p95_limit_ms.unwrap_or(1.0), 1e-3, 3.6e6)?;
        match health.signal_limits.iter().find(|(_, limit)| !limit.is_finite()) {
            Some((signal, limit)) => Err(ConfigError::key(
                format!("{AT}.health.signal_limits.{signal}"),
                format!("{limit} must be finite"),
            )),
            None => Ok(()),
        }
    }
}

fn check_auth(path: &str, auth: &AuthConfig) -> Result<(), ConfigError> {
    if auth.username.is_some() != auth.password_file.is_some() {
        return Err(ConfigError::key(path, "`username` and `password_file` need each other"));
    }
    if auth.cert_file.is_some() != auth.key_file.is_some() {
        return Err(ConfigError::key(path, "`cert_file` and `key_file` need each other"));
    }
    if auth.username.is_some() && auth.bearer_token_file.is_some() {
        return Err(ConfigError::key(path, "basic authentication and a bearer token exclude each other"));
    }
    Ok(())
}

fn check_prices(prices: &PricesConfig) -> Result<(), ConfigError> {
    within("prices.refresh_s", prices.refresh_s, 0.1, 86_400.0)?;
    within("prices.timeout_ms", prices.timeout_ms, 1.0, 60_000.0)?;
    match (&prices.file, &prices.url) {
        (Some(_), None) => {
            if !prices.headers.is_empty() || prices.auth != AuthConfig::default() {
                return Err(ConfigError::key("prices", "`auth` and `headers` need `url`"));
            }
            Ok(())
        }
        (None, Some(url)) => {
            http_url("prices.url", url)?;
            check_auth("prices.auth", &prices.auth)
        }
        _ => Err(ConfigError::key("prices", "give either `file` or `url`")),
    }
}

fn http_url(path: &str, url: &str) -> Result<(), ConfigError> {
    if url.starts_with("http://") || url.starts_with("https://") {
        Ok(())
    } else {
        Err(ConfigError::key(path, format!("`{url}` must start with http:// or https://")))
    }
}

/// The first key whose value differs, with both values.
fn first_difference<T: serde::Serialize>(given: &T, other: &T) -> Option<(String, Value, Value)> {
    fn walk(path: &str, given: &Value, other: &Value) -> Option<(String, Value, Value)> {
        match (given, other) {
            (Value::Object(given), Value::Object(other)) => given.iter().find_map(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, other.get(key)?)
            }),
            _ if given != other => Some((path.to_owned(), given.clone(), other.clone())),
            _ => None,
        }
    }
    walk("", &serde_json::to_value(given).ok()?, &serde_json::to_value(other).ok()?)
}

/// Splits `host:port`, with IPv6 addresses in brackets.
pub(crate) fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let expected = || format!("`{text}` is not host:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let port: u16 = port.parse().map_err(|_| expected())?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || port == 0 || host.contains(char::is_whitespace) {
        return Err(expected());
    }
    Ok((host.to_owned(), port))
}

fn name(path: &str, name: &str) -> Result<(), ConfigError> {
    if name.is_empty() || name.len() > 128 {
        return Err(ConfigError::key(path, format!("has {} characters, must have 1 to 128", name.len())));
    }
    if name.contains('/') || name.chars().any(char::is_control) {
        return Err(ConfigError::key(path, format!("`{name}` must not contain `/` or control characters")));
    }
    Ok(())
}

fn within(path: &str, value: f64, least: f64, most: f64) -> Result<(), ConfigError> {
    if value.is_finite() && (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::key(path, format!("{value} is outside [{least}, {most}]")))
    }
}
