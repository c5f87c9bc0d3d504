//! Paths besides the shortest.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{any_network, both_ways, every_path, link_ixs, network, weight};
use proptest::prelude::*;
use traflux_core::{GroupIx, LinkIx, Network, NetworkError, NodeIx};
use traflux_te::{Path, PathFinder};

/// The example of Yen's paper as it is usually drawn: C D E F G H = 0 1 2 3 4 5.
fn textbook() -> Network {
    let c = 1.0;
    network(
        6,
        &[
            (0, 1, 3., c),
            (0, 2, 2., c),
            (1, 3, 4., c),
            (2, 1, 1., c),
            (2, 3, 2., c),
            (2, 4, 3., c),
            (3, 4, 2., c),
            (3, 5, 1., c),
            (4, 5, 2., c),
        ],
    )
}

#[test]
fn the_three_shortest_paths_of_the_textbook_have_lengths_5_7_and_8() {
    let network = textbook();
    let paths = PathFinder::new(&network).k_shortest(NodeIx(0), NodeIx(5), 3);
    assert_eq!(paths[0], Path { links: link_ixs(&[1, 4, 7]), length: 5.0 });
    assert_eq!(paths[1], Path { links: link_ixs(&[1, 5, 8]), length: 7.0 });
    assert_eq!(paths[2].length, 8.0);
}

#[test]
fn disjoint_paths_give_up_the_shortest_when_it_stands_in_the_way() {
    // The shortest path 0 → 1 → 2 → 3 uses the middle; the best two go around it (Suurballe's trap).
    let c = 1.0;
    let network = both_ways(4, &[(0, 1, 1., c), (1, 2, 1., c), (2, 3, 1., c), (0, 2, 3., c), (1, 3, 3., c)]);
    let mut finder = PathFinder::new(&network);
    assert_eq!(finder.shortest(NodeIx(0), NodeIx(3)).unwrap().length, 3.0);
    let two = finder.disjoint(NodeIx(0), NodeIx(3), 9);
    let lengths: Vec<_> = two.iter().map(|path| (path.length, path.links.clone())).collect();
    assert_eq!(lengths, [(4.0, link_ixs(&[0, 8])), (4.0, link_ixs(&[6, 4]))]);
    assert_eq!(finder.disjoint(NodeIx(0), NodeIx(3), 1)[0].length, 3.0);
}

#[test]
fn lengths_other_than_weights_lead_elsewhere_and_bad_ones_are_refused() {
    let network = network(3, &[(0, 1, 1., 1.), (1, 2, 1., 1.), (0, 2, 9., 1.)]);
    let mut finder = PathFinder::with_lengths(&network, vec![5.0, 5.0, 1.0]).unwrap();
    assert_eq!(finder.shortest(NodeIx(0), NodeIx(2)).unwrap().links, link_ixs(&[2]));
    let error = PathFinder::with_lengths(&network, vec![1.0, f64::NAN, 1.0]).unwrap_err();
    assert_eq!(error.code(), "network_link_value");
    let error = PathFinder::with_lengths(&network, vec![1.0]).unwrap_err();
    assert_eq!(error, NetworkError::Length { what: "lengths", got: 1, expected: 3 });
}

#[test]
fn nothing_leads_from_a_node_to_itself_or_to_where_no_link_leads() {
    let network = network(3, &[(0, 1, 1., 1.)]);
    let mut finder = PathFinder::new(&network);
    for (source, target) in [(0, 0), (1, 0), (0, 2)] {
        let (source, target) = (NodeIx(source), NodeIx(target));
        assert_eq!(finder.shortest(source, target), None);
        assert!(finder.k_shortest(source, target, 3).is_empty());
        assert!(finder.disjoint(source, target, 3).is_empty());
        assert!(finder.all_shortest(source, target, 3).is_empty());
    }
    assert!(finder.k_shortest(NodeIx(0), NodeIx(1), 0).is_empty());
}

