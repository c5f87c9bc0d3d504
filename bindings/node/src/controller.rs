//! How does Node close the loop?
//!
//! A tick runs on a thread of its own. Stages that are written in JavaScript are asked through one function of
//! `index.js`, with a number under which the answer comes back; the tick waits for it no longer than its deadline. A stage
//! that throws, answers too late or answers nonsense is an error of that stage, and the controller then does what it
//! does whenever a stage fails: it holds, and its decision says so.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use napi::bindgen_prelude::{FnArgs, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Result, Status};
use napi_derive::napi;
use serde::{Deserialize, Serialize};
use traflux::controller::readings;
use traflux::{Config, Controller, Stages};
use traflux_core::{
    Action, ActuateError, Actuator, BoxFuture, FleetEstimator, FleetReward, GroupIx, InForce, MetricsSource,
    NodeGroup, Observation, ObserveError, Policy, PolicyError, Receipt, Reward, RewardFunction, Telemetry,
    Timestamp, Topology, TrafficPlan, Window,
};
use traflux_gateway::adapter::Clock;

use crate::errors::{coded, guarded, input};
use crate::request::timestamp;

type Arguments = FnArgs<(f64, String, String)>;
type Ask = ThreadsafeFunction<Arguments, (), Arguments, Status, false, true>;

/// What JavaScript answered: JSON, or what went wrong.
type Answer = std::result::Result<String, String>;

/// The way to stages in JavaScript and back.
struct Bridge {
    ask: Ask,
    waiting: Mutex<HashMap<u64, Sender<Answer>>>,
    next: Mutex<u64>,
    deadline: Duration,
}

/// Why a stage has no answer.
enum Failed {
    Late,
    Said(String),
}

impl Bridge {
    fn call(&self, stage: &str, payload: String) -> std::result::Result<String, Failed> {
        let (sender, receiver): (Sender<Answer>, Receiver<Answer>) = channel();
        let number = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        lock(&self.waiting).insert(number, sender);
        let arguments = FnArgs::from((number as f64, stage.to_owned(), payload));
        let status = self.ask.call(arguments, ThreadsafeFunctionCallMode::NonBlocking);
        let answer = if status == Status::Ok {
            receiver.recv_timeout(self.deadline)
        } else {
            Err(RecvTimeoutError::Disconnected)
        };
        lock(&self.waiting).remove(&number);
        match answer {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(reason)) => Err(Failed::Said(reason)),
            Err(RecvTimeoutError::Timeout) => Err(Failed::Late),
            Err(RecvTimeoutError::Disconnected) => Err(Failed::Said("the tick was aborted".to_owned())),
        }
    }

    fn reason(&self, failed: Failed) -> String {
        match failed {
            Failed::Late => format!("no answer within {} ms", self.deadline.as_millis()),
            Failed::Said(reason) => reason,
        }
    }
}

/// Observe: `collect`.
struct Source(Arc<Bridge>);

impl Source {
    fn ask(&self, topology: &Topology, window: Window) -> std::result::Result<Telemetry, ObserveError> {
        let source_name = || "the source".to_owned();
        let payload = serde_json::json!({
            "atMs": window.at.as_secs_f64() * 1e3,
            "windowMs": window.length.as_secs_f64() * 1e3,
        });
        let text = self.0.call("source", payload.to_string()).map_err(|failed| match failed {
            Failed::Late => ObserveError::Timeout {
                source_name: source_name(),
                limit_ms: u64::try_from(self.0.deadline.as_millis()).unwrap_or(u64::MAX),
            },
            Failed::Said(reason) => ObserveError::BadAnswer { source_name: source_name(), reason },
        })?;
        readings::read(&text, topology, window.at, window.length)
            .map_err(|reason| ObserveError::BadAnswer { source_name: source_name(), reason })
    }
}

impl MetricsSource for Source {
    fn collect<'a>(
        &'a self,
        topology: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, std::result::Result<Telemetry, ObserveError>> {
        Box::pin(async move { self.ask(topology, window) })
    }
}

/// Act: `act`.
struct Chooser {
    bridge: Arc<Bridge>,
    groups: Vec<String>,
}

#[derive(Serialize)]
struct Seen<'a> {
    groups: &'a [String],
    features: usize,
    values: Vec<f32>,
    context: Vec<f32>,
    mask: &'a [bool],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Chosen {
    critical: Vec<String>,
    #[serde(default)]
    headroom: f64,
    #[serde(default)]
    cost_multipliers: BTreeMap<String, f64>,
}

impl Chooser {
    fn read(&self, text: &str) -> std::result::Result<Action, String> {
        let chosen: Chosen = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let group = |name: &String| {
            let found = self.groups.iter().position(|group| group == name);
            found.map(GroupIx::from).ok_or_else(|| format!("there is no group `{name}`"))
        };
        let mut action =
            Action::choose(chosen.critical.iter().map(group).collect::<std::result::Result<_, _>>()?);
        action.headroom = chosen.headroom;
        if !chosen.cost_multipliers.is_empty() {
            action.cost_multipliers = vec![1.0; self.groups.len()];
            for (name, multiplier) in &chosen.cost_multipliers {
                action.cost_multipliers[group(name)?.ix()] = *multiplier;
            }
        }
        Ok(action)
    }
}

