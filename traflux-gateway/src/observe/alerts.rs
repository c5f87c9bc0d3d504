//! Which rules should Prometheus evaluate?
//!
//! [`alert_rules`] writes a file of recording and alerting rules over the metrics of
//! [`exposition`](super::exposition):
//!
//! | alert | when |
//! |---|---|
//! | `TrafluxGatewayErrorBudgetBurn` | errors use up a backend's error budget too fast |
//! | `TrafluxGatewayLatencyBudgetBurn` | too many requests are slower than their objective |
//! | `TrafluxGatewayQueueWait` | requests of a band wait too long |
//! | `TrafluxGatewayLimiterNearLimit` | a limiter is nearly full for minutes |
//! | `TrafluxGatewayExhaustionNear` | a limit or budget is forecast to be reached within days |
//! | `TrafluxGatewayBackendEjected`, `TrafluxGatewayAllBackendsEjected` | one backend, or all, get no traffic |
//! | `TrafluxGatewayNoTraffic`, `TrafluxGatewayAbsent` | requests stopped, or nothing is scraped |
//! | `TrafluxGatewaySplitOffPlan` | a rule's requests are split otherwise than planned |
//! | `TrafluxGatewayRetryStorm` | retries are a large part of requests |
//! | `TrafluxGatewayUnfair` | tenants get very different parts of their fair share |
//! | `TrafluxGatewayAnomaly` | a rate, errors, latency or a share of routing is unusual for minutes |
//! | `TrafluxGatewayMisdirected` | the embedder counts with indices of another layout |
//! | `TrafluxGatewayReloadFailing`, `TrafluxGatewayRenewalFailing` | a plan that was written, or a certificate or key, is not in use |
//!
//! Budgets burn over several windows: a page takes 2 % of a 30-day budget in one hour (rate 14.4) or 5 % in six
//! (rate 6), a warning 10 % in three days (rate 1), and each also asks its short window, a twelfth as long, so that
//! the alert ends soon after the trouble (B. Beyer et al., "The site reliability workbook", 2018, chapter 5,
//! table 5-8).

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::buckets::BucketBounds;
use super::exposition::{Bound, Escaped, PREFIX};
use super::metrics::MetricsSettings;
use crate::error::GatewayError;
use crate::outcome::Outcome;
use crate::units::millis;

/// Rate of burning, long window, short window, severity.
const BURNS: [(f64, &str, &str, &str); 3] =
    [(14.4, "1h", "5m", "page"), (6.0, "6h", "30m", "page"), (1.0, "3d", "6h", "warn")];

/// Highest threshold as a share of requests: without it a large budget times its rate would exceed 1 and never
/// give alarm.
const MOST_BURN: f64 = 0.95;

/// Which alerts there are and when they come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertSettings {
    /// Address of the runbook; each alert adds `#` and its name in lower case. That of this project unless said.
    pub runbook_url: String,
    /// What backends promise.
    pub objectives: Vec<Objective>,
    /// How long requests may wait.
    pub waits: Vec<WaitObjective>,
    /// Level at which a limiter is nearly full, as a share of its limit.
    pub limiter_share: f64,
    /// Warning time before a limit or budget is forecast to be reached.
    #[serde(rename = "exhaustion_ms", with = "millis")]
    pub exhaustion: Duration,
    /// Difference of a share of requests from the plan, 0 to 1.
    pub split_difference: f64,
    /// Retries per request that are a storm.
    pub retry_ratio: f64,
    /// Jain's index below which sharing is unfair.
    pub least_fairness: f64,
}

impl Default for AlertSettings {
    /// 99.9 % of requests to each backend succeed; limiters at 90 %, forecasts a week ahead, splits 15 % off the
    /// plan, one retry per five requests, Jain's index 0.8. No objectives of latency or wait.
    fn default() -> Self {
        Self {
            runbook_url: "https://github.com/traflux/traflux/blob/main/docs/runbook.md".to_owned(),
            objectives: vec![Objective::default()],
            waits: Vec::new(),
            limiter_share: 0.9,
            exhaustion: Duration::from_secs(7 * 86_400),
            split_difference: 0.15,
            retry_ratio: 0.2,
            least_fairness: 0.8,
        }
    }
}

