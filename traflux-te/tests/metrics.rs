//! What a routing is worth and what it disturbs.
#![allow(clippy::unwrap_used)]

mod common;

use common::{demands, link_ixs, network};
use traflux_core::{NodeIx, PathShare, Rerouting, Routing};
use traflux_te::metrics::{BootstrapConfig, PairedDifference, RoutingChange, Summary, delay};
use traflux_te::{delay_ratio, ecmp, performance_ratio, routing_change, selected_share};

#[test]
fn the_performance_ratio_is_one_at_the_optimum_and_without_load() {
    assert_eq!(performance_ratio(0.3, 0.6), 0.5);
    assert_eq!(performance_ratio(0.6, 0.6), 1.0);
    assert_eq!(performance_ratio(0.0, 0.0), 1.0);
}

#[test]
fn delays_are_compared_where_ecmp_has_a_utilization_of_nine_tenths() {
    let network = network(2, &[(0, 1, 1., 10.), (0, 1, 1., 10.)]);
    assert_eq!(delay(&network, &[5.0, 8.0]), 5.0 / 5.0 + 8.0 / 2.0);
    assert_eq!(delay(&network, &[5.0, 10.0]), f64::INFINITY);
    // ECMP puts 6 on one link and 2 on the other; scaled by 1.5: 9 and 3, Ω = 9 + 3/7. Even: 6 and 6, Ω = 3.
    let ratio = delay_ratio(&network, &[6.0, 2.0], &[4.0, 4.0], &[6.0, 2.0]);
    assert!((ratio - 3.0 / (9.0 + 3.0 / 7.0)).abs() < 1e-12);
    // The unit of loads does not matter.
    let scaled = delay_ratio(&network, &[0.6, 0.2], &[0.4, 0.4], &[0.6, 0.2]);
    assert!((ratio - scaled).abs() < 1e-12);
    assert_eq!(delay_ratio(&network, &[6.0, 2.0], &[4.0, 4.0], &[8.0, 0.0]), 0.0, "8 · 1.5 is beyond 10");
    assert_eq!(delay_ratio(&network, &[0.0; 2], &[0.0; 2], &[0.0; 2]), 1.0);
}

#[test]
fn the_selected_share_counts_each_pair_once() {
    let network = network(3, &[(0, 1, 1., 1.)]);
    let traffic = demands(3, &[(0, 1, 3.0), (1, 2, 1.0)]);
    let pair = |s, t| network.pair_ix(NodeIx(s), NodeIx(t));
    assert_eq!(selected_share(&network, &traffic, &[pair(0, 1), pair(0, 1), pair(2, 0)]), 0.75);
    assert_eq!(selected_share(&network, &demands(3, &[]), &[pair(0, 1)]), 0.0);
}

#[test]
fn what_moves_is_what_leaves_its_path() {
    // 0 → 3 over 1 (the base), over 2, or directly; 1 → 3 sends the rest of the traffic.
    let c = 1.0;
    let network = network(4, &[(0, 1, 1., c), (1, 3, 1., c), (0, 2, 2., c), (2, 3, 2., c), (0, 3, 9., c)]);
    let base = ecmp(&network).unwrap();
    let traffic = demands(4, &[(0, 3, 6.0), (1, 3, 2.0)]);
    let pair = network.pair_ix(NodeIx(0), NodeIx(3));
    let with = |paths: &[(&[u32], f64)]| {
        let paths = paths.iter().map(|(links, share)| PathShare { links: link_ixs(links), share: *share });
        Routing::new(&network, vec![Rerouting { pair, base_share: 0.0, paths: paths.collect() }]).unwrap()
    };
    let none = Routing::default();
    let change = |a: &Routing, b: &Routing| routing_change(&network, &base, a, b, &traffic).unwrap();
    let split = with(&[(&[0, 1], 0.5), (&[2, 3], 0.5)]);
    // Half of 6 moves, of 8 in all, there and back.
    let half = RoutingChange { pairs: 1, moved_share: 3.0 / 8.0 };
    assert_eq!((change(&none, &split), change(&split, &none)), (half, half));
    // The same paths, other shares: no pair changed its set, a quarter of 6 moved.
    let shifted = with(&[(&[2, 3], 0.75), (&[0, 1], 0.25)]);
    assert_eq!(change(&split, &shifted), RoutingChange { pairs: 0, moved_share: 1.5 / 8.0 });
    // Other paths altogether.
    assert_eq!(change(&split, &with(&[(&[4], 1.0)])), RoutingChange { pairs: 1, moved_share: 6.0 / 8.0 });
    // Spelling out the base is no change.
    assert_eq!(change(&none, &with(&[(&[0, 1], 1.0)])), RoutingChange::default());
    assert_eq!(change(&split, &split), RoutingChange::default());
    // Half stays on the base, then the base is spelled out and grows.
    let partly = |base_share, paths: &[(&[u32], f64)]| {
        let paths = paths.iter().map(|(links, share)| PathShare { links: link_ixs(links), share: *share });
        Routing::new(&network, vec![Rerouting { pair, base_share, paths: paths.collect() }]).unwrap()
    };
    let on_base = partly(0.5, &[(&[2, 3], 0.5)]);
    assert_eq!(change(&on_base, &split), RoutingChange::default());
    assert_eq!(change(&none, &on_base), half);
    let mixed = partly(0.25, &[(&[0, 1], 0.5), (&[2, 3], 0.25)]);
    assert_eq!(change(&on_base, &mixed), RoutingChange { pairs: 0, moved_share: 1.5 / 8.0 });
    assert_eq!(change(&mixed, &on_base), RoutingChange { pairs: 0, moved_share: 1.5 / 8.0 });
    let other = routing_change(&network, &base, &none, &none, &demands(5, &[]));
    assert_eq!(other.unwrap_err().code(), "network_length");
}

