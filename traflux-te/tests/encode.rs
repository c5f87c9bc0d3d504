//! What a network looks like to a policy.
#![allow(clippy::unwrap_used)]

mod common;

use common::{any_demands, any_network, demands, every_path, network};
use proptest::prelude::*;
use traflux_core::{BitRate, GroupIx, Link, Network, NodeIx, Observation, TrafficMatrix};
use traflux_te::encode::feature;
use traflux_te::{NetworkEncoder, ecmp, ecmp_loads};

fn encoder(network: &Network) -> NetworkEncoder {
    NetworkEncoder::new(network, &ecmp(network).unwrap())
}

fn value(observation: &Observation, pair: GroupIx, name: &str) -> f32 {
    observation.groups[[pair.ix(), feature::PAIR.iter().position(|f| *f == name).unwrap()]]
}

fn context(observation: &Observation, name: &str) -> f32 {
    observation.context[feature::CONTEXT.iter().position(|f| *f == name).unwrap()]
}

/// 0 → 1 → 3 is the base of 0 → 3; 0 → 2 → 3 is longer. Capacities 10, 20, 40, 40 bit/s.
fn square() -> Network {
    network(4, &[(0, 1, 1., 10.), (1, 3, 1., 20.), (0, 2, 2., 40.), (2, 3, 2., 40.)])
}

#[test]
fn features_of_a_small_network_are_those_that_its_numbers_give() {
    let network = square();
    let pair = |s, t| network.pair_ix(NodeIx(s), NodeIx(t));
    // Links: 0 → 1 has 6 of 10, 1 → 3 has 4 + 4 of 20, 0 → 2 has 8 of 40, 2 → 3 nothing.
    let traffic = demands(4, &[(0, 3, 4.0), (0, 1, 2.0), (1, 3, 4.0), (0, 2, 8.0)]);
    let mut encoder = encoder(&network);
    let seen = encoder.encode(&traffic).unwrap();
    for (name, expected) in [
        (feature::DEMAND, 4.0 / 1.5), // mean 18 / 12
        (feature::LOG_DEMAND, (1.0 + 4.0 / 1.5f32).ln()),
        (feature::DEMAND_RANK, 9.0 / 11.0), // eight send nothing, one sends 2, one the same
        (feature::BOTTLENECK, 1.0),         // 0.6 of 0.6
        (feature::PATH_UTILIZATION, 0.5 / 0.6), // (0.6 + 0.4) / 2
        (feature::BOTTLENECK_SHARE, 4.0 / 6.0), // of link 0 → 1
        (feature::WORST_SHARE, 4.0 / 6.0),  // the same link
        (feature::CRITICAL, 1.0),           // fewer than five links have load: all of them
        (feature::PRESSURE, 0.4 / 0.6),     // 4 of 10
        (feature::ALTERNATIVE, 0.2 / 0.6),  // over 0 → 2
        (feature::HOPS, 2.0 / 1.2),         // five pairs are joined, by 6 links in all
        (feature::PATH_CAPACITY, 0.25),     // 10 of 40
        (feature::SOURCE_CUT, 14.0 / 50.0 / 0.6), // 14 out of node 0
        (feature::TARGET_CUT, 8.0 / 60.0 / 0.6), // 8 into node 3
        (feature::CHANGE, 0.0),
    ] {
        let got = value(&seen, pair(0, 3), name);
        assert!((got - expected).abs() < 1e-6, "{name}: {got}, expected {expected}");
    }
    assert_eq!(value(&seen, pair(1, 3), feature::WORST_SHARE), 0.0);
    assert_eq!(value(&seen, pair(0, 2), feature::ALTERNATIVE), value(&seen, pair(0, 2), feature::BOTTLENECK));
    for (name, expected) in [
        (feature::MEAN_UTILIZATION, (0.6 + 0.4 + 0.2) / 4.0 / 0.6),
        (feature::NEAR_WORST, 0.25),
        (feature::CUT_BOUND, (8.0 / 40.0 / 0.6f32).max(14.0 / 50.0 / 0.6)),
        (feature::SIZE, 4f32.ln() / 8.0),
        (feature::DEGREE, 0.25),
        (feature::TOTAL_CHANGE, 0.0),
    ] {
        let got = context(&seen, name);
        assert!((got - expected).abs() < 1e-6, "{name}: {got}, expected {expected}");
    }
    let open: Vec<_> = seen.mask.iter().enumerate().filter(|(_, open)| **open).map(|(p, _)| p).collect();
    let joined = [pair(0, 1), pair(0, 2), pair(0, 3), pair(1, 3), pair(2, 3)].map(|p| p.ix());
    assert_eq!(open, joined);
}

