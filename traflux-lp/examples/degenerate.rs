//! How long does the exact engine take where many flows are equally good?
//!
//! `cargo run --release -p traflux-lp --example degenerate -- [part of a name] [seconds]`: networks of 50 to 100
//! nodes with few distinct capacities, all pairs with demands that are equal or products of few numbers.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use traflux_core::{BitRate, Network, TrafficMatrix};
use traflux_lp::multicommodity::{FlowProblem, MinMaxSolver};
use traflux_te::generate::{
    BackboneConfig, LinkModel, NodeMass, TrafficModel, WaxmanConfig, backbone, grid, ring, waxman,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let part = std::env::args().nth(1).unwrap_or_default();
    let seconds = std::env::args().nth(2).map_or(Ok(30), |text| text.parse())?;
    let one = LinkModel { capacities: vec![BitRate::gigabits_per_second(10.0)], ..LinkModel::default() };
    let two = LinkModel {
        capacities: vec![BitRate::gigabits_per_second(10.0), BitRate::gigabits_per_second(40.0)],
        ..LinkModel::default()
    };
    let mut networks: Vec<(String, Network)> = vec![
        ("ring 60".into(), ring(60, &one, 1)?),
        ("ring 100".into(), ring(100, &one, 1)?),
        ("grid 8 x 8".into(), grid(8, 8, &one, 1)?),
        ("grid 10 x 10".into(), grid(10, 10, &one, 1)?),
        ("grid 8 x 8, two capacities".into(), grid(8, 8, &two, 1)?),
    ];
    for (nodes, seed) in [(60, 1), (60, 2), (80, 3), (100, 4)] {
        for (name, links) in [("one capacity", &one), ("two capacities", &two)] {
            let config = BackboneConfig { nodes, links: links.clone(), ..BackboneConfig::default() };
            networks.push((format!("backbone {nodes}, {name}"), backbone(&config, seed)?));
        }
        let config = WaxmanConfig { nodes, links: one.clone(), ..WaxmanConfig::default() };
        networks.push((format!("Waxman {nodes}, one capacity"), waxman(&config, seed)?));
    }
    println!(
        "{:<44} {:>9} {:>8} {:>12} {:>9} {:>9}",
        "", "seconds", "pivots", "utilisation", "gap", "status"
    );
    for (name, network) in &networks {
        let total = BitRate::gigabits_per_second(100.0);
        let rate = BitRate::gigabits_per_second(0.02);
        let models = [
            ("equal", TrafficModel::UniformAround { mean: rate, half_width: 0.0 }),
            ("degree", TrafficModel::Gravity { mass: NodeMass::Degree, total }),
            ("capacity", TrafficModel::Gravity { mass: NodeMass::Capacity, total }),
        ];
        for (model, traffic) in models {
            let title = format!("{name}, {model}");
            if title.contains(&part) {
                let demands: TrafficMatrix = traffic.matrix(network, 1)?;
                let start = Instant::now();
                let deadline = start + Duration::from_secs(seconds);
                let problem = FlowProblem::all(network, &demands)?;
                let solution = MinMaxSolver::new(network).solve(&problem, Some(deadline))?;
                println!(
                    "{title:<44} {:>9.3} {:>8} {:>12.6} {:>9.1e} {:>9}",
                    start.elapsed().as_secs_f64(),
                    solution.iterations,
                    solution.utilization,
                    solution.gap(),
                    format!("{:?}", solution.status)
                );
            }
        }
    }
    Ok(())
}
