//! How good is a learned choice of critical pairs, and how fast is it learned?
//!
//! ```text
//! TRAFLUX_DATA=… cargo run --release -p traflux-sim --example te_train -- <table> [seeds …]
//! ```
//!
//! Tables: `abilene` (four days to learn, three to judge), `stale`, `backbones`, `unseen`, `selection`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use traflux_core::{BaseRouting, BitRate, GroupIx, Network, Policy, TrafficMatrix};
use traflux_lp::multicommodity::select::{FractionalBound, GreedyOracle, LeastMoved, RelaxAndRound};
use traflux_policy::bandit::{BanditConfig, BanditProgress, Scene, train_bandit};
use traflux_policy::{ActionSpace, LearnedPolicy, Mode, Parameters, SharedParameters};
use traflux_sim::te::{Evaluation, SelectionReward, TrafficSeries, evaluate, scenes_of};
use traflux_te::format::{Format, ReadOptions, read_matrices_file, read_network_file};
use traflux_te::generate::TrafficModel;
use traflux_te::metrics::{BootstrapConfig, PairedDifference};
use traflux_te::select::SearchConfig;
use traflux_te::{FixedSet, GreedyRelief, SelectionEncoder, TopKCritical, ecmp, share_of_pairs};

type Outcome<T> = Result<T, Box<dyn Error>>;

const DAY: usize = 288;
const TRAINED_DAYS: usize = 4;
const SHARE: f64 = 0.10;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let table = arguments.next().unwrap_or_else(|| "abilene".to_owned());
    let mut seeds: Vec<u64> = arguments.map(|seed| seed.parse()).collect::<Result<_, _>>()?;
    if seeds.is_empty() {
        seeds = vec![1];
    }
    match table.as_str() {
        "abilene" => abilene(&seeds, false),
        "stale" => abilene(&seeds, true),
        other => Err(format!("no table `{other}`").into()),
    }
}

fn data(name: &str) -> Outcome<PathBuf> {
    let root = std::env::var_os("TRAFLUX_DATA").ok_or("TRAFLUX_DATA is not set")?;
    Ok(PathBuf::from(root).join(name))
}

fn network(name: &str) -> Outcome<(Network, BaseRouting)> {
    let path = data("cfr-rl")?.join(name);
    let network = read_network_file(path, Some(Format::CfrRl), &ReadOptions::default())?.network;
    let base = ecmp(&network)?;
    Ok((network, base))
}

fn week() -> Outcome<TrafficSeries> {
    let (network, base) = network("Abilene")?;
    let path = data("cfr-rl")?.join("AbileneTM");
    let matrices = read_matrices_file(path, Some(Format::CfrRl), &network, &ReadOptions::default())?;
    Ok(TrafficSeries::new(network, base, matrices)?)
}

fn env<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A policy as it ships, but without its fallback: what is judged is the network.
fn learned(parameters: &Parameters, encoder: &SelectionEncoder) -> Outcome<LearnedPolicy> {
    let actions = ActionSpace { critical: encoder.count(), ..ActionSpace::default() };
    let shared = SharedParameters::new(parameters.clone());
    Ok(LearnedPolicy::new(shared, &encoder.space(), actions, Mode::Frozen)?.with_margin(None))
}

fn line(name: &str, evaluation: &Evaluation, block: usize) {
    let config = BootstrapConfig { block, resamples: 1000, ..BootstrapConfig::default() };
    let Some(s) = evaluation.summary(&config) else { return };
    println!(
        "{name:<22} PR {:.4} [{:.4}, {:.4}]  p5 {:.4} [{:.4}, {:.4}]  min {:.4}  chosen {:.3}  moved {:.3}",
        s.mean,
        s.mean_interval.low,
        s.mean_interval.high,
        s.p5,
        s.p5_interval.low,
        s.p5_interval.high,
        s.min,
        evaluation.selected_share(),
        evaluation.moved_share()
    );
}

