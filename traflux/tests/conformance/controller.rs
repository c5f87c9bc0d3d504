//! The loop, with the source and the policy of a case.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use traflux::Config;
use traflux::controller::readings;
use traflux::service::{Assembly, Brought, Given};
use traflux_core::{
    Action, ActuateError, Actuator, BoxFuture, GroupIx, InForce, MetricsSource, NodeGroup, Observation,
    ObserveError, Policy, PolicyError, Receipt, Telemetry, Timestamp, Topology, TrafficPlan, Window,
};

use crate::case::{Fields, Gave};

/// What the case says of this tick.
type Now = Arc<Mutex<Value>>;

struct Source(Now);

impl Source {
    fn read(&self, topology: &Topology, at: Timestamp, window: Duration) -> Result<Telemetry, ObserveError> {
        let telemetry = self.0.lock().unwrap()["telemetry"].clone();
        let read = match telemetry {
            Value::Null => Err("nothing measured".to_owned()),
            telemetry => readings::read(&telemetry.to_string(), topology, at, window),
        };
        read.map_err(|reason| ObserveError::BadAnswer { source_name: "the source".into(), reason })
    }
}

impl MetricsSource for Source {
    fn collect<'a>(
        &'a self,
        topology: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, Result<Telemetry, ObserveError>> {
        Box::pin(async move { self.read(topology, window.at, window.length) })
    }
}

struct Chooser(Now, Vec<String>);

impl Policy for Chooser {
    fn act(&mut self, _: &Observation) -> Result<Action, PolicyError> {
        let failed = |reason: &str| PolicyError::Failed { reason: reason.to_owned() };
        let critical = self.0.lock().unwrap()["critical"].clone();
        let names: Vec<String> = serde_json::from_value(critical).map_err(|_| failed("no idea"))?;
        let group = |name: &String| self.1.iter().position(|group| group == name).map(GroupIx::from);
        let groups = names.iter().map(group).collect::<Option<_>>().ok_or_else(|| failed("nobody"))?;
        Ok(Action::choose(groups))
    }

    fn holds(&self) -> bool {
        false
    }

    fn freezes_when_it_fails(&self) -> bool {
        true
    }
}

/// Takes every plan.
struct Hand;

impl Actuator for Hand {
    fn apply<'a>(&'a self, plan: &'a TrafficPlan) -> BoxFuture<'a, Result<Receipt, ActuateError>> {
        Box::pin(async move { Ok(Receipt { version: plan.version().clone(), changed: true }) })
    }

    fn in_force(&self, _: &NodeGroup) -> Option<InForce> {
        None
    }

    fn is_connected(&self, _: &NodeGroup) -> bool {
        true
    }
}

/// The configuration of a case, with what it names read and checked.
fn assembly_of(value: &Value, brought: &Brought) -> Result<(Config, Assembly), (&'static str, bool)> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let config = Config::parse_for_any_source(&text).map_err(|error| (error.code(), error.is_transient()))?;
    let assembly = Assembly::new(&config, brought).map_err(|error| (error.code(), error.is_transient()))?;
    Ok((config, assembly))
}

pub(crate) fn config_error(input: &mut Fields<'_>) -> Gave {
    assembly_of(input.take("config").unwrap(), &Brought::default()).map(|_| Value::Null)
}

pub(crate) fn ticks(input: &mut Fields<'_>) -> Gave {
    let config = input.take("config").unwrap();
    let ticks = input.take("ticks").unwrap().as_array().unwrap();
    let has_policy = ticks.iter().any(|tick| tick.get("critical").is_some());
    let (config, assembly) = assembly_of(config, &Brought { policy: has_policy, ..Brought::default() })?;
    let built = config.build(&BTreeMap::default()).unwrap();
    let topology = Arc::clone(&built.fleet.topology);
    let now: Now = Arc::default();
    let groups = || topology.groups().iter().map(|group| group.name.clone()).collect();
    let given = Given {
        source: Box::new(Source(Arc::clone(&now))),
        actuator: Box::new(Hand),
        estimator: None,
        policy: has_policy.then(|| Box::new(Chooser(Arc::clone(&now), groups())) as Box<dyn Policy>),
        reward: None,
        recorder: None,
    };
    let mut controller = assembly.controller(built, given).unwrap();
    let mut seen = Vec::new();
    for tick in ticks {
        now.lock().unwrap().clone_from(tick);
        let mut fields = Fields::of(tick);
        let at = Timestamp::from_secs_f64(fields.number("at_s").unwrap());
        // The source and the policy read these.
        for key in ["telemetry", "critical"] {
            fields.take(key);
        }
        fields.all_read("a tick");
        let decision = controller.tick(at).now_or_never().unwrap();
        let mut shares = BTreeMap::new();
        let mut weights: BTreeMap<&str, BTreeMap<&str, u32>> = BTreeMap::new();
        for flow in &decision.flows {
            for (endpoint, share) in &flow.shares {
                shares.insert(format!("{}/{endpoint}", flow.source), *share);
            }
            let row = flow.weights.iter().map(|(endpoint, weight)| (endpoint.as_str(), *weight));
            weights.insert(&flow.source, row.collect());
        }
        let failures: Vec<_> = decision.failures.iter().map(|one| json!([one.stage, one.code])).collect();
        seen.push(json!({
            "rung": serde_json::to_value(decision.rung).unwrap()["rung"],
            "pushed": decision.pushed, "shares": shares, "weights": weights, "failures": failures,
            "mode": decision.mode.name(), "solver": decision.solver.as_ref().map(|solver| &solver.name),
            "chosen": decision.action.as_ref().map(|action| &action.chosen),
        }));
    }
    Ok(json!({"ticks": seen}))
}
