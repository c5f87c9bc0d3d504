//! Capacity, attribution and curves against a fluid fleet whose truth is known.

use super::fluid::{Cadence, Endpoint, FAST, Fleet, PROMETHEUS};
use crate::estimate::{Attribution, Estimate, Health};

const CADENCES: [Cadence; 2] = [PROMETHEUS, FAST];

/// Runs a warm fleet into a state and gives the estimates afterwards.
fn after(
    fleet: &mut Fleet,
    load: f64,
    warm: f64,
    change: impl FnOnce(&mut Fleet),
    seconds: f64,
) -> Vec<(f64, Estimate)> {
    let demand = load * fleet.nominal();
    fleet.run(warm, |_| demand, |_, _| {});
    change(fleet);
    fleet.run(seconds, |_| demand, |_, _| {})
}

fn ratio(estimate: &Estimate, fleet: &Fleet, ix: usize) -> f64 {
    estimate.resources[ix].capacity.get() / fleet.endpoints[ix].nominal()
}

#[test]
fn a_steady_fleet_keeps_its_nominal_capacities() {
    for cadence in CADENCES {
        for load in [0.05, 0.3, 0.6, 0.8] {
            let mut fleet = Fleet::eight(cadence, 7);
            let demand = load * fleet.nominal();
            for (time, estimate) in fleet.run(900.0, |_| demand, |_, _| {}) {
                for ix in 0..8 {
                    let capacity = ratio(&estimate, &fleet, ix);
                    assert!((0.97..=1.05).contains(&capacity), "{load} {time}: endpoint {ix} at {capacity}");
                    assert_eq!(estimate.resources[ix].attribution, Attribution::Normal, "{load} {time} {ix}");
                    assert_ne!(estimate.resources[ix].health, Health::Degraded);
                }
            }
        }
    }
}

#[test]
fn a_flash_crowd_lowers_no_capacity_and_is_called_a_surge() {
    for cadence in CADENCES {
        // Shares by capacity, and shares packed on the near endpoints, which then overload by a half.
        for packed in [false, true] {
            let mut fleet = Fleet::eight(cadence, 11);
            if packed {
                fleet.shares = vec![0.041, 0.081, 0.162, 0.162, 0.32, 0.08, 0.1, 0.054];
                let sum: f64 = fleet.shares.iter().sum();
                fleet.shares.iter_mut().for_each(|s| *s /= sum);
            }
            let base = 0.4 * fleet.nominal();
            let demand = |t: f64| base * (1.0 + 1.25 * ((t - 300.0) / 30.0).clamp(0.0, 1.0));
            let mut surges = 0;
            for (time, estimate) in fleet.run(900.0, demand, |_, _| {}) {
                for ix in 0..8 {
                    let capacity = ratio(&estimate, &fleet, ix);
                    assert!(capacity >= 0.9, "packed {packed}, {time}: endpoint {ix} at {capacity}");
                    assert_ne!(estimate.resources[ix].attribution, Attribution::CapacityLoss, "{time} {ix}");
                    surges += u32::from(estimate.resources[ix].attribution == Attribution::LoadSurge);
                }
            }
            assert!(surges > 0, "packed {packed}: never called a surge");
        }
    }
}

#[test]
fn a_hidden_loss_of_half_the_capacity_is_found_within_four_windows() {
    for cadence in CADENCES {
        for (present, slow) in [(0.5, 1.0), (1.0, 2.0)] {
            for lost in [&[2usize][..], &[3, 6][..]] {
                let mut fleet = Fleet::eight(cadence, 3);
                let estimates = after(
                    &mut fleet,
                    0.6,
                    300.0,
                    |fleet| {
                        for ix in lost {
                            fleet.endpoints[*ix].present = present;
                            fleet.endpoints[*ix].slow = slow;
                        }
                    },
                    4.0 * cadence.window + cadence.scrape,
                );
                let (time, last) = estimates.last().unwrap();
                for ix in 0..8 {
                    let capacity = ratio(last, &fleet, ix);
                    let truth = fleet.endpoints[ix].capacity() / fleet.endpoints[ix].nominal();
                    assert!(
                        (capacity / truth - 1.0).abs() <= 0.15,
                        "{cadence:?} {present}/{slow} at {time}: endpoint {ix} {capacity}, truth {truth}"
                    );
                    let expected =
                        if lost.contains(&ix) { Attribution::CapacityLoss } else { Attribution::Normal };
                    assert_eq!(last.resources[ix].attribution, expected, "endpoint {ix}");
                    assert!(last.resources[ix].capacity_lower <= last.resources[ix].capacity);
                }
            }
        }
    }
}

