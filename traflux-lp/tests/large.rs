//! The solver for large networks against exact optima, its bound against its flows, and the ugly cases.
#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::time::Instant;

use good_lp::{Expression, ProblemVariables, Solution, SolverModel, default_solver, variable};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use traflux_core::{BitRate, Latency, Link, Network, Node, NodeIx, TrafficMatrix};
use traflux_lp::multicommodity::check::verify_large;
use traflux_lp::multicommodity::{Commodity, FlowError, FlowProblem, FlowStatus, LargeSolution, LargeSolver};
use traflux_te::generate::{BackboneConfig, backbone};

fn link(tail: usize, head: usize, capacity: f64) -> Link {
    Link {
        tail: NodeIx::from(tail),
        head: NodeIx::from(head),
        capacity: BitRate::new(capacity).unwrap(),
        weight: 1.0,
        delay: Latency::ZERO,
    }
}

fn network(nodes: usize, links: Vec<Link>) -> Network {
    let names = (0..nodes).map(|n| Node { name: format!("n{n}"), position: None }).collect();
    Network::new(names, links).unwrap()
}

/// A tree with more links on top, in both directions, some in parallel and some one-way.
fn random_network(random: &mut ChaCha8Rng, nodes: usize, more: usize) -> Network {
    let mut links = Vec::new();
    for node in 1..nodes {
        // Mostly near neighbours, so that chains and trees come up.
        let other = node - 1 - random.random_range(0..node.min(3));
        let capacity = f64::from(random.random_range(1..10u8));
        links.extend([link(node, other, capacity), link(other, node, capacity)]);
    }
    for _ in 0..more {
        let (a, b) = (random.random_range(0..nodes), random.random_range(0..nodes));
        if a != b {
            links.push(link(a, b, f64::from(random.random_range(1..10u8))));
            if random.random_bool(0.8) {
                links.push(link(b, a, f64::from(random.random_range(1..10u8))));
            }
        }
    }
    network(nodes, links)
}

fn random_demands(random: &mut ChaCha8Rng, nodes: usize) -> TrafficMatrix {
    let demands = (0..nodes * nodes)
        .map(|_| if random.random_bool(0.7) { random.random_range(0.0..1.0f64).powi(3) } else { 0.0 })
        .collect();
    TrafficMatrix::from_rows(nodes, demands).unwrap()
}

/// The least maximum utilisation by a linear program with one commodity for each source.
fn optimum(problem: &FlowProblem<'_>) -> f64 {
    let (nodes, links) = (problem.network.nodes().len(), problem.network.links());
    let mut supply = vec![vec![0.0; nodes]; nodes];
    for commodity in &problem.commodities {
        supply[commodity.source.ix()][commodity.source.ix()] += commodity.demand;
        supply[commodity.source.ix()][commodity.target.ix()] -= commodity.demand;
    }
    let mut variables = ProblemVariables::new();
    let theta = variables.add(variable().min(0.0));
    let flows: Vec<Vec<_>> =
        (0..nodes).map(|_| links.iter().map(|_| variables.add(variable().min(0.0))).collect()).collect();
    let mut model = variables.minimise(theta).using(default_solver);
    for source in 0..nodes {
        for node in 0..nodes {
            let mut out = Expression::from(0.0);
            for (flow, link) in flows[source].iter().zip(links) {
                if link.tail.ix() == node {
                    out += *flow;
                } else if link.head.ix() == node {
                    out -= *flow;
                }
            }
            model = model.with(out.eq(supply[source][node]));
        }
    }
    for (ix, link) in links.iter().enumerate() {
        let load: Expression = flows.iter().map(|flows| flows[ix]).sum();
        model = model.with((load + problem.background[ix]).leq(link.capacity.get() * theta));
    }
    model.solve().unwrap().value(theta)
}

#[track_caller]
fn check(problem: &FlowProblem<'_>, solution: &LargeSolution) {
    verify_large(problem, solution).unwrap();
    assert!(solution.paths.path_count() >= problem.commodities.len());
}

fn solver(tolerance: f64) -> LargeSolver {
    LargeSolver { tolerance, ..LargeSolver::default() }
}

