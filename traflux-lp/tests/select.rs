//! Do selectors keep what they promise, and does the fractional bound hold for all of them?
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use traflux_core::{
    BaseRouting, BitRate, GroupIx, Latency, Link, LinkIx, Network, Node, NodeIx, Observation, Policy,
    PolicyError, TrafficMatrix,
};
use traflux_lp::multicommodity::select::{
    DualGuidedGreedy, FractionalBound, FractionalSelection, GreedyOracle, LeastMoved, RelaxAndRound,
    SelectionEvaluator,
};
use traflux_lp::multicommodity::{Commodity, FlowError, FlowProblem, FlowStatus, MinMaxSolver};
use traflux_te::format::{Format, ReadOptions, read_matrices_file, read_network_file};
use traflux_te::{NetworkEncoder, TopK, TopKCritical, ecmp, selected_share};

fn network(nodes: usize, links: &[(u32, u32, f64)]) -> Network {
    let nodes = (0..nodes).map(|n| Node { name: format!("n{n}"), position: None }).collect();
    let link = |&(tail, head, capacity): &(u32, u32, f64)| Link {
        tail: NodeIx(tail),
        head: NodeIx(head),
        capacity: BitRate::bits_per_second(capacity),
        weight: 1.0,
        delay: Latency::ZERO,
    };
    Network::new(nodes, links.iter().map(link).collect()).unwrap()
}

fn demands(nodes: usize, entries: &[(u32, u32, f64)]) -> TrafficMatrix {
    let mut matrix = TrafficMatrix::zero(nodes);
    for &(source, target, demand) in entries {
        matrix.set(NodeIx(source), NodeIx(target), BitRate::bits_per_second(demand));
    }
    matrix
}

/// A ring with chords; with `round` numbers many sets are equally good.
fn random_network(random: &mut ChaCha8Rng, most: u32, round: bool) -> Network {
    let nodes = random.random_range(3..=most);
    let mut links = Vec::new();
    for node in 0..nodes {
        links.extend([(node, (node + 1) % nodes), ((node + 1) % nodes, node)]);
    }
    for _ in 0..random.random_range(0..2 * nodes) {
        links.push((random.random_range(0..nodes), random.random_range(0..nodes)));
    }
    links.retain(|(tail, head)| tail != head);
    let mut capacity = || match round {
        true => f64::from(random.random_range(1..4u32)) * 1e9,
        false => random.random_range(0.5e9..5e9),
    };
    let links: Vec<_> = links.into_iter().map(|(tail, head)| (tail, head, capacity())).collect();
    network(nodes as usize, &links)
}

/// Some pairs send nothing, some next to nothing.
fn random_demands(random: &mut ChaCha8Rng, nodes: usize, round: bool) -> TrafficMatrix {
    let demand = |_| match random.random_range(0..10u32) {
        0 => 0.0,
        1 => random.random_range(1e-3..1e3),
        _ if round => f64::from(random.random_range(1..4u32)) * 1e8,
        _ => random.random_range(1e7..1e9),
    };
    TrafficMatrix::from_rows(nodes, (0..nodes * nodes).map(demand).collect()).unwrap()
}

