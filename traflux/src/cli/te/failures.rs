//! `traflux te failures`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;
use traflux_core::{BitRate, Network, TrafficMatrix};
use traflux_lp::multicommodity::FlowProblem;
use traflux_te::{
    Cut, Failure as Scenario, NetworkEncoder, RiskGroup, check_served, ecmp, group_failures, link_failures,
    node_failures,
};

use super::input::{InputArgs, PairCount, matrices_text, say, warn_of_units};
use super::least::Least;
use crate::cli::Failure;
use crate::te::SelectorKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Each link with its twin in the other direction.
    Links,
    /// Each direction of a link alone.
    Directions,
    /// Each node with all its links.
    Nodes,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Each row is one failure: what is left is routed anew by ECMP, with K pairs rerouted, and at best; \
    of each the utilisation of the fullest link on the worst matrix. Demands that nothing joins any more are `lost`.\n\n\
    Examples:\n  \
    traflux te failures backbone.json week.rows --limit 12\n  \
    traflux te failures backbone.json week.rows --of nodes -k 5% --select top-k-critical\n  \
    traflux te failures backbone.json week.rows --groups ducts.json\n\n\
    ducts.json names shared risks with the positions of their links, as `te solve --out` counts them:\n  \
    [{\"name\": \"duct 1\", \"links\": [0, 1, 8, 9]}]"
)]
pub(in crate::cli) struct FailuresArgs {
    #[command(flatten)]
    input: InputArgs,
    /// What fails, one after the other.
    #[arg(long, value_enum, default_value_t = What::Links, conflicts_with = "groups")]
    of: What,
    /// Groups of links that fail together, as JSON.
    #[arg(long, value_name = "FILE")]
    groups: Option<PathBuf>,
    /// Most pairs that may be rerouted, or a share of all.
    #[arg(short, long, value_name = "COUNT|SHARE%", default_value = "10%")]
    k: PairCount,
    /// Who chooses them; names as for `traflux te evaluate --selectors`.
    #[arg(long, value_name = "SELECTOR", default_value = "quick")]
    select: SelectorKind,
    /// The result as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// What became of the network, on its worst matrix each.
#[derive(Debug, Serialize)]
struct Outcome {
    /// What failed; empty for the intact network.
    failure: String,
    /// Links that are down.
    links_down: usize,
    /// Pairs that nothing joins any more.
    pairs_parted: usize,
    /// The greatest share of a matrix that cannot be served.
    lost_share: f64,
    /// Utilisation of the fullest link under ECMP.
    ecmp: f64,
    /// The same with K pairs rerouted.
    rerouted: f64,
    /// The same at best.
    optimal: f64,
}

pub(super) fn failures(args: &FailuresArgs) -> Result<ExitCode, Failure> {
    let (network, matrices) = args.input.load()?;
    let base = ecmp(&network)?;
    for demands in &matrices {
        check_served(&network, &base, demands)?;
    }
    let groups = args.groups.as_deref().map(risk_groups).transpose()?;
    let scenarios: Vec<Scenario> = match (&groups, args.of) {
        (Some(groups), _) => group_failures(&network, groups)?.collect(),
        (None, What::Links) => link_failures(&network, Cut::BothDirections).collect(),
        (None, What::Directions) => link_failures(&network, Cut::OneDirection).collect(),
        (None, What::Nodes) => node_failures(&network).collect(),
    };
    let intact = Scenario::new(&network, String::new(), Vec::new());
    let all = std::iter::once(&intact).chain(&scenarios);
    let all = all.map(|scenario| outcome(args, scenario, &matrices)).collect::<Result<Vec<_>, _>>()?;
    warn_of_units(all.iter().take(1).map(|outcome| outcome.optimal));
    let text = if args.json {
        serde_json::to_string_pretty(&all)? + "\n"
    } else {
        table(args, &network, &all, matrices.len())
    };
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn risk_groups(path: &Path) -> Result<Vec<RiskGroup>, Failure> {
    let named = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let text = std::fs::read_to_string(path).map_err(|problem| named(&problem))?;
    Ok(serde_json::from_str(&text).map_err(|problem| named(&problem))?)
}

fn outcome(args: &FailuresArgs, scenario: &Scenario, matrices: &[TrafficMatrix]) -> Result<Outcome, Failure> {
    let network = &scenario.network;
    let base = ecmp(network)?;
    let mut encoder = NetworkEncoder::new(network, &base);
    let mut policy = args.select.policy(network, &base, args.k.of(network));
    let (mut least, mut of_chosen) = (Least::new(network), Least::new(network));
    let mut worst = Outcome {
        failure: scenario.name.clone(),
        links_down: scenario.down.len(),
        pairs_parted: scenario.unreachable.len(),
        lost_share: 0.0,
        ecmp: 0.0,
        rerouted: 0.0,
        optimal: 0.0,
    };
    for demands in matrices {
        let (served, lost): (TrafficMatrix, BitRate) = scenario.served(demands)?;
        let total = demands.total();
        if total > 0.0 {
            worst.lost_share = worst.lost_share.max(lost.get() / total);
        }
        let loads = base.loads(network, &served);
        worst.ecmp = worst.ecmp.max(network.max_utilization(&loads));
        let chosen = policy.act(&encoder.encode(&served)?)?.critical;
        let problem = FlowProblem::critical(network, &base, &served, &chosen)?;
        worst.rerouted = worst.rerouted.max(of_chosen.of(&problem)?);
        worst.optimal = worst.optimal.max(least.of_all(network, &served)?);
    }
    Ok(worst)
}

fn table(args: &FailuresArgs, network: &Network, all: &[Outcome], matrices: usize) -> String {
    let width = all.iter().map(|outcome| outcome.failure.chars().count()).fold(8, usize::max);
    let chosen = format!("K by {}", args.select);
    let column = chosen.chars().count().max(8);
    let mut out = format!(
        "{} nodes, {} links, {}, at most {} of {} pairs rerouted; utilisation of the fullest link on the worst matrix\n\
         {:<width$} {:>6} {:>7} {:>7} {:>8} {chosen:>column$} {:>8}\n",
        network.nodes().len(),
        network.links().len(),
        matrices_text(matrices),
        args.k.of(network),
        network.pair_count(),
        "failure",
        "links",
        "parted",
        "lost %",
        "ecmp",
        "optimum"
    );
    for outcome in all {
        let name = if outcome.failure.is_empty() { "(none)" } else { &outcome.failure };
        out += &format!(
            "{name:<width$} {:>6} {:>7} {:>7.2} {:>8.4} {:>column$.4} {:>8.4}\n",
            outcome.links_down,
            outcome.pairs_parted,
            outcome.lost_share * 100.0,
            outcome.ecmp,
            outcome.rerouted,
            outcome.optimal
        );
    }
    let over = |of: fn(&Outcome) -> f64| {
        all.iter().filter(|outcome| !outcome.failure.is_empty() && of(outcome) > 1.0).count()
    };
    let (ecmp, rerouted, optimal) = (over(|o| o.ecmp), over(|o| o.rerouted), over(|o| o.optimal));
    out += &format!("overfull in {ecmp} by ECMP, {rerouted} with K pairs rerouted, {optimal} at best\n");
    out
}
