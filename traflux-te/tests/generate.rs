//! Networks and traffic made from seeds.
#![allow(clippy::unwrap_used)]

mod common;

use proptest::prelude::*;
use traflux_core::{BitRate, Network, NodeIx, TrafficMatrix};
use traflux_te::generate::{
    BackboneConfig, Diurnal, DiurnalConfig, LinkModel, NodeMass, Over, TrafficModel, WaxmanConfig,
    WeightRule, backbone, full_mesh, gravity, grid, ring, scaled_to, waxman,
};
use traflux_te::{Cut, TeError, ecmp_loads, link_failures};

fn gbps(value: f64) -> BitRate {
    BitRate::gigabits_per_second(value)
}

/// Mean and standard deviation of the demands of all pairs, in Gbit/s.
fn moments(matrices: &[TrafficMatrix]) -> (f64, f64) {
    let all: Vec<f64> = matrices.iter().flat_map(TrafficMatrix::pairs).map(|d| d * 1e-9).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let variance = all.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / all.len() as f64;
    (mean, variance.sqrt())
}

/// 50 × 22 × 21 = 23,100 demands: the standard error of a mean is 0.7 % of a standard deviation.
fn drawn(model: TrafficModel) -> Vec<TrafficMatrix> {
    model.matrices(&ring(22, &LinkModel::default(), 0).unwrap(), 50, 7).unwrap()
}

#[test]
fn demands_have_the_moments_of_their_distribution() {
    let mean = gbps(2.0);
    let share = 0.1;
    let deviation = 0.2;
    // Of a mixture of N(1, 0.2²) and N(11, 2.2²) with weights 0.9 and 0.1: mean 2; second moment
    // 0.9 · (1 + 0.04) + 0.1 · (121 + 4.84) = 13.52, so the deviation is √9.52.
    let bimodal =
        TrafficModel::Bimodal { small: gbps(1.0), large: gbps(11.0), large_share: share, deviation };
    let sigma: f64 = 0.8;
    for (model, expected) in [
        (TrafficModel::Exponential { mean }, 2.0),
        (TrafficModel::Uniform { low: gbps(1.0), high: gbps(3.0) }, 1.0 / 3f64.sqrt()),
        (TrafficModel::UniformAround { mean, half_width: 0.25 }, 0.5 / 3f64.sqrt()),
        (TrafficModel::Lognormal { mean, sigma }, 2.0 * ((sigma * sigma).exp() - 1.0).sqrt()),
        (bimodal, 9.52f64.sqrt()),
    ] {
        let (mean, deviation) = moments(&drawn(model));
        assert!((mean - 2.0).abs() < 0.03 * expected, "{model:?}: mean {mean}");
        assert!(
            (deviation / expected - 1.0).abs() < 0.06,
            "{model:?}: deviation {deviation}, not {expected}"
        );
    }
    let uniform = drawn(TrafficModel::UniformAround { mean, half_width: 0.25 });
    assert!(uniform.iter().flat_map(TrafficMatrix::pairs).all(|d| (1.5e9..=2.5e9).contains(&d)));
}

