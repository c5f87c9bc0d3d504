//! Which Envoy resources say what a plan for requests says, and how well?
//!
//! [`compile`] is pure: a [`RequestPlan`] in; listener, routes and clusters out, and one [`FieldSupport`] for every
//! field of the plan that is set, and for every one that is as usual and that Envoy does otherwise
//! ([`Compiled::usual`]). What Envoy cannot do is never dropped silently: a field that this compiler does not know is
//! reported as unsupported. [`Compiled::static_config`] writes the same resources as one configuration file.
//!
//! | plan | resource | how |
//! |---|---|---|
//! | rules, `priority` | routes, in that order | native; a rule is up to three routes that differ in what is retried: idempotent methods, requests with an `idempotency-key`, others |
//! | `match.path` | `path`, `path_separated_prefix`, `prefix`, `safe_regex` | native; expressions that RE2 reads otherwise are refused |
//! | `match.method`, `host`, `headers` | header matchers | native |
//! | `match.query` | query parameter matchers | native, in every encoding of a value; not absence, not expressions |
//! | `match.user_tier`, `tenant` | header matchers on `identity.trusted_headers` | native |
//! | `match.model`, `stream` | `json_to_metadata`, `dynamic_metadata` | approximated: JSON bodies, read whole first |
//! | `match.claims`, `estimated_tokens` | | need jwt_authn, ext_proc |
//! | no rule, no default | | native: 404 |
//! | `backend`, `weight` | endpoints of one cluster, or `weighted_clusters` | native |
//! | `algorithm` | `round_robin`, `weighted_clusters`, `least_request` | round-robin, weighted and, with equal weights, least-connections native; consistent-hash (`maglev`), least-latency, hot-cold, adaptive approximated; least-cost unsupported |
//! | `balance` | `choice_count`, `selection_method`, `slow_start_config`, `hash_balance_factor`, `overprovisioning_factor` | native where it is of load, turns or weights (slow start approximated among the least busy, unsupported by hash); unsupported where it is of latency, errors, tokens or prices |
//! | `draining` | `health_status: DRAINING` | native; a backend that drains as a whole is left out of routes |
//! | `fallback` | aggregate cluster, `previous_priorities` | approximated |
//! | `timeout_ms`, `request_timeout_ms` | `per_try_idle_timeout` | approximated: for each attempt; streams are not cut |
//! | backends: `url`, `key`, `tls`, `http2`, `connect_timeout_ms` | `load_assignment`, `UpstreamTlsContext` and, for a path or a key, `lua` in the cluster | native, but that files are read once |
//! | backends: `price`, `models`, `load` | | unsupported |
//! | API keys, `jwt` | `ext_authz` | need a service; without one the configuration refuses every request |
//! | `claims_header` | | needs a proxy in front that passes claims as headers |
//! | limits on requests, `by`, `overrides`, `match` | `local_ratelimit` for each | native for token buckets when there is one limit; several are not reserved together |
//! | limits on tokens, dollars; `max_wait_ms`, `persistent`, `tokens` | | need a rate limit service; unsupported |
//! | `health` | `health_checks`, `outlier_detection` | native, but ejections grow by addition and end without trials |
//! | `pool` | `circuit_breakers`, `HttpProtocolOptions` | native, for each cluster |
//! | `retry` | `retry_policy`, `retry_budget` | native but for rates of retries and `hedge`, which is unsupported |
//! | `affinity` | `stateful_session`, `hash_policy` | approximated |
//! | `congestion` | `adaptive_concurrency`, `admission_control` | approximated: one for all backends; `cool_down`, `signal` and `feedback` unsupported |
//! | `control` | | needs the controller, which sends weights over xDS |
//! | `server` | listener, connection manager, `DownstreamTlsContext`, `body_size_limit` | native but for reload of certificates, waiting connections, body and drain times, silence where heads have another time, and the bound on all bodies together; `limit_headers` and `stream_quiet_after_ms` unsupported |
//!
//! Envoy keeps state for each cluster. A backend that routes use with different algorithms or health checks is several
//! clusters, whose health and connections are counted apart.

