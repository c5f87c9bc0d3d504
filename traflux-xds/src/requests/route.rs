//! Which routes say what the rules say?

use std::time::Duration;

use traflux_core::plan::affinity::AffinitySource;
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::retry::{RetryCause, RetryPlan};
use traflux_core::plan::routing::{Algorithm, RoutePlan};

use super::cluster::{Clusters, Target};
use super::identity::{Identity, Source};
use super::matching::{Conditions, Expressed, conditions, header, path_specifier, present_header};
use super::pattern::expression;
use super::support::Report;
use crate::error::XdsError;
use crate::proto::rich::*;
use crate::proto::*;

/// Name of the route configuration.
pub(crate) const ROUTES: &str = "traflux";

/// Methods that may be acted on twice (RFC 9110 §9.2.2).
const IDEMPOTENT: &str = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE";

/// All routes of a plan, and whether one looks at bodies.
pub(crate) fn routes(
    plan: &RequestPlan,
    identity: &Identity,
    clusters: &mut Clusters<'_>,
    report: &mut Report,
) -> Result<(RouteConfiguration, bool), XdsError> {
    let mut routes = Vec::new();
    let mut reads_body = false;
    // Rules of higher priority first; rules of one priority keep the order of the list.
    let mut order: Vec<_> = plan.routing.rules.iter().enumerate().collect();
    order.sort_by_key(|(_, rule)| std::cmp::Reverse(rule.priority));
    for (ix, rule) in order {
        let at = format!("routing.rules[{ix}]");
        report.native(format!("{at}.name"), "name of the route");
        report.native(format!("{at}.priority"), "order of routes");
        let left_out = "the rule is left out";
        let expressed = conditions(&rule.matches, &format!("{at}.match"), left_out, identity, report);
        let target = clusters.target(&rule.name, &format!("{at}.route"), &rule.route, report)?;
        timeout_report(&format!("{at}.route"), &rule.route, report);
        queue_report(&format!("{at}.route"), &rule.route, report);
        if let Expressed::As(conditions) = expressed {
            reads_body |= !conditions.metadata.is_empty();
            routes.extend(variants(plan, identity, &rule.name, &conditions, &rule.route, &target));
        }
    }
    if let Some(route) = &plan.routing.default {
        let target = clusters.target("default", "routing.default", route, report)?;
        timeout_report("routing.default", route, report);
        queue_report("routing.default", route, report);
        routes.extend(variants(plan, identity, "default", &Conditions::default(), route, &target));
    }
    if identity.closed {
        routes = vec![Route {
            name: "closed".into(),
            r#match: Some(RouteMatch { path_specifier: Some(path_specifier(None)), ..RouteMatch::default() }),
            action: Some(respond(401, "no service checks API keys\n")),
            ..Route::default()
        }];
    }
    retry_report(&plan.retry, report);
    silence_report(plan, report);
    let configuration = RouteConfiguration {
        name: ROUTES.into(),
        virtual_hosts: vec![VirtualHost {
            name: ROUTES.into(),
            domains: vec!["*".into()],
            routes,
            ..VirtualHost::default()
        }],
        validate_clusters: Some(BoolValue { value: false }),
        ..RouteConfiguration::default()
    };
    Ok((configuration, reads_body))
}

fn respond(status: u32, text: &str) -> route::Action {
    route::Action::DirectResponse(DirectResponseAction {
        status,
        body: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString(text.into())),
            ..DataSource::default()
        }),
        ..DirectResponseAction::default()
    })
}

