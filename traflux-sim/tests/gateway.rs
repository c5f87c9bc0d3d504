//! The gateway's engine beside other balancers, on shortened scenarios.
#![allow(clippy::unwrap_used)]

use traflux_core::plan::routing::Algorithm;
use traflux_sim::gateway::compare::{Metric, Runs, met};
use traflux_sim::gateway::{Arm, Outcome, Peer, Scenario, play, quantile, scenarios};

fn short(name: &str, seconds: f64) -> Scenario {
    let mut scenario = scenarios().into_iter().find(|s| s.name == name).unwrap();
    scenario.seconds = seconds;
    scenario
}

fn engine() -> Arm {
    Arm::engine(Algorithm::Adaptive)
}

/// Two seeds of each arm at a load.
fn runs(scenario: &Scenario, load: f64, arms: &[Arm]) -> Vec<Runs> {
    let of = |arm: &Arm| [1, 2].map(|seed| play(scenario, load, seed, arm).unwrap()).to_vec();
    arms.iter().map(|arm| Runs { arm: arm.clone(), load, outcomes: of(arm) }).collect()
}

fn unanswered(runs: &Runs) -> usize {
    runs.outcomes.iter().map(|outcome| outcome.unanswered).sum()
}

#[test]
fn equal_seeds_give_equal_outcomes_to_the_bit() {
    let scenario = short("flash", 120.0);
    let queued = Arm::of(&scenario).remove(0);
    for arm in [queued, Arm::Peer(Peer::HotCold)] {
        let run = |seed| play(&scenario, 2.0, seed, &arm).unwrap();
        assert_eq!(run(7), run(7), "{}", arm.name());
        assert_ne!(run(7), run(8), "{}", arm.name());
    }
}

#[test]
fn one_slot_waits_as_long_as_pollaczek_and_khinchine_say() {
    // Mean wait = λ·E[S²] / (2·(1 − ρ)), from first tokens less their own work.
    let mut scenario = short("even", 20_000.0);
    scenario.servers.truncate(1);
    scenario.servers[0].slots = 1;
    scenario.warm_up = 500.0;
    let load = 0.5;
    let (mut waited, mut expected) = (0.0, 0.0);
    for seed in 1..=5 {
        let arrivals = traflux_sim::gateway::arrival::draw(&scenario, load, seed);
        let count = arrivals.len() as f64;
        let moment = |power: i32| arrivals.iter().map(|a| a.work().powi(power)).sum::<f64>() / count;
        let rate = count / scenario.seconds;
        expected += rate * moment(2) / (2.0 * (1.0 - rate * moment(1)));
        let outcome = play(&scenario, load, seed, &Arm::Peer(Peer::RoundRobin)).unwrap();
        let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len() as f64;
        waited += mean(&outcome.total) - moment(1);
    }
    // Five times 8500 requests: some 4 % standard error.
    assert!((waited / expected - 1.0).abs() < 0.12, "{} s, expected {} s", waited / 5.0, expected / 5.0);
}

#[test]
fn without_anything_to_learn_the_engine_is_as_fast_as_the_least_request() {
    let all = runs(&short("even", 90.0), 0.7, &[engine(), Arm::Peer(Peer::LeastRequest)]);
    for metric in [Metric::FirstToken, Metric::Total] {
        let [ours, theirs] = [0, 1].map(|ix: usize| all[ix].latency(metric, 0.99));
        assert!(ours <= 1.05 * theirs, "{metric:?}: {ours} s, {theirs} s");
    }
    assert_eq!(unanswered(&all[0]), 0);
}

#[test]
fn a_backend_that_becomes_slow_costs_the_engine_less_than_who_counts_or_averages() {
    let peers = [Peer::LeastRequest, Peer::PeakEwma, Peer::Score].map(Arm::Peer);
    let arms: Vec<Arm> = std::iter::once(engine()).chain(peers).collect();
    let all = runs(&short("slow-backend", 170.0), 0.6, &arms);
    let p99 = |runs: &Runs| runs.latency(Metric::FirstToken, 0.99);
    for peer in &all[1..] {
        assert!(p99(&all[0]) < p99(peer), "{} s, {}: {} s", p99(&all[0]), peer.arm.name(), p99(peer));
    }
}

#[test]
fn fast_errors_are_no_bait_for_the_engine() {
    let all = runs(&short("failing-fast", 150.0), 0.6, &[engine(), Arm::Peer(Peer::LeastRequest)]);
    let attempts = |runs: &Runs| runs.over_seeds(|outcome| outcome.attempts).mean - 1.0;
    assert!(attempts(&all[0]) < 0.5 * attempts(&all[1]), "{} {}", attempts(&all[0]), attempts(&all[1]));
    // The budget of retries keeps a failing backend from costing more than a fifth again, so a few errors of its first
    // moments reach their clients: less than one request in 200.
    let asked: usize = all[0].outcomes.iter().map(|outcome| outcome.asked).sum();
    assert!(200 * unanswered(&all[0]) < asked, "{} of {asked}", unanswered(&all[0]));
}

#[test]
fn conversations_stay_where_their_prompts_are_known() {
    let all = runs(&short("conversations", 120.0), 0.7, &[engine(), Arm::Peer(Peer::LeastRequest)]);
    let p50 = |runs: &Runs| runs.latency(Metric::FirstToken, 0.5);
    assert!(p50(&all[0]) < 0.5 * p50(&all[1]), "{} s, {} s", p50(&all[0]), p50(&all[1]));
}

#[test]
fn at_twice_the_capacity_limits_keep_answers_in_time_where_endless_queues_keep_none() {
    let scenario = short("deadlines", 120.0);
    let all = runs(&scenario, 2.0, &[Arm::of(&scenario).remove(0), Arm::Peer(Peer::LeastRequest)]);
    let goodput = |runs: &Runs| runs.over_seeds(|outcome| outcome.goodput).least;
    let late = |outcome: &Outcome| quantile(&outcome.first_token, 0.5);
    // The goal of 0.9 is for all 240 s; in half the time what came before service times were known weighs more.
    assert!(goodput(&all[0]) > 0.85, "{}", goodput(&all[0]));
    assert!(all[0].over_seeds(met).least > 5.0 * all[1].over_seeds(met).most);
    assert!(all[1].over_seeds(late).least > 15.0);
}
