//! `traflux te solve`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;
use traflux_core::{BaseRouting, GroupIx, Network, PathShare, Policy, TrafficMatrix};
use traflux_lp::multicommodity::check::TOLERANCE;
use traflux_lp::multicommodity::{
    DelayCurve, FlowProblem, FlowStatus, LargeSolver, MinMaxSolver, Preference, TotalFlowSolver, least_delay,
    max_concurrent_flow_by,
};
use traflux_te::{NetworkEncoder, check_served, ecmp};

use super::answer::{Answer, Refuted};
use super::input::{InputArgs, PairCount, deadline, matrices_text, save, say, warn_of_units};
use crate::cli::Failure;
use crate::te::SelectorKind;

/// Beyond so many nodes the optimum over all paths is found to a tolerance unless told otherwise.
pub(super) const LARGE: usize = 100;
/// That tolerance.
const LARGE_TOLERANCE: f64 = 1e-4;
/// Pieces of the delay curve.
const DELAY_PIECES: usize = 20;
/// Links that a table shows.
const LINKS_SHOWN: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Objective {
    /// The least utilisation of the fullest link.
    Utilization,
    /// The least queueing delay: chords of Σ load / (capacity − load), which are above it between their ends.
    Delay,
    /// The factor by which all demands can grow.
    Concurrent,
    /// The most traffic that fits.
    Total,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Second {
    /// Any of the optimal flows.
    None,
    /// The one with the least propagation delay.
    Delay,
    /// The one that reroutes the least traffic.
    Rerouted,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    traflux te solve backbone.json tm.rows                      the optimum of each matrix\n  \
    traflux te solve backbone.json tm.rows -k 10% --select top-k-critical\n  \
    traflux te solve backbone.json tm.rows --second rerouted --limit 1 --out routing.json\n  \
    traflux te solve backbone.json tm.rows --objective concurrent\n  \
    traflux te solve kdl.json tm.rows --tolerance 0.01        certified to 1 %")]
pub(in crate::cli) struct SolveArgs {
    #[command(flatten)]
    input: InputArgs,
    /// What is sought.
    #[arg(long, value_enum, default_value_t = Objective::Utilization)]
    objective: Objective,
    /// Which of the flows of the least utilisation.
    #[arg(long, value_enum, default_value_t = Second::None)]
    second: Second,
    /// Reroute this many pairs only (or a share of all, such as 10%); all others follow ECMP.
    #[arg(short, long, value_name = "COUNT|SHARE%")]
    k: Option<PairCount>,
    /// Who chooses them; names as for `traflux te evaluate --selectors`.
    #[arg(long, value_name = "SELECTOR", default_value = "top-k-critical", requires = "k")]
    select: SelectorKind,
    /// Time limit for each matrix, in seconds; what is found by then is shown with its gap.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    deadline_s: f64,
    /// Relative gap that is good enough for the utilisation over all paths; 0 is exact. Unless given: exact up to 100
    /// nodes, 1e-4 beyond.
    #[arg(long, value_name = "GAP")]
    tolerance: Option<f64>,
    /// Where the paths of every matrix go, as JSON: nodes by name, links by position (one that leads both ways is two).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The result as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// What was found for one matrix.
#[derive(Debug, Serialize)]
struct Found {
    /// Position of the matrix, from 0.
    matrix: usize,
    /// Value of the objective.
    value: f64,
    /// No solution is better than this.
    bound: f64,
    /// Relative distance of the two.
    gap: f64,
    optimal: bool,
    seconds: f64,
    iterations: usize,
    /// The fullest links: tail, head, utilisation.
    fullest: Vec<(String, String, f64)>,
}

/// One pair with its paths.
#[derive(Debug, Serialize)]
struct Routed {
    source: String,
    target: String,
    demand_bit_s: f64,
    /// Part that stays on ECMP.
    base_share: f64,
    paths: Vec<RoutedPath>,
}

#[derive(Debug, Serialize)]
struct RoutedPath {
    share: f64,
    nodes: Vec<String>,
    /// Positions of the links in the network: of parallel ones nodes do not say which.
    links: Vec<usize>,
}

pub(super) fn solve(args: &SolveArgs) -> Result<ExitCode, Failure> {
    let (network, matrices) = args.input.load()?;
    deadline(args.deadline_s)?;
    if let Some(gap) = args.tolerance.filter(|gap| !(0.0..1.0).contains(gap)) {
        return Err(format!("--tolerance {gap} is outside [0, 1)").into());
    }
    refuse_without_effect(args)?;
    let mut session = Session::new(args, &network)?;
    let mut all = Vec::with_capacity(matrices.len());
    let mut routings = Vec::new();
    for (ix, demands) in matrices.iter().enumerate() {
        let (found, routed) = session.matrix(ix, demands)?;
        all.push(found);
        if args.out.is_some() {
            routings.push(routed);
        }
    }
    if args.objective == Objective::Utilization && args.k.is_none() {
        warn_of_units(all.iter().map(|found| found.value));
    }
    // What was found is shown even where a file cannot be written.
    say(&if args.json { serde_json::to_string_pretty(&all)? + "\n" } else { table(args, &network, &all) })?;
    if let Some(path) = &args.out {
        save(path, &serde_json::to_string_pretty(&routings)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Options that the objective has no use for.
fn refuse_without_effect(args: &SolveArgs) -> Result<(), Failure> {
    let utilization = args.objective == Objective::Utilization;
    if args.second != Second::None && !utilization {
        return Err(
            "--second decides among flows of the least utilisation: it needs --objective utilization".into(),
        );
    }
    if args.k.is_some() && matches!(args.objective, Objective::Concurrent | Objective::Total) {
        return Err(
            "how much fits is asked of all pairs: --objective concurrent and total go without -k".into()
        );
    }
    if args.tolerance.is_some() && !(utilization && args.k.is_none() && args.second == Second::None) {
        return Err("--tolerance is for the least utilisation over all paths, without -k and --second".into());
    }
    Ok(())
}

/// What is kept from one matrix to the next.
struct Session<'a> {
    args: &'a SolveArgs,
    network: &'a Network,
    /// What is not chosen follows it; of a large network it is not made without need.
    base: Option<BaseRouting>,
    chooser: Option<(NetworkEncoder, Box<dyn Policy>)>,
    solver: MinMaxSolver,
    total: TotalFlowSolver,
    /// Set: to a tolerance.
    large: Option<LargeSolver>,
}

impl<'a> Session<'a> {
    fn new(args: &'a SolveArgs, network: &'a Network) -> Result<Self, Failure> {
        let needed = args.k.is_some() || args.second == Second::Rerouted;
        let base = if needed { Some(ecmp(network)?) } else { None };
        let chooser = match (&base, args.k) {
            (Some(base), Some(k)) => {
                let policy = args.select.policy(network, base, k.of(network));
                Some((NetworkEncoder::new(network, base), policy))
            }
            _ => None,
        };
        let default = if network.nodes().len() > LARGE { LARGE_TOLERANCE } else { 0.0 };
        let tolerance = args.tolerance.unwrap_or(default);
        let all_paths = args.objective == Objective::Utilization && args.k.is_none();
        let large = (all_paths && args.second == Second::None && tolerance > 0.0).then(|| LargeSolver {
            tolerance,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        });
        Ok(Self {
            args,
            network,
            base,
            chooser,
            solver: MinMaxSolver::new(network),
            total: TotalFlowSolver::new(network),
            large,
        })
    }

    fn matrix(&mut self, matrix: usize, demands: &TrafficMatrix) -> Result<(Found, Vec<Routed>), Failure> {
        let began = Instant::now();
        let deadline = Some(began + deadline(self.args.deadline_s)?);
        let problem = match (&mut self.chooser, &self.base) {
            (Some((encoder, policy)), Some(base)) => {
                check_served(self.network, base, demands)?;
                let critical = policy.act(&encoder.encode(demands)?)?.critical;
                FlowProblem::critical(self.network, base, demands, &critical)?
            }
            _ => FlowProblem::all(self.network, demands)?,
        };
        let answer = self.answer(&problem, deadline)?;
        let seconds = began.elapsed().as_secs_f64();
        let stays = self.base.as_ref().filter(|_| self.args.second == Second::Rerouted);
        answer.check(&problem, stays).map_err(|source| Refuted { matrix, source })?;
        let (value, bound) = (answer.value(), answer.bound());
        let found = Found {
            matrix,
            value,
            bound,
            gap: if value == bound { 0.0 } else { (value - bound).abs() / value.abs().max(bound.abs()) },
            optimal: answer.status() == FlowStatus::Optimal,
            seconds,
            iterations: answer.iterations(),
            fullest: fullest(self.network, answer.loads()),
        };
        let mut routed = Vec::new();
        if self.args.out.is_some() {
            for (at, commodity) in problem.commodities.iter().enumerate() {
                let paths = answer.paths(at);
                if !paths.is_empty() {
                    let pair = self.network.pair_ix(commodity.source, commodity.target);
                    routed.push(self.routed(pair, commodity.demand, &paths, answer.base_share(at)));
                }
            }
        }
        Ok((found, routed))
    }

    fn answer(&mut self, problem: &FlowProblem<'_>, deadline: Option<Instant>) -> Result<Answer, Failure> {
        let Self { args, base, solver, total, large, .. } = self;
        let preference = match (args.second, base) {
            (Second::Rerouted, Some(base)) => Preference::LeastRerouted(base),
            (Second::Delay, _) => Preference::Delay,
            _ => Preference::None,
        };
        Ok(match (args.objective, large) {
            (Objective::Utilization, Some(large)) => Answer::Large(large.solve(problem, deadline)?),
            (Objective::Utilization, None) => {
                Answer::Exact(solver.solve_preferring(problem, preference, deadline)?)
            }
            (Objective::Delay, _) => {
                let curve = DelayCurve::queueing(DELAY_PIECES);
                Answer::Delay(least_delay(problem, &curve, deadline)?, curve)
            }
            (Objective::Concurrent, _) => {
                Answer::Concurrent(max_concurrent_flow_by(solver, problem, deadline)?)
            }
            (Objective::Total, _) => Answer::Total(total.solve(problem, deadline)?),
        })
    }

    fn routed(&self, pair: GroupIx, demand_bit_s: f64, paths: &[PathShare], base_share: f64) -> Routed {
        let name = |node: traflux_core::NodeIx| self.network.nodes()[node.ix()].name.clone();
        let (source, target) = self.network.pair(pair);
        let nodes = |path: &PathShare| {
            let heads = path.links.iter().map(|link| name(self.network.links()[link.ix()].head));
            std::iter::once(name(source)).chain(heads).collect()
        };
        Routed {
            source: name(source),
            target: name(target),
            demand_bit_s,
            base_share,
            paths: paths
                .iter()
                .map(|path| RoutedPath {
                    share: path.share,
                    nodes: nodes(path),
                    links: path.links.iter().map(|link| link.ix()).collect(),
                })
                .collect(),
        }
    }
}

fn fullest(network: &Network, loads: &[f64]) -> Vec<(String, String, f64)> {
    let utilization = |ix: usize| loads[ix] / network.links()[ix].capacity.get();
    let mut order: Vec<usize> = (0..loads.len()).collect();
    order.sort_by(|a, b| utilization(*b).total_cmp(&utilization(*a)).then(a.cmp(b)));
    let name = |node: traflux_core::NodeIx| network.nodes()[node.ix()].name.clone();
    let links = order.into_iter().take(LINKS_SHOWN).filter(|ix| loads[*ix] > 0.0);
    links
        .map(|ix| (name(network.links()[ix].tail), name(network.links()[ix].head), utilization(ix)))
        .collect()
}

fn table(args: &SolveArgs, network: &Network, all: &[Found]) -> String {
    let mut out = String::new();
    let (heading, bound) = match args.objective {
        Objective::Utilization => ("utilization", "lower bound"),
        Objective::Delay => ("delay by pieces", "lower bound"),
        Objective::Concurrent => ("factor", "upper bound"),
        Objective::Total => ("bit/s", "upper bound"),
    };
    let who = args.k.map_or_else(String::new, |k| {
        format!(", {} of {} pairs by {}", k.of(network), network.pair_count(), args.select)
    });
    out += &format!(
        "{} nodes, {} links, {}{who}\n",
        network.nodes().len(),
        network.links().len(),
        matrices_text(all.len())
    );
    out += &format!("{:>6} {heading:>14} {bound:>14} {:>9} {:>9}  fullest links\n", "matrix", "gap", "ms");
    for found in all {
        let links: Vec<String> =
            found.fullest.iter().take(3).map(|(a, b, u)| format!("{a}→{b} {:.1} %", u * 100.0)).collect();
        out += &format!(
            "{:>6} {:>14.6} {:>14.6} {:>9.1e} {:>9.3}  {}{}\n",
            found.matrix,
            found.value,
            found.bound,
            found.gap,
            found.seconds * 1e3,
            links.join(", "),
            if found.optimal { "" } else { "  (stopped early)" }
        );
    }
    let mut times: Vec<f64> = all.iter().map(|found| found.seconds * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let mean = all.iter().map(|found| found.value).sum::<f64>() / all.len().max(1) as f64;
    if let (Some(median), Some(longest)) = (times.get(times.len() / 2), times.last()) {
        out += &format!("{heading} {mean:.6} in the mean; {median:.3} ms median, {longest:.3} ms longest\n");
    }
    let fits = match args.objective {
        Objective::Utilization | Objective::Delay => "",
        Objective::Concurrent | Objective::Total => ", capacity",
    };
    out += &format!(
        "checked: conservation{fits}, loads, {heading} and {bound} recomputed from the problem alone, within {TOLERANCE:.0e}\n"
    );
    out
}
