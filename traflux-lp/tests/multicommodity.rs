//! Do exact flows agree with recorded optima, with another solver, and with what must hold?
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Instant;

use good_lp::{Expression, Solution, SolverModel, Variable, constraint, microlp, variable, variables};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use traflux_core::{
    BaseRouting, BitRate, GroupIx, Latency, Link, LinkIx, Network, Node, NodeIx, TrafficMatrix,
};
use traflux_lp::multicommodity::check::{
    FlowCheckError, verify, verify_concurrent, verify_delay, verify_listed, verify_total,
};
use traflux_lp::multicommodity::{
    Commodity, DelayCurve, FlowError, FlowProblem, FlowSolution, FlowStatus, MinMaxSolver, Preference,
    least_delay, max_concurrent_flow, max_total_flow,
};

/// The folder of public data, where there is one.
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("TRAFLUX_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: TRAFLUX_DATA is not set");
    }
    folder
}

fn rows(text: &str) -> Vec<Vec<f64>> {
    text.lines().map(|line| line.split_whitespace().map(|n| n.parse().unwrap()).collect()).collect()
}

/// Node-link JSON with capacities.
fn from_json(text: &str) -> Network {
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let nodes = json["nodes"].as_array().unwrap().len();
    let index = |value: &serde_json::Value| value.as_u64().unwrap() as u32;
    let links = json["links"].as_array().unwrap().iter();
    let links =
        links.map(|l| link(index(&l["source"]), index(&l["target"]), l["capacity"].as_f64().unwrap()));
    network(nodes, links.collect())
}

fn network(nodes: usize, links: Vec<Link>) -> Network {
    let nodes = (0..nodes).map(|n| Node { name: format!("n{n}"), position: None }).collect();
    Network::new(nodes, links).unwrap()
}

fn link(tail: u32, head: u32, capacity: f64) -> Link {
    Link {
        tail: NodeIx(tail),
        head: NodeIx(head),
        capacity: BitRate::bits_per_second(capacity),
        weight: 1.0,
        delay: Latency::saturating(1e-3),
    }
}

fn commodity(source: u32, target: u32, demand: f64) -> Commodity {
    Commodity { source: NodeIx(source), target: NodeIx(target), demand }
}

/// A ring with chords; with `round` numbers many flows are equally good.
fn random_network(random: &mut ChaCha8Rng, round: bool) -> Network {
    let nodes = random.random_range(3..8u32);
    let mut links = Vec::new();
    let mut add = |random: &mut ChaCha8Rng, tail: u32, head: u32| {
        let capacity =
            if round { f64::from(random.random_range(1..4u32)) } else { random.random_range(0.5..5.0) };
        let mut link = link(tail, head, capacity);
        link.weight = random.random_range(0.5..2.0);
        link.delay = Latency::saturating(random.random_range(0.001..0.1));
        links.push(link);
    };
    for node in 0..nodes {
        add(random, node, (node + 1) % nodes);
        add(random, (node + 1) % nodes, node);
    }
    for _ in 0..random.random_range(0..2 * nodes) {
        let (tail, head) = (random.random_range(0..nodes), random.random_range(0..nodes));
        if tail != head {
            add(random, tail, head);
        }
    }
    network(nodes as usize, links)
}

fn random_problem<'a>(random: &mut ChaCha8Rng, network: &'a Network, round: bool) -> FlowProblem<'a> {
    let nodes = network.nodes().len() as u32;
    let mut pairs: Vec<(u32, u32)> =
        (0..nodes).flat_map(|s| (0..nodes).filter(move |t| *t != s).map(move |t| (s, t))).collect();
    pairs.shuffle(random);
    pairs.truncate(random.random_range(1..8));
    let demand = |random: &mut ChaCha8Rng| {
        if round { f64::from(random.random_range(1..4u32)) } else { random.random_range(0.01..2.0) }
    };
    let commodities = pairs.into_iter().map(|(s, t)| commodity(s, t, demand(random))).collect();
    let links = network.links().iter();
    let background = links.map(|l| if random.random_bool(0.3) { 0.3 * l.capacity.get() } else { 0.0 });
    FlowProblem { network, commodities, background: background.collect() }
}

