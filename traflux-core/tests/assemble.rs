//! The question to the solver: the choice of K limits churn and never traps traffic.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traflux_core::assemble::assemble;
use traflux_core::{
    Action, AssembleConfig, Assembled, Attribution, Consumption, CriticalReason, Estimate, Flow,
    FlowEstimate, GroupIx, GuardConfig, Health, HourlyPrice, Latency, LatencyCurve, Rate, Resource,
    ResourceEstimate, Route, RouteEstimate, Split, Timestamp, Topology, UnitPrice,
};

/// Two flows over endpoints of 100 req/s each; the tier of each endpoint is given.
fn topology(tiers: &[u8]) -> Topology {
    let mut builder = Topology::builder();
    let placed: Vec<_> = tiers
        .iter()
        .enumerate()
        .map(|(ix, tier)| {
            let resource = Resource {
                name: format!("e{ix}"),
                capacity: Rate::per_second(100.0),
                concurrency: Some(4),
                service_time: Some(Latency::millis(40.0)),
                domain: None,
                hourly_price: HourlyPrice::ZERO,
            };
            builder.add_endpoint(resource, *tier)
        })
        .collect();
    for source in ["x", "y"] {
        let flow = builder.add_flow(Flow { name: source.into(), source: source.into(), service: "s".into() });
        for (ix, (resource, group)) in placed.iter().enumerate() {
            builder.add_route(Route {
                name: format!("{source}/e{ix}"),
                flow,
                group: *group,
                consumption: vec![Consumption { resource: *resource, per_request: 1.0 }],
                delay: Latency::millis(10.0 * (ix + 1) as f64),
                price: UnitPrice::ZERO,
            });
        }
    }
    builder.build().unwrap()
}

/// Every flow has this demand; loads follow the split.
fn estimate(topology: &Topology, split: &Split, demand: f64, health: &[Health]) -> Estimate {
    let mut load = vec![0.0; topology.resources().len()];
    for (ix, route) in topology.routes().iter().enumerate() {
        load[route.consumption[0].resource.ix()] += demand * split.shares()[ix];
    }
    let resource = |ix: usize| ResourceEstimate {
        capacity: Rate::per_second(100.0),
        capacity_lower: Rate::per_second(100.0),
        load: Rate::per_second(load[ix]),
        background: Rate::ZERO,
        curve: LatencyCurve::new(Latency::millis(40.0), 4.0),
        latency: None,
        error_ratio: 0.0,
        health: health[ix],
        attribution: Attribution::Normal,
        hourly_price: HourlyPrice::ZERO,
        age: Some(Duration::ZERO),
    };
    let flow = FlowEstimate {
        demand: Rate::per_second(demand),
        upper: Rate::per_second(demand),
        age: Some(Duration::ZERO),
    };
    Estimate {
        at: Timestamp::ZERO,
        generation: topology.generation(),
        flows: vec![flow; topology.flows().len()],
        resources: (0..load.len()).map(resource).collect(),
        routes: topology
            .routes()
            .iter()
            .enumerate()
            .map(|(ix, route)| RouteEstimate {
                delay: route.delay,
                price: route.price,
                load: Rate::per_second(demand * split.shares()[ix]),
                health: Health::Unknown,
            })
            .collect(),
    }
}

fn ask(topology: &Topology, split: &Split, demand: f64, health: &[Health], chosen: &[u32]) -> Assembled {
    let estimate = estimate(topology, split, demand, health);
    let action = Action::choose(chosen.iter().map(|ix| GroupIx(*ix)).collect());
    let config = AssembleConfig::default();
    assemble(topology, &estimate, &action, split, &GuardConfig::default(), &config, Duration::from_secs(5))
}

fn feasible(assembled: &Assembled) {
    for w in assembled.problem.flow_offsets.windows(2) {
        let row = &assembled.problem.routes[w[0]..w[1]];
        let lower: f64 = row.iter().map(|r| r.lower).sum();
        let upper: f64 = row.iter().map(|r| r.upper).sum();
        assert!(lower <= 1.0 + 1e-9 && upper >= 1.0 - 1e-9, "bounds sum to [{lower}, {upper}]");
    }
}

#[test]
fn what_was_not_chosen_keeps_its_share() {
    let topology = topology(&[0; 6]);
    let split = Split::uniform(&topology);
    let assembled = ask(&topology, &split, 100.0, &[Health::Healthy; 6], &[1, 4]);
    for (ix, route) in assembled.problem.routes.iter().enumerate() {
        let frozen = !matches!(ix % 6, 1 | 4);
        assert_eq!(route.lower == route.upper, frozen, "route {ix}");
        assert_eq!(assembled.critical[ix].is_none(), frozen);
    }
    feasible(&assembled);
}

