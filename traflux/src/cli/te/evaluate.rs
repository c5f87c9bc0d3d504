//! `traflux te evaluate`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::input::{InputArgs, PairCount, STEPS, bar, save, say, warn_of_units};
use crate::cli::Failure;
use crate::te::{EvaluateOptions, SelectorKind, evaluate as play};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    traflux te evaluate backbone.json week.rows\n  \
    traflux te evaluate backbone.json week.rows -k 5% --history 1008 --html report.html --csv report.csv\n  \
    traflux te evaluate backbone.json week.rows --stale --selectors top-k-critical,greedy-relief")]
pub(in crate::cli) struct EvaluateArgs {
    #[command(flatten)]
    input: InputArgs,
    /// Most pairs that may be rerouted, or a share of all.
    #[arg(short, long, value_name = "COUNT|SHARE%", default_value = "10%")]
    k: PairCount,
    /// Who chooses; all selectors unless given.
    #[arg(long, value_name = "SELECTORS", value_delimiter = ',')]
    selectors: Vec<SelectorKind>,
    /// The first matrices are history: a fixed set is found on them, and the others are played.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    history: usize,
    /// A selector that `traflux te train` made.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Choice and paths of each matrix are applied to the next, as in a real controller.
    #[arg(long)]
    stale: bool,
    /// Compare end-to-end delay too.
    #[arg(long)]
    delay: bool,
    /// Where a page with plots goes.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Where the numbers of every matrix go.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// The result as JSON on standard output.
    #[arg(long)]
    json: bool,
}

pub(super) fn evaluate(args: &EvaluateArgs) -> Result<ExitCode, Failure> {
    let (network, matrices) = args.input.load()?;
    let options = EvaluateOptions {
        count: args.k.of(&network),
        selectors: if args.selectors.is_empty() {
            SelectorKind::ALL.to_vec()
        } else {
            args.selectors.clone()
        },
        history: args.history,
        checkpoint: args.checkpoint.as_deref().map(traflux_policy::Checkpoint::load).transpose()?,
        stale: args.stale,
        delay: args.delay,
    };
    let bar = bar(format!("{} matrices", matrices.len()));
    let began = Instant::now();
    let result = play(&network, &matrices, &options, &mut |done| bar.set_position((done * STEPS) as u64));
    bar.finish_and_clear();
    let comparison = result?;
    if let Some(path) = &args.csv {
        save(path, &comparison.csv())?;
    }
    if let Some(path) = &args.html {
        let notes = [
            format!("made by `traflux te evaluate`, Traflux {}", env!("CARGO_PKG_VERSION")),
            "intervals: 95 %, bootstrap over blocks of up to 12 neighbouring matrices".to_owned(),
        ];
        save(path, &comparison.html(&args.input.name(), &network, &notes))?;
    }
    warn_of_units(comparison.optimal.iter().copied());
    if args.json {
        say(&(serde_json::to_string_pretty(&comparison)? + "\n"))?;
    } else {
        let mut text = comparison.table();
        text += &format!("{:.1} s\n", began.elapsed().as_secs_f64());
        if let Some(path) = &args.html {
            text += &format!("report: {}\n", path.display());
        }
        say(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