mod affinity;
mod balance;
mod cluster;
mod congestion;
mod health;
mod identity;
mod limit;
mod listener;
mod matching;
mod options;
mod pattern;
mod route;
mod support;
mod text;
mod upstream;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use traflux_core::PlanVersion;
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::tokens::TokensPlan;

pub use identity::{KEY_HEADER, TENANT_HEADER, USER_TIER_HEADER};
pub use options::RequestOptions;
pub use support::{FieldSupport, Support, table};

use crate::compile::ads;
use crate::error::XdsError;
use crate::proto::rich::*;
use crate::proto::*;
use crate::resource::{Resource, ResourceKind, ResourceSet, Snapshot};
use support::Report;

/// A plan as Envoy has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    snapshot: Snapshot,
    fields: Vec<FieldSupport>,
    usual: Vec<FieldSupport>,
    bootstrap: Vec<u8>,
}

impl Compiled {
    /// The resources, for a discovery server.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How each field of the plan is expressed, by path.
    #[must_use]
    pub fn fields(&self) -> &[FieldSupport] {
        &self.fields
    }

    /// The fields that the plan leaves as usual and that Envoy does otherwise. Nobody asked for what they say, so they do
    /// not count as [`not_native`](Self::not_native).
    #[must_use]
    pub fn usual(&self) -> &[FieldSupport] {
        &self.usual
    }

    /// The fields that are set and that Envoy does not express just as the plan means them; with none, Envoy does what
    /// the engine does, but for [`usual`](Self::usual).
    pub fn not_native(&self) -> impl Iterator<Item = &FieldSupport> {
        self.fields.iter().filter(|field| field.support != Support::Native)
    }

    /// The same configuration encoded, as Envoy takes it from a file that ends in `.pb`.
    #[must_use]
    pub fn static_config_bytes(&self) -> &[u8] {
        &self.bootstrap
    }

    /// Writes a configuration with which Envoy serves the plan by itself, as YAML.
    ///
    /// # Errors
    /// [`XdsError::Field`] never, unless a field was added to the compiler and not to the writer.
    pub fn static_config(&self) -> Result<String, XdsError> {
        text::yaml("envoy.config.bootstrap.v3.Bootstrap", &self.bootstrap)
    }
}

