//! How must Prometheus be configured so that the queries find what they ask for?
//!
//! [`prometheus_config`] prints scrape jobs whose targets carry the source label; [`prometheus_rules`] prints
//! recording and alerting rules over Traflux's own metrics. `promtool check config` and `promtool check
//! rules` accept both.

use std::fmt::Write as _;
use std::time::Duration;

use crate::queries::{Histograms, promql_duration};

/// One Envoy to scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoyTarget {
    /// The source whose traffic it carries.
    pub source: String,
    /// Address of its admin interface, `host:port`.
    pub admin: String,
}

/// Traflux's own `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafluxTarget {
    /// Address of its API, `host:port`.
    pub address: String,
}

/// What a Prometheus configuration depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrometheusBootstrap {
    /// The Envoys.
    pub envoys: Vec<EnvoyTarget>,
    /// The controllers.
    pub traflux: Vec<TrafluxTarget>,
    /// Time between scrapes; the window of the queries should be at least four times as long.
    pub scrape_interval: Duration,
    /// The label that carries the source.
    pub source_label: String,
    /// How latencies are stored. Native histograms make Envoy answer in protobuf only, and need Prometheus with
    /// `--enable-feature=native-histograms`.
    pub histograms: Histograms,
    /// Files with rules to load, such as the text of [`prometheus_rules`].
    pub rule_files: Vec<String>,
}

impl Default for PrometheusBootstrap {
    fn default() -> Self {
        Self {
            envoys: Vec::new(),
            traflux: Vec::new(),
            scrape_interval: Duration::from_secs(1),
            source_label: "traflux_source".into(),
            histograms: Histograms::Classic,
            rule_files: Vec::new(),
        }
    }
}

/// A complete `prometheus.yml`.
#[must_use]
pub fn prometheus_config(bootstrap: &PrometheusBootstrap) -> String {
    let interval = promql_duration(bootstrap.scrape_interval);
    // A scrape must end before the next begins, or samples come late and ages lie.
    let timeout = promql_duration(bootstrap.scrape_interval.mul_f64(0.9));
    let mut text = String::new();
    text.push_str("# Scrapes the Envoys that Traflux controls, and Traflux itself.\n");
    text.push_str("global:\n");
    line(&mut text, 2, &format!("scrape_interval: {interval}"));
    line(&mut text, 2, &format!("scrape_timeout: {timeout}"));
    line(&mut text, 2, &format!("evaluation_interval: {interval}"));
    if !bootstrap.rule_files.is_empty() {
        text.push_str("rule_files:\n");
        for file in &bootstrap.rule_files {
            line(&mut text, 2, &format!("- {}", quoted(file)));
        }
    }
    if bootstrap.envoys.is_empty() && bootstrap.traflux.is_empty() {
        text.push_str("scrape_configs: []\n");
        return text;
    }
    text.push_str("scrape_configs:\n");
    if !bootstrap.envoys.is_empty() {
        line(&mut text, 2, "- job_name: traflux-envoy");
        line(&mut text, 4, "metrics_path: /stats/prometheus");
        line(&mut text, 4, "params:");
        line(&mut text, 6, "usedonly: [\"\"]");
        if bootstrap.histograms == Histograms::Native {
            line(&mut text, 6, "histogram_buckets: [prometheusnative]");
            line(&mut text, 6, "native_histogram_max_buckets: [\"40\"]");
        }
        line(&mut text, 4, "static_configs:");
        for envoy in &bootstrap.envoys {
            line(&mut text, 6, &format!("- targets: [{}]", quoted(&envoy.admin)));
            line(&mut text, 8, &format!("labels: {{{}: {}}}", bootstrap.source_label, quoted(&envoy.source)));
        }
    }
    if !bootstrap.traflux.is_empty() {
        line(&mut text, 2, "- job_name: traflux");
        line(&mut text, 4, "metrics_path: /metrics");
        line(&mut text, 4, "static_configs:");
        let targets: Vec<String> = bootstrap.traflux.iter().map(|target| quoted(&target.address)).collect();
        line(&mut text, 6, &format!("- targets: [{}]", targets.join(", ")));
    }
    text
}

/// When the rules raise an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertingRules {
    /// How long the ladder of failure may be off its normal rung.
    pub ladder_for: Duration,
    /// How old the freshest measurement may be.
    pub stale_after: Duration,
    /// How long a plan may wait for its acknowledgement.
    pub unacknowledged_after: Duration,
    /// How long Traflux itself may be gone.
    pub absent_for: Duration,
}

impl Default for AlertingRules {
    fn default() -> Self {
        Self {
            ladder_for: Duration::from_secs(30),
            stale_after: Duration::from_secs(30),
            unacknowledged_after: Duration::from_secs(30),
            absent_for: Duration::from_secs(60),
        }
    }
}

