//! Which algorithm of Envoy's chooses, with which settings?

use traflux_core::plan::balance::{
    BalancePlan, Estimate, LatencyPlan, LoadUnit, Objective, RouteBalancePlan, SlowStartPlan,
};
use traflux_core::plan::health::BreakerPlan;
use traflux_core::plan::routing::Algorithm;

use super::support::Report;
use crate::proto::rich::*;
use crate::proto::*;

/// The policy that comes closest to an algorithm.
pub(crate) fn policy(
    algorithm: Algorithm,
    endpoints: usize,
    balance: &BalancePlan,
    returning: Option<&BreakerPlan>,
) -> LoadBalancingPolicy {
    let slow_start = if balance.slow_start.window.is_zero() {
        returning.filter(|breaker| !breaker.ramp.is_zero()).map(|breaker| SlowStartConfig {
            slow_start_window: duration(breaker.ramp),
            min_weight_percent: Some(Percent { value: breaker.first_share * 100.0 }),
            ..SlowStartConfig::default()
        })
    } else {
        Some(SlowStartConfig {
            slow_start_window: duration(balance.slow_start.window),
            aggression: Some(RuntimeDouble {
                default_value: balance.slow_start.aggression,
                runtime_key: "traflux.slow_start.aggression".into(),
            }),
            min_weight_percent: Some(Percent { value: balance.slow_start.least_share * 100.0 }),
        })
    };
    let (name, config) = match algorithm {
        Algorithm::RoundRobin | Algorithm::Weighted | Algorithm::Adaptive | Algorithm::LeastCost => (
            "envoy.load_balancing_policies.round_robin",
            pack_any(RoundRobin { slow_start_config: slow_start, ..RoundRobin::default() }),
        ),
        Algorithm::LeastConnections | Algorithm::LeastLatency | Algorithm::HotCold => (
            "envoy.load_balancing_policies.least_request",
            pack_any(LeastRequest {
                selection_method: if endpoints <= balance.compare_all_up_to as usize {
                    least_request::SelectionMethod::FullScan.into()
                } else {
                    least_request::SelectionMethod::NChoices.into()
                },
                // Envoy compares two at the least.
                choice_count: uint32(balance.choices.max(2)),
                slow_start_config: slow_start,
                ..LeastRequest::default()
            }),
        ),
        Algorithm::ConsistentHash => (
            "envoy.load_balancing_policies.maglev",
            pack_any(Maglev {
                consistent_hashing_lb_config: Some(ConsistentHashingLbConfig {
                    hash_balance_factor: uint32(percent(balance.load_factor)),
                    ..ConsistentHashingLbConfig::default()
                }),
                ..Maglev::default()
            }),
        ),
    };
    LoadBalancingPolicy {
        policies: vec![load_balancing_policy::Policy {
            typed_extension_config: Some(TypedExtensionConfig {
                name: name.into(),
                typed_config: Some(config),
            }),
        }],
    }
}

/// A factor in whole percent.
pub(crate) fn percent(factor: f64) -> u32 {
    (factor * 100.0).round().clamp(1.0, f64::from(u32::MAX)) as u32
}

fn is_whole_percent(factor: f64) -> bool {
    (factor * 100.0 - (factor * 100.0).round()).abs() < 1e-9
}

/// Says how an algorithm is expressed among so many endpoints.
pub(crate) fn algorithm(
    field: &str,
    algorithm: Algorithm,
    endpoints: usize,
    together: bool,
    equal: bool,
    report: &mut Report,
) {
    if endpoints < 2 {
        return report.native(field, "one endpoint leaves no choice");
    }
    if !together && algorithm != Algorithm::Weighted {
        return report.approximated(
            field,
            "weighted_clusters",
            "the backends differ in protocol, path, key or connect timeout and cannot share a cluster: Envoy draws a backend \
             by weight at random",
        );
    }
    match algorithm {
        Algorithm::RoundRobin => report.native(field, "round_robin"),
        Algorithm::Weighted => report.native(field, "weighted_clusters; round_robin among a backend's endpoints"),
        Algorithm::LeastConnections => report.exact_if(
            equal,
            field,
            "least_request: all of a few endpoints, of more some drawn",
            "with unequal weights Envoy goes round by weight divided by requests in flight instead of comparing",
        ),
        Algorithm::LeastLatency => report.approximated(
            field,
            "least_request",
            "latency is seen only as more requests in flight",
        ),
        Algorithm::HotCold => report.approximated(
            field,
            "least_request",
            "the least busy; latency decides nothing",
        ),
        Algorithm::ConsistentHash => report.approximated(
            field,
            "maglev, hash_balance_factor, hash_policy",
            "bounded as in the plan, but another hash: a key lives at another endpoint than in the engine",
        ),
        Algorithm::Adaptive => report.approximated(
            field,
            "round_robin by the plan's weights",
            "neither latency, errors nor prices count; weights change only when a controller publishes others",
        ),
        Algorithm::LeastCost => {
            report.unsupported(field, "Envoy knows no prices; endpoints are taken in turn by weight");
        }
    }
}

