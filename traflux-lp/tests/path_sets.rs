//! Are few paths, chosen on matrices of the past, nearly as good as all paths, then and later?
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use traflux_core::{BitRate, GroupIx, Latency, Link, LinkIx, Network, Node, NodeIx, TrafficMatrix};
use traflux_lp::multicommodity::check::{verify, verify_listed};
use traflux_lp::multicommodity::{
    FlowProblem, FlowSolution, FlowStatus, MinMaxSolver, PathChoice, PathSets, PathSetsStatus, Preference,
    choose_paths,
};
use traflux_te::PathFinder;
use traflux_te::format::{Format, ReadOptions, read_matrices_file, read_network_file};
use traflux_te::generate::{
    BackboneConfig, Diurnal, DiurnalConfig, LinkModel, NodeMass, TrafficModel, backbone, grid,
};

/// The folder of public data, where there is one.
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("TRAFLUX_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: TRAFLUX_DATA is not set");
    }
    folder
}

fn choice(least: usize, most: usize, tolerance: f64) -> PathChoice {
    let [least_paths, most_paths] = [least, most].map(|n| NonZeroUsize::new(n).unwrap());
    PathChoice { least_paths, most_paths, tolerance }
}

/// Gravity that follows the hours of a day.
fn day(network: &Network, steps: usize, seed: u64) -> Vec<TrafficMatrix> {
    let total = BitRate::gigabits_per_second(100.0);
    let mean = TrafficModel::Gravity { mass: NodeMass::Capacity, total }.matrix(network, seed).unwrap();
    let config = DiurnalConfig { interval_seconds: 900.0, ..DiurnalConfig::default() };
    Diurnal::new(mean, config, seed).unwrap().with_time_zones(network).take(steps).collect()
}

fn k_shortest(network: &Network, k: usize) -> Vec<Vec<Vec<LinkIx>>> {
    let mut finder = PathFinder::new(network);
    let pairs = (0..network.pair_count()).map(|pair| network.pair(GroupIx::from(pair)));
    pairs.map(|(s, t)| finder.k_shortest(s, t, k).into_iter().map(|path| path.links).collect()).collect()
}

fn by_pair(network: &Network, sets: &PathSets) -> Vec<Vec<Vec<LinkIx>>> {
    (0..network.pair_count()).map(|pair| sets.of(GroupIx::from(pair)).to_vec()).collect()
}

fn over(network: &Network, demands: &TrafficMatrix, paths: &[Vec<Vec<LinkIx>>]) -> FlowSolution {
    let problem = FlowProblem::all(network, demands).unwrap();
    let pairs = problem.commodities.iter().map(|c| network.pair_ix(c.source, c.target).ix());
    let listed: Vec<_> = pairs.map(|pair| paths[pair].clone()).collect();
    let solution =
        MinMaxSolver::new(network).solve_listed(&problem, &listed, Preference::None, None).unwrap();
    assert_eq!(solution.status, FlowStatus::Optimal);
    verify_listed(&problem, &listed, &solution).unwrap();
    solution
}

/// Mean and largest of the utilisation over listed paths, relative to that over all.
fn cost(network: &Network, matrices: &[TrafficMatrix], paths: &[Vec<Vec<LinkIx>>]) -> (f64, f64) {
    let mut solver = MinMaxSolver::new(network);
    let (mut sum, mut worst) = (0.0, 0.0_f64);
    for demands in matrices {
        let problem = FlowProblem::all(network, demands).unwrap();
        let optimum = solver.solve(&problem, None).unwrap();
        assert_eq!(optimum.status, FlowStatus::Optimal);
        let ratio = over(network, demands, paths).utilization / optimum.utilization;
        sum += ratio;
        worst = worst.max(ratio);
    }
    (sum / matrices.len() as f64, worst)
}

