//! Which clusters serve a plan?
//!
//! A route to one backend, or to several among which Envoy draws by weight, has a cluster for each backend, shared by
//! all routes that use it in the same manner. A route that chooses among the endpoints of several backends by
//! anything else has one cluster for all of them.

use std::collections::BTreeMap;

use traflux_core::plan::backend::{BackendPlan, KeySource, PricePlan};
use traflux_core::plan::balance::BalancePlan;
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::{Algorithm, RoutePlan};

use super::options::RequestOptions;
use super::support::{Report, STRATEGY};
use super::upstream::{self, ReadBackend, Rewrites};
use super::{balance, health, identity};
use crate::error::XdsError;
use crate::name::metric_name;
use crate::proto::rich::*;
use crate::proto::*;

/// Where a route sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// To one cluster.
    One(String),
    /// To several by weight.
    Weighted(Vec<(String, u32)>),
    /// Nowhere: no backend has a URL.
    Nowhere,
}

/// Clusters by name, while routes are compiled.
#[derive(Debug)]
pub(crate) struct Clusters<'a> {
    plan: &'a RequestPlan,
    options: &'a RequestOptions,
    backends: BTreeMap<&'a str, ReadBackend>,
    rewrites: Rewrites,
    clusters: BTreeMap<String, Cluster>,
}

impl<'a> Clusters<'a> {
    pub(crate) fn new(
        plan: &'a RequestPlan,
        options: &'a RequestOptions,
        report: &mut Report,
    ) -> Result<Self, XdsError> {
        let mut backends = BTreeMap::new();
        for (name, backend) in &plan.backends {
            backend_report(name, backend, report);
            if let Some(read) = ReadBackend::read(name, backend)? {
                backends.insert(name.as_str(), read);
            }
        }
        let rewrites = Rewrites::of(&plan.identity, backends.values().map(|read| &read.manner));
        Ok(Self { plan, options, backends, rewrites, clusters: BTreeMap::new() })
    }

    /// The clusters of a route, made where they are not there yet.
    pub(crate) fn target(
        &mut self,
        label: &str,
        at: &str,
        route: &RoutePlan,
        report: &mut Report,
    ) -> Result<Target, XdsError> {
        let mut members: Vec<(&str, u32)> = Vec::new();
        for (ix, (name, weight)) in route.weights().enumerate() {
            let field = format!("{at}.backend[{ix}]");
            match self.backends.get_key_value(name) {
                Some((name, backend)) => {
                    report.native(&field, "cluster");
                    // A cluster of nothing but draining endpoints would panic and use them all.
                    if weight > 0 && !backend.is_draining() {
                        members.push((name, weight));
                    }
                }
                None => report.unsupported(&field, "the backend has no URL; it is left out"),
            }
        }
        report.native(format!("{at}.weight"), "weights of endpoints or of clusters");
        let algorithm = route.algorithm.unwrap_or(self.plan.routing.strategy);
        let endpoints: usize = members.iter().map(|(name, _)| self.backends[*name].upstreams.len()).sum();
        let alike = members.windows(2).all(|w| self.backends[w[0].0].manner == self.backends[w[1].0].manner);
        let pooled = members.len() > 1 && alike && algorithm != Algorithm::Weighted;
        let field = match route.algorithm {
            Some(_) => format!("{at}.algorithm"),
            None => STRATEGY.to_owned(),
        };
        if endpoints > 1 || route.algorithm.is_some() {
            let equal = self.equal_weights(&members);
            balance::algorithm(&field, algorithm, endpoints, members.len() < 2 || pooled, equal, report);
        }
        let balance = route.balance.map_or(self.plan.balance, |own| self.plan.balance.with(&own));
        if let Some(own) = &route.balance {
            balance::route_report(&format!("{at}.balance"), own, report);
        }
        let prefix = match route.balance {
            Some(own) if own.slow_start.is_some() => format!("{at}.balance"),
            _ => "balance".to_owned(),
        };
        balance::slow_start_report(&format!("{prefix}.slow_start"), &balance.slow_start, algorithm, report);
        self.drain_report(&members, pooled, report);
        if let Some(probed) = route.health_check {
            let note = if probed { "health_checks and outlier_detection" } else { "no outlier_detection" };
            report.native(format!("{at}.health_check"), note);
        }
        let within = if algorithm == Algorithm::Weighted { Algorithm::RoundRobin } else { algorithm };
        let target = if pooled {
            let name = format!("pool-{label}");
            Target::One(self.add(name, &members, algorithm, route.health_check, &balance)?)
        } else {
            let mut named = Vec::new();
            for (name, weight) in members {
                // What drains gets nothing of the backend's share.
                let serving = || self.backends[name].upstreams.iter().filter(|u| !u.draining);
                let first = serving().map(|u| u.tier).min();
                let sum = serving().filter(|u| Some(u.tier) == first).map(|u| u.weight).sum();
                let own = route.balance.is_some().then_some(label);
                let cluster = self.add_single(name, within, route.health_check, &balance, own)?;
                named.push((cluster, weight.saturating_mul(sum)));
            }
            match named.len() {
                0 => Target::Nowhere,
                1 => Target::One(named.remove(0).0),
                _ => Target::Weighted(named),
            }
        };
        let own = route.balance.is_some().then_some(label);
        self.with_fallback(at, route, within, target, (&balance, own), report)
    }

