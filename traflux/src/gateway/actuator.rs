//! How do weights get into the engine?

use std::sync::{Arc, Mutex, PoisonError};

use traflux_core::plan::requests::RequestPlan;
use traflux_core::{ActuateError, Actuator, BoxFuture, InForce, NodeGroup, Receipt, Timestamp, TrafficPlan};
use traflux_gateway::{Engine, GatewayError};

use super::fleet::ENGINE;

/// Puts the rows of plans into an engine in the same process. They are in force when [`apply`](Actuator::apply) returns.
///
/// The engine forgets weights that nobody renews, so that a controller that stopped does not rule for ever:
/// [`renew`](Self::renew) says that the last ones still hold.
#[derive(Debug, Clone)]
pub struct EngineActuator {
    engine: Engine,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    now: Timestamp,
    /// The plan of requests whose rules and backends the weights are for.
    of: Arc<RequestPlan>,
    applied: Option<(TrafficPlan, Timestamp)>,
    moves: bool,
}

impl EngineActuator {
    /// An actuator for the engine's plan in force.
    #[must_use]
    pub fn new(engine: Engine, now: Timestamp) -> Self {
        let of = engine.plan();
        Self { engine, state: Arc::new(Mutex::new(State { now, of, applied: None, moves: true })) }
    }

    /// The same, taking plans without putting them in force: for shadow mode.
    #[must_use]
    pub fn idle(engine: Engine, now: Timestamp) -> Self {
        let actuator = Self::new(engine, now);
        actuator.lock().moves = false;
        actuator
    }

    /// Says what time it is: what is applied from here on is of this age.
    pub fn at(&self, now: Timestamp) {
        self.lock().now = now;
    }

    /// Plans that come from here on are for these rules and backends.
    pub fn follow(&self, plan: Arc<RequestPlan>) {
        self.lock().of = plan;
    }

    /// Says that the weights applied last still hold. Does nothing after a reload that nobody has
    /// [followed](Self::follow).
    pub fn renew(&self) {
        let state = self.lock();
        if let Some((plan, _)) = &state.applied
            && Arc::ptr_eq(&state.of, &self.engine.plan())
        {
            // A reload that came in between has made them out of date.
            let _ = self.put(&state, plan);
        }
    }

    fn put(&self, state: &State, plan: &TrafficPlan) -> Result<(), GatewayError> {
        if !state.moves {
            return Ok(());
        }
        for service in plan.services() {
            for row in service.rows.iter().filter(|row| row.group.0 == ENGINE) {
                let names = service.endpoints.iter().map(|endpoint| endpoint.name.as_str());
                let weights: Vec<(&str, u32)> = names.zip(row.weights.iter().copied()).collect();
                self.engine.set_weights(state.now, &service.name, &weights)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, plan: &TrafficPlan) -> Result<Receipt, ActuateError> {
        let mut state = self.lock();
        let wrong = |reason| ActuateError::Compile { version: plan.version().to_string(), reason };
        if !Arc::ptr_eq(&state.of, &self.engine.plan()) {
            let reason = "the engine's plan was reloaded; these weights are for the rules of the one before";
            return Err(wrong(reason.to_owned()));
        }
        self.put(&state, plan).map_err(|error| wrong(error.to_string()))?;
        let changed = state.applied.as_ref().is_none_or(|(before, _)| before.version() != plan.version());
        if changed {
            state.applied = Some((plan.clone(), state.now));
        }
        Ok(Receipt { version: plan.version().clone(), changed })
    }
}

impl Actuator for EngineActuator {
    /// # Errors
    /// [`ActuateError::Compile`] for weights that were made for an earlier plan of the engine than the one in force, or
    /// for rules or backends that it does not have.
    fn apply<'a>(&'a self, plan: &'a TrafficPlan) -> BoxFuture<'a, Result<Receipt, ActuateError>> {
        Box::pin(std::future::ready(self.take(plan)))
    }

    fn in_force(&self, group: &NodeGroup) -> Option<InForce> {
        let state = self.lock();
        let (plan, since) = state.applied.as_ref().filter(|_| state.moves && group.0 == ENGINE)?;
        Some(InForce { version: plan.version().clone(), since: *since })
    }

    /// An engine in the same process is always there.
    fn is_connected(&self, group: &NodeGroup) -> bool {
        group.0 == ENGINE
    }
}
