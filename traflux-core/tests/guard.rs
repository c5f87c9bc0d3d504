//! The guard against random, adversarial and broken actors.
//!
//! The invariants are checked by code that shares nothing with the guard. `TRAFLUX_GUARD_STEPS` sets the
//! number of steps; the default is the million of the claim.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use traflux_core::{
    Consumption, Flow, Guard, GuardConfig, GuardContext, GuardReason, Health, HourlyPrice, Latency, Rate,
    Resource, Route, Rung, Split, Topology, UnitPrice, WeightGuard, quantize,
};

fn topology(flows: usize, endpoints: usize) -> Topology {
    let mut builder = Topology::builder();
    let placed: Vec<_> = (0..endpoints)
        .map(|ix| {
            let resource = Resource {
                name: format!("e{ix}"),
                capacity: Rate::per_second(100.0 + 50.0 * ix as f64),
                concurrency: None,
                service_time: None,
                domain: Some(format!("d{}", ix % 3)),
                hourly_price: HourlyPrice::ZERO,
            };
            builder.add_endpoint(resource, 0)
        })
        .collect();
    for ix in 0..flows {
        let name = format!("f{ix}");
        let flow = builder.add_flow(Flow { name: name.clone(), source: name.clone(), service: "s".into() });
        for (at, (resource, group)) in placed.iter().enumerate() {
            builder.add_route(Route {
                name: format!("{name}/e{at}"),
                flow,
                group: *group,
                consumption: vec![Consumption { resource: *resource, per_request: 1.0 }],
                delay: Latency::ZERO,
                price: UnitPrice::ZERO,
            });
        }
    }
    builder.build().unwrap()
}

/// One proposal of a hostile actor.
fn proposal(rng: &mut ChaCha8Rng, current: &[f64], step: usize) -> Vec<f64> {
    let n = current.len();
    match rng.random_range(0..9) {
        0 => (0..n).map(|_| rng.random::<f64>()).collect(),
        1 => (0..n).map(|_| if rng.random_bool(0.2) { f64::NAN } else { rng.random() }).collect(),
        2 => (0..n).map(|_| if rng.random_bool(0.2) { f64::INFINITY } else { 1.0 }).collect(),
        3 => (0..n).map(|_| rng.random_range(-1.0..1.0) * 1e300).collect(),
        // Everything to one endpoint, another one each time: the largest swing there is.
        4 => (0..n).map(|ix| f64::from(u8::from(ix == step % n))).collect(),
        // Against whatever is in force.
        5 => current.iter().map(|s| 1.0 - s).collect(),
        6 => vec![0.0; n],
        7 => (0..rng.random_range(0..2 * n)).map(|_| 1.0).collect(),
        _ => (0..n).map(|_| f64::MIN_POSITIVE * rng.random::<f64>()).collect(),
    }
}