/// Everything that must hold of any choice.
#[track_caller]
fn check(network: &Network, matrices: &[TrafficMatrix], choice: &PathChoice, sets: &PathSets) {
    let mut finder = PathFinder::new(network);
    for pair in 0..network.pair_count() {
        let (source, target) = network.pair(GroupIx::from(pair));
        let paths = sets.of(GroupIx::from(pair));
        assert!(paths.len() <= choice.most_paths.get());
        let weight =
            |links: &[LinkIx]| links.iter().map(|link| network.links()[link.ix()].weight).sum::<f64>();
        let shortest = finder.shortest(source, target);
        assert_eq!(shortest.is_some(), !paths.is_empty());
        if let Some(shortest) = shortest {
            assert!((weight(&paths[0]) / shortest.length - 1.0).abs() < 1e-9);
        }
        for (at, links) in paths.iter().enumerate() {
            let mut seen = HashSet::from([source]);
            let mut node = source;
            for link in links {
                let link = &network.links()[link.ix()];
                assert_eq!(link.tail, node);
                node = link.head;
                assert!(seen.insert(node), "path {at} of pair {pair} visits a node twice");
            }
            assert_eq!(node, target);
            assert!(!paths[..at].contains(links));
        }
    }
    assert_eq!(sets.path_count(), by_pair(network, sets).iter().map(Vec::len).sum::<usize>());
    assert_eq!(sets.fits.len(), matrices.len());
    for (demands, fit) in matrices.iter().zip(&sets.fits) {
        let problem = FlowProblem::all(network, demands).unwrap();
        // The lengths prove the bound: those of a solution that claims it would.
        let mut claim = MinMaxSolver::new(network).solve(&problem, None).unwrap();
        assert!(fit.lower_bound <= claim.utilization * (1.0 + 1e-9));
        claim.lower_bound = fit.lower_bound;
        claim.link_prices.clone_from(&fit.link_prices);
        verify(&problem, None, &claim).unwrap();
        let solution = over(network, demands, &by_pair(network, sets));
        assert!(solution.utilization <= fit.utilization * (1.0 + 1e-9));
        if sets.status != PathSetsStatus::Deadline {
            assert!(solution.utilization >= fit.utilization * (1.0 - 1e-9));
        }
    }
    let within = sets.worst_gap() <= choice.tolerance.max(1e-9);
    assert_eq!(within, sets.status == PathSetsStatus::Reached);
}

#[test]
fn every_matrix_is_served_within_the_tolerance_when_paths_are_not_limited() {
    let network = grid(4, 4, &LinkModel::default(), 3).unwrap();
    let mean = BitRate::gigabits_per_second(0.02);
    let matrices = TrafficModel::Exponential { mean }.matrices(&network, 10, 4).unwrap();
    let mut counts = Vec::new();
    for tolerance in [0.0, 0.01, 0.1] {
        let choice = choice(1, 99, tolerance);
        let sets = choose_paths(&network, &matrices, &choice, None).unwrap();
        check(&network, &matrices, &choice, &sets);
        assert_eq!(sets.status, PathSetsStatus::Reached);
        counts.push(sets.path_count());
    }
    // All pairs have one; what is added is no more than a few for each matrix.
    assert!(counts.iter().all(|count| *count < network.pair_count() * 3 / 2), "{counts:?}");
    assert!(counts[2] < counts[0] && counts[2] < counts[1], "{counts:?}");
}

#[test]
fn a_limit_that_binds_is_kept_and_its_cost_is_stated() {
    let network = grid(4, 4, &LinkModel::default(), 3).unwrap();
    let mean = BitRate::gigabits_per_second(0.02);
    let matrices = TrafficModel::Exponential { mean }.matrices(&network, 10, 4).unwrap();
    let mut gaps = Vec::new();
    for most in 1..=3 {
        let choice = choice(1, most, 0.0);
        let sets = choose_paths(&network, &matrices, &choice, None).unwrap();
        check(&network, &matrices, &choice, &sets);
        gaps.push(sets.worst_gap());
    }
    // One path each leaves no choice.
    let alone = choose_paths(&network, &[], &choice(1, 1, 0.0), None).unwrap();
    let alone = by_pair(&network, &alone);
    let worst = matrices.iter().map(|demands| {
        let best = MinMaxSolver::new(&network).solve(&FlowProblem::all(&network, demands).unwrap(), None);
        1.0 - best.unwrap().utilization / over(&network, demands, &alone).utilization
    });
    assert!((gaps[0] - worst.fold(0.0, f64::max)).abs() < 1e-9, "{gaps:?}");
    assert!(gaps[0] > 0.5 && gaps[1] < 1e-9 && gaps[2] < 1e-9, "{gaps:?}");
}

