//! `traflux te bench`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use traflux_core::{GroupIx, Network, Observation, Policy as _, TrafficMatrix};
use traflux_lp::multicommodity::{FlowProblem, MinMaxSolver, Preference};
use traflux_policy::{ActionSpace, LearnedPolicy, Mode, NetworkShape, Parameters, SharedParameters};
use traflux_te::{NetworkEncoder, QuickChoice, SelectionEncoder, ecmp, ecmp_loads};

use super::input::{InputArgs, PairCount, checkpoint, matrices_text, name_of, say, warn_of_units};
use crate::cli::Failure;
use crate::te::train::from_checkpoint;
use crate::te::{FRACTIONS, SelectorKind, TrainOptions};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  traflux te bench backbone.json week.rows --limit 200\n\n\
    Beside other solvers: cargo xtask bench te")]
pub(in crate::cli) struct BenchArgs {
    #[command(flatten)]
    input: InputArgs,
    /// Most pairs that may be rerouted, or a share of all.
    #[arg(short, long, value_name = "COUNT|SHARE%", default_value = "10%")]
    k: PairCount,
    /// A selector that `traflux te train` made, to be timed as it is; untrained ones of its size are timed in any case.
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
}

pub(super) fn bench(args: &BenchArgs) -> Result<ExitCode, Failure> {
    let (network, matrices) = args.input.load()?;
    let base = ecmp(&network)?;
    let count = args.k.of(&network);
    let pairs = network.pair_count().max(1) as f64;
    say(&format!(
        "{} nodes, {} links, {}, K = {count}; milliseconds, one thread\n{:<38} {:>10} {:>10} {:>10} {:>10} {:>10}\n",
        network.nodes().len(),
        network.links().len(),
        matrices_text(matrices.len()),
        "",
        "least",
        "median",
        "p95",
        "longest",
        "CPU, mean"
    ))?;

    row("ECMP loads", &matrices, |demands| Ok(ecmp_loads(&network, demands)?))?;
    let mut optima = Vec::with_capacity(matrices.len());
    row("optimum over all paths, cold", &matrices, |demands| {
        let solution = MinMaxSolver::new(&network).solve(&FlowProblem::all(&network, demands)?, None)?;
        optima.push(solution.utilization);
        Ok(solution)
    })?;
    warn_of_units(optima.into_iter());
    let mut solver = MinMaxSolver::new(&network);
    row("optimum over all paths, in sequence", &matrices, |demands| {
        Ok(solver.solve(&FlowProblem::all(&network, demands)?, None)?)
    })?;
    row("the same, least rerouted traffic", &matrices, |demands| {
        let problem = FlowProblem::all(&network, demands)?;
        Ok(solver.solve_preferring(&problem, Preference::LeastRerouted(&base), None)?)
    })?;
    let mut sets = choices(&network, &base, count, &matrices)?.into_iter();
    let mut solver = MinMaxSolver::new(&network);
    row("K pairs of Top-K Critical, in sequence", &matrices, |demands| {
        let problem = FlowProblem::critical(&network, &base, demands, &sets.next().unwrap_or_default())?;
        Ok(solver.solve(&problem, None)?)
    })?;
    let mut encoder = NetworkEncoder::new(&network, &base);
    let mut observation = Observation::default();
    row("observation", &matrices, |demands| Ok(encoder.encode_into(demands, &mut observation)?))?;
    for kind in SelectorKind::ALL {
        let mut policy = kind.policy(&network, &base, count);
        let mut encoder = NetworkEncoder::new(&network, &base);
        let observations =
            matrices.iter().map(|demands| encoder.encode(demands)).collect::<Result<Vec<_>, _>>()?;
        let mut next = observations.iter();
        row(&format!("choice by {kind}"), &matrices, |_| {
            Ok(next.next().map(|observation| policy.act(observation)).transpose()?)
        })?;
    }
    let mut learned = Vec::new();
    for (name, quick, identities) in [
        ("observation and learned choice", QuickChoice::default(), false),
        ("learned choice, pairs known by name", QuickChoice::default(), true),
        ("learned choice, shown fractions", FRACTIONS, true),
    ] {
        let mut encoder = SelectionEncoder::new(&network, &base, count).with_quick_choice(quick);
        let mut policy = untrained(&encoder, if identities { network.pair_count() } else { 0 })?;
        let cost = row(name, &matrices, |demands| {
            encoder.encode_into(demands, &mut observation)?;
            Ok(policy.act(&observation)?)
        })?;
        learned.push((name.to_owned(), cost));
    }
    for path in &args.checkpoint {
        let (mut policy, mut encoder) = from_checkpoint(&checkpoint(path)?, &network, &base, count, true)?;
        let name = format!("observation and choice by {}", name_of(path));
        let cost = row(&name, &matrices, |demands| {
            encoder.encode_into(demands, &mut observation)?;
            Ok(policy.act(&observation)?)
        })?;
        learned.push((name, cost));
    }
    for (name, Cost { median, processor }) in learned {
        let of_processor = processor
            .map_or_else(String::new, |mean| format!(", {:.3} of CPU in the mean", mean * 1e3 / pairs));
        say(&format!("{name}: median {:.3} µs a pair{of_processor}\n", median * 1e3 / pairs))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A policy of the size that `traflux te train` makes; what it chooses does not matter here.
fn untrained(encoder: &SelectionEncoder, identities: usize) -> Result<LearnedPolicy, Failure> {
    let space = encoder.space();
    let shape = NetworkShape {
        group_features: space.group_features.len(),
        context_features: space.context_features.len(),
        hidden: TrainOptions::default().hidden,
        identities,
    };
    let parameters = SharedParameters::new(Parameters::seeded(shape, 1));
    let actions = ActionSpace { critical: encoder.count(), ..ActionSpace::default() };
    Ok(LearnedPolicy::new(parameters, &space, actions, Mode::Frozen)?)
}

/// What Top-K Critical chooses for each matrix.
fn choices(
    network: &Network,
    base: &traflux_core::BaseRouting,
    count: usize,
    matrices: &[TrafficMatrix],
) -> Result<Vec<Vec<GroupIx>>, Failure> {
    let mut encoder = NetworkEncoder::new(network, base);
    let mut policy = SelectorKind::TopKCritical.policy(network, base, count);
    let choose =
        |demands| -> Result<Vec<GroupIx>, Failure> { Ok(policy.act(&encoder.encode(demands)?)?.critical) };
    matrices.iter().map(choose).collect()
}

/// Median and mean time of the processor, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    median: f64,
    processor: Option<f64>,
}

fn row<T>(
    name: &str,
    matrices: &[TrafficMatrix],
    mut work: impl FnMut(&TrafficMatrix) -> Result<T, Failure>,
) -> Result<Cost, Failure> {
    let mut times = Vec::with_capacity(matrices.len());
    let before = processor_ms();
    for demands in matrices {
        let began = Instant::now();
        std::hint::black_box(work(demands)?);
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let processor = processor_ms().zip(before).map(|(now, then)| (now - then) / times.len() as f64);
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
    let mean = processor.map_or_else(|| "–".to_owned(), |mean| format!("{mean:.4}"));
    let (least, median, high, longest) = (at(0.0), at(0.5), at(0.95), at(1.0));
    say(&format!("{name:<38} {least:>10.4} {median:>10.4} {high:>10.4} {longest:>10.4} {mean:>10}\n"))?;
    Ok(Cost { median, processor })
}

/// What this thread has had of the processor, in milliseconds, true to a tick of the system's clock (1 to 10 ms): on a
/// loaded machine it says more than the clock on the wall. `None` where the system does not tell.
fn processor_ms() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? * 1e-6)
}