#[test]
fn an_endpoint_in_breach_may_lose_traffic_without_being_chosen_and_something_can_take_it() {
    let topology = topology(&[0; 6]);
    let split = Split::uniform(&topology);
    let mut health = [Health::Healthy; 6];
    health[3] = Health::Degraded;
    for chosen in [&[][..], &[3], &[0]] {
        let assembled = ask(&topology, &split, 100.0, &health, chosen);
        for flow in 0..2 {
            let at = |ix: usize| flow * 6 + ix;
            assert_eq!(assembled.critical[at(3)], Some(CriticalReason::Breach));
            let bad = &assembled.problem.routes[at(3)];
            assert!(bad.lower < bad.upper && bad.upper <= split.shares()[at(3)] + 1e-12);
            let receivers = (0..6).filter(|ix| *ix != 3 && assembled.critical[at(*ix)].is_some()).count();
            assert!(receivers >= 1, "nothing can take the traffic with {chosen:?} chosen");
        }
        feasible(&assembled);
    }
}

#[test]
fn what_was_chosen_can_give_although_all_else_that_may_move_is_in_breach() {
    let topology = topology(&[0; 6]);
    let split = Split::uniform(&topology);
    let mut health = [Health::Healthy; 6];
    health[3] = Health::Degraded;
    let assembled = ask(&topology, &split, 100.0, &health, &[5]);
    for flow in 0..2 {
        // Endpoint 0 is the nearest; 5 alone could only take.
        assert_eq!(assembled.critical[flow * 6 + 5], Some(CriticalReason::Chosen));
        assert_eq!(assembled.critical[flow * 6], Some(CriticalReason::Receiver));
        let upper = assembled.problem.routes[flow * 6].upper;
        assert!(upper > split.shares()[flow * 6] + 0.01, "{upper}");
    }
    feasible(&assembled);
}

#[test]
fn receivers_have_room_for_what_must_leave() {
    // Endpoint 0 carries 40 % of 2 × 120 req/s = 96; every other has 100 − 28.8 of room.
    let topology = topology(&[0; 6]);
    let row = [0.4, 0.12, 0.12, 0.12, 0.12, 0.12];
    let split = Split::new(topology.generation(), vec![0, 6, 12], [row, row].concat()).unwrap();
    let mut health = [Health::Healthy; 6];
    health[0] = Health::Unhealthy;
    // Chosen or not, what is in breach counts as leaving.
    for chosen in [&[][..], &[0]] {
        let assembled = ask(&topology, &split, 120.0, &health, chosen);
        let receivers = (1..6).filter(|ix| assembled.critical[*ix].is_some()).count();
        assert!(receivers as f64 * 71.2 >= 48.0 && receivers >= 1, "{receivers} receivers");
        feasible(&assembled);
    }
}

#[test]
fn a_saturated_endpoint_is_critical_whatever_the_policy_says() {
    let topology = topology(&[0; 3]);
    let row = [0.8, 0.1, 0.1];
    let split = Split::new(topology.generation(), vec![0, 3, 6], [row, row].concat()).unwrap();
    // 2 × 60 × 0.8 = 96 of 100 req/s, above 0.8.
    let assembled = ask(&topology, &split, 60.0, &[Health::Healthy; 3], &[]);
    assert_eq!(assembled.critical[0], Some(CriticalReason::Saturated));
    assert!(assembled.critical[1..3].iter().any(Option::is_some));
}

#[test]
fn a_single_endpoint_and_a_fleet_that_is_all_unhealthy_still_make_a_feasible_question() {
    for count in [1, 2, 5] {
        let topology = topology(&vec![0; count]);
        let split = Split::uniform(&topology);
        for state in [Health::Unhealthy, Health::Degraded, Health::Unknown] {
            for demand in [0.0, 10.0, 1e6] {
                feasible(&ask(&topology, &split, demand, &vec![state; count], &[0]));
            }
        }
    }
}

#[test]
fn a_standby_tier_carries_traffic_only_while_the_first_cannot_and_does_not_flap() {
    let topology = topology(&[0, 0, 1]);
    let healthy = [Health::Healthy; 3];
    let first = Split::new(topology.generation(), vec![0, 3, 6], [[0.5, 0.5, 0.0]; 2].concat()).unwrap();
    // Tier 0 has 200 req/s, of which 160 may be used.
    let calm = ask(&topology, &first, 70.0, &healthy, &[0, 1, 2]);
    assert_eq!(calm.active, [true, true, false, true, true, false]);
    assert_eq!(calm.problem.routes[2].upper, 0.0);
    let crowd = ask(&topology, &first, 90.0, &healthy, &[0, 1, 2]);
    assert!(crowd.active[2] && crowd.problem.routes[2].upper > 0.0);
    // Once it carries traffic it stays until demand is clearly below: 144, not 160.
    let all = Split::uniform(&topology);
    assert!(ask(&topology, &all, 75.0, &healthy, &[0, 1, 2]).active[2]);
    assert!(!ask(&topology, &all, 70.0, &healthy, &[0, 1, 2]).active[2]);
}
