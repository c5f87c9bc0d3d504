//! Has every row that the compiler calls native a trace here?

use std::collections::BTreeSet;

use serde_json::json;
use traflux_core::plan::requests::RequestPlan;
use traflux_xds::requests::{RequestOptions, Support, compile};

/// A plan with every field set, and one of those that are native only where others are not set.
const MAXIMAL: &str = include_str!("../../../traflux-xds/tests/data/requests.json");

const SOURCES: &[&str] = &[
    include_str!("../envoy.rs"),
    include_str!("../envoy_balance/mod.rs"),
    include_str!("../envoy_choice/mod.rs"),
    include_str!("../envoy_compare/mod.rs"),
    include_str!("../envoy_health/mod.rs"),
    include_str!("../envoy_limits/mod.rs"),
    include_str!("../envoy_paths/mod.rs"),
    include_str!("../envoy_session/mod.rs"),
    include_str!("../envoy_wire/mod.rs"),
];

/// Which test sends requests through what; names and places in lists are left out of the rows.
const TRACED: &[(&str, &str)] = &[
    ("backends.connect_timeout_ms", "a_connection_that_takes_too_long_is_given_up"),
    ("backends.draining", "what_drains_gets_nothing_new_and_ends_what_it_has"),
    ("backends.http2", "backends_of_http2_are_reached_and_probed_by_grpc"),
    ("backends.key", "shares_turns_keys_paths_and_fallbacks_are_those_of_the_plan"),
    ("backends.tls.server_name", "a_backend_is_asked_for_the_name_that_the_plan_gives_it"),
    ("backends.url", "shares_turns_keys_paths_and_fallbacks_are_those_of_the_plan"),
    ("backends.url.draining", "what_drains_gets_nothing_new_and_ends_what_it_has"),
    ("balance.bounded", "a_session_that_is_not_bounded_stays_whatever_the_load"),
    ("balance.choices", "so_many_are_compared_as_the_plan_says"),
    ("balance.compare_all_up_to", "so_many_are_compared_as_the_plan_says"),
    ("balance.load_factor", "no_endpoint_takes_more_of_a_session_than_the_factor_allows"),
    ("balance.overprovisioning", "a_tier_overflows_when_it_fell_as_far_as_the_plan_says"),
    ("balance.slow_start", "an_endpoint_whose_probe_passes_again_grows_as_in_the_engine"),
    ("congestion.pass_load_reports", "load_reports_pass_where_the_plan_lets_them"),
    ("health.outlier.always_eject_one", "no_more_are_sent_away_than_the_share_allows"),
    ("health.outlier.consecutive_errors", "the_same_failures_eject_at_the_same_request"),
    ("health.outlier.consecutive_gateway_errors", "each_kind_of_failure_counts_for_its_own_rule"),
    ("health.outlier.failure_min_endpoints", RATES),
    ("health.outlier.failure_min_requests", RATES),
    ("health.outlier.failure_share", RATES),
    ("health.outlier.interval_ms", RATES),
    ("health.outlier.max_ejected_share", "no_more_are_sent_away_than_the_share_allows"),
    ("health.outlier.success_rate_min_endpoints", RATES),
    ("health.outlier.success_rate_min_requests", RATES),
    ("health.outlier.success_rate_stdev_factor", RATES),
    ("health.panic_threshold", "with_too_few_well_endpoints_all_are_used"),
    ("health.probe.assume_healthy", "with_too_few_well_endpoints_all_are_used"),
    ("health.probe.healthy_threshold", "probes_pass_in_time_and_as_often_as_the_plan_says"),
    ("health.probe.interval_ms", "probes_come_as_often_as_the_plan_says"),
    ("health.probe.jitter", "probes_come_as_often_as_the_plan_says"),
    ("health.probe.probe", "probes_pass_in_time_and_as_often_as_the_plan_says"),
    ("health.probe.timeout_ms", "probes_pass_in_time_and_as_often_as_the_plan_says"),
    ("health.probe.unhealthy_interval_ms", "probes_come_as_often_as_the_plan_says"),
    ("health.probe.unhealthy_threshold", "timeouts_retries_ejections_and_bounds_hold"),
    ("health.probe_ends_ejection", "a_passed_probe_ends_an_ejection_where_the_plan_says_so"),
    ("identity.anonymous", RULES),
    ("identity.trusted_headers.tenant", RULES),
    ("identity.trusted_headers.user", "limits_grant_their_burst_and_what_refills_for_each_key_apart"),
    ("identity.trusted_headers.user_tier", RULES),
    ("limits.amount", LIMITS),
    ("limits.burst", LIMITS),
    ("limits.by", LIMITS),
    ("limits", CONDITIONS),
    ("limits.match.headers", CONDITIONS),
    ("limits.match.host", CONDITIONS),
    ("limits.match.method", LIMITS),
    ("limits.match.path", LIMITS),
    ("limits.match.query", LIMITS),
    ("limits.match.tenant", CONDITIONS),
    ("limits.match.user_tier", CONDITIONS),
    ("limits.name", LIMITS),
    ("limits.overrides", LIMITS),
    ("limits.period_ms", LIMITS),
    ("limits.shape", LIMITS),
    ("limits.unit", LIMITS),
    ("pool.idle_timeout_ms", POOLS),
    ("pool.max_connections", POOLS),
    ("pool.max_pending", POOLS),
    ("pool.max_requests", POOLS),
    ("pool.max_requests_per_connection", POOLS),
    ("pool.max_streams_per_connection", "a_connection_has_no_more_streams_than_the_plan_says"),
    ("queue", "who_finds_no_room_is_refused_at_once"),
    ("retry.base_ms", "attempts_are_as_many_and_as_far_apart_as_the_plan_says"),
    ("retry.budget.concurrency_share", "no_more_retries_are_in_flight_than_the_budget_lets"),
    ("retry.budget.min_concurrency", "no_more_retries_are_in_flight_than_the_budget_lets"),
    ("retry.max_attempts", "attempts_are_as_many_and_as_far_apart_as_the_plan_says"),
    ("retry.max_ms", "attempts_are_as_many_and_as_far_apart_as_the_plan_says"),
    ("retry.retry_on.connect_failure", "shares_turns_keys_paths_and_fallbacks_are_those_of_the_plan"),
    ("retry.retry_on.gateway_error", "the_same_failures_are_tried_again"),
    ("retry.retry_on.reset", "what_may_be_sent_twice_is_sent_again_over_another_connection"),
    ("routing.rules.match.headers", RULES),
    ("routing.rules.match.host", RULES),
    ("routing.rules.match.method", RULES),
    ("routing.rules.match.path", RULES),
    ("routing.rules.match.query", RULES),
    ("routing.rules.match.tenant", RULES),
    ("routing.rules.match.user_tier", RULES),
    ("routing.rules.name", RULES),
    ("routing.rules.priority", RULES),
    ("route.algorithm", "shares_turns_keys_paths_and_fallbacks_are_those_of_the_plan"),
    ("route.backend", RULES),
    ("route.balance.choices", "so_many_are_compared_as_the_plan_says"),
    ("route.balance.compare_all_up_to", "so_many_are_compared_as_the_plan_says"),
    ("route.balance.load", "so_many_are_compared_as_the_plan_says"),
    ("route.balance.load_factor", "no_endpoint_takes_more_of_a_session_than_the_factor_allows"),
    ("route.balance.objective", "so_many_are_compared_as_the_plan_says"),
    ("route.health_check", "timeouts_retries_ejections_and_bounds_hold"),
    ("route.weight", "shares_turns_keys_paths_and_fallbacks_are_those_of_the_plan"),
    ("routing.strategy", "shares_turns_keys_paths_and_fallbacks_are_those_of_the_plan"),
    ("server.header_timeout_ms", "timeouts_retries_ejections_and_bounds_hold"),
    ("server.limit_headers", CONDITIONS),
    ("server.listen", RULES),
    ("server.max_body_bytes", "timeouts_retries_ejections_and_bounds_hold"),
    ("server.max_header_bytes", "timeouts_retries_ejections_and_bounds_hold"),
    ("server.stream_idle_timeout_ms", "a_silent_stream_is_ended_and_a_slow_head_is_not"),
    (
        "server.tls.tls13_only",
        "clients_meet_the_certificate_the_least_version_and_the_question_for_their_own",
    ),
];

