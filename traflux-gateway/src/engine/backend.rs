//! What is known of a backend, whatever the plan in force?

use std::collections::HashMap;
use std::sync::Arc;

use traflux_core::Timestamp;

use super::settings::EngineSettings;
use crate::balance::EndpointTable;
use crate::congestion::{BackendSignal, Ceiling, ConcurrencyLimit, CoolDown, Throttle};
use crate::error::GatewayError;
use crate::limit::KeyTable;

/// Congestion of one backend and model.
#[derive(Debug)]
pub(super) struct BackendState {
    pub(super) name: Arc<str>,
    pub(super) concurrency: ConcurrencyLimit,
    pub(super) throttle: Throttle,
    pub(super) cool_down: CoolDown,
    pub(super) requests_left: Ceiling,
    pub(super) tokens_left: Ceiling,
    pub(super) signal: BackendSignal,
}

/// State by name: what a reload finds again.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) endpoints: EndpointTable,
    pub(super) tenants: Arc<KeyTable>,
    backends: HashMap<(String, String), Arc<BackendState>>,
}

impl Registry {
    pub(super) fn new(settings: &EngineSettings, _now: Timestamp) -> Result<Self, GatewayError> {
        settings.latency.validate()?;
        settings.concurrency.validate()?;
        settings.throttle.validate()?;
        settings.cool_down.validate()?;
        settings.signal.validate()?;
        settings.feedback.validate()?;
        Ok(Self {
            endpoints: EndpointTable::new(&settings.latency),
            tenants: Arc::new(KeyTable::new(settings.max_keys, settings.seed)),
            backends: HashMap::new(),
        })
    }

    /// The state of a backend and model, if it is known; of the backend where it makes no difference by model.
    pub(super) fn find(&self, name: &str, model: &str) -> Option<&Arc<BackendState>> {
        let of = |model: &str| self.backends.get(&(name.to_owned(), model.to_owned()));
        of(model).or_else(|| of(""))
    }

    /// The state of a backend and model, a new one if there is none yet.
    pub(super) fn backend(
        &mut self,
        name: &str,
        model: &str,
        settings: &EngineSettings,
    ) -> Arc<BackendState> {
        let key = (name.to_owned(), model.to_owned());
        let state = self.backends.entry(key).or_insert_with(|| {
            Arc::new(BackendState {
                name: name.into(),
                concurrency: ConcurrencyLimit::new(&settings.concurrency),
                throttle: Throttle::new(&settings.throttle),
                cool_down: CoolDown::new(settings.cool_down),
                requests_left: Ceiling::default(),
                tokens_left: Ceiling::default(),
                signal: BackendSignal::new(settings.signal),
            })
        });
        Arc::clone(state)
    }
}