/// Half of each pair on the shortest path by weight, half on that by delay.
fn base(network: &Network) -> BaseRouting {
    let nodes = network.nodes().len();
    let by_weight: Vec<f64> = network.links().iter().map(|link| link.weight).collect();
    let by_delay: Vec<f64> = network.links().iter().map(|link| link.delay.get()).collect();
    let pairs = (0..network.pair_count()).map(|pair| {
        let (source, target) = network.pair(GroupIx::from(pair));
        let mut parts = vec![0.0; network.links().len()];
        for lengths in [&by_weight, &by_delay] {
            let mut distance = vec![f64::INFINITY; nodes];
            let mut through = vec![None; nodes];
            distance[source.ix()] = 0.0;
            for _ in 0..nodes {
                for (at, link) in network.links().iter().enumerate() {
                    if distance[link.tail.ix()] + lengths[at] < distance[link.head.ix()] {
                        distance[link.head.ix()] = distance[link.tail.ix()] + lengths[at];
                        through[link.head.ix()] = Some(at);
                    }
                }
            }
            let mut node = target;
            while let Some(at) = through[node.ix()] {
                parts[at] += 0.5;
                node = network.links()[at].tail;
            }
        }
        let parts = parts.into_iter().enumerate().filter(|(_, part)| *part > 0.0);
        parts.map(|(link, part)| (LinkIx::from(link), part)).collect::<Vec<_>>()
    });
    BaseRouting::new(network, pairs.collect::<Vec<_>>()).unwrap()
}