/// A file of recording and alerting rules over the metrics of [`crate::Exporter`].
#[must_use]
pub fn prometheus_rules(rules: &AlertingRules) -> String {
    let mut text = String::from("groups:\n");
    line(&mut text, 2, "- name: traflux-recording");
    line(&mut text, 4, "rules:");
    let recorded = [
        (
            "traflux:tick_duration_seconds:p99",
            "histogram_quantile(0.99, sum by (le) (rate(traflux_tick_duration_seconds_bucket[5m])))",
        ),
        (
            "traflux:push_to_ack_seconds:p95",
            "histogram_quantile(0.95, sum by (le) (rate(traflux_push_to_ack_seconds_bucket[5m])))",
        ),
        ("traflux:stage_errors:rate5m", "sum by (stage, code) (rate(traflux_stage_errors_total[5m]))"),
        ("traflux:guard_actions:rate5m", "sum by (reason) (rate(traflux_guard_actions_total[5m]))"),
    ];
    for (name, expression) in recorded {
        line(&mut text, 6, &format!("- record: {name}"));
        line(&mut text, 8, &format!("expr: {}", quoted(expression)));
    }
    line(&mut text, 2, "- name: traflux-alerts");
    line(&mut text, 4, "rules:");
    let minute = Duration::from_secs(60);
    let alerts = [
        Alert {
            name: "TrafluxLadderNotNormal",
            expression: "max(traflux_ladder_rung) > 0".into(),
            wait: rules.ladder_for,
            severity: "page",
            summary: "Traflux has no usable metrics and holds its plan or goes to the static weights",
        },
        Alert {
            name: "TrafluxMetricsStale",
            expression: format!("max(traflux_telemetry_age_seconds) > {}", rules.stale_after.as_secs_f64()),
            wait: Duration::ZERO,
            severity: "page",
            summary: "The freshest measurement of any route is too old",
        },
        Alert {
            name: "TrafluxNack",
            // A counter's first value is no increase, so a fresh series counts as well.
            expression: "sum by (group) (increase(traflux_nacks_total[5m])) > 0 or sum by (group) \
                         (traflux_nacks_total unless traflux_nacks_total offset 5m) > 0"
                .into(),
            wait: Duration::ZERO,
            severity: "page",
            summary: "A data plane refused a plan; the version is parked and the last good one in force",
        },
        Alert {
            name: "TrafluxPlanNotInForce",
            expression: format!(
                "traflux_in_force_lag_seconds > {}",
                rules.unacknowledged_after.as_secs_f64()
            ),
            wait: Duration::ZERO,
            severity: "warn",
            summary: "A node group has not acknowledged the plan that was sent",
        },
        Alert {
            name: "TrafluxOverloaded",
            expression: "max(traflux_theta) > 1".into(),
            wait: minute,
            severity: "page",
            summary: "Demand exceeds the capacity that can be counted on, however it is split",
        },
        Alert {
            name: "TrafluxStageErrors",
            expression: "sum by (stage, code) (rate(traflux_stage_errors_total[5m])) > 0.1".into(),
            wait: minute,
            severity: "warn",
            summary: "A stage of the loop keeps failing",
        },
        Alert {
            name: "TrafluxAbsent",
            expression: "absent(traflux_ticks_total)".into(),
            wait: rules.absent_for,
            severity: "page",
            summary: "No Traflux is scraped; data planes keep their last weights",
        },
    ];
    for alert in alerts {
        line(&mut text, 6, &format!("- alert: {}", alert.name));
        line(&mut text, 8, &format!("expr: {}", quoted(&alert.expression)));
        if !alert.wait.is_zero() {
            line(&mut text, 8, &format!("for: {}", promql_duration(alert.wait)));
        }
        line(&mut text, 8, &format!("labels: {{severity: {}}}", alert.severity));
        line(&mut text, 8, &format!("annotations: {{summary: {}}}", quoted(alert.summary)));
    }
    text
}

struct Alert {
    name: &'static str,
    expression: String,
    wait: Duration,
    severity: &'static str,
    summary: &'static str,
}

fn line(text: &mut String, indent: usize, content: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:indent$}{content}", "");
}

/// A double-quoted YAML string. JSON's is one.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_labels_each_target_with_its_source_and_asks_for_used_series_only() {
        let text = prometheus_config(&PrometheusBootstrap {
            envoys: vec![
                EnvoyTarget { source: "us".into(), admin: "127.0.0.1:19001".into() },
                EnvoyTarget { source: "e\"u".into(), admin: "127.0.0.1:19002".into() },
            ],
            traflux: vec![TrafluxTarget { address: "127.0.0.1:9800".into() }],
            ..PrometheusBootstrap::default()
        });
        assert!(text.contains("metrics_path: /stats/prometheus\n    params:\n      usedonly: [\"\"]\n"));
        assert!(text.contains("- targets: [\"127.0.0.1:19001\"]\n        labels: {traflux_source: \"us\"}"));
        assert!(text.contains(r#"labels: {traflux_source: "e\"u"}"#));
        assert!(text.contains("scrape_interval: 1s\n  scrape_timeout: 900ms"));
    }

    #[test]
    fn every_metric_in_the_rules_is_exported() {
        let exported = crate::exporter::tests::full().encode();
        let rules = prometheus_rules(&AlertingRules::default());
        let words = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let mut found = 0;
        for word in words.filter(|word| word.starts_with("traflux_")) {
            let family = word.trim_end_matches("_bucket").trim_end_matches("_total");
            assert!(exported.contains(&format!("# TYPE {family} ")), "{word}");
            found += 1;
        }
        assert!(found >= 12, "{found}");
    }
}