/// One rule as a route for requests that may be acted on twice, and one for the others: they differ in what is
/// retried.
fn variants(
    plan: &RequestPlan,
    identity: &Identity,
    name: &str,
    conditions: &Conditions,
    route: &RoutePlan,
    target: &Target,
) -> Vec<Route> {
    let route_of = |also: Option<HeaderMatcher>, action| Route {
        name: name.to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(path_specifier(conditions.path.as_ref())),
            headers: conditions.headers.iter().cloned().chain(also).collect(),
            query_parameters: conditions.query.clone(),
            dynamic_metadata: conditions.metadata.clone(),
            ..RouteMatch::default()
        }),
        action: Some(action),
        ..Route::default()
    };
    if *target == Target::Nowhere {
        return vec![route_of(None, respond(503, "no backend has a URL\n"))];
    }
    let action = |idempotent| {
        route::Action::Route(RouteAction {
            cluster_specifier: Some(match target {
                Target::One(name) => route_action::ClusterSpecifier::Cluster(name.clone()),
                Target::Weighted(list) => route_action::ClusterSpecifier::WeightedClusters(weighted(list)),
                Target::Nowhere => unreachable!("answered above"),
            }),
            // Envoy's own bound is on the whole answer, which would cut streams.
            timeout: duration(Duration::ZERO),
            // Else the bound on silence would cut heads that may take longer.
            idle_timeout: duration(
                plan.server.stream_idle_timeout.max(route.timeout.unwrap_or(plan.server.request_timeout)),
            ),
            retry_policy: Some(retry_policy(plan, route, idempotent)),
            hash_policy: hash_policy(plan, route, identity),
            host_rewrite_specifier: Some(route_action::HostRewriteSpecifier::AutoHostRewrite(BoolValue {
                value: true,
            })),
            ..RouteAction::default()
        })
    };
    let unsafe_cause =
        |cause: &RetryCause| !matches!(cause, RetryCause::ConnectFailure | RetryCause::Limited);
    if plan.retry.max_attempts < 2 || !plan.retry.retry_on.iter().any(unsafe_cause) {
        return vec![route_of(None, action(false))];
    }
    vec![
        route_of(Some(header(":method", expression(IDEMPOTENT))), action(true)),
        route_of(Some(present_header("idempotency-key", true)), action(true)),
        route_of(None, action(false)),
    ]
}

fn weighted(list: &[(String, u32)]) -> WeightedCluster {
    WeightedCluster {
        clusters: list
            .iter()
            .map(|(name, weight)| weighted_cluster::ClusterWeight {
                name: name.clone(),
                weight: uint32(*weight),
                ..weighted_cluster::ClusterWeight::default()
            })
            .collect(),
        ..WeightedCluster::default()
    }
}

/// What identifies a session, for policies that hash.
fn hash_policy(plan: &RequestPlan, route: &RoutePlan, identity: &Identity) -> Vec<route_action::HashPolicy> {
    use route_action::hash_policy::PolicySpecifier as P;
    if route.algorithm.unwrap_or(plan.routing.strategy) != Algorithm::ConsistentHash {
        return Vec::new();
    }
    let named = |name: &str| {
        P::Header(route_action::hash_policy::Header { header_name: name.to_owned(), ..Default::default() })
    };
    let user = || match (&identity.user, &identity.key) {
        (Source::Header { name, .. }, _) | (_, Source::Header { name, .. }) => named(name),
        _ => P::ConnectionProperties(route_action::hash_policy::ConnectionProperties { source_ip: true }),
    };
    let specifier = match plan.affinity.as_ref().map(|affinity| &affinity.key) {
        Some(AffinitySource::Header(name)) => named(&name.to_ascii_lowercase()),
        Some(AffinitySource::Cookie(name)) => P::Cookie(route_action::hash_policy::Cookie {
            name: name.clone(),
            ..route_action::hash_policy::Cookie::default()
        }),
        Some(AffinitySource::User | AffinitySource::Prefix { .. }) | None => user(),
    };
    vec![route_action::HashPolicy { policy_specifier: Some(specifier), terminal: false }]
}

/// How long an attempt may take to its head.
fn head_timeout(plan: &RequestPlan, route: &RoutePlan) -> Duration {
    plan.retry.per_try_timeout.or(route.timeout).unwrap_or(plan.server.request_timeout)
}

/// Says how the bound on silence is expressed, which is for Envoy also one on heads.
fn silence_report(plan: &RequestPlan, report: &mut Report) {
    let idle = plan.server.stream_idle_timeout;
    let mut routes = plan.routing.rules.iter().map(|rule| &rule.route).chain(&plan.routing.default);
    report.exact_if(
        routes.all(|route| head_timeout(plan, route) == idle),
        "server.stream_idle_timeout_ms",
        "stream_idle_timeout",
        "an answer that began may be silent for as long as its head may take",
    );
}

/// Says that there are no bands to choose from.
fn queue_report(at: &str, route: &RoutePlan, report: &mut Report) {
    for (field, set) in [("band", route.band.is_some()), ("value", route.value.is_some())] {
        if set {
            report.unsupported(format!("{at}.{field}"), "Envoy has no queue of requests");
        }
    }
}

fn timeout_report(at: &str, route: &RoutePlan, report: &mut Report) {
    if route.timeout.is_some() {
        report.approximated(format!("{at}.timeout_ms"), "per_try_idle_timeout", TIMEOUT_GAP);
    }
}

pub(crate) const TIMEOUT_GAP: &str =
    "each attempt has it for itself, and an answer that began may not be silent for longer either";