/// What the other solver is asked for; all are over the flow of each commodity on each link.
enum Question<'a> {
    Utilization,
    /// Least cost at a utilisation.
    Cost(f64, &'a [f64]),
    /// Least rerouted at a utilisation.
    Rerouted(f64, &'a BaseRouting),
    Concurrent,
    Total,
    Curve(&'a [(f64, f64)]),
}

fn other_solver(problem: &FlowProblem<'_>, question: &Question<'_>) -> f64 {
    let links = problem.network.links();
    let mut vars = variables!();
    let level = vars.add(variable().min(0.0));
    let flow: Vec<Vec<Variable>> =
        problem.commodities.iter().map(|_| vars.add_vector(variable().min(0.0), links.len())).collect();
    let sent: Vec<Variable> = problem.commodities.iter().map(|_| vars.add(variable().min(0.0))).collect();
    let link_cost = vars.add_vector(variable().min(0.0), links.len());
    let mut loads: Vec<Expression> = problem.background.iter().map(|load| Expression::from(*load)).collect();
    for flow in &flow {
        for (load, flow) in loads.iter_mut().zip(flow) {
            *load += *flow;
        }
    }
    let total: Expression = sent.iter().sum();
    let mut constraints = Vec::new();
    for (at, commodity) in problem.commodities.iter().enumerate() {
        match question {
            Question::Concurrent => constraints.push(constraint!(sent[at] == commodity.demand * level)),
            Question::Total => constraints.push(constraint!(sent[at] <= commodity.demand)),
            Question::Rerouted(_, base) => {
                constraints.push(constraint!(sent[at] <= commodity.demand));
                let pair = problem.network.pair_ix(commodity.source, commodity.target);
                for (link, part) in base.of(pair) {
                    loads[link.ix()] += part * (commodity.demand - sent[at]);
                }
            }
            _ => constraints.push(constraint!(sent[at] == commodity.demand)),
        }
        for node in 0..problem.network.nodes().len() {
            let mut out = Expression::from(0.0);
            for (link, flow) in links.iter().zip(&flow[at]) {
                if link.tail.ix() == node {
                    out += *flow;
                }
                if link.head.ix() == node {
                    out -= *flow;
                }
            }
            if node == commodity.source.ix() {
                constraints.push(constraint!(out == sent[at]));
            } else if node != commodity.target.ix() {
                constraints.push(constraint!(out == 0.0));
            }
        }
    }
    for (at, (link, load)) in links.iter().zip(&loads).enumerate() {
        let capacity = link.capacity.get();
        match question {
            Question::Utilization => constraints.push(constraint!(load.clone() <= capacity * level)),
            Question::Cost(limit, _) | Question::Rerouted(limit, _) => {
                constraints.push(constraint!(load.clone() <= capacity * *limit));
            }
            Question::Concurrent | Question::Total => constraints.push(constraint!(load.clone() <= capacity)),
            Question::Curve(tangents) => {
                for (slope, offset) in *tangents {
                    let tangent = (*slope / capacity) * load.clone() + *offset;
                    constraints.push(constraint!(link_cost[at] >= tangent));
                }
            }
        }
    }
    let objective = match question {
        Question::Utilization => Expression::from(level),
        Question::Cost(_, costs) => {
            flow.iter().flat_map(|flow| flow.iter().zip(*costs)).map(|(flow, cost)| *cost * *flow).sum()
        }
        Question::Rerouted(..) => total,
        Question::Concurrent => -Expression::from(level),
        Question::Total => -total,
        Question::Curve(_) => link_cost.iter().sum(),
    };
    let model = vars.minimise(objective.clone()).using(microlp);
    let solution = constraints.into_iter().fold(model, SolverModel::with).solve().unwrap();
    let value = solution.eval(objective);
    if matches!(question, Question::Concurrent | Question::Total) { -value } else { value }
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    let scale = found.abs().max(expected.abs()).max(1e-6);
    assert!((found - expected).abs() <= tolerance * scale, "found {found}, expected {expected}");
}

#[track_caller]
fn optimal(problem: &FlowProblem<'_>, solution: &FlowSolution) {
    verify(problem, None, solution).unwrap();
    assert_eq!(solution.status, FlowStatus::Optimal);
    assert!(solution.gap() <= 1e-9, "gap {}", solution.gap());
}

#[test]
fn geant_optima_are_those_on_record() {
    let Some(folder) = data() else { return };
    let read = |name: &str| std::fs::read_to_string(folder.join("geant").join(name)).unwrap();
    let network = from_json(&read("GEANT.json"));
    let optima = rows(&read("geant_opt_first100.txt"));
    let matrices = rows(&read("geant_tm_first100.txt"));
    assert_eq!((optima.len(), matrices.len()), (100, 100));
    let mut kept = MinMaxSolver::new(&network);
    for (matrix, optimum) in matrices.into_iter().zip(optima) {
        let demands = TrafficMatrix::from_rows(network.nodes().len(), matrix).unwrap();
        let problem = FlowProblem::all(&network, &demands).unwrap();
        for solver in [&mut kept, &mut MinMaxSolver::new(&network)] {
            let solution = solver.solve(&problem, None).unwrap();
            optimal(&problem, &solution);
            close(solution.utilization, optimum[0], 1e-9);
        }
    }
}

#[test]
fn abilene_moves_the_least_traffic_and_what_is_put_in_force_has_the_loads_promised() {
    let Some(folder) = data() else { return };
    let read = |name: &str| std::fs::read_to_string(folder.join("cfr-rl").join(name)).unwrap();
    let topology = read("Abilene");
    let links = topology.lines().skip(2).map(|line| {
        let fields: Vec<f64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        Link { weight: fields[3], ..link(fields[1] as u32, fields[2] as u32, fields[4] * 1e3) }
    });
    let network = network(12, links.collect());
    let base = base(&network);
    let mut kept = MinMaxSolver::new(&network);
    for matrix in rows(&read("AbileneTM")).into_iter().step_by(40) {
        let demands = TrafficMatrix::from_rows(12, matrix).unwrap().scaled(100.0 * 8.0 / 300.0);
        let mut pairs: Vec<usize> = (0..network.pair_count()).collect();
        let demand: Vec<f64> = demands.pairs().collect();
        pairs.sort_by(|a, b| demand[*b].total_cmp(&demand[*a]));
        let critical: Vec<GroupIx> = pairs[..13].iter().map(|pair| GroupIx::from(*pair)).collect();
        for problem in [
            FlowProblem::critical(&network, &base, &demands, &critical).unwrap(),
            FlowProblem::all(&network, &demands).unwrap(),
        ] {
            let cold = MinMaxSolver::new(&network).solve(&problem, None).unwrap();
            optimal(&problem, &cold);
            let solution = kept.solve_preferring(&problem, Preference::LeastRerouted(&base), None).unwrap();
            verify(&problem, Some(&base), &solution).unwrap();
            close(solution.utilization, cold.utilization, 1e-9);
            let routing = solution.routing(&problem).unwrap();
            let loads = routing.loads(&network, &base, &demands);
            close(network.max_utilization(&loads), solution.utilization, 1e-9);
        }
    }
}

#[test]
fn the_least_utilization_is_that_of_the_node_arc_program() {
    for seed in 0..150 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let round = seed % 2 == 0;
        let network = random_network(&mut random, round);
        let mut kept = MinMaxSolver::new(&network);
        for _ in 0..3 {
            let problem = random_problem(&mut random, &network, round);
            let solution = kept.solve(&problem, None).unwrap();
            optimal(&problem, &solution);
            close(solution.utilization, other_solver(&problem, &Question::Utilization), 1e-6);
        }
    }
}

/// Traffic times cost along its path.
fn path_cost(problem: &FlowProblem<'_>, solution: &FlowSolution, costs: &[f64]) -> f64 {
    let commodities = problem.commodities.iter().zip(&solution.paths);
    let of = |links: &[LinkIx]| links.iter().map(|link| costs[link.ix()]).sum::<f64>();
    commodities
        .map(|(commodity, paths)| {
            commodity.demand * paths.iter().map(|p| p.share * of(&p.links)).sum::<f64>()
        })
        .sum()
}

fn rerouted(problem: &FlowProblem<'_>, solution: &FlowSolution) -> f64 {
    problem.commodities.iter().zip(&solution.base_share).map(|(c, share)| c.demand * (1.0 - share)).sum()
}

#[test]
fn second_objectives_are_met_at_the_least_utilization() {
    for seed in 0..100 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let round = seed % 2 == 0;
        let network = random_network(&mut random, round);
        let base = base(&network);
        let delays: Vec<f64> = network.links().iter().map(|link| link.delay.get()).collect();
        let mut kept = MinMaxSolver::new(&network);
        for _ in 0..3 {
            let problem = random_problem(&mut random, &network, round);
            let least = kept.solve(&problem, None).unwrap().utilization;
            let limit = least * (1.0 + 1e-9);

            let solution = kept.solve_preferring(&problem, Preference::Delay, None).unwrap();
            optimal(&problem, &solution);
            close(solution.utilization, least, 1e-9);
            let expected = other_solver(&problem, &Question::Cost(limit, &delays));
            close(path_cost(&problem, &solution, &delays), expected, 1e-5);

            let same = kept.solve_preferring(&problem, Preference::LinkCosts(&delays), None).unwrap();
            close(path_cost(&problem, &same, &delays), expected, 1e-5);

            let solution = kept.solve_preferring(&problem, Preference::LeastRerouted(&base), None).unwrap();
            verify(&problem, Some(&base), &solution).unwrap();
            close(solution.utilization, least, 1e-9);
            let expected = other_solver(&problem, &Question::Rerouted(limit, &base));
            close(rerouted(&problem, &solution) + 1.0, expected + 1.0, 1e-5);
        }
    }
}