/// Only the demands that a network can carry at all.
fn joined<'a>(network: &'a Network, demands: &TrafficMatrix) -> FlowProblem<'a> {
    let mut problem = FlowProblem::all(network, demands).unwrap();
    let nodes = network.nodes().len();
    let mut reach = vec![false; nodes * nodes];
    for node in 0..nodes {
        reach[node * nodes + node] = true;
    }
    for _ in 0..nodes {
        for link in network.links() {
            for source in 0..nodes {
                if reach[source * nodes + link.tail.ix()] {
                    reach[source * nodes + link.head.ix()] = true;
                }
            }
        }
    }
    problem.commodities.retain(|c| reach[c.source.ix() * nodes + c.target.ix()]);
    problem
}

#[test]
fn utilization_and_bound_enclose_the_optimum_of_small_networks() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for round in 0..60 {
        let nodes = random.random_range(2..9);
        let more = random.random_range(0..8);
        let network = random_network(&mut random, nodes, more);
        let mut problem = joined(&network, &random_demands(&mut random, nodes));
        if round % 3 == 0 {
            problem.background.iter_mut().for_each(|b| *b = random.random_range(0.0..2.0));
        }
        let solution = solver(1e-6).solve(&problem, None).unwrap();
        check(&problem, &solution);
        assert_eq!(solution.status, FlowStatus::Optimal, "round {round}: gap {}", solution.gap());
        assert!(solution.gap() <= 1e-6);
        let optimum = optimum(&problem);
        assert!(solution.lower_bound <= optimum + 1e-7, "{} {optimum}", solution.lower_bound);
        assert!(solution.utilization >= optimum - 1e-7, "{} {optimum}", solution.utilization);
    }
}

#[test]
fn one_way_rings_and_chains_with_missing_links_are_solved_exactly() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..40 {
        let nodes: usize = random.random_range(3..8);
        let mut links = Vec::new();
        for node in 0..nodes {
            let next = (node + 1) % nodes;
            links.push(link(node, next, random.random_range(1.0..5.0)));
            if random.random_bool(0.6) {
                links.push(link(next, node, random.random_range(1.0..5.0)));
            }
        }
        let network = network(nodes, links);
        let problem = joined(&network, &random_demands(&mut random, nodes));
        let solution = solver(1e-7).solve(&problem, None).unwrap();
        check(&problem, &solution);
        let optimum = optimum(&problem);
        assert!((solution.utilization - optimum).abs() <= 1e-6 * optimum.max(1e-3));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    // Enough pairs for the solver to use threads at all.
    let network = random_network(&mut random, 420, 200);
    let problem = FlowProblem::all(&network, &random_demands(&mut random, 420)).unwrap();
    let with = |threads| {
        let solver = LargeSolver { threads: NonZeroUsize::new(threads).unwrap(), ..solver(0.05) };
        solver.solve(&problem, None).unwrap()
    };
    let one = with(1);
    check(&problem, &one);
    assert!(one.gap() <= 0.05);
    assert_eq!(one, with(2));
    assert_eq!(one, with(3));
}

#[test]
fn a_deadline_of_zero_still_gives_feasible_flows_and_a_true_bound() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let network = random_network(&mut random, 40, 30);
    let problem = FlowProblem::all(&network, &random_demands(&mut random, 40)).unwrap();
    let solver = LargeSolver::default();
    let solution = solver.solve(&problem, Some(Instant::now())).unwrap();
    check(&problem, &solution);
    assert_eq!(solution.status, FlowStatus::Deadline);
    assert!(solution.gap() > solver.tolerance);
}

#[test]
fn a_gap_that_rounding_forbids_ends_with_a_status_and_not_never() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let network = random_network(&mut random, 20, 15);
    let problem = FlowProblem::all(&network, &random_demands(&mut random, 20)).unwrap();
    let solution = solver(0.0).solve(&problem, None).unwrap();
    check(&problem, &solution);
    assert_eq!(solution.status, FlowStatus::Stalled);
    assert!(solution.gap() < 1e-7, "gap {}", solution.gap());
}

#[test]
fn nothing_to_send_leaves_the_background_alone() {
    let network = network(3, vec![link(0, 1, 2.0), link(1, 2, 4.0)]);
    let problem = FlowProblem { network: &network, commodities: Vec::new(), background: vec![1.0, 3.0] };
    let solution = solver(1e-6).solve(&problem, None).unwrap();
    assert_eq!(solution.utilization, 0.75);
    assert!(solution.gap() <= 1e-6);
    let idle = FlowProblem { background: vec![0.0; 2], ..problem };
    assert_eq!(solver(1e-6).solve(&idle, None).unwrap().utilization, 0.0);
}