#[test]
fn a_million_hostile_proposals_break_no_invariant() {
    let steps: usize = std::env::var("TRAFLUX_GUARD_STEPS").map_or(1_000_000, |s| s.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut checked = 0;
    while checked < steps {
        let endpoints = rng.random_range(1..=6);
        let topology = topology(rng.random_range(1..=3), endpoints);
        let config = GuardConfig {
            min_share: [0.0, 0.01, 0.05, 0.5][rng.random_range(0..4)],
            probe_share: [0.0, 0.01, 0.05][rng.random_range(0..3)],
            unhealthy_share: 0.0,
            max_share: [0.1, 0.6, 1.0][rng.random_range(0..3)],
            survive_domain_loss: None,
            ..GuardConfig::default()
        };
        config.check().unwrap();
        let mut guard = WeightGuard::new(config);
        let fallback = Split::uniform(&topology);
        let mut current = fallback.clone();
        let mut health = vec![Health::Healthy; topology.routes().len()];
        for step in 0..2_000.min(steps - checked) {
            for state in &mut health {
                if rng.random_bool(0.05) {
                    *state = [Health::Healthy, Health::Unknown, Health::Degraded, Health::Unhealthy]
                        [rng.random_range(0..4)];
                }
            }
            let rung = match rng.random_range(0..20) {
                0 => Rung::Hold,
                1 => Rung::Alarm,
                2 => Rung::Ramp { progress: rng.random() },
                _ => Rung::Normal,
            };
            // Clock jumps included.
            let elapsed = match rng.random_range(0..10) {
                0 => Duration::ZERO,
                1 => Duration::from_secs(1_000_000_000),
                _ => Duration::from_secs_f64(rng.random_range(0.1..10.0)),
            };
            let context = GuardContext {
                topology: &topology,
                current: &current,
                fallback: &fallback,
                health: &health,
                active: &[],
                estimate: None,
                rung,
                elapsed,
            };
            let proposed = proposal(&mut rng, current.shares(), step);
            let guarded = guard.constrain(&context, &proposed);
            check(&config, &context, guarded.split.shares());
            let weights = quantize(&guarded.split, 10_000).unwrap();
            for (weight, share) in weights.weights.iter().zip(guarded.split.shares()) {
                assert_eq!(*weight == 0, *share == 0.0, "share {share} became weight {weight}");
            }
            current = guarded.split;
            checked += 1;
        }
    }
    println!("{checked} steps checked");
}

fn check(config: &GuardConfig, context: &GuardContext<'_>, given: &[f64]) {
    let current = context.current.shares();
    let elapsed = context.elapsed.as_secs_f64().min(config.max_elapsed_s);
    for w in context.topology.flow_offsets().windows(2) {
        let range = w[0]..w[1];
        let n = range.len();
        let row = &given[range.clone()];
        assert!(row.iter().all(|s| s.is_finite() && *s >= 0.0), "not shares: {row:?}");
        let sum: f64 = row.iter().sum();
        assert!((sum - 1.0).abs() < 1e-9, "row sums to {sum}");
        if matches!(context.rung, Rung::Hold | Rung::Alarm) {
            assert_eq!(row, &current[range], "held means unchanged");
            continue;
        }
        if context.rung != Rung::Normal {
            continue;
        }
        let health = &context.health[range.clone()];
        let now = &current[range];
        let usable = health.iter().filter(|h| **h != Health::Unhealthy).count();
        let panic = usable == 0 || (usable as f64) < config.min_healthy * n as f64;
        let floor = config.min_share.min(0.5 / n as f64);
        let probe = config.probe_share.min(0.5 / n as f64);
        let receivers = health.iter().filter(|h| h.may_receive()).count();
        let cap = config.max_share.max(floor);
        for ix in 0..n {
            if panic || health[ix].may_receive() {
                assert!(
                    row[ix] >= floor - 1e-9,
                    "healthy share {} below floor {floor}: {row:?} from {now:?}, {health:?}, {elapsed} s, {config:?}",
                    row[ix]
                );
            }
            let cap_is_possible = !panic && cap * receivers as f64 >= 1.0;
            if cap_is_possible {
                assert!(
                    row[ix] <= cap.max(now[ix]) + 1e-9,
                    "share {} above cap {cap} and above {}",
                    row[ix],
                    now[ix]
                );
                if !health[ix].may_receive() {
                    assert!(
                        row[ix] <= now[ix].max(probe) + 1e-9,
                        "{:?} endpoint rose from {} to {}",
                        health[ix],
                        now[ix],
                        row[ix]
                    );
                }
            }
        }
        let calm = !panic
            && receivers == n
            && cap * n as f64 >= 1.0
            && now.iter().all(|s| (floor..=cap).contains(s));
        if calm {
            for ix in 0..n {
                let moved = (row[ix] - now[ix]).abs();
                assert!(moved <= config.step_per_s * elapsed + 1e-9, "moved {moved} in {elapsed} s");
            }
        }
    }
}

/// Fresh metrics, one tier, this many seconds since the split in force was decided.
fn normal<'a>(
    topology: &'a Topology,
    current: &'a Split,
    fallback: &'a Split,
    health: &'a [Health],
    seconds: u64,
) -> GuardContext<'a> {
    GuardContext {
        topology,
        current,
        fallback,
        health,
        active: &[],
        estimate: None,
        rung: Rung::Normal,
        elapsed: Duration::from_secs(seconds),
    }
}