#[test]
fn gravity_follows_masses_and_sums_to_the_total() {
    // Products off the diagonal: 1·2, 1·3, 2·1, 2·3, 3·1, 3·2 = 22 in all.
    let matrix = gravity(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0], BitRate::bits_per_second(22.0)).unwrap();
    let expected = [0.0, 2.0, 3.0, 2.0, 0.0, 6.0, 3.0, 6.0, 0.0];
    for (got, expected) in matrix.as_slice().iter().zip(expected) {
        assert!((got - expected).abs() < 1e-12, "{matrix:?}");
    }
    let star = common::both_ways(4, &[(0, 1, 1., 4e9), (0, 2, 1., 2e9), (0, 3, 1., 2e9)]);
    let by = |mass| TrafficModel::Gravity { mass, total: gbps(1.0) }.matrix(&star, 1).unwrap();
    let (degree, capacity) = (by(NodeMass::Degree), by(NodeMass::Capacity));
    assert!((degree.total() - 1e9).abs() < 1.0 && (capacity.total() - 1e9).abs() < 1.0);
    let ratio = |m: &TrafficMatrix| m.demand(NodeIx(0), NodeIx(1)) / m.demand(NodeIx(0), NodeIx(2));
    assert!((ratio(&degree) - 1.0).abs() < 1e-12);
    assert!((ratio(&capacity) - 2.0).abs() < 1e-12);
    assert_eq!(gravity(&[0.0, 5.0], &[0.0, 5.0], gbps(1.0)).unwrap().total(), 0.0);
    assert_eq!(gravity(&[], &[], gbps(1.0)).unwrap().nodes(), 0);
    assert_eq!(gravity(&[1.0, f64::NAN], &[1.0, 1.0], gbps(1.0)).unwrap_err().code(), "te_parameter");
    assert_eq!(gravity(&[1.0, 1.0], &[1.0], gbps(1.0)).unwrap_err().code(), "te_parameter");
}

#[test]
fn equal_seeds_give_equal_traffic_and_others_do_not() {
    let network = ring(5, &LinkModel::default(), 0).unwrap();
    let model = TrafficModel::Gravity { mass: NodeMass::Random, total: gbps(1.0) };
    let matrices = model.matrices(&network, 3, 1).unwrap();
    assert_eq!(matrices[0], model.matrix(&network, 1).unwrap());
    assert_eq!(matrices, model.matrices(&network, 5, 1).unwrap()[..3]);
    assert_ne!(matrices[0], matrices[1]);
    assert_ne!(matrices[0], model.matrix(&network, 2).unwrap());
    let config = BackboneConfig::default();
    assert_eq!(backbone(&config, 3).unwrap(), backbone(&config, 3).unwrap());
    assert_ne!(backbone(&config, 3).unwrap(), backbone(&config, 4).unwrap());
}

#[test]
fn parameters_out_of_range_are_refused_with_their_value() {
    let network = ring(3, &LinkModel::default(), 0).unwrap();
    for model in [
        TrafficModel::Uniform { low: gbps(2.0), high: gbps(1.0) },
        TrafficModel::UniformAround { mean: gbps(1.0), half_width: 1.5 },
        TrafficModel::Bimodal { small: gbps(1.0), large: gbps(2.0), large_share: f64::NAN, deviation: 0.1 },
        TrafficModel::Bimodal { small: gbps(1.0), large: gbps(2.0), large_share: 0.5, deviation: -0.1 },
        TrafficModel::Lognormal { mean: gbps(1.0), sigma: f64::INFINITY },
    ] {
        assert_eq!(model.matrix(&network, 0).unwrap_err().code(), "te_parameter", "{model:?}");
    }
    let error = ring(2, &LinkModel::default(), 0).unwrap_err();
    assert_eq!(error.to_string(), "number of nodes is 2; it must be at least 3");
    let none = LinkModel { capacities: Vec::new(), ..LinkModel::default() };
    assert_eq!(ring(3, &none, 0).unwrap_err().code(), "te_parameter");
    let zero = LinkModel { capacities: vec![BitRate::ZERO], ..LinkModel::default() };
    assert_eq!(ring(3, &zero, 0).unwrap_err().code(), "network_link_value");
}

