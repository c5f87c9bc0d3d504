//! `traflux demo`, `traflux evaluate`, `traflux train`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use traflux_sim::Scenario;

use super::Failure;
use crate::lab::ArmKind;
use crate::lab::demo::{DemoOptions, DemoResult, demo as play};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  traflux demo\n  traflux demo --html report.html --seed 7\n  \
                        traflux demo --scenario flash        a built-in scenario\n  \
                        traflux demo --scenario mine.yaml    one of your own\n\n\
                        To train a policy of your own: cargo run --release -p traflux --features learn -- train")]
pub(super) struct DemoArgs {
    /// A built-in scenario, or a file.
    #[arg(long, default_value = "demo", value_name = "NAME|FILE")]
    scenario: String,
    /// Seed of the run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the report goes.
    #[arg(long, default_value = "traflux-demo.html", value_name = "FILE")]
    html: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  traflux evaluate\n  traflux evaluate --scenario brownout --seeds 30\n  \
                        traflux evaluate --arms traflux,static-capacity-weights --strict"
)]
pub(super) struct EvaluateArgs {
    /// A built-in scenario, or a file.
    #[arg(long, default_value = "demo", value_name = "NAME|FILE")]
    scenario: String,
    /// Seeds 1 to this.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Only these arms.
    #[arg(long, value_delimiter = ',')]
    arms: Vec<ArmKind>,
    /// The arm whose claims are checked.
    #[arg(long, default_value = "traflux")]
    focus: ArmKind,
    /// Where the report goes; none unless given.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Ends with code 1 when a claim does not hold.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  traflux train --out policy.safetensors\n  \
                        traflux train --iterations 400 --seed 3 --out policy.safetensors")]
#[cfg_attr(not(feature = "learn"), allow(dead_code))]
pub(super) struct TrainArgs {
    /// Where the checkpoint goes.
    #[arg(long, default_value = "fleet.safetensors", value_name = "FILE")]
    out: PathBuf,
    /// Seed of everything.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Updates.
    #[arg(long, default_value_t = 150)]
    iterations: usize,
    /// Environments stepped side by side.
    #[arg(long, default_value_t = 8)]
    environments: usize,
    /// How many endpoints the policy may choose.
    #[arg(long, default_value_t = 4)]
    k: usize,
    /// Train on this scenario only, not on random ones.
    #[arg(long, value_name = "NAME|FILE")]
    scenario: Option<String>,
    /// Where the learning curve goes, as JSON; none unless given.
    #[arg(long, value_name = "FILE")]
    curve: Option<PathBuf>,
}

/// A built-in scenario by name, or one from a file.
fn scenario(text: &str) -> Result<Scenario, Failure> {
    if Scenario::built_in_names().any(|name| name == text) {
        return Ok(Scenario::built_in(text)?);
    }
    let yaml = std::fs::read_to_string(text).map_err(|problem| {
        let known: Vec<&str> = Scenario::built_in_names().collect();
        format!("--scenario `{text}`: {problem}; built in: {}", known.join(", "))
    })?;
    Scenario::from_yaml(&yaml).map_err(|problem| format!("{text}: {problem}").into())
}

pub(super) fn demo(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let options = DemoOptions {
        scenario: scenario(&args.scenario)?,
        seeds: vec![args.seed],
        arms: ArmKind::ALL.to_vec(),
        focus: ArmKind::Traflux,
        html: Some(args.html.clone()),
        command: format!("traflux demo --scenario {} --seed {}", args.scenario, args.seed),
    };
    let result = play(&options)?;
    print!("{}", result.table);
    println!("{:.1} s", result.seconds);
    if let Some(path) = &result.html {
        println!("report: {}", path.display());
    }
    println!(
        "a policy of your own: cargo run --release -p traflux --features learn -- train; see docs/training.md"
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) fn evaluate(args: &EvaluateArgs) -> Result<ExitCode, Failure> {
    if args.seeds == 0 || args.seeds > 1000 {
        return Err(format!("--seeds {} is outside [1, 1000]", args.seeds).into());
    }
    let mut arms = if args.arms.is_empty() { ArmKind::ALL.to_vec() } else { args.arms.clone() };
    if !arms.contains(&args.focus) {
        arms.push(args.focus);
    }
    let result = play(&DemoOptions {
        scenario: scenario(&args.scenario)?,
        seeds: (1..=args.seeds).collect(),
        arms,
        focus: args.focus,
        html: args.html.clone(),
        command: format!("traflux evaluate --scenario {} --seeds {}", args.scenario, args.seeds),
    })?;
    print!("{}", result.table);
    let kept = print_claims(args.focus, &result);
    Ok(if args.strict && !kept { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print_claims(focus: ArmKind, result: &DemoResult) -> bool {
    println!("\n{focus}:");
    for claim in &result.claims {
        println!("  {} {}: {}", if claim.holds { "✓" } else { "✗" }, claim.text, claim.numbers);
    }
    println!("{:.1} s", result.seconds);
    result.claims.iter().all(|claim| claim.holds)
}

#[cfg(not(feature = "learn"))]
pub(super) fn train(_: &TrainArgs) -> Result<ExitCode, Failure> {
    Err("training needs a build with it: cargo run --release -p traflux --features learn -- train".into())
}

#[cfg(feature = "learn")]
pub(super) fn train(args: &TrainArgs) -> Result<ExitCode, Failure> {
    use crate::lab::train::{TrainOptions, train};
    let options = TrainOptions {
        seed: args.seed,
        iterations: args.iterations,
        environments: args.environments,
        critical: args.k,
        scenario: args.scenario.as_deref().map(scenario).transpose()?,
        out: args.out.clone(),
        curve: args.curve.clone(),
        command: format!(
            "traflux train --seed {} --iterations {} --environments {} --k {}{}",
            args.seed,
            args.iterations,
            args.environments,
            args.k,
            args.scenario.as_ref().map_or(String::new(), |s| format!(" --scenario {s}")),
        ),
    };
    let summary = train(&options)?;
    print!("{summary}");
    println!("checkpoint: {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}
