//! What do the claims on networks look like beside the plain methods?

use std::process::Command;
use std::time::{Duration, Instant};

use crate::report::{Report, Verdict, say};
use crate::{plain, workspace};

/// Help of the task.
pub(crate) const HELP: &str = "\
Compare the network solvers with plain methods, both sides in one run

Usage: cargo xtask bench te [--quick]

Abilene's critical-flow LP beside PuLP with GLPK, HiGHS and SciPy, GEANT's optimum beside HiGHS and the published
values, as a table of medians and ratios. Both sides solve the same problems (target/te-bench/problems.json) in
turns; a utilisation that differs fails the task, a goal that is missed is printed. Then the solver of large
networks, every solution checked, with plain column generation by HiGHS after it. Networks and matrices come from
the folder TRAFLUX_DATA; where it is unset, generated ones of the same size are solved, without published optima
and without verdicts.

PuLP, highspy and SciPy come as Python packages into target/tools/plain (needs python3 with venv); glpsol is the
one on PATH, or else the Debian package, unpacked into target/tools/glpk without being installed. Where they
cannot be had, only our side is measured and the task fails. For numbers that you quote, let nothing else run.

Options:
  --quick   A quarter of the week and one pass instead of three
";

/// Longest time for one step.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// The example of `traflux-lp` that shows the claims on large networks, and its arguments.
const LARGE: (&str, &[&str]) = ("large_network", &[]);

/// Runs the task with what follows `te`.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    let quick = match arguments {
        [] => false,
        [option] if option == "--quick" => true,
        _ => return Err("see `cargo xtask bench te --help` for the options".to_owned()),
    };
    let mut report = Report::default();
    let build = workspace::cargo(&["build", "--release", "-p", "traflux-te-bench"]);
    if !report.step("build", build, LIMIT).success {
        say(&report.table());
        return Ok(false);
    }
    let started = Instant::now();
    say("\n== tools: PuLP, highspy, SciPy and GLPK");
    let plain = plain::ensure();
    let verdict = match &plain {
        Ok(_) => Verdict::Ok,
        Err(why) => Verdict::Failed(format!("only our side is measured: {why}")),
    };
    report.add("tools", started.elapsed(), verdict);

    let mut bench = Command::new(workspace::target_dir().join("release").join("traflux-te-bench"));
    bench.current_dir(workspace::root());
    bench.arg("--problems").arg(workspace::root().join("target/te-bench/problems.json"));
    if let Ok(plain) = &plain {
        plain.equip(&mut bench);
        bench.arg("--python").arg(&plain.python);
    }
    if quick {
        bench.arg("--quick");
    }
    report.step("networks", bench, LIMIT);
    large(&mut report, plain.as_ref().ok());
    say(&report.table());
    Ok(report.is_ok())
}

/// Claims 4 and 5.
fn large(report: &mut Report, plain: Option<&plain::PlainMethods>) {
    let (example, arguments) = LARGE;
    let source = workspace::root().join("traflux-lp/examples").join(example).with_extension("rs");
    if source.is_file() {
        let mut run = workspace::cargo(&["run", "--release", "-p", "traflux-lp", "--example", example, "--"]);
        run.args(arguments);
        if let Some(plain) = plain {
            run.env("PLAIN_PYTHON", &plain.python);
        }
        report.step("large", run, LIMIT);
    } else {
        let why = format!("claims 4 and 5: traflux-lp has no example `{example}`");
        report.add("large", Duration::ZERO, Verdict::NotRun(why));
    }
}