#[test]
fn a_network_too_large_is_refused_before_memory_is_asked_for() {
    let model = LinkModel::default();
    let trillion = 1_000_000_000_000;
    let of_waxman = WaxmanConfig { nodes: trillion, ..WaxmanConfig::default() };
    let of_backbone = BackboneConfig { nodes: trillion, ..BackboneConfig::default() };
    for too_large in [
        ring(trillion, &model, 0),
        grid(trillion, 1, &model, 0),
        full_mesh(trillion, &model, 0),
        waxman(&of_waxman, 0),
        backbone(&of_backbone, 0),
    ] {
        assert_eq!(too_large.unwrap_err().to_string(), "1000000000000 nodes, limit 65536");
    }
    for result in [full_mesh(usize::MAX, &model, 0), grid(usize::MAX, 2, &model, 0)] {
        assert_eq!(result.unwrap_err().code(), "network_too_large");
    }
    let mesh = full_mesh(65_536, &model, 0).unwrap_err();
    assert_eq!(mesh.to_string(), "4294901760 links, limit 16777216");
    assert_eq!(full_mesh(4097, &model, 0).unwrap_err().code(), "network_too_large");
    // Nearly all of 2¹⁵ · (2¹⁵ − 1) / 2 edges would be drawn.
    let dense = WaxmanConfig { nodes: 1 << 15, alpha: 1.0, beta: 1e9, ..WaxmanConfig::default() };
    assert_eq!(waxman(&dense, 0).unwrap_err().code(), "network_too_large");
}

#[test]
fn scaling_reaches_the_target_for_each_for_the_fullest_and_for_the_mean() {
    let network = ring(6, &LinkModel::default(), 1).unwrap();
    let matrices = TrafficModel::Exponential { mean: gbps(1.0) }.matrices(&network, 4, 2).unwrap();
    let utilization = |m: &TrafficMatrix| network.max_utilization(&ecmp_loads(&network, m).unwrap());
    let scale = |over| scaled_to(&matrices, 0.8, over, |m| Ok::<_, TeError>(utilization(m))).unwrap();
    let all = |over| scale(over).iter().map(utilization).collect::<Vec<_>>();
    assert!(all(Over::Each).iter().all(|u| (u - 0.8).abs() < 1e-12));
    assert!((all(Over::Max).iter().copied().fold(0.0, f64::max) - 0.8).abs() < 1e-12);
    assert!((all(Over::Mean).iter().sum::<f64>() / 4.0 - 0.8).abs() < 1e-12);
    // One factor keeps the proportions between matrices.
    let ratio = |m: &[TrafficMatrix]| m[0].total() / m[1].total();
    assert!((ratio(&scale(Over::Max)) / ratio(&matrices) - 1.0).abs() < 1e-12);
    let none = scaled_to(&[TrafficMatrix::zero(6)], 0.8, Over::Each, |m| Ok::<_, TeError>(utilization(m)));
    assert_eq!(none, Err(TeError::NoLoad { target: 0.8 }));
}

#[test]
fn without_noise_and_bursts_traffic_is_the_sine_of_the_day_and_the_weekend_is_quieter() {
    let mean = common::demands(2, &[(0, 1, 100.0), (1, 0, 50.0)]);
    let config = DiurnalConfig {
        interval_seconds: 3600.0,
        daily_amplitude: 0.5,
        weekend_factor: 0.6,
        phase_spread: 0.0,
        noise_sigma: 0.0,
        burst_probability: 0.0,
        ..DiurnalConfig::default()
    };
    let week: Vec<f64> =
        Diurnal::new(mean, config, 1).unwrap().take(7 * 24).map(|m| m.demand(NodeIx(0), NodeIx(1))).collect();
    assert!(
        (week[0] - 100.0).abs() < 1e-9 && (week[6] - 150.0).abs() < 1e-9 && (week[18] - 50.0).abs() < 1e-9
    );
    assert!((week[5 * 24 + 6] - 90.0).abs() < 1e-9);
    assert!((week[..24].iter().sum::<f64>() / 24.0 - 100.0).abs() < 1e-9);
}

