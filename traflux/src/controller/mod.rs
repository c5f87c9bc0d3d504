//! How do the stages become a controller?
//!
//! A [`Controller`] owns one of each stage and what passes from tick to tick: the split in force, the held
//! action, where the ladder of failure stands. [`Controller::tick`] is the loop.

mod decision;
mod learning;
pub mod readings;
mod store;
mod tick;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::{
    Actuator, AssembleConfig, Estimate, Estimator, Generation, GuardAction, GuardConfig, Ladder,
    LadderConfig, MetricsSource, PlanError, PlanVersion, Policy, Recorder, Reward, RewardFunction, RouteIx,
    ServicePlan, Split, SplitSolution, StateEncoder, Telemetry, Timestamp, Topology, TrafficPlan,
    WeightGuard, WeightSolver, WeightTable, quantize,
};

pub use decision::{Decision, DecisionLog, Failure, FlowView, GroupView, GuardView, SharedView, SolverView};
pub use learning::{HeldStep, LearningStats};
pub use store::{StateStore, StoreError};

/// What the controller does with its decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// No policy: estimators, solver and guard alone. Everything may move, or the K worst where `k` is set.
    #[default]
    None,
    /// A trained policy whose parameters do not change.
    Frozen,
    /// A policy that explores and learns.
    Learning,
    /// Decides and logs, moves nothing.
    Shadow,
}

impl Mode {
    /// A stable name for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Frozen => "frozen",
            Self::Learning => "learning",
            Self::Shadow => "shadow",
        }
    }
}

/// Numbers of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// Time over which rates and latencies are measured, in seconds.
    pub window_s: f64,
    /// From a push to measurements that show it, in seconds: push, scrape.
    pub dead_time_s: f64,
    /// Sum of each row of weights.
    pub weight_total: u32,
    /// A plan is pushed only when some share moved by more than this.
    pub dead_band: f64,
    /// Least time between pushes, in seconds: pushing faster skews the split at low rates.
    pub min_push_interval_s: f64,
    /// Limits on shares and steps.
    pub guard: GuardConfig,
    /// The ladder of failure.
    pub ladder: LadderConfig,
    /// The solver's question.
    pub assemble: AssembleConfig,
    /// Limits of a policy's action.
    pub action_bounds: traflux_core::ActionBounds,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            window_s: 60.0,
            dead_time_s: 15.0,
            weight_total: 10_000,
            dead_band: 0.003,
            min_push_interval_s: 1.0,
            guard: GuardConfig::default(),
            ladder: LadderConfig::default(),
            assemble: AssembleConfig::default(),
            action_bounds: traflux_core::ActionBounds::default(),
        }
    }
}

/// One of each stage.
pub struct Stages {
    /// Observe.
    pub source: Box<dyn MetricsSource>,
    /// Estimate.
    pub estimator: Box<dyn Estimator>,
    /// Encode; needed with a policy.
    pub encoder: Box<dyn StateEncoder>,
    /// Act; `None`: everything may move.
    pub policy: Option<Box<dyn Policy>>,
    /// Optimise.
    pub solver: Box<dyn WeightSolver>,
    /// Control.
    pub actuator: Box<dyn Actuator>,
    /// Reward.
    pub reward: Box<dyn RewardFunction>,
    /// Record; `None`: nobody learns.
    pub recorder: Option<Box<dyn Recorder>>,
}

/// What a controller controls: topology, static split, and services without rows.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Flows, routes, resources, groups.
    pub topology: Arc<Topology>,
    /// The static split: where the ladder of failure ends, and the start without a saved state.
    pub fallback: Split,
    /// Everything of the plan but its weights.
    pub services: Vec<ServicePlan>,
}

