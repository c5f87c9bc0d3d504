//! Who ticks, and what follows a reload?

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use traflux_core::estimator::{EstimatorConfig, FleetEstimator, HealthConfig};
use traflux_core::plan::control::{ControlMode, ControlPlan};
use traflux_core::plan::requests::RequestPlan;
use traflux_core::{
    AssembleConfig, FleetReward, LadderConfig, PlanError, Policy, RewardWeights, Rung, SolverStatus, Split,
    StateEncoder as _, Timestamp, TopologyError, TwoStage,
};
use traflux_gateway::Engine;
use traflux_lp::TransportSolver;
use traflux_policy::{Checkpoint, CheckpointError, CriticalCount, FleetEncoder, LearnedPolicy, TopK};
use traflux_prom::Exporter;

use super::actuator::EngineActuator;
use super::fleet::fleet;
use super::source::EngineSource;
use crate::controller::{ControlConfig, Controller, Decision, Fleet, Mode, Stages};

/// Shares that moved by less than this since they were last told of are not worth a line.
const WORTH_TELLING: f64 = 0.05;
/// How often a plan without `control` is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why an engine cannot be controlled as its plan says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineControlError {
    /// The checkpoint of `control.checkpoint`.
    #[error("control.checkpoint: {source}")]
    Checkpoint {
        /// What is wrong with it.
        #[from]
        source: CheckpointError,
    },
    /// Rules and backends make no fleet; those of a plan that was validated do.
    #[error(transparent)]
    Fleet(#[from] TopologyError),
    /// The plan's weights cannot be expressed.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl EngineControlError {
    /// A stable name for logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Checkpoint { .. } => "engine_control_checkpoint",
            Self::Fleet(error) => error.code(),
            Self::Plan(error) => error.code(),
        }
    }

    /// Whether trying again may help: never, the plan has to change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}

/// The controller of one engine: the loop of [`Controller`] with the engine as source and actuator, made of what the
/// plan in force says under `control`, and made anew when the plan is reloaded. Without `control`, or where no rule leaves
/// anything to decide, it waits for a plan that does.
pub struct EngineController {
    engine: Engine,
    /// The plan that is followed.
    plan: Option<Arc<RequestPlan>>,
    running: Option<Running>,
    exporter: Arc<Exporter>,
    /// What has a name and no number; `None` while nothing is controlled.
    status: Arc<Mutex<Option<String>>>,
    told: Told,
}

struct Running {
    controller: Controller,
    actuator: EngineActuator,
}

/// What people know already.
#[derive(Default)]
struct Told {
    shares: Option<Split>,
    held: Option<bool>,
    failing: Vec<(&'static str, &'static str)>,
}

