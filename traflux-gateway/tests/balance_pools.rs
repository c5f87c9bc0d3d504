//! One suite for every algorithm of a pool.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use traflux_core::Timestamp;
use traflux_gateway::balance::{
    Algorithm, Answer, BalancePlan, BalanceSettings, EndpointTable, Estimate, LatencyPlan, LoadUnit, Member,
    Outcome, PickRequest, Pool, Price, SlowStartPlan,
};
use traflux_gateway::{GatewayError, PicoDollars, Rng};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(seconds)
}

fn members(weights: &[u32]) -> Vec<Member> {
    let table = EndpointTable::new(&LatencyPlan::default());
    let member = |(ix, weight): (usize, &u32)| {
        Member::new(table.endpoint(&format!("backend-{ix}"), Timestamp::ZERO), *weight)
    };
    weights.iter().enumerate().map(member).collect()
}

fn pool(algorithm: Algorithm, weights: &[u32]) -> Pool {
    Pool::new(BalanceSettings::of(algorithm), members(weights), 7).unwrap()
}

/// Routes `n` requests that are answered at once.
fn counts(pool: &Pool, n: usize, now: Timestamp, seed: u64) -> Vec<usize> {
    let mut rng = Rng::new(seed);
    let mut counts = vec![0; pool.len()];
    for _ in 0..n {
        let position = pool.pick(&PickRequest::new(now, rng.next_u64())).unwrap();
        let ahead = pool.start(position, 0);
        pool.finish(now, position, &Answer::plain(Outcome::Success, MS(20), ahead));
        counts[position] += 1;
    }
    counts
}

fn assert_binomial(counts: &[usize], shares: &[f64], what: &str) {
    let n = counts.iter().sum::<usize>() as f64;
    for (count, p) in counts.iter().zip(shares) {
        let sigma = (n * p * (1.0 - p)).sqrt();
        // Four and a half standard deviations: one in 150,000.
        assert!(
            (*count as f64 - n * p).abs() <= 4.5 * sigma + 1.0,
            "{what}: {counts:?}, expected {shares:?}"
        );
    }
}

