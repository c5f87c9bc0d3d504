//! `traflux te train`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use clap::Args;
use traflux_core::BitRate;
use traflux_policy::Checkpoint;
use traflux_te::QuickChoice;
use traflux_te::generate::{BackboneConfig, TrafficModel, backbone};

use super::evaluate::block;
use super::input::{
    LoadArgs, PairCount, checkpoint, end_on_interrupt, limit, name_of, save, say, warn_of_first_units,
};
use crate::cli::Failure;
use crate::progress::Progress;
use crate::te::{
    Case, Earlier, EvaluateError, FRACTIONS, Part, RunName, SelectorKind, Study, StudyOptions, TrainOptions,
    TrainPoint, Watch, study,
};

/// Matrices of a generated network.
const GENERATED_MATRICES: usize = 25;

#[derive(Debug, Args)]
#[command(
    after_help = "Matrices are divided in the order of time: the first --train of them for the training, of \
    these the last --validate to choose the best checkpoint, and the last --test, set aside, for the result.\n\n\
    Examples:\n  \
    traflux te train backbone.json week.rows --html learning.html\n  \
    traflux te train backbone.json week.rows --train 1152 --seeds 5 --threads 2\n  \
    traflux te train backbone.json week.rows --ablate imitation --seeds 3       is imitation worth it?\n  \
    traflux te train a.json a.rows b.json b.rows --generated 8                  one policy for all networks\n  \
    traflux te train a.json a.rows b.json b.rows --generated 8 --leave-one-out  and for those it has not seen?\n  \
    traflux te train backbone.json week.rows --resume                           goes on where it was left\n  \
    traflux te evaluate backbone.json week.rows --history 1152 --checkpoint policy.safetensors\n\n\
    The best policy so far is in --out and the newest in a file `….last.…` beside it from the first point of the curve \
    on. Ctrl-C ends the training and tests the best; Ctrl-C once more ends at once. On one network every pair has \
    weights of its own unless --any-network is given; on several, and with --any-network, pairs are scored by \
    features of their paths alone, and the policy fits every network."
)]
pub(in crate::cli) struct TrainArgs {
    /// Networks, each with its matrices.
    #[arg(value_name = "NETWORK MATRICES")]
    files: Vec<PathBuf>,
    /// No more than this many matrices of each network, evenly spread over its file.
    #[arg(long, value_name = "COUNT", value_parser = block, help_heading = "What is learned from")]
    spread: Option<usize>,
    /// Adds so many generated backbones of 12, 15, 18, … nodes with 25 matrices each.
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "What is learned from")]
    generated: usize,
    /// Most pairs that may be rerouted, or a share of all.
    #[arg(
        short,
        long,
        value_name = "COUNT|SHARE%",
        default_value = "10%",
        help_heading = "What is learned from"
    )]
    k: PairCount,
    /// The first matrices, for the training; four of seven unless given.
    #[arg(long, value_name = "COUNT|SHARE%", help_heading = "What is learned from")]
    train: Option<PairCount>,
    /// Of those the last, to choose the best checkpoint; 0 keeps the newest.
    #[arg(long, value_name = "COUNT|SHARE%", default_value = "15%", help_heading = "What is learned from")]
    validate: PairCount,
    /// The last matrices, for the result only; all behind those of the training unless given.
    #[arg(long, value_name = "COUNT|SHARE%", help_heading = "What is learned from")]
    test: Option<PairCount>,
    /// Goes on with trainings that were left, and takes finished ones as they are.
    #[arg(long, help_heading = "Trainings")]
    resume: bool,
    /// Seed of everything; the first one with --seeds.
    #[arg(long, default_value_t = 1, help_heading = "Trainings")]
    seed: u64,
    /// So many independent trainings.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100), help_heading = "Trainings")]
    seeds: u64,
    /// Trains without each network in turn and tests on that one.
    #[arg(long, help_heading = "Trainings")]
    leave_one_out: bool,
    /// Trains also without these parts: imitation, reinforcement, identities (the weights of every pair).
    #[arg(long, value_name = "PARTS", value_delimiter = ',', help_heading = "Trainings")]
    ablate: Vec<Part>,
    /// Updates on choices that the policy draws and the solver judges.
    #[arg(long, default_value_t = 1500, help_heading = "Trainings")]
    updates: usize,
    /// Updates on choices of the teacher before that; 0 leaves imitation out.
    #[arg(long, default_value_t = 300, help_heading = "Trainings")]
    examples: usize,
    /// Who is imitated; unless given, `quick` or, up to 1000 pairs, the oracle, as a short training with each says.
    #[arg(long, value_name = "SELECTOR", help_heading = "Trainings")]
    teacher: Option<SelectorKind>,
    /// Which quick choice the policy is shown, `rounds` or `fractions`; rounds unless given, with --stale fractions.
    #[arg(long, value_name = "KIND", value_parser = quick_choice, help_heading = "Trainings")]
    quick_choice: Option<QuickChoice>,
    /// Without weights of its own for every pair: for use on other networks.
    #[arg(long, help_heading = "Trainings")]
    any_network: bool,
    /// What is taken off the reward for all traffic being chosen; in proportion for a part of it.
    #[arg(long, default_value_t = 0.05, help_heading = "Trainings")]
    disturbance_price: f64,
    /// Choices are judged on the matrix after, as a real controller's are.
    #[arg(long, help_heading = "Trainings")]
    stale: bool,
    /// Threads, all unless given; they change how long it takes and nothing else.
    #[arg(long, help_heading = "Trainings")]
    threads: Option<usize>,
    /// Ends the training after so many seconds and tests the best by then.
    #[arg(long, value_name = "SECONDS", help_heading = "Trainings")]
    deadline_s: Option<f64>,
    /// Whom the policy is tested beside, named as for `traflux te evaluate --selectors`; unless given Top-K critical,
    /// greedy relief and relax and round.
    #[arg(long, value_name = "SELECTORS", value_delimiter = ',', help_heading = "The test")]
    rivals: Vec<SelectorKind>,
    /// Without the search for a fixed set among the rivals.
    #[arg(long, help_heading = "The test")]
    no_fixed_set: bool,
    /// In the test the policy chooses outside the range of its training too, instead of greedy relief.
    #[arg(long, help_heading = "The test")]
    no_fallback: bool,
    /// Neighbouring matrices that are drawn together for intervals.
    #[arg(long, value_name = "COUNT", default_value_t = 12, value_parser = block, help_heading = "The test")]
    block: usize,
    /// Where the policy goes. With several trainings the name tells them apart.
    #[arg(long, default_value = "policy.safetensors", value_name = "FILE", help_heading = "What is written")]
    out: PathBuf,
    /// Where the learning curves go, as CSV.
    #[arg(long, value_name = "FILE", help_heading = "What is written")]
    curve: Option<PathBuf>,
    /// Where a page with curves, plots and tables goes.
    #[arg(long, value_name = "FILE", help_heading = "What is written")]
    html: Option<PathBuf>,
    /// Where the numbers of every matrix of the test go.
    #[arg(long, value_name = "FILE", help_heading = "What is written")]
    csv: Option<PathBuf>,
    /// Width of the hidden layers.
    #[arg(long, default_value_t = 16, help_heading = "Settings of the method")]
    hidden: usize,
    /// Matrices per update.
    #[arg(long, default_value_t = 16, help_heading = "Settings of the method")]
    states: usize,
    /// Choices drawn for each of them, at least 2.
    #[arg(long, default_value_t = 16, help_heading = "Settings of the method")]
    draws: usize,
    /// Step size at first.
    #[arg(long, default_value_t = 2e-3, help_heading = "Settings of the method")]
    learning_rate: f64,
    /// What entropy counts at first.
    #[arg(long, default_value_t = 0.02, help_heading = "Settings of the method")]
    entropy: f64,
    #[command(flatten, next_help_heading = "How files are read")]
    load: LoadArgs,
}

