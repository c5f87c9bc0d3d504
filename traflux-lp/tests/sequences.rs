//! Does a solver that is kept for a sequence of problems find what one made for each finds, and with less work?
#![allow(clippy::unwrap_used)]

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use traflux_core::{BitRate, Network};
use traflux_lp::multicommodity::check::{verify_concurrent, verify_total};
use traflux_lp::multicommodity::{
    FlowError, FlowProblem, FlowStatus, MinMaxSolver, TotalFlowSolver, max_concurrent_flow,
    max_concurrent_flow_by, max_total_flow,
};
use traflux_te::generate::{BackboneConfig, NodeMass, TrafficModel, backbone};

fn network(nodes: usize) -> Network {
    backbone(&BackboneConfig { nodes, ..BackboneConfig::default() }, 7).unwrap()
}

/// Problems one after the other: demands that drift, backgrounds that come and go, pairs that fall silent, and once
/// quite another matrix. Links are filled from a fifth to three times what they carry.
fn sequence(network: &Network, seed: u64) -> Vec<FlowProblem<'_>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let model =
        |total| TrafficModel::Gravity { mass: NodeMass::Random, total: BitRate::gigabits_per_second(total) };
    let total = 12.0 * network.nodes().len() as f64;
    let matrices = model(total).matrices(network, 2, seed).unwrap();
    let mut problems: Vec<FlowProblem<'_>> = Vec::new();
    for step in 0..16 {
        let matrix = &matrices[step / 10];
        let mut problem = FlowProblem::all(network, matrix).unwrap();
        let level = [0.2, 0.5, 1.0, 3.0][step % 4];
        for commodity in &mut problem.commodities {
            commodity.demand *= level * random.random_range(0.8..1.25);
        }
        if step % 3 == 2 {
            problem.commodities.retain(|_| random.random_bool(0.9));
        }
        if step % 2 == 1 {
            for (load, link) in problem.background.iter_mut().zip(network.links()) {
                *load = link.capacity.get() * random.random_range(0.0..0.6);
            }
        }
        problems.push(problem);
    }
    problems
}

#[track_caller]
fn close(found: f64, expected: f64) {
    let scale = found.abs().max(expected.abs()).max(1e-12);
    assert!((found - expected).abs() <= 1e-9 * scale, "found {found}, expected {expected}");
}

#[test]
fn the_most_traffic_does_not_depend_on_what_was_solved_before() {
    let (mut warm, mut cold) = (0, 0);
    for seed in 0..8 {
        let network = network(8 + seed as usize);
        let mut kept = TotalFlowSolver::new(&network);
        for problem in sequence(&network, seed) {
            let (found, fresh) =
                (kept.solve(&problem, None).unwrap(), max_total_flow(&problem, None).unwrap());
            verify_total(&problem, &found).unwrap();
            assert_eq!(found.status, FlowStatus::Optimal);
            close(found.total, fresh.total);
            warm += found.iterations;
            cold += fresh.iterations;
        }
    }
    assert!(warm < cold, "{warm} pivots in sequence, {cold} from scratch");
}

#[test]
fn the_common_factor_does_not_depend_on_what_was_solved_before() {
    for seed in 0..6 {
        let network = network(8 + seed as usize);
        let mut kept = MinMaxSolver::new(&network);
        for problem in sequence(&network, seed) {
            let found = max_concurrent_flow_by(&mut kept, &problem, None).unwrap();
            let fresh = max_concurrent_flow(&problem, None).unwrap();
            verify_concurrent(&problem, &found).unwrap();
            assert_eq!(found.status, FlowStatus::Optimal);
            close(found.factor, fresh.factor);
        }
    }
}

#[test]
fn a_kept_solver_refuses_another_network_and_goes_on_with_its_own() {
    let (own, other) = (network(8), network(9));
    let (first, second) = (sequence(&own, 1), sequence(&other, 1));
    let mut total = TotalFlowSolver::new(&own);
    let nodes = FlowError::Length { what: "network nodes", found: 9, expected: 8 };
    for problem in &first[..3] {
        assert_eq!(total.solve(&second[0], None).unwrap_err(), nodes);
        assert_eq!(total.solve(problem, None).unwrap().status, FlowStatus::Optimal);
    }
}