    /// Puts the backends to turn to behind those of the route.
    fn with_fallback(
        &mut self,
        at: &str,
        route: &RoutePlan,
        algorithm: Algorithm,
        target: Target,
        (balance, own): (&BalancePlan, Option<&str>),
        report: &mut Report,
    ) -> Result<Target, XdsError> {
        let mut behind = Vec::new();
        for (ix, fallback) in route.fallback.iter().enumerate() {
            let field = format!("{at}.fallback[{ix}]");
            if !fallback.on.is_empty() {
                let why = "Envoy turns to the next cluster for any failure that it retries";
                report.unsupported(format!("{field}.on"), why);
            }
            if fallback.budget.is_some() {
                let why = "Envoy bounds retries in flight, not what falls on one cluster";
                report.unsupported(format!("{field}.budget"), why);
            }
            if let Some((name, backend)) = self.backends.get_key_value(fallback.backend.as_str()) {
                let (name, drains) = (*name, backend.is_draining());
                report.approximated(
                    field,
                    "aggregate cluster, retries to previous_priorities",
                    "Envoy turns to it when endpoints are unhealthy or by a retry, not when limits or quota are used up",
                );
                if !drains {
                    behind.push(self.add_single(name, algorithm, route.health_check, balance, own)?);
                }
            } else {
                report.unsupported(field, "the backend has no URL; it is left out");
            }
        }
        if behind.is_empty() {
            return Ok(target);
        }
        let firsts: Vec<String> = match &target {
            Target::One(name) => vec![name.clone()],
            Target::Weighted(list) => list.iter().map(|(name, _)| name.clone()).collect(),
            Target::Nowhere => Vec::new(),
        };
        let mut aggregate = |first: Option<&String>| {
            let mut order: Vec<String> = first.cloned().into_iter().collect();
            let others = firsts.iter().filter(|name| Some(*name) != first);
            for name in others.chain(&behind) {
                if !order.contains(name) {
                    order.push(name.clone());
                }
            }
            self.add_aggregate(order)
        };
        Ok(match target {
            Target::One(name) => Target::One(aggregate(Some(&name))?),
            Target::Nowhere => Target::One(aggregate(None)?),
            Target::Weighted(list) => Target::Weighted(
                list.into_iter()
                    .map(|(name, weight)| Ok((aggregate(Some(&name))?, weight)))
                    .collect::<Result<_, XdsError>>()?,
            ),
        })
    }

    fn add_aggregate(&mut self, order: Vec<String>) -> Result<String, XdsError> {
        let name = order.join("--then--");
        let cluster = Cluster {
            name: name.clone(),
            lb_policy: cluster::LbPolicy::ClusterProvided.into(),
            cluster_discovery_type: Some(cluster::ClusterDiscoveryType::ClusterType(
                cluster::CustomClusterType {
                    name: "envoy.clusters.aggregate".into(),
                    typed_config: Some(pack_any(AggregateConfig { clusters: order })),
                },
            )),
            ..Cluster::default()
        };
        self.insert(name, cluster)
    }

    fn add_single(
        &mut self,
        backend: &'a str,
        algorithm: Algorithm,
        probed: Option<bool>,
        balance: &BalancePlan,
        own: Option<&str>,
    ) -> Result<String, XdsError> {
        let mut name = metric_name(backend);
        // A route that says something of its own about balancing has clusters of its own.
        if let Some(label) = own {
            name.push_str("--of-");
            name.push_str(&metric_name(label));
        }
        // The plain name is that of what most routes want.
        if algorithm != self.plan.routing.strategy {
            name.push_str("--");
            name.push_str(algorithm.name());
        }
        self.add(name, &[(backend, 1)], algorithm, probed, balance)
    }

    fn add(
        &mut self,
        name: String,
        members: &[(&str, u32)],
        algorithm: Algorithm,
        probed: Option<bool>,
        balance: &BalancePlan,
    ) -> Result<String, XdsError> {
        let mut name = metric_name(&name);
        match probed {
            Some(true) => name.push_str("--probed"),
            Some(false) => name.push_str("--unwatched"),
            None => {}
        }
        let members: Vec<_> =
            members.iter().map(|(name, weight)| (*name, &self.backends[*name], *weight)).collect();
        let cluster = self.cluster(&name, &members, algorithm, probed, balance);
        self.insert(name, cluster)
    }

