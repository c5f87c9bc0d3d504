//! Prometheus's own tool judges what is shown and which alerts follow. `cargo xtask test` runs this test; by hand:
//! `PROMTOOL=/path/to/promtool cargo test -p traflux-gateway --test promtool -- --ignored`.
//!
//! The series of the rule tests are not written by hand: two hours and more of traffic run through the real
//! counters, and what they show each minute is what the rules are tested with.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use traflux_gateway::observe::{
    AlertSettings, BackendModel, BandIx, Decider, DeciderIx, Format, LatencyKind, LatencyObjective, Level,
    Levels, Metrics, MetricsLayout, MetricsSettings, Objective, Outcome, ReasonIx, RequestRecord, Route,
    RouteIx, Scrape, SeriesIx, Signal, TenantExposure, WaitObjective, alert_rules,
};

const MINUTES: u64 = 190;

fn promtool(directory: &std::path::Path, arguments: &[&str], stdin: &str) {
    let tool = std::env::var("PROMTOOL").expect("PROMTOOL names the tool");
    let mut command = Command::new(tool);
    command.args(arguments).current_dir(directory).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

fn settings() -> AlertSettings {
    let latency =
        LatencyObjective { of: LatencyKind::TimeToFirstToken, limit: Duration::from_secs(2), share: 0.99 };
    AlertSettings {
        runbook_url: "https://example.org/runbook".into(),
        objectives: vec![
            Objective { name: "chat".into(), latency: Some(latency.clone()), ..Objective::default() },
            Objective {
                name: "odd \"name\"\n{{ \\".into(),
                backend: Some("b \"\\\n".into()),
                model: Some("m".into()),
                success: 0.5,
                latency: Some(LatencyObjective { of: LatencyKind::RequestDuration, ..latency }),
            },
        ],
        waits: vec![WaitObjective { band: "low".into(), limit: Duration::from_secs(2), share: 0.95 }],
        ..AlertSettings::default()
    }
}

/// Levels at a minute.
struct Minute(u64);

impl Levels for Minute {
    fn levels(&self, visit: &mut dyn FnMut(Level<'_>)) {
        let late = self.0 >= 100;
        visit(Level::Queue { band: "low", requests: 3, tokens: 900 });
        visit(Level::Limiter {
            limiter: "tpm",
            unit: "tokens",
            used: if late { 95.0 } else { 50.0 },
            limit: 100.0,
        });
        visit(Level::Exhaustion {
            limit: "monthly",
            within: (self.0 >= 20).then(|| Duration::from_secs(3 * 86_400)),
        });
        visit(Level::Concurrency { backend: "a", in_flight: 4, limit: 8 });
        visit(Level::Ejection { backend: "a", ejected: self.0 >= 180 });
        visit(Level::Ejection { backend: "b", ejected: late });
        visit(Level::PlanShare { rule: "chat", backend: "a", share: 0.5 });
        visit(Level::PlanShare { rule: "chat", backend: "b", share: 0.5 });
        visit(Level::Fairness { scope: "tenants", jain: if late { 0.5 } else { 0.99 } });
        if (110..150).contains(&self.0) {
            visit(Level::Anomaly(&Signal::Split { rule: "chat".into(), backend: "b".into() }));
        }
    }
}

fn layout() -> MetricsLayout {
    MetricsLayout {
        series: ["a", "b"].map(|b| BackendModel { backend: b.into(), model: "m".into() }).into(),
        routes: ["a", "b"].map(|b| Route { rule: "chat".into(), backend: b.into() }).into(),
        deciders: vec![Decider { rule: "chat".into(), algorithm: "peak_ewma".into() }],
        reasons: vec!["allowed".into()],
        bands: vec!["high".into(), "low".into()],
    }
}

/// What each minute's scrape shows.
fn scrapes() -> Vec<String> {
    let metrics = Metrics::new(layout(), &MetricsSettings::default()).unwrap();
    let scrape = |minute| {
        let tenants = TenantExposure::default();
        let (snapshot, levels) = (metrics.snapshot(), Minute(minute));
        Scrape { snapshot: &snapshot, tenants: &tenants, levels: &levels, series_limit: 1000 }
            .to_text(Format::Prometheus)
    };
    let mut scrapes = Vec::new();
    for minute in 0..MINUTES {
        let bad = (60..90).contains(&minute);
        // Backend b is ejected from minute 100 on; nothing at all comes after minute 150.
        for n in 0..if minute < 150 { 600 } else { 0 } {
            let backend = if minute < 100 { n % 2 } else { 0 };
            let troubled = bad && backend == 0;
            let mut recorder = metrics.recorder();
            recorder.decision(DeciderIx(0), ReasonIx(0));
            recorder.pick(RouteIx(backend));
            recorder.queue_wait(BandIx(1), Duration::from_millis(if minute < 100 { 40 } else { 4000 }));
            if troubled {
                recorder.retries(SeriesIx(0), 1);
            }
            recorder.request(&RequestRecord {
                outcome: if troubled && n % 20 == 0 { Outcome::GatewayError } else { Outcome::Success },
                duration: Duration::from_millis(1900),
                time_to_first_token: Some(Duration::from_millis(if troubled { 2500 } else { 2000 })),
                output_tokens: 10,
                ..RequestRecord::new(SeriesIx(backend))
            });
        }
        if minute == 100 {
            metrics.recorder().pick(RouteIx(9));
        }
        scrapes.push(scrape(minute));
    }
    scrapes
}

/// A rule test: the series of the scrapes, and what fires at some minutes.
fn rule_test(scrapes: &[String]) -> String {
    let mut series: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (minute, scrape) in scrapes.iter().enumerate() {
        for line in scrape.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let values = series.entry(name).or_default();
            values.resize(minute, "_");
            values.push(value);
        }
    }
    let firing: [(u64, &[&str]); 5] = [
        (59, &[]),
        (
            85,
            &[
                "TrafluxGatewayErrorBudgetBurn",
                "TrafluxGatewayLatencyBudgetBurn",
                "TrafluxGatewayRetryStorm",
                "TrafluxGatewayExhaustionNear",
            ],
        ),
        (98, &["TrafluxGatewayExhaustionNear"]),
        (
            140,
            &[
                "TrafluxGatewayExhaustionNear",
                "TrafluxGatewayLimiterNearLimit",
                "TrafluxGatewayBackendEjected",
                "TrafluxGatewayQueueWait",
                "TrafluxGatewayUnfair",
                "TrafluxGatewaySplitOffPlan",
                "TrafluxGatewayAnomaly",
            ],
        ),
        (
            185,
            &[
                "TrafluxGatewayExhaustionNear",
                "TrafluxGatewayLimiterNearLimit",
                "TrafluxGatewayBackendEjected",
                "TrafluxGatewayAllBackendsEjected",
                "TrafluxGatewayNoTraffic",
                "TrafluxGatewayUnfair",
            ],
        ),
    ];
    let mut text = String::from(
        "rule_files: [rules.yml]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n",
    );
    for (name, values) in &series {
        let name = name.replace('\'', "''");
        writeln!(text, "  - series: '{name}'\n    values: '{}'", values.join(" ").replace("+Inf", "Inf"))
            .unwrap();
    }
    text.push_str("  promql_expr_test:\n");
    for (minute, alerts) in firing {
        // Of the burning budgets only the shortest windows; the long ones remember.
        text.push_str(
            "  - expr: 'count by (alertname) (ALERTS{alertstate=\"firing\",window=~\"|1h\"}) > bool 0'\n",
        );
        writeln!(text, "    eval_time: {minute}m\n    exp_samples:").unwrap();
        for alert in alerts {
            writeln!(text, "    - {{labels: '{{alertname=\"{alert}\"}}', value: 1}}").unwrap();
        }
        if alerts.is_empty() {
            text.truncate(text.trim_end().len());
            text.push_str(" []\n");
        }
    }
    text.push_str(concat!(
        "  alert_rule_test:\n",
        "  - eval_time: 140m\n    alertname: TrafluxGatewayLimiterNearLimit\n    exp_alerts:\n",
        "    - exp_labels: {severity: warn, limiter: tpm, unit: tokens}\n",
        "      exp_annotations:\n",
        "        summary: Limiter tpm is nearly full\n",
        "        description: Limiter tpm (tokens) is at 95% of its limit.\n",
        "        runbook_url: https://example.org/runbook#trafluxgatewaylimiternearlimit\n",
        "  - eval_time: 85m\n    alertname: TrafluxGatewayErrorBudgetBurn\n    exp_alerts:\n",
    ));
    // A tenth of 300 requests a minute fails from minute 60 on: in 26 of the 60 minutes of the hour, of all 86.
    for (window, severity, ratio) in
        [("1h", "page", "4.333%"), ("6h", "page", "3.023%"), ("3d", "warn", "3.023%")]
    {
        writeln!(text, "    - exp_labels: {{severity: {severity}, backend: a, model: m, objective: chat, window: {window}}}").unwrap();
        text.push_str("      exp_annotations:\n        summary: Backend a uses up its error budget\n");
        writeln!(
            text,
            "        description: '{ratio} of the requests to a (model m) failed in the last {window}; objective chat \
             allows 0.1 %.'\n        runbook_url: https://example.org/runbook#trafluxgatewayerrorbudgetburn"
        )
        .unwrap();
    }
    text.push_str("- interval: 1m\n  input_series: []\n  promql_expr_test:\n");
    text.push_str("  - {expr: 'ALERTS{alertstate=\"firing\"}', eval_time: 10m, exp_samples: [{labels: 'ALERTS{alertname=\"TrafluxGatewayAbsent\",alertstate=\"firing\",severity=\"page\"}', value: 1}]}\n");
    text
}

#[test]
#[ignore = "needs promtool, named by PROMTOOL"]
fn promtool_accepts_the_metrics_and_the_rules_and_the_right_alerts_fire() {
    let directory = tempfile::tempdir().unwrap();
    let scrapes = scrapes();
    promtool(directory.path(), &["check", "metrics"], scrapes.last().unwrap());
    let rules = alert_rules(&settings(), &MetricsSettings::default()).unwrap();
    std::fs::write(directory.path().join("rules.yml"), &rules).unwrap();
    std::fs::write(directory.path().join("test.yml"), rule_test(&scrapes)).unwrap();
    promtool(directory.path(), &["check", "rules", "rules.yml"], "");
    promtool(directory.path(), &["test", "rules", "test.yml"], "");
}

#[test]
fn every_metric_in_the_rules_is_shown() {
    // Some series are there only while something is unusual.
    let shown = scrapes().concat();
    let rules = alert_rules(&settings(), &MetricsSettings::default()).unwrap();
    let mut found = 0;
    for word in rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        // What became of changes is told by the process.
        if word.starts_with("traflux_gateway_") && !word.ends_with("_failing") {
            let family = word.trim_end_matches("_bucket").trim_end_matches("_count");
            assert!(shown.contains(&format!("# TYPE {family} ")), "{word}");
            found += 1;
        }
    }
    assert!(found >= 30, "{found}");
}

