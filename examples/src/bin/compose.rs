//! A controller of one's own: every stage is a value that can be replaced.
//!
//! `cargo run --release -p traflux-examples --no-default-features --bin compose`
#![allow(clippy::print_stdout)]

use futures_util::FutureExt as _;
use traflux::core::{FleetReward, Timestamp, TrafficPlan, estimator::FleetEstimator};
use traflux::policy::FleetEncoder;
use traflux::sim::{Scenario, SharedFleet};
use traflux::{ControlConfig, Controller, Fleet, Stages};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A simulated fleet is both ends of the loop here; beside Envoy these are
    // `traflux::prom::PrometheusSource` and `traflux::xds::XdsActuator`.
    let scenario = Scenario::built_in("brownout")?;
    let fleet = SharedFleet::new(traflux::sim::Fleet::new(&scenario, 1)?);
    let topology = scenario.topology()?;
    let stages = Stages {
        source: Box::new(fleet.clone()),
        estimator: Box::new(FleetEstimator::new(Default::default())),
        encoder: Box::new(FleetEncoder::default()),
        policy: None, // everything may move
        solver: traflux::lp::by_name("transport")?,
        actuator: Box::new(fleet.clone()),
        reward: Box::new(FleetReward::new(topology.clone(), Default::default())),
        recorder: None,
    };
    let services = TrafficPlan::services_of(&topology);
    let mut controller = Controller::new(Fleet::new(topology, services), stages, ControlConfig::default())?;
    for second in (5..scenario.duration_s as u64).step_by(5) {
        let now = Timestamp::from_secs_f64(second as f64);
        fleet.with(|fleet| fleet.advance(now));
        let decision = controller.tick(now).now_or_never().ok_or("the simulated fleet answers at once")?;
        if decision.pushed && decision.churn > 0.02 {
            println!(
                "{second:>5} s: moved {:.0} %; {}",
                decision.churn * 100.0,
                decision.explanation.join("; ")
            );
        }
    }
    Ok(())
}
