//! How good are selectors of critical pairs, what do they move, and how long do they take?
//!
//! `TRAFLUX_DATA=... cargo run --release -p traflux-lp --example selectors [every]`; of Abilene every 40th matrix
//! unless said otherwise. A row has mean, 5th percentile and least of `optimal / achieved` utilisation, the mean
//! share of traffic rerouted, and the median time of one selection. `bound` is the fractional bound.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::time::Instant;

use traflux_core::{BitRate, Network, Policy, TrafficMatrix};
use traflux_lp::multicommodity::select::{
    DualGuidedGreedy, FractionalBound, GreedyOracle, LeastMoved, RelaxAndRound, SelectionEvaluator,
};
use traflux_te::format::{Format, ReadOptions, read_matrices_file, read_network_file};
use traflux_te::generate::TrafficModel;
use traflux_te::metrics::{BootstrapConfig, Summary};
use traflux_te::{EcmpOnly, NetworkEncoder, TopK, TopKCritical, ecmp, performance_ratio, share_of_pairs};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let Some(folder) = std::env::var_os("TRAFLUX_DATA") else {
        println!("TRAFLUX_DATA is not set");
        return Ok(());
    };
    let folder = Path::new(&folder).join("cfr-rl");
    let every = std::env::args().nth(1).map_or(Ok(40), |text| text.parse::<usize>())?.max(1);
    let format = Some(Format::CfrRl);
    let options = ReadOptions::default();
    let read = |name: &str| read_network_file(folder.join(name), format, &options).map(|file| file.network);
    let abilene = read("Abilene")?;
    let week = read_matrices_file(folder.join("AbileneTM"), format, &abilene, &options)?;
    let week: Vec<_> = week.into_iter().step_by(every).collect();
    for share in [0.05, 0.1, 0.2] {
        compare("Abilene, week 1", &abilene, &week, share)?;
    }
    for (name, half_width) in [("Ebone", 0.19), ("Sprintlink", 0.51), ("Tiscali", 0.244)] {
        let network = read(name)?;
        let mean = BitRate::gigabits_per_second(1.0);
        let exponential = TrafficModel::Exponential { mean }.matrices(&network, 30, 1)?;
        compare(&format!("{name}, exponential"), &network, &exponential, 0.1)?;
        let uniform = TrafficModel::UniformAround { mean, half_width }.matrices(&network, 30, 2)?;
        compare(&format!("{name}, uniform 1 ± {half_width}"), &network, &uniform, 0.1)?;
    }
    Ok(())
}

fn compare(title: &str, network: &Network, matrices: &[TrafficMatrix], share: f64) -> Outcome<()> {
    let base = ecmp(network)?;
    let count = share_of_pairs(network, share);
    println!("\n{title}: {} matrices, {count} of {} pairs", matrices.len(), network.pair_count());
    println!("{:<20} {:>7} {:>7} {:>7} {:>9} {:>9}", "", "mean", "p5", "min", "rerouted", "ms");
    let mut evaluator = SelectionEvaluator::new(network, &base);
    let optima: Vec<f64> =
        matrices.iter().map(|demands| evaluator.optimum(demands)).collect::<Result<_, _>>()?;
    let mut selectors: Vec<(&str, Box<dyn Policy>)> = vec![
        ("ECMP", Box::new(EcmpOnly)),
        ("Top-K", Box::new(TopK::new(count))),
        ("Top-K critical", Box::new(TopKCritical::new(network, &base, count))),
        ("relax and round", Box::new(RelaxAndRound::new(network, &base, count))),
        ("least moved", Box::new(LeastMoved::new(network, &base, count))),
        ("dual-guided greedy", Box::new(DualGuidedGreedy::new(network, &base, count))),
        ("greedy oracle", Box::new(GreedyOracle::new(network, &base, count))),
    ];
    for (name, selector) in &mut selectors {
        let mut encoder = NetworkEncoder::new(network, &base);
        let (mut ratios, mut rerouted, mut times) = (Vec::new(), 0.0, Vec::new());
        for (demands, optimum) in matrices.iter().zip(&optima) {
            let observation = encoder.encode(demands)?;
            let start = Instant::now();
            let action = selector.act(&observation)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            let outcome = evaluator.outcome(demands, &action.critical)?;
            ratios.push(performance_ratio(*optimum, outcome.utilization));
            rerouted += outcome.rerouted_share / matrices.len() as f64;
        }
        print(name, &ratios, Some(rerouted), times);
    }
    let mut bound = FractionalBound::new(network, &base);
    let (mut ratios, mut times) = (Vec::new(), Vec::new());
    for (demands, optimum) in matrices.iter().zip(&optima) {
        let start = Instant::now();
        let solution = bound.solve(demands, count, None)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        ratios.push(performance_ratio(*optimum, solution.lower_bound));
    }
    print("bound, in sequence", &ratios, None, times);
    Ok(())
}

fn print(name: &str, ratios: &[f64], rerouted: Option<f64>, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    if let Some(summary) = Summary::of(ratios, &BootstrapConfig::default()) {
        let rerouted = rerouted.map_or(String::new(), |share| format!("{:.1} %", 100.0 * share));
        println!(
            "{name:<20} {:>7.4} {:>7.4} {:>7.4} {rerouted:>9} {:>9.3}",
            summary.mean,
            summary.p5,
            summary.min,
            times[times.len() / 2]
        );
    }
}