/// Compiles a plan.
///
/// ```
/// use traflux_core::plan::requests::RequestPlan;
/// use traflux_xds::requests::{RequestOptions, compile};
///
/// let plan: RequestPlan = serde_json::from_str(
///     r#"{"routing": {"rules": [{"name": "chat", "match": {"path": "/v1"}, "route": {"backend": "gpu"}}]},
///         "backends": {"gpu": {"url": "http://127.0.0.1:8000"}}}"#,
/// )?;
/// let compiled = compile(&plan, &RequestOptions::default())?;
/// assert_eq!(compiled.not_native().count(), 0);
/// assert!(compiled.static_config()?.contains("path_separated_prefix: \"/v1\""));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`XdsError`] for a plan that contradicts itself, and for names and URLs that Envoy cannot take.
pub fn compile(plan: &RequestPlan, options: &RequestOptions) -> Result<Compiled, XdsError> {
    plan.validate()?;
    let mut report = Report::default();
    let identity = identity::Identity::new(&plan.identity, options, &mut report);
    let mut clusters = cluster::Clusters::new(plan, options, &mut report)?;
    let (routes, routes_read_body) = route::routes(plan, &identity, &mut clusters, &mut report)?;
    let (limits, limits_read_body) = limit::filters(plan, &identity, &mut report);
    let owned = |(name, config): (&str, Any)| (name.to_owned(), config);
    let mut filters: Vec<(String, Any)> = Vec::new();
    filters.extend(identity::filters(&plan.identity, options, &identity).into_iter().map(owned));
    filters.push(listener::body_limit(&plan.server));
    if routes_read_body || limits_read_body {
        filters.push(owned(matching::body_filter()));
    }
    filters.extend(limits);
    filters.extend(congestion::filters(&plan.congestion, &mut report));
    filters.extend(affinity::filter(plan.affinity.as_ref(), &mut report));
    if plan.tokens != TokensPlan::default() {
        report.unsupported("tokens", "Envoy estimates no tokens; a service that limits them has to");
    }
    if plan.control.is_some() {
        report.needs("control", "the controller (`traflux run`), which sends weights over xDS");
    }
    balance::report(&plan.balance, &mut report);
    health::report(plan, &mut report);
    congestion::queue_report(&plan.queue, &mut report);
    cluster::pool_report(&mut report);
    listener::report(&plan.server, &mut report);

    if !report.covers(support::STRATEGY) {
        report.native(support::STRATEGY, "no route asks for it");
    }

    let clusters = clusters.finish()?;
    let discovered = http_connection_manager::RouteSpecifier::Rds(Rds {
        config_source: ads(),
        route_config_name: route::ROUTES.into(),
    });
    let listener = listener::listener(&plan.server, filters.clone(), discovered)?;
    let inline = http_connection_manager::RouteSpecifier::RouteConfig(routes.clone());
    let standalone = listener::listener(&plan.server, filters, inline)?;
    let bootstrap = bootstrap_of(plan, options, standalone, &clusters)?;

    let json = serde_json::to_value(plan).expect("a plan has text for keys throughout");
    let default = serde_json::to_value(RequestPlan::default()).expect("as above");
    let digest = Sha256::digest(json.to_string());
    let version = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut sets: [BTreeMap<String, Resource>; 4] = Default::default();
    let clusters = clusters.iter().map(|c| (c.name.clone(), Resource::new(c.encode_to_vec())));
    sets[ResourceKind::Cluster.ix()].extend(clusters);
    sets[ResourceKind::Listener.ix()].insert(listener.name.clone(), Resource::new(listener.encode_to_vec()));
    sets[ResourceKind::Route.ix()].insert(routes.name.clone(), Resource::new(routes.encode_to_vec()));
    let (fields, usual) = report.finish(&json, &default);
    Ok(Compiled {
        snapshot: Snapshot::new(PlanVersion::new(version), sets.map(ResourceSet::new)),
        fields,
        usual,
        bootstrap: bootstrap.encode_to_vec(),
    })
}

fn bootstrap_of(
    plan: &RequestPlan,
    options: &RequestOptions,
    listener: Listener,
    clusters: &[Cluster],
) -> Result<Bootstrap, XdsError> {
    let mut admin = match &plan.server.admin {
        Some(text) => listener::socket("server.admin", text)?,
        None => options.admin.into(),
    };
    // Whoever reaches it may change everything, and it asks for no token.
    if !admin.ip().is_loopback() {
        admin.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let connections = i64::try_from(plan.server.max_connections).unwrap_or(i64::MAX).max(1);
    let monitor = DownstreamConnectionsConfig { max_active_downstream_connections: connections };
    Ok(Bootstrap {
        node: Some(Node { id: options.node_id.clone(), cluster: "traflux".into(), ..Node::default() }),
        static_resources: Some(bootstrap::StaticResources {
            listeners: vec![listener],
            clusters: clusters.to_vec(),
            ..bootstrap::StaticResources::default()
        }),
        stats_flush_interval: duration(Duration::from_secs(1)),
        admin: Some(Admin {
            address: upstream::address(&admin.ip().to_string(), admin.port()),
            ..Admin::default()
        }),
        overload_manager: Some(OverloadManager {
            resource_monitors: vec![ResourceMonitor {
                name: "envoy.resource_monitors.global_downstream_max_connections".into(),
                config_type: Some(resource_monitor::ConfigType::TypedConfig(pack_any(monitor))),
            }],
            ..OverloadManager::default()
        }),
        ..Bootstrap::default()
    })
}
