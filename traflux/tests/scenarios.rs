//! What the loop is worth on the demonstration scenario, against the arms whose weights are fixed.
#![allow(clippy::unwrap_used)]

use traflux::lab::{ArmKind, compare};
use traflux::sim::Scenario;

/// Three seeds; `traflux evaluate --seeds 10 --strict` plays the ten of the claim.
#[test]
fn the_demo_scenario_is_faster_and_no_dearer_than_fixed_weights_in_every_window() {
    let scenario = Scenario::built_in("demo").unwrap();
    let arms = [ArmKind::RoundRobin, ArmKind::StaticCapacity, ArmKind::StaticCostAware, ArmKind::Traflux];
    let comparison = compare(&scenario, &[1, 2, 3], &arms, &|_| {}).unwrap();
    let claims = comparison.claims(ArmKind::Traflux);
    for claim in &claims {
        println!("{} {}: {}", if claim.holds { "ok" } else { "MISSED" }, claim.text, claim.numbers);
    }
    // Two numbers against three arms, the bill, and one line for each event.
    assert!(claims.len() >= 11, "{} claims", claims.len());
    assert!(claims.iter().all(|claim| claim.holds));
}

#[test]
fn a_random_actor_behind_the_guard_is_not_worse_than_static_weights() {
    let scenario = Scenario::built_in("brownout").unwrap();
    let arms = [ArmKind::StaticCapacity, ArmKind::RandomActor];
    let comparison = compare(&scenario, &[1, 2], &arms, &|_| {}).unwrap();
    let mean = |kind| comparison.arm(kind).unwrap().mean_of(|o| o.mean.as_millis());
    let (fixed, random) = (mean(ArmKind::StaticCapacity), mean(ArmKind::RandomActor));
    assert!(random <= 1.1 * fixed, "random actor {random} ms, static {fixed} ms");
}