fn retry_policy(plan: &RequestPlan, route: &RoutePlan, idempotent: bool) -> RetryPolicy {
    let retry = &plan.retry;
    let mut on: Vec<&str> = Vec::new();
    let mut statuses = Vec::new();
    for cause in &retry.retry_on {
        match cause {
            // Nothing of the request has been acted on.
            RetryCause::ConnectFailure => on.extend(["connect-failure", "refused-stream"]),
            RetryCause::Limited => {
                on.push("retriable-status-codes");
                statuses = vec![429, 529];
            }
            RetryCause::Reset if idempotent => on.push("reset"),
            RetryCause::GatewayError | RetryCause::Timeout if idempotent => on.push("gateway-error"),
            RetryCause::ServerError if idempotent => on.push("5xx"),
            _ => {}
        }
    }
    on.sort_unstable();
    on.dedup();
    let base =
        RetryPolicy { per_try_idle_timeout: duration(head_timeout(plan, route)), ..RetryPolicy::default() };
    if retry.max_attempts < 2 || on.is_empty() {
        return RetryPolicy { num_retries: uint32(0), ..base };
    }
    RetryPolicy {
        retry_on: on.join(","),
        num_retries: uint32(retry.max_attempts - 1),
        retriable_status_codes: statuses,
        retry_back_off: Some(retry_policy::RetryBackOff {
            base_interval: duration(retry.base.max(Duration::from_millis(1))),
            max_interval: duration(retry.max.max(retry.base).max(Duration::from_millis(1))),
        }),
        rate_limited_retry_back_off: (!retry.patience.is_zero()).then(|| {
            retry_policy::RateLimitedRetryBackOff {
                reset_headers: vec![retry_policy::ResetHeader {
                    name: "retry-after".into(),
                    format: retry_policy::ResetHeaderFormat::Seconds.into(),
                }],
                max_interval: duration(retry.patience),
            }
        }),
        retry_host_predicate: vec![retry_policy::RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".into(),
            config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(pack_any(
                PreviousHostsPredicate::default(),
            ))),
        }],
        host_selection_retry_max_attempts: 5,
        retry_priority: (!route.fallback.is_empty()).then(|| retry_policy::RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".into(),
            config_type: Some(retry_policy::retry_priority::ConfigType::TypedConfig(pack_any(
                PreviousPrioritiesConfig { update_frequency: 1 },
            ))),
        }),
        ..base
    }
}

fn retry_report(retry: &RetryPlan, report: &mut Report) {
    let default = RetryPlan::default();
    report.native("retry.max_attempts", "num_retries");
    if retry.per_try_timeout.is_some() {
        report.approximated(
            "retry.per_try_timeout_ms",
            "per_try_idle_timeout",
            "an answer that began may not be silent for longer either; it takes the place of the route's timeout",
        );
    }
    for field in ["base_ms", "max_ms"] {
        report.native(format!("retry.{field}"), "retry_back_off: full jitter as in the plan");
    }
    report.approximated(
        "retry.patience_ms",
        "rate_limited_retry_back_off",
        "Retry-After in seconds only; a longer one is ignored and the usual wait is taken",
    );
    if retry.retry_on != default.retry_on {
        for (ix, cause) in retry.retry_on.iter().enumerate() {
            let field = format!("retry.retry_on[{ix}]");
            match cause {
                RetryCause::ConnectFailure => report.native(field, "connect-failure, refused-stream"),
                RetryCause::Limited => report.approximated(
                    field,
                    "retriable-status-codes 429 and 529",
                    "503 with Retry-After counts as gateway_error",
                ),
                RetryCause::Reset => {
                    report.native(field, "reset, for idempotent methods or an idempotency key")
                }
                RetryCause::GatewayError => {
                    report.native(field, "gateway-error, for idempotent methods or an idempotency key");
                }
                RetryCause::ServerError => {
                    report.approximated(field, "5xx", "resets and gateway errors are retried too");
                }
                RetryCause::Timeout => {
                    report.approximated(field, "gateway-error", "502 and 503 are retried too");
                }
            }
        }
    } else {
        report.approximated(
            "retry.retry_on",
            "retry_policy",
            "of what is limited only 429 and 529; 503 with Retry-After counts as gateway_error",
        );
    }
    if retry.hedge.is_some() {
        report.unsupported(
            "retry.hedge",
            "Envoy's hedge_policy sends another attempt only when a per-try timeout has passed, which here bounds silence",
        );
    }
    for field in ["concurrency_share", "min_concurrency"] {
        report.native(format!("retry.budget.{field}"), "retry_budget");
    }
    for field in ["window_ms", "ratio", "min_per_second"] {
        report.unsupported(
            format!("retry.budget.{field}"),
            "Envoy has one bound on retries, and it is that on those in flight",
        );
    }
}
