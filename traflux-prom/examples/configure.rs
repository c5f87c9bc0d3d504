//! Prints a Prometheus configuration, or with `rules` as first argument the rules, for Envoys as
//! `source=host:port`.
//!
//! ```text
//! cargo run -p traflux-prom --example configure -- us=127.0.0.1:19001 eu=127.0.0.1:19002 > prometheus.yml
//! cargo run -p traflux-prom --example configure -- rules > traflux-rules.yml
//! ```

#![allow(clippy::print_stdout)]

use traflux_prom::{
    AlertingRules, EnvoyTarget, Histograms, PrometheusBootstrap, TrafluxTarget, prometheus_config,
    prometheus_rules,
};

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "rules") {
        print!("{}", prometheus_rules(&AlertingRules::default()));
        return Ok(());
    }
    let mut bootstrap = PrometheusBootstrap {
        traflux: vec![TrafluxTarget { address: "127.0.0.1:9800".into() }],
        rule_files: vec!["traflux-rules.yml".into()],
        ..PrometheusBootstrap::default()
    };
    if std::env::var_os("TRAFLUX_NATIVE").is_some() {
        bootstrap.histograms = Histograms::Native;
    }
    for argument in arguments {
        let (source, admin) = argument.split_once('=').ok_or("an Envoy is SOURCE=HOST:PORT")?;
        bootstrap.envoys.push(EnvoyTarget { source: source.into(), admin: admin.into() });
    }
    print!("{}", prometheus_config(&bootstrap));
    Ok(())
}
