//! Can this configuration run?
//!
//! Whatever can be said without opening a port or asking somebody else is said here, for `traflux check` and
//! `traflux run` alike: files are read, the policy is loaded, the solver is found.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use traflux_core::{NodeGroup, Timestamp};
use traflux_prom::{PriceBook, PrometheusSource};
use traflux_xds::{NodeCondition, NodeMatcher, NodeRule, ServerOptions, XdsActuator, XdsOptions};

use super::assemble::{Assembly, Brought, Learns};
use super::discovery::ServicesFile;
use super::run::RunError;
use super::source;
use crate::config::{Built, Config, Resolved};
use crate::controller::StateStore;

/// A configuration with everything that it names, read and checked.
pub struct Prepared {
    pub(super) config: Config,
    pub(super) services_file: Option<ServicesFile>,
    pub(super) token: Option<String>,
    pub(super) assembly: Assembly,
    pub(super) prometheus: Arc<PrometheusSource>,
    pub(super) prices: Option<PriceBook>,
    pub(super) actuator: XdsActuator,
    built: Built,
}

impl Prepared {
    /// The configuration, with the services of the discovery file where there is one.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the configuration comes to before names are resolved.
    #[must_use]
    pub fn built(&self) -> &Built {
        &self.built
    }
}

/// Reads and checks everything that a configuration names.
///
/// # Errors
/// [`RunError`] with the path of the first key that is wrong.
pub async fn prepare(mut config: Config) -> Result<Prepared, RunError> {
    config.check()?;
    let mut services_file = ServicesFile::of(&config);
    if let Some(file) = &mut services_file {
        let in_file = |source| RunError::Discovery { source };
        if let Some(services) = file.look().await.map_err(in_file)? {
            config.services = services;
            config.check().map_err(in_file)?;
        }
    }
    let token = read_token(&config)?;
    let built = config.build(&Resolved::new())?;
    let brought = Brought { learns: Learns::Program, ..Brought::default() };
    let assembly = Assembly::new(&config, &brought)?;
    let prometheus = source::prometheus(&config, &built.fleet.services)?;
    let prices = prices(&config).await?;
    let actuator = actuator(&config).await?;
    if let Some(path) = &config.state_file {
        StateStore::new(path).load(&built.fleet.topology, &built.fleet.fallback)?;
    }
    if let Some(path) = &config.policy.save_to {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(missing) = parent.filter(|parent| !parent.is_dir()) {
            let reason = format!("{} is not a directory", missing.display());
            return Err(RunError::File { key: "policy.save_to", reason });
        }
    }
    Ok(Prepared { config, services_file, token, assembly, prometheus, prices, actuator, built })
}

async fn prices(config: &Config) -> Result<Option<PriceBook>, RunError> {
    let Some(prices) = &config.prices else { return Ok(None) };
    let mut book = source::price_book(prices).map_err(RunError::Prices)?;
    // A file that is broken at the start is a mistake of whoever wrote it; one that breaks later, or a server
    // that does not answer, is ridden out.
    if prices.file.is_some()
        && let Some(problem) = book.poll(Timestamp::ZERO).await.errors.pop()
    {
        return Err(RunError::Prices(problem));
    }
    Ok(Some(book))
}

async fn actuator(config: &Config) -> Result<XdsActuator, RunError> {
    let actuator = XdsActuator::new(node_matcher(config), xds_options(config))?;
    if config.xds.tls.is_some() {
        // Certificates are read when a socket is opened: one that nobody knows of.
        actuator.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    }
    Ok(actuator)
}

fn node_matcher(config: &Config) -> NodeMatcher {
    let rules = config
        .sources
        .iter()
        .map(|source| {
            let nodes = &source.nodes;
            let conditions: Vec<NodeCondition> = [
                nodes.zone.clone().map(NodeCondition::Zone),
                nodes.region.clone().map(NodeCondition::Region),
                nodes.cluster.clone().map(NodeCondition::Cluster),
                nodes.id_prefix.clone().map(NodeCondition::IdPrefix),
            ]
            .into_iter()
            .flatten()
            .collect();
            // Unset: the zone is the source's name.
            let conditions = if conditions.is_empty() {
                vec![NodeCondition::Zone(source.name.clone())]
            } else {
                conditions
            };
            NodeRule { group: NodeGroup(source.name.clone()), conditions }
        })
        .collect();
    NodeMatcher { rules, ..NodeMatcher::default() }
}

fn xds_options(config: &Config) -> XdsOptions {
    let tls = config.xds.tls.as_ref().map(|tls| traflux_xds::TlsOptions {
        certificate: tls.cert_file.clone(),
        key: tls.key_file.clone(),
        client_ca: tls.client_ca_file.clone(),
        authorize_node_id: tls.authorize_node_id,
    });
    XdsOptions {
        server: ServerOptions { max_streams: config.xds.max_streams, tls, ..ServerOptions::default() },
        ..XdsOptions::default()
    }
}

fn read_token(config: &Config) -> Result<Option<String>, RunError> {
    let Some(path) = &config.api.token_file else { return Ok(None) };
    let refuse = |reason: String| RunError::File { key: "api.token_file", reason };
    let text = std::fs::read_to_string(path).map_err(|e| refuse(format!("{}: {e}", path.display())))?;
    let token = text.trim();
    if token.len() < 16 {
        return Err(refuse(format!(
            "{}: token has {} characters, must have at least 16",
            path.display(),
            token.len()
        )));
    }
    Ok(Some(token.to_owned()))
}
