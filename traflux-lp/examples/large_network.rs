//! How fast does the solver for large networks close the gap, and what does plain column generation do?
//!
//! `TRAFLUX_DATA=… cargo run --release -p traflux-lp --example large_network -- [threads] [part of a name]`.
//! Kdl and UsCarrier come from the folder `TRAFLUX_DATA` names and are left out without it. Backbones are those of
//! `traflux te generate network` (three neighbours a node, links of one capacity), the sparse networks nearly
//! trees. Each line is a run of its own, checked by [`verify_large`]. *Plain* column generation solves the master
//! to a corner each round and prices with that corner's duals, to a gap of 10⁻⁴; it is stopped after 25 s. With a
//! Python that has highspy and SciPy in `PLAIN_PYTHON` (`cargo xtask bench te` sets it), the master is HiGHS', once
//! with a column for each path of a pair, once for each tree of a source; without one it is microlp's by pair.
#![allow(clippy::print_stdout)]

use std::collections::BinaryHeap;
use std::error::Error;
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use good_lp::{Expression, ProblemVariables, Solution, SolverModel, default_solver, variable};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use traflux_core::{BitRate, Latency, Link, Network, Node, NodeIx, TrafficMatrix};
use traflux_lp::multicommodity::check::verify_large;
use traflux_lp::multicommodity::{FlowProblem, LargeSolver};
use traflux_te::generate::{BackboneConfig, backbone};

type Outcome<T> = Result<T, Box<dyn Error>>;

const DEADLINE: Duration = Duration::from_secs(60);
const PLAIN_LIMIT: Duration = Duration::from_secs(25);

/// The gap and the seconds that are the goal: on Kdl with two threads, on 150 to 200 nodes.
const GOALS: [(&str, f64, f64); 2] = [("Kdl", 0.01, 4.0), ("", 1e-4, 5.0)];

/// An instance, the gaps asked for, and whether plain column generation is tried.
type Instance = (&'static str, &'static [f64], bool);

const INSTANCES: [Instance; 10] = [
    ("Kdl gravity", &[0.05, 0.01, 1e-4, 1e-6, 1e-9], false),
    ("Kdl uniform", &[0.05, 0.01, 1e-4, 1e-6, 1e-9], false),
    ("Kdl gravity by capacity", &[0.1, 0.05, 0.01], false),
    ("UsCarrier gravity by capacity", &[0.05, 0.01, 1e-4, 1e-6], true),
    ("backbone 150 (11) gravity", &[0.01, 1e-4, 1e-6], true),
    ("backbone 200 (1) gravity", &[0.01, 1e-4, 1e-6], true),
    ("backbone 200 (5) gravity", &[0.01, 1e-4, 1e-6], true),
    ("backbone 200 (1) by capacity alone", &[0.01, 1e-4, 1e-6], true),
    ("sparse 150 (11) gravity by capacity", &[0.01, 1e-4, 1e-6], true),
    ("sparse 200 (12) gravity by capacity", &[0.01, 1e-4, 1e-6], true),
];

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, name] = &arguments[..]
        && mode == "plain"
    {
        let Some((network, demands)) = instance(name)? else { return Ok(()) };
        return plain(&network, &demands);
    }
    let threads = arguments.first().map_or(Ok(2), |n| n.parse())?;
    println!(
        "{:<36} {:>8} {:>9} {:>12} {:>12} {:>9} {:>6}",
        "instance", "asked", "seconds", "utilisation", "bound", "gap", "iter"
    );
    for (name, tolerances, compare) in INSTANCES {
        if arguments.get(1).is_some_and(|part| !name.contains(part)) {
            continue;
        }
        let Some((network, demands)) = instance(name)? else {
            println!("{name:<36} skipped: TRAFLUX_DATA is not set");
            continue;
        };
        for tolerance in tolerances {
            let problem = FlowProblem::all(&network, &demands)?;
            let threads = NonZeroUsize::new(threads).ok_or("threads must be positive")?;
            let solver = LargeSolver { tolerance: *tolerance, threads };
            let start = Instant::now();
            let solution = solver.solve(&problem, Some(start + DEADLINE))?;
            let seconds = start.elapsed().as_secs_f64();
            verify_large(&problem, &solution)?;
            println!(
                "{name:<36} {tolerance:>8.0e} {:>9.3} {:>12.8} {:>12.8} {:>9.1e} {:>6}{}",
                seconds,
                solution.utilization,
                solution.lower_bound,
                solution.gap(),
                solution.iterations,
                verdict(name, *tolerance, seconds, solution.gap())
            );
        }
        if compare {
            compare_plain(name, &network, &demands)?;
        }
    }
    Ok(())
}