impl EngineController {
    /// A controller for an engine; it looks at the plan, and moves weights, from the first [`tick`](Self::tick) on.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            plan: None,
            running: None,
            exporter: Arc::new(Exporter::new()),
            status: Arc::default(),
            told: Told::default(),
        }
    }

    /// Once around the loop: observes the engine, decides, and puts weights in force. `None` where there is nothing to
    /// control.
    ///
    /// # Errors
    /// [`EngineControlError`] once, when the checkpoint of a plan that is new cannot be used: nothing is controlled then,
    /// and the engine goes by what it observes, until another plan comes.
    pub async fn tick(&mut self, now: Timestamp) -> Result<Option<Decision>, EngineControlError> {
        let plan = self.engine.plan();
        if self.plan.as_ref().is_none_or(|followed| !Arc::ptr_eq(&plan, followed)) {
            self.follow(plan, now)?;
        }
        let Some(Running { controller, actuator }) = &mut self.running else {
            self.set_status(None);
            return Ok(None);
        };
        let began = Instant::now();
        actuator.at(now);
        let decision = controller.tick(now).await;
        // A controller that holds weights still stands by them.
        actuator.renew();
        crate::service::record(&self.exporter, controller, &decision, began.elapsed());
        self.set_status(Some(status(&decision)));
        Ok(Some(decision))
    }

    /// The loop of the plan in force, where there is one: its fleet, split and evidence.
    #[must_use]
    pub fn controller(&self) -> Option<&Controller> {
        self.running.as_ref().map(|running| &running.controller)
    }

    /// What Prometheus sees of it: the names are those of the controller beside Envoy, and beside them the version of
    /// the plan, and solver and status of the last solution; nothing while nothing is controlled. Can be called from
    /// anywhere while the controller runs.
    pub fn metrics(&self) -> impl Fn() -> String + Send + Sync + use<> {
        let (exporter, status) = (Arc::clone(&self.exporter), Arc::clone(&self.status));
        move || {
            let status = status.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(status) = &*status else { return String::new() };
            let text = exporter.encode();
            // Other metrics stand on the same page.
            format!("{}{status}", text.strip_suffix("# EOF\n").unwrap_or(&text))
        }
    }

    /// Ticks as often as the plan in force says, for ever, by a clock that never goes back; drop the future to stop. What
    /// happens is told to `tell`, a line at a time: weights that moved much, failures that begin, control that is held.
    pub async fn run(mut self, clock: impl Fn() -> Timestamp, mut tell: impl FnMut(&str)) {
        loop {
            match self.tick(clock()).await {
                Ok(Some(decision)) => self.say(&decision, &mut tell),
                Ok(None) => {}
                Err(error) => tell(&format!("control: {error}; the engine goes by what it observes")),
            }
            let plan = self.running.as_ref().and(self.plan.as_ref());
            let interval = plan.and_then(|plan| plan.control.as_ref()).map(|control| control.interval);
            tokio::time::sleep(interval.unwrap_or(LOOK_EVERY)).await;
        }
    }

    /// Goes on with another plan. Where only rules and backends changed, everything that stays keeps its state; where
    /// `control` changed, the loop begins anew with the split in force.
    fn follow(&mut self, plan: Arc<RequestPlan>, now: Timestamp) -> Result<(), EngineControlError> {
        let before = self.plan.replace(Arc::clone(&plan));
        (self.told.shares, self.told.held) = (None, None);
        let Some(mut running) = self.running.take() else {
            self.running = start(&self.engine, &plan, now, None)?;
            return Ok(());
        };
        let Some(control) = &plan.control else { return Ok(()) };
        if before.is_none_or(|before| before.control != plan.control) {
            let carried = (running.controller.fleet(), running.controller.current());
            self.running = start(&self.engine, &plan, now, Some(carried))?;
        } else if let Some(fleet) = fleet(&plan, control)? {
            let reward = reward(&fleet);
            running.actuator.follow(plan);
            running.controller.set_fleet(fleet)?;
            running.controller.set_reward(reward);
            self.running = Some(running);
        }
        Ok(())
    }

    fn set_status(&self, status: Option<String>) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn say(&mut self, decision: &Decision, tell: &mut impl FnMut(&str)) {
        let Some(running) = &self.running else { return };
        for failure in &decision.failures {
            if !self.told.failing.contains(&(failure.stage, failure.code)) {
                tell(&format!("control: {}: {}", failure.stage, failure.message));
            }
        }
        self.told.failing = decision.failures.iter().map(|f| (f.stage, f.code)).collect();
        // Before the first request nothing is estimated.
        let held = decision.rung != Rung::Normal || decision.endpoints.is_empty();
        if self.told.held.replace(held).is_some_and(|before| before != held) {
            tell(if held {
                "control: no request has ended for a while, weights are held"
            } else {
                "control: requests end, weights may move"
            });
        }
        let current = running.controller.current();
        let moved = |before: &Split| {
            let pairs = before.shares().iter().zip(current.shares());
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        };
        let before = self.told.shares.get_or_insert_with(|| running.controller.fleet().fallback.clone());
        if before.offsets() == current.offsets() && moved(before) > WORTH_TELLING {
            for flow in &decision.flows {
                let shares: Vec<String> = flow
                    .shares
                    .iter()
                    .map(|(name, share)| format!("{name} {:.0} %", share * 100.0))
                    .collect();
                let why = decision.explanation.first().map_or("", String::as_str);
                tell(&format!("control: {}: {}; {why}", flow.name, shares.join(", ")));
            }
            self.told.shares = Some(current.clone());
        }
    }
}

/// What a plan's controller would control; `None` without one, and where nothing is left to it.
///
/// # Errors
/// [`EngineControlError`] for what would keep it from running.
pub(crate) fn controlled(plan: &RequestPlan) -> Result<Option<Fleet>, EngineControlError> {
    let Some(control) = &plan.control else { return Ok(None) };
    policy(control, &FleetEncoder::default())?;
    Ok(fleet(plan, control)?)
}

/// The loop that a plan asks for, from the split in force where there is one.
fn start(
    engine: &Engine,
    plan: &RequestPlan,
    now: Timestamp,
    carried: Option<(&Fleet, &Split)>,
) -> Result<Option<Running>, EngineControlError> {
    let Some(control) = &plan.control else { return Ok(None) };
    let Some(fleet) = fleet(plan, control)? else { return Ok(None) };
    let encoder = FleetEncoder::default();
    let policy = policy(control, &encoder)?;
    let (mode, actuator) = match control.mode {
        ControlMode::Shadow => (Mode::Shadow, EngineActuator::idle(engine.clone(), now)),
        ControlMode::Frozen => (Mode::Frozen, EngineActuator::new(engine.clone(), now)),
        ControlMode::None => (Mode::None, EngineActuator::new(engine.clone(), now)),
    };
    let stages = Stages {
        source: Box::new(EngineSource::new(engine.clone(), now)),
        estimator: Box::new(FleetEstimator::new(estimator_config(control))),
        encoder: Box::new(encoder),
        policy,
        solver: Box::new(TransportSolver::new()),
        actuator: Box::new(actuator.clone()),
        reward: reward(&fleet),
        recorder: None,
    };
    let begin = match carried {
        None => fleet.clone(),
        Some((before, current)) => {
            let fallback = current.carried_to(&before.topology, &fleet.topology, &fleet.fallback);
            Fleet { fallback, ..fleet.clone() }
        }
    };
    let mut controller = Controller::new(begin, stages, control_config(control))?.with_mode(mode);
    if carried.is_some() {
        controller.set_fleet(fleet)?;
    }
    Ok(Some(Running { controller, actuator }))
}

