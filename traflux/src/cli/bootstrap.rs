//! `traflux bootstrap`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use traflux_prom::{
    AlertingRules, EnvoyTarget, Histograms, PrometheusBootstrap, TrafluxTarget, prometheus_config,
    prometheus_rules,
};
use traflux_xds::{BootstrapTls, EnvoyBootstrap, envoy_bootstrap};

use super::{ConfigArgs, Failure, read};

#[derive(Debug, Subcommand)]
pub(super) enum BootstrapCommand {
    /// A configuration for one Envoy.
    Envoy(EnvoyArgs),
    /// A configuration for the Prometheus that scrapes the Envoys and Traflux.
    Prometheus(PrometheusArgs),
    /// Recording and alerting rules over Traflux's own metrics.
    Rules,
}

#[derive(Debug, Args)]
pub(super) struct EnvoyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The source that this Envoy belongs to.
    #[arg(long)]
    source: String,
    /// Unique id of this Envoy.
    #[arg(long)]
    node_id: Option<String>,
    /// Where its admin interface listens; keep it on loopback.
    #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// How this Envoy reaches the discovery server; `xds.listen` unless given.
    #[arg(long, value_name = "HOST:PORT")]
    xds: Option<String>,
    /// Receive differences only (delta xDS) instead of whole resources.
    #[arg(long)]
    delta: bool,
    /// Roots of the discovery server's certificate, as Envoy sees the path.
    #[arg(long, requires = "server_name", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Name in that certificate.
    #[arg(long, requires = "ca")]
    server_name: Option<String>,
    /// Certificate that Envoy shows.
    #[arg(long, requires_all = ["ca", "key"], value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Key of that certificate.
    #[arg(long, requires = "cert", value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct PrometheusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// An Envoy: its source and the address of its admin interface. May be repeated.
    #[arg(long = "envoy", value_name = "SOURCE=HOST:PORT", value_parser = envoy_target, required = true)]
    envoys: Vec<EnvoyTarget>,
    /// How Prometheus reaches Traflux's API; `api.listen` unless given.
    #[arg(long, value_name = "HOST:PORT")]
    api: Option<String>,
    /// A file with rules to load; may be repeated.
    #[arg(long = "rules", value_name = "FILE")]
    rule_files: Vec<String>,
}

fn envoy_target(text: &str) -> Result<EnvoyTarget, String> {
    let (source, admin) = text.split_once('=').ok_or_else(|| format!("`{text}` is not SOURCE=HOST:PORT"))?;
    crate::config::host_and_port(admin)?;
    Ok(EnvoyTarget { source: source.to_owned(), admin: admin.to_owned() })
}

pub(super) fn print(command: &BootstrapCommand) -> Result<ExitCode, Failure> {
    let text = match command {
        BootstrapCommand::Envoy(args) => envoy(args)?,
        BootstrapCommand::Prometheus(args) => prometheus(args)?,
        BootstrapCommand::Rules => prometheus_rules(&AlertingRules::default()),
    };
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

fn envoy(args: &EnvoyArgs) -> Result<String, Failure> {
    let config = read(&args.config)?;
    let source = config.sources.iter().find(|s| s.name == args.source).ok_or_else(|| {
        let known: Vec<&str> = config.sources.iter().map(|s| s.name.as_str()).collect();
        format!("--source `{}` is not configured; known: {}", args.source, known.join(", "))
    })?;
    let (xds_host, xds_port) = match &args.xds {
        Some(address) => crate::config::host_and_port(address)?,
        None => (config.xds.listen.ip().to_string(), config.xds.listen.port()),
    };
    let nodes = &source.nodes;
    let bootstrap = EnvoyBootstrap {
        node_id: args.node_id.clone().unwrap_or_else(|| {
            format!("{}{}-1", nodes.id_prefix.as_deref().unwrap_or("envoy-"), source.name)
        }),
        cluster: nodes.cluster.clone().unwrap_or_else(|| "edge".to_owned()),
        group: nodes.zone.clone().unwrap_or_else(|| source.name.clone()),
        region: nodes.region.clone(),
        xds_host,
        xds_port,
        admin: (args.admin.ip(), args.admin.port()),
        delta: args.delta,
        tls: args.ca.as_ref().zip(args.server_name.as_ref()).map(|(ca, name)| BootstrapTls {
            ca: ca.display().to_string(),
            server_name: name.clone(),
            client: args
                .cert
                .as_ref()
                .zip(args.key.as_ref())
                .map(|(cert, key)| (cert.display().to_string(), key.display().to_string())),
        }),
        ..EnvoyBootstrap::default()
    };
    Ok(envoy_bootstrap(&bootstrap)?)
}

fn prometheus(args: &PrometheusArgs) -> Result<String, Failure> {
    let config = read(&args.config)?;
    let prometheus = &config.metrics.prometheus;
    for envoy in &args.envoys {
        if !config.sources.iter().any(|s| s.name == envoy.source) {
            return Err(format!("--envoy: source `{}` is not configured", envoy.source).into());
        }
    }
    Ok(prometheus_config(&PrometheusBootstrap {
        envoys: args.envoys.clone(),
        traflux: vec![TrafluxTarget {
            address: args.api.clone().unwrap_or_else(|| config.api.listen.to_string()),
        }],
        scrape_interval: Duration::from_secs_f64(prometheus.scrape_interval_s),
        source_label: prometheus.source_label.clone(),
        histograms: if prometheus.native_histograms { Histograms::Native } else { Histograms::Classic },
        rule_files: args.rule_files.clone(),
    }))
}