#[test]
fn a_ladder_of_twenty_diamonds_has_a_million_shortest_paths_of_which_the_first_are_given() {
    let rungs = 20;
    let mut links = Vec::new();
    for rung in 0..rungs {
        let at = 3 * rung;
        for (a, b) in [(at, at + 1), (at, at + 2), (at + 1, at + 3), (at + 2, at + 3)] {
            links.push((a, b, 1.0, 1.0));
        }
    }
    let network = network(3 * rungs + 1, &links);
    let mut finder = PathFinder::new(&network);
    let paths = finder.all_shortest(NodeIx(0), NodeIx::from(3 * rungs), 1000);
    assert_eq!(paths.len(), 1000);
    assert!(paths.windows(2).all(|w| w[0].links < w[1].links && w[0].length == 40.0));
    assert_eq!(finder.k_shortest(NodeIx(0), NodeIx::from(3 * rungs), 50).len(), 50);
}

fn is_loopless(network: &Network, source: NodeIx, target: NodeIx, links: &[LinkIx]) -> bool {
    let (mut at, mut seen) = (source, BTreeSet::from([source]));
    links.iter().all(|link| {
        let link = &network.links()[link.ix()];
        let follows = link.tail == at && seen.insert(link.head);
        at = link.head;
        follows
    }) && at == target
}

/// The most link-disjoint paths and their least total weight, by trying all sets.
fn best_disjoint(network: &Network, paths: &[Vec<LinkIx>]) -> (usize, f64) {
    fn extend(network: &Network, paths: &[Vec<LinkIx>], used: &BTreeSet<LinkIx>) -> (usize, f64) {
        let mut best = (0, 0.0);
        for (at, path) in paths.iter().enumerate() {
            if path.iter().all(|link| !used.contains(link)) {
                let with = used.iter().chain(path).copied().collect();
                let (count, sum) = extend(network, &paths[at + 1..], &with);
                let (count, sum) = (count + 1, sum + weight(network, path));
                if count > best.0 || (count == best.0 && sum < best.1) {
                    best = (count, sum);
                }
            }
        }
        best
    }
    extend(network, paths, &BTreeSet::new())
}

proptest! {
    #[test]
    fn the_k_shortest_are_those_of_all_paths_sorted_by_length(network in any_network(6), k in 1usize..12) {
        let mut finder = PathFinder::new(&network);
        for pair in (0..network.pair_count()).map(GroupIx::from) {
            let (source, target) = network.pair(pair);
            let mut lengths: Vec<f64> =
                every_path(&network, source, target).iter().map(|p| weight(&network, p)).collect();
            lengths.sort_by(f64::total_cmp);
            lengths.truncate(k);
            let found = finder.k_shortest(source, target, k);
            prop_assert_eq!(found.iter().map(|p| p.length).collect::<Vec<_>>(), lengths);
            let different: BTreeSet<_> = found.iter().map(|p| p.links.clone()).collect();
            prop_assert_eq!(different.len(), found.len());
            for path in &found {
                prop_assert!(is_loopless(&network, source, target, &path.links));
                prop_assert_eq!(path.length, weight(&network, &path.links));
            }
        }
    }

    #[test]
    fn disjoint_paths_are_the_most_there_are_at_the_least_weight(network in any_network(5)) {
        let mut finder = PathFinder::new(&network);
        for pair in (0..network.pair_count()).map(GroupIx::from) {
            let (source, target) = network.pair(pair);
            let all = every_path(&network, source, target);
            if all.len() > 14 {
                continue;
            }
            let (count, least) = best_disjoint(&network, &all);
            let found = finder.disjoint(source, target, usize::MAX);
            prop_assert_eq!(found.len(), count);
            prop_assert_eq!(found.iter().map(|p| p.length).sum::<f64>(), least);
            let links: Vec<_> = found.iter().flat_map(|p| p.links.clone()).collect();
            prop_assert_eq!(links.iter().collect::<BTreeSet<_>>().len(), links.len());
            for path in &found {
                prop_assert!(is_loopless(&network, source, target, &path.links));
            }
        }
    }

    #[test]
    fn all_shortest_paths_are_those_of_all_paths_with_the_least_weight(network in any_network(6)) {
        let mut finder = PathFinder::new(&network);
        for pair in (0..network.pair_count()).map(GroupIx::from) {
            let (source, target) = network.pair(pair);
            let all = every_path(&network, source, target);
            let least = all.iter().map(|p| weight(&network, p)).fold(f64::INFINITY, f64::min);
            let mut expected: Vec<_> = all.into_iter().filter(|p| weight(&network, p) == least).collect();
            expected.sort();
            let found: Vec<_> =
                finder.all_shortest(source, target, usize::MAX).into_iter().map(|p| p.links).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
