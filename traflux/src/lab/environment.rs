//! The fleet as an environment to train in.
//!
//! One step holds one action for a learning step of the loop (dead time + window), during which the real
//! controller ticks every control interval on the simulated fleet: estimators, solver and guard are those of
//! production. An action chosen on the state at the end of a step takes effect with the next tick, one
//! control interval later.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use traflux_core::{
    Action, Actuator, EncodeError, Environment, EnvironmentError, Estimate, FleetReward, MetricsSource,
    Observation, ObservationSpace, Policy, PolicyError, RewardFunction, RewardWeights, Split, StateEncoder,
    Step, Telemetry, Timestamp, Topology,
};
use traflux_policy::FleetEncoder;
use traflux_sim::random::{RandomSettings, random_scenario};
use traflux_sim::{Fleet, FluidFleet, Scenario, SharedFleet, SharedFluid, SimError};

use super::arms::{control_config, controller_between, estimator, now};
use crate::controller::{Controller, Mode};

/// Where the scenario of an episode comes from.
#[derive(Debug, Clone)]
pub enum Episodes {
    /// Always this one; the seed changes the requests.
    Fixed(Box<Scenario>),
    /// Another fleet, load and set of faults for each seed.
    Random(RandomSettings),
}

/// Episodes for training: the fleets are small, so that one virtual hour takes a fraction of a second. The
/// policy sees ratios, not rates, so it does not matter that real fleets are larger.
#[must_use]
pub fn training_scenarios() -> RandomSettings {
    RandomSettings {
        duration_s: 2400.0,
        fleet_rps: (80.0, 240.0),
        events: (1, 4),
        ..RandomSettings::default()
    }
}

/// How the fleet is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fidelity {
    /// Request by request.
    #[default]
    Requests,
    /// By rates, second by second, many times faster.
    Fluid,
}

impl FromStr for Fidelity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "requests" => Ok(Self::Requests),
            "fluid" => Ok(Self::Fluid),
            other => Err(format!("there is no fidelity `{other}`, expected requests or fluid")),
        }
    }
}

/// A simulated fleet of either kind.
enum World {
    Requests(SharedFleet),
    Fluid(SharedFluid),
}

impl World {
    fn new(fidelity: Fidelity, scenario: &Scenario, seed: u64) -> Result<Self, SimError> {
        Ok(match fidelity {
            Fidelity::Requests => Self::Requests(SharedFleet::new(Fleet::new(scenario, seed)?)),
            Fidelity::Fluid => Self::Fluid(SharedFluid::new(FluidFleet::new(scenario, seed)?)),
        })
    }

    fn advance(&self, at: Timestamp) {
        match self {
            Self::Requests(fleet) => fleet.with(|fleet| fleet.advance(at)),
            Self::Fluid(fleet) => fleet.with(|fleet| fleet.advance(at)),
        }
    }

    /// Both ends of the loop.
    fn ends(&self) -> (Box<dyn MetricsSource>, Box<dyn Actuator>) {
        match self {
            Self::Requests(fleet) => (Box::new(fleet.clone()), Box::new(fleet.clone())),
            Self::Fluid(fleet) => (Box::new(fleet.clone()), Box::new(fleet.clone())),
        }
    }
}

/// A fleet whose controller asks for actions.
pub struct FleetEnvironment {
    episodes: Episodes,
    fidelity: Fidelity,
    space: ObservationSpace,
    running: Option<Running>,
}

struct Running {
    world: World,
    controller: Controller,
    desk: Arc<Mutex<Desk>>,
    reward: FleetReward,
    /// Telemetry at the end of the last step.
    before: Telemetry,
    tick: u64,
    interval_s: f64,
    ticks_per_step: u64,
    end_s: f64,
}

/// What passes between the environment and the controller inside it.
#[derive(Debug, Default)]
struct Desk {
    action: Action,
    observation: Observation,
}

fn lock(desk: &Mutex<Desk>) -> std::sync::MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands the environment's action to the controller.
struct Handed(Arc<Mutex<Desk>>);

impl Policy for Handed {
    fn act(&mut self, _: &Observation) -> Result<Action, PolicyError> {
        Ok(lock(&self.0).action.clone())
    }
}

/// Keeps the latest observation for the environment.
struct Keeping {
    encoder: FleetEncoder,
    desk: Arc<Mutex<Desk>>,
}

impl StateEncoder for Keeping {
    fn space(&self) -> ObservationSpace {
        self.encoder.space()
    }

    fn encode(
        &mut self,
        topology: &Topology,
        telemetry: &Telemetry,
        estimate: &Estimate,
        current: &Split,
    ) -> Result<Observation, EncodeError> {
        let observation = self.encoder.encode(topology, telemetry, estimate, current)?;
        lock(&self.desk).observation = observation.clone();
        Ok(observation)
    }
}