#[test]
fn loads_that_a_preference_chose_do_not_depend_on_what_was_solved_before() {
    for seed in 0..40 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let network = random_network(&mut random, seed % 2 == 0);
        let base = base(&network);
        let mut problem = random_problem(&mut random, &network, seed % 2 == 0);
        for preference in [Preference::LeastRerouted(&base), Preference::Delay] {
            let mut kept = MinMaxSolver::new(&network);
            for _ in 0..4 {
                for commodity in &mut problem.commodities {
                    commodity.demand *= random.random_range(0.5..2.0);
                }
                let warm = kept.solve_preferring(&problem, preference, None).unwrap();
                let cold = MinMaxSolver::new(&network).solve_preferring(&problem, preference, None).unwrap();
                for (warm, cold) in warm.loads.iter().zip(&cold.loads) {
                    close(*warm, *cold, 1e-6);
                }
                for (warm, cold) in warm.base_share.iter().zip(&cold.base_share) {
                    close(*warm, *cold, 1e-6);
                }
            }
        }
    }
}

#[test]
fn equal_problems_have_equal_flows_to_the_last_bit() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let network = random_network(&mut random, true);
    let problem = random_problem(&mut random, &network, true);
    let solve = || MinMaxSolver::new(&network).solve(&problem, None).unwrap();
    assert_eq!(solve(), solve());
}

/// All paths without loops.
fn simple_paths(network: &Network, source: NodeIx, target: NodeIx) -> Vec<Vec<LinkIx>> {
    let mut found = Vec::new();
    let mut open = vec![(source, vec![], vec![source])];
    while let Some((node, links, seen)) = open.pop() {
        if node == target {
            found.push(links);
            continue;
        }
        for link in network.out_links(node) {
            let head = network.links()[link.ix()].head;
            if !seen.contains(&head) {
                let longer = [links.clone(), vec![*link]].concat();
                open.push((head, longer, [seen.clone(), vec![head]].concat()));
            }
        }
    }
    found
}

#[test]
fn listing_all_paths_is_the_same_as_listing_none_and_fewer_are_never_better() {
    for seed in 0..60 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let network = random_network(&mut random, seed % 2 == 0);
        let mut kept = MinMaxSolver::new(&network);
        let problem = random_problem(&mut random, &network, seed % 2 == 0);
        let all = kept.solve(&problem, None).unwrap().utilization;
        let ends = problem.commodities.iter().map(|c| (c.source, c.target));
        let mut listed: Vec<_> = ends.map(|(s, t)| simple_paths(&network, s, t)).collect();
        let solution = kept.solve_listed(&problem, &listed, Preference::None, None).unwrap();
        verify_listed(&problem, &listed, &solution).unwrap();
        let missing = verify_listed(&problem, &listed[1..], &solution).unwrap_err();
        assert_eq!(missing.code(), "flow_check_shape");
        assert!(solution.gap() < 1e-9);
        close(solution.utilization, all, 1e-9);
        for paths in &mut listed {
            paths.truncate(2);
        }
        let fewer = kept.solve_listed(&problem, &listed, Preference::None, None).unwrap();
        verify_listed(&problem, &listed, &fewer).unwrap();
        assert!(fewer.gap() < 1e-9);
        assert!(fewer.utilization >= all * (1.0 - 1e-9));
        let other = kept.solve_listed(&problem, &listed, Preference::Delay, None).unwrap();
        close(other.utilization, fewer.utilization, 1e-9);
    }
}