#[test]
fn every_pair_gets_the_paths_given_to_it_with_as_few_links_in_common_as_can_be() {
    let network = grid(3, 3, &LinkModel::default(), 1).unwrap();
    let choice = choice(2, 2, 0.01);
    let sets = choose_paths(&network, &[], &choice, None).unwrap();
    check(&network, &[], &choice, &sets);
    assert_eq!(sets.status, PathSetsStatus::Reached);
    for pair in 0..network.pair_count() {
        let [first, second] = sets.of(GroupIx::from(pair)) else { panic!("pair {pair} has not two paths") };
        assert!(first.iter().all(|link| !second.contains(link)));
    }
}

#[test]
fn fewer_paths_than_four_shortest_are_better_then_and_later() {
    let network = backbone(&BackboneConfig { nodes: 30, ..BackboneConfig::default() }, 3).unwrap();
    let matrices = day(&network, 24, 5);
    let (known, later) = matrices.split_at(12);
    let choice = PathChoice::default();
    let sets = choose_paths(&network, known, &choice, None).unwrap();
    check(&network, known, &choice, &sets);
    let (usual, chosen) = (k_shortest(&network, 4), by_pair(&network, &sets));
    assert!(sets.path_count() as f64 <= 0.51 * usual.iter().map(Vec::len).sum::<usize>() as f64);
    for matrices in [known, later] {
        let (usual, chosen) = (cost(&network, matrices, &usual), cost(&network, matrices, &chosen));
        eprintln!(
            "4 shortest: mean {:.4}, worst {:.4}; chosen: {:.4}, {:.4}",
            usual.0, usual.1, chosen.0, chosen.1
        );
        assert!(chosen.0 < usual.0 && chosen.1 < usual.1, "{chosen:?} {usual:?}");
        assert!(chosen.1 < 1.01, "{chosen:?}");
    }
}

#[test]
fn abilene_needs_half_the_paths_of_four_shortest_and_is_better_on_later_days() {
    let Some(folder) = data() else { return };
    let (format, options) = (Some(Format::CfrRl), ReadOptions::default());
    let network = read_network_file(folder.join("cfr-rl/Abilene"), format, &options).unwrap().network;
    let week = read_matrices_file(folder.join("cfr-rl/AbileneTM"), format, &network, &options).unwrap();
    let known: Vec<_> = week[..288].iter().step_by(4).cloned().collect();
    let later: Vec<_> = week[288..].iter().step_by(8).cloned().collect();
    let choice = PathChoice::default();
    let sets = choose_paths(&network, &known, &choice, None).unwrap();
    check(&network, &known, &choice, &sets);
    assert_eq!(sets.status, PathSetsStatus::Reached);
    let (usual, chosen) = (k_shortest(&network, 4), by_pair(&network, &sets));
    eprintln!("{} paths", sets.path_count());
    assert!(sets.path_count() as f64 <= 0.51 * usual.iter().map(Vec::len).sum::<usize>() as f64);
    for matrices in [known, later] {
        let (usual, chosen) = (cost(&network, &matrices, &usual), cost(&network, &matrices, &chosen));
        eprintln!(
            "4 shortest: mean {:.4}, worst {:.4}; chosen: {:.4}, {:.4}",
            usual.0, usual.1, chosen.0, chosen.1
        );
        assert!(chosen.0 < usual.0 && chosen.1 < usual.1, "{chosen:?} {usual:?}");
    }
}

