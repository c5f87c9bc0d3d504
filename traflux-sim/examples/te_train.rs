//! How good is a learned choice of critical pairs, and how fast is it learned?
//!
//! ```text
//! TRAFLUX_DATA=… cargo run --release -p traflux-sim --example te_train -- <table> [seeds …]
//! ```
//!
//! Tables: `abilene` (four days of the week to learn from, three to be judged on), `stale` (the same, but choice and
//! splits meet the next matrix), `backbones` (generated traffic on Ebone, Sprintlink and Tiscali), `unseen` (one policy
//! for networks it has not seen), `selection` (how long one choice takes). Settings come from the environment, for
//! instance `UPDATES=3000 ENTROPY=0.05`; see `env` below for their names.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use traflux_core::{
    Action, BaseRouting, BitRate, GroupIx, Network, Observation, Policy, PolicyError, TrafficMatrix,
};
use traflux_lp::multicommodity::select::{FractionalBound, GreedyOracle, LeastMoved, RelaxAndRound};
use traflux_policy::bandit::{BanditConfig, BanditProgress, Scene, train_bandit};
use traflux_policy::{ActionSpace, LearnedPolicy, Mode, NetworkShape, Parameters, SharedParameters};
use traflux_sim::te::{Evaluation, SelectionReward, TrafficSeries, evaluate, scenes_of};
use traflux_te::format::{Format, ReadOptions, read_matrices_file, read_network_file};
use traflux_te::generate::{BackboneConfig, TrafficModel, backbone};
use traflux_te::metrics::{BootstrapConfig, PairedDifference};
use traflux_te::select::SearchConfig;
use traflux_te::{FixedSet, GreedyRelief, QuickChoice, SelectionEncoder, TopKCritical, ecmp, share_of_pairs};

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
        "backbones" => backbones(&seeds),
        "unseen" => unseen(&seeds),
        "selection" => selection(),
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

fn settings(seed: u64) -> BanditConfig {
    BanditConfig {
        seed,
        hidden: env("HIDDEN", 16),
        identities: env("IDENTITIES", 1) == 1,
        threads: env("THREADS", 1),
        example_updates: env("EXAMPLES", 300),
        updates: env("UPDATES", 1500),
        scenes: env("SCENES", 16),
        draws: env("DRAWS", 16),
        learning_rate: env("RATE", 2e-3),
        entropy_coefficient: env("ENTROPY", 0.02),
        example_coefficient: env("MIX", 0.1),
        report_every: env("EVERY", 250),
        ..BanditConfig::default()
    }
}

/// Half widths of the uniform traffic on the three backbones.
const BACKBONES: [(&str, f64); 3] = [("Ebone", 0.19), ("Sprintlink", 0.51), ("Tiscali", 0.244)];

/// One kind of traffic on one network, divided into matrices to learn from and, behind them, to be judged on.
struct Case {
    name: String,
    series: TrafficSeries,
    trained: usize,
    count: usize,
}

impl Case {
    fn new(
        name: String,
        network: Network,
        base: BaseRouting,
        matrices: Vec<TrafficMatrix>,
        trained: usize,
    ) -> Outcome<Self> {
        let count = share_of_pairs(&network, SHARE);
        Ok(Self { name, series: TrafficSeries::new(network, base, matrices)?, trained, count })
    }

    fn encoder(&self, steps: usize) -> SelectionEncoder {
        SelectionEncoder::new(self.series.network(), self.series.base(), self.count)
            .with_quick_choice(QuickChoice::Rounds(steps))
    }

    fn test(&self) -> std::ops::Range<usize> {
        self.trained..self.series.matrices().len()
    }

    /// What the policy sees with labels of a selector that is given time.
    fn scenes(&self, encoder: &mut SelectionEncoder, label: Label) -> Outcome<Vec<Scene>> {
        let (network, base) = (self.series.network(), self.series.base());
        let observations = scenes_of(&self.series, 0..self.trained, encoder)?;
        let mut oracle: Box<dyn Policy> = match label {
            Label::Oracle => Box::new(GreedyOracle::new(network, base, self.count)),
            Label::Relaxed => Box::new(RelaxAndRound::new(network, base, self.count)),
            Label::Steps => Box::new(Place(self.count)),
            Label::Relief => Box::new(GreedyRelief::new(network, base, self.count)),
        };
        let shown = if label == Label::Steps {
            scenes_of(&self.series, 0..self.trained, &mut self.encoder(env("LABEL_ROUNDS", 600)))?
        } else {
            observations.clone()
        };
        let scene = |(observation, shown): (Observation, Observation)| {
            let example = oracle.act(&shown)?.critical;
            Ok(Scene { observation, count: self.count, example })
        };
        observations.into_iter().zip(shown).map(scene).collect()
    }

