//! The loop, tick by tick, on simulated fleets and with stages that fail.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use traflux::core::estimator::{EstimatorConfig, FleetEstimator};
use traflux::core::{
    Action, ActuateError, Actuator, BoxFuture, FleetReward, GroupIx, InForce, MetricsSource, NodeGroup,
    Observation, ObserveError, Policy, PolicyError, Receipt, Recorder, RewardWeights, Rung, SolveError,
    Split, SplitProblem, SplitSolution, Telemetry, Timestamp, Topology, TrafficPlan, Transition,
    WeightSolver, Window,
};
use traflux::policy::{FleetEncoder, RandomActor};
use traflux::sim::{Scenario, SharedFleet};
use traflux::{ControlConfig, Controller, Decision, Fleet, Mode, Stages, StateStore};

/// A fleet source that can be switched off.
#[derive(Clone)]
struct Switched {
    fleet: SharedFleet,
    off: Arc<AtomicBool>,
}

impl MetricsSource for Switched {
    fn collect<'a>(
        &'a self,
        topology: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, Result<Telemetry, ObserveError>> {
        if self.off.load(Ordering::Relaxed) {
            let source_name = "prometheus".to_owned();
            let error = ObserveError::Unreachable { source_name, reason: "switched off".to_owned() };
            return Box::pin(std::future::ready(Err(error)));
        }
        self.fleet.collect(topology, window)
    }
}

/// An actuator that counts, and fails while it is told to.
#[derive(Clone)]
struct Counting {
    fleet: SharedFleet,
    fail: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<String>>>,
    acknowledges: Arc<AtomicBool>,
}

impl Actuator for Counting {
    fn apply<'a>(&'a self, plan: &'a TrafficPlan) -> BoxFuture<'a, Result<Receipt, ActuateError>> {
        self.calls.lock().unwrap().push(plan.version().to_string());
        if self.fail.load(Ordering::Relaxed) {
            let error = ActuateError::Unavailable { reason: "told to".to_owned() };
            return Box::pin(std::future::ready(Err(error)));
        }
        self.fleet.apply(plan)
    }

    fn in_force(&self, group: &NodeGroup) -> Option<InForce> {
        self.acknowledges.load(Ordering::Relaxed).then(|| self.fleet.in_force(group)).flatten()
    }
}

struct Rig {
    fleet: SharedFleet,
    metrics_off: Arc<AtomicBool>,
    actuator: Counting,
    controller: Controller,
    second: u64,
}

#[derive(Default)]
struct Parts {
    policy: Option<Box<dyn Policy>>,
    solver: Option<Box<dyn WeightSolver>>,
    recorder: Option<Box<dyn Recorder>>,
}

impl Rig {
    fn new(scenario: &str, parts: Parts) -> Self {
        let scenario = Scenario::built_in(scenario).unwrap();
        let fleet = SharedFleet::new(traflux::sim::Fleet::new(&scenario, 3).unwrap());
        let topology = scenario.topology().unwrap();
        let metrics_off = Arc::new(AtomicBool::new(false));
        let actuator = Counting {
            fleet: fleet.clone(),
            fail: Arc::default(),
            calls: Arc::default(),
            acknowledges: Arc::new(AtomicBool::new(true)),
        };
        let stages = Stages {
            source: Box::new(Switched { fleet: fleet.clone(), off: Arc::clone(&metrics_off) }),
            estimator: Box::new(FleetEstimator::new(EstimatorConfig::default())),
            encoder: Box::new(FleetEncoder::default()),
            policy: parts.policy,
            solver: parts.solver.unwrap_or_else(|| traflux::lp::by_name("transport").unwrap()),
            actuator: Box::new(actuator.clone()),
            reward: Box::new(FleetReward::new(topology.clone(), RewardWeights::default())),
            recorder: parts.recorder,
        };
        let services = TrafficPlan::services_of(&topology);
        let config = ControlConfig {
            window_s: scenario.metrics.rate_window_s,
            dead_time_s: scenario.metrics.scrape_interval_s + scenario.metrics.control_delay_s,
            ..ControlConfig::default()
        };
        let mut controller = Controller::new(Fleet::new(topology, services), stages, config).unwrap();
        controller.start().now_or_never().unwrap().unwrap();
        Self { fleet, metrics_off, actuator, controller, second: 0 }
    }

