//! `traflux te train`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::input::{InputArgs, PairCount, STEPS, bar, save, say};
use crate::cli::Failure;
use crate::te::{TrainOptions, train as learn};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    traflux te train backbone.json week.rows --train 1152 --out policy.safetensors\n  \
    traflux te evaluate backbone.json week.rows --history 1152 --checkpoint policy.safetensors\n\n\
    A policy trained with --any-network scores pairs by features of their paths alone and fits every network.")]
pub(in crate::cli) struct TrainArgs {
    #[command(flatten)]
    input: InputArgs,
    /// Most pairs that may be rerouted, or a share of all.
    #[arg(short, long, value_name = "COUNT|SHARE%", default_value = "10%")]
    k: PairCount,
    /// Learns from this many of the first matrices; four of seven unless given. The others only show how it goes.
    #[arg(long, value_name = "COUNT")]
    train: Option<usize>,
    /// Where the policy goes.
    #[arg(long, default_value = "policy.safetensors", value_name = "FILE")]
    out: PathBuf,
    /// Seed of everything.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Updates on choices that the policy draws and the solver judges.
    #[arg(long, default_value_t = 1500)]
    updates: usize,
    /// Updates on choices of an oracle before that; 0 leaves imitation out.
    #[arg(long, default_value_t = 300)]
    examples: usize,
    /// Without weights of its own for every pair: for use on other networks.
    #[arg(long)]
    any_network: bool,
    /// What is taken off the reward for all traffic being chosen; in proportion for a part of it.
    #[arg(long, default_value_t = 0.05)]
    disturbance_price: f64,
    /// Choices are judged on the matrix after, as a real controller's are.
    #[arg(long)]
    stale: bool,
    /// Threads; they change how long it takes and nothing else.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Where the learning curve goes, as CSV.
    #[arg(long, value_name = "FILE")]
    curve: Option<PathBuf>,
}

pub(super) fn train(args: &TrainArgs) -> Result<ExitCode, Failure> {
    let (network, matrices) = args.input.load()?;
    let options = TrainOptions {
        count: args.k.of(&network),
        trained: args.train.unwrap_or(matrices.len() * 4 / 7),
        seed: args.seed,
        example_updates: args.examples,
        updates: args.updates,
        identities: !args.any_network,
        disturbance_price: args.disturbance_price,
        stale: args.stale,
        threads: args.threads,
        command: format!(
            "traflux te train --train {} --seed {} --updates {} --examples {}{}{}",
            args.train.unwrap_or(matrices.len() * 4 / 7),
            args.seed,
            args.updates,
            args.examples,
            if args.any_network { " --any-network" } else { "" },
            if args.stale { " --stale" } else { "" },
        ),
    };
    let bar = bar("examples of the oracle".to_owned());
    let result = learn(&network, &matrices, &options, &mut |done, point| {
        bar.set_position((done * STEPS) as u64);
        if let Some(point) = point {
            bar.set_message(format!("PR_U {:.4}, p5 {:.4}", point.unseen_mean, point.unseen_p5));
        }
    });
    bar.finish_and_clear();
    let trained = result?;
    trained.checkpoint.save(&args.out)?;
    let mut text = String::from("updates  rewards  seconds  mean reward  unseen PR_U      p5\n");
    let mut csv = String::from("update,rewards,seconds,mean_reward,unseen_mean,unseen_p5\n");
    for point in &trained.curve {
        let reward = point.mean_reward.map_or_else(String::new, |reward| format!("{reward:.4}"));
        let _ = writeln!(
            text,
            "{:>7} {:>8} {:>8.1} {reward:>12} {:>12.4} {:>7.4}",
            point.update, point.rewards, point.seconds, point.unseen_mean, point.unseen_p5
        );
        let _ = writeln!(
            csv,
            "{},{},{:.3},{reward},{},{}",
            point.update, point.rewards, point.seconds, point.unseen_mean, point.unseen_p5
        );
    }
    if let Some(path) = &args.curve {
        save(path, &csv)?;
    }
    let _ = writeln!(text, "{:.0} rewards/s; policy: {}", trained.rewards_per_second, args.out.display());
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}