const RULES: &str = "every_request_of_a_trace_meets_the_same_rule_in_envoy_and_in_the_engine";
const LIMITS: &str = "limits_grant_their_burst_and_what_refills_for_each_key_apart";
const CONDITIONS: &str = "limits_count_the_requests_that_fulfil_their_conditions";
const POOLS: &str = "pools_bound_connections_waiting_requests_and_what_one_connection_serves";
const RATES: &str = "rates_are_judged_by_share_by_distance_and_with_enough_requests";

/// A row without the names that users give and places in lists; causes of retries by their own names.
fn kind(path: &str, plan: &RequestPlan) -> String {
    if let Some(place) = path.strip_prefix("retry.retry_on[") {
        let place: usize = place.trim_end_matches(']').parse().unwrap();
        let cause = serde_json::to_value(plan.retry.retry_on[place]).unwrap();
        return format!("retry.retry_on.{}", cause.as_str().unwrap());
    }
    let words: Vec<&str> = path.split('.').map(|word| word.split('[').next().unwrap()).collect();
    let mut kept = Vec::new();
    for (ix, word) in words.iter().enumerate() {
        let named_by_user = ix > 0 && matches!(words[ix - 1], "backends" | "headers" | "query" | "overrides");
        if !named_by_user {
            kept.push(*word);
        }
    }
    let kind = kept.join(".");
    // Routes of rules and the default one are alike.
    let of_route =
        kind.strip_prefix("routing.rules.route.").or_else(|| kind.strip_prefix("routing.default."));
    of_route.map(|row| format!("route.{row}")).unwrap_or(kind)
}

