//! The command line.
#![allow(clippy::print_stdout)]

mod bootstrap;
mod gateway;
mod simulate;
mod te;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;

/// Moves traffic between clouds, regions and providers by itself.
#[derive(Debug, Parser)]
#[command(
    name = "traflux",
    version,
    after_help = "Examples:\n  \
        traflux demo                                      the whole loop on an embedded fleet\n  \
        traflux check --config traflux.yaml               what does this configuration mean?\n  \
        traflux bootstrap envoy --config traflux.yaml --source us-east > envoy.yaml\n  \
        traflux bootstrap prometheus --config traflux.yaml --envoy us-east=127.0.0.1:9901\n  \
        traflux run --config traflux.yaml                 the controller, until it is stopped\n  \
        traflux doctor --config traflux.yaml              what is missing in this set-up?\n  \
        traflux te evaluate backbone.json week.rows       which pairs of a network should be rerouted?\n  \
        traflux te train backbone.json week.rows          a selector learned from traffic of the past\n  \
        traflux gateway check gateway.yaml                what do these rules mean, and which never decide?"
)]
struct Cli {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Plays two virtual hours on an embedded fleet and compares arms; needs no service and no network.
    Demo(simulate::DemoArgs),
    /// Compares arms on a scenario over several seeds and says which claims hold.
    Evaluate(simulate::EvaluateArgs),
    /// Trains a policy in the simulator (needs a build with `--features learn`).
    Train(simulate::TrainArgs),
    /// Runs the controller beside Envoy and Prometheus.
    Run(RunArgs),
    /// Reads a configuration and says what it means.
    Check(ConfigArgs),
    /// Prints the JSON Schema of a configuration.
    Schema {
        /// Of which: that of the controller or that of the gateway.
        #[arg(value_enum, default_value = "controller")]
        of: SchemaOf,
    },
    /// Requests of AI APIs and other HTTP services: rules, limits, queues, balancing.
    Gateway(gateway::GatewayArgs),
    /// Prints configurations for Envoy and Prometheus that make everything work.
    #[command(subcommand)]
    Bootstrap(bootstrap::BootstrapCommand),
    /// Network traffic engineering: solve, evaluate, failures, paths, train, generate, convert, bench.
    #[command(subcommand)]
    Te(Box<te::TeCommand>),
    /// Looks at a running set-up and says what is missing.
    Doctor(DoctorArgs),
}

/// What a schema describes.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SchemaOf {
    /// `traflux.yaml` of `traflux run`.
    Controller,
    /// `gateway.yaml` of `traflux gateway`.
    Gateway,
}

#[derive(Debug, Clone, Args)]
struct ConfigArgs {
    /// The configuration file.
    #[arg(long, short, default_value = "traflux.yaml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Logs as JSON lines.
    #[arg(long)]
    log_json: bool,
    /// What to log, such as `info` or `traflux=debug,traflux_xds=trace`; the variable TRAFLUX_LOG does the same.
    #[arg(long, default_value = "info", env = "TRAFLUX_LOG", value_name = "FILTER")]
    log: String,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Findings as JSON.
    #[arg(long)]
    json: bool,
}

/// A message for people; the process then ends with code 1.
type Failure = Box<dyn std::error::Error>;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(problem) => {
            use std::io::Write as _;
            // Nothing can be done about a standard error that is closed.
            let _ = writeln!(std::io::stderr(), "traflux: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Commands) -> Result<ExitCode, Failure> {
    match command {
        Commands::Demo(args) => simulate::demo(&args),
        Commands::Evaluate(args) => simulate::evaluate(&args),
        Commands::Train(args) => simulate::train(&args),
        Commands::Run(args) => run(&args),
        Commands::Check(args) => check(&args),
        Commands::Schema { of } => {
            let schema = match of {
                SchemaOf::Controller => schemars::schema_for!(Config),
                SchemaOf::Gateway => schemars::schema_for!(traflux_core::plan::requests::RequestPlan),
            };
            println!("{}", serde_json::to_string_pretty(&schema)?);
            Ok(ExitCode::SUCCESS)
        }
        Commands::Gateway(args) => gateway::dispatch(&args),
        Commands::Bootstrap(command) => bootstrap::print(&command),
        Commands::Te(command) => te::dispatch(&command),
        Commands::Doctor(args) => doctor(&args),
    }
}

fn read(args: &ConfigArgs) -> Result<Config, Failure> {
    Config::read(&args.config).map_err(|problem| match problem {
        crate::ConfigError::Io { .. } => problem.to_string().into(),
        other => format!("{}: {other}", args.config.display()).into(),
    })
}

fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let config = read(&args.config)?;
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)
        .map_err(|problem| format!("--log `{}`: {problem}", args.log))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if args.log_json {
        logs.json().init()
    } else {
        logs.init()
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(crate::service::run(config, stopped()));
    // A name that is still being looked up holds up no shutdown.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Completes at SIGINT or SIGTERM.
async fn stopped() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without a handler for signals the process ends by their default action.
    if interrupt.await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn check(args: &ConfigArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let prepared = runtime
        .block_on(crate::service::prepare(read(args)?))
        .map_err(|problem| format!("{}: {problem}", args.config.display()))?;
    let (config, built) = (prepared.config(), prepared.built());
    let topology = &built.fleet.topology;
    println!(
        "{}: {} sources, {} services, {} endpoints, {} routes",
        args.config.display(),
        config.sources.len(),
        config.services.len(),
        topology.groups().len(),
        topology.routes().len()
    );
    for (ix, flow) in topology.flows().iter().enumerate() {
        println!("  {} starts with", flow.name);
        let row = built.fleet.fallback.row(ix.into());
        for (route, share) in topology.route_range(ix.into()).zip(row) {
            let route = &topology.routes()[route];
            let endpoint = &topology.groups()[route.group.ix()].name;
            println!(
                "    {:>5.1} %  {endpoint}  ({} round trip, {})",
                share * 100.0,
                route.delay,
                route.price
            );
        }
    }
    let names = config.dns_names();
    if !names.is_empty() {
        println!("  resolved at start: {}", names.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let config = read(&args.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(crate::doctor::diagnose(&config));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", crate::doctor::render(&findings));
    }
    let failed = findings.iter().any(|finding| finding.level == crate::doctor::Level::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