#[test]
fn concurrent_and_total_flow_are_those_of_the_node_arc_program() {
    for seed in 0..150 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let round = seed % 2 == 0;
        let network = random_network(&mut random, round);
        let mut problem = random_problem(&mut random, &network, round);
        let concurrent = max_concurrent_flow(&problem, None).unwrap();
        close(concurrent.factor, other_solver(&problem, &Question::Concurrent), 1e-6);
        verify_concurrent(&problem, &concurrent).unwrap();
        assert_eq!(concurrent.status, FlowStatus::Optimal);
        assert!(concurrent.gap() <= 1e-9);
        assert!(network.max_utilization(&concurrent.loads) <= 1.0 + 1e-9);
        for commodity in &mut problem.commodities {
            commodity.demand *= 3.0;
        }
        let total = max_total_flow(&problem, None).unwrap();
        close(total.total, other_solver(&problem, &Question::Total), 1e-6);
        verify_total(&problem, &total).unwrap();
        assert_eq!(total.status, FlowStatus::Optimal);
        assert!(total.gap() <= 1e-9);
        assert!(total.total <= total.upper_bound);
        assert!(network.max_utilization(&total.loads) <= 1.0 + 1e-9);
    }
}

#[test]
fn the_least_delay_is_that_of_the_node_arc_program() {
    let tangents = [
        (1.0, 0.0),
        (3.0, -2.0 / 3.0),
        (10.0, -16.0 / 3.0),
        (70.0, -178.0 / 3.0),
        (500.0, -1468.0 / 3.0),
        (5000.0, -16318.0 / 3.0),
    ];
    let curve = DelayCurve::fortz_thorup();
    for seed in 0..150 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let round = seed % 2 == 0;
        let network = random_network(&mut random, round);
        let problem = random_problem(&mut random, &network, round);
        let solution = least_delay(&problem, &curve, None).unwrap();
        verify_delay(&problem, &curve, &solution).unwrap();
        assert!(solution.lower_bound <= solution.cost);
        close(solution.cost, solution.lower_bound, 1e-9);
        close(solution.cost, other_solver(&problem, &Question::Curve(&tangents)), 1e-6);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn demand_times_a_factor_is_utilization_times_it(seed: u64, factor in 1e-6..1e9) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let network = random_network(&mut random, seed % 2 == 0);
        let mut problem = random_problem(&mut random, &network, seed % 2 == 0);
        let before = MinMaxSolver::new(&network).solve(&problem, None).unwrap();
        for commodity in &mut problem.commodities {
            commodity.demand *= factor;
        }
        for load in &mut problem.background {
            *load *= factor;
        }
        let after = MinMaxSolver::new(&network).solve(&problem, None).unwrap();
        optimal(&problem, &after);
        close(after.utilization / factor, before.utilization, 1e-9);
    }

    #[test]
    fn names_of_nodes_and_order_of_links_change_nothing(seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let before = random_network(&mut random, seed % 2 == 0);
        let problem = random_problem(&mut random, &before, seed % 2 == 0);
        let mut nodes: Vec<u32> = (0..before.nodes().len() as u32).collect();
        nodes.shuffle(&mut random);
        let mut order: Vec<usize> = (0..before.links().len()).collect();
        order.shuffle(&mut random);
        let renamed = |node: NodeIx| NodeIx(nodes[node.ix()]);
        let links = order.iter().map(|at| {
            let link = before.links()[*at];
            Link { tail: renamed(link.tail), head: renamed(link.head), ..link }
        });
        let after = network(nodes.len(), links.collect());
        let commodities = problem.commodities.iter().map(|c| Commodity {
            source: renamed(c.source),
            target: renamed(c.target),
            demand: c.demand,
        });
        let permuted = FlowProblem {
            network: &after,
            commodities: commodities.collect(),
            background: order.iter().map(|at| problem.background[*at]).collect(),
        };
        let expected = MinMaxSolver::new(&before).solve(&problem, None).unwrap();
        let found = MinMaxSolver::new(&after).solve(&permuted, None).unwrap();
        optimal(&permuted, &found);
        close(found.utilization, expected.utilization, 1e-9);
    }

    #[test]
    fn one_more_link_never_hurts(seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let before = random_network(&mut random, seed % 2 == 0);
        let problem = random_problem(&mut random, &before, seed % 2 == 0);
        let mut links = before.links().to_vec();
        links.push(link(0, random.random_range(1..before.nodes().len() as u32), 1.0));
        let after = network(before.nodes().len(), links);
        let background = [problem.background.clone(), vec![0.0]].concat();
        let larger =
            FlowProblem { network: &after, commodities: problem.commodities.clone(), background };
        let without = MinMaxSolver::new(&before).solve(&problem, None).unwrap();
        let with = MinMaxSolver::new(&after).solve(&larger, None).unwrap();
        prop_assert!(with.utilization <= without.utilization * (1.0 + 1e-9));
    }
}