/// What backends promise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Objective {
    /// Its name, the label `objective` of alerts.
    pub name: String,
    /// The backend; all, each by itself, where there is none.
    pub backend: Option<String>,
    /// The model; all, each by itself, where there is none.
    pub model: Option<String>,
    /// Share of requests that must succeed, such as 0.999.
    pub success: f64,
    /// How fast they must be.
    pub latency: Option<LatencyObjective>,
}

impl Default for Objective {
    /// 99.9 % of requests succeed.
    fn default() -> Self {
        Self { name: "availability".to_owned(), backend: None, model: None, success: 0.999, latency: None }
    }
}

/// How fast requests must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyObjective {
    /// What is measured.
    pub of: LatencyKind,
    /// The limit, one of [`MetricsSettings::latency_bounds`].
    #[serde(rename = "limit_ms", with = "millis")]
    pub limit: Duration,
    /// Share of requests within it, such as 0.95.
    pub share: f64,
}

/// Which latency has an objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatencyKind {
    /// From dispatch to the first token.
    TimeToFirstToken,
    /// From dispatch to the end.
    RequestDuration,
}

/// How long requests of a band may wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitObjective {
    /// The band.
    pub band: String,
    /// The limit.
    #[serde(rename = "limit_ms", with = "millis")]
    pub limit: Duration,
    /// Share of requests within it, such as 0.95.
    pub share: f64,
}

impl AlertSettings {
    /// Whether rules can be written.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] where a share is not between 0 and 1, or a latency objective is no bound of
    /// its histogram; [`GatewayError::DuplicateName`] where two objectives have one name.
    pub fn validate(&self, metrics: &MetricsSettings) -> Result<(), GatewayError> {
        let mut shares = vec![
            ("limiter_share", self.limiter_share),
            ("split_difference", self.split_difference),
            ("least_fairness", self.least_fairness),
        ];
        let bounds = BucketBounds::new(&metrics.latency_bounds)?;
        for (ix, objective) in self.objectives.iter().enumerate() {
            shares.push(("success", objective.success));
            if self.objectives[..ix].iter().any(|other| other.name == objective.name) {
                return Err(GatewayError::DuplicateName { kind: "objective", name: objective.name.clone() });
            }
            let Some(latency) = &objective.latency else { continue };
            shares.push(("share", latency.share));
            if !bounds.bounds().any(|bound| bound == latency.limit) {
                return Err(GatewayError::setting(
                    "limit_ms",
                    latency.limit.as_millis(),
                    "one of latency_bounds_ms",
                ));
            }
        }
        shares.extend(self.waits.iter().map(|wait| ("share", wait.share)));
        for (setting, value) in shares {
            if !(value > 0.0 && value < 1.0) {
                let value = value.to_string();
                return Err(GatewayError::setting(setting, value, "between 0 and 1"));
            }
        }
        if !(self.retry_ratio > 0.0 && self.retry_ratio.is_finite()) {
            let value = self.retry_ratio.to_string();
            return Err(GatewayError::setting("retry_ratio", value, "a positive number"));
        }
        Ok(())
    }
}

