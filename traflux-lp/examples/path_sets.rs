//! Which tunnels should be set up, and what does the choice cost in utilisation?
//!
//! `TRAFLUX_DATA=... cargo run --release -p traflux-lp --example path_sets`; networks whose data are not there are
//! left out. Paths are chosen on the first matrices of a sequence and judged on these and on later ones that the
//! choice has not seen: the least maximum utilisation over the chosen paths over that over all paths.
#![allow(clippy::print_stdout)]

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use traflux_core::{BitRate, GroupIx, LinkIx, Network, NodeIx, TrafficMatrix};
use traflux_lp::multicommodity::{
    Commodity, FlowProblem, MinMaxSolver, PathChoice, Preference, choose_paths,
};
use traflux_te::PathFinder;
use traflux_te::format::{Format, ReadOptions, read_matrices_file, read_network_file};
use traflux_te::generate::{BackboneConfig, Diurnal, DiurnalConfig, NodeMass, TrafficModel, backbone};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
type Paths = Vec<Vec<Vec<LinkIx>>>;

fn main() -> Outcome<()> {
    let part = std::env::args().nth(1).unwrap_or_default();
    if let Some(folder) = std::env::var_os("TRAFLUX_DATA") {
        let folder = Path::new(&folder);
        let options = ReadOptions::default();
        let cfr = Some(Format::CfrRl);
        if "Abilene".contains(&part) {
            let network = read_network_file(folder.join("cfr-rl/Abilene"), cfr, &options)?.network;
            let week = read_matrices_file(folder.join("cfr-rl/AbileneTM"), cfr, &network, &options)?;
            compare("Abilene, a day and the six after it", &network, &week[..288], &week[288..])?;
        }
        if "GEANT".contains(&part) {
            let network = read_network_file(folder.join("geant/GEANT.json"), None, &options)?.network;
            let rows = Some(Format::Rows);
            let all =
                read_matrices_file(folder.join("geant/geant_tm_first100.txt"), rows, &network, &options)?;
            compare("GEANT, 50 matrices and the next 50", &network, &all[..50], &all[50..])?;
        }
        if "UsCarrier".contains(&part) {
            let network = read_network_file(folder.join("teal/UsCarrier.json"), None, &options)?.network;
            let all = day(&network, 8, 7)?;
            compare("UsCarrier, gravity, 4 matrices and the next 4", &network, &all[..4], &all[4..])?;
        }
    } else {
        println!("TRAFLUX_DATA is not set: generated networks only");
    }
    if "generated".contains(&part) {
        let config = BackboneConfig { nodes: 30, ..BackboneConfig::default() };
        let network = backbone(&config, 3)?;
        let all = day(&network, 96, 5)?;
        compare("generated, 30 nodes, half a day and the other half", &network, &all[..48], &all[48..])?;
    }
    Ok(())
}

/// Gravity between masses in proportion to capacity that follow the hours of a day.
fn day(network: &Network, steps: usize, seed: u64) -> Outcome<Vec<TrafficMatrix>> {
    let total = BitRate::gigabits_per_second(100.0);
    let mean = TrafficModel::Gravity { mass: NodeMass::Capacity, total }.matrix(network, seed)?;
    let config = DiurnalConfig { interval_seconds: 900.0, ..DiurnalConfig::default() };
    Ok(Diurnal::new(mean, config, seed)?.with_time_zones(network).take(steps).collect())
}

fn compare(title: &str, network: &Network, known: &[TrafficMatrix], later: &[TrafficMatrix]) -> Outcome<()> {
    println!("\n{title}: {} nodes, {} links", network.nodes().len(), network.links().len());
    println!(
        "{:<28} {:>7} {:>9} {:>4} {:>17} {:>17} {:>9}",
        "", "paths", "per pair", "most", "chosen for", "later", "seconds"
    );
    println!(
        "{:<28} {:>7} {:>9} {:>4} {:>8} {:>8} {:>8} {:>8}",
        "", "", "", "", "mean", "worst", "mean", "worst"
    );
    let optima = [optima(network, known)?, optima(network, later)?];
    let judge = |name: &str, paths: &Paths, seconds: f64| -> Outcome<()> {
        let count: usize = paths.iter().map(Vec::len).sum();
        let most = paths.iter().map(Vec::len).max().unwrap_or(0);
        print!("{name:<28} {count:>7} {:>9.2} {most:>4}", count as f64 / network.pair_count() as f64);
        for (matrices, optima) in [known, later].into_iter().zip(&optima) {
            let ratios = ratios(network, paths, matrices, optima)?;
            let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
            print!(" {mean:>8.4} {:>8.4}", ratios.iter().copied().fold(0.0, f64::max));
        }
        println!(" {seconds:>9.2}");
        Ok(())
    };
    let mut finder = PathFinder::new(network);
    for k in [1, 2, 3, 4, 8] {
        let start = Instant::now();
        let paths = each_pair(network, |s, t| finder.k_shortest(s, t, k));
        judge(&format!("{k} shortest"), &paths, start.elapsed().as_secs_f64())?;
    }
    for limit in [2, 4] {
        let start = Instant::now();
        let paths = each_pair(network, |s, t| finder.disjoint(s, t, limit));
        judge(&format!("{limit} edge-disjoint"), &paths, start.elapsed().as_secs_f64())?;
    }
    for (least, most, tolerance) in
        [(1, 2, 0.01), (1, 4, 0.01), (2, 2, 0.01), (2, 4, 0.01), (2, 4, 0.0), (3, 4, 0.01)]
    {
        let start = Instant::now();
        let [least_paths, most_paths] = [least, most].map(|n| NonZeroUsize::MIN.saturating_add(n - 1));
        let choice = PathChoice { least_paths, most_paths, tolerance };
        let sets = choose_paths(network, known, &choice, None)?;
        let paths: Paths = (0..network.pair_count()).map(|p| sets.of(GroupIx::from(p)).to_vec()).collect();
        let name = format!("chosen, {least} to {most}, {} %", 100.0 * tolerance);
        judge(&name, &paths, start.elapsed().as_secs_f64())?;
    }
    Ok(())
}

fn each_pair(network: &Network, mut paths: impl FnMut(NodeIx, NodeIx) -> Vec<traflux_te::Path>) -> Paths {
    let of_pair = |pair| {
        let (source, target) = network.pair(GroupIx::from(pair));
        paths(source, target).into_iter().map(|path| path.links).collect()
    };
    (0..network.pair_count()).map(of_pair).collect()
}

fn optima(network: &Network, matrices: &[TrafficMatrix]) -> Outcome<Vec<f64>> {
    let mut solver = MinMaxSolver::new(network);
    let optimum = |demands| -> Outcome<f64> {
        Ok(solver.solve(&FlowProblem::all(network, demands)?, None)?.utilization)
    };
    matrices.iter().map(optimum).collect()
}

/// The least utilisation over listed paths, relative to that over all.
fn ratios(network: &Network, paths: &Paths, matrices: &[TrafficMatrix], optima: &[f64]) -> Outcome<Vec<f64>> {
    let mut solver = MinMaxSolver::new(network);
    let mut ratios = Vec::with_capacity(matrices.len());
    for (demands, optimum) in matrices.iter().zip(optima) {
        let problem = FlowProblem::all(network, demands)?;
        let pair = |commodity: &Commodity| network.pair_ix(commodity.source, commodity.target).ix();
        let listed: Paths = problem.commodities.iter().map(|c| paths[pair(c)].clone()).collect();
        let solution = solver.solve_listed(&problem, &listed, Preference::None, None)?;
        ratios.push(solution.utilization / optimum);
    }
    Ok(ratios)
}
