//! How fast and how exact is the gateway engine beside its peers, in one run on one machine?
//!
//! `cargo run --release -- [part...]` runs the parts named, all without a name, and prints a table of each. Sides take
//! turns round by round, so that other load on the machine hits both; the ratio is that of each round's pair.

mod balance;
mod decision;
mod harness;
mod limit;
mod queue;

/// Each part: its name and what runs it.
const PARTS: &[(&str, fn())] =
    &[("decision", decision::run), ("limit", limit::run), ("balance", balance::run), ("queue", queue::run)];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let [option, decisions] = wanted.as_slice()
        && option == "--count"
        && let Ok(decisions) = decisions.parse()
    {
        return decision::count(decisions);
    }
    if let Some(unknown) = wanted.iter().find(|w| PARTS.iter().all(|(name, _)| name != w)) {
        let names: Vec<_> = PARTS.iter().map(|(name, _)| *name).collect();
        eprintln!("no part `{unknown}`; there are {names:?}");
        std::process::exit(2);
    }
    for (name, run) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            println!("## {name}\n");
            run();
            println!();
        }
    }
}
