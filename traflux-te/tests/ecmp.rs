//! What routers do by themselves.
#![allow(clippy::unwrap_used)]

mod common;

use common::{any_demands, any_network, demands, every_path, network, weight};
use proptest::prelude::*;
use traflux_core::{GroupIx, LinkIx, NetworkError, NodeIx};
use traflux_te::{NextHops, check_served, ecmp, ecmp_loads};

/// 0 → 1 → 3 and 0 → 2 → 3 tie; 1 → 4 → 3 is another way that ties with 1 → 3 (weight 2).
fn nested() -> traflux_core::Network {
    let c = 1e9;
    network(5, &[(0, 1, 1., c), (0, 2, 1., c), (1, 3, 2., c), (2, 3, 2., c), (1, 4, 1., c), (4, 3, 1., c)])
}

#[test]
fn traffic_splits_equally_at_every_node_not_over_paths() {
    let network = nested();
    let base = ecmp(&network).unwrap();
    let pair = network.pair_ix(NodeIx(0), NodeIx(3));
    let mut fractions: Vec<_> = base.of(pair).collect();
    fractions.sort_by_key(|(link, _)| *link);
    // Three paths, but node 0 knows two next hops: halves, and a quarter on each way out of node 1.
    let expected = [(0, 0.5), (1, 0.5), (2, 0.25), (3, 0.5), (4, 0.25), (5, 0.25)];
    assert_eq!(fractions, expected.map(|(link, fraction)| (LinkIx(link), fraction)));
    let loads = ecmp_loads(&network, &demands(5, &[(0, 3, 8.0), (4, 3, 1.0)])).unwrap();
    assert_eq!(loads, [4.0, 4.0, 2.0, 4.0, 2.0, 3.0]);
}

#[test]
fn parallel_links_of_equal_weight_share_and_a_heavier_one_gets_nothing() {
    let network = network(2, &[(0, 1, 1., 1.), (0, 1, 1., 1.), (0, 1, 1.5, 1.)]);
    assert_eq!(ecmp_loads(&network, &demands(2, &[(0, 1, 2.0)])).unwrap(), [1.0, 1.0, 0.0]);
}

#[test]
fn weights_that_differ_by_rounding_tie_and_weights_that_differ_by_a_millionth_do_not() {
    // 0.1 + 0.2 is not 0.3 in binary.
    let tie = network(3, &[(0, 1, 0.1, 1.), (1, 2, 0.2, 1.), (0, 2, 0.3, 1.)]);
    assert_eq!(NextHops::new(&tie, NodeIx(2)).of(NodeIx(0)), [LinkIx(0), LinkIx(2)]);
    let apart = network(3, &[(0, 1, 0.1, 1.), (1, 2, 0.2, 1.), (0, 2, 0.3 * 1.000_001, 1.)]);
    assert_eq!(NextHops::new(&apart, NodeIx(2)).of(NodeIx(0)), [LinkIx(0)]);
}

#[test]
fn weights_of_wildly_different_size_make_no_loop() {
    // 1 + 1e-30 is 1: both ends of the first link are equally far from node 2.
    let network = network(3, &[(0, 1, 1e-30, 1.), (1, 0, 1e-30, 1.), (1, 2, 1., 1.)]);
    assert_eq!(ecmp_loads(&network, &demands(3, &[(0, 2, 5.0)])).unwrap(), [5.0, 0.0, 5.0]);
}

#[test]
fn a_demand_without_a_path_is_an_error_and_a_pair_without_demand_is_not() {
    let network = network(3, &[(0, 1, 1., 1.)]);
    let error = ecmp_loads(&network, &demands(3, &[(0, 2, 7.0)])).unwrap_err();
    assert_eq!(error.to_string(), "no path leads from node `n0` to node `n2`, which ask for 7 bit/s");
    let base = ecmp(&network).unwrap();
    assert_eq!(check_served(&network, &base, &demands(3, &[(0, 2, 7.0)])), Err(error));
    assert_eq!(ecmp_loads(&network, &demands(3, &[(0, 1, 7.0)])).unwrap(), [7.0]);
    assert_eq!(base.of(network.pair_ix(NodeIx(0), NodeIx(2))).count(), 0);
    let other = ecmp_loads(&network, &demands(4, &[])).unwrap_err();
    assert_eq!(other, NetworkError::Length { what: "traffic matrix", got: 4, expected: 3 });
}

#[test]
fn networks_of_no_and_of_one_node_have_no_loads() {
    for nodes in [0, 1] {
        let network = network(nodes, &[]);
        assert!(ecmp_loads(&network, &demands(nodes, &[])).unwrap().is_empty());
        ecmp(&network).unwrap();
    }
}

proptest! {
    #[test]
    fn fractions_are_a_flow_of_one_from_source_to_target_over_shortest_paths(network in any_network(7)) {
        let base = ecmp(&network).unwrap();
        for pair in (0..network.pair_count()).map(GroupIx::from) {
            let (source, target) = network.pair(pair);
            let paths = every_path(&network, source, target);
            let least = paths.iter().map(|p| weight(&network, p)).fold(f64::INFINITY, f64::min);
            let shortest: Vec<_> = paths.iter().filter(|p| weight(&network, p) == least).collect();
            let mut net = vec![0.0; network.nodes().len()];
            for (link, fraction) in base.of(pair) {
                prop_assert!(fraction > 0.0 && shortest.iter().any(|path| path.contains(&link)));
                net[network.links()[link.ix()].tail.ix()] += fraction;
                net[network.links()[link.ix()].head.ix()] -= fraction;
            }
            if !paths.is_empty() {
                net[source.ix()] -= 1.0;
                net[target.ix()] += 1.0;
            }
            prop_assert!(net.iter().all(|v| v.abs() < 1e-12), "{net:?}");
            // Every link of every shortest path is used.
            for link in shortest.iter().copied().flatten() {
                prop_assert!(base.of(pair).any(|(other, _)| other == *link));
            }
        }
    }

    #[test]
    fn loads_by_target_are_those_of_the_fractions(
        (network, demands) in any_network(7).prop_flat_map(|n| {
            let nodes = n.nodes().len();
            (Just(n), any_demands(nodes))
        }),
    ) {
        let base = ecmp(&network).unwrap();
        match ecmp_loads(&network, &demands) {
            Ok(loads) => {
                check_served(&network, &base, &demands).unwrap();
                for (a, b) in loads.iter().zip(base.loads(&network, &demands)) {
                    prop_assert!((a - b).abs() <= 1e-12 * (1.0 + b));
                }
            }
            Err(_) => prop_assert!(check_served(&network, &base, &demands).is_err()),
        }
    }
}
