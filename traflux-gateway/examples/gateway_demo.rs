//! A gateway before four mock backends, under the load of four tenants; tables as it runs, and what was seen.
//!
//! `cargo run --release -p traflux-gateway --features server --example gateway_demo [SECONDS]`
#![allow(clippy::print_stdout)]

use std::time::Duration;

use traflux_gateway::server::{DemoSettings, demo};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut settings = DemoSettings::default();
    if let Some(seconds) = std::env::args().nth(1) {
        settings.duration = Duration::from_secs(seconds.parse()?);
    }
    demo(&settings, |text| println!("{text}"))?;
    Ok(())
}