/// Whether a goal is met, where the line has one.
fn verdict(name: &str, tolerance: f64, seconds: f64, gap: f64) -> String {
    let Some((_, asked, limit)) = GOALS.iter().find(|(part, ..)| name.starts_with(part)) else {
        return String::new();
    };
    if tolerance != *asked {
        return String::new();
    }
    let word = if gap <= tolerance && seconds <= *limit { "met" } else { "MISSED" };
    format!("  goal {limit} s: {word}")
}

/// Runs plain column generation in processes of its own, which can be stopped inside a linear program.
fn compare_plain(name: &str, network: &Network, demands: &TrafficMatrix) -> Outcome<()> {
    let Some(python) = std::env::var_os("PLAIN_PYTHON") else {
        let mut microlp = Command::new(std::env::current_exe()?);
        microlp.args(["plain", name]);
        return watch(name, "microlp by pair", microlp);
    };
    let links = network.links().iter().map(|l| (l.tail.ix(), l.head.ix(), l.capacity.get()));
    let nodes = network.nodes().len();
    let demands = (0..nodes * nodes)
        .map(|pair| {
            (
                pair / nodes,
                pair % nodes,
                demands.demand(NodeIx::from(pair / nodes), NodeIx::from(pair % nodes)),
            )
        })
        .filter(|(.., demand)| *demand > 0.0);
    let problem = serde_json::json!({
        "nodes": nodes,
        "links": links.collect::<Vec<_>>(),
        "demands": demands.collect::<Vec<_>>(),
    });
    let file = std::env::temp_dir().join(format!("large_network-{}.json", std::process::id()));
    std::fs::write(&file, problem.to_string())?;
    for columns in ["pair", "source"] {
        let mut highs = Command::new(&python);
        highs.arg("-c").arg(include_str!("large_network.py")).arg(&file).arg(columns);
        watch(name, &format!("HiGHS by {columns}"), highs)?;
    }
    std::fs::remove_file(&file)?;
    Ok(())
}

/// Runs a program for [`PLAIN_LIMIT`] at most and prints its last line.
fn watch(name: &str, method: &str, mut program: Command) -> Outcome<()> {
    let start = Instant::now();
    let mut child = program.stdout(Stdio::piped()).spawn()?;
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                return Err(format!("{method} on {name} ended with {status}").into());
            }
            break true;
        }
        if start.elapsed() > PLAIN_LIMIT {
            child.kill()?;
            break false;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or("no round done");
    let seconds = start.elapsed().as_secs_f64();
    let stopped = if ended { "" } else { "stopped: " };
    println!("{name:<36}    plain {seconds:>9.3} {method}: {stopped}{last}");
    Ok(())
}