#[test]
fn geant_is_served_optimally_by_half_the_paths_of_four_shortest() {
    let Some(folder) = data() else { return };
    let options = ReadOptions::default();
    let network = read_network_file(folder.join("geant/GEANT.json"), None, &options).unwrap().network;
    let file = folder.join("geant/geant_tm_first100.txt");
    let matrices = read_matrices_file(file, Some(Format::Rows), &network, &options).unwrap();
    let (known, later) = matrices.split_at(50);
    let choice = PathChoice::default();
    let sets = choose_paths(&network, known, &choice, None).unwrap();
    check(&network, known, &choice, &sets);
    assert_eq!(sets.path_count(), 2 * network.pair_count());
    for matrices in [known, later] {
        let (_, worst) = cost(&network, matrices, &by_pair(&network, &sets));
        assert!(worst < 1.0 + 1e-9, "{worst}");
    }
    // What these matrices need at the least: a hundredth more paths than pairs.
    let least = self::choice(1, 4, 0.01);
    let sets = choose_paths(&network, known, &least, None).unwrap();
    check(&network, known, &least, &sets);
    assert_eq!(sets.status, PathSetsStatus::Reached);
    assert!(sets.path_count() < 480, "{}", sets.path_count());
}

#[test]
fn equal_arguments_give_equal_paths() {
    let network = backbone(&BackboneConfig { nodes: 20, ..BackboneConfig::default() }, 8).unwrap();
    let matrices = day(&network, 6, 9);
    let choose = || choose_paths(&network, &matrices, &choice(1, 3, 0.001), None).unwrap();
    assert_eq!(choose(), choose());
}

#[test]
fn a_deadline_that_has_passed_gives_every_pair_a_path_and_a_true_bound() {
    let network = backbone(&BackboneConfig { nodes: 20, ..BackboneConfig::default() }, 8).unwrap();
    let matrices = day(&network, 6, 9);
    let choice = choice(1, 4, 0.001);
    let sets = choose_paths(&network, &matrices, &choice, Some(Instant::now())).unwrap();
    check(&network, &matrices, &choice, &sets);
    assert_eq!(sets.status, PathSetsStatus::Deadline);
    assert_eq!(sets.path_count(), network.pair_count());
    assert!(sets.fits.iter().all(|fit| fit.gap() > 0.0 && fit.gap() < 1.0));
}

fn three(links: &[(u32, u32)]) -> Network {
    let names = ["a", "b", "c"].map(|name| Node { name: name.into(), position: None });
    let link = |(tail, head): &(u32, u32)| Link {
        tail: NodeIx(*tail),
        head: NodeIx(*head),
        capacity: BitRate::gigabits_per_second(1.0),
        weight: 1.0,
        delay: Latency::ZERO,
    };
    Network::new(names.to_vec(), links.iter().map(link).collect()).unwrap()
}

#[test]
fn paths_come_with_the_names_of_their_nodes() {
    let network = three(&[(0, 1), (0, 2), (2, 1)]);
    let mut demands = TrafficMatrix::zero(3);
    demands.set(NodeIx(0), NodeIx(1), BitRate::gigabits_per_second(1.0));
    let sets = choose_paths(&network, &[demands], &choice(1, 2, 0.0), None).unwrap();
    assert_eq!(sets.fits[0].utilization, 0.5);
    assert_eq!(sets.most_paths(), 2);
    let named = sets.named(&network);
    let ends: Vec<_> = named.iter().map(|pair| (pair.source, pair.target)).collect();
    assert_eq!(ends, [("a", "b"), ("a", "c"), ("c", "b")]);
    assert_eq!(named[0].paths, [vec!["a", "b"], vec!["a", "c", "b"]]);
}

#[test]
fn what_is_wrong_is_named() {
    let network = three(&[(0, 1)]);
    let choose = |demands, tolerance| {
        let sets = choose_paths(&network, &[demands], &choice(1, 2, tolerance), None);
        sets.map(|_| ()).map_err(|error| error.code())
    };
    let mut apart = TrafficMatrix::zero(3);
    apart.set(NodeIx(1), NodeIx(2), BitRate::gigabits_per_second(1.0));
    assert_eq!(choose(apart, 0.0), Err("flow_disconnected"));
    assert_eq!(choose(TrafficMatrix::zero(3), 0.0), Ok(()));
    assert_eq!(choose(TrafficMatrix::zero(3), f64::NAN), Err("flow_value"));
    assert_eq!(choose(TrafficMatrix::zero(3), -0.1), Err("flow_value"));
    assert_eq!(choose(TrafficMatrix::zero(2), 0.0), Err("network_length"));
}
