//! Which network and which matrices does a command work on?

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use traflux_core::{BitRate, Network, TrafficMatrix};
use traflux_policy::{Checkpoint, CheckpointError};
use traflux_te::format::{
    Format, FormatError, NetworkFile, RateUnit, ReadOptions, Warning, matrices_in_file, parse_rate,
    read_network_file,
};
use traflux_te::share_of_pairs;

use super::least::Least;
use crate::cli::Failure;
use crate::te::Limit;

/// Exit code of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;
/// Beyond this optimum a network and its matrices hardly have the same unit.
const IMPLAUSIBLE: f64 = 10.0;
/// Nor below this.
const NEGLIGIBLE: f64 = 1e-3;
/// Seconds beyond which a limit of time is as good as none; more may be more than a clock can hold.
const LONGEST: f64 = 1e9;
/// Warnings of a file that are shown one by one.
const WARNINGS_SHOWN: usize = 5;

/// How files are read.
#[derive(Debug, Clone, Args)]
pub(super) struct ReadArgs {
    /// Format of the network; told by its content unless given.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub(super) from: Option<Format>,
    /// Unit of the numbers in the network's file, such as `kbit/s`, instead of what it or its format says.
    #[arg(long, value_name = "UNIT", value_parser = unit)]
    pub(super) unit: Option<RateUnit>,
    /// Unit of demands, such as `100 bytes / 5 min`, instead of what their file or its format says.
    #[arg(long, value_name = "UNIT", value_parser = unit)]
    pub(super) demand_unit: Option<RateUnit>,
    /// Capacity of links for which the file says none, such as `10Gbit/s`.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(super) capacity: Option<BitRate>,
    /// Every link of the file leads one way.
    #[arg(long, conflicts_with = "undirected")]
    pub(super) directed: bool,
    /// Every link of the file leads both ways.
    #[arg(long)]
    pub(super) undirected: bool,
}

impl ReadArgs {
    pub(super) fn options(&self) -> ReadOptions {
        ReadOptions {
            unit: self.unit,
            demand_unit: self.demand_unit,
            default_capacity: self.capacity,
            directed: (self.directed || self.undirected).then_some(self.directed),
            ..ReadOptions::default()
        }
    }

    /// For a file that holds matrices only: the unit of capacities is none of theirs.
    pub(super) fn matrix_options(&self) -> ReadOptions {
        ReadOptions { unit: self.demand_unit, ..self.options() }
    }

    pub(super) fn network(&self, path: &Path) -> Result<NetworkFile, Failure> {
        let file = read_network_file(path, self.from, &self.options())?;
        show(path, &file.warnings);
        Ok(file)
    }
}

/// How networks and matrices are read, and which of the matrices.
#[derive(Debug, Clone, Args)]
pub(super) struct LoadArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Format of the matrices; told by their content unless given.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    matrices_from: Option<Format>,
    /// Only every N-th matrix.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// No more than this many matrices.
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// A network with the matrices to work on.
#[derive(Debug, Clone, Args)]
pub(super) struct InputArgs {
    /// The network.
    #[arg(value_name = "NETWORK")]
    network: PathBuf,
    /// Its traffic matrices; unless given, the demands in the file of the network.
    #[arg(value_name = "MATRICES")]
    matrices: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
}

/// What a network is called in reports.
pub(super) fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

impl InputArgs {
    /// What the network is called in reports.
    pub(super) fn name(&self) -> String {
        name_of(&self.network)
    }

    pub(super) fn load(&self) -> Result<(Network, Vec<TrafficMatrix>), Failure> {
        self.load.load(&self.network, self.matrices.as_deref())
    }
}