pub(super) fn train(args: &TrainArgs) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let limit = limit("--deadline-s", args.deadline_s)?;
    let cases = args.cases()?;
    let options = args.options(&cases, limit)?;
    end_on_interrupt(&options.limit);
    let watcher = Watcher {
        bar: Progress::new("matrices"),
        files: Files {
            out: args.out.clone(),
            several: args.seeds > 1,
            resume: args.resume,
            written: Mutex::new(Vec::new()),
        },
    };
    let result = study(&cases, &options, &watcher);
    let Watcher { bar, files } = watcher;
    drop(bar);
    let study = result?;
    say(&study.table())?;
    args.write(&study, &cases)?;
    let mut text = String::new();
    for path in files.written.into_inner().unwrap_or_default() {
        text += &format!("policy: {}\n", path.display());
    }
    if let Some(path) = &args.html {
        text += &format!("report: {}\n", path.display());
    }
    say(&format!("{text}{:.1} s\n", began.elapsed().as_secs_f64()))?;
    Ok(ExitCode::SUCCESS)
}

impl TrainArgs {
    fn cases(&self) -> Result<Vec<Case>, Failure> {
        if self.files.len() % 2 == 1 {
            return Err("every NETWORK needs its MATRICES: an even number of files".into());
        }
        let mut cases: Vec<Case> = Vec::new();
        for pair in self.files.chunks(2) {
            let [from, of] = pair else { continue };
            let (network, matrices) = self.load.load(from, Some(of))?;
            warn_of_first_units(&network, &matrices)?;
            let twice = self.files.chunks(2).filter(|files| files[0] == *from).count() > 1;
            let name = if twice { format!("{} {}", name_of(from), name_of(of)) } else { name_of(from) };
            let same = |other: &Path| name_of(other) == name_of(from);
            let unique = self.files.chunks(2).all(|files| files[0] == *from || !same(&files[0]));
            let group = if unique { name_of(from) } else { from.display().to_string() };
            cases.push(self.case(name, group, network, matrices));
        }
        for seed in 0..self.generated {
            let config = BackboneConfig { nodes: 12 + 3 * seed, ..BackboneConfig::default() };
            let network = backbone(&config, seed as u64)?;
            let mean = BitRate::gigabits_per_second(1.0);
            let model = match seed % 4 {
                0 => TrafficModel::Lognormal { mean, sigma: 1.0 },
                1 => TrafficModel::Exponential { mean },
                2 => TrafficModel::UniformAround { mean, half_width: 0.4 },
                _ => TrafficModel::Lognormal { mean, sigma: 2.0 },
            };
            let matrices = model.matrices(&network, GENERATED_MATRICES, seed as u64)?;
            cases.push(self.case(format!("generated {seed}"), "generated".to_owned(), network, matrices));
        }
        if cases.is_empty() {
            return Err("nothing to learn from: name NETWORK MATRICES, or --generated COUNT".into());
        }
        Ok(cases)
    }

