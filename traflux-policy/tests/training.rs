//! Training end to end: on a toy world, over several seeds, the learned policy must beat those that cannot learn.
#![cfg(feature = "learn")]

mod toy;

use toy::{EPISODE, Toy};
use traflux_policy::learn::{Baseline, evaluate};
use traflux_policy::{
    ActionSpace, Checkpoint, LearnedPolicy, LearnerConfig, RandomActor, TrainConfig, TrainReport, train,
};

fn config(seed: u64) -> TrainConfig {
    TrainConfig {
        seed,
        iterations: 24,
        environments: 4,
        threads: 2,
        steps: 32,
        hidden: 16,
        actions: ActionSpace { critical: 2, ..ActionSpace::default() },
        learner: LearnerConfig { learning_rate: 1e-2, discount: 0.0, epochs: 3, ..LearnerConfig::default() },
        final_rate: 0.2,
        evaluate_every: 8,
        validation_seeds: (0..20).collect(),
        test_seeds: (100..140).collect(),
        evaluation_steps: EPISODE,
        baseline: Baseline::TopK,
        command: "a test".into(),
    }
}

fn run(config: &TrainConfig) -> TrainReport {
    train(config, &|_| Box::new(Toy::new()), &mut |_| {}).expect("the toy world trains")
}

#[test]
fn a_trained_policy_beats_top_k_and_a_random_actor_on_unseen_episodes_over_three_seeds() {
    for seed in 0..3 {
        let config = config(seed);
        let mut updates = 0;
        let report =
            train(&config, &|_| Box::new(Toy::new()), &mut |p| updates += usize::from(p.stats.is_some()))
                .unwrap();
        assert_eq!((updates, report.rejected, report.steps), (24, 0, 24 * 4 * 32));
        let random = evaluate(
            &|_| Box::new(Toy::new()),
            &|seed| Box::new(RandomActor::new(seed, config.actions.bounds)),
            &config.test_seeds,
            EPISODE,
            1,
        )
        .unwrap();
        let untrained = report.curve[0].mean_return;
        let (gain, interval) = report.test.gain_over(&report.test_baseline);
        assert!(gain - interval > 1.0, "seed {seed}: gain {gain} ± {interval}");
        assert!(report.test.gain_over(&random).0 > 1.0);
        assert!(report.test.mean() > untrained + 1.0);
    }
}

#[test]
fn equal_configurations_train_to_equal_checkpoints_on_one_thread_or_two() {
    let short = |threads| TrainConfig { iterations: 3, threads, evaluate_every: 2, ..config(5) };
    let (one, two) = (run(&short(1)), run(&short(2)));
    assert_eq!(one.checkpoint.parameters, two.checkpoint.parameters);
    assert_eq!((one.curve, one.test), (two.curve, two.test));
}

#[test]
fn a_trained_checkpoint_is_saved_loaded_and_acts_alike() {
    let report = run(&TrainConfig { iterations: 2, evaluate_every: 1, ..config(6) });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("toy.safetensors");
    report.checkpoint.save(&path).unwrap();
    let loaded = Checkpoint::load(&path).unwrap();
    assert_eq!(loaded, report.checkpoint);
    assert_eq!(loaded.provenance.command, "a test");
    let again = evaluate(
        &|_| Box::new(Toy::new()),
        &|_| Box::new(LearnedPolicy::from_checkpoint(&loaded, &loaded.observations).unwrap()),
        &config(6).test_seeds,
        EPISODE,
        1,
    )
    .unwrap();
    assert_eq!(again.returns, report.test.returns);
}

#[test]
fn a_configuration_that_cannot_train_is_refused() {
    let make = |_| -> Box<dyn traflux_core::Environment + Send> { Box::new(Toy::new()) };
    let none = TrainConfig { environments: 0, ..config(0) };
    assert_eq!(
        train(&none, &make, &mut |_| {}).unwrap_err().to_string(),
        "environments is 0, must be at least 1"
    );
    let overlapping = TrainConfig { test_seeds: vec![1 << 63], ..config(0) };
    assert_eq!(train(&overlapping, &make, &mut |_| {}).unwrap_err().code(), "train_setting");
}
