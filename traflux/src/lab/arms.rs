//! The arms of a comparison that have an optimiser.

use std::fmt;
use std::str::FromStr;

use futures_util::FutureExt as _;
use traflux_core::estimator::{EstimatorConfig, FleetEstimator, RawEstimator};
use traflux_core::{
    Actuator, AssembleConfig, Estimator, FleetReward, Health, LadderConfig, MetricsSource, Policy,
    RewardWeights, StateEncoder, Timestamp, TrafficPlan, TwoStage,
};
use traflux_lp::TransportSolver;
use traflux_policy::{FleetEncoder, LearnedPolicy, RandomActor};
use traflux_sim::arms::{ArmController, Baseline, CostAware, CriticalRow};
use traflux_sim::{Scenario, SharedFleet, SimError};

use crate::controller::{ControlConfig, Controller, Fleet, Mode, Stages};

/// Every way to route a fleet that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArmKind {
    /// Every endpoint in turn.
    RoundRobin,
    /// Fixed weights in proportion to nominal capacity.
    StaticCapacity,
    /// Fixed weights: the cheapest routes within a latency budget.
    StaticCostAware,
    /// Per request: the less busy of two.
    LeastRequest,
    /// Per request: the better of two in peak-sensitive latency × requests in flight.
    PeakEwma,
    /// The same linear program on the last readings and nominal capacities, without hedge.
    RawLp,
    /// A random policy behind solver and guard.
    RandomActor,
    /// Estimators, linear program and guard; everything may move.
    Traflux,
    /// The same with the trained policy that comes with the program, frozen.
    TrafluxLearned,
}

impl ArmKind {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 9] = [
        Self::RoundRobin,
        Self::StaticCapacity,
        Self::StaticCostAware,
        Self::LeastRequest,
        Self::PeakEwma,
        Self::RawLp,
        Self::RandomActor,
        Self::Traflux,
        Self::TrafluxLearned,
    ];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round robin",
            Self::StaticCapacity => "static capacity weights",
            Self::StaticCostAware => "cost-aware static",
            Self::LeastRequest => "least request",
            Self::PeakEwma => "P2C Peak-EWMA",
            Self::RawLp => "LP on raw metrics",
            Self::RandomActor => "random actor + guard",
            Self::Traflux => "Traflux",
            Self::TrafluxLearned => "Traflux, learned policy",
        }
    }

    /// Makes the arm for one run.
    ///
    /// # Errors
    /// [`SimError`] when the shipped checkpoint or the scenario cannot be used.
    pub fn arm(self, scenario: &Scenario, seed: u64) -> Result<Box<dyn ArmController>, SimError> {
        Ok(match self {
            Self::RoundRobin => Box::new(Baseline::RoundRobin),
            Self::StaticCapacity => Box::new(Baseline::StaticCapacity),
            Self::StaticCostAware => Box::new(Baseline::StaticCostAware(CostAware::default())),
            Self::LeastRequest => Box::new(Baseline::LeastRequest),
            Self::PeakEwma => Box::new(Baseline::PeakEwma),
            Self::RawLp | Self::RandomActor | Self::Traflux | Self::TrafluxLearned => {
                Box::new(LoopArm::new(self, scenario, seed))
            }
        })
    }
}

impl fmt::Display for ArmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ArmKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let slug = |kind: &Self| kind.name().to_lowercase().replace([' ', ','], "-").replace("--", "-");
        Self::ALL.into_iter().find(|kind| slug(kind) == text || kind.name() == text).ok_or_else(|| {
            let known: Vec<String> = Self::ALL.iter().map(slug).collect();
            format!("unknown arm `{text}`; known: {}", known.join(", "))
        })
    }
}

/// The numbers of the loop for a scenario: its window and dead time, defaults elsewhere.
#[must_use]
pub fn control_config(scenario: &Scenario) -> ControlConfig {
    let metrics = &scenario.metrics;
    ControlConfig {
        window_s: metrics.rate_window_s,
        dead_time_s: metrics.scrape_interval_s + metrics.control_delay_s,
        ladder: LadderConfig {
            fresh_within_s: (2.5 * metrics.scrape_interval_s).max(LadderConfig::default().fresh_within_s),
            ..LadderConfig::default()
        },
        assemble: AssembleConfig {
            // $1 per million requests for 10 ms.
            objective: TwoStage { seconds_per_dollar: 1e4, ..AssembleConfig::default().objective },
            ..AssembleConfig::default()
        },
        ..ControlConfig::default()
    }
}

/// The estimators for a scenario.
#[must_use]
pub fn estimator(scenario: &Scenario) -> FleetEstimator {
    FleetEstimator::new(EstimatorConfig {
        control_delay_s: scenario.metrics.control_delay_s + scenario.control_interval_s,
        ..EstimatorConfig::default()
    })
}

