//! How fast does the network of CFR-RL learn, and how far does it get, beside the network that scores flows?
//!
//! ```text
//! TRAFLUX_DATA=… cargo run --release -p traflux-sim --features paper --example te_paper -- \
//!     [abilene|tiscali] [updates] [seed] [average|critic]
//! ```
//!
//! Settings of the paper. Abilene: learned on the first four days of the week, judged on the other three. Tiscali:
//! uniform demands within 24.4 % of their mean, 60 matrices to learn from and 20 to be judged on, those of `traflux te
//! generate matrices … --model uniform --half-width .244 --count 80 --seed 7`. One thread draws, judges and steps;
//! `taskset -c 0` keeps the back end on one core too.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use traflux_core::{BitRate, EnvironmentError, GroupIx, Network, TrafficMatrix};
use traflux_policy::bandit::{BanditConfig, Scene, train_bandit};
use traflux_policy::learn::{ConvolutionBaseline, ConvolutionConfig, train_convolution};
use traflux_sim::te::{Evaluation, SelectionReward, TrafficSeries, Worth, evaluate, scenes_of};
use traflux_te::format::{Format, ReadOptions, read_matrices_file, read_network_file};
use traflux_te::generate::TrafficModel;
use traflux_te::{QuickChoice, SelectionEncoder, ecmp, share_of_pairs};

/// Updates of the network that scores flows: enough for a rate.
const RATE_UPDATES: usize = 200;

/// What is learned, and what the paper says of it.
struct Task {
    name: &'static str,
    matrices: Vec<TrafficMatrix>,
    network: Network,
    /// How many of the first matrices are learned from.
    trained: usize,
    /// Mean `PR_U` and share of traffic chosen, as published; on the authors' own matrices.
    published: &'static str,
}

