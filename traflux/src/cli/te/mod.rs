//! `traflux te`: networks, matrices and the pairs that matter.

mod answer;
mod bench;
mod convert;
mod evaluate;
mod failures;
mod generate;
mod input;
mod least;
mod paths;
mod solve;
mod train;

use std::process::ExitCode;

use clap::Subcommand;

use super::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum TeCommand {
    /// The least possible utilisation of the fullest link, over all paths or with a few pairs rerouted.
    Solve(solve::SolveArgs),
    /// Compares ways to choose the pairs that are rerouted.
    Evaluate(evaluate::EvaluateArgs),
    /// What becomes of the fullest link when a link, a node or a shared risk fails.
    Failures(failures::FailuresArgs),
    /// Chooses few paths per pair that serve all matrices, by column generation.
    Paths(paths::PathsArgs),
    /// Learns a selector from the matrices of one network or many, and tests it.
    Train(train::TrainArgs),
    /// Makes a network, or matrices for one.
    #[command(subcommand)]
    Generate(generate::GenerateCommand),
    /// Writes a network, or matrices, in another format.
    Convert(convert::ConvertArgs),
    /// Times solvers and selectors on this machine.
    Bench(bench::BenchArgs),
}

pub(super) fn dispatch(command: &TeCommand) -> Result<ExitCode, Failure> {
    match command {
        TeCommand::Solve(args) => solve::solve(args),
        TeCommand::Evaluate(args) => evaluate::evaluate(args),
        TeCommand::Failures(args) => failures::failures(args),
        TeCommand::Paths(args) => paths::paths(args),
        TeCommand::Train(args) => train::train(args),
        TeCommand::Generate(command) => generate::generate(command),
        TeCommand::Convert(args) => convert::convert(args),
        TeCommand::Bench(args) => bench::bench(args),
    }
}