/// A file of recording and alerting rules.
///
/// # Errors
/// As [`AlertSettings::validate`].
pub fn alert_rules(settings: &AlertSettings, metrics: &MetricsSettings) -> Result<String, GatewayError> {
    settings.validate(metrics)?;
    let mut text = String::from("groups:\n");
    line(&mut text, 2, "- name: traflux-gateway-recording");
    line(&mut text, 4, "rules:");
    for window in ["5m", "30m", "1h", "6h", "3d"] {
        let errors = Outcome::ALL.into_iter().filter(|o| o.is_error()).map(Outcome::name).collect::<Vec<_>>();
        let errors = errors.join("|");
        record(
            &mut text,
            &format!("traflux_gateway:errors:ratio_rate{window}"),
            None,
            &format!(
                "sum by (backend, model) (rate({PREFIX}requests_total{{outcome=~\"{errors}\"}}[{window}])) / \
             (sum by (backend, model) (rate({PREFIX}requests_total[{window}])) > 0)"
            ),
        );
        for objective in &settings.objectives {
            let Some(latency) = &objective.latency else { continue };
            let metric = latency.of.metric();
            let selector = objective.selector();
            let le = Bound(latency.limit.as_secs_f64()).to_string();
            let comma = if selector.is_empty() { "" } else { "," };
            record(
                &mut text,
                &format!("traflux_gateway:slow:ratio_rate{window}"),
                Some(&objective.name),
                &format!(
                    "1 - sum by (backend, model) (rate({PREFIX}{metric}_bucket{{{selector}{comma}le=\"{le}\"}}[{window}])) / \
                 (sum by (backend, model) (rate({PREFIX}{metric}_count{{{selector}}}[{window}])) > 0)"
                ),
            );
        }
    }
    record(
        &mut text,
        "traflux_gateway:picks:ratio_rate15m",
        None,
        &format!(
            "sum by (rule, backend) (rate({PREFIX}picks_total[15m])) / on (rule) group_left () \
         (sum by (rule) (rate({PREFIX}picks_total[15m])) > 0)"
        ),
    );
    line(&mut text, 2, "- name: traflux-gateway-alerts");
    line(&mut text, 4, "rules:");
    for alert in burn_alerts(settings).into_iter().chain(level_alerts(settings)) {
        alert.write(&mut text, &settings.runbook_url);
    }
    Ok(text)
}

fn burn_alerts(settings: &AlertSettings) -> Vec<Alert> {
    let mut alerts = Vec::new();
    for objective in &settings.objectives {
        let selector = objective.selector();
        for (rate, long, short, severity) in BURNS {
            let limit = (rate * (1.0 - objective.success)).min(MOST_BURN);
            let ratio = |window| format!("traflux_gateway:errors:ratio_rate{window}{{{selector}}}");
            alerts.push(Alert {
                name: "TrafluxGatewayErrorBudgetBurn",
                expression: format!("{} > {limit} and {} > {limit}", ratio(long), ratio(short)),
                wait: "2m",
                severity,
                labels: vec![("objective", objective.name.clone()), ("window", long.to_owned())],
                summary: "Backend {{ $labels.backend }} uses up its error budget",
                description: format!(
                    "{{{{ $value | humanizePercentage }}}} of the requests to {{{{ $labels.backend }}}} (model \
                     {{{{ $labels.model }}}}) failed in the last {long}; objective {} allows \
                     {} %.",
                    literal(&objective.name),
                    percent(1.0 - objective.success)
                ),
            });
            let Some(latency) = &objective.latency else { continue };
            let limit = (rate * (1.0 - latency.share)).min(MOST_BURN);
            let mut selector = selector.clone();
            let comma = if selector.is_empty() { "" } else { "," };
            let _ = write!(selector, "{comma}objective=\"{}\"", Escaped(&objective.name));
            let ratio = |window| format!("traflux_gateway:slow:ratio_rate{window}{{{selector}}}");
            alerts.push(Alert {
                name: "TrafluxGatewayLatencyBudgetBurn",
                expression: format!("{} > {limit} and {} > {limit}", ratio(long), ratio(short)),
                wait: "2m",
                severity,
                labels: vec![("objective", objective.name.clone()), ("window", long.to_owned())],
                summary: "Backend {{ $labels.backend }} is slower than its objective",
                description: format!(
                    "{{{{ $value | humanizePercentage }}}} of the requests to {{{{ $labels.backend }}}} (model \
                     {{{{ $labels.model }}}}) took more than {} s ({}) in the last {long}; objective \
                     {} allows {} %.",
                    latency.limit.as_secs_f64(),
                    latency.of.metric(),
                    literal(&objective.name),
                    percent(1.0 - latency.share)
                ),
            });
        }
    }
    alerts
}

