//! `traflux te paths`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use traflux_core::{GroupIx, LinkIx, Network, NodeIx, TrafficMatrix};
use traflux_lp::multicommodity::check::{verify, verify_listed};
use traflux_lp::multicommodity::{
    FlowError, FlowProblem, MinMaxSolver, PathChoice, PathSets, PathSetsFit, PathSetsStatus, Preference,
    choose_paths,
};

use super::input::{InputArgs, deadline, matrices_text, save, say, warn_of_units};
use crate::cli::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    traflux te paths backbone.json week.rows                   how many paths does each pair need?\n  \
    traflux te paths backbone.json week.rows --history 1000    chosen from the first 1,000, judged on the rest\n  \
    traflux te paths backbone.json week.rows --most 3 --out tunnels.json")]
pub(in crate::cli) struct PathsArgs {
    #[command(flatten)]
    input: InputArgs,
    /// Choose from so many of the first matrices and judge on the others; from all without it.
    #[arg(long, value_name = "COUNT")]
    history: Option<NonZeroUsize>,
    /// Paths that every pair gets in any case, where the network has them.
    #[arg(long, value_name = "PATHS", default_value = "2")]
    least: NonZeroUsize,
    /// The most paths of a pair.
    #[arg(long, value_name = "PATHS", default_value = "4")]
    most: NonZeroUsize,
    /// What the utilisation over the chosen paths may exceed the optimum over all paths by.
    #[arg(long, value_name = "GAP", default_value_t = 0.01)]
    tolerance: f64,
    /// Time limit in seconds; what was chosen by then is shown with its gaps.
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    deadline_s: f64,
    /// Where the paths go, as JSON: nodes by name, links by position.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The paths of one pair as they are written.
#[derive(Debug, Serialize)]
struct Pair<'a> {
    source: &'a str,
    target: &'a str,
    paths: Vec<Path<'a>>,
}

#[derive(Debug, Serialize)]
struct Path<'a> {
    nodes: Vec<&'a str>,
    /// Of parallel links nodes do not say which.
    links: Vec<usize>,
}

pub(super) fn paths(args: &PathsArgs) -> Result<ExitCode, Failure> {
    let (network, matrices) = args.input.load()?;
    let limit = deadline(args.deadline_s)?;
    if !(args.tolerance.is_finite() && args.tolerance >= 0.0) {
        return Err(format!("--tolerance {} must be finite and not negative", args.tolerance).into());
    }
    if args.least > args.most {
        return Err(format!("--least {} is more than --most {}", args.least, args.most).into());
    }
    let history = args.history.map_or(matrices.len(), NonZeroUsize::get);
    if history > matrices.len() {
        return Err(
            format!("--history {history} is more than the {} matrices there are", matrices.len()).into()
        );
    }
    let choice = PathChoice { least_paths: args.least, most_paths: args.most, tolerance: args.tolerance };
    let deadline = Instant::now() + limit;
    let (known, later) = matrices.split_at(history);
    let sets = choose_paths(&network, known, &choice, Some(deadline))?;
    warn_of_units(sets.fits.iter().map(|fit| fit.lower_bound));
    let mut text = format!(
        "{} paths for {} pairs, {:.2} each, at most {}\n",
        sets.path_count(),
        network.pair_count(),
        sets.path_count() as f64 / network.pair_count().max(1) as f64,
        sets.most_paths()
    );
    let fits = gaps(sets.fits.iter().map(PathSetsFit::gap));
    text += &format!("{} they were chosen for: {fits}\n", matrices_text(known.len()));
    if !later.is_empty() {
        let fits = gaps(judge(&network, &sets, later)?.into_iter());
        text += &format!("{} after these: {fits}\n", matrices_text(later.len()));
    }
    text += match sets.status {
        PathSetsStatus::Reached => "",
        PathSetsStatus::Limited => "some matrix would need more paths than --most allows\n",
        PathSetsStatus::Deadline => "the deadline passed before all matrices were within the tolerance\n",
    };
    say(&text)?;
    if let Some(out) = &args.out {
        save(out, &serde_json::to_string_pretty(&named(&network, &sets))?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the choice costs at most on matrices that it did not know.
fn judge(network: &Network, sets: &PathSets, matrices: &[TrafficMatrix]) -> Result<Vec<f64>, Failure> {
    let mut all = MinMaxSolver::new(network);
    let mut listed = MinMaxSolver::new(network);
    matrices
        .iter()
        .map(|demands| {
            let problem = FlowProblem::all(network, demands)?;
            let paths = sets.listed(&problem);
            let over_sets = listed.solve_listed(&problem, &paths, Preference::None, None)?;
            verify_listed(&problem, &paths, &over_sets).map_err(FlowError::from)?;
            let over_all = all.solve(&problem, None)?;
            verify(&problem, None, &over_all).map_err(FlowError::from)?;
            let bound = over_all.lower_bound;
            let reached = over_sets.utilization;
            Ok(if reached > 0.0 { ((reached - bound) / reached).max(0.0) } else { 0.0 })
        })
        .collect()
}

fn gaps(gaps: impl Iterator<Item = f64>) -> String {
    let gaps: Vec<f64> = gaps.collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len().max(1) as f64;
    let worst = gaps.iter().copied().fold(0.0, f64::max);
    format!(
        "{:.3} % above the optimum over all paths in the mean, {:.3} % at worst",
        mean * 100.0,
        worst * 100.0
    )
}

fn named<'a>(network: &'a Network, sets: &PathSets) -> Vec<Pair<'a>> {
    let name = |node: NodeIx| network.nodes()[node.ix()].name.as_str();
    let path = |source: NodeIx, links: &Vec<LinkIx>| Path {
        nodes: std::iter::once(source)
            .chain(links.iter().map(|link| network.links()[link.ix()].head))
            .map(name)
            .collect(),
        links: links.iter().map(|link| link.ix()).collect(),
    };
    (0..network.pair_count())
        .map(GroupIx::from)
        .filter(|pair| !sets.of(*pair).is_empty())
        .map(|pair| {
            let (source, target) = network.pair(pair);
            let paths = sets.of(pair).iter().map(|links| path(source, links)).collect();
            Pair { source: name(source), target: name(target), paths }
        })
        .collect()
}
