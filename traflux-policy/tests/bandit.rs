//! A training on judged sets that is left and gone on with.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use ndarray::{Array1, Array2};
use traflux_core::{EnvironmentError, GroupIx, Observation};
use traflux_policy::bandit::{
    BanditConfig, BanditError, BanditMemory, BanditReport, BanditStart, Scene, train_bandit,
};

/// Five scenes of four groups, of which the one with the greatest first feature is worth choosing.
fn scenes() -> Vec<Scene> {
    let scene = |best: usize| Scene {
        observation: Observation {
            groups: Array2::from_shape_fn((4, 2), |(i, j)| {
                if j == 0 && i == best % 4 { 1.0 } else { (best * i) as f32 * 0.1 }
            }),
            context: Array1::zeros(1),
            mask: vec![true; 4],
        },
        count: 1,
        example: vec![GroupIx((best % 4) as u32)],
    };
    (0..5).map(scene).collect()
}

fn judge(at: usize, sets: &[Vec<GroupIx>]) -> Result<Vec<f64>, EnvironmentError> {
    Ok(sets.iter().map(|set| if set[0].ix() == at % 4 { 1.0 } else { 0.1 * set[0].ix() as f64 }).collect())
}

fn config() -> BanditConfig {
    BanditConfig {
        example_updates: 20,
        updates: 30,
        scenes: 3,
        draws: 4,
        hidden: 6,
        identities: true,
        entropy_coefficient: 0.02,
        example_coefficient: 0.1,
        report_every: 5,
        ..BanditConfig::default()
    }
}

/// Trains, and leaves after so many updates.
fn left(start: Option<BanditStart>, after: usize) -> (Result<BanditReport, BanditError>, BanditStart) {
    let mut reached = None;
    let result = train_bandit(&config(), &scenes(), &judge, start, &mut |now| {
        // As a file keeps it.
        let memory: BanditMemory =
            serde_json::from_str(&serde_json::to_string(&now.memory).unwrap()).unwrap();
        assert_eq!(memory.update(), now.update);
        reached = Some(BanditStart { parameters: now.parameters.clone(), memory: Some(memory) });
        if now.update >= after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (result, reached.unwrap())
}

#[test]
fn a_training_that_was_left_ends_as_if_it_had_not_been() {
    let (whole, _) = left(None, usize::MAX);
    let whole = whole.unwrap();
    // Among the examples, after the last of them, among the judged sets, and twice.
    for stops in [vec![5], vec![20], vec![35], vec![10, 45]] {
        let mut start = None;
        for stop in &stops {
            let (result, reached) = left(start, *stop);
            assert_eq!(result.unwrap_err(), BanditError::Stopped { update: *stop });
            start = Some(reached);
        }
        assert_eq!(left(start, usize::MAX).0.unwrap(), whole, "left after {stops:?}");
    }
}

#[test]
fn a_memory_of_another_training_is_refused() {
    let (_, start) = left(None, 35);
    let refused = |config: &BanditConfig, start: &BanditStart| {
        let error =
            train_bandit(config, &scenes(), &judge, Some(start.clone()), &mut |_| ControlFlow::Continue(()));
        error.unwrap_err().code()
    };
    let shorter = BanditConfig { updates: 10, ..config() };
    assert_eq!(refused(&shorter, &start), "bandit_setting");
    let wider = BanditConfig { hidden: 7, ..config() };
    assert_eq!(refused(&wider, &start), "bandit_setting");
    let text = serde_json::to_string(&start.memory.clone().unwrap()).unwrap();
    let begin = text.find("\"current\":[").unwrap() + "\"current\":[".len();
    let number = text[begin..].split(',').next().unwrap();
    let broken = text.replacen(number, &f32::NAN.to_bits().to_string(), 1);
    let memory = Some(serde_json::from_str(&broken).unwrap());
    assert_eq!(refused(&config(), &BanditStart { memory, ..start }), "bandit_setting");
}