impl LoadArgs {
    /// Reads a network with its matrices, or with the demands in its own file.
    pub(super) fn load(
        &self,
        from: &Path,
        matrices: Option<&Path>,
    ) -> Result<(Network, Vec<TrafficMatrix>), Failure> {
        let NetworkFile { network, demands, format, .. } = self.read.network(from)?;
        let every = usize::try_from(self.every).unwrap_or(usize::MAX);
        let limit = self.limit.unwrap_or(usize::MAX);
        let read: Vec<TrafficMatrix> = match matrices {
            Some(path) => {
                let told = matrix_format(path, self.matrices_from, format, self.read.demand_unit);
                let all = matrices_in_file(path, told, &network, &self.read.matrix_options())?;
                show(path, &all.warnings);
                // What is passed over is read all the same: a file that is broken anywhere before the last one
                // taken is an error.
                let wanted = all.enumerate().filter(|(at, matrix)| matrix.is_err() || at % every == 0);
                wanted.map(|(_, matrix)| matrix).take(limit).collect::<Result<_, _>>()?
            }
            None => demands.into_iter().take(limit).collect(),
        };
        if read.is_empty() && matrices.is_none() && limit > 0 {
            return Err(format!(
                "{} holds no demands: name a file with matrices, or make one with `traflux te generate matrices`",
                from.display()
            )
            .into());
        }
        if read.is_empty() {
            // The first matrix is always one of every N.
            let why = if limit == 0 { "--limit 0 leaves none of its matrices" } else { "it holds no matrix" };
            return Err(format!("{}: {why}", matrices.unwrap_or(from).display()).into());
        }
        Ok((network, read))
    }
}

/// The format of a file with matrices, where it is given or can be guessed.
///
/// The rows of CFR-RL have a unit of their own that their content does not tell; their files have no extension
/// either. Beside a network of that format such a file is taken for one of them, and that is said.
pub(super) fn matrix_format(
    path: &Path,
    given: Option<Format>,
    network: Format,
    demand_unit: Option<RateUnit>,
) -> Option<Format> {
    let silent = path.extension().is_none() && demand_unit.is_none();
    if given.is_some() || !silent || network != Format::CfrRl {
        return given;
    }
    warn(&format!(
        "{}: taken for rows of CFR-RL, in 100 bytes / 5 min; --demand-unit says otherwise",
        path.display()
    ));
    Some(Format::CfrRl)
}

/// Says so when no unit could give such optima.
pub(super) fn warn_of_units(optima: impl Iterator<Item = f64> + Clone) {
    let least = optima.clone().fold(f64::INFINITY, f64::min);
    let greatest = optima.fold(0.0, f64::max);
    let fit = "the units of network and matrices may not fit, see --unit and --demand-unit";
    if least.is_finite() && least > IMPLAUSIBLE {
        warn(&format!("the best possible utilisation is at least {least:.1}: {fit}"));
    }
    if greatest > 0.0 && greatest < NEGLIGIBLE {
        warn(&format!("the best possible utilisation is at most {greatest:.1e}: {fit}"));
    }
}

/// The same of the first matrix, before work that takes long.
pub(super) fn warn_of_first_units(network: &Network, matrices: &[TrafficMatrix]) -> Result<(), Failure> {
    if let Some(first) = matrices.first() {
        warn_of_units(std::iter::once(Least::new(network).of_all(network, first)?));
    }
    Ok(())
}

/// How many pairs may be rerouted: `13`, or a share of all pairs such as `10%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum PairCount {
    Count(usize),
    Share(f64),
}

impl PairCount {
    /// Of things that are no pairs, rounded to the nearest.
    pub(super) fn part_of(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Share(share) => (share * total as f64).round() as usize,
        }
    }

    pub(super) fn of(self, network: &Network) -> usize {
        match self {
            Self::Count(count) => count.min(network.pair_count()),
            Self::Share(share) => share_of_pairs(network, share),
        }
    }
}

