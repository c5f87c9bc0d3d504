//! How long do the network solvers take? Prints p50 and p99 on public networks.
//!
//! `TRAFLUX_DATA=... cargo run --release -p traflux-lp --example network`; rows whose data are not there are
//! left out.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use traflux_core::{
    BaseRouting, BitRate, GroupIx, Latency, Link, LinkIx, Network, Node, NodeIx, TrafficMatrix,
};
use traflux_lp::multicommodity::{FlowProblem, FlowSolution, MinMaxSolver, Preference};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let Some(folder) = std::env::var_os("TRAFLUX_DATA") else {
        println!("TRAFLUX_DATA is not set");
        return Ok(());
    };
    let folder = Path::new(&folder);
    println!(
        "{:<46} {:>9} {:>9} {:>9} {:>7} {:>9}",
        "problem", "min ms", "p50 ms", "p99 ms", "pivots", "worst gap"
    );
    abilene(&folder.join("cfr-rl"))?;
    geant(&folder.join("geant"))?;
    us_carrier(&folder.join("teal"))
}

/// Times of one row.
#[derive(Default)]
struct Row {
    milliseconds: Vec<f64>,
    pivots: usize,
    gap: f64,
}

impl Row {
    fn take(&mut self, solve: impl FnOnce() -> Outcome<FlowSolution>) -> Outcome<FlowSolution> {
        let start = Instant::now();
        let solution = solve()?;
        self.milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
        self.pivots += solution.iterations;
        self.gap = self.gap.max(solution.gap());
        Ok(solution)
    }

    fn print(mut self, name: &str) {
        self.milliseconds.sort_by(f64::total_cmp);
        let count = self.milliseconds.len();
        let at = |q: f64| self.milliseconds[((count as f64 * q).ceil() as usize).clamp(1, count) - 1];
        println!(
            "{name:<46} {:>9.3} {:>9.3} {:>9.3} {:>7} {:>9.0e}",
            at(0.0),
            at(0.5),
            at(0.99),
            self.pivots / count,
            self.gap
        );
    }
}

fn abilene(folder: &Path) -> Outcome<()> {
    let text = std::fs::read_to_string(folder.join("Abilene"))?;
    let mut links = Vec::new();
    for line in text.lines().skip(2) {
        let fields: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [_, tail, head, weight, kilobits] = fields[..] else { return Err("five fields a link".into()) };
        links.push(link(tail as u32, head as u32, weight, kilobits * 1e3));
    }
    let network = named(12, links)?;
    let base = base(&network)?;
    // 100 bytes in 5 minutes.
    let matrices = matrices(&folder.join("AbileneTM"), 12, 100.0 * 8.0 / 300.0)?;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    for (name, preference) in [
        ("any", Preference::None),
        ("least rerouted", Preference::LeastRerouted(&base)),
        ("delay", Preference::Delay),
    ] {
        let mut solver = MinMaxSolver::new(&network);
        let (mut drawn, mut top) = (Row::default(), Row::default());
        for matrix in &matrices {
            let critical: Vec<GroupIx> =
                (0..13).map(|_| GroupIx::from(random.random_range(0..network.pair_count()))).collect();
            drawn.take(|| {
                let problem = FlowProblem::critical(&network, &base, matrix, &critical)?;
                Ok(solver.solve_preferring(&problem, preference, None)?)
            })?;
        }
        let mut solver = MinMaxSolver::new(&network);
        for matrix in &matrices {
            let mut order: Vec<(f64, usize)> = matrix.pairs().enumerate().map(|(p, d)| (d, p)).collect();
            order.sort_by(|a, b| b.0.total_cmp(&a.0));
            let critical: Vec<GroupIx> = order[..13].iter().map(|(_, pair)| GroupIx::from(*pair)).collect();
            top.take(|| {
                let problem = FlowProblem::critical(&network, &base, matrix, &critical)?;
                Ok(solver.solve_preferring(&problem, preference, None)?)
            })?;
        }
        drawn.print(&format!("Abilene, 13 random pairs, {name}"));
        top.print(&format!("Abilene, 13 largest pairs, {name}"));
        all_pairs(&format!("Abilene, all pairs, {name}"), &network, &matrices, preference)?;
    }
    Ok(())
}

fn geant(folder: &Path) -> Outcome<()> {
    let network = from_json(&folder.join("GEANT.json"))?;
    let base = base(&network)?;
    let matrices = matrices(&folder.join("geant_tm_first100.txt"), 22, 1.0)?;
    all_pairs("GEANT, all pairs, any", &network, &matrices, Preference::None)?;
    all_pairs("GEANT, all pairs, least rerouted", &network, &matrices, Preference::LeastRerouted(&base))
}