#[test]
fn a_demand_without_a_path_is_named() {
    let network = network(4, vec![link(0, 1, 1.0), link(1, 0, 1.0), link(2, 3, 1.0), link(3, 1, 1.0)]);
    for (source, target) in [(0u32, 2u32), (1, 3), (3, 2)] {
        let commodity = Commodity { source: NodeIx(source), target: NodeIx(target), demand: 2.0 };
        let fine = Commodity { source: NodeIx(2), target: NodeIx(0), demand: 1.0 };
        let problem =
            FlowProblem { network: &network, commodities: vec![fine, commodity], background: vec![0.0; 4] };
        let expected = FlowError::Disconnected {
            source_node: format!("n{source}"),
            target_node: format!("n{target}"),
            demand: 2.0,
        };
        assert_eq!(solver(1e-4).solve(&problem, None).unwrap_err(), expected);
    }
}

#[test]
fn problems_that_do_not_fit_are_refused() {
    let network = network(2, vec![link(0, 1, 1.0)]);
    let good = Commodity { source: NodeIx(0), target: NodeIx(1), demand: 1.0 };
    let code = |commodity, background, tolerance| {
        let problem = FlowProblem { network: &network, commodities: vec![commodity], background };
        solver(tolerance).solve(&problem, None).unwrap_err().code()
    };
    assert_eq!(code(good, vec![], 1e-4), "flow_length");
    assert_eq!(code(good, vec![f64::NAN], 1e-4), "flow_value");
    assert_eq!(code(good, vec![0.0], -1.0), "flow_value");
    assert_eq!(code(Commodity { demand: f64::INFINITY, ..good }, vec![0.0], 1e-4), "flow_value");
    assert_eq!(code(Commodity { target: NodeIx(0), ..good }, vec![0.0], 1e-4), "flow_ends");
    assert_eq!(code(Commodity { target: NodeIx(7), ..good }, vec![0.0], 1e-4), "flow_ends");
}

/// A file of public data; `None`, with a line that says so, where none is at hand.
fn data(path: &str) -> Option<String> {
    let Ok(folder) = std::env::var("TRAFLUX_DATA") else {
        eprintln!("skipped: TRAFLUX_DATA is not set");
        return None;
    };
    Some(std::fs::read_to_string(std::path::Path::new(&folder).join(path)).unwrap())
}

fn node_link(text: &str) -> Network {
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let links = json["links"].as_array().unwrap();
    let end = |link: &serde_json::Value, key: &str| link[key].as_u64().unwrap() as usize;
    let links =
        links.iter().map(|l| link(end(l, "source"), end(l, "target"), l["capacity"].as_f64().unwrap()));
    network(json["nodes"].as_array().unwrap().len(), links.collect())
}

#[test]
fn geant_is_within_the_tolerance_of_its_published_optimum() {
    let Some(text) = data("geant/GEANT.json") else { return };
    let network = node_link(&text);
    let matrices = data("geant/geant_tm_first100.txt").unwrap();
    let optima = data("geant/geant_opt_first100.txt").unwrap();
    let numbers = |line: &str| -> Vec<f64> { line.split_whitespace().map(|n| n.parse().unwrap()).collect() };
    let optima = numbers(&optima);
    let lines = matrices.lines().filter(|line| !line.trim().is_empty());
    let mut solved = 0;
    for (line, optimum) in lines.zip(optima).step_by(4) {
        let demands = TrafficMatrix::from_rows(22, numbers(line)).unwrap();
        let problem = FlowProblem::all(&network, &demands).unwrap();
        let solution = solver(1e-6).solve(&problem, None).unwrap();
        check(&problem, &solution);
        let ratio = solution.utilization / optimum;
        assert!((ratio - 1.0).abs() < 2e-6, "{} {optimum}", solution.utilization);
        solved += 1;
    }
    assert_eq!(solved, 25);
}

