//! Do exact flows agree with recorded optima, with another solver, and with what must hold?
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use traflux_core::{BitRate, Latency, Link, Network, Node, NodeIx, TrafficMatrix};
use traflux_lp::multicommodity::{FlowProblem, MinMaxSolver};

/// The folder of public data, where there is one.
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("TRAFLUX_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: TRAFLUX_DATA is not set");
    }
    folder
}

fn rows(text: &str) -> Vec<Vec<f64>> {
    text.lines().map(|line| line.split_whitespace().map(|n| n.parse().unwrap()).collect()).collect()
}

/// Node-link JSON with capacities.
fn network(text: &str) -> Network {
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let nodes = json["nodes"].as_array().unwrap().len();
    let index = |value: &serde_json::Value| NodeIx(value.as_u64().unwrap() as u32);
    let links = json["links"].as_array().unwrap().iter().map(|link| Link {
        tail: index(&link["source"]),
        head: index(&link["target"]),
        capacity: BitRate::bits_per_second(link["capacity"].as_f64().unwrap()),
        weight: 1.0,
        delay: Latency::ZERO,
    });
    let names = (0..nodes).map(|n| Node { name: n.to_string(), position: None }).collect();
    Network::new(names, links.collect()).unwrap()
}

#[test]
fn geant_optima_are_those_on_record() {
    let Some(folder) = data() else { return };
    let read = |name: &str| std::fs::read_to_string(folder.join("geant").join(name)).unwrap();
    let network = network(&read("GEANT.json"));
    let optima = rows(&read("geant_opt_first100.txt"));
    let mut solver = MinMaxSolver::new(&network);
    for (matrix, optimum) in rows(&read("geant_tm_first100.txt")).into_iter().zip(optima) {
        let demands = TrafficMatrix::from_rows(network.nodes().len(), matrix).unwrap();
        let problem = FlowProblem::all(&network, &demands).unwrap();
        for kept in [true, false] {
            if !kept {
                solver = MinMaxSolver::new(&network);
            }
            let t = std::time::Instant::now();
            let solution = solver.solve(&problem, None).unwrap();
            eprintln!("{kept} {:?} {} {:.2e}", t.elapsed(), solution.iterations, solution.gap());
            assert!(
                (solution.utilization - optimum[0]).abs() <= 1e-9 * optimum[0],
                "{} {}",
                solution.utilization,
                optimum[0]
            );
            assert!(solution.gap() <= 1e-9);
        }
    }
}