#[test]
fn nodes_farther_west_are_busy_later() {
    let mut network = common::both_ways(2, &[(0, 1, 1., 1.)]);
    let nodes = [0.0, -90.0].map(|longitude| traflux_core::Node {
        name: format!("at {longitude}"),
        position: Some([longitude, 0.0]),
    });
    network = Network::new(nodes.to_vec(), network.links().to_vec()).unwrap();
    let config = DiurnalConfig {
        interval_seconds: 6.0 * 3600.0,
        noise_sigma: 0.0,
        burst_probability: 0.0,
        ..DiurnalConfig::default()
    };
    let mean = common::demands(2, &[(0, 1, 1.0)]);
    let day: Vec<f64> =
        Diurnal::new(mean, config, 1).unwrap().with_time_zones(&network).take(4).map(|m| m.total()).collect();
    // Half of sin at 0, 6, 12, 18 h = 0, 1, 0, −1 and half of it six hours later = −1, 0, 1, 0, times 0.5.
    for (got, expected) in day.iter().zip([0.75, 1.25, 1.25, 0.75]) {
        assert!((got - expected).abs() < 1e-9, "{day:?}");
    }
}

#[test]
fn noise_has_mean_one_its_deviation_and_its_correlation() {
    let mean = common::demands(2, &[(0, 1, 1.0), (1, 0, 1.0)]);
    let config = DiurnalConfig {
        daily_amplitude: 0.0,
        weekend_factor: 1.0,
        noise_sigma: 0.3,
        noise_correlation: 0.8,
        burst_probability: 0.0,
        ..DiurnalConfig::default()
    };
    let steps = 40_000;
    let series: Vec<f64> =
        Diurnal::new(mean, config, 3).unwrap().take(steps).map(|m| m.demand(NodeIx(0), NodeIx(1))).collect();
    let average = series.iter().sum::<f64>() / steps as f64;
    // The standard error is 0.3 · √(1.8 / 0.2) / √40,000 = 0.0045.
    assert!((average - 1.0).abs() < 0.02, "mean {average}");
    let logs: Vec<f64> = series.iter().map(|v| v.ln() + 0.045).collect();
    let variance = logs.iter().map(|v| v * v).sum::<f64>() / steps as f64;
    let lagged = logs.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / steps as f64;
    assert!((variance.sqrt() - 0.3).abs() < 0.01, "deviation {}", variance.sqrt());
    assert!((lagged / variance - 0.8).abs() < 0.02, "correlation {}", lagged / variance);
}

#[test]
fn bursts_last_as_long_and_come_as_often_as_configured() {
    let mean = common::demands(2, &[(0, 1, 1.0)]);
    let config = DiurnalConfig {
        daily_amplitude: 0.0,
        weekend_factor: 1.0,
        noise_sigma: 0.0,
        burst_probability: 0.02,
        burst_factor: 4.0,
        burst_steps: 5.0,
        ..DiurnalConfig::default()
    };
    let series: Vec<f64> = Diurnal::new(mean, config, 3).unwrap().take(50_000).map(|m| m.total()).collect();
    assert!(series.iter().all(|v| *v == 1.0 || *v == 4.0));
    let bursting = series.iter().filter(|v| **v == 4.0).count() as f64;
    let begun = series.windows(2).filter(|w| w[0] == 1.0 && w[1] == 4.0).count() as f64;
    assert!((bursting / begun - 5.0).abs() < 0.5, "{}", bursting / begun);
    // In equilibrium 0.02 / (0.02 + 0.2) of the time.
    assert!((bursting / 50_000.0 - 1.0 / 11.0).abs() < 0.01);
}

#[test]
fn a_diurnal_parameter_out_of_range_is_refused() {
    for config in [
        DiurnalConfig { interval_seconds: 0.0, ..DiurnalConfig::default() },
        DiurnalConfig { noise_correlation: 1.0, ..DiurnalConfig::default() },
        DiurnalConfig { burst_steps: 0.5, ..DiurnalConfig::default() },
        DiurnalConfig { daily_amplitude: f64::NAN, ..DiurnalConfig::default() },
    ] {
        assert!(Diurnal::new(TrafficMatrix::zero(2), config, 0).is_err(), "{config:?}");
    }
}