impl FromStr for PairCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}` is neither a number such as 13 nor a share such as 10%");
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.trim().parse().map_err(|_| expected())?;
                if !(0.0..=100.0).contains(&percent) {
                    return Err(format!("{text} is outside [0%, 100%]"));
                }
                Ok(Self::Share(percent / 100.0))
            }
            None => text.parse().map(Self::Count).map_err(|_| expected()),
        }
    }
}

pub(super) fn format(text: &str) -> Result<Format, String> {
    text.parse().map_err(of_argument)
}

pub(super) fn unit(text: &str) -> Result<RateUnit, String> {
    text.parse().map_err(of_argument)
}

pub(super) fn rate(text: &str) -> Result<BitRate, String> {
    parse_rate(text).map_err(of_argument)
}

/// An argument has no lines and columns.
fn of_argument(problem: FormatError) -> String {
    let place = problem.place().map_or_else(String::new, |place| format!("{place}: "));
    let text = problem.to_string();
    text.strip_prefix(&place).unwrap_or(&text).to_owned()
}

/// Says on standard error what was read in a way its author may not have meant.
pub(super) fn show(path: &Path, warnings: &[Warning]) {
    for warning in warnings.iter().take(WARNINGS_SHOWN) {
        warn(&format!("{}: {warning}", path.display()));
    }
    if warnings.len() > WARNINGS_SHOWN {
        warn(&format!("{}: and {} warnings more", path.display(), warnings.len() - WARNINGS_SHOWN));
    }
}

/// Ends the work at Ctrl-C with what there is, and the process at the second one.
pub(super) fn end_on_interrupt(limit: &Limit) {
    let limit = limit.clone();
    // Without a handler Ctrl-C ends the process at once, as it does where a thread is refused.
    let _ = std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_err() {
                return;
            }
            limit.stop();
            warn("ending with what there is; Ctrl-C once more ends at once");
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(INTERRUPTED);
            }
        });
    });
}

/// A limit of so many seconds, or none.
pub(super) fn limit(name: &str, seconds: Option<f64>) -> Result<Limit, Failure> {
    match seconds {
        Some(seconds) if !(seconds.is_finite() && seconds > 0.0) => {
            Err(format!("{name} {seconds} must be finite and positive").into())
        }
        Some(seconds) => Ok(Limit::after(Duration::from_secs_f64(seconds.min(LONGEST)))),
        None => Ok(Limit::default()),
    }
}

/// `--deadline-s` of a command for which no time at all is a limit too.
pub(super) fn deadline(seconds: f64) -> Result<Duration, Failure> {
    if !(seconds.is_finite() && seconds >= 0.0) {
        return Err(format!("--deadline-s {seconds} must be finite and not negative").into());
    }
    Ok(Duration::from_secs_f64(seconds.min(LONGEST)))
}

/// `1 matrix`, `2 matrices`.
pub(super) fn matrices_text(count: usize) -> String {
    format!("{count} {}", if count == 1 { "matrix" } else { "matrices" })
}

/// Prints a result. A reader that has seen enough, such as `head`, is no failure.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(problem) if problem.kind() != std::io::ErrorKind::BrokenPipe => Err(problem.into()),
        _ => Ok(()),
    }
}

/// Writes a file.
pub(super) fn save(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|problem| format!("{}: {problem}", path.display()).into())
}

/// Reads a trained policy.
pub(super) fn checkpoint(path: &Path) -> Result<Checkpoint, String> {
    Checkpoint::load(path).map_err(|problem| match problem {
        CheckpointError::Io { .. } => problem.to_string(),
        _ => format!("{}: {problem}", path.display()),
    })
}

/// A warning on standard error.
pub(super) fn warn(message: &str) {
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(std::io::stderr(), "warning: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_pairs_may_be_a_share() {
        assert_eq!("13".parse(), Ok(PairCount::Count(13)));
        assert_eq!("10%".parse(), Ok(PairCount::Share(0.1)));
        assert_eq!("2.5 %".parse(), Ok(PairCount::Share(0.025)));
        for bad in ["", "x", "-1", "101%", "ten%"] {
            assert!(bad.parse::<PairCount>().is_err(), "{bad}");
        }
    }
}