#[test]
fn an_unhealthy_endpoint_is_drained_to_its_probe_share_within_seconds() {
    let topology = topology(1, 4);
    let config = GuardConfig::default();
    let mut guard = WeightGuard::new(config);
    let fallback = Split::uniform(&topology);
    let mut current = fallback.clone();
    let health = [Health::Unhealthy, Health::Healthy, Health::Healthy, Health::Healthy];
    for _ in 0..3 {
        let context = normal(&topology, &current, &fallback, &health, 1);
        let wanted = current.shares().to_vec();
        current = guard.constrain(&context, &wanted).split;
    }
    // 0.25 − 3 s · 0.1/s is below the probe share of 0.01.
    assert!(current.shares()[0] <= 0.01 + 1e-9, "{:?}", current.shares());
    assert!(current.shares()[1..].iter().all(|s| *s > 0.25));
}

#[test]
fn when_almost_everything_looks_unhealthy_the_static_split_applies() {
    let topology = topology(1, 4);
    let mut guard = WeightGuard::new(GuardConfig::default());
    let fallback = Split::uniform(&topology);
    let current = Split::new(topology.generation(), vec![0, 4], vec![0.4, 0.2, 0.2, 0.2]).unwrap();
    let health = [Health::Healthy, Health::Unhealthy, Health::Unhealthy, Health::Unhealthy];
    let context = normal(&topology, &current, &fallback, &health, 10);
    let guarded = guard.constrain(&context, &[1.0, 0.0, 0.0, 0.0]);
    assert!(guarded.actions.iter().any(|a| a.reason == GuardReason::MinHealthy));
    for share in guarded.split.shares() {
        assert!((share - 0.25).abs() < 1e-9);
    }
}

#[test]
fn a_ramp_ends_at_the_static_split_and_begins_at_the_one_in_force() {
    let topology = topology(2, 3);
    let mut guard = WeightGuard::new(GuardConfig::default());
    let fallback = Split::uniform(&topology);
    let begin = Split::new(topology.generation(), vec![0, 3, 6], vec![0.8, 0.1, 0.1, 0.1, 0.1, 0.8]).unwrap();
    let mut current = begin.clone();
    let health = [Health::Unknown; 6];
    let mut last = begin.churn(&fallback);
    for step in 1..=12 {
        let context = GuardContext {
            topology: &topology,
            current: &current,
            fallback: &fallback,
            health: &health,
            active: &[],
            estimate: None,
            rung: Rung::Ramp { progress: f64::from(step) / 12.0 },
            elapsed: Duration::from_secs(5),
        };
        current = guard.constrain(&context, &[]).split;
        let left = current.churn(&fallback);
        assert!((left - begin.churn(&fallback) * (1.0 - f64::from(step) / 12.0)).abs() < 1e-9);
        assert!(left < last);
        last = left;
    }
    assert_eq!(current, fallback);
}

#[test]
fn a_row_of_ten_thousand_endpoints_keeps_its_floor() {
    let topology = topology(1, 10_000);
    let mut guard = WeightGuard::new(GuardConfig::default());
    let fallback = Split::uniform(&topology);
    let health = vec![Health::Healthy; 10_000];
    let mut wanted = vec![0.0; 10_000];
    wanted[0] = 1.0;
    let mut current = fallback.clone();
    // 0.1 per step: after ten steps the first endpoint has all that the floors leave.
    for _ in 0..12 {
        let context = normal(&topology, &current, &fallback, &health, 5);
        current = guard.constrain(&context, &wanted).split;
    }
    let least = current.shares().iter().copied().fold(f64::INFINITY, f64::min);
    assert!((least - 0.5 / 10_000.0).abs() < 1e-9);
}

#[test]
fn rounding_keeps_row_sums_exact_for_every_random_split() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for _ in 0..2_000 {
        let n = rng.random_range(1..=40);
        let topology = topology(1, n);
        let amounts: Vec<f64> = (0..n)
            .map(|_| if rng.random_bool(0.3) { 0.0 } else { 10f64.powf(rng.random_range(-9.0..3.0)) })
            .collect();
        let split = Split::proportional(&topology, &amounts);
        let total = rng.random_range(n as u32..20_000);
        let table = quantize(&split, total).unwrap();
        assert_eq!(table.weights.iter().sum::<u32>(), total);
        for (weight, share) in table.weights.iter().zip(split.shares()) {
            assert_eq!(*weight == 0, *share == 0.0);
            if share * f64::from(total) >= 1.0 && amounts.iter().all(|a| *a == 0.0 || *a > 1e-3) {
                assert!((f64::from(*weight) - share * f64::from(total)).abs() < n as f64);
            }
        }
        let _ = rng.next_u32();
    }
}