/// Weak duality and a solver of its own: a selection that passes is optimal for the relaxation, whoever found it.
fn check_fractional(
    network: &Network,
    base: &BaseRouting,
    demands: &TrafficMatrix,
    count: usize,
    solution: &FractionalSelection,
) {
    let prices = &solution.link_prices;
    let links = network.links().iter().zip(prices);
    assert!((links.map(|(l, y)| l.capacity.get() * y).sum::<f64>() - 1.0).abs() < 1e-9);
    assert!(prices.iter().all(|price| *price >= 0.0) && solution.pair_price >= 0.0);
    let nodes = network.nodes().len();
    let mut bound = -solution.pair_price * count as f64;
    let mut background = vec![0.0; network.links().len()];
    let mut commodities = Vec::new();
    for source in 0..nodes {
        let mut distance = vec![f64::INFINITY; nodes];
        distance[source] = 0.0;
        for _ in 0..nodes {
            for (link, price) in network.links().iter().zip(prices) {
                let along = distance[link.tail.ix()] + price;
                distance[link.head.ix()] = distance[link.head.ix()].min(along);
            }
        }
        for target in (0..nodes).filter(|target| *target != source) {
            let (source, target) = (NodeIx::from(source), NodeIx::from(target));
            let pair = network.pair_ix(source, target);
            let (demand, share) = (demands.demand(source, target), solution.moved[pair.ix()]);
            assert!((0.0..=1.0).contains(&share), "{share}");
            if demand > 0.0 {
                let along: f64 = base.of(pair).map(|(link, part)| part * prices[link.ix()]).sum();
                bound += (demand * along).min(demand * distance[target.ix()] + solution.pair_price);
                commodities.push(Commodity { source, target, demand: demand * share });
                for (link, part) in base.of(pair) {
                    background[link.ix()] += demand * (1.0 - share) * part;
                }
            } else {
                assert_eq!(share, 0.0);
            }
        }
    }
    let scale = solution.utilization;
    assert!((solution.lower_bound - bound).abs() <= 1e-9 * scale, "{} {bound}", solution.lower_bound);
    // Pairs that send next to nothing count with less than their share.
    let least = 1e-6 * demands.total() / commodities.len().max(1) as f64;
    let sum = demands.pairs().zip(&solution.moved).map(|(d, z)| if d < least { 0.0 } else { *z });
    assert!(sum.sum::<f64>() <= count as f64 + 1e-6);
    let problem = FlowProblem { network, commodities, background };
    let reached = MinMaxSolver::new(network).solve(&problem, None).unwrap().utilization;
    assert!(reached <= solution.utilization * (1.0 + 1e-9), "{reached} {}", solution.utilization);
    assert!(solution.utilization - solution.lower_bound <= 1e-9 * scale, "{solution:?}");
    assert_eq!(solution.status, FlowStatus::Optimal);
}

fn selectors(network: &Network, base: &BaseRouting, count: usize) -> Vec<(&'static str, Box<dyn Policy>)> {
    vec![
        ("relax and round", Box::new(RelaxAndRound::new(network, base, count))),
        ("least moved", Box::new(LeastMoved::new(network, base, count))),
        ("dual-guided", Box::new(DualGuidedGreedy::new(network, base, count))),
        ("oracle", Box::new(GreedyOracle::new(network, base, count))),
    ]
}

/// The least utilisation over all sets of `count` pairs of those from `from` on.
fn brute_force(
    evaluator: &mut SelectionEvaluator,
    demands: &TrafficMatrix,
    chosen: &mut Vec<GroupIx>,
    from: usize,
    count: usize,
) -> f64 {
    if count == 0 {
        return evaluator.utilization(demands, chosen).unwrap();
    }
    let mut least = f64::INFINITY;
    for pair in from..=evaluator.network().pair_count() - count {
        chosen.push(GroupIx::from(pair));
        least = least.min(brute_force(evaluator, demands, chosen, pair + 1, count - 1));
        chosen.pop();
    }
    least
}

/// Two separate pairs, each with a thin direct link and a wide detour.
fn detours() -> (Network, BaseRouting, TrafficMatrix) {
    let links = [(0, 1, 1e9), (0, 2, 1e10), (2, 1, 1e10), (3, 4, 1e9), (3, 5, 1e10), (5, 4, 1e10)];
    let network = network(6, &links);
    let base = ecmp(&network).unwrap();
    (network, base, demands(6, &[(0, 1, 6e8), (3, 4, 6e8)]))
}

#[test]
fn half_of_each_pair_leaves_where_one_pair_may_leave_and_two_are_alike() {
    let (network, base, demands) = detours();
    let mut bound = FractionalBound::new(&network, &base);
    let pairs = [network.pair_ix(NodeIx(0), NodeIx(1)).ix(), network.pair_ix(NodeIx(3), NodeIx(4)).ix()];
    for (count, utilization, price, share) in [
        (0, 0.6, 0.3, 0.0),
        (1, 0.3, 0.3, 0.5),
        // With 10/11 of the demand on the detour both its links and the direct one are as full.
        (2, 0.6 / 11.0, 0.0, 10.0 / 11.0),
        (30, 0.6 / 11.0, 0.0, 10.0 / 11.0),
    ] {
        let solution = bound.solve(&demands, count, None).unwrap();
        check_fractional(&network, &base, &demands, count, &solution);
        assert!((solution.utilization - utilization).abs() < 1e-12, "{solution:?}");
        if count > 0 {
            assert!((solution.pair_price - price).abs() < 1e-9, "{solution:?}");
        }
        for (pair, moved) in solution.moved.iter().enumerate() {
            let expected = if pairs.contains(&pair) { share } else { 0.0 };
            assert!((moved - expected).abs() < 1e-9, "{count}: {moved}");
        }
    }
}