fn us_carrier(folder: &Path) -> Outcome<()> {
    let network = from_json(&folder.join("UsCarrier.json"))?;
    let nodes = network.nodes().len();
    // Gravity: what a node sends and takes is as its capacity, with some noise.
    for seed in 0..3 {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mass: Vec<f64> = (0..nodes)
            .map(|node| {
                let links = network.out_links(NodeIx::from(node));
                let capacity: f64 = links.iter().map(|l| network.links()[l.ix()].capacity.get()).sum();
                capacity * -(1.0 - random.random::<f64>()).ln()
            })
            .collect();
        let total: f64 = mass.iter().sum();
        let demands = (0..nodes * nodes).map(|at| mass[at / nodes] * mass[at % nodes] / total).collect();
        let demands = TrafficMatrix::from_rows(nodes, demands)?;
        let mut row = Row::default();
        let mut solver = MinMaxSolver::new(&network);
        let solution = row.take(|| {
            let problem = FlowProblem::all(&network, &demands)?;
            Ok(solver.solve(&problem, Some(Instant::now() + Duration::from_secs(60)))?)
        })?;
        println!("  optimum {} at least {}", solution.utilization, solution.lower_bound);
        row.print("UsCarrier, gravity, cold");
    }
    Ok(())
}

fn all_pairs(
    name: &str,
    network: &Network,
    matrices: &[TrafficMatrix],
    preference: Preference<'_>,
) -> Outcome<()> {
    let (mut cold, mut warm) = (Row::default(), Row::default());
    let mut kept = MinMaxSolver::new(network);
    for matrix in matrices {
        cold.take(|| {
            let problem = FlowProblem::all(network, matrix)?;
            Ok(MinMaxSolver::new(network).solve_preferring(&problem, preference, None)?)
        })?;
        warm.take(|| {
            let problem = FlowProblem::all(network, matrix)?;
            Ok(kept.solve_preferring(&problem, preference, None)?)
        })?;
    }
    cold.print(&format!("{name}, cold"));
    warm.print(&format!("{name}, in sequence"));
    Ok(())
}

/// Shortest paths by weight, one each.
fn base(network: &Network) -> Outcome<BaseRouting> {
    let nodes = network.nodes().len();
    let mut pairs = Vec::new();
    for source in 0..nodes {
        let mut distance = vec![f64::INFINITY; nodes];
        let mut through = vec![None; nodes];
        distance[source] = 0.0;
        for _ in 0..nodes {
            for (at, link) in network.links().iter().enumerate() {
                let next = distance[link.tail.ix()] + link.weight;
                if next < distance[link.head.ix()] {
                    distance[link.head.ix()] = next;
                    through[link.head.ix()] = Some(at);
                }
            }
        }
        for target in (0..nodes).filter(|target| *target != source) {
            let mut path = Vec::new();
            let mut node = target;
            while let Some(at) = through[node] {
                path.push((LinkIx::from(at), 1.0));
                node = network.links()[at].tail.ix();
            }
            pairs.push(path);
        }
    }
    Ok(BaseRouting::new(network, pairs)?)
}

fn matrices(file: &Path, nodes: usize, factor: f64) -> Outcome<Vec<TrafficMatrix>> {
    let text = std::fs::read_to_string(file)?;
    text.lines()
        .map(|line| {
            let row: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
            Ok(TrafficMatrix::from_rows(nodes, row?)?.scaled(factor))
        })
        .collect()
}

fn from_json(file: &Path) -> Outcome<Network> {
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let list = |name: &str| json[name].as_array().ok_or("a list is missing");
    let mut links = Vec::new();
    for entry in list("links")? {
        let node = |name: &str| entry[name].as_u64().ok_or("a link without an end");
        let capacity = entry["capacity"].as_f64().ok_or("a link without capacity")?;
        links.push(link(node("source")? as u32, node("target")? as u32, 1.0, capacity));
    }
    named(list("nodes")?.len(), links)
}

fn link(tail: u32, head: u32, weight: f64, capacity: f64) -> Link {
    Link {
        tail: NodeIx(tail),
        head: NodeIx(head),
        capacity: BitRate::saturating(capacity),
        weight,
        delay: Latency::saturating(1e-3),
    }
}

fn named(nodes: usize, links: Vec<Link>) -> Outcome<Network> {
    let nodes = (0..nodes).map(|node| Node { name: node.to_string(), position: None }).collect();
    Ok(Network::new(nodes, links)?)
}
