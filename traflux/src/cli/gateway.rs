//! `traflux gateway`: what is decided for each request.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::{Matcher, Severity, review};

use super::Failure;

/// Arguments of `traflux gateway`.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        traflux gateway check gateway.yaml                rules in the order in which they are tried, and findings\n  \
        traflux gateway check gateway.yaml --strict       the same, failing on any warning\n  \
        traflux schema gateway > gateway.schema.json      for an editor"
)]
pub(super) struct GatewayArgs {
    #[command(subcommand)]
    command: GatewayCommand,
}

#[derive(Debug, Subcommand)]
enum GatewayCommand {
    /// Reads a file, prints its rules and says which can never decide.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Fail on any warning.
    #[arg(long)]
    strict: bool,
}

pub(super) fn dispatch(args: &GatewayArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        GatewayCommand::Check(args) => check(args),
    }
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
    Matcher::new(rules.iter().map(|rule| &rule.matches)).map_err(|problem| format!("{file}: {problem}"))?;
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
    let warned = findings.iter().any(|finding| finding.severity() == Severity::Warning);
    Ok(if args.strict && warned { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