impl Policy for Chooser {
    fn act(&mut self, observation: &Observation) -> std::result::Result<Action, PolicyError> {
        let seen = Seen {
            groups: &self.groups,
            features: observation.groups.ncols(),
            values: observation.groups.iter().copied().collect(),
            context: observation.context.to_vec(),
            mask: &observation.mask,
        };
        let failed = |reason| PolicyError::Failed { reason };
        let payload = serde_json::to_string(&seen).map_err(|error| failed(error.to_string()))?;
        let text = self.bridge.call("policy", payload).map_err(|why| failed(self.bridge.reason(why)))?;
        self.read(&text).map_err(failed)
    }

    fn holds(&self) -> bool {
        false
    }

    fn freezes_when_it_fails(&self) -> bool {
        true
    }
}

/// Failures of stages that cannot fail in Rust.
type Reports = Arc<Mutex<Vec<(&'static str, String)>>>;

/// Reward: `reward`. One that fails pays nothing.
struct Payer {
    bridge: Arc<Bridge>,
    topology: Arc<Topology>,
    reports: Reports,
}

impl Payer {
    fn ask(&self, before: &Telemetry, after: &Telemetry) -> std::result::Result<Reward, String> {
        let [before, after] = [before, after].map(|telemetry| readings::text(telemetry, &self.topology));
        let payload = format!(r#"{{"before":{before},"after":{after}}}"#);
        let text = self.bridge.call("reward", payload).map_err(|why| self.bridge.reason(why))?;
        let terms: BTreeMap<String, f64> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        Ok(Reward { total: terms.values().sum(), terms: terms.into_iter().collect() })
    }
}

impl RewardFunction for Payer {
    fn reward(&self, before: &Telemetry, after: &Telemetry) -> Reward {
        self.ask(before, after).unwrap_or_else(|reason| {
            lock(&self.reports).push(("reward", reason));
            Reward::default()
        })
    }
}

/// Control: `apply`, where there is one; what it took is in force.
struct Applier {
    bridge: Arc<Bridge>,
    asks: bool,
    in_force: Mutex<Option<InForce>>,
    clock: Clock,
}

impl Applier {
    fn take(&self, plan: &TrafficPlan) -> std::result::Result<Receipt, ActuateError> {
        let version = plan.version().clone();
        if self.asks {
            let payload = serde_json::json!({"version": version.as_str(), "weights": weights(plan)});
            self.bridge
                .call("actuator", payload.to_string())
                .map_err(|why| ActuateError::Unavailable { reason: self.bridge.reason(why) })?;
        }
        let mut in_force = lock(&self.in_force);
        let changed = in_force.as_ref().is_none_or(|before| before.version != version);
        if changed {
            *in_force = Some(InForce { version: version.clone(), since: self.clock.now() });
        }
        Ok(Receipt { version, changed })
    }
}

/// Weights by service, source and endpoint.
fn weights(plan: &TrafficPlan) -> BTreeMap<&str, BTreeMap<&str, BTreeMap<&str, u32>>> {
    let rows = |service: &'_ traflux_core::ServicePlan| -> Vec<(usize, Vec<u32>)> {
        service.rows.iter().enumerate().map(|(ix, row)| (ix, row.weights.clone())).collect()
    };
    plan.services()
        .iter()
        .map(|service| {
            let by_source = rows(service).into_iter().map(|(ix, row)| {
                let names = service.endpoints.iter().map(|endpoint| endpoint.name.as_str());
                (service.rows[ix].group.0.as_str(), names.zip(row).collect())
            });
            (service.name.as_str(), by_source.collect())
        })
        .collect()
}

impl Actuator for Applier {
    fn apply<'a>(
        &'a self,
        plan: &'a TrafficPlan,
    ) -> BoxFuture<'a, std::result::Result<Receipt, ActuateError>> {
        Box::pin(async move { self.take(plan) })
    }

    fn in_force(&self, _: &NodeGroup) -> Option<InForce> {
        lock(&self.in_force).clone()
    }

    fn is_connected(&self, _: &NodeGroup) -> bool {
        true
    }
}

/// Which stages are JavaScript's, and how long one may take.
#[napi(object, object_to_js = false)]
pub struct StageOptions {
    /// There is a policy.
    pub policy: bool,
    /// There is a reward.
    pub reward: bool,
    /// There is an actuator.
    pub actuator: bool,
    /// Longest time for one stage, milliseconds.
    pub deadline_ms: f64,
}

/// The controller behind `Controller` of `index.js`.
#[napi]
pub struct NativeController {
    controller: Arc<Mutex<Controller>>,
    bridge: Arc<Bridge>,
    reports: Reports,
    clock: Clock,
}