    fn case(
        &self,
        name: String,
        group: String,
        network: traflux_core::Network,
        mut matrices: Vec<traflux_core::TrafficMatrix>,
    ) -> Case {
        if let Some(most) = self.spread.filter(|most| matrices.len() > *most) {
            let step = matrices.len() / most;
            matrices = matrices.into_iter().step_by(step).take(most).collect();
        }
        let all = matrices.len();
        let train = self.train.map_or(all * 4 / 7, |train| train.part_of(all));
        let test = self.test.map_or(all.saturating_sub(train), |test| test.part_of(all));
        let validate = self.validate.part_of(train).min(train);
        let count = self.k.of(&network);
        Case { name, group, network, matrices, count, train, validate, test }
    }

    fn options(&self, cases: &[Case], limit: crate::te::Limit) -> Result<StudyOptions, Failure> {
        let one = cases.iter().all(|case| case.group == cases[0].group) && self.generated == 0;
        let identities = one && !self.any_network;
        if self.ablate.contains(&Part::Identities) && !identities {
            return Err("--ablate identities is for one network without --any-network".into());
        }
        let threads = self
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get));
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        let command = format!(
            "traflux te train ({}) --train {} --updates {} --examples {}{}{}",
            names.join(", "),
            cases[0].train,
            self.updates,
            self.examples,
            if self.any_network { " --any-network" } else { "" },
            if self.stale { " --stale" } else { "" },
        );
        let usual = [SelectorKind::TopKCritical, SelectorKind::GreedyRelief, SelectorKind::RelaxAndRound];
        Ok(StudyOptions {
            train: TrainOptions {
                teacher: self.teacher,
                // Fractions are smoother from one matrix to the next, and so say more about it.
                quick_choice: self.quick_choice.unwrap_or(if self.stale {
                    FRACTIONS
                } else {
                    QuickChoice::DEFAULT
                }),
                example_updates: self.examples,
                updates: self.updates,
                identities,
                disturbance_price: self.disturbance_price,
                stale: self.stale,
                hidden: self.hidden,
                states: self.states,
                draws: self.draws,
                learning_rate: self.learning_rate,
                entropy: self.entropy,
                threads,
                command,
            },
            seeds: (0..self.seeds).map(|at| self.seed.wrapping_add(at)).collect(),
            without: self.ablate.clone(),
            leave_one_out: self.leave_one_out,
            rivals: if self.rivals.is_empty() { usual.to_vec() } else { self.rivals.clone() },
            // What has not seen a network is not to be compared with a set found on its past.
            fixed_set: !self.no_fixed_set && !self.leave_one_out,
            block: self.block,
            fallback: !self.no_fallback,
            limit,
        })
    }

    fn write(&self, study: &Study, cases: &[Case]) -> Result<(), Failure> {
        if let Some(path) = &self.curve {
            save(path, &study.curve_csv())?;
        }
        if let Some(path) = &self.csv {
            save(path, &study.test_csv())?;
        }
        if let Some(path) = &self.html {
            let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
            let notes = [
                format!("made by `traflux te train`, Traflux {}", env!("CARGO_PKG_VERSION")),
                format!(
                    "{} updates on examples, {} on judged choices; of {} matrices for the training {} for validation, \
                     then {} for the test ({})",
                    self.examples,
                    self.updates,
                    cases[0].train,
                    cases[0].validate,
                    cases[0].test,
                    cases[0].name
                ),
                format!(
                    "intervals: 95 %, bootstrap over blocks of up to {} neighbouring matrices",
                    self.block
                ),
            ];
            save(path, &study.html(&names.join(", "), cases, &notes))?;
        }
        Ok(())
    }
}

