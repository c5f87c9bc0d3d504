//! Plays the gateway's scenarios with the engine and with the algorithms of others, and prints goals beside results.
//!
//! `cargo run --release -p traflux-sim --example gateway_scenarios -- [scenario or "all"] [number of seeds]`

use std::time::Instant;

use traflux_sim::gateway::compare::{compare, table};
use traflux_sim::gateway::scenarios;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "all".to_owned());
    let seeds = arguments.next().map_or(Ok(usize::MAX), |n| n.parse::<usize>())?;
    let started = Instant::now();
    for mut scenario in scenarios().into_iter().filter(|s| name == "all" || s.name == name) {
        scenario.seeds.truncate(seeds.max(1));
        let text = table(&scenario, &compare(&scenario)?);
        #[allow(clippy::print_stdout)]
        {
            print!("{text}");
        }
    }
    #[allow(clippy::print_stdout)]
    {
        println!("{:.0} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}
