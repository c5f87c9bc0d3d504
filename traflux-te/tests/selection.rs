//! What a policy that chooses pairs is shown.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use traflux_core::{BitRate, Latency, Link, Network, Node, NodeIx, Observation, TrafficMatrix};
use traflux_te::generate::{BackboneConfig, TrafficModel, backbone};
use traflux_te::{QuickChoice, SelectionEncoder, ecmp, selection};

fn column(encoder: &SelectionEncoder, name: &str) -> usize {
    encoder.space().group_features.iter().position(|feature| feature == name).unwrap()
}

fn context(encoder: &SelectionEncoder, observation: &Observation, name: &str) -> f32 {
    observation.context[encoder.space().context_features.iter().position(|feature| feature == name).unwrap()]
}

fn case(nodes: usize, seed: u64) -> (Network, TrafficMatrix) {
    let network = backbone(&BackboneConfig { nodes, ..BackboneConfig::default() }, seed).unwrap();
    let model = TrafficModel::Lognormal { mean: BitRate::gigabits_per_second(1.0), sigma: 1.0 };
    let demands = model.matrix(&network, seed + 1).unwrap();
    (network, demands)
}

/// Two paths of the same capacity from a to d; the base knows the upper one.
fn diamond() -> (Network, TrafficMatrix) {
    let nodes = ["a", "b", "c", "d"].map(|name| Node { name: name.into(), position: None });
    let link = |tail, head, weight| Link {
        tail: NodeIx(tail),
        head: NodeIx(head),
        capacity: BitRate::gigabits_per_second(1.0),
        weight,
        delay: Latency::ZERO,
    };
    let links = vec![link(0, 1, 1.0), link(1, 3, 1.0), link(0, 2, 2.0), link(2, 3, 2.0)];
    let network = Network::new(nodes.to_vec(), links).unwrap();
    let mut demands = TrafficMatrix::zero(4);
    demands.set(NodeIx(0), NodeIx(3), BitRate::gigabits_per_second(0.8));
    (network, demands)
}

#[test]
fn one_pair_with_two_paths_moves_half_of_its_demand() {
    let (network, demands) = diamond();
    let base = ecmp(&network).unwrap();
    for quick in [QuickChoice::Rounds(4), QuickChoice::Fractions(4)] {
        let mut encoder = SelectionEncoder::new(&network, &base, 1).with_quick_choice(quick);
        let observation = encoder.encode(&demands).unwrap();
        let pair = network.pair_ix(NodeIx(0), NodeIx(3)).ix();
        let fraction = observation.groups[[pair, column(&encoder, selection::feature::FRACTION)]];
        let reached = context(&encoder, &observation, selection::feature::REACHED);
        // 1 / 64 is how fine the line search is.
        assert!((fraction - 0.5).abs() < 0.02, "{quick:?}: {fraction}");
        assert!((reached - 0.5).abs() < 0.02, "{quick:?}: {reached}");
        assert_eq!(observation.groups[[pair, column(&encoder, selection::feature::PLACE)]], 1.0);
    }
}

#[test]
fn without_traffic_or_without_a_choice_nothing_is_shown_as_chosen() {
    let (network, demands) = case(9, 1);
    let base = ecmp(&network).unwrap();
    let cases = [
        (5, QuickChoice::default(), TrafficMatrix::zero(9)),
        (0, QuickChoice::default(), demands.clone()),
        (5, QuickChoice::Rounds(0), demands.clone()),
        (5, QuickChoice::Fractions(0), demands),
    ];
    for (count, quick, demands) in cases {
        let mut encoder = SelectionEncoder::new(&network, &base, count).with_quick_choice(quick);
        let observation = encoder.encode(&demands).unwrap();
        let place = column(&encoder, selection::feature::FRACTION);
        assert!(observation.groups.column(place).iter().all(|fraction| *fraction == 0.0));
        assert_eq!(context(&encoder, &observation, selection::feature::REACHED), 1.0);
        assert!(observation.groups.iter().chain(&observation.context).all(|value| value.is_finite()));
    }
}

#[test]
fn the_quick_choice_is_what_the_places_say() {
    let (network, demands) = case(12, 3);
    let base = ecmp(&network).unwrap();
    for quick in [QuickChoice::default(), QuickChoice::Fractions(6)] {
        let mut encoder = SelectionEncoder::new(&network, &base, 9).with_quick_choice(quick);
        assert!(encoder.quick().is_empty(), "nothing is encoded yet");
        let observation = encoder.encode(&demands).unwrap();
        let chosen = encoder.quick();
        assert_eq!(chosen.len(), 9);
        for (at, pair) in chosen.iter().enumerate() {
            let place = observation.groups[[pair.ix(), column(&encoder, selection::feature::PLACE)]];
            assert_eq!(place, 9.0 / (9.0 + at as f32));
        }
    }
}

#[test]
fn networks_of_more_than_a_hundred_nodes_are_relieved_as_well() {
    let (network, demands) = case(130, 4);
    let base = ecmp(&network).unwrap();
    let mut encoder = SelectionEncoder::new(&network, &base, 100).with_quick_choice(QuickChoice::Rounds(4));
    let observation = encoder.encode(&demands).unwrap();
    let reached = context(&encoder, &observation, selection::feature::REACHED);
    assert!(reached < 0.9, "{reached}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn features_are_bounded_and_depend_on_neither_the_unit_nor_what_was_encoded_before(
        nodes in 4usize..14,
        seed in 0u64..1000,
        steps in 1usize..20,
        rounds in any::<bool>(),
    ) {
        let (network, demands) = case(nodes, seed);
        let base = ecmp(&network).unwrap();
        let count = (network.pair_count() / 10).max(1);
        let quick = if rounds { QuickChoice::Rounds(steps) } else { QuickChoice::Fractions(steps) };
        let mut encoder = SelectionEncoder::new(&network, &base, count).with_quick_choice(quick);
        let fresh = encoder.encode(&demands).unwrap();
        let mut again = encoder.encode(&case(nodes, seed + 5000).1).unwrap();
        encoder.reset();
        // A power of two, so that not a bit of any quotient changes.
        encoder.encode_into(&demands.scaled(1024.0), &mut again).unwrap();
        prop_assert_eq!(&fresh, &again);

        let fractions = fresh.groups.column(column(&encoder, selection::feature::FRACTION));
        prop_assert!(fractions.iter().all(|fraction| (0.0..=1.0001).contains(fraction)));
        let chosen = fractions.iter().filter(|fraction| **fraction > 0.0).count();
        if rounds {
            prop_assert!(chosen <= count);
        } else {
            prop_assert!(fractions.sum() <= count as f32 * 1.0001);
        }
        let reached = context(&encoder, &fresh, selection::feature::REACHED);
        prop_assert!(reached > 0.0 && reached <= 1.0);
        let places = fresh.groups.column(column(&encoder, selection::feature::PLACE));
        let mut sorted: Vec<f32> = places.iter().copied().filter(|place| *place > 0.0).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for (at, place) in sorted.iter().enumerate() {
            prop_assert_eq!(*place, count as f32 / (count as f32 + at as f32));
        }
    }
}
