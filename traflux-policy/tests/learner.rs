//! The learner alone: what it learns from, what it refuses, and that it repeats itself bit by bit.
#![cfg(feature = "learn")]

mod toy;

use toy::Toy;
use traflux_core::{Environment, Observation, Policy, Recorder, Transition};
use traflux_policy::{
    ActionSpace, LearnError, LearnedPolicy, Learner, LearnerConfig, Mode, NetworkShape, Parameters,
    SharedParameters, spawn_learner,
};

fn parameters(seed: u64) -> Parameters {
    Parameters::seeded(
        NetworkShape { group_features: 3, context_features: 1, hidden: 8, identities: 0 },
        seed,
    )
}

fn learner(seed: u64) -> Learner {
    let config = LearnerConfig { minibatch: 32, seed, ..LearnerConfig::default() };
    Learner::new(config, SharedParameters::new(parameters(seed))).expect("toy parts fit together")
}

fn actions() -> ActionSpace {
    ActionSpace { critical: 2, ..ActionSpace::default() }
}

/// Transitions of an exploring policy on those parameters.
fn experience(shared: &SharedParameters, seed: u64, count: usize) -> Vec<Transition> {
    let mut env = Toy::new();
    let mut policy = LearnedPolicy::new(shared.clone(), &env.space(), actions(), Mode::Exploring { seed })
        .expect("toy parts fit together")
        .with_margin(None);
    let mut transitions = Vec::new();
    let mut state: Option<Observation> = None;
    while transitions.len() < count {
        let observation = match state.take() {
            Some(state) => state,
            None => env.reset(seed + transitions.len() as u64).expect("toy parts fit together"),
        };
        let action = policy.act(&observation).expect("toy parts fit together");
        let step = env.step(&action).expect("toy parts fit together");
        if !step.truncated {
            state = Some(step.observation.clone());
        }
        transitions.push(Transition {
            observation,
            action,
            reward: step.reward,
            next_observation: step.observation,
            terminated: step.terminated,
            truncated: step.truncated,
        });
    }
    transitions
}

#[test]
fn a_learner_stepped_synchronously_repeats_itself_bit_by_bit() {
    let run = || {
        let mut learner = learner(3);
        let mut stats = Vec::new();
        for round in 0..3 {
            let batch = experience(learner.shared(), 100 + round, 64);
            stats.push(learner.learn(&batch).unwrap());
        }
        ((*learner.shared().load()).clone(), stats)
    };
    let (first, second) = (run(), run());
    assert_eq!(first, second);
    assert_ne!(first.0, parameters(3), "it did learn");
    assert_eq!(first.1[2].version, 3);
}

#[test]
fn the_first_gradient_step_sees_the_probability_with_which_the_policy_acted() {
    // Burn's log-probability of what plain inference drew must be the recorded one: the divergence between
    // them, before any step, is zero up to rounding.
    let mut learner = learner(5);
    let batch = experience(learner.shared(), 7, 32);
    let mut config = *learner.config();
    config.epochs = 1;
    learner = Learner::new(config, learner.shared().clone()).unwrap();
    let stats = learner.learn(&batch).unwrap();
    assert_eq!(stats.updates, 1);
    assert!(stats.divergence.abs() < 1e-6, "{}", stats.divergence);
    assert!(stats.policy_loss.abs() < 1e-5, "ratio 1 and normalised advantages: {}", stats.policy_loss);
}

#[test]
fn transitions_of_other_policies_and_broken_numbers_are_counted_and_left_out() {
    let mut learner = learner(1);
    let mut batch = experience(learner.shared(), 9, 40);
    batch[3].action.latent.clear();
    batch[5].reward.total = f64::NAN;
    batch[8].observation.groups[[0, 0]] = f32::INFINITY;
    let twice = batch[11].action.critical[0];
    batch[11].action.critical[1] = twice;
    batch[13].observation.mask.clear();
    let stats = learner.learn(&batch).unwrap();
    assert_eq!((stats.transitions, stats.unusable), (35, 5));
    let none: Vec<Transition> = vec![batch[3].clone(), batch[5].clone()];
    assert_eq!(learner.learn(&none), Err(LearnError::NothingToLearn { transitions: 2 }));
}

#[test]
fn an_update_that_diverges_is_rejected_and_the_last_good_parameters_stay() {
    let mut learner = learner(2);
    let batch = experience(learner.shared(), 9, 32);
    learner.learn(&batch).unwrap();
    let good = learner.shared().load();

    let mut poisoned = experience(learner.shared(), 10, 32);
    poisoned[4].reward.total = 1e300;
    poisoned[9].reward.total = -1e300;
    let error = learner.learn(&poisoned).unwrap_err();
    assert_eq!(error.code(), "learn_diverged", "{error}");
    assert_eq!(*learner.shared().load(), *good);
    assert_eq!(learner.shared().version(), 1);

    let healthy = experience(learner.shared(), 11, 32);
    assert_eq!(learner.learn(&healthy).unwrap().version, 2, "it goes on from the last good set");
    assert!(learner.shared().load().is_finite());
}

