//! Does the closed loop hold on a real Envoy and a real Prometheus?
//!
//! One rig on loopback serves two tasks: `claims` checks what must hold and prints a line for each, `demo`
//! lets things break in front of your eyes. See the README of this crate.

mod backend;
mod claims;
mod demo;
mod error;
mod fleet;
mod load;
mod program;
mod python;
mod random;
mod rig;
mod timeline;
mod watch;
mod wire;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use claims::CLAIMS;
use rig::{Programs, Rig};

#[derive(Parser)]
#[command(version, about = "The closed loop of Traflux on real Envoys and a real Prometheus, on loopback")]
struct Options {
    #[command(subcommand)]
    task: Task,
    /// The controller under test
    #[arg(long, global = true, default_value = "target/debug/traflux")]
    traflux: PathBuf,
    /// Envoy 1.40 or later
    #[arg(long, global = true, default_value = "target/tools/venv/bin/envoy")]
    envoy: PathBuf,
    /// Prometheus 2.42 or later
    #[arg(long, global = true, default_value = "target/tools/prometheus/usr/bin/prometheus")]
    prometheus: PathBuf,
    /// A Python with grpcio; without one the gRPC claim does not run
    #[arg(long, global = true)]
    python: Option<PathBuf>,
    /// Where each run makes a directory for its files and logs
    #[arg(long, global = true, default_value = "target/live")]
    work_dir: PathBuf,
    /// Keep that directory when everything went well
    #[arg(long, global = true)]
    keep: bool,
}

#[derive(Subcommand)]
enum Task {
    /// Check what must hold; the exit status says whether it does
    Claims {
        /// Numbers of the claims, all unless given
        #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=CLAIMS.len() as i64))]
        claims: Vec<u8>,
        /// Print what the claims say, and end
        #[arg(long)]
        list: bool,
    },
    /// Let things break and print what moves
    Demo,
}

/// A run that has not ended by then never will.
const LIMIT: Duration = Duration::from_secs(8 * 60);

/// Writes a line. A closed terminal is no reason to stop.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if let Task::Claims { list: true, .. } = options.task {
        for (number, says) in CLAIMS {
            say(&format!("claim {number}: {says}"));
        }
        return ExitCode::SUCCESS;
    }
    // Whatever ends first: what it leaves behind is dropped, and with it every program that was started.
    tokio::select! {
        code = run(options) => code,
        () = interrupted() => {
            say("interrupted");
            ExitCode::from(130)
        }
        () = tokio::time::sleep(LIMIT) => {
            say(&format!("not done within {} s", LIMIT.as_secs()));
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}

async fn run(options: Options) -> ExitCode {
    let started = Instant::now();
    let programs = Programs {
        traflux: absolute(options.traflux),
        envoy: absolute(options.envoy),
        prometheus: absolute(options.prometheus),
        python: options.python.map(absolute),
        work_dir: options.work_dir,
    };
    let rig = match Rig::start(programs).await {
        Ok(rig) => rig,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    say(&format!("rig up after {:.1} s in {}", started.elapsed().as_secs_f64(), rig.dir.display()));
    let fine = match options.task {
        Task::Claims { claims, .. } => {
            let wanted = if claims.is_empty() { CLAIMS.map(|c| c.0).to_vec() } else { claims };
            let tally = claims::run(&rig, &wanted).await;
            say(&format!(
                "claims: {} ok, {} failed, {} not run, {:.1} s",
                tally.held,
                tally.failed,
                tally.not_run,
                started.elapsed().as_secs_f64()
            ));
            tally.failed == 0
        }
        Task::Demo => match demo::run(&rig).await {
            Ok(()) => true,
            Err(error) => {
                eprintln!("error: {error}");
                false
            }
        },
    };
    if !fine {
        rig.show_logs().await;
    }
    let dir = rig.dir.clone();
    drop(rig);
    if fine && !options.keep {
        rig::remove(&dir);
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Programs are started from other directories.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}