/// The network and demands of a name, scaled to an optimum of about 0.9; `None` without the data.
fn instance(name: &str) -> Outcome<Option<(Network, TrafficMatrix)>> {
    let words: Vec<&str> = name.split(' ').collect();
    let network = match words[..] {
        [kind @ ("backbone" | "sparse"), nodes, seed, ..] => {
            let (nodes, seed) = (nodes.parse()?, seed.trim_matches(['(', ')']).parse()?);
            match kind {
                "backbone" => backbone(&BackboneConfig { nodes, ..BackboneConfig::default() }, seed)?,
                _ => sparse(nodes, seed)?,
            }
        }
        [file, ..] => {
            let Ok(folder) = std::env::var("TRAFLUX_DATA") else { return Ok(None) };
            load(&std::fs::read_to_string(format!("{folder}/teal/{file}.json"))?)?
        }
        [] => return Ok(None),
    };
    let nodes = network.nodes().len();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mass: Vec<f64> = (0..nodes)
        .map(|node| {
            let links = network.out_links(NodeIx::from(node)).iter();
            let capacity: f64 = links.map(|link| network.links()[link.ix()].capacity.get()).sum();
            let exponential = -(1.0 - random.random_range(0.0..1.0f64)).ln();
            match name {
                name if name.ends_with("uniform") => 1.0,
                name if name.ends_with("capacity alone") => capacity,
                name if name.ends_with("capacity") => capacity * exponential,
                _ => exponential,
            }
        })
        .collect();
    let total: f64 = mass.iter().sum();
    let pairs = (0..nodes * nodes).map(|pair| mass[pair / nodes] / total * mass[pair % nodes]).collect();
    let demands = TrafficMatrix::from_rows(nodes, pairs)?;
    let problem = FlowProblem::all(&network, &demands)?;
    let solver = LargeSolver { tolerance: 1e-3, ..LargeSolver::default() };
    let solution = solver.solve(&problem, Some(Instant::now() + DEADLINE))?;
    let optimum = 0.5 * (solution.utilization + solution.lower_bound);
    Ok(Some((network, demands.scaled(0.9 / optimum))))
}

fn link(tail: usize, head: usize, capacity: f64) -> Outcome<Link> {
    Ok(Link {
        tail: NodeIx::from(tail),
        head: NodeIx::from(head),
        capacity: BitRate::new(capacity)?,
        weight: 1.0,
        delay: Latency::ZERO,
    })
}

fn network(nodes: usize, links: Vec<Link>) -> Outcome<Network> {
    let names = (0..nodes).map(|n| Node { name: n.to_string(), position: None }).collect();
    Ok(Network::new(names, links)?)
}

fn load(text: &str) -> Outcome<Network> {
    let json: serde_json::Value = serde_json::from_str(text)?;
    let nodes = json["nodes"].as_array().ok_or("no nodes")?.len();
    let mut links = Vec::new();
    for entry in json["links"].as_array().ok_or("no links")? {
        let end = |key: &str| entry[key].as_u64().map(|node| node as usize).ok_or("a link without ends");
        links.push(link(
            end("source")?,
            end("target")?,
            entry["capacity"].as_f64().ok_or("no capacity")? * 1e6,
        )?);
    }
    network(nodes, links)
}

/// Points in a square, each joined to the nearest before it, and one edge more for about a third of them.
fn sparse(nodes: usize, seed: u64) -> Outcome<Network> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let points: Vec<[f64; 2]> =
        (0..nodes).map(|_| [random.random_range(0.0..1.0), random.random_range(0.0..1.0)]).collect();
    let distance = |a: usize, b: usize| (points[a][0] - points[b][0]).hypot(points[a][1] - points[b][1]);
    let mut edges: Vec<(usize, usize)> = Vec::new();
    for node in 1..nodes {
        let nearest = (0..node).min_by(|a, b| distance(node, *a).total_cmp(&distance(node, *b)));
        edges.extend(nearest.map(|other| (other, node)));
    }
    while edges.len() < nodes * 5 / 4 {
        let (a, b) = (random.random_range(0..nodes), random.random_range(0..nodes));
        // Waxman's rule: near points are joined rather than far ones.
        let likely = random.random_bool((-distance(a, b) / 0.1).exp());
        if a != b && likely && !edges.contains(&(a.min(b), a.max(b))) {
            edges.push((a.min(b), a.max(b)));
        }
    }
    let mut links = Vec::new();
    for (a, b) in edges {
        let capacity = [1e9, 2.5e9, 10e9][random.random_range(0..3)];
        links.extend([link(a, b, capacity)?, link(b, a, capacity)?]);
    }
    network(nodes, links)
}

