//! How are many environments stepped side by side?
//!
//! A [`VectorEnvironment`] holds environments of one kind and gives each its own action. It shares them out among
//! threads that live as long as one step, so nothing runs between steps. What comes out does not depend on the
//! number of threads.
//!
//! An environment whose episode has ended begins another at the step after, as in Gymnasium's mode *next step*: the
//! action of that step is ignored, its reward is 0 and its observation is that of the reset.

use std::num::NonZeroUsize;

use crate::action::Action;
use crate::environment::{Environment, Step};
use crate::error::EnvironmentError;
use crate::observation::{Observation, ObservationSpace};
use crate::reward::Reward;

/// Environments that are stepped together.
#[derive(Debug)]
pub struct VectorEnvironment<E> {
    lanes: Vec<Lane<E>>,
    threads: NonZeroUsize,
    auto_reset: bool,
}

/// One environment with what is needed to begin its next episode.
#[derive(Debug)]
struct Lane<E> {
    environment: E,
    /// Seed of the first episode since the last reset from outside; `None` before.
    seed: Option<u64>,
    /// Episodes begun since.
    episodes: u64,
    over: bool,
}

impl<E: Environment + Send> VectorEnvironment<E> {
    /// Steps these environments on this many threads; with one, on the caller's.
    #[must_use]
    pub fn new(environments: Vec<E>, threads: NonZeroUsize) -> Self {
        let lane = |environment| Lane { environment, seed: None, episodes: 0, over: false };
        Self { lanes: environments.into_iter().map(lane).collect(), threads, auto_reset: true }
    }

    /// Whether episodes that have ended begin anew by themselves; without, their next step is
    /// [`EnvironmentError::NeedsReset`].
    #[must_use]
    pub fn with_auto_reset(mut self, auto_reset: bool) -> Self {
        self.auto_reset = auto_reset;
        self
    }

    /// How many environments there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Shape of the observations; `None` without environments.
    #[must_use]
    pub fn space(&self) -> Option<ObservationSpace> {
        self.lanes.first().map(|lane| lane.environment.space())
    }

    /// Begins an episode in each environment with its own seed. Later episodes get seeds that follow from it.
    ///
    /// # Errors
    /// [`EnvironmentError::Action`] when there is not one seed for each, else as [`Environment::reset`].
    pub fn reset(&mut self, seeds: &[u64]) -> Result<Vec<Observation>, EnvironmentError> {
        self.check("seeds", seeds.len())?;
        self.each(seeds, |lane, seed| {
            lane.seed = Some(*seed);
            lane.episodes = 0;
            lane.begin()
        })
    }

    /// Begins an episode where the mask says so, with the seed there; `None` for the others.
    ///
    /// # Errors
    /// As [`VectorEnvironment::reset`].
    pub fn reset_some(
        &mut self,
        seeds: &[Option<u64>],
    ) -> Result<Vec<Option<Observation>>, EnvironmentError> {
        self.check("seeds", seeds.len())?;
        self.each(seeds, |lane, seed| {
            let Some(seed) = seed else { return Ok(None) };
            lane.seed = Some(*seed);
            lane.episodes = 0;
            lane.begin().map(Some)
        })
    }

    /// Applies one action to each environment.
    ///
    /// # Errors
    /// [`EnvironmentError::Action`] when there is not one action for each, else as [`Environment::step`]: the first
    /// in order. The others have been stepped then; reset before going on.
    pub fn step(&mut self, actions: &[Action]) -> Result<Vec<Step>, EnvironmentError> {
        self.check("actions", actions.len())?;
        let auto_reset = self.auto_reset;
        self.each(actions, |lane, action| {
            if lane.over && auto_reset {
                return Ok(Step {
                    observation: lane.begin()?,
                    reward: Reward::default(),
                    terminated: false,
                    truncated: false,
                    info: Vec::new(),
                });
            }
            let step = lane.environment.step(action)?;
            lane.over = step.terminated || step.truncated;
            Ok(step)
        })
    }

    fn check(&self, what: &str, found: usize) -> Result<(), EnvironmentError> {
        if found == self.lanes.len() {
            return Ok(());
        }
        let reason = format!("{found} {what} for {} environments", self.lanes.len());
        Err(EnvironmentError::Action { reason })
    }