/// Rows and columns of nodes, each joined to the next, the last to the first.
fn torus(side: u32) -> Network {
    let mut links = Vec::new();
    for node in 0..side * side {
        let (row, column) = (node / side, node % side);
        for next in [(row + 1) % side * side + column, row * side + (column + 1) % side] {
            links.push(link(node, next, 1.0));
            links.push(link(next, node, 1.0));
        }
    }
    network((side * side) as usize, links)
}

#[test]
fn a_torus_where_all_send_the_same_to_all_is_loaded_evenly() {
    // Distances from a node sum to n³ / 2 for even n, and each node has four links.
    for side in [4u32, 6] {
        let network = torus(side);
        let nodes = network.nodes().len();
        let demands = TrafficMatrix::from_rows(nodes, vec![1.0; nodes * nodes]).unwrap();
        let problem = FlowProblem::all(&network, &demands).unwrap();
        let solution = MinMaxSolver::new(&network).solve(&problem, None).unwrap();
        optimal(&problem, &solution);
        close(solution.utilization, f64::from(side.pow(3)) / 8.0, 1e-9);
    }
}

#[test]
fn many_commodities_are_solved_cold_and_in_sequence() {
    let network = torus(6);
    let nodes = network.nodes().len();
    let mut kept = MinMaxSolver::new(&network);
    for seed in 0..4 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let demands = (0..nodes * nodes).map(|_| -(1.0 - random.random::<f64>()).ln()).collect();
        let demands = TrafficMatrix::from_rows(nodes, demands).unwrap();
        let problem = FlowProblem::all(&network, &demands).unwrap();
        let warm = kept.solve(&problem, None).unwrap();
        let cold = MinMaxSolver::new(&network).solve(&problem, None).unwrap();
        optimal(&problem, &warm);
        optimal(&problem, &cold);
        close(warm.utilization, cold.utilization, 1e-9);
    }
}

#[test]
fn thousands_of_commodities_are_solved_to_the_same_gap() {
    let nodes = 70;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut links = Vec::new();
    for node in 0..nodes {
        let next = (node + 1) % nodes;
        links.extend([link(node, next, 1.0), link(next, node, 1.0)]);
        let other = random.random_range(0..nodes);
        if other != node && random.random_bool(0.3) {
            links.extend([link(node, other, 3.0), link(other, node, 3.0)]);
        }
    }
    let count = nodes as usize;
    let network = network(count, links);
    let demands = TrafficMatrix::from_rows(count, vec![1.0; count * count]).unwrap();
    let problem = FlowProblem::all(&network, &demands).unwrap();
    assert_eq!(problem.commodities.len(), 4830);
    optimal(&problem, &MinMaxSolver::new(&network).solve(&problem, None).unwrap());
}

/// n0 → n1 twice, over parallel links, and n0 → n2 → n1.
fn parallel() -> Network {
    network(3, vec![link(0, 1, 1.0), link(0, 1, 2.0), link(0, 2, 5.0), link(2, 1, 1.0)])
}

#[test]
fn one_commodity_fills_the_least_cut_evenly() {
    let network = parallel();
    let commodities = vec![commodity(0, 1, 2.0)];
    let problem = FlowProblem { network: &network, commodities, background: vec![0.0; 4] };
    let solution = MinMaxSolver::new(&network).solve(&problem, None).unwrap();
    optimal(&problem, &solution);
    // The cut around n1 has capacity 4.
    close(solution.utilization, 0.5, 1e-12);
    assert_eq!(solution.paths[0].len(), 3);
    close(max_total_flow(&problem, None).unwrap().total, 2.0, 1e-9);
    let concurrent = max_concurrent_flow(&problem, None).unwrap();
    close(concurrent.factor, 2.0, 1e-9);
}