/// Column generation without stabilisation, to a gap of 10⁻⁴. Commodities with one path count as load.
fn plain(network: &Network, demands: &TrafficMatrix) -> Outcome<()> {
    let problem = FlowProblem::all(network, demands)?;
    let links = network.links();
    let capacity: Vec<f64> = links.iter().map(|link| link.capacity.get()).collect();
    let mut weights = vec![1.0 / links.len() as f64; links.len()];
    let mut pool: Vec<Vec<Vec<usize>>> = vec![Vec::new(); problem.commodities.len()];
    let (mut bound, mut best) = (0.0f64, f64::INFINITY);
    for round in 1.. {
        let lengths: Vec<f64> = weights.iter().zip(&capacity).map(|(w, c)| (w + 1e-9) / c).collect();
        let (mut proven, mut added) = (0.0, 0);
        let mut tree = (usize::MAX, Vec::new());
        for (commodity, paths) in problem.commodities.iter().zip(&mut pool) {
            if tree.0 != commodity.source.ix() {
                tree = (commodity.source.ix(), shortest(network, commodity.source, &lengths));
            }
            let mut path = Vec::new();
            let mut at = commodity.target.ix();
            while let Some(link) = tree.1[at] {
                path.push(link);
                at = links[link].tail.ix();
            }
            let length = |path: &[usize]| path.iter().map(|link| lengths[*link]).sum::<f64>();
            proven += commodity.demand * length(&path);
            if paths.iter().all(|known| length(known) > length(&path) * (1.0 + 1e-9)) {
                paths.push(path);
                added += 1;
            }
        }
        let sum: f64 = lengths.iter().zip(&capacity).map(|(y, c)| y * c).sum();
        bound = bound.max(proven / sum);
        let gap = (best - bound) / best;
        println!("round {round}: utilisation {best:.8}, bound {bound:.8}, gap {gap:.1e}");
        if gap <= 1e-4 || added == 0 {
            break;
        }
        (best, weights) = corner(&problem, &pool, &capacity)?;
    }
    Ok(())
}

/// The master's dual, `max Σ d_k π_k + Σ f_l w_l`, solved for a corner: optimum and prices.
fn corner(problem: &FlowProblem<'_>, pool: &[Vec<Vec<usize>>], capacity: &[f64]) -> Outcome<(f64, Vec<f64>)> {
    let mut fixed = vec![0.0; capacity.len()];
    let mut variables = ProblemVariables::new();
    let weights: Vec<_> = capacity.iter().map(|_| variables.add(variable().min(0.0))).collect();
    let mut objective = Expression::from(0.0);
    let mut rows = Vec::new();
    for (commodity, paths) in problem.commodities.iter().zip(pool) {
        if let [only] = &paths[..] {
            only.iter().for_each(|link| fixed[*link] += commodity.demand / capacity[*link]);
            continue;
        }
        // d_k π_k as one variable, so that numbers stay near 1.
        let price = variables.add(variable().min(0.0));
        objective += price;
        for path in paths {
            let length: Expression =
                path.iter().map(|link| commodity.demand / capacity[*link] * weights[*link]).sum();
            rows.push((length - price).geq(0.0));
        }
    }
    objective += weights.iter().zip(&fixed).map(|(weight, load)| *load * *weight).sum::<Expression>();
    let mut model = variables.maximise(&objective).using(default_solver);
    model = model.with(weights.iter().sum::<Expression>().eq(1.0));
    for row in rows {
        model = model.with(row);
    }
    let solution = model.solve()?;
    let prices = weights.iter().map(|weight| solution.value(*weight).max(0.0)).collect();
    Ok((solution.eval(&objective), prices))
}

/// By node the link by which a shortest path from `source` enters it.
fn shortest(network: &Network, source: NodeIx, lengths: &[f64]) -> Vec<Option<usize>> {
    let nodes = network.nodes().len();
    let (mut distance, mut through) = (vec![f64::INFINITY; nodes], vec![None; nodes]);
    distance[source.ix()] = 0.0;
    // Positive floats are ordered like their bits.
    let mut heap = BinaryHeap::from([(std::cmp::Reverse(0u64), source)]);
    while let Some((std::cmp::Reverse(bits), node)) = heap.pop() {
        if f64::from_bits(bits) > distance[node.ix()] {
            continue;
        }
        for link in network.out_links(node) {
            let head = network.links()[link.ix()].head;
            let length = distance[node.ix()] + lengths[link.ix()];
            if length < distance[head.ix()] {
                distance[head.ix()] = length;
                through[head.ix()] = Some(link.ix());
                heap.push((std::cmp::Reverse(length.to_bits()), head));
            }
        }
    }
    through
}