fn reward(fleet: &Fleet) -> Box<FleetReward> {
    Box::new(FleetReward::new(fleet.topology.as_ref().clone(), RewardWeights::default()))
}

/// Without `k` and checkpoint everything may move and there is nothing to choose.
fn policy(
    control: &ControlPlan,
    encoder: &FleetEncoder,
) -> Result<Option<Box<dyn Policy>>, EngineControlError> {
    let space = encoder.space();
    let checkpoint = match (&control.checkpoint, control.mode) {
        (Some(file), ControlMode::Frozen | ControlMode::Shadow) => Some(Checkpoint::load(Path::new(file))?),
        (None, ControlMode::Frozen) => Some(crate::checkpoint::shipped()?),
        _ => None,
    };
    Ok(match (checkpoint, control.k) {
        (Some(checkpoint), k) => {
            let policy = LearnedPolicy::from_checkpoint(&checkpoint, &space)?;
            let count = CriticalCount::new(k.unwrap_or(checkpoint.actions.critical));
            Some(Box::new(policy.with_critical_count(count, &space)))
        }
        (None, Some(k)) => {
            Some(Box::new(TopK::new(CriticalCount::new(k), AssembleConfig::default().headroom, &space)))
        }
        (None, None) => None,
    })
}

fn estimator_config(control: &ControlPlan) -> EstimatorConfig {
    EstimatorConfig {
        // What is decided now acts until the next decision is in force, which it is at once.
        control_delay_s: control.interval.as_secs_f64(),
        health: HealthConfig { p95_limit_ms: control.p95_limit_ms, ..HealthConfig::default() },
        ..EstimatorConfig::default()
    }
}

fn control_config(control: &ControlPlan) -> ControlConfig {
    let interval_s = control.interval.as_secs_f64();
    ControlConfig {
        window_s: control.window.as_secs_f64(),
        dead_time_s: interval_s,
        // Nobody has to be told: a push costs nothing.
        min_push_interval_s: 0.0,
        guard: control.guard(),
        ladder: LadderConfig {
            fresh_within_s: LadderConfig::default().fresh_within_s.max(2.5 * interval_s),
            // The engine cannot be lost out of sight; where nothing ends, nobody asks. That is no alarm, and no reason
            // to give up what was learned.
            alarm_after_s: f64::INFINITY,
            ramp_after_s: f64::INFINITY,
            max_elapsed_s: LadderConfig::default().max_elapsed_s.max(interval_s),
            ..LadderConfig::default()
        },
        assemble: AssembleConfig {
            objective: TwoStage {
                max_utilization: control.max_utilization,
                // A dollar on a million requests for 10 ms each: 10⁴ seconds.
                seconds_per_dollar: control.usd_per_million_for_10_ms.map_or(0.0, |usd| 1e4 / usd),
                budget_per_hour: control.budget_usd_per_hour,
                ..AssembleConfig::default().objective
            },
            ..AssembleConfig::default()
        },
        ..ControlConfig::default()
    }
}

/// What has a name and no number.
fn status(decision: &Decision) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# TYPE traflux_plan_info gauge");
    let (version, mode) = (&decision.plan_version, decision.mode.name());
    let _ = writeln!(text, "traflux_plan_info{{version=\"{version}\",mode=\"{mode}\"}} 1");
    let solver = decision.solver.as_ref().map(|solver| match solver.status {
        SolverStatus::Optimal => (solver.name.as_str(), "optimal"),
        SolverStatus::Gap { .. } => (solver.name.as_str(), "gap"),
        SolverStatus::Overloaded => (solver.name.as_str(), "overloaded"),
        SolverStatus::NoDemand => (solver.name.as_str(), "no_demand"),
    });
    let (name, status) = solver.unwrap_or(("none", "none"));
    let _ = writeln!(text, "# TYPE traflux_solver_info gauge");
    let _ = writeln!(text, "traflux_solver_info{{solver=\"{name}\",status=\"{status}\"}} 1");
    text
}