#[test]
fn change_is_the_log_ratio_of_relative_demand_and_is_forgotten_on_reset() {
    let network = square();
    let pair = network.pair_ix(NodeIx(0), NodeIx(1));
    let mut encoder = encoder(&network);
    let first = demands(4, &[(0, 1, 1.0), (0, 2, 3.0)]);
    let second = demands(4, &[(0, 1, 4.0), (0, 2, 4.0)]);
    encoder.encode(&first).unwrap();
    let seen = encoder.encode(&second).unwrap();
    // Relative to the mean 3.0 of 12 pairs with a sum of 4, then 6.0 with a sum of 8.
    let expected = ((6.0 + 0.01) / (3.0 + 0.01f32)).ln();
    assert!((value(&seen, pair, feature::CHANGE) - expected).abs() < 1e-6);
    assert!((context(&seen, feature::TOTAL_CHANGE) - 2f32.ln()).abs() < 1e-6);
    assert!((context(&seen, feature::WORST_CHANGE) - 4f32.ln()).abs() < 1e-6);
    encoder.reset();
    let seen = encoder.encode(&first).unwrap();
    assert_eq!((value(&seen, pair, feature::CHANGE), context(&seen, feature::TOTAL_CHANGE)), (0.0, 0.0));
}

#[test]
fn an_observation_is_reused_whatever_it_held() {
    let network = square();
    let traffic = demands(4, &[(0, 3, 4.0)]);
    let fresh = encoder(&network).encode(&traffic).unwrap();
    let mut reused = Observation::default();
    encoder(&network).encode_into(&traffic, &mut reused).unwrap();
    assert_eq!(reused, fresh);
    reused.groups.fill(f32::NAN);
    reused.mask.clear();
    let memory = reused.groups.as_ptr();
    encoder(&network).encode_into(&traffic, &mut reused).unwrap();
    assert_eq!((reused.groups.as_ptr(), &reused), (memory, &fresh));
    let error = encoder(&network).encode(&TrafficMatrix::zero(5)).unwrap_err();
    assert_eq!(error.to_string(), "encoder expects 4 nodes in the traffic matrix, got 5");
}

#[test]
fn names_and_columns_agree_and_demand_is_where_selectors_look() {
    let network = square();
    let encoder = encoder(&network);
    assert_eq!(encoder.space().group_features.len(), 16);
    assert_eq!(encoder.space().context_features.len(), 9);
    assert_eq!(encoder.space().group_features[traflux_core::network::column::DEMAND], feature::DEMAND);
}

#[test]
fn networks_of_no_one_and_two_nodes_are_encoded() {
    for nodes in 0..3 {
        let seen = encoder(&network(nodes, &[])).encode(&TrafficMatrix::zero(nodes)).unwrap();
        assert_eq!((seen.groups.nrows(), seen.mask.len()), (nodes * nodes.saturating_sub(1), seen.len()));
        assert!(seen.groups.iter().chain(&seen.context).all(|v| v.is_finite()));
    }
}

fn any_case() -> impl Strategy<Value = (Network, TrafficMatrix, TrafficMatrix)> {
    any_network(7).prop_flat_map(|n| {
        let nodes = n.nodes().len();
        (Just(n), any_demands(nodes), any_demands(nodes))
    })
}

/// Both observations of a sequence of two.
fn sequence(network: &Network, first: &TrafficMatrix, second: &TrafficMatrix) -> [Observation; 2] {
    let mut encoder = encoder(network);
    [first, second].map(|demands| encoder.encode(demands).unwrap())
}

fn rebuilt(network: &Network, change: impl Fn(Link) -> Link) -> Network {
    Network::new(network.nodes().to_vec(), network.links().iter().map(|l| change(*l)).collect()).unwrap()
}

