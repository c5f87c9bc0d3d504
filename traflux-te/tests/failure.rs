//! What is left when something fails.
#![allow(clippy::unwrap_used)]

mod common;

use common::{any_network, both_ways, demands, every_path, link_ixs, network};
use proptest::prelude::*;
use traflux_core::{BitRate, GroupIx, LinkIx, NetworkError, NodeIx, PathShare, Rerouting, Routing};
use traflux_te::{Cut, Failure, RiskGroup, ecmp_loads, group_failures, link_failures, node_failures};

/// A triangle 0, 1, 2 with a tail 2 – 3 and a second link between 0 and 1.
fn kite() -> traflux_core::Network {
    let c = 1e9;
    both_ways(4, &[(0, 1, 1., c), (1, 2, 1., c), (2, 0, 1., c), (2, 3, 1., c), (0, 1, 5., c)])
}

#[test]
fn both_directions_fail_once_and_parallel_links_one_by_one() {
    let network = kite();
    let all: Vec<Failure> = link_failures(&network, Cut::BothDirections).collect();
    let names: Vec<&str> = all.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["n0 - n1", "n1 - n2", "n2 - n0", "n2 - n3", "n0 - n1 #2"]);
    assert_eq!(all[4].down, link_ixs(&[8, 9]));
    assert_eq!(link_failures(&network, Cut::OneDirection).count(), 10);
    assert_eq!(link_failures(&network, Cut::OneDirection).nth(1).unwrap().name, "n1 -> n0");
}

#[test]
fn a_link_without_a_twin_fails_alone() {
    let network = network(3, &[(0, 1, 1., 1.), (1, 2, 1., 1.), (2, 0, 1., 1.)]);
    let all: Vec<Failure> = link_failures(&network, Cut::BothDirections).collect();
    assert_eq!(all.len(), 3);
    assert_eq!((all[0].name.as_str(), all[0].down.len()), ("n0 -> n1", 1));
    // In a ring of one direction, 0 still gets from 2, 2 from 1; nothing else.
    assert_eq!(all[0].unreachable.len(), 3);
}

#[test]
fn only_the_failure_of_the_tail_parts_the_network() {
    let network = kite();
    for failure in link_failures(&network, Cut::BothDirections) {
        let parted: Vec<_> = failure.unreachable.iter().map(|p| network.pair(*p)).collect();
        if failure.name == "n2 - n3" {
            let ends = [(0, 3), (1, 3), (2, 3), (3, 0), (3, 1), (3, 2)];
            assert_eq!(parted, ends.map(|(s, t)| (NodeIx(s), NodeIx(t))));
        } else {
            assert!(parted.is_empty(), "{}", failure.name);
        }
    }
}

#[test]
fn a_node_that_fails_keeps_its_position_and_loses_its_links() {
    let network = kite();
    let failure = node_failures(&network).nth(2).unwrap();
    assert_eq!((failure.name.as_str(), failure.network.nodes().len()), ("n2", 4));
    assert_eq!(failure.down, link_ixs(&[2, 3, 4, 5, 6, 7]));
    // All pairs but 0 ↔ 1.
    assert_eq!(failure.unreachable.len(), 10);
    let traffic = demands(4, &[(0, 1, 5.0), (0, 2, 7.0), (1, 3, 8.0)]);
    let (served, lost) = failure.served(&traffic).unwrap();
    assert_eq!((served.total(), lost), (5.0, BitRate::bits_per_second(15.0)));
    assert_eq!(ecmp_loads(&failure.network, &traffic).unwrap_err().code(), "network_disconnected");
    let loads = failure.on_intact(&ecmp_loads(&failure.network, &served).unwrap());
    assert_eq!(loads, [5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn links_of_a_risk_group_fail_together() {
    let network = kite();
    let groups = [RiskGroup { name: "duct".into(), links: link_ixs(&[8, 0, 1, 9, 0]) }];
    let failure = group_failures(&network, &groups).unwrap().next().unwrap();
    assert_eq!((failure.name.as_str(), &failure.down), ("duct", &link_ixs(&[0, 1, 8, 9])));
    assert!(failure.unreachable.is_empty());
    assert_eq!(failure.links(), link_ixs(&[2, 3, 4, 5, 6, 7]));
    assert_eq!((failure.link(LinkIx(1)), failure.link(LinkIx(3))), (None, Some(LinkIx(1))));
    let unknown = [RiskGroup { name: "duct".into(), links: link_ixs(&[10]) }];
    let error = group_failures(&network, &unknown).err().unwrap();
    assert_eq!(error, NetworkError::Length { what: "risk group", got: 11, expected: 10 });
}

#[test]
fn a_routing_is_carried_over_with_what_is_left_of_its_paths() {
    let network = kite();
    let pair = |s, t| network.pair_ix(NodeIx(s), NodeIx(t));
    let path = |links: &[u32], share| PathShare { links: link_ixs(links), share };
    let paths = vec![path(&[0], 0.5), path(&[8], 0.2), path(&[5, 3], 0.3)];
    let routing = Routing::new(
        &network,
        vec![
            Rerouting { pair: pair(0, 1), base_share: 0.0, paths },
            Rerouting { pair: pair(0, 2), base_share: 0.0, paths: vec![path(&[0, 2], 1.0)] },
            Rerouting {
                pair: pair(1, 2),
                base_share: 0.5,
                paths: vec![path(&[1, 5], 0.2), path(&[9, 5], 0.3)],
            },
        ],
    )
    .unwrap();
    let failure = link_failures(&network, Cut::BothDirections).next().unwrap();
    let carried = failure.carried_over(&routing).unwrap();
    // Links 2… moved up by two; 0.2 and 0.3 share as 2 : 3; the pair 0 → 2 is back on the base.
    assert_eq!(carried.reroutings().len(), 2);
    assert_eq!(carried.reroutings()[0].paths, [path(&[6], 0.4), path(&[3, 1], 0.6)]);
    // What was half on the base and 0.3 on the path that is left is now 5 : 3.
    assert_eq!(carried.reroutings()[1].base_share, 0.5 / 0.8);
    assert_eq!(carried.reroutings()[1].paths, [path(&[7, 3], 0.3 / 0.8)]);
}

proptest! {
    #[test]
    fn pairs_are_unreachable_when_no_path_is_left_and_links_map_to_themselves(network in any_network(5)) {
        let both = link_failures(&network, Cut::BothDirections).chain(link_failures(&network, Cut::OneDirection));
        for failure in both.chain(node_failures(&network)) {
            for (now, intact) in failure.links().iter().enumerate() {
                prop_assert_eq!(failure.network.links()[now], network.links()[intact.ix()]);
                prop_assert_eq!(failure.link(*intact), Some(LinkIx::from(now)));
            }
            prop_assert_eq!(failure.links().len() + failure.down.len(), network.links().len());
            for pair in (0..network.pair_count()).map(GroupIx::from) {
                let (source, target) = network.pair(pair);
                let before = !every_path(&network, source, target).is_empty();
                let now = !every_path(&failure.network, source, target).is_empty();
                prop_assert_eq!(failure.unreachable.contains(&pair), before && !now);
            }
        }
    }
}
