//! Where does this request go, now or later, and if nowhere, why?
//!
//! [`Engine::decide`] takes a request through the whole plan, in this order:
//!
//! 1. **rule**: the first that matches ([`Matcher`](crate::rule::Matcher)), else the default route, else 404;
//! 2. **pick**: one of the route's endpoints that serve the model, are healthy and have room, by session or by
//!    the rule's algorithm; then the fall-back route's;
//! 3. **room**: a place in flight at that backend (adaptive limit, cool-down, what the provider says is left);
//! 4. **limits**: all that hold for the request, reserved at once, by upper bounds;
//! 5. otherwise the **queue**, where the plan has one, or a refusal that says when to come back.
//!
//! A [`Forward`] is the answer's side: [`first_byte`](Forward::first_byte), then [`finish`](Forward::finish) or
//! [`retry`](Forward::retry). It settles every limit with what was used, exactly once; one that is dropped counts as
//! cancelled.
//!
//! Time and the order of calls are the only inputs besides requests: an engine with the same seed that is called in
//! the same order decides the same, to the bit. The engine does no I/O and never waits; adapters do.

mod admission;
mod backend;
mod compile;
mod counters;
mod decision;
mod explain;
mod forward;
mod levels;
mod logged;
mod probing;
mod queues;
mod readings;
mod scrape;
mod settings;
mod upkeep;
mod waiting;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;

pub use decision::{Decision, Reason, Refusal};
pub use explain::{CandidateTrace, Explanation, LimitTrace, RuleTrace};
pub use forward::{End, Forward, Later};
pub use probing::{ProbeQuestion, ProbeStatus};
pub use queues::{QueueReading, QueuedReading, WaitingLoad};
pub use readings::BackendReading;
pub use settings::EngineSettings;
pub use waiting::Waiting;

use crate::affinity::AffinityKey;
use crate::congestion::LoadReport;
use crate::decision_log::entry::Call;
use crate::decision_log::{DecisionLog, LogSettings, Turn};
use crate::error::GatewayError;
use crate::request::Request;
use crate::rng::split_mix;
use admission::MOST_KEYS;
use backend::Registry;
use compile::Compiled;

/// Decides for every request; shared by all threads. A clone is the same engine.
#[derive(Clone)]
pub struct Engine {
    compiled: Arc<ArcSwap<Compiled>>,
    shared: Arc<Shared>,
}

/// What outlives a reload. Every plan in force has it, so that whoever holds a plan needs nothing else.
pub(crate) struct Shared {
    /// What works on all that is known takes it, so that reloads and upkeep come one after another: those, probes,
    /// scrapes and readings. Never taken on the path of a request unless calls are logged.
    registry: Mutex<Registry>,
    /// Counts decisions; the random numbers of each are made of it.
    decisions: AtomicU64,
    seed: u64,
    log: Option<Box<DecisionLog>>,
    /// Of upkeep and scrapes; never taken on the path of a request.
    watch: Mutex<watch::Watch>,
}

impl Engine {
    /// An engine for a plan.
    ///
    /// # Errors
    /// [`GatewayError`] for what the plan or the settings cannot mean, with the path of the key.
    pub fn new(plan: &RequestPlan, settings: &EngineSettings, now: Timestamp) -> Result<Self, GatewayError> {
        Self::build(plan, settings, None, now)
    }

