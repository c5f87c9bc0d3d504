//! What do the numbers in the documentation come from?

use std::time::Duration;

use crate::report::{Report, say};
use crate::{gateway, networks, workspace};

/// Help of the task.
pub(crate) const HELP: &str = "\
Run the criterion benches and the comparisons that the documentation quotes

Usage: cargo xtask bench [--quick]
       cargo xtask bench te [--quick]
       cargo xtask bench gateway [--no-python] [PART...]

Benches of all crates, latency of the solvers side by side, and the demonstration scenario with all arms over
ten seeds: its claims are printed, and one that does not hold fails the task. Takes many minutes and is no part of `cargo xtask test`. For numbers that you quote, let nothing else
run on the machine. `te` compares the network solvers with plain methods instead, within a few minutes; see
`cargo xtask bench te --help`. `gateway` compares the gateway engine with its peers; see `cargo xtask bench gateway --help`.

Options:
  --quick   Short criterion runs and three seeds
";

/// Longest time for one step.
const LIMIT: Duration = Duration::from_secs(90 * 60);

/// Runs the task.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    let quick = match arguments {
        [part, options @ ..] if part == "te" => return networks::run(options),
        [part, options @ ..] if part == "gateway" => return gateway::run(options),
        [] => false,
        [option] if option == "--quick" => true,
        _ => return Err("see `cargo xtask bench --help` for the options".to_owned()),
    };
    let mut report = Report::default();
    // `--benches` would also run the test harnesses of libraries, which do not know criterion's options.
    let mut benches = vec!["bench", "--workspace", "--bench", "*"];
    if quick {
        benches.extend(["--", "--quick"]);
    }
    report.step("criterion", workspace::cargo(&benches), LIMIT);
    let latency = ["run", "--release", "-p", "traflux-lp", "--example", "latency"];
    report.step("solvers", workspace::cargo(&latency), LIMIT);
    let seeds = if quick { "3" } else { "10" };
    let evaluate = ["run", "--release", "-p", "traflux", "--", "evaluate", "--strict", "--seeds", seeds];
    report.step("arms", workspace::cargo(&evaluate), LIMIT);
    say(&report.table());
    Ok(report.is_ok())
}
