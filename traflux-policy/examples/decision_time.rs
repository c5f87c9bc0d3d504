//! How long does a decision take? Prints the median and 99th percentile by fleet size.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use ndarray::{Array1, Array2};
use traflux_core::{Observation, Policy, PolicyError, StateEncoder};
use traflux_policy::{
    ActionSpace, FleetEncoder, LearnedPolicy, Mode, NetworkShape, Parameters, SharedParameters,
};

fn main() -> Result<(), PolicyError> {
    let space = FleetEncoder::default().space();
    let (features, context) = (space.group_features.len(), space.context_features.len());
    for hidden in [32, 64] {
        let shape =
            NetworkShape { group_features: features, context_features: context, hidden, identities: 0 };
        println!("hidden {hidden}: {} parameters", shape.parameters());
        for groups in [8, 100, 1000, 10_000] {
            let observation = Observation {
                groups: Array2::from_shape_fn((groups, features), |(i, j)| ((i * 31 + j) as f32 * 0.7).sin()),
                context: Array1::from_elem(context, 0.5),
                mask: vec![true; groups],
            };
            let shared = SharedParameters::new(Parameters::seeded(shape, 1));
            let space_of_actions = ActionSpace { critical: 10, ..ActionSpace::default() };
            let mut policy =
                LearnedPolicy::new(shared, &space, space_of_actions, Mode::Exploring { seed: 1 })?;
            let runs = (200_000 / groups).clamp(50, 2000);
            let mut times = Vec::with_capacity(runs);
            for _ in 0..runs {
                let start = Instant::now();
                std::hint::black_box(policy.act(std::hint::black_box(&observation))?);
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            times.sort_by(f64::total_cmp);
            println!(
                "  {groups:>6} groups: median {:.1} µs, p99 {:.1} µs",
                times[runs / 2],
                times[runs * 99 / 100]
            );
        }
    }
    Ok(())
}
