//! `traflux gateway`: what is decided for each request, and a process that does it.

mod look_back;
mod page;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use traflux_core::plan::requests::RequestPlan;
use traflux_core::{HostPlan, Rate};
use traflux_gateway::adapter::Clock;
use traflux_gateway::decision_log::LogFileSettings;
use traflux_gateway::{Engine, EngineSettings, Severity, review, server};

use super::Failure;
use crate::controller::Fleet;
use crate::gateway::{EngineController, controlled};

/// Arguments of `traflux gateway`.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        traflux gateway --config gateway.yaml             serve it; read it again when it changes, drain at SIGTERM\n  \
        traflux gateway --config gateway.yaml --decision-log decisions.jsonl\n                                                    \
        the same, and every decision is recorded\n  \
        traflux gateway replay decisions.jsonl            would all of it be decided so again?\n  \
        traflux gateway replay decisions.jsonl --plan other.yaml --html what-if.html\n                                                    \
        how would the same requests have fared?\n  \
        traflux gateway analyze decisions.jsonl --html planning.html\n                                                    \
        when will limits be reached?\n  \
        traflux gateway alerts rules.yml                  alerting rules for Prometheus\n  \
        traflux gateway --demo                            a gateway before mock backends, under load, without keys\n  \
        traflux gateway check gateway.yaml                rules in the order in which they are tried, and findings\n  \
        traflux gateway check gateway.yaml --strict       the same, failing on any warning\n  \
        traflux gateway check gateway.yaml --embedded     the same for an engine inside another program\n  \
        traflux gateway envoy gateway.yaml > envoy.yaml   the same plan for Envoy, and what of it is approximate\n  \
        traflux schema gateway > gateway.schema.json      for an editor"
)]
pub(super) struct GatewayArgs {
    #[command(subcommand)]
    command: Option<GatewayCommand>,
    /// Serve the plan of this file.
    #[arg(long, value_name = "FILE", conflicts_with = "demo")]
    config: Option<PathBuf>,
    /// Record every decision in this file: what the plan looks at of requests, no keys and no prompts. Only its owner
    /// may read it. At 256 MiB it becomes FILE.1, and so on; 15 such files are kept.
    #[arg(long, value_name = "FILE", requires = "config")]
    decision_log: Option<PathBuf>,
    /// Show a gateway at work before mock backends.
    #[arg(long)]
    demo: bool,
}

#[derive(Debug, Subcommand)]
enum GatewayCommand {
    /// Reads a file, prints its rules, says which can never decide, and refuses what `--config` would refuse: with the
    /// keys, certificates and files that the plan names.
    Check(CheckArgs),
    /// Writes the plan as a configuration of Envoy, and says how well each key is expressed.
    Envoy(EnvoyArgs),
    /// Decides everything in a log again and compares, or plays its requests under another plan.
    Replay(look_back::ReplayArgs),
    /// Tells from a log how traffic is shaped, how it grows and when limits are reached.
    Analyze(look_back::AnalyzeArgs),
    /// Writes recording and alerting rules for Prometheus.
    Alerts(look_back::AlertsArgs),
}

#[derive(Debug, Args)]
struct EnvoyArgs {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Fail, and write nothing, unless Envoy does all that the file says by itself and exactly. Defaults that it handles
    /// differently are listed and do not fail.
    #[arg(long)]
    strict: bool,
    /// An HTTP service that says who a client is, for plans with API keys or tokens: Envoy shows it the path and key of
    /// each request, and it answers 200 with `x-traflux-tenant` and its like, or refuses. Without it such a plan refuses
    /// everybody.
    #[arg(long, value_name = "HOST:PORT", value_parser = host)]
    authorization: Option<HostPlan>,
    /// Authorities of backends' certificates, PEM, as Envoy sees the file; those of the system unless given.
    #[arg(long, value_name = "FILE")]
    authorities: Option<String>,
}

fn host(text: &str) -> Result<HostPlan, String> {
    let (address, port) = crate::config::host_and_port(text)?;
    Ok(HostPlan { address, port })
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Fail on any warning.
    #[arg(long)]
    strict: bool,
    /// Only what an engine inside another program looks at: backends need no URL, and no key, certificate or address is
    /// looked for.
    #[arg(long)]
    embedded: bool,
}

pub(super) fn dispatch(args: &GatewayArgs) -> Result<ExitCode, Failure> {
    let tell = |line: &str| println!("{line}");
    match (&args.command, &args.config) {
        (Some(GatewayCommand::Check(args)), _) => check(args),
        (Some(GatewayCommand::Envoy(args)), _) => envoy(args),
        (Some(GatewayCommand::Replay(args)), _) => look_back::replay(args),
        (Some(GatewayCommand::Analyze(args)), _) => look_back::analyze(args),
        (Some(GatewayCommand::Alerts(args)), _) => look_back::alerts(args),
        (None, Some(file)) => {
            let read = |text: &str| {
                crate::config::read_yaml::<RequestPlan>(text).map_err(|problem| problem.to_string())
            };
            let mut settings = server::RunSettings::new(file);
            settings.server.decision_log = args.decision_log.as_ref().map(LogFileSettings::new);
            server::run(settings, read, tell, control)?;
            Ok(ExitCode::SUCCESS)
        }
        (None, None) if args.demo => {
            server::demo(&server::DemoSettings::default(), tell)?;
            Ok(ExitCode::SUCCESS)
        }
        (None, None) => Err("nothing to do: expected a command, `--config FILE` or `--demo`".into()),
    }
}

