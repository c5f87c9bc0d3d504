//! Plays a scenario with every arm that needs no optimiser and prints a table.
//!
//! `cargo run --release -p traflux-sim --example arms -- [scenario name or file] [number of seeds]`

use std::time::Instant;

use traflux_sim::{Baseline, Scenario, run_arm};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "demo".to_owned());
    let count = arguments.next().map_or(Ok(1), |n| n.parse::<usize>())?;
    let scenario = if std::path::Path::new(&name).is_file() {
        Scenario::from_yaml(&std::fs::read_to_string(&name)?)?
    } else {
        Scenario::built_in(&name)?
    };
    for mut arm in Baseline::all() {
        for seed in scenario.seeds.iter().take(count.max(1)) {
            let started = Instant::now();
            let o = run_arm(&scenario, *seed, &mut arm, &mut |_| {})?;
            let s = started.elapsed().as_secs_f64();
            println!("{:24} mean {} p50 {} p95 {} p99 {} err {:.3}% miss {:.3}% viol {} billed {} marg {} churn {:.3} rho {:.2} {:.2} Mreq/s",
                o.arm, o.mean, o.p50, o.p95, o.p99, o.error_ratio*100., o.slo_miss_ratio*100., o.slo_violation_minutes, o.billed_price, o.marginal_price, o.churn_per_minute, o.max_utilization, o.requests as f64/s/1e6);
            for w in &o.windows { println!("    {:14} n {:8} mean {} p95 {} err {:.3}% miss {:.3}%", w.name, w.requests, w.mean, w.p95, w.error_ratio*100., w.slo_miss_ratio*100.); }
        }
    }
    Ok(())
}