/// The real controller on a simulated fleet.
///
/// # Errors
/// [`SimError`] when the scenario's fleet cannot be expressed as weights.
pub fn controller(
    scenario: &Scenario,
    fleet: &SharedFleet,
    estimator: Box<dyn Estimator>,
    encoder: Box<dyn StateEncoder>,
    policy: Option<Box<dyn Policy>>,
    config: ControlConfig,
) -> Result<Controller, SimError> {
    let (source, actuator) = (Box::new(fleet.clone()), Box::new(fleet.clone()));
    controller_between(scenario, source, actuator, estimator, encoder, policy, config)
}

/// The real controller between any two ends of the loop of a scenario's fleet.
pub(super) fn controller_between(
    scenario: &Scenario,
    source: Box<dyn MetricsSource>,
    actuator: Box<dyn Actuator>,
    estimator: Box<dyn Estimator>,
    encoder: Box<dyn StateEncoder>,
    policy: Option<Box<dyn Policy>>,
    config: ControlConfig,
) -> Result<Controller, SimError> {
    let topology = scenario.topology()?;
    let stages = Stages {
        source,
        estimator,
        encoder,
        policy,
        solver: Box::new(TransportSolver::new()),
        actuator,
        reward: Box::new(FleetReward::new(topology.clone(), RewardWeights::default())),
        recorder: None,
    };
    let services = TrafficPlan::services_of(&topology);
    Ok(Controller::new(Fleet::new(topology, services), stages, config)?)
}

/// A controller as an arm.
pub struct LoopArm {
    kind: ArmKind,
    seed: u64,
    config: ControlConfig,
    controller: Option<Controller>,
    critical: Vec<CriticalRow>,
}

impl LoopArm {
    /// An arm with the scenario's control configuration.
    #[must_use]
    pub fn new(kind: ArmKind, scenario: &Scenario, seed: u64) -> Self {
        Self { kind, seed, config: control_config(scenario), controller: None, critical: Vec::new() }
    }

    fn build(&self, fleet: &SharedFleet) -> Result<Controller, SimError> {
        let scenario = fleet.with(|fleet| fleet.scenario().clone());
        let mut config = self.config;
        let encoder = FleetEncoder::default();
        let (estimator, policy): (Box<dyn Estimator>, Option<Box<dyn Policy>>) = match self.kind {
            ArmKind::RawLp => {
                config.assemble.headroom = 0.0;
                config.assemble.hedge_demand = false;
                (Box::new(RawEstimator::new()), None)
            }
            ArmKind::RandomActor => (
                Box::new(self::estimator(&scenario)),
                Some(Box::new(RandomActor::new(self.seed, config.action_bounds))),
            ),
            ArmKind::TrafluxLearned => {
                let broken = |reason| SimError::Arm { arm: self.kind.to_string(), at_s: 0.0, reason };
                let checkpoint = crate::checkpoint::shipped().map_err(|e| broken(e.to_string()))?;
                let policy = LearnedPolicy::from_checkpoint(&checkpoint, &encoder.space())
                    .map_err(|e| broken(e.to_string()))?;
                (Box::new(self::estimator(&scenario)), Some(Box::new(policy)))
            }
            _ => (Box::new(self::estimator(&scenario)), None),
        };
        let mode = if policy.is_some() { Mode::Frozen } else { Mode::None };
        let controller = controller(&scenario, fleet, estimator, Box::new(encoder), policy, config)?;
        Ok(controller.with_mode(mode))
    }
}

impl ArmController for LoopArm {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn start(&mut self, fleet: &SharedFleet) -> Result<(), SimError> {
        self.critical.clear();
        let mut controller = self.build(fleet)?;
        now(controller.start()).map_err(|e| SimError::Arm {
            arm: self.kind.to_string(),
            at_s: 0.0,
            reason: e.to_string(),
        })?;
        self.controller = Some(controller);
        Ok(())
    }

    fn tick(&mut self, _: &SharedFleet, at: Timestamp) -> Result<(), SimError> {
        let Some(controller) = &mut self.controller else { return Ok(()) };
        let decision = now(controller.tick(at));
        let everything = decision.critical.len() == controller.fleet().topology.groups().len();
        self.critical.extend(
            decision
                .critical
                .iter()
                // Where everything may move, only what must move is worth a row.
                .filter(|(_, reason)| !(everything && *reason == "chosen"))
                .map(|(group, reason)| CriticalRow {
                    at_s: decision.at_s,
                    group: group.clone(),
                    reason: (*reason).to_owned(),
                }),
        );
        self.critical.extend(
            decision
                .endpoints
                .iter()
                .filter(|e| matches!(e.health, Health::Degraded | Health::Unhealthy))
                .map(|endpoint| CriticalRow {
                    at_s: decision.at_s,
                    group: endpoint.name.clone(),
                    reason: match endpoint.health {
                        Health::Unhealthy => "unhealthy".to_owned(),
                        _ => "degraded".to_owned(),
                    },
                }),
        );
        Ok(())
    }

    fn critical(&self) -> &[CriticalRow] {
        &self.critical
    }
}

/// The output of a future that has nothing to wait for.
///
/// # Panics
/// When it does wait: the simulated fleet never does.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a simulated fleet answers at once")
}