impl FleetEnvironment {
    /// An environment; nothing runs before [`Environment::reset`].
    #[must_use]
    pub fn new(episodes: Episodes) -> Self {
        let space = FleetEncoder::default().space();
        Self { episodes, fidelity: Fidelity::default(), space, running: None }
    }

    /// Simulates the fleet in another way.
    #[must_use]
    pub fn with_fidelity(mut self, fidelity: Fidelity) -> Self {
        self.fidelity = fidelity;
        self
    }

    fn begin(&self, seed: u64) -> Result<Running, SimError> {
        let scenario = match &self.episodes {
            Episodes::Fixed(scenario) => scenario.as_ref().clone(),
            Episodes::Random(settings) => random_scenario(seed, settings),
        };
        let desk = Arc::new(Mutex::new(Desk::default()));
        let world = World::new(self.fidelity, &scenario, seed)?;
        let mut config = control_config(&scenario);
        let interval_s = scenario.control_interval_s;
        // A whole number of ticks, so that a step ends on a tick.
        let ticks_per_step = ((config.dead_time_s + config.window_s) / interval_s).ceil() as u64;
        config.dead_time_s = ticks_per_step as f64 * interval_s - config.window_s;
        let (source, actuator) = world.ends();
        let controller = controller_between(
            &scenario,
            source,
            actuator,
            Box::new(estimator(&scenario)),
            Box::new(Keeping { encoder: FleetEncoder::default(), desk: Arc::clone(&desk) }),
            Some(Box::new(Handed(Arc::clone(&desk)))),
            config,
        )?
        .with_mode(Mode::Frozen);
        let topology = scenario.topology()?;
        let window = std::time::Duration::from_secs_f64(config.window_s);
        Ok(Running {
            reward: FleetReward::new(topology.clone(), RewardWeights::default()),
            before: Telemetry::empty(&topology, Timestamp::ZERO, window),
            world,
            controller,
            desk,
            tick: 0,
            interval_s,
            ticks_per_step,
            end_s: scenario.duration_s,
        })
    }
}

impl Running {
    /// One learning step: `ticks_per_step` ticks.
    fn advance(&mut self) {
        for _ in 0..self.ticks_per_step {
            self.tick += 1;
            let at = Timestamp::from_secs_f64(self.tick as f64 * self.interval_s);
            self.world.advance(at);
            now(self.controller.tick(at));
        }
    }

    fn observation(&self) -> Observation {
        lock(&self.desk).observation.clone()
    }

    fn telemetry(&self) -> Option<Telemetry> {
        self.controller.evidence().telemetry.clone()
    }

    fn is_over(&self) -> bool {
        (self.tick + self.ticks_per_step) as f64 * self.interval_s > self.end_s
    }
}

impl Environment for FleetEnvironment {
    fn space(&self) -> ObservationSpace {
        self.space.clone()
    }

    fn reset(&mut self, seed: u64) -> Result<Observation, EnvironmentError> {
        let failed = |reason: String| EnvironmentError::Failed { reason };
        let mut running = self.begin(seed).map_err(|e| failed(e.to_string()))?;
        now(running.controller.start()).map_err(|e| failed(e.to_string()))?;
        // The first step shows the fleet under its static weights as far as nothing is in breach.
        running.advance();
        running.before =
            running.telemetry().ok_or_else(|| failed("no telemetry after one step".to_owned()))?;
        let observation = running.observation();
        self.running = Some(running);
        Ok(observation)
    }

    fn step(&mut self, action: &Action) -> Result<Step, EnvironmentError> {
        let running = self.running.as_mut().ok_or(EnvironmentError::NeedsReset)?;
        if running.is_over() {
            return Err(EnvironmentError::NeedsReset);
        }
        let groups = running.controller.fleet().topology.groups().len();
        if let Some(group) = action.critical.iter().find(|g| g.ix() >= groups) {
            return Err(EnvironmentError::Action {
                reason: format!("group {} of {groups} groups is critical", group.ix()),
            });
        }
        lock(&running.desk).action = action.clone();
        running.controller.end_step();
        running.advance();
        let after = running.telemetry().ok_or_else(|| EnvironmentError::Failed {
            reason: "no telemetry at the end of a step".to_owned(),
        })?;
        let reward = running.reward.reward(&running.before, &after);
        let mut info = reward_info(&reward);
        info.push(("step_s", running.ticks_per_step as f64 * running.interval_s));
        running.before = after;
        Ok(Step {
            observation: running.observation(),
            reward,
            terminated: false,
            truncated: running.is_over(),
            info,
        })
    }
}

fn reward_info(reward: &traflux_core::Reward) -> Vec<(&'static str, f64)> {
    ["latency", "errors", "price", "churn"]
        .into_iter()
        .filter_map(|name| reward.term(name).map(|value| (name, value)))
        .collect()
}