    fn tick(&mut self) -> Decision {
        self.second += 5;
        let at = Timestamp::from_secs_f64(self.second as f64);
        self.fleet.with(|fleet| fleet.advance(at));
        self.controller.tick(at).now_or_never().unwrap()
    }

    /// Ticks until the actuator has failed; the version that it did not take.
    fn first_failed(&mut self) -> String {
        let failed = (0..20).any(|_| self.tick().failures.iter().any(|f| f.code == "actuate_unavailable"));
        assert!(failed, "some plan is pushed in 100 s");
        self.actuator.calls.lock().unwrap().last().unwrap().clone()
    }

    fn ticks(&mut self, count: usize) -> Vec<Decision> {
        (0..count).map(|_| self.tick()).collect()
    }
}

#[test]
fn without_metrics_it_holds_alarms_at_30_s_ramps_from_120_s_and_resumes() {
    let mut rig = Rig::new("steady", Parts::default());
    rig.ticks(60);
    let held = rig.controller.current().clone();
    let fallback = rig.controller.fleet().fallback.clone();
    assert!(held.churn(&fallback) > 0.1, "the loop must have moved something before");
    rig.metrics_off.store(true, Ordering::Relaxed);
    for tick in 1..=36u32 {
        let decision = rig.tick();
        let stale = 5 * tick;
        assert_eq!(decision.failures[0].code, "observe_unreachable");
        match stale {
            0..30 => assert_eq!(decision.rung, Rung::Hold, "{stale} s"),
            30..120 => assert_eq!(decision.rung, Rung::Alarm, "{stale} s"),
            _ => assert!(matches!(decision.rung, Rung::Ramp { .. }), "{stale} s"),
        }
        if stale < 120 {
            assert_eq!(rig.controller.current(), &held, "held at {stale} s");
        }
    }
    let left = rig.controller.current().churn(&fallback);
    assert!(left < 0.003, "after the ramp {left} of the traffic is still off the static split");
    rig.metrics_off.store(false, Ordering::Relaxed);
    let back = rig.ticks(40);
    assert_eq!(back.last().unwrap().rung, Rung::Normal);
    assert!(rig.controller.current().churn(&held) < 0.1, "it finds its way back");
}

#[test]
fn equal_seeds_give_bit_identical_decisions() {
    let run = || {
        let policy: Box<dyn Policy> = Box::new(RandomActor::new(5, Default::default()));
        let mut rig = Rig::new("brownout", Parts { policy: Some(policy), ..Parts::default() });
        rig.ticks(150)
    };
    let (first, second) = (run(), run());
    assert_eq!(first, second);
    // Equality of floats is not enough for "bit-identical": their text is.
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    assert!(first.iter().filter(|d| d.pushed).count() > 10);
}

struct Failing(SolveError);

impl WeightSolver for Failing {
    fn solve(&mut self, _: &SplitProblem) -> Result<SplitSolution, SolveError> {
        Err(self.0.clone())
    }
}

#[test]
fn a_solver_past_its_deadline_leaves_a_split_by_estimated_capacity() {
    let solver = Failing(SolveError::Deadline { limit_ms: 1000 });
    let mut rig = Rig::new("steady", Parts { solver: Some(Box::new(solver)), ..Parts::default() });
    let decisions = rig.ticks(40);
    assert_eq!(decisions[30].failures[0].code, "solve_deadline");
    assert!(decisions[30].solver.is_none());
    // Nothing is wrong with the fleet, so estimated capacities are near nominal, and the split near static.
    assert!(rig.controller.current().churn(&rig.controller.fleet().fallback) < 0.1);
}

#[test]
fn an_actuator_that_fails_is_offered_the_same_version_again() {
    let mut rig = Rig::new("steady", Parts::default());
    rig.ticks(8);
    rig.actuator.fail.store(true, Ordering::Relaxed);
    let failed = rig.first_failed();
    // With metrics gone nothing newer replaces it.
    rig.metrics_off.store(true, Ordering::Relaxed);
    rig.actuator.calls.lock().unwrap().clear();
    rig.tick();
    rig.actuator.fail.store(false, Ordering::Relaxed);
    let decision = rig.tick();
    assert!(decision.pushed);
    assert_eq!(*rig.actuator.calls.lock().unwrap(), [failed.clone(), failed]);
    rig.tick();
    assert_eq!(rig.actuator.calls.lock().unwrap().len(), 2, "once taken it is not sent again");
}