    /// Does the same in every environment, in their order, or side by side.
    fn each<I: Sync, T: Send>(
        &mut self,
        inputs: &[I],
        act: impl Fn(&mut Lane<E>, &I) -> Result<T, EnvironmentError> + Sync,
    ) -> Result<Vec<T>, EnvironmentError> {
        let size = self.lanes.len().div_ceil(self.threads.get()).max(1);
        let run = |lanes: &mut [Lane<E>], inputs: &[I]| -> Vec<Result<T, EnvironmentError>> {
            lanes.iter_mut().zip(inputs).map(|(lane, input)| act(lane, input)).collect()
        };
        if size >= self.lanes.len() {
            return run(&mut self.lanes, inputs).into_iter().collect();
        }
        let parts = std::thread::scope(|scope| {
            let parts: Vec<_> = self
                .lanes
                .chunks_mut(size)
                .zip(inputs.chunks(size))
                .map(|(lanes, inputs)| scope.spawn(|| run(lanes, inputs)))
                .collect();
            parts.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        let mut results = Vec::with_capacity(self.lanes.len());
        for part in parts {
            // A panic goes on in the thread of the caller, as if the work had been done there.
            results.extend(part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results.into_iter().collect()
    }
}

impl<E: Environment> Lane<E> {
    fn begin(&mut self) -> Result<Observation, EnvironmentError> {
        let first = self.seed.ok_or(EnvironmentError::NeedsReset)?;
        let seed = episode_seed(first, self.episodes);
        self.episodes += 1;
        self.over = false;
        self.environment.reset(seed)
    }
}

/// The seed of an episode: the first has the seed that was given, later ones the finaliser of SplitMix64 over it.
fn episode_seed(first: u64, episode: u64) -> u64 {
    if episode == 0 {
        return first;
    }
    let mut hash = first.wrapping_add(episode.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::GroupIx;

    /// Counts; the reward tells the seed, the action and the place in the episode.
    #[derive(Debug, Default)]
    struct Counting {
        seed: u64,
        at: usize,
    }

    impl Environment for Counting {
        fn space(&self) -> ObservationSpace {
            ObservationSpace { group_features: vec!["at".to_owned()], context_features: Vec::new() }
        }

        fn reset(&mut self, seed: u64) -> Result<Observation, EnvironmentError> {
            (self.seed, self.at) = (seed, 0);
            Ok(Observation { mask: vec![true; self.at + 1], ..Observation::default() })
        }

        fn step(&mut self, action: &Action) -> Result<Step, EnvironmentError> {
            self.at += 1;
            let total = self.seed as f64 + action.headroom + self.at as f64 / 16.0;
            Ok(Step {
                observation: Observation { mask: vec![true; self.at + 1], ..Observation::default() },
                reward: Reward { total, terms: Vec::new() },
                terminated: false,
                truncated: self.at == 3,
                info: Vec::new(),
            })
        }
    }

    fn vector(threads: usize) -> VectorEnvironment<Counting> {
        let environments = (0..5).map(|_| Counting::default()).collect();
        VectorEnvironment::new(environments, NonZeroUsize::new(threads).unwrap())
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let play = |threads| {
            let mut vector = vector(threads);
            let mut all = vec![];
            vector.reset(&[1, 2, 3, 4, 5]).unwrap();
            for at in 0..9 {
                let act = |ix: u32| Action { headroom: f64::from(ix) + at as f64, ..Action::default() };
                all.push(vector.step(&(0..5).map(act).collect::<Vec<_>>()).unwrap());
            }
            all
        };
        assert_eq!(play(1), play(2));
        assert_eq!(play(1), play(16));
        assert_eq!(play(1)[0][2].reward.total, 3.0 + 2.0 + 1.0 / 16.0);
    }

    #[test]
    fn an_ended_episode_begins_anew_at_the_step_after_with_a_seed_of_its_own() {
        let mut vector = vector(2);
        let actions = vec![Action::choose(vec![GroupIx(0)]); 5];
        vector.reset(&[7; 5]).unwrap();
        let truncated: Vec<bool> = (0..8).map(|_| vector.step(&actions).unwrap()[0].truncated).collect();
        assert_eq!(truncated, [false, false, true, false, false, false, true, false]);
        vector.reset(&[7; 5]).unwrap();
        let rewards: Vec<f64> = (0..5).map(|_| vector.step(&actions).unwrap()[0].reward.total).collect();
        assert_eq!(rewards[3], 0.0);
        assert!(rewards[4] != rewards[0], "another seed");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut vector = vector(1);
        assert_eq!(vector.reset(&[1]).unwrap_err().code(), "environment_action");
        vector.reset(&[1; 5]).unwrap();
        assert_eq!(vector.step(&[]).unwrap_err().to_string(), "invalid action: 0 actions for 5 environments");
        let some = vector.reset_some(&[None, Some(4), None, None, None]).unwrap();
        assert_eq!(some.iter().filter(|o| o.is_some()).count(), 1);
    }

    #[test]
    fn without_auto_reset_the_environment_itself_says_what_is_due() {
        let mut vector = vector(1).with_auto_reset(false);
        vector.reset(&[1; 5]).unwrap();
        let last = (0..4).map(|_| vector.step(&vec![Action::default(); 5]).unwrap()).last().unwrap();
        assert_eq!(last[0].reward.total, 1.0 + 4.0 / 16.0, "not reset");
    }
}
