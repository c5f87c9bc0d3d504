//! How is a stage in JavaScript asked, and what becomes of an answer that is none?

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use napi::Status;
use napi::bindgen_prelude::FnArgs;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use serde::{Deserialize, Serialize};
use traflux::controller::readings;
use traflux_core::{
    Action, ActuateError, Actuator, BoxFuture, GroupIx, InForce, MetricsSource, NodeGroup, Observation,
    ObserveError, Policy, PolicyError, Receipt, Reward, RewardFunction, Telemetry, Timestamp, Topology,
    TrafficPlan, Window,
};

pub(crate) type Arguments = FnArgs<(f64, String, String)>;
pub(crate) type Ask = ThreadsafeFunction<Arguments, (), Arguments, Status, false, true>;

/// What JavaScript answered: JSON, or what went wrong.
type Answer = std::result::Result<String, String>;

/// The way to stages in JavaScript and back.
pub(crate) struct Bridge {
    pub(crate) ask: Ask,
    calls: Mutex<Calls>,
    deadline: Duration,
}

/// Calls that JavaScript has not answered yet, however late.
#[derive(Default)]
struct Calls {
    last: u64,
    open: HashMap<u64, Call>,
}

struct Call {
    stage: &'static str,
    /// Who waits for it; nobody where it was aborted.
    waiting: Option<Sender<Answer>>,
}

/// Why a stage has no answer.
enum Failed {
    Late,
    /// It has not come back from an earlier call that was late. Two at a time could end in the wrong order.
    Busy,
    Said(String),
}

impl Bridge {
    /// A way through this function, on which no stage takes longer than `deadline`.
    pub(crate) fn new(ask: Ask, deadline: Duration) -> Self {
        Self { ask, calls: Mutex::default(), deadline }
    }

    /// A stage's answer, or what went wrong. One that comes after its deadline has nobody to tell.
    pub(crate) fn answer(&self, number: u64, answer: Answer) {
        let call = lock(&self.calls).open.remove(&number);
        if let Some(sender) = call.and_then(|call| call.waiting) {
            let _ = sender.send(answer);
        }
    }

    /// Lets every stage that is being waited for fail.
    pub(crate) fn abort(&self) {
        for call in lock(&self.calls).open.values_mut() {
            call.waiting = None;
        }
    }

    fn call(&self, stage: &'static str, payload: String) -> std::result::Result<String, Failed> {
        let (sender, receiver): (Sender<Answer>, Receiver<Answer>) = channel();
        let number = {
            let mut calls = lock(&self.calls);
            if calls.open.values().any(|call| call.stage == stage) {
                return Err(Failed::Busy);
            }
            calls.last += 1;
            let number = calls.last;
            calls.open.insert(number, Call { stage, waiting: Some(sender) });
            number
        };
        let arguments = FnArgs::from((number as f64, stage.to_owned(), payload));
        let status = self.ask.call(arguments, ThreadsafeFunctionCallMode::NonBlocking);
        let answer = if status == Status::Ok {
            receiver.recv_timeout(self.deadline)
        } else {
            // It never came to JavaScript, so nothing is to come back.
            lock(&self.calls).open.remove(&number);
            Err(RecvTimeoutError::Disconnected)
        };
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
            Failed::Busy => "still busy with an earlier call that was late".to_owned(),
            Failed::Said(reason) => reason,
        }
    }
}

/// Observe: `collect`.
pub(crate) struct Source(pub(crate) Arc<Bridge>);

impl Source {
    fn ask(&self, topology: &Topology, window: Window) -> std::result::Result<Telemetry, ObserveError> {
        let source_name = || "the source".to_owned();
        let payload = serde_json::json!({
            "atMs": window.at.as_secs_f64() * 1e3,
            "windowMs": window.length.as_secs_f64() * 1e3,
        });
        let text = self.0.call("source", payload.to_string()).map_err(|failed| match failed {
            Failed::Late | Failed::Busy => ObserveError::Timeout {
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
pub(crate) struct Chooser {
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) groups: Vec<String>,
    /// Rewards are paid for what it does, so each action is held for a whole step.
    pub(crate) learns: bool,
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
        self.learns
    }

    fn freezes_when_it_fails(&self) -> bool {
        true
    }
}

/// Failures of stages that cannot fail in Rust.
pub(crate) type Reports = Arc<Mutex<Vec<(&'static str, String)>>>;

/// Reward: `reward`. One that fails pays nothing.
pub(crate) struct Payer {
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) reports: Reports,
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

/// When the tick at hand is: by the caller's clock, where it has one.
pub(crate) type Now = Arc<Mutex<Timestamp>>;

/// Control: `apply`, where there is one; what it took is in force.
pub(crate) struct Applier {
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) asks: bool,
    pub(crate) in_force: Mutex<Option<InForce>>,
    /// When the tick at hand is.
    pub(crate) now: Now,
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
            *in_force = Some(InForce { version: version.clone(), since: *lock(&self.now) });
        }
        Ok(Receipt { version, changed })
    }
}

/// Weights by service, source and endpoint.
pub(crate) fn weights(plan: &TrafficPlan) -> BTreeMap<&str, BTreeMap<&str, BTreeMap<&str, u32>>> {
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
