//! `traflux te evaluate`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::input::{
    InputArgs, PairCount, checkpoint, end_on_interrupt, limit, matrices_text, name_of, save, say,
    warn_of_units,
};
use crate::cli::Failure;
use crate::progress::Progress;
use crate::te::train::same_training;
use crate::te::{EvaluateOptions, LARGE, SelectorKind, TrainedArm, evaluate as play};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    traflux te evaluate backbone.json week.rows\n  \
    traflux te evaluate backbone.json week.rows -k 5% --history 1008 --html report.html --csv report.csv\n  \
    traflux te evaluate backbone.json week.rows --stale --selectors top-k-critical,greedy-relief\n  \
    traflux te evaluate backbone.json week.rows --checkpoint a.safetensors --checkpoint b.safetensors\n  \
    traflux te evaluate kdl.json tm.rows -k 1% --deadline-s 120      a large network, as far as it comes\n\n\
    Ctrl-C ends with the matrices played by then.")]
pub(in crate::cli) struct EvaluateArgs {
    #[command(flatten)]
    input: InputArgs,
    /// Most pairs that may be rerouted, or a share of all.
    #[arg(short, long, value_name = "COUNT|SHARE%", default_value = "10%")]
    k: PairCount,
    /// Who chooses, of ecmp, top-k, top-k-critical, top-k-relief, greedy-relief, quick, relax-and-round, least-moved,
    /// dual-guided and oracle; unless given all of them, beyond 100 nodes those without a linear program.
    #[arg(long, value_name = "SELECTORS", value_delimiter = ',')]
    selectors: Vec<SelectorKind>,
    /// The first matrices are history: a fixed set is found on them, and the others are played.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    history: usize,
    /// A selector that `traflux te train` made. Several that differ only in their seed count by their mean.
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Trained selectors choose outside the range of their training too, instead of greedy relief.
    #[arg(long)]
    no_fallback: bool,
    /// Choice and paths of each matrix are applied to the next, as in a real controller.
    #[arg(long)]
    stale: bool,
    /// Compare end-to-end delay too.
    #[arg(long)]
    delay: bool,
    /// Neighbouring matrices that are drawn together for intervals: at least as long as traffic resembles itself.
    #[arg(long, value_name = "COUNT", default_value_t = 12, value_parser = block)]
    block: usize,
    /// Relative gap of optima and flows that is good enough; 0 is exact. Unless given: exact up to 100 nodes, 1e-4
    /// beyond.
    #[arg(long, value_name = "GAP")]
    tolerance: Option<f64>,
    /// Ends after so many seconds with the matrices played by then; a choice that has begun is finished.
    #[arg(long, value_name = "SECONDS")]
    deadline_s: Option<f64>,
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

/// A number of neighbours drawn together.
pub(super) fn block(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` must be a whole number, at least 1")),
        Ok(block) => Ok(block),
    }
}

pub(super) fn evaluate(args: &EvaluateArgs) -> Result<ExitCode, Failure> {
    let limit = limit("--deadline-s", args.deadline_s)?;
    if let Some(gap) = args.tolerance.filter(|gap| !(0.0..1.0).contains(gap)) {
        return Err(format!("--tolerance {gap} is outside [0, 1)").into());
    }
    let (network, matrices) = args.input.load()?;
    let selectors = match args.selectors.as_slice() {
        [] if network.nodes().len() > LARGE => SelectorKind::WITHOUT_PROGRAM.to_vec(),
        [] => SelectorKind::ALL.to_vec(),
        named => named.to_vec(),
    };
    let options = EvaluateOptions {
        count: args.k.of(&network),
        selectors,
        history: args.history,
        trained: trained(&args.checkpoint)?,
        stale: args.stale,
        delay: args.delay,
        block: args.block,
        fallback: !args.no_fallback,
        tolerance: args.tolerance,
        limit,
    };
    end_on_interrupt(&options.limit);
    let bar = Progress::new(matrices_text(matrices.len()));
    let began = Instant::now();
    let result = play(&network, &matrices, &options, &mut |done| bar.set(done));
    drop(bar);
    let comparison = result?;
    warn_of_units(comparison.optimal.iter().copied());
    // What was found is shown even where a file cannot be written.
    if args.json {
        say(&(serde_json::to_string_pretty(&comparison)? + "\n"))?;
    } else {
        say(&format!("{}{:.1} s\n", comparison.table(), began.elapsed().as_secs_f64()))?;
    }
    if let Some(path) = &args.csv {
        save(path, &comparison.csv())?;
    }
    if let Some(path) = &args.html {
        let notes = [
            format!("made by `traflux te evaluate`, Traflux {}", env!("CARGO_PKG_VERSION")),
            format!("intervals: 95 %, bootstrap over blocks of up to {} neighbouring matrices", args.block),
        ];
        save(path, &comparison.html(&args.input.name(), &network, &notes))?;
        if !args.json {
            say(&format!("report: {}\n", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Those that differ only in their seed are one family.
fn trained(files: &[PathBuf]) -> Result<Vec<TrainedArm>, Failure> {
    let mut arms: Vec<TrainedArm> = Vec::new();
    for path in files {
        let checkpoint = checkpoint(path)?;
        let alike = arms.iter().find(|arm| same_training(&arm.checkpoint, &checkpoint));
        let family = alike.map_or_else(|| unique(path, &arms), |arm| arm.family.clone());
        let name = if files.len() == 1 { "learned".to_owned() } else { unique(path, &arms) };
        arms.push(TrainedArm { name, family, checkpoint });
    }
    if arms.iter().all(|arm| arm.family == arms[0].family) {
        arms.iter_mut().for_each(|arm| arm.family = "learned".to_owned());
    }
    Ok(arms)
}

/// The name of a file, or all of its path where the name is taken.
fn unique(path: &Path, arms: &[TrainedArm]) -> String {
    let name = name_of(path);
    if arms.iter().any(|arm| arm.name == name) { path.display().to_string() } else { name }
}