    fn insert(&mut self, name: String, cluster: Cluster) -> Result<String, XdsError> {
        match self.clusters.insert(name.clone(), cluster) {
            Some(before) if before != self.clusters[&name] => {
                Err(XdsError::Duplicate { kind: "cluster", name, owner: "the plan".into() })
            }
            _ => Ok(name),
        }
    }

    /// Says what becomes of endpoints that drain.
    fn drain_report(&self, members: &[(&str, u32)], pooled: bool, report: &mut Report) {
        let panic = self.plan.health.panic_threshold;
        let of = |names: &[(&str, u32)]| {
            let all = || {
                names.iter().flat_map(|(name, _)| &self.backends[*name].upstreams).filter(|u| u.weight > 0)
            };
            all().filter(|u| !u.draining).count() as f64 >= panic * all().count() as f64
        };
        let enough = if pooled { of(members) } else { members.iter().all(|member| of(&[*member])) };
        for (name, _) in members {
            let drains = self.backends[*name].upstreams.iter().enumerate().filter(|(_, u)| u.draining);
            for (ix, _) in drains {
                report.exact_if(
                    enough,
                    format!("backends.{name}.url[{ix}].draining"),
                    "health_status: DRAINING",
                    "it counts as unhealthy: fewer than health.panic_threshold of the cluster are left, so all are used",
                );
            }
        }
    }

    fn equal_weights(&self, members: &[(&str, u32)]) -> bool {
        let weights: Vec<_> = members
            .iter()
            .flat_map(|(name, weight)| {
                self.backends[*name].upstreams.iter().map(move |u| weight.saturating_mul(u.weight))
            })
            .collect();
        weights.windows(2).all(|w| w[0] == w[1])
    }

    fn cluster(
        &self,
        name: &str,
        members: &[(&str, &ReadBackend, u32)],
        algorithm: Algorithm,
        probed: Option<bool>,
        balance: &BalancePlan,
    ) -> Cluster {
        let (health, pool) = (&self.plan.health, &self.plan.pool);
        let manner = &members[0].1.manner;
        let budget = &self.plan.retry.budget;
        let endpoints = members.iter().map(|(_, backend, _)| backend.upstreams.len()).sum();
        Cluster {
            name: name.to_owned(),
            cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
                upstream::discovery(members).into(),
            )),
            dns_lookup_family: cluster::DnsLookupFamily::V4Preferred.into(),
            connect_timeout: duration(manner.connect_timeout),
            load_assignment: Some(upstream::assignment(name, members, balance.overprovisioning)),
            load_balancing_policy: Some(balance::policy(
                algorithm,
                endpoints,
                balance,
                (probed == Some(true)).then_some(&health.breaker),
            )),
            common_lb_config: Some(cluster::CommonLbConfig {
                healthy_panic_threshold: Some(Percent { value: health.panic_threshold * 100.0 }),
                ..cluster::CommonLbConfig::default()
            }),
            typed_extension_protocol_options: [(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
                pack_any(self.http_options(manner)),
            )]
            .into(),
            transport_socket: manner.tls.then(|| upstream::tls(members, self.options)),
            health_checks: (probed == Some(true))
                .then(|| health::probe(health, manner.http2))
                .into_iter()
                .collect(),
            outlier_detection: (probed != Some(false)).then(|| health::outlier(health)),
            circuit_breakers: Some(CircuitBreakers {
                thresholds: vec![Thresholds {
                    max_connections: uint32(pool.max_connections),
                    max_pending_requests: uint32(pool.max_pending),
                    max_requests: uint32(pool.max_requests),
                    retry_budget: Some(RetryBudget {
                        budget_percent: Some(Percent {
                            value: (budget.concurrency_share * 100.0).min(100.0),
                        }),
                        min_retry_concurrency: uint32(budget.min_concurrency),
                        ..RetryBudget::default()
                    }),
                    track_remaining: true,
                    ..Thresholds::default()
                }],
                ..CircuitBreakers::default()
            }),
            ..Cluster::default()
        }
    }

    fn http_options(&self, manner: &upstream::Manner) -> HttpProtocolOptions {
        use http_protocol_options::UpstreamProtocolOptions as P;
        use http_protocol_options::explicit_http_config::ProtocolConfig;
        let pool = &self.plan.pool;
        let http2 = Http2ProtocolOptions {
            max_concurrent_streams: uint32(pool.max_streams_per_connection),
            ..Http2ProtocolOptions::default()
        };
        let explicit = |protocol| {
            P::ExplicitHttpConfig(http_protocol_options::ExplicitHttpConfig {
                protocol_config: Some(protocol),
            })
        };
        let protocol = if manner.tls {
            P::AutoConfig(http_protocol_options::AutoHttpConfig {
                http2_protocol_options: Some(http2),
                ..http_protocol_options::AutoHttpConfig::default()
            })
        } else if manner.http2 {
            explicit(ProtocolConfig::Http2ProtocolOptions(http2))
        } else {
            explicit(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()))
        };
        let filter = |(name, config): (&str, Any)| HttpFilter {
            name: name.to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(config)),
            ..HttpFilter::default()
        };
        HttpProtocolOptions {
            common_http_protocol_options: Some(CommonHttpOptions {
                idle_timeout: duration(pool.idle_timeout),
                max_requests_per_connection: pool.max_requests_per_connection.and_then(uint32),
                ..CommonHttpOptions::default()
            }),
            http_filters: upstream::filters(manner, self.rewrites).into_iter().map(filter).collect(),
            upstream_protocol_options: Some(protocol),
            ..HttpProtocolOptions::default()
        }
    }

    /// All clusters, with that of the authorization service where there is one.
    pub(crate) fn finish(mut self) -> Result<Vec<Cluster>, XdsError> {
        let host = self.options.authorization.as_ref();
        if let Some(host) = host.filter(|_| super::identity::is_secured(&self.plan.identity)) {
            let name = identity::AUTHORIZATION_CLUSTER;
            let cluster = Cluster {
                name: name.into(),
                cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
                    cluster::DiscoveryType::StrictDns.into(),
                )),
                connect_timeout: duration(self.options.authorization_timeout),
                load_assignment: Some(ClusterLoadAssignment {
                    cluster_name: name.into(),
                    endpoints: vec![LocalityLbEndpoints {
                        lb_endpoints: vec![LbEndpoint {
                            host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
                                address: upstream::address(&host.address, host.port),
                                ..Endpoint::default()
                            })),
                            ..LbEndpoint::default()
                        }],
                        ..LocalityLbEndpoints::default()
                    }],
                    ..ClusterLoadAssignment::default()
                }),
                ..Cluster::default()
            };
            self.insert(name.into(), cluster)?;
        }
        Ok(self.clusters.into_values().collect())
    }
}

