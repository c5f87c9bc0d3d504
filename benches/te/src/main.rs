//! Are the network solvers as fast as we say, beside what most people would use?
//!
//! Writes the problems, solves them here and through `plain.py`, block by block in turn so that both meet the
//! same load of the machine, and prints a table. `cargo xtask bench te` fetches what `plain.py` needs and runs
//! this; without `--python` only our side is measured.
#![allow(clippy::print_stdout)]

mod measure;
mod plain;
mod problems;
mod spread;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use measure::{Blocks, Measured};
use plain::{Method, Plain};
use problems::{Origin, Series};
use table::{Comparison, Goal, Table};
use traflux_lp::multicommodity::check::TOLERANCE;

/// What this program does ends in a value or in a reason.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: traflux-te-bench --problems FILE [--python FILE] [--quick]";

/// Claims on the exact solver, printed with the rows that show them.
mod claim {
    pub(super) const EXACT: &str = "1";
    pub(super) const CRITICAL: &str = "2";
    pub(super) const SEQUENCE: &str = "3";
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let options = Options::read(std::env::args().skip(1))?;
    let folder = std::env::var_os("TRAFLUX_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!(
            "TRAFLUX_DATA is not set: generated networks of the same size take the place of Abilene and"
        );
        println!("GEANT, there are no published optima to compare with, and goals are not judged.");
    }
    let series = problems::all(folder.as_deref(), options.quick)?;
    problems::write(&series, &options.problems)?;
    let mut plain = options.python.as_deref().map(|p| Plain::start(p, &options.problems)).transpose()?;
    println!("{}", machine(plain.as_ref()));

    let mut table = Table::default();
    let mut disagreements = Vec::new();
    let mut differences: BTreeMap<Method, f64> = BTreeMap::new();
    let mut checked = 0;
    for (at, one) in series.iter().enumerate() {
        let blocks = if one.critical.is_some() {
            Blocks { length: 168, compared: 20, passes: 1, methods: &Method::ALL }
        } else {
            let methods = &[Method::HighsByTarget, Method::HighsByTargetKept];
            Blocks { length: 10, compared: 10, passes: if options.quick { 1 } else { 3 }, methods }
        };
        let measured = measure::run(one, at, &blocks, plain.as_mut())?;
        checked += measured.checked;
        disagreements.extend(measured.disagreements.iter().map(|text| format!("{}: {text}", one.name)));
        for (method, difference) in &measured.differences {
            let greatest = differences.entry(*method).or_default();
            *greatest = greatest.max(*difference);
        }
        if one.critical.is_some() {
            critical_rows(&mut table, one, &measured);
        } else {
            exact_rows(&mut table, one, &measured);
        }
    }
    println!("\n{}", table.print());
    for (method, difference) in differences {
        println!("utilisation by {}: differs from ours by {difference:.0e} at most", method.name());
    }
    println!(
        "checked: {checked} solutions of ours, paths, shares, loads, utilisation and bound recomputed from the problem \
         alone, within {TOLERANCE:.0e}"
    );
    println!("{}", machine(None));
    if disagreements.is_empty() {
        return Ok(());
    }
    Err(format!("utilisations differ:\n{}", disagreements.join("\n")).into())
}

fn critical_rows(table: &mut Table, series: &Series, measured: &Measured) {
    let judged = series.origin == Origin::Public;
    let limit = Goal::at_most(0.2, judged);
    table.time(claim::CRITICAL, &series.name, "in sequence", &measured.kept, limit);
    table.time(claim::CRITICAL, &series.name, "cold", &measured.cold, Goal::None);
    for (method, theirs) in &measured.plain {
        let goal = match method {
            Method::PulpGlpk => Goal::at_least(200.0, judged),
            Method::HighsByPair => Goal::at_least(15.0, judged),
            _ => Goal::None,
        };
        table.ratio(&Comparison {
            claim: claim::CRITICAL,
            problem: &series.name,
            ours: "in sequence",
            plain: method.name(),
            times: &measured.kept,
            theirs,
            goal,
        });
        if matches!(method, Method::HighsByPair | Method::HighsByTarget) {
            table.ratio(&Comparison {
                claim: claim::CRITICAL,
                problem: &series.name,
                ours: "cold",
                plain: method.name(),
                times: &measured.cold,
                theirs,
                goal: Goal::None,
            });
        }
    }
}

fn exact_rows(table: &mut Table, series: &Series, measured: &Measured) {
    let judged = series.origin == Origin::Public;
    if let Some(optima) = &series.optima {
        let worst = measured.worst_difference(optima);
        let what = format!("{}: {} published optima", series.name, optima.len());
        table.value(claim::EXACT, &what, "greatest relative difference", worst, Goal::at_most(1e-9, judged));
    }
    table.time(claim::SEQUENCE, &series.name, "cold", &measured.cold, Goal::at_most(5.0, judged));
    table.time(claim::SEQUENCE, &series.name, "in sequence", &measured.kept, Goal::at_most(1.0, judged));
    for (method, theirs) in &measured.plain {
        let (ours, times) = if *method == Method::HighsByTargetKept {
            ("in sequence", &measured.kept)
        } else {
            ("cold", &measured.cold)
        };
        table.ratio(&Comparison {
            claim: claim::SEQUENCE,
            problem: &series.name,
            ours,
            plain: method.name(),
            times,
            theirs,
            goal: Goal::None,
        });
    }
}

/// Cores, load, and what runs beside.
fn machine(plain: Option<&Plain>) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().filter(|l| !l.is_empty()).unwrap_or("unknown");
    let beside = plain.map(|plain| format!("; {}", plain.versions())).unwrap_or_default();
    format!("{cores} cores, load of the last minute {load}{beside}")
}

/// What the command line asks for.
struct Options {
    problems: PathBuf,
    python: Option<PathBuf>,
    quick: bool,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let (mut problems, mut python, mut quick) = (None, None, false);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--problems" => problems = Some(arguments.next().ok_or(USAGE)?.into()),
                "--python" => python = Some(arguments.next().ok_or(USAGE)?.into()),
                "--quick" => quick = true,
                _ => return Err(USAGE.into()),
            }
        }
        Ok(Self { problems: problems.ok_or(USAGE)?, python, quick })
    }
}
