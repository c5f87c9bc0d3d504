//! Does a solver that is stopped anywhere say what it has proven, and no more?
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use traflux_core::{BitRate, Latency, Link, Network, Node, NodeIx, TrafficMatrix};
use traflux_lp::multicommodity::check::{
    verify, verify_concurrent, verify_delay, verify_large, verify_total,
};
use traflux_lp::multicommodity::{
    DelayCurve, FlowProblem, FlowSolution, FlowStatus, LargeSolver, MinMaxSolver, Preference, least_delay,
    max_concurrent_flow, max_total_flow,
};

/// The gap of what counts as optimal.
const OPTIMAL: f64 = 1e-9;
/// Stops in each sweep.
const STOPS: u32 = 40;

/// A ring with chords of three capacities.
fn network(nodes: u32) -> Network {
    let mut random = ChaCha8Rng::seed_from_u64(u64::from(nodes));
    let mut links = Vec::new();
    let mut join = |random: &mut ChaCha8Rng, tail: u32, head: u32| {
        let capacity = f64::from(random.random_range(1..4u32));
        for (tail, head) in [(tail, head), (head, tail)] {
            links.push(Link {
                tail: NodeIx(tail),
                head: NodeIx(head),
                capacity: BitRate::bits_per_second(capacity),
                weight: 1.0,
                delay: Latency::saturating(random.random_range(0.001..0.01)),
            });
        }
    };
    for node in 0..nodes {
        join(&mut random, node, (node + 1) % nodes);
        let other = random.random_range(0..nodes);
        if other != node {
            join(&mut random, node, other);
        }
    }
    let names = (0..nodes).map(|n| Node { name: format!("n{n}"), position: None }).collect();
    Network::new(names, links).unwrap()
}

fn demands(network: &Network, seed: u64) -> TrafficMatrix {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let nodes = network.nodes().len();
    let demands = (0..nodes * nodes).map(|_| random.random_range(0.0..1.0f64).powi(3) * 0.01).collect();
    TrafficMatrix::from_rows(nodes, demands).unwrap()
}

/// Calls with deadlines spread over the time that the whole takes; how often each status came up.
fn sweep(mut stop_at: impl FnMut(Option<Instant>) -> FlowStatus) -> [usize; 3] {
    let began = Instant::now();
    let mut seen = [0; 3];
    seen[stop_at(None) as usize] += 1;
    let whole = began.elapsed().max(Duration::from_millis(1));
    for stop in 0..STOPS {
        let after = whole * stop / STOPS;
        seen[stop_at(Some(Instant::now() + after)) as usize] += 1;
    }
    assert!(seen[FlowStatus::Deadline as usize] > 0, "no deadline was met: {seen:?}");
    seen
}

#[track_caller]
fn honest(problem: &FlowProblem<'_>, solution: &FlowSolution) {
    verify(problem, None, solution).unwrap();
    says_so(solution.status, solution.gap());
}

#[track_caller]
fn says_so(status: FlowStatus, gap: f64) {
    match status {
        FlowStatus::Optimal => assert!(gap <= OPTIMAL, "optimal at a gap of {gap}"),
        FlowStatus::Deadline => {}
        FlowStatus::Stalled => panic!("nothing is in the way here"),
    }
}

#[test]
fn least_utilization_stopped_anywhere_says_optimal_only_where_it_is() {
    let network = network(24);
    let demands = demands(&network, 1);
    let problem = FlowProblem::all(&network, &demands).unwrap();
    sweep(|deadline| {
        let solution = MinMaxSolver::new(&network).solve(&problem, deadline).unwrap();
        honest(&problem, &solution);
        solution.status
    });
}

#[test]
fn warm_starts_stopped_anywhere_say_optimal_only_where_they_are() {
    let network = network(24);
    let mut kept = MinMaxSolver::new(&network);
    let mut seed = 0;
    sweep(|deadline| {
        seed += 1;
        // Every second one starts from an optimum, the others from what a deadline left.
        let demands = demands(&network, seed);
        let problem = FlowProblem::all(&network, &demands).unwrap();
        let solution = kept.solve(&problem, deadline).unwrap();
        honest(&problem, &solution);
        if seed % 2 == 0 {
            let solution = kept.solve(&problem, None).unwrap();
            honest(&problem, &solution);
            assert_eq!(solution.status, FlowStatus::Optimal);
        }
        solution.status
    });
}

#[test]
fn a_second_objective_stopped_anywhere_says_optimal_only_where_it_is() {
    let network = network(24);
    let demands = demands(&network, 2);
    let problem = FlowProblem::all(&network, &demands).unwrap();
    let cost = |solution: &FlowSolution| -> f64 {
        let links = network.links().iter().zip(&solution.loads);
        links.map(|(link, load)| link.delay.get() * load).sum()
    };
    let whole = MinMaxSolver::new(&network).solve_preferring(&problem, Preference::Delay, None).unwrap();
    sweep(|deadline| {
        let mut solver = MinMaxSolver::new(&network);
        let solution = solver.solve_preferring(&problem, Preference::Delay, deadline).unwrap();
        honest(&problem, &solution);
        if solution.status == FlowStatus::Optimal {
            assert!((cost(&solution) / cost(&whole) - 1.0).abs() < 1e-6);
        }
        solution.status
    });
}

#[test]
fn least_delay_stopped_anywhere_says_optimal_only_where_it_is() {
    let network = network(12);
    let demands = demands(&network, 3).scaled(30.0);
    let mut problem = FlowProblem::all(&network, &demands).unwrap();
    problem.background[0] = 2.0 * network.links()[0].capacity.get();
    for curve in [DelayCurve::fortz_thorup(), DelayCurve::queueing(12)] {
        sweep(|deadline| {
            let solution = least_delay(&problem, &curve, deadline).unwrap();
            verify_delay(&problem, &curve, &solution).unwrap();
            says_so(solution.status, solution.gap());
            solution.status
        });
    }
}

#[test]
fn throughput_stopped_anywhere_says_optimal_only_where_it_is() {
    let network = network(14);
    let demands = demands(&network, 4).scaled(20.0);
    let mut problem = FlowProblem::all(&network, &demands).unwrap();
    for (at, link) in network.links().iter().enumerate() {
        problem.background[at] = 0.1 * (at % 4) as f64 * link.capacity.get();
    }
    sweep(|deadline| {
        let solution = max_total_flow(&problem, deadline).unwrap();
        verify_total(&problem, &solution).unwrap();
        says_so(solution.status, solution.gap());
        solution.status
    });
    sweep(|deadline| {
        let solution = max_concurrent_flow(&problem, deadline).unwrap();
        verify_concurrent(&problem, &solution).unwrap();
        says_so(solution.status, solution.gap());
        solution.status
    });
}

#[test]
fn the_large_solver_stopped_anywhere_keeps_what_it_says() {
    let network = network(40);
    let demands = demands(&network, 5);
    let problem = FlowProblem::all(&network, &demands).unwrap();
    let solver = LargeSolver { tolerance: 1e-5, ..LargeSolver::default() };
    sweep(|deadline| {
        let solution = solver.solve(&problem, deadline).unwrap();
        verify_large(&problem, &solution).unwrap();
        assert_eq!(solution.status == FlowStatus::Optimal, solution.gap() <= solver.tolerance);
        assert_ne!(solution.status, FlowStatus::Stalled);
        solution.status
    });
}