#[test]
fn background_beyond_capacity_is_the_utilization_and_leaves_no_room() {
    let network = parallel();
    let commodities = vec![commodity(0, 1, 2.0)];
    let problem = FlowProblem { network: &network, commodities, background: vec![0.0, 3.0, 0.0, 0.0] };
    let solution = MinMaxSolver::new(&network).solve(&problem, None).unwrap();
    optimal(&problem, &solution);
    close(solution.utilization, 1.5, 1e-12);
    let concurrent = max_concurrent_flow(&problem, None).unwrap();
    assert_eq!((concurrent.factor, concurrent.upper_bound), (0.0, 0.0));
    assert_eq!(concurrent.status, FlowStatus::Optimal);
    // The prices are the proof: what the background leaves is worth less than nothing.
    let left = network.links().iter().zip(&problem.background);
    let left = left.map(|(link, load)| link.capacity.get() - load);
    close(left.zip(&concurrent.link_prices).map(|(left, price)| left * price).sum(), -0.5, 1e-12);
    verify_concurrent(&problem, &concurrent).unwrap();
    verify_total(&problem, &max_total_flow(&problem, None).unwrap()).unwrap();
    // What is left of the other two ways.
    close(max_total_flow(&problem, None).unwrap().total, 2.0, 1e-9);
}

#[test]
fn a_background_that_fills_every_way_leaves_a_factor_of_zero() {
    let network = network(2, vec![link(0, 1, 0.3), link(1, 0, 1.0)]);
    // 0.1 + 0.2 is more than 0.3 by rounding.
    for background in [0.3, 0.1 + 0.2] {
        let commodities = vec![commodity(0, 1, 0.7)];
        let problem = FlowProblem { network: &network, commodities, background: vec![background, 0.0] };
        let concurrent = max_concurrent_flow(&problem, None).unwrap();
        verify_concurrent(&problem, &concurrent).unwrap();
        assert_eq!((concurrent.factor, concurrent.upper_bound), (0.0, 0.0));
        assert_eq!(concurrent.status, FlowStatus::Optimal);
        let total = max_total_flow(&problem, None).unwrap();
        verify_total(&problem, &total).unwrap();
        assert!(total.total < 1e-12);
        assert_eq!(total.status, FlowStatus::Optimal);
    }
}

#[test]
fn no_demand_leaves_the_background() {
    let network = parallel();
    let background = vec![0.5, 0.0, 0.0, 0.0];
    for commodities in [vec![], vec![commodity(0, 1, 0.0)]] {
        let problem = FlowProblem { network: &network, commodities, background: background.clone() };
        let solution = MinMaxSolver::new(&network).solve(&problem, None).unwrap();
        optimal(&problem, &solution);
        close(solution.utilization, 0.5, 1e-12);
        assert_eq!(max_total_flow(&problem, None).unwrap().total, 0.0);
        assert_eq!(max_concurrent_flow(&problem, None).unwrap().factor, f64::INFINITY);
        let nothing = FlowProblem { background: vec![0.0; 4], ..problem };
        let solution = MinMaxSolver::new(&network).solve(&nothing, None).unwrap();
        optimal(&nothing, &solution);
        assert_eq!(solution.utilization, 0.0);
        let curve = DelayCurve::queueing(8);
        assert_eq!(least_delay(&nothing, &curve, None).unwrap().cost, 0.0);
    }
}

#[test]
fn commodities_with_the_same_ends_share_their_paths() {
    let network = parallel();
    let commodities = vec![commodity(0, 1, 0.5), commodity(0, 1, 1.5)];
    let problem = FlowProblem { network: &network, commodities, background: vec![0.0; 4] };
    let mut solver = MinMaxSolver::new(&network);
    let solution = solver.solve(&problem, None).unwrap();
    optimal(&problem, &solution);
    close(solution.utilization, 0.5, 1e-12);
    let listed = vec![vec![vec![LinkIx(0)]], vec![vec![LinkIx(1)]]];
    let error = solver.solve_listed(&problem, &listed, Preference::None, None).unwrap_err();
    assert_eq!(error, FlowError::Repeated { commodity: 1 });
}