#[test]
fn equal_draws_give_equal_picks() {
    for algorithm in Algorithm::ALL {
        let run = || {
            let pool = pool(algorithm, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
            let mut rng = Rng::new(3);
            let mut open = Vec::new();
            (0..2000u64)
                .map(|step| {
                    let now = Timestamp::new(MS(step));
                    let position = pool.pick(&PickRequest::new(now, rng.next_u64())).unwrap();
                    open.push((position, pool.start(position, 10)));
                    if step % 3 > 0 {
                        let (position, ahead) = open.remove(0);
                        let latency = MS(5 + position as u64 * 3);
                        pool.finish(now, position, &Answer::plain(Outcome::Success, latency, ahead));
                    }
                    position
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(run(), run(), "{algorithm:?}");
    }
}

#[test]
fn equal_endpoints_get_equal_shares() {
    for algorithm in Algorithm::ALL {
        if algorithm == Algorithm::LeastCost {
            continue;
        }
        for n in [5, 40] {
            let counts = counts(&pool(algorithm, &vec![7; n]), 40_000, at(1.0), 5);
            // Latency-aware ones learn, so that their picks are not independent: within a tenth.
            let wide =
                matches!(algorithm, Algorithm::LeastLatency | Algorithm::Adaptive | Algorithm::HotCold);
            if wide {
                let even = 40_000.0 / n as f64;
                let far = counts.iter().map(|c| (*c as f64 / even - 1.0).abs()).fold(0.0, f64::max);
                assert!(far < 0.25, "{algorithm:?}: {counts:?}");
            } else if algorithm != Algorithm::ConsistentHash {
                assert_binomial(&counts, &vec![1.0 / n as f64; n], &format!("{algorithm:?}"));
            }
        }
    }
}

#[test]
fn weights_are_followed() {
    let weights = [1, 9, 40, 50];
    let shares = [0.01, 0.09, 0.4, 0.5];
    assert_binomial(&counts(&pool(Algorithm::Weighted, &weights), 40_000, at(1.0), 11), &shares, "random");
    let smooth = counts(&pool(Algorithm::RoundRobin, &weights), 1000, at(1.0), 11);
    assert_eq!(smooth, [10, 90, 400, 500], "a whole number of periods is exact");
    let maglev = counts(&pool(Algorithm::ConsistentHash, &weights), 40_000, at(1.0), 11);
    assert_binomial(&maglev, &shares, "maglev");
}

#[test]
fn least_connections_fills_endpoints_in_proportion_to_weight() {
    for (n, weights) in [(4, vec![1, 2, 3, 4]), (24, [1, 2, 3, 4].repeat(6))] {
        let pool = pool(Algorithm::LeastConnections, &weights);
        let mut rng = Rng::new(2);
        for _ in 0..n * 250 {
            let position = pool.pick(&PickRequest::new(at(1.0), rng.next_u64())).unwrap();
            pool.start(position, 0);
        }
        for (position, weight) in weights.iter().enumerate() {
            let held = f64::from(pool.endpoint(position).unwrap().in_flight());
            let ideal = f64::from(*weight) * 100.0;
            assert!((held / ideal - 1.0).abs() < 0.05, "{held} in flight at weight {weight}");
        }
    }
}

#[test]
fn weights_count_beside_latency_too() {
    for algorithm in [Algorithm::LeastLatency, Algorithm::Adaptive] {
        for weights in [vec![1, 3], [1, 3].repeat(12)] {
            let pool = pool(algorithm, &weights);
            for position in 0..weights.len() {
                for _ in 0..50 {
                    pool.observe(at(1.0), position, &Answer::plain(Outcome::Success, MS(50), 0));
                }
            }
            let mut rng = Rng::new(2);
            for _ in 0..weights.len() * 100 {
                let position = pool.pick(&PickRequest::new(at(1.0), rng.next_u64())).unwrap();
                pool.start(position, 0);
            }
            let heavy: u32 =
                (1..weights.len()).step_by(2).map(|ix| pool.endpoint(ix).unwrap().in_flight()).sum();
            let share = f64::from(heavy) / (weights.len() * 100) as f64;
            assert!((share - 0.75).abs() < 0.03, "{algorithm:?}: {share} of weight 3 in 4");
        }
    }
}

#[test]
fn load_may_count_tokens() {
    let settings = BalanceSettings {
        algorithm: Algorithm::LeastConnections,
        plan: BalancePlan { load: LoadUnit::Tokens, ..BalancePlan::default() },
    };
    let pool = Pool::new(settings, members(&[1, 1]), 1).unwrap();
    pool.start(0, 8000);
    for _ in 0..5 {
        pool.start(1, 100);
    }
    assert!((0..100).all(|draw| pool.pick(&PickRequest::new(at(1.0), draw)) == Some(1)));
}

#[test]
fn the_slow_and_the_failing_are_left_but_for_probes() {
    for algorithm in [Algorithm::LeastLatency, Algorithm::Adaptive, Algorithm::HotCold] {
        for estimate in [Estimate::Mean, Estimate::Peak, Estimate::Percentile] {
            let table = EndpointTable::new(&LatencyPlan { estimate, ..LatencyPlan::default() });
            let members =
                ["good", "slow", "failing"].map(|name| Member::new(table.endpoint(name, Timestamp::ZERO), 1));
            let pool = Pool::new(BalanceSettings::of(algorithm), members, 1).unwrap();
            let mut rng = Rng::new(8);
            let mut counts = [0; 3];
            let n = 20_000;
            for step in 0..n {
                let now = Timestamp::new(MS(step));
                let position = pool.pick(&PickRequest::new(now, rng.next_u64())).unwrap();
                let ahead = pool.start(position, 0);
                let (outcome, latency) = match position {
                    0 => (Outcome::Success, 50),
                    1 => (Outcome::Success, 2000),
                    _ => (Outcome::ServerError, 1),
                };
                pool.finish(now, position, &Answer::plain(outcome, MS(latency), ahead));
                counts[position] += 1;
            }
            // Both together at most one probe in 256, and the first ones.
            assert!(counts[1] + counts[2] < n / 256 * 2 + 60, "{algorithm:?}, {estimate:?}: {counts:?}");
            assert!(counts[1] >= 5 && counts[2] >= 5, "they are still tried: {algorithm:?} {counts:?}");
        }
    }
}

#[test]
fn an_endpoint_that_got_better_is_found_again() {
    for algorithm in [Algorithm::LeastLatency, Algorithm::HotCold] {
        let pool = pool(algorithm, &[1, 1]);
        let mut rng = Rng::new(8);
        let mut share = |from: u64, latency: u64| {
            let mut picked = 0;
            for step in from..from + 40_000 {
                let now = Timestamp::new(MS(step));
                let position = pool.pick(&PickRequest::new(now, rng.next_u64())).unwrap();
                let ahead = pool.start(position, 0);
                let latency = if position == 0 { 50 } else { latency };
                pool.finish(now, position, &Answer::plain(Outcome::Success, MS(latency), ahead));
                picked += usize::from(position == 1 && step >= from + 30_000);
            }
            picked as f64 / 10_000.0
        };
        assert!(share(0, 1000) < 0.01);
        // Probed about once a second, a mean of 1 s comes below 50 ms within some 20 probes.
        assert!(share(40_000, 25) > 0.9, "{algorithm:?}: 25 ms beat 50 ms");
    }
}

#[test]
fn no_herd_meets_a_cold_endpoint() {
    let pool = pool(Algorithm::LeastLatency, &[1; 4]);
    for position in 0..3 {
        for _ in 0..50 {
            pool.observe(at(1.0), position, &Answer::plain(Outcome::Success, MS(500), 3));
        }
    }
    let mut rng = Rng::new(4);
    for _ in 0..400 {
        let position = pool.pick(&PickRequest::new(at(1.0), rng.next_u64())).unwrap();
        pool.start(position, 0);
    }
    assert_eq!(pool.endpoint(3).unwrap().in_flight(), 1, "one until it has answered");
    pool.finish(at(1.1), 3, &Answer::plain(Outcome::Success, MS(100), 0));
    for _ in 0..400 {
        let position = pool.pick(&PickRequest::new(at(1.1), rng.next_u64())).unwrap();
        pool.start(position, 0);
    }
    assert_eq!(pool.endpoint(3).unwrap().in_flight(), 3, "and two more for each answer");
}

#[test]
fn long_answers_go_where_tokens_are_fast_and_short_ones_where_the_first_is() {
    let pool = pool(Algorithm::LeastLatency, &[1, 1]);
    for (position, first, per_token) in [(0, 100, 40), (1, 600, 10)] {
        for _ in 0..20 {
            let answer = Answer {
                first_token: Some(MS(first)),
                output_tokens: 101,
                ..Answer::plain(Outcome::Success, MS(first + 100 * per_token), 0)
            };
            pool.observe(at(1.0), position, &answer);
        }
    }
    let pick = |output_tokens, stream| {
        let request = PickRequest { output_tokens, stream, ..PickRequest::new(at(1.0), 99) };
        pool.pick(&request).unwrap()
    };
    // 0.1 + 0.04 n against 0.6 + 0.01 n: even at 17 tokens.
    assert_eq!((pick(5, false), pick(50, false)), (0, 1));
    // Of streams tokens count a quarter: 0.1 + 0.01 n against 0.6 + 0.0025 n, even at 67 tokens.
    assert_eq!((pick(50, true), pick(90, true)), (0, 1));
}

#[test]
fn a_long_prompt_goes_where_it_is_read_fast_and_a_short_one_where_nobody_is_ahead() {
    let pool = pool(Algorithm::LeastLatency, &[1, 1]);
    for (position, millis) in [(0, 100), (1, 300)] {
        for _ in 0..20 {
            let answer = Answer { prompt_tokens: 1000, ..Answer::plain(Outcome::Success, MS(millis), 0) };
            pool.observe(at(1.0), position, &answer);
        }
    }
    (0..3).for_each(|_| _ = pool.start(0, 0));
    let pick = |prompt_tokens| {
        let request = PickRequest { prompt_tokens, ..PickRequest::new(at(1.0), 99) };
        pool.pick(&request).unwrap()
    };
    // With p of 1 + prompt / 1000, and 2 for each that is ahead: 0.05 (6 + p) against 0.15 p, even at 2000 tokens.
    assert_eq!((pick(0), pick(1500), pick(2500), pick(8000)), (1, 1, 0, 0));
}

#[test]
fn the_cheapest_serves_while_it_is_within_limits() {
    let price = |input, output| Price {
        input: PicoDollars(input),
        cached: PicoDollars(input / 10),
        output: PicoDollars(output),
        ..Price::default()
    };
    let mut members = members(&[1, 1, 1]);
    members[0].price = price(10, 10);
    members[1].price = price(3, 30);
    members[2].price = price(100, 100);
    let mut settings = BalanceSettings::of(Algorithm::LeastCost);
    settings.least_cost.latency_limit = MS(300);
    let pool = Pool::new(settings, members, 1).unwrap();
    for position in 0..3 {
        for _ in 0..20 {
            pool.observe(at(1.0), position, &Answer::plain(Outcome::Success, MS(100), 0));
        }
    }
    let request = |prompt, cached, output| PickRequest {
        prompt_tokens: prompt,
        cached_tokens: cached,
        output_tokens: output,
        ..PickRequest::new(at(1.0), 5)
    };
    assert_eq!(pool.pick(&request(10, 0, 1000)), Some(0), "10·10 + 1000·10 < 10·3 + 1000·30");
    assert_eq!(pool.pick(&request(500, 0, 10)), Some(1), "500·3 + 10·30 < 500·10 + 10·10");
    // Twelve in flight: 100 ms · √13 = 361 ms is over the limit.
    for _ in 0..12 {
        pool.start(1, 0);
    }
    assert_eq!(pool.pick(&request(500, 0, 10)), Some(0));
    pool.set_quota_left(0, 0.01);
    assert_eq!(pool.pick(&request(500, 0, 10)), Some(2));
    pool.set_quota_left(2, 0.0);
    assert!(pool.pick(&request(500, 0, 10)).is_some(), "where none is within limits, somebody serves");
    pool.set_quota_left(0, 0.5);
    assert_eq!(pool.pick(&request(500, 0, 10)), Some(0));
}

#[test]
fn slow_start_ramps_the_share_of_a_new_endpoint() {
    for algorithm in [Algorithm::Weighted, Algorithm::RoundRobin] {
        let mut settings = BalanceSettings::of(algorithm);
        settings.slow_start =
            SlowStartPlan { window: Duration::from_secs(100), aggression: 1.0, least_share: 0.1 };
        let table = EndpointTable::new(&LatencyPlan::default());
        let old = ["a", "b", "c"].map(|name| Member::new(table.endpoint(name, Timestamp::ZERO), 1));
        let new = Member::new(table.endpoint("new", at(200.0)), 1);
        let pool = Pool::new(settings, old.into_iter().chain([new]), 3).unwrap();
        for (time, weight) in [(200.0, 0.1), (250.0, 0.5), (275.0, 0.75), (300.0, 1.0)] {
            let counts = counts(&pool, 30_000, at(time), 5);
            let expected = weight / (3.0 + weight);
            let found = counts[3] as f64 / 30_000.0;
            // Turns that are passed on make round robin deviate from the exact share by a little.
            assert!((found - expected).abs() < 0.02, "{algorithm:?} at {time}: {found}, expected {expected}");
        }
    }
}

/// A pool whose members begin at these times, under a slow start of 100 s from a tenth.
fn warming(algorithm: Algorithm, members: &[(u32, f64)]) -> Pool {
    let mut settings = BalanceSettings::of(algorithm);
    settings.slow_start =
        SlowStartPlan { window: Duration::from_secs(100), aggression: 1.0, least_share: 0.1 };
    let table = EndpointTable::new(&LatencyPlan::default());
    let members = members.iter().enumerate().map(|(ix, (weight, started))| {
        Member::new(table.endpoint(&format!("backend-{ix}"), at(*started)), *weight)
    });
    Pool::new(settings, members.collect::<Vec<_>>(), 3).unwrap()
}

#[test]
fn weights_are_followed_where_all_are_new_and_where_the_whole_one_is_light() {
    for algorithm in [Algorithm::Weighted, Algorithm::RoundRobin] {
        for (members, time, shares) in [
            // As new as each other: nobody holds back, at any age.
            (&[(9, 200.0), (1, 200.0)][..], 200.0, &[0.9, 0.1][..]),
            (&[(9, 200.0), (1, 200.0)], 240.0, &[0.9, 0.1]),
            // 9 · 0.1 beside 1 · 0.5.
            (&[(9, 240.0), (1, 190.0)], 240.0, &[0.9 / 1.4, 0.5 / 1.4]),
            // 1000 · 0.1 beside 1, which is seldom drawn.
            (&[(1000, 200.0), (1, 0.0)], 200.0, &[100.0 / 101.0, 1.0 / 101.0]),
        ] {
            let pool = warming(algorithm, members);
            let counts = counts(&pool, 30_000, at(time), 5);
            let found = counts[0] as f64 / 30_000.0;
            assert!((found - shares[0]).abs() < 0.02, "{algorithm:?} at {time} of {members:?}: {found}");
        }
    }
    // What is in flight counts where all are new.
    for algorithm in [Algorithm::LeastConnections, Algorithm::LeastLatency] {
        let pool = warming(algorithm, &[(1, 200.0), (1, 200.0), (1, 200.0)]);
        for busy in [0, 2] {
            (0..5).for_each(|_| _ = pool.start(busy, 0));
        }
        let idle = |draw| pool.pick(&PickRequest::new(at(200.0), Rng::new(draw).next_u64())) == Some(1);
        let found = (0..1000).filter(|draw| idle(*draw)).count();
        assert!(found > 950, "{algorithm:?}: {found} of 1000 went to the idle one");
    }
}

#[test]
fn weights_are_followed_where_the_heaviest_is_closed() {
    for algorithm in [Algorithm::Weighted, Algorithm::RoundRobin] {
        let pool = pool(algorithm, &[1000, 1, 3]);
        pool.set_eligible(0, false, at(1.0));
        let counts = counts(&pool, 30_000, at(1.0), 5);
        let found = counts[1] as f64 / 30_000.0;
        assert!((found - 0.25).abs() < 0.02, "{algorithm:?}: {counts:?}");
    }
}

#[test]
fn a_draining_endpoint_gets_nothing_new_and_keeps_what_it_has() {
    for algorithm in Algorithm::ALL {
        let pool = pool(algorithm, &[1; 3]);
        let ahead = pool.start(1, 0);
        pool.set_draining(1, true);
        assert_eq!(counts(&pool, 500, at(1.0), 4)[1], 0, "{algorithm:?}");
        let endpoint = pool.endpoint(1).unwrap();
        assert!(!endpoint.is_drained());
        pool.finish(at(2.0), 1, &Answer::plain(Outcome::Success, MS(20), ahead));
        assert!(endpoint.is_drained());
        pool.set_draining(1, false);
        assert!(pool.is_open(1));
    }
}

#[test]
fn tiers_overflow_as_their_health_falls() {
    let mut members = members(&[1; 20]);
    members[10..].iter_mut().for_each(|member| member.tier = 1);
    let pool = Pool::new(BalanceSettings::of(Algorithm::Weighted), members, 3).unwrap();
    let second = |pool: &Pool| counts(pool, 20_000, at(1.0), 9)[10..].iter().sum::<usize>() as f64 / 20_000.0;
    assert_eq!(second(&pool), 0.0);
    for closed in 0..5 {
        pool.set_eligible(closed, false, at(1.0));
    }
    // Half of tier 0 takes 0.5 · 1.4 = 70 %.
    assert!((second(&pool) - 0.3).abs() < 0.015);
    for closed in 5..10 {
        pool.set_eligible(closed, false, at(1.0));
    }
    assert_eq!(second(&pool), 1.0);
    pool.set_eligible(3, true, at(1.0));
    assert!((second(&pool) - 0.86).abs() < 0.015);
}

#[test]
fn where_a_tier_is_all_excluded_another_serves() {
    let mut members = members(&[1, 1, 1]);
    members[2].tier = 5;
    for algorithm in Algorithm::ALL {
        let pool = Pool::new(BalanceSettings::of(algorithm), members.clone(), 3).unwrap();
        let request = PickRequest { excluded: &[0, 1], ..PickRequest::new(at(1.0), 77) };
        assert_eq!(pool.pick(&request), Some(2), "{algorithm:?}");
    }
}

#[test]
fn new_weights_keep_what_was_learned_and_who_is_closed() {
    let pool = pool(Algorithm::LeastLatency, &[1, 1, 1]);
    pool.start(0, 0);
    pool.observe(at(1.0), 1, &Answer::plain(Outcome::Success, MS(30), 0));
    pool.set_eligible(2, false, at(1.0));
    let next = pool.with_weights(&[5, 1, 1]).unwrap();
    assert_eq!(next.endpoint(0).unwrap().in_flight(), 1);
    assert_eq!(next.endpoint(1).unwrap().samples(), 1);
    assert!(!next.is_open(2) && next.weight(0) == Some(5));
    let error = pool.with_weights(&[1]).unwrap_err();
    assert_eq!(error, GatewayError::Shape { what: "weights", len: 1, expected: 3 });
}

#[test]
fn threads_lose_no_request_and_overfill_nobody() {
    for algorithm in Algorithm::ALL {
        let pool = Arc::new(pool(algorithm, &[1; 12]));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let pool = Arc::clone(&pool);
                scope.spawn(move || {
                    let mut rng = Rng::new(thread);
                    let mut open = Vec::new();
                    for step in 0..5000u64 {
                        let now = Timestamp::new(MS(step));
                        let position = pool.pick(&PickRequest::new(now, rng.next_u64())).unwrap();
                        open.push((position, pool.start(position, 3)));
                        if open.len() > 20 {
                            let (position, ahead) = open.remove(0);
                            let answer = Answer::plain(Outcome::Success, MS(20), ahead);
                            pool.finish(now, position, &Answer { held_tokens: 3, ..answer });
                        }
                    }
                    for (position, ahead) in open {
                        let answer = Answer::plain(Outcome::Cancelled, MS(20), ahead);
                        pool.finish(at(9.0), position, &Answer { held_tokens: 3, ..answer });
                    }
                });
            }
        });
        for position in 0..12 {
            let endpoint = pool.endpoint(position).unwrap();
            assert_eq!((endpoint.in_flight(), endpoint.in_flight_tokens()), (0, 0), "{algorithm:?}");
        }
    }
}

#[test]
fn smooth_turns_stay_exact_among_threads() {
    let pool = Arc::new(pool(Algorithm::RoundRobin, &[1, 2, 5]));
    let counts: Vec<usize> = std::thread::scope(|scope| {
        let picks = |seed: u64| {
            let pool = Arc::clone(&pool);
            scope.spawn(move || {
                let mut counts = vec![0; 3];
                for draw in 0..2000u64 {
                    counts[pool.pick(&PickRequest::new(at(1.0), draw + seed)).unwrap()] += 1;
                }
                counts
            })
        };
        let handles = [0, 1, 2, 3].map(picks);
        let all = handles.map(|handle| handle.join().unwrap());
        (0..3).map(|ix| all.iter().map(|counts| counts[ix]).sum()).collect()
    });
    assert_eq!(counts, [1000, 2000, 5000]);
}

#[test]
fn settings_are_those_of_a_plan() {
    let plan: BalancePlan = serde_json::from_str(
        r#"{"choices": 3, "slow_start": {"window_ms": 30000}, "least_cost": {"latency_limit_ms": 800}}"#,
    )
    .unwrap();
    assert_eq!((plan.choices, plan.slow_start.window), (3, Duration::from_secs(30)));
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<BalancePlan>(&text).unwrap(), plan);
    assert!(serde_json::from_str::<BalancePlan>(r#"{"choises": 2}"#).is_err());
    let settings =
        BalanceSettings { plan: BalancePlan { load_factor: 1.0, ..plan }, ..BalanceSettings::default() };
    let error = Pool::new(settings, members(&[1]), 1).unwrap_err();
    assert!(error.to_string().starts_with("load_factor: 1, expected 1.000001 to "), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_open_members_are_picked_and_somebody_always_is(
        rounds in prop::collection::vec((0u32..4, any::<bool>(), any::<bool>(), 0u8..3, 0u32..20), 1..40),
        excluded in prop::collection::vec(0u32..40, 0..6),
        seed in any::<u64>(),
    ) {
        for algorithm in Algorithm::ALL {
            let mut all = members(&rounds.iter().map(|r| r.0).collect::<Vec<_>>());
            for (member, round) in all.iter_mut().zip(&rounds) {
                member.tier = round.3;
            }
            let pool = Pool::new(BalanceSettings::of(algorithm), all, seed).unwrap();
            for (position, round) in rounds.iter().enumerate() {
                pool.set_eligible(position, round.1, at(0.5));
                pool.set_draining(position, round.2);
                for _ in 0..round.4 {
                    pool.start(position, 5);
                }
            }
            let may = |ix: usize| {
                let (weight, open, draining, ..) = rounds[ix];
                weight > 0 && open && !draining && !excluded.contains(&(ix as u32))
            };
            let somebody = (0..rounds.len()).any(may);
            for draw in 0..30u64 {
                let request = PickRequest { excluded: &excluded, ..PickRequest::new(at(1.0), draw ^ seed) };
                match pool.pick(&request) {
                    Some(position) => prop_assert!(may(position), "{algorithm:?} picked {position}"),
                    None => prop_assert!(!somebody, "{algorithm:?} picked nobody"),
                }
            }
        }
    }
}

/// The least busy of those that the draws fall to, the first of equals, told without the pool.
fn least_busy(draw: u64, in_flight: &[u32], settings: &BalancePlan) -> usize {
    let mut state = draw;
    let mut below = |bound: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((((z ^ (z >> 31)) >> 32) * bound as u64) >> 32) as usize
    };
    let members = in_flight.len();
    let asked: Vec<usize> = if members <= settings.compare_all_up_to as usize {
        let start = below(members);
        (0..members).map(|turn| (start + turn) % members).collect()
    } else {
        let mut asked = vec![below(members)];
        let second = below(members);
        asked.push(if second == asked[0] { below(members) } else { second });
        asked.extend((2..settings.choices).map(|_| below(members)));
        asked
    };
    // The first of several that are least.
    asked.into_iter().min_by_key(|position| in_flight[*position]).unwrap()
}

#[test]
fn the_first_of_the_least_busy_is_chosen_whether_all_are_compared_or_some_are_drawn() {
    let mut rng = Rng::new(11);
    for (members, choices, compare_all_up_to) in
        [(1, 2, 16), (5, 2, 16), (16, 6, 16), (17, 6, 16), (40, 2, 16), (3, 2, 0)]
    {
        let plan = BalancePlan { choices, compare_all_up_to, ..BalancePlan::default() };
        let settings = BalanceSettings { plan, ..BalanceSettings::of(Algorithm::LeastConnections) };
        let pool = Pool::new(settings, self::members(&vec![1; members]), 7).unwrap();
        for _ in 0..2_000 {
            let in_flight: Vec<u32> = (0..members).map(|_| rng.below(4) as u32).collect();
            let request = PickRequest::new(at(1.0), rng.next_u64());
            let expected = least_busy(request.draw, &in_flight, &plan);
            assert_eq!(pool.pick_by(&request, &in_flight), Some(expected), "{members}, {in_flight:?}");
        }
    }
}
