//! The files of `deploy/` are what the program itself would print, and its configuration is valid.
//!
//! After a change run `UPDATE_DOCS=1 cargo test -p traflux --test deploy`.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use traflux::Config;
use traflux_prom::{
    AlertingRules, EnvoyTarget, PrometheusBootstrap, TrafluxTarget, prometheus_config, prometheus_rules,
};
use traflux_xds::{EnvoyBootstrap, envoy_bootstrap};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn config() -> Config {
    Config::read(&file("traflux.yaml")).unwrap()
}

fn is_what_is_printed(name: &str, printed: &str) {
    let path = file(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, printed).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == printed,
        "deploy/{name} is not what is printed; run `UPDATE_DOCS=1 cargo test -p traflux --test deploy`"
    );
}

#[test]
fn the_envoys_start_with_what_bootstrap_envoy_prints() {
    for source in &config().sources {
        let printed = envoy_bootstrap(&EnvoyBootstrap {
            node_id: format!("envoy-{}-1", source.name),
            group: source.name.clone(),
            xds_host: "traflux".to_owned(),
            // Reached by Prometheus over the network of the compose file; not published.
            admin: ([0, 0, 0, 0].into(), 9901),
            ..EnvoyBootstrap::default()
        });
        is_what_is_printed(&format!("envoy-{}.yaml", source.name), &printed.unwrap());
    }
}

#[test]
fn prometheus_scrapes_what_bootstrap_prometheus_prints() {
    let config = config();
    let printed = prometheus_config(&PrometheusBootstrap {
        envoys: config
            .sources
            .iter()
            .map(|s| EnvoyTarget { source: s.name.clone(), admin: format!("envoy-{}:9901", s.name) })
            .collect(),
        traflux: vec![TrafluxTarget { address: format!("traflux:{}", config.api.listen.port()) }],
        scrape_interval: Duration::from_secs_f64(config.metrics.prometheus.scrape_interval_s),
        rule_files: vec!["rules.yml".to_owned()],
        ..PrometheusBootstrap::default()
    });
    is_what_is_printed("prometheus.yml", &printed);
    is_what_is_printed("rules.yml", &prometheus_rules(&AlertingRules::default()));
}

#[test]
fn the_compose_file_mounts_only_files_that_exist() {
    let compose = std::fs::read_to_string(file("compose.yaml")).unwrap();
    let mounted: Vec<&str> =
        compose.split("./").skip(1).filter_map(|rest| rest.split_once(':').map(|(name, _)| name)).collect();
    assert!(mounted.len() >= 7, "{mounted:?}");
    for name in mounted {
        assert!(file(name).is_file(), "deploy/{name}");
    }
    for endpoint in config().endpoints() {
        let address = endpoint.endpoint.address.as_deref().unwrap();
        let host = address.split(':').next().unwrap();
        assert!(compose.contains(&format!("\n  {host}:")), "{host} is no service of the compose file");
    }
}