/// The greatest change of a share.
fn moved(from: &Split, to: &Split) -> f64 {
    from.shares().iter().zip(to.shares()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn while_an_actuator_fails_shares_stay_and_then_move_by_one_step() {
    let mut rig = Rig::new("steady", Parts::default());
    // Nothing moves at the first tick.
    rig.tick();
    let before = rig.controller.current().clone();
    let (version, flows) =
        (rig.controller.plan().version().clone(), rig.controller.fleet().topology.flows().len());
    rig.actuator.fail.store(true, Ordering::Relaxed);
    let failed = rig.first_failed();
    assert_ne!(failed, version.to_string());
    rig.actuator.calls.lock().unwrap().clear();
    for _ in 0..10 {
        let decision = rig.tick();
        let codes: Vec<&str> = decision.failures.iter().map(|failure| failure.code).collect();
        assert_eq!((codes, decision.pushed), (vec!["actuate_unavailable"], false));
        assert_eq!(decision.held_flows.len(), flows, "it says what it holds");
        assert_eq!(decision.plan_version, version.to_string());
        assert_eq!(rig.controller.current(), &before);
        let shown: Vec<f64> =
            decision.flows.iter().flat_map(|flow| &flow.shares).map(|(_, share)| *share).collect();
        assert_eq!(shown, before.shares());
        assert!(decision.solver.is_some(), "it goes on deciding");
    }
    assert_eq!(*rig.actuator.calls.lock().unwrap(), vec![failed.clone(); 10], "once a tick, always the same");
    rig.actuator.fail.store(false, Ordering::Relaxed);
    let decision = rig.tick();
    assert!(decision.pushed && decision.plan_version == failed);
    // Ticks are 5 s apart; nobody here is ill, so nobody may fall or rise faster than this. Quantised to 10,000.
    let step = 5.0 * rig.controller.config().guard.step_per_s + 2e-4;
    let first = moved(&before, rig.controller.current());
    assert!(first > 0.003 && first <= step, "moved {first}, at most {step}");
    let taken = rig.controller.current().clone();
    rig.tick();
    let second = moved(&taken, rig.controller.current());
    assert!(second <= step, "moved {second}, at most {step}");
    rig.ticks(40);
    assert!(rig.controller.current().churn(&before) > 0.1, "it goes on");
}

#[test]
fn freezing_gives_up_a_plan_that_nobody_took() {
    let mut rig = Rig::new("steady", Parts::default());
    rig.tick();
    let before = rig.controller.plan().version().to_string();
    rig.actuator.fail.store(true, Ordering::Relaxed);
    rig.first_failed();
    rig.actuator.fail.store(false, Ordering::Relaxed);
    rig.controller.set_frozen(true);
    rig.actuator.calls.lock().unwrap().clear();
    rig.ticks(3);
    // Perhaps it was taken after all, so what is in force is said once more.
    assert_eq!(*rig.actuator.calls.lock().unwrap(), [before]);
}

#[test]
fn a_restart_begins_where_the_last_acknowledged_plan_left_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let mut rig = Rig::new("steady", Parts::default());
    rig.controller = rig.controller.with_store(StateStore::new(&path)).unwrap();
    rig.ticks(60);
    // Nothing new is decided without metrics, so the last plan is acknowledged by the next tick.
    rig.metrics_off.store(true, Ordering::Relaxed);
    rig.tick();
    let before = rig.controller.current().clone();
    let version = rig.controller.plan().version().clone();
    let fresh = Rig::new("steady", Parts::default());
    let restarted = fresh.controller.with_store(StateStore::new(&path)).unwrap();
    assert_eq!(restarted.current(), &before);
    assert_eq!(restarted.plan().version(), &version);

    std::fs::write(&path, "{ half a file").unwrap();
    let fresh = Rig::new("steady", Parts::default());
    let Err(refused) = fresh.controller.with_store(StateStore::new(&path)) else { panic!("read nonsense") };
    assert_eq!(refused.code(), "store_corrupt");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{ half a file", "nothing is lost");
}

#[test]
fn shadow_and_frozen_controllers_decide_and_push_nothing() {
    for shadow in [true, false] {
        let mut rig = Rig::new("steady", Parts::default());
        if shadow {
            rig.controller = rig.controller.with_mode(Mode::Shadow);
        } else {
            rig.controller.set_frozen(true);
        }
        rig.actuator.calls.lock().unwrap().clear();
        let decisions = rig.ticks(30);
        assert!(rig.actuator.calls.lock().unwrap().is_empty());
        let last = decisions.last().unwrap();
        let moved: f64 =
            last.proposed.iter().zip(rig.controller.current().shares()).map(|(a, b)| (a - b).abs()).sum();
        assert!(moved > 0.05, "it proposes to move something");
        assert!(last.solver.is_some());
    }
}

struct Broken(AtomicU64);

impl Policy for Broken {
    fn act(&mut self, _: &Observation) -> Result<Action, PolicyError> {
        if self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return Err(PolicyError::Failed { reason: "raised".to_owned() });
        }
        Ok(Action {
            critical: vec![GroupIx(u32::MAX), GroupIx(0), GroupIx(0)],
            headroom: f64::NAN,
            cost_multipliers: vec![f64::INFINITY; 1000],
            ..Action::default()
        })
    }
}

#[test]
fn a_policy_that_raises_or_returns_nonsense_leaves_the_loop_safe() {
    let policy: Box<dyn Policy> = Box::new(Broken(AtomicU64::new(0)));
    let mut rig = Rig::new("steady", Parts { policy: Some(policy), ..Parts::default() });
    let decisions = rig.ticks(60);
    assert!(decisions.iter().any(|d| d.failures.iter().any(|f| f.code == "policy_failed")));
    assert!(decisions.iter().all(|d| d.proposed.iter().all(|s| s.is_finite() && *s >= 0.0)));
    assert!(decisions.iter().all(|d| d.failures.iter().all(|f| f.stage == "act")));
}

struct Silent {
    freezes: bool,
}

impl Policy for Silent {
    fn act(&mut self, _: &Observation) -> Result<Action, PolicyError> {
        Err(PolicyError::Failed { reason: "no answer within 1000 ms".to_owned() })
    }

    fn freezes_when_it_fails(&self) -> bool {
        self.freezes
    }
}

#[test]
fn while_a_policy_that_freezes_fails_nothing_is_chosen() {
    for freezes in [true, false] {
        let policy: Box<dyn Policy> = Box::new(Silent { freezes });
        let mut rig = Rig::new("steady", Parts { policy: Some(policy), ..Parts::default() });
        let decisions = rig.ticks(30);
        let chosen =
            |d: &traflux::Decision| d.action.as_ref().is_some_and(|action| !action.chosen.is_empty());
        assert_eq!(decisions.iter().any(chosen), !freezes);
        assert!(decisions.iter().any(|d| d.failures.iter().any(|f| f.code == "policy_failed")));
    }
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Transition>>>);

impl Recorder for Kept {
    fn record(&mut self, transition: Transition) {
        self.0.lock().unwrap().push(transition);
    }
}

#[test]
fn a_reward_is_paid_only_when_its_plans_were_acknowledged_before_the_window() {
    let kept = Kept::default();
    let parts = Parts {
        policy: Some(Box::new(RandomActor::new(9, Default::default()))),
        recorder: Some(Box::new(kept.clone())),
        ..Parts::default()
    };
    let mut rig = Rig::new("steady", parts);
    rig.ticks(100);
    let paid = kept.0.lock().unwrap().len();
    assert!(paid > 3, "{paid} transitions in 500 s");
    assert_eq!(rig.controller.learning().recorded, paid as u64);
    {
        let transitions = kept.0.lock().unwrap();
        assert!(transitions.windows(2).all(|w| w[0].next_observation == w[1].observation));
        assert!(transitions.iter().all(|t| t.reward.total < 0.0 && t.reward.terms.len() == 4));
    }
    rig.actuator.acknowledges.store(false, Ordering::Relaxed);
    rig.ticks(30);
    let before = kept.0.lock().unwrap().len();
    rig.ticks(100);
    let learning = rig.controller.learning();
    assert!(learning.dropped_unacknowledged > 3, "{learning:?}");
    assert_eq!(kept.0.lock().unwrap().len(), before, "nothing is paid without acknowledgement");
}

#[test]
fn rows_of_a_source_without_data_plane_stand_still() {
    let mut rig = Rig::new("steady", Parts::default());
    rig.actuator.acknowledges.store(false, Ordering::Relaxed);
    let before = rig.controller.current().clone();
    let decisions = rig.ticks(40);
    assert_eq!(rig.controller.current(), &before);
    assert_eq!(decisions.last().unwrap().held_flows.len(), 3);
    assert!(decisions.last().unwrap().solver.is_some(), "it goes on deciding");
    rig.actuator.acknowledges.store(true, Ordering::Relaxed);
    rig.ticks(40);
    assert!(rig.controller.current().churn(&before) > 0.1);
}

#[test]
fn an_endpoint_that_leaves_gives_its_share_to_the_others_and_a_new_one_starts_at_its_floor() {
    let mut rig = Rig::new("steady", Parts::default());
    rig.ticks(60);
    let before = rig.controller.current().clone();
    let old = rig.controller.fleet().topology.as_ref().clone();
    let mut scenario = Scenario::built_in("steady").unwrap();
    let gone = scenario.endpoints.remove(0).name;
    let mut added = scenario.endpoints[0].clone();
    added.name = "new-one".to_owned();
    scenario.endpoints.push(added);
    let topology = scenario.topology().unwrap();
    let services = TrafficPlan::services_of(&topology);
    rig.controller.set_fleet(Fleet::new(topology, services)).unwrap();
    let new = rig.controller.fleet().topology.clone();
    assert!(new.group(&gone).is_none());
    let split: &Split = rig.controller.current();
    for (ix, route) in new.routes().iter().enumerate() {
        let share = split.shares()[ix];
        match old.route(&route.name) {
            Some(was) => assert!(share >= before.shares()[was.ix()] - 2e-4, "{} lost share", route.name),
            None => assert_eq!(share, 0.0, "{} begins without traffic", route.name),
        }
    }
}

#[test]
fn a_clock_that_jumps_moves_no_more_than_one_step() {
    let mut rig = Rig::new("steady", Parts::default());
    rig.ticks(60);
    let before = rig.controller.current().clone();
    // An hour forward, then back again; the fleet's own time stands still meanwhile.
    for second in [4000.0, 300.0, 305.0] {
        let decision = rig.controller.tick(Timestamp::from_secs_f64(second)).now_or_never().unwrap();
        assert!(decision.proposed.iter().all(|s| s.is_finite()));
        let limit = rig.controller.config().guard;
        let step = limit.drain_per_s * limit.max_elapsed_s;
        let moved = rig
            .controller
            .current()
            .shares()
            .iter()
            .zip(before.shares())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(moved <= step * 3.0 + 1e-3, "moved {moved}");
    }
    // After the jump back control goes on.
    let mut pushed = 0;
    for second in (310..600).step_by(5) {
        let at = Timestamp::from_secs_f64(f64::from(second));
        rig.fleet.with(|fleet| fleet.advance(at));
        pushed += u32::from(rig.controller.tick(at).now_or_never().unwrap().pushed);
    }
    assert!(pushed > 0, "nothing was pushed after the clock went back");
}

#[test]
fn static_weights_use_the_lowest_tier_that_has_capacity() {
    let mut scenario = Scenario::built_in("steady").unwrap();
    scenario.endpoints[0].tier = 1;
    let topology = scenario.topology().unwrap();
    let services = TrafficPlan::services_of(&topology);
    let fleet = Fleet::new(topology, services);
    let standby = scenario.endpoints[0].name.as_str();
    for (route, share) in fleet.topology.routes().iter().zip(fleet.fallback.shares()) {
        assert_eq!(*share == 0.0, route.name.ends_with(&format!("/{standby}")), "{}", route.name);
    }
}
