//! Which bytes break a promise?

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{self, Show};
use crate::report::{Report, Verdict, say};
use crate::workspace;

/// Help of the task.
pub(crate) const HELP: &str = "\
Fuzz parsers, rules, limits, queues and the engine; a failure names the input that breaks a promise

Usage: cargo xtask fuzz [--seconds N] [--seed N] [TARGET...]

Coverage-guided (libFuzzer), on the stable toolchain; needs a C++ compiler. What is found on the way is kept in
fuzz/corpus and goes on from there the next time, what breaks a promise lies in fuzz/artifacts; fuzz/README.md
says how to see it again and make it smaller.

Options:
  --seconds N   Seconds for each target; 60 without it, 0 runs the seeds and the corpus only
  --seed N      Start of the random numbers: the same inputs in the same order; another start each time without it
";

/// Longest time for the build: everything is compiled once more, with counters.
const BUILD: Duration = Duration::from_secs(30 * 60);
/// What libFuzzer says of the inputs that it ran.
const RUNS: &str = "stat::number_of_executed_units:";
/// Beyond the seconds asked for: seeds and corpus run first, however many there are.
const SLACK: Duration = Duration::from_secs(5 * 60);

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// For each target; 0 runs what is known already.
    pub(crate) seconds: u64,
    /// Start of the random numbers; drawn where there is none.
    pub(crate) seed: Option<u32>,
}

/// Runs the task.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    let (mut seconds, mut seed, mut wanted) = (60, None, Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--seconds" => {
                let number = rest.next().and_then(|n| n.parse().ok());
                seconds = number.ok_or("--seconds needs a whole number")?;
            }
            "--seed" => {
                let number = rest.next().and_then(|n| n.parse().ok()).filter(|seed| *seed > 0);
                seed = Some(number.ok_or("--seed needs a whole number above 0")?);
            }
            name if !name.starts_with('-') => wanted.push(name.to_owned()),
            _ => {
                return Err(format!(
                    "`{argument}` is unknown; `cargo xtask fuzz --help` tells what there is"
                ));
            }
        }
    }
    let mut report = Report::default();
    steps(&mut report, Effort { seconds, seed }, &wanted)?;
    say(&report.table());
    say(&report.sum());
    Ok(report.is_ok())
}

/// Builds the targets and runs each; all of them, where none is named.
pub(crate) fn steps(report: &mut Report, effort: Effort, wanted: &[String]) -> Result<(), String> {
    let targets = targets()?;
    let wanted = if wanted.is_empty() { &targets } else { wanted };
    if let Some(unknown) = wanted.iter().find(|name| !targets.contains(name)) {
        return Err(format!("no target is called `{unknown}`; there are {}", targets.join(", ")));
    }
    let mut build = workspace::cargo(&["build", "--release", "--bins"]);
    build.current_dir(folder()).env("CARGO_TARGET_DIR", target_dir());
    if !report.step("fuzz: build", build, BUILD).success {
        return Ok(());
    }
    let limit = Duration::from_secs(effort.seconds) + SLACK;
    // As many at a time as there are cores: each uses one.
    let lanes = std::thread::available_parallelism().map_or(1, usize::from);
    for names in wanted.chunks(lanes) {
        let mut commands = Vec::new();
        for name in names {
            let mut command = workspace::cargo(&["run", "--release", "--bin", name, "--"]);
            command.current_dir(folder()).env("CARGO_TARGET_DIR", target_dir()).args(options(name, effort)?);
            commands.push((step(name), command));
        }
        match commands.len() {
            1 => commands.into_iter().for_each(|(step, command)| drop(report.step(step, command, limit))),
            _ => together(report, commands, limit),
        }
    }
    Ok(())
}

/// Runs several at a time, and shows what those wrote that failed.
fn together(report: &mut Report, commands: Vec<(&'static str, Command)>, limit: Duration) {
    let ended = std::thread::scope(|scope| {
        let run = |(step, command)| (step, scope.spawn(move || process::run(command, limit, Show::Nothing)));
        let running: Vec<_> = commands.into_iter().map(run).collect();
        running.into_iter().map(|(step, thread)| (step, thread.join())).collect::<Vec<_>>()
    });
    for (step, outcome) in ended {
        let Ok(outcome) = outcome else {
            report.add(step, Duration::ZERO, Verdict::Failed("its thread panicked".to_owned()));
            continue;
        };
        let runs = outcome.output.lines().find_map(|line| line.strip_prefix(RUNS)).unwrap_or("no").trim();
        say(&format!("\n== {step}: {runs} inputs in {:.1} s", outcome.elapsed.as_secs_f64()));
        let verdict = outcome.problem.map_or(Verdict::Ok, |problem| {
            say(&outcome.output);
            Verdict::Failed(problem)
        });
        report.add(step, outcome.elapsed, verdict);
    }
}

/// Options of libFuzzer, then the corpus that grows and the seeds.
fn options(name: &str, Effort { seconds, seed }: Effort) -> Result<Vec<String>, String> {
    let (corpus, artifacts) = (format!("corpus/{name}"), format!("artifacts/{name}/"));
    for made in [&corpus, &artifacts] {
        let made = folder().join(made);
        std::fs::create_dir_all(&made).map_err(|e| format!("{}: {e}", made.display()))?;
    }
    let mut options = vec![
        format!("-artifact_prefix={artifacts}"),
        // One input may take so many seconds, and all so much memory.
        "-timeout=10".to_owned(),
        "-rss_limit_mb=1024".to_owned(),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
        // 0 seconds would mean without end.
        if seconds == 0 { "-runs=0".to_owned() } else { format!("-max_total_time={seconds}") },
    ];
    options.extend(seed.map(|seed| format!("-seed={seed}")));
    let dictionary = format!("dictionaries/{name}.dict");
    if folder().join(&dictionary).is_file() {
        options.push(format!("-dict={dictionary}"));
    }
    options.extend([corpus, format!("seeds/{name}")]);
    Ok(options)
}

/// Names of the targets, sorted.
fn targets() -> Result<Vec<String>, String> {
    let folder = folder().join("targets");
    let files = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut names: Vec<String> = files.flatten().filter_map(|file| stem(&file.path())).collect();
    names.sort_unstable();
    Ok(names)
}

fn folder() -> PathBuf {
    workspace::root().join("fuzz")
}

/// Apart from the other builds, which are compiled without counters.
fn target_dir() -> PathBuf {
    workspace::target_dir().join("fuzz")
}

fn step(name: &str) -> &'static str {
    // Steps have names that live as long as the task; there are a dozen.
    Box::leak(format!("fuzz: {name}").into_boxed_str())
}