fn backend_report(name: &str, backend: &BackendPlan, report: &mut Report) {
    let at = |field: &str| format!("backends.{name}.{field}");
    for ix in 0..backend.url.len() {
        report.native(
            at(&format!("url[{ix}]")),
            "load_assignment: address, weight, priority, region; auto_host_rewrite; lua in the cluster for a path",
        );
    }
    match backend.key {
        Some(KeySource::Env(_)) => report
            .native(at("key"), "lua in the cluster: in place of the client's key, else in authorization"),
        Some(KeySource::File(_)) => report.approximated(
            at("key"),
            "lua in the cluster: in place of the client's key, else in authorization",
            "read when Envoy starts, not when the file changes",
        ),
        None => {}
    }
    if backend.price != PricePlan::default() {
        report.unsupported(at("price"), "Envoy knows no prices");
    }
    for model in backend.models.keys() {
        report.unsupported(
            at(&format!("models.{model}")),
            "Envoy does not choose backends by model; rules that match models do",
        );
    }
    if backend.draining {
        report.native(at("draining"), "left out of routes");
    } else if backend.is_draining() {
        for ix in 0..backend.url.len() {
            report.native(at(&format!("url[{ix}].draining")), "the backend is left out of routes");
        }
    }
    if let Some(tls) = &backend.tls {
        if tls.server_name.is_some() {
            report.native(at("tls.server_name"), "UpstreamTlsContext: sni, match_typed_subject_alt_names");
        }
        for (field, file) in [
            ("authority_file", &tls.authority_file),
            ("certificate_file", &tls.certificate_file),
            ("key_file", &tls.key_file),
        ] {
            if file.is_some() {
                report.approximated(
                    at(&format!("tls.{field}")),
                    "UpstreamTlsContext: trusted_ca, tls_certificates",
                    "read when Envoy starts, not when the file changes",
                );
            }
        }
    }
    if backend.load.is_some() {
        report.unsupported(
            at("load"),
            "Envoy asks no server for its metrics; it reads ORCA reports where its balancer is told to",
        );
    }
    report.native(at("connect_timeout_ms"), "connect_timeout");
    report.native(at("http2"), "http2_protocol_options, with TLS auto_config");
}

/// Says how connections are expressed.
pub(crate) fn pool_report(report: &mut Report) {
    for (field, note) in [
        ("max_connections", "circuit_breakers"),
        ("max_pending", "circuit_breakers"),
        ("max_requests", "circuit_breakers"),
        ("idle_timeout_ms", "common_http_protocol_options"),
        ("max_requests_per_connection", "common_http_protocol_options"),
        ("max_streams_per_connection", "http2_protocol_options"),
    ] {
        report.native(format!("pool.{field}"), format!("{note}, for each cluster"));
    }
}
