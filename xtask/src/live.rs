//! How are the live tests and the demonstration started?

use std::process::Command;
use std::time::Duration;

use crate::report::{Report, say};
use crate::tools::{self, Tools};
use crate::workspace;

/// Help of the task.
pub(crate) const HELP: &str = "\
Show the closed loop on two real Envoys and a real Prometheus, on loopback

Usage: cargo xtask live [--claims N,N,…|all]

Without options: a demonstration. Two Envoys as two source regions, backends that differ in latency, capacity
and price, an open-loop load generator and the controller; faults are injected, what moves is printed, and it
ends by itself within four minutes.

Options:
  --claims N,N,…   Run these of the live tests instead; `all` runs all of them
";

/// Longest time for a run of the live tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(9 * 60);

/// Runs the task.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    let claims = match arguments {
        [] => None,
        [option, list] if option == "--claims" => Some(list.as_str()),
        _ => return Err("see `cargo xtask live --help` for the options".to_owned()),
    };
    let mut report = Report::default();
    let build = workspace::cargo(&["build", "-p", "traflux", "-p", "traflux-live", "--bins"]);
    if !report.step("build", build, Duration::from_secs(20 * 60)).success {
        say(&report.table());
        return Ok(false);
    }
    let tools = tools::ensure();
    for line in tools.missing() {
        say(&line);
    }
    let command = match claims {
        Some(list) => self::claims(&tools, Some(list).filter(|l| *l != "all"))?,
        None => program(&tools, "demo")?,
    };
    report.step("live", command, LIMIT);
    if claims.is_some() {
        say(&report.table());
        say(&report.sum());
    }
    Ok(report.is_ok())
}

/// The call that runs the live tests. Without grpcio the claim that needs it is left out by name.
pub(crate) fn claims(tools: &Tools, list: Option<&str>) -> Result<Command, String> {
    let mut command = program(tools, "claims")?;
    if let Some(list) = list {
        command.args(["--claims", list]);
    }
    Ok(command)
}

/// The call that runs the tests which need a program that is not built here: `None` where none of the programs
/// can be had.
pub(crate) fn components(tools: &Tools) -> Option<Command> {
    let tests = [("envoy", "ENVOY", &tools.envoy), ("promtool", "PROMTOOL", &tools.promtool)];
    let there: Vec<_> =
        tests.iter().filter_map(|(test, name, tool)| Some((test, name, tool.as_ref().ok()?))).collect();
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    for (test, ..) in &there {
        arguments.extend(["--test", test]);
    }
    arguments.extend(["--", "--ignored"]);
    let mut command = workspace::cargo(&arguments);
    for (_, name, tool) in &there {
        command.env(name, tool);
    }
    (!there.is_empty()).then_some(command)
}

fn program(tools: &Tools, task: &str) -> Result<Command, String> {
    let (Ok(envoy), Ok(prometheus)) = (&tools.envoy, &tools.prometheus) else {
        return Err(format!("{} need Envoy and Prometheus", tools::CLAIMS));
    };
    let programs = workspace::target_dir().join("debug");
    let mut command = Command::new(programs.join("traflux-live"));
    command.current_dir(workspace::root()).arg(task);
    command.arg("--traflux").arg(programs.join("traflux"));
    command.arg("--envoy").arg(envoy).arg("--prometheus").arg(prometheus);
    if let Ok(python) = &tools.python {
        command.arg("--python").arg(python);
    }
    command.arg("--work-dir").arg(workspace::root().join("target").join("live"));
    Ok(command)
}