impl Task {
    fn new(name: &str, root: &Path) -> Result<Self, Box<dyn Error>> {
        let folder = root.join("cfr-rl");
        let options = ReadOptions::default();
        let network = |file| read_network_file(folder.join(file), Some(Format::CfrRl), &options);
        match name {
            "abilene" => {
                let network = network("Abilene")?.network;
                let file = folder.join("AbileneTM");
                let matrices = read_matrices_file(file, Some(Format::CfrRl), &network, &options)?;
                let published = "the paper: .977 with 21.3 % chosen";
                Ok(Self { name: "Abilene", matrices, network, trained: 4 * 288, published })
            }
            "tiscali" => {
                let network = network("Tiscali")?.network;
                let mean = BitRate::bits_per_second(1e6);
                let model = TrafficModel::UniformAround { mean, half_width: 0.244 };
                let matrices = model.matrices(&network, 80, 7)?;
                let published = "the paper: .944";
                Ok(Self { name: "Tiscali, uniform", matrices, network, trained: 60, published })
            }
            _ => Err(format!("`{name}` is neither abilene nor tiscali").into()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "abilene".to_owned());
    let updates = arguments.next().map_or(Ok(500), |updates| updates.parse())?;
    let seed = arguments.next().map_or(Ok(1), |seed| seed.parse())?;
    let baselines = match arguments.next().as_deref() {
        None => vec![ConvolutionBaseline::AverageReward, ConvolutionBaseline::Critic],
        Some("average") => vec![ConvolutionBaseline::AverageReward],
        Some("critic") => vec![ConvolutionBaseline::Critic],
        Some(other) => return Err(format!("`{other}` is neither average nor critic").into()),
    };
    let root = std::env::var_os("TRAFLUX_DATA").ok_or("TRAFLUX_DATA is not set")?;
    let Task { name, matrices, network, trained, published } = Task::new(&name, &PathBuf::from(root))?;
    let base = ecmp(&network)?;
    let series = TrafficSeries::new(network, base, matrices)?;
    let count = share_of_pairs(series.network(), 0.1);
    let encoder = SelectionEncoder::new(series.network(), series.base(), count);

    let scoring = scoring_rate(&series, trained, encoder.clone(), seed)?;
    let mut rates = vec![format!("{scoring} by the network that scores flows")];
    let mut encoder = encoder.with_quick_choice(QuickChoice::Rounds(0));
    let scenes = scenes(&series, trained, &mut encoder)?;
    let reward = SelectionReward { worth: Worth::InverseUtilization, ..SelectionReward::default() };
    let judge = |at: usize, sets: &[Vec<GroupIx>]| judged(&series, at, sets, &reward);
    for baseline in baselines {
        let config = ConvolutionConfig { seed, updates, baseline, ..ConvolutionConfig::default() };
        let mut clock = Clock::start();
        let mut failure = None;
        let mut last = (0, Evaluation::default());
        train_convolution(&config, &scenes, &judge, &mut |p| {
            let rate = clock.rate(p.rewards);
            clock.pause();
            let mut policy = p.policy.clone();
            match evaluate(&series, trained..series.matrices().len(), &mut encoder, &mut policy, false) {
                Ok(seen) => {
                    println!(
                        "{baseline:?} update {:>5} {:>7} rewards, {rate}  reward {:.2}  entropy {:.2}  {}",
                        p.update,
                        p.rewards,
                        p.mean_reward,
                        p.entropy,
                        result(&seen)
                    );
                    last = (p.rewards, seen);
                }
                Err(error) => failure = Some(error),
            }
            clock.resume();
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        let (rewards, seen) = last;
        rates.push(format!("{} by that of the paper, {baseline:?}", clock.rate(rewards)));
        println!("{name}, seed {seed}, {baseline:?}, {rewards} rewards: {}; {published}", result(&seen));
    }
    println!("rewards per second: {}", rates.join("; "));
    Ok(())
}

fn scenes(
    series: &TrafficSeries,
    trained: usize,
    encoder: &mut SelectionEncoder,
) -> Result<Vec<Scene>, Box<dyn Error>> {
    let count = encoder.count();
    let observations = scenes_of(series, 0..trained, encoder)?;
    let scene = |observation| Scene { observation, count, example: Vec::new() };
    Ok(observations.into_iter().map(scene).collect())
}

fn judged(
    series: &TrafficSeries,
    at: usize,
    sets: &[Vec<GroupIx>],
    reward: &SelectionReward,
) -> Result<Vec<f64>, EnvironmentError> {
    series.rewards(at, sets, reward).map_err(|error| EnvironmentError::Failed { reason: error.to_string() })
}

fn result(seen: &Evaluation) -> String {
    let mut ratios = seen.ratios();
    ratios.sort_by(f64::total_cmp);
    format!(
        "test PR_U {:.4}, p5 {:.4}, {:.1} % chosen",
        ratios.iter().sum::<f64>() / ratios.len() as f64,
        ratios[ratios.len() / 20],
        100.0 * seen.selected_share()
    )
}

/// How fast the network that scores flows learns as `traflux te train` teaches it, without a teacher.
fn scoring_rate(
    series: &TrafficSeries,
    trained: usize,
    mut encoder: SelectionEncoder,
    seed: u64,
) -> Result<String, Box<dyn Error>> {
    let reward = SelectionReward { disturbance_price: 0.05, ..SelectionReward::default() };
    let judge = |at: usize, sets: &[Vec<GroupIx>]| judged(series, at, sets, &reward);
    let config = BanditConfig {
        seed,
        identities: true,
        hidden: 16,
        entropy_coefficient: 0.02,
        updates: RATE_UPDATES,
        ..BanditConfig::default()
    };
    // What the policy is shown is part of a reward's price, so it is made within the time.
    let clock = Clock::start();
    let scenes = scenes(series, trained, &mut encoder)?;
    let report = train_bandit(&config, &scenes, &judge, None, &mut |_| ControlFlow::Continue(()))?;
    Ok(clock.rate(report.rewards))
}

/// Time on the wall and of the processor, without pauses.
struct Clock {
    wall: f64,
    processor: Option<f64>,
    since: (Instant, Option<f64>),
}

impl Clock {
    fn start() -> Self {
        Self { wall: 0.0, processor: Some(0.0), since: (Instant::now(), processor_seconds()) }
    }

    fn elapsed(&self) -> (f64, Option<f64>) {
        let (wall, processor) = self.since;
        let now = processor_seconds();
        let processor = self.processor.zip(now.zip(processor)).map(|(sum, (now, then))| sum + now - then);
        (self.wall + wall.elapsed().as_secs_f64(), processor)
    }

    fn pause(&mut self) {
        (self.wall, self.processor) = self.elapsed();
    }

    fn resume(&mut self) {
        self.since = (Instant::now(), processor_seconds());
    }

    /// So many per second of either.
    fn rate(&self, rewards: u64) -> String {
        let (wall, processor) = self.elapsed();
        let per = |seconds: f64| rewards as f64 / seconds.max(1e-9);
        let of_processor =
            processor.map_or(String::new(), |seconds| format!(" ({:.0} a CPU second)", per(seconds)));
        format!("{:.0} a second{of_processor}", per(wall))
    }
}

/// User and system time of this process; `None` where the system has no `/proc`.
fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    // A hundred ticks a second, on every Linux that people use.
    Some(ticks / 100.0)
}