#[test]
fn of_a_split_base_stays_what_both_have_in_common() {
    // Two equal paths; the base puts half on each.
    let c = 1.0;
    let network = network(4, &[(0, 1, 1., c), (1, 3, 1., c), (0, 2, 1., c), (2, 3, 1., c)]);
    let base = ecmp(&network).unwrap();
    let traffic = demands(4, &[(0, 3, 1.0)]);
    let pair = network.pair_ix(NodeIx(0), NodeIx(3));
    let path = |links: &[u32], share| PathShare { links: link_ixs(links), share };
    for (paths, pairs, moved_share) in [
        (vec![path(&[0, 1], 1.0)], 1, 0.5),
        (vec![path(&[0, 1], 0.75), path(&[2, 3], 0.25)], 0, 0.25),
        (vec![path(&[0, 1], 0.5), path(&[2, 3], 0.5)], 0, 0.0),
    ] {
        let routing = Routing::new(&network, vec![Rerouting { pair, base_share: 0.0, paths }]).unwrap();
        let change = routing_change(&network, &base, &Routing::default(), &routing, &traffic).unwrap();
        assert_eq!(change, RoutingChange { pairs, moved_share });
    }
}

#[test]
fn a_summary_of_one_to_a_hundred_and_one_is_known() {
    let values: Vec<f64> = (1..=101).map(f64::from).collect();
    let summary = Summary::of(&values, &BootstrapConfig::default()).unwrap();
    assert_eq!(
        (summary.count, summary.mean, summary.p5, summary.p50, summary.min),
        (101, 51.0, 6.0, 51.0, 1.0)
    );
    // Standard error √((101² − 1) / 12 / 101) = 2.901; 1.96 of it on both sides.
    assert!((summary.mean_interval.low - 45.31).abs() < 0.5, "{summary:?}");
    assert!((summary.mean_interval.high - 56.69).abs() < 0.5, "{summary:?}");
    assert!(summary.p5_interval.low < 6.0 && summary.p5_interval.high > 6.0);
    assert!(summary.p50_interval.low < 51.0 && summary.p50_interval.high > 51.0);
    assert_eq!(Summary::of(&values, &BootstrapConfig::default()).unwrap(), summary, "the seed decides");
    assert_eq!(Summary::of(&[], &BootstrapConfig::default()), None);
    assert_eq!(Summary::of(&[1.0, f64::NAN], &BootstrapConfig::default()), None);
    let one = Summary::of(&[0.5], &BootstrapConfig::default()).unwrap();
    assert_eq!((one.mean, one.p5, one.mean_interval.low, one.mean_interval.high), (0.5, 0.5, 0.5, 0.5));
}

#[test]
fn blocks_widen_the_interval_of_values_that_resemble_their_neighbours() {
    // Runs of 20 equal values: 100 independent ones, not 2000.
    let values: Vec<f64> = (0..2000).map(|i| f64::from((i / 20 * 7919) % 101)).collect();
    let width = |block| {
        let config = BootstrapConfig { block, ..BootstrapConfig::default() };
        let interval = Summary::of(&values, &config).unwrap().mean_interval;
        interval.high - interval.low
    };
    assert!(width(20) > 3.0 * width(1), "{} {}", width(20), width(1));
}

#[test]
fn a_pair_of_methods_is_told_apart_where_each_alone_varies_far_more() {
    let first: Vec<f64> = (0..200).map(|i| f64::from((i * 37) % 100)).collect();
    let second: Vec<f64> = first.iter().enumerate().map(|(i, v)| v - 0.5 + f64::from(i as u32 % 3)).collect();
    let config = BootstrapConfig::default();
    let difference = PairedDifference::of(&first, &second, &config).unwrap();
    // Differences 0.5, −0.5, −1.5 in turn.
    assert!((difference.mean + 0.495).abs() < 1e-9, "{difference:?}");
    assert!(difference.interval.high < 0.0 && difference.interval.low > -0.7);
    assert!((difference.first_greater - 67.0 / 200.0).abs() < 1e-12);
    assert!((difference.second_greater - 133.0 / 200.0).abs() < 1e-12);
    assert_eq!(PairedDifference::of(&first, &second[1..], &config), None);
}
