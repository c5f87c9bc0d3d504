//! Is everything as it should be?

use std::time::{Duration, Instant};

use crate::report::{Report, Verdict, say};
use crate::{fuzz, live, node, python, tools, workspace};

/// Help of the task.
pub(crate) const HELP: &str = "\
Check everything; the last line is `N passed, N failed`

Usage: cargo xtask test [--no-live]

Steps: formatting, clippy without warnings, unit, property, integration and doc tests, the Python and Node
packages in clean environments outside the tree, fuzzing of each target for some seconds (60 with CI=true, the same
inputs each time), then the tests and the live claims on real Envoys and a real Prometheus, which are fetched into
target/tools. Where one of them cannot be had, what did not run is named; with CI=true that is a failure.

Options:
  --no-live   Leave out whatever needs Envoy or Prometheus; with CI=true that is a failure
";

/// Longest time for a step that compiles; a clean build on two cores takes minutes.
const BUILD: Duration = Duration::from_secs(20 * 60);

/// Runs the task.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    if let Some(unknown) = arguments.iter().find(|a| *a != "--no-live") {
        return Err(format!("`{unknown}` is unknown; `cargo xtask test --help` tells what there is"));
    }
    let mut report = Report::default();
    report.step("format", workspace::cargo(&["fmt", "--all", "--check"]), Duration::from_secs(120));
    let clippy =
        ["clippy", "--workspace", "--all-targets", "--features", "traflux-sim/paper", "--", "-D", "warnings"];
    report.step("clippy", workspace::cargo(&clippy), BUILD);
    // Together with the test targets the programs get the same features as in the step after, so that nothing
    // is compiled twice.
    let build = workspace::cargo(&["build", "--workspace", "--lib", "--bins", "--tests"]);
    let built = report.step("build", build, BUILD).success;
    report.step("test", workspace::cargo(&["test", "--workspace", "--no-fail-fast"]), BUILD);
    // Two workspaces of their own, which no step above compiles.
    let mut peers = workspace::cargo(&["clippy", "--locked", "--all-targets"]);
    peers.arg("--manifest-path").arg(workspace::root().join("benches/gateway/Cargo.toml"));
    peers.arg("--target-dir").arg(workspace::target_dir()).args(["--", "-D", "warnings"]);
    report.step("benches", peers, BUILD);
    python::steps(&mut report);
    node::step(&mut report);
    run_fuzz(&mut report)?;
    if arguments.is_empty() {
        run_live(&mut report, built);
    } else {
        left_out(&mut report, "live", "left out by --no-live");
    }
    say(&report.table());
    say(&report.sum());
    Ok(report.is_ok())
}

/// Each fuzz target for some seconds.
fn run_fuzz(report: &mut Report) -> Result<(), String> {
    if workspace::on_path("c++").is_none() {
        let why = "libFuzzer needs a C++ compiler, and there is no `c++` on PATH".to_owned();
        let verdict = if workspace::is_ci() { Verdict::Failed(why) } else { Verdict::NotRun(why) };
        report.add("fuzz", Duration::ZERO, verdict);
        return Ok(());
    }
    // The same inputs each time: a change is judged by what it did, not by luck. `cargo xtask fuzz` goes on searching.
    let effort = fuzz::Effort { seconds: if workspace::is_ci() { 60 } else { 5 }, seed: Some(1) };
    fuzz::steps(report, effort, &[])
}

fn run_live(report: &mut Report, built: bool) {
    if !built {
        left_out(report, "live", "the programs could not be built");
        return;
    }
    let started = Instant::now();
    say("\n== tools: cargo xtask tools");
    let tools = tools::ensure();
    let missing = tools.missing();
    for line in &missing {
        say(line);
    }
    let verdict = match missing.as_slice() {
        [] => Verdict::Ok,
        some if workspace::is_ci() => Verdict::Failed(format!("{} (CI=true)", some.join("; "))),
        some => Verdict::NotRun(some.join("; ")),
    };
    report.add("tools", started.elapsed(), verdict);
    match live::components(&tools) {
        Some(command) => {
            report.step("components", command, BUILD);
        }
        None => report.add("components", Duration::ZERO, Verdict::NotRun("see tools".to_owned())),
    }
    match live::claims(&tools, None) {
        Ok(command) => {
            report.step("live", command, live::LIMIT);
        }
        Err(why) => report.add("live", Duration::ZERO, Verdict::NotRun(why)),
    }
}

/// Nothing that needs Envoy or Prometheus runs: in continuous integration that is a failure.
fn left_out(report: &mut Report, step: &'static str, why: &str) {
    let why = format!("{why}: {}, and the tests with Envoy and promtool", tools::CLAIMS);
    let verdict =
        if workspace::is_ci() { Verdict::Failed(format!("{why} (CI=true)")) } else { Verdict::NotRun(why) };
    report.add(step, Duration::ZERO, verdict);
}
