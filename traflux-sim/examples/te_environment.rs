//! How does a network look to a learner that steps through an environment?
//!
//! ```text
//! cargo run --release -p traflux-sim --example te_environment
//! ```
//!
//! One day of traffic on a generated backbone, played by rules that learn nothing: what they earn in an episode, and
//! what of it they pay for the traffic they choose. Whoever brings a learner of their own replaces the policy.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;

use traflux_core::{BitRate, Environment, Policy};
use traflux_sim::te::{EnvironmentSettings, NetworkEnvironment, SelectionReward, TrafficSeries};
use traflux_te::generate::{BackboneConfig, Diurnal, DiurnalConfig, Over, TrafficModel, backbone, scaled_to};
use traflux_te::{
    EcmpOnly, GreedyRelief, SelectionEncoder, TeError, TopK, TopKCritical, ecmp, ecmp_loads, share_of_pairs,
};

const SEED: u64 = 1;
const MATRICES: usize = 288;

fn main() -> Result<(), Box<dyn Error>> {
    let network = backbone(&BackboneConfig { nodes: 12, ..BackboneConfig::default() }, SEED)?;
    let mean = TrafficModel::Lognormal { mean: BitRate::gigabits_per_second(1.0), sigma: 1.0 };
    let day = Diurnal::new(mean.matrix(&network, SEED)?, DiurnalConfig::default(), SEED)?;
    let drawn: Vec<_> = day.take(MATRICES).collect();
    let matrices = scaled_to(&drawn, 0.9, Over::Max, |demands| {
        Ok::<_, TeError>(network.max_utilization(&ecmp_loads(&network, demands)?))
    })?;
    let base = ecmp(&network)?;
    let count = share_of_pairs(&network, 0.1);
    let encoder = SelectionEncoder::new(&network, &base, count);
    let policies: [(&str, Box<dyn Policy>); 4] = [
        ("nothing chosen", Box::new(EcmpOnly)),
        ("top-k", Box::new(TopK::new(count))),
        ("top-k-critical", Box::new(TopKCritical::new(&network, &base, count))),
        ("greedy-relief", Box::new(GreedyRelief::new(&network, &base, count))),
    ];
    let series = Arc::new(TrafficSeries::new(network, base, matrices)?);
    let settings = EnvironmentSettings {
        matrices: 0..MATRICES,
        steps: MATRICES,
        reward: SelectionReward { disturbance_price: 0.05, ..SelectionReward::default() },
    };
    for (name, mut policy) in policies {
        let mut environment =
            NetworkEnvironment::new(Arc::clone(&series), encoder.clone(), settings.clone())?;
        let mut observation = environment.reset(SEED)?;
        let (mut earned, mut paid) = (0.0, 0.0);
        loop {
            let step = environment.step(&policy.act(&observation)?)?;
            earned += step.reward.total;
            let price = step.reward.terms.iter().filter(|(term, _)| term == "disturbance");
            paid -= price.map(|(_, value)| value).sum::<f64>();
            if step.truncated {
                break;
            }
            observation = step.observation;
        }
        let steps = MATRICES as f64;
        println!("{name:<16} {:.4} a step, {:.4} paid for what was chosen", earned / steps, paid / steps);
    }
    Ok(())
}