#[test]
fn every_selector_takes_the_two_pairs_that_have_a_detour() {
    let (network, base, demands) = detours();
    let observation = NetworkEncoder::new(&network, &base).encode(&demands).unwrap();
    let pairs = [network.pair_ix(NodeIx(0), NodeIx(1)), network.pair_ix(NodeIx(3), NodeIx(4))];
    let mut evaluator = SelectionEvaluator::new(&network, &base);
    for (name, mut selector) in selectors(&network, &base, 5) {
        let mut chosen = selector.act(&observation).unwrap().critical;
        chosen.sort_unstable();
        assert_eq!(chosen, pairs, "{name}");
        let outcome = evaluator.outcome(&demands, &chosen).unwrap();
        assert!((outcome.utilization - 0.6 / 11.0).abs() < 1e-12);
        assert!((outcome.rerouted_share - 10.0 / 11.0).abs() < 1e-9);
        let loads = outcome.routing.loads(&network, &base, &demands);
        assert!((network.max_utilization(&loads) - outcome.utilization).abs() < 1e-12);
    }
}

#[test]
fn the_bound_is_below_every_set_and_no_selector_is_better_than_the_best_set() {
    let (mut best_found, mut cases) = (0, 0);
    for seed in 0..120 {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let round = seed % 2 == 0;
        let network = random_network(random, 5, round);
        let base = ecmp(&network).unwrap();
        let demands = random_demands(random, network.nodes().len(), round);
        let count = random.random_range(0..4usize).min(network.pair_count());
        let solution = FractionalBound::new(&network, &base).solve(&demands, count, None).unwrap();
        check_fractional(&network, &base, &demands, count, &solution);
        let mut evaluator = SelectionEvaluator::new(&network, &base);
        let bound = evaluator.lower_bound(&demands, count).unwrap();
        assert!((bound - solution.lower_bound).abs() <= 1e-9 * bound);
        let best = brute_force(&mut evaluator, &demands, &mut Vec::new(), 0, count);
        assert!(evaluator.optimum(&demands).unwrap() <= best * (1.0 + 1e-9));
        assert!(bound <= best * (1.0 + 1e-9), "{bound} {best}");
        let observation = NetworkEncoder::new(&network, &base).encode(&demands).unwrap();
        let mut least = f64::INFINITY;
        for (name, mut selector) in selectors(&network, &base, count) {
            let chosen = selector.act(&observation).unwrap().critical;
            assert!(chosen.len() <= count, "{name}");
            let reached = evaluator.utilization(&demands, &chosen).unwrap();
            assert!(best <= reached * (1.0 + 1e-9), "{name}: {best} {reached}");
            let with_routing = evaluator.outcome(&demands, &chosen).unwrap().utilization;
            assert!((with_routing - reached).abs() <= 1e-9 * reached, "{name}");
            if name == "oracle" {
                // Features count in single precision.
                assert!(reached <= least * (1.0 + 1e-6), "{reached} {least}");
                cases += 1;
                best_found += usize::from(reached <= best * (1.0 + 1e-6));
            }
            least = least.min(reached);
        }
    }
    assert!(best_found * 100 >= cases * 95, "the oracle found {best_found} of {cases}");
}

#[test]
fn bound_and_utilizations_do_not_depend_on_what_was_asked_before() {
    for seed in 0..20 {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let network = random_network(random, 9, seed % 2 == 0);
        let base = ecmp(&network).unwrap();
        let mut kept = FractionalBound::new(&network, &base);
        let mut evaluator = SelectionEvaluator::new(&network, &base);
        let mut matrix = random_demands(random, network.nodes().len(), seed % 2 == 0);
        for _ in 0..25 {
            let rows = matrix.as_slice().iter().map(|demand| demand * random.random_range(0.7..1.4));
            matrix = TrafficMatrix::from_rows(network.nodes().len(), rows.collect()).unwrap();
            if random.random_bool(0.2) {
                matrix = random_demands(random, network.nodes().len(), seed % 2 == 0);
            }
            let count = random.random_range(1..12usize);
            let warm = kept.solve(&matrix, count, None).unwrap();
            check_fractional(&network, &base, &matrix, count, &warm);
            let cold = FractionalBound::new(&network, &base).solve(&matrix, count, None).unwrap();
            assert!((warm.utilization - cold.utilization).abs() <= 1e-9 * cold.utilization);
            let chosen: Vec<GroupIx> =
                (0..count).map(|_| GroupIx::from(random.random_range(0..network.pair_count()))).collect();
            let reached = evaluator.utilization(&matrix, &chosen).unwrap();
            let fresh = SelectionEvaluator::new(&network, &base).utilization(&matrix, &chosen).unwrap();
            assert!((reached - fresh).abs() <= 1e-9 * fresh);
        }
    }
}

