//! How fast does the network of CFR-RL learn, and how far does it get?
//!
//! ```text
//! TRAFLUX_DATA=… cargo run --release -p traflux-sim --features paper --example te_paper -- [updates] [seed]
//! ```
//!
//! Settings of the paper on the first four days of Abilene, judged on the other three.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use traflux_core::{EnvironmentError, GroupIx};
use traflux_policy::bandit::Scene;
use traflux_policy::learn::{ConvolutionBaseline, ConvolutionConfig, train_convolution};
use traflux_sim::te::{SelectionReward, TrafficSeries, Worth, evaluate, scenes_of};
use traflux_te::format::{Format, ReadOptions, read_matrices_file, read_network_file};
use traflux_te::{QuickChoice, SelectionEncoder, ecmp, share_of_pairs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let updates = arguments.next().map_or(Ok(500), |updates| updates.parse())?;
    let seed = arguments.next().map_or(Ok(1), |seed| seed.parse())?;
    let root = std::env::var_os("TRAFLUX_DATA").ok_or("TRAFLUX_DATA is not set")?;
    let folder = PathBuf::from(root).join("cfr-rl");
    let options = ReadOptions::default();
    let network = read_network_file(folder.join("Abilene"), Some(Format::CfrRl), &options)?.network;
    let matrices = read_matrices_file(folder.join("AbileneTM"), Some(Format::CfrRl), &network, &options)?;
    let base = ecmp(&network)?;
    let series = TrafficSeries::new(network, base, matrices)?;
    let count = share_of_pairs(series.network(), 0.1);
    let mut encoder = SelectionEncoder::new(series.network(), series.base(), count)
        .with_quick_choice(QuickChoice::Rounds(0));
    let trained = 4 * 288;
    let observations = scenes_of(&series, 0..trained, &mut encoder)?;
    let scenes: Vec<Scene> = observations
        .into_iter()
        .map(|observation| Scene { observation, count, example: Vec::new() })
        .collect();
    let reward = SelectionReward { worth: Worth::InverseUtilization, ..SelectionReward::default() };
    let judge = |at: usize, sets: &[Vec<GroupIx>]| {
        series
            .rewards(at, sets, &reward)
            .map_err(|error| EnvironmentError::Failed { reason: error.to_string() })
    };
    for baseline in [ConvolutionBaseline::AverageReward, ConvolutionBaseline::Critic] {
        let config = ConvolutionConfig { seed, updates, baseline, ..ConvolutionConfig::default() };
        let begun = Instant::now();
        let mut aside = 0.0;
        let mut failure = None;
        let mut rate = 0.0;
        train_convolution(&config, &scenes, &judge, &mut |p| {
            let seconds = begun.elapsed().as_secs_f64() - aside;
            rate = p.rewards as f64 / seconds;
            let pause = Instant::now();
            let mut policy = p.policy.clone();
            let test = trained..series.matrices().len();
            match evaluate(&series, test, &mut encoder, &mut policy, false) {
                Ok(seen) => {
                    let mut ratios = seen.ratios();
                    ratios.sort_by(f64::total_cmp);
                    println!(
                        "{baseline:?} update {:>5} {:>7} rewards {seconds:>6.1} s  reward {:.2}  entropy {:.2}  test PR {:.4}  p5 {:.4}  chosen {:.3}",
                        p.update,
                        p.rewards,
                        p.mean_reward,
                        p.entropy,
                        ratios.iter().sum::<f64>() / ratios.len() as f64,
                        ratios[ratios.len() / 20],
                        seen.selected_share()
                    );
                }
                Err(error) => failure = Some(error),
            }
            aside += pause.elapsed().as_secs_f64();
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        println!("# {rate:.0} rewards per second");
    }
    Ok(())
}