fn level_alerts(settings: &AlertSettings) -> Vec<Alert> {
    let alert = |name, wait, severity, expression: String, summary, description: &str| Alert {
        name,
        expression,
        wait,
        severity,
        labels: Vec::new(),
        summary,
        description: description.to_owned(),
    };
    let mut alerts = Vec::new();
    for wait in &settings.waits {
        let WaitObjective { band, limit, share } = wait;
        let band = Escaped(band);
        alerts.push(alert(
            "TrafluxGatewayQueueWait",
            "5m",
            "page",
            format!(
                "histogram_quantile({share}, sum by (band, le) (rate({PREFIX}queue_wait_seconds_bucket{{band=\"{band}\"}}\
                 [5m]))) > {}",
                limit.as_secs_f64()
            ),
            "Requests of band {{ $labels.band }} wait too long",
            &format!(
                "{} % of the requests of band {{{{ $labels.band }}}} wait up to {{{{ $value | humanizeDuration }}}}; at \
                 most {} s are allowed.",
                percent(*share),
                limit.as_secs_f64()
            ),
        ));
    }
    alerts.push(alert(
        "TrafluxGatewayLimiterNearLimit",
        "10m",
        "warn",
        format!(
            "max by (limiter, unit) ({PREFIX}limiter_used / ({PREFIX}limiter_limit > 0)) > {}",
            settings.limiter_share
        ),
        "Limiter {{ $labels.limiter }} is nearly full",
        "Limiter {{ $labels.limiter }} ({{ $labels.unit }}) is at {{ $value | humanizePercentage }} of its limit.",
    ));
    alerts.push(alert(
        "TrafluxGatewayExhaustionNear",
        "1h",
        "warn",
        format!("min by (limit) ({PREFIX}exhaustion_seconds) < {}", settings.exhaustion.as_secs_f64()),
        "{{ $labels.limit }} will be reached soon",
        "At its present growth {{ $labels.limit }} is reached in {{ $value | humanizeDuration }}.",
    ));
    alerts.push(alert(
        "TrafluxGatewayBackendEjected",
        "5m",
        "warn",
        format!("max by (backend) ({PREFIX}backend_ejected) == 1"),
        "Backend {{ $labels.backend }} gets no traffic",
        "Backend {{ $labels.backend }} has been ejected by at least one gateway for 5 minutes.",
    ));
    alerts.push(alert(
        "TrafluxGatewayAllBackendsEjected",
        "1m",
        "page",
        format!("min(min by (backend) ({PREFIX}backend_ejected)) == 1"),
        "No backend gets traffic",
        "All backends are ejected by all gateways.",
    ));
    alerts.push(alert(
        "TrafluxGatewayNoTraffic",
        "5m",
        "page",
        format!(
            "sum(rate({PREFIX}requests_total[10m])) == 0 and sum(rate({PREFIX}requests_total[1h] offset 10m)) > 0"
        ),
        "Requests have stopped",
        "No request was finished in the last 10 minutes, though there were some in the hour before.",
    ));
    alerts.push(alert(
        "TrafluxGatewayAbsent",
        "5m",
        "page",
        format!("absent({PREFIX}misdirected_total)"),
        "No gateway is scraped",
        "Prometheus has no series of any gateway: it is down, or its scrapes fail.",
    ));
    alerts.push(alert(
        "TrafluxGatewaySplitOffPlan",
        "15m",
        "warn",
        format!(
            "abs(traflux_gateway:picks:ratio_rate15m - on (rule, backend) max by (rule, backend) \
             ({PREFIX}plan_share_ratio)) > {} and on (rule) sum by (rule) (increase({PREFIX}picks_total[15m])) > 200",
            settings.split_difference
        ),
        "Rule {{ $labels.rule }} does not send what the plan says",
        "The share of rule {{ $labels.rule }} that goes to {{ $labels.backend }} differs from the plan by \
         {{ $value | humanizePercentage }} of the rule's requests.",
    ));
    alerts.push(alert(
        "TrafluxGatewayRetryStorm",
        "5m",
        "page",
        format!(
            "sum by (backend) (rate({PREFIX}retries_total[5m])) / (sum by (backend) (rate({PREFIX}requests_total[5m])) \
             > 0) > {}",
            settings.retry_ratio
        ),
        "Requests to {{ $labels.backend }} are retried too often",
        "There are {{ $value | humanize }} retries per request to {{ $labels.backend }}.",
    ));
    alerts.push(alert(
        "TrafluxGatewayUnfair",
        "15m",
        "warn",
        format!("min by (scope) ({PREFIX}fairness_jain_ratio) < {}", settings.least_fairness),
        "Capacity is shared unfairly among {{ $labels.scope }}",
        "Jain's index among {{ $labels.scope }} is {{ $value | humanize }}.",
    ));
    alerts.push(alert(
        "TrafluxGatewayAnomaly",
        "2m",
        "warn",
        format!("max by (signal, rule, backend, model) ({PREFIX}anomaly) == 1"),
        "Unusual {{ $labels.signal }} at backend {{ $labels.backend }}",
        "Since minutes {{ $labels.signal }} of backend {{ $labels.backend }} (model {{ $labels.model }}, rule \
         {{ $labels.rule }}) is not as usual; the gateway's log and /anomalies say how.",
    ));
    alerts.push(alert(
        "TrafluxGatewayMisdirected",
        "1m",
        "warn",
        format!("sum(increase({PREFIX}misdirected_total[10m])) > 0"),
        "Requests are counted with indices of another layout",
        "{{ $value | humanize }} records of the last 10 minutes could not be counted: a fault of the embedder.",
    ));
    alerts.push(alert(
        "TrafluxGatewayReloadFailing",
        "5m",
        "warn",
        format!("sum({PREFIX}reload_failing) > 0"),
        "A plan that was written is not in force",
        "{{ $value | humanize }} gateways refused their latest plan and go on with the one before; log and /status say why.",
    ));
    alerts.push(alert(
        "TrafluxGatewayRenewalFailing",
        "5m",
        "warn",
        format!("sum({PREFIX}renewal_failing) > 0"),
        "A certificate or key that has changed is not in use",
        "{{ $value | humanize }} gateways could not read certificates or keys again; those in use may expire. /status says why.",
    ));
    alerts
}