#[napi]
impl NativeController {
    /// From a configuration as YAML or JSON; `ask` is called with a number, a stage and its arguments as JSON, and with
    /// the number of a tick, `done` or `failed`, and its decision.
    #[napi(constructor)]
    pub fn new(config: String, options: StageOptions, ask: Function<'_, Arguments, ()>) -> Result<Self> {
        guarded(|| {
            let deadline = Duration::try_from_secs_f64(options.deadline_ms * 1e-3)
                .map_err(|_| input("input_time", format!("stageDeadlineMs is {}", options.deadline_ms)))?;
            let config = Config::parse_for_any_source(&config).map_err(coded)?;
            let built = config.build(&BTreeMap::default()).map_err(coded)?;
            let solver = traflux_lp::by_name(&config.objective.solver).map_err(coded)?;
            // Weak: it does not keep the process alive, a tick does.
            let ask = ask.build_threadsafe_function().weak::<true>().callee_handled::<false>().build()?;
            let bridge =
                Arc::new(Bridge { ask, waiting: Mutex::default(), next: Mutex::default(), deadline });
            let reports = Reports::default();
            let topology = Arc::clone(&built.fleet.topology);
            let reward: Box<dyn RewardFunction> = if options.reward {
                let (bridge, reports) = (Arc::clone(&bridge), Arc::clone(&reports));
                Box::new(Payer { bridge, topology: Arc::clone(&topology), reports })
            } else {
                Box::new(FleetReward::new(topology.as_ref().clone(), config.objective.reward))
            };
            let policy: Option<Box<dyn Policy>> = if options.policy {
                let groups = topology.groups().iter().map(|group| group.name.clone()).collect();
                Some(Box::new(Chooser { bridge: Arc::clone(&bridge), groups }))
            } else {
                None
            };
            let clock = Clock::start();
            let stages = Stages {
                source: Box::new(Source(Arc::clone(&bridge))),
                estimator: Box::new(FleetEstimator::new(config.estimator())),
                encoder: Box::new(config.encoder()),
                policy,
                solver,
                actuator: Box::new(Applier {
                    bridge: Arc::clone(&bridge),
                    asks: options.actuator,
                    in_force: Mutex::default(),
                    clock,
                }),
                reward,
                recorder: None,
            };
            let controller = Controller::new(built.fleet, stages, built.control).map_err(coded)?;
            Ok(Self { controller: Arc::new(Mutex::new(controller)), bridge, reports, clock })
        })
    }

    /// Goes once around on a thread of its own; the decision comes through `ask` under `number`.
    #[napi]
    pub fn tick(&self, number: f64, now_ms: f64) -> Result<()> {
        guarded(|| {
            let now = if now_ms.is_nan() { self.clock.now() } else { timestamp(now_ms)? };
            let (controller, bridge) = (Arc::clone(&self.controller), Arc::clone(&self.bridge));
            let reports = Arc::clone(&self.reports);
            let run = move || {
                let ticked = catch_unwind(AssertUnwindSafe(|| tick(&controller, &reports, now)));
                let (what, text) = match ticked {
                    Ok(Ok(text)) => ("done", text),
                    Ok(Err(reason)) => ("failed", reason),
                    Err(_) => ("failed", "the tick panicked".to_owned()),
                };
                let arguments = FnArgs::from((number, what.to_owned(), text));
                // Where Node is about to end, nobody is left to be told.
                let _ = bridge.ask.call(arguments, ThreadsafeFunctionCallMode::NonBlocking);
            };
            std::thread::Builder::new()
                .name("traflux-tick".to_owned())
                .spawn(run)
                .map(drop)
                .map_err(|error| input("input_thread", error))
        })
    }

    /// A stage's answer: JSON, or what went wrong.
    #[napi]
    pub fn answer(&self, number: f64, text: Option<String>, error: Option<String>) {
        if let Some(sender) = lock(&self.bridge.waiting).remove(&(number as u64)) {
            // A stage that answers after its deadline has nobody to tell.
            let _ =
                sender.send(text.ok_or_else(|| error.unwrap_or_else(|| "it answered nothing".to_owned())));
        }
    }

    /// Lets every stage that is being waited for fail.
    #[napi]
    pub fn abort(&self) {
        lock(&self.bridge.waiting).clear();
    }
}

fn tick(
    controller: &Mutex<Controller>,
    reports: &Reports,
    now: Timestamp,
) -> std::result::Result<String, String> {
    let mut controller = lock(controller);
    lock(reports).clear();
    // Stages wait where they are asked, so nothing is ever pending.
    let decision = controller.tick(now).now_or_never().ok_or("a stage did not wait")?;
    let mut view = serde_json::to_value(&decision).map_err(|error| error.to_string())?;
    let weights = weights(controller.plan());
    view["weights"] = serde_json::to_value(weights).map_err(|error| error.to_string())?;
    if let Some(failures) = view["failures"].as_array_mut() {
        let reports = lock(reports).drain(..).collect::<Vec<_>>();
        failures.extend(reports.into_iter().map(|(stage, message)| {
            serde_json::json!({"stage": stage, "code": "stage_failed", "message": message})
        }));
    }
    Ok(view.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
