//! What can be done with this repository beyond building it?
//!
//! `cargo xtask test` checks everything, `cargo xtask live` shows the loop on a real Envoy and a real
//! Prometheus, `cargo xtask doc` builds the documentation, `cargo xtask fuzz` looks for bytes that break a promise,
//! `cargo xtask bench` measures, `cargo xtask wheel` builds the Python package, `cargo xtask tools` fetches what `live` and `test` run. Nothing but the standard library, so that it starts in a second or two.

mod bench;
mod doc;
mod fuzz;
mod gateway;
mod live;
mod networks;
mod node;
mod plain;
mod process;
mod python;
mod report;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
Tasks of the Traflux repository

Usage: cargo xtask <TASK> [OPTIONS]

Tasks:
  test    Formatting, clippy, unit, property, integration and doc tests, live tests
  live    Show the closed loop on two real Envoys and a real Prometheus; ends by itself
  doc     Build the documentation of all crates; a warning is a failure
  fuzz    Feed parsers, rules, limits, queues and the engine with bytes that break a promise
  bench   Criterion benches and the comparisons that the documentation quotes; `bench te` for networks,
          `bench gateway` for the gateway engine
  wheel   Build the Python package as it would be published
  npm     Pack the Node binding as it would be published
  tools   Fetch Envoy, grpcio and Prometheus into target/tools
  help    Print this text

`cargo xtask <TASK> --help` tells more.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next().unwrap_or_else(|| "help".to_owned());
    let rest: Vec<String> = arguments.collect();
    let help = rest.iter().any(|a| a == "--help" || a == "-h");
    let done = match task.as_str() {
        "test" if help => print(test::HELP),
        "test" => test::run(&rest),
        "live" if help => print(live::HELP),
        "live" => live::run(&rest),
        "doc" if help => print(doc::HELP),
        "doc" => doc::run(&rest),
        "fuzz" if help => print(fuzz::HELP),
        "fuzz" => fuzz::run(&rest),
        "bench" if help && rest.iter().any(|a| a == "te") => print(networks::HELP),
        "bench" if help && rest.iter().any(|a| a == "gateway") => print(gateway::HELP),
        "bench" if help => print(bench::HELP),
        "bench" => bench::run(&rest),
        "npm" if help => print(node::HELP),
        "npm" => node::run(&rest),
        "tools" if help => print(tools::HELP),
        "tools" => tools::run(&rest),
        "wheel" if help => print(python::HELP),
        "wheel" => python::run(&rest),
        "help" | "--help" | "-h" => print(HELP),
        _ => Err(format!("no task is called `{task}`; `cargo xtask help` lists them")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

fn print(text: &str) -> Result<bool, String> {
    report::say(text.trim_end());
    Ok(true)
}