#[test]
fn a_brown_out_is_found_at_any_load() {
    for cadence in CADENCES {
        for load in [0.03, 0.2, 0.6] {
            for slow in [3.0, 10.0] {
                let mut fleet = Fleet::eight(cadence, 5);
                let estimates = after(
                    &mut fleet,
                    load,
                    300.0,
                    |fleet| fleet.endpoints[1].slow = slow,
                    4.0 * cadence.window + cadence.scrape,
                );
                let last = &estimates.last().unwrap().1;
                let capacity = ratio(last, &fleet, 1) * slow;
                assert!((capacity - 1.0).abs() <= 0.15, "{cadence:?} {load} ×{slow}: {capacity}");
                let curve = last.resources[1].curve.service_time().as_secs() / 0.02;
                assert!((curve / slow - 1.0).abs() < 0.2, "{load} ×{slow}: curve ×{curve}");
                for ix in [0, 2, 3, 4, 5, 6, 7] {
                    assert!(ratio(last, &fleet, ix) >= 0.95, "innocent {ix} at {}", ratio(last, &fleet, ix));
                }
                if slow >= 10.0 {
                    assert!(
                        !last.resources[1].health.may_receive(),
                        "{load}: {:?}",
                        last.resources[1].health
                    );
                }
            }
        }
    }
}

#[test]
fn a_capacity_that_returns_is_believed_within_three_minutes() {
    for cadence in CADENCES {
        for (present, slow) in [(0.5, 1.0), (1.0, 3.0), (1.0, 10.0)] {
            let mut fleet = Fleet::eight(cadence, 9);
            after(
                &mut fleet,
                0.6,
                300.0,
                |fleet| (fleet.endpoints[2].present, fleet.endpoints[2].slow) = (present, slow),
                600.0,
            );
            (fleet.endpoints[2].present, fleet.endpoints[2].slow) = (1.0, 1.0);
            let demand = 0.6 * fleet.nominal();
            let estimates = fleet.run(180.0, |_| demand, |_, _| {});
            let last = &estimates.last().unwrap().1;
            assert!(
                ratio(last, &fleet, 2) >= 0.9,
                "{cadence:?} {present}/{slow}: {}",
                ratio(last, &fleet, 2)
            );
            assert_eq!(last.resources[2].health, Health::Healthy);
            assert_eq!(last.resources[2].attribution, Attribution::Normal);
        }
    }
}

/// Shares follow `capacity_lower` (a hundredth of it where degraded), at most 15 % of the way per tick of 5 s.
fn follow(fleet: &mut Fleet, estimate: &Estimate) {
    let wish: Vec<f64> = estimate
        .resources
        .iter()
        .map(|r| r.capacity_lower.get() * if r.health.may_receive() { 1.0 } else { 0.01 })
        .collect();
    let total: f64 = wish.iter().sum();
    for (share, wish) in fleet.shares.iter_mut().zip(&wish) {
        *share += 0.15 * (wish / total - *share);
    }
}

#[test]
fn a_controller_that_follows_the_estimates_neither_starves_nor_swings() {
    for cadence in [PROMETHEUS, Cadence { tick: 5.0, ..FAST }] {
        for (present, slow) in [(0.5, 1.0), (1.0, 2.0), (0.3, 1.0), (1.0, 10.0)] {
            let mut fleet = Fleet::eight(cadence, 21);
            let demand = 0.6 * fleet.nominal();
            fleet.run(300.0, |_| demand, follow);
            (fleet.endpoints[3].present, fleet.endpoints[3].slow) = (present, slow);
            (fleet.endpoints[6].present, fleet.endpoints[6].slow) = (present, slow);
            fleet.run(300.0, |_| demand, follow);
            let mut overload = [0.0; 8];
            let settled = fleet.run(
                600.0,
                |_| demand,
                |fleet, estimate| {
                    follow(fleet, estimate);
                    for (ix, sum) in overload.iter_mut().enumerate() {
                        *sum += (demand * fleet.shares[ix] / fleet.endpoints[ix].capacity() - 1.0).max(0.0)
                            / 120.0;
                    }
                },
            );
            // One probe that fails costs some overload; nobody may live in it.
            assert!(overload.iter().all(|sum| *sum < 0.2), "{present}/{slow}: mean overload {overload:.2?}");
            for ix in [3, 6] {
                let truth = fleet.endpoints[ix].capacity() / fleet.endpoints[ix].nominal();
                let mean =
                    settled.iter().map(|(_, e)| ratio(e, &fleet, ix)).sum::<f64>() / settled.len() as f64;
                assert!(
                    mean / truth > 0.7 && mean / truth < 1.7,
                    "{present}/{slow} endpoint {ix}: {mean} of {truth}"
                );
            }
            for ix in [0, 1, 2, 4, 5, 7] {
                let least = settled.iter().map(|(_, e)| ratio(e, &fleet, ix)).fold(f64::INFINITY, f64::min);
                assert!(least >= 0.9, "{present}/{slow}: innocent endpoint {ix} at {least}");
            }
            for ix in [3, 6] {
                (fleet.endpoints[ix].present, fleet.endpoints[ix].slow) = (1.0, 1.0);
            }
            let recovered = fleet.run(360.0, |_| demand, follow);
            for ix in [3, 6] {
                let last = ratio(&recovered.last().unwrap().1, &fleet, ix);
                // A slow service shows its recovery at any load; after a saturation only probing does.
                let least = if slow > 1.0 { 0.9 } else { 0.75 };
                assert!(last >= least, "{cadence:?} {present}/{slow}: endpoint {ix} back at {last}");
            }
        }
    }
}