    /// An engine whose calls are recorded, see [`decision_log`](crate::decision_log).
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`GatewayError::DecisionLog`] for settings that cannot be written down.
    pub fn with_log(
        plan: &RequestPlan,
        settings: &EngineSettings,
        log: &LogSettings,
        now: Timestamp,
    ) -> Result<Self, GatewayError> {
        let log = DecisionLog::new(plan, settings, log, now)?;
        Self::build(plan, settings, Some(Box::new(log)), now)
    }

    fn build(
        plan: &RequestPlan,
        settings: &EngineSettings,
        log: Option<Box<DecisionLog>>,
        now: Timestamp,
    ) -> Result<Self, GatewayError> {
        settings.validate()?;
        let shared = Arc::new(Shared {
            registry: Mutex::new(Registry::new(plan, settings, now)?),
            decisions: AtomicU64::new(0),
            seed: settings.seed,
            log,
            watch: Mutex::default(),
        });
        let mut registry = shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled = Compiled::new(plan, settings, &shared, &mut registry, None, now)?;
        registry.probes.follow(&compiled, now);
        let engine =
            Self { compiled: Arc::new(ArcSwap::from_pointee(compiled)), shared: Arc::clone(&shared) };
        engine.adapt(&mut registry, now);
        Ok(engine)
    }

    /// Puts another plan in force. Levels of limits that stay, estimates of endpoints that stay and everything in
    /// flight go on; requests that wait go on by the plan under which they came. A key that gets an amount of its own
    /// (`overrides`), or loses it, has used what it had used, with requests in flight as they were estimated.
    ///
    /// # Errors
    /// As [`new`](Self::new); the old plan then stays in force.
    pub fn reload(
        &self,
        plan: &RequestPlan,
        settings: &EngineSettings,
        now: Timestamp,
    ) -> Result<(), GatewayError> {
        let Some(log) = &self.shared.log else { return self.reload_now(plan, settings, now) };
        let mut turn = log.begin();
        let result = self.reload_now(plan, settings, now);
        turn.reloaded(plan, settings, result.is_ok(), now);
        result
    }

    fn reload_now(
        &self,
        plan: &RequestPlan,
        settings: &EngineSettings,
        now: Timestamp,
    ) -> Result<(), GatewayError> {
        settings.validate()?;
        let mut registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.compiled.load_full();
        // A plan may be refused after its states were made: they would be those of the next one.
        let known = registry.known();
        let compiled = match Compiled::new(plan, settings, &self.shared, &mut registry, Some(&before), now) {
            Ok(compiled) => compiled,
            Err(error) => {
                registry.put_back(known);
                before.drain();
                return Err(error);
            }
        };
        // Positions mean others from here on.
        registry.adaptive.clear();
        registry.probes.follow(&compiled, now);
        compiled.take_over(&before, now);
        self.compiled.store(Arc::new(compiled));
        // New pools begin with the weights of the plan: prices count at once, a controller's weights go on without a gap.
        self.adapt(&mut registry, now);
        Ok(())
    }

    /// The settings in force: those of the start or of the last reload.
    #[must_use]
    pub fn settings(&self) -> Arc<EngineSettings> {
        Arc::clone(&self.compiled.load().settings)
    }

    /// Decides. Allocates nothing once tenants and keys have been seen.
    pub fn decide(&self, request: &Request<'_>, now: Timestamp) -> Decision {
        match &self.shared.log {
            None => self.decide_now(request, now),
            Some(log) => logged::decide(self, log, request, now),
        }
    }

    /// Decides about a request of which only the keys of its session are known.
    pub(crate) fn decide_in_session(
        &self,
        request: &Request<'_>,
        session: impl Iterator<Item = AffinityKey>,
        now: Timestamp,
    ) -> Decision {
        let compiled = self.compiled.load_full();
        match compiled.admit(request, now) {
            Ok(mut admission) => {
                if compiled.keeps_sessions(&admission) {
                    admission.session = session.take(MOST_KEYS).collect();
                }
                forward::decide(compiled, admission, now)
            }
            Err(refused) => compiled.turn_away(refused),
        }
    }

    fn decide_now(&self, request: &Request<'_>, now: Timestamp) -> Decision {
        let compiled = self.compiled.load_full();
        match compiled.admit(request, now) {
            Ok(admission) => forward::decide(compiled, admission, now),
            Err(refused) => compiled.turn_away(refused),
        }
    }

    /// Takes in what a backend measures of itself: ORCA, or the metrics of its server.
    pub fn report_load(&self, now: Timestamp, backend: &str, model: &str, report: LoadReport) {
        self.shared.report_load(now, backend, model, report);
    }

    /// The plan in force.
    #[must_use]
    pub fn plan(&self) -> Arc<RequestPlan> {
        Arc::clone(&self.compiled.load().plan)
    }

    /// The record of its calls; none unless it was made [with one](Self::with_log).
    #[must_use]
    pub fn decision_log(&self) -> Option<&DecisionLog> {
        self.shared.log.as_deref()
    }

    /// What [`decide`](Self::decide) would look at and what it would find, without changing anything.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>, now: Timestamp) -> Explanation {
        if let Some(log) = &self.shared.log {
            return logged::explain(self, log, request, now);
        }
        self.compiled.load().explain(request, now)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let decisions = self.shared.decisions.load(Ordering::Relaxed);
        f.debug_struct("Engine").field("decisions", &decisions).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let decisions = self.decisions.load(Ordering::Relaxed);
        f.debug_struct("Shared").field("decisions", &decisions).finish_non_exhaustive()
    }
}

impl Shared {
    /// The turn of a call that answers nothing, where there is a log.
    fn turn<'a>(&self, now: Timestamp, call: impl FnOnce() -> Call<'a>) -> Option<Turn<'_>> {
        self.log.as_deref().map(|log| log.turn(call(), Some(now)))
    }

    fn report_load(&self, now: Timestamp, backend: &str, model: &str, report: LoadReport) {
        let _turn = self.turn(now, || Call::Load { backend: backend.into(), model: model.into(), report });
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = registry.find(backend, model) {
            state.report_load(now, report);
        }
    }

    /// 64 random bits for the next decision.
    fn draw(&self) -> u64 {
        let mut state =
            self.seed ^ self.decisions.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        split_mix(&mut state)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_an_answer_says_of_load_does_not_wait_for_a_reload() {
        let plan = r#"{"routing": {"default": {"backend": "a"}}, "queue": {"max_waiting": 0}}"#;
        let plan: RequestPlan = serde_json::from_str(plan).unwrap_or_else(|e| panic!("{e}"));
        let now = Timestamp::new(Duration::from_secs(1));
        let engine = Engine::new(&plan, &EngineSettings::default(), now).unwrap_or_else(|e| panic!("{e}"));
        let decide = || engine.decide(&Request::default(), now);
        let Decision::Forward(forward) = decide() else { panic!("it was not forwarded") };
        let reloading = engine.shared.registry.lock();
        let (told, hears) = mpsc::channel();
        std::thread::spawn(move || {
            let full = LoadReport { waiting: Some(500.0), ..LoadReport::default() };
            forward.report_load(now, "", full);
            told.send(forward)
        });
        let forward = hears.recv_timeout(Duration::from_secs(10));
        assert!(forward.is_ok(), "it waited");
        drop(reloading);
        assert!(matches!(decide(), Decision::Refuse(_)), "the backend said that it is full");
    }
}