/// The controller beside a gateway, for as long as that runs.
fn control(gateway: &server::Gateway) -> impl Future<Output = ()> + Send + use<> {
    let clock = gateway.clock();
    let controller = EngineController::new(gateway.engine().clone());
    gateway.show(controller.metrics());
    controller.run(move || clock.now(), |line| println!("{line}"))
}

/// Reads a plan of requests.
fn read(file: &std::path::Path) -> Result<RequestPlan, Failure> {
    let text = std::fs::read_to_string(file).map_err(|problem| format!("{}: {problem}", file.display()))?;
    let plan: RequestPlan =
        crate::config::read_yaml(&text).map_err(|problem| format!("{}: {problem}", file.display()))?;
    plan.validate().map_err(|problem| format!("{}: {problem}", file.display()))?;
    Ok(plan)
}

fn check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let plan = read(&args.file)?;
    let rules = &plan.routing.rules;
    let file = args.file.display();
    Engine::new(&plan, &EngineSettings::default(), Clock::start().now())
        .map_err(|problem| format!("{file}: {problem}"))?;
    println!(
        "{file}: {} rules, {} backends, {} limits",
        rules.len(),
        plan.backend_names().len(),
        plan.limits.len()
    );
    let mut order: Vec<_> = rules.iter().collect();
    order.sort_by_key(|rule| std::cmp::Reverse(rule.priority));
    let width = order.iter().map(|rule| rule.name.chars().count()).max().unwrap_or(0).max("default".len());
    let shown = |name: &str, route: &traflux_core::plan::routing::RoutePlan| {
        let backends: Vec<_> = route.weights().map(|(name, weight)| format!("{name} x {weight}")).collect();
        let algorithm = route.algorithm.unwrap_or(plan.routing.strategy);
        println!("  {name:<width$}  {algorithm:<17}  {}", backends.join(", "));
    };
    for rule in order {
        shown(&rule.name, &rule.route);
    }
    if let Some(route) = &plan.routing.default {
        shown("default", route);
    }
    let findings = review(&plan);
    for finding in &findings {
        let severity = match finding.severity() {
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        println!("{severity}: {finding}");
    }
    let mut warned = findings.iter().any(|finding| finding.severity() == Severity::Warning);
    if plan.control.is_some() {
        match controlled(&plan).map_err(|problem| format!("{file}: {problem}"))? {
            Some(fleet) => describe(&fleet),
            None => {
                warned = true;
                println!("warning: control: no rule under `adaptive` has two backends of positive weight");
            }
        }
    }
    if !args.embedded {
        server::validate(&plan, &server::ServerSettings::default())
            .map_err(|problem| format!("{file}: cannot be served: {problem}"))?;
    }
    Ok(if args.strict && warned { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the controller will move, and which capacities it has to learn.
fn describe(fleet: &Fleet) {
    let topology = &fleet.topology;
    let rules: Vec<_> = topology.flows().iter().map(|flow| flow.name.as_str()).collect();
    let unknown = topology.resources().iter().filter(|resource| resource.capacity == Rate::ZERO);
    let unknown: Vec<_> = unknown.map(|resource| resource.name.as_str()).collect();
    let learned = if unknown.is_empty() {
        String::new()
    } else {
        format!("; capacity to be learned: {}", unknown.join(", "))
    };
    println!("control: moves the weights of {}{learned}", rules.join(", "));
}

/// The configuration goes to standard output, the report to standard error.
fn envoy(args: &EnvoyArgs) -> Result<ExitCode, Failure> {
    use std::io::Write as _;
    use traflux_xds::requests::{RequestOptions, compile, table};

    let plan = read(&args.file)?;
    let file = args.file.display();
    let mut options =
        RequestOptions { authorization: args.authorization.clone(), ..RequestOptions::default() };
    if let Some(authorities) = &args.authorities {
        options.authorities_file.clone_from(authorities);
    }
    let compiled = compile(&plan, &options).map_err(|problem| format!("{file}: {problem}"))?;
    let mut out = std::io::stderr().lock();
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(out, "{}", table(compiled.fields()).trim_end());
    if !compiled.usual().is_empty() {
        let _ = writeln!(out, "\nnot set, and otherwise in Envoy:\n{}", table(compiled.usual()).trim_end());
    }
    let inexact = compiled.not_native().count();
    if args.strict && inexact > 0 {
        return Err(format!("{file}: {inexact} keys are not native to Envoy").into());
    }
    print!("{}", compiled.static_config().map_err(|problem| format!("{file}: {problem}"))?);
    Ok(ExitCode::SUCCESS)
}