impl Fleet {
    /// A fleet whose static split is proportional to the nominal capacity of each route's first resource, within
    /// the lowest priority tier of each flow that has any capacity.
    #[must_use]
    pub fn new(topology: Topology, services: Vec<ServicePlan>) -> Self {
        let capacity = |ix: usize| {
            let first = topology.routes()[ix].consumption.first();
            first.map_or(1.0, |c| topology.resources()[c.resource.ix()].capacity.get())
        };
        let tier = |ix: usize| topology.tier(RouteIx::from(ix));
        let mut amounts = vec![0.0; topology.routes().len()];
        for range in topology.flow_offsets().windows(2).map(|w| w[0]..w[1]) {
            let lowest = range.clone().filter(|ix| capacity(*ix) > 0.0).map(tier).min();
            for ix in range.filter(|ix| Some(tier(*ix)) == lowest) {
                amounts[ix] = capacity(ix);
            }
        }
        let fallback = Split::proportional(&topology, &amounts);
        Self { topology: Arc::new(topology), fallback, services }
    }
}

/// What a tick was based on; for exporters and reports.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was collected; `None` when that failed.
    pub telemetry: Option<Telemetry>,
    /// What was estimated from it.
    pub estimate: Option<Estimate>,
    /// What the solver answered.
    pub solution: Option<SplitSolution>,
    /// What the guard changed.
    pub guard: Vec<GuardAction>,
    /// Wall-clock time the solver took; the only number here that differs between equal runs.
    pub solve_time: Duration,
}

/// A plan, with the split that it gives where that is another one than the split in force.
type Offer = (TrafficPlan, Option<Split>);

/// The closed loop. See [`Controller::tick`].
pub struct Controller {
    stages: Stages,
    guard: WeightGuard,
    config: ControlConfig,
    mode: Mode,
    frozen: bool,
    fleet: Fleet,
    ladder: Ladder,
    /// The split in force: what the last weights sent really give.
    current: Split,
    current_since: Option<Timestamp>,
    plan: TrafficPlan,
    /// Whether the actuator still owes a success for `plan`, or for what it failed to take.
    unsent: bool,
    /// What the actuator failed to take when it was offered last; nothing moves before it has taken it.
    untaken: Option<Offer>,
    last_push: Option<Timestamp>,
    last_tick: Option<Timestamp>,
    ticks: u64,
    held: Option<HeldStep>,
    learning: LearningStats,
    last_reward: Option<Reward>,
    evidence: Evidence,
    store: Option<StateStore>,
    /// What the store holds: a version and the sources that acknowledged it.
    saved: Option<(PlanVersion, std::collections::BTreeSet<String>)>,
}

impl Controller {
    /// A controller in [`Mode::None`] that starts from the static split.
    ///
    /// # Errors
    /// [`PlanError`] when the static split cannot be expressed as weights, or services and topology do not fit.
    pub fn new(fleet: Fleet, stages: Stages, config: ControlConfig) -> Result<Self, PlanError> {
        let weights = weigh(&fleet.fallback, config.weight_total)?;
        let plan = TrafficPlan::from_weights(&fleet.topology, &fleet.services, &weights)?;
        Ok(Self {
            guard: WeightGuard::new(config.guard),
            ladder: Ladder::new(config.ladder),
            current: weights.shares()?,
            current_since: None,
            plan,
            unsent: true,
            untaken: None,
            last_push: None,
            last_tick: None,
            ticks: 0,
            held: None,
            learning: LearningStats::default(),
            last_reward: None,
            evidence: Evidence::default(),
            store: None,
            saved: None,
            mode: Mode::None,
            frozen: false,
            fleet,
            stages,
            config,
        })
    }

    /// Sets the mode.
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Keeps the last acknowledged split in a file, and starts from it where it fits the topology: after a
    /// restart no weight jumps.
    ///
    /// # Errors
    /// [`StoreError`] when the file exists and cannot be read; it is never overwritten then.
    pub fn with_store(mut self, store: StateStore) -> Result<Self, StoreError> {
        if let Some(shares) = store.load(&self.fleet.topology, &self.fleet.fallback)? {
            let weights = weigh(&shares, self.config.weight_total)?;
            self.plan = TrafficPlan::from_weights(&self.fleet.topology, &self.fleet.services, &weights)?;
            self.current = weights.shares()?;
        }
        self.store = Some(store);
        Ok(self)
    }

    /// Offers the starting plan to the actuator, so that the data plane has weights before the first tick.
    ///
    /// # Errors
    /// [`traflux_core::ActuateError`]; the next tick offers it again.
    pub async fn start(&mut self) -> Result<(), traflux_core::ActuateError> {
        self.stages.actuator.apply(&self.plan).await?;
        self.unsent = false;
        Ok(())
    }