#[test]
fn a_flash_crowd_under_a_following_controller_lowers_no_capacity() {
    for cadence in [PROMETHEUS, Cadence { tick: 5.0, ..FAST }] {
        let mut fleet = Fleet::eight(cadence, 4);
        let base = 0.4 * fleet.nominal();
        let demand = |t: f64| base * (1.0 + 1.25 * ((t - 300.0) / 30.0).clamp(0.0, 1.0));
        for (time, estimate) in fleet.run(900.0, demand, follow) {
            for ix in 0..8 {
                assert!(ratio(&estimate, &fleet, ix) >= 0.9, "{time}: endpoint {ix}");
            }
        }
    }
}

#[test]
fn an_endpoint_that_only_times_out_loses_its_capacity() {
    for cadence in CADENCES {
        let mut fleet = Fleet::eight(cadence, 2);
        let estimates =
            after(&mut fleet, 0.4, 200.0, |fleet| fleet.endpoints[4].slow = 200.0, 3.0 * cadence.window);
        let last = &estimates.last().unwrap().1;
        assert!(ratio(last, &fleet, 4) < 0.1, "{}", ratio(last, &fleet, 4));
        assert_eq!(last.resources[4].health, Health::Unhealthy);
    }
}

#[test]
fn a_wrong_service_time_in_the_configuration_is_corrected_not_punished() {
    for cadence in CADENCES {
        let mut fleet = Fleet::eight(cadence, 8);
        // The truth is 1.6 times what the topology says, with the capacity it says.
        fleet.endpoints[2] = Endpoint::new(16.0 * 1.6, 0.02 * 1.6, 0.02);
        let demand = 0.4 * fleet.nominal();
        let estimates = fleet.run(400.0, |_| demand, |_, _| {});
        let last = &estimates.last().unwrap().1.resources[2];
        assert_eq!(last.attribution, Attribution::Normal);
        assert!((last.curve.service_time().as_millis() - 32.0).abs() < 3.0, "{:?}", last.curve);
        assert!(last.capacity.get() >= 0.95 * 800.0);
    }
}

#[test]
fn an_endpoint_that_serves_more_than_configured_is_trusted_with_more() {
    let mut fleet = Fleet::eight(PROMETHEUS, 6);
    fleet.endpoints[2] = Endpoint::new(32.0, 0.02, 0.02);
    fleet.shares = vec![0.02, 0.04, 0.3, 0.1, 0.15, 0.04, 0.3, 0.05];
    let demand = 800.0 / 0.3;
    let estimates = fleet.run(400.0, |_| demand, |_, _| {});
    let last = &estimates.last().unwrap().1.resources[2];
    assert!(last.capacity.get() > 900.0, "{}", last.capacity);
}

#[test]
fn no_ordinary_load_costs_an_endpoint_its_capacity() {
    let bursts = |t: f64| if (t as u64 / 20 * 7919).is_multiple_of(4) { 0.88 } else { 0.24 };
    let diurnal = |t: f64| 0.57 - 0.27 * (t / 143.0).cos();
    let ramp = |t: f64| 0.3 * (1.0 + (t / 300.0).min(2.0));
    let jump = |t: f64| if t < 300.0 { 0.2 } else { 0.8 };
    let crowd = |t: f64| {
        0.5 * (1.0 + 1.25 * (((t - 300.0) / 30.0).clamp(0.0, 1.0) - ((t - 600.0) / 30.0).clamp(0.0, 1.0)))
    };
    let loads: [(&str, &dyn Fn(f64) -> f64); 5] =
        [("bursts", &bursts), ("diurnal", &diurnal), ("ramp", &ramp), ("jump", &jump), ("crowd", &crowd)];
    for cadence in CADENCES {
        for (name, load) in loads {
            let mut fleet = Fleet::eight(cadence, 17);
            let nominal = fleet.nominal();
            for (time, estimate) in fleet.run(1000.0, |t| load(t) * nominal, |_, _| {}) {
                for ix in 0..8 {
                    let resource = &estimate.resources[ix];
                    assert!(ratio(&estimate, &fleet, ix) >= 0.95, "{name} {time}: endpoint {ix}");
                    assert_ne!(
                        resource.attribution,
                        Attribution::CapacityLoss,
                        "{name} {time}: endpoint {ix}"
                    );
                    assert!(resource.health.may_receive(), "{name} {time}: endpoint {ix}");
                }
            }
        }
    }
}