#[test]
fn every_alert_has_a_severity_a_summary_a_description_with_a_value_and_a_place_in_the_runbook() {
    let rules = alert_rules(&settings(), &MetricsSettings::default()).unwrap();
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 20, "{}", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap().to_ascii_lowercase();
        assert!(alert.contains("severity: page") || alert.contains("severity: warn"), "{alert}");
        assert!(alert.contains("summary: \"") && alert.contains("description: \""), "{alert}");
        assert!(alert.contains(&format!("runbook_url: \"https://example.org/runbook#{name}\"")), "{alert}");
        let whole = ["ejected", "absent", "notraffic", "anomaly"].iter().any(|part| name.contains(part));
        assert!(whole || alert.contains("$value"), "{alert}");
    }
}

#[test]
fn the_runbook_has_a_section_for_every_alert() {
    let runbook = include_str!("../../docs/runbook.md");
    let settings = AlertSettings { runbook_url: AlertSettings::default().runbook_url, ..settings() };
    let rules = alert_rules(&settings, &MetricsSettings::default()).unwrap();
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        assert!(runbook.contains(&format!("\n## {name}\n")), "{name}");
        assert!(alert.contains(&format!("docs/runbook.md#{}", name.to_ascii_lowercase())), "{alert}");
    }
}

#[test]
fn an_objective_that_is_no_bound_of_the_histogram_is_refused() {
    let mut settings = settings();
    settings.objectives[0].latency.as_mut().unwrap().limit = Duration::from_millis(1234);
    let error = alert_rules(&settings, &MetricsSettings::default()).unwrap_err();
    assert_eq!(error.to_string(), "`limit_ms` is 1234, expected one of latency_bounds_ms");
    settings.objectives[0].latency = None;
    settings.objectives[0].success = 1.0;
    assert!(alert_rules(&settings, &MetricsSettings::default()).is_err());
}

#[test]
fn alert_settings_are_read_from_configuration() {
    let text = r#"{"objectives": [{"name": "chat", "backend": "a", "success": 0.99,
        "latency": {"of": "time_to_first_token", "limit_ms": 2000, "share": 0.95}}]}"#;
    let settings: AlertSettings = serde_json::from_str(text).unwrap();
    assert_eq!(settings.objectives[0].latency.as_ref().unwrap().limit, Duration::from_secs(2));
    assert_eq!(settings.limiter_share, 0.9);
    assert!(serde_json::from_str::<AlertSettings>(r#"{"limiter": 1}"#).is_err());
}