    /// Mean over the test matrices of the least that any selector can leave.
    fn bound(&self) -> Outcome<f64> {
        let mut solver = FractionalBound::new(self.series.network(), self.series.base());
        let mut sum = 0.0;
        for at in self.test() {
            let bound = solver.solve(&self.series.matrices()[at], self.count, None)?;
            sum += self.series.optimal()[at] / bound.lower_bound.max(self.series.optimal()[at]);
        }
        Ok(sum / self.test().len() as f64)
    }
}

/// The pairs that the relaxation of the encoder puts first.
struct Place(usize);

impl Policy for Place {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let column = observation.groups.column(observation.groups.ncols() - 1);
        let mut pairs: Vec<(f32, usize)> = column.iter().copied().enumerate().map(|(p, v)| (v, p)).collect();
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(Action::choose(pairs.iter().take(self.0).map(|(_, pair)| GroupIx::from(*pair)).collect()))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Label {
    Oracle,
    Relaxed,
    Relief,
    Steps,
}

fn label() -> Label {
    match env("LABEL", "oracle".to_owned()).as_str() {
        "relaxed" => Label::Relaxed,
        "relief" => Label::Relief,
        "steps" => Label::Steps,
        _ => Label::Oracle,
    }
}

fn traffic(kind: &str, half_width: f64) -> TrafficModel {
    let mean = BitRate::bits_per_second(1e3);
    if kind == "exponential" {
        TrafficModel::Exponential { mean }
    } else {
        TrafficModel::UniformAround { mean, half_width }
    }
}

fn backbones(seeds: &[u64]) -> Outcome<()> {
    let only: String = env("ONLY", String::new());
    for (name, half_width) in BACKBONES {
        for kind in ["exponential", "uniform"] {
            let title = format!("{name} {kind}");
            if !title.contains(&only) {
                continue;
            }
            let (network, base) = network(name)?;
            let trained = env("TRAIN", 60);
            let tested = env("TEST", 20);
            let matrices = traffic(kind, half_width).matrices(&network, trained + tested, 7)?;
            let case = Case::new(title, network, base, matrices, trained)?;
            let mut encoder = case.encoder(env("ROUNDS", 24));
            let begun = Instant::now();
            let scenes = case.scenes(&mut encoder, label())?;
            println!("# {}: labels in {:.1} s", case.name, begun.elapsed().as_secs_f64());
            if env("BOUND", 0) == 1 {
                println!("# fractional bound {:.4}", case.bound()?);
            }
            let seen = evaluate(&case.series, case.test(), &mut encoder, &mut Place(case.count), false)?;
            line("place in features", &seen, 1);
            let (network, base) = (case.series.network(), case.series.base());
            let mut rivals: Vec<(&str, Box<dyn Policy>)> = vec![
                ("Top-K critical", Box::new(TopKCritical::new(network, base, case.count))),
                ("greedy relief", Box::new(GreedyRelief::new(network, base, case.count))),
            ];
            if env("ROUND", 0) == 1 {
                rivals.push(("relax and round", Box::new(RelaxAndRound::new(network, base, case.count))));
            }
            for (rival, mut policy) in rivals {
                line(rival, &evaluate(&case.series, case.test(), &mut encoder, &mut *policy, false)?, 1);
            }
            for seed in seeds {
                let config = BanditConfig {
                    example_updates: env("EXAMPLES", 300),
                    updates: env("UPDATES", 0),
                    scenes: env("SCENES", 8),
                    draws: env("DRAWS", 8),
                    ..settings(*seed)
                };
                let reward = SelectionReward::default();
                let judge =
                    |at: usize, sets: &[Vec<GroupIx>]| case.series.rewards(at, sets, &reward).map_err(failed);
                let begun = Instant::now();
                let report = train_bandit(&config, &scenes, &judge, None, &mut |p| {
                    if env("CURVE", 0) == 1 {
                        println!(
                            "  update {} examples {:?} sampled {:?}",
                            p.update, p.example_loss, p.mean_reward
                        );
                    }
                })?;
                let seconds = begun.elapsed().as_secs_f64();
                let mut policy = learned(&report.parameters, &encoder)?;
                let evaluation = evaluate(&case.series, case.test(), &mut encoder, &mut policy, false)?;
                line(&format!("learned, seed {seed}"), &evaluation, 1);
                println!("    trained in {seconds:.1} s on {} rewards", report.rewards);
            }
        }
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> traflux_core::EnvironmentError {
    traflux_core::EnvironmentError::Failed { reason: error.to_string() }
}

/// One policy for networks it has not seen: each is left out in turn.
fn unseen(seeds: &[u64]) -> Outcome<()> {
    let steps = env("ROUNDS", 24);
    let mut groups: Vec<(String, Vec<Case>)> = Vec::new();
    let every = |matrices: Vec<TrafficMatrix>, step| matrices.into_iter().step_by(step).collect::<Vec<_>>();
    let (abilene, base) = network("Abilene")?;
    let week = read_matrices_file(
        data("cfr-rl")?.join("AbileneTM"),
        Some(Format::CfrRl),
        &abilene,
        &ReadOptions::default(),
    )?;
    let name = "Abilene".to_owned();
    groups.push((name.clone(), vec![Case::new(name, abilene, base, every(week, 20), 60)?]));
    groups.push(("GEANT".to_owned(), vec![geant()?]));
    for (name, half_width) in BACKBONES {
        let mut cases = Vec::new();
        for kind in ["exponential", "uniform"] {
            let (network, base) = network(name)?;
            let matrices = traffic(kind, half_width).matrices(&network, 30, 7)?;
            cases.push(Case::new(format!("{name} {kind}"), network, base, matrices, 20)?);
        }
        groups.push((name.to_owned(), cases));
    }
    let mut generated = Vec::new();
    for seed in 0..8 {
        let config = BackboneConfig { nodes: 12 + 3 * seed as usize, ..BackboneConfig::default() };
        let network = backbone(&config, seed)?;
        let base = ecmp(&network)?;
        let mean = BitRate::gigabits_per_second(1.0);
        let model = match seed % 4 {
            0 => TrafficModel::Lognormal { mean, sigma: 1.0 },
            1 => TrafficModel::Exponential { mean },
            2 => TrafficModel::UniformAround { mean, half_width: 0.4 },
            _ => TrafficModel::Lognormal { mean, sigma: 2.0 },
        };
        let matrices = model.matrices(&network, 25, seed)?;
        generated.push(Case::new(format!("backbone {seed}"), network, base, matrices, 15)?);
    }
    groups.push(("generated".to_owned(), generated));

    let begun = Instant::now();
    let mut all: Vec<Vec<(usize, Vec<Scene>)>> = Vec::new();
    for (_, cases) in &groups {
        let scenes = cases
            .iter()
            .enumerate()
            .map(|(at, case)| Ok((at, case.scenes(&mut case.encoder(steps), label())?)));
        all.push(scenes.collect::<Outcome<_>>()?);
    }
    println!("# labels in {:.1} s", begun.elapsed().as_secs_f64());
    let only: String = env("ONLY", String::new());
    for (out, (name, cases)) in groups.iter().enumerate().filter(|(_, (name, _))| name.contains(&only)) {
        let mut scenes = Vec::new();
        let mut places = Vec::new();
        for (group, parts) in all.iter().enumerate().filter(|(group, _)| *group != out) {
            for (case, part) in parts {
                places.extend((0..part.len()).map(|at| (group, *case, at)));
                scenes.extend(part.iter().cloned());
            }
        }
        let judge = |at: usize, sets: &[Vec<GroupIx>]| {
            let (group, case, at) = places[at];
            groups[group].1[case].series.rewards(at, sets, &SelectionReward::default()).map_err(failed)
        };
        for seed in seeds {
            let config = BanditConfig {
                identities: false,
                example_updates: env("EXAMPLES", 600),
                updates: env("UPDATES", 0),
                ..settings(*seed)
            };
            let report = train_bandit(&config, &scenes, &judge, None, &mut |_| {})?;
            for case in cases {
                let mut encoder = case.encoder(steps);
                let mut policy = learned(&report.parameters, &encoder)?;
                let (network, base) = (case.series.network(), case.series.base());
                let mut critical = TopKCritical::new(network, base, case.count);
                let mut relaxed = GreedyRelief::new(network, base, case.count);
                let learned = evaluate(&case.series, case.test(), &mut encoder, &mut policy, false)?;
                let critical = evaluate(&case.series, case.test(), &mut encoder, &mut critical, false)?;
                let relaxed = evaluate(&case.series, case.test(), &mut encoder, &mut relaxed, false)?;
                println!("without {name}, seed {seed}: {}", case.name);
                line("  Top-K critical", &critical, 1);
                line("  greedy relief", &relaxed, 1);
                line("  learned elsewhere", &learned, 1);
            }
        }
    }
    Ok(())
}

/// 22 nodes with 100 matrices; routers count hops.
fn geant() -> Outcome<Case> {
    let folder = data("geant")?;
    let network =
        read_network_file(folder.join("GEANT.json"), Some(Format::NodeLink), &ReadOptions::default())?
            .network;
    let base = ecmp(&network)?;
    let matrices = read_matrices_file(
        folder.join("geant_tm_first100.txt"),
        Some(Format::Rows),
        &network,
        &ReadOptions::default(),
    )?;
    Case::new("GEANT".to_owned(), network, base, matrices, 60)
}

/// That for traffic with a history.
fn quick() -> QuickChoice {
    QuickChoice::Fractions(env("STEPS", 10))
}

/// How long one choice takes, features included.
fn selection() -> Outcome<()> {
    let mut cases = vec!["Abilene"];
    cases.extend(BACKBONES.map(|(name, _)| name));
    for name in cases {
        let (network, base) = network(name)?;
        let matrices = traffic("exponential", 0.0).matrices(&network, 20, 3)?;
        let count = share_of_pairs(&network, SHARE);
        let mut encoder = SelectionEncoder::new(&network, &base, count);
        if name == "Abilene" {
            encoder = encoder.with_quick_choice(quick());
        }
        let space = encoder.space();
        let shape = NetworkShape {
            group_features: space.group_features.len(),
            context_features: space.context_features.len(),
            hidden: env("HIDDEN", 16),
            identities: network.pair_count(),
        };
        let mut policy = learned(&Parameters::seeded(shape, 1), &encoder)?;
        let mut observation = Observation::default();
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        let mut workspace = traflux_policy::Workspace::default();
        for round in 0..2000 / (1 + network.nodes().len() / 20) {
            let begun = Instant::now();
            encoder.encode_into(&matrices[round % 20], &mut observation)?;
            times[1].push(begun.elapsed().as_secs_f64() * 1e6);
            let forward = Instant::now();
            std::hint::black_box(policy.parameters().load().forward(&observation, &mut workspace).value);
            times[2].push(forward.elapsed().as_secs_f64() * 1e6);
            let begun = Instant::now() - std::time::Duration::from_secs_f64(times[1][round] * 1e-6);
            let action = policy.act(&observation)?;
            times[0].push(begun.elapsed().as_secs_f64() * 1e6);
            assert_eq!(action.critical.len(), count);
        }
        times.iter_mut().for_each(|t| t.sort_by(f64::total_cmp));
        let pairs = network.pair_count();
        println!(
            "{name:<12} {pairs:>5} pairs  {:>7.1} us median, {:>7.1} least, {:.2} us per pair; of it encoding {:.1} (least {:.1}), network {:.1} (least {:.1})",
            times[0][times[0].len() / 2],
            times[0][0],
            times[0][times[0].len() / 2] / pairs as f64,
            times[1][times[1].len() / 2],
            times[1][0],
            times[2][times[2].len() / 2],
            times[2][0],
        );
    }
    Ok(())
}

fn abilene(seeds: &[u64], stale: bool) -> Outcome<()> {
    let series = week()?;
    let (network, base) = (series.network(), series.base());
    let count = share_of_pairs(network, SHARE);
    let training = 0..TRAINED_DAYS * DAY;
    let test = training.end..series.steps(stale);
    let mut encoder = SelectionEncoder::new(network, base, count).with_quick_choice(quick());
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
            ("place in features", Box::new(Place(count))),
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
        let config = settings(*seed);
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
            series
                .rewards(at, sets, &reward)
                .map_err(|error| traflux_core::EnvironmentError::Failed { reason: error.to_string() })
        };
        let begun = Instant::now();
        let mut judged_since = None;
        let mut aside = 0.0;
        let report = train_bandit(&config, &scenes, &judge, None, &mut |p: BanditProgress<'_>| {
            if p.rewards == 0 {
                judged_since = Some(begun.elapsed().as_secs_f64());
            }
            let now = Instant::now();
            let mut policy =
                learned(p.parameters, &encoder).expect("parameters fit the encoder they are trained with");
            let mut encoder = encoder.clone();
            let test = test.clone();
            // For the curve only; nothing is chosen by it.
            let judged: Vec<f64> = {
                let seen = evaluate(&series, test, &mut encoder, &mut policy, stale)
                    .expect("matrices of the series are served by its base");
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
        println!(
            "# seed {seed}: {:.0} rewards per second and {} threads",
            report.rewards as f64 / seconds,
            config.threads
        );
        let mut policy = learned(&report.parameters, &encoder)?;
        let evaluation = evaluate(&series, test.clone(), &mut encoder, &mut policy, stale)?;
        line(&format!("learned, seed {seed}"), &evaluation, 36);
        for (name, other) in &results {
            let config = BootstrapConfig { block: 36, ..BootstrapConfig::default() };
            if let Some(gain) = PairedDifference::of(&evaluation.ratios(), &other.ratios(), &config) {
                println!(
                    "    − {name:<18} {:+.4} [{:+.4}, {:+.4}]",
                    gain.mean, gain.interval.low, gain.interval.high
                );
            }
        }
        means.push(evaluation.ratios().iter().sum::<f64>() / evaluation.judgements.len() as f64);
    }
    println!("# means {means:.4?}");
    Ok(())
}