#[test]
fn a_selector_chooses_the_same_whatever_it_chose_before() {
    let random = &mut ChaCha8Rng::seed_from_u64(7);
    let network = random_network(random, 9, true);
    let base = ecmp(&network).unwrap();
    let observations: Vec<Observation> = (0..12)
        .map(|_| {
            let demands = random_demands(random, network.nodes().len(), true);
            NetworkEncoder::new(&network, &base).encode(&demands).unwrap()
        })
        .collect();
    for ((name, mut kept), (_, mut back)) in
        selectors(&network, &base, 6).into_iter().zip(selectors(&network, &base, 6))
    {
        let forwards: Vec<_> = observations.iter().map(|o| kept.act(o).unwrap()).collect();
        let mut backwards: Vec<_> = observations.iter().rev().map(|o| back.act(o).unwrap()).collect();
        backwards.reverse();
        assert_eq!(forwards, backwards, "{name}");
    }
}

#[test]
fn a_masked_pair_is_never_chosen() {
    let (network, base, demands) = detours();
    let mut observation = NetworkEncoder::new(&network, &base).encode(&demands).unwrap();
    observation.mask[network.pair_ix(NodeIx(0), NodeIx(1)).ix()] = false;
    let mut closed = observation.clone();
    closed.mask.fill(false);
    for (name, mut selector) in selectors(&network, &base, 2) {
        let chosen = selector.act(&observation).unwrap().critical;
        assert!(chosen.iter().all(|pair| observation.mask[pair.ix()]), "{name}: {chosen:?}");
        assert!(selector.act(&closed).unwrap().critical.is_empty(), "{name}");
    }
}

#[test]
fn nothing_is_chosen_without_demand_or_without_a_count() {
    let (network, base, demands) = detours();
    let busy = NetworkEncoder::new(&network, &base).encode(&demands).unwrap();
    let idle = NetworkEncoder::new(&network, &base).encode(&TrafficMatrix::zero(6)).unwrap();
    for (observation, count) in [(&idle, 3), (&busy, 0)] {
        for (name, mut selector) in selectors(&network, &base, count) {
            assert!(selector.act(observation).unwrap().critical.is_empty(), "{name}");
        }
    }
    let mut evaluator = SelectionEvaluator::new(&network, &base);
    let outcome = evaluator.outcome(&TrafficMatrix::zero(6), &[GroupIx(0)]).unwrap();
    assert_eq!((outcome.utilization, outcome.rerouted_share), (0.0, 0.0));
    assert_eq!(evaluator.lower_bound(&TrafficMatrix::zero(6), 3), Ok(0.0));
    assert_eq!(evaluator.base_utilization(&demands), Ok(0.6));
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (network, base, demands) = detours();
    let mut evaluator = SelectionEvaluator::new(&network, &base);
    let too_far = evaluator.utilization(&demands, &[GroupIx(30)]);
    assert_eq!(too_far, Err(FlowError::Pair { pair: 30, pairs: 30 }));
    let wrong_size = TrafficMatrix::zero(5);
    assert_eq!(evaluator.optimum(&wrong_size).unwrap_err().code(), "network_length");
    assert_eq!(evaluator.lower_bound(&wrong_size, 1).unwrap_err().code(), "network_length");
    let mut bound = FractionalBound::new(&network, &base);
    let unserved = self::demands(6, &[(1, 0, 1.0)]);
    assert!(matches!(bound.solve(&unserved, 1, None), Err(FlowError::Disconnected { .. })));
    assert!(matches!(
        bound.solve_among(&demands, &[GroupIx(99)], 1, None),
        Err(FlowError::Pair { pair: 99, .. })
    ));
    let observation = NetworkEncoder::new(&network, &base).encode(&demands).unwrap();
    let without_features = Observation { groups: Default::default(), ..observation.clone() };
    let short_mask = Observation { mask: vec![true; 29], ..observation };
    for (name, mut selector) in selectors(&network, &base, 2) {
        for wrong in [&without_features, &short_mask] {
            assert!(matches!(selector.act(wrong), Err(PolicyError::Failed { .. })), "{name}");
        }
    }
}

