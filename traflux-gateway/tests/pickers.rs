//! One suite for every picker.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;
use traflux_core::Timestamp;
use traflux_gateway::{Candidate, Completion, GatewayError, PickerKind};

/// Draws `n` picks from an idle client whose requests all take the same time.
fn counts(kind: PickerKind, candidates: &[Candidate], seed: u64, n: usize) -> Vec<usize> {
    let mut picker = kind.build(seed);
    picker.configure(candidates);
    let idle = vec![0; candidates.len()];
    let mut counts = vec![0; candidates.len()];
    for step in 0..n {
        let now = Timestamp::new(Duration::from_millis(step as u64));
        if let Some(ix) = picker.pick(now, &idle) {
            counts[ix] += 1;
            picker.observe(now, ix, Duration::from_millis(20), Completion::Success);
        }
    }
    counts
}

#[test]
fn equal_seeds_give_equal_picks() {
    for kind in PickerKind::ALL {
        let run = |seed| {
            let mut picker = kind.build(seed);
            picker.configure(&[Candidate::weighted(2), Candidate::weighted(3), Candidate::weighted(5)]);
            (0..500u64)
                .map(|step| {
                    let now = Timestamp::new(Duration::from_millis(step));
                    let ix = picker.pick(now, &[(step % 3) as u32, 1, (step % 5) as u32]).unwrap();
                    picker.observe(now, ix, Duration::from_millis(step % 40), Completion::Success);
                    ix
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(run(9), run(9), "{kind}");
    }
}

#[test]
fn picks_are_spread_evenly_over_equal_endpoints() {
    let n = 40_000;
    for kind in PickerKind::ALL {
        let candidates = [Candidate::weighted(7); 5];
        for count in counts(kind, &candidates, 5, n) {
            let p = 0.2;
            let sigma = (n as f64 * p * (1.0 - p)).sqrt();
            assert!((count as f64 - n as f64 * p).abs() <= 4.0 * sigma, "{kind}: {count}");
        }
    }
}

#[test]
fn weighted_pickers_follow_their_weights_within_binomial_bounds() {
    let n = 40_000;
    let weights = [1u32, 9, 40, 50];
    let candidates = weights.map(Candidate::weighted);
    for kind in [PickerKind::SmoothWeighted, PickerKind::WeightedRandom] {
        for (count, weight) in counts(kind, &candidates, 11, n).into_iter().zip(weights) {
            let p = f64::from(weight) / 100.0;
            let sigma = (n as f64 * p * (1.0 - p)).sqrt();
            assert!((count as f64 - n as f64 * p).abs() <= 4.0 * sigma, "{kind}: {count} of weight {weight}");
        }
    }
}

#[test]
fn smooth_weights_are_exact_to_one_pick_per_round() {
    let weights = [1u32, 9, 40, 50];
    let counts = counts(PickerKind::SmoothWeighted, &weights.map(Candidate::weighted), 3, 1000);
    for (count, weight) in counts.into_iter().zip(weights) {
        assert!(count.abs_diff(weight as usize * 10) <= 1, "{count} picks of weight {weight}");
    }
}

#[test]
fn weights_that_change_every_few_picks_are_still_followed() {
    // Restarting the schedule at each change would starve the small weight.
    let mut picker = PickerKind::SmoothWeighted.build(3);
    let mut small = 0;
    for round in 0..4000u32 {
        picker.configure(&[Candidate::weighted(1000), Candidate::weighted(50 + round % 2)]);
        for _ in 0..5 {
            small += u32::from(picker.pick(Timestamp::ZERO, &[0, 0]) == Some(1));
        }
    }
    let expected = 20_000.0 * 50.5 / 1050.5;
    assert!((f64::from(small) - expected).abs() < 0.03 * expected, "{small}, expected {expected}");
}

#[test]
fn nothing_is_picked_where_nothing_is_open() {
    for kind in PickerKind::ALL {
        let mut picker = kind.build(1);
        assert_eq!(picker.pick(Timestamp::ZERO, &[]), None, "{kind}");
        for candidates in
            [vec![], vec![Candidate::weighted(0)], vec![Candidate { weight: 1, eligible: false }; 3]]
        {
            picker.configure(&candidates);
            assert_eq!(picker.pick(Timestamp::ZERO, &[0; 3]), None, "{kind}");
        }
    }
}

#[test]
fn a_single_endpoint_gets_everything() {
    for kind in PickerKind::ALL {
        assert_eq!(counts(kind, &[Candidate::weighted(3)], 2, 100), [100], "{kind}");
    }
}

#[test]
fn load_aware_pickers_avoid_a_busy_endpoint() {
    for kind in [PickerKind::LeastRequest, PickerKind::PeakEwma, PickerKind::Adaptive] {
        let mut picker = kind.build(4);
        picker.configure(&[Candidate::weighted(1); 3]);
        let busy = (0..1000).filter(|_| picker.pick(Timestamp::ZERO, &[50, 1, 1]) == Some(0)).count();
        assert_eq!(busy, 0, "{kind}");
    }
}

#[test]
fn least_request_counts_requests_in_flight_per_weight() {
    let mut picker = PickerKind::LeastRequest.build(4);
    picker.configure(&[Candidate::weighted(10), Candidate::weighted(1)]);
    let large = (0..1000).filter(|_| picker.pick(Timestamp::ZERO, &[5, 1]) == Some(0)).count();
    assert!(large > 990, "{large}: 6/10 is less busy than 2/1");
}

#[test]
fn an_unknown_picker_is_named_in_the_error() {
    let error = "fastest".parse::<PickerKind>().unwrap_err();
    assert!(matches!(&error, GatewayError::UnknownPicker { name, .. } if name == "fastest"));
    assert_eq!(error.code(), "gateway_unknown_picker");
    assert!(!error.is_transient());
    for kind in PickerKind::ALL {
        assert_eq!(kind.name().parse::<PickerKind>(), Ok(kind));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_ineligible_endpoint_is_never_picked(
        rounds in prop::collection::vec(prop::collection::vec((0u32..5, any::<bool>()), 1..9), 1..6),
        seed in any::<u64>(),
    ) {
        for kind in PickerKind::ALL {
            let mut picker = kind.build(seed);
            for round in &rounds {
                let candidates: Vec<_> =
                    round.iter().map(|(weight, eligible)| Candidate { weight: *weight, eligible: *eligible }).collect();
                picker.configure(&candidates);
                let in_flight: Vec<u32> = round.iter().map(|(weight, _)| weight * 3).collect();
                for step in 0..40 {
                    match picker.pick(Timestamp::new(Duration::from_millis(step)), &in_flight) {
                        Some(ix) => prop_assert!(candidates[ix].is_open()),
                        None => prop_assert!(!candidates.iter().any(|c| c.is_open())),
                    }
                }
            }
        }
    }
}