fn abilene(seeds: &[u64], stale: bool) -> Outcome<()> {
    let series = week()?;
    let (network, base) = (series.network(), series.base());
    let count = share_of_pairs(network, SHARE);
    let training = 0..TRAINED_DAYS * DAY;
    let test = training.end..series.steps(stale);
    let mut encoder = SelectionEncoder::new(network, base, count).with_steps(env("STEPS", 8));
    let observations = scenes_of(&series, training.clone(), &mut encoder)?;

    let begun = Instant::now();
    let mut oracle = GreedyOracle::new(network, base, count);
    let examples: Vec<Vec<GroupIx>> =
        observations.iter().map(|seen| Ok(oracle.act(seen)?.critical)).collect::<Outcome<_>>()?;
    println!("# {} examples in {:.1} s", examples.len(), begun.elapsed().as_secs_f64());

    let reward = SelectionReward { disturbance_price: env("PRICE", 0.05), stale, ..Default::default() };
    let plain = SelectionReward { stale, ..SelectionReward::default() };
    let mut results: Vec<(String, Evaluation)> = Vec::new();
    if env("BASELINES", 1) == 1 {
        let sample: Vec<usize> = training.clone().step_by(24).collect();
        let found = FixedSet::from_history(&examples, count, &SearchConfig::default(), |pairs| {
            let one = [pairs.to_vec()];
            let mut sum = 0.0;
            for at in &sample {
                sum += series.rewards(*at, &one, &plain)?[0];
            }
            Ok::<_, Box<dyn Error>>(sum / sample.len() as f64)
        })?;
        println!("# fixed set: {:.4} in {} evaluations", found.score, found.evaluations);
        let rivals: Vec<(&str, Box<dyn Policy>)> = vec![
            ("Top-K critical", Box::new(TopKCritical::new(network, base, count))),
            ("relax and round", Box::new(RelaxAndRound::new(network, base, count))),
            ("least moved", Box::new(LeastMoved::new(network, base, count))),
            ("greedy relief", Box::new(GreedyRelief::new(network, base, count))),
            ("fixed set", Box::new(found.set)),
            ("greedy oracle", Box::new(GreedyOracle::new(network, base, count))),
        ];
        for (name, mut policy) in rivals {
            let evaluation = evaluate(&series, test.clone(), &mut encoder, &mut *policy, stale)?;
            line(name, &evaluation, 36);
            results.push((name.to_owned(), evaluation));
        }
    }
    let usable = series.steps(stale).min(training.end);
    let mut means = Vec::new();
    for seed in seeds {
        let config = BanditConfig {
            seed: *seed,
            hidden: env("HIDDEN", 24),
            identities: env("IDENTITIES", 1) == 1,
            threads: env("THREADS", 1),
            example_updates: env("EXAMPLES", 500),
            updates: env("UPDATES", 1000),
            scenes: env("SCENES", 16),
            draws: env("DRAWS", 16),
            learning_rate: env("RATE", 2e-3),
            entropy_coefficient: env("ENTROPY", 0.003),
            example_coefficient: env("MIX", 0.0),
            report_every: env("EVERY", 250),
            ..BanditConfig::default()
        };
        let scenes: Vec<Scene> = observations[..usable]
            .iter()
            .zip(&examples)
            .map(|(observation, example)| Scene {
                observation: observation.clone(),
                count,
                example: example.clone(),
            })
            .collect();
        let judge = |at: usize, sets: &[Vec<GroupIx>]| {
            series.rewards(at, sets, &reward).map_err(|error| traflux_core::EnvironmentError::Failed {
                reason: error.to_string(),
            })
        };
        let begun = Instant::now();
        let mut judged_since = None;
        let mut aside = 0.0;
        let report = train_bandit(&config, &scenes, &judge, None, &mut |p: BanditProgress<'_>| {
            if p.rewards == 0 {
                judged_since = Some(begun.elapsed().as_secs_f64());
            }
            let now = Instant::now();
            let mut policy = learned(p.parameters, &encoder).unwrap();
            let mut encoder = encoder.clone();
            let test = test.clone();
            // Every sixth test matrix for the curve; nothing is chosen by it.
            let judged: Vec<f64> = {
                let seen = evaluate(&series, test, &mut encoder, &mut policy, stale).unwrap();
                seen.ratios()
            };
            let mut sorted = judged.clone();
            sorted.sort_by(f64::total_cmp);
            println!(
                "  update {:>5} rewards {:>8} {:>6.1} s  sampled {:.4}  examples {:.3}  entropy {:.2}  |g| {:.2}  test {:.4} p5 {:.4}",
                p.update,
                p.rewards,
                begun.elapsed().as_secs_f64() - aside,
                p.mean_reward.unwrap_or(f64::NAN),
                p.example_loss.unwrap_or(f64::NAN),
                p.entropy,
                p.gradient_norm,
                judged.iter().sum::<f64>() / judged.len() as f64,
                sorted[sorted.len() / 20]
            );
            aside += now.elapsed().as_secs_f64();
        })?;
        let seconds = begun.elapsed().as_secs_f64() - aside - judged_since.unwrap_or(0.0);
        println!("# seed {seed}: {:.0} rewards per second and {} threads", report.rewards as f64 / seconds, config.threads);
        let mut policy = learned(&report.parameters, &encoder)?;
        let evaluation = evaluate(&series, test.clone(), &mut encoder, &mut policy, stale)?;
        line(&format!("learned, seed {seed}"), &evaluation, 36);
        for (name, other) in &results {
            let config = BootstrapConfig { block: 36, ..BootstrapConfig::default() };
            if let Some(gain) = PairedDifference::of(&evaluation.ratios(), &other.ratios(), &config) {
                println!("    − {name:<18} {:+.4} [{:+.4}, {:+.4}]", gain.mean, gain.interval.low, gain.interval.high);
            }
        }
        means.push(evaluation.ratios().iter().sum::<f64>() / evaluation.judgements.len() as f64);
    }
    println!("# means {means:.4?}");
    let _ = (FractionalBound::new(network, base), TrafficModel::Exponential { mean: BitRate::bits_per_second(1.0) });
    let _: Option<TrafficMatrix> = None;
    Ok(())
}
