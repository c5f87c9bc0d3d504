//! How does Node close the loop?
//!
//! A tick runs on a thread of its own. Stages that are written in JavaScript are asked through one function of
//! `index.js`, with a number under which the answer comes back; the tick waits for it no longer than its deadline. A stage
//! that throws, answers too late or answers nonsense is an error of that stage, and the controller then does what it
//! does whenever a stage fails: it holds, and its decision says so.

mod stages;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use napi::Result;
use napi::bindgen_prelude::{FnArgs, Function};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;
use traflux::service::{Assembly, Brought, Given};
use traflux::{Config, Controller};
use traflux_core::Timestamp;
use traflux_gateway::adapter::Clock;

use self::stages::{Applier, Arguments, Bridge, Chooser, Now, Payer, Reports, Source, lock, weights};
use crate::errors::{coded, guarded, input};
use crate::request::timestamp;

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
    at: Now,
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
            let brought = Brought { policy: options.policy, ..Brought::default() };
            let assembly = Assembly::new(&config, &brought).map_err(coded)?;
            let built = config.build(&BTreeMap::default()).map_err(coded)?;
            // Weak: it does not keep the process alive, a tick does.
            let ask = ask.build_threadsafe_function().weak::<true>().callee_handled::<false>().build()?;
            let bridge = Arc::new(Bridge::new(ask, deadline));
            let reports = Reports::default();
            let topology = Arc::clone(&built.fleet.topology);
            let (clock, at) = (Clock::start(), Now::default());
            let applier = Applier {
                bridge: Arc::clone(&bridge),
                asks: options.actuator,
                in_force: Mutex::default(),
                now: Arc::clone(&at),
            };
            let mut given = Given {
                source: Box::new(Source(Arc::clone(&bridge))),
                actuator: Box::new(applier),
                estimator: None,
                policy: None,
                reward: None,
                recorder: None,
            };
            if options.policy {
                let groups = topology.groups().iter().map(|group| group.name.clone()).collect();
                let (bridge, learns) = (Arc::clone(&bridge), options.reward);
                given.policy = Some(Box::new(Chooser { bridge, groups, learns }));
            }
            if options.reward {
                let (bridge, reports) = (Arc::clone(&bridge), Arc::clone(&reports));
                given.reward = Some(Box::new(Payer { bridge, topology, reports }));
            }
            let controller = assembly.controller(built, given).map_err(coded)?;
            Ok(Self { controller: Arc::new(Mutex::new(controller)), bridge, reports, clock, at })
        })
    }

    /// Goes once around on a thread of its own; the decision comes through `ask` under `number`.
    #[napi]
    pub fn tick(&self, number: f64, now_ms: f64) -> Result<()> {
        guarded(|| {
            let now = if now_ms.is_nan() { self.clock.now() } else { timestamp(now_ms)? };
            let (controller, bridge) = (Arc::clone(&self.controller), Arc::clone(&self.bridge));
            let (reports, at) = (Arc::clone(&self.reports), Arc::clone(&self.at));
            let run = move || {
                let ticked = catch_unwind(AssertUnwindSafe(|| tick(&controller, &reports, &at, now)));
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
    pub fn answer(&self, number: f64, text: Option<String>, error: Option<String>) -> Result<()> {
        guarded(|| {
            let text = text.ok_or_else(|| error.unwrap_or_else(|| "it answered nothing".to_owned()));
            self.bridge.answer(number as u64, text);
            Ok(())
        })
    }

    /// Lets every stage that is being waited for fail.
    #[napi]
    pub fn abort(&self) -> Result<()> {
        guarded(|| {
            self.bridge.abort();
            Ok(())
        })
    }
}

fn tick(
    controller: &Mutex<Controller>,
    reports: &Reports,
    at: &Now,
    now: Timestamp,
) -> std::result::Result<String, String> {
    let mut controller = lock(controller);
    lock(reports).clear();
    *lock(at) = now;
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
