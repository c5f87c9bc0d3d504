//! Plays a scenario with every arm that needs no optimiser, prints the tables and writes a report.
//!
//! `cargo run --release -p traflux-sim --example arms -- [scenario name or file] [number of seeds] [report.html]`

use std::time::Instant;

use traflux_sim::{ArmController, ArmResult, Baseline, Report, Scenario, run_arm};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "demo".to_owned());
    let count = arguments.next().map_or(Ok(1), |n| n.parse::<usize>())?;
    let scenario = if std::path::Path::new(&name).is_file() {
        Scenario::from_yaml(&std::fs::read_to_string(&name)?)?
    } else {
        Scenario::built_in(&name)?
    };
    let started = Instant::now();
    let mut requests = 0;
    let mut arms = Vec::new();
    for mut arm in Baseline::all() {
        let mut outcomes = Vec::new();
        for seed in scenario.seeds.iter().take(count.max(1)) {
            let outcome = run_arm(&scenario, *seed, &mut arm, &mut |_| {})?;
            requests += outcome.requests;
            outcomes.push(outcome);
        }
        let critical = arm.critical().to_vec();
        arms.push(ArmResult { name: arm.name().to_owned(), outcomes, critical });
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = Report {
        scenario: &scenario,
        arms: &arms,
        focus: "P2C Peak-EWMA",
        baseline: "static capacity weights",
        notes: &["cargo run --release -p traflux-sim --example arms".to_owned()],
    };
    #[allow(clippy::print_stdout)]
    {
        println!("{}", report.table());
        println!(
            "{requests} requests in {seconds:.1} s: {:.2} million a second",
            requests as f64 / seconds / 1e6
        );
    }
    if let Some(path) = arguments.next() {
        std::fs::write(path, report.html())?;
    }
    Ok(())
}