/// Says how the ramp of new endpoints is expressed under an algorithm.
pub(crate) fn slow_start_report(at: &str, plan: &SlowStartPlan, algorithm: Algorithm, report: &mut Report) {
    if plan.window.is_zero() {
        return report.native(at, "none");
    }
    match algorithm {
        Algorithm::RoundRobin | Algorithm::Weighted | Algorithm::Adaptive | Algorithm::LeastCost => {
            report.native(at, "slow_start_config of round_robin");
        }
        Algorithm::LeastConnections | Algorithm::LeastLatency | Algorithm::HotCold => report.approximated(
            at,
            "slow_start_config of least_request",
            "Envoy weighs the endpoint less while it compares; the engine compares it in that share of choices",
        ),
        Algorithm::ConsistentHash => report.unsupported(at, "maglev has no slow start: new endpoints have their whole share"),
    }
}

const PRICES: &str = "Envoy knows no prices";

/// Says how what is said of one route, or in the same words of all, is expressed.
pub(crate) fn route_report(at: &str, own: &RouteBalancePlan, report: &mut Report) {
    let field = |name: &str| format!("{at}.{name}");
    match own.load {
        Some(LoadUnit::Tokens) => {
            report.unsupported(field("load"), "Envoy counts requests in flight, not tokens");
        }
        Some(LoadUnit::Requests) => report.native(field("load"), "requests in flight"),
        None => {}
    }
    match own.objective {
        Some(Objective::FirstToken) => report.unsupported(field("objective"), "Envoy knows no tokens"),
        Some(Objective::Answer) => {
            report.native(field("objective"), "whole answers, as far as latency counts")
        }
        None => {}
    }
    if let Some(choices) = own.choices {
        report.exact_if(choices > 1, field("choices"), "choice_count", "two are compared at the least");
    }
    if own.compare_all_up_to.is_some() {
        report.native(field("compare_all_up_to"), "selection_method");
    }
    if let Some(factor) = own.load_factor {
        let whole = is_whole_percent(factor);
        report.exact_if(whole, field("load_factor"), "hash_balance_factor", "rounded to whole percent");
    }
    if own.least_cost.is_some() {
        report.unsupported(field("least_cost"), PRICES);
    }
    if own.price_exponent.is_some() {
        report.unsupported(field("price_exponent"), PRICES);
    }
}

/// Says how the settings of the plan are expressed.
pub(crate) fn report(plan: &BalancePlan, report: &mut Report) {
    let usual = BalancePlan::default();
    let own = RouteBalancePlan {
        load: (plan.load != usual.load).then_some(plan.load),
        objective: (plan.objective != usual.objective).then_some(plan.objective),
        choices: (plan.choices != usual.choices).then_some(plan.choices),
        compare_all_up_to: (plan.compare_all_up_to != usual.compare_all_up_to)
            .then_some(plan.compare_all_up_to),
        load_factor: (plan.load_factor != usual.load_factor).then_some(plan.load_factor),
        least_cost: (plan.least_cost != usual.least_cost).then_some(plan.least_cost),
        ..RouteBalancePlan::default()
    };
    route_report("balance", &own, report);
    report.exact_if(
        is_whole_percent(plan.overprovisioning),
        "balance.overprovisioning",
        "overprovisioning_factor",
        "rounded to whole percent",
    );
    if !plan.bounded {
        report.native("balance.bounded", "stateful_session keeps sessions whatever the load");
    }
    for (field, changed) in [
        ("probe_one_in", plan.probe_one_in != usual.probe_one_in),
        ("probe_after_ms", plan.probe_after != usual.probe_after),
        ("failure_latencies", plan.failure_latencies != usual.failure_latencies),
        ("hot_quantile", plan.hot_quantile != usual.hot_quantile),
    ] {
        if changed {
            report.unsupported(format!("balance.{field}"), "Envoy does not choose by latency or errors");
        }
    }
    if plan.table_slots != usual.table_slots {
        report.unsupported("balance.table_slots", "left at Envoy's 65,537");
    }
    if plan.latency != usual.latency {
        let why = match plan.latency {
            LatencyPlan { estimate: Estimate::Percentile, .. } => {
                "Envoy does not choose by latency, nor by a percentile of it"
            }
            _ => "Envoy does not choose by latency",
        };
        report.unsupported("balance.latency", why);
    }
    if plan.adaptive != usual.adaptive {
        report.unsupported(
            "balance.adaptive",
            "Envoy adapts no weights: neither latency, errors nor prices count",
        );
    }
    if !plan.slow_start.window.is_zero() && !report.covers("balance.slow_start") {
        report.native("balance.slow_start", "no route is left that it holds for");
    }
}