fn quick_choice(text: &str) -> Result<QuickChoice, String> {
    match text {
        "rounds" => Ok(QuickChoice::DEFAULT),
        "fractions" => Ok(FRACTIONS),
        _ => Err(format!("`{text}` is neither rounds nor fractions")),
    }
}

/// Where the policies of a study go.
struct Files {
    out: PathBuf,
    several: bool,
    resume: bool,
    /// The best of each training, in their order.
    written: Mutex<Vec<PathBuf>>,
}

impl Files {
    /// The best and the last of one training.
    fn of(&self, name: &RunName) -> (PathBuf, PathBuf) {
        let mut stem = name_of(&self.out);
        if let Some(group) = &name.left_out {
            stem += &format!("-without-{}", plain(group));
        }
        if let Some(part) = name.without {
            stem += &format!("-no-{part}");
        }
        if self.several {
            stem += &format!("-seed{}", name.seed);
        }
        let extension = self.out.extension().unwrap_or("safetensors".as_ref()).to_string_lossy();
        let at = |name: String| self.out.with_file_name(name);
        (at(format!("{stem}.{extension}")), at(format!("{stem}.last.{extension}")))
    }
}

/// A name that every file system takes.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// Shows a bar and writes checkpoints as they come.
struct Watcher {
    bar: Progress,
    files: Files,
}

impl Watch for Watcher {
    fn progress(&self, done: f64, what: &str) {
        self.bar.set(done);
        self.bar.message(what.to_owned());
    }

    fn point(
        &self,
        name: &RunName,
        point: &TrainPoint,
        last: &Checkpoint,
        best: Option<&Checkpoint>,
    ) -> Result<(), EvaluateError> {
        let failed = |error: traflux_policy::CheckpointError| EvaluateError::Watcher(error.to_string());
        let (best_file, last_file) = self.files.of(name);
        if let Some(best) = best {
            best.save(&best_file).map_err(failed)?;
        }
        last.save(&last_file).map_err(failed)?;
        if let Some(validation) = point.validation {
            self.bar.line(&format!(
                "{name}: {:>6} updates, {:>8} rewards, PR_U {validation:.4} in the validation{}",
                point.update,
                point.rewards,
                if best.is_some() { ", best" } else { "" }
            ));
        }
        self.files.note(best_file);
        Ok(())
    }

    fn earlier(&self, name: &RunName) -> Result<Option<Earlier>, EvaluateError> {
        let (best, last) = self.files.of(name);
        if !self.files.resume || !best.exists() || !last.exists() {
            return Ok(None);
        }
        let load = |path: &Path| checkpoint(path).map_err(EvaluateError::Watcher);
        let earlier = Earlier { last: load(&last)?, best: load(&best)? };
        self.files.note(best);
        Ok(Some(earlier))
    }
}

impl Files {
    fn note(&self, path: PathBuf) {
        let mut written = self.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !written.contains(&path) {
            written.push(path);
        }
    }
}