#[test]
fn uscarrier_under_gravity_traffic_is_solved_to_a_ten_thousandth() {
    let Some(text) = data("teal/UsCarrier.json") else { return };
    let network = node_link(&text);
    let nodes = network.nodes().len();
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let mass: Vec<f64> = (0..nodes)
        .map(|node| {
            let out = network.out_links(NodeIx::from(node)).iter();
            let capacity: f64 = out.map(|link| network.links()[link.ix()].capacity.get()).sum();
            -capacity * (1.0 - random.random_range(0.0..1.0f64)).ln()
        })
        .collect();
    let demands = (0..nodes * nodes).map(|pair| mass[pair / nodes] * mass[pair % nodes] * 1e-6).collect();
    let problem = FlowProblem::all(&network, &TrafficMatrix::from_rows(nodes, demands).unwrap()).unwrap();
    let solution = solver(1e-4).solve(&problem, None).unwrap();
    check(&problem, &solution);
    assert_eq!(solution.status, FlowStatus::Optimal);
    assert!(solution.gap() <= 1e-4);
}

/// Where hundreds of links come near the fullest and some dozen of them have a price, the rounds of the bound are
/// what ends it: without them it takes twice the rounds of the master, each over all columns.
#[test]
fn a_backbone_of_equal_links_takes_few_rounds() {
    let nodes = 100;
    let config = BackboneConfig { nodes, ..BackboneConfig::default() };
    for seed in 1..=3 {
        let network = backbone(&config, seed).unwrap();
        let mass: Vec<f64> = (0..nodes).map(|n| network.out_links(NodeIx::from(n)).len() as f64).collect();
        let demands = (0..nodes * nodes).map(|pair| mass[pair / nodes] * mass[pair % nodes] * 1e6).collect();
        let demands = TrafficMatrix::from_rows(nodes, demands).unwrap();
        let problem = FlowProblem::all(&network, &demands).unwrap();
        let solution = solver(1e-4).solve(&problem, None).unwrap();
        check(&problem, &solution);
        assert_eq!(solution.status, FlowStatus::Optimal, "seed {seed}");
        let finer = solver(1e-7).solve(&problem, None).unwrap();
        check(&problem, &finer);
        assert_eq!(finer.status, FlowStatus::Optimal, "seed {seed}");
        assert!(solution.lower_bound <= finer.utilization && finer.lower_bound <= solution.utilization);
        // Sweeps of the potential included.
        assert!(finer.iterations <= solution.iterations + 8, "seed {seed}: {} rounds", finer.iterations);
    }
}

/// What holds for the optimum holds for bound and utilisation to the gap: demands times a factor, nodes in another
/// order, one more link.
#[test]
fn the_optimum_follows_scale_order_and_links() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for seed in 1..=4 {
        let network = backbone(&BackboneConfig { nodes: 40, ..BackboneConfig::default() }, seed).unwrap();
        let demands = random_demands(&mut random, 40);
        let tolerance = 1e-6;
        let solve = |network: &Network, demands: &TrafficMatrix| {
            let problem = FlowProblem::all(network, demands).unwrap();
            let solution = solver(tolerance).solve(&problem, None).unwrap();
            check(&problem, &solution);
            assert_eq!(solution.status, FlowStatus::Optimal);
            solution
        };
        let first = solve(&network, &demands);
        let same = |other: &LargeSolution, factor: f64| {
            let scale = first.utilization * factor;
            assert!((other.utilization - scale).abs() <= 2.0 * tolerance * scale, "seed {seed}");
        };
        same(&solve(&network, &demands.scaled(1e3)), 1e3);

        let turned: Vec<Link> = network
            .links()
            .iter()
            .map(|l| Link {
                tail: NodeIx::from(39 - l.tail.ix()),
                head: NodeIx::from(39 - l.head.ix()),
                ..*l
            })
            .collect();
        let rows = (0..1600).map(|pair| demands.as_slice()[(39 - pair / 40) * 40 + 39 - pair % 40]).collect();
        same(&solve(&self::network(40, turned), &TrafficMatrix::from_rows(40, rows).unwrap()), 1.0);

        let mut more = network.links().to_vec();
        more.push(Link { tail: NodeIx(0), head: NodeIx(39), ..more[0] });
        let wider = solve(&self::network(40, more), &demands);
        assert!(wider.lower_bound <= first.utilization, "seed {seed}: a link more made it worse");
    }
}