proptest! {
    #[test]
    fn every_feature_is_finite_and_within_its_range((network, first, second) in any_case()) {
        for seen in sequence(&network, &first, &second) {
            for (column, name) in feature::PAIR.iter().enumerate() {
                let (low, high) = match *name {
                    feature::DEMAND => (0.0, f32::MAX),
                    feature::LOG_DEMAND => (0.0, 5.0),
                    feature::HOPS => (0.0, 4.0),
                    feature::CHANGE => (-2.0, 2.0),
                    _ => (0.0, 1.0),
                };
                let all = seen.groups.column(column);
                prop_assert!(all.iter().all(|v| *v >= low && *v <= high), "{}: {:?}", name, all);
            }
            prop_assert!(seen.context.iter().all(|v| (-2.0..=4.0).contains(v)));
        }
    }

    #[test]
    fn units_of_demands_and_of_capacities_do_not_matter(
        (network, first, second) in any_case(), demand_unit in 1e-6..1e6f64, capacity_unit in 1e-6..1e6f64,
    ) {
        let scaled = rebuilt(&network, |l| Link { capacity: l.capacity * capacity_unit, ..l });
        let before = sequence(&network, &first, &second);
        let after = sequence(&scaled, &first.scaled(demand_unit), &second.scaled(demand_unit));
        for (a, b) in before.iter().zip(&after) {
            for (a, b) in a.groups.iter().zip(&b.groups).chain(a.context.iter().zip(&b.context)) {
                prop_assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{} {}", a, b);
            }
            prop_assert_eq!(&a.mask, &b.mask);
        }
    }

    #[test]
    fn numbering_nodes_and_links_anew_permutes_rows_and_changes_nothing_else(
        (network, first, second, nodes, links) in any_case().prop_flat_map(|(n, a, b)| {
            let nodes: Vec<usize> = (0..n.nodes().len()).collect();
            let links: Vec<usize> = (0..n.links().len()).collect();
            (Just(n), Just(a), Just(b), Just(nodes).prop_shuffle(), Just(links).prop_shuffle())
        }),
    ) {
        let at = |node: NodeIx| NodeIx::from(nodes[node.ix()]);
        let moved = |l: &Link| Link { tail: at(l.tail), head: at(l.head), ..*l };
        let shuffled = links.iter().map(|l| moved(&network.links()[*l])).collect();
        let renamed = Network::new(network.nodes().to_vec(), shuffled).unwrap();
        let permuted = |m: &TrafficMatrix| {
            let mut matrix = TrafficMatrix::zero(nodes.len());
            for pair in (0..network.pair_count()).map(GroupIx::from) {
                let (s, t) = network.pair(pair);
                matrix.set(at(s), at(t), BitRate::saturating(m.demand(s, t)));
            }
            matrix
        };
        let before = sequence(&network, &first, &second);
        let after = sequence(&renamed, &permuted(&first), &permuted(&second));
        for (a, b) in before.iter().zip(&after) {
            for pair in (0..network.pair_count()).map(GroupIx::from) {
                let (s, t) = network.pair(pair);
                let other = network.pair_ix(at(s), at(t));
                prop_assert_eq!(a.mask[pair.ix()], b.mask[other.ix()]);
                for (column, name) in feature::PAIR.iter().enumerate() {
                    let (a, b) = (a.groups[[pair.ix(), column]], b.groups[[other.ix(), column]]);
                    prop_assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{}: {} {}", name, a, b);
                }
            }
            for (a, b) in a.context.iter().zip(&b.context) {
                prop_assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{} {}", a, b);
            }
        }
    }

    #[test]
    fn the_alternative_is_the_least_bottleneck_of_all_paths((network, demands, _) in any_case()) {
        let Ok(loads) = ecmp_loads(&network, &demands) else { return Ok(()) };
        let worst = network.max_utilization(&loads);
        prop_assume!(worst > 0.0);
        let seen = encoder(&network).encode(&demands).unwrap();
        let utilization = |l: &traflux_core::LinkIx| {
            loads[l.ix()] / network.links()[l.ix()].capacity.get() / worst
        };
        for pair in (0..network.pair_count()).map(GroupIx::from) {
            let (source, target) = network.pair(pair);
            let paths = every_path(&network, source, target);
            let fullest = |path: &Vec<_>| path.iter().map(utilization).fold(0.0, f64::max);
            let least = paths.iter().map(fullest).reduce(f64::min).unwrap_or(0.0);
            prop_assert!((f64::from(value(&seen, pair, feature::ALTERNATIVE)) - least).abs() < 1e-6);
        }
    }
}
