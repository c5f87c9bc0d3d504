//! A world small enough to learn in seconds: choose the groups with the most gain, and the headroom that the
//! weather asks for. What is plain to see (utilisation) says nothing; what counts must be found out.

use ndarray::{Array1, Array2};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use traflux_core::{Action, Environment, EnvironmentError, Observation, ObservationSpace, Reward, Step};

/// Steps of an episode.
pub(crate) const EPISODE: usize = 10;

/// The environment.
pub(crate) struct Toy {
    rng: ChaCha8Rng,
    state: Option<Observation>,
    step: usize,
}

impl Toy {
    pub(crate) fn new() -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(0), state: None, step: 0 }
    }

    fn draw(&mut self) -> Observation {
        let groups = self.rng.random_range(4..=7);
        let values = Array2::from_shape_simple_fn((groups, 3), || self.rng.random::<f32>());
        let stormy = f32::from(u8::from(self.rng.random_bool(0.5)));
        let mut mask = vec![true; groups];
        mask[self.rng.random_range(0..groups)] = false;
        Observation { groups: values, context: Array1::from_elem(1, stormy), mask }
    }
}

/// What an action earns in a state.
fn reward(state: &Observation, action: &Action) -> Reward {
    let gain: f64 = action.critical.iter().map(|g| f64::from(state.groups[[g.ix(), 1]]) - 0.5).sum();
    let wanted = if state.context[0] > 0.5 { 0.6 } else { 0.05 };
    Reward::from_terms([("gain", gain), ("headroom", -2.0 * (action.headroom - wanted).abs())])
}

impl Environment for Toy {
    fn space(&self) -> ObservationSpace {
        ObservationSpace {
            group_features: vec!["utilization".into(), "gain".into(), "traffic_relative".into()],
            context_features: vec!["storm".into()],
        }
    }

    fn reset(&mut self, seed: u64) -> Result<Observation, EnvironmentError> {
        self.rng = ChaCha8Rng::seed_from_u64(seed);
        self.step = 0;
        let state = self.draw();
        self.state = Some(state.clone());
        Ok(state)
    }

    fn step(&mut self, action: &Action) -> Result<Step, EnvironmentError> {
        let state = self.state.take().ok_or(EnvironmentError::NeedsReset)?;
        self.step += 1;
        let observation = self.draw();
        let truncated = self.step == EPISODE;
        if !truncated {
            self.state = Some(observation.clone());
        }
        let reward = reward(&state, action);
        Ok(Step { observation, reward, terminated: false, truncated, info: Vec::new() })
    }
}