#[test]
fn regular_networks_have_the_links_that_their_names_say() {
    let count = |network: Network| (network.nodes().len(), network.links().len());
    let links = LinkModel::default();
    assert_eq!(count(ring(7, &links, 0).unwrap()), (7, 14));
    assert_eq!(count(grid(3, 4, &links, 0).unwrap()), (12, 2 * (3 * 3 + 2 * 4)));
    assert_eq!(count(grid(1, 5, &links, 0).unwrap()), (5, 8));
    assert_eq!(count(full_mesh(6, &links, 0).unwrap()), (6, 30));
    // Five nodes in a row are 1000 km apart, which light in fibre covers in 5 ms.
    let delay = grid(1, 5, &links, 0).unwrap().links()[0].delay;
    assert!((delay.as_millis() - 5.0).abs() < 1e-9);
}

#[test]
fn weights_follow_their_rule_and_twins_are_alike() {
    let with =
        |weight| LinkModel { capacities: vec![gbps(10.0), gbps(40.0)], weight, ..LinkModel::default() };
    let config = |weight| BackboneConfig { links: with(weight), ..BackboneConfig::default() };
    for link in backbone(&config(WeightRule::InverseCapacity), 5).unwrap().links() {
        assert_eq!(link.weight, 40e9 / link.capacity.get());
    }
    let network = backbone(&config(WeightRule::Distance), 5).unwrap();
    for twins in network.links().chunks(2) {
        assert_eq!((twins[0].tail, twins[0].head), (twins[1].head, twins[1].tail));
        assert_eq!((twins[0].capacity, twins[0].weight), (twins[1].capacity, twins[1].weight));
        assert!((twins[0].delay.as_secs() * 200_000.0 - twins[0].weight).abs() < 1e-6);
    }
    let capacities: Vec<f64> = network.links().iter().map(|l| l.capacity.get()).collect();
    assert!(capacities.contains(&10e9) && capacities.contains(&40e9));
}

#[test]
fn a_backbone_has_the_mean_degree_asked_for() {
    for nodes in [10, 40, 100] {
        let config = BackboneConfig { nodes, mean_degree: 3.2, ..BackboneConfig::default() };
        let links = backbone(&config, 9).unwrap().links().len();
        assert_eq!(links, 2 * (1.6 * nodes as f64).round() as usize);
    }
    let tree = BackboneConfig { mean_degree: 0.0, survivable: false, ..BackboneConfig::default() };
    assert_eq!(backbone(&tree, 9).unwrap().links().len(), 2 * 19);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_networks_are_connected_and_survive_any_link_where_asked(
        nodes in 3usize..40, seed: u64, survivable: bool, sparse: bool,
    ) {
        let alpha = if sparse { 0.05 } else { 0.6 };
        let of_waxman = WaxmanConfig { nodes, alpha, survivable, ..WaxmanConfig::default() };
        let mean_degree = if sparse { 0.0 } else { 3.0 };
        let of_backbone = BackboneConfig { nodes, mean_degree, survivable, ..BackboneConfig::default() };
        for network in [waxman(&of_waxman, seed).unwrap(), backbone(&of_backbone, seed).unwrap()] {
            let everybody = gravity(&vec![1.0; nodes], &vec![1.0; nodes], gbps(1.0)).unwrap();
            prop_assert!(ecmp_loads(&network, &everybody).is_ok());
            if survivable {
                for failure in link_failures(&network, Cut::BothDirections) {
                    prop_assert!(failure.unreachable.is_empty(), "{} is a bridge", failure.name);
                }
            }
            let ends: std::collections::BTreeSet<_> =
                network.links().iter().map(|l| (l.tail, l.head)).collect();
            prop_assert_eq!(ends.len(), network.links().len(), "no link is drawn twice");
        }
    }
}