#[test]
fn learning_extends_the_range_of_inputs_by_what_it_learned_from() {
    let mut learner = learner(2);
    assert!(learner.shared().load().range().is_none());
    let mut batch = experience(learner.shared(), 9, 32);
    let mut far = batch[0].observation.clone();
    far.groups[[0, 0]] = 50.0;
    learner.learn(&batch).unwrap();
    assert!(learner.shared().load().range().unwrap().check(&far, 0.5).is_some());
    batch[0].observation = far.clone();
    learner.learn(&batch).unwrap();
    assert_eq!(learner.shared().load().range().unwrap().check(&far, 0.5), None);
}

#[test]
fn settings_outside_their_range_are_refused() {
    let shared = SharedParameters::new(parameters(1));
    for (config, setting) in [
        (LearnerConfig { learning_rate: 0.0, ..Default::default() }, "learning_rate"),
        (LearnerConfig { discount: 1.0, ..Default::default() }, "discount"),
        (LearnerConfig { clip: f64::NAN, ..Default::default() }, "clip"),
        (LearnerConfig { minibatch: 0, ..Default::default() }, "minibatch"),
    ] {
        match Learner::new(config, shared.clone()) {
            Err(LearnError::Setting { setting: found, .. }) => assert_eq!(found, setting),
            other => panic!("{setting}: {other:?}"),
        }
    }
    let mut learner = learner(1);
    assert!(learner.set_learning_rate(f64::INFINITY).is_err());
    assert!(learner.set_learning_rate(1e-4).is_ok());
    assert_eq!(learner.config().learning_rate, 1e-4);
}

#[test]
fn a_learner_on_its_thread_publishes_what_a_synchronous_one_would() {
    let batch = experience(&SharedParameters::new(parameters(4)), 20, 48);
    let mut alone = learner(4);
    alone.learn(&batch).unwrap();

    let handle = spawn_learner(learner(4), 1000, 1000).unwrap();
    let mut recorder = handle.recorder();
    batch.into_iter().for_each(|t| recorder.record(t));
    let stats = handle.learn_now().unwrap();
    assert_eq!((stats.transitions, stats.version), (48, 1));
    assert_eq!(*handle.shared().load(), *alone.shared().load());
    let status = handle.status();
    assert_eq!((status.received, status.dropped, status.updates, status.running), (48, 0, 1, true));
    assert_eq!(handle.stop().unwrap().transitions(), 48);
}

#[test]
fn a_full_batch_is_learned_without_being_asked() {
    let batch = experience(&SharedParameters::new(parameters(4)), 20, 40);
    let handle = spawn_learner(learner(4), 16, 1000).unwrap();
    let mut recorder = handle.recorder();
    batch.into_iter().for_each(|t| recorder.record(t));
    assert_eq!(handle.learn_now().unwrap().transitions, 8, "two batches of 16 were learned before");
    assert_eq!(handle.status().updates, 3);
}

#[test]
fn freezing_passes_transitions_over_and_resuming_takes_them_in_again() {
    let batch = experience(&SharedParameters::new(parameters(4)), 20, 20);
    let handle = spawn_learner(learner(4), 1000, 1000).unwrap();
    let mut recorder = handle.recorder();
    handle.freeze();
    batch.iter().cloned().for_each(|t| recorder.record(t));
    assert_eq!(handle.learn_now(), Err(LearnError::NothingToLearn { transitions: 0 }));
    assert_eq!((handle.status().ignored, handle.status().frozen), (20, true));
    handle.resume();
    batch.into_iter().for_each(|t| recorder.record(t));
    assert_eq!(handle.learn_now().unwrap().transitions, 20);
    assert_eq!(*handle.shared().load(), {
        let mut alone = learner(4);
        alone.learn(&experience(&SharedParameters::new(parameters(4)), 20, 20)).unwrap();
        (*alone.shared().load()).clone()
    });
}

#[test]
fn the_learning_rate_changes_while_the_thread_runs() {
    let handle = spawn_learner(learner(4), 1000, 1000).unwrap();
    assert!(handle.set_learning_rate(-1.0).is_err());
    handle.set_learning_rate(5e-4).unwrap();
    let mut recorder = handle.recorder();
    experience(handle.shared(), 20, 20).into_iter().for_each(|t| recorder.record(t));
    assert_eq!(handle.learn_now().unwrap().learning_rate, 5e-4);
    assert_eq!(handle.status().learning_rate, 5e-4);
}

#[test]
fn a_recorder_never_blocks_and_counts_what_it_drops() {
    let handle = spawn_learner(learner(4), 1000, 4).unwrap();
    let mut recorder = handle.recorder();
    let batch = experience(handle.shared(), 20, 20);
    handle.stop().unwrap();
    // The thread is gone, and nothing takes from the channel any more.
    batch.into_iter().for_each(|t| recorder.record(t));
    assert_eq!(recorder.dropped(), 20);
}