    /// What is controlled.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The numbers of the loop.
    #[must_use]
    pub fn config(&self) -> &ControlConfig {
        &self.config
    }

    /// Replaces the numbers of the loop. Takes effect with the next tick.
    pub fn set_config(&mut self, config: ControlConfig) {
        self.guard.set_config(config.guard);
        self.ladder.set_config(config.ladder);
        self.config = config;
    }

    /// Replaces the policy; a held action ends unpaid.
    pub fn set_policy(&mut self, policy: Option<Box<dyn Policy>>) {
        self.stages.policy = policy;
        self.held = None;
    }

    /// Replaces the reward: the topology it was made for changed.
    pub fn set_reward(&mut self, reward: Box<dyn RewardFunction>) {
        self.stages.reward = reward;
    }

    /// Ends the held action unpaid: the next tick asks the policy again.
    pub fn end_step(&mut self) {
        self.held = None;
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The split in force.
    #[must_use]
    pub fn current(&self) -> &Split {
        &self.current
    }

    /// The plan in force: the last one that the actuator took.
    #[must_use]
    pub fn plan(&self) -> &TrafficPlan {
        &self.plan
    }

    /// What became of learning steps.
    #[must_use]
    pub fn learning(&self) -> &LearningStats {
        &self.learning
    }

    /// What the last tick was based on.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// The weights of the plan, by route.
    ///
    /// # Errors
    /// [`PlanError`], as when the plan was made.
    pub fn weights(&self) -> Result<WeightTable, PlanError> {
        weigh(&self.current, self.config.weight_total)
    }

    /// What the actuator says is in force for a node group.
    #[must_use]
    pub fn in_force(&self, group: &traflux_core::NodeGroup) -> Option<traflux_core::InForce> {
        self.stages.actuator.in_force(group)
    }

    /// How long nothing fresh was seen.
    #[must_use]
    pub fn stale_for(&self) -> Duration {
        self.ladder.stale_for()
    }

    /// Whether weights are frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Stops moving traffic (or moves it again): decisions go on and are logged, the plan in force stays.
    ///
    /// A plan that the actuator failed to take is given up; the one in force is offered in its place.
    pub fn set_frozen(&mut self, frozen: bool) {
        self.frozen = frozen;
        self.untaken = None;
        self.held = None;
    }

    /// Replaces the fleet: endpoints came or went. Everything that stays keeps its state; a new endpoint
    /// starts with no share and is raised to its floor by the next tick.
    ///
    /// # Errors
    /// [`PlanError`]; the old fleet then stays.
    pub fn set_fleet(&mut self, mut fleet: Fleet) -> Result<(), PlanError> {
        let generation = Generation(self.fleet.topology.generation().0 + 1);
        let topology = Arc::new(fleet.topology.as_ref().clone().with_generation(generation));
        let fallback =
            Split::new(generation, fleet.fallback.offsets().to_vec(), fleet.fallback.shares().to_vec())?;
        let carried = self.current.carried_to(&self.fleet.topology, &topology, &fallback);
        let weights = weigh(&carried, self.config.weight_total)?;
        let plan = TrafficPlan::from_weights(&topology, &fleet.services, &weights)?;
        let current = weights.shares()?;
        fleet.fallback = fallback;
        self.stages.estimator.rebuild(&self.fleet.topology, &topology);
        fleet.topology = topology;
        self.unsent = self.unsent || plan.version() != self.plan.version();
        self.untaken = None;
        self.plan = plan;
        self.current = current;
        self.fleet = fleet;
        self.held = None;
        self.evidence = Evidence::default();
        Ok(())
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.config.window_s)
    }
}

/// Integer weights; the total grows where a row has so many routes that a probe share would vanish.
fn weigh(split: &Split, total: u32) -> Result<WeightTable, PlanError> {
    let longest = split.offsets().windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
    let needed = u32::try_from(longest.saturating_mul(10)).unwrap_or(u32::MAX);
    quantize(split, total.max(needed))
}
