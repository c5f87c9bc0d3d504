//! How fast is the gateway engine beside its peers?

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::report::{Report, Verdict, say};
use crate::tools::{self, Package};
use crate::workspace;

/// Help of the task.
pub(crate) const HELP: &str = "\
Compare the gateway engine with its peers, both sides in one run

Usage: cargo xtask bench gateway [--no-python] [PART...]

Parts (all without a name):
  decision   A whole decision: rule, three limits, a choice of 64 backends, record, settlement; nanoseconds,
             allocations, and instructions where valgrind is
  limit      One bucket, a bucket per key, three limits at once; beside governor and limitador
  balance    Choices of 2 to 10,000 backends; beside tower
  queue      Requests that wait, 10,000 deep; beside a binary heap

With `decision` comes the time in which LiteLLM's Router chooses among 3 and 64 deployments, without network, as a
ratio to our whole decision of the same run. It is a Python package of a fixed version in target/tools/litellm (needs
python3 with venv and some 500 MB); where it cannot be had, the task says so and fails.
For numbers that you quote, let nothing else run on the machine.

What the engine makes of load, and what the process costs, are two examples that run by themselves:
  cargo run --release -p traflux-sim --example gateway_scenarios
             Sixteen scenarios beside re-implemented balancers and queues: goodput, fairness, deadlines, tails
  cargo run --release -p traflux-gateway --features server --example gateway_load
             Latency that the gateway adds at 5,000 requests/s, errors while plans change, memory of 10,000 streams

Options:
  --no-python   Without LiteLLM

Examples:
  cargo xtask bench gateway
  cargo xtask bench gateway --no-python limit queue
  cargo xtask bench gateway decision
";

/// The peer that chooses in Python.
const LITELLM: Package = Package {
    requirement: "litellm==1.106.2",
    stamp: "litellm.stamp",
    check: ["bin/python3", "-cfrom litellm import Router"],
};

const PARTS: [&str; 4] = ["decision", "limit", "balance", "queue"];

/// Longest time for one step.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Seconds for each strategy of LiteLLM.
const SECONDS: &str = "2";

/// What the line of our side begins with, see `benches/gateway/src/decision.rs`.
const OURS: &str = "p50 of a whole decision: ";

/// Runs the task with what follows `gateway`.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    let python = !arguments.iter().any(|a| a == "--no-python");
    let parts: Vec<&str> = arguments.iter().map(String::as_str).filter(|a| *a != "--no-python").collect();
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(part)) {
        return Err(format!(
            "`{unknown}` is unknown; `cargo xtask bench gateway --help` tells what there is"
        ));
    }
    let mut report = Report::default();
    let target = workspace::target_dir();
    let manifest = workspace::root().join("benches/gateway/Cargo.toml");
    let mut build = workspace::cargo(&["build", "--release", "--locked"]);
    build.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(&target);
    if !report.step("build", build, LIMIT).success {
        say(&report.table());
        return Ok(false);
    }
    let mut bench = Command::new(target.join("release").join("traflux-gateway-bench"));
    bench.args(&parts);
    let ours = report.step("gateway", bench, LIMIT).output;
    if python && (parts.is_empty() || parts.contains(&"decision")) {
        litellm(&mut report, ours_ns(&ours));
    }
    say(&report.table());
    Ok(report.is_ok())
}

fn litellm(report: &mut Report, ours: Option<f64>) {
    let started = Instant::now();
    say("\n== tools: LiteLLM");
    let python = tools::locked().and_then(|(dir, _lock)| {
        let venv = tools::environment(&dir, "litellm", &[LITELLM])?;
        tools::install(&dir, &venv, LITELLM)
    });
    let python = match python {
        Ok(python) => python,
        Err(why) => {
            report.add("tools", started.elapsed(), Verdict::Failed(format!("no LiteLLM: {why}")));
            return;
        }
    };
    report.add("tools", started.elapsed(), Verdict::Ok);
    let mut picks = Command::new(python);
    picks.arg(workspace::root().join("benches/gateway/router_pick.py")).arg(SECONDS);
    let theirs = report.step("litellm", picks, LIMIT).output;
    say(&table(ours, &theirs));
}

fn ours_ns(output: &str) -> Option<f64> {
    let rest = output.lines().find_map(|line| line.strip_prefix(OURS))?;
    rest.split(' ').next()?.parse().ok()
}

/// The lines of the script as a table, with the ratio to our whole decision.
fn table(ours: Option<f64>, theirs: &str) -> String {
    let mut text = String::from(
        "\n| LiteLLM 1.106.2, pick alone | deployments | us, median (quartiles), p99 | our whole decision ns | ratio |\n\
         |---|---|---|---|---|\n",
    );
    let mut least: BTreeMap<u64, f64> = BTreeMap::new();
    for line in theirs.lines().filter_map(|line| line.strip_prefix("pick ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let numbers: Vec<f64> = words.iter().skip(1).filter_map(|word| word.parse().ok()).collect();
        let (Some(strategy), [count, median, low, high, most]) = (words.first(), &numbers[..]) else {
            text.push_str(&format!("| {line} | | | | |\n"));
            continue;
        };
        let ratio = ours.map(|ours| median / ours);
        if let Some(ratio) = ratio {
            let least = least.entry(*count as u64).or_insert(ratio);
            *least = least.min(ratio);
        }
        text.push_str(&format!(
            "| {strategy} | {count} | {:.0} ({:.0}–{:.0}), {:.0} | {} | {} |\n",
            median / 1e3,
            low / 1e3,
            high / 1e3,
            most / 1e3,
            ours.map_or_else(|| "not measured".to_owned(), |ours| format!("{ours:.0}")),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.0} x")),
        ));
    }
    for (count, least) in least {
        text.push_str(&format!("least ratio with {count} deployments: {least:.0} x (goal with 64: 400 x)\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_line_and_theirs_make_a_ratio() {
        let ours = ours_ns("## decision\np50 of a whole decision: 400 ns, p99 900 ns\n");
        assert_eq!(ours, Some(400.0));
        let table =
            table(ours, "pick simple-shuffle 64 200000 190000 210000 500000\npick new 3 failed E: no\n");
        assert!(table.contains("| simple-shuffle | 64 | 200 (190–210), 500 | 400 | 500 x |"), "{table}");
        assert!(table.contains("| new 3 failed E: no |"));
        assert!(table.contains("with 64 deployments: 500 x"));
    }

    #[test]
    fn an_unknown_part_is_an_error() {
        assert!(run(&["limits".to_owned()]).unwrap_err().contains("`limits`"));
    }
}
