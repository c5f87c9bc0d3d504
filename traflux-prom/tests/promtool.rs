//! Prometheus's own tool judges what we generate. `cargo xtask test` runs this test; by hand:
//! `PROMTOOL=/path/to/promtool cargo test -p traflux-prom --test promtool -- --ignored`.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use traflux_prom::{
    AlertingRules, EnvoyTarget, Histograms, PrometheusBootstrap, TrafluxTarget, prometheus_config,
    prometheus_rules,
};

fn promtool(directory: &std::path::Path, arguments: &[&str]) {
    let tool = std::env::var("PROMTOOL").expect("PROMTOOL names the tool");
    let output = Command::new(tool).args(arguments).current_dir(directory).output().unwrap();
    let said = format!("{output:?}");
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[test]
#[ignore = "needs promtool, named by PROMTOOL"]
fn promtool_accepts_configuration_and_rules() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("rules.yml", &prometheus_rules(&AlertingRules::default()));
    write("test.yml", include_str!("data/rules_test.yml"));
    promtool(directory.path(), &["check", "rules", "rules.yml"]);
    promtool(directory.path(), &["test", "rules", "test.yml"]);
    for histograms in [Histograms::Classic, Histograms::Native] {
        let bootstrap = PrometheusBootstrap {
            envoys: vec![
                EnvoyTarget { source: "us \"1\"".into(), admin: "127.0.0.1:19001".into() },
                EnvoyTarget { source: "eu".into(), admin: "127.0.0.1:19002".into() },
            ],
            traflux: vec![TrafluxTarget { address: "127.0.0.1:9800".into() }],
            rule_files: vec!["rules.yml".into()],
            histograms,
            ..PrometheusBootstrap::default()
        };
        write("prometheus.yml", &prometheus_config(&bootstrap));
        promtool(directory.path(), &["check", "config", "prometheus.yml"]);
    }
    write("prometheus.yml", &prometheus_config(&PrometheusBootstrap::default()));
    promtool(directory.path(), &["check", "config", "prometheus.yml"]);
}