impl Objective {
    /// Matchers of its series.
    fn selector(&self) -> String {
        let labels = [("backend", &self.backend), ("model", &self.model)];
        let matchers = labels.iter().filter_map(|(label, value)| {
            let value = value.as_ref()?;
            Some(format!("{label}=\"{}\"", Escaped(value)))
        });
        matchers.collect::<Vec<_>>().join(",")
    }
}

impl LatencyKind {
    fn metric(self) -> &'static str {
        match self {
            Self::TimeToFirstToken => "time_to_first_token_seconds",
            Self::RequestDuration => "request_duration_seconds",
        }
    }
}

struct Alert {
    name: &'static str,
    expression: String,
    wait: &'static str,
    severity: &'static str,
    labels: Vec<(&'static str, String)>,
    summary: &'static str,
    description: String,
}

impl Alert {
    fn write(&self, text: &mut String, runbook: &str) {
        line(text, 6, &format!("- alert: {}", self.name));
        line(text, 8, &format!("expr: {}", quoted(&self.expression)));
        line(text, 8, &format!("for: {}", self.wait));
        line(text, 8, "labels:");
        line(text, 10, &format!("severity: {}", self.severity));
        for (label, value) in &self.labels {
            line(text, 10, &format!("{label}: {}", quoted(&literal(value))));
        }
        line(text, 8, "annotations:");
        line(text, 10, &format!("summary: {}", quoted(self.summary)));
        line(text, 10, &format!("description: {}", quoted(&self.description)));
        let anchor = self.name.to_ascii_lowercase();
        line(text, 10, &format!("runbook_url: {}", quoted(&format!("{}#{anchor}", literal(runbook)))));
    }
}

fn record(text: &mut String, name: &str, objective: Option<&str>, expression: &str) {
    line(text, 6, &format!("- record: {name}"));
    line(text, 8, &format!("expr: {}", quoted(expression)));
    if let Some(objective) = objective {
        line(text, 8, &format!("labels: {{objective: {}}}", quoted(objective)));
    }
}

fn line(text: &mut String, indent: usize, content: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:indent$}{content}", "");
}

/// Per cent without the noise of binary fractions.
fn percent(share: f64) -> f64 {
    (share * 1e8).round() / 1e6
}

/// Text in a template of Prometheus that stands for itself.
fn literal(text: &str) -> String {
    text.replace("{{", "{{ \"{{\" }}")
}

/// A double-quoted YAML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\n' => quoted.push_str("\\n"),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