#[test]
fn demands_of_any_unit_lead_to_the_same_choice() {
    let random = &mut ChaCha8Rng::seed_from_u64(3);
    let network = random_network(random, 8, false);
    let base = ecmp(&network).unwrap();
    let demands = random_demands(random, network.nodes().len(), false);
    for (name, mut selector) in selectors(&network, &base, 4) {
        let mut act = |demands: &TrafficMatrix| {
            selector.act(&NetworkEncoder::new(&network, &base).encode(demands).unwrap()).unwrap()
        };
        assert_eq!(act(&demands), act(&demands.scaled(1.0 / 1024.0)), "{name}");
    }
}

#[test]
fn selectors_on_a_week_of_abilene_are_as_good_as_measured_before() {
    let Some(folder) = std::env::var_os("TRAFLUX_DATA") else {
        eprintln!("skipped: TRAFLUX_DATA is not set");
        return;
    };
    let folder = PathBuf::from(folder).join("cfr-rl");
    let options = ReadOptions::default();
    let format = Some(Format::CfrRl);
    let network = read_network_file(folder.join("Abilene"), format, &options).unwrap().network;
    let week = read_matrices_file(folder.join("AbileneTM"), format, &network, &options).unwrap();
    assert_eq!(week.len(), 2016);
    let base = ecmp(&network).unwrap();
    let count = 13;
    // Over the whole week with another solver: greedy is the best of exchanges there, here of more starts.
    let mut rows: Vec<(&str, f64, Box<dyn Policy>)> = vec![
        ("Top-K", 0.8063, Box::new(TopK::new(count))),
        ("Top-K critical", 0.9044, Box::new(TopKCritical::new(&network, &base, count))),
        ("relax and round", 0.9640, Box::new(RelaxAndRound::new(&network, &base, count))),
        ("oracle", 0.9904, Box::new(GreedyOracle::new(&network, &base, count))),
    ];
    let mut encoder = NetworkEncoder::new(&network, &base);
    let mut evaluator = SelectionEvaluator::new(&network, &base);
    let (mut of_base, mut of_bound, mut matrices) = (0.0, 0.0, 0.0);
    let (mut sums, mut disturbance) = (vec![0.0; rows.len()], 0.0);
    for demands in week.iter().step_by(20) {
        let observation = encoder.encode(demands).unwrap();
        let optimum = evaluator.optimum(demands).unwrap();
        let bound = evaluator.lower_bound(demands, count).unwrap();
        matrices += 1.0;
        of_base += optimum / evaluator.base_utilization(demands).unwrap();
        of_bound += optimum / bound;
        for ((name, _, selector), sum) in rows.iter_mut().zip(&mut sums) {
            let chosen = selector.act(&observation).unwrap().critical;
            let outcome = evaluator.outcome(demands, &chosen).unwrap();
            assert!(bound <= outcome.utilization * (1.0 + 1e-9), "{name}");
            assert!(outcome.rerouted_share <= selected_share(&network, demands, &chosen) + 1e-9, "{name}");
            *sum += optimum / outcome.utilization;
            if *name == "oracle" {
                disturbance += outcome.rerouted_share;
            }
        }
    }
    let near = |name: &str, found: f64, expected: f64| {
        assert!((found - expected).abs() < 0.01, "{name}: {found}, expected {expected}");
    };
    near("ECMP", of_base / matrices, 0.6510);
    near("bound", of_bound / matrices, 0.9978);
    for ((name, expected, _), sum) in rows.iter().zip(&sums) {
        near(name, sum / matrices, *expected);
    }
    assert!(disturbance / matrices < 0.185, "{}", disturbance / matrices);
}

#[test]
fn a_link_is_named_by_its_position() {
    // The base of `detours` is the direct link, which the hand-made numbers rest on.
    let (network, base, _) = detours();
    let pair = network.pair_ix(NodeIx(3), NodeIx(4));
    assert_eq!(base.of(pair).collect::<Vec<_>>(), [(LinkIx(3), 1.0)]);
}
