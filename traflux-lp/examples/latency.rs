//! How long does a solve take? Prints p50 and p99 of random fleets by size and solver.
//!
//! `cargo run --release -p traflux-lp --example latency -- [problems per size] [solver]`, with
//! `--features clarabel` for that back end too.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use traflux_lp::sample::Fleet;

/// A solver that needs longer than this for the first problem of a size is not asked for the others.
const SLOW_SECONDS: f64 = 0.5;

fn main() -> Result<(), traflux_core::SolveError> {
    let count: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200);
    let only = std::env::args().nth(2);
    println!(
        "{:<34} {:<10} {:>10} {:>10} {:>10} {:>8}",
        "fleet", "solver", "p50 ms", "p99 ms", "max ms", "pivots"
    );
    for (flows, endpoints, movable) in
        [(1, 100, 10), (1, 100, 100), (6, 100, 100), (10, 1000, 10), (10, 1000, 1000)]
    {
        for later in [false, true] {
            let state = if later { "demand changed" } else { "cold" };
            let name = format!("{flows} x {endpoints}, {movable} movable, {state}");
            let wanted = |name: &&str| only.as_ref().is_none_or(|only| only == name);
            for solver in traflux_lp::available().into_iter().filter(wanted) {
                row(&name, solver, count, later, |seed| {
                    let load = 0.3 + 0.6 * (seed % 7) as f64 / 6.0;
                    Fleet { movable, load, ..Fleet::new(flows, endpoints, seed) }
                })?;
            }
        }
    }
    Ok(())
}

fn row(
    name: &str,
    solver_name: &str,
    count: u64,
    later: bool,
    fleet: impl Fn(u64) -> Fleet,
) -> Result<(), traflux_core::SolveError> {
    let mut solver = traflux_lp::by_name(solver_name)?;
    let mut first = traflux_lp::by_name(traflux_lp::available()[0])?;
    let mut times = Vec::new();
    let mut pivots = 0;
    for seed in 0..count {
        let fleet = fleet(seed);
        let mut problem = fleet.problem();
        problem.deadline = std::time::Duration::from_secs(120);
        if later {
            let now = first.solve(&problem)?;
            problem = fleet.later(&problem, now.split.shares());
        }
        let start = Instant::now();
        let solution = solver.solve(&problem)?;
        let seconds = start.elapsed().as_secs_f64();
        pivots += solution.iterations;
        if seed == 0 && seconds > SLOW_SECONDS && solver_name != traflux_lp::available()[0] {
            println!("{name:<34} {solver_name:<10} skipped: one solve takes {:.0} ms", seconds * 1e3);
            return Ok(());
        }
        times.push(seconds * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times[((times.len() as f64 * q).ceil() as usize).clamp(1, times.len()) - 1];
    println!(
        "{name:<34} {solver_name:<10} {:>10.3} {:>10.3} {:>10.3} {:>8}",
        at(0.5),
        at(0.99),
        at(1.0),
        pivots / times.len()
    );
    Ok(())
}