#[test]
fn every_row_that_is_native_has_a_trace() {
    let plain = json!({
        "routing": {
            "rules": [{"name": "least", "route": {"backend": "a", "algorithm": "least-connections", "balance": {
                "choices": 2, "compare_all_up_to": 3, "load": "requests", "objective": "answer", "load_factor": 1.5
            }}}],
            "default": {"backend": "a", "algorithm": "round-robin"}
        },
        "queue": {"max_waiting": 0},
        "identity": {"trusted_headers": {"tenant": "x-tenant"}},
        "retry": {"retry_on": ["connect_failure", "reset", "gateway_error"]},
        "health": {"outlier": {"consecutive_errors": 4, "consecutive_gateway_errors": 4}},
        "server": {"stream_idle_timeout_ms": 1000, "request_timeout_ms": 1000, "limit_headers": "none"},
        "limits": [
            {"name": "l", "unit": "requests", "amount": 5, "match": {"headers": {"x": "1"}, "host": "a", "tenant": "b"}},
            {"name": "never", "unit": "requests", "amount": 5, "match": {"user_tier": "nobody"}}
        ],
        "backends": {"a": {"url": ["http://127.0.0.1:1", "http://127.0.0.1:2"]}}
    });
    // Slow start is native where no route compares endpoints.
    let turns = json!({
        "routing": {"default": {"backend": "a", "algorithm": "round-robin"}},
        "balance": {"slow_start": {"window_ms": 1000}},
        "backends": {"a": {"url": ["http://127.0.0.1:1", "http://127.0.0.1:2"]}}
    });
    let tiers = json!({
        "identity": {"trusted_headers": {"user_tier": "x-tier"}},
        "limits": [{"name": "l", "unit": "requests", "amount": 5, "match": {"user_tier": "gold"}}]
    });
    let mut found = BTreeSet::new();
    for text in [MAXIMAL.to_owned(), plain.to_string(), turns.to_string(), tiers.to_string()] {
        let plan: RequestPlan = serde_json::from_str(&text).unwrap();
        let compiled = compile(&plan, &RequestOptions::default()).unwrap();
        let native = compiled.fields().iter().filter(|field| field.support == Support::Native);
        found.extend(native.map(|field| kind(&field.path, &plan)));
    }
    let traced: BTreeSet<String> = TRACED.iter().map(|(row, _)| (*row).to_owned()).collect();
    let missing: Vec<_> = found.difference(&traced).collect();
    assert!(missing.is_empty(), "no trace for {missing:?}");
    let needless: Vec<_> = traced.difference(&found).collect();
    assert!(needless.is_empty(), "no native rows, or none that a plan here has: {needless:?}");
    for (row, test) in TRACED {
        let is_there = SOURCES.iter().any(|source| source.contains(&format!("fn {test}()")));
        assert!(is_there, "{row}: there is no test {test}");
    }
}