#[test]
fn a_deadline_that_has_passed_still_gives_feasible_flows_and_their_gap() {
    let network = parallel();
    let commodities = vec![commodity(0, 1, 2.0)];
    let problem = FlowProblem { network: &network, commodities, background: vec![0.0; 4] };
    let mut solver = MinMaxSolver::new(&network);
    let solution = solver.solve(&problem, Some(Instant::now())).unwrap();
    verify(&problem, None, &solution).unwrap();
    assert_eq!(solution.status, FlowStatus::Deadline);
    assert!(solution.utilization >= 1.0 && solution.gap() > 0.0);
    let delay = least_delay(&problem, &DelayCurve::fortz_thorup(), Some(Instant::now())).unwrap();
    assert_eq!(delay.status, FlowStatus::Deadline);
    assert!(delay.lower_bound < delay.cost);
    let total = max_total_flow(&problem, Some(Instant::now())).unwrap();
    assert_eq!((total.status, total.total), (FlowStatus::Deadline, 0.0));
    optimal(&problem, &solver.solve(&problem, None).unwrap());
}

#[test]
fn what_is_wrong_with_a_problem_is_named() {
    let network = parallel();
    let mut solver = MinMaxSolver::new(&network);
    let mut solve = |commodities: Vec<Commodity>, background: Vec<f64>| {
        solver.solve(&FlowProblem { network: &network, commodities, background }, None).unwrap_err()
    };
    let error = solve(vec![commodity(1, 0, 3.0)], vec![0.0; 4]);
    assert_eq!(error.to_string(), "no path leads from node `n1` to node `n0`, which ask for 3 bit/s");
    assert_eq!(error.code(), "flow_disconnected");
    assert!(matches!(solve(vec![], vec![0.0; 3]), FlowError::Length { found: 3, expected: 4, .. }));
    assert!(matches!(solve(vec![], vec![0.0, -1.0, 0.0, 0.0]), FlowError::Value { index: 1, .. }));
    for demand in [f64::NAN, f64::INFINITY, -1.0] {
        let error = solve(vec![commodity(0, 1, 1.0), commodity(0, 2, demand)], vec![0.0; 4]);
        assert!(matches!(error, FlowError::Value { index: 1, .. }));
    }
    assert!(matches!(solve(vec![commodity(0, 9, 1.0)], vec![0.0; 4]), FlowError::Ends { .. }));
    assert!(matches!(solve(vec![commodity(1, 1, 1.0)], vec![0.0; 4]), FlowError::Ends { .. }));
    let problem =
        FlowProblem { network: &network, commodities: vec![commodity(0, 1, 1.0)], background: vec![0.0; 4] };
    let broken = vec![vec![vec![LinkIx(0)], vec![LinkIx(2)]]];
    let error = solver.solve_listed(&problem, &broken, Preference::None, None).unwrap_err();
    assert_eq!(error, FlowError::BrokenPath { commodity: 0, path: 1 });
    let none = solver.solve_listed(&problem, &[vec![]], Preference::None, None).unwrap_err();
    assert!(matches!(none, FlowError::Disconnected { .. }));
    let error = solver.solve_preferring(&problem, Preference::LinkCosts(&[1.0]), None).unwrap_err();
    assert!(matches!(error, FlowError::Length { found: 1, expected: 4, .. }));
    optimal(&problem, &solver.solve(&problem, None).unwrap());
}

#[test]
fn the_check_finds_every_claim_that_does_not_hold() {
    let network = parallel();
    let commodities = vec![commodity(0, 1, 2.0)];
    let problem = FlowProblem { network: &network, commodities, background: vec![0.0; 4] };
    let good = MinMaxSolver::new(&network).solve(&problem, None).unwrap();
    let code = |change: fn(&mut FlowSolution)| {
        let mut bad = good.clone();
        change(&mut bad);
        verify(&problem, None, &bad).map_err(|error: FlowCheckError| error.code())
    };
    assert_eq!(code(|_| {}), Ok(()));
    assert_eq!(code(|s| s.paths[0][0].share *= 1.01), Err("flow_check_shares"));
    assert_eq!(code(|s| s.base_share[0] = 0.1), Err("flow_check_shares"));
    assert_eq!(code(|s| s.paths[0][0].links.clear()), Err("flow_check_path"));
    assert_eq!(code(|s| s.loads[0] += 0.01), Err("flow_check_value"));
    assert_eq!(code(|s| s.utilization *= 0.99), Err("flow_check_value"));
    assert_eq!(code(|s| s.lower_bound *= 0.99), Err("flow_check_value"));
    assert_eq!(code(|s| s.lower_bound = s.utilization * 1.01), Err("flow_check_value"));
    assert_eq!(code(|s| s.link_prices[2] = -1.0), Err("flow_check_price"));
    assert_eq!(code(|s| s.link_prices[0] *= 2.0), Err("flow_check_value"));
    assert_eq!(code(|s| drop(s.paths.pop())), Err("flow_check_shape"));
}
